"""How long a sweep takes on so many workers, from what one task costs: a simulation, event by event.

One process drives: it hands out tasks, takes rows, and forces each to disk. Everything else happens at the workers at
once, so the driver and its network link are what a large cluster waits for in the end (Amdahl 1967, AFIPS 30).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whisperlab.errors import ConfigurationError


@dataclass(slots=True, frozen=True)
class Costs:
    """What a sweep costs beside its computing, in seconds and bytes; all of it is there to be measured.

    ``start_s`` is a worker's start with its model; ``driver_s`` what the driver does for a task, one after the other:
    hand it out, take its row, force it to disk; ``sent_bytes`` and ``returned_bytes`` are those of a task over the
    driver's link, ``luggage_bytes`` what a worker gets once besides, such as audio through an object store.
    """

    start_s: float = 0.0
    driver_s: float = 0.0
    sent_bytes: float = 0.0
    returned_bytes: float = 0.0
    luggage_bytes: float = 0.0
    link_bytes_s: float = float("inf")

    def __post_init__(self) -> None:
        given = (self.start_s, self.driver_s, self.sent_bytes, self.returned_bytes, self.luggage_bytes)
        if min(given) < 0 or not self.link_bytes_s > 0:
            raise ConfigurationError(f"costs are at least 0 and a link is faster than that, got {self}")


@dataclass(slots=True, frozen=True)
class Run:
    """A simulated sweep: its length, and how much of it the workers, the driver and the link were busy (0 to 1)."""

    seconds: float
    workers_busy: float
    driver_busy: float
    link_busy: float


class _Queue:
    """Something that serves one after the other."""

    __slots__ = ("busy", "free_at")

    def __init__(self) -> None:
        self.free_at = self.busy = 0.0

    def serve(self, at: float, seconds: float) -> float:
        """When a request that comes ``at`` is done."""
        self.free_at = max(self.free_at, at) + seconds
        self.busy += seconds
        return self.free_at


def simulate(task_s: Sequence[float], n_workers: int, costs: Costs) -> Run:
    """A sweep of tasks that compute so long, given out in their order to whoever is free.

    Raises ConfigurationError for no tasks, no workers, or a task of negative length.
    """
    if not task_s or n_workers < 1 or min(task_s) < 0:
        raise ConfigurationError(
            f"a simulation needs tasks of at least 0 s and a worker, got {len(task_s)} tasks, {n_workers} workers"
        )
    driver, link, end = _Queue(), _Queue(), 0.0
    n_workers = min(n_workers, len(task_s))
    wanted: list[tuple[float, int, bool]] = [(0.0, worker, False) for worker in range(n_workers)]
    waiting = iter(task_s)
    while wanted:  # a worker asks: for its first task, or with a result for the next one
        at, worker, has_result = heapq.heappop(wanted)
        if has_result:
            at = link.serve(at, costs.returned_bytes / costs.link_bytes_s)
            at = end = driver.serve(at, costs.driver_s)
        task = next(waiting, None)
        if task is None:
            continue
        luggage = 0.0 if has_result else costs.luggage_bytes
        begun = link.serve(at, (costs.sent_bytes + luggage) / costs.link_bytes_s)
        begun += 0.0 if has_result else costs.start_s
        heapq.heappush(wanted, (begun + task, worker, True))
    return Run(end, sum(task_s) / (n_workers * end) if end else 0.0, *_shares(end, driver, link))


def _shares(end: float, *queues: _Queue) -> Iterable[float]:
    return (queue.busy / end if end else 0.0 for queue in queues)

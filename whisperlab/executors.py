"""Where the tasks of a sweep are worked on: in this process, in several of this machine, or on a Ray cluster.

An executor takes tasks and gives their rows back as they are done, in any order. Work is described by a *factory*: it
is called once in each worker, loads what is heavy, and returns the function that does a task. Workers write traces;
rows are written by the one process that drives the sweep, so the records are the same whoever worked.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Generic, Protocol, TypeVar

from whisperlab.errors import ConfigurationError, MissingDependencyError

Task = TypeVar("Task")
Result = TypeVar("Result")
Done = TypeVar("Done", covariant=True)
Work = Callable[[Task], Result]

ATTEMPTS = 3  # times a task may take its worker with it before it counts as failed

_log = logging.getLogger(__name__)
_worker: dict[str, Any] = {}  # in a worker: its factory, and the work that made once the first task came


class Lost:
    """The result of a task whose workers died with it every time."""

    __slots__ = ("attempts",)

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts


def _again(waiting: deque[tuple[Task, int]], task: Task, attempt: int) -> Lost | None:
    """Put a task whose worker died before all others, or give it up."""
    if attempt >= ATTEMPTS:
        return Lost(attempt)
    _log.warning("a worker died; its task is tried again (%d of %d)", attempt + 1, ATTEMPTS)
    waiting.appendleft((task, attempt + 1))
    return None


class Executor(Protocol[Task, Done]):
    """Does tasks, and gives each back with its result, or `Lost`, when it is done."""

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Done | Lost], None, None]:
        """Closing the iterator, or an error in whoever reads it, stops the workers."""


class InProcess(Generic[Task, Result]):
    """One task after the other, here."""

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """In the order given."""
        work = self._factory()
        for task in tasks:
            yield task, work(task)


class LocalProcesses(Generic[Task, Result]):
    """Several processes of this machine, each with so many threads inside an operator that all cores have one.

    A worker that dies, whatever killed it, is replaced and its task tried again, `ATTEMPTS` times. Ctrl-C reaches only
    the process that drives.

    Args:
        factory: importable by name, or `functools.partial` of such a function.
        n_workers: processes.
        threads: inside an operator, for each; None shares the cores among the workers.
    """

    def __init__(
        self,
        factory: Callable[[], Work[Task, Result]],
        n_workers: int,
        *,
        threads: int | None = None,
    ) -> None:
        if n_workers < 1:
            raise ConfigurationError(f"a sweep needs at least one worker, got {n_workers}")
        self._factory, self._n_workers = factory, n_workers
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // n_workers)

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """In the order in which they are done."""
        waiting = deque((task, 1) for task in tasks)
        pools = [self._pool() for _ in range(min(self._n_workers, len(tasks)))]
        busy: dict[Future[Result], tuple[int, Task, int]] = {}

        def employ(place: int) -> None:
            if waiting:
                task, attempt = waiting.popleft()
                busy[pools[place].submit(_do, task)] = place, task, attempt

        try:
            for place in range(len(pools)):
                employ(place)
            while busy:
                finished, _ = wait(busy, return_when=FIRST_COMPLETED)
                for future in finished:
                    place, task, attempt = busy.pop(future)
                    result: Result | Lost | None = None
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        pools[place].shutdown(wait=False)
                        pools[place] = self._pool()
                        result = _again(waiting, task, attempt)
                    employ(place)
                    if result is not None:
                        yield task, result
        finally:
            for pool in pools:
                _end(pool)

    def _pool(self) -> ProcessPoolExecutor:
        """One worker: when it dies, no other is touched."""
        return ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_begin, initargs=(self._threads, self._factory)
        )


def _begin(threads: int, factory: Callable[[], Work[Any, Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    _worker["factory"] = factory


def _do(task: Any) -> Any:
    """In a worker: the factory's work, made when the first task comes, so that its errors are those of a task."""
    if "work" not in _worker:
        _worker["work"] = _worker["factory"]()
    return _worker["work"](task)


def _end(pool: ProcessPoolExecutor) -> None:
    """Let a worker go at once, whatever it is doing."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()


class RayCluster(Generic[Task, Result]):
    """Actors of a Ray cluster, each with the factory's work made once.

    Audio is read by path: all nodes must see the same files. A worker that dies, alone or with its node, is replaced
    where there is room and its task tried again, `ATTEMPTS` times.

    Args:
        factory: importable by name on every node, or `functools.partial` of such a function.
        address: ``HOST:PORT`` of a running cluster, or ``auto`` for the one this machine belongs to, else a new one.
        n_workers: actors; None is one for each processor of the cluster.
    """

    def __init__(
        self, factory: Callable[[], Work[Task, Result]], address: str = "auto", n_workers: int | None = None
    ) -> None:
        self._factory, self._address, self._n_workers = factory, address, n_workers

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """In the order in which they are done."""
        ray = _ray()
        started = _join(ray, self._address)
        actor = ray.remote(num_cpus=1)(_Actor)
        n_workers = self._n_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = deque((task, 1) for task in tasks)
        busy: dict[Any, tuple[Any, Task, int]] = {}

        def employ(one: Any) -> None:
            task, attempt = waiting.popleft()
            busy[one.do.remote(task)] = one, task, attempt

        try:
            for _ in range(min(n_workers, len(tasks))):
                employ(actor.remote(self._factory))
            while busy:
                (done,), _ = ray.wait(list(busy), num_returns=1)
                one, task, attempt = busy.pop(done)
                result: Result | Lost | None = None
                try:
                    result = ray.get(done)
                except ray.exceptions.RayActorError:
                    result = _again(waiting, task, attempt)
                    # Where its node died with it there may be no room for another.
                    one = actor.remote(self._factory) if not busy or _has_room(ray) else None
                if waiting and one is not None:
                    employ(one)
                if result is not None:
                    yield task, result
        finally:
            for one, _, _ in busy.values():
                ray.kill(one)
            if started:
                ray.shutdown()


def _has_room(ray: Any, patience_s: float = 5.0) -> bool:
    """Whether the cluster has a processor free; a dead worker's is not at once."""
    until = time.monotonic() + patience_s
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


class _Actor:
    """A worker of the cluster."""

    def __init__(self, factory: Callable[[], Work[Any, Any]]) -> None:
        import torch

        torch.set_num_threads(1)
        self._work = factory()

    def do(self, task: Any) -> Any:
        return self._work(task)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("a cluster needs ray: pip install 'whisperlab[ray]'") from error
    return ray


def _join(ray: Any, address: str) -> bool:
    """Connect to a cluster, or start one here; whether this process must leave it again."""
    if ray.is_initialized():
        return False
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for minutes, and end the process
            socket.create_connection((host, int(port)), 5).close()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError:
        if address != "auto":
            raise
        ray.init(log_to_driver=False, include_dashboard=False, _node_ip_address="127.0.0.1")
    return True

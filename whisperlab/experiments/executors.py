"""Where the tasks of a sweep are worked on: in this process, in several of this machine, or on a Ray cluster.

An executor takes tasks and gives their rows back as they are done, in any order. Work is described by a *factory*: it
is called once in each worker of a cluster, and once for all processes of this machine, loads what is heavy, and returns
the function that does a task. Workers write traces; rows are written by the one process that drives the sweep.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

from whisperlab.experiments.worker_pool import Memory, Nursery, Work, Worker, WorkerDiedError
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, brief

Task = TypeVar("Task")
Result = TypeVar("Result")
Done = TypeVar("Done", covariant=True)

ATTEMPTS = 3  # times a task may take its worker with it before it counts as failed

_log = logging.getLogger(__name__)


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


def idle() -> Work[Any, Any]:
    """Work that does nothing, to measure what a task costs besides."""
    return lambda task: task


def seconds_a_task(executor: Executor[int, int], n: int) -> float:
    """What one of ``n`` tasks costs an executor of `idle`, the first third left out: it waits for workers to start."""
    done = []
    for task, result in executor.run(range(n)):
        if result != task:
            raise WorkerDiedError(f"task {task} came back as {result!r}")
        done.append(time.perf_counter())
    late = done[n // 3 :]
    return (late[-1] - late[0]) / (len(late) - 1)


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
    """Several processes of this machine.

    The work is made once and its weights are shared (`worker_pool`). A worker that dies, whatever killed it, is
    replaced and its task tried again, `ATTEMPTS` times in all. Only a worker that had a task counts: the death of the
    process that workers are forked from, or of a worker not yet ready, costs no attempt. Ctrl-C reaches only the
    driver process. ``memory`` is what all of them occupied when the last tasks were under way.

    Args:
        factory: importable by name, or `functools.partial` of such a function.
        n_workers: processes.
    """

    def __init__(self, factory: Callable[[], Work[Task, Result]], n_workers: int) -> None:
        if n_workers < 1:
            raise ConfigurationError(f"a sweep needs at least one worker, got {n_workers}")
        self._factory, self._n_workers = factory, n_workers
        self.memory: Memory | None = None

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """In the order in which they are done."""
        waiting = deque((task, 1) for task in tasks)
        # Each worker with its task and which attempt that is; None before the worker is ready.
        busy: dict[Any, tuple[Worker[Task, Result], tuple[Task, int] | None]] = {}
        self.memory = None

        def employ(worker: Worker[Task, Result]) -> None:
            if waiting:
                task, attempt = waiting.popleft()
                worker.give(task)
                busy[worker.desk] = worker, (task, attempt)

        with Nursery(self._factory) as nursery:
            for _ in range(min(self._n_workers, len(tasks))):
                worker = nursery.hire()
                busy[worker.desk] = worker, None
            left = len(tasks)
            while left:
                for desk in wait(list(busy)):
                    worker, given = busy.pop(desk)
                    result: Result | Lost | None = None
                    try:
                        if given:
                            result = worker.result()
                        else:
                            worker.wait()
                    except WorkerDiedError:
                        result = _again(waiting, *given) if given else None
                        if waiting:
                            worker = nursery.hire()
                            busy[worker.desk] = worker, None
                    else:
                        employ(worker)
                    if not waiting and self.memory is None:
                        self.memory = nursery.memory()
                    if given and result is not None:
                        left -= 1
                        yield given[0], result


class RayCluster(Generic[Task, Result]):
    """Actors of a Ray cluster, each with the factory's work made once.

    All nodes must see the same files, unless there is ``luggage``. A worker that dies, alone or with its node, is
    replaced where there is room and its task tried again, `ATTEMPTS` times in all.

    Args:
        factory: importable by name on every node, or `functools.partial` of such a function.
        address: ``HOST:PORT`` of a running cluster, or ``auto`` for the one this machine belongs to.
        n_workers: actors; None is one for each processor of the cluster.
        luggage: what a task needs that nodes do not have, with a name: sent through the object store once for each
            name, however many tasks ask for it, and given to the work as its second argument.
        say: told where the cluster is and how to look at it.
    """

    def __init__(
        self,
        factory: Callable[[], Callable[..., Result]],
        address: str = "auto",
        n_workers: int | None = None,
        *,
        luggage: Callable[[Task], tuple[str, Callable[[], object]]] | None = None,
        say: Callable[[str], object] = _log.info,
    ) -> None:
        self._factory, self._address, self._n_workers = factory, address, n_workers
        self._luggage, self._say = luggage, say

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """In the order in which they are done."""
        ray = _ray()
        started, dashboard = _join(ray, self._address)
        self._say(_whereabouts(ray, dashboard))
        actor = ray.remote(num_cpus=1)(_Actor)
        n_workers = self._n_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = deque((task, 1) for task in tasks)
        busy: dict[Any, tuple[Any, Task, int]] = {}
        sent: dict[str, Any] = {}

        def employ(one: Any) -> None:
            task, attempt = waiting.popleft()
            busy[one.do.remote(task, *packed(task))] = one, task, attempt

        def packed(task: Task) -> list[Any]:
            if self._luggage is None:
                return []
            name, thing = self._luggage(task)
            if name not in sent:
                sent[name] = ray.put(thing())
            return [sent[name]]

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
        self._work = factory()

    def do(self, task: Any, *luggage: Any) -> Any:
        return self._work(task, *luggage)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("a cluster needs ray: pip install 'whisperlab[ray]'") from error
    return ray


_ADVICE = (
    "one started with RAY_AUTH_MODE=token in the environment lets in who has the token that "
    "`ray get-auth-token --generate` writes, and the same setting"
)


def _join(ray: Any, address: str) -> tuple[bool, str]:
    """Connect to a cluster: whether this process must leave it again, and the address of its dashboard, if any.

    None is started here: its ports would be open to the network, and whoever reaches them can run what they like.
    """
    if ray.is_initialized():
        return False, ""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for minutes, and end the process
            socket.create_connection((host, int(port)), 5).close()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        return True, ray.init(address=address, log_to_driver=False).dashboard_url or ""
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            told = "no Ray cluster runs on this machine; `ray start --head` makes one, open to the network"
        else:
            where = "of this machine" if address == "auto" else f"at {address}"
            told = f"the Ray cluster {where} did not let this process in: {brief(error)}"
        raise ConfigurationError(f"{told}; {_ADVICE}") from error


def _whereabouts(ray: Any, dashboard: str) -> str:
    """How large the cluster is, and how to look at it."""
    alive = sum(node["Alive"] for node in ray.nodes())
    processors = int(ray.cluster_resources().get("CPU", 0))
    address = ray.get_runtime_context().gcs_address
    look = (
        f"http://{dashboard}"
        if dashboard
        else f"`ray status --address {address}` (ray[default] has a dashboard)"
    )
    return f"Ray cluster at {address}: {alive} nodes, {processors} processors; {look} shows what they do"

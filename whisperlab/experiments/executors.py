"""Where the tasks of a sweep run besides this process: in several processes of this machine, or on a Ray cluster.

An executor is a function from tasks to a generator of each task with its result when it is done, in any order; closing
the generator stops the workers. A *factory* is called once per worker, loads the model, and returns the function that
does a task. It is importable by name, or `functools.partial` of such a function. Workers write traces; only the driver
writes rows.

A worker is a `concurrent.futures.ProcessPoolExecutor` of one process: when a process dies, its executor fails as a
whole, so a death costs exactly the task of that worker. Workers are started with *spawn*, without the driver's locks.
"""

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from types import ModuleType
from typing import Any, Generic, NamedTuple, NoReturn, TypeAlias, TypeVar

from whisperlab.util.errors import ConfigurationError, brief, needs
from whisperlab.util.process import safe_path
from whisperlab.util.threads import no_interrupts

Task = TypeVar("Task")
Result = TypeVar("Result")
Factory: TypeAlias = Callable[[], Callable[[Task], Result]]

ATTEMPTS = 3  # of a task whose worker dies

WorkerDiedError = BrokenProcessPool  # the exception of the future of a task whose process died

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Lost:
    """The result of a task whose worker died on every attempt."""

    attempts: int


Results: TypeAlias = Generator[tuple[Task, Result | Lost], None, None]
Executor: TypeAlias = Callable[[Sequence[Task]], Results[Task, Result]]
AnyWorker: TypeAlias = "Worker[Task, Result] | _RayWorker[Task, Result]"


def local_processes(factory: Factory[Task, Result], n_workers: int, tasks: Sequence[Task]) -> Results[Task, Result]:
    """Several processes of this machine, each with its own model. Ctrl-C reaches only the driver process."""
    if n_workers < 1:
        raise ConfigurationError(f"a sweep needs at least one worker, got {n_workers}")
    return _run_on(lambda: Worker(factory), n_workers, tasks, WorkerDiedError)


def ray_cluster(
    factory: Factory[Task, Result],
    address: str,  # HOST:PORT of a running cluster; auto: that of this machine
    n_workers: int | None,  # actors; None: one per processor of the cluster
    tasks: Sequence[Task],
    *,
    say: Callable[[str], object] = _log.info,  # called with the address and the size of the cluster
) -> Results[Task, Result]:
    """Actors of a Ray cluster, each with its own model; like `local_processes`, on nodes that see the same files."""
    with needs("a cluster needs ray", "ray"):
        ray = import_module("ray")
    started, dashboard = _join(ray, address)
    alive, processors = sum(node["Alive"] for node in ray.nodes()), int(ray.cluster_resources().get("CPU", 0))
    head = ray.get_runtime_context().gcs_address
    look = f"http://{dashboard}" if dashboard else f"`ray status --address {head}` (ray[default] has a dashboard)"
    say(f"Ray cluster at {head}: {alive} nodes, {processors} processors; {look} shows their work")
    actor = ray.remote(num_cpus=1)(_Actor)

    def open_worker() -> _RayWorker[Task, Result]:
        mine = actor.remote()
        return _RayWorker(lambda task: mine.do.remote(factory, task).future(), partial(ray.kill, mine))

    workers, died = n_workers or max(1, processors), ray.exceptions.RayActorError
    try:
        yield from _run_on(open_worker, workers, tasks, died, partial(_has_room, ray))
    finally:
        if started:
            ray.shutdown()


def _run_on(
    open_worker: "Callable[[], AnyWorker[Task, Result]]",
    n_workers: int,
    tasks: Sequence[Task],
    died: type[Exception],
    has_room: Callable[[], bool] = lambda: True,
) -> Results[Task, Result]:
    """Keep workers busy with one task at a time. One whose future fails with ``died`` is replaced if there is room.

    Its task is tried again, `ATTEMPTS` times in all. The last worker is always replaced. Other errors are raised.
    """
    waiting = deque((task, 1) for task in tasks)
    busy: dict[Future[Result], tuple[AnyWorker[Task, Result], Task, int]] = {}
    opened: list[AnyWorker[Task, Result]] = []

    def start(worker: "AnyWorker[Task, Result] | None") -> None:
        if worker is None:
            worker = open_worker()
            opened.append(worker)
        task, attempt = waiting.popleft()
        busy[worker.submit(task)] = worker, task, attempt

    try:
        for _ in range(min(n_workers, len(tasks))):
            start(None)
        while busy:
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                worker, task, attempt = busy.pop(future)
                result: Result | Lost | None = None
                if alive := not isinstance(future.exception(), died):
                    result = future.result()
                elif attempt >= ATTEMPTS:
                    result = Lost(attempt)
                else:
                    _log.warning("a worker died; its task is tried again (%d of %d)", attempt + 1, ATTEMPTS)
                    waiting.appendleft((task, attempt + 1))
                if not (alive and waiting):
                    worker.close()
                if waiting and (alive or not busy or has_room()):
                    start(worker if alive else None)
                if result is not None:
                    yield task, result
    finally:
        for worker in opened:
            worker.close()


class Worker(AbstractContextManager["Worker[Task, Result]"], Generic[Task, Result]):
    """A process, and its context manager, that does one task after the other; when it dies, the next task gets another.

    ``factory`` is called in the process, before the first task; an error of it is the error of every task.
    """

    def __init__(self, factory: Factory[Task, Result]) -> None:
        self._factory = factory
        self._open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, task: Task) -> Future[Result]:
        """Send a task. The future raises the error of the work, or `WorkerDiedError` if the process dies."""
        with no_interrupts(), safe_path():
            try:
                return self._executor.submit(_do, self._factory, task)
            except BrokenProcessPool:
                self.close()
                self._open()
                return self._executor.submit(_do, self._factory, task)

    def close(self) -> None:
        """End the process, whatever it is doing; a second call has no effect."""
        self._lifeline.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _open(self) -> None:
        context = get_context("spawn")
        reader, self._lifeline = context.Pipe(duplex=False)
        with safe_path():  # this starts multiprocessing's resource tracker
            self._executor = ProcessPoolExecutor(1, context, initializer=_start, initargs=(reader,))


_work: Callable[[object], object] | None = None  # of this worker process


def _start(lifeline: Connection) -> None:
    """Ignore Ctrl-C, which is for the driver; end when the driver closes the pipe or ends itself."""

    def end() -> NoReturn:
        with suppress(OSError):
            lifeline.poll(None)
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end, daemon=True).start()


def _do(factory: Factory[Task, Result], task: Task) -> Result:
    global _work
    if _work is None:
        import torch

        torch.set_num_threads(1)
        _work = factory()  # type: ignore[assignment]
    return _work(task)  # type: ignore[misc,return-value]


class _RayWorker(NamedTuple, Generic[Task, Result]):
    """`Worker` on a node of a cluster."""

    submit: Callable[[Task], Future[Result]]
    close: Callable[[], object]


class _Actor:
    _work: Callable[..., object] | None = None

    def do(self, factory: Factory[Any, Any], task: object) -> object:
        self._work = self._work or factory()  # not in __init__: Ray would call an error there the death of the actor
        return self._work(task)


def _has_room(ray: ModuleType, timeout_s: float = 5.0) -> bool:
    """Whether the cluster has a free processor; that of a dead worker is released after a moment."""
    until = time.monotonic() + timeout_s
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _join(ray: ModuleType, address: str) -> tuple[bool, str]:
    """Connect to a cluster; returns whether this process must disconnect, and the address of the dashboard, if any."""
    # No cluster is started here: its ports would be open to the network, and accept any code.
    if ray.is_initialized():
        return False, ""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would retry for minutes, and then exit
            socket.create_connection((host, int(port)), 5).close()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        return True, ray.init(address=address, log_to_driver=False).dashboard_url or ""
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            reason = "no Ray cluster runs on this machine; `ray start --head` makes one, open to the network"
        else:
            where = "of this machine" if address == "auto" else f"at {address}"
            reason = f"the Ray cluster {where} refused this process: {brief(error)}"
        raise ConfigurationError(
            f"{reason}; start clusters and clients with RAY_AUTH_MODE=token in the environment and the token that "
            "`ray get-auth-token --generate` writes: then only clients with that token can connect"
        ) from error

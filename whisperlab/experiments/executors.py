"""Where the tasks of a sweep run: in this process, or in several of this machine (`ray` adds clusters).

An executor takes tasks and yields each with its result when it is done, in any order. The work is described by a
*factory*: it is called once per worker, loads the model, and returns the function that does a task. Workers write
traces; only the driver process writes rows.

A worker is a `concurrent.futures.ProcessPoolExecutor` of one process: when a process dies, its executor fails as a
whole, so a death costs exactly the task of that worker. Workers are started with *spawn*: they have the environment and
the folder of today, and no locks of the driver's threads. The file of the weights is shared through the page cache.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.threads import no_interrupts

Task = TypeVar("Task")
Result = TypeVar("Result")
Done = TypeVar("Done", covariant=True)
Given = TypeVar("Given", contravariant=True)
Work: TypeAlias = Callable[[Task], Result]

ATTEMPTS = 3  # of a task whose worker dies

WorkerDiedError = BrokenProcessPool  # the exception of the future of a task whose process died

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Lost:
    """The result of a task whose worker died on every attempt."""

    attempts: int


class Executor(Protocol[Task, Done]):
    """Does tasks, and yields each with its result, or `Lost`, when it is done."""

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Done | Lost], None, None]:
        """Closing the generator stops the workers."""


class InProcess(Generic[Task, Result]):
    """One task after the other, in this process."""

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        work = self._factory()
        for task in tasks:
            yield task, work(task)


class LocalProcesses(Generic[Task, Result]):
    """Several processes of this machine, each with its own model.

    A worker that dies is replaced, and its task tried again, `ATTEMPTS` times in all. Ctrl-C reaches only the driver
    process. ``factory`` is importable by name, or `functools.partial` of such a function.
    """

    def __init__(self, factory: Callable[[], Work[Task, Result]], n_workers: int) -> None:
        if n_workers < 1:
            raise ConfigurationError(f"a sweep needs at least one worker, got {n_workers}")
        self._factory, self._n_workers = factory, n_workers

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        workers = min(self._n_workers, len(tasks))
        yield from run_on(lambda: Worker(self._factory), workers, tasks, WorkerDiedError)


class AnyWorker(Protocol[Given, Result]):
    """A `Worker`, or an actor of a cluster."""

    def submit(self, task: Given) -> Future[Result]:
        """Send a task."""

    def close(self) -> object:
        """End the worker; a second call has no effect."""


def run_on(
    open_worker: Callable[[], AnyWorker[Task, Result]],
    n_workers: int,
    tasks: Sequence[Task],
    died: type[Exception],
    has_room: Callable[[], bool] = lambda: True,
) -> Generator[tuple[Task, Result | Lost], None, None]:
    """Keep workers busy with one task at a time; yield each task with its result, or `Lost`.

    ``died`` is the error of a future whose worker died; other errors are raised. A dead worker is replaced if it was
    the last or ``has_room``.
    """
    waiting = deque((task, 1) for task in tasks)
    busy: dict[Future[Result], tuple[AnyWorker[Task, Result], Task, int]] = {}
    opened: list[AnyWorker[Task, Result]] = []

    def start(worker: AnyWorker[Task, Result] | None) -> None:
        if worker is None:
            worker = open_worker()
            opened.append(worker)
        task, attempt = waiting.popleft()
        busy[worker.submit(task)] = worker, task, attempt

    try:
        for _ in range(n_workers):
            start(None)
        while busy:
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                worker, task, attempt = busy.pop(future)
                alive = True
                result: Result | Lost | None = None
                try:
                    result = future.result()
                except died:
                    alive = False
                    if attempt >= ATTEMPTS:
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


class Worker(Generic[Task, Result]):
    """A process that does one task after the other. Close it, or use it as a context manager.

    A process that died is replaced when the next task is submitted. ``factory`` is called in the process, before the
    first task; an error of it is the error of every task.
    """

    __slots__ = ("_executor", "_factory", "_lifeline")

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory
        self._open()

    def __enter__(self) -> Worker[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, task: Task) -> Future[Result]:
        """Send a task; the first one starts the process.

        The future raises what the work raised, or `WorkerDiedError` if the process died with the task.
        """
        try:
            return self._submit(task)
        except BrokenProcessPool:
            self.close()
            self._open()
            return self._submit(task)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._lifeline.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _open(self) -> None:
        context = get_context("spawn")
        reader, self._lifeline = context.Pipe(duplex=False)
        with _safe_path():  # this starts multiprocessing's resource tracker
            self._executor = ProcessPoolExecutor(1, context, initializer=_start, initargs=(reader,))

    def _submit(self, task: Task) -> Future[Result]:
        with no_interrupts(), _safe_path():
            return self._executor.submit(_do, self._factory, task)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Interpreters started within do not import from the current folder (``python -P``)."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


_work: Callable[[object], object] | None = None  # of this worker process


def _start(lifeline: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> NoReturn:
    """End this process when the driver closes the pipe or ends itself."""
    with suppress(OSError):
        lifeline.poll(None)
    os._exit(0)


def _do(factory: Callable[[], Work[Task, Result]], task: Task) -> Result:
    global _work
    if _work is None:
        import torch

        torch.set_num_threads(1)
        _work = factory()  # type: ignore[assignment]
    return _work(task)  # type: ignore[misc,return-value]

"""Worker processes: `concurrent.futures.ProcessPoolExecutor`, one executor per worker.

When a process of an executor dies, the executor fails as a whole. With one worker per executor a death therefore costs
exactly the task of that worker.

Workers are started with *spawn*: they have the environment and the folder of today, and no locks of the driver's
threads. Each loads its own model; the file of the weights is shared through the page cache. Workers end when the driver
ends, also in the middle of a task: they wait for the other end of a pipe to close.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Generic, NoReturn, TypeAlias, TypeVar

from whisperlab.util.threads import no_interrupts

Task = TypeVar("Task")
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Task], Result]

WorkerDiedError = BrokenProcessPool  # the exception of the future of a task whose process died


class Worker(Generic[Task, Result]):
    """A process that does one task after the other. Close it, or use it as a context manager.

    A process that died is replaced when the next task is submitted.

    Args:
        factory: makes the work; importable by name, or `functools.partial` of such a function. It is called in the
            process, before the first task. An error of it is the error of every task.
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

"""Where the tasks of a sweep run: in this process, or in several of this machine (`ray` adds clusters).

An executor takes tasks and yields each with its result when it is done, in any order. The work is described by a
*factory*: it is called once per worker, loads the model, and returns the function that does a task. Workers write
traces; only the driver process writes rows.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from whisperlab.experiments.worker_pool import Work, Worker, WorkerDiedError
from whisperlab.util.errors import ConfigurationError

Task = TypeVar("Task")
Result = TypeVar("Result")
Done = TypeVar("Done", covariant=True)

ATTEMPTS = 3  # of a task whose worker dies

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Lost:
    """The result of a task whose worker died on every attempt."""

    attempts: int


def retry(waiting: deque[tuple[Task, int]], task: Task, attempt: int) -> Lost | None:
    """Put a task whose worker died in front of the others; returns `Lost` after the last attempt."""
    if attempt >= ATTEMPTS:
        return Lost(attempt)
    _log.warning("a worker died; its task is tried again (%d of %d)", attempt + 1, ATTEMPTS)
    waiting.appendleft((task, attempt + 1))
    return None


class Executor(Protocol[Task, Done]):
    """Does tasks, and yields each with its result, or `Lost`, when it is done."""

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Done | Lost], None, None]:
        """Closing the generator stops the workers."""


class InProcess(Generic[Task, Result]):
    """One task after the other, in this process."""

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """Yield each task with its result, in the order given."""
        work = self._factory()
        for task in tasks:
            yield task, work(task)


class LocalProcesses(Generic[Task, Result]):
    """Several processes of this machine, each with its own model.

    A worker that dies is replaced, and its task tried again, `ATTEMPTS` times in all. Ctrl-C reaches only the driver
    process.

    Args:
        factory: importable by name, or `functools.partial` of such a function.
        n_workers: processes.
    """

    def __init__(self, factory: Callable[[], Work[Task, Result]], n_workers: int) -> None:
        if n_workers < 1:
            raise ConfigurationError(f"a sweep needs at least one worker, got {n_workers}")
        self._factory, self._n_workers = factory, n_workers

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        """Yield each task with its result, in the order in which they finish."""
        waiting = deque((task, 1) for task in tasks)
        busy: dict[Future[Result], tuple[Worker[Task, Result], Task, int]] = {}

        def start(worker: Worker[Task, Result]) -> None:
            task, attempt = waiting.popleft()
            busy[worker.submit(task)] = worker, task, attempt

        with ExitStack() as workers:
            for _ in range(min(self._n_workers, len(tasks))):
                start(workers.enter_context(Worker(self._factory)))
            while busy:
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    worker, task, attempt = busy.pop(future)
                    result: Result | Lost | None
                    try:
                        result = future.result()
                    except WorkerDiedError:
                        result = retry(waiting, task, attempt)
                    if waiting:
                        start(worker)
                    if result is not None:
                        yield task, result

"""Worker processes that share what is heavy: one process makes the work, and forks the workers from itself.

A fork shares all memory until somebody writes to it. Weights that a library has laid out for the processor can be
shared in no other way: they cannot be sent, and made again they are there twice. The process that drives may have
threads, whose locks a fork would copy in whatever state they are, so the *nursery* is a fresh process that drives
nothing, computes on one thread, and has no pool of threads that its workers would miss.

Workers end when the driver process is gone, also in the middle of a task: the pipe between them is closed then. The
death of the nursery ends no worker. Another nursery is opened when the next worker is hired.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from threading import Thread
from typing import Any, Generic, NoReturn, TypeVar

from whisperlab.util.errors import WhisperlabError
from whisperlab.util.memory import trim_heap
from whisperlab.util.threads import no_interrupts

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]

OPENINGS = 5  # times in a row that a nursery may die before it has made a worker


class WorkerDiedError(Exception):
    """A worker is gone with its task; whoever hired it decides what that means."""


@dataclass(slots=True, frozen=True)
class Memory:
    """Bytes of some processes: ``resident`` as if each were alone, ``together`` with shared pages counted once."""

    processes: int
    resident: int
    together: int

    def words(self) -> str:
        """The figures in a sentence."""
        mib = self.together >> 20, self.resident >> 20
        return f"{self.processes} processes took {mib[0]:,} MiB together; unshared it would be {mib[1]:,} MiB"


class Worker(Generic[Task, Result]):
    """One worker, as the driver process sees it.

    ``desk`` is readable when the worker is ready for its first task, when it has an answer, or when it has died.
    ``ready`` is whether its first message was read.
    """

    __slots__ = ("desk", "ready")

    def __init__(self, desk: Connection) -> None:
        self.desk = desk
        self.ready = False

    def give(self, task: Task) -> None:
        """Send a task. `result` tells if the worker died meanwhile."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.desk.send(task)

    def wait(self) -> None:
        """Wait until the worker is ready for its first task. Raises `WorkerDiedError`."""
        if not self.ready:
            self._receive()
            self.ready = True

    def result(self) -> Result:
        """Wait for the answer to a task. Raises what the work raised, or `WorkerDiedError`."""
        self.wait()
        fine, answer = self._receive()
        if fine:
            made: Result = answer
            return made
        raise answer

    def _receive(self) -> Any:
        try:
            return self.desk.recv()
        except (EOFError, ConnectionResetError) as error:
            self.desk.close()
            raise WorkerDiedError from error


class Nursery(Generic[Task, Result]):
    """Where workers come from. Close it, or use it as a context: that ends all of them at once.

    Args:
        factory: importable by name, or `functools.partial` of such a function; called once, in the nursery.
    """

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory
        self._workers: list[Worker[Task, Result]] = []
        self._n_ready = self._deaths = 0
        self._open()

    def __enter__(self) -> Nursery[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self) -> Worker[Task, Result]:
        """A new worker, at once; it is ready when the work is made. Opens another nursery if this one died.

        Raises WhisperlabError when nurseries die `OPENINGS` times in a row before they have made a worker.
        """
        ours, theirs = Pipe()
        while True:
            try:
                send_handle(self._orders, theirs.fileno(), self._process.pid)
                break
            except (BrokenPipeError, ConnectionResetError):
                self._open_again()
        theirs.close()
        self._workers.append(Worker(ours))
        return self._workers[-1]

    def memory(self) -> Memory:
        """What the nursery and its workers occupy now, as /proc/PID/smaps_rollup has it; zeros where there is none."""
        members = [
            int(path.name) for path in Path("/proc").glob("[0-9]*") if _group(path) == self._process.pid
        ]
        found = [_smaps(pid) for pid in members]
        return Memory(len(found), sum(one[0] for one in found), sum(one[1] for one in found))

    def close(self) -> None:
        """End the nursery and its workers, whatever they are doing."""
        for worker in self._workers:
            worker.desk.close()
        self._orders.close()
        assert self._process.pid is not None
        with suppress(ProcessLookupError, PermissionError):  # before it has a group of its own
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def _open(self) -> None:
        context = get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_nurse, args=(theirs, self._factory), daemon=True
        )
        with no_interrupts():
            self._process.start()
        theirs.close()

    def _open_again(self) -> None:
        """Open another nursery in place of one that died. Workers of the old one go on."""
        n_ready = sum(worker.ready for worker in self._workers)
        self._deaths = self._deaths + 1 if n_ready == self._n_ready else 1
        self._n_ready = n_ready
        self._orders.close()
        self._process.kill()
        self._process.join()
        if self._deaths == OPENINGS:
            raise WhisperlabError(
                f"the process that forks the workers died {OPENINGS} times before a worker was ready: "
                "was there enough memory?"
            )
        self._open()


def _nurse(orders: Connection, factory: Callable[[], Work[Any, Any]]) -> None:
    """The nursery itself: make the work, then a worker for every pipe that comes."""
    os.setpgid(0, 0)  # to be ended, and counted, with all its workers
    import torch

    torch.set_num_threads(1)
    try:
        work = factory()
    except Exception as error:
        work = _refusal(error)
    _settle()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the dead
    while True:
        try:
            handle = recv_handle(orders)
            is_worker = os.fork() == 0
        except (EOFError, OSError):
            return
        if is_worker:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            _serve(Connection(handle), work)
        os.close(handle)


def _settle() -> None:
    """Leave workers little to write to: objects out of the collector's way, free pages given back."""
    gc.collect()
    gc.freeze()
    trim_heap()


def _serve(desk: Connection, work: Work[Any, Any]) -> NoReturn:
    """A worker: one task after the other until the driver process is gone."""
    Thread(target=_end_with, args=(desk.fileno(),), daemon=True).start()
    with suppress(EOFError, OSError):
        desk.send(None)  # ready
        while True:
            task = desk.recv()
            try:
                answer = True, work(task)
            except Exception as error:
                answer = False, _portable(error)
            desk.send(answer)
    os._exit(0)


def _end_with(handle: int) -> NoReturn:
    """End this process when the other end of a socket is closed."""
    poll = select.poll()
    poll.register(handle, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)


def _refusal(error: Exception) -> Work[Any, Any]:
    """Work that could not be made, so that its error is that of the first task."""

    def work(task: Any) -> NoReturn:
        raise error

    return work


def _portable(error: Exception) -> Exception:
    """The error, or its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _group(process: Path) -> int | None:
    """The group of a process in /proc; None for one that ended meanwhile."""
    try:
        return int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[2])
    except (OSError, ValueError):
        return None


def _smaps(pid: int) -> tuple[int, int]:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
    return sizes["Rss"], sizes["Pss"]

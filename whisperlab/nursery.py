"""Worker processes that share what is heavy: one process makes the work, and forks the workers from itself.

A fork shares all memory until somebody writes to it. Weights that a library has laid out for the processor can be
shared in no other way: they cannot be sent, and made again they are there twice. The process that drives may have
threads, whose locks a fork would copy in whatever state they are, so the *nursery* is a fresh process that drives
nothing, computes on one thread, and has no pool of threads that its workers would miss.

Workers end when the one who hired them is gone: the pipe between them says so.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from whisperlab.allocator import give_back

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]


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
    """One worker, seen from who hired it. ``desk`` is readable when it has an answer, or has died."""

    __slots__ = ("desk",)

    def __init__(self, desk: Connection) -> None:
        self.desk = desk

    def give(self, task: Task) -> None:
        """Hand it a task; that it died meanwhile is told by `result`."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.desk.send(task)

    def result(self) -> Result:
        """Wait for its answer. Raises what the work raised, or `WorkerDiedError`."""
        try:
            fine, answer = self.desk.recv()
        except (EOFError, ConnectionResetError) as error:
            self.desk.close()
            raise WorkerDiedError from error
        if fine:
            made: Result = answer
            return made
        raise answer


class Nursery(Generic[Task, Result]):
    """Where workers come from. Close it, or use it as a context: that ends all of them at once.

    Args:
        factory: importable by name, or `functools.partial` of such a function; called once, in the nursery.
    """

    def __init__(self, factory: Callable[[], Work[Task, Result]]) -> None:
        self._factory = factory
        self._open()

    def __enter__(self) -> Nursery[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self) -> Worker[Task, Result]:
        """A new worker. It is there at once; the first tasks wait until the work is made."""
        if not self._process.is_alive():
            self.close()
            self._open()
        ours, theirs = Pipe()
        with suppress(BrokenPipeError, ConnectionResetError):  # then the desk tells
            send_handle(self._orders, theirs.fileno(), self._process.pid)
        theirs.close()
        return Worker(ours)

    def memory(self) -> Memory:
        """What the nursery and its workers occupy now, as /proc/PID/smaps_rollup has it; zeros where there is none."""
        members = [
            int(path.name) for path in Path("/proc").glob("[0-9]*") if _group(path) == self._process.pid
        ]
        found = [_smaps(pid) for pid in members]
        return Memory(len(found), sum(one[0] for one in found), sum(one[1] for one in found))

    def close(self) -> None:
        """End the nursery and its workers, whatever they are doing."""
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
        self._process.start()
        theirs.close()


def _nurse(orders: Connection, factory: Callable[[], Work[Any, Any]]) -> None:
    """The nursery itself: make the work, then a worker for every pipe that comes."""
    os.setpgid(0, 0)  # Ctrl-C is for the process that drives
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
        except (EOFError, OSError):
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            _serve(Connection(handle), work)
        os.close(handle)


def _settle() -> None:
    """Leave workers little to write to: objects out of the collector's way, free pages given back."""
    gc.collect()
    gc.freeze()
    give_back()


def _serve(desk: Connection, work: Work[Any, Any]) -> NoReturn:
    """A worker: one task after the other until nobody listens."""
    with suppress(EOFError, OSError):
        while True:
            task = desk.recv()
            try:
                answer = True, work(task)
            except Exception as error:
                answer = False, _portable(error)
            desk.send(answer)
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

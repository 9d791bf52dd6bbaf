"""Work for worker processes that needs no library, so that the tests of processes do not wait for torch.

A worker imports torch before any work, which takes seconds. In a worker that was sent something of this module, an
empty torch takes its place. Workers with the real one: test_executors.py, test_search.py, the end of
test_worker_pool.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from whisperlab.util.errors import ConfigurationError

if multiprocessing.parent_process() is not None:
    sys.modules.setdefault("torch", cast("Any", SimpleNamespace(set_num_threads=lambda n: None)))


class OwnError(Exception):
    pass


def pids() -> Callable[[object], int]:
    return lambda task: os.getpid()


def raising() -> Callable[[str], object]:
    def work(words: str) -> object:
        raise OwnError(words)

    return work


def counting(path: str) -> Callable[[object], int]:
    with Path(path).open("a") as file:
        file.write("made\n")
    return lambda task: os.getpid()


def noted_sleep(path: str) -> Callable[[float], None]:
    Path(path).write_text(f"{os.getpid()}\n")
    return time.sleep


def slow(seconds: float) -> Callable[[int], int]:
    def work(task: int) -> int:
        time.sleep(seconds)
        return os.getpid()

    return work


def failing(words: str) -> Callable[[int], int]:
    raise ConfigurationError(words)


def deadly(folder: str) -> Callable[[int], int]:
    """Work that kills its process at every third task, the first time it comes, and at task 4 always."""

    def work(task: int) -> int:
        mark = Path(folder) / str(task)
        if task == 4 or (task % 3 == 0 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * task

    return work

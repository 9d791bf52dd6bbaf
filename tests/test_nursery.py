"""Workers forked from one that made the work: what they share, what they send, and how they end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from whisperlab.nursery import Memory, Nursery, WorkerDiedError

LARGE = 64 * 2**20  # bytes


def pids(_: str = "") -> Callable[[object], int]:
    return lambda task: os.getpid()


def heavy() -> Callable[[object], float]:
    """Work that needs something large, which nobody writes to."""
    large = np.ones(LARGE, np.uint8)
    return lambda task: float(large[::4096].sum())


def sums() -> Callable[[int], float]:
    """Products large enough for a pool of threads, made before the fork as well as after."""
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    weight = weight @ weight
    return lambda n: float((weight @ weight).sum())


class UnsendableError(Exception):
    def __init__(self, words: str, thing: object) -> None:
        super().__init__(words)
        self.thing = thing


def raising() -> Callable[[str], object]:
    def work(kind: str) -> object:
        if kind == "value":
            raise ValueError("no such thing")
        raise UnsendableError("with a lock", lambda: None)

    return work


def marking(path: str) -> Callable[[object], int]:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return lambda task: os.getpid()


def test_the_work_is_made_once_and_its_memory_is_shared() -> None:
    with Nursery(heavy) as nursery:
        workers = [nursery.hire() for _ in range(3)]
        for worker in workers:
            worker.give(None)
        assert {worker.result() for worker in workers} == {LARGE / 4096}
        memory = nursery.memory()
    assert memory.processes == 4
    assert memory.resident > 4 * LARGE
    assert memory.resident - memory.together > 2.5 * LARGE


def test_memory_is_told_in_a_sentence() -> None:
    assert Memory(3, 3000 * 2**20, 1000 * 2**20).words() == (
        "3 processes took 1,000 MiB together; unshared it would be 3,000 MiB"
    )


def test_a_worker_killed_leaves_the_others_and_is_replaced(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with Nursery(partial(marking, str(made))) as nursery:
        first, second = nursery.hire(), nursery.hire()
        first.give(None)
        pid = first.result()
        os.kill(pid, signal.SIGKILL)
        first.give(None)
        with pytest.raises(WorkerDiedError):
            first.result()
        second.give(None)
        third = nursery.hire()
        third.give(None)
        assert len({pid, second.result(), third.result()}) == 3
    assert len(made.read_text().split()) == 1


def test_a_nursery_killed_is_opened_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with Nursery(partial(marking, str(made))) as nursery:
        worker = nursery.hire()
        worker.give(None)
        worker.result()
        pid = int(made.read_text())
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < until, "the nursery is still there"
            time.sleep(0.01)
        other = nursery.hire()
        other.give(None)
        assert other.result() > 0
    assert len(made.read_text().split()) == 2


def test_errors_arrive_as_they_were_or_in_words() -> None:
    with Nursery(raising) as nursery:
        worker = nursery.hire()
        worker.give("value")
        with pytest.raises(ValueError, match="no such thing"):
            worker.result()
        worker.give("other")
        with pytest.raises(RuntimeError, match="UnsendableError: with a lock"):
            worker.result()


def test_all_end_when_the_nursery_is_closed() -> None:
    with Nursery(pids) as nursery:
        workers = [nursery.hire() for _ in range(2)]
        for worker in workers:
            worker.give(None)
        found = [worker.result() for worker in workers]
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert time.monotonic() < until, "workers are still there"
        time.sleep(0.01)


def test_products_are_the_same_after_the_fork() -> None:
    with Nursery(sums) as nursery:
        worker = nursery.hire()
        worker.give(1)
        assert worker.result() == pytest.approx(sums()(1), rel=1e-4)

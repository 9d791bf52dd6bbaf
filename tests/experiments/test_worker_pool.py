"""Workers forked from one that made the work: what they share, what they send, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from whisperlab.experiments.worker_pool import Memory, Nursery, WorkerDiedError
from whisperlab.util.errors import WhisperlabError

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


def wait_until_gone(found: list[int]) -> None:
    until = time.monotonic() + 20
    while any(_is_running(pid) for pid in found):
        assert time.monotonic() < until, "workers are still there"
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    """Orphans stay as zombies where no process waits for them."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


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
        wait_until_gone([pid])
        other = nursery.hire()
        other.give(None)
        assert other.result() > 0
    assert len(made.read_text().split()) == 2


def test_workers_go_on_when_their_nursery_dies_and_end_when_it_is_closed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with Nursery(partial(marking, str(made))) as nursery:
        worker = nursery.hire()
        worker.wait()
        os.kill(int(made.read_text()), signal.SIGKILL)
        wait_until_gone([int(made.read_text())])
        worker.give(None)
        first = worker.result()
        other = nursery.hire()
        other.give(None)
        second = other.result()
        worker.give(None)
        assert worker.result() == first != second
    wait_until_gone([first, second])


def sleeping() -> Callable[[float], None]:
    return time.sleep


DRIVER = """
    import os, sys
    sys.path.insert(0, {tests!r})
    from test_nursery import sleeping, _children
    from whisperlab.experiments.worker_pool import Nursery

    if __name__ == "__main__":
        nursery = Nursery(sleeping)
        worker = nursery.hire()
        worker.wait()
        worker.give(600)
        nurse = _children(os.getpid())[-1]
        print(nurse, *_children(nurse), flush=True)
        worker.result()
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_all_end_in_the_middle_of_a_task_when_the_driver_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER.format(tests=str(Path(__file__).parent))))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        found = [int(pid) for pid in driver.stdout.readline().split()]
        driver.kill()
    assert len(found) == 2
    wait_until_gone(found)


def suicidal() -> Callable[[object], object]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_nurseries_that_die_before_they_have_made_a_worker_are_given_up() -> None:
    def hire_until_ready() -> None:
        while True:
            with suppress(WorkerDiedError):
                nursery.hire().wait()

    with Nursery(suicidal) as nursery, pytest.raises(WhisperlabError, match="died 5 times before a worker"):
        hire_until_ready()


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
    wait_until_gone(found)


def test_products_are_the_same_after_the_fork() -> None:
    with Nursery(sums) as nursery:
        worker = nursery.hire()
        worker.give(1)
        assert worker.result() == pytest.approx(sums()(1), rel=1e-4)

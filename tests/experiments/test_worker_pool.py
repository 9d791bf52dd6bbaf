"""Worker processes: how they start, fail, are replaced and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from operator import methodcaller
from pathlib import Path

import pytest
from plain_work import OwnError, counting, noted_sleep, pids, raising

from whisperlab.experiments.executors import Worker, WorkerDiedError


def wait_until_gone(*found: int) -> None:
    until = time.monotonic() + 20
    while any(_is_running(pid) for pid in found):
        assert time.monotonic() < until, "processes are still there"
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    """Orphans stay as zombies where no process waits for them."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_work_is_made_once_for_all_tasks(tmp_path: Path) -> None:
    with Worker(partial(counting, str(tmp_path / "made"))) as worker:
        assert len({worker.submit(n).result() for n in range(3)}) == 1
    assert (tmp_path / "made").read_text() == "made\n"


def test_an_error_of_the_work_is_raised_and_the_worker_goes_on() -> None:
    with Worker(raising) as worker:
        for words in ("one", "two"):
            with pytest.raises(OwnError, match=words):
                worker.submit(words).result()


def test_a_process_that_was_killed_is_replaced() -> None:
    with Worker(pids) as worker:
        first = worker.submit(None).result()
        os.kill(first, signal.SIGKILL)
        wait_until_gone(first)
        for _ in range(2):  # the death may be noticed with the next task or before it
            try:
                second = worker.submit(None).result()
                break
            except WorkerDiedError:
                continue
        assert second != first


def test_closing_ends_a_process_in_the_middle_of_a_task(tmp_path: Path) -> None:
    with Worker(partial(noted_sleep, str(tmp_path / "pid"))) as worker:
        future = worker.submit(600.0)
        pid = _pid(tmp_path / "pid")
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert future.done()
    wait_until_gone(pid)


def _pid(path: Path) -> int:
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(path.read_text())


DRIVER = """
    import sys
    from functools import partial
    sys.path.insert(0, {tests!r})
    from plain_work import noted_sleep
    from whisperlab.experiments.executors import Worker

    if __name__ == "__main__":
        worker = Worker(partial(noted_sleep, "pid"))
        worker.submit(600.0).result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_in_the_middle_of_a_task_when_the_driver_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER.format(tests=str(Path(__file__).parent))))
    with subprocess.Popen([sys.executable, str(script)], cwd=tmp_path) as driver:
        pid = _pid(tmp_path / "pid")
        driver.send_signal(number)
    wait_until_gone(pid)


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("multiprocessing", "torch", "selectors", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    with Worker(partial(methodcaller, "bit_length")) as worker:  # imports the real torch
        assert worker.submit(5).result() == 3
    assert "PYTHONSAFEPATH" not in os.environ

"""Commands that are stopped: by signals at any moment, by readers that leave, and by disks that are full."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nest import Nest

from whisperlab import cli
from whisperlab.cli import transcribe
from whisperlab.data.audio_files import write_wav

ROOT = Path(__file__).parents[2]
SAID = {
    signal.SIGINT: "whisperlab: interrupted\n",
    signal.SIGTERM: "whisperlab: stopped by SIGTERM\n",
    signal.SIGHUP: "whisperlab: stopped by SIGHUP\n",
}
TONE = np.sin(np.linspace(0, 600, 48_000)).astype(np.float32) * np.float32(0.3)  # three seconds


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "cli")))
    return {**os.environ, "PYTHONPATH": path, **more}


@contextmanager
def program(code: str, folder: Path, *argv: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a folder, which is its folder for temporary files, too."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code))
    (folder / "temporary").mkdir()
    with subprocess.Popen(
        [sys.executable, str(script), *argv],
        cwd=folder,
        env=environment(TMPDIR=str(folder / "temporary"), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # where the tests run under nohup
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# --- signals ------------------------------------------------------------------------------------------

SIGNAL_AT_AN_IMPORT = """
    import os, signal, sys

    class Finder:
        left = {n}

        def find_spec(self, name, path=None, target=None):
            Finder.left -= 1
            if Finder.left == 0:
                os.kill(os.getpid(), {number})

    from whisperlab.cli import main

    sys.meta_path.insert(0, Finder())
    raise SystemExit(main())
"""


@pytest.mark.parametrize(
    "number,n", [*((signal.SIGINT, n) for n in (1, 30, 200, 500, 900)), (signal.SIGTERM, 200), (signal.SIGHUP, 30)]
)
def test_a_signal_during_imports_is_one_line(tmp_path: Path, number: signal.Signals, n: int) -> None:
    """The n-th import after `main` begins sends it; those of torch and numpy are among them."""
    write_wav(tmp_path / "call.wav", TONE)
    code = SIGNAL_AT_AN_IMPORT.format(n=n, number=int(number))
    with program(code, tmp_path, "transcribe", "call.wav", "-q", "--model", "nothing.pt") as process:
        out, err = process.communicate()
    assert (out, err) == ("", SAID[number])
    assert process.returncode == 128 + number


WITH_A_CHILD = """
    import os, sys, tempfile, time
    from functools import partial
    from whisperlab.cli import main, transcribe
    from whisperlab.experiments.executors import local_processes
    from whisperlab.profiling.workload import in_fresh_process

    def sleep(task):
        with tempfile.TemporaryDirectory(prefix=f"whisperlab-{os.getpid()}-"):
            time.sleep(600)

    def worker():
        print(os.getpid(), file=sys.stderr, flush=True)
        return time.sleep

    def run(args, console):
        with tempfile.TemporaryDirectory(prefix="whisperlab-"):
            list(local_processes(worker, 1, [600])) if sys.argv[2] == "worker" else in_fresh_process(sleep, 1)

    if __name__ == "__main__":
        transcribe.run = run
        raise SystemExit(main())
"""


@pytest.mark.parametrize("number", SAID)
def test_a_signal_removes_temporary_folders_and_ends_the_process_of_a_pass(
    tmp_path: Path, number: signal.Signals
) -> None:
    with program(WITH_A_CHILD, tmp_path, "transcribe", "pass") as process:
        folders = wait_for_folders(tmp_path / "temporary", 2)
        child = next(int(found[1]) for name in folders if (found := re.match(r"whisperlab-(\d+)-", name)))
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + number, "", SAID[number])
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not Path(f"/proc/{child}").exists()


def test_a_signal_ends_workers_in_the_middle_of_a_task(tmp_path: Path) -> None:
    with program(WITH_A_CHILD, tmp_path, "transcribe", "worker") as process:
        assert process.stderr is not None
        nursery = int(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert (process.returncode, err) == (143, SAID[signal.SIGTERM])
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not Path(f"/proc/{nursery}").exists()


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    code = """
        import os, signal
        from whisperlab.cli import main, transcribe
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        transcribe.run = lambda args, console: os.kill(os.getpid(), signal.SIGHUP) or 0
        raise SystemExit(main(["transcribe", "call.wav"]))
    """
    with program(code, tmp_path) as process:
        assert process.communicate() == ("", "")
    assert process.returncode == 0


def wait_for_folders(folder: Path, n: int) -> list[str]:
    until = time.monotonic() + 120
    while len(found := [path.name for path in folder.glob("whisperlab-*")]) < n:
        assert time.monotonic() < until, "the work has not begun"
        time.sleep(0.05)
    return found


# --- readers that leave -------------------------------------------------------------------------------

SLOW = """
    import sys
    from whisperlab.cli import main, transcribe
    import test_cli

    class Slow(test_cli.FakeTranscriber):
        def process(self, chunk):
            print("heard", file=open("heard.txt", "a"))
            return super().process(chunk)

    transcribe.build_transcriber = lambda args: Slow(slow_s=0.05)
    raise SystemExit(main())
"""


def slow(bare: Nest, folder: Path, out: Path, err: Path, *argv: str) -> int:
    """Begin a transcription that takes its time; returns the process id."""
    (folder / "program.py").write_text(textwrap.dedent(SLOW))
    return bare.python(["program.py", "transcribe", *argv], folder, out, err, **environment())


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_work_stops_quietly_when_the_reader_of_the_output_leaves(
    bare: Nest, tmp_path: Path, options: tuple[str, ...]
) -> None:
    names = [f"{number}.wav" for number in range(3)]
    for name in names:
        write_wav(tmp_path / name, TONE)
    out, err = tmp_path / "out", tmp_path / "err"
    os.mkfifo(out)
    process = slow(bare, tmp_path, out, err, *names, *options)
    with out.open() as reader:
        assert reader.readline()
    assert bare.wait(process) == 1
    assert "rror" not in err.read_text()
    assert len((tmp_path / "heard.txt").read_text().split()) < 60  # of 90 chunks


def test_help_whose_reader_has_left_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "whisperlab", "--help"],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert ran.stderr == ""


def test_a_full_disk_behind_stdout_stops_the_work_with_one_line(bare: Nest, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, TONE)
    err = tmp_path / "err"
    assert bare.wait(slow(bare, tmp_path, Path("/dev/full"), err, "a.wav", "b.wav", "-q")) == 1
    assert err.read_text() == "whisperlab: error: stdout: No space left on device\n"


# --- disks that are full ------------------------------------------------------------------------------


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recordings, and a transcriber without a model."""
    from test_cli import FakeTranscriber

    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, TONE)
    monkeypatch.setattr(transcribe, "build_transcriber", lambda args: FakeTranscriber())
    return [str(tmp_path / name) for name in ("a.wav", "b.wav")]


def test_text_needs_no_temporary_file(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    assert cli.main(["transcribe", *calls, "--json"]) == 0
    assert capsys.readouterr().out.count('"segments": [{') == 2


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_text_is_printed_although_its_trace_cannot_be_written(
    calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with largest_file(100):
        code = cli.main(["transcribe", *calls, "--trace", str(tmp_path / "traces"), *options])
    said = capsys.readouterr()
    assert code == 1
    assert said.out.count("uno 2") == 2
    errors = [line for line in said.err.splitlines() if "error" in line]
    assert len(errors) == 2
    assert all(line.endswith("File too large") for line in errors)
    assert list((tmp_path / "traces").iterdir()) == []


@contextmanager
def largest_file(n_bytes: int) -> Iterator[Any]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

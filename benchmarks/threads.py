"""Processor and wall seconds per second of audio from Python, a Jupyter kernel and the command line, alone and beside
busy processes.

    python benchmarks/threads.py                          # one thread, five rounds: some minutes
    python benchmarks/threads.py --threads 1,2 --rounds 3

Every measurement is a fresh process. Python and the kernel time the stream; for the command line, the time of a process
that transcribes a tenth of a second is subtracted. Processor seconds are those of all threads. A round runs every case
once, alone and beside busy processes. The last column is the wall time times the share of a core left by the busy
processes: on one thread it should be near the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from whisperlab import data
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.trace import provenance
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import samples

STREAM = """
import json, time
from whisperlab import SessionRestartTranscriber
from whisperlab.util.audio_arrays import chunks
from whisperlab.data.audio_files import read_audio
transcriber = SessionRestartTranscriber("base", languages=["en", "es"], threads={threads})
audio = read_audio({path!r})
for chunk in chunks(audio[:32000], 1600):
    transcriber.process(chunk)
transcriber.reset()
wall, processor = time.perf_counter(), time.process_time()
for chunk in chunks(audio, 1600):
    transcriber.process(chunk)
transcriber.finalize()
print(json.dumps([time.process_time() - processor, time.perf_counter() - wall]))
"""
BUSY = "while True: pass"

Took = tuple[float, float]  # processor and wall seconds


def python(path: Path, threads: int) -> Took:
    """The stream in an interpreter of its own."""
    code = STREAM.format(path=str(path), threads=threads)
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    return _took(done.stdout)


def jupyter(path: Path, threads: int) -> Took:
    """The stream as the cell of a notebook."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook
    from traitlets.config import Config

    cell = new_code_cell(STREAM.format(path=str(path), threads=threads))  # type: ignore[no-untyped-call]
    notebook = new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    private = Config(KernelManager={"transport": "ipc"})  # TCP is open to every user of the machine
    NotebookClient(notebook, timeout=1800, kernel_name="python3", config=private).execute()
    return _took("".join(output.get("text", "") for output in notebook.cells[0].outputs))


def command_line(path: Path, threads: int) -> Took:
    """``whisperlab transcribe``, less what it takes to start and load."""
    short = path.with_name("short.wav")
    write_wav(short, read_audio(path)[: samples(0.1)])
    (start_cpu, start_wall), (cpu, wall) = (_command(one, threads) for one in (short, path))
    return cpu - start_cpu, wall - start_wall


def _command(path: Path, threads: int) -> Took:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = ["transcribe", str(path), "--languages", "en,es", "--threads", str(threads)]
    subprocess.run([sys.executable, "-P", "-m", "whisperlab", *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def _took(printed: str) -> Took:
    processor, wall = json.loads(printed.strip().splitlines()[-1])
    return processor, wall


@contextmanager
def company(n: int) -> Iterator[None]:
    """Run ``n`` processes that compute all the time."""
    busy = [subprocess.Popen([sys.executable, "-P", "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


CASES: dict[str, Callable[[Path, int], Took]] = {"Python": python, "Jupyter": jupyter, "command line": command_line}


def main() -> None:
    """Measure and print the table, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1", help="compute threads, such as 1,2 (default: 1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=2, help="busy processes (default: 2)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of audio (default: 20)")
    arguments = parser.parse_args()
    # The caller's settings would hide the effect of the defaults.
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    cores = len(os.sched_getaffinity(0))
    audio = read_audio(data.load("ivr-en-es", "test")[0].audio_path)[: samples(arguments.seconds)]
    audio_s = len(audio) / samples(1)
    numbers = [int(number) for number in arguments.threads.split(",")]
    found: dict[tuple[str, int, int], list[Took]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        write_wav(path, audio)
        for round_number in range(arguments.rounds):
            for threads in numbers:
                for name, case in CASES.items():
                    for n_busy in (0, arguments.busy):
                        with company(n_busy):
                            took = case(path, threads)
                        found.setdefault((name, threads, n_busy), []).append(took)
                        print(f"{round_number} {name} {threads} {n_busy} {took}", file=sys.stderr, flush=True)
    print(text_table([_row(*case, took, audio_s, cores) for case, took in found.items()]))
    told = [{"case": list(case), "took": took} for case, took in found.items()]
    print(json.dumps({"audio_s": audio_s, "cores": cores, "found": told, **provenance()}))


def _row(name: str, threads: int, busy: int, took: list[Took], audio_s: float, cores: int) -> dict[str, object]:
    """Medians per second of audio, with the least and the most."""
    processor, wall = ([one[i] / audio_s for one in took] for i in (0, 1))
    left = min(1.0, cores / (busy + 1))

    def told(values: list[float]) -> str:
        return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    return {
        "from": name,
        "threads": threads,
        "busy processes": busy,
        "n": len(took),
        "processor s per s": told(processor),
        "wall s per s": told(wall),
        "share of a core left": f"{left:.2f}",
        "wall x share": f"{median(wall) * left:.2f}",
    }


if __name__ == "__main__":
    main()

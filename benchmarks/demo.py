"""The demo: real weights and real speech, step by step, to one start page of offline reports.

    python -m benchmarks.demo              # what `make demo` runs
    python -m benchmarks.demo --full       # every notebook and a larger sweep, as `make demo-full`

Each step prints one line: its number, its time, what it found, and the page it wrote.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisperlab.data import Recording

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MODEL = "base"
CORPORA = ("ivr-five", "ivr-en-es")
SMALL_S = 30.0  # seconds of speech in the small sweep
OWN_AUDIO_HZ = 44_100  # the demo's "own recording" is a stereo file of this rate


@dataclass(slots=True, frozen=True)
class Step:
    """One step of the demo: its name, the seconds it takes on two idle cores, and its work.

    ``run`` returns the page it wrote, or what it did as text.
    """

    name: str
    expected_s: float
    run: Callable[[], Path | str]


def prepare() -> str:
    """Download and check the weights, and build the speech, unless both are in the cache."""
    from whisperlab import data
    from whisperlab.model import weights

    weights.fetch(MODEL, say=print)
    for corpus in CORPORA:
        data.build(corpus, say=print)
    return f"Whisper {MODEL} and {len(CORPORA)} speech corpora are in the cache, checked by SHA-256"


def notebook(name: str, reports: Path, parameters: dict[str, object] | None = None) -> Path:
    """Run a notebook; its page."""
    from whisperlab.report.notebook import run_notebook

    source = next(NOTEBOOKS.glob(f"{name}_*.ipynb"))
    return run_notebook(source, reports / f"{source.stem}.html", parameters)


def own_audio(reports: Path) -> Path:
    """Run the notebook for a user's own recording on a 44.1 kHz stereo file."""
    import numpy as np
    import soundfile
    import soxr

    from whisperlab.data import load

    recording = load("ivr-en-es", "test")[0]
    with TemporaryDirectory(prefix="whisperlab-demo-") as folder:
        audio = soxr.resample(recording.audio()[: 16_000 * 25], 16_000, OWN_AUDIO_HZ)
        file = Path(folder) / "example call.wav"
        soundfile.write(file, np.stack([audio, 0.5 * audio], axis=1), OWN_AUDIO_HZ)
        return notebook("10", reports, {"AUDIO": str(file), "LANGUAGES": list(recording.languages)})


def beginning(recording: Recording, seconds: float) -> Recording:
    """The recording up to the end of its last segment within so many seconds."""
    kept = tuple(segment for segment in recording.segments if segment.end <= seconds)
    text = " ".join(segment.text for segment in kept)
    return replace(recording, segments=kept, text=text, duration=kept[-1].end, offset=0.0)


def sweep(reports: Path, full: bool, grids: Sequence[dict[str, Sequence[object]]]) -> Path:
    """Compare cache keys on two recordings of the test split, or on the beginning of one; the sweep's page.

    A second run continues the first.
    """
    from whisperlab.data import load
    from whisperlab.experiments.results_store import open_store
    from whisperlab.experiments.sweep import Grid, run_sweep, transcriber_maker
    from whisperlab.model.weights import load_weights, model_digest
    from whisperlab.report.sweep import from_store

    found = load("ivr-five", "test")
    recordings = found[:2] if full else [beginning(found[0], SMALL_S)]
    languages = sorted({language for recording in recordings for language in recording.languages})
    checked = 0.2 if full else 1.0  # few hits: all are checked
    fixed = {"languages": languages, "decode": False, "cache.shadow_rate": checked}
    configurations = [config for axes in grids for config in Grid(axes, fixed).configurations()]
    out, model = reports / "demo-sweep", load_weights(MODEL)
    run_sweep(
        configurations,
        recordings,
        out,
        make_transcriber=transcriber_maker(model),
        model_digest=model_digest(model),
        progress=sys.stderr.isatty(),
        say=lambda _: None,
    )
    with open_store(out) as store:
        report = from_store(store, folder=out, title="Cache keys: the guide's, a safe one, and no cache")
        return report.render(reports / "demo-sweep.html")


SMALL_GRID = (
    {"cache.key": ["rounded"], "cache.hash_precision": [6, 0], "cache.size": [50]},
    {"cache.key": ["similar"], "cache.size": [50]},
    {"cache.size": [0]},
)
FULL_GRID = (
    {"cache.key": ["rounded"], "cache.hash_precision": [6, 2, 0], "cache.size": [10, 50]},
    {"cache.key": ["similar", "span"], "cache.size": [10, 50]},
    {"cache.size": [0]},
)


def steps(reports: Path, full: bool) -> list[Step]:
    """The steps in the order in which their pages are read."""
    first = [Step("weights and speech", 25, prepare), Step("quickstart", 25, lambda: notebook("01", reports))]
    grid, seconds = (FULL_GRID, 900) if full else (SMALL_GRID, 60)
    cache = Step("cache keys", seconds, lambda: sweep(reports, full, grid))
    own = Step("own recording", 35, lambda: own_audio(reports))
    if not full:
        return [*first, cache, own]
    expected = {"02": 110, "03": 90, "04": 60, "05": 240, "06": 10, "07": 70, "08": 45, "09": 90}
    others = [
        Step(f"notebook {name}", seconds, lambda name=name: notebook(name, reports))
        for name, seconds in expected.items()
    ]
    return [*first, cache, *others, own]


def run(todo: Sequence[Step], reports: Path, before_s: float) -> float:
    """Run the steps, a line each, and write the start page after each. Returns the seconds of all."""
    from whisperlab.report.index import write_index

    began, expected_s = time.monotonic(), sum(step.expected_s for step in todo)
    n_pages, done_s, prepared, prepared_s = 0, 0.0, 0.0, 0.0
    start = "\r\x1b[K" if sys.stdout.isatty() else ""
    for number, step in enumerate(todo, 1):
        if sys.stdout.isatty():
            print(f"[{number + 1}/{len(todo) + 1}] {step.name}, about {told(step.expected_s)} …", end="", flush=True)
        started, notes = time.monotonic(), StringIO()
        try:
            with redirect_stderr(sys.stderr if sys.stderr.isatty() else notes):
                found = step.run()
        except BaseException:
            print(f" stopped after {told(time.monotonic() - started)}\n{notes.getvalue()}", file=sys.stderr)
            raise
        done_s += step.expected_s
        passed = time.monotonic() - began
        if number == 1:  # a download, or nothing: it says nothing about the speed of the others
            prepared, prepared_s = step.expected_s, passed
        slower = (passed - prepared_s) / (done_s - prepared) if number > 1 else 1.0
        left = "" if number == len(todo) else f", {told((expected_s - done_s) * slower)} left"
        took = told(time.monotonic() - started)
        print(f"{start}[{number + 1}/{len(todo) + 1}] {step.name} {took}{left}: {finding(found)}", flush=True)
        if isinstance(found, Path):
            n_pages += 1
            write_index(reports)
            if n_pages == 1:
                print(f"First page ready after {told(before_s + passed)}: open {found}", flush=True)
    return time.monotonic() - began


def finding(result: Path | str) -> str:
    """What a step found, and the page that shows it."""
    from whisperlab.report.index import entries

    if isinstance(result, str):
        return result
    (entry,) = entries(result.parent, [result])
    return f"{(entry.answer or entry.title).partition('. ')[0].rstrip('.')} → {result}"


def told(seconds: float) -> str:
    """A length of time for a reader.

    >>> told(7.4), told(127)
    ('7 s', '2 min 7 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 1 when a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="run every notebook and a larger sweep")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of the pages (default: reports)")
    parser.add_argument("--set-up-s", type=float, default=0.0, help="seconds of the set-up before, for the total")
    args = parser.parse_args(arguments)
    todo = steps(args.reports, args.full)
    if args.set_up_s:
        print(f"[1/{len(todo) + 1}] set-up {told(args.set_up_s)}: the environment is .venv")
    print(f"{len(todo)} more steps, about {told(sum(step.expected_s for step in todo))} on two idle cores")
    args.reports.mkdir(exist_ok=True)
    total_s = args.set_up_s + run(todo, args.reports, args.set_up_s)
    print(f"Done in {told(total_s)}: {told(args.set_up_s)} of set-up, {told(total_s - args.set_up_s)} of work.")
    print(f"Open {(args.reports / 'index.html').resolve()}\n")
    print("Next:  source .venv/bin/activate")
    print("       whisperlab transcribe FILE --languages en,es     # your own recording")
    print("       make lab                                         # the notebooks in JupyterLab")
    if not args.full:
        print("       make demo-full                                   # every notebook")
    return 0


if __name__ == "__main__":
    sys.exit(main())

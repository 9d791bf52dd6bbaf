"""Quality and cost of the engines, or of the options for final text, on the same recordings.

    python -m benchmarks.engines                                  # ivr-five and ivr-en-es, dev
    python -m benchmarks.engines --corpora ivr-en-es --limit 2
    python -m benchmarks.engines --table final --oracle --corpora ivr-five,voices-nl    # with the true languages

Prints words wrong, wrong languages, switches, word latency, processor time and memory.

Each variant has a process of its own, because two OpenMP runtimes in one process disturb each other. The variants take
turns: every recording is transcribed by all of them, in another order each time, before the next one begins. Processor
seconds are those of the stream, without loading. The ratio is to the first variant, over the same recordings, with a
95 % interval that resamples recordings. Memory is the peak of the process, model included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.voices import corpora
from whisperlab import data
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import pooled, score_trace
from whisperlab.evaluation.scoring.summary import Score
from whisperlab.evaluation.trace import capture
from whisperlab.util.json_values import Json
from whisperlab.util.process import provenance
from whisperlab.util.statistics import LEAST_UNITS, central, resamples
from whisperlab.util.text_table import text_table

_OLD = {
    "session.commit_above": 0.0,
    "decoding.final_beam": 1,
    "decoding.final_silence_s": [1.0, 10.0],
    "decoding.final_window_s": 0.0,
}
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "engines": {
        "whisperlab": {"compute.engine": "whisperlab"},
        "whisperlab fp32": {"compute.engine": "whisperlab", "compute.precision": "fp32"},
        "ctranslate2 int8": {"compute.engine": "ctranslate2"},
        "ctranslate2 fp32": {"compute.engine": "ctranslate2", "compute.precision": "fp32"},
    },
    "final": {
        "greedy, 1 s": _OLD,
        "greedy, 3 s": {**_OLD, "decoding.final_silence_s": [3.0, 10.0]},
        "beam": {"session.commit_above": 0.0},
        "beam, below 0.5 wait": {"session.commit_above": 0.5},
        "beam, below 0.7 wait": {"session.commit_above": 0.7},
        "beam, below 0.7 wait to the end": {"session.commit_above": 0.7, "session.commit_wait_s": 30.0},
        "beam, whole utterances": {"session.commit_above": 1.0, "session.commit_wait_s": 30.0},
        "beam of 5, whole utterances": {
            "session.commit_above": 1.0,
            "session.commit_wait_s": 30.0,
            "decoding.final_beam": 5,
        },
    },
}
RATES = {
    "words wrong": "mixed_error_rate",
    "words wrong at switches": "switch_error_rate",
    "wrong language": "language_error_rate",
}


def recordings_of(corpus: str, split: str) -> list[Recording]:
    """The recordings of a corpus, of one of the further voices (always *dev*), or of a manifest."""
    return corpora.recordings(corpus) if corpus in corpora.CORPORA else data.load(corpus, split)


class Worker:
    """A process with one variant of the transcriber."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, corpus: str, split: str, number: int, oracle: bool) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([corpus, split, number, oracle]), file=self._process.stdin, flush=True)
        found: Json = json.loads(self._process.stdout.readline())
        return found


@contextmanager
def worker(options: Mapping[str, Any]) -> Iterator[Worker]:
    command = [sys.executable, "-P", "-m", "benchmarks.engines", "--serve", json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def serve(options: Mapping[str, Any]) -> None:
    """Answer each line ``[corpus, split, number, oracle]`` with the score, processor seconds and peak memory."""
    from whisperlab.config import TranscriberConfig
    from whisperlab.model.weights import load_weights
    from whisperlab.transcriber import SessionRestartTranscriber

    weights, warm = load_weights("base"), False
    for line in sys.stdin:
        corpus, split, number, oracle = json.loads(line)
        recordings = recordings_of(corpus, split)
        recording = recordings[number]
        told = {"oracle": true_languages(recording)} if oracle else {"languages": languages_of(recordings)}
        transcriber = SessionRestartTranscriber(weights, config=TranscriberConfig().replace({**options, **told}))
        audio = recording.audio()
        if not warm:
            capture(transcriber, audio[:80_000], recording="warm-up")
            transcriber.reset()
            warm = True
        began = time.process_time()
        trace = capture(transcriber, audio, recording=recording.id, reference=recording.reference)
        took = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        found = {"score": score_trace(trace).to_dict(), "processor_s": took, "audio_s": recording.duration}
        print(json.dumps({**found, "peak_bytes": peak}), flush=True)


def languages_of(recordings: Sequence[Recording]) -> list[str]:
    """The languages of the recordings, and a second one if they have only one."""
    own = sorted({language for recording in recordings for language in recording.languages})
    return own if len(own) > 1 else sorted({*own, "en"} if own != ["en"] else {*own, "es"})


def true_languages(recording: Recording) -> list[tuple[float, str]]:
    """The languages of a recording with their beginnings in seconds, as the option ``oracle`` takes them."""
    found: list[tuple[float, str]] = []
    for segment in recording.segments:
        if not found or found[-1][1] != segment.lang:
            found.append((segment.start if found else 0.0, segment.lang))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", default="ivr-five,ivr-en-es")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, help="only the first recordings of each corpus")
    parser.add_argument("--table", choices=TABLES, default="engines")
    parser.add_argument("--variants", help="separated by a semicolon; default: all of the table")
    parser.add_argument("--oracle", action="store_true", help="with the true languages and switches")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    variants, rng = TABLES[arguments.table], np.random.default_rng(0)
    names = arguments.variants.split(";") if arguments.variants else list(variants)
    print(json.dumps(provenance()))
    every: dict[str, list[Json]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(variants[name])) for name in names}
        for corpus in arguments.corpora.split(","):
            n_recordings = len(recordings_of(corpus, arguments.split)[: arguments.limit])
            found: dict[str, list[Json]] = {name: [] for name in names}
            for number in tqdm(range(n_recordings), corpus):
                for name in rng.permutation(names):
                    found[name].append(workers[name].run(corpus, arguments.split, number, arguments.oracle))
            show(f"{corpus}, {arguments.split}", found, rng)
            every = {name: [*every[name], *runs] for name, runs in found.items()}
    show("all", every, rng)


def show(title: str, found: Mapping[str, Sequence[Json]], rng: np.random.Generator) -> None:
    """Print the table of the runs by variant."""
    first = next(iter(found.values()))
    rows = []
    for name, runs in found.items():
        rates = pooled(Score.from_dict(run["score"]) for run in runs).rates()
        audio_s = sum(run["audio_s"] for run in runs)
        rows.append(
            {
                "variant": name,
                **{shown: f"{100 * rates[rate]:.1f} %" for shown, rate in RATES.items()},
                "words wrong, ratio": words_ratio(runs, first, rng),
                "switch F1 at 1 s": f"{rates['switch_f1_at_1']:.2f}",
                "word latency p50, s": f"{rates['word_latency_p50']:.1f}",
                "p95": f"{rates['word_latency_p95']:.1f}",
                "processor s per audio s": f"{sum(run['processor_s'] for run in runs) / audio_s:.2f}",
                "ratio": ratio(runs, first, rng),
                "peak MiB": max(run["peak_bytes"] for run in runs) >> 20,
            }
        )
    print(f"{title}: n = {len(first)} recordings, {sum(run['audio_s'] for run in first):.0f} s of audio")
    print(text_table(rows), flush=True)


def words_ratio(own: Sequence[Json], first: Sequence[Json], rng: np.random.Generator) -> str:
    """Wrong words over those of the first variant, with a 95 % interval over recordings."""
    a, b = (np.array([Score.from_dict(one["score"]).all_text.errors for one in each]) for each in (own, first))
    return interval(a, b, rng)


def ratio(own: Sequence[Json], first: Sequence[Json], rng: np.random.Generator) -> str:
    """Processor seconds over those of the first variant, with a 95 % interval over recordings."""
    a, b = (np.array([one["processor_s"] for one in each]) for each in (own, first))
    return interval(a, b, rng)


def interval(a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator) -> str:
    if len(a) < LEAST_UNITS:
        return f"{a.sum() / b.sum():.2f}"
    low, high = central([a[draw].sum() / b[draw].sum() for draw in resamples(len(a), rng)])
    return f"{a.sum() / b.sum():.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()

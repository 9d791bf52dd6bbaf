"""Quality and cost of the engines on the same recordings: words, language, switches, processor time and memory.

    python -m benchmarks.engines                                  # ivr-five and ivr-en-es, dev
    python -m benchmarks.engines --corpora ivr-en-es --limit 2

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from tqdm import tqdm

from whisperlab import data
from whisperlab.evaluation.scoring import pooled, score_trace
from whisperlab.evaluation.scoring.summary import Score
from whisperlab.evaluation.trace import capture
from whisperlab.util.json_values import Json
from whisperlab.util.process import provenance
from whisperlab.util.statistics import LEAST_UNITS, central, resamples
from whisperlab.util.text_table import text_table

VARIANTS = {
    "whisperlab": {"compute.engine": "whisperlab"},
    "whisperlab fp32": {"compute.engine": "whisperlab", "compute.precision": "fp32"},
    "ctranslate2 int8": {"compute.engine": "ctranslate2"},
    "ctranslate2 fp32": {"compute.engine": "ctranslate2", "compute.precision": "fp32"},
}
RATES = {
    "words wrong": "mixed_error_rate",
    "words wrong at switches": "switch_error_rate",
    "wrong language": "language_error_rate",
}


class Worker:
    """A process with one variant of the transcriber."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, corpus: str, split: str, number: int) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([corpus, split, number]), file=self._process.stdin, flush=True)
        found: Json = json.loads(self._process.stdout.readline())
        return found


@contextmanager
def worker(variant: str) -> Iterator[Worker]:
    command = [sys.executable, "-m", "benchmarks.engines", "--serve", variant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def serve(variant: str) -> None:
    """Answer each line ``[corpus, split, number]`` with the score, processor seconds and peak memory."""
    from whisperlab.config import TranscriberConfig
    from whisperlab.transcriber import SessionRestartTranscriber

    transcribers: dict[tuple[str, ...], SessionRestartTranscriber] = {}
    for line in sys.stdin:
        corpus, split, number = json.loads(line)
        recordings = data.load(corpus, split)
        languages = tuple(sorted({language for recording in recordings for language in recording.languages}))
        if languages not in transcribers:
            config = TranscriberConfig().replace({**VARIANTS[variant], "languages": languages})
            transcribers[languages] = SessionRestartTranscriber(config=config)
            capture(transcribers[languages], recordings[0].audio()[:80_000], recording="warm-up")
        transcriber, recording = transcribers[languages], recordings[number]
        transcriber.reset()
        audio = recording.audio()
        began = time.process_time()
        trace = capture(transcriber, audio, recording=recording.id, reference=recording.reference)
        took = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        found = {"score": score_trace(trace).to_dict(), "processor_s": took, "audio_s": recording.duration}
        print(json.dumps({**found, "peak_bytes": peak}), flush=True)


def ratio(own: Sequence[Json], first: Sequence[Json], rng: np.random.Generator) -> str:
    a, b = (np.array([one["processor_s"] for one in each]) for each in (own, first))
    if len(a) < LEAST_UNITS:
        return f"{a.sum() / b.sum():.2f}"
    low, high = central([a[draw].sum() / b[draw].sum() for draw in resamples(len(a), rng)])
    return f"{a.sum() / b.sum():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", default="ivr-five,ivr-en-es")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, help="only the first recordings of each corpus")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    names, rng = arguments.variants.split(","), np.random.default_rng(0)
    print(json.dumps(provenance()))
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name)) for name in names}
        for corpus in arguments.corpora.split(","):
            n_recordings = len(data.load(corpus, arguments.split)[: arguments.limit])
            found: dict[str, list[Json]] = {name: [] for name in names}
            for number in tqdm(range(n_recordings), corpus):
                for name in rng.permutation(names):
                    found[name].append(workers[name].run(corpus, arguments.split, number))
            rows = []
            for name, runs in found.items():
                total = pooled(Score.from_dict(run["score"]) for run in runs)
                rates, audio_s = total.rates(), sum(run["audio_s"] for run in runs)
                rows.append(
                    {
                        "engine": name,
                        **{title: f"{100 * rates[rate]:.1f} %" for title, rate in RATES.items()},
                        "switch F1 at 1 s": f"{rates['switch_f1_at_1']:.2f}",
                        "processor s per audio s": f"{sum(run['processor_s'] for run in runs) / audio_s:.2f}",
                        f"ratio to {names[0]}": ratio(runs, found[names[0]], rng),
                        "peak MiB": max(run["peak_bytes"] for run in runs) >> 20,
                    }
                )
            print(f"{corpus}, {arguments.split}: n = {n_recordings} recordings, {audio_s:.0f} s of audio")
            print(text_table(rows), flush=True)


if __name__ == "__main__":
    main()

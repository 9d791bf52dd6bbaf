"""What one core carries live, by model size.

    python -m benchmarks.sizes                                   # all sizes
    python -m benchmarks.sizes --models tiny,base,small --json sizes.json
    python -m benchmarks.sizes --calls calls.json                # records once; later runs read the file
    python -m benchmarks.sizes --english                         # also a live run of tiny.en and base on English

The calls of a live run of Whisper base (the first *dev* recording of ivr-five and of ivr-en-es, defaults, one thread)
are replayed on models of other dimensions with random weights, in the precisions that the package chooses here. A
larger model would choose other text, but about as many tokens; calls are those of base for every size.

Each sampled unit (`benchmarks.live_calls.units`) runs on base and on the model in turns. The cost of a model is that of
base in the recorded run times the ratio of the sampled units, stage by stage, so sampling and busy hours cancel. From
medium on a sample runs once, smaller models run it twice and the first time is a warm-up. Brackets are 95 % intervals
over units. *Rest* (voice activity, search, buffers) is that of base. Streams per core is 1 / total: an upper limit,
because a core that is always busy has growing delays. Memory is what stays resident of a model in a process of its
own, without the interpreter and its libraries.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.live_calls import (
    CHUNK,
    CORPORA,
    STAGES,
    WARM_UP_S,
    Call,
    LiveRun,
    Player,
    random_weights,
    sampled,
    saved_or_recorded,
    units,
)
from whisperlab import SessionRestartTranscriber, data
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.weights import Weights, load_weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import process_memory, provenance, trim_heap
from whisperlab.util.statistics import LEAST_UNITS, central, resamples
from whisperlab.util.text_table import text_table, with_interval
from whisperlab.util.threads import torch_threads
from whisperlab.util.timeline import samples

ENGLISH = 51_864  # tokens of the models that know English only
LANGUAGE_ID = ("encoder, language-ID", "language-ID pass")  # stages that a stream of one language lacks

Costs = Mapping[str, float]  # by stage


@dataclass(slots=True, frozen=True)
class Size:
    """Dimensions of a model, and how much of the run is replayed on it."""

    state: int
    heads: int
    audio_layers: int
    text_layers: int
    mels: int = 80
    vocabulary: int = 51_865
    step: int = 5  # every so many units
    rounds: int = 2  # the first of two is a warm-up

    @property
    def dims(self) -> dict[str, int]:
        audio = {"n_mels": self.mels, "n_audio_ctx": 1500, "n_audio_state": self.state, "n_audio_head": self.heads}
        text = {"n_vocab": self.vocabulary, "n_text_ctx": 448, "n_text_state": self.state, "n_text_head": self.heads}
        return {**audio, "n_audio_layer": self.audio_layers, **text, "n_text_layer": self.text_layers}


SIZES = {
    "tiny.en": Size(384, 6, 4, 4, vocabulary=ENGLISH),
    "tiny": Size(384, 6, 4, 4),
    "base": Size(512, 8, 6, 6),
    "small": Size(768, 12, 12, 12, step=10),
    "medium": Size(1024, 16, 24, 24, step=20, rounds=1),
    "turbo": Size(1280, 20, 32, 4, mels=128, vocabulary=51_866, step=25, rounds=1),
    "large-v3": Size(1280, 20, 32, 32, mels=128, vocabulary=51_866, step=25, rounds=1),
}


@dataclass(slots=True, frozen=True)
class Row:
    """Figures of one size: processor seconds per second of audio."""

    model: str
    weights: str
    parameters_m: float
    encoder: float
    language_id: float | None  # the first-token pass; its encoder windows are part of ``encoder``
    decoder: float
    total: float  # with the rest
    ratio: float  # of the calls to base
    low: float | None
    high: float | None
    streams_per_core: float
    carried: bool  # whether one core carries a stream
    memory_mb: float
    n_units: int
    step: int


def resident() -> int:
    """Bytes that are resident after garbage collection."""
    gc.collect()
    trim_heap()
    return process_memory()["VmRSS"]


def memory_mb(size: Size) -> float:
    """Megabytes that a model keeps after building, two windows and a decode, measured in a process of its own."""
    code = "import sys; from benchmarks.sizes import print_memory; print_memory(*map(int, sys.argv[1:]))"
    dims = size.state, size.heads, size.audio_layers, size.text_layers, size.mels, size.vocabulary
    command = [sys.executable, "-P", "-c", code, *map(str, dims)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def print_memory(*dims: int) -> None:
    """The child process of `memory_mb`: a tiny model loads the libraries before."""
    calls = [
        Call("encode", audio=samples(2.5), silence=samples(0.5), pooled=True),
        Call("language", positions=75, n=5),
        Call("encode", audio=samples(4), silence=samples(1)),
        Call("open", positions=250),
        Call("extend", positions=250, n=12),
        Call("likeliest", n=1, best=1, masked=True),
    ]
    held, kept = 0, []
    with torch_threads(1):
        for size in (Size(64, 1, 4, 2), Size(*dims)):
            held = resident()
            weights = random_weights("unnamed", size.dims)
            kept.append((weights, Player(weights)))
            kept[-1][1].play(calls)
    print((resident() - held) / 1e6)


def without_language_id(unit: Sequence[Call]) -> list[Call]:
    """The calls that a stream of one language makes too."""
    return [call for call in unit if call.stage not in LANGUAGE_ID]


def row(name: str, size: Size, weights: Weights, base: Player, run: LiveRun, words: str) -> Row:
    """Replay a sample of the run on a model and on base in turns."""
    english, every = weights.dims["n_vocab"] == ENGLISH, units(run.calls)
    picked = sampled(every, size.step)
    if english:
        picked = [unit for unit in map(without_language_id, picked) if unit]
    player = Player(weights)
    for number in range(size.rounds):
        pairs: list[tuple[Costs, Costs]] = []
        for at, unit in enumerate(picked):
            if (at + number) % 2:
                other = base.play(unit)
                own = player.play(unit)
            else:
                own = player.play(unit)
                other = base.play(unit)
            pairs.append((own, other))
    live = {**run.cost, **(dict.fromkeys(LANGUAGE_ID, 0.0) if english else {})}
    cost = scaled(pairs, live)
    among = resamples(len(pairs), np.random.default_rng(0), 500)
    draws = [sum(scaled([pairs[i] for i in draw], live).values()) / sum(live.values()) for draw in among]
    low, high = central(draws) if len(pairs) >= LEAST_UNITS else (None, None)
    total = sum(cost.values()) + run.rest_s
    return Row(
        model=name,
        weights=words,
        parameters_m=sum(math.prod(shape) for _, shape in tensor_shapes(weights.dims)) / 1e6,
        encoder=cost["encoder, language-ID"] + cost["encoder, text"],
        language_id=None if english else cost["language-ID pass"],
        decoder=cost["cross keys/values"] + cost["decoder"] + cost["vocabulary"],
        total=total,
        ratio=sum(cost.values()) / sum(live.values()),
        low=low,
        high=high,
        streams_per_core=1 / total,
        carried=total < 1,
        memory_mb=memory_mb(size),
        n_units=len(picked),
        step=size.step,
    )


def scaled(pairs: Sequence[tuple[Costs, Costs]], live: Costs) -> dict[str, float]:
    """The live cost of base by stage, times the model's share of base's time in the pairs."""
    found = {}
    for stage in STAGES:
        own, other = (sum(pair[side][stage] for pair in pairs) for side in (0, 1))
        found[stage] = live[stage] * own / other if other else 0.0
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows as a table for the terminal."""
    shown = []
    for one in rows:
        shown.append(
            {
                "model": f"{one.model}, {one.weights}",
                "million": round(one.parameters_m),
                "encoder": one.encoder,
                "language-ID": one.language_id,
                "decoder": one.decoder,
                "total": one.total,
                "ratio to base": with_interval(one.ratio, None if one.low is None else (one.low, one.high or 0.0)),
                "streams": one.streams_per_core,
                "live": "yes" if one.carried else "no",
                "MB": round(one.memory_mb),
                "units": f"{one.n_units}, 1/{one.step}",
            }
        )
    return text_table(shown)


def english_speech() -> FloatArray:
    """The English segments of the first recordings, joined."""
    parts: list[FloatArray] = []
    for corpus in CORPORA:
        recording = data.load(corpus, "dev")[0]
        audio = recording.audio()
        parts += [
            audio[samples(segment.start) : samples(segment.end)]
            for segment in recording.segments
            if segment.lang == "en"
        ]
    return np.concatenate(parts)


def english_live() -> dict[str, float]:
    """Processor seconds per second of live runs on English, language given, chunk by chunk in turns."""
    audio, used = english_speech(), dict.fromkeys(("tiny.en", "base"), 0.0)
    streams = {name: SessionRestartTranscriber(load_weights(name), language="en") for name in used}
    for transcriber in streams.values():
        transcriber.process(audio[: samples(WARM_UP_S)])
        transcriber.reset()
    for start in range(0, len(audio) + CHUNK, CHUNK):
        for name, transcriber in streams.items():
            began = time.process_time()
            transcriber.process(audio[start : start + CHUNK]) if start < len(audio) else transcriber.finalize()
            used[name] += time.process_time() - began
    audio_s = len(audio) / samples(1)
    return {"audio_s": audio_s, **{name: spent / audio_s for name, spent in used.items()}}


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SIZES), help="default: %(default)s")
    parser.add_argument("--calls", type=Path, help="file of the recorded calls; written if it does not exist")
    parser.add_argument("--english", action="store_true", help="also a live run of tiny.en and base, real weights")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    run = saved_or_recorded(arguments.calls)
    every = units(run.calls)
    print(f"{run.audio_s:.0f} s of audio, {len(run.calls)} calls in {len(every)} units", flush=True)
    live_s = run.processor_s / run.audio_s
    print(f"live: {live_s:.3f} processor s per s, {run.rest_s:.3f} of it outside the network", flush=True)
    with torch_threads(1):
        real = load_weights("base")
        base = Player(real)
        for unit in sampled(every, 5):  # a warm-up
            base.play(unit)
        rows = []
        for name in arguments.models.split(","):
            size = SIZES[name]
            print(f"{name}: every {size.step}th unit, beside base", flush=True)
            rows.append(row(name, size, random_weights(name, size.dims), base, run, "random"))
            print(table(rows[-1:]), flush=True)
        english = english_live() if arguments.english else None
    print(table(rows))
    print(f"processor seconds per second of audio; total includes {run.rest_s:.3f} outside the network")
    if english:
        told = f"tiny.en {english['tiny.en']:.3f}, base {english['base']:.3f}"
        print(f"live on {english['audio_s']:.0f} s of English, language given: {told}")
    if arguments.json:
        found = {"rows": [asdict(one) for one in rows], "english": english, "live": run.cost, "rest": run.rest_s}
        arguments.json.write_text(json.dumps({**found, **provenance()}, indent=1), "utf-8")


if __name__ == "__main__":
    main()

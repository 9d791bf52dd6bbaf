"""Is a compiled encoder faster than the uncompiled one, on windows of real speech, by the wall clock?

    python benchmarks/compiled.py --threads 1
    python benchmarks/compiled.py --threads 2 --precision bf16
    python benchmarks/compiled.py --threads 1 --tuned    # with inductor's max_autotune as well, which takes minutes

`encoder` is `ShortWindowEncoder` (packed oneDNN products). The same network as a plain module runs uncompiled
(`module`), compiled ahead of time (`compiled`, as ``compute.compiled`` does), through torch.compile with frozen
weights, and through TorchScript. All take turns, window by window, from log-mel to features, without pooling.
Ratios are to `encoder` of the same precision in the same round: below 1 is faster. First calls are those of a
process; `compiled` loads its code from the cache, or compiles it first. Errors are relative to the encoder in
float32, over all windows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import get_args

import torch

from whisperlab import data
from whisperlab.evaluation.trace import provenance
from whisperlab.model import weights as models
from whisperlab.model.compiled_encoder import CompiledNetwork, Part, PartName, compiled_encoder
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import Precision
from whisperlab.model.weights import Weights
from whisperlab.util.statistics import median_interval, ratio
from whisperlab.util.text_table import text_table, with_interval
from whisperlab.util.threads import THREADS
from whisperlab.util.timeline import samples
from whisperlab.util.timing import time_in_turns

WINDOWS_S = (2, 3, 6)
N_WINDOWS = 8  # one of each recording, from its fifth second on
FROM_S = 5
WARM_UP = 3  # calls after the first; TorchScript settles with its third

SPLIT = 3  # where language-ID pools

Forward = Callable[[torch.Tensor], torch.Tensor]
Compiled = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(slots=True, frozen=True)
class Row:
    """One form of the encoder at one length: ``ratio`` to `ShortWindowEncoder`, with its 95 % interval of n turns."""

    precision: Precision
    form: str
    window_s: float
    first_s: float
    ms: float
    ratio: float
    low: float | None
    high: float | None
    n: int
    error: float


def forms(weights: Weights, precision: Precision, tuned: bool) -> dict[str, Forward]:
    """Every form of the encoder by name; the first is the baseline."""

    def network(make: Callable[[torch.nn.Module], Compiled] = lambda part: part) -> Forward:
        head, tail = (make(Part(name, weights, precision, SPLIT).eval()) for name in get_args(PartName))
        return all_positions(CompiledNetwork(head, tail, precision, SPLIT))

    found: dict[str, Forward] = {
        "encoder": all_positions(ShortWindowEncoder(weights, precision).forward),
        "module": network(),
        "compiled": all_positions(compiled_encoder(weights, precision, SPLIT).forward),
        "torch.compile": network(partial(torch.compile, dynamic=True, options={"freezing": True})),
        "TorchScript": network(scripted),
    }
    if tuned:
        options = {"freezing": True, "max_autotune": True}
        found["torch.compile, tuned"] = network(partial(torch.compile, dynamic=False, options=options))
    return found


def all_positions(network: Callable[[torch.Tensor, None], torch.Tensor]) -> Forward:
    """The network without pooling."""
    return lambda mel: network(mel, None)


def scripted(module: torch.nn.Module) -> Compiled:
    """The module traced and frozen by TorchScript, once for every length."""
    traces: dict[torch.Size, Compiled] = {}

    def run(x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        if x.shape not in traces:
            trace = torch.jit.trace(module, (x, seen), check_trace=False)  # type: ignore[no-untyped-call]
            traces[x.shape] = torch.jit.freeze(trace)
        return traces[x.shape](x, seen)

    return run


def rows(
    weights: Weights, precision: Precision, speech: Mapping[float, Sequence[torch.Tensor]], rounds: int, tuned: bool
) -> Iterator[Row]:
    """Every form at every length; ``speech`` is log-mel by seconds."""
    subjects, exact = forms(weights, precision, tuned), all_positions(ShortWindowEncoder(weights).forward)
    for window_s, mels in speech.items():
        wanted = torch.cat([exact(mel) for mel in mels])
        first_s, error = {}, {}
        for form, forward in subjects.items():
            began = time.perf_counter()
            forward(mels[0])
            first_s[form] = time.perf_counter() - began
            for _ in range(WARM_UP):
                forward(mels[0])
            error[form] = float((torch.cat([forward(mel) for mel in mels]) - wanted).norm() / wanted.norm())
        turns = {form: over(forward, mels) for form, forward in subjects.items()}
        times = time_in_turns(turns, rounds, time.perf_counter_ns)
        for form, took in times.items():
            against = ratio(form, took, times["encoder"])
            yield Row(
                precision=precision,
                form=form,
                window_s=window_s,
                first_s=first_s[form],
                ms=median_interval(took)[0],
                ratio=against.value,
                low=against.low,
                high=against.high,
                n=len(took),
                error=error[form],
            )


def over(forward: Forward, mels: Sequence[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A subject that takes the next window at every turn."""
    windows = itertools.cycle(mels)
    return lambda: forward(next(windows))


def speech(encoder: ShortWindowEncoder) -> dict[float, list[torch.Tensor]]:
    """Log-mel spectrograms of windows of every length."""
    recordings = data.load("ivr-five", "dev")[:N_WINDOWS]
    audio = [recording.audio()[samples(FROM_S) :] for recording in recordings]
    return {
        length_s: [encoder.mel([one[: samples(length_s)]], samples(length_s)) for one in audio]
        for length_s in WINDOWS_S
    }


def main() -> None:
    """Measure and print a table, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: both")
    parser.add_argument("--tuned", action="store_true", help="also with max_autotune")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # One function serves every network, and each length is a compilation of a static one.
    torch._dynamo.config.recompile_limit = 64
    weights = models.load_weights("base")
    windows = speech(ShortWindowEncoder(weights))
    asked: Sequence[Precision] = [arguments.precision] if arguments.precision else ["bf16", "fp32"]
    found: list[dict[str, object]] = []
    with torch.no_grad():
        for precision in asked:
            torch.compiler.reset()
            for row in rows(weights, precision, windows, arguments.rounds, arguments.tuned):
                shown = with_interval(row.ratio, row.low and (row.low, row.high), ".3f")
                print(f"{precision} {row.form}, {row.window_s:g} s: {row.ms:.2f} ms, x {shown}", flush=True)
                found.append(asdict(row))
    print(text_table(found))
    print(json.dumps({"threads": arguments.threads, "rows": found, **provenance()}))


if __name__ == "__main__":
    main()

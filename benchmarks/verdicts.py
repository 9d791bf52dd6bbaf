"""How often a verdict errs: one stage against itself, and against itself with a planted slowdown, by the wall clock.

    python benchmarks/verdicts.py                       # 200 trials of nothing, 50 of 5 %
    python benchmarks/verdicts.py --rounds 60 --slowdown 0.03

The stage is the encoder on a window of real speech. The planted slowdown spins for a share of the stage's own median
after every run. A verdict should call a difference in at most 5 % of the trials in which there is none, and in at
least 90 % of those in which there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from whisperlab import data
from whisperlab.evaluation.scoring import wilson
from whisperlab.evaluation.trace import provenance
from whisperlab.experiments.significance import in_pairs, judge
from whisperlab.model import weights as models
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import check_precision
from whisperlab.util.threads import THREADS
from whisperlab.util.timeline import samples


def main() -> None:
    """Measure and print the shares with their intervals, then everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="pairs in a trial")
    parser.add_argument("--calls", type=int, default=2, help="calls of the stage in a run")
    parser.add_argument("--nothing", type=int, default=200, help="trials without a difference")
    parser.add_argument("--planted", type=int, default=50, help="trials with one")
    parser.add_argument("--slowdown", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights = models.load_weights("base")
    encoder = ShortWindowEncoder(weights, check_precision(None, weights.device))
    window = data.load("ivr-five", "dev")[0].audio()[samples(5) : samples(6)]

    def stage() -> None:
        for _ in range(arguments.calls):
            encoder.encode(window, 0)

    for _ in range(20):
        stage()
    took = [_timed(stage) for _ in range(50)]

    def slower() -> None:
        stage()
        until = time.perf_counter() + arguments.slowdown * median(took)
        while time.perf_counter() < until:
            pass

    rng = np.random.default_rng(0)
    found = {}
    for name, other, trials in (
        ("nothing", stage, arguments.nothing),
        ("planted", slower, arguments.planted),
    ):
        calls: Counter[str] = Counter()
        for _ in range(trials):
            a, b = in_pairs(stage, other, arguments.rounds, time.perf_counter)
            calls[judge("stage", a, b, rng).call] += 1
        low, high = wilson(calls["difference"], trials)
        share = calls["difference"] / trials
        print(f"{name}: a difference called in {share:.1%} ({low:.1%}-{high:.1%}) of {trials}; {dict(calls)}")
        found[name] = dict(calls)
    options = {**vars(arguments), "stage_ms": 1000 * median(took)}
    print(json.dumps({"options": options, "calls": found, **provenance()}))


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

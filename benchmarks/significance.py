"""Error rates of the significance test: a stage against itself, without and with an artificial slowdown.

    python benchmarks/significance.py                       # 200 trials without, 50 with a slowdown of 5 %
    python benchmarks/significance.py --rounds 60 --slowdown 0.03

The stage is the encoder on a window of real speech, by the wall clock. The slowdown spins for a share of the stage's
median after every run. The test should report a difference in at most 5 % of the trials without one, and in at least
90 % of those with one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from statistics import median

import numpy as np
import torch

from whisperlab import data
from whisperlab.evaluation.trace import provenance
from whisperlab.experiments.significance import paired_test
from whisperlab.model import weights as models
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import check_precision
from whisperlab.util.statistics import wilson
from whisperlab.util.threads import THREADS
from whisperlab.util.timeline import samples
from whisperlab.util.timing import time_in_turns


def main() -> None:
    """Measure and print the shares with their intervals, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="pairs in a trial")
    parser.add_argument("--calls", type=int, default=2, help="calls of the stage in a run")
    parser.add_argument("--unchanged", type=int, default=200, help="trials without a slowdown")
    parser.add_argument("--slowed", type=int, default=50, help="trials with one")
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
    stage_s = median(time_in_turns({"stage": stage}, 50, time.perf_counter_ns)["stage"]) / 1000

    def slower() -> None:
        stage()
        until = time.perf_counter() + arguments.slowdown * stage_s
        while time.perf_counter() < until:
            pass

    rng = np.random.default_rng(0)
    found = {}
    for name, other, trials in (("unchanged", stage, arguments.unchanged), ("slowed", slower, arguments.slowed)):
        calls: Counter[str] = Counter()
        for _ in range(trials):
            times = time_in_turns({"a": stage, "b": other}, arguments.rounds, time.perf_counter_ns)
            calls[paired_test("stage", times["a"], times["b"], rng).conclusion] += 1
        low, high = wilson(calls["difference"], trials)
        share = calls["difference"] / trials
        print(f"{name}: a difference reported in {share:.1%} ({low:.1%}-{high:.1%}) of {trials}; {dict(calls)}")
        found[name] = dict(calls)
    options = {**vars(arguments), "stage_ms": 1000 * stage_s}
    print(json.dumps({"options": options, "calls": found, **provenance()}))


if __name__ == "__main__":
    main()

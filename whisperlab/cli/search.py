"""Search options of the transcriber for few errors, quick answers and little memory, all three at once.

What comes out is a Pareto front: the configurations that no other beats in everything. A space is JSON, or a file of
it: lists are choices, {"low": 0.5, "high": 0.95} is a range (also "step", "log": true), all else is fixed; vad, lid,
smoothing, decoding and session are groups. A search can be stopped at any time; --resume with the same space, method
and seed goes on where it stopped, also with more trials. It chooses by its results, so it runs on the split dev;
what it finds is then run once on test. Times are measured beside the other workers: give each a core of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import positive_int
from whisperlab.cli.console import Console, counted, table
from whisperlab.cli.needs import Needs
from whisperlab.cli.sweep import add_run_arguments, check_out, running, shared
from whisperlab.cli.sweep import needs as sweep_needs
from whisperlab.util.errors import SweepError

if TYPE_CHECKING:
    from whisperlab.experiments.search import Trial

HELP = "configurations worth having, out of many"
EXAMPLES = (
    """search --space '{"lid": {"sure": {"low": 0.5, "high": 0.95}}, "precision": ["fp32", "bf16"]}' --trials 20""",
    """search --space space.json --method random --seed 1 --trials 40 --workers 2 --out reports/search""",
    """search --space space.json --method random --seed 1 --trials 60 --out reports/search --resume --json""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab search``."""
    parser.add_argument("--space", required=True, metavar="JSON|FILE", help="the options to search over")
    parser.add_argument("--trials", type=positive_int, default=20, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--method",
        choices=("random", "adaptive"),
        default="adaptive",
        help="adaptive learns from the trials so far (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the proposals (default: %(default)s)")
    add_run_arguments(parser, split="dev", out="reports/search")


def needs(args: argparse.Namespace) -> Needs:
    """optuna, and what a sweep needs."""
    return {"optuna": "search", **sweep_needs(args)}


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the trials that are not there yet and print the Pareto front; 1 when a trial failed."""
    from whisperlab import data
    from whisperlab.experiments.search import Space, check_recordings, search
    from whisperlab.model import weights
    from whisperlab.streaming.language_id import check_languages

    space = Space.from_json(args.space)
    check_out(args)
    recordings = data.load(args.corpus, args.split)[: args.limit]
    check_recordings(recordings)
    model = weights.load_weights(args.model, args.device, say=console.note)
    check_languages(shared(args, recordings)["languages"], model.n_languages)
    digest = weights.model_digest(model)
    with running(args, model, digest, console) as options:
        found = search(
            space,
            recordings,
            args.out,
            trials=args.trials,
            method=args.method,
            seed=args.seed,
            shared=shared(args, recordings),
            **options,
        )
    split = ", ".join(sorted({recording.split for recording in recordings} - {""})) or None
    chosen_by = f"{len(recordings)} of the recordings of {args.corpus}, {f'split {split}' if split else 'of no split'}"
    console.document(
        {
            "out": str(args.out),
            "method": args.method,
            "seed": args.seed,
            "corpus": args.corpus,
            "split": split,
            "recordings": len(recordings),
            "found": found.found,
            "ran": found.ran,
            "failed": len(found.failed),
            "normalizer": "plain",
            "front": [trial.to_dict() for trial in found.front],
            "trials": [trial.to_dict() for trial in found.trials],
        }
    )
    console.show(table([_line(trial) for trial in found.front]))
    console.show(
        f"{len(found.front)} of {len(found.trials)} configurations are on the Pareto front; "
        f"chosen by {chosen_by}: on others expect worse"
    )
    console.show(counted())
    if found.failed:
        raise SweepError(
            f"{len(found.failed)} of {len(found.trials)} trials failed, the first with {found.failed[0].error}; "
            "--retry-failed runs them again"
        )
    return 0


def _line(trial: Trial) -> Mapping[str, Any]:
    words, response_s, memory = trial.objectives or (None,) * 3
    return {
        "trial": trial.number,
        "words wrong": words,
        "response p95 s": response_s,
        "peak MiB": memory and round(memory / 2**20),
        **trial.values,
    }

"""Search options of the transcriber for few errors, quick answers and little memory, all three at once.

The result is a Pareto front: the configurations that no other beats in everything. A space is JSON, or a file of it:
lists are choices, {"low": 0.5, "high": 0.95} is a range (also "step", "log": true), other values are fixed. A stopped
search continues with --resume and the same space, method and seed, also with more trials. It chooses by its results,
so it runs on the split dev; run the chosen configuration once on test. Times are measured beside the other workers:
give each worker a core.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import positive_int
from whisperlab.cli.console import Console, counted, percent
from whisperlab.cli.needs import Needs
from whisperlab.cli.sweep import add_run_arguments, check_out, running, shared
from whisperlab.cli.sweep import needs as sweep_needs
from whisperlab.util.errors import SweepError
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.experiments.search import SearchResult, Trial

HELP = "the best configurations out of many"
EXAMPLES = (
    """search --space '{"language_id.confident_above": {"low": 0.5, "high": 0.95}}' --trials 20""",
    """search --space space.json --method random --seed 1 --trials 40 --workers 2 --out reports/search""",
    """search --space space.json --method random --seed 1 --trials 60 --out reports/search --resume --json""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, methods = parser.add_argument, ("random", "adaptive")
    add("--space", required=True, metavar="JSON|FILE", help="the options to search over")
    add("--trials", type=positive_int, default=20, metavar="N", help="number of configurations to try")
    add("--method", choices=methods, default="adaptive", help="adaptive learns from the trials so far")
    add("--seed", type=int, default=0, help="seed of the proposals")
    add_run_arguments(parser, split="dev", out="reports/search")


def needs(args: argparse.Namespace) -> Needs:
    """optuna and the needs of a sweep."""
    return {"optuna": "search", **sweep_needs(args)}


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the missing trials and print the Pareto front; raises SweepError when a trial failed."""
    from whisperlab import data
    from whisperlab.experiments.search import Space, check_recordings, search
    from whisperlab.model import weights
    from whisperlab.streaming.language_id import check_languages

    space = Space.from_json(args.space)
    check_out(args)
    recordings = data.load(args.corpus, args.split)[: args.limit]
    check_recordings(recordings)
    options = shared(args, recordings)
    with console.busy(f"loading the model {args.model}"):
        model = weights.load_weights(args.model, args.device, say=console.note)
    check_languages(options["languages"], model.n_languages)
    limits = {"trials": args.trials, "method": args.method, "seed": args.seed}
    with running(args, model, weights.model_digest(model), console) as run_options:
        result = search(space, recordings, args.out, shared=options, **limits, **run_options)
    splits = ", ".join(sorted({recording.split for recording in recordings} - {""})) or None
    _show(args, console, result, splits, len(recordings))
    if result.failed:
        raise SweepError(
            f"{len(result.failed)} of {len(result.trials)} trials failed, the first with {result.failed[0].error}; "
            "--retry-failed runs them again"
        )
    return 0


def _show(
    args: argparse.Namespace, console: Console, result: SearchResult, splits: str | None, n_recordings: int
) -> None:
    asked = {"out": str(args.out), "method": args.method, "seed": args.seed, "corpus": args.corpus, "split": splits}
    counts = {"recordings": n_recordings, "found": result.found, "ran": result.ran, "failed": len(result.failed)}
    document = {
        **asked,
        **counts,
        "normalizer": "plain",
        "front": [trial.to_dict() for trial in result.front],
        "trials": [trial.to_dict() for trial in result.trials],
    }
    origin = (
        f"{len(result.front)} of {len(result.trials)} configurations are on the Pareto front; chosen by "
        f"{n_recordings} of the recordings of {args.corpus}, {f'split {splits}' if splits else 'of no split'}: on "
        "others expect worse"
    )
    console.result(document, text_table([_row(trial) for trial in result.front]), origin, counted())


def _row(trial: Trial) -> dict[str, object]:
    words, response_s, memory = trial.objectives or (None,) * 3
    return {
        "trial": trial.number,
        "words wrong": percent(words),
        "response p95 (s)": response_s,
        "peak memory (MiB)": memory and round(memory / 2**20),
        **trial.values,
    }

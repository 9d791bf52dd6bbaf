"""Search options of the transcriber for few errors, quick answers and little memory, all three at once.

The result is a Pareto front: the configurations that no other beats in everything. A space is JSON, or a file of it:
lists are choices, {"low": 0.5, "high": 0.95} is a range (also "step", "log": true), other values are fixed. A stopped
search continues with --resume and the same space, method and seed, also with more trials. It chooses by its results,
so it runs on the split dev; run the chosen configuration once on test. Times are measured beside the other workers:
give each worker a core.
"""

import argparse

from whisperlab.cli import arguments
from whisperlab.cli.console import Console, counted, percent
from whisperlab.cli.sweep import check_out, loaded, running, shared, show_plan
from whisperlab.util.errors import SweepError
from whisperlab.util.text_table import text_table


def run(args: argparse.Namespace, console: Console) -> None:
    """Run the missing trials and print the Pareto front; raises SweepError when a trial failed."""
    cluster = {"ray": "--ray"} if args.ray and not args.dry_run else {}
    arguments.require({"optuna": "search", **cluster})
    from whisperlab.experiments import search, sweep

    space = search.Space.from_json(args.space)
    if not args.dry_run:
        check_out(args)
    recordings = arguments.recordings(args)
    search.check_recordings(recordings)
    model, digest = loaded(args, recordings, console)
    if args.dry_run:
        configs = search.sample(space, args.trials, seed=args.seed, shared=shared(args, recordings))
        if args.method == "adaptive":
            console.note("an adaptive search chooses by its results; this estimate is that of a random one")
        show_plan(args, console, sweep.plan(configs, recordings, digest), model)
        return
    limits = {"trials": args.trials, "method": args.method, "seed": args.seed}
    with running(args, model, digest, console) as options:
        result = search.search(space, recordings, args.out, shared=shared(args, recordings), **limits, **options)
    splits = ", ".join(sorted({recording.split for recording in recordings} - {""})) or None
    n_trials, n_failed = len(result.trials), len(result.failed)
    given = {name: getattr(args, name) for name in ("out", "method", "seed", "corpus")}
    did = {"split": splits, "recordings": len(recordings), "found": result.found, "ran": result.ran, "failed": n_failed}
    front, trials = ([trial.to_dict() for trial in some] for some in (result.front, result.trials))
    document = {**given, **did, "normalizer": "plain", "front": front, "trials": trials}
    chosen = f"{len(result.front)} of {n_trials} configurations are on the Pareto front; chosen by"
    source = f"{len(recordings)} of the recordings of {args.corpus}, {f'split {splits}' if splits else 'of no split'}"
    rows: list[dict[str, object]] = []
    for trial in result.front:
        words, response_s, memory = trial.objectives or (None,) * 3
        peak = {"response p95 (s)": response_s, "peak memory (MiB)": memory and round(memory / 2**20)}
        rows.append({"trial": trial.number, "words wrong": percent(words), **peak, **trial.values})
    console.result(document, text_table(rows), f"{chosen} {source}: on others expect worse", counted())
    if result.failed:
        first = f"the first with {result.failed[0].error}"
        raise SweepError(f"{n_failed} of {n_trials} trials failed, {first}; --retry-failed runs them again")

"""Run a grid of configurations over recordings: every pair leaves a row in results.sqlite and a trace.

A sweep can be stopped at any time; --resume continues it. With --no-decode only language-ID runs: the hit and
false-hit rates of the cache depend on nothing else.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from whisperlab.cli import arguments
from whisperlab.cli.arguments import TABLES
from whisperlab.cli.console import Console, counted, percent
from whisperlab.util.errors import SweepError
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.experiments.sweep import Grid, RunOptions, Task
    from whisperlab.model.weights import Weights

# The columns of the table; --json has all of them.
COLUMNS = TABLES["sweep_columns"]


def run(args: argparse.Namespace, console: Console) -> None:
    """Run the tasks without a result and print the rates of each configuration; 1 when a task failed."""
    from whisperlab.experiments import results_store, sweep
    from whisperlab.report import counts

    arguments.require({"ray": "--ray"} if args.ray and not args.dry_run else {})
    grid(args, ()).configurations()  # raises for a value out of range
    if not args.dry_run:
        check_out(args)
    recordings = arguments.recordings(args)
    configurations = grid(args, recordings).configurations()
    model, digest = loaded(args, recordings, console)
    tasks = sweep.plan(configurations, recordings, digest)
    if args.dry_run:
        show_plan(args, console, tasks, model)
        return
    with running(args, model, digest, console) as options:
        outcome = sweep.run_sweep(configurations, recordings, args.out, **options)
    with results_store.open_store(args.out) as store:
        keys = json.dumps([task.key for task in tasks])
        found = counts.results(store, "key in (select value from json_each(?))", (keys,))
    if outcome.peak_rss_bytes:
        console.note(f"peak memory of a process, model included: {outcome.peak_rss_bytes >> 20:,} MiB")
    results = [result.to_dict() for result in found]
    cells = [[(title, name, row.get(name)) for title, name in COLUMNS.items()] for row in results]
    table = [{title: percent(cell) if "rate" in name else cell for title, name, cell in row} for row in cells]
    did = {name: getattr(outcome, name) for name in ("planned", "found", "ran", "failed")}
    console.result({"out": str(args.out), **did, "results": results}, text_table(table), counted())
    if outcome.failed:
        own_error = any(row["status"] == "failed" for row in outcome.failed)
        option = "--retry-failed" if own_error else "--resume"
        raise SweepError(f"{len(outcome.failed)} of {outcome.planned} tasks failed; {option} runs them again")


def loaded(args: argparse.Namespace, recordings: "Sequence[Recording]", console: Console) -> "tuple[Weights, str]":
    """The model and its digest. Raises if it lacks one of the languages."""
    from whisperlab.model import weights
    from whisperlab.streaming.language_id import check_languages

    with console.busy(f"loading the model {args.model}"):
        model = weights.load_weights(args.model, args.device, say=console.note)
    check_languages(shared(args, recordings)["languages"], model.n_languages)
    return model, weights.model_digest(model)


@contextmanager
def running(args: argparse.Namespace, model: "Weights", digest: str, console: Console) -> "Iterator[RunOptions]":
    """The options of a sweep or search; after Ctrl-C prints the one command that continues it."""
    try:
        output: RunOptions = {"progress": console.err.isatty() and not console.quiet, "say": console.note}
        run: RunOptions = {"model_digest": digest, "retry_failed": args.retry_failed}
        yield {**workers(args, model, digest, console), **run, **output}
    except KeyboardInterrupt:
        command = [*args.argv, *([] if args.resume or args.retry_failed else ["--resume"])]
        console.note(f"To continue: {shlex.join(['whisperlab', *command])}")
        raise


def workers(args: argparse.Namespace, model: "Weights", digest: str, console: Console) -> "RunOptions":
    """This process with the model it has loaded, or an executor whose workers load their own."""
    from whisperlab.experiments import executors, sweep

    if args.ray is None and args.workers is None:
        return {"make_transcriber": sweep.transcriber_maker(model)}
    out = args.out.resolve()
    load = partial(sweep.load_maker, args.model, args.device, sweep.identity(digest, args.device))
    factory = partial(sweep.task_worker, out, load)
    if args.ray is None:
        return {"executor": partial(executors.local_processes, factory, args.workers)}
    return {"executor": partial(executors.ray_cluster, factory, args.ray, args.workers, say=console.note)}


def grid(args: argparse.Namespace, recordings: "Sequence[Recording]") -> "Grid":
    from whisperlab.experiments.sweep import Grid

    axes = {"cache.size": args.cache_sizes, "cache.hash_precision": args.hash_precisions, "cache.key": args.keys}
    fixed = {"decode": not args.no_decode, "cache.shadow_rate": args.shadow_rate}
    return Grid({**axes, "language_id.hop_ms": args.lid_hop_ms}, {**shared(args, recordings), **fixed})


def shared(args: argparse.Namespace, recordings: "Sequence[Recording]") -> dict[str, Any]:
    """The options of all configurations; the languages are those of the recordings when none are given."""
    spoken = sorted({language for recording in recordings for language in recording.languages})
    languages = args.languages or spoken or None
    compute = {f"compute.{name}": getattr(args, name) for name in ("engine", "device", "threads")}
    return {"languages": languages, **compute}


def check_out(args: argparse.Namespace) -> None:
    """Raise SweepError if the folder holds results, unless the sweep is to be continued."""
    from whisperlab.experiments.results_store import STORE

    store = args.out / STORE
    if store.exists() and not (args.resume or args.retry_failed):
        raise SweepError(f"{store} holds results already: --resume continues it, --out takes another folder")


def show_plan(args: argparse.Namespace, console: Console, tasks: "Sequence[Task]", model: "Weights") -> None:
    """Print the planned runs, the estimate of their time, and the audio that it was measured on."""
    from whisperlab.experiments import cost, results_store, sweep

    found: dict[str, str] = {}
    known: dict[str, cost.Cost] = {}
    if (args.out / results_store.STORE).exists():
        with results_store.open_store(args.out) as store:
            found = store.statuses([task.key for task in tasks])
            known = cost.from_store(store)
    todo = sweep.remaining(tasks, found, retry_failed=args.retry_failed)
    audio_s = sum(task.recording.duration for task in todo)
    n_workers = args.workers or 1
    plan: dict[str, object] = {"planned": len(tasks), "to_run": len(todo), "audio_s": audio_s}
    console.show(f"{len(tasks)} tasks, {len(todo)} to run: {audio_s / 60:.1f} minutes of audio")
    if todo:
        audio = todo[0].recording.audio()
        with console.busy("measuring the time that the configurations take on some seconds of audio"):
            costs = cost.probe(sweep.transcriber_maker(model), [task.config for task in todo], audio, known)
        took = cost.seconds(todo, costs, n_workers)
        measured_s = sum({id(one): one.audio_s for one in costs.values()}.values())
        plan |= {"workers": n_workers, "seconds": took, "measured_audio_s": measured_s}
        told = f"about {took / 60:.1f} minutes with {n_workers} worker{'s' * (n_workers > 1)}, measured on"
        origin = f"{measured_s:.0f} s of audio here and in earlier rows, without the effect of other caches"
        console.show(f"{told} {origin}")
    console.document(plan)

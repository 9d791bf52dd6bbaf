"""Run a grid of configurations over recordings: every pair leaves a row in results.jsonl and a trace.

A sweep can be stopped at any time; --resume goes on where it stopped. Without decoding (--no-decode) only
language-ID runs, which is all that the cache's hit and false-hit rates depend on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import add_threads_argument, comma_list, positive_int, share, whole_numbers
from whisperlab.cli.console import Console, counted, table
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.errors import SweepError
from whisperlab.util.threads import THREADS

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.experiments.results_store import Row
    from whisperlab.experiments.sweep import Grid, Task
    from whisperlab.model.weights import Weights

HELP = "a grid of configurations over recordings"
EXAMPLES = (
    "sweep --corpus ivr-five --cache-sizes 10,50 --hash-precisions 6,0 --no-decode --out reports/s",
    "sweep --corpus ivr-five --cache-sizes 10,50 --hash-precisions 6,0 --no-decode --out reports/s --resume "
    "--workers 2",
    "sweep --corpus my/manifest.jsonl --keys rounded,span,logmel --limit 3 --out reports/s --dry-run",
)
# The columns of the table; --json has all of them.
COLUMNS = {
    "key": "config.key",
    "precision": "config.hash_precision",
    "size": "config.cache_size",
    "hop ms": "config.lid_hop_ms",
    "hit rate": "cache.hit_rate",
    "false-hit rate": "cache.false_hit_rate",
    "language wrong": "rates.language_error_rate_frames",
    "words wrong": "rates.mixed_error_rate",
    "failed": "failed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab sweep``."""
    add_run_arguments(parser, split="test", out="reports/sweep")
    parser.add_argument("--cache-sizes", type=whole_numbers, default=[10, 50], metavar="10,50")
    parser.add_argument("--hash-precisions", type=whole_numbers, default=[6, 4, 2, 1, 0], metavar="6,4,2,1,0")
    parser.add_argument("--keys", type=comma_list, default=["rounded"], metavar="rounded,span,logmel,similar")
    parser.add_argument("--lid-hop-ms", type=whole_numbers, default=[100], metavar="100,300")
    parser.add_argument(
        "--shadow-rate", type=share, default=0.2, metavar="0.2", help="share of cache hits that are checked"
    )
    parser.add_argument("--no-decode", action="store_true", help="language-ID only: no text, much faster")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be run and how long it takes, by a try of some seconds",
    )


def add_run_arguments(parser: argparse.ArgumentParser, *, split: str, out: str) -> None:
    """What is run, where its results go, and who works: the same for grids and searches."""
    parser.add_argument("--corpus", default="ivr-five", metavar="NAME|MANIFEST")
    parser.add_argument("--split", default=split, help="dev or test (default: %(default)s)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N recordings")
    parser.add_argument("--model", default="base", help="model name or checkpoint file")
    parser.add_argument("--languages", type=comma_list, metavar="en,es", help="default: those of the corpus")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(out), metavar="DIR")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip what DIR already holds, except tasks whose process died; give the other options again",
    )
    parser.add_argument("--retry-failed", action="store_true", help="resume, and run failed cells again")
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="so many workers, each with --threads (default: this process; with --ray one for each processor)",
    )
    add_threads_argument(parser)
    parser.add_argument(
        "--ray",
        metavar="auto|HOST:PORT",
        help="work on a Ray cluster (RAY_AUTH_MODE=token ray start --head makes one that asks for a token; auto: that "
        "of this machine); needs whisperlab[ray]",
    )
    parser.add_argument(
        "--ship-audio",
        action="store_true",
        help="with --ray, for nodes that do not see these files: audio goes out with the tasks, traces come back",
    )


def needs(args: argparse.Namespace) -> Needs:
    """A cluster needs Ray; the dry run is made here."""
    cluster = {"ray": "--ray"} if args.ray and not getattr(args, "dry_run", False) else {}
    return {**cluster, **speech(args.corpus)}


def run(args: argparse.Namespace, console: Console) -> int:
    """Run what is not there yet and print the rates of each configuration; 1 when a cell failed."""
    from whisperlab import data
    from whisperlab.experiments import results_store, sweep
    from whisperlab.model import weights
    from whisperlab.streaming.language_id import check_languages

    if not args.dry_run:
        check_out(args)
    recordings = data.load(args.corpus, args.split)[: args.limit]
    configurations = grid(args, recordings).configurations()
    model = weights.load_weights(args.model, args.device, say=console.note)
    check_languages(shared(args, recordings)["languages"], model.n_languages)
    digest = weights.model_digest(model)
    if args.dry_run:
        return _say_plan(args, console, sweep.plan(configurations, recordings, digest), model)
    with running(args, model, digest, console) as options:
        outcome = sweep.run_sweep(configurations, recordings, args.out, **options)
    extract = results_store.read_extract(args.out, results_store.MOST_ROWS)
    results = summary(extract.rows)
    if not extract.is_whole:
        console.note(f"the table is {extract.words()}")
    console.document(
        {
            "out": str(args.out),
            "planned": outcome.planned,
            "found": outcome.found,
            "ran": outcome.ran,
            "failed": outcome.failed,
            "results": results,
        }
    )
    console.show(table([{title: row.get(name) for title, name in COLUMNS.items()} for row in results]))
    console.show(counted())
    if outcome.failed:
        own_error = any(row["status"] == "failed" for row in outcome.failed)
        option = "--retry-failed" if own_error else "--resume"
        raise SweepError(f"{len(outcome.failed)} of {outcome.planned} cells failed; {option} runs them again")
    return 0


@contextmanager
def running(
    args: argparse.Namespace, model: Weights, digest: str, console: Console
) -> Iterator[dict[str, Any]]:
    """How tasks are run, as options of sweeps and searches; told how to go on after Ctrl-C, and what memory it took."""
    works = who_works(args, model, digest, console)
    try:
        yield {
            **works,
            "model_digest": digest,
            "retry_failed": args.retry_failed,
            "progress": console.err.isatty(),
            "say": console.note,
        }
    except KeyboardInterrupt:
        console.note(f"the same command with --resume goes on where it was stopped: {args.out}")
        raise
    if memory := getattr(works.get("executor"), "memory", None):
        console.note(memory.words())


def who_works(args: argparse.Namespace, model: Weights, digest: str, console: Console) -> dict[str, Any]:
    """This process with the model it has loaded, or an executor whose workers load their own."""
    from whisperlab.experiments import executors, payload, sweep

    if args.ship_audio and args.ray is None:
        args.parser.error("--ship-audio goes with --ray")
    if args.ray is None and args.workers is None:
        return {"make_transcriber": sweep.transcriber_maker(model)}
    out = args.out.resolve()
    load = partial(sweep.load_maker, args.model, args.device, sweep.identity(digest, args.device))
    factory = partial(sweep.task_worker, out, load)
    if args.ray is None:
        return {"executor": executors.LocalProcesses(factory, args.workers)}
    options = {"n_workers": args.workers, "say": console.note}
    if args.ship_audio:
        return {"executor": payload.Shipping(out, load, args.ray, **options)}
    return {"executor": executors.RayCluster(factory, args.ray, **options)}


def grid(args: argparse.Namespace, recordings: Sequence[Recording]) -> Grid:
    """The grid the arguments describe."""
    from whisperlab.experiments.sweep import Grid

    return Grid(
        cache_size=args.cache_sizes,
        hash_precision=args.hash_precisions,
        key=args.keys,
        lid_hop_ms=args.lid_hop_ms,
        decode=not args.no_decode,
        fixed={**shared(args, recordings), "shadow_rate": args.shadow_rate},
    )


def shared(args: argparse.Namespace, recordings: Sequence[Recording]) -> dict[str, Any]:
    """What all configurations have in common; the languages are those of the recordings when none are given."""
    spoken = sorted({language for recording in recordings for language in recording.languages})
    more = (
        {} if args.threads == THREADS else {"threads": args.threads}
    )  # the default changes no name of a row
    return {"model": args.model, "languages": args.languages or spoken or None, "device": args.device, **more}


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record per configuration: ``whisperlab.experiments.sweep.summarise`` without NaN."""
    from whisperlab.experiments.sweep import summarise

    records: list[dict[str, Any]] = json.loads(summarise(rows).to_json(orient="records"))
    return records


def check_out(args: argparse.Namespace) -> None:
    """Refuse a folder that holds results, unless they are to be gone on with."""
    from whisperlab.experiments.results_store import STORE

    store = args.out / STORE
    if store.exists() and not (args.resume or args.retry_failed):
        raise SweepError(
            f"{store} holds results already: --resume goes on with it, --out takes another folder"
        )


def _say_plan(args: argparse.Namespace, console: Console, tasks: Sequence[Task], model: Weights) -> int:
    """What would be run, how long it would take, and what that is known from."""
    from whisperlab.experiments import cost, results_store, sweep

    todo = sweep.remaining(tasks, results_store.done(args.out), retry_failed=args.retry_failed)
    audio_s = sum(task.recording.duration for task in todo)
    n_workers = args.workers or 1
    plan: dict[str, Any] = {"planned": len(tasks), "to_run": len(todo), "audio_s": audio_s}
    console.show(f"{len(tasks)} cells, {len(todo)} to run: {audio_s / 60:.1f} minutes of audio")
    if todo:
        there = args.out.is_dir()
        known = (
            cost.from_rows(results_store.read_extract(args.out, results_store.MOST_ROWS).rows)
            if there
            else {}
        )
        audio = todo[0].recording.audio()
        costs = cost.probe(sweep.transcriber_maker(model), [task.config for task in todo], audio, known)
        took, stages = cost.seconds(todo, costs, n_workers), cost.by_stage(todo, costs)
        heard = sum({id(one): one.audio_s for one in costs.values()}.values())
        plan |= {"workers": n_workers, "seconds": took, "seconds_by_stage": stages, "measured_audio_s": heard}
        console.show(
            table([{"stage": name, "minutes of computing": seconds / 60} for name, seconds in stages.items()])
        )
        console.show(
            f"about {took / 60:.1f} minutes with {n_workers} worker{'s' * (n_workers > 1)}, measured on {heard:.0f} s "
            "of audio here and by earlier rows; what a cache spares beyond the configuration tried is not in it"
        )
    console.document(plan)
    return 0

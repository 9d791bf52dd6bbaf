"""Run a grid of configurations over recordings: every pair leaves a row in results.sqlite and a trace.

A sweep can be stopped at any time; --resume continues it. With --no-decode only language-ID runs: the hit and
false-hit rates of the cache depend on nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import (
    add_languages_argument,
    add_threads_argument,
    comma_list,
    positive_int,
    share,
    whole_numbers,
)
from whisperlab.cli.console import Console, counted, percent
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.errors import SweepError
from whisperlab.util.json_values import Json
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.experiments.results_store import Row
    from whisperlab.experiments.sweep import Grid, Outcome, RunOptions, Task
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
    "key": "config.cache.key",
    "precision": "config.cache.hash_precision",
    "size": "config.cache.size",
    "hop (ms)": "config.language_id.hop_ms",
    "hit rate": "cache.hit_rate",
    "false-hit rate": "cache.false_hit_rate",
    "wrong language, frames": "rates.language_error_rate_frames",
    "wrong language, text": "rates.language_error_rate",
    "words wrong": "rates.mixed_error_rate",
    "failed": "failed",
}
MOST_ROWS = 10_000  # of a store that is summarised after a sweep; of more only a report is made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_run_arguments(parser, split="test", out="reports/sweep")
    for name, default, text in (
        ("cache-sizes", [10, 50], "most entries of the encoder cache; each value is a configuration"),
        ("hash-precisions", [6, 4, 2, 1, 0], "decimals that the key 'rounded' keeps, from 0 to 12"),
        ("lid-hop-ms", [100], "time between language-ID frames, in milliseconds"),
    ):
        add(f"--{name}", type=whole_numbers, default=default, metavar="N,N", help=text)
    text = "what makes two windows equal: rounded, span, logmel, similar"
    add("--keys", type=comma_list, default=["rounded"], metavar="KEY,KEY", help=text)
    add("--shadow-rate", type=share, default=0.2, metavar="0.2", help="share of cache hits that are checked")
    add("--no-decode", action="store_true", help="language-ID only: no text, much faster")
    add("--dry-run", action="store_true", help="print the planned runs and a time estimate from a short probe")
    text = "only convert the results.jsonl of an earlier version in DIR to results.sqlite"
    add("--import", dest="import_from", type=Path, metavar="DIR", help=text)


def add_run_arguments(parser: argparse.ArgumentParser, *, split: str, out: str) -> None:
    """The arguments that grids and searches share: recordings, model, folder of the results, workers."""
    add = parser.add_argument
    add("--corpus", default="ivr-five", metavar="NAME|MANIFEST", help="the speech: a corpus or your manifest")
    add("--split", default=split, help="dev or test")
    add("--limit", type=positive_int, metavar="N", help="only the first N recordings (default: all)")
    add("--model", default="base", help="model name or checkpoint file")
    add_languages_argument(parser, "those of the corpus")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", type=Path, default=Path(out), metavar="DIR", help="folder of results and traces")
    text = "skip the tasks that DIR holds, except those whose process died; give the other options again"
    add("--resume", action="store_true", help=text)
    add("--retry-failed", action="store_true", help="resume, and run failed tasks again")
    text = "worker processes, each with --threads (default: none; with --ray one per processor)"
    add("--workers", type=positive_int, metavar="N", help=text)
    add_threads_argument(parser)
    text = (
        "run on a Ray cluster (RAY_AUTH_MODE=token ray start --head starts one that requires a token; auto: that of "
        "this machine); needs whisperlab[ray]"
    )
    add("--ray", metavar="auto|HOST:PORT", help=text)
    text = "with --ray, for nodes without access to these files: audio is sent with the tasks, traces return"
    add("--ship-audio", action="store_true", help=text)


def needs(args: argparse.Namespace) -> Needs:
    """A cluster needs Ray, except for a dry run; an import needs nothing."""
    if getattr(args, "import_from", None):
        return {}
    cluster = {"ray": "--ray"} if args.ray and not getattr(args, "dry_run", False) else {}
    return {**cluster, **speech(args.corpus)}


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the tasks without a result and print the rates of each configuration; 1 when a task failed."""
    from whisperlab import data
    from whisperlab.experiments import sweep
    from whisperlab.model import weights
    from whisperlab.streaming.language_id import check_languages

    if args.import_from:
        return _import(args, console)
    grid(args, ()).configurations()  # raises for a value out of range
    if not args.dry_run:
        check_out(args)
    recordings = data.load(args.corpus, args.split)[: args.limit]
    configurations = grid(args, recordings).configurations()
    with console.busy(f"loading the model {args.model}"):
        model = weights.load_weights(args.model, args.device, say=console.note)
    check_languages(shared(args, recordings)["languages"], model.n_languages)
    digest = weights.model_digest(model)
    if args.dry_run:
        return _show_plan(args, console, sweep.plan(configurations, recordings, digest), model)
    with running(args, model, digest, console) as options:
        outcome = sweep.run_sweep(configurations, recordings, args.out, **options)
    _show_outcome(args, console, outcome)
    if outcome.failed:
        own_error = any(row["status"] == "failed" for row in outcome.failed)
        option = "--retry-failed" if own_error else "--resume"
        raise SweepError(f"{len(outcome.failed)} of {outcome.planned} tasks failed; {option} runs them again")
    return 0


def _import(args: argparse.Namespace, console: Console) -> int:
    from whisperlab.experiments.results_store import STORE
    from whisperlab.experiments.store_import import import_jsonl

    path, rows = args.import_from / STORE, import_jsonl(args.import_from)
    console.result({"out": str(path), "rows": rows}, f"{rows:,} rows in {path}")
    return 0


def _show_outcome(args: argparse.Namespace, console: Console, outcome: Outcome) -> None:
    """Print what was run, and the rates of each configuration."""
    from whisperlab.experiments.results_store import open_store

    with open_store(args.out) as store:
        results = summary(list(store.rows())) if len(store) <= MOST_ROWS else []
        if not results:
            console.note(f"no table of {len(store):,} rows; whisperlab report {args.out} shows all configurations")
    if outcome.peak_rss_bytes:
        console.note(f"peak memory of a process, model included: {outcome.peak_rss_bytes >> 20:,} MiB")
    counts = {"planned": outcome.planned, "found": outcome.found, "ran": outcome.ran, "failed": outcome.failed}
    rows = [{title: _cell(name, row.get(name)) for title, name in COLUMNS.items()} for row in results]
    console.result({"out": str(args.out), **counts, "results": results}, text_table(rows), counted())


def _cell(name: str, value: float | None) -> object:
    return percent(value) if "rate" in name.rpartition(".")[2] else value


@contextmanager
def running(args: argparse.Namespace, model: Weights, digest: str, console: Console) -> Iterator[RunOptions]:
    """The options of a sweep or search; after Ctrl-C prints the one command that continues it."""
    try:
        yield {
            **workers(args, model, digest, console),
            "model_digest": digest,
            "retry_failed": args.retry_failed,
            "progress": console.err.isatty() and not console.quiet,
            "say": console.note,
        }
    except KeyboardInterrupt:
        command = [*args.argv, *([] if args.resume or args.retry_failed else ["--resume"])]
        console.note(f"To continue: {shlex.join(['whisperlab', *command])}")
        raise


def workers(args: argparse.Namespace, model: Weights, digest: str, console: Console) -> RunOptions:
    """This process with the model it has loaded, or an executor whose workers load their own."""
    from whisperlab.experiments import executors, sweep

    if args.ship_audio and args.ray is None:
        args.parser.error("--ship-audio goes with --ray")
    if args.ray is None and args.workers is None:
        return {"make_transcriber": sweep.transcriber_maker(model)}
    out = args.out.resolve()
    load = partial(sweep.load_maker, args.model, args.device, sweep.identity(digest, args.device))
    factory = partial(sweep.task_worker, out, load)
    if args.ray is None:
        return {"executor": partial(executors.local_processes, factory, args.workers)}
    if args.ship_audio:
        return {"executor": partial(sweep.payload_cluster, out, load, args.ray, args.workers, say=console.note)}
    return {"executor": partial(executors.ray_cluster, factory, args.ray, args.workers, say=console.note)}


def grid(args: argparse.Namespace, recordings: Sequence[Recording]) -> Grid:
    from whisperlab.experiments.sweep import Grid

    return Grid(
        {
            "cache.size": args.cache_sizes,
            "cache.hash_precision": args.hash_precisions,
            "cache.key": args.keys,
            "language_id.hop_ms": args.lid_hop_ms,
        },
        {**shared(args, recordings), "decode": not args.no_decode, "cache.shadow_rate": args.shadow_rate},
    )


def shared(args: argparse.Namespace, recordings: Sequence[Recording]) -> dict[str, Any]:
    """The options of all configurations; the languages are those of the recordings when none are given."""
    spoken = sorted({language for recording in recordings for language in recording.languages})
    return {
        "languages": args.languages or spoken or None,
        "compute.device": args.device,
        "compute.threads": args.threads,
    }


def summary(rows: Sequence[Row]) -> list[Json]:
    """One record per configuration: ``whisperlab.experiments.sweep.summarise`` without NaN."""
    from whisperlab.experiments.sweep import summarise

    records: list[Json] = json.loads(summarise(rows).to_json(orient="records"))
    return records


def check_out(args: argparse.Namespace) -> None:
    """Raise SweepError if the folder holds results, unless the sweep is to be continued."""
    from whisperlab.experiments.results_store import STORE

    store = args.out / STORE
    if store.exists() and not (args.resume or args.retry_failed):
        raise SweepError(f"{store} holds results already: --resume continues it, --out takes another folder")


def _show_plan(args: argparse.Namespace, console: Console, tasks: Sequence[Task], model: Weights) -> int:
    """Print the planned runs, the estimate of their time, and the audio that it was measured on."""
    from whisperlab.experiments import cost, sweep
    from whisperlab.experiments.results_store import STORE, open_store

    found: dict[str, str] = {}
    known: dict[str, cost.Cost] = {}
    if (args.out / STORE).exists():
        with open_store(args.out) as store:
            found = store.statuses([task.key for task in tasks])
            known = cost.from_rows(islice(store.rows("status = 'ok'"), MOST_ROWS))
    todo = sweep.remaining(tasks, found, retry_failed=args.retry_failed)
    audio_s = sum(task.recording.duration for task in todo)
    n_workers = args.workers or 1
    plan: dict[str, object] = {"planned": len(tasks), "to_run": len(todo), "audio_s": audio_s}
    console.show(f"{len(tasks)} tasks, {len(todo)} to run: {audio_s / 60:.1f} minutes of audio")
    if todo:
        audio = todo[0].recording.audio()
        with console.busy("measuring the time that the configurations take on some seconds of audio"):
            costs = cost.probe(sweep.transcriber_maker(model), [task.config for task in todo], audio, known)
        took, stages = cost.seconds(todo, costs, n_workers), cost.by_stage(todo, costs)
        measured_s = sum({id(one): one.audio_s for one in costs.values()}.values())
        plan |= {"workers": n_workers, "seconds": took, "seconds_by_stage": stages, "measured_audio_s": measured_s}
        rows = [{"stage": name, "computing (minutes)": f"{seconds / 60:.1f}"} for name, seconds in stages.items()]
        console.show(text_table(rows))
        console.show(
            f"about {took / 60:.1f} minutes with {n_workers} worker{'s' * (n_workers > 1)}, measured on "
            f"{measured_s:.0f} s of audio here and in earlier rows, without the effect of other caches"
        )
    console.document(plan)
    return 0

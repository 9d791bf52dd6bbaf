"""Measurements on this machine: ring buffer, timers, encoder cache, the whole pipeline, and other systems.

Compared subjects run in turns, so that other load slows both: use the ratios. `cache` encodes with the weights of
Whisper base; `pipeline` runs the reference pipeline, the guide's design and the default, and the default with each
optimisation off in turn; `streams` runs more and more live streams on one thread of one process, until 95 % of their
chunks take longer than 3 s; `systems` runs other recognisers on the same audio with the same weights, each in a process
of its own. `whisperlab systems list` shows which are installed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TypeAlias

from whisperlab.cli import arguments
from whisperlab.cli.console import Console, counted
from whisperlab.util.process import provenance
from whisperlab.util.text_table import text_table

Found: TypeAlias = tuple[Mapping[str, object], Sequence[Sequence[Mapping[str, object]]]]  # JSON, and tables


def run(args: argparse.Namespace, console: Console) -> None:
    bench, what = _BENCHES[args.what]
    with console.busy(f"bench {args.what}: {what}"):
        found, tables = bench(args, console)
    remarks = [counted()] if args.what in ("systems", "pipeline") else []
    console.result({"bench": args.what, **found, **provenance()}, *map(text_table, tables), *remarks)


def _microbenchmark(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments import microbenchmarks
    from whisperlab.model import weights

    measure = {"buffer": microbenchmarks.buffer_figures, "metrics": microbenchmarks.metrics_figures}.get(args.what)
    figures = measure() if measure else microbenchmarks.cache_figures(weights.load_weights("base"))
    rows = [asdict(figure) for figure in figures]
    return {"rows": rows}, [rows]


def _systems(args: argparse.Namespace, console: Console) -> Found:
    """The rows, and tables of readable width: text, latency, languages, cost, and what cannot run."""
    from whisperlab import data
    from whisperlab.experiments.systems import CONTROLS, COSTS, MORE, RATES, compare, readable
    from whisperlab.model import weights
    from whisperlab.model.checkpoints import tensor_digest
    from whisperlab.util.statistics import interval_note

    corpora = (data.load(name, args.split)[: args.limit] for name in _controls(args))
    options = {"names": args.systems, "pace": args.pace, "threads": args.threads, "logs": args.logs}
    controls = list(chain.from_iterable(corpora))
    rows = compare(arguments.recordings(args), controls=controls, say=console.note, **options)
    ran = [row for row in rows if not row["reason"]]
    in_mb = [row | {"peak_memory_bytes": f"{(row['peak_memory_bytes'] or 0) / 1e6:.0f} MB"} for row in ran]
    text = [name for name in RATES if "error" in name or "deleted" in name]
    latency = [name for name in RATES if name.startswith(("word_latency", "time_to", "normalized", "long"))]
    switches = [name for name in RATES if name not in (*text, *latency, *COSTS)]
    digest = {"base": tensor_digest(weights.load_weights("base").state)} if ran else {}
    tables = [readable(in_mb, names) for names in ([*text, MORE, "p"], latency, [*switches, CONTROLS], COSTS)]
    missing = [{"system": row["system"], "did not run": row["reason"]} for row in rows if row["reason"]]
    for name, value in digest.items():
        console.note(f"weights of all systems: {name}, digest of the tensors {value}")
    if note := interval_note([recording.speakers for recording in arguments.recordings(args)]):
        console.note(note)
    return {"weights": digest, "rows": rows}, [*tables, *filter(None, [missing])]


def _controls(args: argparse.Namespace) -> list[str]:
    """The monolingual corpora in which false switches are counted."""
    from whisperlab import data
    from whisperlab.experiments.systems import select

    corpora = {f"ivr-{language}" for recording in arguments.recordings(args) for language in recording.languages}
    if not (args.controls and len(corpora) > 1 and any(system.follows for system in select(args.systems))):
        return []
    return [name for name in data.list_corpora() if name in corpora]


def _pipeline(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments import ablation

    ablation.select_variants(args.variants)  # checks the names before anything is loaded
    recordings = arguments.recordings(args)
    options = {"names": args.variants, "stretch_s": args.seconds, "accuracy": recordings if args.accuracy else ()}
    memory = None if args.memory else ()
    found = ablation.measure(recordings[: args.limit or 3], memory=memory, say=console.note, **options)
    return asdict(found), [*ablation.readable(found).values()]


def _streams(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments.streams import BOUND_S, streams_figures
    from whisperlab.model import weights

    speech = arguments.recordings(args)
    figures = streams_figures(weights.load_weights("base"), speech, seconds=args.seconds, say=console.note)
    rows = [asdict(figure) for figure in figures]
    carried = sum(figure.carried for figure in figures)
    console.note(f"one core carries {carried} live streams: 95 % of their chunks are processed within {BOUND_S:g} s")
    return {"streams_per_core": carried, "bound_s": BOUND_S, "rows": rows}, [rows]


# Each with what it runs.
_BENCHES: dict[str, tuple[Callable[[argparse.Namespace, Console], Found], str]] = {
    "buffer": (_microbenchmark, "np.concatenate and the ring buffer in turns, about 20 s"),
    "metrics": (_microbenchmark, "the timers, then ten million records, about 15 s"),
    "cache": (_microbenchmark, "look-ups by key with the model base, about 20 s"),
    "pipeline": (_pipeline, "all variants in turns, minutes"),
    "streams": (_streams, "one stream, then two, three ... until a core falls behind, minutes"),
    "systems": (_systems, "all systems in turns, minutes"),
}

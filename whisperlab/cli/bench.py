"""Measurements on this machine: ring buffer, timers, encoder cache, the whole pipeline, and other systems.

Compared subjects run in turns within one process, so that other load slows both: use the ratios. `cache` encodes with
the weights of Whisper base; `pipeline` runs the reference pipeline, the guide's design and the default, and the default
with each optimisation off in turn; `systems` runs openai-whisper and faster-whisper on the same audio with the same
weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeAlias

from whisperlab.cli.arguments import add_threads_argument, positive, positive_int
from whisperlab.cli.console import Console, counted
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.experiments.other_systems import TableRow
    from whisperlab.util.statistics import Figure

Found: TypeAlias = tuple[Mapping[str, object], Sequence[Sequence[Mapping[str, object]]]]  # JSON, and tables

HELP = "microbenchmarks, the ablation of the pipeline, and the other systems"
EXAMPLES = (
    "bench buffer",
    "bench cache --json",
    "bench pipeline --corpus ivr-five --limit 3",
    "bench pipeline --variants parallel,int8 --seconds 10 --no-accuracy --no-memory --no-offline",
    "bench systems --corpus ivr-five --pace real",
    "bench systems --limit 2 --systems auto,multilingual --no-controls --no-memory",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, both, systems, pipeline = parser.add_argument, "(systems, pipeline) ", "(systems) ", "(pipeline) "
    add("what", choices=tuple(_BENCHES), help="what to measure")
    add("--corpus", default="ivr-five", metavar="NAME|MANIFEST", help=f"{both}the speech")
    add("--split", default="test", help=f"{both}the split")
    text = f"{both}only the first N recordings (default: all; pipeline times three)"
    add("--limit", type=positive_int, metavar="N", help=text)
    for name, of in (("systems", systems), ("variants", pipeline)):
        text = f"{of}only those with such a text in their name (default: all)"
        add(f"--{name}", type=_names, metavar="NAME,...", help=text)
    text = f"{systems}real feeds the streaming ones in real time; word latency then includes computing"
    add("--pace", choices=("fast", "real"), default="fast", help=text)
    text = f"{pipeline}timed audio of each recording (the reference pipeline takes minutes for it)"
    add("--seconds", type=positive, default=15.0, help=text)
    add_threads_argument(parser, of=systems)
    for name, text in (
        ("controls", f"{systems}also count false switches in recordings of each language alone"),
        ("memory", f"{both}also measure peak memory, each in a fresh process"),
        ("accuracy", f"{pipeline}also score whole recordings, for variants faster than real time"),
        ("offline", f"{pipeline}also run faster-whisper on whole stretches, in turns"),
    ):
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=text)


def needs(args: argparse.Namespace) -> Needs:
    """The other systems and the speech."""
    if args.what == "pipeline":
        faster = {"faster_whisper": "comparison; --no-offline leaves it out"} if args.offline else {}
        return {"whisper": "reference pipeline", **faster, **speech(args.corpus)}
    if args.what != "systems":
        return {}
    from whisperlab.experiments.other_systems import select

    names = " ".join(select(args.systems))
    libraries = {"openai-whisper": "whisper", "faster-whisper": "faster_whisper"}
    systems = {library: "one of the systems" for name, library in libraries.items() if name in names}
    return {**systems, **(speech(args.corpus) or speech(*_controls(args, _speech(args))))}


def run(args: argparse.Namespace, console: Console) -> int:
    from whisperlab.evaluation.trace import provenance

    with console.busy(f"bench {args.what}: {_BENCHES[args.what][1]}"):
        found, tables = _BENCHES[args.what][0](args, console)
    console.result({"bench": args.what, **found, **provenance()}, *map(text_table, tables))
    if args.what in ("systems", "pipeline"):
        console.show(counted())
    return 0


def _microbenchmark(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments import microbenchmarks

    if args.what == "cache":
        from whisperlab.model.weights import load_weights

        return _figures(microbenchmarks.cache_figures(load_weights("base")))
    return _figures(microbenchmarks.buffer_figures() if args.what == "buffer" else microbenchmarks.metrics_figures())


def _figures(figures: Iterable[Figure]) -> Found:
    found = list(figures)
    rows = [
        {
            "figure": figure.figure,
            "value": f"{figure.value:,.3g}" if figure.value < 1000 else f"{figure.value:,.0f}",
            "unit": figure.unit,
            "95 % interval": "-" if figure.low is None else f"{figure.low:.3g} to {figure.high:.3g}",
            "n": f"{figure.n:,}" if figure.n else "-",
        }
        for figure in found
    ]
    return {"rows": [asdict(figure) for figure in found]}, [rows]


def _systems(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab import data
    from whisperlab.experiments import other_systems

    recordings = _speech(args)
    controls = [
        recording for name in _controls(args, recordings) for recording in data.load(name, args.split)[: args.limit]
    ]
    rows = other_systems.compare(
        recordings,
        controls=controls,
        names=args.systems,
        pace=args.pace,
        memory=args.memory,
        threads=args.threads,
        say=console.note,
    )
    return {"rows": rows}, _system_tables(rows)


def _speech(args: argparse.Namespace) -> Sequence[Recording]:
    from whisperlab import data

    return data.load(args.corpus, args.split)[: args.limit]


def _controls(args: argparse.Namespace, recordings: Sequence[Recording]) -> list[str]:
    """The monolingual corpora in which false switches are counted."""
    from whisperlab import data
    from whisperlab.experiments.other_systems import FOLLOWING, select

    languages = sorted({language for recording in recordings for language in recording.languages})
    if not (args.controls and {*select(args.systems)} & {*FOLLOWING} and len(languages) > 1):
        return []
    return [name for name in data.list_corpora() if name in {f"ivr-{language}" for language in languages}]


def _pipeline(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab import data
    from whisperlab.experiments import ablation

    ablation.select_variants(args.variants)  # checks the names before anything is loaded
    recordings = data.load(args.corpus, args.split)[: args.limit]
    found = ablation.measure(
        recordings[: args.limit or 3],
        names=args.variants,
        stretch_s=args.seconds,
        memory=args.memory,
        accuracy=recordings if args.accuracy else (),
        offline=args.offline,
        say=console.note,
    )
    for sentence in ablation.limits(found):
        console.note(sentence)
    return asdict(found), ablation.readable(found)


def _system_tables(rows: list[TableRow]) -> list[list[dict[str, str]]]:
    """The rows as tables of readable width: text, languages, cost."""
    from whisperlab.experiments.other_systems import CONTROLS, COSTS, RATES, readable

    in_mb = [
        {**row, "peak_memory_bytes": (size := row["peak_memory_bytes"]) and f"{size / 1e6:.0f} MB"} for row in rows
    ]
    text = [name for name in RATES if "error" in name or "deleted" in name or "latency" in name]
    delays = ("decision_delay_found_p50", "decision_delay_found_p95", "false_switches_per_hour")
    switches = [*(name for name in RATES if "switch_" in name and name not in text), *delays, CONTROLS]
    return [readable(in_mb, names) for names in (text, switches, COSTS)]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# Each with what it runs.
_BENCHES: dict[str, tuple[Callable[[argparse.Namespace, Console], Found], str]] = {
    "buffer": (_microbenchmark, "np.concatenate and the ring buffer in turns, about 20 s"),
    "metrics": (_microbenchmark, "the timers, then ten million records, about 15 s"),
    "cache": (_microbenchmark, "look-ups by key with the model base, about 20 s"),
    "pipeline": (_pipeline, "all variants in turns, minutes"),
    "systems": (_systems, "all systems in turns, minutes"),
}

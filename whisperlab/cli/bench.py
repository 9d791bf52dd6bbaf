"""Measurements on this machine: the ring buffer, the timers, the encoder cache; the whole pipeline; the peers.

What is compared is run in turns within one process, so that a busy machine slows both; ratios are what to
keep. `cache` encodes with the weights of Whisper base; `pipeline` runs the plain pipeline, the guide's and ours, and
ours with each optimisation off in turn; `peers` runs openai-whisper and faster-whisper on the same audio with the
same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import add_threads_argument, positive, positive_int
from whisperlab.cli.console import Console, counted, table
from whisperlab.cli.needs import Needs, speech

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.experiments.microbenchmarks import Figure

Found = tuple[dict[str, Any], Sequence[Sequence[dict[str, Any]]]]  # for a program, and tables for a person

HELP = "small measurements, the pipeline before and after, and the other systems"
EXAMPLES = (
    "bench buffer",
    "bench cache --json",
    "bench pipeline --corpus ivr-five --limit 3",
    "bench pipeline --arms parallel,int8 --seconds 10 --no-accuracy --no-memory --no-offline",
    "bench peers --corpus ivr-five --pace real",
    "bench peers --limit 2 --peers auto,multilingual --no-controls --no-memory",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab bench``."""
    parser.add_argument("what", choices=tuple(_BENCHES))
    parser.add_argument(
        "--corpus", default="ivr-five", metavar="NAME|MANIFEST", help="peers, pipeline: the speech to use"
    )
    parser.add_argument("--split", default="test", help="peers, pipeline: the split to use")
    parser.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="peers, pipeline: only the first N recordings (pipeline times three unless told)",
    )
    parser.add_argument(
        "--peers", type=_names, metavar="NAME,...", help="peers: only those with such a text in their name"
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "real"),
        default="fast",
        help="peers: real feeds the streaming ones by the clock; word latency then counts computing",
    )
    parser.add_argument(
        "--controls",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="peers: also count false switches in recordings of each of the languages alone",
    )
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="peers, pipeline: also measure peak memory, each alone in a fresh process",
    )
    add_threads_argument(parser, of="peers: ")
    parser.add_argument(
        "--arms", type=_names, metavar="NAME,...", help="pipeline: only those with such a text in their name"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=15.0,
        help="pipeline: how much of each recording is timed (default 15; the plain pipeline takes minutes for it)",
    )
    parser.add_argument(
        "--accuracy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pipeline: also score whole recordings, for the arms that are faster than speech",
    )
    parser.add_argument(
        "--offline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pipeline: also take turns with faster-whisper, which hears each stretch whole",
    )


def needs(args: argparse.Namespace) -> Needs:
    """The other systems, the speech, and what the report of a soak is made with."""
    if args.what == "pipeline":
        faster = {"faster_whisper": "comparison; --no-offline leaves it out"} if args.offline else {}
        return {"whisper": "reference pipeline", **faster, **speech(args.corpus)}
    if args.what != "peers":
        return {}
    from whisperlab.experiments import other_systems

    names = other_systems.chosen(args.peers)
    systems = {
        **({"whisper": "one of the systems"} if "openai-whisper" in names else {}),
        **({"faster_whisper": "one of the systems"} if any(map(_is_faster, names)) else {}),
    }
    first = speech(args.corpus)
    return {**systems, **(first or speech(*_controls(args, _speech(args))))}


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print one table."""
    from whisperlab.evaluation.trace import provenance

    found, shown = _BENCHES[args.what](args, console)
    console.document({"bench": args.what, **found, **provenance()})
    for rows in shown:
        console.show(table(rows))
    if args.what in ("peers", "pipeline"):
        console.show(counted())
    return 0


def _buffer(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments.microbenchmarks import buffer_figures

    console.note("np.concatenate and the ring buffer in turns: some twenty seconds")
    return _figures(buffer_figures())


def _metrics(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments.microbenchmarks import metrics_figures

    console.note("timing the timers, then ten million records: some fifteen seconds")
    return _figures(metrics_figures())


def _cache(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab.experiments.microbenchmarks import cache_figures
    from whisperlab.model.weights import load_weights

    return _figures(cache_figures(load_weights("base")))


def _figures(figures: Iterable[Figure]) -> Found:
    rows = [asdict(figure) for figure in figures]
    return {"rows": rows}, [[_worded(row) for row in rows]]


def _worded(row: dict[str, Any]) -> dict[str, Any]:
    """A figure for a person: its interval in one cell."""
    interval = "-" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
    return {
        "figure": row["figure"],
        "value": f"{row['value']:,.3g}" if row["value"] < 1000 else f"{row['value']:,.0f}",
        "unit": row["unit"],
        "95 % interval": interval,
        "n": f"{row['n']:,}" if row["n"] else "-",
    }


def _peers(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab import data
    from whisperlab.experiments import other_systems

    names = other_systems.chosen(args.peers)
    recordings = _speech(args)
    controls = [
        recording
        for name in _controls(args, recordings)
        for recording in data.load(name, args.split)[: args.limit]
    ]
    rows = other_systems.compare(
        recordings,
        controls=controls,
        names=names,
        pace=args.pace,
        memory=args.memory,
        threads=args.threads,
        say=console.note,
    )
    return {"rows": rows}, _readable(rows)


def _speech(args: argparse.Namespace) -> Sequence[Recording]:
    from whisperlab import data

    return data.load(args.corpus, args.split)[: args.limit]


def _controls(args: argparse.Namespace, recordings: Sequence[Recording]) -> list[str]:
    """The corpora of one language in which false switches are counted."""
    from whisperlab import data
    from whisperlab.experiments import other_systems

    languages = sorted({language for recording in recordings for language in recording.languages})
    follow = set(other_systems.chosen(args.peers)) & set(other_systems.FOLLOWING)
    if not (args.controls and follow and len(languages) > 1):
        return []
    return [name for name in data.list_corpora() if name in {f"ivr-{language}" for language in languages}]


def _is_faster(name: str) -> bool:
    return name.startswith("faster-whisper")


def _pipeline(args: argparse.Namespace, console: Console) -> Found:
    from whisperlab import data
    from whisperlab.experiments import ablation

    recordings = data.load(args.corpus, args.split)[: args.limit]
    ablation.chosen(args.arms)  # a wrong name is told before a model is loaded
    found = ablation.measure(
        recordings[: args.limit or 3],
        names=args.arms,
        stretch_s=args.seconds,
        memory=args.memory,
        accuracy=recordings if args.accuracy else (),
        offline=args.offline,
        say=console.note,
    )
    return found.to_dict(), ablation.readable(found)


def _readable(rows: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """The rows of the peers as tables narrow enough to read: text, languages, cost."""
    from whisperlab.experiments.other_systems import CONTROLS, COSTS, RATES, readable

    in_mb = [
        {**row, "peak_memory_bytes": (size := row["peak_memory_bytes"]) and f"{size / 1e6:.0f} MB"}
        for row in rows
    ]
    text = [name for name in RATES if "error" in name or "deleted" in name or "latency" in name]
    switches = [*(name for name in RATES if "switch_" in name and name not in text), *_DECIDED, CONTROLS]
    return [readable(in_mb, names) for names in (text, switches, COSTS)]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


MODEL = "base"

_DECIDED = ("decision_delay_found_p50", "decision_delay_found_p95", "false_switches_per_hour")

_BENCHES: dict[str, Callable[[argparse.Namespace, Console], Found]] = {
    "buffer": _buffer,
    "metrics": _metrics,
    "cache": _cache,
    "pipeline": _pipeline,
    "peers": _peers,
}

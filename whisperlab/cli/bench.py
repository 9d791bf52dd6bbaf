"""Small measurements on this machine: the ring buffer, the timers, the encoder cache; and the peers.

What is compared is run in turns within one process, so that a busy machine slows both; ratios are what to
keep. `cache` encodes with the weights of Whisper base; `peers` runs openai-whisper and faster-whisper on the
same audio with the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import positive_int
from whisperlab.cli.console import Console, finite, table

if TYPE_CHECKING:
    from whisperlab.instruments import Figure

HELP = "small measurements, and the peers"
EXAMPLES = (
    "bench buffer",
    "bench cache --json",
    "bench peers --corpus ivr-five --pace real",
    "bench peers --limit 2 --peers auto,multilingual --no-controls --no-memory",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab bench``."""
    parser.add_argument("what", choices=tuple(_BENCHES))
    parser.add_argument(
        "--corpus", default="ivr-five", metavar="NAME|MANIFEST", help="peers: the speech to use"
    )
    parser.add_argument("--split", default="test", help="peers: the split to use")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="peers: only the first N recordings")
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
        help="peers: also measure peak memory, each alone in a fresh process",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print one table."""
    from whisperlab.trace import provenance

    rows = _BENCHES[args.what](args, console)
    console.document(finite({"bench": args.what, "rows": rows, **provenance()}))
    for shown in _readable(rows) if args.what == "peers" else [[_worded(row) for row in rows]]:
        console.show(table(shown))
    return 0


def _buffer(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    from whisperlab.instruments import buffer_figures

    console.note("np.concatenate and the ring buffer in turns: some twenty seconds")
    return _rows(buffer_figures())


def _metrics(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    from whisperlab.instruments import metrics_figures

    console.note("timing the timers, then ten million records: some fifteen seconds")
    return _rows(metrics_figures())


def _cache(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    from whisperlab.instruments import cache_figures
    from whisperlab.models import load_weights

    return _rows(cache_figures(load_weights("base")))


def _rows(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]


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


def _peers(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    from whisperlab import corpora, peers

    names = peers.chosen(args.peers)
    recordings = corpora.load(args.corpus, args.split)[: args.limit]
    languages = sorted({language for recording in recordings for language in recording.languages})
    controls = [
        recording
        for name in (f"ivr-{language}" for language in languages if len(languages) > 1)
        if args.controls and name in corpora.list_corpora() and set(names) & set(peers.FOLLOWING)
        for recording in corpora.load(name, args.split)[: args.limit]
    ]
    return peers.compare(
        recordings, controls=controls, names=names, pace=args.pace, memory=args.memory, say=console.note
    )


def _readable(rows: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """The rows of the peers as tables narrow enough to read: text, languages, cost."""
    from whisperlab.peers import CONTROLS, COSTS, RATES, readable

    in_mb = [
        {**row, "peak_memory_bytes": (size := row["peak_memory_bytes"]) and f"{size / 1e6:.0f} MB"}
        for row in rows
    ]
    text = [name for name in RATES if "error" in name or "deleted" in name or "latency" in name]
    switches = [*(name for name in RATES if "switch_" in name and name not in text), *_DECIDED, CONTROLS]
    return [readable(in_mb, names) for names in (text, switches, COSTS)]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


_DECIDED = ("decision_delay_found_p50", "decision_delay_found_p95", "false_switches_per_hour")

_BENCHES: dict[str, Callable[[argparse.Namespace, Console], list[dict[str, Any]]]] = {
    "buffer": _buffer,
    "metrics": _metrics,
    "cache": _cache,
    "peers": _peers,
}

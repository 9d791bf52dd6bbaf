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
EXAMPLES = ("bench buffer", "bench cache --json", "bench peers --corpus ivr-five --limit 3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab bench``."""
    parser.add_argument("what", choices=tuple(_BENCHES))
    parser.add_argument(
        "--corpus", default="ivr-five", metavar="NAME|MANIFEST", help="peers: the speech to use"
    )
    parser.add_argument("--split", default="test", help="peers: the split to use")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="peers: only the first N recordings")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print one table."""
    from whisperlab.trace import provenance

    rows = _BENCHES[args.what](args, console)
    console.document(finite({"bench": args.what, "rows": rows, **provenance()}))
    console.show(table(_readable(rows) if args.what == "peers" else [_worded(row) for row in rows]))
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
    from whisperlab.models import load_model

    return _rows(cache_figures(load_model("base")))


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

    recordings = corpora.load(args.corpus, args.split)[: args.limit]
    return peers.compare(recordings, say=console.note)


def _readable(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows of the peers with each rate and its interval in one cell."""
    from whisperlab.peers import readable

    return readable(rows)


_BENCHES: dict[str, Callable[[argparse.Namespace, Console], list[dict[str, Any]]]] = {
    "buffer": _buffer,
    "metrics": _metrics,
    "cache": _cache,
    "peers": _peers,
}

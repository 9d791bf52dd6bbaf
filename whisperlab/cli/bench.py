"""Small measurements on this machine: the ring buffer, the timers, the encoder cache; and the peers.

What is compared is run in turns within one process, so that a busy machine slows both; ratios are what to
keep. `peers` runs openai-whisper and faster-whisper on the same audio with the same weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from whisperlab.cli.arguments import positive_int
from whisperlab.cli.console import Console, finite, table

HELP = "small measurements, and the peers"
EXAMPLES = ("bench buffer", "bench cache --json", "bench peers --corpus ivr-five --limit 3")

ROUNDS = 7
APPENDS = 1000  # the guide's count
CHUNK = 1600  # samples: 100 ms


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
    rows = _BENCHES[args.what](args, console)
    console.document(finite({"bench": args.what, "rows": rows}))
    console.show(table(_readable(rows) if args.what == "peers" else rows))
    return 0


def in_turns(subjects: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds each subject took, round by round, all subjects once in every round."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(ROUNDS):
        for name, subject in subjects.items():
            began = time.perf_counter()
            subject()
            times[name].append(time.perf_counter() - began)
    return times


def _buffer(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    import numpy as np

    from whisperlab.buffer import RingBuffer

    chunk = np.random.default_rng(0).uniform(-1, 1, CHUNK).astype(np.float32)
    ring, place = RingBuffer(APPENDS * CHUNK), np.empty(CHUNK, np.float32)

    def concatenate() -> None:
        held = np.empty(0, np.float32)
        for _ in range(APPENDS):
            held = np.concatenate([held, chunk])

    def append() -> None:
        for _ in range(APPENDS):
            ring.append(chunk)

    def copy() -> None:
        for _ in range(APPENDS):
            np.copyto(place, chunk)

    times = in_turns({"np.concatenate": concatenate, "RingBuffer.append": append, "bare copy (floor)": copy})
    return [
        {
            "subject": name,
            f"ms for {APPENDS} x {CHUNK} samples": median(mine) * 1e3,
            "times RingBuffer": median(a / b for a, b in zip(mine, times["RingBuffer.append"], strict=True)),
        }
        for name, mine in times.items()
    ]


def _metrics(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    from whisperlab.metrics import PerformanceMetrics

    metrics, calls = PerformanceMetrics(), 10_000

    def nothing() -> None:
        for _ in range(calls):
            pass

    def record() -> None:
        for _ in range(calls):
            metrics.record("lid.total", 0.001)

    def measure() -> None:
        for _ in range(calls):
            with metrics.measure("lid.total"):
                pass

    times = in_turns({"empty loop": nothing, "record()": record, "with measure()": measure})
    return [
        {
            "subject": name,
            "ns a call, median": median(mine) / calls * 1e9,
            "ns a call, best": min(mine) / calls * 1e9,
        }
        for name, mine in times.items()
    ]


def _cache(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from whisperlab.cache import EncoderCache
    from whisperlab.timeline import samples

    window = np.random.default_rng(0).uniform(-0.1, 0.1, samples(2)).astype(np.float32)
    encoded = torch.zeros(1, 150, 512)  # Whisper base: a 2 s window with 1 s of silence
    rows = []
    for key in ("rounded", "span", "logmel"):
        cache = EncoderCache(key=key)
        cache.put(encoded, audio_hash=cache.precompute_hash(window, span=("stream", 0, len(window))))
        for _ in range(200):
            cache.get(audio_hash=cache.precompute_hash(window, span=("stream", 0, len(window))))
        lookup = cache.get_statistics()["lookup_ms"]
        rows.append(
            {"key": key, "2 s window, p50 ms": lookup["p50"], "p95 ms": lookup["p95"], "n": lookup["n"]}
        )
    return rows


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

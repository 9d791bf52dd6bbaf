"""How long each operation takes, with no profiler running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisperlab.profiling.workload import Workload
from whisperlab.util.validation import on_threads


@dataclass(slots=True, frozen=True)
class Latency:
    """What ``PerformanceMetrics`` says of each operation, in milliseconds, and the whole in seconds.

    ``threads`` are the compute threads of the transcriber, if it tells them.
    """

    compute_s: float
    duration_s: float
    operations: Mapping[str, Mapping[str, Any]]
    threads: int | None = None

    def describe(self) -> str:
        """The table for a person."""
        rows = "\n".join(
            f"  {name:24s} {o['count']:8d} {o['p50']:9.3f} {o['p95']:9.3f} {o['p99']:9.3f} {o['max']:9.3f}"
            for name, o in self.operations.items()
        )
        return (
            f"latency in milliseconds ({self.compute_s:.2f} s for {self.duration_s:.1f} s of audio, "
            f"{self.compute_s / self.duration_s:.2f} of real time{on_threads(self.threads)})\n"
            f"  {'operation':24s} {'count':>8s} {'p50':>9s} {'p95':>9s} {'p99':>9s} {'max':>9s}\n{rows}"
        )


# Operations that contain no other: together with what is left of `chunk.total` they are the whole of it.
LEAVES = (
    *("vad.buffer_append", "lid.buffer_append", "vad.detect"),
    *("lid.frame_extract", "lid.encoder_forward", "lid.detect", "lid.smoothing", "lid.sustained_detection"),
    *("whisper.buffer_read", "whisper.insert_audio", "whisper.decode"),
)


def where_time_goes(operations: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds of a stream by the operation that took them, the rest of `chunk.total` under ``the rest``.

    Operations at the end of the stream belong to no chunk and count too.
    """
    spent = {name: float(operations[name]["total"]) for name in LEAVES if name in operations}
    rest = float(operations["chunk.total"]["total"]) - sum(spent.values())
    return spent | {"the rest": max(rest, 0.0)}


def measure(workload: Workload) -> Latency:
    """Stream the recording and read the transcriber's own timers."""
    from whisperlab.util.audio_arrays import duration_s

    transcriber, audio = workload.load()
    started = time.perf_counter()
    workload.feed(transcriber, audio)
    compute_s = time.perf_counter() - started
    operations = dict(transcriber.get_statistics()["performance"])
    return Latency(
        compute_s, duration_s(audio), operations, transcriber.config().get("compute", {}).get("threads")
    )

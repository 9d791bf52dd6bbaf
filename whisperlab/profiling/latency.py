"""How long each operation takes, with no profiler running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisperlab.profiling.workload import Workload


@dataclass(slots=True, frozen=True)
class Latency:
    """What ``PerformanceMetrics`` says of each operation, in milliseconds, and the whole in seconds."""

    compute_s: float
    duration_s: float
    operations: Mapping[str, Mapping[str, Any]]

    def describe(self) -> str:
        """The table for a person."""
        rows = "\n".join(
            f"  {name:24s} {o['count']:8d} {o['p50']:9.3f} {o['p95']:9.3f} {o['p99']:9.3f} {o['max']:9.3f}"
            for name, o in self.operations.items()
        )
        return (
            f"latency in milliseconds ({self.compute_s:.2f} s for {self.duration_s:.1f} s of audio, "
            f"{self.compute_s / self.duration_s:.2f} of real time)\n"
            f"  {'operation':24s} {'count':>8s} {'p50':>9s} {'p95':>9s} {'p99':>9s} {'max':>9s}\n{rows}"
        )


def measure(workload: Workload) -> Latency:
    """Stream the recording and read the transcriber's own timers."""
    from whisperlab.audio import duration_s

    transcriber, audio = workload.load()
    started = time.perf_counter()
    workload.feed(transcriber, audio)
    compute_s = time.perf_counter() - started
    return Latency(compute_s, duration_s(audio), dict(transcriber.get_statistics()["performance"]))

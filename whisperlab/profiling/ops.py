"""Which of torch's operators take the time and the memory, by torch.profiler."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from whisperlab.profiling.workload import Workload

TOP = 20
_MIB = 2**20


@dataclass(slots=True, frozen=True)
class Operator:
    """One operator: calls, its own seconds and those of all it called, and the bytes it allocated itself."""

    name: str
    calls: int
    own_s: float
    total_s: float
    own_bytes: int


@dataclass(slots=True, frozen=True)
class Operators:
    """The operators with the most time of their own.

    ``trace`` is the course of all of them in Chrome's format, gzipped: ui.perfetto.dev and chrome://tracing draw it.
    """

    own_s: float
    top: tuple[Operator, ...]
    trace: bytes = field(repr=False)

    def describe(self) -> str:
        """The table for a person."""
        rows = "\n".join(
            f"  {operator.own_s / self.own_s:6.1%} {operator.own_s:8.3f} {operator.calls:8d}"
            f" {operator.own_bytes / _MIB:10.1f}  {operator.name}"
            for operator in self.top
        )
        return (
            f"torch's operators (torch.profiler, {self.own_s:.2f} s in all)\n"
            f"   share    own s    calls   own MiB  operator\n{rows}"
        )


def measure(workload: Workload) -> Operators:
    """Stream the recording under torch.profiler, started once the model is loaded."""
    from torch.profiler import ProfilerActivity, profile

    transcriber, audio = workload.load()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        workload.feed(transcriber, audio)
    found = [
        Operator(
            event.key,
            event.count,
            event.self_cpu_time_total / 1e6,
            event.cpu_time_total / 1e6,
            event.self_cpu_memory_usage,
        )
        for event in profiler.key_averages()
    ]
    found.sort(key=lambda operator: -operator.own_s)
    with TemporaryDirectory(prefix="whisperlab-ops-") as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = gzip.compress(file.read_bytes(), 6)
    return Operators(sum(operator.own_s for operator in found), tuple(found[:TOP]), trace)

"""Time and memory of torch's operators, by torch.profiler."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

from whisperlab.profiling.records import Operator, Operators
from whisperlab.profiling.workload import Workload

TOP = 20


def measure(workload: Workload) -> Operators:
    """Stream the recording under torch.profiler, started after the model is loaded."""
    from torch.profiler import ProfilerActivity, profile

    transcriber, audio = workload.load()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        workload.feed(transcriber, audio)
    found = [
        Operator(e.key, e.count, e.self_cpu_time_total / 1e6, e.cpu_time_total / 1e6, e.self_cpu_memory_usage)
        for e in profiler.key_averages()
    ]
    found.sort(key=lambda operator: -operator.own_s)
    with TemporaryDirectory(prefix="whisperlab-ops-") as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = gzip.compress(file.read_bytes(), 6)
    return Operators(sum(operator.own_s for operator in found), tuple(found[:TOP]), trace)

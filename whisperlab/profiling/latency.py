"""Latency of each operation, without a profiler."""

from __future__ import annotations

import time
from collections.abc import Mapping

from whisperlab.profiling.records import Latency
from whisperlab.profiling.workload import Workload

# Operations that contain no others: with the remainder of `chunk.total` they sum up to all of it.
LEAVES = (
    *("vad.buffer_append", "lid.buffer_append", "vad.detect"),
    *("lid.frame_extract", "lid.encoder_forward", "lid.detect", "lid.smoothing", "lid.sustained_detection"),
    *("whisper.buffer_read", "whisper.insert_audio", "whisper.decode"),
)


def where_time_goes(operations: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Milliseconds of a stream by operation; the remainder of `chunk.total` is called ``the rest``.

    Operations at the end of the stream count too, although they are outside any chunk.
    """
    spent = {name: float(operations[name]["total"]) for name in LEAVES if name in operations}
    rest = float(operations["chunk.total"]["total"]) - sum(spent.values())
    return spent | {"the rest": max(rest, 0.0)}


def measure(workload: Workload) -> Latency:
    """Stream the recording and read the transcriber's timers."""
    from whisperlab.util.audio_arrays import duration_s

    transcriber, audio = workload.load()
    started = time.perf_counter()
    workload.feed(transcriber, audio)
    compute_s = time.perf_counter() - started
    operations = dict(transcriber.get_statistics()["performance"])
    return Latency(compute_s, duration_s(audio), operations, transcriber.config().get("compute", {}).get("threads"))

"""Memory of Python objects and numpy arrays, by tracemalloc. It excludes torch: never quote it as peak memory."""

from __future__ import annotations

import tracemalloc

from whisperlab.profiling.records import AllocatingLine, PythonMemory
from whisperlab.profiling.workload import Workload, short_place

TOP = 10


def measure(workload: Workload) -> PythonMemory:
    """Stream the recording under tracemalloc, started after the model is loaded."""
    transcriber, audio = workload.load()
    tracemalloc.start()
    try:
        halves: list[tracemalloc.Snapshot] = []
        workload.feed(transcriber, audio, half_way=lambda: halves.append(tracemalloc.take_snapshot()))
        current, peak = tracemalloc.get_traced_memory()
        end = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    own_traces = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
    half, end = (snapshot.filter_traces([own_traces]) for snapshot in (*halves, end))
    top = tuple(_line(entry, entry.size, entry.count) for entry in end.statistics("lineno")[:TOP])
    grown = tuple(
        _line(entry, entry.size_diff, entry.count_diff)
        for entry in end.compare_to(half, "lineno")[:TOP]
        if entry.size_diff > 0
    )
    return PythonMemory(current, peak, top, grown)


def _line(entry: tracemalloc.Statistic | tracemalloc.StatisticDiff, size: int, blocks: int) -> AllocatingLine:
    place = entry.traceback[0]
    return AllocatingLine(short_place(place.filename, place.lineno), size, blocks)

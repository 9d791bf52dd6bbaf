"""Python objects and numpy arrays, by tracemalloc. It does not see torch: never quote it as peak memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

from whisperlab.profiling.workload import Workload, short_place

TOP = 10
_KIB = 1024


@dataclass(slots=True, frozen=True)
class Line:
    """What one line of code still holds at the end."""

    place: str
    bytes: int
    blocks: int


@dataclass(slots=True, frozen=True)
class PythonMemory:
    """Bytes held by Python objects and numpy arrays that were made while streaming.

    ``grown`` are the lines that held more at the end than half-way through, and how much more: what a long stream may
    be filling memory with.
    """

    current: int
    peak: int
    top: tuple[Line, ...]
    grown: tuple[Line, ...]

    def describe(self) -> str:
        """The figures for a person."""
        lines = _listed(self.top)
        return (
            "Python objects and numpy arrays only, without torch (tracemalloc, since the model was loaded)\n"
            f"  {self.current / _KIB:9.1f} KiB at the end, {self.peak / _KIB:.1f} KiB at the peak; held by\n"
            f"{lines}\n  grown since half-way\n{_listed(self.grown)}"
        )


def measure(workload: Workload) -> PythonMemory:
    """Stream the recording under tracemalloc, started once the model is loaded."""
    transcriber, audio = workload.load()
    tracemalloc.start()
    try:
        halves: list[tracemalloc.Snapshot] = []
        workload.feed(transcriber, audio, half_way=lambda: halves.append(tracemalloc.take_snapshot()))
        current, peak = tracemalloc.get_traced_memory()
        end = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
    half, end = (snapshot.filter_traces([ours]) for snapshot in (*halves, end))
    top = tuple(_line(entry, entry.size, entry.count) for entry in end.statistics("lineno")[:TOP])
    grown = tuple(
        _line(entry, entry.size_diff, entry.count_diff)
        for entry in end.compare_to(half, "lineno")[:TOP]
        if entry.size_diff > 0
    )
    return PythonMemory(current, peak, top, grown)


def _line(entry: tracemalloc.Statistic | tracemalloc.StatisticDiff, size: int, blocks: int) -> Line:
    place = entry.traceback[0]
    return Line(short_place(place.filename, place.lineno), size, blocks)


def _listed(lines: tuple[Line, ...]) -> str:
    return "\n".join(f"  {line.bytes / _KIB:9.1f} KiB  {line.place}" for line in lines) or "  nothing"

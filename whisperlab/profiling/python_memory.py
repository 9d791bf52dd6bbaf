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
    """Bytes held by Python objects and numpy arrays that were made while streaming."""

    current: int
    peak: int
    top: tuple[Line, ...]

    def describe(self) -> str:
        """The figures for a person."""
        lines = "\n".join(f"  {line.bytes / _KIB:9.1f} KiB  {line.place}" for line in self.top)
        return (
            "Python objects and numpy arrays only, without torch (tracemalloc, since the model was loaded)\n"
            f"  {self.current / _KIB:9.1f} KiB at the end, {self.peak / _KIB:.1f} KiB at the peak; held by\n"
            f"{lines}"
        )


def measure(workload: Workload) -> PythonMemory:
    """Stream the recording under tracemalloc, started once the model is loaded."""
    transcriber, audio = workload.load()
    tracemalloc.start()
    try:
        workload.feed(transcriber, audio)
        current, peak = tracemalloc.get_traced_memory()
        statistics = tracemalloc.take_snapshot().statistics("lineno")[:TOP]
    finally:
        tracemalloc.stop()
    places = (entry.traceback[0] for entry in statistics)
    top = tuple(
        Line(short_place(place.filename, place.lineno), entry.size, entry.count)
        for place, entry in zip(places, statistics, strict=True)
    )
    return PythonMemory(current, peak, top)

"""Every call of every function, counted and timed by cProfile.

cProfile slows Python code and not native code: the shares of Python functions look larger than they are.
"""

from __future__ import annotations

import cProfile
import pstats
from dataclasses import dataclass

from whisperlab.profiling.workload import Workload, short_place

TOP = 20


@dataclass(slots=True, frozen=True)
class Function:
    """One function: how often it was called, its own time, and its time with all it called, in seconds."""

    name: str
    calls: int
    own_s: float
    cumulative_s: float


@dataclass(slots=True, frozen=True)
class Calls:
    """The functions with the most cumulative time, the greatest first."""

    total_s: float
    top: tuple[Function, ...]

    def describe(self) -> str:
        """The table for a person."""
        rows = "\n".join(
            f"  {function.cumulative_s:10.3f} {function.own_s:8.3f} {function.calls:9d}  {function.name}"
            for function in self.top
        )
        return (
            f"functions by cumulative time (cProfile, {self.total_s:.2f} s in all)\n"
            f"  cumulative s    own s     calls  function\n{rows}"
        )


def measure(workload: Workload) -> Calls:
    """Stream the recording under cProfile, started once the model is loaded."""
    transcriber, audio = workload.load()
    profiler = cProfile.Profile()
    profiler.runcall(workload.feed, transcriber, audio)
    return from_stats(pstats.Stats(profiler))


def from_stats(stats: pstats.Stats) -> Calls:
    """The record of a finished profile."""
    stats.sort_stats(pstats.SortKey.CUMULATIVE)
    top = []
    for place in stats.fcn_list[:TOP]:  # type: ignore[attr-defined]
        _, calls, own_s, cumulative_s, _ = stats.stats[place]  # type: ignore[attr-defined]
        top.append(Function(name(*place), calls, own_s, cumulative_s))
    return Calls(stats.total_tt, tuple(top))  # type: ignore[attr-defined]


def name(file: str, line: int, function: str) -> str:
    """A function and where it is; the built-in ones are nowhere.

    >>> name("/env/whisper/decoding.py", 12, "decode"), name("~", 0, "<built-in method sorted>")
    ('whisper/decoding.py:12 decode', '<built-in method sorted>')
    """
    return function if file == "~" else f"{short_place(file, line)} {function}"

"""Counts and times of all function calls, by cProfile.

cProfile slows Python code but not native code, so the shares of Python functions look larger than they are.
"""

from __future__ import annotations

import cProfile
import pstats

from whisperlab.profiling.records import CalledFunction, Calls
from whisperlab.profiling.workload import Workload, short_place

TOP = 20


def measure(workload: Workload) -> Calls:
    """Stream the recording under cProfile, started after the model is loaded."""
    transcriber, audio = workload.load()
    profiler = cProfile.Profile()
    profiler.runcall(workload.feed, transcriber, audio)
    return from_stats(pstats.Stats(profiler))


def from_stats(stats: pstats.Stats) -> Calls:
    stats.sort_stats(pstats.SortKey.CUMULATIVE)
    top = []
    for place in stats.fcn_list[:TOP]:  # type: ignore[attr-defined]
        _, calls, own_s, cumulative_s, _ = stats.stats[place]  # type: ignore[attr-defined]
        top.append(CalledFunction(name(*place), calls, own_s, cumulative_s))
    return Calls(stats.total_tt, tuple(top))  # type: ignore[attr-defined]


def name(file: str, line: int, function: str) -> str:
    """A function with its place; built-in functions have none.

    >>> name("/env/whisper/decoding.py", 12, "decode"), name("~", 0, "<built-in method sorted>")
    ('whisper/decoding.py:12 decode', '<built-in method sorted>')
    """
    return function if file == "~" else f"{short_place(file, line)} {function}"

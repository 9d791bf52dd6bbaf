"""What each line of the hot functions takes, by line_profiler. Its own cost falls on every line: trust the shares.

The same functions are measured when a program runs under ``kernprof -l -v``, or with ``LINE_PROFILE=1`` in its
environment (`whisperlab.util.line_profile`).
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from whisperlab.profiling.workload import Workload, short_place
from whisperlab.util.errors import ConfigurationError, MissingDependencyError

# The functions that take most of a chunk: one frame of language-ID, the encoder, its attention, a token, a decode.
HOT = (
    "whisperlab.transcriber:SessionRestartTranscriber._posteriors",
    "whisperlab.model.encoder:EagerNetwork.__call__",
    "whisperlab.model.encoder:_Block._attention",
    "whisperlab.model.text_decoder:TextDecoder.extend",
    "whisperlab.streaming.decoding:SpeechDecoder._draft",
)


@dataclass(slots=True, frozen=True)
class Line:
    """One line: how often it ran, its seconds, and its share of the function."""

    number: int
    hits: int
    total_s: float
    share: float
    code: str


@dataclass(slots=True, frozen=True)
class Function:
    """One function, line by line as they stand; lines that never ran are left out."""

    name: str
    place: str
    total_s: float
    lines: tuple[Line, ...]

    @property
    def slowest(self) -> Line:
        """The line with the greatest share."""
        return max(self.lines, key=lambda line: line.total_s)


@dataclass(slots=True, frozen=True)
class Lines:
    """The functions that ran, the slowest first."""

    functions: tuple[Function, ...]

    def describe(self) -> str:
        """The tables for a person."""
        return "line by line (line_profiler: its cost is in every line, trust the shares)\n" + "\n".join(
            f"  {function.name} ({function.place}), {function.total_s:.3f} s\n"
            + "\n".join(
                f"    {line.share:6.1%} {line.hits:8d}  {line.number:5d}  {line.code}"
                for line in function.lines
            )
            for function in self.functions
        )


def measure(workload: Workload) -> Lines:
    """Stream the recording with line_profiler on the hot functions, or those that ``workload`` names."""
    try:
        from line_profiler import LineProfiler
    except ImportError as error:
        raise MissingDependencyError("lines need line_profiler: pip install 'whisperlab[profile]'") from error
    functions = {name: _found(name) for name in workload.functions or HOT}
    transcriber, audio = workload.load()
    profiler = LineProfiler()
    for function in functions.values():
        profiler.add_callable(function)
    with profiler:
        workload.feed(transcriber, audio)
    statistics = profiler.get_stats()
    ran = list(_functions(statistics.timings, statistics.unit))
    return Lines(tuple(sorted(ran, key=lambda function: -function.total_s)))


def _found(name: str) -> Callable[..., Any]:
    """The function of a name like ``package.module:Class.method``."""
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"no function {name!r} ({error}); expected package.module:function or package.module:Class.method"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{name!r} is no function but {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _functions(
    timings: Mapping[tuple[str, int, str], list[tuple[int, int, int]]], unit: float
) -> Iterator[Function]:
    for (file, start, name), rows in timings.items():
        total = sum(ticks for _, _, ticks in rows)
        if not total:
            continue
        lines = tuple(
            Line(number, hits, ticks * unit, ticks / total, linecache.getline(file, number).rstrip())
            for number, hits, ticks in sorted(rows)
        )
        yield Function(name, short_place(file, start), total * unit, lines)

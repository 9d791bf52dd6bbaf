"""Time per line of the marked functions, by line_profiler. Its overhead is in every line: use the shares.

The functions with a line-profile mark (`whisperlab.util.line_profile`) are profiled. ``kernprof -l -v`` and the
environment variable ``LINE_PROFILE=1`` profile the same functions in any program.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from whisperlab.profiling.records import Lines, ProfiledFunction, ProfiledLine
from whisperlab.profiling.workload import Workload, short_place
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.line_profile import MARKED


def measure(workload: Workload) -> Lines:
    """Stream the recording under line_profiler, with the functions that ``workload`` names or the marked ones."""
    try:
        from line_profiler import LineProfiler
    except ImportError as error:
        raise MissingDependencyError("lines need line_profiler: pip install 'whisperlab[profile]'") from error
    named = [_found(name) for name in workload.functions]
    transcriber, audio = workload.load()
    profiler = LineProfiler()
    for function in named or MARKED:
        profiler.add_callable(function)
    with profiler:
        workload.feed(transcriber, audio)
    statistics = profiler.get_stats()
    ran = list(_functions(statistics.timings, statistics.unit))
    return Lines(tuple(sorted(ran, key=lambda function: -function.total_s)))


def _found(name: str) -> Callable[..., object]:
    """The function with a name like ``package.module:Class.method``."""
    module, _, path = name.partition(":")
    try:
        found: object = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"no function {name!r} ({error}); expected package.module:function or package.module:Class.method"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{name!r} is not a function: it is {type(found).__name__}")
    return found


def _functions(
    timings: Mapping[tuple[str, int, str], list[tuple[int, int, int]]], unit: float
) -> Iterator[ProfiledFunction]:
    for (file, start, name), rows in timings.items():
        total = sum(ticks for _, _, ticks in rows)
        if not total:
            continue
        lines = tuple(
            ProfiledLine(number, hits, ticks * unit, ticks / total, linecache.getline(file, number).rstrip())
            for number, hits, ticks in sorted(rows)
        )
        yield ProfiledFunction(name, short_place(file, start), total * unit, lines)

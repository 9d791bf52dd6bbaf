"""Reading and writing of traces as JSON lines, and the only place that has the schemas of earlier versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from whisperlab.evaluation.trace.records import Trace
from whisperlab.evaluation.trace.schema import check_line
from whisperlab.util.errors import TraceError, brief
from whisperlab.util.files import atomic_path
from whisperlab.util.json_values import Json
from whisperlab.util.options import migrated as migrated_options
from whisperlab.util.validation import from_json

# Schema of a trace, and the oldest that can be read. 3 added the kinds ``untranscribed`` and ``language_flag``. 4 gave
# options today's names, in groups, and called the cache key and hit cause ``near`` ``similar``.
SCHEMA = 4
OLDEST = 2


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write a trace as JSON lines. The file appears only when it is complete."""
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for line in (trace.header, *trace.events):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_trace(path: str | Path) -> Trace:
    """Read a trace of this or an earlier version. Raises TraceError, with file and line, for anything else."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [_parse(line, f"{path}:{number}") for number, line in enumerate(file, 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from error
    if not lines or lines[0]["kind"] != "header":
        raise TraceError(f"{path} is not a trace: its first line is not a header")
    header, *events = _migrated(lines, path)
    kinds = [event["kind"] for event in events]
    if kinds.count("end") != 1 or kinds[-1] != "end" or "header" in kinds:
        raise TraceError(f"{path} is not one complete trace: it needs one header first and one end line last")
    trace = Trace(header, tuple(events))
    records = "segments switches frames speech untranscribed flags committed reference config statistics"
    try:
        for name in (*records.split(), "real_time_factor", "speed"):
            getattr(trace, name)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TraceError(f"{path} is damaged: {brief(error)}") from error
    return trace


def _parse(line: str, where: str) -> Json:
    try:
        value = from_json(line)
    except ValueError as error:
        raise TraceError(f"{where} is not JSON (was the file cut short?): {error}") from error
    return check_line(value, where)


def _migrated(lines: Sequence[Json], path: object) -> tuple[Json, ...]:
    """The lines of a trace (header first) in today's schema; raises TraceError for a schema that cannot be read."""
    header, *events = lines
    schema = header["schema"]
    if not OLDEST <= schema <= SCHEMA:
        raise TraceError(
            f"{path} has trace schema {schema}; this version reads {OLDEST} to {SCHEMA}: update whisperlab"
        )
    if schema < 4:
        header = {**header, "config": migrated_options(header["config"])}
        events = [
            {**event, "statistics": migrated_statistics(event["statistics"])} if event["kind"] == "end" else event
            for event in events
        ]
    return {**header, "schema": SCHEMA}, *events


def migrated_statistics(statistics: Json) -> Json:
    """A transcriber's statistics of schema 2 or 3 in today's form; today's are returned unchanged."""
    cache = statistics.get("encoder_cache")
    if not isinstance(cache, Mapping):
        return statistics
    cache = dict(cache)
    if isinstance(causes := cache.get("hits_by_cause"), Mapping):
        cache["hits_by_cause"] = {"similar" if name == "near" else name: n for name, n in causes.items()}
    if cache.get("key") == "near":
        cache["key"] = "similar"
    return {**statistics, "encoder_cache": cache}

"""Traces of earlier versions in the form of this one: the only place that has the old schemas.

| schema | what changed |
|-|-|
| 2 | the oldest that can be read |
| 3 | adds the kinds ``untranscribed`` and ``language_flag`` |
| 4 | options have today's names, in groups; the cache key and hit cause ``near`` is called ``similar`` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whisperlab.util.errors import TraceError
from whisperlab.util.json_values import Json
from whisperlab.util.options import migrated as migrated_options

SCHEMA = 4
OLDEST = 2


def migrated(lines: Sequence[Json], path: object) -> tuple[Json, ...]:
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
    renamed = {"near": "similar"}
    cache = dict(cache)
    if isinstance(causes := cache.get("hits_by_cause"), Mapping):
        cache["hits_by_cause"] = {renamed.get(name, name): n for name, n in causes.items()}
    if cache.get("key") == "near":
        cache["key"] = "similar"
    return {**statistics, "encoder_cache": cache}

"""Required fields of each kind of line in a trace, and their allowed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeGuard, get_args

from whisperlab.util.errors import TraceError
from whisperlab.util.json_values import Json
from whisperlab.util.validation import (
    AMOUNT,
    AMOUNT_OR_NULL,
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    Field,
    is_number,
    shown,
    wrong_field,
)

Pace = Literal["fast", "real"]

_LONGEST_S = 1e8  # of a recording: three years


def check_fields(value: object, fields: Mapping[str, Field], subject: str) -> None:
    """Raise TraceError, starting with ``subject``, unless the value is an object with all these fields."""
    if not isinstance(value, dict):
        raise TraceError(f"{subject} should be an object, got {shown(value)}")
    if missing := fields.keys() - value.keys():
        raise TraceError(f"{subject} without {', '.join(sorted(missing))}")
    if wrong := wrong_field(value, fields):
        raise TraceError(f"{subject} whose {wrong}")


def check_line(value: object, where: str) -> Json:
    """A line of a trace; raises TraceError for an unknown kind, a missing or wrong field, or a span that ends early."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in LINES:
        raise TraceError(f"{where} is not a trace line: expected a kind out of {', '.join(LINES)}")
    assert isinstance(value, dict)
    fields = LINES[kind]
    check_fields(value, fields, f"{where}: a {kind} line")
    if wrong := wrong_field(value, _OPTIONAL.get(kind, {})):
        raise TraceError(f"{where}: a {kind} line whose {wrong}")
    for first, second in (("start", "end"), ("start_time", "end_time")):
        if first in fields and value[first] > value[second]:
            got = f"got {value[first]} and {value[second]}"
            raise TraceError(f"{where}: {first} should not be more than {second}, {got}")
    return value


def _is_time(value: object) -> TypeGuard[float]:
    return is_number(value) and 0 <= value <= _LONGEST_S


def _is_posterior(value: object) -> bool:
    return isinstance(value, dict) and all(is_number(p) and 0 <= p <= 1 for p in value.values())


def _is_onset(value: object) -> bool:
    if not isinstance(value, dict):
        return value is None
    return value.keys() >= _ONSET.keys() and wrong_field(value, _ONSET) is None


def _is_audio(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    duration = value.get("duration")
    return _is_time(duration) and duration > 0 and TEXT_OR_NULL.fits(value.get("path"))


def _is_statistics(value: object) -> bool:
    """Whether timings and cache counts are numbers; other statistics are free."""
    if not isinstance(value, dict):
        return False
    timings, cache = value.get("performance") or {}, value.get("encoder_cache") or {}
    if not (isinstance(timings, dict) and isinstance(cache, dict)):
        return False
    parts = [cache, cache.get("hits_by_cause") or {}, cache.get("shadow") or {}]
    return all(map(_is_timing, timings.values())) and all(
        isinstance(part, dict) and not wrong_field(part, _COUNTED) for part in parts
    )


def _is_timing(timing: object) -> bool:
    if not isinstance(timing, dict):
        return False
    complete = not timing.get("count") or timing.keys() >= _TIMED.keys()
    return complete and wrong_field(timing, _TIMED) is None


_TIMED = dict.fromkeys(("count", "total", "mean", "p50", "p95", "p99", "max"), AMOUNT_OR_NULL)
_COUNTED = dict.fromkeys(
    (*("hits", "misses", "evictions", "size", "bytes", "checked", "false_hits"), *("silence", "repeat", "similar")),
    Field("a count", lambda value: value is None or COUNT.fits(value)),
)
_TIME = Field(f"seconds from 0 to {_LONGEST_S:g}", _is_time)
_POSTERIOR = Field("the probability of each language", _is_posterior)
_LIST = Field("a list", lambda value: isinstance(value, list))
_ONSET = {"window": _TIME, "posterior": _POSTERIOR}
_CLOCKS = {"at": _TIME, "elapsed": NUMBER}
_SPAN = {**_CLOCKS, "start": _TIME, "end": _TIME}

STATISTICS = Field("a transcriber's statistics, with numbers for timings and counts", _is_statistics)
SEGMENT = {
    "text": TEXT,
    "language": TEXT,
    "start_time": _TIME,
    "end_time": _TIME,
    "is_final": FLAG,
    "confidence": NUMBER,
}
SWITCH = {"time": _TIME, "from": TEXT, "to": TEXT, "decided_at": _TIME}
DOCUMENT = {"audio": TEXT, "duration": _TIME, "segments": _LIST, "switches": _LIST}  # of `transcribe --json`

# Required fields by kind, besides "kind" itself.
LINES: dict[str, dict[str, Field]] = {
    "header": {
        "schema": COUNT,
        "created": TEXT,
        "config": OBJECT,
        "audio": Field("an object with a duration above 0 and perhaps a path", _is_audio),
        "recording": TEXT,
        "reference": Field("an object or null", lambda value: value is None or isinstance(value, dict)),
        "pace": Field("fast or real", lambda value: isinstance(value, str) and value in get_args(Pace)),
    },
    "speech": _SPAN,
    "frame": {
        **_CLOCKS,
        "end": _TIME,
        "window": _TIME,
        "speech": _TIME,
        "posterior": _POSTERIOR,
        "label": TEXT,
        "cached": FLAG,
        "onset": Field("null or an object with window and posterior", _is_onset),
    },
    "switch": {**_CLOCKS, **SWITCH},
    "text": {**_CLOCKS, "committed": TEXT, "tentative": TEXT, "language": TEXT_OR_NULL},
    "segment": {**_CLOCKS, **SEGMENT},
    "gap": _SPAN,
    "untranscribed": _SPAN,
    "language_flag": {**_SPAN, "label": TEXT, "language": TEXT, "probability": NUMBER, "outside": FLAG},
    "load": {**_CLOCKS, "level": COUNT},
    "end": {**_CLOCKS, "statistics": STATISTICS, "compute_s": AMOUNT, "peak_rss_bytes": AMOUNT_OR_NULL},
}

# Fields that traces of earlier versions lack.
_OPTIONAL = {"header": {"load_before": AMOUNT_OR_NULL}, "end": {"processor_s": AMOUNT_OR_NULL}}

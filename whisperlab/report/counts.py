"""Rows of a sweep added up per configuration: counts first, rates from the sums.

A row is what the sweep's results store holds: one configuration run over one recording. Percentiles cannot
be added, so latency is carried as what can be said truly of several runs: totals, and the worst percentile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from whisperlab.evaluation.scoring import wilson
from whisperlab.evaluation.scoring.summary import Score, bootstrap_interval, pooled
from whisperlab.util.errors import SweepError

Json = Mapping[str, Any]

BOOTSTRAPS = 200  # resamples: the ends of a 95 % interval over recordings are rough at any number

_REQUIRED = ("config", "recording", "status")
_PLAIN_NAMES = {
    "cache_size": "{} entries",
    "hash_precision": "precision {}",
    "key": "{}",
    "lid_hop_ms": "hop {} ms",
}


@dataclass(slots=True, frozen=True)
class CacheTally:
    """What the encoder cache did, as counts that add up over recordings.

    ``silence``, ``repeat`` and ``similar`` are the hits by cause; ``checked`` hits were recomputed and
    ``false_hits`` of them gave another language than the audio at hand. ``encode_s`` is the time spent in
    the encoder for language-ID, ``saved_s`` what the hits would have cost at that run's mean encode.
    """

    hits: int = 0
    misses: int = 0
    silence: int = 0
    repeat: int = 0
    similar: int = 0
    checked: int = 0
    false_hits: int = 0
    evictions: int = 0
    encode_s: float = 0.0
    saved_s: float = 0.0

    def __add__(self, other: CacheTally) -> CacheTally:
        return CacheTally(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )

    @property
    def lookups(self) -> int:
        """How often the cache was asked."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """Hits / look-ups; None when nothing was looked up."""
        return _ratio(self.hits, self.lookups)

    @property
    def false_hit_rate(self) -> float | None:
        """False hits / hits that were checked; None when none was checked."""
        return _ratio(self.false_hits, self.checked)

    @property
    def false_hit_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the false-hit rate; None when no hit was checked."""
        return wilson(self.false_hits, self.checked) if self.checked else None

    @property
    def wrong_share(self) -> float | None:
        """Share of all look-ups answered wrongly, were every hit as wrong as the checked ones."""
        if self.hits == 0:
            return 0.0 if self.lookups else None
        rate, wrong = self.hit_rate, self.false_hit_rate
        return None if rate is None or wrong is None else rate * wrong

    @property
    def saved_share(self) -> float | None:
        """Encoder seconds saved / encoder seconds a run without the cache would have taken."""
        return _ratio(self.saved_s, self.saved_s + self.encode_s)


@dataclass(slots=True, frozen=True)
class Operation:
    """Latency of one operation over several runs, in milliseconds.

    ``mean`` is exact (total / count). ``p50`` is the median of the runs' medians; ``p95``, ``p99`` and
    ``longest`` are the worst of any run, because percentiles of separate runs cannot be added.
    """

    name: str
    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float


@dataclass(slots=True, frozen=True)
class Result:
    """One configuration over all recordings it finished."""

    name: str
    config: Json
    rows: tuple[Json, ...]
    cache: CacheTally
    scores: tuple[Score, ...]
    rates: Mapping[str, Any]
    operations: tuple[Operation, ...]

    @property
    def language_error(self) -> float | None:
        """Share of speech time under a wrong label: of the final text, or of the frames without decoding."""
        return self.rates.get(language_rate(self.config))

    def language_error_interval(self, rng: np.random.Generator) -> tuple[float, float] | None:
        """Its 95 % bootstrap interval over recordings; None for fewer than two."""
        if len(self.scores) < 2 or self.language_error is None:
            return None
        return bootstrap_interval(self.scores, language_rate(self.config), rng, n=BOOTSTRAPS)

    @property
    def mixed_error(self) -> float | None:
        """Word errors / words; None without decoding."""
        return self.rates.get("mixed_error_rate") if decodes(self.config) else None

    @property
    def recordings(self) -> frozenset[str]:
        """The ids of the recordings."""
        return frozenset(str(row["recording"]) for row in self.rows)

    @property
    def duration(self) -> float:
        """Seconds of audio, all recordings together."""
        return math.fsum(row.get("duration") or 0.0 for row in self.rows)

    @property
    def real_time_factor(self) -> float | None:
        """Compute / audio, added up before dividing."""
        return _ratio(math.fsum(row.get("compute_s") or 0.0 for row in self.rows), self.duration)

    @property
    def threads(self) -> int | None:
        """Compute threads of its runs; None when no row tells, or the runs differ."""
        told = {row.get("threads") for row in self.rows}
        return told.pop() if len(told) == 1 else None

    @property
    def response_p95(self) -> float | None:
        """The worst recording's 95th percentile of response times, in seconds; None when none was measured."""
        return max(
            (float(found) for row in self.rows if (found := row.get("response_p95_s")) is not None),
            default=None,
        )

    @property
    def peak_rss_bytes(self) -> int | None:
        """The highest peak of resident memory of any run; None when none was measured."""
        return max(
            (int(row["peak_rss_bytes"]) for row in self.rows if row.get("peak_rss_bytes")), default=None
        )


def decodes(config: Json) -> bool:
    """Whether a configuration decodes text; they do unless they say otherwise."""
    return bool(config.get("decode", True))


def language_rate(config: Json) -> str:
    """The name of the rate that is the language error of a configuration."""
    return "language_error_rate" if decodes(config) else "language_error_rate_frames"


def measured_alike(results: Iterable[Result]) -> list[Result]:
    """The results whose language errors compare: of the final text or of the frames, whichever are more.

    Frames lag behind the speech, so theirs is the higher for the same quality.
    """
    told = list(results)
    of_text = [result for result in told if decodes(result.config)]
    of_frames = [result for result in told if not decodes(result.config)]
    return of_text if len(of_text) >= len(of_frames) else of_frames


def percent(share: float | None) -> str:
    """A share for people; small ones keep a decimal.

    >>> percent(0.614), percent(0.004), percent(None)
    ('61 %', '0.4 %', '–')
    """
    if share is None:
        return "–"
    digits = 1 if 0 < abs(share) < 0.095 else 0
    return f"{100 * share:.{digits}f} %"


def check_row(row: Json) -> Json:
    """The row itself, when it has the fields a report cannot do without; SweepError names what is missing."""
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        raise SweepError(f"a row of a sweep needs {', '.join(_REQUIRED)}; {missing} missing in {row!r:.200}")
    return row


def cache_tally(row: Json) -> CacheTally:
    """What the cache did in one run."""
    statistics = row.get("statistics") or {}
    cache = statistics.get("encoder_cache") or {}
    causes, shadow = cache.get("hits_by_cause") or {}, cache.get("shadow") or {}
    forward = (statistics.get("performance") or {}).get("lid.encoder_forward") or {}
    hits = int(cache.get("hits") or 0)
    return CacheTally(
        hits=hits,
        misses=int(cache.get("misses") or 0),
        silence=int(causes.get("silence") or 0),
        repeat=int(causes.get("repeat") or 0),
        similar=int(causes.get("similar") or 0),
        checked=int(shadow.get("checked") or 0),
        false_hits=int(shadow.get("false_hits") or 0),
        evictions=int(cache.get("evictions") or 0),
        encode_s=float(forward.get("total") or 0.0) / 1000,
        saved_s=hits * float(forward.get("mean") or 0.0) / 1000,
    )


def operations(rows: Iterable[Json]) -> tuple[Operation, ...]:
    """Latency per operation over several runs, in the order the operations first appear."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        for name, timing in ((row.get("statistics") or {}).get("performance") or {}).items():
            if isinstance(timing, Mapping) and timing.get("count"):
                found.setdefault(name, []).append(timing)
    return tuple(_operation(name, timings) for name, timings in found.items())


def results(rows: Sequence[Json], fields: Sequence[str] | None = None) -> tuple[Result, ...]:
    """Finished rows grouped by configuration, in the order of ``fields``: those that tell them apart."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["config"], sort_keys=True), []).append(row)
    if fields is None:
        fields = varying([row["config"] for row in rows])
    found = [_result(group, fields) for group in groups.values()]
    return tuple(sorted(found, key=lambda result: _order(result.config, fields)))


def varying(configs: Sequence[Json]) -> tuple[str, ...]:
    """The fields in which configurations differ: key and precision first, then as they come."""
    seen: dict[str, set[str]] = {}
    for config in configs:
        for name, value in config.items():
            seen.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    everywhere = {name: sum(name in config for config in configs) == len(configs) for name in seen}
    names = [name for name, values in seen.items() if len(values) > 1 or not everywhere[name]]
    first = ("key", "hash_precision", "cache_size", "lid_hop_ms")
    return tuple(sorted(names, key=lambda name: first.index(name) if name in first else len(first)))


def config_name(config: Json, fields: Sequence[str]) -> str:
    """A short name that tells a configuration from the others.

    >>> config_name({"key": "rounded", "hash_precision": 6, "model": "base"}, ("key", "hash_precision"))
    'rounded · precision 6'
    """
    told = [name for name in fields if config.get(name) is not None]
    return (
        " · ".join(_PLAIN_NAMES.get(name, name + " {}").format(config[name]) for name in told)
        or "as configured"
    )


def _result(rows: Sequence[Json], fields: Sequence[str]) -> Result:
    config = rows[0]["config"]
    scores = tuple(Score.from_dict(row["counts"]) for row in rows if row.get("counts"))
    return Result(
        name=config_name(config, fields),
        config=config,
        rows=tuple(rows),
        cache=sum(map(cache_tally, rows), CacheTally()),
        scores=scores,
        rates=pooled(scores).rates() if scores else {},
        operations=operations(rows),
    )


def _operation(name: str, timings: Sequence[Json]) -> Operation:
    count = sum(int(timing["count"]) for timing in timings)
    medians = sorted(float(timing["p50"]) for timing in timings)
    return Operation(
        name=name,
        count=count,
        mean=math.fsum(float(timing["total"]) for timing in timings) / count,
        p50=medians[(len(medians) - 1) // 2],
        p95=max(float(timing["p95"]) for timing in timings),
        p99=max(float(timing["p99"]) for timing in timings),
        longest=max(float(timing["max"]) for timing in timings),
    )


def _order(config: Json, fields: Sequence[str]) -> list[tuple[int, float, str]]:
    return [_rank(name, config.get(name)) for name in fields]


def _rank(name: str, value: object) -> tuple[int, float, str]:
    """The guide's own settings first: its key, then the finest precision, then small caches before large."""
    if isinstance(value, int | float):
        return (1, -value if name == "hash_precision" else value, "")
    return (0 if value == "rounded" else 2, 0.0, str(value))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

"""The rows of a sweep added up per configuration, by SQL: counts first, rates from the sums."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whisperlab.evaluation.scoring import wilson
from whisperlab.evaluation.scoring.latency import percentile
from whisperlab.evaluation.scoring.text import Addable
from whisperlab.experiments.results_store import ResultsStore, check_config, decodes
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import LEAST_UNITS, Interval, resampled

QUERIES: dict[str, str] = tomllib.loads(Path(__file__).with_name("queries.toml").read_text("utf-8"))
BOOTSTRAPS = 200  # resamples: the ends of a 95 % interval over recordings are rough at any number
MAX_SAMPLED, MAX_TIMED = 500, 40  # results with all details; tables show no more
KEY, PRECISION, SIZE, HOP = "cache.key", "cache.hash_precision", "cache.size", "language_id.hop_ms"

WRONG_TEXT, WRONG_FRAMES = "wrong language, text", "wrong language, frames"

_WITHOUT_PRECISION = ("span", "similar")  # keys that ignore the hash precision
_PLAIN_NAMES = {SIZE: "{} entries", PRECISION: "precision {}", KEY: "{}", HOP: "hop {} ms"}
_UNITS = ("recording", "errors", "words", "wrong_s", "speech_s", "compute_s", "duration_s", "response_p95_s")


@dataclass(slots=True, frozen=True)
class CacheCounts(Addable):
    """What the encoder cache did, as counts that add up over recordings.

    ``checked`` hits were recomputed; ``false_hits`` of them gave another language than the audio that was looked up.
    ``encode_s`` is the time in the encoder for language-ID, ``saved_s`` what the hits would have taken at the mean
    encode of their run.
    """

    hits: int = 0
    misses: int = 0
    checked: int = 0
    false_hits: int = 0
    encode_s: float = 0.0
    saved_s: float = 0.0

    @classmethod
    def of(cls, columns: Json) -> Self:
        """The counts in a line of ``results``, or in sums of its columns."""
        return cls(*(columns[name] or 0 for name in cls.__slots__))

    @property
    def lookups(self) -> int:
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """Hits / look-ups; None without look-ups."""
        return ratio(self.hits, self.lookups)

    @property
    def false_hit_rate(self) -> float | None:
        """False hits / checked hits; None when none was checked."""
        return ratio(self.false_hits, self.checked)

    @property
    def false_hit_interval(self) -> Interval | None:
        """The 95 % interval of the false-hit rate; None when no hit was checked."""
        return wilson(self.false_hits, self.checked) if self.checked else None

    @property
    def wrong_share(self) -> float | None:
        """Estimated share of all look-ups with a wrong answer, from the false-hit rate of the checked hits."""
        if self.hits == 0:
            return 0.0 if self.lookups else None
        return None if self.false_hit_rate is None else self.hits / self.lookups * self.false_hit_rate

    @property
    def saved_share(self) -> float | None:
        """Encoder seconds saved / encoder seconds of a run without the cache."""
        return ratio(self.saved_s, self.saved_s + self.encode_s)


@dataclass(slots=True, frozen=True)
class Operation:
    """Latency of one operation over several runs, in milliseconds."""

    name: str
    count: int
    mean: float  # exact: total / count
    p50: float  # the median of the medians of the runs
    p95: float  # this and the following are the worst of any run
    p99: float
    longest: float


def _rate(part: str, whole: str) -> property:
    """The sum of a column divided by that of another; None when either is missing or the whole is 0."""
    return property(lambda result: ratio(result.sums[part], result.sums[whole]))


@dataclass(slots=True, frozen=True)
class Result:
    """One configuration over all recordings that it finished, or a single run of it.

    ``config`` has dotted names. ``sums`` are columns of the store added up, and the others of `TOTALS`; of a run they
    are its columns. The first `MAX_SAMPLED` results also have ``delays``, the seconds from switches to their decisions,
    and ``units``, the columns `_UNITS` and the speakers of their runs.
    """

    name: str
    config_id: int
    config: Json
    n_runs: int
    n_recordings: int
    cache: CacheCounts
    sums: Json
    delays: tuple[float, ...] = ()
    units: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()

    @classmethod
    def of(cls, line: Json, config: Json, options: Sequence[str], *samples: Any) -> Self:
        """The result of a line of `TOTALS` or of a run, named by its ``options``; ``samples`` are delays and units."""
        name, size = config_name(config, options), (line.get("n_runs", 1), line.get("n_recordings", 1))
        return cls(name, line["config_id"], config, *size, CacheCounts.of(line), line, *samples)

    # under a wrong label: of the final text, or of the frames without decoding
    language_error = _rate("wrong_s", "speech_s")
    mixed_error = _rate("errors", "words")  # None without decoding
    processor_factor = _rate("processor_s", "duration_s")  # hardly affected by other programs; None if not measured

    @property
    def language_measure(self) -> str:
        """The name of its language error: of the text or of the frames, which are two measures."""
        return WRONG_TEXT if decodes(self.config) else WRONG_FRAMES

    def error_by(self, measure: str) -> float | None:
        """Its language error; None if it has another measure."""
        return self.language_error if self.language_measure == measure else None

    @property
    def language_error_interval(self) -> Interval | None:
        """Its 95 % bootstrap interval over `resampled` recordings; None for fewer than three."""
        parts = zip(*(self.units.get(name, ()) for name in ("wrong_s", "speech_s", "speakers")), strict=True)
        speech = [part for part in parts if part[1] is not None]
        if len(speech) < LEAST_UNITS or self.language_error is None:
            return None
        units = resampled([speakers for *_, speakers in speech])
        sums = _resamples(len(units)) @ [np.sum([speech[i][:2] for i in unit], 0) for unit in units]
        rates = [wrong / all_s for wrong, all_s in sums.tolist() if all_s]
        return percentile(rates, 2.5), percentile(rates, 97.5)

    @property
    def switch_f1(self) -> float | None:
        """F1 of the language switches found within one second."""
        true, found, matched = (self.sums[f"switches_{name}"] or 0 for name in ("true", "found", "matched"))
        return ratio(2 * matched, true + found)

    def decision_delay(self) -> float | None:
        """Median seconds from a switch to its decision; None if half or more were missed."""
        delay = percentile(self.delays, 50, missed=(self.sums["switches_true"] or 0) - len(self.delays))
        return delay if math.isfinite(delay) else None

    @property
    def real_time_factor(self) -> float | None:
        """Wall seconds of computing / seconds of audio."""
        return ratio(self.sums["compute_s"] or 0.0, self.sums["duration_s"])

    @property
    def threads(self) -> int | None:
        """Compute threads of its runs; None when they differ or are not known for all."""
        low, high, known = (self.sums[name] for name in ("least_threads", "most_threads", "known_threads"))
        return low if low == high and known == self.n_runs else None

    def to_dict(self) -> Json:
        """Its configuration where it is plain, its sums or columns, and its rates."""
        plain = {name: value for name, value in self.config.items() if isinstance(value, str | int | float | None)}
        return {
            **{f"config.{name}": value for name, value in plain.items()},
            **{name: value for name, value in self.sums.items() if name not in ("id", "config_id", "key", "delays")},
            "mixed_error_rate": self.mixed_error,
            "hit_rate": self.cache.hit_rate,
            "language_error_rate": self.error_by(WRONG_TEXT),
            "language_error_rate_frames": self.error_by(WRONG_FRAMES),
            "false_hit_rate": self.cache.false_hit_rate,
        }


@cache
def _resamples(n: int) -> NDArray[np.float64]:
    """How often each of n recordings is drawn in each bootstrap resample, shape (BOOTSTRAPS, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS).astype(float)


def measured_alike(results: Sequence[Result]) -> list[Result]:
    """The results with an error of the text, or those with one of the frames, whichever are more: the two differ."""
    kinds = ([one for one in results if one.language_measure == kind] for kind in (WRONG_TEXT, WRONG_FRAMES))
    return max(kinds, key=len)


def results(
    store: ResultsStore, where: str = "true", parameters: Sequence[object] = (), options: Sequence[str] | None = None
) -> tuple[Result, ...]:
    """The finished rows that fulfil an SQL condition, by configuration, in the order of ``options`` (`varying`)."""
    sums = {line["config_id"]: line for line in store.totals(where, parameters)}
    configs = configurations(store, [*sums])
    if options is None:
        options = varying(list(configs.values()))
    ranks = {number: [_rank(name, config.get(name)) for name in options] for number, config in configs.items()}
    ids = sorted(sums, key=lambda number: (ranks[number], number))
    samples = _samples(store, ids[:MAX_SAMPLED], where, parameters)
    return tuple(Result.of(sums[number], configs[number], options, *samples.get(number, ())) for number in ids)


def timed(store: ResultsStore, found: Sequence[Result]) -> tuple[Result, ...]:
    """The results, the first `MAX_TIMED` with the latencies of their operations in alphabetical order."""
    lines = store.sql(QUERIES["operations"], (json.dumps([result.config_id for result in found[:MAX_TIMED]]),))
    operations: dict[int, list[Operation]] = {}
    for config_id, name, count, total, medians, *worst in lines:
        one = Operation(name, int(count), total / count, percentile(json.loads(medians), 50), *worst)
        operations.setdefault(config_id, []).append(one)
    shown = (replace(one, operations=tuple(operations.get(one.config_id, ()))) for one in found[:MAX_TIMED])
    return (*shown, *found[MAX_TIMED:])


def configurations(store: ResultsStore, ids: Sequence[int]) -> dict[int, Json]:
    """Some configurations of a store by id, with dotted names."""
    query = "select config_id, config from configurations where config_id in (select value from json_each(?))"
    return {config_id: check_config(config) for config_id, config in store.sql(query, (json.dumps(ids),))}


def _samples(
    store: ResultsStore, config_ids: Sequence[int], where: str, parameters: Sequence[object]
) -> dict[int, tuple[Any, ...]]:
    """``delays`` and ``units`` of some configurations, see `Result`."""
    query = QUERIES["samples"].format(units=", ".join(_UNITS), where=where)
    lines = store.lines(query, (*parameters, json.dumps(config_ids)))
    found, speakers = {}, store.speakers()
    for config_id, group in groupby(lines, lambda line: line[0]):
        _, delays, *values = zip(*group, strict=True)
        every = json.loads(f"[{','.join(filter(None, delays))}]")
        units: dict[str, Any] = dict(zip(_UNITS, values, strict=True))
        units["speakers"] = [speakers.get(recording, ()) for recording in units["recording"]]
        found[config_id] = (tuple(chain.from_iterable(every)), units)
    return found


def varying(configs: Sequence[Json]) -> tuple[str, ...]:
    """The options in which configurations differ: those of the cache first, then as they come."""
    absent = "(absent)", 0  # as no JSON value
    every = dict.fromkeys(chain.from_iterable(configs))
    names = [name for name in every if len({repr(config.get(name, absent)) for config in configs}) > 1]
    first = (KEY, PRECISION, SIZE, HOP)
    return tuple(sorted(names, key=lambda name: first.index(name) if name in first else len(first)))


def config_name(config: Json, options: Sequence[str]) -> str:
    """A short name that distinguishes a configuration from the others.

    >>> config_name({"cache.key": "rounded", "cache.hash_precision": 6}, ("cache.key", "cache.hash_precision"))
    'rounded · precision 6'
    """
    unused = {PRECISION} if config.get(KEY) in _WITHOUT_PRECISION else set()
    known = {name: config[name] for name in options if config.get(name) is not None and name not in unused}
    names = {**_PLAIN_NAMES, SIZE: "no cache"} if config.get(SIZE) == 0 else _PLAIN_NAMES
    return " · ".join(names.get(n, "{1} {0}").format(value, n) for n, value in known.items()) or "as configured"


def ratio(part: float | None, whole: float | None) -> float | None:
    """Part / whole; None when either is missing or the whole is 0."""
    return None if part is None or not whole else part / whole


def _rank(name: str, value: object) -> tuple[int, float, str]:
    """The guide's own settings first: its key, then the finest precision, then small caches before large."""
    if isinstance(value, int | float):
        return (1, -value if name == PRECISION else value, "")
    return (0 if value == "rounded" else 2, 0.0, str(value))

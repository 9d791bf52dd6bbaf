"""Evaluation of a soak's log: growth of memory and collections, and latency at the end against the beginning.

Growth is the median of all slopes between two points (Theil 1950; Sen 1968, Journal of the American Statistical
Association 63) after the warm-up, with its 95 % interval. A point of memory is the minimum of a minute: temporary
blocks disappear, but a leak is present at every moment. The maximum of each minute is reported too.

The two windows have the same audio, so their chunks are compared in pairs, in CPU time. The speed of the machine
changes over hours. A reference process measures this change with the same piece of work in both windows, and the times
of the last window are corrected for it. Uncorrected times are reported too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from whisperlab.experiments.significance import PairedResult, holm, paired_test
from whisperlab.util.errors import MissingDependencyError, TraceError
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import Array, block_ratio

LOG_SCHEMA = 1
LIMIT = 1.0  # allowed growth of resident memory, MB per hour of audio
WORTH = 0.05  # smallest relevant change of latency
PERCENTILES = (50, 95, 99)
MINUTE_S = 60.0
SMOOTHED = 5  # blocks per median of the reference times: single times vary too much
_MB = 1e6
_MEMORY = ("resident", "anonymous", "dirty", "heap", "heap_free")
_COUNTS = ("python_blocks", "files", "threads")
_CONFIDENCE = 0.999  # a hundred collections are tested

Call = Literal["equal", "slower", "faster", "not enough data"]


@dataclass(slots=True, frozen=True)
class Log:
    """The lines of a log by kind; ``whole`` if the plan was completed."""

    header: Json
    pieces: tuple[Json, ...]
    samples: tuple[Json, ...]
    whole: bool

    @property
    def fed_s(self) -> float:
        """Seconds of audio fed."""
        return float(self.samples[-1]["at"]) if self.samples else 0.0

    @property
    def steady(self) -> list[Json]:
        """The samples after the warm-up."""
        return [sample for sample in self.samples if sample["at"] > self.header["plan"]["warm_up_s"]]


@dataclass(slots=True, frozen=True)
class Growth:
    """Growth per hour of audio with its 95 % interval; None if the stream was too short."""

    measure: str
    unit: str
    first: float
    last: float
    slope: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(slots=True, frozen=True)
class Held:
    """A collection after the warm-up: smallest and largest size, limit, growth per hour."""

    name: str
    least: int
    most: int
    limit: int | None
    an_hour: float
    grows: bool

    @property
    def within(self) -> bool:
        """Whether it is within its limit and does not grow."""
        return not self.grows and (self.limit is None or self.most <= self.limit)


@dataclass(slots=True, frozen=True)
class Change:
    """A percentile of the chunks in the first and the last window, in milliseconds of CPU time.

    ``ratio`` is corrected for the machine and has a 95 % interval. ``uncorrected`` is the ratio without correction,
    ``wall`` the ratio of wall times.
    """

    measure: str
    first: float
    last: float
    ratio: float
    low: float
    high: float
    uncorrected: float
    wall: float
    n: int

    @property
    def call(self) -> Call:
        """``equal`` means that the interval excludes relevant changes."""
        return classify(self.low, self.high)


@dataclass(slots=True, frozen=True)
class Findings:
    """The result of an evaluation."""

    growth: tuple[Growth, ...]
    held: tuple[Held, ...]
    changes: tuple[Change, ...]
    stages: tuple[PairedResult, ...]
    machine: Change | None
    work: Mapping[str, tuple[int, int]]

    @property
    def resident(self) -> Growth:
        """The growth of resident memory."""
        return next(one for one in self.growth if one.measure == "resident")

    @property
    def memory_holds(self) -> bool | None:
        """Whether resident memory grows by less than `LIMIT` per hour; None if the interval includes the limit."""
        low, high = self.resident.low, self.resident.high
        if low is None or high is None or low < LIMIT <= high:
            return None
        return high < LIMIT

    @property
    def bounded(self) -> bool:
        """Whether every collection is within its limit and does not grow."""
        return all(held.within for held in self.held)

    @property
    def latency_holds(self) -> bool | None:
        """Whether the end was no slower than the beginning; None if the intervals are too wide."""
        calls = {change.call for change in self.changes}
        if not calls or "slower" in calls:
            return None if not calls else False
        return None if "not enough data" in calls else True

    def to_dict(self) -> dict[str, object]:
        """The findings, ready for JSON."""
        return {
            **asdict(self),
            "changes": [{**asdict(change), "call": change.call} for change in self.changes],
            "held": [{**asdict(held), "within": held.within} for held in self.held],
            "memory_holds": self.memory_holds,
            "bounded": self.bounded,
            "latency_holds": self.latency_holds,
        }


def read_log(path: str | Path) -> Log:
    """Read the log of a soak. The incomplete last line of a killed run is skipped.

    Raises TraceError with file and line for other damage.
    """
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    rows = [_line(path, number, line) for number, line in enumerate(lines, 1) if line.endswith(b"\n")]
    if not rows or rows[0]["kind"] != "header" or "plan" not in rows[0]:
        raise TraceError(f"{path}: not the log of a soak: the first line must be a header with a plan")
    if rows[0]["schema"] > LOG_SCHEMA:
        raise TraceError(f"{path}: schema {rows[0]['schema']}; this version reads up to {LOG_SCHEMA}")
    pieces, samples = (tuple(row for row in rows if row["kind"] == kind) for kind in ("piece", "sample"))
    return Log(rows[0], pieces, samples, bool(rows[-1].get("whole")))


def _line(path: str | Path, number: int, line: bytes) -> Json:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict) or "kind" not in row:
        raise TraceError(f"{path}:{number}: not a line of a soak's log: {line[:100]!r}")
    return row


def findings(log: Log, rng: np.random.Generator | None = None) -> Findings:
    """Evaluate a log. Raises TraceError if it ends before the warm-up does."""
    rng = rng or np.random.default_rng(0)
    if not log.steady:
        warm_up_s = log.header["plan"]["warm_up_s"]
        raise TraceError(f"too short: {log.fed_s:g} s of audio, and the warm-up takes {warm_up_s:g} s")
    first, last = _windows(log)
    return Findings(
        growth=tuple(_growths(log)),
        held=tuple(_helds(log)),
        changes=tuple(_changes(first, last, rng)),
        stages=tuple(_stages(first, last, rng)),
        machine=_machine(first, last, rng),
        work={name: (_calls(first, name), _calls(last, name)) for name in sorted(_all_stages(first))},
    )


def slope(hours: Sequence[float], values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The median slope of values over hours, with its interval."""
    try:
        from scipy.stats import theilslopes
    except ImportError as error:
        raise MissingDependencyError("slopes need scipy: pip install 'whisperlab[sweep]'") from error
    found = theilslopes(np.asarray(values, float), np.asarray(hours, float), level)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def classify(low: float, high: float) -> Call:
    """The conclusion from the interval of a ratio of times.

    >>> classify(0.99, 1.02), classify(1.03, 1.2), classify(0.9, 1.1)
    ('equal', 'slower', 'not enough data')
    """
    if low >= 1 - WORTH and high <= 1 + WORTH:
        return "equal"
    if low > 1:
        return "slower"
    return "faster" if high < 1 else "not enough data"


def by_minute(
    samples: Sequence[Json], value: Callable[[Json], float], of: Callable[[list[float]], float] = median
) -> tuple[list[float], list[float]]:
    """Hours of audio, and the median (or another statistic ``of``) of each minute."""
    minutes = groupby(samples, key=lambda sample: int(sample["at"] // MINUTE_S))
    parts = [list(part) for _, part in minutes]
    hours = [float(np.median([sample["at"] for sample in part])) / 3600 for part in parts]
    return hours, [float(of([value(sample) for sample in part])) for part in parts]


def _growths(log: Log) -> Iterator[Growth]:
    for name in _MEMORY:
        if name in log.steady[0]["memory"]:
            yield _growth(log, name, name, "MB", min)
    yield _growth(log, "resident, most", "resident", "MB", max)
    for name in _COUNTS:
        yield _growth(log, name, name, "", median)


def _growth(log: Log, measure: str, name: str, unit: str, of: Callable[[list[float]], float]) -> Growth:
    scale = _MB if unit else 1.0
    hours, values = by_minute(log.steady, lambda sample: sample["memory"][name] / scale, of)
    middle, low, high = slope(hours, values) if len(hours) > 2 else (None, None, None)
    return Growth(measure, unit, values[0], values[-1], middle, low, high, len(hours))


def _helds(log: Log) -> Iterator[Held]:
    counted = [sample for sample in log.steady if "containers" in sample]
    if len(counted) < 3:
        return
    hours = [sample["at"] / 3600 for sample in counted]
    for of in ("bounds", "containers"):
        for name in sorted(set().union(*(sample[of] for sample in counted))):
            sizes = [sample[of].get(name, (0, None)) for sample in counted]
            limits = {limit for _, limit in sizes if limit is not None}
            yield _held(name, hours, [size for size, _ in sizes], max(limits, default=None))


def _held(name: str, hours: Sequence[float], sizes: Sequence[int], limit: int | None) -> Held:
    """Without a limit, growth needs a positive slope, and a larger maximum in the last third than in the first."""
    third = max(len(sizes) // 3, 1)
    middle, low, _ = slope(hours, sizes, _CONFIDENCE) if len(set(sizes)) > 1 else (0.0, 0.0, 0.0)
    grows = limit is None and low > 0 and max(sizes[-third:]) > max(sizes[:third])
    return Held(name, min(sizes), max(sizes), limit, middle, grows)


def _windows(log: Log) -> tuple[list[Json], list[Json]]:
    """The blocks of both windows, the same number of each."""
    first, last = ([s for s in log.samples if s["part"] == part] for part in ("first", "last"))
    n = min(len(first), len(last))
    return first[:n], last[:n]


def _calls(window: Sequence[Json], stage: str) -> int:
    return sum(sample["stages"].get(stage, [0])[0] for sample in window)


def _all_stages(window: Sequence[Json]) -> set[str]:
    return set().union(*(sample["stages"] for sample in window))


def _reference_times(window: Sequence[Json]) -> Array:
    """Smoothed milliseconds of the reference process for each block; ones without a reference."""
    found = np.array([_or_nan(sample["yardstick_ms"]) for sample in window], float)
    if not len(found) or np.isnan(found).any():
        return np.ones(len(found))
    half = SMOOTHED // 2
    return np.array([np.median(found[max(at - half, 0) : at + half + 1]) for at in range(len(found))])


def _changes(first: Sequence[Json], last: Sequence[Json], rng: np.random.Generator) -> Iterator[Change]:
    if not first:
        return
    pace = _reference_times(first) / _reference_times(last)
    before, after, wall_before, wall_after = (
        [np.array(sample["raw"]["chunk.total"][clock]) for sample in window]
        for clock in (0, 1)
        for window in (first, last)
    )
    n_chunks = len(before[0])
    corrected = [times * factor for times, factor in zip(after, pace, strict=True)]
    a, b, c = (np.concatenate(times) for times in (before, after, corrected))
    for q in PERCENTILES:
        measure = partial(_percentile, q=q)
        ratio, interval = block_ratio([c.tolist()], [a.tolist()], measure, rng, n_chunks)
        low, high = interval or (0.0, math.inf)  # of fewer than three samples: nothing is known
        walls = [measure(np.concatenate(times)) for times in (wall_before, wall_after)]
        yield Change(
            measure=f"p{q}",
            first=measure(a),
            last=measure(b),
            ratio=ratio,
            low=low,
            high=high,
            uncorrected=measure(b) / measure(a),
            wall=walls[1] / walls[0],
            n=len(a),
        )


def _percentile(times: Array, q: int) -> float:
    return float(np.percentile(times, q))


def _machine(first: Sequence[Json], last: Sequence[Json], rng: np.random.Generator) -> Change | None:
    """The change of the machine: the reference times of both windows."""
    times = [np.array([_or_nan(sample["yardstick_ms"]) for sample in w], float) for w in (first, last)]
    if not first or np.isnan(times).any():
        return None
    found = paired_test("yardstick", times[0].tolist(), times[1].tolist(), rng, threshold=WORTH)
    return Change(
        measure="yardstick",
        first=float(np.median(times[0])),
        last=float(np.median(times[1])),
        ratio=found.value,
        low=found.low,
        high=found.high,
        uncorrected=found.value,
        wall=float("nan"),
        n=found.n,
    )


def _stages(first: Sequence[Json], last: Sequence[Json], rng: np.random.Generator) -> list[PairedResult]:
    """CPU time of each stage in pairs of blocks, corrected for the machine, without blocks that lack the stage."""
    pace = _reference_times(first) / _reference_times(last)
    found = []
    for name in sorted(_all_stages(first) & _all_stages(last)):
        pairs = [
            (a["stages"][name][1], b["stages"][name][1] * factor)
            for a, b, factor in zip(first, last, pace, strict=True)
            if a["stages"].get(name, [0, 0])[1] > 0 and b["stages"].get(name, [0, 0])[1] > 0
        ]
        if pairs:
            a, b = zip(*pairs, strict=True)
            found.append(paired_test(name, a, b, rng, threshold=WORTH))
    return holm(found)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value

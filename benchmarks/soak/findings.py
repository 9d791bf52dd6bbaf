"""What the log of a soak says: how fast memory grew, what else grew, and whether the end was slower than the beginning.

Growth is the median of all slopes between two moments (Theil 1950; Sen 1968, Journal of the American Statistical
Association 63) after the warm-up, with its 95 % interval. Of memory a moment is the least of a minute: temporary blocks
come and go, what leaks is there at every moment. The most of each minute stands beside it.

The two windows are the same audio, so their chunks are compared in pairs, in processor time. The processor itself is
not the same from one hour to the next; a young process that does the same piece of work in both windows says by how
much, and times of the last window are corrected for that. Without the correction they are told as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from whisperlab.experiments.significance import Verdict, block_ratio, judge, together
from whisperlab.util.errors import MissingDependencyError, TraceError

LOG_SCHEMA = 1
LIMIT = 1.0  # MB of resident memory an hour of audio may add
WORTH = 0.05  # a change of latency that is worth knowing
PERCENTILES = (50, 95, 99)
MINUTE_S = 60.0
SMOOTHED = 5  # blocks whose yardsticks are looked at together: one alone is jumpy
_MB = 1e6
_MEMORY = ("resident", "anonymous", "dirty", "heap", "heap_free")
_COUNTS = ("python_blocks", "files", "threads")
_SURE = 0.999  # there are a hundred collections to look at

Array = NDArray[np.float64]
Json = Mapping[str, Any]
Call = Literal["equal", "slower", "faster", "not enough data"]


@dataclass(slots=True, frozen=True)
class Log:
    """The lines of a log by kind; ``whole`` when the plan was heard to its end."""

    header: Json
    pieces: tuple[Json, ...]
    samples: tuple[Json, ...]
    whole: bool

    @property
    def heard_s(self) -> float:
        """Seconds of audio heard."""
        return float(self.samples[-1]["at"]) if self.samples else 0.0

    @property
    def steady(self) -> list[Json]:
        """The samples after the warm-up."""
        return [sample for sample in self.samples if sample["at"] > self.header["plan"]["warm_up_s"]]


@dataclass(slots=True, frozen=True)
class Growth:
    """How much something grew in an hour of audio, with the 95 % interval; None where too little was heard."""

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
    """A collection after the warm-up: the least and most it held, what it may hold, and whether it grows."""

    name: str
    least: int
    most: int
    limit: int | None
    an_hour: float
    grows: bool

    @property
    def within(self) -> bool:
        """Whether it kept its limit and does not grow."""
        return not self.grows and (self.limit is None or self.most <= self.limit)


@dataclass(slots=True, frozen=True)
class Change:
    """A percentile of the chunks of the last window beside that of the first, in milliseconds of processor time.

    ``ratio`` is corrected for the machine and has a 95 % interval; ``uncorrected`` is that of the times as they were,
    ``wall`` that of the clock on the wall.
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
        """``equal``: no change shown, and none worth knowing hidden in the interval."""
        return called(self.low, self.high)


@dataclass(slots=True, frozen=True)
class Findings:
    """All that a log says."""

    growth: tuple[Growth, ...]
    held: tuple[Held, ...]
    changes: tuple[Change, ...]
    stages: tuple[Verdict, ...]
    machine: Change | None
    work: Mapping[str, tuple[int, int]]

    @property
    def resident(self) -> Growth:
        """The growth of resident memory."""
        return next(one for one in self.growth if one.measure == "resident")

    @property
    def memory_holds(self) -> bool | None:
        """Whether resident memory grows by less than `LIMIT` an hour; None when the interval does not tell."""
        low, high = self.resident.low, self.resident.high
        if low is None or high is None or low < LIMIT <= high:
            return None
        return high < LIMIT

    @property
    def bounded(self) -> bool:
        """Whether every collection kept its limits."""
        return all(held.within for held in self.held)

    @property
    def latency_holds(self) -> bool | None:
        """Whether the end was no slower than the beginning; None when the intervals do not tell."""
        calls = {change.call for change in self.changes}
        if not calls or "slower" in calls:
            return None if not calls else False
        return None if "not enough data" in calls else True

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "changes": [{**asdict(change), "call": change.call} for change in self.changes],
            "held": [{**asdict(held), "within": held.within} for held in self.held],
            "memory_holds": self.memory_holds,
            "bounded": self.bounded,
            "latency_holds": self.latency_holds,
        }


def is_log(path: Path) -> bool:
    """Whether a file begins as the log of a soak does."""
    with path.open("rb") as file:
        try:
            first = json.loads(file.readline(2**20))
        except ValueError:
            return False
    return isinstance(first, dict) and first.get("kind") == "header" and "plan" in first


def read_log(path: str | Path) -> Log:
    """The log of a soak, also of one that was killed: a last line cut short is left out.

    Raises TraceError, with file and line, for anything else that is damaged.
    """
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    rows = [_line(path, number, line) for number, line in enumerate(lines, 1) if line.endswith(b"\n")]
    if not rows or rows[0]["kind"] != "header" or "plan" not in rows[0]:
        raise TraceError(f"{path}: not the log of a soak: it begins with a header that has a plan")
    if rows[0]["schema"] > LOG_SCHEMA:
        raise TraceError(f"{path}: schema {rows[0]['schema']}, and this whisperlab knows {LOG_SCHEMA}")
    pieces, samples = (tuple(row for row in rows if row["kind"] == kind) for kind in ("piece", "sample"))
    return Log(rows[0], pieces, samples, bool(rows[-1].get("whole")))


def _line(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict) or "kind" not in row:
        raise TraceError(f"{path}:{number}: not a line of a soak's log: {line[:100]!r}")
    return row


def findings(log: Log, rng: np.random.Generator | None = None) -> Findings:
    """What a log says. Raises TraceError when nothing was heard after the warm-up."""
    rng = rng or np.random.default_rng(0)
    if not log.steady:
        warm_up_s = log.header["plan"]["warm_up_s"]
        raise TraceError(f"nothing to judge: {log.heard_s:g} s were heard, and {warm_up_s:g} s are warm-up")
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
    """The median slope of values over hours, and its interval."""
    try:
        from scipy.stats import theilslopes
    except ImportError as error:
        raise MissingDependencyError("slopes need scipy: pip install 'whisperlab[sweep]'") from error
    found = theilslopes(np.asarray(values, float), np.asarray(hours, float), level)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def called(low: float, high: float) -> Call:
    """What the interval of a ratio of times says.

    >>> called(0.99, 1.02), called(1.03, 1.2), called(0.9, 1.1)
    ('equal', 'slower', 'not enough data')
    """
    if low >= 1 - WORTH and high <= 1 + WORTH:
        return "equal"
    if low > 1:
        return "slower"
    return "faster" if high < 1 else "not enough data"


def by_minute(
    samples: Sequence[Json],
    value: Callable[[Json], float],
    of: Callable[[list[float]], Any] = np.median,
) -> tuple[list[float], list[float]]:
    """Hours of audio, and the median of each minute or what else there is ``of`` it."""
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
        yield _growth(log, name, name, "", np.median)


def _growth(log: Log, measure: str, name: str, unit: str, of: Callable[[list[float]], Any]) -> Growth:
    scale = _MB if unit else 1.0
    hours, values = by_minute(log.steady, lambda sample: sample["memory"][name] / scale, of)
    middle, low, high = slope(hours, values) if len(hours) > 2 else (None, None, None)
    return Growth(measure, unit, values[0], values[-1], middle, low, high, len(hours))


def _helds(log: Log) -> Iterator[Held]:
    looks = [sample for sample in log.steady if "containers" in sample]
    if len(looks) < 3:
        return
    hours = [sample["at"] / 3600 for sample in looks]
    for of in ("bounds", "containers"):
        for name in sorted(set().union(*(look[of] for look in looks))):
            sizes = [look[of].get(name, (0, None)) for look in looks]
            limits = {limit for _, limit in sizes if limit is not None}
            yield _held(name, hours, [size for size, _ in sizes], max(limits, default=None))


def _held(name: str, hours: Sequence[float], sizes: Sequence[int], limit: int | None) -> Held:
    """What has no limit grows when the slope says so and its last third holds more than its first ever did."""
    third = max(len(sizes) // 3, 1)
    middle, low, _ = slope(hours, sizes, _SURE) if len(set(sizes)) > 1 else (0.0, 0.0, 0.0)
    grows = limit is None and low > 0 and max(sizes[-third:]) > max(sizes[:third])
    return Held(name, min(sizes), max(sizes), limit, middle, grows)


def _windows(log: Log) -> tuple[list[Json], list[Json]]:
    """The blocks of both windows, as many of each as there are of both."""
    first, last = ([s for s in log.samples if s["part"] == part] for part in ("first", "last"))
    n = min(len(first), len(last))
    return first[:n], last[:n]


def _calls(window: Sequence[Json], stage: str) -> int:
    return sum(sample["stages"].get(stage, [0])[0] for sample in window)


def _all_stages(window: Sequence[Json]) -> set[str]:
    return set().union(*(sample["stages"] for sample in window))


def _yardsticks(window: Sequence[Json]) -> Array:
    """The young process's milliseconds around each block; ones when there was none."""
    found = np.array([_or_nan(sample["yardstick_ms"]) for sample in window], float)
    if not len(found) or np.isnan(found).any():
        return np.ones(len(found))
    half = SMOOTHED // 2
    return np.array([np.median(found[max(at - half, 0) : at + half + 1]) for at in range(len(found))])


def _changes(first: Sequence[Json], last: Sequence[Json], rng: np.random.Generator) -> Iterator[Change]:
    if not first:
        return
    pace = _yardsticks(first) / _yardsticks(last)
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
        ratio, (low, high) = block_ratio([c.tolist()], [a.tolist()], measure, rng, n_chunks)
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
    """By how much the machine itself was slower in the last window: the young process's times."""
    times = [np.array([_or_nan(sample["yardstick_ms"]) for sample in w], float) for w in (first, last)]
    if not first or np.isnan(times).any():
        return None
    found = judge("yardstick", times[0].tolist(), times[1].tolist(), rng, worth=WORTH)
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


def _stages(first: Sequence[Json], last: Sequence[Json], rng: np.random.Generator) -> list[Verdict]:
    """Processor time of each stage by blocks in pairs, corrected for the machine; blocks without the stage left out."""
    pace = _yardsticks(first) / _yardsticks(last)
    found = []
    for name in sorted(_all_stages(first) & _all_stages(last)):
        pairs = [
            (a["stages"][name][1], b["stages"][name][1] * factor)
            for a, b, factor in zip(first, last, pace, strict=True)
            if a["stages"].get(name, [0, 0])[1] > 0 and b["stages"].get(name, [0, 0])[1] > 0
        ]
        if pairs:
            a, b = zip(*pairs, strict=True)
            found.append(judge(name, a, b, rng, worth=WORTH))
    return together(found)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value

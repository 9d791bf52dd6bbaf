"""A sweep beside an earlier one: the same configurations over the same recordings, measure by measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whisperlab.report.counts import Result, percent, results
from whisperlab.report.tables import Column, Table, table

Json = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Pair:
    """One configuration now and in the baseline, over the recordings that both have."""

    name: str
    now: Result
    before: Result


@dataclass(slots=True, frozen=True)
class Change:
    """One measure of one configuration, before and now. ``show`` makes it readable."""

    name: str
    measure: str
    before: float
    now: float
    n: int
    show: Callable[[float], str]

    @property
    def difference(self) -> float:
        """Now less before."""
        return self.now - self.before

    @property
    def ratio(self) -> float | None:
        """Now by before."""
        return self.now / self.before if self.before else None


def pairs(now: Sequence[Result], before: Sequence[Result], fields: Sequence[str]) -> list[Pair]:
    """Configurations that agree in every option that both sweeps know; two that stand alone are always a pair."""
    known = set.intersection(*({*result.config} for result in (*now, *before))) if now and before else set()
    earlier = {_key(result.config, known): result for result in before}
    found = [(result, earlier.get(_key(result.config, known))) for result in now]
    if len(now) == len(before) == 1:
        found = [(now[0], before[0])]
    return [pair for new, old in found if old and (pair := _over_shared(new, old, fields))]


def baseline_table(found: Iterable[Pair]) -> Table:
    """A line for each configuration and measure."""
    return table(
        "baseline",
        "Now and in the baseline, over the recordings that both have",
        _COLUMNS,
        (change for pair in found for change in changes(pair)),
    )


def changes(pair: Pair) -> Iterator[Change]:
    """The measures that both sides have."""
    for measure, take, show in _MEASURES:
        before, now = take(pair.before), take(pair.now)
        if before is not None and now is not None:
            yield Change(pair.name, measure, before, now, len(pair.now.recordings), show)


def _key(config: Json, known: set[str]) -> str:
    return json.dumps({name: config[name] for name in sorted(known)}, sort_keys=True, default=str)


def _over_shared(now: Result, before: Result, fields: Sequence[str]) -> Pair | None:
    shared = now.recordings & before.recordings
    if not shared:
        return None
    kept = [[row for row in result.rows if str(row["recording"]) in shared] for result in (now, before)]
    (new,), (old,) = (results(rows, fields) for rows in kept)
    return Pair(now.name, new, old)


def _rate(name: str) -> Callable[[Result], float | None]:
    return lambda result: result.rates.get(name)


def _operation(name: str, what: str) -> Callable[[Result], float | None]:
    def take(result: Result) -> float | None:
        return next((float(getattr(o, what)) for o in result.operations if o.name == name), None)

    return take


def _peak_mib(result: Result) -> float | None:
    return None if result.peak_rss_bytes is None else result.peak_rss_bytes / 2**20


_MEASURES: tuple[tuple[str, Callable[[Result], float | None], Callable[[float], str]], ...] = (
    ("mixed error", lambda r: r.mixed_error, percent),
    ("language error", lambda r: r.language_error, percent),
    ("switch F1 within 1 s", _rate("switch_f1_at_1"), "{:.2f}".format),
    ("decision delay of the found, median, s", _rate("decision_delay_found_p50"), "{:.2f}".format),
    ("hit rate", lambda r: r.cache.hit_rate, percent),
    ("false-hit rate", lambda r: r.cache.false_hit_rate, percent),
    ("real-time factor", lambda r: r.real_time_factor, "{:.2f}".format),
    ("chunk, p95, ms", _operation("chunk.total", "p95"), "{:.1f}".format),
    ("language-ID, p95, ms", _operation("lid.total", "p95"), "{:.1f}".format),
    ("peak memory, MiB", _peak_mib, "{:,.0f}".format),
)

_COLUMNS: tuple[Column[Change], ...] = (
    Column("Configuration", "What was varied", lambda c: c.name),
    Column("Measure", "What was measured", lambda c: c.measure),
    Column("Baseline", "Before", lambda c: c.show(c.before)),
    Column("Now", "In this sweep", lambda c: c.show(c.now)),
    Column("Change", "Now less baseline", lambda c: c.difference, lambda value: f"{value:+.3g}"),
    Column("Ratio", "Now by baseline", lambda c: c.ratio, "{:.2f}".format),
    Column("n", "Recordings that both have", lambda c: c.n),
)

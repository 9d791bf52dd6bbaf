"""A sweep beside an earlier one: the same configurations on the same recordings, measure by measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from whisperlab.experiments.results_store import ResultsStore
from whisperlab.report.counts import WRONG_FRAMES, WRONG_TEXT, Result, percent, results
from whisperlab.report.tables import Column, Table, table


@dataclass(slots=True, frozen=True)
class Pair:
    """One configuration now and in the baseline, over the recordings of both."""

    name: str
    now: Result
    before: Result


@dataclass(slots=True, frozen=True)
class Change:
    """One measure of one configuration, before and now. ``show`` formats its values."""

    name: str
    measure: str
    before: float
    now: float
    n: int
    show: Callable[[float], str]


def pairs(now: Sequence[Result], store: ResultsStore, before: Sequence[Result], earlier: ResultsStore) -> list[Pair]:
    """Configurations that agree in every option that both sweeps have; two single ones are always a pair."""
    known = set.intersection(*({*result.config} for result in (*now, *before))) if now and before else set()

    def key(result: Result) -> str:
        return json.dumps({name: result.config[name] for name in sorted(known)}, sort_keys=True, default=str)

    by_options = {key(result): result for result in before}
    found = [(result, by_options.get(key(result))) for result in now]
    if len(now) == len(before) == 1:
        found = [(now[0], before[0])]
    return [pair for new, old in found if old and (pair := _over_shared(new, store, old, earlier))]


def baseline_table(found: Iterable[Pair]) -> Table:
    """A line per configuration and measure that both sides have."""
    changes = [
        Change(pair.name, measure, before, now, pair.now.n_recordings, show)
        for pair in found
        for measure, take, show in _MEASURES
        if (before := take(pair.before)) is not None and (now := take(pair.now)) is not None
    ]
    return table("baseline", "Now and in the baseline, over the recordings of both", _COLUMNS, changes)


def _over_shared(now: Result, store: ResultsStore, before: Result, earlier: ResultsStore) -> Pair | None:
    """Both results over the recordings of both; None when they have none in common."""
    sides = ((now, store), (before, earlier))
    recordings = [_recordings(*side) for side in sides]
    shared = recordings[0] & recordings[1]
    if not shared:
        return None
    if recordings[0] != recordings[1]:
        where = "config_id = ? and recording in (select value from json_each(?))"
        among = json.dumps(sorted(shared))
        now, before = (results(one, where, (result.config_id, among))[0] for result, one in sides)
    return Pair(sides[0][0].name, now, before)


def _recordings(result: Result, store: ResultsStore) -> set[str]:
    query = "select recording from results where status = 'ok' and config_id = ?"
    return {recording for (recording,) in store.sql(query, (result.config_id,))}


_MEASURES: tuple[tuple[str, Callable[[Result], Any], Callable[[float], str]], ...] = (
    ("words wrong", lambda r: r.mixed_error, percent),
    *(
        (name, lambda r, name=name: r.language_error if r.language_measure == name else None, percent)
        for name in (WRONG_TEXT, WRONG_FRAMES)
    ),
    ("switch F1 (1 s)", lambda r: r.switch_f1, "{:.2f}".format),
    ("decision delay of the found, median, s", lambda r: r.decision_delay_found, "{:.2f}".format),
    ("hit rate", lambda r: r.cache.hit_rate, percent),
    ("false-hit rate", lambda r: r.cache.false_hit_rate, percent),
    ("real-time factor (wall)", lambda r: r.real_time_factor, "{:.2f}".format),
    ("chunk, p95, ms", lambda r: r.sums["chunk_p95_ms"], "{:.1f}".format),
    ("language-ID, p95, ms", lambda r: r.sums["language_id_p95_ms"], "{:.1f}".format),
    ("peak memory, MiB", lambda r: r.peak_rss_bytes and r.peak_rss_bytes / 2**20, "{:,.0f}".format),
)

_COLUMNS: tuple[Column[Change], ...] = (
    Column("Configuration", "The options that vary", lambda c: c.name),
    Column("Measure", "What was measured", lambda c: c.measure),
    Column("Baseline", "Before", lambda c: c.show(c.before)),
    Column("Now", "In this sweep", lambda c: c.show(c.now)),
    Column("Change", "Now - baseline", lambda c: c.now - c.before, "{:+.3g}".format),
    Column("Ratio", "Now / baseline", lambda c: c.now / c.before if c.before else None, "{:.2f}".format),
    Column("n", "Recordings that both have", lambda c: c.n),
)

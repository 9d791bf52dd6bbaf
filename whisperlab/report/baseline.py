"""A sweep beside an earlier one: the same configurations on the same recordings, measure by measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from whisperlab.experiments.results_store import ResultsStore
from whisperlab.report.counts import WRONG_FRAMES, WRONG_TEXT, Result, percent, results
from whisperlab.report.tables import Column, Table, table

Pair: TypeAlias = tuple[Result, Result]  # one configuration now and in the baseline, over the recordings of both

_MEASURES: tuple[tuple[str, Callable[[Result], Any], Callable[[float], str]], ...] = (
    ("words wrong", lambda r: r.mixed_error, percent),
    (WRONG_TEXT, lambda r: r.error_by(WRONG_TEXT), percent),
    (WRONG_FRAMES, lambda r: r.error_by(WRONG_FRAMES), percent),
    ("switch F1 (1 s)", lambda r: r.switch_f1, "{:.2f}".format),
    ("decision delay of the found, median, s", lambda r: r.decision_delay(of_found=True), "{:.2f}".format),
    ("hit rate", lambda r: r.cache.hit_rate, percent),
    ("false-hit rate", lambda r: r.cache.false_hit_rate, percent),
    ("real-time factor (wall)", lambda r: r.real_time_factor, "{:.2f}".format),
    ("chunk, p95, ms", lambda r: r.sums["chunk_p95_ms"], "{:.1f}".format),
    ("language-ID, p95, ms", lambda r: r.sums["language_id_p95_ms"], "{:.1f}".format),
    ("peak memory, MiB", lambda r: (peak := r.sums["peak_rss_bytes"]) and peak / 2**20, "{:,.0f}".format),
)


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


def _over_shared(now: Result, store: ResultsStore, before: Result, earlier: ResultsStore) -> Pair | None:
    """Both results over the recordings of both; None when they have none in common."""
    sides = ((now, store), (before, earlier))
    query = "select recording from results where status = 'ok' and config_id = ?"
    mine, others = ({name for (name,) in one.sql(query, (result.config_id,))} for result, one in sides)
    if mine == others:
        return now, before
    where = "config_id = ? and recording in (select value from json_each(?))"
    shared = json.dumps(sorted(mine & others))
    found = [results(one, where, (result.config_id, shared)) for result, one in sides]
    return (replace(found[0][0], name=now.name), found[1][0]) if all(found) else None


def baseline_table(found: Iterable[Pair]) -> Table:
    """A line per configuration and measure that both sides have."""
    changes = [
        Change(now.name, measure, old, new, now.n_recordings, show)
        for now, before in found
        for measure, take, show in _MEASURES
        if (old := take(before)) is not None and (new := take(now)) is not None
    ]
    return table("baseline", "Now and in the baseline, over the recordings of both", _COLUMNS, changes)


_COLUMNS: tuple[Column[Change], ...] = (
    Column("Configuration", "The options that vary", lambda c: c.name),
    Column("Measure", "What was measured", lambda c: c.measure),
    Column("Baseline", "Before", lambda c: c.show(c.before)),
    Column("Now", "In this sweep", lambda c: c.show(c.now)),
    Column("Change", "Now - baseline", lambda c: c.now - c.before, "{:+.3g}".format),
    Column("Ratio", "Now / baseline", lambda c: c.now / c.before if c.before else None, "{:.2f}".format),
    Column("n", "Recordings that both have", lambda c: c.n),
)

"""The tables of a report: columns say how a value is read and shown, and give the cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from whisperlab.experiments.results_store import ResultsStore
from whisperlab.report.counts import WRONG_FRAMES, WRONG_TEXT, Operation, Result, results
from whisperlab.report.figure import template
from whisperlab.report.page import percent
from whisperlab.util.statistics import LEAST_UNITS, Interval

MAX_LINES = 500  # of a table; a page of more is slow to open

T = TypeVar("T")
Value = str | float | None


@dataclass(slots=True, frozen=True)
class Column(Generic[T]):
    """A column: its title, what it means (empty: the text in ``columns.json``), and the value a row sorts by.

    ``show`` gives that value for people, ``note`` smaller print beside it, such as its interval.
    """

    title: str
    about: str
    value: Callable[[T], Value]
    show: Callable[[Any], str] = str
    note: Callable[[T], str] = lambda _: ""


class Cell(NamedTuple):
    """One cell: ``sort`` is the raw value (None sorts last), ``text`` and ``note`` are what is read."""

    sort: Value
    text: str
    note: str


@dataclass(slots=True, frozen=True)
class Table:
    """A sortable table: ``head`` as (title, meaning, whether numbers); ``configs`` of the rows, for figures."""

    name: str
    caption: str
    head: tuple[tuple[str, str, bool], ...]
    body: tuple[tuple[Cell, ...], ...]
    configs: tuple[int, ...] = ()


def table(name: str, caption: str, columns: Sequence[Column[T]], rows: Iterable[T]) -> Table:
    """Rows through columns; a column nobody has a value for is left out, and so are lines beyond `MAX_LINES`."""
    rows = list(rows)
    if len(rows) > MAX_LINES:
        caption += f" (the first {MAX_LINES} of {len(rows):,} lines)"
    rows = rows[:MAX_LINES]
    by_column = [(column, [_cell(column, row) for row in rows]) for column in columns]
    kept = [(column, cells) for column, cells in by_column if any(cell.sort is not None for cell in cells)]
    known = template("columns")
    numeric = [any(isinstance(cell.sort, int | float) for cell in cells) for _, cells in kept]
    titles = [(column.title, column.about or known[column.title]) for column, _ in kept]
    head = tuple((*title, is_number) for title, is_number in zip(titles, numeric, strict=True))
    configs = tuple(row.config_id for row in rows if isinstance(row, Result))
    return Table(name, caption, head, tuple(zip(*(cells for _, cells in kept), strict=True)), configs)


def _cell(column: Column[T], row: T) -> Cell:
    value = column.value(row)
    return Cell(value, "–" if value is None else column.show(value), column.note(row))


def milliseconds(value: float) -> str:
    """Three figures are all a latency carries.

    >>> milliseconds(0.04213), milliseconds(36.21), milliseconds(1204.4)
    ('0.0421', '36.2', '1,204')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def _range(interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return f"{low:.0f}–{high:.0f} %"


def _checked(result: Result) -> str:
    cache = result.cache
    if cache.false_hit_interval is None:
        return "not checked" if cache.hits else ""
    interval = f"{_range(cache.false_hit_interval)}, " if result.n_recordings >= LEAST_UNITS else ""
    return f"{interval}n = {cache.checked:,} hits"


def _lookups(result: Result) -> str:
    return f"n = {result.cache.lookups:,}" if result.cache.lookups else ""


def _saved(result: Result) -> str:
    return "" if result.cache.saved_share is None else percent(result.cache.saved_share)


def _error_note(result: Result, measure: str) -> str:
    if result.error_by(measure) is None:
        return ""
    interval, n = result.language_error_interval, f"n = {result.n_recordings}"
    return f"{n}, no interval" if interval is None else f"{_range(interval)}, {n}"


_NAME: Column[Result] = Column("Configuration", "The options that vary", lambda r: r.name)
_FALSE: Column[Result] = Column("False-hit rate", "", lambda r: r.cache.false_hit_rate, percent, _checked)
_LANGUAGE: Mapping[str, Column[Result]] = {
    measure: Column(measure.capitalize(), "", partial(Result.error_by, measure=measure), percent)
    for measure in (WRONG_TEXT, WRONG_FRAMES)
}
_WRONG: Column[Result] = Column("Words wrong", "", lambda r: r.mixed_error, percent)

# Hit rate beside false-hit rate, then what it did to language and text.
RESULT_COLUMNS: tuple[Column[Result], ...] = (
    _NAME,
    Column("Hit rate", "Look-ups the cache answered, and all (n)", lambda r: r.cache.hit_rate, percent, _lookups),
    _FALSE,
    Column("Encoder saved", "", lambda r: r.cache.saved_s if r.cache.lookups else None, "{:.1f} s".format, _saved),
    *(replace(one, note=partial(_error_note, measure=measure)) for measure, one in _LANGUAGE.items()),
    Column("Switch F1 (1 s)", "", lambda r: r.switch_f1, "{:.2f}".format),
    Column("Decision delay", "", lambda r: r.decision_delay(), "{:.1f} s".format),
    _WRONG,
    Column("Real-time factor (processor)", "", lambda r: r.processor_factor, "{:.2f}".format),
    Column("Real-time factor (wall)", "", lambda r: r.real_time_factor, "{:.2f}".format),
    Column("Threads", "Compute threads that these times were measured with", lambda r: r.threads),
    Column("Response p95", "", lambda r: r.sums["response_p95_s"], "{:.2f} s".format),
    Column("Runs", "Recordings this configuration finished", lambda r: r.n_runs),
    Column("Peak memory", "Highest resident memory of any run", lambda r: r.sums["peak_rss_bytes"], mebibytes),
)

OPERATION_COLUMNS: tuple[Column[tuple[str, Operation]], ...] = (
    Column("Configuration", "The options that vary", lambda row: row[0]),
    Column("Operation", "The part of the pipeline that was timed", lambda row: row[1].name),
    Column("n", "How often, all recordings together", lambda row: row[1].count, "{:,}".format),
    Column("Mean", "Total / n", lambda row: row[1].mean, milliseconds),
    Column("p50", "Median of the recordings' medians", lambda row: row[1].p50, milliseconds),
    Column("p95", "Worst 95th percentile of any recording", lambda row: row[1].p95, milliseconds),
    Column("p99", "Worst 99th percentile of any recording", lambda row: row[1].p99, milliseconds),
    Column("Longest", "The longest single one", lambda row: row[1].longest, milliseconds),
)

RUN_COLUMNS: tuple[Column[Result], ...] = (  # of results that are single runs
    _NAME,
    Column("Recording", "Its id", lambda r: r.sums["recording"]),
    Column("Corpus", "Where the recording is from", lambda r: r.sums["corpus"]),
    Column("Status", "Whether the run finished", lambda r: r.sums["status"], note=lambda r: r.sums["error"] or ""),
    Column("Audio", "Length", lambda r: r.sums["duration_s"], "{:.1f} s".format),
    Column("Hit rate", "Look-ups that the cache answered", lambda r: r.cache.hit_rate, percent),
    _FALSE,
    *_LANGUAGE.values(),
    _WRONG,
    Column("Compute", "Wall time inside the transcriber", lambda r: r.sums["compute_s"], "{:.1f} s".format),
)


Pair: TypeAlias = tuple[Result, Result]  # one configuration now and in the baseline, over the recordings of both

_MEASURES: tuple[tuple[str, Callable[[Result], Any], Callable[[float], str]], ...] = (
    ("words wrong", lambda r: r.mixed_error, percent),
    (WRONG_TEXT, lambda r: r.error_by(WRONG_TEXT), percent),
    (WRONG_FRAMES, lambda r: r.error_by(WRONG_FRAMES), percent),
    ("switch F1 (1 s)", lambda r: r.switch_f1, "{:.2f}".format),
    ("decision delay of the found, median, s", lambda r: r.decision_delay(of_found=True), "{:.2f}".format),
    ("hit rate", lambda r: r.cache.hit_rate, percent),
    ("false-hit rate", lambda r: r.cache.false_hit_rate, percent),
    ("real-time factor (processor)", lambda r: r.processor_factor, "{:.2f}".format),
    ("real-time factor (wall)", lambda r: r.real_time_factor, "{:.2f}".format),
    ("chunk, p95, ms", lambda r: r.sums["chunk_p95_ms"], "{:.1f}".format),
    ("language-ID, p95, ms", lambda r: r.sums["language_id_p95_ms"], "{:.1f}".format),
    ("peak memory, MiB", lambda r: (peak := r.sums["peak_rss_bytes"]) and peak / 2**20, "{:,.0f}".format),
)


class Change(NamedTuple):
    """One measure of one configuration, before and now; ``show`` formats its values."""

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
    return table("baseline", "Now and in the baseline, over the recordings of both", _CHANGE_COLUMNS, changes)


_CHANGE_COLUMNS: tuple[Column[Change], ...] = (
    Column("Configuration", "The options that vary", lambda c: c.name),
    Column("Measure", "What was measured", lambda c: c.measure),
    Column("Baseline", "Before", lambda c: c.show(c.before)),
    Column("Now", "In this sweep", lambda c: c.show(c.now)),
    Column("Change", "Now - baseline", lambda c: c.now - c.before, "{:+.3g}".format),
    Column("Ratio", "Now / baseline", lambda c: c.now / c.before if c.before else None, "{:.2f}".format),
    Column("n", "Recordings that both have", lambda c: c.n),
)

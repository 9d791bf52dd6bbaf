"""The tables of a report: columns say how a value is read and shown, and give the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar

from whisperlab.report.counts import (
    WRONG_FRAMES,
    WRONG_TEXT,
    CacheCounts,
    Operation,
    Result,
    Run,
    language_error,
    language_measure,
    percent,
    ratio,
)
from whisperlab.util.statistics import LEAST_UNITS

MAX_LINES = 500  # of a table; a page of more is slow to open

T = TypeVar("T")
Value = str | float | None


@dataclass(slots=True, frozen=True)
class Column(Generic[T]):
    """A column: its title, what it means, the value a row sorts by, and that value for people.

    ``note`` is smaller print beside the value, such as its interval.
    """

    title: str
    about: str
    value: Callable[[T], Value]
    show: Callable[[Any], str] = str
    note: Callable[[T], str] = lambda _: ""


@dataclass(slots=True, frozen=True)
class Cell:
    """One cell: ``sort`` is the raw value (None sorts last), ``text`` and ``note`` are what is read."""

    sort: Value
    text: str
    note: str


@dataclass(slots=True, frozen=True)
class Table:
    """A sortable table: ``head`` as (title, meaning, whether numbers), ``body`` as rows of cells.

    ``configs`` are the configurations of the rows, for figures that select a row; empty when the rows have none.
    """

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
    by_column = [(column, [_cell(column, row) for row in rows[:MAX_LINES]]) for column in columns]
    kept = [(column, cells) for column, cells in by_column if any(cell.sort is not None for cell in cells)]
    head = tuple((one.title, one.about, any(isinstance(c.sort, int | float) for c in cells)) for one, cells in kept)
    configs = tuple(found for row in rows[:MAX_LINES] if (found := _config_id(row)) is not None)
    return Table(name, caption, head, tuple(zip(*(cells for _, cells in kept), strict=True)), configs)


def _config_id(row: object) -> int | None:
    """The configuration of a result, of a run, or of a tuple that ends with a result."""
    if isinstance(row, tuple):
        row = row[-1]
    found = row.get("config_id") if isinstance(row, dict) else getattr(row, "config_id", None)
    return found if isinstance(found, int) else None


def _cell(column: Column[T], row: T) -> Cell:
    value = column.value(row)
    return Cell(value, "–" if value is None else column.show(value), column.note(row))


def result_table(name: str, caption: str, results: Iterable[Result]) -> Table:
    """A line per configuration: hit rate beside false-hit rate, then what it did to language and text."""
    return table(name, caption, _RESULT_COLUMNS, results)


def operation_table(results: Iterable[Result]) -> Table:
    """A line per configuration and operation: latency in milliseconds."""
    rows = [(result.name, operation) for result in results for operation in result.operations]
    return table("latency", "Latency of every operation, in milliseconds", _OPERATION_COLUMNS, rows)


def run_table(runs: Iterable[Run]) -> Table:
    """A line per run; ``name`` is that of its configuration."""
    return table("runs", "Every run: one configuration on one recording", _RUN_COLUMNS, runs)


def milliseconds(value: float) -> str:
    """Three figures are all a latency carries.

    >>> milliseconds(0.04213), milliseconds(36.21), milliseconds(1204.4)
    ('0.0421', '36.2', '1,204')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(value: float) -> str:
    """A number of bytes as text, in whole MiB."""
    return f"{value / 2**20:,.0f} MiB"


def _range(interval: tuple[float, float]) -> str:
    """Two shares as one range: ``4–17 %``."""
    low, high = (100 * end for end in interval)
    return f"{low:.0f}–{high:.0f} %"


def _checked(cache: CacheCounts, n_recordings: int = 1) -> str:
    if cache.false_hit_interval is None:
        return "not checked" if cache.hits else ""
    interval = f"{_range(cache.false_hit_interval)}, " if n_recordings >= LEAST_UNITS else ""
    return f"{interval}n = {cache.checked:,} hits"


def _false_hits(result: Result) -> str:
    return _checked(result.cache, result.n_recordings)


def _lookups(result: Result) -> str:
    return f"n = {result.cache.lookups:,}" if result.cache.lookups else ""


def _saved(result: Result) -> str:
    return "" if result.cache.saved_share is None else percent(result.cache.saved_share)


def _language_interval(result: Result) -> str:
    interval = result.language_error_interval
    return (
        f"n = {result.n_recordings}, no interval"
        if interval is None
        else (f"{_range(interval)}, n = {result.n_recordings}")
    )


def _result_error(measure: str) -> Column[Result]:
    def value(result: Result) -> float | None:
        return result.language_error if result.language_measure == measure else None

    def note(result: Result) -> str:
        return "" if value(result) is None else _language_interval(result)

    return Column(measure.capitalize(), _ABOUT[measure], value, percent, note)


def _run_error(measure: str) -> Column[Run]:
    def value(run: Run) -> float | None:
        return language_error(run) if language_measure(run["config"]) == measure else None

    return Column(measure.capitalize(), _ABOUT[measure], value, percent)


_FALSE_HITS = (
    "Of the hits that were recomputed, those that stood for another language (95 % interval, from three recordings on)"
)
_SAVED = "Encoder seconds the hits spared, at the mean cost of the encodes that were made"
_SWITCHES = "Language switches found within one second, precision and recall in one"
_DELAY = "Median seconds of audio from a switch to its decision; a missed switch counts as never"
_ABOUT = {
    WRONG_TEXT: "Speech time whose final text is in another language, or missing / speech time (95 % interval)",
    WRONG_FRAMES: "Speech time whose language-ID frames name another language / speech time. Frames lag behind the "
    "speech, so this is higher than the error of the text (95 % interval)",
}
_WORDS = "Word errors / words (characters in unspaced scripts)"
_RESPONSE = "What a chunk of a live stream waits and is worked on: 95th percentile of the worst recording"
_FACTOR = "Wall seconds of computing / seconds of audio; below 1 keeps up with live speech"

_RESULT_COLUMNS: tuple[Column[Result], ...] = (
    Column("Configuration", "The options that vary", lambda r: r.name),
    Column("Hit rate", "Look-ups the cache answered, and all (n)", lambda r: r.cache.hit_rate, percent, _lookups),
    Column("False-hit rate", _FALSE_HITS, lambda r: r.cache.false_hit_rate, percent, _false_hits),
    Column("Encoder saved", _SAVED, lambda r: r.cache.saved_s if r.cache.lookups else None, "{:.1f} s".format, _saved),
    _result_error(WRONG_TEXT),
    _result_error(WRONG_FRAMES),
    Column("Switch F1 (1 s)", _SWITCHES, lambda r: r.switch_f1, "{:.2f}".format),
    Column("Decision delay", _DELAY, lambda r: r.decision_delay, "{:.1f} s".format),
    Column("Words wrong", _WORDS, lambda r: r.mixed_error, percent),
    Column("Real-time factor (wall)", _FACTOR, lambda r: r.real_time_factor, "{:.2f}".format),
    Column("Threads", "Compute threads that these times were measured with", lambda r: r.threads),
    Column("Response p95", _RESPONSE, lambda r: r.response_p95, "{:.2f} s".format),
    Column("Runs", "Recordings this configuration finished", lambda r: r.n_runs),
    Column("Peak memory", "Highest resident memory of any run", lambda r: r.peak_rss_bytes, mebibytes),
)

_OPERATION_COLUMNS: tuple[Column[tuple[str, Operation]], ...] = (
    Column("Configuration", "The options that vary", lambda row: row[0]),
    Column("Operation", "The part of the pipeline that was timed", lambda row: row[1].name),
    Column("n", "How often, all recordings together", lambda row: row[1].count, "{:,}".format),
    Column("Mean", "Total / n", lambda row: row[1].mean, milliseconds),
    Column("p50", "Median of the recordings' medians", lambda row: row[1].p50, milliseconds),
    Column("p95", "Worst 95th percentile of any recording", lambda row: row[1].p95, milliseconds),
    Column("p99", "Worst 99th percentile of any recording", lambda row: row[1].p99, milliseconds),
    Column("Longest", "The longest single one", lambda row: row[1].longest, milliseconds),
)

_RUN_COLUMNS: tuple[Column[Run], ...] = (
    Column("Configuration", "The options that vary", itemgetter("name")),
    Column("Recording", "Its id", itemgetter("recording")),
    Column("Corpus", "Where the recording is from", itemgetter("corpus")),
    Column("Status", "Whether the run finished", itemgetter("status"), note=lambda run: run["error"] or ""),
    Column("Audio", "Length", itemgetter("duration_s"), "{:.1f} s".format),
    Column("Hit rate", "Look-ups that the cache answered", itemgetter("hit_rate"), percent),
    Column(
        "False-hit rate",
        _FALSE_HITS,
        lambda run: ratio(run["false_hits"], run["checked"]),
        percent,
        lambda run: _checked(CacheCounts.of(run)),
    ),
    _run_error(WRONG_TEXT),
    _run_error(WRONG_FRAMES),
    Column("Words wrong", _WORDS, itemgetter("mixed_error_rate"), percent),
    Column("Compute", "Wall time inside the transcriber", itemgetter("compute_s"), "{:.1f} s".format),
)

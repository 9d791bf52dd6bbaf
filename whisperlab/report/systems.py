"""Streaming systems side by side in a report: quality and latency in one table, latency against errors in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled
from whisperlab.evaluation.scoring.summary import RateTree
from whisperlab.report.charts import points
from whisperlab.report.figure import Figure, template
from whisperlab.report.page import page_text
from whisperlab.report.tables import SHOWS, Column, Table, table
from whisperlab.util.statistics import Interval

LATENCY, ERRORS = "word_latency_p50", "switch_error_rate"  # of the picture
_COLUMNS = template("tables")["systems"]


@dataclass(slots=True, frozen=True)
class SystemRow:
    """The rates of one system over its recordings, with their 95 % intervals."""

    name: str
    n_recordings: int
    rates: RateTree
    intervals: Mapping[str, Interval | None]


def system_rows(scores: Mapping[str, Sequence[Score]]) -> list[SystemRow]:
    """A row per system; counts are summed over recordings before division."""
    rng, names = np.random.default_rng(0), [one["rate"] for one in _COLUMNS]
    return [
        SystemRow(name, len(own), pooled(own).rates(), bootstrap_intervals(own, names, rng))
        for name, own in scores.items()
    ]


def systems_table(rows: Sequence[SystemRow]) -> Table:
    """The columns ``systems`` of ``tables.json``, each a rate with its interval."""
    name: Column[SystemRow] = Column("System", "Its name or configuration", lambda row: row.name)
    n: Column[SystemRow] = Column("n", "Recordings; fewer than three give no interval", lambda row: row.n_recordings)
    found = [_column(one["title"], one["about"], one["rate"], one["show"]) for one in _COLUMNS]
    return table("systems", page_text("systems_caption"), (name, n, *found), rows)


def _column(title: str, about: str, rate: str, show: str) -> Column[SystemRow]:
    shown = SHOWS.get(show, show.format)

    def note(row: SystemRow) -> str:
        interval = row.intervals[rate]
        return "" if interval is None else "–".join(map(shown, interval))

    return Column(title, about, lambda row: row.rates[rate], shown, note)


def systems_figure(rows: Sequence[SystemRow]) -> Figure | None:
    """Latency of words (x) against errors at switches (y), a point per system; None for fewer than two points."""
    known = [row for row in rows if None not in (row.rates[LATENCY], row.rates[ERRORS])]
    marks = [
        {"configuration": row.name, "config_id": number, "key": row.name, "front": False}
        | {"x": round(row.rates[LATENCY], 2), "y": round(100 * row.rates[ERRORS], 1)}
        for number, row in enumerate(known)
    ]
    x, y = "seconds from the end of a word to its final text, median", "words wrong at switches, % (up is worse)"
    alt, caption = page_text("systems_words", rows=known), page_text("systems_figure")
    return points("systems-latency", marks, x, y, alt, caption, title="system") if len(known) > 1 else None

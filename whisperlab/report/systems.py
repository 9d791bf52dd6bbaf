"""Streaming systems side by side in a report: quality and latency in one table, latency against errors in a picture."""

from collections.abc import Sequence

from whisperlab.evaluation.scoring.summary import RateTree
from whisperlab.report.charts import points
from whisperlab.report.figure import Figure, template
from whisperlab.report.page import page_text
from whisperlab.report.tables import SHOWS, Column, Table, table

LATENCY, ERRORS = "word_latency_p50", "switch_error_rate"  # of the picture
_COLUMNS = template("tables")["systems"]
RATES = [one["rate"] for one in _COLUMNS]


def systems_table(rows: Sequence[RateTree]) -> Table:
    """The columns ``systems`` of ``tables.json``, each a rate with its interval."""
    name: Column[RateTree] = Column("System", "Its name or configuration", lambda row: row["system"])
    n: Column[RateTree] = Column("n", "Recordings; fewer than three give no interval", lambda row: row["recordings"])
    found = [_column(one["title"], one["about"], one["rate"], one["show"]) for one in _COLUMNS]
    return table("systems", page_text("systems_caption"), (name, n, *found), rows)


def _column(title: str, about: str, rate: str, show: str) -> Column[RateTree]:
    shown = SHOWS.get(show, show.format)

    def note(row: RateTree) -> str:
        interval = row.get(f"{rate}_95")
        return "" if interval is None else "–".join(map(shown, interval))

    return Column(title, about, lambda row: row[rate], shown, note)


def systems_figure(rows: Sequence[RateTree]) -> Figure | None:
    """Latency of words (x) against errors at switches (y), a point per system; None for fewer than two points."""
    known = [row for row in rows if None not in (row[LATENCY], row[ERRORS])]
    marks = [
        {"configuration": row["system"], "config_id": number, "key": row["system"], "front": False}
        | {"x": round(row[LATENCY], 2), "y": round(100 * row[ERRORS], 1)}
        for number, row in enumerate(known)
    ]
    x, y = "seconds from the end of a word to its final text, median", "words wrong at switches, % (up is worse)"
    alt, caption = page_text("systems_words", rows=known), page_text("systems_figure")
    if len(known) < 2:
        return None
    if logarithmic := all(mark["x"] > 0 and mark["y"] > 0 for mark in marks):
        caption = f"{caption} Both axes are logarithmic."
    return points("systems-latency", marks, x, y, alt, caption, title="system", logarithmic=logarithmic)

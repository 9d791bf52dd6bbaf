"""The tables of a report: columns say how a value is read and shown, and give the cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from whisperlab.report.counts import Result
from whisperlab.report.figure import template
from whisperlab.report.page import expression, page_text, percent

if TYPE_CHECKING:
    import pandas as pd

MAX_LINES = 500  # of a table; a page of more is slow to open

T = TypeVar("T")
Value = str | float | None


@dataclass(slots=True, frozen=True)
class Column(Generic[T]):
    """A column: its title, what it means, and the value a row sorts by.

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

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The lines by title, with the ``text`` or the raw value (``sort``) of each cell."""
        titles = [title for title, _, _ in self.head]
        return [dict(zip(titles, (getattr(cell, part) for cell in line), strict=True)) for line in self.body]


def table(name: str, caption: str, columns: Sequence[Column[T]], rows: Iterable[T]) -> Table:
    """Rows through columns; a column nobody has a value for is left out, and so are lines beyond `MAX_LINES`."""
    rows = list(rows)
    if len(rows) > MAX_LINES:
        caption += f" (the first {MAX_LINES} of {len(rows):,} lines)"
    rows = rows[:MAX_LINES]
    by_column = [(column, [_cell(column, row) for row in rows]) for column in columns]
    kept = [(column, cells) for column, cells in by_column if any(cell.sort is not None for cell in cells)]
    numeric = [any(isinstance(cell.sort, int | float) for cell in cells) for _, cells in kept]
    head = tuple((one.title, one.about, is_number) for (one, _), is_number in zip(kept, numeric, strict=True))
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


SHOWS: Mapping[str, Callable[[Any], str]] = {"percent": percent, "milliseconds": milliseconds, "mebibytes": mebibytes}


@cache
def columns(name: str) -> tuple[Column[Any], ...]:
    """The columns of a table in ``tables.json``: their values are Jinja expressions of a ``row``, notes are macros."""
    spec = template("tables")
    return tuple(_column(**{"about": spec["meanings"].get(one["title"], ""), **one}) for one in spec[name])


def frame(name: str, rows: Iterable[object]) -> "pd.DataFrame":
    """Rows through the columns ``frame_NAME`` of ``tables.json``, for a notebook."""
    import pandas as pd

    shown = columns(f"frame_{name}")
    return pd.DataFrame([[one.value(row) for one in shown] for row in rows], columns=[one.title for one in shown])


def _column(title: str, about: str, value: str, show: str = "{}", note: str = "") -> Column[Any]:
    read, shown = expression(value), SHOWS.get(show, show.format)
    return Column(title, about, lambda row: read(row=row), shown, lambda row: page_text(note, row=row) if note else "")

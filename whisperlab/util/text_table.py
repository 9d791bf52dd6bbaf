"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Records with the same keys as aligned columns under their names.

    >>> print(text_table([{"name": "base", "size": 74}, {"name": "tiny", "size": 39}]))
    name  size
    base  74
    tiny  39
    """
    if not rows:
        return "(nothing)"
    lines = [list(rows[0]), *([text_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def text_cell(value: object) -> str:
    """A value in four significant digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_interval(value: float | None, interval: Sequence[float] | None, form: str = ".2f") -> str:
    """A value and its interval in one cell.

    >>> with_interval(0.5, (0.25, 0.75)), with_interval(0.5, None), with_interval(None, None)
    ('0.50 (0.25-0.75)', '0.50', '-')
    """
    if value is None:
        return "-"
    text = f"{value:{form}}"
    return text if interval is None else f"{text} ({interval[0]:{form}}-{interval[1]:{form}})"

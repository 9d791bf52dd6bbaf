"""Tables for the terminal."""

import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"-|[+-]?[\d.,]+(e[+-]\d+)?%?")


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Records with the same keys as aligned columns under their names; numbers are aligned to the right."""
    if not rows:
        return "(nothing)"
    columns = []
    for name in rows[0]:
        values = [row[name] for row in rows]  # in four significant digits; None is a dash
        cells = ["-" if one is None else f"{one:.4g}" if isinstance(one, float) else str(one) for one in values]
        width = max(map(len, (name, *cells)))
        align = str.rjust if all(map(_NUMBER.fullmatch, cells)) else str.ljust
        columns.append([align(cell, width) for cell in (name, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def with_interval(value: float | None, ends: Sequence[float] | None, form: str = ".2f", *, without: str = "") -> str:
    """A value and its interval in one cell, such as "0.50 (0.25-0.75)"; ``without`` is said where there is none."""
    if value is None:
        return "-"
    told = without if ends is None else f"{ends[0]:{form}}-{ends[1]:{form}}"
    return f"{value:{form}}" + (f" ({told})" if told else "")

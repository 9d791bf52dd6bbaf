"""Small HTML tables for Jupyter, with all values escaped and the style of the notebook, light or dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def facts(title: str, values: Mapping[str, object]) -> str:
    lines = ((name.replace("_", " "), format_value(value)) for name, value in values.items())
    rows = "".join('<tr><th scope="row">{}</th><td>{}</td></tr>'.format(*map(escape, line)) for line in lines)
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def rows(title: str, head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    cells = ((f'<td dir="auto">{escape(format_value(value))}</td>' for value in line) for line in body)
    lines = "".join(f"<tr>{''.join(line)}</tr>" for line in cells)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>"


def format_value(value: object, nothing: str = "-") -> str:
    """A value as text: numbers to three significant digits, collections without brackets."""
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {format_value(inner, nothing)}" for name, inner in value.items()) or nothing
    if isinstance(value, list | tuple):
        return ", ".join(format_value(inner, nothing) for inner in value) or nothing
    return str(value)


def bar(share: float, width: int = 12) -> str:
    """A share from 0 to 1 as a bar of text: ``██··``."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "·" * (width - full)

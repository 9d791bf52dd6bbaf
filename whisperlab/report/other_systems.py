"""The figure of the other systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whisperlab.report.figures import INK, LETTER, MUTED, NARROW, PALETTE, new_figure, set_margins, styled
from whisperlab.util.json_values import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def systems_figure(rows: Sequence[Json], rates: Sequence[tuple[str, str]]) -> Figure:
    """A panel per rate and a bar per system, with its 95 % interval if there is one; whisperlab has its own colour.

    ``rates`` are columns of `other_systems.summarise` and their titles.
    """
    figure = new_figure(NARROW + 2, 0.9 + 0.34 * len(rows))
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, (rate, title) in zip(panels, rates, strict=True):
        for place, row in enumerate(rows):
            value = row.get(rate)
            if value is None:
                axes.text(0, place, " none", va="center", color=INK, fontsize=8)
                continue
            colour = PALETTE[2 if row["system"].startswith("whisperlab") else 0]
            axes.barh(place, value, color=colour, height=0.7)
            low, high = row.get(f"{rate}_95") or (value, value)
            axes.plot([low, high], [place, place], color=INK, linewidth=1)
            axes.annotate(
                f"{value:.2f}", (max(value, high), place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_xlabel(title)
        axes.margins(x=0.25)
        axes.set_xlim(left=0)
        axes.grid(visible=True, axis="x", color=MUTED)
    panels[0].set_yticks(range(len(rows)), [row["system"] for row in rows])
    panels[0].invert_yaxis()
    widest = max((len(str(row["system"])) for row in rows), default=0)
    set_margins(figure, top=0.1, bottom=0.55, left=0.2 + LETTER * widest, right=0.1)
    return figure

"""Figures of a profile: memory over time and by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from whisperlab.report.figures import LETTER, NARROW, PALETTE, new_figure, set_margins, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = 2**20


@styled
def course_figure(course: Sequence[tuple[float, int, int]]) -> Figure:
    """Memory over time: (seconds, bytes resident, bytes on the heap), as `whisperlab.profiling.heap` records it."""
    figure = new_figure(NARROW, 2.8)
    axes = figure.subplots()
    seconds = [moment[0] for moment in course]
    for place, (name, colour, line) in enumerate((("resident", 0, "--"), ("on the heap", 5, "-"))):
        sizes = [moment[1 + place] / _MIB for moment in course]
        axes.plot(seconds, sizes, line, color=PALETTE[colour], label=name)
    axes.set_xlabel("seconds of wall time")
    axes.set_ylabel("MiB")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y")
    axes.legend(frameon=False, loc="lower right")
    set_margins(figure, top=0.1, bottom=0.5, left=0.7, right=0.1)
    return figure


@styled
def parts_figure(parts: Mapping[str, float], label: str, most: int = 12) -> Figure:
    """A quantity by its parts, one bar each in descending order; at most ``most`` bars."""
    kept = dict(sorted(parts.items(), key=lambda part: -part[1])[:most])
    figure = new_figure(NARROW, 0.8 + 0.3 * max(len(kept), 1))
    axes = figure.subplots()
    bars = axes.barh(range(len(kept)), list(kept.values()), color=PALETTE[0], height=0.7)
    axes.bar_label(bars, [f"{size:,.1f}" for size in kept.values()], padding=4, fontsize=8)
    axes.set_yticks(range(len(kept)), list(kept))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    widest = max((len(name) for name in kept), default=0)
    set_margins(figure, top=0.1, bottom=0.5, left=0.3 + LETTER * widest, right=0.3)
    return figure


@styled
def percentiles_figure(lines: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Values by percentile, one line each, both axes logarithmic; rarer values are farther right."""
    figure = new_figure(NARROW, 3.2)
    axes = figure.subplots()
    for number, (name, values) in enumerate(lines.items()):
        ordered = sorted(values)
        rarity = [len(ordered) / (len(ordered) - place) for place in range(len(ordered))]
        axes.plot(rarity, ordered, "-" if number else "--", color=PALETTE[5 * number % 6], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    most = max((len(values) for values in lines.values()), default=1)
    ticks = {1: "0", 2: "50", 10: "90", 20: "95", 100: "99", 1000: "99.9"}
    kept = {at: text for at, text in ticks.items() if at <= most}
    axes.set_xticks(list(kept), list(kept.values()))
    axes.minorticks_off()
    axes.set_xlabel("percentile")
    axes.set_ylabel(label)
    axes.grid(visible=True)
    axes.legend(frameon=False)
    set_margins(figure, top=0.1, bottom=0.5, left=0.75, right=0.15)
    return figure

"""Figures of language-ID accuracy: by window and silence, by rule, against cost, and against confidence.

Shares are given as counts ``(right, n)`` and drawn with Wilson's 95 % interval. It treats every answer as independent;
answers about the same sentence are not, so the true interval is somewhat wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.language_window.calibration import ReliabilityBin
from whisperlab.experiments.significance import pareto_front
from whisperlab.report.figure import INK, MUTED, NARROW, PALETTE, new_figure, styled
from whisperlab.report.page import percent
from whisperlab.util.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Count: TypeAlias = tuple[int, int]  # right, of so many

_LINES = tuple(PALETTE[i] for i in (0, 1, 2, 4, 5, 6))  # a thin line in the palette's yellow is hard to see
_MARKERS = "osD^vP"
_APART = 0.025  # of the axis: horizontal distance between lines, so that their intervals do not overlap


@styled
def accuracy_map_figure(panels: Mapping[str, Mapping[tuple[float, float], Count]]) -> Figure:
    """A panel per title: accuracy with its interval by window (rows) and silence after it (columns), in seconds."""
    windows = sorted({window for cells in panels.values() for window, _ in cells})
    silences = sorted({silence for cells in panels.values() for _, silence in cells})
    figure = new_figure(NARROW, 1.2 + 0.46 * len(windows))
    for axes, (title, cells) in zip(_row(figure, len(panels)), panels.items(), strict=True):
        _draw_map(axes, [[cells.get((window, silence)) for silence in silences] for window in windows])
        axes.set_title(title, fontsize=10)
        axes.set_xticks([place + 0.5 for place in range(len(silences))], [f"{s:g}" for s in silences])
        axes.set_yticks([place + 0.5 for place in range(len(windows))], [f"{w:g}" for w in windows])
        axes.set_xlabel("silence after the window, s")
    figure.axes[0].set_ylabel("window, s")
    return figure


@styled
def accuracy_curves_figure(panels: Mapping[str, Mapping[str, Mapping[float, Count]]]) -> Figure:
    """A panel per title and a line per rule: accuracy with its intervals over the window's length in seconds."""
    figure = new_figure(NARROW, 3.6)
    for axes, (title, rules) in zip(_row(figure, len(panels)), panels.items(), strict=True):
        ends = [window for counts in rules.values() for window in counts]
        apart = _APART * (max(ends) - min(ends))
        for number, (rule, counts) in enumerate(rules.items()):
            aside = (number - (len(rules) - 1) / 2) * apart
            _draw_curve(axes, [window + aside for window in counts], list(counts.values()), number, rule)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(sorted(set(ends)), [f"{window:g}" for window in sorted(set(ends))])
        axes.set_xlabel("window, s")
        axes.grid(visible=True, axis="y")
    figure.axes[0].set_ylim(top=102)
    figure.axes[0].set_ylabel("windows right, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=2, loc="outside upper center", fontsize=9)
    return figure


@styled
def cost_figure(points: Mapping[str, tuple[float, Count]], chosen: str) -> Figure:
    """A point per name: accuracy against cost; the line joins the points that no other beats.

    A point is beaten by one of lower or equal cost and higher accuracy.
    """
    figure = new_figure(NARROW, 4.2)
    axes = figure.subplots()
    on_front = pareto_front([(cost, -_share(count)) for cost, count in points.values()])
    front = {name for name, member in zip(points, on_front, strict=True) if member}
    best = sorted((cost, 100 * _share(count)) for name, (cost, count) in points.items() if name in front)
    axes.plot([cost for cost, _ in best], [share for _, share in best], color=MUTED, zorder=1)
    for name, (cost, count) in points.items():
        colour = PALETTE[1] if name == chosen else PALETTE[0] if name in front else "none"
        share = 100 * _share(count)
        axes.plot(cost, share, "D" if name == chosen else "o", color=colour, markeredgecolor=INK, markersize=7)
        if name in front or name == chosen:
            above = name in front
            axes.annotate(
                name,
                (cost, share),
                xytext=(-5, 5) if above else (6, -5),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                fontsize=8,
            )
    axes.set_xlabel(f"encoder time, times that of {chosen}")
    axes.set_ylabel("windows right, %")
    axes.margins(x=0.12, y=0.12)
    axes.grid(visible=True)
    return figure


@styled
def reliability_figure(curves: Mapping[str, Sequence[ReliabilityBin]]) -> Figure:
    """A line per name: accuracy over confidence; on the dashed line both are equal.

    Bars are intervals. The area of a halo shows the number of answers.
    """
    figure = new_figure(NARROW, 4.2 + 0.2 * len(curves))
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (3, 3)), zorder=1)
    for number, (name, bins) in enumerate(curves.items()):
        n = sum(part.n for part in bins)
        confidence = [100 * part.confidence for part in bins]
        _draw_curve(axes, confidence, [(round(part.accuracy * part.n), part.n) for part in bins], number, name)
        sizes = [300 * part.n / n for part in bins]
        colour = _LINES[number % len(_LINES)]
        axes.scatter(confidence, [100 * part.accuracy for part in bins], sizes, color=colour, alpha=0.4)
    axes.set_xlim(0, 104)
    axes.set_ylim(-3, 104)
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("answers right, %")
    axes.grid(visible=True)
    figure.legend(frameon=False, loc="outside upper left", fontsize=9)
    return figure


def _row(figure: Figure, n: int) -> Sequence[Axes]:
    axes: Sequence[Axes] = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    return axes


def _share(count: Count) -> float:
    right, n = count
    return right / n


def _draw_map(axes: Axes, cells: Sequence[Sequence[Count | None]]) -> None:
    """A coloured grid of shares with their intervals; cells without a measurement stay empty."""
    values = [[float("nan") if count is None else _share(count) for count in line] for line in cells]
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolor=MUTED, linewidth=0.5)
    for row, line in enumerate(cells):
        for column, count in enumerate(line):
            if count is None:
                continue
            low, high = wilson(*count)
            colour = "#ffffff" if _share(count) < 0.55 else "#000000"
            place = (column + 0.5, row + 0.4)
            axes.text(*place, percent(_share(count)), ha="center", va="center", color=colour, fontsize=9)
            interval = f"{100 * low:.0f}–{100 * high:.0f}"
            axes.text(column + 0.5, row + 0.75, interval, ha="center", va="center", color=colour, fontsize=7)
    axes.set_ylim(len(cells), 0)
    axes.tick_params(length=0)


def _draw_curve(axes: Axes, x: Sequence[float], counts: Sequence[Count], number: int, label: str) -> None:
    shares = [100 * _share(count) for count in counts]
    ends = [[100 * end for end in wilson(*count)] for count in counts]
    below = [max(0.0, share - low) for share, (low, _) in zip(shares, ends, strict=True)]
    above = [max(0.0, high - share) for share, (_, high) in zip(shares, ends, strict=True)]
    axes.errorbar(
        x,
        shares,
        [below, above],
        color=_LINES[number % len(_LINES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markeredgecolor=INK,
        markersize=6,
        elinewidth=1,
        capsize=2,
        label=label,
    )

"""Figures of the ablation: time per chunk, work against accuracy, and how costs grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whisperlab.experiments.pareto import pareto_front
from whisperlab.report.figures import INK, MUTED, NARROW, PALETTE, new_figure, set_margins, styled
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"before": 3, "guide": 1, "default": 2, "off": 0, "on": 4}  # colour of each kind of variant
_MARKERS = "os^D"


@styled
def ladder_figure(rows: Sequence[Json], measure: str = "chunk_ms_p95") -> Figure:
    """A bar per variant on a log scale: milliseconds per chunk, a column of the rows of `ablation.measure`.

    The label is the ratio to the reference pipeline with its 95 % interval.
    """
    figure = new_figure(NARROW, 0.9 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        value, (low, high) = row[measure], row[f"{measure}_ratio_95"]
        axes.barh(place, value, color=PALETTE[_KINDS[row["kind"]]], height=0.7)
        ratio = "" if row["kind"] == "before" else f"  x {row[f'{measure}_ratio']:.3f} ({low:.3f}-{high:.3f})"
        text = f"{value:,.0f} ms{ratio}"
        axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(right=12 * max(row[measure] for row in rows))
    axes.set_xlabel(f"{measure.replace('_', ' ').replace(' ms', ',')}, ms")
    set_margins(figure, top=0.1, bottom=0.55, left=1.75, right=0.1)
    return figure


@styled
def pareto_figure(rows: Sequence[Json], score: str = "switch_f1_at_1") -> Figure:
    """A point per variant: a score with its interval against encoder seconds per second of audio.

    The line joins the variants that no other beats in both.
    """
    scored = sorted((row for row in rows if row.get(score) is not None), key=lambda row: row["encoded_s_per_s"])
    on_front = pareto_front([(row["encoded_s_per_s"], -row[score]) for row in scored])
    front = [row for row, member in zip(scored, on_front, strict=True) if member]
    figure = new_figure(NARROW, 4.2)
    axes = figure.subplots()
    axes.plot([row["encoded_s_per_s"] for row in front], [row[score] for row in front], color=MUTED, zorder=1)
    for number, row in enumerate(scored):
        x, y = row["encoded_s_per_s"], row[score]
        low, high = row.get(f"{score}_95") or (y, y)
        axes.errorbar(x, y, [[max(y - low, 0)], [max(high - y, 0)]], color=MUTED, linewidth=0.8, zorder=1)
        axes.plot(x, y, "o", color=PALETTE[_KINDS[row["kind"]]], markeredgecolor=INK, markersize=7)
        up = number % 2 == 0
        axes.annotate(
            row["variant"],
            (x, y),
            (6, 9 if up else -9),
            textcoords="offset points",
            va="bottom" if up else "top",
            fontsize=8,
        )
    axes.set_xlabel("encoder seconds per second of audio")
    axes.set_ylabel(score.replace("_", " ").replace("f1", "F1"))
    axes.margins(x=0.2)
    scores = [end for row in scored for end in (row[score], *(row.get(f"{score}_95") or ()))]
    axes.set_ylim(min(scores, default=0.0) - 0.1, max(scores, default=1.0) + 0.1)
    axes.grid(visible=True)
    set_margins(figure, top=0.1, bottom=0.55, left=0.75, right=0.1)
    return figure


@styled
def scaling_figure(points: Sequence[Point], *, log: bool = False, unit: str = "ms") -> Figure:
    """A panel per curve: milliseconds over x.

    ``log`` makes both axes logarithmic; ``unit`` labels the time axis.
    """
    curves = list(dict.fromkeys(point.curve for point in points))
    n_columns = min(len(curves), 2)
    n_rows = -(-len(curves) // n_columns)
    figure = new_figure(NARROW, 2.6 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for curve, axes in zip(curves, panels, strict=False):  # zip takes no panel after the last curve
        lines = list(dict.fromkeys(point.line for point in points if point.curve == curve))
        for number, line in enumerate(lines):
            mine = [point for point in points if (point.curve, point.line) == (curve, line)]
            lows = [point.ms - (point.ms if point.low is None else point.low) for point in mine]
            highs = [(point.ms if point.high is None else point.high) - point.ms for point in mine]
            axes.errorbar(
                [point.x for point in mine],
                [point.ms for point in mine],
                [lows, highs],
                marker=_MARKERS[number],
                color=PALETTE[number],
                markersize=5,
                label=line,
            )
        axes.set_xlabel(curve)
        axes.set_ylabel(unit)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y")
        axes.legend(frameon=False, fontsize=8)
    for axes in list(panels):
        axes.set_visible(False)
    set_margins(figure, top=0.1, bottom=0.55, left=0.6, right=0.1)
    figure.subplots_adjust(hspace=0.4, wspace=0.3)
    return figure

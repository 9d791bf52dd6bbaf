"""Figures of the notebooks: ablation, work against accuracy, growth of costs, other systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisperlab.experiments.significance import pareto_front
from whisperlab.report import figure as draw
from whisperlab.report.figure import INK, MUTED, NARROW, PALETTE, label, new_plot, styled
from whisperlab.util.json_values import Json
from whisperlab.util.text_table import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {"before": 3, "guide": 1, "default": 2, "off": 0, "on": 4}  # colour of each kind of variant
_LEGEND = {
    "before": "reference pipeline",
    "guide": "the guide's design",
    "default": "whisperlab",
    "off": "without one optimisation",
    "on": "with one more option",
}
_MARKERS = "os^D"

# Operations that contain no others: with the remainder of `chunk.total` they sum up to all of it.
LEAVES = (
    *("vad.buffer_append", "lid.buffer_append", "vad.detect"),
    *("lid.frame_extract", "lid.encoder_forward", "lid.detect", "lid.smoothing", "lid.sustained_detection"),
    *("whisper.buffer_read", "whisper.insert_audio", "whisper.decode"),
)


@styled
def ladder_figure(rows: Sequence[Json], measure: str = "chunk_ms_p95") -> Figure:
    """A point per variant on a log scale: milliseconds per chunk, a column of the rows of `ablation.measure`.

    The label is the ratio to the reference pipeline with its 95 % interval, if there is one. A logarithmic axis has no
    zero at which a bar could start.
    """
    x = f"{measure.replace('_', ' ').replace(' ms', ',')}, ms"
    figure, axes = new_plot(NARROW, 1.4 + 0.36 * len(rows), x)
    for place, row in enumerate(rows):
        value, kind = row[measure], row["kind"]
        first = kind not in [other["kind"] for other in rows[:place]]
        colour, words = PALETTE[_KINDS[kind]], _LEGEND[kind] if first else None
        axes.plot(value, place, "o", color=colour, markeredgecolor=INK, markersize=8, label=words)
        times = with_interval(row[f"{measure}_ratio"], row[f"{measure}_ratio_95"], ".3f")
        ratio = "" if kind == "before" else f"  x {times}"
        _note(axes, f"{value:,.0f} ms{ratio}", (value, place), (8, 0))
    axes.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axes.invert_yaxis()
    _set_log(axes, "x")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(right=12 * max(row[measure] for row in rows))
    figure.legend(frameon=False, ncols=3, loc="outside upper right", fontsize=8)
    return figure


@styled
def pareto_figure(rows: Sequence[Json], score: str = "switch_f1_at_1") -> Figure:
    """A point per variant: a score with its interval against encoder seconds per second of audio.

    The line joins the variants that no other beats in both; without intervals it would be drawn from noise.
    """
    scored = sorted((row for row in rows if row.get(score) is not None), key=lambda row: row["encoded_s_per_s"])
    points = [(row["encoded_s_per_s"], row[score]) for row in scored]
    y = score.replace("_", " ").replace("f1", "F1")
    figure, axes = new_plot(NARROW, 4.2, "encoder seconds per second of audio", y, "both")
    on_front = pareto_front([(x, -y) for x, y in points])
    front = [point for point, member in zip(points, on_front, strict=True) if member]
    if all(row.get(f"{score}_95") for row in scored):
        axes.plot([x for x, _ in front], [y for _, y in front], color=MUTED, zorder=1)
    for number, (row, (x, y)) in enumerate(zip(scored, points, strict=True)):
        low, high = row.get(f"{score}_95") or (y, y)
        axes.errorbar(x, y, [[max(y - low, 0)], [max(high - y, 0)]], color=MUTED, linewidth=0.8, zorder=1)
        axes.plot(x, y, "o", color=PALETTE[_KINDS[row["kind"]]], markeredgecolor=INK, markersize=7)
        _note(axes, row["variant"], (x, y), *(((6, -9), "top") if number % 2 else ((6, 9), "bottom")))
    axes.margins(x=0.2)
    scores = [end for row in scored for end in (row[score], *(row.get(f"{score}_95") or ()))]
    axes.set_ylim(min(scores, default=0.0) - 0.1, max(scores, default=1.0) + 0.1)
    return figure


@dataclass(slots=True, frozen=True)
class Point:
    """One point of a curve: median milliseconds, or another measure, at ``x`` with a 95 % interval."""

    curve: str
    line: str
    x: float
    ms: float
    low: float | None
    high: float | None


@styled
def scaling_figure(points: Sequence[Point], *, log: bool = False, unit: str = "ms") -> Figure:
    """A panel per curve: milliseconds over x.

    ``log`` makes both axes logarithmic; ``unit`` labels the time axis.
    """
    curves = list(dict.fromkeys(point.curve for point in points))
    n_columns = min(len(curves), 2)
    n_rows = -(-len(curves) // n_columns)
    figure = draw.new_figure(NARROW, 2.6 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for curve, axes in zip(curves, panels, strict=False):  # zip takes no panel after the last curve
        lines: dict[str, list[Point]] = {}
        for point in points:
            if point.curve == curve:
                lines.setdefault(point.line, []).append(point)
        for number, (line, mine) in enumerate(lines.items()):
            lows = [0.0 if point.low is None else point.ms - point.low for point in mine]
            highs = [0.0 if point.high is None else point.high - point.ms for point in mine]
            x, y = [point.x for point in mine], [point.ms for point in mine]
            marker, colour = _MARKERS[number % len(_MARKERS)], PALETTE[number % len(PALETTE)]
            axes.errorbar(x, y, [lows, highs], marker=marker, color=colour, markersize=5, label=line)
        label(axes, curve, unit, "y")
        if log:
            _set_log(axes, "x", "y")
        else:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.set_visible(False)
    return figure


@styled
def systems_figure(rows: Sequence[Json], rates: Sequence[tuple[str, str]]) -> Figure:
    """A panel per rate and a bar per system, with its 95 % interval if there is one; whisperlab has its own colour.

    ``rates`` are columns of the rows of `systems.compare` and their titles.
    """
    figure = draw.new_figure(NARROW + 2, 0.9 + 0.34 * len(rows))
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
            _note(axes, f"{value:.2f}", (max(value, high), place))
        label(axes, title, grid="x")
        axes.margins(x=0.25)
        axes.set_xlim(left=0)
    panels[0].set_yticks(range(len(rows)), [row["system"] for row in rows])
    panels[0].invert_yaxis()
    return figure


@styled
def percentiles_figure(lines: Mapping[str, Sequence[float]], y: str) -> Figure:
    """Values by percentile, one line each, both axes logarithmic; rarer values are farther right."""
    figure, axes = new_plot(NARROW, 3.2, "percentile", y, "both")
    for number, (name, values) in enumerate(lines.items()):
        rarity = [len(values) / (len(values) - place) for place in range(len(values))]
        axes.plot(rarity, sorted(values), "-" if number else "--", color=PALETTE[5 * number % 6], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    most = max(map(len, lines.values()), default=1)
    ticks = {1: "0", 2: "50", 10: "90", 20: "95", 100: "99", 1000: "99.9"}
    axes.set_xticks([at for at in ticks if at <= most], [text for at, text in ticks.items() if at <= most])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float] = (4, 0), va: str = "center"
) -> None:
    """Small text beside a point; ``offset`` is in points."""
    axes.annotate(text, at, offset, textcoords="offset points", va=va, fontsize=8)


def _set_log(axes: Axes, *names: str) -> None:
    """Logarithmic axes with plain numbers at powers of ten."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def where_time_goes(operations: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Milliseconds of a stream by operation; the remainder of `chunk.total` is called ``the rest``.

    Operations at the end of the stream count too, although they are outside any chunk.
    """
    spent = {name: float(operations[name]["total"]) for name in LEAVES if name in operations}
    rest = float(operations["chunk.total"]["total"]) - sum(spent.values())
    return spent | {"the rest": max(rest, 0.0)}

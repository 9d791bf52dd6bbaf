"""Figures of the effect of a sweep's options: the Pareto front, parallel coordinates, importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whisperlab.experiments.pareto import Importance
from whisperlab.report.counts import Result
from whisperlab.report.figures import (
    BAD,
    GOOD,
    INK,
    LETTER,
    MUTED,
    NARROW,
    OTHER,
    PALETTE,
    PAPER,
    new_figure,
    set_margins,
    styled,
)
from whisperlab.util.html import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NUMBERED = 20  # members of a front with a number
FEW_VALUES = 6  # up to so many different numbers are spaced evenly, as names are
MAX_LABELS = 10


@dataclass(slots=True, frozen=True)
class Objective:
    """A minimised quantity: name, axis label, value of a configuration, and its format.

    ``unit`` is the value of one unit of the axis: 0.01 for per cent.
    """

    name: str
    axis: str
    value: Callable[[Result], float | None]
    show: Callable[[float], str]
    unit: float = 1.0

    def of(self, results: Sequence[Result]) -> list[float]:
        """The value of each result; all results must have one."""
        return [float(value) for result in results if (value := self.value(result)) is not None]


@styled
def front_figure(results: Sequence[Result], on_front: Sequence[bool], objectives: Sequence[Objective]) -> Figure:
    """A point per configuration: errors (y), second objective (x), third objective, if any (size).

    The front is numbered from the fewest errors on, and joined by a line if there are two objectives.
    """
    error, cost, *more = objectives
    y, x = np.array(error.of(results)) / error.unit, np.array(cost.of(results)) / cost.unit
    size = _sizes(np.array(more[0].of(results))) if more else np.full(len(results), 60.0)
    figure = new_figure(NARROW, 4.2)
    axes = figure.subplots()
    member = np.array(on_front)
    if not more:  # with a third objective the line would zigzag
        order = np.argsort(x[member], kind="stable")
        axes.plot(x[member][order], y[member][order], color=GOOD, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(x[~member], y[~member], size[~member], color=OTHER, alpha=0.5, label="beaten by another")
    axes.scatter(
        x[member], y[member], size[member], color=GOOD, edgecolor=INK, linewidth=1.2, label="on the Pareto front"
    )
    numbered = sorted(zip(y[member], x[member], strict=True))[:MAX_NUMBERED]
    for number, (errors, costs) in enumerate(numbered, 1):
        axes.annotate(str(number), (costs, errors), (7, 5), textcoords="offset points", color=INK, fontsize=9)
    axes.set_xlabel(f"{cost.axis} (to the left: better)")
    axes.set_ylabel(f"{error.axis} (down: better)")
    axes.margins(0.08, 0.1)
    axes.grid(visible=True)
    figure.legend(frameon=False, ncols=2, loc="upper right")
    set_margins(figure, top=0.4, bottom=0.55, left=0.65, right=0.15)
    return figure


@styled
def parallel_figure(
    results: Sequence[Result], on_front: Sequence[bool], options: Sequence[str], objectives: Sequence[Objective]
) -> Figure:
    """A line per configuration through its options and objectives; the front is thicker and on top.

    The colour is the first objective, from blue (least) to orange (most).
    """
    columns = [_option(name, results) for name in options]
    columns += [_measured(objective, results) for objective in objectives]
    heights = np.array([column.heights for column in columns]).T
    shade = heights[:, len(options)]
    figure = new_figure(max(NARROW, 1.35 * len(columns)), 4.4)
    axes = figure.subplots()
    _draw_lines(axes, heights, shade, np.array(on_front))
    for place, column in enumerate(columns):
        axes.axvline(place, color=MUTED, linewidth=1, zorder=4)
        for height, label in column.labels:
            axes.text(place + 0.04, height, label, va="center", fontsize=8.5, zorder=6, bbox=_BEHIND)
    axes.set_xticks(range(len(columns)), [column.title for column in columns])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlim(-0.08, len(columns) - 0.45)
    axes.set_ylim(-0.06, 1.06)
    set_margins(figure, top=0.55, bottom=0.1, left=0.55, right=0.05)
    return figure


@styled
def importance_figure(found: Sequence[tuple[Objective, Sequence[Importance]]]) -> Figure:
    """A panel per objective and a bar per option, with the share of chance as a mark.

    Bars beyond their mark are filled, the others hatched.
    """
    names = [one.option for one in found[0][1]]
    left = 0.25 + LETTER * max(map(len, names))
    figure = new_figure(max(NARROW, left + 1.6 * len(found)), 1.15 + 0.34 * len(names))
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    for axes, (objective, measured) in zip(panels, found, strict=True):
        by_name = {one.option: one for one in measured}
        for place, name in enumerate(names):
            one = by_name[name]
            colour, hatch = (PALETTE[0], "") if one.shown else ("none", "///")
            axes.barh(place, 100 * one.share, 0.6, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.6)
            axes.plot([100 * one.chance] * 2, [place - 0.42, place + 0.42], color=BAD, linewidth=2)
        axes.set_xlim(0, 103)
        axes.set_title(objective.name, fontsize=10)
        axes.set_xlabel("explained, %")
        axes.grid(visible=True, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    set_margins(figure, top=0.35, bottom=0.55, left=left, right=0.15)
    return figure


@dataclass(slots=True, frozen=True)
class _Column:
    """An axis of parallel coordinates: the height of each line, from 0 to 1, and the labels."""

    title: str
    heights: NDArray[np.float64]
    labels: tuple[tuple[float, str], ...]


_BEHIND: Any = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}


def _option(name: str, results: Sequence[Result]) -> _Column:
    values = [result.config.get(name) for result in results]
    title = name.replace(".", "\n", 1)
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > FEW_VALUES:
        return _scaled(title, np.array(numbers), lambda value: f"{value:.4g}")
    steps = sorted({*map(repr, values)}, key=lambda text: _rank(values, text))
    place = {text: (n + 0.5) / len(steps) for n, text in enumerate(steps)}
    words = {repr(value): format_value(value, "none") for value in values}
    kept = steps[:: -(-len(steps) // MAX_LABELS)]
    heights = np.array([place[repr(value)] for value in values])
    return _Column(title, heights, tuple((place[text], _cut(words[text])) for text in kept))


def _rank(values: Sequence[object], text: str) -> tuple[int, float, str]:
    value = next(value for value in values if repr(value) == text)
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, text)  # type: ignore[arg-type]


def _measured(objective: Objective, results: Sequence[Result]) -> _Column:
    return _scaled(objective.name.replace(" ", "\n", 1), np.array(objective.of(results)), objective.show)


def _scaled(title: str, values: NDArray[np.float64], show: Callable[[float], str]) -> _Column:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return _Column(title, np.full(len(values), 0.5), ((0.5, show(low)),))
    marks = ((0.0, low), (0.5, (low + high) / 2), (1.0, high))
    return _Column(title, (values - low) / (high - low), tuple((at, show(value)) for at, value in marks))


def _draw_lines(
    axes: Axes, heights: NDArray[np.float64], shade: NDArray[np.float64], member: NDArray[np.bool_]
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("errors", [PALETTE[0], OTHER, BAD])
    places = np.arange(heights.shape[1])
    for chosen, width, alpha, zorder in ((~member, 1.0, 0.45, 2), (member, 2.6, 1.0, 3)):
        lines = [np.column_stack([places, line]) for line in heights[chosen]]
        axes.add_collection(
            LineCollection(lines, colors=colours(shade[chosen]), linewidths=width, alpha=alpha, zorder=zorder)
        )


def _sizes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas of points from 30 to 250; equal if all values are equal."""
    spread = values.max() - values.min()
    return 30 + 220 * (values - values.min()) / spread if spread else np.full(len(values), 60.0)


def _cut(text: str, most: int = 14) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""The section of a sweep report about its options: Pareto front, parallel coordinates, importance of each option."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whisperlab.experiments.pareto import Importance, importances, pareto_front
from whisperlab.report import figures
from whisperlab.report.counts import Result, measured_alike, percent
from whisperlab.report.figures import LETTER, NARROW, Drawing, drawing, label, new_plot, new_plots, styled
from whisperlab.report.tables import Column, Table, mebibytes, table
from whisperlab.util.html import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LINES = 300  # configurations in a picture
MAX_OPTIONS = 8  # axes of options in a picture
MAX_WORDS = 12  # members of the front in the alternative text
MAX_NUMBERED = 20  # members of a front with a number
MAX_LABELS = 10  # of an axis of names
FEW_VALUES = 6  # up to so many different numbers are spaced evenly, as names are
FEWEST = 3  # configurations; with fewer the table says as much

_BEHIND: Any = {"facecolor": figures.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}


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

    def of(self, results: Sequence[Result]) -> NDArray[np.float64]:
        """The value of each result; all results must have one."""
        return np.array([self.value(result) for result in results], dtype=float)


MIXED = Objective("mixed error", "mixed error, %", lambda r: r.mixed_error, percent, 0.01)
LANGUAGE = Objective("language error", "language error, %", lambda r: r.language_error, percent, 0.01)
RESPONSE = Objective("response p95", "response p95, s", lambda r: r.response_p95, "{:.3g} s".format)
COMPUTING = Objective("real-time factor", "computing / audio", lambda r: r.real_time_factor, "{:.2f}".format)
MEMORY = Objective("peak memory", "peak memory, MiB", lambda r: r.peak_rss_bytes, mebibytes, 2**20)


@dataclass(slots=True, frozen=True)
class SearchSection:
    """The front as a table and a figure, importances, and parallel coordinates.

    ``about`` names the data, the split and the limits of the result.
    """

    about: tuple[str, ...]
    front: Table
    picture: Drawing
    importance: Drawing
    parallel: Drawing


def search_section(results: Sequence[Result], splits: Sequence[str]) -> SearchSection | None:
    """The section for finished configurations; None below two varied options or `FEWEST` configurations.

    ``splits`` are those of the recordings.
    """
    objectives, runs = _objectives(results)
    names = dict.fromkeys(name for result in runs for name in result.config)
    options = [name for name in names if len({repr(result.config.get(name)) for result in runs}) > 1]
    if len(runs) < FEWEST or len(options) < 2 or len(objectives) < 2:
        return None
    runs = sorted(runs, key=lambda result: [objective.value(result) for objective in objectives])
    on_front = pareto_front(np.transpose([objective.of(runs) for objective in objectives]).tolist())
    members = [result for result, member in zip(runs, on_front, strict=True) if member]
    values = {name: [result.config.get(name) for result in runs] for name in options}
    measured = [(objective, importances(values, objective.of(runs).tolist())) for objective in objectives]
    axes = [one.option for one in measured[0][1][:MAX_OPTIONS]]
    chosen = _some(on_front)
    shown, marks = [runs[n] for n in chosen], [on_front[n] for n in chosen]
    words = _words(runs, members, objectives)
    count, left_out = f"All {len(runs)} configurations.", ""
    if len(shown) < len(runs):
        count = f"{len(shown)} of {len(runs)} configurations: the front, and an even choice of the others."
    if len(axes) < len(options):
        left_out = f" Of {len(options)} options, the {len(axes)} that explain most of the errors."
    size = f" The larger a point, the more {objectives[2].name}." if len(objectives) > 2 else ""
    wait = " Response is the time that a chunk of a live stream waits and is processed; p95 of the worst recording."
    return SearchSection(
        about=tuple(_about(runs, members, objectives, splits)),
        front=_front_table(members, objectives),
        picture=drawing(
            front_figure(shown, marks, objectives),
            "front-picture",
            words,
            f"{count} Outlined green points are the front, numbered as in the table. For each grey point another "
            f"configuration is nowhere worse and somewhere better.{size}{wait if objectives[1] is RESPONSE else ''}",
        ),
        importance=_importance_drawing(measured, axes),
        parallel=drawing(
            parallel_figure(shown, marks, axes, objectives),
            "parallel",
            f"Parallel coordinates over {', '.join(axes)}. {words}",
            f"{count} Each line is a configuration and crosses each axis at its value. Thick lines are the Pareto "
            f"front. The colour is the {objectives[0].name}, blue the least, orange the most.{left_out}",
        ),
    )


def _objectives(results: Sequence[Result]) -> tuple[list[Objective], list[Result]]:
    """The objectives that all comparable results have, errors first, and those results."""
    runs = measured_alike(results)
    error = MIXED if any(result.mixed_error is not None for result in runs) else LANGUAGE
    runs = [result for result in runs if error.value(result) is not None]
    cost = RESPONSE if all(result.response_p95 is not None for result in runs) else COMPUTING
    return [o for o in (error, cost, MEMORY) if all(o.value(result) is not None for result in runs)], runs


def _some(on_front: Sequence[bool]) -> list[int]:
    """At most `MAX_LINES` indices in order: the front and an even choice of the others."""
    members = [n for n, member in enumerate(on_front) if member][:MAX_LINES]
    others = [n for n, member in enumerate(on_front) if not member]
    room = min(MAX_LINES - len(members), len(others))
    return sorted(members + [others[place * len(others) // room] for place in range(room)])


def _front_table(members: Sequence[Result], objectives: Sequence[Objective]) -> Table:
    def column(one: Objective) -> Column[tuple[int, Result]]:
        return Column(one.name.capitalize(), one.axis, lambda line: one.value(line[1]), one.show)

    columns: list[Column[tuple[int, Result]]] = [
        Column("Configuration", "The varied options", lambda line: line[1].name),
        Column("No.", "Its number in the picture", lambda line: line[0], "{:.0f}".format),
        *map(column, objectives),
    ]
    return table("front", "The Pareto front: no other configuration beats these", columns, enumerate(members, 1))


def _about(
    runs: Sequence[Result], members: Sequence[Result], objectives: Sequence[Objective], splits: Sequence[str]
) -> Iterable[str]:
    yield (
        f"{len(members)} of {len(runs)} configurations are on the Pareto front of "
        f"{', '.join(objective.name for objective in objectives)}: no other configuration is better in all of them."
    )
    if "test" in splits:
        yield (
            "These are recordings of the split test. A configuration chosen here looks better than it is: choose on "
            "dev, and run the choice once on test."
        )
    elif splits:
        yield (
            f"Measured on the split {', '.join(splits)}. The best of many is best partly by chance: run the "
            "chosen configuration once on other speech."
        )
    if MEMORY in objectives:
        yield (
            "Memory is the peak of the whole process, model included. A process that ran several configurations keeps "
            "some tens of MiB of the earlier ones, so small differences have no meaning."
        )


def _words(runs: Sequence[Result], members: Sequence[Result], objectives: Sequence[Objective]) -> str:
    listed = "; ".join(
        f"{result.name}: " + ", ".join(f"{o.name} {o.show(o.of([result])[0])}" for o in objectives)
        for result in members[:MAX_WORDS]
    )
    more = f"; and {len(members) - MAX_WORDS} more" if len(members) > MAX_WORDS else ""
    return f"{len(runs)} configurations, {len(members)} on the Pareto front: {listed}{more}"


def _importance_drawing(measured: Sequence[tuple[Objective, Sequence[Importance]]], options: Sequence[str]) -> Drawing:
    found = [(objective, [one for one in every if one.option in options]) for objective, every in measured]
    alt = "; ".join(
        f"{objective.name}: "
        + ", ".join(f"{one.option} {percent(one.share)} (chance {percent(one.chance)})" for one in every)
        for objective, every in found
    )
    nothing = "" if any(one.shown for _, every in found for one in every) else " Here no bar passes."
    return drawing(
        importance_figure(found),
        "importance",
        f"Importance of options. {alt}",
        "The share of the differences between configurations that each option explains by itself (correlation ratio). "
        "The mark is the share that shuffled results stay below in 95 of 100 cases: only a filled bar, beyond it, "
        f"shows an effect, and one of twenty useless options passes by chance.{nothing} Options that change together, "
        "as in an adaptive search, share the credit.",
    )


@styled
def front_figure(results: Sequence[Result], on_front: Sequence[bool], objectives: Sequence[Objective]) -> Figure:
    """A point per configuration: errors (y), second objective (x), third objective, if any (size).

    The front is numbered from the fewest errors on, and joined by a line if there are two objectives.
    """
    error, cost, *more = objectives
    y, x = error.of(results) / error.unit, cost.of(results) / cost.unit
    size = np.full(len(results), 60.0)
    if more and np.ptp(extra := more[0].of(results)):
        size = 30 + 220 * (extra - extra.min()) / np.ptp(extra)  # area of a point
    labels = (f"{cost.axis} (to the left: better)", f"{error.axis} (down: better)")
    figure, axes = new_plot(NARROW, 4.2, (0.4, 0.55, 0.65, 0.15), *labels, "both")
    member = np.array(on_front)
    if not more:  # with a third objective the line would zigzag
        order = np.argsort(x[member], kind="stable")
        axes.plot(x[member][order], y[member][order], color=figures.GOOD, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(x[~member], y[~member], size[~member], color=figures.OTHER, alpha=0.5, label="beaten by another")
    front = axes.scatter(x[member], y[member], size[member], color=figures.GOOD, edgecolor=figures.INK, linewidth=1.2)
    front.set_label("on the Pareto front")
    numbered = sorted(zip(y[member], x[member], strict=True))[:MAX_NUMBERED]
    for number, (errors, costs) in enumerate(numbered, 1):
        axes.annotate(str(number), (costs, errors), (7, 5), textcoords="offset points", color=figures.INK, fontsize=9)
    axes.margins(0.08, 0.1)
    figure.legend(frameon=False, ncols=2, loc="upper right")
    return figure


@styled
def parallel_figure(
    results: Sequence[Result], on_front: Sequence[bool], options: Sequence[str], objectives: Sequence[Objective]
) -> Figure:
    """A line per configuration through its options and objectives; the front is thicker and on top.

    The colour is the first objective, from blue (least) to orange (most).
    """
    columns = [_option(name, results) for name in options]
    columns += [_scaled(one.name.replace(" ", "\n", 1), one.of(results), one.show) for one in objectives]
    figure, axes = new_plot(max(NARROW, 1.35 * len(columns)), 4.4, (0.55, 0.1, 0.55, 0.05))
    heights = np.array([column.heights for column in columns]).T
    _draw_lines(axes, heights, heights[:, len(options)], np.array(on_front))
    for place, column in enumerate(columns):
        axes.axvline(place, color=figures.MUTED, linewidth=1, zorder=4)
        for height, text in column.labels:
            axes.text(place + 0.04, height, text, va="center", fontsize=8.5, zorder=6, bbox=_BEHIND)
    axes.set_xticks(range(len(columns)), [column.title for column in columns])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlim(-0.08, len(columns) - 0.45)
    axes.set_ylim(-0.06, 1.06)
    return figure


@styled
def importance_figure(found: Sequence[tuple[Objective, Sequence[Importance]]]) -> Figure:
    """A panel per objective and a bar per option, with the share of chance as a mark.

    Bars beyond their mark are filled, the others hatched.
    """
    names = [one.option for one in found[0][1]]
    left = 0.25 + LETTER * max(map(len, names))
    width, height = max(NARROW, left + 1.6 * len(found)), 1.15 + 0.34 * len(names)
    figure, panels = new_plots(width, height, (0.35, 0.55, left, 0.15), len(found))
    for axes, (objective, measured) in zip(panels, found, strict=True):
        for one in measured:
            place = names.index(one.option)
            colour, hatch = (figures.PALETTE[0], "") if one.shown else ("none", "///")
            axes.barh(place, 100 * one.share, 0.6, color=colour, hatch=hatch, edgecolor=figures.INK, linewidth=0.6)
            axes.plot([100 * one.chance] * 2, [place - 0.42, place + 0.42], color=figures.BAD, linewidth=2)
        axes.set_xlim(0, 103)
        axes.set_title(objective.name, fontsize=10)
        label(axes, "explained, %", grid="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


@dataclass(slots=True, frozen=True)
class _Column:
    """An axis of parallel coordinates: the height of each line, from 0 to 1, and the labels."""

    title: str
    heights: NDArray[np.float64]
    labels: tuple[tuple[float, str], ...]


def _option(name: str, results: Sequence[Result]) -> _Column:
    values = [result.config.get(name) for result in results]
    title = name.replace(".", "\n", 1)
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > FEW_VALUES:
        return _scaled(title, np.array(numbers), "{:.4g}".format)
    by_text = {repr(value): value for value in values}
    ranks = {text: (0, float(v), "") if isinstance(v, int | float) else (1, 0.0, text) for text, v in by_text.items()}
    steps = sorted(ranks, key=ranks.__getitem__)
    place = {text: (n + 0.5) / len(steps) for n, text in enumerate(steps)}
    kept = steps[:: -(-len(steps) // MAX_LABELS)]
    words = {text: format_value(by_text[text], "none") for text in kept}
    labels = tuple((place[text], word if len(word) < 15 else f"{word[:13]}…") for text, word in words.items())
    return _Column(title, np.array([place[repr(value)] for value in values]), labels)


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

    colours = LinearSegmentedColormap.from_list("errors", [figures.PALETTE[0], figures.OTHER, figures.BAD])
    for chosen, width, alpha, zorder in ((~member, 1.0, 0.45, 2), (member, 2.6, 1.0, 3)):
        lines = [np.column_stack([np.arange(len(line)), line]) for line in heights[chosen]]
        shades = colours(shade[chosen])
        axes.add_collection(LineCollection(lines, colors=shades, linewidths=width, alpha=alpha, zorder=zorder))

"""The section of a sweep report about its options: Pareto front, parallel coordinates, importance of each option."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whisperlab.experiments.significance import Importance, importances, pareto_front, separation
from whisperlab.report import charts
from whisperlab.report import figure as draw
from whisperlab.report.counts import WRONG_FRAMES, WRONG_TEXT, Result, measured_alike
from whisperlab.report.page import page_text, page_texts, percent
from whisperlab.report.tables import Column, Table, mebibytes, table
from whisperlab.util.html import format_value

MAX_LINES = 300  # configurations in a picture
MAX_OPTIONS = 8  # axes of options in a picture
MAX_WORDS = 12  # members of the front in the alternative text
FEW_VALUES = 6  # up to so many different numbers are spaced evenly, as names are
FEWEST = 3  # configurations; with fewer the table says as much

Results: TypeAlias = Sequence[Result]

_UNITS = {"": 1.0, "s": 1.0, "%": 0.01, "MiB": 2.0**20}


@dataclass(slots=True, frozen=True)
class Objective:
    """A minimised quantity. On one recording it is the first of ``columns`` divided by the second, if there is one."""

    name: str
    unit: str
    value: Callable[[Result], float | None]
    show: Callable[[float], str]
    columns: tuple[str, ...] = ()

    @property
    def axis(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def of(self, results: Results) -> NDArray[np.float64]:
        return np.array([self.value(result) for result in results], dtype=float)


Objectives: TypeAlias = Sequence[Objective]
Measured: TypeAlias = Sequence[tuple[Objective, Sequence[Importance]]]

MIXED = Objective("words wrong", "%", lambda r: r.mixed_error, percent, ("errors", "words"))
TEXT = Objective(WRONG_TEXT, "%", lambda r: r.language_error, percent, ("wrong_s", "speech_s"))
FRAMES = replace(TEXT, name=WRONG_FRAMES)
RESPONSE = Objective("response p95", "s", lambda r: r.sums["response_p95_s"], "{:.3g} s".format, ("response_p95_s",))
FACTOR = "real-time factor (wall)"
COMPUTING = Objective(FACTOR, "", lambda r: r.real_time_factor, "{:.3g}".format, ("compute_s", "duration_s"))
MEMORY = Objective("peak memory", "MiB", lambda r: r.sums["peak_rss_bytes"], mebibytes)


@dataclass(slots=True, frozen=True)
class SearchSection:
    """The front, importances and parallel coordinates; ``about`` alone says that differences are no more than noise."""

    about: tuple[str, ...]
    front: Table | None = None
    picture: draw.Figure | None = None
    importance: draw.Figure | None = None
    parallel: draw.Figure | None = None


def search_section(results: Results) -> SearchSection | None:
    """The section; None below two varied options or `FEWEST` configurations. No front within noise (`separation`)."""
    objectives, runs = _objectives(results)
    names = dict.fromkeys(name for result in runs for name in result.config)
    options = [name for name in names if len({repr(result.config.get(name)) for result in runs}) > 1]
    if len(runs) < FEWEST or len(options) < 2 or len(objectives) < 2:
        return None
    left_out = _left_out(results, runs)
    if noise := dict.fromkeys(told for one in objectives[:2] if (told := _noise(one, runs))):
        return SearchSection((f"No best configuration is named: {'; '.join(noise)}.", *left_out))
    runs = sorted(runs, key=lambda result: [objective.value(result) for objective in objectives])
    on_front = pareto_front(np.transpose([objective.of(runs) for objective in objectives]).tolist())
    members = [result for result, member in zip(runs, on_front, strict=True) if member]
    values = {name: [result.config.get(name) for result in runs] for name in options}
    measured = [(objective, importances(values, objective.of(runs).tolist())) for objective in objectives]
    axes = [one.option for one in measured[0][1][:MAX_OPTIONS]]
    chosen = sorted(sorted(range(len(runs)), key=lambda n: not on_front[n])[:MAX_LINES])  # the front, the best others
    shown, marks = [runs[n] for n in chosen], [on_front[n] for n in chosen]
    words = page_text("front_words", n=len(runs), members=members, most=MAX_WORDS, objectives=objectives)
    front = page_text("search_front", members=len(members), all=len(runs), objectives=objectives)
    places = {name: _option(name, shown) for name in axes} | {o.name: _scaled(o.of(shown), o.show) for o in objectives}
    alt = f"Parallel coordinates over {', '.join(axes)}. {words}"
    sizes = {"shown": len(shown), "all": len(runs), "axes": len(axes), "options": len(options)}
    picture = _picture(shown, marks, objectives, words, len(runs))
    lines = charts.parallel(shown, places, marks, alt, page_text("parallel", **sizes))
    members_table = _front_table(members, objectives)
    return SearchSection((front, *left_out), members_table, picture, _importance(measured, axes), lines)


def _objectives(results: Results) -> tuple[list[Objective], list[Result]]:
    """The objectives that all comparable results have, errors first, and those results."""
    runs = measured_alike(results)
    scored = any(result.mixed_error is not None for result in runs)
    error = MIXED if scored else FRAMES if runs and runs[0].language_measure == WRONG_FRAMES else TEXT
    runs = [result for result in runs if error.value(result) is not None]
    cost = RESPONSE if all(RESPONSE.value(result) is not None for result in runs) else COMPUTING
    return [o for o in (error, cost, MEMORY) if all(o.value(result) is not None for result in runs)], runs


def _left_out(results: Results, runs: Results) -> tuple[str, ...]:
    compared, kind = {result.config_id for result in runs}, runs[0].language_measure
    left_out = [result for result in results if result.config_id not in compared]
    return page_texts("search_compared", n=len(runs), all=len(results), left_out=left_out, kind=kind)


def _noise(objective: Objective, runs: Results) -> str:
    """Why the objective cannot rank the configurations; empty if they differ by more than noise."""
    # Over the recordings that all have, among the results that have their recordings at hand.
    known = [result.units for result in runs if result.units]
    shared = sorted(set.intersection(*(set(units["recording"]) for units in known))) if known else []

    def values(name: str) -> NDArray[np.float64]:
        found = (dict(zip(units["recording"], units[name], strict=True)) for units in known)
        return np.array([[by_recording[recording] for recording in shared] for by_recording in found], dtype=float)

    part, *whole = objective.columns
    parts = values(part)
    wholes = values(whole[0]) if whole else np.ones_like(parts)
    usable = np.isfinite(parts + wholes).all(axis=0) if shared else np.zeros(0, bool)
    found = separation(parts[:, usable], wholes[:, usable])
    if found.shown:
        return ""
    return page_text("search_noise", objective=objective, all=len(runs), found=found)


def _front_table(members: Results, objectives: Objectives) -> Table:
    places = {result.config_id: place for place, result in enumerate(members, 1)}
    columns: list[Column[Result]] = [
        Column("Configuration", "The varied options", lambda r: r.name),
        Column("No.", "Its number in the picture", lambda r: places[r.config_id], "{:.0f}".format),
        *(Column(one.name.capitalize(), one.axis, one.value, one.show) for one in objectives),
    ]
    return table("front", "The Pareto front: no other configuration beats these", columns, members)


def _picture(shown: Results, marks: Sequence[bool], objectives: Objectives, words: str, n: int) -> draw.Figure:
    named = dict(zip(("y", "x", "size"), objectives, strict=False))
    rows = []
    for result, on_front in zip(shown, marks, strict=True):
        places = {name: one.of([result])[0] / _UNITS[one.unit] for name, one in named.items()}
        rows.append({**charts.identity(result), "front": on_front, **places})
    x, y = f"{named['x'].axis} (to the left: better)", f"{named['y'].axis} (down: better)"
    caption = page_text("front", shown=len(shown), all=n, size=named.get("size"), waits=named["x"] is RESPONSE)
    return charts.points("front-picture", rows, x, y, words, caption, sized="size" in named)


def _importance(measured: Measured, options: Sequence[str]) -> draw.Figure:
    found = [(objective, [one for one in every if one.option in options]) for objective, every in measured]
    caption = page_text("importance", any_shown=any(one.shown for _, every in found for one in every))
    alt = page_text("importance_words", measured=found)
    return draw.Figure("importance", alt, importance_figure(found), caption)


@draw.styled
def importance_figure(found: Measured) -> draw.Drawing:
    """A panel per objective and a bar per option: filled beyond the mark of chance, hatched below it."""
    names = [one.option for one in found[0][1]]
    figure = draw.new_figure(draw.NARROW, 1.15 + 0.34 * len(names))
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (objective, measured) in zip(panels, found, strict=True):
        for one in measured:
            place = names.index(one.option)
            colour, hatch = (draw.PALETTE[0], "") if one.shown else ("none", "///")
            axes.barh(place, 100 * one.share, 0.6, color=colour, hatch=hatch, edgecolor=draw.INK, linewidth=0.6)
            axes.plot([100 * one.chance] * 2, [place - 0.42, place + 0.42], color=draw.BAD, linewidth=2)
        axes.set_xlim(0, 103)
        axes.set_title(objective.name, fontsize=10)
        draw.label(axes, "explained, %", grid="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _option(name: str, results: Results) -> charts.Heights:
    """Height from 0 to 1 and text of an option in each configuration; few numbers are spaced evenly, as names are."""
    values = [result.config.get(name) for result in results]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > FEW_VALUES:
        return _scaled(np.array(numbers), "{:.4g}".format)
    by_text = {repr(value): value for value in values}
    ranks = {text: (0, float(v), "") if isinstance(v, int | float) else (1, 0.0, text) for text, v in by_text.items()}
    steps = sorted(ranks, key=ranks.__getitem__)
    place = {text: (n + 0.5) / len(steps) for n, text in enumerate(steps)}
    return [(place[repr(value)], format_value(value, "none")[:20]) for value in values]


def _scaled(values: NDArray[np.float64], show: Callable[[float], str]) -> charts.Heights:
    low, high = float(values.min()), float(values.max())
    return [(0.5 if low == high else (value - low) / (high - low), show(value)) for value in values.tolist()]

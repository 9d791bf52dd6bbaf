"""The section of a sweep report about its options: the Pareto front and the importance of each option."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whisperlab.experiments.pareto import Importance, importances, pareto_front
from whisperlab.report import search_figures
from whisperlab.report.counts import Result, measured_alike, percent
from whisperlab.report.figures import Drawing, to_svg
from whisperlab.report.search_figures import Objective
from whisperlab.report.tables import Column, Table, mebibytes, table

MAX_LINES = 300  # configurations in a picture
MAX_OPTIONS = 8  # axes of options in a picture
MAX_WORDS = 12  # members of the front in the alternative text
FEWEST = 3  # configurations; with fewer the table says as much

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
    options = _varied(runs)
    if len(runs) < FEWEST or len(options) < 2 or len(objectives) < 2:
        return None
    runs = sorted(runs, key=lambda result: [objective.of([result])[0] for objective in objectives])
    on_front = pareto_front(list(zip(*(objective.of(runs) for objective in objectives), strict=True)))
    members = [result for result, member in zip(runs, on_front, strict=True) if member]
    measured = [(objective, _importances(runs, options, objective)) for objective in objectives]
    chosen = _some(on_front)
    shown, marks = [runs[n] for n in chosen], [on_front[n] for n in chosen]
    axes = [one.option for one in measured[0][1][:MAX_OPTIONS]]
    words = _words(runs, members, objectives)
    return SearchSection(
        about=tuple(_about(runs, members, objectives, list(splits))),
        front=_front_table(members, objectives),
        picture=Drawing(
            (to_svg(search_figures.front_figure(shown, marks, objectives), "front-picture", words),),
            _picture_words(objectives, len(shown), len(runs)),
        ),
        importance=_importance_drawing(measured),
        parallel=Drawing(
            (
                to_svg(
                    search_figures.parallel_figure(shown, marks, axes, objectives),
                    "parallel",
                    f"Parallel coordinates over {', '.join(axes)}. {words}",
                ),
            ),
            _parallel_words(objectives, len(shown), len(runs), len(axes), len(options)),
        ),
    )


def _objectives(results: Sequence[Result]) -> tuple[list[Objective], list[Result]]:
    """The objectives that all comparable results have, errors first, and those results."""
    runs = measured_alike(results)
    error = MIXED if any(result.mixed_error is not None for result in runs) else LANGUAGE
    runs = [result for result in runs if error.value(result) is not None]
    cost = RESPONSE if all(result.response_p95 is not None for result in runs) else COMPUTING
    return [o for o in (error, cost, MEMORY) if all(o.value(result) is not None for result in runs)], runs


def _varied(results: Sequence[Result]) -> list[str]:
    names = dict.fromkeys(name for result in results for name in result.config)
    return [name for name in names if len({repr(result.config.get(name)) for result in results}) > 1]


def _importances(results: Sequence[Result], options: Sequence[str], objective: Objective) -> list[Importance]:
    values = {name: [result.config.get(name) for result in results] for name in options}
    return importances(values, objective.of(results))


def _some(on_front: Sequence[bool]) -> list[int]:
    """At most `MAX_LINES` indices in order: the front and an even choice of the others."""
    members = [n for n, member in enumerate(on_front) if member][:MAX_LINES]
    others = [n for n, member in enumerate(on_front) if not member]
    room = min(MAX_LINES - len(members), len(others))
    return sorted(members + [others[place * len(others) // room] for place in range(room)])


def _front_table(members: Sequence[Result], objectives: Sequence[Objective]) -> Table:
    columns: list[Column[tuple[int, Result]]] = [
        Column("Configuration", "The varied options", lambda line: line[1].name),
        Column("No.", "Its number in the picture", lambda line: line[0], "{:.0f}".format),
        *(_column(objective) for objective in objectives),
    ]
    lines = list(enumerate(members, 1))
    return table("front", "The Pareto front: no other configuration beats these", columns, lines)


def _column(objective: Objective) -> Column[tuple[int, Result]]:
    return Column(objective.name.capitalize(), objective.axis, lambda line: objective.value(line[1]), objective.show)


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


def _picture_words(objectives: Sequence[Objective], shown: int, of: int) -> str:
    _, cost, *more = objectives
    size = f" The larger a point, the more {more[0].name}." if more else ""
    wait = (
        " Response is the time that a chunk of a live stream waits and is processed; p95 of the worst recording."
        if cost is RESPONSE
        else ""
    )
    return (
        f"{_chosen(shown, of)} Outlined green points are the front, numbered as in the table. For each grey "
        f"point another configuration is nowhere worse and somewhere better.{size}{wait}"
    )


def _parallel_words(objectives: Sequence[Objective], shown: int, of: int, axes: int, options: int) -> str:
    left_out = f" Of {options} options, the {axes} that explain most of the errors." if axes < options else ""
    return (
        f"{_chosen(shown, of)} Each line is a configuration and crosses each axis at its value. Thick lines are the "
        f"Pareto front. The colour is the {objectives[0].name}, blue the least, orange the most.{left_out}"
    )


def _chosen(shown: int, of: int) -> str:
    if shown == of:
        return f"All {of} configurations."
    return f"{shown} of {of} configurations: the front, and an even choice of the others."


def _importance_drawing(measured: Sequence[tuple[Objective, Sequence[Importance]]]) -> Drawing:
    kept = {one.option for one in measured[0][1][:MAX_OPTIONS]}
    found = [(objective, [one for one in every if one.option in kept]) for objective, every in measured]
    alt = "; ".join(
        f"{objective.name}: "
        + ", ".join(f"{one.option} {percent(one.share)} (chance {percent(one.chance)})" for one in every)
        for objective, every in found
    )
    nothing = "" if any(one.shown for _, every in found for one in every) else " Here no bar passes."
    return Drawing(
        (to_svg(search_figures.importance_figure(found), "importance", f"Importance of options. {alt}"),),
        "The share of the differences between configurations that each option explains by itself (correlation ratio). "
        "The mark is the share that shuffled results stay below in 95 of 100 cases: only a filled bar, beyond it, "
        f"shows an effect, and one of twenty useless options passes by chance.{nothing} Options that change together, "
        "as in an adaptive search, share the credit.",
    )

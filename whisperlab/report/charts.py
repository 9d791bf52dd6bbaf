"""The configurations of a sweep as figures: outcomes of look-ups, latencies, heat map, points, parallel coordinates."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from whisperlab.report import figure as draw
from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Operation, Result
from whisperlab.report.figure import Figure, template
from whisperlab.report.page import percent
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import LEAST_UNITS

Heights: TypeAlias = Sequence[tuple[float, str]]  # from 0 to 1, and the value as text


@draw.styled
def outcomes_figure(results: Sequence[Result]) -> draw.Drawing:
    """The outcomes of every 100 look-ups: encoder runs, right hits, unchecked hits, wrong hits."""
    figure, axes = draw.new_plot(draw.NARROW, 1.2 + 0.5 * len(results), "of every 100 look-ups")
    caches = [result.cache for result in results]
    parts = np.array([(c.misses, c.checked - c.false_hits, c.hits - c.checked, c.false_hits) for c in caches])
    shares = 100 * parts / [[max(c.lookups, 1)] for c in caches]
    outcomes = template("cache")["outcomes"]
    for look, share, start in zip(outcomes, shares.T, (shares.cumsum(1) - shares).T, strict=True):
        rows = range(len(results))
        bars = axes.barh(rows, share, 0.6, start, edgecolor=draw.INK, linewidth=0.4, **look)
        numbers = [f"{one:.0f}" if one >= 4 else "" for one in share]  # a narrower bar has no space for its number
        axes.bar_label(bars, numbers, label_type="center", color="#000000")
    for place, result in enumerate(results):
        axes.text(0, place - 0.32, result.name, ha="left", va="bottom")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(results) - 0.5, -0.75)
    axes.set_xlim(0, 100)
    figure.legend(ncols=2, loc="outside upper center", frameon=False, fontsize=9)
    return figure


@draw.styled
def latency_figure(operations: Sequence[Operation]) -> draw.Drawing:
    """Median, 95th and 99th percentile of each operation on a logarithmic axis."""
    names = [operation.name for operation in operations]
    x = "milliseconds (factor 10 between grid lines)"
    figure, axes = draw.new_plot(draw.NARROW, 1.05 + 0.3 * len(names), x, grid="x")
    places = range(len(names))
    axes.hlines(places, [o.p50 for o in operations], [o.p99 for o in operations], color=draw.MUTED, linewidth=2)
    for name, marker, colour in (("p50", "o", draw.PALETTE[0]), ("p95", "D", draw.PALETTE[1]), ("p99", "s", draw.BAD)):
        values = [getattr(operation, name) for operation in operations]
        axes.plot(values, places, marker, color=colour, markeredgecolor=draw.INK, markersize=7, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    figure.legend(frameon=False, ncols=3, loc="outside upper right")
    return figure


def heatmap(results: Sequence[Result], rate: str, name: str, alt: str, caption: str = "") -> Figure:
    """``hit_rate`` or ``false_hit_rate`` by hash precision (columns) and cache size (rows), from sums of counts."""
    title, scheme = template("cache")[rate].values()
    keys = {str(result.config.get(KEY, "")) for result in results} - {""}
    title = f"{', '.join(sorted(keys))}: {title}" if keys else title
    cells: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        place = (result.config.get(name) for name in (SIZE, PRECISION))
        cells.setdefault(tuple("any" if value is None else value for value in place), []).append(result)
    values = [{**_cell(own, rate), "size": size, "precision": digits} for (size, digits), own in cells.items()]
    height = 40 + 42 * len({size for size, _ in cells})
    view = template("heatmap", title=title, height=height, scheme=scheme, cells=values)
    return Figure(name, alt, view, caption)


def _cell(own: Sequence[Result], rate: str) -> Json:
    pooled = sum((result.cache for result in own), CacheCounts())
    of_hits = rate == "false_hit_rate"
    share = pooled.false_hit_rate if of_hits else pooled.hit_rate
    enough = max(result.n_recordings for result in own) >= LEAST_UNITS
    interval = pooled.false_hit_interval if of_hits and enough else None
    blank = "not run" if not pooled.lookups else "unchecked" if pooled.hits else "no hit"
    return {
        "share": share,
        "text": blank if share is None else percent(share),
        "n": f"{pooled.checked:,} checked hits" if of_hits else f"{pooled.lookups:,} look-ups",
        "95 % interval": f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–",
    }


def tradeoff(results: Sequence[Result], alt: str, caption: str = "") -> Figure:
    """Encoder time saved (x) against wrong language (y), a point per configuration."""
    measured = [(identity(result), result.cache.saved_share, result.language_error) for result in results]
    known = [(result, saved, error) for result, saved, error in measured if saved is not None and error is not None]
    rows = [{**result, "x": round(100 * saved, 2), "y": round(100 * error, 2)} for result, saved, error in known]
    x, y = "encoder time saved, % (right is cheaper)", "wrong language, % of speech (up is worse)"
    return points("tradeoff", rows, x, y, alt, caption)


def points(
    name: str,
    rows: Sequence[Json],
    x: str,
    y: str,
    alt: str,
    caption: str,
    *,
    sized: bool = False,
    title: str = "cache key",  # of the colours
    logarithmic: bool = False,  # both axes
) -> Figure:
    """A point per configuration at ``x`` and ``y`` of its row, outlined with ``front``, ``sized`` by ``size``."""
    scale = {"type": "log"} if logarithmic else {"zero": False, "padding": 20}
    view = template("points", rows=rows, x=x, y=y, title=title, scale=scale)
    if not sized:
        view["mark"]["size"] = 130
        del view["encoding"]["size"], view["encoding"]["tooltip"][-1]
    return Figure(name, alt, view, caption)


def parallel(
    results: Sequence[Result], columns: Mapping[str, Heights], front: Sequence[bool], alt: str, caption: str
) -> Figure:
    """A line per configuration, thick on the front. ``columns`` are, by title, the height and value of each."""
    rows = [
        {**identity(result), "front": on_front, "axis": title, "height": round(place[n][0], 4), "value": place[n][1]}
        for n, (result, on_front) in enumerate(zip(results, front, strict=True))
        for title, place in columns.items()
    ]
    marks = _sparse({(row["axis"], row["height"]): row["value"] for row in rows})
    labels = [{"axis": axis, "height": height, "value": value} for (axis, height), value in marks.items()]
    view = template("parallel", rows=rows, labels=labels, axes=list(columns))
    return Figure("parallel", alt, view, caption)


def _sparse(marks: Mapping[tuple[str, float], str]) -> dict[tuple[str, float], str]:
    """The labels of each axis that are far enough apart to be read."""
    kept: dict[tuple[str, float], str] = {}
    last: dict[str, float] = {}
    for (axis, height), value in sorted(marks.items()):
        if height - last.get(axis, -1.0) >= 0.08:
            kept[axis, height], last[axis] = value, height
    return kept


def identity(result: Result) -> Json:
    """What a row of `points` and `parallel` needs of a configuration; ``front`` is set by those that know it."""
    key = str(result.config.get(KEY, "–"))
    return {"configuration": result.name, "config_id": result.config_id, "key": key, "front": False}

"""The configurations of a sweep as interactive figures: heat map, points, parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Result, percent
from whisperlab.report.figure import CHART_WIDTH, INK, MUTED, PALETTE, Figure, Spec
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import LEAST_UNITS

# Blue for a rate where more is better, orange where more is worse.
_RATES = {
    "hit_rate": ("hit rate: look-ups that the cache answered", "blues"),
    "false_hit_rate": ("false-hit rate: checked hits with a wrong answer", "oranges"),
}


def heatmap(results: Sequence[Result], rate: str, name: str, alt: str, caption: str = "") -> Figure:
    """``hit_rate`` or ``false_hit_rate`` by hash precision (columns) and cache size (rows). Show both side by side.

    The counts of all results that share a precision and a size are added before dividing. A pointer over a cell shows
    its n and its 95 % interval.
    """
    title, scheme = _RATES[rate]
    places = dict.fromkeys((result.config.get(SIZE), result.config.get(PRECISION)) for result in results)
    cells = [_cell(results, rate, size, precision) for size, precision in places]
    axes: Spec = {
        "x": {"field": "precision", "type": "ordinal", "title": "hash precision (decimals)", "sort": "descending"},
        "y": {"field": "size", "type": "ordinal", "title": "cache size (entries)"},
    }
    colour = {"field": "share", "type": "quantitative", "scale": {"scheme": scheme, "domain": [0, 1]}, "legend": None}
    told = [{"field": field} for field in ("size", "precision", "text", "n", "95 % interval")]
    dark = {"condition": {"test": "datum.share > 0.6", "value": "#ffffff"}, "value": "#000000"}
    view: Spec = {
        "title": title,
        "width": CHART_WIDTH // 2,
        "height": 40 + 42 * len({size for size, _ in places}),
        "data": {"values": cells},
        "layer": [
            {"mark": {"type": "rect", "stroke": MUTED}, "encoding": {**axes, "color": colour, "tooltip": told}},
            {
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {**axes, "text": {"field": "text"}, "color": dark, "tooltip": told},
            },
        ],
    }
    return Figure(name, alt, view, caption)


def _cell(results: Sequence[Result], rate: str, size: object, precision: object) -> Json:
    own = [r for r in results if (r.config.get(SIZE), r.config.get(PRECISION)) == (size, precision)]
    pooled = sum((result.cache for result in own), CacheCounts())
    share = pooled.hit_rate if rate == "hit_rate" else pooled.false_hit_rate
    of_hits = rate == "false_hit_rate"
    enough = max((result.n_recordings for result in own), default=0) >= LEAST_UNITS
    interval = pooled.false_hit_interval if of_hits and enough else None
    blank = "not run" if not pooled.lookups else "unchecked" if pooled.hits else "no hit"
    return {
        "size": "any" if size is None else size,
        "precision": "any" if precision is None else precision,
        "share": share,
        "text": blank if share is None else percent(share),
        "n": f"{pooled.checked:,} checked hits" if of_hits else f"{pooled.lookups:,} look-ups",
        "95 % interval": f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–",
    }


def tradeoff(results: Sequence[Result], alt: str, caption: str = "") -> Figure:
    """Encoder time saved (x) against wrong language (y), a point per configuration."""
    rows = [
        {
            **_identity(result),
            "saved": round(100 * result.cache.saved_share, 2),
            "error": round(100 * result.language_error, 2),
        }
        for result in results
        if result.cache.saved_share is not None and result.language_error is not None
    ]
    x, y = ("saved", "encoder time saved, % (right is cheaper)"), ("error", "wrong language, % of speech (up is worse)")
    return points("tradeoff", rows, x, y, alt, caption)


def points(
    name: str, rows: Sequence[Json], x: tuple[str, str], y: tuple[str, str], alt: str, caption: str, size: str = ""
) -> Figure:
    """A point per configuration; ``x`` and ``y`` are (field, title), ``size`` the field of the area of a point.

    A pointer names a point; a click selects it here and in the tables. Points with ``front`` are outlined.
    """
    told = [{"field": "configuration"}, *({"field": field, "title": title} for field, title in (x, y))]
    encoding: Spec = {
        "x": {"field": x[0], "type": "quantitative", "title": x[1], "scale": {"zero": False, "padding": 20}},
        "y": {"field": y[0], "type": "quantitative", "title": y[1], "scale": {"zero": False, "padding": 20}},
        "color": {"field": "key", "type": "nominal", "title": "cache key", "scale": {"range": list(PALETTE)}},
        "shape": {"field": "key", "type": "nominal", "title": "cache key"},
        "strokeWidth": {"condition": {"test": "datum.front", "value": 2.5}, "value": 0.5},
        "tooltip": [*told, {"field": size}] if size else told,
        "opacity": {"condition": {"param": "chosen", "value": 0.95}, "value": 0.3},
    }
    if size:
        encoding["size"] = {"field": size, "type": "quantitative", "scale": {"range": [50, 320]}, "legend": None}
    mark: Spec = {
        "type": "point",
        "filled": True,
        "stroke": INK,
        "cursor": "pointer",
        **({} if size else {"size": 130}),
    }
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["config_id"]}}
    view: Spec = {
        "params": [chosen],
        "width": CHART_WIDTH,
        "height": 300,
        "data": {"values": list(rows)},
        "mark": mark,
        "encoding": encoding,
    }
    return Figure(name, alt, view, caption)


_TOP = {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False, "title": None, "grid": True}


def parallel(
    name: str,
    results: Sequence[Result],
    columns: Mapping[str, Sequence[tuple[float, str]]],
    front: Sequence[bool],
    alt: str,
    caption: str,
) -> Figure:
    """Parallel coordinates: a line per configuration, thick on the front. A brush over any axis selects lines.

    ``columns`` are, by title, the height of each configuration from 0 to 1, and its value as text.
    """
    rows = [
        {**_identity(result), "front": on_front, "axis": title, "height": round(place[n][0], 4), "value": place[n][1]}
        for n, (result, on_front) in enumerate(zip(results, front, strict=True))
        for title, place in columns.items()
    ]
    marks = _sparse({(row["axis"], row["height"]): row["value"] for row in rows})
    labels = [{"axis": axis, "height": height, "value": value} for (axis, height), value in marks.items()]
    x: Spec = {"field": "axis", "type": "nominal", "sort": list(columns), "axis": _TOP, "scale": {"type": "point"}}
    y: Spec = {"field": "height", "type": "quantitative", "axis": None, "scale": {"domain": [-0.05, 1.05]}}
    picked = "!length(picked) || indexof(picked, datum.config_id) >= 0"
    colour = {"field": "key", "type": "nominal", "title": "cache key", "scale": {"range": list(PALETTE)}}
    view: Spec = {
        "params": [{"name": "picked", "value": []}],
        "width": CHART_WIDTH,
        "height": 320,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "config_id"},
                    "color": colour,
                    "strokeWidth": {"condition": {"test": "datum.front", "value": 3}, "value": 1.2},
                    "opacity": {"condition": {"test": picked, "value": 0.9}, "value": 0.08},
                },
            },
            {
                "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 40},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "tooltip": [{"field": "configuration"}, {"field": "axis"}, {"field": "value"}],
                    "opacity": {"condition": {"test": picked, "value": 0.9}, "value": 0.1},
                },
            },
            {
                "data": {"values": labels},
                "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11, "color": "currentColor"},
                "encoding": {"x": x, "y": y, "text": {"field": "value"}},
            },
        ],
    }
    return Figure(name, alt, view, caption)


def _sparse(marks: Mapping[tuple[str, float], str]) -> dict[tuple[str, float], str]:
    """The labels of each axis that are far enough apart to be read."""
    kept: dict[tuple[str, float], str] = {}
    last: dict[str, float] = {}
    for (axis, height), value in sorted(marks.items()):
        if height - last.get(axis, -1.0) >= 0.08:
            kept[axis, height], last[axis] = value, height
    return kept


def _identity(result: Result) -> Json:
    key = str(result.config.get(KEY, "–"))
    return {"configuration": result.name, "config_id": result.config_id, "key": key, "front": False}

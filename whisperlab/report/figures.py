"""Figures of the reports: matplotlib figures, and their SVG for a page.

The colours are Okabe and Ito's, which people with any colour vision can distinguish. Colour is never the only sign:
bars show their language, cells their number. A figure works alone (``timeline_figure(trace)`` in a notebook).
``to_svg`` makes markup that follows the page's light or dark theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np

from whisperlab.evaluation.scoring.language import Label, frame_labels, segment_labels, true_switches
from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Operation, Result, percent
from whisperlab.util.errors import MissingDependencyError
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from whisperlab.evaluation.trace import Trace

P = ParamSpec("P")
Grid = Literal["x", "y", "both", None]
Margins = tuple[float, float, float, float]  # top, bottom, left, right

# Black text is readable on all of them; Okabe and Ito's own black is used for text.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#7F8FD9")
OTHER = "#9AA0A6"  # all languages beyond the palette
INK = "#1d2126"  # becomes the page's text colour
PAPER = "#fdfdfe"  # becomes the page's background
MUTED = "#7d858e"  # grid and axes: readable on light and dark

GOOD, BAD, UNSURE, WORK = "#009E73", "#D55E00", "#F0E442", "#9AA0A6"

# Start and end of a timeline's time axis, as shares of the figure's width. The page moves its playhead between them.
TIMELINE_LEFT, TIMELINE_RIGHT = 0.085, 0.985

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), MUTED),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "grid.alpha": 0.3,
    "hatch.linewidth": 0.5,
}

NARROW = 7.2  # inches; on a phone still readable
LETTER = 0.085  # inches per letter of a label

_RATE_TITLES = {
    "hit_rate": "hit rate: results from the cache",
    "false_hit_rate": "false-hit rate: hits with a wrong result",
}

_OUTCOMES = (
    (WORK, "", "computed by the encoder"),
    (GOOD, "", "cache hit, right language"),
    (UNSURE, "..", "cache hit, not checked"),
    (BAD, "//", "cache hit, WRONG language"),
)


@dataclass(slots=True, frozen=True)
class Drawing:
    """A figure of a page: ``parts`` are ``<svg>`` side by side, ``caption`` explains how to read them."""

    parts: tuple[str, ...]
    caption: str


def drawing(figure: Figure, name: str, alt: str, caption: str) -> Drawing:
    """One figure as a drawing; see `to_svg`."""
    return Drawing((to_svg(figure, name, alt),), caption)


def _style(salt: str | None = None) -> AbstractContextManager[None]:
    """Apply the style of all figures temporarily; with ``salt`` the identifiers in SVG depend on it alone."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        needed = "figures need matplotlib; install it with: pip install 'whisperlab[report]'"
        raise MissingDependencyError(needed) from error
    return rc_context({**_STYLE, "svg.hashsalt": salt})


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator: draw a figure in the style of the reports."""

    @wraps(draw)
    def in_style(*args: P.args, **options: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **options)

    return in_style


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def set_margins(figure: Figure, *, top: float, bottom: float, left: float, right: float) -> None:
    """Set the margins in inches, the unit of text sizes."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height)


def new_plots(width: float, height: float, margins: Margins, n: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with ``n`` plots side by side that share their y axis; size and margins in inches."""
    figure = new_figure(width, height)
    top, bottom, left, right = margins
    set_margins(figure, top=top, bottom=bottom, left=left, right=right)
    return figure, list(figure.subplots(1, n, sharey=True, squeeze=False)[0])


def new_plot(
    width: float, height: float, margins: Margins, x: str = "", y: str = "", grid: Grid = None
) -> tuple[Figure, Axes]:
    """A figure with one plot, the labels of its axes and its grid."""
    figure, (axes,) = new_plots(width, height, margins, 1)
    label(axes, x, y, grid)
    return figure, axes


def label(axes: Axes, x: str = "", y: str = "", grid: Grid = None) -> None:
    """Set the labels of the axes, and grid lines across ``grid``."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if grid:
        axes.grid(visible=True, axis=grid)


@styled
def timeline_figure(trace: Trace, width: float = 11.0, colours: Mapping[str, str] | None = None) -> Figure:
    """One recording over time: true languages, detected languages, speech, and the posterior below.

    Dashed lines are true switches. Triangles are the times of the decisions. Ticks along the top of the posterior are
    cache hits. Dropped audio is hatched. ``width`` is in inches. ``colours`` by language make several timelines agree.
    """
    known = language_colours([trace]) if colours is None else colours
    figure = new_figure(width, 3.7)
    bars, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    figure.subplots_adjust(left=TIMELINE_LEFT, right=TIMELINE_RIGHT, top=0.98, bottom=0.13, hspace=0.08)
    for place, labels in enumerate((true_languages(trace), detected_languages(trace))):
        draw_row(bars, place, labels, known)
    decided = [switch.decided_at for switch in trace.switches]
    bars.plot(decided, [1.58] * len(decided), "^", color=INK, markersize=5, clip_on=False)
    draw_speech(bars, trace, 1.86, 0.18)
    bars.set_yticks([0, 1, 1.95], ["true", "detected", "speech"])
    bars.set_ylim(2.1, -0.45)
    bars.tick_params(length=0, labelbottom=False)
    bars.spines[["left", "bottom"]].set_visible(False)
    draw_posterior(below, trace, known)
    draw_time(figure, trace, figure.axes)
    return figure


def language_colours(traces: Iterable[Trace]) -> dict[str, str]:
    """A colour per language of the traces: spoken languages first, then those of the text, then the frames' labels.

    Languages beyond the palette have no entry; they are drawn in ``OTHER``.
    """
    spoken, text, labels = set[str](), set[str](), set[str]()
    for trace in traces:
        spoken |= {label.language for label in true_languages(trace)}
        text |= {segment.language for segment in trace.segments}
        labels |= {frame.label for frame in trace.frames}
    names = dict.fromkeys([*sorted(spoken), *sorted(text), *sorted(labels)])
    return dict(zip(names, PALETTE, strict=False))


def true_languages(trace: Trace) -> list[Label]:
    """The languages of the reference; empty without one."""
    return [Label(s.start, s.end, s.lang) for s in trace.reference.segments] if trace.reference else []


def detected_languages(trace: Trace) -> list[Label]:
    """The languages of the text in time order, or of the smoothed frames if there is no text."""
    if trace.segments:
        return sorted(segment_labels(trace.segments), key=lambda label: (label.start, label.end))
    return language_runs(frame_labels(trace.frames))


def language_runs(labels: Iterable[Label]) -> list[Label]:
    """Merge consecutive labels of the same language without a gap between them."""
    runs: list[Label] = []
    for label in labels:
        if runs and (runs[-1].end, runs[-1].language) == (label.start, label.language):
            label = Label(runs.pop().start, label.end, label.language)
        runs.append(label)
    return runs


@styled
def heatmap_figure(results: Sequence[Result], rate: Literal["hit_rate", "false_hit_rate"]) -> Figure:
    """One of the cache's rates by hash precision (columns) and cache size (rows). Show both rates side by side.

    The counts of all results that share a precision and a size are added before dividing.
    """
    sizes, precisions = _values(results, SIZE), _values(results, PRECISION)[::-1]
    x, y = "hash precision (decimals)", "cache size"
    figure, axes = new_plot(4.7, 1.3 + 0.4 * len(sizes), (0.35, 0.55, 0.7, 0.05), x, y)
    cells = [[_pooled(results, size, precision) for precision in precisions] for size in sizes]
    shares = [[getattr(cell, rate) for cell in line] for line in cells]
    values = [[float("nan") if share is None else share for share in line] for line in shares]
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolor=MUTED, linewidth=0.5)
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            cell = cells[row][column]
            blank = "not run" if not cell.lookups else "unchecked" if cell.hits else "no hit"
            text = blank if share is None else percent(share)
            colour = INK if share is None else "#ffffff" if share < 0.55 else "#000000"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_title(_RATE_TITLES[rate], fontsize=10)
    axes.set_xticks(np.arange(len(precisions)) + 0.5, ["any" if p is None else str(p) for p in precisions])
    axes.set_yticks(np.arange(len(sizes)) + 0.5, ["any" if size is None else str(size) for size in sizes])
    axes.set_ylim(len(sizes), 0)
    axes.tick_params(length=0)
    return figure


@styled
def outcomes_figure(results: Sequence[Result]) -> Figure:
    """The outcomes of every 100 look-ups: encoder runs, right hits, unchecked hits, wrong hits."""
    figure, axes = new_plot(NARROW, 1.2 + 0.5 * len(results), (0.55, 0.5, 0.15, 0.2), "of every 100 look-ups")
    shares = np.array([_outcome(result.cache) for result in results])
    for (colour, hatch, words), share, start in zip(_OUTCOMES, shares.T, (shares.cumsum(1) - shares).T, strict=True):
        rows = range(len(results))
        bars = axes.barh(rows, share, 0.6, start, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.4, label=words)
        numbers = [f"{one:.0f}" if one >= 4 else "" for one in share]  # a narrower bar has no space for its number
        axes.bar_label(bars, numbers, label_type="center", color="#000000")
    for place, result in enumerate(results):
        axes.text(0, place - 0.32, result.name, ha="left", va="bottom")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(results) - 0.5, -0.75)
    axes.set_xlim(0, 100)
    figure.legend(ncols=2, loc="upper center", frameon=False, fontsize=9)
    return figure


@styled
def tradeoff_figure(results: Sequence[Result]) -> Figure:
    """Encoder time saved (x) against language error (y), a point per configuration."""
    x, y = "encoder time saved, % (right is cheaper)", "language error, % of speech time (up is worse)"
    figure, axes = new_plot(NARROW, 3.8, (0.1, 0.55, 0.65, 0.1), x, y, "both")
    points: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        of_key = points.setdefault(str(result.config.get(KEY, "one key")), [])
        if (saved := result.cache.saved_share) is not None and (error := result.language_error) is not None:
            of_key.append((100 * saved, 100 * error))
    for (key, of_key), colour, marker in zip(points.items(), PALETTE, "osD^vPX", strict=False):
        places = np.reshape(of_key, (-1, 2)).T
        axes.plot(*places, marker, color=colour, markeredgecolor=INK, markersize=9, alpha=0.9, label=key)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-3, 103)
    axes.legend(title="cache key", frameon=False)
    return figure


@styled
def latency_figure(operations: Sequence[Operation]) -> Figure:
    """Median, 95th and 99th percentile of each operation on a logarithmic axis."""
    names = [operation.name for operation in operations]
    margins = (0.35, 0.55, 0.2 + LETTER * max(map(len, names)), 0.3)
    x = "milliseconds (factor 10 between grid lines)"
    figure, axes = new_plot(NARROW, 1.05 + 0.3 * len(names), margins, x, grid="x")
    places = range(len(names))
    axes.hlines(places, [o.p50 for o in operations], [o.p99 for o in operations], color=MUTED, linewidth=2)
    for name, marker, colour in (("p50", "o", PALETTE[0]), ("p95", "D", PALETTE[1]), ("p99", "s", BAD)):
        values = [getattr(operation, name) for operation in operations]
        axes.plot(values, places, marker, color=colour, markeredgecolor=INK, markersize=7, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    figure.legend(frameon=False, ncols=3, loc="upper right")
    return figure


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as an inline ``<svg>`` without addresses; screen readers read ``alt``.

    ``name`` is the prefix of all identifiers and must be unique in the page. Text has the page's colour.
    """
    with _style(salt=name), io.StringIO() as file:
        figure.savefig(file, format="svg")
        drawn = file.getvalue()
    _, _, inside = drawn[drawn.index("<svg") :].partition(">")
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    coordinates = re.compile(r'\s(?:d|x|y|points|transform)="[^"]*"')
    # A hundredth of a point is invisible on any screen.
    inside = coordinates.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), inside)
    inside = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", inside).replace("xlink:href", "href")
    inside = inside.replace(INK, "currentColor").replace(PAPER, "var(--back, #ffffff)").strip()
    width, height = figure.get_size_inches()  # matplotlib draws SVG in points, 72 to the inch
    frame = f'viewBox="0 0 {72 * width:g} {72 * height:g}" style="--inches:{width:g}"'
    return f'<svg role="img" aria-label="{escape(alt)}" {frame}>{inside}'


def draw_speech(axes: Axes, trace: Trace, place: float, height: float) -> None:
    """Bars where speech was detected."""
    spans = [(seconds(span.start), seconds(span.end) - seconds(span.start)) for span in trace.speech]
    axes.broken_barh(spans, (place, height), color=MUTED, linewidth=0)


def draw_time(figure: Figure, trace: Trace, dashed: Sequence[Axes]) -> None:
    """The time axis; dashed lines at true switches; hatches where audio was dropped, dots where speech has no text."""
    figure.axes[-1].set_xlim(0, trace.duration)
    figure.axes[-1].set_xlabel("seconds of audio")
    for switch in true_switches(trace.reference) if trace.reference else ():
        for axes in dashed:
            axes.axvline(switch.end, color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
    for span, hatch in [(gap, "////") for gap in trace.gaps] + [(span, "..") for span in trace.untranscribed]:
        for axes in figure.axes:
            start, end = seconds(span.start), seconds(span.end)
            axes.axvspan(start, end, facecolor="none", edgecolor=MUTED, hatch=hatch, linewidth=0)


def draw_row(axes: Axes, place: float, labels: Iterable[Label], colours: Mapping[str, str]) -> None:
    """A bar per label with its language."""
    for label in labels:
        bar, colour = [(label.start, label.end - label.start)], colours.get(label.language, OTHER)
        axes.broken_barh(bar, (place - 0.38, 0.76), color=colour, edgecolor=INK, lw=0.5)
        middle = (label.start + label.end) / 2
        axes.text(middle, place, label.language, color="#000000", ha="center", va="center", clip_on=True)


def draw_posterior(axes: Axes, trace: Trace, colours: Mapping[str, str]) -> None:
    """The posterior of each frame; ticks above are cache hits, dots below the language since the last pause."""
    frames = trace.frames
    times = [seconds(frame.end) for frame in frames]
    layers = [[frame.posterior.get(name, 0.0) for frame in frames] for name in colours]
    if times:
        axes.stackplot(times, *layers, colors=list(colours.values()), linewidth=0)
    cached = [seconds(frame.end) for frame in frames if frame.cached]
    axes.plot(cached, [1.06] * len(cached), "|", color=INK, markersize=4, markeredgewidth=0.7, clip_on=False)
    onsets = [(seconds(frame.end), frame.onset.posterior) for frame in frames if frame.onset]
    likeliest = [colours.get(max(found, key=found.__getitem__), OTHER) for _, found in onsets]
    axes.scatter([time for time, _ in onsets], [-0.09] * len(onsets), s=5, c=likeliest, linewidths=0)
    axes.set_ylim(-0.16 if onsets else 0, 1.1)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_ylabel("posterior")


def _outcome(cache: CacheCounts) -> tuple[float, float, float, float]:
    """Percentages of the look-ups in the order of ``_OUTCOMES``."""
    answered, wrong = 100 * (cache.hit_rate or 0.0), cache.false_hit_rate
    if wrong is None:
        return (100 - answered, 0.0, answered, 0.0)
    return (100 - answered, answered * (1 - wrong), 0.0, answered * wrong)


def _pooled(results: Sequence[Result], size: object, precision: object) -> CacheCounts:
    wanted = (size, precision)
    cell = [r.cache for r in results if (r.config.get(SIZE), r.config.get(PRECISION)) == wanted]
    return sum(cell, CacheCounts())


def _values(results: Sequence[Result], name: str) -> list[Any]:
    """The values of a field of the configurations, ascending; None for configurations without the field."""
    found = {result.config.get(name) for result in results}
    return sorted(found, key=lambda value: (value is not None, value))

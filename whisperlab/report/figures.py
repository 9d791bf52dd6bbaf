"""Static figures of the reports, drawn by matplotlib in one style; `whisperlab.report.figure.Figure` shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np

from whisperlab.report.counts import CacheCounts, Operation, Result
from whisperlab.report.figure import BAD, GOOD, INK, MUTED, PALETTE, UNSURE, WORK
from whisperlab.util.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


P = ParamSpec("P")
Grid = Literal["x", "y", "both", None]
Margins = tuple[float, float, float, float]  # top, bottom, left, right

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

_OUTCOMES = (
    (WORK, "", "computed by the encoder"),
    (GOOD, "", "cache hit, right language"),
    (UNSURE, "..", "cache hit, not checked"),
    (BAD, "//", "cache hit, WRONG language"),
)


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


def _outcome(cache: CacheCounts) -> tuple[float, float, float, float]:
    """Percentages of the look-ups in the order of ``_OUTCOMES``."""
    answered, wrong = 100 * (cache.hit_rate or 0.0), cache.false_hit_rate
    if wrong is None:
        return (100 - answered, 0.0, answered, 0.0)
    return (100 - answered, answered * (1 - wrong), 0.0, answered * wrong)

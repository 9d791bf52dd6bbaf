"""Figures of a soak over hours of audio: memory, latency, sizes of collections, and the sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.soak.findings import Growth, Log, by_minute
from whisperlab.report.figure import INK, MUTED, NARROW, OTHER, PALETTE, new_figure, styled
from whisperlab.util.json_values import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MB = 1e6
_CURVES = (("resident", 0, "-"), ("anonymous", 4, "-"), ("heap", 2, "-"), ("heap_free", 1, "--"))
_FAMILIES = {  # similar sounds share a colour; every kind has its own row
    "speech": 2,
    "fast switches": 2,
    "monologue": 2,
    "speech over music": 0,
    "music": 0,
    "clipping": 5,
    "DC steps": 5,
}
_IN_NOISE = 1


@styled
def memory_figure(log: Log, resident: Growth) -> Figure:
    """Megabytes per minute over hours of audio; the dotted line has the measured slope."""
    figure = new_figure(NARROW, 3.4)
    axes = figure.subplots()
    for name, colour, line in _CURVES:
        if name in log.samples[0]["memory"]:
            hours, sizes = by_minute(log.samples, lambda sample, name=name: sample["memory"][name] / _MB, min)  # type: ignore[misc]
            axes.plot(hours, sizes, line, color=PALETTE[colour], label=name.replace("_", " "))
    if resident.slope is not None:
        hours, sizes = by_minute(log.steady, lambda sample: sample["memory"]["resident"] / _MB, min)
        ends = np.array([hours[0], hours[-1]])
        axes.plot(ends, np.median(sizes) + resident.slope * (ends - np.median(hours)), ":", color=INK, linewidth=1.5)
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=2)
    _over_hours(axes, log)
    return figure


@styled
def chunk_figure(log: Log) -> Figure:
    """Percentiles of a chunk per minute, in milliseconds of CPU time; dots are the 95th percentile of wall time."""
    figure = new_figure(NARROW, 3.2)
    axes = figure.subplots()
    for place, (name, colour) in enumerate((("p50", 2), ("p95", 0), ("p99", 5))):
        axes.plot(
            *by_minute(log.samples, lambda sample, place=place: max(sample["chunk"]["cpu"][place], 1e-3)),  # type: ignore[misc]
            color=PALETTE[colour],
            label=name,
        )
    wall = by_minute(log.samples, lambda sample: max(sample["chunk"]["wall"][1], 1e-3))
    axes.plot(*wall, ".", color=MUTED, markersize=3, label="p95 of wall time")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("ms per 100 ms of audio")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    _over_hours(axes, log)
    return figure


@styled
def held_figure(log: Log) -> Figure:
    """The size of everything with a limit, in percent of the limit."""
    counted = [sample for sample in log.samples if "bounds" in sample]
    names = list(counted[-1]["bounds"]) if counted else []
    figure = new_figure(NARROW, 2.6)
    axes = figure.subplots()
    hours = [sample["at"] / 3600 for sample in counted]
    for number, name in enumerate(names):
        shares = [100 * sample["bounds"][name][0] / max(sample["bounds"][name][1], 1) for sample in counted]
        axes.plot(hours, shares, ("-", "--", "-.", ":")[number % 4], color=PALETTE[number], label=name)
    axes.set_ylim(0, 110)
    axes.set_ylabel("% of the limit")
    if names:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    _over_hours(axes, log)
    return figure


@styled
def schedule_figure(log: Log) -> Figure:
    """The sounds over time, a row per kind."""
    kinds = list(dict.fromkeys(piece["sound"] for piece in log.pieces))
    figure = new_figure(NARROW, 0.75 + 0.24 * len(kinds))
    axes = figure.subplots()
    for row, kind in enumerate(kinds):
        spans = [(p["at"] / 3600, p["duration_s"] / 3600) for p in log.pieces if p["sound"] == kind]
        axes.broken_barh(spans, (row - 0.4, 0.8), color=_colour(kind), linewidth=0)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    _over_hours(axes, log)
    return figure


def _colour(kind: str) -> str:
    if kind in _FAMILIES:
        return PALETTE[_FAMILIES[kind]]
    return PALETTE[_IN_NOISE] if "noise" in kind or "babble" in kind else OTHER


def _over_hours(axes: Axes, log: Log) -> None:
    """Set up the time axis; shade the warm-up and the two compared windows."""
    axes.set_xlabel("hours of audio")
    axes.set_xlim(0, max(log.fed_s, 1) / 3600)
    axes.grid(visible=True, axis="y")
    for start, end, colour in _shaded(log.samples, log.header["plan"]["warm_up_s"]):
        axes.axvspan(start / 3600, end / 3600, color=colour, alpha=0.15, linewidth=0, zorder=0)


def _shaded(samples: Sequence[Json], warm_up_s: float) -> list[tuple[float, float, str]]:
    found = [(0.0, warm_up_s, MUTED)]
    for part in ("first", "last"):
        ends = [sample["at"] for sample in samples if sample["part"] == part]
        found += [(ends[0], ends[-1], PALETTE[0])] if ends else []
    return found

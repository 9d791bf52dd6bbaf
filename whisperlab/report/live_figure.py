"""The figure of a running stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from whisperlab.report.figures import INK, MUTED, OTHER, PALETTE, new_figure, styled
from whisperlab.streaming.results import LanguageFrame, SessionSegment, Switch
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Latency = tuple[float, float, float]  # seconds of stream, milliseconds of computing, milliseconds of audio


@styled
def live_figure(
    segments: Iterable[SessionSegment],
    switches: Iterable[Switch],
    frames: Sequence[LanguageFrame],
    latency: Sequence[Latency],
    end_s: float,
    *,
    last_s: float,
) -> Figure:
    """The last seconds of a stream: final segments, probability of each language, computing time of each chunk.

    The dashed line in the last panel is the length of a chunk. Bars above it are slower than real time.
    """
    figure = new_figure(11.0, 3.6)
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(0.7, 1.2, 1))
    left = max(0.0, end_s - last_s)
    shown = [segment for segment in segments if segment.end_time >= left]
    languages = sorted({s.language for s in shown}.union(*(frame.posterior for frame in frames)))
    colours = dict(zip(languages, [*PALETTE, *[OTHER] * len(languages)], strict=False))
    for segment in shown:
        start, end = segment.start_time, segment.end_time
        above.barh(0, end - start, left=start, height=0.8, color=colours[segment.language])
        middle_s = (max(start, left) + end) / 2
        above.text(middle_s, 0, segment.language, ha="center", va="center", color=INK, clip_on=True)
    for switch in switches:
        if switch.decided_at >= left:
            above.plot(switch.decided_at, 0.62, "v", color=INK, markersize=5, clip_on=False)
    above.set_yticks([0], ["final text"])
    above.set_ylim(-0.5, 0.8)
    recent = [frame for frame in frames if seconds(frame.end) >= left]
    times = [seconds(frame.end) for frame in recent]
    for language in languages:
        values = [frame.posterior.get(language, 0.0) for frame in recent]
        if max(values, default=0.0) >= 0.05:
            middle.plot(times, values, color=colours[language], label=language, linewidth=2)
    middle.set_ylim(0, 1.02)
    middle.set_ylabel("probability")
    if middle.lines:
        middle.legend(frameon=False, ncols=8, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.97), borderpad=0)
    taken = [each for each in latency if each[0] >= left]
    below.vlines([each[0] for each in taken], 0, [each[1] for each in taken], color=PALETTE[0])
    below.plot([each[0] for each in taken], [each[2] for each in taken], "--", color=MUTED)
    below.set_ylim(bottom=0)
    below.set_ylabel("ms per chunk")
    below.set_xlabel("seconds of audio")
    below.set_xlim(left, max(end_s, left + 1))
    figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.14, hspace=0.28)
    return figure

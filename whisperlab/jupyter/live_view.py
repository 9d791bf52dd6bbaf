"""A live view of a running stream in a notebook: languages, posteriors, text and latency.

    view = LiveView(SessionRestartTranscriber(languages=["en", "es"]))
    for chunk in chunks:
        view.process(chunk)
    view.finalize()

Jupyter shows one picture that is updated twice a second. It is an SVG, not a widget, so that the last picture remains
in the saved notebook and in its page.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from whisperlab.report.figure import INK, MUTED, OTHER, PALETTE, label, new_figure, styled, to_svg
from whisperlab.report.recording import FIXED
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment, Switch
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whisperlab.evaluation.trace import StreamTranscriber
    from whisperlab.util.audio_arrays import FloatArray

LAST_S = 30.0  # seconds of the stream in the picture
MAX_FRAME_RATE = 100  # language-ID frames per second

Latency = tuple[float, float, float]  # seconds of stream, milliseconds of computing, milliseconds of audio


class LiveView:
    """Wraps a transcriber and shows its results while it runs.

    One thread calls `process` and `finalize`; other threads may call `html` at any time.

    Args:
        transcriber: any `StreamTranscriber`.
        every_s: wall-clock seconds between two pictures; drawing one takes about 50 ms.
        length_s: seconds of audio that will come, if that is known.
        sampling_rate: sampling rate of the chunks.
        show: receives the markup of each picture instead of the notebook.
        clock: wall clock in seconds.
    """

    def __init__(
        self,
        transcriber: StreamTranscriber,
        *,
        every_s: float = 0.5,
        length_s: float | None = None,
        sampling_rate: int = 16_000,
        show: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._inner, self._every_s, self._rate, self._clock = transcriber, every_s, sampling_rate, clock
        self._show = show or _in_notebook()
        self.config, self.get_statistics = transcriber.config, transcriber.get_statistics
        self.received_s, self._length_s = 0.0, length_s
        # Language, committed and tentative text of the running session.
        self._open: tuple[str | None, str, str] = (None, "", "")
        self._segments: deque[SessionSegment] = deque(maxlen=100)
        self._switches: deque[Switch] = deque(maxlen=100)
        self._frames: deque[LanguageFrame] = deque(maxlen=round(LAST_S * MAX_FRAME_RATE))
        self._latency: deque[Latency] = deque(maxlen=3000)
        self._drawn_at = -float("inf")
        self._lock = threading.Lock()

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """Process one chunk; draws a picture if the last one is older than ``every_s``."""
        began = self._clock()
        result = self._inner.process(chunk)
        self._take(result, len(chunk) / self._rate, (self._clock() - began) * 1000)
        if self._clock() - self._drawn_at >= self._every_s:
            self._draw()
        return result

    def finalize(self) -> ProcessResult:
        """End the stream and draw the last picture."""
        result = self._inner.finalize()
        self._take(result)
        self._draw()
        return result

    def html(self) -> str:
        """The picture as markup: the figure, then the text with its languages."""
        with self._lock:  # copies the state of one moment, because drawing is slow
            received_s, (language, committed, tentative) = self.received_s, self._open
            segments, switches = list(self._segments), list(self._switches)
            frames, latency = list(self._frames), list(self._latency)
        drawing = live_figure(segments, switches, frames, latency, received_s, last_s=LAST_S)
        of = f" of {self._length_s:.0f}" if self._length_s else ""
        words = f"{received_s:.1f}{of} s received, language {language or 'not yet detected'}"
        text = "".join(
            f'<span lang="{escape(segment.language)}" dir="auto"><b>{escape(segment.language)}</b> '
            f"{escape(segment.text.strip())}</span> "
            for segment in segments[-8:]
        )
        running = ""
        if committed or tentative:
            running = (
                f'<span dir="auto"><b>{escape(language or "?")}</b> {escape(committed.strip())} '
                f'<i style="opacity:.6">{escape(tentative.strip())}</i></span>'
            )
        return f"{to_svg(drawing, 'live', words)}<p><small>{escape(words)}</small></p><p>{text}{running}</p>"

    def _take(self, result: ProcessResult, length_s: float = 0.0, took_ms: float = 0.0) -> None:
        with self._lock:
            if length_s:
                self.received_s += length_s
                self._latency.append((self.received_s, took_ms, length_s * 1000))
            committed = "" if result.segments else self._open[1] + result.committed
            self._open = result.language, committed, result.tentative
            self._segments.extend(result.segments)
            self._switches.extend(result.switches)
            self._frames.extend(result.frames)

    def _draw(self) -> None:
        self._show(self.html())
        self._drawn_at = self._clock()


def _in_notebook() -> Callable[[str], object]:
    """A function that shows markup in one output of the notebook; it does nothing without IPython."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, DisplayHandle
    except ImportError:
        return lambda markup: None
    if get_ipython() is None:
        return lambda markup: None
    handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
    shows = chain([handle.display], repeat(handle.update))
    return lambda markup: next(shows)(HTML(markup))  # type: ignore[no-untyped-call]


@styled
def live_figure(
    segments: Iterable[SessionSegment],
    switches: Iterable[Switch],
    frames: Sequence[LanguageFrame],
    latency: Iterable[Latency],
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
    others = iter([*(colour for colour in PALETTE if colour not in FIXED.values()), *[OTHER] * len(languages)])
    colours = {language: FIXED.get(language) or next(others) for language in languages}
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
    for language in languages:
        values = [frame.posterior.get(language, 0.0) for frame in recent]
        if max(values, default=0.0) >= 0.05:
            times = [seconds(frame.end) for frame in recent]
            middle.plot(times, values, color=colours[language], label=language, linewidth=2)
    middle.set_ylim(0, 1.02)
    middle.set_ylabel("probability")
    if middle.lines:
        middle.legend(frameon=False, ncols=8, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.97), borderpad=0)
    taken = [each for each in latency if each[0] >= left]
    ends, computing, length = zip(*taken, strict=True) if taken else ((), (), ())
    below.vlines(ends, 0, computing, color=PALETTE[0])
    below.plot(ends, length, "--", color=MUTED)
    label(below, "seconds of audio", "ms per chunk")
    below.set_ylim(bottom=0)
    below.set_xlim(left, left + last_s)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.14, hspace=0.28)
    return figure

"""A live view of a running stream in a notebook: an SVG, so that the last picture remains in the saved notebook."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from html import escape
from itertools import chain, repeat
from typing import Any, cast

from whisperlab.evaluation.trace import StreamTranscriber
from whisperlab.report import figure as draw
from whisperlab.report.recording import FIXED
from whisperlab.streaming.real_time import LiveTranscriber
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import seconds

LAST_S = 30.0  # seconds of the stream in the picture
MOMENTS = 3000  # newest frames and chunks that are kept: 100 per second

Latency = tuple[float, float, float]  # seconds of stream, milliseconds of computing, milliseconds of audio


@dataclass(eq=False, repr=False)
class LiveView:
    """Wraps a transcriber and shows its results while it runs. One thread feeds it; any thread may call `html`."""

    transcriber: StreamTranscriber
    _: KW_ONLY
    every_s: float = 0.5  # wall-clock seconds between two pictures; drawing one takes about 50 ms
    length_s: float | None = None  # seconds of audio that will come, if that is known
    sampling_rate: int = 16_000  # of the chunks
    show: Callable[[str], object] | None = None  # receives the markup of each picture instead of the notebook
    automatic: bool = True  # `process` and `finalize` draw; otherwise the caller does, outside of what it measures
    clock: Callable[[], float] = time.perf_counter  # wall clock in seconds
    received_s: float = field(default=0.0, init=False)
    # language, committed and tentative text of the running session
    _open: tuple[str | None, str, str] = field(default=(None, "", ""), init=False)
    _segments: deque[SessionSegment] = field(default_factory=lambda: deque(maxlen=100), init=False)
    _switches: deque[Switch] = field(default_factory=lambda: deque(maxlen=100), init=False)
    _frames: deque[LanguageFrame] = field(default_factory=lambda: deque(maxlen=MOMENTS), init=False)
    _latency: deque[Latency] = field(default_factory=lambda: deque(maxlen=MOMENTS), init=False)
    _drawn_at: float = field(default=-float("inf"), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.config, self.get_statistics = self.transcriber.config, self.transcriber.get_statistics

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """Process one chunk; draws a picture if the last one is older than ``every_s``."""
        return self._feed(partial(self.transcriber.process, chunk), len(chunk))

    @property
    def load_level(self) -> int:
        """That of the transcriber, which is a `LiveTranscriber` behind a `RealTimeFeed`."""
        return cast(LiveTranscriber, self.transcriber).load_level

    @load_level.setter
    def load_level(self, level: int) -> None:
        cast(LiveTranscriber, self.transcriber).load_level = level

    def skip(self, n_samples: int, /) -> ProcessResult:
        return self._feed(partial(cast(LiveTranscriber, self.transcriber).skip, n_samples), n_samples)

    def finalize(self) -> ProcessResult:
        result = self._feed(self.transcriber.finalize, 0)
        if self.automatic:
            self.draw()
        return result

    def update(self) -> None:
        """Draw a picture if the last one is older than ``every_s``."""
        if self.clock() - self._drawn_at >= self.every_s:
            self.draw()

    def draw(self) -> None:
        self.show = self.show or _in_notebook()
        self.show(self.html())
        self._drawn_at = self.clock()

    def html(self) -> str:
        """The picture as markup: the figure, then the text with its languages."""
        with self._lock:  # copies the state of one moment, because drawing is slow
            received_s, (language, committed, tentative) = self.received_s, self._open
            segments, switches = list(self._segments), list(self._switches)
            frames, latency = list(self._frames), list(self._latency)
        drawing = live_figure(segments, switches, frames, latency, received_s)
        of = f" of {self.length_s:.0f}" if self.length_s else ""
        words = f"{received_s:.1f}{of} s received, newest language: {language or 'not yet detected'}"
        parts = [(segment.language, segment.text.strip()) for segment in segments[-8:]]
        span = '<span lang="{0}" dir="auto"><b>{0}</b> {1}</span> '
        text = "".join(span.format(escape(code), escape(said)) for code, said in parts)
        running = ""
        if committed or tentative:
            pale = f'<i style="opacity:.6">{escape(tentative.strip())}</i>'
            running = f'<span dir="auto"><b>{escape(language or "?")}</b> {escape(committed.strip())} {pale}</span>'
        return f"{draw.to_svg(drawing, 'live', words)}<p><small>{escape(words)}</small></p><p>{text}{running}</p>"

    def _feed(self, work: Callable[[], ProcessResult], n_samples: int) -> ProcessResult:
        began = self.clock()
        result = work()
        took_ms, length_s = (self.clock() - began) * 1000, n_samples / self.sampling_rate
        with self._lock:
            self.received_s += length_s
            self._latency.append((self.received_s, took_ms, length_s * 1000))
            committed = "" if result.segments else self._open[1] + result.committed
            self._open = result.language, committed, result.tentative
            self._segments.extend(result.segments)
            self._switches.extend(result.switches)
            self._frames.extend(result.frames)
        if self.automatic and n_samples:
            self.update()
        return result


def _in_notebook() -> Callable[[str], object]:
    """A function that shows markup in one output of the notebook; it does nothing without IPython."""
    ipython = sys.modules.get("IPython")  # every notebook has loaded it
    if ipython is None or ipython.get_ipython() is None:
        return lambda markup: None
    from IPython.display import HTML, DisplayHandle

    handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
    shows = chain([handle.display], repeat(handle.update))
    return lambda markup: next(shows)(HTML(markup))  # type: ignore[no-untyped-call]


@draw.styled
def live_figure(
    segments: list[SessionSegment], switches: list[Switch], frames: list[LanguageFrame], spent: list[Latency], at: float
) -> draw.Drawing:
    """The last seconds until ``at``: text, probabilities, computing time of each chunk and, dashed, its length."""
    figure = draw.new_figure(11.0, 3.6)
    figure.set_layout_engine("none")  # one takes as long as the drawing
    margins = {"left": 0.085, "right": 0.985, "top": 0.97, "bottom": 0.14, "hspace": 0.28}
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(0.7, 1.2, 1), gridspec_kw=margins)
    left = max(0.0, at - LAST_S)
    shown = [segment for segment in segments if segment.end_time >= left]
    languages = sorted({s.language for s in shown}.union(*(frame.posterior for frame in frames)))
    colours = {language: FIXED.get(language, draw.OTHER) for language in languages}
    for segment in shown:
        start, end = segment.start_time, segment.end_time
        above.barh(0, end - start, left=start, height=0.8, color=colours[segment.language])
        middle_s = (max(start, left) + end) / 2
        above.text(middle_s, 0, segment.language, ha="center", va="center", color=draw.INK, clip_on=True)
    for switch in switches:
        if switch.decided_at >= left:
            above.plot(switch.decided_at, 0.62, "v", color=draw.INK, markersize=5, clip_on=False)
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
    taken = [each for each in spent if each[0] >= left]
    ends, computing, length = zip(*taken, strict=True) if taken else ((), (), ())
    below.vlines(ends, 0, computing, color=draw.PALETTE[0])
    below.plot(ends, length, "--", color=draw.MUTED)
    draw.label(below, "seconds of audio", "ms per chunk")
    below.set_ylim(bottom=0)
    below.set_xlim(left, left + LAST_S)
    return figure

"""A stream to look at while it runs: languages, posteriors, text and latency, in a notebook.

    view = LiveView(SessionRestartTranscriber(languages=["en", "es"]))
    for chunk in chunks:
        view.process(chunk)
    view.finalize()

Jupyter shows one picture that is drawn anew twice a second, and the last one stays, in the saved notebook and in its
page too, for it is a drawing and no widget.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from whisperlab.report.figures import to_svg
from whisperlab.report.live_figure import live_figure
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment, Switch

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import StreamTranscriber
    from whisperlab.util.audio_arrays import FloatArray

LAST_S = 30.0  # seconds of the stream that the picture shows
FRAMES_A_S = 100  # language-ID frames a second, at most


class LiveView:
    """A transcriber that shows what it does; for everything else it is the one it wraps.

    One thread feeds and finishes; `html` may be asked by any other meanwhile.

    Args:
        transcriber: any `StreamTranscriber`.
        every_s: wall seconds between two pictures; drawing one takes some 50 ms.
        sampling_rate: of the chunks.
        show: takes the markup of each picture, instead of the notebook.
    """

    def __init__(
        self,
        transcriber: StreamTranscriber,
        *,
        every_s: float = 0.5,
        sampling_rate: int = 16_000,
        show: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._inner, self._every_s, self._rate, self._clock = transcriber, every_s, sampling_rate, clock
        self._show = show or _in_notebook()
        self.config, self.get_statistics = transcriber.config, transcriber.get_statistics
        self.heard_s = 0.0
        self._language: str | None = None
        self._tentative = ""
        self._segments: deque[SessionSegment] = deque(maxlen=100)
        self._switches: deque[Switch] = deque(maxlen=100)
        self._frames: deque[LanguageFrame] = deque(maxlen=round(LAST_S * FRAMES_A_S))
        self._latency: deque[tuple[float, float, float]] = deque(maxlen=3000)
        self._drawn_at = -float("inf")
        self._noting = threading.Lock()

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """The inner result of one chunk."""
        began = self._clock()
        result = self._inner.process(chunk)
        took_ms = (self._clock() - began) * 1000
        self._take(result, len(chunk) / self._rate, took_ms)
        if self._clock() - self._drawn_at >= self._every_s:
            self._draw()
        return result

    def finalize(self) -> ProcessResult:
        """The inner result of the end; draws the picture that stays."""
        result = self._inner.finalize()
        self._take(result)
        self._draw()
        return result

    def html(self) -> str:
        """The picture as markup: the drawing, then the text with its languages."""
        with self._noting:  # what is drawn is of one moment, and drawing it takes long
            heard_s, language, tentative = self.heard_s, self._language, self._tentative
            segments, switches = list(self._segments), list(self._switches)
            frames, latency = list(self._frames), list(self._latency)
        drawing = live_figure(segments, switches, frames, latency, heard_s, last_s=LAST_S)
        words = f"{heard_s:.1f} s heard, language {language or 'not known yet'}"
        text = "".join(
            f'<span lang="{escape(segment.language)}" dir="auto"><b>{escape(segment.language)}</b> '
            f"{escape(segment.text.strip())}</span> "
            for segment in segments[-8:]
        )
        open_text = f'<i dir="auto">{escape(tentative.strip())}</i>' if tentative else ""
        return f"{to_svg(drawing, 'live', words)}<p>{text}{open_text}</p>"

    def _take(self, result: ProcessResult, length_s: float = 0.0, took_ms: float = 0.0) -> None:
        with self._noting:
            if length_s:
                self.heard_s += length_s
                self._latency.append((self.heard_s, took_ms, length_s * 1000))
            self._language, self._tentative = result.language, result.tentative
            self._segments.extend(result.segments)
            self._switches.extend(result.switches)
            self._frames.extend(result.frames)

    def _draw(self) -> None:
        self._show(self.html())
        self._drawn_at = self._clock()


def _in_notebook() -> Callable[[str], object]:
    """Shows markup in one place of the notebook; without IPython nowhere."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, DisplayHandle
    except ImportError:
        return lambda markup: None
    if get_ipython() is None:
        return lambda markup: None
    handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
    shown: list[bool] = []

    def show(markup: str) -> None:
        (handle.update if shown else handle.display)(HTML(markup))  # type: ignore[no-untyped-call]
        shown.append(True)

    return show

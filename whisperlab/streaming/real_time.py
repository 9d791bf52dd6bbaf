"""Real time on a machine that may be too slow: a queue with a bounded lag that omits work in a fixed order.

`RealTimeFeed` is a queue of fixed size between a source that cannot wait, such as a microphone, and a transcriber. Its
*lag* is the audio that was offered and is not processed yet. As the lag grows, first language-ID frames are omitted,
then decode steps, then the oldest audio is dropped. As it falls, the work returns. Everything omitted is counted.

Guarantee: at any moment ``offered == processed + dropped + waiting + working`` in samples, and the lag is at most
``drop_ms`` plus one piece of `PIECE_MS`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy.typing as npt

from whisperlab.buffer import RingBuffer
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import ConfigurationError, StreamEndedError
from whisperlab.util.json_values import Json
from whisperlab.util.log import logger
from whisperlab.util.timeline import SAMPLE_RATE, Span

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PIECE_MS = 100  # audio processed between two checks of the lag
GAPS_KEPT = 100  # newest gaps kept with their times; all are counted
WARN_S = 10.0  # seconds between two warnings of dropped audio

Work: TypeAlias = tuple[int, Callable[[], ProcessResult]]  # samples by which it advances the stream, and a function


@dataclass(slots=True, frozen=True)
class OverloadOptions:
    """Thresholds of the lag, in milliseconds of audio that is not processed yet.

    Above ``skip_lid_ms`` language-ID frames are omitted (load level 1), above ``longer_steps_ms`` decode steps too
    (level 2). At most ``drop_ms`` of audio waits: then the oldest is dropped. Each measure ends when the lag has fallen
    to ``recover`` times its threshold, so levels do not alternate quickly.
    """

    skip_lid_ms: int = 1500
    longer_steps_ms: int = 3000
    drop_ms: int = 8000
    recover: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.skip_lid_ms < self.longer_steps_ms < self.drop_ms:
            given = f"{self.skip_lid_ms}, {self.longer_steps_ms} and {self.drop_ms}"
            raise ConfigurationError(f"0 < skip_lid_ms < longer_steps_ms < drop_ms is needed, got {given}")
        if not 0 <= self.recover < 1:
            raise ConfigurationError(f"recover must be 0 or more and below 1, got {self.recover}")

    def level(self, lag_ms: float, before: int) -> int:
        """The load level at a lag, given the level before: it rises at a threshold and falls well below it.

        >>> options = OverloadOptions(skip_lid_ms=1000, longer_steps_ms=2000, drop_ms=4000)
        >>> [options.level(lag_ms, before=1) for lag_ms in (2001, 2000, 501, 500)]
        [2, 1, 1, 0]
        """
        thresholds = self.skip_lid_ms, self.longer_steps_ms
        reached = sum(lag_ms > threshold for threshold in thresholds)
        left = sum(lag_ms > self.recover * threshold for threshold in thresholds)
        return max(reached, min(before, left))


class LiveTranscriber(Protocol):
    """The transcriber behind a feed, such as `whisperlab.SessionRestartTranscriber`."""

    load_level: int

    def process(self, chunk: FloatArray, /) -> ProcessResult: ...
    def skip(self, n_samples: int, /) -> ProcessResult: ...
    def finalize(self) -> ProcessResult: ...
    def get_statistics(self) -> Json: ...


@dataclass(slots=True)
class LoadCounts:
    """The offered audio by its state, in samples. All values are of one moment, so they add up."""

    offered: int = 0
    processed: list[int] = field(default_factory=lambda: [0, 0, 0])  # by load level
    dropped: int = 0
    waiting: int = 0
    working: int = 0  # the transcriber works on it
    max_lag: int = 0
    level: int = 0  # now
    n_gaps: int = 0
    gaps: deque[Span] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))

    @property
    def lag(self) -> int:
        """Samples offered and not processed yet."""
        return self.waiting + self.working


class RealTimeFeed:
    """A queue in front of a transcriber that omits work instead of lagging without limit.

    Any thread may call `offer` and `close`; one other thread works, with `work` or `due`:

    >>> feed = RealTimeFeed(transcriber)  # doctest: +SKIP
    >>> feed.offer(chunk)  # in the callback of the microphone  # doctest: +SKIP
    >>> for _, call in feed.work():  # doctest: +SKIP
    ...     print(call())
    """

    def __init__(
        self,
        transcriber: LiveTranscriber,  # at the start of a stream; only the feed may call it
        options: OverloadOptions = OverloadOptions(),
        *,
        sampling_rate: int = SAMPLE_RATE,  # of the chunks; the same as the transcriber's
        clock: Callable[[], float] = time.monotonic,  # seconds; limits how often warnings are logged
    ) -> None:
        self._transcriber, self._options, self._clock, self._rate = transcriber, options, clock, sampling_rate
        self._piece = max(PIECE_MS * sampling_rate // 1000, 1)
        self._ring = RingBuffer(options.drop_ms * sampling_rate // 1000)
        self._changed = threading.Condition()  # guards everything below
        self._taken_until = 0  # start of the next piece, unless audio was dropped meanwhile
        self._done = LoadCounts()  # without the audio that waits; ``dropped`` are gaps passed to the transcriber
        self._closed = self._ended = False
        self._warned: tuple[float | None, int] = (None, 0)  # time of the last warning, samples dropped by then
        metrics = getattr(transcriber, "metrics", None)
        self.metrics = metrics if isinstance(metrics, PerformanceMetrics) else None  # export these figures too
        if self.metrics is not None:
            self.metrics.attach("feed", self.collect)

    def offer(self, chunk: npt.ArrayLike) -> None:
        """Queue a copy of a chunk; drops the oldest audio if the queue is full. Never waits for the transcriber.

        Accepts the same chunks as `SessionRestartTranscriber.process`. Raises `AudioFormatError` for anything else and
        `StreamEndedError` after `close`; both change nothing.
        """
        audio = as_chunk(chunk)
        with self._changed:
            if self._closed:
                raise StreamEndedError("this feed was closed; a new stream needs a new one")
            held, capacity = len(self._ring), self._ring.capacity
            if held + len(audio) > capacity:  # a drop leaves a part of the queue, the newest chunk included
                self._ring.consume(min(held, held + len(audio) - int(self._options.recover * capacity)))
            self._ring.append(audio)
            self._done.max_lag = max(self._done.max_lag, len(self._ring) + self._done.working)
            self._changed.notify_all()

    def close(self) -> None:
        """End the source. The audio that waits is still processed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def due(self) -> Work | None:
        """The next work, as a number of samples and a function to call at once; None if nothing waits.

        It is a piece of audio, a gap, or ``finalize`` once a closed feed is empty. The function raises the errors of
        the transcriber; the piece counts as processed.
        """
        with self._changed:
            lag_ms = len(self._ring) / self._rate * 1000
            self._done.level = level = self._options.level(lag_ms, self._done.level)
            gap = Span(self._taken_until, self._ring.start)
            piece = self._ring.consume(0 if gap else min(len(self._ring), self._piece))
            self._done.working = len(piece)
            self._taken_until = gap.end + len(piece)
            if gap:
                self._done.dropped += len(gap)
                self._done.n_gaps += 1
                self._done.gaps.append(gap)
            ending = self._closed and not (self._ended or gap or len(piece))
            self._ended = self._ended or ending
        self._warn(ending)
        if gap:
            return len(gap), partial(self._transcriber.skip, len(gap))
        if ending:
            return 0, self._transcriber.finalize
        return (len(piece), partial(self._process, piece, level)) if len(piece) else None

    def work(self) -> Iterator[Work]:
        """All that becomes `due` until the feed is closed and empty. Waits for audio; run each before the next."""
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: len(self._ring) or self._closed)
            if work := self.due():
                yield work

    def counts(self) -> LoadCounts:
        """The audio so far by its state."""
        with self._changed:
            done, ring = self._done, self._ring
            dropped = done.dropped + ring.start - self._taken_until
            audio = {"offered": ring.end, "dropped": dropped, "waiting": len(ring)}
            return replace(done, **audio, processed=[*done.processed], gaps=done.gaps.copy())

    def get_statistics(self) -> Json:
        """The statistics of the transcriber, and ``"real_time"``: lag, load level and losses. JSON-able."""
        return {**self._transcriber.get_statistics(), "real_time": self._statistics()}

    def get_summary(self) -> str:
        """Lag and losses as one line of text."""
        return real_time_line(self._statistics())

    def collect(self) -> Iterator["Metric"]:
        """The figures of the feed as ``prometheus_client`` metrics, for `PerformanceMetrics.serve`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        live = self._statistics()
        for name, about, value in (
            ("lag_seconds", "Audio offered and not processed yet.", live["lag_s"]),
            ("max_lag_seconds", "The longest lag so far.", live["max_lag_s"]),
            ("load_level", "Omitted work: 0 none, 1 language-ID frames, 2 decode steps too.", live["level"]),
        ):
            yield GaugeMetricFamily(f"whisperlab_{name}", about, value)
        audio = CounterMetricFamily("whisperlab_audio_seconds", "Audio by its outcome.", labels=["outcome"])
        for level, audio_s in live["processed_s"].items():
            audio.add_metric([f"level_{level}"], audio_s)
        audio.add_metric(["dropped"], live["dropped_s"])
        yield audio
        yield CounterMetricFamily("whisperlab_gaps", "Times that audio was dropped.", live["gaps"])

    def _process(self, piece: FloatArray, level: int) -> ProcessResult:
        try:
            self._transcriber.load_level = level
            return self._transcriber.process(piece)
        finally:
            with self._changed:
                self._done.processed[level] += len(piece)
                self._done.working = 0

    def _statistics(self) -> Json:
        counts = self.counts()
        return {
            "lag_s": counts.lag / self._rate,
            "max_lag_s": counts.max_lag / self._rate,
            "level": counts.level,
            "offered_s": counts.offered / self._rate,
            "processed_s": {str(n): samples / self._rate for n, samples in enumerate(counts.processed)},
            "dropped_s": counts.dropped / self._rate,
            "gaps": counts.n_gaps,
            "last_gaps": [{"start": gap.start / self._rate, "end": gap.end / self._rate} for gap in counts.gaps],
        }

    def _warn(self, ending: bool) -> None:
        """Log a warning about dropped audio: at once, then at most every `WARN_S`, and at the end."""
        dropped, (warned_at, warned_of) = self._done.dropped, self._warned
        if dropped == warned_of:
            return
        now = self._clock()
        if not ending and warned_at is not None and now - warned_at < WARN_S:
            return
        self._warned = now, dropped
        logger.warning("too slow for real time: %s", self.get_summary())


def real_time_line(statistics: Json) -> str:
    """The ``"real_time"`` statistics of a feed as one line.

    >>> real_time_line({"max_lag_s": 8.04, "processed_s": {"0": 40.0, "1": 2.5, "2": 9}, "dropped_s": 4.5, "gaps": 1})
    'lag at most 8.0 s; worked at load level 0 for 40.0 s, 1 for 2.5 s, 2 for 9.0 s; dropped 4.5 s in 1 gaps'
    """
    levels = ", ".join(f"{level} for {audio_s:.1f} s" for level, audio_s in statistics["processed_s"].items())
    dropped = f"dropped {statistics['dropped_s']:.1f} s in {statistics['gaps']} gaps"
    return f"lag at most {statistics['max_lag_s']:.1f} s; worked at load level {levels}; {dropped}"

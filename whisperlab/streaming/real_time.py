"""Real time on a machine that may be too slow for it: load is shed in a stated order, and what it cost is counted.

Between a source that cannot wait (the callback of a microphone) and a transcriber that takes the time it takes stands
a `RealTimeFeed` with a queue of fixed size. Its *lag* is the audio offered and not yet worked on. As the lag grows,
first language-ID frames are left out, then decode steps, then the oldest audio is dropped; as it falls, all comes back.

Guarantee: at any moment ``offered == processed + dropped + waiting + working`` in samples, and the lag is at most
``drop_ms`` and one piece of `PIECE_MS`, whatever the load. The price is a copy of each chunk and a lock held for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from whisperlab.buffer import RingBuffer
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import ConfigurationError, StreamEndedError
from whisperlab.util.timeline import SAMPLE_RATE, Span

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PIECE_MS = 100  # audio worked on between two looks at the lag
GAPS_KEPT = 100  # the newest; all are counted
WARN_S = 10.0  # seconds between two warnings of dropped audio

_LOGGER = logging.getLogger("whisperlab")


@dataclass(slots=True, frozen=True)
class OverloadOptions:
    """How far work may lie behind the audio, and what is given up for it; times in ms of audio not yet worked on.

    Above ``skip_lid_ms`` language-ID frames are left out (load level 1), above ``longer_steps_ms`` decode steps too
    (level 2). Both thresholds are longer than one decode or one change of language takes on a machine that keeps up.
    No more than ``drop_ms`` ever waits: the oldest audio is dropped. A measure lasts, and a drop goes on, until the
    lag is no more than ``recover`` of its threshold; so there are few long gaps and no flutter of levels.
    """

    skip_lid_ms: int = 1500
    longer_steps_ms: int = 3000
    drop_ms: int = 8000
    recover: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.skip_lid_ms < self.longer_steps_ms < self.drop_ms:
            raise ConfigurationError(
                "0 < skip_lid_ms < longer_steps_ms < drop_ms is needed, got "
                f"{self.skip_lid_ms}, {self.longer_steps_ms} and {self.drop_ms}"
            )
        if not 0 <= self.recover < 1:
            raise ConfigurationError(f"recover must be 0 or more and below 1, got {self.recover}")

    def level(self, lag_ms: float, before: int) -> int:
        """The load level at a lag, when it has been another one before: up at a threshold, down well below it.

        >>> options = OverloadOptions(skip_lid_ms=1000, longer_steps_ms=2000, drop_ms=4000)
        >>> [options.level(lag_ms, before=1) for lag_ms in (2001, 2000, 501, 500)]
        [2, 1, 1, 0]
        """
        thresholds = self.skip_lid_ms, self.longer_steps_ms
        reached = sum(lag_ms > threshold for threshold in thresholds)
        left = sum(lag_ms > self.recover * threshold for threshold in thresholds)
        return max(reached, min(before, left))


class LiveTranscriber(Protocol):
    """What a feed works with; `whisperlab.SessionRestartTranscriber` is one."""

    load_level: int

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """Take the next chunk of the stream."""

    def skip(self, n_samples: int, /) -> ProcessResult:
        """Go on so much later in the stream."""

    def finalize(self) -> ProcessResult:
        """End the stream."""

    def get_statistics(self) -> Mapping[str, Any]:
        """Counters so far, JSON-able."""


@dataclass(slots=True, frozen=True)
class LoadCounts:
    """What became of the audio offered, in samples; all of one moment, so that they add up.

    ``processed`` is by load level, ``working`` is in the hands of the transcriber.
    """

    offered: int
    processed: tuple[int, int, int]
    dropped: int
    waiting: int
    working: int
    max_lag: int

    @property
    def lag(self) -> int:
        """Samples offered and not yet worked on."""
        return self.waiting + self.working


class RealTimeFeed:
    """A queue in front of a transcriber that sheds load rather than fall behind without end.

    Args:
        transcriber: at the beginning of a stream; nobody else may feed it.
        sampling_rate: of the chunks, the one the transcriber was made for.
        clock: counts seconds; paces the warnings.

    Offer from any thread, and work in one other, with `run` or `pump`:

    >>> feed = RealTimeFeed(transcriber)  # doctest: +SKIP
    >>> worker = threading.Thread(target=feed.run, args=(print,))  # doctest: +SKIP
    >>> worker.start()  # doctest: +SKIP
    >>> feed.offer(chunk)  # in the callback of the microphone  # doctest: +SKIP
    >>> feed.close(), worker.join()  # doctest: +SKIP
    """

    def __init__(
        self,
        transcriber: LiveTranscriber,
        options: OverloadOptions = OverloadOptions(),
        *,
        sampling_rate: int = SAMPLE_RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transcriber, self._options, self._clock = transcriber, options, clock
        self._rate = sampling_rate
        self._piece = max(PIECE_MS * sampling_rate // 1000, 1)
        self._ring = RingBuffer(options.drop_ms * sampling_rate // 1000)
        self._kept = int(
            options.recover * self._ring.capacity
        )  # what a drop leaves, the newest chunk included
        self._changed = threading.Condition()  # guards everything below
        self._taken_until = 0  # where the next piece begins, unless audio was dropped meanwhile
        self._working = 0
        self._level = 0
        self._processed = [0, 0, 0]
        self._dropped = 0  # samples of gaps that the transcriber knows of
        self._n_gaps = 0
        self._gaps: deque[Span] = deque(maxlen=GAPS_KEPT)
        self._max_lag = 0
        self._closed = self._ended = False
        self._warned_at: float | None = None
        self._warned_of = 0
        if self.metrics is not None:
            self.metrics.attach("feed", self.collect)

    @property
    def metrics(self) -> PerformanceMetrics | None:
        """The metrics of the transcriber, where it has them: they export the feed's figures, too."""
        found = getattr(self._transcriber, "metrics", None)
        return found if isinstance(found, PerformanceMetrics) else None

    def offer(self, chunk: npt.ArrayLike) -> None:
        """Queue a copy of a chunk, whatever that costs the oldest audio waiting; never waits for work.

        Takes what `SessionRestartTranscriber.process` takes. Raises `AudioFormatError` for anything else and
        `StreamEndedError` after `close`; both change nothing.
        """
        audio = as_chunk(chunk)
        with self._changed:
            if self._closed:
                raise StreamEndedError("this feed was closed; a new stream needs a new one")
            held = len(self._ring)
            if held + len(audio) > self._ring.capacity:
                self._ring.consume(min(held, held + len(audio) - self._kept))
            self._ring.append(audio)
            self._max_lag = max(self._max_lag, self._counts().lag)
            self._changed.notify_all()

    def close(self) -> None:
        """No more audio will come; what waits is still worked on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def pump(self) -> ProcessResult | None:
        """Do what is `due`; None when nothing is."""
        work = self.due()
        return work[1]() if work else None

    def due(self) -> tuple[int, Callable[[], ProcessResult]] | None:
        """What is to be done next, to be called at once, and the samples it moves on; None when nothing waits.

        That is the next piece to work on, the next gap to tell the transcriber of or, once all is done that a closed
        feed holds, ``finalize``. An error of the transcriber passes through; the piece it hit counts as processed.
        """
        with self._changed:
            lag_ms = len(self._ring) / self._rate * 1000
            self._level = level = self._options.level(lag_ms, self._level)
            gap = Span(self._taken_until, self._ring.start)
            piece = self._ring.consume(0 if gap else min(len(self._ring), self._piece))
            self._working = len(piece)
            self._taken_until = gap.end + len(piece)
            if gap:
                self._note(gap)
            ending = self._closed and not (self._ended or gap or len(piece))
            self._ended = self._ended or ending
        self._warn(ending)
        if gap:
            return len(gap), partial(self._transcriber.skip, len(gap))
        if ending:
            return 0, self._transcriber.finalize
        return (len(piece), partial(self._process, piece, level)) if len(piece) else None

    def run(self, on_result: Callable[[ProcessResult], object]) -> None:
        """Work, in this thread, until the feed is closed and all it holds is done; every result goes to a function.

        An error of the transcriber or of the function ends it and passes through.
        """
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: len(self._ring) or self._closed)
            result = self.pump()
            if result is not None:
                on_result(result)

    def counts(self) -> LoadCounts:
        """What became of the audio so far."""
        with self._changed:
            return self._counts()

    def get_statistics(self) -> dict[str, Any]:
        """The transcriber's statistics and ``"real_time"``: lag, load level and losses, JSON-able."""
        return {**self._transcriber.get_statistics(), "real_time": self._statistics()}

    def get_summary(self) -> str:
        """Lag and losses in a line, for a person."""
        return real_time_line(self._statistics())

    def collect(self) -> Iterator[Metric]:
        """What a ``prometheus_client`` registry asks of a collector; for `PerformanceMetrics.serve` and its like."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        told = self.get_statistics()
        live = told["real_time"]
        yield GaugeMetricFamily("whisperlab_lag_seconds", "Audio offered, not yet worked on.", live["lag_s"])
        yield GaugeMetricFamily("whisperlab_max_lag_seconds", "The longest lag so far.", live["max_lag_s"])
        yield GaugeMetricFamily(
            "whisperlab_load_level", "Work left out: 0 none, 1 and 2 more.", live["level"]
        )
        audio = CounterMetricFamily(
            "whisperlab_audio_seconds", "Audio by what became of it.", labels=["outcome"]
        )
        for level, audio_s in live["processed_s"].items():
            audio.add_metric([f"level_{level}"], audio_s)
        audio.add_metric(["dropped"], live["dropped_s"])
        yield audio
        yield CounterMetricFamily("whisperlab_gaps", "Stretches of audio that were dropped.", live["gaps"])
        lid, sessions = told.get("lid", {}), told.get("sessions", {})
        yield CounterMetricFamily(
            "whisperlab_lid_frames_shed", "Language-ID frames left out because of load.", lid.get("shed", 0)
        )
        yield CounterMetricFamily(
            "whisperlab_decode_steps_shed",
            "Decode steps left out because of load.",
            sessions.get("steps_shed", 0),
        )

    def _process(self, piece: FloatArray, level: int) -> ProcessResult:
        try:
            self._transcriber.load_level = level
            return self._transcriber.process(piece)
        finally:
            with self._changed:
                self._processed[level] += len(piece)
                self._working = 0

    def _counts(self) -> LoadCounts:
        untold = self._ring.start - self._taken_until
        return LoadCounts(
            self._ring.end,
            (self._processed[0], self._processed[1], self._processed[2]),
            self._dropped + untold,
            len(self._ring),
            self._working,
            self._max_lag,
        )

    def _note(self, gap: Span) -> None:
        self._dropped += len(gap)
        self._n_gaps += 1
        self._gaps.append(gap)

    def _statistics(self) -> dict[str, Any]:
        with self._changed:
            counts, level, n_gaps, gaps = self._counts(), self._level, self._n_gaps, tuple(self._gaps)
        return {
            "lag_s": counts.lag / self._rate,
            "max_lag_s": counts.max_lag / self._rate,
            "level": level,
            "offered_s": counts.offered / self._rate,
            "processed_s": {str(n): samples / self._rate for n, samples in enumerate(counts.processed)},
            "dropped_s": counts.dropped / self._rate,
            "gaps": n_gaps,
            "last_gaps": [{"start": gap.start / self._rate, "end": gap.end / self._rate} for gap in gaps],
        }

    def _warn(self, ending: bool) -> None:
        """Log a warning when audio was dropped since the last: at once, then every `WARN_S`, and at the end."""
        if self._dropped == self._warned_of:
            return
        now = self._clock()
        if not ending and self._warned_at is not None and now - self._warned_at < WARN_S:
            return
        self._warned_at, self._warned_of = now, self._dropped
        _LOGGER.warning("too slow for real time: %s", self.get_summary())


def real_time_line(statistics: Mapping[str, Any]) -> str:
    """The ``"real_time"`` statistics of a feed in a line.

    >>> real_time_line({"max_lag_s": 8.04, "processed_s": {"0": 40.0, "1": 2.5, "2": 9}, "dropped_s": 4.5, "gaps": 1})
    'lag at most 8.0 s; worked at load level 0 for 40.0 s, 1 for 2.5 s, 2 for 9.0 s; dropped 4.5 s in 1 gaps'
    """
    levels = ", ".join(f"{level} for {audio_s:.1f} s" for level, audio_s in statistics["processed_s"].items())
    return (
        f"lag at most {statistics['max_lag_s']:.1f} s; worked at load level {levels}; "
        f"dropped {statistics['dropped_s']:.1f} s in {statistics['gaps']} gaps"
    )

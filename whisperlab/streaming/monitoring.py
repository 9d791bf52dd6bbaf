"""Warnings about a running stream: slow language-ID, a cache without hits, quiet speech."""

from __future__ import annotations

import logging
import time

from whisperlab.cache import EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.gain import dbfs
from whisperlab.util.timeline import SAMPLE_RATE

logger = logging.getLogger("whisperlab")

CHECK_EVERY = 100  # language-ID frames between two checks of speed and hit rate


class Monitor:
    """Logs each kind of warning at most once per interval; quiet speech once per stream."""

    __slots__ = (
        "_cache",
        "_gate",
        "_hit_limit",
        "_interval_s",
        "_metrics",
        "_p95_limit_ms",
        "_told_level",
        "_warned_at",
    )

    def __init__(
        self,
        p95_limit_ms: float | None,
        hit_limit: float | None,
        interval_s: float,
        metrics: PerformanceMetrics,
        cache: EncoderCache,
        gate: SpeechGate,
    ) -> None:
        self._p95_limit_ms, self._hit_limit, self._interval_s = p95_limit_ms, hit_limit, interval_s
        self._metrics, self._cache, self._gate = metrics, cache, gate
        self.begin()

    def begin(self) -> None:
        """Start a new stream without warnings."""
        self._warned_at: float | None = None
        self._told_level = False

    def check_speed(self, n_frames: int) -> None:
        """Warn if language-ID is slow or the cache is of no use. ``n_frames`` were evaluated so far."""
        p95_limit, hit_limit = self._p95_limit_ms, self._hit_limit
        if n_frames % CHECK_EVERY or (p95_limit is None and hit_limit is None):
            return
        now = time.monotonic()
        if self._warned_at is not None and now - self._warned_at < self._interval_s:
            return
        p95 = self._metrics.get_statistics()["lid.total"]["p95"]
        hit_rate = self._cache.get_statistics()["hit_rate"]
        if p95_limit is not None and p95 > p95_limit:
            logger.warning("language-ID is slow: lid.total p95 %.1f ms, limit %.1f ms", p95, p95_limit)
            self._warned_at = now
        if hit_limit is not None and hit_rate < hit_limit:
            logger.warning("the encoder cache hits rarely: %.1f %%, limit %.1f %%", 100 * hit_rate, 100 * hit_limit)
            self._warned_at = now

    def check_level(self) -> None:
        """Warn if a second of speech or more was quiet."""
        level = dbfs(self._gate.quiet_level)
        if self._told_level or level is None or self._gate.quiet < SAMPLE_RATE:
            return
        self._told_level = True
        logger.warning(
            "the speech is very quiet: %.0f dBFS (RMS of its loudest 32 ms); it is amplified, but words may be wrong: "
            "raise the level of the recording",
            level,
        )

"""What the stages of one stream share: options, audio, voice activity, results, timers and warnings."""

import time
from dataclasses import dataclass, field

import numpy as np
import soxr

from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.config import MonitoringOptions, TranscriberConfig
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.results import ResultBuilder
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.audio_arrays import FloatArray, bounded
from whisperlab.util.gain import dbfs
from whisperlab.util.log import logger
from whisperlab.util.timeline import SAMPLE_RATE

PER_MS = SAMPLE_RATE // 1000
VAD_BUFFER = 60 * SAMPLE_RATE  # samples; the guide's size
CHECK_EVERY = 100  # language-ID frames between two checks of speed and hit rate
_NOTHING: FloatArray = np.zeros(0, np.float32)


@dataclass(slots=True, eq=False)
class AudioHistory:
    """Both ring buffers, the resampler in front of them, and the position in the stream."""

    vad: RingBuffer
    lid: RingBuffer
    rate: int  # of the chunks
    metrics: PerformanceMetrics
    received: int = 0  # samples at 16 kHz so far, gaps included; spans count them from 0
    _given: int = 0  # samples at the rate of the chunks, those of gaps included
    _resampler: soxr.ResampleStream | None = None  # made for the first chunk, and again after a gap

    def resampled(self, chunk: FloatArray = _NOTHING, *, last: bool = False) -> FloatArray:
        """A chunk at 16 kHz, or the last of the stream. The resampler keeps state: borders of chunks are inaudible."""
        self._given += len(chunk)
        if self.rate == SAMPLE_RATE:
            return chunk
        self._resampler = self._resampler or soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")
        return bounded(self._resampler.resample_chunk(chunk, last=last))

    def append(self, piece: FloatArray) -> None:
        """Add audio at 16 kHz to both buffers."""
        with self.metrics.measure("vad.buffer_append"):
            self.vad.append(piece)
        with self.metrics.measure("lid.buffer_append"):
            self.lid.append(piece)
        self.received += len(piece)

    def lose(self, n_samples: int) -> int:
        """Count ``n_samples`` (at the rate of the chunks) as lost. Returns the sample at which the stream continues."""
        self._resampler = None
        self._given += n_samples
        return max(self.received, round(self._given * SAMPLE_RATE / self.rate))

    def fill(self, end: int) -> None:
        """Fill both buffers with silence up to sample ``end``."""
        for start in range(self.received, end, SAMPLE_RATE):
            silence = np.zeros(min(SAMPLE_RATE, end - start), np.float32)
            self.vad.append(silence)
            self.lid.append(silence)
        self.received = end


@dataclass(slots=True)
class Monitor:
    """Logs warnings: about language-ID and cache at most once per interval, about quiet speech once per stream."""

    limits: MonitoringOptions
    metrics: PerformanceMetrics
    cache: EncoderCache
    gate: SpeechGate
    _warned_at: float | None = None
    _warned_of_level: bool = False

    def check_speed(self, n_frames: int) -> None:
        """Warn if language-ID is slow or the cache is of no use. ``n_frames`` were evaluated so far."""
        p95_limit, hit_limit = self.limits.lid_p95_limit_ms, self.limits.hit_rate_limit
        if n_frames % CHECK_EVERY or (p95_limit is None and hit_limit is None):
            return
        now = time.monotonic()
        if self._warned_at is not None and now - self._warned_at < self.limits.log_interval_s:
            return
        p95 = self.metrics.get_statistics()["lid.total"]["p95"]
        hit_rate = self.cache.get_statistics()["hit_rate"]
        if p95_limit is not None and p95 > p95_limit:
            logger.warning("language-ID is slow: lid.total p95 %.1f ms, limit %.1f ms", p95, p95_limit)
            self._warned_at = now
        if hit_limit is not None and hit_rate < hit_limit:
            logger.warning("the encoder cache hits rarely: %.1f %%, limit %.1f %%", 100 * hit_rate, 100 * hit_limit)
            self._warned_at = now

    def check_level(self) -> None:
        """Warn if a second of speech or more was quiet."""
        level = dbfs(self.gate.quiet_level)
        if self._warned_of_level or level is None or self.gate.quiet < SAMPLE_RATE:
            return
        self._warned_of_level = True
        quiet = "the speech is very quiet: %.0f dBFS (RMS of its loudest 32 ms)"
        logger.warning(f"{quiet}; it is amplified, but words may be wrong: raise the level of the recording", level)


@dataclass(slots=True)
class Counts:
    """What was counted since the stream began."""

    frames: int = 0  # language-ID frames evaluated
    frames_skipped: int = 0  # hops at which none was due
    frames_omitted: int = 0  # because of load
    switches: int = 0
    switches_refused: int = 0
    segments: int = 0
    decodes: int = 0
    steps_shed: int = 0  # decode steps omitted because of load
    gaps: int = 0
    gap_samples: int = 0
    untranscribed: int = 0  # parts of speech for which no text was found
    untranscribed_samples: int = 0
    language_flags: int = 0  # segments that sound like another language
    language_outside: int = 0  # those that sound like one that is not allowed
    language_outside_samples: int = 0


@dataclass(slots=True, eq=False)
class Context:
    """The parts that the stages of one stream share."""

    config: TranscriberConfig
    languages: tuple[str, ...]  # the allowed ones
    metrics: PerformanceMetrics
    history: AudioHistory
    gate: SpeechGate
    monitor: Monitor
    results: ResultBuilder = field(default_factory=ResultBuilder)  # of the running call
    counts: Counts = field(default_factory=Counts)
    load_level: int = 0  # work omitted for load: from 1 on language-ID frames, at 2 decode steps too

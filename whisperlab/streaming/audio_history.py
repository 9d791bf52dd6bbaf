"""The recent audio of a stream at 16 kHz: one ring buffer for voice activity and text, one for language-ID."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import soxr

from whisperlab.buffer import RingBuffer
from whisperlab.metrics import PerformanceMetrics
from whisperlab.util.audio_arrays import FloatArray, bounded
from whisperlab.util.timeline import SAMPLE_RATE

VAD_BUFFER = 60 * SAMPLE_RATE  # samples; the guide's size


@dataclass(slots=True, eq=False)
class AudioHistory:
    """Both ring buffers, the resampler in front of them, and the position in the stream.

    ``rate`` is that of the chunks. ``received`` is the number of samples at 16 kHz so far, gaps included; spans count
    them from 0.
    """

    vad: RingBuffer
    lid: RingBuffer
    rate: int
    metrics: PerformanceMetrics
    received: int = 0
    _given: int = 0  # samples at the rate of the chunks, those of gaps included
    _resampler: soxr.ResampleStream | None = field(init=False)

    def __post_init__(self) -> None:
        self._resampler = _resampler(self.rate)

    def resampled(self, chunk: FloatArray) -> FloatArray:
        """A chunk at 16 kHz. The resampler keeps state, so borders of chunks are inaudible."""
        self._given += len(chunk)
        return bounded(self._resampler.resample_chunk(chunk)) if self._resampler else chunk

    def rest(self) -> FloatArray:
        """What the resampler still holds at the end of the stream."""
        nothing = np.zeros(0, np.float32)
        return bounded(self._resampler.resample_chunk(nothing, last=True)) if self._resampler else nothing

    def append(self, piece: FloatArray) -> None:
        """Add audio at 16 kHz to both buffers."""
        with self.metrics.measure("vad.buffer_append"):
            self.vad.append(piece)
        with self.metrics.measure("lid.buffer_append"):
            self.lid.append(piece)
        self.received += len(piece)

    def lose(self, n_samples: int) -> int:
        """Count ``n_samples`` (at the rate of the chunks) as lost. Returns the sample at which the stream continues."""
        self._resampler = _resampler(self.rate)
        self._given += n_samples
        return max(self.received, round(self._given * SAMPLE_RATE / self.rate))

    def fill(self, end: int) -> None:
        """Fill both buffers with silence up to sample ``end``."""
        for start in range(self.received, end, SAMPLE_RATE):
            silence = np.zeros(min(SAMPLE_RATE, end - start), np.float32)
            self.vad.append(silence)
            self.lid.append(silence)
        self.received = end


def _resampler(rate: int) -> soxr.ResampleStream | None:
    return None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

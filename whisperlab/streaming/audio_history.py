"""The recent audio of a stream at 16 kHz: one ring buffer for voice activity and text, one for language-ID."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from whisperlab.buffer import RingBuffer
from whisperlab.metrics import PerformanceMetrics
from whisperlab.util.audio_arrays import FloatArray, bounded
from whisperlab.util.timeline import SAMPLE_RATE, Span

if TYPE_CHECKING:
    from soxr import ResampleStream

VAD_BUFFER = 60 * SAMPLE_RATE  # samples; the guide's size


class AudioHistory:
    """Both ring buffers, the resampler in front of them, and the position in the stream.

    ``received`` is the number of samples at 16 kHz so far, gaps included; spans count them from 0.
    """

    __slots__ = ("_given", "_lid_capacity", "_make_buffer", "_metrics", "_rate", "_resampler", "lid", "received", "vad")

    def __init__(
        self,
        sampling_rate: int,
        lid_capacity: int,
        metrics: PerformanceMetrics,
        make_buffer: Callable[[int], RingBuffer] = RingBuffer,
    ) -> None:
        self._rate, self._lid_capacity = sampling_rate, lid_capacity
        self._metrics, self._make_buffer = metrics, make_buffer
        self.begin()

    def begin(self) -> None:
        """Start a new stream with empty buffers."""
        self.vad = self._make_buffer(VAD_BUFFER)
        self.lid = self._make_buffer(self._lid_capacity)
        self._resampler = _resampler(self._rate)
        self._given = 0  # samples at the rate of the chunks, those of gaps included
        self.received = 0

    def resampled(self, chunk: FloatArray) -> FloatArray:
        """A chunk at 16 kHz. The resampler keeps state, so borders of chunks are inaudible."""
        self._given += len(chunk)
        return bounded(self._resampler.resample_chunk(chunk)) if self._resampler else chunk

    def rest(self) -> FloatArray:
        """What the resampler still holds at the end of the stream."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        return bounded(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def append(self, piece: FloatArray) -> None:
        """Add audio at 16 kHz to both buffers."""
        with self._metrics.measure("vad.buffer_append"):
            self.vad.append(piece)
        with self._metrics.measure("lid.buffer_append"):
            self.lid.append(piece)
        self.received += len(piece)

    def lose(self, n_samples: int) -> int:
        """Count ``n_samples`` (at the rate of the chunks) as lost. Returns the sample at which the stream continues."""
        self._resampler = _resampler(self._rate)
        self._given += n_samples
        return max(self.received, round(self._given * SAMPLE_RATE / self._rate))

    def fill(self, end: int) -> None:
        """Fill both buffers with silence up to sample ``end``."""
        for start in range(self.received, end, SAMPLE_RATE):
            silence = np.zeros(min(SAMPLE_RATE, end - start), np.float32)
            self.vad.append(silence)
            self.lid.append(silence)
        self.received = end

    def text_audio(self, span: Span) -> FloatArray:
        """Audio of a span for decoding."""
        return self.vad.read(span)

    def language_audio(self, span: Span) -> FloatArray:
        """Audio of a span for language-ID."""
        return self.lid.read(span)


def _resampler(sampling_rate: int) -> ResampleStream | None:
    if sampling_rate == SAMPLE_RATE:
        return None
    import soxr

    return soxr.ResampleStream(sampling_rate, SAMPLE_RATE, 1, dtype="float32")

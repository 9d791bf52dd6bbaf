"""A ring of samples in memory taken once: what comes in is copied once, and nothing is allocated afterwards.

Guarantee: whatever the chunking, the ring holds the newest ``capacity`` samples that were appended and not
consumed, in order, and ``end == consumed + dropped_samples + len(ring)`` at any time. The price is one
copy in and one copy out. Samples are known by their absolute index in the stream, which never starts again.

One thread may append while one other thread reads and consumes, without a lock. Each cursor has one writer:
the producer announces (``_claimed``) what it is about to overwrite before it copies and publishes (``_end``)
what it has copied afterwards; the consumer looks at the announcement again after its own copy, and a copy
the producer could have run into is made again, never handed out.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from whisperlab.audio import BELOW_ONE, FloatArray, as_samples, full_scale
from whisperlab.errors import (
    AudioFormatError,
    BufferRangeError,
    ConfigurationError,
    NotYetError,
    OverwrittenError,
)
from whisperlab.timeline import Span


class RingBuffer:
    """A circular buffer of float samples that overwrites its oldest when full, and counts what that cost.

    ``capacity`` is in samples; ``dtype`` is float32 or float64 (what reads return). Raises
    ``ConfigurationError``, a ``ValueError``, for anything else.

    >>> ring = RingBuffer(capacity=4)
    >>> ring.append(np.array([1, 2, 3], np.float32))
    >>> ring.append(np.array([4, 5], np.float32))
    >>> ring.read_all(), ring.start, ring.end, ring.dropped_samples
    (array([2., 3., 4., 5.], dtype=float32), 1, 5, 1)
    """

    __slots__ = ("_capacity", "_claimed", "_data", "_end", "_given", "_largest", "_overruns", "_taken")

    def __init__(self, capacity: int, dtype: npt.DTypeLike = np.float32) -> None:
        self._data = _allocate(_checked_capacity(capacity), _checked_dtype(dtype))
        self._capacity = len(self._data)
        self._largest = float(np.finfo(self._data.dtype).max)
        # written by the producer alone
        self._claimed = 0  # samples before this index may be in the middle of being written
        self._end = 0
        self._overruns = 0
        # written by the consumer alone
        self._taken = 0  # the first index the consumer has not disposed of
        self._given = 0  # samples consumed or cleared, which is fewer than _taken when some were lost

    def append(self, samples: npt.ArrayLike) -> None:
        """Copy a chunk of any length in, overwriting the oldest samples when there is no room.

        Floats go in as they are, int16 and int32 PCM is scaled to [-1, 1). A chunk longer than the capacity
        leaves its newest samples. Raises ``AudioFormatError`` and changes nothing when the chunk has another
        type or rank, or holds NaN or infinite samples.
        """
        chunk = as_samples(samples)
        self._check(chunk)
        n = len(chunk)
        end = self._end + n
        if n > self.free:
            self._overruns += 1
        self._claimed = end
        self._copy_in(chunk if n <= self._capacity else chunk[-self._capacity :], end)
        self._end = end

    def consume(self, n: int) -> FloatArray:
        """Remove and return the n oldest samples; when fewer are held, raise ``NotYetError``, taking none."""
        while True:
            start, end = self._bounds()
            if not 0 <= n <= end - start:
                raise NotYetError(f"asked to consume {n} samples, but the buffer holds {_held(start, end)}")
            samples = self._copy_out(start, n)
            if self._intact(start):
                self._taken = start + n
                self._given += n
                return samples

    def read(self, span: Span) -> FloatArray:
        """A copy of an absolute span, which stays in the buffer.

        Raises ``OverwrittenError`` when its first samples are gone (overwritten or consumed) and
        ``NotYetError`` when its last have not come; both say what was asked and what is held.
        """
        while True:
            start, end = self._bounds()
            if not start <= span.start <= span.end <= end:
                error = OverwrittenError if span.start < start else NotYetError
                asked = f"asked for samples {span.start}-{span.end}"
                raise error(f"{asked}, but the buffer now holds {start}-{end}")
            samples = self._copy_out(span.start, len(span))
            if self._intact(span.start):
                return samples

    def peek(self, n: int) -> FloatArray:
        """A copy of the n newest samples; raises ``BufferRangeError`` when fewer are held."""
        while True:
            start, end = self._bounds()
            if not 0 <= n <= end - start:
                held = _held(start, end)
                raise BufferRangeError(f"asked for the newest {n} samples, but the buffer holds {held}")
            samples = self._copy_out(end - n, n)
            if self._intact(end - n):
                return samples

    def read_all(self) -> FloatArray:
        """A copy of everything held, oldest first."""
        while True:
            start, end = self._bounds()
            samples = self._copy_out(start, end - start)
            if self._intact(start):
                return samples

    def clear(self) -> None:
        """Drop everything held, on purpose: it does not count as lost. Indices go on. For the consumer."""
        start, end = self._bounds()
        self._given += end - start
        self._taken = end

    def __len__(self) -> int:
        start, end = self._bounds()
        return end - start

    @property
    def start(self) -> int:
        """Absolute index of the oldest sample held."""
        return self._bounds()[0]

    @property
    def end(self) -> int:
        """Absolute index one past the newest sample: how many were ever appended."""
        return self._end

    @property
    def capacity(self) -> int:
        """How many samples fit."""
        return self._capacity

    @property
    def free(self) -> int:
        """How many samples fit without overwriting any."""
        return self._capacity - len(self)

    @property
    def nbytes(self) -> int:
        """Size of the sample memory in bytes, fixed at construction."""
        return self._data.nbytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples held."""
        return self._data.dtype

    @property
    def overruns(self) -> int:
        """How many appends found less room than they needed."""
        return self._overruns

    @property
    def dropped_samples(self) -> int:
        """How many samples were overwritten before anyone consumed or cleared them."""
        return self.start - self._given

    def __repr__(self) -> str:
        return (
            f"RingBuffer(capacity={self._capacity}, dtype={self.dtype.name}) holding {_held(*self._bounds())}"
        )

    def _bounds(self) -> tuple[int, int]:
        """First and one past last index held; read in the order that keeps them apart, whoever writes."""
        taken = self._taken
        end = self._end
        return max(taken, end - self._capacity), end

    def _intact(self, start: int) -> bool:
        """Whether samples just copied from ``start`` on are whole: the producer kept out of their place."""
        return self._claimed - self._capacity <= start

    def _check(self, chunk: npt.NDArray[Any]) -> None:
        if chunk.ndim != 1:
            raise AudioFormatError(f"expected samples of shape (n,), got {chunk.shape}")
        if chunk.dtype.kind == "f" and not _energy(chunk) < self._largest:
            bad = int(np.count_nonzero(~(np.abs(chunk) <= self._largest)))  # NaN compares false
            if bad:
                raise AudioFormatError(f"expected finite samples, but {bad} of {len(chunk)} are not")

    def _copy_in(self, chunk: npt.NDArray[Any], end: int) -> None:
        """Put the chunk (at most ``capacity`` long) where samples ending at the absolute index belong."""
        n = len(chunk)
        first = (end - n) % self._capacity
        head = self._capacity - first
        if n <= head:
            _convert(chunk, self._data[first : first + n])
        else:
            _convert(chunk[:head], self._data[first:])
            _convert(chunk[head:], self._data[: n - head])

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start % self._capacity
        head = self._capacity - first
        if n <= head:
            return self._data[first : first + n].copy()
        return np.concatenate((self._data[first:], self._data[: n - head]))


def _convert(chunk: npt.NDArray[Any], place: npt.NDArray[Any]) -> None:
    """Copy samples into the ring and scale PCM there: ``np.multiply(chunk, ...)`` would buffer the cast."""
    np.copyto(place, chunk, casting="same_kind")
    if chunk.dtype.kind == "i":
        np.multiply(place, 1.0 / full_scale(chunk.dtype), out=place)
        np.minimum(place, BELOW_ONE, out=place)  # int32's largest value rounds up to full scale


def _energy(chunk: npt.NDArray[Any]) -> float:
    """Sum of squares: the cheapest look at every sample that NaN and infinity cannot hide from.

    ``vdot`` overflows to infinity without a warning, ``dot`` with one; but ``vdot`` copies a strided chunk.
    """
    if chunk.flags.c_contiguous:
        return float(np.vdot(chunk, chunk))
    with np.errstate(over="ignore"):
        return float(chunk.dot(chunk))


def _held(start: int, end: int) -> str:
    return f"{end - start} (samples {start}-{end})"


def _checked_capacity(capacity: int) -> int:
    try:
        size = operator.index(capacity)
    except TypeError:
        size = 0
    if size < 1 or isinstance(capacity, bool):
        raise ConfigurationError(f"capacity must be a whole number of samples, at least 1, got {capacity!r}")
    return size


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except TypeError as error:
        raise ConfigurationError(f"dtype must be float32 or float64, got {dtype!r}") from error
    if checked not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ConfigurationError(f"dtype must be float32 or float64, got {dtype!r}")
    return checked


def _allocate(capacity: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The ring's memory with every page touched, so that no append waits for the system to hand one out."""
    try:
        return np.full(capacity, 0.0, dtype)
    except (ValueError, MemoryError) as error:
        raise ConfigurationError(
            f"a capacity of {capacity} samples does not fit in memory: {error}"
        ) from error

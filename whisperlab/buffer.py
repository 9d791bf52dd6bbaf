"""RingBuffer: a circular buffer of samples in memory allocated once, with one copy in and one copy out.

Guarantee: for any chunking, the ring holds the newest ``capacity`` samples that were appended and not consumed, in
order, and ``end == consumed + dropped_samples + len(ring)`` at any time. Samples have absolute indices, which never
restart.

Threads: one thread may append while one other thread reads and consumes, without a lock. Each cursor has one writer.
The producer sets ``_writing_until`` to the end of a chunk before it copies the chunk, and ``end`` after it. The
consumer checks ``_writing_until`` again after its own copy, and repeats the copy if the producer may have written into
it. An interrupted append (``KeyboardInterrupt``) loses its own samples and those it was about to overwrite.
"""

import operator
import os
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.audio_arrays import BELOW_ONE, FloatArray, Samples, as_samples, full_scale
from whisperlab.util.errors import AudioFormatError, BufferRangeError, ConfigurationError, NotYetError, OverwrittenError
from whisperlab.util.timeline import Span
from whisperlab.util.validation import check_range, shown

_LOUDEST = 1e15  # far beyond any audio, and its square can be summed over any chunk within float32
_LOUDEST_SQUARED = np.float32(_LOUDEST**2)  # a numpy scalar compares twice as fast


class RingBuffer:
    """A circular buffer of float samples. When full, it overwrites the oldest samples and counts them as dropped.

    ``capacity`` is in samples; ``dtype``, float32 or float64, is the type of stored and returned samples.
    Raises ``ConfigurationError``, a ``ValueError``, for invalid options.

    >>> ring = RingBuffer(capacity=4)
    >>> ring.append(np.array([1, 2, 3], np.float32))
    >>> ring.append(np.array([4, 5], np.float32))
    >>> ring.read_all(), ring.start, ring.end, ring.dropped_samples
    (array([2., 3., 4., 5.], dtype=float32), 1, 5, 1)
    """

    __slots__ = (
        *("_consumed_until", "_data", "_lost_until", "_memory", "_n_consumed", "_strides", "_writing_until"),
        *("capacity", "dtype", "end", "overruns"),
    )

    def __init__(self, capacity: int, dtype: npt.DTypeLike = np.float32) -> None:
        with suppress(TypeError):  # numpy's integers are accepted too
            capacity = capacity if isinstance(capacity, bool) else operator.index(capacity)
        check_range("capacity, in samples,", capacity, int, 1)
        self.capacity: Final = capacity
        self.dtype: Final = _checked_dtype(dtype)
        self._data = _allocate(self.capacity, self.dtype)
        # assigning to a memoryview takes half the time of assigning to a slice of an array
        self._memory: Any = memoryview(self._data)  # type: ignore[arg-type]
        self._strides = self._data.strides
        # written by the producer only
        self._writing_until = 0  # the producer may be writing samples before this index, over those `capacity` earlier
        self.end = 0  # absolute index one past the newest sample: the number of samples ever appended
        self._lost_until = 0  # samples before this index were lost to an interrupted append
        self.overruns = 0  # number of appends that overwrote samples
        # written by the consumer only
        self._consumed_until = 0  # first index that was not consumed or cleared
        self._n_consumed = 0  # number of samples consumed or cleared; less than _consumed_until when some were lost

    def append(self, samples: npt.ArrayLike) -> None:
        """Append a chunk of any length, shape (n,); overwrites the oldest samples when the buffer is full.

        Floats are stored unchanged, int16 and int32 PCM is scaled to [-1, 1). Raises ``AudioFormatError``, and changes
        nothing, for other types and ranks and for samples that are NaN, infinite or beyond 1e15.
        """
        chunk: Any = samples
        begin, capacity = self.end, self.capacity
        first = begin % capacity
        try:  # the sum of squares is the cheapest test that finds every NaN and infinity
            last = first + len(chunk)
            usual = (
                last <= capacity
                and chunk.strides == self._strides  # one dimension, contiguous
                and chunk.dtype is self.dtype
                and chunk.dot(chunk) < _LOUDEST_SQUARED
            )
        except (AttributeError, TypeError):  # not an array
            usual = False
        if not usual:
            chunk = _checked_chunk(samples)
        end = begin + len(chunk)
        try:
            if end - self._consumed_until > capacity and end > begin:
                self.overruns += 1
            self._writing_until = end
            if usual:
                self._memory[first:last] = chunk
            else:
                self._copy_in(chunk[-capacity:], end)
            self.end = end
        except BaseException:  # the samples that it may have overwritten are lost; the rest is unchanged
            self._lost_until = max(self._lost_until, min(self._writing_until - self.capacity, self.end))
            self._writing_until = self.end
            raise

    def consume(self, n: int) -> FloatArray:
        """Remove and return the n oldest samples. With fewer held, raises ``NotYetError`` and removes none."""
        while True:
            n, start, _ = self._holding(n, "consume", NotYetError)
            samples = self._copy_out(start, n)
            # `_intact` inlined: a call would let another thread in, which would count these samples as lost.
            if self._writing_until - self.capacity <= start and self._lost_until <= start:
                self._consumed_until, self._n_consumed = start + n, self._n_consumed + n
                return samples

    def read(self, span: Span) -> FloatArray:
        """A copy of an absolute span. Raises ``OverwrittenError`` if its start is gone, or ``NotYetError``."""
        while True:
            start, end = self._bounds()
            if not start <= span.start <= span.end <= end:
                error = OverwrittenError if span.start < start else NotYetError
                raise error(f"cannot read samples {span.start}-{span.end}: the buffer now holds {start}-{end}")
            samples = self._copy_out(span.start, len(span))
            if self._intact(span.start):
                return samples

    def peek(self, n: int) -> FloatArray:
        """A copy of the n newest samples. Raises ``BufferRangeError`` when fewer are held."""
        while True:
            n, _, end = self._holding(n, "read the newest")
            samples = self._copy_out(end - n, n)
            if self._intact(end - n):
                return samples

    def read_all(self) -> FloatArray:
        """A copy of all samples held, oldest first."""
        while True:
            start, end = self._bounds()
            samples = self._copy_out(start, end - start)
            if self._intact(start):
                return samples

    def clear(self) -> None:
        """Remove all samples; they do not count as dropped, and indices continue. For the consumer thread."""
        while True:
            start, end = self._bounds()
            if self._writing_until - self.capacity <= start and self._lost_until <= start:  # as in `consume`
                self._consumed_until, self._n_consumed = end, self._n_consumed + end - start
                return

    def __len__(self) -> int:
        start, end = self._bounds()
        return end - start

    @property
    def start(self) -> int:
        """Absolute index of the oldest sample held."""
        return self._bounds()[0]

    @property
    def free(self) -> int:
        """Samples that can be appended without overwriting any."""
        return self.capacity - len(self)

    @property
    def nbytes(self) -> int:
        """Size of the sample memory in bytes, fixed at construction."""
        return self._data.nbytes

    @property
    def dropped_samples(self) -> int:
        """Number of samples that were overwritten before they were consumed or cleared."""
        while True:  # a third thread may read this while the consumer consumes
            n_consumed = self._n_consumed
            start = self.start
            if n_consumed == self._n_consumed:
                return start - n_consumed

    def _repr_html_(self) -> str:
        names = ("start", "end", "free", "nbytes", "overruns", "dropped_samples")
        title = f"{type(self).__name__} of {self.capacity:,} samples"
        return html.facts(title, {name: getattr(self, name) for name in names})

    def __repr__(self) -> str:
        held = f"{len(self)} (samples {self.start}-{self.end})"
        return f"RingBuffer(capacity={self.capacity}, dtype={self.dtype.name}) holding {held}"

    def _bounds(self) -> tuple[int, int]:
        """First index held and one past the last; this order of reads keeps them consistent under writes."""
        consumed, lost = self._consumed_until, self._lost_until
        end = self.end
        return max(consumed, end - self.capacity, lost), end

    def _holding(self, n: int, doing: str, error: type[BufferRangeError] = BufferRangeError) -> tuple[int, int, int]:
        """The number, and `_bounds`; raises unless that many samples are held."""
        start, end = self._bounds()
        try:
            wanted = operator.index(n)
        except TypeError as cause:
            raise ConfigurationError(f"expected a whole number of samples, got {shown(n)}") from cause
        if not 0 <= wanted <= end - start:
            held = f"{end - start} (samples {start}-{end})"
            raise error(f"cannot {doing} {shown(wanted)} samples: the buffer holds {held}")
        return wanted, start, end

    def _intact(self, start: int) -> bool:
        """Whether the samples from ``start`` on, just copied, were not overwritten meanwhile."""
        return max(self._writing_until - self.capacity, self._lost_until) <= start

    def _copy_in(self, chunk: Samples, end: int) -> None:
        """Store a chunk, at most ``capacity`` long, as the samples before index ``end``; PCM is scaled in place."""
        n = len(chunk)
        first = (end - n) % self.capacity
        head = min(n, self.capacity - first)
        for part, start in ((chunk[:head], first), (chunk[head:], 0)):
            place = self._data[start : start + len(part)]
            np.copyto(place, part, casting="same_kind")
            if chunk.dtype.kind == "i":  # np.multiply(part, ...) would allocate for the cast
                np.multiply(place, 1.0 / full_scale(chunk.dtype), out=place)
                np.minimum(place, BELOW_ONE, out=place)  # int32's largest value rounds up to full scale

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start % self.capacity
        head = self.capacity - first
        if n <= head:
            return self._data[first : first + n].copy()
        return np.concatenate((self._data[first : self.capacity], self._data[: n - head]))


def _checked_chunk(samples: npt.ArrayLike) -> Samples:
    """The samples as a valid one-dimensional array, without a copy; raises ``AudioFormatError`` otherwise."""
    chunk = as_samples(samples)
    if chunk.ndim != 1:
        raise AudioFormatError(f"expected samples of shape (n,), got {chunk.shape}")
    if chunk.dtype.kind == "f":
        with np.errstate(over="ignore"):
            squares = float(chunk.dot(chunk))
        # NaN compares false. The limits are float64: as a float16 they would be infinite and exclude nothing.
        if not squares < float(_LOUDEST_SQUARED):
            bad = int(np.count_nonzero(~(np.abs(chunk) <= np.float64(_LOUDEST))))
            if bad:
                raise AudioFormatError(f"expected finite samples up to {_LOUDEST:g}, but {bad} of {len(chunk)} are not")
    return chunk


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[np.floating]:
    with suppress(TypeError, ValueError):
        for allowed in (np.dtype(np.float32), np.dtype(np.float64)):
            if np.dtype(dtype) == allowed:
                return allowed
    raise ConfigurationError(f"dtype must be float32 or float64, got {shown(dtype)}")


def _allocate(capacity: int, dtype: np.dtype[np.floating]) -> Samples:
    """Memory with every page touched, so that no append waits for a page fault."""
    if capacity * dtype.itemsize > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        # more than the machine has: Linux may grant it and kill the process when the pages are touched
        raise ConfigurationError(f"a capacity of {shown(capacity)} samples does not fit in memory")
    try:
        return np.full(capacity, 0.0, dtype)
    except (ValueError, MemoryError) as error:
        raise ConfigurationError(f"a capacity of {capacity} samples does not fit in memory: {error}") from error

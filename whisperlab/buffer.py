"""A ring of samples in memory taken once: what comes in is copied once, and nothing is allocated afterwards.

Guarantee: whatever the chunking, the ring holds the newest ``capacity`` samples that were appended and not
consumed, in order, and ``end == consumed + dropped_samples + len(ring)`` at any time. The price is one look
at every sample (is it finite?), one copy in and one copy out. Samples are known by their absolute index in
the stream, which never starts again.

A ring made with ``mirrored=True`` keeps every sample twice, ``capacity`` apart, so that any stretch of it lies
in one piece: ``view`` hands out the newest samples without copying, whatever their number. The price is twice
the memory and a second copy in. A view is only as good as the samples under it: the producer goes on, and
what it has overwritten is found out, by ``RingView``, and never handed out in silence.

One thread may append while one other thread reads and consumes, without a lock. Each cursor has one writer:
the producer announces (``_claimed``) what it is about to overwrite before it copies and publishes (``_end``)
what it has copied afterwards; the consumer looks at the announcement again after its own copy, and a copy
the producer could have run into is made again, never handed out. An append that is interrupted in the middle
(``KeyboardInterrupt``) costs the samples it was about to overwrite and its own, nothing else. This relies on
loads and stores of one thread being seen in order by the other, which the interpreter lock gives.
"""

from __future__ import annotations

import operator
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.audio_arrays import BELOW_ONE, FloatArray, as_samples, full_scale
from whisperlab.util.errors import (
    AudioFormatError,
    BufferRangeError,
    ConfigurationError,
    NotYetError,
    OverwrittenError,
)
from whisperlab.util.timeline import Span
from whisperlab.util.validation import shown

_LOUDEST = 1e15  # far beyond any audio, and its square can be summed over any chunk within float32
_LOUDEST_SQUARED = np.float32(_LOUDEST**2)  # numpy's own: compares twice as fast


class RingBuffer:
    """A circular buffer of float samples that overwrites its oldest when full, and counts what that cost.

    ``capacity`` is in samples; ``dtype`` is float32 or float64 (what reads return); ``mirrored`` makes ``view``
    possible. Raises ``ConfigurationError``, a ``ValueError``, for anything else.

    >>> ring = RingBuffer(capacity=4)
    >>> ring.append(np.array([1, 2, 3], np.float32))
    >>> ring.append(np.array([4, 5], np.float32))
    >>> ring.read_all(), ring.start, ring.end, ring.dropped_samples
    (array([2., 3., 4., 5.], dtype=float32), 1, 5, 1)
    """

    __slots__ = (
        "_capacity",
        "_claimed",
        "_data",
        "_dtype",
        "_end",
        "_given",
        "_memory",
        "_mirrored",
        "_overruns",
        "_readable",
        "_strides",
        "_taken",
        "_torn",
    )

    def __init__(self, capacity: int, dtype: npt.DTypeLike = np.float32, *, mirrored: bool = False) -> None:
        self._capacity = _checked_capacity(capacity)
        self._dtype = _checked_dtype(dtype)
        self._mirrored = mirrored
        self._data = _allocate(self._capacity * (2 if mirrored else 1), self._dtype)
        memory: Any = self._data
        self._memory: Any = memoryview(memory)  # takes a chunk in half the time a slice of an array needs
        self._strides = self._data.strides
        self._readable = self._data[:]
        self._readable.setflags(write=False)
        # written by the producer alone
        self._claimed = 0  # samples before this index may be in the middle of being written
        self._end = 0
        self._torn = 0  # samples before this index were lost to an append that did not end
        self._overruns = 0
        # written by the consumer alone
        self._taken = 0  # the first index the consumer has not disposed of
        self._given = 0  # samples consumed or cleared, which is fewer than _taken when some were lost

    def append(self, samples: npt.ArrayLike) -> None:
        """Copy a chunk of any length in, overwriting the oldest samples when there is no room.

        Floats go in as they are, int16 and int32 PCM is scaled to [-1, 1). A chunk longer than the capacity
        leaves its newest samples. Raises ``AudioFormatError`` and changes nothing when the chunk has another
        type or rank, or holds samples that are NaN, infinite or beyond 1e15, which is no audio.
        """
        chunk: Any = samples
        begin, capacity = self._end, self._capacity
        first = begin % capacity
        try:  # the sum of squares is the cheapest look that no NaN and no infinity hides from
            last = first + len(chunk)
            usual = (
                last <= capacity
                and chunk.strides == self._strides  # one dimension, in one piece
                and chunk.dtype is self._dtype
                and chunk.dot(chunk) < _LOUDEST_SQUARED
            )
        except (AttributeError, TypeError):  # no array
            usual = False
        if not usual:
            chunk = _checked_chunk(samples)
        end = begin + len(chunk)
        try:
            if end - self._taken > capacity and end > begin:
                self._overruns += 1
            self._claimed = end
            if usual:
                self._memory[first:last] = chunk
                if self._mirrored:
                    self._memory[first + capacity : last + capacity] = chunk
            else:
                self._copy_in(chunk[-capacity:], end)
            self._end = end
        except BaseException:
            self._give_up()
            raise

    def consume(self, n: int) -> FloatArray:
        """Remove and return the n oldest samples; when fewer are held, raise ``NotYetError``, taking none."""
        n = _checked_count(n)
        while True:
            start, end = self._bounds()
            if not 0 <= n <= end - start:
                raise NotYetError(
                    f"asked to consume {shown(n)} samples, but the buffer holds {_held(start, end)}"
                )
            samples = self._copy_out(start, n)
            # As `_intact`, but without a call: no other thread comes in between, and sees as lost what is being taken.
            if self._claimed - self._capacity <= start and self._torn <= start:
                self._taken, self._given = start + n, self._given + n
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
        n = _checked_count(n)
        while True:
            start, end = self._bounds()
            if not 0 <= n <= end - start:
                held = _held(start, end)
                raise BufferRangeError(
                    f"asked for the newest {shown(n)} samples, but the buffer holds {held}"
                )
            samples = self._copy_out(end - n, n)
            if self._intact(end - n):
                return samples

    def view(self, n: int) -> RingView:
        """The n newest samples where they lie, at a cost that does not depend on n; the ring must be mirrored.

        Raises ``BufferRangeError`` when fewer are held. See ``RingView`` for how long it may be used.
        """
        if not self._mirrored:
            raise ConfigurationError("a view needs samples in one piece: RingBuffer(..., mirrored=True)")
        n = _checked_count(n)
        start, end = self._bounds()
        if not 0 <= n <= end - start:
            raise BufferRangeError(
                f"asked to view the newest {shown(n)} samples, but the buffer holds {_held(start, end)}"
            )
        first = (end - n) % self._capacity
        return RingView(self, self._readable[first : first + n], end - n)

    def read_all(self) -> FloatArray:
        """A copy of everything held, oldest first."""
        while True:
            start, end = self._bounds()
            samples = self._copy_out(start, end - start)
            if self._intact(start):
                return samples

    def clear(self) -> None:
        """Drop everything held, on purpose: it does not count as lost. Indices go on. For the consumer."""
        while True:
            start, end = self._bounds()
            if self._claimed - self._capacity <= start and self._torn <= start:  # as in `consume`
                self._taken, self._given = end, self._given + end - start
                return

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
        """Size of the sample memory in bytes, fixed at construction; a mirrored ring has all samples twice."""
        return self._data.nbytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples held."""
        return self._dtype

    @property
    def overruns(self) -> int:
        """How many appends found less room than they needed."""
        return self._overruns

    @property
    def dropped_samples(self) -> int:
        """How many samples were overwritten before anyone consumed or cleared them."""
        while True:  # a third thread may ask while the consumer takes some
            given = self._given
            start = self.start
            if given == self._given:
                return start - given

    def _repr_html_(self) -> str:
        """What Jupyter shows: how full it is, and what was lost."""
        held = len(self)
        return html.facts(
            f"{type(self).__name__} of {self.capacity:,} samples",
            {
                "held": f"{html.bar(held / self.capacity)} {held / self.capacity:.0%}, {held:,} samples",
                "span": f"{self.start:,} to {self.end:,}",
                "memory": f"{self.nbytes / 2**20:.2f} MiB",
                "overruns": self.overruns,
                "dropped samples": self.dropped_samples,
            },
        )

    def __repr__(self) -> str:
        return (
            f"RingBuffer(capacity={self._capacity}, dtype={self.dtype.name}) holding {_held(*self._bounds())}"
        )

    def _bounds(self) -> tuple[int, int]:
        """First and one past last index held; read in the order that keeps them apart, whoever writes."""
        taken, torn = self._taken, self._torn
        end = self._end
        return max(taken, end - self._capacity, torn), end

    def _intact(self, start: int) -> bool:
        """Whether samples just looked at from ``start`` on are whole: the producer kept out of their place."""
        return max(self._claimed - self._capacity, self._torn) <= start

    def _give_up(self) -> None:
        """After an append that did not end: what it may have written over is lost, the rest is as it was."""
        self._torn = max(self._torn, min(self._claimed - self._capacity, self._end))
        self._claimed = self._end

    def _copy_in(self, chunk: npt.NDArray[Any], end: int) -> None:
        """Put a chunk (at most ``capacity`` long, of any accepted type) where samples ending at the index belong."""
        n = len(chunk)
        first = (end - n) % self._capacity
        head = min(n, self._capacity - first)
        for part, place in ((chunk[:head], first), (chunk[head:], 0)):
            _convert(part, self._data[place : place + len(part)])
            if self._mirrored:
                again = place + self._capacity
                self._data[again : again + len(part)] = self._data[place : place + len(part)]

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start % self._capacity
        if self._mirrored:
            return self._data[first : first + n].copy()
        head = self._capacity - first
        if n <= head:
            return self._data[first : first + n].copy()
        return np.concatenate((self._data[first : self._capacity], self._data[: n - head]))


class RingView:
    """The newest samples of a ring at one moment, not copied; for ``with``, or checked at every ``samples``.

    They stay what they were until the producer needs their place: ``ring.capacity - len(view)`` more samples.
    What a ``with`` block computes counts only when the block ends without ``OverwrittenError``; take a
    copy of what should be kept longer. An array taken out of the block is not watched any more.

    >>> ring = RingBuffer(capacity=4, mirrored=True)
    >>> ring.append(np.array([1, 2, 3], np.float32))
    >>> with ring.view(2) as newest:
    ...     loudest = newest.max()
    >>> float(loudest)
    3.0
    """

    __slots__ = ("_ring", "_samples", "_start")

    def __init__(self, ring: RingBuffer, samples: FloatArray, start: int) -> None:
        self._ring = ring
        self._samples = samples
        self._start = start

    @property
    def span(self) -> Span:
        """Which samples of the stream these are."""
        return Span(self._start, self._start + len(self._samples))

    @property
    def intact(self) -> bool:
        """Whether none of the samples has been overwritten or is about to be."""
        return self._ring._intact(self._start)

    @property
    def samples(self) -> FloatArray:
        """The samples, read-only; ``OverwrittenError`` when they are no longer what they were."""
        if not self._ring._intact(self._start):
            seen, ring = self.span, self._ring
            raise OverwrittenError(
                f"samples {seen.start}-{seen.end} were viewed and since overwritten; "
                f"the buffer now holds {ring.start}-{ring.end}"
            )
        return self._samples

    def __len__(self) -> int:
        return len(self._samples)

    def __enter__(self) -> FloatArray:
        return self.samples

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.samples  # noqa: B018 - raises when the block has looked at overwritten samples


def _convert(chunk: npt.NDArray[Any], place: npt.NDArray[Any]) -> None:
    """Copy samples into the ring and scale PCM there: ``np.multiply(chunk, ...)`` would buffer the cast."""
    np.copyto(place, chunk, casting="same_kind")
    if chunk.dtype.kind == "i":
        np.multiply(place, 1.0 / full_scale(chunk.dtype), out=place)
        np.minimum(place, BELOW_ONE, out=place)  # int32's largest value rounds up to full scale


def _checked_chunk(samples: npt.ArrayLike) -> npt.NDArray[Any]:
    """Samples of any accepted type, one-dimensional, without one that must be refused; not copied."""
    chunk = as_samples(samples)
    if chunk.ndim != 1:
        raise AudioFormatError(f"expected samples of shape (n,), got {chunk.shape}")
    if chunk.dtype.kind == "f" and not _square_sum(chunk) < float(_LOUDEST_SQUARED):
        # NaN compares false; the limit is a float64, for a float16 it would be infinity, and no infinity beyond it
        bad = int(np.count_nonzero(~(np.abs(chunk) <= np.float64(_LOUDEST))))
        if bad:
            raise AudioFormatError(
                f"expected finite samples up to {_LOUDEST:g}, but {bad} of {len(chunk)} are not"
            )
    return chunk


def _square_sum(chunk: npt.NDArray[Any]) -> float:
    """``vdot`` overflows to infinity without a warning, ``dot`` with one; but ``vdot`` copies a strided chunk."""
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
        raise ConfigurationError(
            f"capacity must be a whole number of samples, at least 1, got {shown(capacity)}"
        )
    return size


def _checked_count(n: int) -> int:
    try:
        return operator.index(n)
    except TypeError as error:
        raise ConfigurationError(f"expected a whole number of samples, got {shown(n)}") from error


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"dtype must be float32 or float64, got {shown(dtype)}") from error
    if checked not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ConfigurationError(f"dtype must be float32 or float64, got {shown(dtype)}")
    return checked


def _allocate(capacity: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The ring's memory with every page touched, so that no append waits for the system to hand one out."""
    if capacity * dtype.itemsize > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        # more than the machine has: the system might promise it, and end the process when it is touched
        raise ConfigurationError(f"a capacity of {shown(capacity)} samples does not fit in memory")
    try:
        return np.full(capacity, 0.0, dtype)
    except (ValueError, MemoryError) as error:
        raise ConfigurationError(
            f"a capacity of {capacity} samples does not fit in memory: {error}"
        ) from error

"""The ring buffer against a plain list, against the allocator, and between two threads."""

from __future__ import annotations

import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from extent import in_short_and_at_length
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from whisperlab import RingBuffer
from whisperlab.util.errors import AudioFormatError, BufferRangeError, ConfigurationError, NotYetError, OverwrittenError
from whisperlab.util.timeline import Span


def ramp(start: int, n: int) -> npt.NDArray[np.float32]:
    """Samples whose value is their absolute index (exact in float32 up to 2**24)."""
    return np.arange(start, start + n, dtype=np.float32)


def filled(capacity: int, n: int) -> RingBuffer:
    ring = RingBuffer(capacity)
    ring.append(ramp(0, n))
    return ring


# --- laws ---------------------------------------------------------------------------------------------


@contextmanager
def interrupted_appends(half: bool) -> Iterator[None]:
    """Ctrl-C arrives when an append has set its claim and written all or half of its chunk."""
    copy_in = RingBuffer._copy_in

    def interrupted(ring: RingBuffer, chunk: npt.NDArray[Any], end: int) -> None:
        copy_in(ring, chunk[: len(chunk) // 2 if half else None], end)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingBuffer, "_copy_in", interrupted)
        yield


class RingAgainstList(RuleBasedStateMachine):
    """Every operation on the ring, and the same on a plain list."""

    @initialize(capacity=st.integers(1, 12))
    def build(self, capacity: int) -> None:
        self.capacity = capacity
        self.ring = RingBuffer(capacity)
        self.held: list[float] = []
        self.appended = self.disposed = self.overruns = 0
        self.taken = 0  # the first index nobody has disposed of

    def count_overrun(self, n: int) -> None:
        self.overruns += n > 0 and self.appended + n - self.taken > self.capacity

    def model_append(self, values: list[float]) -> None:
        self.count_overrun(len(values))
        self.appended += len(values)
        self.held = (self.held + values)[-self.capacity :]

    @rule(n=st.integers(0, 30))
    def append(self, n: int) -> None:
        values = ramp(self.appended, n)
        self.ring.append(values)
        self.model_append(values.tolist())

    @rule(pcm=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=9))
    def append_pcm(self, pcm: list[int]) -> None:
        self.ring.append(np.array(pcm, np.int16))
        self.model_append([value / 2**15 for value in pcm])

    @rule(n=st.integers(1, 30), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def refuse(self, n: int, bad: float) -> None:
        chunk = ramp(0, n)
        chunk[n // 2] = bad
        with pytest.raises(AudioFormatError):
            self.ring.append(chunk)

    @rule(n=st.integers(-1, 14))
    def consume(self, n: int) -> None:
        if not 0 <= n <= len(self.held):
            with pytest.raises(NotYetError):
                self.ring.consume(n)
            return
        assert self.ring.consume(n).tolist() == self.held[:n]
        self.taken = self.appended - len(self.held) + n
        self.held = self.held[n:]
        self.disposed += n

    @rule(n=st.integers(-1, 14))
    def peek(self, n: int) -> None:
        if not 0 <= n <= len(self.held):
            with pytest.raises(BufferRangeError):
                self.ring.peek(n)
            return
        assert self.ring.peek(n).tolist() == self.held[len(self.held) - n :]

    @rule(n=st.integers(1, 14), half=st.booleans())
    def interrupt(self, n: int, half: bool) -> None:
        """An append that ends in the middle loses its own samples and those it may have written over."""
        with interrupted_appends(half), pytest.raises(KeyboardInterrupt):
            self.ring.append(np.full(n, -1, np.float64))
        self.count_overrun(n)
        kept = max(0, self.capacity - n)
        self.held = self.held[max(0, len(self.held) - kept) :]

    @precondition(lambda self: self.appended)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.appended + 3))
        span = Span(start, data.draw(st.integers(start, self.appended + 6)))
        first = self.appended - len(self.held)
        if span.start < first:
            with pytest.raises(OverwrittenError):
                self.ring.read(span)
        elif span.end > self.appended:
            with pytest.raises(NotYetError):
                self.ring.read(span)
        else:
            assert self.ring.read(span).tolist() == self.held[span.start - first : span.end - first]

    @rule()
    def clear(self) -> None:
        self.ring.clear()
        self.disposed += len(self.held)
        self.taken = self.appended
        self.held = []

    @invariant()
    def same_content_and_accounts(self) -> None:
        ring = self.ring
        assert ring.read_all().tolist() == self.held
        assert len(ring) == len(self.held) == ring.capacity - ring.free
        assert (ring.start, ring.end) == (self.appended - len(self.held), self.appended)
        assert ring.overruns == self.overruns
        assert ring.end == self.disposed + ring.dropped_samples + len(ring)
        assert ring.nbytes == 4 * self.capacity


class TestRingAgainstList(RingAgainstList.TestCase):
    settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestRingAgainstListAtLength(RingAgainstList.TestCase):
    settings = settings(max_examples=5000, stateful_step_count=25, deadline=None)


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 1000))
@settings(deadline=None)
def test_any_chunking_gives_the_same_content(lengths: list[int], capacity: int) -> None:
    whole, pieces = RingBuffer(capacity), RingBuffer(capacity)
    whole.append(ramp(0, sum(lengths)))
    for n in lengths:
        pieces.append(ramp(pieces.end, n))
    assert np.array_equal(whole.read_all(), pieces.read_all())
    assert (whole.start, whole.end) == (pieces.start, pieces.end)
    assert whole.dropped_samples == pieces.dropped_samples


# --- what goes in -------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 2.5, "many", None, True, 10**17])
def test_a_capacity_that_cannot_work_is_named(capacity: Any) -> None:
    with pytest.raises(ValueError, match=str(capacity)):
        RingBuffer(capacity)


@pytest.mark.parametrize("dtype", [np.int16, np.complex64, "sound", object])
def test_a_type_that_cannot_hold_audio_is_named(dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"got {dtype!r}"):
        RingBuffer(16, dtype)


def test_the_guide_s_sizes_are_accepted_and_nothing_hides_beside_the_samples() -> None:
    ring = RingBuffer(capacity=16000 * 60, dtype=np.float32)
    assert ring.nbytes == 16000 * 60 * 4
    assert not hasattr(ring, "__dict__")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pcm_is_scaled_to_below_one(dtype: Any) -> None:
    for pcm in (np.int16, np.int32):
        ring = RingBuffer(2, dtype)
        ring.append(np.array([np.iinfo(pcm).min, 0, np.iinfo(pcm).max], pcm))
        held = ring.read_all()
        assert held.dtype == dtype
        assert held[0] == 0
        assert 0.9999 < held[1] < 1
        ring.append(np.array([np.iinfo(pcm).min], pcm))
        assert ring.peek(1)[0] == -1


def test_every_layout_of_floats_goes_in() -> None:
    expected = ramp(0, 6)
    layouts: list[Any] = [
        expected,
        expected.tolist(),
        expected.astype(np.float64),
        expected.astype(np.float16),
        expected.astype(">f4"),
        np.repeat(expected, 3)[::3],
        np.stack([expected, -expected], axis=1)[:, 0],
        expected[::-1].copy()[::-1],
    ]
    for samples in layouts:
        ring = RingBuffer(4)
        ring.append(samples)
        assert ring.read_all().tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((4, 2), np.float32),
        np.float32(0.5),
        np.zeros(4, np.complex64),
        np.zeros(4, np.uint8),
        np.zeros(4, np.int64),
        np.array([0.0, 1e39]),  # finite, but not in float32
        np.array([0.0, np.nan])[::1],
        np.array([np.nan, 0.0, np.inf, 0.0], np.float32)[::2],
        b"\x00\x01",
        ["loud"],
        None,
    ],
)
def test_what_is_not_audio_is_refused_and_changes_nothing(samples: Any) -> None:
    ring = filled(capacity=4, n=6)
    with pytest.raises(AudioFormatError):
        ring.append(samples)
    assert ring.read_all().tolist() == [2, 3, 4, 5]
    assert (ring.start, ring.end, ring.overruns, ring.dropped_samples) == (2, 6, 1, 2)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loud_samples_are_kept_without_a_warning_and_beyond_any_audio_they_are_refused(step: int, dtype: Any) -> None:
    """Independently of the other samples of the chunk, which change the sum of squares."""
    ring = RingBuffer(4, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ring.append(np.full(8, 9e14, dtype)[::step])
        with pytest.raises(AudioFormatError, match=r"up to 1e\+15, but 1 of 4"):
            ring.append(np.array([0, 1, 1.1e15, 0], dtype))
        with pytest.raises(AudioFormatError, match=r"but 4 of 4"):
            ring.append(np.full(4, 1e30, np.float64))
    assert ring.read_all().tolist() == [dtype(9e14)] * 4


def test_what_comes_out_is_a_copy() -> None:
    ring = filled(capacity=4, n=4)
    for copy in (ring.read_all(), ring.peek(2), ring.read(Span(1, 3)), ring.consume(0)):
        copy[:] = -1
    assert ring.read_all().tolist() == [0, 1, 2, 3]


# --- what cannot be had -------------------------------------------------------------------------------


def test_the_error_for_an_overwritten_span_names_the_requested_and_the_held_span() -> None:
    ring = filled(capacity=32_000, n=64_000)
    with pytest.raises(OverwrittenError, match=r"cannot read samples 16000-48000: .* now holds 32000-64000"):
        ring.read(Span(16_000, 48_000))


def test_a_consumed_span_is_gone_and_a_future_one_not_there_yet() -> None:
    ring = filled(capacity=100, n=50)
    ring.consume(10)
    with pytest.raises(OverwrittenError, match="now holds 10-50"):
        ring.read(Span(5, 20))
    with pytest.raises(NotYetError, match="cannot read samples 40-60"):
        ring.read(Span(40, 60))


def test_consuming_too_much_takes_nothing() -> None:
    ring = filled(capacity=100, n=50)
    with pytest.raises(NotYetError, match=r"consume 51 samples: the buffer holds 50 \(samples 0-50\)"):
        ring.consume(51)
    assert len(ring) == 50


def test_indices_go_on_after_a_clear_and_cleared_samples_are_not_lost_ones() -> None:
    ring = filled(capacity=8, n=5)
    ring.clear()
    ring.append(ramp(5, 2))
    assert (ring.start, ring.end, len(ring), ring.dropped_samples) == (5, 7, 2, 0)
    assert repr(ring) == "RingBuffer(capacity=8, dtype=float32) holding 2 (samples 5-7)"


# --- memory -------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_and_kept(call: Callable[[], None], times: int) -> tuple[int, int]:
    """Peak bytes allocated by a call, and bytes that remain after many calls."""
    call()  # counters and caches reach their size
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(times):
        call()
    kept, peak = tracemalloc.get_traced_memory()
    return peak - before, kept - before


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros(16_000, np.float32),
        np.zeros(16_000, np.float64),
        np.zeros(16_000, np.int16),
        np.zeros(16_000, np.int32),
        np.zeros((16_000, 2), np.float32)[:, 0],
        np.zeros(60_000, np.float32),
    ],
    ids=["float32", "float64", "int16", "int32", "strided", "longer-than-the-ring"],
)
def test_append_allocates_no_sample_memory(traced: None, chunk: npt.NDArray[Any]) -> None:
    """A chunk here is 32 to 240 kB; only a few view headers are allocated, and freed after the call."""
    ring = RingBuffer(50_000)
    for _ in range(5):
        ring.append(chunk)
    # Threads that other tests left in this process allocate too, now and then: the quietest of three rounds counts.
    peak, kept = min(peak_and_kept(lambda: ring.append(chunk), times=1000) for _ in range(3))
    assert peak < 2_000
    assert kept < 300


# --- two threads --------------------------------------------------------------------------------------


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


MODULUS = 2**20  # indices stay exact in float32
soaked = in_short_and_at_length("total", 20_000_000, 20_000_000_000)  # samples: a moment, and minutes


@soaked
def test_a_patient_producer_and_a_consumer_lose_repeat_and_tear_nothing(frequent_switches: None, total: int) -> None:
    """Many samples in odd chunk sizes, each checked, and their sum at the end."""
    ring = RingBuffer(50_021)
    sizes = np.random.default_rng(1).integers(1, 30_000, 4096).tolist()
    source = (np.arange(MODULUS + ring.capacity) % MODULUS).astype(np.float32)

    def produce() -> None:
        turn = 0
        while ring.end < total:
            n = sizes[turn % len(sizes)]
            if n <= ring.free:
                first = ring.end % MODULUS
                ring.append(source[first : first + n])
                turn += 1

    producer = in_thread(produce)
    received, checksum = 0, 0.0
    while producer.is_alive() or len(ring):
        got = ring.consume(len(ring))
        first = received % MODULUS
        assert np.array_equal(got, source[first : first + len(got)])
        received += len(got)
        checksum += float(got.sum(dtype=np.float64))
    producer.join()

    whole, rest = divmod(received, MODULUS)
    assert received == ring.end >= total
    assert (ring.overruns, ring.dropped_samples) == (0, 0)
    assert checksum == whole * (MODULUS * (MODULUS - 1) / 2) + rest * (rest - 1) / 2


@soaked
def test_a_consumer_that_is_overrun_sees_gaps_but_never_a_tear_and_the_gaps_are_counted(
    frequent_switches: None, total: int
) -> None:
    """Large blocks are copied outside the interpreter lock: both threads are inside the ring at once."""
    ring = RingBuffer(100_000)
    source = (np.arange(2 * MODULUS) % MODULUS).astype(np.float32)

    def produce() -> None:
        while ring.end < total:
            first = ring.end % MODULUS
            ring.append(source[first : first + 60_001])

    def whole(got: npt.NDArray[np.float32]) -> bool:
        first = int(got[0]) if len(got) else 0
        return np.array_equal(got, source[first : first + len(got)])

    producer = in_thread(produce)
    consumed = refused = 0
    while producer.is_alive():
        assert whole(ring.peek(min(50_000, len(ring))))
        assert whole(ring.read_all())
        try:
            start = ring.start
            got = ring.read(Span(start, start + min(1_000, len(ring))))
            assert not len(got) or got[0] == start % MODULUS
            assert whole(got)
        except OverwrittenError:
            refused += 1
        got = ring.consume(len(ring) // 2)
        assert whole(got)
        consumed += len(got)
    producer.join()

    assert ring.overruns > 0
    assert ring.end == consumed + ring.dropped_samples + len(ring)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_half_precision_infinity_is_refused(value: float) -> None:
    """The limit of 1e15 is infinite in float16, so that no value would exceed it."""
    ring = RingBuffer(4)
    with pytest.raises(AudioFormatError, match="1 of 2 are not"):
        ring.append(np.array([value, 1], np.float16))
    assert len(ring) == 0


@pytest.mark.parametrize("call", ["consume", "peek"])
@pytest.mark.parametrize("n", [0.5, "1", None, []])
def test_a_number_of_samples_is_an_integer(call: str, n: Any) -> None:
    ring = RingBuffer(4)
    ring.append(np.ones(3, np.float32))
    with pytest.raises(ConfigurationError, match="whole number of samples"):
        getattr(ring, call)(n)
    assert len(ring) == 3


def test_more_memory_than_the_machine_has_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux may grant the memory and kill the process when the ring touches it."""
    asked = []
    monkeypatch.setattr(np, "full", lambda *args: asked.append(args))
    with pytest.raises(ConfigurationError, match="does not fit in memory"):
        RingBuffer(2**50)
    assert not asked

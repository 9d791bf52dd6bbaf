"""What the ring buffer, the encoder cache and the timers cost on this machine, beside what they replace.

Subjects that are compared run in turns within one process, each in every round, and are timed in processor
time of their thread: a busy machine then slows both. What is kept is the ratio of each round; its median stands
with a distribution-free 95 % interval (the order statistics of a binomial, David and Nagaraja 2003, 7.1).
"""

from __future__ import annotations

import gc
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from math import floor, sqrt
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from whisperlab.buffer import RingBuffer
from whisperlab.cache import KEYS, EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.results import SessionSegment
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import process_memory
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, samples

if TYPE_CHECKING:
    from whisper.model import Whisper

    from whisperlab.model.weights import Weights

APPENDS = 1000  # the guide's count
CHUNK = SAMPLE_RATE // 10  # 100 ms
HELD_S = 10  # seconds both buffers keep; 625 KB, as in the guide
ROUNDS = 31
CALLS = 2000  # per round, of what takes about a microsecond
RECORDING = 4  # threads that record at once

SPEECH: FloatArray = np.random.default_rng(0).uniform(-1, 1, CHUNK).astype(np.float32)


@dataclass(slots=True, frozen=True)
class Figure:
    """One measured value; ``low`` and ``high`` bound it with 95 % confidence, ``n`` counts rounds or samples."""

    figure: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(slots=True, frozen=True)
class Point:
    """One point of a curve: milliseconds at ``x``, the middle of some rounds with its 95 % interval."""

    curve: str
    line: str
    x: float
    ms: float
    low: float | None
    high: float | None


Subject = Callable[[], object]
Times = dict[str, list[float]]


def in_turns(
    subjects: Mapping[str, Subject],
    rounds: int | None = None,
    clock: Callable[[], int] = time.thread_time_ns,
) -> Times:
    """Milliseconds each subject took, round by round, all subjects once in every round.

    ``clock`` in nanoseconds: processor time of this thread, unless several threads do the work.
    """
    times: Times = {name: [] for name in subjects}
    for _ in range(rounds or ROUNDS):
        for name, subject in subjects.items():
            began = clock()
            subject()
            times[name].append((clock() - began) / 1e6)
    return times


def middle(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median and its 95 % interval; no interval for fewer than six values, which cannot bound one.

    >>> middle([5, 1, 4, 2, 3, 6])
    (3.5, 1, 6)
    """
    ordered, n = sorted(values), len(values)
    outside = max(0, floor((n + 1) / 2 - 0.98 * sqrt(n)) - 1)  # values below the interval, and as many above
    low, high = (ordered[outside], ordered[n - 1 - outside]) if n >= 6 else (None, None)
    return median(ordered), low, high


def ratio(name: str, slow: Sequence[float], fast: Sequence[float]) -> Figure:
    """How many times slower: the middle of the ratios of each round, which had one share of the machine."""
    return Figure(name, *shown("x", [a / b for a, b in zip(slow, fast, strict=True)]))


def shown(unit: str, values: Sequence[float]) -> tuple[float, str, float | None, float | None, int]:
    """The middle of some values with its unit, interval and count, as a `Figure` takes them."""
    value, low, high = middle(values)
    return value, unit, low, high, len(values)


def repeated(call: Subject, times: int) -> Subject:
    """A subject that makes a call many times."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


# --- the buffer ---------------------------------------------------------------------------------------


def concatenated(keep: int, appends: int | None = None) -> FloatArray:
    """The plain pipeline's buffer after 1,000 chunks, trimmed to the newest ``keep`` samples each time."""
    held = np.array([], dtype=np.float32)
    for _ in range(appends or APPENDS):
        held = np.concatenate([held, SPEECH])[-keep:]
    return held


def ring_filled(keep: int, appends: int | None = None) -> RingBuffer:
    """The ring after the same chunks, its construction included."""
    ring = RingBuffer(keep)
    for _ in range(appends or APPENDS):
        ring.append(SPEECH)
    return ring


def traced_bytes(build: Subject) -> tuple[int, int]:
    """Bytes held by what ``build`` returns, and the most in use on the way (Python's and numpy's own)."""
    gc.collect()
    tracemalloc.start()
    result = build()
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return current, peak


def bytes_per_append() -> float:
    """Bytes still there after an append in steady state, by tracemalloc: 0 when nothing is kept."""
    ring = RingBuffer(HELD_S * SAMPLE_RATE)
    append = repeated(lambda: ring.append(SPEECH), CALLS)
    held = np.zeros(2, np.int64)  # the figures themselves must not take memory
    tracemalloc.start()
    append()
    held[0] = tracemalloc.get_traced_memory()[0]
    append()
    held[1] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return float(held[1] - held[0]) / CALLS


def append_curve(
    held_s: Sequence[float] = (1, 2, 5, 10, 30, 60), rounds: int | None = None, calls: int = 20
) -> list[Point]:
    """Milliseconds of one append of 100 ms to a buffer that holds so much: ring, np.concatenate, and a bare copy."""
    points: list[Point] = []
    place = np.empty(CHUNK, np.float32)

    def copy() -> None:
        place[:] = SPEECH

    for length_s in held_s:
        keep = samples(length_s)
        held, ring = np.zeros(keep, np.float32), RingBuffer(keep)
        plain = partial(lambda held, keep: np.concatenate([held, SPEECH])[-keep:], held, keep)
        append = partial(ring.append, SPEECH)
        subjects: dict[str, Subject] = {
            "np.concatenate": plain,
            "RingBuffer": append,
            "bare copy of the chunk": copy,
        }
        times = in_turns({name: repeated(subject, calls) for name, subject in subjects.items()}, rounds)
        points += [
            Point("seconds held", name, length_s, *middle([ms / calls for ms in took]))
            for name, took in times.items()
        ]
    return points


def buffer_figures() -> list[Figure]:
    """Appending against ``np.concatenate`` and a bare copy; reading as a view and as a copy."""
    return [*_growth(), *_floor(), *_reads()]


def _growth() -> list[Figure]:
    """The advantage over ``np.concatenate`` grows with what is held, because that copies all of it."""
    figures = []
    for held_s in (1, HELD_S, 60, None):
        keep = APPENDS * CHUNK if held_s is None else held_s * SAMPLE_RATE
        times = in_turns(
            {"plain": lambda keep=keep: concatenated(keep), "ring": lambda keep=keep: ring_filled(keep)},  # type: ignore[misc]
            rounds=None if held_s in (1, HELD_S) else max(1, ROUNDS // 4),
        )
        what = "everything, 100 s at last" if held_s is None else f"the newest {held_s} s"
        figures.append(
            ratio(f"{APPENDS} np.concatenate / append, holding {what}", times["plain"], times["ring"])
        )
    return figures


def _floor() -> list[Figure]:
    place, ring = np.empty(CHUNK, np.float32), RingBuffer(HELD_S * SAMPLE_RATE)
    mirrored = RingBuffer(HELD_S * SAMPLE_RATE, mirrored=True)
    memory, n_places = np.empty(HELD_S * SAMPLE_RATE, np.float32), HELD_S * SAMPLE_RATE // CHUNK

    def copy() -> None:
        for _ in range(CALLS):
            place[:] = SPEECH

    def copy_on() -> None:
        for turn in range(CALLS):
            first = turn % n_places * CHUNK
            memory[first : first + CHUNK] = SPEECH

    def look() -> None:
        for _ in range(CALLS):
            SPEECH.dot(SPEECH)

    def append() -> None:
        for _ in range(CALLS):
            ring.append(SPEECH)

    def append_mirrored() -> None:
        for _ in range(CALLS):
            mirrored.append(SPEECH)

    times = in_turns(
        {"copy": copy, "copy on": copy_on, "look": look, "append": append, "append mirrored": append_mirrored}
    )
    return [
        Figure("append of 100 ms", *shown("ns", [ms / CALLS * 1e6 for ms in times["append"]])),
        ratio("append / bare copy into one place", times["append"], times["copy"]),
        ratio("append / bare copy into successive places", times["append"], times["copy on"]),
        ratio(
            "append to a mirrored ring / bare copy into one place", times["append mirrored"], times["copy"]
        ),
        ratio("of that, the look for NaN and infinity / bare copy", times["look"], times["copy"]),
        Figure("kept after an append in steady state", bytes_per_append(), "bytes", n=CALLS),
    ]


def _reads() -> list[Figure]:
    ring = RingBuffer(HELD_S * SAMPLE_RATE, mirrored=True)
    for _ in range(HELD_S * 10 + 50):  # the newest lies over the end of the memory
        ring.append(SPEECH)

    def viewed(n: int) -> Subject:
        def run() -> None:
            for _ in range(CALLS):
                with ring.view(n):
                    pass

        return run

    subjects: dict[str, Subject] = {"copy 2 s": repeated(lambda: ring.peek(samples(2)), CALLS // 10)}
    lengths = (0.1, 2, 8)
    subjects |= {f"view {length_s} s": viewed(samples(length_s)) for length_s in lengths}
    times = in_turns(subjects)
    copied = [10 * ms for ms in times["copy 2 s"]]
    return [
        Figure("newest 2 s as a view", *shown("ns", [ms / CALLS * 1e6 for ms in times["view 2 s"]])),
        ratio("newest 2 s as a copy / as a view", copied, times["view 2 s"]),
        ratio("view of 2 s / of 0.1 s", times["view 2 s"], times["view 0.1 s"]),
        ratio("view of 8 s / of 0.1 s", times["view 8 s"], times["view 0.1 s"]),
    ]


# --- the timers ---------------------------------------------------------------------------------------


def metrics_figures(records: int = 10_000_000) -> list[Figure]:
    """What a measurement costs, against the two readings of the clock without which nothing can be timed."""
    metrics, clock = PerformanceMetrics(), time.perf_counter_ns

    def two_readings() -> None:
        for _ in range(CALLS):
            clock()
            clock()

    def measure() -> None:
        for _ in range(CALLS):
            with metrics.measure("lid.total"):
                pass

    def record() -> None:
        for _ in range(CALLS):
            metrics.record("lid.total", 0.001)

    def start_and_stop() -> None:
        for _ in range(CALLS):
            metrics.start_timer("lid.total")
            metrics.stop_timer("lid.total")

    @metrics.measure("lid.total")
    def nothing() -> None:
        pass

    subjects: dict[str, Subject] = {
        "two readings of the clock": two_readings,
        "measure()": measure,
        "record()": record,
        "start_timer() and stop_timer()": start_and_stop,
        "a decorated function": repeated(nothing, CALLS),
    }
    times = in_turns(subjects)
    floor_times = times["two readings of the clock"]
    figures = [Figure(name, *shown("ns", [ms / CALLS * 1e6 for ms in mine])) for name, mine in times.items()]
    figures += [
        ratio(f"{name} / two readings of the clock", mine, floor_times)
        for name, mine in times.items()
        if mine is not floor_times
    ]
    shared = [_shared_record_ns() for _ in range(ROUNDS)]
    figures.append(
        Figure(f"record() from {RECORDING} threads at once, by the wall clock", *shown("ns", shared))
    )
    figures.append(Figure("resident memory grown", _grown_bytes(metrics, records), "bytes", n=records))
    return figures


def _shared_record_ns() -> float:
    """Wall time per record while several threads record into one operation as fast as they can."""
    metrics, start = PerformanceMetrics(), threading.Barrier(RECORDING + 1)

    def work() -> None:
        start.wait()
        for _ in range(CALLS):
            metrics.record("lid.total", 0.001)

    threads = [threading.Thread(target=work) for _ in range(RECORDING)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - began) / (RECORDING * CALLS)


def _grown_bytes(metrics: PerformanceMetrics, records: int) -> int:
    """How much resident memory so many more records added, after as many as fill every buffer."""

    def fill(n: int) -> int:
        for _ in range(n):
            metrics.record("lid.total", 0.001)
        return process_memory()["VmRSS"]

    before = fill(10_000)
    return fill(records) - before


# --- the cache ----------------------------------------------------------------------------------------


def cache_figures(model: Whisper | Weights) -> list[Figure]:
    """Look-ups of a 2 s window by key, what of it is hashing, and what 50 entries weigh, short and padded."""
    from whisperlab.model.encoder import ShortWindowEncoder
    from whisperlab.model.weights import weights_of

    window = (0.1 * np.random.default_rng(0).standard_normal(samples(2))).astype(np.float32)
    encoder = ShortWindowEncoder(weights_of(model))
    with torch_threads(THREADS):
        short = encoder.encode(window, margin=0).features
        padded = encoder.encode(window, margin=samples(28)).features
    figures = []
    for key in KEYS:
        lookup_ms, hash_ms = _lookups(EncoderCache(key=key), short, window)
        figures += [
            Figure(
                f"{key}: look-up of 2 s, hash included, p{q}",
                float(np.percentile(lookup_ms, q)),
                "ms",
                n=CALLS,
            )
            for q in (50, 95)
        ]
        figures.append(Figure(f"{key}: share of hashing", sum(hash_ms) / sum(lookup_ms), "", n=CALLS))
    for name, output in (("2 s", short), ("2 s padded to 30 s", padded)):
        cache = EncoderCache(max_size=50)
        for index in range(50):
            cache.put(output, audio=window + np.float32(index))
        figures.append(Figure(f"50 outputs of {name}", cache.get_statistics()["bytes"], "bytes", n=50))
    figures.append(Figure("padded / short", figures[-1].value / figures[-2].value, "x"))
    return figures


def _lookups(cache: EncoderCache, output: object, window: FloatArray) -> tuple[list[float], list[float]]:
    """Milliseconds of hits, hash included, and of their hashes."""
    span = ("stream", 0, len(window))
    cache.put(output, audio_hash=cache.precompute_hash(window, span))  # type: ignore[arg-type]
    lookup_ms, hash_ms = [], []
    for _ in range(CALLS):
        began = time.perf_counter_ns()
        asked = cache.precompute_hash(window, span)
        hashed = time.perf_counter_ns()
        assert cache.get(audio_hash=asked) is not None
        lookup_ms.append((time.perf_counter_ns() - began) / 1e6)
        hash_ms.append((hashed - began) / 1e6)
    return lookup_ms, hash_ms


# --- the guide's small things: chunk tracking, slotted records ------------------------------------------


TEXTS = {
    "a sentence": " she went home, y luego llamó a su hermana",
    "punctuation alone": " ... !? -- ...",
    "a long pause written out": " . " * 100,
}


def tracking_figures(pattern: re.Pattern[str]) -> list[Figure]:
    """Searching for one letter or digit with a precompiled pattern, against asking every character."""
    figures = []
    for name, text in TEXTS.items():

        def ask(text: str = text) -> None:
            for _ in range(CALLS):
                any(c.isalnum() for c in text)

        def find(text: str = text) -> None:
            for _ in range(CALLS):
                pattern.search(text)

        times = in_turns({"ask": ask, "find": find})
        figures.append(ratio(f"any(isalnum) / pattern, {name}", times["ask"], times["find"]))
    return figures


def slot_figures(n: int = 100_000) -> list[Figure]:
    """Bytes of a ``SessionSegment`` with slots and of the same record with a ``__dict__``, by tracemalloc."""
    loose = make_dataclass("Loose", SessionSegment.__slots__)

    def bytes_each(kind: Callable[..., object]) -> float:
        return traced_bytes(lambda: [kind("hola", "es", 0.0, 1.0, True, 0.9) for _ in range(n)])[0] / n

    slotted, open_ = bytes_each(SessionSegment), bytes_each(loose)
    return [
        Figure("SessionSegment with slots", slotted, "bytes", n=n),
        Figure("the same with a __dict__", open_, "bytes", n=n),
        Figure("saved by slots", 1 - slotted / open_, "", n=n),
    ]

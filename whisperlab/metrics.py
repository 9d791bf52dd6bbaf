"""PerformanceMetrics: latency per operation from raw samples, with exact percentiles and its own cost.

Guarantee: no record is lost, from whatever thread, task or nesting level it comes (an interrupt loses only the record
being made). Percentiles are those of the newest ``max_samples`` raw samples; the other figures cover all records since
the last reset. Cost: one ``list.append`` per record, which is atomic, and about 20 µs of folding every 256 records.
"""

import functools
import math
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.errors import ConfigurationError, TimerError
from whisperlab.util.log import logger
from whisperlab.util.prometheus import StreamExporter
from whisperlab.util.text_table import text_table
from whisperlab.util.validation import check_range, shown

if TYPE_CHECKING:
    import pandas
    from prometheus_client.core import Metric

NanosecondArray = npt.NDArray[np.int64]
P = ParamSpec("P")
R = TypeVar("R")

PERCENTILES = (50, 90, 95, 99)
FIELDS = ("count", "total", "mean", "min", "max", "std", *(f"p{q}" for q in PERCENTILES), "last", "n")

_BLOCK = 256  # records between two folds: the 20 µs of a fold are then less than 0.1 µs per record
_NS_PER_MS = 1e6
_NS_PER_S = 1e9
MOST_SAMPLES = 10_000_000  # of one operation: 80 MB
_MAX_S = 2**63 / _NS_PER_S - 1  # the range of an int64 of nanoseconds: 292 years


@dataclass(frozen=True, slots=True)
class Totals:
    """Running totals of all records of an operation; times in nanoseconds."""

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    last: int = 0
    m2: float = 0.0  # squared deviations from the mean, summed without cancellation (Chan, Golub and LeVeque 1983)

    @classmethod
    def of(cls, block: NanosecondArray) -> "Totals":
        """The totals of at least one sample, in the order of recording."""
        deviations = block - block.mean()
        low, high, last = int(block.min()), int(block.max()), int(block[-1])
        return cls(len(block), int(block.sum()), low, high, last, m2=float(deviations @ deviations))

    def __add__(self, later: "Totals") -> "Totals":
        if not (self.count and later.count):
            return self if self.count else later
        count, total = self.count + later.count, self.total + later.total
        low, high = min(self.low, later.low), max(self.high, later.high)
        apart = later.total / later.count - self.total / self.count
        m2 = self.m2 + later.m2 + apart * apart * self.count * later.count / count
        return Totals(count, total, low, high, later.last, m2)

    def summary(self, window: NanosecondArray) -> dict[str, float]:
        """The ``FIELDS`` in milliseconds; percentiles interpolate linearly between the ``n`` samples of the window."""
        std, percentiles = math.sqrt(self.m2 / self.count), np.percentile(window, PERCENTILES).tolist()
        ns = (self.total, self.total / self.count, self.low, self.high, std, *percentiles, self.last)
        ms = (value / _NS_PER_MS for value in ns)
        return dict(zip(FIELDS, (self.count, *ms, len(window)), strict=True))


class _Operation:
    """The samples of one operation. Any thread appends to ``pending``; one thread at a time folds it into the ring."""

    __slots__ = ("_folding", "_ring", "_totals", "pending")

    def __init__(self, max_samples: int) -> None:
        self.pending: list[float] = []  # ns, not yet rounded; appending to a list is faster than to an array
        self._folding = threading.Lock()
        self._ring: NanosecondArray = np.zeros(max_samples, np.int64)
        self._totals = Totals()

    def add(self, duration_ns: int) -> None:
        self.pending.append(duration_ns)
        if len(self.pending) >= _BLOCK:
            self.try_fold()

    def try_fold(self) -> None:
        """Fold unless another thread is folding; then a later record triggers the next fold."""
        if not self._folding.locked():
            with self._folding:  # an interrupt between acquire() and try would leave the lock taken
                self._fold()

    def snapshot(self) -> tuple[Totals, NanosecondArray]:
        """Totals and window (a copy, oldest first) of all records so far."""
        with self._folding:
            self._fold()
            return self._totals, self._window()

    def absorb(self, known: Totals, window: NanosecondArray) -> None:
        """Add another operation's records as the newer ones; the ring grows to hold both windows."""
        with self._folding:
            self._fold()
            both = np.concatenate((self._window(), window))
            ring = np.zeros(max(len(both), len(self._ring)), np.int64)
            joined = self._totals + known
            ring[_places(both, joined.count, len(ring))] = both
            self._ring, self._totals = ring, joined

    def clear(self) -> None:
        nothing = Totals()
        with self._folding:
            self.pending[:], self._totals = (), nothing

    def _fold(self) -> None:
        """Move the pending samples seen at the start into ring and totals; other threads may append meanwhile.

        One statement without a call changes all three, so no interrupt can come in between.
        """
        if n := len(self.pending):
            block = np.rint(self.pending[:n]).astype(np.int64)
            known = self._totals + Totals.of(block)
            newest = block[-len(self._ring) :]
            places = _places(newest, known.count, len(self._ring))
            self._ring[places], self._totals, self.pending[:n] = newest, known, ()

    def _window(self) -> NanosecondArray:
        size, end = len(self._ring), self._totals.count
        return self._ring[np.arange(max(0, end - size), end) % size]


def _places(newest: NanosecondArray, count: int, size: int) -> npt.NDArray[np.intp]:
    """Indices in a ring of ``size`` of the newest of ``count`` samples."""
    return np.arange(count - len(newest), count) % size


class Timing:
    """Times ``with`` blocks, nested ones too, or as a decorator calls; an exception is timed too and propagates."""

    __slots__ = ("_append", "_clock", "_operation", "_outer", "_pending", "began")

    def __init__(self, operation: _Operation, clock: Callable[[], int]) -> None:
        self._operation, self._clock = operation, clock
        self._pending, self._append = operation.pending, operation.pending.append
        self.began: int | None = None  # start of the innermost running block
        self._outer: list[int] = []  # starts of the blocks around it

    def __enter__(self) -> None:
        if self.began is not None:
            self._outer.append(self.began)
        self.began = self._clock()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._append(self._clock() - self.began)  # type: ignore[operator]  # _Operation.add, inlined
        self.began = self._outer.pop() if self._outer else None
        if len(self._pending) >= _BLOCK:
            self._operation.try_fold()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        clock, add = self._clock, self._operation.add

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                add(clock() - began)

        return timed


@dataclass
class _OfThread(threading.local):
    """Per thread: an idle timer for each operation, and the started timers, the latest last."""

    timings: dict[str, Timing] = field(default_factory=dict)
    started: dict[str, list[int]] = field(default_factory=dict)


class PerformanceMetrics(StreamExporter):
    """Latency per operation, with percentiles. All methods are safe to call from any thread or asyncio task.

    Durations are given and returned in seconds; statistics are in milliseconds.

    Args:
        max_samples: newest records per operation that percentiles are computed from.
        enable_logging: log one line every ``log_interval_seconds`` to the logger ``whisperlab``, from another thread.
        stream: value of Prometheus' label ``stream``; may be set later.
    """

    __slots__ = ("_clock", "_creating", "_max_samples", "_of_thread", "_operations", "self_cost_ns")

    def __init__(
        self,
        max_samples: int = 1000,
        enable_logging: bool = False,
        log_interval_seconds: float = 300.0,
        clock: Callable[[], int] = time.perf_counter_ns,  # monotonic
        *,
        stream: str | None = None,
    ) -> None:
        super().__init__(stream)
        check_range("max_samples", max_samples, int, 1, MOST_SAMPLES)
        check_range("log_interval_seconds", log_interval_seconds, float, 0, threading.TIMEOUT_MAX, exclusive=True)
        self._max_samples = max_samples
        self._creating = threading.Lock()
        self.self_cost_ns = self._calibrate()  # cost of one ``measure``, measured at construction
        self._of_thread = _OfThread()
        self._operations: dict[str, _Operation] = {}
        self._clock = clock
        if enable_logging:
            _log_every(log_interval_seconds, self)

    def measure(self, operation: str) -> Timing:
        """Time a ``with`` block or, as a decorator, every call of a function."""
        try:
            timing = self._of_thread.timings[operation]
            if timing.began is None:
                return timing
        except KeyError:
            pass
        # A new timer, kept for this thread. A running timer is never reused, even after an interrupt.
        timing = self._of_thread.timings[operation] = Timing(self._operation(operation), self._clock)
        return timing

    def record(self, operation: str, seconds: float) -> None:
        """Add a duration measured elsewhere; raises ``ConfigurationError`` if it is negative or not a number."""
        try:
            usable = 0 <= seconds < _MAX_S
        except (TypeError, ValueError):  # an array has no truth value
            usable = False
        if not usable:
            raise ConfigurationError(f"expected the seconds {operation} took, 0 or more, got {shown(seconds)}")
        try:
            known = self._operations[operation]
        except KeyError:
            known = self._operation(operation)
        pending = known.pending  # known.add, inlined to save a call
        pending.append(seconds * _NS_PER_S)  # rounded in the fold: rounding costs as much as the rest of this method
        if len(pending) >= _BLOCK:
            known.try_fold()

    def start_timer(self, operation: str) -> None:
        """Start timing in this thread. Timers of one operation nest: `stop_timer` stops the latest."""
        self._operation(operation)
        self._of_thread.started.setdefault(operation, []).append(self._clock())

    def stop_timer(self, operation: str) -> float:
        """Stop this thread's latest timer and return its seconds; raises ``TimerError`` without a started one."""
        now = self._clock()
        started = self._of_thread.started.get(operation)
        if not started:
            raise TimerError(f"stop_timer({operation!r}) without a start_timer in this thread")
        duration_ns = now - started.pop()
        self._operation(operation).add(duration_ns)
        return duration_ns / _NS_PER_S

    def samples_ns(self, operation: str) -> NanosecondArray:
        """The raw window of an operation in nanoseconds, oldest first; empty without records."""
        known = self._operations.get(operation)
        return known.snapshot()[1] if known else np.zeros(0, np.int64)

    def get_statistics(self) -> dict[str, dict[str, float]]:
        """The ``FIELDS`` of every operation with records, in milliseconds, sorted by name."""
        return {name: known.summary(window) for name, known, window in self._snapshots()}

    def to_frame(self) -> "pandas.DataFrame":
        """``get_statistics`` as a data frame: one row per operation, one column per field."""
        import pandas

        frame = pandas.DataFrame.from_dict(self.get_statistics(), orient="index", columns=list(FIELDS))
        return frame.astype({"count": "int64", "n": "int64"}).rename_axis("operation")

    def _repr_html_(self) -> str:
        fields = ("count", "p50", "p95", "p99", "max")
        lines = ((name, *(row[field] for field in fields)) for name, row in self.get_statistics().items())
        return html.rows("Latency in milliseconds", ("operation", *fields), lines)

    def get_summary(self) -> str:
        """A text table of the statistics and of the cost of measuring."""
        shown = ("mean", "p50", "p95", "p99", "max")
        rows = [
            {"operation": name, "count": row["count"], **{f"{each} ms": f"{row[each]:.3f}" for each in shown}}
            for name, row in self.get_statistics().items()
        ]
        cost = f"percentiles of the newest samples; one measurement costs {self.self_cost_ns / 1000:.2f} µs"
        return f"{text_table(rows) if rows else '(no operation was recorded)'}\n{cost}"

    def reset(self) -> None:
        """Remove all records. Running timers continue."""
        for operation in list(self._operations.values()):
            operation.clear()

    def merge(self, other: "PerformanceMetrics") -> None:
        """Add all records of another object, as if recorded here after the existing ones; windows are joined."""
        for name, known, window in list(other._snapshots()):
            self._operation(name).absorb(known, window)

    def own_families(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily, SummaryMetricFamily

        name = "whisperlab_operation_duration_seconds"
        family = SummaryMetricFamily(name, "Time one call of an operation took.")
        for operation, known, window in self._snapshots():
            for q, value in zip(PERCENTILES, np.percentile(window, PERCENTILES), strict=True):
                quantile = {"operation": operation, "quantile": str(q / 100)}
                family.add_sample(name, quantile, float(value) / _NS_PER_S)
            family.add_sample(f"{name}_sum", {"operation": operation}, known.total / _NS_PER_S)
            family.add_sample(f"{name}_count", {"operation": operation}, known.count)
        yield family
        cost = "Time one measurement takes, by the clock of this machine when the program started."
        yield GaugeMetricFamily("whisperlab_measurement_cost_seconds", cost, self.self_cost_ns / _NS_PER_S)

    def _operation(self, name: str) -> _Operation:
        if not (isinstance(name, str) and name):
            raise ConfigurationError(f"an operation needs a name, got {name!r}")
        with self._creating:
            if name not in self._operations:
                self._operations[name] = _Operation(self._max_samples)
            return self._operations[name]

    def _calibrate(self, rounds: int = 15, calls: int = 40) -> float:
        """Median nanoseconds per ``with self.measure(...)``, less the loop around it, by a real clock."""
        self._of_thread, self._operations, self._clock = _OfThread(), {}, time.perf_counter_ns

        def round_ns() -> float:
            began = time.perf_counter_ns()
            for _ in range(calls):
                with self.measure("self"):
                    pass
            middle = time.perf_counter_ns()
            for _ in range(calls):
                pass
            return (2 * middle - began - time.perf_counter_ns()) / calls

        return statistics.median(round_ns() for _ in range(rounds))

    def _snapshots(self) -> Iterator[tuple[str, Totals, NanosecondArray]]:
        """Name, totals and window of every operation with records, sorted by name."""
        for name, operation in sorted(self._operations.items()):
            known, window = operation.snapshot()
            if known.count:
                yield name, known, window


def _log_every(interval_s: float, metrics: PerformanceMetrics) -> None:
    """Log from a daemon thread that holds only a weak reference to the metrics and ends with them."""
    ended, find = threading.Event(), weakref.ref(metrics)
    weakref.finalize(metrics, ended.set)

    def log() -> None:
        while not ended.wait(interval_s):
            found = find()
            table = found.get_statistics() if found else {}
            del found  # otherwise this thread would keep it alive through the next wait
            parts = (f"{name} {row['p50']:.3f}/{row['p95']:.3f} ({row['count']})" for name, row in table.items())
            if table:
                logger.info("latency p50/p95 ms (count): " + ", ".join(parts))

    threading.Thread(target=log, name="whisperlab-metrics", daemon=True).start()

"""How long operations take: raw samples, exact percentiles, and what the measuring itself costs.

Guarantee: no record is lost, whatever threads, tasks or nesting it comes from (an interrupt costs the one being
made), and percentiles are those of the raw samples in the window (the newest ``max_samples`` of an operation),
never of buckets. Count, total, mean, extremes and deviation cover everything since the start or the last reset.
The price: an ``append`` to a list a record, which the interpreter makes atomic, and some 20 µs of folding every 256.
"""

from __future__ import annotations

import functools
import logging
import math
import statistics
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.errors import ConfigurationError, TimerError
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    import pandas
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

Source = Callable[[], Iterable[Any]]  # a bound method that yields prometheus_client's metrics
NanosecondArray = npt.NDArray[np.int64]
P = ParamSpec("P")
R = TypeVar("R")

OPERATIONS = (
    "vad.buffer_append",
    "lid.buffer_append",
    "lid.total",
    "lid.frame_extract",
    "lid.encoder_forward",
    "lid.detect",
    "lid.smoothing",
    "lid.sustained_detection",
    "whisper.buffer_read",
    "whisper.insert_audio",
    "whisper.infer",
    "whisper.decode",
    "chunk.total",
    "vad.detect",
    "session.restart",
)
PERCENTILES = (50, 90, 95, 99)
FIELDS = ("count", "total", "mean", "min", "max", "std", *(f"p{q}" for q in PERCENTILES), "last", "n")

_BLOCK = 256  # records between foldings: the fold's 20 µs come to less than 0.1 µs a record
_NS_PER_MS = 1e6
_NS_PER_S = 1e9
MOST_SAMPLES = 10_000_000  # of one operation: 80 MB
_MAX_S = 2**63 / _NS_PER_S - 1  # what an int64 of nanoseconds holds: 292 years
_LOGGER = logging.getLogger("whisperlab")


@dataclass(frozen=True, slots=True)
class Totals:
    """What is known of every record of an operation; times in nanoseconds.

    ``m2`` is the sum of squared deviations from the mean: unlike a sum of squares it adds up across blocks
    without cancellation (Chan, Golub and LeVeque 1983).
    """

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    last: int = 0
    m2: float = 0.0


def totals(block: NanosecondArray) -> Totals:
    """The totals of some samples, at least one, in the order they were taken."""
    deviations = block - block.mean()
    return Totals(
        count=len(block),
        total=int(block.sum()),
        low=int(block.min()),
        high=int(block.max()),
        last=int(block[-1]),
        m2=float(deviations @ deviations),
    )


def combine(earlier: Totals, later: Totals) -> Totals:
    """The totals of two runs of records as if they had been one."""
    if not (earlier.count and later.count):
        return earlier if earlier.count else later
    count = earlier.count + later.count
    apart = later.total / later.count - earlier.total / earlier.count
    return Totals(
        count=count,
        total=earlier.total + later.total,
        low=min(earlier.low, later.low),
        high=max(earlier.high, later.high),
        last=later.last,
        m2=earlier.m2 + later.m2 + apart * apart * earlier.count * later.count / count,
    )


def summarise(known: Totals, window: NanosecondArray) -> dict[str, float]:
    """The ``FIELDS`` of one operation in milliseconds; ``count`` and ``n`` (the window) are sample counts.

    Percentiles interpolate linearly between samples, as ``numpy.percentile`` does.
    """
    percentiles = np.percentile(window, PERCENTILES) / _NS_PER_MS
    return {
        "count": known.count,
        "total": known.total / _NS_PER_MS,
        "mean": known.total / known.count / _NS_PER_MS,
        "min": known.low / _NS_PER_MS,
        "max": known.high / _NS_PER_MS,
        "std": math.sqrt(known.m2 / known.count) / _NS_PER_MS,
        **{f"p{q}": float(value) for q, value in zip(PERCENTILES, percentiles, strict=True)},
        "last": known.last / _NS_PER_MS,
        "n": len(window),
    }


class _Operation:
    """The samples of one operation: any thread appends to ``pending``, one at a time folds it away."""

    __slots__ = ("_folding", "_ring", "_totals", "pending")

    def __init__(self, max_samples: int) -> None:
        self.pending: list[float] = []  # ns, whole or not; a list takes them faster than an array
        self._folding = threading.Lock()
        self._ring: NanosecondArray = np.zeros(max_samples, np.int64)
        self._totals = Totals()

    def add(self, duration_ns: int) -> None:
        """Record one duration."""
        self.pending.append(duration_ns)
        if len(self.pending) >= _BLOCK:
            self.relieve()

    def relieve(self) -> None:
        """Fold, unless another thread is at it: a later record will come back."""
        if not self._folding.locked():
            with self._folding:  # an interrupt after acquire() and before try would leave it locked
                self._fold()

    def known(self) -> tuple[Totals, NanosecondArray]:
        """Totals and window (a copy, oldest first) of everything recorded up to now."""
        with self._folding:
            self._fold()
            return self._totals, self._window()

    def absorb(self, known: Totals, window: NanosecondArray) -> None:
        """Take another operation's records in as newer ones; the ring grows to hold both windows."""
        with self._folding:
            self._fold()
            both = np.concatenate((self._window(), window))
            ring = np.zeros(max(len(both), len(self._ring)), np.int64)
            together = combine(self._totals, known)
            ring[_places(both, together.count, len(ring))] = both
            self._ring, self._totals = ring, together

    def clear(self) -> None:
        """Forget every record."""
        nothing = Totals()
        with self._folding:
            self.pending[:], self._totals = (), nothing

    def _fold(self) -> None:
        """Move what is pending into ring and totals, and no more than was seen: others may append.

        All three change in one statement without a call, which no interrupt can split.
        """
        n = len(self.pending)
        if not n:
            return
        block = np.rint(self.pending[:n]).astype(np.int64)
        known = combine(self._totals, totals(block))
        newest = block[-len(self._ring) :]
        places = _places(newest, known.count, len(self._ring))
        self._ring[places], self._totals, self.pending[:n] = newest, known, ()

    def _window(self) -> NanosecondArray:
        size, end = len(self._ring), self._totals.count
        return self._ring[np.arange(max(0, end - size), end) % size]


def _places(newest: NanosecondArray, count: int, size: int) -> npt.NDArray[np.intp]:
    """Where in a ring of that size the newest of ``count`` samples belong."""
    return np.arange(count - len(newest), count) % size


class Timing:
    """A stopwatch for a ``with`` statement or a decorated function, made by ``PerformanceMetrics.measure``.

    It may be entered again while it runs. An exception is timed like a return, and passes through.
    """

    __slots__ = ("_append", "_clock", "_operation", "_outer", "_pending", "began")

    def __init__(self, operation: _Operation, clock: Callable[[], int]) -> None:
        self._operation = operation
        self._pending = operation.pending
        self._append = operation.pending.append
        self._clock = clock
        self.began: int | None = None  # when the innermost block began
        self._outer: list[int] = []  # when those around it did

    def __enter__(self) -> None:
        if self.began is not None:
            self._outer.append(self.began)
        self.began = self._clock()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._append(self._clock() - self.began)  # type: ignore[operator]  # _Operation.add, spelt out
        self.began = self._outer.pop() if self._outer else None
        if len(self._pending) >= _BLOCK:
            self._operation.relieve()

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


class _OfThread(threading.local):
    """What a thread keeps: an idle stopwatch by operation, and its started timers, the latest last."""

    def __init__(self) -> None:
        self.timings: dict[str, Timing] = {}
        self.started: dict[str, list[int]] = {}


class PerformanceMetrics:
    """Latency by operation, with percentiles; usable from any number of threads and asyncio tasks.

    Any thread may call anything at any time; the figures of an operation are of one moment.

    Percentiles look at the newest ``max_samples`` records of an operation. With ``enable_logging`` a thread
    of its own writes one line to the logger ``whisperlab`` every ``log_interval_seconds``. ``clock`` counts
    nanoseconds and never goes back. Durations go in and out in seconds, statistics are in milliseconds.

    ``stream`` names the stream in Prometheus' label of that name, which tells several on one endpoint apart; it may be
    set later. Where several without a name are exported together they are numbered.

    >>> ticks = iter(range(0, 10**9, 2_500_000))
    >>> metrics = PerformanceMetrics(clock=lambda: next(ticks))
    >>> with metrics.measure("lid.total"):
    ...     pass
    >>> metrics.get_statistics()["lid.total"]["p95"]
    2.5
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_creating",
        "_max_samples",
        "_of_thread",
        "_operations",
        "_sources",
        "self_cost_ns",
        "stream",
    )

    def __init__(
        self,
        max_samples: int = 1000,
        enable_logging: bool = False,
        log_interval_seconds: float = 300.0,
        clock: Callable[[], int] = time.perf_counter_ns,
        *,
        stream: str | None = None,
    ) -> None:
        check_type("stream", stream, str | None)
        check_type("max_samples", max_samples, int)
        check_type("log_interval_seconds", log_interval_seconds, float)
        if not 1 <= max_samples <= MOST_SAMPLES:
            raise ConfigurationError(f"max_samples must be 1 to {MOST_SAMPLES}, got {shown(max_samples)}")
        if not 0 < log_interval_seconds <= threading.TIMEOUT_MAX:
            raise ConfigurationError(
                f"log_interval_seconds must be more than 0, got {shown(log_interval_seconds)}"
            )
        self.stream = stream
        self._sources: dict[str, weakref.WeakMethod[Source]] = {}
        self._max_samples = max_samples
        self._creating = threading.Lock()
        self.self_cost_ns = self._calibrate()  # what one ``measure`` adds, taken here and now
        self._of_thread = _OfThread()
        self._operations: dict[str, _Operation] = {}
        self._clock = clock
        if enable_logging:
            _log_every(log_interval_seconds, self)

    def measure(self, operation: str) -> Timing:
        """Time a ``with`` block, or as a decorator every call of a function.

        >>> metrics = PerformanceMetrics()
        >>> @metrics.measure("lid.detect")
        ... def detect() -> str:
        ...     return "es"
        >>> detect(), metrics.get_statistics()["lid.detect"]["count"]
        ('es', 1)
        """
        try:
            timing = self._of_thread.timings[operation]
            if timing.began is None:
                return timing
        except KeyError:
            pass
        return self._timing(operation)

    def record(self, operation: str, seconds: float) -> None:
        """Add a duration measured elsewhere; ``ConfigurationError`` when it is negative or not a number."""
        try:
            usable = 0 <= seconds < _MAX_S
        except (TypeError, ValueError):  # an array has no truth value
            usable = False
        if not usable:
            raise ConfigurationError(
                f"expected the seconds {operation} took, 0 or more, got {shown(seconds)}"
            )
        try:
            known = self._operations[operation]
        except KeyError:
            known = self._operation(operation)
        pending = known.pending  # known.add, spelt out: a call less
        pending.append(seconds * _NS_PER_S)  # rounded when it is folded: that takes as long as all the rest
        if len(pending) >= _BLOCK:
            known.relieve()

    def start_timer(self, operation: str) -> None:
        """Start timing in this thread; starts of one operation nest, the latest is stopped first."""
        self._operation(operation)
        self._of_thread.started.setdefault(operation, []).append(self._clock())

    def stop_timer(self, operation: str) -> float:
        """Stop this thread's latest timer and return its seconds; ``TimerError`` when there is none."""
        now = self._clock()
        started = self._of_thread.started.get(operation)
        if not started:
            raise TimerError(f"stop_timer({operation!r}) without a start_timer in this thread")
        duration_ns = now - started.pop()
        self._operation(operation).add(duration_ns)
        return duration_ns / _NS_PER_S

    def samples_ns(self, operation: str) -> NanosecondArray:
        """The raw window of an operation in nanoseconds, oldest first; empty when nothing was recorded."""
        known = self._operations.get(operation)
        return known.known()[1] if known else np.zeros(0, np.int64)

    def get_statistics(self) -> dict[str, dict[str, float]]:
        """The fields of ``FIELDS`` for every operation that has records, in milliseconds, sorted by name."""
        return {name: summarise(known, window) for name, known, window in self._known()}

    def to_frame(self) -> pandas.DataFrame:
        """``get_statistics`` as a table: a row an operation, a column a field."""
        import pandas

        frame = pandas.DataFrame.from_dict(self.get_statistics(), orient="index", columns=list(FIELDS))
        return frame.astype({"count": "int64", "n": "int64"}).rename_axis("operation")

    def _repr_html_(self) -> str:
        """What Jupyter shows: latency by operation, with the newest samples as a line of bars."""
        head = ("operation", "count", "p50", "p95", "p99", "max", "newest")
        lines = [
            (name, told["count"], told["p50"], told["p95"], told["p99"], told["max"], self._spark(name))
            for name, told in self.get_statistics().items()
        ]
        return html.rows("Latency in milliseconds", head, lines)

    def _spark(self, operation: str) -> str:
        return html.spark([float(ns) for ns in self.samples_ns(operation)[-24:]])

    def get_summary(self) -> str:
        """A table for a person, and what measuring cost."""
        return summary_table(self.get_statistics(), self.self_cost_ns)

    def reset(self) -> None:
        """Forget all records; timers that run go on."""
        for operation in list(self._operations.values()):
            operation.clear()

    def merge(self, other: PerformanceMetrics) -> None:
        """Take in all that another object has recorded, as if it had been recorded here after what is here.

        The windows are joined whole, so percentiles are those of both; this object's window of an operation
        grows when ``max_samples`` is too small for that.
        """
        for name, known, window in list(other._known()):
            self._operation(name).absorb(known, window)

    def attach(self, name: str, source: Source) -> None:
        """Export what a method yields with these times, as of the same stream; it replaces what had that name.

        The method's object is not kept alive.
        """
        self._sources[name] = weakref.WeakMethod(source)

    def describe(self) -> list[Metric]:
        """The names that a ``prometheus_client`` registry keeps free for these: those of the first one in it."""
        beside = _beside(sys._getframe(1))
        return [] if any(isinstance(each, PerformanceMetrics) for each in beside) else [*self._times()]

    def collect(self) -> list[Metric]:
        """What a ``prometheus_client`` registry asks of a collector; computed at the time of the scrape.

        A name may stand only once in what a registry exports: the first of several of these answers for all of them.
        """
        beside = _beside(sys._getframe(1))
        streams = [each for each in beside if isinstance(each, PerformanceMetrics)]
        if self not in streams:
            return together([self])
        return together(streams, apart=beside) if streams[0] is self else []

    def families(self, apart: Sequence[object] = ()) -> Iterator[Metric]:
        """Times of this object, and what the sources yield that are not methods of one of those ``apart``."""
        yield from self._times()
        for owner, source in self._methods():
            if not any(owner is other for other in apart):
                yield from source()

    def source_ids(self) -> set[int]:
        """The ``id`` of every object whose method is attached."""
        return {id(owner) for owner, _ in self._methods()}

    def _methods(self) -> list[tuple[object, Source]]:
        methods = [find() for find in list(self._sources.values())]
        return [(getattr(method, "__self__", None), method) for method in methods if method]

    def _times(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, SummaryMetricFamily

        name = "whisperlab_operation_duration_seconds"
        family = SummaryMetricFamily(name, "Time one call of an operation took.")
        for operation, known, window in self._known():
            for q, value in zip(PERCENTILES, np.percentile(window, PERCENTILES), strict=True):
                quantile = {"operation": operation, "quantile": str(q / 100)}
                family.add_sample(name, quantile, float(value) / _NS_PER_S)
            family.add_sample(f"{name}_sum", {"operation": operation}, known.total / _NS_PER_S)
            family.add_sample(f"{name}_count", {"operation": operation}, known.count)
        yield family
        cost = "Time one measurement takes, by the clock of this machine when the program started."
        yield GaugeMetricFamily("whisperlab_measurement_cost_seconds", cost, self.self_cost_ns / _NS_PER_S)

    def export_prometheus(self, *also: Collector) -> str:
        """Everything in Prometheus' text format, in seconds; with other collectors, such as a second stream's."""
        from prometheus_client import generate_latest

        return generate_latest(_Together((self, *also)).registry()).decode()

    def serve(self, port: int, host: str = "127.0.0.1", also: Sequence[Collector] = ()) -> MetricsServer:
        """Answer Prometheus' scrapes on a thread of its own, for other collectors also; port 0 takes any free one.

        Only this machine can reach the default host. Raises ``ConfigurationError`` when the address is taken, or two
        streams have one name.
        """
        from prometheus_client import start_http_server

        check_type("port", port, int)
        check_type("host", host, str)
        exported = _Together((self, *also))
        exported.collect()  # what cannot be exported is told now, and not by scrapes that fail
        try:
            server, thread = start_http_server(port, addr=host, registry=exported.registry())
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error}") from error
        return MetricsServer(host, server.server_port, server, thread)

    def _operation(self, name: str) -> _Operation:
        """The operation of that name, made when it is new."""
        if not (isinstance(name, str) and name):
            raise ConfigurationError(f"an operation needs a name, got {name!r}")
        with self._creating:
            if name not in self._operations:
                self._operations[name] = _Operation(self._max_samples)
            return self._operations[name]

    def _timing(self, operation: str) -> Timing:
        """A new stopwatch, kept for this thread: one that runs serves no second task, and an interrupt leaves it so."""
        timing = Timing(self._operation(operation), self._clock)
        self._of_thread.timings[operation] = timing
        return timing

    def _calibrate(self, rounds: int = 15, calls: int = 40) -> float:
        """Median nanoseconds a ``with self.measure(...)`` takes, less the loop around it, by a real clock."""
        self._of_thread, self._operations, self._clock = _OfThread(), {}, time.perf_counter_ns

        def measured() -> None:
            for _ in range(calls):
                with self.measure("self"):
                    pass

        def bare() -> None:
            for _ in range(calls):
                pass

        return statistics.median((_elapsed_ns(measured) - _elapsed_ns(bare)) / calls for _ in range(rounds))

    def _known(self) -> Iterator[tuple[str, Totals, NanosecondArray]]:
        """Name, totals and window of every operation with records, sorted by name."""
        for name, operation in sorted(self._operations.items()):
            known, window = operation.known()
            if known.count:
                yield name, known, window


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running scrape endpoint, ``http://host:port/metrics``; closed or ending with the program."""

    host: str
    port: int
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class _Together:
    """Several collectors as one."""

    collectors: Sequence[Collector]

    def collect(self) -> list[Metric]:
        return together(self.collectors)

    def registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry


def together(collectors: Iterable[Collector], apart: Sequence[object] = ()) -> list[Metric]:
    """What several collectors export, each name once with the samples of all; streams are told apart by their label.

    A collector that belongs to a stream (a feed) stands for the stream. Raises ``ConfigurationError`` when two streams
    have one name, or two collectors the same sample.
    """
    from prometheus_client.core import Metric

    owners: dict[int, Collector] = {}
    for each in collectors:
        stream = getattr(each, "metrics", None)
        owner = stream if isinstance(stream, PerformanceMetrics) else each
        owners[id(owner)] = owner
    labels = _labels([owner for owner in owners.values() if isinstance(owner, PerformanceMetrics)])
    sources = {
        key
        for owner in owners.values()
        if isinstance(owner, PerformanceMetrics)
        for key in owner.source_ids()
    }
    found: dict[str, Metric] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for key, owner in owners.items():
        if key in sources:
            continue
        families = owner.families(apart) if isinstance(owner, PerformanceMetrics) else owner.collect()
        for family in families:
            whole = found.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            for sample in family.samples:
                sample = sample._replace(labels={**labels.get(key, {}), **sample.labels})
                mark = sample.name, frozenset(sample.labels.items())
                if mark in seen or whole.type != family.type:
                    raise ConfigurationError(
                        f"{sample.name} {sample.labels} is exported twice: give each stream a name "
                        "(PerformanceMetrics(stream=...))"
                    )
                seen.add(mark)
                whole.samples.append(sample)
    return list(found.values())


def _labels(streams: Sequence[PerformanceMetrics]) -> dict[int, Mapping[str, str]]:
    """The label of each stream: its name, or its number where several have none."""
    if twice := [
        name for name, n in Counter(each.stream for each in streams if each.stream).items() if n > 1
    ]:
        raise ConfigurationError(
            f"two streams on one endpoint have the name {shown(twice[0])}: give each its own"
        )
    unnamed = [each for each in streams if not each.stream]
    numbers = {id(each): str(number) for number, each in enumerate(unnamed, 1) if len(unnamed) > 1}
    names = {id(each): each.stream or numbers.get(id(each)) for each in streams}
    return {key: {"stream": name} for key, name in names.items() if name}


def _beside(caller: FrameType) -> Sequence[object]:
    """The collectors of the ``prometheus_client`` registry that is asking, which tells them to nobody; else none."""
    asking = caller.f_locals.get("self")
    registry = getattr(asking, "_registry", asking)
    return list(getattr(registry, "_collector_to_names", ()))


def _elapsed_ns(work: Callable[[], None]) -> int:
    began = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - began


def summary_table(table: dict[str, dict[str, float]], self_cost_ns: float) -> str:
    """Statistics by operation as aligned text, in milliseconds."""
    shown = ("mean", "p50", "p95", "p99", "max")
    width = max(map(len, ["operation", *table]))
    lines = [f"{'operation':<{width}}  {'count':>8}" + "".join(f"  {name + ' ms':>10}" for name in shown)]
    for operation, row in table.items():
        cells = "".join(f"  {row[name]:>10.3f}" for name in shown)
        lines.append(f"{operation:<{width}}  {row['count']:>8}{cells}")
    lines.append(f"percentiles of the newest samples; one measurement costs {self_cost_ns / 1000:.2f} µs")
    return "\n".join(lines)


def log_line(table: dict[str, dict[str, float]]) -> str:
    """Statistics by operation in one line."""
    parts = (f"{name} {row['p50']:.3f}/{row['p95']:.3f} ({row['count']})" for name, row in table.items())
    return "latency p50/p95 ms (count): " + ", ".join(parts)


def _log_every(interval_s: float, metrics: PerformanceMetrics) -> None:
    """Log from a thread that does not keep the metrics alive and ends with them."""
    ended = threading.Event()
    weakref.finalize(metrics, ended.set)
    arguments = (interval_s, weakref.ref(metrics), ended)
    threading.Thread(target=_log_until, args=arguments, name="whisperlab-metrics", daemon=True).start()


def _log_until(interval_s: float, find: weakref.ref[PerformanceMetrics], ended: threading.Event) -> None:
    while not ended.wait(interval_s):
        metrics = find()
        table = metrics.get_statistics() if metrics else {}
        del metrics  # or this thread would keep it alive through the next wait
        if table:
            _LOGGER.info(log_line(table))

"""Latency metrics: nothing lost, percentiles of raw samples, and text that Prometheus' own parser reads."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry

from whisperlab import EncoderCache, PerformanceMetrics
from whisperlab.metrics import FIELDS
from whisperlab.util.errors import ConfigurationError, TimerError
from whisperlab.util.prometheus import Joined

MS = 1_000_000  # nanoseconds


class HandClock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 7

    def __call__(self) -> int:
        return self.now

    def turn(self, ms: float) -> None:
        self.now += round(ms * MS)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def metrics(clock: HandClock) -> PerformanceMetrics:
    return PerformanceMetrics(clock=clock)


def recorded(durations_ms: list[float], max_samples: int = 1000) -> PerformanceMetrics:
    metrics = PerformanceMetrics(max_samples)
    for duration in durations_ms:
        metrics.record("op", duration / 1000)
    return metrics


# --- laws ---------------------------------------------------------------------------------------------

durations = st.lists(st.integers(0, 10**12), min_size=1, max_size=700)


@given(durations, st.integers(1, 600))
@settings(deadline=None)
def test_statistics_are_those_of_the_plain_list(samples_ns: list[int], max_samples: int) -> None:
    """Lists reach over several foldings of 256 records, and windows are smaller and larger than those."""
    metrics = recorded([ns / MS for ns in samples_ns], max_samples)
    row = metrics.get_statistics()["op"]
    every, window = np.array(samples_ns) / MS, np.array(samples_ns[-max_samples:]) / MS
    assert metrics.samples_ns("op").tolist() == samples_ns[-max_samples:]
    assert tuple(row) == FIELDS
    assert (row["count"], row["n"]) == (len(every), len(window))
    expected = {
        "total": every.sum(),
        "mean": every.mean(),
        "min": every.min(),
        "max": every.max(),
        "last": every[-1],
        **{f"p{q}": np.percentile(window, q) for q in (50, 90, 95, 99)},
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-9), name
    assert row["std"] == pytest.approx(every.std(), rel=1e-6, abs=every.mean() * 1e-9)


def test_the_deviation_survives_a_large_mean() -> None:
    """A sum of squares would cancel here: an hour, give or take a microsecond."""
    samples = [3.6e6 + (0.001 if i % 2 else -0.001) for i in range(1000)]
    assert recorded(samples).get_statistics()["op"]["std"] == pytest.approx(0.001, rel=1e-3)


@given(durations, durations, st.integers(1, 300))
@settings(deadline=None)
def test_merging_is_as_if_all_had_been_recorded_in_one_place(
    first: list[int], second: list[int], max_samples: int
) -> None:
    here = recorded([ns / MS for ns in first], max_samples)
    there = recorded([ns / MS for ns in second], max_samples)
    before = there.get_statistics()
    here.merge(there)
    windows = first[-max_samples:] + second[-max_samples:]
    assert here.samples_ns("op").tolist() == windows
    row, every = here.get_statistics()["op"], np.array(first + second) / MS
    assert row["count"] == len(every)
    assert row["total"] == pytest.approx(every.sum())
    assert row["std"] == pytest.approx(every.std(), rel=1e-6, abs=every.mean() * 1e-9)
    assert (row["min"], row["max"], row["last"]) == (every.min(), every.max(), every[-1])
    assert there.get_statistics() == before

    here.record("op", 1.0)
    assert here.samples_ns("op").tolist() == [*windows, 10**9][-max(len(windows), max_samples) :]


def test_merging_in_another_order_gives_the_same_percentiles() -> None:
    parts = [recorded(list(np.random.default_rng(seed).exponential(5, 300))) for seed in range(3)]
    totals = []
    for order in ([0, 1, 2], [2, 0, 1]):
        total = PerformanceMetrics()
        for part in order:
            total.merge(parts[part])
        row = total.get_statistics()["op"]
        totals.append([row[name] for name in ("count", "total", "mean", "std", "p50", "p99", "max")])
    assert totals[0] == pytest.approx(totals[1])


def test_merging_with_itself_doubles_and_new_operations_come_over() -> None:
    metrics = recorded([1, 2])
    metrics.merge(metrics)
    assert metrics.get_statistics()["op"]["count"] == 4
    empty = PerformanceMetrics()
    empty.merge(metrics)
    assert empty.get_statistics() == metrics.get_statistics()


# --- measuring ----------------------------------------------------------------------------------------


def test_measure_times_the_block_in_milliseconds(metrics: PerformanceMetrics, clock: HandClock) -> None:
    with metrics.measure("lid.total"):
        clock.turn(2.5)
    row = metrics.get_statistics()["lid.total"]
    assert [row[name] for name in ("total", "mean", "min", "max", "p95", "last")] == [2.5] * 6
    assert (row["count"], row["n"], row["std"]) == (1, 1, 0)


def test_an_exception_is_timed_and_passes_through(metrics: PerformanceMetrics, clock: HandClock) -> None:
    def fail() -> None:
        with metrics.measure("op"):
            clock.turn(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert metrics.get_statistics()["op"]["last"] == 3
    with metrics.measure("op"):
        clock.turn(1)
    assert metrics.get_statistics()["op"]["last"] == 1


def test_measuring_nests_also_in_the_same_operation(metrics: PerformanceMetrics, clock: HandClock) -> None:
    with metrics.measure("chunk.total"):
        clock.turn(1)
        with metrics.measure("lid.total"), metrics.measure("chunk.total"):
            clock.turn(2)
        clock.turn(4)
    assert metrics.samples_ns("chunk.total").tolist() == [2 * MS, 7 * MS]
    assert metrics.samples_ns("lid.total").tolist() == [2 * MS]


def test_a_running_timer_can_be_entered_again(metrics: PerformanceMetrics, clock: HandClock) -> None:
    timing = metrics.measure("op")
    with timing:
        clock.turn(1)
        with timing:
            clock.turn(2)
    with timing:
        clock.turn(5)
    assert metrics.samples_ns("op").tolist() == [2 * MS, 3 * MS, 5 * MS]


def test_asyncio_tasks_that_interleave_get_their_own_time(metrics: PerformanceMetrics, clock: HandClock) -> None:
    """Two tasks share a thread; the first to enter is here the first to leave."""

    async def task(started: asyncio.Event, end: asyncio.Event) -> None:
        with metrics.measure("op"):
            started.set()
            await end.wait()

    async def interleave() -> None:
        a, b, end_a, end_b = (asyncio.Event() for _ in range(4))
        first = asyncio.create_task(task(a, end_a))
        await a.wait()
        clock.turn(10)
        second = asyncio.create_task(task(b, end_b))
        await b.wait()
        clock.turn(1)
        end_a.set()
        await first
        end_b.set()
        await second

    asyncio.run(interleave())
    assert metrics.samples_ns("op").tolist() == [11 * MS, 1 * MS]


def test_as_a_decorator_every_call_is_timed_and_recursion_too(metrics: PerformanceMetrics, clock: HandClock) -> None:
    @metrics.measure("op")
    def countdown(n: int, *, step: int = 1) -> str:
        """Goes down."""
        clock.turn(1)
        return countdown(n - step, step=step) if n > 0 else "liftoff"

    assert countdown(2, step=1) == "liftoff"
    assert (countdown.__name__, countdown.__doc__) == ("countdown", "Goes down.")
    assert metrics.samples_ns("op").tolist() == [1 * MS, 2 * MS, 3 * MS]


def test_timers_return_seconds_and_nest(metrics: PerformanceMetrics, clock: HandClock) -> None:
    metrics.start_timer("op")
    clock.turn(5)
    metrics.start_timer("op")
    clock.turn(1)
    assert metrics.stop_timer("op") == pytest.approx(0.001)
    assert metrics.stop_timer("op") == pytest.approx(0.006)
    assert metrics.get_statistics()["op"]["count"] == 2


def test_stopping_a_timer_that_this_thread_did_not_start_is_an_error(metrics: PerformanceMetrics) -> None:
    with pytest.raises(TimerError, match=r"stop_timer\('op'\) without a start_timer"):
        metrics.stop_timer("op")
    elsewhere = threading.Thread(target=metrics.start_timer, args=("op",))
    elsewhere.start()
    elsewhere.join()
    with pytest.raises(TimerError):
        metrics.stop_timer("op")
    metrics.start_timer("op")
    metrics.stop_timer("op")
    with pytest.raises(TimerError):
        metrics.stop_timer("op")
    assert metrics.get_statistics()["op"]["count"] == 1


@pytest.mark.parametrize("seconds", [-1e-9, math.nan, math.inf, 1e11])
def test_a_duration_that_cannot_be_is_refused(metrics: PerformanceMetrics, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=f"op took, 0 or more, got {seconds}"):
        metrics.record("op", seconds)
    assert metrics.get_statistics() == {}


@pytest.mark.parametrize("name", ["", None, 3])
def test_an_operation_without_a_name_is_refused(metrics: PerformanceMetrics, name: Any) -> None:
    for use in (metrics.measure, metrics.start_timer, lambda op: metrics.record(op, 1)):
        with pytest.raises(ConfigurationError, match="needs a name"):
            use(name)


@pytest.mark.parametrize(
    "options",
    [{"max_samples": 0}, {"max_samples": 2.5}, {"log_interval_seconds": 0}, {"log_interval_seconds": math.nan}],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        PerformanceMetrics(**options)


def test_reset_forgets_records_and_leaves_running_timers_alone(metrics: PerformanceMetrics, clock: HandClock) -> None:
    metrics.record("op", 1)
    metrics.start_timer("op")
    with metrics.measure("op"):
        metrics.reset()
        assert metrics.get_statistics() == {}
        clock.turn(4)
    metrics.stop_timer("op")
    assert metrics.samples_ns("op").tolist() == [4 * MS, 4 * MS]
    assert metrics.get_statistics()["op"]["max"] == 4


def test_what_was_never_recorded_has_no_statistics(metrics: PerformanceMetrics) -> None:
    metrics.measure("op")
    assert metrics.get_statistics() == {}
    assert metrics.samples_ns("op").tolist() == metrics.samples_ns("other").tolist() == []
    assert metrics.to_frame().empty
    assert "operation" in metrics.get_summary()


# --- threads ------------------------------------------------------------------------------------------


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(work: Callable[[int], None], n_threads: int) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_threads_lose_no_record_while_others_read(frequent_switches: None) -> None:
    metrics, calls = PerformanceMetrics(max_samples=500), 20_000
    done = threading.Event()
    seen: list[float] = []

    def read() -> None:
        while not done.is_set():
            seen.append(metrics.get_statistics().get("op", {"count": 0})["count"])

    def work(index: int) -> None:
        for _ in range(calls):
            metrics.record("op", index * 1e-9)
            with metrics.measure("timed"):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    run_together(work, n_threads=4)
    done.set()
    reader.join()

    table = metrics.get_statistics()
    assert table["op"]["count"] == table["timed"]["count"] == 4 * calls
    assert table["op"]["total"] == pytest.approx((1 + 2 + 3) * calls / MS)
    assert (table["op"]["min"], table["op"]["max"], table["op"]["n"]) == (0, 3 / MS, 500)
    assert set(metrics.samples_ns("op").tolist()) <= {0, 1, 2, 3}
    assert seen == sorted(seen)


def test_threads_that_meet_at_a_new_operation_share_it() -> None:
    for _ in range(20):
        metrics, barrier = PerformanceMetrics(), threading.Barrier(4)

        def work(index: int, metrics: Any = metrics, barrier: Any = barrier) -> None:
            barrier.wait()
            metrics.record("new", 1)

        run_together(work, n_threads=4)
        assert metrics.get_statistics()["new"]["count"] == 4


# --- cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["record", "measure", "decorated", "timer"])
def test_measuring_keeps_no_memory(way: str) -> None:
    metrics = PerformanceMetrics(max_samples=100)
    decorated = metrics.measure("op")(lambda: None)

    def measure() -> None:
        with metrics.measure("op"):
            pass

    def timer() -> None:
        metrics.start_timer("op")
        metrics.stop_timer("op")

    ways = {"record": lambda: metrics.record("op", 1.0), "measure": measure}
    call = (ways | {"decorated": decorated, "timer": timer})[way]

    def work() -> None:
        for _ in range(10 * 256):
            call()

    work()
    tracemalloc.start()
    work()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(3):
        work()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4_096  # a block of 256 waiting to be folded


def test_the_cost_is_measured_by_a_real_clock_and_shown(metrics: PerformanceMetrics, clock: HandClock) -> None:
    """The caller's clock, which stands still here and would say 0, is not asked at all."""
    assert clock.now == 7
    assert 0 < metrics.self_cost_ns < 1e6
    assert metrics.get_statistics() == {}
    assert f"one measurement costs {metrics.self_cost_ns / 1000:.2f} µs" in metrics.get_summary()


# --- shown and exported -------------------------------------------------------------------------------


def test_the_summary_has_an_aligned_row_for_each_operation() -> None:
    metrics = recorded([1, 2, 3])
    metrics.record("lid.sustained_detection", 12)
    header, long, short, _ = metrics.get_summary().splitlines()
    assert len(header) == len(long) == len(short)
    assert long.split() == ["lid.sustained_detection", "1", *["12000.000"] * 5]
    assert short.split() == ["op", "3", "2.000", "2.000", "2.900", "2.980", "3.000"]


def test_the_frame_holds_the_statistics() -> None:
    metrics = recorded([1, 2, 3])
    frame = metrics.to_frame()
    assert list(frame.columns) == list(FIELDS)
    assert frame.index.name == "operation"
    assert frame.loc["op"].to_dict() == metrics.get_statistics()["op"]
    assert frame["count"].dtype == "int64"


def awkward() -> PerformanceMetrics:
    metrics = recorded([1, 2, 3, 4])
    metrics.record('a "quoted"\\name\nin two lines', 2.0)
    return metrics


def values(families: Any) -> dict[tuple[str, str, str], float]:
    return {
        (sample.name, sample.labels.get("operation", ""), sample.labels.get("quantile", "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_prometheus_reads_the_export_in_seconds() -> None:
    metrics = awkward()
    families = list(parse_text(metrics.export_prometheus()))
    by_name = {family.name: family for family in families}
    assert by_name["whisperlab_operation_duration_seconds"].type == "summary"
    read = values(families)
    name = "whisperlab_operation_duration_seconds"
    assert read[f"{name}_count", "op", ""] == 4
    assert read[f"{name}_sum", "op", ""] == pytest.approx(0.010)
    assert read[name, "op", "0.5"] == pytest.approx(0.0025)
    assert read[name, "op", "0.99"] == pytest.approx(0.00397)
    assert read[f"{name}_sum", 'a "quoted"\\name\nin two lines', ""] == 2
    cost = read["whisperlab_measurement_cost_seconds", "", ""]
    assert cost == pytest.approx(metrics.self_cost_ns / 1e9)


def test_the_stricter_openmetrics_parser_reads_it_too() -> None:
    metrics, registry = awkward(), CollectorRegistry()
    registry.register(metrics)
    read = values(parse_openmetrics(openmetrics_text(registry).decode()))
    assert read["whisperlab_operation_duration_seconds_count", "op", ""] == 4


def scrape(port: int) -> dict[tuple[str, str, str], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return values(parse_text(answer.read().decode()))


def test_a_scrape_includes_all_records_before_it() -> None:
    metrics = recorded([1])
    server = metrics.serve(port=0)
    try:
        key = "whisperlab_operation_duration_seconds_count", "op", ""
        assert scrape(server.port)[key] == 1
        metrics.record("op", 1)
        assert scrape(server.port)[key] == 2
    finally:
        server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def exported(text: str, name: str) -> dict[str, float]:
    """The values of a name by stream, out of a text that has every name and every sample once."""
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_text
    kinds = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    return {
        sample.labels.get("stream", ""): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == name
    }


COUNT = "whisperlab_operation_duration_seconds_count"


def test_the_label_distinguishes_streams_on_one_endpoint() -> None:
    a, b, c = PerformanceMetrics(stream="a"), PerformanceMetrics(stream="b"), PerformanceMetrics()
    for number, metrics in enumerate((a, b, c), 1):
        for _ in range(number):
            metrics.record("op", 0.001)
    assert exported(a.export_prometheus(b, a, c), COUNT) == {"a": 1, "b": 2, "": 3}
    assert exported(c.export_prometheus(), COUNT) == {"": 3}


def test_streams_without_a_name_are_numbered_and_equal_names_are_refused() -> None:
    a, b = recorded([1]), recorded([1, 2])
    assert exported(a.export_prometheus(b), COUNT) == {"1": 1, "2": 2}
    server = a.serve(0, also=[b])
    try:
        for kind in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            asked = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", headers={"Accept": kind})
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
                assert exported(answer.read().decode(), COUNT) == {"1": 1, "2": 2}
    finally:
        server.close()
    a.stream = b.stream = "line"
    for attempt in (lambda: a.export_prometheus(b), lambda: a.serve(0, also=[b])):
        with pytest.raises(ConfigurationError, match="two streams on one endpoint have the name 'line'"):
            attempt()


def test_several_can_be_registered_where_other_collectors_are() -> None:
    registry = CollectorRegistry(auto_describe=True)  # as prometheus_client's own
    a, b = recorded([1]), recorded([1, 2])
    a.stream = "a"
    both = Joined((a, b))
    registry.register(both)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(a)
    calls = Counter("calls", "Calls.", registry=registry)
    calls.inc(4)
    text = generate_latest(registry).decode()
    assert exported(text, COUNT) == {"a": 1, "": 2}
    assert exported(openmetrics_text(registry).decode(), COUNT) == {"a": 1, "": 2}
    assert "calls_total 4.0" in text
    assert exported(a.export_prometheus(), COUNT) == {"a": 1}
    registry.unregister(both)
    registry.register(b)
    assert exported(generate_latest(registry).decode(), COUNT) == {"": 2}


def test_a_sample_is_never_exported_twice() -> None:
    first, second = (Gauge("level", "A level.", registry=None) for _ in range(2))
    with pytest.raises(ConfigurationError, match=r"level .* is exported twice"):
        PerformanceMetrics().export_prometheus(first, second)
    assert "level 0.0" in PerformanceMetrics().export_prometheus(first, first)


def test_the_cache_exports_its_hits() -> None:
    cache = EncoderCache()
    window = np.ones(1600, np.float32) / 2
    cache.put(torch.zeros(1), window)
    for _ in range(3):
        cache.get(window)
    cache.get(window / 2)
    text = PerformanceMetrics().export_prometheus(cache)
    assert exported(text, "whisperlab_encoder_cache_hits_total") == {"": 3}
    assert exported(text, "whisperlab_encoder_cache_misses_total") == {"": 1}
    assert exported(text, "whisperlab_encoder_cache_hit_ratio") == {"": 0.75}


@pytest.mark.parametrize("port", ["9100", None, 1.5])
def test_a_port_is_an_integer(port: Any) -> None:
    with pytest.raises(ConfigurationError, match="port must be a whole number"):
        PerformanceMetrics().serve(port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot serve metrics on 127.0.0.1:{port}"):
        PerformanceMetrics().serve(port)


def test_a_taken_port_is_refused() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigurationError, match="in use"):
        PerformanceMetrics().serve(taken.getsockname()[1])


# --- logging ------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool]) -> None:
    """Give another thread time; a minute means that it will never happen."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "whisperlab-metrics"]


def test_statistics_are_logged_one_line_an_interval_and_nothing_when_there_are_none(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="whisperlab")
    metrics = PerformanceMetrics(enable_logging=True, log_interval_seconds=0.01)
    time.sleep(0.05)
    assert not caplog.records
    metrics.record("op", 0.002)
    metrics.record("lid.total", 0.004)
    wait_until(lambda: len(caplog.records) >= 2)
    for record in caplog.records[-2:]:
        assert (record.name, record.levelno) == ("whisperlab", logging.INFO)
        assert record.threadName == "whisperlab-metrics"
    assert caplog.messages[-1] == "latency p50/p95 ms (count): lid.total 4.000/4.000 (1), op 2.000/2.000 (1)"
    assert capfd.readouterr().out == ""


def test_the_logging_thread_ends_with_its_metrics() -> None:
    gc.collect()
    wait_until(lambda: not log_threads())
    metrics = PerformanceMetrics(enable_logging=True)
    assert len(log_threads()) == 1
    alive = weakref.ref(metrics)
    del metrics
    gc.collect()
    assert alive() is None
    wait_until(lambda: not log_threads())


def test_without_logging_no_thread_is_started() -> None:
    gc.collect()
    wait_until(lambda: not log_threads())
    PerformanceMetrics()
    assert not log_threads()


def test_a_program_that_logs_ends_when_its_work_is_done() -> None:
    program = "from whisperlab import PerformanceMetrics as P; m = P(enable_logging=True); m.record('op', 1)"
    done = subprocess.run([sys.executable, "-c", program], timeout=60)  # raises when it goes on
    assert done.returncode == 0


@pytest.mark.parametrize(
    "options", [{"max_samples": 10**12}, {"max_samples": True}, {"log_interval_seconds": "1"}], ids=str
)
def test_an_option_that_cannot_work_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        PerformanceMetrics(**options)


@pytest.mark.parametrize("seconds", ["1", None, [], np.zeros(3), float("nan"), -1])
def test_a_duration_is_a_number(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected the seconds op took"):
        PerformanceMetrics().record("op", seconds)

"""Thread safety, interrupts at any line, and child processes.

The tests use real threads. Interrupts are raised by a trace function just before the k-th line of the package that a
call executes. The interpreter itself interrupts in fewer places: never between the end of a ``with`` block and the
release of its lock, so the tests raise none there.

A stream is interrupted at a few lines in every run of the tests, and at a thousand with ``make test-long``.
"""

from __future__ import annotations

import json
import linecache
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from extent import in_short_and_at_length
from remembered import REMEMBERED

import whisperlab
from whisperlab import EncoderCache, PerformanceMetrics, RingBuffer, SessionRestartTranscriber
from whisperlab.config import SessionOptions
from whisperlab.jupyter.live_view import LiveView
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import has_bf16
from whisperlab.model.weights import weights_of
from whisperlab.streaming.results import ProcessResult, SessionSegment
from whisperlab.streaming.silero import SileroDetector
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import ForkedError, StreamBrokenError, StreamEndedError
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME

if TYPE_CHECKING:
    from types import FrameType

    from conftest import Scene
    from whisper.model import Whisper

CHUNK = SAMPLE_RATE // 10
HERE = str(Path(whisperlab.__file__).parent)
often = in_short_and_at_length("interrupts", 4, 1000)

Work = Callable[[], object]


def run_together(*works: Work) -> None:
    """Run each in its own thread; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Work) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    for error in errors:
        raise error


def while_it_runs(work: Work, *reads: Work) -> None:
    """Repeat the reads, each in its own thread, until the work is done."""
    done = threading.Event()

    def over_and_over(read: Work) -> None:
        while not done.is_set():
            read()

    def working() -> None:
        try:
            work()
        finally:
            done.set()

    run_together(working, *(lambda read=read: over_and_over(read) for read in reads))


@cache
def begins_a_with(file: str, line: int) -> bool:
    return linecache.getline(file, line).lstrip().startswith("with ")


def interrupt() -> None:
    raise KeyboardInterrupt


class Interrupt:
    """A context that runs an action before the ``at``-th line of the package and counts the lines."""

    def __init__(self, at: int, do: Work = interrupt) -> None:
        self._at, self._do = at, do
        self.lines = 0
        self._entered: set[tuple[int, int]] = set()  # frames and their ``with`` lines, which end where they begin

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if self._entered:
            self._entered = {(known, line) for known, line in self._entered if known != id(frame)}
        return self._line

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and not self._leaves_a_with(frame):
            self.lines += 1
            if self.lines == self._at:
                self._do()
        return self._line

    def _leaves_a_with(self, frame: FrameType) -> bool:
        line = frame.f_lineno
        if not begins_a_with(frame.f_code.co_filename, line):
            return False
        place = id(frame), line
        left = place in self._entered
        (self._entered.discard if left else self._entered.add)(place)
        return left


def interrupted_everywhere(work: Work, check: Callable[[bool], object], most: int = 10_000) -> int:
    """Repeat the work with an interrupt before its first line, its second, and so on; check after each."""
    for at in range(1, most):
        try:
            with Interrupt(at):
                work()
        except KeyboardInterrupt:
            check(True)
        else:
            check(False)
            return at - 1
    raise AssertionError(f"the work has more than {most} lines")


def met_everywhere(work: Work, meanwhile: Work, check: Work, most: int = 10_000) -> int:
    """Do the work with another thread coming in before its first line, its second, ...; each time is checked.

    The work waits for the other, but not long: it may hold what the other waits for.
    """
    for at in range(1, most):
        other = threading.Thread(target=meanwhile)

        def meet(other: threading.Thread = other) -> None:
            other.start()
            other.join(0.02)

        with Interrupt(at, meet) as counter:
            work()
        if counter.lines < at:
            return at - 1
        other.join()
        check()
    raise AssertionError(f"the work has more than {most} lines")


def free(lock: Any) -> bool:
    """Whether another thread can acquire the lock."""
    found: list[bool] = []

    def ask() -> None:
        found.append(lock.acquire(timeout=1))
        if found[0]:
            lock.release()

    run_together(ask)
    return found[0]


# --- metrics ------------------------------------------------------------------------------------------


def test_statistics_of_metrics_are_of_one_moment(frequent_switches: None) -> None:
    metrics = PerformanceMetrics(max_samples=300)
    counts: dict[int, list[float]] = {0: [], 1: []}

    def write() -> None:
        for _ in range(25_000):
            metrics.record("op", 0.001)
            with metrics.measure("timed"):
                pass

    def read(reader: int) -> None:
        for name, told in metrics.get_statistics().items():
            assert told["n"] == min(told["count"], 300)
            if name == "op":
                assert told["total"] == pytest.approx(told["count"], rel=1e-9)
                assert told["min"] == told["p50"] == told["max"] == 1.0
                counts[reader].append(told["count"])

    while_it_runs(
        lambda: run_together(*[write] * 4),
        lambda: read(0),
        lambda: read(1),
        metrics.export_prometheus,
        metrics.get_summary,
    )
    assert metrics.get_statistics()["op"]["count"] == metrics.get_statistics()["timed"]["count"] == 100_000
    assert all(seen == sorted(seen) for seen in counts.values())


def test_an_interrupt_costs_metrics_the_record_being_made_and_no_other() -> None:
    metrics = PerformanceMetrics(max_samples=100)

    def work() -> None:
        metrics.record("op", 0.001)
        metrics.get_statistics()

    def check(interrupted: bool) -> None:
        nonlocal before
        assert free(metrics._operations["op"]._folding)
        told = metrics.get_statistics()["op"]
        assert before + 255 <= told["count"] <= before + 256  # those recorded before the work are all there
        assert told["total"] == pytest.approx(told["count"])
        assert (told["min"], told["p50"], told["p99"], told["n"]) == (1.0, 1.0, 1.0, 100)
        before = told["count"]
        fill()

    def fill() -> None:
        for _ in range(255):  # one more is folded away with them
            metrics.record("op", 0.001)

    before = 0.0
    fill()
    assert interrupted_everywhere(work, check) > 50


def test_a_timer_left_running_by_an_interrupt_is_replaced() -> None:
    metrics = PerformanceMetrics()

    def work() -> None:
        with metrics.measure("op"):
            pass

    def check(interrupted: bool) -> None:
        work()
        assert metrics.measure("op") is metrics.measure("op")

    work()
    assert interrupted_everywhere(work, check) > 5


# --- cache --------------------------------------------------------------------------------------------


def hash_of(n: int) -> bytes:
    return n.to_bytes(32, "big")


def test_statistics_of_the_cache_are_of_one_moment(frequent_switches: None) -> None:
    cache, lookups = EncoderCache(max_size=20, max_bytes=15 * 16), 2500
    seen: list[int] = []

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(lookups):
            asked = rng.randrange(40)
            found = cache.get(audio_hash=hash_of(asked))
            if found is None:
                cache.put(torch.full((4,), float(asked)), audio_hash=hash_of(asked))
            else:
                assert found.tolist() == [asked] * 4

    def read() -> None:
        told = cache.get_statistics()
        assert told["bytes"] == 16 * told["size"] <= 15 * 16
        assert told["hits"] == sum(told["hits_by_cause"].values())
        seen.append(told["hits"] + told["misses"])

    while_it_runs(lambda: run_together(*(lambda n=n: use(n) for n in range(4))), read)
    assert seen == sorted(seen)
    told = cache.get_statistics()
    assert told["hits"] + told["misses"] == 4 * lookups


def test_an_interrupt_leaves_the_sums_of_a_cache_right() -> None:
    cache = EncoderCache(max_size=3, max_bytes=3 * 16)
    numbers = iter(range(10**6))

    def work() -> None:
        for _ in range(2):
            asked = hash_of(next(numbers))
            cache.get(audio_hash=asked)
            cache.put(torch.zeros(4), audio_hash=asked)
            cache.put(torch.ones(4), audio_hash=asked)

    def check(interrupted: bool) -> None:
        assert free(cache._lock)
        told = cache.get_statistics()
        assert told["bytes"] == 16 * told["size"] == sum(e.value.nbytes for e in cache._entries.values())
        cache.put(torch.zeros(4), audio_hash=hash_of(0))
        assert len(cache) <= 3

    assert interrupted_everywhere(work, check) > 80


def test_a_cleared_cache_chooses_the_same_hits_to_check() -> None:
    cache = EncoderCache(shadow_rate=0.5)
    first = [cache.should_shadow() for _ in range(50)]
    cache.clear()
    assert [cache.should_shadow() for _ in range(50)] == first
    assert len(set(first)) == 2


# --- ring ---------------------------------------------------------------------------------------------


def test_a_third_thread_sees_losses_of_a_ring_that_only_grow(frequent_switches: None) -> None:
    ring, piece = RingBuffer(1000), np.ones(7, np.float32)
    consumed = 0
    lost: list[int] = []

    def produce() -> None:
        for _ in range(60_000):
            ring.append(piece)

    def consume() -> None:
        nonlocal consumed
        consumed += len(ring.consume(min(5, len(ring))))

    while_it_runs(produce, consume, lambda: lost.append(ring.dropped_samples))
    assert min(lost) >= 0
    assert lost == sorted(lost)
    assert ring.end == consumed + ring.dropped_samples + len(ring)


def test_what_is_consumed_while_losses_are_counted_is_not_lost_nor_found() -> None:
    ring = RingBuffer(10_000)
    ring.append(np.ones(10_000, np.float32))
    ring.append(np.ones(10, np.float32))
    seen: list[int] = []
    assert met_everywhere(lambda: seen.append(ring.dropped_samples), lambda: ring.consume(3), lambda: None) > 5
    assert set(seen) == {10}


def test_an_interrupt_loses_no_samples_of_a_ring_that_has_room() -> None:
    ring, more = RingBuffer(100_000), np.ones(200, np.int16)

    def work() -> None:
        ring.append(more)
        ring.consume(3)
        ring.clear()
        ring.append(more)

    def check(interrupted: bool) -> None:
        assert ring.dropped_samples == 0
        assert len(ring.read_all()) == len(ring) == ring.end - ring.start

    assert interrupted_everywhere(work, check) > 40


# --- encoder ------------------------------------------------------------------------------------------


@pytest.mark.model
def test_an_interrupt_leaves_calls_and_samples_of_an_encoder_in_step(base_model: Whisper) -> None:
    weights = weights_of(base_model)
    encoder = ShortWindowEncoder(weights, "fp32", lambda mel, pool_after: mel)
    second = np.zeros(SAMPLE_RATE, np.float32)

    def check(interrupted: bool) -> None:
        assert encoder.encoded_samples == encoder.calls * SAMPLE_RATE

    assert interrupted_everywhere(lambda: encoder.encode(second, 0), check) > 10


# --- live view ----------------------------------------------------------------------------------------


class Talker:
    """A transcriber that says one segment a chunk."""

    def __init__(self) -> None:
        self.heard = 0

    def config(self) -> dict[str, Any]:
        return {}

    def get_statistics(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def process(self, chunk: FloatArray) -> ProcessResult:
        self.heard += 1
        said = SessionSegment("word", "en", self.heard - 1.0, float(self.heard), True, 0.9)
        return ProcessResult("word", "", "en", (), (said,), (), ())

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", "en", (), (), (), ())


def test_a_live_view_draws_one_moment_whoever_feeds_it_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(segments: Any, switches: Any, frames: Any, latency: Any, heard_s: float, **how: Any) -> str:
        assert [round(at) for at, _, _ in latency][-1] == round(heard_s)
        assert segments[-1].end_time == heard_s
        return ""

    monkeypatch.setattr("whisperlab.jupyter.live_view.live_figure", drawn)
    monkeypatch.setattr("whisperlab.report.figure.to_svg", lambda *what: "")
    view = LiveView(Talker(), every_s=1e9, show=lambda markup: None)
    second = np.zeros(SAMPLE_RATE, np.float32)
    view.process(second)
    fed = met_everywhere(view.html, lambda: view.process(second), lambda: None)
    assert fed > 10
    fed += met_everywhere(lambda: view.process(second), view.html, lambda: None)
    assert round(view.received_s) == len(view._latency)


# --- the transcriber ----------------------------------------------------------------------------------


def make(model: Any, **options: Any) -> SessionRestartTranscriber:
    return SessionRestartTranscriber(model, languages=["en", "es"], lid_hop_ms=200, **options)


Outcome = tuple[list[SessionSegment], list[Any], list[Any], str]


def outcome(results: list[ProcessResult]) -> Outcome:
    """All that a stream brought, whatever its chunks."""
    return (
        [segment for result in results for segment in result.segments],
        [switch for result in results for switch in result.switches],
        [frame for result in results for frame in result.frames],
        "".join(result.committed for result in results),
    )


def listen(transcriber: SessionRestartTranscriber, audio: FloatArray, n_chunk: int = CHUNK) -> Outcome:
    results = [transcriber.process(chunk) for chunk in chunks(audio, n_chunk)]
    return outcome([*results, transcriber.finalize()])


def counted(transcriber: SessionRestartTranscriber) -> dict[str, Any]:
    """The statistics that no clock decides."""
    told = transcriber.get_statistics()
    told["encoder_cache"].pop("lookup_ms")
    told["performance"] = {name: row["count"] for name, row in told["performance"].items()}
    del told["self_cost_ns"]
    return told


@pytest.fixture(scope="module")
def sentence(scene: Scene) -> FloatArray:
    """Less than three seconds: the beginning of an English sentence, and the pause after it."""
    speech = scene.beginning(1).audio[SAMPLE_RATE // 2 : SAMPLE_RATE * 9 // 4]
    return np.concatenate([speech, np.zeros(SAMPLE_RATE, np.float32)])


class SlowDetector:
    """A voice activity detector that waits at one frame until it is let go."""

    def __init__(self, inner: Any, at: int) -> None:
        self._inner, self._at, self._n = inner, at, 0
        self.waits, self.go = threading.Event(), threading.Event()

    def __call__(self, frame: FloatArray) -> float:
        self._n += 1
        if self._n == self._at:
            self.waits.set()
            assert self.go.wait(60)
        return float(self._inner(frame))

    def reset(self) -> None:
        self._inner.reset()


@pytest.mark.model
def test_statistics_do_not_wait_for_a_chunk_and_finalize_does(base_model: Whisper) -> None:
    transcriber = make(base_model, decode=False)
    detector = transcriber.parts.stream.context.gate.detector = SlowDetector(SileroDetector(), at=20)
    silence = np.zeros(SAMPLE_RATE, np.float32)
    ends: list[str] = []

    def feed() -> None:
        transcriber.process(silence)
        ends.append("process")

    def finish() -> None:
        transcriber.finalize()
        ends.append("finalize")

    def look() -> None:
        assert detector.waits.wait(60)
        finisher = threading.Thread(target=finish)
        finisher.start()
        assert transcriber.get_statistics()["sessions"]["heard_s"] < 0.7
        assert "vad.detect" in transcriber.get_performance_summary()
        assert "vad.detect" in transcriber.export_prometheus_metrics()
        assert transcriber.latest.segments == ()
        assert ends == []
        detector.go.set()
        finisher.join()

    run_together(feed, look)
    assert ends == ["process", "finalize"]
    assert transcriber.get_statistics()["sessions"]["heard_s"] == 1.0
    with pytest.raises(StreamEndedError):
        transcriber.process(silence)


@pytest.mark.model
def test_chunks_of_two_producers_go_in_one_after_the_other(base_model: Whisper, frequent_switches: None) -> None:
    transcriber = make(base_model, decode=False)

    def feed(n: int) -> None:
        for _ in range(400):
            transcriber.process(np.zeros(n, np.float32))

    run_together(lambda: feed(311), lambda: feed(97))
    told = transcriber.get_statistics()
    assert told["sessions"]["heard_s"] == 400 * (311 + 97) / SAMPLE_RATE
    assert told["performance"]["vad.detect"]["count"] == 400 * (311 + 97) // VAD_FRAME
    assert transcriber.vad_audio_buffer.end == transcriber.audio_buffer_for_lid.end == 400 * (311 + 97)


@pytest.mark.model
def test_whoever_reads_changes_nothing_and_sees_counts_that_only_grow(
    base_model: Whisper, sentence: FloatArray, frequent_switches: None
) -> None:
    """The networks answer one listener only, so that the other is read all the more between its lines."""
    alone, watched = make(base_model, parts=REMEMBERED), make(base_model, parts=REMEMBERED)
    heard: list[Outcome] = []
    run_together(lambda: heard.append(listen(alone, sentence)))  # in a thread, which torch gives threads of its own
    (wanted,) = heard
    seen: list[tuple[float, ...]] = []
    found: list[Outcome] = []

    def read() -> None:
        told = watched.get_statistics()
        lid, sessions, cache = told["lid"], told["sessions"], told["encoder_cache"]
        per_call = lid["encoded_s"] / max(lid["encoder_calls"], 1)
        assert (lid["encoder_calls"] == 0) == (lid["encoded_s"] == 0)
        assert per_call <= 3.0
        looked_up = cache["hits"] + cache["misses"]
        seen.append((sessions["heard_s"], sessions["decodes"], sessions["segments"], lid["frames"], looked_up))

    while_it_runs(
        lambda: found.append(listen(watched, sentence)),
        read,
        watched.get_performance_summary,
        watched.export_prometheus_metrics,
        lambda: watched.latest,
    )
    assert found == [wanted]
    assert counted(watched) == counted(alone)
    assert len(wanted[0]) > 0
    for column in zip(*seen, strict=True):
        assert list(column) == sorted(column)


@pytest.mark.model
def test_statistics_asked_for_during_a_reset_are_of_one_stream(base_model: Whisper) -> None:
    transcriber = make(base_model, decode=False)
    transcriber.process(np.zeros(CHUNK, np.float32))
    seen: list[tuple[float, float]] = []

    def read() -> None:
        told = transcriber.get_statistics()
        seen.append((round(told["sessions"]["heard_s"] * SAMPLE_RATE), told["buffers"]["vad"]["held"]))

    def again() -> None:
        transcriber.process(np.zeros(CHUNK, np.float32))

    assert met_everywhere(transcriber.reset, read, again) > 50
    assert set(seen) == {(0, 0), (CHUNK, CHUNK)}


@pytest.mark.model
def test_a_reset_waits_for_a_decode_that_an_interrupt_left_behind(
    base_model: Whisper, sentence: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber = make(base_model, session=SessionOptions(parallel_ms=400))
    decode, go = transcriber.parts.decoder.decode, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        assert go.wait(60)
        return decode(*args, **kwargs)

    monkeypatch.setattr(transcriber.parts.decoder, "decode", slow)
    monkeypatch.setattr("whisperlab.streaming.text_session.Pending", lambda *what: interrupt())
    with pytest.raises(KeyboardInterrupt):
        listen(transcriber, sentence)
    resetting = threading.Thread(target=transcriber.reset)
    resetting.start()
    resetting.join(0.2)
    assert resetting.is_alive()
    go.set()
    resetting.join()
    assert counted(transcriber)["performance"] == {}
    assert transcriber.get_statistics()["sessions"]["encoder_calls"] == 0


@pytest.mark.model
@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_two_transcribers_in_two_threads_hear_what_each_hears_alone(
    base_model: Whisper, sentence: FloatArray, shared: bool
) -> None:
    from whisperlab.model.weights import load_weights

    precisions = ["int8", "bf16" if has_bf16(torch.device("cpu")) else "fp32"]
    models = [base_model, base_model if shared else load_weights("base")]
    options = [
        {"precision": precision, "session": SessionOptions(parallel_ms=parallel_ms)}
        for precision, parallel_ms in zip(precisions, (0, 400), strict=True)
    ]
    if shared:
        options = options[:1] * 2
    threads = torch.get_num_threads()
    audio = [sentence, sentence[SAMPLE_RATE // 2 :]]
    alone = [listen(make(model, **how), a) for model, how, a in zip(models, options, audio, strict=True)]
    together: dict[int, Outcome] = {}

    def work(n: int) -> None:
        together[n] = listen(make(models[n], **options[n]), audio[n])

    run_together(lambda: work(0), lambda: work(1))
    assert [together[0], together[1]] == alone
    assert torch.get_num_threads() == threads
    assert all(segments for segments, *_ in alone)


@pytest.mark.model
def test_a_model_is_prepared_once_however_many_threads_ask(base_model: Whisper) -> None:
    from whisperlab.model.engine import prepared
    from whisperlab.model.weights import load_weights

    weights, barrier = load_weights("base"), threading.Barrier(3)
    found: list[Any] = []

    def ask() -> None:
        barrier.wait()
        found.append(prepared(weights, "bf16" if has_bf16(torch.device("cpu")) else "fp32"))

    run_together(ask, ask, ask)
    assert len({id(encoder) for encoder, _ in found}) == len({id(stack) for _, stack in found}) == 1


# --- interrupts of the transcriber --------------------------------------------------------------------


class ReplayedDetector:
    """Gives the n-th frame of every stream what it gave the n-th frame of the first, which was the same."""

    def __init__(self, inner: Any, known: list[float]) -> None:
        self._inner, self._known, self._n = inner, known, 0

    def __call__(self, frame: FloatArray) -> float:
        if self._n == len(self._known):
            self._known.append(float(self._inner(frame)))
        self._n += 1
        return self._known[self._n - 1]

    def reset(self) -> None:
        self._n = 0
        self._inner.reset()


@pytest.fixture(scope="module")
def answers() -> dict[Any, Any]:
    """What the networks have answered."""
    return {}


@pytest.fixture
def replayed(
    base_model: Whisper, answers: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SessionRestartTranscriber]:
    """Makes transcribers whose networks answer from memory what they have answered once: a stream takes moments."""

    def remembered(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*args: Any, **kwargs: Any) -> Any:
            key = (name, repr([hash(a.tobytes()) if isinstance(a, np.ndarray) else a for a in args]), repr(kwargs))
            if key not in answers:
                answers[key] = method(*args, **kwargs)
            return answers[key]

        return answer

    def made(**options: Any) -> SessionRestartTranscriber:
        transcriber = make(base_model, parts=REMEMBERED, **options)
        for part, names in {
            transcriber.parts.decoder: ("decode", "likelihoods"),
            transcriber.parts.probe.encoder: ("posteriors", "posterior"),
        }.items():
            for name in names:
                monkeypatch.setattr(part, name, remembered(name, getattr(part, name)))
        normal, quiet = transcriber.parts.voice_detectors
        transcriber.parts.voice_detectors = ReplayedDetector(normal, []), quiet
        transcriber.reset()
        return transcriber

    return made


@pytest.fixture(scope="module")
def conversation(scene: Scene) -> FloatArray:
    """English, then some Spanish, then the pause after it: seven seconds with a switch."""
    return np.concatenate([scene.audio[: 6 * SAMPLE_RATE], np.zeros(SAMPLE_RATE, np.float32)])


def lines_of(work: Work) -> int:
    with Interrupt(-1) as counter:
        work()
    return counter.lines


def listen_interrupted(
    transcriber: SessionRestartTranscriber, audio: FloatArray, interrupting: Any
) -> tuple[str, list[SessionSegment]]:
    """Feed until the interrupt; whether the stream went on after it, and all segments ever seen of it."""
    results: list[ProcessResult] = []
    try:
        with interrupting:
            for chunk in chunks(audio, CHUNK):
                results.append(transcriber.process(chunk))
            results.append(transcriber.finalize())
    except KeyboardInterrupt:
        if not results or transcriber.latest != results[-1]:
            results.append(transcriber.latest)
    else:
        return "not interrupted", outcome(results)[0]
    heard = round(transcriber.get_statistics()["sessions"]["heard_s"] * SAMPLE_RATE)
    try:
        for chunk in chunks(audio[heard:], CHUNK):
            results.append(transcriber.process(chunk))
        results.append(transcriber.finalize())
    except StreamBrokenError:
        with pytest.raises(StreamBrokenError, match=r"reset\(\)"):
            transcriber.finalize()
        return "broken", outcome(results)[0]
    return "whole", outcome(results)[0]


def check_after_interrupt(
    transcriber: SessionRestartTranscriber, audio: FloatArray, interrupting: Any, wanted: Outcome
) -> str:
    """The stream went on rightly or says that it is broken; and begins anew like any other."""
    how, segments = listen_interrupted(transcriber, audio, interrupting)
    assert segments == (wanted[0][: len(segments)] if how == "broken" else wanted[0])
    assert free(transcriber._working)
    assert free(transcriber._reading)
    transcriber.get_statistics()
    transcriber.export_prometheus_metrics()
    transcriber.reset()
    return how


@pytest.mark.model
@pytest.mark.parametrize("parallel_ms", [0, 400], ids=["one thread", "decoding in a second"])
@often
def test_an_interrupt_at_any_line_leaves_a_stream_that_goes_on_or_says_that_it_is_broken(
    replayed: Callable[..., SessionRestartTranscriber], conversation: FloatArray, parallel_ms: int, interrupts: int
) -> None:
    transcriber = replayed(session=SessionOptions(parallel_ms=parallel_ms))
    wanted = listen(transcriber, conversation)
    assert len(wanted[0]) >= 2
    assert wanted[1]
    transcriber.reset()
    n_lines = lines_of(lambda: listen(transcriber, conversation))
    as_fresh = counted(transcriber)
    transcriber.reset()
    rng = random.Random(parallel_ms)
    moments = [*range(1, 6), *(rng.randrange(1, n_lines) for _ in range(interrupts))]
    hows: list[str] = []
    for n, at in enumerate(moments):
        hows.append(check_after_interrupt(transcriber, conversation, Interrupt(at), wanted))
        if n % 4 == 0:
            assert listen(transcriber, conversation) == wanted
            assert counted(transcriber) == as_fresh
            transcriber.reset()
    assert {"broken", "whole"} <= set(hows)
    print(f"{len(moments)} of {n_lines} lines: { {how: hows.count(how) for how in set(hows)} }")


@pytest.mark.model
def test_an_interrupt_at_any_line_of_reset_is_mended_by_another(
    replayed: Callable[..., SessionRestartTranscriber], conversation: FloatArray
) -> None:
    transcriber = replayed(decode=False)
    silence = np.zeros(CHUNK, np.float32)

    def check(interrupted: bool) -> None:
        try:
            transcriber.process(silence)
        except StreamBrokenError:
            assert interrupted
        assert free(transcriber._working)
        transcriber.reset()
        transcriber.process(silence)
        assert transcriber.get_statistics()["sessions"]["heard_s"] == 0.1

    assert interrupted_everywhere(transcriber.reset, check) > 50


class Alarm:
    """A context that has the system interrupt the program after some seconds, wherever it is."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, lambda number, frame: interrupt())
        signal.setitimer(signal.ITIMER_REAL, self._after_s)

    def __exit__(self, *raised: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


@pytest.mark.model
@often
def test_a_signal_at_any_moment_does_no_more(
    replayed: Callable[..., SessionRestartTranscriber], conversation: FloatArray, interrupts: int
) -> None:
    transcriber = replayed()
    wanted = listen(transcriber, conversation)
    transcriber.reset()
    began = time.perf_counter()
    assert listen(transcriber, conversation) == wanted
    took_s = time.perf_counter() - began
    transcriber.reset()
    rng = random.Random(1)
    for _ in range(interrupts):
        check_after_interrupt(transcriber, conversation, Alarm(rng.uniform(1e-4, took_s)), wanted)
    assert listen(transcriber, conversation) == wanted


@pytest.mark.model
@in_short_and_at_length("interrupts", 2, 50)
def test_an_interrupt_within_the_real_network_leaves_nothing_of_it(
    base_model: Whisper, sentence: FloatArray, interrupts: int
) -> None:
    transcriber, heard = make(base_model), list[Outcome]()
    n_lines = lines_of(lambda: heard.append(listen(transcriber, sentence)))
    (wanted,) = heard
    transcriber.reset()
    rng = random.Random(2)
    for _ in range(interrupts):
        check_after_interrupt(transcriber, sentence, Interrupt(rng.randrange(n_lines)), wanted)
    assert listen(transcriber, sentence) == wanted


@pytest.mark.model
@pytest.mark.parametrize("parallel_ms", [0, 400], ids=["one thread", "decoding in a second"])
def test_an_error_out_of_the_decoder_leaves_what_was_final_and_asks_for_a_reset(
    replayed: Callable[..., SessionRestartTranscriber],
    conversation: FloatArray,
    parallel_ms: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transcriber = replayed(session=SessionOptions(parallel_ms=parallel_ms))
    wanted = listen(transcriber, conversation)
    transcriber.reset()
    decode, left = transcriber.parts.decoder.decode, 6

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise MemoryError("no room for the window")
        return decode(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(transcriber.parts.decoder, "decode", failing)
        with pytest.raises(MemoryError, match="not enough memory for the stream") as failed:
            listen(transcriber, conversation)
    assert str(failed.value.__cause__) == "no room for the window"
    with pytest.raises(StreamBrokenError, match=r"reset\(\)") as told:
        transcriber.process(conversation[:100])
    assert "s into this stream" in str(told.value)
    final = list(transcriber.latest.segments)
    assert all(segment in wanted[0] for segment in final)
    transcriber.reset()
    assert listen(transcriber, conversation) == wanted


# --- processes ----------------------------------------------------------------------------------------


def hear_in_child(audio: FloatArray) -> Outcome:
    return listen(make("base"), audio)


def hear_and_fork(audio: FloatArray) -> tuple[Outcome, list[bool], Outcome]:
    """What a process hears before it forks, what its own child is told, and what it hears afterwards."""
    transcriber = make("base", threads=2)
    before = listen(transcriber, audio)
    transcriber.reset()
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writing, json.dumps(refusals(transcriber, audio)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        refused = json.loads(told.read())
    os.wait()
    return before, refused, listen(transcriber, audio)


def refusals(transcriber: SessionRestartTranscriber, audio: FloatArray) -> list[bool]:
    """Whether each call is refused with a word on what to do."""
    refused = []
    for call in (
        lambda: transcriber.process(audio),
        transcriber.finalize,
        transcriber.reset,
        transcriber.get_statistics,
        transcriber.get_performance_summary,
        transcriber.export_prometheus_metrics,
        lambda: SessionRestartTranscriber("base"),
    ):
        try:
            call()
        except ForkedError as error:
            refused.append("spawn" in str(error))
    return refused


@pytest.mark.model
def test_a_spawned_process_hears_the_same_and_a_fork_is_told_so_and_its_parent_goes_on(
    base_model: Whisper, sentence: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # on busy cores spinning threads take minutes
    with get_context("spawn").Pool(1) as pool:
        theirs = pool.apply_async(hear_in_child, (sentence,)).get(300)
        before, refused, after = pool.apply_async(hear_and_fork, (sentence,)).get(300)
    assert theirs == listen(make("base"), sentence)
    assert refused == [True] * 7
    assert before == after
    assert before[0]

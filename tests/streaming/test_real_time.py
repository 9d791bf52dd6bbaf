"""Real time on a machine that is too slow: what is given up, in which order, and that nothing of it is silent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from remembered import REMEMBERED
from test_trace import FakeClock

from whisperlab import PerformanceMetrics, SessionRestartTranscriber
from whisperlab.config import SessionOptions
from whisperlab.evaluation.trace import Trace, capture
from whisperlab.streaming.decoding import Hypothesis, SpeechDecoder
from whisperlab.streaming.real_time import GAPS_KEPT, PIECE_MS, WARN_S, LoadCounts, OverloadOptions, RealTimeFeed
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import AudioFormatError, ConfigurationError, StreamEndedError
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

MS = SAMPLE_RATE // 1000
PIECE = PIECE_MS * MS
SMALL = OverloadOptions(skip_lid_ms=200, longer_steps_ms=400, drop_ms=1000)


@dataclass
class Parrot:
    """Repeats what it hears, in the machine time that ``factor`` gives for the audio clock and the load level."""

    clock: FakeClock = field(default_factory=lambda: FakeClock(0.0))
    factor: Callable[[float, int], float] = lambda at_s, level: 0.0
    load_level: int = 0
    position: int = 0
    heard: list[tuple[int, FloatArray]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    gaps: list[Span] = field(default_factory=list)
    ended: bool = False
    metrics: PerformanceMetrics | None = None

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        assert not self.ended
        assert len(chunk)
        self.begun.append(self.clock())
        self.clock.sleep(seconds(len(chunk)) * self.factor(seconds(self.position), self.load_level))
        self.heard.append((self.position, chunk))
        self.levels.append(self.load_level)
        self.position += len(chunk)
        return ProcessResult("", "", None, load_level=self.load_level)

    def skip(self, n_samples: int, /) -> ProcessResult:
        assert not self.ended
        assert n_samples > 0
        self.gaps.append(Span(self.position, self.position + n_samples))
        self.position += n_samples
        return ProcessResult("", "", None, gaps=(self.gaps[-1],), load_level=self.load_level)

    def finalize(self) -> ProcessResult:
        assert not self.ended
        self.ended = True
        return ProcessResult("the end", "", None)

    def get_statistics(self) -> dict[str, Any]:
        return {"lid": {"shed": 7}, "sessions": {"steps_shed": 3}}

    def config(self) -> dict[str, Any]:
        return {"model": "parrot"}


def ramp(start: int, n: int) -> FloatArray:
    """Samples that tell their own place in the stream (exact in float32 up to 2**24)."""
    return np.arange(start, start + n, dtype=np.float32) / np.float32(2**24)


def pump(feed: RealTimeFeed) -> ProcessResult | None:
    """Run the work that is due; None if there is none."""
    return work[1]() if (work := feed.due()) else None


def run(feed: RealTimeFeed, on_result: Callable[[ProcessResult], object]) -> None:
    """Work in this thread until the feed is closed and empty."""
    for _, call in feed.work():
        on_result(call())


def added_up(counts: LoadCounts) -> int:
    return sum(counts.processed) + counts.dropped + counts.waiting + counts.working


def heard_right(parrot: Parrot) -> bool:
    """Whether every sample came with the time it has in the stream."""
    return all(np.array_equal(chunk, ramp(start, len(chunk))) for start, chunk in parrot.heard)


def live(parrot: Parrot, duration_s: float, options: OverloadOptions = SMALL) -> Trace:
    """A stream in real time, by the parrot's clock."""
    audio = ramp(0, samples(duration_s))
    clock = parrot.clock
    return capture(parrot, audio, recording="r", pace="real", overload=options, clock=clock, sleep=clock.sleep)


# --- laws ---------------------------------------------------------------------------------------------


# A source and a worker in any order: positive numbers are samples offered at once, 0 is a step of work.
ACTIONS = st.lists(st.one_of(st.just(0), st.integers(1, 3 * PIECE), st.integers(1, 3000 * MS)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(actions=ACTIONS, recover=st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_under_any_load_all_samples_are_accounted_for_and_the_lag_is_bounded(
    actions: Sequence[int], recover: float
) -> None:
    options = OverloadOptions(200, 400, 1000, recover)
    parrot, offered = Parrot(), 0
    feed = RealTimeFeed(parrot, options)
    for action in actions:
        if action:
            feed.offer(ramp(offered, action))
            offered += action
        else:
            pump(feed)
        counts = feed.counts()
        assert counts.offered == offered == added_up(counts)
        assert counts.lag <= options.drop_ms * MS
        assert counts.max_lag <= options.drop_ms * MS
    feed.close()
    while pump(feed):
        pass
    counts = feed.counts()
    assert parrot.ended
    assert parrot.position == offered
    assert heard_right(parrot)
    assert (sum(counts.processed), counts.dropped) == (
        sum(len(chunk) for _, chunk in parrot.heard),
        sum(map(len, parrot.gaps)),
    )
    assert counts.lag == 0
    assert counts.offered == added_up(counts)


@settings(max_examples=60, deadline=None)
@given(
    factors=st.lists(st.floats(0.0, 6.0), min_size=1, max_size=6),
    stalls=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=4),
)
def test_by_the_clock_too_the_work_is_never_farther_behind_than_the_limit_and_one_piece(
    factors: Sequence[float], stalls: Sequence[float]
) -> None:
    def factor(at_s: float, level: int) -> float:
        stalled = stalls[int(at_s * 3) % len(stalls)] if round(at_s * 10) % 17 == 0 else 0.0
        return factors[int(at_s) % len(factors)] + stalled / 0.1

    parrot = Parrot(factor=factor)
    trace = live(parrot, 12.0)
    calls = list(zip(parrot.heard, parrot.begun, strict=True))
    longest_s = max(factor(seconds(start), 0) * seconds(len(chunk)) for (start, chunk), _ in calls)
    behind_s = [began - seconds(start) for (start, _), began in calls if began < trace.duration]
    assert max(behind_s) <= SMALL.drop_ms / 1000 + longest_s + 1e-6
    told = trace.statistics["real_time"]
    assert told["max_lag_s"] <= (SMALL.drop_ms + PIECE_MS) / 1000
    assert sum(told["processed_s"].values()) + told["dropped_s"] == pytest.approx(trace.duration)
    assert heard_right(parrot)


def test_a_source_that_outruns_a_stalled_worker_leaves_the_lag_at_the_limit_and_a_piece() -> None:
    feed: RealTimeFeed

    class Stalled(Parrot):
        def process(self, chunk: FloatArray, /) -> ProcessResult:
            for start in range(PIECE, 40 * PIECE, PIECE):  # four seconds go by in one call
                feed.offer(ramp(start, PIECE))
                seen.append(feed.counts())
            return super().process(chunk)

    seen: list[LoadCounts] = []
    feed = RealTimeFeed(Stalled(), SMALL)
    feed.offer(ramp(0, PIECE))
    pump(feed)
    assert max(counts.lag for counts in seen) == SMALL.drop_ms * MS + PIECE == feed.counts().max_lag
    assert all(counts.offered == added_up(counts) for counts in seen)


# --- the order of measures ----------------------------------------------------------------------------


def twice_too_slow(at_s: float, level: int) -> float:
    return 2.0


def test_language_id_goes_first_then_decode_steps_then_audio() -> None:
    trace = live(Parrot(factor=twice_too_slow), 6.0)
    measures = [
        event["level"] if event["kind"] == "load" else "gap"
        for event in trace.events
        if event["kind"] in ("load", "gap")
    ]
    assert measures[:3] == [1, 2, "gap"]


@pytest.mark.parametrize("helps, level", [({0: 1.5, 1: 0.9, 2: 0.9}, 1), ({0: 2.0, 1: 1.4, 2: 0.9}, 2)])
def test_no_audio_is_dropped_where_a_lower_level_is_enough(helps: dict[int, float], level: int) -> None:
    parrot = Parrot(factor=lambda at_s, at_level: helps[at_level])
    told = live(parrot, 60.0).statistics["real_time"]
    assert (told["dropped_s"], told["gaps"]) == (0, 0)
    assert max(parrot.levels) == level


def test_a_machine_twice_too_slow_drops_half_in_few_gaps() -> None:
    trace = live(Parrot(factor=twice_too_slow), 60.0)
    told = trace.statistics["real_time"]
    assert told["dropped_s"] == pytest.approx(30, abs=1.5)
    assert min(map(len, trace.gaps)) >= 0.5 * SMALL.drop_ms * MS
    assert told["gaps"] == len(trace.gaps)


def test_a_machine_that_keeps_up_is_left_alone() -> None:
    parrot = Parrot(factor=lambda at_s, level: 0.9)
    told = live(parrot, 30.0).statistics["real_time"]
    assert told["processed_s"] == {"0": 30.0, "1": 0.0, "2": 0.0}
    assert not parrot.gaps


def test_after_the_load_all_comes_back() -> None:
    parrot = Parrot(factor=lambda at_s, level: 3.0 if at_s < 10 else 0.5)
    trace = live(parrot, 20.0)
    assert parrot.gaps
    assert parrot.gaps[-1].end < 12 * SAMPLE_RATE
    assert parrot.levels[-50:] == [0] * 50
    assert trace.events[-1]["elapsed"] == pytest.approx(20.05, abs=0.06)  # no lag is left
    assert trace.statistics["real_time"]["level"] == 0


def test_a_level_is_left_only_well_below_its_threshold() -> None:
    options, level, levels = OverloadOptions(1000, 2000, 4000), 0, []
    for lag_ms in (900, 1100, 900, 600, 400, 900, 2100, 1500, 900, 400):
        level = options.level(lag_ms, level)
        levels.append(level)
    assert levels == [0, 1, 1, 1, 0, 0, 2, 2, 1, 0]


# --- never silent -------------------------------------------------------------------------------------


def test_the_first_drop_is_warned_of_at_once_the_next_in_turn_and_the_last_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock(0.0)
    feed = RealTimeFeed(Parrot(), SMALL, clock=clock)

    def lose() -> int:
        feed.offer(np.zeros(2000 * MS, np.float32))
        pump(feed)
        return len(caplog.records)

    with caplog.at_level(logging.WARNING, "whisperlab"):
        assert [lose(), lose()] == [1, 1]
        clock.sleep(WARN_S)
        assert [lose(), lose()] == [2, 2]
        feed.close()
        while pump(feed):
            pass
    assert len(caplog.records) == 3
    dropped_s = feed.get_statistics()["real_time"]["dropped_s"]
    assert f"dropped {dropped_s:.1f} s in " in caplog.text


def test_a_stream_without_loss_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    live(Parrot(), 3.0)
    assert not caplog.records


def test_gaps_are_listed_and_the_list_is_bounded() -> None:
    parrot = Parrot()
    feed = RealTimeFeed(parrot, SMALL)
    for _ in range(GAPS_KEPT + 20):
        feed.offer(np.zeros(1000 * MS, np.float32))
        feed.offer(np.zeros(PIECE, np.float32))
        pump(feed)
        pump(feed)
    told = feed.get_statistics()["real_time"]
    assert told["gaps"] == len(parrot.gaps) == GAPS_KEPT + 20
    assert len(told["last_gaps"]) == GAPS_KEPT
    assert told["last_gaps"][-1] == {"start": seconds(parrot.gaps[-1].start), "end": seconds(parrot.gaps[-1].end)}


def test_a_scrape_tells_lag_level_and_losses() -> None:
    feed = RealTimeFeed(Parrot(), SMALL)
    feed.offer(np.zeros(1000 * MS, np.float32))
    feed.offer(np.zeros(500 * MS, np.float32))
    pump(feed)
    pump(feed)
    text = PerformanceMetrics().export_prometheus(feed)
    found = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["whisperlab_lag_seconds", None] == 0.4
    assert found["whisperlab_max_lag_seconds", None] == 1.0
    assert found["whisperlab_load_level", None] == 2
    assert found["whisperlab_audio_seconds_total", "dropped"] == 1.0
    assert found["whisperlab_audio_seconds_total", "level_2"] == 0.1
    assert found["whisperlab_gaps_total", None] == 1
    assert feed.get_summary().endswith("dropped 1.0 s in 1 gaps")


def test_the_metrics_of_a_transcriber_export_the_lag_of_its_feed_as_of_its_stream() -> None:
    streams = []
    for name, queued in (("a", 300), ("b", 200)):
        metrics = PerformanceMetrics(stream=name)
        feed = RealTimeFeed(Parrot(metrics=metrics), SMALL)
        feed.offer(np.zeros(queued * MS, np.float32))
        streams.append((metrics, feed))
    (a, feed_a), (b, feed_b) = streams
    for text in (a.export_prometheus(b), a.export_prometheus(feed_a, feed_b)):
        lags = [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "whisperlab_lag_seconds"
        ]
        assert lags == [({"stream": "a"}, 0.3), ({"stream": "b"}, 0.2)]


# --- two threads --------------------------------------------------------------------------------------


def test_a_worker_takes_all_that_a_source_in_another_thread_offers() -> None:
    parrot, results = Parrot(), []
    feed = RealTimeFeed(parrot, OverloadOptions(drop_ms=60_000))
    worker = threading.Thread(target=run, args=(feed, results.append))
    worker.start()
    for start in range(0, 30 * SAMPLE_RATE, 160):
        feed.offer(ramp(start, 160))
    feed.close()
    worker.join(60)
    assert not worker.is_alive()
    assert results[-1].committed == "the end"
    assert parrot.position == 30 * SAMPLE_RATE
    assert not parrot.gaps
    assert heard_right(parrot)


def test_an_offer_is_a_copy_and_bad_audio_changes_nothing() -> None:
    parrot = Parrot()
    feed, chunk = RealTimeFeed(parrot, SMALL), ramp(0, PIECE)
    feed.offer(chunk)
    chunk[:] = 0.5
    for bad in ([np.nan], "audio", np.zeros(3, np.int64)):
        with pytest.raises(AudioFormatError):
            feed.offer(bad)
    pump(feed)
    assert heard_right(parrot)
    assert feed.counts().offered == PIECE
    feed.close()
    with pytest.raises(StreamEndedError):
        feed.offer(ramp(0, 1))


def test_an_error_of_the_transcriber_passes_through_and_the_counts_still_add_up() -> None:
    class Broken(Parrot):
        def process(self, chunk: FloatArray, /) -> ProcessResult:
            raise RuntimeError("broken")

    feed = RealTimeFeed(Broken(), SMALL)
    feed.offer(ramp(0, 3 * PIECE))
    with pytest.raises(RuntimeError, match="broken"):
        run(feed, print)
    counts = feed.counts()
    assert counts.offered == added_up(counts)
    assert counts.working == 0


@pytest.mark.parametrize(
    "options",
    [{"skip_lid_ms": 0}, {"skip_lid_ms": 3000}, {"drop_ms": 3000}, {"recover": 1.0}, {"recover": float("nan")}],
)
def test_thresholds_out_of_order_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        OverloadOptions(**options)


def test_load_is_shed_in_real_time_only() -> None:
    with pytest.raises(ConfigurationError, match="pace real"):
        capture(Parrot(), ramp(0, 100), recording="r", overload=SMALL)


# --- the transcriber ----------------------------------------------------------------------------------


Results = list[ProcessResult]


@pytest.fixture(scope="module")
def make(base_model: Whisper, scene: Scene) -> Callable[[], SessionRestartTranscriber]:
    return lambda: SessionRestartTranscriber(base_model, languages=scene.languages, lid_hop_ms=200, parts=REMEMBERED)


def outcome(results: Results) -> tuple[Any, ...]:
    """What must not depend on how the stream was cut into chunks."""
    return (
        [segment for result in results for segment in result.segments],
        [switch for result in results for switch in result.switches],
        [frame for result in results for frame in result.frames],
        [span for result in results for span in result.speech],
        [gap for result in results for gap in result.gaps],
        "".join(result.committed for result in results),
    )


def pieces_of(audio: FloatArray, seed: int) -> Iterator[FloatArray]:
    """Pieces of nothing to a third of a second."""
    rng, start = np.random.default_rng(seed), 0
    while start < len(audio):
        n = int(rng.integers(0, SAMPLE_RATE // 3))
        yield audio[start : start + n]
        start += n


def heard(transcriber: SessionRestartTranscriber, pieces: Iterator[FloatArray], level: int) -> Results:
    transcriber.load_level = level
    return [*(transcriber.process(piece) for piece in pieces), transcriber.finalize()]


@pytest.mark.model
def test_each_level_does_less_than_the_one_before_and_chunks_do_not_matter_to_it(
    make: Callable[[], SessionRestartTranscriber], scene: Scene
) -> None:
    audio, told = scene.beginning(1).audio, []
    for level in (0, 1, 2):
        transcriber = make()
        results = heard(transcriber, chunks(audio, PIECE), level)
        assert {result.load_level for result in results} == {level}
        told.append(transcriber.get_statistics())
    assert [statistics["lid"]["shed"] > 0 for statistics in told] == [False, True, True]
    assert [statistics["sessions"]["steps_shed"] > 0 for statistics in told] == [False, False, True]
    assert told[0]["lid"]["frames"] > told[1]["lid"]["frames"]
    assert told[1]["sessions"]["decodes"] > told[2]["sessions"]["decodes"]
    shed = f"{told[2]['lid']['shed']} language-ID frames, {told[2]['sessions']['steps_shed']} decode steps"
    assert shed in transcriber.get_performance_summary()
    assert outcome(results) == outcome(heard(make(), pieces_of(audio, 1), 2))


@pytest.mark.model
def test_longer_steps_make_no_longer_windows(
    base_model: Whisper, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SessionOptions(max_speech_s=2.0, step_ms=500)
    transcriber = SessionRestartTranscriber(base_model, language="es", session=session)
    decode, lengths = SpeechDecoder.decode, []

    def noted(decoder: SpeechDecoder, audio: FloatArray, *arguments: Any, **options: Any) -> Hypothesis:
        lengths.append(len(audio))
        return decode(decoder, audio, *arguments, **options)

    monkeypatch.setattr(SpeechDecoder, "decode", noted)
    until_a_long_step = scene.clip(scene.segments[1])[: samples(2.95)]
    heard(transcriber, chunks(until_a_long_step, PIECE), 2)
    assert max(lengths) <= samples(2.0 + 0.5), "longer than speech and one step"


@pytest.mark.model
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_gap_ends_speech_and_later_times_are_those_of_the_stream(
    base_model: Whisper, scene: Scene, rate: int
) -> None:
    first = scene.segments[0]
    gap = Span(samples((first.start + first.end) / 2), samples(first.end + 20))
    before, after = scene.audio[: gap.start], scene.clip(scene.segments[2])

    def made() -> SessionRestartTranscriber:
        return SessionRestartTranscriber(base_model, language="en", sampling_rate=rate, parts=REMEMBERED)

    def listened(transcriber: SessionRestartTranscriber, audio: FloatArray) -> Results:
        audio = audio.repeat(rate // SAMPLE_RATE)
        return [transcriber.process(piece) for piece in chunks(audio, rate // 10)]

    transcriber = made()
    results = listened(transcriber, before)
    skipped = transcriber.skip(len(gap) * rate // SAMPLE_RATE)
    results += [skipped, *listened(transcriber, after), transcriber.finalize()]
    segments = [segment for result in results for segment in result.segments]
    assert skipped.tentative == ""
    assert skipped.gaps == (gap,)
    assert skipped.segments
    assert skipped.segments[-1].end_time <= seconds(gap.start)
    late = [segment for segment in segments if segment.start_time >= seconds(gap.start)]
    assert late
    assert late[0].start_time >= seconds(gap.end)
    assert late[-1].end_time <= seconds(gap.end + len(after))
    told = transcriber.get_statistics()["sessions"]
    assert (told["gaps"], told["gap_s"]) == (1, seconds(len(gap)))
    assert told["heard_s"] == pytest.approx(seconds(gap.end + len(after)), abs=1e-3)
    alone = made()
    final = [*listened(alone, before), alone.finalize()]
    said = [segment for result in final for segment in result.segments]
    assert [segment.text for segment in said] == [s.text for s in segments if s not in late]


@pytest.mark.model
@pytest.mark.parametrize("n", [1, 511, 512, 1600, 3 * SAMPLE_RATE + 17, 100 * SAMPLE_RATE])
def test_any_gap_at_any_sample_keeps_the_clocks(
    make: Callable[[], SessionRestartTranscriber], scene: Scene, n: int
) -> None:
    audio = scene.audio[: 2 * SAMPLE_RATE + 333]
    transcriber = make()
    transcriber.process(audio)
    assert transcriber.skip(n).gaps == (Span(len(audio), len(audio) + n),)
    result = transcriber.process(audio)
    assert transcriber.vad_audio_buffer.end == transcriber.audio_buffer_for_lid.end == 2 * len(audio) + n
    assert all(segment.start_time >= 0 for segment in result.segments)
    frames = [frame.end for frame in result.frames]
    assert all(end > len(audio) + n and end % (200 * MS) == 0 for end in frames)


@pytest.mark.model
def test_bad_gaps_and_levels_are_refused(make: Callable[[], SessionRestartTranscriber]) -> None:
    transcriber = make()
    assert transcriber.skip(0).gaps == ()
    with pytest.raises(ConfigurationError, match="0 samples or more"):
        transcriber.skip(-1)
    with pytest.raises(ConfigurationError, match="0 to 2"):
        transcriber.load_level = 3
    transcriber.load_level = 2
    transcriber.reset()
    assert transcriber.load_level == 0
    transcriber.finalize()
    with pytest.raises(StreamEndedError):
        transcriber.skip(1)


@contextmanager
def slowed(transcriber: SessionRestartTranscriber, clock: FakeClock, factor: float) -> Iterator[None]:
    """Every piece takes so much longer than it lasts, by the clock."""
    process = transcriber.process

    def slow(chunk: npt.ArrayLike) -> ProcessResult:
        clock.sleep(seconds(np.size(chunk)) * factor)
        return process(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcriber, "process", slow)
        yield


@pytest.mark.model
def test_real_speech_on_a_machine_twice_too_slow_loses_audio_but_tells_and_keeps_time(
    base_model: Whisper, scene: Scene
) -> None:
    clock = FakeClock(0.0)
    transcriber = SessionRestartTranscriber(base_model, scene.languages, lid_hop_ms=200, parts=REMEMBERED)
    options = OverloadOptions(skip_lid_ms=500, longer_steps_ms=1000, drop_ms=3000)
    with slowed(transcriber, clock, 2.0):
        trace = capture(
            transcriber, scene.audio, recording="scene", pace="real", overload=options, clock=clock, sleep=clock.sleep
        )
    told = trace.statistics["real_time"]
    assert trace.gaps
    assert sum(map(len, trace.gaps)) == samples(told["dropped_s"])
    assert told["max_lag_s"] <= 3.1
    assert trace.statistics["lid"]["shed"] > 0
    assert trace.statistics["sessions"]["steps_shed"] > 0
    for segment in trace.segments:
        span = Span(samples(segment.start_time), samples(segment.end_time))
        assert all(span.end <= gap.start or gap.end <= span.start for gap in trace.gaps), (
            "words where nothing was heard"
        )
    assert trace.segments
    assert trace.statistics["sessions"]["heard_s"] == pytest.approx(trace.duration)


@pytest.mark.model
def test_real_speech_beside_a_busy_neighbour_is_bounded_by_the_wall_clock_too(
    base_model: Whisper, scene: Scene
) -> None:
    transcriber = SessionRestartTranscriber(base_model, languages=scene.languages)
    options = OverloadOptions(skip_lid_ms=150, longer_steps_ms=300, drop_ms=1000)
    feed, results, done = RealTimeFeed(transcriber, options), [], threading.Event()

    def neighbour() -> None:
        while not done.wait(0.001):
            np.linalg.svd(np.ones((300, 300)))

    threads = [threading.Thread(target=neighbour) for _ in range(4)]
    threads.append(threading.Thread(target=run, args=(feed, results.append)))
    for thread in threads:
        thread.start()
    pause = threading.Event()
    for chunk in chunks(scene.audio[: 6 * SAMPLE_RATE], PIECE):
        feed.offer(chunk)
        pause.wait(0.02)  # five times as fast as a microphone: no machine of ours keeps up
    feed.close()
    threads[-1].join(120)
    done.set()
    for thread in threads:
        thread.join(60)
    counts, told = feed.counts(), transcriber.get_statistics()["sessions"]
    assert counts.max_lag <= options.drop_ms * MS + PIECE
    assert counts.lag == 0
    assert counts.offered == added_up(counts) == samples(told["heard_s"]) == 6 * SAMPLE_RATE
    assert counts.dropped == samples(told["gap_s"]) == sum(len(g) for r in results for g in r.gaps) > 0

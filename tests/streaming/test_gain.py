"""Quiet speech is recognised and a warning is given; audio of a normal level and noise give what they gave before."""

from __future__ import annotations

import logging
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from whisperlab import SessionRestartTranscriber
from whisperlab.streaming.silero import SileroDetector
from whisperlab.streaming.vad import SpeechGate, VadOptions
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.gain import MAX_GAIN_DB, NORMAL, dbfs, gain_for, level_of, lifted, recent_level
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

LOUDEST = 10 ** (MAX_GAIN_DB / 20)


def quieter(audio: FloatArray, db: float, bits: int = 16) -> FloatArray:
    """The audio ``db`` lower, rounded to so many bits as a file holds it."""
    scale = 2.0 ** (bits - 1)
    return (np.round(audio * 10 ** (-db / 20) * scale) / scale).astype(np.float32)


def gate(**options: float) -> SpeechGate:
    return SpeechGate(VadOptions(**options), SileroDetector(), quiet_detector=SileroDetector())


def spans(one: SpeechGate, audio: FloatArray) -> list[Span]:
    whole = audio[: len(audio) // VAD_FRAME * VAD_FRAME]
    closed = [one.push(frame) for frame in whole.reshape(-1, VAD_FRAME)]
    return [span for span in [*closed, one.close()] if span]


@cache
def noises() -> dict[str, FloatArray]:
    """Four seconds each of what is no speech, with an RMS of 1."""
    rng, n = np.random.default_rng(0), 4 * SAMPLE_RATE
    t, spectrum = np.arange(n) / SAMPLE_RATE, np.fft.rfft(rng.standard_normal(n))
    falling = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 1)
    found = {
        "white": rng.standard_normal(n),
        "pink": np.fft.irfft(spectrum / falling**0.5),
        "brown": np.fft.irfft(spectrum / falling),
        "hum": sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 9)),
        "tones": np.sin(2 * np.pi * 697 * t) + np.sin(2 * np.pi * 1209 * t),
    }
    return {name: (x / np.sqrt(np.mean(x**2))).astype(np.float32) for name, x in found.items()}


def test_the_gain_is_exactly_one_from_the_normal_level_on_and_bounded_below() -> None:
    assert gain_for(NORMAL) == gain_for(1.0) == 1.0
    assert gain_for(NORMAL * 0.99) > 9
    assert gain_for(0.0) == pytest.approx(LOUDEST)
    window = np.full(SAMPLE_RATE, 0.02, np.float32)
    assert lifted(window) is window
    assert level_of(lifted(window * np.float32(0.01))) == pytest.approx(0.05, rel=0.01)
    assert not lifted(np.zeros(1000, np.float32)).any()


def test_a_click_does_not_hide_that_audio_is_quiet() -> None:
    window = np.full(SAMPLE_RATE, 1e-3, np.float32)
    window[5000] = 0.05
    assert level_of(window) < NORMAL


def test_the_recent_level_rises_at_once_and_falls_two_decibels_per_second() -> None:
    assert recent_level(0.0, 0.1) == 0.1
    level = 0.1
    for _ in range(round(10 * SAMPLE_RATE / VAD_FRAME)):
        level = recent_level(level, 0.0)
    assert dbfs(level) == pytest.approx(-40, abs=0.1)
    assert recent_level(level, 0.5) == 0.5
    assert dbfs(0.0) is None


@pytest.mark.parametrize("value", [-1, 51, float("nan"), "much"])
def test_a_gain_out_of_bounds_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="max_gain_db"):
        VadOptions(max_gain_db=value)


@pytest.fixture(scope="module")
def loud(scene: Scene) -> list[Span]:
    """Where there is speech in the scene."""
    return spans(gate(), scene.audio)


@pytest.mark.parametrize("db", [45, 55, 60])
def test_speech_is_found_at_any_level_where_it_is_found_when_loud(scene: Scene, loud: list[Span], db: float) -> None:
    quiet = spans(gate(), quieter(scene.audio, db))
    assert [len(quiet), quiet != []] == [len(loud), True]
    ends = np.array([(span.start, span.end) for span in loud])
    assert np.abs(ends - [(span.start, span.end) for span in quiet]).max() <= SAMPLE_RATE / 4


@pytest.mark.parametrize("db", [0, 15])
def test_normal_speech_gives_the_same_spans_with_and_without_gain(scene: Scene, db: float) -> None:
    pause = np.zeros(20 * SAMPLE_RATE, np.float32)
    speech = quieter(scene.audio[: 3 * SAMPLE_RATE], db)
    audio = np.concatenate([speech, pause, speech])
    assert spans(gate(), audio) == spans(gate(max_gain_db=0), audio) != []


@pytest.mark.parametrize("noise", noises())
def test_noise_is_not_speech_however_much_it_is_amplified(noise: str) -> None:
    for db in (40, 55, 70):
        assert spans(gate(), quieter(noises()[noise], db)) == []


@pytest.mark.parametrize("bits", [8, 12])
def test_quiet_speech_of_few_bits_breaks_nothing(scene: Scene, bits: int) -> None:
    one = gate()
    spans(one, quieter(scene.audio[: 4 * SAMPLE_RATE], 45, bits))
    assert one.level >= 0


@pytest.mark.model
def test_speech_60_decibels_lower_has_the_same_text_and_a_warning(
    base_model: Whisper, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    audio = scene.beginning(2).audio  # whole sentences: text of a part is not stable
    texts = []
    for db in (0, 60):
        transcriber = SessionRestartTranscriber(base_model, languages=scene.languages, lid_hop_ms=400)
        with caplog.at_level(logging.WARNING, "whisperlab"):
            results = [transcriber.process(chunk) for chunk in chunks(quieter(audio, db), 1600)]
            results.append(transcriber.finalize())
        warned = [record.message for record in caplog.records if "very quiet" in record.message]
        level = transcriber.get_statistics()["level"]
        assert len(warned) == (db == 60)
        assert (level["quiet_speech_s"] > 3) == (db == 60)
        texts.append("".join(segment.text.lower() for result in results for segment in result.segments))
    assert len(texts[0].split()) > 5
    assert SequenceMatcher(None, *texts, autojunk=False).ratio() > 0.85

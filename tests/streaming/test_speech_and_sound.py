"""Repeated speech keeps its words, whatever repeats; sound without speech gives none. Real voices, real hold music."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pytest

from whisperlab import SessionRestartTranscriber, data
from whisperlab.config import Policy, SessionOptions
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.scoring import units
from whisperlab.evaluation.trace import Trace, capture
from whisperlab.model.weights import weights_of
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

pytestmark = pytest.mark.model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """A script of the benchmarks folder as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


repetition = benchmark("repetition")
no_speech = benchmark("no_speech")


@pytest.fixture(scope="module")
def english() -> object:
    data.build("ivr-five")
    return repetition.Voice("en")


def joined(voice: object, keys: list[str], pause_ms: int, sentence: list[str]) -> tuple[FloatArray, list[str]]:
    """Words joined with pauses, then a sentence; and the units said."""
    pause = np.zeros(pause_ms * SAMPLE_RATE // 1000, np.float32)
    parts = [part for key in keys for part in (voice.audio(key), pause)]  # type: ignore[attr-defined]
    parts += [voice.audio(key) for key in sentence]  # type: ignore[attr-defined]
    lead = np.zeros(SAMPLE_RATE // 3, np.float32)
    said = [unit for key in (*keys, *sentence) for unit in repetition.counted(voice, voice.text(key))]  # type: ignore[attr-defined]
    return np.concatenate([lead, *parts, np.zeros(SAMPLE_RATE, np.float32)]).astype(np.float32), said


def text(trace: Trace) -> str:
    return " ".join(segment.text for segment in trace.segments)


DIGITS = {
    "a phone number": ([*"55551234"], []),
    "zeros before a sentence": ([*"000007"], ["vm-sorry"]),
    "counting": ([*"123456789"], []),
}


@pytest.mark.parametrize(
    "name,policy",
    [
        ("counting", "agreement"),
        ("zeros before a sentence", "alignatt"),
        pytest.param("counting", "alignatt", marks=pytest.mark.slow),
        pytest.param("zeros before a sentence", "agreement", marks=pytest.mark.slow),
        *(pytest.param("a phone number", policy, marks=pytest.mark.slow) for policy in ("agreement", "alignatt")),
    ],
)
def test_repeated_digits_keep_their_number_and_what_follows(
    base_model: Whisper, english: object, name: str, policy: Policy
) -> None:
    figures, sentence = DIGITS[name]
    audio, said = joined(english, [f"digits/{figure}" for figure in figures], 100, sentence)
    transcriber = SessionRestartTranscriber(base_model, language="en", session=SessionOptions(policy=policy))
    found = jiwer.process_words(
        " ".join(said), " ".join(repetition.counted(english, text(capture(transcriber, audio, recording=name))))
    )
    assert found.deletions == 0
    assert found.substitutions + found.insertions <= 2


@pytest.mark.parametrize("times,pause_ms", [(4, 0), pytest.param(8, 300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("keys", [["vm-no"], ["vm-press", "digits/1"]], ids=["no", "press 1"])
def test_a_sentence_after_repeated_words_is_kept_and_so_are_they(
    base_model: Whisper, english: object, keys: list[str], times: int, pause_ms: int
) -> None:
    audio, said = joined(english, keys * times, pause_ms, ["vm-sorry"])
    transcriber = SessionRestartTranscriber(base_model, languages=["en", "es"], lid_hop_ms=400)
    trace = capture(transcriber, audio, recording="repeated")
    heard = repetition.counted(english, text(trace))
    assert heard[-5:] == said[-5:]  # "... did not understand your response"
    assert jiwer.process_words(" ".join(said), " ".join(heard)).deletions <= 1 + len(said) // 20


def test_speech_for_which_no_text_is_found_is_reported(base_model: Whisper, english: object) -> None:
    audio, _ = joined(english, ["vm-sorry"], 100, [])
    # A probability of "no speech" above 0 and a token probability below 1 are always met: nothing is text.
    decoding = DecodingOptions(no_speech=-1.0, min_log_probability=1.0)
    transcriber = SessionRestartTranscriber(base_model, language="en", decoding=decoding)
    results: list[ProcessResult] = [transcriber.process(audio), transcriber.finalize()]
    spans = [span for result in results for span in result.untranscribed]
    sessions = transcriber.get_statistics()["sessions"]
    assert not any(result.segments for result in results)
    assert sum(map(len, spans)) > 0.8 * (len(audio) - 1.5 * SAMPLE_RATE)
    assert sessions["untranscribed"] == len(spans)
    assert sessions["untranscribed_s"] == sum(map(len, spans)) / SAMPLE_RATE
    assert "whisperlab_untranscribed_seconds_total" in transcriber.export_prometheus_metrics()


def test_hold_music_noise_tones_and_silence_give_no_text(base_model: Whisper) -> None:
    transcriber = SessionRestartTranscriber(weights_of(base_model), languages=["en", "es", "fr", "it", "ru"])
    texts = {}
    for name, audio in [*no_speech.music(), *no_speech.made(3.0)]:
        transcriber.reset()
        middle = audio[len(audio) // 3 :][: 6 * SAMPLE_RATE]
        texts[name] = text(capture(transcriber, middle, recording=name))
    assert len(texts) > 15
    assert {name: words for name, words in texts.items() if words} == {}


def test_a_language_outside_the_allowed_ones_is_flagged_and_those_within_are_not(
    base_model: Whisper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="whisperlab")
    recording = next(r for r in data.load("ivr-five", "dev") if {"fr", "en"} <= set(r.languages))
    audio = recording.audio()
    clips = {
        lang: max((s for s in recording.segments if s.lang == lang), key=lambda s: s.end - s.start)
        for lang in ("fr", "en")
    }
    flagged = {}
    for lang, segment in clips.items():
        transcriber = SessionRestartTranscriber(base_model, languages=["en", "es"], lid_hop_ms=400)
        clip = audio[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)]
        flagged[lang] = capture(transcriber, clip[: 5 * SAMPLE_RATE], recording=lang)
    assert flagged["en"].flags == ()
    flags = flagged["fr"].flags
    assert flags
    assert {(flag.language, flag.outside) for flag in flags} == {("fr", True)}
    assert all(flag.label in ("en", "es") and 0.8 <= flag.probability <= 1 for flag in flags)
    assert flagged["fr"].statistics["sessions"]["language_outside"] == len(flags)
    assert "sounds like fr" in caplog.text


def test_the_first_python_example_of_the_readme_prints_every_word(
    base_model: Whisper,
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    example = readme.split("```python\n", 1)[1].split("```", 1)[0]
    write_wav(tmp_path / "call.wav", scene.beginning(1).audio)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102
    live = capsys.readouterr().out.split("\n[", 1)[0]
    assert units(live) == units(" ".join(segment.text for segment in names["segments"]))

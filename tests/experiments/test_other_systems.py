"""Other systems: every one gets the same audio, is timed alike, and scored by one set of rules."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whisperlab import data
from whisperlab.data import Recording
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.experiments import other_systems
from whisperlab.model import weights
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.results import ProcessResult, SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE, samples

SCENE = (
    ReferenceSegment(0.0, 1.0, "en", "one two"),
    ReferenceSegment(1.2, 2.0, "es", "tres cuatro"),
    ReferenceSegment(2.2, 3.0, "en", "five six"),
)
SILENCE = np.zeros(3 * SAMPLE_RATE, np.float32)


def recording(folder: Path, name: str = "scene") -> Recording:
    path = folder / f"{name}.wav"
    write_wav(path, SILENCE)
    text = " ".join(segment.text for segment in SCENE)
    return Recording(name, path, 3.0, text, "en,es", SCENE, "test", "made")


def reference() -> Reference:
    fields = ("start", "end", "lang", "text")
    return Reference.from_dict({"segments": [{f: getattr(s, f) for f in fields} for s in SCENE]})


def said(text: str, language: str, start: float, end: float) -> SessionSegment:
    return SessionSegment(text, language, start, end, True, 0.9)


def perfect(audio: FloatArray, truth: Reference) -> other_systems.SystemOutput:
    segments = tuple(said(s.text, s.lang, s.start, s.end) for s in truth.segments)
    switches = (Switch(1.2, "en", "es", 2.0), Switch(2.2, "es", "en", 3.0))
    return other_systems.SystemOutput(segments, switches, other_systems.EncoderWork(3, 6.0))


def deaf_to_spanish(audio: FloatArray, truth: Reference) -> other_systems.SystemOutput:
    return other_systems.SystemOutput((said("one two five six", "en", 0.0, 3.0),))


class ScriptedEngine:
    """CTranslate2's Whisper as far as language detection goes: answers window by window, as scripted."""

    is_multilingual = True

    def __init__(self, languages: list[str]) -> None:
        self._languages = iter(languages)

    def encode(self, features: FloatArray, to_cpu: bool = False) -> FloatArray:
        return features

    def detect_language(self, encoder_output: object) -> list[list[tuple[str, float]]]:
        return [[(f"<|{next(self._languages)}|>", 0.8), ("<|xx|>", 0.1)]]


class ScriptedFasterWhisper:
    """faster-whisper with two windows of two segments each: lazy, and segments without a language."""

    def __init__(self, languages: list[str]) -> None:
        self.model: Any = other_systems.DetectionRecorder(ScriptedEngine(languages))
        self.asked: list[dict[str, Any]] = []

    def transcribe(self, audio: FloatArray, **options: Any) -> tuple[Iterator[Any], Any]:
        self.asked.append({"n_samples": len(audio), **options})
        self.model.encode(np.zeros((1, 80, 3000), np.float32), to_cpu=False)
        language = options.get("language") or self.model.detect_language(None)[0][0][0].strip("<|>")
        return self._segments(options.get("multilingual", False)), SimpleNamespace(language=language)

    def _segments(self, multilingual: bool) -> Iterator[Any]:
        for window in range(2):
            if multilingual:
                self.model.detect_language(self.model.encode(np.zeros((1, 80, 3000), np.float32)))
            for half in range(2):
                start = window + half / 2
                yield SimpleNamespace(text=f" {window}.{half}", start=start, end=start + 0.5, avg_logprob=-0.5)


# The call to each system, and how its output is read


def test_a_segment_of_multilingual_faster_whisper_gets_the_language_of_its_own_window() -> None:
    engine = ScriptedFasterWhisper(["en", "en", "es"])  # the first guess, then window by window
    heard = other_systems.faster_whisper(
        engine, SILENCE, reference(), multilingual=True, condition_on_previous_text=False
    )
    assert [(s.text, s.language, s.start_time) for s in heard.segments] == [
        ("0.0", "en", 0.0),
        ("0.1", "en", 0.5),
        ("1.0", "es", 1.0),
        ("1.1", "es", 1.5),
    ]
    assert heard.switches == (Switch(1.0, "en", "es", 3.0),)
    assert heard.work == other_systems.EncoderWork(3, 90.0)
    assert (heard.committed, heard.compute_s) == ((), None)
    assert engine.asked == [{"n_samples": 48000, "multilingual": True, "condition_on_previous_text": False}]


def test_faster_whisper_in_one_language_never_switches() -> None:
    engine = ScriptedFasterWhisper(["es", "es"])
    for _ in range(2):  # the work of the first recording is not that of the second
        heard = other_systems.faster_whisper(engine, SILENCE, reference())
        assert {s.language for s in heard.segments} == {"es"}
        assert (heard.switches, heard.work) == ((), other_systems.EncoderWork(1, 30.0))


def test_the_oracle_is_given_every_reference_segment_with_its_language_and_keeps_its_times() -> None:
    engine = ScriptedFasterWhisper([])
    heard = other_systems.faster_oracle(engine, SILENCE, reference())
    segments, switches = heard.segments, heard.switches
    assert heard.work == other_systems.EncoderWork(3, 90.0)
    assert engine.asked == [
        {"n_samples": 16000, "language": "en"},
        {"n_samples": 12800, "language": "es"},
        {"n_samples": 12800, "language": "en"},
    ]
    assert [(s.start_time, s.end_time, s.language) for s in segments] == [
        (0.0, 1.0, "en"),
        (1.2, 2.0, "es"),
        (2.2, 3.0, "en"),
    ]
    assert segments[0].text == "0.0 0.1 1.0 1.1"
    assert [(s.time, s.from_language, s.to_language) for s in switches] == [(1.2, "en", "es"), (2.2, "es", "en")]


def test_an_oracle_segment_without_output_has_no_text_and_no_confidence() -> None:
    engine = SimpleNamespace(
        transcribe=lambda audio, language: (iter(()), None), model=other_systems.DetectionRecorder(None)
    )
    heard = other_systems.faster_oracle(engine, SILENCE, reference())
    assert {(s.text, s.confidence) for s in heard.segments} == {("", 0.0)}


def test_openai_whispers_one_language_is_given_to_all_its_segments() -> None:
    import torch

    encoder = torch.nn.Identity()

    def transcribe(audio: FloatArray, fp16: bool, verbose: bool | None) -> dict[str, Any]:
        assert (fp16, verbose) == (False, None)
        for _ in range(2):
            encoder(torch.zeros(1, 80, 3000))
        part = {"text": " hola", "start": 0, "end": 1.5, "avg_logprob": 0.0}
        return {"language": "es", "segments": [part]}

    model: Any = SimpleNamespace(transcribe=transcribe, encoder=encoder)
    for _ in range(2):  # nothing of the first stays behind
        heard = other_systems.openai_whisper(model, SILENCE, reference())
        assert heard.segments == (SessionSegment("hola", "es", 0.0, 1.5, True, 1.0),)
        assert (heard.switches, heard.work) == ((), other_systems.EncoderWork(2, 60.0))


def test_a_streaming_transcriber_receives_every_sample_once_and_its_last_words_count() -> None:
    class Counting:
        heard = 0

        def process(self, chunk: FloatArray, /) -> ProcessResult:
            self.heard += len(chunk)
            switch = (Switch(1.0, "en", "es", 1.1),) if self.heard == samples(1.1) else ()
            return ProcessResult(" hola" if switch else "", "", "en", switches=switch)

        def finalize(self) -> ProcessResult:
            return ProcessResult("", "", "en", segments=(said(f"{self.heard} samples", "en", 0, 3),))

        def get_statistics(self) -> dict[str, Any]:
            work = {"encoder_calls": 2, "encoded_s": 5.0}
            return {"lid": work, "sessions": work}

        def config(self) -> dict[str, Any]:
            return {}

    made: list[Counting] = []

    def make(of: Reference) -> Any:
        assert of == reference()
        made.append(Counting())
        return made[-1]

    heard = other_systems.streaming(make, SILENCE, reference())
    other_systems.streaming(make, SILENCE, reference())
    assert heard.segments[0].text == "48000 samples"
    assert heard.switches == (Switch(1.0, "en", "es", 1.1),)
    assert (heard.work, heard.committed) == (other_systems.EncoderWork(4, 10.0), ((" hola", 1.1),))
    assert len(made) == 2
    in_time = other_systems.streaming(make, SILENCE[: samples(1.2)], reference(), pace="real")
    assert in_time.committed[0][0] == " hola"
    assert in_time.committed[0][1] >= 1.1  # by the clock on the wall, which waits for the audio
    assert in_time.compute_s is not None
    assert in_time.compute_s < 1.0  # waiting is not computing


# Running and the table


def test_every_system_runs_on_every_recording_and_none_is_always_first(tmp_path: Path) -> None:
    scenes = [recording(tmp_path, name) for name in ("a", "b", "c")]
    calls = {"x": perfect, "y": perfect, "z": perfect}
    order = [(r.recording, r.name) for r in other_systems.interleaved(scenes, calls)]
    assert order == [
        *(("a", name) for name in "xyz"),
        *(("b", name) for name in "yzx"),
        *(("c", name) for name in "zxy"),
    ]


def test_a_system_is_timed_from_its_call_to_its_return(tmp_path: Path) -> None:
    now = [0.0]

    def slow(audio: FloatArray, truth: Reference) -> other_systems.SystemOutput:
        now[0] += 1.5
        return other_systems.SystemOutput()

    def streamed(audio: FloatArray, truth: Reference) -> other_systems.SystemOutput:
        now[0] += 3.0
        return other_systems.SystemOutput(compute_s=0.6)

    both = {"slow": slow, "streamed": streamed}
    results = list(other_systems.interleaved([recording(tmp_path)], both, clock=lambda: now[0]))
    assert [(result.compute_s, result.duration) for result in results] == [(1.5, 3.0), (0.6, 3.0)]
    assert results[0].score().rates()["real_time_factor"] == 0.5


def test_a_system_is_warmed_up_on_the_first_seconds_and_their_reference(tmp_path: Path) -> None:
    long = recording(tmp_path)
    long.audio_path.unlink()
    write_wav(long.audio_path, np.zeros(10 * SAMPLE_RATE, np.float32))
    seen: list[tuple[int, int]] = []

    def system(audio: FloatArray, truth: Reference) -> other_systems.SystemOutput:
        seen.append((len(audio), len(truth.segments)))
        return other_systems.SystemOutput()

    other_systems.warm_up(long, {"one": system, "two": system})
    assert seen == [(48000, 3), (48000, 3)]


def test_the_table_separates_a_perfect_system_from_one_without_spanish(tmp_path: Path) -> None:
    scenes = [recording(tmp_path, name) for name in ("a", "b", "c")]
    results = list(other_systems.interleaved(scenes, {"perfect": perfect, "deaf": deaf_to_spanish}))
    good, bad = other_systems.summarise(results, np.random.default_rng(0))
    assert (good["system"], good["recordings"], good["audio_s"]) == ("perfect", 3, 9.0)
    assert (good["mixed_error_rate"], good["language_error_rate"], good["switch_f1_at_1"]) == (0.0, 0.0, 1.0)
    assert good["mixed_error_rate_95"] == (0.0, 0.0)
    assert bad["mixed_error_rate"] == pytest.approx(2 / 6)
    assert bad["language_error_rate"] == pytest.approx(0.8 / 2.6)
    assert (bad["switch_recall_at_2"], bad["false_switches_per_hour"]) == (0.0, 0.0)
    assert set(good) == {"system", "recordings", "audio_s", "miss_rate_by_block", "normalizer"} | {
        "encoder_calls_per_s",
        "encoded_s_per_s",
        *(name for rate in (*other_systems.RATES, other_systems.CONTROLS) for name in (rate, f"{rate}_95")),
    }
    assert (good["encoder_calls_per_s"], good["encoded_s_per_s"]) == (1.0, 2.0)
    assert good[other_systems.CONTROLS] is None
    assert bad["miss_rate_by_block"]["under 1 s"] == 1.0


def test_every_switch_in_a_control_is_false_and_only_following_systems_run_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Recording("alone", tmp_path / "alone.wav", 3.0, "one", "en", SCENE[:1], "test", "made")
    write_wav(alone.audio_path, SILENCE)
    makers = {"whisperlab, auto": lambda pace: perfect, "openai-whisper": lambda pace: deaf_to_spanish}
    monkeypatch.setattr(other_systems, "all_systems", lambda *args: makers)
    rows = other_systems.compare([recording(tmp_path)], controls=[alone], memory=False)
    assert [(row["system"], row[other_systems.CONTROLS]) for row in rows] == [
        ("whisperlab, auto", 2 * 3600 / 3),
        ("openai-whisper", None),
    ]
    assert [row["peak_memory_bytes"] for row in rows] == [None, None]


def test_systems_are_selected_by_a_part_of_their_name() -> None:
    assert other_systems.select(["oracle"]) == ["faster-whisper int8, oracle segments", "whisperlab, oracle"]
    assert len(other_systems.select(None)) == 8
    assert set(other_systems.FOLLOWING) <= set(other_systems.select(None))
    with pytest.raises(ConfigurationError, match="no system is named 'kaldi'; there are: openai-whisper"):
        other_systems.select(["auto", "kaldi"])


def test_the_table_as_text(tmp_path: Path) -> None:
    scenes = [recording(tmp_path)]
    rows = other_systems.summarise(
        other_systems.interleaved(scenes, {"deaf": deaf_to_spanish}), np.random.default_rng(0)
    )
    shown = other_systems.readable(rows, ["mixed_error_rate", other_systems.CONTROLS])
    assert shown == [{"system": "deaf", "mixed_error_rate": "0.33 (n = 1, no interval)", other_systems.CONTROLS: "-"}]


def test_a_comparison_without_recordings_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no recordings"):
        other_systems.compare([])


def test_without_faster_whisper_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'whisperlab\[other-systems\]'"):
        other_systems.load_faster_whisper()


def test_the_threads_of_torch_are_restored_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    seen: list[int] = []

    def broken(*args: Any) -> dict[str, other_systems.System]:
        seen.append(torch.get_num_threads())
        raise RuntimeError("a system broke")

    monkeypatch.setattr(other_systems, "all_systems", broken)
    with pytest.raises(RuntimeError, match="a system broke"):
        other_systems.compare([recording(tmp_path)], threads=before + 1)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_a_comparison_is_one_row_per_system_and_the_warm_up_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    def two(languages: Sequence[str], *options: Any) -> dict[str, Any]:
        asked.append(languages)
        return {"perfect": lambda pace: perfect, "deaf": lambda pace: deaf_to_spanish}

    monkeypatch.setattr(other_systems, "all_systems", two)
    ticks = iter(range(100))
    rows = other_systems.compare([recording(tmp_path)], memory=False, clock=lambda: next(ticks))
    assert [row["system"] for row in rows] == ["perfect", "deaf"]
    assert next(ticks) == 4  # two readings for each system on the one recording
    assert asked[-1] == ["en", "es"]


# The real ones


@pytest.mark.model
@pytest.mark.parametrize(
    "parts,number,n_segments",
    [(["oracle", "forced"], 2, 2), pytest.param(None, 0, 4, marks=pytest.mark.slow)],  # scene 2 begins with short turns
    ids=["some", "all"],
)
def test_systems_run_on_a_real_scene_and_the_oracle_has_every_language_right(
    parts: list[str] | None, number: int, n_segments: int
) -> None:
    scene = shortened(data.load("ivr-en-es", "dev")[number], n_segments)
    makers = other_systems.all_systems(["en", "es"])
    calls = {name: makers[name]("fast") for name in other_systems.select(parts)}
    results = list(other_systems.interleaved([scene], calls))
    scores = {result.name: result.score().rates() for result in results}
    assert all(rates["hypothesis_words"] > 0 for rates in scores.values())
    for name in ("faster-whisper int8, oracle segments", "whisperlab, oracle"):
        oracle = scores[name]
        assert (oracle["language_error_rate"], oracle["switch_f1_at_0.5"]) == (pytest.approx(0, abs=0.05), 1.0)
        assert oracle["mixed_error_rate"] < 0.5
    assert scores["whisperlab, forced"]["switches_found"] == 0
    assert all(result.output.work.calls > 0 for result in results)
    assert all(bool(result.output.committed) == ("whisperlab" in result.name) for result in results)
    offline = [result.output.work for result in results if "whisperlab" not in result.name]
    assert all(work.encoded_s == 30 * work.calls for work in offline)


@pytest.mark.model
def test_memory_is_that_of_a_fresh_process(excerpt: Path) -> None:
    recording = shortened(data.load(str(excerpt), "test")[0], 1)
    ballast = np.ones(200_000_000)  # of this process: counted by none
    task = ("whisperlab, forced", ("en", "es"), "base", 1, recording)
    peak = in_fresh_process(other_systems.peak_memory, task)
    assert 3e8 < peak < ballast.nbytes


@pytest.mark.model
def test_the_engine_of_faster_whisper_records_the_detected_language() -> None:
    engine = other_systems.load_faster_whisper(threads=1)
    scene = data.load("ivr-en-es", "dev")[0]
    first = next(segment for segment in scene.segments if segment.lang == "en")
    audio = read_audio(scene.audio_path)[samples(first.start) : samples(first.end)]
    heard = other_systems.faster_whisper(engine, audio, reference(), multilingual=True, condition_on_previous_text=True)
    assert engine.model.language == "en"
    assert {segment.language for segment in heard.segments} == {"en"}
    assert weights.ct2_folder("base").is_dir()


def shortened(scene: Recording, n_segments: int) -> Recording:
    """The same recording up to the end of its n-th segment."""
    kept = scene.segments[:n_segments]
    text = " ".join(segment.text for segment in kept)
    return Recording(
        scene.id, scene.audio_path, kept[-1].end, text, scene.lang, kept, scene.split, scene.corpus, scene.snr, 0.0
    )

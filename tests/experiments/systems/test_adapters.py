"""The adapters, each with a stand-in for its library that has the calls it uses and answers as scripted."""

from __future__ import annotations

import asyncio
import runpy
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whisperlab.experiments.systems import environments
from whisperlab.experiments.systems.adapters.protocol import Stream
from whisperlab.experiments.systems.ggml import write_ggml
from whisperlab.model.weights import load_weights

ADAPTERS = Path(environments.__file__).parent / "adapters"
SEGMENTS = [(0.0, 1.0, "en"), (1.0, 2.0, "es"), (2.0, 2.0, "en")]


def log_of(adapter: str, seconds: float, **request: Any) -> list[dict[str, Any]]:
    """The lines that an adapter logs for silence."""
    run = runpy.run_path(str(ADAPTERS / f"{adapter}.py"))["load"]
    stream = Stream(np.zeros(round(16_000 * seconds), np.float32), "fast")
    names = {"weights": ["a", "b"], "threads": 1, "model": "base", "languages": ["en", "es"], "segments": SEGMENTS}
    run({**names, "arguments": {}, **request})(stream)
    return stream.lines


def library(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


class FasterWhisper:
    """faster-whisper: two windows of a segment each, lazy, without language; word lists as scripted."""

    heard: list[str] = []  # noqa: RUF012 - of the last call to each
    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, *_: Any, **__: Any) -> None:
        guesses = iter(["en", "es"])
        self.model: Any = SimpleNamespace(detect_language=lambda: [[(f"<|{next(guesses)}|>", 0.8), ("<|xx|>", 0.1)]])

    def transcribe(self, audio: Any, **options: Any) -> tuple[Iterator[Any], Any]:
        self.asked.append({"n_samples": len(audio), **options})
        return self._parts(**options), SimpleNamespace(language=options.get("language") or "fr")

    def _parts(self, multilingual: bool = False, word_timestamps: bool = False, **_: Any) -> Iterator[Any]:
        if word_timestamps:
            texts = self.heard.pop(0).split()
            words = [SimpleNamespace(start=n * 1.0, end=n + 0.9, word=f" {text}") for n, text in enumerate(texts)]
            yield SimpleNamespace(words=words)
            return
        for window in range(2):
            if multilingual:
                self.model.detect_language()
            yield SimpleNamespace(text=f" part {window}", start=window, end=window + 1)


@pytest.fixture
def faster_whisper(monkeypatch: pytest.MonkeyPatch) -> type[FasterWhisper]:
    library(monkeypatch, "faster_whisper", WhisperModel=FasterWhisper)
    FasterWhisper.asked, FasterWhisper.heard = [], []
    return FasterWhisper


def test_a_segment_of_multilingual_faster_whisper_gets_the_language_of_its_own_window(faster_whisper: Any) -> None:
    lines = log_of("ct2", 2.0, arguments={"multilingual": True, "condition_on_previous_text": False})
    assert [(line["text"], line["language"]) for line in lines] == [("part 0", "en"), ("part 1", "es")]
    assert faster_whisper.asked == [{"n_samples": 32_000, "multilingual": True, "condition_on_previous_text": False}]
    assert {line["language"] for line in log_of("ct2", 2.0)} == {"fr"}


def test_the_oracle_gets_each_reference_segment_with_its_language(faster_whisper: Any) -> None:
    lines = log_of("ct2", 2.0, arguments={"oracle": True})
    assert [(line["start_time"], line["language"]) for line in lines] == [(0.0, "en"), (1.0, "es")]
    assert [(ask["n_samples"], ask["language"]) for ask in faster_whisper.asked] == [(16_000, "en"), (16_000, "es")]


def test_words_are_final_when_two_results_agree_and_the_rest_at_the_end(faster_whisper: Any) -> None:
    faster_whisper.heard = ["one", "one two", "one two free", "one two three four"]
    lines = log_of("ct2", 4.0, arguments={"local_agreement": True})
    assert [(line["committed"], line["tentative"]) for line in lines] == [
        ("", " one"),
        (" one", " two"),
        (" two", " free"),
        ("", " three four"),
        (" three four", ""),
    ]


def test_audio_of_local_agreement_is_cut_behind_the_last_final_word(faster_whisper: Any) -> None:
    faster_whisper.heard = ["one two"] * 16 + [""] * 4
    lines = log_of("ct2", 20.0, arguments={"local_agreement": True})
    assert "".join(line["committed"] for line in lines) == " one two"
    longest = max(ask["n_samples"] for ask in faster_whisper.asked)
    assert longest == 16 * 16_000
    assert faster_whisper.asked[-1]["initial_prompt"] == " one two"


def test_whisper_cpp_decodes_a_window_anew_and_its_text_is_final_when_the_window_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths: list[float] = []

    class Model:
        _ctx = None

        def __init__(self, path: str, **options: Any) -> None:
            assert (path, options["audio_ctx"], options["n_threads"]) == ("a", 512, 1)

        def transcribe(self, audio: Any) -> list[Any]:
            lengths.append(len(audio) / 16_000)
            return [SimpleNamespace(text=f" text {len(lengths)}", t0=0, t1=100)]

    library(monkeypatch, "pywhispercpp")
    library(monkeypatch, "pywhispercpp.model", Model=Model)
    library(monkeypatch, "_pywhispercpp", whisper_lang_str=lambda _: "es", whisper_full_lang_id=lambda _: 3)
    lines = log_of("cpp", 14.0, arguments={"window": True, "audio_ctx": 512})
    assert lengths == pytest.approx([3, 6, 9, 3.2, 5.2])
    texts = [(line["committed"], line["tentative"]) for line in lines]
    assert texts == [
        ("", " text 1"),
        ("", " text 2"),
        (" text 3", ""),
        ("", " text 4"),
        ("", " text 5"),
        (" text 5", ""),
    ]
    (line,) = log_of("cpp", 4.0, arguments={"audio_ctx": 512})
    assert (line["text"], line["language"], line["end_time"]) == ("text 6", "es", 1.0)


def test_whisperlivekit_is_fed_live_and_its_last_words_become_final(monkeypatch: pytest.MonkeyPatch) -> None:
    class Online:
        n_calls, pending = 0, ""

        def process_iter(self) -> tuple[list[Any], float]:
            self.n_calls += 1
            self.pending = f" word{self.n_calls}"
            token = SimpleNamespace(text=f" word{self.n_calls - 1}", detected_language="es")
            return [token] if self.n_calls > 1 else [], 0.0

        def get_buffer(self) -> Any:
            return SimpleNamespace(text=self.pending)

    class AudioProcessor:
        def __init__(self, transcription_engine: Any) -> None:
            self.transcription, self.over = Online(), asyncio.Event()

        async def create_tasks(self) -> AsyncIterator[None]:
            async def results() -> AsyncIterator[None]:
                await self.over.wait()
                yield None

            return results()

        async def process_audio(self, pcm: bytes | None) -> None:
            if pcm is None:
                self.over.set()
            else:
                assert len(pcm) == 3200
                self.transcription.process_iter()

        async def cleanup(self) -> None: ...

    made: list[dict[str, Any]] = []
    engine: Callable[..., Any] = lambda **options: made.append(options) or SimpleNamespace(asr=None)  # noqa: E731
    library(monkeypatch, "whisperlivekit", AudioProcessor=AudioProcessor, TranscriptionEngine=engine)
    library(monkeypatch, "whisperlivekit.whisper", _ALIGNMENT_HEADS={"base": b"heads"})
    lines = log_of("wlk", 0.3, arguments={"backend": "faster-whisper"})
    assert [(line["committed"], line["tentative"], line["language"]) for line in lines] == [
        ("", " word1", None),
        (" word1", " word2", "es"),
        (" word2", " word3", "es"),
        (" word3", "", None),
    ]
    assert all(line["elapsed"] >= line["at"] for line in lines)
    assert made[0]["custom_alignment_heads"] == "heads"
    assert (made[0]["model_path"], made[0]["encoder_model_path"]) == ("a", "b")


@pytest.mark.model
def test_a_ggml_file_has_the_sizes_the_vocabulary_and_every_tensor(tmp_path: Path) -> None:
    weights = load_weights("base")
    write_ggml(tmp_path / "base.ggml", weights)
    content = memoryview((tmp_path / "base.ggml").read_bytes())
    place = 0

    def numbers(n: int) -> tuple[int, ...]:
        nonlocal place
        place += 4 * n
        return struct.unpack(f"<{n}i", content[place - 4 * n : place])

    assert numbers(12) == (0x67676D6C, 51865, 1500, 512, 8, 6, 448, 512, 8, 6, 80, 1)
    rows, columns = numbers(2)
    place += 4 * rows * columns
    assert (rows, columns) == (80, 201)
    (n_tokens,) = numbers(1)
    tokens = []
    for _ in range(n_tokens):
        (length,) = numbers(1)
        tokens.append(bytes(content[place : place + length]))
        place += length
    assert (n_tokens, tokens[0], tokens[6595]) == (50_257, b"!", b" Something")
    found = set()
    while place < len(content):
        n_axes, length, half = numbers(3)
        shape = numbers(n_axes)[::-1]
        name = bytes(content[place : place + length]).decode()
        size = int(np.prod(shape)) * (2 if half else 4)
        values = np.frombuffer(content[place + length : place + length + size], "<f2" if half else "<f4")
        assert np.allclose(values.reshape(shape).squeeze(), weights.tensor(name).numpy().squeeze(), atol=1e-3)
        place += length + size
        found.add(name)
    assert found == {*weights.state}

"""Faults, by kind and place: a clear error, nothing half-written that is believed later, and a rerun that works.

``WHISPERLAB_FAULTS=20`` tries twenty places of each fault instead of a few; ``WHISPERLAB_KILLS`` as many kills.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from faults import ERRORS, Calls, counted, spread

from whisperlab.audio import FloatArray, chunks
from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.decoder import Hypothesis, LocalAgreement, SpeechDecoder, Word
from whisperlab.encoder import ShortWindowEncoder
from whisperlab.errors import OutOfMemoryError, StreamBrokenError
from whisperlab.lid import LanguageIdentifier
from whisperlab.metrics import PerformanceMetrics
from whisperlab.models import Weights, tensor_shapes
from whisperlab.segments import ProcessResult
from whisperlab.smoothing import LanguageTracker
from whisperlab.timeline import SAMPLE_RATE
from whisperlab.transcriber import SessionOptions, SessionRestartTranscriber
from whisperlab.vad import SileroDetector

if TYPE_CHECKING:
    from conftest import Scene

PLACES = int(os.environ.get("WHISPERLAB_FAULTS", 3))

# --- a stage that raises ------------------------------------------------------------------------------

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 4,
    "n_vocab": 51_865,
    "n_text_ctx": 448,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 1,
}

STAGES: dict[str, tuple[Any, str]] = {
    "buffer write": (RingBuffer, "append"),
    "buffer read": (RingBuffer, "read"),
    "voice activity": (SileroDetector, "__call__"),
    "cache key": (EncoderCache, "precompute_hash"),
    "cache get": (EncoderCache, "get"),
    "cache put": (EncoderCache, "put"),
    "language-ID encode": (ShortWindowEncoder, "encode_batch"),
    "language posterior": (LanguageIdentifier, "posterior"),
    "smoothing": (LanguageTracker, "push"),
    "sustained detection": (LanguageTracker, "change"),
    "text encode": (ShortWindowEncoder, "encode"),
    "decode": (SpeechDecoder, "decode"),
    "commit": (LocalAgreement, "update"),
    "metrics": (PerformanceMetrics, "measure"),
}
OF_LANGUAGE = [
    name
    for name in STAGES
    if name.split()[0] in ("cache", "language-ID", "language", "smoothing", "sustained")
]
MODES: dict[str, dict[str, Any]] = {
    "auto": {"languages": ["en", "es"], "lid_hop_ms": 200},
    "oracle": {"oracle": [(0, "en"), (1.5, "es"), (3.3, "en")]},
    "parallel": {"language": "en", "session": SessionOptions(parallel_ms=300)},
}


@pytest.fixture(scope="module")
def tiny() -> Weights:
    """A Whisper of a few random numbers: as quick as it is stupid."""
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) / 4 for name, shape in tensor_shapes(DIMS)}
    return Weights("tiny", DIMS, state, torch.ones(1, 2, dtype=torch.bool), torch.device("cpu"))


@pytest.fixture(scope="module")
def speech(scene: Scene) -> FloatArray:
    return scene.audio[: 5 * SAMPLE_RATE]


@pytest.fixture
def fluent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes that find a word in every half second, after a real encode."""

    def decode(
        self: SpeechDecoder,
        audio: FloatArray,
        offset: int,
        language: str,
        prefix: Any = (),
        *_: Any,
        **__: Any,
    ) -> Hypothesis:
        self.encoded(audio, offset)
        half = SAMPLE_RATE // 2
        starts = range(-(-offset // half) * half, offset + len(audio) - half + 1, half)
        words = [Word(f" {language}{at // half}", (1,), at, at + half, -0.1) for at in starts]
        return Hypothesis((*prefix, *(word for word in words if not prefix or word.start >= prefix[-1].end)))

    def likelihoods(self: SpeechDecoder, audio: FloatArray, offset: int, languages: Any) -> list[float]:
        self.encoded(audio, offset)
        return [-1.0, -1.0]

    monkeypatch.setattr(SpeechDecoder, "decode", decode)
    monkeypatch.setattr(SpeechDecoder, "likelihoods", likelihoods)


def heard(results: list[ProcessResult]) -> tuple[list[Any], list[Any], str]:
    """All segments, all switches and all committed text."""
    return (
        [segment for result in results for segment in result.segments],
        [switch for result in results for switch in result.switches],
        "".join(result.committed for result in results),
    )


def listen(transcriber: SessionRestartTranscriber, audio: FloatArray, results: list[ProcessResult]) -> None:
    for piece in chunks(audio, SAMPLE_RATE // 4):
        results.append(transcriber.process(piece))
    results.append(transcriber.finalize())


_undisturbed: dict[str, tuple[SessionRestartTranscriber, list[ProcessResult], dict[str, int]]] = {}


def undisturbed_run(
    tiny: Weights, audio: FloatArray, mode: str
) -> tuple[SessionRestartTranscriber, list[ProcessResult], dict[str, int]]:
    """A transcriber, what it says of the audio, and how often it calls each stage; made once for a mode."""
    if mode not in _undisturbed:
        results: list[ProcessResult] = []
        with ExitStack() as stack:
            calls = {name: stack.enter_context(counted(*place, Calls())) for name, place in STAGES.items()}
            transcriber = SessionRestartTranscriber(tiny, **MODES[mode])
            before = {name: each.count for name, each in calls.items()}
            listen(transcriber, audio, results)
        counts = {name: each.count - before[name] for name, each in calls.items()}
        _undisturbed[mode] = transcriber, results, counts
    return _undisturbed[mode]


@pytest.mark.model
@pytest.mark.usefixtures("fluent")
@pytest.mark.parametrize(
    "stage,mode",
    [(stage, mode) for stage in STAGES for mode in MODES if mode == "auto" or stage not in OF_LANGUAGE],
)
def test_a_stage_that_raises_loses_nothing_final_and_the_stream_says_that_it_is_broken(
    tiny: Weights, speech: FloatArray, stage: str, mode: str
) -> None:
    transcriber, undisturbed, counts = undisturbed_run(tiny, speech, mode)
    expected = heard(undisturbed)
    assert expected[0]
    assert counts[stage]
    for number, at in enumerate(spread(counts[stage], PLACES)):
        kind = list(ERRORS)[number % len(ERRORS)]
        transcriber.reset()
        results: list[ProcessResult] = []
        with (
            counted(*STAGES[stage], Calls(at, ERRORS[kind])),
            pytest.raises(BaseException) as caught,  # noqa: PT011 - of any kind
        ):
            listen(transcriber, speech, results)
        assert isinstance(caught.value, OutOfMemoryError if "memory" in kind else type(ERRORS[kind]()))
        check_that_it_is_broken(transcriber)
        for found, whole in zip(heard([*results, transcriber.latest]), expected, strict=True):
            assert whole[: len(found)] == found
    transcriber.reset()
    again: list[ProcessResult] = []
    listen(transcriber, speech, again)
    assert again == undisturbed


def check_that_it_is_broken(transcriber: SessionRestartTranscriber) -> None:
    for call in (lambda: transcriber.process([0.0] * 10), transcriber.finalize):
        with pytest.raises(StreamBrokenError, match=r"broken off .* latest.* reset\(\)"):
            call()
    assert transcriber.get_statistics()["sessions"]["heard_s"] >= 0

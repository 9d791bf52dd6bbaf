"""What the tests of the model share: Whisper base, and some seconds of real speech in two languages."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from whisperlab import data
from whisperlab.data import load
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from nest import Nest
    from playwright.sync_api import Browser
    from whisper.model import Whisper

os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` has a process for each core; torch reads this when imported
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # numba, in openai-whisper, would set torch's threads to all cores

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, which programs under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCENE_S = 13.0  # seconds within which the scene must be over
SCENE_TAIL_S = 0.1  # seconds kept after its last segment; the next one must not have begun


@dataclass(slots=True, frozen=True)
class Scene:
    """The beginning of a recording, and what is said in it."""

    audio: FloatArray
    segments: tuple[ReferenceSegment, ...]

    @property
    def reference(self) -> Reference:
        return Reference(" ".join(segment.text for segment in self.segments), self.segments)

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(segment.lang for segment in self.segments))

    def clip(self, segment: ReferenceSegment) -> FloatArray:
        """The audio of one segment."""
        return self.audio[samples(segment.start) : samples(segment.end)]

    def first_in(self, language: str) -> ReferenceSegment:
        return next(segment for segment in self.segments if segment.lang == language)

    def beginning(self, n_segments: int) -> Scene:
        """The scene up to the end of one of its first segments."""
        last = self.segments[n_segments - 1]
        return Scene(self.audio[: samples(last.end + SCENE_TAIL_S)], self.segments[:n_segments])


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_look_through() -> None:
    """A sweep collects garbage before each task: what earlier modules left is not looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def base_model() -> Whisper:
    """Whisper base. Where it cannot be had, its tests fail: they are the proof that the rest works."""
    from benchmarks.reference_model import load_model

    return load_model("base")


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Some twelve seconds of speech in English, Spanish and English again, built on this machine if need be."""
    recording = load("ivr-five", "dev")[0]
    segments = tuple(segment for segment in recording.segments if segment.end <= SCENE_S - SCENE_TAIL_S)
    whole = Scene(read_audio(recording.audio_path), recording.segments)
    cut = whole.beginning(len(segments))
    assert recording.segments[len(segments)].start >= duration_s(cut.audio) - 0.05
    assert 10 <= duration_s(cut.audio) <= SCENE_S
    assert [segment.lang for segment in cut.segments] == ["en", "es", "en"]
    return cut


FEW = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 64,
    "n_audio_head": 2,
    "n_audio_layer": 4,
    "n_vocab": 51_865,
    "n_text_ctx": 448,
    "n_text_state": 64,
    "n_text_head": 2,
    "n_text_layer": 1,
}


@pytest.fixture(scope="session")
def few_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small Whisper with random weights, for what must be the same whatever is heard."""
    import torch

    from whisperlab.model.checkpoints import tensor_shapes

    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) / 8 for name, shape in tensor_shapes(FEW)}
    path = tmp_path_factory.mktemp("weights") / "few.pt"
    torch.save({"dims": FEW, "model_state_dict": state}, path)
    return path


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Where it cannot be had, its tests fail. Playwright's event loop runs as long, so no other can."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("the browser tests need Chromium: install the Debian package 'chromium'")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def excerpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with the beginning of a real recording, up to its first switch and the prompt after it."""
    folder = tmp_path_factory.mktemp("excerpt")
    whole = next(one for one in data.load("ivr-five", "test") if one.id == "ivr-five-test-01")  # switches soon
    switch = next(i for i, s in enumerate(whole.segments) if s.lang != whole.segments[0].lang)
    heard = whole.segments[: switch + 1]
    audio = read_audio(whole.audio_path)[: samples(heard[-1].end + 0.5)]
    write_wav(folder / "excerpt.wav", audio)
    short = replace(
        whole,
        audio_path=folder / "excerpt.wav",
        duration=len(audio) / 16000,
        segments=heard,
        text=" ".join(segment.text for segment in heard),
        lang=",".join(sorted({segment.lang for segment in heard})),
    )
    data.write_manifest(folder / "manifest.jsonl", [short])
    return folder / "manifest.jsonl"


@pytest.fixture(scope="session")
def bare() -> Iterator[Nest]:
    """Starts Python at once, as if no extra were installed."""
    from nest import extras, nest

    with nest(without=extras()) as made:
        yield made

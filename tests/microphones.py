"""Microphones that hear a file or an array: that of Chromium, and a small `sounddevice`.

The latter is for machines without PortAudio or without a microphone.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from itertools import cycle
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import soxr

from whisperlab.util.audio_arrays import FloatArray, chunks, pcm_16, resampled_chunks
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserType

RATE = 44_100  # of Chromium's fake microphone: it plays a file of this rate as it is
LEAD_S = 1.5  # silence at first: Chromium plays the file from the moment the microphone is opened
BLOCKS = (1, 533, 1601, 97, 4096, 1024)  # samples per callback, again and again


class PortAudioError(Exception):
    pass


class FakePortAudio(ModuleType):
    """Has one microphone, number 1, and a loudspeaker.

    ``heard`` has shape (n,) or (n, channels), at ``rates[0]``. After it the microphone is unplugged, unless ``stays``.
    """

    PortAudioError = PortAudioError

    def __init__(
        self, heard: FloatArray, rates: Iterable[int] = (16_000,), channels: int = 1, late: int = 0, stays: bool = False
    ) -> None:
        super().__init__("sounddevice")
        self.__spec__ = ModuleSpec("sounddevice", None)  # installed, for `find_spec`
        self.heard = heard if heard.ndim == 2 else heard[:, None]
        self.rates, self.channels, self.late, self.stays = tuple(rates), channels, late, stays
        self.opened: list[FakeStream] = []

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        every: list[dict[str, Any]] = [
            {"index": 0, "name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 48_000.0},
            {"index": 1, "name": "Desk microphone", "max_input_channels": self.heard.shape[1]},
        ]
        every[1]["default_samplerate"] = float(self.rates[0])
        if kind is None:
            return every
        if device not in (None, 1) and str(device) not in every[1]["name"]:
            raise ValueError(f"No input device matching {device!r}")
        return every[1]

    def InputStream(self, **settings: Any) -> FakeStream:  # noqa: N802
        if settings["samplerate"] not in self.rates or settings["channels"] < self.channels:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        self.opened.append(FakeStream(self, **settings))
        return self.opened[-1]


class FakeStream:
    """Calls back from a thread of its own with blocks of odd lengths, all of them in one buffer, as PortAudio does."""

    def __init__(
        self,
        library: FakePortAudio,
        callback: Callable[..., None],
        finished_callback: Callable[[], None],
        **settings: Any,
    ) -> None:
        self.library, self.callback, self.finished, self.settings = library, callback, finished_callback, settings
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> FakeStream:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def run(self) -> None:
        heard, at, late = self.library.heard, 0, self.library.late
        buffer = np.empty((max(BLOCKS), heard.shape[1]), np.float32)
        for n in cycle(BLOCKS):
            block = heard[at : at + n]
            if self.stopped.is_set() or not len(block):
                break
            buffer[: len(block)] = block
            status = SimpleNamespace(input_overflow=late > 0)
            self.callback(buffer[: len(block)], len(block), None, status)
            buffer[:] = np.nan  # the next block will be written here
            at, late = at + n, late - 1
        if self.library.stays:
            self.stopped.wait(60)
        self.finished()


def plug_in(monkeypatch: pytest.MonkeyPatch, heard: FloatArray, **options: Any) -> FakePortAudio:
    """Give this process such a microphone."""
    library = FakePortAudio(heard, **options)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    return library


@contextmanager
def speaking(chromium: BrowserType, path: Path) -> Iterator[Browser]:
    """A Chromium whose microphone plays a file once; pages need the permission for it."""
    fake = f"--use-file-for-fake-audio-capture={path}%noloop"
    arguments = ["--no-sandbox", "--disable-background-networking", "--use-fake-device-for-media-stream", fake]
    started = chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
    try:
        yield started
    finally:
        started.close()


def spoken(audio: FloatArray, path: Path) -> FloatArray:
    """Audio between silence as a file for the fake microphone, 16-bit PCM; its samples."""
    silence = np.zeros(int(LEAD_S * RATE), np.float32)  # behind it too: Chromium repeats the last 10 ms of a file
    heard = pcm_16(np.concatenate([silence, soxr.resample(audio, SAMPLE_RATE, RATE), silence]))
    soundfile.write(path, heard, RATE, subtype="PCM_16")
    return heard.astype(np.float32) / 2**15


def difference(saved: FloatArray, heard: FloatArray) -> tuple[int, int]:
    """The largest difference of a recording to what was spoken, in steps of 16 bits, and the next best alignment's.

    The recording is the spoken samples and silence, resampled from one of them on.
    """
    around = np.pad(heard, (RATE, 60 * RATE))
    whole = soxr.resample(around, RATE, SAMPLE_RATE)
    n = 2 * max(len(whole), len(saved))
    matches = np.fft.irfft(np.fft.rfft(whole, n) * np.conj(np.fft.rfft(saved, n)))
    about = int(np.argmax(matches)) * RATE // SAMPLE_RATE
    found = []
    for start in range(max(about - 4, 0), about + 5):
        again = pcm_16(np.concatenate(list(resampled_chunks(chunks(around[start:], RATE // 10), RATE))))[: len(saved)]
        found.append(int(np.abs(again.astype(int) - pcm_16(saved)).max()))
    best, second, *_ = sorted(found)
    return best, second

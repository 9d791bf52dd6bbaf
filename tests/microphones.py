"""A small `sounddevice`: a microphone that hears an array, for machines without PortAudio or without a microphone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from itertools import cycle
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whisperlab.util.audio_arrays import FloatArray

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

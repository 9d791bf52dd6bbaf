"""Where a stream comes from: an array, a file, a pipe such as standard input, or a microphone.

>>> with closing(Microphone()) as microphone:  # doctest: +SKIP
...     for chunk in microphone:
...         print(transcriber.process(chunk).committed, end="", flush=True)
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from whisperlab.util.audio_arrays import FloatArray, as_chunk, chunks, mono, pcm_16, resampled_chunks
from whisperlab.util.errors import AudioFormatError, ConfigurationError, MissingDependencyError, brief
from whisperlab.util.threads import start_background
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from soundfile import SoundFile

CHUNK_MS = 100
_AHEAD = 8  # chunks decoded ahead of a file's reader
_LATENCY_S = 0.25  # of audio that PortAudio holds: a busy machine may be late by so much and loses nothing
_EXPECTED = (
    "expected WAV, AIFF, AU, OGG or MP3, or raw 16-bit PCM with its rate; convert others: ffmpeg -i FILE -f wav - |"
)

_LOGGER = logging.getLogger("whisperlab")


class Source(Protocol):
    """Mono audio as chunks: iterating gives float32 of shape (n,) at 16 kHz, of any length n > 0, once."""

    name: str
    rate: int  # Hz, before resampling
    live: bool  # chunks arrive as fast as they are spoken, and wait for nobody

    def __iter__(self) -> Iterator[FloatArray]: ...

    def close(self) -> None:
        """End the source. What was received is still delivered. May be called from any thread or signal handler."""


class ArraySource:
    """Audio at 16 kHz, shape (n,), in chunks of ``n_chunk`` samples."""

    live, rate = False, SAMPLE_RATE

    def __init__(self, audio: FloatArray, name: str, n_chunk: int = CHUNK_MS * SAMPLE_RATE // 1000) -> None:
        self.audio, self.name = audio, name
        self._chunks, self._closed = chunks(audio, n_chunk), False

    def __iter__(self) -> Iterator[FloatArray]:
        for chunk in self._chunks:
            if self._closed:
                return
            yield chunk

    def close(self) -> None:
        self._closed = True


class _Queued:
    """Chunks that another thread puts into a queue, as they are: None ends them, an error is raised."""

    def __init__(self, name: str, rate: int) -> None:
        self.name, self.rate, self._closed = name, rate, False
        self._room = threading.Semaphore(_AHEAD)
        self._items: SimpleQueue[FloatArray | Exception | None] = SimpleQueue()  # `put` is safe in signal handlers

    def __iter__(self) -> Iterator[FloatArray]:
        return resampled_chunks(self._arriving(), self.rate)

    def close(self) -> None:
        self._closed = True
        self._items.put(None)
        self._room.release()

    def _arriving(self) -> Iterator[FloatArray]:
        while (item := self._items.get()) is not None:
            self._room.release()
            if isinstance(item, Exception):
                raise item
            yield item


class FileSource(_Queued):
    """A file or pipe that libsndfile decodes chunk by chunk, so that memory does not grow with its length.

    Args:
        file: a path, or an open descriptor: 0 is standard input. A pipe is read until its writer closes it; a WAV
            header written to a pipe may have any length.
        rate, channels: of raw 16-bit little-endian PCM; without a rate the file has a header.
        channel: from 1; None is the mean of all.

    Raises AudioFormatError if it is not audio or has no such channel, and while it is read if it has no sample.
    """

    live = False

    def __init__(
        self,
        file: int | str | os.PathLike[str],
        name: str | None = None,
        *,
        rate: int | None = None,
        channels: int = 1,
        channel: int | None = None,
        chunk_ms: float = CHUNK_MS,
    ) -> None:
        name = name or os.fspath(file if not isinstance(file, int) else f"descriptor {file}")
        self._sound = _opened(file, name, rate, channels)
        if channel is not None and not 1 <= channel <= self._sound.channels:
            raise AudioFormatError(f"{name}: channel {channel} does not exist: it has {self._sound.channels}")
        self._columns = slice(None) if channel is None else slice(channel - 1, channel)
        self._n_chunk = max(1, round(chunk_ms * self._sound.samplerate / 1000))
        super().__init__(name, self._sound.samplerate)

    def _arriving(self) -> Iterator[FloatArray]:
        start_background(self._read)
        return super()._arriving()

    def _read(self) -> None:
        n_read, n_new = 0, self._n_chunk
        try:
            with self._sound as sound:
                while n_new == self._n_chunk:  # after a shorter chunk, libsndfile may return samples twice
                    block = sound.read(self._n_chunk, dtype="float32", always_2d=True)
                    n_new = len(block)
                    n_read += n_new
                    self._room.acquire()
                    if self._closed:
                        return
                    if n_new:
                        self._items.put(mono(block[:, self._columns], None))
            self._items.put(None if n_read else AudioFormatError(f"{self.name}: ended without a single sample"))
        except Exception as error:
            self._items.put(AudioFormatError(f"{self.name}: {brief(error)}"))


def _opened(file: int | str | os.PathLike[str], name: str, rate: int | None, channels: int) -> SoundFile:
    import soundfile

    raw: dict[str, Any] = {"format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}
    layout: dict[str, Any] = {"samplerate": rate, "channels": channels}
    descriptor = os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDONLY)
    try:
        if rate is None:
            sound = soundfile.SoundFile(os.dup(descriptor))
            if sound.frames or sound.seekable() or sound.format != "WAV":
                os.close(descriptor)
                return sound
            # The header of a pipe gives length 0, and the samples follow it.
            layout = {"samplerate": sound.samplerate, "channels": sound.channels}
            raw["subtype"] = sound.subtype
        return soundfile.SoundFile(descriptor, **raw, **layout)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", None) or str(error)
        raise AudioFormatError(f"{name}: not audio that can be streamed ({reason.rstrip('.')}); {_EXPECTED}") from error


# ---- microphones -------------------------------------------------------------------------------------------


class Device(NamedTuple):
    """An input device of PortAudio."""

    number: int
    name: str
    channels: int
    rate: int
    default: bool


def devices() -> list[Device]:
    """The microphones of this machine. Raises MissingDependencyError without sounddevice or PortAudio."""
    sounddevice = _sounddevice()
    default, every = sounddevice.default.device[0], sounddevice.query_devices()
    return [
        Device(number, found["name"], found["max_input_channels"], int(found["default_samplerate"]), number == default)
        for number, found in enumerate(every)
        if found["max_input_channels"]
    ]


class Microphone(_Queued):
    """A microphone, through PortAudio: the default one, or one by its number or a part of its name.

    Several channels are averaged. Samples are rounded to 16 bits, so that a saved recording is exactly what was
    transcribed. ``overflows`` counts how often the system lost audio because this process was late; a warning is
    logged at the end. Raises ConfigurationError for a device that does not exist or cannot be opened.
    """

    live = True

    def __init__(self, device: int | str | None = None) -> None:
        library = _sounddevice()
        reason: Exception
        try:
            found = library.query_devices(device, "input")
        except (ValueError, library.PortAudioError) as error:
            raise ConfigurationError(_no_device(device, error)) from error
        own = int(found["default_samplerate"])
        for channels, rate in ((1, SAMPLE_RATE), (1, own), (found["max_input_channels"], own)):
            try:
                settings = {"device": device, "samplerate": rate, "channels": channels, "dtype": "float32"}
                calls = {"callback": self._take, "finished_callback": self._end}
                self._stream = library.InputStream(latency=_LATENCY_S, **settings, **calls)
                break
            except library.PortAudioError as error:
                reason = error
        else:
            raise ConfigurationError(_no_device(device, reason)) from reason
        self.overflows = 0
        super().__init__(str(found["name"]), rate)

    def __iter__(self) -> Iterator[FloatArray]:
        return (as_chunk(pcm_16(chunk)) for chunk in super().__iter__())

    def _arriving(self) -> Iterator[FloatArray]:
        with self._stream:
            yield from super()._arriving()
        if not self._closed:
            _LOGGER.warning("%s: the microphone stopped", self.name)
        if self.overflows:
            _LOGGER.warning("%s: audio was lost %d times, this process was late", self.name, self.overflows)

    def _take(self, block: npt.NDArray[np.float32], n_frames: int, time: object, status: Any) -> None:
        self.overflows += bool(status.input_overflow)
        self._items.put(mono(block, None))

    def _end(self) -> None:
        self._items.put(None)


def _no_device(device: int | str | None, error: Exception) -> str:
    given = "no microphone can be opened" if device is None else f"microphone {device!r} cannot be opened"
    return f"{given} ({' '.join(str(error).split())}); whisperlab listen --list-devices lists them"


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        text = "not installed: sounddevice (microphone); pip install 'whisperlab[microphone]'"
        raise MissingDependencyError(text) from error
    except OSError as error:
        raise MissingDependencyError("PortAudio is missing (Debian: apt-get install libportaudio2)") from error
    return sounddevice

"""Where a stream comes from: an array, a file, a pipe such as standard input, or a microphone."""

import os
import select
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from whisperlab.util.audio_arrays import FloatArray, as_chunk, chunks, mono, pcm_16, resampled_chunks
from whisperlab.util.errors import AudioFormatError, ConfigurationError, MissingDependencyError, needs
from whisperlab.util.log import logger
from whisperlab.util.timeline import SAMPLE_RATE, samples, seconds

_LATENCY_S = 0.25  # audio that PortAudio holds: a process that is late by less loses nothing
_EXPECTED = "expected WAV, AIFF, AU, OGG or MP3, or raw PCM with its rate; convert others: ffmpeg -i FILE -f wav - |"


class Source(Protocol):
    """Mono audio: iterating gives, once, chunks of float32 at 16 kHz of shape (n,), each of any length n > 0."""

    name: str
    rate: int  # Hz, before resampling
    live: bool  # chunks arrive as fast as they are spoken

    def __iter__(self) -> Iterator[FloatArray]: ...

    def close(self) -> None:
        """End the source. What was received is still delivered. Any thread or signal handler may call it."""


class ArraySource:
    """Audio at 16 kHz, shape (n,)."""

    live, rate = False, SAMPLE_RATE

    def __init__(self, audio: FloatArray, name: str, chunk_ms: float = 100) -> None:
        self.audio, self.name, self._n_chunk, self._closed = audio, name, samples(chunk_ms / 1000), False

    def __iter__(self) -> Iterator[FloatArray]:
        return takewhile(lambda _: not self._closed, chunks(self.audio, self._n_chunk))

    def close(self) -> None:
        self._closed = True


class FileSource:
    """A file or pipe that libsndfile decodes as it arrives, so that memory does not grow with its length.

    ``file`` is a path or a descriptor; 0 is standard input. A WAV header written to a pipe may give any length. With
    ``rate`` the content is raw 16-bit little-endian PCM of so many ``channels``. The mean of all channels is used.
    Raises AudioFormatError if it is not audio.
    """

    live = False

    def __init__(self, file: int | str, name: str, rate: int | None = None, channels: int = 1) -> None:
        self._descriptor = os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDONLY)
        self._sound = self._opened(name, rate, channels)
        self.name, self.rate, self._closed = name, self._sound.samplerate, False

    def __iter__(self) -> Iterator[FloatArray]:
        return resampled_chunks(self._decoded(), self.rate)

    def close(self) -> None:
        self._closed = True

    def _decoded(self) -> Iterator[FloatArray]:
        n_new = n_chunk = max(1, self.rate // 10)
        while n_new == n_chunk and not self._closed:  # after a shorter block, libsndfile may return samples twice
            if select.select([self._descriptor], [], [], 0.1)[0]:  # a read could not be interrupted
                try:
                    block = self._sound.read(n_chunk, dtype="float32", always_2d=True)
                except RuntimeError as error:  # of soundfile
                    raise AudioFormatError(f"{self.name}: damaged audio ({' '.join(str(error).split())})") from error
                if n_new := len(block):
                    yield mono(block, None)
        os.close(self._descriptor)

    def _opened(self, name: str, rate: int | None, channels: int) -> Any:
        import soundfile

        raw: dict[str, Any] = {"format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}
        sound = partial(soundfile.SoundFile, self._descriptor, closefd=False)
        try:
            if rate is None:
                if (found := sound()).frames or found.seekable() or found.format != "WAV":
                    return found
                # The header of a pipe gives the length 0, and the samples follow it.
                raw["subtype"], rate, channels = found.subtype, found.samplerate, found.channels
            return sound(samplerate=rate, channels=channels, **raw)
        except soundfile.SoundFileError as error:
            reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
            raise AudioFormatError(f"{name}: not audio that can be streamed ({reason}); {_EXPECTED}") from error


class Microphone:
    """A microphone, through PortAudio: the default one, or one by its number or a part of its name.

    Samples are rounded to 16 bits, so that a saved recording is exactly what was transcribed. ``overflows`` counts how
    often the system lost audio because this process was late; it is logged. Raises ConfigurationError for a device
    that does not exist or cannot be opened, MissingDependencyError without PortAudio.
    """

    live = True

    def __init__(self, device: int | str | None = None) -> None:
        self.rate, self.overflows, library = SAMPLE_RATE, 0, _sounddevice()
        self._blocks: SimpleQueue[FloatArray | None] = SimpleQueue()  # signal handlers may `put`
        calls = {"callback": self._take, "finished_callback": self.close}
        stream = partial(library.InputStream, device=device, dtype="float32", latency=_LATENCY_S, **calls)
        try:
            found = library.query_devices(device, "input")
            self.name = str(found["name"])
            try:
                self._stream = stream(samplerate=SAMPLE_RATE, channels=1)
            except library.PortAudioError:  # hardware may have one rate and one number of channels
                self.rate = int(found["default_samplerate"])
                self._stream = stream(samplerate=self.rate, channels=found["max_input_channels"])
        except (ValueError, library.PortAudioError) as error:
            told = f"microphone {'of the system' if device is None else repr(device)}: {' '.join(str(error).split())}"
            raise ConfigurationError(f"{told} (whisperlab listen --list-devices lists all)") from error

    def __iter__(self) -> Iterator[FloatArray]:
        with self._stream:
            for chunk in resampled_chunks(self._arriving(), self.rate):
                yield as_chunk(pcm_16(chunk))
        if self.overflows:
            logger.warning("%s: audio was lost %d times, this process was late", self.name, self.overflows)

    def close(self) -> None:
        self._blocks.put(None)

    def _arriving(self) -> Iterator[FloatArray]:
        while (block := self._blocks.get()) is not None:
            yield block

    def _take(self, block: FloatArray, n_frames: int, time: object, status: Any) -> None:
        self.overflows += bool(status.input_overflow)
        self._blocks.put(mono(block, None))


class Recorded:
    """A source that is saved to a WAV file (16-bit PCM, 16 kHz) and measured on its way, and ends after ``most_s``.

    The first chunk replaces the file. The recording of a process that was killed can be read.
    """

    def __init__(self, source: Source, path: Path | None, most_s: float) -> None:
        self.name, self.rate, self.live, self.close = source.name, source.rate, source.live, source.close
        self.path, self.received_s, self.peak, self._source, self._most_s = path, 0.0, 0.0, source, most_s

    def __iter__(self) -> Iterator[FloatArray]:
        from soundfile import SoundFile

        file = None
        try:
            for chunk in takewhile(lambda _: self.received_s < self._most_s, self._source):
                if self.path:
                    file = file or SoundFile(self.path, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV")
                    file.write(pcm_16(chunk))
                self.received_s += seconds(len(chunk))
                self.peak = max(float(abs(chunk).max()), self.peak / 2)
                yield chunk
        finally:
            if file:
                file.close()


def devices() -> list[dict[str, object]]:
    """The microphones of this machine. Raises MissingDependencyError without sounddevice or PortAudio."""
    keys = {"number": "index", "name": "name", "channels": "max_input_channels", "rate": "default_samplerate"}
    every = [{name: device[key] for name, key in keys.items()} for device in _sounddevice().query_devices()]
    return [device | {"rate": int(device["rate"])} for device in every if device["channels"]]


def _sounddevice() -> Any:
    try:
        with needs("a microphone needs sounddevice", "microphone"):
            import sounddevice
    except OSError as error:
        raise MissingDependencyError("PortAudio is missing (Debian: apt-get install libportaudio2)") from error
    return sounddevice

"""Audio in: files and arrays become mono float32 at 16 kHz, cut into chunks, fed as fast as wanted.

Every function behind this module may rely on what ``as_audio`` promises: one dimension, float32, finite,
nominally within [-1, 1). Whatever cannot be brought into that form raises ``AudioFormatError`` here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from whisperlab.checks import check_type, is_number, shown
from whisperlab.errors import AudioFormatError, ConfigurationError, brief
from whisperlab.files import write_whole
from whisperlab.timeline import SAMPLE_RATE, seconds

logger = logging.getLogger("whisperlab")

FloatArray: TypeAlias = npt.NDArray[np.float32]  # (n_samples,), mono 16 kHz, nominally in [-1, 1)

MAX_CHANNELS = 8  # 7.1 surround; a longer second axis is a layout mistake, not a microphone
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a rate outside is a damaged header that would resample to gigabytes
BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))  # the largest float32 below full scale
_BLOCK = 2**18  # frames decoded at once: how long a file says it is decides nothing
_MAX_VALUES = 2**30  # decoded, of all channels: 4 GiB. Silence packed as FLAC swells without bound
_CUT_S = 0.1  # by how much a stream may be shorter than its container says: encoders fill up their last frame
# What libsndfile logs of a header that promises more bytes of samples than the file has, where both are known.
_CUT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFFF000  # from here on a size is none: written to a pipe, it could not be known
_SAYS_DURATION = ("matroska", "mov", "flac", "asf", "flv")  # FFmpeg guesses it for the others
_PCM_AS_FLOAT = 128.0  # no audio overshoots [-1, 1) that far: such floats are unscaled integers
_LOUDEST = np.nextafter(np.float32(_PCM_AS_FLOAT), np.float32(0))


def read_audio(path: str | os.PathLike[str]) -> FloatArray:
    """The samples of an audio file of any rate and channel count.

    libsndfile reads WAV, FLAC, OGG and MP3; any other container goes to FFmpeg when PyAV is installed. Of a file that
    was cut short what is there is read, and a warning is logged. No other file is opened, whatever this one names.
    Raises ``AudioFormatError`` naming the path and the reason: no such file, empty, not audio, NaN samples, more than
    2**30 values (3.1 hours of stereo at 48 kHz).
    """
    _check_file(Path(path))
    samples, rate = _decode(Path(path))
    try:
        audio = as_audio(samples, rate)
    except AudioFormatError as error:
        raise AudioFormatError(f"{path}: {error}") from error
    if not audio.size:  # or so few, at a high rate, that none is left at 16 kHz
        raise AudioFormatError(f"{path}: an audio file without a single sample")
    return audio


def read_part(path: str | os.PathLike[str], start_s: float | None, length_s: float) -> FloatArray:
    """The samples of a part of an audio file; of all of it when ``start_s`` is None. Errors as for `read_audio`."""
    if start_s is None:
        return read_audio(path)
    _check_file(Path(path))
    written = os.stat(path)
    first, length = round(start_s * SAMPLE_RATE), round(length_s * SAMPLE_RATE)
    part = _newest_read(os.fspath(path), written.st_size, written.st_mtime_ns)[first : first + length]
    if not part.size:
        raise AudioFormatError(f"{path}: nothing to read from {start_s:g} s on")
    return part.copy()


@lru_cache(maxsize=1)
def _newest_read(path: str, *_: int) -> FloatArray:
    """A file that is read part by part is decoded once, until its size or time changes."""
    return read_audio(path)


def as_audio(array: npt.ArrayLike, sampling_rate: int = SAMPLE_RATE) -> FloatArray:
    """An array as contiguous mono float32 at 16 kHz; the input itself when it already is that.

    int16 and int32 PCM is scaled to [-1, 1), channels (up to eight, either axis) are averaged, other rates
    are resampled. Anything else, and NaN or infinite samples, raises ``AudioFormatError``.

    >>> as_audio(np.array([0, 16384, -32768], dtype=np.int16))
    array([ 0. ,  0.5, -1. ], dtype=float32)
    """
    samples = _scaled(as_samples(array))
    _check_values(samples)
    mono = _mono(samples)
    if not is_number(sampling_rate) or not MIN_RATE <= sampling_rate <= MAX_RATE:
        raise AudioFormatError(
            f"expected a sampling rate of {MIN_RATE} to {MAX_RATE} Hz, got {shown(sampling_rate)}"
        )
    if sampling_rate == SAMPLE_RATE:
        return mono
    return bounded(soxr.resample(mono, sampling_rate, SAMPLE_RATE))


def bounded(resampled: FloatArray) -> FloatArray:
    """What a resampler made, kept in the range that its input was in: it overshoots, and audio must stay audio."""
    return np.clip(resampled, -_LOUDEST, _LOUDEST, out=resampled)


def as_samples(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """The array of a thing that may be audio: real floats, or int16 or int32 PCM; of any rank and not copied.

    Raises ``AudioFormatError`` for everything else. Bytes, int64 and unsigned integers are refused because
    their full scale would be a guess.
    """
    try:
        samples = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
        raise AudioFormatError(f"expected an array of samples, got {shown(array)}: {error}") from error
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and not (kind == "i" and size in (2, 4)):
        raise AudioFormatError(f"expected floats, or int16 or int32 PCM, got {samples.dtype} samples")
    return samples


def full_scale(dtype: np.dtype[Any]) -> float:
    """The value that an amplitude of 1 has in a sample type: 32768.0 for int16, 1.0 for floats."""
    return 1.0 if dtype.kind == "f" else float(2 ** (8 * dtype.itemsize - 1))


def chunks(audio: FloatArray, n_samples: int) -> Iterator[FloatArray]:
    """The audio in pieces of ``n_samples``, the last one shorter when it does not divide; views, not copies.

    >>> [len(chunk) for chunk in chunks(np.zeros(5, np.float32), 2)]
    [2, 2, 1]
    """
    check_type("the length of a chunk", n_samples, int)
    if n_samples < 1:
        raise ConfigurationError(f"a chunk needs at least 1 sample, got {shown(n_samples)}")
    return (audio[start : start + n_samples] for start in range(0, len(audio), n_samples))


def paced(
    source: Iterable[FloatArray], clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[FloatArray]:
    """The chunks of a source, each handed over when a microphone would: once its last sample has been heard.

    The due times follow the clock from the first chunk on, not the consumer: one that falls behind gets
    its chunks at once until it has caught up. ``clock`` and ``sleep`` count seconds.
    """
    began, heard = clock(), 0
    for chunk in source:
        heard += len(chunk)
        wait_s = began + seconds(heard) - clock()
        if wait_s > 0:
            sleep(wait_s)
        yield chunk


def duration_s(audio: FloatArray) -> float:
    """Length in seconds.

    >>> duration_s(np.zeros(8000, np.float32))
    0.5
    """
    return seconds(len(audio))


def audio_digest(audio: FloatArray) -> str:
    """SHA-256 of the samples as little-endian float32, in hex: names the audio whatever file it came from."""
    return hashlib.sha256(np.ascontiguousarray(audio, dtype="<f4").data).hexdigest()


def write_wav(path: str | os.PathLike[str], audio: FloatArray) -> None:
    """Write 16-bit PCM at 16 kHz; the file appears whole or not at all.

    Samples are rounded to the nearest step and clipped, so audio that came from 16-bit PCM is kept exactly.
    """
    pcm = np.clip(np.rint(as_audio(audio) * np.float32(2**15)), -(2**15), 2**15 - 1).astype(np.int16)
    made = io.BytesIO()  # libsndfile itself would tell of a full disk in words that say nothing of it
    soundfile.write(made, pcm, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    write_whole(os.fspath(path), made.getvalue())


def _scaled(samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Samples of any accepted type as float32; integers divided by their full scale."""
    if samples.dtype.kind == "i":
        scaled = samples.astype(np.float32, order="C")
        scaled /= np.float32(full_scale(samples.dtype))
        np.minimum(scaled, BELOW_ONE, out=scaled)  # int32's largest value rounds up to 2**31
        return scaled
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused as such
        return np.asarray(samples, dtype=np.float32, order="C")


def _mono(samples: npt.NDArray[np.float32]) -> FloatArray:
    """The mean over the channels of (n, c) or (c, n) samples; a single channel stays as it is."""
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise AudioFormatError(f"expected shape (n,), (n, channels) or (channels, n), got {samples.shape}")
    if not samples.size:
        return np.zeros(0, np.float32)
    axis = 1 if samples.shape[1] <= MAX_CHANNELS else 0
    if samples.shape[axis] > MAX_CHANNELS:
        raise AudioFormatError(f"expected at most {MAX_CHANNELS} channels, got shape {samples.shape}")
    mean: FloatArray = samples.mean(axis=axis, dtype=np.float32)
    return mean


def _check_values(samples: npt.NDArray[np.float32]) -> None:
    bad = samples.size - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise AudioFormatError(f"expected finite samples, but {bad} of {samples.size} are NaN or infinite")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak >= _PCM_AS_FLOAT:
        raise AudioFormatError(
            f"expected floats within [-1, 1), got a peak of {peak:g}: divide integer PCM by its full scale"
        )


def _check_file(path: Path) -> None:
    """Say the plain reasons plainly, before a decoder says them in its own words."""
    if not path.exists():
        raise AudioFormatError(f"{path}: no such file")
    if not path.is_file():
        raise AudioFormatError(f"{path}: not a file, expected audio such as WAV or FLAC")
    if path.stat().st_size == 0:
        raise AudioFormatError(f"{path}: the file is empty (0 bytes)")


def _decode(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Samples (n, c) and their rate, from libsndfile or, when that refuses, from FFmpeg."""
    try:
        with soundfile.SoundFile(path) as file:
            _check_channels(path, file.channels)
            samples = _together(_blocks(path, file), file.channels)
            rate, promised, log = int(file.samplerate), file.frames, str(file.extra_info)
    except soundfile.SoundFileError as error:
        return _decode_with_ffmpeg(path, reason=getattr(error, "error_string", None) or str(error))
    if len(samples) < promised < _UNKNOWN_SIZE or _is_cut(log):
        _warn_of_cut(path, len(samples) / max(rate, 1))
    return samples, rate


def _blocks(path: Path, file: soundfile.SoundFile) -> Iterator[npt.NDArray[np.float32]]:
    n_values = 0
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        n_values += block.size
        _check_length(path, n_values)
        yield block


def _check_length(path: Path, n_values: int) -> None:
    if n_values > _MAX_VALUES:
        raise AudioFormatError(
            f"{path}: expected at most {_MAX_VALUES:,} values in all channels together, there are more: cut the "
            "recording into parts"
        )


def _together(blocks: Iterable[npt.NDArray[np.float32]], n_channels: int) -> npt.NDArray[np.float32]:
    """Blocks of samples (n, c) as one."""
    return np.concatenate([np.zeros((0, n_channels), np.float32), *blocks])


def _is_cut(log: str) -> bool:
    """Whether libsndfile has found fewer bytes than a header promises."""
    sizes = [(int(promised), int(found)) for promised, found in _CUT.findall(log)]
    return any(found < promised < _UNKNOWN_SIZE for promised, found in sizes)


def _warn_of_cut(path: Path, read_s: float, reason: str = "its header promises more") -> None:
    logger.warning(
        "%s: the file was cut short or is damaged (%s); %.3f s of it were read", path, reason, read_s
    )


def _check_channels(path: Path, n_channels: int) -> None:
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise AudioFormatError(f"{path}: expected 1 to {MAX_CHANNELS} channels, got {n_channels}")


def _decode_with_ffmpeg(path: Path, reason: str) -> tuple[npt.NDArray[np.float32], int]:
    """Samples (n, c) and their rate; ``reason`` is why libsndfile did not read the file."""
    try:
        import av
    except ImportError as error:
        raise AudioFormatError(f"{path}: {reason} (pip install av reads more containers)") from error
    frames: list[Any] = []
    stopped: Exception | None = None
    promised_s, n_values = 0.0, 0
    try:
        with (
            path.open("rb") as file,
            # FFmpeg gets the open file and may open no other: a playlist could name any.
            av.open(file, "r", metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container,
        ):
            if not container.streams.audio:
                raise AudioFormatError(f"{path}: no audio in this file")
            if container.duration and container.format.name.startswith(_SAYS_DURATION):
                promised_s = container.duration / av.time_base
            as_float = av.AudioResampler(format="fltp")
            for raw in container.decode(audio=0):
                decoded = as_float.resample(raw)
                n_values += sum(frame.samples * frame.layout.nb_channels for frame in decoded)
                _check_length(path, n_values)
                frames += decoded
    except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: channels or rate change on the way
        if isinstance(error, AudioFormatError):
            raise
        if not frames:
            message = f"{path}: not audio that libsndfile or FFmpeg can read ({reason})"
            raise AudioFormatError(message) from error
        stopped = error
    if not frames:
        return np.zeros((0, 1), np.float32), SAMPLE_RATE
    _check_channels(path, frames[0].layout.nb_channels)
    rate = int(frames[0].sample_rate)
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T
    read_s = len(samples) / max(rate, 1)
    if stopped:
        _warn_of_cut(path, read_s, brief(stopped))
    elif read_s < promised_s - _CUT_S:
        _warn_of_cut(path, read_s)
    return samples, rate

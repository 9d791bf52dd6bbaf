"""Reading and writing audio files. The result is what ``as_audio`` returns: mono float32 at 16 kHz, all finite."""

import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import soundfile

from whisperlab.data.containers import decode, decoder
from whisperlab.util.audio_arrays import FloatArray, Part, check_values, joined_parts, mixing_weights, mono, pcm_16
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.files import write_atomic
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.validation import shown

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SIDES = {"left": 1, "right": 2}


def read_audio(path: str | os.PathLike[str], *, channel: str | int = "mix", track: int | None = None) -> FloatArray:
    """The samples of an audio file of any rate and channel count, placed by the file's timestamps.

    FFmpeg decodes the file in a child process. Files joined end to end are read to the end. Gaps in the timestamps
    become silence. A warning is logged for gaps, and for a file that is cut short, damaged or has several tracks.

    ``channel`` is ``mix``, ``left``, ``right``, a number from 1, or ``each``: then the shape is (channels, n). The mix
    is the mean. If the channels cancel each other (opposite phase), it is half the difference or the louder channel,
    and a warning is logged. ``track`` is the number of the audio track from 1; None is the default track.

    Raises ``AudioFormatError`` naming the path and the reason: no such file, empty, not audio, NaN samples, no such
    channel or track, more than 2**30 values (3.1 hours of stereo at 48 kHz).
    """
    is_number = isinstance(channel, int) and not isinstance(channel, bool) and channel >= 1
    if channel not in ("mix", "each", *_SIDES) and not is_number:
        raise ConfigurationError(f"channel: mix, left, right, each or a number from 1, got {shown(channel)}")
    parts = decode(_check_file(path), track)
    try:
        audio = _chosen(parts, channel, f"{path}: ")
    except AudioFormatError as error:
        raise AudioFormatError(f"{path}: {error}") from error
    if not audio.size:  # a few samples at a high rate can become none at 16 kHz
        raise AudioFormatError(f"{path}: an audio file without a single sample")
    return audio


def header_s(path: str | os.PathLike[str]) -> float:
    """The length of an audio file by its header, in seconds; 0 if it gives none. Raises ``AudioFormatError``."""
    return float(decoder.ask(_check_file(path), header_only=True)[1]["header_s"])


def read_part(path: str | os.PathLike[str], start_s: float | None, length_s: float) -> FloatArray:
    """The samples of a part of an audio file, or of the complete file if ``start_s`` is None. Errors: `read_audio`."""
    if start_s is None:
        return read_audio(path)
    written = os.stat(_check_file(path))
    first, length = round(start_s * SAMPLE_RATE), round(length_s * SAMPLE_RATE)
    part = _newest_read(os.fspath(path), written.st_size, written.st_mtime_ns)[first : first + length]
    if not part.size:
        raise AudioFormatError(f"{path}: nothing to read from {start_s:g} s on")
    return part.copy()


@lru_cache(maxsize=1)
def _newest_read(path: str, *_: int) -> FloatArray:
    """Decodes a file once for reading it part by part, until its size or time changes."""
    return read_audio(path)


def write_wav(path: str | os.PathLike[str], audio: FloatArray) -> None:
    """Write 16-bit PCM at 16 kHz, rounded and clipped. The file appears only when it is complete."""
    packed = io.BytesIO()  # libsndfile's own error for a full disk does not mention the disk
    soundfile.write(packed, pcm_16(audio), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    write_atomic(os.fspath(path), packed.getvalue())


def _chosen(parts: Sequence[Part], channel: str | int, name: str) -> FloatArray:
    """The parts as one recording: (n,), or (channels, n) for ``each``."""
    for part in parts:
        check_values(part.samples)
    n_channels = max((part.samples.shape[1] for part in parts), default=1)
    if channel == "mix":
        return joined_parts(parts, partial(_to_mono, chosen=mixing_weights(parts, name)))
    if channel == "each":
        return np.stack([joined_parts(parts, partial(_to_mono, chosen=index)) for index in range(n_channels)])
    number = int(_SIDES.get(str(channel), channel))
    if number > n_channels:
        there = f"{n_channels} channel{'s' * (n_channels > 1)}"
        raise AudioFormatError(f"channel {channel} does not exist: the file has {there}")
    return joined_parts(parts, partial(_to_mono, chosen=number - 1))


def _to_mono(part: Part, chosen: int | FloatArray | None) -> FloatArray:
    """One channel, or the weighted sum of all; the mean for None, and for a part with other channels."""
    n_channels = part.samples.shape[1]
    if isinstance(chosen, int) and chosen < n_channels:
        return np.ascontiguousarray(part.samples[:, chosen])
    weights = chosen if isinstance(chosen, np.ndarray) and len(chosen) == n_channels else None
    return mono(part.samples, weights)


def _check_file(path: str | os.PathLike[str]) -> Path:
    """Raise AudioFormatError with a simple reason for a path that no decoder can open."""
    file = Path(path)
    if _ADDRESS.match(os.fspath(path)) and not file.exists():
        raise AudioFormatError(f"{path}: addresses are not opened, expected a file: download it first")
    if not file.exists():
        raise AudioFormatError(f"{path}: no such file")
    if not file.is_file():
        raise AudioFormatError(f"{path}: not a file, expected audio such as WAV or FLAC")
    if file.stat().st_size == 0:
        raise AudioFormatError(f"{path}: the file is empty (0 bytes)")
    return file

"""Arrays of audio: accepted types, mixing of channels, chunks, digests, mel bands."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from whisperlab.util.errors import AudioFormatError
from whisperlab.util.log import logger
from whisperlab.util.timeline import SAMPLE_RATE, seconds
from whisperlab.util.timeline import samples as samples_in
from whisperlab.util.validation import check_range, is_number, shown

FloatArray: TypeAlias = npt.NDArray[np.float32]  # (n_samples,), mono 16 kHz, nominally in [-1, 1)
Samples: TypeAlias = npt.NDArray[Any]  # of any accepted type
Clock: TypeAlias = Callable[[], float]  # seconds
Sleep: TypeAlias = Callable[[float], None]

MAX_FILE_CHANNELS = 1024  # more are refused: a damaged header, or an array of the wrong layout
MAX_CHANNELS = 8  # 7.1 surround: an axis up to this length may be the channels
_LONGER = 4  # if both axes are longer than MAX_CHANNELS, the time axis must be longer by this factor
MIN_RATE, MAX_RATE = (1_000, 768_000)  # Hz; other rates come from damaged headers and would resample to gigabytes
BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))  # the largest float32 below full scale
_BLOCK_S = 0.5  # the phase of channels is compared in blocks of this length
_LOUD = 0.01  # share of the loudest block's energy from which a block is compared
_CANCELLED = 0.4  # share of the energy of the mean of unrelated channels below which channels cancel each other
_OFTEN = 0.05  # share of the loud blocks
_PCM_AS_FLOAT = 128.0  # audio never overshoots [-1, 1) that far: such floats are unscaled integers
_LOUDEST = np.nextafter(np.float32(_PCM_AS_FLOAT), np.float32(0))
MEL_FRAME = 400  # samples, Whisper's 25 ms; divides a 100 ms hop, so successive windows share their mel frames
MEL_BANDS = 40  # narrower bands fall between the bins (40 Hz apart) of a mel frame
_MEL_EDGES_HZ = (60.0, 7600.0)
_MEL_FLOOR = 1e-4  # power 80 dB below a full-scale sine (1e4 in this frame), where Whisper clamps too


@dataclass(slots=True, frozen=True)
class Part:
    """A part of a recording: one of several joined files, or a stretch between gaps or in another format."""

    samples: npt.NDArray[np.float32]  # (n, channels)
    rate: int
    gap_s: float = 0.0  # silence before it


def as_audio(array: npt.ArrayLike, sampling_rate: int = SAMPLE_RATE) -> FloatArray:
    """An array as contiguous mono float32 at 16 kHz; returned as it is if it already has that form.

    int16 and int32 PCM is scaled to [-1, 1), channels are mixed as in `read_audio`, other rates are resampled. More
    than eight channels must be on the clearly shorter axis. Raises ``AudioFormatError`` for anything else.
    """
    samples = check_values(_by_time(_scaled(as_samples(array))))
    _check_rate(sampling_rate)
    return _resampled(mono(samples, mixing_weights([Part(samples, sampling_rate)], "")), sampling_rate)


def as_chunk(array: npt.ArrayLike) -> FloatArray:
    """`as_audio` for a chunk of a stream: always averages the channels, so that the chunk size does not matter."""
    return mono(check_values(_by_time(_scaled(as_samples(array)))), None)


def _resampled(audio: FloatArray, sampling_rate: int) -> FloatArray:
    _check_rate(sampling_rate)
    return audio if sampling_rate == SAMPLE_RATE else bounded(soxr.resample(audio, sampling_rate, SAMPLE_RATE))


def resampled_chunks(source: Iterable[FloatArray], sampling_rate: int) -> Iterator[FloatArray]:
    """Mono chunks at 16 kHz, none empty. The resampler keeps state, so that borders of chunks are inaudible."""
    _check_rate(sampling_rate)
    resample = soxr.ResampleStream(sampling_rate, SAMPLE_RATE, 1, dtype="float32").resample_chunk
    for chunk in chain(source, [None]):
        if len(found := resample(np.zeros(0, np.float32), last=True) if chunk is None else resample(chunk)):
            yield bounded(found)


def pcm_16(array: npt.ArrayLike) -> npt.NDArray[np.int16]:
    """`as_audio` as 16-bit PCM, rounded to the nearest step and clipped. 16-bit audio stays the same."""
    pcm: npt.NDArray[np.float32] = np.clip(np.rint(as_audio(array) * np.float32(2**15)), -(2**15), 2**15 - 1)
    return pcm.astype(np.int16)


def _check_rate(sampling_rate: int) -> None:
    if not is_number(sampling_rate) or not MIN_RATE <= sampling_rate <= MAX_RATE:
        raise AudioFormatError(f"expected a sampling rate of {MIN_RATE} to {MAX_RATE} Hz, got {shown(sampling_rate)}")


def bounded(resampled: FloatArray) -> FloatArray:
    """Clip resampled audio, in place, to the range of valid input: resampling overshoots."""
    return np.clip(resampled, -_LOUDEST, _LOUDEST, out=resampled)


def as_samples(array: npt.ArrayLike) -> Samples:
    """An array-like of floats, or int16 or int32 PCM, without a copy; raises ``AudioFormatError`` for all else."""
    try:
        samples = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
        raise AudioFormatError(f"expected an array of samples, got {shown(array)}: {error}") from error
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and not (kind == "i" and size in (2, 4)):
        raise AudioFormatError(f"expected floats, or int16 or int32 PCM, got {samples.dtype} samples")
    return samples


def full_scale(dtype: np.dtype[np.generic]) -> float:
    """The value of amplitude 1 in a sample type: 32768.0 for int16, 1.0 for floats."""
    return 1.0 if dtype.kind == "f" else float(2 ** (8 * dtype.itemsize - 1))


def chunks(audio: FloatArray, n_samples: int) -> Iterator[FloatArray]:
    """The audio in chunks of ``n_samples``, as views; the last one may be shorter."""
    check_range("the length of a chunk, in samples,", n_samples, int, 1)
    return (audio[start : start + n_samples] for start in range(0, len(audio), n_samples))


def paced(source: Iterable[FloatArray], clock: Clock, sleep: Sleep) -> Iterator[FloatArray]:
    """The chunks of a source, none before a microphone would have recorded it; clock and sleep count seconds."""
    began, n_recorded = clock(), 0
    for chunk in source:
        n_recorded += len(chunk)
        wait_s = began + seconds(n_recorded) - clock()
        if wait_s > 0:
            sleep(wait_s)
        yield chunk


def duration_s(audio: FloatArray) -> float:
    return seconds(len(audio))


def audio_digest(audio: FloatArray) -> str:
    """SHA-256 of the samples as little-endian float32, in hex: identifies audio independently of its file."""
    return hashlib.sha256(np.ascontiguousarray(audio, dtype="<f4").data).hexdigest()


def _scaled(samples: Samples) -> npt.NDArray[np.float32]:
    """Samples of any accepted type as float32; integers are divided by their full scale."""
    if samples.dtype.kind == "i":
        scaled = samples.astype(np.float32, order="C")
        scaled /= np.float32(full_scale(samples.dtype))
        np.minimum(scaled, BELOW_ONE, out=scaled)  # int32's largest value rounds up to 2**31
        return scaled
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which check_values refuses
        return np.asarray(samples, dtype=np.float32, order="C")


def _by_time(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Samples of shape (n,), (n, c) or (c, n) as (n,) or (n, c)."""
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise AudioFormatError(f"expected shape (n,), (n, channels) or (channels, n), got {samples.shape}")
    if not samples.size:
        return np.zeros((0, 1), np.float32)
    short, long = sorted(samples.shape)
    if short > MAX_CHANNELS and (short > MAX_FILE_CHANNELS or long < _LONGER * short):
        allowed = f"at most {MAX_CHANNELS} channels, or one axis at least {_LONGER} times as long as the other"
        raise AudioFormatError(f"expected {allowed}, got shape {samples.shape}: give (n,) or a longer stretch")
    by_time = samples.shape[1] <= MAX_CHANNELS or (short > MAX_CHANNELS and samples.shape[1] == short)
    return samples if by_time else samples.T


def mono(samples: npt.NDArray[np.float32], weights: FloatArray | None) -> FloatArray:
    """Mono from shape (n,) or (n, c): the mean, or the weighted sum."""
    if samples.ndim == 1:
        return samples
    mixed: FloatArray = samples.mean(axis=1, dtype=np.float32) if weights is None else samples @ weights
    return np.ascontiguousarray(mixed)


def mixing_weights(parts: Sequence[Part], name: str) -> FloatArray | None:
    """Weights for channels that cancel each other in their mean; None to use the mean."""
    widest = max((part.samples.shape[1] for part in parts if part.samples.ndim == 2), default=1)
    if widest == 1:
        return None
    found = [_energies(part) for part in parts if part.samples.shape[1:] == (widest,)]
    own, mean, difference = (np.concatenate(each) for each in zip(*found, strict=True))
    loud = own.sum(axis=1) >= _LOUD * own.sum(axis=1).max(initial=0.0)
    own, least = own[loud], _CANCELLED / widest * own[loud].mean(axis=1)
    if not own.any() or np.mean(mean[loud] < least) <= _OFTEN:
        return None
    weights = np.zeros(widest, np.float32)
    if widest == 2 and np.mean(difference[loud] < least) <= _OFTEN:
        weights[:] = 0.5, -0.5
        chosen = "half their difference is used"
    else:
        louder = int(own.sum(axis=0).argmax())
        weights[louder] = 1
        chosen = f"channel {louder + 1}, the loudest, is used"
    logger.warning("%sthe channels cancel each other (opposite phase): %s", name, chosen)
    return weights


def _energies(part: Part) -> tuple[Samples, Samples, Samples]:
    """Energy per block: of each channel, of their mean, and of half the difference of the first two."""
    own, mean, difference = [], [], []
    n = max(1, int(_BLOCK_S * part.rate))
    for start in range(0, len(part.samples) // n * n or int(len(part.samples) >= n // 5), n):
        block = part.samples[start : start + n]
        own.append(np.einsum("nc,nc->c", block, block, dtype=np.float64))
        mean.append(np.square(block.mean(axis=1), dtype=np.float64).sum())
        difference.append(np.square((block[:, 0] - block[:, 1]) / 2, dtype=np.float64).sum())
    return np.reshape(own, (-1, part.samples.shape[1])), np.array(mean), np.array(difference)


def joined_parts(parts: Sequence[Part], to_mono: Callable[[Part], FloatArray]) -> FloatArray:
    """All parts in mono at 16 kHz, with the silence between them."""
    pieces: list[FloatArray] = []
    for part in parts:
        if part.gap_s:
            pieces.append(np.zeros(samples_in(part.gap_s), np.float32))
        pieces.append(_resampled(to_mono(part), part.rate))
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])


def check_values(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The samples; raises AudioFormatError for NaN and infinite samples and for a peak far beyond 1."""
    bad = samples.size - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise AudioFormatError(f"expected finite samples, but {bad} of {samples.size} are NaN or infinite")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak >= _PCM_AS_FLOAT:
        told = f"expected floats within [-1, 1), got a peak of {peak:g}"
        raise AudioFormatError(f"{told}: divide integer PCM by its full scale")
    return samples


def band_decibels(audio: FloatArray, n_bands: int) -> FloatArray:
    """Mean power per mel band in decibels, shape (n_bands,), over adjacent mel frames; the last is zero-padded."""
    padded = audio if len(audio) % MEL_FRAME == 0 else np.pad(audio, (0, -len(audio) % MEL_FRAME))
    hann, filters = _hann_and_filters(n_bands)
    spectrum = np.fft.rfft(padded.reshape(-1, MEL_FRAME) * hann, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    decibels: FloatArray = 10 * np.log10(np.maximum(filters @ power, _MEL_FLOOR))
    return decibels


@functools.lru_cache(maxsize=8)
def _hann_and_filters(n_bands: int) -> tuple[FloatArray, FloatArray]:
    """Triangles evenly spaced in mel, 2595 log10(1 + f/700), have shape (n_bands, MEL_FRAME // 2 + 1)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in _MEL_EDGES_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, n_bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(MEL_FRAME, 1 / SAMPLE_RATE)
    left, peak, right = (edges[i : n_bands + i, None] for i in range(3))
    rising, falling = (bins - left) / (peak - left), (right - bins) / (right - peak)
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return np.hanning(MEL_FRAME).astype(np.float32), filters

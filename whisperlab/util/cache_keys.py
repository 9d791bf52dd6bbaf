"""Keys of the encoder cache: which windows of audio share an encoder output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.validation import shown

StreamSpan: TypeAlias = tuple[str, int, int]  # stream id, first sample, number of samples

COARSEST_DB = 12.0
MEL_FRAME = 400  # samples, Whisper's 25 ms; divides a 100 ms hop, so successive windows share their mel frames
MEL_EDGES_HZ = (60.0, 7600.0)
MEL_FLOOR = 1e-4  # power 80 dB below a full-scale sine (1e4 in this frame), where Whisper clamps too
MOST_BANDS = 40  # narrower bands fall between the bins (40 Hz apart) of a mel frame

_LARGEST = 2**63  # the largest integer that other JSON readers keep


class Key(Protocol):
    """Decides which windows share an encoder output."""

    @property
    def name(self) -> str:
        """The name in statistics and reports."""

    @property
    def exact(self) -> bool:
        """Whether equal material implies the same audio."""

    @property
    def least_confidence(self) -> float:
        """Outputs with a less probable answer than this should not be stored; 0 stores all."""

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The bytes to hash. Two windows with equal bytes and equal length share one entry."""


@dataclass(slots=True, frozen=True)
class RoundedKey:
    """The performance guide's key: all samples rounded to ``precision`` decimals; -0.0 equals 0.0.

    One sample of noise across one rounding edge changes the key, so live audio hits only on bit-identical windows. At
    precision 0 nearly all speech rounds to zero and one entry answers for everything.
    """

    precision: int = 6
    name = "rounded"
    exact = False
    least_confidence = 0.0

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The rounded samples as float32 bytes; ``span`` is ignored."""
        return (np.round(audio, self.precision) + np.float32(0)).tobytes()


@dataclass(slots=True, frozen=True)
class SpanKey:
    """The position of the window: stream, first sample, length. Never wrong if stream ids are unique.

    Hits when the same window is needed twice: by language-ID, by the decoder, by re-decoding after a switch.
    """

    name = "span"
    exact = True
    least_confidence = 0.0

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The span itself; raises ``ConfigurationError`` without one or if its length is not the window's."""
        return json.dumps(_checked_span(self.name, audio, span)).encode()


@dataclass(slots=True, frozen=True)
class LogMelKey:
    """A perceptual key: mean power in ``n_bands`` mel bands, in decibels, quantised in steps of ``step_db``.

    Windows one or two hops apart share most of their audio and quantise alike, so the key hits on live speech. It can
    be wrong: the spectrum barely changes in the first moments after a language switch. Many bands with a wide step
    did better on speech than few bands with a narrow step: as many hits, fewer across languages.

    The default of 6 dB on 340 s of spliced speech in five languages (Whisper base, 3 s windows every 200 ms, 10
    entries): 48 % hits, 19 % of them with another language than the window's own; at 3 dB 22 % and 12 %. For
    comparison: from one window to the next the language changed in 11 % of the cases. With more entries the answers
    are older and therefore worse.
    """

    step_db: float = 6.0
    n_bands: int = 16
    name = "logmel"
    exact = False
    least_confidence = 0.0

    def __post_init__(self) -> None:
        if not self.step_db > 0:
            raise ConfigurationError(f"step_db must be above 0, got {self.step_db!r}")
        check_integer("n_bands", self.n_bands, least=1, most=MOST_BANDS)

    @classmethod
    def from_precision(cls, precision: int) -> LogMelKey:
        """The step for a ``hash_precision``: 12 dB at 0, halved every 2 (6 dB at 2, 1.5 dB at 6)."""
        return cls(step_db=COARSEST_DB * 2 ** (-precision / 2))

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The quantised bands as int16 bytes; ``span`` is ignored."""
        steps: npt.NDArray[np.int16] = np.rint(_band_decibels(audio, self.n_bands) / self.step_db).astype(np.int16)
        return steps.tobytes()


@dataclass(slots=True)
class SimilarKey:
    """A perceptual key with a bounded error: a confident answer is reused for a short time, then recomputed.

    A window gets the key of a reference window if it starts at most ``for_s`` seconds later in the same stream, has
    the same length, and its ``n_bands`` mel powers differ by at most ``within_db`` (root mean square). Otherwise it
    becomes the new reference. The error is bounded by ``least_confidence`` rather than by the distance: only outputs
    with an answer that probable should be stored. On development speech uncertain windows cause nearly all false hits
    of the other perceptual keys.

    The key stores one reference, so use one key per cache. Streams may alternate, which costs hits.
    """

    within_db: float = 1.0
    for_s: float = 0.5
    least_confidence: float = 0.995
    n_bands: int = 16
    name = "similar"
    exact = False
    _reference: tuple[StreamSpan, npt.NDArray[np.float32]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not (self.within_db >= 0 and self.for_s >= 0 and 0 <= self.least_confidence <= 1):
            raise ConfigurationError(
                f"expected within_db and for_s of 0 or more and least_confidence of 0 to 1, got {self}"
            )
        check_integer("n_bands", self.n_bands, least=1, most=MOST_BANDS)

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The span of the reference window; raises ``ConfigurationError`` without a span."""
        wanted = _checked_span(self.name, audio, span)
        decibels = _band_decibels(audio, self.n_bands)
        reference = self._reference
        if reference is None or not self._similar(wanted, decibels, *reference):
            self._reference = reference = wanted, decibels
        return json.dumps(reference[0]).encode()

    def _similar(
        self,
        wanted: StreamSpan,
        decibels: npt.NDArray[np.float32],
        known: StreamSpan,
        known_decibels: npt.NDArray[np.float32],
    ) -> bool:
        later = wanted[1] - known[1]
        if wanted[0] != known[0] or wanted[2] != known[2] or not 0 <= later <= self.for_s * SAMPLE_RATE:
            return False
        return float(np.mean((decibels - known_decibels) ** 2)) <= self.within_db**2


KEYS: dict[str, Callable[[int], Key]] = {
    "rounded": RoundedKey,
    "span": lambda _precision: SpanKey(),
    "logmel": LogMelKey.from_precision,
    "similar": lambda _precision: SimilarKey(),
}


def make_key(name: str, hash_precision: int) -> Key:
    """The key called ``name`` in options and sweeps; raises ``ConfigurationError`` listing the names."""
    if name not in KEYS:
        raise ConfigurationError(f"expected key to be one of {', '.join(KEYS)}, got {shown(name)}")
    return KEYS[name](hash_precision)


def check_integer(name: str, value: int, *, least: int, most: int | None = None) -> None:
    """Raise ``ConfigurationError`` unless the value is an integer in the range."""
    if not isinstance(value, int) or not least <= value <= (_LARGEST if most is None else most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ConfigurationError(f"{name} must be a whole number, {allowed}, got {shown(value)}")


def _checked_span(name: str, audio: FloatArray, span: StreamSpan | None) -> StreamSpan:
    if span is None or not isinstance(span, tuple) or tuple(map(type, span)) != (str, int, int):
        raise ConfigurationError(
            f"the {name!r} key needs precompute_hash(audio, span=(stream, start, length)), got {shown(span)}"
        )
    if span[2] != len(audio):
        raise ConfigurationError(f"span {span} is {span[2]} samples long, but the window has {len(audio)}")
    return span


def _band_decibels(audio: FloatArray, n_bands: int) -> npt.NDArray[np.float32]:
    """Mean power per mel band in decibels, shape (n_bands,), over adjacent mel frames; the last is zero-padded."""
    n_frames = -(-len(audio) // MEL_FRAME)
    padded = audio if len(audio) % MEL_FRAME == 0 else np.pad(audio, (0, n_frames * MEL_FRAME - len(audio)))
    spectrum = np.fft.rfft(padded.reshape(n_frames, MEL_FRAME) * _hann(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    decibels: npt.NDArray[np.float32] = 10 * np.log10(np.maximum(_mel_filters(n_bands) @ power, MEL_FLOOR))
    return decibels


@lru_cache(maxsize=1)
def _hann() -> FloatArray:
    return np.hanning(MEL_FRAME).astype(np.float32)


@lru_cache(maxsize=8)
def _mel_filters(n_bands: int) -> npt.NDArray[np.float32]:
    """Triangles evenly spaced in mel, 2595 log10(1 + f/700); shape (n_bands, MEL_FRAME // 2 + 1)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in MEL_EDGES_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, n_bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(MEL_FRAME, 1 / SAMPLE_RATE)
    left, peak, right = (edges[i : n_bands + i, None] for i in range(3))
    rising, falling = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

"""EncoderCache: encoder outputs kept by key, least recently used out first, with the truth about its hits.

A key that rounds audio can answer one window with another's output, so a hit rate alone says nothing. Every
hit therefore has a cause (``silence``, ``repeat`` or ``near``), and a sample of the hits can be recomputed
and compared (shadow checks), which gives the false-hit rate that belongs beside the hit rate.

Stored values cannot be changed from outside: torch has no read-only flag, so ``put`` keeps a detached copy
of its own and ``get`` hands out a copy of that. For a 2 s window of Whisper base (0.2 MB) a copy costs about
a thousandth of the encode it saves. Owning the memory also makes ``bytes`` true: a slice of a batch does not
keep the batch alive.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    import torch
    from prometheus_client.core import Metric

logger = logging.getLogger("whisperlab")

StreamSpan: TypeAlias = tuple[str, int, int]  # stream id, first sample, number of samples
Cause = Literal["silence", "repeat", "near"]

SILENCE_PEAK = 1e-3  # amplitude, -60 dBFS: 33 steps of 16-bit PCM
LOOKUPS_KEPT = 1000  # newest lookup times that the percentiles are taken from
MAX_PRECISION = 12  # decimals; float32 audio has no more than 10 that mean anything

_LARGEST = 2**63  # that other programs read back from JSON as it was

MEL_FRAME = (
    400  # samples, Whisper's 25 ms; divides a 100 ms hop, so successive windows share their mel frames
)
MEL_EDGES_HZ = (60.0, 7600.0)
MEL_FLOOR = 1e-4  # power 80 dB under a full-scale sine (1e4 under this frame), where Whisper clamps too
COARSEST_DB = 12.0
MOST_BANDS = 40  # narrower bands fall between the bins (40 Hz apart) of a mel frame


class Key(Protocol):
    """Decides which windows share an encoder output."""

    @property
    def name(self) -> str:
        """What statistics and reports call it."""

    @property
    def exact(self) -> bool:
        """Whether equal material can only come from the same audio."""

    @property
    def least_confidence(self) -> float:
        """An output that gave a less probable answer than this is better not kept; 0 keeps all."""

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The bytes that are hashed; two windows with equal bytes and equal length share one entry."""


@dataclass(slots=True, frozen=True)
class RoundedKey:
    """The performance guide's key: all samples, rounded to ``precision`` decimals; -0.0 counts as 0.0.

    One sample of noise across one rounding edge changes it, so on live audio it answers bit-identical windows
    only, until at precision 0 nearly all speech rounds to zero and one entry answers for everything.
    """

    precision: int = 6
    name = "rounded"
    exact = False
    least_confidence = 0.0

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The rounded samples as float32 bytes; ``span`` is not looked at."""
        return (np.round(audio, self.precision) + np.float32(0)).tobytes()


@dataclass(slots=True, frozen=True)
class SpanKey:
    """Where the window lies: stream, first sample, length. Never wrong, as long as stream ids are not reused.

    Answers the same window asked twice: by language-ID, by the decoder, by re-decoding after a switch.
    """

    name = "span"
    exact = True
    least_confidence = 0.0

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The span itself; ``ConfigurationError`` without one or when its length is not the window's."""
        return json.dumps(_checked_span(self.name, audio, span)).encode()


@dataclass(slots=True, frozen=True)
class LogMelKey:
    """A perceptual key: the mean power in ``n_bands`` mel bands, in decibels, in steps of ``step_db``.

    Windows a hop or two apart share most of their audio and fall into one cell, so it hits on live speech. It
    can be wrong: the spectrum barely changes in the first moments after a switch of language. Many bands with
    a wide step did better on speech than few with a narrow one: as many hits, fewer across languages.

    The default of 6 dB, on 340 s of spliced speech in five languages (Whisper base, 3 s windows every 200 ms,
    10 entries): 48 % hits, of which 19 % with another language than the window's own; at 3 dB 22 % and 12 %.
    For scale: from one window to the next the language changed in 11 % of the cases. More entries bring older
    and therefore worse answers.
    """

    step_db: float = 6.0
    n_bands: int = 16
    name = "logmel"
    exact = False
    least_confidence = 0.0

    def __post_init__(self) -> None:
        if not self.step_db > 0:
            raise ConfigurationError(f"step_db must be above 0, got {self.step_db!r}")
        _check_whole("n_bands", self.n_bands, least=1, most=MOST_BANDS)

    @classmethod
    def from_precision(cls, precision: int) -> LogMelKey:
        """The step for a ``hash_precision``: 12 dB at 0, halved by every two more (6 at 2, 1.5 at 6)."""
        return cls(step_db=COARSEST_DB * 2 ** (-precision / 2))

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The quantised bands as int16 bytes; ``span`` is not looked at."""
        steps: npt.NDArray[np.int16] = np.rint(_band_decibels(audio, self.n_bands) / self.step_db).astype(
            np.int16
        )
        return steps.tobytes()


@dataclass(slots=True)
class NearKey:
    """A perceptual key with its error held down: a sure answer stands for the next moments, then is asked anew.

    A window has the key of the last window that was not near enough to the one before: it lies at most ``for_s``
    seconds later in the same stream, is as long, and its ``n_bands`` mean mel powers differ by at most
    ``within_db`` (root mean square). What keeps the error down is not the distance but ``least_confidence``:
    only outputs whose answer was that probable are to be kept. On development speech unsure windows make up
    nearly all false hits of the other perceptual keys.

    Keeps one window in mind, so a key belongs to one cache. Streams may take turns, at the price of hits.
    """

    within_db: float = 1.0
    for_s: float = 0.5
    least_confidence: float = 0.995
    n_bands: int = 16
    name = "near"
    exact = False
    _reference: tuple[StreamSpan, npt.NDArray[np.float32]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not (self.within_db >= 0 and self.for_s >= 0 and 0 <= self.least_confidence <= 1):
            raise ConfigurationError(
                f"expected within_db and for_s of 0 or more and least_confidence of 0 to 1, got {self}"
            )
        _check_whole("n_bands", self.n_bands, least=1, most=MOST_BANDS)

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The span of the window this one is near to, or its own; ``ConfigurationError`` without a span."""
        asked = _checked_span(self.name, audio, span)
        decibels = _band_decibels(audio, self.n_bands)
        reference = self._reference
        if reference is None or not self._near(asked, decibels, *reference):
            self._reference = reference = asked, decibels
        return json.dumps(reference[0]).encode()

    def _near(
        self,
        asked: StreamSpan,
        decibels: npt.NDArray[np.float32],
        known: StreamSpan,
        known_decibels: npt.NDArray[np.float32],
    ) -> bool:
        later = asked[1] - known[1]
        if asked[0] != known[0] or asked[2] != known[2] or not 0 <= later <= self.for_s * SAMPLE_RATE:
            return False
        return float(np.mean((decibels - known_decibels) ** 2)) <= self.within_db**2


KEYS: dict[str, Callable[[int], Key]] = {
    "rounded": RoundedKey,
    "span": lambda _precision: SpanKey(),
    "logmel": LogMelKey.from_precision,
    "near": lambda _precision: NearKey(),
}


def make_key(name: str, hash_precision: int) -> Key:
    """The key called ``name`` in options and sweeps; raises ``ConfigurationError`` listing the names."""
    if name not in KEYS:
        raise ConfigurationError(f"expected key to be one of {', '.join(KEYS)}, got {shown(name)}")
    return KEYS[name](hash_precision)


class AudioHash(bytes):
    """The 32-byte hash of a window that also remembers what the statistics need to know about the audio.

    Compares, hashes and stores as plain bytes. ``identity`` is equal for the same audio only; ``silent``
    tells whether the peak is under -60 dBFS; ``elapsed_ns`` is what making the hash took.
    """

    identity: bytes = b""
    silent: bool = False
    elapsed_ns: int = 0

    @classmethod
    def of(cls, digest: bytes, *, identity: bytes, silent: bool, elapsed_ns: int) -> AudioHash:
        """A hash with its facts."""
        made = cls(digest)
        made.identity, made.silent, made.elapsed_ns = identity, silent, elapsed_ns
        return made


@dataclass(slots=True, frozen=True)
class _Entry:
    value: torch.Tensor  # detached, on the cache's device, memory owned by the cache
    audio: AudioHash  # of the window the value was computed from
    nbytes: int


@dataclass(slots=True)
class _Tally:
    """Everything counted since the cache was made or cleared."""

    hits: Counter[Cause] = field(default_factory=Counter)
    misses: int = 0
    evictions: int = 0
    refused: int = 0
    shadow_checked: int = 0
    false_hits: int = 0
    distance: float = 0.0
    lookup_ns: deque[int] = field(default_factory=lambda: deque(maxlen=LOOKUPS_KEPT))


class EncoderCache:
    """LRU cache of encoder outputs, bounded by entries and by bytes.

    Any thread may call anything at any time; statistics are of one moment. An interrupt costs the entry or the count
    being made, and no other.

    Args:
        max_size: entries at most; 50 is 5 s of language-ID at 10 Hz. 0 keeps nothing.
        device: where values are kept, ``'cpu'`` or ``'cuda'``; without CUDA the latter warns and uses 'cpu'.
        hash_precision: decimals the ``'rounded'`` key keeps, fineness of ``'logmel'``; the others have none.
        max_bytes: bytes of values at most; None leaves only ``max_size``.
        key: a name out of ``KEYS`` or any ``Key``.
        shadow_rate: share of the hits for which ``should_shadow`` asks for a recomputation, 0 to 1.
        context: what else an output depends on (model, precision mode, margin, ...); part of every hash.
        rng, clock: source of chance for ``should_shadow``, and of time in nanoseconds.
    """

    def __init__(
        self,
        max_size: int = 50,
        device: str | torch.device = "cpu",
        hash_precision: int = 6,
        max_bytes: int | None = None,
        key: str | Key = "rounded",
        shadow_rate: float = 0.0,
        context: Iterable[object] = (),
        *,
        rng: random.Random | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        _check_whole("max_size", max_size, least=0)
        _check_whole("hash_precision", hash_precision, least=0, most=MAX_PRECISION)
        if max_bytes is not None:
            _check_whole("max_bytes", max_bytes, least=0)
        check_type("shadow_rate", shadow_rate, float)
        if not 0 <= shadow_rate <= 1:
            raise ConfigurationError(f"shadow_rate must be 0 to 1, got {shown(shadow_rate)}")
        if not isinstance(key, str) and not hasattr(key, "material"):
            raise ConfigurationError(f"key must be one of {', '.join(KEYS)}, or a Key, got {shown(key)}")
        self.max_size, self.max_bytes, self.shadow_rate = max_size, max_bytes, shadow_rate
        self.device = _present_device(device)
        self.key = make_key(key, hash_precision) if isinstance(key, str) else key
        self.hash_precision = hash_precision if isinstance(key, str) else None
        self._prefix = json.dumps([self.key.name, self.hash_precision, *map(str, context)]).encode()
        self._rng = rng or random.Random(0)
        self._chance = self._rng.getstate()
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._tally = _Tally()

    def __len__(self) -> int:
        return len(self._entries)

    def precompute_hash(self, audio: npt.ArrayLike, span: StreamSpan | None = None) -> AudioHash:
        """The SHA-256 of a window under this cache's key: context, length and what the key makes of it.

        ``span`` (stream id, first sample, number of samples) is needed by the ``'span'`` and ``'near'`` keys.
        Raises ``AudioFormatError`` for anything that is not audio, and for an empty window.
        """
        began = self._clock()
        window = as_chunk(audio)
        if not len(window):
            raise AudioFormatError("expected a window with samples, got an empty one")
        material = b"".join((self._prefix, len(window).to_bytes(8, "big"), self.key.material(window, span)))
        digest = hashlib.sha256(material).digest()
        identity = digest if self.key.exact else hashlib.sha256(window.data).digest()
        silent = max(float(window.max()), -float(window.min())) < SILENCE_PEAK
        return AudioHash.of(digest, identity=identity, silent=silent, elapsed_ns=self._clock() - began)

    def get(self, audio: npt.ArrayLike | None = None, audio_hash: bytes | None = None) -> torch.Tensor | None:
        """A copy of the output stored for this window, which becomes the most recently used; None on a miss.

        Takes the audio or its hash, not both. A hash that ``precompute_hash`` did not make says nothing about
        the audio; its hits count as ``near``.
        """
        asked = self._asked(audio, audio_hash)
        began = self._clock()
        with self._lock:
            entry = self._find(asked)
            value = None if entry is None else _copy(entry.value)
            self._tally.lookup_ns.append(asked.elapsed_ns + self._clock() - began)
        return value

    def put(
        self,
        encoder_output: torch.Tensor,
        audio: npt.ArrayLike | None = None,
        audio_hash: bytes | None = None,
    ) -> None:
        """Keep a detached copy of an encoder output on the cache's device, in the dtype it has.

        A value already stored under the hash is replaced. A value larger than ``max_bytes`` is not stored
        and counted as ``refused``.
        """
        asked = self._asked(audio, audio_hash)
        value = _owned(encoder_output, self.device)
        entry = _Entry(value, asked, value.nbytes)
        with self._lock:
            self._store(entry)

    def should_shadow(self) -> bool:
        """Whether this hit is one to recompute and compare; true for a share ``shadow_rate`` of the calls."""
        with self._lock:
            return self._rng.random() < self.shadow_rate

    def record_shadow(self, *, agree: bool, distance: float) -> None:
        """Count one recomputed hit: ``agree`` when the language arg-max is the same, else it was a false hit.

        ``distance`` is between the two posteriors, in the caller's measure; statistics give its mean.
        """
        with self._lock:
            self._tally.shadow_checked += 1
            self._tally.false_hits += not agree
            self._tally.distance += distance

    def clear(self) -> None:
        """Forget all entries and start the statistics, and the choice of shadow checks, anew."""
        with self._lock:
            self._entries.clear()
            self._tally = _Tally()
            self._rng.setstate(self._chance)

    def get_statistics(self) -> dict[str, Any]:
        """Everything counted since the start or ``clear``; JSON-able. Rates nobody has measured are None.

        ``hit_rate`` is 0.0 before the first lookup. ``lookup_ms`` covers hashing, finding and copying, over
        the newest 1,000 lookups.
        """
        with self._lock:
            tally, hits = self._tally, self._tally.hits.total()
            return {
                "size": len(self._entries),
                "max_size": self.max_size,
                "bytes": self._held_bytes(),
                "max_bytes": self.max_bytes,
                "hits": hits,
                "misses": tally.misses,
                "hit_rate": hits / max(hits + tally.misses, 1),
                "evictions": tally.evictions,
                "refused": tally.refused,
                "hits_by_cause": {cause: tally.hits[cause] for cause in get_args(Cause)},
                "lookup_ms": _percentiles_ms(tally.lookup_ns),
                "shadow": _shadow_statistics(tally),
                "key": self.key.name,
                "hash_precision": self.hash_precision,
                "device": str(self.device),
            }

    def collect(self) -> Iterator[Metric]:
        """What a ``prometheus_client`` registry asks of a collector: look-ups by their answer."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        told = self.get_statistics()
        name = "whisperlab_encoder_cache"
        yield CounterMetricFamily(f"{name}_hits", "Look-ups that the encoder cache answered.", told["hits"])
        yield CounterMetricFamily(f"{name}_misses", "Look-ups that it did not answer.", told["misses"])
        yield GaugeMetricFamily(f"{name}_hit_ratio", "Hits / look-ups; 0 before the first.", told["hit_rate"])

    def _repr_html_(self) -> str:
        """What Jupyter shows: how often it answered, how often that was wrong, and what it holds."""
        told = self.get_statistics()
        checked, false = told["shadow"]["checked"], told["shadow"]["false_hit_rate"]
        lookup = told["lookup_ms"]
        return html.facts(
            f"EncoderCache, key {told['key']}",
            {
                "hit rate": f"{html.bar(told['hit_rate'])} {told['hit_rate']:.1%} of "
                f"{told['hits'] + told['misses']:,} look-ups",
                "false hits": f"{false:.1%} of {checked:,} checked" if checked else "none checked",
                "held": f"{told['size']:,} of {told['max_size']:,} entries, {told['bytes'] / 2**20:.1f} MiB",
                "evictions": told["evictions"],
                "hits by cause": told["hits_by_cause"],
                "look-up, ms": lookup,
            },
        )

    def _asked(self, audio: npt.ArrayLike | None, audio_hash: bytes | None) -> AudioHash:
        if (audio is None) == (audio_hash is None):
            given = "neither" if audio is None else "both"
            raise ConfigurationError(f"expected either audio or audio_hash, got {given}")
        if audio is not None:
            return self.precompute_hash(audio)
        if isinstance(audio_hash, AudioHash):
            return audio_hash
        if isinstance(audio_hash, bytes):
            return AudioHash(audio_hash)
        raise ConfigurationError(f"expected audio_hash as bytes, got {type(audio_hash).__name__}")

    def _find(self, asked: AudioHash) -> _Entry | None:
        """The entry, moved to the recent end, with the hit or miss counted. The lock is held."""
        entry = self._entries.get(asked)
        if entry is None:
            self._tally.misses += 1
            return None
        self._entries.move_to_end(asked)
        self._tally.hits[_cause(asked, entry.audio)] += 1
        return entry

    def _store(self, entry: _Entry) -> None:
        """Insert at the recent end and evict from the other until both bounds hold. The lock is held."""
        self._entries.pop(entry.audio, None)
        limit = float("inf") if self.max_bytes is None else self.max_bytes
        if self.max_size == 0 or entry.nbytes > limit:
            self._tally.refused += 1
            return
        self._entries[entry.audio] = entry
        while len(self._entries) > self.max_size or (limit < float("inf") and self._held_bytes() > limit):
            self._entries.popitem(last=False)
            self._tally.evictions += 1

    def _held_bytes(self) -> int:
        """Added up anew, in a tenth of a microsecond an entry: a running sum would be wrong after an interrupt."""
        return sum(entry.nbytes for entry in self._entries.values())


def _cause(asked: AudioHash, stored: AudioHash) -> Cause:
    """Why a hit happened. Speech answered by a silent window, or silence by speech, is ``near``."""
    if asked.silent and stored.silent:
        return "silence"
    return "repeat" if asked.identity and asked.identity == stored.identity else "near"


def _owned(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ConfigurationError(f"expected encoder_output as a torch.Tensor, got {type(value).__name__}")
    return _copy(value.detach().to(device).contiguous())


def _copy(value: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor's copy, made by one thread when it is on the CPU.

    ``clone`` shares 0.2 MB out among OpenMP threads: on two busy cores its 95th percentile was 40 ms, against
    40 us for this.
    """
    import torch

    if value.device.type != "cpu" or not value.numel():
        return value.clone()
    raw = value.reshape(-1).view(torch.uint8).numpy().copy()
    return torch.from_numpy(raw).view(value.dtype).view(value.shape)


def _present_device(device: str | torch.device) -> torch.device:
    import torch

    if not isinstance(device, str | torch.device):  # a number would be taken for a GPU
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        logger.warning(
            "the encoder cache was asked to keep values on %s; no CUDA here, using the CPU", wanted
        )
        return torch.device("cpu")
    return wanted


def _check_whole(name: str, value: int, *, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or not least <= value <= (_LARGEST if most is None else most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ConfigurationError(f"{name} must be a whole number, {allowed}, got {shown(value)}")


def _percentiles_ms(lookup_ns: deque[int]) -> dict[str, float | int | None]:
    if not lookup_ns:
        return {"p50": None, "p95": None, "n": 0}
    p50, p95 = np.percentile(list(lookup_ns), (50, 95)) / 1e6
    return {"p50": float(p50), "p95": float(p95), "n": len(lookup_ns)}


def _shadow_statistics(tally: _Tally) -> dict[str, float | int | None]:
    checked = tally.shadow_checked
    return {
        "checked": checked,
        "false_hits": tally.false_hits,
        "false_hit_rate": tally.false_hits / checked if checked else None,
        "mean_distance": tally.distance / checked if checked else None,
    }


def _checked_span(name: str, audio: FloatArray, span: StreamSpan | None) -> StreamSpan:
    if span is None or not isinstance(span, tuple) or tuple(map(type, span)) != (str, int, int):
        raise ConfigurationError(
            f"the {name!r} key needs precompute_hash(audio, span=(stream, start, length)), got {shown(span)}"
        )
    if span[2] != len(audio):
        raise ConfigurationError(f"span {span} is {span[2]} samples long, but the window has {len(audio)}")
    return span


def _band_decibels(audio: FloatArray, n_bands: int) -> npt.NDArray[np.float32]:
    decibels: npt.NDArray[np.float32] = 10 * np.log10(np.maximum(_band_powers(audio, n_bands), MEL_FLOOR))
    return decibels


def _band_powers(audio: FloatArray, n_bands: int) -> npt.NDArray[np.float32]:
    """Mean power per mel band, shape (n_bands,), over mel frames side by side, the last one zero-filled."""
    n_frames = -(-len(audio) // MEL_FRAME)
    padded = audio if len(audio) % MEL_FRAME == 0 else np.pad(audio, (0, n_frames * MEL_FRAME - len(audio)))
    spectrum = np.fft.rfft(padded.reshape(n_frames, MEL_FRAME) * _hann(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    bands: npt.NDArray[np.float32] = _mel_filters(n_bands) @ power
    return bands


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

"""EncoderCache: an LRU cache of encoder outputs that reports how many of its hits were wrong, and its keys.

A key that rounds audio can return the output of another window. Every hit therefore has a cause (``silence``,
``repeat`` or ``similar``). A sample of the hits can be recomputed and compared (shadow checks); this gives the
false-hit rate, which belongs beside every hit rate.

Callers cannot change stored values: torch has no read-only flag, so ``put`` stores a detached copy and ``get`` returns
a copy of it, at about a thousandth of the cost of the encode. ``bytes`` is exact: a slice does not keep a batch.
"""

import hashlib
import json
import math
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.audio_arrays import MEL_BANDS, FloatArray, as_chunk, band_decibels
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.log import logger
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.validation import check_range, shown

if TYPE_CHECKING:
    import torch
    from prometheus_client.core import Metric


StreamSpan: TypeAlias = tuple[str, int, int]  # stream id, first sample, number of samples
Cause = Literal["silence", "repeat", "similar"]

SILENCE_PEAK = 1e-3  # amplitude, -60 dBFS: 33 steps of 16-bit PCM
LOOKUPS_KEPT = 1000  # newest lookup times that the percentiles are computed from
MAX_PRECISION = 12  # decimals; float32 audio has at most 10 significant ones


class Key(Protocol):
    """Decides which windows share an encoder output."""

    __slots__ = ()
    name: str  # in statistics and reports
    exact: bool = False  # whether equal material implies the same audio
    least_confidence: float = 0.0  # outputs with a less probable answer should not be stored

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        """The bytes to hash. Two windows with equal bytes and equal length share one entry."""


@dataclass(slots=True, frozen=True)
class RoundedKey(Key):
    """The performance guide's key: all samples rounded to ``precision`` decimals; -0.0 equals 0.0."""

    precision: int = 6
    name = "rounded"

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        return (np.round(audio, self.precision) + np.float32(0)).tobytes()


@dataclass(slots=True, frozen=True)
class SpanKey(Key):
    """The position of the window: stream, first sample, length. Hits when the same window is needed twice."""

    name = "span"
    exact = True

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        return json.dumps(_checked_span(self.name, audio, span)).encode()


@dataclass(slots=True)
class SimilarKey(Key):
    """A perceptual key with a bounded error: a confident answer is reused for a short time, then recomputed.

    A window gets the key of a reference window if it starts at most ``for_s`` seconds later in the same stream, has
    the same length, and its ``n_bands`` mel powers differ by at most ``within_db`` (root mean square). Otherwise it
    becomes the new reference. The key stores one reference, so use one key per cache.

    Uncertain windows cause nearly all false hits of a perceptual key: hence ``least_confidence``.
    """

    within_db: float = 1.0
    for_s: float = 0.5
    least_confidence: float = 0.995
    n_bands: int = 16
    name = "similar"
    _reference: tuple[StreamSpan, FloatArray] = field(
        default=(("", 0, 0), np.zeros(0, np.float32)), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_range("within_db", self.within_db, float, 0)
        check_range("for_s", self.for_s, float, 0)
        check_range("least_confidence", self.least_confidence, float, 0, 1)
        check_range("n_bands", self.n_bands, int, 1, MEL_BANDS)

    def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
        stream, start, n = wanted = _checked_span(self.name, audio, span)
        decibels = band_decibels(audio, self.n_bands)
        reference, levels = self._reference  # read once: another thread may replace it
        recent = 0 <= start - reference[1] <= self.for_s * SAMPLE_RATE and (stream, n) == (reference[0], reference[2])
        if not recent or float(np.mean((decibels - levels) ** 2)) > self.within_db**2:
            self._reference, reference = (wanted, decibels), wanted
        return json.dumps(reference).encode()


KEYS: dict[str, Callable[[int], Key]] = {  # by name; they get the ``hash_precision``
    "rounded": RoundedKey,
    "span": lambda _precision: SpanKey(),
    "similar": lambda _precision: SimilarKey(),
}


def make_key(name: str, hash_precision: int) -> Key:
    """The key called ``name`` in options and sweeps; raises ``ConfigurationError`` listing the names."""
    if name not in KEYS:
        raise ConfigurationError(f"expected key to be one of {', '.join(KEYS)}, got {shown(name)}")
    return KEYS[name](hash_precision)


def _checked_span(name: str, audio: FloatArray, span: StreamSpan | None) -> StreamSpan:
    if span is None or not isinstance(span, tuple) or tuple(map(type, span)) != (str, int, int):
        needed = "precompute_hash(audio, span=(stream, start, length))"
        raise ConfigurationError(f"the {name!r} key needs {needed}, got {shown(span)}")
    if span[2] != len(audio):
        raise ConfigurationError(f"span {span} is {span[2]} samples long, but the window has {len(audio)}")
    return span


class AudioHash(bytes):
    """The 32-byte hash of a window, with the facts about the audio that the statistics need."""

    identity: bytes = b""  # equal for the same audio only
    silent: bool = False  # the peak is below -60 dBFS
    elapsed_ns: int = 0  # time that the hash took


@dataclass(slots=True, frozen=True)
class _Entry:
    value: "torch.Tensor"  # detached, on the cache's device, memory owned by the cache
    audio: AudioHash  # of the window the value was computed from


@dataclass(slots=True)
class _Counts:
    """All counts since the cache was created or cleared."""

    hits: Counter[Cause] = field(default_factory=Counter)
    misses: int = 0
    evictions: int = 0
    refused: int = 0
    shadow_checked: int = 0
    false_hits: int = 0
    distance: float = 0.0
    lookup_ns: deque[int] = field(default_factory=lambda: deque(maxlen=LOOKUPS_KEPT))


class EncoderCache:
    """LRU cache of encoder outputs, bounded by entries and by bytes. All methods are thread-safe.

    An interrupt loses at most the entry or the count being written.

    Args:
        max_size: maximum number of entries; 50 is 5 s of language-ID at 10 Hz. 0 stores nothing.
        device: where values are stored, ``'cpu'`` or ``'cuda'``. Without CUDA the latter warns and uses the CPU.
        hash_precision: decimals of the ``'rounded'`` key; other keys ignore it.
        key: a name from ``KEYS`` or any `Key` object.
        shadow_rate: share of the hits, 0 to 1, for which ``should_shadow`` returns true.
        context: everything else an output depends on (model, precision mode, margin); part of every hash.
    """

    def __init__(
        self,
        max_size: int = 50,
        device: "str | torch.device" = "cpu",
        hash_precision: int = 6,
        max_bytes: int | None = None,  # of all values
        key: str | Key = "rounded",
        shadow_rate: float = 0.0,
        context: Iterable[object] = (),
        *,
        rng: random.Random | None = None,  # of `should_shadow`; default: one that the first audio looked up seeds
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        check_range("max_size", max_size, int, 0)
        check_range("hash_precision", hash_precision, int, 0, MAX_PRECISION)
        check_range("max_bytes", max_bytes, int | None, 0)
        check_range("shadow_rate", shadow_rate, float, 0, 1)
        if not isinstance(key, str) and not hasattr(key, "material"):
            raise ConfigurationError(f"key must be one of {', '.join(KEYS)}, or a Key, got {shown(key)}")
        self.max_size, self.max_bytes, self.shadow_rate = max_size, max_bytes, shadow_rate
        self.device = _present_device(device)
        self.key = make_key(key, hash_precision) if isinstance(key, str) else key
        self.hash_precision = hash_precision if isinstance(key, str) else None
        self._prefix = json.dumps([self.key.name, self.hash_precision, *map(str, context)]).encode()
        self._rng, self._seeded = rng or random.Random(0), rng is not None
        self._chance = self._rng.getstate()
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._counts = _Counts()

    def __len__(self) -> int:
        return len(self._entries)

    def precompute_hash(self, audio: npt.ArrayLike, span: StreamSpan | None = None) -> AudioHash:
        """SHA-256 over context, length and key's material; some keys need ``span``. Raises ``AudioFormatError``."""
        began = self._clock()
        window = as_chunk(audio)
        if not len(window):
            raise AudioFormatError("expected a window with samples, got an empty one")
        material = b"".join((self._prefix, len(window).to_bytes(8, "big"), self.key.material(window, span)))
        digest = hashlib.sha256(material).digest()
        identity = digest if self.key.exact else hashlib.sha256(window.data).digest()
        silent = max(float(window.max()), -float(window.min())) < SILENCE_PEAK
        made = AudioHash(digest)
        made.identity, made.silent, made.elapsed_ns = identity, silent, self._clock() - began
        return made

    def get(self, audio: npt.ArrayLike | None = None, audio_hash: bytes | None = None) -> "torch.Tensor | None":
        """A copy of the stored output, or None on a miss. A hit makes the entry the most recently used.

        Give either the audio or its hash. Hits of a hash that ``precompute_hash`` did not make count as ``similar``.
        """
        wanted = self._hash_of(audio, audio_hash)
        began = self._clock()
        with self._lock:
            if not (self._seeded or self._counts.lookup_ns):  # or every recording would have the same choices
                self._rng.seed(wanted.identity or wanted)
            entry = self._entries.get(wanted)
            if entry is None:
                self._counts.misses += 1
            else:
                self._entries.move_to_end(wanted)
                self._counts.hits[_cause(wanted, entry.audio)] += 1
            value = None if entry is None else _copy(entry.value)
            self._counts.lookup_ns.append(wanted.elapsed_ns + self._clock() - began)
        return value

    def put(
        self, encoder_output: "torch.Tensor", audio: npt.ArrayLike | None = None, audio_hash: bytes | None = None
    ) -> None:
        """Store a detached copy of an output; one larger than ``max_bytes`` is not stored and counts as ``refused``."""
        import torch

        wanted = self._hash_of(audio, audio_hash)
        if not isinstance(encoder_output, torch.Tensor):
            raise ConfigurationError(f"expected encoder_output as a torch.Tensor, got {type(encoder_output).__name__}")
        value = _copy(encoder_output.detach().to(self.device).contiguous())
        limit = math.inf if self.max_bytes is None else self.max_bytes
        with self._lock:
            self._entries.pop(wanted, None)
            if self.max_size == 0 or value.nbytes > limit:
                self._counts.refused += 1
                return
            self._entries[wanted] = _Entry(value, wanted)
            while len(self._entries) > self.max_size or (limit < math.inf and self._held_bytes() > limit):
                self._entries.popitem(last=False)
                self._counts.evictions += 1

    def should_shadow(self) -> bool:
        """Whether to recompute and compare this hit: a share ``shadow_rate``, chosen anew in every other recording."""
        with self._lock:
            return self._rng.random() < self.shadow_rate

    def record_shadow(self, *, agree: bool, distance: float) -> None:
        """Count one recomputed hit: whether the language is the same, and the distance of the posteriors."""
        with self._lock:
            self._counts.shadow_checked += 1
            self._counts.false_hits += not agree
            self._counts.distance += distance

    def clear(self) -> None:
        """Remove all entries; reset the statistics and the random choice of shadow checks."""
        with self._lock:
            self._entries.clear()
            self._counts = _Counts()
            self._rng.setstate(self._chance)

    def get_statistics(self) -> dict[str, Any]:
        """All counts since construction or ``clear``, JSON-able. ``hit_rate`` is 0.0 before the first lookup.

        ``lookup_ms`` is the time to hash, find and copy, over the newest ``n`` lookups; None without any. ``shadow``
        has the recomputed hits and the mean distance of their posteriors; its rates are None without checks.
        """
        with self._lock:
            counts, hits, checked = self._counts, self._counts.hits.total(), self._counts.shadow_checked
            times = list(counts.lookup_ns)
            p50, p95 = (np.percentile(times, (50, 95)) / 1e6).tolist() if times else (None, None)
            shadow = {"checked": checked, "false_hits": counts.false_hits}
            parts = {"false_hit_rate": counts.false_hits, "mean_distance": counts.distance}
            rates = {name: part / checked if checked else None for name, part in parts.items()}
            return {
                "size": len(self._entries),
                "max_size": self.max_size,
                "bytes": self._held_bytes(),
                "max_bytes": self.max_bytes,
                "hits": hits,
                "misses": counts.misses,
                "hit_rate": hits / max(hits + counts.misses, 1),
                "evictions": counts.evictions,
                "refused": counts.refused,
                "hits_by_cause": {cause: counts.hits[cause] for cause in get_args(Cause)},
                "lookup_ms": {"p50": p50, "p95": p95, "n": len(times)},
                "shadow": {**shadow, **rates},
                "key": self.key.name,
                "hash_precision": self.hash_precision,
                "device": str(self.device),
            }

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found, name = self.get_statistics(), "whisperlab_encoder_cache"
        yield CounterMetricFamily(f"{name}_hits", "Look-ups that the encoder cache answered.", found["hits"])
        yield CounterMetricFamily(f"{name}_misses", "Look-ups that it did not answer.", found["misses"])
        yield GaugeMetricFamily(f"{name}_hit_ratio", "Hits / look-ups; 0 before the first.", found["hit_rate"])

    def _repr_html_(self) -> str:
        return html.facts("EncoderCache", self.get_statistics())

    def _hash_of(self, audio: npt.ArrayLike | None, audio_hash: bytes | None) -> AudioHash:
        if (audio is None) == (audio_hash is None):
            given = "neither" if audio is None else "both"
            raise ConfigurationError(f"expected either audio or audio_hash, got {given}")
        if audio is not None:
            return self.precompute_hash(audio)
        if not isinstance(audio_hash, bytes):
            raise ConfigurationError(f"expected audio_hash as bytes, got {type(audio_hash).__name__}")
        return audio_hash if isinstance(audio_hash, AudioHash) else AudioHash(audio_hash)

    def _held_bytes(self) -> int:
        """Summed anew: a running sum would be wrong after an interrupt."""
        return sum(entry.value.nbytes for entry in self._entries.values())


def _cause(wanted: AudioHash, stored: AudioHash) -> Cause:
    """The cause of a hit. Speech that hits a silent window, or silence that hits speech, is ``similar``."""
    if wanted.silent and stored.silent:
        return "silence"
    return "repeat" if wanted.identity and wanted.identity == stored.identity else "similar"


def _copy(value: "torch.Tensor") -> "torch.Tensor":
    """A copy of a contiguous tensor, on the CPU in one thread: ``clone`` waits for OpenMP threads on busy cores."""
    import torch

    if value.device.type != "cpu" or not value.numel():
        return value.clone()
    raw = value.reshape(-1).view(torch.uint8).numpy().copy()
    return torch.from_numpy(raw).view(value.dtype).view(value.shape)


def _present_device(device: "str | torch.device") -> "torch.device":
    import torch

    try:  # torch would read a number as a GPU index
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        logger.warning("the encoder cache cannot store values on %s: CUDA is missing; using the CPU", wanted)
        return torch.device("cpu")
    return wanted

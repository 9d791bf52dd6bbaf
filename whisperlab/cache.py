"""EncoderCache: an LRU cache of encoder outputs that reports how many of its hits were wrong.

A key that rounds audio can return the output of another window, so a hit rate alone says nothing. Every hit therefore
has a cause (``silence``, ``repeat`` or ``similar``). A sample of the hits can be recomputed and compared (shadow
checks); this gives the false-hit rate, which belongs beside every hit rate.

Callers cannot change stored values: torch has no read-only flag, so ``put`` stores a detached copy and ``get`` returns
a copy of it. For a 2 s window of Whisper base (0.2 MB) a copy costs about a thousandth of the encode it saves. Because
the cache owns the memory, ``bytes`` is exact: a slice of a batch does not keep the batch alive.
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
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from whisperlab.util import html
from whisperlab.util.audio_arrays import as_chunk
from whisperlab.util.cache_keys import (
    KEYS,
    Key,
    LogMelKey,
    RoundedKey,
    SimilarKey,
    SpanKey,
    StreamSpan,
    check_integer,
    make_key,
)
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    import torch
    from prometheus_client.core import Metric

__all__ = [
    "KEYS",
    "AudioHash",
    "CacheStatistics",
    "EncoderCache",
    "Key",
    "LogMelKey",
    "RoundedKey",
    "SimilarKey",
    "SpanKey",
    "StreamSpan",
    "make_key",
]

logger = logging.getLogger("whisperlab")

Cause = Literal["silence", "repeat", "similar"]

SILENCE_PEAK = 1e-3  # amplitude, -60 dBFS: 33 steps of 16-bit PCM
LOOKUPS_KEPT = 1000  # newest lookup times that the percentiles are computed from
MAX_PRECISION = 12  # decimals; float32 audio has at most 10 significant ones


class LookupTimes(TypedDict):
    """Percentiles in milliseconds over the newest ``n`` lookups; None without any."""

    p50: float | None
    p95: float | None
    n: int


class ShadowStatistics(TypedDict):
    """Recomputed hits: how many were false, and the mean distance of the posteriors; None without any."""

    checked: int
    false_hits: int
    false_hit_rate: float | None
    mean_distance: float | None


class CacheStatistics(TypedDict):
    """What `EncoderCache.get_statistics` returns."""

    size: int
    max_size: int
    bytes: int
    max_bytes: int | None
    hits: int
    misses: int
    hit_rate: float
    evictions: int
    refused: int
    hits_by_cause: dict[Cause, int]
    lookup_ms: LookupTimes
    shadow: ShadowStatistics
    key: str
    hash_precision: int | None
    device: str


class AudioHash(bytes):
    """The 32-byte hash of a window, with the facts about the audio that the statistics need.

    Compares, hashes and stores as plain bytes. ``identity`` is equal for the same audio only; ``silent`` is true if
    the peak is below -60 dBFS; ``elapsed_ns`` is the time the hash took.
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
    """LRU cache of encoder outputs, bounded by entries and by bytes.

    All methods are thread-safe, and statistics are a consistent snapshot. An interrupt loses at most the entry or the
    count being written.

    Args:
        max_size: maximum number of entries; 50 is 5 s of language-ID at 10 Hz. 0 stores nothing.
        device: where values are stored, ``'cpu'`` or ``'cuda'``. Without CUDA the latter warns and uses the CPU.
        hash_precision: decimals of the ``'rounded'`` key, or fineness of ``'logmel'``; other keys ignore it.
        max_bytes: maximum bytes of all values; None for no limit.
        key: a name from ``KEYS`` or any `Key` object.
        shadow_rate: share of the hits, 0 to 1, for which ``should_shadow`` returns true.
        context: everything else an output depends on (model, precision mode, margin); part of every hash.
        rng: random source of ``should_shadow``.
        clock: time in nanoseconds.

    >>> import torch
    >>> cache, window = EncoderCache(), np.zeros(16_000, np.float32)
    >>> cache.get(window)
    >>> cache.put(torch.ones(2), window)
    >>> cache.get(window)
    tensor([1., 1.])
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
        check_integer("max_size", max_size, least=0)
        check_integer("hash_precision", hash_precision, least=0, most=MAX_PRECISION)
        if max_bytes is not None:
            check_integer("max_bytes", max_bytes, least=0)
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
        self._counts = _Counts()

    def __len__(self) -> int:
        return len(self._entries)

    def precompute_hash(self, audio: npt.ArrayLike, span: StreamSpan | None = None) -> AudioHash:
        """SHA-256 over the context, the length of the window, and the key's material.

        The ``'span'`` and ``'similar'`` keys need ``span`` (stream id, first sample, number of samples). Raises
        ``AudioFormatError`` for an empty window and for anything that is not audio.
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
        """A copy of the stored output, or None on a miss. A hit makes the entry the most recently used.

        Give either the audio or its hash. Hits of a hash that ``precompute_hash`` did not make count as ``similar``,
        because such a hash has no facts about the audio.
        """
        wanted = self._hash_of(audio, audio_hash)
        began = self._clock()
        with self._lock:
            entry = self._find(wanted)
            value = None if entry is None else _copy(entry.value)
            self._counts.lookup_ns.append(wanted.elapsed_ns + self._clock() - began)
        return value

    def put(
        self, encoder_output: torch.Tensor, audio: npt.ArrayLike | None = None, audio_hash: bytes | None = None
    ) -> None:
        """Store a detached copy of an encoder output on the cache's device; its dtype is kept.

        Replaces a value stored under the same hash. A value larger than ``max_bytes`` is not stored and counts as
        ``refused``.
        """
        wanted = self._hash_of(audio, audio_hash)
        value = _owned(encoder_output, self.device)
        entry = _Entry(value, wanted, value.nbytes)
        with self._lock:
            self._store(entry)

    def should_shadow(self) -> bool:
        """Whether to recompute and compare this hit; true for a share ``shadow_rate`` of the calls."""
        with self._lock:
            return self._rng.random() < self.shadow_rate

    def record_shadow(self, *, agree: bool, distance: float) -> None:
        """Count one recomputed hit. It was a false hit unless ``agree``: the language arg-max is the same.

        ``distance`` is the distance of the two posteriors in the caller's measure; statistics contain the mean.
        """
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

    def get_statistics(self) -> CacheStatistics:
        """All counts since construction or ``clear``, JSON-able. None stands for a rate without measurements.

        ``hit_rate`` is 0.0 before the first lookup. ``lookup_ms`` covers hashing, finding and copying, over the
        newest 1,000 lookups.
        """
        with self._lock:
            counts, hits = self._counts, self._counts.hits.total()
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
                "lookup_ms": _percentiles_ms(counts.lookup_ns),
                "shadow": _shadow_statistics(counts),
                "key": self.key.name,
                "hash_precision": self.hash_precision,
                "device": str(self.device),
            }

    def collect(self) -> Iterator[Metric]:
        """Hits, misses and hit ratio, as a ``prometheus_client`` registry collects them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = self.get_statistics()
        name = "whisperlab_encoder_cache"
        yield CounterMetricFamily(f"{name}_hits", "Look-ups that the encoder cache answered.", found["hits"])
        yield CounterMetricFamily(f"{name}_misses", "Look-ups that it did not answer.", found["misses"])
        yield GaugeMetricFamily(f"{name}_hit_ratio", "Hits / look-ups; 0 before the first.", found["hit_rate"])

    def _repr_html_(self) -> str:
        """HTML for Jupyter: hit rate, false-hit rate and contents."""
        found = self.get_statistics()
        checked, false = found["shadow"]["checked"], found["shadow"]["false_hit_rate"]
        lookup = found["lookup_ms"]
        return html.facts(
            f"EncoderCache, key {found['key']}",
            {
                "hit rate": f"{html.bar(found['hit_rate'])} {found['hit_rate']:.1%} of "
                f"{found['hits'] + found['misses']:,} look-ups",
                "false hits": f"{false:.1%} of {checked:,} checked" if checked else "none checked",
                "held": f"{found['size']:,} of {found['max_size']:,} entries, {found['bytes'] / 2**20:.1f} MiB",
                "evictions": found["evictions"],
                "hits by cause": found["hits_by_cause"],
                "look-up, ms": lookup,
            },
        )

    def _hash_of(self, audio: npt.ArrayLike | None, audio_hash: bytes | None) -> AudioHash:
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

    def _find(self, wanted: AudioHash) -> _Entry | None:
        """Find the entry, make it the most recently used and count the hit or miss. The caller holds the lock."""
        entry = self._entries.get(wanted)
        if entry is None:
            self._counts.misses += 1
            return None
        self._entries.move_to_end(wanted)
        self._counts.hits[_cause(wanted, entry.audio)] += 1
        return entry

    def _store(self, entry: _Entry) -> None:
        """Insert as the most recent and evict the oldest until both bounds hold. The caller holds the lock."""
        self._entries.pop(entry.audio, None)
        limit = float("inf") if self.max_bytes is None else self.max_bytes
        if self.max_size == 0 or entry.nbytes > limit:
            self._counts.refused += 1
            return
        self._entries[entry.audio] = entry
        while len(self._entries) > self.max_size or (limit < float("inf") and self._held_bytes() > limit):
            self._entries.popitem(last=False)
            self._counts.evictions += 1

    def _held_bytes(self) -> int:
        """Summed anew at 0.1 µs per entry: a running sum would be wrong after an interrupt."""
        return sum(entry.nbytes for entry in self._entries.values())


def _cause(wanted: AudioHash, stored: AudioHash) -> Cause:
    """The cause of a hit. Speech that hits a silent window, or silence that hits speech, is ``similar``."""
    if wanted.silent and stored.silent:
        return "silence"
    return "repeat" if wanted.identity and wanted.identity == stored.identity else "similar"


def _owned(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ConfigurationError(f"expected encoder_output as a torch.Tensor, got {type(value).__name__}")
    return _copy(value.detach().to(device).contiguous())


def _copy(value: torch.Tensor) -> torch.Tensor:
    """A copy of a contiguous tensor, made by a single thread on the CPU.

    ``clone`` splits 0.2 MB among OpenMP threads: on two busy cores its 95th percentile was 40 ms; this takes 40 µs.
    """
    import torch

    if value.device.type != "cpu" or not value.numel():
        return value.clone()
    raw = value.reshape(-1).view(torch.uint8).numpy().copy()
    return torch.from_numpy(raw).view(value.dtype).view(value.shape)


def _present_device(device: str | torch.device) -> torch.device:
    import torch

    if not isinstance(device, str | torch.device):  # torch would read a number as a GPU index
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"expected device 'cpu' or 'cuda', got {shown(device)}")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        logger.warning("the encoder cache cannot store values on %s: CUDA is missing; using the CPU", wanted)
        return torch.device("cpu")
    return wanted


def _percentiles_ms(lookup_ns: deque[int]) -> LookupTimes:
    if not lookup_ns:
        return {"p50": None, "p95": None, "n": 0}
    p50, p95 = np.percentile(list(lookup_ns), (50, 95)) / 1e6
    return {"p50": float(p50), "p95": float(p95), "n": len(lookup_ns)}


def _shadow_statistics(counts: _Counts) -> ShadowStatistics:
    checked = counts.shadow_checked
    return {
        "checked": checked,
        "false_hits": counts.false_hits,
        "false_hit_rate": counts.false_hits / checked if checked else None,
        "mean_distance": counts.distance / checked if checked else None,
    }

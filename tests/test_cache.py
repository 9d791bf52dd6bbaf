"""EncoderCache: a least-recently-used cache that never lies about what its hits were."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from whisperlab import EncoderCache
from whisperlab.cache import KEYS, AudioHash, SimilarKey, StreamSpan
from whisperlab.util.audio_arrays import FloatArray, band_decibels
from whisperlab.util.errors import AudioFormatError, ConfigurationError

RATE = 16_000


def tone(hertz: float, n_samples: int = 2 * RATE, level: float = 0.3) -> FloatArray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(n_samples) / RATE)).astype(np.float32)


def noise(seed: int, n_samples: int = 2 * RATE, level: float = 0.1) -> FloatArray:
    return (level * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def value(fill: float = 1.0, n: int = 4) -> torch.Tensor:
    return torch.full((n,), fill)


# The law: the cache answers as a plain list of pairs would.


@dataclass
class ListModel:
    """The obvious cache: pairs in a list, the least recently used first."""

    max_size: int
    max_bytes: int | None

    def __post_init__(self) -> None:
        self.pairs: list[tuple[int, list[float]]] = []
        self.hits = self.misses = self.evictions = self.refused = 0

    @property
    def nbytes(self) -> int:
        return sum(4 * len(stored) for _, stored in self.pairs)

    def get(self, window: int) -> list[float] | None:
        for index, (name, stored) in enumerate(self.pairs):
            if name == window:
                self.pairs.append(self.pairs.pop(index))
                self.hits += 1
                return stored
        self.misses += 1
        return None

    def put(self, window: int, stored: list[float]) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0] != window]
        if self.max_size == 0 or (self.max_bytes is not None and 4 * len(stored) > self.max_bytes):
            self.refused += 1
            return
        self.pairs.append((window, stored))
        while len(self.pairs) > self.max_size or (self.max_bytes is not None and self.nbytes > self.max_bytes):
            self.pairs.pop(0)
            self.evictions += 1


WINDOWS = [noise(seed, 8) for seed in range(6)]
windows = st.integers(0, len(WINDOWS) - 1)


class CacheAgainstList(RuleBasedStateMachine):
    @initialize(max_size=st.integers(0, 4), max_bytes=st.none() | st.integers(0, 64))
    def make(self, max_size: int, max_bytes: int | None) -> None:
        self.cache = EncoderCache(max_size, max_bytes=max_bytes)
        self.model = ListModel(max_size, max_bytes)
        self.puts = 0.0

    @rule(window=windows, n=st.integers(1, 8), hashed=st.booleans())
    def put(self, window: int, n: int, hashed: bool) -> None:
        self.puts += 1
        stored = [self.puts] * n
        audio = WINDOWS[window]
        if hashed:
            self.cache.put(torch.tensor(stored), audio_hash=self.cache.precompute_hash(audio))
        else:
            self.cache.put(torch.tensor(stored), audio)
        self.model.put(window, stored)

    @rule(window=windows, hashed=st.booleans())
    def get(self, window: int, hashed: bool) -> None:
        audio = WINDOWS[window]
        found = self.cache.get(audio_hash=self.cache.precompute_hash(audio)) if hashed else self.cache.get(audio)
        assert (None if found is None else found.tolist()) == self.model.get(window)

    @precondition(lambda self: self.model.pairs)
    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model = ListModel(self.model.max_size, self.model.max_bytes)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "cache"):
            return
        counted = self.cache.get_statistics()
        model = self.model
        assert (counted["size"], counted["bytes"]) == (len(model.pairs), model.nbytes)
        assert (counted["hits"], counted["misses"]) == (model.hits, model.misses)
        assert (counted["evictions"], counted["refused"]) == (model.evictions, model.refused)
        assert sum(counted["hits_by_cause"].values()) == counted["hits"]


class TestCacheAgainstList(CacheAgainstList.TestCase):
    settings = settings(max_examples=60, stateful_step_count=12, deadline=None)


@pytest.mark.slow
class TestCacheAgainstListAtLength(CacheAgainstList.TestCase):
    settings = settings(max_examples=5000, stateful_step_count=12, deadline=None)


# The calls of the guide.


def test_the_guides_calls_work_as_written_there() -> None:
    cache = EncoderCache(max_size=50, device="cpu")
    audio = noise(0)
    audio_hash = cache.precompute_hash(audio)
    assert cache.get(audio_hash=audio_hash) is None
    cache.put(value(7), audio_hash=audio_hash)
    assert torch.equal(cache.get(audio), value(7))
    assert cache.get_statistics()["hit_rate"] == 0.5


@pytest.mark.parametrize("both", [True, False])
def test_audio_and_hash_together_or_neither_is_a_value_error(both: bool) -> None:
    cache = EncoderCache()
    arguments = {"audio": noise(0), "audio_hash": cache.precompute_hash(noise(0))} if both else {}
    word = "both" if both else "neither"
    with pytest.raises(ValueError, match=word):
        cache.get(**arguments)
    with pytest.raises(ValueError, match=word):
        cache.put(value(), **arguments)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"max_size": -1}, "max_size.*-1"),
        ({"max_size": 2.5}, "max_size.*2.5"),
        ({"max_bytes": -8}, "max_bytes.*-8"),
        ({"hash_precision": -1}, "hash_precision.*0 to 12.*-1"),
        ({"hash_precision": 13}, "hash_precision.*13"),
        ({"shadow_rate": 1.5}, "shadow_rate.*1.5"),
        ({"key": "md5"}, "rounded, span, similar.*'md5'"),
        ({"device": "abacus"}, "abacus"),
        ({"device": "meta"}, "meta"),
    ],
)
def test_an_option_that_cannot_work_is_refused_by_name_and_value(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EncoderCache(**options)


def test_values_and_hashes_of_other_types_are_refused() -> None:
    cache = EncoderCache()
    with pytest.raises(ConfigurationError, match=r"torch\.Tensor, got ndarray"):
        cache.put(np.zeros(3), noise(0))
    with pytest.raises(ConfigurationError, match="bytes, got int"):
        cache.get(audio_hash=5)


@pytest.mark.parametrize("audio", [np.zeros(0, np.float32), np.array([0.0, np.nan]), np.zeros((3, 3, 3))])
def test_what_is_no_window_has_no_hash(audio: np.ndarray) -> None:
    with pytest.raises(AudioFormatError):
        EncoderCache().precompute_hash(audio)


# Keys.


def test_the_rounded_key_is_sha256_of_context_length_and_the_rounded_samples() -> None:
    audio = noise(1, 100)
    cache = EncoderCache(hash_precision=3, context=("base", "fp32"))
    prefix = json.dumps(["rounded", 3, "base", "fp32"]).encode() + (100).to_bytes(8, "big")
    expected = hashlib.sha256(prefix + (np.round(audio, 3) + np.float32(0)).tobytes()).digest()
    assert cache.precompute_hash(audio) == expected


def test_rounding_makes_close_audio_one_window_and_a_negative_zero_a_zero() -> None:
    cache = EncoderCache(hash_precision=2)
    assert cache.precompute_hash([0.101, 0.0]) == cache.precompute_hash([0.099, -0.0])
    assert cache.precompute_hash([0.101, 0.001]) == cache.precompute_hash([0.099, -0.001])
    assert cache.precompute_hash([0.10, 0.0]) != cache.precompute_hash([0.11, 0.0])
    assert cache.precompute_hash(np.zeros(5)) != cache.precompute_hash(np.zeros(6))


@pytest.mark.parametrize("name", KEYS)
def test_context_is_part_of_every_hash(name: str) -> None:
    span = ("stream", 0, 2 * RATE)
    hashes = {
        EncoderCache(key=name, context=context).precompute_hash(noise(0), span)
        for context in ((), ("base",), ("base", "bf16"), ("base", 48000))
    }
    assert len(hashes) == 4


def test_the_guides_key_misses_audio_shifted_by_one_step_of_16_bit_pcm() -> None:
    """Why it does not hit on live audio: one sample over one rounding edge changes the hash."""
    audio = noise(0)
    shifted = audio + np.float32(2**-15)
    for precision in range(1, 7):
        cache = EncoderCache(hash_precision=precision)
        assert cache.precompute_hash(audio) != cache.precompute_hash(shifted)


def test_precision_zero_answers_one_voice_with_another_and_says_similar() -> None:
    """The guide's advice to lower the precision: nearly all speech rounds to zero and is one entry."""
    cache = EncoderCache(hash_precision=0)
    cache.put(value(), tone(200))
    assert cache.get(tone(3000)) is not None
    assert cache.get_statistics()["hits_by_cause"] == {"silence": 0, "repeat": 0, "similar": 1}


def test_the_span_key_knows_a_window_by_its_place_and_not_by_its_sound() -> None:
    cache = EncoderCache(key="span")
    here: StreamSpan = ("call-1", 16000, 100)
    cache.put(value(), audio_hash=cache.precompute_hash(noise(0, 100), here))
    assert cache.get(audio_hash=cache.precompute_hash(noise(0, 100), here)) is not None
    for other in (("call-2", 16000, 100), ("call-1", 16001, 100)):
        assert cache.get(audio_hash=cache.precompute_hash(noise(0, 100), other)) is None
    assert cache.get_statistics()["hits_by_cause"]["repeat"] == 1


def test_the_span_key_asks_for_a_span_that_fits_the_window() -> None:
    cache = EncoderCache(key="span")
    with pytest.raises(ConfigurationError, match=r"span=\(stream, start, length\)"):
        cache.get(noise(0))
    with pytest.raises(ConfigurationError, match="99 samples long, but the window has 100"):
        cache.precompute_hash(noise(0, 100), ("s", 0, 99))


def test_mel_bands_find_a_tone_where_it_is() -> None:
    peaks = [int(band_decibels(tone(hertz), 16).argmax()) for hertz in (200, 1000, 4000)]
    assert peaks == sorted(set(peaks))
    assert set(band_decibels(np.zeros(RATE, np.float32), 16).tolist()) == {-40.0}


@pytest.mark.parametrize("n_samples", [1, 399, 400, 401])
def test_windows_may_be_shorter_than_a_mel_frame(n_samples: int) -> None:
    assert np.isfinite(band_decibels(noise(0, n_samples), 16)).all()


@pytest.fixture
def similar() -> Callable[..., bytes]:
    """The hash of two seconds of one steady noise, from a sample on; by default of the same stream."""
    cache, sound = EncoderCache(key="similar"), noise(3, 10 * RATE)

    def hashed(start: int, n: int = 2 * RATE, stream: str = "call", gain: float = 1.0) -> bytes:
        window = sound[start : start + n] * np.float32(gain)
        return cache.precompute_hash(window, (stream, start, n))

    return hashed


def test_the_similar_key_is_reused_for_half_a_second_and_then_replaced(similar: Callable[..., bytes]) -> None:
    first = similar(0)
    assert [similar(start) == first for start in (1600, 4800, 8000)] == [True, True, True]
    second = similar(8001)
    assert second != first
    assert similar(16_000) == second  # half a second counts from the window that was asked anew
    assert similar(15_200, gain=1.08) == second  # 0.7 dB


def test_the_similar_key_parts_windows_that_sound_otherwise_or_lie_elsewhere(similar: Callable[..., bytes]) -> None:
    for other in (
        {"gain": 1.15},  # 1.2 dB
        {"stream": "another call"},
        {"n": 2 * RATE - 1},
    ):
        first = similar(16_000)
        assert similar(16_160) == first
        assert similar(16_320, **other) != first


def test_the_similar_key_is_not_reused_for_earlier_windows(similar: Callable[..., bytes]) -> None:
    assert similar(16_000) != similar(14_400)


def test_the_similar_key_asks_for_a_span_and_for_options_that_can_work() -> None:
    with pytest.raises(ConfigurationError, match=r"'similar' key needs .*span=\(stream, start, length\)"):
        EncoderCache(key="similar").get(noise(0))
    for options in ({"within_db": -1.0}, {"for_s": float("nan")}, {"least_confidence": 1.5}, {"n_bands": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SimilarKey(**options)  # type: ignore[arg-type]


def test_keys_are_equal_when_they_answer_alike() -> None:
    used = SimilarKey()
    used.material(noise(0), ("s", 0, len(noise(0))))
    assert used == SimilarKey() != SimilarKey(within_db=2.0)


def test_a_custom_key_needs_three_attributes_and_one_method() -> None:
    class Loudness:
        name = "loudness"
        exact = False
        least_confidence = 0.0

        def material(self, audio: FloatArray, span: StreamSpan | None) -> bytes:
            return b"loud" if float(np.abs(audio).max()) > 0.2 else b"quiet"

    cache = EncoderCache(key=Loudness())
    cache.put(value(), tone(200, level=0.3))
    assert cache.get(tone(900, level=0.5)) is not None
    assert cache.get(tone(200, level=0.1)) is None
    counted = cache.get_statistics()
    assert (counted["key"], counted["hash_precision"]) == ("loudness", None)


# Causes of hits.


def test_a_hit_on_the_same_audio_is_a_repeat_whatever_the_span() -> None:
    cache = EncoderCache(key="rounded")
    cache.put(value(), audio_hash=cache.precompute_hash(noise(0), ("first", 0, 2 * RATE)))
    cache.get(audio_hash=cache.precompute_hash(noise(0), ("second", 1600, 2 * RATE)))
    assert cache.get_statistics()["hits_by_cause"] == {"silence": 0, "repeat": 1, "similar": 0}


@pytest.mark.parametrize(
    "stored, asked, cause",
    [
        (0.0, 0.0, "silence"),
        (0.0009, 0.0005, "silence"),
        (-0.0009, 0.0, "silence"),
        (0.3, 0.0, "similar"),
        (0.0, -0.3, "similar"),
        (0.0011, 0.0, "similar"),
        (0.3, 0.3, "repeat"),
    ],
)
def test_silence_is_a_cause_only_between_two_silent_windows(stored: float, asked: float, cause: str) -> None:
    cache = EncoderCache(hash_precision=0)
    cache.put(value(), np.full(100, stored))
    assert cache.get(np.full(100, asked)) is not None
    assert cache.get_statistics()["hits_by_cause"][cause] == 1


def test_a_foreign_hash_works_and_its_hits_count_as_similar() -> None:
    cache = EncoderCache()
    cache.put(value(), audio_hash=b"own")
    assert cache.get(audio_hash=b"own") is not None
    assert cache.get_statistics()["hits_by_cause"] == {"silence": 0, "repeat": 0, "similar": 1}


def test_a_replaced_value_is_judged_by_its_own_audio() -> None:
    cache = EncoderCache(hash_precision=0)
    cache.put(value(1), tone(200))
    cache.put(value(2), tone(3000))
    assert torch.equal(cache.get(tone(3000)), value(2))
    assert cache.get_statistics()["hits_by_cause"]["repeat"] == 1
    assert cache.get_statistics()["evictions"] == 0


def test_a_hash_keeps_its_facts_through_pickle() -> None:
    made = EncoderCache().precompute_hash(np.zeros(10))
    back = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes)
    assert (back, back.identity, back.silent) == (made, made.identity, True)
    assert isinstance(back, AudioHash)


# Shadow checks.


def test_false_hit_rate_is_unknown_until_a_hit_was_checked() -> None:
    cache = EncoderCache(shadow_rate=1.0)
    assert cache.get_statistics()["shadow"] == {
        "checked": 0,
        "false_hits": 0,
        "false_hit_rate": None,
        "mean_distance": None,
    }
    for agree, distance in ((True, 0.1), (True, 0.2), (False, 0.9), (True, 0.0)):
        cache.record_shadow(agree=agree, distance=distance)
    shadow = cache.get_statistics()["shadow"]
    assert (shadow["checked"], shadow["false_hits"], shadow["false_hit_rate"]) == (4, 1, 0.25)
    assert shadow["mean_distance"] == pytest.approx(0.3)


@pytest.mark.parametrize("rate, least, most", [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
def test_the_share_of_hits_to_shadow_is_the_rate_asked_for(rate: float, least: int, most: int) -> None:
    cache = EncoderCache(shadow_rate=rate, rng=random.Random(1))
    assert least <= sum(cache.should_shadow() for _ in range(1000)) <= most


# Values are the cache's own.


def test_changing_an_input_or_output_does_not_change_the_stored_value() -> None:
    cache = EncoderCache()
    mine = value(1)
    cache.put(mine, noise(0))
    mine.fill_(9)
    cache.get(noise(0)).zero_()
    cache.get(noise(0)).numpy()[:] = 5
    assert torch.equal(cache.get(noise(0)), value(1))


def test_a_stored_value_is_detached() -> None:
    cache = EncoderCache()
    cache.put(value().requires_grad_() * 2, noise(0))
    found = cache.get(noise(0))
    assert not found.requires_grad
    assert found.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_dtype_and_values_are_kept(dtype: torch.dtype) -> None:
    cache = EncoderCache()
    stored = torch.arange(6).reshape(2, 3).to(dtype)
    cache.put(stored, noise(0))
    found = cache.get(noise(0))
    assert found.dtype == dtype
    assert torch.equal(found, stored)


def test_a_slice_of_a_batch_is_charged_and_kept_by_itself() -> None:
    cache = EncoderCache()
    cache.put(torch.zeros(64, 100, 8)[3], noise(0))
    assert cache.get_statistics()["bytes"] == 100 * 8 * 4
    assert cache.get(noise(0)).untyped_storage().nbytes() == 100 * 8 * 4


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 5)])
def test_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    cache = EncoderCache()
    cache.put(torch.ones(shape), noise(0))
    assert torch.equal(cache.get(noise(0)), torch.ones(shape))


def test_a_value_that_is_not_contiguous_keeps_its_values() -> None:
    cache = EncoderCache()
    crosswise = torch.arange(12.0).reshape(3, 4).T
    cache.put(crosswise, noise(0))
    assert torch.equal(cache.get(noise(0)), crosswise)


def test_outputs_of_inference_mode_can_be_used_outside_it() -> None:
    cache = EncoderCache()
    with torch.inference_mode():
        cache.put(value(2) * 3, noise(0))
    weight = torch.ones(4, requires_grad=True)
    (cache.get(noise(0)) * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [6.0] * 4


def test_values_go_to_the_device_asked_for_and_cuda_only_where_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    present = torch.cuda.is_available()
    with caplog.at_level(logging.WARNING, "whisperlab"):
        cache = EncoderCache(device="cuda")
    cache.put(value(), noise(0))
    found = cache.get(noise(0))
    assert found.device.type == ("cuda" if present else "cpu") == cache.device.type
    assert ("CUDA is missing" in caplog.text) is not present


# Bounds, clock, threads, speed.


def test_bytes_bound_evicts_as_many_old_entries_as_the_new_one_needs() -> None:
    cache = EncoderCache(max_size=10, max_bytes=48)
    for seed in range(3):
        cache.put(value(n=4), noise(seed))
    cache.put(value(n=8), noise(3))
    counted = cache.get_statistics()
    assert (counted["size"], counted["bytes"], counted["evictions"]) == (2, 48, 2)
    cache.put(value(n=13), noise(4))
    assert cache.get(noise(4)) is None
    assert cache.get_statistics()["refused"] == 1
    assert len(cache) == 2


def test_lookup_times_cover_making_the_hash_and_finding_the_value() -> None:
    ticks = iter(range(0, 10**9, 1_000_000))
    cache = EncoderCache(clock=lambda: next(ticks))
    assert cache.get_statistics()["lookup_ms"] == {"p50": None, "p95": None, "n": 0}
    cache.get(noise(0))  # two clock reads around the hash, two around the search: 1 ms each
    assert cache.get_statistics()["lookup_ms"] == {"p50": 2.0, "p95": 2.0, "n": 1}
    cache.get(audio_hash=b"plain")
    assert cache.get_statistics()["lookup_ms"] == {"p50": 1.5, "p95": pytest.approx(1.95), "n": 2}


def test_statistics_are_json_and_start_empty() -> None:
    counted = json.loads(json.dumps(EncoderCache().get_statistics()))
    assert counted.pop("lookup_ms")["n"] == 0
    assert counted.pop("shadow")["checked"] == 0
    assert counted == {
        "size": 0,
        "max_size": 50,
        "bytes": 0,
        "max_bytes": None,
        "hits": 0,
        "misses": 0,
        "hit_rate": 0.0,
        "evictions": 0,
        "refused": 0,
        "hits_by_cause": {"silence": 0, "repeat": 0, "similar": 0},
        "key": "rounded",
        "hash_precision": 6,
        "device": "cpu",
    }


def test_threads_lose_no_count_and_get_no_other_windows_value() -> None:
    cache = EncoderCache(max_size=8)
    hashes = [cache.precompute_hash(noise(seed, 50)) for seed in range(12)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(500):
            window = rng.randrange(len(hashes))
            found = cache.get(audio_hash=hashes[window])
            if found is None:
                cache.put(value(float(window)), audio_hash=hashes[window])
            elif not torch.equal(found, value(float(window))):
                wrong.append(window)
            cache.get_statistics()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = cache.get_statistics()
    assert not wrong
    assert counted["hits"] + counted["misses"] == 4 * 500
    assert counted["bytes"] == 16 * counted["size"] <= 16 * 8


def interleaved_medians(*calls: Callable[[], object], rounds: int = 60) -> list[float]:
    """Median seconds of each call, measured in turns so that a busy machine slows them all."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for times, call in zip(spent, calls, strict=True):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return [float(np.median(times)) for times in spent]


@pytest.mark.parametrize("key", KEYS)
def test_a_lookup_costs_a_few_hashes_of_the_window_and_not_more(key: str) -> None:
    cache, audio = EncoderCache(key=key), noise(0)
    span = ("stream", 0, len(audio))
    cache.put(torch.zeros(100, 512), audio_hash=cache.precompute_hash(audio, span))
    lookup, floor = interleaved_medians(
        lambda: cache.get(audio_hash=cache.precompute_hash(audio, span)),
        lambda: hashlib.sha256(audio.tobytes()).digest(),
    )
    assert lookup < 20 * floor


def test_an_output_without_values_is_kept_like_any_other() -> None:
    cache = EncoderCache(2)
    cache.put(torch.empty(0), audio_hash=b"x")
    found = cache.get(audio_hash=b"x")
    assert found is not None
    assert found.shape == (0,)


@pytest.mark.parametrize(
    "options",
    [{"key": 7}, {"device": 0}, {"device": None}, {"shadow_rate": "1"}, {"shadow_rate": np.nan}, {"max_size": 2**70}],
    ids=str,
)
def test_an_option_of_another_type_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        EncoderCache(**options)


@pytest.mark.parametrize("span", [7, (), ("s", 0), ("s", None, 1600), ("s", 0, 1600.0)])
def test_an_invalid_span_is_refused(span: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs precompute_hash"):
        EncoderCache(key="span").precompute_hash(np.zeros(1600, np.float32), span)


def checks(cache: EncoderCache, recordings: int, hits: int = 20) -> list[list[bool]]:
    """Which hits of each short recording are checked."""
    rng, found = np.random.default_rng(0), []
    for _ in range(recordings):
        cache.clear()
        window = rng.normal(0, 0.1, 1600).astype(np.float32)
        cache.get(window)
        cache.put(torch.zeros(1), window)
        found.append([cache.get(window) is not None and cache.should_shadow() for _ in range(hits)])
    return found


def test_in_short_recordings_hits_are_checked_too_each_time_the_same_ones() -> None:
    first = checks(EncoderCache(shadow_rate=0.1), recordings=100)
    assert 140 <= sum(map(sum, first)) <= 260  # of 2,000
    assert sum(map(any, first)) > 60
    assert checks(EncoderCache(shadow_rate=0.1), recordings=100) == first
    given = checks(EncoderCache(shadow_rate=0.5, rng=random.Random(1)), recordings=3)
    assert given == [given[0]] * 3  # the caller's chance is the caller's

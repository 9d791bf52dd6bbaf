"""Inputs nobody should have to read: valid ones, made from real speech, and then damaged; and options at their ends.

A `Target` is one way into the package. Its cases are drawn from a ``random.Random``: one with a seed of the case's
number gives thousands that can be had again (`guard.guarded` runs them), one that takes its chances from a fuzzer's
bytes (`Chances`) lets coverage choose (``benchmarks/fuzz.py``). A case must end right or with an error of the
target's own; the results are looked at, not only that there is one.

    python tests/fuzzing.py FOLDER                      # the targets' seeds
    python tests/fuzzing.py FOLDER TARGETS FIRST COUNT  # cases of targets in turn, an outcome a line
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import fuzzing_stores
import numpy as np
import soundfile
import torch
from guard import serve

from whisperlab import data as corpora
from whisperlab.buffer import RingBuffer
from whisperlab.cache import KEYS, EncoderCache
from whisperlab.cli import commands
from whisperlab.config import SessionOptions
from whisperlab.data import audio_files, containers
from whisperlab.evaluation.scoring import score_trace
from whisperlab.evaluation.trace import read_trace, write_trace
from whisperlab.evaluation.transcripts import FORMATS
from whisperlab.experiments import comparison, results_store, sweep
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.false_switches import SwitchOptions
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.results import ProcessResult
from whisperlab.streaming.smoothing import SmoothingOptions
from whisperlab.streaming.vad import VadOptions
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util import audio_arrays
from whisperlab.util.errors import (
    AudioFormatError,
    BufferRangeError,
    ConfigurationError,
    ManifestError,
    SweepError,
    TraceError,
    WeightsError,
    WhisperlabError,
)
from whisperlab.util.timeline import SAMPLE_RATE, Span
from whisperlab.util.validation import from_json

Rng = random.Random
Run = Callable[[], None]

CLIP_S = 0.3  # of the speech that seeds are made of
SPEECH_S = 1.2  # of that which transcribers hear
LONGEST_ERROR = 1200  # characters
DRAWN = 0.1  # of the pages of stores, with Matplotlib

# A Whisper that fits in 2 MB: every shape that matters is right, and what it says means nothing.
TINY = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 5,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 2,
}

EXTREMES = (*(0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 10**6), *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
HUGE = 10**5000  # of more digits than Python writes out
WILD: tuple[Any, ...] = (
    *(None, True, False, "", "0", "en", "\ud800", "\x00", "a" * 5000),
    *("$x_1^{", "<b>x</b>", "{{7*7}}", "a\x00b", "\ufffe", "=1+1", "xx", "nan", "../../x", "\u202e"),
    *([], {}, [None], {"": None}, [[[[]]]], [[1, [2, ["x"]]]], [{}], b"", object()),
    *(0, -1, 1, 2, 31, 99, 100, 512, 16_000, 10**6, 2**31, 2**63, 10**30, 10**400, -(2**63), -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e-9, 1e9, 1e308, math.nan, math.inf, -math.inf),
    *(np.float32(0.5), np.int64(7), np.float64("nan"), np.zeros(3), HUGE, -HUGE),
)
WILD_JSON = tuple(
    value
    for value in WILD
    if not isinstance(value, bytes | np.generic | np.ndarray)
    and type(value) is not object
    and value not in (HUGE, -HUGE)
)


class Chances(Rng):
    """Chance taken from a fuzzer's bytes; zeros when they have run out."""

    def __new__(cls, data: bytes) -> Chances:
        return super().__new__(cls)

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._left = io.BytesIO(data)

    def getrandbits(self, k: int, /) -> int:
        taken = self._left.read(-(-k // 8))
        return int.from_bytes(taken, "big") & ((1 << k) - 1)

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)


class Target(Protocol):
    """One way in."""

    errors: tuple[type[WhisperlabError], ...]

    def draw(self, rng: Rng) -> tuple[str, Run]:
        """A case: its kind, and what runs it and looks at the result."""


@dataclass(slots=True, frozen=True)
class Files:
    """Files of seeds, damaged. ``make`` are the mutations by kind; ``read`` reads one and looks at what came."""

    seeds: tuple[tuple[str, bytes], ...]  # suffix and content
    make: dict[str, Callable[[Rng, bytes, bytes], bytes]]
    read: Callable[[Path], None]
    errors: tuple[type[WhisperlabError], ...]

    def draw(self, rng: Rng) -> tuple[str, Run]:
        suffix, data = rng.choice(self.seeds)
        other = rng.choice(self.seeds)[1]
        kinds = [rng.choice(list(self.make)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        for kind in kinds:
            data = self.make[kind](rng, data, other)
        return f"{suffix}: {kinds[0]}", partial(self.run, suffix, data)

    def run(self, suffix: str, data: bytes) -> None:
        """Read these bytes from a file."""
        path = Path(f"case.{suffix}")
        path.write_bytes(data)
        self.read(path)


@dataclass(slots=True, frozen=True)
class Values:
    """Values drawn in memory, by kind."""

    make: dict[str, Callable[[Rng], Run]]
    errors: tuple[type[WhisperlabError], ...]

    def draw(self, rng: Rng) -> tuple[str, Run]:
        kind = rng.choice(list(self.make))
        return kind, self.make[kind](rng)


def answer(run: Run, errors: tuple[type[WhisperlabError], ...]) -> str:
    """``right``, or the class of an error that may be; anything else is raised."""
    try:
        run()
    except errors as error:
        if not 0 < len(str(error)) < LONGEST_ERROR:
            raise AssertionError(f"an error of {len(str(error))} characters") from error
        return type(error).__name__ + ", a decoder died" * ("FFmpeg cannot decode it" in str(error))
    return "right"


# --- damage to bytes ------------------------------------------------------------------------------------


def cut_in_header(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(min(len(data), 128) + 1)]


def cut_anywhere(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flip_bits(rng: Rng, data: bytes, other: bytes, within: int | None = None) -> bytes:
    changed = bytearray(data)
    if changed:
        for _ in range(rng.choice((1, 2, 4, 16))):
            changed[rng.randrange(min(len(changed), within or len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_bits_in_header(rng: Rng, data: bytes, other: bytes) -> bytes:
    return flip_bits(rng, data, other, within=128)


def overwrite_field(rng: Rng, data: bytes, other: bytes, at: int | None = None) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(EXTREMES) & ((1 << 8 * width) - 1)).to_bytes(width, rng.choice(("little", "big")))
    at = rng.randrange(min(len(data), 256) + 1) if at is None else at
    return data[:at] + value + data[at + width :]


def overwrite_size(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The four bytes behind a name of four letters, as RIFF, AIFF, CAF and MP4 have them; MP4's lie before it."""
    names = (b"RIFF", b"WAVE", b"fmt ", b"data", b"fact", b"FORM", b"COMM", b"SSND", b"desc", b"moov", b"stsz")
    places = [place for name in names if (place := data.find(name)) >= 0]
    return overwrite_field(rng, data, other, rng.choice(places) + rng.choice((4, -4))) if places else data


def splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def wipe(rng: Rng, data: bytes, other: bytes) -> bytes:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256, 4096))
    return data[:at] + rng.choice((b"\x00", b"\xff", b"\x7f\x80")) * n + data[at + n :]


def drop(rng: Rng, data: bytes, other: bytes) -> bytes:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 256))
    return data[:at] + data[at + n :]


def double(rng: Rng, data: bytes, other: bytes) -> bytes:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 1024))
    return data[: at + n] + data[at:]


def swap_blocks(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Two blocks of one size in each other's place."""
    n = min(rng.choice((4, 64, 512, 4096)), len(data) // 2)
    first = rng.randrange(len(data) - 2 * n + 1)
    second = rng.randrange(first + n, len(data) - n + 1)
    head, between, tail = data[:first], data[first + n : second], data[second + n :]
    return head + data[second : second + n] + between + data[first : first + n] + tail


def add_noise(rng: Rng, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 64, 1024))) + data[at:]


DAMAGE = {
    mutation.__name__: mutation
    for mutation in (
        *(cut_in_header, cut_anywhere, flip_bits, flip_bits_in_header, overwrite_field, overwrite_size),
        *(splice, wipe, drop, double, add_noise, swap_blocks),
    )
}


# --- audio ----------------------------------------------------------------------------------------------


LARGEST_GROWTH = 5000  # decoded values per byte; silence in FLAC has 3,900
LONGEST_GAPS_S = 3600.0


def read_sound(path: Path) -> None:
    """Reads a file, and compares length and samples with a second reading and with what the decoder sent."""
    found = audio_files.read_audio(path)
    check_sound(found)
    assert found.tobytes() == audio_files.read_audio(path).tobytes(), "two readings differ"
    parts = containers.decode(path)
    heard_s = sum(len(part.samples) / part.rate + part.gap_s for part in parts)
    assert abs(len(found) / SAMPLE_RATE - heard_s) < 0.001 * (len(parts) + 1), f"{len(found)} samples of {heard_s} s"
    assert sum(part.gap_s for part in parts) <= LONGEST_GAPS_S
    n_values, n_bytes = sum(part.samples.size for part in parts), path.stat().st_size
    assert n_values <= LARGEST_GROWTH * n_bytes, f"{n_values} values of {n_bytes} bytes"


def check_sound(found: np.ndarray) -> None:
    """What ``as_audio`` promises, and something in it."""
    assert found.dtype == np.float32
    assert found.ndim == 1
    assert found.flags.c_contiguous
    assert len(found)
    assert np.isfinite(found).all()


def wav_of_fields(rng: Rng) -> Run:
    """A WAV file whose header says anything; where it is plain PCM or float at 16 kHz, the samples are compared."""
    kinds = {(1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8", (1, 8): "u1", (1, 24): None}
    (form, bits), dtype = rng.choice(list(kinds.items()))
    channels = rng.choice((*(1,) * 8, *(2,) * 4, 3, 8, 9, 64, 1024, 0, 65535))
    rates = (*(16_000,) * 6, 8_000, 44_100, rng.randrange(1, 1_000_001), 1, 999, 768_000, 0, 2**32 - 1)
    rate = rng.choice(rates)
    n = rng.choice((0, 1, 2, 100, 100, 1600, 1600, 4800)) * min(channels, 64)
    payload = sound_bytes(rng, n, dtype) if dtype else rng.randbytes(3 * n)
    honest = rng.random() < 0.8
    untrue = rng.choice((0, len(payload) // 2, 2 * len(payload), 2**31, 2**32 - 1))
    size = len(payload) if honest else untrue
    block = (channels * bits // 8 if honest else rng.choice(EXTREMES)) & 0xFFFF
    header = struct.pack("<HHIIHH", form, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    data = b"RIFF" + struct.pack("<I", 36 + size & 0xFFFFFFFF) + b"WAVEfmt \x10\0\0\0" + header
    data += b"data" + struct.pack("<I", size) + payload
    plain = honest and rate == SAMPLE_RATE and dtype in ("<i2", "<i4", "<f4") and 1 <= channels <= 8

    def run() -> None:
        path = Path("case.wav")
        path.write_bytes(data)
        found = audio_files.read_audio(path)
        check_sound(found)
        if plain:
            expected = audio_arrays.as_audio(np.frombuffer(payload, dtype).reshape(-1, channels))
            np.testing.assert_allclose(found, expected, atol=1e-6)

    return run


def sound_bytes(rng: Rng, n: int, dtype: str) -> bytes:
    """Samples of every sort, as bytes."""
    chance = np.random.default_rng(rng.getrandbits(32))
    if dtype[-2] != "f":
        limits = np.iinfo(dtype)
        sorts = [
            chance.integers(limits.min, limits.max, n, endpoint=True),
            np.full(n, rng.choice((limits.min, limits.max, 0))),
            np.where(chance.random(n) < 0.5, limits.min, limits.max),
        ]
        return rng.choice(sorts).astype(dtype).tobytes()
    return float_sound(rng, n).astype(dtype).tobytes()


def float_sound(rng: Rng, n: int) -> np.ndarray:
    """Noise, speech, DC, clipping, denormals; NaN or infinity or what is out of range among them."""
    chance = np.random.default_rng(rng.getrandbits(32))
    sorts = (
        lambda: 0.3 * chance.standard_normal(n),
        lambda: np.resize(speech(), n).astype(float),
        lambda: np.full(n, rng.choice((0.0, 1.0, -1.0, 0.999, -0.0, 127.0, 128.0, 1e-320, 1e-40))),
        lambda: np.clip(5 * chance.standard_normal(n), -1, 1),
        lambda: chance.standard_normal(n) * 10.0 ** chance.integers(-45, rng.choice((0, 39)), n),
    )
    sound = rng.choice(sorts)()
    if n and rng.random() < 0.1:
        sound[rng.randrange(n)] = rng.choice((math.nan, math.inf, -math.inf, 1e38, 1e300, -1e300))
    return sound


DTYPES = (
    *("float16", "float32", "float64", "longdouble", ">f4", ">f8", "int16", ">i2", "int32", "int8", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128", "object", "U4", "S4", "M8[s]"),
)


AUDIO_DTYPES = ("float32", "float32", "float64", "float16", ">f4", "int16", "int32", ">i2")


def any_array(rng: Rng) -> Any:
    """An array of any type, rank and layout, or something that is none."""
    if rng.random() < 0.1:
        things = (None, 3, 0.5, "audio", b"\0\0", [], [[]], [1.0, "x"], [[0.0], [0.0, 1.0]], {}, {1: 2}, object())
        return rng.choice((*things, range(9), iter([0.1]), memoryview(b"12345678"), np.float32(0.1), torch.zeros(9)))
    n = rng.choice((0, 1, 2, 7, 160, 511, 512, 513, 1600, 4800))
    shapes = ((n,), (n,), (n,), (n, 1), (1, n), (n, 2), (2, n), (n, 8), (n, 9), (2, n, 2), (), (0, n), (n, 0))
    shape = rng.choice(shapes)
    with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError, OverflowError):
        made = float_sound(rng, math.prod(shape)).reshape(shape)
        if (dtype := np.dtype(rng.choice(rng.choice((DTYPES, AUDIO_DTYPES, AUDIO_DTYPES))))).kind == "i":
            made = made * float(np.iinfo(dtype).max)
        made = np.nan_to_num(made).astype(dtype) if dtype.kind in "iu" else made.astype(dtype)
        layouts = (lambda a: a, lambda a: a[::-1], lambda a: np.repeat(a, 2, 0)[::2], np.asfortranarray)
        made = rng.choice(layouts)(made) if made.ndim else made
        made.setflags(write=rng.random() < 0.8)
        return made
    return [0.0] * n


def array_to_audio(rng: Rng) -> Run:
    array, rate = (
        any_array(rng),
        rng.choice((SAMPLE_RATE, 8000, 44_100, rng.randrange(1, 10**6 + 1), *EXTREMES, *WILD)),
    )

    def run() -> None:
        found = audio_arrays.as_audio(array, rate)
        assert found.dtype == np.float32
        assert found.ndim == 1
        assert np.isfinite(found).all()

    return run


def array_to_ring(rng: Rng) -> Run:
    capacity, dtype = rng.choice((1, 3, 512, 4800)), rng.choice((np.float32, np.float64))
    arrays = [any_array(rng) for _ in range(3)]

    def run() -> None:
        ring, refused = RingBuffer(capacity, dtype), None
        for array in arrays:
            before = ring.read_all(), ring.end
            try:
                ring.append(array)
            except AudioFormatError as error:
                refused = str(error)
                assert ring.end == before[1]
                assert np.array_equal(ring.read_all(), before[0])
            else:
                kept = ring.read_all()
                assert np.isfinite(kept).all()
                assert len(kept) == min(ring.end, capacity)
        if refused:
            raise AudioFormatError(refused)

    return run


def array_to_cache(rng: Rng) -> Run:
    key, precision = rng.choice(list(KEYS)), rng.choice((0, 2, 6, 12))
    array, span = (any_array(rng), rng.choice((None, ("s", 0, 1600), ("s", -1, 0), (), ("s", 0), 7, ("s", None, 1600))))
    if isinstance(array, np.ndarray) and array.ndim == 1 and rng.random() < 0.5:
        span = ("s", 160 * rng.randrange(9), len(array))

    def run() -> None:
        kept = EncoderCache(4, key=key, hash_precision=precision)
        made = kept.precompute_hash(array, span)
        assert kept.get(audio_hash=made) is None
        kept.put(torch.arange(6.0), audio_hash=made)
        answer = kept.get(audio_hash=kept.precompute_hash(array, span))
        assert answer is not None
        assert answer.tolist() == list(range(6))

    return run


def array_to_transcriber(rng: Rng) -> Run:
    rate = rng.choice((None, None, 8000, 44_100, 1000, 999_983))
    arrays = [any_array(rng) for _ in range(3)]

    def run() -> None:
        refused, heard = None, transcriber(rate)
        heard.reset()
        for array in arrays:
            before = heard.vad_audio_buffer.end
            try:
                check_result(heard.process(array), heard)
            except AudioFormatError as error:
                refused = str(error)  # not the error: its frames would keep the transcriber
                assert heard.vad_audio_buffer.end == before, "a refused chunk was heard in part"
        check_result(heard.finalize(), heard)
        if refused:
            raise AudioFormatError(refused)

    return run


def check_result(result: ProcessResult, heard: SessionRestartTranscriber) -> None:
    """A result that can be: probabilities, times within what was heard, known languages, JSON."""
    for frame in result.frames:
        assert set(frame.posterior) == set(heard.languages)
        assert math.isclose(sum(frame.posterior.values()), 1, rel_tol=1e-6)
    for segment in result.segments:
        assert 0 <= segment.start_time <= segment.end_time
        assert 0 <= segment.confidence <= 1
        assert segment.language in heard.languages
    assert all(span.end >= span.start >= 0 for span in result.speech)
    json.dumps(heard.get_statistics(), allow_nan=False)


@cache
def speech() -> np.ndarray:
    """Real speech, from the seeds."""
    return audio_files.read_audio(SEEDS / "speech.wav")


@cache
def weights() -> models.Weights:
    """The tiny model's, from the seeds."""
    return models.load_weights(SEEDS / "tiny.pt")


@lru_cache(maxsize=1)  # its voice activity detector takes 80 MB
def transcriber(rate: int | None) -> SessionRestartTranscriber:
    return SessionRestartTranscriber(weights(), ["en", "es"], rate or SAMPLE_RATE)


# --- options --------------------------------------------------------------------------------------------


def wild_options(rng: Rng, defaults: dict[str, Any], share: float = 0.4) -> dict[str, Any]:
    """Some of the options, at their ends and beyond."""
    return {name: wild(rng, value) for name, value in defaults.items() if rng.random() < share}


def wild(rng: Rng, value: Any) -> Any:
    """Something near a value, or anything."""
    near: list[Any] = [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        near = [value, 2 * value, value / 2, value // 2, -value, value + 1, type(value)(0), 10 * value, 1000 * value]
    if isinstance(value, str):
        near = [value, value.upper(), value[:-1]]
    return rng.choice(near) if rng.random() < 0.4 else rng.choice(WILD)


def options(group: type, rng: Rng) -> Run:
    chosen = wild_options(rng, {field.name: field.default for field in fields(group)})

    def run() -> None:
        made = group(**chosen)
        assert "NaN" not in json.dumps(asdict(made))

    return run


def transcriber_options(rng: Rng) -> Run:
    plain = {
        "languages": ["en", "es"],
        "sampling_rate": SAMPLE_RATE,
        "lid_hop_ms": 100,
        "device": "cpu",
        "precision": "fp32",
        "language": None,
        "oracle": [(0.0, "en"), (0.3, "es")],
        "language_prior": {"en": 2.0},
        "cache_size": 50,
        "hash_precision": 6,
        "key": "rounded",
        "shadow_rate": 0.5,
        "decode": True,
        "lid_p95_limit_ms": 10.0,
        "hit_rate_limit": 0.4,
        "log_interval_seconds": 300.0,
    }
    chosen = wild_options(rng, plain, share=0.12)
    groups = {"vad": VadOptions, "lid": LanguageIdOptions, "smoothing": SmoothingOptions, "decoding": DecodingOptions}
    for name, group in {**groups, "session": SessionOptions}.items():
        if rng.random() < 0.3:
            inner = wild_options(rng, {field.name: field.default for field in fields(group)}, share=0.2)
            chosen[name] = partial(group, **inner) if rng.random() < 0.95 else rng.choice(WILD)

    def run() -> None:
        made = {name: value() if isinstance(value, partial) else value for name, value in chosen.items()}
        heard = SessionRestartTranscriber(weights(), **made)
        assert "NaN" not in json.dumps(heard.config())
        for chunk in audio_arrays.chunks(speech()[: round(SPEECH_S * SAMPLE_RATE)], 3200):
            check_result(heard.process(chunk), heard)
        check_result(heard.finalize(), heard)

    return run


def ring_options(rng: Rng) -> Run:
    capacity, dtype = wild(rng, 1600), rng.choice((np.float32, np.float64, "f4", *WILD))
    asked, span = wild(rng, 100), (rng.choice((0, 10, 700, 2**70)), rng.choice((0, 700, 2**70)))
    call = rng.choice(("consume", "peek", "read"))

    def run() -> None:
        ring = RingBuffer(capacity, dtype)
        ring.append(np.zeros(800, np.float32))
        if call == "read":
            ring.read(Span(min(span), max(span)))
        else:
            getattr(ring, call)(asked)

    return run


def cache_options(rng: Rng) -> Run:
    plain = {
        "max_size": 50,
        "device": "cpu",
        "hash_precision": 6,
        "max_bytes": 100,
        "key": "rounded",
        "shadow_rate": 0.1,
    }
    chosen = wild_options(rng, plain)
    value = rng.choice((torch.ones(3), torch.ones(3).half(), torch.empty(0), torch.ones(()), *WILD))

    def run() -> None:
        made = EncoderCache(**chosen)
        window = speech()[:1600]
        span = ("s", 0, len(window))
        made.put(value, audio_hash=made.precompute_hash(window, span))
        found = made.get(audio_hash=made.precompute_hash(window, span))
        assert found is None or torch.equal(found, value)
        made.should_shadow()
        json.dumps(made.get_statistics(), allow_nan=False)

    return run


def metrics_options(rng: Rng) -> Run:
    chosen = wild_options(rng, {"max_samples": 1000, "log_interval_seconds": 300.0})
    seconds = [wild(rng, 0.01) for _ in range(3)]

    def run() -> None:
        made = PerformanceMetrics(**chosen)
        for value in seconds:
            made.record("op", value)
        told = made.get_statistics()["op"]
        assert told["count"] == 3
        assert told["min"] <= told["p50"] <= told["max"]
        json.dumps(told, allow_nan=False)
        made.export_prometheus()

    return run


def audio_options(rng: Rng) -> Run:
    n_samples = wild(rng, 1600)

    def run() -> None:
        pieces = list(audio_arrays.chunks(speech()[:3200], n_samples))
        assert sum(map(len, pieces)) == 3200

    return run


# --- JSON -----------------------------------------------------------------------------------------------


def change_values(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Lines of JSON with some of their values changed for anything, moved, taken away or added."""
    try:
        lines = [json.loads(line) for line in data.decode().splitlines()]
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines) + 1) if lines else 0
        if place == len(lines):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice((*lines, *WILD_JSON)))
        elif rng.random() < 0.1:
            del lines[place]
        else:
            lines[place] = changed(rng, lines[place])
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def changed(rng: Rng, value: Any) -> Any:
    """The value with something inside it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.15:
            return {other: item for other, item in value.items() if other != name}
        if rng.random() < 0.1:
            return {**value, rng.choice(("", "x", "\ud800", "kind", "en")): rng.choice(WILD_JSON)}
        return {**value, name: changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], changed(rng, value[place]), *value[place + rng.choice((1, 1, 1, 0, 2)) :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, 1000 * value, value // 3, str(value)))
    return rng.choice(WILD_JSON)


def repeat_field(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A field of an object twice, with two values; JSON allows it, and Python keeps the last."""
    line = data.decode(errors="surrogateescape")
    places = [match.start() for match in re.finditer(r'"[a-z_0-9.]+": ', line)]
    if not places:
        return data
    at = rng.choice(places)
    name = line[at : line.index(": ", at) + 2]
    return (line[:at] + name + json.dumps(rng.choice(WILD_JSON)) + ", " + line[at:]).encode(errors="surrogateescape")


def odd_numbers(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A number written as JSON has it, and no type of Python's does."""
    digits = [place for place, letter in enumerate(data) if 48 <= letter <= 57]
    if not digits:
        return data
    at = rng.choice(digits)
    odd = (b"1e999", b"-1e999", b"1" * 5000, b"0." + b"1" * 5000, b"NaN", b"Infinity", b"1E-400", b"-0", b"00")
    return data[:at] + rng.choice(odd) + data[at + 1 :]


def nest_deeply(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A value nested deeper than any parser's stack."""
    depth = rng.choice((10, 900, 1000, 100_000))
    deep = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"0" + b"}" * depth, b"[" * depth))
    lines = data.splitlines()
    place = rng.randrange(len(lines)) if lines else 0
    line = lines[place] if lines else b""
    colon = line.find(b":", rng.randrange(len(line) + 1))
    lines[place:place] = [line[: colon + 1] + deep + b"}" if colon >= 0 else deep]
    return b"\n".join(lines) + b"\n"


DAMAGE_JSON = {
    **{name: mutation for name, mutation in DAMAGE.items() if name not in ("overwrite_size", "cut_in_header")},
    **{f"change_values_{n}": change_values for n in range(8)},  # the likeliest
    "repeat_field": repeat_field,
    "odd_numbers": odd_numbers,
    "nest_deeply": nest_deeply,
}


DAMAGE_VALUES = {**DAMAGE_JSON, **{f"change_values_{n}": change_values for n in range(8, 30)}}


def read_manifest(path: Path) -> None:
    found = corpora.read_manifest(path, check_audio=False)
    assert found
    again = Path("again.jsonl")
    corpora.write_manifest(again, found)
    assert corpora.read_manifest(again, check_audio=False) == found
    for recording in found:
        assert 0 <= recording.duration < math.inf
        assert len(recording.gaps) == len(recording.segments)
        assert recording.switches >= 0


def read_whole_trace(path: Path) -> None:
    found = read_trace(path)
    write_trace("again.jsonl", found)
    assert read_trace("again.jsonl") == found
    assert all(isinstance(segment.text, str) for segment in found.segments)
    assert all(span.end >= span.start for span in found.speech)
    assert found.config is not None
    assert found.statistics is not None
    assert len(found.switches) + len(found.frames) + len(found.committed) >= 0
    assert 0 <= found.duration < math.inf
    assert found.compute_s >= 0
    if found.reference is not None:
        json.dumps(score_trace(found).rates(), allow_nan=False)


def append_rows(path: Path, folder: Path) -> None:
    """Adds the rows in JSON lines to the store of a folder, which is made if it is missing."""
    with results_store.write_store(folder) as store:
        for line in path.read_bytes().decode(errors="surrogateescape").splitlines():
            try:
                store.append(from_json(line))  # type: ignore[arg-type]
            except ValueError as error:
                raise SweepError(str(error)) from error


def read_store(path: Path) -> None:
    folder = Path("sweep")
    folder.mkdir(exist_ok=True)
    (folder / results_store.STORE).unlink(missing_ok=True)
    append_rows(path, folder)
    rows = results_store.read_rows(folder)
    with results_store.open_store(folder) as store:
        assert store.statuses() == {row["key"]: row["status"] for row in rows}
    results_store.in_memory(rows).totals()


def draw_traces(path: Path) -> None:
    """A trace through all that reads it: scores, transcripts in every format, exports, the page."""
    reference = str(SEEDS / "audio.manifest")
    trace = read_trace(path)
    for name in FORMATS:
        trace.to_text(name)
    shutil.rmtree("exports", ignore_errors=True)
    with contextlib.suppress(RefusedError):  # without a reference
        call(["score", str(path), "--json"])
    with contextlib.suppress(RefusedError):
        call(["score", str(path), "--reference", reference, "--export", "exports"])
    with quick_pages():
        call(["report", str(path), "--out", "page.html"])


def damaged_rows(rng: Rng) -> Run:
    """Rows that are damaged as JSON, and what the store takes of them through all that reads it."""
    mutations = [mutation for name, mutation in DAMAGE_VALUES.items() if name != "nest_deeply"]

    def damage(chances: Rng, data: bytes) -> bytes:
        return chances.choice(mutations)(chances, data, data)

    def run() -> None:
        template = SEEDS / "template"
        folder, taken = fuzzing_stores.append_damaged(rng, template, damage)
        if not taken:
            raise SweepError("no damaged row was taken")
        with quick_pages(drawn=rng.random() < DRAWN):
            fuzzing_stores.read_with_everything(folder, template, call)

    return run


def edited_store(kind: str, rng: Rng) -> Run:
    """A store that was edited by SQL through all that reads it."""

    def run() -> None:
        template = SEEDS / "template"
        folder = fuzzing_stores.edited(rng, template, kind)
        with quick_pages(drawn=rng.random() < DRAWN):
            fuzzing_stores.read_with_everything(folder, template, call)

    return run


@contextlib.contextmanager
def quick_pages(drawn: bool = False) -> Iterator[None]:
    """Without the engine of JavaScript, which takes seconds and much memory; ``drawn``: Matplotlib draws its part."""
    no_picture = '<svg viewBox="0 0 1 1"></svg>'
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("vl_convert.vegalite_to_svg", return_value=no_picture))
        stack.enter_context(mock.patch("whisperlab.report.page.vega_script", return_value=""))
        if not drawn:  # figures are made and not written, which takes most of the time
            stack.enter_context(mock.patch("whisperlab.report.figure.to_svg", return_value=no_picture))
        yield


def read_configuration(path: Path) -> None:
    config = comparison.read_configuration(str(path))
    SessionRestartTranscriber(weights(), ["en", "es"], config=config)


# --- checkpoints ----------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> None:
    found = models.load_weights(path)
    assert found.alignment_heads.shape == (found.dims["n_text_layer"], found.dims["n_text_head"])
    for name in list(found.state)[:3]:
        assert found.tensor(name).dtype == torch.float32
    assert not Path("owned").exists(), "a pickle has run code"


class Owned:
    """What a wrong pickle does: it runs."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def saved(value: Any, **how: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, **how)
    return made.getvalue()


def checkpoint_of(rng: Rng) -> Run:
    """A checkpoint that torch wrote and that holds something else than it should."""
    dims, state = dict(TINY), {name: weights().state[name] for name in weights().state}
    name, dim = rng.choice(list(state)), rng.choice(list(dims))
    one = state[name]
    tensors: dict[str, Callable[[], Any]] = {
        "double": lambda: one.double(),
        "whole numbers": lambda: one.to(torch.int8),
        "complex": lambda: one.to(torch.complex64),
        "NaN": lambda: torch.full_like(one, math.nan),
        "infinite": lambda: torch.full_like(one, math.inf),
        "a huge view of one number": lambda: torch.zeros(1).expand(10**12),
        "its shape, a view of one number": lambda: torch.zeros(1).half().expand(one.shape),
        "sparse": lambda: one.float().to_sparse(),
        "meta": lambda: torch.empty(10**12, device="meta"),
        "empty": lambda: torch.empty(0),
        "another shape": lambda: torch.zeros(*(2 * n for n in one.shape)),
        "transposed": lambda: one.T if one.ndim == 2 else one,
        "no tensor": lambda: rng.choice((None, 1.0, "x", [1], {})),
        "code": Owned,
    }
    kind = rng.choice((*tensors, "dims", "no dims", "names", "other"))
    if kind in tensors:
        value: Any = {"dims": dims, "model_state_dict": {**state, name: tensors[kind]()}}
    elif kind == "dims":
        value = {"dims": {**dims, dim: rng.choice(WILD_JSON)}, "model_state_dict": state}
    elif kind == "no dims":
        value = {"dims": rng.choice((*WILD_JSON, list(dims))), "model_state_dict": rng.choice((state, *WILD_JSON))}
    elif kind == "names":
        value = {"dims": dims, "model_state_dict": {rng.choice((n, n[1:], 7)): t for n, t in state.items()}}
    else:
        value = rng.choice((*WILD_JSON, [state], state, {"model_state_dict": state}, torch.zeros(3), Owned()))
    packed = saved(value, **rng.choice(({}, {"_use_new_zipfile_serialization": False})))
    if rng.random() < 0.1:
        packed = pickle.dumps(value if kind == "other" else Owned())
    if rng.random() < 0.1:
        packed = squeezed(packed)

    def run() -> None:
        Path("case.pt").write_bytes(packed)
        read_checkpoint(Path("case.pt"))

    return run


def squeezed(packed: bytes) -> bytes:
    """The same archive, deflated, with a member that unpacks to far more than it takes."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.infolist():
                content = bytes(2**24) if member.filename.endswith("/data/0") else old.read(member)
                new.writestr(member.filename, content)
    except zipfile.BadZipFile:
        return packed
    return made.getvalue()


# --- the command line -----------------------------------------------------------------------------------


def command(rng: Rng) -> Run:
    """A command on damaged files, or with numbers at their ends."""
    number = partial(
        rng.choice, ("0", "-1", "1", "99", "100000", "1e3", "nan", "inf", "1e999", "9" * 5000, "", "x", "٣")
    )
    sources = {
        name: target.draw(rng)[1]
        for name, target in targets().items()
        if isinstance(target, Files) and name in ("audio", "manifest", "trace", "store", "transcript", "checkpoint")
    }

    def damaged(name: str) -> str:
        run = sources[name]
        suffix, data = run.args  # type: ignore[attr-defined]
        path = Path(f"damaged-{name}.{suffix}")
        path.write_bytes(data)
        if name != "store":
            return str(path)
        with contextlib.suppress(SweepError):  # the rows before the first one that is refused
            append_rows(path, Path("damaged-sweep"))
        return "damaged-sweep"

    tiny, whole = str(SEEDS / "tiny.pt"), str(SEEDS / "speech.wav")
    manifest = str(SEEDS / "audio.manifest")
    dry = [*("sweep", "--corpus", manifest, "--model", tiny), *("--dry-run", "--out", "nothing")]
    commands: dict[str, Callable[[], list[str]]] = {
        "transcribe": lambda: ["transcribe", damaged("audio"), "--model", tiny, "--languages", "en,es"],
        "transcribe, checkpoint": lambda: ["transcribe", whole, "--model", damaged("checkpoint")],
        "transcribe, numbers": lambda: [
            *("transcribe", whole, "--model", tiny),
            *("--languages", rng.choice(("en", "en,es", "", "x", ",", "auto"))),
            *("--lid-hop-ms", number(), "--chunk-ms", number()),
        ],
        "score, trace": lambda: ["score", damaged("trace")],
        "score, transcript": lambda: [*("score", damaged("transcript"), "--reference", manifest)],
        "score, manifest": lambda: [*("score", str(SEEDS / "speech.transcript"), "--reference", damaged("manifest"))],
        "report, store": lambda: ["report", damaged("store"), "--out", "page.html"],
        "report, trace": lambda: ["report", damaged("trace"), "--out", "page.html"],
        "sweep, manifest": lambda: [*dry, "--corpus", damaged("manifest")],
        "sweep, store": lambda: [*dry, "--out", damaged("store")],
        "sweep, numbers": lambda: [
            *dry,
            *("--cache-sizes", number(), "--hash-precisions", number(), "--lid-hop-ms", number()),
            *("--shadow-rate", number(), "--limit", number(), "--workers", number()),
        ],
    }
    kind = rng.choice(list(commands))
    argv = commands[kind]() + ["--json"] * (rng.random() < 0.5)
    return partial(call, argv)


def call(argv: list[str]) -> None:
    """Run a command in this process: 0, or 1 with a line that says why, or 2 for wrong usage; and JSON is JSON."""
    from whisperlab.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as left:
            code = int(left.code or 0)
    said = err.getvalue()
    said.encode()
    assert code in (0, 1, 2)
    assert "Traceback" not in said
    why = [line for line in said.splitlines() if line.startswith("whisperlab: error: ") or ": error: " in line]
    assert (code == 0) == (not why), f"exit {code}, said: {said}"
    if "--json" in argv:
        for line in out.getvalue().splitlines():
            json.loads(line, parse_constant=lambda name: 1 / 0)
    if code:
        raise RefusedError(why[-1])


class RefusedError(WhisperlabError):
    """A command that left with an error."""


# --- the targets ----------------------------------------------------------------------------------------

SEEDS = Path("seeds")


@cache
def targets() -> dict[str, Target]:
    """All of them, with their seeds."""
    option_groups = (VadOptions, LanguageIdOptions, SmoothingOptions, SwitchOptions, DecodingOptions, SessionOptions)
    wrong = (ConfigurationError, AudioFormatError, BufferRangeError)
    return {
        "audio": Files(_seeds("audio"), DAMAGE, read_sound, (AudioFormatError,)),
        "wav": Values({"wav of fields": wav_of_fields}, (AudioFormatError,)),
        "array": Values(
            {
                "as_audio": array_to_audio,
                "ring": array_to_ring,
                "cache": array_to_cache,
                "transcriber": array_to_transcriber,
            },
            wrong,
        ),
        "option": Values(
            {
                **{group.__name__: partial(options, group) for group in option_groups},
                "ring": ring_options,
                "cache": cache_options,
                "metrics": metrics_options,
                "chunks": audio_options,
                "transcriber": transcriber_options,
            },
            wrong,
        ),
        "manifest": Files(_seeds("manifest"), DAMAGE_JSON, read_manifest, (ManifestError,)),
        "trace": Files(_seeds("trace"), DAMAGE_JSON, read_whole_trace, (TraceError, ConfigurationError)),
        "transcript": Files(_seeds("transcript"), DAMAGE_JSON, score_transcript, (RefusedError,)),
        "store": Files(_seeds("store"), DAMAGE_JSON, read_store, (SweepError, ConfigurationError)),
        "trace-page": Files(_seeds("trace"), DAMAGE_VALUES, draw_traces, (TraceError, RefusedError)),
        "row-page": Values({"damaged row": damaged_rows}, (WhisperlabError,)),
        "edited-store": Values(
            {kind: partial(edited_store, kind) for kind in fuzzing_stores.EDITS}, (WhisperlabError,)
        ),
        "configuration": Files(_seeds("configuration"), DAMAGE_JSON, read_configuration, (ConfigurationError,)),
        "checkpoint": Files(_seeds("checkpoint"), DAMAGE, read_checkpoint, (WeightsError,)),
        "contents": Values({"checkpoint": checkpoint_of}, (WeightsError,)),
        "command": Values({"command": command}, (RefusedError,)),
    }


def score_transcript(path: Path) -> None:
    """Through the command line: there is no other way in."""
    call(["score", str(path), "--reference", str(SEEDS / "audio.manifest"), "--json"])


def _seeds(of: str) -> tuple[tuple[str, bytes], ...]:
    found = SEEDS / of if of == "audio" else SEEDS
    pattern = "*" if of == "audio" else f"*.{of}"
    return tuple((path.suffix[1:], path.read_bytes()) for path in sorted(found.glob(pattern)))


def make_seeds(folder: Path) -> None:
    """Valid inputs, made of the beginning of a real recording."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    recording = corpora.load("ivr-five", "dev")[0]
    said = audio_files.read_audio(recording.audio_path)[: 2 * SAMPLE_RATE]
    audio_files.write_wav(folder / "speech.wav", said)
    _audio_seeds(folder / "audio", said[SAMPLE_RATE // 2 :][: round(CLIP_S * SAMPLE_RATE)])
    torch.manual_seed(0)
    _checkpoint_seeds(folder)
    _json_seeds(folder, recording)
    fuzzing_stores.make_template(folder / "template", call)
    traces = sorted((folder / "template" / "done" / results_store.TRACES).iterdir())
    for number, path in enumerate(traces[:2]):
        shutil.copyfile(path, folder / f"talker{number}.trace")


def _audio_seeds(folder: Path, said: np.ndarray) -> None:
    for container, subtypes in {
        "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"),
        "FLAC": ("PCM_16",),
        "OGG": ("VORBIS", "OPUS"),
        "MP3": ("MPEG_LAYER_III",),
        "AIFF": ("PCM_16",),
        "WAVEX": ("PCM_24",),
        "RF64": ("PCM_16",),
        "W64": ("PCM_16",),
        "AU": ("PCM_16",),
        "CAF": ("ALAC_16",),
        "NIST": ("PCM_16", "ULAW"),
        "VOC": ("PCM_16",),
    }.items():
        for subtype in subtypes:
            path = folder / f"{subtype}.{container.lower()}"
            soundfile.write(path, said, SAMPLE_RATE, format=container, subtype=subtype)
    stereo = np.stack([said, said[::-1]], axis=1)
    soundfile.write(folder / "stereo.wav", stereo, 44_100)
    soundfile.write(folder / "stereo.flac", stereo, 8_000)
    joined = (folder / "PCM_16.wav").read_bytes()
    (folder / "joined.wav").write_bytes(2 * joined)
    _ffmpeg_seeds(folder, np.rint(said * 32767).astype(np.int16))


# Containers and codecs that FFmpeg writes, by rate. The others that whisperlab reads have no encoder.
ENCODED = {
    8_000: "amr:libopencore_amrnb 3gp:libopencore_amrnb flv:nellymoser rm:real_144 wav:g726 wav:pcm_alaw",
    16_000: "g722:g722 wav:adpcm_yamaha wav:pcm_f64le wv:wavpack tta:tta voc:pcm_u8 sox:pcm_s32le ircam:pcm_s16le "
    "caf:alac mov:pcm_s16be avi:pcm_s16le aiff:pcm_s24be w64:pcm_f32le",
    44_100: "flv:adpcm_swf flv:libmp3lame asf:wmav1 mp4:alac mp3:libmp3lame",
    48_000: "matroska:aac mp4:aac ipod:aac webm:libopus flv:aac adts:aac latm:aac ac3:ac3 eac3:eac3 asf:wmav2 "
    "mpegts:mp2 mpegts:aac mpeg:mp2 vob:ac3 avi:mp2 rm:ac3 mp2:mp2 matroska:pcm_s16le",
}


def _ffmpeg_seeds(folder: Path, pcm: np.ndarray) -> None:
    import av

    for rate, kinds in ENCODED.items():
        for container, codec in (kind.split(":") for kind in kinds.split()):
            with av.open(str(folder / f"{codec}.{container}"), "w", format=container) as out:
                stream = out.add_stream(codec, rate=rate, layout="mono")
                stream.bit_rate = 12_200 if "amr" in codec else 64_000  # WMA has no default
                frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
                frame.sample_rate = 16_000
                convert = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or None)
                frames = [*convert.resample(frame), *convert.resample(None)]
                for each in frames:
                    out.mux(stream.encode(each))
                out.mux(stream.encode(None))


def _checkpoint_seeds(folder: Path) -> None:
    (folder / "tiny.pt").write_bytes(saved(_checkpoint(TINY)))
    few = {"n_vocab": 51, "n_audio_ctx": 15, "n_text_ctx": 4, "n_mels": 4}
    small = _checkpoint({**TINY, **few, "n_audio_layer": 1, "n_text_layer": 1})
    (folder / "zip.checkpoint").write_bytes(saved(small))
    (folder / "old.checkpoint").write_bytes(saved(small, _use_new_zipfile_serialization=False))


def _checkpoint(dims: dict[str, int]) -> dict[str, Any]:
    """Random weights: openai-whisper leaves some of them as the memory happens to be."""
    shapes = tensor_shapes(dims)
    return {"dims": dims, "model_state_dict": {name: torch.randn(shape).half() / 4 for name, shape in shapes}}


def _json_seeds(folder: Path, recording: corpora.Recording) -> None:
    said = [replace(s, end=min(s.end, 2.0)) for s in recording.segments if s.start < 2.0]
    whole = asdict(recording) | {"audio_path": folder / "speech.wav", "duration": 2.0, "segments": tuple(said)}
    corpora.write_manifest(folder / "audio.manifest", [corpora.Recording(**whole)])
    nemo = {"audio_filepath": "speech.wav", "duration": 2.0, "text": "hello", "lang": "en", "noise_snr_db": 10}
    (folder / "nemo.manifest").write_text(json.dumps(nemo) + "\n" + json.dumps({**nemo, "id": "b"}) + "\n")
    recordings = corpora.read_manifest(folder / "audio.manifest")
    grid = sweep.Grid({"cache.size": (2, 50), "cache.hash_precision": (0,)}, {"languages": ["en", "es"]})
    tiny = models.load_weights(folder / "tiny.pt")
    done = folder / "sweep"
    sweep.run_sweep(
        grid.configurations(),
        recordings,
        done,
        model_digest="0" * 64,
        make_transcriber=sweep.transcriber_maker(tiny),
        progress=False,
    )
    rows = results_store.read_rows(done)
    (folder / "results.store").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = next((done / results_store.TRACES).glob("*.jsonl"))
    (folder / "speech.trace").write_bytes(trace.read_bytes())
    with contextlib.redirect_stdout(io.StringIO()) as told:
        from whisperlab.cli import main

        main(
            [
                "transcribe",
                str(folder / "speech.wav"),
                "--model",
                str(folder / "tiny.pt"),
                "--languages",
                "en,es",
                "--json",
            ]
        )
    (folder / "speech.transcript").write_text(told.getvalue())
    configuration = {
        "precision": "fp32",
        "cache_size": 50,
        "hash_precision": 6,
        "key": "rounded",
        "lid_hop_ms": 100,
        "vad": asdict(VadOptions()),
        "lid": asdict(LanguageIdOptions()),
        "smoothing": asdict(SmoothingOptions()),
        "decoding": asdict(DecodingOptions()),
        "session": asdict(SessionOptions()),
    }
    (folder / "all.configuration").write_text(json.dumps(configuration))
    (folder / "some.configuration").write_text(json.dumps({"shadow_rate": 0.1, "lid": {"sure": 0.9}}))


def be_ready(seeds: Path) -> None:
    """Read what the cases need from the seeds, and let nothing be fetched."""
    global SEEDS
    SEEDS = seeds.resolve()
    os.environ["WHISPERLAB_CACHE"] = os.fspath(Path("no-cache").resolve())
    torch.set_num_threads(1)
    commands.build_parser = cache(commands.build_parser)  # a tenth of the time of a command
    weights()
    speech()


def main(argv: Sequence[str]) -> None:
    """See the module's first lines."""
    if len(argv) == 1:
        make_seeds(Path(argv[0]).resolve())
        return
    be_ready(Path(argv[0]))
    names = argv[1].split(",")

    def case(number: int) -> tuple[str, Callable[[], str]]:
        name, number = names[number % len(names)], number // len(names)
        target = targets()[name]
        kind, run = target.draw(random.Random(f"{name} {number}"))
        return f"{name}: {kind}" if len(names) > 1 else kind, partial(answer, run, target.errors)

    serve(case, int(argv[2]), int(argv[3]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The variants of an ablation, their time and memory, and the cost of one language-ID frame."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.experiments.other_systems import EncoderWork, TableRow, encoder_work, load_faster_whisper, select
from whisperlab.experiments.reference_pipeline import reference_transcriber
from whisperlab.experiments.results_store import Say
from whisperlab.experiments.sweep import cache_summary
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import activations, packed_linear
from whisperlab.model.weights import Weights, load_model, load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.json_values import Json
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.statistics import Array, Figure, ratio, summary, wilson
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import Subject, feed, rotations, time_in_turns

if TYPE_CHECKING:
    from whisper.model import Whisper

CHUNK_MS = 100
PEAK_SIZE = 1024  # of the square product that estimates the machine's peak

BEFORE, GUIDE, DEFAULT = "before", "guide", "default"


@dataclass(frozen=True)
class Models:
    """The model in both forms, each loaded on first use, and the allowed languages; the same for all variants."""

    name: str
    languages: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.name)

    @cached_property
    def whisper(self) -> Whisper:
        return load_model(self.name)


@dataclass(slots=True, frozen=True)
class Variant:
    """One way to run the pipeline."""

    name: str
    # the reference pipeline; the guide's design; default options; one optimisation removed or replaced; one added
    kind: Literal["before", "guide", "default", "off", "on"]
    description: str
    options: Mapping[str, object] = field(default_factory=dict)  # by dotted name
    parts: Parts = Parts()

    @property
    def config(self) -> TranscriberConfig:
        return TranscriberConfig().replace(self.options)

    def transcriber(self, models: Models) -> SessionRestartTranscriber:
        if self.kind in ("before", "guide"):
            return reference_transcriber(models.whisper, models.languages, guide=self.kind == "guide")
        return SessionRestartTranscriber(models.weights, models.languages, config=self.config, parts=self.parts)


_PADDED = {
    "language_id.trailing_silence_ms": 27_500,
    "language_id.onset_trailing_silence_ms": 28_000,
    "decoding.trailing_silence_s": [30.0],
}
_EVERY_HOP = {"language_id.confident_hop_factor": 1}
_BOTH_WINDOWS = {"language_id.onset_only_ms": 30_000}
_IN_SILENCE_TOO = Parts(frame_due=lambda probe: probe.received >= probe.window)
_UNSHARED = "the check of the language and the decoding encode separately"
_UNGATED = "every 100 ms, in silence too, both windows"

_VARIANTS = (
    Variant(BEFORE, "before", "np.concatenate, every frame padded to 30 s, no cache, fp32, openai-whisper's modules"),
    Variant(GUIDE, "guide", "the same with the guide's ring buffers and its cache of rounded audio"),
    Variant(DEFAULT, "default", "whisperlab with its defaults"),
    Variant("without short windows", "off", "language-ID and decoding padded to 30 s", _PADDED),
    Variant("without bfloat16", "off", "products in 32-bit floats", {"compute.precision": "fp32"}),
    Variant("with int8", "off", "products in 8 bits, in the encoder too", {"compute.precision": "int8"}),
    Variant("without pooling", "off", "all positions through all blocks", {"language_id.pool_after": None}),
    Variant("without onset windows", "off", "the last 2.5 s only", {"language_id.onset_ms": 0}),
    Variant("always both windows", "off", "2.5 s and the speech since the last pause", _BOTH_WINDOWS),
    Variant("without adaptive hop", "off", "every 100 ms of speech", _EVERY_HOP),
    Variant("without the cache", "off", "no answer is reused", {"cache.size": 0}),
    Variant("without gating", "off", _UNGATED, {**_EVERY_HOP, **_BOTH_WINDOWS}, _IN_SILENCE_TOO),
    Variant("without sharing", "off", _UNSHARED, {"session.share": False}),
    Variant("with batches of 3", "on", "frames encoded three at a time", {"language_id.batch": 3}),
    Variant("in parallel", "on", "decoding in a second thread, one core each", {"session.parallel_ms": 400}),
    Variant("compiled", "on", "the encoder compiled ahead of time", {"compute.compiled": True}),
    Variant("on two threads", "on", "two compute threads for each operator", {"compute.threads": 2}),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}
SLOW = (BEFORE, GUIDE, "without short windows")  # slower than real time: not run on whole recordings


def select_variants(names: Iterable[str] | None) -> list[Variant]:
    """The variants whose name contains one of the given texts, with before, guide and default; all if None.

    >>> [variant.name for variant in select_variants(["int8"])]
    ['before', 'guide', 'default', 'with int8']
    """
    wanted = None if names is None else [*names, BEFORE, GUIDE, DEFAULT]
    return [VARIANTS[name] for name in select(wanted, VARIANTS, "variant")]


@dataclass(slots=True)
class Measurement:
    """Time, work and memory of one variant; the chunks are the same for all variants."""

    chunk_ms: list[list[float]] = field(default_factory=list)  # by stretch
    metrics: PerformanceMetrics = field(default_factory=PerformanceMetrics)
    work: EncoderWork = field(default_factory=EncoderWork)
    audio_s: float = 0.0
    peak_bytes: int | None = None  # added to the interpreter and its libraries
    steady_bytes: int | None = None  # the same after all audio
    scores: TableRow = field(default_factory=dict)

    @property
    def all_ms(self) -> Array:
        return np.concatenate([np.asarray(stretch) for stretch in self.chunk_ms])


def timings(
    stretches: Sequence[FloatArray], variants: Sequence[Variant], models: Models, *, say: Say = lambda line: None
) -> dict[str, Measurement]:
    """Time every variant on every stretch, in turns, after one second of warm-up each."""
    made = {variant.name: variant.transcriber(models) for variant in variants}
    found = {variant.name: Measurement() for variant in variants}
    for transcriber in made.values():
        chunk_times(transcriber, stretches[0][:SAMPLE_RATE])
    for number, (stretch, order) in enumerate(zip(stretches, rotations(made), strict=False), 1):
        audio_s = duration_s(stretch)
        for name in order:
            transcriber, timing = made[name], found[name]
            took = chunk_times(transcriber, stretch)
            timing.chunk_ms.append(took)
            timing.metrics.merge(transcriber.metrics)
            timing.work += encoder_work(transcriber.get_statistics())
            timing.audio_s += audio_s
            say(f"stretch {number} of {len(stretches)}: {name}: {sum(took) / 1000:.1f} s for {audio_s:.0f} s")
    return found


def chunk_times(transcriber: SessionRestartTranscriber, audio: FloatArray) -> list[float]:
    """Milliseconds of each chunk; the last includes the end of the stream."""
    transcriber.reset()
    results, readings = feed(transcriber, audio, samples(CHUNK_MS / 1000)), [time.perf_counter()]
    readings += (time.perf_counter() for _ in results)
    took = (1000 * np.diff(readings)).tolist()
    return [*took[:-2], took[-2] + took[-1]]


def memory_of(task: tuple[str, Models, Recording, float]) -> tuple[int, int]:
    """Peak and final bytes that a variant, by name, adds to this fresh process and its libraries."""
    import whisper
    import whisper.timing  # load all libraries first, so that they are not measured
    from whisper.tokenizer import get_tokenizer

    from whisperlab.model.tokenizer import tokenizer_for

    variant, models, recording, length_s = task
    audio = recording.audio()[: samples(length_s)]
    get_tokenizer(multilingual=True)
    tokenizer_for("en")
    whisper.log_mel_spectrogram(audio[:SAMPLE_RATE])
    libraries = process_memory()["VmRSS"]
    reset_peak_rss()
    chunk_times(VARIANTS[variant].transcriber(models), audio)
    after = process_memory()
    return after["VmHWM"] - libraries, after["VmRSS"] - libraries


def hit_figures(variant: str, caches: Sequence[Json]) -> list[Figure]:
    """Hit and false-hit rate of a cache over several runs; Wilson's interval, although hits are not independent."""
    found = cache_summary(caches)
    figures = [Figure(f"{variant}: hit rate", found["hit_rate"] or 0.0, "", n=found["hits"] + found["misses"])]
    if n := found["checked"]:
        interval = wilson(found["false_hits"], n)
        figures.append(Figure(f"{variant}: false-hit rate", found["false_hit_rate"], "", *interval, n))
    return figures


def beside_offline(stretches: Sequence[FloatArray], models: Models, *, say: Say = lambda line: None) -> list[Figure]:
    """Real-time factors of the default, fed in chunks, and of faster-whisper on whole stretches, in turns."""
    engine = load_faster_whisper(models.name, say=say)
    transcriber = VARIANTS[DEFAULT].transcriber(models)
    for_stream, for_offline = itertools.cycle(stretches), itertools.cycle(stretches)
    subjects: dict[str, Subject] = {
        "stream": lambda: chunk_times(transcriber, next(for_stream)),
        "offline": lambda: list(engine.transcribe(next(for_offline), multilingual=True)[0]),
    }
    time_in_turns(subjects, len(stretches), time.perf_counter_ns)  # warm-up
    times = time_in_turns(subjects, max(2 * len(stretches), 6), time.perf_counter_ns)

    def factors(took: Sequence[float]) -> list[float]:
        return [ms / 1000 / duration_s(audio) for ms, audio in zip(took, itertools.cycle(stretches), strict=False)]

    return [
        summary("real-time factor: default, a stream", "", factors(times["stream"])),
        summary("real-time factor: faster-whisper int8, multilingual, offline", "", factors(times["offline"])),
        ratio("default / faster-whisper", times["stream"], times["offline"]),
    ]


def frame_figures(models: Models, speech: FloatArray, rounds: int = 31) -> list[Figure]:
    """A language-ID frame of 2 s beside openai-whisper's ``detect_language``, and the encoder beside the peak rate.

    All take turns, by the wall clock. The frame is ``lid.total`` of the transcriber: window, hash, mel, pooled encoder,
    posterior and smoothing. The encoder's share of the peak counts its multiplications and additions only.
    """
    import whisper

    window = np.resize(speech, samples(3))[samples(1) :]
    encoder, _ = prepared(models.weights)
    padded, model = whisper.pad_or_trim(window), models.whisper
    silence_ms, kind = TranscriberConfig().language_id.trailing_silence_ms, activations(encoder.precision)
    mel = encoder.mel([window], len(window))
    square = torch.randn(PEAK_SIZE, PEAK_SIZE).to(kind)
    peak = packed_linear(square, None, "bf16" if kind is torch.bfloat16 else "fp32")

    def frame(silence_ms: int) -> Subject:
        lid = {"window_ms": 2000, "trailing_silence_ms": silence_ms, "onset_ms": 0}
        config = TranscriberConfig.from_json({"decode": False, "language_id": lid, "cache": {"size": 0}})
        transcriber = SessionRestartTranscriber(models.weights, models.languages, config=config)
        transcriber.process(window)
        return transcriber.evaluate_frame

    subjects: dict[str, Subject] = {
        "openai-whisper": lambda: model.detect_language(whisper.log_mel_spectrogram(padded)),
        "frame": frame(0),
        "frame with silence": frame(silence_ms),
        "encoder": lambda: encoder.forward(mel, None),
        "peak": lambda: peak(square),
    }
    with torch_threads(THREADS), torch.inference_mode():
        times = time_in_turns(subjects, rounds, time.perf_counter_ns)
    theirs, frame_ms = times["openai-whisper"], times["frame"]
    spent = {name: median(ms) / 1000 for name, ms in times.items()}
    rate = encoder_flop(models.weights, positions(len(window))) / spent["encoder"]
    peak_rate = 2 * PEAK_SIZE**3 / spent["peak"]
    silence = f"{silence_ms / 1000:g} s of silence"
    return [
        ratio("openai-whisper's detect_language / a frame of 2 s", theirs, frame_ms),
        ratio(f"openai-whisper's detect_language / a frame of 2 s and {silence}", theirs, times["frame with silence"]),
        summary("a frame of 2 s", "ms", frame_ms),
        Figure("its p95", float(np.percentile(frame_ms, 95)), "ms", n=rounds),
        summary("openai-whisper's detect_language", "ms", theirs),
        summary(f"encoder, 2 s, {encoder.precision}, all positions", "ms", times["encoder"]),
        Figure("its rate", rate / 1e12, "TFLOP/s", n=rounds),
        Figure(f"peak: product of {PEAK_SIZE} x {PEAK_SIZE}", peak_rate / 1e12, "TFLOP/s"),
        Figure("rate / peak", rate / peak_rate, ""),
    ]


def encoder_flop(weights: Weights, n: int) -> float:
    """Multiplications and additions of the encoder over ``n`` positions: products and attention."""
    mels, state = weights.dims["n_mels"], weights.dims["n_audio_state"]
    convolutions = 2 * n * 3 * mels * state + n * 3 * state * state
    block = n * 12 * state * state + 2 * n * n * state
    return 2.0 * (convolutions + weights.dims["n_audio_layer"] * block)

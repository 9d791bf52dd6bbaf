"""Time, memory and accuracy of the variants, and the cost of one language-ID frame."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from whisperlab.config import CacheOptions, TranscriberConfig
from whisperlab.experiments.ablation.variants import DEFAULT, VARIANTS, Models, Variant
from whisperlab.experiments.sweep import cache_summary
from whisperlab.experiments.systems import (
    EncoderWork,
    Say,
    System,
    SystemOutput,
    encoder_work,
    load_faster_whisper,
    reused,
)
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import activations, packed_linear
from whisperlab.model.weights import Weights
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.json_values import Json
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.statistics import Array, Figure, ratio, summary, wilson
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import feed, rotations, time_in_turns

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.evaluation.trace import Reference

CHUNK_MS = 100
PEAK_SIZE = 1024  # of the square product that estimates the machine's peak


@dataclass(slots=True)
class Timing:
    """The time of one variant: milliseconds per chunk, the same chunks for all variants, and its metrics."""

    chunk_ms: list[list[float]] = field(default_factory=list)  # by stretch
    metrics: PerformanceMetrics = field(default_factory=PerformanceMetrics)
    work: EncoderWork = field(default_factory=EncoderWork)
    audio_s: float = 0.0

    @property
    def all_ms(self) -> Array:
        return np.concatenate([np.asarray(stretch) for stretch in self.chunk_ms])


def timings(
    stretches: Sequence[FloatArray],
    variants: Sequence[Variant],
    models: Models,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = lambda line: None,
) -> dict[str, Timing]:
    """Time every variant on every stretch, in turns, after one second of warm-up each."""
    made = {variant.name: variant.transcriber(models) for variant in variants}
    found = {variant.name: Timing() for variant in variants}
    for transcriber in made.values():
        chunk_times(transcriber, stretches[0][:SAMPLE_RATE], clock)
    for number, (stretch, order) in enumerate(zip(stretches, rotations(made), strict=False), 1):
        audio_s = duration_s(stretch)
        for name in order:
            transcriber, timing = made[name], found[name]
            took = chunk_times(transcriber, stretch, clock)
            timing.chunk_ms.append(took)
            timing.metrics.merge(transcriber.metrics)
            timing.work += encoder_work(transcriber.get_statistics())
            timing.audio_s += audio_s
            say(f"stretch {number} of {len(stretches)}: {name}: {sum(took) / 1000:.1f} s for {audio_s:.0f} s")
    return found


def chunk_times(
    transcriber: SessionRestartTranscriber, audio: FloatArray, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Milliseconds of each chunk; the last includes the end of the stream."""
    transcriber.reset()
    results, readings = feed(transcriber, audio, samples(CHUNK_MS / 1000)), [clock()]
    readings += (clock() for _ in results)
    took = (1000 * np.diff(readings)).tolist()
    return [*took[:-2], took[-2] + took[-1]]


@dataclass(slots=True, frozen=True)
class Memory:
    """Bytes a variant added to the interpreter and its libraries."""

    peak: int
    steady: int  # after all audio


def memory_of(variant: Variant, models: Models, recording: Recording, length_s: float) -> Memory:
    """The memory of one variant in a fresh process that loads its model and processes so much audio."""
    return in_fresh_process(_memory, (variant.name, models.name, models.languages, recording, length_s))


def _memory(task: tuple[str, str, Sequence[str], Recording, float]) -> Memory:
    import whisper
    import whisper.timing  # load all libraries first, so that they are not measured
    from whisper.tokenizer import get_tokenizer

    from whisperlab.model.tokenizer import tokenizer_for

    variant, model, languages, recording, length_s = task
    audio = recording.audio()[: samples(length_s)]
    get_tokenizer(multilingual=True)
    tokenizer_for("en")
    whisper.log_mel_spectrogram(audio[:SAMPLE_RATE])
    libraries = process_memory()["VmRSS"]
    reset_peak_rss()
    chunk_times(VARIANTS[variant].transcriber(Models(model, languages)), audio)
    after = process_memory()
    return Memory(after["VmHWM"] - libraries, after["VmRSS"] - libraries)


def hit_figures(variant: str, caches: Sequence[Json]) -> list[Figure]:
    """The hit rate of a cache over several runs, and the false-hit rate if hits were verified, from its statistics.

    The interval is Wilson's, although hits of one recording are not independent.
    """
    found = cache_summary(caches)
    rate = Figure(f"{variant}: hit rate", found["hit_rate"] or 0.0, "", n=found["hits"] + found["misses"])
    if not found["checked"]:
        return [rate]
    interval = wilson(found["false_hits"], found["checked"])
    false = Figure(f"{variant}: false-hit rate", found["false_hit_rate"], "", *interval, found["checked"])
    return [rate, false]


def as_system(variant: Variant, models: Models, caches: dict[str, list[Json]]) -> System:
    """The variant as a system for `other_systems.interleaved`.

    All hits of the default are verified, and ``caches`` receives the statistics of each run.
    """
    if variant.name != DEFAULT:
        return reused(lambda: variant.transcriber(models))
    verified = replace(variant, options={**variant.options, "cache.shadow_rate": 1.0}).transcriber(models)
    stream = reused(lambda: verified)

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        output = stream(audio, reference)
        caches.setdefault(variant.name, []).append(verified.encoder_cache.get_statistics())
        return output

    return run


def beside_offline(stretches: Sequence[FloatArray], models: Models, *, say: Say = lambda line: None) -> list[Figure]:
    """Real-time factors of the default, fed in chunks, and of faster-whisper on whole stretches, in turns.

    Fetches the weights in faster-whisper's format if they are not cached. Raises MissingDependencyError without the
    extra ``other-systems``.
    """
    engine = load_faster_whisper(models.name, say=say)
    transcriber = VARIANTS[DEFAULT].transcriber(models)
    for_stream, for_offline = itertools.cycle(stretches), itertools.cycle(stretches)
    subjects: dict[str, Callable[[], object]] = {
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

    def frame(silence_ms: int) -> Callable[[], object]:
        lid = LanguageIdOptions(window_ms=2000, trailing_silence_ms=silence_ms, onset_ms=0)
        config = TranscriberConfig(decode=False, language_id=lid, cache=CacheOptions(size=0))
        transcriber = SessionRestartTranscriber(models.weights, models.languages, config=config)
        transcriber.process(window)
        return transcriber.evaluate_frame

    subjects: dict[str, Callable[[], object]] = {
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

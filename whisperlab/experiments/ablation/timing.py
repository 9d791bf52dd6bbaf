"""Time, memory and accuracy of the variants."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.ablation.variants import DEFAULT, VARIANTS, Models, Setting, Variant
from whisperlab.experiments.systems import (
    EncoderWork,
    Say,
    System,
    SystemOutput,
    encoder_work,
    load_faster_whisper,
    streaming,
)
from whisperlab.metrics import PerformanceMetrics
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.statistics import Array, Figure, ratio, summary, wilson
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import feed, rotations, time_in_turns

if TYPE_CHECKING:
    from whisperlab.data import Recording

CHUNK_MS = 100


@dataclass(slots=True)
class Timing:
    """The time of one variant: milliseconds per chunk, the same chunks for all variants, and its metrics."""

    chunk_ms: list[list[float]] = field(default_factory=list)  # by stretch
    metrics: PerformanceMetrics = field(default_factory=PerformanceMetrics)
    work: EncoderWork = field(default_factory=EncoderWork)
    audio_s: float = 0.0

    @property
    def all_ms(self) -> Array:
        """The milliseconds of all chunks."""
        return np.concatenate([np.asarray(stretch) for stretch in self.chunk_ms])


def timings(
    stretches: Sequence[FloatArray],
    variants: Sequence[Variant],
    setting: Setting,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = lambda line: None,
) -> dict[str, Timing]:
    """Time every variant on every stretch, in turns, after one second of warm-up each."""
    models = Models(setting.model)
    made = {variant.name: variant.transcriber(models, setting.languages) for variant in variants}
    found = {variant.name: Timing() for variant in variants}
    for transcriber in made.values():
        chunk_times(transcriber, stretches[0][:SAMPLE_RATE], clock)
    for index, order in enumerate(rotations(made, len(stretches))):
        stretch = stretches[index]
        for name in order:
            transcriber, timing = made[name], found[name]
            took = chunk_times(transcriber, stretch, clock)
            timing.chunk_ms.append(took)
            timing.metrics.merge(transcriber.metrics)
            timing.work += encoder_work(transcriber.get_statistics())
            timing.audio_s += duration_s(stretch)
            say(
                f"stretch {index + 1} of {len(stretches)}: {name}: {sum(took) / 1000:.1f} s "
                f"for {duration_s(stretch):.0f} s"
            )
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
    mapped: int  # the part of the peak in file mappings, which the system can drop


@dataclass(slots=True, frozen=True)
class _MemoryTask:
    variant: str
    setting: Setting
    recording: Recording
    length_s: float


def memory_of(variant: Variant, setting: Setting, recording: Recording, length_s: float) -> Memory:
    """The memory of one variant in a fresh process that loads its model and processes so much audio."""
    return in_fresh_process(_memory, _MemoryTask(variant.name, setting, recording, length_s))


def _memory(task: _MemoryTask) -> Memory:
    import whisper
    import whisper.timing  # load all libraries first, so that they are not measured
    from whisper.tokenizer import get_tokenizer

    from whisperlab.model.tokenizer import tokenizer_for

    variant, audio = VARIANTS[task.variant], task.recording.audio()[: samples(task.length_s)]
    get_tokenizer(multilingual=True)
    tokenizer_for("en")
    whisper.log_mel_spectrogram(audio[:SAMPLE_RATE])
    libraries = process_memory()
    reset_peak_rss()
    chunk_times(variant.transcriber(Models(task.setting.model), task.setting.languages), audio)
    after = process_memory()
    return Memory(
        after["VmHWM"] - libraries["VmRSS"],
        after["VmRSS"] - libraries["VmRSS"],
        after["RssFile"] - libraries["RssFile"],
    )


@dataclass(slots=True)
class HitCount:
    """Lookups and hits of an encoder cache, and hits verified by encoding again."""

    lookups: int = 0
    hits: int = 0
    checked: int = 0
    false: int = 0

    def add(self, cache: Mapping[str, Any]) -> None:
        """Add a cache's statistics."""
        self.lookups += cache["hits"] + cache["misses"]
        self.hits += cache["hits"]
        self.checked += cache["shadow"]["checked"]
        self.false += cache["shadow"]["false_hits"]

    def figures(self, variant: str) -> list[Figure]:
        """The hit rate and the false-hit rate with its Wilson interval (hits of one recording are not independent)."""
        rate = Figure(f"{variant}: hit rate", self.hits / max(self.lookups, 1), "", n=self.lookups)
        if not self.checked:
            return [rate]
        low, high = wilson(self.false, self.checked)
        false = self.false / self.checked
        return [rate, Figure(f"{variant}: false-hit rate", false, "", low, high, self.checked)]


def as_systems(variants: Iterable[Variant], setting: Setting, hits: dict[str, HitCount]) -> dict[str, System]:
    """The variants as systems for `other_systems.interleaved`.

    ``hits`` receives the counts of each variant with a cache key of its own; all hits of such a cache are verified.
    """
    models = Models(setting.model)
    return {variant.name: _system(variant, models, setting.languages, hits) for variant in variants}


def _system(variant: Variant, models: Models, languages: Sequence[str], hits: dict[str, HitCount]) -> System:
    made: list[SessionRestartTranscriber] = []
    cached = "cache.key" in variant.options
    if cached:
        variant = replace(variant, options={**variant.options, "cache.shadow_rate": 1.0})

    def fresh(_: Reference) -> SessionRestartTranscriber:
        if not made:
            made.append(variant.transcriber(models, languages))
        made[0].reset()
        return made[0]

    stream = streaming(fresh)

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        output = stream(audio, reference)
        if cached:
            hits.setdefault(variant.name, HitCount()).add(made[0].encoder_cache.get_statistics())
        return output

    return run


def beside_offline(stretches: Sequence[FloatArray], setting: Setting, *, say: Say = lambda line: None) -> list[Figure]:
    """Real-time factors of the default, fed in chunks, and of faster-whisper on whole stretches, in turns.

    Fetches the weights in faster-whisper's format if they are not cached. Raises MissingDependencyError without the
    extra ``other-systems``.
    """
    engine = load_faster_whisper(setting.model, say=say)
    transcriber = VARIANTS[DEFAULT].transcriber(Models(setting.model), setting.languages)
    for_stream, for_offline = itertools.cycle(stretches), itertools.cycle(stretches)
    subjects: dict[str, Callable[[], object]] = {
        "stream": lambda: chunk_times(transcriber, next(for_stream)),
        "offline": lambda: list(engine.transcribe(next(for_offline), multilingual=True)[0]),
    }
    time_in_turns(subjects, len(stretches), time.perf_counter_ns)  # warm-up
    times = time_in_turns(subjects, max(2 * len(stretches), 6), time.perf_counter_ns)
    durations = [duration_s(stretch) for stretch in stretches]
    factors = {
        name: [ms / 1000 / audio_s for ms, audio_s in zip(took, itertools.cycle(durations), strict=False)]
        for name, took in times.items()
    }
    return [
        summary("real-time factor: default, a stream", "", factors["stream"]),
        summary("real-time factor: faster-whisper int8, multilingual, offline", "", factors["offline"]),
        ratio("default / faster-whisper", times["stream"], times["offline"]),
    ]

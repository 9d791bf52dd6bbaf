"""Ablation: the cost and accuracy of the pipeline with each optimisation switched off in turn, on the same audio.

Three kinds of measurement run separately, because each would distort the others: *time* (all variants take turns on the
same stretches of speech, with nothing else running), *memory* (each variant in a fresh process) and *accuracy* (whole
recordings, scored as any other system). Times are reported as ratios to the reference pipeline over the same chunks;
their intervals resample blocks of a few seconds, because neighbouring chunks are alike.
"""

from __future__ import annotations

import itertools
import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.experiments import other_systems as systems
from whisperlab.experiments.ablation import variants as known
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE, Models, Variant, select_variants
from whisperlab.experiments.other_systems import RATES, EncoderWork, TableRow
from whisperlab.experiments.results_store import Say
from whisperlab.experiments.sweep import cache_summary
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import activations, packed_linear
from whisperlab.model.weights import Weights
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.statistics import BLOCK, LEAST_UNITS, Array, Figure, Interval, block_ratio, ratio, summary, wilson
from whisperlab.util.text_table import with_interval
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import Subject, feed, rotations, time_in_turns

__all__ = ["BEFORE", "DEFAULT", "GUIDE", "Ablation", "Models", "limits", "measure", "readable", "select_variants"]

CHUNK_MS = 100
PEAK_SIZE = 1024  # of the square product that estimates the machine's peak
STRETCH_S = 15.0  # timed audio of each recording; the reference pipeline takes over a minute for it


MEASURES: dict[str, Callable[[Array], np.float64]] = {
    "chunk_ms_mean": np.mean,
    **{f"chunk_ms_p{q}": partial(np.percentile, q=q) for q in (50, 95, 99)},
}
SCORES = (
    "mixed_error_rate",
    *("switch_f1_at_1", "switch_f1_at_2"),
    "language_error_rate",
    *("decision_delay_found_p50", "decision_delay_found_p95"),
    "false_switches_per_hour",
    "encoded_s_per_s",
)
_TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))


@dataclass(slots=True, frozen=True)
class Ablation:
    """The result: tables of variants, of the time of each operation, and of claims; and single figures."""

    rows: tuple[TableRow, ...]
    operations: tuple[TableRow, ...]
    claims: tuple[TableRow, ...]  # reductions, as a share of before: the guide's, of its design, and of the default
    figures: tuple[Figure, ...]  # of `frame_figures`, and perhaps of `beside_offline` and caches with hits


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


def measure(
    recordings: Sequence[Recording],
    *,
    names: Iterable[str] | None = None,
    model: str = "base",
    stretch_s: float = STRETCH_S,
    memory: bool | Collection[str] = True,  # also run each variant in a fresh process; or the names of those to run
    accuracy: Sequence[Recording] = (),  # recordings to score the variants on, except those slower than real time
    accuracy_names: Collection[str] | None = None,  # the variants to score; None for all
    offline: bool = False,  # also interleave faster-whisper on the same stretches (`beside_offline`)
    rounds: int = 31,  # of one language-ID frame beside openai-whisper's
    say: Say = lambda line: None,
) -> Ablation:
    """Measure the variants that `select_variants` finds, on the first ``stretch_s`` seconds of each recording."""
    if not recordings:
        raise ConfigurationError("there are no recordings to measure on")
    variants, rng = select_variants(names), np.random.default_rng(0)
    languages = sorted({language for recording in recordings for language in recording.languages})
    models = Models(model, tuple(languages))
    stretches = [recording.audio()[: samples(stretch_s)] for recording in recordings]
    found = timings(stretches, variants, models, say=say)
    scored = {one.name: one for one in variants if one.name not in known.SLOW}
    scored[DEFAULT] = replace(scored[DEFAULT], options={"cache.shadow_rate": 1.0})  # all its hits are checked
    wanted = scored if accuracy_names is None else accuracy_names
    makers = {name: systems.reused(partial(one.transcriber, models)) for name, one in scored.items() if name in wanted}
    results = list(systems.interleaved(accuracy, makers, say=say))
    for row in systems.summarise(results, rng):
        found[row["system"]].scores = row
    for name, one in found.items():
        if memory is True or (memory and name in memory):
            task = (name, Models(model, models.languages), recordings[0], stretch_s)
            one.peak_bytes, one.steady_bytes = in_fresh_process(memory_of, task)
            say(f"{name}: {one.peak_bytes / 1e6:.0f} MB above the libraries")
    rows = [variant_row(one, found, rng) for one in variants]
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    operations = [
        {"variant": name, "operation": operation, **{key: statistics[key] for key in kept}}
        for name, one in found.items()
        for operation, statistics in one.metrics.get_statistics().items()
    ]
    say("one language-ID frame beside openai-whisper's detect_language")
    figures = frame_figures(models, stretches[0], rounds)
    if offline:
        say("beside faster-whisper")
        figures += beside_offline(stretches, models, say=say)
    if caches := [result.output.statistics["encoder_cache"] for result in results if result.name == DEFAULT]:
        figures += hit_figures(DEFAULT, caches)
    return Ablation(tuple(rows), tuple(operations), tuple(check_claims(rows, operations)), tuple(figures))


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
            timing.work += systems.encoder_work(transcriber.get_statistics())
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
    chunk_times(known.VARIANTS[variant].transcriber(models), audio)
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
    engine = systems.load_faster_whisper(models.name, say=say)
    transcriber = known.VARIANTS[DEFAULT].transcriber(models)
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


def variant_row(variant: Variant, found: Mapping[str, Measurement], rng: np.random.Generator) -> TableRow:
    """All measurements of one variant; ratios are to the reference pipeline."""
    one, before = found[variant.name], found[BEFORE]
    row: TableRow = {
        "variant": variant.name,
        "kind": variant.kind,
        "description": variant.description,
        "threads": variant.config.compute.threads,
        "chunks": len(one.all_ms),
    }
    for name, statistic in MEASURES.items():
        row[name] = statistic(one.all_ms)
        row[f"{name}_ratio"], row[f"{name}_ratio_95"] = block_ratio(one.chunk_ms, before.chunk_ms, statistic, rng)
    row["real_time_factor"] = float(one.all_ms.sum()) / 1000 / one.audio_s
    row["encoder_calls_per_s"] = one.work.calls / one.audio_s
    row["encoder_s_per_s"] = one.work.encoded_s / one.audio_s
    row["peak_memory_bytes"], row["steady_memory_bytes"] = one.peak_bytes, one.steady_bytes
    for name in SCORES:
        row[name] = one.scores.get(name)
        if f"{name}_95" in one.scores:
            row[f"{name}_95"] = one.scores[f"{name}_95"]
    return {**row, "normalizer": "plain"}


def check_claims(rows: Iterable[TableRow], operations: Iterable[TableRow]) -> list[TableRow]:
    """The guide's summary, line by line."""
    values = {row["variant"]: dict(row) for row in rows}
    for row in operations:
        values[row["variant"]][row["operation"]] = row["p95"]
    claims = []
    for what, entry in _TABLES["claims"].items():
        name, claimed = entry["column"], entry["claimed"]
        claim: TableRow = {"what": what, "claimed": claimed}
        for variant in (GUIDE, DEFAULT):
            own, before = values[variant].get(name), values[BEFORE].get(name)
            interval = values[variant].get(f"{name}_95")
            claim[variant] = None if own is None or not before else 1 - own / before
            claim[f"{variant}_95"] = interval and (1 - interval[1], 1 - interval[0])
        result = claim_result(claimed, claim[GUIDE], claim[f"{GUIDE}_95"])
        claims.append({**claim, "result": result, "reason": entry["reason"]})
    return claims


def claim_result(claimed: float, reduction: float | None, interval: Interval | None) -> str:
    """``reproduced`` if the claimed reduction is not above the measured one or its interval.

    >>> claim_result(0.35, 0.3, (0.2, 0.4)), claim_result(0.35, 0.02, (-0.05, 0.1)), claim_result(0.35, None, None)
    ('reproduced', 'not reproduced', 'not comparable')
    """
    if reduction is None:
        return "not comparable"
    most = reduction if interval is None else max(reduction, interval[1])
    return "reproduced" if most >= claimed else "not reproduced"


def readable(ablation: Ablation) -> list[list[dict[str, str]]]:
    """The tables as text: time, memory and work; accuracy; the guide's claims; figures."""
    scored = [row for row in ablation.rows if row["mixed_error_rate"] is not None]
    tables = (
        [_time_cells(row) for row in ablation.rows],
        [{"variant": row["variant"], **{n.replace("_", " "): _cell(row, n) for n in SCORES}} for row in scored],
        [
            {
                "the guide's claim": claim["what"],
                "less": f"{claim['claimed']:.0%}",
                "the guide's design, measured": _share(claim[GUIDE], claim[f"{GUIDE}_95"]),
                "whisperlab": _share(claim[DEFAULT], claim[f"{DEFAULT}_95"]),
                **{name: claim[name] for name in ("result", "reason")},
            }
            for claim in ablation.claims
        ],
        [
            {
                "figure": figure.figure,
                "value": f"{figure.value:.3g} {figure.unit}",
                "95 %": "-" if figure.low is None else f"{figure.low:.3g} to {figure.high:.3g}",
                "n": str(figure.n or "-"),
            }
            for figure in ablation.figures
        ],
    )
    return [rows for rows in tables if rows]


def _time_cells(row: TableRow) -> dict[str, str]:
    sizes = {name: row[f"{name}_memory_bytes"] for name in ("peak", "steady")}
    memory = {name: "-" if size is None else f"{size / 1e6:.0f}" for name, size in sizes.items()}
    ratios = {name: _cell(row, f"chunk_ms_{name}_ratio") for name in ("p95", "mean")}
    return {title: form.format_map({**row, **ratios, **memory}) for title, form in _TABLES["times"].items()}


def _cell(row: TableRow, name: str) -> str:
    few = name.endswith("ratio") or name in RATES
    return with_interval(row[name], row.get(f"{name}_95"), ".3g", without="no interval" if few else "")


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    shares = [f"{round(share, 2) + 0.0:.0%}" for share in (value, *(interval or ()))]  # never "-0%"
    return shares[0] + (f" ({shares[1]} to {shares[2]})" if interval else "")


def limits(ablation: Ablation) -> list[str]:
    """What the times do not show: too few chunks for an interval, variants that cannot be told from the default."""
    measure = "chunk_ms_p95_ratio"
    default = next(row for row in ablation.rows if row["variant"] == DEFAULT)
    n, interval = default["chunks"], default[f"{measure}_95"]
    if interval is None:
        return [
            f"{n} chunks (n) are fewer than {LEAST_UNITS} independent stretches of {BLOCK} chunks: there are no "
            f"intervals, and the order of the variants means nothing. It takes at least {LEAST_UNITS * BLOCK} chunks."
        ]
    alike = []
    for row in ablation.rows:
        low, high = row[f"{measure}_95"]
        if row["kind"] in ("off", "on") and low <= interval[1] and interval[0] <= high:
            needed, distance = "no difference at all", abs(row[measure] - default[measure])
            if distance:  # widths shrink with the root of the number of chunks
                widths = (high - low + interval[1] - interval[0]) / 2
                needed = f"about {float(f'{n * (widths / distance) ** 2:.1g}'):,.0f}"
            alike.append(f"{row['variant']} ({needed})")
    if not alike:
        return []
    return [
        f"With n = {n} chunks the intervals of these variants overlap with the default's, so no difference is shown. "
        f"In brackets: the chunks that would separate them if the ratios stayed as they are: {'; '.join(alike)}."
    ]

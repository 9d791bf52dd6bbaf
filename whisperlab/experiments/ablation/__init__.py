"""Ablation: the cost and accuracy of the pipeline with each optimisation switched off in turn, on the same audio.

*Time* (variants in turns, nothing else running), *memory* (a fresh process each) and *accuracy* (a sweep) are measured
separately, because each would distort the others. Times are ratios to the reference pipeline over the same chunks;
their intervals resample blocks of a few seconds, because neighbouring chunks are alike.
"""

import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator

from whisperlab.data import Recording
from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled
from whisperlab.experiments.ablation import variants as known
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE, Models, Variant, select_variants
from whisperlab.experiments.comparison import encoded_s
from whisperlab.experiments.results_store import Say, open_store
from whisperlab.experiments.sweep import run_sweep
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.weights import model_digest
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError, SweepError
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.statistics import Array, Interval, block_ratio, wilson
from whisperlab.util.text_table import with_interval
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import feed, rotations

__all__ = ["BEFORE", "DEFAULT", "GUIDE", "Ablation", "Models", "measure", "readable", "select_variants"]

CHUNK_MS = 100
STRETCH_S = 15.0  # timed audio of each recording; the reference pipeline takes over a minute for it

TableRow: TypeAlias = dict[str, Any]  # JSON-able; the interval of a column is in the column's name and "_95"
MEASURES: dict[str, Callable[[Array], np.float64]] = {
    "chunk_ms_mean": np.mean,
    **{f"chunk_ms_p{q}": partial(np.percentile, q=q) for q in (50, 95, 99)},
}
# The columns of each table as text (title = name of the value and its format), and the guide's claims.
_TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
_COLUMNS: dict[str, dict[str, tuple[str, str]]] = _TABLES["columns"]
SCORES: list[str] = _TABLES["scores"]


@dataclass(slots=True, frozen=True)
class Ablation:
    """The result: tables of cost and accuracy by variant, of the time of each operation, and of the guide's claims."""

    rows: tuple[TableRow, ...]
    scores: tuple[TableRow, ...]
    operations: tuple[TableRow, ...]
    claims: tuple[TableRow, ...]  # ratios to before: the guide's, of its design, and of the default


@dataclass(slots=True)
class Measurement:
    """Time, work and memory of one variant; the chunks are the same for all variants."""

    chunk_ms: list[list[float]] = field(default_factory=list)  # by stretch
    metrics: PerformanceMetrics = field(default_factory=PerformanceMetrics)
    encoder_calls: int = 0
    encoded_s: float = 0.0
    audio_s: float = 0.0
    peak_mb: float | None = None  # added to the interpreter and its libraries
    steady_mb: float | None = None  # the same after all audio

    @property
    def all_ms(self) -> Array:
        return np.concatenate([np.asarray(stretch) for stretch in self.chunk_ms])


def measure(
    recordings: Sequence[Recording],
    *,
    names: Iterable[str] | None = None,
    model: str = "base",
    stretch_s: float = STRETCH_S,
    memory: Collection[str] | None = None,  # the variants to run in a fresh process too; None for all
    accuracy: Sequence[Recording] = (),  # recordings to score the variants on, except those slower than real time
    accuracy_names: Collection[str] | None = None,  # the variants to score; None for all
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
    fast = [one for one in variants if one.name not in known.SLOW]
    scored = [one for one in fast if accuracy and (accuracy_names is None or one.name in accuracy_names)]
    scores = [score(one, accuracy, models, rng, say) for one in scored]
    for name, one in found.items():
        if memory is None or name in memory:
            task = (name, Models(model, models.languages), recordings[0], stretch_s)
            one.peak_mb, one.steady_mb = in_fresh_process(memory_of, task)
            say(f"{name}: {one.peak_mb:.0f} MB above the libraries")
    rows = [variant_row(one, found, rng) for one in variants]
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    operations = [
        {"variant": name, "operation": operation, **{key: statistics[key] for key in kept}}
        for name, one in found.items()
        for operation, statistics in one.metrics.get_statistics().items()
    ]
    return Ablation(tuple(rows), tuple(scores), tuple(operations), tuple(check_claims(rows, operations)))


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
            statistics = transcriber.get_statistics()
            timing.chunk_ms.append(took)
            timing.metrics.merge(transcriber.metrics)
            timing.encoder_calls += sum(statistics[part]["encoder_calls"] for part in ("lid", "sessions"))
            timing.encoded_s += encoded_s(statistics) or 0.0
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


def memory_of(task: tuple[str, Models, Recording, float]) -> tuple[float, float]:
    """Peak and final megabytes that a variant, by name, adds to this fresh process and its libraries."""
    from whisperlab.model.tokenizer import tokenizer_for  # loads a library, which is not measured

    variant, models, recording, length_s = task
    audio = recording.audio()[: samples(length_s)]
    tokenizer_for("en")
    libraries = process_memory()["VmRSS"]
    reset_peak_rss()
    chunk_times(known.VARIANTS[variant].transcriber(models), audio)
    after = process_memory()
    return (after["VmHWM"] - libraries) / 1e6, (after["VmRSS"] - libraries) / 1e6


def score(variant: Variant, recordings: Sequence[Recording], models: Models, rng: Generator, say: Say) -> TableRow:
    """Rates of a variant over whole recordings, with intervals over recordings; all hits of its cache are checked."""
    config = variant.config.replace({"languages": list(models.languages), "cache.shadow_rate": 1.0})
    digest, make = model_digest(models.weights), partial(variant.transcriber, models)
    with TemporaryDirectory(prefix="whisperlab-") as out:
        done = run_sweep([config], recordings, out, model_digest=digest, make_transcriber=make, progress=False)
        if done.failed:
            raise SweepError(f"{variant.name}: {done.failed[0]['recording']}: {done.failed[0]['error']}")
        with open_store(out) as store:
            rows, (cache,) = list(store.rows()), store.totals()
    say(f"{variant.name}: scored on {len(rows)} recordings")
    counts = [Score.from_dict(row["counts"]) for row in rows]
    rates, lookups, checked = pooled(counts).rates(), cache["hits"] + cache["misses"], cache["checked"]
    return {
        "variant": variant.name,
        "kind": variant.kind,
        "recordings": len(rows),
        "normalizer": "plain",
        **{name: rates[name] for name in SCORES},
        **{f"{name}_95": interval for name, interval in bootstrap_intervals(counts, SCORES, rng).items()},
        "encoded_s_per_s": sum(encoded_s(row["statistics"]) or 0.0 for row in rows) / rates["audio_s"],
        "hit_rate": cache["hits"] / lookups if lookups else None,
        "checked": checked,
        "false_hit_rate": cache["false_hits"] / checked if checked else None,
        "false_hit_rate_95": wilson(cache["false_hits"], checked) if checked else None,
    }


def variant_row(variant: Variant, found: Mapping[str, Measurement], rng: Generator) -> TableRow:
    """Times, work and memory of one variant; ratios are to the reference pipeline, of the p95 also to the default."""
    one, before = found[variant.name], found[BEFORE]
    row: TableRow = {
        "variant": variant.name,
        "kind": variant.kind,
        "description": variant.description,
        "threads": variant.config.compute.threads,
        "chunks": len(one.all_ms),
        "real_time_factor": float(one.all_ms.sum()) / 1000 / one.audio_s,
        "encoder_calls_per_s": one.encoder_calls / one.audio_s,
        "encoder_s_per_s": one.encoded_s / one.audio_s,
        "peak_memory_mb": one.peak_mb,
        "steady_memory_mb": one.steady_mb,
    }
    for name, statistic in MEASURES.items():
        row[name] = statistic(one.all_ms)
        row[f"{name}_ratio"], row[f"{name}_ratio_95"] = block_ratio(one.chunk_ms, before.chunk_ms, statistic, rng)
    to_default = block_ratio(one.chunk_ms, found[DEFAULT].chunk_ms, MEASURES["chunk_ms_p95"], rng)
    row["chunk_ms_p95_to_default"], row["chunk_ms_p95_to_default_95"] = to_default
    return row


def check_claims(rows: Iterable[TableRow], operations: Iterable[TableRow]) -> list[TableRow]:
    """The guide's summary, line by line, as ratios to the reference pipeline."""
    values = {row["variant"]: dict(row) for row in rows}
    for row in operations:
        values[row["variant"]][row["operation"]] = row["p95"]
    claims = []
    for what, entry in _TABLES["claims"].items():
        name, claim = entry["column"], {"what": what, **entry}
        for variant in (GUIDE, DEFAULT):
            own, before = values[variant].get(name), values[BEFORE].get(name)
            claim[variant] = None if own is None or not before else own / before
            claim[f"{variant}_95"] = values[variant].get(f"{name}_95")
        claims.append({**claim, "result": claim_result(entry["claimed"], claim[GUIDE], claim[f"{GUIDE}_95"])})
    return claims


def claim_result(claimed: float, ratio: float | None, interval: Interval | None) -> str:
    """``reproduced`` if the measured ratio, or the low end of its interval, is not above the claimed one.

    >>> claim_result(0.65, 0.7, (0.6, 0.8)), claim_result(0.65, 0.98, (0.9, 1.05)), claim_result(0.65, None, None)
    ('reproduced', 'not reproduced', 'not comparable')
    """
    if ratio is None:
        return "not comparable"
    least = ratio if interval is None else min(ratio, interval[0])
    return "reproduced" if least <= claimed else "not reproduced"


def readable(ablation: Ablation) -> dict[str, list[dict[str, str]]]:
    """The tables as text, by name: ``rows`` (time, memory, work), ``scores`` if there are any, and ``claims``."""
    tables = {name: [_cells(row, columns) for row in getattr(ablation, name)] for name, columns in _COLUMNS.items()}
    return {name: cells for name, cells in tables.items() if cells}


def _cells(row: TableRow, columns: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    cells = {}
    for title, (name, form) in columns.items():
        interval = f"{name}_95"
        without = "no interval" if interval in row else ""
        cells[title] = with_interval(row[name], row.get(interval), form, without=without) if form else row[name]
    return cells

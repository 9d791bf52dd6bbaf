"""Ablation: the cost and accuracy of the pipeline with each optimisation switched off in turn, on the same audio.

Three kinds of measurement run separately, because each would distort the others: *time* (all variants take turns on the
same stretches of speech, with nothing else running), *memory* (each variant in a fresh process) and *accuracy* (whole
recordings, scored as any other system). Times are reported as ratios to the reference pipeline over the same chunks;
their intervals resample blocks of a few seconds, because neighbouring chunks are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whisperlab.data import Recording
from whisperlab.experiments.ablation import variants as measured
from whisperlab.experiments.ablation.variants import (
    BEFORE,
    DEFAULT,
    GUIDE,
    Measurement,
    Models,
    Variant,
    select_variants,
)
from whisperlab.experiments.other_systems import RATES, TableRow, interleaved, reused, summarise
from whisperlab.experiments.results_store import Say
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.statistics import BLOCK, LEAST_UNITS, Array, Figure, Interval, block_ratio
from whisperlab.util.text_table import with_interval
from whisperlab.util.timeline import samples

__all__ = ["BEFORE", "DEFAULT", "GUIDE", "Ablation", "Models", "limits", "measure", "readable", "select_variants"]

STRETCH_S = 15.0  # timed audio of each recording; the reference pipeline takes over a minute for it


def _percentile(q: int) -> Callable[[Array], float]:
    return lambda values: float(np.percentile(values, q))


MEASURES: dict[str, Callable[[Array], float]] = {
    "chunk_ms_mean": lambda values: float(values.mean()),
    **{f"chunk_ms_p{q}": _percentile(q) for q in (50, 95, 99)},
}
SCORES = (
    "mixed_error_rate",
    *("switch_f1_at_1", "switch_f1_at_2"),
    "language_error_rate",
    *("decision_delay_found_p50", "decision_delay_found_p95"),
    "false_switches_per_hour",
    "encoded_s_per_s",
)
_NETWORK = (
    "buffers and timers are a thousandth of a chunk; the rest is the network, which the guide's cache seldom avoids"
)
# The guide's claims: what, the reduction, the column of `variant_row` or the operation, the reason of the result.
_CLAIMS = (
    ("total per chunk, p95", 0.35, "chunk_ms_p95_ratio", _NETWORK),
    ("peak memory above the libraries", 0.25, "peak_memory_bytes", "the buffers are a hundredth of the model"),
    ("language-ID of a frame, p95", 0.50, "lid.total", "it needs cache hits; a frame of real speech never repeats"),
    ("encoder calls", 0.50, "encoder_calls_per_s", "the same; the default calls rarely, with a fraction of 30 s"),
    (
        "appending to a buffer, p95",
        0.90,
        "vad.buffer_append",
        "np.concatenate copies the whole buffer, the ring only the new samples",
    ),
)


@dataclass(slots=True, frozen=True)
class Ablation:
    """The result: one row per variant, the time of each operation, and the guide's claims beside measured values.

    A claim has the claimed reduction, as a share of before, and those measured for the guide's design and the default.
    ``figures`` are those of `frame_figures` and, if measured, of `beside_offline` and of caches with hits.
    """

    rows: tuple[TableRow, ...]
    operations: tuple[TableRow, ...]
    claims: tuple[TableRow, ...]
    figures: tuple[Figure, ...]


def measure(
    recordings: Sequence[Recording],
    *,
    names: Iterable[str] | None = None,
    model: str = "base",
    stretch_s: float = STRETCH_S,
    memory: bool | Collection[str] = True,
    accuracy: Sequence[Recording] = (),
    accuracy_names: Collection[str] | None = None,
    offline: bool = False,
    rounds: int = 31,
    rng: np.random.Generator | None = None,
    say: Say = lambda line: None,
) -> Ablation:
    """Measure the variants that `select_variants` finds, on the first ``stretch_s`` seconds of each recording.

    Args:
        memory: also run each variant in a fresh process; or the names of those to run.
        accuracy: recordings to score the variants on, except those slower than real time (`SLOW`).
        accuracy_names: the variants to score; None for all.
        offline: also interleave faster-whisper on the same stretches (`beside_offline`).
        rounds: of one language-ID frame beside openai-whisper's.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to measure on")
    variants, rng = select_variants(names), rng or np.random.default_rng(0)
    languages = sorted({language for recording in recordings for language in recording.languages})
    models = Models(model, tuple(languages))
    stretches = [recording.audio()[: samples(stretch_s)] for recording in recordings]
    found = measured.timings(stretches, variants, models, say=say)
    scored = {one.name: one for one in variants if one.name not in measured.SLOW}
    scored[DEFAULT] = replace(scored[DEFAULT], options={"cache.shadow_rate": 1.0})  # all its hits are checked
    wanted = scored if accuracy_names is None else accuracy_names
    systems = {name: reused(partial(one.transcriber, models)) for name, one in scored.items() if name in wanted}
    results = list(interleaved(accuracy, systems, say=say))
    for row in summarise(results, rng):
        found[row["system"]].scores = row
    for name, one in found.items():
        if memory is True or (memory and name in memory):
            task = (name, Models(model, models.languages), recordings[0], stretch_s)
            one.peak_bytes, one.steady_bytes = in_fresh_process(measured.memory_of, task)
            say(f"{name}: {one.peak_bytes / 1e6:.0f} MB above the libraries")
    rows = [variant_row(one, found, rng) for one in variants]
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    operations = [
        {"variant": name, "operation": operation, **{key: statistics[key] for key in kept}}
        for name, one in found.items()
        for operation, statistics in one.metrics.get_statistics().items()
    ]
    say("one language-ID frame beside openai-whisper's detect_language")
    figures = measured.frame_figures(models, stretches[0], rounds)
    if offline:
        say("beside faster-whisper")
        figures += measured.beside_offline(stretches, models, say=say)
    if caches := [result.output.statistics["encoder_cache"] for result in results if result.name == DEFAULT]:
        figures += measured.hit_figures(DEFAULT, caches)
    return Ablation(tuple(rows), tuple(operations), tuple(check_claims(rows, operations)), tuple(figures))


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
    for what, claimed, name, reason in _CLAIMS:
        claim: TableRow = {"what": what, "claimed": claimed}
        for variant in (GUIDE, DEFAULT):
            own, before = values[variant].get(name), values[BEFORE].get(name)
            interval = values[variant].get(f"{name}_95")
            claim[variant] = None if own is None or not before else 1 - own / before
            claim[f"{variant}_95"] = interval and (1 - interval[1], 1 - interval[0])
        result = claim_result(claimed, claim[GUIDE], claim[f"{GUIDE}_95"])
        claims.append({**claim, "result": result, "reason": reason})
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
    memory = {name: row[f"{name}_memory_bytes"] for name in ("peak", "steady")}
    return {
        "variant": row["variant"],
        "chunks": str(row["chunks"]),
        "chunk p50 ms": f"{row['chunk_ms_p50']:.1f}",
        **{f"p{q} ms": f"{row[f'chunk_ms_p{q}']:.0f}" for q in (95, 99)},
        **{f"{name} / before": _cell(row, f"chunk_ms_{name}_ratio") for name in ("p95", "mean")},
        "threads": str(row["threads"]),
        "real-time factor (wall)": f"{row['real_time_factor']:.2f}",
        "encodes per s": f"{row['encoder_calls_per_s']:.1f}",
        "encoder s per s": f"{row['encoder_s_per_s']:.1f}",
        **{f"{name} MB": "-" if size is None else f"{size / 1e6:.0f}" for name, size in memory.items()},
    }


def _cell(row: TableRow, name: str) -> str:
    few = name.endswith("ratio") or name in RATES
    return with_interval(row[name], row.get(f"{name}_95"), ".3g", without="no interval" if few else "")


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    shares = [f"{round(share, 2) + 0.0:.0%}" for share in (value, *(interval or ()))]  # never "-0%"
    return shares[0] + (f" ({shares[1]} to {shares[2]})" if interval else "")


def limits(ablation: Ablation, measure: str = "chunk_ms_p95_ratio") -> list[str]:
    """What the times do not show: too few chunks for an interval, variants that cannot be told from the default."""
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

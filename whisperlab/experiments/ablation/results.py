"""The result of an ablation: a row per variant, the guide's claims beside the measured reductions, and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.experiments.ablation.timing import Memory, Timing
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE, Variant
from whisperlab.experiments.other_systems import RATES, TableRow
from whisperlab.util.statistics import BLOCK, LEAST_UNITS, Array, Figure, Interval, block_ratio
from whisperlab.util.text_table import with_interval


def _p95(values: Array) -> float:
    return float(np.percentile(values, 95))


MEASURES: dict[str, Callable[[Array], float]] = {
    "chunk_ms_mean": lambda values: float(values.mean()),
    "chunk_ms_p50": lambda values: float(np.percentile(values, 50)),
    "chunk_ms_p95": _p95,
    "chunk_ms_p99": lambda values: float(np.percentile(values, 99)),
}
SCORES = (
    "mixed_error_rate",
    "switch_f1_at_1",
    "switch_f1_at_2",
    "language_error_rate",
    "decision_delay_found_p50",
    "decision_delay_found_p95",
    "false_switches_per_hour",
    "encoded_s_per_s",
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


def variant_row(
    variant: Variant, times: Mapping[str, Timing], memory: Memory | None, scores: TableRow, rng: np.random.Generator
) -> TableRow:
    """All measurements of one variant; ratios are to the reference pipeline."""
    timing, before = times[variant.name], times[BEFORE]
    row: TableRow = {
        "variant": variant.name,
        "kind": variant.kind,
        "description": variant.description,
        "threads": variant.config.compute.threads,
        "chunks": len(timing.all_ms),
    }
    for name, statistic in MEASURES.items():
        row[name] = statistic(timing.all_ms)
        row[f"{name}_ratio"], row[f"{name}_ratio_95"] = block_ratio(timing.chunk_ms, before.chunk_ms, statistic, rng)
    row["real_time_factor"] = float(timing.all_ms.sum()) / 1000 / timing.audio_s
    row["encoder_calls_per_s"] = timing.work.calls / timing.audio_s
    row["encoder_s_per_s"] = timing.work.encoded_s / timing.audio_s
    row["peak_memory_bytes"] = memory and memory.peak
    row["steady_memory_bytes"] = memory and memory.steady
    for name in SCORES:
        row[name] = scores.get(name)
        if f"{name}_95" in scores:
            row[f"{name}_95"] = scores[f"{name}_95"]
    return {**row, "normalizer": "plain"}


def operation_rows(variant: str, timing: Timing) -> list[TableRow]:
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    return [
        {"variant": variant, "operation": name, **{key: statistics[key] for key in kept}}
        for name, statistics in timing.metrics.get_statistics().items()
    ]


Value = Callable[[Timing, Memory | None], float | None]


def _operation_p95(operation: str) -> Value:
    return lambda timing, _: timing.metrics.get_statistics().get(operation, {}).get("p95")


_NETWORK = (
    "buffers and timers are a thousandth of a chunk; the rest is the network, which the guide's cache seldom avoids"
)
# The guide's claims: what, the reduction, the value to compare (None: the times per chunk), the reason of the result.
_CLAIMS: tuple[tuple[str, float, Value | None, str], ...] = (
    ("total per chunk, p95", 0.35, None, _NETWORK),
    (
        "peak memory above the libraries",
        0.25,
        lambda _, memory: memory.peak if memory else None,
        "the buffers are a hundredth of the model",
    ),
    (
        "language-ID of a frame, p95",
        0.50,
        _operation_p95("lid.total"),
        "it needs cache hits; a frame of real speech never repeats",
    ),
    (
        "encoder calls",
        0.50,
        lambda timing, _: timing.work.calls / timing.audio_s,
        "the same; the default calls rarely, with a fraction of 30 s",
    ),
    (
        "appending to a buffer, p95",
        0.90,
        _operation_p95("vad.buffer_append"),
        "np.concatenate copies the whole buffer, the ring only the new samples",
    ),
)


def check_claims(times: Mapping[str, Timing], memory: Mapping[str, Memory], rng: np.random.Generator) -> list[TableRow]:
    """The guide's summary, line by line."""

    def reduction(variant: str, value: Value | None) -> tuple[float | None, Interval | None]:
        if value is None:
            ratio, interval = block_ratio(times[variant].chunk_ms, times[BEFORE].chunk_ms, _p95, rng)
            return 1 - ratio, interval and (1 - interval[1], 1 - interval[0])
        own, before = (value(times[name], memory.get(name)) for name in (variant, BEFORE))
        return None if own is None or not before else 1 - own / before, None

    claims = []
    for what, claimed, value, reason in _CLAIMS:
        row: TableRow = {"what": what, "claimed": claimed}
        for variant in (GUIDE, DEFAULT):
            row[variant], row[f"{variant}_95"] = reduction(variant, value)
        result = claim_result(claimed, row[GUIDE], row[f"{GUIDE}_95"])
        claims.append({**row, "result": result, "reason": reason})
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
        "p95 ms": f"{row['chunk_ms_p95']:.0f}",
        "p99 ms": f"{row['chunk_ms_p99']:.0f}",
        "p95 / before": _cell(row, "chunk_ms_p95_ratio"),
        "mean / before": _cell(row, "chunk_ms_mean_ratio"),
        "threads": str(row["threads"]),
        "real-time factor (wall)": f"{row['real_time_factor']:.2f}",
        "encodes per s": f"{row['encoder_calls_per_s']:.1f}",
        "encoder s per s": f"{row['encoder_s_per_s']:.1f}",
        **{f"{name} MB": "-" if size is None else f"{size / 1e6:.0f}" for name, size in memory.items()},
    }


def _cell(row: TableRow, name: str) -> str:
    few = name.endswith("ratio") or name in RATES
    return with_interval(row[name], row.get(f"{name}_95"), ".3g", without="no interval" if few else "")


def limits(ablation: Ablation, measure: str = "chunk_ms_p95_ratio") -> list[str]:
    """What the times do not show: too few chunks for an interval, variants that cannot be told from the default."""
    default = next(row for row in ablation.rows if row["variant"] == DEFAULT)
    n, interval = default["chunks"], default[f"{measure}_95"]
    if interval is None:
        return [
            f"{n} chunks (n) are fewer than {LEAST_UNITS} independent stretches of {BLOCK} chunks: there are no "
            f"intervals, and the order of the variants means nothing. It takes at least {LEAST_UNITS * BLOCK} chunks."
        ]
    alike = {
        row["variant"]: _chunks_needed(n, (default[measure], interval), (row[measure], row[f"{measure}_95"]))
        for row in ablation.rows
        if row["kind"] in ("off", "on") and _overlap(interval, row[f"{measure}_95"])
    }
    if not alike:
        return []
    listed = "; ".join(f"{name} ({needed})" for name, needed in alike.items())
    return [
        f"With n = {n} chunks the intervals of these variants overlap with the default's, so no difference is shown. "
        f"In brackets: the chunks that would separate them if the ratios stayed as they are: {listed}."
    ]


def _overlap(one: Interval, other: Interval) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _chunks_needed(n: int, one: tuple[float, Interval], other: tuple[float, Interval]) -> str:
    """The chunks at which two intervals part: widths shrink with the root of their number."""
    distance = abs(one[0] - other[0])
    if not distance:
        return "no difference at all"
    widths = sum(high - low for _, (low, high) in (one, other)) / 2
    return f"about {float(f'{n * (widths / distance) ** 2:.1g}'):,.0f}"


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    shares = [f"{round(share, 2) + 0.0:.0%}" for share in (value, *(interval or ()))]  # never "-0%"
    return shares[0] + (f" ({shares[1]} to {shares[2]})" if interval else "")

"""The rows of an ablation, and its tables as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from whisperlab.experiments.ablation.claims import Claim, p95
from whisperlab.experiments.ablation.timing import Memory, Timing
from whisperlab.experiments.ablation.variants import BEFORE, Variant
from whisperlab.experiments.other_systems import TableRow
from whisperlab.util.statistics import Array, Figure, block_ratio
from whisperlab.util.text_table import with_interval

MEASURES: dict[str, Callable[[Array], float]] = {
    "chunk_ms_mean": lambda values: float(values.mean()),
    "chunk_ms_p50": lambda values: float(np.percentile(values, 50)),
    "chunk_ms_p95": p95,
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

    ``figures`` are those of `frame_figures` and, if measured, of `beside_offline` and of caches with hits.
    """

    rows: tuple[TableRow, ...]
    operations: tuple[TableRow, ...]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {
            "rows": list(self.rows),
            "operations": list(self.operations),
            "claims": [asdict(claim) for claim in self.claims],
            "figures": [asdict(figure) for figure in self.figures],
        }


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
    row["normalizer"] = "plain"
    return row


def operation_rows(variant: str, timing: Timing) -> list[TableRow]:
    """The time of each operation of one variant, in milliseconds."""
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    return [
        {"variant": variant, "operation": name, **{key: statistics[key] for key in kept}}
        for name, statistics in timing.metrics.get_statistics().items()
    ]


def readable(ablation: Ablation) -> list[list[dict[str, str]]]:
    """The tables as text: time, memory and work; accuracy; the guide's claims; figures."""
    scored = [row for row in ablation.rows if row["mixed_error_rate"] is not None]
    tables = (
        [_time_cells(row) for row in ablation.rows],
        [{"variant": row["variant"], **{n.replace("_", " "): _cell(row, n) for n in SCORES}} for row in scored],
        [
            {
                "the guide's claim": claim.what,
                "less": f"{claim.claimed:.0%}",
                "its design, measured": _share(claim.guide, claim.guide_95),
                "whisperlab": _share(claim.default, claim.default_95),
                "result": claim.result,
                "reason": claim.reason,
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
        "chunk p50 ms": f"{row['chunk_ms_p50']:.1f}",
        "p95": f"{row['chunk_ms_p95']:.0f}",
        "p99": f"{row['chunk_ms_p99']:.0f}",
        "p95 / before": _cell(row, "chunk_ms_p95_ratio"),
        "mean / before": _cell(row, "chunk_ms_mean_ratio"),
        "threads": str(row["threads"]),
        "real-time factor": f"{row['real_time_factor']:.2f}",
        "encodes per s": f"{row['encoder_calls_per_s']:.1f}",
        "encoder s per s": f"{row['encoder_s_per_s']:.1f}",
        **{f"{name} MB": "-" if size is None else f"{size / 1e6:.0f}" for name, size in memory.items()},
    }


def _cell(row: TableRow, name: str) -> str:
    return with_interval(row[name], row.get(f"{name}_95"), ".3g")


def _share(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    shares = [f"{round(share, 2) + 0.0:.0%}" for share in (value, *(interval or ()))]  # never "-0%"
    return shares[0] + (f" ({shares[1]} to {shares[2]})" if interval else "")

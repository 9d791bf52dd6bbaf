"""The guide's claims beside the measured reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from whisperlab.experiments.ablation.timing import Memory, Timing
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE
from whisperlab.util.statistics import Interval, Statistic, block_ratio

Value = Callable[[Timing | None, Memory | None], float | None]


@dataclass(slots=True, frozen=True)
class Claim:
    """A reduction claimed by the guide, as a share of before, and those measured for its design and for the default."""

    what: str
    claimed: float
    guide: float | None
    guide_95: Interval | None
    default: float | None
    default_95: Interval | None
    result: str
    reason: str


def p95(values: np.ndarray) -> float:
    """The 95th percentile."""
    return float(np.percentile(values, 95))


def _operation_p95(operation: str) -> Value:
    def value(timing: Timing | None, _: Memory | None) -> float | None:
        statistics = timing.metrics.get_statistics() if timing else {}
        return float(statistics[operation]["p95"]) if operation in statistics else None

    return value


_CHUNK = (
    "total per chunk, p95",
    0.35,
    "buffers and timers are a thousandth of a chunk; the rest is the network, which the guide's cache seldom avoids",
)
_CLAIMS: tuple[tuple[str, float, Value, str], ...] = (
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
        lambda timing, _: timing.work.calls / timing.audio_s if timing else None,
        "the same; the default calls rarely, with a fraction of 30 s",
    ),
    (
        "appending to a buffer, p95",
        0.90,
        _operation_p95("vad.buffer_append"),
        "np.concatenate copies the whole buffer, the ring only the new samples",
    ),
)


def check_claims(times: Mapping[str, Timing], memory: Mapping[str, Memory], rng: np.random.Generator) -> list[Claim]:
    """The guide's summary, line by line."""

    def fewer(variant: str, value: Value) -> float | None:
        own, before = (value(times.get(name), memory.get(name)) for name in (variant, BEFORE))
        return None if own is None or not before else 1 - own / before

    what, claimed, reason = _CHUNK
    guide, guide_95 = _reduction(times, GUIDE, p95, rng)
    default, default_95 = _reduction(times, DEFAULT, p95, rng)
    result = claim_result(claimed, guide, guide_95)
    claims = [Claim(what, claimed, guide, guide_95, default, default_95, result, reason)]
    for what, claimed, value, reason in _CLAIMS:
        guide, default = fewer(GUIDE, value), fewer(DEFAULT, value)
        result = claim_result(claimed, guide, None)
        claims.append(Claim(what, claimed, guide, None, default, None, result, reason))
    return claims


def _reduction(
    times: Mapping[str, Timing], variant: str, statistic: Statistic, rng: np.random.Generator
) -> tuple[float | None, Interval | None]:
    if variant not in times:
        return None, None
    ratio, (low, high) = block_ratio(times[variant].chunk_ms, times[BEFORE].chunk_ms, statistic, rng)
    return 1 - ratio, (1 - high, 1 - low)


def claim_result(claimed: float, reduction: float | None, interval: Interval | None) -> str:
    """``reproduced`` if the claimed reduction is not above the measured one or its interval.

    >>> claim_result(0.35, 0.3, (0.2, 0.4)), claim_result(0.35, 0.02, (-0.05, 0.1)), claim_result(0.35, None, None)
    ('reproduced', 'not reproduced', 'not comparable')
    """
    if reduction is None:
        return "not comparable"
    most = reduction if interval is None else max(reduction, interval[1])
    return "reproduced" if most >= claimed else "not reproduced"

"""Paired significance tests with an effect size, an interval and the number of pairs still missing.

Pairs are two measurements of the same recording, or of the same round of an interleaved run. The conclusion is

* *difference*: the signed-rank test (Wilcoxon 1945, Biometrics 1(6)) has p < 5 %, after Holm's correction (1979,
  Scandinavian Journal of Statistics 6(2)) when several measures are tested together, and the bootstrap interval of the
  trimmed mean (without the outer fifths; Tukey and McLaughlin 1963, Sankhya A 25(3)) excludes no change;
* *no difference*: that interval lies within the threshold of interest;
* *not enough data*: all other cases, with an estimate of the pairs missing.

Testing after each further run and stopping at the first difference inflates the 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.statistics import LEAST_UNITS, Array, central, resamples

Kind = Literal["ratio", "difference"]
Conclusion = Literal["difference", "no difference", "not enough data"]

LEVEL = 0.05
LEAST_PAIRS = 6  # fewer cannot reach p < 5 %: `least_pairs` of one measure
_NORMAL = 1.96 + 0.84  # quantiles for 5 % error and 80 % power


@dataclass(slots=True, frozen=True)
class PairedResult:
    """The comparison of B with A on one measure."""

    measure: str
    kind: Kind
    n: int  # pairs
    value: float  # trimmed mean of B / A, or of B - A
    low: float | None  # 95 % interval of it; None below `LEAST_UNITS` pairs
    high: float | None
    p: float  # of the signed-rank test, corrected by `holm`
    effect: float  # rank-biserial correlation: -1 when B is always less, 1 when it is always more
    conclusion: Conclusion
    pairs_missing: int  # to detect a change of the threshold in four cases of five; 0 if none

    def summary(self, less: str = "less", more: str = "more") -> str:
        """The result as a sentence; ``less`` and ``more`` describe B, such as faster and slower."""
        neutral, form = (1.0, ".1%") if self.kind == "ratio" else (0.0, ".3g")
        value, *ends = (end - neutral for end in (self.value, self.low, self.high) if end is not None)
        if self.conclusion == "difference":  # sizes without a sign, because the word carries the direction
            by = f"{abs(value):{form}} ({' to '.join(f'{end:{form}}' for end in sorted(map(abs, ends)))})"
            word = less if value < 0 else more
            return f"{self.measure}: B is {word} by {by}, p {self.p:.2g}, effect {self.effect:+.2f}, n {self.n}"
        interval = f" ({' to '.join(f'{end:+{form}}' for end in ends)})" if ends else ", no interval"
        change = f"{value:+{form}}{interval}, n {self.n}"
        if self.conclusion == "no difference":
            return f"{self.measure}: no difference shown, {change}"
        return f"{self.measure}: not enough data ({change}): run {self.pairs_missing} more"


def paired_test(
    measure: str,
    a: Sequence[float],
    b: Sequence[float],
    rng: np.random.Generator,
    *,
    kind: Kind = "ratio",
    threshold: float = 0.05,
) -> PairedResult:
    """Test the pairs ``(a[i], b[i])``.

    ``kind`` is ``ratio`` for positive quantities such as times, ``difference`` for rates. ``threshold`` is the smallest
    change of interest: a share for ratios, in the measure's unit for differences. Raises ConfigurationError for unequal
    lengths, no pairs, NaN or infinities, or a ratio of values not above zero.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or not first.size:
        raise ConfigurationError(f"pairs need as many of A as of B and at least one, got {len(a)} and {len(b)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ConfigurationError(f"{measure}: pairs must be finite numbers")
    if kind == "ratio" and not (first.min() > 0 and second.min() > 0):
        raise ConfigurationError(f"{measure}: ratios need numbers above zero")
    changes = np.log(second / first) if kind == "ratio" else second - first
    limit, n = math.log1p(threshold) if kind == "ratio" else threshold, len(changes)
    low, high = central(_trimmed_mean(changes[resamples(n, rng)]))
    p, effect = _signed_rank_test(changes)
    conclusion: Conclusion = "not enough data"
    if n >= LEAST_PAIRS and p < LEVEL and not low <= 0 <= high:
        conclusion = "difference"
    elif n >= LEAST_PAIRS and -limit <= low and high <= limit:
        conclusion = "no difference"
    missing = max(_pairs_missing(changes, limit), LEAST_PAIRS - n, 1) if conclusion == "not enough data" else 0
    ends = (float(_trimmed_mean(changes)), low, high)
    value, low, high = (math.exp(end) for end in ends) if kind == "ratio" else ends
    result = PairedResult(measure, kind, n, value, low, high, p, effect, conclusion, missing)
    return result if n >= LEAST_UNITS else replace(result, low=None, high=None)


def holm(results: Sequence[PairedResult]) -> list[PairedResult]:
    """The results with p and ``pairs_missing`` corrected by Holm's method: 5 % for all of them together."""
    ordered = sorted(range(len(results)), key=lambda index: results[index].p)
    corrected, highest = list(results), 0.0
    for rank, index in enumerate(ordered):
        sharing = len(results) - rank
        highest = max(highest, min(1.0, sharing * results[index].p))
        one = replace(results[index], p=highest)
        if one.conclusion == "difference" and highest >= LEVEL:
            one = replace(one, conclusion="not enough data", pairs_missing=1)
        if one.conclusion == "not enough data" and one.effect:
            one = replace(one, pairs_missing=max(one.pairs_missing, least_pairs(sharing) - one.n))
        corrected[index] = one
    return corrected


def least_pairs(n_measures: int) -> int:
    """The fewest pairs with which a signed-rank test can reach 5 %, shared among so many measures.

    The smallest p of n pairs is 2 / 2^n: all change in one direction.

    >>> least_pairs(1), least_pairs(4)
    (6, 8)
    """
    return math.floor(math.log2(2 * n_measures / LEVEL)) + 1


def _trimmed_mean(values: Array) -> Array:
    """Mean along the last axis without the outer fifths."""
    n = values.shape[-1]
    return np.asarray(np.sort(values, axis=-1)[..., n // 5 : n - n // 5].mean(-1))


def _signed_rank_test(changes: Array) -> tuple[float, float]:
    """p and the rank-biserial correlation; 1 and 0 when nothing changes."""
    try:
        from scipy.stats import rankdata, wilcoxon
    except ImportError as error:
        raise MissingDependencyError("significance tests need scipy: pip install 'whisperlab[sweep]'") from error
    kept = changes[changes != 0]
    if not len(kept):
        return 1.0, 0.0
    ranks = rankdata(abs(kept))
    effect = float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())
    return float(wilcoxon(kept).pvalue), effect


def _pairs_missing(changes: Array, limit: float) -> int:
    """Further pairs that detect a change of ``limit`` in four cases of five, at the spread seen so far."""
    if len(changes) < 2 or not limit > 0:
        return LEAST_PAIRS
    spread = 1.4826 * float(np.median(abs(changes - np.median(changes)))) or float(changes.std(ddof=1))
    # A median needs pi/2 times as many pairs as a mean.
    needed = math.ceil(math.pi / 2 * (_NORMAL * spread / limit) ** 2)
    return max(needed - len(changes), 0)

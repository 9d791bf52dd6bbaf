"""Which differences are more than noise: paired tests, the best of several configurations, the options that matter.

Pairs are two measurements of the same recording, or of the same round of an interleaved run. The conclusion is

* *difference*: the signed-rank test (Wilcoxon 1945, Biometrics 1(6)) has p < 5 %, after Holm's correction (1979,
  Scandinavian Journal of Statistics 6(2)) when several measures are tested together, and the bootstrap interval of the
  trimmed mean (without the outer fifths; Tukey and McLaughlin 1963, Sankhya A 25(3)) excludes no change;
* *no difference*: that interval lies within the threshold of interest;
* *not enough data*: all other cases, with an estimate of the pairs missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.errors import ConfigurationError, needs
from whisperlab.util.statistics import LEAST_UNITS, Array, central, resamples

Kind = Literal["ratio", "difference"]
Conclusion = Literal["difference", "no difference", "not enough data"]

LEVEL = 0.05
LEAST_PAIRS = 6  # fewer cannot reach p < 5 %: `least_pairs` of one measure
_NORMAL = 1.96 + 0.84  # quantiles for 5 % error and 80 % power
MOST_GROUPS = 4  # groups that the values of an option are put in, at most: few trials fill no more
SHUFFLES = 500
CHANCE = 95  # per cent of the shuffles that stay below the share an option has to pass


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


def paired_test(
    measure: str,
    a: Sequence[float],
    b: Sequence[float],
    rng: np.random.Generator,
    *,
    kind: Kind = "ratio",  # for positive quantities such as times; "difference" for rates
    threshold: float = 0.05,  # smallest change of interest: a share, or for differences in the measure's unit
) -> PairedResult:
    """Test the pairs ``(a[i], b[i])``.

    Raises ConfigurationError for unequal lengths, no pairs, NaN or infinities, or a ratio of values not above zero.
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
    with needs("significance tests need scipy", "sweep"):
        from scipy.stats import rankdata, wilcoxon
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


@dataclass(slots=True, frozen=True)
class Importance:
    """How much of an objective's variance one option explains by itself, from 0 to 1."""

    option: str
    share: float
    chance: float  # the share of shuffled results stays below it in 95 of 100 cases

    @property
    def shown(self) -> bool:
        return self.share > self.chance


@dataclass(slots=True, frozen=True)
class Separation:
    """How much better the best configuration is than the median one, on recordings it was not chosen on."""

    n: int  # recordings
    value: float = math.nan  # negative is better
    low: float = math.nan  # 95 % interval; NaN where there is none
    high: float = math.nan

    @property
    def shown(self) -> bool:
        """Whether the difference is larger than the noise between recordings."""
        return self.high < 0

    @property
    def needed(self) -> int | None:
        """Recordings that would show a difference of this size; None if nothing suggests that there is one."""
        if self.n < LEAST_UNITS:
            return LEAST_UNITS
        if not self.value < 0:
            return None
        # The half width shrinks with the root of n.
        return max(self.n + 1, math.ceil(self.n * ((self.high - self.low) / 2 / self.value) ** 2))


def separation(parts: Array, wholes: Array, seed: int = 0) -> Separation:
    """Whether the configurations differ by more than noise in an objective that is ``parts / wholes``.

    Both have the shape (configurations, recordings). Each bootstrap resample of the recordings chooses the best, and
    the recordings outside it compare it with the median (out-of-bag; Efron and Tibshirani 1997, JASA 92(438)).
    """
    n = parts.shape[1]
    if n < LEAST_UNITS or not len(parts):
        return Separation(n)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=SHUFFLES)
    outside = (drawn == 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen_on, compared_on = ((weights @ parts.T) / (weights @ wholes.T) for weights in (drawn, outside))
    usable = np.isfinite(chosen_on).all(axis=1) & np.isfinite(compared_on).all(axis=1)
    if not usable.any():
        return Separation(n)
    best, rest = chosen_on[usable].argmin(axis=1), compared_on[usable]
    gains = rest[np.arange(len(rest)), best] - np.median(rest, axis=1)
    return Separation(n, float(gains.mean()), *central(gains))


def pareto_front(points: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """Which points no other dominates: is nowhere worse (higher) and somewhere better.

    >>> pareto_front([(1, 5), (2, 2), (3, 3), (2, 2)])
    (True, True, False, True)
    """
    every = np.asarray(points, dtype=float)
    best = np.ones(len(every), dtype=bool)
    for place in np.lexsort(every.T):  # a point that another dominates need not be compared
        if best[place]:
            point = every[place]
            best &= ~(np.all(every >= point, axis=1) & np.any(every > point, axis=1))
    return tuple(best.tolist())


def importances(options: Mapping[str, Sequence[object]], objective: Sequence[float], seed: int = 0) -> list[Importance]:
    """What each option explains of an objective, the most important first.

    ``options`` has the values of each option, one for each configuration; ``objective`` the result of each. The share
    is the correlation ratio (Fisher 1925; the main effect of a one-way analysis of variance): variance between the
    groups of results that share a value of the option / variance of all results. Numbers of more than `MOST_GROUPS`
    different values are cut into so many groups of equal size. What only a combination does is not seen.
    """
    results = np.asarray(objective, dtype=float)
    rng = np.random.default_rng(seed)
    shuffled = np.stack([results, *(rng.permutation(results) for _ in range(SHUFFLES))])
    centred = shuffled - shuffled.mean(axis=1, keepdims=True)
    whole = (centred**2).sum(axis=1)
    found = []
    for name, values in options.items():
        groups = _groups(values)
        members = np.eye(groups.max() + 1)[groups]
        between = ((centred @ members) ** 2 / members.sum(axis=0)).sum(axis=1)
        shares = np.divide(between, whole, out=np.zeros_like(whole), where=whole > 0)  # 0 without variance
        found.append(Importance(name, float(shares[0]), float(np.percentile(shares[1:], CHANCE))))
    return sorted(found, key=lambda one: -one.share)


def _groups(values: Sequence[object]) -> NDArray[np.intp]:
    """A number for each value, the same for those of one group."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, dtype=float)
        if len(np.unique(numbers)) > MOST_GROUPS:
            edges = np.quantile(numbers, np.arange(1, MOST_GROUPS) / MOST_GROUPS)
            return np.unique(np.searchsorted(edges, numbers), return_inverse=True)[1]
    texts = [repr(value) for value in values]
    names = {name: place for place, name in enumerate(dict.fromkeys(texts))}
    return np.array([names[text] for text in texts])

"""Which of several configurations are worth having, and which option made the difference: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.statistics import LEAST_UNITS, central

LEVELS = 4  # groups that the values of an option are put in, at most: few trials fill no more
SHUFFLES = 500
CHANCE = 95  # per cent of the shuffles that stay below the share an option has to pass


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


def separation(parts: NDArray[np.float64], wholes: NDArray[np.float64], seed: int = 0) -> Separation:
    """Whether the configurations differ by more than noise in an objective that is ``parts / wholes``.

    Both have the shape (configurations, recordings). The best of many is always better than the median on the
    recordings it was chosen on. Therefore each bootstrap resample of the recordings chooses the best, and the
    recordings outside the resample compare it with the median (out-of-bag estimate; Efron and Tibshirani 1997, JASA
    92(438)).
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
    groups of results that share a value of the option / variance of all results. Numbers of more than `LEVELS`
    different values are cut into so many groups of equal size. Options that were changed together share the credit, and
    what only a combination does is not seen: fANOVA and PED-ANOVA (Watanabe 2023) see that but need many more trials.
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
        if len(np.unique(numbers)) > LEVELS:
            edges = np.quantile(numbers, np.arange(1, LEVELS) / LEVELS)
            return np.unique(np.searchsorted(edges, numbers), return_inverse=True)[1]
    texts = [repr(value) for value in values]
    names = {name: place for place, name in enumerate(dict.fromkeys(texts))}
    return np.array([names[text] for text in texts])

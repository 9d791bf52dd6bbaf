"""Whether one is better than the other, said only as far as the data go.

Two things are compared in pairs: over the same recordings, or in turns within one run. A *difference* is called when
the signed-rank test (Wilcoxon 1945, Biometrics 1(6)) finds one at 5 %, after Holm's correction (1979, Scandinavian
Journal of Statistics 6(2)) when several measures are judged together, and the bootstrap interval of the middle (a mean
without the outer fifths; Tukey and McLaughlin 1963, Sankhya A 25(3)) leaves out nothing as well. *No difference* is
called when that interval lies within what is worth knowing. Everything else is *not enough data*, with how much more it
would take. Looking again after each further run and stopping when it pleases would spoil the 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.errors import ConfigurationError, MissingDependencyError

Kind = Literal["ratio", "difference"]
Call = Literal["difference", "no difference", "not enough data"]
Array = NDArray[np.float64]
Measure = Callable[[Array], float]

LEVEL = 0.05
LEAST = 6  # pairs below which no signed-rank test can find anything at 5 %: `least` of one measure
RESAMPLES = 2000
BLOCK = 30  # chunks (3 s) that are resampled as one: those of the same sentence cost alike
_NORMAL = 1.96 + 0.84  # quantiles for 5 % error and 80 % power


@dataclass(slots=True, frozen=True)
class Verdict:
    """What pairs say of B beside A.

    ``value`` is the middle of B / A, or of B - A, with its 95 % interval; ``p`` the signed-rank test's, corrected when
    several were judged; ``effect`` the rank-biserial correlation, from -1 (B always less) to 1; ``more`` the number of
    further pairs that would show a difference as large as is worth knowing in four cases of five, 0 if none are needed.
    """

    measure: str
    kind: Kind
    n: int
    value: float
    low: float
    high: float
    p: float
    effect: float
    call: Call
    more: int

    def words(self, less: str = "less", more: str = "more") -> str:
        """The verdict in a sentence; ``less`` and ``more`` are what B is, such as faster and slower."""
        if self.call == "not enough data":
            return f"{self.measure}: not enough data ({self._told()}, n {self.n}): run {self.more} more"
        if self.call == "no difference":
            return f"{self.measure}: no difference shown, {self._told()}, n {self.n}"
        return f"{self.measure}: B is {self._by(less, more)}, p {self.p:.2g}, effect {self.effect:+.2f}, n {self.n}"

    def _by(self, less: str, more: str) -> str:
        """By how much, without a sign: the word has it. An interval of a difference never holds no change."""
        none = 1.0 if self.kind == "ratio" else 0.0
        value, low, high = (abs(end - none) for end in (self.value, self.low, self.high))
        show = "{:.1%}" if self.kind == "ratio" else "{:.3g}"
        size, least, most = (show.format(one) for one in (value, min(low, high), max(low, high)))
        return f"{less if self.value < none else more} by {size} ({least} to {most})"

    def _told(self) -> str:
        if self.kind == "ratio":
            return f"{self.value - 1:+.1%} ({self.low - 1:+.1%} to {self.high - 1:+.1%})"
        return f"{self.value:+.3g} ({self.low:+.3g} to {self.high:+.3g})"


def judge(
    measure: str,
    a: Sequence[float],
    b: Sequence[float],
    rng: np.random.Generator,
    *,
    kind: Kind = "ratio",
    worth: float = 0.05,
) -> Verdict:
    """The verdict on pairs ``(a[i], b[i])``.

    Args:
        kind: ``ratio`` for what is above zero, such as times; ``difference`` for rates.
        worth: the least change worth knowing, as a share for ratios, in the unit of the measure for differences.

    Raises:
        ConfigurationError: sides of different length, none, or a ratio of what is not above zero.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or not first.size:
        raise ConfigurationError(
            f"pairs need as many of A as of B and at least one, got {len(a)} and {len(b)}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ConfigurationError(f"{measure}: pairs must be finite numbers")
    if kind == "ratio" and not (first.min() > 0 and second.min() > 0):
        raise ConfigurationError(f"{measure}: ratios need numbers above zero")
    changes = np.log(second / first) if kind == "ratio" else second - first
    limit = math.log1p(worth) if kind == "ratio" else worth
    low, high = _interval(changes, rng)
    value = float(_middle(changes))
    p, effect = _signed_ranks(changes)
    shown = np.exp if kind == "ratio" else np.asarray
    found = Verdict(
        measure=measure,
        kind=kind,
        n=len(changes),
        value=float(shown(value)),
        low=float(shown(low)),
        high=float(shown(high)),
        p=p,
        effect=effect,
        call="not enough data",
        more=_further(changes, limit),
    )
    return _called(found, (low, high), limit)


def together(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts on several measures of one comparison, p corrected by Holm's method: one *family* in twenty may err.

    The more are judged, the more pairs it takes before any can be called, and that is in ``more``.
    """
    ordered = sorted(range(len(verdicts)), key=lambda place: verdicts[place].p)
    corrected, so_far = list(verdicts), 0.0
    for rank, place in enumerate(ordered):
        sharing = len(verdicts) - rank
        so_far = max(so_far, min(1.0, sharing * verdicts[place].p))
        one = replace(verdicts[place], p=so_far)
        if one.call == "difference" and so_far >= LEVEL:
            one = replace(one, call="not enough data", more=1)
        if one.call == "not enough data" and one.effect:
            one = replace(one, more=max(one.more, least(sharing) - one.n))
        corrected[place] = one
    return corrected


def least(sharing: int) -> int:
    """Pairs below which no signed-rank test can find anything at 5 %, shared among so many measures.

    The least p of n pairs is 2 / 2^n: all of them change in one direction.

    >>> least(1), least(4)
    (6, 8)
    """
    return math.floor(math.log2(2 * sharing / LEVEL)) + 1


def in_pairs(
    a: Callable[[], object], b: Callable[[], object], rounds: int, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of each, in turns, the one that begins changing with each round, so that drift and habit cancel."""
    times: tuple[list[float], list[float]] = [], []
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            began = clock()
            (a, b)[side]()
            times[side].append(clock() - began)
    return times


def block_ratio(
    mine: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    measure: Measure,
    rng: np.random.Generator,
    block: int = BLOCK,
) -> tuple[float, tuple[float, float]]:
    """``measure(mine) / measure(other)`` over the same chunks, with a 95 % interval.

    Both are cut into blocks of neighbouring chunks, which are resampled in pairs (the block bootstrap; Künsch 1989,
    Annals of Statistics 17(3)).
    """
    pairs = [
        (np.asarray(a[at : at + block]), np.asarray(b[at : at + block]))
        for a, b in zip(mine, other, strict=True)
        for at in range(0, len(a), block)
    ]
    whole = _ratio(pairs, range(len(pairs)), measure)
    drawn = [_ratio(pairs, rng.integers(0, len(pairs), len(pairs)), measure) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return whole, (float(low), float(high))


def _ratio(pairs: Sequence[tuple[Array, Array]], rows: Iterable[int], measure: Measure) -> float:
    taken = [pairs[row] for row in rows]
    top, bottom = (measure(np.concatenate(side)) for side in zip(*taken, strict=True))
    return top / bottom


def _called(found: Verdict, interval: tuple[float, float], limit: float) -> Verdict:
    low, high = interval
    if found.n >= LEAST and found.p < LEVEL and not low <= 0 <= high:
        return replace(found, call="difference", more=0)
    if found.n >= LEAST and -limit <= low and high <= limit:
        return replace(found, call="no difference", more=0)
    return replace(found, more=max(found.more, LEAST - found.n, 1))


def _middle(values: Array) -> Array:
    """Mean along the last axis without the outer fifths."""
    n = values.shape[-1]
    outer = n // 5
    middle: Array = np.sort(values, axis=-1)[..., outer : n - outer].mean(-1)
    return middle


def _interval(changes: Array, rng: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap interval of the middle."""
    drawn = _middle(changes[rng.integers(len(changes), size=(RESAMPLES, len(changes)))])
    low, high = np.percentile(drawn, [100 * LEVEL / 2, 100 - 100 * LEVEL / 2])
    return float(low), float(high)


def _signed_ranks(changes: Array) -> tuple[float, float]:
    """Probability of such ranks by chance, and the rank-biserial correlation; 1 and 0 where nothing changes."""
    try:
        from scipy.stats import rankdata, wilcoxon
    except ImportError as error:
        raise MissingDependencyError("verdicts need scipy: pip install 'whisperlab[sweep]'") from error
    kept = changes[changes != 0]
    if not len(kept):
        return 1.0, 0.0
    ranks = rankdata(abs(kept))
    effect = float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())
    return float(wilcoxon(kept).pvalue), effect


def _further(changes: Array, limit: float) -> int:
    """Pairs that are missing to see a change of ``limit`` in four of five cases, by the spread seen so far."""
    if len(changes) < 2 or not limit > 0:
        return LEAST
    spread = 1.4826 * float(np.median(abs(changes - np.median(changes)))) or float(changes.std(ddof=1))
    needed = math.ceil(
        math.pi / 2 * (_NORMAL * spread / limit) ** 2
    )  # a median needs pi/2 times as many as a mean
    return max(needed - len(changes), 0)

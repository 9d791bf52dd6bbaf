"""Calibration of confidences: reliability, expected calibration error, temperature, area under the ROC curve.

A recogniser is calibrated when, of all its answers with confidence 0.8, eight in ten are right (Guo et al. 2017, arXiv
1706.04599). Smoothing uses the posterior as a probability, so it needs calibration. Choosing segments to review needs
only that right answers score above wrong ones, which the area under the ROC curve measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whisperlab.util.errors import ConfigurationError

Logits: TypeAlias = NDArray[np.float64]  # shape (answers, classes); -inf for a class that is not allowed

COLDEST, HOTTEST = 0.05, 20.0  # range of the search for a temperature


@dataclass(slots=True, frozen=True)
class ReliabilityBin:
    """The answers with a confidence above ``low`` and at most ``high`` (the first bin includes 0).

    ``accuracy`` is the share of right answers among the ``n``, ``confidence`` their mean confidence.
    """

    low: float
    high: float
    n: int
    accuracy: float
    confidence: float

    @property
    def gap(self) -> float:
        """Accuracy minus confidence: negative for overconfident answers."""
        return self.accuracy - self.confidence


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> tuple[ReliabilityBin, ...]:
    """Accuracy and confidence in bins of equal width, for a reliability diagram; without empty bins.

    ``confidence`` is 0 to 1 and ``correct`` true or false, both of shape (answers,).

    >>> [(b.n, b.accuracy, b.confidence) for b in reliability([0.4, 0.75, 1.0], [False, False, True], bins=2)]
    [(1, 0.0, 0.4), (2, 0.5, 0.875)]
    """
    claimed, right = _pair("confidence", confidence, "correct", correct)
    if claimed.min() < 0 or claimed.max() > 1:
        raise ConfigurationError(f"confidence must be 0 to 1, got {claimed.min():g} to {claimed.max():g}")
    if bins < 1:
        raise ConfigurationError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.maximum(np.searchsorted(edges, claimed), 1) - 1
    found = []
    for i in np.unique(bin_of):
        of, low, high = bin_of == i, float(edges[i]), float(edges[i + 1])
        found.append(ReliabilityBin(low, high, int(of.sum()), float(right[of].mean()), float(claimed[of].mean())))
    return tuple(found)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over the answers: 0 is calibrated (Guo et al., eq. 3).

    With few answers in many bins it is biased upwards, because chance alone separates the two.
    """
    found = reliability(confidence, correct, bins)
    n = sum(part.n for part in found)
    return math.fsum(part.n / n * abs(part.gap) for part in found)


def negative_log_likelihood(
    logits: ArrayLike, truth: ArrayLike, temperature: float = 1.0, log_prior: ArrayLike = 0.0
) -> float:
    """Mean of -log P(true class) where P is the softmax of ``logits / temperature + log_prior``, in nats."""
    checked, true = _checked_logits(logits, truth)
    prior = np.asarray(log_prior, float)
    if prior.shape not in ((), checked.shape[1:]):
        raise ConfigurationError(
            f"log_prior needs one number for each of {checked.shape[1]} classes, got shape {prior.shape}"
        )
    if not temperature > 0:
        raise ConfigurationError(f"temperature must be > 0, got {temperature}")
    scores = checked / temperature + prior
    # Relative to the true class, so that the sum stays exact for probabilities close to 1.
    behind = scores - scores[np.arange(len(true)), true, None]
    return float(np.logaddexp.reduce(behind, axis=1).mean())


def best_temperature(logits: ArrayLike, truth: ArrayLike, log_prior: ArrayLike = 0.0) -> float:
    """The temperature between 0.05 and 20 with the greatest likelihood of the true classes (Guo et al., section 4.2).

    Fit and evaluate it on different answers. If every answer is right, the result is the lower end of the range; if
    the logits are worse than chance, the upper end.

    Args:
        logits: shape (answers, classes); -inf for a class that is not allowed.
        truth: shape (answers,), the true class of each by its column.
        log_prior: one number per class, added after the division, as in `LanguageIdentifier`.
    """

    def loss(log: float) -> float:
        return negative_log_likelihood(logits, truth, math.exp(log), log_prior)

    # The loss is convex in 1 / temperature, so along any monotone scale it has one valley.
    return math.exp(_lowest(loss, math.log(COLDEST), math.log(HOTTEST)))


def area_under_roc(score: ArrayLike, positive: ArrayLike) -> float:
    """The probability that a ``positive`` item scores above a negative one; equal scores count half.

    >>> area_under_roc([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    0.875
    """
    scores, positives = _pair("score", score, "positive", positive)
    above, below = scores[positives], np.sort(scores[~positives])
    if not len(above) or not len(below):
        raise ConfigurationError(
            f"an area under the ROC needs positive and negative items, got {len(above)} positive of {len(scores)}"
        )
    lower, not_higher = np.searchsorted(below, above), np.searchsorted(below, above, side="right")
    return float((lower + not_higher).sum() / (2 * len(above) * len(below)))


def _lowest(loss: Callable[[float], float], low: float, high: float, within: float = 1e-6) -> float:
    """The minimum of a function with one valley, by golden-section search."""
    shrink = (math.sqrt(5) - 1) / 2
    a, b = high - shrink * (high - low), low + shrink * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > within:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - shrink * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + shrink * (high - low)
            at_b = loss(b)
    return (low + high) / 2


def _checked_logits(logits: ArrayLike, truth: ArrayLike) -> tuple[Logits, NDArray[np.intp]]:
    scores, true = np.asarray(logits, float), np.asarray(truth)
    if scores.ndim != 2 or not scores.size or true.shape != scores.shape[:1]:
        raise ConfigurationError(
            "expected logits of shape (answers, classes) and truth of shape (answers,), "
            f"got {scores.shape} and {true.shape}"
        )
    if not np.issubdtype(true.dtype, np.integer) or true.min() < 0 or true.max() >= scores.shape[1]:
        raise ConfigurationError(f"truth must be columns 0 to {scores.shape[1] - 1}, got {true}")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ConfigurationError("logits must be finite, or -inf for a class that is not allowed")
    if np.isneginf(scores[np.arange(len(true)), true]).any():
        raise ConfigurationError("truth contains a class that is not allowed: its logit is -inf")
    return scores, true.astype(np.intp)


def _pair(name: str, values: ArrayLike, label: str, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    numbers, flags = np.asarray(values, float), np.asarray(labels)
    if numbers.ndim != 1 or not len(numbers) or numbers.shape != flags.shape:
        raise ConfigurationError(
            f"expected {name} and {label} of one length, at least 1, got shapes {numbers.shape} and {flags.shape}"
        )
    if not np.isfinite(numbers).all():
        raise ConfigurationError(f"{name} must be finite numbers")
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise ConfigurationError(f"{label} must be true or false, got {flags}")
    return numbers, flags.astype(bool)

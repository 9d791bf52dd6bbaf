"""Calibration of confidences: reliability, expected calibration error, temperature.

A recogniser is calibrated when, of all its answers with confidence 0.8, eight in ten are right (Guo et al. 2017, arXiv
1706.04599). Smoothing uses the posterior as a probability, so it needs calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from whisperlab.util.errors import ConfigurationError

COLDEST, HOTTEST = 0.05, 20.0  # range of the search for a temperature


@dataclass(slots=True, frozen=True)
class ReliabilityBin:
    """The ``n`` answers with a confidence above ``low`` and at most ``high`` (the first bin includes 0)."""

    low: float
    high: float
    n: int
    accuracy: float  # share of right answers
    confidence: float  # mean confidence

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
    claimed, flags = np.asarray(confidence, float), np.asarray(correct)
    if claimed.ndim != 1 or not len(claimed) or claimed.shape != flags.shape:
        got = f"{claimed.shape} and {flags.shape}"
        raise ConfigurationError(f"expected confidence and correct of one length, at least 1, got shapes {got}")
    if not np.isfinite(claimed).all():
        raise ConfigurationError("confidence must be finite numbers")
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise ConfigurationError(f"correct must be true or false, got {flags}")
    if claimed.min() < 0 or claimed.max() > 1:
        raise ConfigurationError(f"confidence must be 0 to 1, got {claimed.min():g} to {claimed.max():g}")
    if bins < 1:
        raise ConfigurationError(f"bins must be at least 1, got {bins}")
    edges, right = np.linspace(0, 1, bins + 1), flags.astype(bool)
    bin_of = np.maximum(np.searchsorted(edges, claimed), 1) - 1
    found = []
    for i in np.unique(bin_of):
        of, low, high = bin_of == i, float(edges[i]), float(edges[i + 1])
        found.append(ReliabilityBin(low, high, int(of.sum()), float(right[of].mean()), float(claimed[of].mean())))
    return tuple(found)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy (Guo et al., eq. 3); biased upwards by few answers in many bins."""
    found = reliability(confidence, correct, bins)
    n = sum(part.n for part in found)
    return math.fsum(part.n / n * abs(part.gap) for part in found)


def negative_log_likelihood(
    logits: ArrayLike, truth: ArrayLike, temperature: float = 1.0, log_prior: ArrayLike = 0.0
) -> float:
    """Mean of -log P(true class) where P is the softmax of ``logits / temperature + log_prior``, in nats."""
    scores, true, prior = np.asarray(logits, float), np.asarray(truth), np.asarray(log_prior, float)
    if scores.ndim != 2 or not scores.size or true.shape != scores.shape[:1]:
        expected = "expected logits of shape (answers, classes) and truth of shape (answers,)"
        raise ConfigurationError(f"{expected}, got {scores.shape} and {true.shape}")
    n_classes = scores.shape[1]
    if not np.issubdtype(true.dtype, np.integer) or true.min() < 0 or true.max() >= n_classes:
        raise ConfigurationError(f"truth must be columns 0 to {n_classes - 1}, got {true}")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ConfigurationError("logits must be finite, or -inf for a class that is not allowed")
    rows = np.arange(len(true))
    if np.isneginf(scores[rows, true]).any():
        raise ConfigurationError("truth contains a class that is not allowed: its logit is -inf")
    if prior.shape not in ((), (n_classes,)):
        raise ConfigurationError(f"log_prior needs one number for each of {n_classes} classes, got shape {prior.shape}")
    if not temperature > 0:
        raise ConfigurationError(f"temperature must be > 0, got {temperature}")
    scaled = scores / temperature + prior
    # Relative to the true class, so that the sum stays exact for probabilities close to 1.
    return float(np.logaddexp.reduce(scaled - scaled[rows, true, None], axis=1).mean())


def best_temperature(logits: ArrayLike, truth: ArrayLike, log_prior: ArrayLike = 0.0) -> float:
    """The temperature between 0.05 and 20 with the greatest likelihood of the true classes (Guo et al., section 4.2).

    Fit and evaluate it on different answers. If all are right, it is 0.05; if the logits are worse than chance, 20.

    Args:
        logits: shape (answers, classes); -inf for a class that is not allowed.
        truth: shape (answers,), the true class of each by its column.
        log_prior: one number per class, added after the division, as in `LanguageIdentifier`.
    """
    # The loss is convex in 1 / temperature, so along any monotone scale it has one valley: a ternary search finds it.
    low, high = math.log(COLDEST), math.log(HOTTEST)
    while high - low > 1e-6:
        a, b = low + (high - low) / 3, high - (high - low) / 3
        losses = [negative_log_likelihood(logits, truth, math.exp(log), log_prior) for log in (a, b)]
        low, high = (low, b) if losses[0] < losses[1] else (a, high)
    return math.exp((low + high) / 2)

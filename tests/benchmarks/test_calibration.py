"""Calibration: definitions by cases worked out by hand, and the laws that hold for all of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.language_window.calibration import (
    COLDEST,
    HOTTEST,
    best_temperature,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from whisperlab.util.errors import ConfigurationError

patient = settings(deadline=None)  # a busy machine is no failure

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits of some answers over a few classes, and their true classes."""
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    row = st.lists(st.floats(-30, 30), min_size=k, max_size=k)
    logits = draw(st.lists(row, min_size=n, max_size=n))
    truth = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return np.array(logits), np.array(truth)


def apart(answers: list[tuple[Any, bool]]) -> tuple[list[Any], list[bool]]:
    values, flags = zip(*answers, strict=True)
    return list(values), list(flags)


# --- reliability and its error


def test_the_error_is_the_gap_of_each_bin_weighted_by_its_answers() -> None:
    # Bins of 0.2: (0.6, 0.8] holds three answers, one right, claiming 0.7; (0.8, 1] two, both right, claiming 0.9.
    confidence, right = [0.65, 0.7, 0.75, 0.85, 0.95], [True, False, False, True, True]
    expected = 3 / 5 * (0.7 - 1 / 3) + 2 / 5 * (1 - 0.9)
    assert expected_calibration_error(confidence, right, bins=5) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    found = reliability([0.0, 0.5, 0.5, 1.0], [False, True, False, True], bins=2)
    assert [(part.low, part.high, part.n) for part in found] == [(0.0, 0.5, 3), (0.5, 1.0, 1)]
    assert found[0].gap == pytest.approx(0.0)


def test_empty_bins_are_left_out() -> None:
    assert [part.low for part in reliability([0.05, 0.95], [False, True], bins=10)] == [0.0, 0.9]


def test_with_confidence_1_the_calibration_error_is_the_share_of_wrong_answers() -> None:
    assert expected_calibration_error([1.0] * 10, [True] * 7 + [False] * 3) == pytest.approx(0.3)


@patient
@given(ANSWERS, st.integers(1, 20))
def test_bins_hold_every_answer_once_and_its_confidence(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = apart(answers)
    found = reliability(confidence, right, bins)
    assert sum(part.n for part in found) == len(answers)
    assert sum(part.n * part.accuracy for part in found) == pytest.approx(sum(right))
    assert sum(part.n * part.confidence for part in found) == pytest.approx(sum(confidence))
    for part in found:
        assert part.low - 1e-12 <= part.confidence <= part.high + 1e-12


@patient
@given(ANSWERS, st.integers(1, 20))
def test_the_error_lies_between_the_gap_of_all_and_one(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = apart(answers)
    error = expected_calibration_error(confidence, right, bins)
    assert abs(np.mean(confidence) - np.mean(right)) - 1e-12 <= error <= 1 + 1e-12


@patient
@given(ANSWERS, st.integers(1, 20))
def test_finer_bins_never_show_less(answers: list[tuple[float, bool]], bins: int) -> None:
    """Bins of half the width: gaps that cancelled in one bin no longer do."""
    confidence, right = apart(answers)
    coarse = expected_calibration_error(confidence, right, bins)
    assert expected_calibration_error(confidence, right, 2 * bins) >= coarse - 1e-9


@patient
@given(ANSWERS, st.randoms())
def test_the_order_of_the_answers_does_not_matter(answers: list[tuple[float, bool]], chance: Any) -> None:
    error = expected_calibration_error(*apart(answers))
    chance.shuffle(answers)
    assert expected_calibration_error(*apart(answers)) == pytest.approx(error)


def test_a_fair_forecaster_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=20_000)
    assert expected_calibration_error(confidence, rng.uniform(size=20_000) < confidence) < 0.02


# --- temperature


@patient
@given(classified(), st.floats(COLDEST, HOTTEST))
def test_no_other_temperature_makes_the_truth_likelier(answers: tuple[np.ndarray, np.ndarray], other: float) -> None:
    best = best_temperature(*answers)
    assert COLDEST <= best <= HOTTEST
    assert negative_log_likelihood(*answers, best) <= negative_log_likelihood(*answers, other) + 1e-6


@patient
@given(classified(), st.floats(COLDEST, 5), st.floats(0.2, 4))
def test_logits_and_temperature_times_a_factor_say_the_same(
    answers: tuple[np.ndarray, np.ndarray], temperature: float, factor: float
) -> None:
    logits, truth = answers
    same = negative_log_likelihood(factor * logits, truth, factor * temperature)
    assert same == pytest.approx(negative_log_likelihood(logits, truth, temperature), abs=1e-9)


@pytest.mark.parametrize("factor", [0.3, 2.0, 5.0])
def test_logits_times_a_factor_want_the_temperature_times_it(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(scale=3, size=(200, 4)), rng.integers(4, size=200)
    truth[:120] = logits[:120].argmax(axis=1)
    assert best_temperature(factor * logits, truth) == pytest.approx(factor * best_temperature(logits, truth), rel=1e-4)


@patient
@given(classified(), st.floats(-20, 20))
def test_a_constant_on_all_logits_changes_nothing(answers: tuple[np.ndarray, np.ndarray], shift: float) -> None:
    logits, truth = answers
    moved = best_temperature(logits + shift, truth)
    loss = negative_log_likelihood(logits, truth, moved)
    assert loss == pytest.approx(negative_log_likelihood(logits, truth, best_temperature(logits, truth)), abs=1e-5)


@patient
@given(classified())
def test_a_class_that_is_not_allowed_is_as_if_it_were_not_there(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = answers
    masked = np.hstack([logits, np.full((len(logits), 1), -np.inf)])
    assert best_temperature(masked, truth) == pytest.approx(best_temperature(logits, truth))


def test_the_temperature_of_drawn_answers_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(20_000, 4))
    drawn = (logits / 2.5 + rng.gumbel(size=logits.shape)).argmax(axis=1)  # a draw from the softmax
    assert best_temperature(logits, drawn) == pytest.approx(2.5, rel=0.05)


def test_the_prior_is_added_after_dividing() -> None:
    rng = np.random.default_rng(0)
    logits, prior = rng.normal(scale=2, size=(20_000, 3)), np.array([-3.0, 0.0, 1.0])
    drawn = (logits / 2.5 + prior + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert best_temperature(logits, drawn, prior) == pytest.approx(2.5, rel=0.05)
    assert best_temperature(logits, drawn) > 3


def test_always_right_wants_the_coldest_and_always_wrong_the_hottest() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert best_temperature(logits, [0, 1]) == pytest.approx(COLDEST, rel=1e-3)
    assert best_temperature(logits, [1, 0]) == pytest.approx(HOTTEST, rel=1e-3)


def test_the_likelihood_is_that_of_the_softmax() -> None:
    expected = math.log(1 + math.exp(-1.0))  # logits 2 and 0 at temperature 2
    assert negative_log_likelihood([[2.0, 0.0]], [0], 2.0) == pytest.approx(expected)


def test_the_best_temperature_restores_the_calibration_of_scaled_logits() -> None:
    """Logits scaled by 2 are overconfident; the temperature lowers the error."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(5_000, 4))
    truth = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    errors = []
    for temperature in (1.0, best_temperature(logits, truth)):
        shares = np.exp(logits / temperature)
        shares /= shares.sum(axis=1, keepdims=True)
        errors.append(expected_calibration_error(shares.max(axis=1), shares.argmax(axis=1) == truth))
    assert errors[1] < 0.03 < errors[0]


# --- invalid input raises


@pytest.mark.parametrize(
    "confidence, correct, message",
    [
        ([], [], "one length, at least 1"),
        ([0.5, 0.5], [True], r"\(2,\) and \(1,\)"),
        ([[0.5]], [[True]], r"\(1, 1\)"),
        ([1.2], [True], "0 to 1"),
        ([-0.1], [True], "0 to 1"),
        ([math.nan], [True], "finite"),
        ([0.5], [2], "true or false"),
        ([0.5], ["es"], "true or false"),
    ],
)
def test_invalid_answers_are_refused(confidence: Any, correct: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        expected_calibration_error(confidence, correct)


def test_bins_are_at_least_one() -> None:
    with pytest.raises(ConfigurationError, match="bins must be at least 1, got 0"):
        reliability([0.5], [True], bins=0)


@pytest.mark.parametrize(
    "logits, truth, message",
    [
        ([1.0, 2.0], [0], r"\(answers, classes\)"),
        (np.zeros((0, 3)), np.zeros(0, int), r"\(0, 3\)"),
        ([[1.0, 2.0]], [0, 1], r"\(1, 2\) and \(2,\)"),
        ([[1.0, 2.0]], [2], "columns 0 to 1"),
        ([[1.0, 2.0]], [-1], "columns 0 to 1"),
        ([[1.0, 2.0]], [0.5], "columns 0 to 1"),
        ([[math.nan, 2.0]], [0], "finite, or -inf"),
        ([[math.inf, 2.0]], [0], "finite, or -inf"),
        ([[-math.inf, 2.0]], [0], "not allowed"),
    ],
)
def test_invalid_logits_are_refused(logits: Any, truth: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        best_temperature(logits, truth)


def test_a_prior_has_a_number_for_each_class_and_a_temperature_is_positive() -> None:
    with pytest.raises(ConfigurationError, match="each of 2 classes"):
        best_temperature([[1.0, 2.0]], [0], [0.0, 0.0, 0.0])
    with pytest.raises(ConfigurationError, match="temperature must be > 0, got 0"):
        negative_log_likelihood([[1.0, 2.0]], [0], 0)

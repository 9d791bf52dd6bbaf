"""The area under the ROC curve: its definition, and the laws that hold for all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.restarts import area_under_roc

patient = settings(deadline=None)  # a busy machine is no failure
SCORED = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
    lambda answers: len({positive for _, positive in answers}) == 2
)


def apart(answers: list[tuple[int, bool]]) -> tuple[Any, Any]:
    values, flags = zip(*answers, strict=True)
    return np.array(values), np.array(flags)


@patient
@given(SCORED)
def test_the_area_is_the_share_of_pairs_in_the_right_order(answers: list[tuple[int, bool]]) -> None:
    above = [score for score, positive in answers if positive]
    below = [score for score, positive in answers if not positive]
    pairs = [(a > b) + (a == b) / 2 for a in above for b in below]
    assert area_under_roc(*apart(answers)) == pytest.approx(np.mean(pairs))


@patient
@given(SCORED)
def test_turning_the_scores_round_turns_the_area_round(answers: list[tuple[int, bool]]) -> None:
    scores, positive = apart(answers)
    assert area_under_roc(-scores, positive) == pytest.approx(1 - area_under_roc(scores, positive))
    assert area_under_roc(scores, ~positive) == pytest.approx(1 - area_under_roc(scores, positive))


@patient
@given(SCORED)
def test_only_the_order_of_the_scores_counts(answers: list[tuple[int, bool]]) -> None:
    scores, positive = apart(answers)
    assert area_under_roc(scores**3 + 7, positive) == area_under_roc(scores, positive)


def test_scores_that_part_all_have_area_one_and_equal_scores_a_half() -> None:
    assert area_under_roc(np.arange(4), np.array([False, False, True, True])) == 1
    assert area_under_roc(np.full(3, 5), np.array([False, True, True])) == 0.5

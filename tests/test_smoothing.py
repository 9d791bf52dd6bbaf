"""Smoothing: the best path is the best of all paths, one odd frame is no switch, a lasting change is one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from whisperlab.errors import ConfigurationError
from whisperlab.smoothing import (
    Evidence,
    LanguageTracker,
    OnlineViterbi,
    SmoothingOptions,
    Turn,
    ending_run,
    switch_cost,
)
from whisperlab.timeline import SAMPLE_RATE

HOP_S = 0.1
HOP = SAMPLE_RATE // 10
WINDOW = 2 * SAMPLE_RATE
A, B = 0, 1

emission = st.floats(-20, 0)
costs = st.floats(0, 10)


def log_emissions(max_frames: int) -> st.SearchStrategy[list[list[float]]]:
    """Rows of log-emissions for one to three states."""
    return st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(emission, min_size=n, max_size=n), min_size=1, max_size=max_frames)
    )


def score(path: Sequence[int], emissions: Sequence[Sequence[float]], cost: float) -> float:
    """Log-score of a path: what it saw, less what its changes cost."""
    changes = sum(a != b for a, b in itertools.pairwise(path))
    return sum(row[state] for state, row in zip(path, emissions, strict=True)) - cost * changes


def viterbi(emissions: Sequence[Sequence[float]], cost: float, memory: int = 600) -> OnlineViterbi:
    found = OnlineViterbi(len(emissions[0]), cost, memory)
    for row in emissions:
        found.push(np.array(row))
    return found


# --- the best path ------------------------------------------------------------------------------------


@given(emissions=log_emissions(max_frames=6), cost=costs)
def test_no_path_at_all_scores_better_than_the_one_found(emissions: list[list[float]], cost: float) -> None:
    every_path = itertools.product(range(len(emissions[0])), repeat=len(emissions))
    best = max(score(path, emissions, cost) for path in every_path)
    assert score(viterbi(emissions, cost).path(), emissions, cost) == pytest.approx(best, abs=1e-9)


@given(emissions=log_emissions(max_frames=8), cost=costs)
def test_scores_say_how_far_the_best_path_to_each_state_is_behind(
    emissions: list[list[float]], cost: float
) -> None:
    scores = viterbi(emissions, cost).scores
    assert scores.max() == 0
    assert scores.min() >= -cost + min(emissions[-1]) - max(emissions[-1])  # one change away, a frame ago


@given(emissions=log_emissions(max_frames=12), cost=costs, memory=st.integers(1, 5))
def test_a_bounded_memory_holds_the_end_of_the_same_path(
    emissions: list[list[float]], cost: float, memory: int
) -> None:
    whole = viterbi(emissions, cost).path()
    assert viterbi(emissions, cost, memory).path() == whole[-memory:]


def test_memory_does_not_grow_with_the_stream() -> None:
    rows: list[Any] = np.log(np.random.default_rng(0).dirichlet([1, 1], 500)).tolist()
    found = viterbi(rows, 3.0, memory=50)
    assert len(found.path()) == 50
    assert sum(sys.getsizeof(row) for row in found._back) < 50 * 200


def test_a_long_stream_keeps_its_scores_in_range() -> None:
    found = OnlineViterbi(2, 5.0, memory=10)
    for _ in range(5000):
        found.push(np.array([-1.0, -1e3]))
    assert found.scores.tolist() == [0.0, -1004.0]


@pytest.mark.parametrize("options", [(0, 1.0, 10), (2, -1.0, 10), (2, 1.0, 0)])
def test_a_chain_that_cannot_be_is_refused(options: tuple[int, float, int]) -> None:
    with pytest.raises(ConfigurationError):
        OnlineViterbi(*options)


@given(path=st.lists(st.integers(0, 2), min_size=1))
def test_the_run_a_path_ends_with_is_as_long_as_it_can_be(path: list[int]) -> None:
    run = ending_run(path)
    assert set(path[-run:]) == {path[-1]}
    assert path[:-run][-1:] != [path[-1]]


# --- what a switch costs ------------------------------------------------------------------------------


@given(frame_s=st.floats(0.01, 10), between_s=st.floats(0.01, 1000), n=st.integers(1, 99))
def test_leaving_never_pays_by_itself(frame_s: float, between_s: float, n: int) -> None:
    assert switch_cost(frame_s, between_s, n) >= 0


def test_rarer_switches_and_more_languages_make_one_dearer() -> None:
    assert switch_cost(0.1, 5, 5) < switch_cost(0.1, 50, 5)
    assert switch_cost(0.1, 5, 2) < switch_cost(0.1, 5, 99)
    assert switch_cost(0.1, 5, 5) > switch_cost(0.3, 5, 5)


# --- a change of language -----------------------------------------------------------------------------


def posteriors(share_of_b: Sequence[float], n_states: int = 2) -> list[NDArray[np.float64]]:
    """Frames that give language B this share, A the rest, and any other language nothing."""
    return [np.array([1 - b, b, *[0.0] * (n_states - 2)]) for b in share_of_b]


def evidence(frame: int) -> Evidence:
    """The window of a frame, two seconds that end where the frame was taken."""
    return Evidence(max((frame + 1) * HOP - WINDOW, 0), (frame + 1) * HOP)


def follow(
    frames: Sequence[NDArray[np.float64]], options: SmoothingOptions, current: int | None = A
) -> tuple[list[int], list[Turn | None]]:
    """The label and the decided change after each frame, while the caller stays in ``current``."""
    tracker = LanguageTracker(len(frames[0]), options, HOP_S)
    labels, changes = [], []
    for i, posterior in enumerate(frames):
        labels.append(tracker.push(posterior, evidence(i)))
        changes.append(tracker.change(current))
    return labels, changes


@given(b=st.floats(0, 1), at=st.integers(10, 30), n_states=st.integers(2, 99))
def test_one_odd_frame_never_switches(b: float, at: int, n_states: int) -> None:
    shares = [0.05] * 40
    shares[at] = b
    labels, changes = follow(posteriors(shares, n_states), SmoothingOptions())
    assert labels == [A] * 40
    assert changes == [None] * 40


@given(b=st.floats(0.9, 1), at=st.integers(5, 60))
def test_a_lasting_change_is_found_and_its_boundary_lies_where_the_windows_change(b: float, at: int) -> None:
    shares = [1 - b] * at + [b] * 100
    labels, changes = follow(posteriors(shares), SmoothingOptions())
    decided = next(i for i, turn in enumerate(changes) if turn)
    turn = changes[decided]
    assert turn is not None
    assert turn.state == B
    assert decided > at
    assert labels[:at] == [A] * at
    assert evidence(at).start <= turn.boundary <= evidence(at).end


@given(frames=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_a_decided_change_is_one_the_best_path_shows(frames: list[float]) -> None:
    tracker = LanguageTracker(2, SmoothingOptions(), HOP_S)
    for i, posterior in enumerate(posteriors(frames)):
        label = tracker.push(posterior, evidence(i))
        for current in (None, A, B):
            outlook, change = tracker.outlook(current), tracker.change(current)
            assert (outlook is None) == (label == current)
            assert change is None or (change == outlook and change.state == label != current)


def test_a_change_waits_for_its_minimum_duration() -> None:
    options = {"margin": 0.0, "seconds_between_switches": 1.0, "evidence_per_second": 100.0}
    frames = posteriors([0.0] * 10 + [1.0] * 10)
    for min_duration_ms in (0, 100, 500):
        _, changes = follow(frames, SmoothingOptions(min_duration_ms=min_duration_ms, **options))
        decided = next(i for i, turn in enumerate(changes) if turn)
        assert decided + 1 - 10 == max(1, min_duration_ms // 100)


def test_a_change_waits_for_its_margin() -> None:
    frames = posteriors([0.1] * 30 + [0.9] * 60)  # each worth ln 9 = 2.2, a tenth of it counted
    decided = []
    for margin in (0.0, 1.0, 2.0):
        options = SmoothingOptions(evidence_per_second=1.0, min_duration_ms=0, margin=margin)
        _, changes = follow(frames, options)
        decided.append(next(i for i, turn in enumerate(changes) if turn))
    assert decided == sorted(set(decided))


def test_the_first_language_needs_its_minimum_duration_alone() -> None:
    options = SmoothingOptions(min_duration_ms=300, margin=1e9)
    _, changes = follow(posteriors([0.9] * 6), options, current=None)
    assert [turn is not None for turn in changes] == [False, False, True, True, True, True]
    assert changes[-1] is not None
    assert changes[-1].state == B


def test_before_any_frame_there_is_no_change() -> None:
    tracker = LanguageTracker(2, SmoothingOptions(), HOP_S)
    assert (tracker.change(None), tracker.change(A), tracker.outlook(None)) == (None, None, None)


def test_a_posterior_of_zero_is_no_veto() -> None:
    tracker = LanguageTracker(3, SmoothingOptions(), HOP_S)
    with np.errstate(all="raise"):
        labels = [
            tracker.push(posterior, evidence(i)) for i, posterior in enumerate(posteriors([0.0] * 5, 3))
        ]
        labels += [
            tracker.push(posterior, evidence(i)) for i, posterior in enumerate(posteriors([1.0] * 200, 3))
        ]
    assert (labels[0], labels[-1]) == (A, B)


def test_one_language_alone_never_changes() -> None:
    labels, changes = follow([np.array([1.0])] * 5, SmoothingOptions())
    assert (labels, changes) == ([0] * 5, [None] * 5)


def test_a_tracker_remembers_no_more_than_it_was_told_to() -> None:
    tracker = LanguageTracker(2, SmoothingOptions(), HOP_S, memory=20)
    for i, posterior in enumerate(posteriors([0.1] * 100 + [0.9] * 100)):
        tracker.push(posterior, evidence(i))
    turn = tracker.outlook(A)
    assert turn is not None
    assert turn.boundary == evidence(180).boundary


@given(start=st.integers(0, 10**6), length=st.integers(0, 10**6))
def test_a_boundary_lies_in_its_window(start: int, length: int) -> None:
    assert start <= Evidence(start, start + length).boundary <= start + length


@pytest.mark.parametrize(
    "options",
    [
        {"seconds_between_switches": 0},
        {"seconds_between_switches": float("nan")},
        {"evidence_per_second": 0},
        {"evidence_per_second": -1.0},
        {"min_duration_ms": -1},
        {"margin": -0.1},
        {"margin": float("nan")},
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SmoothingOptions(**options)  # type: ignore[arg-type]

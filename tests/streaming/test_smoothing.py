"""Smoothing: the best path is the best of all paths, one odd frame is no switch, a lasting change is one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whisperlab.streaming.smoothing import (
    DOUBT,
    FLOOR,
    RAMP,
    LanguageChange,
    LanguageTracker,
    SmoothingOptions,
    TransitViterbi,
    WindowPosterior,
    noise_of,
    switch_cost,
)
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE, Span

HOP_S = 0.1
HOP = SAMPLE_RATE // 10
WINDOW = 2 * SAMPLE_RATE
A, B = 0, 1
BETWEEN_S, EVIDENCE = 4.0, 8.0  # so much evidence that single frames tell


def window_of(frame: int) -> Span:
    """The window of a frame, two seconds that end where the frame was taken."""
    return Span(max((frame + 1) * HOP - WINDOW, 0), (frame + 1) * HOP)


def look(posterior: Sequence[float] | NDArray[np.float64], window: Span) -> WindowPosterior:
    return WindowPosterior(window, np.asarray(posterior, dtype=float))


# --- the best path ------------------------------------------------------------------------------------


def score(path: Sequence[int], shares_of_b: Sequence[float]) -> float:
    """Log-score of one sequence of two languages, spelt out: what it predicted, less what its changes cost."""
    total, since = 0.0, -math.inf
    for i, (language, b) in enumerate(zip(path, shares_of_b, strict=True)):
        if i and path[i - 1] != language:
            since = window_of(i - 1).end
            total -= switch_cost(HOP_S, BETWEEN_S, 2)
        window = window_of(i)
        share = (window.end - since) / (window.end - window.start)
        rise = min(max((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0.0), 1.0)
        odds = DOUBT * (2 * rise - 1)
        settled = share >= RAMP[1]  # from the frame after on; until then the prediction is all but the same
        expected = (
            (0.0, -DOUBT)
            if settled and share > RAMP[1] + 1 / 10
            else (-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds)))
        )
        seen = [max(math.log(max(p, 1e-9)), FLOOR) for p in (b, 1 - b)]
        mine, other = (seen[0], seen[1]) if language == B else (seen[1], seen[0])
        total -= (
            EVIDENCE * HOP_S / (2 * noise_of(window) ** 2) * ((mine - expected[0]) ** 2 + (other - expected[1]) ** 2)
        )
    return total


def chain(shares_of_b: Sequence[float], n_states: int = 2) -> TransitViterbi:
    found = TransitViterbi(n_states, BETWEEN_S, EVIDENCE)
    for i, posterior in enumerate(posteriors(shares_of_b, n_states)):
        found.push([look(posterior, window_of(i))])
    return found


def posteriors(shares_of_b: Sequence[float], n_states: int = 2) -> list[NDArray[np.float64]]:
    """Frames that give language B this share, A the rest, and any other language nothing."""
    return [np.array([1 - b, b, *[0.0] * (n_states - 2)]) for b in shares_of_b]


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_no_sequence_of_languages_scores_better_than_the_path_found(shares: list[float]) -> None:
    every = {path: score(path, shares) for path in itertools.product((A, B), repeat=len(shares))}
    best_of = [max(s for path, s in every.items() if path[-1] == language) for language in (A, B)]
    found = chain(shares)
    assert found.scores[A] - found.scores[B] == pytest.approx(best_of[A] - best_of[B], abs=0.3)


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=60), n_states=st.integers(2, 5))
@settings(deadline=None)
def test_the_scores_are_relative_to_the_best_and_a_language_is_a_switch_away(
    shares: list[float], n_states: int
) -> None:
    found = chain(shares, n_states)
    assert found.scores.max() == 0
    assert found.scores[found.state] == 0
    assert 0 <= found.boundary <= window_of(len(shares) - 1).end


def test_memory_is_one_window_however_long_the_stream() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    found = TransitViterbi(3, BETWEEN_S, EVIDENCE)
    for i, posterior in enumerate(rng.dirichlet([1, 1, 1], 500)):
        found.push([look(posterior, window_of(i))])
        sizes.add(len(found._began))
    assert max(sizes) <= WINDOW / HOP
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("at_s", [4.0, 7.3])
def test_a_ramp_of_log_odds_is_seen_under_way_and_its_beginning_is_the_boundary(at_s: float) -> None:
    """What a window does when the language changes: its log-odds rise while the new speech fills it."""
    at = round(at_s * SAMPLE_RATE)
    found = TransitViterbi(2, BETWEEN_S, evidence_per_second=0.8)
    seen_b_at = None
    for i in range(150):
        window = window_of(i)
        share = (window.end - at) / (window.end - window.start)
        rise = min(max((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0.0), 1.0)
        odds = DOUBT * (2 * rise - 1)
        found.push([look([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], window)])
        if found.state == B and seen_b_at is None:
            seen_b_at = window.end
    assert found.state == B
    assert abs(found.boundary - at) <= HOP
    assert seen_b_at is not None
    assert 0 < seen_b_at - at < 0.75 * WINDOW


def test_the_same_window_may_be_seen_twice() -> None:
    """The end of a stretch of speech may ask again where the last frame was taken."""
    found = TransitViterbi(2, 4.0, 0.8)
    for _ in range(2):
        found.push([look([0.2, 0.8], window_of(20))])
    assert (found.state, len(found._began)) == (B, 0)


def test_a_look_at_what_was_said_since_a_pause_finds_the_new_language_sooner_and_at_the_pause() -> None:
    """Ramps of whole windows, and from half a second on windows that hold the new language alone."""
    at, found = 4 * SAMPLE_RATE, {}
    for with_onset in (False, True):
        tracker = LanguageTracker(2, SmoothingOptions())
        for i in range(100):
            window = window_of(i)
            share = (window.end - at) / (window.end - window.start)
            rise = min(max((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0.0), 1.0)
            odds = DOUBT * (2 * rise - 1)
            looks = [look([1 / (1 + np.exp(odds)), 1 / (1 + np.exp(-odds))], window)]
            if with_onset and SAMPLE_RATE / 2 <= window.end - at <= 2 * SAMPLE_RATE:
                looks.append(look([0.1, 0.9], Span(at, window.end)))
            tracker.push(*looks)
            if turn := tracker.change(A):
                found[with_onset] = (window.end, abs(turn.boundary - at))
                break
    assert found[True][0] < found[False][0]
    assert found[True][1] <= 2 * HOP


def test_a_short_window_weighs_less_than_a_long_one() -> None:
    scores = {}
    for length_s in (0.5, 1.0, 2.5, 9.0):
        chain_of_one = TransitViterbi(2, 4.0, 0.8)
        chain_of_one.push([look([0.2, 0.8], Span(0, round(length_s * SAMPLE_RATE)))])
        scores[length_s] = chain_of_one.scores[A]
    assert scores[0.5] > scores[1.0] > scores[2.5] == scores[9.0]


# --- what a switch costs ------------------------------------------------------------------------------


@given(frame_s=st.floats(0.01, 10), between_s=st.floats(0.01, 1000), n=st.integers(1, 99))
def test_leaving_never_pays_by_itself(frame_s: float, between_s: float, n: int) -> None:
    assert switch_cost(frame_s, between_s, n) >= 0


def test_rarer_switches_and_more_languages_make_one_dearer() -> None:
    assert switch_cost(0.1, 5, 5) < switch_cost(0.1, 50, 5)
    assert switch_cost(0.1, 5, 2) < switch_cost(0.1, 5, 99)
    assert switch_cost(0.1, 5, 5) > switch_cost(0.3, 5, 5)


# --- a change of language -----------------------------------------------------------------------------


def follow(
    frames: Sequence[NDArray[np.float64]], options: SmoothingOptions, current: int | None = A
) -> tuple[list[int], list[LanguageChange | None]]:
    """The label and the decided change after each frame, while the caller stays in ``current``."""
    tracker = LanguageTracker(len(frames[0]), options)
    labels, changes = [], []
    for i, posterior in enumerate(frames):
        labels.append(tracker.push(look(posterior, window_of(i))))
        changes.append(tracker.change(current))
    return labels, changes


@given(b=st.floats(0, 1), at=st.integers(10, 30), n_states=st.integers(2, 99))
@settings(deadline=None)
def test_one_odd_frame_never_switches(b: float, at: int, n_states: int) -> None:
    shares = [0.05] * 40
    shares[at] = b
    labels, changes = follow(posteriors(shares, n_states), SmoothingOptions())
    assert labels == [A] * 40
    assert changes == [None] * 40


@given(b=st.floats(0.9, 1), at=st.integers(5, 60))
@settings(deadline=None)
def test_a_lasting_change_is_found_and_its_boundary_lies_where_the_windows_change(b: float, at: int) -> None:
    shares = [1 - b] * at + [b] * 100
    labels, changes = follow(posteriors(shares), SmoothingOptions())
    decided = next(i for i, turn in enumerate(changes) if turn)
    turn = changes[decided]
    assert turn is not None
    assert turn.state == B
    assert decided > at
    assert labels[:at] == [A] * at
    assert window_of(at).start <= turn.boundary <= window_of(at).end


@given(frames=st.lists(st.floats(0, 1), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_decided_change_is_one_the_best_path_shows(frames: list[float]) -> None:
    tracker = LanguageTracker(2, SmoothingOptions())
    for i, posterior in enumerate(posteriors(frames)):
        label = tracker.push(look(posterior, window_of(i)))
        for current in (None, A, B):
            outlook, change = tracker.outlook(current), tracker.change(current)
            assert (outlook is None) == (label == current)
            assert change is None or (change == outlook and change.state == label != current)


def stretch(
    length_s: float, n_states: int, with_pauses: bool, options: SmoothingOptions | None = None
) -> LanguageChange | None:
    """The change that is decided while B is spoken for so long between A; with pauses, also second windows."""
    tracker = LanguageTracker(n_states, options or SmoothingOptions())
    at, back, longest = 5.0, 5.0 + length_s, 2.5

    def window(start_s: float, end_s: float) -> WindowPosterior:
        share = max(min(end_s, back) - max(start_s, at), 0) / (end_s - start_s)
        rise = min(max((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0.0), 1.0)
        b = 1 / (1 + math.exp(-DOUBT * (2 * rise - 1)))
        return look(posteriors([b], n_states)[0], Span(round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)))

    for frame in range(1, 120):
        now = frame * HOP_S
        windows = [window(max(now - longest, 0.0), now)]
        since = max(time_s for time_s in (0.0, at, back) if time_s <= now)
        if with_pauses and 0.6 <= now - since <= 2.0:
            windows = [*(windows if now - since < 0.8 else ()), window(since, now)]
        tracker.push(*windows)
        if change := tracker.change(A):
            return change
    return None


@pytest.mark.parametrize("with_pauses", [False, True])
@pytest.mark.parametrize("n_states", [2, 5, 17])
def test_embedded_words_stay_in_the_matrix_language_and_a_longer_stretch_is_a_switch(
    n_states: int, with_pauses: bool
) -> None:
    """Up to 0.8 s of another language are no switch, 1.5 s are one, with ideal posteriors."""
    assert [stretch(length_s, n_states, with_pauses) for length_s in (0.3, 0.5, 0.8)] == [None] * 3
    change = stretch(1.5, n_states, with_pauses)
    assert change is not None
    assert change.state == B
    assert abs(change.boundary / SAMPLE_RATE - 5.0) < 0.25
    eager = SmoothingOptions(margin=0.0, seconds_between_switches=0.2, evidence_per_second=8.0)
    assert stretch(0.8, n_states, with_pauses, eager) is not None  # what holds the words back


def test_a_change_waits_for_its_minimum_duration() -> None:
    options = {"margin": 0.0, "seconds_between_switches": 1.0, "evidence_per_second": 27.0}
    frames = posteriors([0.0] * 10 + [1.0] * 40)
    decided = []
    for min_duration_ms in (0, 100, 500):
        labels, changes = follow(frames, SmoothingOptions(min_duration_ms=min_duration_ms, **options))
        first = labels.index(B)
        decided.append(next(i for i, turn in enumerate(changes) if turn) + 1 - first)
    assert decided == [1, 1, 5]


def test_a_change_waits_for_its_margin() -> None:
    frames = posteriors([0.1] * 30 + [0.9] * 60)
    decided = []
    for margin in (0.0, 1.0, 2.0):
        options = SmoothingOptions(min_duration_ms=0, margin=margin)
        _, changes = follow(frames, options)
        decided.append(next(i for i, turn in enumerate(changes) if turn))
    assert decided == sorted(set(decided))


@pytest.mark.parametrize("current", [A, None])
def test_a_language_must_beat_all_others_not_just_the_one_it_leaves(current: int | None) -> None:
    """Between English and Italian the path may lead by Spanish, which is then decided only if Italian is not near."""
    split = [np.array([1.0, 0.0, 0.0])] * 30 + [np.array([0.0, 0.5, 0.5])] * 25
    _, changes = follow(split, SmoothingOptions(), current=current)
    assert not any(turn and turn.state != A for turn in changes)
    _, changes = follow([*split, *[np.array([0.0, 0.0, 1.0])] * 30], SmoothingOptions(), current=A)
    assert {turn.state for turn in changes if turn} == {2}


def test_a_frame_after_a_long_silence_counts_no_more_than_one_after_a_short_one() -> None:
    found = {gap_s: TransitViterbi(2, 4.0, 0.8) for gap_s in (3, 60)}  # both longer than the window
    for gap_s, mine in found.items():
        later = window_of(20).end + gap_s * SAMPLE_RATE
        mine.push([look([0.9, 0.1], window_of(20))])
        mine.push([look([0.2, 0.8], Span(later - WINDOW, later))])
    assert found[3].scores == pytest.approx(found[60].scores)


@pytest.mark.parametrize("between_s", [1.0, 4.0])
def test_a_margin_no_language_can_reach_does_not_keep_one_from_being_decided(between_s: float) -> None:
    options = SmoothingOptions(seconds_between_switches=between_s, margin=1e9)
    _, changes = follow(posteriors([0.9] * 60), options, current=None)
    assert changes[-1] is not None
    assert changes[-1].state == B


def test_before_any_frame_there_is_no_change() -> None:
    tracker = LanguageTracker(2, SmoothingOptions())
    assert (tracker.change(None), tracker.change(A), tracker.outlook(None)) == (None, None, None)


def test_a_posterior_of_zero_is_no_veto() -> None:
    with np.errstate(all="raise"):
        labels, _ = follow(posteriors([0.0] * 5 + [1.0] * 200, 3), SmoothingOptions())
    assert (labels[0], labels[-1]) == (A, B)


def test_one_language_alone_never_changes_and_is_found_at_once() -> None:
    labels, changes = follow([np.array([1.0])] * 5, SmoothingOptions(), current=0)
    assert (labels, changes) == ([0] * 5, [None] * 5)
    _, changes = follow([np.array([1.0])] * 5, SmoothingOptions(min_duration_ms=0), current=None)
    assert changes[0] == LanguageChange(0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"seconds_between_switches": 0},
        {"seconds_between_switches": float("nan")},
        {"seconds_between_switches": float("inf")},
        {"evidence_per_second": float("inf")},
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

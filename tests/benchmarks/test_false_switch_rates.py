"""The promised rate of false switches: from counts to promises, and what the voices that were left out say."""

from __future__ import annotations

import pytest

from benchmarks.false_switches import EVIDENCE, MOST, Control, chosen, held_out, promised, told


def control(voice: str, *false: int) -> Control:
    """A minute with these false switches, and none with more evidence."""
    counts = [*false, *[0] * (len(EVIDENCE) - len(false))]
    return Control(f"{voice}-00", voice, 5, 1 / 60, counts[0], counts)


def test_recordings_without_false_switches_promise_what_their_number_allows() -> None:
    assert promised([control("a")] * 119)[0] == (EVIDENCE[0], pytest.approx(MOST * 60 / 120))


def test_promised_rates_never_rise_with_the_evidence_and_exceed_the_observed_ones() -> None:
    controls = [control("a", 2, 0, 1), control("b", 1)]
    bounds = [bound for _, bound in promised(controls)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 60 * 3 / 2
    assert bounds[1] == bounds[2]  # where more evidence finds more, the larger count holds


def test_a_recording_counts_for_the_most_but_no_promise_is_below_the_measured_rate() -> None:
    assert promised([control("a", MOST)] * 5)[0][1] == pytest.approx((5 * MOST + MOST) / 6 * 60)
    assert promised([control("a", 9)] * 5)[0][1] == pytest.approx(9 * 60)
    assert promised([control("a", 9)] * 5)[1] == promised([control("a", MOST)] * 5)[1]


def test_the_least_evidence_that_promises_a_rate_is_chosen() -> None:
    controls = [control("a", 1)] * 59
    assert chosen(controls, 3.0) == 1
    assert chosen(controls, 70.0) == 0
    assert chosen(controls, 1.0) is None
    assert chosen([], 100.0) is None


def test_the_evidence_for_a_voice_is_chosen_by_the_other_voices() -> None:
    controls = [control("a", 2, 2, 2), *[control("b")] * 59]
    (_, hours, by_default, found), (*_, other) = held_out(controls, 2.0)
    assert (hours, by_default, found) == (1 / 60, 2, 2)  # the others have no false switch: the first evidence is enough
    assert other is None  # one recording promises nothing


def test_a_transcriber_is_told_the_spoken_languages_and_others() -> None:
    assert told(["it"], 2) == ["it", "ru"]
    assert told(["bg"], 5) == ["bg", "en", "es", "it", "ru"]
    assert len(told(["en", "es", "fr", "it", "ru", "ro"], 5)) == 6
    assert {"bg", "en", "zh"} <= set(told(["bg"], 17))

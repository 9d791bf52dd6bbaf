"""The promised rate of false switches: what evidence is, and how much of it a rate takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from whisperlab.config import TranscriberConfig
from whisperlab.streaming.false_switches import MOST, PROMISES, Evidence, SwitchOptions, least_evidence
from whisperlab.util.errors import ConfigurationError

CLEAR, DOUBTFUL, BACK = np.array([0.001, 0.998, 0.001]), np.array([0.3, 0.4, 0.3]), np.array([0.9, 0.05, 0.05])


def gathered(*frames: tuple[int | None, int, np.ndarray]) -> float:
    evidence = Evidence()
    for current, state, posterior in frames:
        evidence.add(current, state, posterior, 0.1)
    return evidence.value


def test_a_lower_rate_takes_at_least_as_much_evidence() -> None:
    for group in PROMISES["groups"]:
        rates = sorted(rate for _, rate in group["promised"])
        taken = [least_evidence(rate, group["languages"]) for rate in rates]
        assert all(low is not None and high is not None and low >= high for low, high in itertools.pairwise(taken))


def test_a_rate_that_too_little_speech_was_measured_for_is_refused_with_the_lowest_one() -> None:
    lowest = min(rate for _, rate in PROMISES["groups"][0]["promised"])
    assert least_evidence(lowest, 2) is not None
    with pytest.raises(ConfigurationError, match=f"the lowest rate is {lowest:g}"):
        least_evidence(lowest / 2, 2)


def test_nothing_is_promised_without_the_option_or_for_more_languages_than_were_measured() -> None:
    assert least_evidence(None, 99) is None
    with pytest.raises(ConfigurationError, match="99 languages allowed"):
        least_evidence(1000.0, 99)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "1"])
def test_a_rate_is_a_number_above_zero(rate: object) -> None:
    with pytest.raises(ConfigurationError, match=r"switch\.false_switches_per_hour"):
        SwitchOptions(false_switches_per_hour=rate)  # type: ignore[arg-type]


def test_the_option_is_found_by_its_dotted_name() -> None:
    config = TranscriberConfig.from_json({"switch.false_switches_per_hour": 12})
    assert config.switch == SwitchOptions(false_switches_per_hour=12)
    assert TranscriberConfig.from_json(config.to_json()) == config
    assert "switch.false_switches_per_hour" in TranscriberConfig.options()


def test_clear_frames_gather_evidence_faster_than_doubtful_ones() -> None:
    clear, doubtful = (gathered(*[(0, 1, posterior)] * 5) for posterior in (CLEAR, DOUBTFUL))
    assert 0 < doubtful < clear / 5 < MOST / 2
    assert gathered((0, 1, CLEAR), (0, 1, BACK)) < gathered((0, 1, CLEAR))  # another language is likelier again


def test_one_frame_counts_for_no_more_than_the_most() -> None:
    assert gathered((0, 1, np.array([0.0, 1.0, 0.0]))) == pytest.approx(0.1 * MOST)
    assert gathered((0, 1, np.array([1.0]))) == 0  # a single language has no other


def test_evidence_is_gathered_anew_for_another_change() -> None:
    one = gathered((0, 1, CLEAR))
    assert gathered((0, 1, CLEAR), (0, 2, CLEAR), (0, 1, CLEAR)) == pytest.approx(one)
    assert gathered((0, 1, CLEAR), (0, 0, BACK)) == 0
    assert gathered((0, 1, CLEAR), (0, 0, BACK), (0, 1, CLEAR)) == pytest.approx(one)

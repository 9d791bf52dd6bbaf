"""Significance tests: calibrated without a difference, sensitive with one, inconclusive with few data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from extent import in_short_and_at_length

from whisperlab.config import TranscriberConfig
from whisperlab.experiments.comparison import MIXED, TIME, Finding, compare_configurations, read_configuration
from whisperlab.experiments.significance import LEAST_PAIRS, holm, paired_test
from whisperlab.util.errors import ConfigurationError


def noisy(rng: np.random.Generator, n: int, spread: float = 0.05) -> np.ndarray:
    """Times around 1 with heavy tails, as of a shared machine."""
    return np.exp(spread * rng.standard_t(3, n))


def calls(trials: int, n: int, change: float = 1.0) -> Counter[str]:
    rng = np.random.default_rng(1)
    return Counter(
        paired_test("time", noisy(rng, n).tolist(), (noisy(rng, n) * change).tolist(), rng).conclusion
        for _ in range(trials)
    )


@pytest.mark.parametrize("n", [LEAST_PAIRS, 12, 40])
def test_without_a_difference_at_most_one_in_twenty_is_reported(n: int) -> None:
    """600 trials: three standard deviations above 5 % are 7.7 %."""
    assert calls(600, n)["difference"] <= 0.077 * 600


def test_a_difference_is_found_with_enough_data() -> None:
    found = calls(200, 60, 1.05)
    assert found["difference"] >= 0.9 * 200
    assert found["no difference"] <= 0.05 * 200


def test_much_data_without_a_difference_is_no_difference() -> None:
    assert calls(100, 150)["no difference"] >= 0.9 * 100


def test_two_pairs_have_no_interval() -> None:
    result = paired_test("time", [1.0, 1.0], [1.2, 1.3], np.random.default_rng(0))
    assert (result.low, result.high) == (None, None)
    assert paired_test("time", [1.0] * 3, [1.2, 1.3, 1.25], np.random.default_rng(0)).low is not None


def test_the_direction_the_size_and_the_words() -> None:
    rng = np.random.default_rng(2)
    a = noisy(rng, 40, 0.01).tolist()
    quick = paired_test("computing", a, [0.8 * value for value in a], rng)
    assert quick.conclusion == "difference"
    assert quick.value == pytest.approx(0.8)
    assert quick.low is not None
    assert quick.high is not None
    assert quick.low <= 0.8 <= quick.high
    assert quick.effect == -1
    told = Finding(TIME, quick).readable()
    assert (told["result"], told["B beside A"]) == ("B is faster", "-20.0 %")
    assert told["95 % interval"] == "-20.0 % to -20.0 %"
    worse = paired_test("errors", [0.1] * 20, [0.15] * 20, rng, kind="difference", threshold=0.01)
    assert worse.conclusion == "difference"
    told = Finding(MIXED, worse).readable()
    assert (told["result"], told["B beside A"]) == ("B is worse", "+5.0 points")
    same = paired_test("errors", [0.1] * 20, [0.1] * 20, rng, kind="difference", threshold=0.01)
    assert (same.conclusion, same.p, same.effect, same.pairs_missing) == ("no difference", 1.0, 0.0, 0)


def test_few_pairs_are_never_a_difference_and_the_missing_ones_are_counted() -> None:
    rng = np.random.default_rng(3)
    few = paired_test("time", [1.0, 1.1, 1.0], [2.0, 2.1, 2.2], rng)
    assert few.conclusion == "not enough data"
    assert few.pairs_missing >= LEAST_PAIRS - 3
    assert Finding(TIME, few).readable()["more pairs needed"] == few.pairs_missing


def test_the_pairs_missing_are_about_enough() -> None:
    rng = np.random.default_rng(4)
    asked = [paired_test("t", noisy(rng, 10).tolist(), noisy(rng, 10).tolist(), rng) for _ in range(200)]
    needed = int(np.median([10 + one.pairs_missing for one in asked if one.conclusion == "not enough data"]))
    assert calls(200, needed, 1.05)["difference"] >= 0.65 * 200
    assert calls(200, max(needed // 3, LEAST_PAIRS), 1.05)["difference"] <= 0.65 * 200


def test_many_measures_share_one_error() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(150):
        family = [paired_test(f"m{k}", noisy(rng, 15).tolist(), noisy(rng, 15).tolist(), rng) for k in range(5)]
        corrected = holm(family)
        assert [one.measure for one in corrected] == [one.measure for one in family]
        assert all(new.p >= old.p for new, old in zip(corrected, family, strict=True))
        wrong += any(one.conclusion == "difference" for one in corrected)
    assert wrong <= 0.103 * 150  # 5 % and three standard deviations; uncorrected it is 23 %
    sure = paired_test("sure", [1.0 + k / 100 for k in range(20)], [2.0 + k / 100 for k in range(20)], rng)
    assert holm([sure, *family])[0].conclusion == "difference"


@pytest.mark.parametrize(
    "a,b,said",
    [
        ([1.0], [], "as many of A as of B"),
        ([], [], "at least one"),
        ([1.0, np.nan], [1.0, 1.0], "finite"),
        ([1.0, 0.0], [1.0, 1.0], "above zero"),
    ],
)
def test_invalid_pairs_are_refused(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        paired_test("time", a, b, np.random.default_rng(0))


# --- configurations -----------------------------------------------------------------------------------


def test_a_configuration_is_json_or_a_file_of_it(tmp_path: Path) -> None:
    text = '{"compute.precision": "fp32", "language_id": {"confident_above": 0.9}}'
    (tmp_path / "options.json").write_text(text)
    expected = {"compute": {"precision": "fp32", "threads": 2}, "language_id": {"confident_above": 0.9}}
    for given in (text, str(tmp_path / "options.json")):
        assert read_configuration(given, threads=2).changes() == expected
    own = '{"compute": {"threads": 1}, "language_id": {"confident_above": 0.9}}'
    assert read_configuration(own, threads=2).changes() == {"language_id": {"confident_above": 0.9}}


@pytest.mark.parametrize(
    "text,said",
    [
        ("no-such-file.json", "is neither a file nor JSON"),
        ("{half", "is not JSON"),
        ('{"presicion": "fp32"}', "unknown option presicion"),
        ('{"language_id": {"confident": 1}}', "unknown option language_id.confident"),
        ('{"language_id": {"confident_above": 7}}', "language_id.confident_above must be"),
        ('{"model": "base"}', "the same for all"),
    ],
)
def test_an_invalid_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_configuration(text)


@pytest.mark.model
@in_short_and_at_length("rounds", 1, 4)
def test_two_configurations_are_compared_on_real_speech(excerpt: Path, rounds: int) -> None:
    from whisperlab.data import load

    (whole,) = load(str(excerpt), "test")
    first = whole.segments[0]
    recordings = [replace(whole, duration=first.end + 0.5, segments=(first,), text=first.text)]
    default = TranscriberConfig()
    every = default.replace({"language_id.confident_hop_factor": 1, "language_id.onset_only_ms": 30_000})
    outcome = compare_configurations(every, default, recordings, rounds=rounds)
    by_name = {finding.measure.name: finding.result for finding in outcome.findings}
    assert by_name["real-time factor (wall)"].n == rounds
    assert by_name["words wrong"].n == 1
    assert by_name["encoder seconds per second"].value < 0.8
    assert all(finding.readable()["measure"] == finding.measure.name for finding in outcome.findings)

"""Verdicts: calibrated where there is nothing, found where there is something, modest where data are few."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from whisperlab.experiments.comparison import Side, contest
from whisperlab.experiments.significance import LEAST, in_pairs, judge, together
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.transcriber import grouped
from whisperlab.util.errors import ConfigurationError


def noisy(rng: np.random.Generator, n: int, spread: float = 0.05) -> np.ndarray:
    """Times around 1 with heavy tails, as of a shared machine."""
    return np.exp(spread * rng.standard_t(3, n))


def calls(trials: int, n: int, change: float = 1.0) -> Counter[str]:
    rng = np.random.default_rng(1)
    return Counter(
        judge("time", noisy(rng, n).tolist(), (noisy(rng, n) * change).tolist(), rng).call
        for _ in range(trials)
    )


@pytest.mark.parametrize("n", [LEAST, 12, 40])
def test_where_there_is_nothing_at_most_one_in_twenty_is_called(n: int) -> None:
    """600 trials: three standard deviations above 5 % are 7.7 %."""
    assert calls(600, n)["difference"] <= 0.077 * 600


def test_what_is_there_is_found_with_data_enough() -> None:
    assert calls(200, 60, 1.05)["difference"] >= 0.9 * 200
    assert calls(200, 60, 1.05)["no difference"] <= 0.05 * 200


def test_much_data_of_nothing_is_no_difference() -> None:
    assert calls(100, 150)["no difference"] >= 0.9 * 100


def test_the_direction_the_size_and_the_sentence() -> None:
    rng = np.random.default_rng(2)
    a = noisy(rng, 40, 0.01).tolist()
    quick = judge("computing", a, [0.8 * value for value in a], rng)
    assert quick.call == "difference"
    assert quick.value == pytest.approx(0.8)
    assert quick.low <= 0.8 <= quick.high
    assert quick.effect == -1
    assert "computing: B is faster by 20.0% (20.0% to 20.0%), p" in quick.words("faster", "slower")
    worse = judge("errors", [0.1] * 20, [0.15] * 20, rng, kind="difference", worth=0.01)
    assert worse.call == "difference"
    assert "B is worse by 0.05 (0.05 to 0.05), p" in worse.words("better", "worse")
    same = judge("errors", [0.1] * 20, [0.1] * 20, rng, kind="difference", worth=0.01)
    assert (same.call, same.p, same.effect, same.more) == ("no difference", 1.0, 0.0, 0)


def test_few_pairs_are_never_a_difference_and_say_how_many_are_missing() -> None:
    rng = np.random.default_rng(3)
    few = judge("time", [1.0, 1.1, 1.0], [2.0, 2.1, 2.2], rng)
    assert few.call == "not enough data"
    assert few.more >= LEAST - 3
    assert f"run {few.more} more" in few.words()


def test_what_is_said_to_be_missing_is_about_enough() -> None:
    rng = np.random.default_rng(4)
    asked = [judge("t", noisy(rng, 10).tolist(), noisy(rng, 10).tolist(), rng) for _ in range(200)]
    needed = int(np.median([10 + one.more for one in asked if one.call == "not enough data"]))
    assert calls(200, needed, 1.05)["difference"] >= 0.65 * 200
    assert calls(200, max(needed // 3, LEAST), 1.05)["difference"] <= 0.65 * 200


def test_many_measures_share_one_error() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        family = [judge(f"m{k}", noisy(rng, 15).tolist(), noisy(rng, 15).tolist(), rng) for k in range(5)]
        corrected = together(family)
        assert [one.measure for one in corrected] == [one.measure for one in family]
        assert all(new.p >= old.p for new, old in zip(corrected, family, strict=True))
        wrong += any(one.call == "difference" for one in corrected)
    assert wrong <= 0.088 * 300  # 5 % and three standard deviations
    sure = judge("sure", [1.0 + k / 100 for k in range(20)], [2.0 + k / 100 for k in range(20)], rng)
    assert together([sure, *family])[0].call == "difference"


@pytest.mark.parametrize(
    "a,b,said",
    [
        ([1.0], [], "as many of A as of B"),
        ([], [], "at least one"),
        ([1.0, np.nan], [1.0, 1.0], "finite"),
        ([1.0, 0.0], [1.0, 1.0], "above zero"),
    ],
)
def test_pairs_that_are_none_are_refused(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        judge("time", a, b, np.random.default_rng(0))


def test_turns_begin_with_one_and_the_other() -> None:
    heard: list[str] = []
    now = iter(range(100))
    times = in_pairs(lambda: heard.append("a"), lambda: heard.append("b"), 3, lambda: float(next(now)))
    assert "".join(heard) == "abbaab"
    assert times == ([1.0] * 3, [1.0] * 3)


# --- configurations -----------------------------------------------------------------------------------


def test_a_configuration_is_json_or_a_file_of_it(tmp_path: Path) -> None:
    text = '{"precision": "fp32", "lid": {"sure": 0.9}}'
    (tmp_path / "options.json").write_text(text)
    for given in (text, str(tmp_path / "options.json")):
        side = Side.of(given)
        assert side == Side({"precision": "fp32", "lid": {"sure": 0.9}})
        assert grouped(side.options) == {"precision": "fp32", "lid": LanguageIdOptions(sure=0.9)}


@pytest.mark.parametrize(
    "text,said",
    [
        ("no-such-file.json", "is no file"),
        ("{half", "is not JSON"),
        ('{"lid": {"surer": 1}}', "lid: .*surer"),
        ('{"lid": {"sure": 7}}', "sure must be"),
        ('{"model": "base"}', "the same for all"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Side.of(text)


@pytest.mark.model
@pytest.mark.slow
def test_two_configurations_meet_on_real_speech(excerpt: Path) -> None:
    from whisperlab.data import load

    recordings = load(str(excerpt), "test")
    with pytest.raises(ConfigurationError, match="no such option"):
        contest(Side({"presicion": "fp32"}), Side(), recordings)
    outcome = contest(
        Side({"lid": {"confident_hop_factor": 1, "onset_only_ms": 30_000}}), Side(), recordings, rounds=2
    )
    by_name = {finding.measure.name: finding.verdict for finding in outcome.findings}
    assert by_name["computing / audio"].n == 2
    assert by_name["mixed error rate"].n == 1
    assert by_name["encoder seconds a second"].value < 0.8
    assert all(finding.words().startswith(finding.measure.name) for finding in outcome.findings)

"""Intervals hold the truth as often as they claim to, and measurements in turns favour nobody."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from whisperlab.util.statistics import block_ratio, median_interval
from whisperlab.util.timing import feed, rotations, time_in_turns


def test_the_interval_of_a_median_holds_it_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        _, low, high = median_interval(rng.exponential(size=31).tolist())
        assert low is not None
        assert high is not None
        held += low <= np.log(2) <= high
    assert 930 <= held <= 990


def test_a_ratio_is_of_the_same_chunks_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    before = [list(rng.exponential(100.0, 300)) for _ in range(2)]
    after = [[ms / 4 for ms in stretch] for stretch in before]
    for statistic in (np.mean, np.median):
        ratio, interval = block_ratio(after, before, statistic, np.random.default_rng(0))
        assert ratio == pytest.approx(0.25)
        assert interval == pytest.approx((0.25, 0.25))  # paired: a quarter of each is a quarter of all
    shuffled = [list(rng.permutation(stretch)) for stretch in after]
    ratio, interval = block_ratio(shuffled, before, np.mean, np.random.default_rng(0))
    assert ratio == pytest.approx(0.25)
    assert interval is not None
    assert interval[0] < 0.25 < interval[1]
    assert block_ratio([after[0][:60]], [before[0][:60]], np.mean, np.random.default_rng(0))[1] is None


def test_different_chunks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="argument"):
        block_ratio([[1.0]], [[1.0], [2.0]], np.mean, np.random.default_rng(0))


def test_subjects_take_turns_and_none_is_always_first() -> None:
    order: list[str] = []
    subjects: dict[str, Callable[[], None]] = {name: lambda name=name: order.append(name) for name in "ab"}
    now = iter(range(100))
    times = time_in_turns(subjects, 3, clock=lambda: 1_000_000 * next(now))
    assert order == list("abbaab")
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert list(rotations([], 2)) == [[], []]


def test_a_stream_is_fed_whole_and_lazily() -> None:
    class Counter:
        n = 0

        def process(self, chunk: np.ndarray, /) -> int:
            self.n += len(chunk)
            return self.n

        def finalize(self) -> int:
            return -self.n

    counter = Counter()
    results = feed(counter, np.zeros(5, np.float32), 2)
    assert (next(results), counter.n) == (2, 2)
    assert list(results) == [4, 5, -5]

"""Small helpers, each with an example."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from whisperlab.util import html
from whisperlab.util.audio_arrays import as_audio, chunks, duration_s
from whisperlab.util.errors import OutOfMemoryError, translate_oom
from whisperlab.util.gain import gain_for
from whisperlab.util.json_values import to_json
from whisperlab.util.options import flat, nested
from whisperlab.util.statistics import median_interval, wilson
from whisperlab.util.text_table import text_table, with_interval
from whisperlab.util.timeline import samples, seconds
from whisperlab.util.timing import rotations
from whisperlab.util.validation import check_range, is_number, on_threads


def test_values_are_shown_as_text_bars_and_tables() -> None:
    table = '<table><caption>ring</caption><tbody><tr><th scope="row">held</th><td>3</td></tr></tbody></table>'
    assert html.facts("ring", {"held": 3}) == table
    values = (None, 0.12345, 1234567, ["en", "es"], True, {"p50": 1.0})
    shown = ["-", "0.123", "1,234,567", "en, es", "yes", "p50: 1"]
    assert [html.format_value(value) for value in values] == shown
    assert [html.bar(share, 4) for share in (0.5, 0.0, 1.0)] == ["██··", "····", "████"]
    rows = [{"name": "base", "size": 74}, {"name": "tiny", "size": 39}]
    assert text_table(rows) == "name  size\nbase    74\ntiny    39"
    assert text_table([]) == "(nothing)"
    intervals = [with_interval(0.5, (0.25, 0.75)), with_interval(0.5, None), with_interval(None, None)]
    assert intervals == ["0.50 (0.25-0.75)", "0.50", "-"]
    assert with_interval(0.5, None, without="n = 2, no interval") == "0.50 (n = 2, no interval)"
    assert [on_threads(n) for n in (1, 2, None)] == [" on 1 thread", " on 2 threads", ""]


def test_time_is_counted_in_samples() -> None:
    assert (samples(0.1), samples(2.5), seconds(24000)) == (1600, 40000, 1.5)
    audio = np.zeros(5, np.float32)
    assert [len(chunk) for chunk in chunks(audio, 2)] == [2, 2, 1]
    assert duration_s(np.zeros(8000, np.float32)) == 0.5
    assert as_audio(np.array([0, 16384, -32768], dtype=np.int16)).tolist() == [0.0, 0.5, -1.0]
    assert gain_for(0.1) == 1.0
    assert gain_for(0.0005) > 90


def test_options_are_nested_and_flat() -> None:
    assert flat({"cache": {"size": 10}, "decode": False}) == {"cache.size": 10, "decode": False}
    assert nested({"cache.size": 10, "decode": False}) == {"cache": {"size": 10}, "decode": False}
    assert nested({"cache": 0.5, "cache.size": 10}) == {"cache": 0.5, "cache.size": 10}  # from elsewhere


@pytest.mark.parametrize(
    "value,low,high,exclusive,words",
    [
        (0, 1, 64, False, "1 to 64"),
        (65, 1, 64, False, "1 to 64"),
        (0, 0, 1, True, "above 0 and below 1"),
        (0, 0, math.inf, True, "above 0 and finite"),
        (math.inf, 0, math.inf, True, "above 0 and finite"),
        (-1, 0, math.inf, False, "at least 0"),
        (math.inf, -math.inf, math.inf, True, "finite"),
    ],
)
def test_a_number_outside_its_range_is_refused_with_the_range(
    value: float, low: float, high: float, exclusive: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=f"x must be {words}, got"):
        check_range("x", value, float, low, high, exclusive=exclusive)


def test_values_inside_a_range_and_values_without_one_pass() -> None:
    for value in (1, 64, 1.5):
        check_range("x", value, float, 1, 64)
    check_range("x", None, int | None, 1, 64)
    check_range("x", True, bool, 5)
    assert [is_number(value) for value in (1, 0.5, True, math.nan)] == [True, True, False, False]


def test_json_is_plain() -> None:
    value = {"p95": math.nan, "n": np.int64(3), 1: (True,), "file": Path("a")}
    assert to_json(value) == {"p95": None, "n": 3, "1": [True], "file": "a"}


def test_lack_of_memory_is_translated() -> None:
    told = r"not enough memory to load base \(4096 bytes requested at once\)"
    with pytest.raises(OutOfMemoryError, match=told), translate_oom("to load base"):
        raise RuntimeError("not enough memory: you tried to allocate 4096 bytes.")
    with pytest.raises(OutOfMemoryError, match="inner"), translate_oom("to do more"):
        raise OutOfMemoryError("inner")
    with pytest.raises(RuntimeError, match="other"), translate_oom("to do more"):
        raise RuntimeError("other")


def test_intervals_are_the_published_ones() -> None:
    assert [round(end, 3) for end in wilson(0, 20)] == [0.0, 0.161]
    assert median_interval([5, 1, 4, 2, 3, 6]) == (3.5, 1, 6)


def test_each_round_starts_with_the_next_item() -> None:
    assert ["".join(order) for order in rotations("abc", 4)] == ["abc", "bca", "cab", "abc"]

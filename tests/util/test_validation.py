"""Validation: options against their types, JSON against the standard."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest

from whisperlab.config import SessionOptions
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.smoothing import SmoothingOptions
from whisperlab.streaming.vad import VadOptions
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import AMOUNT, TEXT, check_type, from_json, shown, wrong_field

HINTS = {
    "whole": int,
    "number": float,
    "maybe": int | None,
    "switch": bool,
    "one_of": Literal["a", "b"],
    "several": tuple[float, ...],
}


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("whole", 1.0, "a whole number"),
        ("whole", True, "a whole number"),
        ("whole", "1", "a whole number"),
        ("whole", 2**63, "a whole number"),
        ("whole", -(2**63) - 1, "a whole number"),
        ("whole", np.int64(1), "a whole number"),
        ("number", math.nan, "a number"),
        ("number", None, "a number"),
        ("number", 10**400, "a number"),
        ("number", 2**63, "a number"),
        ("number", np.zeros(3), "a number"),
        ("maybe", "x", "a whole number or None"),
        ("switch", 1, "True or False"),
        ("one_of", "c", "one of a, b"),
        ("one_of", [], "one of a, b"),
        ("several", 1.0, "a list, each a number"),
        ("several", (1.0, "x"), "a list, each a number"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_allowed_type(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_type(name, value, HINTS[name])
    assert str(refused.value) == f"{name} must be {allowed}, got {shown(value)}"


@pytest.mark.parametrize(
    "name,value", [("whole", 1), ("number", 1), ("number", -math.inf), ("several", [0.5]), ("several", (1.0, 2))]
)
def test_a_value_of_the_right_type_passes(name: str, value: Any) -> None:
    check_type(name, value, HINTS[name])


def test_numbers_of_numpy_are_numbers_and_its_booleans_are_not() -> None:
    check_type("x", np.float64(0.5), float)
    with pytest.raises(ConfigurationError, match="x must be a number"):
        check_type("x", np.bool_(True), float)


@pytest.mark.parametrize(
    "group,options",
    [
        (VadOptions, {"min_silence_ms": "480"}),
        (VadOptions, {"min_silence_ms": 10**9}),  # a buffer was made for so much
        (LanguageIdOptions, {"confident_hop_factor": 10**9}),  # and for so much
        (LanguageIdOptions, {"onset_only_ms": math.nan}),
        (LanguageIdOptions, {"pool_after": 1.5}),
        (SmoothingOptions, {"margin": "1"}),
        (SmoothingOptions, {"min_duration_ms": math.inf}),
        (DecodingOptions, {"final_silence_s": 1.0}),
        (DecodingOptions, {"final_silence_s": (math.inf,)}),
        (DecodingOptions, {"tokens_per_second": math.inf}),
        (DecodingOptions, {"spare_tokens": 10**9}),
        (DecodingOptions, {"no_speech": math.nan}),
        (SessionOptions, {"policy": ["agreement"]}),
        (SessionOptions, {"share": None}),
        (SessionOptions, {"step_ms": 10**400}),
        (SessionOptions, {"snap_ms": 10**9}),
    ],
)
def test_options_at_and_beyond_their_ends_are_refused(group: type, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        group(**options)


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "[-Infinity]", "1e999", "-1e999", "1" * 400, "1" * 5000, '"\\ud800"', '"\\uDE00 alone"'),
        *("[" * 100_000, '{"a":' * 100_000, "", "{", "\ufeff1"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_only_python_reads_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


def test_json_that_the_standard_knows_is_read() -> None:
    assert from_json('{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00"]}') == {"a": [1, -2500.0, None, True, "😀"]}
    assert from_json(b"[1e-999, 9223372036854775807]") == [0.0, 2**63 - 1]
    with pytest.raises(ValueError, match="utf-8"):
        from_json(b'"\xff"')


def test_a_value_is_shown_in_one_short_line_whatever_it_is() -> None:
    assert shown("x" * 500).endswith("xxx...")
    assert len(shown("x" * 500)) < 90
    assert shown("a\nb") == repr("a\nb")
    assert shown(10**5000) == "a very large int"
    assert shown("\ud800").encode()
    assert "\n" not in shown(np.zeros((3, 3)))


def test_a_wrong_field_is_named_with_its_expected_content() -> None:
    fields = {"text": TEXT, "time": AMOUNT}
    assert wrong_field({"text": "", "time": 0}, fields) is None
    assert wrong_field({"time": 1}, fields) is None  # missing fields are checked elsewhere
    assert wrong_field({"text": None, "time": 0}, fields) == "text should be a string, got None"
    assert wrong_field({"text": "", "time": -1}, fields) == "time should be a number of 0 or more, got -1"
    assert wrong_field({"time": True}, fields) == "time should be a number of 0 or more, got True"

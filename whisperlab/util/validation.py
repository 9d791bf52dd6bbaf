"""Values from outside, looked at once: options by their annotated types, and JSON by what may be in it.

Whoever gives an option of a wrong type, or a file with a number where a text should be, is told which, what was
expected and what came, before anything has been computed with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from whisperlab.util.errors import ConfigurationError

_SHOWN = 80  # characters of a value in an error
_LARGEST_INT = 2**63  # what other programs read back as they wrote it


def shown(value: object) -> str:
    """A value as an error shows it: in one line of bearable length, whatever it is.

    >>> shown("en" * 100).endswith("en...")
    True
    """
    try:
        told = " ".join(repr(value).split())
    except ValueError:  # an int of more digits than Python writes out
        told = f"a very large {type(value).__name__}"
    told = told.encode(errors="backslashreplace").decode()
    return told if len(told) <= _SHOWN else f"{told[: _SHOWN - 1]}..."


def on_threads(n: int | None) -> str:
    """What is written beside a time: the number of compute threads, or nothing where it is not known.

    >>> on_threads(1), on_threads(2), on_threads(None)
    (' on 1 thread', ' on 2 threads', '')
    """
    return "" if n is None else f" on {n} thread{'s' * (n != 1)}"


def check_types(options: Any) -> None:
    """Raise ConfigurationError for a field of a dataclass that is not of its annotated type; see `check_type`."""
    for name, hint in get_type_hints(type(options)).items():
        check_type(name, getattr(options, name), hint)


def check_type(name: str, value: object, hint: Any) -> None:
    """Raise ConfigurationError, naming it, for a value that is not of a type.

    A float is any number but NaN. A whole number is one of 64 bits, which is what numpy and JSON take; True is none.
    """
    if not _fits(value, hint):
        raise ConfigurationError(f"{name} must be {_words(hint)}, got {shown(value)}")


def from_json(text: str | bytes) -> Any:
    """JSON as the standard has it; ValueError for what only Python would read, or nobody would.

    That is NaN and infinities, numbers beyond what a double or 64 bits hold, half a surrogate pair, and values nested
    deeper than Python can follow.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if "\\ud" in text.lower():  # half a pair, or a whole one
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


@dataclass(slots=True, frozen=True)
class Field:
    """What a field of a JSON object may hold, in words and as a question."""

    words: str
    fits: Callable[[Any], bool]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; True is none.

    >>> is_number(1), is_number(0.5), is_number(True), is_number(math.nan)
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


TEXT = Field("a string", lambda value: isinstance(value, str))
TEXT_OR_NULL = Field("a string or null", lambda value: value is None or isinstance(value, str))
FLAG = Field("true or false", lambda value: isinstance(value, bool))
OBJECT = Field("an object", lambda value: isinstance(value, dict))
NUMBER = Field("a number", is_number)
AMOUNT = Field("a number of 0 or more", lambda value: is_number(value) and value >= 0)
AMOUNT_OR_NULL = Field("a number of 0 or more, or null", lambda value: value is None or AMOUNT.fits(value))
COUNT = Field("a whole number of 0 or more", lambda value: type(value) is int and value >= 0)


def wrong_field(value: Mapping[str, Any], fields: Mapping[str, Field]) -> str | None:
    """What is wrong with the first field that is not as it should be; None when all are, missing ones included."""
    for name, field in fields.items():
        if name in value and not field.fits(value[name]):
            return f"{name} should be {field.words}, got {shown(value[name])}"
    return None


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if isinstance(
        origin := get_origin(hint), type
    ):  # Mapping[str, float]: its items are checked where it is used
        return isinstance(value, origin)
    if hint is float:
        return not math.isnan(value) if isinstance(value, float) else _fits(value, int)
    if hint is int:
        return (
            isinstance(value, int) and not isinstance(value, bool) and -_LARGEST_INT <= value < _LARGEST_INT
        )
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a list, each {_words(get_args(hint)[0])}"
    plain = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a string",
        NoneType: "None",
    }
    return plain.get(hint) or f"a {(get_origin(hint) or hint).__name__}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST_INT <= (number := int(digits)) < 2 * _LARGEST_INT:
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)

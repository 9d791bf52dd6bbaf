"""Validation of input: options against their annotated types, JSON objects against fields, strict JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isinf, isnan
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeGuard, Union, get_args, get_origin

from whisperlab.util.errors import ConfigurationError

_SHOWN = 80  # characters of a value in an error
_LARGEST_INT = 2**63  # other programs read integers below it exactly
_LARGEST_COUNT = 2**53  # a thousand of them can be added in 64 bits
_LARGEST_AMOUNT = 1e100  # sums and squares of it are finite


def shown(value: object) -> str:
    """A value for an error message, in one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int with more digits than Python prints
        text = f"a very large {type(value).__name__}"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}..."


def on_threads(n: int | None) -> str:
    """The number of compute threads as words beside a time, such as " on 2 threads"; empty for None."""
    return "" if n is None else f" on {n} thread{'s' * (n != 1)}"


def check_type(name: str, value: object, hint: object) -> None:
    """Raise ConfigurationError unless a value has a type: any number but NaN as ``float``, 64 bits as ``int``."""
    if not _fits(value, hint):
        raise ConfigurationError(f"{name} must be {_words(hint)}, got {shown(value)}")


def check_range(
    name: str, value: object, hint: object, low: float = -inf, high: float = inf, *, exclusive: bool = False
) -> None:
    """`check_type`, and the same error for a number outside a range; ``exclusive`` excludes its bounds."""
    check_type(name, value, hint)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if low < value < high or (not exclusive and low <= value <= high):
        return
    if high < inf:
        bounds = f"above {low:g} and below {high:g}" if exclusive else f"{low:g} to {high:g}"
    else:
        bounds = "finite" if low == -inf else f"above {low:g} and finite" if exclusive else f"at least {low:g}"
    raise ConfigurationError(f"{name} must be {bounds}, got {shown(value)}")


def from_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError for NaN, infinities, numbers beyond 64 bits, lone surrogates and too deep nesting."""
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if "\\ud" in text.lower():  # an escaped surrogate, paired or not
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


@dataclass(slots=True, frozen=True)
class Field:
    """The allowed content of a field of a JSON object, in words and as a predicate."""

    words: str
    fits: Callable[[object], bool]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, an int one of 64 bits; booleans are not."""
    return -inf < value < inf if isinstance(value, float) else _fits(value, int)


TEXT = Field("a string", lambda value: isinstance(value, str))
TEXT_OR_NULL = Field("a string or null", lambda value: value is None or isinstance(value, str))
FLAG = Field("true or false", lambda value: isinstance(value, bool))
OBJECT = Field("an object", lambda value: isinstance(value, dict))
NUMBER = Field("a number", is_number)
AMOUNT = Field("a number of 0 or more", lambda value: is_number(value) and 0 <= value <= _LARGEST_AMOUNT)
AMOUNT_OR_NULL = Field("a number of 0 or more, or null", lambda value: value is None or AMOUNT.fits(value))
COUNT = Field("a whole number of 0 or more", lambda value: type(value) is int and 0 <= value < _LARGEST_COUNT)


def wrong_field(value: Mapping[str, object], fields: Mapping[str, Field]) -> str | None:
    """An error text for the first field with a wrong value, or None; missing fields are accepted."""
    for name, field in fields.items():
        if name in value and not field.fits(value[name]):
            return f"{name} should be {field.words}, got {shown(value[name])}"
    return None


def _fits(value: object, hint: object) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple and isinstance(value, list | tuple):
        hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if isinstance(origin, type):  # Mapping[str, float]: its items are checked where it is used
        return isinstance(value, origin)
    if hint is float:
        return not isnan(value) if isinstance(value, float) else _fits(value, int)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST_INT <= value < _LARGEST_INT
    assert isinstance(hint, type)
    return isinstance(value, hint)


def _words(hint: object) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple:
        inner = f", each {_words(parts[0])}" if parts[-1] is Ellipsis else f" of {' and '.join(map(_words, parts))}"
        return f"a list{inner}"
    return _TYPES.get(hint) or f"a {getattr(origin or hint, '__name__', hint)}"


_TYPES: Mapping[object, str]
_TYPES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if isinf(number := float(digits)):
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST_INT <= (number := int(digits)) < 2 * _LARGEST_INT:
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_integer)

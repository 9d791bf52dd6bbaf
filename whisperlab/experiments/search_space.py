"""The space of a search: options with choices or ranges, read from JSON and checked by `TranscriberConfig`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from whisperlab.config import GROUPS, TranscriberConfig
from whisperlab.experiments.comparison import read_options
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import JsonValue
from whisperlab.util.options import Option, flat, migrated, nested

if TYPE_CHECKING:
    import optuna

DIGITS = 4  # significant digits of a number from a range

# Options outside of searches (and those of monitoring): the same for all trials, or part of the measurement.
_FIXED = {
    "languages", "sampling_rate", "language", "oracle", "decode", "language_id.prior", "compute.device",
    "cache.shadow_rate",
}  # fmt: skip
_RANGE = {"low", "high", "step", "log"}


@dataclass(slots=True, frozen=True)
class Choice:
    values: tuple[JsonValue, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    @property
    def size(self) -> float:
        return len(self.values)

    def suggest(self, trial: optuna.Trial, name: str) -> JsonValue:
        """The value that a trial proposes. The sampler receives JSON, because values may be lists."""
        value: JsonValue = json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))
        return value


@dataclass(slots=True, frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; integers if all of low, high and step are.

    ``step`` restricts it to multiples above ``low``; ``log`` samples each power of ten equally often.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigurationError(f"an empty range: low must be below high, got {self.low} and {self.high}")
        got = f"got low {self.low}, high {self.high} and step {self.step}"
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigurationError(f"a log range needs low above 0 and no step, {got}")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigurationError(f"step must be above 0 and fit into the range, {got}")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high

    @property
    def whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def size(self) -> float:
        """The number of values; infinite for real numbers without a step."""
        step = self.step or (1 if self.whole else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """The number that a trial proposes; real numbers without a step have `DIGITS` significant digits."""
        if self.step is None and self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        if self.step is None:
            drawn = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{DIGITS}g}")
        else:
            drawn = round(self.low + self.step * trial.suggest_int(name, 0, int(self.size) - 1), 12)
        return min(max(drawn, self.low), self.high)  # rounding can leave the range


Values: TypeAlias = Mapping[str, JsonValue]  # by dotted name


class Space:
    """The options that a search varies, and those it fixes.

    Described by an object such as ``{"compute.precision": ["fp32", "bf16"], "language_id": {"confident_above": {"low":
    0.5, "high": 0.95}}}``: a list is a `Choice`, an object of low, high, step and log a `Range`, any other value is
    fixed. Names are dotted or nested.

    Raises ConfigurationError for unknown options, values out of range or of another type, empty lists or ranges, and
    if no option has several values.
    """

    __slots__ = ("fixed", "options")

    def __init__(self, described: Mapping[str, object]) -> None:
        axes = {name: _axis(name, value) for name, value in _described(described).items()}
        self.options: dict[str, Choice | Range] = {n: axis for n, axis in axes.items() if axis.size > 1}
        self.fixed = {n: axis.values[0] for n, axis in axes.items() if isinstance(axis, Choice) and axis.size == 1}
        if not self.options:
            raise ConfigurationError(
                'a space needs an option with several values, such as {"language_id.hop_ms": [100, 200]}'
            )

    @classmethod
    def from_json(cls, text: str) -> Space:
        return cls(read_options(text))

    @property
    def size(self) -> float:
        """The number of configurations; infinite with real numbers."""
        return math.prod(axis.size for axis in self.options.values())

    def propose(self, trial: optuna.Trial) -> dict[str, JsonValue]:
        return {name: axis.suggest(trial, name) for name, axis in self.options.items()}

    def configuration(self, values: Values) -> dict[str, JsonValue]:
        """The fixed options and these values, nested by group."""
        return nested({**self.fixed, **values})


def _described(described: Mapping[str, object]) -> dict[str, JsonValue]:
    for name in GROUPS.keys() & described.keys():
        if not isinstance(described[name], Mapping):
            raise ConfigurationError(f"{name} is a group of options, an object, got {described[name]!r}")
    return flat(migrated(described))


def _axis(name: str, value: JsonValue) -> Choice | Range:
    options = TranscriberConfig.options().items()
    known = {one: option for one, option in options if one not in _FIXED and not one.startswith("monitoring.")}
    if name not in known:
        raise ConfigurationError(f"no option {name!r} to search over: there are {', '.join(known)}")
    try:
        if isinstance(value, Mapping):
            return _range(name, value, known[name])
        return _choice(name, value, known[name])
    except ConfigurationError as error:
        message = str(error)
        raise ConfigurationError(message if message.startswith(name) else f"{name}: {message}") from error


def _range(name: str, value: Mapping[str, object], option: Option) -> Range:
    if not {"low", "high"} <= value.keys() <= _RANGE:
        raise ConfigurationError(f"a range has low, high and perhaps step or log, got {dict(value)!r}")
    real = option.hint in (float, float | None)
    if not real and option.hint not in (int, int | None):
        raise ConfigurationError("needs a list of values, because it is not a number")
    low, high, step, log = (value.get(key) for key in ("low", "high", "step", "log"))
    for end in (low, high):
        option.check(name, end)
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise ConfigurationError(f"low and high must be numbers, got {low!r} and {high!r}")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float if real else int)):
        raise ConfigurationError(f"step must be a {'' if real else 'whole '}number, got {step!r}")
    if not isinstance(log or False, bool):
        raise ConfigurationError(f"log must be true or false, got {log!r}")
    if real:
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(low, high, step, bool(log))


def _choice(name: str, value: JsonValue, option: Option) -> Choice:
    # A list of lists is a choice of lists; a single value is a choice of one.
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigurationError("an empty list: it needs at least one value")
    for one in values:
        option.check(name, one)
    return Choice(tuple({json.dumps(one): one for one in values}.values()))

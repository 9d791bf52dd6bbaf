"""Groups of options: frozen dataclasses whose fields state type, default, allowed range and reason once."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import inf
from pathlib import Path
from typing import ClassVar, TypeVar, cast, get_type_hints

from whisperlab.util.json_values import JsonValue
from whisperlab.util.validation import check_range

T = TypeVar("T")

# "keywords": arguments of `SessionRestartTranscriber` by the dotted names of the options that they set.
# "groups" of a configuration (`whisperlab.config.TranscriberConfig`).
_FACTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
KEYWORDS: dict[str, str] = _FACTS["keywords"]
GROUP_NAMES = tuple(_FACTS["groups"])


@dataclass(slots=True, frozen=True)
class Option:
    """What is known of one option: its annotated type, default, meaning and allowed range (see `check_range`)."""

    hint: object
    default: object
    low: float
    high: float
    exclusive: bool
    meaning: str

    def check(self, name: str, value: object) -> None:
        check_range(name, value, self.hint, self.low, self.high, exclusive=self.exclusive)


def option(default: T, meaning: str, low: float = -inf, high: float = inf, *, exclusive: bool = False) -> T:
    """A field of a group of options. ``meaning`` says what it does, in which unit, and why this is the default."""
    metadata = {"low": low, "high": high, "exclusive": exclusive, "meaning": meaning}
    return field(default=default, metadata=metadata)


class Options:
    """Base of a group of options. Fields are checked when a group is made."""

    __slots__ = ()
    GROUP: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "") -> None:
        """``group`` is its name in a configuration, for error messages."""
        cls.GROUP = group or cls.GROUP  # a slotted dataclass is made twice

    def __post_init__(self) -> None:
        for name, known in described(type(self)).items():
            known.check(f"{self.GROUP}.{name}".lstrip("."), getattr(self, name))
        self.check()

    def check(self) -> None:
        """Raise ConfigurationError for fields that do not go together."""


_known: dict[type[object], Mapping[str, Option]] = {}  # by group; resolving type hints takes a millisecond


def described(group: type[object]) -> Mapping[str, Option]:
    if group not in _known:
        hints = get_type_hints(group)
        declared = [known for known in fields(group) if "meaning" in known.metadata]  # type: ignore[arg-type]
        _known[group] = {known.name: Option(hints[known.name], known.default, **known.metadata) for known in declared}
    return _known[group]


def flat(value: Mapping[str, object]) -> dict[str, JsonValue]:
    """Nested options by their dotted names, such as "cache.size". Names that are dotted already stay."""
    found: dict[str, object] = {}
    for name, inner in value.items():
        inner = plain(inner)
        if name in GROUP_NAMES and isinstance(inner, Mapping):
            found |= {f"{name}.{key}": item for key, item in inner.items()}
        else:
            found[name] = inner
    return cast("dict[str, JsonValue]", found)


def nested(value: Mapping[str, object]) -> dict[str, JsonValue]:
    """Turn options with dotted names into nested groups; the inverse of `flat`."""
    found: dict[str, object] = {}
    for name, item in value.items():
        group, _, inner = name.partition(".")
        own = found.setdefault(group, {}) if inner and group in GROUP_NAMES else None
        if isinstance(own, dict):  # a configuration from elsewhere can have a value under a group's name
            own[inner] = item
        else:
            found[name] = item
    return cast("dict[str, JsonValue]", found)


def plain(value: object) -> object:
    """A value of the record as JSON holds it: tuples become lists."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value

"""Types of JSON values, and the conversion of our records to plain JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]  # a JSON object as it was read: fields are checked when they are used
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"


def to_json(value: object) -> JsonValue:
    """A value as plain JSON: NaN and infinities become None, numpy numbers and arrays plain, paths strings."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy, which is not imported here: the command line must start fast
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [to_json(item) for item in value]
    return str(value)

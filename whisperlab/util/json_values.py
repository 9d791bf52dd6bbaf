"""Types of JSON values, and the conversion of our records to plain JSON."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]  # a JSON object as it was read: fields are checked when they are used
_BYTES = re.compile(r"[\udc80-\udcff]+")  # of file names that are not in the locale's encoding
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"


def unicode_text(text: str) -> str:
    """A text that UTF-8 can encode: bytes of a file name that are not UTF-8 become ``\\xff``."""
    return _BYTES.sub(lambda found: found[0].encode(errors="surrogateescape").decode(errors="backslashreplace"), text)


def to_json(value: object) -> JsonValue:
    """A value as plain JSON: NaN and infinities become None, numpy plain, paths strings, strings `unicode_text`."""
    if isinstance(value, Mapping):
        return {unicode_text(str(key)): to_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy, which is not imported here: the command line must start fast
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int | None):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [to_json(item) for item in value]
    return unicode_text(str(value))

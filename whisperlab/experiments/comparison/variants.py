"""A side of a contest: options of a transcriber, and the revision of the code it is run with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from whisperlab.config import TranscriberConfig
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import from_json, shown

Options: TypeAlias = Mapping[str, Any]

REVISION = "git:"


@dataclass(slots=True, frozen=True)
class Side:
    """``options`` as JSON has them; without ``revision`` it is this whisperlab that runs them."""

    options: Options = field(default_factory=dict)
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Side:
        """From a configuration, ``git:REVISION``, or ``git:REVISION CONFIGURATION`` as one text.

        A configuration is JSON, or the name of a file of it: ``{"precision": "fp32", "lid": {"sure": 0.9}}``. Raises
        ConfigurationError for what is none of these, and for groups of options that this whisperlab does not have; what
        another revision has is told by itself.

        >>> Side.of('git:v1~2 {"precision": "fp32"}')
        Side(options={'precision': 'fp32'}, revision='v1~2')
        """
        if not text.startswith(REVISION):
            side = cls(json_options(text))
            TranscriberConfig.from_json(side.options)
            return side
        revision, _, configuration = text.removeprefix(REVISION).partition(" ")
        if not revision:
            raise ConfigurationError(f"{text!r} names no revision: expected such as git:main")
        return cls(json_options(configuration.strip() or "{}"), revision)


def json_options(text: str) -> dict[str, Any]:
    """The JSON object in ``text``, or in the file it names, as it stands.

    Raises ConfigurationError for what is neither, and where it sets what all configurations have in common.
    """
    path = Path(text)
    try:
        found = from_json(path.read_text(encoding="utf-8") if not text.lstrip().startswith("{") else text)
    except OSError as error:
        raise ConfigurationError(
            f'{shown(text)} is no file, no {REVISION}REVISION, and no JSON such as {{"precision": "fp32"}}'
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{shown(text)} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"a configuration is a JSON object, got {shown(found)}")
    if "model" in found or "languages" in found:
        raise ConfigurationError("model and languages are the same for all sides: give them as arguments")
    return found

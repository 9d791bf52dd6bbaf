"""A side of a contest: options of a transcriber, and the revision of the code it is run with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from whisperlab.decoder import DecoderOptions
from whisperlab.errors import ConfigurationError
from whisperlab.lid import LidOptions
from whisperlab.smoothing import SmoothingOptions
from whisperlab.transcriber import SessionOptions
from whisperlab.vad import VadOptions

Options: TypeAlias = Mapping[str, Any]

# Options that are groups of options. Their classes have had these places and names since the first transcriber.
GROUPS = {
    "vad": VadOptions,
    "lid": LidOptions,
    "smoothing": SmoothingOptions,
    "decoding": DecoderOptions,
    "session": SessionOptions,
}
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
            side = cls(_configuration(text))
            options_of(side.options)
            return side
        revision, _, configuration = text.removeprefix(REVISION).partition(" ")
        if not revision:
            raise ConfigurationError(f"{text!r} names no revision: expected such as git:main")
        return cls(_configuration(configuration.strip() or "{}"), revision)


def options_of(options: Options) -> dict[str, Any]:
    """The options as this whisperlab's transcriber takes them.

    >>> options_of({"vad": {"onset": 0.6}})
    {'vad': VadOptions(onset=0.6, offset=0.35, min_silence_ms=480)}
    """
    made = dict(options)
    for name, group in GROUPS.items():
        if name in options:
            try:
                made[name] = group(**options[name])
            except TypeError as error:
                raise ConfigurationError(f"{name}: {error}") from error
    return made


def _configuration(text: str) -> dict[str, Any]:
    path = Path(text)
    try:
        found = json.loads(path.read_text(encoding="utf-8") if not text.lstrip().startswith("{") else text)
    except OSError as error:
        raise ConfigurationError(
            f'{text!r} is no file, no {REVISION}REVISION, and no JSON such as {{"precision": "fp32"}}'
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"a configuration is a JSON object, got {text!r}")
    if "model" in found or "languages" in found:
        raise ConfigurationError("model and languages are the same for both sides: give them as arguments")
    return found

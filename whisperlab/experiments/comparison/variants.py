"""The variants of a comparison: configurations from JSON."""

from __future__ import annotations

from pathlib import Path

from whisperlab.config import TranscriberConfig
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.threads import THREADS
from whisperlab.util.validation import from_json, shown


def read_configuration(text: str, threads: int = THREADS) -> TranscriberConfig:
    """A configuration from JSON or a file of it; ``threads`` applies unless it sets its own.

    Raises ConfigurationError for anything else, unknown options and values out of range.
    """
    return TranscriberConfig.from_json({"compute.threads": threads, **read_options(text)})


def read_options(text: str) -> dict[str, object]:
    """The JSON object in ``text``, or in the file it names.

    Raises ConfigurationError for anything else, and if it sets the model or the languages.
    """
    try:
        found = from_json(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f'{shown(text)} is neither a file nor JSON such as {{"compute.precision": "fp32"}}'
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{shown(text)} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"a configuration is a JSON object, got {shown(found)}")
    if "model" in found or "languages" in found:
        raise ConfigurationError("model and languages are the same for all: give them as arguments")
    return found

"""Arguments that several commands share, and types for argparse."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from whisperlab.model.languages import language_code
from whisperlab.util.errors import TraceError
from whisperlab.util.threads import THREADS
from whisperlab.util.validation import shown


def comma_list(text: str) -> list[str]:
    """An argument like ``en,es``: one name or more, none of them empty.

    >>> comma_list("en, es")
    ['en', 'es']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, got {shown(text)}")
    return names


def whole_numbers(text: str) -> list[int]:
    """An argument like ``10,50``.

    >>> whole_numbers("6,4,0")
    [6, 4, 0]
    """
    try:
        return [int(number) for number in comma_list(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers like 10,50, got {shown(text)}") from error


def _number(kind: type[float], fits: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    def number(text: str) -> float:
        with suppress(ValueError):
            if fits(found := kind(text)):
                return found
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")

    return number


positive = _number(float, lambda number: 0 < number < math.inf, "a number above zero")
positive_int = _number(int, lambda number: number > 0, "a whole number above zero")
share = _number(float, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def add_common_arguments(parser: argparse.ArgumentParser, *, nested: bool = False) -> None:
    """The arguments of all commands. ``nested``: of an action, where a default would undo what stands before it."""
    add, off = parser.add_argument, argparse.SUPPRESS if nested else False
    add("--json", action="store_true", default=off, help="print JSON alone on stdout, text on stderr")
    add("-q", "--quiet", action="store_true", default=off, help="print only results and errors")
    none = argparse.SUPPRESS if nested else 0
    add("-v", "--verbose", action="count", default=none, help="print log messages (-vv: debug messages too)")
    text = "read options from this file; the command line wins (default: none)"
    add("--config", metavar="FILE.toml", help=text)


def add_threads_argument(parser: argparse.ArgumentParser, default: int | None = THREADS, of: str = "") -> None:
    """``--threads``; ``of`` is the prefix of its help text, for a command that does several things."""
    text = f"{of}compute threads; whisperlab doctor measures the effect of a second one (default: {THREADS})"
    parser.add_argument("--threads", type=positive_int, default=default, metavar="N", help=text)


def add_languages_argument(parser: argparse.ArgumentParser, default: str) -> None:
    text = f"the languages that may occur: codes or English names (default: {default})"
    parser.add_argument("--languages", type=comma_list, metavar="en,es", help=text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="base", help="model name or checkpoint file")
    add_languages_argument(parser, "all 99")
    add("--device", help="cpu or cuda (default: cpu)")
    for name, text in (("lid-hop", "time between language-ID frames"), ("chunk", "length of the audio chunks")):
        add(f"--{name}-ms", type=positive_int, default=100, metavar="MS", help=f"{text}, in milliseconds")
    add_threads_argument(parser)


AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mka", ".aac", ".aif", ".aiff", ".au"}


def refuse_audio(paths: Iterable[Path], command: str) -> None:
    """Raise TraceError for audio where a command needs traces, with the two commands to run."""
    for path in paths:
        if path.suffix.lower() in AUDIO:
            trace = shlex.quote(f"{path.stem}.jsonl")
            raise TraceError(
                f"{path} is audio, {command} needs a trace. Run: whisperlab transcribe {shlex.quote(str(path))} "
                f"--trace {trace}, then: whisperlab {command} {trace}"
            )


def languages_as_codes(args: argparse.Namespace) -> None:
    """Replace the given languages by Whisper's codes. Raises UnknownLanguageError for an unknown language."""
    if getattr(args, "languages", None):
        args.languages = [language_code(name) for name in args.languages]
    if getattr(args, "language", None):
        args.language = language_code(args.language)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_model_arguments` as keyword arguments of the transcriber."""
    return {name: getattr(args, name) for name in ("model", "languages", "lid_hop_ms", "device", "threads")}

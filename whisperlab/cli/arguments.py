"""Arguments that several commands share, and the types argparse checks them with."""

from __future__ import annotations

import argparse
from typing import Any

from whisperlab.model.languages import language_code
from whisperlab.util.threads import THREADS
from whisperlab.util.validation import shown


def comma_list(text: str) -> list[str]:
    """An argument like ``en,es``: at least one name, no empty ones.

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


def positive(text: str) -> float:
    """An argument that must be a number above zero and finite."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above zero, got {shown(text)}")
    return number


def positive_int(text: str) -> int:
    """An argument that must be a whole number above zero."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {shown(text)}")
    return number


def share(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {shown(text)}")
    return number


def add_threads_argument(
    parser: argparse.ArgumentParser, default: int | None = THREADS, of: str = ""
) -> None:
    """``--threads``; ``of`` names what they are of where a command does several things."""
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=default,
        metavar="N",
        help=f"{of}compute threads (default: {THREADS}; whisperlab doctor measures what a second one brings)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments shared by the commands that run a model."""
    parser.add_argument(
        "--model", default="base", help="model name or checkpoint file (default: %(default)s)"
    )
    parser.add_argument(
        "--languages",
        type=comma_list,
        metavar="en,es",
        help="the languages that may occur (default: all 99)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--lid-hop-ms", type=positive_int, default=100, metavar="MS", help="time between language-ID frames"
    )
    parser.add_argument(
        "--chunk-ms", type=positive_int, default=100, metavar="MS", help="audio handed over at a time"
    )
    add_threads_argument(parser)


def languages_as_codes(args: argparse.Namespace) -> None:
    """Replace the languages given by Whisper's codes. Raises UnknownLanguageError for what names no language."""
    if getattr(args, "languages", None):
        args.languages = [language_code(name) for name in args.languages]
    if getattr(args, "language", None):
        args.language = language_code(args.language)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments above as options of the transcriber."""
    return {
        "model": args.model,
        "languages": args.languages,
        "lid_hop_ms": args.lid_hop_ms,
        "device": args.device,
        "threads": args.threads,
    }

"""A parser whose help shows every default, whose errors suggest names, and that reads options from a TOML file."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import shown


class Help(argparse.RawDescriptionHelpFormatter):
    """Appends the default of every option to its help, unless the text has it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        takes_value = action.option_strings and action.nargs != 0
        if not takes_value or not text or action.required or "default" in text or default is argparse.SUPPRESS:
            return text
        if isinstance(default, list):
            default = ",".join(map(str, default))
        words = {True: "yes", False: "no"}
        shown_default = words[default] if isinstance(default, bool) else "none" if default in (None, "") else default
        return f"{text} (default: {str(shown_default).replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with `Help`, and with suggestions for mistyped commands, options and choices."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, **options})

    def error(self, message: str) -> NoReturn:
        """Exit with 2; names the closest choice for a word that is none."""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))
        super().error(message)

    def option_actions(self) -> dict[str, argparse.Action]:
        """The options by their long names, without dashes."""
        return {
            name[2:]: action
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and name not in ("--help", "--config")
        }

    def subparsers(self) -> dict[str, Parser]:
        """The commands or actions of this parser by name."""
        groups = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(groups[0]) if groups else {}


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known one, or nothing.

    >>> did_you_mean("transcrib", ["transcribe", "sweep"])
    "; did you mean 'transcribe'?"
    """
    close = get_close_matches(word, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line, with those of its ``--config`` file inserted behind the command."""
    args, unknown = parser.parse_known_args(with_config(parser, argv))
    if unknown:
        names = [f"--{name}" for name in args.parser.option_actions()]
        args.parser.error(f"unrecognized arguments: {shown(' '.join(unknown))}{did_you_mean(unknown[0], names)}")
    return args


def with_config(parser: Parser, argv: Sequence[str]) -> list[str]:
    """The words of a command line with those of its ``--config`` file before them, so that the command line wins."""
    finder = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    words, place, command = list(argv), 0, ""
    try:
        path = finder.parse_known_args(words)[0].config
    except argparse.ArgumentError:  # without a value: the parser of the command reports it
        return words
    commands = parser.subparsers()
    while path and place < len(words) and words[place] in parser.subparsers():
        parser = parser.subparsers()[words[place]]
        command, place = command or words[place], place + 1
    if not path or not command:
        return words
    return words[:place] + list(_words(path, command, parser, commands)) + words[place:]


def _words(path: Path, command: str, parser: Parser, commands: Iterable[str]) -> Iterator[str]:
    """The options of a file for one command as words. Raises ConfigurationError for anything else in the file."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"--config {path} is not TOML: {error}") from error
    known = parser.option_actions()
    tables = {name: found.pop(name) for name in commands if isinstance(found.get(name), dict)}
    for key, value in {**found, **tables.get(command, {})}.items():
        name = key.replace("_", "-")
        if name not in known:
            close = did_you_mean(name, [*known, *commands])
            raise ConfigurationError(f"--config {path}: {command} has no option {key!r}{close}")
        yield from _option(f"{path}: {key}", name, value, known[name])


def _option(place: str, name: str, value: object, action: argparse.Action) -> list[str]:
    """One option of a file as words of a command line."""
    if isinstance(value, bool):
        if isinstance(action, argparse.BooleanOptionalAction):
            return [f"--{name}" if value else f"--no-{name}"]
        if action.nargs == 0:
            return [f"--{name}"] * value
    elif action.nargs != 0 and isinstance(value, str | int | float):
        return [f"--{name}={value}"]
    elif action.nargs != 0 and isinstance(value, list) and value:
        texts = [str(item) for item in value]
        repeated = isinstance(action, argparse._AppendAction)
        return [f"--{name}={text}" for text in texts] if repeated else [f"--{name}={','.join(texts)}"]
    expected = "true or false" if action.nargs == 0 else "a text, a number or a list of them"
    raise ConfigurationError(f"--config {place}: expected {expected}, got {shown(value)}")

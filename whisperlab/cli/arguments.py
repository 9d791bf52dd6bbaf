"""Arguments of the commands: a parser whose help and errors explain, option files, checks of optional libraries."""

import argparse
import math
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from whisperlab.cli.console import visible
from whisperlab.model.languages import language_code
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, TraceError
from whisperlab.util.files import AUDIO
from whisperlab.util.validation import from_json, shown

if TYPE_CHECKING:
    from whisperlab.data import Recording

Needs: TypeAlias = Mapping[str, str]  # the purpose of each optional library, by import name

# Constants of all commands that are only text, and the arguments of the commands.
_FILES = ("tables", "options")
TABLES, OPTIONS = (tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8")) for name in _FILES)
# The libraries of each extra of pyproject.toml, by import name.
EXTRAS = TABLES["extras"]
_EXTRA_OF = {name: extra for extra, names in EXTRAS.items() for name in names}
_PACKAGES = {"whisper": "openai-whisper", "vl_convert": "vl-convert-python", "opencc": "opencc-python-reimplemented"}
PAGES: Needs = {"jinja2": "HTML pages", "matplotlib": "figures", "vl_convert": "interactive figures"}


class Help(argparse.RawDescriptionHelpFormatter):
    """Appends the default of every option to its help, unless the text has it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        takes_value = action.option_strings and action.nargs != 0
        if not takes_value or not text or action.required or "default" in text or default is argparse.SUPPRESS:
            return text
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, list):
            default = ",".join(map(str, default))
        return f"{text} (default: {str('none' if default in (None, '') else default).replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with `Help`, and with suggestions for mistyped commands, options and choices."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        return Help(prog=self.prog)

    def declare(self, group: str, **more: Mapping[str, Any]) -> None:
        """Add the arguments of a group of ``options.toml``; ``more`` has further settings of some of them, by name."""
        self.register("action", "yes_or_no", argparse.BooleanOptionalAction)
        for names, declared in OPTIONS[group].items():
            if "group" in declared:
                defaults = declared.get("defaults", {}).items()
                self.declare(declared["group"], **{name: {"default": value} for name, value in defaults})
                continue
            settings = {**declared, **more.get(names.split()[-1].lstrip("-"), {})}
            if isinstance(kind := settings.get("type"), str):
                settings["type"] = TYPES[kind]
            self.add_argument(*names.split(), **settings)

    def error(self, message: str) -> NoReturn:
        """Exit with 2; names the closest choice for a word that is none."""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))
        super().error(visible(message))

    def option_actions(self) -> dict[str, argparse.Action]:
        named = [(name, action) for action in self._actions for name in action.option_strings]
        excluded = ("--help", "--config")
        return {name[2:]: action for name, action in named if name.startswith("--") and name not in excluded}

    def subparsers(self) -> "dict[str, Parser]":
        groups = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(groups[0]) if groups else {}


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known one, or nothing."""
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
    """The words of a command line with those of its ``--config`` file before its own, so that the command line wins."""
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


def comma_list(text: str) -> list[str]:
    """An argument like ``en,es``: one name or more, none of them empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, got {shown(text)}")
    return names


def whole_numbers(text: str) -> list[int]:
    """An argument like ``10,50``."""
    try:
        return [int(number) for number in comma_list(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers like 10,50, got {shown(text)}") from error


def parameter(text: str) -> tuple[str, object]:
    """An argument like ``LIMIT=3``, ``KEYS=["span"]`` or ``CORPUS=ivr-five``. A value that is not JSON is text."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {shown(text)}")
    try:
        return name, from_json(value)
    except ValueError:
        return name, value


def _number(kind: type[float], fits: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def number(text: str) -> float:
        with suppress(ValueError):
            if fits(found := kind(text)):
                return found
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown(text)}")

    return number


positive = _number(float, lambda number: 0 < number < math.inf, "a number above zero")
positive_int = _number(int, lambda number: number > 0, "a whole number above zero")
share = _number(float, lambda number: 0 <= number <= 1, "a number from 0 to 1")
# The types of options.toml.
TYPES: dict[str, Callable[[str], object]] = {"Path": Path, "int": int, "parameter": parameter}
TYPES |= {"positive": positive, "positive_int": positive_int, "share": share}
TYPES |= {"comma_list": comma_list, "whole_numbers": whole_numbers}


def add_common_arguments(parser: Parser, *, nested: bool = False) -> None:
    """The arguments of all commands. ``nested``: of an action, where a default would undo what stands before it."""
    names = ("json", "quiet", "verbose") if nested else ()
    parser.declare("common", **{name: {"default": argparse.SUPPRESS} for name in names})


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the groups ``model`` and ``streaming`` as keyword arguments of the transcriber."""
    return {name: getattr(args, name) for name in ("model", "languages", "lid_hop_ms", "device", "engine", "threads")}


def recordings(args: argparse.Namespace) -> "Sequence[Recording]":
    """The speech that ``--corpus``, ``--split`` and ``--limit`` name."""
    from whisperlab import data

    return data.load(args.corpus, args.split)[: args.limit]


def refuse_audio(paths: Iterable[Path], command: str) -> None:
    """Raise TraceError for audio where a command needs traces, with the two commands to run."""
    for path in paths:
        if path.suffix.lower() in AUDIO:
            trace = shlex.quote(f"{path.stem}.jsonl")
            run = f"whisperlab transcribe {shlex.quote(str(path))} --trace {trace}, then: whisperlab {command} {trace}"
            raise TraceError(f"{path} is audio, {command} needs a trace. Run: {run}")


def languages_as_codes(args: argparse.Namespace) -> None:
    """Replace the given languages by Whisper's codes. Raises UnknownLanguageError for an unknown language."""
    if given := getattr(args, "languages", None):
        args.languages = [language_code(name) for name in given]
    if given := getattr(args, "language", None):
        args.language = language_code(given)


def require(needs: Needs) -> None:
    """Raise MissingDependencyError with all libraries that are missing, their purposes, and how to install them."""
    if missing := [name for name in needs if not is_there(name)]:
        named = ", ".join(f"{distribution(name)} ({needs[name]})" for name in missing)
        extras = ",".join(sorted({_EXTRA_OF[name] for name in missing}))
        raise MissingDependencyError(f"not installed: {named}; pip install 'whisperlab[{extras}]'")


def distribution(name: str) -> str:
    """The name to install a library by, from its import name."""
    return _PACKAGES.get(name, name.replace("_", "-"))


def is_there(name: str) -> bool:
    """Whether a library is installed, by import name. It is not imported."""
    with suppress(ImportError, ValueError):
        return find_spec(name) is not None
    return False

"""The parser of all commands, and the run of one. Commands import heavy libraries only when they run."""

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module

from whisperlab import __version__
from whisperlab.cli.arguments import TABLES, Parser, add_common_arguments, languages_as_codes, parse
from whisperlab.cli.console import ERASE, Console, visible
from whisperlab.util.errors import translate_oom

# For --threads 2 and more. OpenMP threads wait for each other in a busy loop. If they share their cores with other
# processes, a wait can take hundreds of milliseconds. A short spin costs nothing on an idle machine. With two other
# busy processes, one encode of a 2.5 s window took 99 ms with it and 186 ms without. torch reads it at import.
SPIN = ("GOMP_SPINCOUNT", "10000")

COMMANDS = [import_module(f"whisperlab.cli.{name}") for name in TABLES["help"]]


def build_parser() -> Parser:
    text = "Live transcription of speech that switches language, and the tools to measure it."
    parser = Parser(prog="whisperlab", description=text)
    parser.add_argument("--version", action="version", version=f"whisperlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        examples = "\n".join(("examples:", *(f"  whisperlab {line}" for line in TABLES["examples"][name])))
        command = commands.add_parser(name, help=TABLES["help"][name], description=module.__doc__, epilog=examples)
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
        else:  # all of them are in options.toml
            command.declare(name)
        add_common_arguments(command)
        command.set_defaults(run=module.run, parser=command)
        for action in command.subparsers().values():
            add_common_arguments(action, nested=True)
            action.set_defaults(parser=action)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command, which first checks its optional libraries; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell at a press of TAB; the call below ends this process
        import argcomplete

        argcomplete.autocomplete(parser)
    if not words:
        parser.print_help()
        return 0
    args = parse(parser, words)
    args.argv = words
    os.environ.setdefault(*SPIN)
    console = Console(sys.stdout, sys.stderr, args.json, args.quiet)
    # Output of libraries must not mix with results, which `Console` prints.
    with (
        redirect_stdout(io.StringIO() if args.quiet else sys.stderr),
        _logged(console, args.verbose),
        translate_oom("for this command"),
    ):
        languages_as_codes(args)
        return int(args.run(args, console) or 0)


@contextmanager
def _logged(console: Console, verbose: int) -> Iterator[None]:
    """Print log messages, such as a download of a model, as plain lines on stderr while a command runs.

    With ``verbose`` also those of the libraries: 1 from INFO on, 2 from DEBUG on.
    """
    own, root = logging.getLogger("whisperlab"), logging.getLogger()
    handler = logging.StreamHandler(console.err)
    lines = logging.Formatter(("%(levelname)s %(name)s: " if verbose else "") + "%(message)s")
    erase = ERASE if console.err.isatty() else ""
    handler.format = lambda record: erase + visible(lines.format(record))  # type: ignore[method-assign]
    level = logging.DEBUG if verbose > 1 else logging.INFO if verbose else logging.WARNING
    levels = {own: logging.ERROR if console.quiet else min(level, logging.INFO), **({root: level} if verbose else {})}
    before = [(logger, logger.level, logger.propagate) for logger in levels]
    for logger, least in levels.items():
        logger.addHandler(handler)
        logger.setLevel(least)
    own.propagate = False
    try:
        yield
    finally:
        for logger, least, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(least)
            logger.propagate = propagate

"""The parser of all commands, and the run of one. Commands import heavy libraries only when they run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from whisperlab import __version__
from whisperlab.cli import bench, compare, data, doctor, models, profile, report, score, search, sweep, transcribe
from whisperlab.cli.arguments import languages_as_codes
from whisperlab.cli.console import Console
from whisperlab.cli.needs import require
from whisperlab.util.errors import translate_oom

# For --threads 2 and more. OpenMP threads wait for each other in a busy loop. If they share their cores with other
# processes, a wait can take hundreds of milliseconds. A short spin costs nothing on an idle machine. With two other
# busy processes, one encode of a 2.5 s window took a mean of 99 ms with it and 186 ms without. torch reads it
# at import.
SPIN = ("GOMP_SPINCOUNT", "10000")

COMMANDS = (transcribe, sweep, search, compare, report, profile, bench, score, data, models, doctor)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="whisperlab", description="The lab bench for streaming Whisper on code-switching speech."
    )
    parser.add_argument("--version", action="version", version=f"whisperlab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog="examples:\n" + "\n".join(f"  whisperlab {line}" for line in module.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print JSON alone on stdout, text on stderr")
        command.set_defaults(run=module.run, needs=module.needs, parser=command)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Check the dependencies of one command and run it; returns the exit code."""
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(*SPIN)
    console = Console(sys.stdout, sys.stderr, args.json)
    # Output of libraries must not mix with JSON documents.
    stdout = sys.stderr if args.json else sys.stdout
    with redirect_stdout(stdout), _logged(console), translate_oom("for this command"):
        languages_as_codes(args)
        require(args.needs(args))
        return int(args.run(args, console))


@contextmanager
def _logged(console: Console) -> Iterator[None]:
    """Print log messages, such as a download of a model, as plain lines on stderr while a command runs."""
    logger, handler = logging.getLogger("whisperlab"), logging.StreamHandler(console.err)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate

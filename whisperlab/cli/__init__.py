"""The command line: one module per command, nothing heavy imported until a command runs.

Exit codes: 0 done, 1 failed (with one line saying why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from whisperlab import __version__
from whisperlab.cli import (
    bench,
    compare,
    data,
    doctor,
    models,
    profile,
    report,
    score,
    search,
    sweep,
    transcribe,
)
from whisperlab.cli.console import Console
from whisperlab.errors import WhisperlabError, enough_memory

# For --threads 2 and more. Two OpenMP threads that share two cores with anything else wait for each other in a busy
# loop, for hundreds of milliseconds now and then. A short spin costs nothing on an idle machine: with two other busy
# processes, one encode of a 2.5 s window took a mean of 99 ms with it and 186 ms without. Read when torch is loaded,
# so set before.
SPIN = ("GOMP_SPINCOUNT", "10000")

COMMANDS = (transcribe, sweep, search, compare, report, profile, bench, score, data, models, doctor)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
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
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (argparse itself leaves with 2 for wrong usage)."""
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(*SPIN)
    console = Console(sys.stdout, sys.stderr, args.json)
    try:
        # Whatever a library prints must not end up between JSON documents.
        stdout = sys.stderr if args.json else sys.stdout
        with redirect_stdout(stdout), _logged(console), enough_memory("for this command"):
            return int(args.run(args, console))
    except KeyboardInterrupt:
        console.note("whisperlab: interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing to say, and nothing more may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (WhisperlabError, OSError) as error:
        console.error(error)
        return 1


@contextmanager
def _logged(console: Console) -> Iterator[None]:
    """What whisperlab logs, such as a model being fetched, as plain lines on stderr while a command runs."""
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

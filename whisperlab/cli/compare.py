"""Two configurations against each other on the same recordings, in turns: which is better, and is it sure?

A configuration is JSON, or a file of it, with options of SessionRestartTranscriber; those it does not name are the
defaults. Verdicts are: a difference with its interval, no difference shown, or not enough data and how much more.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from whisperlab.cli.arguments import positive_int
from whisperlab.cli.console import Console, finite

HELP = "is one configuration better than another?"
EXAMPLES = (
    """compare '{"precision": "fp32"}' '{"precision": "bf16"}' --corpus ivr-five --split dev --limit 2 --rounds 4""",
    """compare old.json new.json --corpus my/manifest.jsonl --json""",
    """compare '{}' '{"lid": {"sure_hops": 1}}'""",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab compare``."""
    parser.add_argument("a", metavar="A", help="a configuration: JSON, or a file of it")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--corpus", default="ivr-five", metavar="NAME|MANIFEST")
    parser.add_argument("--split", default="dev", help="dev or test (default: %(default)s)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N recordings")
    parser.add_argument(
        "--rounds", type=positive_int, default=1, metavar="N", help="times each recording is heard, for times"
    )
    parser.add_argument("--model", default="base", help="model name or checkpoint file")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run both, and print a verdict on each measure."""
    from whisperlab import corpora
    from whisperlab.contest import contest, options_of, words
    from whisperlab.trace import provenance

    a, b = options_of(args.a), options_of(args.b)
    recordings = corpora.load(args.corpus, args.split)[: args.limit]
    verdicts = contest(a, b, recordings, model=args.model, rounds=args.rounds, say=console.note)
    console.document(
        {"a": args.a, "b": args.b, "verdicts": [finite(asdict(one)) for one in verdicts], **provenance()}
    )
    for line in words(verdicts):
        console.show(line)
    return 0

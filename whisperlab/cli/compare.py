"""Two sides on the same recordings, in turns: which is better, and is it sure?

A side is a configuration, JSON or a file of it, with options of SessionRestartTranscriber (those it does not name are
the defaults); or a revision of the code, git:REV, of the repository in the current folder, also with a configuration:
'git:REV CONFIG'. With a revision on either side, each runs in a process of its own. Two folders of sweeps are compared
by what they hold, and nothing is run. Verdicts are: a difference with its interval, no difference shown, or not enough
data and how much more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import add_threads_argument, positive_int
from whisperlab.cli.console import Console, counted, table
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.threads import THREADS

if TYPE_CHECKING:
    from whisperlab.experiments.comparison import Finding, Outcome, Side

HELP = "is one configuration, revision or sweep better than another?"
EXAMPLES = (
    """compare '{"precision": "fp32"}' '{"precision": "bf16"}' --corpus ivr-five --split dev --limit 2 --rounds 4""",
    """compare old.json new.json --corpus my/manifest.jsonl --json""",
    """compare git:HEAD~1 git:HEAD --limit 2 --rounds 4""",
    """compare 'git:main {"precision": "fp32"}' '{"precision": "fp32"}'""",
    """compare reports/old-sweep reports/new-sweep""",
)
# How recordings are run: not for sweeps, which were.
RUNNING: dict[str, Any] = {
    "corpus": "ivr-five",
    "split": "dev",
    "limit": None,
    "rounds": 1,
    "model": "base",
    "threads": THREADS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab compare``."""
    parser.add_argument(
        "a", metavar="A", help="a configuration, git:REV, 'git:REV CONFIG', or a sweep's folder"
    )
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--corpus", metavar="NAME|MANIFEST", help=f"default: {RUNNING['corpus']}")
    parser.add_argument("--split", help=f"dev or test (default: {RUNNING['split']})")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N recordings")
    parser.add_argument(
        "--rounds",
        type=positive_int,
        metavar="N",
        help="hear each recording so often; only the comparison of times gains by it (default: 1)",
    )
    parser.add_argument("--model", help=f"model name or checkpoint file (default: {RUNNING['model']})")
    add_threads_argument(parser, default=None)


def needs(args: argparse.Namespace) -> Needs:
    """Significance tests; two folders of sweeps need no speech."""
    runs = not (Path(args.a).is_dir() and Path(args.b).is_dir())
    return {"scipy": "significance tests", **(speech(args.corpus or RUNNING["corpus"]) if runs else {})}


def run(args: argparse.Namespace, console: Console) -> int:
    """Compare, and print a verdict on each measure."""
    from whisperlab.evaluation.trace import provenance

    texts = args.a, args.b
    folders = [Path(text).is_dir() for text in texts]
    if any(folders) and not all(folders):
        args.parser.error(
            "a sweep's folder is compared with another one, not with a configuration or revision"
        )
    facts, outcome = (_sweeps if all(folders) else _contest)(args, console)
    console.document(
        {
            "a": args.a,
            "b": args.b,
            **facts,
            "normalizer": "plain",
            "verdicts": [finding.to_dict() for finding in outcome.findings],
            "remarks": list(outcome.remarks),
            **provenance(),
        }
    )
    for line in (*(finding.words() for finding in outcome.findings), *outcome.remarks, ""):
        console.show(line)
    console.show(table([_row(finding) for finding in outcome.findings]))
    console.show(counted())
    return 0


def _sweeps(args: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Outcome]:
    from whisperlab.experiments.comparison import compare_sweeps

    if given := [f"--{name}" for name in RUNNING if getattr(args, name) is not None]:
        args.parser.error(f"{', '.join(given)}: nothing is run to compare two sweeps")
    return {}, compare_sweeps(Path(args.a), Path(args.b))


def _contest(args: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Outcome]:
    from whisperlab import data
    from whisperlab.experiments.comparison import Side, contest

    how = {name: value if (value := getattr(args, name)) is not None else RUNNING[name] for name in RUNNING}
    a, b = Side.of(args.a), Side.of(args.b)
    commits = {"a": _commit(a), "b": _commit(b)}
    recordings = data.load(how["corpus"], how["split"])[: how["limit"]]
    asked = {name: how[name] for name in ("model", "rounds", "threads")}
    outcome = contest(a, b, recordings, **asked, say=console.note)
    return {"commits": commits, "recordings": len(recordings), **how}, outcome


def _commit(side: Side) -> str | None:
    """The commit a side's revision means; None for the whisperlab that is running, whose origin is told anyway."""
    from whisperlab.experiments.comparison.revisions import commit_of

    return side.revision and commit_of(side.revision, Path())


def _row(finding: Finding) -> dict[str, Any]:
    """A line of the table: changes of ratios in percent, of rates in their own unit."""
    verdict = finding.verdict
    ratio = verdict.kind == "ratio"
    ends = verdict.value, verdict.low, verdict.high
    change, low, high = (f"{end - 1:+.1%}" if ratio else f"{end:+.3g}" for end in ends)
    where = {"configuration": finding.configuration} if finding.configuration else {}
    return {
        **where,
        "measure": verdict.measure,
        "verdict": verdict.call,
        "B beside A": change,
        "from": low,
        "to": high,
        "p": f"{verdict.p:.2g}",
        "effect": f"{verdict.effect:+.2f}",
        "pairs": verdict.n,
        "run more": verdict.more,
    }

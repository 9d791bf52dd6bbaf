"""Compare two revisions of the code on the same recordings, with significance tests.

python -m benchmarks.revisions HEAD~1 HEAD --limit 2 --rounds 4
python -m benchmarks.revisions HEAD HEAD                          # A/A: how often does the measurement err?
python -m benchmarks.revisions 'main {"compute.precision": "fp32"}' '. {"compute.precision": "fp32"}'

A side is a git revision of the repository in the current folder, or `.` for the code of this checkout, with a
configuration as JSON behind it if needed. Both sides run in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.revisions.processes import Side, at_work
from whisperlab import data
from whisperlab.data import Recording
from whisperlab.evaluation.trace import provenance
from whisperlab.experiments.comparison import Outcome, compare_runs
from whisperlab.util.errors import WhisperlabError
from whisperlab.util.json_values import to_json
from whisperlab.util.text_table import text_table
from whisperlab.util.threads import THREADS


def compare_revisions(
    a: Side,
    b: Side,
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    rounds: int = 1,
    threads: int = THREADS,
    repository: Path = Path(),
) -> Outcome:
    """Run both sides on every recording, ``rounds`` times in turns, and test the usual measures.

    Raises ConfigurationError for unknown revisions, WhisperlabError if one cannot run here or its process died.
    """
    languages = sorted({language for recording in recordings for language in recording.languages})
    sides = {"A": a, "B": b}
    with at_work(sides, repository, model=model, languages=languages, threads=threads, say=_say) as runs:
        return compare_runs(runs, recordings, rounds=rounds, say=_say)


def main() -> int:
    """Compare and print a sentence for each measure, then everything as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revisions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="a revision, or '.', and perhaps a configuration")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--corpus", default="ivr-five", metavar="NAME|MANIFEST")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N recordings")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="run each recording N times")
    parser.add_argument("--model", default="base")
    parser.add_argument("--threads", type=int, default=THREADS)
    args = parser.parse_args()
    try:
        a, b = Side.from_text(args.a), Side.from_text(args.b)
        commits = {"a": a.commit(Path()), "b": b.commit(Path())}
        recordings = data.load(args.corpus, args.split)[: args.limit]
        how = {"model": args.model, "rounds": args.rounds, "threads": args.threads}
        outcome = compare_revisions(a, b, recordings, **how)
    except WhisperlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(text_table([finding.readable() for finding in outcome.findings]), *outcome.remarks, sep="\n")
    facts = {"commits": commits, "recordings": len(recordings), **vars(args)}
    results = [finding.to_dict() for finding in outcome.findings]
    print(json.dumps(to_json({**facts, "results": results, **provenance()})))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

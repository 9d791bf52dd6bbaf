"""Compare two configurations or two sweeps, with significance tests.

A configuration is JSON, or a file of it, with options of the transcriber; other options have their defaults. Both run
on the same recordings in turns. Two folders of sweeps are compared by their rows, without running anything. Each result
is a difference with its interval, no difference, or not enough data and the number of pairs missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import add_threads_argument, positive_int
from whisperlab.cli.console import Console, counted
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.text_table import text_table
from whisperlab.util.threads import THREADS

if TYPE_CHECKING:
    from whisperlab.experiments.comparison import Finding, Outcome

HELP = "is one configuration or sweep better than another?"
EXAMPLES = (
    """compare '{"compute.precision": "fp32"}' '{"compute.precision": "bf16"}' --limit 2 --rounds 4""",
    """compare old.json new.json --corpus my/manifest.jsonl --json""",
    """compare reports/old-sweep reports/new-sweep""",
)
# Arguments that do not apply to sweeps, with their defaults.
RUNNING = {"corpus": "ivr-five", "split": "dev", "limit": None, "rounds": 1, "model": "base", "threads": THREADS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", metavar="A", help="a configuration, or the folder of a sweep")
    add("b", metavar="B", help="the configuration, or the folder, to compare it with")
    add("--corpus", metavar="NAME|MANIFEST", help=f"the speech (default: {RUNNING['corpus']})")
    add("--split", help=f"dev or test (default: {RUNNING['split']})")
    add("--limit", type=positive_int, metavar="N", help="only the first N recordings (default: all)")
    text = "run each recording N times; only the comparison of times improves (default: 1)"
    add("--rounds", type=positive_int, metavar="N", help=text)
    add("--model", help=f"model name or checkpoint file (default: {RUNNING['model']})")
    add_threads_argument(parser, default=None)


def needs(args: argparse.Namespace) -> Needs:
    """Significance tests, and speech unless both are sweeps."""
    runs = not (Path(args.a).is_dir() and Path(args.b).is_dir())
    corpus = args.corpus or str(RUNNING["corpus"])
    return {"scipy": "significance tests", **(speech(corpus) if runs else {})}


def run(args: argparse.Namespace, console: Console) -> int:
    """Compare and print the result on each measure."""
    from whisperlab.evaluation.trace import provenance

    sweeps = [Path(text).is_dir() for text in (args.a, args.b)]
    if any(sweeps) and not all(sweeps):
        args.parser.error("a sweep can only be compared with another sweep")
    facts, outcome = (_sweeps if all(sweeps) else _configurations)(args, console)
    document = {
        "a": args.a,
        "b": args.b,
        **facts,
        "normalizer": "plain",
        "results": [finding.to_dict() for finding in outcome.findings],
        "remarks": list(outcome.remarks),
        **provenance(),
    }
    console.result(document, text_table([_row(finding) for finding in outcome.findings]), *outcome.remarks, counted())
    return 0


def _sweeps(args: argparse.Namespace, console: Console) -> tuple[dict[str, object], Outcome]:
    from whisperlab.experiments.comparison import compare_sweeps

    if given := [f"--{name}" for name in RUNNING if getattr(args, name) is not None]:
        args.parser.error(f"{', '.join(given)}: sweeps are compared without running anything")
    return {}, compare_sweeps(Path(args.a), Path(args.b))


def _configurations(args: argparse.Namespace, console: Console) -> tuple[dict[str, object], Outcome]:
    from whisperlab import data
    from whisperlab.experiments.comparison import compare_configurations, read_configuration

    for name, default in RUNNING.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    a, b = (read_configuration(text, args.threads) for text in (args.a, args.b))
    recordings = data.load(args.corpus, args.split)[: args.limit]
    audio_s = sum(recording.duration for recording in recordings)
    runs = f"{2 * args.rounds} runs of {len(recordings)} recordings, {2 * args.rounds * audio_s:.0f} s of audio in all"
    with console.busy(f"comparing A and B: {runs}; each result is printed when it is known"):
        outcome = compare_configurations(a, b, recordings, model=args.model, rounds=args.rounds, say=console.note)
    return {"recordings": len(recordings), **{name: getattr(args, name) for name in RUNNING}}, outcome


def _row(finding: Finding) -> dict[str, object]:
    """A row of the table: changes of ratios in percent, of rates in percentage points; no interval for n below 3."""
    result, measure = finding.result, finding.measure
    ratio, enough = result.kind == "ratio", result.low is not None
    value, low, high = (
        "-" if end is None else f"{end - 1:+.1%}".replace("%", " %") if ratio else f"{100 * end:+.1f} points"
        for end in (result.value, result.low, result.high)
    )
    less = result.value < (1.0 if ratio else 0.0)
    better = f"B is {measure.less if less else measure.more}"
    where = {"configuration": finding.configuration} if finding.configuration else {}
    return {
        **where,
        "measure": measure.name,
        "result": better if result.conclusion == "difference" else result.conclusion,
        "B beside A": value,
        "95 % interval": f"{low} to {high}" if enough else "-",
        "p": f"{result.p:.2g}" if enough else "-",
        "effect": f"{result.effect:+.2f}" if enough else "-",
        "pairs (n)": result.n,
        "more pairs needed": result.pairs_missing,
    }

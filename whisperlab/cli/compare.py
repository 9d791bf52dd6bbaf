"""Compare two configurations or two sweeps, with significance tests.

A configuration is JSON, or a file of it, with options of the transcriber; other options have their defaults. Both run
on the same recordings in turns. Two folders of sweeps are compared by their rows, without running anything. Each result
is a difference with its interval, no difference, or not enough data and the number of pairs missing.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli import arguments
from whisperlab.cli.console import Console, counted
from whisperlab.util.process import provenance
from whisperlab.util.text_table import text_table
from whisperlab.util.threads import THREADS

if TYPE_CHECKING:
    from whisperlab.experiments.comparison import Finding

# Arguments that do not apply to sweeps, with their defaults.
RUNNING = {"corpus": "ivr-five", "split": "dev", "limit": None, "rounds": 1, "model": "base", "threads": THREADS}
RUNNING |= {"regret": False}


def run(args: argparse.Namespace, console: Console) -> None:
    sweeps = [Path(text).is_dir() for text in (args.a, args.b)]
    arguments.require({"scipy": "significance tests"})
    from whisperlab.experiments.comparison import compare_configurations, compare_sweeps, read_configuration
    from whisperlab.experiments.regret import measure, readable
    from whisperlab.util.statistics import interval_note

    facts: dict[str, object] = {"a": args.a, "b": args.b}
    n_recordings, regret, voices = math.inf, list[dict[str, object]](), ""
    if all(sweeps):
        if given := [f"--{name}" for name in RUNNING if getattr(args, name) is not None]:
            args.parser.error(f"{', '.join(given)}: sweeps are compared without running anything")
        outcome = compare_sweeps(Path(args.a), Path(args.b))
    elif any(sweeps):
        args.parser.error("a sweep can only be compared with another sweep")
    else:
        for name, default in RUNNING.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
        a, b = (read_configuration(text, args.threads) for text in (args.a, args.b))
        speech, n_runs = arguments.recordings(args), 2 * args.rounds
        n_recordings = len(speech)
        audio_s = n_runs * sum(recording.duration for recording in speech)
        work = f"{n_runs} runs of {n_recordings} recordings, {audio_s:.0f} s of audio in all"
        with console.busy(f"comparing A and B: {work}; each result is printed when it is known"):
            outcome = compare_configurations(a, b, speech, model=args.model, rounds=args.rounds, say=console.note)
            for name, config in (("A", a), ("B", b)) if args.regret else ():
                rows = measure(speech, config, model=args.model, say=console.note)
                regret += [{"variant": name, **row} for row in rows]
        facts |= {"recordings": n_recordings, **{name: getattr(args, name) for name in RUNNING}, "regret": regret}
        voices = interval_note([recording.speakers for recording in speech])
    findings = [_checked(finding, n_recordings) for finding in outcome.findings]
    results = [finding.to_dict() for finding in findings]
    document = {**facts, "normalizer": "plain", "results": results, "remarks": outcome.remarks, **provenance()}
    tables = [text_table([finding.readable() for finding in findings])]
    tables += [text_table(readable(regret))] if regret else []
    console.result(document, *tables, *outcome.remarks, *filter(None, [voices]), counted())


def _checked(finding: "Finding", n_recordings: float) -> "Finding":
    """Without interval and significance below `LEAST_UNITS` recordings: rounds of one recording are no more of them."""
    from whisperlab.util.statistics import LEAST_UNITS

    result = finding.result
    if (few := LEAST_UNITS - int(min(n_recordings, result.n))) <= 0:
        return finding
    unknown = replace(result, low=None, high=None, p=math.nan, effect=math.nan, conclusion="not enough data")
    return replace(finding, result=replace(unknown, pairs_missing=max(few, result.pairs_missing)))

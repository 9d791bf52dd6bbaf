"""Profile a recording: memory, time and latency, each in a pass of its own in a fresh process.

Without any of the flags, all passes are run. With --out they become one offline HTML page.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from whisperlab.cli.arguments import add_model_arguments, model_options, positive
from whisperlab.cli.console import Console
from whisperlab.cli.needs import PAGES, Needs, is_there

HELP = "where memory and time go"
EXAMPLES = (
    "profile call.wav --languages en,es",
    "profile call.wav --memory --heap --python-memory --seconds 30 --json",
    "profile call.wav --lines --function whisperlab.streaming.vad:SpeechGate.push",
    "profile call.wav --all --seconds 20 --out reports/profile.html",
)

# The pass of each flag: a module of whisperlab.profiling.
PASSES = {
    "memory": "resident memory (VmHWM), and what the transcriber holds by arithmetic",
    "heap": "every allocation, torch's too, with the lines that made it (memray)",
    "python_memory": "Python objects only, and what grows (tracemalloc)",
    "cpu": "where the time goes, as a tree of calls (pyinstrument)",
    "lines": "the hot functions line by line (line_profiler)",
    "ops": "torch's operators (torch.profiler)",
    "calls": "the functions with the most cumulative time (cProfile)",
    "latency": "percentiles of every operation, no profiler running",
}
TOOLS = {"heap": "memray", "cpu": "pyinstrument", "lines": "line_profiler"}  # that are optional
WHOLE = ("page", "trace")  # fields for a page or a file of their own, too long for JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab profile``."""
    parser.add_argument("audio", metavar="AUDIO", help="the recording to stream")
    for name, meaning in PASSES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=meaning)
    parser.add_argument("--all", action="store_true", help="all of these")
    parser.add_argument("--seconds", type=positive, help="use only the beginning of the recording")
    parser.add_argument(
        "--function",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="lines: a function to profile instead of the usual ones; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="PAGE", help="also write an offline HTML page")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="ops: also write the course of all operators (.json.gz)"
    )
    add_model_arguments(parser)


def needs(args: argparse.Namespace) -> Needs:
    """What the passes asked for by name are made with; of all passes, those that cannot run are left out."""
    named = {TOOLS[name]: f"--{name}" for name in TOOLS if getattr(args, name) and not args.all}
    return {**named, **(PAGES if args.out else {})}


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the passes asked for, one after another."""
    from whisperlab.data.audio_files import read_audio
    from whisperlab.evaluation.trace import provenance
    from whisperlab.profiling.workload import Workload, in_fresh_process
    from whisperlab.report.page import write_page
    from whisperlab.util.files import write_atomic

    if args.out and args.out.suffix != ".html":
        args.parser.error(f"--out is a page: its name ends with .html, got {args.out}")
    asked = [name for name in PASSES if args.all or getattr(args, name)] or list(PASSES)
    for option, needed in (("trace", "ops"), ("function", "lines")):
        if getattr(args, option) and needed not in asked:
            args.parser.error(f"--{option} is for the pass --{needed}, which was not asked for")
    read_audio(args.audio)  # a bad file is told of before any process is started
    workload = Workload(
        args.audio, model_options(args), args.chunk_ms, args.seconds, functions=tuple(args.function)
    )
    if left_out := [name for name in asked if name in TOOLS and not is_there(TOOLS[name])]:
        told = ", ".join(f"{name} ({TOOLS[name]})" for name in left_out)
        console.note(f"left out, not installed: {told}; pip install 'whisperlab[profile]'")
        asked = [name for name in asked if name not in left_out]
    records: dict[str, Any] = {}
    for name in asked:
        console.note(f"{name.replace('_', '-')}: a fresh process")
        records[name] = in_fresh_process(import_module(f"whisperlab.profiling.{name}").measure, workload)
        console.show(records[name].describe())
    console.document({"audio": args.audio, "passes": {name: _short(r) for name, r in records.items()}})
    if args.trace:
        write_atomic(args.trace, records["ops"].trace)
    if args.out:
        from whisperlab.report.profile import ProfileReport

        command = shlex.join(["whisperlab", *args.argv])
        report = ProfileReport(records, Path(args.audio).name, args.seconds, command, provenance())
        console.show(str(write_page(args.out, report.page())))
    return 0


def _short(record: Any) -> Any:
    """A record for JSON, without what is a page or a file of its own."""
    return {name: value for name, value in asdict(record).items() if name not in WHOLE}

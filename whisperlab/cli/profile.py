"""Profile a recording: memory, time and latency, each in a separate pass in a fresh process.

Without flags, all passes run. --out writes one offline HTML page.
"""

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from whisperlab.cli.arguments import OPTIONS, PAGES, is_there, model_options, require
from whisperlab.cli.console import Console
from whisperlab.util.files import write_atomic
from whisperlab.util.process import provenance

if TYPE_CHECKING:
    from whisperlab.profiling.records import Operators, Record, Records


PASSES = [flag[2:].replace("-", "_") for flag in OPTIONS["passes"]]
TOOLS = {"heap": "memray", "cpu": "pyinstrument", "lines": "line_profiler"}  # optional libraries
LONG = ("page", "trace")  # fields that are too long for JSON


def run(args: argparse.Namespace, console: Console) -> None:
    # With --all, passes without their library are skipped.
    named = {TOOLS[name]: f"--{name}" for name in TOOLS if getattr(args, name) and not args.all}
    require({**named, "jinja2": "tables", **(PAGES if args.out else {})})
    from whisperlab.data.audio_files import read_audio
    from whisperlab.profiling import passes
    from whisperlab.profiling.workload import Workload, in_fresh_process
    from whisperlab.report.profile import as_text

    if args.out and args.out.suffix != ".html":
        args.parser.error(f"--out must end with .html, got {args.out}")
    chosen = [name for name in PASSES if args.all or getattr(args, name)] or PASSES
    for option, needed in (("trace", "ops"), ("function", "lines")):
        if getattr(args, option) and needed not in chosen:
            args.parser.error(f"--{option} needs the pass --{needed}")
    read_audio(args.audio)  # raises for a bad file before a process starts
    workload = Workload(args.audio, model_options(args), args.chunk_ms, args.seconds, functions=tuple(args.function))
    if left_out := [name for name in chosen if name in TOOLS and not is_there(TOOLS[name])]:
        missing = ", ".join(f"{name} ({TOOLS[name]})" for name in left_out)
        console.note(f"skipped, not installed: {missing}; pip install 'whisperlab[profile]'")
        chosen = [name for name in chosen if name not in left_out]
    records: dict[str, Record] = {}
    for name in chosen:
        with console.busy(f"pass {name.replace('_', '-')}"):
            records[name] = in_fresh_process(getattr(passes, name), workload)
        console.show(as_text(name, records[name]))
    short = {name: {k: v for k, v in asdict(r).items() if k not in LONG} for name, r in records.items()}
    console.document({"audio": args.audio, "passes": short})
    if args.trace:
        write_atomic(args.trace, cast("Operators", records["ops"]).trace)
    if args.out:
        from whisperlab.report.index import write_index
        from whisperlab.report.page import write_page
        from whisperlab.report.profile import ProfileReport

        command = shlex.join(["whisperlab", *args.argv])
        report = ProfileReport(cast("Records", records), Path(args.audio).name, args.seconds, command, provenance())
        console.show(str(write_page(args.out, report.page())))
        if (args.out.parent / "index.html").exists():
            write_index(args.out.parent)

"""Profile a recording: memory, Python objects, functions and latency, each in a fresh process of its own.

Without any of the four, all are run.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib import import_module

from whisperlab.cli.arguments import add_model_arguments, model_options, positive
from whisperlab.cli.console import Console, finite

HELP = "where memory and time go"
EXAMPLES = ("profile call.wav --languages en,es", "profile call.wav --memory --seconds 30 --json")

# The pass of each flag: a module of whisperlab.profiling.
PASSES = {
    "memory": "resident memory (VmHWM)",
    "python_memory": "Python objects only (tracemalloc)",
    "cpu": "the functions with the most cumulative time (cProfile)",
    "latency": "percentiles of every operation, no profiler running",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab profile``."""
    parser.add_argument("audio", metavar="AUDIO", help="the recording to stream")
    for name, meaning in PASSES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=meaning)
    parser.add_argument("--seconds", type=positive, help="use only the beginning of the recording")
    add_model_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the passes asked for, one after another."""
    from whisperlab.audio import read_audio
    from whisperlab.profiling.workload import Workload, in_fresh_process

    read_audio(args.audio)  # a bad file is told of before any process is started
    workload = Workload(args.audio, model_options(args), args.chunk_ms, args.seconds)
    records = {}
    for name in [name for name in PASSES if getattr(args, name)] or PASSES:
        console.note(f"{name.replace('_', '-')}: a fresh process")
        record = in_fresh_process(import_module(f"whisperlab.profiling.{name}").measure, workload)
        console.show(record.describe())
        records[name] = finite(asdict(record))
    console.document({"audio": args.audio, "passes": records})
    return 0

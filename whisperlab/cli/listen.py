"""Transcribe a microphone while it is spoken into. Ctrl-C ends the stream, and prints and saves what was received."""

import argparse

from whisperlab.cli import transcribe
from whisperlab.cli.arguments import Parser, require
from whisperlab.cli.console import Console
from whisperlab.util.text_table import text_table


def add_arguments(parser: Parser) -> None:
    parser.declare("listen")
    transcribe.add_result_arguments(parser)
    parser.set_defaults(audio=["microphone"], channel="mix", track=None, rate=None, pace="real")


def run(args: argparse.Namespace, console: Console) -> int:
    """List the microphones, or transcribe one. The lag is bounded: see `whisperlab.streaming.real_time`."""
    from whisperlab.streaming.sources import Microphone, Recorded, devices

    require({"sounddevice": "microphone"})
    if args.list_devices:
        console.result(rows := devices(), text_table(rows))
        return 0
    if args.save:
        transcribe.make_folder(args.save.parent, f"--save {args.save}")
    device = args.microphone
    microphone = Microphone(int(device) if str(device).isdecimal() else device)
    return transcribe.run(args, console, Recorded(microphone, args.save, args.seconds))

"""Transcribe a microphone while it is spoken into. Ctrl-C ends the stream, and prints and saves what was received."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from whisperlab.cli import transcribe
from whisperlab.cli.arguments import Parser, add_model_arguments, positive, require
from whisperlab.cli.console import Console
from whisperlab.util.files import atomic_path
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import SAMPLE_RATE, seconds

if TYPE_CHECKING:
    from whisperlab.util.audio_arrays import FloatArray

HELP = "a microphone to text, while it is spoken"
EXAMPLES = (
    "listen --languages en,es",
    "listen --list-devices",
    "listen --device USB --seconds 60 --save talk.wav --trace talk.jsonl",
    "listen --languages en,es -o srt > talk.srt",
)

NAME = "microphone"
FLOOR_DB, BAR = -60, 20  # of the level meter: its lower end, and its length in characters


def add_arguments(parser: Parser) -> None:
    add = parser.option
    text = "number of the microphone or a part of its name (default: that of the system)"
    add("--device", text, dest="microphone", metavar="NAME")
    parser.flag("--list-devices", "list the microphones")
    add("--seconds", "end after so many seconds (default: Ctrl-C ends)", type=positive, metavar="N")
    add("--save", "write the recording to this file, 16-bit PCM at 16 kHz", type=wav_path, metavar="FILE.wav")
    add_model_arguments(parser, microphone=True)
    transcribe.add_result_arguments(parser)
    parser.set_defaults(audio=[NAME], channel="mix", track=None, rate=None, pace="real", chunk_ms=100)


def wav_path(text: str) -> Path:
    """An argument that names a WAV file."""
    if not text.lower().endswith(".wav"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .wav, got {text!r}")
    return Path(text)


def run(args: argparse.Namespace, console: Console) -> None:
    """List the microphones, or transcribe one. The lag is bounded: see `whisperlab.streaming.real_time`."""
    from whisperlab.streaming import sources

    require({"sounddevice": "microphone"})
    if args.list_devices:
        rows = [device._asdict() for device in sources.devices()]
        console.result(rows, text_table(rows) if rows else "no microphone was found")
        return
    console = transcribe.check_options(args, console)
    (trace_path,), (text_path,) = transcribe.trace_paths([NAME], args.trace), transcribe.text_paths([NAME], args.out)
    if args.save:
        transcribe.make_folder(args.save.parent, f"--save {args.save}")
    device = args.microphone
    microphone = sources.Microphone(int(device) if device and device.isdecimal() else device)
    with console.busy(f"loading the model {args.model}"):
        transcriber = transcribe.build_transcriber(args)
    console.note(f"listening to {microphone.name}; Ctrl-C ends")
    most = math.inf if args.seconds is None else args.seconds
    with saved(args.save) as save:
        meter = Meter(save)
        trace = transcribe.captured(
            transcriber,
            microphone,
            None,
            args,
            console,
            meter.status,
            recording=args.save.stem if args.save else NAME,
            audio_path=args.save,
            on_audio=meter.take,
            stop=lambda: meter.received_s >= most,
        )
    transcribe.deliver(NAME, {None: trace}, args, console, text_path, trace_path)


@contextmanager
def saved(path: Path | None) -> Iterator[Callable[[FloatArray], object]]:
    """A function that writes chunks to a WAV file, which is completed whatever happens in the block."""
    if path is None:
        yield lambda chunk: None
        return
    from soundfile import SoundFile

    from whisperlab.util.audio_arrays import pcm_16

    failed: BaseException | None = None
    writing = Lock()  # the microphone's thread may still write after an error

    def write(chunk: FloatArray) -> None:
        with writing:
            file.write(pcm_16(chunk))

    with atomic_path(path) as unfinished, SoundFile(unfinished, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV") as file:
        try:
            yield write
        except BaseException as error:
            if not file.frames:
                raise
            failed = error
        with writing:
            file.close()
    if failed:
        raise failed


@dataclass(slots=True)
class Meter:
    """The level of the newest audio and the lag of the transcriber, as text."""

    save: Callable[[FloatArray], object]
    received_s: float = 0.0
    peak: float = 0.0

    def take(self, chunk: FloatArray) -> None:
        """Save a chunk and take its level, which falls by a half per chunk at most."""
        self.save(chunk)
        self.received_s += seconds(len(chunk))
        self.peak = max(float(abs(chunk).max()), self.peak / 2)

    def status(self, fed_s: float) -> str:
        """The lag, and the peak from -60 dB to full scale.

        >>> Meter(print, received_s=2.5, peak=0.1).status(2.0)
        'lag 0.5 s |#############       | -20 dB'
        """
        level = max(FLOOR_DB, 20 * math.log10(max(self.peak, 1e-9)))
        bar = "#" * round(BAR * (1 - level / FLOOR_DB))
        return f"lag {self.received_s - fed_s:.1f} s |{bar:<{BAR}}| {level:.0f} dB"

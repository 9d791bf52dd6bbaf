"""Transcribe audio as a stream: segments with their languages, and where the language switches."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from whisperlab.checks import on_threads
from whisperlab.cli.arguments import add_model_arguments, model_options
from whisperlab.cli.console import Console, finite
from whisperlab.errors import AudioFormatError, ConfigurationError
from whisperlab.segments import ProcessResult, SessionSegment

if TYPE_CHECKING:
    from whisperlab.audio import FloatArray
    from whisperlab.trace import StreamTranscriber, Trace

    class Reusable(StreamTranscriber, Protocol):
        """A transcriber that serves one recording after another without loading its model again."""

        load_level: int

        def skip(self, n_samples: int, /) -> ProcessResult:
            """Go on so much later in the stream."""

        def reset(self) -> None:
            """Forget the stream and its statistics; keep the model."""


HELP = "audio files to text, languages and switches"
EXAMPLES = (
    "transcribe call.wav --languages en,es",
    "transcribe a.wav b.flac --languages en,es --json > out.jsonl",
    "transcribe call.wav --pace real --trace call.jsonl",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab transcribe``."""
    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="WAV, FLAC, OGG, MP3; any rate and channels"
    )
    add_model_arguments(parser)
    parser.add_argument("--language", metavar="es", help="the one language spoken: no language-ID is run")
    parser.add_argument(
        "--pace",
        choices=("fast", "real"),
        default="fast",
        help="feed at once, or as a microphone would: a machine too slow for it drops audio, and tells",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="keep the trace here (with several AUDIO: a folder)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Transcribe each audio in turn; one that cannot be read is told of, and the others are still done."""
    if args.language and args.languages:
        args.parser.error("--language is the one language spoken, --languages those that may occur: give one")
    if args.trace:
        make_room_for(args.trace, several=len(args.audio) > 1)
    with TemporaryDirectory(prefix="whisperlab-") as scratch:
        return transcribe_all(args, console, lambda: build_transcriber(args), Path(scratch))


def build_transcriber(args: argparse.Namespace) -> Reusable:
    """The real transcriber as the arguments describe it; loads the model."""
    from whisperlab.transcriber import SessionRestartTranscriber

    return SessionRestartTranscriber(**model_options(args), language=args.language)


def transcribe_all(
    args: argparse.Namespace, console: Console, build: Callable[[], Reusable], scratch: Path
) -> int:
    """The loop over the audio files; ``build`` is called once, when the first of them has been read."""
    from whisperlab.audio import read_audio

    transcriber: Reusable | None = None
    failed = 0
    for name, path in zip(args.audio, trace_paths(args.audio, args.trace or scratch), strict=True):
        try:
            audio = read_audio(name)
            if transcriber is None:
                transcriber = build()
            else:
                transcriber.reset()
            trace = _record(transcriber, audio, name, path, args, console)
        except (AudioFormatError, OSError) as error:
            failed += 1
            console.error(error)
        else:
            console.document(document(name, trace))
            console.note(summary(name, trace))
    return 1 if failed else 0


def trace_paths(audio: list[str], target: Path) -> list[Path]:
    """Where each trace goes: the target itself for one audio, else numbered files in the target."""
    if len(audio) == 1 and not target.is_dir():
        return [target]
    return [target / f"{number:03d}-{Path(name).stem}.jsonl" for number, name in enumerate(audio, 1)]


def make_room_for(target: Path, several: bool) -> None:
    """Make the folder of the traces before any work is done; ConfigurationError when that cannot be."""
    folder = target if several else target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--trace {target}: {folder} is not a folder and cannot be made one ({error.strerror})"
        ) from error


def document(name: str, trace: Trace) -> dict[str, Any]:
    """The JSON document of one audio; with pace ``real`` its segments tell when they came out."""
    segments = [asdict(segment) for segment in trace.segments]
    if trace.header["pace"] == "real":
        for segment, event in zip(segments, trace.of_kind("segment"), strict=True):
            segment["emitted_at"] = event["elapsed"]
    return {
        "audio": name,
        "duration": trace.duration,
        "segments": finite(segments),
        "switches": [switch.to_dict() for switch in trace.switches],
        "statistics": finite(trace.statistics),
    }


def line(segment: SessionSegment) -> str:
    """A segment for a person.

    >>> line(SessionSegment(" hola", "es", 12.3, 15.84, True, 0.9))
    '[12.3 - 15.8] es: hola'
    """
    return f"[{segment.start_time:.1f} - {segment.end_time:.1f}] {segment.language}: {segment.text.strip()}"


def summary(name: str, trace: Trace) -> str:
    """What became of one audio, in a line, and in real time in another how far the work fell behind."""
    from whisperlab.realtime import real_time_line

    told = (
        f"{name}: {len(trace.segments)} segments, {len(trace.switches)} switches, {trace.duration:.1f} s "
        f"of audio in {trace.compute_s:.1f} s of computing ({trace.real_time_factor:.2f} of real time"
        f"{on_threads(trace.config.get('threads'))})"
    )
    live = trace.statistics.get("real_time")
    return f"{told}\n{name}: {real_time_line(live)}" if live else told


def _record(
    transcriber: Reusable,
    audio: FloatArray,
    name: str,
    path: Path,
    args: argparse.Namespace,
    console: Console,
) -> Trace:
    """One recording through the transcriber, telling of each segment as it becomes final."""
    from tqdm import tqdm

    from whisperlab.audio import duration_s
    from whisperlab.realtime import OverloadOptions
    from whisperlab.trace import record

    with tqdm(
        total=round(duration_s(audio), 1), unit="s", desc=Path(name).name, file=console.err, disable=None
    ) as bar:
        tell = Telling(transcriber, lambda segment: _tell(bar, console, segment))
        return record(
            tell,
            audio,
            path,
            recording=Path(name).stem,
            audio_path=name,
            chunk_ms=args.chunk_ms,
            pace=args.pace,
            overload=OverloadOptions() if args.pace == "real" else None,
            progress=lambda heard_s: bar.update(heard_s - bar.n),
        )


def _tell(bar: Any, console: Console, segment: SessionSegment) -> None:
    with bar.external_write_mode(file=console.out):
        console.show(line(segment))


class Telling:
    """A transcriber that tells of each segment once it is final, and is otherwise the one it wraps."""

    def __init__(self, inner: Reusable, tell: Callable[[SessionSegment], None]) -> None:
        self._inner = inner
        self._tell = tell
        self.get_statistics = inner.get_statistics
        self.config = inner.config

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """The inner result of one chunk."""
        return self._told(self._inner.process(chunk))

    def skip(self, n_samples: int, /) -> ProcessResult:
        """The inner result of a gap."""
        return self._told(self._inner.skip(n_samples))

    @property
    def load_level(self) -> int:
        """The inner load level."""
        return self._inner.load_level

    @load_level.setter
    def load_level(self, level: int) -> None:
        self._inner.load_level = level

    def finalize(self) -> ProcessResult:
        """The inner result of the end."""
        return self._told(self._inner.finalize())

    def _told(self, result: ProcessResult) -> ProcessResult:
        for segment in result.segments:
            self._tell(segment)
        return result

"""Transcribe audio as a stream: segments with their languages, and where the language switches."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import Parser, comma_list, model_options
from whisperlab.cli.console import Console, LiveText
from whisperlab.evaluation.transcripts import FORMATS, SubtitleOptions, Transcript, to_text
from whisperlab.streaming.results import ProcessResult, SessionSegment
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.files import write_atomic
from whisperlab.util.json_values import to_json, unicode_text
from whisperlab.util.options import described
from whisperlab.util.timeline import Span, seconds
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import StreamTranscriber, Trace
    from whisperlab.streaming.sources import Recorded, Source
    from whisperlab.transcriber import SessionRestartTranscriber

    Label = str | int | None  # of a channel: left and right, or numbers if there are not two

SUFFIXES = {"textgrid": ".TextGrid"}
ONE_FILE = {"srt", "vtt", "tsv", "textgrid"}  # formats that have no place for the name of the recording


def add_arguments(parser: Parser) -> None:
    parser.declare("transcribe", channel={"type": channel})
    add_result_arguments(parser)


def add_result_arguments(parser: Parser) -> None:
    """The only language, and the formats and files of the result."""
    text = f"print this format: {', '.join(FORMATS)} or json (several, with commas, need --out)"
    parser.declare("result", output={"type": formats, "help": text})
    for name, known in described(SubtitleOptions).items():
        name, text = f"--{name.replace('_', '-')}", f"subtitles: {known.meaning}"
        parser.add_argument(name, help=text, type=type(known.default), default=known.default, metavar="N")
    parser.declare("trace")


def channel(text: str) -> str | int:
    """An argument that names one channel, the mix, or each channel."""
    if text in ("mix", "left", "right", "each"):
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected mix, left, right, each or 1, 2, ..., got {shown(text)}")
    return int(text)


def formats(text: str) -> list[str]:
    """An argument like ``srt,ctm``."""
    names = comma_list(text)
    if unknown := [name for name in names if name not in (*FORMATS, "json")]:
        known = ", ".join((*FORMATS, "json"))
        raise argparse.ArgumentTypeError(f"unknown format {shown(unknown[0])} (choose from {known})")
    return names


def run(args: argparse.Namespace, console: Console, microphone: Recorded | None = None) -> int:
    """Transcribe each audio file in turn. An unreadable file is reported, and the others are still transcribed.

    Of several files, those that are not audio are reported before any work. If a trace cannot be written, the result
    is printed before the error. A microphone is the one AUDIO.
    """
    from whisperlab.evaluation.trace import write_trace

    check_options(args)
    names = ["stdin" if argument == "-" else argument for argument in args.audio]
    paths, texts = trace_paths(names, args.trace), paths_in(args.out, names, "--out") if args.out else ()
    if args.output == ["json"] and not args.out:
        console, args.output = replace(console, json=True), []
    transcriber: SessionRestartTranscriber | None = None
    unreadable = check_files(args, console) if len(args.audio) > 1 else set()
    failed = len(unreadable)
    for number, (argument, path) in enumerate(zip(args.audio, paths, strict=True)):
        if number in unreadable:
            continue
        name = unicode_text(names[number])
        try:
            traces: dict[Label, Trace] = {}
            for label, source in ({None: microphone} if microphone else opened(argument, name, args)).items():
                if transcriber is None:
                    with console.busy(f"loading the model {args.model}"):
                        transcriber = build_transcriber(args)
                else:
                    transcriber.reset()
                traces[label] = _capture(transcriber, source, name, label, args, console)
            console.document(document(name, traces))
            for format_name in args.output:
                text = in_format(format_name, name, traces, args)
                if texts:
                    write_atomic(Path(f"{texts[number]}{SUFFIXES.get(format_name, f'.{format_name}')}"), text.encode())
                else:
                    console.show(text.removesuffix("\n"))
            for label, trace in traces.items():
                console.note(summary(name if label is None else f"{name} ({label})", trace))
                if path:
                    write_trace(path if label is None else path.with_stem(f"{path.stem}-{label}"), trace)
        except BrokenPipeError:
            raise  # the reader of stdout has ended
        except (AudioFormatError, OSError) as error:
            failed += 1
            console.error(error)
    return 1 if failed else 0


def check_options(args: argparse.Namespace) -> None:
    """Exit with 2 for options that exclude each other. ``--out`` alone means subtitles."""
    error = args.parser.error
    args.output = args.output or (["srt"] if args.out else [])
    if args.language and args.languages:
        error("--language is the only language, --languages the possible ones: give one of them")
    if args.json and args.output and not args.out:
        error("--json and --output both print the result: give one of them, or --out DIR for files")
    if len(args.output) > 1 and not args.out:
        error(f"several formats ({', '.join(args.output)}) need --out DIR")
    if len(args.audio) > 1 and not args.out and {*args.output} & ONE_FILE:
        error(f"{args.output[0]} holds one recording; for {len(args.audio)} audio files give --out DIR")
    if "-" in args.audio and (os.isatty(0) or args.audio.count("-") > 1):
        error("- is audio on standard input, once, such as: ffmpeg -i call.m4a -f wav - | whisperlab transcribe -")
    if (args.track or args.channel != "mix") and any(is_stream(argument, args) for argument in args.audio):
        error("the channels of a pipe are averaged: --track and --channel need a file")


def is_stream(argument: str, args: argparse.Namespace) -> bool:
    """Whether AUDIO is read as it arrives: standard input, a pipe, or raw PCM."""
    return argument == "-" or args.rate is not None or Path(argument).is_fifo()


def opened(argument: str, name: str, args: argparse.Namespace) -> Mapping[Label, Source]:
    """The sources of one AUDIO: each channel of a file that is wanted, or a pipe."""
    from whisperlab.data.audio_files import read_audio
    from whisperlab.streaming.sources import ArraySource, FileSource

    if is_stream(argument, args):
        return {None: FileSource(0 if argument == "-" else argument, name, args.rate, args.channels)}
    audio = read_audio(argument, channel=args.channel, track=args.track)
    one, two = audio.ndim == 1, len(audio) == 2
    labels: Sequence[Label] = [None] if one else ["left", "right"] if two else range(1, len(audio) + 1)
    channels = zip(labels, audio[None] if one else audio, strict=True)
    return {label: ArraySource(samples, name, args.chunk_ms) for label, samples in channels}


def in_format(format_name: str, name: str, traces: Mapping[Label, Trace], args: argparse.Namespace) -> str:
    """The text of one audio file in a format, with the subtitle options of the command line."""
    if format_name == "json":
        return f"{json.dumps(to_json(document(name, traces)), ensure_ascii=False)}\n"
    options = SubtitleOptions(**{known: getattr(args, known) for known in described(SubtitleOptions)})
    parts = [Transcript(Path(name).stem, t.segments, t.duration, str(label or 1)) for label, t in traces.items()]
    return to_text(parts, format_name, options)


def build_transcriber(args: argparse.Namespace) -> SessionRestartTranscriber:
    from whisperlab.transcriber import SessionRestartTranscriber

    return SessionRestartTranscriber(**model_options(args), language=args.language)


def check_files(args: argparse.Namespace, console: Console) -> set[int]:
    """The numbers of the files that are not audio. Reports each before the work on the others starts."""
    from whisperlab.data.audio_files import header_s

    unreadable = set()
    for number, name in enumerate(args.audio):
        try:
            if not is_stream(name, args):
                header_s(name)
        except (AudioFormatError, OSError) as error:
            unreadable.add(number)
            console.error(error)
    return unreadable


def trace_paths(audio: list[str], target: Path | None) -> Sequence[Path | None]:
    """The path of each trace: the target itself for one audio file, else files in it. Makes the folder."""
    if target is None:
        return [None] * len(audio)
    if len(audio) > 1 or target.is_dir():
        return paths_in(target, audio, "--trace", ".jsonl")
    make_folder(target.parent, f"--trace {target}")
    return [target]


def paths_in(folder: Path, audio: list[str], option: str, suffix: str = "") -> Sequence[Path]:
    """A path for each audio file, with a number where files have the same name. Makes the folder of the option."""
    make_folder(folder, f"{option} {folder}")
    stems = [Path(name).stem for name in audio]
    same = len({*stems}) < len(stems)
    return [folder / f"{f'{n:03d}-' if same else ''}{stem}{suffix}" for n, stem in enumerate(stems, 1)]


def make_folder(folder: Path, wanted_for: str) -> None:
    """Make a folder if it is missing, before the work starts; ConfigurationError if that or writing is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{wanted_for}: cannot make {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"{wanted_for}: {folder} is not writable")


def document(name: str, traces: Mapping[Label, Trace]) -> dict[str, object]:
    """The JSON document of one audio file. Items of several channels are merged in time order."""
    items: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for label, trace in traces.items():
        channel = {} if label is None else {"channel": label}
        segments = [asdict(segment) for segment in trace.segments]
        if trace.header["pace"] == "real":
            for segment, event in zip(segments, trace.of_kind("segment"), strict=True):
                segment["emitted_at"] = event["elapsed"]  # when it became final
        found: dict[str, Sequence[Mapping[str, object]]] = {
            "segments": segments,
            "switches": [switch.to_dict() for switch in trace.switches],
            "untranscribed": [span.to_dict() for span in trace.untranscribed],
            "language_outside": [flag.to_dict() for flag in trace.flags if flag.outside],
            "language_doubtful": [flag.to_dict() for flag in trace.flags if not flag.outside],
        }
        for kind, rows in found.items():
            items[kind] += [{**row, **channel} for row in rows]
    if None not in traces:
        for kind, merged in items.items():
            merged.sort(key=itemgetter({"segments": "start_time", "switches": "time"}.get(kind, "start")))
    parts = {str(label): trace.statistics for label, trace in traces.items()}
    duration = max(trace.duration for trace in traces.values())
    return {"audio": name, "duration": duration, **items, "statistics": parts["None"] if None in traces else parts}


def line(segment: SessionSegment, label: Label = None, name: str | None = None) -> str:
    """A segment as a line of text. ``name`` is that of its file if there are several.

    >>> line(SessionSegment(" hola", "es", 12.3, 15.84, True, 0.9), name="call.wav")
    'call.wav: [12.3 - 15.8] es: hola'
    """
    file, channel = "" if name is None else f"{name}: ", "" if label is None else f"{label} "
    span = f"[{segment.start_time:.1f} - {segment.end_time:.1f}]"
    return f"{file}{span} {channel}{segment.language}: {segment.text.strip()}"


def summary(name: str, trace: Trace) -> str:
    """One line about an audio file, a second one about its lag in real time, and lines of warnings about the text."""
    from whisperlab.streaming.real_time import real_time_line

    counts = f"{len(trace.segments)} segments, {len(trace.switches)} switches"
    live = trace.statistics.get("real_time")
    lines = [f"{counts}, {trace.duration:.1f} s of audio, {trace.speed}", *([real_time_line(live)] if live else [])]
    if spans := trace.untranscribed:
        lines.append(f"speech without text: {format_spans(spans)}")
    for flag in trace.flags:
        found = f"{flag.language}{' (not an allowed language)' if flag.outside else ''}"
        what = f"{format_spans([flag.span])} transcribed as {flag.label} may be {found}"
        lines.append(f"{what}, probability {flag.probability:.2f}")
    if trace.config.get("mode") == "auto" and len(trace.config.get("languages", ())) >= 99:  # all, by default
        length_ms = Counter[str]()
        for segment in trace.segments:
            length_ms[segment.language] += round(1000 * (segment.end_time - segment.start_time))
        names = ",".join(code for code, _ in length_ms.most_common(5)) or "en,es"
        advice = f"a list of the possible ones reduces errors, such as --languages {names}"
        lines.append(f"all languages were allowed; {advice}")
    return "\n".join(f"{name}: {line}" for line in lines)


def format_spans(spans: Sequence[Span], most: int = 10) -> str:
    """Spans in seconds as text.

    >>> format_spans([Span(16000, 32000)])
    '1.0-2.0 s'
    """
    more = f" and {len(spans) - most} more" if len(spans) > most else ""
    return ", ".join(f"{seconds(span.start):.1f}-{seconds(span.end):.1f} s" for span in spans[:most]) + more


def _capture(
    transcriber: StreamTranscriber, source: Source, name: str, label: Label, args: argparse.Namespace, console: Console
) -> Trace:
    """The trace of one recording, printed as it grows. Ctrl-C ends a pipe or microphone, and finishes its stream."""
    from whisperlab.evaluation.trace import capture
    from whisperlab.streaming.real_time import OverloadOptions
    from whisperlab.streaming.sources import ArraySource, Recorded
    from whisperlab.util.audio_arrays import duration_s
    from whisperlab.util.threads import first_signal

    prints_lines = args.out or not args.output
    length_s = duration_s(source.audio) if isinstance(source, ArraySource) else None
    live = LiveText(console if prints_lines else replace(console, json=True), Path(name).name, length_s)

    def show(result: ProcessResult) -> None:
        live.take(result)
        for segment in result.segments:
            live.erase()
            if prints_lines:
                console.show(line(segment, label, name if len(args.audio) > 1 else None))

    channel = label or (None if args.channel == "mix" else args.channel)
    path: str | Path | None = None if length_s is None else name
    with ExitStack() as stack:
        stack.callback(live.erase)
        stack.callback(source.close)
        if length_s is None:
            stack.enter_context(first_signal(source.close))
        if isinstance(source, Recorded):
            path, live.recorded = source.path, source
            console.note(f"listening to {source.name}; Ctrl-C ends")
        return capture(
            transcriber,
            source,
            recording=Path(path or name).stem,
            audio_path=path,
            audio_options={"channel": channel, "track": args.track},
            pace=args.pace,
            overload=OverloadOptions() if args.pace == "real" else None,
            progress=live.progress,
            on_result=show,
        )

"""Transcripts in the formats of other programs: subtitles, tables, and the annotation formats of speech research.

`to_text` is the only entry point; `FORMATS` names the formats. Every format has the times of segments or words, and the
language where the format has a place for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import NamedTuple
from unicodedata import combining, east_asian_width

from whisperlab.streaming.results import SessionSegment, timed_words
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.options import Options, option
from whisperlab.util.validation import shown

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")


@dataclass(slots=True, frozen=True)
class SubtitleOptions(Options):
    """How subtitles are cut into cues, each of one language. Wide characters (Chinese, Japanese, Korean) count twice.

    The defaults are common rules of broadcasters and streaming services.
    """

    line_chars: int = option(42, "characters of a line", 10, 1000)
    lines: int = option(2, "lines of a cue", 1, 20)
    chars_per_s: float = option(20.0, "reading speed: a cue stays that long, at most until the next one", 1, 1000)
    longest_s: float = option(7.0, "seconds after which a cue ends", 0.5, 600)


@dataclass(slots=True, frozen=True)
class Transcript:
    """What is written: the final segments of one channel of a recording, and its length in seconds."""

    name: str
    segments: Sequence[SessionSegment]
    duration_s: float
    channel: str = "1"


class _Cue(NamedTuple):
    start: float
    end: float
    lines: list[str]
    language: str


def to_text(transcripts: Sequence[Transcript], format_name: str, options: SubtitleOptions | None = None) -> str:
    """The channels of one recording as one text in the format, with a line end after the last line.

    Subtitles merge the channels by time and name them. Raises ConfigurationError for an unknown format.
    """
    if format_name not in FORMATS:
        raise ConfigurationError(f"unknown format {shown(format_name)}; there are: {', '.join(FORMATS)}")
    lines = FORMATS[format_name](transcripts, options or SubtitleOptions())
    return "".join(f"{line}\n" for line in lines)


def _cues(transcripts: Sequence[Transcript], options: SubtitleOptions) -> list[_Cue]:
    found: list[_Cue] = []
    for one in transcripts:
        cues = [cue for segment in one.segments for cue in _cut(segment, options)]
        ends = [*(cue.start for cue in cues[1:]), one.duration_s]
        for cue, latest in zip(cues, ends, strict=False):
            readable = cue.start + _width("".join(cue.lines)) / options.chars_per_s
            lines = [f"[{one.channel}] {cue.lines[0]}", *cue.lines[1:]] if len(transcripts) > 1 else cue.lines
            found.append(cue._replace(end=max(cue.end, min(readable, latest)), lines=lines))
    return sorted(found, key=lambda cue: (cue.start, cue.end))


def _cut(segment: SessionSegment, options: SubtitleOptions) -> Iterator[_Cue]:
    """The cues of a segment. One ends where its lines are full, after ``longest_s``, or with a sentence.

    A sentence ends a cue only if the cue has at least half a line, so that short answers share one.
    """
    lines: list[str] = []
    start = end = segment.start_time
    for word in timed_words(segment):
        text = _clean(word.word)
        continued = _clean(lines[-1] + word.word) if lines else text
        fits = bool(lines) and _width(continued) <= options.line_chars
        said = bool(lines) and lines[-1].endswith(SENTENCE_ENDS) and 2 * _width("".join(lines)) >= options.line_chars
        full = not fits and len(lines) == options.lines
        if lines and (said or full or word.end - start > options.longest_s):
            yield _Cue(start, end, lines, segment.language)
            lines, fits = [], False
        start = start if lines else word.start
        lines = [*lines[:-1], continued] if fits else [*lines, text]
        end = word.end
    if lines:
        yield _Cue(start, end, lines, segment.language)


def _srt(transcripts: Sequence[Transcript], options: SubtitleOptions) -> Iterator[str]:
    for number, cue in enumerate(_cues(transcripts, options), 1):
        yield from (str(number), f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}", *cue.lines, "")


def _vtt(transcripts: Sequence[Transcript], options: SubtitleOptions) -> Iterator[str]:
    yield from ("WEBVTT", "")
    for cue in _cues(transcripts, options):
        text = escape("\n".join(cue.lines), quote=False)
        yield from (f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}", f"<lang {cue.language}>{text}</lang>", "")


def _clock(time_s: float, point: str) -> str:
    milliseconds = round(1000 * time_s)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _width(text: str) -> int:
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def _clean(text: str) -> str:
    """Text without line breaks, other control characters, the arrow of subtitles, and space around it."""
    return "".join(c if c.isprintable() else " " for c in text).replace("-->", "->").strip()


def _rows(template: str, transcripts: Sequence[Transcript], _: SubtitleOptions) -> Iterator[str]:
    """The last line of the template for each segment, by time, after its other lines."""
    *head, row = template.splitlines()
    yield from head
    pairs = [(one, segment) for one in transcripts for segment in one.segments]
    for one, segment in sorted(pairs, key=lambda pair: pair[1].start_time):
        start, end = segment.start_time, segment.end_time
        times = {"start": start, "end": end, "length": end - start}
        in_ms = {"start_ms": round(1000 * start), "end_ms": round(1000 * end)}
        yield row.format(place=_place(one), language=segment.language, text=_clean(segment.text), **times, **in_ms)


def _ctm(transcripts: Sequence[Transcript], _: SubtitleOptions) -> Iterator[str]:
    for one in transcripts:
        for word in (word for segment in one.segments for word in timed_words(segment)):
            text = "".join(_clean(word.word).split())
            yield f"{_place(one)} {word.start:.3f} {word.end - word.start:.3f} {text} {word.probability:.3f}"


def _textgrid(transcripts: Sequence[Transcript], _: SubtitleOptions) -> Iterator[str]:
    """Praat's long text format, with three interval tiers for each channel."""
    tiers: list[tuple[str, list[tuple[float, float, str]]]] = []
    for one in transcripts:
        label = f" {one.channel}" if len(transcripts) > 1 else ""
        words = [word for segment in one.segments for word in timed_words(segment)]
        tiers += [
            (f"language{label}", [(each.start_time, each.end_time, each.language) for each in one.segments]),
            (f"text{label}", [(each.start_time, each.end_time, each.text) for each in one.segments]),
            (f"words{label}", [(word.start, word.end, word.word) for word in words]),
        ]
    length_s = max((one.duration_s for one in transcripts), default=0.0)
    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {length_s:.6f}")
    yield from ("tiers? <exists>", f"size = {len(tiers)}", "item []:")
    for number, (name, spans) in enumerate(tiers, 1):
        filled = list(_without_gaps(spans, length_s))
        yield from (f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"')
        yield from ("        xmin = 0", f"        xmax = {length_s:.6f}", f"        intervals: size = {len(filled)}")
        for index, (start, end, text) in enumerate(filled, 1):
            quoted = _clean(text).replace('"', '""')
            yield from (f"        intervals [{index}]:", f"            xmin = {start:.6f}")
            yield from (f"            xmax = {end:.6f}", f'            text = "{quoted}"')


def _without_gaps(spans: Iterable[tuple[float, float, str]], length_s: float) -> Iterator[tuple[float, float, str]]:
    """Intervals that cover the whole length, as Praat needs; those without a length are left out."""
    at = 0.0
    for given_start, given_end, text in spans:
        start, end = max(at, round(given_start, 6)), min(round(given_end, 6), length_s)
        if end <= start:
            continue
        if start > at:
            yield at, start, ""
        yield start, end, text
        at = end
    if at < length_s:
        yield at, length_s, ""


def _place(one: Transcript) -> str:
    """File and channel; the formats separate columns by spaces."""
    return f"{'_'.join(one.name.split()) or 'audio'} {one.channel}"


Writer = Callable[[Sequence[Transcript], SubtitleOptions], Iterable[str]]
FORMATS: dict[str, Writer] = {
    "txt": partial(_rows, "{text}"),
    "srt": _srt,
    "vtt": _vtt,
    # the first three columns as openai-whisper writes them, in milliseconds
    "tsv": partial(_rows, "start\tend\ttext\tlanguage\n{start_ms}\t{end_ms}\t{text}\t{language}"),
    "ctm": _ctm,
    # language diarisation: the language in the place of the speaker
    "rttm": partial(_rows, "SPEAKER {place} {start:.3f} {length:.3f} <NA> <NA> {language} <NA> <NA>"),
    "stm": partial(_rows, "{place} unknown {start:.3f} {end:.3f} <{language}> {text}"),
    "textgrid": _textgrid,
}

"""A trace as records and as a file: typed records of its lines, reading and writing.

``lines.json`` has the required fields of each kind of line besides ``kind``, the fields that traces of earlier versions
lack (``optional``), both for stream logs (``log``), and those of parts of a line and of a document of
``transcribe --json``. Only this module has the schemas of earlier versions.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypeGuard, get_args

from whisperlab.streaming.results import LanguageFlag, LanguageFrame, Onset, SegmentWord, SessionSegment, Switch
from whisperlab.util import validation as fields
from whisperlab.util.errors import TraceError, brief
from whisperlab.util.files import atomic_path
from whisperlab.util.json_values import Json, JsonValue
from whisperlab.util.options import flat
from whisperlab.util.timeline import Span, samples
from whisperlab.util.validation import Field, from_json, is_number, shown, wrong_field

if TYPE_CHECKING:
    from whisperlab.evaluation.transcripts import SubtitleOptions

# Schema of a trace, and the oldest that can be read. 3 added the kinds ``untranscribed`` and ``language_flag``. 4 gave
# options today's names, in groups, and called the cache key and hit cause ``near`` ``similar``.
SCHEMA = 4

Pace = Literal["fast", "real"]
_LONGEST_S = 1e8  # of a recording: three years

# ---- fields of the lines -----------------------------------------------------------------------------------


def check_fields(
    value: object,
    required: Mapping[str, Field],
    subject: str,
    optional: Mapping[str, Field] = MappingProxyType({}),
    error: type[ValueError] = TraceError,
) -> None:
    """Raise ``error``, starting with ``subject``, unless the value is an object with all required fields that fit."""
    if not isinstance(value, dict):
        raise error(f"{subject} should be an object, got {shown(value)}")
    if missing := required.keys() - value.keys():
        raise error(f"{subject} without {', '.join(sorted(missing))}")
    if wrong := wrong_field(value, {**required, **optional}):
        raise error(f"{subject} whose {wrong}")


def _is_time(value: object) -> TypeGuard[float]:
    return is_number(value) and 0 <= value <= _LONGEST_S


def _fits(value: object, part: str, *, whole: bool = False) -> TypeGuard[Json]:
    """Whether a value is an object whose fields are those of a part of a line; ``whole``: with all of them."""
    allowed = _PARTS[part]
    return isinstance(value, dict) and not wrong_field(value, allowed) and (not whole or value.keys() >= allowed.keys())


def _has_items(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(map(fits, value.values()))


def _is_timing(value: object) -> bool:
    return _fits(value, "timing", whole=isinstance(value, dict) and bool(value.get("count")))


STATISTICS = Field(
    "a transcriber's statistics, with numbers for timings and counts", lambda value: _fits(value, "statistics")
)
_NUMBERS = "cache.size", "cache.hash_precision", "compute.threads"
CONFIG = Field(
    f"an object with {', '.join(_NUMBERS)} as whole numbers or null",
    lambda value: isinstance(value, dict) and all(isinstance(flat(value).get(n), int | None) for n in _NUMBERS),
)
_FIELDS: dict[str, Field] = vars(fields) | {
    "STATISTICS": STATISTICS,
    "CONFIG": CONFIG,
    "LIST": Field("a list", lambda value: isinstance(value, list)),
    "TIMES": Field("a list of seconds", lambda value: isinstance(value, list) and all(map(_is_time, value))),
    "COUNT_OR_NULL": Field("a count", lambda value: value is None or fields.COUNT.fits(value)),
    "OBJECT_OR_NULL": Field("an object or null", lambda value: value is None or isinstance(value, dict)),
    "TIME": Field(f"seconds from 0 to {_LONGEST_S:g}", _is_time),
    "TIME_OR_NULL": Field(f"seconds from 0 to {_LONGEST_S:g}, or null", lambda value: value is None or _is_time(value)),
    "LENGTH": Field("seconds above 0", lambda value: _is_time(value) and value > 0),
    "POSTERIOR": Field(
        "the probability of each language",
        lambda value: _has_items(value, lambda share: is_number(share) and 0 <= share <= 1),
    ),
    "AUDIO": Field(
        "an object with a duration above 0 and perhaps a path",
        lambda value: _fits(value, "audio") and "duration" in value,
    ),
    "TIMINGS_OR_NULL": Field("timings", lambda value: not value or _has_items(value, _is_timing)),
    "ENCODED": Field("an object, with encoded_s as a number", lambda value: _fits(value, "encoded")),
    "COUNTS_OR_NULL": Field("counts", lambda value: not value or _fits(value, "counts")),
    "PACE": Field("fast or real", lambda value: isinstance(value, str) and value in get_args(Pace)),
    "ONSET": Field(
        "null or an object with window and posterior", lambda value: value is None or _fits(value, "onset", whole=True)
    ),
    "WORDS": Field(
        "a list of words with start, end, probability and language",
        lambda value: isinstance(value, list) and all(_fits(word, "word", whole=True) for word in value),
    ),
}
Kinds: TypeAlias = Mapping[str, Mapping[str, Field]]  # the fields of each kind of line
_KINDS: dict[str, dict[str, dict[str, Field]]] = {
    part: {kind: {name: _FIELDS[field] for name, field in required.items()} for kind, required in kinds.items()}
    for part, kinds in json.loads(Path(__file__).with_name("lines.json").read_text(encoding="utf-8")).items()
}
LINES, OPTIONAL, LOG_LINES, LOG_OPTIONAL, _PARTS = _KINDS.values()
WORD, DOCUMENT = _PARTS["word"], _PARTS["document"]
# without the clocks
SEGMENT, SWITCH = ({name: LINES[kind][name] for name in [*LINES[kind]][2:]} for kind in ("segment", "switch"))

# ---- records -----------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class ReferenceSegment:
    """The true text of one span of a recording, in one language. Times in seconds."""

    start: float
    end: float
    lang: str
    text: str
    speaker: str = ""  # empty if unknown
    word_times: tuple[tuple[float, float], ...] = ()  # start and end of each word between spaces; empty if unknown

    def __post_init__(self) -> None:
        needs = "a reference segment needs"
        if not (is_number(self.start) and is_number(self.end) and 0 <= self.start <= self.end):
            raise TraceError(f"{needs} 0 <= start <= end, got {shown(self.start)} to {shown(self.end)}")
        if not (isinstance(self.lang, str) and isinstance(self.text, str)):
            raise TraceError(f"{needs} lang and text as strings, got {shown(self.lang)} and {shown(self.text)}")
        if not isinstance(self.speaker, str):
            raise TraceError(f"{needs} speaker as a string, got {shown(self.speaker)}")
        if self.word_times and not (
            len(self.word_times) == len(self.text.split())
            and all(len(span) == 2 and all(map(is_number, span)) and span[0] <= span[1] for span in self.word_times)
        ):
            wanted = "word_times as a start and an end for each word of its text"
            raise TraceError(f"{needs} {wanted}, got {shown(self.word_times)} for {shown(self.text)}")

    @classmethod
    def from_dict(cls, value: Json) -> Self:
        """From its ``to_dict``. Raises KeyError or TypeError for missing fields, TraceError for wrong values."""
        words = tuple((start, end) for start, end in value.get("word_times") or ())
        return cls(value["start"], value["end"], value["lang"], value["text"], value.get("speaker", ""), words)

    def to_dict(self) -> dict[str, JsonValue]:
        """As JSON, without what is unknown."""
        found = asdict(self) | {"word_times": [list(span) for span in self.word_times]}
        return {name: value for name, value in found.items() if value or name not in ("speaker", "word_times")}


@dataclass(slots=True, frozen=True)
class Reference:
    """The true transcript of a recording and its language segments, in time order."""

    text: str
    segments: tuple[ReferenceSegment, ...]

    @classmethod
    def from_dict(cls, value: Json) -> Self:
        """From ``{"text", "segments": [{"start", "end", "lang", "text"}]}``; ``text`` is optional. TraceError else."""
        try:
            found = [ReferenceSegment.from_dict(segment) for segment in value["segments"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            needed = "a reference needs segments with start, end, lang and text"
            raise TraceError(f"{needed}: {error!r} in {shown(value)}") from error
        if not fields.TEXT_OR_NULL.fits(text := value.get("text")):
            raise TraceError(f"a reference needs its text as a string, got {shown(text)}")
        ordered = tuple(sorted(found, key=lambda segment: (segment.start, segment.end)))
        return cls(text or " ".join(segment.text for segment in ordered), ordered)

    def to_dict(self) -> dict[str, JsonValue]:
        return {"text": self.text, "segments": [segment.to_dict() for segment in self.segments]}


def _spans(kind: str) -> property:
    """The spans of a trace's events of one kind."""
    return property(lambda trace: tuple(map(_span, trace.of_kind(kind))))


@dataclass(slots=True, frozen=True)
class Trace:
    """One recording through one configuration: its lines, and as records; posteriors have six significant digits."""

    header: Json
    events: tuple[Json, ...]

    def of_kind(self, kind: str) -> Iterator[Json]:
        """The raw events of one kind, in order, with their ``at`` and ``elapsed``."""
        return (event for event in self.events if event["kind"] == kind)

    @property
    def segments(self) -> tuple[SessionSegment, ...]:
        return tuple(map(_segment, self.of_kind("segment")))

    def to_text(self, format_name: str, options: "SubtitleOptions | None" = None) -> str:
        """The final text as ``srt``, ``ctm`` or another of `whisperlab.evaluation.transcripts.FORMATS`."""
        from whisperlab.evaluation.transcripts import Transcript, to_text

        return to_text([Transcript(self.recording, self.segments, self.duration)], format_name, options)

    def to_srt(self, options: "SubtitleOptions | None" = None) -> str:
        return self.to_text("srt", options)

    @property
    def switches(self) -> tuple[Switch, ...]:
        return tuple(Switch(*(event[name] for name in SWITCH)) for event in self.of_kind("switch"))

    @property
    def frames(self) -> tuple[LanguageFrame, ...]:
        return tuple(map(_frame, self.of_kind("frame")))

    @property
    def committed(self) -> tuple[tuple[str, float], ...]:
        """Final text and its time in seconds: on the wall clock for pace ``real``, else on the audio clock."""
        clock = "elapsed" if self.header["pace"] == "real" else "at"
        return tuple((event["committed"], event[clock]) for event in self.of_kind("text") if event["committed"])

    speech = _spans("speech")  # audio that the voice activity detector accepted
    gaps = _spans("gap")  # audio that was dropped in real time because computing fell behind
    untranscribed = _spans("untranscribed")  # speech for which no text was found

    @property
    def flags(self) -> tuple[LanguageFlag, ...]:
        """Final segments that sound like another language than the one they were transcribed in."""
        names, found = ("label", "language", "probability", "outside"), self.of_kind("language_flag")
        return tuple(LanguageFlag(_span(flag), *(flag[name] for name in names)) for flag in found)

    @property
    def config(self) -> Json:
        return dict(self.header["config"])

    @property
    def recording(self) -> str:
        return str(self.header["recording"])

    @property
    def reference(self) -> Reference | None:
        """The true transcript, if the trace was made with one."""
        value = self.header["reference"]
        return None if value is None else Reference.from_dict(value)

    @property
    def duration(self) -> float:
        return float(self.header["audio"]["duration"])

    @property
    def heard_s(self) -> float:
        """Seconds of audio that were streamed: less than ``duration`` if the stream was stopped early."""
        return float(self.events[-1]["at"]) or self.duration

    @property
    def statistics(self) -> Json:
        """The transcriber's ``get_statistics()`` at the end."""
        return dict(self.events[-1]["statistics"])

    @property
    def compute_s(self) -> float:
        """Wall time inside the transcriber, in seconds, without waiting for real-time audio."""
        return float(self.events[-1]["compute_s"])

    @property
    def processor_s(self) -> float | None:
        """Processor time of the whole process during the calls, in seconds; None if the trace lacks it."""
        found: float | None = self.events[-1].get("processor_s")
        return found

    @property
    def real_time_factor(self) -> float:
        """Wall seconds of computing / seconds of audio: below 1 keeps up with a live stream."""
        return self.compute_s / self.heard_s

    @property
    def speed(self) -> str:
        """Seconds of computing per second of audio, as text: processor and wall time, threads, and the load before."""
        busy_s = self.processor_s  # hardly affected by other programs
        threads, load = (self.config.get("compute") or {}).get("threads"), self.header.get("load_before")
        facts = [
            "" if busy_s is None else f"{busy_s / self.heard_s:.2f} s of processor time",
            f"{threads} thread{'' if threads == 1 else 's'}" if threads else "",
            "" if load is None else f"load of the machine {load:.1f} before the run",
        ]
        told = f" ({', '.join(filter(None, facts))})" if any(facts) else ""
        return f"{self.real_time_factor:.2f} s per second of audio{told}"


def _span(event: Json) -> Span:
    return Span(samples(event["start"]), samples(event["end"]))


def _segment(event: Json) -> SessionSegment:
    words = tuple(SegmentWord(**{name: word[name] for name in WORD}) for word in event.get("words", ()))
    return SessionSegment(**{name: event[name] for name in SEGMENT}, words=words)


def _frame(event: Json) -> LanguageFrame:
    end, window, speech = (samples(event[name]) for name in ("end", "window", "speech"))
    onset = event["onset"] and Onset(samples(event["onset"]["window"]), event["onset"]["posterior"])
    return LanguageFrame(end, window, speech, event["posterior"], event["label"], event["cached"], onset)


# ---- files -------------------------------------------------------------------------------------------------


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write a trace as JSON lines. The file appears only when it is complete."""
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for line in (trace.header, *trace.events):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_trace(path: str | Path) -> Trace:
    """Read a trace. Raises TraceError, with file and line, for anything else."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [parse_line(line, f"{path}:{number}") for number, line in enumerate(file, 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from error
    if not lines or lines[0]["kind"] != "header":
        raise TraceError(f"{path}:1 is not a trace: its first line is not a header")
    header, *events = lines
    if header["schema"] != SCHEMA:
        raise TraceError(f"{path}:1 has trace schema {header['schema']}; this version of whisperlab reads {SCHEMA}")
    kinds = [event["kind"] for event in events]
    if kinds.count("end") != 1 or kinds[-1] != "end" or "header" in kinds:
        raise TraceError(
            f"{path}:{len(lines)} is not one complete trace: it needs one header first and one end line last"
        )
    trace = Trace(header, tuple(events))
    records = "segments switches frames speech untranscribed flags committed reference config statistics"
    try:
        for name in (*records.split(), "real_time_factor", "speed"):
            getattr(trace, name)
    except TraceError as error:
        raise TraceError(f"{path}:1: {error}") from error  # of the reference
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TraceError(f"{path} is damaged: {brief(error)}") from error
    return trace


def parse_line(line: str, where: str, lines: Kinds = LINES, optional: Kinds = OPTIONAL) -> Json:
    """A line of a trace; raises TraceError for an unknown kind, a missing or wrong field, or a span that ends early."""
    try:
        value = from_json(line)
    except ValueError as error:
        raise TraceError(f"{where} is not JSON (was the file cut short?): {error}") from error
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in lines:
        raise TraceError(f"{where} is not a trace line: expected a kind out of {', '.join(lines)}")
    assert isinstance(value, dict)
    check_fields(value, lines[kind], f"{where}: a {kind} line", optional.get(kind, {}))
    for first, second in (("start", "end"), ("start_time", "end_time")):
        if first in lines[kind] and value[first] > value[second]:
            got = f"got {value[first]} and {value[second]}"
            raise TraceError(f"{where}: {first} should not be more than {second}, {got}")
    return value

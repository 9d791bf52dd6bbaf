"""Records of a trace: the reference transcript, and the trace with its lines as typed records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from whisperlab.evaluation.trace.schema import LINES
from whisperlab.streaming.results import LanguageFlag, LanguageFrame, Onset, SessionSegment, Switch
from whisperlab.util.errors import TraceError
from whisperlab.util.json_values import Json, JsonValue
from whisperlab.util.timeline import Span, samples
from whisperlab.util.validation import TEXT_OR_NULL, is_number, shown

if TYPE_CHECKING:
    import pandas


@dataclass(slots=True, frozen=True)
class ReferenceSegment:
    """The true text of one span of a recording, in one language. Times in seconds."""

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
                f"a reference segment needs lang and text as strings, got {shown(self.lang)} and {shown(self.text)}"
            )


@dataclass(slots=True, frozen=True)
class Reference:
    """The true transcript of a recording and its language segments, in time order."""

    text: str
    segments: tuple[ReferenceSegment, ...]

    @classmethod
    def from_dict(cls, value: Json) -> Reference:
        """From ``{"text", "segments": [{"start", "end", "lang", "text"}]}``; other fields are ignored.

        Without ``text``, the text of the segments is used. Raises TraceError for a missing field.
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

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form that ``from_dict`` reads."""
        return {"text": self.text, "segments": [asdict(segment) for segment in self.segments]}


@dataclass(slots=True, frozen=True)
class Trace:
    """One recording through one configuration: the header line and all lines after it.

    The properties return the lines as the records they were written from; posteriors were rounded to six significant
    digits.
    """

    header: Json
    events: tuple[Json, ...]

    def of_kind(self, kind: str) -> Iterator[Json]:
        """The raw events of one kind, in order, with their ``at`` and ``elapsed``."""
        return (event for event in self.events if event["kind"] == kind)

    def to_frame(self, kind: str = "segment") -> pandas.DataFrame:
        """The events of one kind, such as ``segment``, ``switch``, ``frame`` or ``gap``, as a data frame."""
        import pandas

        if kind not in LINES:
            raise TraceError(f"no events of kind {kind!r}; there are: {', '.join(LINES)}")
        rows = [{name: event[name] for name in event if name != "kind"} for event in self.of_kind(kind)]
        return pandas.DataFrame(rows)

    @property
    def segments(self) -> tuple[SessionSegment, ...]:
        """The segments in the order they became final."""
        names = SessionSegment.__slots__
        return tuple(SessionSegment(**{name: event[name] for name in names}) for event in self.of_kind("segment"))

    @property
    def switches(self) -> tuple[Switch, ...]:
        """The language switches in the order they were decided."""
        names = ("time", "from", "to", "decided_at")
        return tuple(Switch(*(event[name] for name in names)) for event in self.of_kind("switch"))

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
        """Final text and its time in seconds: on the wall clock for pace ``real``, else on the audio clock."""
        clock = "elapsed" if self.header["pace"] == "real" else "at"
        return tuple((event["committed"], event[clock]) for event in self.of_kind("text") if event["committed"])

    @property
    def speech(self) -> tuple[Span, ...]:
        """Audio that the voice activity detector accepted."""
        return self._spans("speech")

    @property
    def gaps(self) -> tuple[Span, ...]:
        """Audio that was dropped in real time because computing fell behind."""
        return self._spans("gap")

    @property
    def untranscribed(self) -> tuple[Span, ...]:
        """Speech for which no text was found."""
        return self._spans("untranscribed")

    def _spans(self, kind: str) -> tuple[Span, ...]:
        return tuple(map(_span, self.of_kind(kind)))

    @property
    def flags(self) -> tuple[LanguageFlag, ...]:
        """Final segments that sound like another language than the one they were transcribed in."""
        names = ("label", "language", "probability", "outside")
        return tuple(
            LanguageFlag(_span(event), *(event[name] for name in names)) for event in self.of_kind("language_flag")
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
        """The true transcript, if the trace was made with one."""
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
        """Wall time inside the transcriber, in seconds, without waiting for real-time audio."""
        return float(self.events[-1]["compute_s"])

    @property
    def processor_s(self) -> float | None:
        """Processor time of the whole process during the calls, in seconds; None if the trace lacks it."""
        found: float | None = self.events[-1].get("processor_s")
        return found

    @property
    def heard_s(self) -> float:
        """Seconds of audio that were streamed: less than ``duration`` if the stream was stopped early."""
        return float(self.events[-1]["at"]) or self.duration

    @property
    def service_s(self) -> tuple[float, ...]:
        """Wall time of every chunk inside the transcriber, in seconds; empty if the trace lacks it."""
        return tuple(self.events[-1].get("service_s", ()))

    @property
    def chunk_s(self) -> float:
        """Seconds of audio per chunk; only the last may be shorter. NaN if the trace lacks it."""
        return float(self.events[-1].get("chunk_s", math.nan))

    @property
    def real_time_factor(self) -> float:
        """Wall seconds of computing / seconds of audio: below 1 keeps up with a live stream."""
        return self.compute_s / self.heard_s

    @property
    def processor_factor(self) -> float | None:
        """Processor seconds / seconds of audio: hardly affected by other programs; None if the trace lacks it."""
        return None if self.processor_s is None else self.processor_s / self.heard_s

    @property
    def speed(self) -> str:
        """Seconds of computing per second of audio, as text: processor and wall time, threads, and the load before."""
        factor = self.processor_factor
        processor = "" if factor is None else f"{factor:.2f} processor s and "
        threads = (self.config.get("compute") or {}).get("threads")
        facts = [f"{threads} thread{'' if threads == 1 else 's'}"] if threads else []
        if (load := self.header.get("load_before")) is not None:
            facts.append(f"load of the machine {load:.1f} before the run")
        told = f" ({', '.join(facts)})" if facts else ""
        return f"{processor}{self.real_time_factor:.2f} wall s per s of audio{told}"


def _span(event: Json) -> Span:
    return Span(samples(event["start"]), samples(event["end"]))

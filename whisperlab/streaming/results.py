"""Records that a transcriber returns. All are frozen and slotted: many are made, and none is changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise

from whisperlab.util import html
from whisperlab.util.timeline import Span, seconds


@dataclass(slots=True, frozen=True)
class SegmentWord:
    """A word of a segment with its place, in seconds since the stream began, in steps of 20 ms."""

    word: str  # with the space before it as Whisper writes it: " hello"; none in Chinese
    start: float  # from the cross-attention of the decoder
    end: float
    probability: float  # geometric mean of the probabilities of its tokens
    language: str


@dataclass(slots=True, frozen=True)
class SessionSegment:
    """Text in one language with its place in the stream, in seconds since the stream began."""

    text: str
    language: str
    start_time: float
    end_time: float
    is_final: bool  # it never changes again
    confidence: float  # geometric mean of the token probabilities, from 0 to 1
    words: tuple[SegmentWord, ...] = ()  # in time order, without overlap; empty for systems without word times

    def _repr_html_(self) -> str:
        """The segment as an HTML table, for Jupyter."""
        return html.rows("", _SEGMENT, [_cells(self)])


def timed_words(segment: SessionSegment) -> Sequence[SegmentWord]:
    """The words of a segment; without word times, shares of its span by their numbers of characters."""
    if segment.words:
        return segment.words
    parts = segment.text.split()
    step = (segment.end_time - segment.start_time) / max(sum(len(part) + 1 for part in parts), 1)
    ends = accumulate((step * (len(part) + 1) for part in parts), initial=segment.start_time)
    timed = zip(parts, pairwise(ends), strict=True)
    return [SegmentWord(f" {part}", *span, segment.confidence, segment.language) for part, span in timed]


@dataclass(slots=True, frozen=True)
class Switch:
    """A change of language; times are seconds since the stream began."""

    time: float  # the boundary
    from_language: str
    to_language: str
    decided_at: float  # stream position of the decision

    def to_dict(self) -> dict[str, float | str]:
        """The public JSON form: ``{"time", "from", "to", "decided_at"}``."""
        return {"time": self.time, "from": self.from_language, "to": self.to_language, "decided_at": self.decided_at}


@dataclass(slots=True, frozen=True)
class Onset:
    """Language posterior of the ``window`` samples of speech since the last pause."""

    window: int
    posterior: Mapping[str, float]


@dataclass(slots=True, frozen=True)
class LanguageFrame:
    """One language-ID decision point."""

    end: int  # sample of the frame
    window: int  # samples of the first window, which ends there
    speech: int  # samples of speech in it: a posterior after silence has little evidence
    posterior: Mapping[str, float]  # probability of each allowed language; they sum to 1
    label: str  # the smoothed language
    cached: bool  # whether the encoder cache had the window
    onset: Onset | None = None  # the second window, from the last pause on, if there was one


@dataclass(slots=True, frozen=True)
class LanguageFlag:
    """A final segment that sounds like another language than the one it was transcribed in."""

    span: Span  # the speech
    label: str  # the language it was transcribed in
    language: str  # the likeliest of all languages
    probability: float  # of that one among all languages
    outside: bool  # it is not an allowed language

    def to_dict(self) -> dict[str, float | str]:
        """The public JSON form: ``{"start", "end", "label", "language", "probability"}``, times in seconds."""
        return {**self.span.to_dict(), "label": self.label, "language": self.language, "probability": self.probability}


@dataclass(slots=True, frozen=True)
class ProcessResult:
    """The result of one call of ``process``, ``skip`` or ``finalize``: what was decided or became final in it."""

    committed: str  # text that this call made unchangeable
    tentative: str  # all newer text, which may still change
    language: str | None  # of the running session; None before the first decision
    switches: tuple[Switch, ...] = ()
    segments: tuple[SessionSegment, ...] = ()
    frames: tuple[LanguageFrame, ...] = ()
    speech: tuple[Span, ...] = ()  # spans of speech that ended
    gaps: tuple[Span, ...] = ()  # parts of the stream that were lost
    load_level: int = 0  # how much work is omitted for load; 0: none
    untranscribed: tuple[Span, ...] = ()  # parts of final speech for which no decode found text
    flags: tuple[LanguageFlag, ...] = ()  # segments that sound like another language than their own

    def _repr_html_(self) -> str:
        """Final segments and tentative text as HTML tables, for Jupyter."""
        switches = (f"{each.from_language} to {each.to_language} at {each.time:.1f} s" for each in self.switches)
        facts = {"committed": self.committed, "tentative": self.tentative, "switches": "; ".join(switches) or None}
        facts |= {"lost audio": _times(self.gaps) or None, "speech without text": _times(self.untranscribed) or None}
        open_text = html.facts(f"language {self.language or 'not known yet'}", facts)
        return open_text + (html.rows("final", _SEGMENT, map(_cells, self.segments)) if self.segments else "")

    @property
    def switched(self) -> bool:
        """Whether a language switch was decided in this call."""
        return bool(self.switches)


@dataclass(slots=True)
class ResultBuilder:
    """What one call of ``process``, ``skip`` or ``finalize`` has produced so far. Any thread may call `build`."""

    committed: str = ""
    switches: list[Switch] = field(default_factory=list)
    segments: list[SessionSegment] = field(default_factory=list)
    frames: list[LanguageFrame] = field(default_factory=list)
    speech: list[Span] = field(default_factory=list)
    gaps: list[Span] = field(default_factory=list)
    untranscribed: list[Span] = field(default_factory=list)
    flags: list[LanguageFlag] = field(default_factory=list)

    def build(self, tentative: str, language: str | None, load_level: int) -> ProcessResult:
        found = {each.name: tuple(getattr(self, each.name)) for each in fields(self)[1:]}
        return ProcessResult(self.committed, tentative, language, load_level=load_level, **found)


def _times(spans: Iterable[Span]) -> str:
    return "; ".join(f"{seconds(span.start):.1f} to {seconds(span.end):.1f} s" for span in spans)


_SEGMENT = ("from", "to", "language", "text", "confidence", "final")


def _cells(segment: SessionSegment) -> tuple[str | bool, ...]:
    times = f"{segment.start_time:.2f}", f"{segment.end_time:.2f}"
    return *times, segment.language, segment.text, f"{segment.confidence:.2f}", segment.is_final

"""One recording in a report: its timeline with sound, its transcript beside the truth, its segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whisperlab.evaluation.scoring.text import Aligned, align
from whisperlab.evaluation.trace import Trace
from whisperlab.report import figures, player
from whisperlab.streaming.results import SessionSegment
from whisperlab.util.errors import AudioFormatError
from whisperlab.util.timeline import Span, seconds

_TOLD = 10  # gaps that are listed


@dataclass(slots=True, frozen=True)
class Timeline:
    """A drawn timeline: the name of the configuration and its ``<svg>``."""

    name: str
    drawing: str


@dataclass(slots=True, frozen=True)
class RecordingView:
    """What a page shows of one recording.

    ``contrast`` is the same recording under the configuration that answered most wrongly from its cache.
    ``sound`` is a data URI, empty when there is none: then ``silent_because`` says why. ``steps`` align the
    transcript with the reference, unit by unit as scored (no case, punctuation or Latin diacritics).
    """

    number: int
    recording: str
    trace: Trace
    timeline: Timeline
    contrast: Timeline | None
    sound: str
    silent_because: str
    steps: tuple[Aligned, ...]

    @property
    def segments(self) -> tuple[SessionSegment, ...]:
        """The heard segments in time order."""
        return _in_time(self.trace)

    @property
    def dropped(self) -> str:
        """Sentences on audio that was dropped and speech without reliable text."""
        return dropped(self.trace)

    @property
    def left(self) -> float:
        """Where the time axis begins, in per cent of the drawing's width."""
        return 100 * figures.TIMELINE_LEFT

    @property
    def width(self) -> float:
        """How wide the time axis is, in per cent of the drawing's width."""
        return 100 * (figures.TIMELINE_RIGHT - figures.TIMELINE_LEFT)


def views(
    traces: Sequence[tuple[str, Trace]], contrasts: Mapping[str, tuple[str, Trace]], sound_limit: int
) -> Iterator[RecordingView]:
    """A view for each (name of the configuration, trace), within ``sound_limit`` characters of sound.

    ``contrasts`` maps a recording to the name and trace to set against it.
    """
    colours = figures.language_colours(trace for _, trace in [*traces, *contrasts.values()])
    for number, (name, trace) in enumerate(traces, 1):
        contrast = contrasts.get(trace.recording)
        sound, silent_because = _sound(trace, sound_limit)
        sound_limit -= len(sound)
        yield RecordingView(
            number=number,
            recording=trace.recording,
            trace=trace,
            timeline=_timeline(name, trace, f"timeline-{number}", colours),
            contrast=_timeline(*contrast, f"contrast-{number}", colours) if contrast else None,
            sound=sound,
            silent_because=silent_because,
            steps=_steps(trace),
        )


def _timeline(name: str, trace: Trace, identifier: str, colours: Mapping[str, str]) -> Timeline:
    figure = figures.timeline_figure(trace, colours=colours)
    return Timeline(name, figures.to_svg(figure, identifier, describe(trace)))


def describe(trace: Trace) -> str:
    """A timeline for those who cannot see it."""
    true = [f"{s.lang} {s.start:.1f}-{s.end:.1f}" for s in trace.reference.segments] if trace.reference else []
    heard = [f"{label.language} {label.start:.1f}-{label.end:.1f}" for label in figures.detected_languages(trace)]
    return (
        f"Languages of {trace.recording} in seconds. True: {', '.join(true) or 'not known'}. "
        f"Heard: {', '.join(heard) or 'nothing'}. {len(trace.switches)} switches decided.{dropped(trace)}"
    )


def dropped(trace: Trace) -> str:
    """Sentences on audio that was dropped and speech without reliable text, each after a space; empty without any."""
    told = (
        ("Not heard, because the machine did not keep up", trace.gaps),
        ("Speech without text", trace.untranscribed),
        ("In a language that was not allowed", [flag.span for flag in trace.flags if flag.outside]),
    )
    return "".join(f" {what}: {_spans(spans)}." for what, spans in told if spans)


def _spans(spans: Sequence[Span]) -> str:
    """Total length of spans and where they lie.

    >>> _spans([Span(16000, 32000)])
    '1.0 s (1.0-2.0)'
    """
    listed = [f"{seconds(span.start):.1f}-{seconds(span.end):.1f}" for span in spans[:_TOLD]]
    if more := len(spans) - len(listed):
        listed.append(f"and {more} more")
    return f"{seconds(sum(map(len, spans))):.1f} s ({', '.join(listed)})"


def _sound(trace: Trace, limit: int) -> tuple[str, str]:
    try:
        return player.data_uri(trace.header["audio"], limit), ""
    except AudioFormatError as error:
        return "", str(error)


def _steps(trace: Trace) -> tuple[Aligned, ...]:
    if trace.reference is None:
        return ()
    return align(trace.reference, " ".join(segment.text for segment in _in_time(trace)))


def _in_time(trace: Trace) -> tuple[SessionSegment, ...]:
    return tuple(sorted(trace.segments, key=lambda segment: (segment.start_time, segment.end_time)))

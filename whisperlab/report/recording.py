"""One recording in a report: its timeline with sound, its transcript beside the truth, its segments."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from whisperlab.evaluation.scoring.text import Aligned, align
from whisperlab.evaluation.trace import Trace
from whisperlab.report.figure import Figure
from whisperlab.report.timeline import dropped, language_colours, timeline
from whisperlab.streaming.results import SessionSegment
from whisperlab.util.errors import AudioFormatError
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from whisperlab.util.audio_arrays import FloatArray


class Timeline(NamedTuple):
    """A timeline and the name of its configuration."""

    name: str
    figure: Figure


@dataclass(slots=True, frozen=True)
class RecordingView:
    """What a page shows of one recording.

    ``contrast`` is the same recording under the configuration that answered most wrongly from its cache.
    ``sound`` is a data URI, empty when there is none: then ``silent_because`` says why. ``segments`` are in time order.
    ``steps`` align the transcript with the reference, unit by unit as scored (no case, punctuation or Latin
    diacritics).
    """

    trace: Trace
    timeline: Timeline
    contrast: Timeline | None
    sound: str
    silent_because: str
    segments: tuple[SessionSegment, ...]
    steps: tuple[Aligned, ...]
    dropped: str  # see the function


def views(
    traces: Sequence[tuple[str, Trace]], contrasts: Mapping[str, tuple[str, Trace]], sound_limit: int
) -> Iterator[RecordingView]:
    """A view for each (name of the configuration, trace), within ``sound_limit`` characters of sound.

    ``contrasts`` maps a recording to the name and trace to set against it.
    """
    colours = language_colours(trace for _, trace in [*traces, *contrasts.values()])

    def drawn(name: str, trace: Trace, identifier: str) -> Timeline:
        return Timeline(name, timeline(trace, identifier, colours=colours))

    for number, (name, trace) in enumerate(traces, 1):
        contrast = contrasts.get(trace.recording)
        sound, silent_because = "", ""
        try:
            sound = data_uri(trace.header["audio"], sound_limit)
        except AudioFormatError as error:
            silent_because = str(error)
        sound_limit -= len(sound)
        segments = tuple(sorted(trace.segments, key=lambda segment: (segment.start_time, segment.end_time)))
        text = " ".join(segment.text for segment in segments)
        yield RecordingView(
            trace=trace,
            timeline=drawn(name, trace, f"timeline-{number}"),
            contrast=drawn(*contrast, f"contrast-{number}") if contrast else None,
            sound=sound,
            silent_because=silent_because,
            segments=segments,
            steps=align(trace.reference, text) if trace.reference else (),
            dropped=dropped(trace),
        )


def data_uri(audio: Json, limit: int) -> str:
    """The recording in a trace's ``audio`` header as ``data:audio/ogg;base64,...``, 16 kHz mono.

    Raises AudioFormatError if the header has no path, the file cannot be read or has another digest than the traced
    audio, or the result has more than ``limit`` characters.
    """
    from whisperlab.data.audio_files import read_audio, read_part
    from whisperlab.util.audio_arrays import audio_digest

    if not audio.get("path"):
        raise AudioFormatError("the trace has no path of its audio")
    if (offset := audio.get("offset")) is not None:
        samples = read_part(audio["path"], offset, audio["duration"])
    else:
        samples = read_audio(audio["path"], channel=audio.get("channel", "mix"), track=audio.get("track"))
    if audio_digest(samples) != audio.get("sha256"):
        raise AudioFormatError(f"{audio['path']} has changed since the trace was made")
    return sound_uri(samples, limit)


def sound_uri(samples: FloatArray, limit: int) -> str:
    """Audio of shape (n,), 16 kHz, as ``data:audio/ogg;base64,...``.

    Raises AudioFormatError if it would have more than ``limit`` characters.
    """
    text = base64.b64encode(_vorbis(samples)).decode("ascii")
    if len(text) > limit:
        raise AudioFormatError(f"its audio needs {len(text):,} characters, and {limit:,} are left")
    return "data:audio/ogg;base64," + text


def _vorbis(samples: FloatArray) -> bytes:
    """Mono audio as Ogg Vorbis, written second by second: libsndfile crashes on minutes in one block."""
    import soundfile

    packed = io.BytesIO()
    with soundfile.SoundFile(packed, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), SAMPLE_RATE):
            file.write(samples[start : start + SAMPLE_RATE])
    return packed.getvalue()

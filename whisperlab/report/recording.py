"""One recording in a report: its timeline with sound, its transcript beside the truth, its segments."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from whisperlab.evaluation.scoring.language import Label, frame_labels, segment_labels, true_switches
from whisperlab.evaluation.scoring.text import align
from whisperlab.evaluation.trace import Trace
from whisperlab.report.figure import PALETTE, Figure, Spec, template
from whisperlab.report.page import page_text
from whisperlab.streaming.results import timed_words
from whisperlab.util.audio_arrays import FloatArray, audio_digest
from whisperlab.util.errors import AudioFormatError
from whisperlab.util.files import as_path
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import SAMPLE_RATE, seconds

FIXED = dict(zip(("en", "es", "fr", "it", "ru", "de", "zh"), PALETTE, strict=True))  # the same on every page

MAX_FRAMES = 600  # points of the probabilities that a timeline draws

Row = Sequence[float]  # from and to on the vertical axis; ``rows.json`` has those of a timeline, and of all stages
Rows = Mapping[str, Row]


def views(traces: Sequence[Trace], sound_limit: int) -> Iterator[dict[str, object]]:
    """What a page shows of each trace, within ``sound_limit`` characters of sound.

    The steps align transcript and reference, unit by unit as scored (no case, punctuation or Latin diacritics).
    """
    colours = language_colours(traces)
    for number, trace in enumerate(traces, 1):
        sound, silent_because = "", ""
        try:
            sound = data_uri(trace.header["audio"], sound_limit)
        except AudioFormatError as error:
            silent_because = str(error)
        sound_limit -= len(sound)
        segments = sorted(trace.segments, key=lambda segment: (segment.start_time, segment.end_time))
        text = " ".join(segment.text for segment in segments)
        yield {
            "trace": trace,
            "timeline": timeline(trace, f"timeline-{number}", colours=colours),
            "sound": sound,
            "silent_because": silent_because,
            "segments": segments,
            "steps": align(trace.reference, text) if trace.reference else (),
            "dropped": page_text("dropped", trace=trace),
        }


def data_uri(audio: Json, limit: int) -> str:
    """The audio of a trace as ``data:audio/ogg;base64,...``. AudioFormatError if it is missing, changed or too long."""
    from whisperlab.data.audio_files import read_audio, read_part

    if not audio.get("path"):
        raise AudioFormatError("the trace has no path of its audio")
    if (offset := audio.get("offset")) is not None:
        samples = read_part(as_path(audio["path"]), offset, audio["duration"])
    else:
        samples = read_audio(as_path(audio["path"]), channel=audio.get("channel", "mix"), track=audio.get("track"))
    if audio_digest(samples) != audio.get("sha256"):
        raise AudioFormatError(f"{audio['path']} has changed since the trace was made")
    return sound_uri(samples, limit)


def sound_uri(samples: FloatArray, limit: int) -> str:
    """Audio of shape (n,), 16 kHz, as a data URI of Ogg Vorbis; raises AudioFormatError above ``limit`` characters."""
    import soundfile

    packed = io.BytesIO()
    with soundfile.SoundFile(packed, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), SAMPLE_RATE):  # libsndfile crashes on minutes in one block
            file.write(samples[start : start + SAMPLE_RATE])
    text = base64.b64encode(packed.getvalue()).decode("ascii")
    if len(text) > limit:
        raise AudioFormatError(f"its audio needs {len(text):,} characters, and {limit:,} are left")
    return "data:audio/ogg;base64," + text


def language_colours(traces: Sequence[Trace]) -> dict[str, str]:
    """A colour per language: spoken ones first, then those of the text, then of the frames; none beyond the palette."""
    spoken = {label.language for trace in traces for label in true_languages(trace)}
    text = {segment.language for trace in traces for segment in trace.segments}
    labels = {frame.label for trace in traces for frame in trace.frames}
    names = list(dict.fromkeys([*sorted(spoken), *sorted(text), *sorted(labels)]))
    free = iter([colour for colour in PALETTE if colour not in {FIXED.get(name) for name in names}])
    found = {name: FIXED.get(name) or next(free, None) for name in names}
    return {name: colour for name, colour in found.items() if colour}


def true_languages(trace: Trace) -> list[Label]:
    """The languages of the reference; empty without one."""
    return [Label(s.start, s.end, s.lang) for s in trace.reference.segments] if trace.reference else []


def detected_languages(trace: Trace) -> list[Label]:
    """The languages of the text in time order, or of the smoothed frames if there is no text."""
    if trace.segments:
        return sorted(segment_labels(trace.segments), key=lambda label: (label.start, label.end))
    return runs(frame_labels(trace.frames))


def runs(labels: Iterable[Label]) -> list[Label]:
    """Merge consecutive labels of the same language without a gap between them."""
    found: list[Label] = []
    for label in labels:
        if found and (found[-1].end, found[-1].language) == (label.start, label.language):
            label = Label(found.pop().start, label.end, label.language)
        found.append(label)
    return found


def timeline(
    trace: Trace,
    name: str = "timeline",
    *,
    colours: Mapping[str, str] | None = None,
    audio: FloatArray | None = None,
    caption: str = "",
) -> Figure:
    """One recording over time: reference, text, speech, switches and the probability of each language.

    ``name`` is the prefix of the identifiers, unique in a page. ``colours``, by language, make several timelines agree.
    ``audio``, the streamed samples of shape (n,) at 16 kHz, adds the sound, the smoothed path and the decisions.
    """
    known = language_colours([trace]) if colours is None else colours
    places = template("rows")["timeline" if audio is None else "stages"]
    rows = {name: place for name, place in places.items() if trace.reference or name != "reference"}
    time = {"domain": [0, round(trace.duration, 2)], "nice": False}
    view = template(
        "timeline",
        x={"field": "start", "type": "quantitative", "scale": time, "title": "seconds of audio"},
        y=_height(rows, has_text=bool(trace.segments)),
        colours={"domain": list(known), "range": list(known.values())},
        height=round(75 * max(top for _, top in rows.values())),
        probabilities=list(_probabilities(trace, known)),
        blocks=list(_blocks(trace, rows)),
        **_marks(trace, rows),
        **_stages(trace, audio, rows),
    )
    view["layer"] = [each for each in view["layer"] if each["data"]["values"] is not None]
    return Figure(name, describe(trace), view, caption)


def _height(rows: Rows, has_text: bool) -> Spec:
    names = {round((low + top) / 2, 3): name for name, (low, top) in rows.items()}
    names |= {} if has_text else {place: "language" for place, name in names.items() if name == "text"}
    text = "".join(f"datum.value == {place} ? '{name}' : " for place, name in names.items()) + "''"
    plain = dict.fromkeys(("grid", "ticks", "domain"), False)
    highest = max(top for _, top in rows.values()) + 0.1
    axis = {"values": list(names), "labelExpr": text, **plain, "title": None}
    return {"field": "low", "type": "quantitative", "scale": {"domain": [-0.1, highest], "nice": False}, "axis": axis}


def _marks(trace: Trace, rows: Rows) -> dict[str, list[Json]]:
    """Speech and audio without text (``marks``), true switches, decisions and cache hits."""
    kinds = (
        (trace.speech, "speech", "speech", 0.8),
        (trace.gaps, "text", "dropped: the machine was too slow", 0.35),
        (trace.untranscribed, "text", "speech without text", 0.35),
    )
    true = true_switches(trace.reference) if trace.reference else []
    middle = sum(rows.get("decided", (1.4, 1.6))) / 2
    text = "switch to {0.to_language} at {0.time:.1f} s, decided at {0.decided_at:.1f} s"
    return {
        "marks": [
            _box(seconds(span.start), seconds(span.end), rows[row], what=what, opacity=opacity)
            for spans, row, what, opacity in kinds
            for span in spans
        ],
        "true": [{"start": round(switch.end, 2)} for switch in true],
        "decided": [_point(switch.decided_at, middle, what=text.format(switch)) for switch in trace.switches],
        "cached": [_point(seconds(frame.end), 1.06) for frame in trace.frames if frame.cached],
    }


def _stages(trace: Trace, audio: FloatArray | None, rows: Rows) -> dict[str, list[Json] | None]:
    """The sound, the way from each boundary to its decision, and the second windows since the last pause."""
    if audio is None:
        return dict.fromkeys(("sound", "ways", "onsets"))
    parts = np.array_split(audio, min(len(audio), MAX_FRAMES))
    ends = np.cumsum([len(part) for part in parts]) / SAMPLE_RATE
    low, top = rows["sound"]
    middle, scale = (low + top) / 2, (top - low) / 2 / (float(np.abs(audio).max()) or 1.0)
    sound = [
        _point(end, round(middle + scale * float(part.min()), 3), top=round(middle + scale * float(part.max()), 3))
        for end, part in zip(ends.tolist(), parts, strict=True)
    ]
    low, top = rows["decided"]
    found = [(frame.end, frame.onset.posterior) for frame in trace.frames if frame.onset and frame.onset.posterior]
    likely = [(end, max(posterior, key=posterior.__getitem__)) for end, posterior in found]
    return {
        "sound": sound,
        "ways": [_box(switch.time, switch.decided_at, ((low + top) / 2, top)) for switch in trace.switches],
        "onsets": [_point(seconds(end), -0.05, what=f"since the last pause: {language}") for end, language in likely],
    }


def _blocks(trace: Trace, rows: Rows) -> Iterable[Json]:
    """The reference's segments, the words of the text (without text the languages of the frames), and the path."""
    for part in trace.reference.segments if trace.reference else ():
        yield _block(part.start, part.end, part.lang, part.text, rows["reference"])
    for segment in trace.segments:
        for one in timed_words(segment):
            yield _block(one.start, one.end, one.language, one.word.strip(), rows["text"], f"{one.probability:.0%}")
    path = runs(frame_labels(trace.frames))
    for row, text, shown in (("text", "", not trace.segments), ("path", "smoothed frames", "path" in rows)):
        for label in path if shown else ():
            yield _block(label.start, label.end, label.language, text, rows[row])


def _block(start: float, end: float, language: str, text: str, row: Row, confidence: str = "–") -> Json:
    span = {"from (s)": f"{start:.1f}", "to (s)": f"{end:.1f}"}
    return _box(start, end, row, **span, language=language, text=text, confidence=confidence)


def _box(start: float, end: float, row: Row, **facts: object) -> Json:
    return {"start": round(start, 2), "end": round(end, 2), "low": row[0], "top": row[1], **facts}


def _point(time: float, low: float, **facts: object) -> Json:
    return {"start": round(time, 2), "low": low, **facts}


def _probabilities(trace: Trace, colours: Mapping[str, str]) -> Iterable[Json]:
    """The probabilities of the languages, stacked, at up to `MAX_FRAMES` frames."""
    step = -(-len(trace.frames) // MAX_FRAMES) or 1
    for frame in trace.frames[::step]:
        low = 0.0
        for language in colours:
            top = low + frame.posterior.get(language, 0.0)
            yield _point(seconds(frame.end), round(low, 3), language=language, top=round(top, 3))
            low = top


def describe(trace: Trace) -> str:
    """A timeline for those who cannot see it."""
    return page_text("describe", trace=trace, spoken=true_languages(trace), found=detected_languages(trace))

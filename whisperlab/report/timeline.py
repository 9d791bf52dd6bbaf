"""One recording over time, as an interactive figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from whisperlab.evaluation.scoring.language import Label, frame_labels, segment_labels, true_switches
from whisperlab.report.figure import CHART_WIDTH, INK, MUTED, PALETTE, Figure, Spec
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import SAMPLE_RATE, Span, seconds

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import Trace
    from whisperlab.streaming.results import SessionSegment
    from whisperlab.util.audio_arrays import FloatArray

FIXED = dict(zip(("en", "es", "fr", "it", "ru", "de", "zh"), PALETTE, strict=True))  # the same on every page

_TOLD = 10  # gaps that are listed
MAX_FRAMES = 600  # points of the probabilities that a timeline draws

# Places of the rows on the vertical axis, from the probabilities up: of a timeline, and of all stages.
_TIMELINE = {"probability": (0.0, 1.0), "speech": (1.2, 1.4), "text": (1.6, 2.3), "reference": (2.5, 3.2)}
_STAGES = {
    "probability": (0.0, 1.0),
    "path": (1.2, 1.6),
    "decided": (1.75, 1.95),
    "speech": (2.1, 2.25),
    "text": (2.4, 3.0),
    "reference": (3.15, 3.75),
    "sound": (3.9, 4.7),
}
Rows = Mapping[str, tuple[float, float]]

_ZOOM: Spec = {
    "name": "zoom",
    "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]", "clear": "dblclick"},
    "bind": "scales",
}
_PLAYHEAD: Spec = {
    "data": {"values": [{}]},
    "mark": {"type": "rule", "color": "#D55E00", "strokeWidth": 2},
    "encoding": {
        "x": {"datum": {"expr": "playhead"}, "type": "quantitative"},
        "opacity": {"condition": {"test": "playhead >= 0", "value": 1}, "value": 0},
    },
}


def language_colours(traces: Iterable[Trace]) -> dict[str, str]:
    """A colour per language of the traces: spoken languages first, then those of the text, then the frames' labels.

    A language of `FIXED` has the same colour on all pages. Languages beyond the palette have no entry; they are drawn
    in `OTHER`.
    """
    spoken, text, labels = set[str](), set[str](), set[str]()
    for trace in traces:
        spoken |= {label.language for label in true_languages(trace)}
        text |= {segment.language for segment in trace.segments}
        labels |= {frame.label for frame in trace.frames}
    names = list(dict.fromkeys([*sorted(spoken), *sorted(text), *sorted(labels)]))
    fixed = {name: FIXED[name] for name in names if name in FIXED}
    free = [colour for colour in PALETTE if colour not in fixed.values()]
    found = fixed | dict(zip([name for name in names if name not in FIXED], free, strict=False))
    return {name: found[name] for name in names if name in found}


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

    A pointer over a word shows it. In a page with a player, a click plays the audio from there. Shift and the wheel
    zoom, dragging moves, a double click shows all.

    Args:
        trace: the recording.
        name: prefix of the identifiers, unique in a page.
        colours: by language, to make several timelines agree.
        audio: the streamed audio, shape (n,), 16 kHz: adds the sound, the smoothed path and the decisions as rows.
        caption: says how to read it.
    """
    known = language_colours([trace]) if colours is None else colours
    rows = _TIMELINE if audio is None else _STAGES
    scale = {"domain": list(known), "range": list(known.values())}
    legend = {"title": None, "symbolType": "square"}
    colour = {"field": "language", "type": "nominal", "scale": scale, "legend": legend}
    time = {"domain": [0, round(trace.duration, 2)], "nice": False}
    x = {"field": "start", "type": "quantitative", "scale": time, "title": "seconds of audio"}
    box = {"x": x, "x2": {"field": "end"}, "y": _height(rows), "y2": {"field": "top"}}
    facts = [{"field": field} for field in ("text", "language", "from (s)", "to (s)", "confidence")]
    layers: list[Spec] = [
        _layer(
            _probabilities(trace, known), "area", {"x": x, "y": _height(rows), "y2": {"field": "top"}, "color": colour}
        ),
        {"params": [_ZOOM], **_layer(_blocks(trace, rows), _BLOCK, {**box, "color": colour, "tooltip": facts})},
        *_marks(trace, rows, x, box),
        *([] if audio is None else _stages(trace, audio, rows, x, box)),
        _PLAYHEAD,
    ]
    playhead = {"name": "playhead", "value": -1}
    height = round(75 * max(top for _, top in rows.values()))
    view: Spec = {"params": [playhead], "width": CHART_WIDTH, "height": height, "layer": layers}
    return Figure(name, describe(trace), view, caption)


_BLOCK = {"type": "rect", "stroke": INK, "strokeWidth": 0.4}


def _layer(values: Sequence[Json], mark: object, encoding: Spec) -> Spec:
    return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def _height(rows: Rows) -> Spec:
    """The vertical axis with the names of the rows."""
    names = {round((low + top) / 2, 3): name for name, (low, top) in rows.items()}
    label = "".join(f"datum.value == {place} ? '{name}' : " for place, name in names.items())
    axis = {
        "values": list(names),
        "labelExpr": label + "''",
        "grid": False,
        "ticks": False,
        "domain": False,
        "title": None,
    }
    highest = max(top for _, top in rows.values()) + 0.1
    return {"field": "low", "type": "quantitative", "scale": {"domain": [-0.1, highest], "nice": False}, "axis": axis}


def _marks(trace: Trace, rows: Rows, x: Spec, box: Spec) -> Iterable[Spec]:
    """Speech, audio without text, true switches, decisions and cache hits."""
    told = [{"field": "what"}]
    spans = [(span, "speech", "speech", 0.8) for span in trace.speech]
    spans += [(span, "text", "dropped: the machine was too slow", 0.35) for span in trace.gaps]
    spans += [(span, "text", "speech without text", 0.35) for span in trace.untranscribed]
    values = [
        {**_place(seconds(span.start), seconds(span.end), *rows[row]), "what": what, "opacity": opacity}
        for span, row, what, opacity in spans
    ]
    opacity = {"field": "opacity", "type": "quantitative", "scale": None}
    yield _layer(values, {"type": "rect", "color": MUTED}, {**box, "tooltip": told, "opacity": opacity})
    true = [{"start": round(switch.end, 2)} for switch in true_switches(trace.reference)] if trace.reference else []
    yield _layer(true, {"type": "rule", "strokeDash": [4, 4], "color": MUTED}, {"x": x})
    low, top = rows.get("decided", (1.4, 1.6))
    decided = [
        {
            "start": round(switch.decided_at, 2),
            "low": (low + top) / 2,
            "what": f"switch to {switch.to_language} at {switch.time:.1f} s, decided at {switch.decided_at:.1f} s",
        }
        for switch in trace.switches
    ]
    triangle = {"type": "point", "shape": "triangle-up", "filled": True, "size": 70, "color": "currentColor"}
    yield _layer(decided, triangle, {"x": x, "y": box["y"], "tooltip": told})
    cached = [{"start": round(seconds(frame.end), 2), "low": 1.06} for frame in trace.frames if frame.cached]
    yield _layer(cached, {"type": "tick", "color": MUTED, "height": 5}, {"x": x, "y": box["y"]})


def _stages(trace: Trace, audio: FloatArray, rows: Rows, x: Spec, box: Spec) -> Iterable[Spec]:
    """The sound, the way from each boundary to its decision, and the second windows since the last pause."""
    parts = np.array_split(audio, min(len(audio), MAX_FRAMES))
    low, top = rows["sound"]
    loudest = float(np.abs(audio).max()) or 1.0
    ends = np.cumsum([len(part) for part in parts]) / SAMPLE_RATE
    middle, half = (low + top) / 2, (top - low) / 2
    sound = [
        {
            "start": round(float(end), 2),
            "low": round(middle + half * float(part.min()) / loudest, 3),
            "top": round(middle + half * float(part.max()) / loudest, 3),
        }
        for end, part in zip(ends, parts, strict=True)
    ]
    yield _layer(sound, {"type": "area", "color": MUTED}, {"x": x, "y": box["y"], "y2": {"field": "top"}})
    low, top = rows["decided"]
    ways = [_place(switch.time, switch.decided_at, (low + top) / 2, top) for switch in trace.switches]
    yield _layer(ways, {"type": "rule", "color": "currentColor"}, {"x": x, "x2": {"field": "end"}, "y": box["y"]})
    onsets = [
        {
            "start": round(seconds(frame.end), 2),
            "low": -0.05,
            "what": f"since the last pause: {max(frame.onset.posterior, key=frame.onset.posterior.__getitem__)}",
        }
        for frame in trace.frames
        if frame.onset and frame.onset.posterior
    ]
    point = {"type": "point", "filled": True, "size": 12, "color": "currentColor"}
    yield _layer(onsets, point, {"x": x, "y": box["y"], "tooltip": [{"field": "what"}]})


def _blocks(trace: Trace, rows: Rows) -> list[Json]:
    """The reference's segments, the words of the text (without text the languages of the frames), and the path."""
    found = [
        _block(part.start, part.end, part.lang, part.text, rows["reference"])
        for part in (trace.reference.segments if trace.reference else ())
    ]
    if not trace.segments:
        found += [_block(at.start, at.end, at.language, "", rows["text"]) for at in detected_languages(trace)]
    found += [
        _block(start, end, segment.language, word, rows["text"], f"{segment.confidence:.0%}")
        for segment in trace.segments
        for start, end, word in words(segment)
    ]
    if "path" in rows:
        path = runs(frame_labels(trace.frames))
        found += [_block(at.start, at.end, at.language, "smoothed frames", rows["path"]) for at in path]
    return found


def _place(start: float, end: float, low: float, top: float) -> Json:
    return {"start": round(start, 2), "end": round(end, 2), "low": low, "top": top}


def _block(start: float, end: float, language: str, text: str, row: tuple[float, float], confidence: str = "") -> Json:
    facts = {"language": language, "text": text, "confidence": confidence or "–"}
    return {**_place(start, end, *row), "from (s)": f"{start:.1f}", "to (s)": f"{end:.1f}", **facts}


def words(segment: SessionSegment) -> list[tuple[float, float, str]]:
    """The words of a segment with start and end in seconds: shares of its span by their numbers of characters."""
    parts = segment.text.split() or [""]
    lengths = [len(part) + 1 for part in parts]
    step = (segment.end_time - segment.start_time) / sum(lengths)
    ends = [segment.start_time + step * sum(lengths[: n + 1]) for n in range(len(parts))]
    return [(a, b, part) for (a, b), part in zip(pairwise([segment.start_time, *ends]), parts, strict=True)]


def _probabilities(trace: Trace, colours: Mapping[str, str]) -> list[Json]:
    """The probabilities of the languages, stacked, at up to `MAX_FRAMES` frames."""
    step = -(-len(trace.frames) // MAX_FRAMES) or 1
    found: list[Json] = []
    for frame in trace.frames[::step]:
        low = 0.0
        for language in colours:
            top = low + frame.posterior.get(language, 0.0)
            found.append(
                {
                    "start": round(seconds(frame.end), 2),
                    "language": language,
                    "low": round(low, 3),
                    "top": round(top, 3),
                }
            )
            low = top
    return found


def describe(trace: Trace) -> str:
    """A timeline for those who cannot see it."""
    true, heard = (
        [f"{label.language} {label.start:.1f}-{label.end:.1f}" for label in labels]
        for labels in (true_languages(trace), detected_languages(trace))
    )
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

"""Interactive figures: one recording over time, and the configurations of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from whisperlab.evaluation.scoring.language import Label, frame_labels, segment_labels, true_switches
from whisperlab.report.figure import CHART_WIDTH, INK, MUTED, Figure, Spec
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import Trace
    from whisperlab.streaming.results import SessionSegment

# Okabe and Ito's colours, which people with any colour vision can distinguish. Black text is readable on all of them.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#7F8FD9")
OTHER = "#9AA0A6"  # all languages beyond the palette
FIXED = dict(zip(("en", "es", "fr", "it", "ru", "de", "zh"), PALETTE, strict=True))  # the same on every page

MAX_FRAMES = 600  # points of the probabilities that a timeline draws

# Places of a timeline's rows on its vertical axis.
_ROWS = {"reference": (2.5, 3.2), "text": (1.6, 2.3), "speech": (1.2, 1.4)}
_TOP = 3.3


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
    trace: Trace, name: str = "timeline", colours: Mapping[str, str] | None = None, caption: str = ""
) -> Figure:
    """One recording over time: reference, text, speech, switches and the probability of each language.

    A pointer over a word shows it. In a page with a player, a click plays the audio from there. Shift and the wheel
    zoom, dragging moves, a double click shows all. ``colours`` by language make several timelines agree.
    """
    from whisperlab.report.recording import describe

    known = language_colours([trace]) if colours is None else colours
    scale = {"domain": list(known), "range": list(known.values())}
    colour = {"field": "language", "type": "nominal", "scale": scale, "legend": {"title": None}}
    time = {"domain": [0, trace.duration], "nice": False}
    x = {"field": "start", "type": "quantitative", "scale": time, "title": "seconds of audio"}
    layers: list[Spec] = [
        {
            "data": {"values": _probabilities(trace, known)},
            "mark": {"type": "area"},
            "encoding": {"x": x, "y": _Y, "y2": {"field": "top"}, "color": colour},
        },
        {
            "params": [_ZOOM],
            "data": {"values": _blocks(trace)},
            "mark": {"type": "rect", "stroke": INK, "strokeWidth": 0.4},
            "encoding": {
                "x": x,
                "x2": {"field": "end"},
                "y": _Y,
                "y2": {"field": "top"},
                "color": colour,
                "tooltip": [{"field": field} for field in ("text", "language", "from (s)", "to (s)", "confidence")],
            },
        },
        *_marks(trace, x),
    ]
    view: Spec = {"params": [{"name": "playhead", "value": -1}], "width": CHART_WIDTH, "height": 240, "layer": layers}
    return Figure(name, describe(trace), view, caption)


_Y: Spec = {
    "field": "low",
    "type": "quantitative",
    "scale": {"domain": [-0.1, _TOP], "nice": False},
    "axis": {
        "values": [0, 0.5, 1, *(sum(place) / 2 for place in _ROWS.values())],
        "labelExpr": "datum.value > 2.4 ? 'reference' : datum.value > 1.5 ? 'text' : datum.value > 1.1 ? 'speech' : "
        "datum.value + ''",
        "grid": False,
        "ticks": False,
        "domain": False,
        "title": None,
    },
}
_ZOOM: Spec = {
    "name": "zoom",
    "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]", "clear": "dblclick"},
    "bind": "scales",
}


def _marks(trace: Trace, x: Spec) -> list[Spec]:
    """Speech, true switches, decisions, cache hits, audio without text, and the playhead."""
    low, high = _ROWS["speech"]
    spans = [(span, "speech", 0.8) for span in trace.speech]
    spans += [(span, "dropped: the machine was too slow", 0.35) for span in trace.gaps]
    spans += [(span, "speech without text", 0.35) for span in trace.untranscribed]
    places = {0.8: (low, high), 0.35: (1.6, 2.3)}
    speech = [
        {
            "start": seconds(span.start),
            "end": seconds(span.end),
            "low": places[opacity][0],
            "top": places[opacity][1],
            "what": what,
            "opacity": opacity,
        }
        for span, what, opacity in spans
    ]
    true = [{"start": switch.end} for switch in true_switches(trace.reference)] if trace.reference else []
    decided = [
        {
            "start": switch.decided_at,
            "low": 1.5,
            "what": f"switch to {switch.to_language} at {switch.time:.1f} s, decided at {switch.decided_at:.1f} s",
        }
        for switch in trace.switches
    ]
    cached = [{"start": seconds(frame.end), "low": 1.06} for frame in trace.frames if frame.cached]
    box = {"x": x, "x2": {"field": "end"}, "y": _Y, "y2": {"field": "top"}}
    told = [{"field": "what", "title": "what"}]
    return [
        {
            "data": {"values": speech},
            "mark": {"type": "rect", "color": MUTED},
            "encoding": {
                **box,
                "tooltip": told,
                "opacity": {"field": "opacity", "type": "quantitative", "scale": None},
            },
        },
        {
            "data": {"values": true},
            "mark": {"type": "rule", "strokeDash": [4, 4], "color": MUTED},
            "encoding": {"x": x},
        },
        {
            "data": {"values": decided},
            "mark": {"type": "point", "shape": "triangle-up", "filled": True, "size": 70, "color": "currentColor"},
            "encoding": {"x": x, "y": _Y, "tooltip": told},
        },
        {
            "data": {"values": cached},
            "mark": {"type": "tick", "color": MUTED, "height": 5},
            "encoding": {"x": x, "y": _Y},
        },
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "color": "#D55E00", "strokeWidth": 2},
            "encoding": {
                "x": {"datum": {"expr": "playhead"}, "type": "quantitative"},
                "opacity": {"condition": {"test": "playhead >= 0", "value": 1}, "value": 0},
            },
        },
    ]


def _blocks(trace: Trace) -> list[Json]:
    """The reference's segments and the words of the text as boxes; without text the languages of the frames."""
    low, top = _ROWS["reference"]
    found: list[Json] = []
    for part in trace.reference.segments if trace.reference else ():
        found.append(_block(part.start, part.end, part.lang, part.text, low, top))
    low, top = _ROWS["text"]
    if not trace.segments:
        found += [_block(at.start, at.end, at.language, "", low, top) for at in detected_languages(trace)]
    for segment in trace.segments:
        for start, end, word in words(segment):
            found.append(
                {**_block(start, end, segment.language, word, low, top), "confidence": f"{segment.confidence:.0%}"}
            )
    return found


def _block(start: float, end: float, language: str, text: str, low: float, top: float) -> Json:
    return {
        "start": round(start, 2),
        "end": round(end, 2),
        "from (s)": f"{start:.1f}",
        "to (s)": f"{end:.1f}",
        "language": language,
        "text": text,
        "confidence": "",
        "low": low,
        "top": top,
    }


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


def choices(
    points: Sequence[Json], name: str, x: tuple[str, str], y: tuple[str, str], alt: str, caption: str
) -> Figure:
    """Configurations as points; ``x`` and ``y`` are (field, title). A pointer names a point, a click selects it."""
    encoding: Spec = {
        "x": {"field": x[0], "type": "quantitative", "title": x[1], "scale": {"zero": False}},
        "y": {"field": y[0], "type": "quantitative", "title": y[1], "scale": {"zero": False}},
        "color": {"field": "key", "type": "nominal", "title": "cache key", "scale": {"range": list(PALETTE)}},
        "shape": {"field": "key", "type": "nominal", "title": "cache key"},
        "tooltip": [{"field": "configuration"}, *({"field": field, "title": title} for field, title in (x, y))],
        "opacity": {"condition": {"param": "chosen", "value": 0.95}, "value": 0.3},
    }
    view: Spec = {
        "params": [{"name": "chosen", "select": {"type": "point", "fields": ["config_id"]}}],
        "width": CHART_WIDTH,
        "height": 300,
        "data": {"values": list(points)},
        "mark": {"type": "point", "filled": True, "size": 130, "stroke": INK, "strokeWidth": 0.6, "cursor": "pointer"},
        "encoding": encoding,
    }
    return Figure(name, alt, view, caption)

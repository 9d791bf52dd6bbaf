"""Scores of language labels over time: speech with a wrong label, and language switches found or missed."""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

from whisperlab.evaluation.scoring.text import Addable
from whisperlab.evaluation.trace import Reference
from whisperlab.streaming.results import LanguageFrame, SessionSegment, Switch
from whisperlab.util.timeline import seconds

UNLABELLED = ""  # hypothesis "language" of reference speech without a label

TOLERANCES_S = (0.5, 1.0, 2.0)  # allowed distance of a found boundary from the true one
COLLAR_S = 0.25  # NIST's for diarisation: on either side of every reference boundary
WIDEST_S = max(TOLERANCES_S)  # false switches and delays are counted at this tolerance


@dataclass(slots=True, frozen=True)
class Label:
    """The language label of the time from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    language: str


class LabelTime(dict[str, dict[str, float]]):
    """Seconds of reference speech by true language, then by label."""

    @property
    def speech_s(self) -> float:
        return math.fsum(time for labels in self.values() for time in labels.values())

    @property
    def wrong_s(self) -> float:
        """With a wrong label or none."""
        return math.fsum(time for true, labels in self.items() for given, time in labels.items() if given != true)


@dataclass(slots=True, frozen=True)
class Diarization(Addable):
    """Seconds of reference speech outside the collars, and of the three errors of language diarisation."""

    speech_s: float = 0.0
    false_alarm_s: float = 0.0  # a label where there is no speech
    miss_s: float = 0.0  # speech without a label
    confusion_s: float = 0.0  # speech under a wrong label

    @property
    def error_s(self) -> float:
        return self.false_alarm_s + self.miss_s + self.confusion_s


@dataclass(slots=True, frozen=True)
class SwitchCounts(Addable):
    """True switches, found switches, and matched pairs at each tolerance (key: seconds)."""

    true: int = 0
    found: int = 0
    matched: Mapping[str, int] = field(default_factory=lambda: {f"{t:g}": 0 for t in TOLERANCES_S})


@dataclass(slots=True, frozen=True)
class Boundary(Label):
    """A true switch at ``end`` into ``language``; any time from ``start``, where the old language ends, is right."""

    def distance(self, time: float) -> float:
        """Seconds from a time to the gap between the languages; 0 inside it."""
        return max(self.start - time, 0.0, time - self.end)


Pair: TypeAlias = tuple[Boundary, Switch]  # true and found


def segment_labels(segments: Iterable[SessionSegment]) -> list[Label]:
    """The labels of final segments, each for its own time."""
    return [Label(s.start_time, s.end_time, s.language) for s in segments if s.is_final]


def frame_labels(frames: Sequence[LanguageFrame]) -> list[Label]:
    """The labels of language-ID frames, each for the time since the previous frame, at most its window."""
    ends = [0, *(frame.end for frame in frames)]
    starts = [max(before, frame.end - frame.window) for before, frame in zip(ends, frames, strict=False)]
    return [Label(seconds(at), seconds(frame.end), frame.label) for at, frame in zip(starts, frames, strict=True)]


def label_time(reference: Reference, labels: Iterable[Label]) -> LabelTime:
    """The labels of the reference speech. Where labels overlap, the one that begins last counts."""
    ordered = sorted(labels, key=lambda label: (label.start, label.end))
    time: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for segment in reference.segments:
        near = [label for label in ordered if label.start < segment.end and label.end > segment.start]
        edges = {segment.start, segment.end} | {t for label in near for t in (label.start, label.end)}
        inside = sorted(t for t in edges if segment.start <= t <= segment.end)
        for start, end in pairwise(inside):
            covering = [label.language for label in near if label.start <= start and label.end >= end]
            time[segment.lang][covering[-1] if covering else UNLABELLED] += end - start
    return LabelTime({true: dict(labels) for true, labels in time.items()})


def diarization(reference: Reference, labels: Iterable[Label], collar_s: float = COLLAR_S) -> Diarization:
    """Language diarisation error: (false alarm + miss + confusion) / reference speech, as the seconds of each.

    Time within ``collar_s`` of the start or end of a reference segment does not count. Labels are compared as they are:
    this is the *identification* error rate of pyannote.metrics, whose ``collar`` is the sum of both sides (0.5 s).
    """
    spans = [("collar", t - collar_s, t + collar_s, "") for s in reference.segments for t in (s.start, s.end)]
    spans += [("true", segment.start, segment.end, segment.lang) for segment in reference.segments]
    spans += [("given", label.start, label.end, label.language) for label in labels]
    marks = sorted(m for kind, a, b, lang in spans if a < b for m in ((a, 1, kind, lang), (b, -1, kind, lang)))
    active, found = Counter[tuple[str, str]](), Diarization()
    for (at, change, *what), (until, *_) in pairwise(marks):
        active[what[0], what[1]] += change
        if until > at and not active["collar", ""]:
            true, given = ({lang for (of, lang), n in active.items() if of == kind and n} for kind in ("true", "given"))
            wrong = min(len(true), len(given)) - len(true & given)
            counts = len(true), max(len(given) - len(true), 0), max(len(true) - len(given), 0), wrong
            found += Diarization(*(n * (until - at) for n in counts))
    return found


def true_switches(reference: Reference) -> list[Boundary]:
    """The boundaries between consecutive reference segments of different languages."""
    changes = ((old, new) for old, new in pairwise(reference.segments) if old.lang != new.lang)
    return [Boundary(min(old.end, new.start), new.start, new.lang) for old, new in changes]


# Classes of block length, and the limits between them in seconds.
BLOCKS = ("under 1 s", "1-2 s", "2-4 s", "over 4 s")
BLOCKS_S = (1.0, 2.0, 4.0)


def block_misses(reference: Reference, found: Iterable[Pair]) -> dict[str, tuple[int, int]]:
    """Number of blocks (from switch to switch) and of those whose switch is in no pair of ``found``, by length."""
    ends = [old.end for old, new in pairwise(reference.segments) if old.lang != new.lang]
    ends = [*ends[1:], *(segment.end for segment in reference.segments[-1:])]
    matched = {boundary.end for boundary, _ in found}
    counts = dict.fromkeys(BLOCKS, (0, 0))
    for boundary, end in zip(true_switches(reference), ends, strict=False):
        name = BLOCKS[bisect_right(BLOCKS_S, end - boundary.end)]
        blocks, missed = counts[name]
        counts[name] = blocks + 1, missed + (boundary.end not in matched)
    return counts


def match_switches(true: Sequence[Boundary], found: Sequence[Switch], tolerance_s: float) -> list[Pair]:
    """One-to-one pairs into the same language within the tolerance: the most pairs, at the least total distance."""
    pairs = []
    for language in sorted({boundary.language for boundary in true}):
        wanted = [boundary for boundary in true if boundary.language == language]
        offered = sorted((s for s in found if s.to_language == language), key=lambda switch: switch.time)
        pairs += _match(wanted, offered, tolerance_s)
    return sorted(pairs, key=lambda pair: pair[0].end)


def _match(true: Sequence[Boundary], found: Sequence[Switch], tolerance_s: float) -> list[Pair]:
    # Gaps do not overlap, so one of the best matchings keeps the order of time. Dynamic programming over prefixes
    # finds it: best[j] is (pairs, -distance, matching) of the true switches so far and found[:j].
    empty: tuple[int, float, tuple[Pair, ...]] = (0, 0.0, ())
    best = [empty] * (len(found) + 1)
    for boundary in true:
        above, best = best, [empty]
        for j, switch in enumerate(found):
            options = [above[j + 1], best[j]]
            if (distance := boundary.distance(switch.time)) <= tolerance_s:
                n, cost, pairs = above[j]
                options.append((n + 1, cost - distance, (*pairs, (boundary, switch))))
            best.append(max(options, key=lambda option: option[:2]))
    return list(best[-1][2])

"""Streaming latency in the field's measures: LongYAAL, LongLAAL, StreamLAAL, time to final after speech, erasure.

Words are first assigned to the segments of the reference: by the soft alignment of OmniSTEval for LongYAAL and LongLAAL
(Polák et al. 2025, arXiv 2509.17349), by the fewest edits for StreamLAAL (Papi et al. 2024, StreamAtt). Words are
separated by spaces; letters of scripts without spaces are words. Lags count from the start of a segment, on the audio
clock, or (``_ca``: computation-aware) on the wall clock of a live stream.
"""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, pairwise, takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from whisperlab.evaluation.scoring.latency import percentile, response_times
from whisperlab.evaluation.scoring.text import Addable, spaced, units
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace

LAGS = tuple(name + suffix for suffix in ("", "_ca") for name in ("long_yaal", "long_laal", "stream_laal"))
PAUSE_S = 0.5  # of silence in the reference, after which speech has ended
_PUNCTUATION = frozenset(".!?,;:-()。—ー")  # a word that is one of these never matches other words
_UNREACHABLE = 2**40  # more edits than any stream has words
Indices = npt.NDArray[np.int64]


class TimedWord(NamedTuple):
    """A word of the final text, and when it was final, in seconds on both clocks."""

    text: str
    at: float
    live: float  # that of the audio clock if no other is known


@dataclass(slots=True, frozen=True)
class StreamCounts(Addable):
    """Latencies of one or more streams in seconds, and counts of words; can be added."""

    lags: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by measure, one value per segment
    erased: int = 0  # words shown as tentative and then changed
    final: int = 0  # words of the final text
    to_partial: tuple[float, ...] = ()  # from the end of speech to the next text, tentative or final
    to_final: tuple[float, ...] = ()  # from the end of speech to its last final word
    utterances: int = 0  # parts of the reference between pauses; those without a word have no latency

    def percentiles(self) -> dict[str, float]:
        """Of the times after the end of speech; an utterance without a word counts as later than any other."""
        missed = self.utterances - len(self.to_final)
        times = {"time_to_partial": self.to_partial, "time_to_final": self.to_final}
        return {f"{name}_p{q}": percentile(of, q, missed=missed) for name, of in times.items() for q in (50, 95, 99)}


def stream_counts(trace: Trace, reference: Reference) -> StreamCounts:
    """The streaming measures of a trace. Without segments that have times and text, only words are counted.

    Normalised erasure is ``erased / final`` (Arivazhagan et al. 2020, "Re-translation versus streaming"). Times after
    the end of speech are those of the public boards: the next text, as in AA-WER Streaming, and the last final word,
    as in pipecat's TTFS. Both are 0 if the whole utterance was final before its end. They use the wall clock if there
    is one. An utterance ends where the reference has a pause of `PAUSE_S`.
    """
    words, segments = final_words(trace), timed_segments(reference)
    counts = StreamCounts(erased=sum(len(old) for old, _ in display_changes(trace)), final=len(words))
    if not segments:
        return counts
    wanted, texts = [spaced(segment.text).split() for segment in segments], [word.text for word in words]
    soft, edits = soft_segments(wanted, texts), edit_segments(wanted, texts)
    live, lags = live_times(trace), dict[str, tuple[float, ...]]()
    clocks = {"": [word.at for word in words], "_ca": [word.live for word in words]}
    for suffix in ("", "_ca") if live else ("",):
        times = clocks[suffix]
        lags["long_yaal" + suffix] = tuple(_lags(segments, wanted, soft, times, to_end=True))
        lags["long_laal" + suffix] = tuple(_lags(segments, wanted, soft, times))
        lags["stream_laal" + suffix] = tuple(_lags(segments, wanted, edits, times))
    turns = [*accumulate((b.start - a.end >= PAUSE_S for a, b in pairwise(segments)), initial=0)]
    ends = defaultdict[int, float](float)
    for turn, segment in zip(turns, segments, strict=True):
        ends[turn] = max(ends[turn], segment.end)
    done = {turns[owner]: word.live for word, owner in zip(words, soft, strict=True) if owner is not None}
    to_final = tuple(max(time - ends[turn], 0.0) for turn, time in done.items())
    events = list(trace.of_kind("text"))
    shown = zip(live or [event["at"] for event in events], events, strict=True)
    with_text = [time for time, event in shown if (event["committed"] + event["tentative"]).strip()]
    to_partial = tuple(
        min(time for time in with_text if time >= ends[turn]) - ends[turn] if time > ends[turn] else 0.0
        for turn, time in done.items()
    )
    return replace(counts, lags=lags, to_partial=to_partial, to_final=to_final, utterances=len(ends))


def final_words(trace: Trace) -> list[TimedWord]:
    """The words of the committed text in order. A word is final when its last letter is; punctuation does not count."""
    words, live = list[TimedWord](), live_times(trace)
    for number, event in enumerate(trace.of_kind("text")):
        times = event["at"], live[number] if live else event["at"]
        for token in _tokens(event["committed"]):
            if token[0] == "▁" or not words:
                words.append(TimedWord(token.removeprefix("▁"), *times))
            else:
                *_, (before, *earlier) = words
                words[-1] = TimedWord(before + token, *(times if units(token) else earlier))
    return words


def _tokens(text: str, *, stripped: bool = False) -> list[str]:
    """The words of a text with SentencePiece's mark before each that does not continue the word before the text.

    Without a space at the start, letters of scripts with spaces continue a word. In a ``stripped`` text, only
    punctuation does.
    """
    first, *others = spaced(text).split() or [""]
    continues = not units(first) if stripped else text[:1].strip() and " " not in spaced(f"x{text[0]}")
    return [first if continues else f"▁{first}", *(f"▁{word}" for word in others)] if first else []


def timed_segments(reference: Reference) -> list[ReferenceSegment]:
    """The segments that can be scored: those with text and a length."""
    return [segment for segment in reference.segments if segment.text.strip() and segment.end > segment.start]


def live_times(trace: Trace) -> list[float] | None:
    """When each ``text`` event happens in a live stream, in seconds since its start; None if that is not known.

    A trace of pace ``fast`` has the processing time of each chunk: the events get the time at which a live stream would
    have them, with queueing (`response_times`).
    """
    events, end = list(trace.of_kind("text")), trace.events[-1]
    if trace.header["pace"] == "real":
        return [event["elapsed"] for event in events]
    service, chunk_s = end.get("service_s"), end.get("chunk_s")
    if not service or not chunk_s:
        return None
    waits = response_times(service, chunk_s)
    final_s = max(end["compute_s"] - sum(service), 0.0)  # of `finalize`, after the last chunk
    calls = (math.ceil(min(round(event["at"] / chunk_s, 6), len(waits))) for event in events)
    at_end = (final_s if event["elapsed"] == end["elapsed"] else 0.0 for event in events)
    return [event["at"] + waits[call - 1] + more for event, call, more in zip(events, calls, at_end, strict=True)]


def display_changes(trace: Trace) -> Iterator[tuple[list[str], list[str]]]:
    """The marked words that each ``text`` event removes from the display and adds to it; a changed word is in both."""
    tentative = list[str]()
    for event in trace.of_kind("text"):
        old, tentative = tentative, _tokens(event["tentative"], stripped=True)
        new = [*_tokens(event["committed"]), *tentative]
        kept = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))))
        yield old[kept:], new[kept:]


def _lags(
    segments: Sequence[ReferenceSegment],
    reference_words: Sequence[Sequence[str]],
    owners: Sequence[int | None],
    times: Sequence[float],
    *,
    to_end: bool = False,
) -> Iterator[float]:
    """The average lag behind an ideal policy of each segment with words.

    The ideal policy spreads the words of a segment, or of its reference if that has more, evenly over its time. LAAL
    (Papi et al. 2022, arXiv 2206.05807) counts the words up to the first at or after the end of the segment. YAAL
    (``to_end``) counts those before the end of the last segment of the recording. Milliseconds, as in OmniSTEval, give
    the same words at a limit.
    """
    spans = [(1000 * segment.start, 1000 * (segment.end - segment.start)) for segment in segments]
    end, inside = max(start + length for start, length in spans), defaultdict[int | None, list[float]](list)
    for time, owner in zip(times, owners, strict=True):
        inside[owner].append(1000 * time)
    for number, ((start, length), wanted) in enumerate(zip(spans, reference_words, strict=True)):
        delays = [time - start for time in inside[number]]
        limit = end - start if to_end else length
        before = next((i for i, delay in enumerate(delays) if delay >= limit), len(delays))
        counted = delays[:before] if to_end else delays[: before + 1]
        pace = length / max(len(delays), len(wanted))
        if counted:
            yield sum(delay - i * pace for i, delay in enumerate(counted)) / len(counted) / 1000


# ---- segments of words -------------------------------------------------------------------------------------


def soft_segments(reference: Sequence[Sequence[str]], words: Sequence[str]) -> list[int | None]:
    """The segment of each word by the alignment with the greatest similarity, without cost for gaps.

    The similarity of two words is the Jaccard index of their letters. Of equals, pairs come last in the stream, then
    reference words without a pair. A word without a pair belongs to the reference word before it, or to the one behind
    it and then with all words up to there, whichever is more similar. None: there is no such word.
    """
    owners = [number for number, segment in enumerate(reference) for _ in segment]
    similar, wanted, said = _similarities([word for segment in reference for word in segment], words)
    n, m = len(wanted), len(said)
    steps = np.empty((n + 1, m + 1), np.uint8)  # 0: a pair, 1: only a reference word, 2: only a word of the stream
    steps[0], steps[1:, 0] = 2, 1
    best = np.zeros(m + 1)
    for i, word in enumerate(wanted):
        pair, above = best[:-1] + similar[word][said], best[1:]
        best = np.maximum.accumulate(np.concatenate(([0.0], np.maximum(pair, above))))
        steps[i + 1, 1:] = np.where(pair >= best[1:], 0, np.where(above >= best[:-1], 1, 2))
    path, i, j = list[tuple[bool, bool]](), n, m
    while i or j:
        step = steps[i, j]
        path.append((step != 2, step != 1))
        i, j = i - int(step != 2), j - int(step != 1)
    found: list[int | None] = []
    last, ahead = -1, False
    for in_reference, in_stream in reversed(path):
        if in_reference:
            last, ahead = last + 1, False
        elif not ahead:
            before, behind = (similar[wanted[k], said[len(found)]] if 0 <= k < n else -np.inf for k in (last, last + 1))
            ahead = bool(behind > before)
        if in_stream:
            found.append(owners[last + ahead] if last + ahead >= 0 else None)
    return found


def _similarities(*sides: Sequence[str]) -> tuple[npt.NDArray[np.float64], Indices, Indices]:
    """The similarity of all different words, and the places of the words of both sides in it."""
    texts = [[unicodedata.normalize("NFKC", word).lower() for word in side] for side in sides]
    places = {word: place for place, word in enumerate(dict.fromkeys(chain(*texts)))}
    letters = {letter: place for place, letter in enumerate(dict.fromkeys("".join(places)))}
    has = np.zeros((len(places), len(letters)))
    for word, place in places.items():
        has[place, [letters[letter] for letter in word]] = 1
    shared, n_letters, mark = has @ has.T, has.sum(1), np.array([word in _PUNCTUATION for word in places], bool)
    similar = shared / np.maximum(n_letters[:, None] + n_letters - shared, 1)
    similar[mark[:, None] != mark] = -np.inf
    wanted, said = (np.array([places[word] for word in side], int) for side in texts)
    return similar, wanted, said


def edit_segments(reference: Sequence[Sequence[str]], words: Sequence[str]) -> list[int]:
    """The segment of each word such that the sum of word edits is least; case is ignored.

    Ties are decided as in the implementation ``mweralign``: a missing word comes before an extra word, and that before
    a pair. As there, the first segment has at least one word.
    """
    codes = {word: code for code, word in enumerate({word.lower() for word in words})}
    said, m = np.array([codes[word.lower()] for word in words], int), len(words)
    places = np.arange(m + 1)
    costs, starts = places, list[Indices]()  # costs[j]: edits of the segments so far, for the first j words
    for segment in reference:
        start = places if starts else np.zeros_like(places)
        for word in segment:
            missing = costs + 1
            paired = np.concatenate((missing[:1], costs[:-1] + (said != codes.get(word.lower(), -1))))
            costs = np.minimum.accumulate(np.minimum(missing, paired) - places) + places
            is_missing = costs == missing
            is_extra = np.concatenate(([False], costs[1:] == costs[:-1] + 1)) & ~is_missing
            start = np.where(is_missing, start, np.concatenate((start[:1], start[:-1])))
            start = start[np.maximum.accumulate(np.where(is_extra, 0, places))]
        costs[0] = _UNREACHABLE
        starts.append(start)
    found, end = list[int](), m
    for number in reversed(range(len(reference))):
        found += [number] * (end - int(starts[number][end]))
        end = int(starts[number][end])
    return found[::-1]

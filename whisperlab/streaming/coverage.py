"""Coverage: finds speech without text, by comparing words with the voiced time that they cover.

Word times come from a monotone path through attention, which leaves no time between two words. So speech that the
decoder omitted makes the word before it too long. `uncovered` finds such words. The *reach* of a word is `WORD_S` of
voiced time plus some per letter and figure; 99 % of 845 *dev* words exceed it by less than `LEAST_S`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from whisperlab.streaming.decoding import Hypothesis, Word
from whisperlab.util.timeline import VAD_FRAME, Span, samples

WORD_S, LETTER_S, FIGURE_S = (0.4, 0.07, 0.35)  # voiced seconds that a word, each letter and each figure may take
LEAST_S = 0.7  # voiced seconds beyond a word's reach that are speech without text
LEAST_LOG_PROBABILITY = -0.7  # of a token on average: short windows cut out of speech make Whisper invent text


@dataclass(slots=True, frozen=True)
class Uncovered:
    """Speech without text within or after a word."""

    index: int  # of the word; -1 for speech before the first word
    word_start: int  # sample at which that word (or the span) starts
    span: Span  # the speech after the word's reach
    voiced: int  # samples of it that are voiced


def reach(text: str) -> int:
    """Voiced samples that a word may take. Letters of an abbreviation are spelled, so they count as figures.

    >>> reach("yes") < reach("yesterday") < reach("PBX") < reach("1234567890")
    True
    """
    letters, figures = sum(c.isalpha() for c in text), sum(c.isdigit() for c in text)
    if letters > 1 and text.isupper():
        letters, figures = 0, figures + letters
    return samples(WORD_S + LETTER_S * letters + FIGURE_S * figures)


def uncovered(words: Sequence[Word], voiced: Sequence[int], span: Span, first: int = 0) -> list[Uncovered]:
    """Speech without text in ``span``, the audio of a hypothesis with these ``words``, in order.

    ``voiced`` are the first samples of the frames with speech (`whisperlab.streaming.vad.SpeechGate.voiced_frames`), in
    order. The ``first`` words are final; ``span`` starts where they end, because speech before it is ignored.
    """
    frames = voiced[bisect_left(voiced, span.start) : bisect_left(voiced, span.end)]
    starts = [span.start, *(max(word.start, span.start) for word in words[first:])]
    reaches = [0, *(reach(word.text) for word in words[first:])]
    found = []
    for place, (start, covered) in enumerate(zip(starts, reaches, strict=True)):
        end = starts[place + 1] if place + 1 < len(starts) else span.end
        inside = frames[bisect_left(frames, start) : bisect_left(frames, end)]
        rest = inside[covered // VAD_FRAME :]
        if len(rest) * VAD_FRAME >= samples(LEAST_S):
            speech = Span(rest[0], min(rest[-1] + VAD_FRAME, span.end))
            found.append(Uncovered(first + place - 1, start, speech, len(rest) * VAD_FRAME))
    return found


def completed(
    words: Sequence[Word], voiced: Sequence[int], span: Span, decode: Callable[[Span], Sequence[Word]], first: int = 0
) -> tuple[list[Word], list[Span]]:
    """Decode speech without text again. Returns the words, and the speech that still has no text.

    Arguments as for `uncovered`; ``decode`` returns the words of a span. Speech without text is decoded again from the
    word before it to the end of ``span``. If that covers no more of it, the speech is decoded alone; its text counts
    only if it is as likely as `LEAST_LOG_PROBABILITY`.
    """
    found, searched_until = list(words), span.start
    while hole := next((h for h in uncovered(found, voiced, span, first) if h.span.start >= searched_until), None):
        if hole.word_start > span.start or first:  # else the same window would be decoded again
            again = [*found[: max(hole.index, first)], *decode(Span(hole.word_start, span.end))]
            if _missing(again, voiced, span, first) <= _missing(found, voiced, span, first) - samples(LEAST_S):
                found = again
                continue
        searched_until = hole.span.end
        at = hole.index + 1
        alone = decode(hole.span) if hole.span != span else ()
        if alone and Hypothesis(tuple(alone)).log_probability >= LEAST_LOG_PROBABILITY:
            if at > first:
                found[at - 1] = replace(found[at - 1], end=min(found[at - 1].end, hole.span.start))
            found[at:at] = alone
    return found, [h.span for h in uncovered(found, voiced, span, first)]


def _missing(words: Sequence[Word], voiced: Sequence[int], span: Span, first: int) -> int:
    return sum(hole.voiced for hole in uncovered(words, voiced, span, first))

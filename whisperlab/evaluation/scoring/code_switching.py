"""Measures of code-switching: how mixed a reference is, and what a recogniser does to the words at language switches.

The language of a word is that of its reference segment. A word with letters of another script than that language's,
such as an English name in a Chinese segment, counts as another language: ``other``.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Unpack

import regex

from whisperlab.evaluation.scoring import text as texts
from whisperlab.evaluation.scoring.language import Diarization, diarization, segment_labels, true_switches
from whisperlab.evaluation.scoring.text import UNTAGGED, Addable, Aligned, TextCounts, TextRules, numbered, units
from whisperlab.evaluation.trace import Reference
from whisperlab.evaluation.transcripts import SENTENCE_ENDS
from whisperlab.streaming.results import SessionSegment

REACH = 5  # words on either side of a switch in which lost, doubled and wrongly labelled words are counted
WITHIN_S = 10.0  # until so long after a switch, the text may change to its language
TRANSLATED = 3  # so many words of a wrong script, with no right word between them, are a translation

_LISTS = tomllib.loads((Path(__file__).parent / "scripts.toml").read_text(encoding="utf-8"))
_CODES = " ".join(_LISTS.values()).split()
_SCRIPTS = {code: [script for script, codes in _LISTS.items() if code in codes.split()] for code in _CODES}

Shown = tuple[float, str, str, str | None]  # audio clock in seconds, text that became final, tentative text, language
_UNKNOWN = ("", UNTAGGED)  # languages


@dataclass(slots=True, frozen=True)
class Mixing(Addable):
    """How mixed references are. Only recordings with a switch between words have spans: runs of words in a language."""

    recordings: int = 0  # with words whose language is known
    cmi_sum: float = 0.0
    spans: int = 0
    span_words: int = 0
    span_squares: int = 0  # of the numbers of words
    within: int = 0  # switches within a sentence
    between: int = 0
    unpunctuated: int = 0  # switches whose level is not known

    @property
    def code_mixing_index(self) -> float:
        """CMI: 1 - words of the most frequent language / words, as the mean over recordings; 0 in one language.

        Gambäck and Das 2014, "On measuring the complexity of code-mixing". Papers often multiply it by 100.
        """
        return self.cmi_sum / self.recordings if self.recordings else math.nan

    @property
    def burstiness(self) -> float:
        """(s - m) / (s + m) of the mean m and the sample standard deviation s of the spans' numbers of words.

        -1 if all spans are equally long, 0 at random, near 1 for few long spans between short ones. Goh and Barabási
        2008 (arXiv physics/0610233); for spans of languages Guzmán et al. 2017, "Metrics for modeling code-switching
        across corpora".
        """
        if not self.spans:
            return math.nan
        mean = self.span_words / self.spans
        deviation = math.sqrt(max(self.span_squares - self.spans * mean**2, 0.0) / (self.spans - 1))
        return (deviation - mean) / (deviation + mean)


@dataclass(slots=True, frozen=True)
class WrongWords(Addable):
    """Words in a wrong language. The last four counts are 0 where all speech is in languages of the Latin script.

    Text shows that it is in another language only by its script, so a transliteration counts as a translation.
    """

    labelled: int = 0  # hypothesis words beside a reference word
    wrong_label: int = 0  # of those, words of a segment in another language than the reference word
    hypothesis_words: int = 0
    wrong_script: int = 0  # of those, words in a script of neither the language nor the reference word
    reference_words: int = 0
    translated: int = 0  # of those, words in the place of which there is a translation


@dataclass(slots=True, frozen=True)
class WordsAtSwitches(Addable):
    """Words within `REACH` words of a switch."""

    switches: int = 0
    lost: int = 0  # deleted
    doubled: int = 0  # inserted, and equal to a reference word at most `REACH` words away
    shown_switches: int = 0  # for which it is known what was shown
    wrong_first: int = 0  # behind the switch and final under another language, or withdrawn when the language changed


@dataclass(slots=True, frozen=True)
class CodeSwitching(Addable):
    """The counts of this module for one or more recordings."""

    mixing: Mixing = field(default_factory=Mixing)
    embedded: TextCounts = field(default_factory=TextCounts)
    tagged: TextCounts = field(default_factory=TextCounts)
    wrong: WrongWords = field(default_factory=WrongWords)
    at_switches: WordsAtSwitches = field(default_factory=WordsAtSwitches)
    diarization: Diarization = field(default_factory=Diarization)


def code_switching(
    reference: Reference,
    steps: Sequence[Aligned],
    segments: Iterable[SessionSegment],
    shown: Sequence[Shown] = (),
    **rules: Unpack[TextRules],
) -> CodeSwitching:
    """The counts of one recording, from the alignment of its text. ``shown`` is what a reader saw, in order of time."""
    tagged = [step.tagged for step in steps if step.reference is not None]
    return CodeSwitching(
        mixing=mixing(reference, **rules),
        embedded=_counts(steps, embedded(steps)),
        tagged=_counts(steps, {number for number, tag in enumerate(tagged) if tag}),
        wrong=wrong_words(steps),
        at_switches=words_at_switches(reference, steps, shown, **rules),
        diarization=diarization(reference, segment_labels(segments)),
    )


def mixing(reference: Reference, **rules: Unpack[TextRules]) -> Mixing:
    """How mixed a reference is. A switch is *between* sentences if the segment before it ends with ``.``, ``?``, ``!``.

    It is *within* a sentence inside a segment, and behind a segment without such a mark if the last segment has one.
    Otherwise its level is not known.
    """
    known = [segment for segment in reference.segments if segment.lang not in _UNKNOWN]
    words = [(_spoken(unit, s.lang), s) for s in known for unit in units(s.text, language=s.lang, **rules)]
    if not words:
        return Mixing()
    cmi = 1 - max(Counter(language for language, _ in words).values()) / len(words)
    spans = [len([*run]) for _, run in groupby(words, key=lambda word: word[0])]
    if len(spans) == 1:
        return Mixing(1, cmi)
    ended = {segment: segment.text.rstrip(" \"'”’»)").endswith(SENTENCE_ENDS) for segment in reference.segments}
    changes = [(old, new) for (left, old), (right, new) in pairwise(words) if left != right]
    between = sum(old is not new and ended[old] for old, new in changes)
    within = sum(old is new or (ended[reference.segments[-1]] and not ended[old]) for old, new in changes)
    levels = within, between, len(changes) - within - between
    return Mixing(1, cmi, len(spans), len(words), sum(n * n for n in spans), *levels)


def embedded(steps: Iterable[Aligned]) -> set[int]:
    """The numbers of the reference units that are not in the matrix language: the one with the most units.

    If two have the most, the one that comes first is the matrix language. Units without a known language do not count.
    """
    languages = [_spoken(step.reference, step.language) for step in steps if step.reference is not None]
    found = Counter(language for language in languages if language not in _UNKNOWN)
    matrix = max(found, key=found.__getitem__, default="")
    return {number for number, language in enumerate(languages) if language not in (matrix, *_UNKNOWN)}


def wrong_words(steps: Iterable[Aligned]) -> WrongWords:
    """Words in a wrong language, among those whose reference language is known."""
    known = [step for step in steps if step.language not in _UNKNOWN]
    pairs = [step for step in known if step.reference is not None and step.hypothesis is not None]
    counts = len(pairs), sum(step.label != step.language for step in pairs)
    if not any(step.language in _SCRIPTS for step in known):
        return WrongWords(*counts)
    n_translated = 0
    for _, run in groupby(known, key=lambda step: (step.kind == "hit", step.language)):
        foreign = [step for step in run if step.hypothesis is None or _wrong_script(step)]
        if sum(step.hypothesis is not None for step in foreign) >= TRANSLATED:
            n_translated += sum(step.reference is not None for step in foreign)
    said = [step for step in known if step.hypothesis is not None]
    n_reference = sum(step.reference is not None for step in known)
    return WrongWords(*counts, len(said), sum(map(_wrong_script, said)), n_reference, n_translated)


def words_at_switches(
    reference: Reference, steps: Sequence[Aligned], shown: Sequence[Shown] = (), **rules: Unpack[TextRules]
) -> WordsAtSwitches:
    """Words lost, doubled, or first shown in a wrong language at the switches of a reference.

    Tentative words of the old language are *withdrawn* if they do not become final in it when the text changes to the
    right language, at most `WITHIN_S` after the switch.
    """
    words = [step for step in steps if step.reference is not None]
    changes = [i for i in range(1, len(words)) if words[i].language != words[i - 1].language]
    places = {change + i for change in changes for i in range(-REACH, REACH)}
    behind = {change + i for change in changes for i in range(REACH)}
    near = [(number, step) for number, step in numbered(steps) if number in places]
    inserted = [(step.hypothesis, words[max(n - REACH, 0) : n + REACH]) for n, step in near if step.kind == "insertion"]
    heard = [step for number, step in near if number in behind and step.kind in ("hit", "substitution")]
    true, wrong = true_switches(reference), sum(step.label != step.language for step in heard)
    known = any(language for *_, language in shown)
    for (_, _, tentative, old), (now, final, _, new) in pairwise(shown):
        if old not in (None, new) and any(s.language == new and s.start <= now <= s.end + WITHIN_S for s in true):
            wrong += max(len(units(tentative, **rules)) - len(units(final, **rules)), 0)
    return WordsAtSwitches(
        switches=len(true),
        lost=sum(step.kind == "deletion" for _, step in near),
        doubled=sum(any(word == step.reference for step in around) for word, around in inserted),
        shown_switches=len(true) if known else 0,
        wrong_first=wrong if known else 0,
    )


def _counts(steps: Sequence[Aligned], wanted: set[int]) -> TextCounts:
    chosen = (step for number, step in numbered(steps) if number in wanted)
    return sum(texts.text_counts(chosen).values(), TextCounts())


def _spoken(unit: str, language: str) -> str:
    return "other" if language not in _UNKNOWN and _foreign(language).search(unit) else language


def _wrong_script(step: Aligned) -> bool:
    foreign = _foreign(step.language)
    return bool(step.hypothesis and foreign.search(step.hypothesis) and not foreign.search(step.reference or ""))


@cache
def _foreign(language: str) -> regex.Pattern[str]:
    """A letter that is in no script of a language."""
    own = "".join(rf"\p{{scx={script}}}" for script in ("Common", *_SCRIPTS.get(language, ["Latin"])))
    return regex.compile(rf"(?V1)[\p{{L}}--[{own}]]")

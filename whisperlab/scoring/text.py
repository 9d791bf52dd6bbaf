"""Mixed error rate: words where a script has spaces, characters where it has none, counted per language.

The convention of the SEAME and ASCEND corpora: edits over mixed units / units of the reference. (jiwer's
``mer`` is another thing, the *match* error rate.) jiwer does the alignment.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jiwer
import regex

from whisperlab.trace import Reference

UNTAGGED = "und"  # ISO 639: language undetermined

# Scripts written without spaces: one letter with its combining marks is one unit.
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = "[[" + "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS) + r"]&&[\p{L}\p{N}]]"
_UNIT = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]+")
_INVISIBLE = regex.compile(r"\p{Cf}")  # the joiners of Persian and Hindi, soft hyphens: they part no words
_APOSTROPHE = regex.compile("['’‘ʼ]")
_ACCENT = regex.compile(r"(?<=[\p{Latin}\p{Greek}])\p{M}+|(?<=е)\u0308+")


@dataclass(slots=True, frozen=True)
class Aligned:
    """One step of an alignment: a reference unit, a hypothesis unit, or both, and the reference's language.

    Both and equal is a hit, both and different a substitution, only a reference a deletion, only a hypothesis
    an insertion. An insertion belongs to the language of the reference unit before it. ``start`` and
    ``end`` are where a reference unit was spoken, in seconds: its segment's time in equal shares.
    """

    reference: str | None
    hypothesis: str | None
    language: str
    start: float = 0.0
    end: float = 0.0

    @property
    def kind(self) -> str:
        """One of ``hit``, ``substitution``, ``deletion``, ``insertion``."""
        if self.reference is None:
            return "insertion"
        if self.hypothesis is None:
            return "deletion"
        return "hit" if self.reference == self.hypothesis else "substitution"


@dataclass(slots=True, frozen=True)
class TextCounts:
    """What became of the units of a reference, and how many were made up."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: TextCounts) -> TextCounts:
        return TextCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference_words(self) -> int:
        """Units in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def hypothesis_words(self) -> int:
        """Units in the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def errors(self) -> int:
        """Edits that turn the reference into the hypothesis."""
        return self.substitutions + self.deletions + self.insertions


def units(text: str, *, fold_diacritics: bool = True) -> list[str]:
    """The units a text is scored in: compatibility-normalised (NFKC), case-folded, without punctuation.

    Folding takes the accents off Latin and Greek letters and the dots off Cyrillic ``ё``, which many
    transcripts leave out; combining marks of other scripts are letters in all but name and stay. Turn it
    off for a language such as Vietnamese, whose accents tell words apart.
    Apostrophes are dropped, any other punctuation parts words. Numbers are not spelled out.

    >>> units("¿Qué? I'd book一个room!")
    ['que', 'id', 'book', '一', '个', 'room']
    >>> units("¿Qué?", fold_diacritics=False)
    ['qué']
    """
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    plain = _APOSTROPHE.sub("", plain)
    if fold_diacritics:
        plain = _ACCENT.sub("", unicodedata.normalize("NFD", plain))
    return list(_UNIT.findall(unicodedata.normalize("NFC", plain)))


def align(reference: Reference, hypothesis: str, *, fold_diacritics: bool = True) -> tuple[Aligned, ...]:
    """The cheapest way from a reference to a hypothesis text, unit by unit.

    The reference is the text of its segments, each unit tagged with its segment's language. Only when no
    segment has text, the reference's own ``text`` is taken, tagged ``und``.
    """
    wanted = _tagged(reference, fold_diacritics)
    said = units(hypothesis, fold_diacritics=fold_diacritics)
    # Units hold no white space, so jiwer's own splitting gives them back.
    found = jiwer.process_words(" ".join(unit for unit, *_ in wanted), " ".join(said))
    steps: list[Aligned] = []
    for chunk in found.alignments[0]:
        left = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        right = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if left:
            answers: list[str | None] = [*right] or [None] * len(left)
            pairs = zip(left, answers, strict=True)
            steps += (Aligned(unit, answer, lang, *times) for (unit, lang, *times), answer in pairs)
        else:
            before = max(chunk.ref_start_idx - 1, 0)
            language = wanted[before][1] if wanted else UNTAGGED
            steps += (Aligned(None, unit, language) for unit in right)
    return tuple(steps)


def text_counts(steps: Iterable[Aligned]) -> dict[str, TextCounts]:
    """An alignment counted, for each language of the reference."""
    one = {
        "hit": TextCounts(hits=1),
        "substitution": TextCounts(substitutions=1),
        "deletion": TextCounts(deletions=1),
        "insertion": TextCounts(insertions=1),
    }
    counts: dict[str, TextCounts] = {}
    for step in steps:
        counts[step.language] = counts.get(step.language, TextCounts()) + one[step.kind]
    return counts


@dataclass(slots=True, frozen=True)
class SwitchText:
    """What became of the units next to the language switches; ``deleted_s`` is the speech time of those left out."""

    counts: TextCounts = TextCounts()
    deleted_s: float = 0.0

    def __add__(self, other: SwitchText) -> SwitchText:
        return SwitchText(self.counts + other.counts, self.deleted_s + other.deleted_s)


def switch_text(steps: Sequence[Aligned], reach: int = 2) -> SwitchText:
    """The steps within ``reach`` reference units of a change of the reference's language, on either side, counted.

    An insertion counts where the reference unit before it does. These are the points of interest of PIER (Ugan et
    al. 2025, arXiv 2501.09512), taken at the switches.
    """
    languages = [step.language for step in steps if step.reference is not None]
    changes = [i for i in range(1, len(languages)) if languages[i] != languages[i - 1]]
    near = {i for change in changes for i in range(change - reach, change + reach)}
    chosen, at = [], -1
    for step in steps:
        at += step.reference is not None
        if max(at, 0) in near:
            chosen.append(step)
    counts = sum(text_counts(chosen).values(), TextCounts())
    return SwitchText(counts, sum(step.end - step.start for step in chosen if step.kind == "deletion"))


def add_by_language(left: Mapping[str, TextCounts], right: Mapping[str, TextCounts]) -> dict[str, TextCounts]:
    """The counts of both, language by language."""
    languages = sorted(left.keys() | right.keys())
    return {lang: left.get(lang, TextCounts()) + right.get(lang, TextCounts()) for lang in languages}


def _tagged(reference: Reference, fold_diacritics: bool) -> list[tuple[str, str, float, float]]:
    """The units of a reference with their language, start and end."""
    parts = [(segment.text, segment.lang, segment.start, segment.end) for segment in reference.segments]
    if not any(text for text, *_ in parts):
        parts = [(reference.text, UNTAGGED, 0.0, 0.0)]
    tagged = []
    for text, language, start, end in parts:
        found = units(text, fold_diacritics=fold_diacritics)
        each = (end - start) / max(len(found), 1)
        tagged += [(unit, language, start + i * each, start + (i + 1) * each) for i, unit in enumerate(found)]
    return tagged

"""Mixed error rate: word errors for scripts with spaces, character errors for scripts without, per language.

The convention of the SEAME and ASCEND corpora: edits / units of the reference, where a unit is a word or a character.
jiwer computes the alignment. (Its ``mer`` is the *match* error rate, a different measure.)
"""

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, cast, get_args, get_origin, get_type_hints

import jiwer
import regex

from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, needs
from whisperlab.util.json_values import Json, JsonValue, to_json
from whisperlab.util.validation import check_range, shown

UNTAGGED = "und"  # ISO 639: language undetermined

# Scripts without spaces: one letter with its combining marks is one unit.
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = "[[" + "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS) + r"]&&[\p{L}\p{N}]]"
# In other scripts a word is a unit. It has a letter or a digit: an accent or a tatweel alone does not count.
_WORD = rf"[\p{{Lm}}--{_UNSPACED}]*[[[\p{{L}}--\p{{Lm}}]\p{{N}}]--{_UNSPACED}][[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]*"
_UNIT = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|{_WORD}")
_SYLLABLE_OR_UNIT = regex.compile(rf"(?V1)\p{{Hangul}}|{_UNIT.pattern.removeprefix('(?V1)')}")
# Words of interest in the notation of PIER: ``das mit den <tag Bots>``.
_TAG = regex.compile(r"<tag\s+([^>]*)>")
_BOUNDARY = regex.compile(rf"(?V1)(?<=\S)(?={_UNSPACED})|(?<={_UNSPACED}\p{{M}}*)(?=[\p{{L}}\p{{N}}])")
# Joiners of Persian and Hindi, soft hyphens, variation selectors, fillers, keycap frames: they do not split words.
_INVISIBLE = regex.compile(r"[\p{Cf}\p{Me}\p{Default_Ignorable_Code_Point}]")
_APOSTROPHE = regex.compile("['’‘ʼ]")
# Vowel signs and the tatweel are removed; variants of a letter (alef, yeh, kaf) and of digits become one.
_ARABIC_MARK = regex.compile(r"(?V1)[[\p{M}&&\p{scx=Arabic}]--[\u0653-\u0655]]|\u0640")
_ARABIC = str.maketrans("أإآٱىیک٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "ااااييك01234567890123456789")
_ACCENT = regex.compile(r"(?<=[\p{Latin}\p{Greek}])\p{M}+|(?<=е)\u0308+")
NORMALIZERS = ("plain", "whisper")
FOLDS = ("chinese", "arabic", "hangul")
KINDS = ("hit", "substitution", "deletion", "insertion")  # of steps of an alignment


class TextRules(TypedDict, total=False):
    """How text is normalised before it is compared: the options of `units`."""

    fold_diacritics: bool
    normalizer: str


@dataclass(slots=True, frozen=True)
class Aligned:
    """One step of an alignment: a reference unit, a hypothesis unit, or both, and the reference's language.

    An insertion has the language of the reference unit before it. ``start`` and ``end`` estimate the time of a
    reference unit in seconds: the units of a word share its time equally, or those of a segment without word times.
    ``label`` is the language of the hypothesis's segment, beside a reference unit. ``tagged`` units are words of
    interest: ``<tag Bots>``.
    """

    reference: str | None
    hypothesis: str | None
    language: str
    start: float = 0.0
    end: float = 0.0
    tagged: bool = False
    label: str = UNTAGGED

    @property
    def kind(self) -> str:
        if self.reference is None:
            return "insertion"
        if self.hypothesis is None:
            return "deletion"
        return "hit" if self.reference == self.hypothesis else "substitution"


class Addable:
    """Base of slotted dataclasses of counts: added field by field, and read from JSON by their annotated types."""

    __slots__: tuple[str, ...] = ()

    def __add__(self, other: Self) -> Self:
        return type(self)(*(added(getattr(self, name), getattr(other, name), name) for name in self.__slots__))

    def to_dict(self) -> dict[str, JsonValue]:
        return {name: to_json(value) for name, value in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, value: Json) -> Self:
        """From its ``to_dict``; a field with a default may be missing. Raises ConfigurationError for anything else."""
        try:
            return cast(Self, _read(cls, value))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"not the counts of a score: {error!r} in {shown(value)}") from error


def added(left: Any, right: Any, option: str = "") -> Any:
    """The sum of two counts; mappings are added key by key, in order of the keys. Options must be the same."""
    if isinstance(left, str | bool):
        if left != right:
            raise ConfigurationError(f"scores with {option} {left} and {right} cannot be added")
        return left
    if not isinstance(left, Mapping):
        return left + right
    shared = {key: added(left[key], right[key]) for key in left.keys() & right.keys()}
    return type(left)(sorted({**left, **right, **shared}.items()))  # type: ignore[call-arg]


_hints = lru_cache(get_type_hints)


def _read(hint: Any, value: Any) -> Any:
    """JSON as an annotated type: counts, a mapping, a tuple, text, a flag or a finite number."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if issubclass(kind, Addable):
        return kind(**{name: _read(_hints(kind)[name], item) for name, item in value.items()})
    if issubclass(kind, Mapping):
        _, inner = parts or get_args(kind.__orig_bases__[0])
        items = {key: _read(inner, item) for key, item in value.items()}
        return items if parts else kind(items)
    if kind is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {shown(value)}")
        inside = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_read(inner, item) for inner, item in zip(inside, value, strict=True))
    limit = (-1, 2**53) if hint is int else (-1e100, 1e100)
    check_range("a count", value, hint, *limit, exclusive=True)
    return value


@dataclass(slots=True, frozen=True)
class TextCounts(Addable):
    """Hits and errors of the units of a reference, and insertions."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference_words(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def hypothesis_words(self) -> int:
        return self.hits + self.substitutions + self.insertions

    @property
    def not_in_reference(self) -> int:
        return self.substitutions + self.insertions

    @property
    def errors(self) -> int:
        return self.not_in_reference + self.deletions


def normalizer_name(normalizer: str = "plain", folds: Iterable[str] = ()) -> str:
    """The full name of a text normalisation, such as ``whisper+chinese``, for `units` and for tables.

    ``plain`` is the normalisation that `units` applies to all text. ``whisper`` first applies openai-whisper's
    normalisers: the English one (number words, contractions, spelling, fillers) to English text, the basic one to other
    text. The fold ``chinese`` unifies traditional and simplified characters; ``arabic`` unifies vowel signs, tatweel,
    variants of a letter, and digits; ``hangul`` counts Korean in syllables instead of words. Folds apply to every
    language. Raises ConfigurationError for unknown names.
    """
    base, *joined = normalizer.split("+") if isinstance(normalizer, str) else (normalizer,)
    wanted = {*joined, *folds}
    if base not in NORMALIZERS or not wanted <= {*FOLDS}:
        got = shown("+".join(map(str, (base, *sorted(map(str, wanted))))))
        allowed = f"{' or '.join(NORMALIZERS)}, with folds among {', '.join(FOLDS)}"
        raise ConfigurationError(f"normalizer must be {allowed}; got {got}")
    return "+".join((base, *(fold for fold in FOLDS if fold in wanted)))


def units(text: str, *, fold_diacritics: bool = True, normalizer: str = "plain", language: str = UNTAGGED) -> list[str]:
    """Split a text into its units for scoring: compatibility-normalised (NFKC), case-folded, without punctuation.

    ``fold_diacritics`` removes the accents of Latin and Greek letters and the dots of Cyrillic ``ё``, which many
    transcripts omit; turn it off for a language in which accents distinguish words, such as Vietnamese. Apostrophes are
    removed; other punctuation separates words. Numbers stay digits. Tags of words of interest are removed.
    ``normalizer`` is a name as in `normalizer_name`.

    >>> units("¿Qué? I'd book一个room!")
    ['que', 'id', 'book', '一', '个', 'room']
    >>> units("¿Qué?", fold_diacritics=False)
    ['qué']
    """
    base, *folds = normalizer_name(normalizer).split("+")
    text = _TAG.sub(r"\1", text)
    if base == "whisper":
        text = _whisper_normalizer(language == "en")(_APOSTROPHE.sub("'", text))
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    if "arabic" in folds:
        plain = _ARABIC_MARK.sub("", plain).translate(_ARABIC)
    if "chinese" in folds:
        plain = _simplified()(plain)
    plain = _APOSTROPHE.sub("", plain)
    if fold_diacritics:
        plain = _ACCENT.sub("", unicodedata.normalize("NFD", plain))
    unit = _SYLLABLE_OR_UNIT if "hangul" in folds else _UNIT
    return list(unit.findall(unicodedata.normalize("NFC", plain)))


def spaced(text: str) -> str:
    """The text with a space before each letter of a script without spaces, so that `split` finds `units`.

    >>> spaced("book一个room。")
    'book 一 个 room。'
    """
    return str(_BOUNDARY.sub(" ", text))


@lru_cache
def _whisper_normalizer(english: bool) -> Callable[[str], str]:
    """openai-whisper's normaliser, loaded from its folder, because importing the package would load torch."""
    package = find_spec("whisper")
    if package is None or not package.submodule_search_locations:
        needed = "the normalizer 'whisper' needs openai-whisper"
        raise MissingDependencyError(f"{needed}: pip install 'whisperlab[reference]'")
    folder = Path(package.submodule_search_locations[0]) / "normalizers"
    name, file = "whisper_normalizers", folder / "__init__.py"
    spec = spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[[str], str] = getattr(module, "EnglishTextNormalizer" if english else "BasicTextNormalizer")()
    return made


@lru_cache
def _simplified() -> Callable[[str], str]:
    with needs("folding Chinese characters needs OpenCC", "chinese"):
        from opencc import OpenCC
    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def align(
    reference: Reference, hypothesis: str | Sequence[tuple[str, str]], **rules: Unpack[TextRules]
) -> tuple[Aligned, ...]:
    """The alignment of a reference and a hypothesis with the fewest edits, unit by unit.

    The reference is the text of its segments, each unit tagged with the language of its segment. If no segment has
    text, the reference's ``text`` is used, tagged ``und``. The hypothesis is a text, or texts with their languages,
    which a normalizer may use; a text alone is assumed to be in the language of a monolingual reference.
    """
    wanted = _tagged(reference, rules)
    if isinstance(hypothesis, str):
        spoken = {language for _, language, *_ in wanted}
        hypothesis = [(hypothesis, spoken.pop() if len(spoken) == 1 else UNTAGGED)]
    said = [(unit, lang) for text, lang in hypothesis for unit in units(text, language=lang, **rules)]
    # Units contain no white space, so jiwer splits the text into the same units.
    found = jiwer.process_words(" ".join(unit for unit, *_ in wanted), " ".join(unit for unit, _ in said))
    steps: list[Aligned] = []
    for chunk in found.alignments[0]:
        left = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        right = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if left:
            answers: Sequence[tuple[str | None, str]] = right or [(None, UNTAGGED)] * len(left)
            pairs = zip(left, answers, strict=True)
            steps += (Aligned(unit[0], answer, *unit[1:], label) for unit, (answer, label) in pairs)
        else:
            before = max(chunk.ref_start_idx - 1, 0)
            language = wanted[before][1] if wanted else UNTAGGED
            steps += (Aligned(None, unit, language) for unit, _ in right)
    return tuple(steps)


def text_counts(steps: Iterable[Aligned]) -> dict[str, TextCounts]:
    """The counts of an alignment, by language of the reference."""
    kinds = defaultdict[str, Counter[str]](Counter)
    for step in steps:
        kinds[step.language][step.kind] += 1
    return {language: TextCounts(*(found[kind] for kind in KINDS)) for language, found in kinds.items()}


@dataclass(slots=True, frozen=True)
class SwitchText(Addable):
    """Counts of the units next to language switches; ``deleted_s`` is the speech time of the deleted ones."""

    counts: TextCounts = TextCounts()
    deleted_s: float = 0.0


def numbered(steps: Sequence[Aligned]) -> Iterator[tuple[int, Aligned]]:
    """The steps with the numbers of their reference units; an insertion belongs to the unit behind it, or to the last.

    PIER, the point-of-interest error rate (Ugan et al. 2025, arXiv 2501.09512), is the errors of chosen reference units
    in the alignment of the whole text / the number of chosen units. Its reference implementation counts insertions so.
    """
    last, at = sum(step.reference is not None for step in steps) - 1, 0
    for step in steps:
        yield min(at, last), step
        at += step.reference is not None


def switch_text(steps: Sequence[Aligned], reach: int = 2) -> SwitchText:
    """Counts of the ``reach`` reference units on either side of each switch: PIER of the words at switches."""
    languages = [step.language for step in steps if step.reference is not None]
    changes = [i for i in range(1, len(languages)) if languages[i] != languages[i - 1]]
    near = {i for change in changes for i in range(change - reach, change + reach)}
    chosen = [step for number, step in numbered(steps) if number in near]
    counts = sum(text_counts(chosen).values(), TextCounts())
    return SwitchText(counts, sum(step.end - step.start for step in chosen if step.kind == "deletion"))


def until(reference: Reference, end_s: float) -> Reference:
    """The reference of the audio before a time, without the units that end later. A text without times stays whole."""
    segments = []
    for segment in reference.segments:
        if segment.end > end_s > segment.start:
            found, times = list(_UNIT.finditer(segment.text)), [span for span in segment.word_times if span[1] <= end_s]
            n_ended = int(len(found) * (end_s - segment.start) / (segment.end - segment.start))
            text = segment.text[: found[n_ended].start()] if found else ""
            text = " ".join(segment.text.split()[: len(times)]) if segment.word_times else text
            segment = replace(segment, end=end_s, text=text, word_times=tuple(times))
        if segment.end <= end_s:
            segments.append(segment)
    timed = any(segment.text for segment in reference.segments)
    return Reference(" ".join(s.text for s in segments) if timed else reference.text, tuple(segments))


def _tagged(reference: Reference, rules: TextRules) -> list[tuple[str, str, float, float, bool]]:
    parts = reference.segments
    if not any(part.text for part in parts):
        parts = (ReferenceSegment(0.0, 0.0, UNTAGGED, reference.text),)
    tagged = []
    for part in parts:
        pieces = enumerate(_TAG.split(part.text))  # every second one is in a tag
        found = [(unit, n % 2 == 1) for n, piece in pieces for unit in units(piece, language=part.lang, **rules)]
        times = _unit_times(part, len(found), rules)
        tagged += [(unit, part.lang, *span, tag) for (unit, tag), span in zip(found, times, strict=True)]
    return tagged


def _unit_times(part: ReferenceSegment, n: int, rules: TextRules) -> Iterator[tuple[float, float]]:
    """The times of the ``n`` units of a segment: equal shares of its word, or of the segment if words have no times."""
    words = zip(part.text.split(), part.word_times, strict=False)
    spans = [(start, end, len(units(word, language=part.lang, **rules))) for word, (start, end) in words]
    if sum(count for *_, count in spans) != n:  # also where a normalizer joins words
        spans = [(part.start, part.end, n)]
    for start, end, count in spans:
        yield from ((start + i * (end - start) / count, start + (i + 1) * (end - start) / count) for i in range(count))

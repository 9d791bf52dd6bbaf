"""Code-switching measures: equal to PIER's reference implementation and pyannote.metrics; cases worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperlab.data.annotations import import_annotations
from whisperlab.evaluation.scoring import Score, TextCounts, align, score, score_trace, units
from whisperlab.evaluation.scoring.code_switching import (
    CodeSwitching,
    Mixing,
    WordsAtSwitches,
    WrongWords,
    code_switching,
    embedded,
    mixing,
    words_at_switches,
    wrong_words,
)
from whisperlab.evaluation.scoring.language import Label, diarization, label_time
from whisperlab.evaluation.scoring.summary import TEXT_RATES
from whisperlab.evaluation.scoring.text import numbered
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace
from whisperlab.evaluation.transcripts import Transcript, to_text
from whisperlab.streaming.results import SessionSegment


def spoken(*parts: tuple[str, str]) -> Reference:
    """Segments of two seconds each, one after another."""
    segments = tuple(ReferenceSegment(2.0 * n, 2.0 * n + 2, lang, text) for n, (lang, text) in enumerate(parts))
    return Reference(" ".join(text for _, text in parts), segments)


def heard(*parts: tuple[str, str]) -> list[SessionSegment]:
    return [SessionSegment(text, lang, 2.0 * n, 2.0 * n + 2, True, 1.0) for n, (lang, text) in enumerate(parts)]


def found(reference: Reference, *parts: tuple[str, str], **more: Any) -> CodeSwitching:
    return code_switching(reference, align(reference, [(text, lang) for lang, text in parts]), heard(*parts), **more)


# --- PIER

# Text with tags, hypothesis; then the substitutions, deletions, insertions and number of the tagged words as
# github.com/enesyugan/PIER-CodeSwitching-Evaluation (bb434f1, rapidfuzz 3.9.7) counts them. The first three are its
# examples, the Chinese one with spaces between characters: it tags words after that step and aligns them before it.
PIER = [
    ("Ja, das mit den <tag Bots> glaube ich nicht.", "Ja, das mit den Pots glaub ich nicht.", 1, 0, 0, 1),
    ("Hast du das <tag File> <tag gedownloadet>?", "Hast du das File geload et", 1, 0, 1, 2),
    (
        "我 是 从 <tag camp> 那 边 拿 来 的 自 从 <tag mark> 那 时 拿 来 了 之 后",
        "是 從 cam 那 邊 拿 來 的 是 從 marc 拿 來 的 之 後",
        *(2, 0, 0, 2),
    ),
    ("b <tag d> f a <tag a>", "d e f f z", 2, 0, 0, 2),
    ("d a b a e <tag b> c", "b a e b b", 0, 0, 0, 1),
    ("a <tag e> c e", "e c e f z", 0, 0, 0, 1),
    ("e c c f c e <tag d>", "e c d d c c b d d", 0, 0, 0, 1),
    ("b <tag d> e c <tag f>", "b e b e z", 1, 1, 1, 2),
    ("<tag e> <tag e> <tag f> f <tag f> <tag a> <tag d> <tag f> <tag e>", "a b a c d f d e", 3, 2, 1, 8),
    ("<tag b> <tag a> f", "f z", 2, 0, 0, 2),
    ("a e <tag c> <tag f> a f c", "a e b c e a f", 1, 0, 1, 2),
    ("<tag d> <tag f> <tag c> <tag c> a", "d f c f f", 1, 0, 0, 4),
    ("d f <tag c> a", "d", 0, 1, 0, 1),
    ("f <tag b> e e <tag d> f <tag c> b <tag e>", "f b b e d f c b e z", 0, 0, 1, 4),
    ("b e a <tag b> b b", "b e b a", 0, 0, 0, 1),
    ("e e e <tag b> f c d", "e d a c b b c f d z", 0, 0, 0, 1),
    ("<tag d> b f a", "b b", 1, 0, 0, 1),
    ("<tag e> d <tag d> f <tag a>", "e a b a", 1, 0, 0, 3),
    ("d <tag b> <tag e> e <tag e>", "d e", 0, 2, 0, 3),
    ("<tag a> c <tag e> <tag d> <tag c> <tag e>", "c c d e c d", 2, 1, 1, 5),
    ("<tag e> d b d", "e d b d", 0, 0, 0, 1),
    ("c <tag a> <tag b> <tag a> a f", "c c b a a f c", 1, 0, 0, 3),
    ("a c <tag d> a", "a e", 0, 1, 0, 1),
    ("a e e <tag b>", "d f e f e b z", 0, 0, 1, 1),
    ("e e <tag a> <tag f> e f <tag f>", "e a e a a f e f z", 1, 0, 1, 3),
    ("b f b <tag b> f", "a f b f e d", 1, 0, 1, 1),
    ("<tag a> f b f d <tag c> <tag f> e", "a f b f a c e", 0, 1, 0, 3),
]


@pytest.mark.parametrize("text, said, substitutions, deletions, insertions, n", PIER)
def test_pier_of_tagged_words_equals_its_reference_implementation(
    text: str, said: str, substitutions: int, deletions: int, insertions: int, n: int
) -> None:
    for reference in (Reference(text, ()), spoken(("de", text))):
        counts = found(reference, ("de", said)).tagged
        assert (counts.substitutions, counts.deletions, counts.insertions) == (substitutions, deletions, insertions)
        assert counts.reference_words == n


def test_tags_are_no_words() -> None:
    assert units("das <tag File> von <tag New York>") == ["das", "file", "von", "new", "york"]
    rates = score(spoken(("de", "das <tag File>")), heard(("de", "das File")), (), duration=2).rates()
    assert (rates["mixed_error_rate"], rates["tagged_error_rate"], rates["reference_words"]) == (0.0, 0.0, 2)


def test_embedded_words_are_those_outside_the_most_frequent_language() -> None:
    reference = spoken(("en", "one two three"), ("es", "cuatro cinco"), ("en", "six"))
    said = [("en", "one x three"), ("es", "cuatro"), ("en", "six")]
    assert found(reference, *said).embedded == TextCounts(hits=1, deletions=1)
    rates = score(reference, heard(*said), (), duration=6).rates()
    assert rates["embedded_error_rate"] == 1 / 2
    assert score(spoken(("en", "one")), heard(("en", "two")), (), duration=2).rates()["embedded_error_rate"] is None


def test_of_two_equally_frequent_languages_the_first_is_the_matrix_language() -> None:
    assert embedded(align(spoken(("es", "uno"), ("en", "two")), "")) == {1}
    assert embedded(align(spoken(("und", "x y"), ("es", "uno"), ("en", "two")), "")) == {3}


def test_a_word_in_another_script_than_its_segment_is_embedded_unless_the_language_is_unknown() -> None:
    # With spaces, PIER's reference implementation tags the same words in text with the language cmn.
    assert embedded(align(spoken(("zh", "我是从 camp 那边拿来的")), "")) == {3}
    assert embedded(align(spoken(("ru", "нажмите один 1 OK")), "")) == {3}
    assert embedded(align(spoken(("ja", "コーヒーを人々")), "")) == set()
    assert embedded(align(spoken(("und", "我是从 camp"), ("en", "one two")), "")) == set()
    assert mixing(spoken(("haw", "ʻokina aloha"))).spans == 0  # the first letter is of no script


words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


@settings(deadline=None)
@given(words, words, st.sets(st.integers(0, 7)))
def test_pier_of_some_words_and_of_the_rest_are_all_errors(left: list[str], right: list[str], wanted: set[int]) -> None:
    steps = align(Reference(" ".join(left), ()), " ".join(right))
    numbers = [number for number, _ in numbered(steps)]
    assert numbers == sorted(numbers)
    assert {*numbers} == {*range(len(left))}  # no step is left out
    marked = " ".join(f"<tag {word}>" if n in wanted else word for n, word in enumerate(left))
    counts = found(Reference(marked, ()), ("und", " ".join(right))).tagged
    errors = sum(step.kind != "hit" for number, step in numbered(steps) if number in wanted)
    assert (counts.errors, counts.reference_words) == (errors, len(wanted & {*range(len(left))}))


# --- how mixed


def test_the_code_mixing_index_is_the_share_of_words_outside_the_most_frequent_language() -> None:
    mixed, single = spoken(("en", "one two three"), ("es", "cuatro")), spoken(("en", "one two"))
    assert mixing(mixed).code_mixing_index == 1 / 4
    assert mixing(single).code_mixing_index == 0
    assert (mixing(mixed) + mixing(single)).code_mixing_index == 1 / 8  # the mean over recordings
    assert mixing(spoken(("zh", "我想book一个room"))).code_mixing_index == pytest.approx(2 / 6)
    assert mixing(spoken(("en", "one"), ("und", "two"), ("es", "tres"))).code_mixing_index == 1 / 2
    assert math.isnan(mixing(Reference("hello", ())).code_mixing_index)


def test_burstiness_compares_the_spread_of_the_spans_with_their_mean() -> None:
    even = mixing(spoken(("en", "a b"), ("es", "c d"), ("en", "e f")))
    assert even.burstiness == -1
    # Spans of 1 and 3 words: mean 2, standard deviation the root of 2.
    root = math.sqrt(2)
    assert mixing(spoken(("en", "a"), ("es", "b c d"))).burstiness == pytest.approx((root - 2) / (root + 2))
    # The example of github.com/agoel00/cs_metrics, without its words in no language.
    tagged = mixing(spoken(("en", "a a"), ("hi", "b b b b"), ("en", "a a a"), ("hi", "b b")))
    assert tagged.burstiness == pytest.approx(-0.4835086004775133)
    assert 100 * tagged.code_mixing_index == pytest.approx(45.45454545454546)
    # A segment in the same language continues the span; a recording without a switch has none.
    assert mixing(spoken(("en", "a"), ("en", "b"), ("es", "c d"))).burstiness == -1
    assert mixing(spoken(("en", "a b c"))) == Mixing(recordings=1)
    assert math.isnan(Mixing().burstiness)
    pooled = even + mixing(spoken(("en", "a b c d e f"), ("es", "g h i j k l")))  # 2, 2, 2, 6, 6
    spans = [2, 2, 2, 6, 6]
    mean, deviation = np.mean(spans), np.std(spans, ddof=1)
    assert pooled.burstiness == pytest.approx((deviation - mean) / (deviation + mean))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["en", "es", "zh"]), st.sampled_from(["a b", "我", "c", ""])), max_size=8))
def test_the_indices_of_any_reference_stay_in_their_ranges(parts: list[tuple[str, str]]) -> None:
    one = mixing(spoken(*parts))
    if one.recordings:
        assert 0 <= one.code_mixing_index < 1
    if one.spans:
        assert -1 <= one.burstiness < 1
        assert one.within + one.between + one.unpunctuated == one.spans - 1


def test_a_switch_is_between_sentences_behind_a_full_stop_and_within_one_without() -> None:
    one = mixing(spoken(("en", "Press one."), ("es", "Marque el"), ("en", "password"), ("es", "¿Sí?")))
    assert (one.within, one.between, one.unpunctuated) == (2, 1, 0)
    # Without a mark at the end nothing is known of a switch without one.
    one = mixing(spoken(("zh", "好的。”"), ("en", "press one"), ("zh", "我想book")))
    assert (one.within, one.between, one.unpunctuated) == (1, 1, 1)
    one = mixing(spoken(("zh", "我想book一个。")))
    assert (one.within, one.between, one.unpunctuated) == (2, 0, 0)


# --- language diarisation error

REFERENCE = Reference("", (ReferenceSegment(1, 4, "en", ""), ReferenceSegment(4, 6, "es", "")))
LABELS = [Label(0, 2, "en"), Label(2.5, 4.5, "en"), Label(4.5, 5, "es")]


def test_the_diarisation_error_is_split_into_false_alarm_miss_and_confusion() -> None:
    exact = diarization(REFERENCE, LABELS, 0)
    assert (exact.speech_s, exact.false_alarm_s, exact.miss_s, exact.confusion_s) == (5, 1, 1.5, 0.5)
    collared = diarization(REFERENCE, LABELS)  # not counted: 0.75 to 1.25, 3.75 to 4.25 and 5.75 to 6.25 s
    assert (collared.speech_s, collared.false_alarm_s, collared.miss_s, collared.confusion_s) == (4, 0.75, 1.25, 0.25)
    parts = [("en", "a b"), ("es", "c")]
    rates = score(spoken(*parts), heard(parts[0]), (), duration=4).rates()
    assert rates["language_diarization_error_rate"] == rates["language_miss_rate"] == 1.5 / 3
    assert (rates["language_false_alarm_rate"], rates["language_confusion_rate"]) == (0, 0)


tenths = st.integers(0, 60).map(lambda n: n / 10)
spans = st.lists(
    st.tuples(tenths, st.sampled_from([0.1, 0.5, 1.3, 2.0]), st.sampled_from(["en", "es", "fr"])), max_size=5
)


def separate(parts: list[tuple[float, float, str]]) -> tuple[ReferenceSegment, ...]:
    """The parts, each cut off where the next one begins."""
    ends = [*(start for start, *_ in sorted(parts)[1:]), math.inf]
    cut = [(a, min(a + n, end), lang) for (a, n, lang), end in zip(sorted(parts), ends, strict=False) if end > a]
    return tuple(ReferenceSegment(*part, "") for part in cut)


@settings(deadline=None)
@given(spans, spans)
def test_without_collar_misses_and_confusions_are_the_speech_under_a_wrong_label(truth: Any, given_: Any) -> None:
    reference = Reference("", separate(truth))
    labels = [Label(s.start, s.end, s.lang) for s in separate(given_)]
    times = diarization(reference, labels, 0)
    assert times.speech_s == pytest.approx(label_time(reference, labels).speech_s)
    assert times.miss_s + times.confusion_s == pytest.approx(label_time(reference, labels).wrong_s)
    own = diarization(reference, [Label(s.start, s.end, s.lang) for s in reference.segments])
    assert own.error_s == 0


@settings(deadline=None, max_examples=60)
@given(spans, spans, st.sampled_from([0.0, 0.25]))
def test_the_three_parts_equal_those_of_pyannote(truth: Any, given_: Any, collar_s: float) -> None:
    identification = pytest.importorskip("pyannote.metrics.identification", reason="it is in the dependency group test")
    core = pytest.importorskip("pyannote.core")
    reference = Reference("", separate(truth))
    labels = [Label(a, a + n, lang) for a, n, lang in given_]  # these may overlap
    annotations = core.Annotation(), core.Annotation()
    for n, one in enumerate(reference.segments):
        annotations[0][core.Segment(one.start, one.end), n] = one.lang
    for n, label in enumerate(labels):
        annotations[1][core.Segment(label.start, label.end), n] = label.language
    everything = core.Timeline([core.Segment(0, 10)])
    measure = identification.IdentificationErrorRate(collar=2 * collar_s)
    theirs = measure.compute_components(annotations[0], annotations[1].support(), uem=everything)
    ours = diarization(reference, labels, collar_s)
    named = ("total", "false alarm", "missed detection", "confusion")
    times = ours.speech_s, ours.false_alarm_s, ours.miss_s, ours.confusion_s
    assert times == pytest.approx(tuple(theirs[name] for name in named), abs=1e-6)


def test_rttm_written_and_read_again_has_no_diarisation_error(tmp_path: Path) -> None:
    said = heard(("en", "a b"), ("es", "c d"), ("en", "e"))
    soundfile.write(tmp_path / "call.wav", np.zeros(16000 * 7), 16000)
    (tmp_path / "call.rttm").write_text(to_text([Transcript("call", said, 7.0)], "rttm"))
    _, (recording,), _ = import_annotations(tmp_path / "call.rttm", tmp_path / "manifest.jsonl")
    times = diarization(
        Reference("", recording.segments), [Label(s.start_time, s.end_time, s.language) for s in said], 0
    )
    assert (times.speech_s, times.error_s) == (6, 0)


# --- words in a wrong language


def test_a_right_word_under_another_label_is_in_a_wrong_language() -> None:
    reference = spoken(("en", "one two"), ("es", "tres cuatro"))
    counts = found(reference, ("en", "one two tres"), ("es", "x cinco seis")).wrong
    assert counts == WrongWords(labelled=4, wrong_label=1)  # tres; the inserted word stands beside no reference word
    assert found(Reference("one two", ()), ("en", "one two")).wrong == WrongWords()  # in an unknown language
    rates = score(reference, heard(("en", "one two tres"), ("es", "cuatro")), (), duration=4).rates()
    assert rates["wrong_language_word_rate"] == 1 / 4
    assert rates["wrong_script_word_rate"] is None  # all speech is in the Latin script


def test_a_word_in_a_wrong_script_counts_unless_the_reference_has_it_too() -> None:
    reference = spoken(("zh", "我想book一个"), ("en", "room please"))
    counts = wrong_words(align(reference, "我想cook一个 room 请"))
    assert (counts.wrong_script, counts.hypothesis_words) == (1, 7)
    assert counts.translated == 0


def test_three_words_in_a_row_in_a_wrong_script_are_a_translation() -> None:
    reference = spoken(("ru", "пожалуйста введите номер"), ("en", "thank you"), ("ru", "до свидания"))
    two = wrong_words(align(reference, "please enter номер thank you до свидания"))
    assert (two.wrong_script, two.translated, two.reference_words) == (2, 0, 7)
    three = wrong_words(align(reference, "please enter number thank you good свидания"))
    assert (three.wrong_script, three.translated) == (4, 3)
    lost = wrong_words(align(spoken(("ru", "пожалуйста введите номер счета")), "please enter number"))
    assert (lost.wrong_script, lost.translated) == (3, 4)  # a word lost among them counts too
    apart = wrong_words(align(spoken(("ru", "введите номер"), ("zh", "我想")), "enter number i want"))
    assert (apart.wrong_script, apart.translated) == (4, 0)  # two in each language
    rates = score(
        reference, heard(("en", "please enter the number thank you"), ("ru", "до свидания")), (), duration=6
    ).rates()
    assert rates["translated_word_rate"] == 3 / 7
    right = score(reference, heard(("ru", "пожалуйста введите номер thank you до свидания")), (), duration=6).rates()
    assert (right["wrong_script_word_rate"], right["translated_word_rate"]) == (0, 0)


# --- words at switches

ONE_SWITCH = spoken(("en", "a b c d e f g"), ("es", "h i j k l m n"))


def at_switches(said: str, **more: Any) -> WordsAtSwitches:
    return words_at_switches(ONE_SWITCH, align(ONE_SWITCH, said), **more)


def test_words_lost_within_five_words_of_a_switch_are_counted() -> None:
    assert at_switches("a b d e f g h i j k m n") == WordsAtSwitches(switches=1, lost=2)
    assert at_switches("a c d e f g h i j k l n").lost == 0  # farther away
    rates = score(ONE_SWITCH, heard(("en", "a b c d e f i j k l m n")), (), duration=4).rates()
    assert rates["lost_words_per_switch"] == 2
    assert rates["wrong_first_words_per_switch"] is None  # not known without what was shown


def test_an_inserted_word_that_repeats_one_nearby_is_doubled() -> None:
    assert at_switches("a b c d e f g f g h i j k l m n").doubled == 2
    assert at_switches("a b c d e f g x h i j k l m n").doubled == 0
    assert at_switches("a a b c d e f g h i j k l m n").doubled == 0  # far from the switch
    assert at_switches("a b c d e f g n h i j k l m n").doubled == 0  # the word stands seven words later
    assert at_switches("a b c d e f g h i j k l m n").doubled == 0


def test_words_first_shown_in_the_old_language_are_counted_until_the_text_changes_to_the_new_one() -> None:
    shown = [
        (2.0, "a b c d", "e f", "en"),
        (3.0, "e f", "g ash eye", "en"),  # h and i, as English
        (3.5, "g", "h i j", "es"),  # "ash eye" did not become final
        (4.0, "h i j k l m n", "", "es"),
    ]
    segments = [("en", "a b c d e f g"), ("es", "h i j k l m n")]
    counts = found(ONE_SWITCH, *segments, shown=shown).at_switches
    assert counts == WordsAtSwitches(switches=1, shown_switches=1, wrong_first=2)
    unlabelled = [(at, final, text, None) for at, final, text, _ in shown]
    assert found(ONE_SWITCH, *segments, shown=unlabelled).at_switches == WordsAtSwitches(switches=1)
    late = [(at + 20, *rest) for at, *rest in shown]  # too late to belong to this switch
    assert found(ONE_SWITCH, *segments, shown=late).at_switches.wrong_first == 0
    false = [(at, final, text, {"en": "es", "es": "en"}[lang]) for at, final, text, lang in shown]
    assert found(ONE_SWITCH, *segments, shown=false).at_switches.wrong_first == 0
    # Final words behind the switch under another label: h and i, but not those more than five words behind it.
    missed = found(ONE_SWITCH, ("en", "a b c d e f g h i"), ("es", "j k l"), ("en", "m n"), shown=shown[:1])
    assert missed.at_switches.wrong_first == 2
    early = found(ONE_SWITCH, ("en", "a b c d e"), ("es", "f g h i j k l m n"), shown=shown[:1])
    assert early.at_switches.wrong_first == 0  # words before the switch


def test_what_was_shown_comes_from_the_trace() -> None:
    header = {"kind": "header", "recording": "r", "pace": "fast", "audio": {"duration": 4.0}, "reference": None}
    texts = [(3.0, "a b c d e f", "g ash", "en"), (3.5, "g", "h", "es")]
    names = ("at", "committed", "tentative", "language")
    events = [{"kind": "text", "elapsed": 0.0, **dict(zip(names, values, strict=True))} for values in texts]
    end = {"kind": "end", "at": 4.0, "elapsed": 4.0, "statistics": {}, "compute_s": 1.0, "peak_rss_bytes": 1}
    rates = score_trace(Trace(header, (*events, end)), ONE_SWITCH).rates()
    assert rates["wrong_first_words_per_switch"] == 1


# --- one score


def test_every_count_is_added_and_survives_json() -> None:
    reference = spoken(("ru", "да <tag OK> нет"), ("en", "one two."))
    parts = [("ru", "да нет нет"), ("en", "one uno")]
    one = score(reference, heard(*parts), (), duration=4, shown=[(1.0, "", "да", "ru")])
    assert Score.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    both = one + one
    once, twice = (json.loads(json.dumps(of.to_dict()["code_switching"])) for of in (one, both))
    for part, counts in once.items():
        assert twice[part] == {name: pytest.approx(2 * value) for name, value in counts.items()}
    for name in [name for name in TEXT_RATES if "rate" in name or "per_switch" in name]:
        assert both.rates()[name] == one.rates()[name]


def test_a_score_stored_before_these_measures_has_none_of_them() -> None:
    stored = score(ONE_SWITCH, heard(("en", "a")), (), duration=4).to_dict()
    del stored["code_switching"]
    rates, others = Score.from_dict(stored).rates(), ("mixed", "language_error", "switch", "false_commit")
    own = [name for name in TEXT_RATES if name.endswith(("_rate", "words_per_switch")) and not name.startswith(others)]
    assert {rates[name] for name in (*own, "code_mixing_index", "span_burstiness")} == {None}


def test_korean_is_counted_in_words_or_in_syllables() -> None:
    assert units("한국어 좋아요 ok") == ["한국어", "좋아요", "ok"]
    assert units("한국어 좋아요 ok 我", normalizer="plain+hangul") == [*"한국어좋아요", "ok", "我"]
    reference, said = spoken(("ko", "한국어 좋아요")), heard(("ko", "한국말 좋아요"))
    assert score(reference, said, (), duration=2).rates()["mixed_error_rate"] == 1 / 2
    by_syllable = score(reference, said, (), duration=2, normalizer="plain+hangul").rates()
    assert (by_syllable["mixed_error_rate"], by_syllable["normalizer"]) == (1 / 6, "plain+hangul")

"""Scores: every definition by a case worked out by hand, and the laws that hold for all of them."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperlab.evaluation.scoring import (
    Boundary,
    Score,
    TextCounts,
    align,
    bootstrap_intervals,
    match_switches,
    normalizer_name,
    pooled,
    score,
    score_trace,
    true_switches,
    units,
)
from whisperlab.evaluation.scoring.language import Label, block_misses, frame_labels, label_time, segment_labels
from whisperlab.evaluation.scoring.latency import percentile, word_latencies
from whisperlab.evaluation.scoring.streaming import stream_counts
from whisperlab.evaluation.scoring.text import switch_text, until
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace
from whisperlab.streaming.results import LanguageFrame, SessionSegment, Switch
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import samples


def spoken(*segments: tuple[float, float, str, str]) -> Reference:
    return Reference(" ".join(text for *_, text in segments), tuple(ReferenceSegment(*s) for s in segments))


def heard(start: float, end: float, language: str, text: str = "", is_final: bool = True) -> SessionSegment:
    return SessionSegment(text, language, start, end, is_final, 1.0)


# English 0-4 s, a gap of 0.5 s, Spanish 4.5-8 s, no gap, English 8-10 s.
SCENE = spoken((0, 4, "en", "press one now"), (4.5, 8, "es", "marque el número dos"), (8, 10, "en", "thank you"))
ANSWER = (
    heard(0, 4.4, "en", "press one now"),
    heard(4.4, 9, "es", "Marque numero dos, dos."),  # "el" deleted, "dos" inserted; a second too long
    heard(9, 10, "en", "thanks you"),  # "thank" substituted
)
SWITCHES = (Switch(4.4, "en", "es", 6.0), Switch(9.0, "es", "en", 9.9))


def scored(**changes: Any) -> Score:
    whole: dict[str, Any] = {
        "reference": SCENE,
        "segments": ANSWER,
        "switches": SWITCHES,
        "duration": 10.0,
        "compute_s": 2.5,
        **changes,
    }
    return score(**whole)


# --- units of text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("我想book一个room", ["我", "想", "book", "一", "个", "room"]),
        ("コーヒー、人々", ["コ", "ー", "ヒ", "ー", "人", "々"]),
        ("कृपया प्रतीक्षा करें।", ["कृपया", "प्रतीक्षा", "करें"]),  # BasicTextNormalizer breaks these at the vowel signs
        ("สวัสดี ok", ["ส", "วั", "ส", "ดี", "ok"]),  # a tone mark stays with its consonant
        ("ລາວ ខ្មែរ", ["ລ", "າ", "ວ", "ខ្", "មែ", "រ"]),
        ("မြန်", ["မြ", "န်"]),
        ("한국어 좋아요", ["한국어", "좋아요"]),  # Korean has spaces
        ("Ёлка, йод", ["елка", "йод"]),  # й is a letter of its own
        ("¡El NIÑO cayó!", ["el", "nino", "cayo"]),
        ("don't e-mail l’été", ["dont", "e", "mail", "lete"]),
        ("می\u200cخواهم", ["میخواهم"]),  # a joiner parts no word
        ("ＡＢＣ１２ ﬁn STRASSE", ["abc12", "fin", "strasse"]),
        ("... — ¿?", []),
        ("hello ´ world ¨ \u0301 ˆ", ["hello", "world"]),  # an accent alone is no word
        ("d´été a¸b", ["d", "ete", "a", "b"]),
        ("ـ ﹰ सा ि", ["सा"]),  # nor a tatweel or a vowel sign
        ("yes ❤️ 1️⃣ 葛\U000e0100 \u3164", ["yes", "1", "葛"]),  # variation selectors, keycaps, fillers
        ("ʻokina שָׁלוֹם السَّلامُ", ["ʻokina", "שָׁלוֹם", "السَّلامُ"]),
    ],
)
def test_text_is_scored_in_words_and_unspaced_characters(text: str, expected: list[str]) -> None:
    assert units(text) == expected


def test_accents_count_when_folding_is_off() -> None:
    assert units("número Ёлка", fold_diacritics=False) == ["número", "ёлка"]


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_composed_and_decomposed_text_have_the_same_units(text: str) -> None:
    assert units(unicodedata.normalize("NFD", text)) == units(unicodedata.normalize("NFC", text))


@settings(deadline=None)
@given(st.text(), st.booleans())
def test_units_hold_no_space_and_are_their_own_units(text: str, fold: bool) -> None:
    once = units(text, fold_diacritics=fold)
    assert units(" ".join(once), fold_diacritics=fold) == once


@pytest.mark.parametrize(
    "normalizer, language, one, other",
    [
        ("whisper", "en", "Press one for twenty-five dollars", "press 1 for $25"),
        ("whisper", "en", "1,000 people", "1000 people"),
        ("whisper", "en", "I’m sorry, it won't", "I am sorry it will not"),
        ("whisper", "en", "colour organise", "color organize"),
        ("plain+chinese", "zh", "歡迎使用語音識別系統", "欢迎使用语音识别系统"),
        ("whisper+chinese", "ja", "電話", "电话"),
        ("plain+arabic", "ar", "السَّلامُ عَلَيْكُم", "السلام عليكم"),
        ("plain+arabic", "ar", "أحمد آمن إلى ٱلله", "احمد امن الي الله"),
        ("plain+arabic", "ar", "سلـــام ١٢٣", "سلام 123"),
        ("plain+arabic", "fa", "کتاب علی ۱۲۳", "كتاب علي 123"),
    ],
)
def test_a_named_normalizer_makes_one_of_two_spellings(normalizer: str, language: str, one: str, other: str) -> None:
    assert units(one, normalizer=normalizer, language=language) == units(
        other, normalizer=normalizer, language=language
    )
    assert units(one) != units(other)


def test_whisper_normalises_each_segment_by_its_own_language() -> None:
    mixed = {
        "reference": spoken((0, 1, "en", "press one I'm"), (1, 2, "es", "um dos won't")),
        "segments": [heard(0, 1, "en", "press 1 I am"), heard(1, 2, "es", "um dos won't")],
    }
    plain, whisper = scored(**mixed).rates(), scored(**mixed, normalizer="whisper").rates()
    assert plain["error_rate_by_language"] == {"en": 1.0, "es": 0.0}  # 1 for one, am put in, I for Im
    assert (plain["normalizer"], plain["reference_words"]) == ("plain", 6)
    assert whisper["error_rate_by_language"] == {"en": 0.0, "es": 0.0}  # Spanish keeps "um"
    assert whisper["normalizer"] == "whisper"
    assert units("um dos", normalizer="whisper", language="es") == ["um", "dos"]
    assert units("um two", normalizer="whisper", language="en") == ["2"]


def test_scores_of_two_normalizers_do_not_add_up_and_each_is_named_in_its_counts() -> None:
    whisper = scored(normalizer="whisper+arabic")
    assert Score.from_dict(whisper.to_dict()) == whisper
    assert Score.from_dict({n: v for n, v in scored().to_dict().items() if n != "normalizer"}) == scored()
    with pytest.raises(ConfigurationError, match="cannot be added"):
        scored() + whisper
    for wrong in ("jiwer", "plain+latin", "", "chinese"):
        with pytest.raises(ConfigurationError, match="normalizer must be plain or whisper"):
            scored(normalizer=wrong)
    assert normalizer_name("plain", ["arabic", "chinese"]) == "plain+chinese+arabic"


# --- mixed error rate


def test_mixed_error_rate_is_edits_over_reference_units() -> None:
    rates = scored().rates()
    assert rates["mixed_error_rate"] == 3 / 9
    assert rates["error_rate_by_language"] == {"en": 1 / 5, "es": 2 / 4}
    counts = {name: rates[name] for name in ("hits", "substitutions", "deletions", "insertions")}
    assert counts == {"hits": 7, "substitutions": 1, "deletions": 1, "insertions": 1}
    assert (rates["reference_words"], rates["hypothesis_words"]) == (9, 9)


def test_one_wrong_character_of_a_mixed_sentence_is_one_error_in_six() -> None:
    # Plain word error rate calls this 1.0.
    mixed = score(spoken((0, 2, "zh", "我想book一个room")), [heard(0, 2, "zh", "我想book两个room")], [], duration=2)
    assert mixed.rates()["mixed_error_rate"] == 1 / 6


def test_folding_is_an_option_stated_with_the_rates() -> None:
    bare = {"reference": spoken((0, 1, "es", "el número")), "segments": [heard(0, 1, "es", "el numero")]}
    folded, strict = scored(**bare).rates(), scored(**bare, fold_diacritics=False).rates()
    assert (folded["mixed_error_rate"], folded["fold_diacritics"]) == (0.0, True)
    assert (strict["mixed_error_rate"], strict["fold_diacritics"]) == (0.5, False)


def test_text_counts_in_order_of_time_and_only_when_final() -> None:
    shuffled = (ANSWER[2], heard(0, 10, "en", "not yet final", is_final=False), ANSWER[0], ANSWER[1])
    assert scored(segments=shuffled) == scored()


def test_words_in_the_wrong_segment_are_no_error() -> None:
    moved = (heard(0, 4.4, "en", "press one now marque el"), heard(4.4, 10, "es", "numero dos thank you"))
    assert scored(segments=moved).rates()["mixed_error_rate"] == 0


def test_an_alignment_contains_every_unit_and_its_language() -> None:
    steps = align(spoken((0, 1, "en", "a b"), (1, 2, "es", "c d")), "a x c e d")
    told = [(step.kind, step.reference, step.hypothesis, step.language) for step in steps]
    assert told == [
        ("hit", "a", "a", "en"),
        ("substitution", "b", "x", "en"),
        ("hit", "c", "c", "es"),
        ("insertion", None, "e", "es"),
        ("hit", "d", "d", "es"),
    ]


def test_an_insertion_before_everything_belongs_to_the_first_language() -> None:
    assert [step.language for step in align(spoken((0, 1, "es", "hola")), "oh hola")] == ["es", "es"]


def test_empty_texts_have_no_rates() -> None:
    empty = score(Reference("", ()), [], [], duration=5.0).rates()
    assert empty["mixed_error_rate"] is None
    assert empty["language_error_rate"] is None
    assert empty["real_time_factor"] is None
    assert empty["switch_f1_at_1"] is None
    assert empty["decision_delay_p50"] is None
    assert empty["false_switches_per_hour"] == 0


def test_text_made_up_in_silence_is_counted() -> None:
    made_up = score(Reference("", ()), [heard(0, 1, "en", "thanks for watching")], [], duration=5.0)
    assert made_up.rates()["insertions"] == 3
    assert made_up.text == {"und": TextCounts(insertions=3)}


def test_errors_next_to_a_switch_are_counted_apart_and_their_lost_speech_timed() -> None:
    """Within two words of the two switches lie: one now | marque el ... dos | thank, you; "numero" too."""
    near = scored().switch_text
    assert near.counts == TextCounts(hits=6, substitutions=1, deletions=1, insertions=1)
    assert near.deleted_s == pytest.approx(3.5 / 4)  # "el", one of four words in 3.5 s
    rates = scored().rates()
    assert rates["switch_error_rate"] == pytest.approx(3 / 8)
    assert rates["deleted_s_per_switch"] == pytest.approx(3.5 / 4 / 2)


def test_far_from_switches_nothing_is_counted_and_without_switches_there_is_no_rate() -> None:
    far = spoken((0, 9, "en", "a b c d e f g"), (9, 20, "es", "h i j k l m n"))
    steps = align(far, "x b c d e f g h i j k l m")
    assert switch_text(steps).counts == TextCounts(hits=4)
    assert switch_text(steps, reach=7).counts == TextCounts(hits=12, substitutions=1, deletions=1)
    alone = spoken((0, 2, "en", "a b"))
    assert score(alone, (), (), duration=2).rates()["switch_error_rate"] is None


def test_a_reference_without_segment_texts_is_compared_by_its_text() -> None:
    bare = score(Reference("hello there", ()), [heard(0, 1, "en", "hello where")], [], duration=1.0)
    assert bare.rates()["error_rate_by_language"] == {"und": 0.5}


def test_saying_nothing_is_all_deletions() -> None:
    silent = scored(segments=(), switches=()).rates()
    assert silent["mixed_error_rate"] == 1.0
    assert silent["language_error_rate"] == 1.0


# --- language labels


def test_language_error_rate_is_mislabelled_reference_speech() -> None:
    # 4 + 3.5 + 2 s of speech, of which English 8-9 s was called Spanish; the gap 4-4.5 s is no speech.
    assert scored().rates()["language_error_rate"] == pytest.approx(1.0 / 9.5)
    assert scored().labels == {"en": pytest.approx({"en": 5.0, "es": 1.0}), "es": {"es": pytest.approx(3.5)}}


def test_speech_without_label_is_wrong() -> None:
    time = label_time(spoken((1, 3, "en", "")), [Label(0, 1.5, "en"), Label(2, 9, "en")])
    assert time == {"en": pytest.approx({"en": 1.5, "": 0.5})}
    assert (time.speech_s, time.wrong_s) == (2.0, 0.5)


def test_where_labels_overlap_the_later_begun_counts() -> None:
    time = label_time(spoken((0, 4, "en", "")), [Label(1, 2, "es"), Label(0, 3, "en")])
    assert time == {"en": pytest.approx({"en": 2.0, "es": 1.0, "": 1.0})}


def test_tentative_segments_give_no_label() -> None:
    assert segment_labels([heard(0, 1, "en", is_final=False)]) == []


def frame(end: float, label: str, window: float = 2.0) -> LanguageFrame:
    return LanguageFrame(samples(end), samples(min(window, end)), samples(min(window, end)), {label: 1.0}, label, False)


def test_a_frame_labels_the_time_since_the_frame_before_at_most_its_window() -> None:
    labels = frame_labels([frame(0.1, "en"), frame(0.4, "en"), frame(5, "es")])
    assert labels == [Label(0, 0.1, "en"), Label(0.1, 0.4, "en"), Label(3, 5, "es")]


def test_the_language_error_of_the_frames_is_a_rate_of_its_own() -> None:
    frames = [frame(t / 10, "en" if t <= 60 else "es") for t in range(1, 101)]
    # Spanish 4.5-6 s was still called English, English 8-10 s was called Spanish.
    rates = scored(frames=frames).rates()
    assert rates["language_error_rate_frames"] == pytest.approx(3.5 / 9.5)
    assert scored().rates()["language_error_rate_frames"] is None
    assert (scored() + scored(frames=frames)).rates()["language_error_rate_frames"] == pytest.approx(3.5 / 9.5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.sampled_from(["en", "es"])), max_size=8))
def test_all_reference_speech_is_accounted_for(labels: list[tuple[int, int, str]]) -> None:
    time = label_time(SCENE, [Label(start, start + length, lang) for start, length, lang in labels])
    assert time.speech_s == pytest.approx(9.5)


# --- switches


def test_a_true_switch_lies_in_the_gap_and_its_time_is_the_new_start() -> None:
    assert true_switches(SCENE) == [Boundary(4, 4.5, "es"), Boundary(8, 8, "en")]


def test_where_languages_overlap_the_switch_is_where_the_new_one_begins() -> None:
    assert true_switches(spoken((0, 5, "en", ""), (4, 8, "es", ""))) == [Boundary(4, 4, "es")]


def test_segments_of_one_language_make_no_switch() -> None:
    assert true_switches(spoken((0, 1, "en", ""), (2, 3, "en", ""))) == []


def test_switch_f1_counts_boundaries_within_each_tolerance() -> None:
    # The first is inside the gap, the second a whole second late.
    rates = scored().rates()
    assert [rates[f"switch_f1_at_{t}"] for t in ("0.5", "1", "2")] == [0.5, 1.0, 1.0]
    assert (rates["switch_precision_at_0.5"], rates["switch_recall_at_0.5"]) == (0.5, 0.5)


def test_a_switch_into_another_language_does_not_match() -> None:
    rates = scored(switches=[Switch(4.4, "en", "fr", 6.0)]).rates()
    assert rates["switch_f1_at_2"] == 0
    assert rates["switches_missed"] == 2


def test_precision_and_recall_part_when_a_switch_is_made_up() -> None:
    rates = scored(switches=[SWITCHES[0], Switch(1.0, "en", "es", 2.0)]).rates()
    assert (rates["switch_precision_at_1"], rates["switch_recall_at_1"]) == (0.5, 0.5)
    twice = scored(switches=[SWITCHES[0], Switch(4.6, "en", "es", 7.0), SWITCHES[1]]).rates()
    assert (twice["switch_precision_at_1"], twice["switch_recall_at_1"]) == (2 / 3, 1.0)
    assert twice["switch_f1_at_1"] == 4 / 5


def test_switches_may_come_in_any_order() -> None:
    back_and_forth = [Switch(t, "", lang, t) for t, lang in [(8.1, "en"), (4.2, "es")]]
    assert scored(switches=back_and_forth).rates()["switch_f1_at_0.5"] == 1.0
    three = spoken((0, 1, "en", ""), (1, 5, "es", ""), (5, 6, "en", ""), (6, 9, "es", ""))
    pairs = match_switches(true_switches(three), [switch_at(6), switch_at(1)], 0.5)
    assert [(b.end, s.time) for b, s in pairs] == [(1, 1), (6, 6)]


def switch_at(time: float, language: str = "es") -> Switch:
    return Switch(time, "en", language, time + 1)


def test_matching_gives_up_the_nearest_pair_for_one_pair_more() -> None:
    true = [Boundary(1.0, 1.0, "es"), Boundary(2.0, 2.0, "es")]
    found = [switch_at(1.9), switch_at(2.6)]
    pairs = match_switches(true, found, 1.0)
    assert [(b.end, s.time) for b, s in pairs] == [(1.0, 1.9), (2.0, 2.6)]


def test_among_equally_many_pairs_the_nearest_are_taken() -> None:
    pairs = match_switches([Boundary(5, 5, "es")], [switch_at(3.5), switch_at(5.1), switch_at(6)], 2.0)
    assert [s.time for _, s in pairs] == [5.1]


tenths = st.integers(0, 60).map(lambda tenth: tenth / 10)
languages = st.sampled_from(["en", "es", "fr"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(tenths, st.sampled_from([0.0, 0.2])), max_size=4, unique_by=lambda item: item[0]),
    st.lists(languages, min_size=4, max_size=4),
    st.lists(st.tuples(tenths, languages), max_size=4),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_no_other_matching_has_more_pairs_or_less_distance(
    ends: list[tuple[float, float]], to: list[str], found: list[tuple[float, str]], tolerance: float
) -> None:
    true, before = [], 0.0
    for (end, gap), language in zip(sorted(ends), to, strict=False):
        true.append(Boundary(max(before, end - gap), end, language))
        before = end
    switches = [switch_at(*item) for item in found]
    pairs = match_switches(true, switches, tolerance)
    assert len({id(s) for _, s in pairs}) == len({id(b) for b, _ in pairs}) == len(pairs)
    cost = sum(b.distance(s.time) for b, s in pairs)
    best_pairs, best_cost = brute_force(true, switches, tolerance)
    assert (len(pairs), cost) == (best_pairs, pytest.approx(best_cost, abs=1e-9))


def brute_force(true: list[Boundary], found: list[Switch], tolerance: float) -> tuple[int, float]:
    """Try every assignment of found switches (or none) to the true ones."""
    slots: list[Switch | None] = [*found, *[None] * len(true)]
    best = (0, 0.0)
    for chosen in permutations(slots, len(true)):
        distances = [
            b.distance(s.time)
            for b, s in zip(true, chosen, strict=True)
            if s and s.to_language == b.language and b.distance(s.time) <= tolerance
        ]
        best = max(best, (len(distances), -sum(distances)))
    return best[0], -best[1]


# --- delays and speed


def test_decision_delay_runs_from_the_new_language_to_the_decision() -> None:
    assert scored().delays == pytest.approx((1.5, 1.9))
    rates = scored().rates()
    assert rates["decision_delay_p50"] == pytest.approx(1.5)
    assert rates["decision_delay_p95"] == pytest.approx(1.9)


def test_a_missed_switch_is_decided_never() -> None:
    rates = scored(switches=SWITCHES[:1]).rates()
    assert rates["switches_missed"] == 1
    assert rates["decision_delay_p50"] == pytest.approx(1.5)
    assert rates["decision_delay_p95"] is None
    assert rates["decision_delay_found_p95"] == pytest.approx(1.5)


def test_a_percentile_is_a_value_that_occurred() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [percentile(hundred, q) for q in (50, 95, 99)] == [50, 95, 99]
    assert math.isnan(percentile([], 50))
    assert percentile([], 50, missed=1) == math.inf
    assert percentile([1.0], 50, missed=10**15) == math.inf  # without laying them out
    rng = np.random.default_rng(0)
    for _ in range(300):
        found, missed, q = rng.normal(size=rng.integers(1, 9)), int(rng.integers(9)), rng.uniform(0, 100)
        every = [*found, *[math.inf] * missed]
        assert percentile(found, q, missed=missed) == np.percentile(every, q, method="inverted_cdf")


def test_word_latency_counts_from_the_end_of_each_word_where_the_reference_has_word_times() -> None:
    times = ((0.0, 0.4), (0.4, 0.6), (0.6, 2.9))  # equal shares would end at 1, 2 and 3 s
    part = ReferenceSegment(0, 3, "en", "one, two-two three", word_times=times)
    assert word_latencies(Reference("", (part,)), [("one two two three", 3.0)]) == pytest.approx((2.6, 2.5, 2.4, 0.1))
    assert until(Reference("", (part,)), 2.0).segments == (
        ReferenceSegment(0, 2.0, "en", "one, two-two", word_times=times[:2]),
    )


def test_every_switch_of_a_recording_in_one_language_is_false() -> None:
    control = score(spoken((0, 30, "en", "hello")), [], [switch_at(3), switch_at(9, "en")], duration=36.0)
    assert control.rates()["false_switches_per_hour"] == pytest.approx(200)


def test_word_latency_runs_from_the_end_of_a_right_word_to_its_final_text() -> None:
    spoken_ = spoken((0, 3, "en", "one two three"), (3, 5, "es", "cuatro cinco"))
    committed = (("one", 2.5), (" to three", 3.5), ("", 4.0), (" cuatro cinco", 6.0))
    assert word_latencies(spoken_, committed) == pytest.approx((1.5, 0.5, 2.0, 1.0))  # "to" is wrong
    rates = score(spoken_, (), (), duration=5, committed=committed).rates()
    assert (rates["word_latency_p50"], rates["word_latency_p95"]) == pytest.approx((1.0, 2.0))
    assert scored().rates()["word_latency_p50"] is None


def test_real_time_factor_is_compute_over_audio() -> None:
    assert scored().rates()["real_time_factor"] == 0.25
    # A recording whose compute time is unknown adds no audio to it either.
    assert (scored() + scored(compute_s=None)).rates()["real_time_factor"] == 0.25


# --- adding, storing, intervals


def test_counts_add_before_they_divide() -> None:
    short = score(spoken((0, 1, "es", "sí")), [heard(0, 1, "es", "no")], [], duration=1.0)
    rates = (scored() + short).rates()
    assert rates["mixed_error_rate"] == 4 / 10  # not the mean of 3/9 and 1/1
    assert rates["error_rate_by_language"] == {"en": 1 / 5, "es": 3 / 5}
    assert rates["language_error_rate"] == pytest.approx(1.0 / 10.5)
    assert (rates["recordings"], rates["audio_s"]) == (2, 11.0)
    assert pooled([scored(), short]) == scored() + short


def test_every_count_of_a_score_is_added() -> None:
    one = scored(frames=[frame(1, "en")], committed=[("press", 2.0), ("marque", 6.0)])
    both = one + one
    assert (both.recordings, both.audio_s, both.compute.compute_s, both.compute.audio_s) == (2, 20.0, 5.0, 20.0)
    assert len(one.word_latencies) == 2
    assert (both.word_latencies, both.delays) == (one.word_latencies * 2, one.delays * 2)
    assert both.switch_text.counts.errors == 2 * one.switch_text.counts.errors > 0
    assert both.labels.speech_s == 2 * one.labels.speech_s
    assert both.frame_labels.speech_s == 2 * one.frame_labels.speech_s > 0
    assert (both.switches.true, both.switches.found) == (2 * one.switches.true, 2 * one.switches.found)
    assert both.text["es"].errors == 2 * one.text["es"].errors > 0


def test_the_order_of_adding_is_indifferent() -> None:
    a, b = scored(), scored(switches=SWITCHES[:1], segments=ANSWER[:1])
    assert (a + b).rates() == (b + a).rates()


def test_scores_of_different_normalisation_do_not_add() -> None:
    with pytest.raises(ConfigurationError, match="diacritics"):
        scored() + scored(fold_diacritics=False)


def test_no_scores_cannot_be_pooled() -> None:
    with pytest.raises(ConfigurationError, match="empty sequence of scores"):
        pooled([])


def test_a_score_survives_json() -> None:
    whole = scored(frames=[frame(1, "en")]) + scored(switches=())
    assert Score.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))) == whole
    json.dumps(whole.rates(), allow_nan=False)


@pytest.mark.parametrize("bad", [{}, {**scored().to_dict(), "text": {"en": {"hit": 1}}}])
def test_what_is_not_a_score_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="not the counts of a score"):
        Score.from_dict(bad)


def interval_of(scores: Sequence[Score], rate: str, rng: np.random.Generator, **more: Any) -> Any:
    return bootstrap_intervals(scores, [rate], rng, **more)[rate]


def error_rate_of(n_wrong: int) -> Score:
    words = list("abcdefghij")
    return score(
        spoken((0, 1, "en", " ".join(words))),
        [heard(0, 1, "en", " ".join(["x"] * n_wrong + words[n_wrong:]))],
        [],
        duration=1.0,
    )


@pytest.mark.parametrize(
    "name, bad", [("delays", ["1"]), ("audio_s", None), ("audio_s", math.inf), ("text", {"en": 1})]
)
def test_counts_that_are_no_numbers_are_refused(name: str, bad: Any) -> None:
    one = score(Reference("", ()), [], [], duration=1.0)
    with pytest.raises(ConfigurationError, match="not the counts of a score"):
        Score.from_dict({**one.to_dict(), name: bad})


@pytest.mark.parametrize("speakers", [7, ["Ann", 3], [["Ann"]]])
def test_speakers_that_are_no_names_are_refused(speakers: Any) -> None:
    with pytest.raises(ConfigurationError, match="not the counts of a score"):
        Score.from_dict({**score(Reference("", ()), [], [], duration=1.0).to_dict(), "speakers": speakers})


def test_recordings_of_one_speaker_are_resampled_together_if_there_are_three_independent_blocks() -> None:
    by = {"Ann": 10, "Bo": 0, "Cy": 0}
    scores = [replace(error_rate_of(wrong), speakers=(name,)) for name, wrong in by.items() for _ in range(20)]
    # Sixty recordings would give an interval around a third; three speakers do not.
    assert interval_of(scores, "mixed_error_rate", np.random.default_rng(0), n=200) == (0.0, 1.0)
    shared = [replace(one, speakers=(*one.speakers, "Di")) for one in scores]
    low, high = interval_of(shared, "mixed_error_rate", np.random.default_rng(0), n=200)
    assert 0.15 < low < high < 0.5
    assert pooled(scores).speakers == ("Ann", "Bo", "Cy")
    assert Score.from_dict(json.loads(json.dumps(pooled(scores).to_dict()))) == pooled(scores)


def test_a_score_knows_the_speakers_of_its_reference() -> None:
    parts = [ReferenceSegment(n, n + 1, "en", "hello", speaker) for n, speaker in enumerate(("Bo", "", "Ann", "Bo"))]
    assert score(Reference("", tuple(parts)), [], [], duration=4.0).speakers == ("Ann", "Bo")


def test_an_interval_resamples_recordings() -> None:
    scores = [error_rate_of(0), error_rate_of(0), error_rate_of(10)]
    # Three recordings: a resample has only good or only bad ones with chances 8/27 and 1/27.
    assert interval_of(scores, "mixed_error_rate", np.random.default_rng(0), n=200) == (0.0, 1.0)
    same = [error_rate_of(3)] * 5
    assert interval_of(same, "mixed_error_rate", np.random.default_rng(0), n=50) == (0.3, 0.3)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        scores = [error_rate_of(int(n)) for n in rng.binomial(10, 0.3, size=30)]
        interval = interval_of(scores, "mixed_error_rate", rng, n=100)
        assert interval is not None
        covered += interval[0] <= 0.3 <= interval[1]
    assert covered >= 24  # of 30; were each covered with the nominal 95 %, fewer would have a chance below 1 in 1,000


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    scores = [error_rate_of(n) for n in (1, 4, 2, 7)]
    pair = [interval_of(scores, "mixed_error_rate", np.random.default_rng(7), n=100) for _ in range(2)]
    assert pair[0] == pair[1]


def test_fewer_than_three_recordings_have_no_interval_and_a_rate_without_a_name_none_either() -> None:
    rng = np.random.default_rng(0)
    assert interval_of([scored()] * 2, "mixed_error_rate", rng) is None
    assert interval_of([scored()] * 3, "language_error_rate_frames", rng, n=10) is None
    for name in ("word_error_rate", "error_rate_by_language"):
        with pytest.raises(ConfigurationError, match="no single rate"):
            interval_of([scored()], name, rng)


def test_an_endless_delay_makes_an_endless_interval() -> None:
    missing = scored(switches=())
    interval = interval_of([scored(), missing, missing], "decision_delay_p50", np.random.default_rng(0), n=100)
    assert interval is not None
    assert interval[1] == math.inf


# --- traces


def trace(reference: Reference | None) -> Trace:
    header = {
        "kind": "header",
        "recording": "r1",
        "pace": "fast",
        "audio": {"duration": 10.0},
        "reference": reference.to_dict() if reference else None,
    }
    when = {"at": 10.0, "elapsed": 3.0}
    events = [
        *({"kind": "switch", **when, **switch.to_dict()} for switch in SWITCHES),
        *(
            {
                "kind": "segment",
                **when,
                "text": s.text,
                "language": s.language,
                "start_time": s.start_time,
                "end_time": s.end_time,
                "is_final": s.is_final,
                "confidence": s.confidence,
            }
            for s in ANSWER
        ),
        {"kind": "end", **when, "statistics": {}, "compute_s": 2.5, "peak_rss_bytes": 1},
    ]
    return Trace(header, tuple(events))


def test_a_trace_scores_as_the_lists_it_holds() -> None:
    streaming = stream_counts(trace(SCENE), SCENE)
    assert score_trace(trace(SCENE)) == scored(streaming=streaming)
    assert score_trace(trace(None), SCENE) == scored(streaming=streaming)
    assert score_trace(trace(SCENE), fold_diacritics=False) == scored(fold_diacritics=False, streaming=streaming)


def test_a_trace_without_any_reference_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'r1' has no reference"):
        score_trace(trace(None))


def stopped(at: float, reference: Reference = SCENE) -> Trace:
    """The trace of a stream that ended early, without results."""
    whole = trace(reference)
    return Trace(whole.header, ({**whole.events[-1], "at": at, "compute_s": 1.0},))


def test_a_stream_stopped_early_is_scored_over_the_audio_that_was_processed() -> None:
    rates = score_trace(stopped(6.25)).rates()  # "marque el" ends there; "número dos" and "thank you" were not streamed
    assert (rates["audio_s"], rates["speech_s"], rates["switches_true"]) == (6.25, pytest.approx(5.75), 1)
    assert (rates["reference_words"], rates["deletions"]) == (5, 5)
    assert rates["real_time_factor"] == pytest.approx(1 / 6.25)
    assert score_trace(stopped(4.2)).rates()["reference_words"] == 3


def test_a_reference_without_times_of_words_stays_whole_for_a_stopped_stream() -> None:
    assert score_trace(stopped(2.0, Reference("one two three", ()))).rates()["reference_words"] == 3
    assert score_trace(stopped(2.0, spoken((3, 4, "en", "one two three")))).rates()["reference_words"] == 0


# --- blocks too short to be seen ----------------------------------------------------------------------


def test_missed_blocks_are_counted_by_their_length_and_the_last_one_ends_with_the_speech() -> None:
    parts = [(0, 5, "en"), (5, 5.9, "es"), (6, 7, "en"), (7, 8, "en"), (8, 13, "es")]
    reference = spoken(*((start, end, language, "word") for start, end, language in parts))
    last = true_switches(reference)[-1]
    switch = Switch(8.0, "en", "es", 9.0)
    counts = {"under 1 s": (1, 1), "1-2 s": (0, 0), "2-4 s": (1, 1), "over 4 s": (1, 0)}
    assert block_misses(reference, [(last, switch)]) == counts
    one = score(reference, (), (switch,), duration=13.0)
    assert one.blocks == counts
    assert (one + one).blocks["2-4 s"] == (2, 2)
    assert Score.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    rates = one.rates()["miss_rate_by_block"]
    assert rates == {"under 1 s": 1.0, "1-2 s": None, "2-4 s": 1.0, "over 4 s": 0.0}


def test_intervals_of_many_rates_come_from_the_same_resamples() -> None:
    reference = spoken((0, 1, "en", "one two"), (1, 2, "es", "tres"))
    scores = [
        score(reference, [SessionSegment(text, "en", 0, 2, True, 1)], (), duration=2.0)
        for text in ("one two tres", "one", "")
    ]
    names = ["mixed_error_rate", "language_error_rate"]
    both = bootstrap_intervals(scores, names, np.random.default_rng(1))
    for name in names:
        assert both[name] == interval_of(scores, name, np.random.default_rng(1))
    assert bootstrap_intervals(scores[:1], names, np.random.default_rng(1)) == dict.fromkeys(names)


def test_the_interval_of_a_ratio_is_that_of_the_pooled_scores_of_every_resample() -> None:
    reference = spoken((0, 1, "en", "one two"), (1, 2, "es", "tres"))
    scores = [
        score(reference, [SessionSegment(text, code, 0, 2, True, 1)], (), duration=2.0, compute_s=n + 1)
        for n, (text, code) in enumerate((("one two tres", "en"), ("one", "es"), ("dos tres", "fr"), ("", "en")))
    ]
    drawn = np.random.default_rng(2).integers(4, size=(50, 4))
    rates = [pooled(scores[i] for i in row).rates() for row in drawn]
    names = [
        *("mixed_error_rate", "switch_error_rate", "deleted_s_per_switch"),
        *("language_error_rate", "real_time_factor"),
    ]
    for name, interval in bootstrap_intervals(scores, names, np.random.default_rng(2), n=50).items():
        expected = [float(rate[name]) for rate in rates]
        assert len(set(expected)) > 3
        assert interval == pytest.approx((percentile(expected, 2.5), percentile(expected, 97.5)))

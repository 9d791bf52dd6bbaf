"""The language-ID curve: where windows may lie, that all conditions score the same, and that logits are Whisper's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.language_window.windows import (
    Condition,
    Place,
    WindowLogits,
    WindowScorer,
    blocks,
    concatenate,
    measure,
    places,
    sample,
)
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.model.weights import weights_of
from whisperlab.streaming.language_id import check_languages
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, UnknownLanguageError
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

ALL = tuple(sorted(check_languages(None)))
EN, ES = ALL.index("en"), ALL.index("es")


def said(*segments: tuple[float, float, str]) -> tuple[ReferenceSegment, ...]:
    return tuple(ReferenceSegment(start, end, lang, "x") for start, end, lang in segments)


def recording(name: str, *segments: tuple[float, float, str], path: Path = Path("none.wav")) -> Recording:
    heard = said(*segments)
    languages = ",".join(sorted({segment.lang for segment in heard}))
    return Recording(name, path, heard[-1].end, "x", languages, heard, "dev", "made")


TURNS = ((0.0, 2.0, "en"), (2.25, 4.0, "en"), (4.5, 6.0, "es"), (6.0, 9.0, "en"))


# --- where windows may lie


def test_segments_in_one_language_are_a_block_with_the_pauses_between_them() -> None:
    assert blocks(said(*TURNS)) == [
        (Span(0, samples(4.0)), "en"),
        (Span(samples(4.5), samples(6.0)), "es"),
        (Span(samples(6.0), samples(9.0)), "en"),
    ]


def test_a_block_ends_where_another_language_begins_over_it() -> None:
    assert blocks(said((0, 3, "en"), (2, 5, "es"))) == [
        (Span(0, samples(2)), "en"),
        (Span(samples(2), samples(5)), "es"),
    ]


def test_windows_end_every_hop_of_a_block_where_they_fit() -> None:
    found = places([recording("r", *TURNS)], window_s=1.0, hop_s=0.5)
    ends = [(place.block, place.end / SAMPLE_RATE) for place in found]
    assert ends == [
        *((0, end) for end in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)),
        *((1, end) for end in (5.5, 6.0)),
        *((2, end) for end in (7.0, 7.5, 8.0, 8.5, 9.0)),
    ]


def in_a_row(parts: list[tuple[float, float, str]]) -> Recording:
    """A recording of segments of a length, each followed by a gap."""
    now, segments = 0.0, []
    for length, gap, language in parts:
        segments.append((now, now + length, language))
        now += length + gap
    return recording("r", *segments)


turns = st.lists(
    st.tuples(st.floats(0.3, 6), st.floats(0, 0.6), st.sampled_from(["en", "es", "fr"])), min_size=1, max_size=8
)


@settings(deadline=None)
@given(turns, st.floats(0.1, 5), st.floats(0.1, 2))
def test_a_window_never_holds_a_second_language(
    parts: list[tuple[float, float, str]], window_s: float, hop_s: float
) -> None:
    made = in_a_row(parts)
    found = places([made], window_s, hop_s)
    for place in found:
        window = Span(place.end - samples(window_s), place.end)
        inside = {
            segment.lang
            for segment in made.segments
            if window.start < samples(segment.end) and samples(segment.start) < window.end
        }
        assert inside <= {place.language}
        assert place.fits(Condition(window_s, 0))
    longer = places([made], window_s + 0.5, hop_s)
    assert set(longer) <= set(found)


@settings(deadline=None)
@given(turns, st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_a_sample_has_equal_shares_as_far_as_there_are_places(
    parts: list[tuple[float, float, str]], n: int, seed: int
) -> None:
    every = places([in_a_row(parts)], 0.5)
    drawn = sample(every, n, np.random.default_rng(seed))
    assert len(drawn) == min(n, len(every))
    assert len(set(drawn)) == len(drawn)
    assert drawn == sorted(drawn)
    there, taken = Counter(p.language for p in every), Counter(p.language for p in drawn)
    most = max(taken.values(), default=0)
    for language, count in there.items():
        assert taken[language] >= min(count, most - 1)


def test_a_sample_is_spread_over_the_blocks_of_a_language() -> None:
    every = places([recording("r", (0, 20, "en"), (20, 22, "es"), (22, 24, "en"))], 1.0)
    drawn = sample(every, 6, np.random.default_rng(0))
    assert Counter((place.language, place.block) for place in drawn) == {
        ("en", 0): 2,
        ("en", 2): 1,
        ("es", 1): 3,
    } or Counter((place.language, place.block) for place in drawn) == {("en", 0): 1, ("en", 2): 2, ("es", 1): 3}


def test_a_hop_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hop_s must be at least one sample"):
        places([recording("r", *TURNS)], 1.0, 0.0)


@pytest.mark.parametrize("window_s, silence_s", [(0, 0), (31, 0), (1, -0.5), (1, 31), (float("nan"), 0)])
def test_a_condition_that_cannot_be_is_refused(window_s: float, silence_s: float) -> None:
    with pytest.raises((ConfigurationError, ValueError)):
        Condition(window_s, silence_s)


# --- measuring


class Echo:
    """Returns as logits the length of the window, the silence and the last sample."""

    languages = ALL

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int | None]] = []

    def score(self, window: FloatArray, silence: int, pool_after: int | None, /) -> tuple[np.ndarray, float]:
        self.asked.append((len(window), silence, pool_after))
        logits = np.zeros(len(self.languages))
        logits[:3] = len(window), silence, window[-1]
        return logits, 0.001 * len(self.asked)


@pytest.fixture
def ramp(tmp_path: Path) -> Recording:
    """Four seconds of English, one of Spanish; the samples rise, so each tells where it lies."""
    write_wav(tmp_path / "ramp.wav", np.linspace(0, 1, 5 * SAMPLE_RATE, endpoint=False, dtype=np.float32))
    return recording("ramp", (0, 4, "en"), (4, 5, "es"), path=tmp_path / "ramp.wav")


def test_all_conditions_score_the_same_places_in_turns(ramp: Recording) -> None:
    short, long = Condition(1, 0.5, 0), Condition(3, 0, None)
    scorer = Echo()
    found = measure(scorer, [ramp], places([ramp], 1.0, 1.0), [short, long])
    assert [place.end / SAMPLE_RATE for place in found[short].places] == [1, 2, 3, 4, 5]
    assert [place.end / SAMPLE_RATE for place in found[long].places] == [3, 4]
    one, three = (samples(1), samples(0.5), 0), (samples(3), 0, None)
    assert scorer.asked == [one, one, one, three, one, three, one]
    assert found[long].logits[:, 0].tolist() == [samples(3)] * 2
    assert found[short].logits[:, 2] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-3)  # the window's last sample
    assert found[long].encoder_s == pytest.approx([0.004, 0.006])


def test_progress_counts_the_windows(ramp: Recording) -> None:
    counts: list[int] = []
    measure(Echo(), [ramp], places([ramp], 1.0, 1.0), [Condition(1, 0), Condition(3, 0)], counts.append)
    assert counts == [1, 1, 2, 2, 1]


def test_a_window_that_fits_nowhere_is_refused(ramp: Recording) -> None:
    with pytest.raises(ConfigurationError, match=r"no place fits a window of 4\.5 s"):
        measure(Echo(), [ramp], places([ramp], 1.0), [Condition(1, 0), Condition(4.5, 0)])


# --- the logits


def heard(rows: list[tuple[str, float, float]], recordings: list[str] | None = None) -> WindowLogits:
    """Windows by true language and the logits of English and Spanish; French has 1 everywhere, others -9."""
    logits = np.full((len(rows), len(ALL)), -9.0)
    logits[:, ALL.index("fr")] = 1.0
    for i, (_, english, spanish) in enumerate(rows):
        logits[i, EN], logits[i, ES] = english, spanish
    names = recordings or ["r"] * len(rows)
    where = tuple(
        Place(name, i, 16_000 * i, 16_000, row[0]) for i, (name, row) in enumerate(zip(names, rows, strict=True))
    )
    return WindowLogits(ALL, where, logits, np.arange(len(rows), dtype=float))


def test_the_likeliest_of_the_allowed_languages_is_the_answer() -> None:
    part = heard([("es", 0.0, 0.5), ("es", 4.0, 2.0), ("en", 4.0, 0.0)])
    assert part.correct().tolist() == [False, False, True]  # French is likelier than Spanish in the first
    assert part.correct(["en", "es"]).tolist() == [True, False, True]
    assert part.correct(["en", "es"], english_bias=3.0).tolist() == [True, True, True]
    assert part.correct(["en", "es"], english_bias=3.0, temperature=2.0).tolist() == [True, True, False]


def test_a_posterior_is_over_the_allowed_languages_alone() -> None:
    found = heard([("es", 2.0, 1.0)]).posteriors(["es", "en"], english_bias=0.5, temperature=2.0)[0]
    assert found.sum() == pytest.approx(1)
    assert found[EN] / found[ES] == pytest.approx(np.exp(0.5 - 0.5))
    assert np.count_nonzero(found) == 2


def test_an_unknown_language_cannot_be_allowed() -> None:
    with pytest.raises(UnknownLanguageError, match="xx"):
        heard([("es", 2.0, 1.0)]).masked(["en", "xx"])


def test_places_can_be_chosen_by_number_or_by_flag() -> None:
    part = heard([("es", 1.0, 0.0), ("en", 2.0, 0.0), ("es", 3.0, 0.0)])
    for chosen in ([0, 2], np.array([True, False, True])):
        some = part.at(chosen)
        assert [place.block for place in some.places] == [0, 2]
        assert some.logits[:, EN].tolist() == [1.0, 3.0]
        assert some.encoder_s.tolist() == [0.0, 2.0]
    assert len(part.at([])) == 0


def test_halves_share_no_recording() -> None:
    part = heard([("en", 1.0, 0.0)] * 6, ["a", "a", "b", "c", "c", "b"])
    first, second = part.halves()
    assert {place.recording for place in first.places} == {"a", "c"}
    assert {place.recording for place in second.places} == {"b"}


def test_a_single_recording_is_halved_by_its_blocks() -> None:
    first, second = heard([("en", 1.0, 0.0)] * 5).halves()
    assert len(first) + len(second) == 5
    assert not {place.block for place in first.places} & {place.block for place in second.places}


def test_parts_put_concatenate_keep_their_rows() -> None:
    parts = heard([("en", 1.0, 0.0)], ["a"]), heard([("es", 0.0, 2.0), ("en", 3.0, 0.0)], ["b", "b"])
    whole = concatenate(parts)
    assert [place.recording for place in whole.places] == ["a", "b", "b"]
    assert whole.logits[:, EN].tolist() == [1.0, 0.0, 3.0]
    with pytest.raises(ConfigurationError, match="at least one part"):
        concatenate([])


# --- the model


@pytest.mark.model
def test_posteriors_are_those_of_the_product(base_model: Whisper, scene: Scene) -> None:
    """The same window, silence, pooling, bias and temperature as the transcriber's language-ID."""
    from whisperlab.model.encoder import ShortWindowEncoder
    from whisperlab.model.text_decoder import TextDecoder
    from whisperlab.streaming.language_id import LanguageIdentifier

    scorer = WindowScorer(base_model, "fp32")
    window = scene.clip(scene.first_in("es"))[: samples(2.5)]
    logits, took = scorer.score(window, samples(0.5), 0)
    place = Place("scene", 0, len(window), len(window), "es")
    part = WindowLogits(scorer.languages, (place,), logits[None], np.array([took]))
    features = ShortWindowEncoder(weights_of(base_model)).encode(window, samples(0.5), 0).features
    identifier = LanguageIdentifier(
        TextDecoder(weights_of(base_model)), ("es", "en"), temperature=1.5, english_bias=3.0
    )
    expected = identifier.posterior(features)
    found = part.posteriors(("es", "en"), english_bias=3.0, temperature=1.5)[0]
    assert [found[ES], found[EN]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert took > 0

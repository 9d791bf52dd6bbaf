"""Decoding: real speech gives its text, guesses and prefixes change nothing they should not, loops end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from remembered import engine

from whisperlab.evaluation.scoring import align
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.attention import REPETITION, following, monotone_path, repeated_tail, token_starts
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.text_decoder import Draft, Prompt, TextDecoder
from whisperlab.model.tokenizer import REPLACEMENT, tokenizer_for
from whisperlab.model.weights import load_weights, weights_of
from whisperlab.streaming.commit_policies import CommitPolicy, agreed
from whisperlab.streaming.decoding import (
    KEPT_WINDOWS,
    DecodingOptions,
    Hypothesis,
    SpeechDecoder,
    Word,
    confidence_of,
    text_of,
    without_echo,
)
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import POSITION, SAMPLE_RATE, seconds

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

    from whisperlab.model.engine import Decoder


def word(text: str, end: int = 0, log_probability: float = 0.0, tokens: tuple[int, ...] = (7,)) -> Word:
    return Word(text, tokens, 0, end, log_probability)


def words(*texts: str) -> list[Word]:
    return [word(text) for text in texts]


def tokens_of(said: Sequence[Word]) -> list[int]:
    return [token for each in said for token in each.tokens]


# --- paths through attention --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 1), (4, 4), (9, 5), (6, 40), (30, 150)])
def test_the_path_begins_each_row_where_openai_whispers_does(shape: tuple[int, int]) -> None:
    """Its function as Python: what numba makes of it sets the threads of torch to all cores, for good."""
    from whisper.timing import dtw_cpu

    rng = np.random.default_rng(shape)
    for _ in range(20 if np.prod(shape) < 1000 else 4):
        cost = rng.normal(size=shape)
        rows, columns = dtw_cpu.py_func(cost)
        expected = columns[np.diff(rows, prepend=-1).astype(bool)]
        assert monotone_path(cost).tolist() == expected.tolist()


def test_attention_along_a_staircase_is_followed() -> None:
    weights = torch.full((2, 4, 40), 1e-3)
    for row in range(4):
        weights[:, row, 10 * row : 10 * row + 10] = 1.0
    assert token_starts(weights, 40).tolist() == pytest.approx([0, 10, 20, 30], abs=1)


def test_attention_to_the_margin_counts_for_nothing() -> None:
    weights = torch.rand(2, 5, 60, generator=torch.Generator().manual_seed(0))
    assert token_starts(weights, 20).tolist() == token_starts(weights[:, :, :20], 20).tolist()
    assert token_starts(weights, 20).max() < 20


# --- loops --------------------------------------------------------------------------------------------


@given(
    before=st.lists(st.integers(0, 5), max_size=10),
    gram=st.lists(st.integers(0, 5), min_size=2, max_size=12),
    times=st.integers(3, 6),
)
def test_an_n_gram_said_three_times_is_a_repetition(before: list[int], gram: list[int], times: int) -> None:
    tokens = before + gram * times
    period, found = repeated_tail(tokens)
    assert found >= 3
    assert tokens[-period * found :] == tokens[-period:] * found
    assert tokens[-period * (found + 1) : -period * found] != tokens[-period:]


@given(tokens=st.lists(st.integers(0, 10**6), unique=True, max_size=60))
def test_different_tokens_are_no_repetition(tokens: list[int]) -> None:
    assert repeated_tail(tokens) == (0, 0)


@pytest.mark.parametrize(
    "tokens,found",
    [
        ([], (0, 0)),
        ([4, 4, 4], (0, 0)),  # "no, no, no"
        ([4, 4, 4, 4], (1, 4)),
        ([1, 2, 1, 2], (0, 0)),  # "bye bye, bye bye"
        ([9, 1, 2, 1, 2, 1, 2], (2, 3)),
        ([1, 2, 1, 2, 1, 2, 9], (0, 0)),  # over and done with
        ([*range(12)] * 3, (12, 3)),
        ([*range(13)] * 3, (0, 0)),  # longer than a repetition may be
    ],
)
def test_what_counts_as_a_repetition(tokens: list[int], found: tuple[int, int]) -> None:
    assert repeated_tail(tokens) == found


@pytest.mark.parametrize(
    "places,period,follow",
    [
        # Positions of 20 ms, from real windows: "5, 5, 5, 5, 5," of four fives, and "tendricasion" said once.
        ([5, 37, 46, 77, 87, 117, 108, 139, 138, 163], 2, 5),
        ([0, 15, 25, 30, 40, 15, 20, 30, 40, 10], 5, 1),
        ([10, 25, 40, 11, 25, 40, 10, 24, 41], 3, 1),
        ([10, 30, 50, 70, 70, 70, 70], 1, 4),  # stands still at the end of the audio
        ([10, 18, 26, 34], 1, 4),  # a fast "no no no no"
        ([10, 10, 10, 10], 1, 1),
    ],
)
def test_repetitions_follow_speech_that_repeats_and_loops_return(places: list[int], period: int, follow: int) -> None:
    assert following(np.array(places), period) == follow


@given(start=st.integers(0, 50), step=st.integers(REPETITION, 60), times=st.integers(3, 20), period=st.integers(1, 6))
def test_steady_repetition_follows_whatever_its_pace(start: int, step: int, times: int, period: int) -> None:
    places = np.array([start + step * turn + token for turn in range(times) for token in range(period)])
    assert following(places, period) == times


# --- words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one,other,same",
    [
        (" Hello,", " hello", True),
        (" don't", " dont", True),
        (" Señor", " señor!", True),
        (" señor", " senor", False),
        (" 你好。", "你好", True),
        (" .", " . ", True),
        (" .", " !", False),
    ],
)
def test_words_agree_by_their_letters(one: str, other: str, same: bool) -> None:
    assert (word(one).key == word(other).key) is same
    assert agreed([word(one)], [word(other)]) == same


def test_agreement_ends_at_the_first_difference() -> None:
    assert agreed(words("a", "b", "c", "d"), words("a", "b", "x", "d")) == 2
    assert agreed(words("a", "b"), words("a", "b", "c")) == 2
    assert agreed([], words("a")) == 0


def test_confidence_is_the_geometric_mean_over_tokens() -> None:
    said = [word(" a", 0, float(np.log(0.5)), (1,)), word(" b", 0, float(3 * np.log(0.25)), (2, 3, 4))]
    assert confidence_of(said) == pytest.approx((0.5 * 0.25**3) ** 0.25)
    assert confidence_of([]) == 0
    assert text_of(said) == "a b"


@pytest.mark.parametrize(
    "texts,ends_ms,n_prefix,left",
    [
        # Whisper base on "Un camion de pompiers" and "O ceapă" (clips of 1.1 and 1.2 s), words with their ends.
        ([" Un", " bus", " vert.", " Un", " bus", " vert."], [200, 440, 1020, 1020, 1020, 1040], 0, 3),
        ([" o", " capă", " o", " capă"], [410, 1230, 1230, 1230], 0, 2),
        ([" un", " bus,", " Un", " bus"], [200, 600, 600, 610], 0, 2),  # another case and no comma
        ([" bus", " bus", " bus"], [600, 600, 600], 0, 1),
        ([" Un", " bus", " Un", " bus"], [200, 400, 600, 800], 0, 4),  # said twice
        ([" Un", " bus", " Un", " camion"], [400, 600, 600, 600], 0, 4),
        ([" Un", " bus", " Un", " bus"], [200, 600, 600, 600], 2, 2),
        ([" Un", " bus", " Un", " bus"], [200, 600, 600, 600], 3, 4),  # committed text stays
        ([], [], 0, 0),
    ],
)
def test_a_text_said_once_more_without_audio_is_left_out(
    texts: list[str], ends_ms: list[int], n_prefix: int, left: int
) -> None:
    ends = [end * SAMPLE_RATE // 1000 for end in ends_ms]
    said = [Word(text, (1,), *span, 0.0) for text, span in zip(texts, pairwise([0, *ends]), strict=True)]
    assert list(without_echo(said, n_prefix)) == said[:left]


@pytest.mark.parametrize(
    "options",
    [
        {"final_silence_s": ()},
        {"final_silence_s": (1.0, -1.0)},
        {"trailing_silence_s": float("nan")},
        {"tokens_per_second": 0.0},
        {"tokens_per_second": float("nan")},
        {"spare_tokens": -1},
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        DecodingOptions(**options)


def test_the_tokenizer_always_asks_to_transcribe() -> None:
    for language in ("en", "es", "zh"):
        tokenizer = tokenizer_for(language)
        said = [tokenizer.decode([token]) for token in tokenizer.sot_sequence]
        assert said == ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>"]


# --- local agreement ----------------------------------------------------------------------------------

some_words = st.lists(st.sampled_from([" a", " b", " c", " C."]), max_size=6)


@given(tails=st.lists(st.tuples(some_words, st.integers(0, 12)), max_size=12))
def test_committed_words_only_grow_and_begin_every_later_hypothesis(tails: list[tuple[list[str], int]]) -> None:
    """As in the decoder, each hypothesis begins with what was committed; the n-th word ends at n."""
    agreement = CommitPolicy()
    before: tuple[Word, ...] = ()
    for texts, horizon in tails:
        committed = list(agreement.committed)
        new = [word(text, end=len(committed) + i + 1) for i, text in enumerate(texts)]
        hypothesis = (*committed, *new)
        brought = agreement.update(Hypothesis(hypothesis), horizon, end=horizon)

        assert agreement.committed == committed + brought
        assert [*agreement.committed, *agreement.tentative] == list(hypothesis)
        assert all(each.end <= horizon for each in brought)
        n = len(agreement.committed)
        assert brought == [] or [w.key for w in before[:n]] == [w.key for w in hypothesis[:n]]
        before = hypothesis


@given(texts=some_words, horizon=st.integers(0, 8))
def test_what_was_heard_once_is_not_committed_and_what_was_heard_twice_is(texts: list[str], horizon: int) -> None:
    agreement = CommitPolicy()
    hypothesis = Hypothesis(tuple(word(text, end=i + 1) for i, text in enumerate(texts)))
    assert agreement.update(hypothesis, 100, 100) == []
    assert len(agreement.update(hypothesis, horizon, 100)) == min(len(texts), horizon)


def test_a_word_beyond_the_horizon_keeps_back_those_after_it() -> None:
    agreement = CommitPolicy()
    hypothesis = Hypothesis((word(" a", 1), word(" b", 9), word(" c", 2)))
    agreement.update(hypothesis, 5, 5)
    assert text_of(agreement.update(hypothesis, 5, 5)) == "a"
    assert text_of(agreement.tentative) == "b c"


def test_the_newer_spelling_is_committed() -> None:
    agreement = CommitPolicy()
    agreement.update(Hypothesis((word(" hello"),)), 1, 1)
    assert agreement.update(Hypothesis((word(" Hello,"),)), 1, 1) == [word(" Hello,")]


# --- attention left behind ------------------------------------------------------------------------------


def test_alignatt_commits_at_once_what_ends_before_the_last_moments_and_the_horizon() -> None:
    policy = CommitPolicy(lag=10)
    hypothesis = Hypothesis((word(" a", 5), word(" b", 20), word(" c", 31), word(" d", 35)))
    assert text_of(policy.update(hypothesis, horizon=100, end=40)) == "a b"
    assert text_of(policy.tentative) == "c d"
    assert policy.update(hypothesis, horizon=31, end=41) == [word(" c", 31)]
    assert policy.update(hypothesis, horizon=34, end=100) == []
    assert text_of(policy.update(hypothesis, horizon=35, end=100)) == "d"
    assert policy.tentative == ()


def test_an_unclear_word_and_those_after_it_wait_until_they_lie_far_enough_back() -> None:
    policy = CommitPolicy(clear=0.7, patience=50)
    hypothesis = Hypothesis((word(" a", 10), word(" b", 20, log_probability=-0.5), word(" c", 30)))
    policy.update(hypothesis, 100, 60)
    assert text_of(policy.update(hypothesis, 100, 69)) == "a"
    assert not policy.is_clear
    assert text_of(policy.update(hypothesis, 100, 70)) == "b c"
    assert policy.is_clear


@pytest.mark.parametrize("policy", [CommitPolicy(), CommitPolicy(5)])
def test_policies_offer_the_same_protocol(policy: CommitPolicy) -> None:
    for _ in range(2):
        policy.update(Hypothesis((word(" a", 1),)), 10, 10)
    assert (text_of(policy.committed), policy.tentative) == ("a", ())


# --- decoding real speech -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(base_model: Whisper) -> tuple[ShortWindowEncoder, TextDecoder]:
    """The encoder encodes a window once. It counts every time it is asked."""
    return engine(weights_of(base_model), "fp32", None)


@pytest.fixture(scope="module")
def decoder(parts: tuple[ShortWindowEncoder, TextDecoder]) -> SpeechDecoder:
    return SpeechDecoder(*parts, DecodingOptions(), PerformanceMetrics())


@pytest.fixture(scope="module")
def segment(scene: Scene) -> ReferenceSegment:
    """A Spanish sentence of some seconds."""
    return scene.first_in("es")


@pytest.fixture(scope="module")
def clip(scene: Scene, segment: ReferenceSegment) -> FloatArray:
    """Its audio, cut to no whole number of positions."""
    audio = scene.clip(segment)
    return audio[: len(audio) // POSITION * POSITION - POSITION + 1]


@pytest.fixture(scope="module")
def said(decoder: SpeechDecoder, clip: FloatArray) -> Hypothesis:
    return decoder.decode(clip, 0, "es")


def error_rate(reference: ReferenceSegment, text: str) -> float:
    steps = align(Reference(reference.text, (reference,)), text)
    return sum(step.kind != "hit" for step in steps) / sum(step.reference is not None for step in steps)


@pytest.mark.model
def test_speech_decoded_in_its_language_gives_its_words(segment: ReferenceSegment, said: Hypothesis) -> None:
    assert error_rate(segment, text_of(said.words)) <= 0.5
    assert not said.looped
    assert 0.3 < confidence_of(said.words) < 1


@pytest.mark.model
def test_the_language_reaches_the_decoder(decoder: SpeechDecoder, clip: FloatArray, said: Hypothesis) -> None:
    """Told that the same Spanish is English, Whisper writes something else."""
    as_english = decoder.decode(clip, 0, "en")
    assert text_of(as_english.words) != text_of(said.words)
    assert as_english.log_probability < said.log_probability


@pytest.mark.model
@pytest.mark.parametrize("guess", ["right", "wrong", "half right", "too long", "said twice"])
def test_a_guess_changes_no_token(decoder: SpeechDecoder, clip: FloatArray, said: Hypothesis, guess: str) -> None:
    right, nonsense = list(said.words), [word(" wrong", tokens=(2085,))] * 3
    guesses = {
        "right": right,
        "wrong": nonsense,
        "half right": right[: len(right) // 2] + nonsense,
        "too long": right + nonsense * 200,
        "said twice": right * 2,
    }
    found = decoder.decode(clip, 0, "es", guess=guesses[guess])
    assert tokens_of(found.words) == tokens_of(said.words)
    assert found.looped == said.looped
    assert [w.start for w in found.words] == pytest.approx([w.start for w in said.words], abs=POSITION)
    assert found.log_probability == pytest.approx(said.log_probability, abs=1e-3)


@pytest.mark.model
def test_final_text_is_searched_and_running_text_is_greedy(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray
) -> None:
    searches: list[int] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(parts[1], name)

        def beam(self, encoded: Encoded, prompt: Prompt, mask: torch.Tensor, width: int) -> Draft:
            searches.append(width)
            return parts[1].beam(encoded, prompt, mask, width)

    options = DecodingOptions(final_beam=4)
    decoder = SpeechDecoder(parts[0], cast("Decoder", Counted()), options, PerformanceMetrics())
    running = decoder.decode(clip, 0, "es", final=False)
    assert searches == []
    final = decoder.decode(clip, 0, "es", guess=running.words)
    assert searches == [4]
    assert final.words[-1].end <= len(clip)
    assert decoder.encoded(clip, 0, 3.0).features.shape != decoder.encoded(clip, 0).features.shape


@pytest.mark.model
def test_a_prefix_is_kept_as_it_is_and_continued(decoder: SpeechDecoder, clip: FloatArray, said: Hypothesis) -> None:
    prefix = said.words[:4]
    continued = decoder.decode(clip, 0, "es", prefix)
    assert continued.words[:4] == prefix
    assert tokens_of(continued.words) == tokens_of(said.words)
    guessed = decoder.decode(clip, 0, "es", prefix, guess=said.words[4:])
    assert tokens_of(guessed.words) == tokens_of(said.words)


@pytest.mark.model
def test_likelihoods_are_those_of_the_texts_and_cost_one_encode(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray
) -> None:
    encoder = parts[0].with_own_counts()
    decoder = SpeechDecoder(encoder, parts[1], DecodingOptions(), PerformanceMetrics())
    spanish, english = decoder.likelihoods(clip, 0, ("es", "en"))
    assert encoder.calls == 1
    running = decoder.decode(clip, 0, "es", final=False)
    assert spanish == pytest.approx(running.log_probability, abs=1e-3)
    assert english is not None
    assert spanish is not None
    assert spanish > english
    assert decoder.likelihoods(np.zeros(SAMPLE_RATE, np.float32), 0, ("es", "en")) == [None, None]


class Counting:
    """A decoder that counts its calls: the number of texts of each."""

    def __init__(self, decoder: TextDecoder) -> None:
        self._decoder = decoder
        self.n_texts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
        self.n_texts.append(len(prompts))
        return self._decoder.greedy(encoded, prompts, mask)


@pytest.mark.model
@pytest.mark.parametrize("tokens_per_second", [12.0, 3.0])  # 3: most texts are cut by the budget
def test_texts_decoded_together_are_those_decoded_one_by_one(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, tokens_per_second: float
) -> None:
    encoder, stack = parts
    decoder = SpeechDecoder(encoder, stack, DecodingOptions(tokens_per_second=tokens_per_second), PerformanceMetrics())
    mask = torch.zeros(stack.n_vocabulary)
    mask[tokenizer_for("en").eot + 1 :] = -torch.inf
    languages, lengths = ("ru", "es", "en", "fr"), set()
    for audio in (clip, clip[: 3 * SAMPLE_RATE // 2]):
        encoded = encoder.encode(audio, SAMPLE_RATE)
        budget = int(tokens_per_second * seconds(len(audio)))
        prompts = [Prompt(tokenizer_for(language), (), (), budget) for language in languages]
        with torch.inference_mode():
            alone = [stack.greedy(encoded, [prompt], mask)[0] for prompt in prompts]
            together = stack.greedy(encoded, prompts, mask)
        assert [one.tokens for one in together] == [one.tokens for one in alone]
        assert [one.looped for one in together] == [one.looped for one in alone]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=5e-3)
            assert one.starts().tolist() == pytest.approx(other.starts().tolist(), abs=1)
            assert one.no_speech() == pytest.approx(other.no_speech(), abs=1e-4)
        lengths |= {len(one.tokens) for one in alone}
        found = decoder.likelihoods(audio, 0, languages)
        assert found == [
            pytest.approx(decoder.likelihoods(audio, 0, (language,))[0], abs=5e-3) for language in languages
        ]
    assert len(lengths) > 1 or tokens_per_second < 12  # texts end at different tokens


@pytest.mark.model
def test_the_text_that_proves_a_switch_is_not_decoded_again(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, said: Hypothesis
) -> None:
    """Both languages take one call. A decode of the same window takes none, unless the text has a beginning."""
    stack, encoder = Counting(parts[1]), parts[0].with_own_counts()
    decoder = SpeechDecoder(encoder, stack, DecodingOptions(), PerformanceMetrics(), share=True)
    decoder.likelihoods(clip, 0, ("es", "en"))
    assert stack.n_texts == [2]
    assert tokens_of(decoder.decode(clip, 0, "es", final=False).words) == tokens_of(said.words)
    assert stack.n_texts == [2]
    for offset, language, prefix in ((0, "it", ()), (0, "es", said.words[:2]), (160, "es", ()), (0, "es", ())):
        decoder.decode(clip, offset, language, prefix, final=False)
    assert stack.n_texts == [2, 1, 1, 1]  # the last: its window is kept, although another one came between
    assert (encoder.calls, decoder.shared) == (2, 4)
    for offset in range(1, KEPT_WINDOWS + 1):  # so many windows drop the older ones
        decoder.encoded(clip[: 8 * POSITION], offset)
    decoder.decode(clip, 0, "es", final=False)
    assert stack.n_texts == [2, 1, 1, 1, 1]
    assert (encoder.calls, decoder.shared) == (2 + KEPT_WINDOWS + 1, 4)
    alone = SpeechDecoder(parts[0], stack, DecodingOptions(), PerformanceMetrics())
    alone.likelihoods(clip, 0, ("es", "en"))
    alone.decode(clip, 0, "es", final=False)
    assert stack.n_texts[5:] == [2, 1]  # nothing is kept without ``share``


@pytest.mark.model
def test_whether_there_is_speech_is_computed_for_unlikely_text_only(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray
) -> None:
    asked: list[float] = []

    class Stated(Counting):
        def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
            def no_speech() -> float:
                asked.append(likelihood)
                return 1.0

            return [Draft(lambda: np.arange(2), [440], [likelihood], no_speech)]

    for likelihood in (-0.1, -2.0):
        decoder = SpeechDecoder(parts[0], Stated(parts[1]), DecodingOptions(), PerformanceMetrics())
        assert bool(decoder.decode(clip, 0, "es", final=False).words) == (likelihood > -1)
    assert set(asked) == {-2.0}


@pytest.mark.model
def test_words_lie_in_their_window_and_do_not_run_backwards(clip: FloatArray, said: Hypothesis) -> None:
    times = [time for each in said.words for time in (each.start, each.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= len(clip)
    assert times[-1] - times[0] > len(clip) / 2


@pytest.mark.model
def test_words_after_a_prefix_do_not_begin_before_it_ends(
    decoder: SpeechDecoder, clip: FloatArray, said: Hypothesis
) -> None:
    """Another hypothesis had placed the prefix later than this one would."""
    late = replace(said.words[1], end=said.words[1].end + SAMPLE_RATE)
    new = decoder.decode(clip, 0, "es", (said.words[0], late)).words[2:]
    times = [late.end, *(time for each in new for time in (each.start, each.end))]
    assert times == sorted(times)
    assert times[-1] <= len(clip)


@pytest.mark.model
def test_an_offset_moves_all_words_alike(decoder: SpeechDecoder, clip: FloatArray, said: Hypothesis) -> None:
    moved = decoder.decode(clip, 1234, "es")
    assert moved.words == tuple(replace(w, start=w.start + 1234, end=w.end + 1234) for w in said.words)


# --- nothing said, too much said ----------------------------------------------------------------------


def noise(duration_s: float) -> FloatArray:
    return np.random.default_rng(0).normal(0, 0.1, round(duration_s * SAMPLE_RATE)).astype(np.float32)


@pytest.mark.model
def test_silence_says_nothing(decoder: SpeechDecoder) -> None:
    assert decoder.decode(np.zeros(2 * SAMPLE_RATE, np.float32), 0, "en") == Hypothesis(())


@pytest.mark.model
@pytest.mark.parametrize("language", ["en", "ru"])
def test_noise_ends_within_its_budget(parts: tuple[ShortWindowEncoder, TextDecoder], language: str) -> None:
    """Whatever Whisper makes of noise, with its checks for silence turned off and no silence after it."""
    options = DecodingOptions(
        final_silence_s=(0.0,), final_window_s=0.0, final_beam=1, no_speech=1.0, tokens_per_second=12.0, spare_tokens=8
    )
    found = SpeechDecoder(*parts, options, PerformanceMetrics()).decode(noise(3.0), 0, language)
    assert len(tokens_of(found.words)) <= 8 + 3 * 12


@pytest.mark.model
def test_text_beyond_its_budget_is_cut_after_trying_every_margin(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, said: Hypothesis
) -> None:
    encoder, stack = parts
    options = DecodingOptions(
        final_silence_s=(0.5, 1.0, 2.0), final_window_s=0.0, tokens_per_second=1.0, spare_tokens=2
    )
    small = SpeechDecoder(encoder, stack, options, PerformanceMetrics())
    calls = encoder.calls
    found = small.decode(clip, 0, "es")
    assert found.looped
    assert len(tokens_of(found.words)) == 2 + int(seconds(len(clip))) < len(tokens_of(said.words))
    assert encoder.calls - calls == 3
    assert small.redecodes == 2
    assert small.decode(clip, 0, "es", final=False).looped
    assert encoder.calls - calls == 4
    assert small.redecodes == 2


def test_short_final_text_gets_more_silence() -> None:
    options = DecodingOptions(final_silence_s=(3.0, 6.5), final_window_s=8.0)
    assert [options.silences_s(n * SAMPLE_RATE) for n in (0, 1, 4, 5, 20)] == [
        [8.0, 8.0],
        [7.0, 7.0],
        [4.0, 6.5],
        [3.0, 6.5],
        [3.0, 6.5],
    ]


@pytest.mark.model
def test_a_text_that_comes_twice_is_decoded_again_and_comes_once(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, said: Hypothesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = SpeechDecoder(*parts, DecodingOptions(final_silence_s=(3.0, 3.0)), PerformanceMetrics())
    once = decoder._words

    def twice(*arguments: Any) -> list[Word]:
        found = once(*arguments)
        return [*found, *(replace(each, start=len(clip), end=len(clip)) for each in found)]

    monkeypatch.setattr(decoder, "_words", twice)
    found = decoder.decode(clip, 0, "es")
    assert text_of(found.words) == text_of(said.words)
    assert found.looped
    assert decoder.redecodes == 1


@pytest.mark.model
@pytest.mark.parametrize(
    "language, text",
    [
        ("en", "All human beings are born free and equal. "),
        ("ko", "모든 인간은 태어날 때부터 자유롭다. "),
        ("ar", "يولد جميع الناس أحرارا متساوين. "),
        ("hi", "सभी मनुष्य जन्म से स्वतंत्र और समान हैं। "),
        ("bn", "সমস্ত মানুষ স্বাধীনভাবে জন্মগ্রহণ করে। "),
        ("th", "มนุษย์ทั้งหลายเกิดมามีอิสระ"),
        ("ka", "ყველა ადამიანი იბადება თავისუფალი. "),
    ],
)
def test_thirteen_characters_per_second_fit_the_budget_in_every_script(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, language: str, text: str
) -> None:
    """A letter of Hindi takes one token, of Bengali and Georgian two: 12 tokens per second would cut their text."""
    tokens = tokenizer_for(language).encode((text * 20)[: int(13 * seconds(len(clip)))])
    budgets = []

    class Counting(TextDecoder):
        def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
            budgets.extend(prompt.budget for prompt in prompts)
            return super().greedy(encoded, prompts, mask)

    options = DecodingOptions(final_beam=1)
    SpeechDecoder(parts[0], Counting(load_weights("base")), options, PerformanceMetrics()).decode(clip, 0, language)
    assert min(budgets) >= len(tokens)


@pytest.mark.model
@pytest.mark.parametrize("language, text", [("zh", "好的龘"), ("hi", " ठीक ऋ"), ("ru", " да ꙮ")])
def test_text_cut_within_a_character_has_no_part_of_it(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, language: str, text: str
) -> None:
    """The last character of each text has several tokens. A loop or the budget can cut the text at any of them."""
    tokens = tokenizer_for(language).encode(text)
    assert REPLACEMENT in tokenizer_for(language).decode(tokens[:-1])

    class Cut(TextDecoder):
        def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
            n = len(tokens) - 1
            return [Draft(lambda: np.arange(n), tokens[:n], [-0.1] * n, looped=True) for _ in prompts]

    small = SpeechDecoder(parts[0], Cut(load_weights("base")), DecodingOptions(), PerformanceMetrics())
    found = text_of(small.decode(clip, 0, language, final=False).words)
    assert REPLACEMENT not in found
    assert text.strip().startswith(found)


@pytest.mark.model
def test_a_prefix_that_loops_is_not_looped_on(decoder: SpeechDecoder, clip: FloatArray) -> None:
    prefix = [word(" no", tokens=(572,), end=POSITION)] * 30
    found = decoder.decode(clip, 0, "es", prefix)
    assert found.words[:30] == tuple(prefix)
    assert tokens_of(found.words[30:])[:4] != [572] * 4
    assert len(tokens_of(found.words)) <= 8 + 12 * len(clip) / SAMPLE_RATE


@pytest.mark.model
def test_a_prefix_beyond_the_budget_stays_and_nothing_is_added(
    parts: tuple[ShortWindowEncoder, TextDecoder], clip: FloatArray, said: Hypothesis
) -> None:
    options = DecodingOptions(final_silence_s=(1.0,), tokens_per_second=0.1, spare_tokens=0)
    small = SpeechDecoder(*parts, options, PerformanceMetrics())
    assert small.decode(clip, 0, "es", said.words).words == said.words


@pytest.mark.model
def test_text_already_committed_is_kept_where_the_model_hears_nobody(decoder: SpeechDecoder) -> None:
    prefix = tuple(words(" hola"))
    assert decoder.decode(np.zeros(SAMPLE_RATE, np.float32), 0, "es", prefix).words[:1] == prefix

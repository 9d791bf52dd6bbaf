"""Language-ID: openai-whisper's own posterior, restricted to the languages allowed and bent by a prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from remembered import Identifier

from whisperlab.model.engine import prepared
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.streaming.language_id import LanguageIdOptions, check_languages, log_prior, softmax
from whisperlab.util.errors import ConfigurationError, UnknownLanguageError
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

FIVE = ("en", "es", "fr", "it", "ru")
ALL = check_languages(None)


@pytest.fixture(scope="module")
def stack(base_model: Whisper) -> TextDecoder:
    return prepared(base_model, "fp32")[1]


@pytest.fixture(scope="module")
def spanish(base_model: Whisper, scene: Scene) -> torch.Tensor:
    """Features of three seconds of Spanish, padded to thirty as openai-whisper does."""
    clip = scene.clip(scene.first_in("es"))[: 3 * SAMPLE_RATE]
    return prepared(base_model, "fp32")[0].encode(clip, MAX_WINDOW).features


def posterior(
    stack: TextDecoder,
    features: torch.Tensor,
    languages: tuple[str, ...],
    prior: Mapping[str, float] | None = None,
    temperature: float = 1.0,
) -> dict[str, float]:
    found = Identifier(stack, languages, prior, temperature).posterior(features)
    return dict(zip(languages, found.tolist(), strict=True))


# --- the posterior ------------------------------------------------------------------------------------


@pytest.mark.model
def test_over_all_languages_it_is_openai_whispers(
    base_model: Whisper, stack: TextDecoder, spanish: torch.Tensor, scene: Scene
) -> None:
    import whisper

    clip = scene.clip(scene.first_in("es"))[: 3 * SAMPLE_RATE]
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), base_model.dims.n_mels)
    _, expected = whisper.detect_language(base_model, mel)
    assert posterior(stack, spanish, ALL) == pytest.approx(expected, abs=1e-4)


@pytest.mark.model
def test_the_english_bias_is_taken_off_english_alone(stack: TextDecoder, spanish: torch.Tensor) -> None:
    bare = posterior(stack, spanish, FIVE)
    found = Identifier(stack, FIVE, english_bias=3.0).posterior(spanish)
    debiased = dict(zip(FIVE, found.tolist(), strict=True))
    for other in set(FIVE) - {"en"}:
        moved = math.log(bare["en"] / bare[other]) - math.log(debiased["en"] / debiased[other])
        assert moved == pytest.approx(3.0)
    assert sum(debiased.values()) == pytest.approx(1)


@pytest.mark.model
def test_among_all_languages_english_keeps_its_weight(stack: TextDecoder, spanish: torch.Tensor) -> None:
    bare, asked = (Identifier(stack, ALL, english_bias=bias).posterior(spanish) for bias in (0.0, 3.0))
    assert asked.tolist() == bare.tolist()


@pytest.mark.model
def test_each_language_of_the_scene_is_heard_as_itself(base_model: Whisper, stack: TextDecoder, scene: Scene) -> None:
    encoder, _ = prepared(base_model, "fp32")
    for language in ("en", "es"):
        features = encoder.encode(scene.clip(scene.first_in(language)), SAMPLE_RATE).features
        found = posterior(stack, features, FIVE)
        assert max(found, key=found.__getitem__) == language


@pytest.mark.model
@pytest.mark.parametrize("languages", [ALL, FIVE, ("ru", "en"), ("es",)])
def test_a_posterior_sums_to_one(stack: TextDecoder, spanish: torch.Tensor, languages: tuple[str, ...]) -> None:
    found = posterior(stack, spanish, languages)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= 0


@pytest.mark.model
def test_allowing_fewer_languages_is_renormalising_what_is_left(stack: TextDecoder, spanish: torch.Tensor) -> None:
    whole = posterior(stack, spanish, ALL)
    left = {code: whole[code] for code in FIVE}
    expected = {code: share / sum(left.values()) for code, share in left.items()}
    assert posterior(stack, spanish, FIVE) == pytest.approx(expected, rel=1e-3)


@pytest.mark.model
def test_the_order_of_the_languages_is_the_callers(stack: TextDecoder, spanish: torch.Tensor) -> None:
    assert posterior(stack, spanish, FIVE[::-1]) == pytest.approx(posterior(stack, spanish, FIVE), rel=1e-5)


@pytest.mark.model
def test_a_prior_multiplies_and_renormalises(stack: TextDecoder, spanish: torch.Tensor) -> None:
    plain = posterior(stack, spanish, FIVE)
    prior = {"en": 50.0, "es": 0.5}
    weighted = {code: share * prior.get(code, 1.0) for code, share in plain.items()}
    expected = {code: share / sum(weighted.values()) for code, share in weighted.items()}
    bent = posterior(stack, spanish, FIVE, prior)
    assert bent == pytest.approx(expected)
    assert bent["en"] > plain["en"]


@pytest.mark.model
def test_only_the_ratios_of_a_prior_count(stack: TextDecoder, spanish: torch.Tensor) -> None:
    same = posterior(stack, spanish, ("en", "es"), {"en": 3.0, "es": 3.0})
    assert same == pytest.approx(posterior(stack, spanish, ("en", "es")))


@pytest.mark.model
def test_a_temperature_is_a_power_of_the_posterior(stack: TextDecoder, spanish: torch.Tensor) -> None:
    cold = posterior(stack, spanish, FIVE)
    powers = {code: share**0.5 for code, share in cold.items()}
    expected = {code: share / sum(powers.values()) for code, share in powers.items()}
    assert posterior(stack, spanish, FIVE, temperature=2.0) == pytest.approx(expected)


# --- the allowed set ----------------------------------------------------------------------------------


def test_without_a_list_all_languages_are_allowed() -> None:
    assert len(ALL) == 99
    assert {"en", "es", "zh", "haw", "yi"} <= set(ALL)


def test_the_order_of_all_languages_is_the_same_in_every_process() -> None:
    assert list(check_languages(None)) == sorted(check_languages(None))


def test_a_model_with_one_more_language_allows_one_more() -> None:
    assert check_languages(["yue"], 100) == ("yue",)
    with pytest.raises(UnknownLanguageError, match=r"yue.*large-v3"):
        check_languages(["yue"], 99)


def test_languages_keep_their_order_and_repeats_count_once() -> None:
    assert check_languages(["es", "en", "es"]) == ("es", "en")


@pytest.mark.parametrize("code", ["xx", "klingon", "", "x-US"])
def test_an_unknown_language_is_named_in_a_line(code: str) -> None:
    with pytest.raises(UnknownLanguageError, match=f"unknown language {code!r}") as error:
        check_languages(["en", code])
    assert len(str(error.value)) < 120


def test_a_language_may_be_given_in_any_usual_way() -> None:
    assert check_languages(["EN", "english", "en-GB", "pt-BR", "zh_Hans", "iw"]) == ("en", "pt", "zh", "he")
    assert log_prior(("en", "pt"), {"pt_BR": 2.0}).round(2).tolist() == [0.0, 0.69]


@pytest.mark.parametrize("languages", [[], (), "en", "en,es", ""])
def test_no_language_or_a_plain_string_is_told_what_a_list_looks_like(languages: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\['en', 'es'\]"):
        check_languages(languages)


# --- the prior, the softmax, the options --------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="'es' must be a positive number"):
        log_prior(FIVE, {"en": 1.0, "es": weight})


def test_a_prior_for_a_language_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'de'"):
        log_prior(FIVE, {"de": 2.0})


@given(logits=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8), shift=st.floats(-1e4, 1e4))
def test_softmax_is_a_distribution_whatever_the_size_of_the_logits(logits: list[float], shift: float) -> None:
    found = softmax(np.array(logits))
    assert found.sum() == pytest.approx(1)
    assert found[int(np.argmax(logits))] == found.max()
    assert softmax(np.array(logits) + shift) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"window_ms": 99},
        {"window_ms": 30_001},
        {"trailing_silence_ms": -1},
        {"trailing_silence_ms": 30_001},
        {"min_speech_ms": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"english_bias": float("inf")},
        {"confident_above": 1.5},
        {"confident_hop_factor": 0},
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        LanguageIdOptions(**options)

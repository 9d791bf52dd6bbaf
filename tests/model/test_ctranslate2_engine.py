"""The engine ctranslate2 against our own network, with the same weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from test_weights import SMALL, ct2_variables, small_state

from whisperlab import SessionRestartTranscriber
from whisperlab.cli.arguments import model_options
from whisperlab.cli.commands import build_parser
from whisperlab.cli.sweep import shared
from whisperlab.config import TranscriberConfig
from whisperlab.data.scenes import Scene
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import read_variables, to_ctranslate2
from whisperlab.model.ctranslate2_engine import ctranslate2_engine
from whisperlab.model.encoder import Encoded
from whisperlab.model.engine import Engine, prepared
from whisperlab.model.text_decoder import Draft, Prompt
from whisperlab.model.tokenizer import Tokenizer, tokenizer_for
from whisperlab.model.weights import Weights
from whisperlab.streaming.language_id import LanguageIdentifier
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE

SPOKEN = ("en", "es", "fr", "it", "ru")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return models.load_weights("base")


@pytest.fixture(scope="module")
def theirs(weights: Weights) -> Engine:
    return ctranslate2_engine(weights, "fp32", 1)


@pytest.fixture(scope="module")
def ours(weights: Weights) -> Engine:
    return prepared(weights, "fp32")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_for("en")


@pytest.fixture(scope="module")
def encoded(ours: Engine, clip: FloatArray) -> Encoded:
    return ours[0].encode(clip, SAMPLE_RATE)


@pytest.fixture(scope="module")
def clip(scene: Scene) -> FloatArray:
    """One sentence in English."""
    segment = next(one for one in scene.reference.segments if one.lang == "en")
    return scene.audio[int(segment.start * SAMPLE_RATE) : int(segment.end * SAMPLE_RATE)]


def draft(engine: Engine, encoded: Encoded, tokenizer: Tokenizer, budget: int = 60, **given: Any) -> Draft:
    mask = torch.zeros(engine[1].n_vocabulary)
    mask[[*tokenizer.non_speech_tokens, *range(tokenizer.eot + 1, len(mask))]] = -torch.inf
    prompt = {"forced": (), "expected": (), **given}
    with torch.inference_mode():
        return engine[1].greedy(encoded, [Prompt(tokenizer, budget=budget, **prompt)], mask)[0]


def test_the_file_written_for_ctranslate2_is_what_its_converter_writes(weights: Weights) -> None:
    written = read_variables(to_ctranslate2(weights.dims, weights.state))
    published = read_variables((models.ct2_folder("base") / "model.bin").read_bytes())
    assert written.keys() == published.keys()
    for name, value in published.items():
        assert written[name].dtype == value.dtype, name
        np.testing.assert_array_equal(written[name], value, err_msg=name)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_other_stored_precisions_are_written_in_float32(kind: torch.dtype) -> None:
    state = {name: value.to(kind) for name, value in small_state().items()}
    written = read_variables(to_ctranslate2(SMALL, state))
    for name, value in ct2_variables({name: value.float() for name, value in state.items()}, SMALL).items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)


def test_features_are_those_of_our_network(ours: Engine, theirs: Engine, clip: FloatArray, encoded: Encoded) -> None:
    found = theirs[0].encode(clip, SAMPLE_RATE, pool_after=3)  # which has no effect
    assert found.n_audio == encoded.n_audio
    assert found.features.shape == encoded.features.shape
    assert (found.features - encoded.features).norm() < 1e-4 * encoded.features.norm()


def test_posteriors_are_those_of_our_network(ours: Engine, theirs: Engine, encoded: Encoded) -> None:
    for languages in (SPOKEN, ("ru", "en")):
        mine, other = (LanguageIdentifier(decoder, languages) for _, decoder in (ours, theirs))
        np.testing.assert_allclose(other.posterior(encoded.features), mine.posterior(encoded.features), atol=1e-3)


@pytest.mark.parametrize("n_forced", [0, 3])
def test_text_and_times_are_those_of_our_network(
    ours: Engine, theirs: Engine, encoded: Encoded, tokenizer: Tokenizer, n_forced: int
) -> None:
    whole = draft(ours, encoded, tokenizer).tokens
    mine, other = (draft(one, encoded, tokenizer, forced=whole[:n_forced]) for one in (ours, theirs))
    assert other.tokens == mine.tokens == whole[n_forced:]
    assert (other.looped, mine.looped) == (False, False)
    np.testing.assert_allclose(other.no_speech(), mine.no_speech(), atol=1e-3)
    # suppressed tokens have a share of the probability in one engine and not in the other
    np.testing.assert_allclose(np.exp(other.log_probabilities), np.exp(mine.log_probabilities), atol=0.1)
    assert len(other.starts()) == len(mine.starts()) == len(whole) + 1
    assert np.median(abs(other.starts() - mine.starts())) <= 2  # positions of 20 ms


def test_texts_of_one_call_are_those_of_a_call_each(theirs: Engine, encoded: Encoded) -> None:
    mask = torch.zeros(theirs[1].n_vocabulary)
    prompts = [Prompt(tokenizer_for(language), (), (), 30) for language in ("en", "es", "ru")]
    alone = [theirs[1].greedy(encoded, [prompt], mask)[0] for prompt in prompts]
    together = theirs[1].greedy(encoded, prompts, mask)
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-3)
        assert one.starts().tolist() == other.starts().tolist()
        assert one.no_speech() == pytest.approx(other.no_speech(), abs=1e-4)


@pytest.mark.parametrize("n_forced", [0, 3])
def test_the_budget_bounds_the_new_tokens(
    theirs: Engine, encoded: Encoded, tokenizer: Tokenizer, n_forced: int
) -> None:
    whole = draft(theirs, encoded, tokenizer).tokens
    for budget in (0, 1, 2):
        found = draft(theirs, encoded, tokenizer, budget, forced=whole[:n_forced])
        assert found.tokens == whole[n_forced : n_forced + budget]
        assert found.looped


def test_a_loop_is_cut_off(theirs: Engine, tokenizer: Tokenizer, clip: FloatArray) -> None:
    """A repeated text that the speech does not repeat: the forced tokens are two rounds, the model adds more."""
    encoded = theirs[0].encode(clip[: SAMPLE_RATE // 2], SAMPLE_RATE)
    said = tokenizer.encode(" la la la la la la la la")
    found = draft(theirs, encoded, tokenizer, forced=said[:6], budget=100)
    assert found.looped == (len(found.tokens) < 100)
    assert len(found.tokens) <= 4


@pytest.mark.parametrize("n_vocab,n_mels", [(51_864, 80), (51_865, 80), (51_866, 128)])
def test_every_kind_of_vocabulary_runs_to_the_end(n_vocab: int, n_mels: int) -> None:
    dims = {**SMALL, "n_vocab": n_vocab, "n_mels": n_mels, "n_text_ctx": 448, "n_audio_ctx": 1500}
    weights = Weights("small", dims, small_state(dims), models.alignment_heads(None, 6, 8), torch.device("cpu"))
    language = {"language": "en"} if weights.n_languages == 1 else {"languages": ["en", "es"]}
    config = TranscriberConfig().replace({"compute.engine": "ctranslate2", "compute.precision": "fp32", **language})
    transcriber = SessionRestartTranscriber(weights, config=config)
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)
    transcriber.process(noise)
    transcriber.parts.probe.add_frame()
    transcriber.parts.stream.detector.at_pause(transcriber.parts.stream.text.language)
    transcriber.finalize()
    assert transcriber.config()["language_id"]["pool_after"] is None  # averaging positions is not used


def test_a_recording_has_the_same_words_with_either_engine(scene: Scene, weights: Weights) -> None:
    said = {}
    for engine in ("whisperlab", "ctranslate2"):
        options = {"compute.engine": engine, "compute.precision": "fp32", "language_id.pool_after": None}
        transcriber = SessionRestartTranscriber(weights, SPOKEN, config=TranscriberConfig().replace(options))
        results = [transcriber.process(scene.audio[: 5 * SAMPLE_RATE]), transcriber.finalize()]
        segments = [segment for result in results for segment in result.segments]
        said[engine] = [(segment.language, segment.text) for segment in segments]
        assert all(word.start <= word.end for segment in segments for word in segment.words)
    assert said["whisperlab"] == said["ctranslate2"] != []


def test_options_that_the_engine_lacks_are_refused(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="compiled needs the engine whisperlab"):
        TranscriberConfig().replace({"compute.engine": "ctranslate2", "compute.compiled": True})
    with pytest.raises(ConfigurationError, match=r"has the precisions fp32, .*got 'fp64'"):
        ctranslate2_engine(weights, "fp64", 1)
    with pytest.raises(ConfigurationError, match="engine must be one of whisperlab, ctranslate2, got 'onnx'"):
        TranscriberConfig().replace({"compute.engine": "onnx"})
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'whisperlab\[other-systems\]'"):
        ctranslate2_engine(weights, "fp32", 1)


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["listen"], ["profile", "a.wav"]])
def test_commands_that_transcribe_have_the_option(command: list[str]) -> None:
    args = build_parser().parse_args([*command, "--engine", "ctranslate2"])
    assert model_options(args)["engine"] == "ctranslate2"


@pytest.mark.parametrize("command", [["sweep"], ["search", "--space", "{}"]])
def test_all_runs_of_a_sweep_have_the_engine(command: list[str]) -> None:
    args = build_parser().parse_args([*command, "--engine", "ctranslate2"])
    assert shared(args, ())["compute.engine"] == "ctranslate2"

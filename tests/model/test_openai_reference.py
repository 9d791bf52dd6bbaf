"""The parts taken over from openai-whisper give the same values as openai-whisper, bit by bit."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.attention import median_filter
from whisperlab.model.encoder import log_mel_spectrogram
from whisperlab.model.engine import prepared
from whisperlab.model.languages import CODES
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.model.weights import URLS, alignment_heads
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder
from whisperlab.util.audio_arrays import chunks
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

whisper = pytest.importorskip("whisper", reason="compares with openai-whisper (extra reference)")
whisper_timing = pytest.importorskip("whisper.timing")
whisper_tokenizer = pytest.importorskip("whisper.tokenizer")

TEXTS = (
    " Press one, and say it's O'Neill's: 1,000 $ -- twenty-five.",
    " Oprima el número dos. ¿Está ahí, señor? (RISAS) ♪♪♪",
    " 请按一号键。明日は雨です。สวัสดีครับ 안녕하세요",
    " Привет, как дела? Ñandú, Straße, naïve 👍🏽 \ufffd",
    "\n\n  spaces \t and\u00a0more",
)


@pytest.mark.model
@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_spectrograms_are_openai_whispers(scene: Scene, n_mels: int) -> None:
    quiet, silence = scene.audio[:48_000] * np.float32(1e-3), np.zeros(16_000, np.float32)
    for audio in (*chunks(scene.audio, 40_001), quiet, silence, scene.audio[:320]):
        ours = log_mel_spectrogram(audio, n_mels, torch.device("cpu"))
        assert torch.equal(ours, whisper.log_mel_spectrogram(audio, n_mels))


@pytest.mark.model
@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("language", ["en", "es"])
def test_a_beam_search_finds_the_text_of_openai_whispers(
    base_model: Whisper, scene: Scene, language: str, width: int
) -> None:
    clip = scene.clip(scene.first_in(language))[: 4 * SAMPLE_RATE]
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip))
    asked = whisper.DecodingOptions(language=language, beam_size=width, without_timestamps=True, fp16=False)
    theirs = whisper.decode(base_model, mel, asked)
    encoder, stack = prepared(base_model, "fp32")
    decoder = SpeechDecoder(encoder, stack, DecodingOptions(final_beam=width), PerformanceMetrics())
    encoded = decoder.encoded(clip, 0, 30 - len(clip) / SAMPLE_RATE)
    with torch.inference_mode():
        draft = decoder.draft(encoded, len(clip) / SAMPLE_RATE, language, (), (), width)
    assert draft.tokens == theirs.tokens


@pytest.mark.parametrize("shape", [(3, 5, 40), (1, 1, 7), (2, 3, 4), (2, 3, 3), (8, 20, 1)])
def test_the_median_filter_is_openai_whispers(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(median_filter(x, 7), whisper_timing.median_filter(x, 7))


@pytest.mark.parametrize("name", whisper.available_models())
def test_alignment_heads_and_addresses_are_openai_whispers(name: str) -> None:
    layers = {"tiny": (4, 6), "base": (6, 8), "small": (12, 12), "medium": (24, 16), "large": (32, 20)}
    n_layers, n_heads = layers[name.partition("-")[0].partition(".")[0].replace("turbo", "large")]
    n_layers = 4 if "turbo" in name else n_layers
    shape = {"n_text_layer": n_layers, "n_text_head": n_heads}
    other = {"n_mels": 1, "n_audio_ctx": 1, "n_audio_state": 4, "n_audio_head": 1, "n_audio_layer": 1}
    dims = whisper.ModelDimensions(**other, **shape, n_vocab=1, n_text_ctx=1, n_text_state=n_heads)
    model = whisper.model.Whisper(dims)
    assert torch.equal(
        alignment_heads(None, n_layers, n_heads), model.alignment_heads.to_dense().bool()
    )  # of an unknown model
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
    assert torch.equal(alignment_heads(name, n_layers, n_heads), model.alignment_heads.to_dense().bool())
    assert URLS == whisper._MODELS


@pytest.mark.parametrize("n_languages", [1, 99, 100])
def test_every_token_and_every_special_token_is_openai_whispers(n_languages: int) -> None:
    if n_languages == 1:
        theirs, ours = whisper_tokenizer.get_tokenizer(False), tokenizer_for("en", 1)
    else:
        theirs = whisper_tokenizer.get_tokenizer(True, num_languages=n_languages, language="es", task="transcribe")
        ours = tokenizer_for("es", n_languages)
    assert ours.encoding.n_vocab == theirs.encoding.n_vocab
    assert all(
        ours.encoding.decode_single_token_bytes(token) == theirs.encoding.decode_single_token_bytes(token)
        for token in range(ours.encoding.n_vocab)
    )
    assert tuple(CODES) == tuple(whisper_tokenizer.LANGUAGES)
    names = ("eot", "sot", "no_speech", "no_timestamps", "timestamp_begin", "sot_sequence")
    for name in (*names, "non_speech_tokens"):
        assert getattr(ours, name) == getattr(theirs, name), name
    pairs = [dict(zip(one.all_language_codes, one.all_language_tokens, strict=True)) for one in (ours, theirs)]
    assert pairs[0] == {code: token for code, token in pairs[1].items() if n_languages > 1 or code == "en"}


@pytest.mark.parametrize("language", ["en", "es", "zh", "th", "haw"])
def test_texts_tokens_and_words_are_openai_whispers(language: str) -> None:
    theirs = whisper_tokenizer.get_tokenizer(True, num_languages=100, language=language, task="transcribe")
    ours = tokenizer_for(language, 100)
    draw = random.Random(0)
    for text in TEXTS:
        tokens = theirs.encode(text)
        assert ours.encode(text) == tokens
        timed = [theirs.timestamp_begin, *tokens, theirs.timestamp_begin + 50, theirs.eot]
        assert ours.decode(timed) == theirs.decode(timed)
        assert ours.split_to_word_tokens([*tokens, ours.eot]) == theirs.split_to_word_tokens([*tokens, theirs.eot])
    for _ in range(50):  # parts of characters, in any order, as a model may produce them
        tokens = [draw.randrange(theirs.eot) for _ in range(draw.randrange(1, 30))] + [theirs.eot]
        assert ours.split_to_word_tokens(list(tokens)) == theirs.split_to_word_tokens(list(tokens))


def test_a_language_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(ValueError, match="one of 99 codes of Whisper, got 'yue'"):
        tokenizer_for("yue", 99)

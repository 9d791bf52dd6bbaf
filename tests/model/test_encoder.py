"""The encoder on short windows and the text decoder, compared number by number with openai-whisper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from whisperlab.model import linear
from whisperlab.model.encoder import MANY_ROWS, PLAIN_ATTENTION, Encoded, ShortWindowEncoder, positions
from whisperlab.model.linear import (
    MOST_ROWS,
    ROWS,
    Precision,
    activations,
    check_precision,
    has_bf16,
    packed_linear,
    split_rows,
)
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import load_weights, weights_of
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.timeline import MAX_WINDOW, POSITION, SAMPLE_RATE

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Scene
    from whisper.model import Whisper

# float32 sums in another order differ in the sixth digit; features and logits reach some tens.
CLOSE = {"rtol": 1e-4, "atol": 2e-3}


@pytest.fixture(scope="module")
def clip(scene: Scene) -> FloatArray:
    """Two seconds and a bit: no whole number of positions."""
    return scene.audio[: 2 * SAMPLE_RATE + 77]


@pytest.fixture(scope="module")
def stack(base_model: Whisper) -> TextDecoder:
    return TextDecoder(weights_of(base_model))


@pytest.fixture(scope="module")
def encoded(base_model: Whisper, clip: FloatArray) -> Encoded:
    return ShortWindowEncoder(weights_of(base_model)).encode(clip, SAMPLE_RATE)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    from whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(True, language="en", task="transcribe")
    return [*tokenizer.sot_sequence_including_notimestamps, *tokenizer.encode(" Something is terribly wrong")]


# --- the encoder --------------------------------------------------------------------------------------


def test_positions_cover_the_samples_and_no_more() -> None:
    for n in (1, POSITION - 1, POSITION, POSITION + 1, MAX_WINDOW):
        assert 0 <= positions(n) * POSITION - n < POSITION


@pytest.mark.model
def test_padded_to_thirty_seconds_it_is_openai_whispers_encoder(base_model: Whisper, clip: FloatArray) -> None:
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    mel = log_mel_spectrogram(pad_or_trim(clip), base_model.dims.n_mels)
    with torch.inference_mode():
        expected = base_model.encoder(mel[None])[0]
    ours = ShortWindowEncoder(weights_of(base_model)).encode(clip, MAX_WINDOW)
    torch.testing.assert_close(ours.features, expected, **CLOSE)
    assert ours.n_audio == positions(len(clip))


@pytest.mark.model
@pytest.mark.parametrize("n,margin", [(1, 0), (POSITION, 0), (POSITION + 1, 5), (16_000, 8_000)])
def test_a_window_has_the_positions_of_its_audio_and_its_margin(
    base_model: Whisper, clip: FloatArray, n: int, margin: int
) -> None:
    encoded = ShortWindowEncoder(weights_of(base_model)).encode(clip[:n], margin)
    assert encoded.features.shape == (positions(n + margin), base_model.dims.n_audio_state)
    assert encoded.n_audio == positions(n)
    assert torch.isfinite(encoded.features).all()


@pytest.mark.model
def test_a_margin_is_silence_after_the_audio(base_model: Whisper, clip: FloatArray, encoded: Encoded) -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    by_hand = ShortWindowEncoder(weights_of(base_model)).encode(np.concatenate([clip, silence]), 0)
    torch.testing.assert_close(by_hand.features, encoded.features, **CLOSE)
    assert by_hand.n_audio > encoded.n_audio


@pytest.mark.model
def test_every_window_encoded_is_counted_with_its_margin(base_model: Whisper, clip: FloatArray) -> None:
    encoder = ShortWindowEncoder(weights_of(base_model))
    assert (encoder.calls, encoder.encoded_samples) == (0, 0)
    encoder.encode(clip[:1000], 100)
    encoder.encode(clip[:POSITION], 0)
    assert (encoder.calls, encoder.encoded_samples) == (2, 4 * POSITION + POSITION)


@pytest.mark.model
@pytest.mark.parametrize("n", [0, MAX_WINDOW + 1])
def test_a_window_without_audio_or_beyond_thirty_seconds_is_refused(base_model: Whisper, n: int) -> None:
    encoder = ShortWindowEncoder(weights_of(base_model))
    with pytest.raises(AudioFormatError, match=f"got {n}"):
        encoder.encode(np.zeros(n, np.float32), 0)
    assert encoder.calls == 0


@pytest.mark.model
def test_pooling_halves_the_positions_and_keeps_what_they_mean(
    base_model: Whisper, clip: FloatArray, encoded: Encoded
) -> None:
    encoder = ShortWindowEncoder(weights_of(base_model))
    for n in (POSITION, 3 * POSITION, len(clip)):
        whole, pooled = (encoder.encode(clip[:n], 0, after) for after in (None, 1))
        assert len(pooled.features) == -(-len(whole.features) // 2)
        assert pooled.n_audio == -(-whole.n_audio // 2)
    n_blocks = base_model.dims.n_audio_layer
    late = encoder.encode(clip, SAMPLE_RATE, n_blocks - 1).features
    pairs = encoded.features[: len(encoded.features) // 2 * 2].unflatten(0, (-1, 2)).mean(1)
    assert torch.cosine_similarity(late[: len(pairs)], pairs).median() > 0.8


@pytest.mark.model
@pytest.mark.parametrize("after", [-1, 6])
def test_pooling_where_no_block_follows_is_refused(base_model: Whisper, clip: FloatArray, after: int) -> None:
    """It would pool nothing and say that it had."""
    with pytest.raises(ConfigurationError, match=f"got {after}"):
        ShortWindowEncoder(weights_of(base_model)).encode(clip, 0, after)


@pytest.mark.model
def test_encoders_that_share_a_network_count_apart(base_model: Whisper, clip: FloatArray) -> None:
    one = ShortWindowEncoder(weights_of(base_model))
    one.encode(clip, 0)
    other = one.with_own_counts()
    assert (other.calls, other.encoded_samples) == (0, 0)
    torch.testing.assert_close(other.encode(clip, 0).features, one.encode(clip, 0).features)
    assert (one.calls, other.calls) == (2, 1)
    one.reset_counts()
    assert (one.calls, one.encoded_samples, other.calls) == (0, 0, 1)


@pytest.mark.model
@pytest.mark.parametrize("pool_after", [None, 3])
def test_windows_encoded_together_are_those_encoded_alone(
    base_model: Whisper, scene: Scene, pool_after: int | None
) -> None:
    encoder = ShortWindowEncoder(weights_of(base_model))
    windows = [scene.audio[start : start + 20_000] for start in (0, 16_000, 48_000)]
    together = encoder.encode_batch(windows, SAMPLE_RATE, pool_after)
    assert (encoder.calls, encoder.encoded_samples) == (3, 3 * positions(20_000 + SAMPLE_RATE) * POSITION)
    for found, window in zip(together, windows, strict=True):
        alone = encoder.encode(window, SAMPLE_RATE, pool_after)
        torch.testing.assert_close(found.features, alone.features, **CLOSE)
        assert found.n_audio == alone.n_audio


@pytest.mark.model
def test_a_batch_of_several_lengths_or_none_is_refused(base_model: Whisper, clip: FloatArray) -> None:
    encoder = ShortWindowEncoder(weights_of(base_model))
    for windows, told in (([clip, clip[1:]], "one length"), ([], "got none")):
        with pytest.raises(AudioFormatError, match=told):
            encoder.encode_batch(windows, 0)


# --- linear layers -----------------------------------------------------------------------------------------


PRECISIONS = [name for name in ("fp32", "bf16", "int8") if name != "bf16" or has_bf16(torch.device("cpu"))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(1,), (2,), (16,), (300,), (3, 90)], ids=str)
def test_a_packed_layer_is_the_linear_layer_whatever_follows_it(precision: Precision, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*size, generator=generator) for size in ((64, 128), (64,)))
    x, to = (torch.randn(*shape, n, generator=generator) for n in (128, 64))
    of, kind = packed_linear(weight, bias, precision), activations(precision)
    given, base = x.to(kind), to.to(kind)
    kept = given.clone(), base.clone()
    expected = F.linear(x, weight, bias)
    for found, exact in (
        (of(given), expected),
        (of.gelu(given), F.gelu(expected)),
        (of.added(given, base), expected + to),
    ):
        assert found.dtype is kind
        assert found.shape == exact.shape
        assert relative_error(found.float(), exact) < 0.02
    torch.testing.assert_close((given, base), kept)  # the arguments are unchanged


def test_layers_meet_few_numbers_of_rows_whatever_lengths_a_stream_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps code for every number of rows it has met, over half a megabyte each."""
    met: set[int] = set()
    for n in range(1, 700):
        met |= {len(part) for part in split_rows(torch.zeros(n, 4))}
    assert met <= {1, *range(ROWS, MOST_ROWS + 1, ROWS)}


def test_attention_over_long_windows_meets_few_shapes(few_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps code for every shape that fused attention in bfloat16 has met: a stream grew by 15 MB an hour."""
    encoder = ShortWindowEncoder(load_weights(few_weights), "bf16" if has_bf16(torch.device("cpu")) else "fp32")
    met: set[tuple[int, int]] = set()
    fused = F.scaled_dot_product_attention

    def seen(query: torch.Tensor, key: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        met.add((query.shape[2], key.shape[2]))
        return fused(query, key, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    audio = np.zeros(MAX_WINDOW, np.float32)
    for n in range(PLAIN_ATTENTION + 1, PLAIN_ATTENTION + 2 * MANY_ROWS, 29):
        encoder.encode(audio[: n * POSITION], 0)
    assert 0 < len(met) <= 3


@pytest.mark.model
def test_in_bfloat16_the_encoder_is_itself_but_for_two_percent(
    base_model: Whisper, clip: FloatArray, encoded: Encoded
) -> None:
    if not has_bf16(torch.device("cpu")):
        with pytest.raises(ConfigurationError, match="AVX-512 BF16"):
            check_precision("bf16", torch.device("cpu"))
        return
    half = ShortWindowEncoder(weights_of(base_model), "bf16").encode(clip, SAMPLE_RATE)
    assert half.features.dtype is torch.bfloat16
    assert relative_error(half.features.float(), encoded.features) < 0.03


# --- eight bits ---------------------------------------------------------------------------------------


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.model
def test_in_eight_bits_the_encoder_is_nearly_itself(base_model: Whisper, clip: FloatArray, encoded: Encoded) -> None:
    eight = ShortWindowEncoder(weights_of(base_model), "int8").encode(clip, SAMPLE_RATE)
    with_vnni = torch.cpu._is_vnni_supported()  # else a bit less is left
    assert 0 < relative_error(eight.features, encoded.features) < (0.12 if with_vnni else 0.16)


@pytest.mark.model
def test_in_eight_bits_the_decoder_says_nearly_the_same(
    base_model: Whisper, stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    eight = TextDecoder(weights_of(base_model), "int8")
    found, expected = (extended(one, encoded, [tokens]) for one in (eight, stack))
    assert 0 < relative_error(found, expected) < 0.1
    found = eight.first_token_pass(encoded.features, tokens[0])
    assert relative_error(found, stack.first_token_pass(encoded.features, tokens[0])) < 0.1


@pytest.mark.model
def test_every_linear_layer_is_in_eight_bits(base_model: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own conversion leaves all of Whisper's layers as they are, and says nothing."""
    made: list[tuple[int, ...]] = []

    class Counted(linear.Int8Linear):
        __slots__ = ()

        def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
            made.append(tuple(weight.shape))
            super().__init__(weight, bias)

    assert linear.operator_works("int8")  # tried once per process, with a layer of its own
    monkeypatch.setattr(linear, "Int8Linear", Counted)
    weights = weights_of(base_model)
    layers, state = weights.dims["n_audio_layer"], weights.dims["n_audio_state"]
    ShortWindowEncoder(weights, "int8")
    block = [(3 * state, state), (state, state), (4 * state, state), (state, 4 * state)]  # three layers are one
    assert made == block * layers
    made.clear()
    TextDecoder(weights, "int8")
    of_decoder = sum(n * m for n, m in made)
    modules = [m for m in base_model.decoder.modules() if isinstance(m, torch.nn.Linear)]
    crossed = sum(m.weight.numel() for b in base_model.decoder.blocks for m in (b.cross_attn.key, b.cross_attn.value))
    assert of_decoder == sum(m.weight.numel() for m in modules) + crossed  # twice: for windows and for one query


def test_a_loud_row_does_not_coarsen_the_others() -> None:
    """With one scale for all rows, as torch's dynamic quantisation has, the quiet rows would be zero."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((64, 128), (64,)))
    rows = torch.randn(3, 128, generator=generator) * torch.tensor([[1e-3], [1.0], [1e4]])
    for given in (None, bias):
        exact, eight = packed_linear(weight, given, "fp32")(rows), packed_linear(weight, given, "int8")(rows)
        for found, expected in zip(eight, exact, strict=True):
            assert relative_error(found, expected) < 0.03


def test_rows_of_zeros_stay_the_bias() -> None:
    weight, bias = torch.ones(4, 8), torch.arange(4.0)
    torch.testing.assert_close(packed_linear(weight, bias, "int8")(torch.zeros(2, 8)), bias.expand(2, 4))


def test_a_packed_layer_leaves_its_arguments_unchanged() -> None:
    weight, x = torch.randn(4, 8), torch.randn(2, 8)
    before = weight.clone(), x.clone()
    packed_linear(weight, None, "int8")(x)
    torch.testing.assert_close((weight, x), before)


def test_a_precision_that_cannot_be_had_is_refused() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert check_precision("fp32", cuda) == "fp32"
    assert check_precision("int8", cpu) == check_precision(None, cpu, "decoder") == "int8"
    assert check_precision(None, cpu, "encoder") == ("bf16" if has_bf16(cpu) else "int8")
    with pytest.raises(ConfigurationError, match="cuda"):
        check_precision("int8", cuda)
    with pytest.raises(ConfigurationError, match="'fp8'"):
        check_precision("fp8", cpu)


# --- the text decoder --------------------------------------------------------------------------------


def extended(stack: TextDecoder, encoded: Encoded, pieces: Sequence[Sequence[int]]) -> torch.Tensor:
    """Hidden states of tokens given piece by piece."""
    state = stack.open(encoded)
    return torch.cat([stack.extend(state, piece) for piece in pieces])


@pytest.mark.model
def test_the_logits_are_openai_whispers(
    base_model: Whisper, stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    with torch.inference_mode():
        expected = base_model.decoder(torch.tensor([tokens]), encoded.features[None])[0]
    ours = stack.logits(extended(stack, encoded, [tokens]))
    torch.testing.assert_close(ours, expected, **CLOSE)


@pytest.mark.model
@pytest.mark.parametrize("size", [1, 3])
def test_tokens_piece_by_piece_are_tokens_at_once(
    stack: TextDecoder, encoded: Encoded, tokens: list[int], size: int
) -> None:
    pieces = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    whole = extended(stack, encoded, [tokens])
    torch.testing.assert_close(extended(stack, encoded, pieces), whole, **CLOSE)


@pytest.mark.model
def test_after_rewinding_nothing_is_left_of_the_tokens_taken_back(
    stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    state, fresh = stack.open(encoded), stack.open(encoded)
    stack.extend(state, [*tokens[:4], 1000, 2000, 3000], keep_alignment=True)
    stack.rewind(state, 4)
    assert state.n_tokens == 4
    after = stack.extend(state, tokens[4:], keep_alignment=True)
    expected = stack.extend(fresh, tokens, keep_alignment=True)[4:]
    torch.testing.assert_close(after, expected, **CLOSE)
    torch.testing.assert_close(state.alignment, fresh.alignment, **CLOSE)
    assert state.n_tokens == fresh.n_tokens == len(tokens)


@pytest.mark.model
def test_rewinding_to_later_than_now_changes_nothing(stack: TextDecoder, encoded: Encoded, tokens: list[int]) -> None:
    state = stack.open(encoded)
    stack.extend(state, tokens)
    stack.rewind(state, len(tokens) + 5)
    assert state.n_tokens == len(tokens)


@pytest.mark.model
def test_the_alignment_is_the_attention_of_openai_whispers_alignment_heads(
    base_model: Whisper, stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    from whisper.model import disable_sdpa

    scores: dict[int, torch.Tensor] = {}
    hooks = [
        block.cross_attn.register_forward_hook(lambda _, inputs, out, i=i: scores.update({i: out[-1][0]}))
        for i, block in enumerate(base_model.decoder.blocks)
    ]
    with torch.inference_mode(), disable_sdpa():
        base_model.decoder(torch.tensor([tokens]), encoded.features[None])
    for hook in hooks:
        hook.remove()
    heads = base_model.alignment_heads.indices().T.tolist()
    expected = torch.stack([scores[layer][head] for layer, head in heads]).softmax(-1)

    state = stack.open(encoded)
    stack.extend(state, tokens, keep_alignment=True)
    assert state.alignment.shape == (len(heads), len(tokens), len(encoded.features))
    torch.testing.assert_close(state.alignment, expected, **CLOSE)


@pytest.mark.model
def test_a_first_token_pass_is_opening_the_window_and_extending_by_one_token(
    stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    found = stack.first_token_pass(encoded.features, tokens[0])
    torch.testing.assert_close(found, extended(stack, encoded, [tokens[:1]]), **CLOSE)


@pytest.mark.model
def test_some_rows_of_the_vocabulary_are_those_of_all(stack: TextDecoder, encoded: Encoded, tokens: list[int]) -> None:
    hidden = extended(stack, encoded, [tokens])
    rows = torch.tensor([50_259, 7, 50_262])
    torch.testing.assert_close(stack.logits(hidden, rows), stack.logits(hidden)[:, rows], **CLOSE)


@pytest.mark.model
def test_more_tokens_than_whisper_has_places_for_are_refused_and_change_nothing(
    stack: TextDecoder, encoded: Encoded, tokens: list[int]
) -> None:
    state = stack.open(encoded)
    stack.extend(state, tokens)
    with pytest.raises(ValueError, match=str(stack.max_tokens)):
        stack.extend(state, [1000] * (stack.max_tokens - len(tokens) + 1))
    assert state.n_tokens == len(tokens)
    stack.extend(state, [1000] * (stack.max_tokens - len(tokens)))
    assert state.n_tokens == stack.max_tokens

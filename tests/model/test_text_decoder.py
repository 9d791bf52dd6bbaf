"""The state of the text decoder grows, is cut and continued; the likeliest tokens are exact; the draft saves passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import torch

from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.linear import Int8Rows, Precision, operator_works
from whisperlab.model.text_decoder import NEAR, ROOM, DecoderState, Draft, Prompt, TextDecoder
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.model.weights import Weights, weights_of
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VOCABULARY = 4500  # rows that are rounded in two parts


def small(precision: Precision = "fp32", fast: bool = True) -> TextDecoder:
    """A decoder of two small layers with random weights, the vocabulary in 16-bit floats."""
    dims = {"n_mels": 4, "n_audio_ctx": 6, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}
    dims |= {"n_vocab": VOCABULARY, "n_text_ctx": 4 * ROOM, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 2}
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(*shape, generator=draw) / 4 for name, shape in tensor_shapes(dims)}
    state["decoder.token_embedding.weight"] = state["decoder.token_embedding.weight"].half()
    return TextDecoder(Weights("tiny", dims, state, torch.ones(2, 2, dtype=torch.bool), CPU), precision, fast)


def window() -> Encoded:
    return Encoded(torch.randn(6, 16, generator=torch.Generator().manual_seed(1)), 6)


def fresh(decoder: TextDecoder, tokens: Sequence[int]) -> tuple[DecoderState, torch.Tensor]:
    """State and hidden states of a text in one pass."""
    state = decoder.open(window())
    return state, decoder.extend(state, tokens, keep_alignment=True)


def test_a_state_grows_beyond_its_room() -> None:
    decoder, tokens = small(), list(range(3 * ROOM))
    whole, expected = fresh(decoder, tokens)
    state = decoder.open(window())
    found = [decoder.extend(state, [token], keep_alignment=True) for token in tokens]
    torch.testing.assert_close(torch.cat(found), expected, **CLOSE)
    torch.testing.assert_close(state.alignment, whole.alignment, **CLOSE)


@pytest.mark.parametrize("room", [3, ROOM])  # tokens of each text before: the state grows later, or before
def test_texts_that_are_kept_continue_as_if_they_were_alone(room: int) -> None:
    """Each is a fresh pass, after some of its tokens were removed."""
    decoder = small()
    texts = [[100 * text + n for n in range(room)] for text in range(3)]
    state = decoder.open(window(), 3)
    decoder.extend(state, [token for text in texts for token in text], keep_alignment=True)
    decoder.keep(state, [2, 0])
    decoder.rewind(state, room - 2)
    found = decoder.extend(state, [7, 8, 9, 10, 11, 12], keep_alignment=True).chunk(2)
    rows = state.alignment.chunk(2)
    for n, (text, added) in enumerate(((2, [7, 8, 9]), (0, [10, 11, 12]))):
        alone, expected = fresh(decoder, [*texts[text][: room - 2], *added])
        torch.testing.assert_close(found[n], expected[-3:], **CLOSE)
        torch.testing.assert_close(rows[n], alone.alignment, **CLOSE)


@pytest.mark.parametrize("fast", [True, False])  # with rounded weights, and without
def test_the_likeliest_tokens_are_those_of_exact_logits(fast: bool) -> None:
    decoder = small(fast=fast)
    _, hidden = fresh(decoder, range(20))
    mask = torch.zeros(VOCABULARY)
    mask[decoder.logits(hidden).argmax(1)] = -torch.inf  # otherwise the first choices
    blank = (decoder.logits(hidden) + mask)[:2].argmax(1).tolist()
    logits = decoder.logits(hidden) + mask
    logits[:2, blank] = -torch.inf
    expected = logits.log_softmax(1).topk(6)
    found = decoder.likeliest(hidden, mask, 6, blank, 2)
    assert [[token for token, _ in row] for row in found] == expected.indices.tolist()
    probabilities = torch.tensor([[probability for _, probability in row] for row in found])
    torch.testing.assert_close(probabilities, expected.values, rtol=0, atol=0.002 if fast else 1e-5)


@pytest.mark.parametrize("bits", ["all", "without VNNI"])
def test_one_outlier_does_not_coarsen_the_rounded_logits(monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    """Final hidden states have one number up to 40 times as large as the others; with 8 bits the error is 20 %."""
    if bits == "without VNNI":
        monkeypatch.setattr("whisperlab.model.linear.cpu_instructions", lambda: (False, False, False))
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(VOCABULARY, 64, generator=draw), torch.randn(3, 64, generator=draw)
    x[:, 5], weight[:, 5] = 40.0, 0.0
    for rows in (x, x[:1]):
        expected = rows @ weight.T
        assert float((Int8Rows(weight)(rows) - expected).norm() / expected.norm()) < 0.01


def test_tokens_that_are_not_allowed_have_no_probability() -> None:
    """Even if fewer are allowed than the shortlist holds."""
    decoder = small()
    _, hidden = fresh(decoder, [1])
    mask = torch.full((VOCABULARY,), -torch.inf)
    mask[[5, 4400]] = 0
    (found,) = decoder.likeliest(hidden, mask, 3)
    assert {token for token, _ in found[:2]} == {5, 4400}
    assert sum(math.exp(probability) for _, probability in found[:2]) == pytest.approx(1, abs=1e-5)
    assert found[2][1] == -math.inf


class Passes(TextDecoder):
    """Counts its passes, and projections on all of the vocabulary in 32-bit floats, which take longer than a pass."""

    passes = projections = 0

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        self.projections += rows is None
        return super().logits(hidden, rows)

    def extend(self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False) -> torch.Tensor:
        self.passes += 1
        return super().extend(state, tokens, keep_alignment=keep_alignment)


@pytest.mark.model
def test_expected_tokens_after_a_difference_save_passes_and_change_nothing(base_model: Whisper, scene: Scene) -> None:
    clip = scene.clip(scene.first_in("es"))
    encoded = ShortWindowEncoder(weights_of(base_model)).encode(clip, SAMPLE_RATE)
    decoder, tokenizer = Passes(weights_of(base_model)), tokenizer_for("es")
    mask = torch.zeros(decoder.n_vocabulary)
    mask[tokenizer.eot + 1 :] = -torch.inf

    def decoded(expected: Sequence[int], budget: int = 60) -> tuple[Draft, int]:
        before = decoder.passes
        with torch.inference_mode():
            (draft,) = decoder.greedy(encoded, [Prompt(tokenizer, (), expected, budget)], mask)
        return draft, decoder.passes - before

    text, most = decoded(())
    tokens, end = text.tokens, len(text.tokens)
    assert end > 6
    for expected, n_passes in (
        (tokens, 1),
        ([*tokens[:2], 1000, *tokens[2:]], 2),  # one too many
        ([*tokens[:2], 1000, *tokens[3:]], 3),  # another one; the text is found again one token later
        ([*tokens[:2], *tokens[3:]], 3),  # one too few
        ([*tokens[:2], *[1000] * NEAR, *tokens[2:]], end - 1),  # too far away
        ([*tokens, 1000, 1001], 1),
    ):
        draft, passes = decoded(expected)
        assert (draft.tokens, passes) == (tokens, n_passes), expected
        assert draft.starts().tolist() == text.starts().tolist()
        assert draft.log_probabilities == pytest.approx(text.log_probabilities, abs=0.02)
    assert most == end + 1
    assert 0 <= text.no_speech() < 0.5
    assert decoder.projections == 0 or not operator_works("int8 rows")
    short, passes = decoded([1000, *tokens], 4)  # the draft is never longer than the budget
    assert (short.tokens, short.looped, passes) == (tokens[:4], True, 2)
    assert short.starts().tolist() == decoded((), 4)[0].starts().tolist()

"""Whisper's text decoder as a function of new tokens, the state so far, and one encoded window.

The key/value cache is a plain value. `TextDecoder.open` computes the keys and values of a window once;
`TextDecoder.extend` adds tokens and returns their hidden states. The caller chooses the rows of the vocabulary to
project on. Attention weights of the alignment heads are kept on request, for word times.

`TextDecoder.language_logits` and `TextDecoder.greedy` make it the decoder of an engine (`whisperlab.model.engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from whisperlab.model.attention import attended, looping, token_starts
from whisperlab.model.encoder import Block, Encoded, Norm, fused_attention
from whisperlab.model.linear import Int8Rows, Precision, activations, operator_works, packed_linear
from whisperlab.model.tokenizer import Tokenizer
from whisperlab.model.weights import Weights
from whisperlab.util.line_profile import line_profiled

SHORTLIST = 64  # tokens with exact logits; all of 636 choices on a development split were of the first two


@dataclass(slots=True, frozen=True)
class Prompt:
    """What a text begins with, and how long it may be."""

    tokenizer: Tokenizer
    forced: Sequence[int]  # the first tokens of the text
    expected: Sequence[int]  # the tokens that probably follow; they save time and never change the result
    budget: int  # most new tokens

    @property
    def tokens(self) -> list[int]:
        """Everything before the first new token."""
        return [*self.tokenizer.sot_sequence, self.tokenizer.no_timestamps, *self.forced]


@dataclass(slots=True)
class Draft:
    """The tokens that a decoder chose after a prompt, with their log-probabilities."""

    # encoder position at which each token of the text begins, forced ones included, and then the end of the text if
    # that was reached; computed by each call
    starts: Callable[[], NDArray[np.intp]]
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    no_speech: float = 0.0  # probability that the window holds no speech
    looped: bool = False  # stopped by a loop or by the budget

    @property
    def mean(self) -> float:
        return sum(self.log_probabilities) / len(self.log_probabilities)

    def cut(self, n_tokens: int) -> None:
        """Remove the last ``n_tokens``, which are a loop."""
        keep = max(len(self.tokens) - n_tokens, 0)
        del self.tokens[keep:], self.log_probabilities[keep:]
        self.looped = True


@dataclass(slots=True)
class DecoderState:
    """The decoder's state for one window. Keys and values have shape (heads, length, head size), one pair per layer."""

    cross: list[tuple[torch.Tensor, torch.Tensor]]
    past: list[tuple[torch.Tensor, torch.Tensor]]  # of the tokens so far
    alignment: torch.Tensor  # (alignment heads, tokens, positions), for the tokens whose `extend` asked for it
    n_tokens: int = 0


class _DecoderBlock(Block):
    """The layers of one decoder block, without the cross-attention's keys and values."""

    __slots__ = ("cross_mix", "cross_norm", "cross_query")

    def __init__(self, weights: Weights, name: str, n_head: int, precision: Precision, fast: bool) -> None:
        super().__init__(weights, name, n_head, precision, fast)
        self.cross_norm = Norm(weights, f"{name}.cross_attn_ln", activations(precision))
        weight, bias = fused_attention(weights, f"{name}.cross_attn", n_head)
        self.cross_query = packed_linear(weight.chunk(3)[0], bias.chunk(3)[0], precision, fast)
        self.cross_mix = packed_linear(*weights.layer(f"{name}.cross_attn.out"), precision, fast)


class TextDecoder:
    """The decoder half of Whisper; ``precision`` is that of its blocks. The vocabulary keeps its stored precision.

    ``fast`` is that of `packed_linear`; without it all logits are exact.
    """

    def __init__(self, weights: Weights, precision: Precision = "fp32", fast: bool = True) -> None:
        self.device, self.precision = weights.device, precision
        self._kind, self._n_head = activations(precision), weights.dims["n_text_head"]
        names = [f"decoder.blocks.{n}" for n in range(weights.dims["n_text_layer"])]
        self._blocks = [_DecoderBlock(weights, name, self._n_head, precision, fast) for name in names]
        # keys and values of the cross-attention of every layer as one linear layer: per layer keys, then values
        fused = [fused_attention(weights, f"{name}.cross_attn", self._n_head) for name in names]
        weight, bias = (torch.cat([part[len(part) // 3 :] for part in parts]) for parts in zip(*fused, strict=True))
        self._cross = packed_linear(weight, bias, precision, fast)
        del fused, weight, bias  # a gigabyte of a large model
        self._norm = Norm(weights, "decoder.ln")
        self._places = weights.tensor("decoder.positional_embedding")
        self._vocabulary = weights.tensor("decoder.token_embedding.weight", as_stored=True)
        rounds = fast and self.device.type == "cpu" and operator_works("int8 rows")
        self._rounded = Int8Rows(self._vocabulary) if rounds else None
        self.max_tokens, self.n_vocabulary = weights.dims["n_text_ctx"], weights.dims["n_vocab"]
        self._alignment_heads = [heads.nonzero()[:, 0].to(self.device) for heads in weights.alignment_heads]

    def open(self, encoded: Encoded) -> DecoderState:
        """The state of a window before its first token: keys and values of every layer."""
        with torch.inference_mode():
            cross = [(key, value) for key, value in self._across(encoded.features).contiguous()]
        empty = cross[0][0][:, :0]
        n_heads = sum(len(heads) for heads in self._alignment_heads)
        alignment = torch.empty(n_heads, 0, len(encoded.features), device=self.device)
        return DecoderState(cross, [(empty, empty)] * len(self._blocks), alignment)

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        """Remove every token after the first ``n_tokens``."""
        state.past = [(key[:, :n_tokens], value[:, :n_tokens]) for key, value in state.past]
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    @line_profiled
    def extend(self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False) -> torch.Tensor:
        """Add tokens to the state and return their hidden states, shape (new tokens, state).

        With ``keep_alignment`` the attention of the alignment heads is appended to ``state.alignment``.
        """
        start, end = state.n_tokens, state.n_tokens + len(tokens)
        if end > self.max_tokens:
            raise ValueError(f"tokens: Whisper decodes at most {self.max_tokens} per window, got {end}")
        with torch.inference_mode():
            x = self._embedded(tokens, start)
            kept: list[torch.Tensor] = []
            for layer, (block, heads) in enumerate(zip(self._blocks, self._alignment_heads, strict=True)):
                x = self._self_attention(block, x, state, layer)
                query = self._split(block.cross_query(block.cross_norm(x)))
                key, value = state.cross[layer]
                seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)
                x = block.mlp(block.cross_mix.added(self._merge(seen), x))
                if keep_alignment and len(heads):
                    kept.append((query[heads] @ key[heads].transpose(1, 2)).float().softmax(-1))
            state.n_tokens = end
            if kept:
                state.alignment = torch.cat([state.alignment, torch.cat(kept)], 1)
            return self._norm(x.float())

    def first_token_pass(self, features: torch.Tensor, token: int) -> torch.Tensor:
        """Hidden state after one first token, shape (1, state): `open` and `extend` without a state to continue."""
        with torch.inference_mode():
            x = self._embedded([token], 0)
            for block, (key, value) in zip(self._blocks, self._across(features), strict=True):
                _, _, own = block.query_key_value(block.attention_norm(x)).chunk(3, -1)  # attention to one token
                x = block.mix.added(own, x)
                query = self._split(block.cross_query(block.cross_norm(x)))
                seen = (query @ key.transpose(1, 2)).softmax(-1) @ value
                x = block.mlp(block.cross_mix.added(self._merge(seen), x))
            return self._norm(x.float())

    def language_logits(self, features: torch.Tensor, sot: int, rows: torch.Tensor) -> NDArray[np.float64]:
        """Logits of some tokens, those of languages, after the start of the transcript ``sot``."""
        found: NDArray[np.float64] = self.logits(self.first_token_pass(features, sot), rows)[0].double().cpu().numpy()
        return found

    @line_profiled
    def greedy(self, encoded: Encoded, prompt: Prompt, mask: torch.Tensor) -> Draft:
        """The likeliest tokens after a prompt, up to the end of the text, the budget, or a loop.

        ``mask``, shape (vocabulary,), is added to the logits.
        """
        tokenizer, start, forced = prompt.tokenizer, prompt.tokens, list(prompt.forced)
        state = self.open(encoded)
        expected = list(prompt.expected)
        hidden = self.extend(state, [*start, *expected], keep_alignment=True)
        first = len(start) - len(forced) - 1  # the row of the alignment that predicts the first token of the text
        at_start = self.likely_logits(hidden[:1])[0]
        draft = Draft(lambda: token_starts(state.alignment[:, first:], encoded.n_audio))
        draft.no_speech = float(at_start.softmax(-1)[tokenizer.no_speech])
        logits = self.likely_logits(hidden[len(start) - 1 :], mask)
        if not forced:
            logits[0, [tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
        at = 0  # row of logits that chooses the next token
        while len(draft.tokens) < prompt.budget:
            token = int(logits[at].argmax())
            if token == tokenizer.eot:
                self.rewind(state, len(start) + len(draft.tokens))
                return draft
            draft.tokens.append(token)
            draft.log_probabilities.append(float(logits[at].log_softmax(-1)[token]))  # logsumexp: 2 ms
            text = [*forced, *draft.tokens]
            rows = state.alignment[:, first : first + len(text)]
            if loop := looping(text, partial(attended, rows, encoded.n_audio)):
                draft.cut(loop)
                break
            if expected[at : at + 1] == [token]:
                at += 1
                continue
            self.rewind(state, len(start) + len(draft.tokens) - 1)
            hidden = self.extend(state, [token], keep_alignment=True)
            logits, at, expected = self.likely_logits(hidden, mask), 0, []
        draft.looped = True
        return draft

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Project hidden states (n, state) on the vocabulary, or on the given rows of it only."""
        with torch.inference_mode():
            weight = self._vocabulary if rows is None else self._vocabulary[rows]
            return F.linear(hidden, weight.float())

    def likely_logits(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`logits` (plus ``mask``), exact for the likeliest tokens only, shape (n, vocabulary).

        The `SHORTLIST` likeliest tokens of each row are exact, and therefore the choice among them. The rest come from
        weights rounded to 8 bits (`Int8Rows`). Reading the vocabulary is most of a token's time: on two cores with
        AVX2, 1.1 ms with rounded weights against 7.6 ms.
        """
        if self._rounded is None:
            exact = self.logits(hidden)
            return exact if mask is None else exact + mask
        with torch.inference_mode():
            rounded = self._rounded(hidden)
            if mask is not None:
                rounded += mask
            best = rounded.topk(SHORTLIST).indices
            among = (self._vocabulary[best].float() @ hidden[:, :, None])[..., 0]
            return rounded.scatter_(1, best, among if mask is None else among + mask[best])

    def _across(self, features: torch.Tensor) -> torch.Tensor:
        """Keys and values of a window, shape (layers, 2, heads, positions, head size)."""
        found = self._cross(features.to(self._kind))
        return found.view(len(features), len(self._blocks), 2, self._n_head, -1).permute(1, 2, 3, 0, 4)

    def _embedded(self, tokens: Sequence[int], start: int) -> torch.Tensor:
        x = self._vocabulary[torch.tensor(tokens, device=self.device)].float()
        return (x + self._places[start : start + len(tokens)]).to(self._kind)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), self._n_head, -1).transpose(0, 1)

    def _merge(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).flatten(1)

    def _self_attention(self, block: _DecoderBlock, x: torch.Tensor, state: DecoderState, layer: int) -> torch.Tensor:
        fused = block.query_key_value(block.attention_norm(x)).chunk(3, -1)
        query, key, value = map(self._split, fused)
        old_key, old_value = state.past[layer]
        key, value = torch.cat([old_key, key], 1), torch.cat([old_value, value], 1)
        state.past[layer] = (key, value)
        mask = None
        if len(x) > 1:
            mask = torch.ones(len(x), key.shape[1], dtype=torch.bool, device=x.device)
            mask = mask.tril(key.shape[1] - len(x))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        return block.mix.added(self._merge(seen), x)

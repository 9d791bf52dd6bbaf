"""Whisper's text decoder as a function of new tokens, what was computed before, and one encoded window.

openai-whisper keeps its key/value cache in module hooks and projects every token on the whole vocabulary.
Here the cache is a plain value: the keys and values of the window are computed once (`open`), each call of
`extend` adds tokens and returns their hidden states, and the caller decides which rows of the vocabulary it
wants (99 languages, or everything for the last token only). Attention weights of the alignment heads are
kept on request, for word times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from whisperlab.encoder import Encoded, fused_attention
from whisperlab.linear import Precision, product, product_of

if TYPE_CHECKING:
    from whisper.model import ResidualAttentionBlock, Whisper

SHORTLIST = 64  # tokens with exact logits; all of 636 choices on a development split were of the first two


@dataclass(slots=True)
class DecoderState:
    """All the decoder knows of one window: cross keys and values, and those of the tokens so far.

    Tensors have shape (heads, length, head size), one per layer. ``alignment`` holds attention weights of shape
    (alignment heads, tokens, positions) for the tokens whose `extend` asked for them.
    """

    cross: list[tuple[torch.Tensor, torch.Tensor]]
    past: list[tuple[torch.Tensor, torch.Tensor]]
    alignment: torch.Tensor
    n_tokens: int = 0


class _Block:
    """The products and norms of one block of the decoder.

    ``key`` and ``value`` of the cross-attention are also kept as they are, for `TextStack.glance`.
    """

    __slots__ = (
        *("attention_norm", "query_key_value", "mix"),
        *("cross_norm", "cross_query", "cross_key", "cross_value", "cross_mix"),
        *("mlp_norm", "expand", "contract", "key", "value"),
    )

    def __init__(self, block: ResidualAttentionBlock, precision: Precision) -> None:
        cross = block.cross_attn
        self.attention_norm, self.cross_norm, self.mlp_norm = block.attn_ln, block.cross_attn_ln, block.mlp_ln
        self.query_key_value = product(*fused_attention(block.attn), precision)
        self.mix = product_of(block.attn.out, precision)
        self.cross_query = product_of(cross.query, precision)
        self.cross_key = product_of(cross.key, precision)
        self.cross_value = product_of(cross.value, precision)
        self.cross_mix = product_of(cross.out, precision)
        self.expand = product_of(block.mlp[0], precision)
        self.contract = product_of(block.mlp[2], precision)
        self.key, self.value = cross.key, cross.value

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """What the two fully connected layers add."""
        return self.contract(F.gelu(self.expand(self.mlp_norm(x))))


class TextStack:
    """The decoder half of a loaded Whisper model; ``precision`` is that of its blocks' matrix products."""

    def __init__(self, model: Whisper, precision: Precision = "fp32") -> None:
        self._decoder = model.decoder
        self._blocks = [_Block(block, precision) for block in model.decoder.blocks]
        self._n_head = model.dims.n_text_head
        self.max_tokens = model.dims.n_text_ctx
        self.n_vocabulary = model.dims.n_vocab
        self.device = model.device
        heads = model.alignment_heads.to_dense().cpu()
        self._alignment_heads = [heads[layer].nonzero()[:, 0].to(self.device) for layer in range(len(heads))]

    def open(self, encoded: Encoded) -> DecoderState:
        """Keys and values of a window for every layer, ready for the first token."""
        with torch.inference_mode():
            cross = [
                (
                    self._split(block.cross_key(encoded.features)),
                    self._split(block.cross_value(encoded.features)),
                )
                for block in self._blocks
            ]
        empty = cross[0][0][:, :0]
        n_heads = sum(len(heads) for heads in self._alignment_heads)
        alignment = torch.empty(n_heads, 0, len(encoded.features), device=self.device)
        return DecoderState(cross, [(empty, empty)] * len(self._blocks), alignment)

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        """Forget every token after the first ``n_tokens``."""
        state.past = [(key[:, :n_tokens], value[:, :n_tokens]) for key, value in state.past]
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    def extend(
        self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False
    ) -> torch.Tensor:
        """Add tokens to the state and return their hidden states, shape (new tokens, state).

        With ``keep_alignment`` the attention of the alignment heads is appended to ``state.alignment``.
        """
        decoder = self._decoder
        start, end = state.n_tokens, state.n_tokens + len(tokens)
        if end > self.max_tokens:
            raise ValueError(f"Whisper decodes at most {self.max_tokens} tokens at once, got {end}")
        with torch.inference_mode():
            ids = torch.tensor(tokens, device=self.device)
            x = decoder.token_embedding(ids) + decoder.positional_embedding[start:end]
            kept: list[torch.Tensor] = []
            for layer, block in enumerate(self._blocks):
                x = x + self._self_attention(block, x, state, layer)
                query = self._split(block.cross_query(block.cross_norm(x)))
                seen = F.scaled_dot_product_attention(query, *state.cross[layer])
                x = x + block.cross_mix(self._merge(seen))
                if keep_alignment and len(self._alignment_heads[layer]):
                    kept.append(self._alignment(query, state, layer))
                x = x + block.mlp(x)
            state.n_tokens = end
            if kept:
                state.alignment = torch.cat([state.alignment, torch.cat(kept)], 1)
            hidden: torch.Tensor = decoder.ln(x)
            return hidden

    def glance(self, features: torch.Tensor, token: int) -> torch.Tensor:
        """Hidden state after one first token, shape (1, state): `open` and `extend` for a fraction of the work.

        A single query needs no keys or values of its own: ``q (W x) = (q W) x`` and ``sum a (W x) = W (sum a x)``,
        so the window is never projected. Self-attention of one token is its own value.
        """
        decoder = self._decoder
        with torch.inference_mode():
            x = decoder.token_embedding(torch.tensor([token], device=self.device))
            x = x + decoder.positional_embedding[:1]
            for block in self._blocks:
                _, _, value = block.query_key_value(block.attention_norm(x)).chunk(3, -1)
                x = x + block.mix(value)
                x = x + self._glance_across(block, x, features)
                x = x + block.mlp(x)
            hidden: torch.Tensor = decoder.ln(x)
            return hidden

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Project hidden states (n, state) on the vocabulary, or on the given rows of it only."""
        weight = self._decoder.token_embedding.weight
        with torch.inference_mode():
            return F.linear(hidden, weight if rows is None else weight[rows])

    def likely_logits(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`logits` (plus ``mask``) where they matter, shape (n, vocabulary).

        The `SHORTLIST` likeliest tokens of each row are exact, so is therefore the choice among them; the rest
        come from weights rounded to 8 bits (off by about 1 % in norm), which take a quarter of the memory to
        read. That reading is what a token costs: on two cores with AVX2, 1.1 ms against 7.6 ms.
        """
        if self._coarse is None:
            exact = self.logits(hidden)
            return exact if mask is None else exact + mask
        with torch.inference_mode():
            coarse = torch._weight_int8pack_mm(hidden.bfloat16(), *self._coarse).float()
            if mask is not None:
                coarse += mask
            best = coarse.topk(SHORTLIST).indices
            exact = (self._decoder.token_embedding.weight[best] @ hidden[:, :, None])[..., 0]
            return coarse.scatter_(1, best, exact if mask is None else exact + mask[best])

    @cached_property
    def _coarse(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The vocabulary rounded to 8 bits a weight, and the scale of each row; None where torch cannot use it."""
        if self.device.type != "cpu" or not hasattr(torch, "_weight_int8pack_mm"):
            return None
        with torch.inference_mode():
            weight = self._decoder.token_embedding.weight
            scale = weight.abs().amax(1).clamp_min(1e-9) / 127
            return (weight / scale[:, None]).round().to(torch.int8), scale.bfloat16()

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), self._n_head, -1).transpose(0, 1)

    def _merge(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).flatten(1)

    def _self_attention(
        self, block: _Block, x: torch.Tensor, state: DecoderState, layer: int
    ) -> torch.Tensor:
        fused = block.query_key_value(block.attention_norm(x)).chunk(3, -1)
        query, key, value = map(self._split, fused)
        old_key, old_value = state.past[layer]
        key, value = torch.cat([old_key, key], 1), torch.cat([old_value, value], 1)
        state.past[layer] = (key, value)
        mask = None
        if len(x) > 1:
            mask = torch.ones(len(x), key.shape[1], dtype=torch.bool, device=x.device)
            mask = mask.tril(key.shape[1] - len(x))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return block.mix(self._merge(seen))

    def _glance_across(self, block: _Block, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Cross-attention of one token on unprojected features (positions, state)."""
        n_state = features.shape[-1]
        size = n_state // self._n_head
        query = block.cross_query(block.cross_norm(x)).view(self._n_head, 1, size)
        key = block.key.weight.view(self._n_head, size, n_state)
        scores = (query @ key)[:, 0] @ features.T / size**0.5  # (heads, positions); keys have no bias
        seen = scores.softmax(-1) @ features  # (heads, state)
        weight = block.value.weight.view(self._n_head, size, n_state)
        mixed = (weight @ seen[:, :, None]).flatten() + block.value.bias
        return block.cross_mix(mixed[None])

    def _alignment(self, query: torch.Tensor, state: DecoderState, layer: int) -> torch.Tensor:
        heads = self._alignment_heads[layer]
        key = state.cross[layer][0][heads]
        scores = query[heads] @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        weights: torch.Tensor = scores.softmax(-1)
        return weights

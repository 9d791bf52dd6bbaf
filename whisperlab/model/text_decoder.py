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
from typing import NamedTuple

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

CLEAR = -0.69  # log-probability of a token that is more likely than all others together
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
    no_speech: Callable[[], float] = lambda: 0.0  # probability that the window holds no speech; computed by each call
    looped: bool = False  # stopped by a loop or by the budget

    @property
    def mean(self) -> float:
        return sum(self.log_probabilities) / len(self.log_probabilities)

    def cut(self, n_tokens: int) -> None:
        """Remove the last ``n_tokens``, which are a loop."""
        keep = max(len(self.tokens) - n_tokens, 0)
        del self.tokens[keep:], self.log_probabilities[keep:]
        self.looped = True


class _Text(NamedTuple):
    """A text of a beam search."""

    tokens: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    total: float = 0.0

    def longer(self, token: int, log_probability: float) -> _Text:
        total = self.total + log_probability
        return _Text((*self.tokens, token), (*self.log_probabilities, log_probability), total)


@dataclass(slots=True)
class DecoderState:
    """The decoder's state for one window and one or more texts of the same length.

    Keys and values have shape (heads, length, head size), one pair per layer. The heads of several texts follow each
    other, text by text.
    """

    cross: list[tuple[torch.Tensor, torch.Tensor]]  # shared by the texts
    past: list[tuple[torch.Tensor, torch.Tensor]]  # of the tokens so far
    alignment: torch.Tensor  # (alignment heads, tokens, positions), for the tokens whose `extend` asked for it
    n_texts: int = 1
    n_tokens: int = 0  # of each text


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

    def open(self, encoded: Encoded, n_texts: int = 1) -> DecoderState:
        """The state of a window before its first token: keys and values of every layer."""
        with torch.inference_mode():
            cross = [(key, value) for key, value in self._across(encoded.features).contiguous()]
        empty = cross[0][0][:, :0].repeat(n_texts, 1, 1)
        n_heads = n_texts * sum(len(heads) for heads in self._alignment_heads)
        alignment = torch.empty(n_heads, 0, len(encoded.features), device=self.device)
        return DecoderState(cross, [(empty, empty)] * len(self._blocks), alignment, n_texts)

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        """Remove every token after the first ``n_tokens``."""
        state.past = [(key[:, :n_tokens], value[:, :n_tokens]) for key, value in state.past]
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    def keep(self, state: DecoderState, texts: Sequence[int]) -> None:
        """Remove every text but these."""

        def kept(x: torch.Tensor) -> torch.Tensor:
            each = x.chunk(state.n_texts)
            return torch.cat([each[text] for text in texts])

        state.past = [(kept(key), kept(value)) for key, value in state.past]
        state.alignment, state.n_texts = kept(state.alignment), len(texts)

    @line_profiled
    def extend(self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False) -> torch.Tensor:
        """Add tokens to the state and return their hidden states, shape (new tokens, state).

        Several texts get the same number of tokens, text by text. With ``keep_alignment`` the attention of the
        alignment heads is appended to ``state.alignment``.
        """
        start, end = state.n_tokens, state.n_tokens + len(tokens) // state.n_texts
        if end > self.max_tokens:
            raise ValueError(f"tokens: Whisper decodes at most {self.max_tokens} per window, got {end}")
        with torch.inference_mode():
            x = self._embedded(tokens, start, end)
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
                by_text = torch.cat(kept).chunk(state.n_texts, 1)
                state.alignment = torch.cat([state.alignment, torch.cat(by_text)], 1)
            return self._norm(x.float())

    def first_token_pass(self, features: torch.Tensor, token: int) -> torch.Tensor:
        """Hidden state after one first token, shape (1, state): `open` and `extend` without a state to continue."""
        with torch.inference_mode():
            x = self._embedded([token], 0, 1)
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
    def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
        """The likeliest tokens after each prompt, up to the end of the text, the budget, or a loop.

        The texts are decoded together; those that have ended drop out. Prompts have the same length, and only one
        alone may have expected tokens. ``mask``, shape (vocabulary,), is added to the logits.
        """
        tokenizer, forced, expected = prompts[0].tokenizer, prompts[0].forced, list(prompts[0].expected)
        running, n_start = list(range(len(prompts))), len(prompts[0].tokens)
        state = self.open(encoded, len(prompts))
        given = [token for prompt in prompts for token in (*prompt.tokens, *prompt.expected)]
        hidden = self.extend(state, given, keep_alignment=True)
        first = n_start - len(forced) - 1  # the row of the alignment that predicts the first token of the text
        no_speech = partial(self._probability, tokenizer.no_speech, hidden[:1])
        drafts = [Draft(partial(token_starts, state.alignment, encoded.n_audio), no_speech=no_speech) for _ in prompts]
        hidden = torch.cat([rows[n_start - 1 :] for rows in hidden.chunk(len(prompts))])
        logits = self.likely_logits(hidden, mask).view(len(prompts), -1, self.n_vocabulary)
        if not forced:
            logits[:, 0, [tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
        at = 0  # row of logits that chooses the next token of each text
        while True:
            rows = state.alignment[:, first:].chunk(len(running))
            each = [(prompts[text], drafts[text], row) for text, row in zip(running, rows, strict=True)]
            kept = [n for n, one in enumerate(each) if _continued(*one, logits[n, at], encoded.n_audio)]
            if not kept:
                return drafts
            if len(kept) < len(running):
                running = [running[n] for n in kept]
                self.keep(state, kept)
            newest = [drafts[text].tokens[-1] for text in running]
            if expected[at : at + 1] == newest:
                at += 1
                continue
            self.rewind(state, n_start + len(drafts[running[0]].tokens) - 1)
            hidden = self.extend(state, newest, keep_alignment=True)
            logits, at, expected = self.likely_logits(hidden, mask)[:, None], 0, []

    @line_profiled
    def beam(self, encoded: Encoded, prompt: Prompt, mask: torch.Tensor, width: int) -> Draft:
        """The likeliest text of a beam search, by the mean log-probability of a token.

        As in openai-whisper, the search ends when ``width`` texts have ended. There is no search if the expected tokens
        are the greedy text and each of them is more likely than all others together (`CLEAR`).
        """
        tokenizer, forced, n_start = prompt.tokenizer, list(prompt.forced), len(prompt.tokens)
        state, first = self.open(encoded), _Text()
        hidden = self.extend(state, [*prompt.tokens, *prompt.expected], keep_alignment=True)
        no_speech = partial(self._probability, tokenizer.no_speech, hidden[:1])
        logits = self.likely_logits(hidden[n_start - 1 :], mask)
        if not forced:
            logits[0, [tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
        for token, row in zip([*prompt.expected, tokenizer.eot], logits.log_softmax(-1), strict=True):
            first = first.longer(token, float(row[token]))
        if min(first.log_probabilities) >= CLEAR:
            ended = [first]
        else:
            self.rewind(state, n_start)
            ended = self._search(state, logits[:1], mask, width, prompt)
        text = max(ended, key=lambda text: text.total / max(len(text.tokens) - 1, 1))
        n = len(text.tokens) - (text.tokens[-1:] == (tokenizer.eot,))
        if text is not first:
            self.keep(state, [0])
            self.rewind(state, n_start)
            if n:
                self.extend(state, text.tokens[:n], keep_alignment=True)
        rows = state.alignment[:, n_start - len(forced) - 1 :]
        starts = partial(token_starts, rows, encoded.n_audio)
        draft = Draft(starts, list(text.tokens[:n]), list(text.log_probabilities[:n]), no_speech, n >= prompt.budget)
        for end in range(1, n + 1):
            tokens = [*forced, *text.tokens[:end]]
            if loop := looping(tokens, partial(attended, rows[:, : len(tokens)], encoded.n_audio)):
                draft.cut(n - end + loop)
                break
        return draft

    def _search(
        self, state: DecoderState, logits: torch.Tensor, mask: torch.Tensor, width: int, prompt: Prompt
    ) -> list[_Text]:
        """The texts of a beam search that have ended, or those that fill the budget."""
        running, ended = [_Text()], list[_Text]()
        for _ in range(prompt.budget):
            likeliest = (logits - logits.logsumexp(-1, keepdim=True)).topk(2 * width)
            found = zip(running, likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            longer = [
                (parent, text.longer(token, probability))
                for parent, (text, tokens, probabilities) in enumerate(found)
                for token, probability in zip(tokens, probabilities, strict=True)
            ]
            going: list[tuple[int, _Text]] = []
            for parent, text in sorted(longer, key=lambda one: -one[1].total):
                if text.tokens[-1] == prompt.tokenizer.eot:
                    ended.append(text)
                else:
                    going.append((parent, text))
                if len(going) == width:
                    break
            if len(ended) >= width:
                return ended[:width]
            self.keep(state, [parent for parent, _ in going])
            running = [text for _, text in going]
            logits = self.likely_logits(self.extend(state, [text.tokens[-1] for text in running]), mask)
        return ended or running

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

    def _probability(self, token: int, hidden: torch.Tensor) -> float:
        return float(self.likely_logits(hidden)[0].softmax(-1)[token])

    def _across(self, features: torch.Tensor) -> torch.Tensor:
        """Keys and values of a window, shape (layers, 2, heads, positions, head size)."""
        found = self._cross(features.to(self._kind))
        return found.view(len(features), len(self._blocks), 2, self._n_head, -1).permute(1, 2, 3, 0, 4)

    def _embedded(self, tokens: Sequence[int], start: int, end: int) -> torch.Tensor:
        x = self._vocabulary[torch.tensor(tokens, device=self.device)].float()
        n_texts = len(tokens) // (end - start)
        return (x + self._places[start:end].repeat(n_texts, 1)).to(self._kind)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), self._n_head, -1).transpose(0, 1)

    def _merge(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).flatten(1)

    def _self_attention(self, block: _DecoderBlock, x: torch.Tensor, state: DecoderState, layer: int) -> torch.Tensor:
        n = len(x) // state.n_texts  # new tokens of each text
        fused = block.query_key_value(block.attention_norm(x)).view(state.n_texts, n, 3, self._n_head, -1)
        query, key, value = fused.permute(2, 0, 3, 1, 4).flatten(1, 2)
        old_key, old_value = state.past[layer]
        key, value = torch.cat([old_key, key], 1), torch.cat([old_value, value], 1)
        state.past[layer] = (key, value)
        mask = None
        if n > 1:
            mask = torch.ones(n, key.shape[1], dtype=torch.bool, device=x.device)
            mask = mask.tril(key.shape[1] - n)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        seen = seen.view(state.n_texts, self._n_head, n, -1).transpose(1, 2).reshape(x.shape)
        return block.mix.added(seen, x)


def _continued(prompt: Prompt, draft: Draft, rows: torch.Tensor, logits: torch.Tensor, n_audio: int) -> bool:
    """Add the likeliest token to a text unless it ends; ``rows`` is its alignment. Returns whether it goes on."""
    draft.starts = partial(token_starts, rows, n_audio)
    draft.looped = len(draft.tokens) >= prompt.budget
    if draft.looped:
        return False
    n_text, token = len(prompt.forced) + len(draft.tokens) + 1, int(logits.argmax())
    if token == prompt.tokenizer.eot:
        draft.starts = partial(token_starts, rows[:, :n_text], n_audio)
        return False
    draft.tokens.append(token)
    draft.log_probabilities.append(float(logits.log_softmax(-1)[token]))  # logsumexp: 2 ms
    loop = looping([*prompt.forced, *draft.tokens], partial(attended, rows[:, :n_text], n_audio))
    if loop:
        draft.cut(loop)
    return not loop

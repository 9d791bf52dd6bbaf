"""Whisper's text decoder as a function of new tokens, the state so far, and one encoded window.

`TextDecoder.open` computes the keys and values of a window once; `TextDecoder.extend` adds tokens and returns their
hidden states, `TextDecoder.likeliest` the tokens that may follow. Attention weights are kept for word times.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

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
ROOM = 32  # tokens for which a state has room when it grows
NEAR = 4  # the text is found again in the next so many expected tokens
# Tokens with exact logits. All of 342 choices on a development split were the first or second by rounded logits.
# Log-probabilities were off by 0.0002 on average, 0.002 at most.
SHORTLIST = 32

Likeliest: TypeAlias = list[list[tuple[int, float]]]  # for each row tokens with their log-probabilities


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

    def longer(self, token: int, log_probability: float) -> "_Text":
        total = self.total + log_probability
        return _Text((*self.tokens, token), (*self.log_probabilities, log_probability), total)


@dataclass(slots=True)
class DecoderState:
    """The decoder's state for one window and one or more texts of the same length.

    The heads of several texts follow each other, text by text.
    """

    # shared by the texts: for each layer keys (heads, head size, positions) and values (heads, positions, head size)
    cross: list[tuple[torch.Tensor, torch.Tensor]]
    past: torch.Tensor  # (layers, keys and values, heads, room, head size); room for more than `n_tokens`
    alignment: torch.Tensor  # (alignment heads, tokens, positions), for the tokens whose `extend` asked for it
    n_texts: int = 1
    n_tokens: int = 0  # of each text


class _DecoderBlock(Block):
    """The layers of one decoder block. Keys and values of a window are computed for all blocks together."""

    __slots__ = ("cross_mix", "cross_norm", "cross_query", "cross_value", "to_features")

    def __init__(self, weights: Weights, name: str, n_head: int, precision: Precision, fast: bool) -> None:
        super().__init__(weights, name, n_head, precision, fast)
        self.cross_norm = Norm(weights, f"{name}.cross_attn_ln", activations(precision))
        weight, bias = fused_attention(weights, f"{name}.cross_attn", n_head)
        (query, key, value), (query_bias, _, value_bias) = weight.chunk(3), bias.chunk(3)
        self.cross_query = packed_linear(query, query_bias, precision, fast)
        # the dot product of a query and a key is that of ``to_features(query)`` and the feature
        self.to_features = packed_linear(key.T, None, precision, fast)
        self.cross_value = packed_linear(value, value_bias, precision, fast)
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
            cross = [(key.mT, value) for key, value in self._across(encoded.features).contiguous()]
        values = cross[0][1]
        past = values.new_empty(len(self._blocks), 2, n_texts * self._n_head, 0, values.shape[-1])
        n_heads = n_texts * sum(len(heads) for heads in self._alignment_heads)
        alignment = torch.empty(n_heads, 0, len(encoded.features), device=self.device)
        return DecoderState(cross, past, alignment, n_texts)

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        """Remove every token after the first ``n_tokens``."""
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    def keep(self, state: DecoderState, texts: Sequence[int]) -> None:
        """Remove every text but these."""

        def kept(x: torch.Tensor, dim: int) -> torch.Tensor:
            each = x.chunk(state.n_texts, dim)
            return torch.cat([each[text] for text in texts], dim)

        state.past, state.alignment, state.n_texts = kept(state.past, 2), kept(state.alignment, 0), len(texts)

    @line_profiled
    def extend(self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False) -> torch.Tensor:
        """Add tokens to the state and return their hidden states, shape (new tokens, state).

        Several texts get the same number of tokens, text by text. With ``keep_alignment`` the attention of the
        alignment heads is appended to ``state.alignment``.
        """
        n = len(tokens) // state.n_texts
        start, end = state.n_tokens, state.n_tokens + n
        if end > self.max_tokens:
            raise ValueError(f"tokens: Whisper decodes at most {self.max_tokens} per window, got {end}")
        with torch.inference_mode():
            x, kept = self._embedded(tokens, start, end), list[torch.Tensor]()
            if end > state.past.shape[3]:
                state.past = F.pad(state.past[:, :, :, :start], (0, 0, 0, end + ROOM - start))
            past, split = state.past[:, :, :, :end], (state.n_texts, n, 3, self._n_head, state.past.shape[4])
            unseen = torch.full((n, end), -torch.inf, device=x.device).triu(start + 1) if n > 1 else None
            layers = self._blocks, past[:, 0].mT, past[:, 1], past[:, :, :, start:], state.cross, self._alignment_heads
            for block, keys, values, new, cross, heads in zip(*layers, strict=True):
                fused = block.query_key_value(block.attention_norm(x)).view(split).permute(2, 0, 3, 1, 4).flatten(1, 2)
                new.copy_(fused[1:])
                scores = torch.bmm(fused[0], keys)
                if unseen is not None:
                    scores += unseen
                seen = torch.bmm(scores.softmax(-1), values).view(state.n_texts, self._n_head, n, -1)
                x = block.mix.added(seen.transpose(1, 2).reshape(x.shape), x)
                x, attention = self._cross_attention(block, x, *cross)
                if keep_alignment and len(heads):
                    kept.append(attention[heads])
            state.n_tokens = end
            if kept:
                by_text = torch.cat(kept).chunk(state.n_texts, 1)
                state.alignment = torch.cat([state.alignment, torch.cat(by_text)], 1)
            return self._norm(x.float())

    def first_token_pass(self, features: torch.Tensor, token: int) -> torch.Tensor:
        """Hidden state after one first token, shape (1, state), as `extend` returns it, without keys and values."""
        with torch.inference_mode():
            x, features = self._embedded([token], 0, 1), features.to(self._kind)
            each_head = torch.eye(self._n_head, dtype=self._kind, device=self.device)[:, :, None]
            for block in self._blocks:
                _, _, own = block.query_key_value(block.attention_norm(x)).chunk(3, -1)  # attention to one token
                x = block.mix.added(own, x)
                query = block.cross_query(block.cross_norm(x)).view(self._n_head, -1)
                scores = block.to_features((query * each_head).flatten(1)) @ features.mT
                seen = block.cross_value(scores.softmax(-1, torch.float32).to(self._kind) @ features)
                own_head = seen.view(self._n_head, *query.shape).diagonal().mT
                x = block.mlp(block.cross_mix.added(own_head.reshape(x.shape), x))
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
        blank = [] if forced else [tokenizer.eot, *tokenizer.encode(" ")]
        chosen = self.likeliest(hidden, mask, 1, blank, len(prompts))
        at, drafted = 0, len(expected)  # row of the only text that chooses its next token, rows after the first
        while True:
            rows = state.alignment[:, first:].chunk(len(running))
            each = [(prompts[text], drafts[text], row) for text, row in zip(running, rows, strict=True)]
            kept = [n for n, one in enumerate(each) if _continued(*one, *chosen[n + at][0], encoded.n_audio)]
            if not kept:
                return drafts
            if len(kept) < len(running):
                running = [running[n] for n in kept]
                self.keep(state, kept)
            newest = [drafts[text].tokens[-1] for text in running]
            if at < drafted and expected[:1] == newest:
                at, expected = at + 1, expected[1:]
                continue
            n_tokens, draft = len(drafts[running[0]].tokens), list[int]()
            if newest[0] in expected[:NEAR]:
                expected = expected[expected.index(newest[0]) + 1 :]
                draft = expected[: prompts[running[0]].budget - n_tokens]
            self.rewind(state, n_start + n_tokens - 1)
            chosen = self.likeliest(self.extend(state, [*newest, *draft], keep_alignment=True), mask, 1)
            at, drafted = 0, len(draft)

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
        blank = [] if forced else [tokenizer.eot, *tokenizer.encode(" ")]
        chosen = self.likeliest(hidden[n_start - 1 :], mask, 2 * width, blank, 1)
        for token, ((likeliest, log_probability), *_) in zip([*prompt.expected, tokenizer.eot], chosen, strict=True):
            first = first.longer(token, log_probability if token == likeliest else -math.inf)
        if min(first.log_probabilities) >= CLEAR:
            ended = [first]
        else:
            self.rewind(state, n_start)
            ended = self._search(state, chosen[:1], mask, width, prompt)
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
        self, state: DecoderState, chosen: Likeliest, mask: torch.Tensor, width: int, prompt: Prompt
    ) -> list[_Text]:
        """The texts of a beam search that have ended, or those that fill the budget."""
        running, ended = [_Text()], list[_Text]()
        for _ in range(prompt.budget):
            longer = [
                (parent, text.longer(*one))
                for parent, (text, likeliest) in enumerate(zip(running, chosen, strict=True))
                for one in likeliest
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
            chosen = self.likeliest(self.extend(state, [text.tokens[-1] for text in running]), mask, 2 * width)
        return ended or running

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Project hidden states (n, state) on the vocabulary, or on the given rows of it only."""
        with torch.inference_mode():
            weight = self._vocabulary if rows is None else self._vocabulary[rows]
            return F.linear(hidden, weight.float())

    def likeliest(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, n: int, blank: Sequence[int] = (), n_first: int = 0
    ) -> Likeliest:
        """The ``n`` likeliest tokens for each hidden state, with their log-probabilities.

        ``mask``, shape (vocabulary,), is added to the logits. The first ``n_first`` choices are without ``blank``.

        The `SHORTLIST` likeliest tokens have exact logits. The rest come from weights rounded to 8 bits: reading the
        vocabulary takes a third of a token's time.
        """
        with torch.inference_mode():
            logits = (self._rounded or self.logits)(hidden)
            if mask is not None:
                logits += mask
            if blank:
                logits[:n_first, list(blank)] = -torch.inf
            rounded, tokens = logits.topk(SHORTLIST)
            most = rounded[:, :1]
            total, exact = logits.sub_(most).exp_().sum(1, keepdim=True), rounded
            if self._rounded:
                exact = torch.bmm(F.embedding(tokens, self._vocabulary).float(), hidden[:, :, None])[..., 0]
                exact = exact.masked_fill_(rounded.isneginf(), -torch.inf)
                total += ((exact - most).exp() - (rounded - most).exp()).sum(1, keepdim=True)
            best = exact.topk(n)
            found = tokens.gather(1, best.indices).tolist(), (best.values - most - total.log()).tolist()
        return [list(zip(*pair, strict=True)) for pair in zip(*found, strict=True)]

    def _probability(self, token: int, hidden: torch.Tensor) -> float:
        """Probability of a token after one hidden state; 0 for one outside the shortlist, where it is below 1/32."""
        (found,) = self.likeliest(hidden, None, SHORTLIST)
        return math.exp(dict(found).get(token, -math.inf))

    def _across(self, features: torch.Tensor) -> torch.Tensor:
        """Keys and values of a window, shape (layers, 2, heads, positions, head size)."""
        found = self._cross(features.to(self._kind))
        return found.view(len(features), len(self._blocks), 2, self._n_head, -1).permute(1, 2, 3, 0, 4)

    def _embedded(self, tokens: Sequence[int], start: int, end: int) -> torch.Tensor:
        x = F.embedding(torch.tensor(tokens, device=self.device), self._vocabulary).float()
        return (x.view(-1, end - start, x.shape[-1]) + self._places[start:end]).flatten(0, 1).to(self._kind)

    def _cross_attention(
        self, block: _DecoderBlock, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A block after its self-attention, and its attention to the window, shape (heads, tokens, positions)."""
        query = block.cross_query(block.cross_norm(x)).view(len(x), self._n_head, -1).transpose(0, 1)
        attention = torch.bmm(query, keys).softmax(-1, torch.float32)
        seen = torch.bmm(attention.to(self._kind), values).transpose(0, 1).reshape(x.shape)
        return block.mlp(block.cross_mix.added(seen, x)), attention


def _continued(
    prompt: Prompt, draft: Draft, rows: torch.Tensor, token: int, log_probability: float, n_audio: int
) -> bool:
    """Add a token to a text unless it ends; ``rows`` is its alignment. Returns whether it goes on."""
    rows = rows[:, : len(prompt.forced) + len(draft.tokens) + 1]
    draft.starts = partial(token_starts, rows, n_audio)
    draft.looped = len(draft.tokens) >= prompt.budget
    if draft.looped or token == prompt.tokenizer.eot:
        return False
    draft.tokens.append(token)
    draft.log_probabilities.append(log_probability)
    loop = looping([*prompt.forced, *draft.tokens], partial(attended, rows, n_audio))
    if loop:
        draft.cut(loop)
    return not loop

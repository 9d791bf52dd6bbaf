"""The real networks, with every question asked once: what they have answered they answer from memory.

A question is all that an answer depends on, to the last bit: the sound, the text before it, the options, the number of
threads. Only the two networks remember. All that is around them runs and counts as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.engine import prepared
from whisperlab.model.text_decoder import Draft, TextDecoder
from whisperlab.model.weights import Weights
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import SpeechDecoder, Words
from whisperlab.streaming.language_id import LanguageIdentifier

MOST = 2000  # answers kept, of about 300 KB each

_answers: OrderedDict[Hashable, Any] = OrderedDict()


def answer(question: Hashable, ask: Callable[[], Any]) -> Any:
    """The answer known, or else the one asked for now. Two threads may ask the same at once: they get the same."""
    question = question, torch.get_num_threads()
    found = _answers.get(question)
    if found is None:
        found = _answers[question] = ask()
        if len(_answers) > MOST:
            _answers.popitem(last=False)
    return found


def forget() -> None:
    """Free the memory."""
    _answers.clear()


def bits(tensor: torch.Tensor) -> Hashable:
    """What tells a tensor from every other."""
    whole = tensor.contiguous()
    return tuple(whole.shape), str(whole.dtype), blake2b(whole.view(torch.uint8).numpy()).digest()


@lru_cache
def engine(weights: Weights, precision: str | None, split: int | None) -> tuple[ShortWindowEncoder, TextDecoder]:
    """Encoder and decoder of a model; the encoder remembers."""
    encoder, stack = prepared(weights, precision, split)
    network, encoder = encoder.forward, encoder.with_own_counts()
    encoder.forward = lambda mel, pool_after: answer((network, bits(mel), pool_after), lambda: network(mel, pool_after))
    return encoder, stack


class Identifier(LanguageIdentifier):
    """Remembers what the first token said."""

    def logits(self, features: torch.Tensor) -> NDArray[np.float64]:
        question = self._stack, self.languages, bits(features)
        return answer(question, lambda: super(Identifier, self).logits(features))


class Decoder(SpeechDecoder):
    """Remembers its drafts, without the keys and values that only the next token would need."""

    def draft(
        self, encoded: Encoded, duration_s: float, language: str, prefix: Words, guess: Words, beam: int = 1
    ) -> Draft:
        def ask() -> Draft:
            draft = super(Decoder, self).draft(encoded, duration_s, language, prefix, guess, beam)
            starts = draft.starts() if draft.tokens else None
            return replace(draft, starts=lambda: starts)

        texts = (tuple(token for word in words for token in word.tokens) for words in (prefix, guess))
        sound = bits(encoded.features), encoded.n_audio, duration_s
        return answer((self.stack, self.options, *sound, language, *texts, beam), ask)


REMEMBERED = Parts(engine=engine, identifier=Identifier, decoder=Decoder)

"""Engines: what a transcriber needs of a network, and the engines that implement it.

An engine is an encoder and a decoder. The encoder turns windows into features (`ShortWindowEncoder`). The decoder
returns the logits of languages, and continues a text (`Decoder`). The rest of the pipeline is the same for all engines:
``whisperlab``, the network of this package, and ``ctranslate2`` (`whisperlab.model.ctranslate2_engine`).
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.model.compiled_encoder import compiled_encoder
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.linear import Precision, check_precision
from whisperlab.model.text_decoder import Draft, Prompt, TextDecoder
from whisperlab.model.weights import Model, Weights, weights_of
from whisperlab.util.errors import translate_oom


class Decoder(Protocol):
    """The decoder of an engine."""

    device: torch.device  # of its tensors
    max_tokens: int  # of a window, start tokens included
    n_vocabulary: int

    @property
    def precision(self) -> str: ...

    def language_logits(self, features: torch.Tensor, sot: int, rows: torch.Tensor) -> NDArray[np.float64]:
        """Logits, up to a constant, of the tokens ``rows`` after the start of the transcript ``sot``."""

    def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
        """The likeliest tokens after each prompt of one length; ``mask``, shape (vocabulary,), is 0 or -inf."""

    def beam(self, encoded: Encoded, prompt: Prompt, mask: torch.Tensor, width: int) -> Draft:
        """The likeliest text after a prompt of a beam search with ``width`` texts."""


Engine: TypeAlias = tuple[ShortWindowEncoder, Decoder]
_Prepared = tuple[dict[tuple[Precision, int | None], ShortWindowEncoder], dict[Precision, TextDecoder]]
_prepared: WeakKeyDictionary[Weights, _Prepared] = WeakKeyDictionary()
_preparing = threading.Lock()


def prepared(model: Model, precision: str | None = None, split: int | None = None) -> Engine:
    """Encoder and decoder of a model. Transcribers of the same model share them, so weights are in memory once.

    ``precision`` None chooses for each the fastest here that does no harm to the text (`check_precision`). A ``split``
    compiles the encoder, cut after so many blocks (`compiled_encoder`).
    """
    weights = weights_of(model)
    with translate_oom(f"to prepare {weights.name}"), _preparing:
        for_encoder = check_precision(precision, weights.device, "encoder")
        if split is not None and precision is None and for_encoder == "int8":
            for_encoder = "fp32"  # 8-bit products are not compiled
        for_decoder = check_precision(precision, weights.device, "decoder")
        encoders, decoders = _prepared.setdefault(weights, ({}, {}))
        if (for_encoder, split) not in encoders:
            make = ShortWindowEncoder if split is None else partial(compiled_encoder, split=split)
            encoders[for_encoder, split] = make(weights, for_encoder)
        if for_decoder not in decoders:
            decoders[for_decoder] = TextDecoder(weights, for_decoder)
        return encoders[for_encoder, split], decoders[for_decoder]

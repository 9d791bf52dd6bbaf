"""Encoder and text decoder of a model, prepared once however many transcribers use them."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from whisperlab.model.compiled_encoder import compiled_encoder
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import Precision, check_precision
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import Weights, weights_of
from whisperlab.util.errors import translate_oom

if TYPE_CHECKING:
    from whisper.model import Whisper

_Prepared = tuple[dict[tuple[Precision, int | None], ShortWindowEncoder], dict[Precision, TextDecoder]]
_prepared: WeakKeyDictionary[Weights, _Prepared] = WeakKeyDictionary()
_preparing = threading.Lock()


def prepared(
    model: Whisper | Weights, precision: str | None = None, split: int | None = None
) -> tuple[ShortWindowEncoder, TextDecoder]:
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

"""The engine ``ctranslate2``: the network of faster-whisper, with the weights of any checkpoint.

The weights are written in CTranslate2's format in memory, so both engines compute with the same numbers. CTranslate2
decodes a window in one call, without the state of the call before. So three things differ from our own network:
language-ID never averages positions (``pool_after``), expected tokens save no time, and a loop of the decoder is cut
off after the call, by the word times of `ctranslate2.models.Whisper.align`.
"""

import json
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.model.attention import looping
from whisperlab.model.checkpoints import to_ctranslate2
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.engine import Engine
from whisperlab.model.linear import Precision
from whisperlab.model.text_decoder import Draft, Prompt
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.model.weights import Weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, needs, translate_oom
from whisperlab.util.validation import shown

_FRAMES = 2  # mel frames of a position
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}  # precisions by CTranslate2's names
_prepared: WeakKeyDictionary[Weights, dict[tuple[Precision, int], Engine]] = WeakKeyDictionary()
_preparing = threading.Lock()


def ctranslate2_engine(weights: Weights, precision: str | None, threads: int) -> Engine:
    """Encoder and decoder of a model, shared by all transcribers that use as many threads.

    ``precision`` None is int8, as faster-whisper is mostly used on a CPU. Raises MissingDependencyError without
    CTranslate2, ConfigurationError for a precision that it does not have on this machine, OutOfMemoryError.
    """
    with needs("the engine ctranslate2 needs ctranslate2", "other-systems"):
        import ctranslate2
    device, wanted = weights.device.type, precision or "int8"
    supported = ctranslate2.get_supported_compute_types(device)
    known = {name: kind for name, kind in _TYPES.items() if kind in supported}
    if wanted not in known:
        has = f"the engine ctranslate2 has the precisions {', '.join(known)} here"
        raise ConfigurationError(f"{has}, got {shown(wanted)}")
    used = cast("Precision", wanted)
    with translate_oom(f"to prepare {weights.name} for ctranslate2"), _preparing:
        made = _prepared.setdefault(weights, {})
        if (used, threads) not in made:
            kind = {"compute_type": known[used], "intra_threads": threads}
            model = ctranslate2.models.Whisper(weights.name, device, files=_files(weights), **kind)
            network = _Network(model, ctranslate2.StorageView)
            encoder = CTranslate2Encoder(weights, used, network)
            made[used, threads] = encoder, CTranslate2Decoder(weights, network, used)
        return made[used, threads]


class _Network:
    """CTranslate2's model on tensors."""

    def __init__(self, model: Any, view: Any) -> None:
        self.model, self._view = model, view

    def view(self, x: torch.Tensor, times: int = 1) -> Any:
        """A tensor without its first dimension, as CTranslate2's batch of so many copies."""
        return self._view.from_array(np.repeat(x[None].float().cpu().numpy(), times, 0))

    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        """Log-mel of shape (windows, mels, 2 positions) to features (windows, positions, state)."""
        found = [np.array(self.model.encode(self.view(window), to_cpu=True)) for window in mel]
        return torch.from_numpy(np.concatenate(found)).to(mel.device)


class CTranslate2Encoder(ShortWindowEncoder):
    """CTranslate2's encoder on windows without padding to 30 s."""

    pools = False

    def encode_batch(self, windows: Sequence[FloatArray], margin: int, pool_after: int | None = None) -> list[Encoded]:
        return super().encode_batch(windows, margin)


class CTranslate2Decoder:
    """CTranslate2's decoder, as `whisperlab.model.engine.Decoder` describes it."""

    def __init__(self, weights: Weights, network: _Network, precision: Precision) -> None:
        self.device, self.precision, self._network = weights.device, precision, network
        self.max_tokens, self.n_vocabulary = weights.dims["n_text_ctx"], weights.dims["n_vocab"]
        tokenizer = tokenizer_for("en", weights.n_languages, weights.added)
        self._token_of = dict(zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True))

    def language_logits(self, features: torch.Tensor, sot: int, rows: torch.Tensor) -> NDArray[np.float64]:
        """Logarithms of the probabilities among all languages."""
        (found,) = self._network.model.detect_language(self._network.view(features))
        probabilities = {self._token_of[token[2:-2]]: probability for token, probability in found}
        return np.log([max(probabilities[row], 1e-30) for row in rows.tolist()])

    def greedy(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor) -> list[Draft]:
        """As `TextDecoder.greedy`; the prompts also have one budget."""
        return self._drafts(encoded, prompts, mask, 1)

    def beam(self, encoded: Encoded, prompt: Prompt, mask: torch.Tensor, width: int) -> Draft:
        """As `TextDecoder.beam`, but expected tokens never save the search."""
        return self._drafts(encoded, [prompt], mask, width)[0]

    def _drafts(self, encoded: Encoded, prompts: Sequence[Prompt], mask: torch.Tensor, width: int) -> list[Draft]:
        """Texts in one call for all tokens and one per text for times and probabilities."""
        model, forced = self._network.model, prompts[0].forced
        most = len(forced) + prompts[0].budget
        if prompts[0].budget < 1:
            return [Draft(lambda: np.zeros(0, np.intp), looped=True) for _ in prompts]
        found = model.generate(
            self._network.view(encoded.features, len(prompts)),
            [prompt.tokens for prompt in prompts],
            beam_size=width,
            max_length=most + max(most, len(prompts[0].tokens)),  # half of this is used, or this less the prompt
            suppress_tokens=mask.isneginf().nonzero()[:, 0].tolist(),
            suppress_blank=not forced,
            return_no_speech_prob=True,
        )
        return [
            self._timed(encoded, prompt, one.sequences_ids[0][len(forced) : most], one.no_speech_prob)
            for prompt, one in zip(prompts, found, strict=True)
        ]

    def _timed(self, encoded: Encoded, prompt: Prompt, tokens: list[int], no_speech: float) -> Draft:
        """A text with the times and probabilities of its tokens, without the loop that it may end with."""
        model, view, forced = self._network.model, self._network.view(encoded.features), prompt.forced
        draft = Draft(lambda: starts, tokens, no_speech=lambda: no_speech)
        if not tokens:
            return draft
        text, start = [*forced, *draft.tokens], list(prompt.tokenizer.sot_sequence)
        (aligned,) = model.align(view, start, [text], encoded.n_audio * _FRAMES)
        rows, places = np.array(aligned.alignments).T
        starts = places[np.unique(rows, return_index=True)[1]]
        probabilities = np.maximum(aligned.text_token_probs[len(forced) :], 1e-30)
        draft.log_probabilities = np.log(probabilities).tolist()
        draft.looped = len(draft.tokens) == prompt.budget
        for n in range(len(forced) + 1, len(text) + 1):
            if loop := looping(text[:n], partial(starts.__getitem__, slice(n))):
                draft.cut(len(text) - n + loop)
                break
        return draft


def _files(weights: Weights) -> dict[str, bytes]:
    """The files of CTranslate2's folder for a model."""
    tokenizer = tokenizer_for("en", weights.n_languages, weights.added)
    vocabulary = [str(number) for number in range(weights.dims["n_vocab"])]
    special = range(tokenizer.eot, tokenizer.timestamp_begin)  # which CTranslate2 finds by their text
    vocabulary[special.start : special.stop] = [tokenizer.encoding.decode([number]) for number in special]
    if weights.n_languages > 1:
        vocabulary[tokenizer.eot - 1] = ""  # without it CTranslate2 takes the model for one of English alone
    config = {
        "suppress_ids": [],
        "suppress_ids_begin": [*tokenizer.encode(" "), tokenizer.eot],
        "lang_ids": list(tokenizer.all_language_tokens),
        "alignment_heads": weights.alignment_heads.nonzero().tolist(),
    }
    files = {"config.json": config, "vocabulary.json": vocabulary}
    stored = {name: json.dumps(content).encode() for name, content in files.items()}
    return {"model.bin": to_ctranslate2(weights.dims, weights.state), **stored}

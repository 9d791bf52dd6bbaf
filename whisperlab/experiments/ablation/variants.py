"""The variants of an ablation: the reference pipeline, the default, and the default with one option changed.

The reference pipeline is the cost of live transcription before any optimisation, the guide's "before": audio is kept by
``np.concatenate``, every window is padded to 30 s, openai-whisper's own modules run in float32, the whole vocabulary is
projected for every token, language-ID runs at every hop, and there is no cache. The decision logic is that of
`SessionRestartTranscriber`, so that a comparison measures the parts and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from whisperlab.buffer import RingBuffer
from whisperlab.config import TranscriberConfig
from whisperlab.experiments.other_systems import select
from whisperlab.model.encoder import Encoded, ShortWindowEncoder, positions
from whisperlab.model.text_decoder import DecoderState, TextDecoder
from whisperlab.model.weights import Weights, load_model, load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import AudioFormatError
from whisperlab.util.timeline import MAX_WINDOW

if TYPE_CHECKING:
    from whisper.model import Whisper

BEFORE, GUIDE, DEFAULT = "before", "guide", "default"


@dataclass(frozen=True)
class Models:
    """The model in both forms, each loaded on first use, and the allowed languages; the same for all variants."""

    name: str
    languages: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.name)

    @cached_property
    def whisper(self) -> Whisper:
        return load_model(self.name)


@dataclass(slots=True, frozen=True)
class Variant:
    """One way to run the pipeline."""

    name: str
    # the reference pipeline; the guide's design; default options; one optimisation removed or replaced; one added
    kind: Literal["before", "guide", "default", "off", "on"]
    description: str
    options: Mapping[str, object]  # by dotted name
    parts: Parts

    @property
    def config(self) -> TranscriberConfig:
        return TranscriberConfig().replace(self.options)

    def transcriber(self, models: Models) -> SessionRestartTranscriber:
        if self.kind in ("before", "guide"):
            return reference_transcriber(models.whisper, models.languages, guide=self.kind == "guide")
        return SessionRestartTranscriber(models.weights, models.languages, config=self.config, parts=self.parts)


# Names, descriptions and options are in ``variants.json``.
_PARTS = {"without gating": Parts(frame_due=lambda probe: probe.context.history.received >= probe.window)}
_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
VARIANTS = {name: Variant(name, **known, parts=_PARTS.get(name, Parts())) for name, known in _TABLE.items()}
SLOW = (BEFORE, GUIDE, "without short windows")  # slower than real time: not run on whole recordings


def select_variants(names: Iterable[str] | None) -> list[Variant]:
    """The variants whose name contains one of the given texts, with before, guide and default; all if None.

    >>> [variant.name for variant in select_variants(["int8"])]
    ['before', 'guide', 'default', 'with int8']
    """
    wanted = None if names is None else [*names, BEFORE, GUIDE, DEFAULT]
    return [VARIANTS[name] for name in select(wanted, VARIANTS, "variant")]


class ConcatenatedBuffer(RingBuffer):
    """The newest ``capacity`` samples in an array that every append copies; otherwise like `RingBuffer`."""

    __slots__ = ()

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._data = self._readable = np.array([], dtype=np.float32)
        self._memory = None  # frees the ring

    def append(self, samples: npt.ArrayLike) -> None:
        chunk = as_chunk(samples)
        end = self.end + len(chunk)
        self.overruns += len(chunk) > 0 and end - self._consumed_until > self.capacity
        self._data = np.concatenate([self._data, chunk])[-self.capacity :]
        self._writing_until = self.end = end

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start - (self.end - len(self._data))
        return self._data[first : first + n].copy()


class PaddedEncoder(ShortWindowEncoder):
    """openai-whisper's encoder on windows padded to 30 s; ignores the margin and never pools."""

    __slots__ = ("_model",)
    pools = False

    def __init__(self, model: Whisper) -> None:
        self._model, self.device, self.precision, self.compiled = model, model.device, "fp32", False
        self.reset_counts()

    def encode_batch(self, windows: Sequence[FloatArray], margin: int, pool_after: int | None = None) -> list[Encoded]:
        from whisper.audio import log_mel_spectrogram, pad_or_trim

        found = []
        for window in windows:
            if not 0 < len(window) <= MAX_WINDOW:
                raise AudioFormatError(f"a window needs 1 to {MAX_WINDOW} samples, got {len(window)}")
            mel = log_mel_spectrogram(pad_or_trim(window), self._model.dims.n_mels, device=self.device)
            with torch.inference_mode():
                found.append(Encoded(self._model.encoder(mel[None])[0], positions(len(window))))
            self.calls += 1
            self.encoded_samples += MAX_WINDOW
        return found


@dataclass(slots=True, kw_only=True)
class _ReferenceState(DecoderState):
    """openai-whisper's own cache: the keys and values of its modules, cross-attention included."""

    features: torch.Tensor
    kept: dict[torch.nn.Module, torch.Tensor]


class ReferenceDecoder(TextDecoder):
    """openai-whisper's decoder; it returns logits of the whole vocabulary in place of hidden states."""

    def __init__(self, model: Whisper) -> None:
        self._model, self.device, self.precision = model, model.device, "fp32"
        self.max_tokens, self.n_vocabulary = model.dims.n_text_ctx, model.dims.n_vocab
        self._heads = [tuple(place) for place in model.alignment_heads.indices().T.tolist()]

    def open(self, encoded: Encoded) -> DecoderState:
        alignment = torch.empty(len(self._heads), 0, len(encoded.features), device=self.device)
        return _ReferenceState([], [], alignment, features=encoded.features, kept={})

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        assert isinstance(state, _ReferenceState)
        own = {module for block in self._model.decoder.blocks for module in (block.attn.key, block.attn.value)}
        state.kept = {module: kept[:, :n_tokens] if module in own else kept for module, kept in state.kept.items()}
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    def extend(self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False) -> torch.Tensor:
        """Logits of the whole vocabulary after each of the tokens, shape (new tokens, vocabulary)."""
        assert isinstance(state, _ReferenceState)
        assert len(tokens) == 1 or not state.n_tokens, "openai-whisper's mask is for an empty cache"
        end = state.n_tokens + len(tokens)
        if end > self.max_tokens:
            raise ValueError(f"Whisper decodes at most {self.max_tokens} tokens at once, got {end}")
        ids = torch.tensor([list(tokens)], device=self.device)
        with torch.inference_mode(), self._watched(state, keep_alignment) as seen:
            logits: torch.Tensor = self._model.decoder(ids, state.features[None], kv_cache=state.kept)[0]
        state.n_tokens = end
        if keep_alignment:
            weights = torch.stack([seen[layer][head] for layer, head in self._heads]).softmax(-1)
            state.alignment = torch.cat([state.alignment, weights], 1)
        return logits

    def first_token_pass(self, features: torch.Tensor, token: int) -> torch.Tensor:
        return self.extend(self.open(Encoded(features, len(features))), [token])

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        return hidden if rows is None else hidden[:, rows]

    def likely_logits(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden.clone() if mask is None else hidden + mask

    @contextmanager
    def _watched(self, state: _ReferenceState, attention: bool) -> Iterator[dict[int, torch.Tensor]]:
        """Cache keys and values by openai-whisper's hooks; yields the cross-attention scores by layer."""
        from whisper.model import MultiHeadAttention, disable_sdpa

        seen: dict[int, torch.Tensor] = {}
        state.kept, hooks = self._model.install_kv_cache_hooks(state.kept)
        for layer, block in enumerate(self._model.decoder.blocks if attention else ()):
            assert isinstance(block.cross_attn, MultiHeadAttention)

            def note(_: object, __: object, outs: tuple[torch.Tensor, ...], layer: int = layer) -> None:
                seen[layer] = outs[-1][0]

            hooks.append(block.cross_attn.register_forward_hook(note))
        try:
            with disable_sdpa() if attention else nullcontext():
                yield seen
        finally:
            for hook in hooks:
                hook.remove()


def reference_transcriber(
    model: Whisper, languages: Sequence[str] | None = None, *, guide: bool = False
) -> SessionRestartTranscriber:
    """A transcriber made of the reference parts; ``guide`` adds ring buffers and the cache of the performance guide.

    Text has one trailing silence: with a second one, the same padded window would be decoded again.
    """
    buffer = RingBuffer if guide else ConcatenatedBuffer
    parts = Parts(engine=lambda *_: (PaddedEncoder(model), ReferenceDecoder(model)), buffer=buffer)
    config = VARIANTS[GUIDE if guide else BEFORE].config
    return SessionRestartTranscriber(model, languages, config=config, parts=parts)

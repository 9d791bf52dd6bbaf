"""The plain pipeline: what a live transcriber costs before anything is optimised.

It is the performance guide's "before": audio kept by ``np.concatenate``, every window padded to 30 s, openai-whisper's
own modules in float32, the whole vocabulary projected for every token, language-ID at every hop, no cache. It runs
through the logic of `SessionRestartTranscriber`, with plainer parts in the places of ours, so that a comparison
measures the parts and not two ways to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from whisperlab.buffer import RingBuffer
from whisperlab.model.encoder import Encoded, ShortWindowEncoder, positions
from whisperlab.model.text_decoder import DecoderState, TextDecoder
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.session_options import SessionOptions
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import AudioFormatError
from whisperlab.util.threads import THREADS
from whisperlab.util.timeline import MAX_WINDOW

if TYPE_CHECKING:
    from whisper.model import Whisper

WINDOW_MS = 2000


class ConcatenatedBuffer(RingBuffer):
    """The newest ``capacity`` samples in an array that is made anew for every chunk; reads as `RingBuffer` does."""

    __slots__ = ()

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._data = self._readable = np.array([], dtype=np.float32)
        self._memory = None  # lets go of the ring

    def append(self, samples: npt.ArrayLike) -> None:
        """Make an array of the old and the new samples."""
        chunk = as_chunk(samples)
        end = self._end + len(chunk)
        self._overruns += len(chunk) > 0 and end - self._consumed_until > self._capacity
        self._data = np.concatenate([self._data, chunk])[-self._capacity :]
        self._writing_until = self._end = end

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start - (self._end - len(self._data))
        return self._data[first : first + n].copy()


class PaddedEncoder(ShortWindowEncoder):
    """openai-whisper's encoder on windows padded to 30 s, whatever margin is asked for; pools nothing."""

    __slots__ = ("_model",)

    def __init__(self, model: Whisper) -> None:
        self._model, self.device, self.precision, self.compiled = model, model.device, "fp32", False
        self.reset_counts()

    def encode_batch(
        self, windows: Sequence[npt.NDArray[np.float32]], margin: int, pool_after: int | None = None
    ) -> list[Encoded]:
        """Each window by itself; ``margin`` and ``pool_after`` change nothing."""
        return [self._encoded(window) for window in windows]

    def _encoded(self, window: npt.NDArray[np.float32]) -> Encoded:
        from whisper.audio import log_mel_spectrogram, pad_or_trim

        if not 0 < len(window) <= MAX_WINDOW:
            raise AudioFormatError(f"a window needs 1 to {MAX_WINDOW} samples, got {len(window)}")
        mel = log_mel_spectrogram(pad_or_trim(window), self._model.dims.n_mels, device=self.device)
        with torch.inference_mode():
            features = self._model.encoder(mel[None])[0]
        self.calls += 1
        self.encoded_samples += MAX_WINDOW
        return Encoded(features, positions(len(window)))


@dataclass(slots=True)
class _PlainState(DecoderState):
    """openai-whisper's own cache: the keys and values of its modules, cross-attention included."""

    features: torch.Tensor | None = None
    kept: dict[torch.nn.Module, torch.Tensor] | None = None


class WholeStack(TextDecoder):
    """openai-whisper's decoder. In the place of hidden states stand the logits of the whole vocabulary."""

    def __init__(self, model: Whisper) -> None:
        self._model, self.device, self.precision = model, model.device, "fp32"
        self.max_tokens, self.n_vocabulary = model.dims.n_text_ctx, model.dims.n_vocab
        self._heads = [tuple(place) for place in model.alignment_heads.indices().T.tolist()]

    def open(self, encoded: Encoded) -> DecoderState:
        """Nothing is computed before the first token."""
        alignment = torch.empty(len(self._heads), 0, len(encoded.features), device=self.device)
        return _PlainState([], [], alignment, features=encoded.features, kept={})

    def rewind(self, state: DecoderState, n_tokens: int) -> None:
        """Forget every token after the first ``n_tokens``."""
        assert isinstance(state, _PlainState)
        assert state.kept is not None
        own = {
            module for block in self._model.decoder.blocks for module in (block.attn.key, block.attn.value)
        }
        state.kept = {
            module: kept[:, :n_tokens] if module in own else kept for module, kept in state.kept.items()
        }
        state.alignment = state.alignment[:, :n_tokens]
        state.n_tokens = min(state.n_tokens, n_tokens)

    def extend(
        self, state: DecoderState, tokens: Sequence[int], *, keep_alignment: bool = False
    ) -> torch.Tensor:
        """Logits of the whole vocabulary after each of the tokens, shape (new tokens, vocabulary).

        More than one token can be added to an empty state only, as openai-whisper's mask has it.
        """
        assert isinstance(state, _PlainState)
        assert state.features is not None
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
        """Logits after one first token."""
        return self.extend(self.open(Encoded(features, len(features))), [token])

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The logits, or those of the given rows of the vocabulary."""
        return hidden if rows is None else hidden[:, rows]

    def likely_logits(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The logits, plus ``mask``."""
        return hidden.clone() if mask is None else hidden + mask

    @contextmanager
    def _watched(self, state: _PlainState, attention: bool) -> Iterator[dict[int, torch.Tensor]]:
        """Keep keys and values by openai-whisper's hooks; hands out the cross-attention's scores, layer by layer."""
        from whisper.model import MultiHeadAttention, disable_sdpa

        seen: dict[int, torch.Tensor] = {}
        state.kept, hooks = self._model.install_kv_cache_hooks(state.kept)
        if not attention:
            try:
                yield seen
            finally:
                _remove(hooks)
            return
        for layer, block in enumerate(self._model.decoder.blocks):
            assert isinstance(block.cross_attn, MultiHeadAttention)

            def note(_: Any, __: Any, outs: Any, layer: int = layer) -> None:
                seen[layer] = outs[-1][0]

            hooks.append(block.cross_attn.register_forward_hook(note))
        try:
            with disable_sdpa():
                yield seen
        finally:
            _remove(hooks)


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


class PlainTranscriber(SessionRestartTranscriber):
    """The plain pipeline; with ``guide`` the performance guide's: its ring buffers, and its cache of rounded audio.

    Args:
        model: a loaded openai-whisper model.
        languages: the allowed languages.
        threads: compute threads.
        guide: take the guide's buffers, and its cache of 50 entries with the key ``'rounded'`` at 6 decimals.
    """

    def __init__(
        self,
        model: Whisper,
        languages: Sequence[str] | None = None,
        *,
        guide: bool = False,
        threads: int = THREADS,
    ) -> None:
        parts = Parts(
            engine=lambda *_: (PaddedEncoder(model), WholeStack(model)),
            buffer=RingBuffer if guide else ConcatenatedBuffer,
        )
        super().__init__(
            model,
            languages,
            parts=parts,
            precision="fp32",
            threads=threads,
            cache_size=50 if guide else 0,
            decoding=DecodingOptions(
                trailing_silence_s=(30.0,)
            ),  # a second try would decode the same window again
            language_id=LanguageIdOptions(
                window_ms=WINDOW_MS,
                trailing_silence_ms=28_000,
                pool_after=None,
                onset_ms=0,
                confident_hop_factor=1,
            ),
            session=SessionOptions(share=False, flag_language=False),
        )

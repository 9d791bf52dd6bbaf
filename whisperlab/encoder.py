"""Whisper's audio encoder on windows as short as the audio, never padded to 30 s unless asked.

openai-whisper insists on 3,000 mel frames: 2 s of speech then costs as much as 30 s. The network itself has
no such need, because its convolutions and attention take any length and its positional embedding is fixed.
Cutting the embedding to the window gives the same arithmetic on fewer positions; what changes is that the
model no longer sees the silence it was trained to see after the speech. `encode` therefore takes a *margin*:
zeros appended to the audio, which buy most of that back at a fraction of the cost.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from whisperlab.errors import AudioFormatError, ConfigurationError
from whisperlab.linear import Precision, product, product_of
from whisperlab.timeline import MAX_WINDOW, POSITION

if TYPE_CHECKING:
    from whisper.model import MultiHeadAttention, ResidualAttentionBlock, Whisper


@dataclass(slots=True, frozen=True)
class Encoded:
    """Encoder output of one window.

    ``features`` has shape (positions, state), a position being 20 ms (40 when pooled); the first ``n_audio``
    positions lie under audio, the rest under the margin of silence.
    """

    features: torch.Tensor
    n_audio: int


def positions(n_samples: int) -> int:
    """Encoder positions needed to cover that many samples, rounded up.

    >>> positions(32000), positions(32001)
    (100, 101)
    """
    return -(-n_samples // POSITION)


def fused_attention(attention: MultiHeadAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of query, key and value as one product, in this order; Whisper's keys have no bias."""
    query, key, value = attention.query, attention.key, attention.value
    weight = torch.cat([query.weight, key.weight, value.weight])
    bias = torch.cat([query.bias, torch.zeros_like(query.bias), value.bias])
    return weight.detach(), bias.detach()


class _Block:
    """One residual attention block of the encoder, on any number of positions."""

    __slots__ = (
        "_attention_norm",
        "_contract",
        "_expand",
        "_mix",
        "_mlp_norm",
        "_n_head",
        "_query_key_value",
    )

    def __init__(self, block: ResidualAttentionBlock, n_head: int, precision: Precision) -> None:
        self._n_head = n_head
        self._attention_norm, self._mlp_norm = block.attn_ln, block.mlp_ln
        self._query_key_value = product(*fused_attention(block.attn), precision)
        self._mix = product_of(block.attn.out, precision)
        self._expand = product_of(block.mlp[0], precision)
        self._contract = product_of(block.mlp[2], precision)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (positions, state) to the same."""
        n, n_state = x.shape
        fused = self._query_key_value(self._attention_norm(x))
        query, key, value = fused.view(n, 3, self._n_head, -1).permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        x = x + self._mix(seen.transpose(0, 1).reshape(n, n_state))
        return x + self._contract(F.gelu(self._expand(self._mlp_norm(x))))


class ShortWindowEncoder:
    """The encoder half of a loaded Whisper model, counting the calls made and the audio seen.

    ``calls`` and ``encoded_samples`` (margins included) grow by every window encoded; they are what
    "encoder work" means in every report. ``precision`` is that of the blocks' matrix products; the two convolutions
    before them stay in float32.
    """

    __slots__ = ("_blocks", "_encoder", "_n_mels", "calls", "device", "encoded_samples")

    def __init__(self, model: Whisper, precision: Precision = "fp32") -> None:
        self._encoder = model.encoder
        self._n_mels = model.dims.n_mels
        self.device = model.device
        n_head = model.dims.n_audio_head
        self._blocks = [_Block(block, n_head, precision) for block in model.encoder.blocks]
        self.reset_counts()

    def reset_counts(self) -> None:
        """Start counting from zero."""
        self.calls = 0
        self.encoded_samples = 0

    def with_own_counts(self) -> ShortWindowEncoder:
        """The same network, sharing its weights, on an account of its own."""
        other = copy(self)
        other.reset_counts()
        return other

    def encode(self, audio: NDArray[np.float32], margin: int, pool_after: int | None = None) -> Encoded:
        """Encode one window.

        Args:
            audio: float32 samples at 16 kHz, at most 30 s.
            margin: samples of silence to append; the sum is rounded up to whole positions and cut at 30 s.
            pool_after: average neighbouring positions in pairs after so many blocks, so that the rest of the
                network works on half as many, of 40 ms each; None keeps all. Whisper was not trained for that:
                fine for telling the language, not for text.
        """
        if not 0 < len(audio) <= MAX_WINDOW:
            raise AudioFormatError(f"a window needs 1 to {MAX_WINDOW} samples, got {len(audio)}")
        if pool_after is not None and not 0 <= pool_after < len(self._blocks):
            raise ConfigurationError(
                f"pool_after must be None or 0 to {len(self._blocks) - 1}, the blocks before the last, got {pool_after}"
            )
        n_total = min(positions(len(audio) + margin) * POSITION, MAX_WINDOW)
        mel = self._mel(audio, n_total)
        self.calls += 1
        self.encoded_samples += n_total
        with torch.inference_mode():
            features = self._forward(mel, pool_after)
        n_audio = positions(len(audio))
        return Encoded(features, n_audio if pool_after is None else -(-n_audio // 2))

    def _mel(self, audio: NDArray[np.float32], n_total: int) -> torch.Tensor:
        """Log-mel spectrogram of the audio followed by silence, shape (1, mels, n_total / 160)."""
        from whisper.audio import log_mel_spectrogram

        padded = np.zeros(n_total, dtype=np.float32)
        padded[: len(audio)] = audio
        mel: torch.Tensor = log_mel_spectrogram(padded, self._n_mels, device=self.device)
        return mel[None]

    def _forward(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        """`whisper.model.AudioEncoder.forward` with the positional embedding cut to the window."""
        encoder = self._encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x))[0].T
        x = x + encoder.positional_embedding[: len(x)]
        for n_done, block in enumerate(self._blocks):
            if n_done == pool_after:
                x = F.avg_pool1d(x.T, 2, ceil_mode=True).T
            x = block(x)
        features: torch.Tensor = encoder.ln_post(x)
        return features

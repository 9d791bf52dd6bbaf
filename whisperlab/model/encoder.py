"""Whisper's audio encoder on windows as short as the audio, without padding to 30 s.

openai-whisper requires 3,000 mel frames, so 2 s of speech costs as much as 30 s. The network itself takes any length:
its convolutions and attention do, and its positional embedding is fixed. Cutting the embedding to the window gives the
same arithmetic on fewer positions. The difference is that Whisper was trained with silence after the speech. `encode`
therefore takes a *margin* of zeros after the audio, which restores most of the accuracy at a fraction of the cost.

The network is built from its tensors: query, key and value are one linear layer, the convolutions are linear layers
over overlapping frames, and additions and GELU are part of the linear layers (`whisperlab.model.linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from whisperlab.model.linear import PackedLinear, Precision, activations, packed_linear, padded_rows
from whisperlab.model.mel import log_mel_spectrogram
from whisperlab.model.weights import Weights
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.gain import lifted
from whisperlab.util.line_profile import line_profiled
from whisperlab.util.timeline import MAX_WINDOW, POSITION

# Up to this number of positions (12 s) attention on a CPU is faster as two matrix products with all weights in memory.
PLAIN_ATTENTION = 600

# oneDNN also keeps generated code for every shape of these products (over 1 MB each), and torch for every shape of
# fused attention in bfloat16. Above `FEW_ROWS` positions, rows are padded to a multiple of `MANY_ROWS`.
FEW_ROWS = 160
MANY_ROWS = 64


@dataclass(slots=True, frozen=True)
class Encoded:
    """Encoder output of one window.

    ``features`` has shape (positions, state) and the type of the encoder's precision. A position is 20 ms, or 40 ms
    if pooled. The first ``n_audio`` positions are audio, the rest is the margin of silence.
    """

    features: torch.Tensor
    n_audio: int


def positions(n_samples: int) -> int:
    """Number of encoder positions that cover so many samples, rounded up.

    >>> positions(32000), positions(32001)
    (100, 101)
    """
    return -(-n_samples // POSITION)


def fused_attention(weights: Weights, name: str, n_head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of query, key and value as one linear layer, in this order.

    Whisper's keys have no bias. Queries are divided by the square root of the head size here instead of in the
    attention; it is a power of two in every model, so the result is the same.
    """
    query, key, value = (weights.tensor(f"{name}.{part}.weight") for part in ("query", "key", "value"))
    query_bias, value_bias = (weights.tensor(f"{name}.{part}.bias") for part in ("query", "value"))
    scale = (len(query) // n_head) ** -0.5
    bias = torch.cat([query_bias * scale, torch.zeros_like(query_bias), value_bias])
    return torch.cat([query * scale, key, value]), bias


def linear_layer(weights: Weights, name: str, precision: Precision) -> PackedLinear:
    """One linear layer of the model."""
    return packed_linear(weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"), precision)


class Norm:
    """Layer normalisation over the last dimension, in the type of its input."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weights: Weights, name: str, kind: torch.dtype = torch.float32) -> None:
        self._weight = weights.tensor(f"{name}.weight").to(kind)
        self._bias = weights.tensor(f"{name}.bias").to(kind)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias)


class _Block:
    """One residual attention block of the encoder, on any number of positions."""

    __slots__ = ("_attention_norm", "_contract", "_expand", "_mix", "_mlp_norm", "_n_head", "_query_key_value")

    def __init__(self, weights: Weights, name: str, precision: Precision) -> None:
        kind = activations(precision)
        self._n_head = weights.dims["n_audio_head"]
        self._attention_norm = Norm(weights, f"{name}.attn_ln", kind)
        self._query_key_value = packed_linear(*fused_attention(weights, f"{name}.attn", self._n_head), precision)
        self._mix = linear_layer(weights, f"{name}.attn.out", precision)
        self._mlp_norm = Norm(weights, f"{name}.mlp_ln", kind)
        self._expand = linear_layer(weights, f"{name}.mlp.0", precision)
        self._contract = linear_layer(weights, f"{name}.mlp.2", precision)

    def __call__(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """Shape (windows, positions, state) to the same; no position looks beyond the first ``n``."""
        seen = self._attention(self._query_key_value(self._attention_norm(x)), n)
        x = self._mix.added(seen, x)
        return self._contract.added(self._expand.gelu(self._mlp_norm(x)), x)

    @line_profiled
    def _attention(self, fused: torch.Tensor, n: int) -> torch.Tensor:
        """From shape (windows, positions, 3 states) to one state."""
        n_windows, n_rows, _ = fused.shape
        on_cpu = fused.device.type == "cpu"
        if on_cpu and n_rows > FEW_ROWS:
            fused = F.pad(fused, (0, 0, 0, -n_rows % MANY_ROWS))
        shape = n_windows, fused.shape[1], 3, self._n_head, -1
        query, key, value = fused.view(*shape).permute(2, 0, 3, 1, 4)
        if not on_cpu:
            seen = F.scaled_dot_product_attention(query, key[:, :, :n], value[:, :, :n], scale=1.0)
        elif n <= PLAIN_ATTENTION:
            scores = query @ key.transpose(-1, -2)
            scores[..., n:] = -torch.inf
            seen = scores.softmax(-1) @ value
        else:
            unseen = fused.new_zeros(1, fused.shape[1])
            unseen[:, n:] = -torch.inf
            seen = F.scaled_dot_product_attention(query, key, value, unseen, scale=1.0)
        return seen[:, :, :n_rows].transpose(1, 2).flatten(2)


class _Convolution:
    """A convolution over three neighbouring frames, then GELU: one linear layer on a view that repeats the frames."""

    __slots__ = ("_linear", "_stride")

    def __init__(self, weights: Weights, name: str, stride: int, precision: Precision) -> None:
        weight = weights.tensor(f"{name}.weight")  # (outputs, inputs, 3)
        self._linear = packed_linear(weight.transpose(1, 2).flatten(1), weights.tensor(f"{name}.bias"), precision)
        self._stride = stride

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (windows, frames, inputs) to (windows, frames / stride, outputs)."""
        n_windows, n_frames, n_inputs = x.shape
        padded = F.pad(x, (0, 0, 1, 1))
        shape = n_windows, n_frames // self._stride, 3 * n_inputs
        return self._linear.gelu(padded.as_strided(shape, ((n_frames + 2) * n_inputs, self._stride * n_inputs, 1)))


class Network(Protocol):
    """Log-mel of shape (windows, mels, 2 positions) to features (windows, positions, state)."""

    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        """``pool_after`` as for `ShortWindowEncoder.encode`."""


class EagerNetwork:
    """The network without compilation. With precision int8 its convolutions stay in float32."""

    __slots__ = ("_blocks", "_convolutions", "_kind", "_norm", "_places")

    def __init__(self, weights: Weights, precision: Precision) -> None:
        self._kind = activations(precision)
        exact: Precision = "fp32" if precision == "int8" else precision
        self._convolutions = [
            _Convolution(weights, f"encoder.conv{n}", stride, exact) for n, stride in ((1, 1), (2, 2))
        ]
        self._places = weights.tensor("encoder.positional_embedding").to(self._kind)
        names = (f"encoder.blocks.{n}" for n in range(weights.dims["n_audio_layer"]))
        self._blocks = [_Block(weights, name, precision) for name in names]
        self._norm = Norm(weights, "encoder.ln_post", self._kind)

    @line_profiled
    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        """`whisper.model.AudioEncoder.forward` with the positional embedding cut to the window.

        The positions are padded to a multiple of `whisperlab.model.linear.ROWS`; attention ignores the padding.
        """
        n = mel.shape[-1] // 2
        x = F.pad(mel.transpose(1, 2), (0, 0, 0, 2 * (padded_rows(n) - n))).to(self._kind)
        for convolution in self._convolutions:
            x = convolution(x)
        x[:, :n] += self._places[:n]
        for n_done, block in enumerate(self._blocks):
            if n_done == pool_after:
                pooled = F.avg_pool1d(x[:, :n].transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
                n = pooled.shape[1]
                x = F.pad(pooled, (0, 0, 0, padded_rows(n) - n)).contiguous()
            x = block(x, n)
        return self._norm(x[:, :n])


class ShortWindowEncoder:
    """The encoder half of Whisper, which counts its calls and the audio encoded.

    ``calls`` and ``encoded_samples`` (margins included) grow with every window; reports call them "encoder work".
    ``forward`` is the network: an `EagerNetwork`, or the compiled network given.
    """

    __slots__ = (*("_n_blocks", "_n_mels"), *("calls", "compiled", "device", "encoded_samples", "forward", "precision"))

    def __init__(self, weights: Weights, precision: Precision = "fp32", network: Network | None = None) -> None:
        self.device, self.precision = weights.device, precision
        self.compiled = network is not None
        self.forward: Network = network or EagerNetwork(weights, precision)
        self._n_mels, self._n_blocks = weights.dims["n_mels"], weights.dims["n_audio_layer"]
        self.reset_counts()

    def reset_counts(self) -> None:
        """Set the counts to zero."""
        self.calls = 0
        self.encoded_samples = 0

    def with_own_counts(self) -> ShortWindowEncoder:
        """An encoder with the same network and weights, and counts of its own."""
        other = copy(self)
        other.reset_counts()
        return other

    def encode(self, audio: NDArray[np.float32], margin: int, pool_after: int | None = None) -> Encoded:
        """Encode one window.

        Args:
            audio: float32 samples at 16 kHz, at most 30 s.
            margin: samples of silence to append; the sum is rounded up to whole positions and cut at 30 s.
            pool_after: average neighbouring positions in pairs after so many blocks; the rest of the network works on
                half as many positions of 40 ms. None keeps all. Whisper was not trained for pooling: the features suit
                language identification, not text.
        """
        return self.encode_batch([audio], margin, pool_after)[0]

    def encode_batch(
        self, windows: Sequence[NDArray[np.float32]], margin: int, pool_after: int | None = None
    ) -> list[Encoded]:
        """Encode windows of one length together; arguments as for `encode`."""
        lengths = {len(window) for window in windows}
        if len(lengths) != 1:
            raise AudioFormatError(f"a batch needs windows of one length, got {sorted(lengths) or 'none'}")
        (length,) = lengths
        if not 0 < length <= MAX_WINDOW:
            raise AudioFormatError(f"a window needs 1 to {MAX_WINDOW} samples, got {length}")
        self.check_pooling(pool_after)
        n_total = min(positions(length + margin) * POSITION, MAX_WINDOW)
        with torch.inference_mode():
            features = self.forward(self.mel(windows, n_total), pool_after)
        calls, encoded = len(windows), len(windows) * n_total
        self.calls, self.encoded_samples = (
            self.calls + calls,
            self.encoded_samples + encoded,
        )  # consistent for readers
        n_audio = positions(length)
        return [Encoded(window, n_audio if pool_after is None else -(-n_audio // 2)) for window in features]

    def check_pooling(self, pool_after: int | None) -> None:
        """Raise ConfigurationError unless a block of this model follows after so many."""
        if pool_after is not None and not 0 <= pool_after < self._n_blocks:
            raise ConfigurationError(
                f"pool_after must be None or 0 to {self._n_blocks - 1}, the blocks before the last, got {pool_after}"
            )

    def mel(self, windows: Sequence[NDArray[np.float32]], n_total: int) -> torch.Tensor:
        """Log-mel spectrograms of windows followed by silence, shape (windows, mels, n_total / 160).

        Quiet windows are amplified first (`whisperlab.util.gain.lifted`).
        """
        padded = np.zeros((len(windows), n_total), dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = lifted(window)
        # one by one: the dynamic range is limited to 80 dB below the loudest value of each window
        return torch.stack([log_mel_spectrogram(row, self._n_mels, self.device) for row in padded])

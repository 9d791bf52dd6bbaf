"""Whisper's audio encoder on windows as short as the audio, without padding to 30 s.

openai-whisper requires 3,000 mel frames, so 2 s of speech costs as much as 30 s. The network itself takes any length,
with the positional embedding cut to the window. But Whisper was trained with silence after the speech. `encode`
therefore takes a *margin* of zeros after the audio, which restores most of the accuracy at a fraction of the cost.

Query, key and value are one linear layer, the convolutions are linear layers over overlapping frames, and additions
and GELU are part of the linear layers (`whisperlab.model.linear`).
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from whisperlab.model.linear import Precision, activations, packed_linear, padded_rows
from whisperlab.model.weights import Weights
from whisperlab.util.audio_arrays import FloatArray
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

Forward = Callable[[torch.Tensor, int | None], torch.Tensor]  # arguments and result of `Network`

WINDOW_ROWS = 1536  # of a window of 30 s

_FILTERS = Path(__file__).parent / "data" / "mel_filters.npz"
_FFT = 400  # samples of a frame, 25 ms
_HOP = 160  # samples from frame to frame, 10 ms
_RANGE = 8.0  # values more than 80 dB below the loudest are raised to that level


@dataclass(slots=True, frozen=True)
class Encoded:
    """Encoder output of one window. A position is 20 ms, or 40 ms if pooled."""

    features: torch.Tensor  # shape (positions, state), in the type of the encoder's precision
    n_audio: int  # the first positions are audio, the rest is the margin of silence


def positions(n_samples: int) -> int:
    """Number of encoder positions that cover so many samples, rounded up."""
    return -(-n_samples // POSITION)


def fused_attention(weights: Weights, name: str, n_head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of query, key and value as one linear layer, in this order. Whisper's keys have no bias.

    Queries are divided by the square root of the head size here instead of in the attention; it is a power of two in
    every model, so the result is the same.
    """
    (query, query_bias), (value, value_bias) = (weights.layer(f"{name}.{part}") for part in ("query", "value"))
    key = weights.tensor(f"{name}.key.weight")
    scale = (len(query) // n_head) ** -0.5
    bias = torch.cat([query_bias * scale, torch.zeros_like(query_bias), value_bias])
    return torch.cat([query * scale, key, value]), bias


def convolution(weights: Weights, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution as a linear layer on three neighbouring frames."""
    weight, bias = weights.layer(name)  # (outputs, inputs, 3)
    return weight.transpose(1, 2).flatten(1), bias


class Norm:
    """Layer normalisation over the last dimension, in the type of its input."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weights: Weights, name: str, kind: torch.dtype = torch.float32) -> None:
        self._weight, self._bias = (tensor.to(kind) for tensor in weights.layer(name))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(x, self._weight.shape, self._weight, self._bias)


class Block:
    """The layers of one residual attention block, without a decoder's cross-attention."""

    __slots__ = ("_contract", "_expand", "_mlp_norm", "attention_norm", "mix", "n_head", "query_key_value")

    def __init__(self, weights: Weights, name: str, n_head: int, precision: Precision, fast: bool = True) -> None:
        kind, linear = activations(precision), partial(packed_linear, precision=precision, fast=fast)
        self.n_head = n_head
        self.attention_norm = Norm(weights, f"{name}.attn_ln", kind)
        self.query_key_value = linear(*fused_attention(weights, f"{name}.attn", n_head))
        self.mix = linear(*weights.layer(f"{name}.attn.out"))
        self._mlp_norm = Norm(weights, f"{name}.mlp_ln", kind)
        self._expand = linear(*weights.layer(f"{name}.mlp.0"))
        self._contract = linear(*weights.layer(f"{name}.mlp.2"))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """The two fully connected layers, added to their input."""
        return self._contract.added(self._expand.gelu(self._mlp_norm(x)), x)


@line_profiled
def eager_attention(fused: torch.Tensor, n_head: int, n: int) -> torch.Tensor:
    """From shape (windows, rows, 3 states) to one state; no row looks beyond the first ``n``."""
    n_rows, on_cpu = fused.shape[1], fused.device.type == "cpu"
    if on_cpu and n_rows > FEW_ROWS:
        fused = F.pad(fused, (0, 0, 0, -n_rows % MANY_ROWS))
    query, key, value = fused.view(*fused.shape[:2], 3, n_head, -1).permute(2, 0, 3, 1, 4)
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


def _neighbours(x: torch.Tensor, stride: int, as_view: bool) -> torch.Tensor:
    """Each frame with the two beside it, (windows, frames, 3 inputs), for which a convolution is a linear layer."""
    n_windows, n_frames, n_inputs = x.shape
    padded = F.pad(x, (0, 0, 1, 1))
    if not as_view:
        return torch.cat([padded[:, k : k + n_frames : stride] for k in range(3)], -1)
    shape = n_windows, n_frames // stride, 3 * n_inputs
    return padded.as_strided(shape, ((n_frames + 2) * n_inputs, stride * n_inputs, 1))


class Network:
    """The encoder's network for windows of any length: `head` and `tail`, between which positions may be pooled.

    Windows are padded to a number of rows (`rows`); ``seen`` tells the attention which of them are positions. With
    precision int8 the convolutions stay in float32. ``fast`` is that of `packed_linear`.
    """

    def __init__(
        self,
        weights: Weights,
        precision: Precision,
        attention: Callable[..., torch.Tensor] = eager_attention,
        fast: bool = True,
    ) -> None:
        self.kind, self._attention, self._fast = activations(precision), attention, fast
        exact: Precision = "fp32" if precision == "int8" else precision
        self._convolutions = [packed_linear(*convolution(weights, f"encoder.conv{n}"), exact, fast) for n in (1, 2)]
        places = weights.tensor("encoder.positional_embedding").to(self.kind)
        self._places = F.pad(places, (0, 0, 0, WINDOW_ROWS - len(places)))
        n_head, names = weights.dims["n_audio_head"], range(weights.dims["n_audio_layer"])
        self._blocks = [Block(weights, f"encoder.blocks.{name}", n_head, precision, fast) for name in names]
        self._norm = Norm(weights, "encoder.ln_post", self.kind)

    @line_profiled
    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        """`whisper.model.AudioEncoder.forward`, from (windows, mels, 2 positions) to (windows, positions, state)."""
        n, split = mel.shape[-1] // 2, pool_after or 0
        frames = F.pad(mel.transpose(1, 2), (0, 0, 0, 2 * (self.rows(n) - n))).to(self.kind).contiguous()
        x = self.head(frames, self.seen(n), split)
        if pool_after is not None:
            pooled = F.avg_pool1d(x[:, :n].transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
            n = pooled.shape[1]
            x = F.pad(pooled, (0, 0, 0, self.rows(n) - n)).contiguous()
        return self.tail(x, self.seen(n), split)[:, :n]

    def rows(self, n: int) -> int:
        """The number of rows of ``n`` positions."""
        return padded_rows(n)

    def seen(self, n: int) -> Any:
        """What the attention needs to know of ``n`` positions."""
        return n

    def head(self, x: torch.Tensor, seen: Any, split: int) -> torch.Tensor:
        """Convolutions, positions, ``split`` blocks: shape (windows, 2 rows, mels) to (windows, rows, state)."""
        for stride, linear in enumerate(self._convolutions, 1):
            x = linear.gelu(_neighbours(x, stride, as_view=self._fast))
        if isinstance(seen, int):
            x[:, :seen] += self._places[:seen]
        else:  # a mask
            x = x + self._places[: x.shape[1]]
        return self._through(self._blocks[:split], x, seen)

    def tail(self, x: torch.Tensor, seen: Any, split: int) -> torch.Tensor:
        """The other blocks and the last layer norm."""
        return self._norm(self._through(self._blocks[split:], x, seen))

    def _through(self, blocks: Sequence[Block], x: torch.Tensor, seen: Any) -> torch.Tensor:
        for block in blocks:
            mixed = self._attention(block.query_key_value(block.attention_norm(x)), block.n_head, seen)
            x = block.mlp(block.mix.added(mixed, x))
        return x


class ShortWindowEncoder:
    """The encoder half of Whisper. It counts its work: ``calls`` and ``encoded_samples`` (margins included).

    ``forward`` is the network, perhaps a compiled one.
    """

    pools = True  # whether ``pool_after`` has an effect

    def __init__(self, weights: Weights, precision: Precision = "fp32", network: Forward | None = None) -> None:
        self.device, self.precision = weights.device, precision
        self.forward: Forward = network or Network(weights, precision)
        self.compiled = getattr(self.forward, "compiled", False)
        self._n_mels, self._n_blocks = weights.dims["n_mels"], weights.dims["n_audio_layer"]
        self.reset_counts()

    def reset_counts(self) -> None:
        """Set the counts to zero."""
        self.calls = self.encoded_samples = 0

    def with_own_counts(self) -> Self:
        """An encoder with the same network and weights, and counts of its own."""
        other = copy(self)
        other.reset_counts()
        return other

    def encode(self, audio: FloatArray, margin: int, pool_after: int | None = None) -> Encoded:
        """Encode one window of at most 30 s.

        ``margin`` samples of silence are appended; the sum is rounded up to whole positions and cut at 30 s. After
        ``pool_after`` blocks neighbouring positions are averaged in pairs; the rest of the network works on half as
        many positions of 40 ms. Whisper was not trained for this: the features suit language-ID, not text.
        """
        return self.encode_batch([audio], margin, pool_after)[0]

    def encode_batch(self, windows: Sequence[FloatArray], margin: int, pool_after: int | None = None) -> list[Encoded]:
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
        n_calls, n_samples = self.calls + len(windows), self.encoded_samples + len(windows) * n_total
        self.calls, self.encoded_samples = n_calls, n_samples  # consistent for readers
        n_audio = positions(length)
        return [Encoded(window, n_audio if pool_after is None else -(-n_audio // 2)) for window in features]

    def check_pooling(self, pool_after: int | None) -> None:
        """Raise ConfigurationError unless a block of this model follows after so many."""
        if pool_after is not None and not 0 <= pool_after < self._n_blocks:
            allowed = f"None or 0 to {self._n_blocks - 1}, the blocks before the last"
            raise ConfigurationError(f"pool_after must be {allowed}, got {pool_after}")

    def mel(self, windows: Sequence[FloatArray], n_total: int) -> torch.Tensor:
        """Log-mel spectrograms of windows, amplified if quiet, then silence: shape (windows, mels, n_total / 160)."""
        padded = np.zeros((len(windows), n_total), dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = lifted(window)
        # one by one: the dynamic range is limited to 80 dB below the loudest value of each window
        return torch.stack([log_mel_spectrogram(row, self._n_mels, self.device) for row in padded])


def log_mel_spectrogram(audio: FloatArray, n_mels: int, device: torch.device) -> torch.Tensor:
    """Log-mel spectrogram of a window, shape (n_mels, samples / 160), as openai-whisper computes it (licence in data/).

    Each value is (x + 4) / 4, about -1 to 1. Here x is log10 of the power; values more than 8 below the largest x are
    raised to that level. ``n_mels`` is 80 or 128.
    """
    samples = torch.from_numpy(audio).to(device)
    window = torch.hann_window(_FFT).to(device)
    stft = torch.stft(samples, _FFT, _HOP, window=window, return_complex=True)
    mel = _filters(n_mels, device) @ (stft[..., :-1].abs() ** 2)
    log_mel = torch.clamp(mel, min=1e-10).log10()
    return (torch.maximum(log_mel, log_mel.max() - _RANGE) + 4.0) / 4.0


@lru_cache
def _filters(n_mels: int, device: torch.device) -> torch.Tensor:
    """Slaney's mel filters, shape (n_mels, 201)."""
    with np.load(_FILTERS, allow_pickle=False) as filters:
        return torch.from_numpy(filters[f"mel_{n_mels}"]).to(device)

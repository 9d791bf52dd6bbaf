"""Whisper's audio encoder on windows as short as the audio, never padded to 30 s unless asked.

openai-whisper insists on 3,000 mel frames: 2 s of speech then costs as much as 30 s. The network itself has
no such need, because its convolutions and attention take any length and its positional embedding is fixed.
Cutting the embedding to the window gives the same arithmetic on fewer positions; what changes is that the
model no longer sees the silence it was trained to see after the speech. `encode` therefore takes a *margin*:
zeros appended to the audio, which buy most of that back at a fraction of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from whisperlab.errors import AudioFormatError
from whisperlab.timeline import MAX_WINDOW, POSITION

if TYPE_CHECKING:
    from whisper.model import Whisper


@dataclass(slots=True, frozen=True)
class Encoded:
    """Encoder output of one window.

    ``features`` has shape (positions, state), a position being 20 ms; the first ``n_audio`` positions lie
    under audio, the rest under the margin of silence.
    """

    features: torch.Tensor
    n_audio: int


def positions(n_samples: int) -> int:
    """Encoder positions needed to cover that many samples, rounded up.

    >>> positions(32000), positions(32001)
    (100, 101)
    """
    return -(-n_samples // POSITION)


class ShortWindowEncoder:
    """The encoder half of a loaded Whisper model, counting the calls made and the audio seen.

    ``calls`` and ``encoded_samples`` (margins included) grow by every window encoded; they are what
    "encoder work" means in every report.
    """

    __slots__ = ("_encoder", "_n_mels", "calls", "device", "encoded_samples")

    def __init__(self, model: Whisper) -> None:
        self._encoder = model.encoder
        self._n_mels = model.dims.n_mels
        self.device = model.device
        self.calls = 0
        self.encoded_samples = 0

    def encode(self, audio: NDArray[np.float32], margin: int) -> Encoded:
        """Encode one window.

        Args:
            audio: float32 samples at 16 kHz, at most 30 s.
            margin: samples of silence to append; the sum is rounded up to whole positions and cut at 30 s.
        """
        if not 0 < len(audio) <= MAX_WINDOW:
            raise AudioFormatError(f"a window needs 1 to {MAX_WINDOW} samples, got {len(audio)}")
        n_total = min(positions(len(audio) + margin) * POSITION, MAX_WINDOW)
        mel = self._mel(audio, n_total)
        self.calls += 1
        self.encoded_samples += n_total
        with torch.inference_mode():
            return Encoded(self._forward(mel)[0], positions(len(audio)))

    def _mel(self, audio: NDArray[np.float32], n_total: int) -> torch.Tensor:
        """Log-mel spectrogram of the audio followed by silence, shape (1, mels, n_total / 160)."""
        from whisper.audio import log_mel_spectrogram

        padded = np.zeros(n_total, dtype=np.float32)
        padded[: len(audio)] = audio
        mel: torch.Tensor = log_mel_spectrogram(padded, self._n_mels, device=self.device)
        return mel[None]

    def _forward(self, mel: torch.Tensor) -> torch.Tensor:
        """`whisper.model.AudioEncoder.forward` with the positional embedding cut to the window."""
        encoder = self._encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
        x = x + encoder.positional_embedding[: x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        features: torch.Tensor = encoder.ln_post(x)
        return features

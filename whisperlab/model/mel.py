"""Log-mel spectrograms, with the values that openai-whisper computes (its code and filters; licence in ``data/``)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

_FILTERS = Path(__file__).parent / "data" / "mel_filters.npz"
_FFT = 400  # samples of a frame, 25 ms
_HOP = 160  # samples from frame to frame, 10 ms
_RANGE = 8.0  # values more than 80 dB below the loudest are raised to that level


def log_mel_spectrogram(audio: NDArray[np.float32], n_mels: int, device: torch.device) -> torch.Tensor:
    """Log-mel spectrogram of one window, shape (n_mels, samples / 160).

    Each value is (x + 4) / 4, about -1 to 1. Here x is log10 of the power; values more than 8 below the largest x are
    raised to that level.

    Args:
        audio: float32 samples at 16 kHz, shape (samples,).
        n_mels: number of mel bands, 80 or 128.
        device: where the spectrogram is computed.
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

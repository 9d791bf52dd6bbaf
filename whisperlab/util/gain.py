"""Automatic gain for quiet audio, from the RMS of its loudest 32 ms; exactly 1 at a normal level."""

import math

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME

NORMAL = 10 ** (-46 / 20)  # RMS of the loudest 32 ms of speech that needs no gain
TARGET = 10 ** (-26 / 20)  # level of quieter audio after the gain
MAX_GAIN_DB = 50.0
RELEASE_DB = 2.0  # per second: how fast the recent level falls when the audio gets quieter; it rises at once

_RELEASE = 10 ** (-RELEASE_DB / 20 * VAD_FRAME / SAMPLE_RATE)


def dbfs(level: float) -> float | None:
    """A level in decibels relative to full scale; None for digital silence."""
    return 20 * math.log10(level) if level > 0 else None


def level_of(audio: NDArray[np.float32]) -> float:
    """RMS of the loudest 32 ms. The last, shorter part counts as if silence followed it."""
    power = np.add.reduceat(np.square(audio, dtype=np.float64), np.arange(0, len(audio), VAD_FRAME))
    return math.sqrt(power.max() / VAD_FRAME)


def gain_for(level: float, max_gain_db: float = MAX_GAIN_DB) -> float:
    """The factor for audio of a level: 1 from `NORMAL` on, otherwise the factor to reach `TARGET`, up to a limit."""
    return 1.0 if level >= NORMAL else min(TARGET / max(level, 1e-9), 10 ** (max_gain_db / 20))


def lifted(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """The window amplified if it is quiet, otherwise the window itself."""
    gain = gain_for(level_of(window))
    return window if gain == 1 else window * np.float32(gain)


def recent_level(before: float, frame_level: float) -> float:
    """The recent level of a stream after the next 32 ms: it rises at once and falls by `RELEASE_DB` per second."""
    return max(frame_level, before * _RELEASE)

"""Automatic gain for quiet audio: how loud it is, and what to multiply it with so that speech in it is recognised.

The level of audio is the root mean square (RMS) of its loudest 32 ms. Audio of a normal level is never changed: its
gain is exactly 1. Everything depends on the samples alone, so chunk sizes do not matter.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME

NORMAL = 10 ** (-46 / 20)  # RMS of the loudest 32 ms of speech that needs no gain
TARGET = 10 ** (-26 / 20)  # what quieter audio is brought to
MAX_GAIN_DB = 50.0
RELEASE_DB = 2.0  # per second: the recent level falls so fast once the audio gets quieter, and rises at once

_RELEASE = 10 ** (-RELEASE_DB / 20 * VAD_FRAME / SAMPLE_RATE)


def dbfs(level: float) -> float | None:
    """A level in decibels below full scale; None for digital silence."""
    return 20 * math.log10(level) if level > 0 else None


def level_of(audio: NDArray[np.float32]) -> float:
    """RMS of the loudest 32 ms; a rest that is shorter counts as if silence followed it."""
    power = np.add.reduceat(np.square(audio, dtype=np.float64), np.arange(0, len(audio), VAD_FRAME))
    return math.sqrt(power.max() / VAD_FRAME)


def gain_for(level: float, max_gain_db: float = MAX_GAIN_DB) -> float:
    """What audio of a level is multiplied with: 1 from `NORMAL` on, else what brings it to `TARGET`, up to a limit.

    >>> gain_for(0.1), gain_for(0.0005) > 90
    (1.0, True)
    """
    if level >= NORMAL:
        return 1.0
    return min(TARGET / max(level, 1e-9), 10 ** (max_gain_db / 20))


def lifted(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """A window to encode, amplified if it is quiet; the window itself if it is not."""
    gain = gain_for(level_of(window))
    return window if gain == 1 else window * np.float32(gain)


class RecentLevel:
    """The level of a stream, frame by frame: it rises at once and falls by `RELEASE_DB` per second."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def push(self, frame_level: float) -> float:
        """Take the level of the next 32 ms; returns the recent level."""
        self.value = max(frame_level, self.value * _RELEASE)
        return self.value

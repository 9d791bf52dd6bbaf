"""When work is due: fixed points of the stream, so that the sizes of chunks never change a result."""

from __future__ import annotations

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME

MAX_LOAD_LEVEL = 2
# Samples between language-ID frames from load level 1 on. Of 20 switches on *dev* 3 are missed then, 2 without load,
# 7 at a whole second.
SPARSE_FRAMES = SAMPLE_RATE // 2
LONG_STEPS = 3  # decode steps that become one at load level 2
TRIM = 10 * SAMPLE_RATE  # samples between two times at which free memory is returned to the system


class Schedule:
    """Due points of voice activity (every 512 samples), language-ID (every hop) and decoding (every step).

    ``load_level`` reduces the work of a machine that is too slow: from 1 on there is at most one language-ID frame in
    `SPARSE_FRAMES`, at 2 also only one decode step in `LONG_STEPS`.
    """

    __slots__ = ("_hop", "_load_level", "_step", "_trimmed_at")

    def __init__(self, hop_ms: int, step_ms: int) -> None:
        self._hop = hop_ms * SAMPLE_RATE // 1000
        self._step = step_ms * SAMPLE_RATE // 1000
        self.begin()

    def begin(self) -> None:
        """Start a new stream without load."""
        self._load_level = self._trimmed_at = 0

    @property
    def load_level(self) -> int:
        """How much work is omitted, 0 (nothing) to `MAX_LOAD_LEVEL`."""
        return self._load_level

    @load_level.setter
    def load_level(self, level: int) -> None:
        if level not in range(MAX_LOAD_LEVEL + 1):
            raise ConfigurationError(f"load_level must be 0 to {MAX_LOAD_LEVEL}, got {level!r}")
        self._load_level = level

    def until_next(self, at: int) -> int:
        """Samples from ``at`` to the next due point of any kind."""
        return min(n - at % n for n in (VAD_FRAME, self._hop, self._step))

    def voice_due(self, at: int) -> bool:
        """Whether a frame of the voice activity detector ends here."""
        return at % VAD_FRAME == 0

    def language_due(self, at: int) -> bool:
        """Whether a language-ID hop ends here."""
        return at % self._hop == 0

    def step_due(self, at: int) -> bool:
        """Whether a decode step ends here."""
        return at % self._step == 0

    def omits_step(self, at: int) -> bool:
        """Whether load makes this decode step one of those that are omitted."""
        return self._load_level >= 2 and at // self._step % LONG_STEPS != 0

    def omits_frame(self, since_last: int) -> bool:
        """Whether load omits a language-ID frame so soon after the last one."""
        return self._load_level >= 1 and since_last < SPARSE_FRAMES

    def trim_due(self, at: int) -> bool:
        """Whether free memory should be returned now; True once every `TRIM` samples."""
        if at - self._trimmed_at < TRIM:
            return False
        self._trimmed_at = at
        return True

"""The plan of a soak: a warm-up, a window that is repeated at the end, and other sounds between them.

The first and the last window have the same samples after the same lead-in, so that latency is compared over the same
work. All pieces start at whole tiles: at the same phase of voice-activity frames, language-ID hops and decode steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import Literal

import numpy as np

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, seconds

TILE = lcm(VAD_FRAME, SAMPLE_RATE // 10, SAMPLE_RATE)  # samples (4 s)
BLOCK_TILES = 2  # tiles per sample of the log
BLOCK_S = seconds(BLOCK_TILES * TILE)
WINDOW_S = 600.0  # length of the warm-up and of each compared window
SHORTEST_S = 240.0

Part = Literal["warm-up", "lead-in", "first", "between", "last"]

# Length of each sound in tiles, [shortest, longest). Windows and warm-up contain all of them.
KINDS: dict[str, tuple[int, int]] = {
    "speech": (8, 18),
    "fast switches": (6, 12),
    "monologue": (10, 20),
    "speech in white noise": (5, 10),
    "speech in pink noise": (5, 10),
    "speech in babble": (5, 10),
    "speech over music": (5, 10),
    "music": (4, 10),
    "noise": (3, 8),
    "quiet room": (2, 8),
    "digital zero": (2, 6),
    "clipping": (3, 6),
    "DC steps": (3, 6),
}
LONG = {"monologue": 150, "quiet room": 45, "music": 60, "digital zero": 30, "fast switches": 60}  # tiles
LEAD_IN = (("digital zero", 3), ("speech", 5), ("digital zero", 2))  # gives both windows the same history


@dataclass(slots=True, frozen=True)
class Piece:
    """One sound of a kind in `KINDS`; ``start`` and ``n_tiles`` in tiles, ``seed`` for its random numbers."""

    part: Part
    kind: str
    start: int
    n_tiles: int
    seed: int

    @property
    def start_s(self) -> float:
        """Start in the stream, in seconds."""
        return seconds(self.start * TILE)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return seconds(self.n_tiles * TILE)


@dataclass(slots=True, frozen=True)
class Plan:
    """A soak of a number of hours of audio. Below an hour, warm-up and windows are a sixth of it each."""

    hours: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.hours * 3600 < float("inf"):
            raise ConfigurationError(f"a soak needs {SHORTEST_S / 3600:.3g} hours of audio or more, got {self.hours}")

    @property
    def window_tiles(self) -> int:
        """Tiles of the warm-up and of each window."""
        return _whole_blocks(min(WINDOW_S, self.hours * 600))

    @property
    def n_tiles(self) -> int:
        """Tiles of the stream."""
        return _whole_blocks(self.hours * 3600)

    @property
    def duration_s(self) -> float:
        """Seconds of audio of the stream."""
        return seconds(self.n_tiles * TILE)

    @property
    def warm_up_s(self) -> float:
        """Seconds of audio before memory is evaluated."""
        return seconds(self.window_tiles * TILE)

    def pieces(self) -> Iterator[Piece]:
        """All pieces in order, without gap or overlap."""
        lead_in = sum(n for _, n in LEAD_IN)
        between = self.n_tiles - 3 * self.window_tiles - 2 * lead_in
        rng = np.random.default_rng(self.seed)
        window = int(rng.integers(2**31))
        sounds: list[tuple[Part, Iterator[tuple[str, int, int]]]] = [
            ("warm-up", _mixed(rng, self.window_tiles)),
            ("lead-in", _lead_in()),
            ("first", _mixed(np.random.default_rng(window), self.window_tiles)),
            ("between", _between(rng, between)),
            ("lead-in", _lead_in()),
            ("last", _mixed(np.random.default_rng(window), self.window_tiles)),
        ]
        at = 0
        for part, found in sounds:
            for kind, n_tiles, seed in found:
                yield Piece(part, kind, at, n_tiles, seed)
                at += n_tiles


def _whole_blocks(length_s: float) -> int:
    return int(length_s // BLOCK_S) * BLOCK_TILES


def _lead_in() -> Iterator[tuple[str, int, int]]:
    yield from ((kind, n_tiles, 0) for kind, n_tiles in LEAD_IN)


def _between(rng: np.random.Generator, n_tiles: int) -> Iterator[tuple[str, int, int]]:
    """The usual mixture, and one of the long pieces in turn while a quarter of an hour or more is left."""
    left, n_long = n_tiles, 0
    while left >= 225:
        kind, length = list(LONG.items())[n_long % len(LONG)]
        yield kind, length, int(rng.integers(2**31))
        usual = min(left - length, 75)
        yield from _mixed(rng, usual)
        left, n_long = left - length - usual, n_long + 1
    yield from _mixed(rng, left)


def _mixed(rng: np.random.Generator, n_tiles: int) -> Iterator[tuple[str, int, int]]:
    """All kinds in random order, repeatedly; shorter if they would not all fit."""
    share = min(1.0, n_tiles / sum(high for _, high in KINDS.values()))
    while n_tiles > 0:
        for kind in rng.permutation(list(KINDS)):
            length = max(1, round(share * int(rng.integers(*KINDS[str(kind)]))))
            length = min(length, n_tiles)
            if length:
                yield str(kind), length, int(rng.integers(2**31))
            n_tiles -= length

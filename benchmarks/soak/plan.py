"""What a soak hears when: a warm-up, a stretch that comes again at the end, and everything between them.

The first and the last window are the same samples behind the same lead-in, so that latency is compared over the same
work. All pieces begin at whole tiles: at the same phase of voice-activity frames, language-ID hops and decode steps.
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
BLOCK_TILES = 2  # of what is sampled at once
BLOCK_S = seconds(BLOCK_TILES * TILE)
WINDOW_S = 600.0  # the warm-up, and each of the stretches that are compared
SHORTEST_S = 240.0

Part = Literal["warm-up", "lead-in", "first", "between", "last"]

# How long a sound lasts in tiles, from and to (not included). Windows and warm-up have all of them.
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
LEAD_IN = (
    ("digital zero", 3),
    ("speech", 5),
    ("digital zero", 2),
)  # forgets what was before, as far as a pause can


@dataclass(slots=True, frozen=True)
class Piece:
    """One sound of a kind out of `KINDS`; ``start`` and ``n_tiles`` in tiles, ``seed`` decides how it sounds."""

    part: Part
    kind: str
    start: int
    n_tiles: int
    seed: int

    @property
    def start_s(self) -> float:
        """Where it begins in the stream, in seconds."""
        return seconds(self.start * TILE)

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return seconds(self.n_tiles * TILE)


@dataclass(slots=True, frozen=True)
class Plan:
    """A soak of so many hours of audio. In one of less than an hour warm-up and windows are a sixth of it each."""

    hours: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.hours * 3600 < float("inf"):
            raise ConfigurationError(
                f"a soak needs {SHORTEST_S / 3600:.3g} hours of audio or more, got {self.hours}"
            )

    @property
    def window_tiles(self) -> int:
        """Tiles of the warm-up and of each window."""
        return _whole_blocks(min(WINDOW_S, self.hours * 600))

    @property
    def n_tiles(self) -> int:
        """Tiles of the whole."""
        return _whole_blocks(self.hours * 3600)

    @property
    def duration_s(self) -> float:
        """Seconds of audio of the whole."""
        return seconds(self.n_tiles * TILE)

    @property
    def warm_up_s(self) -> float:
        """Seconds of audio before memory counts."""
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
    """The usual mixture, and one of the long pieces in turn wherever a quarter of an hour is left for it."""
    left, turn = n_tiles, 0
    while left >= 225:
        kind, length = list(LONG.items())[turn % len(LONG)]
        yield kind, length, int(rng.integers(2**31))
        usual = min(left - length, 75)
        yield from _mixed(rng, usual)
        left, turn = left - length - usual, turn + 1
    yield from _mixed(rng, left)


def _mixed(rng: np.random.Generator, n_tiles: int) -> Iterator[tuple[str, int, int]]:
    """All kinds in any order, again and again; they are shorter where they would not all have room."""
    share = min(1.0, n_tiles / sum(high for _, high in KINDS.values()))
    while n_tiles > 0:
        for kind in rng.permutation(list(KINDS)):
            length = max(1, round(share * int(rng.integers(*KINDS[str(kind)]))))
            length = min(length, n_tiles)
            if length:
                yield str(kind), length, int(rng.integers(2**31))
            n_tiles -= length

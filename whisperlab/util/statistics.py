"""95 % intervals of a proportion, of a median and by the bootstrap, and measured values with their interval."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Interval: TypeAlias = tuple[float, float]
Array: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Array], float]

RESAMPLES = 2000
LEAST_UNITS = 3  # independent units, such as recordings, below which no interval is shown
BLOCK = 30  # chunks (3 s) that `block_ratio` resamples together: neighbouring chunks cost alike


def wilson(count: int, n: int, z: float = 1.96) -> Interval:
    """Wilson's score interval of a proportion. It holds for small n and for proportions of 0 and 1."""
    share, spread = count / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def median_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median and its interval of order statistics (David and Nagaraja 2003, 7.1); None below six values."""
    ordered, n = sorted(values), len(values)
    outside = max(0, math.floor((n + 1) / 2 - 0.98 * math.sqrt(n)) - 1)  # values below, and as many above
    low, high = (ordered[outside], ordered[n - 1 - outside]) if n >= 6 else (None, None)
    return median(ordered), low, high


def central(draws: Sequence[float] | Array) -> Interval:
    """The interval that holds the central 95 % of resampled values."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def resamples(n: int, rng: np.random.Generator, times: int = RESAMPLES) -> NDArray[np.int64]:
    """Bootstrap indices of ``n`` independent units, shape (times, n)."""
    return rng.integers(n, size=(times, n))


def speaker_blocks(speakers: Sequence[Collection[str]]) -> list[list[int]]:
    """The recordings (indices) in blocks without a speaker in common; a recording without known speakers is a block.

    Recordings of one speaker are alike: a bootstrap over blocks is honest (Liu and Peng 2020, arXiv 1912.09508).

    >>> speaker_blocks([{"Ann"}, {"Bo"}, {"Ann", "Cy"}, set()])
    [[1], [0, 2], [3]]
    """
    blocks: list[tuple[set[str], list[int]]] = []
    for number, names in enumerate(speakers):
        joined = [block for block in blocks if not block[0].isdisjoint(names)]
        blocks = [block for block in blocks if block not in joined]
        members = [member for _, block in joined for member in block]
        blocks.append((set(names).union(*(known for known, _ in joined)), [*members, number]))
    return [members for _, members in blocks]


def resampled(speakers: Sequence[Collection[str]]) -> list[list[int]]:
    """What a bootstrap resamples: `speaker_blocks` if there are `LEAST_UNITS`, otherwise single recordings."""
    blocks = speaker_blocks(speakers)
    return blocks if len(blocks) >= LEAST_UNITS else [[number] for number in range(len(speakers))]


def interval_note(speakers: Sequence[Collection[str]]) -> str:
    """What the intervals of `resampled` recordings hold for; empty if no speaker is known, or there are no intervals.

    >>> interval_note([{"Ann"}, {"Ann", "Bo"}, {"Ann"}])
    'The intervals resample 3 recordings and hold for these 2 voices only.'
    """
    names = set[str]().union(*speakers)
    if not names or len(speakers) < LEAST_UNITS:
        return ""
    if (n := len(speaker_blocks(speakers))) >= LEAST_UNITS:
        return f"The intervals resample {n} blocks of recordings with no voice in common ({len(names)} voices)."
    voices = f"these {len(names)} voices" if len(names) > 1 else "this voice"
    return f"The intervals resample {len(speakers)} recordings and hold for {voices} only."


def block_ratio(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    statistic: Statistic,
    rng: np.random.Generator,
    block: int = BLOCK,
) -> tuple[float, Interval | None]:
    """``statistic(a) / statistic(b)`` over the same chunks, with its interval; None below `LEAST_UNITS` blocks.

    Blocks of neighbouring chunks are resampled in pairs (block bootstrap; Künsch 1989, Annals of Statistics 17(3)).
    """
    pairs = [
        (np.asarray(mine[at : at + block], float), np.asarray(other[at : at + block], float))
        for mine, other in zip(a, b, strict=True)
        for at in range(0, len(mine), block)
    ]

    def ratio(rows: Sequence[int] | NDArray[np.int64]) -> float:
        top, bottom = (statistic(np.concatenate(part)) for part in zip(*(pairs[i] for i in rows), strict=True))
        return top / bottom

    enough = len(pairs) >= LEAST_UNITS
    interval = central([ratio(rows) for rows in resamples(len(pairs), rng)]) if enough else None
    return ratio(range(len(pairs))), interval


@dataclass(slots=True, frozen=True)
class Figure:
    """One measured value with its 95 % interval; ``n`` counts rounds or samples."""

    figure: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int | None = None


def summary(name: str, unit: str, values: Sequence[float]) -> Figure:
    value, low, high = median_interval(values)
    return Figure(name, value, unit, low, high, len(values))


def ratio(name: str, a: Sequence[float], b: Sequence[float]) -> Figure:
    """The median of ``a / b`` over rounds."""
    return summary(name, "x", [x / y for x, y in zip(a, b, strict=True)])

"""How long things took, from raw samples: delays of decisions on the audio clock, and compute per audio.

A switch that was never found has no delay, and leaving it out would flatter whoever finds only the easy
ones. So percentiles come twice: over all true switches, a missed one being later than any other, and over
the found ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.scoring.language import Boundary
from whisperlab.segments import Switch


@dataclass(slots=True, frozen=True)
class ComputeTime:
    """Seconds of computing and the seconds of audio they were spent on."""

    compute_s: float = 0.0
    audio_s: float = 0.0

    def __add__(self, other: ComputeTime) -> ComputeTime:
        return ComputeTime(self.compute_s + other.compute_s, self.audio_s + other.audio_s)


def decision_delays(pairs: Iterable[tuple[Boundary, Switch]]) -> tuple[float, ...]:
    """Seconds of audio heard from a true switch, where the new language begins, to its decision."""
    return tuple(switch.decided_at - boundary.end for boundary, switch in pairs)


def percentile(values: Sequence[float], q: float, *, missed: int = 0) -> float:
    """The q-th percentile of the values and of ``missed`` more that lie beyond every value.

    The smallest value that at least q percent do not exceed: infinite when that is a missed one, NaN when
    there is nothing at all.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([3.0, 1.0, 2.0], 50, missed=3)
    (2.0, 3.0)
    >>> percentile([1.0], 95, missed=1)
    inf
    """
    if not len(values) + missed:
        return math.nan
    every = [*values, *[math.inf] * missed]
    return float(np.percentile(every, q, method="inverted_cdf"))

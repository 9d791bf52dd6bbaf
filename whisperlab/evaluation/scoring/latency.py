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

from whisperlab.evaluation.scoring.language import Boundary
from whisperlab.evaluation.scoring.text import align, units
from whisperlab.evaluation.trace import Reference, Trace
from whisperlab.streaming.results import Switch


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


def word_latencies(
    reference: Reference, committed: Iterable[tuple[str, float]], *, fold_diacritics: bool = True
) -> tuple[float, ...]:
    """Seconds from the end of each word that was recognised right to the moment its text could no longer change.

    ``committed`` is the text that became final and when, in order. On the wall clock of a stream fed in real time
    this includes computing and queueing; on the clock of the audio it does not. True ends are those of `align`.
    """
    times: list[float] = []
    said: list[str] = []
    for text, at in committed:
        found = units(text, fold_diacritics=fold_diacritics)
        said += found
        times += [at] * len(found)
    latencies, heard = [], 0
    for step in align(reference, " ".join(said), fold_diacritics=fold_diacritics):
        if step.kind == "hit":
            latencies.append(times[heard] - step.end)
        heard += step.hypothesis is not None
    return tuple(latencies)


def response_times(service: Sequence[float], interval: float) -> tuple[float, ...]:
    """How long each chunk of a live stream waits and is worked on, from what it takes to work on each.

    Chunks come every ``interval``, in the unit of ``service``, whether the last one is done or not; one that is late
    makes those behind it wait. Percentiles of ``service`` alone leave that out (coordinated omission; Tene 2013, "How
    not to measure latency").

    >>> response_times([1.0, 25.0, 1.0, 1.0], 10.0)
    (1.0, 25.0, 16.0, 7.0)
    """
    responses, free_at = [], 0.0
    for number, taken in enumerate(service):
        came = number * interval
        free_at = max(came, free_at) + taken
        responses.append(free_at - came)
    return tuple(responses)


def response_p95(trace: Trace) -> float | None:
    """The 95th percentile of the `response_times` of a trace's chunks, were they to come in real time, in seconds.

    None for a trace that does not tell what each chunk took.
    """
    service = trace.service_s
    return percentile(response_times(service, trace.chunk_s), 95) if service else None


def percentile(values: Sequence[float], q: float, *, missed: int = 0) -> float:
    """The q-th percentile of the values and of ``missed`` more that lie beyond every value.

    The smallest value that at least q percent do not exceed: infinite when that is a missed one, NaN when
    there is nothing at all.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([3.0, 1.0, 2.0], 50, missed=3)
    (2.0, 3.0)
    >>> percentile([1.0], 95, missed=1)
    inf
    """
    n = len(values) + missed
    if not n:
        return math.nan
    place = max(math.ceil(n * (q / 100)) - 1, 0)
    return float(np.partition(values, place)[place]) if place < len(values) else math.inf

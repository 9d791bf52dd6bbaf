"""Delays of decisions on the audio clock, response times, and compute per audio, from raw samples.

A missed switch has no delay. Excluding it would favour a recogniser that finds only easy switches, so every percentile
exists twice: over all true switches, where a missed one counts as later than any other, and over the found ones alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.evaluation.scoring.text import Addable, align, units
from whisperlab.evaluation.trace import Reference, Trace


@dataclass(slots=True, frozen=True)
class ComputeTime(Addable):
    compute_s: float = 0.0
    audio_s: float = 0.0


def word_latencies(
    reference: Reference, committed: Iterable[tuple[str, float]], *, fold_diacritics: bool = True
) -> tuple[float, ...]:
    """Seconds from the end of each right word, as `align` estimates it, until its ``committed`` text was final."""
    said = [(unit, at) for text, at in committed for unit in units(text, fold_diacritics=fold_diacritics)]
    steps = align(reference, " ".join(unit for unit, _ in said), fold_diacritics=fold_diacritics)
    heard = (step for step in steps if step.hypothesis is not None)
    return tuple(at - step.end for step, (_, at) in zip(heard, said, strict=True) if step.kind == "hit")


def response_times(service: Sequence[float], interval: float) -> tuple[float, ...]:
    """Waiting plus processing time of each chunk of a live stream, from the processing times.

    Chunks arrive every ``interval``, in the unit of ``service``, whether or not the last one is done; a slow chunk
    delays the chunks behind it. Percentiles of ``service`` alone omit that (coordinated omission; Tene 2013, "How not
    to measure latency").

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
    """The 95th percentile of the `response_times` of a trace's chunks, in seconds; None without processing times."""
    end = trace.events[-1]
    times, chunk_s = end.get("service_s"), end.get("chunk_s")
    return percentile(response_times(times, chunk_s), 95) if times and chunk_s else None


def percentile(values: Sequence[float], q: float, *, missed: int = 0) -> float:
    """The smallest of the values and ``missed`` infinite ones that at least q percent do not exceed; NaN without any.

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

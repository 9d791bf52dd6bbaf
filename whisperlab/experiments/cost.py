"""What a sweep will cost, from what its stages cost a second of audio: by earlier rows, or by a try on this machine."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whisperlab.evaluation.trace import StreamTranscriber, Trace, capture
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisperlab.experiments.results_store import Row
    from whisperlab.experiments.sweep import Config, Task

PROBE_S = 20.0  # seconds of audio a configuration is tried on
WARM_S = 5.0  # before that, for what is set up once

# Stages by what is timed in them. Text is decoded within no other; language-ID's encoder is a part of its whole.
_STAGES = {"voice activity": "vad.detect", "language-ID": "lid.total", "text": "whisper.infer"}
_CACHE = ("cache_size", "hash_precision", "key", "shadow_rate")  # they only ever spare encodes


@dataclass(slots=True, frozen=True)
class Cost:
    """Seconds of computing for a second of audio, by stage, measured over ``audio_s`` seconds of it."""

    stages: Mapping[str, float]
    audio_s: float

    @property
    def rate(self) -> float:
        """All stages together."""
        return math.fsum(self.stages.values())


def cost_of(statistics: Mapping[str, Any], compute_s: float, audio_s: float) -> Cost:
    """The cost of a run, from its statistics; what no stage accounts for is ``other``."""
    timed = statistics.get("performance") or {}
    took = {name: float((timed.get(of) or {}).get("total", 0.0)) / 1000 for name, of in _STAGES.items()}
    took["other"] = max(0.0, compute_s - math.fsum(took.values()))
    return Cost({name: seconds / audio_s for name, seconds in took.items()}, audio_s)


def from_rows(rows: Iterable[Row]) -> dict[str, Cost]:
    """The cost of every configuration that finished some recording, by `cost_name`."""
    found: dict[str, list[tuple[Cost, float]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["compute_s"] and row["duration"]:
            cost = cost_of(row["statistics"], row["compute_s"], row["duration"])
            found.setdefault(cost_name(row["config"]), []).append((cost, row["duration"]))
    return {name: _together(costs) for name, costs in found.items()}


def probe(
    make_transcriber: Callable[[Config], StreamTranscriber],
    configurations: Iterable[Config],
    audio: FloatArray,
    known: Mapping[str, Cost],
    trial: Callable[..., Trace] = capture,
) -> dict[str, Cost]:
    """The cost of every configuration, of those that are not known by a run over the beginning of ``audio``.

    Those that differ in their cache alone are tried once, on whichever comes first: for the others that is an
    estimate that leaves out what their hits spare.
    """
    audio = audio[: samples(PROBE_S)]
    tried: dict[str, Cost] = {}
    found = dict(known)
    for config in configurations:
        name, alike = cost_name(config), cost_name(config, without=_CACHE)
        if name in found:
            continue
        if alike not in tried:
            trial(make_transcriber(config), audio[: samples(WARM_S)], recording="warm-up")
            trace = trial(make_transcriber(config), audio, recording="probe")
            tried[alike] = cost_of(trace.statistics, trace.compute_s, duration_s(audio))
        found[name] = tried[alike]
    return found


def seconds(tasks: Sequence[Task], costs: Mapping[str, Cost], n_workers: int, start_s: float = 0.0) -> float:
    """Estimate how many seconds the tasks take: they start in order, each on the first free worker.

    ``start_s`` is the start of a worker with its model. Workers are assumed not to slow each other down.
    """
    free_at = [start_s] * min(n_workers, len(tasks))
    for task in tasks:
        took = costs[cost_name(task.config)].rate * task.recording.duration
        heapq.heapreplace(free_at, free_at[0] + took)
    return max(free_at, default=0.0)


def by_stage(tasks: Iterable[Task], costs: Mapping[str, Cost]) -> dict[str, float]:
    """Seconds of computing the tasks take, by stage."""
    total: dict[str, float] = {}
    for task in tasks:
        for stage, rate in costs[cost_name(task.config)].stages.items():
            total[stage] = total.get(stage, 0.0) + rate * task.recording.duration
    return total


def cost_name(config: Config, without: Sequence[str] = ()) -> str:
    """A configuration as text, some of its options left out."""
    return json.dumps({name: value for name, value in config.items() if name not in without}, sort_keys=True)


def _together(costs: Sequence[tuple[Cost, float]]) -> Cost:
    """The mean of several runs, each as long as its audio."""
    whole = math.fsum(audio_s for _, audio_s in costs)
    stages = {
        stage: math.fsum(cost.stages[stage] * audio_s for cost, audio_s in costs) / whole
        for stage in costs[0][0].stages
    }
    return Cost(stages, whole)

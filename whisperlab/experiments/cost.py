"""An estimate of the time that a sweep takes, from earlier rows or from a short probe on this machine."""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from whisperlab.config import TranscriberConfig
from whisperlab.evaluation.trace import StreamTranscriber, Trace, capture
from whisperlab.experiments.results_store import Row
from whisperlab.experiments.sweep import Task
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.timeline import samples

PROBE_S = 20.0  # seconds of audio a configuration is tried on
WARM_S = 5.0  # seconds before that, for what is set up once

# Stages by the operation that times them. No operation contains another one.
_STAGES = {"voice activity": "vad.detect", "language-ID": "lid.total", "text": "whisper.infer"}


@dataclass(slots=True, frozen=True)
class Cost:
    """Seconds of computing per second of audio, by stage, measured over ``audio_s`` seconds of audio."""

    stages: Mapping[str, float]
    audio_s: float

    @property
    def rate(self) -> float:
        return math.fsum(self.stages.values())


def cost_of(statistics: Json, compute_s: float, audio_s: float) -> Cost:
    """The cost of a run, from its statistics; the rest of the time is the stage ``other``."""
    timed = statistics.get("performance") or {}
    took = {name: float((timed.get(of) or {}).get("total", 0.0)) / 1000 for name, of in _STAGES.items()}
    took["other"] = max(0.0, compute_s - math.fsum(took.values()))
    return Cost({name: seconds / audio_s for name, seconds in took.items()}, audio_s)


def from_rows(rows: Iterable[Row]) -> dict[str, Cost]:
    """The cost of every configuration that finished some recording, by `cost_name`: the mean per second of audio."""
    costs = defaultdict[str, list[Cost]](list)
    for row in rows:
        if row["status"] == "ok" and row["compute_s"] and row["duration"]:
            costs[cost_name(row["config"])].append(cost_of(row["statistics"], row["compute_s"], row["duration"]))
    found = {}
    for name, own in costs.items():
        audio_s = math.fsum(cost.audio_s for cost in own)
        stages = {stage: math.fsum(c.stages[stage] * c.audio_s for c in own) / audio_s for stage in own[0].stages}
        found[name] = Cost(stages, audio_s)
    return found


def probe(
    make_transcriber: Callable[[TranscriberConfig], StreamTranscriber],
    configurations: Iterable[TranscriberConfig],
    audio: FloatArray,
    known: Mapping[str, Cost],
    trial: Callable[..., Trace] = capture,
) -> dict[str, Cost]:
    """The cost of every configuration; those that are not ``known`` are run over the beginning of ``audio``.

    Of configurations that differ only in their cache the first is run; hits of the others are not estimated.
    """
    audio = audio[: samples(PROBE_S)]
    tried: dict[str, Cost] = {}
    found = dict(known)
    for config in configurations:
        name, alike = cost_name(config.to_json()), cost_name(config.to_json(), without="cache.")
        if name in found:
            continue
        if alike not in tried:
            trial(make_transcriber(config), audio[: samples(WARM_S)], recording="warm-up")
            trace = trial(make_transcriber(config), audio, recording="probe")
            tried[alike] = cost_of(trace.statistics, trace.compute_s, duration_s(audio))
        found[name] = tried[alike]
    return found


def seconds(tasks: Sequence[Task], costs: Mapping[str, Cost], n_workers: int) -> float:
    """The seconds that workers which do not slow each other down take, each task on the first free one."""
    free_at = [0.0] * min(n_workers, len(tasks))
    for task in tasks:
        took = costs[cost_name(task.config.to_json())].rate * task.recording.duration
        heapq.heapreplace(free_at, free_at[0] + took)
    return max(free_at, default=0.0)


def by_stage(tasks: Iterable[Task], costs: Mapping[str, Cost]) -> dict[str, float]:
    """Seconds of computing the tasks take, by stage."""
    total = defaultdict[str, float](float)
    for task in tasks:
        for stage, rate in costs[cost_name(task.config.to_json())].stages.items():
            total[stage] += rate * task.recording.duration
    return total


def cost_name(config: Json, without: str = "") -> str:
    """A configuration as text, without the options whose dotted names begin with ``without``."""
    kept = {name: value for name, value in flat(config).items() if not (without and name.startswith(without))}
    return json.dumps(kept, sort_keys=True)

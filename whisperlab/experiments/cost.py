"""An estimate of the time that a sweep takes, from earlier rows or from a short probe on this machine."""

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from whisperlab.config import TranscriberConfig
from whisperlab.evaluation.trace import StreamTranscriber, Trace, capture
from whisperlab.experiments.results_store import ResultsStore, check_config
from whisperlab.experiments.sweep import Task
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.timeline import samples

PROBE_S = 20.0  # seconds of audio a configuration is tried on
WARM_S = 5.0  # seconds before that, for what is set up once


@dataclass(slots=True, frozen=True)
class Cost:
    """Seconds of computing that ``audio_s`` seconds of audio took."""

    compute_s: float
    audio_s: float

    @property
    def rate(self) -> float:
        return self.compute_s / self.audio_s


def from_store(store: ResultsStore) -> dict[str, Cost]:
    """The cost of every configuration that finished some recording, by `cost_name`."""
    timed = "status = 'ok' and compute_s >= 0 and duration_s > 0"
    query = f"select config, sum(compute_s), sum(duration_s) from runs where {timed} group by config"  # noqa: S608
    return {cost_name(check_config(config)): Cost(*times) for config, *times in store.sql(query)}


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
            tried[alike] = Cost(trace.compute_s, duration_s(audio))
        found[name] = tried[alike]
    return found


def seconds(tasks: Sequence[Task], costs: Mapping[str, Cost], n_workers: int) -> float:
    """The seconds that workers which do not slow each other down take, each task on the first free one."""
    free_at = [0.0] * min(n_workers, len(tasks))
    for task in tasks:
        took = costs[cost_name(task.config.to_json())].rate * task.recording.duration
        heapq.heapreplace(free_at, free_at[0] + took)
    return max(free_at, default=0.0)


def cost_name(config: Json, without: str = "") -> str:
    """A configuration as text, without the options whose dotted names begin with ``without``."""
    kept = {name: value for name, value in flat(config).items() if not (without and name.startswith(without))}
    return json.dumps(kept, sort_keys=True)

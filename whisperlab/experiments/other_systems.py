"""Compare whisperlab with other systems: the same audio and weights, scored by the same rules.

Systems run in turns; the result is a table with one row per system, rates with intervals over recordings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled, score
from whisperlab.evaluation.trace import Pace, Reference
from whisperlab.experiments.systems import FOLLOWING, EncoderWork, Say, System, SystemResult, all_systems, log, select
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.process import process_memory
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.text_table import with_interval
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import samples
from whisperlab.util.timing import rotations

if TYPE_CHECKING:
    from whisperlab.data import Recording

WARM_UP_S = 3.0  # untimed audio for each system before the measurement
MEMORY_S = 30.0  # audio processed while memory is measured

TableRow: TypeAlias = dict[str, Any]  # JSON-able; columns depend on the rates

# The rates of a row, each with its interval over recordings.
RATES = (
    "mixed_error_rate",
    "switch_error_rate",
    "deleted_s_per_switch",
    "language_error_rate",
    "switch_f1_at_0.5",
    "switch_f1_at_1",
    "switch_f1_at_2",
    "switch_recall_at_2",
    "false_switches_per_hour",
    "decision_delay_found_p50",
    "decision_delay_found_p95",
    "word_latency_p50",
    "word_latency_p95",
    "real_time_factor",
)
CONTROLS = "false_switches_per_hour_controls"
COSTS = ("threads", "real_time_factor", "encoder_calls_per_s", "encoded_s_per_s", "peak_memory_bytes")


def run_system(
    name: str, system: System, recording: Recording, audio: FloatArray, clock: Callable[[], float]
) -> SystemResult:
    reference, began = Reference.from_dict(recording.reference), clock()
    output = system(audio, reference)
    took_s = clock() - began
    compute_s = took_s if output.compute_s is None else output.compute_s
    return SystemResult(name, recording.id, output, compute_s, duration_s(audio))


def interleaved(
    recordings: Sequence[Recording],
    systems: Mapping[str, System],
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = log.info,
) -> Iterator[SystemResult]:
    """Run every system on every recording; each recording starts with another system."""
    for number, (recording, order) in enumerate(zip(recordings, rotations(systems), strict=False), 1):
        audio, place = recording.audio(), f"{recording.id} ({number} of {len(recordings)})"
        for name in order:
            result = run_system(name, systems[name], recording, audio, clock)
            say(f"{place}: {name}: {result.compute_s:.1f} s for {result.duration:.0f} s of audio")
            yield result


def warm_up(recording: Recording, systems: Mapping[str, System]) -> None:
    """Run every system on a few seconds: the first call of a library initialises state that later calls reuse."""
    audio = recording.audio()[: samples(WARM_UP_S)]
    reference = _until(Reference.from_dict(recording.reference), WARM_UP_S)
    for system in systems.values():
        system(audio, reference)


def compare(
    recordings: Sequence[Recording],
    *,
    controls: Sequence[Recording] = (),
    names: Iterable[str] | None = None,
    pace: Pace = "fast",
    memory: bool = True,
    model: str = "base",
    threads: int = THREADS,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = log.info,
) -> list[TableRow]:
    """Run all systems on some recordings and return one row per system, as `summarise` makes them.

    Args:
        controls: recordings in one language each, for the systems that could switch in them (`FOLLOWING`).
        names: the systems to run, see `select`.
        memory: measure peak memory, last, each system in a fresh process.

    whisperlab runs with its defaults and the languages of the recordings; the other systems have no such option.
    Raises ConfigurationError without recordings.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to compare the systems on")
    languages = sorted({language for recording in recordings for language in recording.languages})
    with torch_threads(threads):
        makers = all_systems(languages, model, threads, say)
        wanted = select(names, makers)
        systems = {name: makers[name](pace) for name in wanted}
        warm_up(recordings[0], systems)
        results = list(interleaved(recordings, systems, clock=clock, say=say))
        following = {name: makers[name]("fast") for name in wanted if name in FOLLOWING and controls}
        control_results = list(interleaved(controls, following, clock=clock, say=say))
    rows = summarise(results, recordings, rng or np.random.default_rng(0), control_results, controls)
    reference = _until(Reference.from_dict(recordings[0].reference), MEMORY_S)
    for row in rows:
        row["threads"], row["peak_memory_bytes"] = threads, None
        if memory:
            task = (row["system"], languages, model, threads, recordings[0], reference)
            row["peak_memory_bytes"] = in_fresh_process(peak_memory, task)
            say(f"{row['system']}: peak memory {row['peak_memory_bytes'] / 1e6:.0f} MB")
    return rows


def peak_memory(task: tuple[str, Sequence[str], str, int, Recording, Reference]) -> int:
    """Peak memory (VmHWM, bytes) of this process after it has loaded a system and processed half a minute.

    ``task`` is the system's name, the languages, the model, the threads, a recording, and the reference of its start.
    """
    name, languages, model, threads, recording, reference = task
    with torch_threads(threads):
        all_systems(languages, model, threads)[name]("fast")(recording.audio()[: samples(MEMORY_S)], reference)
    return process_memory()["VmHWM"]


def _until(reference: Reference, end_s: float) -> Reference:
    return Reference(reference.text, tuple(s for s in reference.segments if s.end <= end_s))


def summarise(
    results: Iterable[SystemResult],
    recordings: Iterable[Recording],
    rng: np.random.Generator,
    control_results: Iterable[SystemResult] = (),
    controls: Iterable[Recording] = (),
) -> list[TableRow]:
    """A row per system in order of appearance: each of `RATES`, and its interval under ``<rate>_95``.

    Counts are summed over recordings before division. Intervals are bootstrapped over recordings and None below three.
    `CONTROLS` is the rate of false switches in the controls, None for a system that did not run on them.
    """
    scores, work = _scores(results, recordings)
    control_scores, _ = _scores(control_results, controls)
    return [_row(name, own, work[name], control_scores.get(name, []), rng) for name, own in scores.items()]


def score_result(result: SystemResult, reference: Reference) -> Score:
    """The score of one result, by the same rules as a trace's."""
    duration, output, compute_s = result.duration, result.output, result.compute_s
    committed = output.committed
    return score(
        reference, output.segments, output.switches, duration=duration, committed=committed, compute_s=compute_s
    )


def readable(rows: Iterable[TableRow], names: Iterable[str]) -> list[dict[str, str]]:
    """Some columns of the rows of `summarise` as text: each rate and its interval in one cell.

    >>> readable([{"system": "a", "mixed_error_rate": 0.5, "mixed_error_rate_95": (0.25, 0.75)}], ["mixed_error_rate"])
    [{'system': 'a', 'mixed_error_rate': '0.50 (0.25-0.75)'}]
    """
    columns = list(names)

    def cell(row: TableRow, name: str) -> str:
        value, n = row.get(name), row.get("recordings", LEAST_UNITS)
        if value is not None and not isinstance(value, float):
            return str(value)
        few = name in RATES and n < LEAST_UNITS
        return with_interval(value, row.get(f"{name}_95"), without=f"n = {n}, no interval" if few else "")

    return [{"system": row["system"], **{name: cell(row, name) for name in columns}} for row in rows]


def _scores(
    results: Iterable[SystemResult], recordings: Iterable[Recording]
) -> tuple[dict[str, list[Score]], dict[str, EncoderWork]]:
    """By system: the score of each recording, and the total encoder work."""
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    scores: dict[str, list[Score]] = {}
    work: dict[str, EncoderWork] = {}
    for result in results:
        scores.setdefault(result.name, []).append(score_result(result, references[result.recording]))
        work[result.name] = work.get(result.name, EncoderWork()) + result.output.work
    return scores, work


def _row(
    name: str, scores: Sequence[Score], work: EncoderWork, control_scores: Sequence[Score], rng: np.random.Generator
) -> TableRow:
    rates, intervals = pooled(scores).rates(), bootstrap_intervals(scores, RATES, rng)
    row: TableRow = {"system": name, "recordings": len(scores), "audio_s": round(rates["audio_s"], 3)}
    for rate in RATES:
        row[rate], row[f"{rate}_95"] = rates[rate], intervals[rate]
    row[CONTROLS] = row[f"{CONTROLS}_95"] = None
    if control_scores:
        false = "false_switches_per_hour"
        row[CONTROLS] = pooled(control_scores).rates()[false]
        row[f"{CONTROLS}_95"] = bootstrap_intervals(control_scores, [false], rng)[false]
    row["normalizer"] = rates["normalizer"]
    row["miss_rate_by_block"] = rates["miss_rate_by_block"]
    row["encoder_calls_per_s"] = work.calls / rates["audio_s"]
    row["encoded_s_per_s"] = work.encoded_s / rates["audio_s"]
    return row

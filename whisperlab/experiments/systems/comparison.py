"""Run the systems on the same audio and weights, each run in a process of its own, and score them by the same rules.

A system runs with the defaults of its users. Offline systems receive the whole recording: their switches are decided at
its end, and their words have no latency. A switch lies where the first segment of the new language begins.
"""

import json
import logging
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

import whisperlab
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled, rate_row, score_trace
from whisperlab.evaluation.stream_log import read_streams
from whisperlab.evaluation.trace import Pace, Reference, Trace
from whisperlab.experiments.results_store import Say
from whisperlab.experiments.significance import holm, paired_test
from whisperlab.experiments.systems.environments import SYSTEM_TABLES, System, select
from whisperlab.experiments.systems.ggml import write_ggml
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import TABLES
from whisperlab.util.errors import ConfigurationError, WhisperlabError
from whisperlab.util.json_values import Json
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.text_table import with_interval
from whisperlab.util.threads import THREADS
from whisperlab.util.timing import rotations

TableRow: TypeAlias = dict[str, Any]  # JSON-able
# The rates of a row, each with its interval over recordings.
RATES: Sequence[str] = SYSTEM_TABLES["rates"]
MORE = "words_wrong_more"  # than `OURS`, over the same recordings
OURS = "whisperlab, auto"
CONTROLS = "false_switches_per_hour_controls"
COSTS = ("threads", "real_time_factor", "processor_s_per_s", "peak_memory_bytes")
_PROTOCOL = Path(__file__).parent / "adapters" / "protocol.py"

log = logging.getLogger(__name__)


def compare(
    recordings: Sequence[Recording],
    *,
    controls: Sequence[Recording] = (),  # in one language each, for the systems that could switch in them
    names: Iterable[str] | None = None,  # as for `select`
    pace: Pace = "fast",
    model: str = "base",
    threads: int = THREADS,
    logs: Path | None = None,  # a folder for the stream logs
    rng: np.random.Generator | None = None,
    say: Say = log.info,
) -> list[TableRow]:
    """A row per system: each of `RATES`, its interval under ``<rate>_95``, costs, and ``reason`` if it cannot run.

    Each recording starts with another system, so that other load slows all. Counts are summed over recordings before
    division. Intervals are bootstrapped over recordings and None below three. `CONTROLS` is the rate of false switches
    in the controls, for systems that ran on them. `MORE` is the difference of words wrong from `OURS`, with ``p`` of a
    paired test over recordings, corrected for the number of systems. Raises ConfigurationError without recordings.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to compare the systems on")
    systems, rng = select(names), rng or np.random.default_rng(0)
    reasons, files = {one.name: one.reason() for one in systems}, cache(partial(weights_file, model, say))
    languages = sorted({language for recording in recordings for language in recording.languages})
    facts = {"model": model, "threads": threads, "languages": languages}

    def in_turns(scenes: Sequence[Recording], systems: Sequence[System], pace: Pace) -> dict[str, list[Trace]]:
        found = defaultdict[str, list[Trace]](list)
        for number, (scene, order) in enumerate(zip(scenes, rotations(systems), strict=False), 1):
            for one in order:
                if reasons[one.name]:
                    continue
                try:
                    trace = run(one, scene, files, {**facts, "pace": pace}, logs)
                except (WhisperlabError, OSError) as error:
                    reasons[one.name] = str(error)
                found[one.name] += [] if reasons[one.name] else [trace]
                cost = reasons[one.name] or f"{trace.compute_s:.1f} s for {trace.duration:.0f} s of audio"
                say(f"{scene.id} ({number} of {len(scenes)}): {one.name}: {cost}")
        return found

    traces = in_turns(recordings, systems, pace)
    false = in_turns(controls, [one for one in systems if one.follows], "fast")
    truth = {one.id: Reference.from_dict(one.reference) for one in (*controls, *recordings)}
    rows, all_scores = [], dict[str, list[Score]]()
    for one in systems:
        row: TableRow = {"system": one.name, "streams": one.streams, "threads": threads, "reason": reasons[one.name]}
        if not row["reason"]:
            both = (traces[one.name], false[one.name])
            scores, controls_of = ([score_trace(trace, truth[trace.recording]) for trace in found] for found in both)
            row |= _measured(one, traces[one.name], scores, controls_of, rng)
            all_scores[one.name] = scores
        rows.append(row)
    tests = _paired(all_scores, rng)
    return [row | tests.get(row["system"], {}) for row in rows]


def _paired(scores: Mapping[str, Sequence[Score]], rng: np.random.Generator) -> dict[str, TableRow]:
    """The paired tests of all systems against `OURS` on the recordings that have words; none without it."""
    if OURS not in scores:
        return {}
    wrong = {name: [one.rates()["mixed_error_rate"] for one in own] for name, own in scores.items()}
    known = [n for n, rate in enumerate(wrong[OURS]) if rate is not None]
    names, ours = [name for name in wrong if name != OURS and known], [wrong[OURS][n] for n in known]
    pairs = ((name, [wrong[name][n] for n in known]) for name in names)
    tests = holm([paired_test(name, ours, theirs, rng, kind="difference", threshold=0.01) for name, theirs in pairs])
    ends = [None if one.low is None else (one.low, one.high) for one in tests]
    return {one.measure: {MORE: one.value, f"{MORE}_95": end, "p": one.p} for one, end in zip(tests, ends, strict=True)}


def _measured(
    one: System, traces: Sequence[Trace], scores: Sequence[Score], controls: Sequence[Score], rng: np.random.Generator
) -> TableRow:
    row = rate_row(scores, RATES, rng)
    if not one.streams:  # its words are all final at the end
        row |= {name: None for name in row if name.startswith(("time_to", "normalized_erasure", "long_yaal"))}
    rate, row[CONTROLS] = "false_switches_per_hour", None
    if controls:
        row[CONTROLS] = pooled(controls).rates()[rate]
        row[f"{CONTROLS}_95"] = bootstrap_intervals(controls, [rate], rng)[rate]
    row["audio_s"] = audio_s = sum(trace.duration for trace in traces)
    row["processor_s_per_s"] = sum(trace.processor_s or 0.0 for trace in traces) / audio_s
    row["peak_memory_bytes"] = max(trace.events[-1]["peak_rss_bytes"] or 0 for trace in traces)
    return row


def run(system: System, scene: Recording, files: Callable[[str], Path], facts: Json, logs: Path | None = None) -> Trace:
    """One system on one recording, in a new process; ``files`` returns the weights in a format. Raises WhisperlabError.

    ``facts`` are model, threads, languages and pace.
    """
    python, weights = system.python(), [str(files(kind)) for kind in system.weights.split()]
    segments = [(segment.start, segment.end, segment.lang) for segment in scene.segments]
    names = {"adapter": system.adapter, "system": system.name, "recording": scene.id}
    paths = {*filter(None, (os.environ.get("PYTHONPATH"), str(Path(whisperlab.__file__).parents[1])))}
    ours = {"PYTHONPATH": os.pathsep.join(paths)} if not system.environment else {"PYTHONPATH": ""}
    limits = {"OMP_NUM_THREADS": str(facts["threads"]), "HF_HUB_OFFLINE": "1"}  # some read no other setting
    with TemporaryDirectory(prefix="whisperlab-systems-") as folder:
        name = re.sub(r"[^\w.]+", "-", f"{system.name} {scene.id}.jsonl")
        audio, stream_log = Path(folder, "audio.npy"), (logs or Path(folder)) / name
        np.save(audio, scene.audio())
        stream_log.parent.mkdir(parents=True, exist_ok=True)
        work = {"audio": str(audio), "log": str(stream_log), "weights": weights, "segments": segments}
        options = {"arguments": system.arguments, "hugging_face": TABLES["Hugging Face"]}
        command = [str(python), "-P", str(_PROTOCOL)]
        environment = {**os.environ, **limits, **ours}
        request = json.dumps({**names, **facts, **work, **options})
        done = subprocess.run(command, input=request, env=environment, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2] or "nothing"
            raise WhisperlabError(f"{system.name} failed on {scene.id} ({done.returncode}); last output: {last}")
        return read_streams(stream_log)[0]


def weights_file(model: str, say: Say, kind: str) -> Path:
    """A model's weights as ``pt``, ``ct2`` or ``ggml``, fetched or converted if missing. Errors: `models.fetch`."""
    if kind == "ct2":
        return models.ct2_folder(model, say)
    if kind == "ggml":
        path = models.cache_dir() / "models" / f"{model}.ggml"
        if not path.is_file():
            write_ggml(path, models.load_weights(model, say=say))
        return path
    return models.fetch(model, say)


def readable(rows: Iterable[TableRow], names: Iterable[str]) -> list[dict[str, str]]:
    """Some columns of the rows of `compare` as text: each rate and its interval in one cell.

    >>> readable([{"system": "a", "mixed_error_rate": 0.5, "mixed_error_rate_95": (0.25, 0.75)}], ["mixed_error_rate"])
    [{'system': 'a', 'mixed_error_rate': '0.50 (0.25-0.75)'}]
    """
    columns = list(names)

    def cell(row: TableRow, name: str) -> str:
        value, n = row.get(name), row.get("recordings", LEAST_UNITS)
        if value is not None and not isinstance(value, float):
            return str(value)
        few = name in (*RATES, MORE) and n < LEAST_UNITS
        return with_interval(value, row.get(f"{name}_95"), without=f"n = {n}, no interval" if few else "")

    return [{"system": row["system"], **{name: cell(row, name) for name in columns}} for row in rows]

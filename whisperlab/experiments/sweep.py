"""A grid of configurations over recordings: each pair leaves one row in a store and one trace beside it.

The store is a file of JSON lines that only ever grows, so a sweep can be killed at any moment and continued:
a row is named by what it depends on (configuration, audio, weights, version of whisperlab), and what is there
is not run again. The newest row of a name counts; trying a failed task again adds a row after the failed one.

Hit rates and false-hit rates of the cache do not depend on decoding: a configuration with ``"decode": false``
runs language-ID only, which makes a large sweep over the cache cheap. Such rows have no text rates.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import torch
from tqdm.auto import tqdm

from whisperlab import __version__
from whisperlab.cache import make_key
from whisperlab.data.audio_files import read_part
from whisperlab.evaluation.scoring import Score, pooled, response_p95, score_trace
from whisperlab.evaluation.trace import StreamTranscriber, Trace, record
from whisperlab.experiments.executors import Executor, InProcess, Lost
from whisperlab.experiments.results_store import (
    SCHEMA,
    STORE,
    TRACES,
    Row,
    Say,
    Writer,
    newest_rows,
    repair,
    sole_writer,
)
from whisperlab.util.audio_arrays import FloatArray, audio_digest
from whisperlab.util.errors import ConfigurationError, SweepError, WhisperlabError
from whisperlab.util.memory import trim_heap

if TYPE_CHECKING:
    from whisper.model import Whisper

    from whisperlab.data.manifest import Recording
    from whisperlab.model.weights import Weights

logger = logging.getLogger("whisperlab")

Config: TypeAlias = Mapping[str, Any]  # JSON-able options of one transcriber
MakeTranscriber: TypeAlias = Callable[[Config], StreamTranscriber]

AXES = ("cache_size", "hash_precision", "key", "lid_hop_ms")

# Language is asked for at every hop: left to itself the transcriber would skip some while it is sure, and hide what
# cache, key and hop do. Second looks, which never go through the cache, are left out.
EVERY_HOP: Config = {"confident_hop_factor": 1, "onset_ms": 0}


@dataclass(slots=True, frozen=True)
class Grid:
    """The values to try of each swept option; ``fixed`` holds the options all configurations share.

    Defaults are the transcriber's, but language-ID asks at `EVERY_HOP`, which a ``lid`` in ``fixed`` replaces. With
    ``decode`` False only language-ID runs.
    """

    cache_size: Sequence[int] = (50,)
    hash_precision: Sequence[int] = (6,)
    key: Sequence[str] = ("rounded",)
    lid_hop_ms: Sequence[int] = (100,)
    decode: bool = True
    fixed: Config = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis in AXES:
            if isinstance(getattr(self, axis), str) or not getattr(self, axis):
                raise ConfigurationError(f"{axis} needs a list of values, got {getattr(self, axis)!r}")
        if twice := {*AXES, "decode"} & self.fixed.keys():
            raise ConfigurationError(f"fixed options that the grid sets itself: {', '.join(sorted(twice))}")

    def configurations(self) -> list[dict[str, Any]]:
        """Every combination once, the first axis changing slowest.

        A key that a precision does not change runs with the first one only.
        """
        values = itertools.product(*(dict.fromkeys(getattr(self, axis)) for axis in AXES))
        swept = [dict(zip(AXES, combination, strict=True)) for combination in values]
        shared = {"lid": dict(EVERY_HOP), **self.fixed, "decode": self.decode}
        return [{**shared, **one} for one in swept if self._tells(one)]

    def _tells(self, swept: Config) -> bool:
        precision = swept["hash_precision"]
        first = self.hash_precision[0]
        return precision == first or make_key(swept["key"], precision) != make_key(swept["key"], first)


@dataclass(slots=True, frozen=True)
class Task:
    """One configuration to run over one recording. ``key`` names the result by all it depends on."""

    key: str
    config: Config
    recording: Recording
    audio_sha256: str
    model_digest: str


@dataclass(slots=True, frozen=True)
class Outcome:
    """What a sweep did: tasks in all, found done, run now; the rows of those that failed, now or earlier."""

    planned: int
    found: int
    ran: int
    failed: tuple[Row, ...]
    repaired_bytes: int


def task_key(config: Config, audio_sha256: str, model_digest: str, version: str = __version__) -> str:
    """SHA-256 over the canonical JSON of everything a result depends on, in hex.

    Raises ConfigurationError for a configuration that JSON cannot hold.
    """
    try:
        parts = [dict(config), audio_sha256, model_digest, version]
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"a configuration must be plain JSON, got {dict(config)!r:.200}: {error}"
        ) from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def plan(configurations: Iterable[Config], recordings: Iterable[Recording], model_digest: str) -> list[Task]:
    """All tasks, configuration by configuration. Reads the audio of every recording once, for its digest.

    Raises SweepError when two of the recordings are the same audio: their results would have one name.
    """
    heard: dict[str, Recording] = {}
    for recording in recordings:
        written = recording.audio_path.stat() if recording.audio_path.exists() else None
        part = recording.offset, recording.duration
        digest = _digest(recording.audio_path, part, written and (written.st_size, written.st_mtime_ns))
        if digest in heard:
            raise SweepError(f"recordings {heard[digest].id!r} and {recording.id!r} are the same audio")
        heard[digest] = recording
    pairs = itertools.product(configurations, heard.items())
    return [
        Task(task_key(config, digest, model_digest), config, recording, digest, model_digest)
        for config, (digest, recording) in pairs
    ]


@cache
def _digest(path: Path, part: tuple[float | None, float], _: tuple[int, int] | None) -> str:
    """Of audio in a file; read again only when size or time of the file say that it is another."""
    return audio_digest(read_part(path, *part))


def remaining(tasks: Iterable[Task], found: Mapping[str, str], *, retry_failed: bool = False) -> list[Task]:
    """The tasks without a row and those whose process died; with ``retry_failed`` also those that failed.

    ``found`` is the status of every row by its key, as `whisperlab.experiments.results_store.done` gives it.
    """
    finished = ("ok",) if retry_failed else ("ok", "failed")
    return [task for task in tasks if found.get(task.key) not in finished]


def run_sweep(
    configurations: Iterable[Config],
    recordings: Iterable[Recording],
    out: str | Path,
    *,
    model_digest: str,
    make_transcriber: MakeTranscriber | None = None,
    executor: Executor[Task, Row] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    say: Say = logger.info,
) -> Outcome:
    """Run every configuration over every recording that the store in ``out`` has no row for.

    ``make_transcriber`` is called with the configuration once a task, in this process; load the model outside
    it, once. An ``executor`` takes its place, with work made by `task_worker`. ``progress`` draws a bar on stderr that
    knows how much audio is left. A task that raises leaves a failed row and the sweep goes on. Ctrl-C leaves a valid
    store, says how to continue, and is raised. Raises SweepError when the store is damaged, cannot be written, or when
    another sweep is running in ``out``.
    """
    out = Path(out)
    if (make_transcriber is None) == (executor is None):
        raise ConfigurationError("a sweep needs either make_transcriber or an executor")
    tasks = plan(configurations, recordings, model_digest)
    if not tasks:
        raise SweepError("a sweep needs at least one configuration and one recording")
    with sole_writer(out):
        repaired = repair(out, say)
        store = Writer(out)
        todo = remaining(tasks, store.statuses, retry_failed=retry_failed)
        say(f"{len(tasks)} tasks, {len(tasks) - len(todo)} of them done before, results in {out / STORE}")
        _run_all(todo, out, store, executor, make_transcriber, progress, say)
        lost = {task.key for task in tasks if store.statuses[task.key] != "ok"}
        rows = newest_rows(out, lost) if lost else {}
    failed = tuple(rows[task.key] for task in tasks if task.key in lost)
    for row in failed:
        say(f"failed: {row['recording']} with {_short(row['config'])}: {row['error']}")
    return Outcome(len(tasks), len(tasks) - len(todo), len(todo), failed, repaired)


def transcriber_maker(model: Whisper | Weights) -> MakeTranscriber:
    """A function from a configuration to its transcriber; the model is loaded once and shared.

    Groups of options are objects: ``{"lid": {"sure": 0.9}}``.
    """
    from whisperlab.config import TranscriberConfig
    from whisperlab.transcriber import SessionRestartTranscriber

    return lambda config: SessionRestartTranscriber(model, config=TranscriberConfig.from_json(config))


def identity(digest: str, device: str) -> dict[str, str]:
    """What decides a record besides task and chance: weights, version of whisperlab, and precision on this machine.

    ``precision`` is that of encoder and decoder where a configuration names none: it depends on the processor.
    """
    from whisperlab.model.linear import check_precision

    here = torch.device(device)
    precision = f"{check_precision(None, here, 'encoder')}/{check_precision(None, here, 'decoder')}"
    return {"weights": digest, "version": __version__, "precision": precision}


def load_maker(model: str, device: str, drivers: Mapping[str, str]) -> MakeTranscriber:
    """`transcriber_maker` of a model that is loaded and prepared: on a CPU now, so that workers forked later share it.

    Elsewhere that waits for the first task, for a fork cannot use the GPU of the process it is made from. ``drivers``
    is the `identity` of whoever drives. Raises SweepError where a worker has another one: its results would stand
    under a wrong name.
    """
    load = cache(partial(_loaded_maker, model, device, tuple(drivers.items())))
    if device == "cpu":
        load()
    return lambda config: load()(config)


def _loaded_maker(model: str, device: str, drivers: tuple[tuple[str, str], ...]) -> MakeTranscriber:
    from whisperlab.model.engine import prepared
    from whisperlab.model.weights import load_weights, model_digest

    weights = load_weights(model, device)
    ours = identity(model_digest(weights), device)
    for what, theirs in drivers:
        if ours[what] != theirs:
            raise SweepError(
                f"a worker has another {what} than who drives the sweep: {ours[what]:.16}, not {theirs:.16}"
            )
    prepared(weights)
    return transcriber_maker(weights)


def task_worker(out: Path, load: Callable[[], MakeTranscriber]) -> Callable[[Task], Row]:
    """What a worker of an executor does with a task; ``load`` is called now, so once for each worker.

    The factory of an executor is ``partial(task_worker, out, partial(load_maker, "base", "cpu", identity(...)))``.
    """
    make_transcriber = load()
    return lambda task: run_task(task, out, make_transcriber)


def run_task(
    task: Task,
    out: Path,
    make_transcriber: MakeTranscriber,
    heard: Callable[[float], object] | None = None,
    audio: FloatArray | None = None,
) -> Row:
    """Run one task and return its row; what goes wrong becomes a failed row.

    ``audio`` is that of the recording, when it is at hand. ``heard`` is called with the seconds of audio done so far.
    The row's ``trace`` is relative to ``out``;
    ``peak_rss_bytes`` is that of the whole process, model included, while the task ran.
    """
    row = _identity(task)
    _reset_peak_memory()
    try:
        trace = record(
            make_transcriber(task.config),
            task.recording.audio() if audio is None else audio,
            out / row["trace"],
            recording=task.recording.id,
            reference=task.recording.reference,
            audio_path=task.recording.audio_path,
            audio_offset=task.recording.offset,
            progress=heard,
        )
        return {**row, **_measured(trace, task.config)}
    except Exception as error:
        ours = isinstance(error, WhisperlabError)  # says in a line what is wrong
        logger.warning("%s failed with %s", task.recording.id, _short(task.config), exc_info=not ours)
        return {**row, "status": "failed", "error": f"{type(error).__name__}: {error}", "trace": None}


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per row, nested fields flattened with dots: ``config.key``, ``rates.mixed_error_rate``, ...

    Counts are left out: they are lists and tables, there to be added up. See ``summarise``.
    """
    return pd.json_normalize([{**row, "counts": {}} for row in rows])


def summarise(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per configuration: counts summed over its recordings, then divided.

    Columns are ``config.*``, ``rates.*`` (see ``Score.rates``), ``cache.*`` (``cache.false_hit_rate`` is None
    where no hit was checked), totals, and of ``response_p95_s`` and ``peak_rss_bytes`` the worst recording's. Weights
    and versions are told apart like configurations. Raises SweepError for a row that lacks what is to be added up.
    """
    groups: dict[str, list[Row]] = {}
    try:
        for row in rows:
            of = [row["config"], row["model_digest"], row["whisperlab"]]
            groups.setdefault(json.dumps(of, sort_keys=True), []).append(row)
        return pd.json_normalize([_summary(group) for group in groups.values()])
    except (KeyError, TypeError) as error:
        raise SweepError(
            f"a row of a finished task lacks something, or has null for it: {error!r}"
        ) from error


def _summary(rows: Sequence[Row]) -> Row:
    finished = [row for row in rows if row["status"] == "ok"]
    summary = {
        **{name: rows[0][name] for name in ("config", "model_digest", "whisperlab")},
        "recordings": len(finished),
        "failed": len(rows) - len(finished),
    }
    if not finished:
        return summary
    return {
        **summary,
        "rates": _rates(pooled(Score.from_dict(row["counts"]) for row in finished), rows[0]["config"]),
        "cache": _cache_summary([row["statistics"].get("encoder_cache", {}) for row in finished]),
        "duration": sum(row["duration"] for row in finished),
        "compute_s": sum(row["compute_s"] for row in finished),
        "response_p95_s": max(
            (found for row in finished if (found := row.get("response_p95_s")) is not None), default=None
        ),
        "peak_rss_bytes": max(row["peak_rss_bytes"] or 0 for row in finished) or None,
    }


def _cache_summary(caches: Sequence[Mapping[str, Any]]) -> Row:
    """Totals and rates over several runs; ``lookup_p95_ms`` is the worst run's: percentiles do not add."""
    total: Counter[str] = Counter()
    for counts in caches:
        shadow = counts.get("shadow", {})
        total.update({name: counts.get(name, 0) for name in ("hits", "misses", "evictions")})
        total.update({name: shadow.get(name, 0) for name in ("checked", "false_hits")})
        total.update(counts.get("hits_by_cause", {}))
    lookups = total["hits"] + total["misses"]
    slowest = [counts["lookup_ms"]["p95"] for counts in caches if counts.get("lookup_ms", {}).get("n")]
    return {
        **total,
        "hit_rate": total["hits"] / lookups if lookups else None,
        "false_hit_rate": total["false_hits"] / total["checked"] if total["checked"] else None,
        "lookup_p95_ms": max(slowest, default=None),
    }


def _identity(task: Task) -> Row:
    """The fields a row has whether or not its task succeeds."""
    recording = task.recording
    return {
        "key": task.key,
        "status": "ok",
        "schema": SCHEMA,
        "config": dict(task.config),
        "recording": recording.id,
        "corpus": recording.corpus,
        "split": recording.split,
        "audio_sha256": task.audio_sha256,
        "model_digest": task.model_digest,
        "whisperlab": __version__,
        "error": None,
        "counts": {},
        "rates": {},
        "statistics": {},
        "trace": f"{TRACES}/{task.key}.jsonl",
        "duration": recording.duration,
        "compute_s": None,
        "response_p95_s": None,
        "peak_rss_bytes": None,
        "threads": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _measured(trace: Trace, config: Config) -> Row:
    score = score_trace(trace)
    return {
        "counts": score.to_dict(),
        "rates": _rates(score, config),
        "statistics": trace.statistics,
        "duration": trace.duration,
        "compute_s": trace.compute_s,
        "response_p95_s": response_p95(trace),
        "peak_rss_bytes": trace.events[-1]["peak_rss_bytes"],
        "threads": trace.config.get("threads"),
    }


# Rates of the final segments. Without decoding there are none, and all speech would count as missed.
_SEGMENT_RATES: Row = {"mixed_error_rate": None, "error_rate_by_language": {}, "language_error_rate": None}


def _rates(score: Score, config: Config) -> Row:
    return score.rates() if config.get("decode", True) else {**score.rates(), **_SEGMENT_RATES}


def _run_all(
    todo: Sequence[Task],
    out: Path,
    store: Writer,
    executor: Executor[Task, Row] | None,
    make_transcriber: MakeTranscriber | None,
    progress: bool,
    say: Say,
) -> None:
    """Run and store all tasks, under a bar that counts seconds of audio."""
    bar = tqdm(
        total=sum(task.recording.duration for task in todo),
        desc="sweep",
        disable=not progress,
        smoothing=0,  # time left from the mean speed: speech and silence come and go too fast for a moving one
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left{postfix}",
    )
    finished_s, failures = 0.0, 0
    if executor is None:
        assert make_transcriber is not None
        executor = InProcess(lambda: lambda task: run_task(task, out, make_transcriber, heard))

    def heard(audio_s: float) -> None:
        _advance(bar, finished_s, audio_s)

    with bar, _explained(out, say), closing(executor.run(todo)) as results:
        bar.set_postfix_str(f"task 1/{len(todo)}, 0 failed")
        for number, (task, result) in enumerate(results, 1):
            row = _lost(task, result.attempts) if isinstance(result, Lost) else result
            store.append(row)
            failures += row["status"] != "ok"
            finished_s += task.recording.duration
            _advance(bar, finished_s, 0.0)
            bar.set_postfix_str(f"task {min(number + 1, len(todo))}/{len(todo)}, {failures} failed")


def _lost(task: Task, attempts: int) -> Row:
    died = f"the process that worked on it died, {attempts} times: was there enough memory?"
    return {**_identity(task), "status": "died", "error": died, "trace": None}


def _advance(bar: tqdm[Any], before_s: float, heard_s: float) -> None:
    # Set, not added up: rounding errors past the total would make the bar complain.
    bar.n = min(before_s + heard_s, bar.total or 0.0)
    bar.update(0)


@contextmanager
def _explained(out: Path, say: Say) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"stopped; {out / STORE} holds everything that was finished: run the same sweep again to continue"
        )
        raise


def _reset_peak_memory() -> None:
    """Make VmHWM start anew, where the system allows it; otherwise it is the peak since the process began.

    It starts at what is resident, so what earlier tasks have freed goes back to the system first: as long as the
    allocator keeps it, no peak is below those before.
    """
    gc.collect()
    trim_heap()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _short(config: Config) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items())

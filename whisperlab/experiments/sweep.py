"""A grid of configurations over recordings: each pair leaves one row in a store and one trace beside it.

A row is named by everything it depends on: configuration, audio, reference, model, version of whisperlab, precision and
processor. A row that exists is not computed again, so a sweep that was stopped or killed can be continued. A
configuration without ``decode`` runs language-ID only, which makes a large sweep over the cache cheap: its hit rates do
not depend on decoding.
"""

import gc
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeAlias, TypedDict, get_args

import torch
from tqdm.auto import tqdm

from whisperlab import __version__
from whisperlab.cache import make_key
from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import score_trace
from whisperlab.evaluation.trace import StreamTranscriber, capture, write_trace
from whisperlab.experiments import results_store as stores
from whisperlab.experiments.executors import Executor, Lost
from whisperlab.experiments.results_store import STORE, Row, Say
from whisperlab.model.linear import Part, check_precision, instruction_set
from whisperlab.model.weights import Model, load_weights, model_digest
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import audio_digest
from whisperlab.util.errors import (
    AudioFormatError,
    ConfigurationError,
    KilledError,
    SweepError,
    WhisperlabError,
    is_full_disk,
)
from whisperlab.util.json_values import Json, unicode_text
from whisperlab.util.log import logger
from whisperlab.util.options import flat
from whisperlab.util.process import reset_peak_rss, trim_heap

MakeTranscriber: TypeAlias = Callable[[TranscriberConfig], StreamTranscriber]

# Language-ID at every hop, without the extra windows at onsets, which never go through the cache. By default the
# transcriber skips hops while it is confident, which would hide the effect of cache, key and hop.
EVERY_HOP: Json = {"language_id.confident_hop_factor": 1, "language_id.onset_ms": 0}
# Of seconds of audio. The time left is from the mean speed: speech and silence alternate too fast for a moving one.
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left{postfix}"
_PRECISION, _GUIDE_KEY = "cache.hash_precision", {"cache.key": "rounded"}


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without tqdm's own thread: starting one waits forever for lack of memory (see `util.threads`)."""

    monitor_interval = 0


@dataclass(slots=True, frozen=True)
class Grid:
    """The values to try of each option, by dotted name; ``fixed`` are options of all configurations.

    Other options have the transcriber's defaults, except those of `EVERY_HOP`. A grid of hash precisions without a
    key uses the guide's, because the default key ignores them.

    >>> [config.cache.size for config in Grid({"cache.size": [10, 50]}).configurations()]
    [10, 50]
    """

    axes: Mapping[str, Sequence[object]]
    fixed: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.axes.items():
            if isinstance(values, str) or not values:
                raise ConfigurationError(f"{name} needs a list of values, got {values!r}")
        if twice := self.axes.keys() & self.fixed.keys():
            raise ConfigurationError(f"options both swept and fixed: {', '.join(sorted(twice))}")

    def configurations(self) -> list[TranscriberConfig]:
        """Every combination once, the first axis changing slowest; of precisions that a key ignores only the first."""
        key = _GUIDE_KEY if _PRECISION in self.axes else {}
        base = TranscriberConfig().replace({**EVERY_HOP, **key, **self.fixed})
        combinations = itertools.product(*(dict.fromkeys(values) for values in self.axes.values()))
        swept = [base.replace(dict(zip(self.axes, values, strict=True))) for values in combinations]
        first = swept[0].cache.hash_precision
        return [
            config
            for config in swept
            if (precision := config.cache.hash_precision) == first
            or make_key(config.cache.key, precision) != make_key(config.cache.key, first)
        ]


@dataclass(slots=True, frozen=True)
class Task:
    """One configuration to run over one recording. ``key`` names the result by everything it depends on."""

    key: str
    config: TranscriberConfig
    recording: Recording
    audio_sha256: str
    reference_sha256: str
    identity: Mapping[str, str]


class RunOptions(TypedDict, total=False):
    """How tasks are run: keyword arguments of `run_sweep` and `search`."""

    make_transcriber: MakeTranscriber | None
    executor: Executor[Task, Row] | None
    model_digest: str
    retry_failed: bool
    progress: bool
    say: Say


@dataclass(slots=True, frozen=True)
class Outcome:
    """What a sweep did: the number of tasks, of those found done, and of those run now."""

    planned: int
    found: int
    ran: int
    failed: tuple[Row, ...]  # now or earlier
    peak_rss_bytes: int | None  # the highest of a process that ran a task; None when none ran


def plan(configurations: Iterable[TranscriberConfig], recordings: Iterable[Recording], model_digest: str) -> list[Task]:
    """All tasks, by configuration. Raises SweepError for recordings of the same audio: results would share a name."""
    by_digest: dict[str, Recording] = {}
    references: dict[str, str] = {}
    for recording in recordings:
        written = recording.audio_path.stat() if recording.audio_path.exists() else None
        digest = _digest(recording, written and (written.st_size, written.st_mtime_ns))
        if digest in by_digest:
            raise SweepError(f"recordings {by_digest[digest].id!r} and {recording.id!r} are the same audio")
        by_digest[digest], references[digest] = recording, stores.digest(recording.reference)
    tasks = []
    for config in configurations:
        made = identity(model_digest, config.compute.device or "cpu")
        for digest, recording in by_digest.items():
            key = stores.task_key(config.to_json(), digest, references[digest], made)
            tasks.append(Task(key, config, recording, digest, references[digest], made))
    return tasks


@cache
def _digest(recording: Recording, _: tuple[int, int] | None) -> str:
    """The digest of the audio, which is read again only when size or time of the file have changed."""
    return audio_digest(recording.audio())


def remaining(tasks: Iterable[Task], found: Mapping[str, str], *, retry_failed: bool = False) -> list[Task]:
    """The tasks without a row in ``found`` (statuses by key) and those whose process died; perhaps failed ones too."""
    finished = ("ok",) if retry_failed else ("ok", "failed")
    return [task for task in tasks if found.get(task.key) not in finished]


def run_sweep(
    configurations: Iterable[TranscriberConfig],
    recordings: Iterable[Recording],
    out: str | Path,
    *,
    model_digest: str,
    make_transcriber: MakeTranscriber | None = None,  # called once per task, in this process
    executor: Executor[Task, Row] | None = None,  # in its place, with work made by `task_worker`
    retry_failed: bool = False,
    progress: bool = True,  # draws a bar on stderr
    say: Say = logger.info,
) -> Outcome:
    """Run every configuration over every recording, except where the store in ``out`` has a row already.

    A task that raises leaves a failed row. Ctrl-C leaves a valid store. Raises SweepError for a damaged store, and
    while another sweep is running in ``out``.
    """
    out = Path(out)
    if (make_transcriber is None) == (executor is None):
        raise ConfigurationError("a sweep needs either make_transcriber or an executor")
    tasks = plan(configurations, recordings, model_digest)
    if not tasks:
        raise SweepError("a sweep needs at least one configuration and one recording")
    keys = [task.key for task in tasks]
    with stores.write_store(out) as store:
        todo = remaining(tasks, store.statuses(keys), retry_failed=retry_failed)
        say(f"{len(tasks)} tasks, {len(tasks) - len(todo)} of them done before, results in {out / STORE}")
        n, seconds = len(todo), sum(task.recording.duration for task in todo)
        bar = _Bar(total=seconds, desc="sweep", smoothing=0, bar_format=_BAR, disable=not progress)
        done, done_s, failures, peak = 0, 0.0, 0, 0

        def advance(within_task_s: float = 0.0) -> None:
            bar.n = min(done_s + within_task_s, seconds)  # not added up: rounding errors would make the bar complain
            bar.set_postfix_str(f"task {min(done + 1, n)}/{n}, {failures} failed", refresh=not within_task_s)
            bar.update(0)

        if executor:
            running = executor(todo)
        else:
            assert make_transcriber is not None
            running = ((task, run_task(task, out, make_transcriber, advance)) for task in todo)
        try:
            with bar, closing(running) as results:
                advance()
                for task, result in results:
                    row = _died(task, result) if isinstance(result, Lost) else result
                    store.append(row)
                    failures += row["status"] != "ok"
                    peak = max(peak, row["peak_rss_bytes"] or 0)
                    done, done_s = done + 1, done_s + task.recording.duration
                    advance()
        except KeyboardInterrupt:
            say(f"stopped; {out / STORE} holds every finished result, which later runs skip")
            raise
        rows = store.rows_of([key for key, status in store.statuses(keys).items() if status != "ok"])
    failed = tuple(rows[key] for key in keys if key in rows)
    for row in failed:
        say(f"failed: {row['recording']} with {_short(TranscriberConfig.from_json(row['config']))}: {row.get('error')}")
    return Outcome(len(tasks), len(tasks) - n, n, failed, peak or None)


def transcriber_maker(model: Model) -> MakeTranscriber:
    """A function from a configuration to its transcriber; the model is shared."""
    return lambda config: SessionRestartTranscriber(model, config=config)


def identity(digest: str, device: str) -> dict[str, str]:
    """What all processes of a sweep must share: weights, version, the processor and its precisions by default."""
    here = torch.device(device)
    precision = "/".join(check_precision(None, here, part) for part in get_args(Part))
    return {"weights": digest, "version": __version__, "precision": precision, "processor": instruction_set(here)}


def load_maker(model: str, device: str, drivers: Mapping[str, str]) -> MakeTranscriber:
    """`transcriber_maker` of a model loaded in a worker. Raises SweepError if its `identity` is not ``drivers``."""
    weights = load_weights(model, device)
    own = identity(model_digest(weights), device)
    for what, theirs in drivers.items():
        if own[what] != theirs:
            raise SweepError(f"worker and driver differ in {what}: {own[what]:.40} and {theirs:.40}")
    return transcriber_maker(weights)


def task_worker(out: Path, load: Callable[[], MakeTranscriber]) -> Callable[[Task], Row]:
    """The work of an executor: ``partial(task_worker, out, partial(load_maker, model, device, identity(...)))``."""
    make_transcriber = load()
    return lambda task: run_task(task, out, make_transcriber)


def run_task(
    task: Task,
    out: Path,
    make_transcriber: MakeTranscriber,
    progress: Callable[[float], object] | None = None,  # called with the seconds of audio done
) -> Row:
    """Run one task and return its row; an error becomes a failed row. Raises SweepError if the disk is full.

    ``peak_rss_bytes`` is that of the whole process during the task, or since it began where it cannot be reset.
    """
    row, recording, path = _identity(task), task.recording, f"{stores.TRACES}/{task.key}.jsonl"
    gc.collect()
    trim_heap()  # the new peak starts at what is resident, so memory that earlier tasks have freed is returned first
    with suppress(OSError):
        reset_peak_rss()
    try:
        audio = recording.audio()
        if audio_digest(audio) != task.audio_sha256:
            raise AudioFormatError(f"{recording.audio_path} changed during the sweep; run the sweep again")
        trace = capture(
            make_transcriber(task.config),
            audio,
            recording=recording.id,
            reference=recording.reference,
            audio_path=recording.audio_path,
            audio_options={"offset": recording.offset},
            progress=progress or (lambda _: None),
        )
        write_trace(out / path, trace)
        score = score_trace(trace)
        rates, threads = score.rates(has_text=task.config.decode), task.config.compute.threads
        return {**row, "trace": path, "rates": rates, "threads": threads, **stores.measured(trace, score)}
    except Exception as error:
        if is_full_disk(error):
            raise SweepError(f"{error}; with room, --resume runs the rest: nothing was recorded as failed") from error
        expected = isinstance(error, WhisperlabError)  # its message is enough
        logger.warning("%s failed with %s", recording.id, _short(task.config), exc_info=not expected)
        status = "died" if isinstance(error, KilledError) else "failed"
        return {**row, "status": status, "error": unicode_text(f"{type(error).__name__}: {error}")}


def _died(task: Task, lost: Lost) -> Row:
    error = f"the process that ran it died, {lost.attempts} times: was there enough memory?"
    return {**_identity(task), "status": "died", "error": error}


# What a row has from its run.
_UNKNOWN: Row = {"error": None, "trace": None, "counts": {}, "rates": {}, "statistics": {}, "threads": None}
_UNTIMED: Row = {"compute_s": None, "processor_s": None, "response_p95_s": None, "peak_rss_bytes": None}


def _identity(task: Task) -> Row:
    """The row of a task before its run."""
    recording = task.recording
    return {
        "key": task.key,
        "status": "ok",
        "schema": stores.SCHEMA,
        "config": task.config.to_json(),
        "recording": recording.id,
        "corpus": recording.corpus,
        "split": recording.split,
        "audio_sha256": task.audio_sha256,
        "reference_sha256": task.reference_sha256,
        "model_digest": task.identity["weights"],
        "whisperlab": task.identity["version"],
        "precision": task.identity["precision"],
        "processor": task.identity["processor"],
        "duration": recording.duration,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **_UNKNOWN,
        **_UNTIMED,
    }


def _short(config: TranscriberConfig) -> str:
    """The options that differ from the defaults, in a line."""
    return ", ".join(f"{name}={value}" for name, value in flat(config.changes()).items())

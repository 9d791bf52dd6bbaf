"""The results of a sweep: one SQLite file, ``results.sqlite``, in the sweep's folder.

A task has one row, named by its ``key``: a digest of everything that the result depends on. The file
``results_store.sql`` describes the tables, and ``results_store.toml`` their columns. SQLite's write-ahead log keeps the
file valid when a process is killed, and lets several processes read while one writes. DuckDB and pandas read the file
directly.
"""

import hashlib
import json
import sqlite3
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

from whisperlab.evaluation.scoring import Score, response_p95
from whisperlab.evaluation.scoring.text import TextCounts
from whisperlab.evaluation.trace.records import CONFIG, STATISTICS, Trace, check_fields
from whisperlab.util.errors import ConfigurationError, OutOfMemoryError, SweepError, TraceError, translate
from whisperlab.util.files import atomic_path
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.validation import AMOUNT_OR_NULL, COUNT, OBJECT, TEXT, TEXT_OR_NULL, Field, from_json

Say: TypeAlias = Callable[[str], None]

STORE = "results.sqlite"
TRACES = "traces"
# ok: finished. failed: stopped by an error of its own. died: its process, or the decoder of its audio, was killed on
# every attempt, perhaps by something else, so the next sweep runs it again.
STATUSES = ("ok", "failed", "died")
SCHEMA = 3  # of a row
LAYOUT = 3  # of the tables, in SQLite's user_version


class Row(TypedDict, total=False):
    """The result of one configuration on one recording; a failed row has no measurements."""

    key: str
    schema: int
    status: str  # one of STATUSES
    config: Json  # JSON of the options
    recording: str
    corpus: str | None
    split: str | None
    audio_sha256: str  # of the samples
    reference_sha256: str  # of text and times; rows of earlier versions lack it, precision and processor
    model_digest: str
    whisperlab: str  # version
    precision: str  # of encoder and decoder, where the configuration has none
    processor: str  # its instruction set
    error: str | None
    counts: Json  # `Score.to_dict`
    rates: Json  # `Score.rates`
    statistics: Json  # of the transcriber
    trace: str | None  # path relative to the folder
    duration: float  # seconds of audio
    compute_s: float | None  # wall time
    processor_s: float | None  # processor time of the process; rows of earlier versions lack it
    response_p95_s: float | None
    peak_rss_bytes: int | None
    threads: int | None
    created: str


_FITS = {str: TEXT, str | None: TEXT_OR_NULL, int: COUNT, Json: OBJECT}
_FIELDS = {name: _FITS.get(hint, AMOUNT_OR_NULL) for name, hint in Row.__annotations__.items()} | {
    "status": Field(" or ".join(STATUSES), lambda value: value in STATUSES),
    "config": CONFIG,
    "statistics": STATISTICS,
}
_REQUIRED = {"key", "status", "config", "recording"}

_COUNTED = ("hits", "misses", "silence", "repeat", "similar", "checked", "false_hits", "evictions")
_TABLES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
COLUMNS, _RATES, TOTALS, _RANGES, _WRONG = (
    _TABLES[name] for name in ("columns", "rates", "totals", "ranges", "faults")
)
_POOLED = f"select {', '.join(TOTALS.values())} from results where status = 'ok' and {{}} group by config_id"
# configurations without a line in ``totals``
_MISSING = "config_id in (select config_id from configurations except select config_id from totals)"
_AMONG = "key in (select value from json_each(?))"
for _table, _names in (("results", COLUMNS), ("totals", [*TOTALS][1:])):
    _WRONG[_table] |= {f"{name} out of range": _RANGES[COLUMNS.get(name, "integer")].format(name) for name in _names}
_CASES = {table: " ".join(f"when {wrong} then '{what}'" for what, wrong in _WRONG[table].items()) for table in _WRONG}
# Per table, the lines with a fault. Types are checked too: a file from elsewhere can have other tables.
_FAULTS = {table: f"select case {cases} end as fault from {table} where fault <> ''" for table, cases in _CASES.items()}
_TIMINGS = ("count", "total", "p50", "p95", "p99", "max")  # of an operation, in milliseconds

_FILLED = str.format(
    Path(__file__).with_suffix(".sql").read_text("utf-8"),
    columns=", ".join(f"{name} {kind}" for name, kind in COLUMNS.items()),
    rates=", ".join(f"{name} real generated always as ({value}) virtual" for name, value in _RATES.items()),
    timings=", ".join(f'"{name}" real' for name in _TIMINGS),
    totals=", ".join(f"{name} {COLUMNS.get(name, 'integer')}" for name in [*TOTALS][1:]),
    layout=LAYOUT,
)
_SQL = dict(part.split("\n", 1) for part in _FILLED.split("-- part: ")[1:])  # by the name of the part


def task_key(config: Json, audio_sha256: str, reference_sha256: str, identity: Mapping[str, str]) -> str:
    """SHA-256, in hex, of all that a result depends on, with `sweep.identity`.

    Raises ConfigurationError for a configuration beyond JSON.
    """
    return digest([dict(config), audio_sha256, reference_sha256, dict(identity)])


class ResultsStore(AbstractContextManager["ResultsStore"]):
    """An open store, and its context manager. Raises SweepError, with its name, if it is damaged or the disk full."""

    def __init__(self, uri: str, name: str | Path) -> None:
        self.name = str(name)
        with self._explained():
            self.connection = sqlite3.connect(uri, uri=True, timeout=30)

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def __len__(self) -> int:
        return int(self.sql("select count(*) from results")[0][0])

    def sql(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The lines of an SQL query.

        >>> store.sql("select recording, mixed_error_rate from runs where config ->> '$.cache.size' = 50")
        ... # doctest: +SKIP
        """
        return list(self.lines(query, parameters))

    def lines(self, query: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The same lines one by one, for more of them than should be in memory together."""
        with self._explained():
            yield from self.connection.execute(query, parameters)

    def statuses(self, keys: Collection[str] | None = None) -> dict[str, str]:
        """The status of each of these keys that has a row; of all rows by default."""
        if keys is not None and len(keys) <= 10_000:
            return dict(self.sql(f"select key, status from results where {_AMONG}", (json.dumps([*keys]),)))
        # A scan of an index is faster than so many searches, and almost all rows have one status.
        found = dict.fromkeys((key for (key,) in self.lines("select key from results")), "ok")
        return found | dict(self.sql("select key, status from results where status <> 'ok'"))

    def totals(self, where: str = "true", parameters: Sequence[object] = ()) -> list[Json]:
        """`TOTALS` of the finished rows of each configuration; ``where`` is an SQL condition on ``results``."""
        query = _POOLED.format(where)
        if where == "true":
            query = f"select * from totals union all {_POOLED.format(_MISSING)}"
        return [dict(zip(TOTALS, line, strict=True)) for line in self.sql(query, parameters)]

    def speakers(self) -> dict[str, list[str]]:
        """The known speakers of each recording, from the counts of its first run."""
        first = "select min(id) as id, recording from results group by recording"  # reads an index only
        names = "json_group_array(cast(value as text)) filter (where value is not null)"
        spoken = f"documents join ({first}) using (id) left join json_each(row, '$.counts.speakers') group by recording"
        found = self.sql(f"select recording, {names} from {spoken}")
        return {recording: json.loads(names) for recording, names in found}

    def _complete_totals(self) -> None:
        self.connection.rollback()  # of what the caller has not committed
        with self._explained("cannot add totals: "), self.connection:
            self.connection.execute(f"insert into totals {_POOLED.format(_MISSING)}")

    def rows(self, where: str = "true", parameters: Sequence[object] = ()) -> Iterator[Row]:
        """Whole rows in the order in which their tasks first ran; ``where`` is an SQL condition on ``runs``."""
        query = f"select id, key, row from runs left join documents using (id) where {where} order by id"
        for id_, key, text in self.lines(query, parameters):
            try:
                row = check_row(from_json(text or ""))
                if row["key"] != key:
                    raise ValueError(f"its key is not that of the results, {key:.12}")
                yield row
            except ValueError as error:
                raise SweepError(f"{self.name}: row {id_} of documents: {error}") from error

    def rows_of(self, keys: Collection[str]) -> dict[str, Row]:
        """The row of each of these keys that has one."""
        return {row["key"]: row for row in self.rows(_AMONG, (json.dumps([*keys]),))}

    def append(self, row: Row) -> None:
        """Add or replace a row by its key, on disk when this returns. Raises SweepError for a field of a wrong type."""
        try:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False).encode().decode()  # no unpaired surrogates
            check_row(from_json(text))
            with self._explained("cannot add a result: "), self.connection:
                self._insert(row, text)
                for (fault,) in self.connection.execute(f"{_FAULTS['results']} and key = ?", (row["key"],)):
                    raise ValueError(fault)
        except (ValueError, TypeError) as error:
            raise SweepError(f"{self.name}: not added, {error}") from error

    def _insert(self, row: Row, text: str) -> None:
        execute = self.connection.execute
        config, named = _canonical(row["config"]), digest(row["config"])
        execute("insert or ignore into configurations (digest, config) values (?, ?)", (named, config))
        (config_id,) = execute("select config_id from configurations where digest = ?", (named,)).fetchone()
        old = execute("delete from results where key = ? returning id", (row["key"],)).fetchone()
        values = {"id": old and old[0], "config_id": config_id, **_columns(row)}
        marks = ", ".join("?" * len(values))
        id_ = execute(f"insert into results ({', '.join(values)}) values ({marks})", (*values.values(),)).lastrowid
        execute("insert into documents values (?, ?)", (id_, text))
        timings = (row.get("statistics") or {}).get("performance") or {}
        found = [(id_, name, *map(timing.get, _TIMINGS)) for name, timing in timings.items() if timing.get("count")]
        called = [line for line in found if None not in line]
        marks = ", ".join("?" * (2 + len(_TIMINGS)))
        self.connection.executemany(f"insert into operations values ({marks})", called)

    @contextmanager
    def _explained(self, doing: str = "") -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, json.JSONDecodeError) as error:
            if getattr(error, "sqlite_errorname", "") in ("SQLITE_NOMEM", "SQLITE_IOERR_NOMEM", "SQLITE_IOERR_SHMMAP"):
                raise OutOfMemoryError(f"not enough memory for {self.name}") from error
            raise SweepError(f"{self.name}: {doing}{error}") from error


def open_store(folder: str | Path) -> ResultsStore:
    """Open the store of a folder for reading. Raises SweepError if it is missing, damaged or of an earlier version."""
    path = _existing(Path(folder))
    if not path.exists():
        raise SweepError(f"{folder} holds no results of a sweep (no {STORE})")
    uri = path.absolute().as_uri()
    try:
        store = _opened(f"{uri}?mode=ro", path)
    except SweepError:
        if path.with_name(f"{STORE}-wal").exists():
            raise
        store = _opened(f"{uri}?immutable=1", path)  # the folder is read-only
    return store


@contextmanager
def write_store(folder: str | Path) -> Iterator[ResultsStore]:
    """Open the store of a folder, or a new one, for writing. Raises SweepError while another process writes to it."""
    from filelock import FileLock, Timeout

    (Path(folder) / TRACES).mkdir(parents=True, exist_ok=True)
    path = _existing(Path(folder))
    try:
        with FileLock(path.with_name(".lock"), timeout=0):
            if not path.exists():
                with atomic_path(path) as unfinished, _new(unfinished.absolute().as_uri(), path):
                    pass
            with _opened(path.absolute().as_uri(), path) as store:
                store.sql("pragma journal_mode = wal")
                store.sql("pragma synchronous = full")  # a commit is on disk when it returns
                yield store
                with suppress(SweepError):  # without them a report adds up the rows itself
                    store._complete_totals()
    except Timeout as error:
        raise SweepError(f"another sweep is running in {folder}") from error


def in_memory(rows: Iterable[Row]) -> ResultsStore:
    """A store without a file, for rows that need not come from a sweep; a row without a key gets a number as key."""
    store = _new(":memory:", "rows")
    for number, given in enumerate(rows):
        row: Row = {"key": str(number), **given}
        store._insert(row, json.dumps(row))
    return store


def read_rows(folder: str | Path) -> list[Row]:
    """All rows of a folder in the order in which their tasks first ran; none without a store. Errors: `open_store`."""
    if not _existing(Path(folder)).exists():
        return []
    with open_store(folder) as store:
        return list(store.rows())


def trace_path(folder: str | Path, row: Row) -> Path:
    """The file of a row's trace. Raises TraceError unless it lies in the sweep's folder: others may be endless."""
    if (path := Path(folder, TRACES, Path(str(row.get("trace"))).name)).is_file():
        return path
    raise TraceError(f"no file {path.name!r} in {path.parent}")


def check_config(text: str) -> Json:
    """A configuration of a store, with dotted names. Raises SweepError for anything else."""
    with translate(SweepError, "a results store has a configuration that is none", ValueError):
        check_fields({"config": (found := from_json(text))}, {"config": CONFIG}, "a line", error=ValueError)
    return flat(found)


def measured(trace: Trace, score: Score | None) -> Row:
    """What a row has of its trace, and of the trace's score if it has a reference."""
    return {
        "counts": score.to_dict() if score else {},
        "statistics": trace.statistics,
        "duration": trace.duration,
        "compute_s": trace.compute_s,
        "processor_s": trace.processor_s,
        "response_p95_s": response_p95(trace),
        "peak_rss_bytes": trace.events[-1]["peak_rss_bytes"],
    }


def check_row(value: object) -> Row:
    """A row as it came from JSON. Raises ValueError, which says what is wrong with it."""
    check_fields(value, {name: _FIELDS[name] for name in _REQUIRED}, "a row of a sweep", _FIELDS, ValueError)
    row = cast(Row, value)
    if row.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"schema {row['schema']}; this version reads {SCHEMA}")
    return row


def _existing(folder: Path) -> Path:
    path = folder / STORE
    if not folder.is_dir():
        raise SweepError(f"{folder}: no such folder")
    return path


def _opened(uri: str, path: Path) -> ResultsStore:
    """The store, if this version can read it."""
    store = ResultsStore(uri, path)
    try:
        ((layout,),) = store.sql("pragma user_version")
        n_known = len(store.sql("select 1 from sqlite_master where name in ('results', 'documents')"))
        if layout != LAYOUT or n_known < 2:
            raise SweepError(f"{path}: not a results store that this version reads (layout {layout}, not {LAYOUT})")
        for table, query in _FAULTS.items():
            for (fault,) in store.lines(query):
                raise SweepError(f"{path}: its table {table} was changed by hand or is damaged: it has {fault}")
    except SweepError:
        store.connection.close()
        raise
    return store


def _new(uri: str, name: str | Path) -> ResultsStore:
    store = ResultsStore(uri, name)
    with store._explained("cannot be made: "):
        store.connection.executescript(f"begin; {_SQL['tables']} {_SQL['totals']} commit;")
    return store


def _columns(row: Row) -> dict[str, object]:
    """The values of `COLUMNS` for a row; null for what it has not measured."""
    statistics: Json = row.get("statistics") or {}
    timings: Json = statistics.get("performance") or {}
    chunk, frame, encode = (timings.get(of) or {} for of in ("chunk.total", "lid.total", "lid.encoder_forward"))
    columns: dict[str, object] = {
        **{name: row.get(name) for name in COLUMNS if name in Row.__annotations__},
        "version": row.get("whisperlab"),
        "duration_s": row.get("duration"),
        "self_cost_ns": statistics.get("self_cost_ns"),
        "chunk_p95_ms": chunk.get("p95"),
        "language_id_p95_ms": frame.get("p95"),
    }
    if cache := statistics.get("encoder_cache"):
        counts = {**cache, **(cache.get("hits_by_cause") or {}), **(cache.get("shadow") or {})}
        columns |= {name: counts.get(name, 0) for name in _COUNTED}
        columns["encode_s"] = (encode.get("total") or 0.0) / 1000
        columns["saved_s"] = (cache.get("hits") or 0) * (encode.get("mean") or 0.0) / 1000
    if row.get("counts"):
        score, has_text = Score.from_dict(row["counts"]), decodes(row["config"])
        text = sum(score.text.values(), TextCounts())
        labels = score.labels if has_text else score.frame_labels
        if has_text:
            columns |= {"errors": text.errors, "words": text.reference_words}
        columns |= {"wrong_s": labels.wrong_s, "speech_s": labels.speech_s, "delays": json.dumps(score.delays)}
        found = {"true": score.switches.true, "found": score.switches.found, "matched": score.switches.matched.get("1")}
        columns |= {f"switches_{name}": n for name, n in found.items()}
    return columns


def decodes(config: Json) -> bool:
    """Whether a configuration decodes text, which is the default."""
    return bool(config.get("decode", True))


def digest(value: object) -> str:
    """SHA-256, in hex, of a value as JSON. Raises ConfigurationError if it is beyond JSON."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: object) -> str:
    """JSON with sorted keys, so that equal values have equal text."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"a configuration must be plain JSON, got {value!r:.200}: {error}") from error

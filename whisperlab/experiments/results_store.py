"""The results of a sweep: a file of JSON lines that only ever grows, so that nothing finished can be lost.

A row is named by its ``key``, a digest of all it depends on; the newest row of a key counts. A row is complete when its
line end is there: a crash costs the row that was being written, and the next sweep cuts its beginning off and says so.

A large store has a ledger beside it, of the stretches that were checked row by row when they were written or read:
their length, their SHA-256, and what each row is of. A stretch that still has its digest needs no second check; one
that has another is read as if there were no ledger, and so is everything after it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from whisperlab.evaluation.trace import STATISTICS
from whisperlab.util.errors import MissingDependencyError, SweepError, brief
from whisperlab.util.files import atomic_path
from whisperlab.util.validation import (
    AMOUNT_OR_NULL,
    COUNT,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    Field,
    from_json,
    wrong_field,
)

if TYPE_CHECKING:
    import duckdb

Row: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str], object]

STORE = "results.jsonl"
LEDGER = "results.checked"
TRACES = "traces"
# Of a task: done, stopped by its own error, or stopped because its process died each time. The last is run again by
# the next sweep: something else may have killed the process.
STATUSES = ("ok", "failed", "died")
SCHEMA = 1  # of a row; rows without one are of the first

# What the fields of a row may hold; a failed one lacks most.
_FIELDS = {
    "schema": COUNT,
    "key": TEXT,
    "status": Field(" or ".join(STATUSES), lambda value: value in STATUSES),
    "config": OBJECT,
    "recording": TEXT,
    "model_digest": TEXT,
    "whisperlab": TEXT,
    "duration": AMOUNT_OR_NULL,
    "compute_s": AMOUNT_OR_NULL,
    "peak_rss_bytes": AMOUNT_OR_NULL,
    "threads": AMOUNT_OR_NULL,
    "statistics": STATISTICS,
    "counts": OBJECT,
    "rates": OBJECT,
    "created": TEXT,
    "corpus": TEXT_OR_NULL,
    "error": TEXT_OR_NULL,
    "trace": TEXT_OR_NULL,
}

# Rows are joined to the places of the newest, which are small, so that they themselves pass through one by one.
_NEWEST = """
create view results as
select every.* exclude (place)
from (select *, row_number() over () as place from every_row) as every
join (
    select max(place) as place
    from (select key, row_number() over () as place from every_row)
    where key is not null
    group by key
) using (place)
"""
_DAMAGED = "without that line its task runs again with the next sweep into this folder"
_LARGEST_ROW = 2**26  # bytes of a line that DuckDB is ready for
MOST_ROWS = 10_000  # more are not read at a time: intervals would hardly become narrower
_ROWS_TOGETHER = 5000  # of a Parquet file; so many are held in memory
_RULES = (
    1  # of the ledger; to be raised whenever rows are checked more strictly, or its lines have another form
)
_STRETCH = 2**24  # bytes or more, of what the ledger has a line for


def read_rows(out: str | Path) -> list[Row]:
    """The newest row of every task in a sweep's folder, in the order the tasks were first run.

    A last line cut short by a crash is left out. Raises SweepError, with file and line, for a damaged store,
    and when there is no folder ``out``.
    """
    _existing(out)
    return list({row["key"]: row for row in _each_row(out)}.values())


@dataclass(slots=True, frozen=True)
class Extract:
    """Some rows of a store, and of how many rows, recordings and failures they are an extract."""

    rows: tuple[Row, ...]
    n_rows: int
    n_recordings: int
    n_failed: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out."""
        return len(self.rows) == self.n_rows

    def words(self) -> str:
        """What must be said where something was left out; nothing where all is there."""
        if self.is_whole:
            return ""
        shown = len({row["recording"] for row in self.rows})
        return (
            f"made of {len(self.rows):,} of {self.n_rows:,} runs: every configuration over the same {shown:,} of "
            f"{self.n_recordings:,} recordings, drawn by lot. Of all runs {self.n_failed:,} failed."
        )


def read_extract(out: str | Path, most: int) -> Extract:
    """The newest rows of a store, or about ``most`` of them: those of some recordings, every configuration on the same.

    Recordings are drawn by the digest of their name, so the same ones every time. Memory grows with the number of rows
    only by their keys and places, a third of a kilobyte each. Errors as for `read_rows`.
    """
    path = _existing(out)
    newest = {place.key: place for place in _places(path)}
    sizes = Counter(place.recording for place in newest.values())
    n_failed = sum(place.status != "ok" for place in newest.values())
    chosen: set[str] = set()
    room = most
    for recording in sorted(sizes, key=lambda name: sha256(name.encode()).digest()):
        room -= sizes[recording]
        if chosen and room < 0:
            break
        chosen.add(recording)
    rows = tuple(_rows_at(path, (place for place in newest.values() if place.recording in chosen)))
    return Extract(rows, sizes.total(), len(sizes), n_failed)


def done(out: str | Path) -> dict[str, str]:
    """The status of every task in a store, one of `STATUSES`, the newest counting; empty where there is no store.

    Every row is checked, or was and has not changed since. Raises SweepError for a damaged store.
    """
    checked = _Checked(Path(out) / STORE)
    for _ in checked.rest():
        pass
    return checked.statuses


def newest_rows(out: str | Path, keys: Collection[str]) -> dict[str, Row]:
    """The newest row of each of these keys that has one. Raises SweepError for a damaged store."""
    path = Path(out) / STORE
    newest = {place.key: place for place in _places(path) if place.key in keys}
    return {row["key"]: row for row in _rows_at(path, newest.values())}


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without groups: their options stand by themselves, with the group's name and a dot before.

    >>> flat_config({"key": "span", "lid": {"sure": 0.9}})
    {'key': 'span', 'lid.sure': 0.9}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        inner = (
            {f"{name}.{option}": one for option, one in value.items()} if isinstance(value, Mapping) else {}
        )
        flat.update(inner or {name: value})
    return flat


def nested_config(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that `flat_config` made flat.

    >>> nested_config({"key": "span", "lid.sure": 0.9})
    {'key': 'span', 'lid': {'sure': 0.9}}
    """
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, option = name.partition(".")
        if dot:
            nested.setdefault(group, {})[option] = value
        else:
            nested[name] = value
    return nested


def connect(out: str | Path) -> duckdb.DuckDBPyConnection:
    """DuckDB over a store, read where it lies: the view ``results`` has the newest row of every task.

    >>> connect("reports/sweep").sql("select recording, rates.mixed_error_rate from results")  # doctest: +SKIP
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingDependencyError("queries need duckdb: pip install 'whisperlab[sweep]'") from error
    path = Path(out) / STORE
    if not path.exists():
        raise SweepError(f"{out} holds no results of a sweep (no {STORE})")
    connection = duckdb.connect()
    try:
        every = connection.read_json(
            str(path), format="newline_delimited", maximum_object_size=_LARGEST_ROW, ignore_errors=True
        )
        every.create_view("every_row")
        connection.execute(_NEWEST)
    except duckdb.Error as error:
        connection.close()
        raise SweepError(f"{path}: not the results of a sweep: {brief(error)}") from error
    return connection


def to_parquet(out: str | Path, path: str | Path) -> Path:
    """The newest row of every task as a Parquet file; it appears under its name when it is whole.

    Raises SweepError when it cannot be written.
    """
    with connect(out) as connection, atomic_path(path) as unfinished:
        import duckdb

        try:
            connection.view("results").write_parquet(str(unfinished), row_group_size=_ROWS_TOGETHER)
        except duckdb.IOException as error:
            raise SweepError(f"{path} could not be written: {brief(error)}") from error
    return Path(path)


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Make the folder and hold it against another sweep; the system lets go when a process dies."""
    (out / TRACES).mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(f"another sweep is running in {out}") from error
        yield


class Writer:
    """A store that only this process adds to; ``statuses`` is what `done` says of it, at any moment.

    Reads what is there and checks it as `done` does, and keeps the ledger. A store that a crash cut short has to go
    through `repair` first. Raises SweepError for a damaged store.
    """

    def __init__(self, out: Path) -> None:
        self._path, self._ledger = out / STORE, out / LEDGER
        self._stretch = _Stretch()
        checked = _Checked(self._path)
        self.statuses = checked.statuses
        self._has_ledger = _cut(self._ledger, checked.ledger_bytes)
        for line, row in checked.rest():
            self._note(line, row)

    def append(self, row: Row) -> None:
        """Add a row, as `append` does. Raises SweepError, too, for a row that would not be read again as one."""
        line = _encoded(row)
        try:
            _checked(line)
        except ValueError as error:
            raise SweepError(f"{self._path}: nothing was added: {error}") from error
        _add(self._path, line)
        self.statuses[row["key"]] = row["status"]
        self._note(line, row)

    def _note(self, line: bytes, row: Row) -> None:
        self._stretch.add(line, row)
        if self._stretch.n_bytes >= _STRETCH:
            if self._has_ledger:
                # without that line the next sweep takes longer to begin, no more
                with suppress(OSError), self._ledger.open("ab") as ledger:
                    ledger.write(self._stretch.to_line())
            self._stretch = _Stretch()


def _cut(ledger: Path, n_bytes: int) -> bool:
    """Cut off what is not true of a ledger, for what comes behind it would not be believed; whether it may go on."""
    try:
        if ledger.exists() and ledger.stat().st_size != n_bytes:
            os.truncate(ledger, n_bytes)
    except OSError:
        return False
    return True


def append(path: Path, row: Row) -> None:
    """Add one row in a single write, so that an interrupt comes before or after it, and force it to disk."""
    _add(path, _encoded(row))


def _encoded(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _add(path: Path, line: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise SweepError(f"{path}: cannot add a result: {error.strerror}") from error
    if written < len(line):
        raise SweepError(f"{path}: the disk took {written} of the {len(line)} bytes of a result")


def repair(out: Path, say: Say) -> int:
    """Cut off a last line that a crash left unfinished; returns how many bytes went."""
    path = out / STORE
    torn = _torn_bytes(path) if path.exists() else 0
    if torn:
        os.truncate(path, path.stat().st_size - torn)
        say(f"{path}: the last line was cut short; removed its {torn} bytes, that task runs again")
    return torn


def _torn_bytes(path: Path, block: int = 2**16) -> int:
    """Bytes after the last line end; a row is complete when its line end is there."""
    size = at = path.stat().st_size
    with path.open("rb") as file:
        while at > 0:
            start = max(at - block, 0)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                return size - (start + found + 1)
            at = start
    return size


def _existing(out: str | Path) -> Path:
    """The store of a folder that is there."""
    path = Path(out) / STORE
    if not path.parent.is_dir():
        raise SweepError(f"{out}: no such folder, so no sweep in it")
    return path


def _lines(path: Path, at: int = 0) -> Iterator[bytes]:
    """The complete lines of a store from a byte on, one after the other; none where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(at)
        yield from takewhile(lambda line: line.endswith(b"\n"), file)  # only the last can be unfinished


def _each_row(out: str | Path) -> Iterator[Row]:
    """The rows of a store one after the other, those that newer ones of their key replace among them.

    None where there is no store. Raises SweepError for a damaged one.
    """
    path = Path(out) / STORE
    return (_row(path, number, line) for number, line in enumerate(_lines(path), 1))


class _Stretch:
    """Some rows of a store that lie together and were checked; a line of the ledger begins with its own digest."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._digest = sha256()
        self._rows: list[tuple[str, str, str, int]] = []

    def add(self, line: bytes, row: Row) -> None:
        self.n_bytes += len(line)
        self._digest.update(line)
        self._rows.append((row["key"], row["status"], row["recording"], len(line)))

    def to_line(self) -> bytes:
        entry = {"rules": _RULES, "sha256": self._digest.hexdigest(), "rows": self._rows}
        told = json.dumps(entry).encode()
        return sha256(told).hexdigest().encode() + b" " + told + b"\n"


class _Place(NamedTuple):
    """Where a row lies in a store, its line's number, and what it is of."""

    key: str
    status: str
    recording: str
    number: int
    at: int
    n_bytes: int

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.at + self.n_bytes


class _Checked:
    """What a store says is done: of the rows that were checked before, and of the `rest` once that was read.

    ``ledger_bytes`` is how much of the ledger is still true.
    """

    def __init__(self, path: Path) -> None:
        self.statuses: dict[str, str] = {}
        self.ledger_bytes = self._end = self._n_rows = 0
        self._path = path
        for places, n_bytes in _known(path):
            self.statuses.update((place.key, place.status) for place in places)
            self.ledger_bytes += n_bytes
            self._end, self._n_rows = places[-1].end, places[-1].number

    def rest(self) -> Iterator[tuple[bytes, Row]]:
        """The other rows with their lines, each checked now."""
        for number, line in enumerate(_lines(self._path, self._end), self._n_rows + 1):
            row = _row(self._path, number, line)
            self.statuses[row["key"]] = sys.intern(row["status"])
            yield line, row


def _known(path: Path) -> Iterator[tuple[list[_Place], int]]:
    """The stretches of a store that are as they were when they were checked, and how long their ledger lines are.

    What cannot be read of a ledger is not believed, and nothing behind it.
    """
    at = number = 0
    try:
        for line in _lines(path.with_name(LEDGER)) if path.exists() else ():
            places, digest = _entry(line, number, at)
            if _digest(path, at, places[-1].end) != digest:
                return
            yield places, len(line)
            at, number = places[-1].end, places[-1].number
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return


def _entry(line: bytes, number: int, at: int) -> tuple[list[_Place], str]:
    """The places that a line of the ledger tells of, behind so many rows and bytes, and the digest of what is there."""
    own, _, told = line.rstrip(b"\n").partition(b" ")
    entry = json.loads(told)
    if sha256(told).hexdigest().encode() != own or entry["rules"] != _RULES:
        raise ValueError("damaged, or by other rules")
    places = []
    for key, status, recording, n_bytes in entry["rows"]:
        number += 1
        places.append(_Place(key, sys.intern(status), sys.intern(recording), number, at, n_bytes))
        at += n_bytes
    return places, entry["sha256"]


def _digest(path: Path, start: int, end: int) -> str:
    """SHA-256 of a stretch of a file, in hex; of what there is of it, where the file ends before."""
    with path.open("rb") as file:
        file.seek(start)
        return sha256(file.read(end - start)).hexdigest()


def _places(path: Path) -> Iterator[_Place]:
    """Where every row of a store lies."""
    at = n_rows = 0
    for places, _ in _known(path):
        yield from places
        at, n_rows = places[-1].end, places[-1].number
    for number, line in enumerate(_lines(path, at), n_rows + 1):
        yield _Place(*_glance(path, number, line), number, at, len(line))
        at += len(line)


def _rows_at(path: Path, places: Iterable[_Place]) -> Iterator[Row]:
    """Some rows of a store, in the order of their lines."""
    wanted = sorted(places, key=lambda place: place.at)
    if not wanted:
        return
    with path.open("rb") as file:
        for place in wanted:
            file.seek(place.at)
            yield _row(path, place.number, file.read(place.n_bytes))


# What a row begins with, as `append` has always written it; rows that begin otherwise are read whole.
_BEGINNING = re.compile(
    rb'\{"key": "([0-9a-f]{64})", "status": "(ok|failed)", .{0,4000}?"recording": "([^"\\]{1,200})", "corpus"'
)


def _glance(path: Path, number: int, line: bytes) -> tuple[str, str, str]:
    """Key, status and recording."""
    if found := _BEGINNING.match(line):
        key, status, recording = (group.decode(errors="replace") for group in found.groups())
    else:
        row = _row(path, number, line)
        key, status, recording = row["key"], row["status"], row["recording"]
    return key, sys.intern(status), sys.intern(recording)


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        return _checked(line)
    except ValueError as error:
        raise SweepError(f"{path}:{number}: {error}; {_DAMAGED}") from error


def _checked(line: bytes) -> Row:
    """A row out of its line. Raises ValueError, which says what else it is."""
    try:
        row = from_json(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict) or not {"key", "status", "config", "recording"} <= row.keys():
        raise ValueError(f"not a row of a sweep: {line[:100]!r}")
    if wrong := wrong_field(row, _FIELDS):
        raise ValueError(f"not a row of a sweep: {wrong}")
    if row.get("schema", 1) > SCHEMA:
        raise ValueError(f"schema {row['schema']}, and this whisperlab knows {SCHEMA}")
    return row

"""Results of sweeps, damaged or edited, and traces, against all that reads them: pages, commands, resumed sweeps.

Rows are damaged as JSON and appended, which may refuse them. Stores are edited by SQL, past every check of a row: with
values of the right type first, and also with wrong types, missing rows and other tables. What a store holds is read by
``report``, ``sweep --resume``, ``search --resume``, ``compare`` and ``--dry-run``, through the command line; only the
model is a fake.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from synthetic_report import statistics

from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording, write_manifest
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace.records import ReferenceSegment
from whisperlab.experiments import results_store
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import SweepError, WhisperlabError
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.validation import from_json

Rng = random.Random
DIGEST = "0" * 64
LANGUAGES = ["en", "es"]
SPACE = {"cache.size": [2, 10, 50], "cache.hash_precision": [0, 6], "cache.key": ["rounded", "span"]}
SEARCH = ["--space", json.dumps(SPACE), "--trials", "3", "--method", "random", "--seed", "0"]
GRID = ["--cache-sizes", "2,50", "--hash-precisions", "0,6"]


class Talker:
    """A transcriber that needs no model: it says a word per second, in English and then in Spanish."""

    def __init__(self, config: TranscriberConfig) -> None:
        self._config, self._heard = config, 0

    def process(self, chunk: FloatArray) -> ProcessResult:
        self._heard += len(chunk)
        likely = LANGUAGES[self._heard > SAMPLE_RATE]
        posterior = {language: 0.8 if language == likely else 0.2 for language in LANGUAGES}
        found = self._heard % 3200 == 0
        return ProcessResult("", "", likely, frames=(LanguageFrame(self._heard, 1600, 1600, posterior, likely, found),))

    def finalize(self) -> ProcessResult:
        end = self._heard / SAMPLE_RATE
        said = ("hello world" + " no" * (self._config.cache.size % 7), "en", 0.0, 1.0), ("hola", "es", 1.0, end)
        segments = tuple(SessionSegment(*one, True, 0.9) for one in said)
        return ProcessResult("hello hola", "", "es", segments=segments, switches=(Switch(1.0, "en", "es", 1.2),))

    def get_statistics(self) -> dict[str, Any]:
        n, size = self._heard // 1600, self._config.cache.size
        hits = n * size // 100
        return statistics(hits, n - hits, hits // 2, hits // 4)

    def config(self) -> dict[str, Any]:
        return self._config.to_json()


def make_template(folder: Path, call: Callable[[list[str]], None]) -> None:
    """Speech, its manifest, and a search and a sweep with their traces; ``call`` runs a command."""
    folder.mkdir(parents=True, exist_ok=True)
    recordings = []
    for number in range(3):
        path, said_s = folder / f"r{number}.wav", 1.5 + number / 2
        noise = np.random.default_rng(number).standard_normal(round(said_s * SAMPLE_RATE))
        write_wav(path, (0.1 * noise).astype(np.float32))
        said = (
            ReferenceSegment(0.0, 1.0, "en", "hello world", f"speaker {number}"),
            ReferenceSegment(1.0, said_s, "es", "hola mundo", f"speaker {number}"),
        )
        corpus = "ivr-five" if number else "other"
        text = "hello world hola mundo"
        recordings.append(Recording(f"r{number}", path, said_s, text, "en", said, "dev", corpus))
    write_manifest(folder / "speech.manifest", recordings)
    with fake_model():
        for command in runs(folder, folder / "done"):
            call(command)


def runs(template: Path, folder: Path) -> tuple[list[str], list[str]]:
    """A search and a sweep of the template's speech into a folder."""
    common = ["--corpus", str(template / "speech.manifest"), "--split", "dev", "--languages", ",".join(LANGUAGES)]
    common += ["--out", str(folder), "--resume"]
    return ["search", *common, *SEARCH], ["sweep", *common, *GRID]


# --- what reads a store -----------------------------------------------------------------------------------


def read_with_everything(folder: Path, template: Path, call: Callable[[list[str]], None]) -> None:
    """Every command that reads a store. Raises the first typed error when all have been called.

    The last two also write. ``call`` runs a command.
    """
    searched, swept = runs(template, folder)
    refused: list[WhisperlabError] = []
    commands = [
        ["report", str(folder), "--out", "page.html"],
        ["compare", str(folder), str(template / "done"), "--json"],
        [*swept, "--dry-run", "--json"],
        [*searched, "--json"],
        swept,
    ]
    with fake_model():
        for argv in commands:
            try:
                call(argv)
            except WhisperlabError as error:
                refused.append(error)
        try:
            _read_rows(folder)
        except WhisperlabError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _read_rows(folder: Path) -> None:
    rows = results_store.read_rows(folder)
    with results_store.open_store(folder) as store:
        store.statuses()
        store.totals()
        store.speakers()
    results_store.in_memory(rows).totals()


@contextlib.contextmanager
def fake_model() -> Iterator[None]:
    """Commands get the `Talker` in place of a model."""

    def nothing(*_: object) -> tuple[None, str]:
        return None, DIGEST

    with (
        mock.patch("whisperlab.cli.sweep.loaded", nothing),
        mock.patch("whisperlab.cli.search.loaded", nothing),
        mock.patch("whisperlab.experiments.sweep.transcriber_maker", return_value=Talker),
    ):
        yield


def fresh(template: Path) -> Path:
    """A copy of the template's store and traces, as the folder ``sweep``."""
    folder = Path("sweep")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(template / "done" / results_store.STORE, folder / results_store.STORE)
    shutil.copytree(template / "done" / results_store.TRACES, folder / results_store.TRACES)
    return folder


# --- rows that are damaged and appended ---------------------------------------------------------------------


def append_damaged(rng: Rng, template: Path, damage: Callable[[Rng, bytes], bytes]) -> tuple[Path, int]:
    """The template with some rows replaced by damaged ones, as far as they are not refused; how many were taken."""
    folder = fresh(template)
    rows = results_store.read_rows(folder)
    taken = 0
    with results_store.write_store(folder) as store:
        store.sql("pragma synchronous = off")
        for row in rng.sample(rows, rng.choice((1, 1, 2, 4))):
            try:
                value = from_json(damage(rng, json.dumps(row).encode() + b"\n").decode(errors="surrogateescape"))
            except ValueError:
                continue
            with contextlib.suppress(SweepError):
                store.append(value)
                taken += 1
    return folder, taken


# --- stores that are edited by SQL ---------------------------------------------------------------------------

COUNTS = (0, 1, -1, 3, 1000, -(10**9), 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), None)
AMOUNTS = (0.0, 1.0, -1.0, 0.5, 1e-320, 1e9, 1e300, 1.7e308, -1e308, float("inf"), float("-inf"), None)
NAMES = (
    *("", " ", "xx", "en", "ok", "$x_1^{", "<script>alert(1)</script>", "{{7*7}}", "a\0b", "\u202e", "\ufffe", "=1+1"),
    *("r0", "n" * 5000, "%s", "..", "/dev/zero", "\x1b[2J", "'", '"', "\n", "null", "nan", "1e999", None),
)
LISTS = (
    "[]",
    "[-5]",
    "[1e999]",
    '["x"]',
    "[null]",
    "[[1]]",
    "[1e308, 1e308]",
    "[true]",
    "[" + "1," * 5000 + "1]",
    None,
)


def _update(rng: Rng, table: str, column: str, value: Any) -> tuple[str, tuple[Any, ...]]:
    some = rng.choice(("true", "true", "rowid % 2", f"rowid = {rng.randrange(20)}", "rowid > 9"))
    if table == "operations":
        some = rng.choice(("true", "id % 2", "operation = 'lid.encoder_forward'"))
    return f"update {table} set {column} = ? where {some}", (value,)


def edit_value(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another value of the right type in a column of the results."""
    column, kind = rng.choice(list(results_store.COLUMNS.items()))
    values: tuple[Any, ...] = {"text": NAMES, "real": AMOUNTS, "integer": COUNTS}[kind.split()[0]]
    values = {"delays": LISTS, "status": ("ok", "failed", "died", "done", "", "OK")}.get(column, values)
    value = rng.choice(values)
    if column == "key" and value is not None:
        connection.execute("update results set key = ? || id", (value,))
        return
    connection.execute(*_update(rng, "results", column, value))


def edit_total(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another value in the sums of a configuration, which readers take for the sums of its rows."""
    column = rng.choice(list(results_store.TOTALS))
    connection.execute(*_update(rng, "totals", column, rng.choice(COUNTS)))


def edit_operation(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another latency; or thousands of operations."""
    if rng.random() < 0.1:
        n = rng.choice((100, 3000))
        for number in range(n):
            line = (rng.randrange(1, 19), f"operation {number}", *(rng.choice(AMOUNTS) for _ in range(6)))
            connection.execute("insert or ignore into operations values (?, ?, ?, ?, ?, ?, ?, ?)", line)
        return
    column = rng.choice(("operation", '"count"', "total", "p50", "p95", "p99", '"max"', "id"))
    if column == "operation":
        connection.execute("update operations set operation = ? || operation", (rng.choice(NAMES) or "",))
    elif column == "id":
        connection.execute("update or replace operations set id = ? where id = 1", (rng.choice(COUNTS) or 0,))
    else:
        connection.execute(*_update(rng, "operations", column, rng.choice(AMOUNTS)))


def edit_configuration(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another configuration: of the same form, or any JSON object."""
    from fuzzing import changed

    lines = connection.execute("select config_id, config from configurations").fetchall()
    for config_id, text in lines and rng.sample(lines, rng.randrange(1, len(lines) + 1)):
        value = json.loads(text)
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = changed(rng, value)
        if not isinstance(value, dict):
            value = rng.choice(({}, {"cache": value}, {"languages": value}, {"": value}))
        new = json.dumps(value)
        with contextlib.suppress(sqlite3.Error, UnicodeError):
            connection.execute("update configurations set config = ? where config_id = ?", (new, config_id))


def edit_document(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another row in JSON, which the columns do not follow."""
    from fuzzing import changed

    lines = connection.execute("select id, row from documents").fetchall()
    for id_, text in lines and rng.sample(lines, rng.randrange(1, min(len(lines), 6) + 1)):
        value = json.loads(text)
        if rng.random() < 0.3:
            name = rng.choice(("trace", "recording", "status", "key", "error", "created", "counts", "config"))
            value[name] = rng.choice((*NAMES, {}, "../../etc/passwd", "traces", "traces/none.jsonl", "\ud800"))
        else:
            for _ in range(rng.choice((1, 1, 2))):
                value = changed(rng, value)
        new = json.dumps(value if isinstance(value, dict) else {})
        with contextlib.suppress(sqlite3.Error):
            connection.execute("update documents set row = ? where id = ?", (new, id_))


def edit_rows(rng: Rng, connection: sqlite3.Connection) -> None:
    """Rows that are missing on one side, doubled by the thousand, or belong to what does not exist."""
    columns = ", ".join(name for name in results_store.COLUMNS if name != "key")
    copies = f"""with recursive n(i) as (select 1 union all select i + 1 from n where i < {rng.choice((2, 50, 3000))})
        insert into results (config_id, key, {columns}) select config_id, key || '-' || i, {columns}
        from n, results where id = 1"""
    statement = rng.choice(
        (
            "delete from documents where id % 2",
            "delete from documents",
            "delete from configurations where config_id = 1",
            "delete from configurations",
            "delete from results",
            "delete from results where id % 2",
            "delete from operations where id % 2",
            "update results set config_id = 999 where id = 1",
            "update results set config_id = 999",
            "update results set config_id = 1",
            "update results set id = -id",
            "update results set id = 9223372036854775807 where id = 1",
            "update documents set id = -id",
            "insert into totals (config_id) values (77)",
            "insert or replace into totals (config_id, n_runs) values (1, 5)",
            "update documents set row = (select row from documents where id = 1)",
            copies,
            copies + "; insert into documents select id, '{}' from results where id > (select max(id) from documents)",
        )
    )
    connection.executescript("pragma foreign_keys = off; " + statement)


def edit_bytes(rng: Rng, connection: sqlite3.Connection) -> None:
    """Text that is not UTF-8, lone surrogates among it."""
    column = rng.choice([name for name, kind in results_store.COLUMNS.items() if kind == "text" and name != "key"])
    others = (("configurations", "config"), ("operations", "operation"), ("documents", "row"))
    place = rng.choice((("results", column), *others))
    wrong = rng.choice(("eda080", "ff", "00", "c3", "f4908080"))
    if place[1] in ("config", "row"):
        wrong = f"7b2261223a22{wrong}227d"
    with contextlib.suppress(sqlite3.Error):
        connection.execute(f"update {place[0]} set {place[1]} = cast(x'{wrong}' as text) where rowid = 1")


def edit_schema(rng: Rng, connection: sqlite3.Connection) -> None:
    """Other tables: without types, constraints, triggers or views."""
    table = rng.choice(("results", "documents", "configurations", "operations", "totals"))
    column = rng.choice([row[1] for row in connection.execute(f"pragma table_info({table})")])
    loose = f"create table loose as select * from {table}; drop table {table}; alter table loose rename to {table};"
    runs = "create view runs as select * from results join configurations using (config_id);"
    values = ("'x'", "x'00ff'", "-1", "1.5", "'[]'", "9e999", "null", "'{}'", "'\"'", "zeroblob(100000)")
    statement = rng.choice(
        (
            "drop view runs; create view runs as select 1 as id;",
            f"drop view runs; {loose} {runs}",
            f"drop view runs; {loose} {runs} update {table} set {column} = {rng.choice(values)};",
            "drop table totals;",
            "pragma user_version = 2;",
            "create trigger no_more before insert on results begin select raise(abort, 'no'); end;",
            "drop view runs; create view runs as select results.*, config from results, configurations;",
        )
    )
    connection.executescript("pragma legacy_alter_table = on; " + statement)


def edit_trace(rng: Rng, connection: sqlite3.Connection) -> None:
    """Another trace beside the store, or something that is none."""
    from fuzzing import DAMAGE_JSON

    path = rng.choice(sorted(Path("sweep", results_store.TRACES).iterdir()))
    path.write_bytes(rng.choice(list(DAMAGE_JSON.values()))(rng, path.read_bytes(), path.read_bytes()))


EDITS: dict[str, Callable[[Rng, sqlite3.Connection], None]] = {
    **{f"value {n}": edit_value for n in range(6)},  # the likeliest
    **{f"operation {n}": edit_operation for n in range(2)},
    **{f"configuration {n}": edit_configuration for n in range(2)},
    **{f"document {n}": edit_document for n in range(2)},
    "total": edit_total,
    "trace": edit_trace,
    "rows": edit_rows,
    "bytes": edit_bytes,
    "schema": edit_schema,
}


def edited(rng: Rng, template: Path, kind: str) -> Path:
    """A copy of the template with an edit of this kind, and sometimes others."""
    folder = fresh(template)
    kinds = [kind, *(rng.choice(list(EDITS)) for _ in range(rng.choice((0, 0, 0, 1, 3))))]
    connection = sqlite3.connect(folder / results_store.STORE)
    try:
        connection.execute("pragma synchronous = off")
        connection.execute(f"pragma ignore_check_constraints = {rng.choice(('off', 'on'))}")
        for one in kinds:
            with contextlib.suppress(sqlite3.Error, ValueError):  # a constraint, or what an earlier edit left
                EDITS[one](rng, connection)
        connection.commit()
    finally:
        connection.close()
    return folder

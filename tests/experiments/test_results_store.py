"""The SQLite store of a sweep: rows by key, one writer, several readers, and stores of earlier versions.

Kills and full disks in the middle of a sweep are in test_sweep.py, test_executors.py and test_faults.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_report import sweep_rows

from whisperlab.experiments.cost import from_store
from whisperlab.experiments.results_store import (
    SCHEMA,
    STORE,
    ResultsStore,
    Row,
    in_memory,
    open_store,
    read_rows,
    trace_path,
    write_store,
)
from whisperlab.report.counts import results
from whisperlab.util.errors import OutOfMemoryError, SweepError, TraceError

sessions = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["ok", "failed"])), max_size=8), min_size=1, max_size=3
)


def make_row(number: int, status: str = "ok", **more: Any) -> Row:
    row: dict[str, Any] = {
        "key": f"{number:064x}",
        "schema": SCHEMA,
        "status": status,
        "config": {"cache": {"size": number % 3}},
        "recording": f"r{number}",
        "corpus": None,
        "error": "it broke" if status == "failed" else None,
        **more,
    }
    return row  # type: ignore[return-value]


def write(folder: Path, *rows: Row) -> None:
    with write_store(folder) as store:
        for row in rows:
            store.append(row)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sessions)
def test_the_last_row_of_a_key_counts_in_the_order_of_the_first(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[tuple[int, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    newest: dict[str, Row] = {}
    for rows in sessions:
        write(folder, *(make_row(number, status) for number, status in rows))
        newest.update((f"{number:064x}", make_row(number, status)) for number, status in rows)
    assert read_rows(folder) == list(newest.values())
    with open_store(folder) as store:
        assert store.statuses() == {key: row["status"] for key, row in newest.items()}
        assert store.statuses([f"{1:064x}", "none"]).keys() == newest.keys() & {f"{1:064x}"}
        assert store.rows_of(newest) == newest
        assert len(store) == len(newest)


def test_queries_are_plain_sql_over_columns_and_the_configuration(tmp_path: Path) -> None:
    rows = sweep_rows(tmp_path / "made")
    write(tmp_path, *rows)
    with open_store(tmp_path) as store:
        ((rate, hits),) = store.sql(
            "select 1.0 * sum(errors) / sum(words), sum(hits) from runs where config ->> '$.cache.key' = 'logmel'"
        )
        of_one = [row for row in rows if row["config"]["cache"]["key"] == "logmel"]
        errors = sum(row["rates"]["mixed_error_rate"] * row["rates"]["reference_words"] for row in of_one)
        assert rate == pytest.approx(errors / sum(row["rates"]["reference_words"] for row in of_one))
        assert hits == sum(row["statistics"]["encoder_cache"]["hits"] for row in of_one)
        assert list(store.rows("config ->> '$.cache.key' = ?", ("logmel",))) == of_one
        ((slowest,),) = store.sql("select max(p95) from operations where operation = 'lid.total'")
        assert slowest == pytest.approx(1.8 * 18.0)
        with pytest.raises(SweepError, match="no such column"):
            store.sql("select absent from runs")
        frame = pd.read_sql_query("select * from runs", store.connection)
        assert frame["mixed_error_rate"].tolist() == pytest.approx([row["rates"]["mixed_error_rate"] for row in rows])


def test_rows_deleted_by_sql_leave_nothing_that_stops_new_ones(tmp_path: Path) -> None:
    rows = sweep_rows(tmp_path / "made")
    write(tmp_path, *rows)
    with write_store(tmp_path) as store:
        store.connection.execute("delete from results where id > 1")
        store.connection.commit()
    write(tmp_path, *rows)
    assert read_rows(tmp_path) == rows
    with open_store(tmp_path) as store:
        assert len(store.sql("select distinct id from operations")) == len(rows)


def summed(store: ResultsStore) -> tuple[list[Any], list[Any]]:
    """The totals of a store as it gives them, and as it adds them up anew."""
    given, anew = store.totals(), store.totals("1 = 1")
    return sorted(given, key=lambda line: line["config_id"]), anew


def test_totals_follow_every_change_of_the_rows(tmp_path: Path) -> None:
    rows = sweep_rows(tmp_path / "made")
    write(tmp_path, *rows)
    failed: Any = {name: value for name, value in rows[0].items() if name in ("key", "config", "recording")}
    with write_store(tmp_path) as store:
        assert len(store.sql("select * from totals")) == 7
        for change in (
            lambda: store.append({**failed, "status": "failed"}),
            lambda: store.append({**rows[1], "config": {"new": 1}}),
            lambda: store.append({**rows[2], "compute_s": 1e6}),
            lambda: store.sql("delete from results where id in (4, 6)"),
            lambda: store.sql("update results set config_id = 2, threads = 9 where id = 8"),
        ):
            change()
            store.connection.commit()
            given, anew = summed(store)
            assert given == anew
            store._complete_totals()
            assert summed(store) == (anew, anew)
        store.sql("delete from results")  # and no commit
    with open_store(tmp_path) as store:
        assert len(store) == len(rows) - 2
        assert len(store.sql("select * from totals")) == len(anew)


def test_readers_see_what_is_written_while_the_writer_goes_on(tmp_path: Path) -> None:
    with write_store(tmp_path) as store:
        store.append(make_row(1))
        with open_store(tmp_path) as reader:
            assert len(reader) == 1
            store.append(make_row(2))
            assert len(reader) == 2
            with pytest.raises(SweepError, match="readonly"):
                reader.append(make_row(3))
        with pytest.raises(SweepError, match="another sweep is running in"), write_store(tmp_path):
            pass


def _write_forever(folder: Path) -> None:
    with write_store(folder) as store:
        for number in range(10**6):
            store.append(make_row(number))


@pytest.mark.parametrize("n_rows", [1, 10, 100])
def test_a_writer_killed_leaves_a_valid_store_and_no_lock(tmp_path: Path, n_rows: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(tmp_path,))
    process.start()
    written = 0
    while written < n_rows:
        try:
            with open_store(tmp_path) as store:
                written = len(store)
        except SweepError:  # not made yet
            assert process.is_alive()
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    rows = read_rows(tmp_path)
    assert len(rows) >= written
    assert rows == [make_row(number) for number in range(len(rows))]
    with write_store(tmp_path) as store:
        assert store.sql("pragma integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    "odd, message",
    [
        ({"duration": "long"}, "duration should be a number"),
        ({"config": {"x": 10**30}}, "too large"),
        ({"config": {"x": float("nan")}}, "not JSON compliant"),
        ({"recording": "\ud800"}, "surrogates not allowed"),
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}; this version reads {SCHEMA}"),
        ({"status": "perhaps"}, "status should be ok or failed"),
        ({"statistics": {"performance": {"op": 1}}}, "statistics should be"),
        ({"counts": {"text": 1}}, "not the counts of a score"),
        ({"key": []}, "key should be a string"),
    ],
)
def test_a_row_with_a_wrong_field_is_not_written(tmp_path: Path, odd: dict[str, Any], message: str) -> None:
    write(tmp_path, make_row(1))
    with pytest.raises(SweepError, match=f"{STORE}: not added, .*{message}"):
        write(tmp_path, make_row(2, **odd))
    assert read_rows(tmp_path) == [make_row(1)]


def statistics(**shadow: int) -> dict[str, Any]:
    return {"encoder_cache": {"hits": 9, "misses": 9, "shadow": shadow}}


@pytest.mark.parametrize(
    "odd, message",
    [
        ({"statistics": statistics(checked=1, false_hits=2)}, "more false than checked hits"),
        ({"compute_s": 1e200}, "compute_s should be a number"),
        ({"statistics": {"lid": []}}, "statistics should be"),
        ({"statistics": {"lid": {"encoded_s": "x"}}}, "statistics should be"),
    ],
)
def test_a_row_that_no_run_leaves_is_not_written(tmp_path: Path, odd: dict[str, Any], message: str) -> None:
    write(tmp_path, make_row(1, statistics=statistics(checked=2, false_hits=1)))
    with pytest.raises(SweepError, match=f"{STORE}: (cannot add a result|not added).*{message}"):
        write(tmp_path, make_row(2, **odd))
    assert len(read_rows(tmp_path)) == 1


def test_a_cache_that_counted_no_hits_saved_nothing() -> None:
    (totals,) = in_memory([make_row(1, statistics={"encoder_cache": {"hits": None, "misses": 3}})]).totals()
    assert (totals["hits"], totals["saved_s"]) == (None, 0.0)


def test_a_negative_count_is_not_written(tmp_path: Path) -> None:
    (row, *_) = sweep_rows(tmp_path / "made", n_recordings=1)
    row["counts"]["text"]["en"]["insertions"] = -1
    with pytest.raises(SweepError, match="a count must be above -1"):
        write(tmp_path, row)


# A value that SQL writes past the check of a row, and what is said of it.
EDITS = {
    "update results set hits = -1": "hits out of range",
    "update results set compute_s = 9e999": "compute_s out of range",
    "update results set duration_s = -0.5": "duration_s out of range",
    "update results set peak_rss_bytes = 1e300": "peak_rss_bytes out of range",
    "update results set threads = 9223372036854775807": "threads out of range",
    "update results set status = 'done'": "an unknown status",
    "update results set recording = null": "a missing key, recording or status",
    "update results set config_id = 999": "an unknown config_id",
    "update results set checked = 1, false_hits = 5": "more false than checked hits",
    "update results set wrong_s = null": "wrong_s without speech_s",
    "update results set words = null": "errors without words",
    "update results set delays = '[1e999]'": "a delay that is no number of seconds",
    "update results set delays = '[\"x\"]'": "a delay that is no number of seconds",
    "update results set switches_true = 0, delays = '[1]'": "more delays than switches",
    "delete from configurations": "an unknown config_id",
    "insert into totals (config_id, n_runs, n_recordings) values (77, 1, 1)": "an unknown config_id",
    "update totals set n_recordings = null": "no run",
    "update totals set hits = -1": "hits out of range",
    "update operations set count = 0": "an operation without a call or a time",
    "update operations set p50 = null": "an operation without a call or a time",
    "update operations set max = 9e999": "an operation without a call or a time",
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_store_with_values_that_no_run_leaves_is_refused(tmp_path: Path, edit: str) -> None:
    write(tmp_path, *sweep_rows(tmp_path / "made", n_recordings=1))
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.execute(edit)
    for opening in (open_store, lambda folder: write_store(folder).__enter__()):
        with pytest.raises(SweepError, match=rf"{STORE}: its table \w+ was changed .* it has {EDITS[edit]}"):
            opening(tmp_path)


def test_tables_without_types_are_checked_too(tmp_path: Path) -> None:
    write(tmp_path, *sweep_rows(tmp_path / "made", n_recordings=1))
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.executescript("""
            pragma legacy_alter_table = on; drop view runs; create table loose as select * from results;
            drop table results; alter table loose rename to results; update results set hits = 'many';
            create view runs as select * from results join configurations using (config_id)""")
    with pytest.raises(SweepError, match="hits out of range"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "edit, message",
    [
        ("delete from documents where id = 1", "row 1 of documents: Expecting value"),
        ("update documents set row = (select row from documents where id = 2)", "row 1 of documents: its key is not"),
    ],
)
def test_a_row_without_its_own_document_is_named(tmp_path: Path, edit: str, message: str) -> None:
    rows = [make_row(1), make_row(2)]
    write(tmp_path, *rows)
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.execute(edit)
    with open_store(tmp_path) as store, pytest.raises(SweepError, match=message):
        store.rows_of([row["key"] for row in rows])


@pytest.mark.parametrize("config", ['{"x": "\\ud800"}', '{"cache": {"size": "many"}}', '{"x": 1e999}'])
def test_a_configuration_that_is_none_is_a_sweep_error(tmp_path: Path, config: str) -> None:
    write(tmp_path, make_row(1, compute_s=1.0, duration=2.0))
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.execute("update configurations set config = ?", (config,))
    with open_store(tmp_path) as store:
        for read in (results, from_store):
            with pytest.raises(SweepError, match="a configuration that is none"):
                read(store)


def test_speakers_are_names_whatever_a_document_says(tmp_path: Path) -> None:
    write(tmp_path, make_row(1), make_row(2))
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.execute(
            "update documents set row = json_set(row, '$.counts.speakers', json('[5, \"a\"]')) where id = 1"
        )
    with open_store(tmp_path) as store:
        assert store.speakers() == {"r1": ["5", "a"], "r2": []}


def test_a_trace_is_looked_for_in_the_sweeps_folder_alone(tmp_path: Path) -> None:
    """A path of a stranger's store could name a file without an end."""
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "own.jsonl").touch()
    (tmp_path / "traces" / "link.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "traces" / "pipe.jsonl")
    assert trace_path(tmp_path, make_row(1, trace="traces/own.jsonl")).exists()
    for trace in ("/dev/zero", "../elsewhere.jsonl", "traces/link.jsonl", "traces/pipe.jsonl", "", None):
        with pytest.raises(TraceError, match=r"no file '.*' in "):
            trace_path(tmp_path, make_row(1, trace=trace))


@pytest.mark.parametrize("content", [b"", b"no database, but long enough to look like one" * 100, b"\0" * 5000])
def test_a_file_that_is_no_store_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STORE).write_bytes(content)
    with pytest.raises(SweepError, match=f"{STORE}: (file is not a database|not a results store)"):
        open_store(tmp_path)


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, make_row(1))
    with sqlite3.connect(tmp_path / STORE) as connection:
        connection.execute("pragma user_version = 99")
    with pytest.raises(SweepError, match="layout 99"):
        open_store(tmp_path)


def test_a_folder_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=f"holds no results of a sweep .no {STORE}"):
        open_store(tmp_path)
    with pytest.raises(SweepError, match="no such folder"):
        open_store(tmp_path / "nowhere")
    assert read_rows(tmp_path) == []


@pytest.mark.parametrize(
    "name,kind",
    [("SQLITE_IOERR_SHMMAP", OutOfMemoryError), ("SQLITE_NOMEM", OutOfMemoryError), ("SQLITE_FULL", SweepError)],
)
def test_lack_of_memory_is_not_told_as_a_broken_disk(name: str, kind: type[Exception]) -> None:
    """SQLite says "disk I/O error" when the system gives it no memory for the index of its log."""

    class Connection:
        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = name
            raise error

    store = ResultsStore(":memory:", "rows")
    store.connection.close()
    store.connection = Connection()  # type: ignore[assignment]
    with pytest.raises(kind, match=r"not enough memory for rows|rows: disk I/O error"):
        store.sql("select 1")


@pytest.mark.parametrize("name", [b"file:a", b"http:a", b"a*[b]?", b"a b%20c#", b"-a", b"bad\xff"])
def test_the_name_of_a_folder_is_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(os.fsdecode(name))
    folder.mkdir()
    row = {"key": "a", "config": {}, "recording": "one", "status": "ok"}
    with write_store(folder) as store:
        store.append(row)  # type: ignore[arg-type]
    assert read_rows(folder) == [row]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_other_programs_cannot_store_values_of_a_wrong_type(tmp_path: Path) -> None:
    with write_store(tmp_path) as store:
        store.append({"key": "a", "config": {}, "recording": "one", "status": "ok"})
    with sqlite3.connect(tmp_path / STORE) as other:
        for wrong in (
            "update results set hits = 'x'",
            "update results set delays = '1'",
            "update configurations set config = '[]'",
            "update totals set hits = 'x'",
            "update documents set row = 'x'",
        ):
            with pytest.raises(sqlite3.DatabaseError):
                other.execute(wrong)
        other.execute("update documents set row = '{}'")
    with pytest.raises(SweepError, match=rf"{STORE}: row 1 of documents: .* without config, key"):
        read_rows(tmp_path)

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

from whisperlab.experiments.results_store import SCHEMA, STORE, ResultsStore, Row, open_store, read_rows, write_store
from whisperlab.util.errors import OutOfMemoryError, SweepError

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

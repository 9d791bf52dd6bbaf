"""The SQLite store of a sweep: rows by key, one writer, several readers, and stores of earlier versions.

Kills and full disks in the middle of a sweep are in test_sweep.py, test_executors.py and test_faults.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_report import sweep_rows

from whisperlab.experiments.results_store import (
    OLD_STORE,
    SCHEMA,
    STORE,
    ResultsStore,
    Row,
    open_store,
    read_rows,
    task_key,
    write_store,
)
from whisperlab.experiments.store_import import import_jsonl
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
        frame = store.to_frame()
        assert frame["mixed_error_rate"].tolist() == pytest.approx([row["rates"]["mixed_error_rate"] for row in rows])
        assert store.to_frame("select distinct recording from results").shape == (3, 1)


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


@pytest.mark.parametrize("layout", [1, 2])
def test_a_store_of_an_earlier_layout_is_read_and_converted_when_written(tmp_path: Path, layout: int) -> None:
    write(tmp_path, *sweep_rows(tmp_path / "made"))
    with open_store(tmp_path) as store:
        today = store.totals()
    with sqlite3.connect(tmp_path / STORE) as connection:
        if layout == 1:
            for event in ("insert", "delete", "update"):
                connection.execute(f"drop trigger totals_{event}")
            connection.execute("drop table totals")
            connection.execute("create index results_status on results (key, status)")
        else:
            connection.execute("alter table totals drop column processor_s")
        connection.execute("alter table results drop column processor_s")
        connection.execute(f"pragma user_version = {layout}")
    with open_store(tmp_path) as store:
        assert store.totals() == [{**line, "processor_s": None} for line in today]
        assert store.sql("select count(*), count(processor_s) from runs") == [(len(store), 0)]
        store.to_parquet(tmp_path / "old.parquet")
    write(tmp_path)
    with open_store(tmp_path) as store:
        assert store.sql("pragma user_version") == [(3,)]
        assert len(store.sql("select * from totals")) == len(today)
        assert store.totals() == today
        assert all(line["processor_s"] > 0 for line in today)
        assert not store.sql("select 1 from sqlite_master where name = 'results_status'")


def test_parquet_has_the_columns_and_the_rows_as_json(tmp_path: Path) -> None:
    rows = [*sweep_rows(tmp_path / "made", n_recordings=1), make_row(1, "failed")]
    write(tmp_path, *rows)
    path = tmp_path / "deep" / "it's.parquet"
    with open_store(tmp_path) as store:
        assert store.to_parquet(path) == path
    with duckdb.connect() as connection:
        table = connection.read_parquet(str(path))
        assert [json.loads(text) for (text,) in table.select("row").fetchall()] == rows
        assert table.filter("status = 'failed'").select("error").fetchall() == [("it broke",)]
    assert [p.name for p in path.parent.iterdir()] == ["it's.parquet"]


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


# --- stores of earlier versions -----------------------------------------------------------------------

OLD_CONFIG = {"model": "base", "lid": {"sure_hops": 1}, "cache_size": 10, "key": "near", "lid_hop_ms": 200}
NEW_CHANGES = {"language_id": {"hop_ms": 200, "confident_hop_factor": 1}, "cache": {"size": 10, "key": "near"}}


def old_row(number: int, **more: Any) -> dict[str, Any]:
    statistics = {"encoder_cache": {"hits": 3, "misses": 1, "hits_by_cause": {"silence": 1, "near": 2}}}
    made = {"audio_sha256": f"{number}", "model_digest": "w", "whisperlab": "0.1.0", "statistics": statistics}
    return {**make_row(number), "schema": 1, "config": OLD_CONFIG, **made, **more}


def write_old(folder: Path, *rows: dict[str, Any], torn: str = "") -> None:
    (folder / OLD_STORE).write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def test_an_old_store_is_imported_with_the_names_and_keys_of_today(tmp_path: Path) -> None:
    write_old(tmp_path, old_row(1, status="failed"), old_row(2), old_row(1), torn='{"key": "torn')
    with pytest.raises(SweepError, match=r"earlier version; `whisperlab sweep --import .*` converts it"):
        read_rows(tmp_path)
    assert import_jsonl(tmp_path) == 2
    first, second = read_rows(tmp_path)
    assert (first["status"], first["recording"], second["recording"]) == ("ok", "r1", "r2")
    assert (first["schema"], first["config"]["language_id"]["confident_hop_factor"]) == (SCHEMA, 1)
    with open_store(tmp_path) as store:
        assert store.sql("select hits, silence, similar from results") == [(3, 1, 2)] * 2
    with pytest.raises(SweepError, match="exists already"):
        import_jsonl(tmp_path)


def test_an_imported_row_is_resumed(tmp_path: Path) -> None:
    from whisperlab.config import TranscriberConfig

    config = {name: value for name, value in OLD_CONFIG.items() if name != "key"}
    write_old(tmp_path, old_row(1, config=config))
    import_jsonl(tmp_path)
    today = TranscriberConfig().replace(
        {"language_id.hop_ms": 200, "language_id.confident_hop_factor": 1, "cache.size": 10, "cache.key": "rounded"}
    )
    with open_store(tmp_path) as store:
        assert store.statuses([task_key(today.identity(), "1", "w", "0.1.0")])


def test_a_result_of_the_former_default_key_keeps_its_name_and_is_not_taken_for_one_of_todays() -> None:
    from whisperlab.config import TranscriberConfig

    assert TranscriberConfig().replace({"cache.key": "rounded"}).identity() == {}
    assert TranscriberConfig().identity() == {"cache": {"key": "similar"}}


@pytest.mark.parametrize(
    "line, message",
    [
        ("{not json", "Expecting"),
        ("[]", "not a row of a sweep"),
        ('{"key": "a row without the rest"}', "not a row of a sweep"),
        (json.dumps(make_row(1, schema=99)), "schema 99"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_of_an_old_store_is_named_and_nothing_is_imported(
    tmp_path: Path, line: str, message: str
) -> None:
    write_old(tmp_path, old_row(1), torn=f"{line}\n")
    with pytest.raises(SweepError, match=rf"{OLD_STORE}:2: .*{message}"):
        import_jsonl(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [OLD_STORE]


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

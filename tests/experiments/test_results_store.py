"""The ledger of a store: what it vouches for is not read again, and nothing is believed that a full read would not say.

The law: with a ledger, whatever has happened to it or to the store, `done` says what it says without one.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whisperlab.experiments import results_store
from whisperlab.experiments.results_store import (
    LEDGER,
    STORE,
    Writer,
    done,
    newest_rows,
    read_extract,
    repair,
)
from whisperlab.util.errors import SweepError

STRETCH = 600  # bytes: four of these rows

reads = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["ok", "failed"])), max_size=12)


def make_row(number: int, status: str) -> dict[str, Any]:
    return {
        "key": f"{number:064x}",
        "status": status,
        "config": {"cache_size": number},
        "recording": f"r{number}",
        "corpus": None,
        "error": "it broke" if status == "failed" else None,
    }


def write(out: Path, rows: list[tuple[int, str]]) -> Writer:
    out.mkdir(exist_ok=True)
    writer = Writer(out)
    for number, status in rows:
        writer.append(make_row(number, status))
    return writer


def told(out: Path) -> list[object]:
    """What is done, an extract, and some rows; or the errors."""
    found: list[object] = []
    for ask in (
        done,
        lambda out: read_extract(out, 3),
        lambda out: newest_rows(out, {f"{n:064x}" for n in (1, 4)}),
    ):
        try:
            found.append(ask(out))
        except SweepError as error:
            found.append(str(error))
    return found


def told_without_ledger(out: Path) -> list[object]:
    hidden = (out / LEDGER).rename(out / "hidden") if (out / LEDGER).exists() else None
    try:
        return told(out)
    finally:
        if hidden:
            hidden.rename(out / LEDGER)


def damaged(path: Path, where: float, mask: int) -> None:
    held = bytearray(path.read_bytes())
    held[int(where * len(held))] ^= mask
    path.write_bytes(held)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_store, "_STRETCH", STRETCH)


@pytest.fixture
def glanced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines whose beginnings are read from here on."""
    real, numbers = results_store._glance, []

    def counted(path: Path, number: int, line: bytes) -> tuple[str, str, str]:
        numbers.append(number)
        return real(path, number, line)

    monkeypatch.setattr(results_store, "_glance", counted)
    return numbers


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines that are read and checked from here on."""
    real, numbers = results_store._row, []

    def counted(path: Path, number: int, line: bytes) -> results_store.Row:
        numbers.append(number)
        return real(path, number, line)

    monkeypatch.setattr(results_store, "_row", counted)
    return numbers


property_of_files = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@property_of_files
@given(sessions=st.lists(reads, min_size=1, max_size=4))
def test_the_ledger_says_what_the_rows_say(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[tuple[int, str]]]
) -> None:
    out = tmp_path_factory.mktemp("sweep")
    newest: dict[str, str] = {}
    for rows in sessions:
        writer = write(out, rows)
        newest.update((f"{number:064x}", status) for number, status in rows)
        assert writer.statuses == newest
    assert done(out) == newest
    assert told(out) == told_without_ledger(out)


def test_what_was_checked_is_not_read_again(tmp_path: Path, parsed: list[int]) -> None:
    write(tmp_path, [(n, "ok") for n in range(50)])
    assert parsed == []  # of rows that this process wrote itself
    assert len(done(tmp_path)) == 50
    assert len(parsed) < 4
    assert parsed == list(range(51 - len(parsed), 51))


def test_an_extract_reads_the_rows_it_gives_and_no_others(
    tmp_path: Path, parsed: list[int], glanced: list[int]
) -> None:
    write(tmp_path, [(n, "ok") for n in range(50)])
    for ask in (lambda: read_extract(tmp_path, 3).rows, lambda: newest_rows(tmp_path, {f"{7:064x}"})):
        assert len(ask()) == len(parsed) > 0
        assert len(glanced) < 4
        parsed.clear()
        glanced.clear()


def test_a_store_without_a_ledger_gets_one_when_it_is_next_written_to(
    tmp_path: Path, parsed: list[int]
) -> None:
    write(tmp_path, [(n, "ok") for n in range(50)])
    (tmp_path / LEDGER).unlink()
    assert len(Writer(tmp_path).statuses) == 50
    assert parsed == list(range(1, 51))
    parsed.clear()
    assert len(Writer(tmp_path).statuses) == 50
    assert len(parsed) < 4


def test_a_small_store_has_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    write(tmp_path, [(n, "ok") for n in range(50)])
    assert not (tmp_path / LEDGER).exists()


@property_of_files
@given(
    where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), name=st.sampled_from([STORE, LEDGER])
)
def test_a_damaged_byte_anywhere_is_noticed_as_without_a_ledger(
    tmp_path_factory: pytest.TempPathFactory, where: float, mask: int, name: str
) -> None:
    out = tmp_path_factory.mktemp("sweep")
    write(out, [(n % 7, "failed" if n % 5 == 0 else "ok") for n in range(12)])
    damaged(out / name, where, mask)
    assert told(out) == told_without_ledger(out)


@property_of_files
@given(where=st.floats(0, 1), name=st.sampled_from([STORE, LEDGER]))
def test_a_file_cut_anywhere_is_read_as_without_a_ledger_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, where: float, name: str
) -> None:
    out = tmp_path_factory.mktemp("sweep")
    write(out, [(n, "ok") for n in range(12)])
    cut = (out / name).read_bytes()
    (out / name).write_bytes(cut[: int(where * len(cut))])
    assert told(out) == told_without_ledger(out)
    repair(out, print)
    write(out, [(20, "ok"), (21, "failed"), (22, "ok"), (23, "ok")])
    assert told(out) == told_without_ledger(out)
    assert done(out)[f"{21:064x}"] == "failed"


def test_a_line_taken_out_of_the_middle_makes_its_task_run_again(tmp_path: Path) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    lines = (tmp_path / STORE).read_bytes().splitlines(keepends=True)
    (tmp_path / STORE).write_bytes(b"".join(lines[:7] + lines[8:]))
    assert done(tmp_path).keys() == {f"{n:064x}" for n in range(20) if n != 7}
    assert told(tmp_path) == told_without_ledger(tmp_path)


def test_damage_is_reported_by_its_line_behind_what_the_ledger_knows(tmp_path: Path) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    with (tmp_path / STORE).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(SweepError, match=rf"{STORE}:21: not a row of a sweep"):
        done(tmp_path)


def by_other_rules(line: bytes) -> bytes:
    """A line of another version, which did not check what this one does."""
    told = line.partition(b" ")[2].rstrip().replace(b'"rules": 1', b'"rules": 2')
    assert b'"rules": 2' in told
    return hashlib.sha256(told).hexdigest().encode() + b" " + told + b"\n"


@pytest.mark.parametrize(
    "change", [lambda _: b"\n", lambda _: b"[]\n", lambda line: line[1:], by_other_rules]
)
def test_a_line_that_is_damaged_or_by_other_rules_is_not_believed(
    tmp_path: Path, change: Callable[[bytes], bytes], parsed: list[int]
) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    ledger = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(change(ledger.splitlines(keepends=True)[0]) + ledger)
    assert len(done(tmp_path)) == 20
    assert parsed == list(range(1, 21))
    assert len(Writer(tmp_path).statuses) == 20
    assert (tmp_path / LEDGER).read_bytes() == ledger  # begun anew


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [["k", "ok"]],
        [["k", "ok", ["r"], 9]],
        [["k", "ok", "r", 2**63]],
        [["k", "ok", "r", -5]],
        [None],
        7,
    ],
)
def test_a_line_that_nobody_here_would_write_is_not_believed(tmp_path: Path, rows: object) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    told = json.dumps({"rules": 1, "sha256": hashlib.sha256(b"").hexdigest(), "rows": rows}).encode()
    (tmp_path / LEDGER).write_bytes(hashlib.sha256(told).hexdigest().encode() + b" " + told + b"\n")
    assert told_without_ledger(tmp_path) == globals()["told"](tmp_path)
    assert len(Writer(tmp_path).statuses) == 20


@pytest.mark.parametrize("name", [STORE, LEDGER])
def test_a_file_taken_away_is_not_missed(tmp_path: Path, name: str) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    (tmp_path / name).unlink()
    assert told(tmp_path) == told_without_ledger(tmp_path)
    write(tmp_path, [(n, "failed") for n in range(10, 30)])
    assert told(tmp_path) == told_without_ledger(tmp_path)
    assert len(done(tmp_path)) == (20 if name == STORE else 30)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.parent / "none" / LEDGER)])
def test_a_ledger_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / LEDGER)
    write(tmp_path, [(n, "ok") for n in range(20)])
    assert len(done(tmp_path)) == 20


def test_a_ledger_that_cannot_be_cut_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [(n, "ok") for n in range(20)])
    damaged(tmp_path / LEDGER, 0.9, 1)
    before = (tmp_path / LEDGER).read_bytes()

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("whisperlab.experiments.results_store.os.truncate", refused)
    write(tmp_path, [(n, "ok") for n in range(20, 40)])
    assert (tmp_path / LEDGER).read_bytes() == before
    assert len(done(tmp_path)) == 40


@pytest.mark.parametrize("odd", [{"duration": "long"}, {"config": {"x": 10**30}}, {"schema": 2}])
def test_a_row_that_would_not_be_read_again_is_not_written(tmp_path: Path, odd: dict[str, Any]) -> None:
    writer = write(tmp_path, [(n, "ok") for n in range(6)])
    before = (tmp_path / STORE).read_bytes()
    with pytest.raises(SweepError, match=r"nothing was added: (not a row of a sweep|not JSON|schema 2)"):
        writer.append({**make_row(6, "ok"), **odd})
    assert (tmp_path / STORE).read_bytes() == before
    assert writer.statuses == done(tmp_path)


def test_an_interrupt_between_row_and_ledger_makes_it_doubt_and_not_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path, [(n, "ok") for n in range(8)])
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.append(make_row(8, "ok"))
    for n in range(9, 20):
        writer.append(make_row(n, "failed"))
    assert told(tmp_path) == told_without_ledger(tmp_path)
    assert len(done(tmp_path)) == 20


def test_the_newest_rows_of_some_keys(tmp_path: Path) -> None:
    write(tmp_path, [(1, "failed"), (2, "ok"), (1, "ok"), (3, "failed")])
    found = newest_rows(tmp_path, {f"{n:064x}" for n in (1, 3, 7)})
    assert {row["recording"]: row["status"] for row in found.values()} == {"r1": "ok", "r3": "failed"}
    assert json.loads(json.dumps(make_row(3, "failed"))) == found[f"{3:064x}"]

"""Sweeps: a store that survives being killed, rows named by what they depend on, counts before rates."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy as np
import pytest
import torch

from whisperlab.cache import EncoderCache
from whisperlab.data.audio_files import write_wav
from whisperlab.data.manifest import Recording, ReferenceSegment
from whisperlab.evaluation.trace import read_trace
from whisperlab.experiments.results_store import STORE, connect, done, read_extract, read_rows, to_parquet
from whisperlab.experiments.sweep import (
    Config,
    Grid,
    plan,
    remaining,
    run_sweep,
    summarise,
    task_key,
    to_frame,
)
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment
from whisperlab.util.audio_arrays import FloatArray, audio_digest
from whisperlab.util.errors import AudioFormatError, ConfigurationError, SweepError, UnknownLanguageError

DIGEST = "weights-1"


class Parrot:
    """A transcriber that hears English, says one segment, and asks a real cache about every chunk."""

    def __init__(self, config: Config) -> None:
        self._config = dict(config)
        self._cache = EncoderCache(config["cache_size"], hash_precision=config["hash_precision"])
        self._heard = 0

    def process(self, chunk: FloatArray) -> ProcessResult:
        self._heard += len(chunk)
        found = self._cache.get(chunk)
        if found is None:
            self._cache.put(torch.ones(2), chunk)
        else:
            self._cache.record_shadow(agree=self._heard % 3200 == 0, distance=0.5)
        frame = LanguageFrame(self._heard, len(chunk), len(chunk), {"en": 1.0}, "en", found is not None)
        return ProcessResult("", "", "en", frames=(frame,))

    def finalize(self) -> ProcessResult:
        said = SessionSegment("hello big world", "en", 0.0, self._heard / 16000, True, 1.0)
        return ProcessResult("hello big world", "", "en", segments=(said,))

    def get_statistics(self) -> dict[str, Any]:
        return {"encoder_cache": self._cache.get_statistics()}

    def config(self) -> dict[str, Any]:
        return self._config


class Refusing(Parrot):
    """Fails on precision 0 until it is mended."""

    def process(self, chunk: FloatArray) -> ProcessResult:
        if self._config["hash_precision"] == 0:
            raise ValueError("precision 0 hurts")
        return super().process(chunk)


class Untouchable(Parrot):
    """A transcriber nobody should have asked for."""

    def __init__(self, config: Config) -> None:
        raise AssertionError(f"made for {config}")


def make_recording(folder: Path, name: str, text: str, n_chunks: int = 4) -> Recording:
    """Speech of some 0.1 s chunks; the second half repeats the first, so a cache can hit."""
    rng = np.random.default_rng(len(text) * 100 + n_chunks)
    half = (0.1 * rng.standard_normal(800 * n_chunks)).astype(np.float32)
    path = folder / f"{name}.wav"
    write_wav(path, np.concatenate([half, half]))
    seconds = n_chunks / 10
    said = (ReferenceSegment(0.0, seconds, "en", text),)
    return Recording(name, path, seconds, text, "en", said, "test", "fakes")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    return [
        make_recording(tmp_path, "first", "hello world"),
        make_recording(tmp_path, "second", "hello big wide world", n_chunks=8),
    ]


GRID = Grid(cache_size=(2, 50), hash_precision=(6, 0), decode=True)


def sweep(recordings: list[Recording], out: Path, maker: Any = Parrot, **options: Any) -> Any:
    """The sweep all these tests run: four configurations."""
    options = {"configurations": GRID.configurations(), "model_digest": DIGEST, "progress": False, **options}
    return run_sweep(options.pop("configurations"), recordings, out, make_transcriber=maker, **options)


# The grid.


def test_a_grid_is_every_combination_with_the_first_axis_slowest() -> None:
    grid = Grid(cache_size=(10, 50), hash_precision=(6, 2), fixed={"languages": ["en"]}, decode=False)
    assert [(c["cache_size"], c["hash_precision"]) for c in grid.configurations()] == [
        (10, 6),
        (10, 2),
        (50, 6),
        (50, 2),
    ]
    assert grid.configurations()[0] == {
        "lid": {"confident_hop_factor": 1, "onset_ms": 0},
        "languages": ["en"],
        "decode": False,
        "cache_size": 10,
        "hash_precision": 6,
        "key": "rounded",
        "lid_hop_ms": 100,
    }


def test_the_span_and_near_keys_have_no_precision_to_sweep() -> None:
    grid = Grid(hash_precision=(6, 2, 0), key=("rounded", "span", "logmel", "similar"))
    keys = [configuration["key"] for configuration in grid.configurations()]
    assert {key: keys.count(key) for key in keys} == {"rounded": 3, "span": 1, "logmel": 3, "similar": 1}


def test_a_value_given_twice_is_run_once() -> None:
    assert len(Grid(cache_size=(50, 50, 10)).configurations()) == 2


@pytest.mark.parametrize(
    "options, said",
    [
        ({"cache_size": ()}, "cache_size"),
        ({"key": "span"}, "key needs a list"),
        ({"fixed": {"cache_size": 3, "decode": True}}, "cache_size, decode"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Grid(**options)


def test_a_key_nobody_knows_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigurationError, match="'md5'"):
        Grid(hash_precision=(6, 2), key=("md5",)).configurations()


# Names of results.


def test_a_task_is_named_by_what_it_depends_on_and_not_by_the_order_of_options() -> None:
    config = {"cache_size": 50, "key": "span"}
    name = task_key(config, "audio", "model", "1.0")
    assert task_key(dict(reversed(config.items())), "audio", "model", "1.0") == name
    others = [
        task_key({**config, "cache_size": 51}, "audio", "model", "1.0"),
        task_key(config, "other", "model", "1.0"),
        task_key(config, "audio", "other", "1.0"),
        task_key(config, "audio", "model", "1.1"),
    ]
    assert len({name, *others}) == 5


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_a_configuration_that_json_cannot_hold_has_no_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match="plain JSON"):
        task_key({"option": value}, "audio", "model")


def test_a_plan_tells_apart_recordings_by_their_audio(recordings: list[Recording], tmp_path: Path) -> None:
    copy = replace(recordings[0], id="copy", audio_path=tmp_path / "copy.wav")
    copy.audio_path.write_bytes(recordings[0].audio_path.read_bytes())
    with pytest.raises(SweepError, match="'first' and 'copy' are the same audio"):
        plan([{}], [*recordings, copy], DIGEST)


def test_audio_that_is_not_there_stops_a_sweep_before_it_starts(
    recordings: list[Recording], tmp_path: Path
) -> None:
    recordings[1].audio_path.unlink()
    with pytest.raises(AudioFormatError, match=r"second\.wav"):
        sweep(recordings, tmp_path / "out", Untouchable)
    assert not (tmp_path / "out").exists()


def test_parts_of_one_file_are_recordings_of_their_own(recordings: list[Recording], tmp_path: Path) -> None:
    whole = recordings[1]
    parts = [replace(whole, id=f"from {at}", offset=at, duration=0.2, segments=()) for at in (0.0, 0.25)]
    outcome = sweep(parts, tmp_path, configurations=[GRID.configurations()[0]])
    assert (outcome.planned, outcome.failed) == (2, ())
    for row, part in zip(read_rows(tmp_path), parts, strict=True):
        trace = read_trace(tmp_path / row["trace"])
        assert (row["recording"], row["duration"], trace.header["audio"]["offset"]) == (
            part.id,
            0.2,
            part.offset,
        )
        assert trace.header["audio"]["sha256"] == row["audio_sha256"] == audio_digest(part.audio())


def test_a_failure_that_says_what_is_wrong_leaves_no_traceback(
    recordings: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(config: Config) -> Any:
        raise UnknownLanguageError("unknown language 'xx'")

    outcome = sweep(recordings, tmp_path, refusing, configurations=[GRID.configurations()[0]])
    assert [row["error"] for row in outcome.failed] == ["UnknownLanguageError: unknown language 'xx'"] * 2
    assert not any(record.exc_info for record in caplog.records)


# Running and resuming.


def test_every_configuration_meets_every_recording_and_leaves_a_row_and_a_trace(
    recordings: list[Recording], tmp_path: Path
) -> None:
    outcome = sweep(recordings, tmp_path)
    rows = read_rows(tmp_path)
    assert (outcome.planned, outcome.found, outcome.ran, outcome.failed) == (8, 0, 8, ())
    assert [(row["config"]["cache_size"], row["recording"]) for row in rows[:3]] == [
        (2, "first"),
        (2, "second"),
        (2, "first"),
    ]
    for row in rows:
        trace = read_trace(tmp_path / row["trace"])
        assert (trace.recording, trace.config) == (row["recording"], row["config"])
        assert row["trace"] == f"traces/{row['key']}.jsonl"
        assert row["statistics"] == trace.statistics


def test_a_row_has_these_fields(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path)
    row = read_rows(tmp_path)[0]
    assert set(row) == {
        "key", "config", "recording", "corpus", "split", "audio_sha256", "model_digest", "whisperlab",
        "status", "schema", "error", "counts", "rates", "statistics", "trace", "duration", "compute_s",
        "response_p95_s", "peak_rss_bytes", "threads", "created",
    }  # fmt: skip
    assert (row["status"], row["error"], row["corpus"], row["split"]) == ("ok", None, "fakes", "test")
    assert (row["duration"], row["model_digest"]) == (0.4, DIGEST)
    assert row["rates"]["mixed_error_rate"] == pytest.approx(1 / 2)  # "big" was put in
    assert row["peak_rss_bytes"] > 10**6


def test_what_is_done_is_not_run_again(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path)
    again = sweep(recordings[:1], tmp_path, Untouchable)
    assert (again.found, again.ran, again.failed) == (4, 0, ())
    more = sweep(recordings, tmp_path)
    assert (more.found, more.ran) == (4, 4)
    assert len(read_rows(tmp_path)) == 8


def test_other_weights_are_run_anew_and_kept_apart_in_the_summary(
    recordings: list[Recording], tmp_path: Path
) -> None:
    sweep(recordings, tmp_path)
    assert sweep(recordings, tmp_path, model_digest="weights-2").ran == 8
    summary = summarise(read_rows(tmp_path))
    assert len(summary) == 8
    assert set(summary["model_digest"]) == {DIGEST, "weights-2"}
    assert set(summary["recordings"]) == {2}


def test_a_task_that_raises_leaves_a_failed_row_and_the_sweep_goes_on(
    recordings: list[Recording], tmp_path: Path
) -> None:
    said: list[str] = []
    outcome = sweep(recordings, tmp_path, Refusing, say=said.append)
    assert len(outcome.failed) == 4
    row = outcome.failed[0]
    assert (row["status"], row["error"]) == ("failed", "ValueError: precision 0 hurts")
    assert (row["trace"], row["counts"], row["rates"], row["statistics"]) == (None, {}, {}, {})
    assert sum("failed: " in line and "hash_precision=0" in line for line in said) == 4
    assert len(list((tmp_path / "traces").iterdir())) == 4


def test_failed_tasks_stay_failed_until_they_are_retried(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path, Refusing)
    still = sweep(recordings, tmp_path, Untouchable)
    assert (still.ran, len(still.failed)) == (0, 4)
    mended = sweep(recordings, tmp_path, Parrot, retry_failed=True)
    assert (mended.ran, mended.failed) == (4, ())
    assert {row["status"] for row in read_rows(tmp_path)} == {"ok"}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 12


def test_a_maker_that_fails_is_a_failed_task_too(recordings: list[Recording], tmp_path: Path) -> None:
    outcome = sweep(recordings[:1], tmp_path, Untouchable)
    assert [row["error"].split(":")[0] for row in outcome.failed] == ["AssertionError"] * 4


def test_nothing_to_run_is_an_error_and_not_an_empty_result(
    recordings: list[Recording], tmp_path: Path
) -> None:
    for configurations, known in (([], recordings), ([{}], [])):
        with pytest.raises(SweepError, match="at least one configuration and one recording"):
            sweep(known, tmp_path, configurations=configurations)


class Hoarder(Parrot):
    """Fills 200 MB of the heap for precision 0, and keeps a little of it, so that the rest is not at its end."""

    kept: ClassVar[list[Any]] = []

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config["hash_precision"] == 0:
            heap = [np.ones(2**13) for _ in range(3200)]
            Hoarder.kept += heap[::100]


def test_a_peak_of_memory_is_not_that_of_the_task_before(recordings: list[Recording], tmp_path: Path) -> None:
    greedy, modest = Grid(hash_precision=(0, 6)).configurations()
    sweep(recordings[:1], tmp_path, Hoarder, configurations=[greedy, modest])
    first, second = (row["peak_rss_bytes"] for row in read_rows(tmp_path))
    assert first - second > 10**8


# The store.


@pytest.mark.parametrize("cut", [1, 10, 400])
def test_a_torn_last_line_is_cut_off_said_and_run_again(
    recordings: list[Recording], tmp_path: Path, cut: int
) -> None:
    sweep(recordings, tmp_path)
    store = tmp_path / "results.jsonl"
    whole = store.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    store.write_bytes(whole[:-cut])
    assert len(read_rows(tmp_path)) == 7
    said: list[str] = []
    outcome = sweep(recordings, tmp_path, say=said.append)
    assert (outcome.repaired_bytes, outcome.found, outcome.ran) == (last - cut, 7, 1)
    assert any(f"removed its {last - cut} bytes" in line for line in said)
    assert len(store.read_bytes().splitlines()) == len(read_rows(tmp_path)) == 8


@pytest.mark.parametrize(
    "line",
    [
        "{not json",
        "[]",
        '{"key": "a row without the rest"}',
        '{"key": "a", "status": "ok", "config": {"half": }',
    ],
)
def test_damage_inside_the_store_is_named_by_file_and_line_and_not_repaired(
    recordings: list[Recording], tmp_path: Path, line: str
) -> None:
    sweep(recordings[:1], tmp_path)
    store = tmp_path / "results.jsonl"
    lines = store.read_text().splitlines()
    damaged = "\n".join([lines[0], line, *lines[2:]]) + "\n"
    store.write_text(damaged)
    with pytest.raises(SweepError, match=r"results\.jsonl:2"):
        read_rows(tmp_path)
    with pytest.raises(SweepError, match=r"results\.jsonl:2"):
        sweep(recordings, tmp_path, Untouchable)
    assert store.read_text() == damaged


def test_two_sweeps_cannot_write_one_store(recordings: list[Recording], tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SweepError, match="another sweep is running"):
            sweep(recordings, tmp_path, Untouchable)
    assert sweep(recordings, tmp_path).ran == 8


def test_a_full_disk_is_a_sweep_error_and_the_half_line_is_repaired(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, write = 3, os.write

    def filling(handle: int, data: bytes) -> int:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data if room else data[:100])

    monkeypatch.setattr("whisperlab.experiments.results_store.os.write", filling)
    with pytest.raises(SweepError, match="took 100 of the"):
        sweep(recordings, tmp_path)
    with pytest.raises(SweepError, match="No space left"):
        sweep(recordings, tmp_path)
    monkeypatch.undo()
    outcome = sweep(recordings, tmp_path)
    assert (outcome.repaired_bytes, outcome.found, outcome.ran) == (0, 2, 6)  # the second try cut them off


def test_a_store_is_queried_where_it_lies_the_newest_row_counting(
    recordings: list[Recording], tmp_path: Path
) -> None:
    sweep(recordings, tmp_path, Refusing)
    sweep(recordings, tmp_path, retry_failed=True)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"key": "torn')
    query = "select recording, status, config.hash_precision as precision from results"
    with connect(tmp_path) as connection:
        found = connection.sql(query).df()
    rows = read_rows(tmp_path)
    assert len(found) == len(rows) == 8
    assert set(found["status"]) == {"ok"}
    ran = sorted((row["recording"], row["config"]["hash_precision"]) for row in rows)
    assert sorted(zip(found["recording"], found["precision"], strict=True)) == ran
    path = to_parquet(tmp_path, tmp_path / "deep" / "it's.parquet")
    with duckdb.connect() as connection:
        assert connection.read_parquet(str(path)).shape[0] == 8
    assert [p.name for p in path.parent.iterdir()] == ["it's.parquet"]
    with pytest.raises(SweepError, match="no results"):
        connect(tmp_path / "deep")


def test_rows_of_a_later_schema_are_refused(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path)
    store = tmp_path / "results.jsonl"
    assert all(row["schema"] == 1 for row in read_rows(tmp_path))
    store.write_text(store.read_text().replace('"schema": 1', '"schema": 2', 1))
    with pytest.raises(SweepError, match=r"results\.jsonl:1: schema 2, and this whisperlab knows 1"):
        read_rows(tmp_path)


def test_reading_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="no such folder"):
        read_rows(tmp_path / "nowhere")
    assert read_rows(tmp_path) == []


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    recordings: list[Recording], tmp_path: Path
) -> None:
    asked: list[Config] = []

    def interrupted(config: Config) -> Parrot:
        asked.append(config)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return Parrot(config)

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        sweep(recordings, tmp_path, interrupted, say=said.append)
    assert "run the same sweep again to continue" in said[-1]
    assert len(read_rows(tmp_path)) == 3
    assert sweep(recordings, tmp_path).ran == 5


SLOW_SWEEP = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_sweep as t

    class Slow(t.Parrot):
        def finalize(self):
            print("at work", flush=True)
            time.sleep(0.05)
            return super().finalize()

    folder = Path({folder!r})
    recordings = [t.make_recording(folder, f"r{{n}}", "hello " * n) for n in range(1, 11)]
    t.sweep(recordings, folder / "out", Slow)
"""


@pytest.fixture
def slow_sweep(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep of forty slow tasks in a process of its own, three of them well begun."""
    code = textwrap.dedent(SLOW_SWEEP.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "at work\n", process.communicate()[1]
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_stopped_at_work_loses_nothing_that_was_finished(
    slow_sweep: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    slow_sweep.send_signal(number)
    slow_sweep.communicate()
    assert slow_sweep.returncode == -number
    done = read_rows(tmp_path / "out")
    assert 2 <= len(done) < 40
    recordings = [make_recording(tmp_path, f"r{n}", "hello " * n) for n in range(1, 11)]
    outcome = sweep(recordings, tmp_path / "out")
    assert outcome.found == len(done)
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 40
    assert rows[: len(done)] == done
    assert all(read_trace(tmp_path / "out" / row["trace"]).segments for row in rows)


def test_remaining_is_what_a_dry_run_lists(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path, Refusing)
    tasks = plan(GRID.configurations(), recordings, DIGEST)
    found = done(tmp_path)
    assert found == {row["key"]: row["status"] for row in read_rows(tmp_path)}
    assert len(remaining(tasks, found)) == 4
    assert len(remaining(tasks, found, retry_failed=True)) == 6


@pytest.mark.filterwarnings("error")
def test_the_bar_tells_what_is_left_in_audio_and_in_tasks(
    recordings: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(recordings, tmp_path, Refusing, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "task 8/8" in shown.err
    assert "failed" in shown.err
    assert "100%" in shown.err


# Frames.


def test_a_frame_has_a_line_per_row_and_dotted_columns(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path, Refusing)
    frame = to_frame(read_rows(tmp_path))
    assert len(frame) == 8
    assert {"key", "config.key", "recording", "status", "rates.mixed_error_rate"} <= set(frame.columns)
    assert "statistics.encoder_cache.hits_by_cause.similar" in frame.columns
    assert not [name for name in frame.columns if name.startswith("counts")]
    assert frame.loc[frame["status"] == "failed", "rates.mixed_error_rate"].isna().all()


def test_a_summary_adds_counts_before_it_divides(recordings: list[Recording], tmp_path: Path) -> None:
    """One word too many of 2, one too few of 4: 2 errors in 6 words, not the mean of 1/2 and 1/4."""
    sweep(recordings, tmp_path)
    summary = summarise(read_rows(tmp_path))
    assert len(summary) == 4
    assert summary["rates.mixed_error_rate"].tolist() == pytest.approx([2 / 6] * 4)
    assert summary["duration"].tolist() == pytest.approx([1.2] * 4)
    large = summary[(summary["config.cache_size"] == 50) & (summary["config.hash_precision"] == 6)].iloc[0]
    # The second half of both recordings repeats the first: 2 of 4 and 4 of 8 chunks hit.
    assert (large["cache.hits"], large["cache.misses"], large["cache.repeat"]) == (6, 6, 6)
    assert large["cache.hit_rate"] == 0.5
    assert large["cache.checked"] == 6
    assert large["cache.false_hit_rate"] == large["cache.false_hits"] / 6 == 0.5
    assert large["cache.lookup_p95_ms"] > 0


def test_a_summary_counts_failures_and_adds_up_the_rest(recordings: list[Recording], tmp_path: Path) -> None:
    class FailsOnce(Parrot):
        def finalize(self) -> ProcessResult:
            if self._heard == 6400 and self._config["cache_size"] == 2:
                raise RuntimeError("out of luck")
            return super().finalize()

    sweep(recordings, tmp_path, FailsOnce)
    summary = summarise(read_rows(tmp_path))
    assert summary["failed"].tolist() == [1, 1, 0, 0]
    assert summary["recordings"].tolist() == [1, 1, 2, 2]
    assert summary["rates.mixed_error_rate"].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 3, 1 / 3])


def test_a_configuration_that_only_failed_has_a_line_without_rates(
    recordings: list[Recording], tmp_path: Path
) -> None:
    sweep(recordings, tmp_path, Refusing)
    summary = summarise(read_rows(tmp_path)).set_index(["config.cache_size", "config.hash_precision"])
    assert summary.loc[(2, 0), "failed"] == 2
    assert np.isnan(summary.loc[(2, 0), "rates.mixed_error_rate"])


def test_without_decoding_there_are_no_rates_of_text(recordings: list[Recording], tmp_path: Path) -> None:
    configurations = replace(GRID, decode=False).configurations()
    sweep(recordings, tmp_path, configurations=configurations)
    for row in read_rows(tmp_path):
        assert row["rates"]["mixed_error_rate"] is None
        assert row["rates"]["error_rate_by_language"] == {}
        assert row["rates"]["language_error_rate_frames"] == pytest.approx(0.0)
    summary = summarise(read_rows(tmp_path))
    assert summary["rates.mixed_error_rate"].isna().all()
    assert summary["cache.hit_rate"].notna().all()


def test_a_store_can_be_moved_with_its_traces(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path / "here")
    os.rename(tmp_path / "here", tmp_path / "there")
    row = read_rows(tmp_path / "there")[0]
    assert read_trace(tmp_path / "there" / row["trace"]).recording == "first"
    assert json.loads((tmp_path / "there" / "results.jsonl").read_text().splitlines()[0]) == row


# Stores too large to read whole.


def test_an_extract_of_a_small_store_is_all_of_it(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path)
    extract = read_extract(tmp_path, 100)
    assert list(extract.rows) == read_rows(tmp_path)
    assert extract.is_whole
    assert (extract.n_rows, extract.n_recordings, extract.n_failed) == (8, 2, 0)


def test_an_extract_has_every_configuration_on_the_same_recordings(tmp_path: Path) -> None:
    several = [make_recording(tmp_path, f"r{n}", "hello " * (n + 1)) for n in range(5)]
    sweep(several, tmp_path, Refusing)
    extract = read_extract(tmp_path, 9)
    assert (extract.n_rows, extract.n_recordings, extract.n_failed) == (20, 5, 10)
    assert not extract.is_whole
    assert len(extract.rows) == 8
    by_config: dict[str, set[str]] = {}
    for row in extract.rows:
        by_config.setdefault(json.dumps(row["config"]), set()).add(row["recording"])
    assert len(by_config) == 4
    assert len(set(map(frozenset, by_config.values()))) == 1
    assert read_extract(tmp_path, 9) == extract
    assert len(read_extract(tmp_path, 1).rows) == 4


def test_an_extract_takes_the_newest_row_whatever_it_begins_with(
    recordings: list[Recording], tmp_path: Path
) -> None:
    sweep(recordings, tmp_path, Refusing)
    sweep(recordings, tmp_path, retry_failed=True)
    rows = read_rows(tmp_path)
    store = tmp_path / "results.jsonl"
    turned = json.dumps(dict(reversed(rows[0].items())) | {"error": "newest"})
    store.write_text(store.read_text() + turned + "\n" + '{"key": "torn')
    extract = read_extract(tmp_path, 100)
    assert extract.n_failed == 0
    assert [row["error"] for row in extract.rows if row["key"] == rows[0]["key"]] == ["newest"]
    assert sorted(row["key"] for row in extract.rows) == sorted(row["key"] for row in rows)


def test_a_damaged_store_has_no_extract(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(SweepError, match=r"results\.jsonl:9: not a row of a sweep"):
        read_extract(tmp_path, 3)


WHOLE = {"key": "k", "status": "ok", "config": {}, "recording": "r"}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"key": []}, "key should be a string"),
        ({"status": "perhaps"}, "status should be ok or failed"),
        ({"config": [1]}, "config should be an object"),
        ({"schema": "2"}, "schema should be a whole number"),
        ({"duration": "1"}, "duration should be a number"),
        ({"created": 1.5}, "created should be a string"),  # the report looked for the first of them
        ({"counts": [1]}, "counts should be an object"),
        ({"statistics": {"performance": {"op": 1}}}, "statistics should be"),
    ],
)
def test_a_row_with_a_field_of_another_type_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / STORE).write_text(json.dumps({**WHOLE, **change}) + "\n")
    for read in (read_rows, done):
        with pytest.raises(SweepError, match=f"{STORE}:1: .*{message}"):
            read(tmp_path)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"key": NaN}', "1" * 5000])
def test_json_that_nobody_should_have_to_read_is_a_damaged_store(tmp_path: Path, line: str) -> None:
    (tmp_path / STORE).write_text(line + "\n")
    with pytest.raises(SweepError, match=f"{STORE}:1: not JSON"):
        read_rows(tmp_path)


def test_a_query_of_what_is_no_store_is_a_sweep_error(tmp_path: Path) -> None:
    (tmp_path / STORE).write_text('{"a": 1}\n')
    with pytest.raises(SweepError, match="not the results of a sweep"):
        connect(tmp_path)


@pytest.mark.parametrize("lost", ["compute_s", "duration", "counts", "model_digest"])
def test_a_finished_row_that_lacks_something_is_not_added_up(
    recordings: list[Recording], tmp_path: Path, lost: str
) -> None:
    run_sweep(
        GRID.configurations()[:1], recordings, tmp_path / "s", model_digest=DIGEST, make_transcriber=Parrot
    )
    rows = read_rows(tmp_path / "s")
    del rows[0][lost]
    with pytest.raises(SweepError, match=lost):
        summarise(rows)

"""Sweeps: a store that survives being killed, rows named by what they depend on, counts before rates."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from forks import Forks, forks
from tqdm import tqdm

from whisperlab.cache import EncoderCache
from whisperlab.config import TranscriberConfig
from whisperlab.data.audio_files import write_wav
from whisperlab.data.manifest import Recording, ReferenceSegment
from whisperlab.evaluation.trace import read_trace
from whisperlab.experiments.results_store import in_memory, open_store, read_rows, task_key, write_store
from whisperlab.experiments.sweep import Grid, identity, plan, remaining, run_sweep
from whisperlab.report.counts import results
from whisperlab.streaming.results import LanguageFrame, ProcessResult, SessionSegment
from whisperlab.util.audio_arrays import FloatArray, audio_digest
from whisperlab.util.errors import AudioFormatError, ConfigurationError, KilledError, SweepError, UnknownLanguageError

DIGEST = "weights-1"


class Parrot:
    """A transcriber that hears English, says one segment, and asks a real cache about every chunk."""

    def __init__(self, config: TranscriberConfig) -> None:
        self._config = config
        self._cache = EncoderCache(config.cache.size, hash_precision=config.cache.hash_precision)
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
        return self._config.to_json()


class Refusing(Parrot):
    """Fails on precision 0 until it is mended."""

    def process(self, chunk: FloatArray) -> ProcessResult:
        if self._config.cache.hash_precision == 0:
            raise ValueError("precision 0 hurts")
        return super().process(chunk)


class Untouchable(Parrot):
    """A transcriber nobody should have asked for."""

    def __init__(self, config: TranscriberConfig) -> None:
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


GRID = Grid({"cache.size": (2, 50), "cache.hash_precision": (6, 0)})


def sweep(recordings: list[Recording], out: Path, maker: Any = Parrot, **options: Any) -> Any:
    """The sweep all these tests run: four configurations."""
    options = {"configurations": GRID.configurations(), "model_digest": DIGEST, "progress": False, **options}
    return run_sweep(options.pop("configurations"), recordings, out, make_transcriber=maker, **options)


# The grid.


def test_a_grid_is_every_combination_with_the_first_axis_slowest() -> None:
    axes = {"cache.size": (10, 50), "cache.hash_precision": (6, 2)}
    configurations = Grid(axes, {"languages": ["en"], "decode": False}).configurations()
    assert [(c.cache.size, c.cache.hash_precision) for c in configurations] == [(10, 6), (10, 2), (50, 6), (50, 2)]
    assert configurations[0].changes() == {
        "languages": ["en"],
        "decode": False,
        "language_id": {"confident_hop_factor": 1, "onset_ms": 0},
        "cache": {"size": 10, "key": "rounded"},
    }


def test_a_grid_of_sizes_uses_the_default_key_and_one_of_precisions_the_guides() -> None:
    assert {config.cache.key for config in Grid({"cache.size": (10, 50)}).configurations()} == {"similar"}
    assert len(Grid({"cache.hash_precision": (6, 2)}).configurations()) == 2
    (config,) = Grid({"cache.hash_precision": (6, 2)}, {"cache.key": "span"}).configurations()
    assert config.cache.key == "span"


def test_the_span_and_similar_keys_have_no_precision_to_sweep() -> None:
    axes = {"cache.hash_precision": (6, 2, 0), "cache.key": ("rounded", "span", "similar")}
    keys = [configuration.cache.key for configuration in Grid(axes).configurations()]
    assert {key: keys.count(key) for key in keys} == {"rounded": 3, "span": 1, "similar": 1}


def test_a_value_given_twice_is_run_once() -> None:
    assert len(Grid({"cache.size": (50, 50, 10)}).configurations()) == 2


@pytest.mark.parametrize(
    "axes, fixed, said",
    [
        ({"cache.size": ()}, {}, "cache.size"),
        ({"cache.key": "span"}, {}, "cache.key needs a list"),
        ({"cache.size": [1]}, {"cache.size": 3}, "both swept and fixed: cache.size"),
        ({"cache.sise": [1]}, {}, "unknown option cache.sise"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(axes: Any, fixed: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Grid(axes, fixed).configurations()


def test_a_key_nobody_knows_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigurationError, match="'md5'"):
        Grid({"cache.hash_precision": (6, 2), "cache.key": ("md5",)}).configurations()


# Names of results.


def test_a_task_is_named_by_what_it_depends_on_and_not_by_the_order_of_options() -> None:
    config = {"cache_size": 50, "key": "span"}
    made = identity("model", "cpu")
    name = task_key(config, "audio", "reference", made)
    assert task_key(dict(reversed(config.items())), "audio", "reference", made) == name
    others = [
        task_key({**config, "cache_size": 51}, "audio", "reference", made),
        task_key(config, "other", "reference", made),
        task_key(config, "audio", "other", made),
        *(task_key(config, "audio", "reference", {**made, what: "other"}) for what in made),
    ]
    assert len({name, *others}) == 4 + len(made)


@pytest.mark.parametrize("function", ["instruction_set", "check_precision"])
def test_another_kind_of_processor_has_its_own_rows(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    sweep(recordings[:1], tmp_path)
    monkeypatch.setattr(f"whisperlab.experiments.sweep.{function}", lambda *_: "another")
    again = sweep(recordings[:1], tmp_path)
    assert (again.found, again.ran) == (0, 4)
    what = {"instruction_set": "processor", "check_precision": "precision"}[function]
    assert len({row[what] for row in read_rows(tmp_path)}) == 2


@pytest.mark.parametrize("edit", [{"text": "hello moon"}, {"end": 0.3}, {"lang": "es"}], ids=str)
def test_an_edited_reference_is_computed_again_and_nothing_else(
    recordings: list[Recording], tmp_path: Path, edit: dict[str, Any]
) -> None:
    sweep(recordings, tmp_path)
    said = replace(recordings[0].segments[0], **edit)
    edited = replace(recordings[0], text=said.text, segments=(said,))
    again = sweep([edited, recordings[1]], tmp_path)
    assert (again.found, again.ran) == (4, 4)
    with open_store(tmp_path) as store:
        (result,) = [row for row in store.rows("recording = 'first'") if row["key"] == again_key(edited)]
    assert read_trace(tmp_path / result["trace"]).header["reference"] == edited.reference


def again_key(recording: Recording) -> str:
    return plan(GRID.configurations()[:1], [recording], DIGEST)[0].key


def test_audio_that_was_replaced_during_a_sweep_is_no_result(recordings: list[Recording], tmp_path: Path) -> None:
    planned, path = recordings[0], recordings[0].audio_path
    before = path.stat()

    def replacing(config: TranscriberConfig) -> Parrot:
        """After the first task, with a file of the same size and time."""
        content = path.read_bytes()
        path.write_bytes(content[:-2000] + bytes(2000))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return Parrot(config)

    outcome = sweep([planned], tmp_path, replacing)
    assert [row["status"] for row in read_rows(tmp_path)] == ["ok", "failed", "failed", "failed"]
    assert all("first.wav changed during the sweep" in str(row["error"]) for row in outcome.failed)
    path.touch()
    assert (sweep([planned], tmp_path).found, sweep([planned], tmp_path).found) == (0, 4)


def test_a_folder_whose_name_is_not_utf_8_costs_no_result(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    recording = make_recording(folder, "first", "hello world")

    def damaging(config: TranscriberConfig) -> Parrot:
        """The file during the first task: the errors of the others name it."""
        recording.audio_path.write_bytes(b"no audio")
        return Parrot(config)

    outcome = sweep([recording], folder / "out", damaging)
    kept, *failed = read_rows(folder / "out")
    assert (kept["status"], len(failed), len(outcome.failed)) == ("ok", 3, 3)
    assert read_trace(folder / "out" / str(kept["trace"])).recording == "first"
    assert all("caf\\xe9/first.wav" in str(row["error"]) for row in failed)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_a_configuration_that_json_cannot_hold_has_no_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match="plain JSON"):
        task_key({"option": value}, "audio", "reference", {})


def test_a_plan_tells_apart_recordings_by_their_audio(recordings: list[Recording], tmp_path: Path) -> None:
    copy = replace(recordings[0], id="copy", audio_path=tmp_path / "copy.wav")
    copy.audio_path.write_bytes(recordings[0].audio_path.read_bytes())
    with pytest.raises(SweepError, match="'first' and 'copy' are the same audio"):
        plan([TranscriberConfig()], [*recordings, copy], DIGEST)


def test_audio_that_is_not_there_stops_a_sweep_before_it_starts(recordings: list[Recording], tmp_path: Path) -> None:
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
        assert (row["recording"], row["duration"], trace.header["audio"]["offset"]) == (part.id, 0.2, part.offset)
        assert trace.header["audio"]["sha256"] == row["audio_sha256"] == audio_digest(part.audio())


def test_a_failure_that_says_what_is_wrong_leaves_no_traceback(
    recordings: list[Recording], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(config: TranscriberConfig) -> Any:
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
    assert [(row["config"]["cache"]["size"], row["recording"]) for row in rows[:3]] == [
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
        "key", "config", "recording", "corpus", "split", "audio_sha256", "reference_sha256", "model_digest",
        "whisperlab", "precision", "processor",
        "status", "schema", "error", "counts", "rates", "statistics", "trace", "duration", "compute_s",
        "processor_s",
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


def test_other_weights_are_run_anew(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path)
    assert sweep(recordings, tmp_path, model_digest="weights-2").ran == 8
    assert {row["model_digest"] for row in read_rows(tmp_path)} == {DIGEST, "weights-2"}


def test_a_task_that_raises_leaves_a_failed_row_and_the_sweep_goes_on(
    recordings: list[Recording], tmp_path: Path
) -> None:
    said: list[str] = []
    outcome = sweep(recordings, tmp_path, Refusing, say=said.append)
    assert len(outcome.failed) == 4
    row = outcome.failed[0]
    assert (row["status"], row["error"]) == ("failed", "ValueError: precision 0 hurts")
    assert (row["trace"], row["counts"], row["rates"], row["statistics"]) == (None, {}, {}, {})
    assert sum("failed: " in line and "cache.hash_precision=0" in line for line in said) == 4
    assert len(list((tmp_path / "traces").iterdir())) == 4


def test_failed_tasks_stay_failed_until_they_are_retried(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings, tmp_path, Refusing)
    still = sweep(recordings, tmp_path, Untouchable)
    assert (still.ran, len(still.failed)) == (0, 4)
    mended = sweep(recordings, tmp_path, Parrot, retry_failed=True)
    assert (mended.ran, mended.failed) == (4, ())
    assert {row["status"] for row in read_rows(tmp_path)} == {"ok"}


def test_a_task_whose_decoder_was_killed_is_run_again(recordings: list[Recording], tmp_path: Path) -> None:
    def killed(config: TranscriberConfig) -> Any:
        raise KilledError("first.wav: FFmpeg cannot decode it (Killed)")

    outcome = sweep(recordings[:1], tmp_path, killed)
    assert [row["status"] for row in outcome.failed] == ["died"] * 4
    assert sweep(recordings[:1], tmp_path).ran == 4
    assert {row["status"] for row in read_rows(tmp_path)} == {"ok"}


def test_a_maker_that_fails_is_a_failed_task_too(recordings: list[Recording], tmp_path: Path) -> None:
    outcome = sweep(recordings[:1], tmp_path, Untouchable)
    assert [row["error"].split(":")[0] for row in outcome.failed] == ["AssertionError"] * 4


def test_nothing_to_run_is_an_error_and_not_an_empty_result(recordings: list[Recording], tmp_path: Path) -> None:
    for configurations, known in (([], recordings), ([TranscriberConfig()], [])):
        with pytest.raises(SweepError, match="at least one configuration and one recording"):
            sweep(known, tmp_path, configurations=configurations)


class Hoarder(Parrot):
    """Fills 200 MB of the heap for precision 0, and keeps a little of it, so that the rest is not at its end."""

    kept: ClassVar[list[Any]] = []

    def __init__(self, config: TranscriberConfig) -> None:
        super().__init__(config)
        if config.cache.hash_precision == 0:
            heap = [np.ones(2**13) for _ in range(3200)]
            Hoarder.kept += heap[::100]


def test_a_peak_of_memory_is_not_that_of_the_task_before(recordings: list[Recording], tmp_path: Path) -> None:
    greedy, modest = Grid({"cache.hash_precision": (0, 6)}).configurations()
    sweep(recordings[:1], tmp_path, Hoarder, configurations=[greedy, modest])
    first, second = (row["peak_rss_bytes"] for row in read_rows(tmp_path))
    assert first - second > 10**8


# The store.


def test_two_sweeps_cannot_write_one_store(recordings: list[Recording], tmp_path: Path) -> None:
    with write_store(tmp_path), pytest.raises(SweepError, match="another sweep is running"):
        sweep(recordings, tmp_path, Untouchable)
    assert sweep(recordings, tmp_path).ran == 8


def test_reading_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="no such folder"):
        read_rows(tmp_path / "nowhere")
    assert read_rows(tmp_path) == []


def test_an_interrupt_keeps_what_is_done_and_says_where(recordings: list[Recording], tmp_path: Path) -> None:
    asked: list[TranscriberConfig] = []

    def interrupted(config: TranscriberConfig) -> Parrot:
        asked.append(config)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return Parrot(config)

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        sweep(recordings, tmp_path, interrupted, say=said.append)
    assert said[-1] == f"stopped; {tmp_path / 'results.sqlite'} holds every finished result, which later runs skip"
    assert len(read_rows(tmp_path)) == 3
    assert sweep(recordings, tmp_path).ran == 5


class Slow(Parrot):
    """Says when it is at work, and takes its time."""

    def finalize(self) -> ProcessResult:
        print("at work", flush=True)
        time.sleep(0.05)
        return super().finalize()


def slow_sweep(folder: str) -> None:
    """Forty slow tasks."""
    recordings = [make_recording(Path(folder), f"r{n}", "hello " * n) for n in range(1, 11)]
    sweep(recordings, Path(folder) / "out", Slow)


@pytest.fixture(scope="module")
def sweeps() -> Iterator[Forks]:
    with forks("test_sweep") as started:
        yield started


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_stopped_at_work_loses_nothing_that_was_finished(
    sweeps: Forks, tmp_path: Path, number: signal.Signals
) -> None:
    pid = sweeps.start("slow_sweep", str(tmp_path), log=tmp_path / "log", lines=3)
    os.kill(pid, number)
    assert sweeps.wait(pid) == -number
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
    with open_store(tmp_path) as store:
        found = store.statuses()
    assert found == {row["key"]: row["status"] for row in read_rows(tmp_path)}
    assert len(remaining(tasks, found)) == 4
    assert len(remaining(tasks, found, retry_failed=True)) == 6


@pytest.mark.timeout(30)
@pytest.mark.parametrize("progress", [False, True])
def test_a_sweep_does_not_wait_for_a_thread_that_never_runs(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    """For lack of memory a thread can end before its first line: `threading.Thread.start` would wait forever."""
    monkeypatch.setattr(tqdm, "monitor", None)  # an earlier bar may have started it
    monkeypatch.setattr("threading._start_new_thread", lambda *_: None)
    assert sweep(recordings[:1], tmp_path, Refusing, progress=progress).ran
    assert tqdm.monitor is None


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


def test_a_summary_adds_counts_before_it_divides(recordings: list[Recording], tmp_path: Path) -> None:
    """One word too many of 2, one too few of 4: 2 errors in 6 words, not the mean of 1/2 and 1/4."""
    sweep(recordings, tmp_path)
    found = results(in_memory(read_rows(tmp_path)))
    assert [one.to_dict()["mixed_error_rate"] for one in found] == pytest.approx([2 / 6] * 4)
    assert [one.sums["duration_s"] for one in found] == pytest.approx([1.2] * 4)
    (large,) = (one for one in found if (one.config["cache.size"], one.config["cache.hash_precision"]) == (50, 6))
    # The second half of both recordings repeats the first: 2 of 4 and 4 of 8 chunks hit.
    assert (large.cache.hits, large.cache.misses, large.sums["repeat"]) == (6, 6, 6)
    assert large.cache.hit_rate == 0.5
    assert large.cache.checked == 6
    assert large.cache.false_hit_rate == large.cache.false_hits / 6 == 0.5


def test_a_summary_adds_up_what_did_not_fail(recordings: list[Recording], tmp_path: Path) -> None:
    class FailsOnce(Parrot):
        def finalize(self) -> ProcessResult:
            if self._heard == 6400 and self._config.cache.size == 2:
                raise RuntimeError("out of luck")
            return super().finalize()

    sweep(recordings, tmp_path, FailsOnce)
    found = sorted(results(in_memory(read_rows(tmp_path))), key=lambda one: one.config["cache.size"])
    assert [one.n_runs for one in found] == [1, 1, 2, 2]
    assert [one.mixed_error for one in found] == pytest.approx([1 / 4, 1 / 4, 1 / 3, 1 / 3])


def test_without_decoding_there_are_no_rates_of_text(recordings: list[Recording], tmp_path: Path) -> None:
    configurations = replace(GRID, fixed={"decode": False}).configurations()
    sweep(recordings, tmp_path, configurations=configurations)
    for row in read_rows(tmp_path):
        assert row["rates"]["mixed_error_rate"] is None
        assert row["rates"]["error_rate_by_language"] is None
        assert row["rates"]["language_error_rate_frames"] == pytest.approx(0.0)
    found = results(in_memory(read_rows(tmp_path)))
    assert [one.mixed_error for one in found] == [None] * 4
    assert None not in [one.cache.hit_rate for one in found]


def test_a_store_can_be_moved_with_its_traces(recordings: list[Recording], tmp_path: Path) -> None:
    sweep(recordings[:1], tmp_path / "here")
    os.rename(tmp_path / "here", tmp_path / "there")
    row = read_rows(tmp_path / "there")[0]
    assert read_trace(tmp_path / "there" / row["trace"]).recording == "first"

"""Each profiler is a pass of its own in a fresh process and says what it measured, in plain units."""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperlab.audio import write_wav
from whisperlab.errors import AudioFormatError, ConfigurationError, WhisperlabError
from whisperlab.profiling import cpu, latency, memory, python_memory
from whisperlab.profiling.workload import Workload, in_fresh_process
from whisperlab.segments import ProcessResult
from whisperlab.timeline import SAMPLE_RATE

MIB = 2**20
HELD = 64  # MiB the hungry transcriber keeps while streaming


class HungryTranscriber:
    """Takes 64 MiB with the first chunk and sorts with every chunk; fails when told to."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure
        self.held: Any = None
        self.heard: list[int] = []

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        if self.failure:
            raise ConfigurationError(self.failure)
        if self.held is None:
            self.held = b"\1" * (HELD * MIB)
        self.heard.append(len(chunk))
        self.busy()
        return ProcessResult("", "", None)

    def busy(self) -> list[int]:
        return sorted(range(2000), key=lambda number: -number)

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", None)

    def get_statistics(self) -> dict[str, Any]:
        operation = {"count": len(self.heard), "p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
        return {"performance": {"chunk.total": operation}}

    def config(self) -> dict[str, Any]:
        return {}


def hungry(**options: Any) -> HungryTranscriber:
    return HungryTranscriber(**options)


def process_id(workload: Workload) -> int:
    """A pass that only tells where it ran, and that torch was not loaded there before it."""
    assert "torch" not in sys.modules
    return os.getpid()


def die(workload: Workload) -> int:
    """A pass that is killed."""
    os._exit(9)


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    """A second of a ramp through the hungry transcriber."""
    write_wav(tmp_path / "ramp.wav", np.linspace(-0.5, 0.5, SAMPLE_RATE, dtype=np.float32))
    return Workload(str(tmp_path / "ramp.wav"), make=hungry)


def test_every_pass_has_a_process_of_its_own(workload: Workload) -> None:
    first, second = (in_fresh_process(process_id, workload) for _ in range(2))
    assert len({first, second, os.getpid()}) == 3


def test_a_pass_that_was_killed_is_an_error_that_names_it(workload: Workload) -> None:
    with pytest.raises(WhisperlabError, match="pass was killed"):
        in_fresh_process(die, workload)


def test_what_a_pass_raises_comes_back_whole(workload: Workload) -> None:
    broken = Workload(workload.audio, {"failure": "asked for the moon"}, make=hungry)
    with pytest.raises(ConfigurationError, match="asked for the moon"):
        in_fresh_process(latency.measure, broken)
    with pytest.raises(AudioFormatError, match="no such file"):
        in_fresh_process(latency.measure, Workload("none.wav", make=hungry))


def test_the_whole_recording_is_fed_or_only_its_beginning(workload: Workload) -> None:
    for seconds, n_chunks in ((None, 10), (0.25, 3)):
        asked = Workload(workload.audio, make=hungry, seconds=seconds)
        transcriber, audio = asked.load()
        asked.feed(transcriber, audio)
        assert len(transcriber.heard) == n_chunks  # type: ignore[attr-defined]


def test_resident_memory_shows_what_streaming_added(workload: Workload) -> None:
    record = in_fresh_process(memory.measure, workload)
    assert HELD * MIB <= record.grown < 2 * HELD * MIB
    assert record.start <= record.loaded < record.peak
    assert "MiB above loaded" in record.describe()


def test_the_parents_peak_is_not_inherited(workload: Workload) -> None:
    ballast = np.ones(4 * HELD * MIB, np.uint8)
    record = in_fresh_process(memory.measure, workload)
    assert record.grown < ballast.nbytes


def test_python_memory_counts_numpy_and_is_labelled_as_without_torch(workload: Workload) -> None:
    record = in_fresh_process(python_memory.measure, workload)
    assert record.peak >= record.current >= HELD * MIB
    assert record.top[0].bytes >= HELD * MIB
    assert record.top[0].place.startswith("tests/test_profiling.py:")
    assert "without torch" in record.describe()


def test_the_profile_lists_functions_by_cumulative_time(workload: Workload) -> None:
    record = in_fresh_process(cpu.measure, workload)
    times = [function.cumulative_s for function in record.top]
    assert times == sorted(times, reverse=True)
    assert len(record.top) <= cpu.TOP
    busy = next(function for function in record.top if function.name.endswith(" busy"))
    assert busy.calls == 10
    assert busy.name in record.describe()


def test_the_totals_of_the_profile_are_those_of_pstats() -> None:
    profiler = cProfile.Profile()
    profiler.runcall(sorted, range(1000), key=lambda number: -number)
    stats = pstats.Stats(profiler)
    assert cpu.from_stats(stats).total_s == stats.total_tt  # type: ignore[attr-defined]


def test_latency_is_what_the_transcribers_own_timers_say(workload: Workload) -> None:
    record = in_fresh_process(latency.measure, workload)
    assert record.duration_s == 1.0
    assert record.compute_s > 0
    assert record.operations["chunk.total"]["count"] == 10
    assert "chunk.total" in record.describe()


def test_only_linux_can_say_how_much_is_resident() -> None:
    status = memory.status()
    assert 0 < status["VmRSS"] <= status["VmHWM"]

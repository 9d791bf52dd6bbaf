"""Each profiler runs as a pass in a fresh process and reports its figures in plain units."""

from __future__ import annotations

import cProfile
import gzip
import json
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperlab.data.audio_files import write_wav
from whisperlab.profiling import passes
from whisperlab.profiling.workload import Workload, in_fresh_process
from whisperlab.report.profile import as_text
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.errors import AudioFormatError, ConfigurationError, WhisperlabError
from whisperlab.util.line_profile import MARKED
from whisperlab.util.process import process_memory
from whisperlab.util.timeline import SAMPLE_RATE

MIB = 2**20
HELD = 64  # MiB the hungry transcriber keeps while streaming


class HungryTranscriber:
    """Allocates 64 MiB with the first chunk and sorts with every chunk; fails on request."""

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
    """A pass that returns its process id and checks that torch was not loaded before it."""
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


def test_errors_of_a_pass_are_raised_in_the_caller(workload: Workload) -> None:
    broken = Workload(workload.audio, {"failure": "asked for the moon"}, make=hungry)
    with pytest.raises(ConfigurationError, match="asked for the moon"):
        in_fresh_process(passes.latency, broken)
    with pytest.raises(AudioFormatError, match="no such file"):
        in_fresh_process(passes.latency, Workload("none.wav", make=hungry))


def test_the_complete_recording_is_fed_or_only_its_beginning(workload: Workload) -> None:
    for seconds, n_chunks in ((None, 10), (0.25, 3)):
        asked = Workload(workload.audio, make=hungry, seconds=seconds)
        transcriber, audio = asked.load()
        asked.feed(transcriber, audio)
        assert len(transcriber.heard) == n_chunks  # type: ignore[attr-defined]


def test_resident_memory_shows_what_streaming_added_and_not_the_parents_peak(workload: Workload) -> None:
    ballast = np.ones(4 * HELD * MIB, np.uint8)
    record = in_fresh_process(passes.memory, workload)
    assert HELD * MIB <= record.peak - record.loaded < 2 * HELD * MIB < ballast.nbytes
    assert record.start <= record.loaded < record.peak
    assert "with the model" in as_text("memory", record)


def test_python_memory_counts_numpy_and_is_labelled_as_without_torch(workload: Workload) -> None:
    record = in_fresh_process(passes.python_memory, workload)
    assert record.peak >= record.current >= HELD * MIB
    assert record.top[0].bytes >= HELD * MIB
    assert record.top[0].place.startswith("profiling/test_profiling.py:")
    assert "tracemalloc" in as_text("python_memory", record)


def test_the_profile_lists_functions_by_cumulative_time(workload: Workload) -> None:
    record = in_fresh_process(passes.calls, workload)
    times = [function.cumulative_s for function in record.top]
    assert times == sorted(times, reverse=True)
    assert len(record.top) <= passes.TOP
    busy = next(function for function in record.top if function.name.endswith(" busy"))
    assert busy.calls == 10
    assert busy.name in as_text("calls", record)


def test_the_totals_of_the_profile_are_those_of_pstats() -> None:
    profiler = cProfile.Profile()
    profiler.runcall(sorted, range(1000), key=lambda number: -number)
    stats = pstats.Stats(profiler)
    assert passes.calls_from_stats(stats).total_s == stats.total_tt  # type: ignore[attr-defined]


# --- planted faults, found by name --------------------------------------------------------------------


class LeakyTranscriber(HungryTranscriber):
    """Keeps a copy of every chunk, and dawdles in one line."""

    def __init__(self) -> None:
        super().__init__()
        self.held = b""
        self.hoard: list[np.ndarray] = []

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        self.hoard.append(np.repeat(chunk, 50))  # planted leak
        for _ in range(3):
            time.sleep(0.002)  # planted slow line
        return ProcessResult("", "", None)


LEAK = next(
    number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if "# planted leak" in line
)


@pytest.fixture
def leaky(workload: Workload) -> Workload:
    return Workload(workload.audio, make=LeakyTranscriber, functions=(f"{__name__}:LeakyTranscriber.process",))


def test_a_planted_leak_is_found_by_name_in_both_memory_reports(leaky: Workload) -> None:
    """numpy makes the array in its own code, so memray names numpy's line and the stack leads here."""
    grown = in_fresh_process(passes.python_memory, leaky).grown
    assert any(line.place == f"profiling/test_profiling.py:{LEAK}" for line in grown[:2]), grown
    record = in_fresh_process(passes.heap, leaky)
    assert "LeakyTranscriber" in record.page or "process" in record.page
    chunk_bytes = SAMPLE_RATE * 50 * 4
    assert any(site.bytes >= 0.9 * chunk_bytes for site in record.kept[:3]), record.kept[:3]
    assert record.peak >= chunk_bytes


def test_a_planted_slow_line_is_found_by_name(leaky: Workload) -> None:
    (function,) = in_fresh_process(passes.lines, leaky).functions
    assert function.name == "LeakyTranscriber.process"
    assert "# planted slow line" in function.slowest.code
    assert function.slowest.share > 0.5
    assert function.slowest.hits == 30


def test_the_tree_of_calls_shows_who_took_the_time(leaky: Workload) -> None:
    record = in_fresh_process(passes.cpu, leaky)
    assert "LeakyTranscriber.process" in record.tree
    assert record.samples > 10
    assert "<script" in record.page


def test_an_unknown_function_is_refused() -> None:
    for name in (
        "whisperlab.streaming.vad:Nothing.here",
        "no.such.module:f",
        "whisperlab.streaming.vad:SAMPLE_RATE",
        "whisperlab",
    ):
        with pytest.raises(ConfigurationError, match="function"):
            passes.lines(Workload("refused before anything is loaded", make=hungry, functions=(name,)))


class TorchTranscriber(HungryTranscriber):
    """Multiplies matrices with torch."""

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        import torch

        torch.ones(300, 300) @ torch.ones(300, 300)
        return ProcessResult("", "", None)


def test_torchs_operators_are_listed_and_their_course_is_chromes(workload: Workload) -> None:
    record = in_fresh_process(passes.ops, Workload(workload.audio, make=TorchTranscriber))
    by_name = {operator.name: operator for operator in record.top}
    assert by_name["aten::mm"].calls == 10
    assert record.own_s >= by_name["aten::mm"].own_s > 0
    events = json.loads(gzip.decompress(record.trace))["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 10


# --- what an object holds -----------------------------------------------------------------------------


def test_what_is_owned_is_counted_once_and_by_attribute() -> None:
    import torch

    shared = torch.zeros(100_000)

    class Inner:
        __slots__ = ("__hidden", "weights")

        def __init__(self) -> None:
            self.weights = [shared[:10], np.zeros(200_000, np.int8)]
            self.__hidden = torch.zeros(50_000)

    class Holder:
        def __init__(self) -> None:
            self._inner = Inner()
            self.again = shared.view(10, -1)
            self.name = "no bytes"
            self.small = np.zeros(10, np.int8)

    assert passes.owned(Holder()) == {"inner": 400_000 + 200_000 + 200_000, "the rest": 10}


@pytest.mark.model
def test_what_our_transcriber_owns_is_its_weights_and_its_buffers() -> None:
    from whisperlab import SessionRestartTranscriber
    from whisperlab.model.linear import ENCODERS, check_precision, has_bf16

    transcriber = SessionRestartTranscriber(languages=["en", "es"])
    held = passes.owned(passes.transcriber_parts(transcriber))
    assert held["vad_audio_buffer"] == 60 * SAMPLE_RATE * 4
    encoder = held["encoder"]
    # In int8 the convolutions (0.9 million weights) and the positions (0.8) stay in float32.
    eight_bits = 18.4e6 + 3 * 1.7e6
    expected = 2 * 18.4e6 if has_bf16(torch_device()) else eight_bits
    assert expected < encoder < 1.15 * expected
    of_text, of_language = (check_precision(None, torch_device(), part) for part in ENCODERS)
    if of_text != of_language:
        assert eight_bits < held["language_id_encoder"] < 1.15 * eight_bits


def torch_device() -> Any:
    import torch

    return torch.device("cpu")


# --- as a program ------------------------------------------------------------------------------------


PROGRAM = """
from whisperlab.util.line_profile import line_profiled

@line_profiled
def extend():
    pass

print("extend is", type(extend).__name__, getattr(extend, "__wrapped__", None) is not None)
"""


def test_the_extension_of_texts_is_marked() -> None:
    from whisperlab.model.text_decoder import TextDecoder

    assert TextDecoder.extend in MARKED


@pytest.mark.parametrize(
    "command,environment,marked",
    [
        ([sys.executable], {}, False),
        ([sys.executable], {"LINE_PROFILE": "1"}, True),
        ([sys.executable, "-m", "kernprof", "-l", "-v"], {}, True),
    ],
    ids=["plain", "LINE_PROFILE", "kernprof"],
)
def test_marked_functions_are_profiled_on_request(
    tmp_path: Path, command: list[str], environment: dict[str, str], marked: bool
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [*command, "program.py"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"extend is function {marked}" in done.stdout, done.stdout


def test_latency_is_that_of_the_transcribers_timers(workload: Workload) -> None:
    record = in_fresh_process(passes.latency, workload)
    assert record.duration_s == 1.0
    assert record.compute_s > 0
    assert record.operations["chunk.total"]["count"] == 10
    assert "chunk.total" in as_text("latency", record)


def test_only_linux_can_say_how_much_is_resident() -> None:
    status = process_memory()
    assert 0 < status["VmRSS"] <= status["VmHWM"]

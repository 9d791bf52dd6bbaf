"""The soak: plan and sounds repeat to the sample, and growth and slowing are detected. The transcriber shows neither.

A transcriber with stand-ins for the networks and the detector streams hours in a minute. Buffers, cache, gate,
smoothing, sessions and timers are real.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from extent import in_short_and_at_length

from benchmarks.soak import __main__ as program
from benchmarks.soak import gauges
from benchmarks.soak.findings import Log, findings, read_log
from benchmarks.soak.page import conclusions, from_log, warnings, write_soak
from benchmarks.soak.plan import BLOCK_TILES, KINDS, LONG, TILE, Piece, Plan
from benchmarks.soak.sounds import Sounds, clips
from benchmarks.soak.stream import StageTimes, reference_process, soak
from whisperlab import SessionRestartTranscriber, data
from whisperlab.model.encoder import Encoded, positions
from whisperlab.model.weights import Weights
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import Hypothesis, Word
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, TraceError
from whisperlab.util.process import trim_heap
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, seconds

if TYPE_CHECKING:
    from conftest import Scene

SHORT, LONGER = Plan(1 / 15), Plan(0.15)
LANGUAGES = ["en", "es", "fr"]
FEATURES = 16


class StandInEncoder:
    """Encodes a window as the rate of its sign changes; costs almost nothing."""

    precision, compiled, pools, device = "fp32", False, True, torch.device("cpu")

    def __init__(self) -> None:
        self.reset_counts()

    def with_own_counts(self) -> StandInEncoder:
        return StandInEncoder()

    def check_pooling(self, pool_after: int | None) -> None:
        pass

    def reset_counts(self) -> None:
        self.calls = self.encoded_samples = 0

    def encode_batch(self, windows: Sequence[FloatArray], margin: int, pool_after: Any = None) -> list[Encoded]:
        self.calls += len(windows)
        self.encoded_samples += sum(len(window) + margin for window in windows)
        return [self._encoded(window) for window in windows]

    def encode(self, audio: FloatArray, margin: int, pool_after: Any = None) -> Encoded:
        return self.encode_batch([audio], margin, pool_after)[0]

    def _encoded(self, window: FloatArray) -> Encoded:
        crossings = float(np.mean(np.signbit(window[1:]) != np.signbit(window[:-1])))
        n = positions(len(window))
        return Encoded(torch.full((n, FEATURES), crossings), n)


class StandInStack:
    """A text decoder without a network."""

    device, precision, n_vocabulary, max_tokens = torch.device("cpu"), "fp32", 51865, 448

    def first_token_pass(self, features: torch.Tensor, token: int) -> torch.Tensor:
        return features[:1]

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, len(rows))  # all languages have the same probability


class StandInIdentifier:
    """Confident of a language for every range of the encoder's values."""

    languages = tuple(LANGUAGES)

    def __init__(self, work: Work) -> None:
        self._work = work

    def posterior(self, features: torch.Tensor) -> np.ndarray[Any, Any]:
        self._work.identify()
        found = np.full(len(LANGUAGES), 0.02)
        found[int(float(features[0, 0]) * 40) % len(LANGUAGES)] = 1 - 0.02 * (len(LANGUAGES) - 1)
        return found


class StandInDecoder:
    """A word per half second of speech."""

    def __init__(self, encoder: StandInEncoder) -> None:
        self._encoder = encoder
        self.reset()

    def reset(self) -> None:
        self.redecodes = self.shared = 0

    def encoded(self, audio: FloatArray, offset: int, margin_s: float = 1.0) -> Encoded:
        return self._encoder.encode(audio, round(margin_s * SAMPLE_RATE))

    def likelihoods(self, audio: FloatArray, offset: int, languages: Sequence[str]) -> list[float]:
        return [-0.1 * (1 + place) for place, _ in enumerate(languages)]

    def decode(
        self, audio: FloatArray, offset: int, language: str, prefix: Sequence[Word] = (), *_: Any, **__: Any
    ) -> Hypothesis:
        step = SAMPLE_RATE // 2
        begin = prefix[-1].end if prefix else offset
        starts = range(begin, offset + len(audio) - step, step)
        new = [Word(f" {language}{at % 97}", (at % 97,), at, at + step, -0.1) for at in starts]
        return Hypothesis((*prefix, *new))


class LoudnessDetector:
    """Loud frames are speech."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def reset(self) -> None:
        pass

    def __call__(self, frame: FloatArray) -> float:
        self._work.done_ns += 10_000
        return 0.9 if float(np.square(frame).mean()) > 1e-5 else 0.1


class Work:
    """A clock that advances only with work, so that the same work takes the same time.

    With ``slowing`` language-ID takes longer and longer: a tenth more at the end of nine minutes.
    """

    def __init__(self, slowing: bool = False) -> None:
        self.done_ns = 0
        self.slowing = slowing
        self.fed = lambda: 0  # samples of the stream

    def __call__(self) -> int:
        self.done_ns += 1000
        return self.done_ns

    def identify(self) -> None:
        more = 100_000 * self.fed() // round(LONGER.duration_s * SAMPLE_RATE)
        self.done_ns += 1_000_000 + more * self.slowing


def stand_in(
    work: Work | None = None, kind: type[SessionRestartTranscriber] = SessionRestartTranscriber
) -> SessionRestartTranscriber:
    """A transcriber without networks; with ``work`` its stages are timed by that clock."""
    counted = work or Work()
    weights = Weights("stand-in", {"n_vocab": 51865}, {}, torch.zeros(0), torch.device("cpu"))
    parts = Parts(
        engine=lambda *_: (StandInEncoder(), StandInStack()),
        metrics=lambda *_: StageTimes(work) if work else StageTimes(),
        voice_detector=lambda: LoudnessDetector(counted),
        identifier=lambda *_, **__: StandInIdentifier(counted),
        decoder=lambda encoder, *_, **__: StandInDecoder(encoder),
    )
    transcriber = kind(weights, languages=LANGUAGES, parts=parts)
    counted.fed = lambda: transcriber.vad_audio_buffer.end
    return transcriber


class Leaking(SessionRestartTranscriber):
    """Keeps every result and some memory with it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.everything: list[Any] = []
        super().__init__(*args, **options)

    def process(self, chunk: Any) -> ProcessResult:
        result = super().process(chunk)
        self.everything.append((result, np.ones(2500)))  # 20 KB per chunk: 0.7 GB per hour
        return result


@pytest.fixture(scope="module")
def sounds() -> Sounds:
    return Sounds(clips(data.load("ivr-five", "dev")[:6]))


def logged(transcriber: SessionRestartTranscriber, sounds: Sounds, folder: Path, plan: Plan = SHORT) -> Path:
    log = folder / "soak.jsonl"
    gc.collect()  # what earlier tests left would be freed during the stream, and hide what grows
    trim_heap()
    assert soak(transcriber, plan, sounds, log)
    return log


@pytest.fixture(scope="module")
def short_and_trims(sounds: Sounds, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The log of some minutes, timed by the clock of work; and the samples heard whenever memory was given back."""
    transcriber, given = stand_in(Work()), []

    def trim() -> None:
        given.append(transcriber.vad_audio_buffer.end)
        trim_heap()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whisperlab.streaming.stream.trim_heap", trim)
        return logged(transcriber, sounds, tmp_path_factory.mktemp("short")), given


@pytest.fixture
def short(short_and_trims: tuple[Path, list[int]]) -> Path:
    return short_and_trims[0]


def windows(plan: Plan, sounds: Sounds) -> dict[str, bytes]:
    """Digests of the samples of both windows."""
    found = {"first": hashlib.sha256(), "last": hashlib.sha256()}
    for piece in plan.pieces():
        if piece.part in found:
            for tile in sounds.tiles(piece):
                found[piece.part].update(tile.tobytes())
    return {part: made.digest() for part, made in found.items()}


# ---- plan and sounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1 / 15, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_follow_each_other_and_fill_the_plan(hours: float, seed: int) -> None:
    plan = Plan(hours, seed)
    pieces = list(plan.pieces())
    starts = np.cumsum([0, *(piece.n_tiles for piece in pieces)])
    assert [piece.start for piece in pieces] == starts[:-1].tolist()
    assert starts[-1] == plan.n_tiles
    assert plan.duration_s <= hours * 3600 < plan.duration_s + seconds(BLOCK_TILES * TILE)


def test_the_last_window_is_the_first_again_at_the_same_phase_of_every_clock(sounds: Sounds) -> None:
    plan = Plan(0.2)
    made = windows(plan, sounds)
    assert made["first"] == made["last"] != windows(Plan(0.2, seed=1), sounds)["first"]
    begins = {p: next(piece.start for piece in plan.pieces() if piece.part == p) for p in ("first", "last")}
    assert all(begin % BLOCK_TILES == 0 for begin in begins.values())
    assert all(TILE % step == 0 for step in (VAD_FRAME, SAMPLE_RATE // 10, SAMPLE_RATE))


def test_warm_up_and_windows_of_a_long_soak_have_every_kind_of_sound_and_its_middle_has_the_long_ones() -> None:
    pieces = list(Plan(3.0).pieces())
    for part in ("warm-up", "first", "last"):
        assert {piece.kind for piece in pieces if piece.part == part} == set(KINDS)
    longest = {kind: max(p.n_tiles for p in pieces if p.kind == kind) for kind in LONG}
    assert longest == LONG


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_repeats_to_the_sample_and_is_audio(sounds: Sounds, kind: str) -> None:
    once, again, other = (np.concatenate(list(sounds.tiles(Piece("between", kind, 0, 3, seed)))) for seed in (5, 5, 6))
    assert once.dtype == np.float32
    assert once.shape == (3 * TILE,)
    assert abs(once).max() <= 1
    assert np.array_equal(once, again)
    assert np.array_equal(once, other) == (kind == "digital zero")


def test_sounds_are_what_their_names_say(sounds: Sounds) -> None:
    def loudness(kind: str) -> FloatArray:
        audio = np.concatenate(list(sounds.tiles(Piece("between", kind, 0, 6, 3))))
        return np.sqrt(np.square(audio).reshape(-1, SAMPLE_RATE // 5).mean(1))

    assert not loudness("digital zero").any()
    assert 0 < loudness("quiet room").max() < 1e-3
    assert loudness("monologue").min() > 0.01 > loudness("speech").min()
    clipped = np.concatenate(list(sounds.tiles(Piece("between", "clipping", 0, 6, 3))))
    assert (abs(clipped) == 1).mean() > 0.01
    steps = np.concatenate(list(sounds.tiles(Piece("between", "DC steps", 0, 6, 3))))
    assert abs(steps.reshape(-1, SAMPLE_RATE // 2).mean(1)).max() > 0.1


def test_making_sounds_holds_no_more_after_minutes_than_after_one(sounds: Sounds) -> None:
    tracemalloc.start()
    for piece in list(SHORT.pieces())[:40]:
        for _ in sounds.tiles(piece):
            pass
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**20
    assert peak < 2**24


def test_a_soak_in_one_language_or_of_no_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two languages or more, got en"):
        Sounds(clips(data.load("ivr-en", "dev")[:1]))
    with pytest.raises(ConfigurationError, match=r"got 0\.01"):
        Plan(0.01)


# ---- gauges ------------------------------------------------------------------------------------


def taking(n: int) -> tuple[dict[str, int], dict[str, int]]:
    """Memory and files before and after taking n bytes and opening a file."""
    before = gauges.memory()
    taken = bytearray(b"x") * n
    with open("/dev/null", "rb"):
        after = gauges.memory()
    assert len(taken) == n
    return before, after


def holed_heap(n: int) -> tuple[dict[str, int], dict[str, int]]:
    """Memory before and after giving back what was freed between n blocks that stay."""
    large, stay = zip(*((bytearray(b"x") * 100_000, bytearray(b"x") * 30_000) for _ in range(n)), strict=True)
    del large  # blocks below 128 KiB lie in the heap of a young process; glibc maps greater ones
    before = gauges.memory()
    trim_heap()
    assert len(stay) == n
    return before, gauges.memory()


BeforeAndAfter = tuple[dict[str, int], dict[str, int]]


def given_back_and_taken(sizes: tuple[int, int]) -> tuple[BeforeAndAfter, BeforeAndAfter]:
    n_blocks, n_bytes = sizes
    return holed_heap(n_blocks), taking(n_bytes)


@pytest.fixture(scope="module")
def young() -> tuple[BeforeAndAfter, BeforeAndAfter]:
    """Memory of a fresh process that gave something back and then took something: an old one may have much to spare."""
    return in_fresh_process(given_back_and_taken, (500, 2**25))


def test_gauges_of_memory_see_what_is_taken(young: tuple[BeforeAndAfter, BeforeAndAfter]) -> None:
    _, (before, after) = young
    for name in ("resident", "anonymous", "dirty", "heap"):
        assert after[name] - before[name] > 2**25 / 2
    assert after["files"] == before["files"] + 1


def test_freed_memory_between_blocks_that_stay_is_given_back(young: tuple[BeforeAndAfter, BeforeAndAfter]) -> None:
    (before, after), _ = young
    assert after["resident"] < before["resident"] - 25_000_000
    assert after["heap"] == pytest.approx(before["heap"], abs=1_000_000)


def test_every_collection_below_an_object_is_counted_with_its_limit() -> None:
    inner = SimpleNamespace(texts=["a", "bcd"], samples=np.zeros(3, np.float32), tensor=torch.zeros(5))
    holder = SimpleNamespace(queue=deque([1, 2], maxlen=7), by_name={"x": [1, 2, 3], "y": [4]}, inner=inner)
    inner.round_about = holder
    assert gauges.containers(holder) == {
        "queue": (2, 7),
        "by_name": (2, None),
        "by_name[]": (4, None),
        "inner.texts": (2, None),
        "inner.texts[]": (4, None),
        "inner.samples": (12, None),
        "inner.tensor": (20, None),
    }


def test_stages_are_timed_by_two_clocks_at_once() -> None:
    times = StageTimes(processor=partial(next, itertools.count(0, 3_000_000)))
    with times.measure("outer"), times.measure("inner"):
        assert times.measure("inner")(lambda: 5)() == 5
    taken = times.drain()
    assert taken["outer"][0] == [15.0]
    assert taken["inner"][0] == [3.0, 9.0]
    assert all(len(wall) == len(cpu) and min(wall) > 0 for cpu, wall in taken.values())
    assert times.get_statistics()["inner"]["count"] == 2
    assert times.drain() == {}


@pytest.mark.model
def test_a_reference_process_measures_its_piece_of_work(scene: Scene) -> None:
    with reference_process("base", scene.audio, "en") as measure:
        took = [measure() for _ in range(3)]
    assert all(ms is not None and ms > 0 for ms in took)


# ---- findings ---------------------------------------------------------------------------------------


@in_short_and_at_length("hours", 0.1, 3.0)
def test_nothing_grows_with_the_stream(sounds: Sounds, tmp_path: Path, hours: float) -> None:
    transcriber = stand_in()
    found = findings(read_log(logged(transcriber, sounds, tmp_path, Plan(hours))))
    assert transcriber.get_statistics()["sessions"]["switches"] > 100 * hours
    assert [held for held in found.held if not held.within] == []
    limited = {held.name for held in found.held if held.limit}
    assert "vad buffer, samples" in limited
    assert any(name.endswith("gate._recent") for name in limited)
    assert found.memory_holds is not False
    assert all(first == last for first, last in found.work.values())


def test_a_stream_gives_memory_back_every_ten_seconds(short_and_trims: tuple[Path, list[int]]) -> None:
    _, given = short_and_trims
    assert len(given) == SHORT.duration_s // 10
    apart = [later - earlier for earlier, later in itertools.pairwise([0, *given])]
    assert all(10 * SAMPLE_RATE <= samples < 10 * SAMPLE_RATE + 1600 for samples in apart)


def test_a_leak_is_found_and_named(sounds: Sounds, tmp_path: Path) -> None:
    log = read_log(logged(stand_in(kind=Leaking), sounds, tmp_path))
    found = findings(log)
    assert found.memory_holds is False
    assert {"everything", "everything[][]"} <= {held.name for held in found.held if held.grows}
    assert not found.bounded
    assert any("everything grows" in warning for warning in warnings(log, found))
    assert any("MB per hour or MORE" in warning for warning in warnings(log, found))


def test_the_same_work_is_called_equal(short: Path) -> None:
    found = findings(read_log(short))
    assert found.latency_holds
    assert {change.call for change in found.changes} == {"equal"}


@pytest.fixture(scope="module")
def slowing(sounds: Sounds, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A stream that gets slower, and a reference process that does so too."""
    transcriber, log = stand_in(Work(slowing=True)), tmp_path_factory.mktemp("slowing") / "soak.jsonl"

    @contextmanager
    def reference() -> Iterator[Any]:
        yield lambda: 10 * (1 + 0.1 * seconds(transcriber.vad_audio_buffer.end) / LONGER.duration_s)

    assert soak(transcriber, LONGER, sounds, log, reference=reference)
    return read_log(log)


def test_a_stream_that_gets_slower_is_found(slowing: Log) -> None:
    log = replace(slowing, samples=tuple({**sample, "yardstick_ms": None} for sample in slowing.samples))
    found = findings(log)
    assert found.latency_holds is False
    calls = {stage.measure: stage.conclusion for stage in found.stages}
    assert calls["lid.total"] == "difference"
    assert calls["vad.detect"] == "no difference"
    assert any("slower" in line.casefold() for line in conclusions(log, found))


def test_a_machine_that_gets_slower_is_not_held_against_the_stream(slowing: Log) -> None:
    found = findings(slowing)
    assert found.machine is not None
    assert found.machine.call == "slower"
    assert all(change.uncorrected > change.ratio for change in found.changes if change.measure == "p99")
    assert "slower" not in {change.call for change in found.changes}


# ---- logs and pages --------------------------------------------------------------------------------------


def test_a_log_cut_anywhere_is_judged_as_far_as_it_goes(short: Path, tmp_path: Path) -> None:
    whole = short.read_bytes()
    cut = tmp_path / "soak.jsonl"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    log = read_log(cut)
    assert 0 < log.fed_s < read_log(short).fed_s
    assert not log.whole
    assert findings(log).resident.n > 1
    assert "incomplete" in next(iter(warnings(log, findings(log))))


def test_what_is_no_log_is_refused_with_its_line(short: Path, tmp_path: Path) -> None:
    lines = short.read_text().splitlines(keepends=True)
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ("", "not the log of a soak"),
        ("".join([*lines[:3], "{\n", *lines[3:]]), "bad.jsonl:4: not JSON"),
        ("".join([*lines[:3], "[]\n"]), "bad.jsonl:4: not a line"),
        (lines[0].replace('"schema": 1', '"schema": 99'), "schema 99"),
    ):
        bad.write_text(text)
        with pytest.raises(TraceError, match=message):
            read_log(bad)
    bad.write_text(lines[0])
    with pytest.raises(TraceError, match="too short: 0 s of audio"):
        findings(read_log(bad))


def test_the_page_and_its_json_say_the_same_and_need_nothing_else(short: Path, tmp_path: Path) -> None:
    page, document = write_soak(from_log(short, "whisperlab <soak>"), tmp_path / "soak.html")
    text = page.read_text()
    assert not re.search(r"(src|href)=[\"']?https?://", text)
    assert "whisperlab &lt;soak&gt;" in text
    assert text.count("<svg") == 4
    read = json.loads(document.read_text())
    assert read["found"]["latency_holds"] is True
    assert read["whole"]
    assert "raw" not in read["samples"][-1]
    assert len(read["samples"]) == len(read_log(short).samples)


def test_an_existing_log_is_reported_without_a_run(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = shutil.copy(short, tmp_path / "soak.jsonl")
    monkeypatch.setattr(sys, "argv", ["soak", "--log", str(log)])
    assert program.main() == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'soak.html'}\n{tmp_path / 'soak.json'}\n")
    assert (tmp_path / "index.html").exists()


class Interrupted(SessionRestartTranscriber):
    """Hears the beginning of the first window; then somebody presses Ctrl-C."""

    def process(self, chunk: Any) -> ProcessResult:
        if self.vad_audio_buffer.end > 60 * SAMPLE_RATE:
            raise KeyboardInterrupt
        return super().process(chunk)


def check_the_report_of_an_interrupted_soak(out: Path) -> None:
    read = json.loads((out / "soak.json").read_text())
    assert read["whole"] is False
    assert read["heard_s"] >= 56
    assert (out / "index.html").exists()
    assert all(held["within"] for held in read["found"]["held"])


def test_an_interrupted_soak_reports_what_it_measured(
    sounds: Sounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SessionRestartTranscriber", lambda *_, **__: stand_in(Work(), Interrupted))
    monkeypatch.setattr(program, "Sounds", lambda speech: sounds)
    monkeypatch.setattr(program, "reference_process", lambda *_: nullcontext(lambda: None))
    monkeypatch.setattr(sys, "argv", ["soak", "--hours", "0.0667", "--out", str(tmp_path)])
    assert program.main() == 130
    check_the_report_of_an_interrupted_soak(tmp_path)


@pytest.mark.model
@pytest.mark.slow
def test_a_soak_of_the_real_networks_interrupted_from_outside_reports_what_it_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--hours", "0.0667", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    log = tmp_path / "soak.jsonl"
    while process.poll() is None and not (log.exists() and len(read_log(log).steady) >= 2):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, noise = process.communicate()
    assert process.returncode == 130, noise
    assert "Traceback" not in noise
    check_the_report_of_an_interrupted_soak(tmp_path)

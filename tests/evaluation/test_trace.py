"""A trace returns the recorded events on two clocks, and incomplete or damaged files raise errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace, capture, provenance, read_trace, write_trace
from whisperlab.streaming.results import LanguageFlag, LanguageFrame, ProcessResult, SessionSegment, Switch
from whisperlab.util import process as provenance_module
from whisperlab.util.audio_arrays import FloatArray, audio_digest
from whisperlab.util.errors import ConfigurationError, TraceError
from whisperlab.util.timeline import SAMPLE_RATE, Span

AUDIO = np.linspace(-0.5, 0.5, SAMPLE_RATE // 4, dtype=np.float32)  # 0.25 s: two whole chunks and a half
FRAME = LanguageFrame(1600, 1600, 1024, {"en": 0.75, "es": 0.25}, "en", False)
SEGMENT = SessionSegment("hola señor", "es", 0.1, 0.2, True, 0.875)
SWITCH = Switch(0.1, "en", "es", 0.2)
RESULTS = (
    ProcessResult("", "he", "en", frames=(FRAME,), speech=(Span(0, 1600),)),
    ProcessResult("hello", "", "es", switches=(SWITCH,)),
    ProcessResult("", "", "es"),
)
LAST = ProcessResult("hola señor", "", "es", segments=(SEGMENT,))


@dataclass
class FakeClock:
    """Time that passes only by sleeping or working."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, duration_s: float) -> None:
        assert duration_s >= 0
        self.now += duration_s


@dataclass
class FakeTranscriber:
    """Hands out prepared results, each after ``work_s`` of work; refuses a chunk it was not prepared for."""

    clock: FakeClock
    work_s: float = 0.0
    statistics: dict[str, Any] = field(default_factory=lambda: {"lid": {"frames": 1}})
    heard: list[int] = field(default_factory=list)

    def process(self, chunk: np.ndarray) -> ProcessResult:
        self.clock.sleep(self.work_s)
        self.heard.append(len(chunk))
        return RESULTS[len(self.heard) - 1]

    def finalize(self) -> ProcessResult:
        assert len(self.heard) == len(RESULTS)
        self.clock.sleep(self.work_s)
        return LAST

    def get_statistics(self) -> dict[str, Any]:
        return self.statistics

    def config(self) -> dict[str, Any]:
        return {"model": "fake", "languages": ("en", "es")}


REFERENCE = Reference(
    "hello hola señor", (ReferenceSegment(0, 0.1, "en", "hello"), ReferenceSegment(0.1, 0.2, "es", "hola señor"))
)


def record(transcriber: Any, audio: FloatArray, path: Path, **options: Any) -> Trace:
    trace = capture(transcriber, audio, **options)
    write_trace(path, trace)
    return trace


def record_fake(path: Path, *, work_s: float = 0.0, **options: Any) -> Trace:
    clock = FakeClock()
    options = {"recording": "r1", "reference": REFERENCE, "clock": clock, "sleep": clock.sleep, **options}
    return record(FakeTranscriber(clock, work_s), AUDIO, path, **options)


def test_a_trace_read_back_is_the_trace_that_was_recorded(tmp_path: Path) -> None:
    recorded = record_fake(tmp_path / "new" / "r1.jsonl")
    assert read_trace(tmp_path / "new" / "r1.jsonl") == recorded


def test_a_trace_can_be_read_by_eye(tmp_path: Path) -> None:
    record_fake(tmp_path / "t")
    assert "señor" in (tmp_path / "t").read_text(encoding="utf-8")


def test_a_trace_gives_the_records_back(tmp_path: Path) -> None:
    trace = record_fake(tmp_path / "t")
    assert trace.segments == (SEGMENT,)
    assert trace.switches == (SWITCH,)
    assert trace.frames == (FRAME,)
    assert trace.speech == (Span(0, 1600),)
    assert trace.reference == REFERENCE
    assert (trace.recording, trace.duration) == ("r1", 0.25)
    assert trace.config == {"model": "fake", "languages": ["en", "es"]}
    assert trace.statistics == {"lid": {"frames": 1}}


def test_a_trace_without_reference_says_none(tmp_path: Path) -> None:
    assert record_fake(tmp_path / "t", reference=None).reference is None


def test_the_header_names_the_audio_and_where_it_was_run(tmp_path: Path) -> None:
    header = record_fake(tmp_path / "t", audio_path="a/r1.wav").header
    assert header["audio"] == {
        "path": "a/r1.wav",
        "sha256": audio_digest(AUDIO),
        "duration": 0.25,
        "sampling_rate": 16000,
    }
    assert header.keys() >= provenance().keys()


def test_events_carry_both_clocks_and_waiting_is_not_computing(tmp_path: Path) -> None:
    trace = record_fake(tmp_path / "t", work_s=0.02, pace="real")
    (switch,), (segment,) = trace.of_kind("switch"), trace.of_kind("segment")
    # The second chunk is complete at 0.2 s and takes 0.02 s; the last, short one is complete at 0.25 s.
    assert (switch["at"], switch["elapsed"]) == (0.2, pytest.approx(0.22))
    assert (segment["at"], segment["elapsed"]) == (0.25, pytest.approx(0.29))
    assert trace.compute_s == pytest.approx(4 * 0.02)
    assert trace.real_time_factor == pytest.approx(4 * 0.02 / 0.25)


def test_speed_is_told_in_processor_and_wall_time_with_threads_and_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = FakeClock()

    def clock() -> float:
        busy.sleep(0.005)
        return busy.now

    monkeypatch.setattr("time.process_time", clock)
    trace = record_fake(tmp_path / "t", work_s=0.02)
    assert trace.processor_s == pytest.approx(4 * 0.005)
    header = {**trace.header, "load_before": 0.2, "config": {"compute": {"threads": 1}}}
    told = "0.32 s per second of audio (0.08 s of processor time, 1 thread, load of the machine 0.2 before the run)"
    assert Trace(header, trace.events).speed == told


def test_a_trace_of_an_earlier_version_tells_wall_time_alone(tmp_path: Path) -> None:
    trace = record_fake(tmp_path / "t", work_s=0.02)
    header = {name: value for name, value in trace.header.items() if name != "load_before"}
    *events, end = trace.events
    end = {name: value for name, value in end.items() if name != "processor_s"}
    write_trace(tmp_path / "t", Trace(header, (*events, end)))
    old = read_trace(tmp_path / "t")
    assert (old.processor_s, old.speed) == (None, "0.32 s per second of audio")


@pytest.mark.parametrize("line, field", [(0, "load_before"), (-1, "processor_s")])
def test_an_optional_field_of_a_wrong_type_is_refused(tmp_path: Path, line: int, field: str) -> None:
    trace = record_fake(tmp_path / "t")
    lines = [trace.header, *trace.events]
    lines[line] = {**lines[line], field: "fast"}
    write_trace(tmp_path / "t", Trace(lines[0], tuple(lines[1:])))
    with pytest.raises(TraceError, match=field):
        read_trace(tmp_path / "t")


def test_a_stopped_stream_is_finalized_and_complete_up_to_there(tmp_path: Path) -> None:
    class Stopped(FakeTranscriber):
        def finalize(self) -> ProcessResult:
            return LAST

    clock, heard = FakeClock(), list[float]()
    options = {"recording": "r1", "clock": clock, "progress": heard.append, "stop": lambda: len(heard) == 1}
    trace = record(Stopped(clock, work_s=0.02), AUDIO, tmp_path / "t", **options)
    assert read_trace(tmp_path / "t") == trace
    assert (trace.segments, trace.heard_s, trace.duration) == ((SEGMENT,), 0.1, 0.25)
    assert trace.real_time_factor == pytest.approx(0.02 / 0.1)


def test_at_fast_pace_nothing_is_waited_for(tmp_path: Path) -> None:
    trace = record_fake(tmp_path / "t", work_s=0.02)
    assert trace.events[-1]["elapsed"] == pytest.approx(trace.compute_s)


def test_text_is_noted_only_when_it_changed(tmp_path: Path) -> None:
    texts = [(e["committed"], e["tentative"], e["language"]) for e in record_fake(tmp_path / "t").of_kind("text")]
    assert texts == [("", "he", "en"), ("hello", "", "es"), ("hola señor", "", "es")]


def test_progress_receives_the_seconds_of_audio_fed(tmp_path: Path) -> None:
    heard: list[float] = []
    record_fake(tmp_path / "t", progress=heard.append)
    assert heard == [0.1, 0.2, 0.25, 0.25]


def test_statistics_json_cannot_hold_become_plain(tmp_path: Path) -> None:
    clock = FakeClock()
    odd = {"rate": float("nan"), "n": np.int64(3), "p": np.float32(0.5), "key": Path("x"), 1: (True, None)}
    record(FakeTranscriber(clock, statistics=odd), AUDIO, tmp_path / "t", recording="r", clock=clock)
    plain = {"rate": None, "n": 3, "p": 0.5, "key": "x", "1": [True, None]}
    assert read_trace(tmp_path / "t").statistics == plain


def test_a_failed_write_keeps_the_trace_that_was_there(tmp_path: Path) -> None:
    kept = record_fake(tmp_path / "t")
    with pytest.raises(ValueError, match="JSON"):
        write_trace(tmp_path / "t", Trace(kept.header, ({"kind": "end", "at": float("nan")},)))
    assert read_trace(tmp_path / "t") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    "options, message",
    [({"chunk_ms": 0}, "chunk_ms"), ({"chunk_ms": -5}, "chunk_ms"), ({"pace": "slow"}, "fast, real, got 'slow'")],
)
def test_impossible_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        record_fake(tmp_path / "t", **options)


def test_empty_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="0 samples"):
        record(FakeTranscriber(FakeClock()), AUDIO[:0], tmp_path / "t", recording="r")


def drop_end(lines: list[str]) -> list[str]:
    return lines[:-1]


def cut_line(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2][:10]]


def drop_header(lines: list[str]) -> list[str]:
    return lines[1:]


def newer_schema(lines: list[str]) -> list[str]:
    return [lines[0].replace('"schema": 4', '"schema": 5'), *lines[1:]]


def two_runs(lines: list[str]) -> list[str]:
    return lines + lines


def two_headers(lines: list[str]) -> list[str]:
    return [lines[0], *lines]


def foreign_line(lines: list[str]) -> list[str]:
    return [*lines[:2], '{"kind": "note"}', *lines[2:]]


def list_line(lines: list[str]) -> list[str]:
    return [*lines[:2], "[1]", *lines[2:]]


def lost_field(lines: list[str]) -> list[str]:
    return [line.replace('"decided_at"', '"when"') for line in lines]


@pytest.mark.parametrize(
    "damage, message",
    [
        (drop_end, "not one complete trace"),
        (cut_line, ":3 is not JSON"),
        (drop_header, "first line is not a header"),
        (newer_schema, "trace schema 5; this version of whisperlab reads 4"),
        (two_runs, "not one complete trace"),
        (two_headers, "not one complete trace"),
        (foreign_line, ":3 is not a trace line"),
        (list_line, ":3 is not a trace line"),
        (lost_field, "a switch line without decided_at"),
        (lambda lines: [], "first line is not a header"),
    ],
)
def test_an_incomplete_trace_is_refused(tmp_path: Path, damage: Callable[[list[str]], list[str]], message: str) -> None:
    path = tmp_path / "t.jsonl"
    record_fake(path)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(TraceError, match=message):
        read_trace(path)


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("header", {"schema": "2"}, "whose schema should be a whole number"),
        ("header", {"audio": {"duration": 0}}, "whose audio should be an object with a duration above 0"),
        ("header", {"audio": {"duration": 1, "path": 7}}, "whose audio should be"),
        ("header", {"audio": {"duration": 1, "offset": "x"}}, "whose audio should be"),
        ("header", {"machine": 5}, "whose machine should be an object or null"),
        ("header", {"versions": [1]}, "whose versions should be an object or null"),
        ("header", {"pace": ["fast"]}, "whose pace should be fast or real"),
        ("header", {"reference": {"segments": 7}}, "a reference needs segments"),
        ("header", {"reference": {"segments": [], "text": 7}}, "a reference needs its text as a string"),
        ("frame", {"end": "0.1"}, "whose end should be seconds"),
        ("frame", {"window": 1e300}, "whose window should be seconds"),
        ("frame", {"posterior": {"en": "1"}}, "whose posterior should be the probability of each language"),
        ("frame", {"onset": {"window": 1}}, "whose onset should be null or"),
        ("frame", {"label": {}}, "whose label should be a string"),
        ("speech", {"start": 2.0, "end": 1.0}, "start should not be more than end, got 2.0 and 1.0"),
        ("segment", {"start_time": 2.0, "end_time": 1.0}, "start_time should not be more than end_time"),
        ("segment", {"confidence": None}, "whose confidence should be a number"),
        ("text", {"committed": None}, "whose committed should be a string"),
        ("end", {"compute_s": "1"}, "whose compute_s should be seconds"),
        ("end", {"service_s": [None]}, "whose service_s should be a list of seconds"),
        ("end", {"service_s": [1e308]}, "whose service_s should be a list of seconds"),
        ("end", {"elapsed": 1e308}, "whose elapsed should be seconds"),
        ("end", {"peak_rss_bytes": 2**64 - 1}, "whose peak_rss_bytes should be"),
        ("end", {"statistics": {"encoder_cache": {"hits": 2**60}}}, "whose statistics should be"),
        ("header", {"schema": 2}, ":1 has trace schema 2"),
        ("end", {"statistics": {"self_cost_ns": "1"}}, "whose statistics should be"),
        ("header", {"config": {"compute": {"threads": {}}}}, "whose config should be an object with cache.size"),
        ("header", {"config": {"cache": {"size": [1]}}}, "whose config should be an object with cache.size"),
        ("end", {"statistics": {"lid": [1]}}, "whose statistics should be"),
        ("end", {"statistics": {"performance": 7}}, "whose statistics should be"),
        ("end", {"statistics": {"performance": {"op": {"count": 1}}}}, "whose statistics should be"),
        ("end", {"statistics": {"encoder_cache": {"hits": "1"}}}, "whose statistics should be"),
        ("end", {"statistics": {"encoder_cache": {"shadow": [1]}}}, "whose statistics should be"),
    ],
)
def test_a_line_with_a_field_of_another_type_is_refused_with_its_place(
    tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    record_fake(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    place = next(n for n, line in enumerate(lines) if line["kind"] == kind)
    lines[place] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(TraceError, match=re.escape(message)) as refused:
        read_trace(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("damage", ["[" * 100_000, '{"kind": "text", "at": 1e999}', "1" * 5000, '{"kind": []}'])
def test_hostile_json_is_a_trace_error(tmp_path: Path, damage: str) -> None:
    record_fake(tmp_path / "t")
    with (tmp_path / "t").open("a") as file:
        file.write(damage)
    with pytest.raises(TraceError, match=r"t:\d+ is not"):
        read_trace(tmp_path / "t")


def test_a_missing_file_and_a_binary_file_are_trace_errors(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "none.jsonl")
    (tmp_path / "sound.wav").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path / "sound.wav")


def test_a_reference_is_ordered_and_its_text_may_be_left_to_the_segments() -> None:
    lines = [{"start": s, "end": s + 1, "lang": "en", "text": t, "gap_before_ms": 5} for s, t in [(3, "b"), (1, "a")]]
    reference = Reference.from_dict({"segments": lines})
    assert reference.text == "a b"
    assert [segment.start for segment in reference.segments] == [1, 3]
    assert Reference.from_dict(reference.to_dict()) == reference


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "a"},
        {"segments": [{"start": 0, "end": 1, "text": "a"}]},
        {"segments": [{"start": 2, "end": 1, "lang": "en", "text": "a"}]},
        {"segments": [{"start": "0", "end": 1, "lang": "en", "text": "a"}]},
        {"segments": [{"start": 0, "end": float("nan"), "lang": "en", "text": "a"}]},
    ],
)
def test_a_reference_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match="reference"):
        Reference.from_dict(bad)


def test_provenance_names_machine_versions_and_commit() -> None:
    found = json.loads(json.dumps(provenance()))
    assert found["machine"].keys() == {"cpu_model", "cores", "memory_bytes", "os", "python"}
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40


def test_the_commit_of_another_checkout_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "venv" / "trace.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(provenance_module, "__file__", str(installed))
    assert provenance_module._commit.__wrapped__() is None


class Silent:
    """A transcriber that finds no text."""

    spans = (Span(0, 16_000), Span(32_000, 40_000))
    flag = LanguageFlag(Span(0, 16_000), "en", "fr", 0.9, outside=True)
    cache_key = "similar"
    options: ClassVar[dict[str, Any]] = {
        "cache": {"size": 5, "key": "similar"},
        "language_id": {"confident_above": 0.9},
    }

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        return ProcessResult("", "", "en", untranscribed=self.spans, flags=(self.flag,))

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", "en")

    def get_statistics(self) -> dict[str, Any]:
        causes = {"silence": 1, "repeat": 0, self.cache_key: 2}
        return {"encoder_cache": {"key": self.cache_key, "hits": 3, "hits_by_cause": causes}}

    def config(self) -> dict[str, Any]:
        return self.options


def test_speech_without_text_and_language_flags_come_back(tmp_path: Path) -> None:
    trace = record(Silent(), np.zeros(1600, np.float32), tmp_path / "t.jsonl", recording="r")
    again = read_trace(tmp_path / "t.jsonl")
    assert trace.untranscribed == again.untranscribed == Silent.spans
    assert again.flags == (Silent.flag,)

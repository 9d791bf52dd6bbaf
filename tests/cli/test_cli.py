"""The command line: JSON alone when asked for, one clear line for every failure, and exit codes that tell."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from whisperlab import cli
from whisperlab.cli import commands, data, doctor, profile, score, transcribe
from whisperlab.cli.arguments import TABLES, languages_as_codes
from whisperlab.cli.console import DIM, ERASE, PLAIN, UP, Console, LiveText
from whisperlab.cli.report import page_names
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.scoring.summary import TEXT_RATES
from whisperlab.evaluation.trace import ReferenceSegment, read_trace
from whisperlab.experiments import microbenchmarks
from whisperlab.experiments.comparison import Outcome
from whisperlab.experiments.regret import Regret, summarise
from whisperlab.streaming import real_time
from whisperlab.streaming.real_time import OverloadOptions
from whisperlab.streaming.results import ProcessResult, SessionSegment, Switch
from whisperlab.util.errors import ConfigurationError, TraceError
from whisperlab.util.statistics import Figure
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import SAMPLE_RATE, Span, seconds

COMMANDS = [module.__name__.rpartition(".")[2] for module in commands.COMMANDS]
SECOND = np.sin(np.linspace(0, 2 * np.pi * 200, SAMPLE_RATE)).astype(np.float32) * np.float32(0.3)


@dataclass
class FakeTranscriber:
    """Says one segment a second, a language in turn; refuses more audio after the end unless it is reset."""

    heard: int = 0
    segments: int = 0
    finished: bool = False
    resets: int = 0
    failure: BaseException | None = None
    load_level: int = 0
    slow_s: float = 0.0
    languages: tuple[str, ...] = ("en", "es")

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        assert not self.finished, "a chunk after the end"
        if self.failure:
            raise self.failure
        time.sleep(self.slow_s)
        self.heard += len(chunk)
        return self._result(int(seconds(self.heard)) - self.segments)

    def skip(self, n_samples: int, /) -> ProcessResult:
        gap = Span(self.heard, self.heard + n_samples)
        self.heard += n_samples
        return ProcessResult("", "", None, gaps=(gap,), load_level=self.load_level)

    def finalize(self) -> ProcessResult:
        assert not self.finished
        self.finished = True
        print("a library that chats on stdout")
        return self._result(0)

    def reset(self) -> None:
        self.heard, self.segments, self.finished = 0, 0, False
        self.resets += 1

    def get_statistics(self) -> dict[str, Any]:
        names = ("total", "mean", "min", "max", "std", "p50", "p90", "p95", "p99", "last")
        operation = {"count": 1, "n": 1} | dict.fromkeys(names, 1.0)
        return {"performance": {"lid.total": operation}, "lid": {"frames": 0, "share": float("nan")}}

    def config(self) -> dict[str, Any]:
        return {"model": "fake"}

    def _result(self, n_new: int) -> ProcessResult:
        if not n_new:
            return ProcessResult("", "", None)
        at, before = self.segments, self.languages[(self.segments - 1) % 2]
        language = self.languages[at % 2]
        self.segments += 1
        switch = (Switch(float(at), before, language, at + 0.5),) if at else ()
        segment = SessionSegment(f"uno {at}", language, float(at), at + 1.0, True, 0.9)
        return ProcessResult(segment.text, "", language, switches=switch, segments=(segment,))


@dataclass
class Built:
    """Hands the command line its transcriber and remembers what for."""

    transcriber: FakeTranscriber = field(default_factory=FakeTranscriber)
    options: list[Any] = field(default_factory=list)

    def __call__(self, args: Any) -> FakeTranscriber:
        self.options.append(args)
        return self.transcriber


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    built = Built()
    monkeypatch.setattr(transcribe, "build_transcriber", built)
    return built


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """Three seconds of a tone."""
    write_wav(tmp_path / "call.wav", np.tile(SECOND, 3))
    return tmp_path / "call.wav"


DOCUMENT = [
    *("audio", "duration", "segments", "switches"),
    *("untranscribed", "language_outside", "language_doubtful", "statistics"),
]


def run(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


def documents(text: str) -> list[Any]:
    """What stdout holds, every line of which must be JSON, without NaN or Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# ---- grammar ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_the_command_and_ends_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(command, "--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"examples:\n  whisperlab {command} " in text or f"examples:\n  whisperlab {command}\n" in text


@pytest.mark.parametrize("name, module", [*zip(COMMANDS, commands.COMMANDS, strict=True)], ids=COMMANDS)
def test_the_examples_of_every_help_can_be_parsed(name: str, module: Any) -> None:
    for line in TABLES["examples"][name]:
        words = shlex.split(line.partition(" > ")[0])
        assert commands.build_parser().parse_args(words).run is module.run


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys\nfrom whisperlab import cli\n"
        "try:\n    cli.main(['transcribe', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "whisper", "matplotlib", "pandas", "soundfile", "av", "tqdm"}
    assert not heavy.intersection(done.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["transcribe"],
        ["transcribe", "a.wav", "--pace", "slow"],
        ["transcribe", "a.wav", "--languages", "en,,es"],
        ["transcribe", "a.wav", "--chunk-ms", "0"],
        ["transcribe", "a.wav", "--channel", "centre"],
        ["transcribe", "a.wav", "--channel", "0"],
        ["transcribe", "a.wav", "--track", "0"],
        ["transcribe", "a.wav", "--lid-hop-ms", "soon"],
        ["sweep", "--hash-precisions", "6,x"],
        ["sweep", "--limit", "-1"],
        ["profile"],
        ["profile", "a.wav", "--seconds", "nan"],
        ["profile", "a.wav", "--memory", "--trace", "ops.json.gz"],
        ["profile", "a.wav", "--memory", "--function", "whisperlab.streaming.vad:SpeechGate.push"],
        ["profile", "a.wav", "--memory", "--out", "page.txt"],
        ["bench", "everything"],
        ["score"],
        ["data"],
        ["data", "build"],
        ["models", "fetch"],
        ["models", "list", "base"],
    ],
)
def test_wrong_usage_leaves_with_2_and_says_so_on_stderr(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(*words)
    assert left.value.code == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "usage: whisperlab" in streams.err


def test_json_may_stand_before_or_after_the_action_of_data() -> None:
    parser = commands.build_parser()
    assert parser.parse_args(["data", "--json", "list"]).json
    assert parser.parse_args(["data", "list", "--json"]).json
    assert not parser.parse_args(["data", "list"]).json


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "whisperlab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("whisperlab ")


# ---- transcribe ------------------------------------------------------------------------------------------


def test_json_prints_one_document_per_audio_and_nothing_else(
    built: Built, call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, call, "--languages", "en,es", "--json") == 0
    streams = capsys.readouterr()
    first, second = documents(streams.out)
    assert first == second
    assert list(first) == DOCUMENT
    assert first["audio"] == str(call)
    assert first["duration"] == 3.0
    assert first["segments"][1] == {
        "text": "uno 1",
        "language": "es",
        "start_time": 1.0,
        "end_time": 2.0,
        "is_final": True,
        "confidence": 0.9,
        "words": [],
    }
    assert first["switches"][0] == {"time": 1.0, "from": "en", "to": "es", "decided_at": 1.5}
    assert first["statistics"]["lid"]["share"] is None
    assert "chats" in streams.err
    assert len(built.options) == 1
    assert built.transcriber.resets == 1
    assert built.options[0].languages == ["en", "es"]


def test_a_document_is_out_before_the_next_audio_is_begun(
    built: Built, call: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    seen = []
    monkeypatch.setattr(sys, "stdout", out)
    reset = built.transcriber.reset
    monkeypatch.setattr(built.transcriber, "reset", lambda: (seen.append(len(documents(out.getvalue()))), reset()))
    assert run("transcribe", call, call, call, "--json") == 0
    assert seen == [1, 2]


def test_a_bad_file_among_several_is_told_of_and_the_others_are_done(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.wav"
    assert run("transcribe", missing, call, missing, call, "--json") == 1
    streams = capsys.readouterr()
    assert [document["audio"] for document in documents(streams.out)] == [str(call)] * 2
    assert streams.err.count(f"whisperlab: error: {missing}: no such file\n") == 2


def test_text_mode_prints_each_segment_with_times_and_language(
    built: Built, call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call) == 0
    streams = capsys.readouterr()
    assert streams.out.splitlines()[:2] == ["[0.0 - 1.0] en: uno 0", "[1.0 - 2.0] es: uno 1"]
    assert "3 segments, 2 switches, 3.0 s of audio" in streams.err


def test_segments_of_several_files_are_named_by_file(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, tmp_path / "missing.wav", call) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "[0.0" in line] == [f"{call}: [0.0 - 1.0] en: uno 0"] * 2


def test_all_files_are_checked_before_the_work_starts(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    assert run("transcribe", call, tmp_path / "text.wav", tmp_path / "missing.wav") == 1
    first, second, third, *_ = capsys.readouterr().err.splitlines()
    assert f"error: {tmp_path / 'text.wav'}: " in first
    assert second.endswith("missing.wav: no such file")
    assert third == "loading the model base"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_text_grows_and_its_tentative_part_is_dimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Terminal()
    live = LiveText(Console(screen, screen, json=False), "call.wav", 57.0, clock=iter([0.0, 3.6, 4.0]).__next__)
    live.take(ProcessResult(" one two", "three", "en"))
    live.progress(12.0)
    assert screen.getvalue() == (f"{ERASE}one two{DIM} three{PLAIN}\n{ERASE}call.wav: 12 of 57 s, 0.3 s per s{UP}")
    screen.seek(0)
    screen.truncate()
    live.take(
        ProcessResult(" three. four", "five", "en", segments=(SessionSegment(" one two three.", "en", 0, 1, True, 1),))
    )
    live.progress(13.0)
    assert screen.getvalue().startswith(f"{ERASE}four{DIM} five{PLAIN}\n")


@pytest.mark.parametrize("as_json,quiet", [(True, False), (False, True)])
def test_no_text_grows_beside_json_or_when_only_results_are_wanted(as_json: bool, quiet: bool) -> None:
    out, err = Terminal(), Terminal()
    live = LiveText(Console(out, err, as_json, quiet), "call.wav", 57.0)
    live.take(ProcessResult("one", " two", "en"))
    live.progress(1.0)
    live.erase()
    assert out.getvalue() == ""
    assert ("1 of 57 s" in err.getvalue()) is not quiet


def test_a_file_gets_no_escape_sequences(built: Built, call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", call) == 0
    assert "\x1b" not in "".join(capsys.readouterr())


def test_quiet_prints_the_segments_alone(built: Built, call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", call, "-q") == 0
    streams = capsys.readouterr()
    assert streams.out.splitlines()[:3] == [
        f"[{at}.0 - {at + 1}.0] {('en', 'es')[at % 2]}: uno {at}" for at in range(3)
    ]
    assert streams.err == ""


@pytest.fixture
def stereo(tmp_path: Path) -> Path:
    """Three seconds of a tone on the left and of silence on the right."""
    left = np.tile(SECOND, 3)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, 0 * left], axis=1), SAMPLE_RATE)
    return tmp_path / "stereo.wav"


def test_each_channel_is_a_stream_of_its_own(
    built: Built, stereo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", stereo, "--channel", "each", "--json", "--trace", tmp_path / "t.jsonl") == 0
    streams = capsys.readouterr()
    (document,) = documents(streams.out)
    assert list(document) == DOCUMENT
    assert [(each["start_time"], each["channel"]) for each in document["segments"]] == [
        (start, side) for start in (0.0, 1.0, 2.0) for side in ("left", "right")
    ]
    assert [(each["time"], each["channel"]) for each in document["switches"]] == [
        (time, side) for time in (1.0, 2.0) for side in ("left", "right")
    ]
    assert list(document["statistics"]) == ["left", "right"]
    assert document["duration"] == 3.0
    assert built.transcriber.resets == 1
    for side in ("left", "right"):
        assert f"{stereo} ({side}): 3 segments" in streams.err
        assert read_trace(tmp_path / f"t-{side}.jsonl").header["audio"]["channel"] == side


def test_text_lines_show_the_channel(built: Built, stereo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", stereo, "--channel", "each") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[0.0")]
    assert lines == ["[0.0 - 1.0] left en: uno 0", "[0.0 - 1.0] right en: uno 0"]


def test_channels_beyond_two_are_numbers_and_one_is_one(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "three.wav", np.tile(SECOND[:, None], (2, 3)), SAMPLE_RATE)
    assert run("transcribe", tmp_path / "three.wav", call, "--channel", "each", "--json") == 0
    three, mono = documents(capsys.readouterr().out)
    assert {each["channel"] for each in three["segments"]} == {1, 2, 3}
    assert list(three["statistics"]) == ["1", "2", "3"]
    assert {each["channel"] for each in mono["segments"]} == {1}


def test_one_channel_is_transcribed_as_if_it_were_the_file(
    built: Built, stereo: Path, call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", stereo, call, "--channel", "right", "--json") == 1
    streams = capsys.readouterr()
    (document,) = documents(streams.out)
    assert "channel" not in document["segments"][0]
    assert f"error: {call}: channel right does not exist: the file has 1 channel" in streams.err


def test_a_track_can_be_named(built: Built, call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", call, "--track", "1") == 0
    assert run("transcribe", call, "--track", "2") == 1
    assert "audio track 2 does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["https://x/a.wav", "file:///a.wav"])
def test_an_address_is_named_as_it_was_given(built: Built, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", address) == 1
    assert f"error: {address}: addresses are not opened" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("as_json", [True, False])
def test_names_that_stdout_cannot_show_end_no_batch(
    built: Built, call: Path, tmp_path: Path, encoding: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [os.fsdecode(b"bad\xff.wav"), "日本語.wav", "call.wav"]
    for name in names[:2]:
        (tmp_path / name).write_bytes(call.read_bytes())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr("whisperlab.cli.transcribe.line", lambda *_: "日本")
    paths = [tmp_path / name for name in names]
    assert run("transcribe", *paths, *["--json"] * as_json, "--trace", tmp_path / "traces") == 0
    printed = out.buffer.getvalue().decode(encoding)
    if as_json:
        audio = [document["audio"] for document in documents(printed)]
        assert audio == [str(tmp_path / name) for name in ("bad\\xff.wav", "日本語.wav", "call.wav")]
    else:
        assert [len(line.split()) for line in printed.splitlines() if "chats" not in line] == [1] * 9
    assert "bad\\xff.wav" in err.buffer.getvalue().decode(encoding)
    assert len(list((tmp_path / "traces").iterdir())) == 3


def test_real_pace_tells_when_each_segment_came_out(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "short.wav", np.tile(SECOND, 2)[: SAMPLE_RATE + 1600])
    assert run("transcribe", tmp_path / "short.wav", "--pace", "real", "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    (segment,) = document["segments"]
    assert segment["emitted_at"] >= 0.999  # a second of audio cannot be heard sooner


def test_real_pace_on_a_machine_too_slow_for_it_tells_what_was_dropped(
    built: Built, call: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_time, "OverloadOptions", partial(OverloadOptions, 100, 200, 600))
    built.transcriber.slow_s = 0.3
    assert run("transcribe", call, "--pace", "real", "--json", "--trace", call.with_suffix(".jsonl")) == 0
    streams = capsys.readouterr()
    (document,) = documents(streams.out)
    live = document["statistics"]["real_time"]
    assert live["dropped_s"] > 0
    assert live["max_lag_s"] <= 0.7
    assert f"dropped {live['dropped_s']:.1f} s in {live['gaps']} gaps" in streams.err
    lost = read_trace(call.with_suffix(".jsonl")).gaps
    assert sum(map(len, lost)) == pytest.approx(live["dropped_s"] * SAMPLE_RATE)


def test_fast_pace_tells_no_wall_clock(built: Built, call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", call, "--json") == 0
    assert "emitted_at" not in documents(capsys.readouterr().out)[0]["segments"][0]


def test_the_trace_is_kept_where_it_was_asked_for(built: Built, call: Path, tmp_path: Path) -> None:
    assert run("transcribe", call, "--trace", tmp_path / "call.jsonl") == 0
    trace = read_trace(tmp_path / "call.jsonl")
    assert len(trace.segments) == 3
    assert trace.header["audio"]["path"] == str(call)


def test_the_traces_of_several_audio_files_do_not_overwrite_each_other(
    built: Built, call: Path, tmp_path: Path
) -> None:
    assert run("transcribe", call, call, "--trace", tmp_path / "traces") == 0
    names = [path.name for path in sorted((tmp_path / "traces").iterdir())]
    assert names == ["001-call.jsonl", "002-call.jsonl"]


def test_a_place_for_traces_that_cannot_be_made_is_told_before_any_work(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for calls, target in (([call], tmp_path / "file" / "t.jsonl"), ([call, call], tmp_path / "file")):
        assert run("transcribe", *calls, "--trace", target) == 1
        assert f"--trace {target}" in capsys.readouterr().err
    assert built.options == []


def test_one_language_and_a_choice_of_languages_exclude_each_other(built: Built, call: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("transcribe", call, "--language", "en", "--languages", "en,es")
    assert built.options == []


def test_no_trace_is_left_when_none_was_asked_for(
    built: Built, call: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert run("transcribe", call) == 0
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "failure,code,line",
    [
        (ConfigurationError("no such\n  thing"), 1, "whisperlab: error: no such thing\n"),
        (OSError(28, "No space left on device"), 1, "whisperlab: error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "whisperlab: interrupted\n"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    built: Built, call: Path, failure: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built.transcriber.failure = failure
    assert run("transcribe", call, "--json") == code
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.endswith(line)
    assert "Traceback" not in streams.err


def test_a_mistake_of_our_own_is_not_hidden(built: Built, call: Path) -> None:
    built.transcriber.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run("transcribe", call)


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-m", "whisperlab", "data", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout
    assert writer.stderr
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait() == 1
    assert said == ""


# ---- score -----------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(call: Path) -> Path:
    """What the fake transcriber says of the call, but for one word."""
    texts = ("uno 0", "uno 1", "dos 2")
    segments = [
        {"start": at, "end": at + 1, "lang": ("en", "es")[at % 2], "text": text, "gap_before_ms": 0}
        for at, text in enumerate(texts)
    ]
    line = {
        "audio_filepath": call.name,
        "duration": 3.0,
        "text": " ".join(texts),
        "lang": "en,es",
        "id": "call",
        "split": "test",
        "corpus": "mine",
        "noise_snr_db": None,
        "segments": segments,
    }
    path = call.with_name("manifest.jsonl")
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


def test_transcripts_and_traces_of_the_same_run_score_the_same(
    built: Built, call: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, "--trace", tmp_path / "t.jsonl", "--json") == 0
    (tmp_path / "out.jsonl").write_text(capsys.readouterr().out, encoding="utf-8")
    totals = []
    for heard in ("t.jsonl", "out.jsonl"):
        assert run("score", tmp_path / heard, "--reference", manifest, "--json") == 0
        totals += documents(capsys.readouterr().out)
    by_trace, by_document = (document["total"] for document in totals)
    assert by_trace["mixed_error_rate"] == by_document["mixed_error_rate"] == pytest.approx(1 / 6)
    assert by_trace["switch_f1_at_1"] == by_document["switch_f1_at_1"] == 1.0
    assert by_trace["real_time_factor"] is not None
    assert by_document["real_time_factor"] is None


def test_counts_are_added_before_they_are_divided(
    built: Built, call: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, call, "--trace", tmp_path / "traces") == 0
    capsys.readouterr()
    assert run("score", tmp_path / "traces", "--reference", manifest) == 0
    lines = capsys.readouterr().out.splitlines()
    table = ["recording", "call", "call", "all"]
    assert [line.split()[0] for line in lines if line] == [*table, *table, *table, *table, "words"]
    convention = "in characters in Chinese, Japanese, Thai, Lao, Khmer and Burmese, else in words"
    assert lines[-1] == f"words wrong: {convention}; normalizer plain, accents folded"
    names = re.split("  +", "  ".join(line for line in lines if line.startswith("recording")))
    assert {"code-mixing index", "burstiness", "within sentences", "embedded", "lost (per switch)"} <= {*names}
    assert {"language diarisation error", "words in a wrong language", "translated"} <= {*names}


def test_configurations_are_named_and_scored_apart(
    made: list[Any], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--corpus", manifest, "--cache-sizes", "10", "--hash-precisions", "6", "--out", tmp_path / "out"]
    assert run(*words, "-q") == 0
    traces = [*(tmp_path / "out" / "traces").iterdir()]
    other = traces[0].with_name("other.jsonl")
    header, _, rest = traces[0].read_text().partition("\n")
    changed = json.loads(header)
    changed["config"] = {"cache": {"hash_precision": 2}}
    other.write_text(json.dumps(changed) + "\n" + rest)
    changed["config"] = {"cache": {"hash_precision": 4}}
    traces[0].write_text(json.dumps(changed) + "\n" + rest)
    capsys.readouterr()
    assert run("score", tmp_path / "out" / "traces") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "configuration"
    assert sorted(line.split("  ")[0] for line in lines[1:3]) == ["precision 2", "precision 4"]
    assert "16.7 %" in lines[1]
    assert "words wrong" in lines[0]
    assert "decision delay, p50 (s)" in lines[0]
    assert not any(line.startswith("all") for line in lines)
    assert run("score", tmp_path / "out" / "traces", "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["total"] is None
    assert [one["rates"]["recordings"] for one in document["configurations"]] == [1, 1]


def test_traces_without_text_get_no_text_measures(
    built: Built, call: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built.transcriber.config = lambda: {"decode": False}  # type: ignore[method-assign]
    assert run("transcribe", call, "--trace", tmp_path / "t.jsonl") == 0
    capsys.readouterr()
    assert run("score", tmp_path / "t.jsonl", "--reference", manifest) == 0
    header, row, told = capsys.readouterr().out.splitlines()
    assert re.split("  +", header)[:4] == ["recording", "words wrong", "wrong language, text", "wrong language, frames"]
    assert row.split()[:3] == ["call", "-", "-"]
    assert told == "no text: made with decode off; wrong language, frames: not known"
    assert run("score", tmp_path / "t.jsonl", "--reference", manifest, "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    rates = document["total"]
    assert {rates[name] for name in TEXT_RATES} == {None}
    assert rates["switch_f1_at_1"] == 1.0


@pytest.mark.parametrize("command", ["score", "report"])
def test_audio_in_the_place_of_a_trace_is_told_with_the_commands_to_run(
    command: str, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, call) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{call} is audio, {command} needs a trace" in line
    assert f"whisperlab transcribe {call} --trace call.jsonl, then: whisperlab {command} call.jsonl" in line


def test_a_score_names_its_normalizer(
    built: Built, call: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, "--trace", tmp_path / "t.jsonl") == 0
    how = ("--normalizer", "whisper", "--fold", "arabic", "--keep-diacritics")
    assert run("score", tmp_path / "t.jsonl", "--reference", manifest, *how) == 0
    assert capsys.readouterr().out.endswith("; normalizer whisper+arabic, accents kept\n")
    assert run("score", tmp_path / "t.jsonl", "--reference", manifest, "--fold", "hangul") == 0
    assert "Khmer and Burmese, in syllables in Korean, else in words; " in capsys.readouterr().out
    assert run("score", tmp_path / "t.jsonl", "--reference", manifest, *how, "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["total"]["normalizer"] == document["counts"]["normalizer"] == "whisper+arabic"
    assert run("score", tmp_path / "t.jsonl", "--fold", "latin") == 1
    assert "folds among chinese, arabic, hangul; got 'plain+latin'" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_transcript_that_another_program_saved_is_scored(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    said = (("uno 0", "English"), ("uno 1", "es-MX"), ("dos 2", "en_US"))
    segments = [
        {"text": text, "language": language, "start_time": at, "end_time": at + 1, "is_final": True}
        for at, (text, language) in enumerate(said)
    ]
    document = {
        "audio": "call.wav",
        "duration": 3.0,
        "segments": [{**segment, "confidence": 0.9} for segment in segments],
        "switches": [{"time": 1.0, "from": "English", "to": "es-MX", "decided_at": 1.5}],
    }
    (tmp_path / "out.jsonl").write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding=encoding)
    assert run("score", tmp_path / "out.jsonl", "--reference", manifest, "--json") == 0
    (scores,) = documents(capsys.readouterr().out)
    assert (scores["total"]["mixed_error_rate"], scores["total"]["language_error_rate"]) == (0.0, 0.0)
    assert scores["counts"]["switches"]["matched"]["1"] == 1


def test_a_transcript_of_a_whole_file_is_not_scored_against_a_part_of_it(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {**json.loads(manifest.read_text()), "offset": 1.0, "duration": 1.0, "segments": []}
    del part["id"]
    manifest.write_text(json.dumps(part), encoding="utf-8")
    document = {"audio": "call.wav", "duration": 3.0, "segments": [], "switches": []}
    (tmp_path / "out.jsonl").write_text(json.dumps(document), encoding="utf-8")
    assert run("score", tmp_path / "out.jsonl", "--reference", manifest) == 1
    assert "no reference for 'call'" in capsys.readouterr().err


def test_what_has_no_reference_cannot_be_scored_and_says_why(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, "--trace", tmp_path / "t.jsonl", "--json") == 0
    (tmp_path / "out.jsonl").write_text(capsys.readouterr().out, encoding="utf-8")
    for heard in ("t.jsonl", "out.jsonl"):
        assert run("score", tmp_path / heard) == 1
        assert "reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {"segments": [{"text": "uno"}]},
        {"segments": 3},
        {"switches": [{"time": 1.0}]},
        {"audio": None},
        {"duration": [3.0]},
        {"switches": [{"time": 1.0, "from": [], "to": "es", "decided_at": 2.0}]},
    ],
)
def test_a_transcript_with_something_missing_is_refused_by_place(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any]
) -> None:
    document = {"audio": "call.wav", "duration": 3.0, "segments": [], "switches": []}
    lines = [json.dumps(document), json.dumps(document | wrong)]
    (tmp_path / "out.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert run("score", tmp_path / "out.jsonl", "--reference", manifest) == 1
    assert "out.jsonl, document 2: not the output of" in capsys.readouterr().err


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 4000 + "x"], ids=["digits", "letters"])
def test_an_argument_nobody_could_read_is_not_repeated(capsys: pytest.CaptureFixture[str], digits: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["sweep", "--limit", digits])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()[-1]) < 300


def test_a_folder_without_traces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no \*\.jsonl"):
        list(score.files([tmp_path]))


def test_a_file_that_is_neither_trace_nor_transcript_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.jsonl").write_text("not JSON\n", encoding="utf-8")
    assert run("score", tmp_path / "notes.jsonl") == 1
    assert "notes.jsonl" in capsys.readouterr().err


# ---- data ------------------------------------------------------------------------------------------------


def recording(**changes: Any) -> Recording:
    segments = (
        ReferenceSegment(0.5, 1.5, "en", "hello"),
        ReferenceSegment(2.0, 3.0, "es", "hola"),
        ReferenceSegment(3.0, 4.0, "es", "adiós"),
    )
    fields = {
        "id": "mine-test-00",
        "audio_path": Path("mine.wav"),
        "duration": 4.5,
        "text": "hello hola adiós",
        "lang": "en,es",
        "segments": segments,
        "split": "test",
        "corpus": "mine",
    }
    return Recording(**{**fields, **changes})


def test_the_facts_of_a_split_count_switches_and_speech_by_language() -> None:
    facts = data.facts("test", [recording(), recording(snr=20.0)])
    assert facts == {
        "split": "test",
        "recordings": 2,
        "minutes": 0.1,
        "switches": 2,
        "within_sentences": 0,
        "between_sentences": 0,
        "unpunctuated": 2,
        "code_mixing_index": 0.333,
        "span_burstiness": -0.444,  # spans of 1, 2, 1 and 2 words
        "noisy": 1,
        "speech_s": "es:4 en:2",
    }


def test_all_corpora_are_listed_whether_built_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    assert run("data", "list", "--json") == 0
    (rows,) = documents(capsys.readouterr().out)
    assert {"ivr-five", "ivr-en-es"} <= {row["name"] for row in rows}
    assert not any(row["built"] for row in rows)


def test_an_unknown_corpus_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "build", "ivr-klingon") == 1
    assert "ivr-five" in capsys.readouterr().err


def test_info_describes_a_manifest_of_your_own(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "info", manifest, "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["splits"][0]["switches"] == 2
    assert [(one["id"], one["switches"]) for one in document["recordings"]] == [("call", 2)]


def test_a_recording_is_found_by_its_id_or_the_others_are_named(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.find("call", str(manifest)).id == "call"
    assert run("data", "path", "nobody", "--corpus", manifest) == 1
    assert "it has call" in capsys.readouterr().err


def test_the_path_of_a_recording_is_printed_alone(
    manifest: Path, call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "path", "call", "--corpus", manifest) == 0
    assert capsys.readouterr() == (f"{call}\n", "")
    assert run("data", "path", "call", "--corpus", manifest, "--json") == 0
    assert documents(capsys.readouterr().out) == [{"id": "call", "path": str(call)}]


def test_the_path_in_a_manifest_without_an_id_says_what_is_needed(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, kind in ((manifest, "a file"), ("call", "no recording of a built corpus")):
        assert run("data", "path", what) == 1
        (told,) = capsys.readouterr().err.splitlines()
        assert f"{str(what)!r} is {kind}: expected the id of a recording" in told
        assert "--corpus MANIFEST" in told


def test_a_wrong_duration_is_told_and_left_out_of_the_minutes(call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = call.with_name("wrong.jsonl")
    line = {"audio_filepath": call.name, "duration": 600.0, "text": "uno"}
    path.write_text(json.dumps(line), encoding="utf-8")
    assert run("data", "info", path, "--json") == 0
    told = capsys.readouterr()
    assert documents(told.out)[0]["splits"][0]["minutes"] < 0.2
    assert f"{path}:1: duration is 600 s, but {call.name} has" in told.err


@pytest.mark.parametrize(
    "command, given, told",
    [
        (("transcribe", "a.wav", "--languages"), "en,xx", "unknown language 'xx'"),
        (("transcribe", "a.wav", "--language"), "auto", "'auto' is not the name of a language: leave it out"),
        (("sweep", "--languages"), "englsh", "the closest are en (english)"),
        (("search", "--space", "space.json", "--languages"), "klingon", "unknown language 'klingon'"),
    ],
)
def test_a_language_that_is_none_is_told_before_any_work(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], given: str, told: str
) -> None:
    assert run(*command, given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_language_may_be_given_in_any_usual_way() -> None:
    given = ["transcribe", "a.wav", "--languages", "pt-BR,English,iw", "--language", "cmn-Hans"]
    parsed = commands.build_parser().parse_args(given)
    languages_as_codes(parsed)
    assert (parsed.languages, parsed.language) == (["pt", "en", "he"], "zh")


# ---- sweep and report ------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations for which a sweep asked a transcriber; key ``span`` gets one that fails."""
    configurations: list[Any] = []

    def make(config: Any) -> FakeTranscriber:
        configurations.append(config)
        failure = OSError("out of luck") if config.cache.key == "span" else None
        return FakeTranscriber(failure=failure)

    monkeypatch.setattr("whisperlab.model.weights.model_digest", lambda model: "0" * 64)
    monkeypatch.setattr("whisperlab.experiments.sweep.transcriber_maker", lambda model: make)
    return configurations


def test_a_sweep_runs_every_cell_once_and_resumes(
    made: list[Any], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--corpus", manifest, "--cache-sizes", "10,50", "--hash-precisions", "6,0"]
    words += ["--out", tmp_path / "out", "--json"]
    assert run(*words) == 0
    (first,) = documents(capsys.readouterr().out)
    assert (first["planned"], first["found"], first["ran"], first["failed"]) == (4, 0, 4, [])
    assert len(first["results"]) == 4
    assert made[0].languages == ("en", "es")
    assert run(*words) == 1
    assert "--resume" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    (again,) = documents(capsys.readouterr().out)
    assert (again["found"], again["ran"]) == (4, 0)
    assert again["results"] == first["results"]


def test_the_table_of_a_sweep_has_its_own_configurations_and_not_all_of_the_folder(
    made: list[Any], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--corpus", manifest, "--hash-precisions", "6", "--out", tmp_path / "out", "--json"]
    assert run(*words, "--cache-sizes", "10,50") == 0
    assert run(*words, "--cache-sizes", "20", "--resume") == 0
    _, printed = documents(capsys.readouterr().out)
    assert [(row["config.cache.size"], row["n_runs"]) for row in printed["results"]] == [(20, 1)]


def test_a_dry_run_says_what_would_be_run_and_runs_nothing(
    made: list[Any], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--corpus", manifest, "--cache-sizes", "1,2,3", "--out", tmp_path / "out", "--dry-run"]
    assert run(*words, "--json") == 0
    streams = capsys.readouterr()
    first, second, *_ = streams.err.splitlines()
    assert (first, second[:18]) == ("loading the model base", "measuring the time")
    (told,) = documents(streams.out)
    assert (told["planned"], told["to_run"], told["audio_s"], told["workers"]) == (15, 15, 45.0, 1)
    assert told["seconds"] > 0
    assert len(made) == 2  # a warm-up and a try: the 15 differ in their cache alone
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["random", "adaptive"])
def test_a_dry_run_of_a_search_estimates_its_trials_and_runs_nothing(
    made: list[Any], dev: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    space = '{"cache.size": {"low": 1, "high": 50}}'
    words = ["search", "--space", space, "--trials", "3", "--method", method, "--corpus", dev, "--limit", "1"]
    assert run(*words, "--out", tmp_path / "out", "--dry-run", "--json") == 0
    streams = capsys.readouterr()
    (told,) = documents(streams.out)
    assert (told["planned"], told["to_run"]) == (3, 3)
    assert told["seconds"] > 0
    assert ("estimate is that of a random one" in streams.err) == (method == "adaptive")
    assert not (tmp_path / "out").exists()


def test_long_commands_say_what_they_do_before_they_do_it(
    made: list[Any], dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def compared(*_: object, **__: object) -> Outcome:
        said.append(capsys.readouterr().err)
        return Outcome(())

    def measured() -> list[Any]:
        said.append(capsys.readouterr().err)
        return []

    monkeypatch.setattr("whisperlab.experiments.comparison.compare_configurations", compared)
    monkeypatch.setattr("whisperlab.experiments.microbenchmarks.buffer_figures", measured)
    monkeypatch.setattr("whisperlab.model.weights.load_weights", lambda *_, **__: measured())
    assert run("compare", "{}", '{"compute.precision": "fp32"}', "--corpus", dev, "--rounds", "2") == 0
    assert run("bench", "buffer") == 0
    with pytest.raises(AttributeError):  # the model is no model
        run("search", "--space", SPACE, "--corpus", dev, "--out", tmp_path / "out")
    assert [line.partition(":")[0] for line in said] == [
        *("comparing A and B", "bench buffer", "loading the model base\n")
    ]
    assert "4 runs of 1 recordings, 12 s of audio in all" in said[0]


def test_compare_says_for_which_voices_its_intervals_hold(
    dev: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("whisperlab.experiments.comparison.compare_configurations", lambda *_, **__: Outcome(()))
    assert run("compare", "{}", "{}", "--corpus", dev) == 0
    assert "voice" not in capsys.readouterr().out
    line = json.loads(dev.read_text(encoding="utf-8").splitlines()[0])
    lines = [{**line, "id": name} for name in "abc"]
    segments = [[{**segment, "speaker": "Ann"} for segment in line["segments"]] for line in lines]
    named = dev.with_name("named.jsonl")
    text = "\n".join(json.dumps({**line, "segments": own}) for line, own in zip(lines, segments, strict=True))
    named.write_text(text, encoding="utf-8")
    assert run("compare", "{}", "{}", "--corpus", named) == 0
    assert "hold for this voice only." in capsys.readouterr().out


def test_compare_prints_the_regret_of_both_configurations(
    dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`regret.measure` is called for each, and only if it was asked for."""
    asked: list[str | None] = []

    def measured(recordings: Any, config: Any, **_: object) -> list[Any]:
        asked.append(config.compute.precision)
        return summarise(
            [Regret(10, (1, 0, 0, 0, 2), (0, 0, 0, 1), (2, 2, 2, 3), (1, 0, -1, 0))], np.random.default_rng(0)
        )

    monkeypatch.setattr("whisperlab.experiments.comparison.compare_configurations", lambda *_, **__: Outcome(()))
    monkeypatch.setattr("whisperlab.experiments.regret.measure", measured)
    words = ["compare", "{}", '{"compute.precision": "fp32"}', "--corpus", dev]
    assert run(*words) == 0
    assert asked == []
    assert run(*words, "--regret") == 0
    assert asked == [None, "fp32"]
    assert re.search(r"B +language +10.0% +0.0% +20.0% +10.0%", capsys.readouterr().out)
    assert run(*words, "--regret", "--json") == 0
    (told,) = documents(capsys.readouterr().out)
    assert [(row["variant"], row["cause"]) for row in told["regret"]][5:7] == [("A", "all"), ("B", "language")]
    with pytest.raises(SystemExit, match="2"):
        run("compare", tmp_path, tmp_path, "--regret")
    assert "--regret: sweeps are compared without running anything" in capsys.readouterr().err


def test_failed_cells_are_counted_and_can_be_run_again(
    made: list[Any], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--corpus", manifest, "--cache-sizes", "10", "--hash-precisions", "6"]
    words += ["--keys", "rounded,span", "--out", tmp_path / "out"]
    assert run(*words) == 1
    streams = capsys.readouterr()
    assert "1 of 2 tasks failed" in streams.err
    assert "out of luck" in streams.err
    assert "span" in streams.err
    assert run(*words, "--resume") == 1
    assert len(made) == 2
    assert run(*words, "--retry-failed") == 1
    assert len(made) == 3


def test_a_stopped_sweep_says_how_to_go_on(
    made: list[Any], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = FakeTranscriber(failure=KeyboardInterrupt())
    monkeypatch.setattr("whisperlab.experiments.sweep.transcriber_maker", lambda model: lambda config: stopped)
    words = ["sweep", "--corpus", manifest, "--out", tmp_path / "a folder", "--hash-precisions", "6"]
    assert run(*words) == 130
    told = capsys.readouterr().err
    assert told.count("ontinue") == 1
    assert "again" not in told
    (command,) = re.findall("To continue: whisperlab (.*)", told)
    monkeypatch.setattr(
        "whisperlab.experiments.sweep.transcriber_maker", lambda model: lambda config: FakeTranscriber()
    )
    assert cli.main(shlex.split(command)) == 0
    monkeypatch.setattr("whisperlab.experiments.sweep.transcriber_maker", lambda model: lambda config: stopped)
    capsys.readouterr()
    assert run(*words[:-1], "5", "--resume") == 130
    assert capsys.readouterr().err.count("--resume") == 1


@pytest.mark.parametrize(
    "words, told",
    [
        (("--hash-precisions", "99"), "cache.hash_precision must be 0 to 12, got 99"),
        (("--keys", "rounded,spam"), "cache.key must be one of"),
        (("--cache-sizes", "-1"), "cache.size"),
    ],
)
def test_a_value_out_of_range_is_refused_before_any_work(
    words: tuple[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("whisperlab.data.load", pytest.fail)
    assert run("sweep", *words, "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.fixture
def dev(manifest: Path) -> Path:
    """The manifest, its recording being of the split dev."""
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"split": "test"', '"split": "dev"'))
    return manifest


SPACE = """{"cache.size": [10, 50], "cache.key": ["rounded", "similar"],
  "language_id": {"confident_above": {"low": 0.5, "high": 0.9}}}"""


def test_a_search_prints_its_front_says_the_split_and_resumes(
    made: list[Any], dev: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "--space", SPACE, "--corpus", dev, "--trials", "6", "--seed", "1"]
    words += ["--out", tmp_path / "out"]
    assert run(*words, "--json") == 0
    (first,) = documents(capsys.readouterr().out)
    assert (first["found"], first["ran"], first["failed"], first["split"]) == (0, 6, 0, "dev")
    assert len(first["trials"]) == 6
    assert set(first["front"][0]) == {
        "trial", "values", "mixed_error_rate", "response_p95_s", "peak_rss_bytes", "error",
    }  # fmt: skip
    assert 0.5 <= made[0].language_id.confident_above <= 0.9
    assert made[0].languages == ("en", "es")
    assert run(*words) == 1
    assert "--resume" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    streams = capsys.readouterr()
    assert len(made) == 6
    assert "trial 6 of 6: 0 failed" in streams.err
    assert "on the Pareto front; chosen by 1 of the recordings" in streams.out
    assert "split dev: on others expect worse" in streams.out
    assert "language_id.confident_above" in streams.out


def test_a_search_with_failed_trials_says_why(
    made: list[Any], dev: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "--space", '{"cache.key": ["similar", "span"]}', "--corpus", dev, "--out", tmp_path / "out"]
    assert run(*words, "--json") == 1
    streams = capsys.readouterr()
    (document,) = documents(streams.out)
    assert [trial["values"]["cache.key"] for trial in document["trials"] if trial["error"]] == ["span"]
    assert "1 of 2 trials failed, the first with call: OSError: out of luck" in streams.err


def test_a_search_refuses_the_test_split_and_a_space_that_is_none(
    made: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("search", "--space", SPACE, "--split", "test", "--out", out) == 1
    assert "a search chooses by its results" in capsys.readouterr().err
    assert run("search", "--space", '{"spam": [1, 2]}', "--out", out) == 1
    assert "no option 'spam'" in capsys.readouterr().err
    assert made == []
    assert not out.exists()


def test_sweeps_and_traces_become_pages_with_an_index_beside_them(
    made: list[Any],
    built: Built,
    call: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("whisperlab.report.page.vega_script", lambda: "// Vega")  # which takes seconds to make
    folder, trace, pages = tmp_path / "grid", tmp_path / "call.jsonl", tmp_path / "pages"
    assert run("sweep", "--corpus", manifest, "--hash-precisions", "6", "--out", folder) == 0
    assert run("transcribe", call, "--trace", trace) == 0
    capsys.readouterr()
    assert run("report", folder, trace, "--out", pages, "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["pages"] == [str(pages / "grid.html"), str(pages / "call.html")]
    assert run("report", folder, "--out", pages, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert document["index"] == str(pages / "index.html")
    assert "grid.html" in (pages / "index.html").read_text(encoding="utf-8")


def test_several_pages_do_not_fit_into_one_file(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run("report", tmp_path, tmp_path / "call.jsonl", "--out", tmp_path / "page.html")
    assert left.value.code == 2


def test_reports_whose_names_collide_keep_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperlab.report.notebook.run_notebook", lambda source, path, _: path.write_text(str(source)))
    sources = [tmp_path / name for name in ("a/x.ipynb", "b/x.ipynb", "a/X.ipynb", "x-2.ipynb", "index.ipynb")]
    for source in sources:
        source.parent.mkdir(exist_ok=True)
        source.write_text("{}")
    pages = tmp_path / "pages"
    pages.mkdir()
    assert run("report", *sources, "--out", pages) == 0
    names = ["x", "x-2", "X-3", "x-2-2", "index-2"]
    assert [(pages / f"{name}.html").read_text() for name in names] == list(map(str, sources))
    assert len(list(pages.iterdir())) == 6  # and the index


def test_the_page_of_a_folder_has_all_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [Path(name) for name in ("v1.0", "v1.1", ".", "-a", os.fsdecode(b"bad\xff"))]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    pages = [f"{name}.html" for name in ("v1.0", "v1.1", tmp_path.name, "-a", "bad\\xff")]
    assert page_names(folders) == pages


def test_the_index_is_no_name_for_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("report", tmp_path, "--out", tmp_path / "index.html")
    assert "index.html is the list of all pages" in capsys.readouterr().err


def test_a_report_prints_the_answer_of_each_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = '<html><head><title>A</title><meta name="answer" content="10 of 10 switches."></head><body></body></html>'
    monkeypatch.setattr("whisperlab.report.notebook.run_notebook", lambda _, path, __: path.write_text(page))
    (tmp_path / "a b.ipynb").write_text("{}")
    assert run("report", tmp_path / "a b.ipynb", "--out", tmp_path) == 0
    streams = capsys.readouterr()
    assert streams.out.splitlines() == [f"{tmp_path / 'a b.html'}: 10 of 10 switches.", str(tmp_path / "index.html")]
    assert "a b.ipynb -> " in streams.err


def test_parameters_reach_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("whisperlab.report.notebook.run_notebook", lambda *asked: given.append(asked))
    (tmp_path / "a.ipynb").write_text("{}")
    words = ("-p", "LIMIT=3", "-p", 'KEYS=["span"]', "--parameter", "CORPUS=mine/m=1.jsonl")
    assert run("report", tmp_path / "a.ipynb", *words, "--out", tmp_path) == 0
    values = {"LIMIT": 3, "KEYS": ["span"], "CORPUS": "mine/m=1.jsonl"}
    assert given == [(tmp_path / "a.ipynb", tmp_path / "a.html", values)]
    with pytest.raises(SystemExit, match="2"):
        run("report", tmp_path / "a.ipynb", "-p", "LIMIT")


def test_a_folder_without_a_sweep_makes_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run("report", tmp_path / "empty", "--out", tmp_path / "pages") == 1
    assert "holds no results of a sweep" in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("source", ["nothing.jsonl", "nothing"])
def test_a_report_of_what_is_not_there_is_one_line(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", tmp_path / source, "--out", tmp_path) == 1
    assert source in capsys.readouterr().err


# ---- models, doctor, bench, profile ----------------------------------------------------------------------


def test_models_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "list", "--json") == 0
    (rows,) = documents(capsys.readouterr().out)
    assert {"name", "path", "licence", "from", "verified by"} == set(rows[0])
    assert "base" in {row["name"] for row in rows}


@pytest.mark.parametrize("action", ["fetch", "path", "verify"])
def test_an_unknown_model_is_one_line_that_names_the_known_ones(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", action, "enormous") == 1
    streams = capsys.readouterr()
    assert streams.err.count("\n") == 1
    assert "enormous" in streams.err
    assert "base" in streams.err


def test_weights_that_are_not_here_have_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run("models", "path", "base") == 1
    assert "whisperlab models fetch base" in capsys.readouterr().err


def test_the_doctor_looks_at_everything_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("whisperlab.util.threads.second_thread", lambda: 0.62)
    assert run("doctor", "--json") == 0
    (findings,) = documents(capsys.readouterr().out)
    by_name = {finding["name"]: finding for finding in findings}
    assert run("doctor", "--model", "enormous") == 1
    assert "whisperlab models list" in capsys.readouterr().out
    named = {"python", "processor", "torch", "threads", "compiler", "disk", "weights", "speech", "browser"}
    assert named <= set(by_name)
    share = re.match(r"one thread 1.00, two threads (\d+\.\d\d) of the time; ", by_name["threads"]["detail"])
    assert share
    assert float(share[1]) > 0
    assert by_name["weights"]["status"] == "WARN"
    assert by_name["weights"]["advice"] == "whisperlab models fetch base"
    assert all(finding["advice"] for finding in findings if finding["status"] == "FAIL")


def test_a_full_disk_fails_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "LITTLE_DISK", float("inf"))
    monkeypatch.setattr(doctor, "ENOUGH_DISK", float("inf"))
    monkeypatch.setattr("whisperlab.util.threads.second_thread", lambda: 0.62)
    assert run("doctor") == 1
    streams = capsys.readouterr()
    assert "FAIL  disk" in streams.out
    assert streams.err.splitlines()[-1].endswith("not usable until these are fixed: disk")


def test_the_doctor_names_the_instructions_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperlab.util.threads.second_thread", lambda: 0.62)
    monkeypatch.setattr("whisperlab.model.linear.cpu_instructions", lambda: (True, False, False))
    processor = next(doctor.torch())
    assert processor.detail.endswith(" cores; VNNI, no AVX-512 BF16, no AMX")


@pytest.mark.parametrize(
    "what,figure",
    [
        ("buffer", "append / bare copy into one place"),
        ("metrics", "record() / two readings of the clock"),
        pytest.param("cache", "rounded: look-up of 2 s, hash included, p95", marks=pytest.mark.model),
    ],
)
def test_a_small_bench_gives_figures_with_interval_count_and_origin(
    what: str, figure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(microbenchmarks, "ROUNDS", 6)
    monkeypatch.setattr(microbenchmarks, "APPENDS", 20)
    monkeypatch.setattr(microbenchmarks, "CALLS", 20)
    monkeypatch.setattr(microbenchmarks.metrics_figures, "__defaults__", (1000,))
    assert run("bench", what, "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["bench"] == what
    assert document["machine"]["cores"] > 0
    rows = {row["figure"]: row for row in document["rows"]}
    assert rows[figure]["value"] > 0
    for row in rows.values():
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    figures = [Figure(**row) for row in rows.values()]
    monkeypatch.setattr(microbenchmarks, f"{what}_figures", lambda *_: figures)
    monkeypatch.setattr("whisperlab.model.weights.load_weights", lambda name: None)
    assert run("bench", what) == 0
    assert figure in capsys.readouterr().out


def test_all_passes_of_a_profile_leave_out_those_that_cannot_run(
    call: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "is_there", lambda library: False)
    assert run("profile", call, "--all", "--model", "nothing.pt") == 1
    skipped = "skipped, not installed: heap (memray), cpu (pyinstrument), lines (line_profiler); "
    assert f"{skipped}pip install 'whisperlab[profile]'" in capsys.readouterr().err


def test_profiling_a_file_that_is_not_there_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("whisperlab.profiling.workload.get_context", pytest.fail)
    assert run("profile", tmp_path / "none.wav") == 1
    assert "no such file" in capsys.readouterr().err


# ---- the console -----------------------------------------------------------------------------------------


def test_a_table_has_names_aligned_columns_and_a_dash_for_nothing() -> None:
    rows = [{"name": "a", "rate": 0.123456}, {"name": "longer", "rate": None}]
    assert text_table(rows) == "name      rate\na       0.1235\nlonger       -"
    assert text_table([]) == "(nothing)"


def test_what_json_cannot_say_becomes_null() -> None:
    out = io.StringIO()
    Console(out, io.StringIO(), json=True).document({"a": [float("nan"), float("inf"), 1.5], 2: "nan"})
    assert json.loads(out.getvalue()) == {"a": [None, None, 1.5], "2": "nan"}


def test_an_error_without_words_is_told_by_its_name() -> None:
    err = io.StringIO()
    Console(io.StringIO(), err, json=False).error(OSError())
    assert err.getvalue() == "whisperlab: error: OSError\n"


# ---- with the real model ---------------------------------------------------------------------------------


def odd_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Awkward audio files and the exit code each must end in."""
    tone = np.tile(SECOND, 2) * np.float32(0.5)
    stereo = np.stack([np.interp(np.arange(0, 2, 1 / 44_100), np.arange(len(tone)) / SAMPLE_RATE, tone)] * 2, 1)
    soundfile.write(folder / "stereo-44k.wav", stereo, 44_100, subtype="PCM_16")
    soundfile.write(folder / "8k.wav", tone[::2], 8_000, subtype="PCM_16")
    soundfile.write(folder / "float64.wav", tone.astype(np.float64), SAMPLE_RATE, subtype="DOUBLE")
    soundfile.write(folder / "short.wav", tone[:1600], SAMPLE_RATE)
    holed = tone.copy()
    holed[100] = np.nan
    soundfile.write(folder / "nan.wav", holed, SAMPLE_RATE, subtype="FLOAT")
    (folder / "text.wav").write_text("this is not a sound", encoding="utf-8")
    (folder / "empty.wav").touch()
    yield from {
        "stereo-44k.wav": 0,
        "8k.wav": 0,
        "float64.wav": 0,
        "short.wav": 0,
        "nan.wav": 1,
        "text.wav": 1,
        "empty.wav": 1,
        "missing.wav": 1,
    }.items()


@pytest.mark.model
def test_odd_audio_is_transcribed_or_refused_in_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = dict(odd_files(tmp_path))
    paths = [tmp_path / name for name in codes]
    assert run("transcribe", *paths, "--languages", "en,es", "--json") == 1
    streams = capsys.readouterr()
    done = {Path(document["audio"]).name: document for document in documents(streams.out)}
    assert list(done) == [name for name, code in codes.items() if code == 0]
    assert done["short.wav"]["duration"] == pytest.approx(0.1)
    assert done["stereo-44k.wav"]["duration"] == pytest.approx(2.0)
    told = [line for line in streams.err.splitlines() if line.startswith("whisperlab: error: ")]
    assert len(told) == 4
    for name, code in codes.items():
        assert sum(name in line for line in told) == code
    assert "Traceback" not in streams.err


@pytest.mark.model
@pytest.mark.parametrize(
    "words",
    [
        ("--languages", "en,klingon"),
        ("--language", "klingon"),
        ("--model", "enormous"),
        ("--model", "/no/such/file.pt"),
        ("--device", "abacus"),
    ],
)
def test_an_impossible_option_is_one_line_that_names_it(
    words: tuple[str, str], call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, *words, "--json") == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    told = [line for line in streams.err.splitlines() if line.startswith("whisperlab: error: ")]
    assert len(told) == 1
    assert words[1].split(",")[-1] in told[0]
    assert "Traceback" not in streams.err

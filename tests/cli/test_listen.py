"""Pipes and microphones on the command line: text while it is spoken, and nothing lost at Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from microphones import plug_in
from test_cli import SECOND, Built, FakeTranscriber, Terminal, documents, run

from whisperlab.cli import transcribe
from whisperlab.cli.console import Console, LiveText
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.trace import read_trace
from whisperlab.streaming.sources import ArraySource, Recorded
from whisperlab.util.audio_arrays import as_chunk, audio_digest, pcm_16
from whisperlab.util.threads import first_signal
from whisperlab.util.timeline import SAMPLE_RATE

SPEECH = as_chunk(pcm_16(np.tile(SECOND, 3)))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    built = Built()
    monkeypatch.setattr(transcribe, "build_transcriber", built)
    return built


# ---- pipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_segments_of_standard_input_appear_while_audio_arrives_and_a_signal_finishes_the_stream(
    built: Built,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, (reading, writing) = os.dup(0), os.pipe()
    left = [number]

    def interrupt(*_: object) -> None:
        if built.transcriber.segments and left:
            os.kill(os.getpid(), left.pop())

    monkeypatch.setattr(LiveText, "take", interrupt)
    os.dup2(reading, 0)
    try:  # nobody closes the writing end
        os.write(writing, pcm_16(SPEECH[: SAMPLE_RATE + 1600]).tobytes())
        assert run("transcribe", "-", "--rate", "16000", "--trace", tmp_path / "t.jsonl") == 0
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reading, writing):
            os.close(descriptor)
    streams = capsys.readouterr()
    assert streams.out.startswith("[0.0 - 1.0] en: uno 0\n")
    assert "stdin: 1 segments, 0 switches, 1." in streams.err
    trace = read_trace(tmp_path / "t.jsonl")
    assert trace.header["audio"]["sha256"] == audio_digest(SPEECH[: round(trace.duration * SAMPLE_RATE)])
    assert (trace.recording, trace.header["audio"]["path"]) == ("stdin", None)


@pytest.mark.parametrize("pace", ["fast", "real"])
def test_a_named_pipe_is_read_beside_files(
    built: Built, tmp_path: Path, pace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "call.wav", SPEECH[:SAMPLE_RATE])
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "call.wav").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert run("transcribe", tmp_path / "call.wav", tmp_path / "pipe", "--pace", pace, "--json") == 0
    writer.join()
    file, piped = documents(capsys.readouterr().out)
    assert [each.pop("emitted_at", 1.0) >= 0.9 for each in (*file["segments"], *piped["segments"])] == [True, True]
    assert piped["segments"] == file["segments"] != []
    assert piped["duration"] == file["duration"] == 1.0


@pytest.mark.parametrize(
    "words,message",
    [
        (["-", "-"], "- is audio on standard input, once"),
        (["-", "--channel", "each"], "--track and --channel need a file"),
        (["a.raw", "--rate", "8000", "--track", "2"], "--track and --channel need a file"),
    ],
)
def test_options_that_a_pipe_cannot_have_are_wrong_usage(
    built: Built, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("transcribe", *words)
    assert message in capsys.readouterr().err
    assert not built.options


def test_a_terminal_is_no_audio(built: Built, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 0)
    with pytest.raises(SystemExit):
        run("transcribe", "-")
    assert "- is audio on standard input, once, such as: ffmpeg" in capsys.readouterr().err


# ---- microphone ------------------------------------------------------------------------------------------


def test_a_microphone_is_transcribed_recorded_and_traced(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(monkeypatch, SPEECH)
    words = ("listen", "--device", "1", "--save", tmp_path / "talk.wav", "--trace", tmp_path / "talk.jsonl")
    assert run(*words) == 0
    streams = capsys.readouterr()
    assert streams.out.splitlines()[:1] == ["[0.0 - 1.0] en: uno 0"]
    assert "listening to Desk microphone; Ctrl-C ends" in streams.err
    assert "microphone: 3 segments, 2 switches, 3.0 s of audio" in streams.err
    assert "dropped 0.0 s in 0 gaps" in streams.err
    trace = read_trace(tmp_path / "talk.jsonl")
    assert np.array_equal(read_audio(tmp_path / "talk.wav"), SPEECH)
    assert trace.header["audio"]["path"] == str(tmp_path / "talk.wav")
    assert trace.header["audio"]["sha256"] == audio_digest(SPEECH)
    assert (trace.recording, trace.header["pace"]) == ("talk", "real")


def test_listening_ends_after_the_seconds_given_and_prints_a_document(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = plug_in(monkeypatch, SPEECH, stays=True)
    assert run("listen", "--seconds", "1.5", "--json", "-q") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["audio"] == "microphone"
    assert 1.5 <= document["duration"] < 1.8
    assert library.opened[0].stopped.is_set()


def test_ctrl_c_ends_a_microphone_and_what_was_received_is_printed(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(FakeTranscriber):
        def process(self, chunk: np.ndarray, /) -> Any:
            if self.heard < 2 * SAMPLE_RATE <= self.heard + len(chunk):
                os.kill(os.getpid(), signal.SIGINT)
            return super().process(chunk)

    plug_in(monkeypatch, SPEECH, stays=True)
    built.transcriber = Interrupted()
    assert run("listen", "-o", "txt", "-q") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "uno" in line] == ["uno 0", "uno 1", "uno 2"]


def test_microphones_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plug_in(monkeypatch, SPEECH)
    assert run("listen", "--list-devices") == 0
    assert "     1  Desk microphone         1  16000\n" in capsys.readouterr().out
    assert run("listen", "--list-devices", "--json") == 0
    assert [each["name"] for each in documents(capsys.readouterr().out)[0]] == ["Desk microphone"]


@pytest.mark.parametrize("heard", [SPEECH, SPEECH[:0]], ids=["something", "nothing"])
def test_a_recording_survives_an_error_and_an_empty_one_replaces_nothing(
    built: Built, tmp_path: Path, heard: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "talk.wav").write_bytes(b"of yesterday")
    built.transcriber.failure = OSError("broken")
    plug_in(monkeypatch, heard, stays=len(heard) > 0)
    assert run("listen", "--save", tmp_path / "talk.wav") == 1
    assert ("broken" if len(heard) else "microphone: ended without a single sample") in capsys.readouterr().err
    if len(heard):
        found = read_audio(tmp_path / "talk.wav")
        assert np.array_equal(found, SPEECH[: len(found)])
    else:
        assert (tmp_path / "talk.wav").read_bytes() == b"of yesterday"
    assert [path.name for path in tmp_path.iterdir()] == ["talk.wav"]


def test_on_a_terminal_level_and_lag_are_shown() -> None:
    screen = Terminal()
    live = LiveText(Console(screen, screen, json=False), "Desk", None, clock=iter([0.0, 3.6]).__next__)
    live.recorded = Recorded(ArraySource(np.full(SAMPLE_RATE, -0.1, np.float32), "Desk"), None, most_s=9.0)
    assert len(list(live.recorded)) == 10
    live.progress(0.7)
    assert "Desk: 1 s, lag 0.3 s █████████████······· -20 dB" in screen.getvalue()


def test_the_first_signal_finishes_and_the_next_interrupts() -> None:
    finished: list[str] = []
    with first_signal(lambda: finished.append("once")):
        os.kill(os.getpid(), signal.SIGINT)
        assert finished == ["once"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with first_signal(lambda: finished.append("ignored")):
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished == ["once"]

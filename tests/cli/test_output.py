"""Texts that `transcribe` prints or writes: subtitles, tables, annotations."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from test_cli import Built, built, call, run

from whisperlab.cli.console import DIM, ERASE, PLAIN, UP, Console, LiveText
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.errors import WhisperlabError

__all__ = ["built", "call"]  # fixtures


def test_a_format_is_printed_in_place_of_the_lines(
    built: Built, call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", call, "-o", "srt") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("1\n00:00:00,000 --> 00:00:01,000\nuno 0\n\n2\n")
    assert "a library that chats on stdout" in printed.err
    built.transcriber.reset()
    assert run("transcribe", call, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["segments"][0]["words"] == []


def test_formats_of_several_files_go_to_a_folder(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    other = shutil.copy(call, tmp_path / "b" / "call.wav")
    assert run("transcribe", call, other, "-o", "vtt,textgrid,json", "--out", tmp_path / "texts") == 0
    assert "call.wav: [0.0 - 1.0]" in capsys.readouterr().out
    names = {f"{number}-call.{suffix}" for number in ("001", "002") for suffix in ("vtt", "TextGrid", "json")}
    assert {path.name for path in (tmp_path / "texts").iterdir()} == names
    assert json.loads((tmp_path / "texts" / "002-call.json").read_text())["audio"] == str(other)


def test_a_folder_alone_means_subtitles_with_the_options_given(built: Built, call: Path, tmp_path: Path) -> None:
    assert run("transcribe", call, "--out", tmp_path / "texts", "--longest-s", "3", "--chars-per-s", "1") == 0
    assert (tmp_path / "texts" / "call.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    built.transcriber.reset()
    assert run("transcribe", call, "--out", tmp_path, "--line-chars", "3") == 1


@pytest.mark.parametrize(
    "words,told",
    [
        (["-o", "doc"], "unknown format 'doc' (choose from txt, srt"),
        (["-o", "srt,ctm"], "several formats (srt, ctm) need --out DIR"),
        (["again.wav", "-o", "srt"], "srt holds one recording; for 2 audio files give --out DIR"),
        (["-o", "srt", "--json"], "--json and --output both print the result"),
    ],
)
def test_options_that_exclude_each_other_are_told_before_any_work(
    built: Built, call: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as left:
        run("transcribe", call, *words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err
    assert built.options == []


# A title of the window, a C1 control, an override of the direction, backspace.
HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\x08e"
SHOWN = r"a\u001b]0;owned\u0007b\u009b2Jc\u202ed\u0008e"
IN_A_PIPE = SHOWN.replace(r"\u202e", "\u202e")  # subtitles keep their direction
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_names_and_texts_cannot_command_the_terminal(
    built: Built, call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verbose: list[str]
) -> None:
    named = tmp_path / f"{HOSTILE}.wav"
    shutil.copy(call, named)
    assert run("transcribe", call, named, *verbose) == 0
    printed = capsys.readouterr()
    assert IN_A_PIPE in printed.out
    assert not COMMANDS.search(printed.out + printed.err)
    named.write_bytes(b"no audio")
    assert run("transcribe", named) == 1
    assert not COMMANDS.search(err := capsys.readouterr().err)
    assert SHOWN in err


def test_neither_can_wrong_usage_nor_a_log_message(
    built: Built, call: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run("transcribe", call, f"--l={HOSTILE}")  # of several options
    assert not COMMANDS.search(err := capsys.readouterr().err)
    assert SHOWN in err

    def build(args: object) -> None:
        logging.getLogger("whisperlab").warning(HOSTILE)
        raise WhisperlabError("no model")

    monkeypatch.setattr("whisperlab.cli.transcribe.build_transcriber", build)
    assert run("transcribe", call) == 1
    assert SHOWN in capsys.readouterr().err


def test_on_a_terminal_only_our_own_sequences_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    console = Console(screen, screen, json=False)
    for print_it in (console.show, console.note, lambda text: console.error(OSError(2, "no such file", text))):
        print_it(HOSTILE)
    live = LiveText(console, HOSTILE, 57.0, clock=iter([0.0, 1.0]).__next__)
    live.take(ProcessResult(HOSTILE, f" {HOSTILE}", None))
    live.progress(1.0)
    live.erase()
    text = screen.getvalue()
    assert text.count(SHOWN) == 6
    for own in (ERASE, DIM, PLAIN, UP, "\r\x1b[J"):
        text = text.replace(own, "")
    assert not COMMANDS.search(text)
    assert "\u202e" not in text


def test_json_keeps_every_character() -> None:
    out = io.StringIO()
    console = Console(out, out, json=True)
    console.document({"text": HOSTILE + "ñ東"})
    assert not COMMANDS.search(out.getvalue())
    assert "ñ東" in out.getvalue()
    assert json.loads(out.getvalue()) == {"text": HOSTILE + "ñ東"}

"""Texts that `transcribe` prints or writes: subtitles, tables, annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_cli import Built, built, call, run

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

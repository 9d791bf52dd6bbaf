"""`data import` and `score` on files of other programs, and `score --export` for them."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from faster_whisper.transcribe import Segment, Word
from test_cli import call, documents, run

from whisperlab.data import read_manifest

__all__ = ["call"]  # a fixture

STM = "call 1 A 0 1.5 <en> one two\ncall 1 B 1.2 3 <es> tres\nlost 1 A 0 1 <en> gone\n"


def test_an_import_shows_what_it_understood_and_writes_a_manifest(
    call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ref.stm").write_text(STM)
    assert run("data", "import", tmp_path / "ref.stm", "--out", tmp_path / "manifest.jsonl") == 0
    printed = capsys.readouterr().out
    assert "one two tres" in printed
    assert "es:2 en:2" in printed
    assert "warning: left out, because the audio was not found (--audio DIR): 1 (lost)" in printed
    assert "warning: overlapping segments: 1 (call)" in printed
    (one,) = read_manifest(tmp_path / "manifest.jsonl")
    assert (one.audio_path, one.lang, one.switches) == (call, "en,es", 1)
    assert run("data", "import", tmp_path / "ref.stm", "--out", tmp_path / "manifest.jsonl", "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    row = {"id": "call", "start (s)": None, "length (s)": 3.0, "languages": "en,es", "text": "one two tres"}
    assert (document["format"], document["first"], len(document["warnings"])) == ("stm", [row], 2)


def test_an_import_that_fails_leaves_the_manifest_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.jsonl").write_text("before")
    (tmp_path / "ref.stm").write_text(STM)
    assert run("data", "import", tmp_path / "ref.stm", "--out", tmp_path / "manifest.jsonl") == 1
    assert "no recording in it as stm" in capsys.readouterr().err
    assert (tmp_path / "manifest.jsonl").read_text() == "before"
    assert run("data", "import", tmp_path / "none.stm", "--out", tmp_path / "manifest.jsonl") == 1
    assert "none.stm: No such file" in capsys.readouterr().err


PARTS = [(0.0, 1.5, " one two"), (1.5, 2.9, " trees")]
FASTER = [
    asdict(Segment(n, 0, start, end, text, [50364], -0.3, 1.2, 0.01, [Word(start, end, text, 0.9)], 0.0))
    for n, (start, end, text) in enumerate(PARTS, 1)
]
OPENAI = [{"id": n, "seek": 0, "start": a, "end": b, "text": t, "tokens": [1]} for n, (a, b, t) in enumerate(PARTS)]
WHISPERX = [
    {"start": a, "end": b, "text": t, "words": [{"word": t.strip(), "start": a, "end": b, "score": 0.7}]}
    for a, b, t in PARTS
]


@pytest.mark.parametrize(
    "written,wrong_language",
    [
        ({"text": " one two trees", "segments": OPENAI, "language": "en"}, 1 / 2),
        ({"segments": WHISPERX, "word_segments": [], "language": "en"}, 1 / 2),
        (
            {"task": "transcribe", "language": "english", "duration": 3.0, "text": "one two trees", "segments": FASTER},
            1 / 2,
        ),
        ({"segments": [OPENAI[0], OPENAI[1] | {"language": "es"}], "language": "en"}, 0),
        (FASTER, 1),
    ],
    ids=["openai-whisper", "WhisperX", "faster-whisper server", "language by segment", "faster-whisper segments"],
)
def test_json_of_other_whisper_programs_is_scored(
    call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: Any, wrong_language: float
) -> None:
    segments = [("one two", "en", 0.0, 1.5), ("tres", "es", 1.5, 3.0)]
    reference = [{"text": t, "lang": lang, "start": a, "end": b} for t, lang, a, b in segments]
    line = {"audio_filepath": "call.wav", "duration": 3.0, "text": "one two tres", "segments": reference}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    (tmp_path / "call.json").write_text(json.dumps(written, indent=1))
    assert run("score", tmp_path / "call.json", "--reference", tmp_path / "manifest.jsonl", "--json") == 0
    (scores,) = documents(capsys.readouterr().out)
    total = scores["total"]
    assert total["mixed_error_rate"] == pytest.approx(1 / 3)
    assert total["language_error_rate"] == pytest.approx(wrong_language, abs=0.04)
    assert scores["counts"]["audio_s"] == 3.0
    assert scores["counts"]["switches"]["true"] == 1


@pytest.mark.parametrize("value", [3, {"segments": [{"start": 0}]}, {"segments": None}])
def test_other_json_is_no_hypothesis(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object) -> None:
    (tmp_path / "call.json").write_text(json.dumps(value))
    assert run("score", tmp_path / "call.json") == 1
    assert "call.json" in capsys.readouterr().err


def log(system: str, delay: float) -> str:
    """A stream log of the call in which every word is final some seconds after its end."""
    words = [("one", "en", 0.75), ("two", "en", 1.5), ("tres", "es", 3.0)]
    lines: list[dict[str, Any]] = [
        {"kind": "header", "recording": "call", "audio": {"duration": 3.0}, "system": system},
        *(
            {
                "kind": "text",
                "at": min(end + delay, 3.0),
                "elapsed": end + delay,
                "committed": word,
                "language": language,
            }
            for word, language, end in words
        ),
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_logs_of_systems_are_compared_and_exported(
    call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments = [("one two", "en", 0.0, 1.5), ("tres", "es", 2.0, 3.0)]
    reference = [{"text": t, "lang": lang, "start": a, "end": b} for t, lang, a, b in segments]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        json.dumps({"audio_filepath": "call.wav", "duration": 3.0, "text": "", "segments": reference}), encoding="utf-8"
    )
    for name, delay in (("quick", 0.2), ("slow", 1.0)):
        (tmp_path / f"{name}.jsonl").write_text(log(name, delay), encoding="utf-8")
    logs = [tmp_path / "quick.jsonl", tmp_path / "slow.jsonl"]
    assert run("score", *logs, "--reference", manifest) == 0
    _, quick, slow, *more = capsys.readouterr().out.splitlines()
    assert any("LongYAAL (s)" in line for line in more)
    assert (quick.split()[1:4], slow.split()[1:4]) == (["quick", "call", "0.0"], ["slow", "call", "0.0"])
    assert run("report", *logs, "--reference", manifest, "--out", tmp_path / "page.html") == 0
    page = unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "quick: words final after 0.2 s, 0 % of the words at switches wrong; slow: " in page
    assert 'id="recording-1"' in page  # with its timeline
    capsys.readouterr()
    assert run("score", logs[0], "--reference", manifest, "--export", tmp_path / "out", "--json") == 0
    (document,) = documents(capsys.readouterr().out)
    assert document["total"]["time_to_final_p50"] == pytest.approx(0.2)
    assert document["total"]["long_laal_ca"] == pytest.approx(((0.95 + 1.7 - 0.75) / 2 + 1.2) / 2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"omnisteval.jsonl", "simulstream.jsonl", "segments.yaml", "references.txt", "stream.jsonl"}
    assert run("score", tmp_path / "out" / "traces", "--json") == 0  # they have their reference
    assert documents(capsys.readouterr().out)[0]["total"] == document["total"]
    assert run("score", *logs, "--reference", manifest, "--export", tmp_path / "both") == 1
    assert "an export needs one stream per recording" in capsys.readouterr().err

"""File names that are not UTF-8, file contents that are not, and terminals and locales of other encodings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import Built, built, run
from test_import import log

from whisperlab.cli.commands import build_parser
from whisperlab.data import read_manifest
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace import capture, read_trace, write_trace
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.util.errors import ManifestError
from whisperlab.util.json_values import to_json, unicode_text

__all__ = ["built"]  # a fixture

ROOT = Path(__file__).parents[2]
CAFE = os.fsdecode(b"caf\xe9")  # in Latin-1
SHOWN = "caf\\xe9"
TOKYO = "東京"
# Locale and encoding of stdout: none of them UTF-8. Python itself would take UTF-8 for the locale C.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = [ASCII, {**ASCII, "PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "latin-1"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name that is not UTF-8: two recordings, one of them with such a name too, and a manifest."""
    path = tmp_path / CAFE
    path.mkdir()
    for name in (CAFE, TOKYO):
        write_wav(path / f"{name}.wav", np.zeros(48_000, np.float32))
    line = {"audio_filepath": f"{TOKYO}.wav", "duration": 3.0, "text": "one two tres", "lang": "en"}
    (path / "m.jsonl").write_text(json.dumps(line, ensure_ascii=False), "utf-8")
    return path


def program(
    *words: str | bytes | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own. Nothing may end in a traceback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    own = {**kept, "PYTHONPATH": str(ROOT), **(environment or {})}
    command = [sys.executable, "-P", "-m", "whisperlab", *words]
    done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


def strict(text: str | bytes) -> Any:
    """JSON that every parser takes: no half of a surrogate pair."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def test_bytes_of_a_name_become_escapes_and_other_text_stays() -> None:
    assert unicode_text(f"{CAFE} {TOKYO} \\xe9") == f"{SHOWN} {TOKYO} \\xe9"
    assert unicode_text(os.fsencode(TOKYO).decode("ascii", "surrogateescape")) == TOKYO  # from a locale of ASCII
    assert to_json({CAFE: [Path(CAFE), CAFE]}) == {SHOWN: [SHOWN, SHOWN]}


@pytest.mark.parametrize("environment", [{}, *ENCODINGS])
def test_a_manifest_means_the_same_files_in_every_locale(folder: Path, environment: dict[str, str]) -> None:
    info = program("data", "info", folder / "m.jsonl", "--json", cwd=folder, environment=environment)
    encoding = "latin-1" if "latin-1" in environment.values() else "utf-8"
    document = strict(info.stdout.decode(encoding))
    assert document["corpus"] == f"{unicode_text(str(folder))}/m.jsonl"
    assert [one["id"] for one in document["recordings"]] == [TOKYO]
    found = program("data", "path", TOKYO.encode(), "--corpus", folder / "m.jsonl", cwd=folder, environment=environment)
    assert found.stdout == os.fsencode(folder / f"{TOKYO}.wav") + b"\n"  # as $(whisperlab data path ...) needs it
    lost = program("data", "path", b"caf\xe9", "--corpus", folder / "m.jsonl", cwd=folder, environment=environment)
    assert (lost.returncode, len(lost.stderr.splitlines())) == (1, 1)
    assert os.fsencode(SHOWN) in lost.stderr


@pytest.mark.parametrize("environment", [{}, *ENCODINGS])
def test_scores_pages_and_exports_need_no_utf_8_locale(folder: Path, environment: dict[str, str]) -> None:
    (folder / f"{CAFE}.jsonl").write_text(log("quick", 0.2).replace('"call"', f'"{TOKYO}"'), "utf-8")
    words = [folder / f"{CAFE}.jsonl", "--reference", folder / "m.jsonl", "--json"]
    score = program("score", *words, "--export", folder / "out", cwd=folder, environment=environment)
    assert score.returncode == 0, score.stderr
    exported = os.fsencode(folder / "out" / "traces" / f"{TOKYO}.jsonl")
    assert read_trace(os.fsdecode(exported)).recording == TOKYO
    report = program("report", *words, "--out", folder / "pages", cwd=folder, environment=environment)
    assert report.returncode == 0, report.stderr
    (page,) = strict(report.stdout)["pages"]
    assert page == f"{unicode_text(str(folder))}/pages/{SHOWN}.html"
    assert SHOWN in (folder / "pages" / f"{SHOWN}.html").read_text("utf-8")
    assert "caf%5Cxe9.html" in (folder / "pages" / "index.html").read_text("utf-8")


def test_a_page_of_a_name_in_utf_8_keeps_it_in_a_locale_of_ascii(folder: Path) -> None:
    trace = folder / f"{TOKYO}.jsonl"
    trace.write_text(log("quick", 0.2), "utf-8")
    report = program("report", trace, "--out", folder / "pages", cwd=folder, environment=ASCII)
    assert report.returncode == 0, report.stderr
    assert (folder / "pages" / f"{TOKYO}.html").exists()


def parsers(parser: Any) -> Iterator[Any]:
    yield parser
    for each in parser.subparsers().values():
        yield from parsers(each)


def test_every_help_can_be_printed_in_ascii() -> None:
    assert not [parser.prog for parser in parsers(build_parser()) if not parser.format_help().isascii()]


class Silent:
    """A transcriber without a result."""

    def process(self, chunk: object) -> Any:
        from whisperlab.streaming.results import ProcessResult

        return ProcessResult("", "", None)

    def finalize(self) -> Any:
        return self.process(None)

    def config(self) -> dict[str, Any]:
        return {}

    def get_statistics(self) -> dict[str, Any]:
        return {}


def test_a_trace_of_audio_with_such_a_name_is_written(folder: Path) -> None:
    audio = np.zeros(16_000, np.float32)
    trace = capture(Silent(), audio, recording=CAFE, audio_path=folder / f"{CAFE}.wav")
    write_trace(folder / f"{CAFE}.jsonl", trace)
    for line in (folder / f"{CAFE}.jsonl").read_bytes().splitlines():
        strict(line)
    header = read_trace(folder / f"{CAFE}.jsonl").header
    assert (header["recording"], header["audio"]["path"]) == (SHOWN, f"{unicode_text(str(folder))}/{SHOWN}.wav")


def test_a_manifest_with_such_a_name_gives_its_recordings_a_corpus_in_unicode(folder: Path) -> None:
    (one,) = read_manifest((folder / "m.jsonl").rename(folder / f"{CAFE}.jsonl"))
    assert (one.corpus, one.id) == (SHOWN, TOKYO)


def test_a_manifest_that_is_not_utf_8_is_refused_with_the_line_and_the_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"audio_filepath": "a.wav", "duration": 3, "text": "año"}, ensure_ascii=False) + "\n"
    (folder / "m.jsonl").write_bytes(line.replace("ñ", "n").encode() + line.encode("latin-1"))
    with pytest.raises(ManifestError, match=r"byte 0xf1 in position .*, in line 2; convert the file to UTF-8"):
        read_manifest(folder / "m.jsonl")
    assert run("data", "info", folder / "m.jsonl") == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"whisperlab: error: {unicode_text(str(folder))}/m.jsonl: not a text in UTF-8 or UTF-16: ")


def test_annotations_of_such_a_recording_say_what_to_rename(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / f"{CAFE}.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n\n")
    assert run("data", "import", folder / f"{CAFE}.srt", "--out", folder / "i.jsonl", "--language", "en") == 1
    assert f"a manifest needs names in UTF-8: rename '{SHOWN}.wav'" in capsys.readouterr().err
    assert not (folder / "i.jsonl").exists()


def test_annotations_name_files_in_utf_8_also_in_a_locale_of_ascii(folder: Path) -> None:
    (folder / f"{TOKYO}.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n\n")
    words = [folder / f"{TOKYO}.srt", "--out", folder / "i.jsonl", "--language", "en"]
    assert program("data", "import", *words, cwd=folder, environment=ASCII).returncode == 0
    (one,) = read_manifest(folder / "i.jsonl")
    assert (one.id, one.corpus, one.audio_path) == (TOKYO, TOKYO, folder / f"{TOKYO}.wav")


def test_transcribing_such_files_gives_valid_json_and_files(
    built: Built, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = [folder / f"{name}.wav" for name in (CAFE, TOKYO)]
    formats = ["-o", "srt,json,ctm", "--out", folder / CAFE, "--trace", folder / "traces"]
    assert run("transcribe", *audio, *formats, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [strict(line)["audio"] for line in lines] == [unicode_text(str(one)) for one in audio]
    written = [*(folder / CAFE).iterdir(), *(folder / "traces").iterdir()]
    assert len(written) == 8
    for path in written:
        text = path.read_bytes().decode()
        for line in text.splitlines() if path.suffix in (".json", ".jsonl") else ():
            strict(line)


def arguments(task: object) -> list[str]:
    """A pass that returns the command line of its process."""
    return sys.argv[1:]


def test_a_profile_of_such_a_file_can_write_its_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["whisperlab", CAFE])
    assert in_fresh_process(arguments, None) == [SHOWN]  # memray raises UnicodeEncodeError for the bytes

"""Commands without optional libraries: each names all that are missing before any work, and how to install them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from nest import Nest, extras

from whisperlab.cli import commands
from whisperlab.data.audio_files import write_wav

if TYPE_CHECKING:
    from conftest import Scene

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
PAGES = "jinja2 (HTML pages), matplotlib (figures), vl-convert-python (interactive figures)"

# Command lines that need more than the core, and what each lacks without any extra.
LACKING = {
    "report book.ipynb": "jinja2 (HTML pages), papermill (notebooks), nbconvert (notebooks), ipykernel (notebooks); "
    "pip install 'whisperlab[notebook,report]'",
    "report trace.jsonl": f"{PAGES}; pip install 'whisperlab[report]'",
    "listen": "sounddevice (microphone); pip install 'whisperlab[microphone]'",
    "compare {} {} --corpus ok.jsonl": "scipy (significance tests); pip install 'whisperlab[sweep]'",
    "compare {} {}": "scipy (significance tests); pip install 'whisperlab[sweep]'",
    "search --space {} --corpus ok.jsonl": "optuna (search); pip install 'whisperlab[search]'",
    "sweep --corpus ok.jsonl --ray auto": "ray (--ray); pip install 'whisperlab[ray]'",
    "score ok.jsonl --normalizer whisper": "openai-whisper (--normalizer whisper); pip install 'whisperlab[reference]'",
    "profile call.wav --heap --cpu --lines --out page.html": "memray (--heap), pyinstrument (--cpu), "
    f"line-profiler (--lines), {PAGES}; pip install 'whisperlab[profile,report]'",
    "profile call.wav": "jinja2 (tables); pip install 'whisperlab[report]'",
}
# Command lines that need the core alone, and a part of what they print.
CORE = {
    "transcribe nothing.wav": "nothing.wav: no such file",
    "score nothing.txt nothing.txt": "nothing.txt",
    "models list": "large-v3",
    "systems list": "not on the package index",
    "bench systems --corpus ok.jsonl --systems SimulStreaming": "not on the package index",
    "data info ok.jsonl": "recordings",
}
# The doctor, which measures what a second thread saves, though not thirty times.
QUICK_DOCTOR = """
from whisperlab.util import threads

measure = threads.second_thread
threads.second_thread = lambda: measure(rounds=1)

from whisperlab.cli import main

raise SystemExit(main(["doctor"]))
"""


@dataclass(slots=True, frozen=True)
class Ran:
    """What became of a process."""

    returncode: int
    stdout: str
    stderr: str


def whisperlab(bare: Nest, folder: Path, line: str) -> Ran:
    """A command line, without extras."""
    return without_extras(bare, folder, ["-m", "whisperlab", *line.split()])


def without_extras(bare: Nest, folder: Path, words: list[str], *, empty_cache: bool = True) -> Ran:
    """Python in a folder, where no extra is installed and, with an empty cache, no corpus is built.

    Nor do processes that it starts find an extra.
    """
    (folder / "sitecustomize.py").write_text(BLOCKER.format(blocked=extras()))
    write_wav(folder / "call.wav", np.zeros(16_000, np.float32))
    recording = {"audio_filepath": "call.wav", "duration": 1.0, "text": "", "lang": "en,es", "split": "test"}
    (folder / "ok.jsonl").write_text(json.dumps(recording) + "\n")
    path = os.pathsep.join([str(folder), str(Path(commands.__file__).parents[2])])
    cache = {"WHISPERLAB_CACHE": str(folder / "cache")} if empty_cache else {}
    out, err = folder / "stdout", folder / "stderr"
    code = bare.wait(bare.python(words, folder, out, err, PYTHONPATH=path, **cache))
    return Ran(code, out.read_text(), err.read_text())


@pytest.mark.parametrize("line", LACKING)
def test_all_that_a_command_lacks_is_told_at_once_before_any_work(bare: Nest, tmp_path: Path, line: str) -> None:
    ran = whisperlab(bare, tmp_path, line)
    assert ran.stderr == f"whisperlab: error: not installed: {LACKING[line]}\n"
    assert (ran.returncode, ran.stdout) == (1, "")


@pytest.mark.parametrize("line", CORE)
def test_what_needs_the_core_alone_works_without_extras(bare: Nest, tmp_path: Path, line: str) -> None:
    ran = whisperlab(bare, tmp_path, line)
    assert CORE[line] in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_doctor_names_the_extras_that_are_not_installed(bare: Nest, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(QUICK_DOCTOR)
    ran = without_extras(bare, tmp_path, ["program.py"])
    assert "reference: without openai-whisper -> pip install 'whisperlab[reference]'" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.model
def test_speech_is_transcribed_without_extras(bare: Nest, tmp_path: Path, scene: Scene) -> None:
    code = (
        "import sys, numpy; from whisperlab import SessionRestartTranscriber\n"
        "transcriber = SessionRestartTranscriber('base', languages=['en', 'es'])\n"
        "transcriber.process(numpy.load('scene.npy'))\n"
        "print(' '.join(segment.text for segment in transcriber.finalize().segments))\n"
    )
    np.save(tmp_path / "scene.npy", scene.clip(scene.segments[0]))
    (tmp_path / "program.py").write_text(code)
    ran = without_extras(bare, tmp_path, ["program.py"], empty_cache=False)
    assert "wrong" in ran.stdout, ran.stderr


def test_every_command_is_tried_without_extras() -> None:
    tried = {line.split()[0] for line in (*LACKING, *CORE, "doctor")}
    assert tried == {module.__name__.rpartition(".")[2] for module in commands.COMMANDS}


def test_a_notebook_run_by_the_library_names_what_is_missing(bare: Nest, tmp_path: Path) -> None:
    code = "from whisperlab.report.notebook import run_notebook; run_notebook('book.ipynb', 'page.html')"
    (tmp_path / "book.ipynb").write_text("{}")
    (tmp_path / "program.py").write_text(code)
    ran = without_extras(bare, tmp_path, ["program.py"])
    assert "MissingDependencyError: notebooks need papermill, nbconvert and ipykernel" in ran.stderr

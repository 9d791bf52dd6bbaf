"""Revisions against each other: the requested code runs, in turns, and nothing stays behind.

The revisions are those of small repositories made here. Their transcriber counts on a clock of its own, so no result
depends on this machine; git, processes and pipes are real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.revisions.__main__ import compare_revisions
from benchmarks.revisions.checkout import check_out, commit_of
from benchmarks.revisions.processes import Side
from whisperlab import data
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.experiments.comparison import Outcome
from whisperlab.experiments.significance import PairedResult
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, WhisperlabError
from whisperlab.util.timeline import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]

# What a revision holds. ``cost`` is seconds of computing for a second of audio, on a clock that only it moves.
PACKAGE = """
import os, sys, time
from types import SimpleNamespace

print("a library that chats on stdout")
assert sys.path[0] == os.path.dirname(os.path.dirname(__file__)), "another folder comes first"
now = 0.0
time.perf_counter = lambda: now


class SessionRestartTranscriber:
    def __init__(self, model, languages=None, cost={cost}, side="", log=os.devnull, vad={vad}):
        assert (model, languages) == ("base", ["en"])
        self.cost, self.side, self.log = cost, side, log
        {made}

    def tell(self, what):
        with open(self.log, "a") as log:
            print(self.side, what, file=log)

    def reset(self):
        self.heard, self.closed = 0, False
        self.tell("begins")

    def process(self, chunk):
        global now
        assert not self.closed and 0 < len(chunk) <= 1600 and os.read(0, 1) == b""
        now += self.cost * len(chunk) / 16000
        self.heard += len(chunk)
        {heard}
        return self.result()

    def finalize(self):
        self.closed = True
        self.tell("ends")
        return self.result(SimpleNamespace(
            text="{text}", language="en", start_time=0.0, end_time=self.heard / 16000, is_final=True, confidence=0.9
        ))

    def result(self, *segments):
        return SimpleNamespace(segments=segments, switches=())

    def get_statistics(self):
        return {statistics}
"""
COUNTED = '{"lid": {"encoder_calls": 1, "encoded_s": self.heard / 8000}, "sessions": {}}'


@dataclass
class Repository:
    """A git repository whose commits hold a package named whisperlab."""

    folder: Path

    def git(self, *words: str) -> str:
        settings = ("user.name=Test", "user.email=test@example.org", "commit.gpgsign=false")
        command = ["git", "-C", str(self.folder), *(part for one in settings for part in ("-c", one)), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def write(self, **parts: object) -> None:
        text = PACKAGE
        given = {"cost": 0.5, "text": "one two", "made": "", "vad": "None", "heard": "", "statistics": COUNTED, **parts}
        for name, value in given.items():
            text = text.replace(f"{{{name}}}", str(value))
        (self.folder / "whisperlab").mkdir(exist_ok=True)
        (self.folder / "whisperlab" / "__init__.py").write_text(text)

    def commit(self, tag: str, **parts: object) -> None:
        self.write(**parts)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", tag)
        self.git("tag", tag)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.folder.mkdir()
    made.git("init", "-q")
    made.commit("slow", cost=0.5)
    return made


@pytest.fixture
def speech(tmp_path: Path) -> list[Recording]:
    """Four recordings of different length, in each of which somebody says one word and another."""
    made = []
    for number in range(4):
        path, duration = tmp_path / f"{number}.wav", 0.5 + number / 8
        write_wav(path, np.full(int(duration * SAMPLE_RATE), 0.1, np.float32))
        segment = ReferenceSegment(0.0, duration, "en", "one two")
        made.append(Recording(str(number), path, duration, "one two", "en", (segment,), "test", "made"))
    return made


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def by_name(outcome: Outcome) -> dict[str, PairedResult]:
    return {finding.measure.name: finding.result for finding in outcome.findings}


def meet(repository: Repository, speech: list[Recording], a: str, b: str, **options: Any) -> Outcome:
    return compare_revisions(Side.from_text(a), Side.from_text(b), speech, repository=repository.folder, **options)


# --- revisions ----------------------------------------------------------------------------------------


def test_a_faster_revision_is_reported_as_faster_and_nothing_else(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.commit("quick", cost=0.4)
    outcome = meet(repository, speech, "slow", "quick", rounds=2)
    first = outcome.findings[0].readable()
    told = ("B is faster", "-20.0 %", "-20.0 % to -20.0 %", "0.031", "-1.00", 8, 0)
    assert tuple(first.values()) == ("real-time factor (wall)", *told)
    assert by_name(outcome)["words wrong"].value == 0
    assert by_name(outcome)["encoder seconds per second"].value == 1
    assert [result.n for result in by_name(outcome).values()] == [8, 4, 4, 4]
    assert outcome.remarks == ()
    assert list(scratch.iterdir()) == []


def test_a_revision_against_itself_differs_in_nothing(repository: Repository, speech: list[Recording]) -> None:
    found = by_name(meet(repository, speech, "slow", "HEAD", rounds=2))
    assert found["real-time factor (wall)"].conclusion == "no difference"
    assert {result.effect for result in found.values()} == {0.0}


def test_the_text_of_each_side_is_scored_by_the_same_rules(repository: Repository, speech: list[Recording]) -> None:
    repository.commit("deaf", text="one")
    assert by_name(meet(repository, speech, "slow", "deaf"))["words wrong"].value == 0.5


def test_sides_run_in_turns_and_never_together(repository: Repository, speech: list[Recording], tmp_path: Path) -> None:
    a, b = (f'slow {{"side": "{side}", "log": "{tmp_path / "log"}"}}' for side in "ab")
    meet(repository, speech, a, b, rounds=2)
    lines = (tmp_path / "log").read_text().splitlines()
    order = "".join(line[0] for line in lines[::2])
    assert [line[2:] for line in lines] == ["begins", "ends"] * len(order)
    assert [line[0] for line in lines[1::2]] == list(order)
    # Warm-up, then two rounds of four recordings. The second has them in reverse, so each starts with the other side.
    assert order == "ab" + "abbaabba" * 2


def test_the_same_revision_may_run_with_another_configuration(repository: Repository, speech: list[Recording]) -> None:
    outcome = meet(repository, speech, "slow", 'slow {"cost": 0.25}', rounds=2)
    assert by_name(outcome)["real-time factor (wall)"].value == pytest.approx(0.5)


def test_groups_of_options_are_made_by_the_revision_itself(repository: Repository, speech: list[Recording]) -> None:
    """Its VadOptions have an option that this whisperlab's do not have."""
    module = repository.folder / "whisperlab" / "vad.py"
    module.write_text("class VadOptions:\n    def __init__(self, patience):\n        self.patience = patience\n")
    default = "__import__('whisperlab.vad', fromlist=['vad']).VadOptions(1)"
    repository.commit("patient", made="self.cost = vad.patience", vad=default)
    outcome = meet(repository, speech, 'HEAD {"vad": {"patience": 2}}', 'HEAD {"vad": {"patience": 1}}', rounds=2)
    assert by_name(outcome)["real-time factor (wall)"].value == pytest.approx(0.5)


def test_a_measure_that_one_side_lacks_is_left_out_and_named(repository: Repository, speech: list[Recording]) -> None:
    repository.commit("silent", statistics="{}")
    outcome = meet(repository, speech, "slow", "silent")
    assert "encoder seconds per second" not in by_name(outcome)
    assert outcome.remarks == ("encoder seconds per second is left out: B did not measure it",)


def test_the_repository_is_read_and_never_written(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.write(cost=9.0)  # not committed, so not part of any revision
    (repository.folder / "sub").mkdir()
    before = repository.git("status", "--porcelain"), sorted((repository.folder / ".git").rglob("*"))
    found = by_name(
        compare_revisions(Side.from_text("slow"), Side.from_text("HEAD"), speech, repository=repository.folder / "sub")
    )
    assert found["real-time factor (wall)"].value == 1
    assert (repository.git("status", "--porcelain"), sorted((repository.folder / ".git").rglob("*"))) == before


def test_a_checkout_is_the_package_alone(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "README").write_text("not code")
    repository.commit("more")
    folder = check_out(commit_of("more", repository.folder), repository.folder, tmp_path / "a" / "b")
    assert [path.name for path in folder.rglob("*")] == ["whisperlab", "__init__.py"]


# --- what cannot be compared --------------------------------------------------------------------------


def test_without_a_repository_nothing_is_compared(speech: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is in no git repository: .*not a git repository"):
        compare_revisions(Side("main"), Side(), speech, repository=tmp_path)


def test_without_git_there_are_no_revisions(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="needs git"):
        commit_of("slow", repository.folder)


@pytest.mark.parametrize(
    "revision", ["nonsense", "--all", "--help", "-n1", "slow..slow", "$(touch x)", "slow:whisperlab", "a\0b", "^slow"]
)
def test_an_unknown_revision_is_refused(repository: Repository, revision: str) -> None:
    with pytest.raises(ConfigurationError, match="revision"):
        commit_of(revision, repository.folder)


def test_a_branch_whose_name_looks_like_an_option_is_a_revision(repository: Repository) -> None:
    repository.git("update-ref", "refs/heads/--all", "slow")
    assert commit_of("--all", repository.folder) == repository.git("rev-parse", "slow").strip()


def test_a_revision_without_the_package_is_refused(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.git("mv", "whisperlab", "elsewhere")
    repository.git("commit", "-qm", "bare")
    with pytest.raises(ConfigurationError, match=r"commit \w{12} holds no whisperlab/"):
        meet(repository, speech, "slow", "HEAD")
    assert list(scratch.iterdir()) == []


def test_a_folder_that_is_no_package_does_not_let_another_whisperlab_in(
    repository: Repository, speech: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an ``__init__.py`` of its own the next one on the path would be taken, and be compared with itself."""
    other = Repository(tmp_path / "other")
    other.folder.mkdir()
    other.write()
    text = (other.folder / "whisperlab" / "__init__.py").read_text()
    (other.folder / "whisperlab" / "__init__.py").write_text(text.replace("assert sys.path", "sys.path"))
    monkeypatch.setenv("PYTHONPATH", str(other.folder))
    repository.git("mv", "whisperlab/__init__.py", "whisperlab/code.py")
    repository.git("commit", "-qm", "bare")
    with pytest.raises(WhisperlabError, match=r"B \(HEAD\) cannot run: its whisperlab/ is no package"):
        meet(repository, speech, "slow", "HEAD")


@pytest.mark.parametrize(
    "parts,said",
    [
        ({"made": "import nothing_of_the_kind"}, r"cannot run: ModuleNotFoundError: .*nothing_of_the_kind"),
        ({"made": "raise RuntimeError('no such model')"}, "cannot run: RuntimeError: no such model"),
        ({"heard": "raise ValueError('too loud')"}, "cannot run: ValueError: too loud"),
        ({"heard": "print('gone', file=sys.stderr, flush=True); os._exit(3)"}, "exited with 3; last output: gone$"),
        ({"made": "sys.exit('will not')"}, "exited with 1; last output: will not$"),
        (
            {"made": "os.kill(os.getpid(), 9)"},
            r"was killed by SIGKILL \(was there enough memory\?\); last output: a library",
        ),
        ({"heard": "os.truncate(2, 0); os.abort()"}, "was killed by SIGABRT; last output: nothing$"),
    ],
)
def test_the_error_of_a_revision_that_cannot_run_is_reported(
    repository: Repository, speech: list[Recording], scratch: Path, parts: Mapping[str, str], said: str
) -> None:
    repository.commit("broken", **parts)
    with pytest.raises(WhisperlabError, match=r"^A \(broken\) " + said):
        meet(repository, speech, "broken", "slow")
    assert list(scratch.iterdir()) == []


def test_a_worker_that_dies_between_two_recordings_is_reported_like_any_other(
    repository: Repository, speech: list[Recording]
) -> None:
    """It dies while the other one works, so the pipe is broken when it is asked again."""
    repository.commit("other", heard="time.sleep(0.1)")
    last = "import threading; threading.Timer(0.2, os._exit, [7]).start()"
    repository.commit("mortal", statistics=f"{{}} if not getattr(self, 'closed', False) else exec({last!r}) or {{}}")
    with pytest.raises(WhisperlabError, match=r"^A \(mortal\) exited with 7"):
        meet(repository, speech, "mortal", "other")


def test_an_option_that_a_revision_does_not_have_is_its_own_error(
    repository: Repository, speech: list[Recording]
) -> None:
    with pytest.raises(WhisperlabError, match=r"TypeError: .*unexpected keyword argument 'colour'"):
        meet(repository, speech, 'slow {"colour": 1}', "slow")


def test_the_environment_is_the_same_but_for_the_code(
    repository: Repository, speech: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_BOTH", "1")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    repository.commit("asks", made="assert os.environ['OF_BOTH'] == '1' and '/nowhere' in sys.path")
    assert meet(repository, speech, "slow", "asks").findings


def test_ctrl_c_leaves_no_process_and_no_folder(
    repository: Repository, speech: list[Recording], tmp_path: Path
) -> None:
    repository.commit("asleep", heard="self.tell(os.getpid()); time.sleep(600)")
    data.write_manifest(tmp_path / "manifest.jsonl", speech)
    (tmp_path / "tmp").mkdir()
    sides = "slow", f'asleep {{"log": "{tmp_path / "log"}"}}'
    manifest = ["--corpus", str(tmp_path / "manifest.jsonl"), "--split", "test"]
    command = [sys.executable, "-m", "benchmarks.revisions", *sides, *manifest]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        command,
        cwd=repository.folder,
        env={**environment, "PYTHONSAFEPATH": "1"},  # or the repository's package would come before ours
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as driver:
        worker = _pid(tmp_path / "log", driver)
        assert [path.name[:19] for path in (tmp_path / "tmp").iterdir()] == ["whisperlab-compare-"]
        os.killpg(driver.pid, signal.SIGINT)
        _, said = driver.communicate()
    assert driver.returncode == 130, said
    assert "interrupted" in said
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def _pid(log: Path, driver: subprocess.Popen[str]) -> int:
    """The process of a worker, once it is at work."""
    while True:
        assert driver.poll() is None, driver.communicate()
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        if len(lines) > 1:
            return int(lines[1])
        time.sleep(0.05)


@pytest.mark.model
@pytest.mark.slow
def test_this_revision_against_itself_makes_the_same_errors(excerpt: Path, tmp_path: Path) -> None:
    """Real code, weights and speech, the code in a repository of its own. How long either took is not judged."""
    here = Repository(tmp_path / "here")
    here.folder.mkdir()
    here.git("init", "-q")
    shutil.copytree(ROOT / "whisperlab", here.folder / "whisperlab", ignore=shutil.ignore_patterns("__pycache__"))
    here.git("add", "-A")
    here.git("commit", "-q", "-m", "the code as it is")
    recordings = data.load(str(excerpt), "test")
    found = by_name(compare_revisions(Side("HEAD"), Side("HEAD"), recordings, repository=here.folder))
    assert found["real-time factor (wall)"].n == 1
    for name in ("words wrong", "wrong language, text"):
        assert (found[name].value, found[name].low, found[name].high, found[name].effect) == (0, 0, 0, 0)
        assert found[name].conclusion != "difference"
    assert found["encoder seconds per second"].value == 1

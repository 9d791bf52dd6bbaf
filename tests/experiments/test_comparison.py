"""Revisions and sweeps against each other: what is compared is what was asked for, in turns, and nothing stays behind.

The revisions are those of small repositories made here. Their transcriber counts what it does on a clock of its own, so
no verdict depends on this machine; everything else, git, processes and pipes, is real.
"""

from __future__ import annotations

import json
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

from whisperlab import cli, data
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.experiments import results_store
from whisperlab.experiments.comparison import Outcome, Side, compare_sweeps, contest
from whisperlab.experiments.comparison.measures import TIME, Found, judged, note
from whisperlab.experiments.comparison.revisions import check_out, commit_of
from whisperlab.experiments.significance import Verdict
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, SweepError, WhisperlabError
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
    def __init__(self, model, languages=None, cost={cost}, side="", log=os.devnull, vad=None):
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
        given = {"cost": 0.5, "text": "one two", "made": "", "heard": "", "statistics": COUNTED, **parts}
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


def by_name(outcome: Outcome) -> dict[str, Verdict]:
    return {finding.measure.name: finding.verdict for finding in outcome.findings}


def meet(repository: Repository, speech: list[Recording], a: str, b: str, **options: Any) -> Outcome:
    return contest(Side.of(a), Side.of(b), speech, repository=repository.folder, **options)


# --- revisions ----------------------------------------------------------------------------------------


def test_a_faster_revision_is_called_so_and_nothing_else(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.commit("quick", cost=0.4)
    outcome = meet(repository, speech, "git:slow", "git:quick", rounds=2)
    said = [finding.words() for finding in outcome.findings]
    assert said[0] == "computing / audio: B is faster by 20.0% (20.0% to 20.0%), p 0.031, effect -1.00, n 8"
    assert by_name(outcome)["mixed error rate"].value == 0
    assert by_name(outcome)["encoder seconds a second"].value == 1
    assert [verdict.n for verdict in by_name(outcome).values()] == [8, 4, 4, 4]
    assert outcome.remarks == ()
    assert list(scratch.iterdir()) == []


def test_a_revision_against_itself_differs_in_nothing(
    repository: Repository, speech: list[Recording]
) -> None:
    found = by_name(meet(repository, speech, "git:slow", "git:HEAD", rounds=2))
    assert found["computing / audio"].call == "no difference"
    assert {verdict.effect for verdict in found.values()} == {0.0}


def test_words_of_each_side_are_scored_by_the_same_rules(
    repository: Repository, speech: list[Recording]
) -> None:
    repository.commit("deaf", text="one")
    assert by_name(meet(repository, speech, "git:slow", "git:deaf"))["mixed error rate"].value == 0.5


def test_sides_run_in_turns_and_never_together(
    repository: Repository, speech: list[Recording], tmp_path: Path
) -> None:
    a, b = (f'git:slow {{"side": "{side}", "log": "{tmp_path / "log"}"}}' for side in "ab")
    meet(repository, speech, a, b, rounds=2)
    lines = (tmp_path / "log").read_text().splitlines()
    order = "".join(line[0] for line in lines[::2])
    assert [line[2:] for line in lines] == ["begins", "ends"] * len(order)
    assert [line[0] for line in lines[1::2]] == list(order)
    assert order == "ab" + "abbaabba" + "baabbaab"  # warm-up, then two rounds of four recordings


def test_the_same_revision_may_run_with_another_configuration(
    repository: Repository, speech: list[Recording]
) -> None:
    outcome = meet(repository, speech, "git:slow", 'git:slow {"cost": 0.25}', rounds=2)
    assert by_name(outcome)["computing / audio"].value == pytest.approx(0.5)


def test_groups_of_options_are_made_by_the_revision_itself(
    repository: Repository, speech: list[Recording]
) -> None:
    """Its VadOptions know something that this whisperlab's do not."""
    module = repository.folder / "whisperlab" / "vad.py"
    module.write_text(
        "class VadOptions:\n    def __init__(self, patience):\n        self.patience = patience\n"
    )
    repository.commit("patient", made="self.cost = vad.patience")
    outcome = meet(
        repository, speech, 'git:HEAD {"vad": {"patience": 2}}', 'git:HEAD {"vad": {"patience": 1}}', rounds=2
    )
    assert by_name(outcome)["computing / audio"].value == pytest.approx(0.5)


def test_a_measure_that_one_side_lacks_is_left_out_and_named(
    repository: Repository, speech: list[Recording]
) -> None:
    repository.commit("silent", statistics="{}")
    outcome = meet(repository, speech, "git:slow", "git:silent")
    assert "encoder seconds a second" not in by_name(outcome)
    assert outcome.remarks == ("encoder seconds a second is left out: B did not measure it",)


def test_the_repository_is_read_and_never_written(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.write(cost=9.0)  # not committed, so not part of any revision
    (repository.folder / "sub").mkdir()
    before = repository.git("status", "--porcelain"), sorted((repository.folder / ".git").rglob("*"))
    found = by_name(
        contest(Side.of("git:slow"), Side.of("git:HEAD"), speech, repository=repository.folder / "sub")
    )
    assert found["computing / audio"].value == 1
    assert (
        repository.git("status", "--porcelain"),
        sorted((repository.folder / ".git").rglob("*")),
    ) == before


def test_a_checkout_is_the_package_alone(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "README").write_text("not code")
    repository.commit("more")
    folder = check_out(commit_of("more", repository.folder), repository.folder, tmp_path / "a" / "b")
    assert [path.name for path in folder.rglob("*")] == ["whisperlab", "__init__.py"]


# --- what cannot be compared --------------------------------------------------------------------------


def test_where_there_is_no_repository_nothing_is_compared(speech: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is in no git repository: .*not a git repository"):
        contest(Side.of("git:main"), Side(), speech, repository=tmp_path)


def test_without_git_there_are_no_revisions(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="needs git"):
        commit_of("slow", repository.folder)


@pytest.mark.parametrize(
    "revision",
    ["nonsense", "--all", "--help", "-n1", "slow..slow", "$(touch x)", "slow:whisperlab", "a\0b", "^slow"],
)
def test_what_is_no_revision_is_refused(repository: Repository, revision: str) -> None:
    with pytest.raises(ConfigurationError, match="revision"):
        commit_of(revision, repository.folder)


def test_a_branch_whose_name_looks_like_an_option_is_a_revision(repository: Repository) -> None:
    repository.git("update-ref", "refs/heads/--all", "slow")
    assert commit_of("--all", repository.folder) == repository.git("rev-parse", "slow").strip()


@pytest.mark.parametrize("text", ["git:", "git: {}"])
def test_a_side_without_a_revision_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no revision"):
        Side.of(text)


def test_a_revision_without_the_package_is_refused(
    repository: Repository, speech: list[Recording], scratch: Path
) -> None:
    repository.git("mv", "whisperlab", "elsewhere")
    repository.git("commit", "-qm", "bare")
    with pytest.raises(ConfigurationError, match=r"commit \w{12} holds no whisperlab/"):
        meet(repository, speech, "git:slow", "git:HEAD")
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
    with pytest.raises(WhisperlabError, match=r"B \(git:HEAD\) cannot run: its whisperlab/ is no package"):
        meet(repository, speech, "git:slow", "git:HEAD")


@pytest.mark.parametrize(
    "parts,said",
    [
        ({"made": "import nothing_of_the_kind"}, r"cannot run: ModuleNotFoundError: .*nothing_of_the_kind"),
        ({"made": "raise RuntimeError('no such model')"}, "cannot run: RuntimeError: no such model"),
        ({"heard": "raise ValueError('too loud')"}, "cannot run: ValueError: too loud"),
        (
            {"heard": "print('gone', file=sys.stderr, flush=True); os._exit(3)"},
            "left with 3; the last it said: gone$",
        ),
        ({"made": "sys.exit('will not')"}, "left with 1; the last it said: will not$"),
        (
            {"made": "os.kill(os.getpid(), 9)"},
            r"was killed by SIGKILL \(was there enough memory\?\); the last it said: a library",
        ),
        ({"heard": "os.truncate(2, 0); os.abort()"}, "was killed by SIGABRT; the last it said: nothing$"),
    ],
)
def test_a_revision_that_cannot_run_says_why_in_its_own_words(
    repository: Repository, speech: list[Recording], scratch: Path, parts: Mapping[str, str], said: str
) -> None:
    repository.commit("broken", **parts)
    with pytest.raises(WhisperlabError, match=r"^A \(git:broken\) " + said):
        meet(repository, speech, "git:broken", "git:slow")
    assert list(scratch.iterdir()) == []


def test_a_worker_that_dies_between_two_recordings_is_told_of_like_any_other(
    repository: Repository, speech: list[Recording]
) -> None:
    """It dies while the other one works, so the pipe is broken when it is asked again."""
    repository.commit("other", heard="time.sleep(0.1)")
    last = "import threading; threading.Timer(0.2, os._exit, [7]).start()"
    repository.commit(
        "mortal", statistics=f"{{}} if not getattr(self, 'closed', False) else exec({last!r}) or {{}}"
    )
    with pytest.raises(WhisperlabError, match=r"^A \(git:mortal\) left with 7"):
        meet(repository, speech, "git:mortal", "git:other")


def test_an_option_that_a_revision_does_not_have_is_its_own_error(
    repository: Repository, speech: list[Recording]
) -> None:
    with pytest.raises(WhisperlabError, match=r"TypeError: .*unexpected keyword argument 'colour'"):
        meet(repository, speech, 'git:slow {"colour": 1}', "git:slow")


def test_the_environment_is_the_same_but_for_the_code(
    repository: Repository, speech: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_BOTH", "1")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    repository.commit("asks", made="assert os.environ['OF_BOTH'] == '1' and '/nowhere' in sys.path")
    assert meet(repository, speech, "git:slow", "git:asks").findings


def test_ctrl_c_leaves_no_process_and_no_folder(
    repository: Repository, speech: list[Recording], tmp_path: Path
) -> None:
    repository.commit("asleep", heard="self.tell(os.getpid()); time.sleep(600)")
    data.write_manifest(tmp_path / "manifest.jsonl", speech)
    (tmp_path / "tmp").mkdir()
    sides = "git:slow", f'git:asleep {{"log": "{tmp_path / "log"}"}}'
    manifest = ["--corpus", str(tmp_path / "manifest.jsonl"), "--split", "test"]
    command = [sys.executable, "-m", "whisperlab", "compare", *sides, *manifest]
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
    shutil.copytree(
        ROOT / "whisperlab",
        here.folder / "whisperlab",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    here.git("add", "-A")
    here.git("commit", "-q", "-m", "the code as it is")
    recordings = data.load(str(excerpt), "test")
    found = by_name(contest(Side.of("git:HEAD"), Side.of("git:HEAD"), recordings, repository=here.folder))
    assert found["computing / audio"].n == 1
    for name in ("mixed error rate", "language error rate"):
        assert (found[name].value, found[name].low, found[name].high, found[name].effect) == (0, 0, 0, 0)
        assert found[name].call != "difference"
    assert found["encoder seconds a second"].value == 1


# --- verdicts -----------------------------------------------------------------------------------------


def test_what_is_no_number_is_in_no_pair() -> None:
    found: Found = {}
    for place, value in enumerate([float("nan"), float("inf"), 0.0, None, 2.0]):
        note(found, TIME, place, "A", 1.0)
        note(found, TIME, place, "B", value)
    (finding,) = judged(found, np.random.default_rng(0), measures=[TIME]).findings
    assert (finding.verdict.n, finding.verdict.value) == (1, 2.0)


def test_sides_that_never_met_are_told_apart_from_sides_that_lack_something() -> None:
    found: Found = {}
    note(found, TIME, "one", "A", 1.0)
    note(found, TIME, "other", "B", 1.0)
    rng = np.random.default_rng(0)
    assert "no recording has it on both sides" in judged(found, rng, measures=[TIME]).remarks[0]
    assert "A and B did not measure it" in judged({}, rng, measures=[TIME]).remarks[0]


# --- sweeps -------------------------------------------------------------------------------------------

MACHINE = {"cpu_model": "abacus", "cores": 2}


def sweep(folder: Path, rows: list[dict[str, Any]], machine: Mapping[str, Any] | None = MACHINE) -> Path:
    """A sweep's folder with these rows, each under a name of its own, with the first line of its trace."""
    (folder / "traces").mkdir(parents=True)
    for number, row in enumerate(rows):
        trace = f"traces/{number}.jsonl"
        if machine is not None:
            (folder / trace).write_text(json.dumps({"kind": "header", "machine": machine}) + "\n")
        results_store.append(folder / results_store.STORE, {"key": str(number), "trace": trace, **row})
    return folder


def row(number: int, config: Mapping[str, Any], wrong: float | None, **more: Any) -> dict[str, Any]:
    """Recording ``number`` with one configuration; it took a second and a bit to compute."""
    rates = {"mixed_error_rate": wrong, "language_error_rate": wrong, "language_error_rate_frames": 0.1}
    work = {"encoder_calls": 1, "encoded_s": 5.0 + number}
    return {
        "status": "ok",
        "config": config,
        "recording": str(number),
        "audio_sha256": str(number),
        "model_digest": "weights",
        "whisperlab": "0.1.0",
        "rates": rates,
        "statistics": {"lid": work, "sessions": work},
        "duration": 10.0,
        "compute_s": 1.0 + number / 100,
        **more,
    }


def both(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], **options: Any) -> Outcome:
    return compare_sweeps(sweep(tmp_path / "a", a), sweep(tmp_path / "b", b, **options))


def test_two_sweeps_are_paired_by_recording_and_what_differs_is_what_is_compared(tmp_path: Path) -> None:
    a = [row(n, {"precision": "fp32"}, 0.1 + n / 1000) for n in range(12)]
    b = [row(n, {"precision": "int8"}, 0.2 + n / 1000) for n in reversed(range(14))]
    outcome = both(tmp_path, a, b)
    found = by_name(outcome)
    assert found["mixed error rate"].call == "difference"
    assert found["mixed error rate"].value == pytest.approx(0.1)
    assert found["computing / audio"].call == found["encoder seconds a second"].call == "no difference"
    assert {verdict.n for verdict in found.values()} == {12}
    assert outcome.remarks[0] == 'precision: "fp32" in A, "int8" in B'
    assert "not run in turns" in outcome.remarks[1]
    assert [finding.configuration for finding in outcome.findings] == [""] * 4


def test_each_configuration_is_judged_and_corrected_for_all(tmp_path: Path) -> None:
    """Twelve pairs of four measures in five configurations: what one alone would show, twenty do not."""

    def rows(better: float) -> list[dict[str, Any]]:
        return [
            row(n, {"cache_size": size, "key": "span", "device": "cpu"}, 0.3 - (better if size == 1 else 0))
            for size in range(5)
            for n in range(8)
        ]

    outcome = both(tmp_path, rows(0.0), rows(0.1))
    assert len(outcome.findings) == 20
    assert outcome.findings[0].configuration == "cache_size=0"
    changed = [finding for finding in outcome.findings if finding.verdict.effect]
    assert {finding.configuration for finding in changed} == {"cache_size=1"}
    assert {finding.verdict.call for finding in changed} == {"not enough data"}  # 2 / 2^8 * 20 > 0.05
    assert {finding.verdict.p for finding in changed} == {20 / 128, 19 / 128} or changed[
        0
    ].verdict.p == 20 / 128
    assert changed[0].verdict.more >= 2  # 2 / 2^9 * 20 > 0.05 still
    assert changed[0].words().startswith("cache_size=1: mixed error rate: not enough data")


def test_times_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    outcome = both(tmp_path, rows, rows, machine={"cpu_model": "another"})
    assert "computing / audio" not in by_name(outcome)
    assert outcome.remarks == ("times are not compared: the sweeps were run on 2 different machines",)


@pytest.mark.parametrize("machine", [None, {}])
def test_times_of_nobody_knows_where_are_not_compared(
    tmp_path: Path, machine: Mapping[str, Any] | None
) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    outcome = both(tmp_path, rows, rows, machine=machine)
    assert "computing / audio" not in by_name(outcome)
    assert "the trace of a row of B does not tell the machine" in outcome.remarks[0]


def test_language_id_alone_is_judged_by_its_frames(tmp_path: Path) -> None:
    rows = [row(n, {"decode": False}, None) for n in range(6)]
    outcome = both(tmp_path, rows, rows)
    assert list(by_name(outcome)) == [
        "computing / audio",
        "language error rate of frames",
        "encoder seconds a second",
    ]
    assert len(outcome.remarks) == 1


def test_what_all_configurations_lack_is_said_once_and_what_one_lacks_by_its_name(tmp_path: Path) -> None:
    def rows(*, counted: bool) -> list[dict[str, Any]]:
        return [
            row(n, {"size": size}, 0.1, **({} if counted and size else {"statistics": {}}))
            for size in range(2)
            for n in range(6)
        ]

    one = both(tmp_path / "one", rows(counted=False), rows(counted=True))
    assert "encoder seconds a second is left out: A and B did not measure it" not in one.remarks
    assert "size=0: encoder seconds a second is left out: A and B did not measure it" in one.remarks
    assert "size=1: encoder seconds a second is left out: A did not measure it" in one.remarks
    all_ = both(tmp_path / "all", rows(counted=False), rows(counted=False))
    assert all_.remarks[0] == "encoder seconds a second is left out: A and B did not measure it"


def test_another_version_and_options_that_one_side_has_not_are_no_hindrance(tmp_path: Path) -> None:
    a = [row(n, {"size": 1}, 0.1, whisperlab="0.1.0") for n in range(6)]
    b = [row(n, {"size": 1, "new": True}, 0.1, whisperlab="0.2.0") for n in range(6)]
    outcome = both(tmp_path, a, b)
    assert outcome.findings[0].verdict.n == 6
    assert 'version: "0.1.0" in A, "0.2.0" in B' in outcome.remarks


def test_failed_rows_are_in_no_pair(tmp_path: Path) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    failed = {**row(6, {}, None), "status": "failed", "compute_s": None}
    assert {v.n for v in by_name(both(tmp_path, [*rows, failed], [*rows, failed])).values()} == {6}


@pytest.mark.parametrize(
    "a,b,said",
    [
        ([], [row(0, {}, 0.1)], "holds no finished row"),
        ([row(0, {}, 0.1)], [row(1, {}, 0.1)], "no recording in common"),
        (
            [row(0, {"size": 1}, 0.1), row(0, {"size": 2}, 0.1)],
            [row(0, {"size": 3}, 0.1), row(0, {"size": 4}, 0.1)],
            "no recording in common under the same options; they share size, version, weights",
        ),
        (
            [row(0, {"size": 1}, 0.1), row(0, {"size": 2}, 0.1)],
            [row(0, {}, 0.1)],
            "A has two results for 0 that the other sweep cannot tell apart: they differ in size",
        ),
    ],
)
def test_sweeps_that_cannot_be_paired_are_refused(
    tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(SweepError, match=said):
        both(tmp_path, a, b)


# --- the command --------------------------------------------------------------------------------------


def test_the_command_says_a_sentence_for_each_measure_then_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, wrong in (("a", 0.1), ("b", 0.2)):
        sweep(tmp_path / side, [row(n, {}, wrong) for n in range(12)])
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    assert "mixed error rate: B is worse by 0.1 (0.1 to 0.1), p 0.002, effect +1.00, n 12" in shown
    assert "computing / audio: no difference shown" in shown
    assert "B beside A" in shown
    assert cli.main(["compare", *folders, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {one["measure"]: one["effect"] for one in document["verdicts"]}["mixed error rate"] == 1.0
    assert document["remarks"]


def test_the_command_names_the_commits_it_compared(
    repository: Repository,
    speech: list[Recording],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data.write_manifest(tmp_path / "manifest.jsonl", speech)
    monkeypatch.chdir(repository.folder)
    words = [
        "git:slow",
        "git:HEAD",
        "--corpus",
        str(tmp_path / "manifest.jsonl"),
        "--split",
        "test",
        "--json",
    ]
    assert cli.main(["compare", *words, "--limit", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    commit = repository.git("rev-parse", "HEAD").strip()
    assert document["commits"] == {"a": commit, "b": commit}
    assert (document["recordings"], document["rounds"]) == (2, 1)


@pytest.mark.parametrize("words", [["{}"], ["git:main"], ["b", "--limit", "2"], ["b", "--model", "base"]])
def test_a_sweep_is_compared_with_a_sweep_and_nothing_is_run(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("a", "b"):
        sweep(tmp_path / side, [row(0, {}, 0.1)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", "a", *words])
    assert left.value.code == 2
    assert "usage: whisperlab compare" in capsys.readouterr().err

"""The environments of other systems: which are needed, how they are installed, and why a system cannot run."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from whisperlab import cli
from whisperlab.experiments.systems import SYSTEMS, environments, install, select
from whisperlab.util.errors import ConfigurationError, MissingDependencyError


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a system whose environment needs one small wheel."""
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "small_recogniser-1.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("small_recogniser.py", "ANSWER = 42\n")
        file.writestr(
            "small_recogniser-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-recogniser\nVersion: 1.5\n"
        )
        file.writestr(
            "small_recogniser-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("small_recogniser-1.5.dist-info/RECORD", "")
    monkeypatch.setitem(environments.SYSTEM_TABLES["environments"], "small", [str(wheel)])
    monkeypatch.setitem(SYSTEMS, "small", environments.System("small", "none", environment="small"))
    return wheel


def test_an_environment_is_installed_once_and_one_that_failed_is_completed(made: Path) -> None:
    system, said = SYSTEMS["small"], list[str]()
    assert (system.python(), system.reason()) == (None, "not installed: whisperlab systems install small")
    away = made.rename(made.with_suffix(".gone"))
    with pytest.raises(
        MissingDependencyError, match=r"small cannot be installed; .* index\? ERROR: .*small_recogniser"
    ):
        install("small", said.append)
    assert system.python() is None  # the environment is there, its packages are not
    away.rename(made)
    python = install("small", said.append)
    assert python == system.python() == system.folder / "bin" / "python"
    assert list((system.folder / "lib").rglob("small_recogniser.py"))
    assert install("small", said.append) == python
    assert len(said) == 2


def test_packages_that_are_here_in_the_same_version_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SYSTEMS["openai-whisper"]
    assert here.python() == Path(sys.executable)
    monkeypatch.setitem(environments.SYSTEM_TABLES["environments"], "openai-whisper", ["openai-whisper==1.0"])
    assert here.python() is None
    assert SYSTEMS["whisperlab, auto"].python() == Path(sys.executable)


def test_other_requirements_are_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SYSTEMS["whisper.cpp"].folder
    monkeypatch.setitem(environments.SYSTEM_TABLES["environments"], "whisper-cpp", ["pywhispercpp==2"])
    assert SYSTEMS["whisper.cpp"].folder != before


def test_every_system_is_complete() -> None:
    adapters = Path(environments.__file__).parent / "adapters"
    for system in SYSTEMS.values():
        assert system.cannot or (adapters / f"{system.adapter}.py").is_file()
        assert all("==" in requirement for requirement in system.requirements)
        assert {*system.weights.split()} <= {"pt", "ct2", "ggml"}
    assert replace(SYSTEMS["openai-whisper"], cannot="no reason").reason() == "no reason"


def test_systems_are_selected_by_a_part_of_their_names() -> None:
    assert [system.name for system in select(["oracle"])] == [
        "faster-whisper int8, oracle segments",
        "whisperlab, oracle",
    ]
    assert len(select(None)) == len(SYSTEMS)
    with pytest.raises(ConfigurationError, match="no system is named 'kaldi'; there are: openai-whisper; "):
        select(["auto", "kaldi"])


def test_an_unknown_environment_is_refused_and_the_known_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="no environment is named 'kaldi'; there are openai-whisper"):
        install("kaldi", print)
    assert cli.main(["systems", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SYSTEMS)
    assert "not on the package index" in shown
    with pytest.raises(SystemExit):
        cli.main(["systems", "install"])

"""The systems and their Python environments; ``systems.toml`` lists them.

An environment is a virtual environment in whisperlab's cache folder. Its name has a digest of its requirements, so that
a new version is a new environment.
"""

import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from whisperlab.experiments.results_store import Say
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError, MissingDependencyError

SYSTEM_TABLES = tomllib.loads(Path(__file__).with_name("systems.toml").read_text(encoding="utf-8"))
_DONE = "installed.txt"  # written last


@dataclass(slots=True, frozen=True)
class System:
    """A recogniser and how it runs; the fields are those of ``systems.toml``."""

    name: str
    adapter: str = ""
    weights: str = "pt"
    environment: str = ""
    streams: bool = False
    follows: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cannot: str = ""

    @property
    def requirements(self) -> list[str]:
        return list(SYSTEM_TABLES["environments"][self.environment]) if self.environment else []

    @property
    def folder(self) -> Path:
        """That of its environment, which need not exist."""
        digest = hashlib.sha256("\n".join([sys.version, *self.requirements]).encode()).hexdigest()
        return cache_dir() / "systems" / f"{self.environment}-{digest[:12]}"

    def python(self) -> Path | None:
        """The interpreter that has its requirements: this one, or that of its environment; None if neither has."""
        if all(map(_here, self.requirements)):
            return Path(sys.executable)
        return self.folder / "bin" / "python" if (self.folder / _DONE).is_file() else None

    def reason(self) -> str:
        """Why it cannot run; empty if it can."""
        advice = f"not installed: whisperlab systems install {self.environment}"
        return self.cannot or ("" if self.python() else advice)


SYSTEMS = {name: System(name, **facts) for name, facts in SYSTEM_TABLES["systems"].items()}


def select(parts: Iterable[str] | None) -> list[System]:
    """The systems whose names contain one of the given texts; all if None. ConfigurationError for text in no name."""
    wanted = [""] if parts is None else list(parts)
    if unknown := [part for part in wanted if not any(part in name for name in SYSTEMS)]:
        raise ConfigurationError(f"no system is named {unknown[0]!r}; there are: {'; '.join(SYSTEMS)}")
    return [system for name, system in SYSTEMS.items() if any(part in name for part in wanted)]


def _here(requirement: str) -> bool:
    name, _, wanted = requirement.partition("==")
    with suppress(PackageNotFoundError):
        return version(name).partition("+")[0] == wanted
    return False


def install(environment: str, say: Say) -> Path:
    """Install an environment with pip and return its interpreter; continues where an interrupted call stopped.

    Raises ConfigurationError for an unknown name, MissingDependencyError with pip's last line if that fails.
    """
    if environment not in (known := SYSTEM_TABLES["environments"]):
        raise ConfigurationError(f"no environment is named {environment!r}; there are {', '.join(known)}")
    system = next(one for one in SYSTEMS.values() if one.environment == environment)
    if python := system.python():
        return python
    python, folder = system.folder / "bin" / "python", system.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-P", "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    with FileLock(f"{folder}.lock"):
        say(f"installing {', '.join(system.requirements)} into {folder}")
        venv = [sys.executable, "-P", "-m", "venv", "--without-pip", str(folder)]
        for command in (venv, [*pip, "install", "-q", *system.requirements]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
                advice = "can pip reach a package index?"
                raise MissingDependencyError(f"{environment} cannot be installed; {advice} {last}")
        (folder / _DONE).write_text("\n".join(system.requirements), encoding="utf-8")
    return python

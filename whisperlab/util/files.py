"""Atomic files and folders: they appear under their names only when they are complete."""

import codecs
import errno
import fcntl
import gzip
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import IO

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mka", ".aac", ".aif", ".aiff", ".au"}
_swept: set[Path] = set()  # folders in which this process has removed leftovers of dead processes


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields an unpredictable temporary path; when the block succeeds, the file is synced and renamed to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}{_mark(os.getpid())}{path.suffix}")
    unfinished.touch(exist_ok=False)  # fails for an existing link, so that nothing is written through it
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:  # always names the file
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_text(path: str | Path, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, gzipped or not. Errors: `bytes.decode`."""
    content = Path(path).read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(errno.EIO, f"damaged gzip: {error}", str(path)) from error
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf_16 else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        error.reason += f", in line {line}; convert the file to UTF-8, for example with iconv"
        raise


def as_path(name: str) -> Path:
    """The path of a name in UTF-8, also where the locale has another encoding for file names."""
    return Path(os.fsdecode(name.encode()))


def write_atomic(path: str | Path, content: bytes) -> Path:
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


@contextmanager
def locked_folder(folder: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[IO[str]]:
    """Lock a folder for one process at a time; removes the `part_folder`s of killed processes. Yields the lock's file.

    The kernel releases the lock with the last process that has the file open: pass it to child processes that write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_behind in folder.glob(".*.part"):
            shutil.rmtree(left_behind, ignore_errors=True)
        yield lock


def part_folder(name: str, parent: Path) -> TemporaryDirectory[str]:
    """A temporary folder for incomplete files. `locked_folder` removes it if this process is killed."""
    return TemporaryDirectory(prefix=f".{name}.", suffix=".part", dir=parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder, which replaces ``target`` when the block succeeds. `locked_folder` its parent first."""
    with part_folder(target.name, target.parent) as part:
        unfinished = Path(part, "whole")
        unfinished.mkdir()
        yield unfinished
        if target.exists():
            shutil.rmtree(target)
        unfinished.rename(target)


def _mark(pid: int | str) -> str:
    """The part of a temporary name that identifies machine (folders may be shared) and process."""
    return f".{os.uname().nodename}-{pid}.tmp"


def _sweep(folder: Path) -> None:
    """Remove temporary files left by killed processes of this machine, once per folder."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    before, after = _mark("\0").split("\0")
    for left in folder.glob(".*.tmp*"):
        pid = left.name.rpartition(before)[2].partition(after)[0]
        if pid.isdecimal() and not _is_running(int(pid)):
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # other errors: another user's process
    return True

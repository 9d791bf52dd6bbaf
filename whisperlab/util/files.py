"""Atomic files: a file appears under its name only when it is complete."""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

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
    return content.decode("utf-16" if utf_16 else "utf-8-sig", errors)


def write_atomic(path: str | Path, content: bytes) -> Path:
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


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

"""Files that appear under their names only when they are whole, whatever happens while they are written."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

_swept: set[Path] = set()  # folders this process has cleared of what dead ones left


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Another path to write to, which nobody can foresee; the file takes the name ``path`` when the block ends well.

    By then it is on disk. Otherwise it goes, and what was there before stays. The first write to a folder clears away
    what processes of this machine that were killed have left half-written in it. An OSError names the file, even where
    the system does not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    unfinished = path.with_name(f".{path.name}.{token_hex(4)}{_mark(os.getpid())}{path.suffix}")
    unfinished.touch(exist_ok=False)  # never through a link that somebody laid there
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 where its first bytes (the byte order mark) say so.

    Raises UnicodeDecodeError for anything else.
    """
    content = Path(path).read_bytes()
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def write_atomic(path: str | Path, content: bytes) -> Path:
    """Write a file that appears under its name only when it is complete; errors as for `atomic_path`."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def _mark(pid: int | str) -> str:
    """What the name of a file half-written has in it; of the machine too, for folders may be shared."""
    return f".{os.uname().nodename}-{pid}.tmp"


def _sweep(folder: Path) -> None:
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    before, after = _mark("\0").split("\0")
    for left in folder.glob(".*.tmp*"):
        pid = left.name.rpartition(before)[2].partition(after)[0]
        if pid.isdecimal() and not _lives(int(pid)):
            left.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True

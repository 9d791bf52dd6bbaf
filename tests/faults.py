"""Faults on demand: calls that fail at the n-th time, disks that are full, memory that ends, files that rot."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NO_MEMORY = "DefaultCPUAllocator: not enough memory: you tried to allocate 123456 bytes."

# What a stage may fail with: a mistake, Python's and torch's lack of memory, the user.
ERRORS: dict[str, Callable[[], BaseException]] = {
    "mistake": lambda: RuntimeError("a stage broke"),
    "memory": lambda: MemoryError("Unable to allocate 7.28 TiB for an array"),
    "torch memory": lambda: RuntimeError(NO_MEMORY),
    "interrupt": KeyboardInterrupt,
}


@dataclass(slots=True)
class Calls:
    """Counts the calls of one function and fails once, at the one numbered ``at`` from 1 (0: never)."""

    at: int = 0
    error: Callable[[], BaseException] = RuntimeError
    count: int = 0

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise self.error()
            return function(*args, **kwargs)

        return counted


@contextmanager
def counted(owner: Any, name: str, calls: Calls) -> Iterator[Calls]:
    """Put ``calls`` before a function of a class or module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, calls.over(getattr(owner, name)))
        yield calls


def spread(total: int, wanted: int) -> list[int]:
    """Some of the numbers 1 to ``total``: the first two, the last, and others evenly between."""
    even = (round(1 + (total - 1) * step / max(wanted - 1, 1)) for step in range(wanted))
    return sorted({n for n in (2, *even) if 1 <= n <= total})


@contextmanager
def file_limit(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, in this process and its children: the system refuses as on a full disk.

    Python ignores the signal, so a write past the limit is cut short and the next fails with EFBIG.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_at(owner: Any, name: str) -> Iterator[None]:
    """A call such as ``os.fsync`` finds the disk full."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full)
        yield


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes, None for a folder; locks are left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(".lock")
    }


def cuts(content: bytes, wanted: int) -> Iterator[bytes]:
    """The beginnings of a file, of many lengths from none to all but the last byte."""
    lengths = {0, 1, len(content) - 1} | {len(content) * step // wanted for step in range(wanted)}
    return (content[:length] for length in sorted(lengths))


def flips(content: bytes, wanted: int, seed: int = 0) -> Iterator[bytes]:
    """The file with one bit of one byte turned, at many places."""
    rng = random.Random(seed)
    for step in range(wanted):
        first = len(content) * step // wanted
        at = rng.randrange(first, max(len(content) * (step + 1) // wanted, first + 1))
        yield content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


@contextmanager
def may_refuse(kind: type[Exception], pattern: str) -> Iterator[None]:
    """The block ends well, or with an error of this kind whose words match."""
    try:
        yield
    except kind as error:
        if not re.search(pattern, str(error)):
            pytest.fail(f"{error} says nothing of {pattern}")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions bind in the block: root, whom they do not, acts as nobody."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(was)

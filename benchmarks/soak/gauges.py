"""What can grow in a process: its memory, its files and threads, and everything that a transcriber collects."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from whisperlab.profiling.owned import attributes
from whisperlab.util.errors import MissingDependencyError

_FIELDS = {"Rss": "resident", "Private_Dirty": "dirty", "Anonymous": "anonymous"}
_COLLECTIONS = (list, tuple, set, frozenset, deque, Mapping, str, bytes, bytearray)
_CLOSED = (str, bytes, bytearray, int, float, type, ModuleType, FunctionType)


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``; mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def memory() -> dict[str, int]:
    """Bytes of this process, and counts.

    ``resident``, ``dirty`` (private) and ``anonymous`` are the system's, ``heap`` is what malloc has given out (of its
    main arena, and mapped blocks) and ``heap_free`` what it keeps; ``python_blocks`` counts small objects of Python,
    ``files`` those open, ``threads`` all of the process.
    """
    found = {**_rollup(), **_heap()}
    return found | {
        "python_blocks": sys.getallocatedblocks(),
        "files": len(os.listdir("/proc/self/fd")) - 1,  # one is the listing itself
        "threads": len(os.listdir("/proc/self/task")),
    }


def _rollup() -> dict[str, int]:
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        raise MissingDependencyError(
            "memory is read from /proc/self/smaps_rollup, which needs Linux 4.14"
        ) from error
    sizes = dict(line.split()[:2] for line in lines)
    return {name: int(sizes[f"{field}:"]) * 1024 for field, name in _FIELDS.items()}


def _heap() -> dict[str, int]:
    """Nothing where the C library has no mallinfo2 (glibc before 2.33, musl)."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return {}
    ask.restype = _Mallinfo
    told = ask()
    return {"heap": told.uordblks + told.hblkhd, "heap_free": told.fordblks}


def containers(holder: object) -> dict[str, tuple[int, int | None]]:
    """How much every collection below an object holds and may hold, by the path of attributes that leads there.

    Only deques say what they may hold; None for the others.

    Items of lists, deques, mappings, sets and tuples, letters of strings, bytes of arrays and tensors. What lies in
    a collection counts under ``path[]``, all of its items together; what several paths lead to under the shortest.
    """
    found: dict[str, tuple[int, int | None]] = {}
    seen = {id(holder)}
    ahead = deque(attributes(holder))
    while ahead:
        path, value = ahead.popleft()
        is_closed = isinstance(value, _CLOSED)
        if not is_closed and id(value) in seen:
            continue
        size = _size(value)
        if size is not None:
            limit = value.maxlen if isinstance(value, deque) else None
            before, other = found.get(path, (0, 0))
            found[path] = before + size, None if limit is None or other is None else other + limit
        if not is_closed:
            seen.add(id(value))
            ahead.extend(_below(path, value))
    return found


def _size(value: Any) -> int | None:
    if isinstance(value, _COLLECTIONS):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    tensor = sys.modules["torch"].Tensor if "torch" in sys.modules else ()
    return value.numel() * value.element_size() if isinstance(value, tensor) else None


def _below(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}[]", item) for item in list(value.values()))
    elif isinstance(value, _COLLECTIONS):
        yield from ((f"{path}[]", item) for item in list(value))
    elif _size(value) is None:
        yield from ((f"{path}.{name}", item) for name, item in attributes(value))


def bounds(statistics: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """What a transcriber's statistics say is held of what may be held."""
    cache, buffers = statistics["encoder_cache"], statistics["buffers"]
    operations = statistics["performance"].values()
    return {
        **{f"{name} buffer, samples": (b["held"], b["capacity"]) for name, b in buffers.items()},
        "encoder cache, entries": (cache["size"], cache["max_size"]),
        "cache look-ups, samples": (cache["lookup_ms"]["n"], 1000),
        "timers, samples of the fullest": (max((int(o["n"]) for o in operations), default=0), 1000),
    }

"""Gauges of growth in a process: memory, open files, threads, and all collections of a transcriber."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from whisperlab.util.errors import MissingDependencyError
from whisperlab.util.process import memory_fields

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

    ``resident``, ``dirty`` (private) and ``anonymous`` come from the system. ``heap`` is the memory allocated by malloc
    (main arena and mapped blocks), ``heap_free`` the memory that malloc keeps. ``python_blocks`` counts small Python
    objects, ``files`` the open files, ``threads`` all threads.
    """
    sizes = memory_fields("/proc/self/smaps_rollup")
    if not sizes:
        raise MissingDependencyError("memory is read from /proc/self/smaps_rollup, which needs Linux 4.14")
    return (
        {name: sizes[field] for field, name in _FIELDS.items()}
        | _heap()
        | {
            "python_blocks": sys.getallocatedblocks(),
            "files": len(os.listdir("/proc/self/fd")) - 1,  # without the one of the listing itself
            "threads": len(os.listdir("/proc/self/task")),
        }
    )


def _heap() -> dict[str, int]:
    """Sizes from malloc; empty if the C library has no mallinfo2 (glibc before 2.33, musl)."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return {}
    mallinfo2.restype = _Mallinfo
    sizes = mallinfo2()
    return {"heap": sizes.uordblks + sizes.hblkhd, "heap_free": sizes.fordblks}


def containers(holder: object) -> dict[str, tuple[int, int | None]]:
    """Size and limit of every collection below an object, by the path of attributes that leads to it.

    Sizes are items of lists, deques, mappings, sets and tuples, characters of strings, and bytes of arrays and tensors.
    Only deques have a limit; it is None for the others. The items of a collection count together under ``path[]``.
    An object with several paths counts under the shortest one.
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


def _size(value: object) -> int | None:
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
    """Size and limit of the bounded parts of a transcriber, from its statistics."""
    cache, buffers = statistics["encoder_cache"], statistics["buffers"]
    operations = statistics["performance"].values()
    return {
        **{f"{name} buffer, samples": (b["held"], b["capacity"]) for name, b in buffers.items()},
        "encoder cache, entries": (cache["size"], cache["max_size"]),
        "cache look-ups, samples": (cache["lookup_ms"]["n"], 1000),
        "timers, samples of the fullest": (max((int(o["n"]) for o in operations), default=0), 1000),
    }


def attributes(value: object) -> Iterator[tuple[str, object]]:
    """Names and values of an object's attributes, in its ``__dict__`` and in slots."""
    yield from getattr(value, "__dict__", {}).items()
    if isinstance(state := object.__getstate__(value), tuple):  # the dict and the slots
        yield from state[1].items()

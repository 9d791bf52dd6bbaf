"""Returning freed memory from the C library's allocator to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def trim_heap() -> None:
    """Return all free pages of the heap to the system. Does nothing if the C library is not glibc.

    Every window allocates blocks of all sizes, and those still in use keep the heap from shrinking. After some minutes
    of a stream it holds more free memory than it needs. malloc_trim(3) takes about a millisecond.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library or system
        return None
    return found

"""What the C library's allocator keeps of freed memory, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def trim_heap() -> None:
    """Return every free page of the heap to the system; nothing happens where the C library is not glibc.

    Blocks of all sizes come and go with every window, and what stays between them keeps the heap from shrinking: after
    some minutes of a stream it holds more free memory than it would ever need again. This takes about a millisecond
    (malloc_trim(3)), and the pages that are needed again come back one by one.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or no such thing as the program itself
        return None
    return found

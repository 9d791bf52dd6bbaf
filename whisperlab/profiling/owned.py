"""Memory of an object's tensors and arrays, computed from their sizes instead of measured."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType

import numpy as np

SMALL = 64 * 1024  # attributes with less are summed in one entry
_CLOSED = (str, bytes, int, float, complex, bool, type, ModuleType, FunctionType, BuiltinFunctionType)


def owned(holder: object) -> dict[str, int]:
    """Bytes of the tensors and arrays below each attribute, in descending order; shared memory counts once.

    A mapping of names to objects is taken as such attributes. Weights packed for a kernel count with the size of their
    numbers, without additions of the kernel.
    """
    seen: set[int] = set()
    inside = holder.items() if isinstance(holder, Mapping) else attributes(holder)
    sizes = {str(name).lstrip("_"): _size(value, seen) for name, value in inside}
    kept = {name: size for name, size in sorted(sizes.items(), key=lambda entry: -entry[1]) if size >= SMALL}
    small = sum(sizes.values()) - sum(kept.values())
    return kept | ({"the rest": small} if small else {})


def _size(value: object, seen: set[int]) -> int:
    """Bytes below a value, without memory in ``seen``."""
    waiting, total = [value], 0
    while waiting:
        value = waiting.pop()
        if value is None or isinstance(value, _CLOSED) or id(value) in seen:
            continue
        seen.add(id(value))
        found = _bytes(value, seen)
        total += found or 0
        if found is None:
            if isinstance(value, Mapping):
                waiting.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset | deque):
                waiting.extend(value)
            waiting.extend(inner for _, inner in attributes(value))
    return total


def _bytes(value: object, seen: set[int]) -> int | None:
    """Bytes of a tensor or array, 0 if its memory is in ``seen``; None for other objects."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        place = value.__array_interface__["data"][0]
        size = value.nbytes
    elif "torch" not in sys.modules:
        return None
    else:
        import torch

        from whisperlab.model.linear import packed_bytes

        if isinstance(value, torch.ScriptObject):
            return packed_bytes(value)
        if not isinstance(value, torch.Tensor):
            return None
        if value.is_mkldnn:
            return value.numel() * value.element_size()
        place, size = value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
    if place in seen:
        return 0
    seen.add(place)
    return int(size)


def attributes(value: object) -> Iterator[tuple[str, object]]:
    """Names and values of an object's attributes, in its ``__dict__`` and in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, mangled):
                yield name, getattr(value, mangled)

"""The line-profile mark: a decorator for functions whose lines are profiled on request.

``LINE_PROFILE=1 python program.py`` and ``kernprof -l -v program.py`` switch it on; both need line_profiler. Otherwise
the decorator returns the function itself, at no cost and without importing line_profiler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

_OFF = ("", "0", "off", "false", "no")  # the values that line_profiler takes for off


def line_profiled(function: Function) -> Function:
    """Mark a function for line profiling."""
    if not _wanted():
        return function
    from line_profiler import profile

    return cast(Function, profile(function))


def _wanted() -> bool:
    """Whether the environment switches it on, or kernprof does, which runs this program."""
    if os.environ.get("LINE_PROFILE", "").lower() not in _OFF:
        return True
    loaded = sys.modules.get("line_profiler")
    return loaded is not None and bool(loaded.profile.enabled)

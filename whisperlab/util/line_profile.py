"""The line-profile mark: a decorator for functions whose lines can be profiled.

``LINE_PROFILE=1 python program.py`` and ``kernprof -l -v program.py`` profile them; both need line_profiler. Otherwise
the decorator returns the function itself, so it costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

MARKED: list[Callable[..., object]] = []  # every marked function of the modules imported so far

_OFF = ("", "0", "off", "false", "no")  # as in line_profiler


def line_profiled(function: Function) -> Function:
    MARKED.append(function)
    if not _wanted():
        return function
    from line_profiler import profile

    return cast(Function, profile(function))


def _wanted() -> bool:
    """Whether the environment variable is set, or kernprof runs this program with line_profiler on."""
    if os.environ.get("LINE_PROFILE", "").lower() not in _OFF:
        return True
    loaded = sys.modules.get("line_profiler")
    return loaded is not None and bool(loaded.profile.enabled)

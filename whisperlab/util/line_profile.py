"""The mark of functions whose lines are profiled on request.

``LINE_PROFILE=1 python program.py`` and ``kernprof -l -v program.py`` ask for it; both need line_profiler. What is
marked costs nothing otherwise, because the function itself is handed back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_OFF = ("", "0", "off", "false", "no")  # as line_profiler reads its own switch


def line_profiled(function: Function) -> Function:
    """Mark a function as one whose lines are worth knowing."""
    if not _wanted():
        return function
    from line_profiler import profile

    return cast(Function, profile(function))


def _wanted() -> bool:
    """Whether the environment asks for it, or kernprof runs this program and has switched line_profiler on."""
    if os.environ.get("LINE_PROFILE", "").lower() not in _OFF:
        return True
    loaded = sys.modules.get("line_profiler")
    return loaded is not None and bool(loaded.profile.enabled)

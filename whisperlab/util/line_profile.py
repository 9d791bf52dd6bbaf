"""The line-profile mark of functions that ``LINE_PROFILE=1`` or ``kernprof -l -v`` profile; costs nothing without."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

MARKED: list[Callable[..., object]] = []  # every marked function of the modules imported so far


def line_profiled(function: Function) -> Function:
    MARKED.append(function)
    set_on = os.environ.get("LINE_PROFILE", "").lower() not in ("", "0", "off", "false", "no")  # as in line_profiler
    loaded = sys.modules.get("line_profiler")
    if not set_on and not (loaded and loaded.profile.enabled):  # kernprof enables it
        return function
    from line_profiler import profile

    return cast(Function, profile(function))

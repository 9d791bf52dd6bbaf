"""Check this machine: required and optional parts, and how to install missing ones.

OK is fine, WARN costs speed or an optional command, FAIL means that whisperlab cannot work.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Literal, TypeAlias

from whisperlab.cli.arguments import EXTRAS, distribution, is_there
from whisperlab.cli.console import Console, one_line
from whisperlab.cli.models import described
from whisperlab.util.errors import WhisperlabError

ENOUGH_DISK, LITTLE_DISK = 3e9, 0.5e9  # bytes; weights, speech and a sweep's traces take about 1 GB
Status: TypeAlias = Literal["OK", "WARN", "FAIL"]


@dataclass(slots=True, frozen=True)
class Finding:
    """The result of one check; ``advice`` says how to fix it if it is not OK."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def run(args: argparse.Namespace, console: Console) -> None:
    """Print every finding; raises WhisperlabError if one of them is a FAIL."""
    findings = list(examine(args.model))
    lines = (f"{f.status:<4}  {f.name:<9} {f.detail}{f' -> {f.advice}' if f.advice else ''}" for f in findings)
    console.result([asdict(finding) for finding in findings], *lines)
    if failed := [finding.name for finding in findings if finding.status == "FAIL"]:
        raise WhisperlabError(f"not usable until these are fixed: {', '.join(failed)}")


def examine(model: str) -> Iterator[Finding]:
    from whisperlab import data

    new = sys.version_info >= (3, 11)
    yield Finding("python", "OK" if new else "FAIL", f"{platform.python_version()}, whisperlab {version('whisperlab')}")
    yield from torch()
    cxx = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    yield program("compiler", cxx, "compiled encoder", "the compiled encoder cannot be used", "g++")
    yield disk()
    yield weights(model)
    if built := [name for name in data.list_corpora() if data.is_built(name)]:
        yield Finding("speech", "OK", f"built: {', '.join(built)}")
    else:
        yield Finding("speech", "WARN", "no corpus built yet", "whisperlab data build ivr-five")
    for extra, names in EXTRAS.items():  # ffmpeg is never used
        if missing := [distribution(name) for name in names if not is_there(name)]:
            advice = f"pip install 'whisperlab[{extra}]'"
            yield Finding("extra", "WARN", f"{extra}: without {', '.join(missing)}", advice)
        else:
            yield Finding("extra", "OK", f"{extra}: {', '.join(map(distribution, names))}")
    yield program("browser", shutil.which("chromium"), "browser tests", "the browser tests need one", "chromium")


def torch() -> Iterator[Finding]:
    """The build of torch, its devices, CPU instructions, and the gain of a second compute thread, measured now."""
    try:
        import torch as library
    except (ImportError, OSError) as error:
        yield Finding("torch", "FAIL", f"cannot be imported: {error}", "make environment")
        return
    from whisperlab.model.linear import cpu_instructions
    from whisperlab.util.threads import WORTH, second_thread

    fast = dict(zip(("VNNI", "AVX-512 BF16", "AMX"), cpu_instructions(), strict=True))
    have = ", ".join(name if found else f"no {name}" for name, found in fast.items())
    status: Status = "OK" if any(fast.values()) else "WARN"
    yield Finding("processor", status, f"{len(os.sched_getaffinity(0))} cores; {have}")
    device = library.cuda.get_device_name(0) if library.cuda.is_available() else "no CUDA device"
    yield Finding("torch", "OK", f"{library.__version__}, {library.backends.cpu.get_cpu_capability()}, {device}")
    share = second_thread()
    advice = "--threads 2 is faster while the second core is free" if share <= WORTH else "keep 1"
    yield Finding("threads", "OK", f"one thread 1.00, two threads {share:.2f} of the time; {advice}")


def program(name: str, found: str | None, use: str, without: str, package: str) -> Finding:
    """A program that only one part of whisperlab needs."""
    if found:
        return Finding(name, "OK", f"{found} (for the {use})")
    return Finding(name, "WARN", f"none; {without}", f"apt-get install {package}")


def disk() -> Finding:
    from whisperlab.model.weights import cache_dir

    folder = cache_dir()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    status: Status = "OK" if free >= ENOUGH_DISK else "WARN" if free >= LITTLE_DISK else "FAIL"
    advice = "" if status == "OK" else "free some space, or set WHISPERLAB_CACHE to a folder on another disk"
    return Finding("disk", status, f"{free / 1e9:.1f} GB free for {folder}", advice)


def weights(model: str) -> Finding:
    from whisperlab.model import weights as models

    try:
        found = models.verify(model)
    except (WhisperlabError, OSError) as error:
        if models.known_name(model):
            return Finding("weights", "WARN", one_line(error), f"whisperlab models fetch {model}")
        return Finding("weights", "FAIL", one_line(error), "whisperlab models list")
    if found.trusted is False:
        return Finding("weights", "FAIL", found.evidence, f"delete {found.path} and fetch it again")
    return Finding("weights", "OK", described(found))

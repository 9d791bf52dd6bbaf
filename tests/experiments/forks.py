"""A process that has imported a module and forks a child for each call of a function of it: children to be killed.

It reads JSON lines: ``{"call": name, "given": [argument, ...], "log": file}`` starts a child that prints to the file,
and is answered with its process id; ``{"wait": pid}`` is answered with its exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from nest import Driver


class Forks(Driver):
    """The driver's end."""

    def start(self, function: str, *given: str, log: Path, lines: int) -> int:
        """Call the function in a child and wait for so many lines of it; returns its process id."""
        pid = self._ask(call=function, given=given, log=str(log))
        while True:
            lives = Path(f"/proc/{pid}/exe").exists()
            if log.exists() and log.read_text().count("\n") >= lines:
                return pid
            assert lives, f"it ended early: {log.read_text()}"
            time.sleep(0.005)


@contextmanager
def forks(module: str) -> Iterator[Forks]:
    command, environment = [sys.executable, __file__, module], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Forks(process)
        finally:
            process.kill()


def _start(module: ModuleType, command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        getattr(module, command["call"])(*command["given"])
        code = 0
    except KeyboardInterrupt:  # Python ends by it too
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(module: ModuleType) -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        command = json.loads(line)
        if "call" in command:
            answer = _start(module, command)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _serve(import_module(sys.argv[1]))

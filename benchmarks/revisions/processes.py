"""Sides of a contest in processes of their own, each with the code of its revision: the end that drives.

A worker has the same interpreter, environment, number of threads and audio as the other; the code that is first on its
path is all that differs. It is asked for one recording at a time, so two that are asked in turns never run together.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whisperlab.experiments.comparison.revisions import PACKAGE, check_out, commit_of

import whisperlab
from whisperlab.config import GROUPS
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.comparison.variants import REVISION, Side
from whisperlab.experiments.other_systems import EncoderWork, Heard, Peer
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import WhisperlabError

_SCRIPT = Path(__file__).with_name("worker.py")
_HERE = Path(whisperlab.__file__).parent.parent


@contextmanager
def at_work(
    sides: Mapping[str, Side],
    repository: Path,
    *,
    model: str,
    languages: Sequence[str],
    threads: int,
    say: Callable[[str], None],
) -> Iterator[dict[str, Peer]]:
    """Each side as a peer, its model loaded; processes and checkouts are gone when this is left, however it is.

    A side without a revision has the code of the whisperlab that is running.
    """
    commits = {name: side.revision and commit_of(side.revision, repository) for name, side in sides.items()}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="whisperlab-compare-")))
        peers: dict[str, Peer] = {}
        for name, side in sides.items():
            commit = commits[name]
            code = check_out(commit, repository, scratch / name) if commit else _HERE
            title = f"{name} ({f'{REVISION}{side.revision}' if side.revision else 'this whisperlab'})"
            worker = stack.enter_context(_started(title, code, scratch / f"{name}.log"))
            say(f"{title}: loading {model}")
            worker.set_up(side, model, languages, threads)
            peers[name] = worker.hear
        yield peers


class _Worker:
    """A process that runs one side, and the pipes to it."""

    __slots__ = ("_code", "_log", "_process", "_title")

    def __init__(self, title: str, code: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._title, self._code, self._log, self._process = title, code, log, process

    def set_up(self, side: Side, model: str, languages: Sequence[str], threads: int) -> None:
        """Make the transcriber. Raises WhisperlabError, with the revision's own words, where that fails."""
        answer = self._ask(
            {
                "model": model,
                "languages": list(languages) or None,
                "options": dict(side.options),
                "groups": {name: [group.__module__, group.__name__] for name, group in GROUPS.items()},
                "threads": threads,
            }
        )
        if not Path(answer["package"] or "/").resolve().is_relative_to(self._code.resolve()):
            raise WhisperlabError(f"{self._title} cannot run: its {PACKAGE}/ is no package")

    def hear(self, audio: FloatArray, _: Reference) -> Heard:
        """One recording, start to end."""
        answer = self._ask({"samples": len(audio)}, audio.tobytes())
        return Heard(
            segments=tuple(SessionSegment(**segment) for segment in answer["segments"]),
            switches=tuple(
                Switch(s["time"], s["from"], s["to"], s["decided_at"]) for s in answer["switches"]
            ),
            work=EncoderWork(*answer["work"]),
            compute_s=answer["compute_s"],
        )

    def _ask(self, question: Mapping[str, Any], audio: bytes = b"") -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        with suppress(BrokenPipeError):  # it is dead, and so will not answer
            to.write(json.dumps(question).encode() + b"\n" + audio)
            to.flush()
        line = back.readline()
        if not line.endswith(b"\n"):
            raise WhisperlabError(f"{self._title} {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WhisperlabError(f"{self._title} cannot run: {answer['error']}")
        return answer

    def _end(self) -> str:
        """How the process ended, and the last thing it said."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with {code}"
        memory = " (was there enough memory?)" if -code == signal.SIGKILL else ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"{how}{memory}; the last it said: {said}"


@contextmanager
def _started(title: str, code: Path, log: Path) -> Iterator[_Worker]:
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    # -P: the script's own folder must not come before the checkout.
    command = [sys.executable, "-P", str(_SCRIPT)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        yield _Worker(title, code, log, process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

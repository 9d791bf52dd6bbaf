"""The driver's end: one worker process per side, each with the code of its revision first on the path.

Workers have the same interpreter, environment, number of threads and audio. A worker gets one recording at a time, so
two workers that take turns never run at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import whisperlab
from benchmarks.revisions.checkout import PACKAGE, check_out, commit_of
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import score
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.comparison import Run, read_options
from whisperlab.experiments.results_store import Row
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.audio_arrays import duration_s
from whisperlab.util.errors import WhisperlabError

_SCRIPT = Path(__file__).with_name("worker.py")
_HERE = Path(whisperlab.__file__).parent.parent
THIS = "."  # the code of this checkout instead of a revision


@dataclass(slots=True, frozen=True)
class Side:
    """A revision, None for the code of this checkout, and options that differ from its defaults."""

    revision: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str) -> Side:
        """From ``REVISION``, or ``REVISION CONFIGURATION`` with JSON or a file of it. Raises ConfigurationError.

        The revision checks its own options.

        >>> Side.from_text('v1~2 {"precision": "fp32"}')
        Side(revision='v1~2', options={'precision': 'fp32'})
        """
        revision, _, configuration = text.partition(" ")
        options = read_options(configuration.strip() or "{}")
        return cls(None if revision == THIS else revision, options)

    def commit(self, repository: Path) -> str | None:
        """The full name of its commit; None for the code of this checkout."""
        return None if self.revision is None else commit_of(self.revision, repository)


@contextmanager
def at_work(
    sides: Mapping[str, Side],
    repository: Path,
    *,
    model: str,
    languages: Sequence[str],
    threads: int,
    say: Callable[[str], None],
) -> Iterator[dict[str, Run]]:
    """Each side with its model loaded, as what runs a recording. Processes and checkouts are removed on exit."""
    commits = {name: side.commit(repository) for name, side in sides.items()}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="whisperlab-compare-")))
        runs: dict[str, Run] = {}
        for name, side in sides.items():
            commit = commits[name]
            code = check_out(commit, repository, scratch / name) if commit else _HERE
            title = f"{name} ({side.revision or 'this checkout'})"
            worker = stack.enter_context(_started(title, code, scratch / f"{name}.log"))
            say(f"{title}: loading {model}")
            worker.set_up(side, model, languages, threads)
            runs[name] = worker.transcribe
        yield runs


class _Worker:
    """A process that runs one side, and the pipes to it."""

    __slots__ = ("_code", "_log", "_process", "_title")

    def __init__(self, title: str, code: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._title, self._code, self._log, self._process = title, code, log, process

    def set_up(self, side: Side, model: str, languages: Sequence[str], threads: int) -> None:
        """Make the transcriber. Raises WhisperlabError with the revision's own error."""
        request = {
            "model": model,
            "languages": list(languages) or None,
            "options": dict(side.options),
            "threads": threads,
        }
        answer = self._request(request)
        if not Path(answer["package"] or "/").resolve().is_relative_to(self._code.resolve()):
            raise WhisperlabError(f"{self._title} cannot run: its {PACKAGE}/ is no package")

    def transcribe(self, recording: Recording) -> Row:
        """One whole recording, scored."""
        audio = recording.audio()
        answer, length_s = self._request({"samples": len(audio)}, audio.tobytes()), duration_s(audio)
        segments = tuple(SessionSegment(**segment) for segment in answer["segments"])
        switches = tuple(Switch(s["time"], s["from"], s["to"], s["decided_at"]) for s in answer["switches"])
        counts = score(Reference.from_dict(recording.reference), segments, switches, duration=length_s)
        statistics = {"lid": {"encoded_s": answer["encoded_s"]}, "sessions": {"encoded_s": 0.0}}
        run = {"duration": length_s, "compute_s": answer["compute_s"]}
        return {"rates": counts.rates(), "statistics": statistics, **run}  # type: ignore[typeddict-item]

    def _request(self, request: Mapping[str, object], audio: bytes = b"") -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        with suppress(BrokenPipeError):  # a dead worker: the answer will be missing
            to.write(json.dumps(request).encode() + b"\n" + audio)
            to.flush()
        line = back.readline()
        if not line.endswith(b"\n"):
            raise WhisperlabError(f"{self._title} {self._exit()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WhisperlabError(f"{self._title} cannot run: {answer['error']}")
        return answer

    def _exit(self) -> str:
        """How the process ended, and its last output."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        memory = " (was there enough memory?)" if -code == signal.SIGKILL else ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"{how}{memory}; last output: {last}"


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

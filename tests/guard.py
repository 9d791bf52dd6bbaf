"""Cases in a child process that may crash, hang or ask for all memory: each is found, named and passed over.

The child gets a limit on its memory (``RLIMIT_DATA``) and, for each case, one on its processor time: a timer of the
system whose signal ends the process whatever native code it is in. A second one counts wall time, for what waits
instead of computing. After a death a new child goes on behind the case that did it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MEMORY = 1 << 30  # bytes a case may take on top of what the child has when it is ready
CPU_S = 20.0  # a case may compute; the slowest takes some seconds
WALL_S = 300.0  # far beyond it, for the machine may be busy


Case = Callable[[int], tuple[str, Callable[[], str]]]  # from its number to its kind and what runs it


@dataclass(slots=True, frozen=True)
class Outcome:
    """What became of a case: ``answer`` is ``right`` or an error's class; ``finding`` says what should not be."""

    case: int
    kind: str
    answer: str
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0
    finding: str | None = None


@dataclass(slots=True)
class Tally:
    """Outcomes added up."""

    by_kind: Counter[str] = field(default_factory=Counter)
    by_answer: Counter[str] = field(default_factory=Counter)
    findings: list[Outcome] = field(default_factory=list)
    slowest: Outcome = Outcome(-1, "", "")
    longest: Outcome = Outcome(-1, "", "")
    largest: Outcome = Outcome(-1, "", "")

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.by_kind[outcome.kind] += 1
        self.by_answer[outcome.answer] += 1
        if outcome.finding:
            self.findings.append(outcome)
        self.slowest = max(self.slowest, outcome, key=lambda one: one.cpu_s)
        self.longest = max(self.longest, outcome, key=lambda one: one.wall_s)
        self.largest = max(self.largest, outcome, key=lambda one: one.peak_bytes)

    @property
    def cases(self) -> int:
        """How many were tried."""
        return self.by_kind.total()

    def told(self) -> str:
        """The figures, and each finding once."""
        different: dict[str, Outcome] = {}
        for one in self.findings:
            different.setdefault((one.finding or "").strip().splitlines()[-1][:80], one)
        found = [
            f"case {one.case} ({one.kind}), one of {len(self.findings)}:\n{one.finding}" for one in different.values()
        ]
        return "\n".join(
            [
                f"{self.cases} cases: {dict(self.by_answer.most_common())}",
                f"by kind, the 20 most frequent of {len(self.by_kind)}: {dict(self.by_kind.most_common(20))}",
                f"slowest {self.slowest.cpu_s:.2f} s of CPU (case {self.slowest.case}, {self.slowest.kind}), "
                f"{self.longest.wall_s:.2f} s with children (case {self.longest.case}, {self.longest.kind})",
                f"most memory {self.largest.peak_bytes / 2**20:.0f} MiB more (case {self.largest.case}, "
                f"{self.largest.kind})",
                *found,
            ]
        )


def guarded(command: list[str], first: int, count: int) -> Tally:
    """The tally of cases ``first`` to ``first + count``; ``command`` starts a child that calls `serve`.

    The child is told the first case and how many as two further arguments.
    """
    tally, at, last = Tally(), first, first + count
    while at < last:
        with tempfile.TemporaryFile("w+") as said:
            for outcome in _outcomes([*command, str(at), str(last - at)], at, said):
                tally.add(outcome)
                at = outcome.case + 1
    return tally


def serve(
    case: Case, first: int, count: int, *, cpu_s: float = CPU_S, wall_s: float = WALL_S, memory: int = MEMORY
) -> None:
    """The child's side: run cases and print an outcome a line. ``case`` gives a kind and what to run.

    What runs returns ``right`` or the name of an expected error; whatever it raises is a finding.
    """
    with open(os.dup(1), "w") as out, tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)  # nothing should be printed, not even by native libraries
        faulthandler.enable()
        for limit in (signal.SIGPROF, signal.SIGALRM):
            faulthandler.register(limit, chain=True)  # a traceback, and then the end
        limit_memory(memory)
        for number in range(first, first + count):
            outcome = _outcome(case, number, cpu_s, wall_s)
            sys.stdout.flush()
            printed.seek(0)
            if text := printed.read():
                outcome["finding"] = f"{outcome['finding'] or ''}\nprinted on stdout: {text[:200]!r}"
                printed.seek(0)
                printed.truncate()
            print(json.dumps(outcome), file=out, flush=True)


def _outcome(case: Case, number: int, cpu_s: float, wall_s: float) -> dict[str, Any]:
    kind, finding, answer = "making the case", None, "finding"
    _forget_peak()
    before, began, clock = _status("VmRSS"), time.process_time(), time.monotonic()
    _limit_time(cpu_s, wall_s)
    try:
        kind, run = case(number)
        answer = run()
    except BaseException:
        finding = traceback.format_exc()
    finally:
        _limit_time(0, 0)
    return {
        "case": number,
        "kind": kind,
        "answer": answer,
        "cpu_s": time.process_time() - began,
        "wall_s": time.monotonic() - clock,
        "peak_bytes": max(0, _status("VmHWM") - before),
        "finding": finding,
    }


def limit_memory(more: int) -> None:
    """Let this process have so many bytes more than it has, and leave no core files."""
    limit = _status("VmData") + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(cpu_s: float, wall_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _forget_peak() -> None:
    """From now on VmHWM is the peak since now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _outcomes(command: list[str], at: int, said: IO[str]) -> Iterator[Outcome]:
    """Outcomes until the child ends; of a death one more, for the case that was running."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                outcome = Outcome(**json.loads(line))
                at = outcome.case + 1
                yield outcome
        except BaseException:
            child.kill()
            raise
    said.seek(0)
    if child.returncode > 0:
        raise RuntimeError(f"the child could not begin:\n{said.read()[-3000:]}")
    if child.returncode:
        yield Outcome(at, "unknown", "death", finding=f"{_before_modules(said.read())}\n{_death(child.returncode)}")


def _before_modules(said: str) -> str:
    """The end of what a dying child said, without the list of modules that faulthandler adds."""
    return said.partition("\nExtension modules: ")[0][-3000:]


def _death(code: int) -> str:
    if code == -signal.SIGPROF:
        return "a hang: it computed for longer than it may"
    if code == -signal.SIGALRM:
        return "a hang: it waited for longer than it may"
    return f"died of {signal.Signals(-code).name}"

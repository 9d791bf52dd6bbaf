"""Mutation testing of buffer, cache and metrics: ten small changes each, one at a time; do the tests fail?

    python benchmarks/mutants.py                 # all thirty: some minutes
    python benchmarks/mutants.py buffer --list   # print the changes and run nothing

Every mutant runs in a temporary copy of the package and its tests. Exits with 1 when the tests of any part catch fewer
than nine of ten mutants.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CAUGHT_AT_LEAST = 0.9
LIMIT_S = 120  # a mutant that makes the tests hang is caught


@dataclass(slots=True, frozen=True)
class Mutant:
    """One small change: a text that occurs once in the file, and its replacement."""

    before: str
    after: str
    file: str = ""  # inside the package; by default the module of the part


MUTANTS = {
    "buffer": (
        Mutant(
            "self._data[first : self.capacity], self._data[: n - head]",
            "self._data[: n - head], self._data[first : self.capacity]",
        ),
        Mutant("self._copy_in(chunk[-capacity:], end)", "self._copy_in(chunk[:capacity], end)"),
        Mutant("start + n, self._n_consumed + n", "start + n, self._n_consumed"),
        Mutant("return max(consumed, end - self.capacity, lost), end", "return max(consumed, lost), end"),
        Mutant(
            "return max(self._writing_until - self.capacity, self._lost_until) <= start",
            "return self.end - self.capacity <= start",
        ),
        Mutant("1.0 / full_scale(chunk.dtype)", "1.0 / (full_scale(chunk.dtype) - 1)"),
        Mutant("and chunk.dot(chunk) < _LOUDEST_SQUARED", "and len(chunk) < 10**9"),
        Mutant("self._lost_until = max(self._lost_until, min(self._writing_until - self.capacity, self.end))", "pass"),
        Mutant("end - self._consumed_until > capacity and", "end - self._consumed_until >= capacity and"),
        Mutant("self._n_consumed + end - start\n", "self._n_consumed + end - start - 1\n"),
    ),
    "cache": (
        Mutant("+ np.float32(0)).tobytes()", ").tobytes()"),
        Mutant("self._entries.move_to_end(wanted)", "pass"),
        Mutant("popitem(last=False)", "popitem(last=True)"),
        Mutant("self._counts.evictions += 1", "pass"),
        Mutant("and self._held_bytes() > limit", "and self._held_bytes() < limit"),
        Mutant(
            "value = None if entry is None else _copy(entry.value)", "value = None if entry is None else entry.value"
        ),
        Mutant("if wanted.silent and stored.silent:", "if wanted.silent or stored.silent:"),
        Mutant('len(window).to_bytes(8, "big"), ', ""),
        Mutant("self._counts.false_hits += not agree", "self._tally.false_hits += agree"),
        Mutant("if self.max_size == 0 or value.nbytes > limit:", "if self.max_size == 0:"),
    ),
    "metrics": (
        Mutant("apart * apart * self.count * later.count / count", "apart * apart * self.count / count"),
        Mutant("min(self.low, later.low)", "later.low"),
        Mutant("self.pending[:n] = newest, known, ()", "self.pending[:] = newest, known, ()"),
        Mutant("math.sqrt(self.m2 / self.count)", "math.sqrt(self.m2 / (self.count + 1))"),
        Mutant("newest = block[-len(self._ring) :]", "newest = block[: len(self._ring)]"),
        Mutant("self.began = self._outer.pop() if self._outer else None", "self.began = None"),
        Mutant(
            "            finally:\n                add(clock() - began)", "            finally:\n                pass"
        ),
        Mutant("usable = 0 <= seconds < _MAX_S", "usable = seconds < _MAX_S"),
        Mutant('"quantile": str(q / 100)', '"quantile": str(q)'),
        Mutant("if timing.began is None:", "if timing is not None:"),
    ),
}


def main() -> int:
    """Run the chosen mutants and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"out of {', '.join(MUTANTS)}; all of them by default")
    parser.add_argument("--list", action="store_true", help="print the changes and run nothing")
    arguments = parser.parse_args()
    chosen = arguments.part or list(MUTANTS)
    if unknown := set(chosen) - set(MUTANTS):
        parser.error(f"expected parts out of {', '.join(MUTANTS)}, got {', '.join(sorted(unknown))}")
    if arguments.list:
        for name in chosen:
            for mutant in MUTANTS[name]:
                print(f"{name}: {mutant.before.strip()!r} becomes {mutant.after.strip()!r}")
        return 0
    enough = True
    for name in chosen:
        survivors = [mutant for mutant in tqdm(MUTANTS[name], desc=name, unit="mutant") if not caught(name, mutant)]
        total = len(MUTANTS[name])
        print(f"{name}: {total - len(survivors)} of {total} caught")
        for mutant in survivors:
            print(f"  survived: {mutant.before.strip()!r} becomes {mutant.after.strip()!r}")
        enough &= total - len(survivors) >= CAUGHT_AT_LEAST * total
    return 0 if enough else 1


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the change; raises ``ValueError`` unless the text occurs exactly once."""
    if source.count(mutant.before) != 1:
        raise ValueError(f"expected {mutant.before!r} once, found it {source.count(mutant.before)} times")
    return source.replace(mutant.before, mutant.after)


def caught(name: str, mutant: Mutant) -> bool:
    """Whether the part's own tests fail (or hang) on a copy with the change."""
    with tempfile.TemporaryDirectory(prefix="whisperlab-mutant-") as folder:
        copy = Path(folder)
        for part in ("whisperlab", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        module = copy / "whisperlab" / (mutant.file or f"{name}.py")
        module.write_text(mutated(module.read_text(encoding="utf-8"), mutant), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=60"]
        try:
            done = subprocess.run(
                [*command, f"tests/test_{name}.py"],
                cwd=copy,
                env=os.environ | {"PYTHONPATH": str(copy)},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1):  # pytest: passed, failed; any other code is an error
            raise RuntimeError(f"the tests of {name} did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())

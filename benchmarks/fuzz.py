"""Damaged inputs by the thousand, through every way in: what becomes of them, and whether anything breaks.

    python benchmarks/fuzz.py                               # 1,000 cases of each target
    python benchmarks/fuzz.py audio wav --cases 10000       # case 17 of a target is the same as long as the seeds are
    python benchmarks/fuzz.py trace --guided --cases 20000  # coverage of the package's lines chooses the next input

Without --guided, cases run in a child process with limits (tests/guard.py). With it, atheris (Google's libFuzzer for
Python) mutates the seeds, or the chances that options are drawn with. Exits with 1 when something broke. A case can be
had again from the seeds in --keep (python tests/fuzzing.py SEEDS TARGET CASE 1); a guided run leaves its input there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
LIMIT_S = 20  # for one input
LIMIT_MIB = 3072  # of memory, for all of the process
INSIDE = "--inside"  # how a guided run calls this script for the process that libFuzzer takes over
PROGRESS = re.compile(r"#(\d+)\s+(INITED|DONE)\s+cov: (\d+) ft: (\d+)(?: corp: (\d+))?")
NAMES = (
    *("audio", "wav", "array", "option", "manifest", "trace", "transcript", "store", "configuration"),
    *("checkpoint", "contents", "command", "trace-page", "row-page", "edited-store"),
)


def main() -> int:
    """Run what the arguments ask for and print a paragraph for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"out of {', '.join(NAMES)}; default: all")
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first case, without --guided")
    parser.add_argument("--guided", action="store_true", help="let coverage choose; needs atheris")
    parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="FILE", help="more seeds of audio")
    parser.add_argument("--keep", type=Path, default=Path("reports/fuzz"), metavar="DIR", help="default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(NAMES):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    keep = args.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(TESTS))
    broken = 0
    with tempfile.TemporaryDirectory(prefix="whisperlab-") as scratch:
        seeds, made = keep / "seeds", Path(scratch, "seeds")
        if not seeds.is_dir():
            subprocess.run([sys.executable, TESTS / "fuzzing.py", made], check=True, stderr=subprocess.DEVNULL)
            shutil.move(made, seeds)
        for path in args.also:
            shutil.copyfile(path, seeds / "audio" / path.name)
        with chdir(scratch):
            for name in args.targets or NAMES:
                print(f"\n== {name}", flush=True)
                if args.guided:
                    broken += run_guided(name, args.cases, seeds, keep)
                else:
                    broken += run_seeded(name, args.first, args.cases, seeds)
    return 1 if broken else 0


def run_seeded(name: str, first: int, count: int, seeds: Path) -> int:
    """So many cases under guard; prints their tally and returns how many broke something."""
    from guard import guarded

    tally = guarded([sys.executable, str(TESTS / "fuzzing.py"), str(seeds), name], first, count)
    print(tally.told(), flush=True)
    return len(tally.findings)


def run_guided(name: str, runs: int, seeds: Path, keep: Path) -> int:
    """So many executions of a target under libFuzzer; prints what they covered, returns 1 when one broke something."""
    corpus = Path("corpus", name)
    corpus.mkdir(parents=True, exist_ok=True)
    of_target = seeds / "audio" if name == "audio" else seeds
    for seed in of_target.glob("*" if name == "audio" else f"*.{name.removesuffix('-page')}"):
        (corpus / seed.name).write_bytes(seed.read_bytes())
    fuzzer = [f"-runs={runs}", f"-timeout={LIMIT_S}", f"-rss_limit_mb={LIMIT_MIB}", "-max_len=65536", "-seed=1"]
    command = [sys.executable, __file__, INSIDE, name, str(seeds)]
    done = subprocess.run(
        [*command, *fuzzer, f"-artifact_prefix={keep}/{name}-", str(corpus)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    for number, state, lines, features, inputs in PROGRESS.findall(done.stderr):
        print(f"{state} after {number} executions: {lines} edges, {features} features, {inputs} inputs kept")
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-1000:], flush=True)  # atheris tells of an error on stdout
    return int(done.returncode != 0)


def guided(name: str, seeds: Path, fuzzer: list[str]) -> None:
    """The process of a guided run; libFuzzer ends it."""
    try:
        import atheris
    except ImportError:
        sys.exit("guided runs need atheris: pip install atheris==3.0.0 (Python 3.11 to 3.13, Linux)")
    sys.path.insert(0, str(TESTS))
    import guard

    with atheris.instrument_imports(include=["whisperlab"], enable_loader_override=False):
        import fuzzing
    fuzzing.be_ready(seeds)
    guard.limit_memory(guard.MEMORY)  # what a ring of so many samples is refused for; libFuzzer would call it a flood
    target = fuzzing.targets()[name]

    def once(data: bytes) -> None:
        if isinstance(target, fuzzing.Files):
            fuzzing.answer(lambda: target.run(target.seeds[0][0], data), target.errors)
        else:
            fuzzing.answer(target.draw(fuzzing.Chances(data))[1], target.errors)

    atheris.Setup([sys.argv[0], *fuzzer], once)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        guided(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    sys.exit(main())

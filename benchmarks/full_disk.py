"""A disk that is really full: a file system in memory, of some megabytes, filled up to a few free pages.

    sudo python benchmarks/full_disk.py               # or: unshare -rm python benchmarks/full_disk.py
    python benchmarks/full_disk.py sweep --steps 50   # one of them, with more amounts of room

Each case leaves room for a part of what a command or function writes. It must end with one line that names the reason;
files have their old content or do not exist; no task is recorded as failed; with room, the same call completes, and a
sweep has the rows of an undisturbed one. ``sweep`` and ``workers`` run a sweep with a fake model, ``report`` draws its
page, ``download`` reads from a server on this machine, and the others write one file each; the compiler of ``compiled
code`` is replaced by one that writes the same bytes at once. Exits with 1 if something else happened.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import io
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), *(str(ROOT / "tests" / part) for part in ("experiments", "data", "model"))]

import fuzzing_stores  # noqa: E402
from faults import listing  # noqa: E402
from test_executors import outcome, parrots  # noqa: E402
from test_faults import WRITERS  # noqa: E402
from test_sweep import DIGEST, GRID, Parrot, make_recording  # noqa: E402

from whisperlab.cli import main as whisperlab  # noqa: E402
from whisperlab.experiments.executors import local_processes  # noqa: E402
from whisperlab.experiments.results_store import read_rows  # noqa: E402
from whisperlab.experiments.sweep import run_sweep, task_worker  # noqa: E402
from whisperlab.model import downloads  # noqa: E402
from whisperlab.util.errors import SweepError, WhisperlabError  # noqa: E402

MIB = 4  # of the file system
PAGE = 4096
NAMES = ("sweep", "workers", "report", "download", *WRITERS)


@contextlib.contextmanager
def small_disk(mib: int = MIB) -> Iterator[Path]:
    """A file system in memory of so many MiB. Needs root, perhaps of a namespace."""
    with tempfile.TemporaryDirectory(prefix="whisperlab-disk-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def room(disk: Path, pages: int) -> Iterator[None]:
    """Only so many pages are free in the block."""
    free = shutil.disk_usage(disk).free
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, free - pages * PAGE)))
    try:
        yield
    finally:
        filler.unlink()


def emptied(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def command(argv: list[str]) -> tuple[int, str]:
    """Run a command line; its exit code and what it printed on stderr."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = whisperlab(argv)
    return code, err.getvalue()


def one_line(code: int, said: str) -> bool:
    lines = [line for line in said.splitlines() if "error: " in line]
    told = code == 1 and len(lines) == 1 and "Traceback" not in said
    if not told:
        print(f"exit {code}: {said}")
    return told


def used_pages(disk: Path) -> int:
    usage = shutil.disk_usage(disk)
    return -(-usage.used // PAGE)


# --- sweeps and pages ---------------------------------------------------------------------------------------------


def full_sweep(disk: Path, scratch: Path, steps: int) -> Counter[str]:
    """A sweep by the command line, stopped by a full disk and resumed with room."""
    found: Counter[str] = Counter()
    fuzzing_stores.make_template(scratch / "template", lambda argv: None)
    with fuzzing_stores.fake_model():
        argv = fuzzing_stores.runs(scratch / "template", disk / "out")[1]
        assert command(argv)[0] == 0
        expected, pages = outcome(disk / "out"), used_pages(disk)
        for step in range(steps):
            emptied(disk)
            with room(disk, pages * step // steps):
                code, said = command(argv)
            found["stopped"] += code == 1
            found["completed at once"] += code == 0
            found["more than one line"] += code != 0 and not one_line(code, said)
            found += kept(disk / "out")
            code, said = command(argv)
            found["not resumed"] += code != 0
            found["results that differ"] += outcome(disk / "out") != expected
            found["left behind"] += len([*disk.rglob("*.tmp*")])
    return found


def kept(out: Path) -> Counter[str]:
    rows = read_rows(out) if out.is_dir() else []
    return Counter({"tasks kept": len(rows), "rows that failed": sum(row["status"] != "ok" for row in rows)})


def full_workers(disk: Path, scratch: Path, steps: int) -> Counter[str]:
    """The same with two worker processes, which write the traces."""
    found: Counter[str] = Counter()
    recordings = [make_recording(scratch, f"r{n}", "hello " * 300 * n) for n in range(1, 4)]
    out = disk / "out"
    given: dict[str, Any] = {"model_digest": DIGEST, "progress": False}

    def sweep(executor: Any) -> None:
        run_sweep(GRID.configurations(), recordings, out, executor=executor, **given)

    run_sweep(GRID.configurations(), recordings, out, make_transcriber=Parrot, **given)
    expected, pages = outcome(out), used_pages(disk)
    work = partial(task_worker, out, parrots)
    for step in range(1, steps + 1):
        emptied(disk)
        with room(disk, pages * step // (steps + 1)):
            try:
                sweep(partial(local_processes, work, 2))
                found["completed at once"] += 1
            except SweepError as error:
                found["stopped"] += 1
                found["more than one line"] += "\n" in str(error)
        found += kept(out)
        run_sweep(GRID.configurations(), recordings, out, make_transcriber=Parrot, **given)
        found["results that differ"] += outcome(out) != expected
        found["left behind"] += len([*disk.rglob("*.tmp*")])
    return found


def full_report(disk: Path, scratch: Path, steps: int) -> Counter[str]:
    """The page of a sweep and the index, drawn onto a full disk."""
    found: Counter[str] = Counter()
    fuzzing_stores.make_template(scratch / "template", lambda argv: print(command(argv)[1], end=""))
    argv = ["report", str(scratch / "template" / "done"), "--out", str(disk)]
    assert command(argv)[0] == 0
    pages = used_pages(disk)
    for step in range(steps):
        emptied(disk)
        (disk / "done.html").write_text("old")
        with room(disk, pages * step // steps):
            code, said = command(argv)
            found["stopped"] += code == 1
            found["completed at once"] += code == 0
            found["more than one line"] += code != 0 and not one_line(code, said)
            page = (disk / "done.html").read_text()
            found["part of a page"] += page != "old" and not page.rstrip().endswith("</html>")
            found["left behind"] += len([*disk.glob(".*.tmp*")])
        found["not drawn with room"] += command(argv)[0] != 0
    return found


# --- single files -------------------------------------------------------------------------------------------------


def full_file(disk: Path, steps: int, name: str, write: Callable[[Path], object]) -> Counter[str]:
    """A file that is written where one is already, or none."""
    found: Counter[str] = Counter()
    path = disk / "out" / name
    write(path)
    pages = -(-path.stat().st_size // PAGE)
    for step in range(steps):
        old = b"what was there before" if step % 2 else None
        emptied(disk / "out")
        if old:
            path.write_bytes(old)
        before = listing(disk / "out")
        with room(disk, pages * step // steps):
            try:
                write(path)
                found["completed at once"] += 1
            except (WhisperlabError, OSError) as error:
                found["stopped"] += 1
                found["error without the path"] += str(path) not in str(error)
                found["part of a file"] += listing(disk / "out") != before
        write(path)
    return found


def downloader(size: int, scratch: Path) -> tuple[Callable[[Path], object], Callable[[], None]]:
    """What downloads a file of so many bytes from a server on this machine, and what ends the server."""
    content = bytes(range(256)) * (size // 256)
    (scratch / "weights.bin").write_bytes(content)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=scratch))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/weights.bin"

    def fetch(path: Path) -> None:
        with downloads.open_url(url) as answer:
            downloads.write(path, downloads.blocks(answer))
        assert path.read_bytes() == content

    return fetch, server.shutdown


def wrong(found: Counter[str]) -> int:
    """How often something else happened than it should."""
    return sum(count for what, count in found.items() if what not in ("stopped", "completed at once", "tasks kept"))


def run(name: str, steps: int) -> Counter[str]:
    with small_disk() as disk, tempfile.TemporaryDirectory(prefix="whisperlab-") as folder:
        scratch = Path(folder)
        if name == "download":
            fetch, end = downloader(2**20, scratch)
            try:
                return full_file(disk, steps, "weights.bin", fetch)
            finally:
                end()
        if name in WRITERS:
            of_writer, prepare = WRITERS[name]
            return full_file(disk, steps, of_writer, prepare(scratch))
        return {"sweep": full_sweep, "workers": full_workers, "report": full_report}[name](disk, scratch, steps)


def main() -> int:
    """Fill disks as the arguments ask and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(NAMES)}; default: all")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="amounts of room; default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    failures = 0
    for name in args.names or NAMES:
        found = run(name, args.steps)
        print(f"{name}: {dict(+found)}", flush=True)
        failures += wrong(found)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

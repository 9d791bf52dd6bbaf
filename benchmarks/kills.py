"""Processes of sweeps killed at random moments (SIGKILL): what is lost, and whether ``--resume`` completes.

    python benchmarks/kills.py                     # 100 kills of each kind of process
    python benchmarks/kills.py driver --kills 20   # of one kind
    python benchmarks/kills.py ray node            # 100 Ray workers and 100 Ray nodes; needs ray

Transcribers are fakes, so a task takes a fraction of a second. After every sweep with kills a resumed sweep completes
what is missing, and its rows are compared with those of an undisturbed sweep. A finished task must never be lost. Of a
killed driver at most the tasks in flight may be missing: one per worker. Exits with 1 if something was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "experiments"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from forks import Forks, forks  # noqa: E402
from test_executors import in_process, outcome, parrots, sweep  # noqa: E402
from test_sweep import Parrot, make_recording  # noqa: E402

from whisperlab.data import Recording  # noqa: E402
from whisperlab.data.manifest import ReferenceSegment  # noqa: E402
from whisperlab.experiments.executors import local_processes, ray_cluster  # noqa: E402
from whisperlab.experiments.results_store import read_rows  # noqa: E402
from whisperlab.experiments.sweep import task_worker  # noqa: E402
from whisperlab.streaming.results import ProcessResult  # noqa: E402
from whisperlab.util.audio_arrays import FloatArray  # noqa: E402
from whisperlab.util.errors import WhisperlabError  # noqa: E402

WORKERS = 2
KINDS = ("driver", "driver of workers", "worker", "resource tracker", "decoder", "ray", "node")
BAD = ("finished and lost", "more lost than in flight", "other exits", "rows that failed", "results that differ")
LONG_S = 60.0  # of the files whose decoding is to be interrupted


class Sleeper(Parrot):
    """A transcriber whose tasks take long enough to be killed, without computing."""

    def process(self, chunk: FloatArray) -> ProcessResult:
        time.sleep(0.06)
        return super().process(chunk)


def sleepers() -> Callable[..., Parrot]:
    return Sleeper


def noting(log: str, factory: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """The work of a factory, which first writes the task's key to a file."""
    work = factory()

    def noted(task: Any) -> Any:
        note(log, "begun", task.key)
        return work(task)

    return noted


def note(log: str, what: str, key: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {key}\n".encode())
    os.close(file)


def drive(folder: str, out: str, log: str, how: str) -> None:
    """A sweep whose process is to be killed; it notes the keys of the rows that it has stored."""
    factory = partial(noting, log, partial(task_worker, Path(out), sleepers if how == "workers" else parrots))
    executor = partial(local_processes, factory, WORKERS) if how == "workers" else partial(in_process, factory)

    def noted(tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for task, row in executor(tasks):
            yield task, row
            note(log, "stored", task.key)

    made = speech(Path(folder))
    print("begun", flush=True)
    sweep(made, Path(out), noted)


def speech(folder: Path) -> list[Recording]:
    return [make_recording(folder, f"r{n}", "hello " * n) for n in range(1, 4)]


def long_speech(folder: Path) -> list[Recording]:
    """A second from each of some long files, which are decoded as a whole."""
    made = []
    for number in range(4):
        path, rng = folder / f"long{number}.mp3", np.random.default_rng(number)
        if not path.exists():
            noise = (0.1 * rng.standard_normal(round(LONG_S * 16_000))).astype(np.float32)
            soundfile.write(path, noise, 16_000, format="MP3", subtype="MPEG_LAYER_III")
        said = (ReferenceSegment(0.0, 0.4, "en", "hello"),)
        made.append(Recording(f"long{number}", path, 0.4, "hello", "en", said, "test", "fakes", offset=1.0))
    return made


# --- one kill after the other -------------------------------------------------------------------------------


def kill_drivers(kills: int, folder: Path, rng: random.Random, how: str) -> Counter[str]:
    """A new sweep for each kill of its driver; `Counter` of what was found."""
    found: Counter[str] = Counter()
    recordings, expected = speech(folder), whole(folder)
    with forks("kills") as drivers:
        began, log = time.monotonic(), folder / "alone"
        pid = drivers.start("drive", str(folder), str(folder / "out"), str(log), how, log=folder / "first", lines=1)
        drivers.wait(pid)
        longest = time.monotonic() - began
        for number in range(kills):
            out, log = folder / f"{how}{number}", folder / f"{how}{number}.log"
            found += kill_driver(drivers, folder, out, log, how, rng.uniform(0.0, longest))
            found += completed(recordings, out, expected)
            print(f"  {dict(found)}", flush=True)
            shutil.rmtree(out)
    return found


def completed(recordings: list[Recording], out: Path, expected: list[Any]) -> Counter[str]:
    """Resume a sweep, and compare its rows. Failed rows count as lost, since resuming leaves them as they are."""
    executor = partial(in_process, partial(task_worker, out, parrots))
    failed = sum(row["status"] == "failed" for row in sweep(recordings, out, executor).failed)
    if failed:
        sweep(recordings, out, executor, retry_failed=True)
    return Counter({"rows that failed": failed, "results that differ": int(outcome(out) != expected)})


def kill_driver(drivers: Forks, folder: Path, out: Path, log: Path, how: str, after_s: float) -> Counter[str]:
    pid = drivers.start("drive", str(folder), str(out), str(log), how, log=log.with_suffix(".out"), lines=1)
    time.sleep(after_s)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    code = drivers.wait(pid)
    lines = log.read_text().splitlines() if log.exists() else []
    begun, stored = ({line.split()[1] for line in lines if line.startswith(what)} for what in ("begun", "stored"))
    kept = {row["key"] for row in read_rows(out)} if out.exists() else set()
    in_flight = begun - kept
    return Counter(
        {
            "kills": int(code == -signal.SIGKILL),
            "kills at work": int(code == -signal.SIGKILL and bool(begun)),
            "too late": int(code == 0),
            "finished and lost": len(stored - kept),
            "tasks in flight": len(in_flight),
            "more lost than in flight": int(len(in_flight) > (WORKERS if how == "workers" else 1)),
            "other exits": int(code not in (0, -signal.SIGKILL)),
        }
    )


def whole(folder: Path) -> list[Any]:
    """The rows of an undisturbed sweep."""
    out = folder / "whole"
    if not out.exists():
        sweep(speech(folder), out, partial(in_process, partial(task_worker, out, parrots)))
    return outcome(out)


# --- kills within sweeps that go on --------------------------------------------------------------------------


def workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def named(word: bytes, pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(OSError):
            found += [pid] if word in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


def trackers() -> list[int]:
    return named(b"resource_tracker", children(os.getpid()))


def decoders() -> list[int]:
    """Of this process and of its workers."""
    return named(b"decoder.py", [child for pid in (os.getpid(), *workers()) for child in children(pid)])


@contextmanager
def killing(
    find: Callable[[], list[int]], kills: int, rng: random.Random, found: Counter[str], gap_s: tuple[float, float]
) -> Iterator[None]:
    """Kill such processes at random moments in the block, up to so many in all."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(rng.uniform(*gap_s)):
            if found["kills"] < kills and (pids := find()):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    found["kills"] += 1
                    if find is trackers:
                        time.sleep(0.05)
                        resource_tracker.ensure_running()  # as the next worker would

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def kill_within(
    kills: int, folder: Path, rng: random.Random, find: Callable[[], list[int]], factory: Any, *, long: bool = False
) -> Counter[str]:
    """Sweeps of two workers, one of whose processes is killed again and again; each is completed and compared."""
    found: Counter[str] = Counter()
    folder.mkdir(exist_ok=True)
    recordings = long_speech(folder) if long else speech(folder)
    expected_in, number = folder / "whole", 0
    sweep(recordings, expected_in, partial(in_process, partial(task_worker, expected_in, parrots)))
    expected = outcome(expected_in)
    while found["kills"] < kills:
        number += 1
        out = folder / f"within{number}"
        work = partial(task_worker, out, factory)
        executor: Any = partial(in_process, work) if long else partial(local_processes, work, WORKERS)
        with killing(find, kills, rng, found, (1.5, 3.0) if long else (0.02, 1.2)):
            try:
                done = sweep(recordings, out, executor)
                found["rows that died"] += sum(row["status"] == "died" for row in done.failed)
            except WhisperlabError as error:
                found[f"sweep stopped: {type(error).__name__}"] += 1
        found += completed(recordings, out, expected)
        found["sweeps"] += 1
        print(f"  {dict(found)}", flush=True)
        shutil.rmtree(out)
    return found


# --- Ray --------------------------------------------------------------------------------------------------------


def kill_ray(kills: int, folder: Path, rng: random.Random, nodes: bool) -> Counter[str]:
    """Sweeps on two loopback nodes. Of workers any is killed; of nodes the second one, and a new one is added."""
    import pytest
    from test_executors import NO_LOGS, head_node

    found: Counter[str] = Counter()
    expected = whole(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", f"{rng.getrandbits(256):064x}")
        patch.setattr("ray._private.node.Node.start_api_server", lambda node, **_: None)
        import ray  # reads the token

        cluster = head_node()
        ray.init(address=cluster.address, log_to_driver=False)
        second = cluster.add_node(num_cpus=1, **NO_LOGS)
        try:
            while found["kills"] < kills:
                out = folder / f"ray{found['sweeps']}"
                executor = partial(ray_cluster, partial(task_worker, out, sleepers), cluster.address, 3)
                if nodes:
                    dying = threading.Timer(
                        rng.uniform(0.5, 6), cluster.remove_node, [second], {"allow_graceful": False}
                    )
                    dying.start()
                    done = sweep(speech(folder), out, executor)
                    dying.join()
                    found["kills"] += 1
                    second = cluster.add_node(num_cpus=1, **NO_LOGS)
                else:
                    with killing(partial(ray_workers, cluster), kills, rng, found, (0.02, 2.5)):
                        done = sweep(speech(folder), out, executor)
                found["rows that died"] += sum(row["status"] == "died" for row in done.failed)
                found += completed(speech(folder), out, expected)
                found["sweeps"] += 1
                print(f"  {dict(found)}", flush=True)
                shutil.rmtree(out)
        finally:
            ray.shutdown()
            cluster.shutdown()
    return found


def ray_workers(cluster: Any) -> list[int]:
    """The processes of actors at work, of all nodes of the cluster."""
    raylets = [
        info.process.pid
        for node in cluster.list_all_nodes()
        for kind, infos in node.all_processes.items()
        if kind == "raylet"
        for info in infos
    ]
    return named(b"ray::_Actor", [child for raylet in raylets for child in children(raylet)])


def main() -> int:
    """Kill what the arguments name and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"out of {', '.join(KINDS)}; default: all but Ray's")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="of each kind; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the moments; default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    lost = 0
    sys.modules["kills"] = sys.modules[__name__]  # by which worker processes import it
    for kind in args.kinds or KINDS[:-2]:
        rng = random.Random(args.seed)
        with tempfile.TemporaryDirectory(prefix="whisperlab-kills-") as scratch:
            given = args.kills, Path(scratch), rng
            run: Callable[[], Counter[str]] = {
                "driver": partial(kill_drivers, *given, "here"),
                "driver of workers": partial(kill_drivers, *given, "workers"),
                "worker": partial(kill_within, *given, workers, sleepers),
                "resource tracker": partial(kill_within, *given, trackers, sleepers),
                "decoder": partial(kill_within, *given, decoders, parrots, long=True),
                "ray": partial(kill_ray, *given, nodes=False),
                "node": partial(kill_ray, *given, nodes=True),
            }[kind]
            found = run()
        lost += sum(found[name] for name in BAD)
        print(f"{kind}: {dict(found)}", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

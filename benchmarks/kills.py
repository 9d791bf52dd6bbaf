"""Kills one process of a sweep at random moments and counts what each kill costs.

A sweep runs Whisper base over short stretches of real speech with two workers. The kinds of process are the driver,
the nursery that workers are forked from, a worker, and multiprocessing's resource tracker. After each sweep a run
with --resume alone must leave no task unfinished. One JSON document per kind is printed.

    python benchmarks/kills.py --kills 100 --kind nursery
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from whisperlab import corpora
from whisperlab.audio import read_audio, write_wav
from whisperlab.store import done

KINDS = ("driver", "nursery", "worker", "tracker")
STRETCH_S, N_STRETCHES = 2, 16


def main() -> None:
    """Run the kinds asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="whisperlab-kills-") as folder:
        manifest = stretches(Path(folder))
        for kind in args.kind or KINDS:
            print(json.dumps(measure(kind, args.kills, manifest, random.Random(args.seed))), flush=True)


def measure(kind: str, n_kills: int, manifest: Path, rng: random.Random) -> dict[str, Any]:
    """Sweeps until a kind of process was killed so often: what was counted."""
    counted = {
        "kind": kind,
        "kills": 0,
        "sweeps": 0,
        "retries": 0,
        "unfinished": 0,
        "stopped": 0,
        "not_completed": 0,
    }
    while counted["kills"] < n_kills:
        out = manifest.parent / f"{kind}-{counted['sweeps']}"
        log = out.with_suffix(".log")
        with log.open("wb") as file:
            driver = subprocess.Popen(command(manifest, out), stdout=file, stderr=file)
            counted["kills"] += kill(kind, driver, n_kills - counted["kills"], rng)
        counted["stopped"] += kind != "driver" and driver.returncode != 0
        counted["unfinished"] += sum(status != "ok" for status in done(out).values())
        with log.open("ab") as file:
            subprocess.run([*command(manifest, out), "--resume"], stdout=file, stderr=file, check=False)
        counted["not_completed"] += list(done(out).values()).count("ok") != 2 * N_STRETCHES
        counted["retries"] += log.read_text().count("its task is tried again")
        counted["sweeps"] += 1
    return counted


def kill(kind: str, driver: subprocess.Popen[bytes], most: int, rng: random.Random) -> int:
    """Kill at random moments until a driver has ended; how many kills there were."""
    kills = 0
    while driver.poll() is None:
        time.sleep(rng.uniform(0.05, 6.0 if kind in ("driver", "nursery") else 2.0))
        found = [driver.pid] if kind == "driver" else members(kind, driver.pid)
        if found and kills < most and driver.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(found), signal.SIGKILL)
                kills += 1
    return kills


def members(kind: str, driver: int) -> list[int]:
    """The processes of a kind below a driver."""
    children = [pid for pid, (parent, _) in processes().items() if parent == driver]
    commands = {pid: told for pid, (_, told) in processes().items()}
    nurseries = [pid for pid in children if "spawn_main" in commands.get(pid, "")]
    if kind == "nursery":
        return nurseries
    if kind == "tracker":
        return [pid for pid in children if "resource_tracker" in commands.get(pid, "")]
    return [pid for pid, (parent, _) in processes().items() if parent in nurseries]


def processes() -> dict[int, tuple[int, str]]:
    """The parent and the command line of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (
                parent,
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
            )
    return found


def command(manifest: Path, out: Path) -> list[str]:
    """A sweep of two configurations over all stretches."""
    options = ["--hash-precisions", "6,0", "--cache-sizes", "10", "--languages", "en,es", "--workers", "2"]
    where = ["--corpus", str(manifest), "--split", "", "--out", str(out)]
    return [sys.executable, "-m", "whisperlab", "sweep", *where, *options]


def stretches(folder: Path) -> Path:
    """A manifest of short stretches of a recording."""
    audio = read_audio(corpora.load("ivr-en-es", "test")[0].audio_path)
    lines = []
    for number in range(N_STRETCHES):
        at = number * STRETCH_S * 16_000
        write_wav(folder / f"{number}.wav", audio[at : at + STRETCH_S * 16_000])
        lines.append({"audio_filepath": f"{number}.wav", "duration": STRETCH_S, "text": "", "lang": "en"})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


if __name__ == "__main__":
    main()

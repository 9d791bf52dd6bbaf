"""Soak: transcribe hours of generated scenes in one stream. Does memory or latency grow with the length?

python -m benchmarks.soak --hours 0.25 --out reports    # run, then write soak.html and soak.json
python -m benchmarks.soak --log reports/soak.jsonl      # only write the page of a log, even of a killed run
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.soak.page import from_log, told, write_soak
from benchmarks.soak.plan import Plan
from benchmarks.soak.sounds import Sounds, clips
from benchmarks.soak.stream import SoakedTranscriber, soak, young_process
from whisperlab import data
from whisperlab.report.index import write_index

MODEL = "base"
CORPORA = ("ivr-five", "ivr-en-es")  # whose speech the scenes are made of
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def run(hours: float, seed: int, log: Path) -> bool:
    """Transcribe so many hours and write the log. Returns whether the run came to its end."""
    plan = Plan(hours, seed)
    speech = clips([recording for name in CORPORA for recording in data.load(name)])
    sounds = Sounds(speech)
    transcriber = SoakedTranscriber(MODEL, languages=sounds.languages)
    with tqdm(total=plan.duration_s, bar_format=BAR) as bar:
        return soak(
            transcriber,
            plan,
            sounds,
            log,
            yardstick=lambda: young_process(MODEL, speech[0].audio, speech[0].lang),
            progress=lambda heard_s: bar.update(heard_s - bar.n),
        )


def main() -> int:
    """Run, or only report; returns the exit code: 130 after an interrupt."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=3.0, help="hours of audio (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="decides which scenes come when")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="log, page and JSON (default: %(default)s)",
    )
    parser.add_argument("--log", type=Path, help="report this log; nothing is run")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = args.log or args.out / "soak.jsonl"
    whole = True if args.log else run(args.hours, args.seed, log)
    report = from_log(log, shlex.join(["python", "-m", "benchmarks.soak", *sys.argv[1:]]))
    for path in (*write_soak(report, log.with_name("soak.html")), write_index(log.parent)):
        print(path)
    for line in told(report.log, report.found):
        print(line)
    return 0 if whole else 130


if __name__ == "__main__":
    sys.exit(main())

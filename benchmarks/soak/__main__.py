"""Soak test: transcribe hours of generated scenes in one stream, and check that memory and latency do not grow.

python -m benchmarks.soak --hours 0.25 --out reports    # run; write soak.html and soak.json
python -m benchmarks.soak --log reports/soak.jsonl      # write the page of an existing log
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.soak.page import conclusions, from_log, write_soak
from benchmarks.soak.plan import Plan
from benchmarks.soak.sounds import Sounds, clips
from benchmarks.soak.stream import TIMED, reference_process, soak
from whisperlab import SessionRestartTranscriber, data
from whisperlab.report.index import write_index

MODEL = "base"
CORPORA = ("ivr-five", "ivr-en-es")  # the speech in the scenes
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def run(hours: float, seed: int, log: Path) -> bool:
    """Transcribe that many hours and write the log. Returns whether the run is complete."""
    plan = Plan(hours, seed)
    speech = clips([recording for name in CORPORA for recording in data.load(name)])
    sounds = Sounds(speech)
    transcriber = SessionRestartTranscriber(MODEL, languages=sounds.languages, parts=TIMED)
    with tqdm(total=plan.duration_s, bar_format=BAR) as bar:
        return soak(
            transcriber,
            plan,
            sounds,
            log,
            reference=lambda: reference_process(MODEL, speech[0].audio, speech[0].lang),
            progress=lambda fed_s: bar.update(fed_s - bar.n),
        )


def main() -> int:
    """Run and report, or only report. Returns the exit code, 130 after an interrupt."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=3.0, help="hours of audio (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of the scenes")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="folder for log, page and JSON (default: %(default)s)",
    )
    parser.add_argument("--log", type=Path, help="only report this log")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = args.log or args.out / "soak.jsonl"
    complete = True if args.log else run(args.hours, args.seed, log)
    report = from_log(log, shlex.join(["python", "-m", "benchmarks.soak", *sys.argv[1:]]))
    for path in (*write_soak(report, log.with_name("soak.html")), write_index(log.parent)):
        print(path)
    for line in conclusions(report.log, report.found):
        print(line)
    return 0 if complete else 130


if __name__ == "__main__":
    sys.exit(main())

"""The difficulty dial for one or more systems: F1, errors at switches and delay by block length and code-mixing index.

    python -m benchmarks.difficulty --n 3 --out reports/difficulty.jsonl

A line per recording is appended to the file; a stopped run continues. Prints two Markdown tables: the dial, and false
switches in the controls. Nothing is chosen by these figures: the scenes are of the *test* split.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from benchmarks.difficulty import study
from whisperlab.util.threads import THREADS


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=study.OURS, help="names, separated by semicolons (default: %(default)s)")
    parser.add_argument("--n", type=int, default=3, help="scenes of each point (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=Path("reports/difficulty.jsonl"))
    parser.add_argument("--only-print", action="store_true", help="print the tables of what was measured")
    arguments = parser.parse_args()
    systems = [name.strip() for name in arguments.systems.split(";")]
    controls = study.controls(n=arguments.n)
    points = [*study.dial(n=arguments.n), *(point for kind in controls.values() for point in kind)]
    measured = study.read(arguments.out)
    if not arguments.only_print:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        running = study.measure(points, systems, threads=arguments.threads, done=measured)
        with arguments.out.open("a", encoding="utf-8") as file:
            for one in tqdm(running, total=arguments.n * len(points) * len(systems) - len(measured), unit="recording"):
                file.write(json.dumps(one.to_dict()) + "\n")
                file.flush()
                measured.append(one)
    found = sorted(study.dial_rows(measured), key=lambda row: (row.system, -row.point.mixing, row.point.block_s))
    print(study.dial_table(found), study.controls_table(study.rows(measured, controls, [study.FALSE])), sep="\n\n")


if __name__ == "__main__":
    main()

"""Further *dev* voices: build their corpora, measure language identification on them, print tables.

    python -m benchmarks.voices build                 # all corpora, or those named
    python -m benchmarks.voices run --out reports/voices.jsonl
    python -m benchmarks.voices run voices-six ivr-five my/manifest.jsonl --languages own,17 \\
        --configs '{"default": {}, "no bias": {"language_id.english_bias": 0}}'
    python -m benchmarks.voices table --out reports/voices.jsonl

`run` appends a line per recording and configuration to the file; a stopped run continues. Take another file after a
change of the code or of the corpora. It prints three Markdown tables: by corpus, by voice and by language pair. A
choice is judged leaving one voice out: its gain must not come from one row of the second table. Without --decode only
language-ID runs, and switches are neither proved nor placed by text: compare such figures only with each other.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from benchmarks.voices import study
from benchmarks.voices.corpora import CORPORA, build, digest
from whisperlab.model.weights import load_weights

IVR = ("ivr-five", "ivr-en-es")


def main() -> None:
    """Build, measure or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build", "run", "table"])
    parser.add_argument(
        "corpora",
        nargs="*",
        help="names or manifests (default: all of these voices; for run also " + " and ".join(IVR) + ", *dev*)",
    )
    parser.add_argument("--configs", default='{"default": {}}', help="JSON or a file (default: %(default)s)")
    parser.add_argument("--languages", default="own,17,all", help="for configurations that do not set it")
    parser.add_argument("--decode", action="store_true", help="decode text too: slower, and switches need its proof")
    parser.add_argument("--limit", type=int, help="recordings of each corpus (default: all)")
    parser.add_argument("--model", default="base")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/voices.jsonl"))
    arguments = parser.parse_args()
    if arguments.command == "build":
        for name in arguments.corpora or CORPORA:
            print(build(name, print), digest(name)[:12])
        return
    lines = study.read(arguments.out)
    if arguments.command == "run":
        lines = run(arguments, lines)
    elif arguments.corpora:
        lines = [one for one in lines if one.corpus in arguments.corpora]
    print(*(study.table(lines, by) for by in get_args(study.By)), sep="\n\n")


def run(arguments: argparse.Namespace, lines: list[study.Measured]) -> list[study.Measured]:
    """Measure what is missing; returns the lines of these corpora and configurations."""
    told = arguments.languages.split(",")
    configurations = study.read_configurations(arguments.configs, told, decode=arguments.decode, model=arguments.model)
    corpora = arguments.corpora or [*CORPORA, *IVR]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    weights = cache(lambda: load_weights(arguments.model))
    running = study.measure(
        corpora, configurations, weights, threads=arguments.threads, limit=arguments.limit, done=lines
    )
    with arguments.out.open("a", encoding="utf-8") as file:
        for one in tqdm(running, unit="recording"):
            file.write(study.to_line(one))
            file.flush()
            lines.append(one)
    digests = {configuration.digest for configuration in configurations}
    return [one for one in lines if one.digest in digests and one.corpus in corpora]


if __name__ == "__main__":
    main()

"""Does a change of the code change what is transcribed? Segments, switches and frames of both *dev* splits, bit by bit.

    python benchmarks/behaviour.py record before.json     # on the old code
    python benchmarks/behaviour.py compare before.json    # on the new code, on the same machine

fp32 on one thread, audio in chunks of 100 ms. Floats are compared by their exact value, so both runs need the same
processor. ``compare`` exits with 1 and prints the first difference of each recording that changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from whisperlab import ProcessResult, SessionRestartTranscriber, data
from whisperlab.data.audio_files import read_audio
from whisperlab.util.timing import feed

CHUNK = 1600
CORPORA = ("ivr-five", "ivr-en-es")


def events(result: ProcessResult) -> list[list[object]]:
    """Everything that one call returned, as plain values in a fixed order."""
    found: list[list[object]] = []
    found += [
        ["segment", s.text, s.language, s.start_time.hex(), s.end_time.hex(), s.confidence.hex()]
        for s in result.segments
    ]
    found += [["switch", s.time.hex(), s.from_language, s.to_language, s.decided_at.hex()] for s in result.switches]
    for f in result.frames:
        onset = f.onset and [f.onset.window, {k: v.hex() for k, v in f.onset.posterior.items()}]
        found.append(
            ["frame", f.end, f.window, f.speech, {k: v.hex() for k, v in f.posterior.items()}, f.label, f.cached, onset]
        )
    found += [["untranscribed", span.start, span.end] for span in result.untranscribed]
    found += [["flag", f.span.start, f.label, f.language, f.probability.hex()] for f in result.flags]
    found.append(["text", result.committed, result.tentative])
    return found


def recordings(limit: int | None) -> dict[str, list[list[object]]]:
    """Transcribe every recording of both *dev* splits."""
    found: dict[str, list[list[object]]] = {}
    for corpus in CORPORA:
        for recording in tqdm(data.load(corpus, "dev")[:limit], desc=corpus):
            languages = sorted({segment.lang for segment in recording.segments})
            transcriber = SessionRestartTranscriber(languages=languages, precision="fp32", threads=1)
            audio = read_audio(recording.audio_path)
            rows = [row for result in feed(transcriber, audio, CHUNK) for row in events(result)]
            found[f"{corpus}/{recording.audio_path.stem}"] = [row for row in rows if row != ["text", "", ""]]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, help="recordings of each corpus, default: all")
    arguments = parser.parse_args()
    found = recordings(arguments.limit)
    if arguments.command == "record":
        arguments.file.write_text(json.dumps(found), encoding="utf-8")
        return 0
    before = json.loads(arguments.file.read_text(encoding="utf-8"))
    changed = 0
    for name, rows in found.items():
        rows = json.loads(json.dumps(rows))
        if rows == before[name]:
            print(f"{name}: {len(rows)} events, identical")
            continue
        changed += 1
        at = next(
            (i for i, (a, b) in enumerate(zip(before[name], rows, strict=False)) if a != b),
            min(len(rows), len(before[name])),
        )
        print(f"{name}: differs at event {at}:\n  before {before[name][at : at + 1]}\n  after  {rows[at : at + 1]}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())

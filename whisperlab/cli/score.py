"""Score transcripts against references: words by language, language labels, switches, delays.

Reads traces, or the output of `transcribe --json`. The reference comes from the trace, or from the same recording in
--reference. Counts are summed over the recordings first and divided afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import comma_list
from whisperlab.cli.console import Console
from whisperlab.cli.needs import Needs
from whisperlab.model.languages import language_code
from whisperlab.util.errors import ConfigurationError, TraceError, UnknownLanguageError
from whisperlab.util.files import read_text
from whisperlab.util.json_values import Json
from whisperlab.util.text_table import text_table
from whisperlab.util.validation import from_json, shown

if TYPE_CHECKING:
    from whisperlab.evaluation.scoring import Score
    from whisperlab.evaluation.scoring.text import TextRules
    from whisperlab.evaluation.trace import Reference

    References = Mapping[str, Reference]

HELP = "error rates of traces or transcripts"
EXAMPLES = ("score reports/demo-sweep/traces", "score call.jsonl --reference manifest.jsonl --json")
# The rates of the table; --json has all of them.
COLUMNS = {
    "words wrong": "mixed_error_rate",
    "language wrong": "language_error_rate",
    "switch F1 at 1 s": "switch_f1_at_1",
    "false switches/h": "false_switches_per_hour",
    "delay p50 s": "decision_delay_p50",
    "real-time factor": "real_time_factor",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab score``."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="traces, folders of traces, or JSON lines of transcribe"
    )
    parser.add_argument("--reference", type=Path, metavar="MANIFEST", help="manifest with the true segments")
    parser.add_argument(
        "--keep-diacritics", action="store_true", help="count á for a as an error (some references lack accents)"
    )
    parser.add_argument(
        "--normalizer",
        choices=("plain", "whisper"),
        default="plain",
        help="whisper: normalize number words, contractions and English spelling as openai-whisper does",
    )
    parser.add_argument(
        "--fold",
        type=comma_list,
        default=[],
        metavar="chinese,arabic",
        help="unify traditional and simplified characters, or Arabic with and without vowel signs",
    )


def needs(args: argparse.Namespace) -> Needs:
    """openai-whisper for its normalizers."""
    return {"whisper": "--normalizer whisper"} if args.normalizer == "whisper" else {}


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the rates of each recording and of all recordings."""
    from whisperlab.evaluation.scoring import normalizer_name, pooled

    rules: TextRules = {
        "fold_diacritics": not args.keep_diacritics,
        "normalizer": normalizer_name(args.normalizer, args.fold),
    }
    references = read_references(args.reference) if args.reference else {}
    scores = list(scored(files(args.paths), references, rules))
    total = pooled(score for _, score in scores)
    rates = [(name, score.rates()) for name, score in scores]
    console.document(
        {
            "recordings": [{"recording": name, "rates": mine} for name, mine in rates],
            "total": total.rates(),
            "counts": total.to_dict(),
        }
    )
    rows = [*rates, ("all together", total.rates())]
    console.show(
        text_table([{"recording": name} | {title: row[rate] for title, rate in COLUMNS.items()} for name, row in rows])
    )
    console.show(
        f"words wrong: normalizer {rules['normalizer']}, accents {'kept' if args.keep_diacritics else 'folded'}"
    )
    return 0


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, and the ``*.jsonl`` files of folders in order of name."""
    for path in paths:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise TraceError(f"no *.jsonl in the folder {path}")
        yield from inside


def read_references(manifest: Path) -> dict[str, Reference]:
    """The reference of each recording of a manifest, by its id and by the name of its audio file."""
    from whisperlab.data import read_manifest
    from whisperlab.evaluation.trace import Reference

    references = {}
    for recording in read_manifest(manifest):
        reference = Reference(recording.text, recording.segments)
        references[recording.id] = reference
        if recording.offset is None:
            references[recording.audio_path.stem] = reference
    return references


def scored(paths: Iterable[Path], references: References, rules: TextRules) -> Iterator[tuple[str, Score]]:
    """The name and score of every recording in the files."""
    from whisperlab.evaluation.scoring import score_trace
    from whisperlab.evaluation.trace import read_trace

    for path in paths:
        documents = read_documents(path)
        if documents is None:
            trace = read_trace(path)
            reference = references.get(trace.recording)
            yield trace.recording, score_trace(trace, reference, **rules)
        else:
            for number, document in enumerate(documents, 1):
                try:
                    yield _score_document(document, references, rules)
                except TraceError as error:
                    raise TraceError(
                        f"{path}, document {number}: not the output of `whisperlab transcribe --json`: {error}"
                    ) from error


def read_documents(path: Path) -> list[Json] | None:
    """The documents of ``transcribe --json``, or None for another kind of file."""
    try:
        lines = [from_json(line) for line in read_text(path).splitlines() if line.strip()]
    except ValueError:
        return None
    fields = {"audio", "duration", "segments", "switches"}
    complete = all(isinstance(line, dict) and fields <= line.keys() and "kind" not in line for line in lines)
    return lines if lines and complete else None


def _score_document(document: Json, references: References, rules: TextRules) -> tuple[str, Score]:
    from whisperlab.evaluation.scoring import score
    from whisperlab.evaluation.trace import DOCUMENT, SEGMENT, SWITCH, check_fields
    from whisperlab.streaming.results import SessionSegment, Switch

    check_fields(document, DOCUMENT, "a document")
    for segment in document["segments"]:
        check_fields(segment, SEGMENT, "a segment")
    for switch in document["switches"]:
        check_fields(switch, SWITCH, "a switch")
    name = Path(document["audio"]).stem
    if name not in references:
        raise ConfigurationError(f"no reference for {shown(name)}: give --reference a manifest that contains it")
    fields = SessionSegment.__slots__
    segments = [
        SessionSegment(**{field: item[field] for field in fields} | {"language": _code(item["language"])})
        for item in document["segments"]
    ]
    switches = [Switch(s["time"], _code(s["from"]), _code(s["to"]), s["decided_at"]) for s in document["switches"]]
    return name, score(references[name], segments, switches, duration=document["duration"], **rules)


def _code(language: str) -> str:
    """Whisper's code for a language; an unknown language is returned unchanged and counts as an error."""
    try:
        return language_code(language)
    except UnknownLanguageError:
        return language

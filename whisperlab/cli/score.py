"""Score what was heard against what was said: words by language, language of the speech, switches, delays.

Takes traces, or what `transcribe --json` printed. The reference is the one kept in a trace, or that of the
same recording in --reference. Counts are added over the recordings first and divided afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.cli.arguments import comma_list
from whisperlab.cli.console import Console, table
from whisperlab.cli.needs import Needs
from whisperlab.model.languages import language_code
from whisperlab.util.errors import ConfigurationError, TraceError, UnknownLanguageError
from whisperlab.util.files import read_text
from whisperlab.util.validation import from_json, shown

if TYPE_CHECKING:
    from whisperlab.evaluation.scoring import Score
    from whisperlab.evaluation.trace import Reference

    References = Mapping[str, Reference]

HELP = "traces or transcripts to error rates"
EXAMPLES = (
    "score reports/demo-sweep/traces",
    "score call.jsonl --reference manifest.jsonl --json",
)
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
        "heard",
        nargs="+",
        type=Path,
        metavar="HEARD",
        help="traces, folders of traces, or transcribe's JSON lines",
    )
    parser.add_argument(
        "--reference", type=Path, metavar="MANIFEST", help="a manifest with the true segments"
    )
    parser.add_argument(
        "--keep-diacritics", action="store_true", help="count á for a as wrong (some references lack accents)"
    )
    parser.add_argument(
        "--normalizer",
        choices=("plain", "whisper"),
        default="plain",
        help="whisper: number words, contractions and English spelling as openai-whisper's normalizers have them",
    )
    parser.add_argument(
        "--fold",
        type=comma_list,
        default=[],
        metavar="chinese,arabic",
        help="count traditional and simplified characters, or Arabic with and without vowel signs, as the same",
    )


def needs(args: argparse.Namespace) -> Needs:
    """openai-whisper for its normalizers."""
    return {"whisper": "--normalizer whisper"} if args.normalizer == "whisper" else {}


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the rates of each recording and of all together."""
    from whisperlab.evaluation.scoring import normalizer_name, pooled

    rules = {
        "fold_diacritics": not args.keep_diacritics,
        "normalizer": normalizer_name(args.normalizer, args.fold),
    }
    references = read_references(args.reference) if args.reference else {}
    scores = list(scored(files(args.heard), references, rules))
    total = pooled(score for _, score in scores)
    rates = [(name, score.rates()) for name, score in scores]
    console.document(
        {
            "recordings": [{"recording": name, "rates": mine} for name, mine in rates],
            "total": total.rates(),
            "counts": total.to_dict(),
        }
    )
    shown = [*rates, ("all together", total.rates())]
    console.show(
        table(
            [
                {"recording": name} | {title: mine[rate] for title, rate in COLUMNS.items()}
                for name, mine in shown
            ]
        )
    )
    console.show(
        f"words wrong: normalizer {rules['normalizer']}, accents {'kept' if args.keep_diacritics else 'folded'}"
    )
    return 0


def files(heard: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and the ``*.jsonl`` of folders in order of name."""
    for path in heard:
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


def scored(
    paths: Iterable[Path], references: References, rules: Mapping[str, Any]
) -> Iterator[tuple[str, Score]]:
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
                        f"{path}, document {number}: expected what `whisperlab transcribe --json` prints, "
                        f"but {error}"
                    ) from error


def read_documents(path: Path) -> list[dict[str, Any]] | None:
    """The documents ``transcribe --json`` wrote, or None when the file is not of that kind."""
    try:
        lines = [from_json(line) for line in read_text(path).splitlines() if line.strip()]
    except ValueError:
        return None
    fields = {"audio", "duration", "segments", "switches"}
    whole = all(isinstance(line, dict) and fields <= line.keys() and "kind" not in line for line in lines)
    return lines if lines and whole else None


def _score_document(
    document: Mapping[str, Any], references: References, rules: Mapping[str, Any]
) -> tuple[str, Score]:
    from whisperlab.evaluation.scoring import score
    from whisperlab.evaluation.trace import DOCUMENT, SEGMENT, SWITCH, check_fields
    from whisperlab.streaming.results import SessionSegment, Switch

    check_fields(document, DOCUMENT, "it is one")
    for segment in document["segments"]:
        check_fields(segment, SEGMENT, "it has a segment")
    for switch in document["switches"]:
        check_fields(switch, SWITCH, "it has a switch")
    name = Path(document["audio"]).stem
    if name not in references:
        raise ConfigurationError(f"no reference for {shown(name)}: give --reference a manifest that has it")
    fields = SessionSegment.__slots__
    segments = [
        SessionSegment(**{field: item[field] for field in fields} | {"language": _code(item["language"])})
        for item in document["segments"]
    ]
    switches = [
        Switch(s["time"], _code(s["from"]), _code(s["to"]), s["decided_at"]) for s in document["switches"]
    ]
    return name, score(
        references[name],
        segments,
        switches,
        duration=document["duration"],
        **rules,
    )


def _code(language: str) -> str:
    """Whisper's code for a language as another program names it; what is none stays, and counts as wrong."""
    try:
        return language_code(language)
    except UnknownLanguageError:
        return language

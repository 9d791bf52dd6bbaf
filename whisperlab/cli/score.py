"""Score transcripts against references: words by language, language labels, switches, delays.

Reads traces, or the output of `transcribe --json`. The reference comes from the trace, or from the same recording in
--reference. Counts are summed over the recordings of a configuration first and divided afterwards. Traces made with
decode off have no text: only their language-ID frames are scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import comma_list, refuse_audio
from whisperlab.cli.console import Console, counted, percent
from whisperlab.cli.needs import Needs
from whisperlab.model.languages import language_code
from whisperlab.util.errors import ConfigurationError, TraceError, UnknownLanguageError
from whisperlab.util.files import read_text
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.text_table import text_table
from whisperlab.util.validation import from_json, shown

if TYPE_CHECKING:
    from whisperlab.evaluation.scoring import Score
    from whisperlab.evaluation.scoring.summary import RateTree
    from whisperlab.evaluation.scoring.text import TextRules
    from whisperlab.evaluation.trace import Reference

    References = Mapping[str, Reference]

HELP = "error rates of traces or transcripts"
EXAMPLES = ("score reports/demo-sweep/traces", "score call.jsonl --reference manifest.jsonl --json")
# The rates of the table; --json has all of them.
COLUMNS = {
    "words wrong": "mixed_error_rate",
    "wrong language, text": "language_error_rate",
    "wrong language, frames": "language_error_rate_frames",
    "switch F1 (1 s)": "switch_f1_at_1",
    "false switches (per hour)": "false_switches_per_hour",
    "decision delay, p50 (s)": "decision_delay_p50",
    "real-time factor": "real_time_factor",
}
_PERCENT = ("mixed_error_rate", "language_error_rate", "language_error_rate_frames")
# The rates that need text; null for traces that were made with decode off.
TEXT_RATES = (
    *("mixed_error_rate", "error_rate_by_language", "language_error_rate", "switch_error_rate", "deleted_s_per_switch"),
    *("word_latency_p50", "word_latency_p95", "hypothesis_words", "hits", "substitutions", "deletions", "insertions"),
)


@dataclass(slots=True, frozen=True)
class Scored:
    """The score of one recording, with the configuration that made it (empty for documents), in dotted names."""

    recording: str
    score: Score
    config: Json

    @property
    def has_text(self) -> bool:
        return bool(self.config.get("decode", True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="traces, folders of traces, or JSON lines of transcribe")
    add("--reference", type=Path, metavar="MANIFEST", help="manifest with the true segments")
    text = "count á for a as an error (some references lack accents)"
    add("--keep-diacritics", action="store_true", help=text)
    text = "whisper: normalize number words, contractions and English spelling as openai-whisper does"
    add("--normalizer", choices=("plain", "whisper"), default="plain", help=text)
    text = "unify traditional and simplified characters, or Arabic with and without vowel signs"
    add("--fold", type=comma_list, default=[], metavar="chinese,arabic", help=text)


def needs(args: argparse.Namespace) -> Needs:
    """openai-whisper for its normalizers."""
    return {"whisper": "--normalizer whisper"} if args.normalizer == "whisper" else {}


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the rates of each recording, and of all recordings of each configuration."""
    from whisperlab.evaluation.scoring import normalizer_name, pooled

    rules: TextRules = {
        "fold_diacritics": not args.keep_diacritics,
        "normalizer": normalizer_name(args.normalizer, args.fold),
    }
    refuse_audio(args.paths, "score")
    references = read_references(args.reference) if args.reference else {}
    groups = by_configuration(scored(files(args.paths), references, rules))
    recordings, configurations, rows = [], [], []
    for name, group in groups.items():
        named = [(one.recording, _rates(one.score, one.has_text)) for one in group]
        total = pooled(one.score for one in group)
        pooled_rates = _rates(total, group[0].has_text)
        where = {"configuration": name} if len(groups) > 1 else {}
        recordings += [{"recording": who, **where, "rates": mine} for who, mine in named]
        configurations.append({"configuration": name, "rates": pooled_rates, "counts": total.to_dict()})
        if len(group) > 1:
            named.append((f"all {len(group)}", pooled_rates))
        rows += [{**where, "recording": who} | _cells(mine) for who, mine in named]
    alone = configurations[0] if len(configurations) == 1 else {"rates": None, "counts": None}
    how = counted(rules["normalizer"], fold_diacritics=rules["fold_diacritics"])
    words_counted = [how] if any(group[0].has_text for group in groups.values()) else []
    totals = {"total": alone["rates"], "counts": alone["counts"]}
    document = {"recordings": recordings, "configurations": configurations, **totals}
    console.result(document, text_table(rows), *_without_text(groups), *words_counted)
    return 0


def by_configuration(scores: Iterable[Scored]) -> dict[str, list[Scored]]:
    """The scores by the name of their configuration: the options in which the configurations differ, as in reports."""
    from whisperlab.report.counts import config_name, varying

    every = list(scores)
    options = varying([one.config for one in every])
    groups: dict[str, list[Scored]] = {}
    for one in every:
        groups.setdefault(config_name(one.config, options), []).append(one)
    return groups


def _rates(score: Score, has_text: bool) -> RateTree:
    return score.rates() | ({} if has_text else dict.fromkeys(TEXT_RATES))


def _cells(rates: RateTree) -> dict[str, object]:
    return {title: percent(rates[name]) if name in _PERCENT else rates[name] for title, name in COLUMNS.items()}


def _without_text(groups: Mapping[str, Sequence[Scored]]) -> Iterator[str]:
    """A line for each configuration that was run with decode off."""
    from whisperlab.evaluation.scoring import pooled

    for name, group in groups.items():
        if not group[0].has_text:
            wrong = pooled(one.score for one in group).rates()["language_error_rate_frames"]
            rate = "not known" if wrong is None else f"{100 * wrong:.0f} %"
            where = f"{name}: " if len(groups) > 1 else ""
            yield f"{where}no text: made with decode off; wrong language, frames: {rate}"


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


def scored(paths: Iterable[Path], references: References, rules: TextRules) -> Iterator[Scored]:
    """The score of every recording in the files."""
    from whisperlab.evaluation.scoring import score_trace
    from whisperlab.evaluation.trace import read_trace

    for path in paths:
        documents = read_documents(path)
        if documents is None:
            trace = read_trace(path)
            reference = references.get(trace.recording)
            yield Scored(trace.recording, score_trace(trace, reference, **rules), flat(trace.config))
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


def _score_document(document: Json, references: References, rules: TextRules) -> Scored:
    from whisperlab.evaluation.scoring import score
    from whisperlab.evaluation.trace.records import DOCUMENT, SEGMENT, SWITCH, check_fields
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
    return Scored(name, score(references[name], segments, switches, duration=document["duration"], **rules), {})


def _code(language: str) -> str:
    """Whisper's code for a language; an unknown language is returned unchanged and counts as an error."""
    try:
        return language_code(language)
    except UnknownLanguageError:
        return language

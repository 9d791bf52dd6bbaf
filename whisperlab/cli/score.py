"""Score transcripts against references: words by language, language labels, switches, delays.

Reads traces, or the output of `transcribe --json`. The reference comes from the trace, or from the same recording in
--reference. Counts are summed over the recordings of a configuration first and divided afterwards. Traces made with
decode off have no text: only their language-ID frames are scored.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import Parser, comma_list, refuse_audio, require
from whisperlab.cli.console import Console, counted, percent
from whisperlab.model.languages import language_code
from whisperlab.util.errors import ConfigurationError, TraceError, UnknownLanguageError
from whisperlab.util.files import read_text
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.text_table import text_table
from whisperlab.util.validation import from_json, shown

if TYPE_CHECKING:
    from whisperlab.evaluation.scoring.summary import RateTree, Score
    from whisperlab.evaluation.scoring.text import TextRules
    from whisperlab.evaluation.trace import Reference

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

    def rates(self) -> RateTree:
        return self.score.rates() | ({} if self.has_text else dict.fromkeys(TEXT_RATES))


def add_arguments(parser: Parser) -> None:
    add = parser.option
    add("paths", "traces, folders of traces, or JSON lines of transcribe", nargs="+", type=Path, metavar="PATH")
    add("--reference", "manifest with the true segments", type=Path, metavar="MANIFEST")
    parser.flag("--keep-diacritics", "count á for a as an error (some references lack accents)")
    text = "whisper: normalize number words, contractions and English spelling as openai-whisper does"
    add("--normalizer", text, choices=("plain", "whisper"), default="plain")
    text = "unify traditional and simplified characters, or Arabic with and without vowel signs"
    add("--fold", text, type=comma_list, default=[], metavar="chinese,arabic")


def run(args: argparse.Namespace, console: Console) -> None:
    """Print the rates of each recording, and of all recordings of each configuration."""
    require({"whisper": "--normalizer whisper"} if args.normalizer == "whisper" else {})
    from whisperlab.evaluation.scoring import normalizer_name, pooled
    from whisperlab.report.counts import config_name, varying

    normalizer, fold = normalizer_name(args.normalizer, args.fold), not args.keep_diacritics
    refuse_audio(args.paths, "score")
    references = read_references(args.reference) if args.reference else {}
    rules: TextRules = {"fold_diacritics": fold, "normalizer": normalizer}
    every, groups = list(scored(files(args.paths), references, rules)), defaultdict[str, list[Scored]](list)
    options = varying([one.config for one in every])  # in which the configurations differ, as in reports
    for one in every:
        groups[config_name(one.config, options)].append(one)
    recordings, configurations, rows, remarks, has_text = [], [], [], list[str](), False
    for name, group in groups.items():
        where = {"configuration": name} if len(groups) > 1 else {}
        total = Scored(f"all {len(group)}", pooled(one.score for one in group), group[0].config)
        rates, has_text = total.rates(), has_text or total.has_text
        recordings += [{"recording": one.recording, **where, "rates": one.rates()} for one in group]
        configurations.append({"configuration": name, "rates": rates, "counts": total.score.to_dict()})
        for one in [*group, total] if len(group) > 1 else group:
            found = [(title, rate, one.rates()[rate]) for title, rate in COLUMNS.items()]
            cells = {title: percent(value) if "error_rate" in rate else value for title, rate, value in found}
            rows.append({**where, "recording": one.recording, **cells})
        if not total.has_text:
            wrong = rates["language_error_rate_frames"]
            rate = "not known" if wrong is None else f"{100 * wrong:.0f} %"
            config = f"{name}: " if where else ""
            remarks.append(f"{config}no text: made with decode off; wrong language, frames: {rate}")
    alone = configurations[0] if len(configurations) == 1 else {"rates": None, "counts": None}
    totals = {"total": alone["rates"], "counts": alone["counts"]}
    if has_text:
        remarks.append(counted(normalizer, fold_diacritics=fold))
    document = {"recordings": recordings, "configurations": configurations, **totals}
    console.result(document, text_table(rows), *remarks)


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


def scored(paths: Iterable[Path], references: Mapping[str, Reference], rules: TextRules) -> Iterator[Scored]:
    from whisperlab.evaluation.scoring import score_trace
    from whisperlab.evaluation.trace import read_trace

    for path in paths:
        documents = read_documents(path)
        for number, document in enumerate(documents, 1):
            try:
                yield _score_document(document, references, rules)
            except TraceError as error:
                what = "not the output of `whisperlab transcribe --json`"
                raise TraceError(f"{path}, document {number}: {what}: {error}") from error
        if not documents:
            trace = read_trace(path)
            score = score_trace(trace, references.get(trace.recording), **rules)
            yield Scored(trace.recording, score, flat(trace.config))


def read_documents(path: Path) -> list[Json]:
    """The documents of ``transcribe --json``; empty for another kind of file."""
    try:
        lines = [from_json(line) for line in read_text(path).splitlines() if line.strip()]
    except ValueError:
        return []
    fields = {"audio", "duration", "segments", "switches"}
    complete = all(isinstance(line, dict) and fields <= line.keys() and "kind" not in line for line in lines)
    return lines if complete else []


def _score_document(document: Json, references: Mapping[str, Reference], rules: TextRules) -> Scored:
    from whisperlab.evaluation.scoring import score
    from whisperlab.evaluation.trace import records
    from whisperlab.streaming.results import SessionSegment, Switch

    records.check_fields(document, records.DOCUMENT, "a document")
    segments, switches = [], []
    for item in document["segments"]:
        records.check_fields(item, records.SEGMENT, "a segment")
        fields = {name: item[name] for name in records.SEGMENT}
        segments.append(SessionSegment(**fields | {"language": _code(item["language"])}))
    for item in document["switches"]:
        records.check_fields(item, records.SWITCH, "a switch")
        switches.append(Switch(item["time"], _code(item["from"]), _code(item["to"]), item["decided_at"]))
    name = Path(document["audio"]).stem
    if name not in references:
        raise ConfigurationError(f"no reference for {shown(name)}: give --reference a manifest that contains it")
    return Scored(name, score(references[name], segments, switches, duration=document["duration"], **rules), {})


def _code(language: str) -> str:
    """Whisper's code for a language; an unknown language is returned unchanged and counts as an error."""
    with suppress(UnknownLanguageError):
        return language_code(language)
    return language

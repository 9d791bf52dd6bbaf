"""Score transcripts against references: words by language, language labels, switches, delays.

Reads traces, stream logs of any system (see docs/stream-log.md), the output of `transcribe --json`, or JSON of
openai-whisper, faster-whisper or WhisperX. The reference is in the trace, or the recording of that name in --reference.
Counts are summed over the recordings of a configuration first and divided afterwards. Traces made with decode off have
no text: only their language-ID frames are scored.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import TABLES, refuse_audio, require
from whisperlab.cli.console import Console, counted, percent
from whisperlab.util.errors import ConfigurationError, TraceError
from whisperlab.util.json_values import Json, unicode_text
from whisperlab.util.options import flat
from whisperlab.util.text_table import text_table
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.evaluation.scoring.summary import RateTree, Score
    from whisperlab.evaluation.scoring.text import TextRules
    from whisperlab.evaluation.trace import Trace

# The rates of each table; --json has all of them.
COLUMNS = TABLES["score_columns"].values()


@dataclass(slots=True, frozen=True)
class Scored:
    """The score of one recording, with the configuration that made it (empty for documents), in dotted names."""

    recording: str
    score: "Score"
    config: Json

    @property
    def has_text(self) -> bool:
        return bool(self.config.get("decode", True))

    def rates(self) -> "RateTree":
        return self.score.rates(has_text=self.has_text)


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
    if args.export:
        from whisperlab.evaluation.stream_log import write_exports

        every_trace = [trace for path in files(args.paths) for trace in streams(path, references)]
        write_exports(args.export, [(trace, trace.reference) for trace in every_trace if trace.reference])
    options = varying([one.config for one in every])  # in which the configurations differ, as in reports
    for one in every:
        groups[config_name(one.config, options)].append(one)
    recordings, configurations, remarks, has_text = [], [], list[str](), False
    tables = [list[dict[str, object]]() for _ in COLUMNS]
    for name, group in groups.items():
        where = {"configuration": name} if len(groups) > 1 else {}
        total = Scored(f"all {len(group)}", pooled(one.score for one in group), group[0].config)
        rates, has_text = total.rates(), has_text or total.has_text
        recordings += [{"recording": one.recording, **where, "rates": one.rates()} for one in group]
        configurations.append({"configuration": name, "rates": rates, "counts": total.score.to_dict()})
        for one in [*group, total] if len(group) > 1 else group:
            known = one.rates()
            for rows, columns in zip(tables, COLUMNS, strict=True):
                found = [(name, rate, known[rate]) for name, rate in columns.items()]
                cells = {name: percent(value) if "_rate" in rate else value for name, rate, value in found}
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
    first, *more = map(text_table, tables)
    console.result(document, first, *(f"\n{table}" for table in more if has_text), *remarks)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, and the ``*.jsonl`` files of folders in order of name."""
    for path in paths:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise TraceError(f"no *.jsonl in the folder {path}")
        yield from inside


def read_references(manifest: Path) -> "dict[str, Recording]":
    """The recordings of a manifest, by their ids and by the names of their audio files."""
    from whisperlab.data import read_manifest

    found = read_manifest(manifest)
    return {unicode_text(one.audio_path.stem): one for one in found if one.offset is None} | {
        one.id: one for one in found
    }


def scored(paths: Iterable[Path], references: "Mapping[str, Recording]", rules: "TextRules") -> Iterator[Scored]:
    """The score of each stream. Raises ConfigurationError for one without a reference."""
    from whisperlab.evaluation.scoring import score_trace

    for trace in (trace for path in paths for trace in streams(path, references)):
        if trace.reference is None:
            wanted = "give --reference a manifest that contains it"
            raise ConfigurationError(f"no reference for {shown(trace.recording)}: {wanted}")
        yield Scored(trace.recording, score_trace(trace, **rules), flat(trace.config))


def streams(path: Path, references: "Mapping[str, Recording]") -> "Iterator[Trace]":
    """The streams in a trace, a stream log or JSON of a recogniser, each with its reference if there is one."""
    from whisperlab.evaluation.stream_log import read_streams
    from whisperlab.evaluation.trace import Trace

    for trace in read_streams(path, {name: one.duration for name, one in references.items()}):
        known = references.get(trace.recording)
        yield Trace({**trace.header, "reference": known.reference}, trace.events) if known else trace

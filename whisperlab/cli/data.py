"""Speech with transcripts: build the corpora on this machine, list, describe, locate and import them.

The corpora are spliced human speech, not code-switching corpora. Each has a card with its contents and licences.
"""

import argparse
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.cli.arguments import TABLES, Parser
from whisperlab.cli.console import Console
from whisperlab.util.errors import CorpusError
from whisperlab.util.json_values import unicode_text
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.data import Recording

_HEADERS = TABLES["data_columns"]


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in TABLES["data_actions"].items():
        actions.add_parser(action, help=text).declare(f"data_{action}")


def run(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    if args.action == "build":
        options = {"packages_dir": args.packages, "accept_newer": args.accept_newer, "say": console.note}
        folders = {name: str(data.build(name, args.seed, **options)) for name in args.corpora}
        console.result(folders, *(f"{name}: {folder}" for name, folder in folders.items()))
    elif args.action == "list":
        found = [data.info(name) for name in data.list_corpora()]
        rows = []
        for corpus in found:
            own = {"name": corpus["name"], "languages": ",".join(corpus["languages"])}
            rows.append({**own, "built": "yes" if corpus["built"] else "no", "description": corpus["description"]})
        console.result(found, text_table(rows))
    elif args.action == "info":
        recordings = data.load(args.corpus, build_missing=False)
        splits = sorted({recording.split for recording in recordings})
        rows = [facts(split, [r for r in recordings if r.split == split]) for split in splits]
        about = data.info(args.corpus) if args.corpus in data.list_corpora() else None
        licences = about["licences"] if about else {}
        credits = [f"{lang}: {licence}; {about['credits'][lang]}" for lang, licence in licences.items() if about]
        table = text_table([{_HEADERS.get(name, name): value for name, value in row.items()} for row in rows])
        each = [{"id": recording.id, **facts(recording.split, [recording])} for recording in recordings]
        document = {"corpus": args.corpus, "about": about, "splits": rows, "recordings": each}
        console.result(document, *credits, table)
    elif args.action == "path":
        recording = find(args.recording, args.corpus)
        path, offset = recording.audio_path.absolute(), recording.offset
        console.document({"id": recording.id, "path": path})
        console.path(path)
        if offset is not None:
            console.note(f"the recording is {recording.duration:.1f} s of this file, from {offset:.1f} s on")
    elif args.action == "import":
        from whisperlab.data.annotations import import_annotations

        where, language = (args.path, args.out, args.audio), args.language or ""
        name, recordings, warnings = import_annotations(*where, language, args.format)
        data.write_manifest(args.out, recordings)
        total = facts("all", recordings)
        columns = {"id": "id", "start (s)": "offset", "length (s)": "duration", "languages": "lang", "text": "text"}
        first = [{title: getattr(one, field) for title, field in columns.items()} for one in recordings[:3]]
        first = [row | {"text": row["text"][:60]} for row in first]
        document = {"format": name, "manifest": args.out, "first": first, "total": total, "warnings": warnings}
        tables = text_table(first), text_table([{_HEADERS.get(key, key): value for key, value in total.items()}])
        console.result(document, *tables, *(f"warning: {one}" for one in warnings), f"read as {name}: {args.out}")


def facts(split: str, recordings: "Sequence[Recording]") -> dict[str, object]:
    """The recordings of one split in numbers: count, minutes, switches, how mixed, seconds of speech by language."""
    from whisperlab.data.manifest import Totals
    from whisperlab.evaluation.scoring.code_switching import Mixing, mixing
    from whisperlab.evaluation.trace import Reference

    size = Totals.of(recordings)
    mixed = sum((mixing(Reference(one.text, one.segments)) for one in recordings), Mixing())
    speech = sorted(size.speech_s.items(), key=lambda item: -item[1])  # the longest first
    length = {"recordings": size.recordings, "minutes": round(size.minutes, 1)}
    levels = {"within_sentences": mixed.within, "between_sentences": mixed.between, "unpunctuated": mixed.unpunctuated}
    shares = {"code_mixing_index": mixed.code_mixing_index, "span_burstiness": mixed.burstiness}
    rounded = {name: None if isnan(value) else round(value, 3) for name, value in shares.items()}
    counts = {"switches": size.switches, **levels, **rounded, "noisy": size.noisy}
    return {"split": split, **length, **counts, "speech_s": " ".join(f"{lang}:{time_s:.0f}" for lang, time_s in speech)}


def find(name: str, manifest: str | None) -> "Recording":
    """The recording with an id. Without a manifest, the id itself names the corpus and the split."""
    from whisperlab import data

    corpus = manifest or name.rpartition("-")[0].rpartition("-")[0]
    if manifest is None and (Path(name).exists() or corpus not in data.list_corpora()):
        kind = "a file" if Path(name).exists() else "no recording of a built corpus"
        own = "For your own recordings add --corpus MANIFEST (data info MANIFEST describes it)"
        raise CorpusError(f"{name!r} is {kind}: expected the id of a recording, such as ivr-five-test-00. {own}")
    recordings = {recording.id: recording for recording in data.load(corpus, build_missing=False)}
    if (key := unicode_text(name)) not in recordings:
        raise CorpusError(f"no recording {name!r} in {corpus}; it has {', '.join(recordings)}")
    return recordings[key]

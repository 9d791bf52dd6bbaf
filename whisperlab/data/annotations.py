"""Annotations in other programs' formats as recordings of a manifest. `annotations.toml` has one row per format."""

import csv
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from html import unescape
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from whisperlab.data.audio_files import header_s, read_audio
from whisperlab.data.manifest import Recording, json_objects
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.model.languages import find_code
from whisperlab.util.audio_arrays import duration_s
from whisperlab.util.errors import ManifestError, MissingDependencyError, brief
from whisperlab.util.files import AUDIO, as_path, read_text, write_atomic
from whisperlab.util.json_values import Json, unicode_text
from whisperlab.util.validation import shown

_TABLE = tomllib.loads((Path(__file__).parent / "annotations.toml").read_text(encoding="utf-8"))
FORMATS: dict[str, dict[str, Any]] = _TABLE["formats"]


class Row(NamedTuple):
    """An annotated part of an audio file. Times in seconds."""

    file: str
    start: float
    end: float | None  # None: the end of the file
    text: str
    codes: tuple[str, ...]  # languages; empty if unknown
    speaker: str = ""
    whole: bool = False  # a recording of its own; otherwise a segment of its file
    id: str = ""
    split: str = ""
    spans: tuple["Row", ...] = ()  # the segments of a whole row, from its start on
    content: bytes = b""  # of the audio file, if the format contains it


class Source(NamedTuple):
    """A file in one format, the language of texts that name none, and the problems found so far with their places."""

    path: Path
    stem: str
    format: str
    language: str
    problems: dict[str, list[str]]

    def rows(self) -> Iterator[Row]:
        """The rows. Raises ManifestError for invalid content."""
        settings = FORMATS[self.format]
        try:
            for row in map(self.row, _READERS[settings["read"]](self)):
                used = any(one.text or one.codes for one in (row, *row.spans))
                yield from [row] * used
                place = f"{row.id or row.file} at {row.start:g} s"
                self.problems["left out: neither text nor language"] += [place] * (not used)
        except ImportError as error:
            what = f"{error.name} (to read {self.format}); pip install 'whisperlab[{settings['extra']}]'"
            raise MissingDependencyError(f"not installed: {what}") from error
        except (ManifestError, OSError):
            raise
        except Exception as error:  # of a reader or its library
            raise ManifestError(f"{self.path}: not valid as {self.format}: {brief(error)}") from error

    def row(self, fields: Json) -> Row:
        """A mapping with the columns of annotations.toml. It is a segment of its file if it has an end."""
        names = {key: next((c for c in all_.split() if c in fields), "") for key, all_ in _TABLE["columns"].items()}
        given = {key: fields[name] for key, name in names.items() if name and fields[name] not in (None, "")}
        start, length = float(given.get("start", 0)), given.get("duration") if names["start"] else None
        end = float(given["end"]) if "end" in given else None if length is None else start + float(length)
        tagged = re.findall(r"<(\w+)><start:([\d.]+)>(.*?)<end:([\d.]+)>", given.get("tagged", ""))
        parts = [{"start": a, "end": b, "text": said, "lang": code} for code, a, said, b in tagged]
        parts += [part for part in fields.get("segments") or () if isinstance(part, dict)]
        settings, said, lang = FORMATS[self.format], str(given.get("text", "")), given.get("lang", "")
        marked, text = re.findall(settings.get("language", r"\A\Z."), said), said
        for pattern, new in settings.get("replace", ()):
            text = re.sub(pattern, new, text)
        text = " ".join(unescape(text).split())
        codes = self.codes(",".join([lang, *marked] if isinstance(lang, str) else lang)) if text or not said else ()
        name, split, file, speaker = (str(given.get(key, "")) for key in ("id", "split", "file", "speaker"))
        spans, whole, content = tuple(map(self.row, parts)), not names["end"], fields.get("content", b"")
        return Row(file or self.stem, start, end, text, codes, speaker, whole, name * whole, split, spans, content)

    def codes(self, lang: str) -> tuple[str, ...]:
        """Whisper's codes for languages such as ``zh,en``, ``['en', 'fr']`` or ``cmn-eng``."""
        lang = FORMATS[self.format].get("languages", {}).get(lang, lang)
        separator = "-" if re.fullmatch(r"[a-z]{3}(-[a-z]{3})+", lang) else r"[][,;|+&/'\"]+"
        names = [name.strip() for name in re.split(separator, lang) if name.strip()]
        self.problems["unknown language"] += [name for name in names if not find_code(name)]
        return tuple(dict.fromkeys(filter(None, map(find_code, names)))) or (self.language,) * bool(self.language)


def import_annotations(
    path: Path, out: Path, audio: Path | None = None, language: str = "", format_name: str | None = None
) -> tuple[str, list[Recording], list[str]]:
    """The format of a file or folder, the recordings it describes, and what was left out or is doubtful.

    The rows of a file become one recording with segments. If some are in several languages or in an unknown one, each
    row becomes a recording, because no time of a switch is known within it. ``language`` is used where none is known.
    Audio is searched beside the annotation, or in ``audio`` and below it; audio that is part of the annotation is
    written to the folder ``audio`` beside ``out``. Raises ManifestError for invalid content or without any recording.
    """
    name, paths = _recognised(path, format_name, out)
    search, problems = audio or (path if path.is_dir() else path.parent), defaultdict[str, list[str]](list)
    inside = sorted(search.rglob("*") if audio or path.is_dir() else search.iterdir(), reverse=True)
    files = [(file, Path(unicode_text(file.name))) for file in inside if file.suffix.lower() in AUDIO]
    known = {key: file for file, named in files for key in (named.name, named.stem, "_".join(named.stem.split()))}
    grouped, made = defaultdict[Path, list[Row]](list), dict[str, Recording]()
    for one in paths:
        stem = Path(unicode_text(one.name).removesuffix(".gz")).stem
        split = next((part for part in (stem.split("-")[0], one.parent.name) if part in _TABLE["splits"]), "")
        for row in Source(one, stem, name, language, problems).rows():
            written = one.parent / as_path(row.file)
            file = written if written.is_file() else known.get(Path(row.file).name) or known.get(Path(row.file).stem)
            if row.content:
                file = write_atomic(out.parent / "audio" / split / written.name, row.content)
            if file:
                grouped[file.absolute()].append(row._replace(split=row.split or split, content=b""))
            else:
                problems["left out, because the audio was not found (--audio DIR)"].append(row.file)
    for recording in (found for file, rows in grouped.items() for found in _recordings(file, rows, problems)):
        unique = next(key for n in count(1) if (key := recording.id + f"-{n}" * (n > 1)) not in made)
        made[unique] = replace(recording, id=unique, corpus=unicode_text(path.name).partition(".")[0])
    warnings = [f"{what}: {len(at)} ({', '.join(list(dict.fromkeys(at))[:3])})" for what, at in problems.items() if at]
    if not made:
        raise ManifestError(f"{path}: no recording in it as {name}; {'; '.join(warnings) or 'it is empty'}")
    return name, list(made.values()), warnings


def _recognised(path: Path, format_name: str | None, out: Path) -> tuple[str, list[Path]]:
    """The format of a file, or of the files in a folder, and the files. Raises ManifestError if it is not clear."""
    found = defaultdict[str, list[Path]](list)
    inside = (file for file in sorted(path.rglob("*")) if file.is_file() and file.absolute() != out.absolute())
    for file in inside if path.is_dir() else [path]:
        full = file.absolute().as_posix().lower().removesuffix(".gz")
        names = [name for name, row in FORMATS.items() if any(fnmatch(full, pattern) for pattern in row["names"])]
        names = [*FORMATS] if file == path and (format_name or not names) else names
        text = read_text(file, "replace")[:20_000] if names and "parquet" not in names[:2] and not format_name else ""
        fits = [n for n in names if (n == format_name if format_name else re.search(FORMATS[n]["content"], text))]
        for name in fits[:1]:
            found[name].append(file)
    if len(found) != 1:
        seen = ", ".join(f"{name} ({len(files)})" for name, files in found.items()) or "none that is known"
        raise ManifestError(f"{path}: expected one format, found {seen}; --format is one of {', '.join(FORMATS)}")
    return next(iter(found.items()))


def _recordings(file: Path, rows: Sequence[Row], problems: dict[str, list[str]]) -> Iterator[Recording]:
    """The recordings of one audio file. Raises AudioFormatError if it cannot be read."""
    length = header_s(file) or duration_s(read_audio(file))
    wholes, spans = [row for row in rows if row.whole], [row for row in rows if not row.whole]
    if {len(span.codes) for span in spans} in ({0}, {1}):
        wholes.append(Row(str(file), 0.0, None, "", (), split=spans[0].split, spans=tuple(spans)))
    elif spans:
        problems["each row is a recording, for some are in several languages or in an unknown one"].append(file.name)
        wholes += spans
    for row in wholes:
        duration = (length if row.end is None else min(row.end, length)) - row.start
        offset = row.start if row.start > 0 or duration < length - 0.01 else None
        name = row.id or unicode_text(file.stem) + ("" if offset is None else f"@{round(row.start, 3):.10g}")
        spans = sorted(row.spans or [row._replace(start=0.0, end=None)], key=lambda span: span.start)
        ends = [duration if span.end is None else min(span.end, duration) for span in spans]
        timed = [(max(0.0, one.start), end, one) for one, end in zip(spans, ends, strict=True) if one.start < end]
        problems["left out, because the audio ends before or the length is 0"] += [name] * (len(timed) < len(spans))
        if not timed:
            continue
        problems["overlapping segments"] += [name] * any(b[0] < a[1] - 0.01 for a, b in pairwise(timed))
        codes = [span.codes for span in spans]
        problems["text without language: words are scored, switches are not"] += [name] * (not all(codes))
        single = {len(some) for some in codes} == {1}
        text = row.text or " ".join(span.text for *_, span in timed if span.text)
        lang = ",".join(dict.fromkeys(code for some in codes for code in some))
        of_one = timed if single else []
        segments = tuple(ReferenceSegment(a, b, one.codes[0], one.text, one.speaker) for a, b, one in of_one)
        yield Recording(name, file, duration, text, lang, segments, row.split, "", offset=offset)


# ---- readers -----------------------------------------------------------------------------------------------


def _lines(source: Source) -> Iterator[Json]:
    """A line per segment or word, which may continue on lines after a tab. ``;;`` starts a comment."""
    text, settings = re.sub(r"\r?\n\t", " ", read_text(source.path)), FORMATS[source.format]
    main, unit = re.findall(settings.get("main", r"\A\Z."), text), settings.get("unit", 1.0)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        if not (found := re.fullmatch(settings["line"], line.strip())):
            raise ManifestError(f"{source.path}:{number}: not a line of {source.format}: {shown(line)}")
        row: dict[str, Any] = found.groupdict()
        if row["start"]:
            start = unit * float(row["start"])
            end = unit * float(row["end"]) if "end" in row else start + float(row["length"])
            yield row | {"start": start, "end": end, "lang": row.get("lang") or ",".join(main)}
        source.problems["left out: without times, or not to be scored"] += [shown(line)] * bool(row.get("skip"))


def _kaldi(source: Source) -> Iterator[Json]:
    """A Kaldi data folder. Commands in wav.scp are not run: the audio file that they name is taken."""
    tables: dict[str, dict[str, str]] = {}
    for name in ("wav.scp", "text", "segments", "utt2lang", "utt2spk"):
        files = [file for file in (source.path.parent / name, source.path.parent / f"{name}.gz") if file.exists()]
        lines = [line.split(maxsplit=1) for file in files for line in read_text(file).split("\n")]
        tables[name] = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    for utterance, text in tables["text"].items():
        recording, *times = tables["segments"].get(utterance, utterance).split()
        file = tables["wav.scp"].get(recording, recording)
        if file.endswith("|"):
            file = next((word for word in file.split() if Path(word).suffix.lower() in AUDIO), recording)
            source.problems["only the audio file of a command in wav.scp is used"].append(recording)
        row = {"file": file, "text": text, "lang": tables["utt2lang"].get(utterance)}
        row["speaker"] = tables["utt2spk"].get(utterance)
        end = times[1] if times and float(times[1]) >= 0 else None  # -1: the end of the recording
        yield row | ({"start": times[0], "end": end} if times else {"id": utterance})


def _table(source: Source) -> Iterator[Json]:
    """CSV or TSV with names of columns in the first line. openai-whisper's TSV has times in milliseconds."""
    lines = read_text(source.path).splitlines(keepends=True)
    separator = max(",;\t|", key=lines[0].count)
    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    milliseconds = lines[0].startswith("start\tend\ttext")
    for row in csv.DictReader(lines, delimiter=separator, quoting=quoting):
        found = {name.strip().casefold(): value for name, value in row.items() if name}
        yield found | {key: int(found[key]) / 1000 for key in ("start", "end") if milliseconds}


def _items(source: Source) -> Iterator[Json]:
    """JSON lines or a JSON array. In Lhotse's cuts, the times of supervisions count from the start of the cut."""
    for _, item in json_objects(source.path):
        audio = [one["source"] for one in item.get("recording", {}).get("sources", ()) if one["type"] == "file"]
        cut = {"file": [*audio, item["id"]][0], "segments": item["supervisions"]} if "supervisions" in item else {}
        yield {**item, **cut}


def _parquet(source: Source) -> Iterator[Json]:
    """Rows of Hugging Face's data sets: ``audio`` is a record of ``bytes`` and ``path``."""
    import duckdb

    with source.path.open("rb") as file:  # by its number: duckdb expands * and [ in names
        table = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [f"/dev/fd/{file.fileno()}"])
        names = [column[0] for column in table.description]
        for number, values in enumerate(iter(table.fetchone, None), 1):
            row = dict(zip(names, values, strict=True))
            name = row["audio"]["path"] or f"{source.stem}-{number:05d}.wav"
            yield row | {"audio": name, "content": row["audio"]["bytes"]}


def _textgrid(source: Source) -> Iterator[Json]:
    """Praat. Languages come from a tier named ``language``, or from the name of the tier of the text."""
    from praatio.utilities import textgrid_io

    tiers = textgrid_io.parseTextgridStr(read_text(source.path))["tiers"]
    found = [(one["name"].strip().casefold(), [*one["entries"]]) for one in tiers if one["class"] == "IntervalTier"]
    language, unit = r"(lang|language|lid)\b", r"\b(words?|phone(me)?s?|syllables?)\b"
    marks = {name.partition(" ")[2]: spans for name, spans in found if re.match(language, name)}
    texts = [tier for tier in found if not re.match(language, tier[0])]
    for name, spans in [tier for tier in texts if not re.search(unit, tier[0])] or texts[:1]:
        own = name * bool(find_code(name)) * (len(name) != 3)  # three letters are often a speaker
        for start, end, text in spans:
            middle, places = (float(start) + float(end)) / 2, marks.get(name.partition(" ")[2], marks.get("", []))
            spoken = [mark for a, b, mark in places if float(a) <= middle < float(b)]
            yield {"start": start, "end": end, "text": text, "lang": [*spoken, own][0]}


def _subtitles(source: Source) -> Iterator[Json]:
    """SRT and WebVTT. Languages come from ``<lang en>``, or from the name of the file: ``call.en.srt``."""
    import pysubs2

    name, _, lang = source.stem.rpartition(".")
    place = {"file": name, "lang": lang} if name and find_code(lang) else {}
    for cue in pysubs2.SSAFile.from_string(read_text(source.path), format_=source.format, keep_html_tags=True):
        yield {**place, "start": cue.start / 1000, "end": cue.end / 1000, "text": cue.text}


_READERS: Mapping[str, Callable[[Source], Iterable[Json]]] = {
    "lines": _lines, "kaldi": _kaldi, "table": _table, "items": _items, "parquet": _parquet,
    "textgrid": _textgrid, "subtitles": _subtitles,
}  # fmt: skip

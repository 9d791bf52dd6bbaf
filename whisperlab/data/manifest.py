"""Manifests: lists of recordings with their transcripts, as JSON lines in NeMo's format."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from whisperlab.data.audio_files import header_s, read_audio, read_part
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.evaluation.trace.records import check_fields
from whisperlab.model.languages import language_code
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import AudioFormatError, ManifestError, TraceError, UnknownLanguageError
from whisperlab.util.files import as_path, read_text, write_atomic
from whisperlab.util.json_values import Json, JsonValue, unicode_text
from whisperlab.util.log import logger
from whisperlab.util.validation import AMOUNT, AMOUNT_OR_NULL, TEXT, Field, from_json, is_number, shown

# Fields of a recording and of a segment, and those that may be missing.
_LINE = {"audio_filepath": TEXT, "duration": AMOUNT, "text": TEXT}
_OF_LINE = {
    **dict.fromkeys(("lang", "id", "split", "corpus"), TEXT),
    "offset": AMOUNT_OR_NULL,
    "noise_snr_db": Field("a number or null", lambda value: value is None or is_number(value)),
    "segments": Field("a list", lambda value: isinstance(value, list)),
}
_SEGMENT = {"lang": TEXT, "start": AMOUNT, "end": AMOUNT, "text": TEXT}
_OF_SEGMENT = {"speaker": TEXT, "word_times": Field("a list", lambda value: isinstance(value, list))}
_ROUNDING_S = 0.01  # a segment may end this much after its recording: people round


@dataclass(slots=True, frozen=True)
class Recording:
    """One line of a manifest: an audio file and its transcript."""

    id: str
    audio_path: Path
    duration: float  # seconds
    text: str
    lang: str  # Whisper codes joined by commas; empty if unknown
    segments: tuple[ReferenceSegment, ...]  # times relative to the recording
    split: str  # empty if it belongs to no split
    corpus: str
    snr: float | None = None  # signal-to-noise ratio of added noise in dB
    offset: float | None = None  # start in the file in seconds, for a part of a file

    def audio(self) -> FloatArray:
        """The samples. Raises AudioFormatError as `whisperlab.data.audio_files.read_audio` does."""
        return read_part(self.audio_path, self.offset, self.duration)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes in ``lang``, one by one."""
        return tuple(self.lang.split(",")) if self.lang else ()

    @property
    def speakers(self) -> set[str]:
        """The known speakers of its segments."""
        return {segment.speaker for segment in self.segments} - {""}

    @property
    def gaps(self) -> tuple[float, ...]:
        """The seconds between each segment and the end of the one before; negative if they overlap."""
        ends = (0.0, *(segment.end for segment in self.segments))
        return tuple(segment.start - end for segment, end in zip(self.segments, ends, strict=False))

    @property
    def switches(self) -> int:
        """The number of segments whose language differs from that of the segment before."""
        return sum(a.lang != b.lang for a, b in zip(self.segments, self.segments[1:], strict=False))

    @property
    def reference(self) -> dict[str, JsonValue]:
        """Text and segments in the form of a trace: ``{"text", "segments": [{start, end, lang, text}]}``."""
        return Reference(self.text, self.segments).to_dict()


@dataclass(slots=True, frozen=True)
class Totals:
    """The size of a list of recordings."""

    recordings: int
    minutes: float
    segments: int
    switches: int
    noisy: int  # recordings with added noise
    speech_s: Mapping[str, float]  # by language, in alphabetical order

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> "Totals":
        """Add up the recordings."""
        segments = [segment for recording in recordings for segment in recording.segments]
        languages = sorted({segment.lang for segment in segments})
        return cls(
            recordings=len(recordings),
            minutes=sum(r.duration for r in recordings) / 60,
            segments=len(segments),
            switches=sum(r.switches for r in recordings),
            noisy=sum(r.snr is not None for r in recordings),
            speech_s={lang: sum(s.end - s.start for s in segments if s.lang == lang) for lang in languages},
        )


def write_manifest(path: str | PathLike[str], recordings: Iterable[Recording]) -> None:
    """Write one line per recording; the file appears when complete. Audio in its folder gets a relative path."""
    target = Path(path)
    lines = [json.dumps(_to_dict(r, target), ensure_ascii=False) + "\n" for r in recordings]
    write_atomic(target, "".join(lines).encode())


def read_manifest(path: str | PathLike[str], *, check_audio: bool = True) -> list[Recording]:
    """The recordings of a manifest, in the same order.

    Each line, or each item of a JSON array, is an object with ``audio_filepath`` (absolute, or relative to the
    manifest's folder), ``duration`` in seconds, and ``text``. Optional fields are ``offset`` (seconds), ``lang``
    (`language_code`), ``segments`` (a list of ``start``, ``end``, ``lang``, ``text``, by time from the offset on, and
    optionally ``speaker`` and ``word_times``: start and end of each word), ``id``, ``split``, ``corpus`` and
    ``noise_snr_db``. Without ``segments``, a recording in one language is one segment. Without ``id``, the id is the
    file's name, or file name and offset (``call@12.5``). Unknown fields and empty lines are skipped.

    Raises ManifestError with file and line. With ``check_audio`` also raises it if an audio file is missing, or ends
    before an offset or a segment. If a duration differs from the file's, the file's is used, and a warning is logged.
    """
    source = Path(path)
    recordings: dict[str, Recording] = {}
    wrong: list[str] = []
    for place, fields in json_objects(source):
        check_fields(fields, _LINE, f"{place}: a line", _OF_LINE, ManifestError)
        duration, offset = float(fields["duration"]), fields.get("offset")
        offset = None if offset is None else float(offset)
        if check_audio:
            audio = source.parent / as_path(fields["audio_filepath"])
            if not audio.is_file():
                raise ManifestError(f"{place}: the audio file {audio} does not exist")
            there_s, offset = _there(audio, offset, duration, place)
            if there_s != duration:
                wrong.append(f"{place}: duration is {duration:g} s, but {audio.name} has {there_s:.2f} s")
                duration = there_s
        recording = _recording(fields, duration, offset, source, place)
        if recording.id in recordings and offset is not None and "id" not in fields:
            recording = replace(recording, id=f"{recording.id}+{_short(duration)}")
        if recording.id in recordings:
            raise ManifestError(f"{place}: the id {shown(recording.id)} was given before")
        recordings[recording.id] = recording
    if not recordings:
        raise ManifestError(f"{source}: no recording in it")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        logger.warning("%s%s. The durations of the files are used", "; ".join(wrong[:3]), more)
    return list(recordings.values())


def _there(audio: Path, offset: float | None, duration: float, place: str) -> tuple[float, float | None]:
    """The actual seconds of audio of a line if they differ from the duration, and its offset: None for the whole file.

    The duration in the audio file's header is used if it agrees with the line. Otherwise the file is decoded, because
    headers can be wrong too.
    """
    tolerance = min(0.5, max(0.1, 0.05 * duration))
    wanted = (offset or 0.0) + duration
    try:
        there_s = header_s(audio)
        if there_s < wanted - tolerance or (offset is None and there_s > wanted + tolerance):
            there_s = duration_s(read_audio(audio))
    except AudioFormatError:  # raised again when the recording is used
        return duration, offset
    if offset and offset >= there_s:
        raise ManifestError(f"{place}: offset is {offset:g} s, but {audio.name} ends at {there_s:.2f} s")
    if offset == 0 and abs(there_s - duration) <= tolerance:
        offset = None
    if offset is not None:
        there_s = min(duration, there_s - offset)
    return there_s if abs(there_s - duration) > tolerance else duration, offset


def _short(number: float) -> str:
    """Seconds in a name: ``12.5``, ``6``."""
    return f"{round(number, 3):.10g}"


def _to_dict(recording: Recording, target: Path) -> dict[str, object]:
    audio, offset, folder = recording.audio_path, recording.offset, target.parent
    name = (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix()
    try:
        name = os.fsencode(name).decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{target}: a manifest needs names in UTF-8: rename '{unicode_text(name)}'") from error
    return {
        "audio_filepath": name,
        **({} if offset is None else {"offset": offset}),
        **{name: getattr(recording, name) for name in ("duration", "text", "lang", "id", "split", "corpus")},
        "noise_snr_db": recording.snr,
        "segments": [
            {**segment.to_dict(), "gap_before_ms": round(1000 * gap, 4)}
            for segment, gap in zip(recording.segments, recording.gaps, strict=True)
        ],
    }


def json_objects(source: Path) -> Iterator[tuple[str, Json]]:
    """The objects of JSON lines, or of a JSON array, with their places ``file:number``. Raises ManifestError."""
    try:
        content = read_text(source).rstrip()
    except OSError as error:
        raise ManifestError(f"{source}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source}: not a text in UTF-8 or UTF-16: {error}") from error
    for number, line in enumerate([content] if content.startswith("[") else content.split("\n"), 1):
        try:
            value = from_json(line) if line.strip() else []
        except ValueError as error:
            found = f"not JSON: {error}; `whisperlab data import` reads other formats"
            raise ManifestError(f"{source}:{number}: expected one JSON object per line, found {found}") from error
        for item in value if isinstance(value, list) and line in ("", content) else [value]:
            if not isinstance(item, dict):
                raise ManifestError(f"{source}:{number}: expected one JSON object per line, found {shown(item)}")
            yield f"{source}:{number}", item


def _recording(fields: Json, duration: float, offset: float | None, source: Path, place: str) -> Recording:
    audio, lang = source.parent / as_path(fields["audio_filepath"]), fields.get("lang", "")
    stem = Path(fields["audio_filepath"]).stem
    if lang.strip():
        lang = ",".join(dict.fromkeys(_language(name, place) for name in lang.split(",")))
    if "segments" in fields:
        segments = tuple(_segments(fields["segments"], duration, place))
    else:
        one_language = lang and "," not in lang
        segments = (ReferenceSegment(0.0, duration, lang, fields["text"]),) if one_language else ()
    snr = fields.get("noise_snr_db")
    return Recording(
        id=fields.get("id", stem if offset is None else f"{stem}@{_short(offset)}"),
        audio_path=audio,
        duration=duration,
        text=fields["text"],
        lang=lang.strip(),
        segments=segments,
        split=fields.get("split", ""),
        corpus=fields.get("corpus", unicode_text(source.stem)),
        snr=None if snr is None else float(snr),
        offset=offset,
    )


def _segments(items: Sequence[Json], duration: float, place: str) -> Iterator[ReferenceSegment]:
    last = 0.0
    for n, item in enumerate(items, 1):
        here = f"{place}: segment {n}"
        check_fields(item, _SEGMENT, here, _OF_SEGMENT, ManifestError)
        start, end, lang = float(item["start"]), float(item["end"]), _language(item["lang"], here)
        if not last <= start < end <= duration + _ROUNDING_S:
            wanted = f"should start at {last} s or later and end after that, within the {duration} s of the recording"
            raise ManifestError(f"{here} {wanted}; got {start} to {end}")
        last = start
        try:
            yield ReferenceSegment.from_dict({**item, "start": start, "end": end, "lang": lang})
        except (TraceError, TypeError, ValueError) as error:
            raise ManifestError(f"{here}: {error}") from error


def _language(name: str, place: str) -> str:
    try:
        return language_code(name)
    except UnknownLanguageError as error:
        raise ManifestError(f"{place}: lang: {error}") from error

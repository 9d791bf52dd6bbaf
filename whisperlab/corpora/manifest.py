"""Manifests: a list of recordings with what is said in them, as JSON lines in NeMo's form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from whisperlab.checks import from_json, is_number, shown
from whisperlab.errors import ManifestError, TraceError
from whisperlab.files import write_whole
from whisperlab.trace import Reference, ReferenceSegment

_LANGUAGE = re.compile(r"[a-z]{2,3}")  # Whisper's codes: en, zh, yue, haw ...
_ROUNDING_S = 0.01  # by how much a segment may end after its recording: people round


@dataclass(slots=True, frozen=True)
class Recording:
    """One line of a manifest: an audio file and what is said in it.

    ``duration`` is in seconds. ``lang`` is a Whisper code or several joined by commas, empty when unknown.
    ``split`` is empty when the recording belongs to no split. ``snr`` is the signal-to-noise ratio in dB of
    noise that was added, None when none was.
    """

    id: str
    audio_path: Path
    duration: float
    text: str
    lang: str
    segments: tuple[ReferenceSegment, ...]
    split: str
    corpus: str
    snr: float | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes in ``lang``, one by one."""
        return tuple(self.lang.split(",")) if self.lang else ()

    @property
    def gaps(self) -> tuple[float, ...]:
        """The seconds before each segment, since the end of the one before; negative where they overlap."""
        ends = (0.0, *(segment.end for segment in self.segments))
        return tuple(segment.start - end for segment, end in zip(self.segments, ends, strict=False))

    @property
    def switches(self) -> int:
        """How often the language changes from one segment to the next."""
        return sum(a.lang != b.lang for a, b in zip(self.segments, self.segments[1:], strict=False))

    @property
    def reference(self) -> dict[str, Any]:
        """Text and segments as a trace keeps them: ``{"text", "segments": [{start, end, lang, text}]}``."""
        return Reference(self.text, self.segments).to_dict()


def write_manifest(path: str | PathLike[str], recordings: Iterable[Recording]) -> None:
    """Write one line per recording; audio under the manifest's folder is named relative to it.

    The file appears when it is complete.
    """
    target = Path(path)
    lines = [json.dumps(_to_dict(r, target.parent), ensure_ascii=False) + "\n" for r in recordings]
    write_whole(target, "".join(lines).encode())


def read_manifest(path: str | PathLike[str], *, check_audio: bool = True) -> list[Recording]:
    """The recordings of a manifest, in its order.

    Each line is a JSON object with ``audio_filepath`` (relative to the manifest's folder, or absolute),
    ``duration`` in seconds and ``text``; optional are ``lang``, ``segments`` (``start``, ``end``, ``lang``,
    ``text``, by time), ``id``, ``split``, ``corpus`` and ``noise_snr_db``. Without ``segments`` a recording
    in one language is one segment. Unknown fields and empty lines are passed over.

    Raises ManifestError naming file and line; with ``check_audio`` also when an audio file is not there.
    """
    source = Path(path)
    recordings: dict[str, Recording] = {}
    for place, line in _lines(source):
        recording = _from_dict(_object(line, place), source, place)
        if check_audio and not recording.audio_path.is_file():
            raise ManifestError(f"{place}: there is no audio file {recording.audio_path}")
        if recording.id in recordings:
            raise ManifestError(f"{place}: the id {shown(recording.id)} was given before")
        recordings[recording.id] = recording
    if not recordings:
        raise ManifestError(f"{source}: no recording in it")
    return list(recordings.values())


def _to_dict(recording: Recording, folder: Path) -> dict[str, Any]:
    audio = recording.audio_path
    return {
        "audio_filepath": (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix(),
        "duration": recording.duration,
        "text": recording.text,
        "lang": recording.lang,
        "id": recording.id,
        "split": recording.split,
        "corpus": recording.corpus,
        "noise_snr_db": recording.snr,
        "segments": [
            {**asdict(segment), "gap_before_ms": round(1000 * gap, 4)}
            for segment, gap in zip(recording.segments, recording.gaps, strict=True)
        ],
    }


def _lines(source: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not empty with its place, ``file:number``."""
    try:
        content = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{source}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source}: not a text in UTF-8: {error}") from error
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield f"{source}:{number}", line


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = from_json(line)
    except ValueError as error:
        raise ManifestError(f"{place}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ManifestError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value


def _from_dict(fields: Mapping[str, Any], source: Path, place: str) -> Recording:
    audio = source.parent / _text(fields, "audio_filepath", place)
    duration = _number(fields, "duration", place)
    text = _text(fields, "text", place)
    lang = _languages(_text(fields, "lang", place, ""), place)
    snr = fields.get("noise_snr_db")
    return Recording(
        id=_text(fields, "id", place, audio.stem),
        audio_path=audio,
        duration=duration,
        text=text,
        lang=lang,
        segments=_segments(fields, text, lang, duration, place),
        split=_text(fields, "split", place, ""),
        corpus=_text(fields, "corpus", place, source.stem),
        snr=None if snr is None else _number(fields, "noise_snr_db", place, low=-math.inf),
    )


def _segments(
    fields: Mapping[str, Any], text: str, lang: str, duration: float, place: str
) -> tuple[ReferenceSegment, ...]:
    if "segments" not in fields:
        return (ReferenceSegment(0.0, duration, lang, text),) if _LANGUAGE.fullmatch(lang) else ()
    listed = fields["segments"]
    if not isinstance(listed, list):
        raise ManifestError(f"{place}: segments should be a list, got {shown(listed)}")
    segments = tuple(_segment(item, f"{place}: segment {n}") for n, item in enumerate(listed, 1))
    _check_order(segments, duration, place)
    return segments


def _segment(item: Any, place: str) -> ReferenceSegment:
    if not isinstance(item, dict):
        raise ManifestError(f"{place}: expected a JSON object, got {shown(item)}")
    lang = _text(item, "lang", place)
    if not _LANGUAGE.fullmatch(lang):
        raise ManifestError(f"{place}: lang should be one of Whisper's codes, like en, got {shown(lang)}")
    start, end = _number(item, "start", place), _number(item, "end", place)
    try:
        return ReferenceSegment(start, end, lang, _text(item, "text", place))
    except TraceError as error:
        raise ManifestError(f"{place}: {error}") from error


def _check_order(segments: tuple[ReferenceSegment, ...], duration: float, place: str) -> None:
    last = 0.0
    for n, segment in enumerate(segments, 1):
        if not last <= segment.start < segment.end <= duration + _ROUNDING_S:
            raise ManifestError(
                f"{place}: segment {n} should start at {last} s or later and end after that, within the "
                f"{duration} s of the recording; got {segment.start} to {segment.end}"
            )
        last = segment.start


def _languages(lang: str, place: str) -> str:
    codes = [code.strip() for code in lang.split(",")] if lang else []
    if not all(_LANGUAGE.fullmatch(code) for code in codes):
        raise ManifestError(f"{place}: lang should be Whisper's codes, like en or en,es, got {shown(lang)}")
    return ",".join(codes)


def _value(fields: Mapping[str, Any], name: str, place: str, default: Any) -> Any:
    if name not in fields and default is None:
        raise ManifestError(f"{place}: the field {name!r} is missing")
    return fields.get(name, default)


def _text(fields: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    value = _value(fields, name, place, default)
    if not isinstance(value, str):
        raise ManifestError(f"{place}: {name} should be a string, got {shown(value)}")
    return value


def _number(
    fields: Mapping[str, Any], name: str, place: str, default: float | None = None, *, low: float = 0.0
) -> float:
    value = _value(fields, name, place, default)
    if not is_number(value) or value < low:
        raise ManifestError(
            f"{place}: {name} should be a number{' of 0 or more' * (low == 0)}, got {shown(value)}"
        )
    return float(value)

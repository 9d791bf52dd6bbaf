"""Audio files to samples: libsndfile first, then FFmpeg (PyAV), and a log line for all that is not whole.

`decode` returns parts: files joined end to end, stretches between gaps in the timestamps, and stretches in another
format are parts of one recording. ``joins.py`` finds joined files and unfinished headers.
"""

from __future__ import annotations

import io
import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import soundfile

from whisperlab.checks import check_type, shown
from whisperlab.errors import AudioFormatError, ConfigurationError, brief, is_lack_of_memory
from whisperlab.joins import Layout, layout

logger = logging.getLogger("whisperlab")

MAX_FILE_CHANNELS = 1024  # libsndfile's own limit
_BLOCK = 2**18  # values decoded at once: the length that a header states decides nothing
_MAX_VALUES = 2**30  # decoded, of all channels: 4 GiB. Silence packed as FLAC swells without bound
_CUT_S = 0.1  # by how much a stream may be shorter than its container says: encoders fill up their last frame
_GAP_S = 0.1  # a shorter hole in the timestamps is jitter
_MAX_GAPS_S = 3600.0  # of silence filled in: a forged timestamp must not fill the memory
_SET_BACK_S = 1.0  # a timestamp that much before the last one starts a new clock
# What libsndfile logs of a header that promises more bytes of samples than the file has, where both are known.
_CUT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFFF000  # from here on a size is none: written to a pipe, it could not be known
_SAYS_DURATION = ("matroska", "mov", "flac", "asf", "flv")  # FFmpeg guesses it for the others
_ENDS_EARLY = re.compile("ended prematurely|partial file|truncated", re.IGNORECASE)
_PROMISES = "its header promises more"
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_BY_EXTENSION = (
    ".vox",
    ".gsm",
)  # headerless formats of one rate and width, which libsndfile knows by the name
_PRINTS = b"\xf0\x7e"  # MIDI sample dump: libsndfile prints about it on stdout
_MPG123 = re.compile(rb"libmpg123|^Note: |^Warning: |^\s*$")  # lines that libmpg123 prints on stderr
_MPG123_LOST = re.compile(rb"error|Illegal|Skipped", re.IGNORECASE)
_RAW = (
    "raw PCM has no header that gives rate, width and channels: convert it first, such as "
    "ffmpeg -f s16le -ar 16000 -ac 1 -i FILE call.wav"
)
_RAW_EXTENSIONS = {
    ".raw",
    ".pcm",
    ".sln",
    ".sln16",
    ".s16",
    ".s16le",
    ".s8",
    ".u8",
    ".sw",
    ".sb",
    ".ub",
    ".uw",
} | {
    *(".ul", ".al", ".ulaw", ".alaw", ".mulaw", ".snd"),
}
_stderr = threading.Lock()


@dataclass(slots=True, frozen=True)
class Part:
    """A stretch of a recording in one format: samples (n, channels), their rate, and the silence before it."""

    samples: npt.NDArray[np.float32]
    rate: int
    gap_s: float = 0.0


def decode(path: Path, track: int | None = None) -> list[Part]:
    """The parts of an audio file, in order. ``track`` counts the audio tracks from 1; None takes the default one.

    Logs one warning for all that is missing or damaged, and one for gaps. Raises ``AudioFormatError``.
    """
    if track is not None:
        check_type("track", track, int)
        if track < 1:
            raise ConfigurationError(f"track counts from 1, got {shown(track)}")
    with path.open("rb") as file:
        reading = _Reading(path, file, track)
        try:
            parts = reading.parts()
        except (AudioFormatError, ConfigurationError):
            raise
        except Exception as error:  # libraries raise all kinds for a damaged file
            if is_lack_of_memory(error):
                raise
            raise AudioFormatError(f"{path}: the file cannot be decoded ({brief(error)})") from error
    reading.tell(parts)
    return parts


class Window(io.RawIOBase):
    """The bytes ``start`` to ``end`` of an open file as a file of its own, some of them replaced."""

    def __init__(
        self, file: IO[bytes], start: int, end: int, name: str, patches: Mapping[int, bytes]
    ) -> None:
        self.name = name  # FFmpeg knows some formats by the extension
        self._file, self._start, self._end = file, start, end
        self._patches = patches
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in the window."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in the window; returns it."""
        from_where = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end - self._start}
        self._at = max(0, from_where[whence] + offset)
        return self._at

    def readinto(self, into: Any) -> int:
        """Fill ``into``; returns how many bytes there were."""
        at = self._start + self._at
        self._file.seek(at)
        data = bytearray(self._file.read(max(0, min(len(into), self._end - at))))
        for where, patch in self._patches.items():
            for i, byte in enumerate(patch, where - at):
                if 0 <= i < len(data):
                    data[i] = byte
        into[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass
class _Reading:
    """One file being decoded: what has been read so far and what is wrong with it."""

    path: Path
    file: IO[bytes]
    track: int | None
    n_values: int = 0
    problems: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # seconds: start, length
    read_s: float = 0.0

    def parts(self) -> list[Part]:
        """All parts; raises AudioFormatError when the first joined file cannot be read."""
        size = self.path.stat().st_size
        found = layout(self.file, size)
        self.problems += found.problems
        parts: list[Part] = []
        for number, (start, end) in enumerate(found.spans, 1):
            window = Window(self.file, start, end, f"audio{self.path.suffix}", found.patches)
            whole = len(found.spans) == 1 and not found.patches
            try:
                parts += self._decode(window, found, whole)
            except AudioFormatError as error:
                if self.n_values > _MAX_VALUES or not parts:
                    raise
                self.problems.append(f"joined file {number} of {len(found.spans)} cannot be read: {error}")
        if len(found.spans) > 1:
            logger.info("%s: %d files joined in one", self.path, len(found.spans))
        return parts

    def tell(self, parts: list[Part]) -> None:
        """Log what is not as it should be."""
        self.read_s = sum(len(part.samples) / max(part.rate, 1) for part in parts)
        if self.problems:
            logger.warning(
                "%s: the file was cut short or is damaged (%s); %.3f s of it were read",
                self.path,
                "; ".join(dict.fromkeys(self.problems)),
                self.read_s,
            )
        if self.gaps:
            shown_gaps = [f"{length:.2f} s at {start:.2f} s" for start, length in self.gaps[:5]]
            more = [f"{len(self.gaps) - 5} more"] if len(self.gaps) > 5 else []
            logger.warning(
                "%s: silence fills gaps in the timestamps: %s", self.path, ", ".join(shown_gaps + more)
            )

    def _decode(self, window: Window, found: Layout, whole: bool) -> list[Part]:
        """One of the joined files, by libsndfile or else by FFmpeg."""
        reason = "libsndfile reads one track only"
        before = self.n_values
        if self.track in (None, 1) and (found.tracks == 1 or not find_spec("av")):
            try:
                part, lost = self._with_libsndfile(window, whole)
            except AudioFormatError:
                raise
            except Exception as error:
                if is_lack_of_memory(error):
                    raise
                reason = getattr(error, "error_string", None) or str(error)
            else:
                if not lost and not found.damaged:
                    return [part]
                return self._better(window, part, lost, before)
        return self._with_ffmpeg(window, reason)

    def _better(self, window: Window, part: Part, lost: str, before: int) -> list[Part]:
        """What FFmpeg reads of a damaged file, when it is installed and reads as much; else libsndfile's part."""
        own = self.n_values
        problems, gaps = len(self.problems), len(self.gaps)
        if lost != _PROMISES:
            self.n_values = before
            try:
                parts = self._with_ffmpeg(window, lost)
                if (
                    sum(len(each.samples) / max(each.rate, 1) for each in parts)
                    >= len(part.samples) / part.rate - 0.5
                ):
                    self.problems += [lost] * bool(lost and len(self.problems) == problems)
                    return parts
            except AudioFormatError:
                if self.n_values > _MAX_VALUES:
                    raise
            del self.problems[problems:], self.gaps[gaps:]
            self.n_values = own
        self.problems += [lost] * bool(lost)
        return [part]

    def _with_libsndfile(self, window: Window, whole: bool) -> tuple[Part, str]:
        """The samples, and why some are missing (else empty). A whole file is read without Python in between."""
        head = window.read(4) or b""
        if head.startswith(_PRINTS):
            raise soundfile.SoundFileError("Format not recognised.")
        source: Any = window
        if whole:
            by_name = self.path.suffix.lower() in _BY_EXTENSION
            # Its own descriptor: libsndfile moves the position, and closes it.
            source = os.fsencode(self.path) if by_name else os.open(self.path, os.O_RDONLY)
        window.seek(0)
        is_mpeg = head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
        with _hushed(is_mpeg) as chatter:
            blocks: list[npt.NDArray[np.float32]] = []
            lost = ""
            with soundfile.SoundFile(source) as sound:
                self._check_channels(sound.channels)
                promised, log, rate = sound.frames, str(sound.extra_info), int(sound.samplerate)
                n_frames = max(1, _BLOCK // sound.channels)
                try:
                    while len(block := sound.read(n_frames, dtype="float32", always_2d=True)):
                        self._count(block.size)
                        blocks.append(block)
                except soundfile.SoundFileError as error:
                    lost = f"libsndfile: {getattr(error, 'error_string', None) or error}"
                samples = np.concatenate([np.zeros((0, sound.channels), np.float32), *blocks])
        if not lost and any(_MPG123_LOST.search(line) for line in chatter):
            lost = f"libmpg123: {_text(chatter[0])}"
        if not lost and (len(samples) < promised < _UNKNOWN_SIZE or _is_cut(log)):
            lost = _PROMISES
        return Part(samples, rate), lost

    def _with_ffmpeg(self, window: Window, reason: str) -> list[Part]:
        """The parts that FFmpeg reads; ``reason`` is why libsndfile did not."""
        raw = self.path.suffix.lower() in _RAW_EXTENSIONS
        try:
            import av
        except ImportError as error:
            hint = _RAW if raw else "pip install av reads more containers"
            raise AudioFormatError(f"{self.path}: {reason} ({hint})") from error
        window.seek(0)
        if raw:
            window.name = "audio"  # else FFmpeg makes up a rate
        with _ffmpeg_log() as told:
            try:
                with (
                    # FFmpeg gets the open file and may open no other: a playlist could name any.
                    av.open(
                        window, "r", metadata_errors="ignore", options={"protocol_whitelist": "none"}
                    ) as container,
                ):
                    return self._from_container(container, told)
            except AudioFormatError:
                raise
            except Exception as error:
                if is_lack_of_memory(error):
                    raise
                words = told[-1][2].strip() if told else brief(error)
                hint = f"; {_RAW}" if raw else ""
                message = f"{self.path}: not audio that libsndfile or FFmpeg can read ({reason} FFmpeg: {words}){hint}"
                raise AudioFormatError(message) from error

    def _from_container(self, container: Any, told: list[tuple[int, str, str]]) -> list[Part]:
        import av

        stream = self._chosen(list(container.streams.audio))
        start_s = (container.start_time or 0) / av.time_base
        clock = _Clock(self, start_s)
        n_bad, end_s, why = 0, 0.0, ""
        packets = container.demux()
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:
                if is_lack_of_memory(error):
                    raise
                why = why or brief(error)
                n_bad += 1
                break
            if packet is None:
                break
            if packet.pts is not None and packet.time_base:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start_s)
            if packet.stream is not stream:
                continue
            n_bad += bool(packet.is_corrupt)
            try:
                frames = packet.decode()
            except EOFError:
                continue
            except Exception as error:
                if is_lack_of_memory(error):
                    raise
                n_bad += 1
                why = why or (told[-1][2].strip() if told else brief(error))
                continue
            for frame in frames:
                clock.add(frame)
        parts = clock.parts()
        early = next((words.strip() for _, _, words in told if _ENDS_EARLY.search(words)), "")
        promised_s = (container.duration or 0) / av.time_base
        if n_bad:
            self.problems.append(f"{n_bad} damaged packet{'s' * (n_bad > 1)}{f', {why}' if why else ''}")
        elif early:
            self.problems.append(f"FFmpeg: {early}")
        elif (
            container.format.name.startswith(_SAYS_DURATION)
            and not clock.jumped
            and max(end_s, clock.now_s) < promised_s - _CUT_S
        ):
            self.problems.append(_PROMISES)
        return parts

    def _chosen(self, tracks: list[Any]) -> Any:
        """The audio stream to read: the one asked for, else the default, else the first that can be decoded."""
        from av.stream import Disposition

        if not tracks:
            raise AudioFormatError(f"{self.path}: no audio in this file")
        listed = "; ".join(f"{number} {_described(each)}" for number, each in enumerate(tracks, 1))
        if self.track and self.track > len(tracks):
            raise AudioFormatError(
                f"{self.path}: there is no audio track {self.track}; the tracks are: {listed}"
            )
        readable = [each for each in tracks if each.codec_context is not None]
        default = [each for each in readable if each.disposition & Disposition.default]
        chosen = tracks[self.track - 1] if self.track else (default + readable + tracks)[0]
        if chosen.codec_context is None:
            raise AudioFormatError(
                f"{self.path}: FFmpeg has no decoder for this track; the tracks are: {listed}"
            )
        if len(tracks) > 1:
            number = tracks.index(chosen) + 1
            logger.warning("%s: audio track %d of %d is read (%s)", self.path, number, len(tracks), listed)
        chosen.codec_context.thread_count = 1  # FFmpeg's threads would log outside of `_ffmpeg_log`
        return chosen

    def _count(self, n_values: int) -> None:
        self.n_values += n_values
        if self.n_values > _MAX_VALUES:
            raise AudioFormatError(
                f"{self.path}: expected at most {_MAX_VALUES:,} values in all channels together, there are more: "
                "cut the recording into parts"
            )

    def _check_channels(self, n_channels: int) -> None:
        if not 1 <= n_channels <= MAX_FILE_CHANNELS:
            raise AudioFormatError(
                f"{self.path}: expected 1 to {MAX_FILE_CHANNELS} channels, got {n_channels}"
            )


class _Clock:
    """Puts frames where their timestamps say: holes become gaps, another format starts another part."""

    def __init__(self, reading: _Reading, start_s: float) -> None:
        self.jumped = False  # a timestamp was not followed
        self.now_s = 0.0
        self._reading = reading
        self._offset_s = -start_s
        self._last_s = -np.inf
        self._filled_s = 0.0
        self._kept: list[tuple[float, int, list[npt.NDArray[np.float32]]]] = []  # gap, rate, blocks

    def add(self, frame: Any) -> None:
        """Append a decoded frame."""
        n_channels, rate = frame.layout.nb_channels, int(frame.sample_rate)
        if not frame.samples:
            return
        self._reading._check_channels(n_channels)
        self._reading._count(frame.samples * n_channels)
        gap_s = self._gap(frame)
        values = _values(frame)
        previous = self._kept[-1] if self._kept else None
        if previous is None or gap_s or previous[1] != rate or previous[2][0].shape[1] != n_channels:
            if gap_s:
                self._reading._count(int(gap_s * rate) * n_channels)
            self._kept.append((gap_s, rate, [values]))
        else:
            previous[2].append(values)
        self.now_s += gap_s + frame.samples / max(rate, 1)

    def parts(self) -> list[Part]:
        """All that was added."""
        return [Part(np.concatenate(blocks), rate, gap_s) for gap_s, rate, blocks in self._kept]

    def _gap(self, frame: Any) -> float:
        """Seconds of silence before a frame. Follows a clock that was set back, and ignores an absurd leap."""
        if frame.pts is None or not frame.time_base:
            return 0.0
        stamp_s = float(frame.pts * frame.time_base)
        if stamp_s < self._last_s - _SET_BACK_S:
            self._offset_s, self.jumped = self.now_s - stamp_s, True
        self._last_s = stamp_s
        gap_s = stamp_s + self._offset_s - self.now_s
        if gap_s <= _GAP_S:
            return 0.0
        if self._filled_s + gap_s > _MAX_GAPS_S:
            self._offset_s, self.jumped = self.now_s - stamp_s, True
            self._reading.problems.append(
                f"its timestamps leap by {gap_s:.0f} s at {self.now_s:.2f} s, which is not filled"
            )
            return 0.0
        self._filled_s += gap_s
        self._reading.gaps.append((self.now_s, gap_s))
        return gap_s


def _values(frame: Any) -> npt.NDArray[np.float32]:
    """The samples of a frame, (n, channels). PyAV's ``to_ndarray`` reads beyond the planes of 8 channels and more."""
    from av.audio.plane import AudioPlane

    n, n_channels = frame.samples, frame.layout.nb_channels
    dtype = np.dtype(_TYPES[frame.format.name.removesuffix("p")])
    if frame.format.is_planar:
        planes = [np.frombuffer(AudioPlane(frame, i), dtype, count=n) for i in range(n_channels)]
        values = np.stack(planes, axis=1)
    else:
        values = np.frombuffer(AudioPlane(frame, 0), dtype, count=n * n_channels).reshape(n, n_channels)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused as such
            return values.astype(np.float32)
    middle, full = (128.0, 128.0) if dtype.kind == "u" else (0.0, 2.0 ** (8 * dtype.itemsize - 1))
    return ((values - middle) / full).astype(np.float32)


def _described(stream: Any) -> str:
    context = stream.codec_context
    words = [stream.metadata.get("language"), stream.metadata.get("title"), "no decoder"]
    if context is not None:
        words[2] = f"{context.name} {context.sample_rate} Hz {context.layout.name}"
    return " ".join(word for word in words if word)


def _is_cut(log: str) -> bool:
    """Whether libsndfile has found fewer bytes than a header promises."""
    sizes = [(int(promised), int(found)) for promised, found in _CUT.findall(log)]
    return any(found < promised < _UNKNOWN_SIZE for promised, found in sizes)


@contextmanager
def _ffmpeg_log() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs as errors: level, part, words. Nothing of it is printed."""
    import av.logging

    with _stderr, av.logging.Capture(False) as told:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            yield told
        finally:
            av.logging.set_level(before)


@contextmanager
def _hushed(hush: bool) -> Iterator[list[bytes]]:
    """Keep libmpg123, which prints on stderr, from doing so; its lines are in the list afterwards."""
    lines: list[bytes] = []
    if not hush:
        yield lines
        return
    with _stderr, tempfile.TemporaryFile() as kept:
        try:
            stderr = os.dup(2)
        except OSError:  # there is none
            yield lines
            return
        try:
            os.dup2(kept.fileno(), 2)
            yield lines
        finally:
            os.dup2(stderr, 2)
            kept.seek(0)
            for line in kept:
                if _MPG123.search(line):
                    lines.append(line)
                else:  # another thread's
                    os.write(stderr, line)
            os.close(stderr)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").strip()

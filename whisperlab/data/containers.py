"""Decoding of audio files: libsndfile first, then FFmpeg (PyAV), and a log line for each incomplete file."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np
import soundfile

from whisperlab.data.joins import Layout, Window, layout
from whisperlab.util.audio_arrays import MAX_FILE_CHANNELS, Part
from whisperlab.util.errors import AudioFormatError, ConfigurationError, brief, is_lack_of_memory, translate
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer
    from numpy.typing import NDArray

_LogLine: TypeAlias = tuple[int, str, str]  # level, part of FFmpeg, text
logger = logging.getLogger("whisperlab")

_PROMISES = "its header promises more"
_MAX_VALUES = 2**30  # decoded values of all channels (4 GiB): a small FLAC file can hold days of silence

# libsndfile
_SMALL_BLOCK = 2**10
_ESTIMATE = "libsndfile read less than it expected"  # expected from the first frames of an MP3 file
_ESTIMATED = 0.95  # accuracy of such an estimate
_BLOCK = 2**18  # values decoded at once: the length in a header is never used to allocate memory
_WORSE_S = 0.5  # for a damaged file, FFmpeg may read this much less than libsndfile
# libsndfile's log line for a header that promises more bytes of samples than the file has.
_CUT = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFFF000  # this size and larger ones mean unknown: the file was written to a pipe
_BY_EXTENSION = (".vox", ".gsm")  # headerless, one rate and width: libsndfile needs the file name
_PRINTS = b"\xf0\x7e"  # MIDI sample dump: libsndfile prints about it on stdout
_MPG123 = re.compile(rb"libmpg123|^Note: |^Warning: |^\s*$")  # lines that libmpg123 prints on stderr
_MPG123_LOST = re.compile(rb"Illegal|resync|Skipped")  # it also complains of bits that FFmpeg and LAME write
_stderr = threading.Lock()

# FFmpeg
_CUT_S = 0.1  # a stream may be this much shorter than its container says: encoders pad their last frame
_GAP_S = 0.1  # shorter gaps in the timestamps are jitter
_MAX_GAPS_S = 3600.0  # seconds of silence to fill in: a forged timestamp must not exhaust memory
_SET_BACK_S = 1.0  # a timestamp this much before the last one starts a new clock
_SAYS_DURATION = ("matroska", "mov", "flac", "asf", "flv")  # FFmpeg estimates the duration of the others
_ENDS_EARLY = re.compile("ended prematurely|partial file|truncated", re.IGNORECASE)
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_CONVERT = "convert it first, such as ffmpeg -f s16le -ar 16000 -ac 1 -i FILE call.wav"
_RAW = f"raw PCM has no header that gives rate, width and channels: {_CONVERT}"
_RAW_SUFFIX = re.compile(r"(?i)\.(raw|pcm|sln\d*|[su](8|16|24|32)[lb]?e?|[su][bw]|ul|al|[au]law|mulaw|snd)")
_log_level = threading.Lock()


def decode(path: Path, track: int | None = None) -> list[Part]:
    """The parts of an audio file, in order. Logs a warning for damage and one for gaps. Raises ``AudioFormatError``."""
    if track is not None:
        check_type("track", track, int)
        if track < 1:
            raise ConfigurationError(f"track counts from 1, got {shown(track)}")
    with path.open("rb") as file:
        reading = _Reading(path, track)
        with translate(AudioFormatError, f"{path}: the file cannot be decoded", Exception):  # of any library
            parts = reading.parts(file)
    reading.log(parts)
    return parts


@dataclass(slots=True)
class _Reading:
    """The decoding of one file: the progress, and the problems found."""

    path: Path
    track: int | None
    n_values: int = 0
    problems: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # seconds: start, length

    def count(self, n_samples: int, n_channels: int) -> None:
        """Count decoded samples of each channel. Raises AudioFormatError for too many of either."""
        if not 1 <= n_channels <= MAX_FILE_CHANNELS:
            raise AudioFormatError(f"{self.path}: channels must be 1 to {MAX_FILE_CHANNELS}, got {n_channels}")
        self.n_values += n_samples * n_channels
        if self.n_values > _MAX_VALUES:
            limit = f"expected at most {_MAX_VALUES:,} values in all channels together"
            raise AudioFormatError(f"{self.path}: {limit}, there are more: cut the recording into parts")

    def parts(self, file: IO[bytes]) -> list[Part]:
        """All parts. Raises AudioFormatError if the first joined file cannot be read."""
        found = layout(file, self.path.stat().st_size)
        self.problems += found.problems
        parts: list[Part] = []
        for number, (start, end) in enumerate(found.spans, 1):
            window = Window(file, start, end, f"audio{self.path.suffix}", found.patches)
            try:
                parts += self._decode(window, found)
            except AudioFormatError as error:
                if self.n_values > _MAX_VALUES or not parts:
                    raise
                self.problems.append(f"cannot read joined file {number} of {len(found.spans)}: {error}")
        if len(found.spans) > 1:
            logger.info("%s: %d files joined in one", self.path, len(found.spans))
        return parts

    def log(self, parts: list[Part]) -> None:
        if self.problems:
            problems = dict.fromkeys(self.problems)
            text = "%s: the file was cut short or is damaged (%s); %.3f s of it were read"
            logger.warning(text, self.path, "; ".join(problems), _length_s(parts))
        if self.gaps:
            gaps = [f"{length:.2f} s at {start:.2f} s" for start, length in self.gaps]
            gaps[5:] = [f"{len(gaps) - 5} more"] if len(gaps) > 5 else []
            logger.warning("%s: silence fills gaps in the timestamps: %s", self.path, ", ".join(gaps))

    def _decode(self, window: Window, found: Layout) -> list[Part]:
        """One of the joined files, read by libsndfile or else by FFmpeg."""
        if self.track not in (None, 1) or (found.tracks > 1 and find_spec("av")):
            return self._with_ffmpeg(window, "libsndfile reads one track only")
        whole = len(found.spans) == 1 and not found.patches
        try:
            part, lost, promised_s = self._with_libsndfile(window, whole)
        except (soundfile.SoundFileError, OSError) as error:
            if is_lack_of_memory(error):
                raise
            return self._with_ffmpeg(window, getattr(error, "error_string", None) or str(error))
        if lost == _PROMISES and window.start in found.estimated:
            lost = _ESTIMATE if _length_s([part]) < _ESTIMATED * promised_s else ""
            promised_s = 0.0
        if not lost and not found.damaged:
            return [part]
        if lost == _PROMISES and not found.is_ogg:  # FFmpeg would read the same
            self.problems.append(lost)
            return [part]
        parts = self._better(window, whole, part, lost)
        missing_s = promised_s - sum(each.gap_s for each in parts) - _length_s(parts)
        if not lost.startswith(_PROMISES) and missing_s > 0.0005:
            self.problems.append(f"{missing_s:.3f} s are missing")
        return parts

    def _better(self, window: Window, whole: bool, part: Part, lost: str) -> list[Part]:
        """FFmpeg's parts of a damaged file if it is installed and reads at least as much, else libsndfile's part."""
        n_problems, n_gaps, n_values = len(self.problems), len(self.gaps), self.n_values
        self.n_values -= part.samples.size
        try:
            parts = self._with_ffmpeg(window, lost)
        except AudioFormatError:
            if self.n_values > _MAX_VALUES:
                raise
            parts = []
        margin_s = _WORSE_S if lost == _ESTIMATE else -_WORSE_S  # an estimate may be wrong
        if not parts or _length_s(parts) < _length_s([part]) + margin_s:
            del self.problems[n_problems:], self.gaps[n_gaps:]
            self.n_values = n_values
            if lost.startswith("libsndfile:"):  # the block with the error is lost: use smaller blocks
                part, _, _ = self._with_libsndfile(window, whole, _SMALL_BLOCK)
            parts = [part]
            if lost and not find_spec("av"):
                lost += ", pip install av may read more"
            elif lost == _ESTIMATE:
                lost = ""
        if len(self.gaps) > n_gaps and lost == _PROMISES:  # silence replaces the missing audio
            lost = ""
        if lost and len(self.problems) == n_problems and lost != _ESTIMATE:
            self.problems.append(lost)
        return parts

    def _with_libsndfile(self, window: Window, whole: bool, block: int = _BLOCK) -> tuple[Part, str, float]:
        """The samples, why some are missing (else empty), and the seconds by the header (0: unknown)."""
        window.seek(0)
        head = window.read(4) or b""
        if head.startswith(_PRINTS):
            raise soundfile.SoundFileError("Format not recognised.")
        source: Window | bytes | int = window
        if whole:
            by_name = self.path.suffix.lower() in _BY_EXTENSION
            # Its own descriptor: libsndfile moves the position, and closes it.
            source = os.fsencode(self.path) if by_name else os.open(self.path, os.O_RDONLY)
        window.seek(0)
        is_mpeg = head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
        with _hushed() if is_mpeg else nullcontext(list[bytes]()) as chatter:
            blocks: list[NDArray[np.float32]] = []
            lost = ""
            with soundfile.SoundFile(source) as sound:
                self.count(0, sound.channels)
                promised, log, rate = sound.frames, str(sound.extra_info), int(sound.samplerate)
                n_frames = max(1, block // sound.channels)
                try:
                    while len(values := sound.read(n_frames, dtype="float32", always_2d=True)):
                        self.count(*values.shape)
                        blocks.append(values)
                        if len(values) < n_frames:  # the next read could return some samples twice
                            break
                except soundfile.SoundFileError as error:
                    lost = f"libsndfile: {getattr(error, 'error_string', None) or error}"
                samples = np.concatenate([np.zeros((0, sound.channels), np.float32), *blocks])
        complaint = next((line for line in chatter if _MPG123_LOST.search(line)), b"")
        sizes = [(len(samples), promised), *((int(there), int(size)) for size, there in _CUT.findall(log))]
        if not lost and complaint:
            lost = f"libmpg123: {complaint.decode(errors='replace').strip()}"
        elif not lost and any(there < size < _UNKNOWN_SIZE for there, size in sizes):
            lost = _PROMISES
        return Part(samples, rate), lost, promised / max(rate, 1) if promised < _UNKNOWN_SIZE else 0.0

    def _with_ffmpeg(self, window: Window, reason: str) -> list[Part]:
        """The parts of a file read by FFmpeg; ``reason`` says why libsndfile could not read it."""
        raw = _RAW_SUFFIX.fullmatch(self.path.suffix)
        try:
            import av
        except ImportError as error:
            hint = _RAW if raw else "pip install av reads more containers"
            raise AudioFormatError(f"{self.path}: {reason} ({hint})") from error
        window.seek(0)
        if raw:
            window.name = "audio"  # without an extension FFmpeg does not invent a rate
        with _ffmpeg_log() as log:
            try:
                # FFmpeg receives the open file and must not open others: a playlist could name any file.
                options = {"protocol_whitelist": "none"}
                with av.open(window, "r", metadata_errors="ignore", options=options) as container:
                    return self._track_parts(container, log)
            except AudioFormatError:
                raise
            except Exception as error:
                if _memory_ran_out(error):
                    raise
                reasons = f"({reason.rstrip('.')}; FFmpeg: {_reason(error, log)}){f'; {_RAW}' if raw else ''}"
                unread = f"{self.path}: not audio that libsndfile or FFmpeg can read"
                raise AudioFormatError(f"{unread} {reasons}") from error

    def _track_parts(self, container: InputContainer, log: list[_LogLine]) -> list[Part]:
        """The parts of one audio track, placed by the file's timestamps."""
        import av

        stream = self._chosen(list(container.streams.audio))
        start_s = (container.start_time or 0) / av.time_base
        clock = _Clock(self, -start_s)
        n_bad, end_s, why = 0, 0.0, ""
        packets = container.demux()
        while True:
            try:
                packet = next(packets, None)  # None after an error too
                if packet is None:
                    break
                if packet.pts is not None and packet.time_base:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not stream:
                    continue
                n_bad += bool(packet.is_corrupt)
                frames = packet.decode()
            except EOFError:
                continue
            except Exception as error:
                if _memory_ran_out(error):
                    raise
                n_bad += 1
                why = why or f", {_reason(error, log)}"
                continue
            for frame in frames:
                if isinstance(frame, av.AudioFrame):
                    clock.add(frame)
        early = next((text.strip() for _, _, text in log if _ENDS_EARLY.search(text)), "")
        promised_s = (container.duration or 0) / av.time_base
        if n_bad:
            self.problems.append(f"{n_bad} damaged packet{'s' * (n_bad > 1)}{why}")
        elif early:
            self.problems.append(f"FFmpeg: {early}")
        elif (
            container.format.name.startswith(_SAYS_DURATION)
            and not clock.jumped
            and max(end_s, clock.now_s + max(start_s, 0.0)) < promised_s - _CUT_S  # Matroska counts from 0
        ):
            self.problems.append(_PROMISES)
        return [Part(np.concatenate(blocks), rate, gap_s) for gap_s, rate, blocks in clock.kept]

    def _chosen(self, tracks: list[AudioStream]) -> AudioStream:
        """The audio stream to read: the requested one, else the default, else the first that can be decoded."""
        from av.stream import Disposition

        if not tracks:
            raise AudioFormatError(f"{self.path}: no audio in this file")
        listed = "; ".join(f"{number} {_described(each)}" for number, each in enumerate(tracks, 1))
        if self.track and self.track > len(tracks):
            raise AudioFormatError(f"{self.path}: audio track {self.track} does not exist; tracks: {listed}")
        readable = [each for each in tracks if each.codec_context is not None]
        default = [each for each in readable if each.disposition & Disposition.default]
        chosen = tracks[self.track - 1] if self.track else (default + readable + tracks)[0]
        if chosen.codec_context is None:
            raise AudioFormatError(f"{self.path}: FFmpeg cannot decode this track; tracks: {listed}")
        if len(tracks) > 1:
            number = tracks.index(chosen) + 1
            logger.warning("%s: audio track %d of %d is read (%s)", self.path, number, len(tracks), listed)
        chosen.codec_context.thread_count = 1  # `_ffmpeg_log` does not capture the log of other threads
        return chosen


@dataclass(slots=True)
class _Clock:
    """Places frames by their timestamps: holes become gaps, and another format starts another part."""

    reading: _Reading
    offset_s: float
    now_s: float = 0.0
    last_s: float = -np.inf
    filled_s: float = 0.0
    jumped: bool = False  # a timestamp was ignored
    kept: list[tuple[float, int, list[NDArray[np.float32]]]] = field(default_factory=list)  # gap, rate, blocks

    def add(self, frame: AudioFrame) -> None:
        n_channels, rate = frame.layout.nb_channels, int(frame.sample_rate)
        if not frame.samples:
            return
        self.reading.count(frame.samples, n_channels)
        gap_s = self._gap(frame)
        values = _values(frame)
        _, last_rate, blocks = self.kept[-1] if self.kept else (0.0, 0, [values])
        if not self.kept or gap_s or last_rate != rate or blocks[0].shape[1] != n_channels:
            self.reading.count(int(gap_s * rate), n_channels)
            self.kept.append((gap_s, rate, [values]))
        else:
            blocks.append(values)
        self.now_s += gap_s + frame.samples / max(rate, 1)

    def _gap(self, frame: AudioFrame) -> float:
        """Seconds of silence before a frame. Follows a clock that was set back; ignores leaps beyond the limit."""
        if frame.pts is None or not frame.time_base:
            return 0.0
        stamp_s = float(frame.pts * frame.time_base)
        if stamp_s < self.last_s - _SET_BACK_S:
            self.offset_s, self.jumped = self.now_s - stamp_s, True
        self.last_s = stamp_s
        gap_s = stamp_s + self.offset_s - self.now_s
        if gap_s <= _GAP_S:
            return 0.0
        if self.filled_s + gap_s > _MAX_GAPS_S:
            self.offset_s, self.jumped = self.now_s - stamp_s, True
            self.reading.problems.append(f"its timestamps leap by {gap_s:.0f} s at {self.now_s:.2f} s")
            return 0.0
        self.filled_s += gap_s
        self.reading.gaps.append((self.now_s, gap_s))
        return gap_s


def _values(frame: AudioFrame) -> NDArray[np.float32]:
    """The samples of a frame, (n, channels). PyAV's ``to_ndarray`` reads out of bounds from 8 channels on."""
    from av.audio.plane import AudioPlane

    shape = frame.samples, frame.layout.nb_channels
    dtype = np.dtype(_TYPES[frame.format.name.removesuffix("p")])
    planes, n = (shape[1], shape[0]) if frame.format.is_planar else (1, shape[0] * shape[1])
    found = [np.frombuffer(memoryview(AudioPlane(frame, i)), dtype, n) for i in range(planes)]
    values = np.stack(found, axis=1).reshape(shape)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is rejected later
            return values.astype(np.float32)
    middle, full = (128.0, 128.0) if dtype.kind == "u" else (0.0, 2.0 ** (8 * dtype.itemsize - 1))
    return ((values - middle) / full).astype(np.float32)


def _memory_ran_out(error: Exception) -> bool:
    """Whether memory ran out. FFmpeg also reports this for a forged size that it refuses to allocate."""
    import av

    return is_lack_of_memory(error) and not isinstance(error, av.FFmpegError)


def _reason(error: Exception, log: list[_LogLine]) -> str:
    """FFmpeg's reason for an error: its last log line, else the error without number and file name."""
    return log[-1][2].strip() if log else str(getattr(error, "strerror", None) or brief(error))


def _described(stream: AudioStream) -> str:
    context = stream.codec_context
    decoder = f"{context.name} {context.sample_rate} Hz {context.layout.name}" if context else "no decoder"
    words = stream.metadata.get("language"), stream.metadata.get("title"), decoder
    return " ".join(word for word in words if word)


def _length_s(parts: list[Part]) -> float:
    return sum(len(part.samples) / max(part.rate, 1) for part in parts)


@contextmanager
def _ffmpeg_log() -> Iterator[list[_LogLine]]:
    import av.logging

    with _log_level, av.logging.Capture(False) as log:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            yield log
        finally:
            av.logging.set_level(before)


@contextmanager
def _hushed() -> Iterator[list[bytes]]:
    """Capture the lines that libmpg123 prints on stderr; they are in the list afterwards."""
    lines: list[bytes] = []
    with _stderr, tempfile.TemporaryFile() as kept:
        try:
            stderr = os.dup(2)
        except OSError:  # stderr is closed
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
                else:  # printed by another thread
                    os.write(stderr, line)
            os.close(stderr)

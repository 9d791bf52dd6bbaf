"""Decoding with FFmpeg (PyAV): one audio track, placed by the file's timestamps, and a list of its problems."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from whisperlab.util.audio_arrays import MAX_FILE_CHANNELS, Part
from whisperlab.util.errors import AudioFormatError, brief, is_lack_of_memory

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

    from whisperlab.data.joins import Window

LogLine: TypeAlias = tuple[int, str, str]  # level, part of FFmpeg, text
logger = logging.getLogger("whisperlab")

PROMISES = "its header promises more"
_MAX_VALUES = 2**30  # decoded values of all channels (4 GiB): a small FLAC file can hold days of silence
_CUT_S = 0.1  # a stream may be this much shorter than its container says: encoders pad their last frame
_GAP_S = 0.1  # shorter gaps in the timestamps are jitter
_MAX_GAPS_S = 3600.0  # seconds of silence to fill in: a forged timestamp must not exhaust memory
_SET_BACK_S = 1.0  # a timestamp this much before the last one starts a new clock
_SAYS_DURATION = ("matroska", "mov", "flac", "asf", "flv")  # FFmpeg estimates the duration of the others
_ENDS_EARLY = re.compile("ended prematurely|partial file|truncated", re.IGNORECASE)
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_RAW = (
    "raw PCM has no header that gives rate, width and channels: convert it first, such as "
    "ffmpeg -f s16le -ar 16000 -ac 1 -i FILE call.wav"
)
_RAW_SUFFIX = re.compile(r"(?i)\.(raw|pcm|sln\d*|[su](8|16|24|32)[lb]?e?|[su][bw]|ul|al|[au]law|mulaw|snd)")
_log_level = threading.Lock()


@dataclass(slots=True)
class Findings:
    """The progress of reading one file, and the problems found."""

    path: Path
    track: int | None
    n_values: int = 0
    problems: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # seconds: start, length

    @property
    def is_full(self) -> bool:
        """Whether the limit of decoded values is exceeded."""
        return self.n_values > _MAX_VALUES

    def count(self, n_values: int) -> None:
        """Count decoded values. Raises AudioFormatError beyond the limit."""
        self.n_values += n_values
        if self.is_full:
            raise AudioFormatError(
                f"{self.path}: expected at most {_MAX_VALUES:,} values in all channels together, there are more: "
                "cut the recording into parts"
            )

    def check_channels(self, n_channels: int) -> None:
        """Raise AudioFormatError for an impossible number of channels."""
        if not 1 <= n_channels <= MAX_FILE_CHANNELS:
            raise AudioFormatError(f"{self.path}: channels must be 1 to {MAX_FILE_CHANNELS}, got {n_channels}")


def read_with_ffmpeg(window: Window, found: Findings, reason: str) -> list[Part]:
    """The parts of a file read by FFmpeg; ``reason`` says why libsndfile could not read it."""
    raw = _RAW_SUFFIX.fullmatch(found.path.suffix)
    try:
        import av
    except ImportError as error:
        hint = _RAW if raw else "pip install av reads more containers"
        raise AudioFormatError(f"{found.path}: {reason} ({hint})") from error
    window.seek(0)
    if raw:
        window.name = "audio"  # without an extension FFmpeg does not invent a rate
    with _ffmpeg_log() as log:
        try:
            # FFmpeg receives the open file and must not open others: a playlist could name any file.
            options = {"protocol_whitelist": "none"}
            with av.open(window, "r", metadata_errors="ignore", options=options) as container:
                return _parts(container, found, log)
        except AudioFormatError:
            raise
        except Exception as error:
            if _memory_ran_out(error):
                raise
            reasons = f"{reason.rstrip('.')}; FFmpeg: {_reason(error, log)}"
            hint = f"; {_RAW}" if raw else ""
            raise AudioFormatError(
                f"{found.path}: not audio that libsndfile or FFmpeg can read ({reasons}){hint}"
            ) from error


def _parts(container: InputContainer, found: Findings, log: list[LogLine]) -> list[Part]:
    import av

    stream = _chosen(list(container.streams.audio), found)
    start_s = (container.start_time or 0) / av.time_base
    clock = _Clock(found, start_s)
    n_bad, end_s, why = 0, 0.0, ""
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except Exception as error:
            if _memory_ran_out(error):
                raise
            why = why or _reason(error, log)
            n_bad += 1
            break
        if packet is None:
            break
        if packet.pts is not None and packet.time_base:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream:
            continue
        n_bad += bool(packet.is_corrupt)
        try:
            frames = packet.decode()
        except EOFError:
            continue
        except Exception as error:
            if _memory_ran_out(error):
                raise
            n_bad += 1
            why = why or _reason(error, log)
            continue
        for frame in frames:
            if isinstance(frame, av.AudioFrame):
                clock.add(frame)
    parts = clock.parts()
    early = next((text.strip() for _, _, text in log if _ENDS_EARLY.search(text)), "")
    promised_s = (container.duration or 0) / av.time_base
    if n_bad:
        found.problems.append(f"{n_bad} damaged packet{'s' * (n_bad > 1)}{f', {why}' if why else ''}")
    elif early:
        found.problems.append(f"FFmpeg: {early}")
    elif (
        container.format.name.startswith(_SAYS_DURATION)
        and not clock.jumped
        and max(end_s, clock.now_s + max(start_s, 0.0)) < promised_s - _CUT_S  # Matroska counts from 0
    ):
        found.problems.append(PROMISES)
    return parts


def _chosen(tracks: list[AudioStream], found: Findings) -> AudioStream:
    """The audio stream to read: the requested one, else the default, else the first that can be decoded."""
    from av.stream import Disposition

    if not tracks:
        raise AudioFormatError(f"{found.path}: no audio in this file")
    listed = "; ".join(f"{number} {_described(each)}" for number, each in enumerate(tracks, 1))
    if found.track and found.track > len(tracks):
        raise AudioFormatError(f"{found.path}: audio track {found.track} does not exist; tracks: {listed}")
    readable = [each for each in tracks if each.codec_context is not None]
    default = [each for each in readable if each.disposition & Disposition.default]
    chosen = tracks[found.track - 1] if found.track else (default + readable + tracks)[0]
    if chosen.codec_context is None:
        raise AudioFormatError(f"{found.path}: FFmpeg cannot decode this track; tracks: {listed}")
    if len(tracks) > 1:
        number = tracks.index(chosen) + 1
        logger.warning("%s: audio track %d of %d is read (%s)", found.path, number, len(tracks), listed)
    chosen.codec_context.thread_count = 1  # `_ffmpeg_log` does not capture the log of other threads
    return chosen


class _Clock:
    """Places frames by their timestamps: holes become gaps, and another format starts another part."""

    def __init__(self, found: Findings, start_s: float) -> None:
        self.jumped = False  # a timestamp was ignored
        self.now_s = 0.0
        self._found = found
        self._offset_s = -start_s
        self._last_s = -np.inf
        self._filled_s = 0.0
        self._kept: list[tuple[float, int, list[npt.NDArray[np.float32]]]] = []  # gap, rate, blocks

    def add(self, frame: AudioFrame) -> None:
        """Append a decoded frame."""
        n_channels, rate = frame.layout.nb_channels, int(frame.sample_rate)
        if not frame.samples:
            return
        self._found.check_channels(n_channels)
        self._found.count(frame.samples * n_channels)
        gap_s = self._gap(frame)
        values = _values(frame)
        previous = self._kept[-1] if self._kept else None
        if previous is None or gap_s or previous[1] != rate or previous[2][0].shape[1] != n_channels:
            if gap_s:
                self._found.count(int(gap_s * rate) * n_channels)
            self._kept.append((gap_s, rate, [values]))
        else:
            previous[2].append(values)
        self.now_s += gap_s + frame.samples / max(rate, 1)

    def parts(self) -> list[Part]:
        """The frames added so far, as parts."""
        return [Part(np.concatenate(blocks), rate, gap_s) for gap_s, rate, blocks in self._kept]

    def _gap(self, frame: AudioFrame) -> float:
        """Seconds of silence before a frame. Follows a clock that was set back; ignores leaps beyond the limit."""
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
            self._found.problems.append(f"its timestamps leap by {gap_s:.0f} s at {self.now_s:.2f} s")
            return 0.0
        self._filled_s += gap_s
        self._found.gaps.append((self.now_s, gap_s))
        return gap_s


def _values(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """The samples of a frame, (n, channels). PyAV's ``to_ndarray`` reads out of bounds from 8 channels on."""
    from av.audio.plane import AudioPlane

    n, n_channels = frame.samples, frame.layout.nb_channels
    dtype = np.dtype(_TYPES[frame.format.name.removesuffix("p")])
    if frame.format.is_planar:
        planes = [np.frombuffer(memoryview(AudioPlane(frame, i)), dtype, n) for i in range(n_channels)]
        values = np.stack(planes, axis=1)
    else:
        values = np.frombuffer(memoryview(AudioPlane(frame, 0)), dtype, n * n_channels).reshape(n, n_channels)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is rejected later
            return values.astype(np.float32)
    middle, full = (128.0, 128.0) if dtype.kind == "u" else (0.0, 2.0 ** (8 * dtype.itemsize - 1))
    return ((values - middle) / full).astype(np.float32)


def _memory_ran_out(error: Exception) -> bool:
    """Whether memory ran out. FFmpeg also reports this for a forged size that it refuses to allocate."""
    import av

    return is_lack_of_memory(error) and not isinstance(error, av.FFmpegError)


def _reason(error: Exception, log: list[LogLine]) -> str:
    """FFmpeg's reason for an error: its last log line, else the error without number and file name."""
    if log:
        return log[-1][2].strip()
    return str(getattr(error, "strerror", None) or brief(error))


def _described(stream: AudioStream) -> str:
    context = stream.codec_context
    words = [stream.metadata.get("language"), stream.metadata.get("title"), "no decoder"]
    if context is not None:
        words[2] = f"{context.name} {context.sample_rate} Hz {context.layout.name}"
    return " ".join(word for word in words if word)


@contextmanager
def _ffmpeg_log() -> Iterator[list[LogLine]]:
    """Capture FFmpeg's error log instead of printing it."""
    import av.logging

    with _log_level, av.logging.Capture(False) as log:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            yield log
        finally:
            av.logging.set_level(before)

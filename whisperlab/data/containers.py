"""Decoding of audio files: libsndfile first, then FFmpeg (PyAV), and a log line for each incomplete file.

`decode` returns parts. Files joined end to end, stretches between gaps in the timestamps, and stretches in another
format are parts of one recording. ``joins.py`` finds joined files and unfinished headers.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile

from whisperlab.data.ffmpeg import PROMISES, Findings, read_with_ffmpeg
from whisperlab.data.joins import Layout, Window, layout
from whisperlab.util.audio_arrays import Part
from whisperlab.util.errors import AudioFormatError, ConfigurationError, brief, is_lack_of_memory
from whisperlab.util.validation import check_type, shown

logger = logging.getLogger("whisperlab")

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


def decode(path: Path, track: int | None = None) -> list[Part]:
    """The parts of an audio file, in order. ``track`` is the audio track from 1; None is the default track.

    Logs one warning for missing and damaged audio, and one for gaps. Raises ``AudioFormatError``.
    """
    if track is not None:
        check_type("track", track, int)
        if track < 1:
            raise ConfigurationError(f"track counts from 1, got {shown(track)}")
    with path.open("rb") as file:
        reading = _Reading(file, Findings(path, track))
        try:
            parts = reading.parts()
        except (AudioFormatError, ConfigurationError):
            raise
        except Exception as error:  # libraries raise all kinds for a damaged file
            if is_lack_of_memory(error):
                raise
            raise AudioFormatError(f"{path}: the file cannot be decoded ({brief(error)})") from error
    reading.log(parts)
    return parts


@dataclass(slots=True)
class _Reading:
    """The decoding of one file."""

    file: IO[bytes]
    found: Findings

    def parts(self) -> list[Part]:
        """All parts. Raises AudioFormatError if the first joined file cannot be read."""
        size = self.found.path.stat().st_size
        found = layout(self.file, size)
        self.found.problems += found.problems
        parts: list[Part] = []
        for number, (start, end) in enumerate(found.spans, 1):
            window = Window(self.file, start, end, f"audio{self.found.path.suffix}", found.patches)
            whole = len(found.spans) == 1 and not found.patches
            try:
                parts += self._decode(window, found, whole)
            except AudioFormatError as error:
                if self.found.is_full or not parts:
                    raise
                self.found.problems.append(f"cannot read joined file {number} of {len(found.spans)}: {error}")
        if len(found.spans) > 1:
            logger.info("%s: %d files joined in one", self.found.path, len(found.spans))
        return parts

    def log(self, parts: list[Part]) -> None:
        """Log missing and damaged audio, and gaps."""
        if self.found.problems:
            logger.warning(
                "%s: the file was cut short or is damaged (%s); %.3f s of it were read",
                self.found.path,
                "; ".join(dict.fromkeys(self.found.problems)),
                _length_s(parts),
            )
        if self.found.gaps:
            gaps = [f"{length:.2f} s at {start:.2f} s" for start, length in self.found.gaps]
            text = ", ".join(gaps if len(gaps) <= 5 else [*gaps[:5], f"{len(gaps) - 5} more"])
            logger.warning("%s: silence fills gaps in the timestamps: %s", self.found.path, text)

    def _decode(self, window: Window, found: Layout, whole: bool) -> list[Part]:
        """One of the joined files, read by libsndfile or else by FFmpeg."""
        reason = "libsndfile reads one track only"
        if self.found.track in (None, 1) and (found.tracks == 1 or not find_spec("av")):
            try:
                part, lost, promised_s = self._with_libsndfile(window, whole)
                if lost == PROMISES and window.start in found.estimated:
                    lost = _ESTIMATE if _length_s([part]) < _ESTIMATED * promised_s else ""
                    promised_s = 0.0
            except (soundfile.SoundFileError, OSError) as error:
                if is_lack_of_memory(error):
                    raise
                reason = getattr(error, "error_string", None) or str(error)
            else:
                if not lost and not found.damaged:
                    return [part]
                if lost == PROMISES and not found.is_ogg:  # FFmpeg would read the same
                    self.found.problems.append(lost)
                    return [part]
                parts = self._better(window, whole, part, lost)
                missing_s = promised_s - sum(each.gap_s for each in parts) - _length_s(parts)
                if not lost.startswith(PROMISES) and missing_s > 0.0005:
                    self.found.problems.append(f"{missing_s:.3f} s are missing")
                return parts
        return read_with_ffmpeg(window, self.found, reason)

    def _better(self, window: Window, whole: bool, part: Part, lost: str) -> list[Part]:
        """FFmpeg's parts of a damaged file if it is installed and reads at least as much, else libsndfile's part."""
        found = self.found
        n_problems, n_gaps, n_values = len(found.problems), len(found.gaps), found.n_values
        found.n_values -= part.samples.size
        try:
            parts = read_with_ffmpeg(window, found, lost)
        except AudioFormatError:
            if found.is_full:
                raise
            parts = []
        # libsndfile's estimate may be wrong: then FFmpeg must read clearly more.
        margin_s = _WORSE_S if lost == _ESTIMATE else -_WORSE_S
        if not parts or _length_s(parts) < _length_s([part]) + margin_s:
            del found.problems[n_problems:], found.gaps[n_gaps:]
            found.n_values = n_values
            if lost.startswith("libsndfile:"):  # the block with the error is lost: use smaller blocks
                part, _, _ = self._with_libsndfile(window, whole, _SMALL_BLOCK)
            parts = [part]
            if lost and not find_spec("av"):
                lost += ", pip install av may read more"
            elif lost == _ESTIMATE:
                lost = ""
        if len(found.gaps) > n_gaps and lost == PROMISES:  # silence replaces the missing audio
            lost = ""
        if lost and len(found.problems) == n_problems and lost != _ESTIMATE:
            found.problems.append(lost)
        return parts

    def _with_libsndfile(self, window: Window, whole: bool, block: int = _BLOCK) -> tuple[Part, str, float]:
        """The samples, the reason why some are missing (else empty), and the seconds by the header (0: unknown).

        A whole file is read by libsndfile directly, without Python callbacks.
        """
        window.seek(0)
        head = window.read(4) or b""
        if head.startswith(_PRINTS):
            raise soundfile.SoundFileError("Format not recognised.")
        source: Window | bytes | int = window
        if whole:
            by_name = self.found.path.suffix.lower() in _BY_EXTENSION
            # Its own descriptor: libsndfile moves the position, and closes it.
            source = os.fsencode(self.found.path) if by_name else os.open(self.found.path, os.O_RDONLY)
        window.seek(0)
        is_mpeg = head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
        with _hushed(is_mpeg) as chatter:
            blocks: list[npt.NDArray[np.float32]] = []
            lost = ""
            with soundfile.SoundFile(source) as sound:
                self.found.check_channels(sound.channels)
                promised, log, rate = sound.frames, str(sound.extra_info), int(sound.samplerate)
                n_frames = max(1, block // sound.channels)
                try:
                    while len(values := sound.read(n_frames, dtype="float32", always_2d=True)):
                        self.found.count(values.size)
                        blocks.append(values)
                        if len(values) < n_frames:  # the next read could return some samples twice
                            break
                except soundfile.SoundFileError as error:
                    lost = f"libsndfile: {getattr(error, 'error_string', None) or error}"
                samples = np.concatenate([np.zeros((0, sound.channels), np.float32), *blocks])
        complaint = next((line for line in chatter if _MPG123_LOST.search(line)), b"")
        if not lost and complaint:
            lost = f"libmpg123: {complaint.decode(errors='replace').strip()}"
        if not lost and (len(samples) < promised < _UNKNOWN_SIZE or _is_cut(log)):
            lost = PROMISES
        return Part(samples, rate), lost, promised / max(rate, 1) if promised < _UNKNOWN_SIZE else 0.0


def _length_s(parts: list[Part]) -> float:
    return sum(len(part.samples) / max(part.rate, 1) for part in parts)


def _is_cut(log: str) -> bool:
    """Whether libsndfile found fewer bytes than a header promises."""
    sizes = [(int(promised), int(found)) for promised, found in _CUT.findall(log)]
    return any(found < promised < _UNKNOWN_SIZE for promised, found in sizes)


@contextmanager
def _hushed(hush: bool) -> Iterator[list[bytes]]:
    """Capture the lines that libmpg123 prints on stderr; they are in the list afterwards."""
    lines: list[bytes] = []
    if not hush:
        yield lines
        return
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

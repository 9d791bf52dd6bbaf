"""Decoding of audio files by FFmpeg, in a child process with limits, and a log line for each incomplete file."""

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.audio_arrays import MAX_FILE_CHANNELS, Part, full_scale
from whisperlab.util.errors import AudioFormatError, KilledError
from whisperlab.util.log import logger
from whisperlab.util.validation import check_range

_MAX_VALUES = 2**30  # decoded values of all channels (4 GiB): a small FLAC file can hold days of silence
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_RAW_SUFFIX = re.compile(r"(?i)\.(raw|pcm|sln\d*|[su](8|16|24|32)[lb]?e?|[su][bw]|ul|al|[au]law|mulaw|snd)")
_CONVERT = "convert it first, such as ffmpeg -f s16le -ar 16000 -ac 1 -i FILE call.wav"
_RAW = f"raw PCM has no header that gives rate, width and channels: {_CONVERT}"


def decode(path: Path, track: int | None = None) -> list[Part]:
    """The parts of an audio file, in order. Logs a warning for damage and one for gaps. Raises ``AudioFormatError``."""
    if track is not None:
        check_range("track", track, int, 1)
    parts, found = decoder.ask(path, track=track)
    for note in found["notes"]:
        logger.warning("%s: %s", path, note)
    if problems := "; ".join(dict.fromkeys(found["problems"])):
        if not parts:
            raise AudioFormatError(f"{path}: without a single sample that can be decoded ({problems})")
        read_s = sum(len(part.samples) / max(part.rate, 1) for part in parts)
        logger.warning("%s: the file was cut short or is damaged (%s); %.3f s of it were read", path, problems, read_s)
    if gaps := [f"{length:.2f} s at {start:.2f} s" for start, length in found["gaps"]]:
        gaps[5:] = [f"{len(gaps) - 5} more"] if len(gaps) > 5 else []
        logger.warning("%s: silence fills gaps in the timestamps: %s", path, ", ".join(gaps))
    return parts


class _Decoder:
    """The child process of this process, started for the first file. It decodes one file at a time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start with another child process, without ending this one."""
        self._lock = threading.Lock()
        self._child: tuple[subprocess.Popen[bytes], socket.socket, IO[bytes]] | None = None

    def ask(self, path: Path, track: int | None = None, header_only: bool = False) -> tuple[list[Part], dict[str, Any]]:
        """The parts of a file, and the problems found. Raises ``AudioFormatError``."""
        request = {"suffix": path.suffix, "track": track, "header_only": header_only}
        for last in (False, True):
            with self._lock, path.open("rb") as file:
                process, ours, answer = self._started()
                try:
                    socket.send_fds(ours, [json.dumps(request).encode()], [file.fileno()])
                    parts, found = _received(path, answer)
                    break
                except (EOFError, OSError) as error:
                    status = process.wait(10.0)
                    self.stop()
                    if (killed := status == -signal.SIGKILL) and not last:
                        continue  # decoders do not kill themselves: another process did, and the file may be right
                    ended = signal.strsignal(-status) if status < 0 else f"exit status {status}"
                    kind = KilledError if killed else AudioFormatError
                    raise kind(f"{path}: FFmpeg cannot decode it ({ended}): {_CONVERT}") from error
                except BaseException:  # the rest of the answer is unread
                    self.stop()
                    raise
        if found["error"]:
            advice = f"; {_RAW}" if _RAW_SUFFIX.fullmatch(path.suffix) else ""
            raise AudioFormatError(f"{path}: {found['error']}{advice}")
        return parts, found

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket, IO[bytes]]:
        if self._child and self._child[0].poll() is None:
            return self._child
        self.stop()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", str(Path(__file__).with_name("decoder.py"))]
        with theirs:
            out = subprocess.DEVNULL  # decoders print
            process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=out, stderr=out, process_group=0)
        self._child = process, ours, ours.makefile("rb")
        return self._child

    def stop(self) -> None:
        """End the child process. The next file starts another."""
        if self._child:
            process, ours, answer = self._child
            answer.close()
            ours.close()
            process.kill()
            process.wait()


def _received(path: Path, answer: IO[bytes]) -> tuple[list[Part], dict[str, Any]]:
    """All blocks of an answer as parts, and its last line. Raises AudioFormatError for too many values."""
    n_values = 0
    kept: list[tuple[float, int, list[NDArray[np.float32]]]] = []  # gap in seconds, rate, blocks
    while "error" not in (found := json.loads(_read(answer, None))):
        kind, n_channels, rate = found["block"]
        if not 1 <= n_channels <= MAX_FILE_CHANNELS:
            raise AudioFormatError(f"{path}: channels must be 1 to {MAX_FILE_CHANNELS}, got {n_channels}")
        dtype, gap_s = np.dtype(_TYPES[kind.removesuffix("p")]), found["gap_s"]
        n_values += found["n_bytes"] // dtype.itemsize + int(gap_s * rate) * n_channels
        if n_values > _MAX_VALUES:
            raise AudioFormatError(f"{path}: more than {_MAX_VALUES:,} values in all channels, cut it into parts")
        values = np.frombuffer(_read(answer, found["n_bytes"]), dtype)
        values = (values ^ 0x80).view("i1") if kind.startswith("u8") else values  # 128 is the middle
        values = values.reshape(n_channels, -1).T if kind.endswith("p") else values.reshape(-1, n_channels)
        _, last_rate, blocks = kept[-1] if kept else (0.0, 0, [])
        if gap_s or last_rate != rate or blocks[0].shape[1] != n_channels:
            kept.append((gap_s, rate, blocks := []))
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is rejected later
            blocks.append((values / full_scale(values.dtype)).astype(np.float32, order="C"))
    return [Part(np.concatenate(blocks), rate, gap_s) for gap_s, rate, blocks in kept], found


def _read(answer: IO[bytes], n_bytes: int | None) -> bytes:
    """So many bytes, or a line. Raises EOFError if the process has ended."""
    data = answer.readline() if n_bytes is None else answer.read(n_bytes)
    if not data.endswith(b"\n") if n_bytes is None else len(data) < n_bytes:
        raise EOFError
    return data


decoder = _Decoder()
atexit.register(decoder.stop)
os.register_at_fork(after_in_child=decoder.forget)  # a forked process starts its own

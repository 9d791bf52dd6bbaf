"""Decoding by FFmpeg (PyAV). `whisperlab.data.containers` runs this script in a child process.

A fault of a decoder ends this process only. A request is one JSON object and the open file, sent through the socket on
standard input. The answer is one JSON object per line; the samples of a block follow its line. The script imports
neither numpy nor whisperlab, so that it starts quickly.
"""

import json
import os
import re
import resource
import socket
import struct
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import av
import av.logging
from av import AudioFrame, AudioStream
from av.audio.plane import AudioPlane
from av.container import InputContainer
from av.stream import Disposition

_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))

# Limits of this process
_CPU_S = 600  # per file; the longest file allowed, 2**30 values, takes about a tenth of it
_MEMORY = 2**30  # bytes; decoded audio is sent on in blocks
_BLOCK = 2**20  # bytes of samples sent at once

# Headers
_MP3_FRAME = 1441  # bytes: no frame is longer
_TAIL = 4096  # bytes; a shorter remainder after the samples is a tag or padding
_UNKNOWN_SIZE = 0x7FFFF000  # this size and larger ones mean unknown: the file was written to a pipe
_KINDS = {magic.encode(): SimpleNamespace(**fields) for magic, fields in _TABLES["chunks"].items()}
_JOINED = [[re.compile(one.encode(), re.DOTALL) for one in pair] for pair in _TABLES["joined"].items()]

# Timestamps
_CUT_S = {"flac": 0.001, "mp3": 0.04}  # a stream may be this much shorter than its container says; others 0.1 s
_GAP_S = 0.1  # shorter gaps in the timestamps are jitter
_MAX_GAPS_S = 3600.0  # seconds of silence to fill in: a forged timestamp must not exhaust memory
_SET_BACK_S = 1.0  # a timestamp this much before the last one starts a new clock
_ESTIMATES = "Estimating duration"  # FFmpeg's warning that a container gives no duration


class RefusedError(Exception):
    """A file that cannot be decoded; the text is the reason."""


class Window:
    """The bytes of one of several joined files, as FFmpeg reads a file."""

    def __init__(self, data: memoryview, suffix: str) -> None:
        self.name = f"audio{suffix}"  # FFmpeg recognises some formats by the extension
        self._data, self._at = data, 0

    def read(self, n: int) -> bytes:
        found = bytes(self._data[self._at : self._at + n])
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, (0, self._at, len(self._data))[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at


def spans(data: mmap) -> list[tuple[int, int]]:
    """The first and last bytes of each of the files that are joined end to end."""
    begin = _unit_bytes(data, 0) if data[:3] == b"ID3" else 0
    head = data[begin : begin + 64]
    second = next((second for first, second in _JOINED if first.match(head)), None)
    if not second:
        return [(0, len(data))]
    earliest = begin + (_MP3_FRAME if head[:1] == b"\xff" else 4)
    if head[:4] in (b"RIFF", b"RIFX", b"FORM"):  # another file may be embedded before the end that its header gives
        said = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
        earliest = max(earliest, begin + said if said < _UNKNOWN_SIZE else 0)
    starts = [0, *(match.start() for match in second.finditer(data, earliest))]
    # The first pages of simultaneous streams follow each other in Ogg, and a tag precedes the first frame in MP3.
    ends = {at + n for at in starts if (n := _unit_bytes(data, at))}
    return list(pairwise([0, *(at for at in starts[1:] if at not in ends), len(data)]))


def check_header(data: mmap, start: int, end: int) -> str:
    """Correct, in memory, the sizes that a recorder left unfinished. Returns what is wrong, or raises RefusedError.

    FFmpeg reports neither samples that are missing at the end of PCM nor a missing last page of an Ogg file.
    """
    if data[start : start + 3] == b"ID3":
        start += _unit_bytes(data, start)
    magic = data[start : start + 4]
    if magic == b"OggS":
        last = data.rfind(magic, start, end)
        whole = data[last + 5] & 4 and last + _unit_bytes(data, last) <= end
        return "" if whole else "its last Ogg page is missing"
    if not (kind := _KINDS.get(magic)):
        return ""
    found = {}
    for name, size, payload in _chunks(data, start + kind.header, end, kind):
        found[name] = size, payload
        if name == kind.samples.encode():
            break
    else:
        return ""
    there, size_at = end - payload, payload - struct.calcsize(kind.size)
    if size == 0xFFFFFFFF and b"ds64" in found:
        (size,) = struct.unpack_from("<Q", data, found[b"ds64"][1] + 8)
    if there < size < _UNKNOWN_SIZE:
        return "its header promises more"
    rest = _unexplained(data, payload + size + -size % kind.pad, end, kind) if 0 <= size <= there else 0
    if size > kind.own or size < 0:
        return f"{rest:,} bytes after the {size:,} bytes given in its header are not read" if rest > _TAIL else ""
    if not rest:  # FFmpeg would read the other chunks as samples
        raise RefusedError("an audio file without a single sample")
    data[size_at:payload] = struct.pack(kind.size, kind.unknown)
    data[start : start + len(kind.first)] = kind.first.encode()
    return f"its header is unfinished: it gives 0 bytes of samples, there are {there - kind.own:,}"


def _unit_bytes(data: mmap, at: int) -> int:
    """The length of the Ogg page or ID3 tag at a position; 0 without one."""
    if data[at : at + 3] == b"ID3":
        return 10 + int("0" + "".join(f"{byte & 127:07b}" for byte in data[at + 6 : at + 10]), 2)
    if data[at : at + 4] != b"OggS":
        return 0
    n_segments = sum(data[at + 26 : at + 27])
    return 27 + n_segments + sum(data[at + 27 : at + 27 + n_segments])


def _chunks(data: mmap, at: int, end: int, kind: SimpleNamespace) -> Iterator[tuple[bytes, int, int]]:
    """Id (4 bytes), size and first byte of the chunks from a position on, up to bytes that do not look like a chunk."""
    size = 0
    while size >= 0 and at + 12 <= end and all(32 <= byte < 127 for byte in data[at : at + 4]):
        (size,) = struct.unpack_from(kind.size, data, at + kind.id_bytes)
        name, at = data[at : at + 4], at + kind.id_bytes + struct.calcsize(kind.size)
        size -= 24 * (kind.id_bytes == 16)  # Wave64 includes the header in the size
        yield name, size, at
        at += size + -size % kind.pad


def _unexplained(data: mmap, at: int, end: int, kind: SimpleNamespace) -> int:
    """The number of bytes from a position on that are in no chunk and no tag."""
    for _, size, payload in _chunks(data, at, end, kind):
        if not 0 <= size <= end - payload:
            break
        at = payload + size + -size % kind.pad
    return max(0, end - at - _unit_bytes(data, at))


class Decoding:
    """The decoding of one file: sends blocks of samples, and collects the problems found."""

    def __init__(self, answer: IO[bytes], log: list[tuple[int, str, str]], track: int | None) -> None:
        self._answer, self._log, self._track = answer, log, track
        self.found: dict[str, Any] = {"problems": [], "gaps": [], "notes": [], "header_s": 0.0}
        self._block: tuple[Any, ...] = ()  # sample format, channels, rate
        self._planes: list[list[bytes]] = []
        self._n_bytes = 0  # of the block
        self._gap_s = 0.0  # silence before the block
        self.now_s = 0.0

    def read(self, file: IO[bytes], suffix: str, header_only: bool) -> None:
        """Decode all joined files. Raises RefusedError if the first cannot be read."""
        limit(resource.RLIMIT_DATA, _MEMORY + os.fstat(file.fileno()).st_size)  # the mapping counts
        data = mmap(file.fileno(), 0, access=ACCESS_COPY)
        found = spans(data)
        for number, (start, end) in enumerate(found, 1):
            self._log.clear()
            try:
                problem = check_header(data, start, end)
                why = self._read_window(Window(memoryview(data)[start:end], suffix), header_only)
                problem = problem or why
            except Exception as error:
                refused = f"not audio that FFmpeg can read ({self._reason(error)})"
                refused = str(error) if isinstance(error, RefusedError) else refused
                if number == 1:
                    raise RefusedError(refused) from error
                problem = f"cannot read joined file {number} of {len(found)}: {refused}"
            self.found["problems"] += [problem] * bool(problem)
        self._flush()

    def _read_window(self, window: Window, header_only: bool) -> str:
        """Decode one of the joined files. Returns what is damaged or missing, else an empty text."""
        with av.open(window, "r", metadata_errors="ignore", options=dict(_TABLES["options"])) as container:
            stream = self._chosen(list(container.streams.audio))
            estimated = any(_ESTIMATES in text for _, _, text in self._log)
            promised_s = 0.0 if estimated else (container.duration or 0) / av.time_base
            self.found["header_s"] += promised_s
            return "" if header_only else self._read_track(container, stream, promised_s)

    def _chosen(self, tracks: list[AudioStream]) -> AudioStream:
        """The audio stream to read: the requested one, else the default, else the first that can be decoded."""
        if not tracks:
            raise RefusedError("no audio in this file")
        told = "; ".join(f"{number} {_described(each)}" for number, each in enumerate(tracks, 1))
        if self._track and self._track > len(tracks):
            raise RefusedError(f"audio track {self._track} does not exist; tracks: {told}")
        readable = [each for each in tracks if each.codec_context is not None]
        default = [each for each in readable if each.disposition & Disposition.default]
        chosen = tracks[self._track - 1] if self._track else (default + readable + tracks)[0]
        if chosen.codec_context is None:
            raise RefusedError(f"FFmpeg cannot decode this track; tracks: {told}")
        if len(tracks) > 1:
            self.found["notes"].append(f"audio track {tracks.index(chosen) + 1} of {len(tracks)} is read ({told})")
        chosen.codec_context.thread_count = 1
        chosen.codec_context.options = {"err_detect": "crccheck"}
        return chosen

    def _read_track(self, container: InputContainer, stream: AudioStream, promised_s: float) -> str:
        name = container.format.name
        start_s = (container.start_time or 0) / av.time_base
        clock = _Clock(self, self.now_s - start_s) if name in _TABLES["formats"]["clocks"] else None
        first_s, end_s, n_bad, why = self.now_s, 0.0, 0, ""
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
                n_bad += bool(packet.is_corrupt and clock)  # the last packet of PCM is often shorter
                frames = packet.decode()
            except EOFError:
                continue
            except Exception as error:
                n_bad, why = n_bad + 1, why or f", {self._reason(error)}"
                continue
            for frame in frames:
                if isinstance(frame, AudioFrame) and frame.samples:
                    self._add(frame, clock.gap_s(frame) if clock else 0.0)
        if n_bad:
            return f"{n_bad} damaged packet{'s' * (n_bad > 1)}{why}"
        for level, of, text in self._log:
            if level <= av.logging.ERROR and of in (name, stream.codec_context.name):
                return f"FFmpeg: {text.strip()}"
        read_s = self.now_s - first_s
        if clock:  # the other streams count too; Matroska counts from 0
            read_s = promised_s if clock.jumped else max(end_s, read_s + max(start_s, 0.0))
        wrong_s = abs(promised_s - read_s) if name == "flac" and promised_s else promised_s - read_s
        return f"its header promises {promised_s:.3f} s" if wrong_s > _CUT_S.get(name, 0.1) else ""

    def _add(self, frame: AudioFrame, gap_s: float) -> None:
        """Append a frame to the block. A gap or another format starts a new one: any frame can change the format."""
        packed, n_channels = not frame.format.is_planar, frame.layout.nb_channels
        block = frame.format.name, n_channels, int(frame.sample_rate)
        if gap_s or block != self._block or self._n_bytes > _BLOCK:
            self._flush()
            self._block, self._gap_s = block, gap_s
            self._planes = [[] for _ in range(1 if packed else n_channels)]
        n_bytes = frame.samples * frame.format.bytes * (n_channels if packed else 1)
        for i, plane in enumerate(self._planes):
            view = memoryview(AudioPlane(frame, i))  # `frame.planes` reads out of bounds from 8 channels on
            if view.nbytes < n_bytes:
                raise RefusedError(f"a frame of {frame.samples} samples has {view.nbytes} of {n_bytes} bytes")
            plane.append(view[:n_bytes].tobytes())
            self._n_bytes += n_bytes
        self.now_s += gap_s + frame.samples / max(frame.sample_rate, 1)

    def _flush(self) -> None:
        if self._n_bytes:
            self.send({"block": self._block, "gap_s": self._gap_s, "n_bytes": self._n_bytes})
            for plane in self._planes:
                self._answer.write(b"".join(plane))
                plane.clear()
        self._n_bytes, self._gap_s = 0, 0.0

    def send(self, line: dict[str, Any]) -> None:
        self._answer.write(json.dumps(line).encode() + b"\n")

    def _reason(self, error: Exception) -> str:
        """FFmpeg's reason for an error: its last log line, else the error without number and file name."""
        errors = [text for level, _, text in self._log if level <= av.logging.ERROR]
        reason = errors[-1].partition(" 'aac,")[0].strip() if errors else getattr(error, "strerror", None)
        return str(reason or f"{type(error).__name__}: {error}")


class _Clock:
    """Finds gaps in the timestamps of a container that stores them."""

    def __init__(self, decoding: Decoding, offset_s: float) -> None:
        self._decoding, self._offset_s = decoding, offset_s
        self._last_s = -float("inf")
        self._filled_s = 0.0
        self.jumped = False  # a timestamp was ignored

    def gap_s(self, frame: AudioFrame) -> float:
        """Seconds of silence before a frame. Follows a clock that was set back; ignores leaps beyond the limit."""
        if frame.pts is None or not frame.time_base:
            return 0.0
        stamp_s, now_s = float(frame.pts * frame.time_base), self._decoding.now_s
        if stamp_s < self._last_s - _SET_BACK_S:
            self._offset_s, self.jumped = now_s - stamp_s, True
        self._last_s = stamp_s
        gap_s = stamp_s + self._offset_s - now_s
        if gap_s <= _GAP_S:
            return 0.0
        if self._filled_s + gap_s > _MAX_GAPS_S:
            self._offset_s, self.jumped = now_s - stamp_s, True
            self._decoding.found["problems"].append(f"its timestamps leap by {gap_s:.0f} s at {now_s:.2f} s")
            return 0.0
        self._filled_s += gap_s
        self._decoding.found["gaps"].append((now_s, gap_s))
        return gap_s


def _described(stream: AudioStream) -> str:
    context, words = stream.codec_context, [stream.metadata.get(key, "") for key in ("language", "title")]
    decoder = f"{context.name} {context.sample_rate} Hz {context.layout.name}" if context else "no decoder"
    return " ".join(filter(None, [*words, decoder]))


def limit(resource_id: int, value: int) -> None:
    hard = resource.getrlimit(resource_id)[1]
    resource.setrlimit(resource_id, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> None:
    """Serve requests until the other end of the socket closes."""
    requests = socket.socket(fileno=0)
    answer = requests.makefile("wb")
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture(False) as log:
        while (received := socket.recv_fds(requests, 2**16, 1))[0]:
            limit(resource.RLIMIT_CPU, int(sum(os.times()[:2])) + _CPU_S)
            request, error = json.loads(received[0]), ""
            decoding = Decoding(answer, log, request.pop("track"))
            with open(received[1][0], "rb") as file:
                try:
                    decoding.read(file, **request)
                except Exception as reason:
                    error = str(reason) or type(reason).__name__
            decoding.send(decoding.found | {"error": error})
            answer.flush()


if __name__ == "__main__":
    main()

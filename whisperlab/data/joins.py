"""The layout of an audio file: files joined end to end, unfinished headers, damaged Ogg pages.

libsndfile reads only the first of several joined files, and believes a size of 0. Killed recorders, ``cat a.ogg
b.ogg`` and text-to-speech servers produce such files.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCK = 2**20  # bytes searched at once
_LARGEST_FILE = 2**62
_OVERLAP = 128  # bytes; longer than any match of the patterns
_MP3_FRAME = 1441  # bytes: no frame is longer
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_TAIL_S = 0.1  # a shorter remainder after the samples is a tag or padding
# First bytes of a file, and of a second file of the same format.
_SECOND = [
    (re.compile(first.encode(), re.DOTALL), second.encode())
    for first, second in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
]
_MP3 = re.compile(rb"\xff[\xe2-\xff]")
# An MP3 frame with the number of frames and bytes that follow it.
_XING = rb"\xff[\xe2-\xe7\xf2-\xf7\xfa\xfb].{2}(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0[\0-\x0f]"


@dataclass(slots=True)
class Layout:
    spans: list[tuple[int, int]]  # bytes of each joined file
    patches: dict[int, bytes] = field(default_factory=dict)  # header fields that replace unfinished ones
    problems: list[str] = field(default_factory=list)
    tracks: int = 1  # simultaneous streams, in the formats that libsndfile reads
    estimated: set[int] = field(default_factory=set)  # starts of MP3 files whose first frame gives no count
    is_ogg: bool = False
    damaged: bool = False  # an Ogg file with damaged pages


class Window(io.RawIOBase):
    """The bytes ``start`` to ``end`` of an open file as a separate file, with ``patches`` applied."""

    def __init__(self, file: IO[bytes], start: int, end: int, name: str, patches: Mapping[int, bytes]) -> None:
        self.name = name  # FFmpeg recognises some formats by the extension
        self._file, self.start, self._end, self._patches = file, start, end, patches
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        from_where = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end - self.start}
        self._at = max(0, from_where[whence] + offset)
        return self._at

    def readinto(self, into: Buffer) -> int:
        at = self.start + self._at
        if at >= self._end:
            return 0
        self._file.seek(at)
        view = memoryview(into).cast("B")
        data = bytearray(self._file.read(min(len(view), self._end - at)))
        for where, patch in self._patches.items():
            for i, byte in enumerate(patch, where - at):
                if 0 <= i < len(data):
                    data[i] = byte
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Kind(NamedTuple):
    header: int  # bytes before the first chunk
    id_bytes: int
    size: str  # format of a chunk's size
    pad: int
    samples: bytes  # first bytes of the id of the samples' chunk


_KINDS = {
    b"RIFF": _Kind(12, 4, "<I", 2, b"data"),
    b"RIFX": _Kind(12, 4, ">I", 2, b"data"),
    b"RF64": _Kind(12, 4, "<I", 2, b"data"),
    b"FORM": _Kind(12, 4, ">I", 2, b"SSND"),
    b"riff": _Kind(40, 16, "<Q", 8, b"data"),
    b"caff": _Kind(8, 4, ">q", 1, b"data"),
}


class _Chunk(NamedTuple):
    id: bytes  # the first four
    size: int  # bytes of the payload, by the header
    payload: int  # position of its first byte


def layout(file: IO[bytes], size: int) -> Layout:
    """Find joined files, unfinished headers and damaged pages in a file of ``size`` bytes."""
    head = _at(file, 0, 64)
    begin = _tag_bytes(head) if head.startswith(b"ID3") else 0
    if begin:
        head = _at(file, begin, 64)
    if head.startswith(b"OggS"):
        return _ogg(file, size)
    found = Layout([(0, size)])
    second = next((pattern for first, pattern in _SECOND if first.match(head)), None)
    if second:
        said_end = 0  # of a WAV or AIFF file by its own header: another file may be embedded before that end
        if head[:4] in (b"RIFF", b"RIFX", b"FORM"):
            said = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
            said_end = begin + said if said < 2**31 - 2**16 else 0
        starts = [at for at in _search(file, second, begin + 4, size) if at >= said_end]
        found.spans = list(pairwise([0, *starts, size]))
    elif _MP3.match(head):
        tables = list(_search(file, _XING, begin, size))
        found.spans = list(pairwise([0, *_mp3_starts(file, tables, begin, size), size]))
        found.estimated = {start for start, _ in found.spans if start not in tables}
        found.estimated -= {0} if tables and tables[0] - begin <= _MP3_FRAME else set()
    for start, end in found.spans:
        _check_chunks(file, start + (begin if not start else 0), end, found)
    return found


def _at(file: IO[bytes], at: int, n: int) -> bytes:
    if not 0 <= at < _LARGEST_FILE:  # a forged size
        return b""
    file.seek(at)
    return file.read(n)


def _search(file: IO[bytes], pattern: bytes, start: int, end: int) -> Iterator[int]:
    compiled, last = re.compile(pattern, re.DOTALL), -1
    for at in range(start, end, _BLOCK):
        for match in compiled.finditer(_at(file, at, min(_BLOCK + _OVERLAP, end - at))):
            if at + match.start() > last:
                last = at + match.start()
                yield last


def _mp3_starts(file: IO[bytes], tables: list[int], begin: int, end: int) -> list[int]:
    """The starts of further MP3 files: a frame with a byte count, or the end of the bytes counted by such a frame."""
    starts = {at for at in tables if at - begin > _MP3_FRAME}
    for at, until in pairwise([*tables, end]):
        counted = _counted_bytes(_at(file, at, 64))
        after = at + counted
        while counted and until - after > 4 * _MP3_FRAME and (tag := _tag_bytes(_at(file, after, 32))):
            after += tag
        if counted and until - after > 4 * _MP3_FRAME and _MP3.match(_at(file, after, 2)):
            starts.add(after)
    return sorted(starts)


def _counted_bytes(frame: bytes) -> int:
    """The length of an MP3 file in bytes by its first frame; 0 if the frame has no count."""
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = int.from_bytes(frame[at + 4 : at + 8])
    if not flags & 2:
        return 0
    where = at + 8 + 4 * (flags & 1)
    return int.from_bytes(frame[where : where + 4])


def _tag_bytes(head: bytes) -> int:
    """The length of the MP3 tag at the start of ``head``; 0 without a tag."""
    if head.startswith(b"TAG"):
        return 128
    if head.startswith(b"APETAGEX"):
        return 32 + int.from_bytes(head[12:16], "little")
    if head.startswith(b"ID3"):
        return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    return 0


def _check_chunks(file: IO[bytes], start: int, end: int, found: Layout) -> None:
    """Patch a size of samples that a recorder left at 0, and report bytes that belong to no chunk."""
    unfinished = "its header is unfinished: it gives 0 bytes of samples, there are {:,}"
    magic = _at(file, start, 12)
    if magic[:4] == b".snd" and magic[8:12] == b"\0" * 4 and end > start + int.from_bytes(magic[4:8]):
        found.patches[start + 8] = b"\xff" * 4
        found.problems.append(unfinished.format(end - start - int.from_bytes(magic[4:8])))
        return
    kind = _KINDS.get(magic[:4])
    if not kind or (magic[:4] in (b"RIFF", b"RIFX", b"RF64") and magic[8:] != b"WAVE"):
        return
    chunks: dict[bytes, _Chunk] = {}
    for chunk in _chunks(file, start + kind.header, end, kind):
        chunks.setdefault(chunk.id, chunk)
        if chunk.id == kind.samples:
            break
    else:
        return
    said, there = chunk.size, end - chunk.payload
    if said == 0xFFFFFFFF and b"ds64" in chunks:
        said = int.from_bytes(_at(file, chunks[b"ds64"].payload + 8, 8), "little")
    elif said in (-1, 0xFFFFFFFF):  # unknown
        said = 2**63
    own = 8 if kind.samples == b"SSND" else 4 if kind is _KINDS[b"caff"] else 0  # fields before the samples
    if said <= own:
        if there > own and _unexplained(file, chunk.payload + said, end, kind):
            found.patches |= _patched(file, start, end, kind, chunks)
            found.problems.append(unfinished.format(there - own))
    elif said < there and said < 0x7FFFF000:
        rest = _unexplained(file, chunk.payload + said + -said % kind.pad, end, kind)
        form = chunks.get(b"fmt ")
        byte_rate = int.from_bytes(_at(file, form.payload + 8, 4), "little") if form else 0
        if rest > max(_TAIL_S * byte_rate, 4096):
            found.problems.append(f"{rest:,} bytes after the {said:,} bytes given in its header are not read")


def _chunks(file: IO[bytes], at: int, end: int, kind: _Kind) -> Iterator[_Chunk]:
    """The chunks from a position on, up to the first bytes that do not look like a chunk."""
    head_bytes = kind.id_bytes + struct.calcsize(kind.size)
    while at + head_bytes <= end:
        head = _at(file, at, head_bytes)
        if not all(32 <= byte < 127 for byte in head[:4]):
            return
        (size,) = struct.unpack(kind.size, head[kind.id_bytes :])
        if kind.id_bytes == 16:  # Wave64 includes the header in the size
            size -= 24
        at += head_bytes
        yield _Chunk(head[:4], size, at)
        if size < 0:
            return
        at += size + -size % kind.pad


def _unexplained(file: IO[bytes], at: int, end: int, kind: _Kind) -> int:
    """The number of bytes from a position on that are in no chunk and no tag."""
    for chunk in _chunks(file, at, end, kind):
        if chunk.size < 0 or chunk.payload + chunk.size > end:
            break
        at = chunk.payload + chunk.size + -chunk.size % kind.pad
    while at < end and (tag := _tag_bytes(_at(file, at, 32))):
        at += tag
    return max(0, end - at)


def _patched(file: IO[bytes], start: int, end: int, kind: _Kind, chunks: dict[bytes, _Chunk]) -> dict[int, bytes]:
    """The correct size fields of an unfinished header, by position."""
    samples = chunks[kind.samples]
    size_at, size = samples.payload - struct.calcsize(kind.size), end - samples.payload
    counted = size + (24 if kind.id_bytes == 16 else 0)
    if "I" in kind.size:
        counted &= 0xFFFFFFFF
    fields = {size_at: struct.pack(kind.size, counted)}
    if kind.header == 12:  # RIFF and FORM have 32 bits for the size of the file
        fields[start + 4] = struct.pack(kind.size, min(end - start - 8, 0xFFFFFFFF))
    if table := chunks.get(b"ds64"):
        fields[table.payload] = struct.pack("<QQ", end - start - 8, size)
        fields[size_at] = fields[start + 4] = b"\xff" * 4
    if common := chunks.get(b"COMM"):
        channels, _, bits = struct.unpack(">HIH", _at(file, common.payload, 8))
        frame = channels * ((bits + 7) // 8)
        fields[common.payload + 2] = struct.pack(">I", (size - 8) // frame if frame else 0)
    return fields


class _Page(NamedTuple):
    start: int
    end: int
    flags: int  # 2: first page of a stream, 4: last


def _ogg(file: IO[bytes], size: int) -> Layout:
    """The links of a chained Ogg file, and the problems of its pages."""
    pages = list(_pages(file, size))
    whole = [page for page in pages if page.end <= size]
    starts, firsts = [0], 0
    for before, page in pairwise(pages):
        if page.flags & 2 and not before.flags & 2:
            starts.append(page.start)
        firsts += bool(before.flags & 2) and len(starts) == 1
    found = Layout(list(pairwise([*starts, size])), tracks=max(1, firsts), is_ogg=True)
    if len(whole) < len(pages) or not (whole and whole[-1].flags & 4):
        found.problems.append("its last Ogg page is missing")
    skipped = sum(page.start - before.end for before, page in pairwise(pages))
    bad = sum(_is_bad(_at(file, page.start, page.end - page.start)) for page in whole)
    if bad or skipped:
        found.damaged = True
        found.problems.append(f"{max(bad, 1)} damaged Ogg page{'s' * (bad > 1)}")
    return found


def _pages(file: IO[bytes], size: int) -> Iterator[_Page]:
    at = 0
    while at < size:
        head = _at(file, at, 27 + 255)
        if not head.startswith(b"OggS") or len(head) < 27 or len(head) < 27 + head[26]:
            at = next(_search(file, rb"OggS\0", at + 1, size), size)
            continue
        end = at + 27 + head[26] + sum(head[27 : 27 + head[26]])
        yield _Page(at, end, head[5])
        at = end


def _is_bad(page: bytes) -> bool:
    """Whether the checksum of an Ogg page is wrong: zlib's CRC-32 with all bits reversed, from 0 (RFC 3533)."""
    content = page[:22] + b"\0" * 4 + page[26:]
    crc = zlib.crc32(content.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) != int.from_bytes(page[22:26], "little")

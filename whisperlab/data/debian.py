"""Debian packages: fetched with apt-get, without root, or found in a folder; checked by digest; unpacked in memory."""

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from urllib.parse import unquote

from whisperlab.model.downloads import Say, file_sha256
from whisperlab.util.errors import CorpusError
from whisperlab.util.files import locked_folder, part_folder

_MEMBER_LIMIT = 8 << 20  # bytes; the largest prompt has 0.5 MB
_UNPACKED_LIMIT = 128 << 20  # bytes; the largest package unpacks to 22 MB
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2


class Package(NamedTuple):
    """A Debian package in the version that the recipes use."""

    name: str
    version: str
    sha256: str

    def files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob(f"{self.name}_*.deb"))

    def is_in(self, folder: Path) -> bool:
        """Whether the folder has the pinned file, or one of another version."""
        return any(version_of(path) != self.version or file_sha256(path) == self.sha256 for path in self.files(folder))


def fetch(packages: Sequence[Package], folder: Path, say: Say) -> None:
    """Download the packages that are missing or damaged with ``apt-get download``. Raises CorpusError."""
    if all(package.is_in(folder) for package in packages):
        return
    with locked_folder(folder) as lock:
        if wanted := [package.name for package in packages if not package.is_in(folder)]:
            _fetch(wanted, folder, say, lock)


def _fetch(names: Sequence[str], folder: Path, say: Say, lock: IO[str]) -> None:
    if shutil.which("apt-get") is None:
        remedy = "Download these Debian packages on another system and give their folder as packages_dir"
        raise CorpusError(f"this system has no apt-get. {remedy}: {' '.join(names)}")
    with part_folder("debian", folder) as part:
        here, download = Path(part), ["download", *names]
        if _apt_get(download, here, lock):
            say("the package lists of this system lack the packages; fetching fresh lists for this download")
            (here / "lists" / "partial").mkdir(parents=True)
            own = [f"Dir::State::Lists={here / 'lists'}", f"Dir::Cache={here}", "Debug::NoLocking=true"]
            if reason := _apt_get(["update"], here, lock, own) or _apt_get(download, here, lock, own):
                failed = f"apt-get could not download {' '.join(names)}: {reason}"
                raise CorpusError(f"{failed}; packages_dir can name a folder with the files")
        for deb in here.glob("*.deb"):
            deb.replace(folder / deb.name)


def _apt_get(command: Sequence[str], folder: Path, lock: IO[str], options: Sequence[str] = ()) -> str:
    """Run apt-get, which inherits the lock, because it may outlive this process; returns the reason of a failure."""
    settings = ["Acquire::Retries=3", *options]
    if os.geteuid() == 0:  # apt-get would drop to a user without write access to the folder
        settings.append("APT::Sandbox::User=root")
    flags = [part for setting in settings for part in ("-o", setting)]
    words = ["apt-get", "-q", *flags, *command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, pass_fds=[lock.fileno()])
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return "; ".join(errors) or f"exit status {done.returncode}" if done.returncode else ""


def version_of(deb: Path) -> str:
    """The version in the name of a package's file."""
    return unquote(deb.name.split("_")[1])  # apt-get quotes the colon behind an epoch


def verified(package: Package, folder: Path, accept_newer: bool) -> Path:
    """The package's file in ``folder``; CorpusError if it is damaged, or not the recipes' unless ``accept_newer``."""
    found = package.files(folder)
    if not found:
        raise CorpusError(f"{folder}: {package.name}_{package.version}_all.deb is missing")
    for path in found:
        if file_sha256(path) == package.sha256:
            return path
    newest, version = found[-1], version_of(found[-1])
    if version == package.version:
        digests = f"SHA-256 {file_sha256(newest)}, expected {package.sha256}"
        raise CorpusError(f"{newest} is not the package it is named after ({digests}): delete it and build again")
    if not accept_newer:
        other = f"{package.name} has version {version} here, but the recipes were made with {package.version}"
        raise CorpusError(f"{other}: other audio, other results. accept_newer=True uses it anyway")
    return newest


def unpack(path: Path) -> dict[str, bytes]:
    """The regular files of a .deb by their paths (``usr/share/...``), in memory only; CorpusError if it is damaged."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(_plain(_data_tar(path.read_bytes()))), mode="r:") as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                total += member.size
                path_inside = PurePosixPath(member.name)
                if path_inside.is_absolute() or ".." in path_inside.parts:
                    raise ValueError(f"{member.name} points outside the package")
                if member.size > _MEMBER_LIMIT or total > _UNPACKED_LIMIT:
                    raise ValueError(f"{member.name} is larger than any prompt")
                content = archive.extractfile(member)
                assert content is not None
                files[str(path_inside)] = content.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, ValueError, EOFError, OSError) as error:
        raise CorpusError(f"{path} cannot be unpacked: {error}") from error
    return files


def _plain(packed: bytes) -> bytes:
    """A tar archive without its compression; ValueError above the limit. tarfile's own decompression has no limit."""
    stream: lzma.LZMADecompressor | zlib._Decompress
    if packed.startswith(b"\xfd7zXZ\0"):
        stream = lzma.LZMADecompressor(memlimit=_UNPACKED_LIMIT)
    elif packed.startswith(b"\x1f\x8b"):
        stream = zlib.decompressobj(wbits=31)
    else:
        return packed
    content = stream.decompress(packed, _UNPACKED_LIMIT)
    if not stream.eof:
        full = len(content) == _UNPACKED_LIMIT
        raise ValueError(f"it holds more than {_UNPACKED_LIMIT >> 20} MiB" if full else "it is cut short")
    return content


def _data_tar(deb: bytes) -> bytes:
    """The member ``data.tar.*`` of a .deb: an ``ar`` archive, members padded to even lengths (deb(5))."""
    if not deb.startswith(_AR_MAGIC):
        raise ValueError("not a Debian package")
    at = len(_AR_MAGIC)
    while at + _AR_HEADER <= len(deb):
        header, start = deb[at : at + _AR_HEADER], at + _AR_HEADER
        size = abs(int(header[48:58]))
        if header.startswith(b"data.tar"):
            return deb[start : start + size]
        at = start + size + size % 2
    raise ValueError("no data.tar in it")

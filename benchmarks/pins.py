"""Rewrites constraints.txt: the versions in .venv, each with the SHA-256 of every file of its release.

    make pins                                # installs uv beside .venv and runs this
    make pins FILES=torch-2.14.0+cpu-*.whl   # also adds the hashes of these files

`uv pip compile --generate-hashes` reports the hashes that the package index lists. This script keeps what uv does not
know: comments, environment markers, requirements of other platforms, and the hashes of files outside the index
(PyTorch's CPU build). Such hashes are kept while the version stays the same. When it changes, download the new files
and name them in ``FILES``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
NOT_PINNED = {"pip", "whisperlab"}  # venv brings pip; the project installs itself
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(slots=True)
class Pin:
    """One requirement: its version, marker and hashes, and the comment lines above it."""

    name: str
    version: str
    marker: str = ""
    hashes: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        requirement = f"{self.name}=={self.version}{f' ; {self.marker}' if self.marker else ''}"
        lines = [requirement, *(f"    --hash=sha256:{digest}" for digest in self.hashes)]
        return "\n".join([*self.comments, " \\\n".join(lines)])


def parse(text: str) -> tuple[str, dict[str, Pin]]:
    """The comment at the top of a requirements file, which ends with an empty line, and its pins by canonical name."""
    header, _, rest = text.rpartition("\n\n") if "\n\n" in text else ("", "", text)
    pins, comments = {}, list[str]()
    for line in rest.replace("\\\n", " ").splitlines():
        if line.startswith("#"):
            comments.append(line)
            continue
        requirement, _, marker = HASH.sub("", line).partition(";")
        name, _, version = requirement.strip().partition("==")
        if not version:
            raise SystemExit(f"constraints.txt: expected NAME==VERSION, got {line.split()[0]!r}")
        key = canonical(name)
        pins[key] = Pin(key, version, marker.strip(), HASH.findall(line), comments)
        comments = []
    return header, pins


def installed() -> dict[str, str]:
    """Versions of the installed packages by canonical name."""
    found = {canonical(each.metadata["Name"]): each.version for each in distributions()}
    return {name: version for name, version in found.items() if name not in NOT_PINNED}


def listed(uv: Path, pins: Iterable[Pin]) -> dict[str, list[str]]:
    """The hashes of every file that the package index lists for these versions."""
    command = [str(uv), "pip", "compile", "--no-deps", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    names = "".join(f"{pin.name}=={pin.version}\n" for pin in pins)
    command += [f"--python={sys.executable}", "-"]
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"uv could not list the hashes:\n{done.stderr}")
    return {name: pin.hashes for name, pin in parse(done.stdout)[1].items()}


def of_files(paths: Iterable[Path]) -> dict[tuple[str, str], list[str]]:
    """The SHA-256 of wheels, by package and version without its local part."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        name, version, *_ = path.name.split("-")
        key = canonical(name), version.partition("+")[0]
        found.setdefault(key, []).append(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def renewed(
    old: Mapping[str, Pin],
    versions: Mapping[str, str],
    index: Mapping[str, Sequence[str]],
    files: Mapping[tuple[str, str], Sequence[str]],
) -> list[Pin]:
    """The new pins. Raises `SystemExit` for a package with a local version ("+cpu") whose files have no hash."""
    pins = []
    for name in sorted({*versions, *(name for name, pin in old.items() if pin.marker)}):
        before = old.get(name, Pin(name, ""))
        full = versions.get(name, before.version)
        version = full.partition("+")[0]
        hashes = list(index.get(name, ()))
        own = [*(before.hashes if before.version == version else ()), *files.get((name, version), ())]
        beside = [each for each in dict.fromkeys(own) if each not in hashes]
        if full != version and not beside:
            raise SystemExit(f"{name} {full} is not in the package index; name its wheels in FILES")
        if not hashes:
            raise SystemExit(f"{name} {version}: the package index lists no file")
        pins.append(Pin(name, version, before.marker, hashes + beside, before.comments))
    return pins


def main(argv: Sequence[str] | None = None) -> None:
    """Rewrite constraints.txt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uv", type=Path, help="the program uv")
    parser.add_argument("files", type=Path, nargs="*", help="wheels from outside the package index")
    arguments = parser.parse_args(argv)
    header, old = parse(CONSTRAINTS.read_text("utf-8"))
    versions = installed()
    known = [Pin(name, version.partition("+")[0]) for name, version in versions.items()]
    known += [pin for name, pin in old.items() if pin.marker and name not in versions]
    pins = renewed(old, versions, listed(arguments.uv, known), of_files(arguments.files))
    CONSTRAINTS.write_text("\n".join([header, "", *map(str, pins)]) + "\n", "utf-8")
    print(f"{CONSTRAINTS.name}: {len(pins)} packages, {sum(len(pin.hashes) for pin in pins)} hashes")


if __name__ == "__main__":
    main()

"""The script that renews constraints.txt, with a small program in the place of uv."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from benchmarks import pins

OLD = f"""# The list.
#
# How to renew it.

alpha==1.0 \\
    --hash=sha256:{"a" * 64}
# Two builds: the index has the first.
beta==2.0 \\
    --hash=sha256:{"b" * 64} \\
    --hash=sha256:{"c" * 64}
other==3.0 ; sys_platform == "win32" \\
    --hash=sha256:{"d" * 64}
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists one hash for each requirement that it reads: 64 times the first letter of its name."""
    monkeypatch.setattr(pins, "CONSTRAINTS", tmp_path / "constraints.txt")
    pins.CONSTRAINTS.write_text(OLD)
    program = tmp_path / "uv"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "for line in sys.stdin:\n"
        "    digest = {'alpha': 'a', 'beta': 'b', 'other': 'd'}.get(line.partition('==')[0], 'e') * 64\n"
        "    print(line.strip(), '--hash=sha256:' + digest, sep=' \\\\\\n    ')\n"
    )
    program.chmod(0o700)
    return program


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(pins, "installed", lambda: versions)


def test_comments_markers_and_hashes_from_elsewhere_are_kept(uv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, alpha="1.0", beta="2.0+cpu")  # other is of another platform
    pins.main([str(uv)])
    assert pins.CONSTRAINTS.read_text() == OLD


def test_a_new_version_has_only_its_own_hashes(uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, alpha="1.1", beta="2.1+cpu", new="1")
    with pytest.raises(SystemExit, match=r"beta 2\.1\+cpu is not in the package index; name its wheels in FILES"):
        pins.main([str(uv)])
    assert pins.CONSTRAINTS.read_text() == OLD
    wheel = tmp_path / "beta-2.1+cpu-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    pins.main([str(uv), str(wheel)])
    header, found = pins.parse(pins.CONSTRAINTS.read_text())
    assert header == "# The list.\n#\n# How to renew it."
    assert {name: pin.version for name, pin in found.items()} == {
        "alpha": "1.1", "beta": "2.1", "new": "1", "other": "3.0"
    }  # fmt: skip
    assert found["beta"].hashes == ["b" * 64, hashlib.sha256(b"a wheel").hexdigest()]
    assert found["beta"].comments == ["# Two builds: the index has the first."]


def test_what_uv_cannot_list_is_told(uv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, alpha="1.0")
    uv.write_text("#!/bin/sh\necho no such version >&2; exit 1")
    with pytest.raises(SystemExit, match="could not list the hashes:\nno such version"):
        pins.main([str(uv)])
    uv.write_text("#!/bin/sh\ncat > /dev/null")
    with pytest.raises(SystemExit, match=r"alpha 1\.0: the package index lists no file"):
        pins.main([str(uv)])
    pins.CONSTRAINTS.write_text("alpha>=1.0\n")
    with pytest.raises(SystemExit, match=r"expected NAME==VERSION, got .alpha>=1\.0."):
        pins.main([str(uv)])

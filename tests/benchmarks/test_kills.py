"""The benchmark of kills: a few of each kind; a hundred take an hour."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return module


@pytest.mark.slow
def test_killed_processes_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills, rng = loaded("kills", monkeypatch), random.Random(0)
    found = kills.kill_drivers(3, tmp_path, rng, "here")
    found += kills.kill_within(2, tmp_path / "decoders", rng, kills.decoders, kills.parrots, long=True)
    assert found["kills"]
    assert not any(found[name] for name in kills.BAD)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
def test_a_full_disk_stops_with_one_line_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk = loaded("full_disk", monkeypatch)
    for name in ("trace", "download"):
        try:
            found = full_disk.run(name, 3)
        except full_disk.subprocess.CalledProcessError:
            pytest.skip("mounting is not allowed here")
        assert found["stopped"]
        assert not full_disk.wrong(found)

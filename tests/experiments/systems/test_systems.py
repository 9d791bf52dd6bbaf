"""A comparison of systems: each in a process of its own, in turns, scored alike; a failure is a row with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperlab import cli, data
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.data.manifest import write_manifest
from whisperlab.evaluation.stream_log import read_streams
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.experiments import systems
from whisperlab.experiments.systems import CONTROLS, MORE, SYSTEMS, System, compare, comparison, environments, readable
from whisperlab.model.weights import PACKAGED
from whisperlab.util.errors import ConfigurationError

SCENE = (
    ReferenceSegment(0.0, 1.0, "en", "one two"),
    ReferenceSegment(1.2, 2.0, "es", "tres cuatro"),
    ReferenceSegment(2.2, 3.0, "en", "five six"),
)
PERFECT = """
import os

WORDS = (("one two", "en"), ("tres cuatro", "es"), ("five six", "en"))

def load(request):
    def run(stream):
        for _, (text, language) in zip(stream.chunks(1.0), WORDS):
            stream.show(" " + text, "", language)
        assert os.environ["OMP_NUM_THREADS"] == str(request["threads"]) == "2"
        assert request["languages"] == ["en", "es"]

    return run
"""
DEAF = 'def load(request):\n    return lambda stream: stream.segment("one two five six", "en", 0.0, 3.0)\n'
BROKEN = 'def load(request):\n    raise RuntimeError("no weights here")\n'


def recording(folder: Path, name: str = "scene") -> Recording:
    path = folder / f"{name}.wav"
    write_wav(path, np.zeros(48_000, np.float32))
    text = " ".join(segment.text for segment in SCENE)
    return Recording(name, path, 3.0, text, "en,es", SCENE, "test", "made")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three systems that run in this Python, and one that cannot."""
    made = {"missing": System("missing", cannot="there is no package")}
    for name, script in (("perfect", PERFECT), ("deaf", DEAF), ("broken", BROKEN)):
        (tmp_path / f"{name}.py").write_text(script)
        follows = name == "perfect"
        made[name] = System(name, str(tmp_path / name), weights="", streams=follows, follows=follows)
    monkeypatch.setattr(environments, "SYSTEMS", made)
    return tmp_path


def test_a_comparison_is_one_row_per_system_and_what_cannot_run_says_why(stand_ins: Path) -> None:
    said, scenes = list[str](), [recording(stand_ins, name) for name in "ab"]
    rows = compare(scenes, controls=scenes[:1], threads=2, logs=stand_ins / "logs", say=said.append)
    missing, perfect, deaf, broken = rows
    assert [row["system"] for row in rows] == ["missing", "perfect", "deaf", "broken"]
    assert missing["reason"] == "there is no package"
    assert broken["reason"] == "broken failed on a (1); last output: RuntimeError: no weights here"
    assert sum("broken failed" in line for line in said) == 1  # it is not run again
    assert (perfect["mixed_error_rate"], deaf["mixed_error_rate"]) == (0.0, pytest.approx(1 / 3))
    assert (perfect["recordings"], perfect["audio_s"], perfect["threads"]) == (2, 6.0, 2)
    assert perfect["word_latency_p50"] is not None
    assert perfect["time_to_final_p50"] is not None
    assert (deaf["word_latency_p50"], deaf["time_to_final_p50"]) == (None, None)
    assert perfect["processor_s_per_s"] < 1
    assert perfect["peak_memory_bytes"] > 10e6
    assert (perfect[CONTROLS], deaf[CONTROLS]) == (pytest.approx(0, abs=2400), None)
    logs = sorted(path.name for path in (stand_ins / "logs").iterdir())
    assert logs == ["deaf-a.jsonl", "deaf-b.jsonl", "perfect-a.jsonl", "perfect-b.jsonl"]
    json.dumps(rows)
    order = [line.split(": ")[1] for line in said]  # each recording starts with the next system
    assert order == ["perfect", "deaf", "broken", "perfect", "deaf", "perfect"]


def test_systems_are_tested_against_whisperlab_on_the_same_recordings(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "OURS", "perfect")
    scenes = [recording(stand_ins, name) for name in "abc"]
    perfect, deaf = compare(scenes, names=["perfect", "deaf"], threads=2)
    assert MORE not in perfect
    assert (deaf[MORE], deaf[f"{MORE}_95"]) == (pytest.approx(1 / 3), pytest.approx((1 / 3, 1 / 3)))
    assert 0.05 < deaf["p"] <= 1  # three pairs cannot show a difference


def test_a_cell_is_a_rate_with_its_interval_or_the_number_of_recordings(stand_ins: Path) -> None:
    rows = compare([recording(stand_ins)], names=["deaf"])
    shown = readable(rows, ["mixed_error_rate", "word_latency_p50", "threads"])
    assert shown == [
        {"system": "deaf", "mixed_error_rate": "0.33 (n = 1, no interval)", "word_latency_p50": "-", "threads": "1"}
    ]


@pytest.mark.model
def test_the_command_prints_tables_of_what_ran_and_the_digest_of_the_weights(
    stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(stand_ins / "two.jsonl", [recording(stand_ins, "a")])
    words = ["bench", "systems", "--corpus", str(stand_ins / "two.jsonl"), "--split", "test", "--no-controls"]
    assert cli.main([*words, "--threads", "2", "--systems", "perfect,missing", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["reason"] for row in document["rows"]] == ["there is no package", ""]
    assert document["weights"]["base"] == PACKAGED["base"].tensors
    assert cli.main([*words, "--systems", "deaf,missing"]) == 0
    shown, notes = capsys.readouterr()
    assert PACKAGED["base"].tensors in notes
    assert all(name in shown for name in ("switch_error_rate", "time_to_final_p50", "processor_s_per_s", CONTROLS))
    assert "there is no package" in shown
    assert " MB" in shown


def test_a_comparison_without_recordings_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no recordings"):
        compare([])


# The real ones


def real(names: list[str], tmp_path: Path, n_segments: int = 2) -> dict[str, Any]:
    scene = data.load("ivr-en-es", "dev")[0]
    kept = scene.segments[:n_segments]
    text = " ".join(segment.text for segment in kept)
    short = Recording(scene.id, scene.audio_path, kept[-1].end, text, "en,es", kept, "dev", "ivr", offset=0.0)
    rows = compare([short], names=names, logs=tmp_path, pace="fast")
    assert [row["reason"] for row in rows] == [""] * len(rows)
    assert all(row["mixed_error_rate"] < 0.9 for row in rows)
    return {row["system"]: row for row in rows}


@pytest.mark.model
def test_adapters_run_on_a_real_scene_and_the_oracle_has_every_language_right(tmp_path: Path) -> None:
    rows = real(["int8, oracle", "whisperlab, oracle"], tmp_path)
    assert [row["language_error_rate"] for row in rows.values()] == [pytest.approx(0, abs=0.05)] * 2
    streams = [read_streams(path)[0] for path in sorted(tmp_path.iterdir())]
    assert [bool(trace.committed) for trace in streams] == [False, True]
    assert all(trace.processor_s for trace in streams)


@pytest.mark.model
@pytest.mark.slow
def test_every_system_is_installed_and_runs(tmp_path: Path) -> None:
    for environment in {system.environment for system in SYSTEMS.values() if system.environment}:
        systems.install(environment, print)
    rows = real([name for name, system in SYSTEMS.items() if not system.cannot], tmp_path)
    assert all((row["word_latency_p50"] is None) != row["streams"] for row in rows.values())

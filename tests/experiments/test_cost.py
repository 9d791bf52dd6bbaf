"""The cost of a sweep, estimated from rows and from a short probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sweep import DIGEST, make_recording

from whisperlab.config import TranscriberConfig
from whisperlab.experiments.cost import cost_name, from_store, probe, seconds
from whisperlab.experiments.results_store import Row, in_memory
from whisperlab.experiments.sweep import plan
from whisperlab.streaming.results import ProcessResult

# --- estimates ----------------------------------------------------------------------------------------


def row(config: dict[str, Any], compute_s: float, duration: float, status: str = "ok") -> Row:
    return {"config": config, "status": status, "compute_s": compute_s, "duration": duration, "recording": "r"}


def test_finished_recordings_tell_the_cost_of_the_others() -> None:
    rows = [row({"key": "a"}, 10, 20), row({"key": "a"}, 50, 60), row({"key": "b"}, 9, 9, "failed")]
    found = from_store(in_memory(rows))
    assert list(found) == [cost_name({"key": "a"})]
    assert found[cost_name({"key": "a"})].rate == pytest.approx(60 / 80)
    assert found[cost_name({"key": "a"})].audio_s == 80


class Timed:
    """Takes a known time for each second of audio, by its own account."""

    made: list[TranscriberConfig]

    def __init__(self, config: TranscriberConfig) -> None:
        self.made.append(config)

    def process(self, chunk: Any) -> ProcessResult:
        return ProcessResult("", "", None)

    finalize = process

    def config(self) -> dict[str, Any]:
        return {}


def test_what_differs_in_its_cache_alone_is_tried_once(tmp_path: Path) -> None:
    Timed.made = []
    configs = [
        TranscriberConfig().replace({"cache.size": size, "cache.key": key, "decode": decode})
        for size in (1, 2)
        for key in ("rounded", "span")
        for decode in (True, False)
    ]
    known = from_store(in_memory([row(configs[0].to_json(), 5, 10)]))
    heard: list[float] = []

    def trial(transcriber: Any, audio: Any, recording: str) -> Any:
        heard.append(len(audio) / 16000)

        class Found:
            compute_s = 4.0

        return Found()

    costs = probe(Timed, configs, np.zeros(16000 * 60, np.float32), known, trial)
    assert heard == [5, 20, 5, 20]
    assert len(Timed.made) == 4
    assert costs[cost_name(configs[0].to_json())].rate == 0.5
    assert costs[cost_name(configs[1].to_json())].rate == pytest.approx(4 / 20)

    tasks = plan(configs[:2], [make_recording(tmp_path, "r", "hello world", 8)], DIGEST)
    both = [0.8 * 0.5, 0.8 * 0.2]
    assert seconds(tasks, costs, 1) == pytest.approx(sum(both))
    assert seconds(tasks, costs, 2) == pytest.approx(max(both))
    assert seconds([], costs, 2) == 0

"""What a sweep will cost: laws of the simulation, and estimates from rows and from a try."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sweep import DIGEST, make_recording

from whisperlab.cost import by_stage, cost_name, cost_of, from_rows, probe, seconds
from whisperlab.errors import ConfigurationError
from whisperlab.scaling import Costs, simulate
from whisperlab.segments import ProcessResult
from whisperlab.sweep import plan

TASKS = st.lists(st.floats(0, 100), min_size=1, max_size=60)
COSTS = st.builds(
    Costs,
    start_s=st.floats(0, 10),
    driver_s=st.floats(0, 1),
    sent_bytes=st.floats(0, 100),
    returned_bytes=st.floats(0, 100),
    luggage_bytes=st.floats(0, 1000),
    link_bytes_s=st.floats(10, 1e6),
)


@given(TASKS, st.integers(1, 200), COSTS)
def test_no_sweep_is_shorter_than_what_waits_for_nothing(
    tasks: list[float], workers: int, costs: Costs
) -> None:
    run = simulate(tasks, workers, costs)
    slack = 1e-6 * (1 + run.seconds)
    assert run.seconds >= sum(tasks) / workers - slack
    assert run.seconds >= max(tasks) + costs.start_s - slack
    assert run.seconds >= len(tasks) * costs.driver_s - slack
    sent = len(tasks) * (costs.sent_bytes + costs.returned_bytes) / costs.link_bytes_s
    assert run.seconds >= sent - slack
    for share in (run.workers_busy, run.driver_busy, run.link_busy):
        assert -1e-9 <= share <= 1 + 1e-6


@given(TASKS, COSTS)
def test_one_worker_does_one_thing_after_the_other(tasks: list[float], costs: Costs) -> None:
    bytes_ = len(tasks) * (costs.sent_bytes + costs.returned_bytes) + costs.luggage_bytes
    alone = sum(tasks) + costs.start_s + len(tasks) * costs.driver_s + bytes_ / costs.link_bytes_s
    assert math.isclose(simulate(tasks, 1, costs).seconds, alone, rel_tol=1e-6, abs_tol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 10))
def test_equal_tasks_at_no_cost_come_in_rounds(n: int, workers: int, each: float) -> None:
    found = simulate([each] * n, workers, Costs()).seconds
    assert math.isclose(found, math.ceil(n / min(workers, n)) * each, rel_tol=1e-9)


def test_a_driver_that_is_busy_all_the_time_is_where_scaling_ends() -> None:
    tasks, costs = [10.0] * 2000, Costs(driver_s=0.1)
    few, many, more = (simulate(tasks, workers, costs) for workers in (10, 100, 400))
    assert few.workers_busy > 0.98
    assert many.seconds < 0.15 * few.seconds
    assert more.driver_busy > 0.95
    assert more.seconds > 0.9 * many.seconds


@pytest.mark.parametrize("tasks,workers", [([], 1), ([1.0], 0), ([-1.0], 1)])
def test_a_simulation_needs_something_to_simulate(tasks: list[float], workers: int) -> None:
    with pytest.raises(ConfigurationError, match="a simulation needs"):
        simulate(tasks, workers, Costs())


def test_costs_are_not_negative() -> None:
    with pytest.raises(ConfigurationError, match="costs are at least 0"):
        Costs(driver_s=-1)
    with pytest.raises(ConfigurationError, match="costs are at least 0"):
        Costs(link_bytes_s=0)


# --- estimates ----------------------------------------------------------------------------------------


def statistics(**stages: float) -> dict[str, Any]:
    names = {"vad": "vad.detect", "lid": "lid.total", "text": "whisper.infer"}
    return {"performance": {names[name]: {"total": ms} for name, ms in stages.items()}}


def test_stages_and_the_rest_add_up_to_all_computing() -> None:
    cost = cost_of(statistics(vad=1000, lid=3000, text=5000), 10.0, 20.0)
    assert cost.stages == pytest.approx(
        {"voice activity": 0.05, "language-ID": 0.15, "text": 0.25, "other": 0.05}
    )
    assert cost.rate == pytest.approx(0.5)


def row(config: dict[str, Any], compute_s: float, duration: float, status: str = "ok") -> dict[str, Any]:
    return {
        "config": config,
        "status": status,
        "compute_s": compute_s,
        "duration": duration,
        "statistics": statistics(text=500 * compute_s),
    }


def test_finished_recordings_tell_the_cost_of_the_others() -> None:
    rows = [row({"key": "a"}, 10, 20), row({"key": "a"}, 50, 60), row({"key": "b"}, 9, 9, "failed")]
    found = from_rows(rows)
    assert list(found) == [cost_name({"key": "a"})]
    assert found[cost_name({"key": "a"})].rate == pytest.approx(60 / 80)
    assert found[cost_name({"key": "a"})].audio_s == 80


class Timed:
    """Takes a known time for each second of audio, by its own account."""

    made: list[dict[str, Any]]

    def __init__(self, config: dict[str, Any]) -> None:
        self.made.append(config)

    def process(self, chunk: Any) -> ProcessResult:
        return ProcessResult("", "", None)

    finalize = process

    def get_statistics(self) -> dict[str, Any]:
        return statistics(lid=2000)

    def config(self) -> dict[str, Any]:
        return {}


def test_what_differs_in_its_cache_alone_is_tried_once(tmp_path: Path) -> None:
    Timed.made = []
    configs = [
        {"cache_size": size, "key": key, "decode": decode, "lid_hop_ms": 100}
        for size in (1, 2)
        for key in ("rounded", "span")
        for decode in (True, False)
    ]
    known = from_rows([row(configs[0], 5, 10)])
    heard: list[float] = []

    def trial(transcriber: Any, audio: Any, recording: str) -> Any:
        heard.append(len(audio) / 16000)

        class Found:
            statistics = transcriber.get_statistics()
            compute_s = 4.0

        return Found()

    costs = probe(Timed, configs, np.zeros(16000 * 60, np.float32), known, trial)
    assert heard == [5, 20, 5, 20]
    assert len(Timed.made) == 4
    assert costs[cost_name(configs[0])].rate == 0.5
    assert costs[cost_name(configs[1])].rate == pytest.approx(4 / 20)

    tasks = plan(configs[:2], [make_recording(tmp_path, "r", "hello world", 8)], DIGEST)
    both = [0.8 * 0.5, 0.8 * 0.2]
    assert seconds(tasks, costs, 1) == pytest.approx(sum(both))
    assert seconds(tasks, costs, 2) == pytest.approx(max(both))
    assert seconds([], costs, 2) == 0
    assert sum(by_stage(tasks, costs).values()) == pytest.approx(sum(both))

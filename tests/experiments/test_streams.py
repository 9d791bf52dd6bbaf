"""Live streams on one core: delays by the virtual clock, and the command on real audio."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from whisperlab import data
from whisperlab.cli import main
from whisperlab.experiments import streams
from whisperlab.experiments.streams import CHUNK, StreamsFigure, streams_figures
from whisperlab.model.weights import load_weights
from whisperlab.util.errors import ConfigurationError


class Clock:
    """Processor time that only the work of the transcribers takes."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Busy:
    def __init__(self, clock: Clock, took_s: float) -> None:
        self.clock, self.took_s = clock, took_s

    def process(self, chunk: object) -> None:
        self.clock.now_s += self.took_s


@pytest.mark.parametrize(
    "took_s,n,first,last",
    [
        (0.04, 1, 0.04, 0.04),
        (0.04, 2, 0.04, 0.04),  # the second arrives 50 ms after the first, when that is done
        (0.06, 2, 0.06, 0.06 + 9 * 0.02 + 0.01),  # 120 ms of work every 100 ms
        (0.2, 1, 0.2, 0.2 + 9 * 0.1),
    ],
)
def test_a_chunk_waits_for_all_work_before_it(
    took_s: float, n: int, first: float, last: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(streams.time, "process_time", clock)
    busy: Any = [Busy(clock, took_s) for _ in range(n)]
    delays, used_s = streams._delays(busy, [np.zeros(10 * CHUNK, np.float32)] * n)
    assert len(delays) == 10 * n
    assert (delays[0], delays[-1]) == (pytest.approx(first), pytest.approx(last))
    assert used_s == pytest.approx(10 * n * took_s)


def test_streams_need_audio() -> None:
    nothing: Any = None
    with pytest.raises(ConfigurationError, match="one or more recordings"):
        streams_figures(nothing, [], seconds=1.0)


@pytest.mark.model
def test_a_further_stream_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares the weights: base alone has 74 million parameters."""
    monkeypatch.setattr(streams, "MOST", 3)
    monkeypatch.setattr(streams, "BOUND_S", 100.0)
    *_, three = streams_figures(load_weights("base"), data.load("ivr-five", "dev")[:2], seconds=2.0)
    assert three.streams == 3
    assert three.mb_per_stream is not None
    assert three.mb_per_stream < 20


def test_the_command_counts_the_streams_that_are_carried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [
        StreamsFigure(1, 5.0, 0.4, 0.1, 0.5, None, carried=True),
        StreamsFigure(2, 5.0, 1.4, 2.0, 4.0, 5.0, carried=False),
    ]
    monkeypatch.setattr(streams, "streams_figures", lambda *_, **options: figures)
    monkeypatch.setattr("whisperlab.model.weights.load_weights", lambda name: None)
    assert main(["bench", "streams", "--limit", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["streams_per_core"], found["rows"][1]["carried"]) == (1, False)

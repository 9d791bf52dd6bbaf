"""The protocol of adapters: audio by the clock, the stream log, and costs without load and warm-up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperlab.evaluation.stream_log import read_streams
from whisperlab.experiments.systems.adapters import protocol
from whisperlab.experiments.systems.adapters.protocol import Stream

SLOW = """
import time

def load(request):
    time.sleep(0.3)

    def run(stream):
        for number, chunk in enumerate(stream.chunks(1.0)):
            time.sleep(0.05 if stream.duration > 3 else 0.3)
            stream.show(f" {number}", "more", "en")
        stream.show(f" {stream.duration:g}")

    return run
"""


def run(folder: Path, adapter: str, **request: Any) -> Path:
    (folder / "stand_in.py").write_text(adapter)
    np.save(folder / "audio.npy", np.zeros(5 * 16_000, np.float32))
    names = {"adapter": str(folder / "stand_in"), "audio": str(folder / "audio.npy"), "log": str(folder / "log.jsonl")}
    asked = json.dumps({**names, "recording": "scene", "system": "stand-in", "pace": "fast", **request})
    subprocess.run([sys.executable, "-P", protocol.__file__], input=asked, text=True, check=True, capture_output=True)
    return folder / "log.jsonl"


def test_a_log_has_what_was_shown_and_the_cost_of_the_recording_alone(tmp_path: Path) -> None:
    (trace,) = read_streams(run(tmp_path, SLOW))
    texts = [(event["at"], event["committed"], event["tentative"]) for event in trace.of_kind("text")]
    assert texts == [*((n + 1.0, f" {n}", "more") for n in range(5)), (5.0, " 5", "")]
    assert trace.header["config"] == {"system": "stand-in"}
    assert 0.25 <= trace.compute_s < 0.9  # five naps: neither the load, nor the warm-up, nor the waiting
    assert trace.processor_s is not None
    assert trace.processor_s < trace.compute_s
    assert trace.events[-1]["peak_rss_bytes"] > 10e6
    waits = [event["elapsed"] - event["at"] for event in trace.of_kind("text")]
    assert all(wait >= 0.05 for wait in waits)


def test_chunks_of_a_slow_system_queue_and_a_greedy_one_gets_all_that_was_spoken(monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for greedy, lengths, delays in (
        (False, [1, 1, 1, 1], [2.5, 4.0, 5.5, 7.0]),
        (True, [1, 1.5, 1.5], [2.5, 4.0, 5.5]),
    ):
        stream, sizes = Stream(np.zeros(4 * 16_000, np.float32), "fast"), []
        for chunk in stream.chunks(1.0, greedy=greedy):
            now[0] += 1.5  # seconds of computing for each second
            sizes.append(len(chunk) / 16_000)
            stream.show(" word")
        assert sizes == lengths
        assert [line["elapsed"] for line in stream.lines] == pytest.approx(delays)


def test_pace_real_waits_and_the_wait_is_no_computing() -> None:
    stream, began = Stream(np.zeros(4_800, np.float32), "real"), time.perf_counter()
    assert [len(chunk) for chunk in stream.chunks(0.1)] == [1600] * 3
    assert time.perf_counter() - began >= 0.3
    assert stream.waited_s > 0.2


def test_what_did_not_change_is_not_logged_again() -> None:
    stream = Stream(np.zeros(16_000, np.float32), "fast")
    for tentative in ("a", "a", "", ""):
        stream.show("", tentative)
    assert [line["tentative"] for line in stream.lines] == ["a", ""]


def test_a_whole_recording_gives_segments_whose_switches_are_decided_at_its_end(tmp_path: Path) -> None:
    adapter = """
def load(request):
    def run(stream):
        stream.segment(" one ", "en", 0.0, 2.0)
        stream.segment(" dos ", "es", 2.5, 2.4)
    return run
"""
    (trace,) = read_streams(run(tmp_path, adapter))
    assert [(s.text, s.language, s.start_time, s.end_time) for s in trace.segments] == [
        ("one", "en", 0.0, 2.0),
        ("dos", "es", 2.5, 2.5),
    ]
    assert [(s.time, s.decided_at) for s in trace.switches] == [(2.5, 5.0)]
    assert trace.committed == ()

"""The same audio gives the same, in whatever process, chunks and number of threads.

Each process has its own hash seed, and each run its own chunk lengths and compute threads.
``make test-long`` takes a minute of the recording instead of its beginning.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from whisperlab import SessionRestartTranscriber
from whisperlab.data import load
from whisperlab.data.audio_files import read_audio
from whisperlab.model.linear import has_bf16, has_int8
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

pytestmark = pytest.mark.model

CPU = torch.device("cpu")
PRECISIONS = ["fp32", *(["int8"] if has_int8(CPU) else []), *(["bf16"] if has_bf16(CPU) else [])]
ALIKE = ("fp32", "int8")  # whose results do not depend on the number of threads


def audio(heard_s: float) -> FloatArray:
    return read_audio(load("ivr-five", "dev")[0].audio_path)[: round(heard_s * SAMPLE_RATE)]


def heard(precision: str, threads: int, seed: int, heard_s: float) -> dict[str, Any]:
    """All that a transcriber says of the recording, fed by chunks of random lengths, as JSON gives it back."""
    rng, left, results = np.random.default_rng(seed), audio(heard_s), []
    transcriber = SessionRestartTranscriber("base", ["en", "es", "it", "ru"], precision=precision, threads=threads)
    while len(left):
        n = int(rng.integers(1, SAMPLE_RATE // 2))
        results.append(transcriber.process(left[:n]))
        left = left[n:]
    results.append(transcriber.finalize())
    return {
        "segments": [astuple(segment) for result in results for segment in result.segments],
        "switches": [astuple(switch) for result in results for switch in result.switches],
        "posteriors": [[f.end, list(f.posterior.values())] for result in results for f in result.frames],
    }


def main(precisions: Sequence[str], threads: Sequence[int], seed: int, heard_s: float) -> None:
    for n in threads:
        print(json.dumps({precision: heard(precision, n, seed + n, heard_s) for precision in precisions}))


@pytest.fixture(scope="module", params=[3.0, pytest.param(60.0, marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, base_model: Whisper, scene: Scene) -> dict[int, list[Any]]:
    """What processes said of some seconds, by their number of threads: one has one thread, and then two."""
    begun = [(threads, begin(threads, seed, request.param)) for seed, threads in enumerate(([1, 2], [2]))]
    found: dict[int, list[Any]] = {1: [], 2: []}
    for threads, process in begun:
        told, complaint = process.communicate(timeout=1800)
        assert process.returncode == 0, complaint
        for n, run in zip(threads, told.splitlines()[-len(threads) :], strict=True):
            found[n].append(json.loads(run))
    return found


def begin(threads: Sequence[int], seed: int, heard_s: float) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "2"}
    environment |= {"OMP_WAIT_POLICY": "passive"}  # on busy cores spinning threads take minutes
    command = [sys.executable, __file__, ",".join(PRECISIONS), ",".join(map(str, threads)), str(seed), str(heard_s)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_process_hears_the_same(runs: dict[int, list[Any]], precision: str) -> None:
    one, other = (run[precision] for run in runs[2])
    assert one["segments"] != []
    assert one == other


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name in ALIKE])
def test_two_threads_hear_what_one_hears(runs: dict[int, list[Any]], precision: str) -> None:
    assert runs[1][0][precision] == runs[2][1][precision]


@pytest.mark.skipif("bf16" not in PRECISIONS, reason="this processor does not multiply bfloat16")
def test_with_bfloat16_two_threads_hear_nearly_what_one_hears(runs: dict[int, list[Any]]) -> None:
    one, two = runs[1][0]["bf16"], runs[2][1]["bf16"]
    assert [end for end, _ in one["posteriors"]] == [end for end, _ in two["posteriors"]]
    apart = [
        np.abs(np.subtract(ours, theirs)).max()
        for (_, ours), (_, theirs) in zip(one["posteriors"], two["posteriors"], strict=True)
    ]
    assert max(apart) < 0.1
    assert [s[1] for s in one["segments"]] == [s[1] for s in two["segments"]]
    print(f"{sum(d > 0 for d in apart)} of {len(apart)} posteriors differ, by {max(apart):.4f} at most")


if __name__ == "__main__":
    main(sys.argv[1].split(","), [*map(int, sys.argv[2].split(","))], int(sys.argv[3]), float(sys.argv[4]))

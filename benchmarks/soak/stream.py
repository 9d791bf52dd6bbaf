"""Feeds a plan into one stream and logs it as JSON lines. Each line is on disk before the stream continues.

Stages are timed by two clocks. The CPU time of the thread is the cost of the work, independent of other processes. The
wall time is the waiting time of a user.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.soak import gauges
from benchmarks.soak.findings import LOG_SCHEMA
from benchmarks.soak.plan import BLOCK_TILES, TILE, Piece, Plan
from benchmarks.soak.sounds import Sounds
from whisperlab.evaluation.trace import provenance
from whisperlab.experiments.executors import Worker
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.engine import prepared
from whisperlab.model.weights import load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.timeline import SAMPLE_RATE, seconds

Measure = Callable[[], float | None]
Reference = Callable[[], AbstractContextManager[Measure]]
Samples = tuple[list[float], list[float]]  # milliseconds of CPU and wall time

CHUNK = SAMPLE_RATE // 10
COUNT_BLOCKS = 8  # blocks between two counts of all collections of the transcriber
_REFERENCE_S = 3.0  # seconds of speech


class StageTimes(PerformanceMetrics):
    """Timers that also keep every sample of CPU and wall time until `drain`. Only for one thread.

    ``processor`` is a clock of CPU time in nanoseconds.
    """

    __slots__ = ("kept", "processor")

    def __init__(self, processor: Callable[[], int] = time.thread_time_ns) -> None:
        self.processor = processor
        self.kept: dict[str, tuple[list[int], list[int]]] = {}  # nanoseconds of CPU and wall time
        super().__init__()
        self.kept.clear()  # without the samples of the calibration

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:  # type: ignore[override]
        """Time a ``with`` block or, as a decorator, every call of a function."""
        cpu, wall = self.kept.setdefault(operation, ([], []))
        with super().measure(operation):
            cpu_began, wall_began = self.processor(), time.perf_counter_ns()
            try:
                yield
            finally:
                cpu.append(self.processor() - cpu_began)
                wall.append(time.perf_counter_ns() - wall_began)

    def drain(self) -> dict[str, Samples]:
        """CPU and wall milliseconds of each operation since the last call."""
        found = {
            name: ([ns / 1e6 for ns in cpu], [ns / 1e6 for ns in wall])
            for name, (cpu, wall) in self.kept.items()
            if cpu
        }
        for samples in self.kept.values():
            for clock in samples:
                clock.clear()
        return found


TIMED = Parts(metrics=lambda *_: StageTimes())  # the parts of a transcriber for `soak`


def soak(
    transcriber: SessionRestartTranscriber,
    plan: Plan,
    sounds: Sounds,
    log: Path,
    *,
    reference: Reference = lambda: nullcontext(lambda: None),
    progress: Callable[[float], object] = lambda fed_s: None,
) -> bool:
    """Feed the plan and log it. Returns whether the plan was completed, that is, not interrupted.

    Args:
        transcriber: made with ``parts=TIMED``.
        log: the file of JSON lines to write; an existing file is replaced.
        reference: opened at the start of each compared window. In every block of the window it returns the
            milliseconds of a constant piece of work.
        progress: called after each block with the seconds of audio fed.
    """
    stages = transcriber.metrics
    assert isinstance(stages, StageTimes), "make the transcriber with parts=TIMED"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    _append(log, _header(transcriber, plan))
    soaking = _Soak(transcriber, stages, log)
    complete = True
    try:
        for piece, block in _blocks(plan, sounds, soaking.note):
            soaking.set_window(piece.part, reference)
            soaking.feed(piece, block)
            progress(soaking.fed_s)
    except KeyboardInterrupt:
        complete = False
    finally:
        soaking.close()
    _append(log, {"kind": "end", "at": soaking.fed_s, "whole": complete})
    return complete


def _header(transcriber: SessionRestartTranscriber, plan: Plan) -> dict[str, object]:
    return {
        "kind": "header",
        "schema": LOG_SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "config": transcriber.config(),
        "plan": {**asdict(plan), "warm_up_s": plan.warm_up_s, "duration_s": plan.duration_s},
        "chunk_ms": 1000 * CHUNK // SAMPLE_RATE,
        "threads": transcriber.config()["compute"]["threads"],
        "memory": gauges.memory(),
    }


def _blocks(plan: Plan, sounds: Sounds, note: Callable[[Piece], None]) -> Iterator[tuple[Piece, list[FloatArray]]]:
    """The tiles of all pieces in blocks, each with the piece of its first tile."""
    block: list[FloatArray] = []
    first: Piece | None = None
    for piece in plan.pieces():
        note(piece)
        for tile in sounds.tiles(piece):
            first = first or piece
            block.append(tile)
            if len(block) == BLOCK_TILES:
                yield first, block
                block, first = [], None


class _Soak:
    """A running soak: its progress, and the reference process of the current window."""

    def __init__(self, transcriber: SessionRestartTranscriber, stages: StageTimes, log: Path) -> None:
        self._transcriber, self._stages, self._log = transcriber, stages, log
        self._began, self._blocks = time.perf_counter(), 0
        self._open: AbstractContextManager[Measure] | None = None
        self._measure: Measure | None = None
        self._window = ""

    @property
    def fed_s(self) -> float:
        """Seconds of audio fed."""
        return seconds(self._blocks * BLOCK_TILES * TILE)

    def note(self, piece: Piece) -> None:
        """Log the start of a piece."""
        _append(
            self._log,
            {
                "kind": "piece",
                "at": piece.start_s,
                "duration_s": piece.duration_s,
                "part": piece.part,
                "sound": piece.kind,
            },
        )

    def set_window(self, part: str, reference: Reference) -> None:
        """Open the reference at the start of a compared window, and close it at its end."""
        window = part if part in ("first", "last") else ""
        if window == self._window:
            return
        self.close()
        self._window = window
        if window:
            self._open = reference()
            self._measure = self._open.__enter__()

    def close(self) -> None:
        """Close the reference."""
        if self._open:
            self._open.__exit__(None, None, None)
        self._open = self._measure = None

    def feed(self, piece: Piece, block: list[FloatArray]) -> None:
        """Feed a block, and log its cost."""
        self._stages.drain()
        for tile in block:
            for chunk in chunks(tile, CHUNK):
                self._transcriber.process(chunk)
        self._blocks += 1
        _append(self._log, self._sample(piece.part, self._stages.drain()))

    def _sample(self, part: str, taken: Mapping[str, Samples]) -> dict[str, object]:
        sample: dict[str, object] = {
            "kind": "sample",
            "at": self.fed_s,
            "elapsed": round(time.perf_counter() - self._began, 3),
            "part": part,
            "memory": gauges.memory(),
            "chunk": {
                clock: [round(float(ms), 4) for ms in (*np.percentile(of, (50, 95, 99)), max(of), sum(of))]
                for clock, of in zip(("cpu", "wall"), taken["chunk.total"], strict=True)
            },
            "stages": {
                name: [len(cpu), round(sum(cpu), 4), round(sum(wall), 4)] for name, (cpu, wall) in taken.items()
            },
        }
        if self._measure:
            sample["yardstick_ms"] = self._measure()
            sample["raw"] = {name: [_rounded(cpu), _rounded(wall)] for name, (cpu, wall) in taken.items()}
        if self._blocks % COUNT_BLOCKS == 0:
            statistics = self._transcriber.get_statistics()
            sample["containers"] = gauges.containers(self._transcriber)
            sample["bounds"] = gauges.bounds(statistics)
            sample["sessions"] = statistics["sessions"]
        return sample


def _append(log: Path, line: Mapping[str, object]) -> None:
    """Add a line of JSON to a file; it is on disk when this returns."""
    with log.open("ab") as file:
        file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


@contextmanager
def reference_process(model: str, speech: FloatArray, language: str) -> Iterator[Measure]:
    """A fresh process. Each call decodes the same speech there and returns the milliseconds of CPU time.

    The process is equally fresh in both windows, so that a difference between them comes from the machine.
    """
    clip = speech[: round(_REFERENCE_S * SAMPLE_RATE)]
    with Worker(partial(_reference_work, model, clip, language)) as worker:
        yield lambda: worker.submit(None).result()


def _reference_work(model: str, speech: FloatArray, language: str) -> Callable[[None], float]:
    decoder = SpeechDecoder(*prepared(load_weights(model)), DecodingOptions(), PerformanceMetrics())

    def work(_: None) -> float:
        began = time.thread_time_ns()
        decoder.decode(speech, 0, language)
        return (time.thread_time_ns() - began) / 1e6

    for _ in range(3):
        work(None)
    return work

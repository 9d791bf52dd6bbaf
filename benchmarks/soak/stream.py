"""One stream fed with a plan, and the log of it: JSON lines that are on disk as soon as what they tell has happened.

Stages are timed by two clocks at once. The processor time of the thread says what the work costs, whatever else the
machine does; the wall says what a listener waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from benchmarks.soak import gauges
from benchmarks.soak.findings import LOG_SCHEMA
from benchmarks.soak.plan import BLOCK_TILES, TILE, Piece, Plan
from benchmarks.soak.sounds import Sounds
from whisperlab.evaluation.trace import provenance
from whisperlab.experiments.results_store import append
from whisperlab.experiments.worker_pool import Nursery
from whisperlab.metrics import PerformanceMetrics, Timing
from whisperlab.model.engine import prepared
from whisperlab.model.weights import load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.timeline import SAMPLE_RATE, seconds

P = ParamSpec("P")
R = TypeVar("R")
Measure = Callable[[], float | None]
Yardstick = Callable[[], AbstractContextManager[Measure]]

CHUNK = SAMPLE_RATE // 10
LOOK_BLOCKS = 8  # every so many blocks all that the transcriber collects is counted, too
_YARDSTICK_S = 3.0  # of speech


class StageTimes(PerformanceMetrics):
    """Timers that also keep every sample, by both clocks, until it is taken away: for one thread.

    ``processor`` counts nanoseconds of its time.
    """

    __slots__ = ("processor", "taken")

    def __init__(self, processor: Callable[[], int] = time.thread_time_ns) -> None:
        self.processor = processor
        self.taken: dict[str, tuple[list[int], list[int]]] = {}  # nanoseconds, processor and wall
        super().__init__()
        self.taken.clear()  # of the calibration

    def drain(self) -> dict[str, tuple[list[float], list[float]]]:
        """Milliseconds of each operation since the last call, processor time and wall."""
        found = {
            name: ([ns / 1e6 for ns in cpu], [ns / 1e6 for ns in wall])
            for name, (cpu, wall) in self.taken.items()
            if cpu
        }
        for cpu, wall in self.taken.values():
            cpu.clear()
            wall.clear()
        return found

    def _timing(self, operation: str) -> Timing:
        samples = self.taken.setdefault(operation, ([], []))
        timing = _Both(self._operation(operation), self._clock, self.processor, samples)
        self._of_thread.timings.setdefault(operation, timing)
        return timing


class _Both(Timing):
    """A stopwatch on two clocks."""

    __slots__ = ("_clocks", "_running", "_samples")

    def __init__(
        self,
        operation: Any,
        clock: Callable[[], int],
        processor: Callable[[], int],
        samples: tuple[list[int], list[int]],
    ) -> None:
        super().__init__(operation, clock)
        self._clocks, self._samples = (processor, clock), samples
        self._running: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        super().__enter__()
        processor, wall = self._clocks
        self._running.append((processor(), wall()))

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for kept, clock, began in zip(self._samples, self._clocks, self._running.pop(), strict=True):
            kept.append(clock() - began)
        super().__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return timed


class SoakedTranscriber(SessionRestartTranscriber):
    """The transcriber as it is, timed by `StageTimes`."""

    metrics: StageTimes

    def __init__(self, *args: Any, parts: Parts = Parts(), **options: Any) -> None:
        super().__init__(*args, parts=replace(parts, metrics=lambda *_: self.make_timers()), **options)

    def make_timers(self) -> StageTimes:
        """The timers of the stages."""
        return StageTimes()


def soak(
    transcriber: SoakedTranscriber,
    plan: Plan,
    sounds: Sounds,
    log: Path,
    *,
    yardstick: Yardstick = lambda: nullcontext(lambda: None),
    progress: Callable[[float], object] = lambda heard_s: None,
) -> bool:
    """Feed the whole plan and log it; returns whether it was heard to its end, and not interrupted.

    Args:
        log: the file of JSON lines to write; one that is there is replaced.
        yardstick: opened at the begin of each window that is compared; asked in every block of it for the milliseconds
            that one piece of work takes which is always the same.
        progress: is called after each block with the seconds of audio heard.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    append(log, _header(transcriber, plan))
    soaking = _Soak(transcriber, log)
    whole = True
    try:
        for piece, block in _blocks(plan, sounds, soaking.note):
            soaking.measured(piece.part, yardstick)
            soaking.hear(piece, block)
            progress(soaking.heard_s)
    except KeyboardInterrupt:
        whole = False
    finally:
        soaking.close()
    append(log, {"kind": "end", "at": soaking.heard_s, "whole": whole})
    return whole


def _header(transcriber: SessionRestartTranscriber, plan: Plan) -> dict[str, Any]:
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


def _blocks(
    plan: Plan, sounds: Sounds, note: Callable[[Piece], None]
) -> Iterator[tuple[Piece, list[FloatArray]]]:
    """The tiles of all pieces, some at a time, with the piece that the first of them is of."""
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
    """The stream under way: what was heard of it, and the clocks around it."""

    def __init__(self, transcriber: SoakedTranscriber, log: Path) -> None:
        self._transcriber, self._log = transcriber, log
        self._began, self._blocks = time.perf_counter(), 0
        self._open: AbstractContextManager[Measure] | None = None
        self._measure: Measure | None = None
        self._window = ""

    @property
    def heard_s(self) -> float:
        """Seconds of audio heard."""
        return seconds(self._blocks * BLOCK_TILES * TILE)

    def note(self, piece: Piece) -> None:
        """A piece begins."""
        append(
            self._log,
            {
                "kind": "piece",
                "at": piece.start_s,
                "duration_s": piece.duration_s,
                "part": piece.part,
                "sound": piece.kind,
            },
        )

    def measured(self, part: str, yardstick: Yardstick) -> None:
        """Open the yardstick where a window that is compared begins, close it where that ends."""
        window = part if part in ("first", "last") else ""
        if window == self._window:
            return
        self.close()
        self._window = window
        if window:
            self._open = yardstick()
            self._measure = self._open.__enter__()

    def close(self) -> None:
        """Let go of the yardstick."""
        if self._open:
            self._open.__exit__(None, None, None)
        self._open = self._measure = None

    def hear(self, piece: Piece, block: list[FloatArray]) -> None:
        """Feed a block, and log what it cost."""
        metrics = self._transcriber.metrics
        metrics.drain()
        for tile in block:
            for chunk in chunks(tile, CHUNK):
                self._transcriber.process(chunk)
        self._blocks += 1
        append(self._log, self._sample(piece.part, metrics.drain()))

    def _sample(self, part: str, taken: Mapping[str, tuple[list[float], list[float]]]) -> dict[str, Any]:
        sample: dict[str, Any] = {
            "kind": "sample",
            "at": self.heard_s,
            "elapsed": round(time.perf_counter() - self._began, 3),
            "part": part,
            "memory": gauges.memory(),
            "chunk": {
                clock: [round(float(ms), 4) for ms in (*np.percentile(of, (50, 95, 99)), max(of), sum(of))]
                for clock, of in zip(("cpu", "wall"), taken["chunk.total"], strict=True)
            },
            "stages": {
                name: [len(cpu), round(sum(cpu), 4), round(sum(wall), 4)]
                for name, (cpu, wall) in taken.items()
            },
        }
        if self._measure:
            sample["yardstick_ms"] = self._measure()
            sample["raw"] = {name: [_rounded(cpu), _rounded(wall)] for name, (cpu, wall) in taken.items()}
        if self._blocks % LOOK_BLOCKS == 0:
            statistics = self._transcriber.get_statistics()
            sample["containers"] = gauges.containers(self._transcriber)
            sample["bounds"] = gauges.bounds(statistics)
            sample["sessions"] = statistics["sessions"]
        return sample


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


@contextmanager
def young_process(model: str, speech: FloatArray, language: str) -> Iterator[Measure]:
    """A process just started that decodes some speech whenever it is asked: milliseconds of its processor time.

    It is as old at the end of a soak as it was at the beginning. So what has changed between two of its answers is the
    machine.
    """
    clip = speech[: round(_YARDSTICK_S * SAMPLE_RATE)]
    with Nursery(partial(_yardstick, model, clip, language)) as nursery:
        worker = nursery.hire()

        def measure() -> float:
            worker.give(None)
            return worker.result()

        yield measure


def _yardstick(model: str, speech: FloatArray, language: str) -> Callable[[None], float]:
    decoder = SpeechDecoder(*prepared(load_weights(model)), DecodingOptions(), PerformanceMetrics())

    def work(_: None) -> float:
        began = time.thread_time_ns()
        decoder.decode(speech, 0, language)
        return (time.thread_time_ns() - began) / 1e6

    for _ in range(3):
        work(None)
    return work

"""Sweeps on nodes that do not see our files: audio goes out with the tasks, traces come back with the rows."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whisperlab.experiments.executors import Lost, RayCluster
from whisperlab.experiments.results_store import Row
from whisperlab.experiments.sweep import MakeTranscriber, Task, run_task
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.files import write_atomic


class Shipping:
    """A Ray cluster whose nodes do not see our files: audio goes out through its object store, traces come back.

    Weights are taken from the cache of each node.
    """

    def __init__(self, out: Path, load: Callable[[], MakeTranscriber], address: str, **options: Any) -> None:
        self._out = out
        self._cluster: RayCluster[Task, tuple[Row, bytes | None]] = RayCluster(
            partial(_visitor, load), address, luggage=_audio_of, **options
        )

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Row | Lost], None, None]:
        """In the order in which they are done."""
        with closing(self._cluster.run(tasks)) as results:
            for task, result in results:
                if isinstance(result, Lost):
                    yield task, result
                    continue
                row, trace = result
                if trace is not None:
                    write_atomic(self._out / row["trace"], gzip.decompress(trace))
                yield task, row


def _audio_of(task: Task) -> tuple[str, Callable[[], FloatArray]]:
    return task.audio_sha256, task.recording.audio


def _visitor(load: Callable[[], MakeTranscriber]) -> Callable[[Task, FloatArray], tuple[Row, bytes | None]]:
    """What a worker does on a node without our files: the row, and the trace as compressed bytes."""
    make_transcriber = load()

    def work(task: Task, audio: FloatArray) -> tuple[Row, bytes | None]:
        with TemporaryDirectory(prefix="whisperlab-") as folder:
            row = run_task(task, Path(folder), make_transcriber, audio=audio)
            return row, gzip.compress((Path(folder) / row["trace"]).read_bytes()) if row["trace"] else None

    return work

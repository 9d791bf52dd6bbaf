"""What the page of a profile is made of; processes that are profiled import this and little else."""

from __future__ import annotations

from typing import Any

import numpy as np

from whisperlab.streaming.results import ProcessResult

MIB = 2**20


class Holder:
    """Holds 32 MiB, and multiplies a little with each chunk."""

    def __init__(self) -> None:
        import torch  # noqa: F401 - not while chunks are timed

        self.weights = np.ones(32 * MIB, np.uint8)

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        import torch

        np.ones(200_000) @ np.ones(200_000)
        torch.ones(200, 200) @ torch.ones(200, 200)
        return ProcessResult("", "", None)

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", None)

    def get_statistics(self) -> dict[str, Any]:
        operation = {"count": 10, "total": 10.0, "p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
        return {"performance": {"chunk.total": operation}}

    def config(self) -> dict[str, Any]:
        return {}

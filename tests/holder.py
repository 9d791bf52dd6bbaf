"""What the page of a profile is made of; processes that are profiled import this and little else."""

from __future__ import annotations

from typing import Any

import numpy as np

from whisperlab.streaming.results import ProcessResult

MIB = 2**20
HELD = 128 * MIB


class Holder:
    """Holds more than memory figures may differ by, and multiplies a little with each chunk; with torch on request."""

    def __init__(self, with_torch: bool = False) -> None:
        if with_torch:
            import torch  # noqa: F401 - not while chunks are timed

        self.with_torch = with_torch
        self.weights = np.ones(HELD, np.uint8)

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        np.ones(200_000) @ np.ones(200_000)
        if self.with_torch:
            import torch

            torch.ones(200, 200) @ torch.ones(200, 200)
        return ProcessResult("", "", None)

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", None)

    def get_statistics(self) -> dict[str, Any]:
        operation = {"count": 10, "total": 10.0, "p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}
        return {"performance": {"chunk.total": operation}}

    def config(self) -> dict[str, Any]:
        return {}

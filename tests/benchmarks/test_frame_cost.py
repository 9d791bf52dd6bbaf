"""The cost of one language-ID frame, and the arithmetic of the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.frame_cost import encoder_flop, frame_figures
from whisperlab.experiments.ablation import Models
from whisperlab.model.weights import load_weights

if TYPE_CHECKING:
    from conftest import Scene


@pytest.mark.model
def test_the_work_of_the_encoder_is_that_of_the_evidence() -> None:
    """87 GFLOP for 30 s of base, 4.1 for 2 s, counted independently."""
    weights = load_weights("base")
    assert encoder_flop(weights.dims, 1500) / 1e9 == pytest.approx(87, rel=0.03)
    assert encoder_flop(weights.dims, 100) / 1e9 == pytest.approx(4.1, rel=0.03)


@pytest.mark.model
@pytest.mark.slow
def test_a_frame_takes_a_fraction_of_the_time_of_detect_language(scene: Scene) -> None:
    figures = frame_figures(Models("base", ("en", "es")), scene.audio, rounds=6)
    assert figures[0].figure.startswith("openai-whisper's detect_language / a frame")
    assert figures[0].value > 10  # some 60 on two cores with AVX-512: far from 1 wherever it runs
    assert figures[-1].value > 0

"""Scaling curves: a point for every condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.figures import scaling_figure
from benchmarks.scaling import scaling
from whisperlab.experiments.ablation import Models
from whisperlab.report.figure import to_svg

if TYPE_CHECKING:
    from conftest import Scene


@pytest.mark.model
@pytest.mark.parametrize("some", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "all"])
def test_scaling_curves_have_a_point_for_every_condition(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, some: bool
) -> None:
    if some:
        for name, values in (("WINDOWS_S", (0.5, 2.0)), ("BATCHES", (1, 2)), ("SIZES", {"tiny": (384, 6, 4)})):
            monkeypatch.setattr(f"benchmarks.scaling.{name}", values)
    points = scaling(Models("base"), scene.audio, rounds=1, stream_s=10.0 if some else 20.0)
    by_curve = {(point.curve, point.line): 0 for point in points}
    for point in points:
        by_curve[point.curve, point.line] += 1
        assert point.ms > 0
    assert list(by_curve.values()) == ([2, 2, 2, 2, 4, 1, 1] if some else [8, 8, 4, 4, 4, 3, 2])
    figure = scaling_figure(points)
    assert "languages allowed" in to_svg(figure, "scaling", "words")
    shown = [axes.get_visible() for axes in figure.axes]
    assert shown.count(True) == len({point.curve for point in points})

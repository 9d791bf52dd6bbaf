"""Figures of accuracy: every number stands where it belongs, with its interval."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from benchmarks.language_window.calibration import reliability
from benchmarks.language_window.figures import (
    accuracy_curves_figure,
    accuracy_map_figure,
    cost_figure,
    reliability_figure,
)
from whisperlab.evaluation.scoring import wilson
from whisperlab.report.figure import to_svg


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_cell_of_the_map_tells_its_share_and_interval_and_an_unmeasured_one_nothing() -> None:
    figure = accuracy_map_figure({"five": {(1.0, 0.0): (5, 10), (2.0, 0.0): (9, 10), (2.0, 0.5): (10, 10)}})
    (axes,) = figure.axes
    told = {(text.get_position()[0], int(text.get_position()[1])): [] for text in axes.texts}
    for text in axes.texts:
        told[text.get_position()[0], int(text.get_position()[1])].append(text.get_text())
    low, high = wilson(5, 10)
    assert told == {
        (0.5, 0): ["50 %", f"{100 * low:.0f}–{100 * high:.0f}"],
        (0.5, 1): ["90 %", "60–98"],
        (1.5, 1): ["100 %", "72–100"],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2"]


def test_a_map_has_a_panel_for_each_corpus() -> None:
    figure = accuracy_map_figure({"five": {(1.0, 0.0): (5, 10)}, "two": {(1.0, 0.0): (7, 10)}})
    assert [axes.get_title() for axes in figure.axes] == ["five", "two"]


def test_curves_name_every_rule_and_keep_their_intervals_on_the_scale() -> None:
    rules = {"all": {1.0: (0, 10), 2.0: (5, 10)}, "allowed": {1.0: (5, 10), 2.0: (10, 10)}}
    figure = accuracy_curves_figure({"five": rules})
    (axes,) = figure.axes
    assert legend(figure) == ["all", "allowed"]
    segments = [end for bars in axes.collections for line in bars.get_segments() for _, end in line]
    assert min(segments) >= 0
    assert max(segments) <= 100
    assert len(segments) == 2 * 4


POINTS = {
    "cheap": (0.5, (6, 10)),
    "beaten": (0.8, (5, 10)),
    "chosen": (1.0, (8, 10)),
    "as dear": (1.0, (7, 10)),
    "no better": (1.5, (8, 10)),
    "best": (2.0, (9, 10)),
}


def test_the_line_joins_what_nothing_beats() -> None:
    (axes,) = cost_figure(POINTS, "chosen").axes
    front = axes.lines[0]
    assert list(front.get_xdata()) == [0.5, 1.0, 2.0]
    assert list(front.get_ydata()) == pytest.approx([60, 80, 90])
    assert [text.get_text() for text in axes.texts] == ["cheap", "chosen", "best"]


def test_the_chosen_one_is_named_even_when_beaten() -> None:
    (axes,) = cost_figure(POINTS, "beaten").axes
    assert "beaten" in [text.get_text() for text in axes.texts]
    assert "beaten" in axes.get_xlabel()


def test_reliability_is_drawn_beside_the_line_where_confidence_means_what_it_says() -> None:
    bins = reliability([0.15, 0.95, 0.95], [False, True, True], 10)
    figure = reliability_figure({"before": bins})
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [0, 100]
    assert list(axes.lines[1].get_xdata()) == pytest.approx([15, 95])
    assert list(axes.lines[1].get_ydata()) == [0, 100]
    assert legend(figure) == ["before"]


def test_every_curve_becomes_a_drawing_for_the_page() -> None:
    drawn = to_svg(cost_figure(POINTS, "chosen"), "cost", "words for it")
    assert re.search('<svg[^>]* role="img" aria-label="words for it"', drawn)

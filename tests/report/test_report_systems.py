"""The picture of systems: latency against errors, on axes that fit the values."""

from __future__ import annotations

import pytest

from whisperlab.report.systems import ERRORS, LATENCY, systems_figure


@pytest.mark.parametrize("errors, logarithmic", [((0.25, 3.05), True), ((0.0, 3.05), False)])
def test_axes_are_logarithmic_where_all_values_allow_it(errors: tuple[float, float], logarithmic: bool) -> None:
    rows = [{"system": name, LATENCY: 2.0, ERRORS: rate} for name, rate in zip(("quick", "slow"), errors, strict=True)]
    figure = systems_figure(rows)
    assert figure is not None
    assert figure.spec is not None
    assert ("logarithmic" in figure.caption) == logarithmic
    scales = [figure.spec["encoding"][axis]["scale"] for axis in ("x", "y")]
    assert scales == [{"type": "log"} if logarithmic else {"zero": False, "padding": 20}] * 2


def test_one_system_has_no_picture() -> None:
    assert systems_figure([{"system": "alone", LATENCY: 2.0, ERRORS: 0.25}]) is None

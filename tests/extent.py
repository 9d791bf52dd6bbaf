"""How far a test goes: a little in every run of the tests, and at length with ``make test-long``."""

from __future__ import annotations

from typing import Any

import pytest


def in_short_and_at_length(name: str, short: Any, long: Any) -> pytest.MarkDecorator:
    """A parameter with a value for every run and one that takes minutes, marked ``slow``."""
    return pytest.mark.parametrize(name, [short, pytest.param(long, marks=pytest.mark.slow)])

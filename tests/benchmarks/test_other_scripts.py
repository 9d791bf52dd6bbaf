"""Defects of text in other scripts: what counts as doubled, and as another script."""

from __future__ import annotations

import pytest

from benchmarks.other_scripts import doubled, foreign
from whisperlab.evaluation.scoring import units


@pytest.mark.parametrize(
    "text, n", [("", 0), ("学生们看书", 0), ("人人生而自由", 1), ("学生们学生们看书", 1), ("सब सब ठीक", 1)]
)
def test_a_run_that_follows_itself_is_doubled(text: str, n: int) -> None:
    assert doubled(units(text)) == n


@pytest.mark.parametrize(
    "language, text, found",
    [
        ("zh", "今天，下雨。3", ""),
        ("ja", "コンピューターの使い方", ""),
        ("ko", "비사plita.", "plita"),
        ("hi", "यह ہے ok", "ہےok"),
        ("ar", "السَّلام", ""),
    ],
)
def test_letters_of_other_scripts_are_found(language: str, text: str, found: str) -> None:
    assert foreign(text, language) == found

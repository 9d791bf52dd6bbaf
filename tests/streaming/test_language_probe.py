"""Posteriors of windows: languages found in the stream weigh more, where many are allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

from whisperlab.cache import EncoderCache
from whisperlab.config import TranscriberConfig
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import Encoded
from whisperlab.streaming.language_id import check_languages
from whisperlab.streaming.language_probe import LanguageEncoder
from whisperlab.util.timeline import Span

ALL = check_languages(None)


class NoFeatures:
    """An encoder whose features are zeros."""

    def reset_counts(self) -> None: ...

    def encode_batch(self, windows: list[np.ndarray], margin: int, pool_after: int | None) -> list[Encoded]:
        return [Encoded(torch.zeros(1, 1), len(window)) for window in windows]


@dataclass
class Undecided:
    """An identifier to which all languages are equally likely."""

    languages: tuple[str, ...]

    def posterior(self, features: torch.Tensor) -> np.ndarray:
        return np.full(len(self.languages), 1 / len(self.languages))


def weights(languages: tuple[str, ...], found_s: dict[str, float], named: bool = True) -> dict[str, float]:
    """What each language weighs against the last of the list, once others were found for so long."""
    config = TranscriberConfig(languages=languages if named else None)
    parts: tuple[Any, ...] = (NoFeatures(), Undecided(languages))
    probe = LanguageEncoder(config, *parts, EncoderCache(), cast("Any", PerformanceMetrics()))
    probe.begin()
    for code, seconds in found_s.items():
        probe.evidence[languages.index(code)] += seconds
    ((posterior, _),) = probe.posteriors([Span(0, 1600)], [np.zeros(1600, np.float32)])
    assert posterior.sum() == pytest.approx(1)
    return dict(zip(languages, posterior / posterior[-1], strict=True))


@pytest.mark.parametrize("n", [5, 20, 98])
def test_at_first_all_named_languages_weigh_the_same(n: int) -> None:
    assert set(weights(ALL[:n], {}).values()) == {1.0}


@pytest.mark.parametrize("n, ratio", [(5, 1.0), (6, 6 / 5), (20, 4.0), (99, 10.0)])
def test_a_found_language_weighs_more_the_more_are_allowed(n: int, ratio: float) -> None:
    assert weights(ALL[:n], {ALL[1]: 3.0})[ALL[1]] == pytest.approx(ratio)


def test_a_language_found_for_longer_does_not_weigh_more() -> None:
    found = weights(ALL[:20], {ALL[0]: 3.0, ALL[1]: 300.0})
    assert found[ALL[0]] == found[ALL[1]]


@pytest.mark.parametrize("spanish_s, share", [(0.0, 0.1), (1.2, 0.5), (3.0, 1.0), (300.0, 1.0)])
def test_of_all_languages_english_loses_its_bias_as_far_as_another_was_found(spanish_s: float, share: float) -> None:
    found = weights(ALL, {"en": 3.0, "es": spanish_s}, named=False)
    assert found["en"] == pytest.approx(10 * math.exp(-3 * share))


def test_of_named_languages_english_weighs_as_any_other() -> None:
    languages = ("en", "es", *ALL[-18:])
    found = weights(languages, {"en": 3.0, "es": 3.0})
    assert found["en"] == found["es"] == pytest.approx(4.0)

"""Ablation: the cost and accuracy of the pipeline with each optimisation switched off in turn, on the same audio.

Three kinds of measurement run separately, because each would distort the others: *time* (all variants take turns on the
same stretches of speech, with nothing else running), *memory* (each variant in a fresh process) and *accuracy* (whole
recordings, scored as any other system). Times are reported as ratios to the reference pipeline over the same chunks;
their intervals resample blocks of a few seconds, because neighbouring chunks are alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whisperlab.experiments.ablation.results import (
    Ablation,
    check_claims,
    limits,
    operation_rows,
    readable,
    variant_row,
)
from whisperlab.experiments.ablation.timing import (
    as_system,
    beside_offline,
    frame_figures,
    hit_figures,
    memory_of,
    timings,
)
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE, SLOW, VARIANTS, Models, select_variants
from whisperlab.experiments.other_systems import interleaved, summarise
from whisperlab.experiments.systems import Say
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisperlab.data import Recording

__all__ = [
    "BEFORE",
    "DEFAULT",
    "GUIDE",
    "VARIANTS",
    "Ablation",
    "Models",
    "limits",
    "measure",
    "readable",
    "select_variants",
]

STRETCH_S = 15.0  # timed audio of each recording; the reference pipeline takes over a minute for it


def measure(
    recordings: Sequence[Recording],
    *,
    names: Iterable[str] | None = None,
    model: str = "base",
    stretch_s: float = STRETCH_S,
    memory: bool | Collection[str] = True,
    accuracy: Sequence[Recording] = (),
    accuracy_names: Iterable[str] | None = None,
    offline: bool = False,
    rounds: int = 31,
    rng: np.random.Generator | None = None,
    say: Say = lambda line: None,
) -> Ablation:
    """Measure the variants on the beginnings of some recordings.

    Args:
        recordings: all variants are timed on the first ``stretch_s`` seconds of each.
        names: the variants, see `select_variants`.
        memory: also run each variant in a fresh process; or the names of those to run.
        accuracy: recordings to score the variants on, except those slower than real time (`SLOW`).
        accuracy_names: the variants to score; None for all.
        offline: also interleave faster-whisper on the same stretches (`beside_offline`).
        rounds: of one language-ID frame beside openai-whisper's.
        rng: for the intervals.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to measure on")
    variants, rng = select_variants(names), rng or np.random.default_rng(0)
    languages = sorted({language for recording in recordings for language in recording.languages})
    models = Models(model, languages)
    stretches = [recording.audio()[: samples(stretch_s)] for recording in recordings]
    times = timings(stretches, variants, models, say=say)
    caches: dict[str, list[Json]] = {}
    fast = [one for one in variants if one.name not in SLOW]
    scored = [one for one in fast if accuracy_names is None or one.name in accuracy_names]
    results = list(interleaved(accuracy, {one.name: as_system(one, models, caches) for one in scored}, say=say))
    scores = {row["system"]: row for row in summarise(results, accuracy, rng)}
    bytes_of = {}
    for variant in variants:
        if memory is True or (memory and variant.name in memory):
            bytes_of[variant.name] = memory_of(variant, models, recordings[0], stretch_s)
            say(f"{variant.name}: {bytes_of[variant.name].peak / 1e6:.0f} MB above the libraries")
    rows = [variant_row(one, times, bytes_of.get(one.name), scores.get(one.name, {}), rng) for one in variants]
    operations = [row for one in variants for row in operation_rows(one.name, times[one.name])]
    say("one language-ID frame beside openai-whisper's detect_language")
    figures = frame_figures(models, stretches[0], rounds)
    if offline:
        say("beside faster-whisper")
        figures += beside_offline(stretches, models, say=say)
    for name, statistics in caches.items():
        figures += hit_figures(name, statistics)
    claims = check_claims(times, bytes_of, rng)
    return Ablation(tuple(rows), tuple(operations), tuple(claims), tuple(figures))

"""Ablation: the cost and accuracy of the pipeline with each optimisation switched off in turn, on the same audio.

Three kinds of measurement run separately, because each would distort the others: *time* (all variants take turns on the
same stretches of speech, with nothing else running), *memory* (each variant in a fresh process) and *accuracy* (whole
recordings, scored as any other system). Times are reported as ratios to the reference pipeline over the same chunks;
their intervals resample blocks of a few seconds, because neighbouring chunks are alike.
"""

from __future__ import annotations

from whisperlab.experiments.ablation.running import measure
from whisperlab.experiments.ablation.scaling import scaling
from whisperlab.experiments.ablation.table import Ablation, readable
from whisperlab.experiments.ablation.variants import BEFORE, DEFAULT, GUIDE, VARIANTS, Models, select_variants

__all__ = [
    "BEFORE",
    "DEFAULT",
    "GUIDE",
    "VARIANTS",
    "Ablation",
    "Models",
    "measure",
    "readable",
    "scaling",
    "select_variants",
]

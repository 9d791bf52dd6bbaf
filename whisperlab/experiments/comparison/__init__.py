"""Compare two variants: configurations are run in turns, sweeps are compared by their rows."""

from __future__ import annotations

from whisperlab.experiments.comparison.measures import MEASURES, Finding, Measure, Outcome
from whisperlab.experiments.comparison.running import compare_configurations, compare_systems
from whisperlab.experiments.comparison.sweeps import compare_sweeps
from whisperlab.experiments.comparison.variants import read_configuration, read_options

__all__ = [
    "MEASURES",
    "Finding",
    "Measure",
    "Outcome",
    "compare_configurations",
    "compare_sweeps",
    "compare_systems",
    "read_configuration",
    "read_options",
]

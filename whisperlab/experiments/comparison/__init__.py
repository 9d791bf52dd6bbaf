"""Two sides against each other, and what may be said of the outcome: configurations, revisions of the code, sweeps.

Configurations of this whisperlab run in one process; with a revision on either side each runs in a process of its own,
still in turns. Two sweeps are compared by the rows they hold.
"""

from __future__ import annotations

from whisperlab.experiments.comparison.measures import MEASURES, Finding, Measure, Outcome
from whisperlab.experiments.comparison.running import contest
from whisperlab.experiments.comparison.sweeps import compare_sweeps
from whisperlab.experiments.comparison.variants import Side, json_options

__all__ = ["MEASURES", "Finding", "Measure", "Outcome", "Side", "compare_sweeps", "contest", "json_options"]

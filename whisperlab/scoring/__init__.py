"""What a recogniser got right: text, language labels, switches, delays. Counts add up first, then divide.

Nothing here needs a model: scores are made from traces, or from plain lists for any other recogniser.
"""

from __future__ import annotations

from whisperlab.scoring.language import TOLERANCES_S, WIDEST_S, Boundary, match_switches, true_switches
from whisperlab.scoring.summary import Score, bootstrap_interval, pooled, score, score_trace
from whisperlab.scoring.text import Aligned, TextCounts, align, units

__all__ = [
    "TOLERANCES_S",
    "WIDEST_S",
    "Aligned",
    "Boundary",
    "Score",
    "TextCounts",
    "align",
    "bootstrap_interval",
    "match_switches",
    "pooled",
    "score",
    "score_trace",
    "true_switches",
    "units",
]

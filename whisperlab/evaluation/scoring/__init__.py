"""Scoring of traces, or of plain lists of any recogniser. Counts are summed first and divided afterwards."""

from whisperlab.evaluation.scoring.language import Boundary, match_switches, true_switches
from whisperlab.evaluation.scoring.latency import response_p95
from whisperlab.evaluation.scoring.summary import Score, bootstrap_intervals, pooled, rate_row, score, score_trace
from whisperlab.evaluation.scoring.text import TextCounts, align, normalizer_name, units
from whisperlab.util.statistics import wilson

__all__ = ["Boundary", "Score", "TextCounts", "align", "bootstrap_intervals", "match_switches", "normalizer_name"]
__all__ += ["pooled", "rate_row", "response_p95", "score", "score_trace", "true_switches", "units", "wilson"]

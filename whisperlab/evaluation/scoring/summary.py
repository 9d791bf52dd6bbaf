"""The score of a recording: counts that can be summed over recordings, and the rates computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whisperlab.evaluation.scoring.language import (
    TOLERANCES_S,
    WIDEST_S,
    LabelTime,
    block_misses,
    frame_labels,
    label_time,
    match_switches,
    segment_labels,
    true_switches,
)
from whisperlab.evaluation.scoring.latency import ComputeTime, percentile, word_latencies
from whisperlab.evaluation.scoring.text import (
    SwitchText,
    TextCounts,
    add_by_language,
    align,
    normalizer_name,
    switch_text,
    text_counts,
)
from whisperlab.evaluation.trace import Reference, Trace
from whisperlab.streaming.results import LanguageFrame, SessionSegment, Switch
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json, JsonValue, to_json
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.validation import is_number, shown

RateTree: TypeAlias = dict[str, Any]  # rates by name; some are objects with one rate per language or block


@dataclass(slots=True, frozen=True)
class SwitchCounts:
    """True switches, found switches, and matched pairs at each tolerance (key: seconds)."""

    true: int = 0
    found: int = 0
    matched: Mapping[str, int] = field(default_factory=lambda: {f"{t:g}": 0 for t in TOLERANCES_S})

    def __add__(self, other: SwitchCounts) -> SwitchCounts:
        matched = {tolerance: n + other.matched[tolerance] for tolerance, n in self.matched.items()}
        return SwitchCounts(self.true + other.true, self.found + other.found, matched)


@dataclass(slots=True, frozen=True)
class Score:
    """The counts of one or more recordings. Scores can be added; ``rates`` divides the sums."""

    recordings: int
    audio_s: float
    fold_diacritics: bool
    text: Mapping[str, TextCounts]  # by language of the reference
    labels: LabelTime  # of the final segments
    frame_labels: LabelTime  # of the language-ID frames; empty without frames
    switches: SwitchCounts
    delays: tuple[float, ...]  # from true switch to decision, of the switches found, in seconds
    compute: ComputeTime
    switch_text: SwitchText  # the words within two of a switch
    word_latencies: tuple[float, ...]  # from the end of a right word to its final text, in seconds
    blocks: Mapping[str, tuple[int, int]]  # language blocks and missed ones, by length
    normalizer: str = "plain"

    def __add__(self, other: Score) -> Score:
        if self.fold_diacritics != other.fold_diacritics:
            raise ConfigurationError("scores with and without folded diacritics cannot be added")
        if self.normalizer != other.normalizer:
            raise ConfigurationError(
                f"scores of the normalizers {self.normalizer} and {other.normalizer} cannot be added"
            )
        blocks = self.blocks.items()
        summed = ("recordings", "audio_s", "labels", "frame_labels", "switches", "delays", "compute", "switch_text")
        return replace(
            self,
            text=add_by_language(self.text, other.text),
            blocks={name: (n + other.blocks[name][0], m + other.blocks[name][1]) for name, (n, m) in blocks},
            word_latencies=self.word_latencies + other.word_latencies,
            **{name: getattr(self, name) + getattr(other, name) for name in summed},
        )

    def rates(self) -> RateTree:
        """The rates by name, JSON-able: None for a division by zero or an infinite delay.

        Percentages are fractions, times are seconds. ``false_switches_per_hour`` and the delays use the widest
        tolerance. ``decision_delay_p50`` and ``_p95`` count a missed switch as an infinite delay;
        ``decision_delay_found_*`` exclude it.
        """
        return {name: to_json(value) for name, value in _rates(self).items()}

    def to_dict(self) -> dict[str, JsonValue]:
        """The counts as JSON, which ``from_dict`` reads."""
        labels = {"labels": _nested(self.labels), "frame_labels": _nested(self.frame_labels)}
        return {name: to_json(value) for name, value in (asdict(self) | labels).items()}

    @classmethod
    def from_dict(cls, value: Json) -> Score:
        """The score from its ``to_dict``. Raises ConfigurationError for anything else."""
        normalizer = value.get("normalizer", "plain") if isinstance(value, Mapping) else "plain"
        if not _holds_numbers({**value, "normalizer": 0} if isinstance(value, Mapping) else value):
            raise ConfigurationError(f"not the counts of a score, which are numbers: {shown(value)}")
        try:
            return cls(
                value["recordings"],
                value["audio_s"],
                value["fold_diacritics"],
                {language: TextCounts(**counts) for language, counts in value["text"].items()},
                _flat(value["labels"]),
                _flat(value["frame_labels"]),
                SwitchCounts(**value["switches"]),
                tuple(value["delays"]),
                ComputeTime(**value["compute"]),
                SwitchText(TextCounts(**value["switch_text"]["counts"]), value["switch_text"]["deleted_s"]),
                tuple(value["word_latencies"]),
                {name: (n, missed) for name, (n, missed) in value["blocks"].items()},
                normalizer_name(normalizer),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"not the counts of a score: {error!r} in {shown(value)}") from error


def score(
    reference: Reference,
    segments: Sequence[SessionSegment],
    switches: Sequence[Switch],
    *,
    duration: float,
    frames: Sequence[LanguageFrame] = (),
    committed: Sequence[tuple[str, float]] = (),
    compute_s: float | None = None,
    fold_diacritics: bool = True,
    normalizer: str = "plain",
) -> Score:
    """Score the output of any recogniser for one recording of ``duration`` seconds.

    The text of the final segments, in order of time, is compared as a whole. ``compute_s`` is the wall time of
    computing, if known. ``committed`` is the final text with its times in seconds; its words are split with the plain
    normalizer. ``normalizer`` is a name as in `normalizer_name`.
    """
    normalizer = normalizer_name(normalizer)
    final = sorted((s for s in segments if s.is_final), key=lambda s: (s.start_time, s.end_time))
    said = [(s.text, s.language) for s in final]
    steps = align(reference, said, fold_diacritics=fold_diacritics, normalizer=normalizer)
    true = true_switches(reference)
    pairs = {f"{t:g}": match_switches(true, switches, t) for t in TOLERANCES_S}
    return Score(
        recordings=1,
        audio_s=duration,
        fold_diacritics=fold_diacritics,
        text=text_counts(steps),
        labels=label_time(reference, segment_labels(final)),
        frame_labels=label_time(reference, frame_labels(frames)) if frames else LabelTime(),
        switches=SwitchCounts(len(true), len(switches), {name: len(found) for name, found in pairs.items()}),
        delays=tuple(switch.decided_at - boundary.end for boundary, switch in pairs[f"{WIDEST_S:g}"]),
        compute=ComputeTime() if compute_s is None else ComputeTime(compute_s, duration),
        switch_text=switch_text(steps),
        word_latencies=(word_latencies(reference, committed, fold_diacritics=fold_diacritics) if committed else ()),
        blocks=block_misses(reference, pairs[f"{WIDEST_S:g}"]),
        normalizer=normalizer,
    )


def score_trace(
    trace: Trace, reference: Reference | None = None, *, fold_diacritics: bool = True, normalizer: str = "plain"
) -> Score:
    """Score a trace against a reference, by default its own. Raises ConfigurationError without one."""
    known = reference or trace.reference
    if known is None:
        raise ConfigurationError(f"the trace of {trace.recording!r} has no reference and none was given")
    return score(
        known,
        trace.segments,
        trace.switches,
        duration=trace.duration,
        frames=trace.frames,
        committed=trace.committed,
        compute_s=trace.compute_s,
        fold_diacritics=fold_diacritics,
        normalizer=normalizer,
    )


def pooled(scores: Iterable[Score]) -> Score:
    """The sum of scores. Raises ConfigurationError for an empty sequence."""
    every = list(scores)
    if not every:
        raise ConfigurationError("cannot pool an empty sequence of scores")
    return reduce(add, every)


def bootstrap_interval(
    scores: Sequence[Score], rate_name: str, rng: np.random.Generator, n: int = 1000, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of one rate. `bootstrap_intervals` says when it is None."""
    return bootstrap_intervals(scores, [rate_name], rng, n, level)[rate_name]


def bootstrap_intervals(
    scores: Sequence[Score], rate_names: Iterable[str], rng: np.random.Generator, n: int = 1000, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap interval of each rate. All rates use the same resamples of recordings (one score each).

    The rate of one language has a dotted name: ``error_rate_by_language.es``. An end is infinite if the delay there
    is infinite. Resamples with a division by zero are excluded. Without any resample, or for fewer than three
    recordings, the interval is None.
    """
    names, whole = list(rate_names), _rates(pooled(scores))
    for name in names:
        _value(whole, name)  # raises for an unknown name even without an interval
    if len(scores) < LEAST_UNITS:
        return dict.fromkeys(names)
    drawn = rng.integers(len(scores), size=(n, len(scores)))
    values = {name: _resampled_ratio(_RATIOS[name], scores, drawn) for name in names if name in _RATIOS}
    if others := [name for name in names if name not in _RATIOS]:
        resampled = [_rates(pooled(scores[i] for i in row)) for row in drawn]
        values |= {name: [_value(rates, name) for rates in resampled] for name in others}
    return {name: _interval(values[name], level) for name in names}


def _resampled_ratio(
    parts: Callable[[Score], tuple[float, float]], scores: Sequence[Score], drawn: NDArray[np.int64]
) -> list[float]:
    """A ratio of sums for every row of ``drawn``, without adding complete scores."""
    part, whole = np.array([parts(score) for score in scores], float)[drawn].sum(1).T
    return [_ratio(*pair) for pair in zip(part.tolist(), whole.tolist(), strict=True)]


def _interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    defined = [value for value in values if not math.isnan(value)]
    tail = (1 - level) / 2 * 100
    return (percentile(defined, tail), percentile(defined, 100 - tail)) if defined else None


def _rates(score: Score) -> RateTree:
    """The rates, with NaN for a division by zero and infinity for a missed switch."""
    total = sum(score.text.values(), TextCounts())
    switches, hours = score.switches, score.audio_s / 3600
    missed = switches.true - len(score.delays)
    return {
        **{name: _ratio(*parts(score)) for name, parts in _RATIOS.items()},
        "error_rate_by_language": {
            language: _ratio(counts.errors, counts.reference_words) for language, counts in score.text.items()
        },
        **{
            f"switch_{rate}_at_{tolerance}": _ratio(part * matched, whole)
            for tolerance, matched in switches.matched.items()
            for rate, part, whole in (
                ("precision", 1, switches.found),
                ("recall", 1, switches.true),
                ("f1", 2, switches.found + switches.true),
            )
        },
        "switches_true": switches.true,
        "switches_found": switches.found,
        "switches_missed": missed,
        "miss_rate_by_block": {name: _ratio(missed, n) for name, (n, missed) in score.blocks.items()},
        "false_switches_per_hour": _ratio(switches.found - len(score.delays), hours),
        "decision_delay_p50": percentile(score.delays, 50, missed=missed),
        "decision_delay_p95": percentile(score.delays, 95, missed=missed),
        "decision_delay_found_p50": percentile(score.delays, 50),
        "decision_delay_found_p95": percentile(score.delays, 95),
        "word_latency_p50": percentile(score.word_latencies, 50),
        "word_latency_p95": percentile(score.word_latencies, 95),
        "reference_words": total.reference_words,
        "hypothesis_words": total.hypothesis_words,
        **asdict(total),
        "speech_s": score.labels.speech_s,
        "audio_s": score.audio_s,
        "recordings": score.recordings,
        "fold_diacritics": score.fold_diacritics,
        "normalizer": score.normalizer,
    }


def _all_words(score: Score) -> tuple[int, int]:
    total = sum(score.text.values(), TextCounts())
    return total.errors, total.reference_words


# The rates that are one sum over recordings divided by another.
_RATIOS: dict[str, Callable[[Score], tuple[float, float]]] = {
    "mixed_error_rate": _all_words,
    "switch_error_rate": lambda score: (score.switch_text.counts.errors, score.switch_text.counts.reference_words),
    "deleted_s_per_switch": lambda score: (score.switch_text.deleted_s, score.switches.true),
    "language_error_rate": lambda score: (score.labels.wrong_s, score.labels.speech_s),
    "language_error_rate_frames": lambda score: (score.frame_labels.wrong_s, score.frame_labels.speech_s),
    "real_time_factor": lambda score: (score.compute.compute_s, score.compute.audio_s),
}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _value(rates: RateTree, name: str) -> float:
    family, _, language = name.partition(".")
    if isinstance(rates.get(family), dict) and language:
        return float(rates[family].get(language, math.nan))
    if name not in rates or isinstance(rates[name], dict):
        raise ConfigurationError(f"no single rate is named {name!r}; there are {', '.join(rates)}")
    return float(rates[name])


def _holds_numbers(value: object) -> bool:
    """Whether all leaves of a value are numbers."""
    if isinstance(value, Mapping):
        return all(map(_holds_numbers, value.values()))
    if isinstance(value, list):
        return all(map(_holds_numbers, value))
    return isinstance(value, bool) or is_number(value)


def _nested(time: LabelTime) -> dict[str, dict[str, float]]:
    """Seconds by true language, then by label."""
    nested: dict[str, dict[str, float]] = {}
    for (true, given), duration_s in time.seconds.items():
        nested.setdefault(true, {})[given] = duration_s
    return nested


def _flat(nested: Mapping[str, Mapping[str, float]]) -> LabelTime:
    return LabelTime({(true, given): s for true, row in nested.items() for given, s in row.items()})

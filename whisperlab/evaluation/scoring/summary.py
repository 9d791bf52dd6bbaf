"""The score of a recording: counts that can be summed over recordings, and the rates computed from them."""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeAlias, Unpack

import numpy as np

from whisperlab.evaluation.scoring import language as languages
from whisperlab.evaluation.scoring import text as texts
from whisperlab.evaluation.scoring.code_switching import CodeSwitching, Shown, code_switching
from whisperlab.evaluation.scoring.language import TOLERANCES_S, WIDEST_S, LabelTime, SwitchCounts
from whisperlab.evaluation.scoring.latency import ComputeTime, percentile, word_latencies
from whisperlab.evaluation.scoring.streaming import LAGS, StreamCounts, stream_counts
from whisperlab.evaluation.scoring.text import Addable, SwitchText, TextCounts, TextRules, normalizer_name
from whisperlab.evaluation.trace import Reference, Trace
from whisperlab.streaming.results import LanguageFrame, SessionSegment, Switch
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import to_json
from whisperlab.util.statistics import LEAST_UNITS, resampled

RateTree: TypeAlias = dict[str, Any]  # rates by name; some are objects with one rate per language or block


@dataclass(slots=True, frozen=True)
class Score(Addable):
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
    code_switching: CodeSwitching = field(default_factory=CodeSwitching)
    streaming: StreamCounts = field(default_factory=StreamCounts)
    speakers: tuple[str, ...] = ()  # of the reference, as far as known

    def __post_init__(self) -> None:
        normalizer_name(self.normalizer)

    def __add__(self, other: Self) -> Self:
        pairs = {name: (*pair, *other.blocks[name]) for name, pair in self.blocks.items()}
        return replace(
            Addable.__add__(self, other),
            blocks={name: (n + more, missed + more_missed) for name, (n, missed, more, more_missed) in pairs.items()},
            speakers=tuple(sorted({*self.speakers, *other.speakers})),
        )

    @property
    def all_text(self) -> TextCounts:
        return sum(self.text.values(), TextCounts())

    @property
    def switches_missed(self) -> int:
        return self.switches.true - len(self.delays)

    def rates(self, *, has_text: bool = True) -> RateTree:
        """The rates by name, JSON-able: None for a division by zero or an infinite delay.

        Without text (``decode`` off) `TEXT_RATES` are None: all speech would count as missed. Percentages are
        fractions, times are seconds. ``false_switches_per_hour`` and the delays use the widest tolerance.
        ``decision_delay_p50`` and ``_p95`` count a missed switch as an infinite delay; ``decision_delay_found_*``
        exclude it.
        """
        found = {name: to_json(value) for name, value in _rates(self).items()}
        return found if has_text else found | dict.fromkeys(TEXT_RATES)


def score(
    reference: Reference,
    segments: Sequence[SessionSegment],
    switches: Sequence[Switch],
    *,
    duration: float,
    frames: Sequence[LanguageFrame] = (),
    committed: Sequence[tuple[str, float]] = (),
    compute_s: float | None = None,
    shown: Sequence[Shown] = (),
    streaming: StreamCounts | None = None,
    **rules: Unpack[TextRules],
) -> Score:
    """Score the output of any recogniser for one recording of ``duration`` seconds.

    The text of the final segments, in order of time, is compared as a whole. ``compute_s`` is the wall time of
    computing, if known. ``committed`` is the final text with its times in seconds; its words are split with the plain
    normalizer. ``shown`` is all text as it was shown, in order of time; ``streaming`` are the counts of
    `stream_counts`. ``rules`` are ``fold_diacritics`` (by default True) and ``normalizer``, a name as in
    `normalizer_name`.
    """
    fold_diacritics, normalizer = rules.get("fold_diacritics", True), normalizer_name(rules.get("normalizer", "plain"))
    final = sorted((s for s in segments if s.is_final), key=lambda s: (s.start_time, s.end_time))
    steps = texts.align(reference, [(s.text, s.language) for s in final], **rules)
    true = languages.true_switches(reference)
    pairs = {f"{t:g}": languages.match_switches(true, switches, t) for t in TOLERANCES_S}
    widest = pairs[f"{WIDEST_S:g}"]
    return Score(
        recordings=1,
        audio_s=duration,
        fold_diacritics=fold_diacritics,
        text=texts.text_counts(steps),
        labels=languages.label_time(reference, languages.segment_labels(final)),
        frame_labels=languages.label_time(reference, languages.frame_labels(frames)) if frames else LabelTime(),
        switches=SwitchCounts(len(true), len(switches), {name: len(found) for name, found in pairs.items()}),
        delays=tuple(switch.decided_at - boundary.end for boundary, switch in widest),
        compute=ComputeTime() if compute_s is None else ComputeTime(compute_s, duration),
        switch_text=texts.switch_text(steps),
        word_latencies=word_latencies(reference, committed, fold_diacritics=fold_diacritics) if committed else (),
        blocks=languages.block_misses(reference, widest),
        normalizer=normalizer,
        code_switching=code_switching(reference, steps, final, shown, **rules),
        streaming=streaming or StreamCounts(),
        speakers=tuple(sorted({segment.speaker for segment in reference.segments} - {""})),
    )


def score_trace(trace: Trace, reference: Reference | None = None, **rules: Unpack[TextRules]) -> Score:
    """Score a trace, up to where it was streamed; ``reference`` replaces its own. ConfigurationError without any."""
    known = reference or trace.reference
    if known is None:
        raise ConfigurationError(f"the trace of {trace.recording!r} has no reference and none was given")
    known = texts.until(known, trace.heard_s) if trace.heard_s < trace.duration else known
    return score(
        known,
        trace.segments,
        trace.switches,
        duration=trace.heard_s,
        frames=trace.frames,
        committed=trace.committed,
        compute_s=trace.compute_s or None,  # a stream log need not have it
        shown=[(e["at"], e["committed"], e["tentative"], e["language"]) for e in trace.of_kind("text")],
        streaming=stream_counts(trace, known),
        **rules,
    )


def pooled(scores: Iterable[Score]) -> Score:
    """The sum of scores. Raises ConfigurationError for an empty sequence."""
    if every := list(scores):
        return sum(every[1:], every[0])
    raise ConfigurationError("cannot pool an empty sequence of scores")


def bootstrap_intervals(
    scores: Sequence[Score], rate_names: Iterable[str], rng: np.random.Generator, n: int = 1000
) -> dict[str, tuple[float, float] | None]:
    """The 95 % bootstrap interval of each rate, by percentiles of the same resamples of recordings (one score each).

    Recordings with speakers in common are resampled together if there are enough of such blocks, see `resampled`.
    An end is infinite if the delay there is infinite. Resamples with a division by zero are excluded. Without any
    resample, or for fewer than three recordings, the interval is None.
    """
    names, whole = list(rate_names), _rates(pooled(scores))
    for name in names:
        if not isinstance(whole.get(name), int | float):
            raise ConfigurationError(f"no single rate is named {name!r}; there are {', '.join(whole)}")
    if len(scores) < LEAST_UNITS:
        return dict.fromkeys(names)
    scores = [pooled(scores[i] for i in unit) for unit in resampled([one.speakers for one in scores])]
    draws = [_rates(pooled(scores[i] for i in row)) for row in rng.integers(len(scores), size=(n, len(scores)))]
    defined = {name: [value for rates in draws if not math.isnan(value := rates[name])] for name in names}
    return {name: (percentile(of, 2.5), percentile(of, 97.5)) if of else None for name, of in defined.items()}


def rate_row(scores: Sequence[Score], names: Iterable[str], rng: np.random.Generator) -> RateTree:
    """Some rates of several recordings with their intervals (``<rate>_95``), and the number of recordings."""
    intervals, rates = bootstrap_intervals(scores, names, rng), pooled(scores).rates()
    kept = {name: rates[name] for name in (*intervals, "recordings", "normalizer", "miss_rate_by_block")}
    return kept | {f"{name}_95": interval for name, interval in intervals.items()}


def _rates(score: Score) -> RateTree:
    """The rates, with NaN for a division by zero and infinity for a missed switch."""
    true, found, delays = score.switches.true, score.switches.found, score.delays
    wholes = {"precision": found, "recall": true, "f1": (found + true) / 2}
    return {
        **{name: _ratio(*parts(score)) for name, parts in _RATIOS.items()},
        "error_rate_by_language": {code: _ratio(n.errors, n.reference_words) for code, n in score.text.items()},
        **{
            f"switch_{rate}_at_{tolerance}": _ratio(matched, whole)
            for tolerance, matched in score.switches.matched.items()
            for rate, whole in wholes.items()
        },
        "miss_rate_by_block": {name: _ratio(missed, n) for name, (n, missed) in score.blocks.items()},
        "false_switches_per_hour": _ratio(found - len(delays), score.audio_s / 3600),
        **{f"decision_delay_p{q}": percentile(delays, q, missed=score.switches_missed) for q in (50, 95)},
        **{f"decision_delay_found_p{q}": percentile(delays, q) for q in (50, 95)},
        **{f"word_latency_p{q}": percentile(score.word_latencies, q) for q in (50, 95)},
        **score.streaming.percentiles(),
        **{name: attrgetter(path)(score) for name, path in _TABLES["counts"].items()},
    }


def _lag(name: str, score: Score) -> tuple[float, float]:
    values = score.streaming.lags.get(name, ())
    return sum(values), len(values)


_TABLES = tomllib.loads(Path(__file__).with_name("rates.toml").read_text("utf-8"))
TEXT_RATES: Sequence[str] = _TABLES["need_text"]
# The rates that are one sum over recordings divided by another.
_RATIOS: dict[str, Callable[[Score], tuple[float, float]]] = {
    **{name: attrgetter(*paths) for name, paths in _TABLES["ratios"].items()},
    **{name: partial(_lag, name) for name in LAGS},
}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan

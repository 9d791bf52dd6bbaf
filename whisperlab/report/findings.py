"""The findings and warnings of a sweep as sentences made from its numbers.

The guide expects 50-60 % fewer encodes from the cache, and advises a lower hash precision when hits are rare. A hit
rate alone does not show whether the advice is good, so every sentence about hits gives their false-hit rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from whisperlab.report.counts import KEY, PRECISION, SIZE, WRONG_FRAMES, WRONG_TEXT, CacheCounts, Result, percent
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.validation import on_threads

GUIDE_KEY, GUIDE_PRECISION = "rounded", 6  # the guide's key and its default
GUIDE_SAVING = 0.50  # "50-60 % reduction in encoder computations"
TRUSTED = 0.05  # highest useful false-hit rate: the error of language-ID itself on 5 s of clear speech
RARE = 0.01  # a lower hit rate saves no noticeable time
FEW_CHECKS = 30  # with fewer, the 95 % interval of a false-hit rate is wider than 30 points
FEW_RECORDINGS = 5
THE_GUIDE = "The guide is the performance guide for streaming Whisper (docs/guide.md)."

_UNCHECKED = "none of these hits was checked"


def findings(results: Sequence[Result]) -> tuple[str, ...]:
    """The findings, most important first; those that the numbers do not support are left out."""
    found = [*_guide_key(results), *_saving(results), *_cost(results), *_sizes(results), *_running(results)]
    return tuple(named(found)) or ("No run of this sweep finished, so it found nothing.",)


def named(sentences: Iterable[str]) -> Iterator[str]:
    """The sentences; the first that mentions the guide is followed by what the guide is.

    >>> list(named(["None of the guide's."]))
    ["None of the guide's. The guide is the performance guide for streaming Whisper (docs/guide.md)."]
    """
    unnamed = True
    for sentence in sentences:
        first = unnamed and "guide" in sentence
        unnamed = unnamed and not first
        yield f"{sentence} {THE_GUIDE}" if first else sentence


def warnings(
    results: Sequence[Result], n_recordings: int, failures: tuple[int, str] = (0, ""), notes: Iterable[str] = ()
) -> tuple[str, ...]:
    """Reasons for caution with the numbers, and ``notes``, further warnings.

    ``n_recordings`` is how many recordings the finished runs have together, ``failures`` the number of failed runs with
    the recording and error of the first.
    """
    n_failed, first = failures
    n_short = sum(result.n_recordings < n_recordings for result in results)
    n_blind = sum(result.cache.hits > 0 and not result.cache.checked for result in results)
    n_thin = sum(0 < result.cache.checked < FEW_CHECKS for result in results)
    found = (
        (n_failed, f"{_many(n_failed, 'run')} failed and are in no figure below; the first: {first}"),
        (
            n_short,
            f"Incomplete: {n_short} of {_many(len(results), 'configuration')} lack some of the {n_recordings:,} "
            "recordings, so their figures are not of the same speech.",
        ),
        (
            n_blind,
            f"{_many(n_blind, 'configuration')} had hits of which none was recomputed: their false-hit rate is "
            "unknown. Sweep with a shadow rate above 0 to measure it.",
        ),
        (
            n_thin,
            f"In {_many(n_thin, 'configuration')} fewer than {FEW_CHECKS} hits were recomputed: read the intervals "
            "beside those false-hit rates, not the rates alone.",
        ),
        (
            0 < n_recordings < FEW_RECORDINGS,
            f"Only {_many(n_recordings, 'recording')}: small differences between rates mean nothing here.",
        ),
    )
    return (*(sentence for holds, sentence in found if holds), *notes)


def _guide_key(results: Sequence[Result]) -> Iterator[str]:
    by_precision: dict[object, CacheCounts] = {}
    n_recordings = max((result.n_recordings for result in results), default=0)
    for result in results:
        if result.config.get(KEY) == GUIDE_KEY and result.cache.lookups:
            precision = result.config.get(PRECISION)
            by_precision[precision] = by_precision.get(precision, CacheCounts()) + result.cache
    rare = {precision: cache for precision, cache in by_precision.items() if (cache.hit_rate or 0.0) < RARE}
    if rare:
        cache = sum(rare.values(), CacheCounts())
        default = " (the guide's default among them)" if GUIDE_PRECISION in rare and len(rare) > 1 else ""
        answered = "not one" if cache.hits == 0 else f"{cache.hits:,} ({percent(cache.hit_rate)})"
        yield (
            f"The guide's key, the audio rounded to {_listed(rare)} decimals{default}, answered {answered} "
            f"of {cache.lookups:,} look-ups."
        )
    for precision, cache in by_precision.items():
        if precision not in rare:
            answered = f"{percent(cache.hit_rate)} of {cache.lookups:,} look-ups"
            yield f"At {precision} decimals the guide's key answered {answered}: {_worth(cache, n_recordings)}."


def _saving(results: Sequence[Result]) -> Iterator[str]:
    saving = [result for result in results if (result.cache.hit_rate or 0.0) >= GUIDE_SAVING]
    sound = [r for r in saving if r.cache.false_hit_rate is not None and r.cache.false_hit_rate <= TRUSTED]
    if sound:
        yield f"{_examples(sound)} reached the guide's 50-60 % fewer encodes.{_best_saving(sound)}"
    elif any(result.cache.lookups for result in results):
        rates = [rate for result in saving if (rate := result.cache.false_hit_rate) is not None]
        why = f"at least {percent(min(rates))} of the checked hits were wrong" if rates else _UNCHECKED
        wrong = f": {_examples(saving)} reached 50 %, but {why}" if saving else ""
        yield (
            "No configuration reached the guide's 50-60 % fewer encodes with at most "
            f"{percent(TRUSTED)} of its answers wrong{wrong}."
        )


def _best_saving(sound: Sequence[Result]) -> str:
    best = max(sound, key=lambda result: result.cache.saved_s)
    saved_s = best.cache.saved_s
    if not saved_s:
        return ""
    subject = "It" if len(sound) == 1 else f"The best of them, {best.name},"
    seconds = f"{saved_s:.0f} of {saved_s + best.cache.encode_s:.0f} encoder seconds"
    return f" {subject} spared about {seconds}; {_worth(best.cache, best.n_recordings)}."


def _cost(results: Sequence[Result]) -> Iterator[str]:
    """The errors of the text and those of the frames are two measures: each has its own sentence."""
    for measure in (WRONG_TEXT, WRONG_FRAMES):
        errors = [(e, r) for r in results if r.language_measure == measure and (e := r.language_error) is not None]
        if len(errors) < 2:
            continue
        (low, best), (high, worst) = (end(errors, key=lambda scored: scored[0]) for end in (min, max))
        name, n = measure.capitalize(), _units(min(result.n_recordings for _, result in errors))
        if round(high - low, 3) == 0:
            yield f"{name}: {percent(low)} of the speech time in every configuration ({n})."
        else:
            yield (
                f"{name}: {percent(low)} of the speech time with {best.name}, {percent(high)} with {worst.name}, "
                f"which answered {percent(worst.cache.hit_rate)} of its look-ups from the cache ({n})."
            )


@dataclass(slots=True, frozen=True)
class _Move:
    """How far one measure moved between the smallest and the largest cache; None where it is not known."""

    name: str
    least: float | None
    most: float | None
    unknown: str  # the reason

    @property
    def points(self) -> float | None:
        return None if self.least is None or self.most is None else 100 * abs(self.most - self.least)

    @property
    def order(self) -> float:
        """Sorts the largest move last; an unknown one lies between none and one that was seen."""
        return 100 * RARE if self.points is None else self.points

    def __str__(self) -> str:
        if self.points is None:
            return f"{self.name} {self.unknown}"
        if self.points < 100 * RARE:
            return f"{self.name} by less than 1 point"
        return f"{self.name} from {percent(self.least)} to {percent(self.most)}"


def _sizes(results: Sequence[Result]) -> Iterator[str]:
    """What a larger cache changed, hits and errors together: more hits may be more wrong answers."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        others = sorted((name, repr(value)) for name, value in result.config.items() if name != SIZE)
        groups.setdefault(repr(others), []).append(result)
    compared = [sorted(group, key=_size) for group in groups.values() if len(group) > 1]
    if not compared:
        return
    moves = [_moves(group[0], group[-1]) for group in compared]
    most = [max(same, key=lambda move: move.order) for same in zip(*moves, strict=True)]
    sizes = sorted({_size(result) for group in compared for result in group})
    if all(move.points is not None and move.points < 100 * RARE for move in most):
        yield (
            f"Cache size made no difference: with {sizes[0]} or {sizes[-1]} entries hits, false hits and wrong "
            "language were the same within 1 point."
        )
    else:
        where = " (each where it moved most)" if len(compared) > 1 else ""
        yield f"From {sizes[0]} to {sizes[-1]} entries {'; '.join(map(str, most))}{where}."


def _moves(small: Result, large: Result) -> tuple[_Move, ...]:
    hits = [result.cache.hit_rate or 0.0 for result in (small, large)]
    false = [result.cache.false_hit_rate if result.cache.hits else 0.0 for result in (small, large)]
    wrong = [result.language_error for result in (small, large)]
    return (
        _Move("hits moved", hits[0], hits[1], ""),
        _Move("false hits", false[0], false[1], "were not checked"),
        _Move(small.language_measure, wrong[0], wrong[1], "was not measured"),
    )


def _size(result: Result) -> int:
    return int(result.config.get(SIZE) or 0)


def _running(results: Sequence[Result]) -> Iterator[str]:
    timed = [(factor, result) for result in results if (factor := result.real_time_factor)]
    if timed:
        ends = [end(timed, key=lambda each: each[0]) for end in (min, max)][: min(len(timed), 2)]
        told = " to ".join(
            f"{factor:.2f} s{f' ({result.name})' if len(timed) > 1 else ''}{on_threads(result.threads)}"
            for factor, result in ends
        )
        peak = max(result.peak_rss_bytes or 0 for result in results)
        memory = f"; peak resident memory {peak / 2**20:,.0f} MiB" if peak else ""
        yield f"Real-time factor: {told} of wall time per second of audio{memory}."


def _units(n_recordings: int) -> str:
    """The number of independent units, and what it is too small for."""
    few = ", no interval" if n_recordings < LEAST_UNITS else ""
    return f"n = {_many(n_recordings, 'recording')}{few}"


def _worth(cache: CacheCounts, n_recordings: int) -> str:
    interval = cache.false_hit_interval
    if interval is None:
        return _UNCHECKED if cache.hits else "there was no hit"
    low, high = interval
    spread = f"95 % interval {percent(low)} to {percent(high)}"
    told = spread if n_recordings >= LEAST_UNITS else _units(n_recordings)
    return (
        f"of {cache.checked:,} hits recomputed, {cache.false_hits:,} ({percent(cache.false_hit_rate)}, {told}) stood "
        "for another language than the audio at hand"
    )


def _examples(some: Sequence[Result]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(some) - 2} more" if len(some) > 2 else ""
    return ", ".join(result.name for result in some[:2]) + more


def _listed(values: Iterable[object]) -> str:
    """Values joined as in a sentence: ``6``, ``6 or 4``, ``6, 4 or 2``."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

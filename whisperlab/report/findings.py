"""The findings and warnings of a sweep as sentences made from its numbers.

The guide expects 50-60 % fewer encodes from the cache, and advises a lower hash precision when hits are rare. A hit
rate alone does not show whether the advice is good, so every sentence about hits gives their false-hit rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Result, measured_alike, percent
from whisperlab.util.validation import on_threads

GUIDE_KEY, GUIDE_PRECISION = "rounded", 6  # the guide's key and its default
GUIDE_SAVING = 0.50  # "50-60 % reduction in encoder computations"
TRUSTED = 0.05  # highest useful false-hit rate: the error of language-ID itself on 5 s of clear speech
RARE = 0.01  # a lower hit rate saves no noticeable time
FEW_CHECKS = 30  # with fewer, the 95 % interval of a false-hit rate is wider than 30 points
FEW_RECORDINGS = 5

_UNCHECKED = "none of these hits was checked"


def findings(results: Sequence[Result]) -> tuple[str, ...]:
    """The findings, most important first; those that the numbers do not support are left out."""
    found = [*_guide_key(results), *_saving(results), *_cost(results), *_sizes(results), *_running(results)]
    return tuple(found) or ("No run of this sweep finished, so it found nothing.",)


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
            yield f"At {precision} decimals the guide's key answered {answered}: {_worth(cache)}."


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
    return f" {subject} spared about {seconds}; {_worth(best.cache)}."


def _cost(results: Sequence[Result]) -> Iterator[str]:
    errors = [(e, result) for result in measured_alike(results) if (e := result.language_error) is not None]
    if len(errors) < 2:
        return
    (low, best), (high, worst) = (end(errors, key=lambda scored: scored[0]) for end in (min, max))
    if round(high - low, 3) == 0:
        yield f"The language error rate was {percent(low)} in every configuration."
    else:
        yield (
            f"Speech under a wrong language label: {percent(low)} with {best.name}, {percent(high)} with {worst.name}, "
            f"which answered {percent(worst.cache.hit_rate)} of its look-ups from the cache."
        )


def _sizes(results: Sequence[Result]) -> Iterator[str]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        others = sorted((name, repr(value)) for name, value in result.config.items() if name != SIZE)
        groups.setdefault(repr(others), []).append(result)
    compared = [group for group in groups.values() if len(group) > 1]
    if not compared:
        return
    rates = [[result.cache.hit_rate or 0.0 for result in group] for group in compared]
    moved = max(max(group) - min(group) for group in rates)
    sizes = sorted({int(result.config.get(SIZE) or 0) for group in compared for result in group})
    if moved < RARE:
        yield f"Cache size made no difference: {sizes[0]} or {sizes[-1]} entries, the hit rate was the same."
    else:
        yield f"From {sizes[0]} to {sizes[-1]} entries the hit rate moved by up to {100 * moved:.0f} points."


def _running(results: Sequence[Result]) -> Iterator[str]:
    timed = [(factor, result) for result in results if (factor := result.real_time_factor)]
    if timed:
        fastest, slowest = (
            f"{factor:.2f} s ({result.name}){on_threads(result.threads)}"
            for factor, result in (end(timed, key=lambda each: each[0]) for end in (min, max))
        )
        peak = max(result.peak_rss_bytes or 0 for result in results)
        memory = f"; peak resident memory {peak / 2**20:,.0f} MiB" if peak else ""
        yield f"A second of audio took {fastest} to {slowest} of computing{memory}."


def _worth(cache: CacheCounts) -> str:
    interval = cache.false_hit_interval
    if interval is None:
        return _UNCHECKED if cache.hits else "there was no hit"
    low, high = interval
    return (
        f"of {cache.checked:,} hits recomputed, {cache.false_hits:,} ({percent(cache.false_hit_rate)}, 95 % "
        f"interval {percent(low)} to {percent(high)}) stood for another language than the audio at hand"
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

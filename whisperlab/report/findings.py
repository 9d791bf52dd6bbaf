"""The findings and warnings of a sweep as sentences made from its numbers.

The guide expects 50-60 % fewer encodes from the cache, and advises a lower hash precision when hits are rare. A hit
rate alone does not show whether the advice is good, so every sentence about hits gives their false-hit rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Result, measured_alike, percent
from whisperlab.util.validation import on_threads

GUIDE_KEY, GUIDE_PRECISION = "rounded", 6  # the guide's key and its default
GUIDE_SAVING = 0.50  # "50-60 % reduction in encoder computations"
TRUSTED = 0.05  # highest useful false-hit rate: the error of language-ID itself on 5 s of clear speech
RARE = 0.01  # a lower hit rate saves no noticeable time
FEW_CHECKS = 30  # with fewer, the 95 % interval of a false-hit rate is wider than 30 points
FEW_RECORDINGS = 5


def findings(results: Sequence[Result]) -> tuple[str, ...]:
    """The findings, most important first; those that the numbers do not support are left out."""
    found = [*_guide_key(results), *_saving(results), *_cost(results), *_sizes(results), *_running(results)]
    return tuple(found) or ("No run of this sweep finished, so it found nothing.",)


def warnings(
    results: Sequence[Result], n_recordings: int, failures: tuple[int, str] = (0, ""), notes: Iterable[str] = ()
) -> tuple[str, ...]:
    """Reasons for caution with the numbers.

    Args:
        results: the finished runs by configuration.
        n_recordings: how many recordings the finished runs have together.
        failures: the number of failed runs, and the recording and error of the first.
        notes: further warnings, such as those from reading the traces.
    """
    return (*_failed(*failures), *_uneven(results, n_recordings), *_unchecked(results), *_small(n_recordings), *notes)


def _guide_key(results: Sequence[Result]) -> list[str]:
    by_precision: dict[object, CacheCounts] = {}
    for result in results:
        if result.config.get(KEY) == GUIDE_KEY and result.cache.lookups:
            precision = result.config.get(PRECISION)
            by_precision[precision] = by_precision.get(precision, CacheCounts()) + result.cache
    rare = [precision for precision, cache in by_precision.items() if _hit_rate(cache) < RARE]
    found = [_rare_sentence(rare, by_precision)] if rare else []
    found += [
        f"At {precision} decimals the guide's key answered {percent(cache.hit_rate)} of "
        f"{cache.lookups:,} look-ups: {_worth(cache)}."
        for precision, cache in by_precision.items()
        if precision not in rare
    ]
    return found


def _rare_sentence(rare: Sequence[object], counts: Mapping[object, CacheCounts]) -> str:
    cache = sum((counts[precision] for precision in rare), CacheCounts())
    default = " (the guide's default among them)" if GUIDE_PRECISION in rare and len(rare) > 1 else ""
    answered = "not one" if cache.hits == 0 else f"{cache.hits:,} ({percent(cache.hit_rate)})"
    return (
        f"The guide's key, the audio rounded to {_listed(rare)} decimals{default}, answered {answered} "
        f"of {cache.lookups:,} look-ups."
    )


def _saving(results: Sequence[Result]) -> list[str]:
    saving = [result for result in results if (result.cache.hit_rate or 0.0) >= GUIDE_SAVING]
    sound = [result for result in saving if _trusted(result.cache)]
    if not any(result.cache.lookups for result in results):
        return []
    if sound:
        return [f"{_examples(sound)} reached the guide's 50-60 % fewer encodes.{_best_saving(sound)}"]
    wrong = f": {_examples(saving)} reached 50 %, but {_why_not(saving)}" if saving else ""
    return [
        "No configuration reached the guide's 50-60 % fewer encodes with at most "
        f"{percent(TRUSTED)} of its answers wrong{wrong}."
    ]


def _best_saving(sound: Sequence[Result]) -> str:
    best = max(sound, key=lambda result: result.cache.saved_s)
    cache = best.cache
    if not cache.saved_s:
        return ""
    subject = "It" if len(sound) == 1 else f"The best of them, {best.name},"
    return (
        f" {subject} spared about {cache.saved_s:.0f} of {cache.saved_s + cache.encode_s:.0f} encoder "
        f"seconds; {_worth(cache)}."
    )


def _why_not(saving: Sequence[Result]) -> str:
    rates = [rate for result in saving if (rate := result.cache.false_hit_rate) is not None]
    if not rates:
        return "none of these hits was checked"
    return f"at least {percent(min(rates))} of the checked hits were wrong"


def _cost(results: Sequence[Result]) -> list[str]:
    scored = [result for result in measured_alike(results) if result.language_error is not None]
    if len(scored) < 2:
        return []
    best = min(scored, key=_language_error)
    worst = max(scored, key=_language_error)
    if round(_language_error(worst) - _language_error(best), 3) == 0:
        return [f"The language error rate was {percent(_language_error(best))} in every configuration."]
    return [
        f"Speech under a wrong language label: {percent(_language_error(best))} with {best.name}, "
        f"{percent(_language_error(worst))} with {worst.name}, which answered "
        f"{percent(worst.cache.hit_rate)} of its look-ups from the cache."
    ]


def _sizes(results: Sequence[Result]) -> list[str]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        others = sorted((name, repr(value)) for name, value in result.config.items() if name != SIZE)
        groups.setdefault(repr(others), []).append(result)
    compared = [group for group in groups.values() if len(group) > 1]
    if not compared:
        return []
    moved = max(max(_hits(group)) - min(_hits(group)) for group in compared)
    sizes = sorted({int(result.config.get(SIZE) or 0) for group in compared for result in group})
    if moved < RARE:
        return [f"Cache size made no difference: {sizes[0]} or {sizes[-1]} entries, the hit rate was the same."]
    return [f"From {sizes[0]} to {sizes[-1]} entries the hit rate moved by up to {100 * moved:.0f} points."]


def _running(results: Sequence[Result]) -> list[str]:
    timed = [result for result in results if result.real_time_factor]
    if not timed:
        return []
    fastest = min(timed, key=lambda result: result.real_time_factor or 0.0)
    slowest = max(timed, key=lambda result: result.real_time_factor or 0.0)
    peak = max((result.peak_rss_bytes or 0 for result in results), default=0)
    memory = f"; peak resident memory {peak / 2**20:,.0f} MiB" if peak else ""
    return [
        f"A second of audio took {fastest.real_time_factor:.2f} s ({fastest.name}){on_threads(fastest.threads)} to "
        f"{slowest.real_time_factor:.2f} s ({slowest.name}){on_threads(slowest.threads)} of computing{memory}."
    ]


def _failed(n: int, first: str) -> list[str]:
    return [f"{_many(n, 'run')} failed and are in no figure below; the first: {first}"] if n else []


def _uneven(results: Sequence[Result], n_recordings: int) -> list[str]:
    short = [result for result in results if result.n_recordings < n_recordings]
    if not short:
        return []
    return [
        f"Incomplete: {len(short)} of {_many(len(results), 'configuration')} lack some of the "
        f"{n_recordings:,} recordings, so their figures are not of the same speech."
    ]


def _unchecked(results: Sequence[Result]) -> list[str]:
    blind = [result for result in results if result.cache.hits and not result.cache.checked]
    thin = [result for result in results if 0 < result.cache.checked < FEW_CHECKS]
    found = []
    if blind:
        found.append(
            f"{_many(len(blind), 'configuration')} had hits of which none was recomputed: their false-hit rate "
            "is unknown. Sweep with a shadow rate above 0 to measure it."
        )
    if thin:
        found.append(
            f"In {_many(len(thin), 'configuration')} fewer than {FEW_CHECKS} hits were recomputed: read the "
            "intervals beside those false-hit rates, not the rates alone."
        )
    return found


def _small(n_recordings: int) -> list[str]:
    if not 0 < n_recordings < FEW_RECORDINGS:
        return []
    return [f"Only {_many(n_recordings, 'recording')}: small differences between rates mean nothing here."]


def _worth(cache: CacheCounts) -> str:
    interval = cache.false_hit_interval
    if interval is None:
        return "none of these hits was checked" if cache.hits else "there was no hit"
    low, high = interval
    return (
        f"of {cache.checked:,} hits recomputed, {cache.false_hits:,} ({percent(cache.false_hit_rate)}, 95 % "
        f"interval {percent(low)} to {percent(high)}) stood for another language than the audio at hand"
    )


def _trusted(cache: CacheCounts) -> bool:
    return cache.false_hit_rate is not None and cache.false_hit_rate <= TRUSTED


def _language_error(result: Result) -> float:
    return result.language_error or 0.0


def _hit_rate(cache: CacheCounts) -> float:
    return cache.hit_rate or 0.0


def _hits(group: Sequence[Result]) -> list[float]:
    return [_hit_rate(result.cache) for result in group]


def _examples(some: Sequence[Result]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(some) - 2} more" if len(some) > 2 else ""
    return ", ".join(result.name for result in some[:2]) + more


def _listed(values: Sequence[object]) -> str:
    """Values joined as in a sentence: ``6``, ``6 or 4``, ``6, 4 or 2``."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

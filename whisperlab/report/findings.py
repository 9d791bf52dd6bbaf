"""What a sweep found and what is wrong with it, as sentences made from its numbers.

The cache's guide expects 50-60 % fewer encodes and advises a lower hash precision when hits are rare. A hit
rate alone cannot tell whether that is good advice, so every sentence about hits says what they were worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whisperlab.report.counts import CacheTally, Result, measured_alike, percent
from whisperlab.util.validation import on_threads

GUIDE_KEY, GUIDE_PRECISION = "rounded", 6  # the guide's key and its default
GUIDE_SAVING = 0.50  # "50-60 % reduction in encoder computations"
TRUSTED = 0.05  # a cache wrong more often than language-ID's own error on 5 s of clear speech is no help
RARE = 0.01  # a hit rate below saves nothing anybody would notice
FEW_CHECKS = 30  # the 95 % interval of a false-hit rate is wider than 30 points below that
FEW_RECORDINGS = 5


def findings(results: Sequence[Result]) -> tuple[str, ...]:
    """The sweep in plain words, most important first; a sentence the numbers cannot carry is left out."""
    told = [*_guide_key(results), *_saving(results), *_cost(results), *_sizes(results), *_running(results)]
    return tuple(told) or ("No run of this sweep finished, so it found nothing.",)


def warnings(
    results: Sequence[Result], failures: Sequence[Mapping[str, Any]], notes: Iterable[str] = ()
) -> tuple[str, ...]:
    """What a reader has to know before believing the numbers; ``notes`` come from reading the traces."""
    return (*_failed(failures), *_uneven(results), *_unchecked(results), *_small(results), *notes)


def _guide_key(results: Sequence[Result]) -> list[str]:
    by_precision: dict[object, CacheTally] = {}
    for result in results:
        if result.config.get("key") == GUIDE_KEY and result.cache.lookups:
            precision = result.config.get("hash_precision")
            by_precision[precision] = by_precision.get(precision, CacheTally()) + result.cache
    rare = [precision for precision, tally in by_precision.items() if _hit_rate(tally) < RARE]
    told = [_rare_sentence(rare, by_precision)] if rare else []
    told += [
        f"At {precision} decimals the guide's key answered {percent(tally.hit_rate)} of "
        f"{tally.lookups:,} look-ups: {_worth(tally)}."
        for precision, tally in by_precision.items()
        if precision not in rare
    ]
    return told


def _rare_sentence(rare: Sequence[object], tallies: Mapping[object, CacheTally]) -> str:
    tally = sum((tallies[precision] for precision in rare), CacheTally())
    default = " (the guide's default among them)" if GUIDE_PRECISION in rare and len(rare) > 1 else ""
    answered = "not one" if tally.hits == 0 else f"{tally.hits:,} ({percent(tally.hit_rate)})"
    return (
        f"The guide's key, the audio rounded to {_listed(rare)} decimals{default}, answered {answered} "
        f"of {tally.lookups:,} look-ups."
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
        others = sorted((name, repr(value)) for name, value in result.config.items() if name != "cache_size")
        groups.setdefault(repr(others), []).append(result)
    compared = [group for group in groups.values() if len(group) > 1]
    if not compared:
        return []
    moved = max(max(_hits(group)) - min(_hits(group)) for group in compared)
    sizes = sorted({int(result.config.get("cache_size") or 0) for group in compared for result in group})
    if moved < RARE:
        return [
            f"Cache size made no difference: {sizes[0]} or {sizes[-1]} entries, the hit rate was the same."
        ]
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


def _failed(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    if not failures:
        return []
    first = failures[0]
    return [
        f"{_many(len(failures), 'run')} failed and are in no figure below; the first, on "
        f"{first['recording']}, said: {first.get('error') or 'nothing'}"
    ]


def _uneven(results: Sequence[Result]) -> list[str]:
    everything = frozenset[str]().union(*(result.recordings for result in results))
    short = [result for result in results if result.recordings != everything]
    if not short:
        return []
    return [
        f"Incomplete: {len(short)} of {_many(len(results), 'configuration')} lack some of the "
        f"{len(everything)} recordings, so their figures are not of the same speech."
    ]


def _unchecked(results: Sequence[Result]) -> list[str]:
    blind = [result for result in results if result.cache.hits and not result.cache.checked]
    thin = [result for result in results if 0 < result.cache.checked < FEW_CHECKS]
    told = []
    if blind:
        told.append(
            f"{_many(len(blind), 'configuration')} had hits of which none was recomputed: whether they "
            "were right is unknown. Sweep with a shadow rate above 0 to learn it."
        )
    if thin:
        told.append(
            f"In {_many(len(thin), 'configuration')} fewer than {FEW_CHECKS} hits were recomputed: read the "
            "intervals beside those false-hit rates, not the rates alone."
        )
    return told


def _small(results: Sequence[Result]) -> list[str]:
    recordings = frozenset[str]().union(*(result.recordings for result in results))
    if not recordings or len(recordings) >= FEW_RECORDINGS:
        return []
    return [f"Only {_many(len(recordings), 'recording')}: small differences between rates mean nothing here."]


def _worth(tally: CacheTally) -> str:
    interval = tally.false_hit_interval
    if interval is None:
        return "none of these hits was checked" if tally.hits else "there was no hit"
    low, high = interval
    return (
        f"of {tally.checked:,} hits recomputed, {tally.false_hits:,} ({percent(tally.false_hit_rate)}, 95 % "
        f"interval {percent(low)} to {percent(high)}) stood for another language than the audio at hand"
    )


def _trusted(tally: CacheTally) -> bool:
    return tally.false_hit_rate is not None and tally.false_hit_rate <= TRUSTED


def _language_error(result: Result) -> float:
    return result.language_error or 0.0


def _hit_rate(tally: CacheTally) -> float:
    return tally.hit_rate or 0.0


def _hits(group: Sequence[Result]) -> list[float]:
    return [_hit_rate(result.cache) for result in group]


def _examples(some: Sequence[Result]) -> str:
    """The first two names, and how many more there are."""
    more = f" and {len(some) - 2} more" if len(some) > 2 else ""
    return ", ".join(result.name for result in some[:2]) + more


def _listed(values: Sequence[object]) -> str:
    """Words as in a sentence: ``6``, ``6 or 4``, ``6, 4 or 2``."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

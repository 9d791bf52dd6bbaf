"""The findings and warnings of a sweep as sentences from its numbers. A hit rate stands beside its false-hit rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from whisperlab.report.counts import KEY, PRECISION, SIZE, WRONG_FRAMES, WRONG_TEXT, CacheCounts, Result, many, percent
from whisperlab.report.figure import page_text
from whisperlab.util.statistics import LEAST_UNITS
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
    if first := [sentence for sentence in found if "guide" in sentence][:1]:
        found[found.index(first[0])] += page_text("found-guide")
    return tuple(found) or ("No run of this sweep finished, so it found nothing.",)


def warnings(
    results: Sequence[Result], n_recordings: int, failures: tuple[int, str] = (0, ""), notes: Iterable[str] = ()
) -> tuple[str, ...]:
    """Reasons for caution. ``failures``: the number of failed runs, and recording and error of the first."""
    n_failed, first = failures
    n_short = sum(result.n_recordings < n_recordings for result in results)
    n_blind = sum(result.cache.hits > 0 and not result.cache.checked for result in results)
    n_thin = sum(0 < result.cache.checked < FEW_CHECKS for result in results)
    more_checked = sum(result.cache.checked for result in results) > sum(result.cache.hits for result in results) / 2
    found = {
        page_text("warning-failed", runs=many(n_failed, "run"), first=first): n_failed,
        page_text(
            "warning-incomplete", n=n_short, of=many(len(results), "configuration"), recordings=n_recordings
        ): n_short,
        page_text("warning-unchecked", configurations=many(n_blind, "configuration")): n_blind,
        page_text("warning-rough", configurations=many(n_thin, "configuration"), checks=FEW_CHECKS): n_thin,
        page_text("warning-slowed"): more_checked,
        page_text("warning-few", recordings=many(n_recordings, "recording")): 0 < n_recordings < FEW_RECORDINGS,
    }
    return (*(sentence for sentence, holds in found.items() if holds), *notes)


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
        *most, last = map(str, rare)
        listed = f"{', '.join(most)} or {last}" if most else last
        default = " (the guide's default among them)" if GUIDE_PRECISION in rare and len(rare) > 1 else ""
        answered = "not one" if cache.hits == 0 else f"{cache.hits:,} ({percent(cache.hit_rate)})"
        values = {"decimals": listed, "default": default, "answered": answered, "lookups": cache.lookups}
        yield page_text("found-guide-key", **values)
    for precision, cache in by_precision.items():
        if precision not in rare:
            answered = f"{percent(cache.hit_rate)} of {cache.lookups:,} look-ups"
            n_sizes = sum(1 for r in results if (r.config.get(KEY), r.config.get(PRECISION)) == (GUIDE_KEY, precision))
            which = f"At {precision} decimals" + (f", {n_sizes} cache sizes together," if n_sizes > 1 else "")
            yield f"{which} the guide's key answered {answered}: {_worth(cache, n_recordings)}."


def _saving(results: Sequence[Result]) -> Iterator[str]:
    saving = [result for result in results if (result.cache.hit_rate or 0.0) >= GUIDE_SAVING]
    rated = [(rate, result) for result in saving if (rate := result.cache.false_hit_rate) is not None]
    if sound := [result for rate, result in rated if rate <= TRUSTED]:
        best = max(sound, key=lambda result: result.cache.saved_s)
        subject = "It" if len(sound) == 1 else f"The best of them, {best.name},"
        seconds = f"{best.cache.saved_s:.0f} of {best.cache.saved_s + best.cache.encode_s:.0f} encoder seconds"
        spared = f" {subject} spared about {seconds}; {_worth(best.cache, best.n_recordings)}."
        yield f"{_examples(sound)} reached the guide's 50-60 % fewer encodes.{spared if best.cache.saved_s else ''}"
    elif any(result.cache.lookups for result in results):
        lowest = min(rated, key=lambda each: each[0], default=None)
        nearest = f" {_examples(saving)} saved as many, but {_UNCHECKED}." if saving else ""
        if lowest:
            rate, result = lowest
            saved = f"{result.name} answered {percent(result.cache.hit_rate)} of its look-ups"
            nearest = f" {saved}, but {percent(rate)} of the checked hits were wrong."
        yield page_text("found-no-saving", trusted=percent(TRUSTED), nearest=nearest)


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
            values = {"low": percent(low), "high": percent(high), "hit_rate": percent(worst.cache.hit_rate), "n": n}
            told = page_text("found-cost", measure=name, best=best.name, worst=worst.name, **values)
            yield told + (page_text("found-frames") if measure == WRONG_FRAMES else "")


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
    most = [max(same, key=lambda move: move[0]) for same in zip(*moves, strict=True)]
    small, large = (end(_size(result) for group in compared for result in group) for end in (min, max))
    if all(points < 100 * RARE for points, _ in most):
        yield page_text("found-same-sizes", small=small, large=large)
    else:
        where = " (each where it moved most)" if len(compared) > 1 else ""
        key = f"With the key {compared[0][0].config[KEY]}: from" if len(compared) == 1 and small == 0 else "From"
        yield f"{key} {small} to {large} entries {'; '.join(words for _, words in most)}{where}."


def _moves(small: Result, large: Result) -> list[tuple[float, str]]:
    """How far each measure moved between two caches, in points (if unknown the least that is told) and as words."""
    less, more = (result.cache.false_hit_rate if result.cache.hits else 0.0 for result in (small, large))
    measures = (
        ("hits moved", small.cache.hit_rate or 0.0, large.cache.hit_rate or 0.0, ""),
        ("false hits", less, more, "were not checked"),
        (small.language_measure, small.language_error, large.language_error, "was not measured"),
    )
    found = []
    for name, least, most, unknown in measures:
        points = 100 * RARE if least is None or most is None else 100 * abs(most - least)
        told = f"from {percent(least)} to {percent(most)}" if points >= 100 * RARE else "by less than 1 point"
        if name == "false hits" and not small.cache.hits and most is not None:  # nothing to move from
            told = f"{percent(most)} of {large.cache.checked:,} checked"
        found.append((points, f"{name} {unknown if least is None or most is None else told}"))
    return found


def _size(result: Result) -> int:
    return int(result.config.get(SIZE) or 0)


def _running(results: Sequence[Result]) -> Iterator[str]:
    wall, busy = (_ends(results, factor) for factor in (lambda r: r.real_time_factor, lambda r: r.processor_factor))
    if wall:
        peak = max(result.sums["peak_rss_bytes"] or 0 for result in results)
        memory = f"; the highest peak of resident memory was {peak / 2**20:,.0f} MiB" if peak else ""
        yield f"Real-time factor (wall seconds per second of audio): {wall}{memory}."
    if busy:
        yield f"Processor seconds per second of audio, which other programs hardly change: {busy}."


def _ends(results: Sequence[Result], factor: Callable[[Result], float | None]) -> str:
    """The least and the largest factor with their configurations; empty if none has one."""
    timed = [(value, result) for result in results if (value := factor(result))]
    ends = [end(timed, key=lambda each: each[0]) for end in (min, max)] if timed else []
    name = " ({})" if len(timed) > 1 else ""
    told = [f"{value:.2f}{name.format(result.name)}" for value, result in ends]
    threads = {result.threads for result in results}
    return " to ".join(told[: len(timed)]) + (on_threads(threads.pop()) if len(threads) == 1 else "")


def _units(n_recordings: int) -> str:
    few = ", no interval" if n_recordings < LEAST_UNITS else ""
    return f"n = {many(n_recordings, 'recording')}{few}"


def _worth(cache: CacheCounts, n_recordings: int) -> str:
    interval = cache.false_hit_interval
    if interval is None:
        return _UNCHECKED if cache.hits else "there was no hit"
    low, high = interval
    spread = f"95 % interval {percent(low)} to {percent(high)}"
    told = spread if n_recordings >= LEAST_UNITS else _units(n_recordings)
    wrong = {"false_hits": cache.false_hits, "rate": percent(cache.false_hit_rate)}
    return page_text("found-worth", checked=cache.checked, spread=told, **wrong)


def _examples(some: Sequence[Result]) -> str:
    more = f" and {len(some) - 2} more" if len(some) > 2 else ""
    return ", ".join(result.name for result in some[:2]) + more

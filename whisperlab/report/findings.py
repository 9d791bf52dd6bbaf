"""The findings and warnings of a sweep as sentences from its numbers. A hit rate stands beside its false-hit rate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter

from whisperlab.report.counts import KEY, PRECISION, WRONG_FRAMES, WRONG_TEXT, CacheCounts, Result
from whisperlab.report.page import page_text, page_texts

GUIDE_KEY, GUIDE_PRECISION = "rounded", 6  # the guide's key and its default
GUIDE_SAVING = 0.50  # "50-60 % reduction in encoder computations"
TRUSTED = 0.05  # highest useful false-hit rate: the error of language-ID itself on 5 s of clear speech
RARE = 0.01  # a lower hit rate saves no noticeable time
FEW_CHECKS = 30  # with fewer, the 95 % interval of a false-hit rate is wider than 30 points
FEW_RECORDINGS = 5


def findings(results: Sequence[Result]) -> tuple[str, ...]:
    """The findings, most important first; those that the numbers do not support are left out."""
    found = [*_guide_key(results), *_saving(results), *_cost(results), *_running(results)]
    if first := [sentence for sentence in found if "guide" in sentence][:1]:
        found[found.index(first[0])] += f" {page_text('guide')}"
    return tuple(found) or ("No run of this sweep finished, so it found nothing.",)


def warnings(
    results: Sequence[Result], n_recordings: int, failures: tuple[int, str] = (0, ""), notes: Iterable[str] = ()
) -> tuple[str, ...]:
    """Reasons for caution. ``failures``: the number of failed runs, and recording and error of the first."""
    caches = [result.cache for result in results]
    found = page_texts(
        "warnings",
        n_failed=failures[0],
        first=" ".join(failures[1].split()),
        n_configurations=len(results),
        n_short=sum(result.n_recordings < n_recordings for result in results),
        n_mixed=sum(result.n_runs > result.n_recordings for result in results),
        n_unchecked=sum(cache.hits > 0 and not cache.checked for cache in caches),
        n_rough=sum(0 < cache.checked < FEW_CHECKS for cache in caches),
        few_checks=FEW_CHECKS,
        is_slowed=sum(cache.checked for cache in caches) > sum(cache.hits for cache in caches) / 2,
        n=n_recordings,
        few_recordings=FEW_RECORDINGS,
    )
    return (*found, *notes)


def _guide_key(results: Sequence[Result]) -> Iterator[str]:
    groups: dict[object, list[Result]] = {}
    for result in results:
        if result.config.get(KEY) == GUIDE_KEY:
            groups.setdefault(result.config.get(PRECISION), []).append(result)
    sums = {precision: sum((result.cache for result in group), CacheCounts()) for precision, group in groups.items()}
    rates = {precision: rate for precision, cache in sums.items() if (rate := cache.hit_rate) is not None}
    if rare := [precision for precision, rate in rates.items() if rate < RARE]:
        cache = sum((sums[precision] for precision in rare), CacheCounts())
        yield page_text("guide_key_without_hits", precisions=rare, default=GUIDE_PRECISION, cache=cache)
    n = max((result.n_recordings for result in results), default=0)
    for precision in [known for known in rates if known not in rare]:
        sizes = len(groups[precision])
        yield page_text("guide_key", precision=precision, n_sizes=sizes, cache=sums[precision], n=n)


def _saving(results: Sequence[Result]) -> Iterator[str]:
    saving = [result for result in results if (result.cache.hit_rate or 0.0) >= GUIDE_SAVING]
    if sound := [result for result in saving if (rate := result.cache.false_hit_rate) is not None and rate <= TRUSTED]:
        yield page_text("saving", sound=sound, best=max(sound, key=lambda result: result.cache.saved_s))
    elif any(result.cache.lookups for result in results):
        nearest = _ends(saving, lambda result: result.cache.false_hit_rate)[:1]
        yield page_text("no_saving", trusted=TRUSTED, nearest=nearest, saving=saving)


def _cost(results: Sequence[Result]) -> Iterator[str]:
    """The errors of the text and those of the frames are two measures: each has its own sentence."""
    for measure in (WRONG_TEXT, WRONG_FRAMES):
        ends = _ends(results, partial(Result.error_by, measure=measure))
        if len(ends) == 2:
            n = min(result.n_recordings for result in results if result.error_by(measure) is not None)
            yield page_text("cost", measure=measure, of_frames=measure == WRONG_FRAMES, ends=ends, n=n)


def _running(results: Sequence[Result]) -> tuple[str, ...]:
    threads = {result.threads for result in results}
    return page_texts(
        "running",
        wall=_ends(results, lambda result: result.real_time_factor or None),
        busy=_ends(results, lambda result: result.processor_factor or None),
        threads=threads.pop() if len(threads) == 1 else None,
        peak=max((result.sums["peak_rss_bytes"] or 0 for result in results), default=0),
    )


def _ends(results: Sequence[Result], measure: Callable[[Result], float | None]) -> list[tuple[float, Result]]:
    """The least and the largest value of a measure with their results; fewer if fewer results have it."""
    known = [(value, result) for result in results if (value := measure(result)) is not None]
    return [end(known, key=itemgetter(0)) for end in (min, max)][: len(known)] if known else []

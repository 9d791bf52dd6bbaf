"""Speech without text is found, decoded again, or reported."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from whisperlab.streaming.coverage import LEAST_S, completed, reach, uncovered
from whisperlab.streaming.decoding import Word
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span, samples


def word(text: str, start_s: float, end_s: float) -> Word:
    return Word(text, (1,), samples(start_s), samples(end_s), -0.1)


def frames(start_s: float, end_s: float) -> list[int]:
    """Frames of speech from one time to another."""
    return [*range(samples(start_s) // VAD_FRAME * VAD_FRAME, samples(end_s), VAD_FRAME)]


TEN = Span(0, 10 * SAMPLE_RATE)


def test_words_that_fill_the_speech_leave_nothing_out() -> None:
    words = [word(" hello", 0.0, 0.5), word(" there", 0.5, 1.0)]
    assert uncovered(words, frames(0.0, 1.0), Span(0, SAMPLE_RATE)) == []


def test_a_word_that_lasts_seconds_hides_speech() -> None:
    words = [word(" hello", 0.0, 0.5), word(" five", 0.5, 4.0), word(" there", 4.0, 4.5)]
    (hole,) = uncovered(words, frames(0.0, 4.5), TEN)
    assert hole.index == 1
    assert hole.word_start == samples(0.5)
    assert samples(0.5) + reach(" five") - VAD_FRAME <= hole.span.start <= samples(0.5) + reach(" five") + VAD_FRAME
    assert hole.span.end <= samples(4.0) + VAD_FRAME


def test_a_long_word_over_a_pause_hides_nothing() -> None:
    words = [word(" hello", 0.0, 4.0), word(" there", 4.0, 4.5)]
    assert uncovered(words, [*frames(0.0, 0.5), *frames(4.0, 4.5)], TEN) == []


def test_figures_and_spelled_letters_may_take_longer_than_letters_of_a_word() -> None:
    assert reach(" 5551234") > reach(" letters")
    assert reach(" FBI") > reach(" fbi")


def test_speech_before_the_first_word_and_after_the_last_is_found() -> None:
    words = [word(" hello", 5.0, 5.4)]
    before, after = uncovered(words, frames(0.0, 10.0), TEN)
    assert (before.index, after.index) == (-1, 0)
    assert before.span == Span(0, samples(5.0) // VAD_FRAME * VAD_FRAME + VAD_FRAME)
    assert after.span.end == TEN.end


def test_committed_words_are_not_looked_at() -> None:
    words = [word(" one", 0.0, 5.0), word(" two", 5.0, 5.3)]
    assert uncovered(words, frames(0.0, 5.3), Span(samples(5.0), samples(5.3)), first=1) == []


def test_what_follows_a_cut_loop_is_decoded_from_the_last_word_on() -> None:
    words = [word(" press", 0.0, 0.4), word(" one", 0.4, 5.0)]
    rest = [word(" one", 0.4, 0.8), *(word(f" w{n}", 0.8 + 0.3 * n, 1.1 + 0.3 * n) for n in range(14))]
    asked: list[Span] = []

    def decode(span: Span) -> Sequence[Word]:
        asked.append(span)
        return rest

    found, left = completed(words, frames(0.0, 5.0), Span(0, samples(5.0)), decode)
    assert asked == [Span(samples(0.4), samples(5.0))]
    assert [each.text for each in found] == [" press", *(each.text for each in rest)]
    assert left == []


def test_speech_that_gives_no_text_is_reported_and_the_search_ends() -> None:
    words = [word(" hello", 0.0, 5.0)]
    asked: list[Span] = []

    def decode(span: Span) -> Sequence[Word]:
        asked.append(span)
        return ()

    found, left = completed(words, frames(0.0, 5.0), Span(0, samples(5.0)), decode)
    assert [each.text for each in found] == [" hello"]
    (span,) = left
    assert len(span) >= samples(5.0) - reach(" hello") - 2 * VAD_FRAME
    assert len(asked) == 1  # alone: from the word on is the window that gave these words


def test_unlikely_text_is_not_taken() -> None:
    words = [word(" hello", 0.0, 5.0)]
    invented = [Word(" thanks", (1,), samples(1.0), samples(2.0), -2.0)]
    found, left = completed(words, frames(0.0, 5.0), Span(0, samples(5.0)), lambda span: invented)
    assert [each.text for each in found] == [" hello"]
    assert len(left) == 1


def test_a_window_without_any_word_is_reported_whole() -> None:
    found, left = completed([], frames(1.0, 3.0), TEN, lambda span: ())
    assert found == []
    assert left == [Span(frames(1.0, 3.0)[0], frames(1.0, 3.0)[-1] + VAD_FRAME)]


spans = st.lists(st.tuples(st.floats(0, 9), st.floats(0.05, 3)), max_size=8)


@given(
    placed=st.lists(st.tuples(st.sampled_from([" a", " word", " 55"]), st.floats(0, 9.5)), max_size=12),
    voiced=spans,
    answer=st.sampled_from(["", " more", " 12345"]),
)
def test_the_search_ends_keeps_the_order_and_reports_what_is_left(
    placed: list[tuple[str, float]], voiced: list[tuple[float, float]], answer: str
) -> None:
    times = sorted(start for _, start in placed)
    ends = [*times[1:], 10.0][: len(times)]
    words = [word(text, a, b) for (text, _), a, b in zip(placed, times, ends, strict=True)]
    heard = sorted({f for start, length in voiced for f in frames(start, min(start + length, 10.0))})
    calls = []

    def decode(span: Span) -> Sequence[Word]:
        calls.append(span)
        assert TEN.start <= span.start < span.end <= TEN.end
        return [Word(answer, (1,), span.start, span.end, -0.1)] if answer else []

    found, left = completed(words, heard, TEN, decode)
    assert len(calls) <= 60
    assert [each.start for each in found] == sorted(each.start for each in found)
    missing = [hole.span for hole in uncovered(found, heard, TEN)]
    assert left == missing
    for span in left:
        assert sum(span.start <= f < span.end for f in heard) * VAD_FRAME >= samples(LEAST_S)

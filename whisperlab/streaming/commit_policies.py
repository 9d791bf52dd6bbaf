"""When words are final: policies over successive hypotheses of running speech.

`LocalAgreement` commits the words that two successive hypotheses share (Liu et al. 2020, as used by Macháček et al.
2023, arXiv 2307.14743). `AlignAtt` commits the words that the attention has left behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import takewhile

from whisperlab.streaming.decoding import Hypothesis, Word


def agreed(previous: Sequence[Word], current: Sequence[Word]) -> int:
    """Number of leading words two hypotheses share.

    >>> a = [Word(w, (), 0, 0, 0.0) for w in (" Hello", " big", " world")]
    >>> b = [Word(w, (), 0, 0, 0.0) for w in (" hello,", " big", " word")]
    >>> agreed(a, b)
    2
    """
    pairs = zip(previous, current, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


class CommitPolicy(ABC):
    """Decides which words of successive hypotheses will never change again."""

    def __init__(self) -> None:
        self.committed: list[Word] = []
        self._latest: tuple[Word, ...] = ()

    @abstractmethod
    def update(self, hypothesis: Hypothesis, horizon: int, end: int) -> list[Word]:
        """Add a hypothesis that begins with the committed words. Returns the words that it commits.

        Words that end after sample ``horizon`` are not committed. The audio of the hypothesis ends at sample ``end``.
        """

    @property
    def tentative(self) -> tuple[Word, ...]:
        """Words of the latest hypothesis beyond the committed ones."""
        return self._latest[len(self.committed) :]

    def _commit(self, words: tuple[Word, ...], horizon: int) -> list[Word]:
        """Commit the words that follow the committed ones, up to the first that ends after the horizon."""
        new = list(takewhile(lambda word: word.end <= horizon, words[len(self.committed) :]))
        self.committed.extend(new)
        return new


class LocalAgreement(CommitPolicy):
    """Commits words once two successive hypotheses agree on them."""

    def update(self, hypothesis: Hypothesis, horizon: int, end: int) -> list[Word]:
        shared = hypothesis.words[: agreed(self._latest, hypothesis.words)]
        self._latest = hypothesis.words
        return self._commit(shared, horizon)


class AlignAtt(CommitPolicy):
    """Commits words of one hypothesis that the attention places well before the end of the audio.

    A word whose attention reaches into the last ``lag`` samples can be incomplete or guessed; words before it are
    complete (Papi et al. 2023, arXiv 2305.11408). It needs one hypothesis only, so it commits a step earlier.
    """

    def __init__(self, lag: int) -> None:
        super().__init__()
        self._lag = lag

    def update(self, hypothesis: Hypothesis, horizon: int, end: int) -> list[Word]:
        self._latest = hypothesis.words
        return self._commit(hypothesis.words, min(horizon, end - self._lag))

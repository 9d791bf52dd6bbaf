"""When words are final: policies over successive hypotheses of running speech.

*Local agreement* commits the words that two successive hypotheses share (Liu et al. 2020, as used by Macháček et al.
2023, arXiv 2307.14743). *AlignAtt* commits the words of one hypothesis that the attention has left behind. A word whose
attention reaches into the last ``lag`` samples can be incomplete or guessed; words before it are complete (Papi et al.
2023, arXiv 2305.11408). AlignAtt needs one hypothesis only, so it commits a step earlier.
"""

from collections.abc import Sequence
from itertools import takewhile

from whisperlab.streaming.decoding import Hypothesis, Word, confidence_of


def agreed(previous: Sequence[Word], current: Sequence[Word]) -> int:
    """Number of leading words two hypotheses share.

    >>> a = [Word(w, (), 0, 0, 0.0) for w in (" Hello", " big", " world")]
    >>> b = [Word(w, (), 0, 0, 0.0) for w in (" hello,", " big", " word")]
    >>> agreed(a, b)
    2
    """
    pairs = zip(previous, current, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


class CommitPolicy:
    """Decides which words never change again: by AlignAtt with a ``lag``, otherwise by local agreement.

    A word whose mean token probability is below ``clear`` is not committed, nor are the words after it, until it lies
    ``patience`` samples behind the end of the audio.
    """

    def __init__(self, lag: int | None = None, clear: float = 0.0, patience: int = 0) -> None:
        self.committed: list[Word] = []
        self._latest: tuple[Word, ...] = ()
        self._lag, self._clear, self._patience = lag, clear, patience

    def update(self, hypothesis: Hypothesis, horizon: int, end: int) -> list[Word]:
        """Add a hypothesis that begins with the committed words. Returns the words that it commits.

        Words from the first on that ends after sample ``horizon`` are not committed. The audio of the hypothesis ends
        at sample ``end``.
        """
        words = hypothesis.words
        if self._lag is None:
            words = words[: agreed(self._latest, words)]
        else:
            horizon = min(horizon, end - self._lag)
        self._latest = hypothesis.words

        def is_reliable(word: Word) -> bool:
            waited = word.end <= end - self._patience
            return word.end <= horizon and (waited or self._is_clear(word))

        new = list(takewhile(is_reliable, words[len(self.committed) :]))
        self.committed.extend(new)
        return new

    @property
    def tentative(self) -> tuple[Word, ...]:
        """Words of the latest hypothesis beyond the committed ones."""
        return self._latest[len(self.committed) :]

    @property
    def is_clear(self) -> bool:
        """Whether no tentative word is below ``clear``."""
        return all(map(self._is_clear, self.tentative))

    def _is_clear(self, word: Word) -> bool:
        return confidence_of([word]) >= self._clear

"""From a window of speech to words: guarded greedy decoding, word times, and when a word may be relied on.

Three layers, each usable alone. `SpeechDecoder.decode` turns audio in a known language into a `Hypothesis`,
continuing a forced prefix. Whisper base on a short window sometimes falls into a loop or invents text, so
the decoder has a token budget per second of audio, stops at repeated n-grams and tries again with a longer
margin of silence, and returns nothing where the model itself says there is no speech. `align` places words in
time by a monotone path through the cross-attention of the alignment heads. A `CommitPolicy` says which words
are final: `LocalAgreement` those that two successive hypotheses share (Liu et al. 2020, as used by Macháček et al.
2023, arXiv 2307.14743), `AlignAtt` those that the attention has left behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.alignment import median_filter
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.text_decoder import DecoderState, TextDecoder
from whisperlab.model.tokenizer import Tokenizer, tokenizer_for
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.line_profile import line_profiled
from whisperlab.util.options import Options, option
from whisperlab.util.timeline import POSITION, SAMPLE_RATE, seconds
from whisperlab.util.validation import shown

MOST_TOKENS = 448  # that the decoder can hold
REPETITION = 4  # encoder positions (80 ms): a syllable that somebody repeats takes longer
MAX_PROMPT = 223  # tokens of earlier text: half of what the decoder can hold, less one, as in openai-whisper
MEANINGFUL = re.compile(r"[^\W_]")  # any letter or digit of any script


def is_meaningful(text: str) -> bool:
    """Whether text holds a letter or digit of any script (the guide's ``[a-zA-Z0-9]`` knows Latin only).

    >>> is_meaningful("Привет"), is_meaningful("你好"), is_meaningful(" ... ")
    (True, True, False)
    """
    return MEANINGFUL.search(text) is not None


@dataclass(slots=True, frozen=True)
class DecodingOptions(Options):
    """How hypotheses are made. Text is dropped when ``no_speech`` and ``min_log_probability`` both say so."""

    GROUP: ClassVar[str] = "decoding"

    trailing_silence_s: tuple[float, ...] = option(
        (1.0, 10.0),
        "seconds of silence after the window: the first for every decode, the others for a second try after a "
        "repetition loop or an empty text (with little silence Whisper can miss speech that begins within a word)",
    )
    tokens_per_second: float = option(
        12.0,
        "limit of the text; fast Russian, the densest of our recordings, needs 9",
        0,
        above=True,
        below=True,
    )
    spare_tokens: int = option(8, "tokens allowed beyond that limit", 0, MOST_TOKENS)
    no_speech: float = option(
        0.6, "no-speech probability above which text can be dropped; openai-whisper's default"
    )
    min_log_probability: float = option(
        -1.0, "mean log-probability below which text can be dropped; openai-whisper's default"
    )

    def check(self) -> None:
        """Raise ConfigurationError for silences that are missing or out of range."""
        if not self.trailing_silence_s or not all(0 <= value <= 30 for value in self.trailing_silence_s):
            raise ConfigurationError(
                "decoding.trailing_silence_s needs one or more values of 0 to 30, "
                f"got {shown(self.trailing_silence_s)}"
            )


@dataclass(slots=True, frozen=True)
class Word:
    """One word with its tokens and its place; ``start`` and ``end`` are samples since the stream began."""

    text: str
    tokens: tuple[int, ...]
    start: int
    end: int
    log_probability: float  # sum over its tokens

    @property
    def key(self) -> str:
        """What two hypotheses must share to agree on the word: its letters, whatever case and punctuation."""
        return "".join(MEANINGFUL.findall(self.text.casefold())) or self.text.strip()


@dataclass(slots=True, frozen=True)
class Hypothesis:
    """Words the decoder found in a window, the forced prefix included."""

    words: tuple[Word, ...]
    looped: bool = False

    @property
    def log_probability(self) -> float:
        """Mean log-probability of a token, 0 for no words."""
        n_tokens = sum(len(word.tokens) for word in self.words)
        return sum(word.log_probability for word in self.words) / n_tokens if n_tokens else 0.0


def text_of(words: Sequence[Word]) -> str:
    """The words as people read them."""
    return "".join(word.text for word in words).strip()


def confidence_of(words: Sequence[Word]) -> float:
    """Geometric mean of the token probabilities, 0 to 1; 0 for no words."""
    return math.exp(Hypothesis(tuple(words)).log_probability) if words else 0.0


def repeated_tail(tokens: Sequence[int], longest: int = 12) -> tuple[int, int]:
    """Period and number of the repetitions that tokens end with: ``(n, times)``, ``(0, 0)`` when there are none.

    A repetition is an n-gram three times in a row, or a single token four times.

    >>> repeated_tail([5, 1, 2, 1, 2, 1, 2])
    (2, 3)
    """
    for n in range(1, min(longest, len(tokens)) + 1):
        unit, times = list(tokens[-n:]), 1
        while list(tokens[-n * (times + 1) : -n * times]) == unit:
            times += 1
        if times >= (4 if n == 1 else 3):
            return n, times
    return 0, 0


def following(places: NDArray[np.intp], period: int) -> int:
    """How many repetitions of a text follow speech that repeats; the others are a loop of the decoder.

    ``places`` are the positions that the repeated tokens attend to (`attended`), ``period`` the tokens of one
    repetition. In speech that repeats, attention moves on with each repetition. In a loop it returns to the same
    audio or stands still. All repetitions follow when the last three move on by `REPETITION` each on average, to
    later audio than any before. Otherwise those up to the first that does not move on.

    >>> following(np.array([5, 37, 46, 77, 87, 117]), 2), following(np.array([10, 25, 40, 11, 25, 40]), 3)
    (3, 1)
    """
    middles = np.median(places.reshape(-1, period), axis=1)
    if (
        middles[-1] - middles[-3:][0] >= REPETITION * (len(middles[-3:]) - 1)
        and middles[-1] > middles[:-1].max()
    ):
        return len(middles)
    stops = np.flatnonzero(np.diff(np.maximum.accumulate(middles)) < REPETITION / 2)
    return int(stops[0]) + 1 if len(stops) else len(middles)


def monotone_path(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """First column of each row on the cheapest monotone path through a cost matrix (dynamic time warping).

    The path runs from the first cell to the last with steps right, down or diagonal. Row by row
    ``D[i, j] = c[i, j] + min(D[i-1, j], D[i-1, j-1], D[i, j-1])``, where the last term is a running minimum.
    """
    n_rows, n_columns = cost.shape
    total = np.empty_like(cost)
    total[0] = np.cumsum(cost[0])
    for i in range(1, n_rows):
        above = total[i - 1]
        entry = np.minimum(above, np.concatenate(([np.inf], above[:-1])))
        so_far = np.cumsum(cost[i])
        total[i] = so_far + np.minimum.accumulate(entry - (so_far - cost[i]))
    first = np.zeros(n_rows, dtype=np.intp)
    j = n_columns - 1
    for i in range(n_rows - 1, 0, -1):
        above = np.minimum(total[i - 1], np.concatenate(([np.inf], total[i - 1, :-1])))
        while j > 0 and total[i, j - 1] < above[j]:
            j -= 1
        first[i] = j
        if j > 0 and total[i - 1, j - 1] <= total[i - 1, j]:
            j -= 1
    return first


def token_starts(attention: torch.Tensor, n_audio: int) -> NDArray[np.intp]:
    """Position at which each row of attention begins, from weights of shape (heads, rows, positions).

    As openai-whisper's word timestamps: weights standardised over rows, smoothed over seven positions,
    averaged over heads, then a monotone path; without its just-in-time compiled path search (4 s to start).
    """
    return monotone_path(-_sharpened(attention, n_audio).double().cpu().numpy())


def attended(attention: torch.Tensor, n_audio: int) -> NDArray[np.intp]:
    """Position that each row of attention looks at most, from weights of shape (heads, rows, positions).

    As `token_starts` without the monotone path: rows may go back in time.
    """
    found: NDArray[np.intp] = _sharpened(attention, n_audio).argmax(-1).cpu().numpy()
    return found


def _sharpened(attention: torch.Tensor, n_audio: int) -> torch.Tensor:
    """Attention standardised over rows, smoothed over seven positions and averaged over heads: (rows, positions)."""
    weights = attention[:, :, : max(n_audio, 1)]
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    return median_filter((weights - mean) / (std + 1e-9), 7).mean(0)


@dataclass(slots=True)
class _Draft:
    """Tokens chosen so far with their log-probabilities, and the decoder that chose them."""

    state: DecoderState
    first: int  # row of the state's alignment that predicts the first token of the text, prefix included
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    no_speech: float = 0.0
    looped: bool = False

    @property
    def mean(self) -> float:
        """Mean log-probability of the tokens, of which there is at least one."""
        return sum(self.log_probabilities) / len(self.log_probabilities)

    def drop_last(self, n_tokens: int) -> None:
        """Take back repeated tokens and note that there was a loop."""
        keep = max(len(self.tokens) - n_tokens, 0)
        del self.tokens[keep:], self.log_probabilities[keep:]
        self.looped = True


class SpeechDecoder:
    """Greedy, guarded decoding of short windows in a given language."""

    def __init__(
        self,
        encoder: ShortWindowEncoder,
        stack: TextDecoder,
        options: DecodingOptions,
        metrics: PerformanceMetrics,
        n_languages: int = 99,
        *,
        share: bool = False,
    ) -> None:
        self._encoder = encoder
        self._stack = stack
        self._options = options
        self._metrics = metrics
        self._n_languages = n_languages
        self._suppressed = self._suppression_mask()
        self._share = share
        self.reset()

    def reset(self) -> None:
        """Begin a new stream: forget the window encoded last, and the counts."""
        self.redecodes = 0  # windows decoded again because of a loop, or because no text was found
        self.shared = 0  # windows asked for again and not encoded again
        self._last: tuple[tuple[int, int, float], Encoded] | None = None

    def decode(
        self,
        audio: NDArray[np.float32],
        offset: int,
        language: str,
        prefix: Sequence[Word] = (),
        guess: Sequence[Word] = (),
        *,
        prompt: Sequence[int] = (),
        retry: bool = True,
    ) -> Hypothesis:
        """Decode one window.

        Args:
            audio: the window, float32 at 16 kHz.
            offset: sample of the stream the window begins at; word times are relative to the stream.
            language: Whisper language code.
            prefix: words the text must begin with (they keep their times and probabilities).
            guess: words expected after the prefix, such as the last hypothesis. They are checked in one pass
                and kept as far as greedy decoding would choose them too, so they save time and change nothing
                (speculative decoding with the past as the draft; Leviathan et al. 2023, arXiv 2211.17192).
            prompt: tokens of text said before the window; of long ones the newest `MAX_PROMPT` count.
            retry: False takes the first margin only; the hypothesis then says when it ``looped``.
        """
        trailing_silence_s = self._options.trailing_silence_s[: None if retry else 1]
        for attempt, margin_s in enumerate(trailing_silence_s):
            encoded = self.encoded(audio, offset, margin_s)
            with self._metrics.measure("whisper.decode"), torch.inference_mode():
                draft = self._draft(encoded, seconds(len(audio)), language, prefix, guess, prompt)
            if not draft.looped and not self._is_nothing(draft, prefix):
                break
            self.redecodes += attempt + 1 < len(trailing_silence_s)
        if self._is_nothing(draft, prefix):
            return Hypothesis(())
        return Hypothesis((*prefix, *self._words(draft, encoded, offset, prefix, language)), draft.looped)

    def likelihoods(
        self, audio: NDArray[np.float32], offset: int, languages: Sequence[str]
    ) -> list[float | None]:
        """Mean log-probability of a token of the text in each language, the window encoded once.

        None for a language in which there is no text or it loops.
        """
        encoded = self.encoded(audio, offset)
        found: list[float | None] = []
        for language in languages:
            with self._metrics.measure("whisper.decode"), torch.inference_mode():
                draft = self._draft(encoded, seconds(len(audio)), language, (), (), ())
            nothing = draft.looped or self._is_nothing(draft, ())
            found.append(None if nothing else draft.mean)
        return found

    def encoded(self, audio: NDArray[np.float32], offset: int, margin_s: float | None = None) -> Encoded:
        """A window that begins at sample ``offset`` of the stream, encoded as for a decode.

        With ``share`` the last one is kept, for whoever asks for it next.
        """
        margin_s = self._options.trailing_silence_s[0] if margin_s is None else margin_s
        place = offset, len(audio), margin_s
        if self._last and self._last[0] == place:
            self.shared += 1
            return self._last[1]
        with self._metrics.measure("whisper.insert_audio"):
            encoded = self._encoder.encode(audio, round(margin_s * SAMPLE_RATE))
        if self._share:
            self._last = place, encoded
        return encoded

    @line_profiled
    def _draft(
        self,
        encoded: Encoded,
        duration_s: float,
        language: str,
        prefix: Sequence[Word],
        guess: Sequence[Word],
        prompt: Sequence[int],
    ) -> _Draft:
        """Greedy tokens after the prefix, up to the end of text, the budget, or a loop."""
        tokenizer = tokenizer_for(language, self._n_languages)
        forced = [token for word in prefix for token in word.tokens]
        before = [tokenizer.sot_prev, *prompt[-MAX_PROMPT:]] if prompt else []
        start = [*before, *tokenizer.sot_sequence, tokenizer.no_timestamps, *forced]
        budget = self._options.spare_tokens + int(self._options.tokens_per_second * duration_s) - len(forced)
        budget = min(budget, self._stack.max_tokens - len(start) - 1)
        expected = [token for word in guess for token in word.tokens][: max(budget, 0)]
        state = self._stack.open(encoded)
        hidden = self._stack.extend(state, [*start, *expected], keep_alignment=True)
        first = len(before) + len(tokenizer.sot_sequence)  # the row that predicts the first text token
        draft = _Draft(state, first, no_speech=self._no_speech(hidden[len(before)], tokenizer))
        logits = self._stack.likely_logits(hidden[len(start) - 1 :], self._suppressed)
        if not forced:
            logits[0, [tokenizer.eot, *tokenizer.encode(" ")]] = -torch.inf
        at = 0  # row of logits that chooses the next token
        while len(draft.tokens) < budget:
            token = int(logits[at].argmax())
            if token == tokenizer.eot:
                self._stack.rewind(state, len(start) + len(draft.tokens))
                return draft
            draft.tokens.append(token)
            draft.log_probabilities.append(float(logits[at].log_softmax(-1)[token]))  # logsumexp: 2 ms
            if loop := self._loop(draft, forced, encoded):
                draft.drop_last(loop)
                return draft
            if expected[at : at + 1] == [token]:
                at += 1
                continue
            self._stack.rewind(state, len(start) + len(draft.tokens) - 1)
            hidden = self._stack.extend(state, [token], keep_alignment=True)
            logits, at, expected = self._stack.likely_logits(hidden, self._suppressed), 0, []
        draft.looped = True
        return draft

    def _loop(self, draft: _Draft, forced: Sequence[int], encoded: Encoded) -> int:
        """Number of tokens at the end of a draft that repeat the text before them without speech that repeats."""
        text = [*forced, *draft.tokens]
        period, times = repeated_tail(text)
        if not period:
            return 0
        rows = draft.state.alignment[:, draft.first : draft.first + len(text)]
        places = attended(rows, encoded.n_audio)[-period * times :]
        return period * (times - following(places, period))

    def _no_speech(self, hidden: torch.Tensor, tokenizer: Tokenizer) -> float:
        return float(self._stack.likely_logits(hidden[None])[0].softmax(-1)[tokenizer.no_speech])

    def _is_nothing(self, draft: _Draft, prefix: Sequence[Word]) -> bool:
        """Whether the model says nobody spoke; text already committed cannot be taken back."""
        if prefix or not draft.tokens:
            return not prefix
        return draft.no_speech > self._options.no_speech and draft.mean < self._options.min_log_probability

    def _words(
        self, draft: _Draft, encoded: Encoded, offset: int, prefix: Sequence[Word], language: str
    ) -> list[Word]:
        """Group new tokens into words and place them; times never run backwards past the prefix."""
        if not draft.tokens:
            return []
        tokenizer = tokenizer_for(language, self._n_languages)
        attention = draft.state.alignment[:, draft.first :]
        starts = token_starts(attention, encoded.n_audio)
        at = sum(len(word.tokens) for word in prefix)
        floor = prefix[-1].end if prefix else offset
        ends = np.append(starts[1:], encoded.n_audio)
        words: list[Word] = []
        texts, groups = tokenizer.split_to_word_tokens([*draft.tokens, tokenizer.eot])
        done = 0
        for text, group in zip(texts[:-1], groups[:-1], strict=True):
            where = at + done
            start = max(offset + int(starts[where]) * POSITION, floor)
            end = offset + int(ends[where + len(group) - 1]) * POSITION
            probability = sum(draft.log_probabilities[done : done + len(group)])
            words.append(Word(text, tuple(group), start, max(start, end), probability))
            done += len(group)
        return words

    def _suppression_mask(self) -> torch.Tensor:
        """0 for tokens that may be said, -inf for symbols, annotations and every special token but the end."""
        tokenizer = tokenizer_for("en", self._n_languages)
        mask = torch.zeros(self._stack.n_vocabulary)
        mask[list(tokenizer.non_speech_tokens)] = -torch.inf
        mask[tokenizer.eot + 1 :] = -torch.inf
        return mask.to(self._stack.device)


def agreed(previous: Sequence[Word], current: Sequence[Word]) -> int:
    """Number of leading words two hypotheses share.

    >>> a = [Word(w, (), 0, 0, 0.0) for w in (" Hello", " big", " world")]
    >>> b = [Word(w, (), 0, 0, 0.0) for w in (" hello,", " big", " word")]
    >>> agreed(a, b)
    2
    """
    n = 0
    for old, new in zip(previous, current, strict=False):
        if old.key != new.key:
            break
        n += 1
    return n


class CommitPolicy(Protocol):
    """Decides which words of successive hypotheses will never change again."""

    committed: list[Word]

    def update(self, hypothesis: Hypothesis, horizon: int, heard: int) -> list[Word]:
        """Take a hypothesis that begins with the committed words; returns the words it newly commits.

        No word that ends after the sample ``horizon`` may be committed; ``heard`` is where its audio ended.
        """

    @property
    def tentative(self) -> tuple[Word, ...]:
        """Words of the latest hypothesis beyond the committed ones."""


class _Committing:
    """What the policies share: the words committed and the latest hypothesis."""

    __slots__ = ("_latest", "committed")

    def __init__(self) -> None:
        self.committed: list[Word] = []
        self._latest: tuple[Word, ...] = ()

    @property
    def tentative(self) -> tuple[Word, ...]:
        """Words of the latest hypothesis beyond the committed ones."""
        return self._latest[len(self.committed) :]

    def _commit(self, words: tuple[Word, ...], horizon: int) -> list[Word]:
        """Commit the words that follow the committed ones, up to the first that ends after the horizon."""
        new = list(takewhile(lambda word: word.end <= horizon, words[len(self.committed) :]))
        self.committed.extend(new)
        return new


class LocalAgreement(_Committing):
    """Commits words once two successive hypotheses agree on them."""

    __slots__ = ()

    def update(self, hypothesis: Hypothesis, horizon: int, heard: int) -> list[Word]:
        """See `CommitPolicy`."""
        shared = hypothesis.words[: agreed(self._latest, hypothesis.words)]
        self._latest = hypothesis.words
        return self._commit(shared, horizon)


class AlignAtt(_Committing):
    """Commits words of one hypothesis that the attention places well before the end of the audio.

    A word whose attention reaches into the last ``lag`` samples may be cut off or guessed; those before it have been
    heard whole (Papi et al. 2023, arXiv 2305.11408). Needs no second hypothesis, so it is a step quicker.
    """

    __slots__ = ("_lag",)

    def __init__(self, lag: int) -> None:
        super().__init__()
        self._lag = lag

    def update(self, hypothesis: Hypothesis, horizon: int, heard: int) -> list[Word]:
        """See `CommitPolicy`."""
        self._latest = hypothesis.words
        return self._commit(hypothesis.words, min(horizon, heard - self._lag))

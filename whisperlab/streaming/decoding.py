"""Decoding of a window of speech into words with times.

`SpeechDecoder.decode` turns audio in a known language into a `Hypothesis` that continues a forced prefix: greedily for
running speech, with more silence and a beam search for final text. Against loops and invented text it has a token
budget per second, stops at repeated n-grams, tries again with more silence, and can return an empty hypothesis.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.engine import Decoder
from whisperlab.model.text_decoder import Draft, Prompt
from whisperlab.model.tokenizer import REPLACEMENT, Tokenizer, tokenizer_for
from whisperlab.streaming.results import SegmentWord
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.options import Options, option
from whisperlab.util.timeline import POSITION, SAMPLE_RATE, seconds
from whisperlab.util.validation import shown

MOST_TOKENS = 448  # capacity of the decoder
KEPT_WINDOWS = 4  # of speech: the proof of a switch, final text with and without context, and the check of its language
ECHO = SAMPLE_RATE // 20  # samples; a word of fewer was not spoken
MEANINGFUL = re.compile(r"[^\W_]")  # any letter or digit of any script


def is_meaningful(text: str) -> bool:
    """Whether text contains a letter or digit of any script (the guide's ``[a-zA-Z0-9]`` is Latin only).

    >>> is_meaningful("Привет"), is_meaningful("你好"), is_meaningful(" ... ")
    (True, True, False)
    """
    return MEANINGFUL.search(text) is not None


@dataclass(slots=True, frozen=True)
class DecodingOptions(Options, group="decoding"):
    """How hypotheses are made. Text is dropped when ``no_speech`` and ``min_log_probability`` both say so."""

    trailing_silence_s: float = option(1.0, "silence after the window of running speech, seconds", 0, 30)
    final_silence_s: tuple[float, ...] = option(
        (3.0, 10.0), "seconds of silence after the window of final text, try by try: more after a loop or an empty text"
    )
    final_window_s: float = option(
        8.0, "least length of the window of final text, silence included: short speech gets more silence", 0, 30
    )
    final_beam: int = option(3, "texts of the beam search for final text, unless it is clear; 1: greedy", 1, 10)
    tokens_per_second: float = option(
        12.0, "limit of the text; three times as many where letters take several tokens (Hindi)", 0, exclusive=True
    )
    spare_tokens: int = option(8, "tokens allowed beyond that limit", 0, MOST_TOKENS)
    no_speech: float = option(0.6, "no-speech probability above which text can be dropped; openai-whisper's default")
    min_log_probability: float = option(-1.0, "mean log-probability below which text can be dropped; as openai-whisper")

    def silences_s(self, n_samples: int) -> list[float]:
        """Seconds of silence after a window of final text, try by try."""
        least_s = self.final_window_s - seconds(n_samples)
        return [max(silence_s, least_s) for silence_s in self.final_silence_s]

    def check(self) -> None:
        got = self.final_silence_s
        if not got or not all(0 <= value <= 30 for value in got):
            raise ConfigurationError(f"decoding.final_silence_s needs one or more values of 0 to 30, got {shown(got)}")


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
        """The letters of the word without case and punctuation; two hypotheses with the same key agree on it."""
        return "".join(MEANINGFUL.findall(self.text.casefold())) or self.text.strip()


Words: TypeAlias = Sequence[Word]


@dataclass(slots=True, frozen=True)
class Hypothesis:
    """The words of a window, the forced prefix included. ``looped`` says that the decoder stopped at a loop."""

    words: tuple[Word, ...]
    looped: bool = False

    @property
    def log_probability(self) -> float:
        """Mean log-probability of a token, 0 for no words."""
        n_tokens = sum(len(word.tokens) for word in self.words)
        return sum(word.log_probability for word in self.words) / n_tokens if n_tokens else 0.0


def joined(words: Words) -> str:
    """The words as one text, with the space before the first."""
    return "".join(word.text for word in words)


def text_of(words: Words) -> str:
    return joined(words).strip()


def confidence_of(words: Words) -> float:
    """Geometric mean of the token probabilities, 0 to 1; 0 for no words."""
    return math.exp(Hypothesis(tuple(words)).log_probability) if words else 0.0


def without_echo(words: Words, n_prefix: int = 0) -> Words:
    """The words without a repetition at their end for which there is no audio; the first ``n_prefix`` always stay.

    Whisper sometimes says a short text twice. The second has no time of its own, because attention stays at the end.
    """
    for n in range(min(len(words) // 2, len(words) - n_prefix), 0, -1):
        again, before = words[-n:], words[-2 * n : -n]
        if again[-1].end - again[0].start < n * ECHO and all(
            a.key == b.key for a, b in zip(again, before, strict=True)
        ):
            return without_echo(words[:-n], n_prefix)
    return words


def segment_words(words: Words, language: str) -> tuple[SegmentWord, ...]:
    """Words for a result: punctuation joins the word before it, or after it if a space precedes it, as in ``" (a)"``.

    Times and probability stay those of the letters, because the attention to a full stop is in the pause after it.
    """
    found: list[SegmentWord] = []
    opening = ""
    for word in words:
        if is_meaningful(word.text):
            times = seconds(word.start), seconds(word.end)
            found.append(SegmentWord(opening + word.text, *times, confidence_of([word]), language))
            opening = ""
        elif found and not word.text.startswith(" "):
            found[-1] = replace(found[-1], word=found[-1].word + word.text)
        else:
            opening += word.text
    if opening and found:
        found[-1] = replace(found[-1], word=found[-1].word + opening)
    return tuple(found)


class _Window(NamedTuple):
    """An encoded window, and its texts of `SpeechDecoder.likelihoods` by language."""

    encoded: Encoded
    drafts: dict[str, Draft]


@dataclass(eq=False)
class SpeechDecoder:
    """Guarded decoding of short windows in a given language."""

    encoder: ShortWindowEncoder
    stack: Decoder
    options: DecodingOptions
    metrics: PerformanceMetrics
    n_languages: int = 99
    share: bool = field(default=False, kw_only=True)
    added: tuple[tuple[int, str], ...] = field(default=(), kw_only=True)  # tokens of text that are not Whisper's

    def __post_init__(self) -> None:
        # 0 for allowed tokens, -inf for symbols, annotations and all special tokens except the end of text
        tokenizer = self._tokenizer("en")
        mask = torch.zeros(self.stack.n_vocabulary)
        mask[list(tokenizer.non_speech_tokens)] = -torch.inf
        mask[tokenizer.eot + 1 :] = -torch.inf
        mask[list(tokenizer.added)] = 0
        self._suppressed = mask.to(self.stack.device)
        self.reset()

    def _tokenizer(self, language: str) -> Tokenizer:
        return tokenizer_for(language, self.n_languages, self.added)

    def reset(self) -> None:
        """Start a new stream: drop the encoded windows and the counts."""
        self.redecodes = 0  # windows decoded again because of a loop, or because no text was found
        self.shared = 0  # windows that were needed again and not encoded again
        self._recent: dict[tuple[int, int, float], _Window] = {}  # by offset, samples and silence, the oldest first

    def decode(
        self,
        audio: NDArray[np.float32],
        offset: int,  # sample of the stream the window begins at; word times are relative to the stream
        language: str,
        prefix: Words = (),  # words the text must start with; they keep their times and probabilities
        guess: Words = (),  # words expected after the prefix, such as the last hypothesis
        *,
        final: bool = True,  # False: one greedy decode with the first trailing silence
    ) -> Hypothesis:
        """Decode one window, float32 at 16 kHz: greedily while speech runs, by a beam search for ``final`` text.

        One pass checks the guess and keeps the words that greedy decoding chooses too, so they save time and never
        change the result (speculative decoding with the past as the draft; Leviathan et al. 2023, arXiv 2211.17192).
        """
        options = self.options
        silences_s, beam = [options.trailing_silence_s], 1
        if final:
            silences_s, beam = options.silences_s(len(audio)), options.final_beam
        for attempt, silence_s in enumerate(silences_s):
            window = self._window(audio, offset, silence_s)
            encoded = window.encoded
            with self.metrics.measure("whisper.decode"), torch.inference_mode():
                known = None if prefix or beam > 1 else window.drafts.get(language)
                draft = known or self.draft(encoded, seconds(len(audio)), language, prefix, guess, beam)
            nothing = self._is_nothing(draft, prefix)
            words = () if nothing else (*prefix, *self._words(draft, encoded, offset, prefix, language))
            spoken = without_echo(words, len(prefix))
            looped = draft.looped or len(spoken) < len(words)
            if not looped and not nothing:
                break
            self.redecodes += attempt + 1 < len(silences_s)
        return Hypothesis(tuple(spoken), looped and not nothing)

    def likelihoods(self, audio: NDArray[np.float32], offset: int, languages: Sequence[str]) -> list[float | None]:
        """Mean log-probability of a token of the text in each language; None for one whose text is empty or loops."""
        window = self._window(audio, offset, self.options.trailing_silence_s)
        prompts = [self._prompt(seconds(len(audio)), language, (), ()) for language in languages]
        with self.metrics.measure("whisper.decode"), torch.inference_mode():
            drafts = self.stack.greedy(window.encoded, prompts, self._suppressed)
        window.drafts.update(zip(languages, drafts, strict=True))
        return [None if draft.looped or self._is_nothing(draft, ()) else draft.mean for draft in drafts]

    def encoded(self, audio: NDArray[np.float32], offset: int, silence_s: float | None = None) -> Encoded:
        """A window that begins at sample ``offset`` of the stream, encoded as for a decode."""
        silence_s = self.options.trailing_silence_s if silence_s is None else silence_s
        return self._window(audio, offset, silence_s).encoded

    def _window(self, audio: NDArray[np.float32], offset: int, silence_s: float) -> _Window:
        """An encoded window. With ``share`` the last `KEPT_WINDOWS` are kept, and returned again with their texts."""
        place = offset, len(audio), silence_s
        if known := self._recent.get(place):
            self.shared += 1
            return known
        with self.metrics.measure("whisper.insert_audio"):
            window = _Window(self.encoder.encode(audio, round(silence_s * SAMPLE_RATE)), {})
        if self.share:
            self._recent[place] = window
            if len(self._recent) > KEPT_WINDOWS:
                del self._recent[next(iter(self._recent))]
        return window

    def draft(self, encoded: Encoded, length_s: float, language: str, prefix: Words, guess: Words, beam: int) -> Draft:
        """Tokens after the prefix, up to the end of text, the budget, or a loop."""
        prompt = self._prompt(length_s, language, prefix, guess)
        if beam > 1:
            return self.stack.beam(encoded, prompt, self._suppressed, beam)
        return self.stack.greedy(encoded, [prompt], self._suppressed)[0]

    def _prompt(self, duration_s: float, language: str, prefix: Words, guess: Words) -> Prompt:
        tokenizer = self._tokenizer(language)
        forced = [token for word in prefix for token in word.tokens]
        given = Prompt(tokenizer, forced, (), 0)
        rate = self.options.tokens_per_second * tokenizer.density
        budget = self.options.spare_tokens + int(rate * duration_s) - len(forced)
        budget = min(budget, self.stack.max_tokens - len(given.tokens) - 1)
        expected = [token for word in guess for token in word.tokens][: max(budget, 0)]
        return replace(given, expected=expected, budget=budget)

    def _is_nothing(self, draft: Draft, prefix: Words) -> bool:
        """Whether the model finds no speech. Committed text stays, so a prefix is never nothing."""
        if prefix or not draft.tokens:
            return not prefix
        return draft.mean < self.options.min_log_probability and draft.no_speech() > self.options.no_speech

    def _words(self, draft: Draft, encoded: Encoded, offset: int, prefix: Words, language: str) -> list[Word]:
        """Group new tokens into words with times; no word starts before the end of the prefix.

        A word that holds a part of a character, because a loop or the budget cut the text, is dropped.
        """
        if not draft.tokens:
            return []
        tokenizer = self._tokenizer(language)
        starts = draft.starts()
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
            if REPLACEMENT not in text:
                words.append(Word(text, tuple(group), start, max(start, end), probability))
            done += len(group)
        return words

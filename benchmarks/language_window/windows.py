"""Accuracy of language identification by window length, trailing silence, allowed languages and English bias.

Windows come from recordings of known language. Each lies within one *block*: consecutive segments in one language. A
window is encoded once and its logits over all languages are kept; allowed languages, English bias and temperature are
then arithmetic on the same rows. All conditions take turns at the same places, so they can be compared place by place.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whisperlab.model.engine import prepared
from whisperlab.model.weights import Weights, weights_of
from whisperlab.streaming.language_id import LanguageIdentifier, LanguageIdOptions, check_languages, softmax
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MAX_WINDOW, Span, samples, seconds

if TYPE_CHECKING:
    from whisper.model import Whisper

    from whisperlab.data import Recording
    from whisperlab.evaluation.trace import ReferenceSegment

Logits: TypeAlias = NDArray[np.float64]  # shape (windows, languages); -inf for a language that is not allowed
Clock: TypeAlias = Callable[[], float]

POOL_AFTER = LanguageIdOptions().pool_after  # as the transcriber's language-ID has it


@dataclass(slots=True, frozen=True)
class Condition:
    """Length of the window, silence after it, and the block after which positions are pooled (see `LanguageIdOptions`).

    Silence of 30 s pads to the 30 s of Whisper's training.

    >>> str(Condition(2.5, 0.5)), str(Condition(1, 30, None))
    ('2.5 s + 0.5 s', '1 s padded to 30 s, not pooled')
    """

    window_s: float
    silence_s: float
    pool_after: int | None = POOL_AFTER

    def __post_init__(self) -> None:
        if not 0 < samples(self.window_s) <= MAX_WINDOW or not 0 <= self.silence_s <= seconds(MAX_WINDOW):
            raise ConfigurationError(
                f"a window is up to 30 s and the silence 0 to 30 s, got {self.window_s} and {self.silence_s} s"
            )

    def __str__(self) -> str:
        padded = samples(self.window_s + self.silence_s) >= MAX_WINDOW
        silence = " padded to 30 s" if padded else f" + {self.silence_s:g} s"
        pooling = ", not pooled" if self.pool_after is None else f", pooled after {self.pool_after}"
        return f"{self.window_s:g} s{silence}{'' if self.pool_after == POOL_AFTER else pooling}"


@dataclass(slots=True, frozen=True, order=True)
class Place:
    """The end of windows: sample ``end`` of a recording, after ``room`` samples in one language.

    ``block`` is the index of the language block in the recording.
    """

    recording: str
    block: int
    end: int
    room: int
    language: str

    def fits(self, condition: Condition) -> bool:
        """Whether a window of that length lies within the block."""
        return samples(condition.window_s) <= self.room


@dataclass(slots=True, frozen=True, eq=False)
class WindowLogits:
    """Whisper's language logits for one window per place.

    ``logits`` has shape (places, languages); ``encoder_s``, shape (places,), has the seconds of the encoder.
    """

    languages: tuple[str, ...]
    places: tuple[Place, ...]
    logits: Logits
    encoder_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def truth(self) -> NDArray[np.intp]:
        """The column of the true language, shape (places,)."""
        column = {language: i for i, language in enumerate(self.languages)}
        return np.array([column[place.language] for place in self.places], np.intp)

    def masked(self, allowed: Iterable[str] | None = None) -> Logits:
        """The logits with -inf for all but the allowed languages; None allows all."""
        if allowed is None:
            return self.logits
        codes = check_languages(list(allowed), len(self.languages))
        return np.where(np.isin(self.languages, codes), self.logits, -np.inf)

    def log_prior(self, english_bias: float) -> NDArray[np.float64]:
        """The addend to each language's logit, shape (languages,): minus the bias for English."""
        return np.where(np.array(self.languages) == "en", -english_bias, 0.0)

    def posteriors(
        self, allowed: Iterable[str] | None = None, english_bias: float = 0.0, temperature: float = 1.0
    ) -> NDArray[np.float64]:
        """Probability of each language at each place, shape (places, languages).

        Equal to `LanguageIdentifier`'s if fewer than all languages are allowed; it has no bias if all are.
        """
        scores = self._scores(allowed, english_bias, temperature)
        return np.array([softmax(row) for row in scores]).reshape(scores.shape)

    def correct(
        self, allowed: Iterable[str] | None = None, english_bias: float = 0.0, temperature: float = 1.0
    ) -> NDArray[np.bool_]:
        """Whether the most likely language is the true one, shape (places,).

        The temperature matters only with a bias, which is not divided by it.
        """
        scores = self._scores(allowed, english_bias, temperature)
        correct: NDArray[np.bool_] = scores.argmax(axis=1) == self.truth
        return correct

    def _scores(self, allowed: Iterable[str] | None, english_bias: float, temperature: float) -> Logits:
        return self.masked(allowed) / temperature + self.log_prior(english_bias)

    def at(self, chosen: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> WindowLogits:
        """Some of the places, by index or by mask."""
        asked = np.asarray(chosen)
        numbers = np.flatnonzero(asked) if asked.dtype == np.bool_ else asked.astype(np.intp)
        places = tuple(self.places[i] for i in numbers)
        return WindowLogits(self.languages, places, self.logits[numbers], self.encoder_s[numbers])

    def halves(self) -> tuple[WindowLogits, WindowLogits]:
        """Two halves by alternate recordings, to fit and to evaluate; a single recording is split by its blocks."""
        names = [place.recording for place in self.places]
        units = names if len(set(names)) > 1 else [str(place.block) for place in self.places]
        odd = np.unique(units, return_inverse=True)[1] % 2 == 1
        return self.at(~odd), self.at(odd)


class Scorer(Protocol):
    """Scores windows: `WindowScorer`, or a fake in a test."""

    languages: tuple[str, ...]

    def score(self, window: FloatArray, silence: int, pool_after: int | None, /) -> tuple[NDArray[np.float64], float]:
        """Language logits of a window followed by samples of silence, and the encoder's seconds."""


class WindowScorer:
    """Language logits of a loaded Whisper model, and the time of its encoder.

    ``precision`` as for the transcriber: None selects the fastest on this machine.
    """

    def __init__(
        self, model: Whisper | Weights, precision: str | None = None, clock: Clock = time.perf_counter
    ) -> None:
        n_languages = weights_of(model).n_languages
        self.languages = check_languages(None, n_languages)
        self._encoder, stack = prepared(model, precision)
        self.precision = self._encoder.precision
        self._identifier = LanguageIdentifier(stack, self.languages, n_languages=n_languages)
        self._clock = clock

    def score(
        self, window: FloatArray, silence: int, pool_after: int | None = POOL_AFTER
    ) -> tuple[NDArray[np.float64], float]:
        """Logits of a window followed by samples of silence, shape (languages,), and the encoder's seconds."""
        began = self._clock()
        with torch_threads(THREADS):
            features = self._encoder.encode(window, silence, pool_after).features
            took = self._clock() - began
            return self._identifier.logits(features), took


def blocks(segments: Iterable[ReferenceSegment]) -> list[tuple[Span, str]]:
    """The spans of consecutive segments in one language, pauses included, with that language.

    If segments overlap, a block ends where the next one begins.
    """
    runs = [(lang, list(run)) for lang, run in groupby(segments, key=lambda segment: segment.lang)]
    starts = [samples(run[0].start) for _, run in runs]
    found = []
    for (lang, run), start, following in zip(runs, starts, [*starts[1:], None], strict=True):
        end = samples(max(segment.end for segment in run))
        found.append((Span(start, end if following is None else min(end, following)), lang))
    return found


def places(recordings: Iterable[Recording], window_s: float, hop_s: float = 0.5) -> list[Place]:
    """Every ``hop_s`` of each block at which a window of ``window_s`` fits.

    Counted from the start of the block, so the places of a longer window are a subset of those of a shorter one.
    """
    hop, window = samples(hop_s), samples(window_s)
    if hop < 1:
        raise ConfigurationError(f"hop_s must be at least one sample, got {hop_s}")
    return [
        Place(recording.id, number, block.start + room, room, language)
        for recording in recordings
        for number, (block, language) in enumerate(blocks(recording.segments))
        for room in range(hop, len(block) + 1, hop)
        if room >= window
    ]


def sample(among: Sequence[Place], n: int, rng: np.random.Generator) -> list[Place]:
    """At most ``n`` places, with equal shares of the languages if possible, spread over the blocks.

    With equal shares, accuracy equals balanced accuracy.
    """
    drawn = [among[i] for i in rng.permutation(len(among))]
    spread = _round_robin(drawn, lambda place: (place.recording, place.block))
    return sorted(_round_robin(spread, lambda place: place.language)[:n])


def _round_robin(among: Sequence[Place], group: Callable[[Place], object]) -> list[Place]:
    """The first of each group, then the second of each, and so on."""
    seen: Counter[object] = Counter()
    rounds = []
    for place in among:
        rounds.append(seen[group(place)])
        seen[group(place)] += 1
    return [among[i] for i in np.argsort(rounds, kind="stable")]


def measure(
    scorer: Scorer,
    recordings: Iterable[Recording],
    where: Sequence[Place],
    conditions: Sequence[Condition],
    progress: Callable[[int], object] | None = None,
) -> dict[Condition, WindowLogits]:
    """Score every place under every condition that fits there, the conditions in turns.

    ``progress`` is called after each place with its number of windows. Raises ConfigurationError if a condition fits at
    no place.
    """
    kept: dict[Condition, list[tuple[Place, NDArray[np.float64], float]]] = {c: [] for c in conditions}
    for recording in recordings:
        here = [place for place in where if place.recording == recording.id]
        audio = recording.audio() if here else np.zeros(0, np.float32)
        for place in here:
            fitting = [condition for condition in conditions if place.fits(condition)]
            for condition in fitting:
                window = audio[place.end - samples(condition.window_s) : place.end]
                scored = scorer.score(window, samples(condition.silence_s), condition.pool_after)
                kept[condition].append((place, *scored))
            if progress:
                progress(len(fitting))
    for condition, rows in kept.items():
        if not rows:
            raise ConfigurationError(f"no place fits a window of {condition.window_s:g} s")
    return {condition: _joined(scorer.languages, rows) for condition, rows in kept.items()}


def _joined(languages: tuple[str, ...], rows: Sequence[tuple[Place, NDArray[np.float64], float]]) -> WindowLogits:
    where, logits, took = zip(*rows, strict=True)
    return WindowLogits(languages, where, np.array(logits), np.array(took))


def concatenate(parts: Iterable[WindowLogits]) -> WindowLogits:
    """Join the results of one model, for example of several recordings."""
    every = list(parts)
    if not every or any(part.languages != every[0].languages for part in every):
        raise ConfigurationError("parts to join need the same languages, and at least one part")
    return WindowLogits(
        every[0].languages,
        tuple(place for part in every for place in part.places),
        np.concatenate([part.logits for part in every]),
        np.concatenate([part.encoder_s for part in every]),
    )

"""The language probe: when a language-ID frame is evaluated, on which windows, and their posteriors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whisperlab.cache import EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.streaming.audio_history import AudioHistory
from whisperlab.streaming.language_id import LanguageIdentifier, LanguageIdOptions, Posterior
from whisperlab.streaming.schedule import Schedule
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.line_profile import line_profiled
from whisperlab.util.timeline import SAMPLE_RATE, Span, seconds

PER_MS = SAMPLE_RATE // 1000
# Where all languages are allowed: seconds of evidence each begins with, and how much is enough.
FOUND_S = (0.3, 3.0)

_stream_ids = itertools.count()


@dataclass(slots=True, frozen=True)
class WindowPair:
    """The windows of a language-ID frame that is due: the first, and the second if there is one."""

    window: Span
    onset: Span | None


@dataclass(slots=True, frozen=True)
class Evaluated:
    """A frame with its posteriors. ``cached`` says whether the encoder cache had the first window."""

    windows: WindowPair
    posterior: Posterior
    cached: bool
    onset: Posterior | None


class FoundLanguages:
    """Weights of the languages found in a stream so far, for streams whose languages are not named.

    Languages found for long enough weigh the same, others less. Once another language than English has enough
    evidence, English is weighed down as when the languages are named: on the first two recordings of ``ivr-en-es``
    *dev* that raised F1 at 1 s from 0.38 to 0.80.
    """

    __slots__ = ("_bias", "_english", "_evidence")

    def __init__(self, languages: Sequence[str], english_bias: float) -> None:
        self._english, self._bias = languages.index("en"), english_bias
        self._evidence = np.full(len(languages), FOUND_S[0])  # seconds of speech found of each language

    def begin(self) -> None:
        """Start a new stream without evidence."""
        self._evidence.fill(FOUND_S[0])

    def add(self, posterior: Posterior, duration_s: float) -> None:
        """Count ``duration_s`` of speech with this posterior."""
        self._evidence += duration_s * posterior

    def weighed(self, posterior: Posterior) -> Posterior:
        """The posterior with each language weighed by its evidence."""
        found: Posterior = np.minimum(self._evidence, FOUND_S[1])
        if np.delete(found, self._english).max() >= FOUND_S[1]:
            found[self._english] *= math.exp(-self._bias)
        weighed = posterior * found
        return np.asarray(weighed / weighed.sum())


class LanguageEncoder:
    """Posteriors of windows: encoder, encoder cache and the answer of the decoder's first token.

    ``found`` weighs the languages where none are named. ``encoder`` counts the work of language-ID; hits that are
    recomputed for the shadow rate count on another encoder.
    """

    def __init__(
        self,
        options: LanguageIdOptions,
        encoder: ShortWindowEncoder,
        identifier: LanguageIdentifier,
        cache: EncoderCache,
        metrics: PerformanceMetrics,
        found: FoundLanguages | None,
    ) -> None:
        self._options, self._identifier, self._metrics, self._found = options, identifier, metrics, found
        self.encoder, self._shadow, self.cache = encoder, encoder.with_own_counts(), cache
        self.begin()

    def begin(self) -> None:
        """Start a new stream with an empty cache."""
        self.cache.clear()
        self.encoder.reset_counts()
        if self._found:
            self._found.begin()
        self._stream = f"stream-{next(_stream_ids)}"

    def add_evidence(self, posterior: Posterior, duration_s: float) -> None:
        """Count speech for the languages found; nothing happens where languages are named."""
        if self._found:
            self._found.add(posterior, duration_s)

    def posterior(self, window: FloatArray) -> Posterior:
        """Language posterior of any window, without the cache."""
        with self._metrics.measure("lid.encoder_forward"):
            features = self._encode(self.encoder, [window], self._options.onset_trailing_silence_ms)[0]
        return self.identified(features)

    def identified(self, features: torch.Tensor) -> Posterior:
        """Language posterior of an encoded window, shape (positions, width)."""
        with self._metrics.measure("lid.detect"):
            return self._identifier.posterior(features)

    @line_profiled
    def posteriors(self, windows: Sequence[Span], audio: Sequence[FloatArray]) -> list[tuple[Posterior, bool]]:
        """Posterior of each window through the encoder cache, and whether the cache had it.

        Windows of the same length that the cache does not have are encoded together.
        """
        cache, silence_ms = self.cache, self._options.trailing_silence_ms
        hashes = [
            cache.precompute_hash(each, (self._stream, window.start, len(each)))
            for window, each in zip(windows, audio, strict=True)
        ]
        features = [cache.get(audio_hash=each) for each in hashes]
        missing = [index for index, known in enumerate(features) if known is None]
        for _, same in itertools.groupby(missing, key=lambda index: len(audio[index])):
            group = list(same)
            with self._metrics.measure("lid.encoder_forward"):
                fresh = self._encode(self.encoder, [audio[index] for index in group], silence_ms)
            for index, encoded in zip(group, fresh, strict=True):
                features[index] = encoded
        results: list[tuple[Posterior, bool]] = []
        for index, known in enumerate(features):
            assert known is not None
            cached = index not in missing
            posterior = self._weighed(self.identified(known))
            if not cached and posterior.max() >= cache.key.least_confidence:
                cache.put(known, audio_hash=hashes[index])
            if cached and cache.should_shadow():
                self._check_hit(audio[index], posterior)
            results.append((posterior, cached))
        return results

    def _check_hit(self, audio: FloatArray, posterior: Posterior) -> None:
        """Recompute a hit and record whether the language is the same."""
        again = self._encode(self._shadow, [audio], self._options.trailing_silence_ms)[0]
        truth = self._weighed(self._identifier.posterior(again))
        agree = int(truth.argmax()) == int(posterior.argmax())
        self.cache.record_shadow(agree=agree, distance=float(abs(truth - posterior).sum() / 2))

    def _weighed(self, posterior: Posterior) -> Posterior:
        return self._found.weighed(posterior) if self._found else posterior

    def _encode(
        self, encoder: ShortWindowEncoder, windows: Sequence[FloatArray], silence_ms: int
    ) -> list[torch.Tensor]:
        pooled = encoder.encode_batch(windows, silence_ms * PER_MS, self._options.pool_after)
        return [encoded.features for encoded in pooled]


class LanguageProbe:
    """Decides when language-ID evaluates a frame and on which windows.

    ``confident`` is set by the switch detector: while it is True, only every ``confident_hop_factor``-th frame is
    evaluated. ``is_due`` can be replaced, to measure what evaluating fewer frames saves.
    """

    __slots__ = (
        *("_due_at", "_gate", "_history", "_is_due", "_metrics", "_options", "_schedule", "_waiting"),
        *("confident", "encoder", "evaluated", "omitted", "skipped"),
    )

    def __init__(
        self,
        options: LanguageIdOptions,
        encoder: LanguageEncoder,
        history: AudioHistory,
        gate: SpeechGate,
        schedule: Schedule,
        metrics: PerformanceMetrics,
        is_due: Callable[[LanguageProbe], bool] | None = None,
    ) -> None:
        self._options, self.encoder, self._history, self._gate = options, encoder, history, gate
        self._schedule, self._metrics = schedule, metrics
        self._is_due = is_due or LanguageProbe.speech_is_due
        self.begin()

    def begin(self) -> None:
        """Start a new stream."""
        self.encoder.begin()
        self._waiting: list[WindowPair] = []  # frames that wait until their batch is full
        self._due_at = 0  # end of the frame that was due last
        self.confident = False
        self.evaluated = self.skipped = self.omitted = 0

    @property
    def waiting(self) -> bool:
        """Whether frames wait for their batch."""
        return bool(self._waiting)

    @property
    def received(self) -> int:
        """Samples of the stream so far."""
        return self._history.received

    @property
    def window(self) -> int:
        """Samples of the first window."""
        return self._options.window_ms * PER_MS

    def collect(self) -> bool:
        """At a hop: add a frame if one is due. Returns whether a batch of frames is full now."""
        if not self._is_due(self):
            self.skipped += 1
            return False
        self.add_frame()
        return len(self._waiting) >= self._options.batch

    def speech_is_due(self) -> bool:
        """Whether there is enough new speech, and the last frame was not confident or is long ago."""
        options, now = self._options, self._history.received
        began = self._gate.span_start
        enough = began is not None and seconds(now - began) * 1000 >= options.min_speech_ms
        since = now - self._due_at
        hop = options.hop_ms * PER_MS
        wanted = not self.confident or since >= options.confident_hop_factor * hop
        if not (enough and wanted and self._gate.voiced_until > now - hop):
            return False
        omitted = self._schedule.omits_frame(since)
        self.omitted += omitted
        return not omitted

    def add_frame(self) -> None:
        """Add a frame at this sample, whatever the audio holds."""
        now = self._history.received
        window, onset = Span(now - min(self.window, now), now), self._onset()
        if onset and len(onset) >= self._options.onset_only_ms * PER_MS:
            window, onset = onset, None
        self._waiting.append(WindowPair(window, onset))
        self._due_at = now

    def evaluate(self) -> list[Evaluated]:
        """Evaluate the frames that wait, in order."""
        pairs, self._waiting = self._waiting, []
        with self._metrics.measure("lid.frame_extract"):
            audio = [self._history.language_audio(pair.window) for pair in pairs]
        found = self.encoder.posteriors([pair.window for pair in pairs], audio)
        self.evaluated += len(pairs)
        return [
            Evaluated(pair, posterior, cached, self._second(pair))
            for pair, (posterior, cached) in zip(pairs, found, strict=True)
        ]

    def _second(self, pair: WindowPair) -> Posterior | None:
        return self.encoder.posterior(self._history.language_audio(pair.onset)) if pair.onset else None

    def _onset(self) -> Span | None:
        """The speech since the last pause, if it is long enough to identify and not too long."""
        options = self._options
        began = self._gate.spoken_since(options.pause_ms * PER_MS) if options.onset_ms else None
        longest = min(options.onset_ms * PER_MS, self.window)
        if began is None or not options.min_speech_ms * PER_MS <= self._history.received - began <= longest:
            return None
        return Span(began, self._history.received)

"""The language probe: when a language-ID frame is evaluated, on which windows, and their posteriors."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from whisperlab.cache import EncoderCache
from whisperlab.config import TranscriberConfig
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.streaming.context import PER_MS, Context
from whisperlab.streaming.language_id import LanguageIdentifier, Posterior
from whisperlab.streaming.smoothing import WindowPosterior
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.line_profile import line_profiled
from whisperlab.util.timeline import SAMPLE_RATE, Span, seconds

FOUND_S = 3.0  # evidence of a language that is enough, seconds
EXPECTED_LANGUAGES = 5  # where more are allowed, each begins with less evidence, and at least a tenth of `FOUND_S`
# Samples between language-ID frames from load level 1 on. Of 20 switches on *dev* 3 are missed then, 2 without load,
# 7 at a whole second.
SPARSE_FRAMES = SAMPLE_RATE // 2

_stream_ids = itertools.count()


@dataclass(eq=False)
class LanguageEncoder:
    """Posteriors of windows: encoder, encoder cache and the answer of the decoder's first token."""

    config: TranscriberConfig
    encoder: ShortWindowEncoder  # counts the work of language-ID, without hits recomputed for the shadow rate
    identifier: LanguageIdentifier
    cache: EncoderCache
    metrics: PerformanceMetrics

    def begin(self) -> None:
        """Start a new stream with an empty cache."""
        self.cache.clear()
        self.encoder.reset_counts()
        n = len(self.identifier.languages)
        self.evidence = np.full(n, FOUND_S * min(max(EXPECTED_LANGUAGES / n, 0.1), 1))  # seconds of speech of each
        self._stream = f"stream-{next(_stream_ids)}"

    def posterior(self, window: FloatArray) -> Posterior:
        """Language posterior of any window, without the cache."""
        with self.metrics.measure("lid.encoder_forward"):
            features = self._encode(self.encoder, [window], self.config.language_id.onset_trailing_silence_ms)[0]
        return self.identified(features)

    def identified(self, features: torch.Tensor) -> Posterior:
        """Language posterior of an encoded window, shape (positions, width)."""
        with self.metrics.measure("lid.detect"):
            return self.identifier.posterior(features)

    @line_profiled
    def posteriors(self, windows: Sequence[Span], audio: Sequence[FloatArray]) -> list[tuple[Posterior, bool]]:
        """Posterior of each window through the encoder cache, and whether the cache had it.

        Windows of the same length that the cache does not have are encoded together.
        """
        cache, silence_ms = self.cache, self.config.language_id.trailing_silence_ms
        places = [(self._stream, window.start, len(window)) for window in windows]
        hashes = [cache.precompute_hash(each, place) for each, place in zip(audio, places, strict=True)]
        known = [cache.get(audio_hash=each) for each in hashes]
        fresh: dict[int, torch.Tensor] = {}
        missing = [index for index, features in enumerate(known) if features is None]
        for _, same in itertools.groupby(missing, key=lambda index: len(audio[index])):
            group = list(same)
            with self.metrics.measure("lid.encoder_forward"):
                encoded = self._encode(self.encoder, [audio[index] for index in group], silence_ms)
            fresh.update(zip(group, encoded, strict=True))
        results = []
        for index, cached in enumerate(known):
            features = fresh[index] if cached is None else cached
            posterior = self._weighed(self.identified(features))
            if cached is None and posterior.max() >= cache.key.least_confidence:
                cache.put(features, audio_hash=hashes[index])
            if cached is not None and cache.should_shadow():
                self._check_hit(audio[index], posterior)
            results.append((posterior, cached is not None))
        return results

    def _check_hit(self, audio: FloatArray, posterior: Posterior) -> None:
        """Recompute a hit and record whether the language is the same."""
        shadow = self.encoder.with_own_counts()
        again = self._encode(shadow, [audio], self.config.language_id.trailing_silence_ms)[0]
        truth = self._weighed(self.identifier.posterior(again))
        agree = int(truth.argmax()) == int(posterior.argmax())
        self.cache.record_shadow(agree=agree, distance=float(abs(truth - posterior).sum() / 2))

    def _weighed(self, posterior: Posterior) -> Posterior:
        """The posterior weighed by the languages found in the stream so far, where more than five are allowed.

        Languages found for long enough weigh the same, others less. If no languages are named, English is weighed down
        as when they are, as far as another language was found. On *dev* that avoids a third of the false switches.
        """
        if self.config.mode != "auto" or len(posterior) <= EXPECTED_LANGUAGES:
            return posterior
        found = np.minimum(self.evidence, FOUND_S)
        if self.config.languages is None:
            english = self.identifier.languages.index("en")
            others = np.delete(found, english).max() / FOUND_S
            found[english] *= math.exp(-self.config.language_id.english_bias * others)
        weighed = posterior * found
        return np.asarray(weighed / weighed.sum())

    def _encode(self, encoder: ShortWindowEncoder, audio: Sequence[FloatArray], silence_ms: int) -> list[torch.Tensor]:
        pooled = encoder.encode_batch(audio, silence_ms * PER_MS, self.config.language_id.pool_after)
        return [encoded.features for encoded in pooled]


@dataclass(slots=True, eq=False)
class LanguageProbe:
    """Decides when language-ID evaluates a frame and on which windows."""

    context: Context
    encoder: LanguageEncoder
    is_due: Callable[["LanguageProbe"], bool]  # can be replaced, to measure what evaluating fewer frames saves
    waiting: list[tuple[Span, Span | None]] = field(default_factory=list)  # windows of frames, until the batch is full
    gap: float = 0  # least samples between two frames; set by the switch detector
    _due_at: int = 0  # end of the frame that was due last

    @property
    def window(self) -> int:
        """Samples of the first window."""
        return self.context.config.language_id.window_ms * PER_MS

    def collect(self) -> bool:
        """At a hop: add a frame if one is due. Returns whether a batch of frames is full now."""
        if not self.is_due(self):
            self.context.counts.frames_skipped += 1
            return False
        self.add_frame()
        return len(self.waiting) >= self.context.config.language_id.batch

    def speech_is_due(self) -> bool:
        """Whether there is enough new speech, and the last frame is as long ago as the switch detector wants."""
        options, gate, now = self.context.config.language_id, self.context.gate, self.context.history.received
        enough = gate.span_start is not None and seconds(now - gate.span_start) * 1000 >= options.min_speech_ms
        since = now - self._due_at
        hop = options.hop_ms * PER_MS
        if not (enough and since >= self.gap and gate.voiced_until > now - hop):
            return False
        omitted = self.context.load_level >= 1 and since < SPARSE_FRAMES
        self.context.counts.frames_omitted += omitted
        return not omitted

    def add_frame(self) -> None:
        """Add a frame at this sample, whatever the audio holds."""
        now = self.context.history.received
        window, onset = Span(now - min(self.window, now), now), self._onset(now)
        if onset and len(onset) >= self.context.config.language_id.onset_only_ms * PER_MS:
            window, onset = onset, None
        self.waiting.append((window, onset))
        self._due_at = now

    def evaluate(self) -> list[tuple[WindowPosterior, WindowPosterior | None, bool]]:
        """Evaluate the frames that wait, in order: first window, second if any, whether the cache had the first."""
        frames, self.waiting = self.waiting, []
        lid = self.context.history.lid
        with self.context.metrics.measure("lid.frame_extract"):
            audio = [lid.read(window) for window, _ in frames]
        found = self.encoder.posteriors([window for window, _ in frames], audio)
        self.context.counts.frames += len(frames)
        evaluated = []
        for (window, onset), (posterior, cached) in zip(frames, found, strict=True):
            second = WindowPosterior(onset, self.encoder.posterior(lid.read(onset))) if onset else None
            evaluated.append((WindowPosterior(window, posterior), second, cached))
        return evaluated

    def _onset(self, now: int) -> Span | None:
        """The speech since the last pause, if it is long enough to identify and not too long."""
        options = self.context.config.language_id
        began = self.context.gate.spoken_since(options.pause_ms * PER_MS) if options.onset_ms else None
        longest = min(options.onset_ms * PER_MS, self.window)
        if began is None or not options.min_speech_ms * PER_MS <= now - began <= longest:
            return None
        return Span(began, now)

"""Puts the parts of a transcriber together. Other parts can be passed in, to compare the pipeline with plainer ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.engine import prepared
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import Weights
from whisperlab.streaming.audio_history import AudioHistory
from whisperlab.streaming.decoding import SpeechDecoder
from whisperlab.streaming.language_check import LanguageCheck
from whisperlab.streaming.language_id import LanguageIdentifier, check_languages
from whisperlab.streaming.language_probe import PER_MS, FoundLanguages, LanguageEncoder, LanguageProbe
from whisperlab.streaming.monitoring import Monitor
from whisperlab.streaming.results import ResultBuilder
from whisperlab.streaming.schedule import Schedule
from whisperlab.streaming.stream import Stream
from whisperlab.streaming.switching import ChangeProof, DetectedLanguage, FixedLanguage, GivenLanguages, SwitchDetector
from whisperlab.streaming.text_session import InlineRunner, Runner, TextSession, ThreadedRunner
from whisperlab.streaming.vad import SileroDetector, SpeechGate, VoiceActivityDetector
from whisperlab.util.errors import translate_oom

if TYPE_CHECKING:
    from whisperlab.config import TranscriberConfig

Engine: TypeAlias = tuple[ShortWindowEncoder, TextDecoder]


@dataclass(slots=True, frozen=True)
class Parts:
    """Makers of the parts that can be exchanged.

    ``engine`` gets the weights, the precision and the block after which the compiled encoder is cut. ``buffer`` gets a
    capacity in samples. ``frame_due`` decides at each hop whether language-ID evaluates a frame.
    """

    engine: Callable[[Weights, str | None, int | None], Engine] = prepared
    buffer: Callable[[int], RingBuffer] = RingBuffer
    metrics: Callable[[bool, float], PerformanceMetrics] = lambda enable_logging, interval_s: PerformanceMetrics(
        enable_logging=enable_logging, log_interval_seconds=interval_s
    )
    voice_detector: Callable[[], VoiceActivityDetector] = SileroDetector
    frame_due: Callable[[LanguageProbe], bool] = LanguageProbe.speech_is_due
    identifier: type[LanguageIdentifier] = LanguageIdentifier
    decoder: type[SpeechDecoder] = SpeechDecoder


@dataclass(slots=True, frozen=True)
class Assembly:
    """The stream and those of its parts that statistics are read from."""

    languages: tuple[str, ...]
    stream: Stream
    decoder: SpeechDecoder
    probe: LanguageProbe
    proof: ChangeProof
    check: LanguageCheck
    runner: Runner
    lid_encoder: ShortWindowEncoder
    text_encoder: ShortWindowEncoder
    precisions: tuple[str, str]  # of encoder and decoder

    @property
    def metrics(self) -> PerformanceMetrics:
        """The timers of all parts."""
        return self.stream.metrics

    @property
    def cache(self) -> EncoderCache:
        """The encoder cache of language-ID."""
        return self.probe.encoder.cache


@dataclass(slots=True, frozen=True)
class _Common:
    """The parts that several others use."""

    metrics: PerformanceMetrics
    history: AudioHistory
    gate: SpeechGate
    schedule: Schedule
    results: ResultBuilder
    cache: EncoderCache
    monitor: Monitor


def assemble(config: TranscriberConfig, weights: Weights, parts: Parts) -> Assembly:
    """Make all parts of a transcriber.

    Raises ConfigurationError or UnknownLanguageError for options that this model does not support.
    """
    options, n_languages = config.language_id, weights.n_languages
    split = (options.pool_after or 0) if config.compute.compiled else None
    encoder, stack = parts.engine(weights, config.compute.precision, split)
    encoder.check_pooling(options.pool_after)
    languages = _languages(config, n_languages)
    common = _common(config, weights, parts, encoder)
    lid_encoder, text_encoder = encoder.with_own_counts(), encoder.with_own_counts()
    everything = parts.identifier(stack, check_languages(None, n_languages), n_languages=n_languages)
    identifier = parts.identifier(
        stack, languages, options.prior, options.temperature, n_languages, options.english_bias
    )
    lid = _language_encoder(config, languages, lid_encoder, identifier, common)
    probe = LanguageProbe(options, lid, common.history, common.gate, common.schedule, common.metrics, parts.frame_due)
    decoder = parts.decoder(
        text_encoder, stack, config.decoding, common.metrics, n_languages, share=config.session.share
    )
    proof = ChangeProof(
        languages,
        config.session,
        lid,
        decoder,
        common.history,
        common.metrics,
        window=probe.window,
        decode=config.decode,
    )
    detector = _detector(config, languages, probe, proof, common)
    check = LanguageCheck(languages, everything, decoder, common.history, common.gate, common.results)
    runner = _runner(config)
    text = _text_session(config, decoder, detector, check, runner, common)
    stream = Stream(
        common.schedule, common.history, common.gate, detector, text, common.results, common.monitor, common.metrics
    )
    return Assembly(
        languages,
        stream,
        decoder,
        probe,
        proof,
        check,
        runner,
        lid_encoder,
        text_encoder,
        (encoder.precision, stack.precision),
    )


def _common(config: TranscriberConfig, weights: Weights, parts: Parts, encoder: ShortWindowEncoder) -> _Common:
    limits = config.monitoring
    metrics = parts.metrics(limits.enable_logging, limits.log_interval_s)
    history = AudioHistory(config.sampling_rate, _lid_capacity(config), metrics, parts.buffer)
    with translate_oom("for voice activity detection"):
        gate = SpeechGate(config.vad, parts.voice_detector(), quiet_detector=parts.voice_detector())
    cache = _cache(config, weights, encoder)
    monitor = Monitor(limits.lid_p95_limit_ms, limits.hit_rate_limit, limits.log_interval_s, metrics, cache, gate)
    schedule = Schedule(config.language_id.hop_ms, config.session.step_ms)
    return _Common(metrics, history, gate, schedule, ResultBuilder(), cache, monitor)


def _language_encoder(
    config: TranscriberConfig,
    languages: tuple[str, ...],
    encoder: ShortWindowEncoder,
    identifier: LanguageIdentifier,
    common: _Common,
) -> LanguageEncoder:
    named = config.mode != "auto" or config.languages is not None
    found = None if named else FoundLanguages(languages, config.language_id.english_bias)
    return LanguageEncoder(config.language_id, encoder, identifier, common.cache, common.metrics, found)


def _languages(config: TranscriberConfig, n_languages: int) -> tuple[str, ...]:
    """The allowed languages, of those that the model knows."""
    if config.language is not None:
        return check_languages([config.language], n_languages)
    if config.oracle is not None:
        return check_languages([code for _, code in config.oracle], n_languages)
    return check_languages(config.languages, n_languages)


def _lid_capacity(config: TranscriberConfig) -> int:
    """Samples of the ring buffer of language-ID: the guide's size, or more if a batch of frames spans more."""
    options = config.language_id
    hop, pause = options.hop_ms * PER_MS, config.vad.min_silence_ms * PER_MS
    longest = options.window_ms * PER_MS + options.batch * (options.confident_hop_factor * hop + pause)
    return max(hop * 100, longest)


def _cache(config: TranscriberConfig, weights: Weights, encoder: ShortWindowEncoder) -> EncoderCache:
    cache, options = config.cache, config.language_id
    context = (weights.name, encoder.precision, options.window_ms, options.trailing_silence_ms, options.pool_after)
    return EncoderCache(
        max_size=cache.size,
        device=str(weights.device),
        hash_precision=cache.hash_precision,
        key=cache.key,
        shadow_rate=cache.shadow_rate,
        context=context,
    )


def _detector(
    config: TranscriberConfig, languages: tuple[str, ...], probe: LanguageProbe, proof: ChangeProof, common: _Common
) -> SwitchDetector:
    if config.language is not None:
        return FixedLanguage(languages[0], common.history)
    if config.oracle is not None:
        return GivenLanguages(config.oracle, common.history)
    return DetectedLanguage(
        languages,
        config.smoothing,
        config.session.snap_ms,
        config.language_id.confident_above,
        probe,
        common.history,
        common.gate,
        proof,
        common.results,
        common.metrics,
        common.monitor,
    )


def _text_session(
    config: TranscriberConfig,
    decoder: SpeechDecoder,
    detector: SwitchDetector,
    check: LanguageCheck,
    runner: Runner,
    common: _Common,
) -> TextSession:
    return TextSession(
        config.session,
        decoder,
        common.history,
        common.gate,
        detector,
        check,
        runner,
        common.results,
        common.metrics,
        decode=config.decode,
    )


def _runner(config: TranscriberConfig) -> Runner:
    if not config.session.parallel_ms:
        return InlineRunner()
    worker = ThreadPoolExecutor(1, "whisperlab-decode", torch.set_num_threads, (config.compute.threads,))
    return ThreadedRunner(worker, config.session.parallel_ms * PER_MS)

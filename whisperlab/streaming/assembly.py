"""Puts the parts of a transcriber together, and reads their statistics.

Other parts can be passed in, to compare the pipeline with plainer ones.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.config import TranscriberConfig
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.ctranslate2_engine import ctranslate2_engine
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.engine import Engine, prepared
from whisperlab.model.linear import ENCODERS, check_precision
from whisperlab.model.weights import Weights
from whisperlab.streaming.context import PER_MS, VAD_BUFFER, AudioHistory, Context, Monitor
from whisperlab.streaming.decoding import SpeechDecoder
from whisperlab.streaming.false_switches import PROMISES
from whisperlab.streaming.language_id import LanguageIdentifier, LanguageIdOptions, check_languages
from whisperlab.streaming.language_probe import LanguageEncoder, LanguageProbe
from whisperlab.streaming.silero import SileroDetector
from whisperlab.streaming.smoothing import SmoothingOptions
from whisperlab.streaming.stream import Stream
from whisperlab.streaming.switching import DetectedLanguage, GivenLanguages, SwitchDetector
from whisperlab.streaming.text_session import Runner, TextSession
from whisperlab.streaming.vad import SpeechGate, VoiceActivityDetector
from whisperlab.util.errors import ConfigurationError, translate_oom
from whisperlab.util.gain import dbfs
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# The counts that the statistics have under "sessions".
_SESSIONS = "switches switches_refused segments decodes steps_shed gaps untranscribed language_flags language_outside"
_LENGTHS = ("gap", "untranscribed", "language_outside")


@dataclass(slots=True, frozen=True)
class Parts:
    """Makers of the parts that can be exchanged."""

    # from the weights, the precision and the block after which the compiled encoder is cut
    engine: Callable[[Weights, str | None, int | None], Engine] = prepared
    buffer: Callable[[int], RingBuffer] = RingBuffer  # from a capacity in samples
    metrics: Callable[[bool, float], PerformanceMetrics] = lambda enable_logging, interval_s: PerformanceMetrics(
        enable_logging=enable_logging, log_interval_seconds=interval_s
    )
    voice_detector: Callable[[], VoiceActivityDetector] = SileroDetector
    frame_due: Callable[[LanguageProbe], bool] = LanguageProbe.speech_is_due  # at each hop: evaluate a frame?
    identifier: type[LanguageIdentifier] = LanguageIdentifier
    decoder: type[SpeechDecoder] = SpeechDecoder


class Assembly:
    """The parts of a transcriber: those that stay, and those that `begin` makes for each stream.

    Raises ConfigurationError or UnknownLanguageError for options that the model does not support.
    """

    def __init__(self, config: TranscriberConfig, weights: Weights, makers: Parts) -> None:
        self.config, self.makers = config, makers
        options, compute, monitoring = config.language_id, config.compute, config.monitoring
        split = (options.pool_after or 0) if compute.compiled else None
        if compute.engine == "whisperlab":
            encoder, stack = makers.engine(weights, compute.precision, split)
        else:
            encoder, stack = ctranslate2_engine(weights, compute.precision, compute.threads)
        encoder.check_pooling(options.pool_after)
        for_language = encoder
        if compute.engine == "whisperlab" and split is None:
            of_text, other = (check_precision(compute.precision, weights.device, part) for part in ENCODERS)
            if encoder.precision == of_text != other:
                for_language, _ = makers.engine(weights, other, None)
        self.precisions = encoder.precision, for_language.precision, stack.precision
        named = config.languages if config.language is None else (config.language,)
        if config.oracle is not None:
            named = tuple(code for _, code in config.oracle)
        n_languages = weights.n_languages
        self.languages = check_languages(named, n_languages)
        if n_languages == 1 and config.mode == "auto":
            remedy = "set language='en' (--language en), or use a multilingual model such as base"
            raise ConfigurationError(f"{weights.name} knows English only and cannot identify languages: {remedy}")
        measured = weights.name == PROMISES["model"] and options == LanguageIdOptions()
        if config.switch.false_switches_per_hour and not (measured and config.smoothing == SmoothingOptions()):
            of = f"for {PROMISES['model']} with the default language_id and smoothing options"
            got = f"got {weights.name} and {config.changes()}"
            raise ConfigurationError(f"switch.false_switches_per_hour was measured {of}, {got}")
        self.metrics = makers.metrics(monitoring.enable_logging, monitoring.log_interval_s)
        with translate_oom("for voice activity detection"):
            self.voice_detectors = makers.voice_detector(), makers.voice_detector()
        self.text_encoder = encoder.with_own_counts()
        whisper = self.text_encoder, stack, config.decoding, self.metrics, n_languages
        self.decoder = makers.decoder(*whisper, share=config.session.share, added=weights.added)
        self.all_languages = makers.identifier(stack, check_languages(None, n_languages), n_languages=n_languages)
        weighing = options.prior, options.temperature, n_languages, options.english_bias
        identifier = makers.identifier(stack, self.languages, *weighing)
        window = options.window_ms, options.trailing_silence_ms, options.pool_after
        cache = EncoderCache(
            max_size=config.cache.size,
            device=str(weights.device),
            hash_precision=config.cache.hash_precision,
            key=config.cache.key,
            shadow_rate=config.cache.shadow_rate,
            context=(weights.name, compute.engine, for_language.precision, *window),
        )
        self.lid = LanguageEncoder(config, for_language.with_own_counts(), identifier, cache, self.metrics)
        self.runner = Runner()
        if lag_ms := config.session.parallel_ms:
            worker = ThreadPoolExecutor(1, "whisperlab-decode", torch.set_num_threads, (compute.threads,))
            self.runner = Runner(worker, lag_ms * PER_MS)

    def begin(self) -> None:
        """Start a new stream: drop audio, text, the cache and all counts."""
        config, makers, options = self.config, self.makers, self.config.language_id
        self.metrics.reset()
        self.lid.begin()
        self.decoder.reset()
        self.text_encoder.reset_counts()
        # The buffer of language-ID has the guide's size, or more if a batch of frames spans more.
        batch_ms = options.batch * (options.confident_hop_factor * options.hop_ms + config.vad.min_silence_ms)
        lid_buffer = PER_MS * max(options.hop_ms * 100, options.window_ms + batch_ms)
        buffers = makers.buffer(VAD_BUFFER), makers.buffer(lid_buffer)
        history = AudioHistory(*buffers, config.sampling_rate, self.metrics)
        gate = SpeechGate(config.vad, *self.voice_detectors)
        monitor = Monitor(config.monitoring, self.metrics, self.lid.cache, gate)
        context = Context(config, self.languages, self.metrics, history, gate, monitor)
        self.probe = LanguageProbe(context, self.lid, makers.frame_due)
        detector: SwitchDetector
        if config.mode == "auto":
            detector = DetectedLanguage(context, None, self.probe, self.decoder)
        else:
            detector = (GivenLanguages if config.oracle else SwitchDetector)(context, self.languages[0])
        text = TextSession(context, detector.first, self.decoder, detector, self.all_languages, self.runner)
        self.stream = Stream(context, detector, text)

    def get_statistics(self) -> Json:
        """Everything that was counted since the stream began, JSON-able.

        Another thread may work on the stream meanwhile: values that belong together are read without a call in between.
        """
        context = self.stream.context
        history, gate, counts = context.history, context.gate, context.counts
        language, received = self.stream.text.language, history.received
        skipped = {"skipped": counts.frames_skipped, "shed": counts.frames_omitted}
        quiet = {"quiet_speech_s": seconds(gate.quiet), "quiet_speech_dbfs": dbfs(gate.quiet_level)}
        return {
            "performance": self.metrics.get_statistics(),
            "self_cost_ns": self.metrics.self_cost_ns,
            "encoder_cache": self.lid.cache.get_statistics(),
            "buffers": {"vad": _buffer(history.vad), "lid": _buffer(history.lid)},
            "lid": {"frames": counts.frames, **skipped, **_encoder(self.lid.encoder)},
            "sessions": {
                "mode": self.config.mode,
                "language": language,
                **{name: getattr(counts, name) for name in _SESSIONS.split()},
                "redecodes": self.decoder.redecodes,
                "shared_encodes": self.decoder.shared,
                **_encoder(self.text_encoder),
                "heard_s": seconds(received),
                "load_level": context.load_level,
                **{f"{name}_s": seconds(getattr(counts, f"{name}_samples")) for name in _LENGTHS},
            },
            "level": {"recent_dbfs": dbfs(gate.level), **quiet},
        }

    def get_summary(self) -> str:
        """Lines of text: latency of each operation, cache hit rate, work skipped under overload, and audio lost."""
        cache, counts = self.lid.cache.get_statistics(), self.stream.context.counts
        hits = f"encoder cache ({cache['key']}): {cache['hits']} hits, {cache['misses']} misses"
        shed = f"omitted because of load: {counts.frames_omitted} language-ID frames, {counts.steps_shed} decode steps"
        lost = f"audio lost: {seconds(counts.gap_samples):.1f} s in {counts.gaps} gaps"
        return f"{self.metrics.get_summary()}\n{hits}, hit rate {cache['hit_rate']:.1%}\n{shed}; {lost}"

    def collect(self) -> Iterator["Metric"]:
        """Counters of the stream as ``prometheus_client`` metrics."""
        from prometheus_client.core import CounterMetricFamily

        counts = self.stream.context.counts
        for name, about, value in (
            ("switches", "Language switches that were followed.", counts.switches),
            ("segments", "Segments that became final.", counts.segments),
            ("untranscribed_seconds", "Speech for which no text was found.", seconds(counts.untranscribed_samples)),
            ("lid_frames_shed", "Language-ID frames omitted because of load.", counts.frames_omitted),
            ("decode_steps_shed", "Decode steps omitted because of load.", counts.steps_shed),
        ):
            yield CounterMetricFamily(f"whisperlab_{name}", about, value)


def _encoder(encoder: ShortWindowEncoder) -> dict[str, float]:
    return {"encoder_calls": encoder.calls, "encoded_s": seconds(encoder.encoded_samples)}


def _buffer(buffer: RingBuffer) -> dict[str, int]:
    names = ("capacity", "nbytes", "overruns", "dropped_samples")
    return {"held": len(buffer), **{name: getattr(buffer, name) for name in names}}

"""SessionRestartTranscriber: follows a speaker from language to language and restarts the session at each switch.

Audio comes in by chunks of any length and is worked on at fixed points of the stream: every 512 samples the
voice activity detector, every ``lid_hop_ms`` language-ID, every ``step_ms`` of speech a decode. What happens at a
point depends only on the audio up to it, so the chunking never changes the result.

Text is *tentative* until its policy relies on it (two decodes agree, or attention has left it behind) and it lies
before any change of language that the frames so far leave possible; then it is *committed* and never changes. A
stretch of speech ends with a pause, at a switch, or when it gets too long; its committed and remaining words become
one *final* segment.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.compiled_encoder import compiled_encoder
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.languages import language_code
from whisperlab.model.linear import Precision, check_precision
from whisperlab.model.text_decoder import TextStack
from whisperlab.model.weights import Weights, load_weights, weights_of
from whisperlab.streaming.coverage import Uncovered, completed, uncovered
from whisperlab.streaming.decoding import (
    AlignAtt,
    CommitPolicy,
    DecoderOptions,
    Hypothesis,
    LocalAgreement,
    SpeechDecoder,
    Word,
    confidence_of,
    is_meaningful,
    text_of,
)
from whisperlab.streaming.language_id import LanguageIdentifier, LidOptions, Posterior, check_languages
from whisperlab.streaming.results import (
    LanguageFlag,
    LanguageFrame,
    Onset,
    ProcessResult,
    SessionSegment,
    Switch,
)
from whisperlab.streaming.smoothing import (
    LONGEST_GAP_S,
    PATIENCE,
    LanguageTracker,
    Look,
    SmoothingOptions,
    Turn,
)
from whisperlab.streaming.vad import SileroDetector, SpeechGate, VadOptions
from whisperlab.util.audio_arrays import FloatArray, as_chunk, bounded
from whisperlab.util.errors import (
    ConfigurationError,
    ForkedError,
    StreamBrokenError,
    StreamEndedError,
    UnknownLanguageError,
    translate_oom,
)
from whisperlab.util.gain import dbfs
from whisperlab.util.line_profile import line_profiled
from whisperlab.util.memory import trim_heap
from whisperlab.util.threads import THREADS, check_threads, torch_threads
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, VAD_FRAME, Span, samples, seconds
from whisperlab.util.validation import check_type, check_types, shown

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from whisper.model import Whisper

logger = logging.getLogger("whisperlab")
_stream_ids = itertools.count()
_prepared: WeakKeyDictionary[
    Weights, tuple[dict[tuple[Precision, int | None], ShortWindowEncoder], dict[Precision, TextStack]]
] = WeakKeyDictionary()
_preparing = threading.Lock()
_made_in: list[int] = []  # the process that made the first transcriber, which a fork inherits

WHISPER_S = seconds(MAX_WINDOW)
LONGEST_GAP = samples(LONGEST_GAP_S)
CUT_LAG = 2 * SAMPLE_RATE  # samples that stay behind a cut: the newest words are still being said
STALL = SAMPLE_RATE  # samples of speech after the committed words, without text, that mean it has stopped too soon
REPROOF = 3 * SAMPLE_RATE // 10  # samples to hear on before a refused change is put to the proof again
TIDY = 10 * SAMPLE_RATE  # samples after which free memory is given back again
MIN_SPEECH = 3 * SAMPLE_RATE // 10  # samples below which audio holds no word worth decoding
FLAG_SPEECH = 3 * SAMPLE_RATE // 2  # samples of speech that its language can be told of with confidence,
FLAG_PROBABILITY = (
    0.8  # and the probability that is confident: on *dev* none of 111 stretches was flagged wrongly
)
INVENTED = -1.5  # mean log-probability of a token below which text for less speech than that is not taken
FOUND_S = (
    0.3,
    3.0,
)  # where all languages are allowed: seconds of evidence each begins with, and what is enough
MAX_LOAD_LEVEL = 2
# Samples between language-ID frames from load level 1 on. Of 20 switches on *dev* 3 are missed so, 2 without load,
# 7 at a whole second.
SPARSE_LID = SAMPLE_RATE // 2
LONG_STEPS = 3  # decode steps that become one at load level 2


Policy = Literal["agreement", "alignatt"]


@dataclass(slots=True, frozen=True)
class SessionOptions:
    """When to decode and when to let go of text.

    ``step_ms`` is the time between two decodes of running speech. ``max_speech_s`` is the longest window decoded at
    once; longer speech is cut at a pause. ``policy`` says when words are final: ``"agreement"`` of two decodes, or
    ``"alignatt"``, one decode whose attention lies ``attention_lag_ms`` or more behind the end. ``preroll_ms`` is the
    audio kept before the first frame of speech, ``snap_ms`` how far a boundary may move to the nearest pause.
    ``prompt_s``: a session begins with the last text in its language as prompt if that ended no longer ago than this
    (0: never). Text of another language never is a prompt: a switch drops it, and it comes back with its language.

    A switch must be confirmed by what was said since the boundary: by itself it gives the new language a probability of
    ``confirm_posterior`` or more, and its text is likelier in the new language than in the old one by
    ``confirm_text`` in the mean log-probability of a token. 0 and -inf switch these two off. A change that has been in
    the air for `PATIENCE` of speech needs no proof by text any more, after twice that none at all.

    ``flag_language``: the language of each final segment is checked against all languages that the model knows, and a
    confident disagreement is reported (`LanguageFlag`).

    ``share``: a window that is asked for twice, by the proof of a switch and by the decode after it, is encoded once.
    ``parallel_ms`` above 0 decodes running speech in a second thread while language-ID goes on, each with the
    transcriber's number of compute threads; what it found is used when so much more audio has been heard, or when a
    pause or a switch needs it. The moment is one of the stream, not of the clock, so the result does not depend on the
    machine.
    """

    step_ms: int = 1000
    max_speech_s: float = 10.0
    policy: Policy = "agreement"
    attention_lag_ms: int = 500
    preroll_ms: int = 200
    snap_ms: int = 1000
    prompt_s: float = 0.0
    confirm_posterior: float = 0.7
    confirm_text: float = 0.1
    share: bool = True
    flag_language: bool = True
    parallel_ms: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("step_ms", "attention_lag_ms", "preroll_ms", "snap_ms", "parallel_ms"):
            value, least = getattr(self, name), 100 if name == "step_ms" else 0
            if not least <= value <= 30_000:
                raise ConfigurationError(f"{name} must be {least} to 30000, got {shown(value)}")
        if not 0 <= self.confirm_posterior <= 1:
            raise ConfigurationError(f"confirm_posterior must be 0 to 1, got {shown(self.confirm_posterior)}")
        if not self.prompt_s >= 0:
            raise ConfigurationError(f"prompt_s must be 0 or more seconds, got {shown(self.prompt_s)}")
        if not 2 <= self.max_speech_s <= 28:
            raise ConfigurationError(f"max_speech_s must be 2 to 28 seconds, got {shown(self.max_speech_s)}")
        if self.max_speech_s + self.step_ms / 1000 > WHISPER_S:
            raise ConfigurationError(
                f"max_speech_s and step_ms together must be at most the {WHISPER_S:g} s Whisper hears at once, "
                f"got {self.max_speech_s} and {shown(self.step_ms)}"
            )


GROUPS = {
    "vad": VadOptions,
    "lid": LidOptions,
    "smoothing": SmoothingOptions,
    "decoding": DecoderOptions,
    "session": SessionOptions,
}


def grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a transcriber out of plain JSON: ``{"lid": {"sure": 0.9}}`` comes back with its `LidOptions` made.

    Raises ConfigurationError for a group that is no object or has an option it does not know.
    """
    return {name: _group(name, value) if name in GROUPS else value for name, value in options.items()}


def _group(name: str, value: Any) -> Any:
    if isinstance(value, GROUPS[name]):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} is a group of options, an object, got {value!r}")
    try:
        return GROUPS[name](**value)
    except TypeError as error:
        raise ConfigurationError(f"{name}: {error}") from error


@dataclass(slots=True)
class _Speech:
    """Speech being decoded: where it begins, how far it was decoded, and which of its words are final."""

    start: int
    policy: CommitPolicy
    seen_until: int = 0

    @property
    def committed_until(self) -> int:
        words = self.policy.committed
        return max(self.start, words[-1].end) if words else self.start


@dataclass(slots=True, frozen=True)
class _Question:
    """A language-ID frame that is due: the window to look at, and what of it to look at besides."""

    window: Span
    onset: Span | None


@dataclass(slots=True, frozen=True)
class _Pending:
    """A decode under way in the second thread: what it decodes, up to where, and the answer to come."""

    speech: _Speech
    end: int
    answer: Future[Hypothesis]


@dataclass(slots=True, frozen=True)
class _Prompt:
    """The last text in a language, and the sample at which it ended."""

    tokens: tuple[int, ...]
    end: int


@dataclass(slots=True)
class _News:
    """What the call of `process` under way has produced so far."""

    committed: list[str] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    segments: list[SessionSegment] = field(default_factory=list)
    frames: list[LanguageFrame] = field(default_factory=list)
    speech: list[Span] = field(default_factory=list)
    gaps: list[Span] = field(default_factory=list)
    untranscribed: list[Span] = field(default_factory=list)
    flags: list[LanguageFlag] = field(default_factory=list)


class SessionRestartTranscriber:
    """Streaming transcription that follows the speaker's language.

    Args:
        model: a name (``'base'``), a checkpoint path, `Weights`, or a loaded openai-whisper model.
        languages: the allowed languages, such as ``['en', 'es']``; None allows all 99.
        sampling_rate: of the chunks given to `process`; other than 16000 is resampled as it comes.
        lid_hop_ms: time between language-ID frames.
        device: ``'cpu'`` or ``'cuda'``; None takes the CPU.
        precision: of the matrix products, ``'fp32'``, ``'bf16'`` or ``'int8'``; None takes for encoder and decoder what
            is fastest on this device without harm to the text (`whisperlab.model.linear.check_precision`).
        compiled: run the encoder as compiled code (`compiled_encoder`), made first if need be, in a minute or two;
            where that cannot be, the reason is logged and ``config()["compiled"]`` is False. For fp32 and bf16.
        threads: compute threads of this transcriber. torch's own setting is put back after every call.
        language: the one language spoken (mode *forced*: no language-ID).
        oracle: known switches as ``(seconds, language)`` pairs from 0 on (mode *oracle*, for upper bounds).
        language_prior: positive weights by language; those not named weigh 1.
        cache_size, hash_precision, key, shadow_rate: of the `EncoderCache` in front of language-ID.
        decode: False runs voice activity and language-ID only, for experiments on these; switches are then
            confirmed without text.
        lid_p95_limit_ms, hit_rate_limit: a warning is logged when crossed, at most once per
            ``log_interval_seconds``; None, the default, never warns. The guide's limits are 10 ms and 0.4.

    Threads: `process`, `finalize` and `reset` may come from any thread and take turns: the second waits for the first.
    Everything that only reads (`latest`, `config`, `get_statistics`, the summary, the export) may be asked by any
    thread at any time and does not wait for a decode; its counts are those of one stream and never go back before
    `reset`. A handler of a signal, which runs within whatever it interrupts, may do neither.

    Interrupts and errors: when anything but a refused chunk ends `process` or `finalize` early (`KeyboardInterrupt`, an
    error out of torch), the stream is half done: from then on both raise `StreamBrokenError` until `reset`. `latest`
    still tells what the broken call had made final, and the statistics can be read.

    Determinism: the same audio and options, ``threads`` among them, give the same results to the last bit, in any
    chunks and any process. With fp32 and int8 one thread and two do so too. With bf16 oneDNN shares long sums out among
    the threads: in 40 s of the development speech half the posteriors differed, by 0.04 at most, and two words of the
    text were spelt otherwise; times, languages and switches were the same.

    Processes: start them with *spawn*, and make a transcriber in each. A fork of a process that has made a transcriber
    lacks the threads of torch and of the voice activity detector, which would be waited for forever; there every call,
    and making another, raises `ForkedError`.

    >>> transcriber = SessionRestartTranscriber(languages=["en", "es"])  # doctest: +SKIP
    >>> result = transcriber.process(chunk)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Whisper | Weights = "base",
        languages: Sequence[str] | None = None,
        sampling_rate: int = SAMPLE_RATE,
        lid_hop_ms: int = 100,
        device: str | None = None,
        *,
        precision: str | None = None,
        compiled: bool = False,
        threads: int = THREADS,
        language: str | None = None,
        oracle: Sequence[tuple[float, str]] | None = None,
        language_prior: Mapping[str, float] | None = None,
        cache_size: int = 50,
        hash_precision: int = 6,
        key: str = "rounded",
        shadow_rate: float = 0.0,
        decode: bool = True,
        vad: VadOptions = VadOptions(),
        lid: LidOptions = LidOptions(),
        smoothing: SmoothingOptions = SmoothingOptions(),
        decoding: DecoderOptions = DecoderOptions(),
        session: SessionOptions = SessionOptions(),
        lid_p95_limit_ms: float | None = None,
        hit_rate_limit: float | None = None,
        enable_logging: bool = False,
        log_interval_seconds: float = 300.0,
    ) -> None:
        _check_process()
        for name, value, hint in (
            *(("sampling_rate", sampling_rate, int), ("lid_hop_ms", lid_hop_ms, int)),
            *(("precision", precision, str | None), ("compiled", compiled, bool), ("key", key, str)),
            *(("decode", decode, bool), ("vad", vad, VadOptions), ("lid", lid, LidOptions)),
            *(("smoothing", smoothing, SmoothingOptions), ("decoding", decoding, DecoderOptions)),
            *(("session", session, SessionOptions), ("enable_logging", enable_logging, bool)),
            *(
                ("lid_p95_limit_ms", lid_p95_limit_ms, float | None),
                ("hit_rate_limit", hit_rate_limit, float | None),
            ),
            *(("device", device, str | None), ("language", language, str | None)),
            ("language_prior", language_prior, Mapping | None),
        ):
            check_type(name, value, hint)
        _check_rates(sampling_rate, lid_hop_ms)
        self._mode = _mode(language, oracle)
        if languages is not None and self._mode != "auto":
            raise ConfigurationError(f"languages are for mode auto, but mode {self._mode} was asked for too")
        self._threads = check_threads(threads)
        split = (lid.pool_after or 0) if compiled else None
        with torch_threads(threads):
            if isinstance(model, str | Path):
                model = load_weights(model, device or "cpu")
            weights = weights_of(model)
            encoder, stack = self._engine(weights, precision, split)
        n_languages = weights.n_languages
        encoder.check_pooling(lid.pool_after)
        if language is not None:
            languages = [language]
        self._oracle = _checked_oracle(oracle)
        if oracle is not None:
            languages = [code for _, code in self._oracle]
        self._named = languages is not None
        self.languages = check_languages(languages, n_languages)
        self.sampling_rate, self.lid_hop_ms = sampling_rate, lid_hop_ms
        self._decode_text = decode
        self._vad_options, self._lid, self._smoothing, self._session = vad, lid, smoothing, session
        self._limits = (lid_p95_limit_ms, hit_rate_limit, log_interval_seconds)
        self._hop = lid_hop_ms * SAMPLE_RATE // 1000
        self._step = session.step_ms * SAMPLE_RATE // 1000
        self._config = {
            "model": weights.name,
            "languages": list(self.languages),
            "sampling_rate": sampling_rate,
            "lid_hop_ms": lid_hop_ms,
            "device": str(weights.device),
            "precision": encoder.precision,
            "decoder_precision": stack.precision,
            "compiled": encoder.compiled,
            "threads": threads,
            "mode": self._mode,
            "language_prior": dict(language_prior or {}),
            "cache_size": cache_size,
            "hash_precision": hash_precision,
            "key": key,
            "shadow_rate": shadow_rate,
            "decode": decode,
            "vad": asdict(vad),
            "lid": asdict(lid),
            "smoothing": asdict(smoothing),
            "decoding": asdict(decoding),
            "session": asdict(session),
        }
        self.metrics = self._timers(enable_logging, log_interval_seconds)
        self.encoder_cache = EncoderCache(
            max_size=cache_size,
            device=str(weights.device),
            hash_precision=hash_precision,
            key=key,
            shadow_rate=shadow_rate,
            context=(weights.name, encoder.precision, lid.window_ms, lid.margin_ms, lid.pool_after),
        )
        self._lid_encoder = encoder.with_own_counts()
        self._text_encoder = self._lid_encoder.with_own_counts()
        self._shadow_encoder = self._lid_encoder.with_own_counts()  # checks hits, on nobody's account
        self.metrics.attach("encoder_cache", self.encoder_cache.collect)
        self.metrics.attach("sessions", self._session_metrics)
        self._identifier = LanguageIdentifier(
            stack, self.languages, language_prior, lid.temperature, n_languages, lid.english_bias
        )
        self._every_language = LanguageIdentifier(
            stack, check_languages(None, n_languages), n_languages=n_languages
        )
        self._decoder = SpeechDecoder(
            self._text_encoder, stack, decoding, self.metrics, n_languages, share=session.share
        )
        with translate_oom("for voice activity detection"):
            self._gate = SpeechGate(vad, SileroDetector(), quiet_detector=SileroDetector())
        self._worker: ThreadPoolExecutor | None = None
        if session.parallel_ms:
            self._worker = ThreadPoolExecutor(1, "whisperlab-decode", torch.set_num_threads, (threads,))
        self._turns = threading.RLock()  # held by the one thread that works on the stream
        self._reading = threading.Lock()  # keeps a new stream from beginning while statistics are read
        self._half_done = ""  # the call under way, or the one that was broken off
        self.reset()

    def reset(self) -> None:
        """Begin a new stream: forget audio, text, cache and statistics; keep the model."""
        _check_process()
        with self._turns, torch_threads(self._threads):
            self._half_done = "reset"
            if self._worker:
                self._worker.submit(int).result()  # whatever it was decoding: the thread is free after it
            with self._reading:
                self._begin()
            self._half_done = ""

    def _begin(self) -> None:
        self.vad_audio_buffer = self._buffer(SAMPLE_RATE * 60)
        lid_capacity = int(self.lid_hop_ms / 1000 * SAMPLE_RATE) * 100
        self._window = self._lid.window_ms * SAMPLE_RATE // 1000
        pause = (
            self._vad_options.min_silence_ms * SAMPLE_RATE // 1000
        )  # frames of a batch may lie so far apart
        longest = self._window + self._lid.batch * (self._lid.sure_hops * self._hop + pause)
        self.audio_buffer_for_lid = self._buffer(max(lid_capacity, longest))
        self.metrics.reset()
        self.encoder_cache.clear()
        for encoder in (self._lid_encoder, self._text_encoder):
            encoder.reset_counts()
        self._decoder.reset()
        self._gate.reset()
        self._tracker = LanguageTracker(len(self.languages), self._smoothing)
        self._resampler = _resampler(self.sampling_rate)
        self._stream = f"stream-{next(_stream_ids)}"
        self._given = 0  # samples at the rate they come in, those of gaps among them
        self._heard = 0
        self._questions: list[_Question] = []  # language-ID frames that wait for their batch
        self._asked_at = 0  # when the last language-ID frame was asked for
        self._answered_until = 0  # the end of the last one taken
        self._in_doubt = True  # whether that frame left the language of the session in doubt
        self._refused_at = -REPROOF  # when a change was last put to the proof and not confirmed
        self._contested = 0  # samples of speech heard since the best path left the language of the session
        self._ended = False
        self._language = None if self._mode == "auto" else self.languages[0]
        self._upcoming = list(self._oracle[1:])
        self._load_level = 0
        self._pending: _Pending | None = None
        self._speech: _Speech | None = None
        self._final_until = 0
        self._tidied_at = 0  # when free memory was last given back
        self._prompts: dict[str, _Prompt] = {}
        self._counts = dict.fromkeys(
            (
                *("lid_frames", "lid_skipped", "lid_shed", "switches", "refused", "segments"),
                *("decodes", "steps_shed", "gaps", "gap_samples", "untranscribed", "untranscribed_samples"),
                *("language_flags", "language_outside", "language_outside_samples"),
            ),
            0,
        )
        self._warned_at: float | None = None
        self._outside_told: set[str] = set()  # languages outside the allowed ones that a warning has named
        self._evidence = np.full(len(self.languages), FOUND_S[0])  # seconds of speech found of each language
        self._warned_of_level = False
        self._news = _News()

    def _engine(
        self, weights: Weights, precision: str | None, split: int | None
    ) -> tuple[ShortWindowEncoder, TextStack]:
        """The network. A plainer pipeline, to compare this one with, has another."""
        return prepared(weights, precision, split)

    def _buffer(self, capacity: int) -> RingBuffer:
        """Where audio is kept."""
        return RingBuffer(capacity)

    def _timers(self, enable_logging: bool, log_interval_seconds: float) -> PerformanceMetrics:
        """What the operations are timed by."""
        return PerformanceMetrics(enable_logging=enable_logging, log_interval_seconds=log_interval_seconds)

    def process(self, chunk: npt.ArrayLike) -> ProcessResult:
        """Take the next chunk, of any length; returns what it brought.

        Floats in [-1, 1] or int16/int32 PCM, shape (n,), or (n, channels) which are averaged. Raises
        `AudioFormatError` for anything else, `StreamEndedError` after `finalize` and `StreamBrokenError` after a call
        that was broken off; these change nothing.
        """
        _check_process()
        with self._turns:
            self._check_whole()
            if self._ended:
                raise StreamEndedError("this stream was finalised; reset() starts a new one")
            audio = as_chunk(chunk)
            self._half_done = "process"
            self._news = _News()
            self._given += len(audio)
            with (
                self.metrics.measure("chunk.total"),
                torch_threads(self._threads),
                translate_oom("for the stream"),
            ):
                self._take(bounded(self._resampler.resample_chunk(audio)) if self._resampler else audio)
            self._half_done = ""
            return self.latest

    @property
    def load_level(self) -> int:
        """How much work is left out from here on, for a machine that does not keep up; 0, the default, is none.

        From level 1 on there is at most one language-ID frame in `SPARSE_LID`, however doubtful the language; at level
        2 moreover one decode step in `LONG_STEPS`, but for speech that has to be cut. What is decoded at the end of
        speech, and so every final segment, is not left out at any level. Audio is never dropped for it: see `skip`.
        """
        return self._load_level

    @load_level.setter
    def load_level(self, level: int) -> None:
        if level not in range(MAX_LOAD_LEVEL + 1):
            raise ConfigurationError(f"load_level must be 0 to {MAX_LOAD_LEVEL}, got {level!r}")
        self._load_level = level

    def skip(self, n_samples: int) -> ProcessResult:
        """Go on ``n_samples`` (at the rate of the chunks) later in the stream: what lay between is lost.

        Speech that was going on ends at the gap, and its segments become final; times after the gap are those of the
        whole stream. To everything but the detector of speech, which does not run in it, the gap is silence. Raises
        `ConfigurationError` for a negative number and `StreamEndedError` after `finalize`; both change nothing.
        """
        _check_process()
        with self._turns:
            self._check_whole()
            if self._ended:
                raise StreamEndedError("this stream was finalised; reset() starts a new one")
            if n_samples < 0:
                raise ConfigurationError(f"a gap needs 0 samples or more, got {n_samples}")
            self._half_done = "skip"
            self._news = _News()
            if n_samples:
                with torch_threads(self._threads):
                    self._flush()
                    self._resampler = _resampler(self.sampling_rate)
                    self._given += n_samples
                    self._leap(max(self._heard, round(self._given * SAMPLE_RATE / self.sampling_rate)))
            self._half_done = ""
            return self.latest

    def finalize(self) -> ProcessResult:
        """Finish the stream: what was still open becomes final. A second call brings nothing."""
        _check_process()
        with self._turns:
            self._check_whole()
            self._half_done = "finalize"
            self._news = _News()
            if not self._ended:
                with torch_threads(self._threads), translate_oom("for the stream"):
                    self._finalize()
            self._half_done = ""
            return self.latest

    def _finalize(self) -> None:
        self._flush()
        if closed := self._gate.close():
            self._end_speech(closed)
        self._ended = True

    def _check_whole(self) -> None:
        """Raise `StreamBrokenError` while the mark is set, which a call does for as long as it works on the stream."""
        if self._half_done:
            raise StreamBrokenError(
                f"{self._half_done}() was broken off {seconds(self._heard):.3f} s into this stream, which is half "
                "done; what that call had made final is in latest, and reset() starts a new stream"
            )

    def config(self) -> dict[str, Any]:
        """Everything that decides what this transcriber does, JSON-able."""
        return dict(self._config)

    def get_statistics(self) -> dict[str, Any]:
        """Counts and latencies since the stream began, JSON-able.

        While another thread works on the stream each of its parts is of one moment, and later parts may be newer.
        """
        _check_process()
        with self._reading:
            return self._statistics()

    def _statistics(self) -> dict[str, Any]:
        # What belongs together is read without a call in between, which is where another thread could come in.
        language, heard, counts = self._language, self._heard, self._counts.copy()
        redecodes, shared = self._decoder.redecodes, self._decoder.shared
        return {
            "performance": self.metrics.get_statistics(),
            "self_cost_ns": self.metrics.self_cost_ns,
            "encoder_cache": self.encoder_cache.get_statistics(),
            "buffers": {
                "vad": _buffer_statistics(self.vad_audio_buffer),
                "lid": _buffer_statistics(self.audio_buffer_for_lid),
            },
            "lid": {
                "frames": counts["lid_frames"],
                "skipped": counts["lid_skipped"],
                "shed": counts["lid_shed"],
                **_encoder_work(self._lid_encoder),
            },
            "sessions": {
                "mode": self._mode,
                "language": language,
                "switches": counts["switches"],
                "switches_refused": counts["refused"],
                "segments": counts["segments"],
                "decodes": counts["decodes"],
                "steps_shed": counts["steps_shed"],
                "redecodes": redecodes,
                "shared_encodes": shared,
                **_encoder_work(self._text_encoder),
                "heard_s": seconds(heard),
                "load_level": self._load_level,
                "gaps": counts["gaps"],
                "gap_s": seconds(counts["gap_samples"]),
                "untranscribed": counts["untranscribed"],
                "untranscribed_s": seconds(counts["untranscribed_samples"]),
                "language_flags": counts["language_flags"],
                "language_outside": counts["language_outside"],
                "language_outside_s": seconds(counts["language_outside_samples"]),
            },
            "level": {
                "recent_dbfs": dbfs(self._gate.level.value),
                "quiet_speech_s": seconds(self._gate.quiet),
                "quiet_speech_dbfs": dbfs(self._gate.quiet_level),
            },
        }

    def get_performance_summary(self) -> str:
        """The latency of every operation, the cache's hit rate and what load cost, for a person."""
        _check_process()
        cache = self.encoder_cache.get_statistics()
        line = f"encoder cache ({cache['key']}): {cache['hits']} hits, {cache['misses']} misses"
        counts = self._counts
        lost = (
            f"left out because of load: {counts['lid_shed']} language-ID frames, {counts['steps_shed']} decode steps; "
            f"audio lost: {seconds(counts['gap_samples']):.1f} s in {counts['gaps']} gaps"
        )
        return f"{self.metrics.get_summary()}\n{line}, hit rate {cache['hit_rate']:.1%}\n{lost}"

    def export_prometheus_metrics(self) -> str:
        """Latencies and counts in Prometheus' text format; ``metrics.serve`` answers scrapes with the same."""
        _check_process()
        return self.metrics.export_prometheus()

    def _session_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        told = self.get_statistics()["sessions"]
        for name, about, value in (
            ("switches", "Changes of language that were followed.", told["switches"]),
            ("segments", "Segments that became final.", told["segments"]),
            (
                "untranscribed_seconds",
                "Speech that no segment has text for.",
                told["untranscribed_s"],
            ),
        ):
            yield CounterMetricFamily(f"whisperlab_{name}", about, value)

    @property
    def latest(self) -> ProcessResult:
        """What the latest call of `process` or `finalize` brought: all of it, or as much as there is so far.

        It holds what a call made final before it was broken off, and what never reached the caller because an
        interrupt came between the end of the call and the use of its result.
        """
        news, speech = self._news, self._speech
        tentative = text_of(speech.policy.tentative) if speech else ""
        return ProcessResult(
            "".join(news.committed),
            tentative,
            self._language,
            tuple(news.switches),
            tuple(news.segments),
            tuple(news.frames),
            tuple(news.speech),
            tuple(news.gaps),
            self._load_level,
            tuple(news.untranscribed),
            tuple(news.flags),
        )

    def _take(self, audio: FloatArray) -> None:
        while len(audio):
            until_next = min(n - self._heard % n for n in (VAD_FRAME, self._hop, self._step))
            piece, audio = audio[:until_next], audio[until_next:]
            with self.metrics.measure("vad.buffer_append"):
                self.vad_audio_buffer.append(piece)
            with self.metrics.measure("lid.buffer_append"):
                self.audio_buffer_for_lid.append(piece)
            self._heard += len(piece)
            self._reach()
            if self._heard - self._tidied_at >= TIDY:  # now that nothing passing is held
                self._tidied_at = self._heard
                trim_heap()

    def _flush(self) -> None:
        """Take in what the resampler still holds."""
        if self._resampler:
            self._take(bounded(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)))

    def _leap(self, end: int) -> None:
        """End the speech going on here, and let silence that nobody listens to fill the buffers up to ``end``."""
        gap = Span(self._heard, end)
        if closed := self._gate.close():
            self._end_speech(closed)
        for start in range(gap.start, end, SAMPLE_RATE):
            silence = np.zeros(min(SAMPLE_RATE, end - start), np.float32)
            self.vad_audio_buffer.append(silence)
            self.audio_buffer_for_lid.append(silence)
        self._gate.leap(end - end % VAD_FRAME)
        self._heard = self._final_until = end
        self._news.gaps.append(gap)
        self._counts["gaps"] += 1
        self._counts["gap_samples"] += len(gap)

    def _reach(self) -> None:
        """Do what is due at this sample of the stream: voice activity, language, then text."""
        closed = self._judge() if self._heard % VAD_FRAME == 0 else None
        if self._heard % self._hop == 0:
            if self._mode == "auto":
                self._identify()
            elif self._upcoming and self._upcoming[0][0] <= self._heard:
                boundary, code = self._upcoming.pop(0)
                self._settle()
                self._restart(self._still_open(boundary), code)
        if closed:
            self._end_speech(closed)
        elif self._heard % self._step == 0 and not self._step_shed():
            self._decode_step()
        elif (
            self._pending
            and self._heard >= self._pending.end + self._session.parallel_ms * SAMPLE_RATE // 1000
        ):
            self._settle()

    def _judge(self) -> Span | None:
        with self.metrics.measure("vad.detect"):
            closed = self._gate.push(self.vad_audio_buffer.peek(VAD_FRAME))
        if self._gate.span_start is not None and self._speech is None:
            preroll = self._session.preroll_ms * SAMPLE_RATE // 1000
            self._speech = self._new_speech(max(self._gate.span_start - preroll, self._final_until))
        return closed

    # --- language ---------------------------------------------------------------------------------------

    def _identify(self) -> None:
        """Ask for a language-ID frame, if one is due; answer when a batch of them is full."""
        if not self._due():
            self._counts["lid_skipped"] += 1
            return
        self._ask()
        if len(self._questions) < self._lid.batch:
            return
        with self.metrics.measure("lid.total"):
            turn = self._answer()
        self._warn()
        if turn and self._heard - self._refused_at >= REPROOF:
            self._turn(turn)

    def _due(self) -> bool:
        """Whether there is new speech to hear and enough of it, and the last answer was doubtful or long ago."""
        began = self._gate.span_start
        enough = began is not None and seconds(self._heard - began) * 1000 >= self._lid.min_speech_ms
        since = self._heard - self._asked_at
        wanted = self._in_doubt or since >= self._lid.sure_hops * self._hop
        if not (enough and wanted and self._gate.voiced_until > self._heard - self._hop):
            return False
        shed = self._load_level >= 1 and since < SPARSE_LID
        self._counts["lid_shed"] += shed
        return not shed

    def _ask(self) -> None:
        window, onset = Span(self._heard - min(self._window, self._heard), self._heard), self._onset()
        if onset and len(onset) >= self._lid.alone_ms * SAMPLE_RATE // 1000:
            window, onset = onset, None
        self._questions.append(_Question(window, onset))
        self._asked_at = self._heard

    def _answer(self) -> Turn | None:
        """Take the frames asked for, in order; returns the change that the last of them makes certain."""
        questions, self._questions = self._questions, []
        turn = None
        for question, (posterior, cached) in zip(questions, self._posteriors(questions), strict=True):
            turn = self._frame(question, posterior, cached)
        return turn

    def _frame(self, question: _Question, posterior: Posterior, cached: bool) -> Turn | None:
        self._counts["lid_frames"] += 1
        whole, onset = Look(question.window, posterior), None
        if question.onset is not None:
            audio = self.audio_buffer_for_lid.read(question.onset)
            onset = Look(question.onset, self._look(audio, self._lid.onset_margin_ms))
        with self.metrics.measure("lid.smoothing"):
            state = self._tracker.push(whole, *([onset] if onset else []))
        self._news.frames.append(
            LanguageFrame(
                whole.window.end,
                len(whole.window),
                self._gate.voiced(whole.window),
                self._by_language(posterior),
                self.languages[state],
                cached,
                Onset(len(onset.window), self._by_language(onset.posterior)) if onset else None,
            )
        )
        with self.metrics.measure("lid.sustained_detection"):
            turn = self._tracker.change(self._state)
        gap = min(whole.window.end - self._answered_until, LONGEST_GAP)
        self._contested = 0 if state == self._state else self._contested + gap
        self._evidence += seconds(gap) * posterior
        self._answered_until = whole.window.end
        clearest = onset or whole  # after a switch the whole window holds the old language for seconds
        self._in_doubt = state != self._state or clearest.posterior[state] < self._lid.sure
        return turn

    def _onset(self) -> Span | None:
        """What was said since the last pause, when that is not long ago but enough to hear a language in."""
        per_ms = SAMPLE_RATE // 1000
        began = self._gate.spoken_since(self._lid.pause_ms * per_ms) if self._lid.onset_ms else None
        longest = min(self._lid.onset_ms * per_ms, self._window)
        if began is None or not self._lid.min_speech_ms * per_ms <= self._heard - began <= longest:
            return None
        return Span(began, self._heard)

    def _look(self, window: FloatArray, margin_ms: int) -> Posterior:
        """Language posterior of any window, past the cache."""
        with self.metrics.measure("lid.encoder_forward"):
            features = self._lid_features(self._lid_encoder, [window], margin_ms)[0]
        with self.metrics.measure("lid.detect"):
            return self._identifier.posterior(features)

    def _by_language(self, posterior: Posterior) -> dict[str, float]:
        return dict(zip(self.languages, posterior.tolist(), strict=True))

    @line_profiled
    def _posteriors(self, questions: Sequence[_Question]) -> list[tuple[Posterior, bool]]:
        """Language posteriors of windows, through the encoder cache; and whether the cache had them.

        Those it does not have are encoded together.
        """
        cache, margin_ms = self.encoder_cache, self._lid.margin_ms
        with self.metrics.measure("lid.frame_extract"):
            windows = [self.audio_buffer_for_lid.read(question.window) for question in questions]
        asked = [
            cache.precompute_hash(window, (self._stream, question.window.start, len(window)))
            for question, window in zip(questions, windows, strict=True)
        ]
        features = [cache.get(audio_hash=each) for each in asked]
        missing = [index for index, found in enumerate(features) if found is None]
        for _, same in itertools.groupby(missing, key=lambda index: len(windows[index])):
            group = list(same)
            with self.metrics.measure("lid.encoder_forward"):
                fresh = self._lid_features(self._lid_encoder, [windows[index] for index in group], margin_ms)
            for index, encoded in zip(group, fresh, strict=True):
                features[index] = encoded
        found_all: list[tuple[Posterior, bool]] = []
        for index, found in enumerate(features):
            assert found is not None
            cached = index not in missing
            with self.metrics.measure("lid.detect"):
                posterior = self._narrowed(self._identifier.posterior(found))
            if not cached and posterior.max() >= cache.key.least_confidence:
                cache.put(found, audio_hash=asked[index])
            if cached and cache.should_shadow():
                again = self._lid_features(self._shadow_encoder, [windows[index]], margin_ms)[0]
                truth = self._narrowed(self._identifier.posterior(again))
                agree = int(truth.argmax()) == int(posterior.argmax())
                cache.record_shadow(agree=agree, distance=float(abs(truth - posterior).sum() / 2))
            found_all.append((posterior, cached))
        return found_all

    def _narrowed(self, posterior: Posterior) -> Posterior:
        """A posterior over all languages, in which those not found in the stream so far weigh less.

        Languages found for long enough weigh the same. Where languages are named nothing is changed.
        """
        if self._named:
            return posterior
        weighed = posterior * self._weights()
        return np.asarray(weighed / weighed.sum())

    def _weights(self) -> Posterior:
        """Weight of each language: its evidence, up to what is enough.

        Once another language has enough, English is weighed down as when the languages are named: on the first two
        recordings of ``ivr-en-es`` *dev* that raised F1 at 1 s from 0.38 to 0.80.
        """
        found: Posterior = np.minimum(self._evidence, FOUND_S[1])
        english = self.languages.index("en")
        if np.delete(found, english).max() >= FOUND_S[1]:
            found[english] *= math.exp(-self._lid.english_bias)
        return found

    def _lid_features(
        self, encoder: ShortWindowEncoder, windows: Sequence[FloatArray], margin_ms: int
    ) -> list[torch.Tensor]:
        margin = margin_ms * SAMPLE_RATE // 1000
        return [encoded.features for encoded in encoder.encode_batch(windows, margin, self._lid.pool_after)]

    def _turn(self, turn: Turn) -> None:
        """Act on a change of language that the best path shows, if what was said since confirms it."""
        self._settle()
        code = self.languages[turn.state]
        boundary = self._still_open(self._snapped(turn.boundary))
        if self._language is None or self._was_never_spoken(boundary):
            self._language = code
            if self._speech:
                self._speech = self._new_speech(self._speech.start)
            self._decode_step()
        elif self._contested >= 2 * PATIENCE or self._confirmed(boundary, code):
            self._restart(boundary, code)
        else:
            self._counts["refused"] += 1
            self._refused_at = self._heard

    def _still_open(self, boundary: int) -> int:
        """The boundary, or where what is final ends if that lies after it."""
        return max(boundary, self._final_until, self._speech.committed_until if self._speech else 0)

    def _confirmed(self, boundary: int, code: str) -> bool:
        """Whether what was said since the boundary, heard alone, is in that language: by language-ID, then by its text.

        The two err differently: in windows of 1.5 s of five languages on *dev* language-ID was right in 83 %, the
        likeliest text in 79 %, the sum of both in 91 %. Where neither language has a text, language-ID is believed.
        """
        start = max(boundary, self._heard - max(self._window, MIN_SPEECH))
        if self._heard - start < MIN_SPEECH:
            return False
        audio = self.vad_audio_buffer.read(Span(start, self._heard))
        if self._session.confirm_posterior:
            if self._decode_text and self._session.share:
                look = self._identifier.posterior(self._decoder.encoded(audio, start).features)
            else:
                look = self._look(audio, self._lid.onset_margin_ms)
            if look[self.languages.index(code)] < self._session.confirm_posterior:
                return False
        proof_wanted = self._session.confirm_text != -math.inf and self._contested < PATIENCE
        if not proof_wanted or not self._decode_text:
            return True
        assert self._language is not None
        self._counts["decodes"] += 1
        with self.metrics.measure("whisper.infer"):
            new, old = self._decoder.likelihoods(audio, start, (code, self._language))
        if new is None or old is None:
            return old is None
        return new - old >= self._session.confirm_text

    def _was_never_spoken(self, boundary: int) -> bool:
        """Whether a change there means that the first language was taken wrongly, with nothing final said in it."""
        speech = self._speech
        began = speech is not None and boundary - speech.start < MIN_SPEECH
        return began and not self._counts["segments"] and not (speech and speech.policy.committed)

    def _snapped(self, boundary: int) -> int:
        """The end of the pause nearest to an estimated boundary, or the estimate when there is none near."""
        reach = self._session.snap_ms * SAMPLE_RATE // 1000
        near = Span(max(boundary - reach, 0), min(boundary + reach, self._heard))
        over = [pause.end for pause in self._gate.pauses(near) if pause.end < self._gate.heard_until]
        ends = [end for end in over if near.start <= end <= near.end]
        return min(ends, key=lambda end: abs(end - boundary)) if ends else boundary

    def _restart(self, boundary: int, code: str) -> None:
        """Finish the running session at the boundary and start one in another language there."""
        assert self._language is not None
        with self.metrics.measure("session.restart"):
            speech = self._speech
            switch = Switch(seconds(boundary), self._language, code, seconds(self._heard))
            self._news.switches.append(switch)
            self._counts["switches"] += 1
            if speech and (speech.policy.committed or boundary - speech.start >= MIN_SPEECH):
                self._finish(boundary)
                self._speech = self._new_speech(boundary)
            elif speech:
                self._speech = self._new_speech(speech.start)
            self._language = code
        self._decode_step()

    def _warn(self) -> None:
        """Log a warning, at most once per interval, when language-ID is slow or the cache is of no use."""
        p95_limit, hit_limit, interval_s = self._limits
        if self._counts["lid_frames"] % 100 or (p95_limit is None and hit_limit is None):
            return
        now = time.monotonic()
        if self._warned_at is not None and now - self._warned_at < interval_s:
            return
        p95 = self.metrics.get_statistics()["lid.total"]["p95"]
        hit_rate = self.encoder_cache.get_statistics()["hit_rate"]
        if p95_limit is not None and p95 > p95_limit:
            logger.warning("language-ID is slow: lid.total p95 %.1f ms, limit %.1f ms", p95, p95_limit)
            self._warned_at = now
        if hit_limit is not None and hit_rate < hit_limit:
            logger.warning(
                "the encoder cache hits rarely: %.1f %%, limit %.1f %%", 100 * hit_rate, 100 * hit_limit
            )
            self._warned_at = now

    def _warn_of_level(self) -> None:
        """Log a warning, once per stream, when a second of speech was quiet."""
        level = dbfs(self._gate.quiet_level)
        if self._warned_of_level or level is None or self._gate.quiet < SAMPLE_RATE:
            return
        self._warned_of_level = True
        logger.warning(
            "the speech is very quiet: %.0f dBFS (RMS of its loudest 32 ms); it is amplified, but words may be wrong: "
            "raise the level of the recording",
            level,
        )

    @property
    def _state(self) -> int | None:
        return None if self._language is None else self.languages.index(self._language)

    # --- text -------------------------------------------------------------------------------------------

    def _decode_step(self) -> None:
        """Decode the running speech up to now, unless that would bring nothing: no new speech, or a change of
        language in the air. Commit what two decodes agree on.
        """
        self._settle()
        speech = self._speech
        if speech is None or self._language is None or not self._decode_text:
            return
        if seconds(self._heard - speech.start) > self._session.max_speech_s:
            speech = self._speech = self._cut(speech)
        if self._outlook() or self._heard - speech.start < MIN_SPEECH:
            return
        if self._gate.voiced_until <= speech.seen_until:
            return
        decode = self._decoding(speech, self._heard, retry=False)
        if self._worker:
            self._pending = _Pending(speech, self._heard, self._worker.submit(decode))
        else:
            self._take_in(speech, self._heard, decode())

    def _step_shed(self) -> bool:
        """Whether this decode step is left out because of load; one that has to cut long speech is not."""
        speech = self._speech
        shed = (
            self._load_level >= 2
            and self._heard // self._step % LONG_STEPS != 0
            and speech is not None
            and seconds(self._heard - speech.start) <= self._session.max_speech_s
        )
        self._counts["steps_shed"] += shed
        return shed

    def _settle(self) -> None:
        """Use what the second thread has decoded, if anything; waits for it."""
        pending, self._pending = self._pending, None
        if pending:
            self._take_in(pending.speech, pending.end, pending.answer.result())

    def _take_in(self, speech: _Speech, end: int, hypothesis: Hypothesis) -> None:
        """Commit what can be relied on of a hypothesis about running speech up to ``end``."""
        if hypothesis.looped:  # worth no second try: it will be decoded again, with more audio or at its end
            return
        speech.seen_until = end
        left_out = self._left_out(speech, hypothesis.words, end)
        if left_out and speech.policy.committed and self._stalled(speech, left_out):
            self._finish(left_out.word_start)
            self._speech = self._new_speech(self._final_until)
            return
        horizon = left_out.word_start if left_out else end
        self._commit(speech.policy.update(hypothesis, min(self._sure_until(), horizon), end))

    def _left_out(self, speech: _Speech, words: Sequence[Word], end: int) -> Uncovered | None:
        """The first speech after the committed words that a hypothesis has no text for."""
        span = Span(speech.committed_until, max(end, speech.committed_until))
        voiced = self._gate.voiced_frames(span)
        return next(iter(uncovered(words, voiced, span, len(speech.policy.committed))), None)

    def _stalled(self, speech: _Speech, left_out: Uncovered) -> bool:
        """Whether decoding on would not find this speech, because it follows the committed words.

        A forced prefix that ends a sentence can make Whisper end the text there, whatever is said after it; or it goes
        on from where its last words are said again.
        """
        return left_out.index < len(speech.policy.committed) and left_out.voiced >= STALL

    def _sure_until(self) -> int:
        """The sample before which language-ID will not find that another language was spoken."""
        if self._mode != "auto" or self._state is None:
            return self._heard
        return self._tracker.sure_until(self._state)

    def _outlook(self) -> Turn | None:
        """The change of language that the frames so far speak for, decided or not."""
        return self._tracker.outlook(self._state) if self._mode == "auto" else None

    def _new_speech(self, start: int) -> _Speech:
        lag = self._session.attention_lag_ms * SAMPLE_RATE // 1000
        return _Speech(start, LocalAgreement() if self._session.policy == "agreement" else AlignAtt(lag))

    def _hypothesis(self, speech: _Speech, end: int) -> Hypothesis:
        return self._decoding(speech, end, retry=True)()

    def _decoding(self, speech: _Speech, end: int, *, retry: bool) -> Callable[[], Hypothesis]:
        """A decode of speech up to ``end``, ready to be run by any thread."""
        assert self._language is not None
        self._counts["decodes"] += 1
        with self.metrics.measure("whisper.buffer_read"):
            audio = self.vad_audio_buffer.read(Span(speech.start, end))
        decode = partial(
            self._decoder.decode,
            audio,
            speech.start,
            self._language,
            tuple(speech.policy.committed),
            speech.policy.tentative,
            prompt=self._prompt(speech.start),
            retry=retry,
        )
        return self.metrics.measure("whisper.infer")(decode)

    def _prompt(self, start: int) -> Sequence[int]:
        """Tokens of the last text in the session's language, if it is recent enough for speech from ``start`` on."""
        last = self._prompts.get(self._language or "")
        recent = last is not None and seconds(start - last.end) <= self._session.prompt_s
        return last.tokens if last and recent else ()

    def _commit(self, words: Sequence[Word]) -> None:
        self._news.committed.extend(word.text for word in words)

    def _cut(self, speech: _Speech) -> _Speech:
        """Finish the earlier part of speech that got too long, at a pause if there is one; returns the rest."""
        earliest = max(speech.committed_until, speech.start + MIN_SPEECH)
        latest = max(min(self._sure_until(), self._heard - CUT_LAG), earliest)
        pauses = [pause for pause in self._gate.pauses(Span(earliest, latest)) if pause.end <= latest]
        at = max(pauses, key=len).end if pauses else self._gate.quietest(Span(earliest, latest)) or latest
        self._finish(max(at, earliest))
        return self._new_speech(self._final_until)

    def _finish(self, end: int) -> None:
        """Turn the running speech up to ``end`` into a final segment."""
        speech = self._speech
        assert speech is not None
        self._final_until = max(end, speech.committed_until)
        self._speech = None
        if not self._decode_text or self._language is None:
            return
        words = self._last_words(speech)
        text = text_of(words)
        self._commit(words[len(speech.policy.committed) :])
        if not is_meaningful(text):
            return
        self._counts["segments"] += 1
        if self._session.prompt_s:
            said = tuple(token for word in words for token in word.tokens)
            self._prompts[self._language] = _Prompt(said, self._final_until)
        times = seconds(words[0].start), seconds(words[-1].end)
        self._news.segments.append(
            SessionSegment(text, self._language, *times, is_final=True, confidence=confidence_of(words))
        )

    def _last_words(self, speech: _Speech) -> Sequence[Word]:
        """The words of speech that has ended: those of the last hypothesis if it heard just all of it.

        Speech that they leave out is decoded again; what has no text even so is reported.
        """
        end, committed = self._final_until, speech.policy.committed
        if end - speech.start < MIN_SPEECH or end <= speech.committed_until:
            return committed  # a switch in the pause that ended it left nothing
        if self._gate.voiced_until <= min(speech.seen_until, end):
            words: Sequence[Word] = (*committed, *speech.policy.tentative)
            self._check_language(Span(speech.start, min(speech.seen_until, self._heard)))
        else:
            words = self._hypothesis(speech, end).words
            self._check_language(Span(speech.start, end))
        span = Span(speech.committed_until, end)
        voiced = self._gate.voiced_frames(span)
        found, left = completed(words, voiced, span, self._decoded_alone, len(committed))
        short = len(voiced) * VAD_FRAME < FLAG_SPEECH and not committed
        if short and Hypothesis(tuple(found)).log_probability < INVENTED:
            found = []
        if not is_meaningful(text_of(found)) and len(voiced) * VAD_FRAME >= MIN_SPEECH:
            left = [Span(voiced[0], min(voiced[-1] + VAD_FRAME, end))]
        self._news.untranscribed += left
        self._counts["untranscribed"] += len(left)
        self._counts["untranscribed_samples"] += sum(map(len, left))
        return found

    def _check_language(self, span: Span) -> None:
        """Flag speech about to become a segment if it sounds like another language than the session's."""
        if not self._session.flag_language or self._gate.voiced(span) < FLAG_SPEECH:
            return
        assert self._language is not None
        encoded = self._decoder.encoded(self.vad_audio_buffer.read(span), span.start)
        posterior = self._every_language.posterior(encoded.features)
        likeliest = int(posterior.argmax())
        code, probability = self._every_language.languages[likeliest], float(posterior[likeliest])
        if code == self._language or probability < FLAG_PROBABILITY:
            return
        flag = LanguageFlag(span, self._language, code, probability, code not in self.languages)
        self._news.flags.append(flag)
        self._counts["language_flags"] += 1
        if flag.outside:
            self._counts["language_outside"] += 1
            self._counts["language_outside_samples"] += len(span)
            if code not in self._outside_told:
                self._outside_told.add(code)
                logger.warning(
                    "speech at %.1f-%.1f s sounds like %s (probability %.2f), which is not an allowed language (%s); "
                    "its text is not reliable",
                    *(seconds(span.start), seconds(span.end), code, probability, ", ".join(self.languages)),
                )

    def _decoded_alone(self, span: Span) -> Sequence[Word]:
        if len(span) < MIN_SPEECH:
            return ()
        return self._hypothesis(self._new_speech(span.start), span.end).words

    def _end_speech(self, closed: Span) -> None:
        """A pause (or the end of the stream) closed speech: a change that the best path shows is decided now or not."""
        self._news.speech.append(closed)
        self._warn_of_level()
        self._settle()
        if self._mode == "auto":
            if self._language is None and self._heard and not self._questions:
                self._ask()
            if self._questions:
                self._answer()
            if turn := self._outlook():
                self._turn(turn)
        if self._speech:
            preroll = self._session.preroll_ms * SAMPLE_RATE // 1000
            self._finish(min(closed.end + preroll, self._heard))


def prepared(
    model: Whisper | Weights, precision: str | None = None, split: int | None = None
) -> tuple[ShortWindowEncoder, TextStack]:
    """Encoder and decoder of a model, prepared once however many transcribers use it: weights are kept once.

    ``precision`` None takes for each what is fastest here (`check_precision`). A ``split`` compiles the encoder, cut
    after so many blocks (`compiled_encoder`).
    """
    weights = weights_of(model)
    with translate_oom(f"to prepare {weights.name}"):
        return _prepared_once(weights, precision, split)


def _prepared_once(
    weights: Weights, precision: str | None, split: int | None
) -> tuple[ShortWindowEncoder, TextStack]:
    for_encoder = check_precision(precision, weights.device, "encoder")
    if split is not None and precision is None and for_encoder == "int8":
        for_encoder = "fp32"  # 8-bit products are not compiled
    for_decoder = check_precision(precision, weights.device, "decoder")
    with _preparing:
        encoders, stacks = _prepared.setdefault(weights, ({}, {}))
        if (for_encoder, split) not in encoders:
            encoders[for_encoder, split] = (
                ShortWindowEncoder(weights, for_encoder)
                if split is None
                else compiled_encoder(weights, for_encoder, split)
            )
        if for_decoder not in stacks:
            stacks[for_decoder] = TextStack(weights, for_decoder)
        return encoders[for_encoder, split], stacks[for_decoder]


def _check_process() -> None:
    """Raise `ForkedError` in a process forked from one that had made a transcriber."""
    if not _made_in:
        _made_in.append(os.getpid())
    if _made_in[0] != os.getpid():
        raise ForkedError(
            f"process {_made_in[0]} had made a transcriber when this one, {os.getpid()}, was forked from it; the "
            "threads of torch and of the voice activity detector are not here, and waiting for them would never end; "
            "start processes with the method 'spawn' and make a transcriber in each"
        )


def _mode(language: str | None, oracle: Sequence[tuple[float, str]] | None) -> str:
    if language is not None and oracle is not None:
        raise ConfigurationError("language (mode forced) and oracle exclude each other")
    return "forced" if language is not None else "auto" if oracle is None else "oracle"


def _checked_oracle(oracle: Sequence[tuple[float, str]] | None) -> list[tuple[int, str]]:
    try:
        times = [(samples(time_s), language_code(code)) for time_s, code in oracle or ()]
        in_order = times == sorted(times)
    except UnknownLanguageError:
        raise
    except (TypeError, ValueError, OverflowError):
        in_order = False
    if oracle is not None and not (in_order and times and times[0][0] == 0):
        raise ConfigurationError(
            f"oracle needs (seconds, language) pairs in order, from 0 on, got {shown(oracle)}"
        )
    return [pair for before, pair in zip([(0, None), *times], times, strict=False) if pair[1] != before[1]]


def _check_rates(sampling_rate: int, lid_hop_ms: int) -> None:
    if not 1000 <= sampling_rate <= 1_000_000:
        raise ConfigurationError(f"sampling_rate must be 1000 to 1000000 Hz, got {shown(sampling_rate)}")
    if not 10 <= lid_hop_ms <= 10_000:
        raise ConfigurationError(f"lid_hop_ms must be 10 to 10000, got {shown(lid_hop_ms)}")


def _resampler(sampling_rate: int) -> Any:
    """A resampler that remembers the last chunk, so that borders of chunks do not sound; None at 16 kHz."""
    if sampling_rate == SAMPLE_RATE:
        return None
    import soxr

    return soxr.ResampleStream(sampling_rate, SAMPLE_RATE, 1, dtype="float32")


def _encoder_work(encoder: ShortWindowEncoder) -> dict[str, float]:
    calls, encoded = encoder.calls, encoder.encoded_samples
    return {"encoder_calls": calls, "encoded_s": seconds(encoded)}


def _buffer_statistics(buffer: RingBuffer) -> dict[str, int]:
    return {
        "capacity": buffer.capacity,
        "held": len(buffer),
        "nbytes": buffer.nbytes,
        "overruns": buffer.overruns,
        "dropped_samples": buffer.dropped_samples,
    }

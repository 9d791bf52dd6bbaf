"""SessionRestartTranscriber: transcribes a stream and restarts the session when the speaker changes language.

The class is a facade: it checks calls and serialises them. The parts are in `whisperlab.streaming`, one module each;
`whisperlab.streaming.stream` drives them.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy.typing as npt

from whisperlab.buffer import RingBuffer
from whisperlab.config import TranscriberConfig
from whisperlab.model.weights import Model, load_weights, weights_of
from whisperlab.streaming.assembly import Assembly, Parts
from whisperlab.streaming.results import ProcessResult, ResultBuilder
from whisperlab.streaming.stream import Stream
from whisperlab.util.audio_arrays import as_chunk
from whisperlab.util.errors import ConfigurationError, ForkedError, StreamBrokenError, StreamEndedError, translate_oom
from whisperlab.util.json_values import Json
from whisperlab.util.options import KEYWORDS
from whisperlab.util.threads import torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, seconds

MAX_LOAD_LEVEL = 2
_DEFAULTS = {"languages": None, "sampling_rate": SAMPLE_RATE, "lid_hop_ms": 100, "device": None}
_made_in: list[int] = []  # the process that made the first transcriber; a forked process inherits it


class SessionRestartTranscriber:
    """Streaming transcription that follows the speaker's language.

    Args:
        model: a name (``'base'``), a checkpoint's path, loaded `Weights`, or a loaded model of openai-whisper.
        languages: the allowed languages, such as ``['en', 'es']``; None allows all.
        sampling_rate: samples per second of the chunks; other rates than 16000 are resampled.
        lid_hop_ms: time between two language-ID frames, milliseconds.
        device: ``'cpu'`` or ``'cuda'``; None is the CPU.
        config: all options in one record. Arguments that are given besides replace its options.
        parts: makers of exchangeable parts, to compare the pipeline with plainer ones.
        options: other options of `TranscriberConfig` by keyword; `whisperlab.util.options.KEYWORDS` lists short names.

    Threads: `process`, `skip`, `finalize` and `reset` may be called by any thread; a second call waits for the first.
    Everything that only reads (`latest`, `config`, `get_statistics`, the summary, the export) may be called by any
    thread at any time and does not wait for a decode. A signal handler may call neither: it runs inside the call that
    it interrupts.

    Errors: if `process`, `skip` or `finalize` is interrupted by anything but a refused chunk, the state of the stream
    is undefined: both raise `StreamBrokenError` until `reset`. `latest` still returns what that call had made final.

    Determinism: the same audio and options give the same results to the last bit, in any chunks and any process. With
    fp32 and int8 one thread and two agree as well. With bf16 they do not: oneDNN splits long sums among the threads
    (posteriors differed by 0.04 at most in 40 s of *dev* speech).

    Processes: start them with *spawn*. A process forked from one that has made a transcriber lacks the threads of torch
    and of the voice activity detector; every call there raises `ForkedError`.

    >>> transcriber = SessionRestartTranscriber(languages=["en", "es"])  # doctest: +SKIP
    >>> result = transcriber.process(chunk)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: "str | Path | Model" = "base",
        languages: Sequence[str] | None = None,
        sampling_rate: int = SAMPLE_RATE,
        lid_hop_ms: int = 100,
        device: str | None = None,
        *,
        config: TranscriberConfig | None = None,
        parts: Parts = Parts(),
        **options: object,
    ) -> None:
        check_process()
        base = TranscriberConfig() if config is None else config
        if not isinstance(base, TranscriberConfig):
            raise ConfigurationError(f"config must be a TranscriberConfig, got {type(base).__name__}")
        for name, value in zip(_DEFAULTS, (languages, sampling_rate, lid_hop_ms, device), strict=True):
            if value is not _DEFAULTS[name]:
                options[name] = value
        self.configuration = base.replace({KEYWORDS.get(name, name): value for name, value in options.items()})
        compute = self.configuration.compute
        with torch_threads(compute.threads):
            if isinstance(model, str | Path):
                model = load_weights(model, compute.device or "cpu")
            weights = weights_of(model)
            self.parts = Assembly(self.configuration, weights, parts)
        self.languages = self.parts.languages
        self.metrics, self.encoder_cache = self.parts.metrics, self.parts.lid.cache
        self.metrics.attach("encoder_cache", self.encoder_cache.collect)
        self.metrics.attach("sessions", self.parts.collect)
        self._model_name, self._device = weights.name, str(weights.device)
        self._working = threading.RLock()  # held by the one thread that works on the stream
        self._reading = threading.Lock()  # prevents a reset while statistics are read
        self._unfinished = ""  # the call that works on the stream; still set later if that call was interrupted
        self.reset()

    def __repr__(self) -> str:
        spoken = ", ".join(self.languages[:5]) + (", ..." if len(self.languages) > 5 else "")
        heard = seconds(self.parts.stream.context.history.received)
        return f"<{type(self).__name__}: Whisper {self._model_name}, languages {spoken}, {heard:.1f} s received>"

    @property
    def vad_audio_buffer(self) -> RingBuffer:
        """The newest 60 s of audio, for voice activity and text."""
        return self.parts.stream.context.history.vad

    @property
    def audio_buffer_for_lid(self) -> RingBuffer:
        """The newest audio, for language-ID."""
        return self.parts.stream.context.history.lid

    def reset(self) -> None:
        """Start a new stream: drop audio, text, cache and statistics; keep the model."""
        check_process()
        with self._working, torch_threads(self.configuration.compute.threads):
            self._unfinished = "reset"
            self.parts.runner.begin()
            with self._reading:
                self.parts.begin()
            self._unfinished = ""

    def process(self, chunk: npt.ArrayLike) -> ProcessResult:
        """Process the next chunk, of any length; returns its results.

        Floats in [-1, 1] or int16/int32 PCM, shape (n,), or (n, channels), which are averaged. Raises
        `AudioFormatError` for anything else, `StreamEndedError` after `finalize` and `StreamBrokenError` after an
        interrupted call; these change nothing.
        """
        audio = as_chunk(chunk)
        return self._work("process", lambda stream: stream.take(audio))

    def skip(self, n_samples: int) -> ProcessResult:
        """Continue ``n_samples`` (at the rate of the chunks) later in the stream: the audio between is lost.

        Running speech ends at the gap and becomes final; times after the gap count from the start of the stream. The
        gap counts as silence; voice activity detection does not run in it. Raises `ConfigurationError` for a
        negative number and `StreamEndedError` after `finalize`; both change nothing.
        """
        if n_samples < 0:
            raise ConfigurationError(f"a gap needs 0 samples or more, got {n_samples}")
        return self._work("skip", lambda stream: stream.lose(n_samples))

    def finalize(self) -> ProcessResult:
        """Finish the stream: running speech becomes final. A second call returns an empty result."""
        return self._work("finalize", Stream.finish)

    def _work(self, call: str, work: Callable[[Stream], None]) -> ProcessResult:
        """Work on the stream, unless the last call did not finish, or the stream has ended."""
        check_process()
        with self._working:
            stream = self.parts.stream
            if self._unfinished:
                at = f"{seconds(stream.context.history.received):.3f} s into this stream, whose state is undefined now"
                remedy = "latest holds what that call had made final, and reset() starts a new stream"
                raise StreamBrokenError(f"{self._unfinished}() was interrupted {at}; {remedy}")
            if stream.ended and call != "finalize":
                raise StreamEndedError("this stream was finalised; reset() starts a new one")
            self._unfinished = call
            stream.context.results = ResultBuilder()
            with torch_threads(self.configuration.compute.threads), translate_oom("for the stream"):
                work(stream)
            self._unfinished = ""
            return self.latest

    @property
    def latest(self) -> ProcessResult:
        """The result of the latest call: all of it, or what it has made final so far or before an interrupt."""
        stream = self.parts.stream
        return stream.context.results.build(stream.text.tentative, stream.text.language, stream.context.load_level)

    @property
    def load_level(self) -> int:
        """How much work is omitted from now on, for a machine that is too slow; 0, the default, is none.

        From 1 on at most one language-ID frame in half a second is evaluated; at 2 also only one decode step in three.
        Decodes at the end of speech, and so all final segments, are never omitted. Audio is never dropped for load:
        see `skip`.
        """
        return self.parts.stream.context.load_level

    @load_level.setter
    def load_level(self, level: int) -> None:
        if level not in range(MAX_LOAD_LEVEL + 1):
            raise ConfigurationError(f"load_level must be 0 to {MAX_LOAD_LEVEL}, got {level!r}")
        self.parts.stream.context.load_level = level

    def config(self) -> Json:
        """Everything that decides the results, as JSON: all options, and the model, precision and device in use."""
        found: Json = self.configuration.to_json()
        encoder, language_id, decoder = self.parts.precisions
        compute = {**found["compute"], "device": self._device, "precision": encoder}
        compute["compiled"] = self.parts.lid.encoder.compiled
        if not self.parts.lid.encoder.pools:
            found["language_id"]["pool_after"] = None
        in_use = {"languages": list(self.languages), "compute": compute}
        others = {"language_id_precision": language_id, "decoder_precision": decoder}
        return {"model": self._model_name, "mode": self.configuration.mode, **found, **in_use, **others}

    def get_statistics(self) -> Json:
        """Counts and latencies since the stream began, JSON-able.

        While another thread works on the stream each part is of one moment, and later parts may be newer.
        """
        check_process()
        with self._reading:
            return self.parts.get_statistics()

    def get_performance_summary(self) -> str:
        """Latency of every operation, hit rate of the cache and what load omitted, as text."""
        check_process()
        return self.parts.get_summary()

    def export_prometheus_metrics(self) -> str:
        """Latencies and counts in Prometheus' text format; ``metrics.serve`` answers scrapes with the same."""
        check_process()
        return self.metrics.export_prometheus()


def check_process() -> None:
    """Raise `ForkedError` in a process that was forked from one that had made a transcriber."""
    if not _made_in:
        _made_in.append(os.getpid())
    if _made_in[0] != os.getpid():
        raise ForkedError(
            f"process {_made_in[0]} had made a transcriber before this process, {os.getpid()}, was forked from it. "
            "The threads of torch and of the voice activity detector are missing here, and a call would wait for them "
            "forever. Start processes with the method 'spawn' and make a transcriber in each"
        )

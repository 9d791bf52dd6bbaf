"""Transcription systems behind one interface: a function from audio to segments and switches.

The function also receives the reference, which only the oracles use. Each system runs with the defaults of its users:
openai-whisper greedy, faster-whisper with five beams in int8. Switches of offline systems have the end of the recording
as decision time, and their words have no latency. A switch lies where the first segment of the new language begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.evaluation.trace import Pace, Reference, StreamTranscriber, capture
from whisperlab.model import weights as models
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.json_values import Json
from whisperlab.util.threads import THREADS
from whisperlab.util.timeline import MEL_RATE, samples

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from whisper.model import Whisper

    from whisperlab.transcriber import SessionRestartTranscriber

Say = Callable[[str], None]

# Systems that can follow a change of language. The others cannot switch falsely.
FOLLOWING = ("faster-whisper int8, multilingual", "faster-whisper int8, multilingual, no prompt", "whisperlab, auto")

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class EncoderWork:
    """Encoder calls and the seconds of audio in their windows, padding included."""

    calls: int = 0
    encoded_s: float = 0.0

    def __add__(self, other: EncoderWork) -> EncoderWork:
        return EncoderWork(self.calls + other.calls, self.encoded_s + other.encoded_s)


@dataclass(slots=True, frozen=True)
class SystemOutput:
    """The output of a system for one recording."""

    segments: tuple[SessionSegment, ...] = ()
    switches: tuple[Switch, ...] = ()
    work: EncoderWork = EncoderWork()
    committed: tuple[tuple[str, float], ...] = ()  # text and the time it became final; empty for offline systems
    compute_s: float | None = None  # None: the wall time of the call


System = Callable[[FloatArray, Reference], SystemOutput]


@dataclass(slots=True, frozen=True)
class SystemResult:
    """The output of one system for one recording, and the wall seconds of computing."""

    name: str
    recording: str
    output: SystemOutput
    compute_s: float
    duration: float


class DetectionRecorder:
    """Wraps a CTranslate2 Whisper model; records the last detected language and the encoder work.

    faster-whisper yields segments without a language, window by window: the last detection is that of the last segment.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.language: str | None = None
        self._work = EncoderWork()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def encode(self, features: FloatArray, *args: object, **kwargs: object) -> object:
        """CTranslate2's ``encode``; features have shape (batch, mels, frames)."""
        n_windows, _, n_frames = features.shape
        self._work += EncoderWork(n_windows, n_windows * n_frames / MEL_RATE)
        return self._engine.encode(features, *args, **kwargs)

    def take_work(self) -> EncoderWork:
        done, self._work = self._work, EncoderWork()
        return done

    def detect_language(self, *args: object, **kwargs: object) -> list[list[tuple[str, float]]]:
        """CTranslate2's ``detect_language``: per item ``(token, probability)``, most likely first."""
        found: list[list[tuple[str, float]]] = self._engine.detect_language(*args, **kwargs)
        self.language = found[0][0][0].strip("<|>")
        return found


def openai_whisper(model: Whisper) -> System:
    """openai-whisper's ``transcribe``: one language, detected in the first 30 seconds."""

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        mels: list[tuple[int, ...]] = []
        hook = model.encoder.register_forward_pre_hook(lambda _, inputs: mels.append(inputs[0].shape))
        try:
            found = model.transcribe(audio, fp16=False, verbose=None)
        finally:
            hook.remove()
        language, parts = found["language"], found["segments"]
        segments = (_segment(p["text"], language, p["start"], p["end"], p["avg_logprob"]) for p in parts)
        work = EncoderWork(len(mels), sum(shape[0] * shape[2] for shape in mels) / MEL_RATE)
        return _offline(segments, audio, work)

    return run


def faster_whisper(engine: WhisperModel, **options: bool) -> System:
    """faster-whisper: one language, detected in the first 30 seconds; with ``multilingual`` detected per window."""

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        parts, info = engine.transcribe(audio, **options)
        segments = []
        for p in parts:
            language = engine.model.language if options.get("multilingual") else info.language
            segments.append(_segment(p.text, language or info.language, p.start, p.end, p.avg_logprob))
        return _offline(segments, audio, engine.model.take_work())

    return run


def faster_oracle(engine: WhisperModel) -> System:
    """faster-whisper on every reference segment with its true language: the upper bound of these weights."""

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        segments = []
        for true in reference.segments:
            clip = audio[samples(true.start) : samples(true.end)]
            parts = list(engine.transcribe(clip, language=true.lang)[0])
            text = "".join(part.text for part in parts)
            logprob = np.mean([part.avg_logprob for part in parts]) if parts else -math.inf
            segments.append(_segment(text, true.lang, true.start, true.end, float(logprob)))
        return _offline(segments, audio, engine.model.take_work())

    return run


def streaming(make_transcriber: Callable[[Reference], StreamTranscriber], pace: Pace = "fast") -> System:
    """A streaming transcriber, fed 100 ms at a time; ``make_transcriber`` returns a fresh one.

    With pace ``real`` its words have wall-clock times, otherwise times on the audio clock.
    """

    def run(audio: FloatArray, reference: Reference) -> SystemOutput:
        trace = capture(make_transcriber(reference), audio, recording="", reference=reference, pace=pace)
        work = encoder_work(trace.statistics)
        return SystemOutput(trace.segments, trace.switches, work, trace.committed, trace.compute_s)

    return run


def reused(make_transcriber: Callable[[], SessionRestartTranscriber], pace: Pace = "fast") -> System:
    """As `streaming`, with one transcriber for all recordings: made at first use, and reset before each."""
    made = cache(make_transcriber)

    def fresh(_: Reference) -> StreamTranscriber:
        made().reset()
        return made()

    return streaming(fresh, pace)


def encoder_work(statistics: Json) -> EncoderWork:
    """The encoder work in a transcriber's statistics, for language-ID and for text."""
    parts = statistics["lid"], statistics["sessions"]
    return EncoderWork(sum(part["encoder_calls"] for part in parts), sum(part["encoded_s"] for part in parts))


def load_faster_whisper(model: str = "base", threads: int = THREADS, say: Say = log.info) -> WhisperModel:
    """faster-whisper in int8 on the CPU with the packaged weights, its model wrapped in a `DetectionRecorder`.

    Raises MissingDependencyError without the extra ``other-systems``, and WeightsError as `models.ct2_folder` does.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        advice = "pip install 'whisperlab[other-systems]'"
        raise MissingDependencyError(f"faster-whisper cannot be imported ({error}): {advice}") from error
    folder = str(models.ct2_folder(model, say=say))
    engine = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)
    engine.model = DetectionRecorder(engine.model)
    return engine


def all_systems(
    languages: Sequence[str], model: str = "base", threads: int = THREADS, say: Say = log.info
) -> dict[str, Callable[[Pace], System]]:
    """A function from the pace to the system, by the system's name in the table; whisperlab comes last.

    Models are loaded on first use and shared. ``languages`` restricts whisperlab; the others have no such option.
    Offline systems ignore the pace.
    """

    @cache
    def engine() -> WhisperModel:
        return load_faster_whisper(model, threads, say)

    @cache
    def weights() -> models.Weights:
        return models.load_weights(model, say=say)

    @cache
    def automatic() -> SessionRestartTranscriber:
        return transcriber(languages=languages)

    def transcriber(**options: Any) -> SessionRestartTranscriber:
        from whisperlab.transcriber import SessionRestartTranscriber

        return SessionRestartTranscriber(weights(), threads=threads, **options)

    def forced(reference: Reference) -> StreamTranscriber:
        return transcriber(language=true_languages(reference)[0][1])

    def true_languages(reference: Reference) -> list[tuple[float, str]]:
        spans = [(segment.start, segment.lang) for segment in reference.segments] or [(0.0, languages[0])]
        return [(0.0, spans[0][1]), *spans[1:]]

    return {
        "openai-whisper": lambda _: openai_whisper(models.load_model(model, say=say)),
        "faster-whisper int8, one language": lambda _: faster_whisper(engine()),
        "faster-whisper int8, multilingual": lambda _: faster_whisper(engine(), multilingual=True),
        "faster-whisper int8, multilingual, no prompt": lambda _: faster_whisper(
            engine(), multilingual=True, condition_on_previous_text=False
        ),
        "faster-whisper int8, oracle segments": lambda _: faster_oracle(engine()),
        "whisperlab, auto": lambda pace: reused(automatic, pace),
        "whisperlab, forced": lambda pace: streaming(forced, pace),
        "whisperlab, oracle": lambda pace: streaming(lambda truth: transcriber(oracle=true_languages(truth)), pace),
    }


def select(parts: Iterable[str] | None, known: Iterable[str] | None = None, kind: str = "system") -> list[str]:
    """The names that contain one of the given texts; all names if None. Raises ConfigurationError without a match.

    >>> select(["auto", "openai"])
    ['openai-whisper', 'whisperlab, auto']
    """
    names = list(all_systems([""]) if known is None else known)
    wanted = [""] if parts is None else list(parts)
    for part in wanted:
        if not any(part in name for name in names):
            raise ConfigurationError(f"no {kind} is named {part!r}; there are: {'; '.join(names)}")
    return [name for name in names if any(part in name for part in wanted)]


def _segment(text: str, language: str, start: float, end: float, avg_logprob: float) -> SessionSegment:
    return SessionSegment(text.strip(), language, float(start), float(end), True, math.exp(avg_logprob))


def _offline(segments: Iterable[SessionSegment], audio: FloatArray, work: EncoderWork) -> SystemOutput:
    """The segments, and a switch wherever the language differs from the segment before."""
    found, end_s = tuple(segments), duration_s(audio)
    changes = ((old, new) for old, new in pairwise(found) if old.language != new.language)
    switches = tuple(Switch(new.start_time, old.language, new.language, end_s) for old, new in changes)
    return SystemOutput(found, switches, work)

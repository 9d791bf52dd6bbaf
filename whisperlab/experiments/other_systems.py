"""Compare whisperlab with other systems: the same audio and weights, scored by the same rules.

A system is a function from audio to segments and switches. It also receives the reference, which only the oracles use.
Each system runs with the defaults of its users: openai-whisper greedy, faster-whisper with five beams in int8. Switches
of offline systems have the end of the recording as decision time, and their words have no latency. A switch lies where
the first segment of the new language begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from whisperlab.data import Recording
from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled, score
from whisperlab.evaluation.trace import Pace, Reference, StreamTranscriber, capture
from whisperlab.experiments.results_store import Say
from whisperlab.model import weights as models
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.json_values import Json
from whisperlab.util.process import process_memory
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.text_table import with_interval
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MEL_RATE, samples
from whisperlab.util.timing import rotations

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from whisper.model import Whisper

    from whisperlab.transcriber import SessionRestartTranscriber

# Systems that can follow a change of language. The others cannot switch falsely.
FOLLOWING = ("faster-whisper int8, multilingual", "faster-whisper int8, multilingual, no prompt", "whisperlab, auto")
WARM_UP_S = 3.0  # untimed audio for each system before the measurement
MEMORY_S = 30.0  # audio processed while memory is measured

TableRow: TypeAlias = dict[str, Any]  # JSON-able; columns depend on the rates

# The rates of a row, each with its interval over recordings.
RATES = (
    *("mixed_error_rate", "switch_error_rate", "deleted_s_per_switch", "language_error_rate"),
    *("switch_f1_at_0.5", "switch_f1_at_1", "switch_f1_at_2", "switch_recall_at_2"),
    *("false_switches_per_hour", "decision_delay_found_p50", "decision_delay_found_p95"),
    *("word_latency_p50", "word_latency_p95", "real_time_factor"),
)
CONTROLS = "false_switches_per_hour_controls"
COSTS = ("threads", "real_time_factor", "encoder_calls_per_s", "encoded_s_per_s", "peak_memory_bytes")

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
    statistics: Json = field(default_factory=dict)  # of a streaming transcriber


System = Callable[[FloatArray, Reference], SystemOutput]


@dataclass(slots=True, frozen=True)
class SystemResult:
    """The output of one system for one recording, with the wall seconds of computing."""

    name: str
    recording: str
    reference: Reference
    output: SystemOutput
    compute_s: float
    duration: float

    def score(self) -> Score:
        """The score by the same rules as a trace's."""
        truth, out, length_s, took_s = self.reference, self.output, self.duration, self.compute_s
        return score(truth, out.segments, out.switches, duration=length_s, committed=out.committed, compute_s=took_s)


class DetectionRecorder:
    """Wraps a CTranslate2 Whisper model; records the last detected language and the encoder work.

    faster-whisper yields segments without a language, window by window: the last detection is that of the last segment.
    """

    def __init__(self, engine: Any) -> None:
        self._engine, self._work = engine, EncoderWork()
        self.language: str | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def encode(self, features: FloatArray, *args: object, **kwargs: object) -> object:
        """CTranslate2's ``encode``; features have shape (batch, mels, frames)."""
        n_windows, _, n_frames = features.shape
        self._work += EncoderWork(n_windows, n_windows * n_frames / MEL_RATE)
        return self._engine.encode(features, *args, **kwargs)

    def detect_language(self, *args: object, **kwargs: object) -> list[list[tuple[str, float]]]:
        """CTranslate2's ``detect_language``: per item ``(token, probability)``, most likely first."""
        found: list[list[tuple[str, float]]] = self._engine.detect_language(*args, **kwargs)
        self.language = found[0][0][0].strip("<|>")
        return found

    def take_work(self) -> EncoderWork:
        done, self._work = self._work, EncoderWork()
        return done


def openai_whisper(model: Whisper, audio: FloatArray, _: Reference) -> SystemOutput:
    """openai-whisper's ``transcribe``: one language, detected in the first 30 seconds."""
    mels: list[tuple[int, ...]] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: mels.append(inputs[0].shape))
    try:
        found = model.transcribe(audio, fp16=False, verbose=None)
    finally:
        hook.remove()
    language, parts = found["language"], found["segments"]
    segments = (_segment(p["text"], language, p["start"], p["end"], p["avg_logprob"]) for p in parts)
    return _offline(segments, audio, EncoderWork(len(mels), sum(shape[0] * shape[2] for shape in mels) / MEL_RATE))


def faster_whisper(engine: WhisperModel, audio: FloatArray, _: Reference, **options: bool) -> SystemOutput:
    """faster-whisper: one language, detected in the first 30 seconds; with ``multilingual`` detected per window."""
    parts, info = engine.transcribe(audio, **options)
    segments = []
    for p in parts:
        language = engine.model.language if options.get("multilingual") else info.language
        segments.append(_segment(p.text, language or info.language, p.start, p.end, p.avg_logprob))
    return _offline(segments, audio, engine.model.take_work())


def faster_oracle(engine: WhisperModel, audio: FloatArray, reference: Reference) -> SystemOutput:
    """faster-whisper on every reference segment with its true language: the upper bound of these weights."""
    segments = []
    for true in reference.segments:
        clip = audio[samples(true.start) : samples(true.end)]
        parts = list(engine.transcribe(clip, language=true.lang)[0])
        text = "".join(part.text for part in parts)
        logprob = np.mean([part.avg_logprob for part in parts]) if parts else -math.inf
        segments.append(_segment(text, true.lang, true.start, true.end, float(logprob)))
    return _offline(segments, audio, engine.model.take_work())


def _segment(text: str, language: str, start: float, end: float, avg_logprob: float) -> SessionSegment:
    return SessionSegment(text.strip(), language, float(start), float(end), True, math.exp(avg_logprob))


def _offline(segments: Iterable[SessionSegment], audio: FloatArray, work: EncoderWork) -> SystemOutput:
    """The segments, and a switch wherever the language differs from the segment before."""
    found, end_s = tuple(segments), duration_s(audio)
    changes = ((old, new) for old, new in pairwise(found) if old.language != new.language)
    switches = tuple(Switch(new.start_time, old.language, new.language, end_s) for old, new in changes)
    return SystemOutput(found, switches, work)


def streaming(
    make_transcriber: Callable[[Reference], StreamTranscriber],
    audio: FloatArray,
    reference: Reference,
    pace: Pace = "fast",
) -> SystemOutput:
    """A fresh streaming transcriber, fed 100 ms at a time. With pace ``real`` its words have wall-clock times."""
    trace = capture(make_transcriber(reference), audio, recording="", reference=reference, pace=pace)
    work, committed = encoder_work(trace.statistics), trace.committed
    return SystemOutput(trace.segments, trace.switches, work, committed, trace.compute_s, trace.statistics)


def reused(make_transcriber: Callable[[], SessionRestartTranscriber], pace: Pace = "fast") -> System:
    """As `streaming`, with one transcriber for all recordings: made at first use, and reset before each."""
    made = cache(make_transcriber)

    def fresh(_: Reference) -> StreamTranscriber:
        made().reset()
        return made()

    return partial(streaming, fresh, pace=pace)


def encoder_work(statistics: Json) -> EncoderWork:
    """The encoder work in a transcriber's statistics, for language-ID and for text."""
    parts = statistics["lid"], statistics["sessions"]
    return EncoderWork(sum(part["encoder_calls"] for part in parts), sum(part["encoded_s"] for part in parts))


def load_faster_whisper(model: str = "base", threads: int = THREADS, say: Say = log.info) -> WhisperModel:
    """faster-whisper in int8 on the CPU, its model wrapped in a `DetectionRecorder`. Errors: `models.ct2_folder`."""
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
    """A function from the pace to the system, by the system's name in the table; offline systems ignore the pace.

    Models are loaded on first use and shared. ``languages`` restricts whisperlab; the others have no such option.
    """
    engine = cache(lambda: load_faster_whisper(model, threads, say))
    weights = cache(lambda: models.load_weights(model, say=say))

    def transcriber(**options: Any) -> SessionRestartTranscriber:
        from whisperlab.transcriber import SessionRestartTranscriber

        return SessionRestartTranscriber(weights(), threads=threads, **options)

    def true_languages(reference: Reference) -> list[tuple[float, str]]:
        spans = [(segment.start, segment.lang) for segment in reference.segments] or [(0.0, languages[0])]
        return [(0.0, spans[0][1]), *spans[1:]]

    def forced(reference: Reference) -> StreamTranscriber:
        return transcriber(language=true_languages(reference)[0][1])

    def oracle(reference: Reference) -> StreamTranscriber:
        return transcriber(oracle=true_languages(reference))

    return {
        "openai-whisper": lambda _: partial(openai_whisper, models.load_model(model, say=say)),
        "faster-whisper int8, one language": lambda _: partial(faster_whisper, engine()),
        "faster-whisper int8, multilingual": lambda _: partial(faster_whisper, engine(), multilingual=True),
        "faster-whisper int8, multilingual, no prompt": lambda _: partial(
            faster_whisper, engine(), multilingual=True, condition_on_previous_text=False
        ),
        "faster-whisper int8, oracle segments": lambda _: partial(faster_oracle, engine()),
        "whisperlab, auto": partial(reused, cache(lambda: transcriber(languages=languages))),
        "whisperlab, forced": lambda pace: partial(streaming, forced, pace=pace),
        "whisperlab, oracle": lambda pace: partial(streaming, oracle, pace=pace),
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


def interleaved(
    recordings: Sequence[Recording],
    systems: Mapping[str, System],
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = log.info,
) -> Iterator[SystemResult]:
    """Run every system on every recording; each recording starts with another system."""
    for number, (recording, order) in enumerate(zip(recordings, rotations(systems), strict=False), 1):
        audio, reference = recording.audio(), Reference.from_dict(recording.reference)
        for name in order:
            began = clock()
            output = systems[name](audio, reference)
            took_s = clock() - began
            compute_s, length_s = took_s if output.compute_s is None else output.compute_s, duration_s(audio)
            place = f"{recording.id} ({number} of {len(recordings)})"
            say(f"{place}: {name}: {compute_s:.1f} s for {length_s:.0f} s of audio")
            yield SystemResult(name, recording.id, reference, output, compute_s, length_s)


def warm_up(recording: Recording, systems: Mapping[str, System]) -> None:
    """Run every system on a few seconds: the first call of a library initialises state that later calls reuse."""
    audio, reference = _beginning(recording, WARM_UP_S)
    for system in systems.values():
        system(audio, reference)


def _beginning(recording: Recording, length_s: float) -> tuple[FloatArray, Reference]:
    """The first seconds of a recording, and the segments that end within them."""
    reference = Reference.from_dict(recording.reference)
    segments = tuple(segment for segment in reference.segments if segment.end <= length_s)
    return recording.audio()[: samples(length_s)], Reference(reference.text, segments)


def compare(
    recordings: Sequence[Recording],
    *,
    controls: Sequence[Recording] = (),  # in one language each, for the systems that could switch in them
    names: Iterable[str] | None = None,  # as for `select`
    pace: Pace = "fast",
    memory: bool = True,  # measure peak memory, last, each system in a fresh process
    model: str = "base",
    threads: int = THREADS,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = log.info,
) -> list[TableRow]:
    """Run the systems and return one row per system, as `summarise` makes them.

    whisperlab runs with its defaults and the languages of the recordings. Raises ConfigurationError without recordings.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to compare the systems on")
    languages = sorted({language for recording in recordings for language in recording.languages})
    with torch_threads(threads):
        makers = all_systems(languages, model, threads, say)
        wanted = select(names, makers)
        systems = {name: makers[name](pace) for name in wanted}
        warm_up(recordings[0], systems)
        results = list(interleaved(recordings, systems, clock=clock, say=say))
        following = {name: makers[name]("fast") for name in wanted if name in FOLLOWING and controls}
        control_results = list(interleaved(controls, following, clock=clock, say=say))
    rows = summarise(results, rng or np.random.default_rng(0), control_results)
    for row in rows:
        row["threads"], row["peak_memory_bytes"] = threads, None
        if memory:
            task = (row["system"], languages, model, threads, recordings[0])
            row["peak_memory_bytes"] = in_fresh_process(peak_memory, task)
            say(f"{row['system']}: peak memory {row['peak_memory_bytes'] / 1e6:.0f} MB")
    return rows


def peak_memory(task: tuple[str, Sequence[str], str, int, Recording]) -> int:
    """Peak memory (VmHWM, bytes) of this process after it has loaded a system and processed half a minute."""
    name, languages, model, threads, recording = task
    with torch_threads(threads):
        all_systems(languages, model, threads)[name]("fast")(*_beginning(recording, MEMORY_S))
    return process_memory()["VmHWM"]


def summarise(
    results: Iterable[SystemResult], rng: np.random.Generator, control_results: Iterable[SystemResult] = ()
) -> list[TableRow]:
    """A row per system in order of appearance: each of `RATES`, and its interval under ``<rate>_95``.

    Counts are summed over recordings before division. Intervals are bootstrapped over recordings and None below three.
    `CONTROLS` is the rate of false switches in the controls, None for a system that did not run on them.
    """
    of_system: dict[str, tuple[list[SystemResult], list[SystemResult]]] = {}
    for place, every in enumerate((results, control_results)):
        for result in every:
            of_system.setdefault(result.name, ([], []))[place].append(result)
    return [_row(name, own, controls, rng) for name, (own, controls) in of_system.items()]


def _row(
    name: str, results: Sequence[SystemResult], control_results: Sequence[SystemResult], rng: np.random.Generator
) -> TableRow:
    scores, controls = ([result.score() for result in every] for every in (results, control_results))
    work = sum((result.output.work for result in results), EncoderWork())
    rates, intervals = pooled(scores).rates(), bootstrap_intervals(scores, RATES, rng)
    row: TableRow = {"system": name, "recordings": len(scores), "audio_s": round(rates["audio_s"], 3)}
    for rate in RATES:
        row[rate], row[f"{rate}_95"] = rates[rate], intervals[rate]
    row[CONTROLS] = row[f"{CONTROLS}_95"] = None
    if controls:
        false = "false_switches_per_hour"
        row[CONTROLS] = pooled(controls).rates()[false]
        row[f"{CONTROLS}_95"] = bootstrap_intervals(controls, [false], rng)[false]
    per_s = {"encoder_calls_per_s": work.calls, "encoded_s_per_s": work.encoded_s}
    return {
        **row,
        **{name: rates[name] for name in ("normalizer", "miss_rate_by_block")},
        **{name: amount / rates["audio_s"] for name, amount in per_s.items()},
    }


def readable(rows: Iterable[TableRow], names: Iterable[str]) -> list[dict[str, str]]:
    """Some columns of the rows of `summarise` as text: each rate and its interval in one cell.

    >>> readable([{"system": "a", "mixed_error_rate": 0.5, "mixed_error_rate_95": (0.25, 0.75)}], ["mixed_error_rate"])
    [{'system': 'a', 'mixed_error_rate': '0.50 (0.25-0.75)'}]
    """
    columns = list(names)

    def cell(row: TableRow, name: str) -> str:
        value, n = row.get(name), row.get("recordings", LEAST_UNITS)
        if value is not None and not isinstance(value, float):
            return str(value)
        few = name in RATES and n < LEAST_UNITS
        return with_interval(value, row.get(f"{name}_95"), without=f"n = {n}, no interval" if few else "")

    return [{"system": row["system"], **{name: cell(row, name) for name in columns}} for row in rows]

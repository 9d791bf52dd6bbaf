"""The comparison arm: other Whisper programs on the same audio, with the same weights, scored alike.

A peer is a function from audio (and the reference, which only the oracle looks at) to segments and switches.
Each runs with the defaults its users get: openai-whisper greedy, faster-whisper with five beams in int8.
Offline peers hear the whole recording before they answer, so their switches are dated (``decided_at``) at
its end and their words have no latency; where their language changes is where the first segment of the new
language begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled, score
from whisperlab.evaluation.trace import Pace, Reference, StreamTranscriber, capture
from whisperlab.model import weights as models
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.errors import ConfigurationError, MissingDependencyError
from whisperlab.util.process import process_memory
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MEL_RATE, samples

if TYPE_CHECKING:
    import pandas as pd
    from faster_whisper import WhisperModel
    from whisper.model import Whisper

    from whisperlab.data import Recording

Say = Callable[[str], None]

WARM_UP_S = 3.0  # what each peer hears once, unmeasured, before anything is timed
MEMORY_S = 30.0  # what a peer hears while its memory is measured

# Peers that can follow a change of language; the others cannot switch falsely.
FOLLOWING = (
    "faster-whisper int8, multilingual",
    "faster-whisper int8, multilingual, no prompt",
    "whisperlab, auto",
)

# The rates a table shows, each with its interval over recordings.
RATES = (
    "mixed_error_rate",
    "switch_error_rate",
    "deleted_s_per_switch",
    "language_error_rate",
    "switch_f1_at_0.5",
    "switch_f1_at_1",
    "switch_f1_at_2",
    "switch_recall_at_2",
    "false_switches_per_hour",
    "decision_delay_found_p50",
    "decision_delay_found_p95",
    "word_latency_p50",
    "word_latency_p95",
    "real_time_factor",
)
CONTROLS = "false_switches_per_hour_controls"
COSTS = ("threads", "real_time_factor", "encoder_calls_per_s", "encoded_s_per_s", "peak_memory_bytes")

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class EncoderWork:
    """Windows the encoder was given, and their seconds (a call may hear 2 s or 30 s, silence included)."""

    calls: int = 0
    encoded_s: float = 0.0

    def __add__(self, other: EncoderWork) -> EncoderWork:
        return EncoderWork(self.calls + other.calls, self.encoded_s + other.encoded_s)


@dataclass(slots=True, frozen=True)
class Heard:
    """What a peer made of a recording.

    ``committed`` is text that became final and when (none for an offline peer); ``compute_s`` the seconds it computed,
    None for all it took from call to answer.
    """

    segments: tuple[SessionSegment, ...] = ()
    switches: tuple[Switch, ...] = ()
    work: EncoderWork = EncoderWork()
    committed: tuple[tuple[str, float], ...] = ()
    compute_s: float | None = None


Peer = Callable[[FloatArray, Reference], Heard]


@dataclass(slots=True, frozen=True)
class PeerResult:
    """What one peer said about one recording, and the wall seconds of computing it took."""

    name: str
    recording: str
    heard: Heard
    compute_s: float
    duration: float


class LanguageWitness:
    """A CTranslate2 Whisper that remembers the language it last detected, and the work its encoder did.

    faster-whisper's segments do not tell their language; they are yielded window by window, so the last detection
    belongs to the segment just yielded.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.language: str | None = None
        self._work = EncoderWork()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode(self, features: Any, *args: Any, **kwargs: Any) -> Any:
        """CTranslate2's answer to features of shape (batch, mels, frames)."""
        n_windows, _, n_frames = features.shape
        self._work += EncoderWork(n_windows, n_windows * n_frames / MEL_RATE)
        return self._engine.encode(features, *args, **kwargs)

    def take_work(self) -> EncoderWork:
        """What the encoder did since this was last asked."""
        done, self._work = self._work, EncoderWork()
        return done

    def detect_language(self, *args: Any, **kwargs: Any) -> Any:
        """CTranslate2's answer, per item of the batch ``(token, probability)``, most likely first."""
        found = self._engine.detect_language(*args, **kwargs)
        self.language = found[0][0][0].strip("<|>")
        return found


# The peers


def openai_whisper(model: Whisper) -> Peer:
    """openai-whisper's ``transcribe``: one language, detected in the first 30 seconds."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        mels: list[tuple[int, ...]] = []
        hook = model.encoder.register_forward_pre_hook(lambda _, inputs: mels.append(inputs[0].shape))
        try:
            found = model.transcribe(audio, fp16=False, verbose=None)
        finally:
            hook.remove()
        segments = (
            _segment(part["text"], found["language"], part["start"], part["end"], part["avg_logprob"])
            for part in found["segments"]
        )
        work = EncoderWork(len(mels), sum(shape[0] * shape[2] for shape in mels) / MEL_RATE)
        return _offline(segments, audio, work)

    return run


def faster_one_language(engine: WhisperModel) -> Peer:
    """faster-whisper as it comes: one language, detected in the first 30 seconds."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        parts, info = engine.transcribe(audio)
        segments = [_segment(p.text, info.language, p.start, p.end, p.avg_logprob) for p in parts]
        return _offline(segments, audio, engine.model.take_work())

    return run


def faster_multilingual(engine: WhisperModel, condition_on_previous_text: bool) -> Peer:
    """faster-whisper's ``multilingual=True``: the language is detected anew in every window."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        parts, info = engine.transcribe(
            audio, multilingual=True, condition_on_previous_text=condition_on_previous_text
        )
        segments = [
            _segment(p.text, engine.model.language or info.language, p.start, p.end, p.avg_logprob)
            for p in parts
        ]
        return _offline(segments, audio, engine.model.take_work())

    return run


def faster_oracle(engine: WhisperModel) -> Peer:
    """faster-whisper given every reference segment and its language: what the weights can do at best."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        segments = []
        for true in reference.segments:
            parts = list(
                engine.transcribe(audio[samples(true.start) : samples(true.end)], language=true.lang)[0]
            )
            text = "".join(part.text for part in parts)
            logprob = np.mean([part.avg_logprob for part in parts]) if parts else -math.inf
            segments.append(_segment(text, true.lang, true.start, true.end, float(logprob)))
        return _offline(segments, audio, engine.model.take_work())

    return run


def streaming(make_transcriber: Callable[[Reference], StreamTranscriber], pace: Pace = "fast") -> Peer:
    """A streaming transcriber, fed a tenth of a second at a time; ``make_transcriber`` gives a fresh one.

    With pace ``real`` it is fed by the clock, and its words are final on that clock; else on that of the audio.
    """

    def run(audio: FloatArray, reference: Reference) -> Heard:
        trace = capture(make_transcriber(reference), audio, recording="", reference=reference, pace=pace)
        work = encoder_work(trace.statistics)
        return Heard(trace.segments, trace.switches, work, trace.committed, trace.compute_s)

    return run


def encoder_work(statistics: Mapping[str, Any]) -> EncoderWork:
    """What a transcriber's encoders did, for language-ID and for text, by its statistics."""
    parts = (statistics["lid"], statistics["sessions"])
    return sum((EncoderWork(part["encoder_calls"], part["encoded_s"]) for part in parts), EncoderWork())


def load_faster_whisper(model: str = "base", threads: int = THREADS, say: Say = _log.info) -> WhisperModel:
    """faster-whisper in int8 on the CPU, on the packaged weights, its engine under a `LanguageWitness`.

    Raises MissingDependencyError without the extra ``other-systems``, and WeightsError as `models.ct2_folder` does.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise MissingDependencyError(
            f"faster-whisper cannot be imported ({error}): pip install 'whisperlab[other-systems]'"
        ) from error
    folder = models.ct2_folder(model, say=say)
    engine = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
    engine.model = LanguageWitness(engine.model)
    return engine


def all_peers(
    languages: Sequence[str],
    model: str = "base",
    threads: int = THREADS,
    say: Say = _log.info,
) -> dict[str, Callable[[Pace], Peer]]:
    """Every peer by the name it has in the table, whisperlab last: functions of the pace that load what a peer needs.

    What two peers need alike is loaded once. ``languages`` are those whisperlab may find; no other can be told. An
    offline peer knows no pace.
    """

    @cache
    def engine() -> WhisperModel:
        return load_faster_whisper(model, threads, say)

    @cache
    def loaded() -> Whisper:
        return models.load_model(model, say=say)

    @cache
    def weights() -> models.Weights:
        return models.load_weights(model, say=say)

    def ours(**options: Any) -> StreamTranscriber:
        from whisperlab.transcriber import SessionRestartTranscriber

        return SessionRestartTranscriber(weights(), threads=threads, **options)

    def multilingual(*, prompt: bool) -> Callable[[Pace], Peer]:
        return lambda _: faster_multilingual(engine(), condition_on_previous_text=prompt)

    def mode(make: Callable[[Reference], StreamTranscriber]) -> Callable[[Pace], Peer]:
        return lambda pace: streaming(make, pace)

    following: list[Any] = []

    def auto(reference: Reference) -> StreamTranscriber:
        if not following:
            following.append(ours(languages=languages))
        following[0].reset()
        return following[0]  # type: ignore[no-any-return]

    def true_turns(reference: Reference) -> list[tuple[float, str]]:
        turns = [(segment.start, segment.lang) for segment in reference.segments] or [(0.0, languages[0])]
        return [(0.0, turns[0][1]), *turns[1:]]

    return {
        "openai-whisper": lambda _: openai_whisper(loaded()),
        "faster-whisper int8, one language": lambda _: faster_one_language(engine()),
        "faster-whisper int8, multilingual": multilingual(prompt=True),
        "faster-whisper int8, multilingual, no prompt": multilingual(prompt=False),
        "faster-whisper int8, oracle segments": lambda _: faster_oracle(engine()),
        "whisperlab, auto": mode(auto),
        "whisperlab, forced": mode(lambda ref: ours(language=true_turns(ref)[0][1])),
        "whisperlab, oracle": mode(lambda ref: ours(oracle=true_turns(ref))),
    }


def chosen(names: Iterable[str] | None) -> list[str]:
    """The names of all peers, or of those among them that have one of the given texts in their name.

    >>> chosen(["auto", "openai"])
    ['openai-whisper', 'whisperlab, auto']
    """
    known = list(all_peers([""]))
    if names is None:
        return known
    wanted = list(names)
    for part in wanted:
        if not any(part in name for name in known):
            raise ConfigurationError(f"no peer is named {part!r}; there are: {'; '.join(known)}")
    return [name for name in known if any(part in name for part in wanted)]


# Running


def run_peer(
    name: str, peer: Peer, recording: Recording, audio: FloatArray, clock: Callable[[], float]
) -> PeerResult:
    """One peer on one recording, timed."""
    reference = Reference.from_dict(recording.reference)
    began = clock()
    heard = peer(audio, reference)
    took_s = clock() - began
    compute_s = took_s if heard.compute_s is None else heard.compute_s
    return PeerResult(name, recording.id, heard, compute_s, duration_s(audio))


def interleaved(
    recordings: Sequence[Recording],
    peers: Mapping[str, Peer],
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = _log.info,
) -> Iterator[PeerResult]:
    """Every peer on every recording, another one first each time, so that a slow spell hits all alike."""
    order = list(peers)
    for index, recording in enumerate(recordings, 1):
        audio = recording.audio()
        for name in order:
            result = run_peer(name, peers[name], recording, audio, clock)
            place = f"{recording.id} ({index} of {len(recordings)})"
            say(f"{place}: {name}: {result.compute_s:.1f} s for {result.duration:.0f} s of audio")
            yield result
        order = order[1:] + order[:1]


def warm_up(recording: Recording, peers: Mapping[str, Peer]) -> None:
    """Let every peer hear a few seconds: the first call of a library pays for what later ones reuse."""
    audio = recording.audio()[: samples(WARM_UP_S)]
    reference = _until(Reference.from_dict(recording.reference), WARM_UP_S)
    for peer in peers.values():
        peer(audio, reference)


def _until(reference: Reference, end_s: float) -> Reference:
    """The segments that are over by then."""
    return Reference(reference.text, tuple(s for s in reference.segments if s.end <= end_s))


def compare(
    recordings: Sequence[Recording],
    *,
    controls: Sequence[Recording] = (),
    names: Iterable[str] | None = None,
    pace: Pace = "fast",
    memory: bool = True,
    model: str = "base",
    threads: int = THREADS,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = _log.info,
) -> list[dict[str, Any]]:
    """Peers and whisperlab on some recordings: one row per peer, as `summarise` makes them.

    whisperlab runs with its defaults, told the languages of the recordings (no peer can be told). ``controls`` are
    recordings in one language each, given at once to the peers that could switch in them. ``names`` as for `chosen`.
    Memory is measured last, each peer alone in a fresh process. Raises ConfigurationError when there are no
    recordings.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to compare the peers on")
    wanted = chosen(names)
    languages = sorted({language for recording in recordings for language in recording.languages})
    with torch_threads(threads):
        makers = all_peers(languages, model, threads, say)
        peers = {name: makers[name](pace) for name in wanted}
        warm_up(recordings[0], peers)
        results = list(interleaved(recordings, peers, clock=clock, say=say))
        following = {name: makers[name]("fast") for name in wanted if name in FOLLOWING and controls}
        alone = list(interleaved(controls, following, clock=clock, say=say))
    rows = summarise(results, recordings, rng or np.random.default_rng(0), alone, controls)
    for row in rows:
        row["threads"] = threads
        truth = _until(Reference.from_dict(recordings[0].reference), MEMORY_S)
        task = _Alone(row["peer"], tuple(languages), model, threads, recordings[0], truth)
        row["peak_memory_bytes"] = in_fresh_process(peak_memory, task) if memory else None
        if memory:
            say(f"{row['peer']}: peak memory {row['peak_memory_bytes'] / 1e6:.0f} MB")
    return rows


@dataclass(slots=True, frozen=True)
class _Alone:
    """A peer to run by itself, as data that a fresh process can be handed."""

    name: str
    languages: tuple[str, ...]
    model: str
    threads: int
    recording: Recording
    reference: Reference


def peak_memory(task: _Alone) -> int:
    """The most memory a process held that did nothing but load a peer and let it hear half a minute (VmHWM, bytes)."""
    with torch_threads(task.threads):
        peer = all_peers(task.languages, task.model, task.threads)[task.name]("fast")
        peer(task.recording.audio()[: samples(MEMORY_S)], task.reference)
    return process_memory()["VmHWM"]


# The table


def summarise(
    results: Iterable[PeerResult],
    recordings: Iterable[Recording],
    rng: np.random.Generator,
    control_results: Iterable[PeerResult] = (),
    controls: Iterable[Recording] = (),
) -> list[dict[str, Any]]:
    """A row per peer, in order of appearance: each of `RATES`, and under ``<rate>_95`` its interval.

    Counts are added over recordings before they are divided; intervals are bootstrapped over recordings,
    None when there are fewer than two. `CONTROLS` is the rate of false switches in the controls, None for a peer
    that did not hear them.
    """
    scores, work = _scores(results, recordings)
    alone, _ = _scores(control_results, controls)
    return [_row(name, mine, work[name], alone.get(name, []), rng) for name, mine in scores.items()]


def _scores(
    results: Iterable[PeerResult], recordings: Iterable[Recording]
) -> tuple[dict[str, list[Score]], dict[str, EncoderWork]]:
    """By peer: the score of each recording, and the work of the encoder in all."""
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    scores: dict[str, list[Score]] = {}
    work: dict[str, EncoderWork] = {}
    for result in results:
        scores.setdefault(result.name, []).append(score_result(result, references[result.recording]))
        work[result.name] = work.get(result.name, EncoderWork()) + result.heard.work
    return scores, work


def score_result(result: PeerResult, reference: Reference) -> Score:
    """The score of one result, by the same rules as a trace's."""
    heard = result.heard
    return score(
        reference,
        heard.segments,
        heard.switches,
        duration=result.duration,
        committed=heard.committed,
        compute_s=result.compute_s,
    )


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of `summarise` as a data frame indexed by peer."""
    import pandas as pd

    return pd.DataFrame(rows).set_index("peer")


def readable(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> list[dict[str, str]]:
    """Some columns of the rows of `summarise` for a person: each rate and its interval in one cell.

    >>> readable([{"peer": "a", "mixed_error_rate": 0.5, "mixed_error_rate_95": (0.25, 0.75)}], ["mixed_error_rate"])
    [{'peer': 'a', 'mixed_error_rate': '0.50 (0.25-0.75)'}]
    """
    shown = list(names)
    return [
        {"peer": row["peer"], **{name: _cell(row.get(name), row.get(f"{name}_95")) for name in shown}}
        for row in rows
    ]


def _row(
    name: str, scores: Sequence[Score], work: EncoderWork, alone: Sequence[Score], rng: np.random.Generator
) -> dict[str, Any]:
    rates, intervals = pooled(scores).rates(), bootstrap_intervals(scores, RATES, rng)
    row: dict[str, Any] = {"peer": name, "recordings": len(scores), "audio_s": round(rates["audio_s"], 3)}
    for rate in RATES:
        row[rate], row[f"{rate}_95"] = rates[rate], intervals[rate]
    false = "false_switches_per_hour"
    row[CONTROLS] = pooled(alone).rates()[false] if alone else None
    row[f"{CONTROLS}_95"] = bootstrap_intervals(alone, [false], rng)[false] if alone else None
    row["normalizer"] = rates["normalizer"]
    row["miss_rate_by_block"] = rates["miss_rate_by_block"]
    row["encoder_calls_per_s"] = work.calls / rates["audio_s"]
    row["encoded_s_per_s"] = work.encoded_s / rates["audio_s"]
    return row


def _cell(value: Any, interval: tuple[float, float] | None) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


# Small parts


def _segment(text: str, language: str, start: float, end: float, avg_logprob: float) -> SessionSegment:
    return SessionSegment(text.strip(), language, float(start), float(end), True, math.exp(avg_logprob))


def _offline(segments: Iterable[SessionSegment], audio: FloatArray, work: EncoderWork) -> Heard:
    """The segments, and a switch wherever one differs in language from the one before."""
    found = tuple(segments)
    switches = (
        Switch(new.start_time, old.language, new.language, duration_s(audio))
        for old, new in pairwise(found)
        if old.language != new.language
    )
    return Heard(found, tuple(switches), work)

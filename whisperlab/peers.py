"""The comparison arm: other Whisper programs on the same audio, with the same weights, scored alike.

A peer is a function from audio (and the reference, which only the oracle looks at) to segments and switches.
Each runs with the defaults its users get: openai-whisper greedy, faster-whisper with five beams in int8.
Offline peers hear the whole recording before they answer, so their switches are dated (``decided_at``) at
its end; where their language changes is where the first segment of the new language begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab import models
from whisperlab.audio import FloatArray, chunks, duration_s, read_audio
from whisperlab.errors import ConfigurationError, MissingDependencyError
from whisperlab.scoring import Score, bootstrap_interval, pooled, score
from whisperlab.segments import SessionSegment, Switch
from whisperlab.timeline import samples
from whisperlab.trace import Reference, StreamTranscriber

if TYPE_CHECKING:
    import pandas as pd
    from faster_whisper import WhisperModel
    from whisper.model import Whisper

    from whisperlab.corpora import Recording

Heard = tuple[tuple[SessionSegment, ...], tuple[Switch, ...]]
Peer = Callable[[FloatArray, Reference], Heard]
Say = Callable[[str], None]

THREADS = 2  # for every peer: the smallest machine this is run on has two cores
WARM_UP_S = 3.0  # what each peer hears once, unmeasured, before anything is timed
CHUNK_S = 0.1

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
    "real_time_factor",
)

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class PeerResult:
    """What one peer said about one recording, and the wall seconds it took to say it."""

    name: str
    recording: str
    segments: tuple[SessionSegment, ...]
    switches: tuple[Switch, ...]
    compute_s: float
    duration: float


class LanguageWitness:
    """A CTranslate2 Whisper that remembers the language it last detected.

    faster-whisper's segments do not tell theirs; they are yielded window by window, so the last detection
    belongs to the segment just yielded.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.language: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def detect_language(self, *args: Any, **kwargs: Any) -> Any:
        """CTranslate2's answer, per item of the batch ``(token, probability)``, most likely first."""
        found = self._engine.detect_language(*args, **kwargs)
        self.language = found[0][0][0].strip("<|>")
        return found


# The peers


def openai_whisper(model: Whisper) -> Peer:
    """openai-whisper's ``transcribe``: one language, detected in the first 30 seconds."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        found = model.transcribe(audio, fp16=False, verbose=None)
        segments = (
            _segment(part["text"], found["language"], part["start"], part["end"], part["avg_logprob"])
            for part in found["segments"]
        )
        return _offline(segments, audio)

    return run


def faster_one_language(engine: WhisperModel) -> Peer:
    """faster-whisper as it comes: one language, detected in the first 30 seconds."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        parts, info = engine.transcribe(audio)
        segments = (_segment(p.text, info.language, p.start, p.end, p.avg_logprob) for p in parts)
        return _offline(segments, audio)

    return run


def faster_multilingual(engine: WhisperModel, condition_on_previous_text: bool) -> Peer:
    """faster-whisper's ``multilingual=True``: the language is detected anew in every window."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        parts, info = engine.transcribe(
            audio, multilingual=True, condition_on_previous_text=condition_on_previous_text
        )
        segments = (
            _segment(p.text, engine.model.language or info.language, p.start, p.end, p.avg_logprob)
            for p in parts
        )
        return _offline(segments, audio)

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
        return _offline(segments, audio)

    return run


def streaming(make_transcriber: Callable[[Reference], StreamTranscriber]) -> Peer:
    """A streaming transcriber, fed as fast as it computes; ``make_transcriber`` gives a fresh one for a recording."""

    def run(audio: FloatArray, reference: Reference) -> Heard:
        transcriber = make_transcriber(reference)
        results = [transcriber.process(chunk) for chunk in chunks(audio, samples(CHUNK_S))]
        results.append(transcriber.finalize())
        segments = tuple(segment for result in results for segment in result.segments)
        return segments, tuple(switch for result in results for switch in result.switches)

    return run


def load_faster_whisper(model: str = "base", threads: int = THREADS, say: Say = _log.info) -> WhisperModel:
    """faster-whisper in int8 on the CPU, on the packaged weights, its engine under a `LanguageWitness`.

    Raises MissingDependencyError without the extra ``peers``, and WeightsError as `models.ct2_folder` does.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise MissingDependencyError(
            f"the peers need faster-whisper, which cannot be imported ({error}): "
            "pip install 'whisperlab[peers]'"
        ) from error
    folder = models.ct2_folder(model, say=say)
    engine = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
    engine.model = LanguageWitness(engine.model)
    return engine


def whisperlab_modes(model: Whisper, languages: Sequence[str]) -> dict[str, Peer]:
    """whisperlab three times: finding the languages (of those given), forced to the first one, told every segment."""
    from whisperlab.transcriber import SessionRestartTranscriber

    following = SessionRestartTranscriber(model, languages=languages)

    def auto(reference: Reference) -> StreamTranscriber:
        following.reset()
        return following

    def true_turns(reference: Reference) -> list[tuple[float, str]]:
        turns = [(segment.start, segment.lang) for segment in reference.segments] or [(0.0, languages[0])]
        return [(0.0, turns[0][1]), *turns[1:]]

    def forced(reference: Reference) -> StreamTranscriber:
        return SessionRestartTranscriber(model, language=true_turns(reference)[0][1])

    def oracle(reference: Reference) -> StreamTranscriber:
        return SessionRestartTranscriber(model, oracle=true_turns(reference))

    return {
        "whisperlab, auto": streaming(auto),
        "whisperlab, forced": streaming(forced),
        "whisperlab, oracle": streaming(oracle),
    }


def all_peers(
    languages: Sequence[str], model: str = "base", threads: int = THREADS, say: Say = _log.info
) -> dict[str, Peer]:
    """Every peer by the name it has in the table, whisperlab last, all on the same weights.

    ``languages`` are those whisperlab may find; no other can be told.
    """
    engine = load_faster_whisper(model, threads, say)
    loaded = models.load_model(model, say=say)
    return {
        "openai-whisper": openai_whisper(loaded),
        "faster-whisper int8, one language": faster_one_language(engine),
        "faster-whisper int8, multilingual": faster_multilingual(engine, condition_on_previous_text=True),
        "faster-whisper int8, multilingual, no prompt": faster_multilingual(
            engine, condition_on_previous_text=False
        ),
        "faster-whisper int8, oracle segments": faster_oracle(engine),
        **whisperlab_modes(loaded, languages),
    }


# Running


def run_peer(
    name: str, peer: Peer, recording: Recording, audio: FloatArray, clock: Callable[[], float]
) -> PeerResult:
    """One peer on one recording, timed."""
    reference = Reference.from_dict(recording.reference)
    began = clock()
    segments, switches = peer(audio, reference)
    return PeerResult(name, recording.id, segments, switches, clock() - began, duration_s(audio))


def interleaved(
    recordings: Iterable[Recording],
    peers: Mapping[str, Peer],
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = _log.info,
) -> Iterator[PeerResult]:
    """Every peer on every recording, another one first each time, so that a slow spell hits all alike."""
    order = list(peers)
    for recording in recordings:
        audio = read_audio(recording.audio_path)
        for name in order:
            result = run_peer(name, peers[name], recording, audio, clock)
            say(f"{recording.id}: {name}: {result.compute_s:.1f} s for {result.duration:.0f} s of audio")
            yield result
        order = order[1:] + order[:1]


def warm_up(recording: Recording, peers: Mapping[str, Peer]) -> None:
    """Let every peer hear a few seconds: the first call of a library pays for what later ones reuse."""
    audio = read_audio(recording.audio_path)[: samples(WARM_UP_S)]
    whole = Reference.from_dict(recording.reference)
    for peer in peers.values():
        peer(audio, Reference(whole.text, tuple(s for s in whole.segments if s.end <= WARM_UP_S)))


def compare(
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    threads: int = THREADS,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = _log.info,
) -> list[dict[str, Any]]:
    """All peers and whisperlab on some recordings: one row per peer, as `summarise` makes them.

    whisperlab runs with its defaults, told the languages of the recordings (no peer can be told). Raises
    ConfigurationError when there are no recordings.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to compare the peers on")
    with _torch_threads(threads):
        languages = sorted({language for recording in recordings for language in recording.languages})
        peers = all_peers(languages, model, threads, say)
        warm_up(recordings[0], peers)
        results = list(interleaved(recordings, peers, clock=clock, say=say))
    return summarise(results, recordings, rng or np.random.default_rng(0))


# The table


def summarise(
    results: Iterable[PeerResult], recordings: Iterable[Recording], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """A row per peer, in order of appearance: each of `RATES`, and under ``<rate>_95`` its interval.

    Counts are added over recordings before they are divided; intervals are bootstrapped over recordings,
    None when there are fewer than two.
    """
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    scores: dict[str, list[Score]] = {}
    for result in results:
        scores.setdefault(result.name, []).append(score_result(result, references[result.recording]))
    return [_row(name, mine, rng) for name, mine in scores.items()]


def score_result(result: PeerResult, reference: Reference) -> Score:
    """The score of one result, by the same rules as a trace's."""
    return score(
        reference, result.segments, result.switches, duration=result.duration, compute_s=result.compute_s
    )


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of `summarise` as a data frame indexed by peer."""
    import pandas as pd

    return pd.DataFrame(rows).set_index("peer")


def readable(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows of `summarise` for a person: each rate and its interval in one cell.

    >>> readable([{"peer": "a", "mixed_error_rate": 0.5, "mixed_error_rate_95": (0.25, 0.75)}])
    [{'peer': 'a', 'mixed_error_rate': '0.50 (0.25-0.75)'}]
    """
    return [
        {name: _cell(value, row.get(f"{name}_95")) for name, value in row.items() if not name.endswith("_95")}
        for row in rows
    ]


def _row(name: str, scores: Sequence[Score], rng: np.random.Generator) -> dict[str, Any]:
    rates = pooled(scores).rates()
    row: dict[str, Any] = {"peer": name, "recordings": len(scores), "audio_s": round(rates["audio_s"], 3)}
    for rate in RATES:
        row[rate] = rates[rate]
        row[f"{rate}_95"] = bootstrap_interval(scores, rate, rng)
    return row


def _cell(value: Any, interval: tuple[float, float] | None) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


# Small parts


def _segment(text: str, language: str, start: float, end: float, avg_logprob: float) -> SessionSegment:
    return SessionSegment(text.strip(), language, float(start), float(end), True, math.exp(avg_logprob))


def _offline(segments: Iterable[SessionSegment], audio: FloatArray) -> Heard:
    """The segments, and a switch wherever one differs in language from the one before."""
    found = tuple(segments)
    switches = (
        Switch(new.start_time, old.language, new.language, duration_s(audio))
        for old, new in pairwise(found)
        if old.language != new.language
    )
    return found, tuple(switches)


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    """Run with n threads inside an operator, and put back what was before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Two configurations against each other, on the same recordings in turns, and what may be said of the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.checks import from_json, shown
from whisperlab.decoder import DecoderOptions
from whisperlab.errors import ConfigurationError
from whisperlab.lid import LidOptions
from whisperlab.models import Weights, load_weights
from whisperlab.peers import Peer, PeerResult, interleaved, score_result, streaming
from whisperlab.smoothing import SmoothingOptions
from whisperlab.trace import Reference
from whisperlab.transcriber import SessionOptions, SessionRestartTranscriber
from whisperlab.vad import VadOptions
from whisperlab.verdict import Kind, Verdict, judge, together

if TYPE_CHECKING:
    from whisperlab.corpora import Recording

Options = Mapping[str, Any]
Pairs = tuple[list[float], list[float]]

_GROUPS = {
    "vad": VadOptions,
    "lid": LidOptions,
    "smoothing": SmoothingOptions,
    "decoding": DecoderOptions,
    "session": SessionOptions,
}


@dataclass(slots=True, frozen=True)
class Measure:
    """Something to compare: how it is taken from a result, as ratio or difference, the least change worth knowing."""

    name: str
    kind: Kind
    worth: float
    less: str
    more: str


MEASURES = (
    Measure("computing / audio", "ratio", 0.05, "faster", "slower"),
    Measure("mixed error rate", "difference", 0.01, "better", "worse"),
    Measure("language error rate", "difference", 0.01, "better", "worse"),
    Measure("encoder seconds a second", "ratio", 0.05, "thriftier", "more lavish"),
)


def options_of(text: str) -> dict[str, Any]:
    """A configuration: JSON, or the name of a file of it; ``{"precision": "fp32", "lid": {"sure": 0.9}}``.

    Raises ConfigurationError for what is neither, and for options that a transcriber does not have.
    """
    path = Path(text)
    try:
        found = from_json(path.read_text(encoding="utf-8") if not text.lstrip().startswith("{") else text)
    except OSError as error:
        raise ConfigurationError(
            f'{shown(text)} is no file, and no JSON such as {{"precision": "fp32"}}'
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{shown(text)} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"a configuration is a JSON object, got {shown(found)}")
    if "model" in found or "languages" in found:
        raise ConfigurationError("model and languages are the same for both sides: give them as arguments")
    made = dict(found)
    for name, group in _GROUPS.items():
        if name in found:
            try:
                made[name] = group(**found[name])
            except TypeError as error:
                raise ConfigurationError(f"{name}: {error}") from error
    return made


def contest(
    a: Options,
    b: Options,
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    rounds: int = 1,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda line: None,
) -> list[Verdict]:
    """Both configurations on every recording, ``rounds`` times, in turns; a verdict on each of `MEASURES`.

    Times are paired by recording and round, rates by recording: a further round tells nothing new of them.
    """
    if not recordings or rounds < 1:
        raise ConfigurationError(
            f"a contest needs recordings and at least one round, got {len(recordings)}, {rounds}"
        )
    languages = sorted({language for recording in recordings for language in recording.languages})
    weights = load_weights(model)
    sides = {"A": _peer(a, weights, languages), "B": _peer(b, weights, languages)}
    results: list[PeerResult] = []
    for number in range(rounds):
        order = dict(list(sides.items())[:: 1 if number % 2 == 0 else -1])
        results += interleaved(recordings, order, clock=clock, say=say)
    pairs = _paired(results, recordings)
    rng = rng or np.random.default_rng(0)
    return together(
        [judge(m.name, *pairs[m.name], rng, kind=m.kind, worth=m.worth) for m in MEASURES if pairs[m.name][0]]
    )


def words(verdicts: Iterable[Verdict]) -> list[str]:
    """The verdicts as sentences."""
    known = {measure.name: measure for measure in MEASURES}
    return [verdict.words(known[verdict.measure].less, known[verdict.measure].more) for verdict in verdicts]


def _peer(options: Options, weights: Weights, languages: Sequence[str]) -> Peer:
    try:
        transcriber = SessionRestartTranscriber(weights, languages=languages or None, **options)
    except TypeError as error:
        raise ConfigurationError(f"no such option of a transcriber: {error}") from error

    def fresh(_: Reference) -> SessionRestartTranscriber:
        transcriber.reset()
        return transcriber

    return streaming(fresh)


def _paired(results: Iterable[PeerResult], recordings: Sequence[Recording]) -> dict[str, Pairs]:
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {measure.name: {} for measure in MEASURES}
    heard: dict[tuple[str, str], int] = {}
    for result in results:
        round_ = heard.get((result.name, result.recording), 0)
        heard[result.name, result.recording] = round_ + 1
        place = result.recording, round_
        values = {
            "computing / audio": result.compute_s / result.duration,
            "encoder seconds a second": result.heard.work.encoded_s / result.duration or None,
        }
        if round_ == 0:
            rates = score_result(result, references[result.recording]).rates()
            values["mixed error rate"] = rates["mixed_error_rate"]
            values["language error rate"] = rates["language_error_rate"]
        for name, value in values.items():
            if value is not None and (name != "encoder seconds a second" or round_ == 0):
                found[name].setdefault(place, {})[result.name] = value
    return {
        name: (
            [sides["A"] for sides in by_place.values() if len(sides) == 2],
            [sides["B"] for sides in by_place.values() if len(sides) == 2],
        )
        for name, by_place in found.items()
    }

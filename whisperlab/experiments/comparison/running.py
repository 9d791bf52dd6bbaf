"""A contest: both sides on the same recordings, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.config import TranscriberConfig
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.comparison.measures import (
    ENCODED,
    LANGUAGE,
    MIXED,
    TIME,
    Found,
    Outcome,
    judged,
    note,
)
from whisperlab.experiments.comparison.variants import Side
from whisperlab.experiments.comparison.workers import at_work
from whisperlab.experiments.other_systems import (
    Peer,
    PeerResult,
    interleaved,
    score_result,
    streaming,
    warm_up,
)
from whisperlab.model.weights import Weights, load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.threads import THREADS

if TYPE_CHECKING:
    from whisperlab.data import Recording


def contest(
    a: Side,
    b: Side,
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    rounds: int = 1,
    threads: int = THREADS,
    repository: Path = Path(),
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Both sides on every recording, ``rounds`` times, in turns; a verdict on each of `MEASURES`.

    Times are paired by recording and round, rates by recording: a further round tells nothing new of them. Revisions
    are those of ``repository``, or of the repository around it. ``threads`` are those of both,
    unless a side names its own.

    Raises:
        ConfigurationError: no recordings or rounds, no such option, no such revision.
        WhisperlabError: a revision cannot run here, or its process died.
    """
    if not recordings or rounds < 1:
        raise ConfigurationError(
            f"a contest needs recordings and at least one round, got {len(recordings)}, {rounds}"
        )
    sides = {"A": a, "B": b}
    with _peers(sides, recordings, model, threads, repository, say) as peers:
        warm_up(recordings[0], peers)
        results: list[PeerResult] = []
        for number in range(rounds):
            order = dict(list(peers.items())[:: 1 if number % 2 == 0 else -1])
            results += interleaved(recordings, order, clock=clock, say=say)
    return judged(_found(results, recordings), rng or np.random.default_rng(0)).corrected()


@contextmanager
def _peers(
    sides: Mapping[str, Side],
    recordings: Sequence[Recording],
    model: str,
    threads: int,
    repository: Path,
    say: Callable[[str], None],
) -> Iterator[dict[str, Peer]]:
    """Both in this process with one model, or each in its own where a revision is to run."""
    languages = sorted({language for recording in recordings for language in recording.languages})
    if any(side.revision for side in sides.values()):
        how: dict[str, Any] = {"model": model, "languages": languages, "threads": threads}
        with at_work(sides, repository, **how, say=say) as peers:
            yield peers
    else:
        weights = load_weights(model)
        yield {name: _peer(side, weights, languages, threads) for name, side in sides.items()}


def _peer(side: Side, weights: Weights, languages: Sequence[str], threads: int) -> Peer:
    config = TranscriberConfig.from_json({"compute.threads": threads, **side.options})
    transcriber = SessionRestartTranscriber(weights, languages=languages or None, config=config)

    def fresh(_: Reference) -> SessionRestartTranscriber:
        transcriber.reset()
        return transcriber

    return streaming(fresh)


def _found(results: Iterable[PeerResult], recordings: Sequence[Recording]) -> Found:
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    found: Found = {}
    rounds: dict[tuple[str, str], int] = {}
    for result in results:
        side, recording = result.name, result.recording
        number = rounds.get((side, recording), 0)
        rounds[side, recording] = number + 1
        note(found, TIME, (recording, number), side, result.compute_s / result.duration)
        if number == 0:
            rates = score_result(result, references[recording]).rates()
            note(found, MIXED, recording, side, rates["mixed_error_rate"])
            note(found, LANGUAGE, recording, side, rates["language_error_rate"])
            note(found, ENCODED, recording, side, result.heard.work.encoded_s / result.duration)
    return found

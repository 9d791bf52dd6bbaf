"""Compare two variants on the same recordings, in turns within one process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from whisperlab.config import TranscriberConfig
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.comparison.measures import ENCODED, LANGUAGE, MIXED, TIME, Outcome, Pairs
from whisperlab.experiments.other_systems import interleaved, score_result, warm_up
from whisperlab.experiments.systems import System, SystemResult, streaming
from whisperlab.model.weights import Weights, load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.errors import ConfigurationError

if TYPE_CHECKING:
    from whisperlab.data import Recording


def compare_configurations(
    a: TranscriberConfig,
    b: TranscriberConfig,
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    rounds: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run both configurations on every recording, with one model; see `compare_systems`."""
    weights = load_weights(model)
    languages = sorted({language for recording in recordings for language in recording.languages})
    systems = {name: _system(one, weights, languages) for name, one in (("A", a), ("B", b))}
    return compare_systems(systems, recordings, rounds=rounds, say=say)


def compare_systems(
    systems: Mapping[str, System],
    recordings: Sequence[Recording],
    *,
    rounds: int = 1,
    rng: np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run the systems ``A`` and ``B`` on every recording, ``rounds`` times in turns, and test `MEASURES`.

    Times are paired by recording and round, rates by recording: further rounds do not change them.

    Raises:
        ConfigurationError: without recordings or rounds.
    """
    if not recordings or rounds < 1:
        raise ConfigurationError(
            f"a comparison needs recordings and at least one round, got {len(recordings)}, {rounds}"
        )
    warm_up(recordings[0], systems)
    results: list[SystemResult] = []
    for number in range(rounds):
        order = dict(list(systems.items())[:: 1 if number % 2 == 0 else -1])
        results += interleaved(recordings, order, clock=clock, say=say)
    return _pairs(results, recordings).test(rng or np.random.default_rng(0)).corrected()


def _system(config: TranscriberConfig, weights: Weights, languages: Sequence[str]) -> System:
    transcriber = SessionRestartTranscriber(weights, languages=languages or None, config=config)

    def fresh(_: Reference) -> SessionRestartTranscriber:
        transcriber.reset()
        return transcriber

    return streaming(fresh)


def _pairs(results: Iterable[SystemResult], recordings: Sequence[Recording]) -> Pairs:
    references = {recording.id: Reference.from_dict(recording.reference) for recording in recordings}
    pairs = Pairs()
    rounds: Counter[tuple[str, str]] = Counter()
    for result in results:
        variant, recording = result.name, result.recording
        pairs.add(TIME, (recording, rounds[variant, recording]), variant, result.compute_s / result.duration)
        rounds[variant, recording] += 1
        if rounds[variant, recording] == 1:
            rates = score_result(result, references[recording]).rates()
            pairs.add(MIXED, recording, variant, rates["mixed_error_rate"])
            pairs.add(LANGUAGE, recording, variant, rates["language_error_rate"])
            pairs.add(ENCODED, recording, variant, result.output.work.encoded_s / result.duration)
    return pairs

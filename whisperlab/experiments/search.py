"""Search for good configurations when a grid of all of them would be too large.

A search proposes a batch of configurations, runs them as a sweep does, and reports the results to the sampler. Its only
state is the sweep's store: the same search repeats its proposals, finds their rows and continues where it stopped. It
looks for the Pareto front of `OBJECTIVES`: the configurations that no other beats in all of them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

import pandas as pd

from whisperlab.config import TranscriberConfig
from whisperlab.experiments.pareto import pareto_front
from whisperlab.experiments.results_store import Row, Say, open_store
from whisperlab.experiments.search_space import Space, Values
from whisperlab.experiments.sweep import MakeTranscriber, Task, plan, run_sweep, summarise
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, SweepError
from whisperlab.util.json_values import Json, JsonValue

if TYPE_CHECKING:
    import optuna

    from whisperlab.data.manifest import Recording
    from whisperlab.experiments.executors import Executor

logger = logging.getLogger("whisperlab")

Method = Literal["random", "adaptive"]

# The minimised quantities, by their name in a trial and in `summarise`.
OBJECTIVES = {
    "mixed_error_rate": "rates.mixed_error_rate",
    "response_p95_s": "response_p95_s",
    "peak_rss_bytes": "peak_rss_bytes",
}

BATCH = 4  # configurations that an adaptive search proposes at a time
STARTUP = 8  # random trials at the start of an adaptive search
REPEATS = 100  # consecutive repeated proposals that end a search


class RunOptions(TypedDict, total=False):
    make_transcriber: MakeTranscriber | None
    executor: Executor[Task, Row] | None
    retry_failed: bool
    progress: bool
    say: Say


@dataclass(slots=True, frozen=True)
class Trial:
    """A configuration that was run: the values set by the search, and its objectives or the error."""

    number: int
    values: Values
    config: TranscriberConfig
    objectives: tuple[float, ...] | None
    error: str | None

    def to_dict(self) -> dict[str, object]:
        objectives = dict(zip(OBJECTIVES, self.objectives or (None,) * len(OBJECTIVES), strict=True))
        return {"trial": self.number, "values": dict(self.values), **objectives, "error": self.error}


@dataclass(slots=True, frozen=True)
class SearchResult:
    """All trials, and how many of their tasks were already in the store or run now."""

    trials: tuple[Trial, ...]
    found: int
    ran: int

    @property
    def failed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.objectives is None)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front, the fewest errors first."""
        finished = sorted((trial.objectives, trial.number, trial) for trial in self.trials if trial.objectives)
        kept = pareto_front([objectives for objectives, *_ in finished]) if finished else ()
        return tuple(trial for (*_, trial), on_it in zip(finished, kept, strict=True) if on_it)


def search(
    space: Space,
    recordings: Sequence[Recording],
    out: str | Path,
    *,
    trials: int,
    model_digest: str,
    method: Method = "adaptive",
    seed: int = 0,
    shared: Json | None = None,
    **options: Unpack[RunOptions],
) -> SearchResult:
    """Run ``trials`` configurations of a space over all recordings, as rows of the store in ``out``.

    Method ``random`` draws all at once. ``adaptive`` is optuna's multi-objective TPE (Ozaki et al. 2022,
    "Multiobjective tree-structured Parzen estimator"): after `STARTUP` random trials it proposes `BATCH` configurations
    at a time that resemble the good trials. It suits tens of trials of minutes each; a genetic algorithm such as
    NSGA-II would spend them on its first generation. Proposals avoid the others of their batch.

    Objectives are pooled over the recordings: ``mixed_error_rate`` from sums of errors and words; ``response_p95_s``
    (`scoring.response_p95`) of the worst recording, measured beside the other workers; ``peak_rss_bytes``, the worst
    recording's peak memory of its process, model included. Memory of earlier trials is freed first, except some MiB.

    Proposals depend on space, seed, method and the results so far: the same search with more trials continues this
    one. Repeated proposals run once. A trial fails if any of its recordings fails. ``shared`` are options of all
    configurations; see `run_sweep` for the other arguments. Raises ConfigurationError as `check_recordings` does.
    """
    if trials < 1 or method not in get_args(Method):
        raise ConfigurationError(
            f"a search needs at least one trial and a method of {', '.join(get_args(Method))}, got {trials}, {method!r}"
        )
    check_recordings(recordings)
    say = options.get("say", logger.info)
    made: list[Trial] = []
    found = ran = 0
    for batch in _batches(space, trials, method, seed, made):
        configs = [TranscriberConfig.from_json({**(shared or {}), **space.configuration(values)}) for values in batch]
        outcome = run_sweep(configs, recordings, out, model_digest=model_digest, **options)
        found, ran = found + outcome.found, ran + outcome.ran
        keys = [[task.key for task in plan([config], recordings, model_digest)] for config in configs]
        with open_store(out) as store:
            rows = store.rows_of({*chain(*keys)})
        for values, config, own in zip(batch, configs, keys, strict=True):
            made.append(_trial(len(made), values, config, [rows[key] for key in own]))
        say(_progress(SearchResult(tuple(made), found, ran), trials))
    if len(made) < trials:
        say(f"no new proposal after {len(made)} configurations: the search ends before {trials} trials")
    return SearchResult(tuple(made), found, ran)


def check_recordings(recordings: Sequence[Recording]) -> None:
    """Raise ConfigurationError for recordings of a test split."""
    if tested := sum(recording.split == "test" for recording in recordings):
        raise ConfigurationError(
            f"{tested} of the recordings are of the split test: a search chooses by its results, so they would be too "
            "good by chance. Search on dev, then run the chosen configuration once on test"
        )


def _batches(
    space: Space, n_trials: int, method: Method, seed: int, made: Sequence[Trial]
) -> Iterator[list[dict[str, JsonValue]]]:
    """New proposals in batches; the caller appends the trial of each to ``made``."""
    study = _study(method, seed)
    from optuna.trial import TrialState

    known: set[str] = set()
    while len(made) < min(n_trials, space.size):
        size = min(n_trials - len(made), n_trials if method == "random" else BATCH)
        batch: list[tuple[optuna.Trial, dict[str, JsonValue]]] = []
        repeats = 0
        while len(batch) < size and repeats < REPEATS:
            trial = study.ask()
            values = space.propose(trial)
            name = json.dumps(values, sort_keys=True)
            if name in known:
                repeats += 1
                study.tell(trial, state=TrialState.FAIL)
            else:
                repeats = 0
                known.add(name)
                batch.append((trial, values))
        if not batch:
            return
        before = len(made)
        yield [values for _, values in batch]
        for (trial, _), result in zip(batch, made[before:], strict=True):
            study.tell(trial, result.objectives, state=None if result.objectives else TrialState.FAIL)


def _study(method: Method, seed: int) -> optuna.Study:
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError("a search needs optuna: pip install 'whisperlab[search]'") from error
    from optuna.samplers import RandomSampler, TPESampler

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        adaptive = partial(TPESampler, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
        sampler = (RandomSampler if method == "random" else adaptive)(seed=seed)
        return optuna.create_study(directions=["minimize"] * len(OBJECTIVES), sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)


def _trial(number: int, values: Values, config: TranscriberConfig, rows: Sequence[Row]) -> Trial:
    broken = next((row for row in rows if row["status"] != "ok"), None)
    if broken:
        return Trial(number, values, config, None, f"{broken['recording']}: {broken['error']}")
    summary = summarise(rows).iloc[0]
    objectives = {name: summary.get(column, math.nan) for name, column in OBJECTIVES.items()}
    if missing := [name for name, value in objectives.items() if pd.isna(value)]:
        raise SweepError(f"a search needs {', '.join(OBJECTIVES)}; the runs have no {', '.join(missing)}")
    return Trial(number, values, config, tuple(map(float, objectives.values())), None)


def _progress(result: SearchResult, trials: int) -> str:
    front = result.front
    best = f", least mixed error {front[0].objectives[0]:.1%}" if front and front[0].objectives else ""
    return (
        f"trial {len(result.trials)} of {trials}: {len(result.failed)} failed, {len(front)} on the Pareto front{best}"
    )

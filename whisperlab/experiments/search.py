"""Searches: which configurations to try next, when a grid of all of them would be too many.

A search asks for a batch of configurations, runs them as a sweep does, and tells the sampler what came of them. Nothing
but the sweep's own store is kept: the same search run again makes the same proposals, finds their rows, and goes on
where it stopped. It looks for the Pareto front of `OBJECTIVES`: the configurations that no other beats in all of them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import pandas as pd

from whisperlab.config import GROUPS, TranscriberConfig
from whisperlab.experiments.comparison import json_options
from whisperlab.experiments.pareto import pareto_front
from whisperlab.experiments.results_store import Row, Say, nested_config, newest_rows
from whisperlab.experiments.sweep import Config, MakeTranscriber, Task, plan, run_sweep, summarise
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, SweepError
from whisperlab.util.options import flat, migrated

if TYPE_CHECKING:
    import optuna

    from whisperlab.data.manifest import Recording
    from whisperlab.experiments.executors import Executor

logger = logging.getLogger("whisperlab")

Method = Literal["random", "adaptive"]

# What a search makes small, by its name in a trial and in `summarise`.
OBJECTIVES = {
    "mixed_error_rate": "rates.mixed_error_rate",
    "response_p95_s": "response_p95_s",
    "peak_rss_bytes": "peak_rss_bytes",
}

BATCH = 4  # configurations an adaptive search asks for at a time
STARTUP = 8  # trials an adaptive search draws at random before it has anything to learn from
REPEATS = 100  # proposals in a row that were tried before, after which there is nothing new to expect
DIGITS = 4  # significant ones of a number out of a range

# Not to be searched over: the same for all trials, or what the objectives are measured with.
_NOT_OPTIONS = {
    "self", "model", "languages", "sampling_rate", "device", "language", "oracle", "language_prior", "decode",
    "shadow_rate", "lid_p95_limit_ms", "hit_rate_limit", "enable_logging", "log_interval_seconds",
}  # fmt: skip
_RANGE = {"low", "high", "step", "log"}


@dataclass(slots=True, frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value a trial proposes. The sampler knows it as JSON: values may be lists."""
        return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))


@dataclass(slots=True, frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where ends and step are.

    ``step`` leaves out those between its multiples above ``low``; ``log`` draws as many from 1 to 10 as from 10 to 100.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigurationError(
                f"an empty range: low must be below high, got {self.low} and {self.high}"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigurationError(
                f"a log range needs low above 0 and no step, got low {self.low} and step {self.step}"
            )
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigurationError(
                f"step must be above 0 and fit into the range, got {self.step} from {self.low} to {self.high}"
            )

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are in it."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def size(self) -> float:
        """How many numbers there are; infinite for real ones without a step."""
        step = self.step or (1 if self.whole else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """The number a trial proposes; real ones without a step to `DIGITS` significant digits."""
        if self.step is None and self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        if self.step is None:
            drawn = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{DIGITS}g}")
        else:
            drawn = round(self.low + self.step * trial.suggest_int(name, 0, int(self.size) - 1), 12)
        return min(max(drawn, self.low), self.high)  # rounding may have left the range


Values: TypeAlias = Mapping[str, Any]  # by option; those of a group with its name and a dot before theirs


class Space:
    """The options a search may set, and those it holds fast.

    Made from an object like ``{"precision": ["fp32", "bf16"], "lid": {"sure": {"low": 0.5, "high": 0.95}}}``: a list
    is a `Choice`, an object of low, high, step and log a `Range`, any other value is fixed; ``vad``, ``lid``,
    ``smoothing``, ``decoding`` and ``session`` are groups of options.

    Raises ConfigurationError for an option a transcriber does not have, a value of another type than it takes, an empty
    list or range, and when there is nothing to choose.
    """

    __slots__ = ("fixed", "options")

    def __init__(self, described: Mapping[str, Any]) -> None:
        every = {name: _axis(name, value, kind) for name, value, kind in _told(described)}
        self.options: dict[str, Choice | Range] = {n: axis for n, axis in every.items() if axis.size > 1}
        self.fixed = {
            n: axis.values[0] for n, axis in every.items() if isinstance(axis, Choice) and axis.size == 1
        }
        if not self.options:
            raise ConfigurationError(
                'a space needs an option with several values, such as {"lid_hop_ms": [100, 200]}'
            )

    @classmethod
    def from_json(cls, text: str) -> Space:
        """The space that JSON describes, or a file of it."""
        return cls(json_options(text))

    @property
    def size(self) -> float:
        """How many configurations there are; infinite with real numbers."""
        return math.prod(axis.size for axis in self.options.values())

    def propose(self, trial: optuna.Trial) -> dict[str, Any]:
        """A value for each option."""
        return {name: axis.suggest(trial, name) for name, axis in self.options.items()}

    def configuration(self, values: Values) -> dict[str, Any]:
        """Options of a transcriber as JSON has them: the fixed ones and these, groups as objects."""
        return nested_config({**self.fixed, **values})


@dataclass(slots=True, frozen=True)
class Trial:
    """A configuration that was tried: what the search set, and the objectives, or why there are none."""

    number: int
    values: Values
    config: Config
    objectives: tuple[float, ...] | None
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, each objective by its name."""
        found = self.objectives or (None,) * len(OBJECTIVES)
        return {
            "trial": self.number,
            "values": dict(self.values),
            **dict(zip(OBJECTIVES, found, strict=True)),
            "error": self.error,
        }


@dataclass(slots=True, frozen=True)
class Found:
    """What a search did: its trials, and how many of their tasks were found done or run now."""

    trials: tuple[Trial, ...]
    found: int
    ran: int

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials without objectives."""
        return tuple(trial for trial in self.trials if trial.objectives is None)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats in all objectives, the least errors first."""
        told = [(trial.objectives, trial) for trial in self.trials if trial.objectives is not None]
        kept = pareto_front([objectives for objectives, _ in told]) if told else ()
        front = [pair for pair, on_it in zip(told, kept, strict=True) if on_it]
        return tuple(trial for _, trial in sorted(front, key=lambda pair: pair[0]))


def search(
    space: Space,
    recordings: Sequence[Recording],
    out: str | Path,
    *,
    trials: int,
    model_digest: str,
    method: Method = "adaptive",
    seed: int = 0,
    shared: Config | None = None,
    make_transcriber: MakeTranscriber | None = None,
    executor: Executor[Task, Row] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    say: Say = logger.info,
) -> Found:
    """Try ``trials`` configurations of a space, each over all recordings, as rows of the store in ``out``.

    Method ``random`` draws them all at once. ``adaptive`` is optuna's multi-objective TPE (Ozaki et al. 2022,
    "Multiobjective tree-structured Parzen estimator"): after `STARTUP` random trials it proposes, `BATCH` at a time,
    what resembles the good more than the bad ones. A trial costs minutes, so there are tens of them; a genetic
    algorithm such as NSGA-II would spend all those on its first generation. Within a batch a proposal keeps away from
    those still without a result.

    The objectives are pooled over the recordings: ``mixed_error_rate`` from the sums of errors and words;
    ``response_p95_s``, the worst recording's 95th percentile of what a chunk of a live stream waits and is worked on
    (`scoring.response_p95`), as measured beside the other workers; ``peak_rss_bytes``, the worst recording's
    peak of its process, model included. What earlier trials left behind is given back first, but for some tens of MiB.

    Proposals depend on space, seed, method and the results so far: the same search with more trials continues this
    one, with any number of workers. A configuration that comes up twice is tried once. A trial of which any recording
    failed counts as failed. See `run_sweep` for the other arguments; ``shared`` are options of all configurations.

    Raises ConfigurationError for recordings of a test split: what is chosen by them is too good there by chance, and
    no other split is left to say how good it is.
    """
    if trials < 1 or method not in get_args(Method):
        raise ConfigurationError(
            f"a search needs at least one trial and a method of {', '.join(get_args(Method))}, got {trials}, {method!r}"
        )
    check_recordings(recordings)
    made: list[Trial] = []
    found = ran = 0
    for batch in _batches(space, trials, method, seed, made):
        configs = [{**(shared or {}), **space.configuration(values)} for values in batch]
        outcome = run_sweep(
            configs,
            recordings,
            out,
            model_digest=model_digest,
            make_transcriber=make_transcriber,
            executor=executor,
            retry_failed=retry_failed,
            progress=progress,
            say=say,
        )
        found, ran = found + outcome.found, ran + outcome.ran
        keys = [[task.key for task in plan([config], recordings, model_digest)] for config in configs]
        rows = newest_rows(out, {*chain(*keys)})
        for values, config, own in zip(batch, configs, keys, strict=True):
            made.append(_trial(len(made), values, config, [rows[key] for key in own]))
        say(_so_far(Found(tuple(made), found, ran), trials))
    if len(made) < trials:
        say(
            f"after {len(made)} configurations nothing new was proposed: the search ends before {trials} trials"
        )
    return Found(tuple(made), found, ran)


def check_recordings(recordings: Sequence[Recording]) -> None:
    """Refuse recordings that a search may not choose by."""
    if tested := sum(recording.split == "test" for recording in recordings):
        raise ConfigurationError(
            f"{tested} of the recordings are of the split test: a search chooses by its results, so they would be too "
            "good by chance. Search on dev, then run what it found once on test"
        )


def _batches(
    space: Space, n_trials: int, method: Method, seed: int, made: Sequence[Trial]
) -> Iterator[list[dict[str, Any]]]:
    """Proposals that were not made before, some at a time; ``made`` has the results of all earlier ones."""
    with _quiet() as library:
        study = library.create_study(
            directions=["minimize"] * len(OBJECTIVES), sampler=_sampler(method, seed)
        )
    failed = library.trial.TrialState.FAIL
    known: set[str] = set()
    while len(made) < min(n_trials, space.size):
        asked: list[tuple[optuna.Trial, dict[str, Any]]] = []
        repeats = 0
        size = min(n_trials - len(made), n_trials if method == "random" else BATCH)
        while len(asked) < size and repeats < REPEATS:
            trial = study.ask()
            values = space.propose(trial)
            name = json.dumps(values, sort_keys=True)
            repeats += 1
            if name in known:
                study.tell(trial, state=failed)
            else:
                known.add(name)
                asked.append((trial, values))
                repeats = 0
        if not asked:
            return
        before = len(made)
        yield [values for _, values in asked]
        for (trial, _), result in zip(asked, made[before:], strict=True):
            if result.objectives is None:
                study.tell(trial, state=failed)
            else:
                study.tell(trial, result.objectives)


def _sampler(method: Method, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    if method == "random":
        return RandomSampler(seed)
    return TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed)


@contextmanager
def _quiet() -> Iterator[Any]:
    """optuna, silent about a study it makes; its own verbosity as it was before."""
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError("a search needs optuna: pip install 'whisperlab[search]'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _trial(number: int, values: Values, config: Config, rows: Sequence[Row]) -> Trial:
    broken = next((row for row in rows if row["status"] != "ok"), None)
    if broken:
        return Trial(number, values, config, None, f"{broken['recording']}: {broken['error']}")
    summary = summarise(rows).iloc[0]
    objectives: list[Any] = [summary.get(column) for column in OBJECTIVES.values()]
    missing = [name for name, value in zip(OBJECTIVES, objectives, strict=True) if pd.isna(value)]
    if missing:
        raise SweepError(f"a search needs {', '.join(OBJECTIVES)}; the runs have no {', '.join(missing)}")
    return Trial(number, values, config, tuple(map(float, objectives)), None)


def _so_far(found: Found, trials: int) -> str:
    front = found.front
    best = f", least mixed error {front[0].objectives[0]:.1%}" if front and front[0].objectives else ""
    return f"trial {len(found.trials)} of {trials}: {len(found.failed)} failed, {len(front)} on the Pareto front{best}"


# --- the space, from what describes it ------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class _Kind:
    """What an option takes, as far as its default and annotation tell."""

    default: Any
    annotation: str

    @property
    def numbers(self) -> bool:
        return isinstance(self.default, int | float) and not isinstance(self.default, bool)

    def takes(self, value: Any) -> bool:
        """Whether a value is of the type of the default; what has none is left to the transcriber."""
        if value is None or self.default is None:
            return self.default is None or "None" in self.annotation
        if isinstance(self.default, bool) or isinstance(value, bool):
            return isinstance(self.default, bool) and isinstance(value, bool)
        if isinstance(self.default, float):
            return isinstance(value, int | float) and math.isfinite(value)
        if isinstance(self.default, tuple):
            return isinstance(value, list)
        return isinstance(value, type(self.default))


def _told(described: Mapping[str, Any]) -> Iterator[tuple[str, Any, _Kind]]:
    """Every option that is described, by its dotted name, with its type."""
    if group := next((n for n, v in described.items() if n in GROUPS and not isinstance(v, Mapping)), None):
        raise ConfigurationError(f"{group} is a group of options, an object, got {described[group]!r}")
    kinds = {
        name: _Kind(known.default, str(known.hint)) for name, known in TranscriberConfig.options().items()
    }
    for name, value in flat(migrated(described)).items():
        if name in _NOT_OPTIONS or name not in kinds:
            raise ConfigurationError(f"no option {name!r}: a search has {', '.join(kinds)}")
        yield name, value, kinds[name]


def _axis(name: str, value: Any, kind: _Kind) -> Choice | Range:
    try:
        return _range(value, kind) if isinstance(value, Mapping) else _choice(value, kind)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _range(value: Mapping[str, Any], kind: _Kind) -> Range:
    if not {"low", "high"} <= value.keys() <= _RANGE:
        raise ConfigurationError(f"a range has low, high and perhaps step or log, got {dict(value)!r}")
    numbers = {name: value[name] for name in ("low", "high", "step") if value.get(name) is not None}
    if (
        not kind.numbers
        or not {"low", "high"} <= numbers.keys()
        or not all(map(kind.takes, numbers.values()))
    ):
        wanted = f"numbers of the type of {kind.default!r}" if kind.numbers else "a list: it is no number"
        raise ConfigurationError(f"takes {wanted}, got {dict(value)!r}")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigurationError(f"log is true or false, got {log!r}")
    if isinstance(kind.default, float):
        numbers = {name: float(number) for name, number in numbers.items()}
    return Range(numbers["low"], numbers["high"], numbers.get("step"), log)


def _choice(value: Any, kind: _Kind) -> Choice:
    # A list of lists is a choice of lists; a plain value is a choice of one.
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigurationError("an empty list: it needs at least one value")
    wrong = [one for one in values if not kind.takes(one)]
    if wrong:
        raise ConfigurationError(f"takes values like {kind.default!r}, got {wrong[0]!r}")
    return Choice(tuple({json.dumps(one): one for one in values}.values()))

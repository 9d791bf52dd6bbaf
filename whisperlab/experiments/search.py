"""Search for good configurations when a grid of all of them would be too large.

A search proposes a batch of configurations, runs them as a sweep does, and reports the results to the sampler. Its
only state is the sweep's store. It looks for the Pareto front of `OBJECTIVES`: what no other beats in all of them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack, get_args

from whisperlab.config import GROUPS, TranscriberConfig
from whisperlab.data import Recording
from whisperlab.experiments.comparison import read_options
from whisperlab.experiments.results_store import Row, in_memory, open_store
from whisperlab.experiments.significance import pareto_front
from whisperlab.experiments.sweep import RunOptions, plan, run_sweep
from whisperlab.util.errors import ConfigurationError, SweepError, needs
from whisperlab.util.json_values import Json, JsonValue
from whisperlab.util.log import logger
from whisperlab.util.options import Option, flat
from whisperlab.util.validation import check_type

if TYPE_CHECKING:
    import optuna


Method = Literal["random", "adaptive"]
Values: TypeAlias = Mapping[str, JsonValue]  # by dotted name
Proposals: TypeAlias = "list[tuple[optuna.Trial, dict[str, JsonValue]]]"

# The minimised quantities, by their name in a trial, from the columns of the store.
OBJECTIVES = {
    "mixed_error_rate": "1.0 * sum(errors) / sum(words)",
    "response_p95_s": "max(response_p95_s)",
    "peak_rss_bytes": "max(peak_rss_bytes)",
}

BATCH = 4  # configurations that an adaptive search proposes at a time
STARTUP = 8  # random trials at the start of an adaptive search
REPEATS = 100  # consecutive repeated proposals that end a search
DIGITS = 4  # significant digits of a number from a range

# Options outside of searches (and those of monitoring): the same for all trials, or part of the measurement.
_FIXED = {
    "languages", "sampling_rate", "language", "oracle", "decode", "language_id.prior", "compute.device",
    "cache.shadow_rate",
}  # fmt: skip


@dataclass(slots=True, frozen=True)
class Choice:
    values: tuple[JsonValue, ...]

    @property
    def size(self) -> float:
        return len(self.values)

    def suggest(self, trial: "optuna.Trial", name: str) -> JsonValue:
        """The value that a trial proposes. The sampler receives JSON, because values may be lists."""
        value: JsonValue = json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))
        return value


@dataclass(slots=True, frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; integers if all of low, high and step are."""

    low: float
    high: float
    step: float | None = None  # restricts it to multiples above low
    log: bool = False  # samples each power of ten equally often

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigurationError(f"an empty range: low must be below high, got {self.low} and {self.high}")
        got = f"got low {self.low}, high {self.high} and step {self.step}"
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigurationError(f"a log range needs low above 0 and no step, {got}")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigurationError(f"step must be above 0 and fit into the range, {got}")

    @property
    def size(self) -> float:
        """The number of values; infinite for real numbers without a step."""
        step = self.step or (1 if isinstance(self.low, int) and isinstance(self.high, int) else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def suggest(self, trial: "optuna.Trial", name: str) -> float:
        """The number that a trial proposes; real numbers without a step have `DIGITS` significant digits."""
        if self.step is not None:
            drawn = round(self.low + self.step * trial.suggest_int(name, 0, int(self.size) - 1), 12)
        elif isinstance(self.low, int) and isinstance(self.high, int):
            drawn = trial.suggest_int(name, self.low, self.high, log=self.log)
        else:
            drawn = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{DIGITS}g}")
        return min(max(drawn, self.low), self.high)  # rounding can leave the range


class Space:
    """The options that a search varies, and those it fixes.

    Described by an object such as ``{"compute.precision": ["fp32", "bf16"], "language_id": {"confident_above": {"low":
    0.5, "high": 0.95}}}``: a list is a `Choice`, an object of low, high, step and log a `Range`, any other value is
    fixed. Names are dotted or nested. Raises ConfigurationError for unknown options, wrong values, empty lists or
    ranges, and if no option has several values.
    """

    def __init__(self, described: Mapping[str, object]) -> None:
        for name in GROUPS.keys() & described.keys():
            if not isinstance(described[name], Mapping):
                raise ConfigurationError(f"{name} is a group of options, an object, got {described[name]!r}")
        axes = {name: _axis(name, value) for name, value in flat(described).items()}
        self.options: dict[str, Choice | Range] = {n: axis for n, axis in axes.items() if axis.size > 1}
        self.fixed = {n: axis.values[0] for n, axis in axes.items() if isinstance(axis, Choice) and axis.size == 1}
        if not self.options:
            example = '{"language_id.hop_ms": [100, 200]}'
            raise ConfigurationError(f"a space needs an option with several values, such as {example}")

    @classmethod
    def from_json(cls, text: str) -> "Space":
        return cls(read_options(text))

    @property
    def size(self) -> float:
        """The number of configurations; infinite with real numbers."""
        return math.prod(axis.size for axis in self.options.values())

    def propose(self, trial: "optuna.Trial") -> dict[str, JsonValue]:
        return {name: axis.suggest(trial, name) for name, axis in self.options.items()}

    def config(self, values: Values, shared: Json | None = None) -> TranscriberConfig:
        """The configuration of the ``shared`` options, the fixed options and these values."""
        return TranscriberConfig.from_json({**(shared or {}), **self.fixed, **values})


def _axis(name: str, value: JsonValue) -> Choice | Range:
    options = TranscriberConfig.options().items()
    known = {one: option for one, option in options if one not in _FIXED and not one.startswith("monitoring.")}
    if name not in known:
        raise ConfigurationError(f"no option {name!r} to search over: there are {', '.join(known)}")
    try:
        if isinstance(value, Mapping):
            return _range(name, value, known[name])
        values = value if isinstance(value, list) else [value]  # a list of lists is a choice of lists
        if not values:
            raise ConfigurationError("an empty list: it needs at least one value")
        for one in values:
            known[name].check(name, one)
        return Choice(tuple({json.dumps(one): one for one in values}.values()))
    except ConfigurationError as error:
        message = str(error)
        raise ConfigurationError(message if message.startswith(name) else f"{name}: {message}") from error


def _range(name: str, value: Json, option: Option) -> Range:
    if not {"low", "high"} <= value.keys() <= {"low", "high", "step", "log"}:
        raise ConfigurationError(f"a range has low, high and perhaps step or log, got {dict(value)!r}")
    kind = float if option.hint in (float, float | None) else int
    if option.hint not in (kind, kind | None):
        raise ConfigurationError("needs a list of values, because it is not a number")
    for end in (value["low"], value["high"]):
        check_type(name, end, kind)
        option.check(name, end)
    step, log = value.get("step"), value.get("log") or False
    check_type("step", step, kind | None)
    check_type("log", log, bool)
    return Range(kind(value["low"]), kind(value["high"]), None if step is None else kind(step), log)


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
    method: Method = "adaptive",
    seed: int = 0,
    shared: Json | None = None,  # options of all configurations
    **options: Unpack[RunOptions],  # arguments of `run_sweep`
) -> SearchResult:
    """Run ``trials`` configurations of a space over all recordings, as rows of the store in ``out``.

    Method ``random`` draws all at once. ``adaptive`` is optuna's multi-objective TPE (Ozaki et al. 2022,
    "Multiobjective tree-structured Parzen estimator"): after `STARTUP` random trials it proposes `BATCH` configurations
    at a time that resemble the good trials. ``mixed_error_rate`` is pooled over the recordings; ``response_p95_s``
    (`scoring.response_p95`) and ``peak_rss_bytes`` (of the process, model included) are those of the worst recording.

    Proposals depend on space, seed, method and the results so far: the same search with more trials continues this
    one. A trial fails if any of its recordings fails. Raises ConfigurationError as `check_recordings` does.
    """
    if trials < 1 or method not in get_args(Method):
        needed = f"at least one trial and a method of {', '.join(get_args(Method))}"
        raise ConfigurationError(f"a search needs {needed}, got {trials}, {method!r}")
    check_recordings(recordings)
    study, say = _study(method, seed), options.get("say", logger.info)
    made: list[Trial] = []
    known: set[str] = set()
    found = ran = 0
    while len(made) < min(trials, space.size):
        size = min(trials - len(made), trials if method == "random" else BATCH)
        if not (proposals := _proposals(study, space, known, size)):
            break
        configs = [space.config(values, shared) for _, values in proposals]
        outcome = run_sweep(configs, recordings, out, **options)
        found, ran = found + outcome.found, ran + outcome.ran
        with open_store(out) as store:
            for (asked, values), config in zip(proposals, configs, strict=True):
                keys = [task.key for task in plan([config], recordings, options["model_digest"])]
                rows = store.rows_of(keys)
                made.append(_trial(len(made), values, config, [rows[key] for key in keys]))
                _tell(study, asked, made[-1].objectives)
        result = SearchResult(tuple(made), found, ran)
        front = result.front
        best = f", least mixed error {front[0].objectives[0]:.1%}" if front and front[0].objectives else ""
        say(f"trial {len(made)} of {trials}: {len(result.failed)} failed, {len(front)} on the Pareto front{best}")
    if len(made) < trials:
        say(f"no new proposal after {len(made)} configurations: the search ends before {trials} trials")
    return SearchResult(tuple(made), found, ran)


def sample(space: Space, trials: int, *, seed: int = 0, shared: Json | None = None) -> list[TranscriberConfig]:
    """The configurations of a random search, to estimate the time of any search."""
    return [space.config(values, shared) for _, values in _proposals(_study("random", seed), space, set(), trials)]


def check_recordings(recordings: Sequence[Recording]) -> None:
    """Raise ConfigurationError for recordings of a test split."""
    if tested := sum(recording.split == "test" for recording in recordings):
        reason = "a search chooses by its results, so they would be too good by chance"
        advice = "Search on dev, then run the chosen configuration once on test"
        raise ConfigurationError(f"{tested} of the recordings are of the split test: {reason}. {advice}")


def _proposals(study: "optuna.Study", space: Space, known: set[str], size: int) -> Proposals:
    """Up to ``size`` new proposals, which are added to ``known``; none after `REPEATS` repeated ones."""
    batch: Proposals = []
    repeats = 0
    while len(batch) < size and repeats < REPEATS:
        trial = study.ask()
        values = space.propose(trial)
        name = json.dumps(values, sort_keys=True)
        if name in known:
            repeats += 1
            _tell(study, trial, None)
        else:
            repeats = 0
            known.add(name)
            batch.append((trial, values))
    return batch


def _tell(study: "optuna.Study", trial: "optuna.Trial", objectives: tuple[float, ...] | None) -> None:
    from optuna.trial import TrialState

    study.tell(trial, objectives, state=None if objectives else TrialState.FAIL)


def _study(method: Method, seed: int) -> "optuna.Study":
    with needs("a search needs optuna", "search"):
        import optuna
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
    if broken := next((row for row in rows if row["status"] != "ok"), None):
        return Trial(number, values, config, None, f"{broken['recording']}: {broken.get('error')}")
    (objectives,) = in_memory(rows).sql(f"select {', '.join(OBJECTIVES.values())} from results")  # noqa: S608
    if missing := [name for name, value in zip(OBJECTIVES, objectives, strict=True) if value is None]:
        raise SweepError(f"a search needs {', '.join(OBJECTIVES)}; the runs have no {', '.join(missing)}")
    return Trial(number, values, config, tuple(map(float, objectives)), None)

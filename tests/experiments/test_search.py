"""Searches: spaces as described, reproducible proposals, Pareto fronts."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sweep import DIGEST, Parrot, Untouchable, make_recording

from whisperlab.config import TranscriberConfig
from whisperlab.data.manifest import Recording
from whisperlab.experiments import search as search_module
from whisperlab.experiments.executors import local_processes
from whisperlab.experiments.results_store import read_rows
from whisperlab.experiments.search import BATCH, OBJECTIVES, STARTUP, Choice, Range, SearchResult, Space, search
from whisperlab.experiments.significance import importances, pareto_front, separation
from whisperlab.experiments.sweep import task_worker
from whisperlab.streaming.results import ProcessResult, SessionSegment
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, SweepError
from whisperlab.util.options import nested

SPACE = {
    "cache.size": {"low": 1, "high": 60},
    "cache.hash_precision": [6, 2, 0],
    "language_id": {"confident_above": {"low": 0.5, "high": 0.95}, "window_ms": 2000},
}


def wrong_words(size: int) -> int:
    return abs(size - 50) // 5


class Wordy(Parrot):
    """Returns more wrong words the farther the size of the cache is from 50."""

    def finalize(self) -> ProcessResult:
        words = "hello world" + " no" * wrong_words(self._config.cache.size)
        said = SessionSegment(words, "en", 0.0, self._heard / 16000, True, 1.0)
        return ProcessResult(words, "", "en", segments=(said,))


class Choosy(Wordy):
    """Fails on precision 0."""

    def __init__(self, config: TranscriberConfig) -> None:
        super().__init__(config)
        if config.cache.hash_precision == 0:
            raise ValueError("precision 0 hurts")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    made = [make_recording(tmp_path, f"r{n}", "hello world " * n) for n in (1, 2)]
    return [replace(recording, split="dev") for recording in made]


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and memory are measured the same whatever the machine is doing."""
    monkeypatch.setattr("whisperlab.experiments.results_store.response_p95", lambda trace: 0.05)
    monkeypatch.setattr("whisperlab.evaluation.trace.recorder.peak_rss_bytes", lambda: 2**20)


def run(recordings: list[Recording], out: Path, maker: Any = Wordy, **options: Any) -> SearchResult:
    """A search of 12 trials: at random at first, then two batches that learn."""
    space = Space(options.pop("space", SPACE))
    options = {"trials": STARTUP + BATCH, "model_digest": DIGEST, "progress": False, "seed": 3, **options}
    if "executor" not in options:
        options["make_transcriber"] = maker
    return search(space, recordings, out, **options)


# --- the space ------------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def axes(draw: st.DrawFn) -> tuple[str, Any]:
    """An option of a transcriber, and what may be searched of it."""
    name = draw(
        st.sampled_from(["cache.size", "language_id.hop_ms", "smoothing.margin", "session.step_ms", "cache.key"])
    )
    if name == "cache.key":
        return name, draw(st.lists(st.text(min_size=1), min_size=1, max_size=4))
    number = st.floats(0.001, 1e3) if name == "smoothing.margin" else st.integers(100, 10_000)
    if draw(st.booleans()):
        return name, draw(st.lists(number, min_size=1, max_size=4))
    low, high = sorted(draw(st.lists(number, min_size=2, max_size=2, unique=True)))
    log = draw(st.booleans())
    fits = draw(st.integers(1, 7))
    step = None if log else max((high - low) / fits, 1e-3) if isinstance(low, float) else max((high - low) // fits, 1)
    return name, {"low": low, "high": high, "log": log, "step": step if step and step <= high - low else None}


def lies_in(axis: Choice | Range, value: Any) -> bool:
    return value in axis.values if isinstance(axis, Choice) else axis.low <= value <= axis.high


@settings(max_examples=60, deadline=None)
@given(some=st.lists(axes(), min_size=1, max_size=4).map(dict), seed=st.integers(0, 99))
def test_whatever_is_proposed_lies_in_the_space_and_is_json(some: dict[str, Any], seed: int) -> None:
    space = Space(json.loads(json.dumps(nested({**some, "language_id.confident_above": [0.5, 0.75]}))))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    for _ in range(5):
        values = space.propose(study.ask())
        assert values.keys() == space.options.keys()
        assert all(lies_in(space.options[name], value) for name, value in values.items())
        assert all(
            isinstance(value, int) for name, value in values.items() if name in ("cache.size", "session.step_ms")
        )
        assert json.loads(json.dumps(values)) == values


def test_a_space_reaches_every_configuration_it_counts() -> None:
    space = Space({"cache.size": {"low": 1, "high": 10, "step": 4}, "language_id": {"pool_after": [3, None]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    seen = {json.dumps(space.propose(study.ask()), sort_keys=True) for _ in range(200)}
    assert len(seen) == space.size == 6


def test_groups_of_a_configuration_become_their_options() -> None:
    space = Space(SPACE)
    values = {"cache.size": 2, "cache.hash_precision": 6, "language_id.confident_above": 0.75}
    made = space.config(values)
    assert (made.language_id.confident_above, made.language_id.window_ms, made.cache.size) == (0.75, 2000, 2)


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"language_id": {"window": [500, 600]}}', "no option 'language_id.window' to search over"),
        ('{"spam": [1, 2]}', "no option 'spam'"),
        ('{"language_id": [1, 2]}', "language_id is a group of options"),
        ('{"language_id.hop_ms": []}', "language_id.hop_ms: an empty list"),
        ('{"language_id.hop_ms": {"low": 200, "high": 100}}', "language_id.hop_ms: an empty range"),
        ('{"language_id.hop_ms": {"low": 100, "high": 100}}', "low must be below high, got 100 and 100"),
        ('{"language_id.hop_ms": {"low": 100, "high": 200, "step": 300}}', "step must be above 0 and fit"),
        ('{"language_id.hop_ms": {"low": 100, "high": 200, "step": 0.5}}', "step must be a whole number"),
        ('{"cache.size": {"low": 0, "high": 200, "log": true}}', "low above 0"),
        ('{"language_id.hop_ms": {"low": 100, "up": 200}}', "a range has low, high"),
        ('{"language_id.hop_ms": {"low": 100, "high": null, "step": 10}}', "must be a whole number"),
        ('{"language_id.hop_ms": {"low": 100, "high": 200, "log": 1}}', "log must be True or False"),
        ('{"language_id.hop_ms": {"low": 100.5, "high": 200}}', "must be a whole number, got 100.5"),
        ('{"language_id.hop_ms": ["100", "200"]}', "must be a whole number, got '100'"),
        ('{"language_id.confident_above": [0.5, 7]}', "language_id.confident_above must be .*, got 7"),
        ('{"cache.key": {"low": 1, "high": 2}}', "cache.key: needs a list of values"),
        ('{"compute.compiled": [true, 0]}', "must be True or False, got 0"),
        ('{"language_id": {"confident_above": [0.5, NaN]}}', "NaN is not JSON"),
        ('{"language_id": {"confident_above": [0.5, null]}}', "must be a number, got None"),
        ('{"language_id.hop_ms": 100}', "an option with several values"),
        ('{"model": ["base", "tiny"]}', "give them as arguments"),
        ('{"decode": [true, false]}', "no option 'decode'"),
        ("[1]", "is neither a file"),
        ("{", "is not JSON"),
    ],
)
def test_an_invalid_space_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Space.from_json(text)


def test_a_space_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    space = Space.from_json(str(tmp_path / "space.json"))
    assert space.options == {
        "cache.size": Range(1, 60),
        "cache.hash_precision": Choice((6, 2, 0)),
        "language_id.confident_above": Range(0.5, 0.95),
    }
    assert space.fixed == {"language_id.window_ms": 2000}


# --- the search -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "adaptive"])
def test_the_same_seed_makes_the_same_proposals_and_another_does_not(
    recordings: list[Recording], tmp_path: Path, alike: None, method: Any
) -> None:
    first, again, other = (
        [trial.values for trial in run(recordings[:1], tmp_path / name, method=method, seed=seed).trials]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first[:STARTUP] != other[:STARTUP]


@pytest.mark.parametrize("method", ["random", "adaptive"])
def test_a_repeated_search_computes_nothing_and_returns_the_same(
    recordings: list[Recording], tmp_path: Path, method: Any
) -> None:
    first = run(recordings, tmp_path, method=method)
    again = run(recordings, tmp_path, Untouchable, method=method)
    assert (first.found, first.ran) == (0, 24)
    assert (again.found, again.ran) == (24, 0)
    assert again.trials == first.trials
    assert len(read_rows(tmp_path)) == 24


@pytest.mark.parametrize("method", ["random", "adaptive"])
def test_more_trials_continue_a_search_that_was_stopped(
    recordings: list[Recording], tmp_path: Path, method: Any
) -> None:
    asked = 0

    def interrupted(config: TranscriberConfig) -> Wordy:
        nonlocal asked
        asked += 1
        if asked == 20:
            raise KeyboardInterrupt
        return Wordy(config)

    with pytest.raises(KeyboardInterrupt):
        run(recordings, tmp_path, interrupted, method=method)
    finished = run(recordings, tmp_path, method=method)
    assert (finished.found, finished.ran) == (19, 5)
    longer = run(recordings, tmp_path, method=method, trials=18)
    assert longer.trials[:12] == finished.trials
    assert (longer.found, longer.ran) == (24, 12)
    assert len({json.dumps(dict(trial.values)) for trial in longer.trials}) == 18


def test_an_adaptive_search_learns_where_few_words_are_wrong(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words_alone = dict.fromkeys(
        search_module.OBJECTIVES, search_module.OBJECTIVES["mixed_error_rate"]
    )  # the others are noise here
    monkeypatch.setattr(search_module, "OBJECTIVES", words_alone)
    learned, drawn = (
        [
            wrong_words(trial.values["cache.size"])
            for trial in run(recordings[:1], tmp_path, trials=24, method=method).trials
        ]
        for method in ("adaptive", "random")
    )
    assert np.mean(learned[STARTUP:]) < 0.6 * np.mean(drawn)


def wordies() -> Any:
    """What a worker loads, in place of a model."""
    return Wordy


def test_several_workers_run_the_same_trials(recordings: list[Recording], tmp_path: Path) -> None:
    alone = run(recordings, tmp_path / "a", method="random")
    there = tmp_path / "b"
    shared = run(
        recordings, there, method="random", executor=partial(local_processes, partial(task_worker, there, wordies), 2)
    )
    assert [trial.config for trial in shared.trials] == [trial.config for trial in alone.trials]
    errors = [[trial.objectives and trial.objectives[0] for trial in one.trials] for one in (alone, shared)]
    assert errors[0] == errors[1]


def test_objectives_are_pooled_over_the_recordings(recordings: list[Recording], tmp_path: Path) -> None:
    trial = run(recordings, tmp_path, trials=1).trials[0]
    rows = read_rows(tmp_path)
    wrong = wrong_words(trial.values["cache.size"])
    assert list(OBJECTIVES) == ["mixed_error_rate", "response_p95_s", "peak_rss_bytes"]
    # "hello world" and some more against two words, and against four of which two are left out.
    expected = (wrong + max(wrong, 2)) / 6
    assert trial.objectives == (
        pytest.approx(expected),
        max(row["response_p95_s"] for row in rows),
        max(row["peak_rss_bytes"] for row in rows),
    )


def test_a_trial_without_an_error_is_no_failure(recordings: list[Recording], tmp_path: Path) -> None:
    found = run(recordings[:1], tmp_path, space={"cache.hash_precision": [6, 2], "cache.size": 50})
    assert found.front[0].to_dict()["mixed_error_rate"] == 0.0
    assert found.failed == ()


def test_a_failed_trial_is_reported_and_the_search_continues(recordings: list[Recording], tmp_path: Path) -> None:
    said: list[str] = []
    found = run(recordings, tmp_path, Choosy, say=said.append)
    assert len(found.trials) == STARTUP + BATCH
    assert {trial.values["cache.hash_precision"] for trial in found.failed} == {0}
    assert found.failed[0].error == "r1: ValueError: precision 0 hurts"
    assert found.failed[0].to_dict()["mixed_error_rate"] is None
    assert not {trial.number for trial in found.failed} & {trial.number for trial in found.front}
    assert f"trial 12 of 12: {len(found.failed)} failed" in said[-1]
    still = run(recordings, tmp_path, Untouchable)
    assert still.trials == found.trials
    mended = run(recordings, tmp_path, retry_failed=True, trials=STARTUP)
    assert mended.failed == ()


def test_a_configuration_is_tried_once_and_a_small_space_ends_the_search(
    recordings: list[Recording], tmp_path: Path
) -> None:
    said: list[str] = []
    small = {"cache.size": [10, 20], "cache.hash_precision": [6, 2, 0]}
    for method in ("random", "adaptive"):
        found = run(recordings[:1], tmp_path / method, trials=50, space=small, method=method, say=said.append)
        assert len(found.trials) == len(read_rows(tmp_path / method)) == 6
        assert "the search ends before 50 trials" in said[-1]


def test_a_search_never_chooses_by_the_test_split(recordings: list[Recording], tmp_path: Path) -> None:
    tested = make_recording(tmp_path, "tested", "hello")
    with pytest.raises(ConfigurationError, match="1 of the recordings are of the split test"):
        run([*recordings, tested], tmp_path / "out", Untouchable)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"trials": 0}, {"method": "genetic"}])
def test_an_invalid_search_is_refused(recordings: list[Recording], tmp_path: Path, options: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one trial and a method of random, adaptive"):
        run(recordings, tmp_path, **options)


def test_a_search_without_text_is_refused(recordings: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="the runs have no mixed_error_rate"):
        run(recordings, tmp_path, shared={"decode": False})


def test_the_verbosity_of_optuna_is_restored_and_a_missing_optuna_named(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = optuna.logging.get_verbosity()
    run(recordings[:1], tmp_path, trials=1)
    assert optuna.logging.get_verbosity() == before
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"whisperlab\[search\]"):
        run(recordings[:1], tmp_path, trials=1)


# --- fronts and importances -----------------------------------------------------------------------------

points = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=25)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(mine <= theirs for mine, theirs in zip(a, b, strict=True))


@settings(deadline=None)
@given(points)
def test_no_member_of_a_front_is_dominated_and_all_others_are_by_a_member(every: list[Any]) -> None:
    kept = pareto_front(every)
    front = [point for point, on_it in zip(every, kept, strict=True) if on_it]
    assert front
    assert not any(dominates(a, b) for a in front for b in front)
    assert all(any(dominates(a, b) for a in front) for b, on_it in zip(every, kept, strict=True) if not on_it)


@settings(max_examples=30, deadline=None)
@given(points)
def test_the_front_is_the_one_optuna_finds(every: list[Any]) -> None:
    study = optuna.create_study(directions=["minimize"] * 3)
    study.add_trials([optuna.trial.create_trial(values=point) for point in every])
    assert {trial.number for trial in study.best_trials} == {n for n, on_it in enumerate(pareto_front(every)) if on_it}


def test_the_option_that_matters_comes_first_and_the_others_show_nothing() -> None:
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "key": [str(rng.choice(["a", "b"])) for _ in range(40)],
        "sure": [float(value) for value in rng.random(40)],
        "flag": [bool(value) for value in rng.random(40) < 0.5],
    }
    objective = [3 * sure + 0.3 * noise for sure, noise in zip(options["sure"], rng.normal(size=40), strict=True)]
    first, *others = importances(options, objective)
    assert (first.option, first.shown) == ("sure", True)
    assert first.share > 0.8
    assert not any(other.shown for other in others)


def test_few_trials_show_nothing_however_large_the_share() -> None:
    (only,) = importances({"a": [1, 2, 3]}, [1.0, 2.0, 3.0])
    assert only.share == pytest.approx(1.0)
    assert not only.shown
    (flat,) = importances({"a": [1, 2, 3]}, [1.0, 1.0, 1.0])
    assert (flat.share, flat.shown) == (0.0, False)


def test_chance_is_passed_by_chance_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    passed = [
        importances({"a": list(rng.integers(0, 3, 20).astype(float))}, list(rng.normal(size=20)))[0].shown
        for _ in range(200)
    ]
    assert 2 <= sum(passed) <= 22  # 10 expected; a binomial leaves these in fewer than 1 of 1,000 draws


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_best_of_many_by_chance_is_seldom_taken_for_better(n: int) -> None:
    rng = np.random.default_rng(2)
    found = [separation(rng.normal(1, 0.1, (9, n)), np.ones((9, n)), seed) for seed in range(100)]
    assert sum(one.shown for one in found) <= 5
    unsure = [one for one in found if not one.shown]
    assert all(one.needed is None or one.needed > n for one in unsure)


def test_a_difference_larger_than_noise_is_shown_and_needs_three_recordings() -> None:
    rng = np.random.default_rng(3)
    parts = np.arange(1, 10)[:, None] + rng.normal(0, 0.1, (9, 4))
    found = separation(parts, np.ones((9, 4)))
    assert found.shown
    assert found.value == pytest.approx(-4, abs=0.3)
    few = separation(parts[:, :2], np.ones((9, 2)))
    assert (few.shown, few.needed) == (False, 3)

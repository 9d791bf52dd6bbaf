"""Executors: the same rows whoever works, workers that die and are replaced, and drivers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from forks import forks
from plain_work import deadly, failing, slow
from test_sweep import DIGEST, GRID, Parrot, make_recording

from whisperlab.cli import main
from whisperlab.cli.console import Console
from whisperlab.cli.sweep import workers
from whisperlab.config import TranscriberConfig
from whisperlab.data.manifest import Recording
from whisperlab.evaluation.trace import read_trace
from whisperlab.experiments.executors import Lost, local_processes, ray_cluster
from whisperlab.experiments.results_store import Row, read_rows, write_store
from whisperlab.experiments.sweep import identity, load_maker, run_sweep, task_worker
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, SweepError

# What a row says that two runs of the same task may say differently.
PASSING = ("compute_s", "processor_s", "response_p95_s", "peak_rss_bytes", "created", "statistics")


def parrots() -> Callable[..., Parrot]:
    """What a worker loads, in place of a model."""
    return Parrot


def in_process(factory: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """An executor without workers."""
    work = factory()
    return ((task, work(task)) for task in tasks)


def lasting(row: Row) -> Row:
    kept = {name: value for name, value in row.items() if name not in PASSING}
    cache = {**row["statistics"]["encoder_cache"]}
    cache.pop("lookup_ms")
    timed = re.compile("real_time_factor|time_to_.*|.*_ca")
    kept["rates"] = {name: value for name, value in kept["rates"].items() if not timed.fullmatch(name)}
    kept["counts"] = {name: value for name, value in kept["counts"].items() if name not in ("compute", "streaming")}
    return {**kept, "cache": cache}


def outcome(out: Path) -> list[Row]:
    """Rows without what passes, in an order of their own, and traces that can be read."""
    rows = read_rows(out)
    assert all(read_trace(out / row["trace"]).segments for row in rows)
    return sorted(map(lasting, rows), key=lambda row: str(row["key"]))


class SlowParrot(Parrot):
    """Takes its time, so that it can be killed meanwhile."""

    def process(self, chunk: FloatArray) -> ProcessResult:
        time.sleep(0.03)
        return super().process(chunk)


def slow_parrots() -> Callable[..., Parrot]:
    return SlowParrot


def blind_parrots() -> Callable[..., Parrot]:
    """On a node where no file of ours can be read."""
    from whisperlab.data import manifest as module

    def unseen(path: object) -> FloatArray:
        raise FileNotFoundError(path)

    module.read_part = unseen
    return Parrot


def sweep(recordings: list[Recording], out: Path, executor: Any, **options: Any) -> Any:
    given = {"model_digest": DIGEST, "executor": executor, "progress": False, **options}
    return run_sweep(GRID.configurations(), recordings, out, **given)


def check_that_records_are_the_same(recordings: list[Recording], here: Path, there: Path, executor: Any) -> None:
    sweep(recordings, here, partial(in_process, partial(task_worker, here, parrots)))
    assert sweep(recordings, there, executor).ran == 12
    assert outcome(here) == outcome(there)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    return [make_recording(tmp_path, f"r{n}", "hello " * n) for n in range(1, 4)]


def test_records_are_the_same_whoever_worked(recordings: list[Recording], tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    alone = run_sweep(
        GRID.configurations(), recordings, here, model_digest=DIGEST, make_transcriber=Parrot, progress=False
    )
    shared = sweep(recordings, there, partial(local_processes, partial(task_worker, there, parrots), 2))
    assert (alone.ran, shared.ran) == (12, 12)
    assert outcome(here) == outcome(there)


def test_a_new_configuration_is_all_that_is_computed(recordings: list[Recording], tmp_path: Path) -> None:
    executor = partial(in_process, partial(task_worker, tmp_path, parrots))
    sweep(recordings, tmp_path, executor)
    more = [*GRID.configurations(), GRID.configurations()[0].replace({"cache.size": 7})]
    found = run_sweep(more, recordings, tmp_path, model_digest=DIGEST, executor=executor, progress=False)
    assert (found.planned, found.found, found.ran) == (15, 12, 3)


def test_a_sweep_has_one_who_works(recordings: list[Recording], tmp_path: Path) -> None:
    for options in ({}, {"make_transcriber": Parrot, "executor": partial(in_process, parrots)}):
        with pytest.raises(ConfigurationError, match="either make_transcriber or an executor"):
            run_sweep([TranscriberConfig()], recordings, tmp_path, model_digest=DIGEST, **options)
    with pytest.raises(ConfigurationError, match="at least one worker, got 0"):
        local_processes(parrots, 0, [])


# --- workers that die ---------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_its_task_done(tmp_path: Path) -> None:
    found: dict[int, Any] = dict(local_processes(partial(deadly, str(tmp_path)), 2, range(6)))
    lost = found.pop(4)
    assert isinstance(lost, Lost)
    assert lost.attempts == 3
    assert found == {task: 10 * task for task in range(6) if task != 4}


class DoomedParrot(Parrot):
    """Fails on precision 0, and kills its process on all others."""

    def process(self, chunk: FloatArray) -> ProcessResult:
        if self._config.cache.hash_precision == 0:
            raise ValueError("its own error")
        os.kill(os.getpid(), signal.SIGKILL)
        return super().process(chunk)


def doomed_parrots() -> Callable[..., Parrot]:
    return DoomedParrot


def test_resuming_runs_a_task_again_whose_process_died_and_none_that_failed(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperlab.experiments.executors.ATTEMPTS", 1)  # each takes seconds; three are counted above
    given: Any = [GRID.configurations()[:2], recordings[:1], tmp_path]
    doomed = partial(local_processes, partial(task_worker, tmp_path, doomed_parrots), 1)
    first = run_sweep(*given, model_digest=DIGEST, executor=doomed, progress=False)
    statuses = {row["config"]["cache"]["hash_precision"]: row["status"] for row in first.failed}
    assert statuses == {6: "died", 0: "failed"}
    whole = partial(in_process, partial(task_worker, tmp_path, parrots))
    second = run_sweep(*given, model_digest=DIGEST, executor=whole, progress=False)
    assert (second.ran, [row["status"] for row in second.failed]) == (1, ["failed"])


def test_workers_do_not_outlive_whoever_reads(tmp_path: Path) -> None:
    results = local_processes(partial(slow, 0.01), 2, range(100))
    pids = {next(results)[1] for _ in range(6)}
    results.close()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until, "workers are still there"
        time.sleep(0.02)


def _workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def _resource_tracker() -> list[int]:
    """The process of multiprocessing that removes what its processes leave behind."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for pid in children.split() if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("find", [_workers, _resource_tracker])
def test_processes_killed_at_any_moment_cost_nothing(
    recordings: list[Recording], tmp_path: Path, find: Callable[[], list[int]]
) -> None:
    """The test with the deadly work above, at moments that nobody chose."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    sweep(recordings, whole, partial(in_process, partial(task_worker, whole, parrots)))
    rng = random.Random(2)
    left, over = 20, threading.Event()

    def kill() -> None:
        nonlocal left
        while not over.wait(rng.uniform(0.05, 0.8)):
            if left and (found := find()):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    left -= 1

    killer = threading.Thread(target=kill)
    killer.start()
    rounds = 0
    while left or not rounds:  # a sweep whose tasks were unlucky three times is continued
        rounds += 1
        target = out / str(rounds)
        executor = partial(local_processes, partial(task_worker, target, slow_parrots), 2)
        while sweep(recordings, target, executor, retry_failed=True).failed:
            pass
        assert outcome(target) == outcome(whole)
    over.set()
    killer.join()


def test_work_that_cannot_be_made_stops_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such model"):
        list(local_processes(partial(failing, "no such model"), 2, [1, 2]))


# --- Ray ----------------------------------------------------------------------------------------------


NO_LOGS = {"include_log_monitor": False}  # no process at each node for what nobody reads


def head_node(tries: int = 3) -> Any:
    """Ray gives its processes 30 s to begin, which is too little on a busy machine."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 2, "no_monitor": True, **NO_LOGS}
    for left in reversed(range(tries)):
        try:
            return Cluster(initialize_head=True, head_node_args=arguments)
        except Exception:
            if not left:
                raise
    raise AssertionError("no try")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray node of two processors; Ray listens to the network, so it asks for a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # its workers import this module
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setattr("ray._private.node.Node.start_api_server", lambda node, **_: None)  # of the dashboard
        made = head_node()
        yield made
        made.shutdown()


@pytest.fixture
def two_nodes(cluster: Any) -> Iterator[Any]:
    """The same, and a second node."""
    node = cluster.add_node(num_cpus=1, **NO_LOGS)
    yield cluster
    cluster.remove_node(node)


@pytest.mark.slow
def test_two_ray_nodes_give_the_records_of_one_process(
    two_nodes: Any, recordings: list[Recording], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    executor = partial(ray_cluster, partial(task_worker, there, parrots), two_nodes.address, None)
    check_that_records_are_the_same(recordings, tmp_path / "here", there, executor)


@pytest.mark.slow  # the same with processes is part of every run
def test_a_ray_worker_that_dies_is_replaced_and_its_task_done(cluster: Any, tmp_path: Path) -> None:
    found: dict[int, Any] = dict(ray_cluster(partial(deadly, str(tmp_path)), cluster.address, 2, range(6)))
    assert isinstance(found.pop(4), Lost)
    assert found == {task: 10 * task for task in range(6) if task != 4}


@pytest.mark.slow
def test_ray_nodes_that_die_cost_nothing(cluster: Any, recordings: list[Recording], tmp_path: Path) -> None:
    """The test with the deadly work above, with whole nodes; one for each sweep."""
    whole = tmp_path / "whole"
    sweep(recordings, whole, partial(in_process, partial(task_worker, whole, parrots)))
    for number in range(5):
        doomed = cluster.add_node(num_cpus=1, **NO_LOGS)
        out = tmp_path / f"out{number}"
        dying = threading.Timer(
            random.Random(number).uniform(2, 6), cluster.remove_node, [doomed], {"allow_graceful": False}
        )
        dying.start()
        found = sweep(
            recordings, out, partial(ray_cluster, partial(task_worker, out, slow_parrots), cluster.address, 3)
        )
        dying.join()
        assert found.failed == ()
        assert outcome(out) == outcome(whole)


def test_work_that_cannot_be_made_on_a_node_stops_with_its_own_error(cluster: Any) -> None:
    """An error of the factory is not the death of a worker, which would be tried again and counted as lost."""
    with pytest.raises(ConfigurationError, match="no such model"):
        list(ray_cluster(partial(failing, "no such model"), cluster.address, 2, [1, 2]))


@pytest.mark.slow
@pytest.mark.model
def test_real_records_are_the_same_whoever_worked(cluster: Any, excerpt: Path, tmp_path: Path) -> None:
    """Whisper base on real speech, by the command line: stopped after a task, resumed on nodes and in processes."""
    grid = ["--hash-precisions", "6,0", "--cache-sizes", "10,50", "--languages", "en,es"]
    args = ["sweep", "--corpus", str(excerpt), *grid, "--out"]
    assert main([*args, str(tmp_path / "here")]) == 0
    for name, elsewhere in (("there", ["--ray", cluster.address]), ("processes", [])):
        shutil.copytree(tmp_path / "here", tmp_path / name)
        with write_store(tmp_path / name) as store:
            store.connection.execute("delete from results where id > 1")
            store.connection.commit()
        assert main([*args, str(tmp_path / name), *elsewhere, "--workers", "2", "--resume"]) == 0
        assert outcome(tmp_path / "here") == outcome(tmp_path / name)


@pytest.mark.parametrize("mode", ["token", pytest.param("disabled", marks=pytest.mark.slow)])
def test_who_has_no_token_is_not_let_into_a_cluster_that_asks_for_one(cluster: Any, tmp_path: Path, mode: str) -> None:
    code = f"""
        from plain_work import ConfigurationError, pids
        from whisperlab.experiments.executors import ray_cluster
        try:
            list(ray_cluster(pids, {cluster.address!r}, None, [1]))
        except ConfigurationError as error:
            print(error)
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**environment, "RAY_AUTH_MODE": mode, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"the Ray cluster at {cluster.address} refused this process" in ran.stdout
    assert "ray get-auth-token --generate" in ran.stdout


def test_no_cluster_here_is_told_and_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def none(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", none)
    with pytest.raises(ConfigurationError, match="`ray start --head` makes one, open to the network"):
        list(ray_cluster(parrots, "auto", None, [1]))


@pytest.mark.model
@pytest.mark.parametrize("what", ["weights", "version", "precision", "processor"])
def test_a_worker_with_another_model_version_or_processor_does_nothing(what: str) -> None:
    from whisperlab.model.weights import load_weights, model_digest

    ours = identity(model_digest(load_weights("base")), "cpu")
    load_maker("base", "cpu", ours)
    with pytest.raises(SweepError, match=f"worker and driver differ in {what}: .* and other"):
        load_maker("base", "cpu", {**ours, what: "other"})


def test_a_worker_is_told_who_drives() -> None:
    """By value: a default would be looked up in the worker, and be its own."""
    args = Namespace(ray="auto", workers=None, out=Path(), model="base", device="cpu")
    _, load = workers(args, cast("Any", None), DIGEST, Console(sys.stdout, sys.stderr, True))["executor"].args[0].args
    assert load.args == ("base", "cpu", identity(DIGEST, "cpu"))


def test_a_cluster_that_does_not_answer_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        list(ray_cluster(parrots, "127.0.0.1:1", None, [1]))


# --- drivers that are killed --------------------------------------------------------------------------


def drive(folder: str, how: str) -> None:
    """A sweep by one process, or with two more."""
    out = Path(folder) / "out"
    recordings = [make_recording(Path(folder), f"r{n}", "hello " * n) for n in range(1, 4)]
    factory = partial(task_worker, out, parrots)
    print("begun", flush=True)
    sweep(recordings, out, partial(in_process, factory) if how == "here" else partial(local_processes, factory, 2))


@pytest.mark.parametrize(
    "how,kills",
    [("here", 2), *(pytest.param(how, kills, marks=pytest.mark.slow) for how, kills in (("here", 50), ("there", 20)))],
    ids=["here", "here, often", "processes, often"],
)
def test_a_driver_killed_at_any_moment_loses_nothing(
    recordings: list[Recording], tmp_path: Path, how: str, kills: int
) -> None:
    sweep(recordings, tmp_path / "whole", partial(in_process, partial(task_worker, tmp_path / "whole", parrots)))
    rng = random.Random(1)
    with forks("test_executors") as drivers:
        for number in range(kills):
            pid = drivers.start("drive", str(tmp_path), how, log=tmp_path / f"log{number}", lines=1)
            time.sleep(rng.uniform(0.0, 0.6 if how == "here" else 6.0))
            os.kill(pid, signal.SIGKILL)
            drivers.wait(pid)
    sweep(recordings, tmp_path / "out", partial(in_process, partial(task_worker, tmp_path / "out", parrots)))
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")

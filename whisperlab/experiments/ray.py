"""Sweeps on a Ray cluster, with or without shared files."""

from __future__ import annotations

import gzip
import logging
import socket
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Generic

from whisperlab.experiments.executors import Lost, Result, Task, Work, run_on
from whisperlab.experiments.results_store import Row
from whisperlab.experiments.sweep import MakeTranscriber, run_task
from whisperlab.experiments.sweep import Task as SweepTask
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, brief
from whisperlab.util.files import write_atomic

_log = logging.getLogger(__name__)


class RayCluster(Generic[Task, Result]):
    """Actors of a Ray cluster, each with its own model; like `LocalProcesses`, on nodes that see the same files.

    Args:
        factory: importable by name on every node, or `functools.partial` of such a function.
        address: ``HOST:PORT`` of a running cluster, or ``auto`` for that of this machine.
        n_workers: actors; None is one per processor of the cluster.
        payload: the data of a task that nodes do not have, with a name; it is sent through the object store once per
            name and is the second argument of the work.
        say: is called with the address and the size of the cluster.
    """

    def __init__(
        self,
        factory: Callable[[], Callable[..., Result]],
        address: str = "auto",
        n_workers: int | None = None,
        *,
        payload: Callable[[Task], tuple[str, Callable[[], object]]] | None = None,
        say: Callable[[str], object] = _log.info,
    ) -> None:
        self._factory, self._address, self._n_workers = factory, address, n_workers
        self._payload, self._say = payload, say

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result | Lost], None, None]:
        try:
            ray = import_module("ray")
        except ImportError as error:
            raise MissingDependencyError("a cluster needs ray: pip install 'whisperlab[ray]'") from error
        started, dashboard = _join(ray, self._address)
        alive = sum(node["Alive"] for node in ray.nodes())
        processors = int(ray.cluster_resources().get("CPU", 0))
        head = ray.get_runtime_context().gcs_address
        look = f"http://{dashboard}" if dashboard else f"`ray status --address {head}` (ray[default] has a dashboard)"
        self._say(f"Ray cluster at {head}: {alive} nodes, {processors} processors; {look} shows their work")
        actor = ray.remote(num_cpus=1)(_Actor)
        n_workers = self._n_workers or max(1, processors)
        sent: dict[str, Any] = {}

        def packed(task: Task) -> list[object]:
            if self._payload is None:
                return []
            name, thing = self._payload(task)
            if name not in sent:
                sent[name] = ray.put(thing())
            return [sent[name]]

        def open_worker() -> _RayWorker[Task, Result]:
            return _RayWorker(ray, actor.remote(self._factory), packed)

        try:
            workers = min(n_workers, len(tasks))
            yield from run_on(open_worker, workers, tasks, ray.exceptions.RayActorError, partial(_has_room, ray))
        finally:
            if started:
                ray.shutdown()


def _has_room(ray: ModuleType, timeout_s: float = 5.0) -> bool:
    """Whether the cluster has a free processor; that of a dead worker is released after a moment."""
    until = time.monotonic() + timeout_s
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


class _RayWorker(Generic[Task, Result]):
    def __init__(self, ray: ModuleType, actor: Any, packed: Callable[[Task], list[object]]) -> None:
        self._ray, self._actor, self._packed = ray, actor, packed

    def submit(self, task: Task) -> Future[Result]:
        done: Future[Result] = self._actor.do.remote(task, *self._packed(task)).future()
        return done

    def close(self) -> None:
        self._ray.kill(self._actor)


class _Actor:
    def __init__(self, factory: Callable[[], Work[Any, Any]]) -> None:
        self._work = factory()

    def do(self, task: object, *payload: object) -> object:
        return self._work(task, *payload)


_ADVICE = (
    "start clusters and clients with RAY_AUTH_MODE=token in the environment and the token that "
    "`ray get-auth-token --generate` writes: then only clients with that token can connect"
)


def _join(ray: ModuleType, address: str) -> tuple[bool, str]:
    """Connect to a cluster; returns whether this process has to disconnect, and the address of the dashboard, if any.

    No cluster is started here: its ports would be open to the network, and accept any code.
    """
    if ray.is_initialized():
        return False, ""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would retry for minutes, and then exit
            socket.create_connection((host, int(port)), 5).close()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        return True, ray.init(address=address, log_to_driver=False).dashboard_url or ""
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            reason = "no Ray cluster runs on this machine; `ray start --head` makes one, open to the network"
        else:
            where = "of this machine" if address == "auto" else f"at {address}"
            reason = f"the Ray cluster {where} refused this process: {brief(error)}"
        raise ConfigurationError(f"{reason}; {_ADVICE}") from error


class PayloadCluster:
    """A Ray cluster whose nodes do not see our files: audio is sent with the tasks, traces return with the rows.

    Weights are taken from the cache of each node. ``options`` are those of `RayCluster`.
    """

    def __init__(self, out: Path, load: Callable[[], MakeTranscriber], address: str, **options: Any) -> None:
        self._out = out
        self._cluster: RayCluster[SweepTask, tuple[Row, bytes | None]] = RayCluster(
            partial(_payload_worker, load),
            address,
            payload=lambda task: (task.audio_sha256, task.recording.audio),
            **options,
        )

    def run(self, tasks: Sequence[SweepTask]) -> Generator[tuple[SweepTask, Row | Lost], None, None]:
        with closing(self._cluster.run(tasks)) as results:
            for task, result in results:
                if isinstance(result, Lost):
                    yield task, result
                    continue
                row, trace = result
                if trace is not None:
                    write_atomic(self._out / str(row["trace"]), gzip.decompress(trace))
                yield task, row


def _payload_worker(load: Callable[[], MakeTranscriber]) -> Callable[[SweepTask, FloatArray], tuple[Row, bytes | None]]:
    """Work that returns the row, and the trace as compressed bytes."""
    make_transcriber = load()

    def work(task: SweepTask, audio: FloatArray) -> tuple[Row, bytes | None]:
        with TemporaryDirectory(prefix="whisperlab-") as folder:
            row = run_task(task, Path(folder), make_transcriber, audio=audio)
            return row, gzip.compress((Path(folder) / row["trace"]).read_bytes()) if row["trace"] else None

    return work

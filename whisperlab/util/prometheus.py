"""Export of one or several streams to Prometheus: labels, merging of metric families, the scrape endpoint.

A `StreamExporter` is a ``prometheus_client`` collector for one stream. When several are exported together, each
metric name appears once with the samples of all streams, and the label ``stream`` distinguishes the streams.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

Source: TypeAlias = "Callable[[], Iterable[Metric]]"  # a bound method


class StreamExporter:
    """The metrics of one stream as a ``prometheus_client`` collector; a subclass yields them in `own_families`.

    ``stream`` is the value of the label ``stream`` and may be set later. Several streams without a name that are
    exported together are numbered.
    """

    __slots__ = ("__weakref__", "_sources", "stream")

    def __init__(self, stream: str | None = None) -> None:
        check_type("stream", stream, str | None)
        self.stream = stream
        self._sources: dict[str, weakref.WeakMethod[Source]] = {}

    def own_families(self) -> Iterator[Metric]:
        """The metric families of the object itself."""
        raise NotImplementedError

    def attach(self, name: str, source: Source) -> None:
        """Export the families of another object's method as part of this stream; replaces the source of that name.

        Only a weak reference to the method's object is kept.
        """
        self._sources[name] = weakref.WeakMethod(source)

    def families(self, apart: Sequence[object] = ()) -> Iterator[Metric]:
        """Own families, then those of the attached sources whose objects are not in ``apart``."""
        yield from self.own_families()
        for owner, source in self._methods():
            if not any(owner is other for other in apart):
                yield from source()

    def source_ids(self) -> set[int]:
        """The ``id`` of every object with an attached method."""
        return {id(owner) for owner, _ in self._methods()}

    def describe(self) -> list[Metric]:
        """The names that a ``prometheus_client`` registry reserves; only the first stream in it reserves any."""
        beside = _collectors_of(sys._getframe(1))
        return [] if any(isinstance(each, StreamExporter) for each in beside) else [*self.own_families()]

    def collect(self) -> list[Metric]:
        """The families for a ``prometheus_client`` registry, computed at the time of the scrape.

        A registry may export a name only once, so the first stream in it answers for all streams.
        """
        beside = _collectors_of(sys._getframe(1))
        streams = [each for each in beside if isinstance(each, StreamExporter)]
        if self not in streams:
            return merged_families([self])
        return merged_families(streams, apart=beside) if streams[0] is self else []

    def export_prometheus(self, *also: Collector) -> str:
        """All metrics in Prometheus' text format, in seconds, with those of other collectors (a second stream)."""
        from prometheus_client import generate_latest

        return generate_latest(_Joined((self, *also)).registry()).decode()

    def serve(self, port: int, host: str = "127.0.0.1", also: Sequence[Collector] = ()) -> MetricsServer:
        """Serve the metrics over HTTP from a background thread; port 0 takes any free port.

        The default host is reachable from this machine only. Raises ``ConfigurationError`` when the address is in
        use, or when two streams have the same name.
        """
        from prometheus_client import start_http_server

        check_type("port", port, int)
        check_type("host", host, str)
        exported = _Joined((self, *also))
        exported.collect()  # raises here what would otherwise make every scrape fail
        try:
            server, thread = start_http_server(port, addr=host, registry=exported.registry())
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error}") from error
        return MetricsServer(host, server.server_port, server, thread)

    def _methods(self) -> list[tuple[object, Source]]:
        methods = [find() for find in list(self._sources.values())]
        return [(getattr(method, "__self__", None), method) for method in methods if method]


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running scrape endpoint, ``http://host:port/metrics``. It ends with `close` or with the program."""

    host: str
    port: int
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class _Joined:
    """Several collectors as one."""

    collectors: Sequence[Collector | StreamExporter]

    def collect(self) -> list[Metric]:
        return merged_families(self.collectors)

    def registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry


def merged_families(collectors: Iterable[Collector | StreamExporter], apart: Sequence[object] = ()) -> list[Metric]:
    """The families of several collectors, each name once with the samples of all.

    A collector with a ``metrics`` attribute (a feed) stands for that stream. Raises ``ConfigurationError`` when two
    streams have the same name, or two collectors the same sample.
    """
    from prometheus_client.core import Metric

    owners: dict[int, Collector | StreamExporter] = {}
    for each in collectors:
        stream = getattr(each, "metrics", None)
        owner = stream if isinstance(stream, StreamExporter) else each
        owners[id(owner)] = owner
    streams = [owner for owner in owners.values() if isinstance(owner, StreamExporter)]
    labels = _labels(streams)
    attached = {key for stream in streams for key in stream.source_ids()}
    found: dict[str, Metric] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for key, owner in owners.items():
        if key in attached:
            continue
        for family in owner.families(apart) if isinstance(owner, StreamExporter) else owner.collect():
            joined = found.setdefault(family.name, Metric(family.name, family.documentation, family.type, family.unit))
            for sample in family.samples:
                sample = sample._replace(labels={**labels.get(key, {}), **sample.labels})
                identity = sample.name, frozenset(sample.labels.items())
                if identity in seen or joined.type != family.type:
                    raise ConfigurationError(
                        f"{sample.name} {sample.labels} is exported twice: give each stream a name "
                        "(PerformanceMetrics(stream=...))"
                    )
                seen.add(identity)
                joined.samples.append(sample)
    return list(found.values())


def _labels(streams: Sequence[StreamExporter]) -> dict[int, Mapping[str, str]]:
    """The label of each stream: its name, or its number when several have no name."""
    names = Counter(each.stream for each in streams if each.stream)
    if twice := [name for name, n in names.items() if n > 1]:
        raise ConfigurationError(f"two streams on one endpoint have the name {shown(twice[0])}: give each its own")
    unnamed = [each for each in streams if not each.stream]
    numbers = {id(each): str(number) for number, each in enumerate(unnamed, 1) if len(unnamed) > 1}
    return {id(each): {"stream": name} for each in streams if (name := each.stream or numbers.get(id(each)))}


def _collectors_of(caller: FrameType) -> Sequence[object]:
    """The collectors of the calling ``prometheus_client`` registry, which has no public list; empty for others."""
    caller_self = caller.f_locals.get("self")
    registry = getattr(caller_self, "_registry", caller_self)
    return list(getattr(registry, "_collector_to_names", ()))

"""Export of streams to Prometheus; several are joined to one family per name, with the label ``stream``."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import check_type, shown

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from whisperlab.util.metrics_server import MetricsServer

Source: TypeAlias = "Callable[[], Iterable[Metric]]"  # a bound method


class StreamExporter:
    """The metrics of one stream as a ``prometheus_client`` collector; a subclass yields them in `own_families`."""

    __slots__ = ("__weakref__", "_sources", "stream")

    def __init__(self, stream: str | None = None) -> None:
        check_type("stream", stream, str | None)
        # Value of the label ``stream``. Streams without one that are exported together get numbers.
        self.stream = stream
        self._sources: dict[str, weakref.WeakMethod[Source]] = {}

    def own_families(self) -> "Iterator[Metric]":
        raise NotImplementedError

    def attach(self, name: str, source: Source) -> None:
        """Export the families of another object's method, kept by a weak reference, as the source of that name."""
        self._sources[name] = weakref.WeakMethod(source)

    def families(self) -> "Iterator[Metric]":
        """Its own families and those of the attached objects that still exist, without the label ``stream``."""
        yield from self.own_families()
        for source in [find() for find in list(self._sources.values())]:
            yield from source() if source else ()

    def collect(self) -> "list[Metric]":
        """For a ``prometheus_client`` registry. Several streams in one registry: register one `Joined` of them."""
        return Joined((self,)).collect()

    def export_prometheus(self, *also: "Collector") -> str:
        """All metrics in Prometheus' text format, in seconds, with those of other collectors (a second stream)."""
        from prometheus_client import generate_latest

        return generate_latest(Joined((self, *also)).registry()).decode()

    def serve(self, port: int, host: str = "127.0.0.1", also: "Sequence[Collector]" = ()) -> "MetricsServer":
        """Serve over HTTP from a background thread (port 0: any free); ConfigurationError if the address is in use."""
        from whisperlab.util.metrics_server import MetricsServer

        check_type("port", port, int)
        check_type("host", host, str)
        exported = Joined((self, *also))
        exported.collect()  # raises here what would otherwise make every scrape fail
        try:
            return MetricsServer(host, port, exported.registry())
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve metrics on {host}:{port}: {error}") from error


@dataclass(frozen=True, slots=True)
class Joined:
    """Several collectors as one, for a registry, which takes each name once."""

    collectors: "Sequence[Collector | StreamExporter]"

    def registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> "list[Metric]":
        """The families of all collectors (of a feed: its ``metrics``), each name once; raises for equal samples."""
        from prometheus_client.core import Metric

        streams = ((getattr(each, "metrics", None), each) for each in self.collectors)
        given = (stream if isinstance(stream, StreamExporter) else each for stream, each in streams)
        owners = list({id(owner): owner for owner in given}.values())
        labels = _labels([owner for owner in owners if isinstance(owner, StreamExporter)])
        found: dict[str, Metric] = {}
        seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        for owner in owners:
            for family in owner.families() if isinstance(owner, StreamExporter) else owner.collect():
                fresh = Metric(family.name, family.documentation, family.type, family.unit)
                joined = found.setdefault(family.name, fresh)
                for sample in family.samples:
                    sample = sample._replace(labels={**labels.get(id(owner), {}), **sample.labels})
                    identity = sample.name, frozenset(sample.labels.items())
                    if identity in seen or joined.type != family.type:
                        advice = "give each stream a name (PerformanceMetrics(stream=...))"
                        raise ConfigurationError(f"{sample.name} {sample.labels} is exported twice: {advice}")
                    seen.add(identity)
                    joined.samples.append(sample)
        return list(found.values())


def _labels(streams: Sequence[StreamExporter]) -> dict[int, dict[str, str]]:
    """The label of each stream: its name, or its number when several have no name."""
    names = Counter(each.stream for each in streams if each.stream)
    if twice := [name for name, n in names.items() if n > 1]:
        raise ConfigurationError(f"two streams on one endpoint have the name {shown(twice[0])}: give each its own")
    unnamed = [each for each in streams if not each.stream]
    numbers = {id(each): str(number) for number, each in enumerate(unnamed, 1) if len(unnamed) > 1}
    return {id(each): {"stream": name} for each in streams if (name := each.stream or numbers.get(id(each)))}

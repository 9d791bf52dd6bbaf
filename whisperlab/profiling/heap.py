"""What the heap holds, by memray: every allocation, torch's and numpy's too, with the Python lines that made it.

The heap is not resident memory: pages that nothing was written to are on the heap only, and what the allocator keeps of
freed blocks is resident only. Files mapped into memory count in full though the system may drop them, so they stand
apart here. memray's reports are no documented interface: this is the only place that uses them.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from whisperlab.profiling.workload import Workload, short_place
from whisperlab.util.errors import MissingDependencyError

TOP = 20
MOMENTS = 400  # points of the course of memory that are kept
_MIB = 2**20
_OURS = "whisperlab"

Moment = tuple[float, int, int]  # seconds since the start, bytes resident, bytes on the heap


@dataclass(slots=True, frozen=True)
class Site:
    """Bytes that one line of code had allocated, in how many allocations, for which part of the pipeline."""

    place: str
    function: str
    stage: str
    bytes: int
    blocks: int


@dataclass(slots=True, frozen=True)
class Heap:
    """Bytes on the heap, made while the model was loaded and the recording streamed.

    ``peak`` leaves out ``mapped``, the files that lay in memory at the peak. ``stages`` are bytes by part of the
    pipeline at the peak, ``top`` the lines that held most then, ``kept`` those that held most at the end. ``page`` is
    memray's flame graph of the peak.
    """

    peak: int
    mapped: int
    allocations: int
    stages: dict[str, int]
    top: tuple[Site, ...]
    kept: tuple[Site, ...]
    course: tuple[Moment, ...]
    page: str = field(repr=False)

    def describe(self) -> str:
        """The figures for a person."""
        stages = "\n".join(f"  {size / _MIB:9.1f} MiB  {stage}" for stage, size in self.stages.items())
        lines = "\n".join(
            f"  {site.bytes / _MIB:9.1f} MiB  {site.place} {site.function}" for site in self.top[:10]
        )
        return (
            f"heap (memray, since before the model was loaded; {self.allocations:,} allocations)\n"
            f"  {self.peak / _MIB:9.1f} MiB at the peak, and {self.mapped / _MIB:.1f} MiB of mapped files; by part\n"
            f"{stages}\n  by line\n{lines}"
        )


def measure(workload: Workload) -> Heap:
    """Load the transcriber and stream the recording under memray; call it in a fresh process."""
    kept: list[object] = []  # so that the end is seen with the transcriber still there

    def run() -> None:
        transcriber, audio = workload.load()
        kept.append(transcriber)
        workload.feed(transcriber, audio)

    workload.import_libraries()
    return traced(run)


def traced(run: Callable[[], object]) -> Heap:
    """What a call puts on the heap. Only one can be traced at a time in a process."""
    try:
        from memray import FileDestination, FileReader, Tracker
    except ImportError as error:
        raise MissingDependencyError("the heap needs memray: pip install 'whisperlab[profile]'") from error
    with TemporaryDirectory(prefix="whisperlab-heap-") as folder:
        file = Path(folder) / "heap.bin"
        with Tracker(destination=FileDestination(file)):
            run()
        reader = FileReader(file)
        try:
            return _read(reader)
        finally:
            reader.close()


def _read(reader: Any) -> Heap:
    held = list(reader.get_high_watermark_allocation_records(merge_threads=True))
    mapped = sum(record.size for record in held if _is_mapped_file(record))
    inside = [record for record in held if not _is_mapped_file(record)]
    stages: dict[str, int] = defaultdict(int)
    for site in _sites(inside):
        stages[site.stage] += site.bytes
    ranked = dict(sorted(stages.items(), key=lambda stage: -stage[1]))
    left = [r for r in reader.get_leaked_allocation_records(merge_threads=True) if not _is_mapped_file(r)]
    return Heap(
        peak=sum(record.size for record in inside),
        mapped=mapped,
        allocations=reader.metadata.total_allocations,
        stages=ranked,
        top=tuple(_sites(inside)[:TOP]),
        kept=tuple(_sites(left)[:TOP]),
        course=_course(list(reader.get_memory_snapshots())),
        page=_flame_graph(reader, held),
    )


def _is_mapped_file(record: Any) -> bool:
    """Whether an allocation is the mapping of a checkpoint: an mmap below torch's reader of files."""
    from memray import AllocatorType

    if record.allocator != AllocatorType.MMAP:
        return False
    return any(function == "load" and "torch" in file for function, file, _ in record.stack_trace())


def _sites(records: Iterable[Any]) -> list[Site]:
    """Records added up by the line nearest to the allocation, the greatest first."""
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        stack = record.stack_trace()
        function, file, line = stack[0] if stack else ("", "native code", 0)
        key = short_place(file, line), function, _stage(stack)
        sums[key][0] += record.size
        sums[key][1] += record.n_allocations
    found = [Site(*key, size, blocks) for key, (size, blocks) in sums.items()]
    return sorted(found, key=lambda site: -site.bytes)


def _stage(stack: Sequence[tuple[str, str, int]]) -> str:
    """The part of the pipeline an allocation was made for: the module of ours that is nearest to it."""
    for _, file, _ in stack:
        parts = Path(file).parts
        if _OURS in parts and "profiling" not in parts:
            return Path(parts[-1]).stem
    return "libraries"


def _course(snapshots: Sequence[Any]) -> tuple[Moment, ...]:
    """Memory over time, thinned out, its highest point kept."""
    if not snapshots:
        return ()
    start, step = snapshots[0].time, -(-len(snapshots) // MOMENTS)
    kept = [
        max(snapshots[at : at + step], key=lambda shot: shot.heap) for at in range(0, len(snapshots), step)
    ]
    return tuple(((shot.time - start) / 1000, shot.rss, shot.heap) for shot in kept)


def _flame_graph(reader: Any, records: Sequence[Any]) -> str:
    """memray's own page, with all it needs inside."""
    from memray.reporters.flamegraph import FlameGraphReporter

    page = io.StringIO()
    shots = list(reader.get_memory_snapshots())
    reporter = FlameGraphReporter.from_snapshot(records, memory_records=shots, native_traces=False)
    reporter.render(
        page,
        metadata=reader.metadata,
        show_memory_leaks=False,
        merge_threads=True,
        inverted=False,
        no_web=True,
    )
    return page.getvalue()

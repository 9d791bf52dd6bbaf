"""Heap memory, by memray: every allocation, including those of torch and numpy, with its line of Python code.

The heap differs from resident memory: unwritten pages are on the heap only, and freed blocks that the allocator keeps
are resident only. Mapped files count in full although the system may drop their pages, so they are listed separately.
memray's reporters are not a documented interface; only this module uses them.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from whisperlab.profiling.records import Heap, Moment, Site
from whisperlab.profiling.workload import Workload, short_place
from whisperlab.util.errors import MissingDependencyError

if TYPE_CHECKING:
    from memray import AllocationRecord, FileReader, MemorySnapshot

TOP = 20
MOMENTS = 400  # points kept of memory over time


def measure(workload: Workload) -> Heap:
    """Load the transcriber and stream the recording under memray; call it in a fresh process."""
    kept: list[object] = []  # keeps the transcriber alive until the end

    def run() -> None:
        transcriber, audio = workload.load()
        kept.append(transcriber)
        workload.feed(transcriber, audio)

    workload.import_libraries()
    return traced(run)


def traced(run: Callable[[], object]) -> Heap:
    """Heap use of a call. memray traces only one call at a time in a process."""
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


def _read(reader: FileReader) -> Heap:
    held = list(reader.get_high_watermark_allocation_records(merge_threads=True))
    mapped = sum(record.size for record in held if _is_mapped_file(record))
    inside = [record for record in held if not _is_mapped_file(record)]
    sites, stages = _sites(inside), Counter[str]()
    for site in sites:
        stages[site.stage] += site.bytes
    left = [r for r in reader.get_leaked_allocation_records(merge_threads=True) if not _is_mapped_file(r)]
    return Heap(
        peak=sum(record.size for record in inside),
        mapped=mapped,
        allocations=reader.metadata.total_allocations,
        stages=dict(stages.most_common()),
        top=tuple(sites[:TOP]),
        kept=tuple(_sites(left)[:TOP]),
        course=_course(list(reader.get_memory_snapshots())),
        page=_flame_graph(reader, held),
    )


def _is_mapped_file(record: AllocationRecord) -> bool:
    """Whether an allocation is a mapped checkpoint: an mmap below torch's file reader."""
    from memray import AllocatorType

    if record.allocator != AllocatorType.MMAP:
        return False
    return any(function == "load" and "torch" in file for function, file, _ in record.stack_trace())


def _sites(records: Iterable[AllocationRecord]) -> list[Site]:
    """Records summed by the line nearest to the allocation, in descending order of size."""
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
    """The part of the pipeline that an allocation belongs to: the nearest module of whisperlab in the stack."""
    for _, file, _ in stack:
        parts = Path(file).parts
        if "whisperlab" in parts and "profiling" not in parts:
            return Path(parts[-1]).stem
    return "libraries"


def _course(snapshots: Sequence[MemorySnapshot]) -> tuple[Moment, ...]:
    """Memory over time, thinned to `MOMENTS` points; every point is the highest of its interval."""
    if not snapshots:
        return ()
    start, step = snapshots[0].time, -(-len(snapshots) // MOMENTS)
    kept = [max(snapshots[at : at + step], key=lambda shot: shot.heap) for at in range(0, len(snapshots), step)]
    return tuple(((shot.time - start) / 1000, shot.rss, shot.heap) for shot in kept)


def _flame_graph(reader: FileReader, records: Sequence[AllocationRecord]) -> str:
    """memray's own page, self-contained."""
    from memray.reporters.flamegraph import FlameGraphReporter

    page = io.StringIO()
    shots = list(reader.get_memory_snapshots())
    reporter = FlameGraphReporter.from_snapshot(records, memory_records=shots, native_traces=False)
    reporter.render(
        page, metadata=reader.metadata, show_memory_leaks=False, merge_threads=True, inverted=False, no_web=True
    )
    return page.getvalue()

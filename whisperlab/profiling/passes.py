"""The passes of a profile, one function each: call them in a fresh process (`whisperlab.profiling.workload`).

Passes are never combined: profilers disturb each other and the clock. Latency is measured without a profiler.
"""

import cProfile
import gc
import gzip
import io
import linecache
import pstats
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from whisperlab.profiling import records
from whisperlab.profiling.workload import Workload
from whisperlab.util.errors import ConfigurationError, needs
from whisperlab.util.line_profile import MARKED
from whisperlab.util.process import process_memory, reset_peak_rss

if TYPE_CHECKING:
    from memray import AllocationRecord, FileReader

TOP = 20  # functions, operators, and lines of the heap
TOP_LINES = 10  # of Python memory
MOMENTS = 400  # points kept of memory over time
INTERVAL_S = 0.001  # between two samples of the call tree
NARROW = 100  # maximum characters in a line of the tree
SMALL = 64 * 1024  # bytes; attributes of a transcriber with less are summed in one entry
_CLOSED = (str, bytes, int, float, complex, bool, type, ModuleType, FunctionType, BuiltinFunctionType)


def memory(workload: Workload) -> records.ResidentMemory:
    """Resident memory as the system counts it: the figure to quote. The growth includes torch's own buffers.

    VmHWM is reset after the model is loaded: ``ru_maxrss`` would be inherited from the parent and can never fall.
    """
    start = process_memory()["VmRSS"]
    workload.import_libraries()
    gc.collect()
    libraries = process_memory()
    transcriber, audio = workload.load()
    gc.collect()
    loaded = process_memory()["VmRSS"]
    reset_peak_rss()
    workload.feed(transcriber, audio)
    end = process_memory()
    anonymous, file_backed = (end[field] - libraries[field] for field in ("RssAnon", "RssFile"))
    held = owned(transcriber_parts(transcriber))
    return records.ResidentMemory(start, libraries["VmRSS"], loaded, end["VmHWM"], anonymous, file_backed, held)


def transcriber_parts(transcriber: Any) -> object:
    """The parts of our transcriber that hold memory; `owned` counts shared memory for the first of them."""
    if all(kind.__module__ != "whisperlab.transcriber" for kind in type(transcriber).__mro__):  # without importing it
        return transcriber
    first = {name: getattr(transcriber, name) for name in ("vad_audio_buffer", "audio_buffer_for_lid", "encoder_cache")}
    parts = transcriber.parts
    encoders = {"encoder": parts.text_encoder, "language_id_encoder": parts.lid.encoder}
    rest = {"text_decoder": parts.decoder, "metrics": transcriber.metrics, "stream": transcriber}
    return {**first, **encoders, **rest}


def owned(holder: object) -> dict[str, int]:
    """Bytes of the tensors and arrays below each attribute (or key), in descending order; shared memory counts once.

    Weights packed for a kernel count with the size of their numbers, without additions of the kernel.
    """
    seen: set[int] = set()
    inside = holder if isinstance(holder, Mapping) else vars(holder)
    sizes = {str(name).lstrip("_"): _size(value, seen) for name, value in inside.items()}
    kept = {name: size for name, size in sorted(sizes.items(), key=lambda entry: -entry[1]) if size >= SMALL}
    small = sum(sizes.values()) - sum(kept.values())
    return kept | ({"the rest": small} if small else {})


def _size(value: object, seen: set[int]) -> int:
    waiting, total = [value], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, _CLOSED) or id(value) in seen:
            continue
        seen.add(id(value))
        found = _bytes(value, seen)
        total += found or 0
        if found is None:
            waiting += gc.get_referents(value)
    return total


def _bytes(value: object, seen: set[int]) -> int | None:
    """Bytes of a tensor or array, 0 if its memory is in ``seen``; None for other objects."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        place, size = value.__array_interface__["data"][0], value.nbytes
    elif "torch" not in sys.modules:
        return None
    else:
        import torch

        from whisperlab.model.linear import packed_bytes

        if isinstance(value, torch.ScriptObject):
            return packed_bytes(value)
        if not isinstance(value, torch.Tensor):
            return None
        if value.is_mkldnn:
            return value.numel() * value.element_size()
        place, size = value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
    if place in seen:
        return 0
    seen.add(place)
    return int(size)


def heap(workload: Workload) -> records.Heap:
    """Every heap allocation, including those of torch and numpy, with its line of Python code, by memray.

    Mapped files count in full although the system may drop their pages, so they are listed separately.
    """
    kept: list[object] = []  # keeps the transcriber alive until the end

    def run() -> None:
        transcriber, audio = workload.load()
        kept.append(transcriber)
        workload.feed(transcriber, audio)

    workload.import_libraries()
    return traced(run)


def traced(run: Callable[[], object]) -> records.Heap:
    """Heap use of a call. memray traces only one call at a time in a process."""
    with needs("the heap needs memray", "profile"):
        from memray import FileDestination, FileReader, Tracker
    with TemporaryDirectory(prefix="whisperlab-heap-") as folder:
        file = Path(folder) / "heap.bin"
        with Tracker(destination=FileDestination(file)):
            run()
        with closing(FileReader(file)) as reader:
            return _read(reader)


def _read(reader: "FileReader") -> records.Heap:
    """memray's reporters are not a documented interface; only this function uses them."""
    from memray.reporters.flamegraph import FlameGraphReporter

    held = list(reader.get_high_watermark_allocation_records(merge_threads=True))
    inside = [record for record in held if not _is_mapped_file(record)]
    left = [r for r in reader.get_leaked_allocation_records(merge_threads=True) if not _is_mapped_file(r)]
    shots, page = list(reader.get_memory_snapshots()), io.StringIO()
    sites, stages = _sites(inside), Counter[str]()
    for site in sites:
        stages[site.stage] += site.bytes
    FlameGraphReporter.from_snapshot(held, memory_records=shots, native_traces=False).render(
        page, metadata=reader.metadata, show_memory_leaks=False, merge_threads=True, inverted=False, no_web=True
    )
    step = max(-(-len(shots) // MOMENTS), 1)  # every point is the highest of its interval
    course = [max(shots[at : at + step], key=lambda shot: shot.heap) for at in range(0, len(shots), step)]
    return records.Heap(
        peak=sum(record.size for record in inside),
        mapped=sum(record.size for record in held if _is_mapped_file(record)),
        allocations=reader.metadata.total_allocations,
        stages=dict(stages.most_common()),
        top=tuple(sites[:TOP]),
        kept=tuple(_sites(left)[:TOP]),
        course=tuple(((shot.time - shots[0].time) / 1000, shot.rss, shot.heap) for shot in course),
        page=page.getvalue(),
    )


def _is_mapped_file(record: "AllocationRecord") -> bool:
    """Whether an allocation is a mapped checkpoint: an mmap below torch's file reader."""
    from memray import AllocatorType

    stack = record.stack_trace() if record.allocator == AllocatorType.MMAP else ()
    return any(function == "load" and "torch" in file for function, file, _ in stack)


def _sites(allocations: "Iterable[AllocationRecord]") -> list[records.Site]:
    """Records summed by the line nearest to the allocation, in descending order of size."""
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in allocations:
        stack = record.stack_trace()
        function, file, line = stack[0] if stack else ("", "native code", 0)
        paths = (Path(file) for _, file, _ in stack)
        ours = (path.stem for path in paths if "whisperlab" in path.parts and "profiling" not in path.parts)
        total = sums[short_place(file, line), function, next(ours, "libraries")]  # the nearest module of whisperlab
        total[0] += record.size
        total[1] += record.n_allocations
    found = [records.Site(place, size, n, function, stage) for (place, function, stage), (size, n) in sums.items()]
    return sorted(found, key=lambda site: -site.bytes)


def python_memory(workload: Workload) -> records.PythonMemory:
    """Memory of Python objects and numpy arrays, by tracemalloc. It excludes torch: never quote it as peak memory."""
    transcriber, audio = workload.load()
    tracemalloc.start()
    try:
        halves: list[tracemalloc.Snapshot] = []
        workload.feed(transcriber, audio, half_way=lambda: halves.append(tracemalloc.take_snapshot()))
        current, peak = tracemalloc.get_traced_memory()
        end = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    own_traces = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
    half, end = (snapshot.filter_traces([own_traces]) for snapshot in (*halves, end))
    top = [(entry.traceback[0], entry.size, entry.count) for entry in end.statistics("lineno")[:TOP_LINES]]
    compared = end.compare_to(half, "lineno")[:TOP_LINES]
    grown = [(entry.traceback[0], entry.size_diff, entry.count_diff) for entry in compared if entry.size_diff > 0]
    top_lines, grown_lines = (
        tuple(records.AllocatingLine(short_place(at.filename, at.lineno), size, n) for at, size, n in found)
        for found in (top, grown)
    )
    return records.PythonMemory(current, peak, top_lines, grown_lines)


def cpu(workload: Workload) -> records.CpuProfile:
    """CPU time as a call tree, by pyinstrument, which samples instead of tracing: frequent calls are not distorted."""
    with needs("the call tree needs pyinstrument", "profile"):
        from pyinstrument import Profiler
        from pyinstrument.renderers import HTMLRenderer
    transcriber, audio = workload.load()
    with Profiler(interval=INTERVAL_S) as profiler:
        workload.feed(transcriber, audio)
    session = profiler.last_session
    assert session is not None
    tree = profiler.output_text(unicode=True, color=False, show_all=False)
    kept = [line[:NARROW].rstrip() for line in tree.splitlines()[8:] if line.strip()]
    page = profiler.output(HTMLRenderer())
    return records.CpuProfile(session.duration, session.sample_count, "\n".join(kept), page)


def lines(workload: Workload) -> records.Lines:
    """Time per line of the named or marked functions, by line_profiler. Its overhead is in every line: use the shares.

    ``kernprof -l -v`` and ``LINE_PROFILE=1`` profile the marked functions in any program.
    """
    with needs("lines need line_profiler", "profile"):
        from line_profiler import LineProfiler
    named = [_found(name) for name in workload.functions]
    transcriber, audio = workload.load()
    profiler = LineProfiler()
    for function in named or MARKED:
        profiler.add_callable(function)
    with profiler:
        workload.feed(transcriber, audio)
    statistics, ran = profiler.get_stats(), []
    unit = statistics.unit
    for (file, start, name), rows in statistics.timings.items():
        if total := sum(ticks for _, _, ticks in rows):
            in_lines = tuple(
                records.ProfiledLine(n, hits, ticks * unit, ticks / total, linecache.getline(file, n).rstrip())
                for n, hits, ticks in sorted(rows)
            )
            ran.append(records.ProfiledFunction(name, short_place(file, start), total * unit, in_lines))
    return records.Lines(tuple(sorted(ran, key=lambda function: -function.total_s)))


def _found(name: str) -> Callable[..., object]:
    try:
        found: object = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        forms = "package.module:function or package.module:Class.method"
        raise ConfigurationError(f"no function {name!r} ({error}); expected {forms}") from error
    if not callable(found):
        raise ConfigurationError(f"{name!r} is not a function: it is {type(found).__name__}")
    return found


def ops(workload: Workload) -> records.Operators:
    """Time and memory of torch's operators, by torch.profiler."""
    from torch.profiler import ProfilerActivity, profile

    transcriber, audio = workload.load()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        workload.feed(transcriber, audio)
    found = [
        records.Operator(e.key, e.count, e.self_cpu_time_total / 1e6, e.cpu_time_total / 1e6, e.self_cpu_memory_usage)
        for e in profiler.key_averages()
    ]
    found.sort(key=lambda operator: -operator.own_s)
    with TemporaryDirectory(prefix="whisperlab-ops-") as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = gzip.compress(file.read_bytes(), 6)
    return records.Operators(sum(operator.own_s for operator in found), tuple(found[:TOP]), trace)


def calls(workload: Workload) -> records.Calls:
    """Counts and times of all calls, by cProfile. It slows Python code but not native code: shares are too large."""
    transcriber, audio = workload.load()
    profiler = cProfile.Profile()
    profiler.runcall(workload.feed, transcriber, audio)
    return calls_from_stats(pstats.Stats(profiler))


def calls_from_stats(stats: pstats.Stats) -> records.Calls:
    stats.sort_stats(pstats.SortKey.CUMULATIVE)
    top = []
    for file, line, function in stats.fcn_list[:TOP]:  # type: ignore[attr-defined]
        _, n_calls, own_s, cumulative_s, _ = stats.stats[file, line, function]  # type: ignore[attr-defined]
        name = function if file == "~" else f"{short_place(file, line)} {function}"  # "~": a built-in function
        top.append(records.CalledFunction(name, n_calls, own_s, cumulative_s))
    return records.Calls(stats.total_tt, tuple(top))  # type: ignore[attr-defined]


def latency(workload: Workload) -> records.Latency:
    """Latency of each operation by the transcriber's own timers, without a profiler."""
    from whisperlab.util.audio_arrays import duration_s

    transcriber, audio = workload.load()
    started = time.perf_counter()
    workload.feed(transcriber, audio)
    compute_s = time.perf_counter() - started
    operations = dict(transcriber.get_statistics()["performance"])
    threads = transcriber.config().get("compute", {}).get("threads")
    return records.Latency(compute_s, duration_s(audio), operations, threads)


def short_place(file: str, line: int) -> str:
    """A line of code with the last two parts of its path, such as "whisper/decoding.py:12"."""
    return f"{'/'.join(Path(file).parts[-2:])}:{line}"

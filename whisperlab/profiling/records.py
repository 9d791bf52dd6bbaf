"""The records of the passes: plain data, each with a text form (`describe`), importable without the profilers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

from whisperlab.util.text_table import latency_table, text_table
from whisperlab.util.validation import on_threads

_KIB = 1024
_MIB = 2**20


@dataclass(slots=True, frozen=True)
class ResidentMemory:
    """Resident bytes at four moments, their split at the end, and the sizes of the transcriber's tensors."""

    start: int  # the interpreter alone
    libraries: int  # with all libraries
    loaded: int  # with the model
    peak: int  # while streaming
    anonymous: int  # at the end, above the libraries, in no file
    file_backed: int  # at the end, above the libraries, in mapped files
    owned: Mapping[str, int]  # tensors and arrays of the transcriber by attribute, from their sizes

    @property
    def grown(self) -> int:
        return self.peak - self.loaded

    @property
    def above_libraries(self) -> int:
        return self.peak - self.libraries

    def describe(self) -> str:
        told = [
            "resident memory (VmHWM, reset after the model was loaded)",
            f"  at start  {self.start / _MIB:8.1f} MiB",
            f"  libraries {self.libraries / _MIB:8.1f} MiB",
            f"  loaded    {self.loaded / _MIB:8.1f} MiB",
            f"  peak      {self.peak / _MIB:8.1f} MiB, {self.grown / _MIB:.1f} MiB above loaded",
            f"  at end    {self.anonymous / _MIB:8.1f} MiB anonymous above the libraries, "
            f"{self.file_backed / _MIB:.1f} of files",
            "  of which the transcriber holds, by the sizes of its tensors and arrays",
            *(f"    {size / _MIB:8.1f} MiB  {name}" for name, size in self.owned.items()),
        ]
        return "\n".join(told)


@dataclass(slots=True, frozen=True)
class AllocatingLine:
    place: str
    bytes: int  # still in use
    blocks: int


@dataclass(slots=True, frozen=True)
class Site(AllocatingLine):
    function: str
    stage: str  # the part of the pipeline


@dataclass(slots=True, frozen=True)
class Heap:
    """Bytes on the heap, allocated while the model was loaded and the recording streamed."""

    peak: int  # without mapped files
    mapped: int  # files mapped at the peak
    allocations: int
    stages: dict[str, int]  # bytes at the peak by part of the pipeline
    top: tuple[Site, ...]  # the lines that held most at the peak
    kept: tuple[Site, ...]  # the lines that held most at the end
    course: tuple[tuple[float, int, int], ...]  # seconds since the start, bytes resident, bytes on the heap
    page: str = field(repr=False)  # memray's flame graph of the peak

    def describe(self) -> str:
        told = [
            f"heap (memray, since before the model was loaded; {self.allocations:,} allocations)",
            f"  {self.peak / _MIB:9.1f} MiB at the peak, and {self.mapped / _MIB:.1f} MiB of mapped files; by part",
            *(f"  {size / _MIB:9.1f} MiB  {stage}" for stage, size in self.stages.items()),
            "  by line",
            *(f"  {site.bytes / _MIB:9.1f} MiB  {site.place} {site.function}" for site in self.top[:10]),
        ]
        return "\n".join(told)


@dataclass(slots=True, frozen=True)
class PythonMemory:
    """Bytes of Python objects and numpy arrays that were created while streaming."""

    current: int  # at the end
    peak: int
    top: tuple[AllocatingLine, ...]  # at the end
    grown: tuple[AllocatingLine, ...]  # the growth from half-way to the end: a long stream may fill memory with it

    def describe(self) -> str:
        def listed(lines: Iterable[AllocatingLine]) -> str:
            return "\n".join(f"  {line.bytes / _KIB:9.1f} KiB  {line.place}" for line in lines) or "  nothing"

        return (
            "Python objects and numpy arrays only, without torch (tracemalloc, since the model was loaded)\n"
            f"  {self.current / _KIB:9.1f} KiB at the end, {self.peak / _KIB:.1f} KiB at the peak; held by\n"
            f"{listed(self.top)}\n  grown since half-way\n{listed(self.grown)}"
        )


@dataclass(slots=True, frozen=True)
class CpuProfile:
    sampled_s: float
    samples: int
    tree: str
    page: str = field(repr=False)  # the tree as interactive HTML

    def describe(self) -> str:
        return f"call tree (pyinstrument, {self.samples} samples in {self.sampled_s:.2f} s)\n{self.tree}"


@dataclass(slots=True, frozen=True)
class ProfiledLine:
    number: int
    hits: int
    total_s: float
    share: float  # of the function's time
    code: str


@dataclass(slots=True, frozen=True)
class ProfiledFunction:
    name: str
    place: str
    total_s: float
    lines: tuple[ProfiledLine, ...]  # in order, without those that never ran

    @property
    def slowest(self) -> ProfiledLine:
        return max(self.lines, key=lambda line: line.total_s)


@dataclass(slots=True, frozen=True)
class Lines:
    functions: tuple[ProfiledFunction, ...]  # those that ran, in descending order of time

    def describe(self) -> str:
        told = ["line by line (line_profiler: its overhead is in every line, use the shares)"]
        for function in self.functions:
            told.append(f"  {function.name} ({function.place}), {function.total_s:.3f} s")
            told += (f"    {line.share:6.1%} {line.hits:8d}  {line.number:5d}  {line.code}" for line in function.lines)
        return "\n".join(told)


@dataclass(slots=True, frozen=True)
class Operator:
    name: str
    calls: int
    own_s: float  # without the operators that it called
    total_s: float
    own_bytes: int


@dataclass(slots=True, frozen=True)
class Operators:
    own_s: float
    top: tuple[Operator, ...]  # by own time
    trace: bytes = field(repr=False)  # all calls in Chrome's format, gzipped, for ui.perfetto.dev or chrome://tracing

    def describe(self) -> str:
        rows = [
            {
                "share": f"{operator.own_s / self.own_s:.1%}",
                "own s": f"{operator.own_s:.3f}",
                "calls": operator.calls,
                "own MiB": f"{operator.own_bytes / _MIB:.1f}",
                "operator": operator.name,
            }
            for operator in self.top
        ]
        return f"torch's operators (torch.profiler, {self.own_s:.2f} s in total)\n{text_table(rows)}"


@dataclass(slots=True, frozen=True)
class CalledFunction:
    name: str
    calls: int
    own_s: float  # without the functions that it called
    cumulative_s: float


@dataclass(slots=True, frozen=True)
class Calls:
    total_s: float
    top: tuple[CalledFunction, ...]  # by cumulative time

    def describe(self) -> str:
        rows = [
            {"cumulative s": f"{f.cumulative_s:.3f}", "own s": f"{f.own_s:.3f}", "calls": f.calls, "function": f.name}
            for f in self.top
        ]
        return f"functions by cumulative time (cProfile, {self.total_s:.2f} s in total)\n{text_table(rows)}"


@dataclass(slots=True, frozen=True)
class Latency:
    """Statistics of each operation from ``PerformanceMetrics``, total computing time and the audio's duration."""

    compute_s: float
    duration_s: float
    operations: Mapping[str, Mapping[str, float]]  # milliseconds
    threads: int | None = None  # compute threads of the transcriber, if its configuration has them

    def describe(self) -> str:
        return (
            f"latency in milliseconds ({self.compute_s:.2f} s for {self.duration_s:.1f} s of audio, "
            f"{self.compute_s / self.duration_s:.2f} of real time{on_threads(self.threads)})\n"
            f"{latency_table(self.operations, ('p50', 'p95', 'p99', 'max'))}"
        )


class Records(TypedDict, total=False):
    """The records of a profile, by the name of their pass."""

    memory: ResidentMemory
    heap: Heap
    python_memory: PythonMemory
    cpu: CpuProfile
    lines: Lines
    ops: Operators
    calls: Calls
    latency: Latency


Record: TypeAlias = ResidentMemory | Heap | PythonMemory | CpuProfile | Lines | Operators | Calls | Latency

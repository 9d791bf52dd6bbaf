"""The records of the passes: plain data, importable without the profilers. `whisperlab.report.profile` shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict


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


@dataclass(slots=True, frozen=True)
class PythonMemory:
    """Bytes of Python objects and numpy arrays that were created while streaming."""

    current: int  # at the end
    peak: int
    top: tuple[AllocatingLine, ...]  # at the end
    grown: tuple[AllocatingLine, ...]  # the growth from half-way to the end: a long stream may fill memory with it


@dataclass(slots=True, frozen=True)
class CpuProfile:
    sampled_s: float
    samples: int
    tree: str
    page: str = field(repr=False)  # the tree as interactive HTML


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


@dataclass(slots=True, frozen=True)
class Latency:
    """Statistics of each operation from ``PerformanceMetrics``, total computing time and the audio's duration."""

    compute_s: float
    duration_s: float
    operations: Mapping[str, Mapping[str, float]]  # milliseconds
    threads: int | None = None  # compute threads of the transcriber, if its configuration has them


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

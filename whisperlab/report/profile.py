"""The report of a profile: the results of each pass, and the reasons why the memory numbers differ.

The records of `whisperlab.profiling` become one page. Pages that a profiler generates are embedded in frames. The
content security policy of the page allows exactly their scripts, by digest.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from whisperlab.profiling.records import AllocatingLine, CalledFunction, Operator, Records, Site
from whisperlab.report.figure import PALETTE, Figure
from whisperlab.report.figures import LETTER, NARROW, new_plot, styled
from whisperlab.report.page import render_page
from whisperlab.report.tables import Column, Table, milliseconds, table
from whisperlab.util.json_values import Json
from whisperlab.util.validation import on_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_MIB = 2**20

# The difference between two numbers from which the page reports them as unexplained.
TOLERANCE = 1 / 3  # of the greater number: many allocated blocks are only partly touched
SLACK = 48 * _MIB  # code that kernels generate, and blocks that the allocator keeps

_FORGETFUL = (
    'for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, '
    "{ value: { getItem: () => null, setItem() {}, removeItem() {}, clear() {} } });"
)

_HANDLER = re.compile(r'\son(?:click|load|change|input)="([^"]*)"')
_SCRIPT = re.compile(r"<script(?:\s[^>]*)?>(.*?)</script>", re.DOTALL | re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class Number:
    """One memory number in bytes, with the memory that it includes (``sees``) and excludes (``misses``)."""

    name: str
    bytes: int
    sees: str
    misses: str


@dataclass(slots=True, frozen=True)
class Check:
    """A relation between two numbers: whether it holds, and the sentence for the page."""

    holds: bool
    words: str


@dataclass(slots=True, frozen=True)
class Frame:
    """An embedded page."""

    title: str
    about: str
    page: str

    @property
    def packed(self) -> str:
        """The page, compressed to a third and in base64; the main page unpacks it."""
        return base64.b64encode(gzip.compress(self.page.encode(), 9, mtime=0)).decode("ascii")


@dataclass(slots=True, frozen=True)
class ProfileReport:
    """The records of a profile and their origin."""

    records: Records
    audio: str
    seconds: float | None
    command: str
    origin: Json

    def page(self, *, now: datetime | None = None) -> str:
        """The page as HTML."""
        frames = list(self._frames())
        checks = reconciled(self.records)
        numbers, tables = memory_numbers(self.records), list(_tables(self.records))
        return render_page(
            "profile.html.j2",
            report=self,
            created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
            numbers=table("numbers", "Memory, counted in four ways, each in a separate process", _NUMBERS, numbers),
            checks=checks,
            warnings=[check.words for check in checks if not check.holds],
            findings=list(findings(self.records)),
            drawings=list(_drawings(self.records)),
            tables=tables,
            frames=frames,
            lines=self.records["lines"].functions if "lines" in self.records else (),
            tree=self.records["cpu"].tree if "cpu" in self.records else "",
            digests=list(_script_digests(frames)),
            flat=[*({"table": "numbers", "name": n.name, "bytes": n.bytes} for n in numbers), *_flat(tables)],
        )

    def _frames(self) -> Iterable[Frame]:
        if "cpu" in self.records:
            about = "Click a line to unfold it; the menus on top fold libraries away."
            yield Frame("Call tree (pyinstrument)", about, _offline(self.records["cpu"].page))
        if "heap" in self.records:
            about = "The width is bytes held at the peak. Click a block to zoom in."
            yield Frame("Flame graph of the heap (memray)", about, _offline(self.records["heap"].page))


def _script_digests(frames: Iterable[Frame]) -> Iterable[str]:
    """The sources that a content security policy must list for the inline scripts and handlers of pages."""
    for frame in frames:
        handlers = _HANDLER.findall(frame.page)
        if handlers:
            yield "unsafe-hashes"  # the policy then also allows handlers, but only those listed
        for text in (*_SCRIPT.findall(frame.page), *handlers):
            if text.strip():
                digest = hashlib.sha256(text.encode()).digest()
                yield f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _offline(page: str) -> str:
    """A profiler's page without external fonts, and with a dummy storage, because its frame has none."""
    page = re.sub(r"<link\b[^>]*\bhref=[\"']?https?://[^>]*>", "", page)
    page = re.sub(r"https://fonts\.googleapis\.com/[^\"'`)\s]*", "data:text/css,", page)
    return page.replace("<head>", f"<head><script>{_FORGETFUL}</script>", 1)


def memory_numbers(records: Records) -> list[Number]:
    """The numbers of the memory passes, the widest view first."""
    memory, heap, python = records.get("memory"), records.get("heap"), records.get("python_memory")
    found: list[Number] = []

    def add(name: str, size: int, *, sees: str, misses: str) -> None:
        found.append(Number(name, size, sees, misses))

    if memory:
        add(
            "resident at the peak, above the libraries (VmHWM)",
            memory.above_libraries,
            sees="every page that was touched: the figure that the system counts",
            misses="memory that was allocated and never touched; the owners of the memory",
        )
        add(
            "of it anonymous, at the end (RssAnon)",
            memory.anonymous,
            sees="memory that is in no file",
            misses="weights in a mapped file; the peak, because the system records no peak of it",
        )
    if heap:
        add(
            "on the heap at the peak (memray)",
            heap.peak,
            sees="every allocated block, including torch's and numpy's, by line of code",
            misses="libraries loaded before; code that kernels generate; freed blocks that the allocator keeps",
        )
    if heap and heap.mapped:
        whether = "whether its pages are resident: the system may drop and reload them"
        add("files mapped at the peak (memray)", heap.mapped, sees="the complete mapped checkpoint", misses=whether)
    if memory:
        add(
            "tensors and arrays the transcriber holds (arithmetic)",
            sum(memory.owned.values()),
            sees="weights, buffers, cache, timers: everything that stays",
            misses="everything that lives for one chunk: activations, keys and values, spectrograms",
        )
    if python:
        add(
            "Python objects while streaming, at the peak (tracemalloc)",
            python.peak,
            sees="Python objects and numpy arrays created after the model was loaded",
            misses="torch: its tensors, weights and workspaces. Never quote it as peak memory",
        )
    return found


def reconciled(records: Records) -> list[Check]:
    """Check that the memory figures of the passes agree.

    Each pass is a separate run, so some checks allow a difference. Checks whose records are missing are omitted.
    """
    memory, heap, python = records.get("memory"), records.get("heap"), records.get("python_memory")
    checks: list[Check] = []

    def check(holds: bool, words: str) -> None:
        checks.append(Check(holds, f"{words}: {'as expected' if holds else 'this is unexplained'}"))

    if memory and heap:
        off = abs(memory.anonymous - heap.peak)
        allowed = TOLERANCE * max(memory.anonymous, heap.peak) + SLACK
        differ = "anonymous memory at the end and the heap's peak differ by"
        check(off <= allowed, f"{differ} {_mib(off)}, {_mib(allowed)} allowed")
        held, seen = sum(memory.owned.values()), heap.peak + heap.mapped
        check(
            held <= seen, f"the transcriber holds {_mib(held)} by arithmetic, the heap {_mib(seen)} with mapped files"
        )
    if heap and python:
        words = f"Python objects ({_mib(python.peak)}) are a part of the heap ({_mib(heap.peak)})"
        check(python.peak <= heap.peak, words)
    if memory:
        peak, end = memory.above_libraries, memory.anonymous
        words = f"the peak ({_mib(peak)}) is not below the anonymous memory at the end ({_mib(end)})"
        check(peak >= end * (1 - TOLERANCE), words)
    return checks


def findings(records: Records) -> Iterable[str]:
    """The main results, in sentences."""
    if memory := records.get("memory"):
        name, size = next(iter(memory.owned.items()), ("nothing", 0))
        yield (
            f"Model and streaming add {_mib(memory.above_libraries)} to the libraries, {_mib(memory.grown)} of it "
            f"while streaming; the largest part is {name} with {_mib(size)}"
        )
    if (heap := records.get("heap")) and heap.stages:
        part, size = next(iter(heap.stages.items()))
        yield f"At its peak the heap holds {_mib(heap.peak)}, {size / heap.peak:.0%} of it for {part}"
    if (python := records.get("python_memory")) and python.grown:
        line = python.grown[0]
        yield (
            f"In the second half the line that grew most is {line.place}, by {line.bytes / 1024:,.0f} KiB in "
            f"{line.blocks:,} more blocks"
        )
    if latency := records.get("latency"):
        yield (
            f"{latency.duration_s:.1f} s of audio took {latency.compute_s:.1f} s "
            f"({latency.compute_s / latency.duration_s:.2f} of real time{on_threads(latency.threads)}) "
            "without a profiler"
        )
    if (lines := records.get("lines")) and lines.functions:
        function = lines.functions[0]
        slowest = function.slowest
        yield (
            f"The slowest line of {function.name} is number {slowest.number} of {function.place.rpartition(':')[0]}, "
            f"with {slowest.share:.0%} of it: {slowest.code.strip()}"
        )
    if (ops := records.get("ops")) and ops.top:
        yield f"The torch operator with the most time is {ops.top[0].name}: {ops.top[0].own_s / ops.own_s:.0%}"


def _drawings(records: Records) -> Iterable[Figure]:
    if heap := records.get("heap"):
        words = f"heap over {heap.course[-1][0]:.1f} s" if heap.course else "no data"
        caption = "Memory while the model is loaded and the recording is streamed, sampled by memray (whose own memory "
        yield Figure("course", words, course_figure(heap.course), caption + "is included).")
        caption = "Heap by the module of whisperlab nearest to the allocation."
        yield _parts_drawing("stages", heap.stages, "MiB on the heap at the peak", caption)
    if memory := records.get("memory"):
        caption = "Permanent memory of the transcriber by attribute, from the sizes; shared weights count once."
        yield _parts_drawing("owned", memory.owned, "MiB of tensors and arrays", caption)


def _parts_drawing(name: str, sizes: Mapping[str, int], x: str, caption: str) -> Figure:
    words = "; ".join(f"{part}: {_mib(size)}" for part, size in sizes.items())
    figure = parts_figure({part: size / _MIB for part, size in sizes.items()}, x)
    return Figure(name, words, figure, caption)


@styled
def course_figure(course: Sequence[tuple[float, int, int]]) -> Drawing:
    """Memory over time: (seconds, bytes resident, bytes on the heap), as the pass `heap` records it."""
    figure, axes = new_plot(NARROW, 2.8, (0.1, 0.5, 0.7, 0.1), "seconds of wall time", "MiB", "y")
    seconds = [moment[0] for moment in course]
    for place, (name, colour, line) in enumerate((("resident", 0, "--"), ("on the heap", 5, "-"))):
        sizes = [moment[1 + place] / _MIB for moment in course]
        axes.plot(seconds, sizes, line, color=PALETTE[colour], label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


@styled
def parts_figure(parts: Mapping[str, float], label: str, most: int = 12) -> Drawing:
    """A quantity by its parts, one bar each in descending order; at most ``most`` bars."""
    kept = dict(sorted(parts.items(), key=lambda part: -part[1])[:most])
    left = 0.3 + LETTER * max(map(len, kept), default=0)
    figure, axes = new_plot(NARROW, 0.8 + 0.3 * max(len(kept), 1), (0.1, 0.5, left, 0.3), label)
    bars = axes.barh(range(len(kept)), list(kept.values()), color=PALETTE[0], height=0.7)
    axes.bar_label(bars, [f"{size:,.1f}" for size in kept.values()], padding=4, fontsize=8)
    axes.set_yticks(range(len(kept)), list(kept))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return figure


def _tables(records: Records) -> Iterable[Table]:
    """The tables of every pass that has some."""
    if latency := records.get("latency"):
        operations = list(latency.operations.items())
        yield table("latency", "Latency in milliseconds, without a profiler", _LATENCIES, operations)
    if heap := records.get("heap"):
        yield table("heap", "Lines that held most at the peak (memray)", _SITES, heap.top)
        yield table("kept", "Lines that held most at the end (memray)", _SITES, heap.kept)
    if python := records.get("python_memory"):
        yield table("python", "Python objects held at the end (tracemalloc)", _LINES, python.top)
        caption = "Growth of Python objects from half-way to the end (tracemalloc)"
        yield table("grown", caption, _LINES, python.grown)
    if ops := records.get("ops"):
        total_s = ops.own_s

        def share(row: Operator) -> float:
            return row.own_s / total_s

        shares = Column("Share", "Own time / own time of all", share, "{:.1%}".format)
        columns = (*_OPERATORS[:2], shares, *_OPERATORS[2:])
        yield table("ops", "torch's operators (torch.profiler)", columns, ops.top)
    if calls := records.get("calls"):
        yield table("calls", "The 20 functions with the most cumulative time (cProfile)", _CALLS, calls.top)


_NUMBERS: tuple[Column[Number], ...] = (
    Column("Number", "The counted memory", lambda n: n.name),
    Column("MiB", "Mebibytes", lambda n: n.bytes / _MIB, "{:,.1f}".format),
    Column("Includes", "Memory in the number", lambda n: n.sees),
    Column("Excludes", "Memory not in the number", lambda n: n.misses),
)
_LATENCIES: tuple[Column[tuple[str, Mapping[str, float]]], ...] = (
    Column("Operation", "The timed part of the pipeline", lambda row: row[0]),
    Column("n", "Number of calls", lambda row: row[1]["count"], "{:,}".format),
    Column("p50", "Half took no longer", lambda row: row[1]["p50"], milliseconds),
    Column("p95", "95 % took no longer", lambda row: row[1]["p95"], milliseconds),
    Column("p99", "99 % took no longer", lambda row: row[1]["p99"], milliseconds),
    Column("Longest", "The longest call", lambda row: row[1]["max"], milliseconds),
)
_SITES: tuple[Column[Site], ...] = (
    Column("Line", "The line nearest to the allocation", lambda row: row.place),
    Column("Function", "Its function", lambda row: row.function),
    Column("For", "The module of whisperlab nearest to it", lambda row: row.stage),
    Column("MiB", "Mebibytes", lambda row: row.bytes / _MIB, "{:,.2f}".format),
    Column("Blocks", "Number of blocks", lambda row: row.blocks, "{:,}".format),
)
_LINES: tuple[Column[AllocatingLine], ...] = (
    Column("Line", "The line that allocated them", lambda row: row.place),
    Column("KiB", "Kibibytes", lambda row: row.bytes / 1024, "{:,.1f}".format),
    Column("Blocks", "Number of blocks", lambda row: row.blocks, "{:,}".format),
)
_OPERATORS: tuple[Column[Operator], ...] = (
    Column("Operator", "Its name in torch", lambda row: row.name),
    Column("Calls", "Number of calls", lambda row: row.calls, "{:,}".format),
    Column("Own ms", "Without called operators", lambda row: row.own_s * 1000, milliseconds),
    Column("Own MiB", "Allocated minus freed", lambda row: row.own_bytes / _MIB, "{:,.1f}".format),
)
_CALLS: tuple[Column[CalledFunction], ...] = (
    Column("Function", "With its place", lambda row: row.name),
    Column("Calls", "Number of calls", lambda row: row.calls, "{:,}".format),
    Column("Own s", "Without called functions", lambda row: row.own_s, "{:.3f}".format),
    Column("Cumulative s", "With called functions", lambda row: row.cumulative_s, "{:.3f}".format),
)


def _flat(tables: Iterable[Table]) -> Iterable[dict[str, object]]:
    """The rows of every table, for the CSV."""
    for shown in tables:
        titles = [title for title, _, _ in shown.head]
        for line in shown.body:
            yield {"table": shown.name, **dict(zip(titles, (cell.sort for cell in line), strict=True))}


def _mib(size: float) -> str:
    return f"{size / _MIB:,.1f} MiB"

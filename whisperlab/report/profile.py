"""The report of a profile: what each pass saw, and why the memory numbers differ.

Records of `whisperlab.profiling`, by the name of their pass, become one page. Pages that a profiler makes itself lie in
frames of their own: the policy of the page names the digests of their scripts, so nothing else can run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from whisperlab.report.figures import Drawing, to_svg
from whisperlab.report.page import render_page
from whisperlab.report.profile_figures import course_figure, parts_figure
from whisperlab.report.tables import Column, Table, milliseconds, table
from whisperlab.util.validation import on_threads

_MIB = 2**20

# How far apart two numbers may lie before the page says that something is unexplained.
TOLERANCE = 1 / 3  # of the greater one: much is asked for in whole blocks, and touched in part
SLACK = 48 * _MIB  # code that kernels write for themselves, and blocks the allocator keeps

_FORGETFUL = (
    'for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, '
    "{ value: { getItem: () => null, setItem() {}, removeItem() {}, clear() {} } });"
)

_HANDLER = re.compile(r'\son(?:click|load|change|input)="([^"]*)"')
_SCRIPT = re.compile(r"<script(?:\s[^>]*)?>(.*?)</script>", re.DOTALL | re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class Number:
    """One memory number: what it is, its bytes, what it sees, and what it does not."""

    name: str
    bytes: int
    sees: str
    misses: str


@dataclass(slots=True, frozen=True)
class Check:
    """Two numbers that must agree or be in order: whether they do, and the sentence that says so."""

    holds: bool
    words: str


@dataclass(slots=True, frozen=True)
class Frame:
    """A page within the page."""

    title: str
    about: str
    page: str

    @property
    def packed(self) -> str:
        """The page in base64, compressed for the main page to unpack: a third of its size."""
        return base64.b64encode(gzip.compress(self.page.encode(), 9, mtime=0)).decode("ascii")


@dataclass(slots=True, frozen=True)
class ProfileReport:
    """Records by the name of their pass, and where they come from."""

    records: Mapping[str, Any]
    audio: str
    seconds: float | None
    command: str
    origin: Mapping[str, Any]

    def page(self, *, now: datetime | None = None) -> str:
        """The page as text."""
        frames = list(self._frames())
        checks = reconciled(self.records)
        return render_page(
            "profile.html.j2",
            report=self,
            created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
            numbers=_number_table(memory_numbers(self.records)),
            checks=checks,
            warnings=[check.words for check in checks if not check.holds],
            findings=list(findings(self.records)),
            drawings=list(_drawings(self.records)),
            tables=list(_tables(self.records)),
            frames=frames,
            lines=self.records["lines"].functions if "lines" in self.records else (),
            tree=self.records["cpu"].tree if "cpu" in self.records else "",
            digests=list(script_digests(frame.page for frame in frames)),
            flat=_flat(self.records),
        )

    def _frames(self) -> Iterable[Frame]:
        if "cpu" in self.records:
            about = "Click a line to unfold it; the menus on top fold libraries away."
            yield Frame("Tree of calls (pyinstrument)", about, _offline(self.records["cpu"].page))
        if "heap" in self.records:
            about = "Width is bytes held at the peak; click a block to look into it."
            yield Frame("Flame graph of the heap (memray)", about, _offline(self.records["heap"].page))


def script_digests(pages: Iterable[str]) -> Iterable[str]:
    """What a content security policy names the inline scripts and handlers of pages by."""
    for page in pages:
        handlers = _HANDLER.findall(page)
        if handlers:
            yield "unsafe-hashes"  # without it a policy knows no handlers; it allows those named and no other
        for text in (*_SCRIPT.findall(page), *handlers):
            if text.strip():
                digest = hashlib.sha256(text.encode()).digest()
                yield f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _offline(page: str) -> str:
    """A profiler's page without the fonts it would fetch, and with a storage that forgets: its frame has none."""
    page = re.sub(r"<link\b[^>]*\bhref=[\"']?https?://[^>]*>", "", page)
    page = re.sub(r"https://fonts\.googleapis\.com/[^\"'`)\s]*", "data:text/css,", page)
    return page.replace("<head>", f"<head><script>{_FORGETFUL}</script>", 1)


def memory_numbers(records: Mapping[str, Any]) -> list[Number]:
    """The numbers that the memory passes found, the widest view first."""
    found: list[Number] = []
    if memory := records.get("memory"):
        found.append(
            Number(
                "resident at the peak, above the libraries (VmHWM)",
                memory.above_libraries,
                "every page that was touched, whoever asked for it: what the system charges",
                "what was asked for and never touched; it cannot say who holds it",
            )
        )
        found.append(
            Number(
                "of it anonymous, at the end (RssAnon)",
                memory.anonymous,
                "memory that is in no file",
                "weights that lie in a mapped file; the peak, for the system keeps no peak of it",
            )
        )
    if heap := records.get("heap"):
        found.append(
            Number(
                "on the heap at the peak (memray)",
                heap.peak,
                "every block asked for, by the line that asked, torch's and numpy's too",
                "libraries loaded before; code that kernels write; what the allocator keeps of freed blocks",
            )
        )
        if heap.mapped:
            found.append(
                Number(
                    "files mapped at the peak (memray)",
                    heap.mapped,
                    "the whole of a mapped checkpoint",
                    "that the system lends these pages and may take them back: they are no cost to the heap",
                )
            )
    if memory:
        found.append(
            Number(
                "tensors and arrays the transcriber holds (arithmetic)",
                sum(memory.owned.values()),
                "weights, buffers, cache, timers: what stays",
                "everything that lives for one chunk: activations, keys and values, spectrograms",
            )
        )
    if python := records.get("python_memory"):
        found.append(
            Number(
                "Python objects while streaming, at the peak (tracemalloc)",
                python.peak,
                "objects of Python and arrays of numpy made after the model was loaded",
                "torch: its tensors, weights and workspaces. Never quote it as peak memory",
            )
        )
    return found


def reconciled(records: Mapping[str, Any]) -> list[Check]:
    """What must hold between the numbers, each pass having been a run of its own."""
    memory, heap, python = (records.get(name) for name in ("memory", "heap", "python_memory"))
    checks: list[Check] = []

    def check(holds: bool, words: str) -> None:
        checks.append(Check(holds, f"{words}: {'as it must be' if holds else 'this is unexplained'}"))

    if memory and heap:
        off = abs(memory.anonymous - heap.peak)
        allowed = TOLERANCE * max(memory.anonymous, heap.peak) + SLACK
        check(
            off <= allowed,
            f"anonymous memory at the end and the heap's peak differ by {_mib(off)}, {_mib(allowed)} allowed",
        )
        held = sum(memory.owned.values())
        check(
            held <= heap.peak + heap.mapped,
            f"the transcriber holds {_mib(held)} by arithmetic, the heap {_mib(heap.peak + heap.mapped)} "
            "with mapped files",
        )
    if heap and python:
        check(
            python.peak <= heap.peak,
            f"Python objects ({_mib(python.peak)}) are a part of the heap ({_mib(heap.peak)})",
        )
    if memory:
        check(
            memory.above_libraries >= memory.anonymous * (1 - TOLERANCE),
            f"the peak ({_mib(memory.above_libraries)}) is not below what is anonymous at the end "
            f"({_mib(memory.anonymous)})",
        )
    return checks


def findings(records: Mapping[str, Any]) -> Iterable[str]:
    """The head lines, in numbers of these passes."""
    if memory := records.get("memory"):
        name, size = next(iter(memory.owned.items()), ("nothing", 0))
        yield (
            f"Model and streaming add {_mib(memory.above_libraries)} to the libraries, {_mib(memory.grown)} of it "
            f"while streaming; the greatest single holder is {name} with {_mib(size)}"
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
            "with no profiler running"
        )
    if (lines := records.get("lines")) and lines.functions:
        function = lines.functions[0]
        slowest = function.slowest
        yield (
            f"The slowest line of {function.name} is number {slowest.number} of {function.place.rpartition(':')[0]}, "
            f"with {slowest.share:.0%} of it: {slowest.code.strip()}"
        )
    if (ops := records.get("ops")) and ops.top:
        yield f"Of torch's operators {ops.top[0].name} takes most: {ops.top[0].own_s / ops.own_s:.0%}"


def _drawings(records: Mapping[str, Any]) -> Iterable[Drawing]:
    if heap := records.get("heap"):
        words = f"heap over {heap.course[-1][0]:.1f} s" if heap.course else "no course"
        yield Drawing(
            (to_svg(course_figure(heap.course), "course", words),),
            "Memory while the model is loaded and the recording streams, as memray samples it (memray's own memory "
            "is resident, too).",
        )
        words = "; ".join(f"{part}: {_mib(size)}" for part, size in heap.stages.items())
        yield Drawing(
            (to_svg(parts_figure(_in_mib(heap.stages), "MiB on the heap at the peak"), "stages", words),),
            "Who asked for it: the module of whisperlab nearest to the allocation.",
        )
    if memory := records.get("memory"):
        words = "; ".join(f"{name}: {_mib(size)}" for name, size in memory.owned.items())
        yield Drawing(
            (to_svg(parts_figure(_in_mib(memory.owned), "MiB of tensors and arrays"), "owned", words),),
            "What the transcriber holds all the time, by attribute, added up from sizes; shared weights count once.",
        )


def _number_table(numbers: Sequence[Number]) -> Table:
    columns: tuple[Column[Number], ...] = (
        Column("Number", "What is counted", lambda n: n.name),
        Column("MiB", "Mebibytes", lambda n: n.bytes / _MIB, "{:,.1f}".format),
        Column("Sees", "What is in it", lambda n: n.sees),
        Column("Does not see", "What is not", lambda n: n.misses),
    )
    return table(
        "numbers", "Memory, by four kinds of counting, each in a process of its own", columns, numbers
    )


def _tables(records: Mapping[str, Any]) -> Iterable[tuple[str, Table]]:
    columns: tuple[Column[Any], ...]
    if latency := records.get("latency"):
        rows = [{"operation": name, **told} for name, told in latency.operations.items()]
        columns = (
            Column("Operation", "The part of the pipeline that was timed", itemgetter("operation")),
            Column("n", "How often", itemgetter("count"), "{:,}".format),
            Column("p50", "Half took no longer", itemgetter("p50"), milliseconds),
            Column("p95", "95 % took no longer", itemgetter("p95"), milliseconds),
            Column("p99", "99 % took no longer", itemgetter("p99"), milliseconds),
            Column("Longest", "The longest single one", itemgetter("max"), milliseconds),
        )
        yield (
            "latency",
            table("latency", "Latency in milliseconds, no profiler running", columns, rows),
        )
    if heap := records.get("heap"):
        yield "heap", table("heap", "Lines that held most at the peak (memray)", _SITES, heap.top)
        yield "kept", table("kept", "Lines that held most at the end (memray)", _SITES, heap.kept)
    if python := records.get("python_memory"):
        for name, caption, rows in (
            ("python", "Python objects held at the end (tracemalloc)", python.top),
            ("grown", "Python objects more at the end than half-way (tracemalloc)", python.grown),
        ):
            columns = (
                Column("Line", "Where they were made", lambda row: row.place),
                Column("KiB", "Kibibytes", lambda row: row.bytes / 1024, "{:,.1f}".format),
                Column("Blocks", "How many", lambda row: row.blocks, "{:,}".format),
            )
            yield name, table(name, caption, columns, rows)
    if ops := records.get("ops"):
        columns = (
            Column("Operator", "As torch names it", lambda row: row.name),
            Column("Calls", "How often", lambda row: row.calls, "{:,}".format),
            Column("Share", "Own time / own time of all", lambda row: row.own_s / ops.own_s, "{:.1%}".format),
            Column("Own ms", "Without what it called", lambda row: row.own_s * 1000, milliseconds),
            Column(
                "Own MiB",
                "Allocated less freed",
                lambda row: row.own_bytes / _MIB,
                "{:,.1f}".format,
            ),
        )
        yield "ops", table("ops", "torch's operators (torch.profiler)", columns, ops.top)
    if calls := records.get("calls"):
        columns = (
            Column("Function", "And where it is", lambda row: row.name),
            Column("Calls", "How often", lambda row: row.calls, "{:,}".format),
            Column("Own s", "Without what it called", lambda row: row.own_s, "{:.3f}".format),
            Column("Cumulative s", "With what it called", lambda row: row.cumulative_s, "{:.3f}".format),
        )
        yield (
            "calls",
            table("calls", "The 20 functions with the most cumulative time (cProfile)", columns, calls.top),
        )


_SITES: tuple[Column[Any], ...] = (
    Column("Line", "The line nearest to the allocation", lambda row: row.place),
    Column("Function", "Its function", lambda row: row.function),
    Column("For", "The module of whisperlab nearest to it", lambda row: row.stage),
    Column("MiB", "Mebibytes", lambda row: row.bytes / _MIB, "{:,.2f}".format),
    Column("Blocks", "How many", lambda row: row.blocks, "{:,}".format),
)


def _flat(records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of every table, for the CSV."""
    rows: list[dict[str, Any]] = [
        {"table": "numbers", "name": number.name, "bytes": number.bytes} for number in memory_numbers(records)
    ]
    for name, shown in _tables(records):
        titles = [title for title, _, _ in shown.head]
        rows += [
            {"table": name, **dict(zip(titles, (cell.sort for cell in line), strict=True))}
            for line in shown.body
        ]
    return rows


def _in_mib(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / _MIB for name, size in sizes.items()}


def _mib(size: float) -> str:
    return f"{size / _MIB:,.1f} MiB"

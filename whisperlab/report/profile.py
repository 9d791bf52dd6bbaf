"""The report of a profile: the results of each pass, and the reasons why the memory numbers differ."""

import gzip
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from whisperlab.profiling.records import CpuProfile, Record, Records
from whisperlab.report import figure as draw
from whisperlab.report import page as html
from whisperlab.report.page import expression, page_text
from whisperlab.report.tables import Table, columns, table
from whisperlab.util.json_values import Json
from whisperlab.util.text_table import text_table

_MIB = 2**20

# The difference between two numbers from which the page says that they do not agree.
TOLERANCE = 1 / 3  # of the greater number: many allocated blocks are only partly touched
SLACK = 48 * _MIB  # code that kernels generate, and blocks that the allocator keeps

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
class ProfileReport:
    """The records of a profile and their origin."""

    records: Records
    audio: str
    seconds: float | None
    command: str
    origin: Json

    def page(self, *, now: datetime | None = None) -> str:
        """The page as HTML."""
        records, checks = self.records, reconciled(self.records)
        numbers, tables = memory_numbers(records), list(_tables(records))
        caption = "Memory, counted in four ways, each in a separate process"
        embedded = (("cpu", records.get("cpu")), ("heap", records.get("heap")))
        pages = {name: _offline(record.page).encode() for name, record in embedded if record}
        return html.render_page(
            "profile.html.j2",
            report=self,
            created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
            numbers=table("numbers", caption, columns("numbers"), numbers),
            checks=checks,
            warnings=[check.words for check in checks if not check.holds],
            drawings=list(_drawings(records)),
            tables=tables,
            # compressed to a third; the main page unpacks them
            frames={name: b64encode(gzip.compress(page, 9, mtime=0)).decode("ascii") for name, page in pages.items()},
            digests=[digest for page in pages.values() for digest in _digests(page.decode())],
            flat=[
                *({"table": "numbers", "name": number.name, "bytes": number.bytes} for number in numbers),
                *({"table": shown.name, **row} for shown in tables for row in shown.rows("sort")),
            ],
        )


def _digests(page: str) -> Iterator[str]:
    """The sources that a content security policy must list for a page's inline scripts and handlers."""
    if handlers := _HANDLER.findall(page):
        yield "unsafe-hashes"  # the policy then also allows handlers, but only those listed
    yield from (f"sha256-{html.digest(text)}" for text in (*_SCRIPT.findall(page), *handlers) if text.strip())


def _offline(page: str) -> str:
    """A profiler's page without external fonts, and with a dummy storage, because its frame has none."""
    page = re.sub(r"<link\b[^>]*\bhref=[\"']?https?://[^>]*>", "", page)
    page = re.sub(r"https://fonts\.googleapis\.com/[^\"'`)\s]*", "data:text/css,", page)
    storage = (html.TEMPLATES / "no_storage.js").read_text(encoding="utf-8").strip()
    return page.replace("<head>", f"<head><script>{storage}</script>", 1)


def memory_numbers(records: Records) -> list[Number]:
    """The numbers of the memory passes, the widest view first."""
    found = _evaluated("numbers", records)
    return [Number(one["name"], size, one["sees"], one["misses"]) for one, size in found if size is not None]


def _evaluated(kind: str, records: Mapping[str, object]) -> Iterator[tuple[Json, Any]]:
    """The numbers or tables of ``profile.json`` whose pass has run, each with its value."""
    for one in draw.template("profile")[kind]:
        if one["pass"] in records:
            yield one, expression(one["value"])(**records)


def reconciled(records: Records) -> list[Check]:
    """Check that the memory figures of the passes agree: each pass is a separate run, so some allow a difference."""
    memory, heap, python = records.get("memory"), records.get("heap"), records.get("python_memory")
    found: list[Check] = []

    def check(name: str, holds: bool, **sizes: float) -> None:
        found.append(Check(holds, page_text(f"memory_{name}", holds=holds, **sizes)))

    if memory and heap:
        off = abs(memory.anonymous - heap.peak)
        allowed = TOLERANCE * max(memory.anonymous, heap.peak) + SLACK
        check("heap", off <= allowed, off=off, allowed=allowed)
        held, seen = sum(memory.owned.values()), heap.peak + heap.mapped
        check("arithmetic", held <= seen, held=held, seen=seen)
    if heap and python:
        check("python", python.peak <= heap.peak, python=python.peak, heap=heap.peak)
    if memory:
        peak, end = memory.above_libraries, memory.anonymous
        check("peak", peak >= end * (1 - TOLERANCE), peak=peak, end=end)
    return found


def _drawings(records: Records) -> Iterator[draw.Figure]:
    if heap := records.get("heap"):
        words = f"heap over {heap.course[-1][0]:.1f} s" if heap.course else "no data"
        yield draw.Figure("course", words, course_figure(heap.course), page_text("memory_course"))
        yield _parts_drawing("stages", heap.stages, "MiB on the heap at the peak")
    if memory := records.get("memory"):
        yield _parts_drawing("owned", memory.owned, "MiB of tensors and arrays")


def _parts_drawing(name: str, sizes: Mapping[str, int], x: str) -> draw.Figure:
    figure = parts_figure({part: size / _MIB for part, size in sizes.items()}, x)
    return draw.Figure(name, page_text("memory_words", sizes=sizes), figure, page_text(f"memory_{name}"))


@draw.styled
def course_figure(course: Sequence[tuple[float, int, int]]) -> draw.Drawing:
    """Memory over time: (seconds, bytes resident, bytes on the heap), as the pass `heap` records it."""
    figure, axes = draw.new_plot(draw.NARROW, 2.8, "seconds of wall time", "MiB", "y")
    seconds = [moment[0] for moment in course]
    for place, (name, colour, line) in enumerate((("resident", 0, "--"), ("on the heap", 5, "-"))):
        sizes = [moment[1 + place] / _MIB for moment in course]
        axes.plot(seconds, sizes, line, color=draw.PALETTE[colour], label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


@draw.styled
def parts_figure(parts: Mapping[str, float], label: str, most: int = 12) -> draw.Drawing:
    """A quantity by its parts, one bar each in descending order; at most ``most`` bars."""
    kept = dict(sorted(parts.items(), key=lambda part: -part[1])[:most])
    figure, axes = draw.new_plot(draw.NARROW, 0.8 + 0.3 * max(len(kept), 1), label)
    bars = axes.barh(range(len(kept)), list(kept.values()), color=draw.PALETTE[0], height=0.7)
    axes.bar_label(bars, [f"{size:,.1f}" for size in kept.values()], padding=4, fontsize=8)
    axes.set_yticks(range(len(kept)), list(kept))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return figure


def _tables(records: Records, kind: str = "tables") -> Iterator[Table]:
    ops, lines = records.get("ops"), records.get("lines")
    shares = [(one.own_s / ops.own_s, one) for one in ops.top] if ops else []
    ran = [(function, line) for function in lines.functions for line in function.lines] if lines else []
    for one, rows in _evaluated(kind, {**records, "shares": shares, "ran": ran}):
        yield table(one["name"], one["caption"], columns(one["columns"]), rows)


def as_text(name: str, record: Record) -> str:
    """The numbers and tables of one pass for a terminal; of the pass ``cpu`` the call tree."""
    records = cast("Records", {name: record})
    numbers = table("numbers", "Memory", columns("numbers"), memory_numbers(records))
    shown = (numbers, *_tables(records, "parts"), *_tables(records))
    parts = [f"{one.caption}\n{text_table(one.rows('text'))}" for one in shown if one.body]
    if isinstance(record, CpuProfile):
        parts.append(f"Call tree (pyinstrument, {record.samples} samples in {record.sampled_s:.2f} s)\n{record.tree}")
    return "\n\n".join(parts)

"""The report of a soak: a page and a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.soak.figures import chunk_figure, held_figure, memory_figure, schedule_figure
from benchmarks.soak.findings import LIMIT, WORTH, Change, Findings, Growth, Held, Log, findings, read_log
from whisperlab.experiments.significance import PairedResult
from whisperlab.report.figure import Figure
from whisperlab.report.page import render_page, write_page
from whisperlab.report.tables import Column, Table, milliseconds, table
from whisperlab.util.files import write_atomic
from whisperlab.util.json_values import to_json
from whisperlab.util.validation import on_threads

_WORDS = {"equal": "equal", "slower": "SLOWER", "faster": "faster", "not enough data": "not enough data"}


@dataclass(slots=True, frozen=True)
class SoakReport:
    """A log and its evaluation."""

    log: Log
    found: Findings
    command: str

    @property
    def size(self) -> str:
        """The length of the soak as text."""
        cut = "" if self.log.whole else ", incomplete"
        return f"{_length(self.log.fed_s)} of audio in {_length(self.log.samples[-1]['elapsed'])}{cut}"

    def to_dict(self) -> dict[str, object]:
        """Header, findings, pieces, and the samples without the times of single chunks."""
        samples = [{name: sample[name] for name in sample if name != "raw"} for sample in self.log.samples]
        return {
            **self.log.header,
            "kind": "soak",
            "heard_s": self.log.fed_s,
            "whole": self.log.whole,
            "command": self.command,
            "found": self.found.to_dict(),
            "pieces": list(self.log.pieces),
            "samples": samples,
        }

    def page(self, *, now: datetime | None = None) -> str:
        """The page as text."""
        varying = [held for held in self.found.held if held.limit is not None or held.least != held.most]
        return render_page(
            Path(__file__).with_name("soak.html.j2"),
            report=self,
            created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
            warnings=list(warnings(self.log, self.found)),
            findings=list(conclusions(self.log, self.found)),
            drawings=dict(_drawings(self.log, self.found)),
            growth=table("growth", "Growth after the warm-up", _GROWTH, self.found.growth),
            held=table("held", "Collections after the warm-up", _HELD, varying),
            changes=_changes(self.found),
            stages=table("stages", "CPU time of each stage, last window / first window", _STAGES, self.found.stages),
            n_constant=len(self.found.held) - len(varying),
        )


def from_log(path: str | Path, command: str) -> SoakReport:
    """The report of a log. Raises TraceError if the log is damaged or too short."""
    log = read_log(path)
    return SoakReport(log, findings(log), command)


def write_soak(report: SoakReport, page: str | Path) -> tuple[Path, Path]:
    """Write the page, and the JSON file beside it."""
    page = Path(page)
    text = json.dumps(to_json(report.to_dict()), ensure_ascii=False, allow_nan=False, indent=1)
    return write_page(page, report.page()), write_atomic(page.with_suffix(".json"), f"{text}\n".encode())


def conclusions(log: Log, found: Findings) -> Iterator[str]:
    """The conclusions, one sentence each."""
    yield _memory_words(found)
    yield _held_words(found)
    if not found.changes:
        yield "Latency: not compared, because the stream ended before its last window"
    for change in found.changes:
        yield (
            f"Chunk {change.measure}, last window against the first: {_WORDS[change.call]}. "
            f"CPU time {milliseconds(change.first)} and {milliseconds(change.last)} ms, "
            f"{_share(change.ratio)} ({_share(change.low)} to {_share(change.high)}) corrected for the machine, "
            f"{_share(change.uncorrected)} uncorrected; wall time {_share(change.wall)}; n {change.n:,} in each"
        )
    if found.machine:
        yield (
            f"Machine: the reference process took {milliseconds(found.machine.first)} ms in the first window and "
            f"{milliseconds(found.machine.last)} ms in the last, {_share(found.machine.ratio)} "
            f"({_share(found.machine.low)} to {_share(found.machine.high)})"
        )
    if found.work:
        unlike = {name: counts for name, counts in found.work.items() if counts[0] != counts[1]}
        words = "; ".join(f"{name} {a:,} and {b:,} times" for name, (a, b) in unlike.items())
        yield f"Work in the two windows: {words or 'the same number of runs of every operation'}"
    elapsed = log.samples[-1]["elapsed"]
    took = f"{_length(elapsed)}, {elapsed / log.fed_s:.2f} of real time{on_threads(log.header['threads'])}"
    yield f"{_length(log.fed_s)} of audio took {took}"


def warnings(log: Log, found: Findings) -> Iterator[str]:
    """Failed checks, and limits of this soak."""
    if not log.whole:
        planned = _length(log.header["plan"]["duration_s"])
        yield f"The soak is incomplete: {_length(log.fed_s)} of {planned}"
    if found.memory_holds is False:
        yield _memory_words(found)
    for held in found.held:
        if not held.within:
            words = "grows" if held.grows else "is above its limit"
            yield f"{held.name} {words}: {held.least:,} to {held.most:,}"
    for change in found.changes:
        if change.call == "slower":
            yield f"Chunk {change.measure} changed by {_share(change.ratio)} in the last window"


def _memory_words(found: Findings) -> str:
    growth = found.resident
    if growth.slope is None or growth.low is None or growth.high is None:
        return "Resident memory: the stream was too short after the warm-up for a slope"
    result = {
        True: f"below {LIMIT:g} MB per hour",
        False: f"{LIMIT:g} MB per hour or MORE",
        None: f"not enough data to decide whether it is below {LIMIT:g} MB per hour",
    }[found.memory_holds]
    return (
        f"Resident memory grows by {growth.slope:+.2f} MB per hour of audio ({growth.low:+.2f} to {growth.high:+.2f}): "
        f"{result}; {growth.first:,.1f} MB after the warm-up, {growth.last:,.1f} at the end"
    )


def _held_words(found: Findings) -> str:
    if not found.held:
        return "Collections: the stream was too short after the warm-up"
    bad = [held.name for held in found.held if not held.within]
    if bad:
        return f"Collections that grow or exceed their limit: {', '.join(bad)}"
    n_limits = sum(held.limit is not None for held in found.held)
    return f"All {len(found.held)} collections are bounded: none grows, and {n_limits} are within their own limit"


def _drawings(log: Log, found: Findings) -> Iterable[tuple[str, Figure]]:
    yield (
        "memory",
        Figure(
            "memory",
            _memory_words(found),
            memory_figure(log, found.resident),
            "Minimum of each minute. Grey: warm-up; blue: compared windows. Dotted: slope of resident memory. Heap is "
            "the memory allocated by malloc, heap free the memory that malloc keeps for later.",
        ),
    )
    yield (
        "latency",
        Figure(
            "chunks",
            "milliseconds of a chunk over hours of audio",
            chunk_figure(log),
            "Medians per minute of the percentiles of 8 s. The audio, and so the cost, differs from minute to minute: "
            "compare the blue windows, which have the same audio.",
        ),
    )
    yield (
        "held",
        Figure(
            "held", _held_words(found), held_figure(log), "Size of everything with a limit, in percent of the limit."
        ),
    )
    yield (
        "schedule",
        Figure("schedule", f"{len(log.pieces)} pieces of sound", schedule_figure(log), "The sounds over time."),
    )


def _changes(found: Findings) -> Table:
    caption = "Latency of a chunk in milliseconds of CPU time, for the same audio at the beginning and at the end"
    return table("changes", caption, _CHANGES, found.changes)


_GROWTH: tuple[Column[Growth], ...] = (
    Column("Measure", "Kind of memory or count", lambda g: g.measure.replace("_", " ")),
    Column("First", "The first minute after the warm-up", lambda g: g.first, "{:,.1f}".format, lambda g: g.unit),
    Column("Last", "The last minute", lambda g: g.last, "{:,.1f}".format, lambda g: g.unit),
    Column(
        "Per hour",
        "Median of all slopes, per hour of audio (95 % interval)",
        lambda g: g.slope,
        "{:+,.2f}".format,
        lambda g: "" if g.low is None or g.high is None else f"{g.low:+,.2f} to {g.high:+,.2f}",
    ),
    Column("Minutes", "Number of points", lambda g: g.n),
)

_HELD: tuple[Column[Held], ...] = (
    Column("Collection", "Path of attributes from the transcriber", lambda h: h.name),
    Column("Least", "After the warm-up", lambda h: h.least, "{:,}".format),
    Column("Most", "After the warm-up", lambda h: h.most, "{:,}".format),
    Column("Limit", "Largest allowed size, if it has one", lambda h: h.limit, "{:,}".format),
    Column("Per hour", "Median of all slopes, per hour of audio", lambda h: h.an_hour, "{:+,.1f}".format),
    Column("Result", "Whether it is bounded", lambda h: "bounded" if h.within else "NOT BOUNDED"),
)

_CHANGES: tuple[Column[Change], ...] = (
    Column("Percentile", "Of all chunks of the window", lambda c: c.measure),
    Column("First", "Milliseconds of CPU time", lambda c: c.first, milliseconds),
    Column("Last", "Milliseconds of CPU time", lambda c: c.last, milliseconds),
    Column(
        "Last / first",
        "Corrected for the machine (95 % interval over pairs of blocks)",
        lambda c: c.ratio,
        "{:.3f}".format,
        lambda c: f"{c.low:.3f} to {c.high:.3f}",
    ),
    Column("Uncorrected", "Without the correction for the machine", lambda c: c.uncorrected, "{:.3f}".format),
    Column("Wall time", "Ratio of wall times, uncorrected", lambda c: c.wall, "{:.3f}".format),
    Column("Result", f"Equal: the interval lies within {WORTH:.0%}", lambda c: _WORDS[c.call]),
)

_STAGES: tuple[Column[PairedResult], ...] = (
    Column("Operation", "The part of the pipeline", lambda v: v.measure),
    Column("Blocks", "Number of pairs of 8 s of the same audio", lambda v: v.n),
    Column(
        "Last / first",
        "Corrected for the machine (95 % interval)",
        lambda v: v.value,
        "{:.3f}".format,
        lambda v: f"{v.low:.3f} to {v.high:.3f}",
    ),
    Column("p", "Signed-rank test with Holm's correction", lambda v: v.p, "{:.2g}".format),
    Column("Result", f"No difference: the interval lies within {WORTH:.0%}", lambda v: v.conclusion),
)


def _length(length_s: float) -> str:
    """A duration as text.

    >>> _length(10800), _length(192.4)
    ('3 h 0 min', '3 min 12 s')
    """
    minutes, rest_s = divmod(round(length_s), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest_s} s"


def _share(ratio: float) -> str:
    return "not measured" if math.isnan(ratio) else f"{ratio - 1:+.1%}"

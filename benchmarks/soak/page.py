"""The report of a soak: a log becomes one page, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.soak.figures import chunk_figure, held_figure, memory_figure, schedule_figure
from benchmarks.soak.findings import LIMIT, WORTH, Change, Findings, Growth, Held, Log, findings, read_log
from whisperlab.experiments.significance import Verdict
from whisperlab.report.figures import Drawing, to_svg
from whisperlab.report.page import render_page, write_page
from whisperlab.report.tables import Column, Table, milliseconds, table
from whisperlab.util.files import write_atomic
from whisperlab.util.validation import on_threads

_WORDS = {
    "equal": "equal",
    "slower": "SLOWER",
    "faster": "faster",
    "not enough data": "not enough data to say so",
}


@dataclass(slots=True, frozen=True)
class SoakReport:
    """A log and what was found in it."""

    log: Log
    found: Findings
    command: str

    @property
    def size(self) -> str:
        """How much was heard, in words."""
        cut = "" if self.log.whole else ", cut short"
        return f"{_length(self.log.heard_s)} of audio in {_length(self.log.samples[-1]['elapsed'])}{cut}"

    def to_dict(self) -> dict[str, Any]:
        """The header, what was found, what was heard, and the samples without single chunks."""
        samples = [{name: sample[name] for name in sample if name != "raw"} for sample in self.log.samples]
        return {
            **self.log.header,
            "kind": "soak",
            "heard_s": self.log.heard_s,
            "whole": self.log.whole,
            "command": self.command,
            "found": _finite(self.found.to_dict()),
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
            findings=list(told(self.log, self.found)),
            drawings=dict(_drawings(self.log, self.found)),
            growth=table("growth", "Growth after the warm-up", _GROWTH, self.found.growth),
            held=table("held", "What is held after the warm-up", _HELD, varying),
            changes=_changes(self.found),
            stages=table(
                "stages", "Processor time of each stage, last window / first", _STAGES, self.found.stages
            ),
            n_constant=len(self.found.held) - len(varying),
        )


def from_log(path: str | Path, command: str) -> SoakReport:
    """The report of a log. Raises TraceError when it is damaged, or too short to say anything."""
    log = read_log(path)
    return SoakReport(log, findings(log), command)


def write_soak(report: SoakReport, page: str | Path) -> tuple[Path, Path]:
    """Write the page, and beside it the JSON."""
    page = Path(page)
    told = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False, indent=1)
    return write_page(page, report.page()), write_atomic(page.with_suffix(".json"), f"{told}\n".encode())


def told(log: Log, found: Findings) -> Iterator[str]:
    """The verdicts, a sentence each."""
    yield _memory_words(found)
    yield _held_words(found)
    if not found.changes:
        yield "Latency: the stream was not heard to its last window, so there is nothing to compare"
    for change in found.changes:
        yield (
            f"A chunk's {change.measure}, last window beside the first: {_WORDS[change.call]}, "
            f"{milliseconds(change.first)} and {milliseconds(change.last)} ms of processor time, "
            f"{_share(change.ratio)} ({_share(change.low)} to {_share(change.high)}) corrected for the machine, "
            f"{_share(change.uncorrected)} as it was, {_share(change.wall)} by the wall; n {change.n:,} in each"
        )
    if found.machine:
        yield (
            f"The machine: a young process took {milliseconds(found.machine.first)} ms for its piece of work in the "
            f"first window and {milliseconds(found.machine.last)} in the last, {_share(found.machine.ratio)} "
            f"({_share(found.machine.low)} to {_share(found.machine.high)})"
        )
    if found.work:
        unlike = {name: counts for name, counts in found.work.items() if counts[0] != counts[1]}
        words = "; ".join(f"{name} {a:,} and {b:,} times" for name, (a, b) in unlike.items())
        yield f"The work in the two windows: {words or 'every operation ran as often in one as in the other'}"
    elapsed = log.samples[-1]["elapsed"]
    took = f"{_length(elapsed)}, {elapsed / log.heard_s:.2f} of real time{on_threads(log.header['threads'])}"
    yield f"{_length(log.heard_s)} of audio took {took}"


def warnings(log: Log, found: Findings) -> Iterator[str]:
    """What does not hold, and what this soak cannot say."""
    if not log.whole:
        planned = _length(log.header["plan"]["duration_s"])
        yield f"The soak was cut short: {_length(log.heard_s)} of {planned} were heard"
    if found.memory_holds is False:
        yield _memory_words(found)
    for held in found.held:
        if not held.within:
            words = "grows" if held.grows else "is above its limit"
            yield f"{held.name} {words}: {held.least:,} to {held.most:,}"
    for change in found.changes:
        if change.call == "slower":
            yield f"A chunk's {change.measure} is {_share(change.ratio)} in the last window"


def _memory_words(found: Findings) -> str:
    growth = found.resident
    if growth.slope is None or growth.low is None or growth.high is None:
        return "Resident memory: too little was heard after the warm-up for a slope"
    verdict = {
        True: f"below {LIMIT:g} MB an hour",
        False: f"{LIMIT:g} MB an hour or MORE",
        None: f"not enough data to tell whether it is below {LIMIT:g} MB an hour",
    }[found.memory_holds]
    return (
        f"Resident memory grows by {growth.slope:+.2f} MB an hour of audio ({growth.low:+.2f} to {growth.high:+.2f}): "
        f"{verdict}; {growth.first:,.1f} MB after the warm-up, {growth.last:,.1f} at the end"
    )


def _held_words(found: Findings) -> str:
    if not found.held:
        return "Collections: too little was heard after the warm-up"
    bad = [held.name for held in found.held if not held.within]
    if bad:
        return f"Collections that grow or are above their limit: {', '.join(bad)}"
    n_limits = sum(held.limit is not None for held in found.held)
    return (
        f"All {len(found.held)} collections are bounded: none grows, and {n_limits} keep a limit of their own"
    )


def _drawings(log: Log, found: Findings) -> Iterable[tuple[str, Drawing]]:
    yield (
        "memory",
        Drawing(
            (to_svg(memory_figure(log, found.resident), "memory", _memory_words(found)),),
            "The least of each minute. Grey: warm-up; blue: the windows that are compared. Dotted: the slope of "
            "resident memory. Heap is what malloc has given out, heap free what it keeps for later.",
        ),
    )
    yield (
        "latency",
        Drawing(
            (to_svg(chunk_figure(log), "chunks", "milliseconds of a chunk over hours of audio"),),
            "Medians over the minute of the percentiles of 8 s. What is heard differs from minute to minute, and the "
            "cost with it: compare the blue windows, which are the same audio.",
        ),
    )
    yield (
        "held",
        Drawing(
            (to_svg(held_figure(log), "held", _held_words(found)),),
            "How full everything is that has a limit.",
        ),
    )
    yield (
        "schedule",
        Drawing(
            (to_svg(schedule_figure(log), "schedule", f"{len(log.pieces)} pieces of sound"),),
            "What was heard when.",
        ),
    )


def _changes(found: Findings) -> Table:
    caption = (
        "Latency of a chunk in milliseconds of processor time, the same audio at the beginning and at the end"
    )
    return table("changes", caption, _CHANGES, found.changes)


_GROWTH: tuple[Column[Growth], ...] = (
    Column("Measure", "What was read", lambda g: g.measure.replace("_", " ")),
    Column(
        "First",
        "The first minute after the warm-up",
        lambda g: g.first,
        "{:,.1f}".format,
        lambda g: g.unit,
    ),
    Column("Last", "The last minute", lambda g: g.last, "{:,.1f}".format, lambda g: g.unit),
    Column(
        "An hour",
        "Median of all slopes, per hour of audio (95 % interval)",
        lambda g: g.slope,
        "{:+,.2f}".format,
        lambda g: "" if g.low is None or g.high is None else f"{g.low:+,.2f} to {g.high:+,.2f}",
    ),
    Column("Minutes", "How many moments", lambda g: g.n),
)

_HELD: tuple[Column[Held], ...] = (
    Column("Collection", "Path of attributes from the transcriber", lambda h: h.name),
    Column("Least", "After the warm-up", lambda h: h.least, "{:,}".format),
    Column("Most", "After the warm-up", lambda h: h.most, "{:,}".format),
    Column("Limit", "What it may hold, where it says so", lambda h: h.limit, "{:,}".format),
    Column("An hour", "Median of all slopes, per hour of audio", lambda h: h.an_hour, "{:+,.1f}".format),
    Column("Verdict", "Whether it is bounded", lambda h: "bounded" if h.within else "NOT BOUNDED"),
)

_CHANGES: tuple[Column[Change], ...] = (
    Column("Percentile", "Of all chunks of the window", lambda c: c.measure),
    Column("First", "Milliseconds of processor time", lambda c: c.first, milliseconds),
    Column("Last", "Milliseconds of processor time", lambda c: c.last, milliseconds),
    Column(
        "Last / first",
        "Corrected for the machine (95 % interval of blocks in pairs)",
        lambda c: c.ratio,
        "{:.3f}".format,
        lambda c: f"{c.low:.3f} to {c.high:.3f}",
    ),
    Column("As it was", "Not corrected", lambda c: c.uncorrected, "{:.3f}".format),
    Column("By the wall", "Of wall time, not corrected", lambda c: c.wall, "{:.3f}".format),
    Column("Verdict", f"Equal: the interval lies within {WORTH:.0%}", lambda c: _WORDS[c.call]),
)

_STAGES: tuple[Column[Verdict], ...] = (
    Column("Operation", "The part of the pipeline", lambda v: v.measure),
    Column("Blocks", "Pairs of 8 s of the same audio", lambda v: v.n),
    Column(
        "Last / first",
        "Corrected for the machine (95 % interval)",
        lambda v: v.value,
        "{:.3f}".format,
        lambda v: f"{v.low:.3f} to {v.high:.3f}",
    ),
    Column("p", "Signed ranks, corrected for many looks (Holm)", lambda v: v.p, "{:.2g}".format),
    Column("Verdict", f"No difference: the interval lies within {WORTH:.0%}", lambda v: v.call),
)


def _length(length_s: float) -> str:
    """Seconds for people.

    >>> _length(10800), _length(192.4)
    ('3 h 0 min', '3 min 12 s')
    """
    whole = round(length_s)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s"


def _share(ratio: float) -> str:
    return "not measured" if math.isnan(ratio) else f"{ratio - 1:+.1%}"


def _finite(value: Any) -> Any:
    """NaN as None, which is all that JSON can say of it."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The report of a sweep: rows or traces become a plain record, and the record renders itself as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from whisperlab.evaluation.scoring.latency import response_p95
from whisperlab.evaluation.scoring.summary import score_trace
from whisperlab.evaluation.trace import Trace, provenance, read_trace
from whisperlab.experiments.results_store import flat_config, nested_config
from whisperlab.report import figures
from whisperlab.report.baseline import Pair, baseline_table, pairs
from whisperlab.report.counts import (
    Result,
    check_row,
    config_name,
    measured_alike,
    results,
    varying,
)
from whisperlab.report.figures import Drawing
from whisperlab.report.findings import TRUSTED, findings, warnings
from whisperlab.report.page import render_page, write_page
from whisperlab.report.recording import views
from whisperlab.report.search import search_section
from whisperlab.report.tables import Table, flat_rows, operation_table, result_table, run_table
from whisperlab.util.errors import TraceError

Json = Mapping[str, Any]

PAGE_LIMIT = 8_000_000  # bytes: what people can still mail
SOUND_LIMIT = 4_000_000  # of them for players
MAX_RECORDINGS = 6
MAX_BARS = 24  # more do not fit on a screen
MAX_HEATMAPS = 12
MAX_RUNS = 2000  # in the list of all runs


@dataclass(slots=True, frozen=True)
class SweepReport:
    """A sweep as a report tells it; all of it is plain data, ``render`` makes the page.

    ``rows`` are all runs as they came, ``results`` the finished ones added up per configuration, ``fields``
    what the configurations differ in. ``shown`` is the configuration whose timelines and latency are shown
    (least language error), ``traces`` its recordings, ``contrasts`` the same recordings under ``contrast``,
    the configuration that answered most look-ups wrongly. ``origin`` says where the runs were made.
    """

    title: str
    created: str
    command: str | None
    rows: tuple[Json, ...]
    fields: tuple[str, ...]
    results: tuple[Result, ...]
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    shown: Result | None
    contrast: Result | None
    traces: tuple[Trace, ...]
    contrasts: tuple[Trace, ...]
    origin: Json
    baseline: tuple[Pair, ...] = ()

    @property
    def constant(self) -> dict[str, Any]:
        """The fields of the configuration that all runs share."""
        first = self.rows[0]["config"] if self.rows else {}
        return nested_config({name: value for name, value in first.items() if name not in self.fields})

    @property
    def n_recordings(self) -> int:
        """How many different recordings were run."""
        return len({row["recording"] for row in self.rows})

    @property
    def splits(self) -> list[str]:
        """The splits the recordings are of."""
        return sorted({str(row.get("split") or "") for row in self.rows} - {""})

    @property
    def audio_s(self) -> float:
        """Seconds of different audio."""
        lengths = {row["recording"]: row.get("duration") or 0.0 for row in self.rows}
        return float(sum(lengths.values()))

    def render(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs nothing else; return its path.

        A page that would be over 8 MB is made without players.
        """
        page = self.html()
        if len(page.encode()) > PAGE_LIMIT:
            page = replace(self, warnings=(*self.warnings, _NO_PLAYERS)).html(sound_limit=0)
        return write_page(path, page)

    def html(self, sound_limit: int = SOUND_LIMIT) -> str:
        """The page as text, with at most ``sound_limit`` characters of sound in it."""
        name = self.shown.name if self.shown else ""
        rival = self.contrast.name if self.contrast else ""
        failed_first = sorted(self.rows, key=lambda row: row["status"] == "ok")
        listed = self.rows if len(self.rows) <= MAX_RUNS else failed_first[:MAX_RUNS]
        contrasts = {trace.recording: (rival, trace) for trace in self.contrasts}
        return render_page(
            "sweep.html.j2",
            report=self,
            tables=_tables(self),
            runs=run_table(listed, self.fields),
            latency=operation_table(self.results),
            outcomes=_outcomes(self.results),
            heatmaps=_heatmaps(self.results, self.fields),
            tradeoff=_tradeoff(self.results),
            search=search_section(self.results, self.splits),
            speed=_speed(self.shown),
            recordings=list(views([(name, trace) for trace in self.traces], contrasts, sound_limit)),
            flat=flat_rows(listed),
            baseline=baseline_table(self.baseline) if self.baseline else None,
        )

    def beside(self, earlier: SweepReport) -> SweepReport:
        """The same report with an earlier one as its baseline."""
        found = tuple(pairs(self.results, earlier.results, self.fields))
        told = () if found else (_NO_PAIRS,)
        return replace(self, baseline=found, warnings=(*self.warnings, *told))


def from_rows(
    rows: Iterable[Json],
    *,
    folder: str | Path = ".",
    title: str = "Sweep",
    command: str | None = None,
    remarks: Sequence[str] = (),
    now: datetime | None = None,
) -> SweepReport:
    """The report of a results store; traces are read from the rows' ``trace`` paths, relative to ``folder``.

    ``remarks`` are what the page should warn of besides. A trace that is missing or damaged costs its timeline and
    leaves a warning. Raises SweepError for a row without configuration, recording or status.
    """
    return _report(rows, lambda row: read_trace(Path(folder) / row["trace"]), title, command, now, remarks)


def from_traces(
    traces: Iterable[Trace], *, title: str = "Traces", command: str | None = None, now: datetime | None = None
) -> SweepReport:
    """The report of traces alone; each with a reference is scored here."""
    kept = {str(number): trace for number, trace in enumerate(traces)}
    rows = [_row_of(key, trace) for key, trace in kept.items()]
    return _report(rows, lambda row: kept[row["key"]], title, command, now)


_NO_PAIRS = "Nothing to compare: no configuration of the baseline was run over the same recordings."
_NO_PLAYERS = "With sound the page would be over 8 MB: the players were left out."


def _report(
    rows: Iterable[Json],
    load: Callable[[Json], Trace],
    title: str,
    command: str | None,
    now: datetime | None,
    remarks: Sequence[str] = (),
) -> SweepReport:
    every = tuple({**check_row(row), "config": flat_config(row["config"])} for row in rows)
    finished = [row for row in every if row["status"] == "ok"]
    fields = varying([row["config"] for row in finished])
    told = results(finished, fields)
    shown, contrast = _best(told), _worst(told)
    traces, notes = _load(_choice(shown), load)
    chosen = {trace.recording for trace in traces}
    rivals = [row for row in contrast.rows if row["recording"] in chosen] if contrast else []
    contrasts, more = _load(rivals, load)
    failures = [row for row in every if row["status"] != "ok"]
    return SweepReport(
        title=title,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        command=command,
        rows=every,
        fields=fields,
        results=told,
        findings=findings(told),
        warnings=warnings(told, failures, [*remarks, *notes, *more, *_mixed(traces + contrasts)]),
        shown=shown,
        contrast=contrast,
        traces=tuple(traces),
        contrasts=tuple(contrasts),
        origin=_origin(traces),
    )


def _row_of(key: str, trace: Trace) -> dict[str, Any]:
    score = score_trace(trace) if trace.reference else None
    return {
        "key": key,
        "config": trace.config,
        "recording": trace.recording,
        "status": "ok",
        "counts": score.to_dict() if score else None,
        "rates": score.rates() if score else None,
        "statistics": trace.statistics,
        "duration": trace.duration,
        "compute_s": trace.compute_s,
        "response_p95_s": response_p95(trace),
        "peak_rss_bytes": trace.events[-1]["peak_rss_bytes"],
        "threads": trace.config.get("threads"),
        "created": trace.header["created"],
    }


def _best(told: Sequence[Result]) -> Result | None:
    """The least language error, and of equals the one that saves most; the first when nothing was scored."""
    scored = [result for result in told if result.language_error is not None]
    return min(
        scored,
        key=lambda r: (r.language_error, -(r.cache.saved_share or 0.0)),
        default=next(iter(told), None),
    )


def _worst(told: Sequence[Result]) -> Result | None:
    """The most look-ups answered wrongly, if any configuration is beyond trust."""
    wrong = [result for result in told if (result.cache.wrong_share or 0.0) > TRUSTED]
    return max(wrong, key=lambda result: result.cache.wrong_share or 0.0, default=None)


def _choice(result: Result | None) -> list[Json]:
    """The recordings to show, taking turns over the corpora."""
    corpora: dict[object, list[Json]] = {}
    for row in result.rows if result else ():
        corpora.setdefault(row.get("corpus"), []).append(row)
    turns = chain.from_iterable(zip_longest(*corpora.values()))
    return [row for row in turns if row is not None][:MAX_RECORDINGS]


def _load(rows: Iterable[Json], load: Callable[[Json], Trace]) -> tuple[list[Trace], list[str]]:
    traces, notes = [], []
    for row in rows:
        try:
            traces.append(load(row))
        except (TraceError, KeyError, TypeError) as error:
            notes.append(f"No timeline of {row['recording']}: its trace cannot be read ({error}).")
    return traces, notes


def _mixed(traces: Iterable[Trace]) -> list[str]:
    """Warnings for traces that were not made alike."""
    places = {str([trace.header.get(part) for part in ("machine", "versions", "commit")]) for trace in traces}
    if len(places) < 2:
        return []
    return [
        f"The traces come from {len(places)} different machines, versions or commits: do not compare times."
    ]


def _origin(traces: Sequence[Trace]) -> Json:
    made: Json = traces[0].header if traces else provenance()
    return {name: made.get(name) for name in ("whisperlab", "commit", "machine", "versions")}


def _tables(report: SweepReport) -> list[Table]:
    """All runs, and each corpus by itself: spliced and natural speech are not of one difficulty."""
    whole = result_table("configurations", "All recordings together", report.results)
    finished = [row for result in report.results for row in result.rows]
    corpora = dict.fromkeys(str(row.get("corpus") or "no corpus") for row in finished)
    if len(corpora) < 2:
        return [whole]
    return [whole] + [
        result_table(
            f"corpus-{number}",
            f"Corpus {corpus} alone",
            results(
                [row for row in finished if str(row.get("corpus") or "no corpus") == corpus], report.fields
            ),
        )
        for number, corpus in enumerate(corpora)
    ]


def _outcomes(told: Sequence[Result]) -> Drawing | None:
    asked = [result for result in told if result.cache.lookups]
    if not asked:
        return None
    kept = asked if len(asked) <= MAX_BARS else _largest(asked)[:MAX_BARS]
    left_out = f" ({len(kept)} of {len(asked)} configurations)" if len(kept) < len(asked) else ""
    alt = "; ".join(_outcome_words(result) for result in kept)
    return Drawing(
        (figures.to_svg(figures.outcomes_figure(kept), "outcomes", alt),),
        "What became of every 100 times the cache was asked for an encoding"
        f"{left_out}. Grey is work done, green is work spared, hatched red is work spared by answering with "
        "another sound's encoding. The share of wrong answers is that of the hits that were recomputed.",
    )


def _largest(asked: Sequence[Result]) -> list[Result]:
    """The configurations with the largest cache."""
    size = max(result.config.get("cache_size") or 0 for result in asked)
    return [result for result in asked if (result.config.get("cache_size") or 0) == size]


def _outcome_words(result: Result) -> str:
    cache = result.cache
    wrong = "unknown" if cache.wrong_share is None else f"{cache.wrong_share:.0%}"
    return f"{result.name}: {cache.hit_rate:.0%} answered from the cache, {wrong} of all wrongly"


def _heatmaps(told: Sequence[Result], fields: Sequence[str]) -> list[Drawing]:
    """One for each way the other fields are set, where precision or size was varied within it."""
    others = ["key", *(name for name in fields if name not in ("key", "cache_size", "hash_precision"))]
    facets: dict[str, list[Result]] = {}
    for result in told:
        if result.cache.lookups:
            facets.setdefault(config_name(result.config, others), []).append(result)
    grids = [(name, facet) for name, facet in facets.items() if len(facet) > 1]
    return [_heatmap(number, name, facet) for number, (name, facet) in enumerate(grids[:MAX_HEATMAPS])]


def _heatmap(number: int, name: str, facet: Sequence[Result]) -> Drawing:
    alt = f"{name}: " + "; ".join(map(_outcome_words, facet))
    left = figures.to_svg(figures.heatmap_figure(facet, "hit_rate"), f"hits-{number}", "Hit rate of " + alt)
    right = figures.to_svg(
        figures.heatmap_figure(facet, "false_hit_rate"), f"false-{number}", "False-hit rate of " + alt
    )
    return Drawing(
        (left, right),
        f"{name}: how often the cache answered, and beside it how often a checked answer stood for "
        "another language. A bright cell is worth nothing when its neighbour is bright too.",
    )


def _tradeoff(told: Sequence[Result]) -> Drawing | None:
    placed = [
        r for r in measured_alike(told) if r.cache.saved_share is not None and r.language_error is not None
    ]
    if len(placed) < 2:
        return None
    alt = "; ".join(
        f"{r.name}: {r.cache.saved_share:.0%} saved, error {r.language_error:.1%}" for r in placed
    )
    return Drawing(
        (figures.to_svg(figures.tradeoff_figure(placed), "tradeoff", alt),),
        "What the saving costs. A useful cache moves a point to the right without lifting it.",
    )


def _speed(shown: Result | None) -> Drawing | None:
    if shown is None or not shown.operations:
        return None
    alt = "; ".join(f"{o.name}: median {o.p50:.3g} ms, p95 {o.p95:.3g} ms" for o in shown.operations)
    return Drawing(
        (figures.to_svg(figures.latency_figure(shown.operations), "latency", alt),),
        f"How long each operation takes with {shown.name}: half of the calls are faster than p50, one in "
        "twenty is slower than p95, one in a hundred slower than p99 (the worst recording's)."
        f"{_timing_cost(shown.rows)}",
    )


def _timing_cost(rows: Iterable[Json]) -> str:
    """What measuring adds, as the runs measured it themselves (``self_cost_ns`` in their statistics)."""
    costs = [cost for row in rows if (cost := (row.get("statistics") or {}).get("self_cost_ns"))]
    return f" Measuring adds about {max(costs) / 1000:.2f} µs to each." if costs else ""

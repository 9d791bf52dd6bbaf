"""The report of a sweep: a results store, or traces, as one HTML page."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from whisperlab.evaluation.scoring import Score, rate_row, score_trace
from whisperlab.evaluation.scoring.summary import RateTree
from whisperlab.evaluation.trace import Trace, provenance, read_trace
from whisperlab.experiments.results_store import COLUMNS, SCHEMA, ResultsStore, Row, in_memory, measured, trace_path
from whisperlab.report import charts, counts, tables
from whisperlab.report.counts import KEY, PRECISION, QUERIES, SIZE, Result, config_name
from whisperlab.report.figure import Figure
from whisperlab.report.findings import findings, warnings
from whisperlab.report.page import page_text, render_page, write_page
from whisperlab.report.recording import views
from whisperlab.report.search import search_section
from whisperlab.report.systems import RATES, systems_figure, systems_table
from whisperlab.report.tables import columns, table
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat, nested
from whisperlab.util.statistics import interval_note

PAGE_LIMIT = 8_000_000  # bytes: a page that can be sent by mail
SOUND_LIMIT = 4_000_000  # of them for players
MAX_RECORDINGS = 6
MAX_BARS = 24  # that fit on a screen
MAX_HEATMAPS = 12
MAX_CORPUS_LINES = 100  # configurations in the table of one corpus
MAX_RUNS = 2000  # in the list of all runs

LoadTrace: TypeAlias = Callable[[Row], Trace]


class Extent(NamedTuple):
    """How much a store holds, failed runs included."""

    n_runs: int
    n_recordings: int
    n_finished_recordings: int  # with at least one finished run
    audio_s: float
    first_run: str | None  # when it was made
    last_run: str | None
    splits: tuple[str, ...]
    corpora: tuple[str | None, ...]


@dataclass(slots=True, frozen=True)
class SweepReport:
    """The contents of a page about a sweep; ``render`` writes the page.

    ``results`` are the finished runs by configuration, ``options`` those in which the configurations differ. Timelines
    and latencies are those of ``shown``, the configuration with the least language error; ``traces`` are some of its
    recordings. ``runs`` are the listed runs one by one, failed ones first where not all are listed. ``origin`` has
    the machine and versions of the traces.
    """

    title: str
    created: str
    command: str | None
    store: ResultsStore
    extent: Extent
    runs: tuple[Result, ...]
    options: tuple[str, ...]
    constant: Json
    results: tuple[Result, ...]
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    shown: Result | None
    traces: tuple[Trace, ...]
    origin: Json
    systems: tuple[RateTree, ...] = ()  # of traces

    @property
    def about_intervals(self) -> str:
        """Which speakers the intervals hold for; empty if no speaker is known."""
        return interval_note([*self.store.speakers().values()])

    def render(self, path: str | Path) -> Path:
        """Write the report as one HTML file; returns its path. A page that would be over 8 MB has no players."""
        page = self.html()
        if len(page.encode()) > PAGE_LIMIT and "<audio" in page:
            page = replace(self, warnings=(*self.warnings, page_text("warning_players"))).html(sound_limit=0)
        return write_page(path, page)

    def html(self, sound_limit: int = SOUND_LIMIT) -> str:
        """The page as text, with at most ``sound_limit`` characters of sound."""
        operations = [(result.name, operation) for result in self.results for operation in result.operations]
        each, latency = "Every run: one configuration on one recording", "Latency of every operation, in milliseconds"
        return render_page(
            "sweep.html.j2",
            report=self,
            recordings=list(views(self.traces, sound_limit)),
            tables=_tables(self),
            runs=table("runs", each, columns("runs"), self.runs),
            latency=table("latency", latency, columns("operations"), operations),
            outcomes=_outcomes(self.results),
            heatmaps=_heatmaps(self.results, self.options),
            tradeoff=_tradeoff(self.results),
            search=search_section(self.results),
            speed=_speed(self.shown) if self.shown and self.shown.operations else None,
            flat=[run.to_dict() for run in self.runs],
            systems=systems_table(self.systems) if self.systems else None,
            systems_figure=systems_figure(self.systems),
        )


def from_store(
    store: ResultsStore,
    *,
    folder: str | Path = ".",
    title: str = "Sweep",
    command: str | None = None,
    now: datetime | None = None,
    load: LoadTrace | None = None,
) -> SweepReport:
    """The report of a results store.

    ``load`` gives the trace of a row; by default it is read from the row's ``trace`` path, relative to ``folder``. The
    page omits the timeline of a trace that is missing or damaged, and says so. The store must stay open while the
    report is used. Raises SweepError for a damaged store.
    """
    load = load or (lambda row: read_trace(trace_path(folder, row)))
    found = counts.timed(store, counts.results(store))
    options = counts.varying([result.config for result in found])
    shown, traces, notes = _shown(store, found, load)
    extent = _extent(store)
    configs = {result.config_id: result.config for result in found}
    unfinished = [number for (number,) in store.sql("select config_id from configurations") if number not in configs]
    configs |= counts.configurations(store, unfinished)
    shared = {name: value for config in configs.values() for name, value in config.items() if name not in options}
    failures = store.sql(QUERIES["failures"])
    made: Json = traces[0].header if traces else provenance()
    return SweepReport(
        title=title,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        command=command,
        store=store,
        extent=extent,
        runs=_listed(store, extent.n_runs, configs, options),
        options=options,
        constant=nested(shared),
        results=found,
        findings=findings(found),
        warnings=warnings(found, extent.n_finished_recordings, failures[0] if failures else (0, ""), notes),
        shown=shown,
        traces=traces,
        origin={name: made.get(name) for name in ("whisperlab", "commit", "machine", "versions")},
    )


def from_traces(
    traces: Iterable[Trace], *, title: str = "Traces", command: str | None = None, now: datetime | None = None
) -> SweepReport:
    """The report of traces, or of stream logs, alone; each with a reference is scored here."""
    kept = {str(number): trace for number, trace in enumerate(traces)}
    scores = {key: score_trace(trace) for key, trace in kept.items() if trace.reference}
    store = in_memory(_row_of(key, trace, scores.get(key)) for key, trace in kept.items())
    made = from_store(store, title=title, command=command, now=now, load=lambda row: kept[row["key"]])
    grouped: dict[str, list[Score]] = {}
    for key, score in scores.items():
        grouped.setdefault(config_name(flat(kept[key].config), made.options), []).append(score)
    rng = np.random.default_rng(0)
    rows = ({"system": name.removeprefix("system "), **rate_row(own, RATES, rng)} for name, own in grouped.items())
    return replace(made, systems=tuple(rows))


def _extent(store: ResultsStore) -> Extent:
    groups = store.sql(QUERIES["recordings"])
    ((first_run, last_run, unfinished),) = store.sql(QUERIES["unfinished"])
    lengths = {group[0]: group[3] or 0.0 for group in groups}
    return Extent(
        n_runs=sum(group[4] for group in groups),
        n_recordings=len(lengths),
        n_finished_recordings=len(lengths) - unfinished,
        audio_s=sum(lengths.values()),
        first_run=first_run,
        last_run=last_run,
        splits=tuple(sorted({group[2] for group in groups if group[2]})),
        corpora=tuple(dict.fromkeys(group[1] for group in groups)),
    )


def _row_of(key: str, trace: Trace, score: Score | None) -> Row:
    named: Row = {"key": key, "schema": SCHEMA, "status": "ok", "created": trace.header["created"]}
    threads = (trace.config.get("compute") or {}).get("threads")
    return {**named, "config": trace.config, "recording": trace.recording, "threads": threads, **measured(trace, score)}


def _shown(
    store: ResultsStore, found: Sequence[Result], load: LoadTrace
) -> tuple[Result | None, tuple[Trace, ...], list[str]]:
    """The configuration to show with some of its traces, and warnings about the traces."""
    scored = [result for result in found if result.language_error is not None]
    # The least language error, and of equals the one that saves most; the first when nothing was scored.
    best = min(scored, key=lambda r: (r.language_error, -(r.cache.saved_share or 0.0)), default=next(iter(found), None))
    lines = store.sql(QUERIES["in_turn"], (best and best.config_id, MAX_RECORDINGS))
    traces, notes = list[Trace](), list[str]()
    for row in (row for line in lines for row in store.rows("id = ?", line)):
        try:
            traces.append(load(row))
        except (KeyError, TypeError, ValueError) as error:  # ValueError: a TraceError, or a path with a null byte
            notes.append(f"No timeline of {row['recording']}: its trace cannot be read ({error}).")
    origins = {str([trace.header.get(part) for part in ("machine", "versions", "commit")]) for trace in traces}
    if len(origins) > 1:
        notes.append(page_text("warning_origins", n=len(origins)))
    return best, tuple(traces), notes


def _listed(store: ResultsStore, n: int, configs: Mapping[int, Json], options: Sequence[str]) -> tuple[Result, ...]:
    columns = ("id", "config_id", *COLUMNS)
    query = f"select {', '.join(columns)} from results where status {{}} 'ok' order by id limit ?"
    lines = store.sql(query.format("<>"), (MAX_RUNS,))
    lines += store.sql(query.format("="), (MAX_RUNS - len(lines),))
    if n <= MAX_RUNS:
        lines.sort()
    runs = [dict(zip(columns, line, strict=True)) for line in lines]
    return tuple(Result.of(run, configs[run["config_id"]], options) for run in runs)


def _tables(report: SweepReport) -> list[tables.Table]:
    """All runs, and each corpus by itself: spliced and natural speech are not equally difficult."""
    found = [table("configurations", "All recordings together", columns("results"), report.results)]
    if len(report.extent.corpora) < 2:
        return found
    ids = [result.config_id for result in report.results[:MAX_CORPUS_LINES]]
    some = f", the first {len(ids)} configurations" if len(ids) < len(report.results) else ""
    where = "corpus is ? and config_id in (select value from json_each(?))"
    for number, corpus in enumerate(report.extent.corpora):
        own = counts.results(report.store, where, (corpus, json.dumps(ids)), report.options)
        title = f"Corpus {corpus or 'unknown'} alone{some}"
        found.append(table(f"corpus-{number}", title, columns("results"), own))
    return found


def _outcomes(found: Sequence[Result]) -> Figure | None:
    asked = [result for result in found if result.cache.lookups]
    if not asked:
        return None
    kept = asked
    if len(asked) > MAX_BARS:  # those with the largest cache
        size = max(result.config.get(SIZE) or 0 for result in asked)
        kept = [result for result in asked if (result.config.get(SIZE) or 0) == size][:MAX_BARS]
    words, caption = page_text("outcome_words", results=kept), page_text("outcomes", shown=len(kept), all=len(asked))
    return Figure("outcomes", words, charts.outcomes_figure(kept), caption)


def _heatmaps(found: Sequence[Result], options: Sequence[str]) -> list[tuple[Figure, Figure]]:
    """Hit and false-hit rates for each way the other fields are set, where precision or size was varied within it."""
    others = [KEY, *(name for name in options if name not in (KEY, SIZE, PRECISION))]
    facets: dict[str, list[Result]] = {}
    for result in found:
        if result.cache.lookups:
            facets.setdefault(config_name(result.config, others), []).append(result)
    grids = [(name, facet) for name, facet in facets.items() if len(facet) > 1]
    pairs_of_figures = []
    for number, (name, facet) in enumerate(grids[:MAX_HEATMAPS]):
        alt = f"rate of {name}: {page_text('outcome_words', results=facet)}"
        hits = charts.heatmap(facet, "hit_rate", f"hits-{number}", f"Hit {alt}", name)
        false = charts.heatmap(facet, "false_hit_rate", f"false-{number}", f"False-hit {alt}", page_text("false_hits"))
        pairs_of_figures.append((hits, false))
    return pairs_of_figures


def _tradeoff(found: Sequence[Result]) -> Figure | None:
    placed = [r for r in counts.measured_alike(found) if None not in (r.cache.saved_share, r.language_error)]
    if len(placed) < 2:
        return None
    return charts.tradeoff(placed, page_text("tradeoff_words", results=placed), page_text("tradeoff"))


def _speed(shown: Result) -> Figure:
    words, caption = page_text("latency_words", operations=shown.operations), page_text("latency", result=shown)
    return Figure("latency-picture", words, charts.latency_figure(shown.operations), caption)

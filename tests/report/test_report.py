"""The report: numbers added up, sentences that follow from them, a page that is whole and harmless."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_report import (
    SAID,
    configuration,
    failed_row,
    from_rows,
    make_row,
    make_trace,
    reference,
    statistics,
    sweep_rows,
    tone,
)

from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.scoring import Score, wilson
from whisperlab.evaluation.trace import Trace
from whisperlab.experiments.results_store import in_memory
from whisperlab.report import SweepReport, counts, from_traces, recording, timeline, write_index
from whisperlab.report import search as search_page
from whisperlab.report import sweep as sweep_module
from whisperlab.report.charts import outcomes_figure
from whisperlab.report.counts import KEY, PRECISION, SIZE, CacheCounts, Result, config_name, measured_alike, varying
from whisperlab.report.figure import INK, Figure
from whisperlab.report.findings import findings, warnings
from whisperlab.report.page import render_page, vega_script, write_page
from whisperlab.report.recording import FIXED, describe, detected_languages, language_colours
from whisperlab.report.search import search_section
from whisperlab.report.sweep import _tables
from whisperlab.report.tables import columns, milliseconds, table
from whisperlab.streaming.results import timed_words
from whisperlab.util.audio_arrays import audio_digest
from whisperlab.util.errors import AudioFormatError, ConfigurationError, MissingDependencyError
from whisperlab.util.options import flat
from whisperlab.util.timeline import SAMPLE_RATE

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ATTACK = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return sweep_rows(folder, n_recordings=2)


@pytest.fixture(scope="module")
def report(rows: list[dict[str, Any]], folder: Path) -> SweepReport:
    return from_rows(rows, folder=folder, title="A small sweep", command="whisperlab sweep", now=NOW)


@pytest.fixture(scope="module")
def small(folder: Path) -> SweepReport:
    """Two recordings of five seconds with sound, in one configuration."""
    traces = [
        make_trace(name, ("en",), config=configuration(), audio_path=tone(folder / f"{name}.wav", 5.0))
        for name in ("scene-0", "scene-1")
    ]
    return from_traces(traces, title="Two calls", now=NOW)


@pytest.fixture(scope="module")
def small_page(small: SweepReport) -> str:
    return small.html()


@pytest.fixture(scope="module")
def bare(small: SweepReport) -> SweepReport:
    """The two recordings without their timelines, which take longest to draw."""
    return replace(small, traces=())


@pytest.fixture(scope="module")
def page(report: SweepReport, folder: Path) -> str:
    return report.render(folder / "page" / "sweep.html").read_text(encoding="utf-8")


def row(
    hits: int, misses: int, checked: int = 0, false_hits: int = 0, decode: bool = True, **config: Any
) -> dict[str, Any]:
    """A finished row with nothing but a cache in it."""
    return {
        "config": {"cache": {"key": "rounded", "hash_precision": 6, "size": 50, **config}, "decode": decode},
        "recording": "scene-0",
        "status": "ok",
        "statistics": statistics(hits, misses, checked, false_hits),
    }


def results(rows: list[dict[str, Any]]) -> tuple[Result, ...]:
    return counts.results(in_memory(rows))


def sentences(*some: dict[str, Any]) -> str:
    return "\n".join(findings(results(list(some))))


# Adding up


def cache(*rows: dict[str, Any]) -> CacheCounts:
    (result,) = results(list(rows))
    return result.cache


def test_counts_add_before_rates_divide() -> None:
    # Means of the runs' rates would be 0.5 and 0.75; one run is ten times as long as the other.
    whole = cache(row(10, 0, checked=2, false_hits=2), row(0, 100), row(10, 0, checked=8, false_hits=4))
    assert whole.hit_rate == pytest.approx(20 / 120)
    assert whole.false_hit_rate == pytest.approx(6 / 10)
    assert whole.wrong_share == pytest.approx(20 / 120 * 6 / 10)


def test_saved_seconds_are_hits_at_the_mean_cost_of_an_encode() -> None:
    found = cache(row(30, 10))  # an encode takes 16.5 ms in the mean
    assert found.saved_s == pytest.approx(30 * 0.0165)
    assert found.encode_s == pytest.approx(10 * 0.0165)
    assert found.saved_share == pytest.approx(0.75)


def test_a_false_hit_rate_that_was_not_measured_is_unknown_and_not_zero() -> None:
    found = cache(row(30, 10))
    assert found.false_hit_rate is None
    assert found.false_hit_interval is None
    assert found.wrong_share is None


def test_without_a_hit_nothing_was_answered_wrongly() -> None:
    assert cache(row(0, 10)).wrong_share == 0.0
    assert CacheCounts().wrong_share is None


def test_a_row_without_statistics_counts_nothing() -> None:
    for empty in ({"statistics": None}, {"statistics": {}}):
        assert cache({**row(0, 1), **empty}) == CacheCounts()


@pytest.mark.parametrize("count, n, low, high", [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1.0)])
def test_wilson_interval_is_the_published_one(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n) == pytest.approx((low, high), abs=0.001)


def test_intervals_resample_recordings_without_a_common_voice_and_say_so(rows: list[dict[str, Any]]) -> None:
    def told(*speakers: str) -> tuple[Any, str]:
        found = []
        for n in range(9):  # every third recording is under a wrong language
            labels = {"en": {"en" if n % 3 else "es": 10.0}}
            counted = {**rows[0]["counts"], "labels": labels, "speakers": [speakers[n % len(speakers)]]}
            found.append({**rows[0], "key": str(n), "recording": f"r{n}", "counts": counted})
        report = from_rows(found, now=NOW)
        assert report.about_intervals in report.html()
        (result,) = report.results
        return result.language_error_interval, report.about_intervals

    (low, high), note = told("Ann")
    assert 0 <= low < 1 / 3 < high < 0.8
    assert note == "The intervals resample 9 recordings and hold for this voice only."
    interval, note = told("Ann", "Bo", "Cy")
    assert interval == (0.0, 1.0)
    assert note == "The intervals resample 3 blocks of recordings with no voice in common (3 voices)."


def test_latency_of_several_runs_claims_no_percentile_it_cannot_know() -> None:
    quick, slow = row(0, 10), row(0, 30)
    for timing in slow["statistics"]["performance"].values():
        for name in ("mean", "p50", "p95", "p99", "max", "total"):
            timing[name] *= 2
    with in_memory([quick, slow]) as store:
        (result,) = counts.timed(store, counts.results(store))
    both = {operation.name: operation for operation in result.operations}["lid.total"]
    assert both.count == 40
    assert both.mean == pytest.approx(1.1 * 18.0 * (10 + 2 * 30) / 40)
    assert both.p50 == pytest.approx(18.0)
    assert both.p95 == pytest.approx(2 * 1.8 * 18.0)
    assert both.longest == pytest.approx(2 * 4.0 * 18.0)


def test_configurations_are_named_by_what_they_differ_in_and_the_guides_come_first() -> None:
    told = results([row(0, 1, key="logmel"), row(0, 1, hash_precision=0), row(0, 1, size=100), row(0, 1, size=9)])
    assert [result.name for result in told] == [
        "rounded · precision 6 · 9 entries",
        "rounded · precision 6 · 100 entries",
        "rounded · precision 0 · 50 entries",
        "logmel · precision 6 · 50 entries",
    ]


def test_one_configuration_has_a_name_too() -> None:
    assert results([row(0, 1)])[0].name == "as configured"


def test_a_field_that_some_configurations_lack_varies() -> None:
    assert varying([{"cache.key": "span"}, {"cache.key": "span", "cache.size": 6}]) == ("cache.size",)


def test_scores_of_recordings_are_pooled(report: SweepReport, rows: list[dict[str, Any]]) -> None:
    result = report.results[0]
    own = [r for r in rows if flat(r["config"]) == result.config]
    words = [r["rates"]["reference_words"] for r in own]
    rates = [r["rates"]["mixed_error_rate"] for r in own]
    assert result.mixed_error == pytest.approx(np.average(rates, weights=words))
    assert result.n_runs == len(own) == 2
    assert result.sums["duration_s"] == pytest.approx(60.0)


def test_without_decoding_languages_are_those_of_the_frames(folder: Path) -> None:
    trace = make_trace("scene-0", ("en", "es"), config={**configuration(), "decode": False}, wrong=0.0)
    silent = replace(trace, events=tuple(event for event in trace.events if event["kind"] != "segment"))
    (result,) = results([make_row(silent, corpus="ivr-five")])
    assert result.mixed_error is None
    assert result.language_error is not None
    assert result.language_error < 0.5
    page = from_rows([make_row(silent, corpus="ivr-five")])
    assert page.runs[0].language_error == pytest.approx(result.language_error)


def test_the_guides_key_that_never_hits_is_told_so() -> None:
    told = sentences(row(0, 500), row(0, 500, hash_precision=2))
    assert "rounded to 6 or 2 decimals (the guide's default among them), answered not one of 1,000" in told


def test_hits_are_told_with_what_they_are_worth() -> None:
    coarse = [
        {**row(130, 37, checked=27, false_hits=16, hash_precision=0), "recording": f"scene-{n}"} for n in range(3)
    ]
    told = sentences(row(0, 500), *coarse)
    assert "At 0 decimals the guide's key answered 78 % of 501 look-ups" in told
    assert "of 81 hits recomputed, 48 (59 %, 95 % interval 48 % to 69 %)" in told
    alone = sentences(row(0, 500), coarse[0])
    assert "of 27 hits recomputed, 16 (59 %, n = 1 recording, no interval)" in alone


def test_hits_nobody_checked_are_told_as_unchecked() -> None:
    assert "none of these hits was checked" in sentences(row(390, 110, hash_precision=0))


def test_half_the_encodes_saved_wrongly_does_not_reach_the_guides_claim() -> None:
    told = sentences(row(390, 110, checked=80, false_hits=48, hash_precision=0), row(0, 500))
    assert "No configuration saved the guide's 50-60 % of encodes with at most 5.0 % of the answers wrong." in told
    assert "answered 78 % of its look-ups, but 60 % of the checked hits were wrong" in told


def test_half_the_encodes_saved_rightly_does() -> None:
    told = sentences(row(280, 220, checked=80, false_hits=1, key="logmel"), row(0, 500))
    assert "logmel reached the guide's 50-60 % fewer encodes. It spared about 5 of 8 encoder seconds" in told


def test_a_little_saving_reaches_nothing_and_blames_nobody() -> None:
    told = sentences(row(100, 400, checked=80, false_hits=0, key="logmel"), row(0, 500))
    assert "with at most 5.0 % of the answers wrong." in told
    assert "were wrong" not in told


def test_best_and_worst_language_error_are_set_against_each_other(report: SweepReport) -> None:
    (sentence,) = (sentence for sentence in report.findings if sentence.startswith("Wrong language, text"))
    errors = [result.language_error for result in report.results if result.language_error is not None]
    assert f"{100 * max(errors):.0f} %" in sentence
    assert "(n = 2 recordings, no interval)" in sentence


def test_the_errors_of_text_and_of_frames_have_a_column_and_a_sentence_each(folder: Path) -> None:
    configs = [{**configuration(size=size), "decode": decode} for size in (10, 50) for decode in (True, False)]
    traces = [make_trace("scene", ("en", "es"), config=config, wrong=0.5, seed=n) for n, config in enumerate(configs)]
    told = from_rows([make_row(trace, corpus="c") for trace in traces])
    head = [title for title, _, _ in _tables(told)[0].head]
    places = [head.index("Wrong language, text"), head.index("Wrong language, frames")]
    for result, line in zip(told.results, _tables(told)[0].body, strict=True):
        shown = [line[place].sort is not None for place in places]
        assert shown == [result.config["decode"], not result.config["decode"]]
        assert "no interval" in line[places[shown.index(True)]].note
    assert '"language_error_rate_frames":' in told.html()
    text, frames = ([s for s in told.findings if s.startswith(f"Wrong language, {of}")] for of in ("text", "frames"))
    assert len(text) == len(frames) == 1


def test_one_configuration_has_one_speed_and_the_guide_is_named_once(small: SweepReport) -> None:
    wall, processor = (sentence for sentence in small.findings if "per second of audio" in sentence)
    assert wall.startswith("Real-time factor (wall seconds per second of audio): 0.60")
    assert processor == "Processor seconds per second of audio, which other programs hardly change: 0.50."
    told = " ".join(small.findings)
    assert told.count("The guide is the performance guide for streaming Whisper (docs/guide.md).") == 1


def test_a_speed_that_was_not_measured_is_not_told() -> None:
    assert "per second of audio" not in sentences({**row(0, 500), "threads": 1})


def test_a_name_leaves_out_what_has_no_effect() -> None:
    options = (KEY, PRECISION, SIZE)
    named = [config_name(flat(configuration(*one)), options) for one in (("similar", 6, 50), ("rounded", 6, 0))]
    assert named == ["similar · 50 entries", "rounded · precision 6 · no cache"]


def test_processor_time_has_a_column_unless_a_run_lacks_it() -> None:
    traces = [make_trace("scene", ("en", "es"), config=configuration(), wrong=0.0, seed=n) for n in range(2)]
    rows = [make_row(trace, corpus="c") | {"key": str(n), "processor_s": n + 1.0} for n, trace in enumerate(traces)]
    for told, known in ((rows, True), ([rows[0], {**rows[1], "processor_s": None}], False)):
        report = from_rows(told)
        (result,) = report.results
        assert (result.processor_factor == pytest.approx(3 / result.sums["duration_s"])) is known
        assert ("Real-time factor (processor)" in report.html()) is known


def test_language_errors_of_text_and_of_frames_are_not_set_against_each_other() -> None:
    decoded = row(0, 100, key="span", decode=True)
    frames = [row(0, 100, decode=False), row(80, 20, hash_precision=0, decode=False)]
    told = results([decoded, *frames])
    assert [r.config["decode"] for r in measured_alike(told)] == [False, False]
    assert [r.config["decode"] for r in measured_alike(results([decoded]))] == [True]


def test_a_sweep_in_which_nothing_finished_says_so() -> None:
    told = from_rows([failed_row(configuration(), "scene-0", "TypeError: no")])
    assert told.findings == ("No run of this sweep finished, so it found nothing.",)
    assert "1 run failed" in told.warnings[0]
    assert "TypeError: no" in told.html()


def test_an_empty_sweep_makes_a_page() -> None:
    assert "found nothing" in from_rows([]).html()


# Warnings


def test_configurations_over_different_recordings_are_warned_of() -> None:
    other = {**row(0, 10, size=10), "recording": "scene-1"}
    assert "Incomplete: 2 of 2 configurations lack some of the 2 recordings" in "\n".join(
        warnings(results([row(0, 10), other]), 2)
    )


def test_several_results_of_one_recording_in_one_line_are_warned_of() -> None:
    told = "\n".join(warnings(results([row(0, 10), row(0, 10)]), 1))
    assert "1 configuration had several results of one recording, and the figures mix them" in told
    assert "several results" not in "\n".join(warnings(results([row(0, 10)]), 1))


def test_unchecked_and_thinly_checked_hits_are_warned_of() -> None:
    told = "\n".join(warnings(results([row(5, 5), row(5, 5, checked=3, size=10)]), 1))
    assert "1 configuration had hits of which none was recomputed" in told
    assert "In 1 configuration fewer than 30 hits were recomputed" in told


def test_enough_of_everything_needs_no_warning() -> None:
    many = [{**row(100, 50, checked=40), "recording": f"scene-{n}"} for n in range(5)]
    assert warnings(results(many), 5) == ()


def test_times_that_include_many_checks_are_warned_of() -> None:
    many = [{**row(100, 50, checked=90), "recording": f"scene-{n}"} for n in range(5)]
    (told,) = warnings(results(many), 5)
    assert told.startswith("More than half of the hits were recomputed")


def test_a_missing_trace_costs_its_timeline_and_is_warned_of(rows: list[dict[str, Any]], folder: Path) -> None:
    broken = [{**rows[0], "trace": "traces/none.jsonl"}, {**rows[1], "trace": None}]
    told = from_rows(broken, folder=folder)
    assert told.traces == ()
    assert "No timeline of scene-0" in "\n".join(told.warnings)
    assert "<article" not in told.html()


def test_traces_of_different_machines_are_warned_of() -> None:
    one = make_trace("a", ("en", "es"), config=configuration())
    two = make_trace("b", ("en", "es"), config=configuration())
    other = replace(two, header={**two.header, "machine": {"cpu_model": "Another"}})
    assert "2 different machines" in "\n".join(from_traces([one, other]).warnings)
    assert "different machines" not in "\n".join(from_traces([one, two]).warnings)


# The page


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    own = page.replace(vega_script(), "")  # the library names its specifications, and the policy stops any request
    assert re.findall(r'(?:src|href|action|poster|srcset)="(?!#|data:|index.html")[^"]*"', own) == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import|https?:", own) == []
    assert "default-src 'none'" in page


def test_the_policy_allows_exactly_the_scripts_in_the_page(page: str, small: SweepReport) -> None:
    import base64
    import hashlib

    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 2
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    (allowed,) = re.findall(r"script-src ([^;]*);", page)
    assert {source.strip("'").removeprefix("sha256-") for source in allowed.split()} == digests
    assert "unsafe-eval" not in page


def test_a_page_without_interactive_figures_has_no_library() -> None:
    page = from_rows([]).html()
    assert len(re.findall(r"<script>", page)) == 1
    assert len(page) < 100_000


def test_identifiers_are_unique_and_every_link_inside_leads_somewhere(page: str) -> None:
    names = re.findall(r'\sid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(names)


def test_markup_from_outside_is_text(folder: Path) -> None:
    config = {**configuration(), "note": ATTACK}
    trace = make_trace(ATTACK, ("en", "es"), config=config, said={**SAID, "en": ATTACK, "es": ATTACK})
    header = {**trace.header, "machine": {ATTACK: ATTACK}, "commit": ATTACK}
    header["reference"] = {"text": ATTACK, "segments": [{**reference(("en",))["segments"][0], "text": ATTACK}]}
    told = from_traces([replace(trace, header=header)], title=ATTACK, command=ATTACK)
    page = told.html().replace(vega_script(), "")
    assert "<img" not in page
    assert "<script>document" not in page
    assert "</script><img" not in page
    assert ATTACK in unescape(page)


def test_dollars_in_names_are_no_formulas() -> None:
    rows = []
    for key in ("$x^$", "$\\frac{$ of $"):
        row = make_row(make_trace("scene", ("en", "es"), config=configuration(key, None), hit_rate=0.4), corpus="$")
        timings = row["statistics"]["performance"]
        rows.append(
            {**row, "statistics": {**row["statistics"], "performance": {**timings, "$x_$": timings["lid.total"]}}}
        )
    drawn = "".join(re.findall(r"<svg.*?</svg>", from_rows(rows).html(), re.DOTALL))
    assert "$x^$" in drawn
    assert "$x_$" in drawn


def test_every_figure_has_words_for_those_who_cannot_see_it(page: str) -> None:
    drawings = re.findall(r"<svg[^>]*>", page.replace(vega_script(), ""))
    # Outcomes, two heat maps, trade-off, latency, two timelines; no front from two recordings.
    assert len(drawings) == 7
    for drawing in drawings:
        label = re.search(r'role="img" aria-label="([^"]{20,})"', drawing)
        assert label, drawing
    assert re.search(
        r"rounded · precision 0 · 10 entries: \d+% of look-ups hit, \d+% of all with another language", page
    )


def test_a_hit_rate_never_comes_without_its_false_hit_rate(report: SweepReport) -> None:
    head = [title for title, _, _ in table("t", "t", columns("results"), report.results).head]
    assert head.index("False-hit rate") == head.index("Hit rate") + 1


def test_the_best_configuration_is_shown(report: SweepReport) -> None:
    assert report.shown is not None
    assert report.shown.language_error == min(r.language_error for r in report.results if r.language_error is not None)


def test_corpora_take_turns_and_are_tabled_apart(report: SweepReport, page: str) -> None:
    assert [trace.recording for trace in report.traces] == ["scene-0", "scene-1"]
    assert "Corpus ivr-five alone" in page
    assert "Corpus ivr-en-es alone" in page


def test_the_runs_are_inside_the_page_as_json(page: str, rows: list[dict[str, Any]]) -> None:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    runs = json.loads(data)
    assert len(runs) == len(rows)
    assert runs[0]["config.cache.key"] == "rounded"
    assert runs[0]["false_hit_rate"] is None
    assert all(not isinstance(value, dict | list) for value in runs[0].values())


def test_the_page_says_where_it_comes_from(page: str) -> None:
    for fact in ("whisperlab sweep", "0123456789ab", "Example CPU", "2.13.0", "16.0 GiB", "2026-11-22T12:00:00"):
        assert fact in page
    assert "Measuring adds about 0.64 µs" in page


def test_a_failed_run_stands_in_the_table_and_the_warnings(rows: list[dict[str, Any]], folder: Path) -> None:
    told = from_rows([rows[0], failed_row(configuration(), "scene-9", "OSError: disk full")], folder=folder)
    assert "OSError: disk full" in told.warnings[0]
    assert told.extent.n_recordings == 2
    assert told.runs[-1].sums["status"] == "failed"
    assert told.html().count("OSError: disk full") == 3  # warning, table, data


def test_the_same_traces_make_the_same_page() -> None:
    trace = make_trace("a", ("en", "es"), config=configuration())
    pages = [from_traces([trace], now=NOW).html() for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_page_too_large_to_mail_goes_without_sound(
    small: SweepReport, small_page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_sound = len(small_page.encode())
    monkeypatch.setattr(sweep_module, "PAGE_LIMIT", with_sound - 1000)
    page = small.render(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<audio" not in page
    assert "the players were left out" in page
    assert len(page.encode()) < with_sound - 1000


def test_a_large_page_without_sound_says_nothing_of_players(
    bare: SweepReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "PAGE_LIMIT", 1000)
    page = bare.render(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "the players were left out" not in page


def test_a_page_that_cannot_be_finished_leaves_nothing(
    bare: SweepReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bare.render(tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_traces_alone_are_scored_here(tmp_path: Path) -> None:
    trace = make_trace("scene-0", ("en", "es", "en"), config=configuration(), wrong=0.0)
    told = from_traces([trace], title="One call")
    (result,) = told.results
    assert result.language_error == 0.0
    assert "One call" in told.html()


def test_a_trace_without_reference_is_shown_without_rates() -> None:
    trace = make_trace("call", ("en", "es"), config=configuration())
    told = from_traces([replace(trace, header={**trace.header, "reference": None})])
    page = told.html()
    assert told.shown is not None
    assert told.shown.language_error is None
    assert "True: not known" in page
    assert "Transcript:" not in page


def test_a_trace_in_which_nothing_was_heard_is_shown() -> None:
    trace = make_trace("silence", ("en",), config=configuration())
    empty = replace(trace, events=trace.events[-1:])
    assert "Heard: nothing" in from_traces([empty]).html()


def test_braces_in_options_and_memory_in_fractions_are_shown() -> None:
    traces = [make_trace("scene", ("en",), config={**configuration(), "{1} {x}": value}) for value in ("a", "b")]
    end = {**traces[0].events[-1], "peak_rss_bytes": 0.5}
    page = from_traces([replace(traces[0], events=(*traces[0].events[:-1], end)), traces[1]]).html()
    assert "{1} {x} a" in page


def test_a_path_that_cannot_be_is_a_warning(rows: list[dict[str, Any]], folder: Path) -> None:
    told = from_rows([{**rows[0], "trace": "a\0b"}], folder=folder)
    assert any("no file 'a\\x00b' in" in warning for warning in told.warnings)


def test_speakers_of_a_score_are_a_list(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigurationError, match="expected a list, got 'ab'"):
        Score.from_dict({**rows[0]["counts"], "speakers": "ab"})


def test_characters_that_xml_cannot_hold_are_drawn_as_unknown() -> None:
    odd = "\0\b\x1b\ufffe\\u0000\\\0"
    trace = make_trace("scene", ("en",), config=configuration())
    events = tuple({**event, "language": odd} if event["kind"] == "segment" else event for event in trace.events)
    trace = replace(trace, events=events)
    assert "scene" in from_traces([trace]).html()  # the library would abort the process


@pytest.mark.parametrize("missing", ["p50", "p95", "max"])
def test_an_operation_without_a_percentile_is_left_out(rows: list[dict[str, Any]], missing: str) -> None:
    timings = rows[0]["statistics"]["performance"]
    timings = {**timings, "vad.detect": {**timings["vad.detect"], missing: None}}
    odd = {**rows[0], "statistics": {**rows[0]["statistics"], "performance": timings}, "key": "odd"}
    told = from_rows([rows[0], odd])
    assert {one.name: one.count for one in told.results[0].operations}["vad.detect"] == timings["vad.detect"]["count"]


def test_times_without_the_length_of_a_chunk_are_shown() -> None:
    trace = make_trace("scene", ("en",), config=configuration())
    end = {name: value for name, value in trace.events[-1].items() if name != "chunk_s"}
    assert "scene" in from_traces([replace(trace, events=(*trace.events[:-1], end))]).html()


# Sound


def test_sound_is_the_recording_itself(tmp_path: Path) -> None:
    import base64
    import io

    import soundfile

    path = tone(tmp_path / "a.wav", 3.0)
    trace = make_trace("a", ("en",), config=configuration(), audio_path=path)
    kind, _, text = recording.data_uri(trace.header["audio"], 10**6).partition(",")
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(text)))
    original, _ = soundfile.read(path)
    assert kind == "data:audio/ogg;base64"
    assert (rate, len(heard)) == (16000, len(original))
    assert np.corrcoef(heard, original)[0, 1] > 0.99


def test_the_sound_of_a_part_is_that_part(tmp_path: Path) -> None:
    import base64
    import io

    import soundfile

    path = tone(tmp_path / "a.wav", 3.0)
    part = read_audio(path)[SAMPLE_RATE : 2 * SAMPLE_RATE]
    facts = {"path": str(path), "offset": 1.0, "duration": 1.0, "sha256": audio_digest(part)}
    heard, _ = soundfile.read(io.BytesIO(base64.b64decode(recording.data_uri(facts, 10**6).partition(",")[2])))
    assert len(heard) == len(part)
    with pytest.raises(AudioFormatError, match="has changed since"):
        recording.data_uri({**facts, "offset": 1.0, "duration": 2.0}, 10**6)


def test_minutes_of_sound_do_not_crash_the_encoder(tmp_path: Path) -> None:
    # libsndfile 1.2 dies with a segmentation fault when it gets ten minutes of Vorbis in one block.
    code = (
        "import numpy; from whisperlab.report import recording; recording.sound_uri(numpy.zeros(9600000, 'f4'), 10**9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"path": None}, "has no path"),
        ({"path": "/nowhere/a.wav"}, "nowhere"),
        ({"sha256": "0" * 64}, "has changed since"),
    ],
)
def test_sound_that_cannot_be_vouched_for_is_left_out(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    trace = make_trace("a", ("en",), config=configuration(), audio_path=tone(tmp_path / "a.wav", 5.0))
    audio = {**trace.header["audio"], **change}
    with pytest.raises(AudioFormatError, match=reason):
        recording.data_uri(audio, 10**6)
    page = from_traces([replace(trace, header={**trace.header, "audio": audio})]).html()
    assert "No audio:" in page
    assert "<audio" not in page


def test_sound_stays_within_its_limit(small: SweepReport, small_page: str) -> None:
    sounds = [len(uri) for uri in re.findall(r'src="(data:audio[^"]*)"', small_page)]
    assert len(sounds) == 2
    (only,) = re.findall(r'src="(data:audio[^"]*)"', small.html(sound_limit=sounds[0]))
    assert len(only) <= sounds[0]


# Figures


def values(figure: Figure) -> list[dict[str, Any]]:
    """All data of an interactive figure."""
    assert figure.spec is not None
    return [value for layer in figure.spec["layer"] for value in layer["data"]["values"]]


def row_of(figure: Figure, low: float) -> list[str]:
    """The languages of the boxes of one row, from the left."""
    boxes = [value for value in values(figure) if value.get("low") == low and "language" in value and "text" in value]
    return list(dict.fromkeys(box["language"] for box in sorted(boxes, key=lambda box: box["start"])))


def test_a_timeline_shows_true_languages_above_detected_languages() -> None:
    trace = make_trace("a", ("en", "es", "ru"), config=configuration(), wrong=0.0)
    assert row_of(timeline(trace), 2.5) == row_of(timeline(trace), 1.6) == ["en", "es", "ru"]


def test_a_word_on_the_timeline_has_its_own_time_or_its_share_of_the_segment() -> None:
    trace = make_trace("a", ("en",), config=configuration(), wrong=0.0)
    segment = trace.segments[0]
    found = timed_words(segment)
    assert [word.word.strip() for word in found] == segment.text.split()
    assert (found[0].start, found[-1].end) == (segment.start_time, pytest.approx(segment.end_time))
    assert {word.word.strip() for word in found} <= {value.get("text") for value in values(timeline(trace))}
    timed = {"word": " mine", "start": 0.5, "end": 0.75, "probability": 0.25, "language": "en"}
    events = tuple({**e, "words": [timed]} if e["kind"] == "segment" else e for e in trace.events)
    drawn = next(value for value in values(timeline(replace(trace, events=events))) if value.get("text") == "mine")
    assert (drawn["from (s)"], drawn["to (s)"], drawn["confidence"]) == ("0.5", "0.8", "25%")


def test_without_text_the_detected_languages_are_runs_of_the_frames() -> None:
    trace = make_trace("a", ("en", "es"), config=configuration(), wrong=0.0)
    silent = replace(trace, events=tuple(event for event in trace.events if event["kind"] != "segment"))
    runs = detected_languages(silent)
    assert [run.language for run in runs] == ["en", "es"]
    assert runs[0].end == runs[1].start == pytest.approx(5.9)
    assert row_of(timeline(silent), 1.6) == ["en", "es"]


def test_true_switches_are_marked_where_the_new_language_begins() -> None:
    trace = make_trace("a", ("en", "en", "es"), config=configuration())
    assert {"start": 10.0} in values(timeline(trace))
    assert {"start": 5.0} not in values(timeline(trace))


def lossy(trace: Trace, *gaps: tuple[float, float]) -> Trace:
    """The trace of a machine that dropped some audio."""
    lost = [{"kind": "gap", "at": end, "elapsed": end, "start": start, "end": end} for start, end in gaps]
    return replace(trace, events=(*lost, *trace.events))


def test_audio_that_was_dropped_is_drawn_and_told() -> None:
    whole = make_trace("a", ("en", "es"), config=configuration())
    trace = lossy(whole, (2.0, 3.5), (7.0, 7.25))
    for audio in (None, np.ones(160_000, np.float32)):
        lost = [value for value in values(timeline(trace, audio=audio)) if "dropped" in value.get("what", "")]
        assert [(value["start"], value["end"]) for value in lost] == [(2.0, 3.5), (7.0, 7.25)]
        assert not [value for value in values(timeline(whole, audio=audio)) if "dropped" in value.get("what", "")]
    assert "Not heard, because the machine did not keep up: 1.8 s (2.0-3.5, 7.0-7.2)." in describe(trace)
    assert "Not heard" not in describe(whole)
    many = lossy(whole, *((n / 10, n / 10 + 0.05) for n in range(90)))
    assert "0.9-0.9, and 80 more)." in describe(many)


def test_a_page_tells_of_dropped_audio(small: SweepReport, small_page: str) -> None:
    assert "Not heard, because" not in small_page
    page = replace(small, traces=[lossy(trace, (1.0, 2.0)) for trace in small.traces[:1]]).html()
    assert "Not heard, because the machine did not keep up: 1.0 s (1.0-2.0)." in page


def test_all_stages_of_a_recording_stand_on_one_time_axis() -> None:
    trace = make_trace("a", ("en", "es", "ru"), config=configuration(), wrong=0.0)
    figure = timeline(trace, audio=np.zeros(15 * 16_000, np.float32))
    assert figure.spec is not None
    axes = [layer["encoding"]["x"] for layer in figure.spec["layer"][:-1]]
    assert {tuple(axis["scale"]["domain"]) for axis in axes} == {(0, 15.0)}
    names = next(layer for layer in figure.spec["layer"])["encoding"]["y"]["axis"]["labelExpr"]
    for name in ("probability", "path", "decided", "speech", "text", "reference", "sound"):
        assert f"'{name}'" in names
    ways = [(value["start"], value["end"]) for value in values(figure) if value.get("low") == 1.85 and "end" in value]
    assert ways == [(round(s.time, 2), round(s.decided_at, 2)) for s in trace.switches]


def test_a_language_has_one_colour_on_all_pages() -> None:
    traces = [make_trace(n, blocks, config=configuration()) for n, blocks in (("a", ("es",)), ("b", ("en", "es")))]
    colours = language_colours(traces)
    assert list(colours)[:2] == ["en", "es"]
    assert len(set(colours.values())) == len(colours)
    assert language_colours(traces[:1])["es"] == colours["es"] == FIXED["es"]


def test_more_languages_than_colours_are_drawn_all_the_same() -> None:
    trace = make_trace("a", ("en", "es"), config=configuration())
    many = [{"start": n, "end": n + 1.0, "lang": f"x{n}", "text": "a"} for n in range(10)]
    crowded = replace(trace, header={**trace.header, "reference": {"text": "a", "segments": many}})
    assert row_of(timeline(crowded), 2.5) == [f"x{n}" for n in range(10)]


def drawn(alt: str = "words for it") -> Figure:
    return Figure("name", alt, outcomes_figure(results([row(5, 5, 5, 1)])))


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn().svg()
    assert dict(matplotlib.rcParams) == before


def test_a_drawing_takes_the_colour_of_the_page_and_rounds_its_coordinates() -> None:
    interactive = timeline(make_trace("a", ("en",), config=configuration()))
    for drawing in (drawn('a "b" <c>').svg(), replace(interactive, alt='a "b" <c>').svg()):
        assert INK not in drawing or drawing.count(INK) == drawing.count(f'stroke="{INK}"')  # outlines of boxes
        assert "currentColor" in drawing
        assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in drawing
        assert not re.search(r'\sd="[^"]*\.\d{3}', drawing)


def test_a_figure_shows_itself() -> None:
    figure = timeline(make_trace("a", ("en",), config=configuration()))
    assert figure._repr_html_() == figure.html()


def test_text_in_a_specification_cannot_end_its_script() -> None:
    trace = make_trace("a", ("en",), config=configuration(), said={**SAID, "en": ATTACK})
    page = timeline(trace).html()
    assert page.count("</script") == 1


def test_a_missing_library_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib.*whisperlab\[report\]"):
        drawn()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingDependencyError, match=r"vl-convert-python.*whisperlab\[report\]"):
        timeline(make_trace("a", ("en",), config=configuration())).svg()
    code = "import sys\nsys.modules['jinja2'] = None\nfrom whisperlab.report import from_traces\nfrom_traces([])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(r"MissingDependencyError: reports need jinja2.*whisperlab\[report\]", ran.stderr)


# Small things


@pytest.mark.parametrize("value, text", [(0.00123, "0.00123"), (9.996, "10"), (99.95, "100"), (1234.5, "1,234")])
def test_milliseconds_keep_three_figures(value: float, text: str) -> None:
    assert milliseconds(value) == text


# The index


def test_the_index_lists_reports_with_titles_newest_first(
    small: SweepReport, bare: SweepReport, tmp_path: Path
) -> None:
    small.render(tmp_path / "one two" / "sweep #1.html")
    replace(bare, title="Later", created="2026-11-23T09:00:00+00:00").render(tmp_path / "b.html")
    (tmp_path / "note.html").write_text("<title>A &lt;b&gt; note</title><body>", encoding="utf-8")
    index = write_index(tmp_path, now=NOW)
    page = index.read_text(encoding="utf-8")
    assert index == tmp_path / "index.html"
    assert page.index(">Later<") < page.index(">Two calls<")
    assert "10 s of audio in 2 recordings became" in page
    assert 'href="one%20two/sweep%20%231.html"' in page
    assert "A &lt;b&gt; note" in page
    assert "1 configuration over 2 recordings" in page
    assert page.count("<li><h2>") == 3


def test_pages_lead_to_one_another_and_home(bare: SweepReport, tmp_path: Path) -> None:
    for name in ("02_second.html", "01_first.html", "sub/other.html"):
        replace(bare, title=name).render(tmp_path / name)
    (tmp_path / "foreign.html").write_text("<title>Foreign</title>", encoding="utf-8")
    for _ in range(2):  # writing the index again replaces the navigation
        write_index(tmp_path, now=NOW)
    first, second, other = (
        (tmp_path / name).read_text(encoding="utf-8") for name in ("01_first.html", "02_second.html", "sub/other.html")
    )
    assert first.count('aria-label="Reports"') == 1
    assert '<a rel="next" href="02_second.html">' in first
    assert '<a rel="prev" href="01_first.html">' in second
    assert 'href="../index.html"' in other
    assert 'rel="prev"' not in first
    assert (tmp_path / "foreign.html").read_text(encoding="utf-8") == "<title>Foreign</title>"
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.index("01_first") < page.index("02_second") < page.index("sub/other")


def test_names_that_are_not_utf_8_become_pages_and_entries(bare: SweepReport, tmp_path: Path) -> None:
    bad = os.fsdecode(b"bad\xff")
    page = replace(bare, title="Odd", command=f"whisperlab report {bad}").render(tmp_path / bad / f"{bad}.html")
    index = write_index(tmp_path, now=NOW).read_text(encoding="utf-8")
    assert 'href="bad%FF/bad%FF.html"' in index
    text = page.read_text(encoding="utf-8")
    assert r"whisperlab report bad\xff" in text
    assert 'aria-label="Reports"' in text


def test_a_page_written_while_the_index_is_written_stays(
    bare: SweepReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = bare.render(tmp_path / "a.html")
    writer = threading.Thread(target=write_page, args=(page, "a later page"))

    def rendered(template: str, **context: Any) -> str:
        if template == "navigation.html.j2":  # the old page has been read, and is about to be replaced
            writer.start()
            writer.join(0.3)
        return render_page(template, **context)

    monkeypatch.setattr("whisperlab.report.index.render_page", rendered)
    write_index(tmp_path)
    writer.join()
    assert page.read_text(encoding="utf-8") == "a later page"


def test_writing_the_index_twice_does_not_list_the_index(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert "No report yet" in write_index(tmp_path, now=NOW).read_text(encoding="utf-8")


# What is worth having.


def searched(n: int, *, wrong: Any = lambda sure: 1 - sure, split: str = "dev", seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a search over three options, of which ``language_id.confident_above`` alone sets how much is wrong."""
    rng = np.random.default_rng(seed)
    sures = rng.permutation(np.linspace(0.4, 0.95, n))
    rows = []
    for number, sure in enumerate(sures):
        lid = {"confident_above": round(float(sure), 4), "window_ms": int(rng.choice([1500, 2500]))}
        config = {**configuration("span"), "language_id": {**lid, "hop_ms": int(rng.choice([100, 200]))}}
        trace = make_trace("scene", ("en", "es") * 2, config=config, wrong=wrong(sure), seed=number)
        row = make_row(trace, corpus="ivr-five")
        row.update(response_p95_s=float(rng.uniform(0.2, 1)), peak_rss_bytes=int(rng.integers(5, 9)) * 10**8)
        rows += over_recordings({**row, "split": split})
    return rows


def over_recordings(row: dict[str, Any], n: int = 3) -> list[dict[str, Any]]:
    """The row as if other recordings had given the same."""
    return [{**row, "key": f"{row['key']}-{name}", "recording": f"scene-{name}"} for name in range(n)]


@pytest.fixture(scope="module")
def search() -> SweepReport:
    return from_rows(searched(24), now=NOW)


def test_options_of_a_group_vary_by_themselves(search: SweepReport) -> None:
    assert search.options == ("language_id.hop_ms", "language_id.confident_above", "language_id.window_ms")
    assert "language_id.confident_above 0." in search.results[0].name
    config = {**configuration("span"), "language_id": {"confident_above": 0.5, "window_ms": 2000}}
    rows = [make_row(make_trace("a", ("en", "es"), config=config), corpus="c")]
    assert from_rows(rows).constant["language_id"] == {"confident_above": 0.5, "window_ms": 2000}


def test_nothing_on_the_front_is_beaten_and_all_else_is(search: SweepReport) -> None:
    told = search_section(search.results)
    assert told is not None
    assert told.front is not None
    front = [tuple(cell.sort for cell in line[2:]) for line in told.front.body]
    every = [(r.mixed_error, r.sums["response_p95_s"], r.sums["peak_rss_bytes"]) for r in search.results]

    def beaten(point: Any) -> bool:
        return any(all(a <= b for a, b in zip(o, point, strict=True)) and o != point for o in every)

    assert front == sorted(point for point in every if not beaten(point))
    assert [line[1].sort for line in told.front.body] == list(range(1, len(front) + 1))
    assert f"{len(front)} of 24 configurations are on the Pareto front" in told.about[0]


def test_the_page_shows_what_is_worth_having_and_why(search: SweepReport) -> None:
    page = search.html()
    assert '<section id="search">' in page
    (parallel,) = re.findall(r'<svg role="img" aria-label="Parallel coordinates over ([^.]*\.[^"]*)"', page)
    assert re.search(r"24 configurations, \d+ on the Pareto front: hop \d00 ms", parallel)
    assert "Importance of options. words wrong: language_id.confident_above" in page
    assert "Measured on the split dev." in page
    assert "picked" in page[page.index("Parallel coordinates") :]


def test_choosing_on_test_is_warned_of() -> None:
    page = from_rows(searched(4, split="test")).html()
    assert "recordings of the split test. A configuration chosen here looks better than it is" in page


def test_no_best_configuration_is_named_from_two_recordings(report: SweepReport, page: str) -> None:
    told = search_section(report.results)
    assert told is not None
    assert told.front is None
    assert "that takes at least 3 recordings (n = 2 recordings)" in (told.about[0])
    assert "No best configuration is named" in page
    assert "Importance of options" not in page


def test_no_best_configuration_is_named_from_noise() -> None:
    rng, rows = np.random.default_rng(0), []
    for row in searched(8, wrong=lambda sure: 0.3):
        response_s = float(rng.uniform(0.0359, 0.0404))
        rows.append({**row, "response_p95_s": response_s})
    told = search_section(from_rows(rows).results)
    assert told is not None
    assert told.front is None
    assert "response p95 differs between the 8 configurations by no more than chance" in told.about[0]
    assert "n = 3 recordings" in told.about[0]


def test_a_configuration_that_is_not_compared_is_named_with_the_reason() -> None:
    frames = {**configuration("span"), "decode": False, "language_id": {"window_ms": 2500}}
    row = make_row(make_trace("scene", ("en", "es"), config=frames), corpus="c")
    told = search_section(from_rows([*searched(6), row]).results)
    assert told is not None
    assert "6 of 7 configurations are compared. Left out: " in told.about[-1]
    assert "measured by wrong language, frames" in told.about[-1]


def test_without_text_the_errors_are_those_of_the_frames() -> None:
    rows = []
    for number, key in enumerate((("rounded", 6, 10), ("rounded", 0, 50), ("logmel", 2, 10), ("span", 2, 50))):
        config = {**configuration(*key), "decode": False}
        trace = make_trace("scene", ("en", "es") * 4, config=config, wrong=number / 3, seed=number)
        row = make_row(trace, corpus="c")
        del row["response_p95_s"]
        rows += over_recordings({**row, "compute_s": 1.0 + number})
    told = search_section(from_rows(rows).results)
    assert told is not None
    assert told.front is not None, told.about
    columns = [title for title, _, _ in told.front.head][2:]
    assert columns == ["Wrong language, frames", "Real-time factor (wall)", "Peak memory"]


@pytest.mark.parametrize("n, fields", [(2, 3), (5, 1)])
def test_with_nothing_to_choose_between_nothing_is_said(n: int, fields: int) -> None:
    rows = searched(n)
    if fields == 1:
        for number, row in enumerate(rows):
            row["config"] = {**configuration("span", size=number + 1), "language_id": {}}
    report = from_rows(rows)
    assert search_section(report.results) is None
    assert '<section id="search">' not in report.html()


def test_pictures_of_many_configurations_stay_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_page, "MAX_LINES", 20)
    monkeypatch.setattr("whisperlab.report.tables.MAX_LINES", 30)
    few, many = (from_rows(searched(n)) for n in (20, 60))
    shown = [search_section(report.results) for report in (few, many)]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[1].parallel.caption.startswith("20 of 60 configurations: the front, and the best of the others")
    drawn_lines = [len({value.get("config_id") for value in values(told.parallel)} - {None}) for told in shown if told]
    assert drawn_lines == [20, 20]
    (told,) = _tables(many)
    assert len(told.body) == 30
    assert told.caption == "All recordings together (the first 30 of 60 lines)"


def test_the_bars_show_what_was_not_checked() -> None:
    """One checked hit of 36 says nothing of the other 35."""
    (axes,) = outcomes_figure(results([row(36, 64, checked=1, false_hits=0)])).axes
    assert [float(bars[0].get_width()) for bars in axes.containers] == [64.0, 1.0, 35.0, 0.0]


def test_a_page_without_decoding_says_so_and_a_recording_without_reference_has_no_such_row() -> None:
    spoken = make_trace("a", ("en", "es", "en"), config=configuration())
    frames_alone = make_trace("a", ("en", "es", "en"), config={**configuration(), "decode": False})
    assert "no text" not in from_traces([spoken]).html().split("</h1>")[1][:400]
    assert "language identification only, no text" in from_traces([frames_alone]).html()
    own = replace(spoken, header={**spoken.header, "reference": None})
    assert "'reference'" not in json.dumps(timeline(own).spec)
    assert "'reference'" in json.dumps(timeline(spoken).spec)

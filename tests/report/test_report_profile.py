"""The page of a profile: numbers that are reconciled, faults that are named, and pages within the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import DESKTOP, PHONE, Visit, opened
from holder import HELD, MIB, Holder
from playwright.sync_api import Browser

from whisperlab.data.audio_files import write_wav
from whisperlab.profiling import passes
from whisperlab.profiling.workload import Workload, in_fresh_process
from whisperlab.report.profile import ProfileReport, memory_numbers, reconciled
from whisperlab.util.timeline import SAMPLE_RATE

ATTACK = "<script>document.title='owned'</script>"
PASSES = ("memory", "heap", "python_memory", "cpu", "lines", "ops", "calls", "latency")


@pytest.fixture(scope="module", params=[("ops",), pytest.param(PASSES, marks=pytest.mark.slow)], ids=["few", "all"])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every pass, of a small workload: few or all with torch, whose import alone takes memray a quarter of a minute."""
    path = tmp_path_factory.mktemp("profile") / "ramp.wav"
    write_wav(path, np.linspace(-0.5, 0.5, SAMPLE_RATE, dtype=np.float32))
    workload = Workload(str(path), make=Holder, functions=(f"{Holder.__module__}:Holder.process",))
    with_torch = replace(workload, options={"with_torch": True})
    return {
        name: in_fresh_process(getattr(passes, name), with_torch if name in request.param else workload)
        for name in PASSES
    }


def report(records: dict[str, Any]) -> ProfileReport:
    origin = {"whisperlab": "0", "commit": ATTACK, "machine": {"cpu": ATTACK}, "versions": {}}
    return ProfileReport(records, f"{ATTACK}.wav", 1.0, f"whisperlab profile {ATTACK}", origin)


def test_the_memory_numbers_fit_together(records: dict[str, Any]) -> None:
    checks = reconciled(records)
    assert len(checks) == 4
    assert all(check.holds for check in checks), [check.words for check in checks]
    sizes = {number.name: number.bytes for number in memory_numbers(records)}
    assert all(number.sees and number.misses for number in memory_numbers(records))
    held = sizes["tensors and arrays the transcriber holds (arithmetic)"]
    assert held == HELD
    assert sizes["on the heap at the peak (memray)"] > held


def test_contradicting_numbers_come_first(records: dict[str, Any]) -> None:
    broken = {**records, "heap": replace(records["heap"], peak=900 * MIB)}
    failed = [check.words for check in reconciled(broken) if not check.holds]
    assert len(failed) == 1
    assert "these do not agree" in failed[0]
    page = report(broken).page()
    assert page.index("Warnings</h2>") < page.index("Findings</h2>")


def test_a_page_of_some_passes_has_only_their_parts(records: dict[str, Any]) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    page = report({"latency": records["latency"]}).page(now=now)
    assert "Latency in milliseconds" in page
    for absent in ("<iframe", 'id="memory"', 'id="lines"'):
        assert absent not in page
    assert "2026-11-26" in page


@pytest.fixture(scope="module")
def page(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "profile.html"
    path.write_text(report(records).page(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def desk(browser: Browser, page: Path) -> Iterator[Visit]:
    """The page on a desktop, open from test to test."""
    with opened(browser, page, viewport=DESKTOP, color_scheme="light") as visit:
        yield visit


@pytest.fixture
def visit(desk: Visit) -> Visit:
    desk.settle()
    return desk


@pytest.mark.browser
def test_it_opens_offline_and_its_frames_run_their_own_scripts_alone(visit: Visit, page: Path) -> None:
    assert page.stat().st_size < 8_000_000
    visit.page.wait_for_load_state("networkidle")
    frames = visit.page.locator("iframe")
    assert frames.count() == 2
    for number, word in ((0, "process"), (1, "Flame")):
        frames.nth(number).scroll_into_view_if_needed()
        frame = visit.page.frame_locator("iframe").nth(number)
        frame.locator(f"text={word}").first.wait_for(timeout=20_000)
    assert visit.fetched() == []
    assert [line for line in visit.noise if "Content Security Policy" in line and "script-src" in line] == []
    assert visit.page.title().startswith("Profile of <script>")


@pytest.mark.browser
def test_the_slowest_line_and_the_hostile_names_show_as_text(visit: Visit) -> None:
    text = visit.page.locator("main").inner_text()
    assert ATTACK in text
    assert "Holder.process" in text
    slowest = visit.page.locator("tr.slowest code").first.inner_text()
    assert "ones(" in slowest


@pytest.mark.browser
def test_its_tables_sort(visit: Visit) -> None:
    visit.page.locator("#ops thead button", has_text="Own ms").click()
    values = [float(value) for value in visit.column("ops", 3)]
    assert values == sorted(values)


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_desktop_it_fits_and_nothing_serious_stands_in_the_way_of_anybody(visit: Visit, theme: Any) -> None:
    visit.page.emulate_media(color_scheme=theme)
    assert visit.grave() == []
    assert visit.overflow() <= 0


@pytest.mark.browser
def test_on_a_phone_it_fits_and_nothing_serious_stands_in_the_way_of_anybody(browser: Browser, page: Path) -> None:
    with opened(browser, page, viewport=PHONE, color_scheme="dark") as visit:
        assert visit.grave() == []
        assert visit.overflow() <= 0

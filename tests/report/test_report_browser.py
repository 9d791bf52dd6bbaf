"""The report in a real browser, offline: it opens quietly, sorts, changes its theme, plays its sound."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from browsing import DESKTOP, PHONE, Visit, opened
from playwright.sync_api import Browser, Page
from synthetic_report import SAID, configuration, failed_row, make_row, make_trace, sweep_rows, tone

from whisperlab.report import from_rows, from_traces, write_index

pytestmark = pytest.mark.browser

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FORMULA = '=HYPERLINK("x"),"y"'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's page, with hostile and awkward texts among its own."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = sweep_rows(folder, n_recordings=1, blocks=3)
    audio = tone(folder / "guest.wav", 10.0)
    said = {**SAID, "en": ATTACK, "es": ATTACK}
    earlier = from_rows(rows, folder=folder)
    for config in [row["config"] for row in rows]:
        guest = make_trace("guest", ("en", "es"), config=config, audio_path=audio, said=said)
        rows.append(make_row(guest, corpus="ivr-five", folder=folder))
    rows.append(failed_row(configuration(), "scene-9", FORMULA))
    return from_rows(rows, folder=folder).beside(earlier).render(folder / "report.html")


@pytest.fixture
def visit(browser: Browser, report: Path) -> Iterator[Visit]:
    with opened(browser, report, viewport=DESKTOP, color_scheme="light") as visit:
        yield visit


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_report_opens_offline_without_a_request_or_a_complaint(visit: Visit, report: Path) -> None:
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert visit.noise == []
    assert visit.page.title() == "Sweep"


def test_a_column_of_numbers_sorts_both_ways_as_numbers(visit: Visit) -> None:
    # As texts, 154 ms would come before 16.5 ms.
    visit.page.locator("summary", has_text="configurations by operation").click()
    button = visit.page.locator("#latency thead button").get_by_text("Mean", exact=True)
    before = visit.column("latency", 3)
    button.click()
    rising = visit.column("latency", 3)
    assert [float(value) for value in rising] == sorted(float(value) for value in before)
    assert rising != sorted(before)
    button.click()
    assert [float(value) for value in visit.column("latency", 3)] == [float(value) for value in rising[::-1]]
    assert button.locator("..").get_attribute("aria-sort") == "descending"


def test_cells_without_a_value_stay_below_in_either_order(visit: Visit) -> None:
    button = visit.page.locator("#configurations thead button", has_text="False-hit rate")
    for _ in range(2):
        button.click()
        values = visit.column("configurations", 2)
        empty = values.count("")
        assert empty > 0
        assert values[-empty:] == [""] * empty


def test_a_table_sorts_from_the_keyboard(visit: Visit) -> None:
    button = visit.page.locator("#configurations thead button").first
    button.focus()
    visit.page.keyboard.press("Enter")
    names = visit.column("configurations", 0)
    assert names == sorted(names, key=str.casefold)


def test_the_theme_follows_the_system_and_the_button(visit: Visit, browser: Browser, report: Path) -> None:
    light = background(visit.page)
    visit.page.click("#theme")
    dark = background(visit.page)
    assert light != dark
    visit.page.reload()
    assert background(visit.page) == dark
    visit.page.click("#theme")
    assert background(visit.page) == light
    with opened(browser, report, color_scheme="dark") as night:
        assert background(night.page) == dark


def test_drawings_take_the_colour_of_the_theme(visit: Visit) -> None:
    assert visit.changes_with_the_theme("getComputedStyle(document.querySelector('.timeline svg text')).fill")


def test_a_script_in_a_transcript_is_only_text(visit: Visit) -> None:
    text = visit.page.locator("article", has_text="guest").locator("table").text_content() or ""
    assert "<script>document.title='owned'</script>" in text
    assert visit.page.title() == "Sweep"
    assert visit.page.locator("main img").count() == 0


def test_the_policy_stops_a_script_even_if_one_got_in(visit: Visit) -> None:
    visit.page.evaluate(
        """() => {
          const guest = document.createElement("div");
          guest.innerHTML = `<img src="data:,x" onerror="document.title = 'owned'">`;
          document.body.append(guest);
          const script = document.createElement("script");
          script.textContent = "document.title = 'owned'";
          document.body.append(script);
        }"""
    )
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "Sweep"
    assert any("Content Security Policy" in line for line in visit.noise)


def test_the_runs_download_as_csv_with_formulas_disarmed(visit: Visit) -> None:
    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert download.value.suggested_filename == "runs.csv"
    assert {row["config.cache.key"] for row in rows} == {"rounded", "logmel"}
    assert [row["error"] for row in rows if row["status"] == "failed"] == ["'" + FORMULA]
    assert {float(row["hit_rate"]) for row in rows if row["hit_rate"]} > {0.0}


def test_the_playhead_goes_where_the_sound_goes(visit: Visit) -> None:
    article = visit.page.locator("article").first
    article.locator("audio").evaluate("a => new Promise(done => a.readyState ? done() : (a.onloadedmetadata = done))")
    duration = float(article.get_attribute("data-duration") or 0)
    assert article.locator("audio").evaluate("a => a.duration") == pytest.approx(duration, abs=0.05)
    track = article.locator(".track").first
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    assert box is not None
    track.click(position={"x": box["width"] / 2, "y": 20})
    article.locator(".playhead").first.wait_for(state="visible")
    assert article.locator("audio").evaluate("a => a.currentTime") == pytest.approx(duration / 2, abs=0.1)
    line = article.locator(".playhead").first.bounding_box()
    assert line is not None
    assert line["x"] + line["width"] / 2 == pytest.approx(box["x"] + box["width"] / 2, abs=3)


def test_the_track_lies_on_the_time_axis_of_the_drawing(visit: Visit) -> None:
    article = visit.page.locator("article").first
    track = article.locator(".track").first.bounding_box()
    zero = article.locator(".timeline svg text", has_text="0").first
    axis = zero.bounding_box()
    assert track is not None
    assert axis is not None
    assert axis["x"] + axis["width"] / 2 == pytest.approx(track["x"], abs=4)


def test_a_segments_time_starts_the_sound_there(visit: Visit) -> None:
    article = visit.page.locator("article").first
    article.locator("summary", has_text="Segments").click()
    button = article.locator(".seek").nth(1)
    button.click()
    wanted = float(button.get_attribute("data-time") or 0)
    playing = "a => new Promise(done => setTimeout(() => done(a.currentTime), 300))"
    assert article.locator("audio").evaluate(playing) >= wanted


def test_the_pictures_of_a_search_take_the_colours_of_the_theme(visit: Visit) -> None:
    visit.page.click(".contents a[href='#search']")
    drawings = visit.page.locator("#search svg")
    assert drawings.count() == 3
    assert all(drawing.is_visible() for drawing in drawings.all())
    assert visit.changes_with_the_theme("getComputedStyle(document.querySelector('#search svg text')).fill")
    behind = "[...document.querySelectorAll('#search svg path')].map(p => getComputedStyle(p).fill).join()"
    assert visit.changes_with_the_theme(behind)


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_width_makes_the_whole_page_scroll_sideways(browser: Browser, report: Path, viewport: Any) -> None:
    with opened(browser, report, viewport=viewport) as visit:
        assert visit.overflow() <= 0


def test_every_entry_of_the_contents_leads_somewhere(visit: Visit) -> None:
    targets = [link.get_attribute("href") or "" for link in visit.page.locator(".contents a").all()]
    assert len(targets) > 8
    assert all(visit.page.locator(f"[id='{target[1:]}']").count() == 1 for target in targets)


def test_a_report_without_sound_cannot_seek(browser: Browser, tmp_path: Path) -> None:
    trace = make_trace("call", ("en", "es"), config=configuration())
    path = from_traces([trace]).render(tmp_path / "a.html")
    with opened(browser, path) as visit:
        assert visit.page.locator("audio").count() == 0
        assert all(button.is_disabled() for button in visit.page.locator(".seek").all())
        assert visit.noise == []


def test_the_index_opens_and_leads_to_the_reports(browser: Browser, tmp_path: Path) -> None:
    report = from_traces([], title="Nothing yet", now=datetime(2026, 11, 22, tzinfo=UTC))
    report.render(tmp_path / "deep" / "one & two.html")
    replace(report, title="Another").render(tmp_path / "b.html")
    with opened(browser, write_index(tmp_path), viewport=PHONE) as visit:
        assert visit.noise == []
        assert visit.overflow() <= 0
        visit.page.click("text=Nothing yet")
        assert visit.page.title() == "Nothing yet"


def test_measures_stand_beside_those_of_the_baseline(visit: Visit) -> None:
    visit.page.click(".contents a[href='#comparison']")
    measures = visit.column("baseline", 1)
    assert "mixed error" in measures
    assert "real-time factor" in measures
    assert set(visit.column("baseline", 4)) == {"0.0"}  # the same runs, over the recordings that both have
    assert visit.page.locator("#comparison").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_anybody(browser: Browser, report: Path, theme: Any) -> None:
    with opened(browser, report, viewport=DESKTOP, color_scheme=theme, bypass_csp=True) as visit:
        assert visit.grave() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_in_the_index(browser: Browser, tmp_path: Path, theme: Any) -> None:
    from_traces([], title="Nothing yet").render(tmp_path / "b.html")
    with opened(browser, write_index(tmp_path), color_scheme=theme, bypass_csp=True) as visit:
        assert visit.grave() == []

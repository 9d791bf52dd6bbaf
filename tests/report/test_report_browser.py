"""The report in a real browser, offline: it opens quietly, sorts, changes its theme, plays its sound."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from browsing import DESKTOP, PHONE, Visit, opened
from playwright.sync_api import Browser, Page
from synthetic_report import SAID, configuration, failed_row, from_rows, make_row, make_trace, sweep_rows, tone

from whisperlab.experiments.significance import Separation
from whisperlab.report import from_traces, write_index

pytestmark = pytest.mark.browser

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FORMULA = '=HYPERLINK("x"),"y"'
FORMULAS = (
    FORMULA,
    f"\ufeff{FORMULA}",
    f"\t{FORMULA}",
    f"\r{FORMULA}",
    f" \ufeff{FORMULA}",
    f"\uff1d{FORMULA[1:]}",
    "@SUM(1)",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's page, with hostile and awkward texts among its own."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = sweep_rows(folder, n_recordings=1, blocks=3)
    audio = tone(folder / "guest.wav", 10.0)
    said = {**SAID, "en": ATTACK, "es": ATTACK}
    for config in [row["config"] for row in rows]:
        guest = make_trace("guest", ("en", "es"), config=config, audio_path=audio, said=said)
        rows.append(make_row(guest, corpus="ivr-five", folder=folder))
    rows += [failed_row(configuration(), f"scene-{n}", text) for n, text in enumerate(FORMULAS, 9)]
    with pytest.MonkeyPatch.context() as patch:  # two recordings show no front; here they do, to try its figures
        patch.setattr("whisperlab.report.search.separation", lambda *_: Separation(3, -1.0, -1.5, -0.5))
        return from_rows(rows, folder=folder).render(folder / "report.html")


@pytest.fixture(scope="module")
def desk(browser: Browser, report: Path) -> Iterator[Visit]:
    """The page on a desktop whose system is light."""
    with opened(browser, report, viewport=DESKTOP, color_scheme="light") as visit:
        yield visit


@pytest.fixture(scope="module")
def phone(browser: Browser, report: Path) -> Iterator[Visit]:
    """The page on a phone whose system is dark."""
    with opened(browser, report, viewport=PHONE, color_scheme="dark") as visit:
        yield visit


@pytest.fixture
def visit(request: pytest.FixtureRequest, report: Path) -> Iterator[Visit]:
    """A page that stays open from test to test: each finds it at rest, and leaves the theme as it was."""
    visit: Visit = request.getfixturevalue(getattr(request, "param", "desk"))
    visit.settle()
    yield visit
    visit.settle()
    complaints, visit.noise[:] = visit.noise[:], []  # each test answers for its own
    assert complaints == [], "what a test does makes no page complain"
    assert outside(visit) <= {report.as_uri()}, "nor ask for anything"


everywhere = pytest.mark.parametrize("visit", ["desk", "phone"], indirect=True, ids=["desktop, light", "phone, dark"])


def outside(visit: Visit) -> set[str]:
    """What was asked for and does not lie in the page."""
    return {url for url in visit.requests if not url.startswith(("data:", "blob:"))}


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@everywhere
def test_the_report_opens_offline_without_a_request_or_a_complaint(visit: Visit, report: Path) -> None:
    assert outside(visit) == {report.as_uri()}
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


def test_the_theme_follows_the_system_and_the_button(visit: Visit, phone: Visit) -> None:
    light = background(visit.page)
    visit.page.click("#theme")
    dark = background(visit.page)
    assert light != dark
    visit.page.reload()
    assert background(visit.page) == dark
    visit.page.click("#theme")
    assert background(visit.page) == light
    assert background(phone.page) == dark


def test_drawings_take_the_colour_of_the_theme(visit: Visit) -> None:
    assert visit.changes_with_the_theme(
        "getComputedStyle(document.querySelector('figure.drawn .live svg .role-axis-title text')).fill"
    )


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
          return new Promise(done => setTimeout(() => { guest.remove(); script.remove(); done(); }, 200));
        }"""
    )
    assert visit.page.title() == "Sweep"
    complaints = [line for line in visit.noise if "Content Security Policy" in line]
    assert len(complaints) == len(visit.noise) == 2, visit.noise
    visit.noise.clear()


def test_the_runs_download_as_csv_with_formulas_disarmed(visit: Visit) -> None:
    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert download.value.suggested_filename == "runs.csv"
    assert {row["config.cache.key"] for row in rows} == {"rounded", "logmel"}
    assert [row["error"] for row in rows if row["status"] == "failed"] == [f"'{each}" for each in FORMULAS]
    assert {float(row["hit_rate"]) for row in rows if row["hit_rate"]} > {0.0}


@everywhere
def test_a_click_on_the_timeline_plays_from_there(visit: Visit) -> None:
    article = visit.page.locator("article").first
    audio = article.locator("audio")
    audio.evaluate("a => new Promise(done => a.readyState ? done() : (a.onloadedmetadata = done))")
    duration = float(article.get_attribute("data-duration") or 0)
    assert audio.evaluate("a => a.duration") == pytest.approx(duration, abs=0.05)
    box = article.locator("figure .live .mark-rect path").nth(1)  # of the reference or of a word
    box.scroll_into_view_if_needed()
    box.click(force=True)
    visit.page.wait_for_timeout(200)
    at = audio.evaluate("a => a.currentTime")
    figure = article.locator("figure.chart").first
    drawn_at = figure.evaluate("f => f.drawn.view.signal('playhead')")
    assert 0 < at < duration
    assert drawn_at == pytest.approx(at, abs=1.0)
    places = figure.evaluate("f => [f.drawn.view.scale('x')(0), f.drawn.view.scale('x')(1)]")
    frame = figure.locator(".live svg").bounding_box()
    clicked = box.bounding_box()
    origin = figure.evaluate("f => f.drawn.view.origin()[0]")
    assert frame is not None
    assert clicked is not None
    wanted = (clicked["x"] + clicked["width"] / 2 - frame["x"] - origin) / (places[1] - places[0])
    assert at == pytest.approx(wanted, abs=0.6)


@everywhere
def test_a_pointer_over_a_word_shows_it(visit: Visit) -> None:
    figure = visit.page.locator("article figure.chart").first
    figure.locator(".live .mark-rect path").nth(3).hover(force=True)
    tooltip = visit.page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    text = tooltip.inner_text()
    assert "language" in text
    assert "from (s)" in text


@everywhere
def test_shift_and_the_wheel_zoom_into_the_timeline(visit: Visit) -> None:
    figure = visit.page.locator("article figure.chart:visible").last  # the others are pointed at elsewhere, unzoomed
    figure.scroll_into_view_if_needed()
    before = figure.evaluate("f => f.drawn.view.scale('x').domain()")
    figure.locator(".live svg").hover(force=True)
    visit.page.keyboard.down("Shift")
    visit.page.mouse.wheel(0, -300)
    visit.page.keyboard.up("Shift")
    visit.page.wait_for_timeout(200)
    after = figure.evaluate("f => f.drawn.view.scale('x').domain()")
    assert after[1] - after[0] < before[1] - before[0]


@everywhere
def test_a_pointer_names_a_configuration_and_a_click_selects_its_row(visit: Visit) -> None:
    point = visit.page.locator("#tradeoff .live .mark-symbol path").first
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tooltip = visit.page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert "configuration" in tooltip.inner_text()
    point.click(force=True)
    chosen = visit.page.locator("#configurations tr.chosen")
    assert chosen.count() == 1
    assert (chosen.locator("td").first.text_content() or "").strip() in tooltip.inner_text().replace("\n", " ")


@everywhere
def test_a_box_on_parallel_coordinates_selects_the_lines_through_it(visit: Visit) -> None:
    figure = visit.page.locator("figure#parallel")
    figure.scroll_into_view_if_needed()
    frame = figure.locator(".live svg").bounding_box()
    assert frame is not None
    origin = figure.evaluate("f => f.drawn.view.origin()")
    top = frame["y"] + origin[1]
    left = frame["x"] + origin[0]
    visit.page.mouse.move(left + 30, top + 20)
    visit.page.mouse.down()
    visit.page.mouse.move(left + 110, top + 150, steps=4)
    visit.page.mouse.up()
    visit.page.wait_for_timeout(300)
    picked = figure.evaluate("f => f.drawn.view.signal('picked')")
    every = figure.evaluate("f => new Set(f.drawn.view.data('source_0').map(row => row.config_id)).size")
    assert 0 < len(picked) < every
    assert visit.page.locator("#configurations tr.chosen").count() == len(picked)


@everywhere
def test_a_heat_map_tells_n_and_interval(visit: Visit) -> None:
    cell = visit.page.locator("figure[id^='false-'] .live .mark-rect path").first
    cell.scroll_into_view_if_needed()
    cell.hover(force=True)
    tooltip = visit.page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert "checked hits" in tooltip.inner_text()
    assert "95 % interval" in tooltip.inner_text()


@everywhere
def test_rows_are_filtered_and_grouped(visit: Visit) -> None:
    visit.page.locator("summary", has_text="runs").last.click()
    section = visit.page.locator("#all-runs")
    every = section.locator("#runs tbody tr").count()
    section.locator("input[type=search]").fill("logmel")
    shown = section.locator("#runs tbody tr:visible").count()
    assert 0 < shown < every
    assert f"{shown} of {every} rows" in section.locator("[role=status]").inner_text()
    section.locator("select").select_option(index=1)
    grouped = section.locator("table.grouped")
    counts = [int(text) for text in grouped.locator("tbody td:nth-child(2)").all_text_contents()]
    assert sum(counts) == shown


@everywhere
def test_a_term_explains_itself_to_pointer_and_keyboard(visit: Visit) -> None:
    term = visit.page.locator("abbr.term", has_text="hit rate").first
    term.focus()
    shown = term.evaluate("t => getComputedStyle(t, '::after').content")
    assert "look-ups that the cache answered" in shown


def test_paper_gets_the_static_drawings(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert visit.page.locator("#tradeoff .static").is_visible()
    assert not visit.page.locator("#tradeoff .live").is_visible()


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
    drawings = visit.page.locator("#search .live svg, #search .picture svg")
    assert drawings.count() == 3
    assert all(drawing.is_visible() for drawing in drawings.all())
    assert visit.changes_with_the_theme(
        "getComputedStyle(document.querySelector('#search .live svg .role-axis-title text')).fill"
    )


@everywhere
def test_no_width_makes_the_whole_page_scroll_sideways(visit: Visit) -> None:
    assert visit.overflow() <= 0


def test_every_entry_of_the_contents_leads_somewhere(visit: Visit) -> None:
    targets = [link.get_attribute("href") or "" for link in visit.page.locator(".contents a").all()]
    assert len(targets) >= 8
    assert all(visit.page.locator(f"[id='{target[1:]}']").count() == 1 for target in targets)


def test_a_report_without_sound_cannot_seek(browser: Browser, tmp_path: Path) -> None:
    trace = make_trace("call", ("en", "es"), config=configuration())
    path = from_traces([trace]).render(tmp_path / "a.html")
    with opened(browser, path) as visit:
        assert visit.page.locator("audio").count() == 0
        assert all(button.is_disabled() for button in visit.page.locator(".seek").all())
        assert visit.noise == []


def test_the_index_opens_with_nothing_serious_in_the_way_and_leads_to_the_reports(
    browser: Browser, tmp_path: Path
) -> None:
    report = from_traces([], title="Nothing yet", now=datetime(2026, 11, 22, tzinfo=UTC))
    report.render(tmp_path / "deep" / "one & two.html")
    replace(report, title="Another").render(tmp_path / "b.html")
    with opened(browser, write_index(tmp_path), viewport=PHONE) as visit:
        assert visit.overflow() <= 0
        for viewport, theme in ((PHONE, "dark"), (DESKTOP, "dark"), (DESKTOP, "light")):
            visit.page.set_viewport_size(viewport)
            visit.page.emulate_media(color_scheme=theme)
            assert visit.grave() == []
        assert visit.noise == []
        visit.page.click("text=Nothing yet")
        assert visit.page.title() == "Nothing yet"


@everywhere
def test_nothing_serious_stands_in_the_way_of_anybody(visit: Visit) -> None:
    assert visit.grave() == []


def test_nothing_serious_stands_in_the_way_once_the_button_has_made_it_dark(visit: Visit) -> None:
    light = background(visit.page)
    visit.page.click("#theme")
    assert background(visit.page) != light
    assert visit.grave() == []
    visit.page.click("#theme")

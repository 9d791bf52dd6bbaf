"""Notebooks: what every one of them keeps to, how they become pages, and that they run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
import soxr
from browsing import DESKTOP, PHONE, Visit, opened
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from playwright.sync_api import Browser

from whisperlab import data as corpora
from whisperlab.report.index import entries
from whisperlab.report.notebook import run_notebook, to_html
from whisperlab.report.page import vega_script
from whisperlab.util.errors import ConfigurationError, NotebookError

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# What would make a browser ask for something: an address that is no data, in markup, style or script.
FETCHED = re.compile(
    r"""(?:src|href|action|poster|data)\s*=\s*["']?\s*(?:https?:)?//|@import|(?<![a-z])url\(\s*["']?(?!data:|[#])|import\s*\(""",
    re.IGNORECASE,
)


def cells(path: Path) -> list[NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def notebook(*sources: str) -> NotebookNode:
    """A notebook of the given cells; those that begin with ``#`` and a space are text."""
    made = nbformat.v4.new_notebook()
    for source in sources:
        text = source.startswith("# ")
        made.cells.append((nbformat.v4.new_markdown_cell if text else nbformat.v4.new_code_cell)(source))
    return made


def printed(text: str) -> NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def shown(**data: str) -> NotebookNode:
    return nbformat.v4.new_output("display_data", {name.replace("_", "/"): value for name, value in data.items()})


# ---- what is committed


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "01_quickstart.ipynb",
        "02_cache_sweep.ipynb",
        "03_language_id_window.ipynb",
        "04_switching.ipynb",
        "05_before_after.ipynb",
        "06_ring_buffer.ipynb",
        "07_memory.ipynb",
        "08_latency.ipynb",
        "09_other_systems.ipynb",
        "10_your_own_audio.ipynb",
        "11_difficulty.ipynb",
        "12_regret.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_short_clean_and_parametrised(path: Path) -> None:
    found = cells(path)
    assert len(found) < 12
    assert all(not cell.outputs and cell.execution_count is None for cell in found if cell.cell_type == "code")
    tagged = [cell for cell in found if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all(isinstance(node, ast.Assign) for node in ast.parse(tagged[0].source).body)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_first_and_has_an_answer_and_a_picture(path: Path) -> None:
    first, *others = cells(path)
    assert first.cell_type == "markdown"
    assert re.match(r"# [^\n]+\n\n[^\n]+\?\n\n", first.source), "the heading, and a question as the first paragraph"
    tags = [tag for cell in others for tag in cell.metadata.get("tags", [])]
    assert tags.count("answer") == tags.count("picture") == 1
    assert "answer" in others[-1].metadata["tags"]
    assert "HTML(" not in "".join(cell.source for cell in others), "a figure displays itself"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_that_others_could_use(path: Path) -> None:
    plain = TransformerManager().transform_cell  # magics are no Python
    code = "\n".join(plain(cell.source) for cell in cells(path) if cell.cell_type == "code")
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.name for node in ast.walk(ast.parse(code)) if isinstance(node, defined)] == []


# ---- pages


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    """nbconvert's own template loads require.js, MathJax and Mermaid from the web, even when nobody uses them."""
    made = notebook("# Title\n\n$x^2$", "plot()")
    made.cells[1].outputs = [
        shown(text_html="<table><tr><td>1</td></tr></table>"),
        shown(image_png="iVBORw0KGgo="),
        shown(text_latex="$y$"),
    ]
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    page = to_html(made)
    assert FETCHED.findall(page) == []
    # The one whose digest the policy names, and the glossary as data.
    assert re.findall("<script[^>]*>", page) == ['<script id="terms" type="application/json">', "<script>"]
    assert "default-src 'none'; script-src 'sha256-" in page


def test_the_words_that_look_like_a_fetch_are_found() -> None:
    """The test above is worth what this expression finds."""
    for fetch in (
        '<script src="https://cdn.example/x.js">',
        "<link href='//cdn.example/x.css'>",
        "@import 'x.css'",
        "background: url(https://x.example/a.png)",
        'import("x.js")',
    ):
        assert FETCHED.search(fetch)
    assert not FETCHED.search('<img src="data:image/png;base64,//8="><a href="#part">url(data:x) url(#clip)')


def test_a_page_tells_the_index_what_it_is(tmp_path: Path) -> None:
    made = notebook('# What *does* `a < b` cost?\n\nOne "question"\nof two lines.\n\nMore.', "1")
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    (tmp_path / "page.html").write_text(to_html(made, now=now), encoding="utf-8")
    (entry,) = entries(tmp_path, [tmp_path / "page.html"])
    assert entry.title == "What does a < b cost?"
    assert entry.question == 'One "question" of two lines.'
    assert entry.created == now


def test_a_notebook_without_a_heading_is_still_a_page() -> None:
    assert "<title>Notebook</title>" in to_html(notebook("1 + 1"))


def test_a_page_begins_with_question_answer_and_picture() -> None:
    made = notebook("# Title\n\nHow much?\n\nMore about it.", "A = 1", "draw()", "conclude()")
    for cell, tag in zip(made.cells[1:], ("parameters", "picture", "answer"), strict=True):
        cell.metadata["tags"] = [tag]
    made.cells[2].outputs = [shown(text_html="<figure>the picture</figure>")]
    made.cells[3].outputs = [
        shown(text_markdown="\nIt is *12* of 20 units. That is much.\n\n* a detail_of it", text_plain="x")
    ]
    page = to_html(made)
    order = [
        page.rindex(text) for text in ("How much?", "That is much.", "the picture", "a detail_of it", "More about it.")
    ]
    assert order == sorted(order)
    assert re.search(r'<meta content="It is 12 of 20 units. That is much." name="answer"', page)
    assert page.count("the picture") == 1
    folded = re.findall(r'<details class="code-fold">.*?</details>', page, flags=re.DOTALL)
    assert any("draw" in code for code in folded)
    assert not any("code-fold" in part and "A" in re.sub("<[^>]+>", "", part).split() for part in folded)


def test_progress_bars_and_controls_are_left_out() -> None:
    made = notebook("# Title", "work()")
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%| | 0/57"}
    made.cells[1].outputs = [nbformat.v4.new_output("display_data", view), printed("done")]
    page = to_html(made)
    assert "0/57" not in page
    assert "done" in page


def test_code_is_shown_unless_its_cell_says_otherwise() -> None:
    made = notebook("# Title", "open_code()", "hidden_code()")
    made.cells[2].metadata["tags"] = ["hide-input"]
    made.cells[2].outputs = [printed("what it printed")]
    page = to_html(made)
    assert "open_code" in page
    assert "hidden_code" not in page
    assert "what it printed" in page


def test_what_a_program_printed_is_text_not_markup() -> None:
    made = notebook("# Title", "1")
    made.cells[1].outputs = [printed("<script>alert(1)</script>")]
    assert "<script>alert" not in to_html(made)


# ---- running


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(*sources: str, tags: tuple[str, ...] = ()) -> Path:
        made = notebook(*sources)
        for cell in made.cells[1:2]:
            cell.metadata["tags"] = list(tags)
        path = tmp_path / "notes.ipynb"
        nbformat.write(made, path)
        return path

    return save


@pytest.mark.notebook
def test_parameters_replace_those_of_the_notebook_which_stays_as_it_is(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    path = saved("# Sum", "A = 1\nB = 2", "print('sum', A + B)", tags=("parameters",))
    before = path.read_bytes()
    page = run_notebook(path, tmp_path / "pages" / "sum.html", {"B": 40})
    assert "sum 41" in page.read_text(encoding="utf-8")
    assert f"whisperlab report {path} -p B=40" in page.read_text(encoding="utf-8")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.ipynb", "pages"]


@pytest.mark.notebook
def test_a_notebook_runs_in_its_own_folder_by_the_same_python(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved("# Where", "import os, whisperlab; print('in', os.getcwd(), 'with', whisperlab.__version__)")
    text = run_notebook(path, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"in {tmp_path} with " in text


@pytest.mark.notebook
def test_a_failing_cell_is_named_and_the_page_shows_how_far_it_came(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved("# Fails", "print('so far so good')", "x = 1\nx / 0", "print('never')")
    page = tmp_path / "page.html"
    with pytest.raises(
        NotebookError, match=r"notes\.ipynb: the cell that begins with 'x = 1' failed with ZeroDivision"
    ):
        run_notebook(path, page)
    text = page.read_text(encoding="utf-8")
    assert "so far so good" in text
    assert "ZeroDivisionError" in text
    assert FETCHED.findall(text) == []


@pytest.mark.notebook
def test_a_python_that_dies_is_told(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved("# Dies", "import os; os._exit(1)")
    with pytest.raises(NotebookError, match="its Python process ended"):
        run_notebook(path, tmp_path / "page.html")


@pytest.mark.notebook
def test_a_parameter_the_notebook_does_not_have_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved("# Sum", "A = 1", tags=("parameters",))
    with pytest.raises(ConfigurationError, match="has no parameter C; it has A"):
        run_notebook(path, tmp_path / "page.html", {"C": 1})
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="no such notebook"):
        run_notebook(tmp_path / "gone.ipynb", tmp_path / "page.html")
    (tmp_path / "text.ipynb").write_text("print(1)")
    with pytest.raises(NotebookError, match=r"text\.ipynb: not a notebook"):
        run_notebook(tmp_path / "text.ipynb", tmp_path / "page.html")


SMALL = {
    "01_quickstart": {"LID_HOP_MS": 500},
    "02_cache_sweep": {
        "LID_HOP_MS": 500,
        "CACHE_SIZES": [5, 50],
        "HASH_PRECISIONS": [6, 0],
        "KEYS": ["rounded"],
        "SHADOW_RATE": 1.0,
        "PROFILED_SECONDS": 1.0,
    },
    "03_language_id_window": {
        "SPLIT": "test",
        "WINDOWS_S": [0.5, 1.0],
        "SILENCES_S": [0.0, 0.5],
        "CHOSEN": [1.0, 0.5],
        "PLACES": 2,
        "CONFIDENCE_PLACES": 6,
    },
    "04_switching": {"CONFIDENT_HOP_FACTOR": 3},
    "05_before_after": {
        "SPLIT": "test",
        "STRETCH_S": 1.0,
        "VARIANTS": "",
        "SCORED": [],
        "MEMORY_OF": [],
        "ROUNDS": 6,
        "CURVE_ROUNDS": 1,
        "STREAM_S": 10.0,
    },
    "06_ring_buffer": {"HELD_S": [1, 10], "ROUNDS": 6},
    "07_memory": {"SECONDS": 1.0},
    "08_latency": {"LID_HOP_MS": 500},
    "09_other_systems": {"SYSTEMS": ["multilingual, no prompt", "auto", "whisperlab, oracle"]},
    "10_your_own_audio": {"SECONDS": 3.0, "EVERY_S": 3.0},
    "11_difficulty": {"BLOCKS_S": [1.0], "MIXING": [0.5], "SECONDS": 3.0, "SECOND_VOICES": {}},
    "12_regret": {"SPLIT": "test"},
}

COLOUR = "getComputedStyle(document.querySelector('main')).color"

# The contrast of a word takes milliseconds, and code has hundreds of words in a dozen colours: others become plain.
ONE_WORD_OF_EACH_COLOUR = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight span[class]"))
    if (seen.has(word.className)) word.replaceWith(...word.childNodes);
    else seen.add(word.className);
}"""

# Those that hear no speech, or make their own.
DEAF = ("06_ring_buffer", "11_difficulty")

# Those that measure a cost, whatever is heard, or that hear all speech eight times.
COSTS = ("02_cache_sweep", "05_before_after", "07_memory", "12_regret")
EXECUTED = [
    *((path, path.stem in COSTS) for path in NOTEBOOKS),
    *(pytest.param(path, False, marks=pytest.mark.slow) for path in NOTEBOOKS if path.stem in COSTS),
]


@pytest.mark.notebook
@pytest.mark.model
@pytest.mark.browser
@pytest.mark.parametrize("path,few", EXECUTED, ids=lambda value: getattr(value, "stem", "few" if value else "base"))
def test_every_notebook_runs_on_real_speech_and_becomes_a_page_that_anybody_can_read(
    path: Path, few: bool, excerpt: Path, few_weights: Path, tmp_path: Path, browser: Browser
) -> None:
    """With the weights of Whisper base, or with few random ones."""
    hostile = path.stem == "01_quickstart"
    manifest = _with_script(excerpt, tmp_path) if hostile else excerpt
    heard = {} if path.stem in DEAF else {"CORPUS": str(manifest)}
    model = {"MODEL": str(few_weights)} if few else {}
    if path.stem == "10_your_own_audio":
        heard = {"AUDIO": str(_own_recording(excerpt, tmp_path / "my call.wav")), "LANGUAGES": ["en", "es"]}
    page = run_notebook(path, tmp_path / "page.html", {**heard, **model, **SMALL[path.stem]})
    text = page.read_text(encoding="utf-8")
    assert FETCHED.findall(text.replace(vega_script(), "")) == []
    assert re.search('<svg[^>]* role="img"', text)
    (entry,) = entries(page.parent, [page])
    assert entry.question.endswith("?")
    assert re.search(r"\d", entry.answer), "the answer has a figure"
    assert "Traceback" not in text
    assert not re.search(r'data-mime-type="application/vnd.jupyter.stderr"', text), "no warning"
    assert len(text) < 3_000_000
    assert not hostile or ("&lt;script&gt;alert(1)" in text and "<script>alert(1)" not in text)
    with opened(browser, page, viewport=PHONE, color_scheme="light") as visit:
        assert visit.overflow() <= 0
        visit.page.set_viewport_size(DESKTOP)
        _check_contents(visit)
        _check_tables(visit)
        assert visit.noise == []
        assert visit.fetched() == []
        visit.page.evaluate(ONE_WORD_OF_EACH_COLOUR)
        assert visit.grave() == []
        before = visit.page.evaluate(COLOUR)
        visit.page.click("#theme")
        assert visit.page.evaluate(COLOUR) != before
        assert visit.grave() == []


def _own_recording(excerpt: Path, path: Path) -> Path:
    """The same speech as a stereo file of 44.1 kHz."""
    (recording,) = corpora.load(str(excerpt), "test")
    audio = soxr.resample(recording.audio(), 16_000, 44_100)
    soundfile.write(path, np.stack([audio, audio / 2], axis=1), 44_100)
    return path


def _with_script(excerpt: Path, folder: Path) -> Path:
    """The same speech by a manifest that would run a script, in its text and its name."""
    (recording,) = corpora.load(str(excerpt), "test")
    attack = "<script>alert(1)</script>"
    segments = tuple(replace(segment, text=f"{attack}{segment.text}") for segment in recording.segments)
    path = folder / "hostile.jsonl"
    named = replace(recording, id=attack, segments=segments, text=attack)
    corpora.write_manifest(path, [named])
    return path


def _check_contents(visit: Visit) -> None:
    """Every entry leads to a heading."""
    links = visit.page.locator(".contents a")
    for link in links.all():
        target = (link.get_attribute("href") or "")[1:]
        assert visit.page.locator(f"h2[id='{target}']").count() == 1


def _check_tables(visit: Visit) -> None:
    """The first table that can be sorted sorts by its last column."""
    tables = visit.page.locator("table.sortable")
    if not tables.count():
        return
    table = tables.first
    table.locator("thead button").last.click()
    script = "t => [...t.tBodies[0].rows].map(r => r.cells[r.cells.length - 1].dataset.sort)"
    kept = [value for value in table.evaluate(script) if value != ""]
    try:
        assert [float(value) for value in kept] == sorted(float(value) for value in kept)
    except ValueError:
        assert [value.casefold() for value in kept] == sorted(value.casefold() for value in kept)

"""At home in Jupyter: what objects look like, magics, the live view, and JupyterLab itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import notebook_page, run_all
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from whisperlab import EncoderCache, PerformanceMetrics, ProcessResult, RingBuffer, SessionSegment, Switch
from whisperlab.jupyter.live_view import LAST_S, LiveView
from whisperlab.streaming.results import LanguageFrame
from whisperlab.util.timeline import SAMPLE_RATE

ATTACK = "<script>alert(1)</script>"


def segment(text: str, start: float = 0.0, language: str = "en") -> SessionSegment:
    return SessionSegment(text, language, start, start + 1.0, True, 0.9)


# --- tables -------------------------------------------------------------------------------------------


def test_a_ring_shows_how_full_it_is_and_what_it_lost() -> None:
    ring = RingBuffer(1000)
    ring.append(np.zeros(750, np.float32))
    assert "free</th><td>250<" in ring._repr_html_()
    ring.append(np.zeros(500, np.float32))
    assert "dropped samples</th><td>250<" in ring._repr_html_()


def test_a_cache_shows_its_hit_rate_beside_its_false_hits() -> None:
    import torch

    cache = EncoderCache(max_size=2, shadow_rate=1.0)
    audio = np.zeros(SAMPLE_RATE, np.float32)
    assert cache.get(audio) is None
    cache.put(torch.zeros(3), audio)
    assert cache.get(audio) is not None
    assert "hit rate</th><td>0.5<" in cache._repr_html_()
    cache.record_shadow(agree=False, distance=1.0)
    assert "checked: 1, false_hits: 1, false_hit_rate: 1," in cache._repr_html_()


def test_metrics_show_every_operation() -> None:
    metrics = PerformanceMetrics()
    for ms in (1, 2, 30):
        metrics.record("lid.total", ms / 1000)
    markup = metrics._repr_html_()
    assert '<td dir="auto">lid.total</td>' in markup
    assert '<td dir="auto">30</td>' in markup


def test_segments_and_results_show_text_as_text() -> None:
    said = segment(ATTACK)
    result = ProcessResult(
        ATTACK, ATTACK, "en", switches=(Switch(1.0, "en", "es", 2.0),), segments=(said, segment("hola", 1.0, "es"))
    )
    for shown in (said, result, ProcessResult("", "", None)):
        markup = shown._repr_html_()
        assert "<script" not in markup
    assert "&lt;script&gt;" in result._repr_html_()
    assert "en to es at 1.0 s" in result._repr_html_()


# --- the live view ------------------------------------------------------------------------------------


class Talker:
    """Says a sentence every second, and switches its language with each."""

    def __init__(self) -> None:
        self.heard = 0

    def process(self, chunk: np.ndarray, /) -> ProcessResult:
        self.heard += len(chunk)
        language = "en" if self.heard // SAMPLE_RATE % 2 else "es"
        frame = LanguageFrame(self.heard, 100, 100, {"en": 0.7, "es": 0.3}, language, False)
        done = (segment(f"sentence {ATTACK}", self.heard / SAMPLE_RATE - 1, language),)
        whole = self.heard % SAMPLE_RATE == 0
        return ProcessResult("", "still open", language, segments=done if whole else (), frames=(frame,))

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", "en", segments=(segment("the end", self.heard / SAMPLE_RATE),))

    def get_statistics(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def config(self) -> dict[str, Any]:
        return {"model": "talker"}


CHUNK = np.zeros(SAMPLE_RATE // 10, np.float32)


def test_a_live_view_draws_at_its_own_pace_and_leaves_the_last_picture() -> None:
    shown: list[str] = []
    now = iter(np.arange(0, 100, 0.05))
    view = LiveView(Talker(), every_s=1.0, show=shown.append, clock=lambda: float(next(now)))
    for _ in range(40):
        result = view.process(CHUNK)
        assert result.tentative == "still open"
    during = len(shown)
    assert 4 < during < 12  # 40 chunks of 0.15 to 0.2 s of this clock, a picture a second
    assert re.search(r"<i [^>]*>still open</i>", shown[-1])
    assert view.finalize().segments[0].text == "the end"
    assert len(shown) == during + 1
    assert "the end" in shown[-1]
    assert "still open" not in shown[-1]
    assert "<script" not in shown[-1]
    assert view.get_statistics() == {"heard": 64_000}
    assert view.config() == {"model": "talker"}


def test_a_live_view_of_a_long_stream_keeps_what_it_shows_and_no_more() -> None:
    view = LiveView(Talker(), every_s=1e9, show=lambda markup: None)
    for _ in range(6000):
        view.process(CHUNK)
    for kept in (view._segments, view._frames, view._latency):
        assert len(kept) <= max(100, LAST_S * 100)
    assert "599" in view.html() or "600" in view.html()


def test_outside_of_a_notebook_a_live_view_is_the_transcriber() -> None:
    view = LiveView(Talker())
    assert view.process(CHUNK).language == "es"


# --- magics -------------------------------------------------------------------------------------------


@pytest.fixture
def shell() -> InteractiveShell:
    made = InteractiveShell()
    made.run_line_magic("load_ext", "whisperlab")
    return made


def test_latency_shows_the_cell_and_the_operations_timed_in_it(shell: InteractiveShell) -> None:
    metrics = PerformanceMetrics()
    metrics.record("earlier", 1.0)
    shell.user_ns["metrics"] = metrics
    shell.run_cell_magic("latency", "-n 3", "metrics.record('lid.total', 0.002)")
    found: pd.DataFrame = shell.user_ns["_latency"]
    assert list(found.index) == ["the cell", "lid.total"]
    assert found.loc["the cell", "count"] == 3
    assert found.loc["lid.total", "p50"] == pytest.approx(2.0)


def test_latency_of_one_line(shell: InteractiveShell) -> None:
    shell.run_line_magic("latency", "-n 2 x = -3 - 4")
    assert shell.user_ns["_latency"].loc["the cell", "count"] == 2
    shell.run_line_magic("latency", "x += 1")
    assert shell.user_ns["_latency"].loc["the cell", "count"] == 1
    assert shell.user_ns["x"] == -6


def test_peak_memory_sees_what_a_cell_held_for_a_while(shell: InteractiveShell) -> None:
    # So large that no free block of the heap can hold it: it is mapped, and returned to the system when deleted.
    shell.run_cell_magic("peak_memory", "", "import numpy as np\nx = np.ones(2**29, np.uint8)\ndel x")
    found = shell.user_ns["_peak_memory"]["MiB"]
    assert 500 < found["peak above before"] < 650
    assert found["after"] < found["peak"] - 450


def test_heap_names_the_line_that_held_most(shell: InteractiveShell, tmp_path: Path) -> None:
    page = tmp_path / "flame.html"
    shell.run_cell_magic("heap", f"-f {page}", "import numpy as np\nheld = [np.ones(2**25, np.uint8)]")
    found: pd.DataFrame = shell.user_ns["_heap"]
    assert found["MiB"].iloc[0] >= 32
    assert found.attrs["peak_bytes"] >= 2**25
    assert "<html" in page.read_text(encoding="utf-8")


def test_a_cell_that_fails_fails_with_its_own_error(shell: InteractiveShell) -> None:
    for magic in ("latency", "peak_memory", "heap"):
        with pytest.raises(ZeroDivisionError):
            shell.run_cell_magic(magic, "", "1 / 0")


@pytest.mark.parametrize("line", ["-n 0", "-n many", "-x 3", "words"])
def test_options_that_make_no_sense_are_refused(shell: InteractiveShell, line: str) -> None:
    with pytest.raises(UsageError, match=r"argument -n|unrecognized"):
        shell.run_cell_magic("latency", line, "1")
    assert "_latency" not in shell.user_ns


# --- JupyterLab itself --------------------------------------------------------------------------------


CELLS = (
    "%load_ext whisperlab",
    """import numpy as np
from whisperlab import PerformanceMetrics, RingBuffer
ring, metrics = RingBuffer(1600), PerformanceMetrics()""",
    """%%latency
for _ in range(50):
    with metrics.measure("ring.append"):
        ring.append(np.zeros(800, np.float32))""",
    "ring",
)


STREAM = """from whisperlab.jupyter.results import stream
result = stream({audio!r}, model={model!r}, languages=["en", "es"], seconds=SECONDS, live=True, every_s=0.2)
print("RESULT", result)"""


@pytest.mark.browser
def test_magics_and_tables_in_jupyterlab_and_its_stop_button_which_keeps_what_was_heard(
    browser: Any, lab: tuple[str, Path], few_weights: Path
) -> None:
    """The button of a real JupyterLab, during the live view; then the same cells again, on less audio, to the end."""
    from whisperlab.data.audio_files import write_wav

    _, folder = lab
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * SAMPLE_RATE).astype(np.float32)
    write_wav(folder / "long.wav", np.tile(noise, 60))
    source = STREAM.format(audio=str(folder / "long.wav"), model=str(few_weights))
    # The first run gets all 600 s, each later run one second.
    cells = ["SECONDS = 1.0 if 'SECONDS' in globals() else 600.0", source, "result.trace.heard_s < 600, result.stopped"]
    page = notebook_page(browser, lab, "lab.ipynb", [*CELLS, *cells])
    run_all(page)
    page.wait_for_selector("text=dropped samples", timeout=120_000)
    assert page.locator(".jp-RenderedHTMLCommon", has_text="ring.append").count() == 1
    assert page.locator("text=RingBuffer of 1,600 samples").count() == 1
    page.wait_for_selector("text=/of 600 s received/", timeout=120_000)
    page.click("[data-command='notebook:interrupt-kernel']")
    page.wait_for_selector("text=/RESULT long.wav: stopped by the stop button after .* of 600 s/", timeout=60_000)
    page.wait_for_selector("text='(True, True)'", timeout=60_000)
    assert page.locator(".jp-OutputArea-output:has-text('Traceback')").count() == 0
    run_all(page)
    page.wait_for_selector("text=/RESULT long.wav: 1 s of audio/", timeout=60_000)
    page.wait_for_selector("text='(True, False)'", timeout=60_000)
    assert page.locator("text=/stopped by the stop button/").count() == 0
    page.keyboard.press("Control+s")
    page.close()

"""The microphone of a browser: no sample is lost from Chromium to the saved recording, and every end keeps the text."""

from __future__ import annotations

import logging
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browsing import notebook_page, run_all
from microphones import RATE, difference, speaking, spoken
from remembered import REMEMBERED

from whisperlab import SessionRestartTranscriber
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.trace import capture, read_trace
from whisperlab.jupyter import microphone as module
from whisperlab.jupyter.live_view import LiveView
from whisperlab.jupyter.microphone import BrowserMicrophone, Listener
from whisperlab.streaming.real_time import OverloadOptions, RealTimeFeed
from whisperlab.streaming.results import ProcessResult
from whisperlab.util.audio_arrays import FloatArray, as_audio, as_chunk, audio_digest, chunks, pcm_16
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from playwright.sync_api import Browser
    from whisper.model import Whisper

LOST = "the browser lost about"
CELL = """from whisperlab.jupyter.microphone import Listener
from whisperlab.streaming.real_time import OverloadOptions
patient = OverloadOptions(skip_lid_ms=60_000, longer_steps_ms=80_000, drop_ms=100_000)  # the machine may be slow
files = {{"save": "{name}.wav", "trace": "{name}.jsonl"}}
talk = Listener(["en", "es"], model={model!r}, overload=patient, lid_hop_ms=500, **files)"""


NOISE = np.random.default_rng(0).normal(0, 0.1, 2 * RATE + 77).astype(np.float32)


# ---- messages --------------------------------------------------------------------------------------------


Messages = list[tuple[dict[str, Any], tuple[memoryview, ...]]]


def messages(audio: FloatArray, rate: int, lost: int = 0) -> Messages:
    """What ``microphone.js`` sends for some audio."""
    blocks = [memoryview(block.tobytes()) for block in chunks(audio, rate // 10)]
    bodies: Messages = [({"rate": rate, "name": "Desk microphone"}, ()), *(({}, (block,)) for block in blocks)]
    return [({"number": n, **body}, parts) for n, (body, parts) in enumerate([*bodies, ({"lost": lost}, ())])]


def heard_from(sent: Messages) -> tuple[FloatArray, BrowserMicrophone]:
    """What a microphone delivers that receives some messages, and then no more."""
    microphone = BrowserMicrophone()
    for message, buffers in sent:
        microphone.receive(message, buffers)
    return np.concatenate([*microphone, np.zeros(0, np.float32)]), microphone


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_recording_of_any_rate_is_resampled_and_rounded_to_16_bits(rate: int) -> None:
    found, microphone = heard_from(messages(NOISE, rate))
    np.testing.assert_allclose(found, as_audio(NOISE, rate), atol=1e-3)
    assert np.array_equal(found, as_chunk(pcm_16(found))), "a 16-bit recording of it would differ"
    assert (microphone.rate, microphone.name, microphone.losses) == (rate, "Desk microphone", [])


def test_messages_in_any_order_give_the_same_audio() -> None:
    first, *others = messages(NOISE, SAMPLE_RATE)
    random.Random(0).shuffle(others)
    found, microphone = heard_from([first, *others])
    assert np.array_equal(found, as_chunk(pcm_16(NOISE)))
    assert microphone.losses == []


def test_a_missing_block_is_counted_and_logged_and_the_others_are_delivered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One does not come at all, another one when it counts as lost already."""
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    monkeypatch.setattr(module, "WAITING", 5)
    sent, n = messages(NOISE, SAMPLE_RATE), SAMPLE_RATE // 10
    sent.insert(15, sent.pop(3))
    del sent[-3]
    with caplog.at_level(logging.WARNING, "whisperlab"):
        found, microphone = heard_from(sent)
    cut = len(NOISE) // n - 1
    left = np.delete(NOISE, np.r_[2 * n : 3 * n, cut * n : (cut + 1) * n])
    assert np.array_equal(found, as_chunk(pcm_16(left)))
    assert microphone.overflows == 2
    assert caplog.messages == ["Desk microphone: 2 blocks of 100 ms did not arrive from the browser"]


def test_samples_that_the_browser_lost_are_reported() -> None:
    assert heard_from(messages(NOISE, SAMPLE_RATE, lost=441))[1].losses == ["the browser lost about 441 samples"]


def test_a_failure_of_the_browser_ends_the_recording_with_its_reason() -> None:
    *sent, (last, _) = messages(NOISE, SAMPLE_RATE)
    found, microphone = heard_from([*sent, ({**last, "error": "the microphone failed: gone"}, ())])
    assert np.array_equal(found, as_chunk(pcm_16(NOISE)))
    assert microphone.losses == ["the microphone failed: gone"]


def test_a_stop_still_delivers_what_is_on_its_way_and_a_second_one_changes_nothing() -> None:
    sent = messages(NOISE, SAMPLE_RATE)
    closed = [*sent[:5], ({}, ()), ({}, ()), *sent[5:], ({}, ())]
    found, microphone = heard_from(closed)
    assert np.array_equal(found, as_chunk(pcm_16(NOISE)))
    assert microphone.losses == []


def test_a_page_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    *sent, _ = messages(NOISE, SAMPLE_RATE)
    found, microphone = heard_from([*sent, ({}, ())])
    assert np.array_equal(found, as_chunk(pcm_16(NOISE)))
    assert microphone.losses == ["the browser did not confirm the end: the last samples may be missing"]


def test_a_stop_before_the_microphone_is_opened_is_an_error_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    microphone, told = BrowserMicrophone(), list[object]()
    monkeypatch.setattr(microphone.widget, "send", told.append)
    microphone.close()
    with pytest.raises(ConfigurationError, match="browser: stopped before it was opened"):
        list(microphone)
    assert told == [{}]


def test_a_refused_microphone_is_an_error_with_the_reason_of_the_browser() -> None:
    with pytest.raises(ConfigurationError, match="browser: the browser denied the microphone"):
        heard_from([({"number": 0, "error": "the browser denied the microphone"}, ())])


# ---- a listener without a browser ------------------------------------------------------------------------


def ended(talk: Listener) -> str:
    """The text that a listener shows at its end."""
    for _ in range(600):
        if talk.microphone.widget.text:
            return str(talk.microphone.widget.text)
        threading.Event().wait(0.1)
    raise AssertionError("it did not end")


def test_the_recording_and_the_trace_are_kept_when_asked(few_weights: Path, tmp_path: Path) -> None:
    kept = {"save": tmp_path / "new" / "talk.wav", "trace": tmp_path / "talk.jsonl"}
    for files in (kept, {}):
        talk = Listener(["en", "es"], model=str(few_weights), **files)
        assert talk.result is None
        for message, buffers in messages(NOISE, RATE, lost=3):
            talk.microphone.receive(message, buffers)
        text = ended(talk)
        assert talk.result is not None
        assert "2.0 s of audio" in text
        assert text.endswith("\nthe browser lost about 3 samples")
        np.testing.assert_allclose(talk.result.audio, as_audio(NOISE, RATE), atol=1e-3)
        assert talk.result.trace.header["audio"]["sha256"] == audio_digest(talk.result.audio)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["talk.jsonl", "talk.wav"]
    assert np.array_equal(read_audio(kept["save"]), talk.result.audio)
    assert read_trace(kept["trace"]).header["audio"]["path"] == str(kept["save"])


def test_an_error_is_shown_and_stored(few_weights: Path) -> None:
    talk = Listener(model=str(few_weights))
    talk.microphone.receive({"number": 0, "error": "the browser found no microphone"})
    assert ended(talk) == "microphone of the browser: the browser found no microphone"
    assert isinstance(talk.error, ConfigurationError)
    assert talk.result is None


class Slow:
    load_level = 0

    def __init__(self) -> None:
        self.levels, self.skipped = list[int](), 0

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        self.levels.append(self.load_level)
        return ProcessResult("", "", None)

    def skip(self, n_samples: int, /) -> ProcessResult:
        self.skipped += n_samples
        return ProcessResult("", "", None)

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", None)

    def get_statistics(self) -> dict[str, Any]:
        return {}

    def config(self) -> dict[str, Any]:
        return {}


def test_a_live_view_behind_a_feed_sheds_load_like_its_transcriber() -> None:
    slow = Slow()
    view = LiveView(slow, automatic=False)
    feed = RealTimeFeed(view, OverloadOptions(skip_lid_ms=100, longer_steps_ms=200, drop_ms=1000))
    feed.offer(np.zeros(SAMPLE_RATE, np.float32))
    feed.offer(np.zeros(1600, np.float32))
    feed.close()
    for _, call in feed.work():
        call()
    assert slow.skipped > 0
    assert slow.levels[0] == 2
    assert slow.levels[-1] < 2
    assert view.received_s == pytest.approx(1.1)


def test_a_live_view_leaves_the_load_level_to_its_transcriber() -> None:
    slow = Slow()
    slow.load_level = 1
    LiveView(slow, automatic=False).process(np.zeros(1600, np.float32))
    assert slow.levels == [1]


# ---- JupyterLab and Chromium -----------------------------------------------------------------------------


def start(page: Any) -> None:
    """Run the notebook, and wait until its microphone records."""
    run_all(page)
    page.wait_for_selector("text=/s recorded, lag/", timeout=120_000)


def recorded(page: Any, at_least_s: float) -> None:
    """Wait until so many seconds are recorded."""
    script = "s => parseFloat(document.querySelector('[role=status]')?.textContent.match(/(.*) s recorded/)?.[1]) > s"
    page.wait_for_function(script, arg=at_least_s, timeout=120_000)


@pytest.mark.browser
@pytest.mark.model
def test_every_sample_of_the_microphone_is_recorded_and_the_text_is_that_of_the_recording(
    browser: Browser, lab: tuple[str, Path], base_model: Whisper, scene: Scene, tmp_path: Path
) -> None:
    """The speech is a file in 16 bits, played by Chromium's fake microphone; the Stop button ends it.

    On an overloaded machine Chromium itself loses samples. Then it must say so; the rest of the test holds.
    """
    _, folder = lab
    heard = spoken(scene.beginning(2).audio, tmp_path / "speech.wav")
    with speaking(browser.browser_type, tmp_path / "speech.wav") as chromium:
        page = notebook_page(chromium, lab, "talk.ipynb", [CELL.format(model="base", name="talk")])
        page.context.grant_permissions(["microphone"])
        fetched: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        start(page)
        page.wait_for_selector(".jp-OutputArea i:text-matches('[a-z]')", timeout=120_000)  # tentative text, dimmed
        recorded(page, len(heard) / RATE)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.wait_for_selector("text=/talk: . segments, . switches, .* s of audio/", timeout=300_000)
        shown = page.locator(".jp-OutputArea").inner_text()
    saved, trace = read_audio(folder / "talk.wav"), read_trace(folder / "talk.jsonl")
    best, second = difference(saved, heard)
    assert best <= 1 or LOST in shown, "steps of 16 bits: Chromium scales by 32767/32768"
    assert second > 100, "other alignments differ"
    assert trace.header["audio"]["sha256"] == audio_digest(saved)
    assert trace.statistics["real_time"]["dropped_s"] == 0
    transcriber = SessionRestartTranscriber(base_model, languages=["en", "es"], lid_hop_ms=500, parts=REMEMBERED)
    file = capture(transcriber, saved, recording="talk")
    assert trace.segments == file.segments != ()
    assert trace.switches == file.switches != ()
    assert [segment.text.strip() for segment in trace.segments if segment.text.strip() not in shown] == []
    assert [url for url in fetched if not url.startswith((lab[0].split("/lab")[0], "blob:", "data:"))] == []


@pytest.mark.browser
def test_a_busy_cell_costs_no_sample_and_an_interrupt_of_the_kernel_finishes(
    browser: Browser, lab: tuple[str, Path], few_weights: Path, tmp_path: Path
) -> None:
    """At first the microphone is denied; then it is allowed, and the cells run again."""
    _, folder = lab
    noise = np.random.default_rng(1).normal(0, 0.05, 4 * SAMPLE_RATE).astype(np.float32)
    heard = spoken(noise, tmp_path / "noise.wav")
    busy = "import time\ntime.sleep(3)\nRUNS = globals().get('RUNS', 0) + 1\nprint('FREE', RUNS)"
    cells = [CELL.format(model=str(few_weights), name="noise"), busy]
    with speaking(browser.browser_type, tmp_path / "noise.wav") as chromium:
        page = notebook_page(chromium, lab, "noise.ipynb", cells)
        run_all(page)
        page.wait_for_selector("text=/the browser denied the microphone; allow it for this page/", timeout=120_000)
        page.context.grant_permissions(["microphone"])
        start(page)
        page.wait_for_selector("text='FREE 2'", timeout=60_000)
        recorded(page, len(heard) / RATE)
        page.click("[data-command='notebook:interrupt-kernel']")
        page.wait_for_selector("text=/noise: .* s of audio/", timeout=60_000)
        assert page.locator(".jp-OutputArea-output:has-text('KeyboardInterrupt')").count() == 0
        best, second = difference(read_audio(folder / "noise.wav"), heard)
        assert best <= 1 or LOST in page.locator(".jp-OutputArea").first.inner_text()
        assert second > 100
        assert read_trace(folder / "noise.jsonl").duration >= len(heard) / RATE


@pytest.mark.browser
def test_a_cell_that_runs_again_ends_the_recording_that_nobody_could_stop(
    browser: Browser, lab: tuple[str, Path], few_weights: Path, tmp_path: Path
) -> None:
    spoken(np.zeros(SAMPLE_RATE, np.float32), tmp_path / "silence.wav")
    cell = f"from whisperlab.jupyter.microphone import Listener\ntalk = Listener(model={str(few_weights)!r})"
    # Told by a thread: while a cell runs, the browser's messages may have to wait.
    wait = """from threading import Thread
from time import sleep
shown = display('', display_id=True)
def tell(before, shown):
    while before and not (before.result or before.error):
        sleep(0.1)
    shown.update(before and (before.error, before.result.trace.duration > 1, before.microphone.losses))
Thread(target=tell, args=[before, shown]).start()"""
    with speaking(browser.browser_type, tmp_path / "silence.wav") as chromium:
        page = notebook_page(chromium, lab, "again.ipynb", ["before = globals().get('talk')", cell, wait])
        page.context.grant_permissions(["microphone"])
        start(page)
        page.wait_for_selector(".jp-OutputArea >> text='None'", timeout=60_000)
        recorded(page, 2.0)
        run_all(page)
        told = page.wait_for_selector("text=/^[(]None, True, .*[)]$/", timeout=120_000).inner_text().strip()
    assert told == "(None, True, [])"


@pytest.mark.browser
def test_a_browser_without_a_microphone_says_why(browser: Browser, lab: tuple[str, Path], few_weights: Path) -> None:
    """This Chromium has none. A page from another host over http has no `navigator.mediaDevices`."""
    page = notebook_page(browser, lab, "none.ipynb", [CELL.format(model=str(few_weights), name="none")])
    run_all(page)
    page.wait_for_selector("text=/the browser found no microphone; connect one/", timeout=120_000)
    page.evaluate("delete Navigator.prototype.mediaDevices")
    run_all(page)
    told = page.wait_for_selector("text=/open JupyterLab over https or from localhost/", timeout=60_000)
    assert told.is_visible()
    page.close()

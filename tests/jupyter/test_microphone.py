"""The microphone of a browser: no sample is lost from Chromium to the saved recording, and every end keeps the text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import soxr
from browsing import notebook_page, run_all
from remembered import REMEMBERED

from whisperlab import SessionRestartTranscriber
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.trace import capture, read_trace
from whisperlab.util.audio_arrays import FloatArray, audio_digest, chunks, pcm_16, resampled_chunks
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from playwright.sync_api import Browser
    from whisper.model import Whisper

RATE = 44_100  # of Chromium's fake microphone: it plays a file of this rate as it is
LEAD_S = 1.5  # silence at first: Chromium plays the file from the moment the microphone is opened

CELL = """from whisperlab.jupyter.microphone import Listener
from whisperlab.streaming.real_time import OverloadOptions
patient = OverloadOptions(skip_lid_ms=60_000, longer_steps_ms=80_000, drop_ms=100_000)  # no load of a test machine counts
talk = Listener(["en", "es"], model={model!r}, save="{name}.wav", trace="{name}.jsonl", overload=patient)"""


@contextmanager
def speaking(browser: Browser, path: Path, *more: str) -> Iterator[Browser]:
    """A Chromium whose microphone plays a file once, then silence."""
    fake = f"--use-file-for-fake-audio-capture={path}%noloop"
    arguments = ["--no-sandbox", "--disable-background-networking", "--use-fake-device-for-media-stream", fake, *more]
    started = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=arguments)
    try:
        yield started
    finally:
        started.close()


ALLOWED = "--use-fake-ui-for-media-stream"


def spoken(audio: FloatArray, path: Path) -> FloatArray:
    """Audio after some silence as a file for the fake microphone, 16-bit PCM; its samples."""
    heard = pcm_16(np.concatenate([np.zeros(int(LEAD_S * RATE), np.float32), soxr.resample(audio, SAMPLE_RATE, RATE)]))
    soundfile.write(path, heard, RATE, subtype="PCM_16")
    return heard.astype(np.float32) / 2**15


def difference(saved: FloatArray, heard: FloatArray) -> tuple[int, int]:
    """The largest difference of a recording to what was spoken, in steps of 16 bits, and the next best alignment's.

    The recording is the spoken samples and silence, resampled from one of them on.
    """
    around = np.pad(heard, (RATE, 60 * RATE))
    whole = soxr.resample(around, RATE, SAMPLE_RATE)
    n = 2 * max(len(whole), len(saved))
    matches = np.fft.irfft(np.fft.rfft(whole, n) * np.conj(np.fft.rfft(saved, n)))
    about = int(np.argmax(matches)) * RATE // SAMPLE_RATE
    found = []
    for start in range(max(about - 4, 0), about + 5):
        again = pcm_16(np.concatenate(list(resampled_chunks(chunks(around[start:], RATE // 10), RATE))))[: len(saved)]
        found.append(int(np.abs(again.astype(int) - pcm_16(saved)).max()))
    best, second, *_ = sorted(found)
    return best, second


@pytest.mark.browser
@pytest.mark.model
def test_every_sample_of_the_microphone_is_recorded_and_the_text_is_that_of_the_recording(
    browser: Browser, lab: tuple[str, Path], base_model: Whisper, scene: Scene, tmp_path: Path
) -> None:
    audio = scene.beginning(2).audio
    heard = spoken(audio, tmp_path / "speech.wav")
    with speaking(browser, tmp_path / "speech.wav", ALLOWED) as chromium:
        page = notebook_page(chromium, lab, "talk.ipynb", [CELL.format(model="base", name="talk")])
        noise: list[str] = []
        page.on("console", lambda message: noise.append(message.text))
        run_all(page)
        import time
        for _ in range(30):
            time.sleep(1); print(page.locator(".jp-OutputArea").first.inner_text()[-160:])
        page.screenshot(path="/tmp/mic/shot.png")
        print(noise)
        page.get_by_role("button", name="Stop", exact=True).click()
        time.sleep(8)
        print(page.locator(".jp-OutputArea").first.inner_text()[-600:])
    _, folder = lab
    saved = read_audio(folder / "talk.wav")
    print(len(saved)/16000, len(heard)/RATE, difference(saved, heard))
    trace = read_trace(folder / "talk.jsonl")
    transcriber = SessionRestartTranscriber(base_model, languages=["en", "es"], parts=REMEMBERED)
    again = capture(transcriber, saved, recording="talk")
    print(trace.segments); print(again.segments==trace.segments, again.switches==trace.switches)
    assert 0

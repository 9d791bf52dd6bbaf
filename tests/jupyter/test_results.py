"""What notebooks do with one recording, and with a sweep: objects that display themselves."""

from __future__ import annotations

import re
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from synthetic_report import configuration, make_trace

from whisperlab import ProcessResult
from whisperlab.data import Recording, load
from whisperlab.jupyter import results as module
from whisperlab.jupyter.live_view import LiveView
from whisperlab.jupyter.results import Controls, StreamResult, stream, sweep
from whisperlab.util.errors import ConfigurationError

RATES = {
    "44.1 kHz stereo": ("wav", 44_100, 2),
    "8 kHz": ("wav", 8_000, 1),
    "mp3": ("mp3", 48_000, 1),
    "ogg": ("ogg", 48_000, 2),
}


def saved(path: Path, rate: int, channels: int, seconds: float = 3.0) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal((round(rate * seconds), channels)), rate)
    return path


@pytest.mark.parametrize("kind", RATES)
def test_a_recording_of_any_kind_has_its_timeline_with_the_sound_that_was_streamed(
    kind: str, few_weights: Path, tmp_path: Path
) -> None:
    suffix, rate, channels = RATES[kind]
    result = stream(saved(tmp_path / f"my call.{suffix}", rate, channels), model=str(few_weights), languages=["en"])
    assert result.trace.heard_s == pytest.approx(3.0, abs=0.15)
    figure = result.timeline()
    assert figure.sound.startswith("data:audio/ogg;base64,")
    assert "<audio controls" in figure.html()
    assert "my call" in str(result)
    assert re.search(r"languages en, 3\.0 s received>", repr(result.transcriber))
    assert "s of processor time" in str(result)
    assert list(result.segments.columns) == ["start (s)", "end (s)", "language", "text", "confidence (%)"]
    assert result.save(tmp_path / "trace.jsonl").exists()


def test_the_beginning_of_a_recording_can_be_shown_too(few_weights: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", 44_100, 2)
    result = stream(path, model=str(few_weights), languages=["en"], seconds=1.5)
    assert result.trace.duration == pytest.approx(1.5)
    assert len(result.timeline().sound) > 100
    assert "sound" in str(result.stages().spec)


def test_a_stopped_stream_keeps_what_was_heard_and_says_so(few_weights: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", 16_000, 1, 30.0)
    stop = threading.Event()

    def seen(_: str) -> None:
        stop.set()

    result = stream(path, model=str(few_weights), languages=["en"], live=seen, every_s=0.0, stop=stop)
    assert result.stopped
    assert 0 < result.trace.heard_s < 30
    assert "stopped by the stop button after" in str(result)
    again = stream(path, model=str(few_weights), languages=["en"], seconds=1.0)
    assert not again.stopped


def test_ctrl_c_stops_a_stream_and_the_handler_is_restored(few_weights: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", 16_000, 1, 30.0)
    before = signal.getsignal(signal.SIGINT)
    result = _interrupted(path, few_weights)
    assert result.stopped
    assert signal.getsignal(signal.SIGINT) is before


def _interrupted(path: Path, weights: Path) -> StreamResult:
    pressed: list[bool] = []

    def press(_: str) -> None:
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    return stream(path, model=str(weights), languages=["en"], live=press, every_s=0.0)


def test_a_result_tells_switches_and_rates_with_units() -> None:
    trace = make_trace("a", ("en", "es", "en"), config=configuration(), wrong=0.0)
    result = StreamResult(trace, np.zeros(16_000 * 15, np.float32), None)  # type: ignore[arg-type]
    assert list(result.switches.columns) == ["switch (s)", "into", "boundary off by (s)", "decided after (s)"]
    assert list(result.switches["into"]) == ["es", "en"]
    assert all(name.endswith("(ms)") for name in result.operations.columns[1:])
    assert result.rates["switches_true"] == 2
    assert "confidence (%)" in result._repr_html_()


@pytest.mark.model
def test_a_sweep_shows_itself(excerpt: Path) -> None:
    options: dict[str, Any] = {"decode": False, "language_id__hop_ms": 1000, "cache__shadow_rate": 1.0}
    keys = sweep({"cache.size": [0, 50]}, load(str(excerpt), "test"), **options)
    assert list(keys.table["configuration"]) == ["no cache", "50 entries"]
    assert "wrong language, frames (%)" in keys.table.columns
    assert keys.heatmap("hit_rate").spec is not None
    assert "Only 1 recording" in " ".join(keys.limits())
    assert keys.findings()
    again = sweep({"cache.size": [50]}, load(str(excerpt), "test"), out=keys.folder, **options)
    assert again.outcome.ran == 0
    with pytest.raises(ConfigurationError, match="at least one recording"):
        sweep({"cache.size": [50]}, [])


def test_controls_keep_the_parameters_and_take_an_uploaded_file() -> None:
    controls = Controls("call.wav", ["en", "es"])
    assert controls.audio == Path("call.wav")
    assert controls.languages == ["en", "es"]
    empty = Controls()
    assert empty.audio is None
    assert empty.languages == []
    with pytest.raises(ConfigurationError, match="no file is chosen"):
        empty.start()
    now = datetime(2026, 11, 28, tzinfo=UTC)
    uploaded = {"name": "../../up.wav", "content": b"RIFF", "type": "audio/wav", "size": 4, "last_modified": now}
    empty._file.value = (uploaded,)
    assert empty.audio is not None
    assert empty.audio.name == "up.wav"
    assert empty.audio.read_bytes() == b"RIFF"


def test_start_and_stop_run_a_stream_beside_the_notebook(few_weights: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", 16_000, 1, 60.0)
    controls = Controls(path, ["en"], model=str(few_weights), every_s=0.0)
    thread = controls.start()
    while not controls._view.value and thread.is_alive():
        time.sleep(0.01)
    controls._stop_button.click()
    thread.join(30)
    assert controls.result is not None
    assert controls.result.stopped
    assert "stopped by the stop button" in controls._view.value
    assert not controls._start.disabled
    broken = Controls(tmp_path / "gone.wav", ["en"], model=str(few_weights))
    broken.start().join(30)
    assert "gone.wav" in broken._view.value


class Speaker:
    """Commits text before its segment ends."""

    def process(self, chunk: Any, /) -> ProcessResult:
        return ProcessResult("por favor ", "ingrese", "es")

    def finalize(self) -> ProcessResult:
        return ProcessResult("", "", "es")

    def get_statistics(self) -> dict[str, Any]:
        return {}

    def config(self) -> dict[str, Any]:
        return {}


def test_the_live_view_shows_committed_text_before_the_segment_ends() -> None:
    view = LiveView(Speaker(), length_s=20.0, show=lambda _: None)
    for _ in range(2):
        view.process(np.zeros(1600, np.float32))
    markup = view.html()
    assert "por favor por favor" in markup
    assert "ingrese</i>" in markup
    assert "0.2 of 20 s received" in markup


def test_recordings_are_taken_with_their_reference(few_weights: Path) -> None:
    recording: Recording = load("ivr-five", "dev")[0]
    result = stream(recording, model=str(few_weights), seconds=6.0)
    assert result.trace.reference is not None
    assert all(segment.end <= 6.05 for segment in result.trace.reference.segments)
    assert module.weights(str(few_weights)) is module.weights(str(few_weights))


def test_drawing_the_live_view_is_no_part_of_the_measured_time(few_weights: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", 16_000, 1, 1.0)
    drawn: list[str] = []

    def slowly(markup: str) -> None:
        drawn.append(markup)
        time.sleep(0.2)

    result = stream(path, model=str(few_weights), languages=["en"], live=slowly, every_s=0.0)
    assert len(drawn) >= 10  # after each chunk of 100 ms
    assert result.trace.compute_s < 0.2 * len(drawn)

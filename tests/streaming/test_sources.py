"""Sources: pipes with headers of any length, raw PCM, and a microphone of which no sample is lost."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from microphones import BLOCKS, plug_in
from remembered import REMEMBERED

from whisperlab import SessionRestartTranscriber
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.trace import Trace, capture
from whisperlab.streaming.real_time import OverloadOptions
from whisperlab.streaming.sources import ArraySource, FileSource, Microphone, Recorded, devices
from whisperlab.util.audio_arrays import FloatArray, as_audio, as_chunk, audio_digest, pcm_16
from whisperlab.util.errors import AudioFormatError, ConfigurationError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

NOISE = as_chunk(pcm_16(np.random.default_rng(0).normal(0, 0.2, SAMPLE_RATE + 77).astype(np.float32)))
TAIL = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
PATIENT = OverloadOptions(
    skip_lid_ms=60_000, longer_steps_ms=80_000, drop_ms=100_000
)  # no load of a test machine counts


def wav(length: int, tail: bytes = b"", before: bytes = b"") -> bytes:
    """The noise as WAV with a length in its header."""
    samples = pcm_16(NOISE).tobytes()
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", length)
        + b"WAVE"
        + fmt
        + before
        + b"data"
        + struct.pack("<I", length)
        + samples
        + tail
    )


@contextmanager
def pipe(content: bytes) -> Iterator[int]:
    """The reading end of a pipe into which a thread writes."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reading
    finally:
        thread.join()
        os.close(reading)


def heard(source: Any) -> FloatArray:
    return np.concatenate(list(source))


@pytest.mark.parametrize(
    "content",
    [wav(0), wav(0, before=TAIL), wav(0x7FFFF000), wav(0xFFFFFFFF, before=TAIL), wav(2 * len(NOISE), tail=TAIL)],
    ids=["zero", "zero after a list", "arecord and sox", "ffmpeg", "right, with a list behind"],
)
def test_a_wav_header_on_a_pipe_may_give_any_length(content: bytes) -> None:
    with pipe(content) as reading:
        assert np.array_equal(heard(FileSource(reading, "talk")), NOISE)


def test_raw_pcm_needs_its_rate_and_channels() -> None:
    left, right = NOISE[: 2 * 8000], -NOISE[: 2 * 8000] / 2
    content = np.stack([pcm_16(left), pcm_16(right)], axis=1).tobytes()
    with pipe(content) as reading:
        found = heard(FileSource(reading, "talk", rate=8000, channels=2))
    np.testing.assert_allclose(found, as_audio((left + right) / 2, 8000), atol=1e-3)


def test_chunks_arrive_while_the_pipe_is_still_being_written() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb", buffering=0) as file:
        file.write(wav(0xFFFFFFFF)[: 44 + 2 * 1600])
        chunks = iter(FileSource(reading, "talk"))
        assert np.array_equal(next(chunks), NOISE[:1600])
        file.write(wav(0)[44 + 2 * 1600 :])
        file.close()
        assert np.array_equal(np.concatenate(list(chunks)), NOISE[1600:])


def test_a_pipe_is_not_read_far_ahead_of_its_reader() -> None:
    reading, writing = os.pipe()
    written, done = [0], 10 * 2 * SAMPLE_RATE

    def write() -> None:
        while written[0] < done:
            written[0] += os.write(writing, bytes(3200))
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    source = FileSource(reading, "talk", rate=SAMPLE_RATE)
    chunks, before = iter(source), -1
    next(chunks)
    while written[0] != before:
        before = written[0]
        time.sleep(0.1)
    assert before < done / 2
    assert sum(map(len, chunks)) == done // 2 - 1600
    thread.join()
    os.close(reading)


def flac() -> bytes:
    packed = io.BytesIO()
    soundfile.write(packed, NOISE, SAMPLE_RATE, format="FLAC")
    return packed.getvalue()


@pytest.mark.parametrize(
    "content,options,message",
    [
        (flac(), {}, "talk: not audio that can be streamed .*ffmpeg"),
        (b"", {}, "talk: not audio"),
        (b"", {"rate": 100}, "sampling rate of 1000 to"),
    ],
)
def test_a_pipe_without_audio_is_told_with_the_remedy(content: bytes, options: Any, message: str) -> None:
    with pipe(content) as reading, pytest.raises(AudioFormatError, match=message):
        heard(FileSource(reading, "talk", **options))


def test_a_source_and_an_array_give_the_same_trace() -> None:
    class Silent:
        def __init__(self) -> None:
            self.received: list[FloatArray] = []

        def process(self, chunk: FloatArray) -> Any:
            from whisperlab.streaming.results import ProcessResult

            self.received.append(chunk)
            return ProcessResult("", "", None)

        def finalize(self) -> Any:
            return self.process(NOISE[:0])

        def get_statistics(self) -> dict[str, Any]:
            return {}

        def config(self) -> dict[str, Any]:
            return {"model": "silent"}

    traces, streams = [], [NOISE, ArraySource(NOISE, "noise", 7)]
    with pipe(wav(0)) as reading:
        for stream in (*streams, FileSource(reading, "talk")):
            silent = Silent()
            traces.append(capture(silent, stream, recording="noise"))
            assert np.array_equal(np.concatenate(silent.received), NOISE)
    assert [trace.header["audio"] for trace in traces] == [traces[0].header["audio"]] * 3
    with pipe(b"") as reading, pytest.raises(AudioFormatError, match="without a single sample"):
        capture(Silent(), FileSource(reading, "talk", rate=8000), recording="nothing")


def test_a_recording_can_be_read_before_it_ends(tmp_path: Path) -> None:
    chunks = iter(Recorded(ArraySource(NOISE, "noise"), tmp_path / "talk.wav", most_s=9.0))
    for n_chunks in (1, 2, 3):
        next(chunks)
        assert np.array_equal(read_audio(tmp_path / "talk.wav"), NOISE[: 1600 * n_chunks])


# ---- microphone ------------------------------------------------------------------------------------------


def live(model: Whisper, languages: list[str], audio: Any, **options: Any) -> Trace:
    transcriber = SessionRestartTranscriber(model, languages=languages, parts=REMEMBERED)
    return capture(transcriber, audio, recording="scene", **options)


@pytest.mark.model
def test_a_microphone_loses_no_sample_and_its_text_is_that_of_the_file(
    base_model: Whisper, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake of `sounddevice` calls back from its thread with real speech; the rest is as it is on a desk."""
    plug_in(monkeypatch, scene.audio)
    with closing(Microphone()) as microphone:
        spoken = live(base_model, scene.languages, microphone, pace="real", overload=PATIENT)
    file = live(base_model, scene.languages, scene.audio)
    assert spoken.header["audio"]["sha256"] == audio_digest(scene.audio)
    assert spoken.statistics["real_time"]["offered_s"] == file.duration
    assert spoken.statistics["real_time"]["dropped_s"] == 0
    assert spoken.segments == file.segments != ()
    assert spoken.switches == file.switches != ()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_microphone_that_has_only_another_rate_or_more_channels_is_resampled_and_mixed(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stereo = np.stack([NOISE, NOISE / 2], axis=1)
    library = plug_in(monkeypatch, stereo if channels == 2 else NOISE, rates=[44_100], channels=channels)
    found = heard(Microphone(1))
    np.testing.assert_allclose(found, as_audio(library.heard.mean(axis=1), 44_100), atol=1e-3)
    assert np.array_equal(found, as_chunk(pcm_16(found))), "a 16-bit recording of it would differ"
    assert library.opened[0].settings["channels"] == channels


def test_a_microphone_that_is_closed_delivers_what_it_received_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    library = plug_in(monkeypatch, NOISE, stays=True)
    microphone, n = Microphone("Desk"), 0
    for chunk in microphone:
        n += len(chunk)
        if n == len(NOISE):  # all of it came before the close
            microphone.close()
    assert n == len(NOISE)
    assert library.opened[0].stopped.is_set()


def test_lost_audio_is_told_and_an_unplugged_microphone_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(monkeypatch, NOISE[: 2 * sum(BLOCKS)], late=3)
    with caplog.at_level(logging.WARNING, "whisperlab"):
        heard(Microphone())
    assert "Desk microphone: audio was lost 3 times, this process was late" in caplog.messages


def test_the_microphones_of_a_machine_are_listed_and_others_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, NOISE)
    assert devices() == [{"number": 1, "name": "Desk microphone", "channels": 1, "rate": 16_000}]
    with pytest.raises(
        ConfigurationError, match=r"microphone 'cuda': No input device .*whisperlab listen --list-devices"
    ):
        Microphone("cuda")
    plug_in(monkeypatch, NOISE, channels=9)
    with pytest.raises(ConfigurationError, match="microphone of the system: Invalid sample rate"):
        Microphone()


def test_a_machine_without_portaudio_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")  # as sounddevice does

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(MissingDependencyError, match="apt-get install libportaudio2"):
        Microphone()

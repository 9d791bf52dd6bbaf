"""Audio files that are not one whole file: joined, late, with holes, unfinished, damaged, of several tracks."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from whisperlab.data.audio_files import header_s, read_audio
from whisperlab.util.audio_arrays import duration_s
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE

Samples = npt.NDArray[np.float32]


def noise(duration: float, seed: int = 0, rate: int = SAMPLE_RATE) -> Samples:
    """Slow noise that every codec keeps, different everywhere: it shows where a stretch of it came out."""
    rough = np.random.default_rng(seed).uniform(-0.4, 0.4, round(duration * 500) + 2)
    times = np.arange(round(duration * rate)) * 500 / rate
    return np.interp(times, np.arange(len(rough)), rough).astype(np.float32)


def assert_at(audio: Samples, part: Samples, start_s: float, within_s: float = 0.08) -> None:
    """The part is in the audio at that time."""
    at = round(start_s * SAMPLE_RATE)
    shifts = range(-round(within_s * SAMPLE_RATE), round(within_s * SAMPLE_RATE) + 1, 8)
    inner = part[3200:-3200]
    likeness = []
    for shift in shifts:
        piece = audio[max(0, at + 3200 + shift) :][: len(inner)]
        likeness.append(np.corrcoef(piece, inner)[0, 1] if len(piece) == len(inner) else 0.0)
    assert max(likeness) > 0.9


def encoded(samples: Samples, rate: int = SAMPLE_RATE, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    return file.getvalue()


KINDS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "rf64": {"format": "RF64", "subtype": "PCM_16"},
    "w64": {"format": "W64", "subtype": "PCM_16"},
    "aiff": {"format": "AIFF", "subtype": "PCM_16"},
    "au": {"format": "AU", "subtype": "PCM_16"},
    "caf": {"format": "CAF", "subtype": "PCM_16"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}


# ---- joined files


@pytest.mark.parametrize("kind", KINDS)
def test_files_joined_end_to_end_are_read_to_the_end(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [noise(length, seed) for seed, length in enumerate((1.5, 1.0, 2.0))]
    path = tmp_path / f"joined.{kind}"
    path.write_bytes(b"".join(encoded(part, **KINDS[kind]) for part in parts))
    audio = read_audio(path)
    assert duration_s(audio) == pytest.approx(4.5, abs=0.01)
    for part, start in zip(parts, (0.0, 1.5, 2.5), strict=True):
        assert_at(audio, part, start)
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_joined_files_may_differ_in_rate_and_channels(tmp_path: Path, kind: str) -> None:
    first, second = noise(1.0), noise(1.5, 1, 24_000)
    stereo = np.stack([second, second], axis=1)
    path = tmp_path / f"joined.{kind}"
    path.write_bytes(encoded(first, **KINDS[kind]) + encoded(stereo, 24_000, **KINDS[kind]))
    audio = read_audio(path)
    assert duration_s(audio) == pytest.approx(2.5, abs=0.01)
    assert_at(audio, noise(1.5, 1), 1.0)
    assert read_audio(path, channel="each").shape == (2, len(audio))


@pytest.mark.parametrize("container,codec", [("mp4", "aac"), ("matroska", "aac"), ("flv", "aac")])
def test_joined_containers_are_read_to_the_end(tmp_path: Path, container: str, codec: str) -> None:
    path = tmp_path / "joined.x"
    write(path, noise(1.5), container, codec)
    content = path.read_bytes()
    write(path, noise(2.0, 1), container, codec)
    path.write_bytes(content + path.read_bytes())
    audio = read_audio(path)
    assert duration_s(audio) == pytest.approx(3.5, abs=0.3)
    assert_at(audio, noise(2.0, 1), duration_s(audio) - 2.0, 0.2)


def test_joined_ogg_files_may_differ_in_codec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "chain.ogg").write_bytes(encoded(noise(1.0), **KINDS["ogg"]) + encoded(noise(2.0), **KINDS["opus"]))
    assert duration_s(read_audio(tmp_path / "chain.ogg")) == pytest.approx(3.0, abs=0.01)
    assert not caplog.messages


def test_joined_mp3_files_with_tags_are_read_to_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tag = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
    parts = [tag + encoded(noise(length, seed), **KINDS["mp3"]) for seed, length in enumerate((1.0, 2.0))]
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts))
    audio = read_audio(tmp_path / "joined.mp3")
    assert duration_s(audio) == pytest.approx(3.0, abs=0.01)
    assert_at(audio, noise(2.0, 1), 1.0)
    assert not caplog.messages


def test_a_joined_file_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = encoded(noise(1.0), **KINDS["flac"])
    (tmp_path / "joined.flac").write_bytes(content + content[:60])
    assert duration_s(read_audio(tmp_path / "joined.flac")) == 1.0
    (message,) = caplog.messages
    assert "joined file 2 of 2" in message or "cut short" in message


# ---- the file's own clock


def write(
    path: Path,
    samples: Samples,
    container: str = "matroska",
    codec: str = "aac",
    at: Callable[[float], float] = lambda time: time,
    picture_s: float = 0.0,
    tracks: int = 1,
    default: int | None = None,
) -> None:
    """A container of one picture track and sounds whose packets are stamped ``at(time)``."""
    with av.open(str(path), "w", format=container) as out:
        picture = out.add_stream("mpeg4", rate=5) if picture_s else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sounds = [out.add_stream(codec, rate=SAMPLE_RATE, layout="mono") for _ in range(tracks)]
        if default is not None:
            for number, sound in enumerate(sounds):
                sound.disposition = av.stream.Disposition(int(number == default))
        packets = []
        if picture is not None:
            for number in range(round(5 * picture_s)):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts = number
                packets += picture.encode(frame)
            packets += picture.encode(None)
        for number, sound in enumerate(sounds):
            frame = av.AudioFrame.from_ndarray((samples * (number + 1) / tracks)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            for packet in [*sound.encode(frame), *sound.encode(None)]:
                if packet.pts is not None:
                    time = at(float(packet.pts * packet.time_base))
                    packet.pts = packet.dts = round(time / packet.time_base)
                packets.append(packet)
        packets = [packet for packet in packets if packet.pts is not None]
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            out.mux(packet)


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts"])
def test_sound_that_begins_after_the_picture_keeps_its_time(
    tmp_path: Path, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "late.x", noise(2.0), container, at=lambda time: time + 3, picture_s=6.0)
    audio = read_audio(tmp_path / "late.x")
    assert duration_s(audio) == pytest.approx(5.0, abs=0.15)
    assert_at(audio, noise(2.0), 3.0, 0.15)
    assert not audio[: round(2.8 * SAMPLE_RATE)].any()
    (message,) = caplog.messages  # no word of damage
    assert "silence fills gaps in the timestamps" in message
    assert " s at 0.00 s" in message


@pytest.mark.parametrize("container", ["matroska", "flv", "mpegts"])
def test_a_hole_in_the_timestamps_becomes_silence(
    tmp_path: Path, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "hole.x", noise(4.0), container, at=lambda time: time + 5 * (time >= 2))
    audio = read_audio(tmp_path / "hole.x")
    assert duration_s(audio) == pytest.approx(9.0, abs=0.15)
    assert_at(audio, noise(4.0)[: 2 * SAMPLE_RATE], 0.0, 0.15)
    assert_at(audio, noise(4.0)[2 * SAMPLE_RATE :], 7.0, 0.15)
    (message,) = caplog.messages
    assert "5.0" in message
    assert "cut short" not in message


@pytest.mark.parametrize(
    "at",
    [
        lambda time: time + 0.025 * (round(time * 1000) % 3),
        lambda time: time + 1.4,
        lambda time: max(time, 0) // 0.5 * 0.5,  # a recorder that stamps what arrived together alike
    ],
    ids=["jitter", "start", "batches"],
)
def test_jitter_and_a_late_clock_change_nothing(
    tmp_path: Path, at: Callable[[float], float], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "plain.mkv", noise(3.0))
    plain = read_audio(tmp_path / "plain.mkv")
    write(tmp_path / "odd.mkv", noise(3.0), at=at)
    assert np.array_equal(read_audio(tmp_path / "odd.mkv"), plain)
    assert not [message for message in caplog.messages if "gaps" in message]


@pytest.mark.parametrize("leap_s", [4_000.0, 1e6])
def test_a_forged_timestamp_fills_no_memory(tmp_path: Path, leap_s: float, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "leap.mkv", noise(2.0), at=lambda time: time + leap_s * (time >= 1))
    tracemalloc.start()
    try:
        audio = read_audio(tmp_path / "leap.mkv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert duration_s(audio) == pytest.approx(2.0, abs=0.15)
    assert peak < 2**24
    assert "leap" in caplog.text


def test_sound_that_ends_before_the_picture_is_not_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "film.mkv", noise(1.0), picture_s=5.0)
    assert duration_s(read_audio(tmp_path / "film.mkv")) == pytest.approx(1.0, abs=0.15)
    assert not caplog.messages


def test_eight_planes_of_a_frame_are_read(tmp_path: Path) -> None:
    """PyAV's own conversion reads beyond them, and the process died."""
    with av.open(str(tmp_path / "surround.mka"), "w", format="matroska") as out:
        stream = out.add_stream("aac", rate=48_000, layout="7.1")
        pcm = (np.repeat(noise(1.0, 0, 48_000), 8)[None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="7.1")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    assert read_audio(tmp_path / "surround.mka", channel="each").shape[0] == 8
    assert_at(read_audio(tmp_path / "surround.mka"), noise(1.0), 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_by_the_header_is_that_of_the_samples(tmp_path: Path, kind: str) -> None:
    known = kind not in ("caf", "w64")  # FFmpeg estimates the length of these
    content = encoded(noise(3.0), **KINDS[kind])
    (tmp_path / f"one.{kind}").write_bytes(content)
    assert header_s(tmp_path / f"one.{kind}") == pytest.approx(3.0 * known, abs=0.01)
    (tmp_path / f"two.{kind}").write_bytes(content + encoded(noise(1.0), **KINDS[kind]))
    assert header_s(tmp_path / f"two.{kind}") == pytest.approx(4.0 * known, abs=0.02)


# ---- unfinished headers


def chunk_size_at(content: bytes, name: bytes) -> int:
    return content.index(name) + len(name)


def unfinished(kind: str, content: bytes) -> bytes:
    """The file as a recorder leaves it that never came to write the sizes."""
    data = bytearray(content)
    if kind == "wav":
        data[4:8] = b"\0" * 4
        at = chunk_size_at(content, b"data")
        data[at : at + 4] = b"\0" * 4
    elif kind == "rf64":
        at = chunk_size_at(content, b"ds64") + 4
        data[at : at + 24] = b"\0" * 24
    elif kind == "aiff":
        data[4:8] = b"\0" * 4
        at = chunk_size_at(content, b"COMM") + 6
        data[at : at + 4] = b"\0" * 4
        at = chunk_size_at(content, b"SSND")
        data[at : at + 4] = b"\0" * 4
    elif kind == "au":
        data[8:12] = b"\0" * 4
    elif kind == "w64":
        at = content.index(b"data\xf3\xac\xd3\x11") + 16
        data[at : at + 8] = struct.pack("<Q", 24)
    elif kind == "caf":
        at = chunk_size_at(content, b"data")
        data[at : at + 8] = b"\0" * 8
    return bytes(data)


@pytest.mark.parametrize("kind", ["wav", "rf64", "aiff", "au", "w64", "caf"])
def test_a_header_that_a_killed_recorder_left_unfinished_is_read_past(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"killed.{kind}"
    path.write_bytes(encoded(noise(1.0), **KINDS[kind]))
    whole = read_audio(path)
    path.write_bytes(unfinished(kind, path.read_bytes()))
    assert np.array_equal(read_audio(path), whole)
    (message,) = caplog.messages
    assert "its header is unfinished" in message


@pytest.mark.parametrize("riff,data", [(0, 0xFFFFFFFF), (0xFFFFFFFF, 0), (36, 0), (0, 0), (0, 0x7FFFFFFF)])
def test_sizes_that_could_not_be_known_are_read_past(tmp_path: Path, riff: int, data: int) -> None:
    content = bytearray(encoded(noise(1.0), **KINDS["wav"]))
    content[4:8] = struct.pack("<I", riff)
    at = chunk_size_at(content, b"data")
    content[at : at + 4] = struct.pack("<I", data)
    (tmp_path / "sizes.wav").write_bytes(content)
    assert duration_s(read_audio(tmp_path / "sizes.wav")) == 1.0


def test_a_file_of_no_samples_and_other_chunks_is_not_unfinished(tmp_path: Path) -> None:
    content = encoded(np.zeros(0, np.float32), **KINDS["wav"])
    (tmp_path / "none.wav").write_bytes(content + b"LIST" + struct.pack("<I", 400) + b"INFO" + b"x" * 396)
    with pytest.raises(AudioFormatError, match="without a single sample"):
        read_audio(tmp_path / "none.wav")


def test_bytes_after_the_samples_are_told_when_they_may_be_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(encoded(noise(2.0), **KINDS["wav"]))
    at = chunk_size_at(content, b"data")
    content[at : at + 4] = struct.pack("<I", 32_000)
    (tmp_path / "half.wav").write_bytes(content)
    assert duration_s(read_audio(tmp_path / "half.wav")) == 1.0
    (message,) = caplog.messages
    assert "32,000 bytes after the " in message


@pytest.mark.parametrize("tail", [b"ID3\x04\0\0\0\0\x40\0" + b"x" * 8192, b"\0" * 999, b"TAG" + b"x" * 125])
def test_a_tag_after_the_samples_is_no_damage(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tag.wav").write_bytes(encoded(noise(1.0), **KINDS["wav"]) + tail)
    assert duration_s(read_audio(tmp_path / "tag.wav")) == 1.0
    assert not caplog.messages


# ---- damage


def damaged(content: bytes) -> bytes:
    data = bytearray(content)
    for i in range(len(data) // 2, len(data) // 2 + 300):
        data[i] ^= 0x5A
    return bytes(data)


@pytest.mark.parametrize("kind", ["flac", "opus", "ogg", "mp3"])
def test_damage_in_the_middle_is_told_in_one_line_and_nothing_else_is_printed(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"bad.{kind}").write_bytes(damaged(encoded(noise(6.0), **KINDS[kind])))
    assert duration_s(read_audio(tmp_path / f"bad.{kind}")) > 2.5
    assert sum("damaged" in message for message in caplog.messages) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_file_without_its_last_page_is_told(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    content = encoded(noise(6.0), **KINDS[kind])
    for end in (len(content) * 2 // 3, content.rindex(b"OggS")):  # within a page, and between two
        (tmp_path / f"cut.{kind}").write_bytes(content[:end])
        caplog.clear()
        assert duration_s(read_audio(tmp_path / f"cut.{kind}")) > 1.0
        assert ["its last Ogg page is missing" in message for message in caplog.messages] == [True]


def test_what_ffmpeg_says_of_a_file_is_passed_on(tmp_path: Path) -> None:
    write(tmp_path / "cut.m4a", noise(3.0), "mp4")
    content = (tmp_path / "cut.m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioFormatError, match=r"cut\.m4a: .*moov atom not found"):
        read_audio(tmp_path / "cut.m4a")


# ---- tracks


@pytest.mark.parametrize("default,track,gain", [(0, None, 0.5), (1, None, 1.0), (1, 1, 0.5), (0, 2, 1.0)])
def test_the_default_track_is_read_or_the_one_asked_for(
    tmp_path: Path, default: int, track: int | None, gain: float, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "two.mka", noise(2.0), tracks=2, default=default)
    audio = read_audio(tmp_path / "two.mka", track=track)
    assert np.abs(audio).max() == pytest.approx(0.4 * gain, abs=0.06)
    (message,) = caplog.messages
    assert f"audio track {track or default + 1} of 2 is read" in message


def test_a_track_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "two.mka", noise(1.0), tracks=2)
    with pytest.raises(AudioFormatError, match=r"audio track 3 does not exist; tracks: 1 .*aac.*; 2 .*aac"):
        read_audio(tmp_path / "two.mka", track=3)
    (tmp_path / "one.wav").write_bytes(encoded(noise(1.0), **KINDS["wav"]))
    assert duration_s(read_audio(tmp_path / "one.wav", track=1)) == 1.0
    with pytest.raises(AudioFormatError, match=r"audio track 2 does not exist; tracks: 1 pcm_s16le"):
        read_audio(tmp_path / "one.wav", track=2)


@pytest.mark.parametrize("track", [0, -1, 1.5, "2"])
def test_a_track_that_cannot_be_is_refused(tmp_path: Path, track: Any) -> None:
    (tmp_path / "one.wav").write_bytes(encoded(noise(1.0), **KINDS["wav"]))
    with pytest.raises(ConfigurationError, match="track"):
        read_audio(tmp_path / "one.wav", track=track)


# ---- names


@pytest.mark.parametrize(
    "name", ["evil.raw", "evil.RAW", "evil.vox", "evil.au", "evil.snd", "evil.gsm", "evil", "evil.pcm"]
)
def test_the_content_of_a_file_decides_not_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encoded(noise(1.0), **KINDS["wav"]))
    assert duration_s(read_audio(tmp_path / name)) == 1.0


@pytest.mark.parametrize("name", ["voice.raw", "voice.pcm", "voice.sln", "voice.ul", "voice.s16le", "voice.snd"])
def test_raw_pcm_is_refused_with_what_it_needs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((noise(1.0) * 32767).astype("<i2").tobytes())
    with pytest.raises(AudioFormatError, match=r"raw PCM has no header.*ffmpeg -f s16le") as caught:
        read_audio(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_page_of_text_is_audio_under_no_name(tmp_path: Path) -> None:
    for suffix in ("au", "snd", "mp3", "wav", "raw", "ogg", "flac", "m4a", "caf", "sds"):
        (tmp_path / f"page.{suffix}").write_text("<!DOCTYPE html><html>404 not found</html>\n" * 50)
        with pytest.raises(AudioFormatError, match="page"):
            read_audio(tmp_path / f"page.{suffix}")


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    for content, name in ((encoded(noise(1.0), **KINDS["wav"]), b"bad\xff.wav"), (None, b"bad\xff.mka")):
        path = tmp_path / os.fsdecode(name)
        if content:
            path.write_bytes(content)
        else:
            write(tmp_path / "good.mka", noise(1.0))
            (tmp_path / "good.mka").rename(path)
        assert duration_s(read_audio(path)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("address", ["https://x/a.wav", "file:///a.wav", "s3://bucket/a.wav"])
def test_an_address_is_no_file(address: str) -> None:
    with pytest.raises(AudioFormatError) as caught:
        read_audio(address)
    assert str(caught.value) == f"{address}: addresses are not opened, expected a file: download it first"


def test_a_decoder_prints_nothing(tmp_path: Path) -> None:
    """libsndfile printed about MIDI sample dumps on stdout."""
    (tmp_path / "dump.sds").write_bytes(b"\xf0\x7e\0\x01\0\0\x10" + bytes(range(1, 100)) * 30)
    code = "import sys; from whisperlab.data.audio_files import read_audio; read_audio(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "dump.sds"], capture_output=True)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"AudioFormatError" in done.stderr


# ---- formats that change at a frame


def tone_of(rate: int, channels: int, container: str, codec: str, duration: float = 1.5) -> list[bytes]:
    """A tone of 440 Hz as one file, and its packets."""
    file, packets = io.BytesIO(), []
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo", 6: "5.1"}[channels])
        samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * duration)) / rate)
        pcm = np.tile(samples, (channels, 1)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(pcm, format="fltp", layout=stream.layout.name)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            packets.append(bytes(packet))
            out.mux(packet)
    return [file.getvalue(), *packets]


def assert_is_tone(audio: Samples, duration: float, parts: int = 2) -> None:
    """440 Hz in each part, and of this length: a wrong rate changes both."""
    assert duration_s(audio) == pytest.approx(duration, abs=0.2)
    for piece in np.array_split(audio, parts):
        inner = piece[4000:-4000]
        spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
        assert np.argmax(spectrum) * SAMPLE_RATE / len(inner) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("first,second", [((16_000, 1), (48_000, 1)), ((48_000, 2), (16_000, 1))])
@pytest.mark.parametrize("container,codec", [("adts", "aac"), ("ac3", "ac3"), ("mpegts", "aac")])
def test_rate_and_channels_may_change_at_any_frame(
    tmp_path: Path, container: str, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """16 kHz and 48 kHz: 440 Hz became 147 Hz, or false gaps filled the second half."""
    rates = [(max(rate, 32_000) if codec == "ac3" else rate, channels) for rate, channels in (first, second)]
    content = b"".join(tone_of(*each, container, codec)[0] for each in rates)
    (tmp_path / "changes.x").write_bytes(content)
    assert_is_tone(read_audio(tmp_path / "changes.x"), 3.0)
    assert read_audio(tmp_path / "changes.x", channel="each").shape[0] == max(first[1], second[1])


def test_packets_of_other_channels_than_the_header_says_are_read(tmp_path: Path) -> None:
    """Only the first frame was checked, and the process died."""
    with av.open(str(tmp_path / "changes.m4a"), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        out.start_encoding()
        for number, content in enumerate(tone_of(48_000, 1, "adts", "aac")[1:] + tone_of(48_000, 2, "adts", "aac")[1:]):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts = stream, Fraction(1, 48_000), 1024 * number
            packet.dts, packet.duration = packet.pts, 1024
            out.mux(packet)
    assert_is_tone(read_audio(tmp_path / "changes.m4a"), 3.0)


# ---- the child process


def decoder_pids() -> list[int]:
    """The child processes of this one that decode."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"decoder.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.parametrize("ended_by,reason", [("SIGSEGV", "Segmentation fault"), ("SIGXCPU", "CPU time limit")])
def test_a_crash_of_a_decoder_is_an_error_of_that_file_alone(tmp_path: Path, ended_by: str, reason: str) -> None:
    (tmp_path / "good.wav").write_bytes(encoded(noise(1.0), **KINDS["wav"]))
    expected = read_audio(tmp_path / "good.wav")
    (pid,) = decoder_pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_audio, tmp_path / "good.wav")
        while not reading.running():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(pid, getattr(signal, ended_by))
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(AudioFormatError, match=rf"good\.wav: FFmpeg cannot decode it \({reason}.*convert it"):
            reading.result()
    assert np.array_equal(read_audio(tmp_path / "good.wav"), expected)
    assert decoder_pids() != [pid]


def test_a_decoder_that_another_process_kills_is_started_again_for_the_file(tmp_path: Path) -> None:
    """A failed task of a sweep stays failed, and this file is right."""
    (tmp_path / "good.wav").write_bytes(encoded(noise(1.0), **KINDS["wav"]))
    expected = read_audio(tmp_path / "good.wav")
    (pid,) = decoder_pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_audio, tmp_path / "good.wav")
        while not reading.running():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert np.array_equal(reading.result(), expected)
    assert decoder_pids() != [pid]


def test_one_process_with_limits_decodes_all_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(8)]
    for number, file in enumerate(files):
        file.write_bytes(encoded(noise(0.5, number), **KINDS["wav"]))
    with ThreadPoolExecutor(4) as pool:
        for number, audio in enumerate(pool.map(read_audio, files)):
            np.testing.assert_allclose(audio, noise(0.5, number), atol=1e-4)
    (pid,) = decoder_pids()
    limits = dict(re.findall(r"(Max [\w ]+?) {2,}(\S+)", Path(f"/proc/{pid}/limits").read_text()))
    assert int(limits["Max cpu time"]) < 700
    assert int(limits["Max data size"]) < 2**31


def test_a_process_that_was_forked_while_another_thread_decodes_starts_its_own(tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes(encoded(noise(20.0), **KINDS["wav"]))
    code = """
import os, sys, threading
from whisperlab.data.audio_files import header_s, read_audio

expected = read_audio(sys.argv[1]).tobytes()
done = threading.Event()

def read():
    while not done.is_set():
        assert read_audio(sys.argv[1]).tobytes() == expected

thread = threading.Thread(target=read)
thread.start()
for _ in range(2):
    if not (pid := os.fork()):
        os._exit(read_audio(sys.argv[1]).tobytes() != expected)
    assert os.waitpid(pid, 0)[1] == 0
done.set()
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "good.wav"], check=True, timeout=60)

"""Audio in: what every file and array becomes, and how each bad one is refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whisperlab.data.audio_files import read_audio, read_part, write_wav
from whisperlab.util.audio_arrays import as_audio, as_chunk, audio_digest, chunks, duration_s, paced
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE

TONE_HZ = 440


def tone(rate: int, duration: float, amplitude: float = 0.5) -> npt.NDArray[np.float64]:
    """A 440 Hz sine: survives any resampler, and its frequency shows a wrong rate at once."""
    return amplitude * np.sin(2 * np.pi * TONE_HZ * np.arange(round(rate * duration)) / rate)


def loudest_hz(audio: npt.NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(audio)


def write_with_ffmpeg(path: Path, container: str, codec: str, rate: int, duration: float = 1.0) -> None:
    import av

    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        pcm = np.round(tone(rate, duration) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)


def assert_is_audio(audio: npt.NDArray[Any]) -> None:
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_a_file_of_any_rate_and_width_becomes_16_khz_float32(tmp_path: Path, rate: int, subtype: str) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate, 1.0), rate, subtype=subtype)
    audio = read_audio(path)
    assert_is_audio(audio)
    assert len(audio) == SAMPLE_RATE
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(audio[1000:-1000]).max() == pytest.approx(0.5, abs=0.02)


def test_stereo_at_44_1_khz_is_averaged_then_resampled(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = tone(44_100, 1.0)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 44_100)
    audio = read_audio(path)
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio[1000:-1000]).max() == pytest.approx(0.25, abs=0.01)


def test_a_tenth_of_a_second_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(44_100, 0.1), 44_100)
    assert len(read_audio(path)) == SAMPLE_RATE // 10


@pytest.mark.parametrize(
    "container,codec,rate", [("matroska", "aac", 48_000), ("g722", "g722", 16_000)], ids=["aac", "g722"]
)
def test_compressed_sound_is_read(tmp_path: Path, container: str, codec: str, rate: int) -> None:
    path = tmp_path / f"tone.{container}"
    write_with_ffmpeg(path, container, codec, rate)
    audio = read_audio(path)
    assert_is_audio(audio)
    assert duration_s(audio) == pytest.approx(1.0, abs=0.06)  # a codec pads to whole frames
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=2)


def write_text(path: Path) -> None:
    path.write_text("this is no audio\n" * 100)


def write_nothing(path: Path) -> None:
    path.touch()


def write_no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.int16), SAMPLE_RATE)


def write_nan(path: Path) -> None:
    samples = np.zeros(1600, np.float32)
    samples[7] = np.nan
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")


def write_no_packets(path: Path) -> None:
    """A container that promises sound and holds none."""
    import av

    with av.open(str(path), "w", format="flv") as out:
        out.add_stream("aac", rate=48_000, layout="mono")
        out.start_encoding()


def write_a_wild_rate(path: Path) -> None:
    soundfile.write(path, np.zeros(1600, np.int16), 7)


@pytest.mark.parametrize(
    "write,reason",
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "not a file"),
        (write_nothing, "the file is empty"),
        (write_no_samples, "without a single sample"),
        (write_no_packets, "without a single sample"),
        (write_text, "not audio that FFmpeg can read"),
        (write_nan, "1 of 1600 are NaN or infinite"),
        (write_a_wild_rate, "sampling rate"),
    ],
    ids=["missing", "directory", "empty", "no-samples", "no-packets", "text", "nan", "rate"],
)
def test_a_bad_file_is_refused_with_its_path_and_the_reason(tmp_path: Path, write: Any, reason: str) -> None:
    path = tmp_path / "bad.wav"
    write(path)
    with pytest.raises(AudioFormatError, match=reason) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)


def wav_bytes(samples: npt.NDArray[Any], rate: int, size: int | None = None) -> bytes:
    """A 16-bit WAV file, (n, channels), whose header may say that it has another number of bytes of samples."""
    channels = samples.shape[1]
    size = samples.nbytes if size is None else size
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate * channels & 0xFFFFFFFF, 2 * channels, 16)
    sizes = struct.pack("<I", 36 + size & 0xFFFFFFFF), struct.pack("<I", size)
    return b"RIFF" + sizes[0] + b"WAVEfmt \x10\0\0\0" + form + b"data" + sizes[1] + samples.tobytes()


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "w64", "rf64", "mp3"])
def test_a_file_cut_short_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(16_000, 2.0), 16_000)
    whole = read_audio(path)
    assert not caplog.messages
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0.3 * len(whole) < len(read_audio(path)) < 0.6 * len(whole)
    assert [str(path) in message and "cut short" in message for message in caplog.messages] == [True]


def test_a_container_cut_short_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tone.flac"
    soundfile.write(path, tone(16_000, 5.0), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1.0 < duration_s(read_audio(path)) < 4.0
    assert [str(path) in message and "cut short" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_size_that_a_pipe_could_not_know_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    (tmp_path / "piped.wav").write_bytes(wav_bytes(np.ones((1600, 1), np.int16), 16_000, size))
    assert len(read_audio(tmp_path / "piped.wav")) == 1600
    assert not caplog.messages


def test_a_declared_size_takes_no_memory(tmp_path: Path) -> None:
    """A FLAC header that gives 2^36 samples."""
    path = tmp_path / "huge.flac"
    soundfile.write(path, tone(16_000, 0.5), 16_000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper bits of STREAMINFO's number of samples
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        audio = read_audio(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(audio) == 8000
    assert peak < 2**25


@pytest.mark.parametrize("channels", [9, 16, 512])
def test_a_file_may_have_many_channels_and_few_samples(tmp_path: Path, channels: int) -> None:
    """Five frames of nine channels look like nine frames of five."""
    samples = np.full((5, channels), 100, np.int16)
    samples[:, -1] = 200
    (tmp_path / "many.wav").write_bytes(wav_bytes(samples, 16_000))
    assert len(read_audio(tmp_path / "many.wav")) == 5
    last = read_audio(tmp_path / "many.wav", channel=channels)
    np.testing.assert_allclose(last, np.full(5, 200 / 2**15), atol=1e-7)


def test_a_sample_that_resampling_leaves_nothing_of_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "short.wav").write_bytes(wav_bytes(np.ones((1, 1), np.int16), 768_000))
    with pytest.raises(AudioFormatError, match="without a single sample"):
        read_audio(tmp_path / "short.wav")


def test_a_film_without_sound_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "silent.mkv"
    with av.open(str(path), "w", format="matroska") as out:
        picture = out.add_stream("mpeg4", rate=5)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        for packet in [*picture.encode(av.VideoFrame(64, 64, "yuv420p")), *picture.encode(None)]:
            out.mux(packet)
    with pytest.raises(AudioFormatError, match="no audio in this file"):
        read_audio(path)


def test_pcm_is_scaled_by_its_full_scale_and_stays_below_one() -> None:
    for dtype in (np.int16, np.int32):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        audio = as_audio(np.array([low, 0, high], dtype=dtype))
        assert_is_audio(audio)
        assert audio[0] == -1
        assert audio[1] == 0
        assert 0.9999 < audio[2] < 1


def test_what_a_resampler_overshoots_by_is_still_audio() -> None:
    """A square wave within the limit came out above it, and was refused in the middle of a stream."""
    square = 127 * np.sign(tone(8_000, 1.0, amplitude=1.0))
    audio = as_audio(square, 8_000)
    assert np.abs(audio).max() > 127
    assert as_audio(audio) is audio


def test_float64_becomes_float32_and_float32_is_not_copied() -> None:
    assert_is_audio(as_audio(np.array([0.25, -0.5])))
    audio = np.array([0.25, -0.5], np.float32)
    assert as_audio(audio) is audio


def test_strided_audio_becomes_contiguous() -> None:
    """torch refuses an array that runs backwards."""
    audio = as_audio(np.arange(4, dtype=np.float32)[::-1])
    assert audio.flags.c_contiguous
    assert audio.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    "shape", [(1600, 2), (2, 1600), (1, 1600), (1600, 1), (1600, 8), (1600, 16), (16, 1600), (1600, 200)]
)
def test_channels_are_found_on_either_axis(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(-1, 1, shape)
    expected = samples.mean(axis=1 if shape[0] == 1600 else 0)
    np.testing.assert_allclose(as_audio(samples), expected, atol=1e-6)


def test_channels_in_opposite_phase_do_not_mix_to_silence(caplog: pytest.LogCaptureFixture) -> None:
    left = tone(SAMPLE_RATE, 3.0)
    for gain in (1.0, 0.8, 0.5):
        mixed = as_audio(np.stack([left, -gain * left], axis=1))
        np.testing.assert_allclose(mixed, left * (1 + gain) / 2, atol=1e-6)
    assert len(caplog.messages) == 3
    assert "opposite phase" in caplog.text


def test_a_recording_partly_in_opposite_phase_keeps_all_speech(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the mean nor the difference has all of it; each channel has."""
    left = tone(SAMPLE_RATE, 4.0)
    right = 0.9 * np.where(np.arange(len(left)) < len(left) / 2, left, -left)
    np.testing.assert_allclose(as_audio(np.stack([left, right], axis=1)), left, atol=1e-6)
    assert "channel 1, the loudest, is used" in caplog.text


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_channels_that_do_not_cancel_are_averaged(right: float, caplog: pytest.LogCaptureFixture) -> None:
    left = tone(SAMPLE_RATE, 3.0)
    other = right * np.random.default_rng(0).uniform(-0.5, 0.5, len(left))
    np.testing.assert_allclose(as_audio(np.stack([left, other], axis=1)), (left + other) / 2, atol=1e-6)
    surround = np.zeros((len(left), 6))
    surround[:, 2] = left
    np.testing.assert_allclose(as_audio(surround), left / 6, atol=1e-6)
    assert not caplog.messages


def test_chunks_of_a_stream_are_averaged_whatever_their_phase(caplog: pytest.LogCaptureFixture) -> None:
    """A rule that looks at the chunk would make the result depend on the chunk size."""
    left = tone(SAMPLE_RATE, 1.0)
    stereo = np.stack([left, -0.5 * left], axis=1).astype(np.float32)
    whole = as_chunk(stereo)
    np.testing.assert_allclose(whole, left / 4, atol=1e-6)
    assert np.array_equal(np.concatenate([as_chunk(stereo[i : i + 700]) for i in range(0, 16_000, 700)]), whole)
    assert not caplog.messages


def test_a_channel_can_be_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "stereo.wav"
    left, right = tone(16_000, 1.0, 0.5), -tone(16_000, 1.0, 0.25)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    for channel, expected in (("left", left), ("right", right), (1, left), (2, right)):
        np.testing.assert_allclose(read_audio(path, channel=channel), expected, atol=1e-6)
    np.testing.assert_allclose(read_audio(path, channel="each"), [left, right], atol=1e-6)
    assert not caplog.messages
    with pytest.raises(AudioFormatError, match=r"stereo\.wav: channel 3 does not exist: the file has 2 channels"):
        read_audio(path, channel=3)


def test_a_mono_file_has_one_channel(tmp_path: Path) -> None:
    write_wav(tmp_path / "mono.wav", tone(16_000, 1.0).astype(np.float32))
    with pytest.raises(AudioFormatError, match="channel right does not exist: the file has 1 channel"):
        read_audio(tmp_path / "mono.wav", channel="right")
    assert read_audio(tmp_path / "mono.wav", channel="each").shape == (1, 16_000)
    assert np.array_equal(read_audio(tmp_path / "mono.wav", channel="left"), read_audio(tmp_path / "mono.wav"))


@pytest.mark.parametrize("channel", ["centre", 0, -1, 1.5, True, None])
def test_a_channel_that_cannot_be_is_refused(tmp_path: Path, channel: Any) -> None:
    write_wav(tmp_path / "mono.wav", np.zeros(100, np.float32))
    with pytest.raises(ConfigurationError, match="left, right, each or a number from 1"):
        read_audio(tmp_path / "mono.wav", channel=channel)


def test_an_empty_array_is_audio_of_no_length() -> None:
    for empty in (np.zeros(0, np.int16), np.zeros((0, 2), np.float32), np.zeros((2, 0)), []):
        for rate in (SAMPLE_RATE, 44_100):
            assert as_audio(empty, rate).shape == (0,)


@pytest.mark.parametrize(
    "array,reason",
    [
        (np.array([0.0, np.nan]), "1 of 2 are NaN or infinite"),
        (np.array([np.inf, -np.inf]), "2 of 2 are NaN or infinite"),
        (np.array([[np.inf, -np.inf]]), "2 of 2 are NaN or infinite"),
        (np.array([1e300]), "1 of 1 are NaN or infinite"),
        (np.zeros(4, np.complex64), "got complex64"),
        (np.zeros(4, np.uint8), "got uint8"),
        (np.zeros(4, np.int64), "got int64"),
        (np.zeros(4, bool), "got bool"),
        (b"\x00\x01", "floats, or int16 or int32"),
        ([[0.0], [0.0, 1.0]], "expected an array of samples"),
        (np.float32(0.5), r"got \(\)"),
        (np.int16(5), r"got \(\)"),
        (np.zeros((2, 2, 2)), r"got \(2, 2, 2\)"),
        (np.zeros((100, 100)), "at most 8 channels"),
        (np.array([0.0, 32767.0]), "peak of 32767"),
    ],
)
def test_an_array_that_is_not_audio_is_refused_with_what_came(array: Any, reason: str) -> None:
    with pytest.raises(AudioFormatError, match=reason):
        as_audio(array)


def test_a_tensor_with_gradients_is_refused_with_what_to_do() -> None:
    with pytest.raises(AudioFormatError, match=r"expected an array of samples.*detach"):
        as_audio(torch.zeros(4, requires_grad=True))


def test_a_part_is_read_by_its_time_and_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for level in (0.25, 0.5):
        write_wav(path, np.repeat(np.array([0.0, level], np.float32), SAMPLE_RATE))
        assert read_part(path, 0.5, 1.0).tolist() == [0.0] * 8000 + [level] * 8000
        assert len(read_part(path, 1.5, 9.0)) == 8000
        assert len(read_part(path, None, 0.1)) == 2 * SAMPLE_RATE
    read_part(path, 1.0, 1.0)[:] = 1
    assert read_part(path, 1.0, 1.0).max() == 0.5
    with pytest.raises(AudioFormatError, match=r"a\.wav: nothing to read from 2 s on"):
        read_part(path, 2.0, 1.0)
    with pytest.raises(AudioFormatError, match="no such file"):
        read_part(tmp_path / "b.wav", 1.0, 1.0)


@pytest.mark.parametrize("rate", [0, -16_000, 7, 10**9, np.nan, None, "16000"])
def test_a_rate_no_microphone_has_is_refused(rate: int) -> None:
    with pytest.raises(AudioFormatError, match=f"got {rate!r}"):
        as_audio(np.zeros(1600, np.float32), rate)


@given(hnp.arrays(np.int16, st.integers(0, 400)))
@settings(deadline=None)
def test_audio_from_16_bit_pcm_survives_a_wav_file_exactly(
    tmp_path_factory: pytest.TempPathFactory, pcm: npt.NDArray[np.int16]
) -> None:
    path = tmp_path_factory.mktemp("wav") / "audio.wav"
    audio = as_audio(pcm)
    write_wav(path, audio)
    if len(audio):
        assert np.array_equal(read_audio(path), audio)
    assert soundfile.info(path).subtype == "PCM_16"


def test_samples_between_two_steps_are_rounded_to_the_nearer(tmp_path: Path) -> None:
    steps = np.array([0.9, -0.9, 1.1, -1.1], np.float32)
    write_wav(tmp_path / "soft.wav", steps / 2**15)
    assert (read_audio(tmp_path / "soft.wav") * 2**15).tolist() == [1, -1, 1, -1]


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write_wav(tmp_path / "loud.wav", np.array([1.5, -1.5], np.float32))
    np.testing.assert_allclose(read_audio(tmp_path / "loud.wav"), [1, -1], atol=1e-4)


def test_a_write_that_fails_leaves_the_old_file_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audio.wav"
    write_wav(path, np.zeros(100, np.float32))
    before = path.read_bytes()

    def half_written(file: io.BytesIO, *args: object, **kwargs: object) -> None:
        file.write(b"RIFF")
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", half_written)
    with pytest.raises(OSError, match="no space"):
        write_wav(path, np.ones(100, np.float32))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@given(st.integers(0, 500), st.integers(1, 70))
@settings(deadline=None)
def test_chunks_put_together_are_the_audio(n_samples: int, chunk: int) -> None:
    audio = np.arange(n_samples, dtype=np.float32)
    pieces = list(chunks(audio, chunk))
    assert all(len(piece) == chunk for piece in pieces[:-1])
    assert all(0 < len(piece) <= chunk for piece in pieces)
    assert np.array_equal(np.concatenate([audio[:0], *pieces]), audio)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "2", None])
def test_a_chunk_of_no_samples_is_refused_before_iterating(n_samples: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"got {n_samples!r}"):
        chunks(np.zeros(4, np.float32), n_samples)


class FakeClock:
    """A clock that moves only when slept on or pushed."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, wait_s: float) -> None:
        assert wait_s > 0
        self.now += wait_s


def test_paced_chunks_come_when_their_last_sample_has_been_heard() -> None:
    clock = FakeClock()
    source = chunks(np.zeros(4000, np.float32), 1600)
    times = [clock.now - 100 for _ in paced(source, clock, clock.sleep)]
    assert times == pytest.approx([0.1, 0.2, 0.25])


def test_a_slow_consumer_catches_up_instead_of_shifting_the_stream() -> None:
    clock = FakeClock()
    times = []
    for _ in paced(chunks(np.zeros(8000, np.float32), 1600), clock, clock.sleep):
        times.append(clock.now - 100)
        if len(times) == 1:
            clock.now += 0.25  # one decode took longer than two chunks
    assert times == pytest.approx([0.1, 0.35, 0.35, 0.4, 0.5])


def test_the_digest_names_the_samples_and_not_their_layout() -> None:
    audio = np.arange(8, dtype=np.float32) / 8
    assert audio_digest(audio) == audio_digest(np.repeat(audio, 2)[::2])
    assert audio_digest(audio) != audio_digest(audio[:-1])
    assert audio_digest(np.zeros(0, np.float32)) == ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def test_duration_is_in_seconds() -> None:
    assert duration_s(np.zeros(24_000, np.float32)) == 1.5


# ---- audio from strangers


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_playlist_opens_no_other_file(tmp_path: Path, playlist: str, absolute: bool) -> None:
    other = tmp_path / "private.ts"
    write_with_ffmpeg(other, "mpegts", "aac", SAMPLE_RATE)
    assert len(read_audio(other)) > 15_000
    path = tmp_path / "innocent.m3u8"
    path.write_text(playlist.format(other if absolute else other.name))
    with pytest.raises(AudioFormatError, match="not audio that"):
        read_audio(path)


@pytest.mark.parametrize("name", ["long.flac", "long.mka"])
def test_a_recording_that_swells_is_given_up_at_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name.endswith("flac"):
        soundfile.write(path, np.zeros((SAMPLE_RATE, 2)), SAMPLE_RATE)
    else:
        write_with_ffmpeg(path, "matroska", "aac", SAMPLE_RATE, 3.0)
    assert len(read_audio(path)) >= SAMPLE_RATE
    monkeypatch.setattr("whisperlab.data.containers._MAX_VALUES", 2 * SAMPLE_RATE - 1)
    with pytest.raises(AudioFormatError, match=rf"{name}: more than 31,999 values .* cut it into parts"):
        read_audio(path)

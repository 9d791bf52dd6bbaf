"""The audio of a recording inside a page: Ogg Vorbis in a data URI, so that nothing is loaded."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from whisperlab.util.errors import AudioFormatError
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from whisperlab.util.audio_arrays import FloatArray


def data_uri(audio: Json, limit: int) -> str:
    """The recording in a trace's ``audio`` header as ``data:audio/ogg;base64,...``, 16 kHz mono.

    Raises AudioFormatError if the header has no path, the file cannot be read or has another digest than the traced
    audio, or the result has more than ``limit`` characters.
    """
    from whisperlab.data.audio_files import read_audio, read_part
    from whisperlab.util.audio_arrays import audio_digest

    if not audio.get("path"):
        raise AudioFormatError("the trace has no path of its audio")
    if (offset := audio.get("offset")) is not None:
        samples = read_part(audio["path"], offset, audio["duration"])
    else:
        samples = read_audio(audio["path"], channel=audio.get("channel", "mix"), track=audio.get("track"))
    if audio_digest(samples) != audio.get("sha256"):
        raise AudioFormatError(f"{audio['path']} has changed since the trace was made")
    text = base64.b64encode(_vorbis(samples)).decode("ascii")
    if len(text) > limit:
        raise AudioFormatError(f"its audio needs {len(text):,} characters, and {limit:,} are left")
    return "data:audio/ogg;base64," + text


def _vorbis(samples: FloatArray) -> bytes:
    """Mono audio as Ogg Vorbis, written second by second: libsndfile crashes on minutes in one block."""
    import soundfile

    packed = io.BytesIO()
    with soundfile.SoundFile(packed, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), SAMPLE_RATE):
            file.write(samples[start : start + SAMPLE_RATE])
    return packed.getvalue()

"""The sound of a recording inside a page: Ogg Vorbis in a data URI, so that nothing has to be fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from whisperlab.util.errors import AudioFormatError
from whisperlab.util.timeline import SAMPLE_RATE


def data_uri(audio: Mapping[str, Any], limit: int) -> str:
    """The recording a trace's ``audio`` header speaks of, as ``data:audio/ogg;base64,...`` of 16 kHz mono.

    Raises AudioFormatError when the file is unknown, cannot be read, is not the one the trace was made from
    (its digest differs), or would take more than ``limit`` characters.
    """
    from whisperlab.data.audio_files import read_audio, read_part
    from whisperlab.util.audio_arrays import audio_digest

    if not audio.get("path"):
        raise AudioFormatError("the trace does not say where its audio lies")
    if (offset := audio.get("offset")) is not None:
        samples = read_part(audio["path"], offset, audio["duration"])
    else:
        samples = read_audio(audio["path"], channel=audio.get("channel", "mix"), track=audio.get("track"))
    if audio_digest(samples) != audio.get("sha256"):
        raise AudioFormatError(f"{audio['path']} has changed since the trace was made")
    text = base64.b64encode(_vorbis(samples)).decode("ascii")
    if len(text) > limit:
        raise AudioFormatError(f"its sound would take {len(text):,} characters of the {limit:,} left")
    return "data:audio/ogg;base64," + text


def _vorbis(samples: Any) -> bytes:
    """Ogg Vorbis of mono audio, written a second at a time: libsndfile crashes on minutes in one block."""
    import soundfile

    packed = io.BytesIO()
    with soundfile.SoundFile(packed, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), SAMPLE_RATE):
            file.write(samples[start : start + SAMPLE_RATE])
    return packed.getvalue()

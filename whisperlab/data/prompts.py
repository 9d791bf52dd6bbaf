"""Prompts: sentences read by people, with clean texts, trimmed to their speech and levelled."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import CorpusError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples

SPLITS = ("dev", "test")

# Cleaning. Excluded prompts have a doubtful reference; difficult speech is never a reason.
_NOT_SENTENCES = ("digits/", "letters/", "phonetic/", "silence/", "dictate/")
_TEXTS_LIMIT = 8 << 20  # bytes
_NEVER_SPOKEN = re.compile(r"[\[\](){}<>/\\*#_|]")  # stage directions, alternatives, file names
_LOST_LETTER = re.compile(r"\?(?!\s*$)")  # the Italian texts lost some accented letters to "?"
_EDGES = ' \t.…"“”«»;,'  # a prompt is often a part of a sentence: "... to mute or unmute yourself"
_PROMPT_S = (1.5, 20.0)  # seconds of speech
_CHARACTERS_A_SECOND = (5.0, 28.0)  # outside, text and recording differ

# Trimming and levelling
_LEVEL_FRAME = 160  # samples (10 ms)
_QUIET_DB = 30.0  # below the loud frames: room tone, hum and breath start here (checked on all 1,300 prompts)
_MARGIN = 480  # samples (30 ms) kept around the speech
_LEVEL_DB = -20.0  # dB of full scale: the level of every prompt moves towards it,
_GAIN_LIMIT_DB = 6.0  # by at most this much: voices keep some of their differences


@dataclass(slots=True, frozen=True)
class Prompt:
    """One usable prompt: audio with at most 30 ms around its speech, and the span of the speech.

    ``sentence`` is the same for all prompts with the same meaning, in any language.
    """

    sentence: str
    lang: str
    text: str
    audio: FloatArray
    speech: Span


def parse_texts(raw: bytes) -> dict[str, str]:
    """``key: text`` lines (gzip, UTF-8, ``;`` comments) as a mapping. The first line of a repeated key counts.

    Raises CorpusError for other content.
    """
    try:
        stream = zlib.decompressobj(wbits=31)  # gzip
        content = stream.decompress(raw, _TEXTS_LIMIT)
        if not stream.eof:
            raise EOFError(f"cut short, or larger than {_TEXTS_LIMIT >> 20} MiB")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"the texts of the prompts cannot be read: {error}") from error
    texts: dict[str, str] = {}
    for line in lines:
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(key.strip(), " ".join(text.split()))
    return texts


def clean_text(key: str, text: str) -> str | None:
    """The spoken words, or None if the text may contain anything else.

    >>> clean_text("confbridge-mute-out", "...to mute or unmute yourself.")
    'to mute or unmute yourself'
    >>> clean_text("tt-monkeys", "[sound of monkeys screaming]") is None
    True
    """
    if key.startswith(_NOT_SENTENCES) or _NEVER_SPOKEN.search(text) or _LOST_LETTER.search(text):
        return None
    words = text.strip(_EDGES)
    return words if any(c.isalpha() for c in words) else None


def fold(text: str) -> str:
    """Lower case without accents and punctuation: equal for two texts with the same words.

    >>> fold("Désolé, ce numéro...")
    'desole ce numero'
    """
    letters = unicodedata.normalize("NFKD", text.lower())
    return " ".join(re.findall(r"\w+", "".join(c for c in letters if not unicodedata.combining(c))))


def sentences(texts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The sentence of each key: the first of all keys that share its words in any language.

    ``texts`` maps language to key to text. Some prompts are nearly the same (``confbridge-mute-in`` and ``-out``, three
    takes of one joke). A split by key would put them in both *dev* and *test*.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for of_language in texts.values():
        first: dict[str, str] = {}
        for key, text in of_language.items():
            a, b = root(key), root(first.setdefault(fold(text), key))
            parent[max(a, b)] = min(a, b)
    return {key: root(key) for key in parent}


def split_of(sentence: str) -> str:
    """``dev`` or ``test``, by a hash of the sentence: the same in every language, corpus and seed."""
    return SPLITS[hashlib.sha256(sentence.encode()).digest()[0] % 2]


def decode_g722(raw: bytes) -> FloatArray:
    """The samples of a headerless G.722 file (16 kHz); an empty array for an empty file.

    Raises CorpusError if decoding fails and MissingDependencyError without PyAV.
    """
    if not raw:
        return np.zeros(0, dtype=np.float32)
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "the prompts are in G.722, which needs PyAV: pip install 'whisperlab[data]'"
        ) from error
    try:
        with av.open(io.BytesIO(raw), mode="r", format="g722") as container:
            parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].rate
    except (av.FFmpegError, IndexError) as error:
        raise CorpusError(f"a prompt cannot be decoded: {error}") from error
    assert rate == SAMPLE_RATE, rate
    return np.concatenate(parts).astype(np.float32) / np.float32(32768)


def make_prompt(sentence: str, lang: str, text: str, audio: FloatArray) -> Prompt | None:
    """A prompt that is ready for a scene, or None if its length or its speaking rate is out of range."""
    if len(audio) < samples(_PROMPT_S[0]) or not np.any(audio):
        return None
    trimmed, speech = trim(audio)
    rate = len(text) / speech.duration_s
    if not _PROMPT_S[0] <= speech.duration_s <= _PROMPT_S[1]:
        return None
    if not _CHARACTERS_A_SECOND[0] <= rate <= _CHARACTERS_A_SECOND[1]:
        return None
    return Prompt(sentence, lang, text, level(trimmed, speech), speech)


def trim(audio: FloatArray) -> tuple[FloatArray, Span]:
    """The audio with at most 30 ms around its speech, and the span of the speech in it, to 10 ms.

    Speech starts and ends with the first and last 10 ms that are less than 30 dB below the 95th percentile.
    """
    power = _power(audio[: len(audio) // _LEVEL_FRAME * _LEVEL_FRAME].reshape(-1, _LEVEL_FRAME))
    loud = np.flatnonzero(power > np.percentile(power, 95) * 10 ** (-_QUIET_DB / 10))
    start, end = int(loud[0]) * _LEVEL_FRAME, int(loud[-1] + 1) * _LEVEL_FRAME
    first = max(0, start - _MARGIN)
    return audio[first : end + _MARGIN], Span(start - first, end - first)


def level(audio: FloatArray, speech: Span) -> FloatArray:
    """The audio with its speech moved towards -20 dB of full scale, by at most 6 dB."""
    power = float(_power(audio[speech.start : speech.end]))
    gain_db = np.clip(_LEVEL_DB - 10 * np.log10(power), -_GAIN_LIMIT_DB, _GAIN_LIMIT_DB)
    return audio * np.float32(10 ** (gain_db / 20))


def _power(audio: FloatArray) -> NDArray[np.float64]:
    """Mean square over the last axis."""
    mean: NDArray[np.float64] = np.square(audio, dtype=np.float64).mean(axis=-1)
    return mean

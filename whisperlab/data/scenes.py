"""Scenes: clean, trimmed and levelled prompts, read by people, one after another; languages change at known samples."""

import hashlib
import io
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from whisperlab.util.audio_arrays import FloatArray, as_audio
from whisperlab.util.errors import CorpusError, translate
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds

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

# Scenes
_BLOCKS = (8, 20)  # a block is one or two prompts of one language
_LENGTH_S = (40.0, 90.0)
_AIM_S = (45.0, 78.0)  # a scene ends with the block that reaches a length drawn from this range
_TWO_PROMPTS = 0.35  # the share of blocks with two prompts
_GAP_MS = 600  # the longest pause between the speech of two prompts; the shortest is 0
_TAIL = 8000  # samples (0.5 s) after the last word, so that voice-activity detection sees its end
_NOISES_DB = (None, 20.0, None, 10.0)  # signal-to-noise ratio, scene after scene
_PINK_ABOVE_HZ = 50.0
_TRIES = 1000  # about every second draw succeeds


@dataclass(slots=True, frozen=True)
class Prompt:
    sentence: str  # the same for all prompts with the same meaning, in any language
    lang: str
    text: str
    audio: FloatArray  # with at most 30 ms around its speech
    speech: Span
    speaker: str = ""  # empty if unknown
    word_bounds: tuple[int, ...] = ()  # of all words, in 10 ms from the start of its speech; empty if unknown


def parse_texts(raw: bytes) -> dict[str, str]:
    """``key: text`` lines (gzip, UTF-8, ``;`` comments); the first of a key counts. CorpusError for other content."""
    try:
        stream = zlib.decompressobj(wbits=31)  # gzip
        content = stream.decompress(raw, _TEXTS_LIMIT)
        if not stream.eof:
            raise ValueError(f"cut short, or larger than {_TEXTS_LIMIT >> 20} MiB")
        lines = content.decode("utf-8-sig").splitlines()
    except (zlib.error, ValueError) as error:
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
    """The sentence of each key: the first of all keys that share its words in any language (to key to text)."""
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


def decode_prompt(kind: str, raw: bytes) -> FloatArray:
    """The samples of a ``g722``, ``gsm`` or ``wav`` file, which may be empty; CorpusError if decoding fails."""
    if not raw:
        return np.zeros(0, dtype=np.float32)
    import av

    damaged = translate(CorpusError, "a prompt cannot be decoded", av.FFmpegError, IndexError)
    with damaged, av.open(io.BytesIO(raw), mode="r", format=kind) as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    return as_audio(np.concatenate(parts), rate)


def make_prompt(sentence: str, lang: str, text: str, audio: FloatArray) -> Prompt | None:
    """A prompt that is ready for a scene, or None if its length or its speaking rate is out of range."""
    if len(audio) < samples(_PROMPT_S[0]) or not np.any(audio):
        return None
    trimmed, speech = trim(audio)
    (shortest, longest), (slowest, fastest) = _PROMPT_S, _CHARACTERS_A_SECOND
    if not (shortest <= speech.duration_s <= longest and slowest <= len(text) / speech.duration_s <= fastest):
        return None
    return Prompt(sentence, lang, text, level(trimmed, speech), speech)


def trim(audio: FloatArray) -> tuple[FloatArray, Span]:
    """The audio with 30 ms around its speech, and the span: from the first to the last loud 10 ms (`_QUIET_DB`)."""
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
    mean: NDArray[np.float64] = np.square(audio, dtype=np.float64).mean(axis=-1)
    return mean


@dataclass(slots=True, frozen=True)
class Placed:
    """A prompt in a scene; its speech starts at sample ``start``."""

    prompt: Prompt
    start: int

    @property
    def end(self) -> int:
        """The sample after the last one of its speech."""
        return self.start + len(self.prompt.speech)


@dataclass(slots=True, frozen=True)
class Scene:
    """Placed prompts by time, in ``blocks`` blocks. Noise is ``snr_db`` below the speech; None means clean."""

    placed: tuple[Placed, ...]
    blocks: int
    snr_db: float | None = None

    def __len__(self) -> int:
        """Length in samples, including the half second of quiet at the end."""
        return self.placed[-1].end + _TAIL


def plan_scenes(rng: Generator, pool: Sequence[Prompt], languages: Sequence[str], length_s: float) -> Iterator[Scene]:
    """Scenes of at least ``length_s`` in all, without a prompt twice; CorpusError if the pool is too small."""
    left = list(pool)
    total_s, noises_db = 0.0, cycle(_NOISES_DB)
    while total_s < length_s:
        snr_db = next(noises_db)
        for _ in range(_TRIES):
            if scene := _draw(rng, left, languages, snr_db):
                break
        else:
            raise CorpusError(f"the {len(left)} prompts left in {', '.join(languages)} do not make another scene")
        yield scene
        used = {id(placed.prompt) for placed in scene.placed}
        left = [prompt for prompt in left if id(prompt) not in used]
        total_s += seconds(len(scene))


def _draw(rng: Generator, pool: Sequence[Prompt], languages: Sequence[str], snr_db: float | None) -> Scene | None:
    """Blocks up to a random length, neighbours in other languages, no sentence twice; None if no such scene results."""
    deck = [pool[i] for i in rng.permutation(len(pool))]
    aim = samples(rng.uniform(*_AIM_S))
    placed: list[Placed] = []
    blocks = 0
    while not placed or placed[-1].end < aim:
        previous = placed[-1].prompt.lang if placed else None
        others = [lang for lang in languages if lang != previous] or languages
        lang = others[int(rng.integers(len(others)))]
        for _ in range(1 + int(rng.random() < _TWO_PROMPTS)):
            used = {p.prompt.sentence for p in placed}
            prompt = next((p for p in deck if p.lang == lang and p.sentence not in used), None)
            if prompt is None:
                return None
            gap = samples(int(rng.integers(_GAP_MS + 1)) / 1000)
            placed.append(Placed(prompt, (placed[-1].end if placed else 0) + gap))
        blocks += 1
    scene = Scene(tuple(placed), blocks, snr_db)
    fits = _BLOCKS[0] <= blocks <= _BLOCKS[1] and _LENGTH_S[0] <= seconds(len(scene)) <= _LENGTH_S[1]
    return scene if fits else None


def render(scene: Scene, rng: Generator) -> FloatArray:
    """The scene's samples. The signal-to-noise ratio refers to the speech without pauses."""
    audio = np.zeros(len(scene), dtype=np.float32)
    spoken = []
    for placed in scene.placed:
        clip, speech = placed.prompt.audio.copy(), placed.prompt.speech
        spoken.append(placed.prompt.audio[speech.start : speech.end])
        # margins fade, so that cuts do not click and overlapping margins add up
        clip[: speech.start] *= np.sin(np.linspace(0, np.pi / 2, speech.start, dtype=np.float32)) ** 2
        clip[speech.end :] *= np.cos(np.linspace(0, np.pi / 2, len(clip) - speech.end, dtype=np.float32)) ** 2
        at = placed.start - speech.start
        outside = max(0, -at)  # a scene may start with speech: its margin would begin before the scene
        audio[at + outside : at + len(clip)] += clip[outside:]
    if scene.snr_db is not None:
        power = sum(float(np.square(clip, dtype=np.float64).sum()) for clip in spoken) / sum(map(len, spoken))
        noise = np.sqrt(power) * 10 ** (-scene.snr_db / 20)
        audio += np.float32(noise) * pink_noise(rng, len(audio))
    return audio


def pink_noise(rng: Generator, n_samples: int) -> FloatArray:
    """Noise with a power of 1/f above 50 Hz (flat below) and a mean square of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, _PINK_ABOVE_HZ)), n_samples)
    scaled: FloatArray = (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)
    return scaled

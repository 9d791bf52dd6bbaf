"""Scenes: prompts placed one after another, so that the language changes at known samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.data.prompts import Prompt
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import CorpusError
from whisperlab.util.timeline import SAMPLE_RATE, samples, seconds

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


def plan_scenes(
    rng: np.random.Generator, pool: Sequence[Prompt], languages: Sequence[str], length_s: float
) -> Iterator[Scene]:
    """Scenes with a total length of at least ``length_s`` seconds. No prompt is used twice.

    Every second scene is clean; the others have noise at 20 and 10 dB alternately. Raises CorpusError if the pool is
    too small.
    """
    left = list(pool)
    total, index = 0.0, 0
    while total < length_s:
        scene = _plan_scene(rng, left, languages, _NOISES_DB[index % len(_NOISES_DB)])
        yield scene
        used = {id(placed.prompt) for placed in scene.placed}
        left = [prompt for prompt in left if id(prompt) not in used]
        total, index = total + seconds(len(scene)), index + 1


def _plan_scene(
    rng: np.random.Generator, pool: Sequence[Prompt], languages: Sequence[str], snr_db: float | None
) -> Scene:
    for _ in range(_TRIES):
        scene = _draw(rng, pool, languages, snr_db)
        if scene is None or not _BLOCKS[0] <= scene.blocks <= _BLOCKS[1]:
            continue
        if _LENGTH_S[0] <= seconds(len(scene)) <= _LENGTH_S[1]:
            return scene
    raise CorpusError(f"the {len(pool)} prompts left in {', '.join(languages)} do not make another scene")


def _draw(
    rng: np.random.Generator, pool: Sequence[Prompt], languages: Sequence[str], snr_db: float | None
) -> Scene | None:
    """Blocks up to a random length, or None if the prompts run out.

    Neighbouring blocks differ in language if there are several. No sentence occurs twice in a scene, not even in two
    languages.
    """
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
    return Scene(tuple(placed), blocks, snr_db)


def render(scene: Scene, rng: np.random.Generator) -> FloatArray:
    """The scene's samples. The signal-to-noise ratio refers to the speech without pauses."""
    audio = np.zeros(len(scene), dtype=np.float32)
    for placed in scene.placed:
        clip = _faded(placed.prompt)
        at = placed.start - placed.prompt.speech.start
        outside = max(0, -at)  # a scene may start with speech: its margin would begin before the scene
        audio[at + outside : at + len(clip)] += clip[outside:]
    if scene.snr_db is not None:
        noise = np.sqrt(_speech_power(scene)) * 10 ** (-scene.snr_db / 20)
        audio += np.float32(noise) * pink_noise(rng, len(audio))
    return audio


def _faded(prompt: Prompt) -> FloatArray:
    """The prompt with its margins faded, so that cuts do not click and overlapping margins add up."""
    audio = prompt.audio.copy()
    before, after = prompt.speech.start, len(audio) - prompt.speech.end
    audio[:before] *= np.sin(np.linspace(0, np.pi / 2, before, dtype=np.float32)) ** 2
    audio[len(audio) - after :] *= np.cos(np.linspace(0, np.pi / 2, after, dtype=np.float32)) ** 2
    return audio


def _speech_power(scene: Scene) -> float:
    prompts = [placed.prompt for placed in scene.placed]
    clips = [prompt.audio[prompt.speech.start : prompt.speech.end] for prompt in prompts]
    return sum(float(np.square(c, dtype=np.float64).sum()) for c in clips) / sum(map(len, clips))


def pink_noise(rng: np.random.Generator, n_samples: int) -> FloatArray:
    """Noise with a power of 1/f above 50 Hz (flat below) and a mean square of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, _PINK_ABOVE_HZ)), n_samples)
    scaled: FloatArray = (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)
    return scaled

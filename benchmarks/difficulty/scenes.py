"""Scenes of chosen difficulty: two voices take turns between words, with a block length and a code-mixing index.

Both voices read the same prompts, and a scene goes through them once: each voice reads on, in its own version of the
prompt, where the other stopped. With the two languages of one speaker, only the language changes. With two voices of
one language only the voice changes, and with one voice twice nothing changes: switches found there are false.

**Cuts between words leave artefacts**: sound, pitch and breath jump where no speaker would switch. The cuts come from
a forced alignment with Whisper's weights (`benchmarks.difficulty.cuts`), each moved to a place of low loudness.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import cycle, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from whisperlab.data import debian
from whisperlab.data.corpora import VOICES, clean_texts, encoded_prompts, record
from whisperlab.data.debian import Package
from whisperlab.data.manifest import Recording, read_manifest, write_manifest
from whisperlab.data.scenes import Placed, Prompt, Scene, decode_prompt, level
from whisperlab.model.weights import cache_dir
from whisperlab.util.audio_arrays import FloatArray, as_audio
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.files import locked_folder, new_folder
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples
from whisperlab.util.validation import check_range

VERSION = 1  # increase it when audio or times change: older scenes are then made again
CUTS = Path(__file__).parent / "word_cuts.json"  # by split, prompt and voice: words before a cut, and its time in 10 ms
_FADE = 80  # samples (5 ms) on either side of a cut, which fade
_PAUSE = 4000  # samples (250 ms) between two prompts

# Packages with a second voice of a language, at 8 kHz and without texts. Licences: datasets/difficulty.md.
SECOND_VOICES = {
    "es-co": Package(
        "asterisk-prompt-es-co", "0.20070403-2.1", "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83"
    ),
    "fr-armelle": Package(
        "asterisk-prompt-fr-armelle", "20070613-2.2", "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3"
    ),
    "it-menardi": Package(
        "asterisk-prompt-it-menardi-wav",
        "1:1.4.22+mm20110907-3.1",
        "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
    ),
}


@dataclass(slots=True, frozen=True)
class Point:
    """A setting of the dial. Its scenes depend on nothing else.

    The voices are ``en`` and ``es`` together, or two of one language, or one twice: ``en``, ``es``, ``es-co``, ``fr``,
    ``fr-armelle``, ``it``, ``it-menardi``. The first is the matrix, in every second scene the other one. The other
    voice is embedded. A scene ends with an embedded block.
    """

    first: str = "en"
    second: str = "es"
    block_s: float = 1.0  # seconds of speech in an embedded block, to the nearest cut
    mixing: float = 0.5  # share of the words that are embedded, at most 0.5: the code-mixing index
    split: str = "test"
    n: int = 4  # scenes
    length_s: float = 30.0  # the least length of a scene
    telephone: bool = False  # limit both voices to 4 kHz, as it always is with a second voice
    seed: int = 0  # of the order of the prompts, which does not depend on block length and mixing

    def __post_init__(self) -> None:
        check_range("mixing", self.mixing, float, 0.01, 0.5)
        check_range("block_s", self.block_s, float, 0.1, 30.0)

    @property
    def narrow(self) -> bool:
        """Whether the voices are limited to 4 kHz."""
        return self.telephone or not self.has_text

    @property
    def has_text(self) -> bool:
        """Whether the texts of both voices are known."""
        return {self.first, self.second} <= VOICES.keys()

    def __str__(self) -> str:
        band = "-telephone" * self.narrow
        return f"{self.first}-{self.second}-{self.split}-{self.block_s:g}s-{100 * self.mixing:g}{band}"


class Reading(NamedTuple):
    """A prompt as one voice reads it, and the places where it can be cut, its ends included."""

    lang: str
    speaker: str
    words: Sequence[str]  # empty if unknown
    audio: Callable[[], FloatArray]
    n_words: Sequence[int]  # before each cut
    cuts: Sequence[int]  # samples
    shares: Sequence[float]  # of the speech before each cut


Pairs = Sequence[tuple[Reading, Reading]]
_prompts = lru_cache(maxsize=4)(encoded_prompts)  # 20 MB each; the next point often has the same voices


def mixed_scenes(point: Point) -> list[Recording]:
    """The scenes of a point. They are made at the first call, and kept beside the corpora.

    Scenes with a second voice have no text. Raises ConfigurationError if the voices have no prompt in common, and
    CorpusError for too few prompts or packages.
    """
    target = cache_dir() / "corpora" / "mixed" / f"{point}-{point.n}x{point.length_s:g}s-{point.seed}-{VERSION}"
    with locked_folder(target.parent):
        if not target.exists():
            pairs = _pairs(point)
            with new_folder(target) as folder:
                made = []
                for number in range(point.n):
                    scene = plan_scene(pairs, number % 2, point.block_s, point.mixing, point.length_s)
                    if scene is None:
                        few = f"the prompts suffice for {number} scenes of {point.length_s:g} s, not {point.n}"
                        raise CorpusError(f"{point}: {few}")
                    pairs = pairs[1 + max(int(placed.prompt.sentence) for placed in scene.placed) :]
                    name = f"{point}-{number:02d}"
                    rng = np.random.default_rng(0)  # not used: there is no noise
                    made.append(record(folder, name, scene, rng, split=point.split, corpus=str(point)))
                write_manifest(folder / "manifest.jsonl", made)
    return read_manifest(target / "manifest.jsonl")


def _pairs(point: Point) -> Pairs:
    """The prompts of both voices in random order: the same prompt twice, or two of the same voice."""
    first, second = point.first, point.second
    cuts = json.loads(CUTS.read_text(encoding="utf-8")).get(point.split, {})
    keys = sorted(key for key, voices in cuts.items() if {first, second} <= voices.keys())
    if not keys:
        raise ConfigurationError(f"{point}: no prompt is read by the voices {first!r} and {second!r} in this split")
    rng = np.random.default_rng([point.seed, *f"{first} {second} {point.split}".encode()])
    order = [keys[i] for i in rng.permutation(len(keys))]
    if first == second:
        once = list(_readings(point, first, {key: cuts[key][first] for key in order}))
        return list(zip(once[::2], once[1::2], strict=False))
    both = (_readings(point, voice, {key: cuts[key][voice] for key in order}) for voice in (first, second))
    return list(zip(*both, strict=True))


def _readings(point: Point, name: str, cuts: dict[str, list[tuple[int, int]]]) -> Iterator[Reading]:
    """The prompts of a voice in the order of the cuts."""
    lang, folder = name.partition("-")[0], cache_dir() / "packages"
    voice = VOICES[lang]
    audio_package = SECOND_VOICES.get(name, voice.audio)
    debian.fetch([audio_package, voice.texts], folder, lambda line: None)
    prompts = _prompts(debian.verified(audio_package, folder, accept_newer=False))
    texts = clean_texts(voice, debian.verified(voice.texts, folder, accept_newer=False)) if point.has_text else {}
    for key, of_prompt in cuts.items():
        n_words, places = zip(*((n, samples(at / 100)) for n, at in of_prompt), strict=True)
        shares = [(place - places[0]) / (places[-1] - places[0]) for place in places]
        speaker = name if name in SECOND_VOICES else voice.speaker
        audio = cache(partial(_levelled, *prompts[key], Span(places[0], places[-1]), point.narrow))
        yield Reading(lang, speaker, texts.get(key, "").split(), audio, n_words, places, shares)


def _levelled(kind: str, raw: bytes, speech: Span, narrow: bool) -> FloatArray:
    """A prompt as it is used in scenes."""
    audio = decode_prompt(kind, raw)
    if narrow:
        audio = as_audio(soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2), SAMPLE_RATE // 2)
    return level(audio, speech)


def plan_scene(pairs: Pairs, matrix: int, block_s: float, mixing: float, length_s: float) -> Scene | None:
    """A scene that begins with voice number ``matrix``; None if the pairs end before. Its sentences are their numbers.

    An embedded block ends at the cut nearest to its length. A matrix block ends at the cut with which, after the next
    embedded block, the shares of the words are nearest to those wanted.
    """
    block, length = samples(block_s), samples(length_s)
    embedded = [pair[1 - matrix] for pair in pairs]
    usual = block * sum(r.n_words[-1] for r in embedded) / max(sum(r.cuts[-1] - r.cuts[0] for r in embedded), 1)
    said: list[tuple[int, int, int]] = []  # number of the pair, voice, cut before
    n_words, prompt, reached, total = [0, 0], 0, 0.0, 0
    for side in cycle((matrix, 1 - matrix)):
        wanted = (n_words[1 - matrix] + usual) * (1 / mixing - 1) - n_words[matrix] if side == matrix else block
        done = 0
        while prompt < len(pairs):
            reading = pairs[prompt][side]
            at = bisect_left(reading.shares, reached)
            if at + 1 == len(reading.cuts):
                prompt, reached = prompt + 1, 0.0
                continue
            words, n_samples = (of[at + 1] - of[at] for of in (reading.n_words, reading.cuts))
            amount = words if side == matrix else n_samples
            if done and done + amount / 2 > wanted:
                break
            said.append((prompt, side, at))
            done, reached, total = done + amount, reading.shares[at + 1], total + n_samples
            n_words[side] += words
        else:
            return None
        if side != matrix and total >= length:
            break
    return _scene(pairs, said)


def _scene(pairs: Pairs, said: Sequence[tuple[int, int, int]]) -> Scene:
    """A scene of pieces, of which neighbours in one reading are joined."""
    placed: list[Placed] = []
    for (number, side), run in groupby(said, key=lambda one: one[:2]):
        reading, cuts = pairs[number][side], [cut for *_, cut in run]
        first, last = cuts[0], cuts[-1] + 1
        start, end = reading.cuts[first], reading.cuts[last]
        lead = min(start, _FADE)
        text = " ".join(reading.words[reading.n_words[first] : reading.n_words[last]])
        speech = Span(lead, lead + end - start)
        clip = Prompt(
            str(number), reading.lang, text, reading.audio()[start - lead : end + _FADE], speech, reading.speaker
        )
        new = placed and placed[-1].prompt.sentence != clip.sentence
        placed.append(Placed(clip, (placed[-1].end if placed else lead) + (_PAUSE if new else 0)))
    return Scene(tuple(placed), len(placed))

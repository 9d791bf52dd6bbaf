"""Where prompts can be cut: writes `benchmarks/difficulty/word_cuts.json` for `mixed_scenes`.

The true text of each prompt is forced through Whisper's decoder; dynamic time warping over its cross-attention gives
the start of each word, as for the word times of the transcriber. These times are up to 150 ms off. The boundaries of
all words of a prompt are therefore placed together: near these times, where it is quiet, and so that the lengths of
words fit their letters. A boundary is a cut if it is quiet enough and the words beside it have plausible lengths.

The second voices have no texts: their cuts come from the model's own transcript, which is not kept. Prints how many
boundaries are cuts, and how often that transcript equals the text of the first voice of the language.

    python -m benchmarks.difficulty.cuts
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.difficulty.scenes import CUTS, SECOND_VOICES
from whisperlab.data import corpora, debian, scenes
from whisperlab.data.corpora import VOICES
from whisperlab.model.attention import token_starts
from whisperlab.model.engine import prepared
from whisperlab.model.text_decoder import Prompt
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.model.weights import cache_dir, load_weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import POSITION, SAMPLE_RATE

PAIRS = (("en", "es"), ("es", "es-co"), ("fr", "fr-armelle"), ("it", "it-menardi"))
MARGIN = 2 * SAMPLE_RATE  # silence after the prompt, for the encoder
FRAME = SAMPLE_RATE // 100  # 10 ms: the unit of the cuts
PAUSE_DB = -30.0  # quieter frames are no speech, as in `scenes.trim`
BIAS = -4  # frames: at pauses, English word times lie 3 before the sound and Spanish ones 14 behind it (n = 32 and 15)
TIME_SPREAD = 8.0  # frames: standard deviation of a word time
LOUDNESS_WEIGHT = 0.12  # cost of a decibel
LENGTH_SPREAD = 0.5  # standard deviation of the logarithm of a word's length, around one proportional to its letters
EXTRA_LETTERS = 1.5  # short words are longer than their letters
SHORTEST, LONGEST = 4, 250  # frames of a word, with a pause behind it
DIP_DB = -10.0  # a cut is at least this far below the loud frames of its prompt,
PLAUSIBLE = 2.0  # and the words beside it are longer and shorter than expected by at most this factor
MOST = 60  # prompts of a voice that is only in controls, all of them of the test split
CONFIDENT = -1.0  # least mean log-probability of a transcript that stands for an unknown text


@dataclass(slots=True, frozen=True)
class Aligned:
    """Words of a prompt, the start of each in samples and then the end of the last, the mean log-probability."""

    words: tuple[str, ...]
    starts: tuple[int, ...]
    mean: float


class Aligner:
    """Whisper base on windows cut to the prompt, in the precision that is fastest here."""

    def __init__(self) -> None:
        self._encoder, self._decoder = prepared(load_weights("base"))

    def align(self, audio: FloatArray, language: str, text: str) -> Aligned:
        """The words of a text, which the model chooses if it is empty."""
        tokenizer = tokenizer_for(language)
        encoded = self._encoder.encode(audio, MARGIN)
        tokens = tokenizer.encode(f" {text}")
        if not text:
            prompt = Prompt(tokenizer, (), (), 10 * len(audio) // SAMPLE_RATE + 8)
            mask = torch.zeros(self._decoder.n_vocabulary)
            mask[[*tokenizer.non_speech_tokens, *range(tokenizer.eot + 1, len(mask))]] = -torch.inf
            with torch.inference_mode():
                (draft,) = self._decoder.greedy(encoded, [prompt], mask)
            tokens = [] if draft.looped else draft.tokens
            text = tokenizer.decode(tokens).strip()
        if not tokens:
            return Aligned((), (), -np.inf)
        before = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        state = self._decoder.open(encoded)
        hidden = self._decoder.extend(state, [*before, *tokens, tokenizer.eot], keep_alignment=True)
        rows = slice(len(before) - 1, len(before) + len(tokens))  # they predict the text and its end
        at = token_starts(state.alignment[:, rows], encoded.n_audio) * POSITION
        likely = self._decoder.logits(hidden[rows]).log_softmax(-1)[range(len(tokens)), tokens]
        words, firsts = text.split(), [0]
        for number in range(1, len(tokens)):
            said = len(tokenizer.decode(tokens[:number]).split())
            if tokenizer.decode(tokens[number : number + 1]).startswith(" ") and said == len(firsts):
                firsts.append(number)
        if len(firsts) != len(words):
            return Aligned((), (), -np.inf)
        return Aligned(tuple(words), tuple(int(at[n]) for n in (*firsts, len(tokens))), float(likely.mean()))


def cuts(audio: FloatArray, found: Aligned) -> list[tuple[int, int]]:
    """The cuts of a prompt, both ends included: the number of words before, and the time in 10 ms of the file."""
    start, places, clear = boundaries(audio, found)
    inner = [n for n in range(1, len(found.words)) if clear[n]]
    return [(n, start + places[n]) for n in (0, *inner, len(found.words))]


def boundaries(audio: FloatArray, found: Aligned) -> tuple[int, list[int], list[bool]]:
    """Where speech starts in 10 ms of the file, the bounds of all words from there on, and which of them can be cut."""
    trimmed, speech = scenes.trim(audio)
    first = next(at for at in range(0, len(audio), FRAME) if np.array_equal(audio[at : at + len(trimmed)], trimmed))
    start, end = (first + speech.start) // FRAME, (first + speech.end) // FRAME
    power = np.square(audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME).astype(float)).mean(1)
    power = np.convolve(power, [0.25, 0.5, 0.25], "same")
    loudness = 10 * np.log10(power / np.percentile(power, 95) + 1e-6)[start:end]  # dB
    spoken = np.concatenate([[0.0], np.cumsum(loudness > PAUSE_DB)])  # frames of speech before each frame
    letters = np.array([len(word.strip(".,;:!?¿¡")) + EXTRA_LETTERS for word in found.words])
    expected = spoken[-1] * letters / letters.sum()
    wanted = [(first + at) / FRAME - start + BIAS for at in found.starts[1:-1]]
    places = best_places(loudness, spoken, expected, wanted)
    ratios = np.maximum(np.diff(spoken[places]), 0.5) / expected
    fits = (ratios > 1 / PLAUSIBLE) & (ratios < PLAUSIBLE)
    inner = [bool(loudness[at] < DIP_DB and fits[n - 1] and fits[n]) for n, at in enumerate(places[1:-1], 1)]
    return start, places, [True, *inner, True]


def best_places(
    loudness: NDArray[np.float64], spoken: NDArray[np.float64], expected: NDArray[np.float64], wanted: Sequence[float]
) -> list[int]:
    """The frames of all boundaries with the least cost, ends included: by dynamic programming, word after word.

    The cost is that of the distance from the ``wanted`` frames, of the loudness there, and of words that are shorter or
    longer than ``expected``.
    """
    times = np.arange(len(spoken))
    starts = times[:, None] - np.arange(SHORTEST, LONGEST)  # by end and length of a word
    lengths = np.log(np.maximum(spoken[:, None] - spoken[np.maximum(starts, 0)], 0.5))
    quiet = LOUDNESS_WEIGHT * np.maximum(np.append(loudness, 0.0), -35)
    cost, back = np.where(times == 0, 0.0, np.inf), []
    for number, length in enumerate(expected):
        total = (
            np.where(starts >= 0, cost[np.maximum(starts, 0)], np.inf)
            + ((lengths - np.log(length)) / LENGTH_SPREAD) ** 2 / 2
        )
        best = total.argmin(1)
        back.append(times - SHORTEST - best)
        cost = total[times, best]
        if number < len(wanted):
            cost = cost + ((times - wanted[number]) / TIME_SPREAD) ** 2 / 2 + quiet
    places = [len(times) - 1]
    for before in reversed(back):
        places.append(int(before[places[-1]]))
    return places[::-1]


def main() -> None:
    """Align the prompts that both voices of a pair have, and write the cuts, voice after voice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = list(dict.fromkeys(name for pair in PAIRS for name in pair))
    parser.add_argument("--voices", nargs="+", choices=every, default=every, help="keep the cuts of the others")
    parser.add_argument("--words", action="store_true", help="write the word times of all corpora instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = cache_dir() / "packages"
    debian.fetch([package for voice in VOICES.values() for package in (voice.texts, voice.audio)], folder, print)
    debian.fetch(list(SECOND_VOICES.values()), folder, print)
    audio = {name: voice.audio for name, voice in VOICES.items()} | SECOND_VOICES
    encoded = {
        name: corpora.encoded_prompts(debian.verified(audio[name], folder, accept_newer=False))
        for name in {*every, *(VOICES if arguments.words else ())}
    }
    scripts = {name: debian.verified(voice.texts, folder, accept_newer=False) for name, voice in VOICES.items()}
    texts = {name: corpora.clean_texts(voice, scripts[name]) for name, voice in VOICES.items()}
    split_of = {key: scenes.split_of(sentence) for key, sentence in scenes.sentences(texts).items()}
    aligner = Aligner()
    if arguments.words:
        write_words(aligner, texts, {name: encoded[name] for name in VOICES})
        return
    made = json.loads(CUTS.read_text(encoding="utf-8")) if CUTS.exists() else {split: {} for split in scenes.SPLITS}
    for name in arguments.voices:
        lang = name.partition("-")[0]
        shared = {key for pair in PAIRS if name in pair for key in encoded[pair[0]].keys() & encoded[pair[1]].keys()}
        keys = sorted(shared & texts[lang].keys())
        if name not in PAIRS[0]:  # the controls
            keys = sorted((key for key in keys if split_of[key] == "test"), key=digest)[:MOST]
        prompts = {key: (texts[lang][key], scenes.decode_prompt(*encoded[name][key])) for key in keys}
        counts = Counter[str]()
        for voices in itertools.chain(*(of.values() for of in made.values())):
            voices.pop(name, None)
        for key, found, places in aligned(aligner, name, lang, prompts):
            made[split_of[key]].setdefault(key, {})[name] = places
            alike = SequenceMatcher(
                None, scenes.fold(texts[lang][key]), scenes.fold(" ".join(found.words)), autojunk=False
            )
            counts += Counter({"prompts": 1, "boundaries": len(found.words) - 1, "cuts": len(places) - 2})
            counts["as the first voice"] += alike.ratio() > 0.9
        print(name, dict(counts))
        write(made)


def aligned(
    aligner: Aligner, name: str, lang: str, prompts: Mapping[str, tuple[str, FloatArray]]
) -> Iterator[tuple[str, Aligned, list[tuple[int, int]]]]:
    """The usable prompts of a voice, by key: their words and cuts. Of prompts with the same text the first."""
    seen = set[str]()
    for key, (text, audio) in tqdm(prompts.items(), desc=name):
        known = name in VOICES
        if not scenes.make_prompt(key, lang, text, audio) or (known and scenes.fold(text) in seen):
            continue
        seen.add(scenes.fold(text))
        found = aligner.align(scenes.trim(audio)[0], lang, text if known else "")
        if found.words and (known or found.mean >= CONFIDENT):
            yield key, found, cuts(audio, found)


def write_words(
    aligner: Aligner, texts: Mapping[str, Mapping[str, str]], encoded: Mapping[str, Mapping[str, tuple[str, bytes]]]
) -> None:
    """Write the bounds of all words of the usable prompts, in 10 ms from the start of speech."""
    lines = []
    for lang, of in encoded.items():
        for key in tqdm(sorted(texts[lang].keys() & of.keys()), desc=lang):
            audio = scenes.decode_prompt(*of[key])
            if prompt := scenes.make_prompt(key, lang, texts[lang][key], audio):
                found = aligner.align(scenes.trim(audio)[0], lang, prompt.text)
                if len(found.words) > 1:
                    lines.append((lang, key, boundaries(audio, found)[1]))
    text = ",\n".join(
        json.dumps([f"{lang}/{key}", places], separators=(",", ":"))[1:-1].replace(",", ":", 1)
        for lang, key, places in lines
    )
    corpora.WORD_TIMES.write_text("{\n" + text + "\n}\n", encoding="utf-8")


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(made: Mapping[str, Mapping[str, object]]) -> None:
    """Write the cuts, a line per prompt."""
    compact = partial(json.dumps, separators=(",", ":"))
    splits = [
        f"{compact(split)}:{{\n"
        + ",\n".join(f"{compact(key)}:{compact(of[key])}" for key in sorted(of) if of[key])
        + "\n}"
        for split, of in sorted(made.items())
    ]
    CUTS.write_text("{\n" + ",\n".join(splits) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

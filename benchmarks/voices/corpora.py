"""Corpora of the further voices: scenes in which languages alternate, all *dev*, with the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator

from benchmarks.voices import clips
from whisperlab.data.corpora import record
from whisperlab.data.manifest import Recording, Totals, read_manifest, write_manifest
from whisperlab.data.scenes import Placed, Prompt, Scene
from whisperlab.model.downloads import Say
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.files import locked_folder, new_folder
from whisperlab.util.timeline import samples

VERSION = 1  # increase it when audio or times change: older corpora are then built again
SCENE_S = 65.0  # a scene ends with the block that reaches this
BLOCK_S = (2.0, 8.0)  # seconds from the start to the end of a block of one language
_AIM_S = (2.0, 6.0)  # a block ends with the clip that reaches a length drawn from this range
_GAP_MS = (100, 400)  # pause between two clips of a block
_PAUSE_MS = (0, 600)  # pause between two blocks
_NOISES_DB = (None, 20.0)  # signal-to-noise ratio, scene after scene


@dataclass(slots=True, frozen=True)
class Corpus:
    """A corpus to build: its voices and the number of its scenes. With one language it is a control."""

    name: str
    voices: tuple[str, ...]
    scenes: int

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(clips.voice(name).lang for name in self.voices))


CORPORA = {
    name: Corpus(name, tuple(facts["voices"]), facts["scenes"])
    for name, facts in json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8"))[
        "corpora"
    ].items()
}


def recordings(name: str) -> list[Recording]:
    """The recordings of a corpus, built first if it is missing. Errors: `build`."""
    return read_manifest(build(name) / "manifest.jsonl")


def build(name: str, say: Say = lambda line: None) -> Path:
    """Build a corpus unless it exists; returns its folder, which appears only when it is complete.

    Raises ConfigurationError for an unknown name, and CorpusError for missing packages or too few clips.
    """
    if name not in CORPORA:
        raise ConfigurationError(f"unknown corpus {name!r}; the corpora are {', '.join(CORPORA)}")
    corpus, target = CORPORA[name], cache_dir() / "corpora" / "voices" / f"{name}-{VERSION}"
    with locked_folder(target.parent):
        if not target.exists():
            say(f"{name}: reading {', '.join(corpus.voices)}")
            pool: dict[str, list[Prompt]] = {lang: [] for lang in corpus.languages}
            for voice in corpus.voices:
                pool[clips.voice(voice).lang] += clips.clips(voice)
            with new_folder(target) as folder:
                made = _splice(folder, corpus, pool)
                write_manifest(folder / "manifest.jsonl", made)
                (folder / "CARD.md").write_text(_card(corpus, made), encoding="utf-8")
    return target


def _splice(folder: Path, corpus: Corpus, pool: Mapping[str, Sequence[Prompt]]) -> list[Recording]:
    rng = np.random.default_rng([*corpus.name.encode()])
    decks = {lang: [of[i] for i in rng.permutation(len(of))] for lang, of in pool.items()}
    made = []
    for number in range(corpus.scenes):
        scene = plan_scene(rng, decks, _NOISES_DB[number % len(_NOISES_DB)])
        if scene is None:
            raise CorpusError(f"{corpus.name}: the clips suffice for {number} scenes of {SCENE_S:g} s")
        name = f"{corpus.name}-{number:02d}"
        recording = record(folder, name, scene, rng, split="dev", corpus=corpus.name)
        spoken = {placed.prompt.lang for placed in scene.placed}
        made.append(replace(recording, lang=",".join(sorted(spoken))))
    return made


def plan_scene(rng: Generator, decks: Mapping[str, list[Prompt]], snr_db: float | None) -> Scene | None:
    """A scene of blocks of 2 to 8 s; used clips leave their decks. None if a deck ends before the scene does.

    Each block is in another language than the one before, if there is another one.
    """
    placed: list[Placed] = []
    blocks, at, lang = 0, samples(_ms(rng, _PAUSE_MS)), ""
    while not placed or placed[-1].end < samples(SCENE_S):
        others = sorted(decks.keys() - {lang}) or [lang]
        lang = others[int(rng.integers(len(others)))]
        block = _plan_block(rng, decks[lang], at)
        if block is None:
            return None
        placed += block
        at = block[-1].end + samples(_ms(rng, _PAUSE_MS))
        blocks += 1
    return Scene(tuple(placed), blocks, snr_db)


def _plan_block(rng: Generator, deck: list[Prompt], at: int) -> list[Placed] | None:
    """Clips from ``at`` on. A clip that would make the block too long waits for a later block."""
    aim, block, start = samples(rng.uniform(*_AIM_S)), list[Placed](), at
    while not block or block[-1].end - start < aim:
        room = start + samples(BLOCK_S[1]) - at
        chosen = next((number for number, clip in enumerate(deck) if len(clip.speech) <= room), None)
        if chosen is None:  # a block without another clip that fits ends early
            return block if block and block[-1].end - start >= samples(BLOCK_S[0]) else None
        block.append(Placed(deck.pop(chosen), at))
        at = block[-1].end + samples(_ms(rng, _GAP_MS))
    return block


def _ms(rng: Generator, limits: tuple[int, int]) -> float:
    """A random length in seconds, between limits in milliseconds."""
    return int(rng.integers(limits[0], limits[1] + 1)) / 1000


def digest(name: str) -> str:
    """The SHA-256 of the manifest and the audio of a corpus, which is the same for every build."""
    folder, found = build(name), hashlib.sha256()
    for path in [folder / "manifest.jsonl", *sorted((folder / "audio").glob("*.wav"))]:
        found.update(path.read_bytes())
    return found.hexdigest()


def _card(corpus: Corpus, made: Sequence[Recording]) -> str:
    """The text of CARD.md. It has no date, so that builds are identical."""
    size, voices = Totals.of(made), [clips.voice(name) for name in corpus.voices]
    spoken = ", ".join(f"{lang} {length_s:.0f} s" for lang, length_s in size.speech_s.items())
    packages = dict.fromkeys(package for voice in voices for package in voice.packages)
    lines = [
        f"# {corpus.name}\n",
        "Spliced human speech, all *dev*. `datasets/voices.md` says how it is made, and under which licences.\n",
        f"* {size.recordings} scenes, {size.minutes:.1f} minutes, {size.segments} clips, {size.switches} switches",
        f"* speech: {spoken}",
        *(f"* voice {voice.name} ({voice.lang}): {voice.credit}" for voice in voices),
        *(f"* {package.name} {package.version}, SHA-256 {package.sha256}" for package in packages),
    ]
    return "\n".join(lines) + "\n"

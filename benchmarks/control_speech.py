"""Recordings of one language, all *dev*: every switch found in them is false.

The controls of the further voices are one scene of a minute each. The prompts of the corpora ``ivr-*`` make scenes
until none are left, and so do the clips of a further voice (``be-stamps`` ...), some of which its control also has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.voices import clips, corpora
from whisperlab.data import corpora as recipes
from whisperlab.data import debian
from whisperlab.data.corpora import record
from whisperlab.data.debian import Package
from whisperlab.data.manifest import Recording, read_manifest, write_manifest
from whisperlab.data.scenes import Prompt, decode_prompt, make_prompt, sentences, split_of
from whisperlab.model.downloads import Say
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.files import locked_folder, new_folder

VERSION = 1  # increase it when audio or times change: older scenes are then made again
MOST = 6  # scenes of a voice
NOISES_DB = (None, 20.0)  # signal-to-noise ratio, scene after scene
TALKS = ("en-david4", "en-ve9qrp", "en-vk2tpm", "en-vk5qi")  # too short for scenes of their own
PROMPTS = {f"{lang}-prompts": lang for lang in recipes.VOICES}  # those of the corpora ivr-*
CLIPS = (*(name for name in clips.VOICES if name not in TALKS), "en-talks")
CONTROLS = tuple(name for name, corpus in corpora.CORPORA.items() if len(corpus.languages) == 1)
VOICES = (*PROMPTS, *CONTROLS)  # those that are used by default


def controls(name: str, say: Say = lambda line: None) -> list[Recording]:
    """The scenes of a voice, made first if they are missing. Raises ConfigurationError for an unknown voice."""
    if name in CONTROLS:
        return corpora.recordings(name)
    if name not in (*PROMPTS, *CLIPS):
        raise ConfigurationError(f"unknown voice {name!r}; the voices are {', '.join((*VOICES, *CLIPS))}")
    target = cache_dir() / "corpora" / "controls" / f"{name}-{VERSION}"
    with locked_folder(target.parent):
        if not target.exists():
            say(f"{name}: making scenes")
            with new_folder(target) as folder:
                (folder / "audio").mkdir()
                write_manifest(folder / "manifest.jsonl", list(_scenes(name, folder)))
    return read_manifest(target / "manifest.jsonl")


def _scenes(name: str, folder: Path) -> Iterator[Recording]:
    rng = np.random.default_rng([*name.encode()])
    spoken = _clips(name)
    lang = spoken[0].lang
    deck = {lang: [spoken[i] for i in rng.permutation(len(spoken))]}
    for number in range(MOST):
        scene = corpora.plan_scene(rng, deck, NOISES_DB[number % len(NOISES_DB)])
        if scene is None:
            return
        made = record(folder, f"control-{name}-{number:02d}", scene, rng, split="dev", corpus=f"control-{name}")
        yield replace(made, lang=lang)


def _clips(name: str) -> Sequence[Prompt]:
    if name == "en-talks":
        return [clip for voice in TALKS for clip in clips.clips(voice)]
    return _prompts(PROMPTS[name]) if name in PROMPTS else clips.clips(name)


def _prompts(lang: str) -> list[Prompt]:
    """The *dev* prompts of the corpora, as they are used there."""
    voice, texts = recipes.VOICES[lang], _texts()
    sentence_of = sentences(texts)
    encoded = recipes.encoded_prompts(_verified(voice.audio))
    found = []
    for key, text in texts[lang].items():
        sentence = sentence_of[key]
        if key in encoded and split_of(sentence) == "dev":
            prompt = make_prompt(sentence, lang, text, decode_prompt(*encoded[key]))
            if prompt:
                found.append(replace(prompt, speaker=voice.speaker))
    return found


@cache
def _texts() -> dict[str, dict[str, str]]:
    return {lang: recipes.clean_texts(voice, _verified(voice.texts)) for lang, voice in recipes.VOICES.items()}


def _verified(package: Package) -> Path:
    folder = cache_dir() / "packages"
    debian.fetch([package], folder, lambda line: None)
    return debian.verified(package, folder, accept_newer=False)


def speaker(name: str) -> str:
    """The person of a voice: English and Spanish prompts are read by one."""
    return recipes.VOICES[PROMPTS[name]].speaker if name in PROMPTS else name

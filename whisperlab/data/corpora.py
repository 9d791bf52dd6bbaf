"""Corpora: their recipes, and the folders on disk. Built once per recipe and seed, atomically, with the same bytes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np

from whisperlab.data import debian, scenes
from whisperlab.data.audio_files import write_wav
from whisperlab.data.debian import Package
from whisperlab.data.manifest import Recording, Totals, read_manifest, write_manifest
from whisperlab.data.scenes import SPLITS, Placed, Prompt, Scene
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.model.downloads import Say, file_sha256
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.files import locked_folder, new_folder
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import seconds

RECIPE_VERSION = 4  # increase it when audio or manifests change: older corpora are then rebuilt
_HERE = Path(__file__).parent
# The bounds of the words of each prompt ("en/agent-pass") in 10 ms from the start of speech, by forced alignment
# (benchmarks/difficulty/cuts.py). A pause belongs to the word before it.
WORD_TIMES = _HERE / "word_times.json"
# Recipes, and packages, licences and credits as in each package's copyright file.
_FACTS = json.loads((_HERE / "corpora.json").read_text(encoding="utf-8"))


@dataclass(slots=True, frozen=True)
class Voice:
    """The prompts of one language and their terms."""

    lang: str
    speaker: str  # who reads; English and Spanish have the same voice
    language: str
    licence: str
    credit: str
    audio: Package  # with the recordings
    texts: Package


@dataclass(slots=True, frozen=True)
class Recipe:
    """A corpus to build: its languages, and the minimum seconds of audio per split."""

    name: str
    languages: Sequence[str]
    seconds: Mapping[str, float]
    description: str

    @property
    def voices(self) -> list[Voice]:
        return [VOICES[lang] for lang in self.languages]

    @property
    def packages(self) -> list[Package]:
        """The packages to fetch: its recordings, and the texts of all languages (the split needs them)."""
        return [voice.audio for voice in self.voices] + [voice.texts for voice in VOICES.values()]


VOICES = {
    lang: Voice(lang, **facts | {name: Package(*facts[name]) for name in ("audio", "texts")})
    for lang, facts in _FACTS["voices"].items()
}
RECIPES = {name: Recipe(name, **facts) for name, facts in _FACTS["recipes"].items()}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ConfigurationError for an unknown name."""
    if name not in RECIPES:
        raise ConfigurationError(f"unknown corpus {name!r}; the corpora are {', '.join(RECIPES)}")
    return RECIPES[name]


def list_corpora() -> list[str]:
    """The names that ``build``, ``load`` and ``info`` accept."""
    return list(RECIPES)


def corpus_dir(name: str, seed: int = 0) -> Path:
    """The folder of a corpus, built or not."""
    if seed < 0:
        raise ConfigurationError(f"seed should be 0 or more, got {seed}")
    return cache_dir() / "corpora" / recipe(name).name / str(seed)


def is_built(name: str, seed: int = 0) -> bool:
    """Whether the corpus exists with undamaged manifests, built by the current version of its recipe."""
    try:
        folder = corpus_dir(name, seed)
        made = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        manifests = made.get("manifests", {})
        undamaged = all(file_sha256(folder / file) == digest for file, digest in manifests.items())
    except (OSError, ValueError, AttributeError):
        return False
    return bool(undamaged and made.get("version") == RECIPE_VERSION)


def load(
    source: str | PathLike[str], split: str | None = None, seed: int = 0, build_missing: bool = True
) -> list[Recording]:
    """The recordings of a corpus, built first if it is missing, or of a manifest; without a ``split`` of all splits."""
    name = str(source)
    if name not in RECIPES:
        if not Path(source).is_file():
            raise ConfigurationError(f"{name!r} is neither a manifest nor one of {', '.join(RECIPES)}")
        recordings = read_manifest(source)
    elif not build_missing and not is_built(name, seed):
        raise CorpusError(f"{name} is not built yet for seed {seed}")
    else:
        folder = build(name, seed)
        recordings = [r for each in SPLITS for r in read_manifest(folder / f"manifest-{each}.jsonl")]
    # recordings of a manifest without a split belong to every split
    wanted = [r for r in recordings if split is None or r.split in ("", split)]
    if not wanted:
        there = sorted({r.split for r in recordings})
        raise ConfigurationError(f"{name} has no split {split!r}; it has {', '.join(there)}")
    return wanted


def info(name: str, seed: int = 0) -> Json:
    """Facts about a corpus; ``splits`` is empty until it is built, ``licences`` and ``credits`` are by language."""
    made, built, sizes = recipe(name), is_built(name, seed), {}
    for split in SPLITS if built else ():
        size = Totals.of(load(name, split, seed, build_missing=False))
        sizes[split] = {"recordings": size.recordings, "minutes": round(size.minutes, 2), "switches": size.switches}
    return {
        "name": name,
        "description": made.description,
        "languages": list(made.languages),
        "seed": seed,
        "built": built,
        "path": str(corpus_dir(name, seed)),
        "splits": sizes,
        "licences": {voice.lang: voice.licence for voice in made.voices},
        "credits": {voice.lang: voice.credit for voice in made.voices},
    }


def build(
    name: str,
    seed: int = 0,
    *,
    packages_dir: str | PathLike[str] | None = None,
    accept_newer: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Build a corpus unless it exists; returns its folder, which appears only when it is complete.

    The Debian packages come from ``packages_dir``, or once from ``apt-get download``: 55 MB for all five languages.
    They must have the recipes' version unless ``accept_newer``. ``say`` receives a line per step. Processes that build
    the same corpus wait for each other. Raises CorpusError if a package is missing or damaged.
    """
    target = corpus_dir(name, seed)
    if is_built(name, seed):
        return target
    packages = cache_dir() / "packages" if packages_dir is None else Path(packages_dir)
    try:
        with locked_folder(target.parent):
            if is_built(name, seed):
                return target  # another process has built it while this one waited
            if packages_dir is None:
                say(f"{name}: fetching prompts in {', '.join(v.language for v in recipe(name).voices)}")
                debian.fetch(recipe(name).packages, packages, say)
            with new_folder(target) as folder:
                _build(folder, recipe(name), seed, packages, accept_newer, say)
    except OSError as error:
        remedy = "WHISPERLAB_CACHE can name a folder elsewhere"
        raise CorpusError(f"{name} could not be built in {target.parent}: {error}; {remedy}") from error
    return target


def _build(folder: Path, made: Recipe, seed: int, packages: Path, accept_newer: bool, say: Say) -> None:
    files = {package.name: debian.verified(package, packages, accept_newer) for package in made.packages}
    texts = {lang: clean_texts(voice, files[voice.texts.name]) for lang, voice in VOICES.items()}
    sentence_of = scenes.sentences(texts)
    pool: list[Prompt] = []
    for voice in made.voices:
        say(f"{made.name}: reading {voice.language}")
        pool += _read_prompts(voice.lang, files[voice.audio.name], texts[voice.lang], sentence_of)
    recordings: list[Recording] = []
    for split in SPLITS:
        say(f"{made.name}: splicing {split}")
        prompts = [prompt for prompt in pool if scenes.split_of(prompt.sentence) == split]
        of_split = list(_splice(folder, made, split, seed, prompts))
        write_manifest(folder / f"manifest-{split}.jsonl", of_split)
        recordings += of_split
    used = [Package(name, debian.version_of(deb), file_sha256(deb)) for name, deb in files.items()]
    (folder / "CARD.md").write_text(_card(made, seed, recordings, used), encoding="utf-8")
    packed = {p.name: p.sha256 for p in used}
    manifests = {path.name: file_sha256(path) for path in sorted(folder.glob("manifest-*.jsonl"))}
    state = {"version": RECIPE_VERSION, "name": made.name, "seed": seed, "packages": packed, "manifests": manifests}
    (folder / "recipe.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def clean_texts(voice: Voice, deb: Path) -> dict[str, str]:
    """The clean texts of a voice's package by key."""
    name = f"usr/share/doc/{voice.texts.name}/core-sounds-{voice.lang}.txt.gz"
    content = debian.unpack(deb)
    if name not in content:
        raise CorpusError(f"{voice.texts.name} has no {name}")
    parsed = scenes.parse_texts(content[name])
    return {key: words for key, text in parsed.items() if (words := scenes.clean_text(key, text))}


def encoded_prompts(deb: Path) -> dict[str, tuple[str, bytes]]:
    """The format and content of each recording of a voice's package, by key."""
    # usr/share/asterisk/sounds/VOICE/KEY.FORMAT
    names = {name.split("/", 5)[-1].rpartition(".")[::2]: raw for name, raw in debian.unpack(deb).items()}
    return {key: (kind, raw) for (key, kind), raw in names.items()}


def _read_prompts(lang: str, deb: Path, texts: Mapping[str, str], sentence_of: Mapping[str, str]) -> list[Prompt]:
    """The usable prompts of one language, in the order of their keys; the first of each wording."""
    recordings, bounds = encoded_prompts(deb), json.loads(WORD_TIMES.read_text(encoding="utf-8"))
    prompts: dict[str, Prompt] = {}
    for key in sorted(texts.keys() & recordings.keys()):
        audio = scenes.decode_prompt(*recordings[key])
        if prompt := scenes.make_prompt(sentence_of[key], lang, texts[key], audio):
            known = tuple(bounds.get(f"{lang}/{key}", ()))
            spoken = replace(prompt, speaker=VOICES[lang].speaker, word_bounds=known)
            prompts.setdefault(scenes.fold(prompt.text), spoken)
    return list(prompts.values())


def _splice(folder: Path, made: Recipe, split: str, seed: int, pool: Sequence[Prompt]) -> Iterator[Recording]:
    """Plan and write the scenes of a split. The random numbers depend on the seed and on the name of each scene."""

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, *name.encode()])

    plan = scenes.plan_scenes(rng(f"{made.name}-{split}"), pool, made.languages, made.seconds[split])
    for index, scene in enumerate(plan):
        name = f"{made.name}-{split}-{index:02d}"
        yield record(folder, name, scene, rng(name), split=split, corpus=made.name)


def record(folder: Path, name: str, scene: Scene, rng: np.random.Generator, *, split: str, corpus: str) -> Recording:
    """Write a scene to ``audio/NAME.wav`` in the folder; returns its line of the manifest."""
    segments = tuple(
        ReferenceSegment(seconds(at.start), seconds(at.end), said.lang, said.text, said.speaker, word_times(at))
        for at, said in ((at, at.prompt) for at in scene.placed)
    )
    recording = Recording(
        id=name,
        audio_path=folder / "audio" / f"{name}.wav",
        duration=seconds(len(scene)),
        text=" ".join(segment.text for segment in segments).strip(),
        lang=",".join(lang for lang in VOICES if lang in {segment.lang for segment in segments}),
        segments=segments,
        split=split,
        corpus=corpus,
        snr=scene.snr_db,
    )
    recording.audio_path.parent.mkdir(exist_ok=True)
    write_wav(recording.audio_path, scenes.render(scene, rng))
    return recording


def word_times(placed: Placed) -> tuple[tuple[float, float], ...]:
    """Start and end of each word in seconds of the scene; empty where they are not known."""
    found = [seconds(placed.start) + bound / 100 for bound in placed.prompt.word_bounds]
    return tuple(pairwise(round(at, 4) for at in found))


def _card(made: Recipe, seed: int, recordings: Sequence[Recording], packages: Sequence[Package]) -> str:
    """The text of CARD.md with the usual header of data cards. It has no date, so that builds are identical."""
    counts = []
    for split in SPLITS:
        size = Totals.of([r for r in recordings if r.split == split])
        spoken = ", ".join(f"{lang} {length_s:.0f}" for lang, length_s in size.speech_s.items())
        cells = (split, size.recordings, f"{size.minutes:.1f}", size.segments, size.switches, spoken)
        counts.append(f"| {' | '.join(map(str, cells))} |")
    card = (_HERE / "card.md").read_text(encoding="utf-8")
    return card.format(
        name=made.name,
        seed=seed,
        languages=", ".join(made.languages),
        licences=", ".join(sorted({voice.licence.lower().replace(" ", "-") for voice in made.voices})),
        description=made.description[0].upper() + made.description[1:],
        counts="\n".join(counts),
        credits="\n".join(f"* {v.language} ({v.lang}): {v.credit}. {v.licence}." for v in made.voices),
        origin="\n".join(f"| {p.name} | {p.version} | {p.sha256} |" for p in packages),
    )

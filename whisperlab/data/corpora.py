"""Corpora on disk: built once per recipe and seed, atomically, with the same bytes every time."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np

from whisperlab.data import debian
from whisperlab.data.audio_files import write_wav
from whisperlab.data.debian import Package, Say
from whisperlab.data.manifest import Recording, Totals, read_manifest, write_manifest
from whisperlab.data.prompts import (
    SPLITS,
    Prompt,
    clean_text,
    decode_g722,
    fold,
    make_prompt,
    parse_texts,
    sentences,
    split_of,
)
from whisperlab.data.recipes import RECIPES, VOICES, Recipe, Voice, recipe
from whisperlab.data.scenes import Scene, plan_scenes, render
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import seconds

RECIPE_VERSION = 2  # increase it when audio or times change: older corpora are then rebuilt

Texts = Mapping[str, Mapping[str, str]]  # language to key to clean text


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
        undamaged = all(debian.sha256(folder / file) == digest for file, digest in manifests.items())
    except (OSError, ValueError, AttributeError):
        return False
    return bool(undamaged and made.get("version") == RECIPE_VERSION)


def load(
    source: str | PathLike[str], split: str | None = None, seed: int = 0, build_missing: bool = True
) -> list[Recording]:
    """The recordings of a corpus or of a manifest.

    ``source`` is a name from ``list_corpora`` or the path of a manifest. A missing corpus is built first, unless
    ``build_missing`` is false. ``split`` is ``dev`` or ``test``; None returns all. Recordings of a manifest without a
    split belong to every split.
    """
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
    wanted = [r for r in recordings if split is None or r.split in ("", split)]
    if not wanted:
        there = sorted({r.split for r in recordings})
        raise ConfigurationError(f"{name} has no split {split!r}; it has {', '.join(there)}")
    return wanted


def info(name: str, seed: int = 0) -> Json:
    """Facts about a corpus. ``splits`` maps a split to recordings, minutes and switches; it is empty until built.

    ``licences`` and ``credits`` are by language.
    """
    made, built = recipe(name), is_built(name, seed)
    sizes = {split: Totals.of(load(name, split, seed, build_missing=False)) for split in SPLITS if built}
    return {
        "name": name,
        "description": made.description,
        "languages": list(made.languages),
        "seed": seed,
        "built": built,
        "path": str(corpus_dir(name, seed)),
        "splits": {
            split: {"recordings": size.recordings, "minutes": round(size.minutes, 2), "switches": size.switches}
            for split, size in sizes.items()
        },
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
    """Build a corpus unless it exists; returns its folder.

    The Debian packages come from ``packages_dir``, or once from ``apt-get download``: 55 MB for all five languages.
    They must have the recipes' version unless ``accept_newer``. ``say`` receives a line per step. Processes that build
    the same corpus wait for each other. The folder appears only when it is complete. Raises CorpusError if a package
    is missing or damaged, and ConfigurationError for an unknown name.
    """
    target = corpus_dir(name, seed)
    if is_built(name, seed):
        return target
    packages = cache_dir() / "packages" if packages_dir is None else Path(packages_dir)
    try:
        with _new_folder(target) as folder:
            if is_built(name, seed):
                return target  # another process has built it while this one waited
            if packages_dir is None:
                say(f"{name}: fetching prompts in {', '.join(v.language for v in recipe(name).voices)}")
                debian.fetch(recipe(name).packages, packages, say)
            _build(folder, recipe(name), seed, packages, accept_newer, say)
    except OSError as error:
        raise CorpusError(
            f"{name} could not be built in {target.parent}: {error}; WHISPERLAB_CACHE can name a folder elsewhere"
        ) from error
    return target


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill. It becomes ``target`` if it contains ``recipe.json`` at the end.

    Only one process at a time has it. The kernel releases the lock when the process ends.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
        try:
            yield partial
            if (partial / "recipe.json").exists():
                shutil.rmtree(target, ignore_errors=True)  # built by another version of the recipe
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _build(folder: Path, made: Recipe, seed: int, packages: Path, accept_newer: bool, say: Say) -> None:
    files = {package.name: debian.verified(package, packages, accept_newer) for package in made.packages}
    texts = _read_texts(files)
    sentence_of = sentences(texts)
    pool: list[Prompt] = []
    for voice in made.voices:
        say(f"{made.name}: reading {voice.language}")
        pool += _read_prompts(voice, texts[voice.lang], sentence_of, files)
    (folder / "audio").mkdir()
    recordings: list[Recording] = []
    for split in SPLITS:
        say(f"{made.name}: splicing {split}")
        of_split = list(_splice(folder, made, split, seed, [p for p in pool if split_of(p.sentence) == split]))
        write_manifest(folder / f"manifest-{split}.jsonl", of_split)
        recordings += of_split
    used = [Package(name, debian.version_of(deb), debian.sha256(deb)) for name, deb in files.items()]
    (folder / "CARD.md").write_text(_card(made, seed, recordings, used), encoding="utf-8")
    state = {
        "version": RECIPE_VERSION,
        "name": made.name,
        "seed": seed,
        "packages": {p.name: p.sha256 for p in used},
        "manifests": {path.name: debian.sha256(path) for path in sorted(folder.glob("manifest-*.jsonl"))},
    }
    (folder / "recipe.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _read_texts(files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """The clean texts of all languages, by language and key."""
    texts = {}
    for lang, voice in VOICES.items():
        name = f"usr/share/doc/{voice.texts.name}/core-sounds-{lang}.txt.gz"
        content = debian.unpack(files[voice.texts.name])
        if name not in content:
            raise CorpusError(f"{voice.texts.name} has no {name}")
        parsed = parse_texts(content[name])
        texts[lang] = {key: words for key, text in parsed.items() if (words := clean_text(key, text))}
    return texts


def _read_prompts(
    voice: Voice, texts: Mapping[str, str], sentence_of: Mapping[str, str], files: Mapping[str, Path]
) -> list[Prompt]:
    """The usable prompts of one language, in the order of their keys; the first of each wording."""
    content = debian.unpack(files[voice.audio.name])
    # usr/share/asterisk/sounds/VOICE/KEY.g722
    recordings = {name.split("/", 5)[-1].removesuffix(".g722"): raw for name, raw in content.items()}
    prompts: dict[str, Prompt] = {}
    for key in sorted(texts.keys() & recordings.keys()):
        prompt = make_prompt(sentence_of[key], voice.lang, texts[key], decode_g722(recordings[key]))
        if prompt is not None:
            prompts.setdefault(fold(prompt.text), prompt)
    return list(prompts.values())


def _splice(folder: Path, made: Recipe, split: str, seed: int, pool: Sequence[Prompt]) -> Iterator[Recording]:
    """Plan and write the scenes of a split. The random numbers depend on the seed and on the name of each scene."""

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, *name.encode()])

    plan = plan_scenes(rng(f"{made.name}-{split}"), pool, made.languages, made.seconds[split])
    for index, scene in enumerate(plan):
        name = f"{made.name}-{split}-{index:02d}"
        recording = _recording(name, scene, split, made, folder)
        write_wav(recording.audio_path, render(scene, rng(name)))
        yield recording


def _recording(name: str, scene: Scene, split: str, made: Recipe, folder: Path) -> Recording:
    segments = tuple(
        ReferenceSegment(seconds(each.start), seconds(each.end), each.prompt.lang, each.prompt.text)
        for each in scene.placed
    )
    spoken = {segment.lang for segment in segments}
    return Recording(
        id=name,
        audio_path=folder / "audio" / f"{name}.wav",
        duration=seconds(len(scene)),
        text=" ".join(segment.text for segment in segments),
        lang=",".join(lang for lang in made.languages if lang in spoken),
        segments=segments,
        split=split,
        corpus=made.name,
        snr=scene.snr_db,
    )


def _card(made: Recipe, seed: int, recordings: Sequence[Recording], packages: Sequence[Package]) -> str:
    """The text of CARD.md with the usual header of data cards. It has no date, so that builds are identical."""
    licences = sorted({voice.licence.lower().replace(" ", "-") for voice in made.voices})
    credits = "\n".join(f"* {v.language} ({v.lang}): {v.credit}. {v.licence}." for v in made.voices)
    counts = "\n".join(_counts(recordings))
    origin = "\n".join(f"| {p.name} | {p.version} | {p.sha256} |" for p in packages)
    return f"""\
---
pretty_name: {made.name}
language: [{", ".join(made.languages)}]
license: [{", ".join(licences)}]
task_categories: [automatic-speech-recognition, audio-classification]
---

# {made.name}, seed {seed}

{made.description[0].upper()}{made.description[1:]}.

This is **spliced human speech, not a code-switching corpus**: telephone prompts, read by people,
one after another. A splice is easier than a speaker switching: do not mix the two in results.

## Counts

| split | recordings | minutes | prompts | switches | seconds of speech |
|-|-|-|-|-|-|
{counts}

{_METHOD}
## Licences and credits

{credits}

This audio is an adapted work (cut, levelled, joined, partly with noise) under the same licences.

## Made from these Debian packages

| package | version | SHA-256 |
|-|-|-|
{origin}
"""


def _counts(recordings: Sequence[Recording]) -> Iterator[str]:
    """The rows of the table, one per split."""
    for split in SPLITS:
        size = Totals.of([r for r in recordings if r.split == split])
        spoken = ", ".join(f"{lang} {length_s:.0f}" for lang, length_s in size.speech_s.items())
        cells = (split, size.recordings, f"{size.minutes:.1f}", size.segments, size.switches, spoken)
        yield f"| {' | '.join(map(str, cells))} |"


_METHOD = """\
## How it is made

* Excluded: digits, letters and other single words (`digits/`, `letters/`, `phonetic/`, `silence/`,
  `dictate/`), texts with brackets or symbols, texts with `?` in place of accented letters, prompts with less
  than 1.5 s or more than 20 s of speech, and prompts with fewer than 5 or more than 28 characters per second.
  Of prompts with the same words, one is kept.
* Prompts are trimmed to their speech (30 dB below the loud parts, to 10 ms) plus 30 ms on each side. Their
  level is moved towards -20 dB of full scale by at most 6 dB. Segment times are those of the speech.
* A scene has 8 to 20 blocks of one or two prompts in 40 to 90 seconds, with 0 to 600 ms between prompts;
  neighbouring blocks differ in language where there are two. No prompt is used twice in a split, no sentence
  twice in a scene.
* Every second scene is clean (pauses between prompts are digital silence). The others have pink noise,
  alternately 20 dB and 10 dB below the speech: `noise_snr_db` in the manifest.
* `dev` and `test` never share a sentence, in any language. Prompts with the same sentence are found by their
  keys and texts. A hash of the first key assigns them to a split, the same in every corpus and seed.
* Texts are the speakers' scripts. Most Spanish scripts lack accents: score with diacritics folded. Some
  scripts differ from the recording.
"""

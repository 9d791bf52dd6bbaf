"""Clips of known voices from Debian packages: each is one speaker, in one language, with text where it is known."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from benchmarks.difficulty.scenes import SECOND_VOICES
from whisperlab.data import corpora, debian
from whisperlab.data.corpora import encoded_prompts
from whisperlab.data.debian import Package
from whisperlab.data.scenes import Prompt, clean_text, decode_prompt, fold, level, sentences, split_of, trim
from whisperlab.model.weights import cache_dir
from whisperlab.util.audio_arrays import FloatArray, as_audio
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.timeline import samples

SPEECH_S = (0.7, 8.0)  # seconds of speech in a clip
PROMPT_S = 1.2  # the least for a telephone prompt: shorter ones are digits and letters
CHARACTERS_A_SECOND = (4.0, 30.0)  # outside, text and recording differ
_CUT_S = (2.5, 7.0)  # seconds between two cuts of a talk
_SHORTEST = 4800  # samples (0.3 s): shorter files are not decoded further
_SOURCES = json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8"))
PACKAGES = {name: Package(*facts) for name, facts in _SOURCES["packages"].items()}

# usr/share/tuxpaint/stamps/FOLDER/NAME_desc_LANG.ogg, and the text in FOLDER/NAME.txt
_STAMP = re.compile(r"usr/share/tuxpaint/stamps/(.+?)(?:_desc_(\w+)\.ogg|\.txt)")
# usr/share/games/fillets-ng/sound/LEVEL/LANG/KEY.ogg, and the texts in script/LEVEL/dialogs_LANG.lua
_FISH = re.compile(r"usr/share/games/fillets-ng/(?:sound/(.+)/(\w+)/(.+)\.ogg|script/(.+)/dialogs_(\w+)\.lua)")
_STRING = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(rf"dialogId\({_STRING},\s*{_STRING},\s*{_STRING}\)\s*dialogStr\({_STRING}\)")


@dataclass(slots=True, frozen=True)
class Voice:
    """One speaker, or one role of a game, in one language."""

    name: str
    kind: Literal["stamps", "fish", "prompts", "talks"]  # stamps and fish have texts
    lang: str
    credit: str
    part: str = ""  # fish: font of the role in the subtitles; talks: name of the file

    @property
    def packages(self) -> list[Package]:
        """The package with the recordings, and that with the texts if it is another one."""
        if self.kind == "prompts":
            return [SECOND_VOICES[self.name]]
        return [PACKAGES[f"fish-{self.lang}"], PACKAGES["fish"]] if self.kind == "fish" else [PACKAGES[self.kind]]


VOICES = {name: Voice(name, **facts) for name, facts in _SOURCES["voices"].items()}


def voice(name: str) -> Voice:
    """The voice of that name. Raises ConfigurationError for an unknown name."""
    if name not in VOICES:
        raise ConfigurationError(f"unknown voice {name!r}; the voices are {', '.join(VOICES)}")
    return VOICES[name]


@cache
def clips(name: str) -> tuple[Prompt, ...]:
    """The usable clips of a voice in the order of their keys, the first of each text; fetched with apt-get if needed.

    Raises ConfigurationError for an unknown voice, and CorpusError if a package is missing or damaged.
    """
    source, folder = voice(name), cache_dir() / "packages"
    debian.fetch(source.packages, folder, lambda line: None)
    files = [debian.verified(package, folder, accept_newer=False) for package in source.packages]
    found: dict[str, Prompt] = {}
    for clip in sorted(_READERS[source.kind](source, *files), key=lambda clip: clip.sentence):
        found.setdefault(fold(clip.text) or clip.sentence, clip)
    return tuple(found.values())


def _stamps(source: Voice, deb: Path) -> Iterator[Prompt]:
    """Names of things that can be stamped on a picture: single words to short sentences."""
    texts, recordings = dict[str, str](), dict[str, bytes]()
    for name, raw in _members(deb, rf".+(?:_desc_{source.lang}\.ogg|\.txt)"):
        if found := _STAMP.fullmatch(name):
            if found[2]:
                recordings[found[1]] = raw
            elif text := stamp_text(raw, source.lang):
                texts[found[1]] = text
    for key in recordings.keys() & texts.keys():
        if clip := make_clip(source, key, texts[key], decoded(recordings[key])):
            yield clip


def stamp_text(raw: bytes, lang: str) -> str | None:
    """The text of a stamp in a language, from its ``LANG.utf8=TEXT`` lines; None if missing or doubtful."""
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.startswith(f"{lang}.utf8="):
            return clean_text("", line.partition("=")[2].strip())
    return None


def _fish(source: Voice, deb: Path, texts_deb: Path) -> Iterator[Prompt]:
    """What one of the two fish says in a game. The subtitles are the texts; their font tells who speaks."""
    texts: dict[tuple[str, str], str] = {}
    for name, raw in _members(texts_deb, rf".+/dialogs_{source.lang}\.lua"):
        if found := _FISH.fullmatch(name):
            said = dialogue(raw.decode("utf-8"), source.part)
            texts |= {(found[4], key): text for key, text in said.items()}
    for name, raw in _members(deb, rf".+/{source.lang}/[^/]+\.ogg"):
        found = _FISH.fullmatch(name)
        text = texts.get((found[1], found[3])) if found else None
        if text and (clip := make_clip(source, name, text, decoded(raw))):
            yield clip


def dialogue(lua: str, font: str) -> dict[str, str]:
    """The clean subtitles of one role by key."""
    lines = (
        (key, clean_text("", re.sub(r"\\(.)", r"\1", text))) for key, f, _, text in _LINE.findall(lua) if f == font
    )
    return {key: text for key, text in lines if text}


def _prompts(source: Voice, deb: Path) -> Iterator[Prompt]:
    """Telephone prompts that are not in *test* in the other corpora. Their texts are not known."""
    sentence_of = _sentences()
    for key, (kind, raw) in encoded_prompts(deb).items():
        if kind not in ("gsm", "wav") or "/" in key:  # documents, digits and letters
            continue
        if key in sentence_of and split_of(sentence_of[key]) == "test":
            continue
        clip = make_clip(source, key, "", decode_prompt(kind, raw))
        if clip and clip.speech.duration_s >= PROMPT_S:
            yield clip


@cache
def _sentences() -> dict[str, str]:
    """The sentence of each telephone prompt by its key, which decides its split."""
    folder = cache_dir() / "packages"
    debian.fetch([voice.texts for voice in corpora.VOICES.values()], folder, lambda line: None)
    files = {lang: debian.verified(voice.texts, folder, accept_newer=False) for lang, voice in corpora.VOICES.items()}
    return sentences({lang: corpora.clean_texts(corpora.VOICES[lang], deb) for lang, deb in files.items()})


def _talks(source: Voice, deb: Path) -> Iterator[Prompt]:
    """Somebody who talks freely, cut at pauses. The texts are not known."""
    for _, raw in _members(deb, rf".+/wav/{re.escape(source.part)}"):
        audio = decoded(raw)
        for number, (start, end) in enumerate(pairwise(quiet_places(audio))):
            if clip := make_clip(source, f"{source.part}-{number:03d}", "", audio[start:end]):
                yield clip


def quiet_places(audio: FloatArray) -> list[int]:
    """Where to cut speech: the ends, and the quietest 200 ms at 2.5 to 7 s after each cut."""
    places, (nearest, furthest), half = [0], map(samples, _CUT_S), samples(0.1)
    loudness = np.convolve(np.square(audio, dtype=np.float64), np.ones(2 * half), "same")
    while len(audio) - places[-1] > furthest:
        window = loudness[places[-1] + nearest : places[-1] + furthest]
        places.append(places[-1] + nearest + int(window.argmin()))
    return [*places, len(audio)]


def make_clip(source: Voice, key: str, text: str, audio: FloatArray) -> Prompt | None:
    """A trimmed and levelled clip, or None if its length or its speaking rate is out of range."""
    if len(audio) < _SHORTEST or not np.any(audio):
        return None
    trimmed, speech = trim(audio)
    (shortest, longest), (slowest, fastest) = SPEECH_S, CHARACTERS_A_SECOND
    if not shortest <= speech.duration_s <= longest:
        return None
    if text and not slowest <= len(text) / speech.duration_s <= fastest:
        return None
    return replace(Prompt(key, source.lang, text, level(trimmed, speech), speech), speaker=source.name)


_READERS: dict[str, Callable[..., Iterator[Prompt]]] = {
    "stamps": _stamps,
    "fish": _fish,
    "prompts": _prompts,
    "talks": _talks,
}


def decoded(raw: bytes) -> FloatArray:
    """The samples of an Ogg Vorbis or WAV file, mixed to one channel. Raises CorpusError."""
    try:
        audio, rate = soundfile.read(io.BytesIO(raw), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise CorpusError(f"a clip cannot be decoded: {error}") from error
    return as_audio(audio.mean(axis=1), rate) if len(audio) else np.zeros(0, dtype=np.float32)


def _members(deb: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The regular files of a package whose complete path matches. These packages are above the limits of `unpack`."""
    wanted, command = re.compile(pattern), ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted.fullmatch(name):
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read()

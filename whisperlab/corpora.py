"""Speech with exact times of its language switches: recipes that build it on this machine, and manifests.

No package registry carries a code-switching corpus. What Debian does carry are telephone prompts, read by
people, the same sentences in five languages, with their texts. The recipes splice these into scenes of 40
to 90 seconds whose language changes every few seconds, at known samples. Read every number made with them
as *spliced human speech, not a code-switching corpus*: a splice is easier than a person who switches.

Splits are by sentence: a sentence is heard in ``dev`` or in ``test``, in whatever language, never in both.
The same recipe and seed give the same files, byte for byte.

A manifest is JSON lines in NeMo's form, so your own recordings are one file away: see ``datasets/README.md``.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisperlab.audio import FloatArray, write_wav
from whisperlab.errors import ConfigurationError, CorpusError, ManifestError, MissingDependencyError
from whisperlab.models import cache_dir
from whisperlab.timeline import SAMPLE_RATE, Span, samples, seconds

RECIPE_VERSION = 1  # raise it when the audio a recipe makes changes: corpora built before are then rebuilt
SPLITS = ("dev", "test")


# ---- records -----------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class ReferenceSegment:
    """What is said, where: times in seconds of the recording, and the pause (ms) since the segment before."""

    start: float
    end: float
    lang: str
    text: str
    gap_before_ms: float = 0.0


@dataclass(slots=True, frozen=True)
class Recording:
    """One line of a manifest: an audio file and what is said in it.

    ``lang`` is a Whisper code, or several joined by commas; ``snr`` is the signal-to-noise ratio in dB of
    noise that was added, None when none was.
    """

    id: str
    audio_path: Path
    duration: float
    text: str
    lang: str
    segments: tuple[ReferenceSegment, ...]
    split: str
    corpus: str
    snr: float | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes in ``lang``, one by one."""
        return tuple(code for code in self.lang.split(",") if code)

    @property
    def reference(self) -> dict[str, Any]:
        """The text and segments as a trace keeps them: ``{"text", "segments": [{"start", "end", "lang", "text"}]}``."""
        fields = ("start", "end", "lang", "text")
        return {"text": self.text, "segments": [{f: getattr(s, f) for f in fields} for s in self.segments]}


@dataclass(slots=True, frozen=True)
class Prompt:
    """One cleaned prompt: speech with at most 30 ms around it, and where in it the speech lies.

    ``sentence`` is the same for all prompts that say the same, in whatever language.
    """

    sentence: str
    lang: str
    text: str
    audio: FloatArray
    speech: Span


@dataclass(slots=True, frozen=True)
class Placed:
    """A prompt in a scene: its speech starts at sample ``start``, ``gap`` samples after the one before ended."""

    prompt: Prompt
    start: int
    gap: int

    @property
    def end(self) -> int:
        """The sample after the last one of speech."""
        return self.start + len(self.prompt.speech)


@dataclass(slots=True, frozen=True)
class Recipe:
    """What to build: languages, and seconds of audio at least in each split."""

    name: str
    languages: tuple[str, ...]
    seconds: Mapping[str, int]
    description: str


# ---- recipes -----------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Voice:
    """Where one language's prompts come from and whom to thank."""

    lang: str
    name: str
    speaker: str
    credit: str
    licence: str
    audio_sha256: str
    text_sha256: str

    @property
    def audio_package(self) -> str:
        """The Debian package with the recordings."""
        return f"asterisk-core-sounds-{self.lang}-g722"

    @property
    def text_package(self) -> str:
        """The Debian package with the texts."""
        return f"asterisk-core-sounds-{self.lang}"


_PACKAGE_VERSION = "1.6.1-1"

VOICES = {
    voice.lang: voice
    for voice in (
        Voice(
            "en",
            "English",
            "Allison Smith",
            "recorded by Allison Smith (theivrvoice.com), financial contributions by Digium, Inc.",
            "CC BY-SA 3.0",
            "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
            "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        ),
        Voice(
            "es",
            "Spanish (Mexico)",
            "Allison Smith",
            "recorded by Allison Smith (theivrvoice.com), financial contributions by Digium, Inc.",
            "CC BY-SA 3.0",
            "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
            "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
        ),
        Voice(
            "fr",
            "French (Canada)",
            "June Wallack",
            "recorded by June Wallack (junewallack.com), translated by Clod Patry, Kristopher Lalletti and "
            "June Wallack, financial contributions by Digium, Inc., Unlimitel and BGM Informatique",
            "CC BY-SA 3.0",
            "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
            "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
        ),
        Voice(
            "it",
            "Italian",
            "Carlo Flora",
            "recorded by Carlo Flora (carloflora.com, segreterietelefoniche.it), translated by Silvia Petrin",
            "CC BY 3.0",
            "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
            "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
        ),
        Voice(
            "ru",
            "Russian",
            "provided by ivrvoice.ru",
            "provided by Maxim Topal (ivrvoice.ru)",
            "CC BY 3.0",
            "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
            "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
        ),
    )
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "ivr-five",
            ("en", "es", "fr", "it", "ru"),
            {"dev": 360, "test": 360},
            "five languages, four voices: the easy case, since voice and language change together",
        ),
        Recipe(
            "ivr-en-es",
            ("en", "es"),
            {"dev": 300, "test": 300},
            "English and Spanish by one bilingual speaker: the hard case, since only the language changes",
        ),
        *(
            Recipe(
                f"ivr-{voice.lang}",
                (voice.lang,),
                {"dev": 60, "test": 120},
                f"control: {voice.name} alone, every switch reported is false",
            )
            for voice in VOICES.values()
        ),
    )
}


# ---- packages ----------------------------------------------------------------------------------------

_MEMBER_LIMIT = 8 << 20  # bytes; the largest prompt is 0.5 MB
_UNPACKED_LIMIT = 128 << 20  # bytes; the largest package unpacks to 22 MB


def _fetch(packages: Mapping[str, str], folder: Path) -> None:
    """Have apt-get put the packages that ``folder`` lacks there (no root needed)."""
    wanted = [name for name in packages if not list(folder.glob(f"{name}_*.deb"))]
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise CorpusError(
            "this system has no apt-get; download these Debian packages elsewhere and pass their folder as "
            f"packages_dir: {', '.join(wanted)}"
        )
    done = subprocess.run(["apt-get", "download", *wanted], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise CorpusError(f"apt-get download {' '.join(wanted)} failed: {done.stderr.strip()}")


def _package_file(name: str, sha256: str, folder: Path, accept_newer: bool) -> Path:
    """The verified .deb of a package in ``folder``."""
    found = sorted(folder.glob(f"{name}_*.deb"))
    if not found:
        raise CorpusError(f"no {name}_*.deb in {folder}")
    for path in found:
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    newest = found[-1]
    version = newest.name.split("_")[1]
    if version == _PACKAGE_VERSION:
        raise CorpusError(f"{newest} is damaged: its SHA-256 is not {sha256}; delete it and build again")
    if not accept_newer:
        raise CorpusError(
            f"{name} is served in version {version}, the recipes were made with {_PACKAGE_VERSION}; results "
            "will not be comparable. Take it all the same with accept_newer=True"
        )
    return newest


def _data_member(deb: bytes, name: str) -> bytes:
    """The ``data.tar.*`` inside a .deb, which is an ``ar`` archive of 60-byte headers and even-length members."""
    if not deb.startswith(b"!<arch>\n"):
        raise CorpusError(f"{name} is not a Debian package")
    at = 8
    while at + 60 <= len(deb):
        header = deb[at : at + 60]
        size = int(header[48:58])
        if header[:16].startswith(b"data.tar"):
            return deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise CorpusError(f"{name} holds no data.tar")


def unpack_deb(path: Path) -> dict[str, bytes]:
    """The regular files of a .deb, by their path without a leading ``./``, read into memory only.

    Refuses members that climb out of the archive or are larger than a prompt could be (CorpusError).
    """
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_member(path.read_bytes(), path.name))) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                total += member.size
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise CorpusError(f"{path.name}: member {member.name!r} points outside the package")
                if member.size > _MEMBER_LIMIT or total > _UNPACKED_LIMIT:
                    raise CorpusError(f"{path.name}: member {member.name!r} is larger than any prompt")
                content = archive.extractfile(member)
                assert content is not None
                files[str(name)] = content.read()
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise CorpusError(f"{path.name} cannot be unpacked: {error}") from error
    return files


# ---- prompts -----------------------------------------------------------------------------------------

_NOT_SENTENCES = ("digits/", "letters/", "phonetic/", "silence/", "dictate/")
_NEVER_SPOKEN = re.compile(r"[\[\](){}<>/\\*#_|]")  # stage directions, alternatives, key names
_LOST_LETTER = re.compile(r"\?(?!\s*$)")  # the Italian texts lost some accented letters to "?"
_EDGES = " \t.…\"“”«»;,"
_MARGIN = 480  # samples (30 ms) kept around the speech of a prompt
_QUIET_DB = 30.0  # below the loud frames of a prompt is not speech: room tone, hum, breath
_LEVEL_FRAME = 160  # samples (10 ms)
_PROMPT_S = (1.5, 20.0)
_CHARACTERS_A_SECOND = (5.0, 28.0)  # outside, text and recording are not of the same sentence
_LEVEL_DB = -20.0  # active speech level every prompt is brought towards,
_GAIN_LIMIT_DB = 6.0  # by this much at most: voices keep some of their differences


def parse_texts(raw: bytes) -> dict[str, str]:
    """``key: text`` lines (gzip, UTF-8, ``;`` comments) as a mapping; of a key given twice the first counts."""
    texts: dict[str, str] = {}
    for line in gzip.decompress(raw).decode("utf-8-sig").splitlines():
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(key.strip(), " ".join(text.split()))
    return texts


def clean_text(key: str, text: str) -> str | None:
    """The words that are spoken, or None when the text cannot be trusted to be just that.

    >>> clean_text("conf-muted", "You are now muted...")
    'You are now muted'
    >>> clean_text("tt-monkeys", "[sound of monkeys screaming]") is None
    True
    """
    if key.startswith(_NOT_SENTENCES) or _NEVER_SPOKEN.search(text) or _LOST_LETTER.search(text):
        return None
    words = text.strip(_EDGES)
    return words if any(c.isalpha() for c in words) else None


def fold(text: str) -> str:
    """Lower case without accents, punctuation or doubled spaces: when two texts are the same sentence."""
    letters = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split())


def sentences(texts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Which sentence each key says: the first key of all that share its text, in any of the languages.

    Prompts come in twins (``confbridge-mute-in`` and ``-out``, three takes of one joke); splitting by key
    alone would let one twin be tuned on and the other tested.
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
    """``dev`` or ``test``: by a hash of the sentence's key, so the same in every language, corpus and seed."""
    return SPLITS[hashlib.sha256(sentence.encode()).digest()[0] % 2]


def decode_g722(raw: bytes) -> FloatArray:
    """Samples at 16 kHz of a headerless G.722 file; an empty file gives none."""
    if not raw:
        return np.zeros(0, dtype=np.float32)
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("decoding the prompts needs PyAV: pip install 'whisperlab[data]'") from error
    try:
        with av.open(io.BytesIO(raw), format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError as error:
        raise CorpusError(f"a prompt cannot be decoded: {error}") from error
    return np.concatenate(frames).astype(np.float32) / 32768 if frames else np.zeros(0, dtype=np.float32)


def _frame_power(audio: FloatArray) -> NDArray[np.float64]:
    whole = audio[: len(audio) // _LEVEL_FRAME * _LEVEL_FRAME].astype(np.float64)
    return np.square(whole).reshape(-1, _LEVEL_FRAME).mean(axis=1)


def trim(audio: FloatArray) -> tuple[FloatArray, Span]:
    """The audio with at most 30 ms around its speech, and the span of the speech in it (10 ms resolution)."""
    power = _frame_power(audio)
    loud = np.flatnonzero(power > np.percentile(power, 95) * 10 ** (-_QUIET_DB / 10))
    start, end = int(loud[0]) * _LEVEL_FRAME, int(loud[-1] + 1) * _LEVEL_FRAME
    first = max(0, start - _MARGIN)
    return audio[first : end + _MARGIN], Span(start - first, end - first)


def level(audio: FloatArray, speech: Span) -> FloatArray:
    """The audio with its speech brought towards -20 dBFS, by 6 dB at most."""
    power = float(np.square(audio[speech.start : speech.end], dtype=np.float64).mean())
    gain_db = np.clip(_LEVEL_DB - 10 * np.log10(power), -_GAIN_LIMIT_DB, _GAIN_LIMIT_DB)
    return audio * np.float32(10 ** (gain_db / 20))


def make_prompt(sentence: str, lang: str, words: str, raw: bytes) -> Prompt | None:
    """A prompt ready to be placed, or None when recording and text are not fit to be a reference."""
    audio = decode_g722(raw)
    if len(audio) < samples(_PROMPT_S[0]) or not np.any(audio):
        return None
    trimmed, speech = trim(audio)
    rate = len(words) / speech.duration_s
    in_range = _PROMPT_S[0] <= speech.duration_s <= _PROMPT_S[1]
    if not in_range or not _CHARACTERS_A_SECOND[0] <= rate <= _CHARACTERS_A_SECOND[1]:
        return None
    return Prompt(sentence, lang, words, level(trimmed, speech), speech)


def _read_texts(folder: Path, accept_newer: bool) -> dict[str, dict[str, str]]:
    """The clean texts of all five languages: the split needs them all, whatever language is built."""
    texts = {}
    for lang, voice in VOICES.items():
        files = unpack_deb(_package_file(voice.text_package, voice.text_sha256, folder, accept_newer))
        name = f"usr/share/doc/{voice.text_package}/core-sounds-{lang}.txt.gz"
        if name not in files:
            raise CorpusError(f"{voice.text_package} holds no {name}")
        parsed = parse_texts(files[name])
        texts[lang] = {key: words for key, text in parsed.items() if (words := clean_text(key, text))}
    return texts


def _read_prompts(
    voice: Voice, texts: Mapping[str, str], sentence: Mapping[str, str], folder: Path, accept_newer: bool
) -> list[Prompt]:
    """The usable prompts of one language in order of their keys, each wording once."""
    files = unpack_deb(_package_file(voice.audio_package, voice.audio_sha256, folder, accept_newer))
    # usr/share/asterisk/sounds/VOICE/KEY.g722
    recordings = {n.split("/", 5)[5].removesuffix(".g722"): n for n in files if n.endswith(".g722")}
    prompts: dict[str, Prompt] = {}
    for key in sorted(texts.keys() & recordings.keys()):
        prompt = make_prompt(sentence[key], voice.lang, texts[key], files[recordings[key]])
        if prompt is not None:
            prompts.setdefault(fold(prompt.text), prompt)
    return list(prompts.values())


# ---- scenes ------------------------------------------------------------------------------------------

_BLOCKS = (8, 20)
_SCENE_S = (40.0, 90.0)
_AIM_S = (45.0, 78.0)  # scenes aim at a length drawn from here and end with the block that reaches it
_GAP_MS = (0, 600)
_TWO_PROMPTS = 0.35  # the share of blocks with two prompts
_TAIL = 8000  # samples (0.5 s) after the last word, so that a stream can hear it end
_NOISES_DB = (None, 20.0, None, 10.0)  # scene after scene
_TRIES = 10_000


def _next_language(rng: np.random.Generator, languages: Sequence[str], previous: str | None) -> str:
    others = [lang for lang in languages if lang != previous] or list(languages)
    return others[int(rng.integers(len(others)))]


def _draw_scene(rng: np.random.Generator, pool: Sequence[Prompt], languages: Sequence[str]) -> tuple[list[Placed], int]:
    """Placed prompts and the number of blocks; the scene may be of a length nobody wants."""
    order = [pool[i] for i in rng.permutation(len(pool))]
    aim, used = samples(rng.uniform(*_AIM_S)), set[str]()
    scene: list[Placed] = []
    blocks, lang = 0, None
    while not scene or scene[-1].end < aim:
        lang = _next_language(rng, languages, lang)
        size = 1 + int(rng.random() < _TWO_PROMPTS)
        block = [p for p in order if p.lang == lang and p.sentence not in used][:size]
        if not block:
            break
        for prompt in block:
            used.add(prompt.sentence)
            gap = samples(int(rng.integers(_GAP_MS[0], _GAP_MS[1] + 1)) / 1000)
            scene.append(Placed(prompt, (scene[-1].end if scene else 0) + gap, gap))
        blocks += 1
    return scene, blocks


def plan_scene(rng: np.random.Generator, pool: Sequence[Prompt], languages: Sequence[str]) -> list[Placed]:
    """Draw scenes until one has 8 to 20 blocks in 40 to 90 seconds; neighbouring blocks differ in language.

    No sentence is heard twice in a scene, not even in two languages. Raises CorpusError when the pool is
    too small for that.
    """
    for _ in range(_TRIES):
        scene, blocks = _draw_scene(rng, pool, languages)
        length = seconds(scene[-1].end + _TAIL) if scene else 0.0
        if _BLOCKS[0] <= blocks <= _BLOCKS[1] and _SCENE_S[0] <= length <= _SCENE_S[1]:
            return scene
    raise CorpusError(f"{len(pool)} prompts in {', '.join(languages)} are too few for another scene")


def _faded(prompt: Prompt) -> FloatArray:
    """The prompt with its margins faded, so that a cut never clicks and touching margins add up."""
    audio = prompt.audio.copy()
    before, after = prompt.speech.start, len(audio) - prompt.speech.end
    audio[:before] *= np.sin(np.linspace(0, np.pi / 2, before, dtype=np.float32)) ** 2
    audio[len(audio) - after :] *= np.cos(np.linspace(0, np.pi / 2, after, dtype=np.float32)) ** 2
    return audio


def pink_noise(rng: np.random.Generator, n_samples: int) -> FloatArray:
    """Noise of power 1/f above 50 Hz (flat below), scaled to a mean square of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 50.0)), n_samples)
    return (noise / np.sqrt(np.square(noise).mean())).astype(np.float32)


def render_scene(scene: Sequence[Placed], snr_db: float | None, rng: np.random.Generator) -> FloatArray:
    """The scene's samples; the ratio of noise is to the speech alone, pauses not counted."""
    audio = np.zeros(scene[-1].end + _TAIL, dtype=np.float32)
    power, spoken = 0.0, 0
    for placed in scene:
        clip = _faded(placed.prompt)
        at = placed.start - placed.prompt.speech.start
        first = max(0, -at)  # a scene may open with speech: the margin before it has no room
        audio[at + first : at + len(clip)] += clip[first:]
        speech = placed.prompt.audio[placed.prompt.speech.start : placed.prompt.speech.end]
        power += float(np.square(speech, dtype=np.float64).sum())
        spoken += len(speech)
    if snr_db is not None:
        audio += np.float32(np.sqrt(power / spoken) * 10 ** (-snr_db / 20)) * pink_noise(rng, len(audio))
    return np.clip(audio, -1.0, 1.0 - 2**-15)


# ---- manifests ---------------------------------------------------------------------------------------


def _manifest_line(recording: Recording, folder: Path) -> dict[str, Any]:
    return {
        "audio_filepath": recording.audio_path.relative_to(folder).as_posix(),
        "duration": recording.duration,
        "text": recording.text,
        "lang": recording.lang,
        "id": recording.id,
        "split": recording.split,
        "corpus": recording.corpus,
        "noise_snr_db": recording.snr,
        "segments": [
            {
                "start": s.start,
                "end": s.end,
                "lang": s.lang,
                "text": s.text,
                "gap_before_ms": s.gap_before_ms,
            }
            for s in recording.segments
        ],
    }


def write_manifest(path: Path, recordings: Iterable[Recording]) -> None:
    """Write recordings as JSON lines; their audio must lie under the manifest's folder."""
    lines = [json.dumps(_manifest_line(r, path.parent), ensure_ascii=False) for r in recordings]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# ---- building ----------------------------------------------------------------------------------------


def _recording(recipe: Recipe, split: str, index: int, scene: Sequence[Placed], snr: float | None, root: Path) -> Recording:
    name = f"{recipe.name}-{split}-{index:02d}"
    segments = tuple(
        ReferenceSegment(seconds(p.start), seconds(p.end), p.prompt.lang, p.prompt.text, p.gap / SAMPLE_RATE * 1000)
        for p in scene
    )
    heard = {s.lang for s in segments}
    return Recording(
        id=name,
        audio_path=root / "audio" / f"{name}.wav",
        duration=seconds(scene[-1].end + _TAIL),
        text=" ".join(s.text for s in segments),
        lang=",".join(lang for lang in recipe.languages if lang in heard),
        segments=segments,
        split=split,
        corpus=recipe.name,
        snr=snr,
    )


def _build_split(recipe: Recipe, split: str, seed: int, pool: Sequence[Prompt], root: Path) -> list[Recording]:
    """Scenes until the split is long enough; no recording of a prompt is used twice in it."""
    rng = np.random.default_rng([seed, *f"{recipe.name}/{split}".encode()])
    recordings: list[Recording] = []
    left = list(pool)
    while sum(r.duration for r in recordings) < recipe.seconds[split]:
        scene = plan_scene(rng, left, recipe.languages)
        snr = _NOISES_DB[len(recordings) % len(_NOISES_DB)]
        recording = _recording(recipe, split, len(recordings), scene, snr, root)
        write_wav(recording.audio_path, render_scene(scene, snr, rng))
        recordings.append(recording)
        taken = {id(placed.prompt) for placed in scene}
        left = [prompt for prompt in left if id(prompt) not in taken]
    return recordings


@contextmanager
def _only_builder(lock: Path) -> Iterator[None]:
    """Hold ``lock`` against other processes that build the same corpus."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ConfigurationError(f"there is no corpus {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def corpus_dir(name: str, seed: int = 0) -> Path:
    """Where a corpus is, or would be, built."""
    return cache_dir() / "corpora" / _recipe(name).name / str(seed)


def is_built(name: str, seed: int = 0) -> bool:
    """Whether the corpus is there, made by this version of its recipe."""
    try:
        state = json.loads((corpus_dir(name, seed) / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(state["version"] == RECIPE_VERSION)


def _packages(recipe: Recipe) -> dict[str, str]:
    """Names and SHA-256 of what a recipe needs: its recordings, and all texts (the split rests on them)."""
    audio = {VOICES[lang].audio_package: VOICES[lang].audio_sha256 for lang in recipe.languages}
    return audio | {voice.text_package: voice.text_sha256 for voice in VOICES.values()}


def build(
    name: str,
    seed: int = 0,
    *,
    packages_dir: Path | None = None,
    accept_newer: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Build a corpus unless it is there already; returns its folder.

    The Debian packages are fetched with ``apt-get download`` (55 MB for all five languages, once), or taken
    from ``packages_dir``. They must be the ones the recipe was made with unless ``accept_newer``. ``say``
    gets a line of progress now and then. Two processes that build the same corpus wait for each other, and
    the folder appears whole or not at all. Raises CorpusError, or ConfigurationError for an unknown name.
    """
    recipe, target = _recipe(name), corpus_dir(name, seed)
    with _only_builder(cache_dir() / "corpora" / f".{name}-{seed}.lock"):
        if is_built(name, seed):
            return target
        packages = packages_dir or cache_dir() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        if packages_dir is None:
            say(f"{name}: fetching prompts in {', '.join(recipe.languages)}")
            _fetch(_packages(recipe), packages)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as folder:
            root = Path(folder) / "corpus"
            (root / "audio").mkdir(parents=True)
            _build_into(root, recipe, seed, packages, accept_newer, say)
            shutil.rmtree(target, ignore_errors=True)
            root.rename(target)
    return target


def _build_into(
    root: Path, recipe: Recipe, seed: int, packages: Path, accept_newer: bool, say: Callable[[str], None]
) -> None:
    texts = _read_texts(packages, accept_newer)
    sentence = sentences(texts)
    pool: list[Prompt] = []
    for lang in recipe.languages:
        say(f"{recipe.name}: reading {VOICES[lang].name}")
        pool += _read_prompts(VOICES[lang], texts[lang], sentence, packages, accept_newer)
    for split in SPLITS:
        say(f"{recipe.name}: splicing {split}")
        mine = [prompt for prompt in pool if split_of(prompt.sentence) == split]
        write_manifest(root / f"manifest-{split}.jsonl", _build_split(recipe, split, seed, mine, root))
    state = {"version": RECIPE_VERSION, "name": recipe.name, "seed": seed, "packages": _packages(recipe)}
    (root / "recipe.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


# ---- reading -----------------------------------------------------------------------------------------


def list_corpora() -> list[str]:
    """The names ``build`` and ``load`` know."""
    return list(RECIPES)


def load(source: str | Path, split: str | None = None, seed: int = 0, build_missing: bool = True) -> list[Recording]:
    """The recordings of a corpus or of a manifest of your own; slice the list for a quick look.

    ``source`` is a name from ``list_corpora`` (built first when it is missing, unless ``build_missing`` is
    false) or the path of a manifest. ``split`` is ``dev`` or ``test``; None takes both.
    """
    if str(source) not in RECIPES:
        recordings = read_manifest(Path(source))
        return [r for r in recordings if split is None or r.split == split]
    if not build_missing and not is_built(str(source), seed):
        raise CorpusError(f"{source} (seed {seed}) is not built yet: whisperlab data build {source} --seed {seed}")
    if split is not None and split not in SPLITS:
        raise ConfigurationError(f"{source} has the splits {' and '.join(SPLITS)}, not {split!r}")
    folder = build(str(source), seed)
    wanted = SPLITS if split is None else (split,)
    return [r for name in wanted for r in read_manifest(folder / f"manifest-{name}.jsonl")]


def read_manifest(path: Path) -> list[Recording]:
    """The recordings of a manifest; ManifestError names file and line of what is wrong."""
    recordings = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        d = json.loads(line)
        recordings.append(
            Recording(
                id=d["id"], audio_path=path.parent / d["audio_filepath"], duration=d["duration"], text=d["text"],
                lang=d["lang"], segments=tuple(ReferenceSegment(**s) for s in d["segments"]),
                split=d["split"], corpus=d["corpus"], snr=d["noise_snr_db"],
            )
        )
    return recordings

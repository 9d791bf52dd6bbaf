"""The recipes of the corpora, and their voices with packages, licences and credits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whisperlab.data.debian import Package
from whisperlab.util.errors import ConfigurationError

_VERSION = "1.6.1-1"
_SHA256 = {
    "en-g722": "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "es-g722": "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "fr-g722": "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    "fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "it-g722": "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    "it": "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    "ru-g722": "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    "ru": "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
}


def _package(suffix: str) -> Package:
    return Package(f"asterisk-core-sounds-{suffix}", _VERSION, _SHA256[suffix])


@dataclass(slots=True, frozen=True)
class Voice:
    """The prompts of one language and their terms."""

    lang: str
    language: str
    licence: str
    credit: str

    @property
    def audio(self) -> Package:
        """The package with the recordings."""
        return _package(f"{self.lang}-g722")

    @property
    def texts(self) -> Package:
        """The package with the texts."""
        return _package(self.lang)


@dataclass(slots=True, frozen=True)
class Recipe:
    """A corpus to build: its languages, and the minimum seconds of audio per split."""

    name: str
    languages: tuple[str, ...]
    seconds: Mapping[str, float]
    description: str

    @property
    def voices(self) -> list[Voice]:
        """The voices of its languages."""
        return [VOICES[lang] for lang in self.languages]

    @property
    def packages(self) -> list[Package]:
        """The packages to fetch: its recordings, and the texts of all languages (the split needs them)."""
        return [voice.audio for voice in self.voices] + [voice.texts for voice in VOICES.values()]


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ConfigurationError for an unknown name."""
    if name not in RECIPES:
        raise ConfigurationError(f"unknown corpus {name!r}; the corpora are {', '.join(RECIPES)}")
    return RECIPES[name]


# Credits and licences as in each package's copyright file.
_ALLISON = "recorded by Allison Smith (theivrvoice.com), financial contributions by Digium, Inc."
_JUNE = (
    "recorded by June Wallack (junewallack.com), translated by Clod Patry, Kristopher Lalletti and "
    "June Wallack, financial contributions by Digium, Inc., Unlimitel and BGM Informatique"
)
_CARLO = "recorded by Carlo Flora (carloflora.com, segreterietelefoniche.it), translated by Silvia Petrin"
_VOICES = (
    Voice("en", "English", "CC BY-SA 3.0", _ALLISON),
    Voice("es", "Spanish (Mexico)", "CC BY-SA 3.0", _ALLISON),
    Voice("fr", "French (Canada)", "CC BY-SA 3.0", _JUNE),
    Voice("it", "Italian", "CC BY 3.0", _CARLO),
    Voice("ru", "Russian", "CC BY 3.0", "provided by Maxim Topal (ivrvoice.ru)"),
)
VOICES = {voice.lang: voice for voice in _VOICES}

_FIVE = "five languages by four voices: easy, because the voice often changes with the language"
_TWO = "English and Spanish by one bilingual speaker: hard, because only the language changes"
_ONE = "control, only {}: every switch found in it is false"
_RECIPES = (
    Recipe("ivr-five", tuple(VOICES), {"dev": 360, "test": 360}, _FIVE),
    Recipe("ivr-en-es", ("en", "es"), {"dev": 300, "test": 300}, _TWO),
    *(Recipe(f"ivr-{v.lang}", (v.lang,), {"dev": 60, "test": 120}, _ONE.format(v.language)) for v in _VOICES),
)
RECIPES = {made.name: made for made in _RECIPES}

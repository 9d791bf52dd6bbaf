"""Names of languages, translated to Whisper's codes, without a model or torch.

Accepts Whisper's codes in any case, English names, ISO 639-2 and -3 codes, withdrawn codes (``iw``) and locales
(``pt-BR``, ``zh_Hans``, ``en_US.UTF-8``).
"""

import re
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from whisperlab.util.errors import UnknownLanguageError
from whisperlab.util.validation import shown

# A line per language, in the order of Whisper's tokens: its code, then other names. Underscores stand for spaces.
_NAMES = (Path(__file__).parent / "data" / "languages.txt").read_text(encoding="utf-8")
_CODES = {name.replace("_", " "): line.split()[0] for line in _NAMES.splitlines() for name in line.split()}
CODES = tuple(dict.fromkeys(_CODES.values()))  # in the order of their tokens; models before large-v3 lack yue
_AUTO = {"auto", "automatic", "detect", "any", "all", "mul", "multi", "multilingual"}


def language_code(name: object) -> str:
    """Whisper's code for a language. Raises `UnknownLanguageError`, which names the closest languages.

    >>> [language_code(name) for name in ("EN", "pt-BR", "zh_Hans", "iw", "deu", "Haitian Creole")]
    ['en', 'pt', 'zh', 'he', 'de', 'ht']
    """
    given = " ".join(name.casefold().replace("_", "-").split()) if isinstance(name, str) else ""
    language, *subtags = re.split(r"[-.@( ]+", given)
    if language in ("zh", "zho") and "yue" in subtags:
        return "yue"
    if code := _CODES.get(given) or _CODES.get(given.replace("-", " ")) or _CODES.get(language):
        return code
    if given in _AUTO:
        raise UnknownLanguageError(f"{shown(name)} is not the name of a language: leave it out to allow every language")
    close = get_close_matches(given, _CODES, n=3, cutoff=0.5 if len(given) < 4 else 0.7)
    codes = dict.fromkeys(f"{_CODES[one]} ({english_name(_CODES[one])})" for one in close)
    closest, wanted = f"the closest are {', '.join(codes)}", "expected a code such as en or es, or an English name"
    raise UnknownLanguageError(f"unknown language {shown(name)}: {closest if codes else wanted}")


@cache
def find_code(name: str, default: str = "") -> str:
    """`language_code`, or a default for an unknown language."""
    with suppress(UnknownLanguageError):
        return language_code(name)
    return default


def english_name(code: str) -> str:
    """The English name of a language: ``spanish`` for ``es``."""
    return next(name for name, of in _CODES.items() if of == code and (len(name) > 3 or name == "lao"))

"""Names of languages: whatever people write for one, as the code that Whisper has for it.

Takes Whisper's codes in any case, English names, ISO 639-2 and -3 codes, codes that were withdrawn (``iw``) and
locales (``pt-BR``, ``zh_Hans``, ``en_US.UTF-8``). Needs no model and no torch.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from whisperlab.util.errors import UnknownLanguageError
from whisperlab.util.validation import shown

# Whisper's code, then what else names the language. A name of two words has an underscore here.
_NAMES = """
af afr afrikaans|am amh amharic|ar ara arb arabic العربية|as asm assamese|az aze azj azerbaijani|ba bak bashkir
be bel belarusian|bg bul bulgarian|bn ben bengali bangla|bo bod tib tibetan|br bre breton|bs bos bosnian
ca cat catalan valencian|cs ces cze czech|cy cym wel welsh|da dan danish|de deu ger german deutsch|el ell gre greek
en eng english|es spa spanish castilian español|et est ekk estonian|eu eus baq basque|fa fas per pes prs persian farsi
fi fin finnish|fo fao faroese|fr fra fre french français|gl glg galician|gu guj gujarati|ha hau hausa|haw hawaiian
he iw heb hebrew|hi hin hindi हिन्दी|hr hrv croatian|ht hat haitian haitian_creole|hu hun hungarian magyar
hy hye arm armenian|id in ind indonesian|is isl ice icelandic|it ita italian italiano|ja jpn japanese 日本語
jw jv jav javanese|ka kat geo georgian|kk kaz kazakh|km khm khmer|kn kan kannada|ko kor korean 한국어|la lat latin
lb ltz luxembourgish letzeburgesch|ln lin lingala|lo lao|lt lit lithuanian|lv lav lvs latvian|mg mlg plt malagasy
mi mri mao maori|mk mkd mac macedonian|ml mal malayalam|mn mon khk mongolian|mr mar marathi|ms msa may zsm malay
mt mlt maltese|my mya bur myanmar burmese|ne nep npi nepali|nl nld dut dutch flemish nederlands
nn nno nynorsk norwegian_nynorsk|no nb nor nob norwegian bokmål|oc oci occitan|pa pan punjabi panjabi
pl pol polish polski|ps pus pbt pashto pushto|pt por portuguese português|ro mo ron rum mol romanian moldavian moldovan
ru rus russian русский|sa san sanskrit|sd snd sindhi|si sin sinhala sinhalese|sk slk slo slovak|sl slv slovenian slovene
sn sna shona|so som somali|sq sqi alb als albanian|sr srp serbian|su sun sundanese|sv swe swedish svenska
sw swa swh swahili|ta tam tamil|te tel telugu|tg tgk tajik|th tha thai|tk tuk turkmen|tl tgl fil tagalog filipino
tr tur turkish türkçe|tt tat tatar|uk ukr ukrainian українська|ur urd urdu|uz uzb uzn uzbek|vi vie vietnamese
yi ji yid ydd yiddish|yo yor yoruba|yue cantonese|zh zho chi cmn chinese mandarin 中文
"""
_CODES = {
    name.replace("_", " "): names[0]
    for names in (entry.split() for entry in _NAMES.replace("\n", "|").split("|") if entry)
    for name in names
}
CODES = tuple(dict.fromkeys(_CODES.values()))  # of Whisper large-v3; smaller ones lack yue
_AUTO = {"auto", "automatic", "detect", "any", "all", "mul", "multi", "multilingual"}


def language_code(name: object) -> str:
    """Whisper's code for a language; raises `UnknownLanguageError` that names the closest ones.

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
        raise UnknownLanguageError(
            f"{shown(name)} names no language: leave it out, and every language may occur"
        )
    close = get_close_matches(given, _CODES, n=3, cutoff=0.5 if len(given) < 4 else 0.7)
    codes = dict.fromkeys(f"{_CODES[one]} ({_english(_CODES[one])})" for one in close)
    raise UnknownLanguageError(
        f"unknown language {shown(name)}: "
        + (
            f"the closest are {', '.join(codes)}"
            if codes
            else "expected a code such as en or es, or an English name"
        )
    )


def _english(code: str) -> str:
    """The English name of a language.

    >>> _english("es")
    'spanish'
    """
    return next(name for name, of in _CODES.items() if of == code and (len(name) > 3 or name == "lao"))

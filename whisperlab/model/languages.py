"""Names of languages, translated to Whisper's codes, without a model or torch.

Accepts Whisper's codes in any case, English names, ISO 639-2 and -3 codes, withdrawn codes (``iw``) and locales
(``pt-BR``, ``zh_Hans``, ``en_US.UTF-8``).
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from whisperlab.util.errors import UnknownLanguageError
from whisperlab.util.validation import shown

# Whisper's code, then other names of the language, in the order of Whisper's tokens. Underscores stand for spaces.
_NAMES = """
en eng english|zh zho chi cmn chinese mandarin 中文|de deu ger german deutsch|es spa spanish castilian español
ru rus russian русский|ko kor korean 한국어|fr fra fre french français|ja jpn japanese 日本語
pt por portuguese português|tr tur turkish türkçe|pl pol polish polski|ca cat catalan valencian
nl nld dut dutch flemish nederlands|ar ara arb arabic العربية|sv swe swedish svenska|it ita italian italiano
id in ind indonesian|hi hin hindi हिन्दी|fi fin finnish|vi vie vietnamese|he iw heb hebrew
uk ukr ukrainian українська|el ell gre greek|ms msa may zsm malay|cs ces cze czech
ro mo ron rum mol romanian moldavian moldovan|da dan danish|hu hun hungarian magyar|ta tam tamil
no nb nor nob norwegian bokmål|th tha thai|ur urd urdu|hr hrv croatian|bg bul bulgarian|lt lit lithuanian
la lat latin|mi mri mao maori|ml mal malayalam|cy cym wel welsh|sk slk slo slovak|te tel telugu
fa fas per pes prs persian farsi|lv lav lvs latvian|bn ben bengali bangla|sr srp serbian|az aze azj azerbaijani
sl slv slovenian slovene|kn kan kannada|et est ekk estonian|mk mkd mac macedonian|br bre breton
eu eus baq basque|is isl ice icelandic|hy hye arm armenian|ne nep npi nepali|mn mon khk mongolian|bs bos bosnian
kk kaz kazakh|sq sqi alb als albanian|sw swa swh swahili|gl glg galician|mr mar marathi|pa pan punjabi panjabi
si sin sinhala sinhalese|km khm khmer|sn sna shona|yo yor yoruba|so som somali|af afr afrikaans|oc oci occitan
ka kat geo georgian|be bel belarusian|tg tgk tajik|sd snd sindhi|gu guj gujarati|am amh amharic
yi ji yid ydd yiddish|lo lao|uz uzb uzn uzbek|fo fao faroese|ht hat haitian haitian_creole
ps pus pbt pashto pushto|tk tuk turkmen|nn nno nynorsk norwegian_nynorsk|mt mlt maltese|sa san sanskrit
lb ltz luxembourgish letzeburgesch|my mya bur myanmar burmese|bo bod tib tibetan|tl tgl fil tagalog filipino
mg mlg plt malagasy|as asm assamese|tt tat tatar|haw hawaiian|ln lin lingala|ha hau hausa|ba bak bashkir
jw jv jav javanese|su sun sundanese|yue cantonese
"""
_CODES = {
    name.replace("_", " "): names[0]
    for names in (entry.split() for entry in _NAMES.replace("\n", "|").split("|") if entry)
    for name in names
}
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
    raise UnknownLanguageError(
        f"unknown language {shown(name)}: "
        + (f"the closest are {', '.join(codes)}" if codes else "expected a code such as en or es, or an English name")
    )


def english_name(code: str) -> str:
    """The English name of a language.

    >>> english_name("es")
    'spanish'
    """
    return next(name for name, of in _CODES.items() if of == code and (len(name) > 3 or name == "lao"))

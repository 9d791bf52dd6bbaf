"""Languages: what people write for one, and Whisper's code for it."""

from __future__ import annotations

import pytest
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from whisperlab.model.languages import CODES, language_code
from whisperlab.util.errors import UnknownLanguageError


def test_all_that_whisper_knows_is_known() -> None:
    assert set(CODES) == set(LANGUAGES)
    assert all(language_code(name) == code for name, code in TO_LANGUAGE_CODE.items())
    assert all(language_code(code.upper()) == code for code in LANGUAGES)


@pytest.mark.parametrize(
    "code, names",
    [
        ("pt", "pt-BR pt_PT por Português Portuguese"),
        ("zh", "zh-CN zh-Hans zh_TW zh-Hant-HK cmn cmn-Hans-CN zho chi Mandarin 中文"),
        ("en", "en-US en_GB.UTF-8 EN eng English"),
        ("he", "iw he-IL heb"),
        ("id", "in id-ID ind"),
        ("jw", "jv jav Javanese"),
        ("yi", "ji yid"),
        ("de", "deu ger Deutsch de-AT"),
        ("fr", "fra fre fr-CA"),
        ("no", "nb nob nb-NO"),
        ("tl", "fil fil-PH"),
        ("yue", "yue yue-HK zh-yue Cantonese"),
        ("es", "spa es-419 castilian"),
    ],
)
def test_names_regions_and_other_codes_mean_a_language(code: str, names: str) -> None:
    assert {name: language_code(name) for name in names.split()} == dict.fromkeys(names.split(), code)


@pytest.mark.parametrize(
    "name, told",
    [
        ("auto", "leave it out"),
        ("Multilingual", "leave it out"),
        ("spainsh", r"closest are es \(spanish\)"),
        ("xx", "expected a code such as en"),
        ("", "expected a code such as en"),
        (None, "unknown language None"),
    ],
)
def test_what_is_no_language_is_told_with_what_may_be_meant(name: object, told: str) -> None:
    with pytest.raises(UnknownLanguageError, match=told):
        language_code(name)

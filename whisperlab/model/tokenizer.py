"""Whisper's multilingual tokenizer: text to token ids and back, special tokens, and words.

It gives the same tokens as openai-whisper's, from which rules and vocabulary are taken (licence in ``data/``).
"""

from __future__ import annotations

import base64
import gzip
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.model.languages import CODES

if TYPE_CHECKING:
    from tiktoken import Encoding

_VOCABULARY = Path(__file__).parent / "data" / "multilingual.tiktoken.gz"
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_N_TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 20 ms
_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}  # languages written without spaces between words
_REPLACEMENT = "\ufffd"  # stands for bytes that are not a whole character

# Symbols of annotations such as "[DAVID]" or "♪♪♪". The decoder never produces them.
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
# U+2640 to U+267F share their first two bytes: their first token may be suppressed even if there are several.
_MUSIC = "♩♪♫♬♭♮♯"


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """The multilingual tokenizer, set to transcribe one language."""

    encoding: Encoding
    language: str
    all_language_codes: tuple[str, ...]
    all_language_tokens: tuple[int, ...]  # in the order of the codes
    sot_sequence: tuple[int, ...]  # the tokens before the text: start of transcript, language, task
    sot: int  # start of transcript
    eot: int  # end of the text
    sot_prev: int  # start of the prompt, which is earlier text
    no_speech: int  # the window holds no speech
    no_timestamps: int  # the transcript has no timestamps
    timestamp_begin: int  # 0.00 s; all ids from here on are timestamps

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return self.encoding.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids. Timestamp tokens are left out, other special tokens are kept."""
        return self.encoding.decode([token for token in tokens if token < self.timestamp_begin])

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of speaker tags and annotations, sorted; of hyphens and apostrophes only those that begin a word."""
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in (*_SYMBOLS, *_MUSIC):
            for tokens in (self.encode(symbol), self.encode(f" {symbol}")):
                if len(tokens) == 1 or symbol in _MUSIC:
                    found.add(tokens[0])
        return tuple(sorted(found))

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Texts and tokens of the words, which begin at a space, punctuation or special token (else: characters)."""
        words: list[str] = []
        of_words: list[list[int]] = []
        for text, group in self._characters(tokens):
            begins = group[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if begins or not words or self.language in _WITHOUT_SPACES:
                words.append("")
                of_words.append([])
            words[-1] += text
            of_words[-1] += group
        return words, of_words

    def _characters(self, tokens: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """The shortest runs of tokens that decode to whole characters."""
        whole, offset = self.encoding.decode(tokens), 0
        group: list[int] = []
        for token in tokens:
            group.append(token)
            text = self.encoding.decode(group)
            cut = text.find(_REPLACEMENT)
            if cut < 0 or whole[offset + cut] == _REPLACEMENT:  # else the text itself holds the character
                yield text, group
                group = []
                offset += len(text)


@lru_cache(maxsize=128)
def tokenizer_for(language: str, n_languages: int = 99) -> Tokenizer:
    """The tokenizer of a model with so many languages, set to transcribe (never translate) one that it knows."""
    codes = CODES[:n_languages]
    if language not in codes:
        raise ValueError(f"language must be one of {len(codes)} codes of Whisper, got {language!r}")
    encoding = _encoding(n_languages)

    def special(name: str) -> int:
        return encoding.encode_single_token(f"<|{name}|>")

    sot = special("startoftranscript")
    return Tokenizer(
        encoding,
        language,
        codes,
        all_language_tokens=tuple(map(special, codes)),
        sot_sequence=(sot, special(language), special("transcribe")),
        sot=sot,
        eot=special("endoftext"),
        sot_prev=special("startofprev"),
        no_speech=special("nospeech"),
        no_timestamps=special("notimestamps"),
        timestamp_begin=special("0.00"),
    )


@lru_cache
def _encoding(n_languages: int) -> Encoding:
    """The vocabulary and, after it, the special tokens."""
    import tiktoken

    lines = gzip.decompress(_VOCABULARY.read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    names = [
        *("endoftext", "startoftranscript"),
        *CODES[:n_languages],
        *("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"),
        *(f"{step * 0.02:.2f}" for step in range(_N_TIMESTAMPS)),
    ]
    special = {f"<|{name}|>": len(ranks) + number for number, name in enumerate(names)}
    return tiktoken.Encoding(
        name="multilingual.tiktoken",
        explicit_n_vocab=len(ranks) + len(special),
        pat_str=_PATTERN,
        mergeable_ranks=ranks,
        special_tokens=special,
    )

"""Whisper's tokenizers: text to token ids and back, special tokens, and words.

It gives the same tokens as openai-whisper's, from which rules and vocabulary are taken (licence in ``data/``).
"""

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

_DATA = Path(__file__).parent / "data"
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_N_TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 20 ms
_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}  # languages written without spaces between words
# Languages with 0.9 to 2.8 tokens per letter. Others have 0.2 to 0.8, or one character per syllable.
_INDIC = {"as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "pa", "sa", "si", "ta", "te"}
_MANY_TOKENS = _INDIC | {"am", "bo", "hy", "ka", "km", "lo", "my", "th"}
_ENCODING_BYTES = 2**25  # more than an encoding takes
REPLACEMENT = "\ufffd"  # stands for bytes that are not a whole character

# Symbols of annotations such as "[DAVID]" or "♪♪♪". The decoder never produces them.
_SYMBOLS = (_DATA / "symbols.txt").read_text(encoding="utf-8").split()
# U+2640 to U+267F share their first two bytes: their first token may be suppressed even if there are several.
_MUSIC = "♩♪♫♬♭♮♯"


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer, set to transcribe one language."""

    encoding: "Encoding"
    language: str
    all_language_codes: tuple[str, ...]
    all_language_tokens: tuple[int, ...]  # in the order of the codes
    sot_sequence: tuple[int, ...]  # the tokens before the text: start, then language and task if there are several
    sot: int  # start of transcript
    eot: int  # end of the text
    no_speech: int  # the window holds no speech
    no_timestamps: int  # the transcript has no timestamps
    timestamp_begin: int  # 0.00 s; the ids from here on are timestamps
    added: tuple[int, ...] = ()  # text that a fine-tune added, among the timestamps or after them

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return self.encoding.encode(text, disallowed_special=())

    @property
    def density(self) -> int:
        """How many times more tokens a second of speech can take than in a language of Latin script."""
        return 3 if self.language in _MANY_TOKENS else 1

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids. Timestamp tokens are left out, other special tokens are kept."""
        return self.encoding.decode([one for one in tokens if one < self.timestamp_begin or one in self.added])

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
            cut = text.find(REPLACEMENT)
            if cut < 0 or whole[offset + cut] == REPLACEMENT:  # else the text itself holds the character
                yield text, group
                group = []
                offset += len(text)


@lru_cache(maxsize=128)
def tokenizer_for(language: str, n_languages: int = 99, added: tuple[tuple[int, str], ...] = ()) -> Tokenizer:
    """The tokenizer of a model with so many languages, set to transcribe (never translate) one that it knows.

    One language is English, with a vocabulary of its own. ``added`` are ids and texts of a fine-tune's own tokens:
    behind Whisper's, or in place of timestamps, which older tokenizers of Hugging Face leave out.
    """
    codes = CODES[:n_languages]
    if language not in codes:
        raise ValueError(f"language must be one of {len(codes)} codes of Whisper, got {language!r}")
    encoding = _encoding(n_languages, added)

    def special(name: str) -> int:
        return encoding.encode_single_token(f"<|{name}|>")

    sot, no_timestamps = special("startoftranscript"), special("notimestamps")
    language_and_task = (special(language), special("transcribe")) if n_languages > 1 else ()
    return Tokenizer(
        encoding,
        language,
        codes,
        all_language_tokens=tuple(map(special, codes)),
        sot_sequence=(sot, *language_and_task),
        sot=sot,
        eot=special("endoftext"),
        no_speech=special("nospeech"),
        no_timestamps=no_timestamps,
        timestamp_begin=no_timestamps + 1,
        added=tuple(number for number, _ in added if number > no_timestamps),
    )


@lru_cache
def _encoding(n_languages: int, added: tuple[tuple[int, str], ...]) -> "Encoding":
    """The vocabulary and, after it, the special tokens."""
    import tiktoken

    vocabulary = "multilingual.tiktoken" if n_languages > 1 else "gpt2.tiktoken"
    lines = gzip.decompress((_DATA / f"{vocabulary}.gz").read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    names = [
        *("endoftext", "startoftranscript"),
        *CODES[: n_languages if n_languages > 1 else 99],  # the English vocabulary has them too
        *("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"),
        *(f"{step * 0.02:.2f}" for step in range(_N_TIMESTAMPS)),
    ]
    texts = {len(ranks) + number: f"<|{name}|>" for number, name in enumerate(names)}
    texts |= {number: text for number, text in added if number >= len(ranks) + len(names) - _N_TIMESTAMPS}
    special = {text: number for number, text in texts.items()}
    bytearray(_ENCODING_BYTES)  # raises MemoryError if memory is short, where tiktoken (Rust) would end the process
    return tiktoken.Encoding(vocabulary, pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=special)

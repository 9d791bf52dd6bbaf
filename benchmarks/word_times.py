"""Errors of word times: the transcriber's words against a forced alignment of the true text, on the dev recordings.

The reference is openai-whisper's own alignment (`whisper.timing.find_alignment`): the true text of each segment is
forced through the model, with the segment alone padded to 30 s. Words are matched by their letters, in order. It shares
the model with what is measured, so it shows what streaming adds: short windows, words that were cut, wrong text beside
them. Prints median and p95 of the absolute error of starts and ends, in seconds, by corpus.

    python -m benchmarks.word_times --corpora ivr-five,ivr-en-es
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from difflib import SequenceMatcher

import numpy as np
from tqdm import tqdm
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.model import Whisper
from whisper.timing import find_alignment
from whisper.tokenizer import get_tokenizer

from benchmarks.reference_model import load_model
from whisperlab.data import Recording, load
from whisperlab.evaluation.trace import ReferenceSegment, capture
from whisperlab.streaming.decoding import MEANINGFUL
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE, samples

Timed = tuple[str, float, float]  # letters, start and end in seconds


def letters(word: str) -> str:
    return "".join(MEANINGFUL.findall(word.casefold()))


def aligned(model: Whisper, audio: FloatArray, segment: ReferenceSegment) -> Iterator[Timed]:
    """The words of a reference segment with times in the recording."""
    tokenizer = get_tokenizer(multilingual=True, language=segment.lang, task="transcribe")
    spoken = audio[samples(segment.start) : samples(segment.end)]
    mel = log_mel_spectrogram(pad_or_trim(spoken))
    tokens = tokenizer.encode(f" {segment.text.strip()}")
    for word in find_alignment(model, tokenizer, tokens, mel, len(spoken) * 100 // SAMPLE_RATE):
        if letters(word.word):
            yield letters(word.word), segment.start + word.start, segment.start + word.end


def errors(recording: Recording, model: Whisper, transcriber: SessionRestartTranscriber) -> tuple[list[Timed], int]:
    """Start and end errors of the words that both have, and the number of true words."""
    audio = recording.audio()
    transcriber.reset()
    trace = capture(transcriber, audio, recording=recording.id)
    found = [(letters(w.word), w.start, w.end) for segment in trace.segments for w in segment.words]
    true = [word for segment in recording.segments for word in aligned(model, audio, segment)]
    matcher = SequenceMatcher(None, [word[0] for word in true], [word[0] for word in found], autojunk=False)
    pairs = [(true[i + k], found[j + k]) for i, j, n in matcher.get_matching_blocks() for k in range(n)]
    return [(a[0], abs(a[1] - b[1]), abs(a[2] - b[2])) for a, b in pairs], len(true)


def main() -> None:
    """Print a line per corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", default="ivr-five,ivr-en-es")
    parser.add_argument("--limit", type=int, help="recordings of each corpus (default: all)")
    arguments = parser.parse_args()
    model = load_model("base")
    for name in arguments.corpora.split(","):
        recordings = load(name, "dev")[: arguments.limit]
        languages = sorted({segment.lang for recording in recordings for segment in recording.segments})
        transcriber = SessionRestartTranscriber(model, languages=languages)
        all_errors, n_true = [], 0
        for recording in tqdm(recordings, desc=name, unit="recording"):
            found, n = errors(recording, model, transcriber)
            all_errors, n_true = all_errors + found, n_true + n
        told = ", ".join(
            f"{what} median {np.median(values):.2f} s, p95 {np.quantile(values, 0.95):.2f} s"
            for what, values in (("start", [e[1] for e in all_errors]), ("end", [e[2] for e in all_errors]))
        )
        print(f"{name} dev: {told}; n = {len(all_errors)} of {n_true} true words, {len(recordings)} recordings")


if __name__ == "__main__":
    main()

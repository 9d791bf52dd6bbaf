"""Words lost or doubled at restarts, and how well confidence separates correct words from wrong ones.

    python benchmarks/restarts.py --corpus ivr-en-es --split test

*Lost or doubled*: the stream gets the true switches (mode oracle). Its text is compared with that of each reference
segment decoded separately; words missing or added within two words of a switch count.
*Confidence*: in mode auto every word has the confidence of its segment. The area under the ROC is the probability
that a correct word has a higher confidence than a wrong one (0.5: useless, 1: perfect).
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.language_window.calibration import expected_calibration_error
from whisperlab import SessionRestartTranscriber, data
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import align, units
from whisperlab.evaluation.scoring.text import TextCounts, switch_text, text_counts
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace, capture
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model import weights
from whisperlab.model.engine import prepared
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder, text_of
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.statistics import central, resamples
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import samples


def alone(decoder: SpeechDecoder, audio: FloatArray, segment: ReferenceSegment) -> ReferenceSegment:
    """The segment with the text that the same decoder finds in it alone."""
    clip = audio[samples(segment.start) : samples(segment.end)]
    said = text_of(decoder.decode(clip, 0, segment.lang).words)
    return ReferenceSegment(segment.start, segment.end, segment.lang, said)


def text(trace: Trace) -> str:
    """All final text in order of time."""
    return " ".join(segment.text for segment in sorted(trace.segments, key=lambda s: s.start_time))


def word_confidence(trace: Trace, reference: Reference) -> list[tuple[float, bool]]:
    """Confidence of each word, and whether it is correct."""
    ordered = sorted(trace.segments, key=lambda s: s.start_time)
    confidence = [s.confidence for s in ordered for _ in units(s.text)]
    steps = [step for step in align(reference, text(trace)) if step.hypothesis is not None]
    return [(c, step.kind == "hit") for c, step in zip(confidence, steps, strict=True)]


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The probability that a ``positive`` item scores above a negative one; equal scores count half.

    >>> area_under_roc(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    above, below = scores[positive], np.sort(scores[~positive])
    lower, not_higher = np.searchsorted(below, above), np.searchsorted(below, above, side="right")
    return float((lower + not_higher).sum() / (2 * len(above) * len(below)))


def main() -> None:
    """Print both figures with 95 % intervals over recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="ivr-five")
    parser.add_argument("--split", default="dev")
    arguments = parser.parse_args()
    recordings: list[Recording] = data.load(arguments.corpus, arguments.split)
    languages = sorted({code for recording in recordings for code in recording.languages})
    model = weights.load_weights("base")
    decoder = SpeechDecoder(*prepared(model), DecodingOptions(), PerformanceMetrics())
    near: list[TextCounts] = []
    every: list[TextCounts] = []
    told: list[list[tuple[float, bool]]] = []
    for recording in tqdm(recordings, unit="recording"):
        audio, reference = recording.audio(), Reference.from_dict(recording.reference)
        with torch_threads(THREADS):
            whole = tuple(alone(decoder, audio, segment) for segment in reference.segments)
        turns = [(0.0, whole[0].lang), *((segment.start, segment.lang) for segment in whole[1:])]
        oracle = capture(SessionRestartTranscriber(model, oracle=turns), audio, recording=recording.id)
        steps = align(Reference(" ".join(s.text for s in whole), whole), text(oracle))
        near.append(switch_text(steps).counts)
        every.append(sum(text_counts(steps).values(), TextCounts()))
        auto = SessionRestartTranscriber(model, languages=languages)
        told.append(word_confidence(capture(auto, audio, recording=recording.id), reference))
    rng = np.random.default_rng(0)
    draws = [range(len(recordings)), *resamples(len(recordings), rng, 1000)]

    def shown(name: str, values: list[float], n: int) -> None:
        low, high = central(values[1:])
        print(f"{name}: {values[0]:.3f} ({low:.3f}-{high:.3f}), n = {n:,} words")

    n_words = sum(counts.reference_words for counts in every)
    shown(
        "words lost or doubled at restarts, of all words",
        [
            sum(near[i].deletions + near[i].insertions for i in draw) / sum(every[i].reference_words for i in draw)
            for draw in draws
        ],
        n_words,
    )
    columns = [[np.array(column) for column in zip(*(w for i in draw for w in told[i]), strict=True)] for draw in draws]
    shown("area under the ROC of confidence", [area_under_roc(c, right) for c, right in columns], len(columns[0][0]))
    shown(
        "expected calibration error of confidence",
        [expected_calibration_error(c, right) for c, right in columns],
        len(columns[0][0]),
    )


if __name__ == "__main__":
    main()

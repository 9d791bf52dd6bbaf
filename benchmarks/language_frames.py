"""Every language-ID window of a corpus with its posterior, computed once and cached.

The benchmarks of cache keys and smoothers share these frames. There is a window for every 100 ms of speech. Files
are in WHISPERLAB_CACHE/benchmarks, named by a digest of everything they depend on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import whisperlab
from whisperlab import SessionRestartTranscriber, data
from whisperlab.evaluation.trace import Reference
from whisperlab.model import weights
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.smoothing import WindowPosterior
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE, Span
from whisperlab.util.timing import feed

SOURCES = (
    "model/encoder.py",
    "model/linear.py",
    "model/text_decoder.py",
    "streaming/context.py",
    "streaming/language_id.py",
    "streaming/language_probe.py",
    "streaming/stream.py",
    "streaming/vad.py",
)  # the code that a posterior depends on


@dataclass(slots=True, frozen=True)
class Recording:
    """A recording with its windows (ends and lengths in samples) and their posteriors (windows, languages).

    ``onset_lengths`` and ``onset_posteriors`` belong to the windows since the last pause; length 0 for none.
    """

    audio: FloatArray
    reference: Reference
    languages: tuple[str, ...]
    ends: np.ndarray
    lengths: np.ndarray
    posteriors: np.ndarray
    onset_lengths: np.ndarray
    onset_posteriors: np.ndarray

    def windows(self, index: int) -> list[WindowPosterior]:
        """The windows of a frame with their posteriors: the first, and that since the last pause if there is one."""
        end, onset = int(self.ends[index]), int(self.onset_lengths[index])
        found = [WindowPosterior(self.window(index), self.posteriors[index])]
        if onset:
            found.append(WindowPosterior(Span(end - onset, end), self.onset_posteriors[index]))
        return found

    def window(self, index: int) -> Span:
        return Span(int(self.ends[index] - self.lengths[index]), int(self.ends[index]))


def load(corpus: str, split: str, *, english_bias: float | None = None) -> list[Recording]:
    """All recordings of a split. The first time this encodes every window: some minutes."""
    recordings = data.load(corpus, split)
    languages = sorted({code for recording in recordings for code in recording.languages})
    lid = LanguageIdOptions(confident_hop_factor=1, **({} if english_bias is None else {"english_bias": english_bias}))
    transcriber = SessionRestartTranscriber(languages=languages, decode=False, key="span", language_id=lid)
    folder = weights.cache_dir() / "benchmarks"
    found = []
    for recording in tqdm(recordings, desc=f"frames of {corpus} {split}", unit="recording"):
        audio = recording.audio()
        path = folder / f"frames-{_digest(transcriber, audio)}.npz"
        if not path.exists():
            _compute(transcriber, audio, path)
        with np.load(path) as kept:
            arrays = {name: kept[name] for name in kept.files}
        reference = Reference.from_dict(recording.reference)
        found.append(Recording(audio, reference, tuple(languages), **arrays))
    return found


def _compute(transcriber: SessionRestartTranscriber, audio: FloatArray, path: Path) -> None:
    transcriber.reset()
    frames = [frame for result in feed(transcriber, audio, SAMPLE_RATE) for frame in result.frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        ends=np.array([frame.end for frame in frames]),
        lengths=np.array([frame.window for frame in frames]),
        posteriors=np.array([[*frame.posterior.values()] for frame in frames]),
        onset_lengths=np.array([frame.onset.window if frame.onset else 0 for frame in frames]),
        onset_posteriors=np.array([[*(frame.onset or frame).posterior.values()] for frame in frames]),
    )
    partial.replace(path)


def _digest(transcriber: SessionRestartTranscriber, audio: FloatArray) -> str:
    folder = Path(whisperlab.__file__).parent
    config = {name: transcriber.config()[name] for name in ("model", "compute", "languages", "vad", "language_id")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    digest.update(audio.tobytes())
    return digest.hexdigest()[:24]

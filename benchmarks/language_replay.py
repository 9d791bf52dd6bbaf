"""Language-ID settings on the whole pipeline without text, replayed from stored logits: a minute of speech in a second.

    python benchmarks/language_replay.py ivr-five ivr-en-es ivr-fr
    python benchmarks/language_replay.py ivr-five --told 17 all --set language_id.english_bias=0

The first run encodes each window and stores its logits of all languages and the probabilities of the voice activity
detector in WHISPERLAB_CACHE/benchmarks. Later runs compute only windows that no run before them had. A corpus is a
name or a manifest. Prints a line per corpus, allowed languages and setting: switch rates, and the share of speech
whose frames have a wrong label, of all and from 30 s on. Choose on dev.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisperlab import SessionRestartTranscriber, data
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import Score, pooled, score
from whisperlab.evaluation.scoring.language import UNLABELLED, LabelTime, frame_labels, label_time
from whisperlab.evaluation.trace import Reference
from whisperlab.model import weights
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.engine import prepared
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.results import Switch
from whisperlab.streaming.silero import SileroDetector
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.timing import feed

# Whisper's first 17 languages: those with the most training data.
SEVENTEEN = ["en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id"]
LATE_S = 30.0  # most recordings of the corpora last 40 to 90 s
TOLD = ("own", "five", "17", "all")
SHOWN = {
    "switch_f1_at_1": "F1@1",
    "decision_delay_found_p50": "p50",
    "decision_delay_found_p95": "p95",
    "false_switches_per_hour": "false/h",
}


class Store:
    """Logits by window, and probabilities by recording and detector, in one file per model."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.logits = path, dict[bytes, int](), list[np.ndarray]()
        self.voice: dict[str, list[float]] = defaultdict(list)
        self.recording, self._detectors = "", 0
        self.computed = 0
        if path.exists():
            with np.load(path) as kept:
                self.logits = list(kept["logits"])
                self.rows = {bytes(key): row for row, key in enumerate(kept["keys"])}
                self.voice |= {name: kept[name].tolist() for name in kept.files if "|" in name}

    def save(self) -> None:
        """Write everything to the file."""
        if not self.computed:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.array([np.frombuffer(key, np.uint8) for key in self.rows])
        partial = self.path.with_suffix(".partial.npz")
        np.savez(partial, keys=keys, logits=np.array(self.logits, np.float32), **self.voice)
        partial.replace(self.path)
        self.computed = 0

    def parts(self) -> Parts:
        """The parts of a transcriber that answer from this store."""
        return Parts(engine=self._engine, voice_detector=self._detector)

    def _engine(self, model: Any, precision: str | None, split: int | None) -> Any:
        encoder, decoder = prepared(model, precision, split)
        return StoredEncoder(encoder, decoder, self), StoredDecoder(decoder, self)

    def _detector(self) -> StoredDetector:
        self._detectors += 1
        return StoredDetector(self, f"{self._detectors % 2}")


class StoredEncoder:
    """An encoder whose features are the row of a window's logits in the store."""

    def __init__(self, encoder: ShortWindowEncoder, decoder: TextDecoder, store: Store) -> None:
        self._encoder, self._decoder, self._store = encoder, decoder, store
        tokenizer = tokenizer_for("en")
        self._sot, self._tokens = tokenizer.sot, torch.tensor(tokenizer.all_language_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def with_own_counts(self) -> StoredEncoder:
        """Counts are not of interest here."""
        return self

    def encode_batch(self, windows: Sequence[FloatArray], margin: int, pool_after: int | None) -> list[Encoded]:
        """One feature per window: its row."""
        return [Encoded(torch.tensor([self._row(window, margin, pool_after)]), len(window)) for window in windows]

    def _row(self, window: FloatArray, margin: int, pool_after: int | None) -> int:
        store = self._store
        how = f"{margin} {pool_after} {self._encoder.precision}"
        key = hashlib.sha256(how.encode() + window.tobytes()).digest()[:16]
        if key not in store.rows:
            features = self._encoder.encode_batch([window], margin, pool_after)[0].features
            store.logits.append(self._decoder.language_logits(features, self._sot, self._tokens).astype(np.float32))
            store.rows[key] = len(store.logits) - 1
            store.computed += 1
        return store.rows[key]


class StoredDecoder:
    """A decoder that reads logits from the store."""

    def __init__(self, decoder: TextDecoder, store: Store) -> None:
        self._decoder, self._store = decoder, store
        self._columns = {token: i for i, token in enumerate(tokenizer_for("en").all_language_tokens)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def language_logits(self, features: torch.Tensor, sot: int, rows: torch.Tensor) -> np.ndarray:
        """The stored logits of the wanted languages."""
        columns = [self._columns[token] for token in rows.tolist()]
        return self._store.logits[int(features)][columns].astype(np.float64)


class StoredDetector:
    """A voice activity detector that reads what its calls returned for this recording before."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name, self._real = store, name, SileroDetector()
        self._of, self._at = "", 0

    def __call__(self, frame: np.ndarray) -> float:
        if self._of != self._store.recording:
            self._of, self._at = self._store.recording, 0
        known = self._store.voice[f"{self._of}|{self._name}"]
        if self._at == len(known):
            known.append(self._real(frame))
        self._at += 1
        return known[self._at - 1]

    def reset(self) -> None:
        """The state of the network is dropped; the calls count on."""
        self._real.reset()


@dataclass(frozen=True)
class Replayed:
    """The score of a recording, the labels of its frames (all, and those from `LATE_S` on), and its switches."""

    score: Score
    labels: LabelTime
    late: LabelTime
    switches: tuple[Switch, ...]


class Replay:
    """Scores of configurations on recordings."""

    def __init__(self, path: Path | None = None) -> None:
        self.weights = weights.load_weights("base")
        self.store = Store(path or weights.cache_dir() / "benchmarks" / "language-replay.npz")

    def scores(
        self, recordings: Iterable[Recording], languages: Sequence[str] | None, options: dict[str, Any]
    ) -> list[Replayed]:
        """What was found in each recording."""
        made = SessionRestartTranscriber(self.weights, languages, decode=False, parts=self.store.parts(), **options)
        found = []
        for recording in recordings:
            self.store.recording = recording.id
            made.reset()
            results = list(feed(made, recording.audio(), SAMPLE_RATE))
            frames = [frame for result in results for frame in result.frames]
            switches = tuple(switch for result in results for switch in result.switches)
            reference = Reference.from_dict(recording.reference)
            scored = score(reference, (), switches, duration=recording.duration)
            labels = frame_labels(frames)
            late = [label for label in labels if label.start >= LATE_S]
            found.append(Replayed(scored, *(label_time(reference, part) for part in (labels, late)), switches))
        return found


def allowed(told: str, recordings: Sequence[Recording]) -> list[str] | None:
    """The languages that a transcriber is told."""
    own = sorted({code for recording in recordings for code in recording.languages})
    five = sorted({"en", "es", "fr", "it", "ru", *own})
    told_of = {"own": own if len(own) > 1 else five, "five": five, "17": sorted({*SEVENTEEN, *own})}
    return told_of.get(told)


def row(found: Sequence[Replayed]) -> list[float]:
    """The rates of `SHOWN`, and the percentage of labelled speech whose label is wrong, of all and of late frames."""
    rates = pooled([one.score for one in found]).rates()
    return [
        *(float(rates[name] or 0) for name in SHOWN),
        wrong_percent([one.labels for one in found]),
        wrong_percent([one.late for one in found]),
    ]


def wrong_percent(labels: Iterable[LabelTime]) -> float:
    """The percentage of the speech with a label whose label is wrong."""
    wrong = total = 0.0
    for one in labels:
        for true, times in one.items():
            known = sum(time_s for label, time_s in times.items() if label != UNLABELLED)
            total, wrong = total + known, wrong + known - times.get(true, 0.0)
    return 100 * wrong / max(total, 1e-9)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", help="names of corpora, or manifests")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--told", nargs="+", choices=TOLD, default=["own", "17", "all"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="options, dotted names")
    arguments = parser.parse_args()
    options = {name: json.loads(value) for name, _, value in (one.partition("=") for one in arguments.set)}
    replay = Replay()
    print(
        f"{'corpus':<16}{'told':<6}{'n':>3}" + "".join(f"{name:>9}" for name in (*SHOWN.values(), "wrong %", "late %"))
    )
    for corpus in arguments.corpora:
        recordings = data.load(corpus, arguments.split)
        for told in arguments.told:
            cells = row(replay.scores(recordings, allowed(told, recordings), options))
            replay.store.save()
            print(
                f"{Path(corpus).stem:<16}{told:<6}{len(recordings):>3}" + "".join(f"{cell:9.2f}" for cell in cells),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Language-ID accuracy by window length and trailing silence, on real speech: the whole curve.

    python -m benchmarks.language_window --split dev     # choose here
    python -m benchmarks.language_window --split test    # report here

Windows of 0.5 to 5 s lie within one language block, every half second of it, followed by 0 to 2 s of silence; every
fourth is also padded to 30 s. Rules: all 99 languages or those of the corpus, with and without the English bias.
Positions are pooled in pairs before the first encoder block, after the third, or not at all; each pooling is a pass.
Costs are relative to 2.5 + 0.5 s. Logits are cached per recording in WHISPERLAB_CACHE/benchmarks, so a stopped run
continues. There are two tables: all places where a window fits, and only those where the longest fits.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.language_window import windows
from benchmarks.language_window.calibration import best_temperature, expected_calibration_error
from benchmarks.language_window.windows import (
    Condition,
    Place,
    WindowLogits,
    WindowScorer,
    concatenate,
    measure,
    places,
)
from whisperlab import data
from whisperlab.evaluation.trace import provenance
from whisperlab.model import encoder, linear, text_decoder, weights
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.util.audio_arrays import audio_digest
from whisperlab.util.statistics import central, median_interval, resamples

SOURCES = (windows, encoder, linear, text_decoder)  # the code that logits depend on
CORPORA = ("ivr-five", "ivr-en-es")
WINDOWS_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
SILENCES_S = (0.0, 0.5, 1.0, 2.0)
PADDED_S = 30.0
HOP_S, PADDED_HOP_S = 0.5, 2.0
BESIDE = (2.5, 0.5)  # window and silence that the costs of a pass are relative to
POOLED: dict[str, int | None] = {"pooled before block 1": 0, "pooled after block 3": 3, "not pooled": None}


@dataclass(slots=True, frozen=True)
class Pass:
    """Conditions that take turns every ``hop_s`` of speech; costs are relative to the first."""

    name: str
    conditions: tuple[Condition, ...]
    hop_s: float


def passes() -> list[Pass]:
    """One per pooling, and one with windows padded to 30 s whose costs are relative to the cheapest pooling."""
    grid = [(w, s) for w in WINDOWS_S for s in SILENCES_S if (w, s) != BESIDE]
    found = [
        Pass(name, tuple(Condition(*cell, pool) for cell in (BESIDE, *grid)), HOP_S) for name, pool in POOLED.items()
    ]
    padded = (Condition(*BESIDE, 0), *(Condition(w, PADDED_S, None) for w in WINDOWS_S))
    return [*found, Pass("padded", padded, PADDED_HOP_S)]


def load(corpus: str, split: str, listener: WindowScorer, model: str, one: Pass) -> dict[Condition, WindowLogits]:
    """The logits of a corpus in a pass, computed per recording unless cached."""
    parts = []
    for recording in tqdm(data.load(corpus, split), desc=f"{corpus} {split}, {one.name}", unit="recording"):
        where = places([recording], min(WINDOWS_S), one.hop_s)
        path = _path(recording, where, one.conditions, listener, model)
        if not path.exists():
            total = sum(place.fits(condition) for place in where for condition in one.conditions)
            with tqdm(total=total, desc=recording.id, unit="window", leave=False) as bar:
                _keep(path, measure(listener, [recording], where, one.conditions, bar.update))
        parts.append(_kept(path, where, one.conditions, listener.languages))
    return {condition: concatenate(part[condition] for part in parts) for condition in one.conditions}


def _path(
    recording: data.Recording,
    where: Sequence[Place],
    conditions: Sequence[Condition],
    listener: WindowScorer,
    model: str,
) -> Path:
    digest = hashlib.sha256(audio_digest(recording.audio()).encode())
    digest.update(repr((model, listener.precision, where, conditions)).encode())
    for module in SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return weights.cache_dir() / "benchmarks" / f"windows-{digest.hexdigest()[:24]}.npz"


def _keep(path: Path, heard: Mapping[Condition, WindowLogits]) -> None:
    arrays = {}
    for number, part in enumerate(heard.values()):
        arrays[f"ends-{number}"] = np.array([place.end for place in part.places])
        arrays[f"logits-{number}"] = part.logits.astype(np.float32)
        arrays[f"encoder-{number}"] = part.encoder_s
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def _kept(
    path: Path, where: Sequence[Place], conditions: Sequence[Condition], languages: tuple[str, ...]
) -> dict[Condition, WindowLogits]:
    at = {place.end: place for place in where}
    with np.load(path) as kept:
        return {
            condition: WindowLogits(
                languages,
                tuple(at[end] for end in kept[f"ends-{number}"].tolist()),
                kept[f"logits-{number}"].astype(float),
                kept[f"encoder-{number}"],
            )
            for number, condition in enumerate(conditions)
        }


def rows(
    corpus: str, name: str, heard: Mapping[Condition, WindowLogits], allowed: Sequence[str]
) -> Iterator[dict[str, object]]:
    """A row per condition and choice of places: accuracies with intervals, cost, calibration."""
    longest, beside = Condition(max(WINDOWS_S), 0), next(iter(heard.values()))
    for condition, every in heard.items():
        same = every.at([place.fits(longest) for place in every.places])
        for choice, chosen in (("every place", every), ("same places", same)):
            yield {
                "corpus": corpus,
                "pass": name,
                "places": choice,
                "window_s": condition.window_s,
                "silence_s": condition.silence_s,
                "pool_after": condition.pool_after,
                "n": len(chosen),
                "blocks": len({(place.recording, place.block) for place in chosen.places}),
                "recordings": len({place.recording for place in chosen.places}),
                "accuracy": {rule: accuracy(chosen, *what) for rule, what in rules(allowed).items()},
                "encoder": cost(chosen, beside),
                "calibration": calibration(chosen, allowed),
            }


def rules(allowed: Sequence[str]) -> dict[str, tuple[Sequence[str] | None, float]]:
    """Allowed languages and English bias by rule."""
    bias = LanguageIdOptions().english_bias
    return {
        "all": (None, 0.0),
        "all, English bias subtracted": (None, bias),
        "allowed": (allowed, 0.0),
        "allowed, English bias subtracted": (allowed, bias),
    }


def accuracy(heard: WindowLogits, allowed: Sequence[str] | None, english_bias: float) -> dict[str, object]:
    """Accuracy with its interval over recordings, balanced over languages, and by language."""
    right = heard.correct(allowed, english_bias)
    spoken = np.array([place.language for place in heard.places])
    by_language = {language: float(right[spoken == language].mean()) for language in np.unique(spoken).tolist()}
    _, recording = np.unique([place.recording for place in heard.places], return_inverse=True)
    counts = np.stack([np.bincount(recording, right), np.bincount(recording)], axis=1)
    drawn = counts[resamples(len(counts), np.random.default_rng(0))].sum(axis=1)
    return {
        "right": int(right.sum()),
        "share": float(right.mean()),
        "interval": central(drawn[:, 0] / drawn[:, 1]),
        "balanced": float(np.mean(list(by_language.values()))),
        "by_language": by_language,
    }


def cost(heard: WindowLogits, beside: WindowLogits) -> dict[str, object]:
    """Median milliseconds of the encoder, and the ratio to another condition at the same place."""
    other = dict(zip(beside.places, beside.encoder_s.tolist(), strict=True))
    pairs = zip(heard.places, heard.encoder_s.tolist(), strict=True)
    ratios = [took / other[place] for place, took in pairs if place in other]
    times, low, high = median_interval(ratios)
    ms = float(np.median(heard.encoder_s) * 1000)
    return {"ms": ms, "times": times, "interval": [low, high], "n": len(ratios)}


def calibration(heard: WindowLogits, allowed: Sequence[str]) -> dict[str, object]:
    """Calibration error on half of the recordings; the temperature is the best for the other half."""
    bias = LanguageIdOptions().english_bias
    fitted, judged = heard.halves()
    temperature = best_temperature(fitted.masked(allowed), fitted.truth, fitted.log_prior(bias))
    errors = {}
    for name, degree in (("error", 1.0), ("error_at_best", temperature)):
        rule = allowed, bias, degree
        confidence = judged.posteriors(*rule).max(axis=1)
        errors[name] = expected_calibration_error(confidence, judged.correct(*rule))
    return {"temperature": temperature, "n": len(judged), **errors}


def table(found: Sequence[Mapping[str, Any]], corpus: str, choice: str, rule: str) -> str:
    """Balanced accuracy in per cent by window (down) and silence (across), a block of lines for each pass."""
    chosen = [row for row in found if (row["corpus"], row["places"]) == (corpus, choice)]
    lines = [f"\n{corpus}, {choice}, {rule}: mean of the languages, % right"]
    for one in passes():
        cells = {(row["window_s"], row["silence_s"]): row for row in chosen if row["pass"] == one.name}
        silences = sorted({silence for _, silence in cells})
        lines.append(f"{one.name:<24}" + "".join(f"{f'+ {silence:g} s':>9}" for silence in silences))
        for window in WINDOWS_S:
            line = [cells.get((window, silence)) for silence in silences]
            shares = [f"{row['accuracy'][rule]['balanced']:9.1%}" if row else " " * 9 for row in line]
            sizes = sorted({row["n"] for row in line if row})
            lines.append(f"{window:20g} s  {''.join(shares)}   n {', '.join(map(str, sizes))}")
    return "\n".join(lines)


def main() -> None:
    """Collect, print the tables, write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="base")
    parser.add_argument("--out", type=Path, help="default: reports/language-window-SPLIT.json")
    arguments = parser.parse_args()
    listener = WindowScorer(weights.load_weights(arguments.model))
    found: list[dict[str, object]] = []
    for corpus in CORPORA:
        recordings = data.load(corpus, arguments.split)
        allowed = sorted({code for recording in recordings for code in recording.languages})
        for one in passes():
            heard = load(corpus, arguments.split, listener, arguments.model, one)
            found += rows(corpus, one.name, heard, allowed)
        for choice, rule in itertools.product(("every place", "same places"), rules(allowed)):
            print(table(found, corpus, choice, rule), flush=True)
    out = arguments.out or Path("reports") / f"language-window-{arguments.split}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "split": arguments.split,
        "model": arguments.model,
        "precision": listener.precision,
        "english_bias": LanguageIdOptions().english_bias,
        "hop_s": HOP_S,
        "rows": found,
        **provenance(),
    }
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"\n{out}")


if __name__ == "__main__":
    main()

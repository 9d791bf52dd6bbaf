"""How costs grow: with window, batch, languages, model and stream (notebook 05), and with the length held (06)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.figures import Point
from whisperlab.buffer import RingBuffer
from whisperlab.experiments.ablation import CHUNK_MS, Models, chunk_times
from whisperlab.experiments.microbenchmarks import CHUNK, ROUNDS, SPEECH, repeated
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.engine import prepared
from whisperlab.model.linear import Precision
from whisperlab.model.weights import Weights
from whisperlab.streaming.language_id import LanguageIdentifier, check_languages
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.statistics import median_interval
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MAX_WINDOW, samples
from whisperlab.util.timing import time_in_turns
from whisperlab.util.validation import on_threads

WINDOWS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
BATCHES = (1, 2, 4, 8)
N_LANGUAGES = (2, 5, 20, 99)
SIZES = {"tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}  # state, heads and layers of the encoder


def scaling(models: Models, speech: FloatArray, *, rounds: int = 15, stream_s: float = 60.0) -> list[Point]:
    """Cost against window length (one and two threads), batch size, languages, model size and stream length.

    Models of other sizes have random weights, which cost as much as trained ones. ``speech`` has at least 30 s; it is
    repeated if it is shorter than ``stream_s``.
    """
    encoder, stack = prepared(models.weights)
    known = check_languages(None, models.weights.n_languages)
    speech = np.resize(speech, max(len(speech), MAX_WINDOW))
    points: list[Point] = []
    for threads in (1, 2):
        with torch_threads(threads):
            line = on_threads(threads).removeprefix(" on ")
            windows = {s: partial(encoder.encode, speech[: samples(s)], 0) for s in WINDOWS_S}
            points += _curve("window, s", line, windows, rounds)
    features = encoder.encode(speech[: samples(2.0)], 0).features
    with torch_threads(THREADS):
        for window_s in (2.0, 3.0):
            batch = [speech[samples(i) : samples(i + window_s)] for i in range(max(BATCHES))]
            batches = {float(n): partial(encoder.encode_batch, batch[:n], 0) for n in BATCHES}
            points += _curve("windows in a batch (ms each)", f"{window_s:g} s", batches, rounds, each=True)
        posteriors = {float(n): partial(LanguageIdentifier(stack, known[:n]).posterior, features) for n in N_LANGUAGES}
        points += _curve("languages allowed", "posterior", posteriors, rounds)
        sizes = _sizes(models.weights, encoder.precision, speech)
        points += _curve("encoder layers x state, thousands", "2 s", sizes, rounds)
        transcriber = SessionRestartTranscriber(models.weights, languages=["en", "es"])
        took = chunk_times(transcriber, np.resize(speech, samples(stream_s)))
    part = round(10_000 / CHUNK_MS)
    for start in range(0, len(took) - part + 1, part):
        mean = float(np.mean(took[start : start + part]))
        points.append(Point("stream, s (mean of 10 s)", "default, a chunk", (start + part) / 10, mean, None, None))
    return points


def _curve(
    name: str, line: str, subjects: Mapping[float, Callable[[], object]], rounds: int, *, each: bool = False
) -> list[Point]:
    """A point per subject by its x; ``each`` divides the times by x."""
    times = time_in_turns({str(x): subject for x, subject in subjects.items()}, rounds, time.perf_counter_ns)
    return [Point(name, line, x, *median_interval([ms / (x if each else 1) for ms in times[str(x)]])) for x in subjects]


def _sizes(like: Weights, precision: Precision, speech: FloatArray) -> dict[float, Callable[[], object]]:
    """Encoding 2 s with models of several sizes, by layers times state."""
    generator = torch.Generator().manual_seed(0)
    found: dict[float, Callable[[], object]] = {}
    for state, heads, layers in SIZES.values():
        size = {"n_audio_state": state, "n_audio_head": heads, "n_audio_layer": layers}
        dims = {**like.dims, **size, "n_text_layer": 0, "n_text_state": 1}
        tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in tensor_shapes(dims)}
        encoder = ShortWindowEncoder(replace(like, dims=dims, state=tensors, mapped=False), precision)
        found[layers * state / 1000] = partial(encoder.encode, speech[: samples(2.0)], 0)
    return found


def append_curve(
    held_s: Sequence[float] = (1, 2, 5, 10, 30, 60), rounds: int | None = None, calls: int = 20
) -> list[Point]:
    """Milliseconds of one append of 100 ms by the length held: ring, np.concatenate, and a bare copy."""
    points: list[Point] = []
    place = np.empty(CHUNK, np.float32)
    for length_s in held_s:
        held, ring = np.zeros(samples(length_s), np.float32), RingBuffer(samples(length_s))
        names = {"np": np, "held": held, "ring": ring, "place": place, "speech": SPEECH}
        statements = {
            "np.concatenate": "np.concatenate([held, speech])[-len(held):]",
            "RingBuffer": "ring.append(speech)",
            "bare copy of the chunk": "place[:] = speech",
        }
        subjects = {name: repeated(code, names, calls=calls) for name, code in statements.items()}
        for name, took in time_in_turns(subjects, rounds or ROUNDS).items():
            points.append(Point("seconds held", name, length_s, *median_interval([ms / calls for ms in took])))
    return points

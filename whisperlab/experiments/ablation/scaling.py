"""The cost of one language-ID frame, and how costs grow with window, batch, languages, model and stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import torch

from whisperlab.config import TranscriberConfig
from whisperlab.experiments.ablation.timing import CHUNK_MS, chunk_times
from whisperlab.experiments.ablation.variants import Models
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.encoder import ShortWindowEncoder, positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import Precision, activations, packed_linear
from whisperlab.model.weights import Weights
from whisperlab.streaming.language_id import LanguageIdentifier, check_languages
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.statistics import Figure, Point, median_interval, ratio, summary
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MAX_WINDOW, samples
from whisperlab.util.timing import time_in_turns
from whisperlab.util.validation import on_threads

PEAK_SIZE = 1024  # of the square product that estimates the machine's peak

WINDOWS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
BATCHES = (1, 2, 4, 8)
N_LANGUAGES = (2, 5, 20, 99)
SIZES = {"tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12)}  # state, heads and layers of the encoder


def frame_figures(models: Models, languages: Sequence[str], speech: FloatArray, rounds: int = 31) -> list[Figure]:
    """A language-ID frame of 2 s beside openai-whisper's ``detect_language``, and the encoder beside the peak rate.

    All take turns, by the wall clock. The frame is ``lid.total`` of the transcriber: window, hash, mel, pooled encoder,
    posterior and smoothing. The encoder's share of the peak counts its multiplications and additions only.
    """
    import whisper

    window = np.resize(speech, samples(3))[samples(1) :]
    encoder, _ = prepared(models.weights)
    padded, model = whisper.pad_or_trim(window), models.whisper
    silence_ms, kind = TranscriberConfig().language_id.trailing_silence_ms, activations(encoder.precision)
    mel = encoder.mel([window], len(window))
    square = torch.randn(PEAK_SIZE, PEAK_SIZE).to(kind)
    peak = packed_linear(square, None, "bf16" if kind is torch.bfloat16 else "fp32")

    def frame(silence_ms: int) -> Callable[[], object]:
        config = TranscriberConfig(decode=False).replace(
            {
                "language_id.window_ms": 2000,
                "language_id.trailing_silence_ms": silence_ms,
                "language_id.onset_ms": 0,
                "cache.size": 0,
            }
        )
        transcriber = SessionRestartTranscriber(models.weights, languages, config=config)
        transcriber.process(window)
        return transcriber.evaluate_frame

    subjects: dict[str, Callable[[], object]] = {
        "openai-whisper": lambda: model.detect_language(whisper.log_mel_spectrogram(padded)),
        "frame": frame(0),
        "frame with silence": frame(silence_ms),
        "encoder": lambda: encoder.forward(mel, None),
        "peak": lambda: peak(square),
    }
    with torch_threads(THREADS), torch.inference_mode():
        times = time_in_turns(subjects, rounds, time.perf_counter_ns)
    theirs, frame_ms = times["openai-whisper"], times["frame"]
    spent = {name: median(ms) / 1000 for name, ms in times.items()}
    rate = encoder_flop(models.weights, positions(len(window))) / spent["encoder"]
    peak_rate = 2 * PEAK_SIZE**3 / spent["peak"]
    silence = f"{silence_ms / 1000:g} s of silence"
    return [
        ratio("openai-whisper's detect_language / a frame of 2 s", theirs, frame_ms),
        ratio(f"openai-whisper's detect_language / a frame of 2 s and {silence}", theirs, times["frame with silence"]),
        summary("a frame of 2 s", "ms", frame_ms),
        Figure("its p95", float(np.percentile(frame_ms, 95)), "ms", n=rounds),
        summary("openai-whisper's detect_language", "ms", theirs),
        summary(f"encoder, 2 s, {encoder.precision}, all positions", "ms", times["encoder"]),
        Figure("its rate", rate / 1e12, "TFLOP/s", n=rounds),
        Figure(f"peak: product of {PEAK_SIZE} x {PEAK_SIZE}", peak_rate / 1e12, "TFLOP/s"),
        Figure("rate / peak", rate / peak_rate, ""),
    ]


def encoder_flop(weights: Weights, n: int) -> float:
    """Multiplications and additions of the encoder over ``n`` positions: products and attention."""
    mels, state = weights.dims["n_mels"], weights.dims["n_audio_state"]
    convolutions = 2 * n * 3 * mels * state + n * 3 * state * state
    block = n * 12 * state * state + 2 * n * n * state
    return 2.0 * (convolutions + weights.dims["n_audio_layer"] * block)


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

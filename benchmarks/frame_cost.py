"""What a language-ID frame costs, beside openai-whisper's ``detect_language`` and the peak rate of the machine.

    python -m benchmarks.frame_cost --rounds 31

All take turns, by the wall clock. The frame is ``lid.total`` of the transcriber: window, hash, mel, pooled encoder,
posterior and smoothing. The encoder's share of the peak counts its multiplications and additions only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median

import numpy as np
import torch

from benchmarks.reference_model import load_model
from whisperlab import SessionRestartTranscriber, data
from whisperlab.config import TranscriberConfig
from whisperlab.experiments.ablation import Models
from whisperlab.model.encoder import positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import activations, packed_linear
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.statistics import Figure, ratio, summary
from whisperlab.util.text_table import text_table
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import samples
from whisperlab.util.timing import Subject, time_in_turns

PEAK_SIZE = 1024  # of the square product that estimates the machine's peak


def frame_figures(models: Models, speech: FloatArray, rounds: int = 31) -> list[Figure]:
    """A frame of 2 s, alone and with the silence of the default, and the encoder on it, with what they compare to."""
    import whisper

    window = np.resize(speech, samples(3))[samples(1) :]
    encoder, _ = prepared(models.weights)
    padded, model = whisper.pad_or_trim(window), load_model(models.name)
    silence_ms, kind = TranscriberConfig().language_id.trailing_silence_ms, activations(encoder.precision)
    mel = encoder.mel([window], len(window))
    square = torch.randn(PEAK_SIZE, PEAK_SIZE).to(kind)
    peak = packed_linear(square, None, "bf16" if kind is torch.bfloat16 else "fp32")

    def frame(silence_ms: int) -> Subject:
        lid = {"window_ms": 2000, "trailing_silence_ms": silence_ms, "onset_ms": 0}
        config = TranscriberConfig.from_json({"decode": False, "language_id": lid, "cache": {"size": 0}})
        transcriber = SessionRestartTranscriber(models.weights, models.languages, config=config)
        transcriber.process(window)
        parts = transcriber.parts

        def evaluate() -> None:
            """A frame on the newest audio, whether one is due or not."""
            with torch_threads(THREADS):
                parts.probe.add_frame()
                with transcriber.metrics.measure("lid.total"):
                    parts.stream.detector.at_pause(parts.stream.text.language)

        return evaluate

    subjects: dict[str, Subject] = {
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
    rate = encoder_flop(models.weights.dims, positions(len(window))) / spent["encoder"]
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


def encoder_flop(dims: Mapping[str, int], n: int, pool_after: int | None = None) -> float:
    """Multiplications and additions of the encoder over ``n`` positions: products and attention.

    After ``pool_after`` blocks half as many positions are left.
    """
    mels, state, layers = dims["n_mels"], dims["n_audio_state"], dims["n_audio_layer"]
    convolutions = 2 * n * 3 * mels * state + n * 3 * state * state
    before = layers if pool_after is None else pool_after
    lengths = [n] * before + [-(-n // 2)] * (layers - before)
    blocks = sum(12 * rows * state * state + 2 * rows * rows * state for rows in lengths)
    return 2.0 * (convolutions + blocks)


def main() -> None:
    """Measure on the first recording of ivr-five and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    recording = data.load("ivr-five", "dev")[0]
    models = Models("base", tuple(recording.languages))
    figures = frame_figures(models, recording.audio(), parser.parse_args().rounds)
    print(text_table([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main()

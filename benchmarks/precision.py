"""Language-ID accuracy by precision: fp32, bf16, int8, and torch's default 8 bits, at the same places.

    python -m benchmarks.precision --split dev
    python -m benchmarks.precision --split test --places 400

Every window lies within one language and is scored once per precision of encoder and decoder. *Plain int8* has one
scale for all weights of a layer and one for its input, as torch's dynamic quantisation by default; whisperlab has
one per row of both. Errors are of the encoder's output, in norm, relative to fp32. Differences in accuracy are over
the same windows; their intervals resample recordings.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.language_window import windows
from benchmarks.language_window.windows import Condition, WindowLogits, WindowScorer
from whisperlab import data
from whisperlab.model import linear
from whisperlab.model import weights as models
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.util.statistics import central, resamples
from whisperlab.util.text_table import text_table
from whisperlab.util.timeline import samples

CONDITION = Condition(2.5, 0.5)
CORPORA = ("ivr-five", "ivr-en-es")


class PerTensor:
    """An 8-bit product with one scale for the weights and one for the input."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scale = float(weight.abs().max()) / 127
            self._weight = torch.ops.quantized.linear_prepack(
                torch.quantize_per_tensor(weight, scale, 0, torch.qint8), bias
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        y: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self._weight, reduce_range=True)
        return y

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """GELU of the product."""
        return F.gelu(self(x))

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The product added to a tensor."""
        return to + self(x)


def scorer(name: str) -> WindowScorer:
    """A scorer with weights of its own, so that nothing prepared before is used."""
    weights, ours = models.load_weights("base"), linear.Int8Linear
    if name == "plain int8":
        linear.Int8Linear = PerTensor  # type: ignore[assignment,misc]
    try:
        return WindowScorer(weights, "int8" if name == "plain int8" else name)
    finally:
        linear.Int8Linear = ours  # type: ignore[misc]


def error(encoder: ShortWindowEncoder, exact: ShortWindowEncoder, recordings: list[data.Recording]) -> float:
    """Relative error of the encoder's output over a window in the middle of each recording."""
    shares = []
    for recording in recordings:
        audio = recording.audio()
        window = audio[len(audio) // 2 :][: samples(CONDITION.window_s)]
        found, expected = (
            one.encode(window, samples(CONDITION.silence_s)).features.float() for one in (encoder, exact)
        )
        shares.append(float((found - expected).norm() / expected.norm()))
    return float(np.mean(shares))


def difference(found: WindowLogits, exact: WindowLogits, allowed: list[str], rng: np.random.Generator) -> str:
    """Points of accuracy against fp32 at the same places, with a 95 % interval over recordings."""
    bias = LanguageIdOptions().english_bias
    gained = found.correct(allowed, bias).astype(float) - exact.correct(allowed, bias)
    names = np.array([place.recording for place in found.places])
    by_recording = [gained[names == name] for name in np.unique(names)]
    low, high = central(
        [np.concatenate([by_recording[i] for i in draw]).mean() for draw in resamples(len(by_recording), rng)]
    )
    return f"{100 * gained.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    """Measure and print a table for each corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--places", type=int, default=400, help="of each corpus, in equal shares of its languages")
    arguments = parser.parse_args()
    names = ["fp32", *(["bf16"] if linear.has_bf16(torch.device("cpu")) else []), "int8", "plain int8"]
    scorers = {name: scorer(name) for name in names}
    exact = scorers["fp32"]._encoder
    for corpus in CORPORA:
        recordings = data.load(corpus, arguments.split)
        allowed = sorted({code for recording in recordings for code in recording.languages})
        among = windows.places(recordings, CONDITION.window_s)
        where = windows.sample(among, arguments.places, np.random.default_rng(0))
        heard = {name: windows.measure(one, recordings, where, [CONDITION])[CONDITION] for name, one in scorers.items()}
        print(f"{corpus}, {arguments.split}: {len(where)} windows of {CONDITION}, {len(recordings)} recordings")
        rows = [
            {
                "precision": name,
                "right": f"{100 * found.correct(allowed, LanguageIdOptions().english_bias).mean():.1f} %",
                "points against fp32": difference(found, heard["fp32"], allowed, np.random.default_rng(0)),
                "encoder's error": f"{100 * error(scorers[name]._encoder, exact, recordings):.1f} %",
            }
            for name, found in heard.items()
        ]
        print(text_table(rows), flush=True)


if __name__ == "__main__":
    main()

"""Whether a compiled encoder is quicker than the eager one, on windows of real speech, by the wall clock.

    python benchmarks/compiled.py --threads 1            # compiled code is written for a number of threads:
    python benchmarks/compiled.py --threads 2            # a process for each
    python benchmarks/compiled.py --threads 1 --tuned    # with inductor's max_autotune as well, which takes minutes

`ShortWindowEncoder` (packed oneDNN products) stands beside the same network as a plain module: run as it is, through
torch.compile with frozen weights (for one length, `static`, and for any, `dynamic`), and through TorchScript. All take
turns, window by window, log-mel in and features out. Ratios are to `ShortWindowEncoder` of the same precision in the
same turn: below 1 is quicker. The encoder fills rows up to a multiple of 16, so that oneDNN keeps code for few
lengths; a plain module does not, which is a saving of its own. So the encoder also runs without that (`unfilled`), and
the module also with it (`filled`). First calls are with an empty cache of compiled code, or with that of ``--cache``; a
dynamic network compiles at the first length only. Errors are relative to the encoder in float32, all windows together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from whisperlab import corpora, linear, models
from whisperlab.audio import read_audio
from whisperlab.encoder import ShortWindowEncoder, fused_attention
from whisperlab.instruments import in_turns, middle, ratio
from whisperlab.linear import Precision, activations, padded_rows
from whisperlab.models import Weights
from whisperlab.timeline import samples
from whisperlab.trace import provenance

WINDOWS_S = (2, 3, 6)
N_WINDOWS = 8  # one of each recording, from its fifth second on
FROM_S = 5
WARM_UP = 3  # calls after the first; TorchScript settles with its third

Forward = Callable[[torch.Tensor], torch.Tensor]


class Network(torch.nn.Module):
    """Whisper's encoder in torch's own operators, its weights buffers that can be frozen."""

    def __init__(self, weights: Weights, precision: Precision, filled: bool) -> None:
        super().__init__()
        self._kind, self._filled = activations(precision), filled
        self._n_head, self._n_blocks = weights.dims["n_audio_head"], weights.dims["n_audio_layer"]
        for n in (1, 2):
            weight, bias = (weights.tensor(f"encoder.conv{n}.{part}") for part in ("weight", "bias"))
            self._keep(f"conv{n}", weight.transpose(1, 2).flatten(1), bias)
        self._keep("places", weights.tensor("encoder.positional_embedding"))
        layers = {
            "attn_ln": "attn_ln",
            "mix": "attn.out",
            "mlp_ln": "mlp_ln",
            "expand": "mlp.0",
            "contract": "mlp.2",
        }
        for n in range(self._n_blocks):
            block = f"encoder.blocks.{n}"
            self._keep(f"{n}_attn", *fused_attention(weights, f"{block}.attn", self._n_head))
            for name, theirs in layers.items():
                tensors = [weights.tensor(f"{block}.{theirs}.{part}") for part in ("weight", "bias")]
                self._keep(f"{n}_{name}", *tensors)
        self._keep("norm", *(weights.tensor(f"encoder.ln_post.{part}") for part in ("weight", "bias")))

    def _keep(self, name: str, *tensors: torch.Tensor) -> None:
        for part, tensor in zip(("weight", "bias"), tensors, strict=False):
            self.register_buffer(f"{name}_{part}", tensor.detach().to(self._kind).contiguous())

    def _parts(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, *self._parts(name))

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._parts(name))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Shape (windows, mels, mel frames) to (windows, positions, state)."""
        n = mel.shape[-1] // 2
        n_rows = padded_rows(n) if self._filled else n
        places: torch.Tensor = self.get_buffer("places_weight")
        x = F.pad(mel.transpose(1, 2), (0, 0, 0, 2 * (n_rows - n))).to(self._kind)
        for name, stride in (("conv1", 1), ("conv2", 2)):
            x = self._convolution(name, x, stride)
        x = x + F.pad(places[:n], (0, 0, 0, n_rows - n))
        for number in range(self._n_blocks):
            x = x + self._linear(f"{number}_mix", self._attention(number, x, n))
            wide = F.gelu(self._linear(f"{number}_expand", self._norm(f"{number}_mlp_ln", x)))
            x = x + self._linear(f"{number}_contract", wide)
        return self._norm("norm", x[:, :n])

    def _convolution(self, name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        n_frames, padded = x.shape[1], F.pad(x, (0, 0, 1, 1))
        frames = torch.cat([padded[:, k : k + n_frames : stride] for k in range(3)], -1)
        return F.gelu(self._linear(name, frames))

    def _attention(self, number: int, x: torch.Tensor, n: int) -> torch.Tensor:
        fused = self._linear(f"{number}_attn", self._norm(f"{number}_attn_ln", x))
        query, key, value = fused.view(*x.shape[:2], 3, self._n_head, -1).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (query @ key[:, :, :n].transpose(-1, -2)).softmax(-1) @ value[:, :, :n]
        return seen.transpose(1, 2).flatten(2)


@dataclass(slots=True, frozen=True)
class Row:
    """One form of the encoder at one length: ``ratio`` to `ShortWindowEncoder`, with its 95 % interval of n turns."""

    precision: Precision
    form: str
    window_s: float
    first_s: float
    ms: float
    ratio: float
    low: float | None
    high: float | None
    n: int
    error: float


def forms(weights: Weights, precision: Precision, tuned: bool) -> dict[str, Forward]:
    """Every form of the encoder by name, the one that others are compared with first."""

    def network(filled: bool = False) -> Network:
        return Network(weights, precision, filled).eval()

    encoder = ShortWindowEncoder(weights, precision)
    found: dict[str, Forward] = {
        "encoder": eager(encoder),
        "encoder, unfilled": unfilled(eager(encoder)),
        "module": network(),
        "frozen static": compiled(network(), dynamic=False),
        "frozen static, filled": compiled(network(filled=True), dynamic=False),
        "frozen dynamic": compiled(network(), dynamic=True),
        "frozen dynamic, filled": compiled(network(filled=True), dynamic=True),
        "TorchScript": scripted(network()),
    }
    if tuned:
        found["frozen static, tuned"] = compiled(network(), dynamic=False, max_autotune=True)
    return found


def eager(encoder: ShortWindowEncoder) -> Forward:
    """The encoder as `ShortWindowEncoder.encode` runs it."""

    def run(mel: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return encoder.forward(mel, None)

    return run


def unfilled(forward: Forward) -> Forward:
    """The encoder with as many rows as there are positions, all at once."""

    def run(mel: torch.Tensor) -> torch.Tensor:
        kept = linear.ROWS, linear.MOST_ROWS
        linear.ROWS, linear.MOST_ROWS = 1, 3000
        try:
            return forward(mel)
        finally:
            linear.ROWS, linear.MOST_ROWS = kept

    return run


def compiled(network: Network, dynamic: bool, max_autotune: bool = False) -> Forward:
    """The network through torch.compile, weights frozen: oneDNN packs them, and they are constants of the code."""
    from torch._inductor import config

    forward: Forward = torch.compile(network, dynamic=dynamic)
    seen = set()

    def run(mel: torch.Tensor) -> torch.Tensor:
        if mel.shape in seen:
            return forward(mel)
        seen.add(mel.shape)
        with config.patch(freezing=True, max_autotune=max_autotune):
            return forward(mel)

    return run


def scripted(network: Network) -> Forward:
    """The network traced and frozen by TorchScript, once for every length."""
    traces: dict[torch.Size, Forward] = {}

    def run(mel: torch.Tensor) -> torch.Tensor:
        if mel.shape not in traces:
            traces[mel.shape] = torch.jit.freeze(torch.jit.trace(network, mel, check_trace=False))  # type: ignore[no-untyped-call]
        return traces[mel.shape](mel)

    return run


def rows(
    weights: Weights,
    precision: Precision,
    speech: Mapping[float, Sequence[torch.Tensor]],
    rounds: int,
    tuned: bool,
) -> Iterator[Row]:
    """Every form at every length; ``speech`` is log-mel by seconds."""
    subjects, exact = forms(weights, precision, tuned), eager(ShortWindowEncoder(weights))
    for window_s, mels in speech.items():
        wanted = torch.cat([exact(mel) for mel in mels])
        first_s, error = {}, {}
        for form, forward in subjects.items():
            began = time.perf_counter()
            forward(mels[0])
            first_s[form] = time.perf_counter() - began
            for _ in range(WARM_UP):
                forward(mels[0])
            error[form] = float((torch.cat([forward(mel) for mel in mels]) - wanted).norm() / wanted.norm())
        turns = {form: over(forward, mels) for form, forward in subjects.items()}
        times = in_turns(turns, rounds, clock=time.perf_counter_ns)
        for form, took in times.items():
            against = ratio(form, took, times["encoder"])
            yield Row(
                precision=precision,
                form=form,
                window_s=window_s,
                first_s=first_s[form],
                ms=middle(took)[0],
                ratio=against.value,
                low=against.low,
                high=against.high,
                n=len(took),
                error=error[form],
            )


def over(forward: Forward, mels: Sequence[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A subject that takes the next window at every turn."""
    windows = itertools.cycle(mels)
    return lambda: forward(next(windows))


def speech(encoder: ShortWindowEncoder) -> dict[float, list[torch.Tensor]]:
    """Log-mel spectrograms of windows of every length."""
    recordings = corpora.load("ivr-five", "dev")[:N_WINDOWS]
    audio = [read_audio(recording.audio_path)[samples(FROM_S) :] for recording in recordings]
    return {
        length_s: [encoder.mel([one[: samples(length_s)]], samples(length_s)) for one in audio]
        for length_s in WINDOWS_S
    }


@contextmanager
def code_kept_in(folder: Path | None) -> Iterator[None]:
    """Compiled code goes to a folder, or to one that vanishes."""
    with tempfile.TemporaryDirectory() as passing:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder or passing)
        yield


def line(row: Row) -> str:
    """A row of the printed table."""
    within = "" if row.low is None else f"{row.low:.3f}-{row.high:.3f}"
    return (
        f"{row.precision}  {row.form:<24}{row.window_s:3g} s  first {row.first_s:6.2f} s  {row.ms:7.2f} ms"
        f"  x {row.ratio:.3f}  {within:<12} n {row.n}  error {row.error:.2%}"
    )


def main() -> None:
    """Measure, print a line for each row, and everything as JSON last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: both")
    parser.add_argument("--tuned", action="store_true", help="also with max_autotune")
    parser.add_argument("--cache", type=Path, help="keep compiled code there; default: nowhere")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # One function serves every network, and each length is a compilation of a static one.
    torch._dynamo.config.recompile_limit = 64
    weights = models.load_weights("base")
    windows = speech(ShortWindowEncoder(weights))
    asked: Sequence[Precision] = [arguments.precision] if arguments.precision else ["bf16", "fp32"]
    found: list[dict[str, Any]] = []
    with code_kept_in(arguments.cache), torch.no_grad():
        for precision in asked:
            torch.compiler.reset()
            for row in rows(weights, precision, windows, arguments.rounds, arguments.tuned):
                print(line(row), flush=True)
                found.append(asdict(row))
    print(json.dumps({"threads": arguments.threads, "rows": found, **provenance()}))


if __name__ == "__main__":
    main()

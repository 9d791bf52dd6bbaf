"""Matrix products at a chosen precision: 32-bit floats, or 8-bit integers with 32-bit sums.

An 8-bit product reads a quarter of the memory and does about twice the work in the same time. Rounding costs
accuracy, and where it is lost is known: a few channels of Whisper's activations are far louder than the rest, and
one scale for a whole window drowns the quiet positions. Here each row of the input (a position, a token) is brought
to the same loudness first, as each row of the weights is. On two-second windows of speech that leaves a tenth of
the encoder's output in error, against a quarter with torch's own dynamic quantisation of whole tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import nn

from whisperlab.errors import ConfigurationError

Precision: TypeAlias = Literal["fp32", "int8"]
Product: TypeAlias = Callable[[torch.Tensor], torch.Tensor]  # (..., inputs) -> (..., outputs)

QUIETEST = 1e-9  # a row of zeros has no loudness to divide by


def has_int8(device: torch.device) -> bool:
    """Whether 8-bit products run here: on a CPU with the instructions torch's x86 kernels need."""
    return device.type == "cpu" and torch.backends.quantized.engine in ("x86", "fbgemm")


def check_precision(asked: str | None, device: torch.device) -> Precision:
    """The precision asked for; None takes int8 where there is one, else fp32.

    Raises ConfigurationError for a precision that is unknown or cannot run on the device.
    """
    if asked is None:
        return "int8" if has_int8(device) else "fp32"
    if asked not in get_args(Precision):
        raise ConfigurationError(f"precision must be one of {', '.join(get_args(Precision))}, got {asked!r}")
    if asked == "int8" and not has_int8(device):
        raise ConfigurationError(
            f"precision int8 needs an x86 CPU, got device {device}; fp32 runs everywhere"
        )
    return "int8" if asked == "int8" else "fp32"


def product_of(layer: nn.Linear, precision: Precision) -> Product:
    """What a linear layer computes, at that precision."""
    return product(layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), precision)


def product(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> Product:
    """The function ``x -> x @ weight.T + bias`` for a weight of shape (outputs, inputs)."""
    if precision == "fp32":
        return lambda x: F.linear(x, weight, bias)
    return _int8_product(weight, bias)


def _int8_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    scales = weight.abs().amax(1).clamp_min(QUIETEST).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # Deprecated in torch 2.13, which has no other way yet to the weights its 8-bit kernels take.
        warnings.filterwarnings(
            "ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning
        )
        eight_bit = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(eight_bit, None)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        loudness = x.abs().amax(-1, keepdim=True).clamp_min_(QUIETEST)  # five times as fast as vector_norm
        # reduce_range: without VNNI two products of full 8-bit range overflow the 16 bits they are added in.
        y: torch.Tensor = torch.ops.quantized.linear_dynamic(x / loudness, packed, reduce_range=True)
        return y.mul_(loudness) if bias is None else torch.addcmul(bias, y, loudness)

    return multiply

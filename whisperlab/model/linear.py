"""Matrix products at a chosen precision: 32-bit floats, bfloat16, or 8-bit integers with 32-bit sums.

On a CPU the floats go through oneDNN with weights packed once: on processors that torch's default library does not
favour, 32-bit products take half the time that way, and additions and the GELU after a product cost no pass of
their own. bfloat16 keeps 8 bits of every number and doubles the speed again where the CPU multiplies it
(AVX-512 BF16, AMX).

An 8-bit product reads a quarter of the memory. Rounding costs accuracy, and where it is lost is known: a few channels
of Whisper's activations are far louder than the rest, and one scale for a whole window drowns the quiet positions. Here
each row of the input (a position, a token) is brought to the same loudness first, as each row of the weights is. On
two-second windows of speech that leaves 5 to 6 % of the encoder's output in error (9 % on a CPU without VNNI), against
16 to 26 % with torch's own dynamic quantisation of whole tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, get_args

import torch
import torch.nn.functional as F

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import shown

Precision: TypeAlias = Literal["fp32", "bf16", "int8"]
Part: TypeAlias = Literal["encoder", "decoder"]

QUIETEST = 1e-9  # a row of zeros has no loudness to divide by
PACKED_ROWS = 100  # positions in 2 s: what packed weights are laid out for

# oneDNN writes code for every number of rows it meets, some 600 KB a product, and keeps it. Rows that come by the dozen
# (`ROWS`), and no more than so many at once, keep that below 30 MB whatever lengths a stream brings.
ROWS = 16
MOST_ROWS = 8 * ROWS


class Product(Protocol):
    """The function ``x -> x @ weight.T + bias``, from shape (..., inputs) to (..., outputs).

    Input and output have the type of `activations` of its precision.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """GELU of the product."""

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The product added to a tensor of its shape, which stays as it is."""


def has_int8(device: torch.device) -> bool:
    """Whether 8-bit products run here: on a CPU with the instructions torch's x86 kernels need."""
    return device.type == "cpu" and torch.backends.quantized.engine in ("x86", "fbgemm")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than 32-bit floats."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpu = torch.cpu
    instructions = (cpu._is_avx512_bf16_supported, cpu._is_amx_tile_supported)
    return device.type == "cpu" and _has_packing() and any(has() for has in instructions)


def check_precision(asked: str | None, device: torch.device, part: Part = "encoder") -> Precision:
    """The precision asked for, or for None the one that is fastest here without harm to the text.

    That is bfloat16 for the encoder where the CPU multiplies it, and 8 bits for the decoder, whose single tokens
    wait for the weights to be read; else 8 bits for both, else 32-bit floats.

    Raises ConfigurationError for a precision that is unknown or cannot run on the device.
    """
    if asked is None:
        if part == "encoder" and has_bf16(device):
            return "bf16"
        return "int8" if has_int8(device) else "fp32"
    known: Precision | None = next((name for name in get_args(Precision) if name == asked), None)
    if known is None:
        raise ConfigurationError(
            f"precision must be one of {', '.join(get_args(Precision))}, got {shown(asked)}"
        )
    if asked == "int8" and not has_int8(device):
        raise ConfigurationError(
            f"precision int8 needs an x86 CPU, got device {device}; fp32 runs everywhere"
        )
    if asked == "bf16" and not has_bf16(device):
        raise ConfigurationError(
            f"precision bf16 needs a CPU with AVX-512 BF16 or AMX, or a GPU that multiplies it, got device {device}; "
            "int8 and fp32 run on more"
        )
    return known


def activations(precision: Precision) -> torch.dtype:
    """The type of what a product takes and gives."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def product(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> Product:
    """The product with a weight of shape (outputs, inputs), of which a copy in that precision is kept, and no other."""
    if bias is None:
        bias = torch.zeros(len(weight), device=weight.device)
    weight, bias = weight.detach().float().contiguous(), bias.detach().float()
    if precision == "int8":
        return _EightBit(weight, bias)
    kind = activations(precision)
    packed = weight.device.type == "cpu" and _has_packing()
    return (_Packed if packed else _Plain)(weight.to(kind), bias.to(kind))


class _Plain:
    """Through torch's own product: on a GPU, or where there is no oneDNN."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self(x))

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return to + self(x)


class _Packed:
    """Through oneDNN, with what follows the product done while it is written."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._followed_by("none", "", x)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return self._followed_by("gelu", "none", x)

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        add = torch.ops.mkldnn._linear_pointwise.binary
        pairs = zip(_some_rows(x), _some_rows(to), strict=True)
        return _joined([add(rows, base, self._weight, self._bias, "add") for rows, base in pairs], to.shape)

    def _followed_by(self, what: str, variant: str, x: torch.Tensor) -> torch.Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        parts = [linear(rows, self._weight, self._bias, what, [], variant) for rows in _some_rows(x)]
        return _joined(parts, (*x.shape[:-1], len(self._bias)))


def padded_rows(n: int) -> int:
    """The least multiple of `ROWS` that is not below ``n``."""
    return -(-n // ROWS) * ROWS


def _some_rows(x: torch.Tensor) -> Sequence[torch.Tensor]:
    """The rows by as many as may be multiplied at once, filled up to a round number unless there is only one."""
    rows = x.reshape(-1, x.shape[-1])
    lacking = padded_rows(len(rows)) - len(rows)
    if lacking and len(rows) > 1:
        rows = F.pad(rows, (0, 0, 0, lacking))
    return torch.split(rows, MOST_ROWS)


def _joined(parts: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return rows[: math.prod(shape[:-1])].view(*shape)


class _EightBit:
    """Through torch's dynamically quantised product, one row of the input as loud as the next."""

    __slots__ = ("_bias", "_narrow", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        scales = weight.abs().amax(1).clamp_min(QUIETEST).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # Deprecated in torch 2.13, which has no other way yet to the weights its 8-bit kernels take.
            warnings.filterwarnings(
                "ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning
            )
            eight_bit = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._weight = torch.ops.quantized.linear_prepack(eight_bit, None)
        self._bias = bias
        # Without VNNI two products of full 8-bit range overflow the 16 bits they are added in.
        self._narrow = not torch.cpu._is_vnni_supported()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[:-1].numel() == 1:  # one row is as loud as itself
            y: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self._weight, reduce_range=self._narrow)
            return y.add_(self._bias)
        loudness = x.abs().amax(-1, keepdim=True).clamp_min_(QUIETEST)  # five times as fast as vector_norm
        y = torch.ops.quantized.linear_dynamic(x / loudness, self._weight, reduce_range=self._narrow)
        return torch.addcmul(self._bias, y, loudness)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self(x))

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return self(x).add_(to)


def _has_packing() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")

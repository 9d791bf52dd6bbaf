"""Linear layers with packed weights in fp32, bf16 or 8 bits, and the only place that uses torch's unstable operators.

On a CPU, fp32 and bf16 use oneDNN with weights that are packed once; a following addition or GELU needs no pass of its
own. bf16 is twice as fast as fp32 where the CPU multiplies it.

*int8* reads a quarter of the memory. Each row of the input (a position, a token) and of the weights has its own scale,
because a few channels of Whisper's activations are far larger than the rest. On two-second windows of speech the error
of the encoder's output is 5 to 6 % (9 % without VNNI), against 16 to 26 % with torch's one scale for a whole window.

*mixed* is for encoders on CPUs with VNNI and BF16, but without AMX. There 8-bit products take half the time of bf16.
The first block and the last layer of each block, which 8 bits harm most, stay bf16: the error is 4 %, 2.4 % with bf16.

The operators of oneDNN are private in torch, and its quantised operators are deprecated since torch 2.13. Each is
tried once per process (`operator_works`). If it fails, a warning is logged and plain torch is used, fp32 for int8.
"""

import logging
import math
import platform
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Literal, TypeAlias, cast

import torch
import torch.nn.functional as F

from whisperlab.util.errors import ConfigurationError, brief, is_lack_of_memory
from whisperlab.util.validation import check_type

Precision: TypeAlias = Literal["fp32", "bf16", "int8", "mixed"]
Part: TypeAlias = Literal["encoder", "decoder"]
Operator: TypeAlias = Literal["fp32", "bf16", "int8", "int8 rows", "mixed"]

SMALLEST = 1e-9  # the least scale: a row of zeros has none
PACKED_ROWS = 100  # positions in 2 s, for which packed weights are laid out

# oneDNN generates code for every number of rows, about 600 KB per layer, and keeps it. Numbers of rows that are
# multiples of `ROWS` up to `MOST_ROWS` keep that below 30 MB, whatever lengths a stream has.
ROWS = 16
MOST_ROWS = 8 * ROWS

# The largest relative error of an operator that works; a wrong result is off by far more.
_TOLERANCE: dict[Operator, float] = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.03, "int8 rows": 0.03, "mixed": 0.03}

_log = logging.getLogger(__name__)


def has_int8(device: torch.device) -> bool:
    """Whether int8 layers run here: on an x86 CPU, with torch's quantised operators."""
    engine: str = torch.backends.quantized.engine
    return device.type == "cpu" and engine in ("x86", "fbgemm") and operator_works("int8")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than 32-bit floats."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    _, avx512_bf16, amx = cpu_instructions()
    return device.type == "cpu" and (avx512_bf16 or amx) and operator_works("bf16")


def has_mixed(device: torch.device) -> bool:
    """Whether 8-bit products are faster than bfloat16 here, and both run."""
    vnni, _, amx = cpu_instructions()
    return vnni and not amx and has_bf16(device) and has_int8(device) and operator_works("mixed")


def cpu_instructions() -> tuple[bool, bool, bool]:
    """Whether the CPU has VNNI, AVX-512 BF16 and AMX; False where torch cannot say."""
    found = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("vnni", "avx512_bf16", "amx_tile"))
    vnni, avx512_bf16, amx = (bool(supported and supported()) for supported in found)
    return vnni, avx512_bf16, amx


def instruction_set(device: torch.device) -> str:
    """The kind of processor: unlike ones round differently."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    names = (name for name, has in zip(("VNNI", "AVX-512 BF16", "AMX"), cpu_instructions(), strict=True) if has)
    return ", ".join((platform.machine(), torch.backends.cpu.get_cpu_capability(), *names))


def check_precision(asked: str | None, device: torch.device, part: Part = "encoder") -> Precision:
    """The precision asked for; ConfigurationError if it is unknown or cannot run on the device.

    None chooses the fastest that does not harm the text: mixed or bf16 for the encoder where the CPU multiplies it,
    otherwise int8, otherwise fp32. The decoder reads all weights for every single token, so int8 is fastest for it.
    """
    if asked is None:
        if part == "encoder" and has_bf16(device):
            return "mixed" if has_mixed(device) else "bf16"
        return "int8" if has_int8(device) else "fp32"
    check_type("precision", asked, Precision)
    has, needed = _NEEDED.get(asked, (lambda device: True, ""))
    if not has(device):
        got = f"got device {device} and torch {torch.__version__}"
        raise ConfigurationError(f"precision {asked} needs {needed}, {got}; fp32 runs everywhere")
    return "int8" if asked == "mixed" and part == "decoder" else cast(Precision, asked)


_NEEDED = {
    "int8": (has_int8, "an x86 CPU and a torch with quantised operators"),
    "bf16": (has_bf16, "a CPU with AVX-512 BF16 or AMX, or a GPU that multiplies it"),
    "mixed": (has_mixed, "a CPU with AVX-512 VNNI and BF16, and without AMX"),
}
# The precision of the layers of an encoder that are not in 8 bits.
EXACT: dict[Precision, Precision] = {"int8": "fp32", "mixed": "bf16", "fp32": "fp32", "bf16": "bf16"}


def activations(precision: Precision) -> torch.dtype:
    """The type of the input and output of a layer; a mixed one returns bf16 unless it adds."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def packed_linear(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision, fast: bool = True) -> "Linear":
    """The layer of a weight of shape (outputs, inputs). It keeps a copy in that precision and no other.

    With ``fast`` False it is plain torch, which can be compiled.
    """
    if bias is None:
        bias = torch.zeros(len(weight), device=weight.device)
    weight, bias, kind = weight.detach().float().contiguous(), bias.detach().float(), activations(precision)
    packed = {"int8": Int8Linear, "mixed": MixedLinear}.get(precision, OneDnnLinear)
    works = fast and weight.device.type == "cpu" and operator_works(precision)
    return (packed if works else Linear)(weight.to(kind), bias.to(kind))


class Linear:
    """``x -> x @ weight.T + bias``, from (..., inputs) to (..., outputs) of the type `activations`, in plain torch.

    It serves on a GPU, and where the faster operators of the subclasses do not work.
    """

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The linear layer, then GELU."""
        return F.gelu(self(x))

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The linear layer plus a tensor of its output's shape, which is not changed and whose type the sum has."""
        return self(x).to(to.dtype).add_(to)


class OneDnnLinear(Linear):
    """oneDNN's linear layer, which adds or applies GELU while it writes the output."""

    __slots__ = ()

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._pointwise(x, "none", "")

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        return self._pointwise(x, "gelu", "none")

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        if x.dtype != to.dtype:
            return super().added(x, to)
        add = torch.ops.mkldnn._linear_pointwise.binary
        pairs = zip(split_rows(x), split_rows(to), strict=True)
        return _joined([add(rows, base, self._weight, self._bias, "add") for rows, base in pairs], to.shape)

    def _pointwise(self, x: torch.Tensor, name: str, variant: str) -> torch.Tensor:
        parts = [self._product(rows, name, variant) for rows in split_rows(x)]
        return _joined(parts, (*x.shape[:-1], len(self._bias)))

    def _product(self, rows: torch.Tensor, name: str, variant: str) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, name, [], variant)
        return y


class MixedLinear(OneDnnLinear):
    """oneDNN's 8-bit product with bf16 output. Up to `MOST_ROWS` rows of the input share a scale and a zero point.

    The input may be fp32 or bf16. The scale of the input is applied in the product, so no pass follows it.
    """

    __slots__ = ("_scales", "_zeros")
    added = Linear.added

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        rows, scales = quantised_rows(weight)
        self._scales = scales.float()
        self._zeros = torch.zeros(len(rows), dtype=torch.long)
        packed = torch.ops.onednn.qlinear_prepack(rows, [MOST_ROWS, rows.shape[1]])
        Linear.__init__(self, packed, bias.float())

    def _product(self, rows: torch.Tensor, name: str, variant: str) -> torch.Tensor:
        rows = rows.float()
        least, most = (float(x) for x in torch.aminmax(rows))
        scale = max(max(most, 0.0) - min(least, 0.0), SMALLEST) / 255
        zero = round(-min(least, 0.0) / scale)
        # unsigned, because signed input takes minutes; from float to 16 to 8 bits, because the direct way is slow
        steps = torch.add(torch.tensor(zero + 0.5), rows, alpha=1 / scale).to(torch.int16).to(torch.uint8)
        given = steps, scale, zero, self._weight, self._scales, self._zeros, self._bias, 1.0, 0
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(*given, torch.bfloat16, name, [], variant)
        return y


class Int8Linear(Linear):
    """Torch's dynamically quantised linear layer, with one scale per row of the input; ``weight`` of any float type."""

    __slots__ = ("_product", "_reduce_range")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        rows, scales = quantised_rows(weight)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # Deprecated in torch 2.13, which has no other way yet to the weights of its int8 operators.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
            quantised = torch._make_per_channel_quantized_tensor(rows, scales, zeros, 0)
        torch.empty(3 * rows.numel() + (16 << 20), dtype=torch.int8)  # raises; packing without memory ends the process
        super().__init__(torch.ops.quantized.linear_prepack(quantised, bias), bias)
        self._product = torch.ops.quantized.linear_dynamic.default._op  # a call without Python's dispatch
        # Without VNNI the sum of two products of the full 8-bit range overflows its 16 bits.
        self._reduce_range = not cpu_instructions()[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == x.shape[-1]:  # one row needs no scale of its own
            y: torch.Tensor = self._product(x, self._weight, self._reduce_range)
            return y
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST)  # five times as fast as vector_norm
        product = self._product(x / scale, self._weight, self._reduce_range)
        return torch.lerp(self._bias, product, scale)  # the product has the bias once


class Int8Rows(Int8Linear):
    """The product with weights of 8 bits and inputs of 15: a row of the input is two of 8 bits, for one reading."""

    __slots__ = ()

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight, torch.zeros(len(weight)))
        self._product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        most = 63 if self._reduce_range else 127
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST) / most
        steps = x / scale
        whole = steps.round()
        rows = torch.cat([whole, (steps - whole) * (2 * most)])
        coarse, fine = self._product(rows, 1.0, most + 1, self._weight).chunk(2)
        return torch.add(coarse, fine, alpha=0.5 / most).mul_(scale)


def quantised_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of any float type in signed 8 bits, and the scale of each of its rows."""
    scales, rows = torch.empty(len(weight), dtype=torch.double), torch.empty(weight.shape, dtype=torch.int8)
    for start in range(0, len(weight), 4096):  # all of a vocabulary in 64-bit floats would take 212 MB
        part = slice(start, start + 4096)
        scales[part] = weight[part].float().abs().amax(1).clamp_min(SMALLEST).double() / 127
        rows[part] = (weight[part] / scales[part, None]).round().to(torch.int8)
    return rows, scales


def packed_bytes(weight: torch.ScriptObject) -> int:
    """Bytes of the packed weight that an `Int8Linear` keeps."""
    unpacked, _ = torch.ops.quantized.linear_unpack(weight)
    return int(unpacked.numel())


def padded_rows(n: int) -> int:
    """The least multiple of `ROWS` that is not below ``n``."""
    return -(-n // ROWS) * ROWS


def split_rows(x: torch.Tensor) -> Sequence[torch.Tensor]:
    """The rows in parts of at most `MOST_ROWS`, zero-padded to a multiple of `ROWS` unless there is only one row."""
    rows = x.reshape(-1, x.shape[-1])
    lacking = padded_rows(len(rows)) - len(rows)
    if lacking and len(rows) > 1:
        rows = F.pad(rows, (0, 0, 0, lacking))
    return torch.split(rows, MOST_ROWS)


def _joined(parts: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return rows[: math.prod(shape[:-1])].view(*shape)


@cache
def operator_works(operator: Operator) -> bool:
    """Whether torch's operator exists and computes a small example on the CPU correctly; logs a warning if not."""
    try:
        error = _error(operator)
        if error < _TOLERANCE[operator]:
            return True
        reason = f"relative error {error:.3g}"
    except Exception as failure:  # another torch may refuse the call with any error
        if is_lack_of_memory(failure):
            raise
        reason = brief(failure)
    _log.warning("torch %s: its %s operator is not used (%s)", torch.__version__, operator, reason)
    return False


def _error(operator: Operator) -> float:
    """The largest relative error of the operator's functions against plain torch."""
    kind = torch.bfloat16 if operator == "bf16" else torch.float32
    weight, x, to = (torch.arange(32 * 32).add(n).sin().view(32, 32).to(kind) for n in (1, 2, 3))
    with torch.inference_mode():
        if operator == "int8 rows":
            pairs = [(Int8Rows(weight)(x), F.linear(x, weight))]
        else:
            kinds = {"int8": Int8Linear, "mixed": MixedLinear}.get(operator, OneDnnLinear), Linear
            layer, exact = (make(weight, weight[0]) for make in kinds)
            pairs = [(layer(x), exact(x)), (layer.gelu(x), exact.gelu(x))]
            pairs += [(layer.added(x, to), exact.added(x, to)), (layer(x[:1]), exact(x[:1]))]
        return max(float((found - right).norm() / right.norm()) for found, right in pairs)

"""Linear layers with packed weights in fp32, bf16 or int8, and the only place that uses torch's unstable operators.

On a CPU, fp32 and bf16 use oneDNN with weights that are packed once. On some processors fp32 takes half the time that
way, and a following addition or GELU needs no pass of its own. bf16 is twice as fast again where the CPU multiplies it.

int8 reads a quarter of the memory. A few channels of Whisper's activations are far larger than the rest: one scale for
a whole window leaves few steps for small rows. Here each row of the input (a position, a token) has its own scale, and
so has each row of the weights. On two-second windows of speech the relative error of the encoder's output is 5 to 6 %
(9 % without VNNI), against 16 to 26 % with torch's dynamic quantisation of whole tensors.

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

Precision: TypeAlias = Literal["fp32", "bf16", "int8"]
Part: TypeAlias = Literal["encoder", "language-ID", "decoder"]  # language-ID: the encoder for it
ENCODERS: tuple[Part, Part] = "encoder", "language-ID"
Operator: TypeAlias = Literal["fp32", "bf16", "int8", "int8 rows"]

SMALLEST = 1e-9  # the least scale: a row of zeros has none
PACKED_ROWS = 100  # positions in 2 s, for which packed weights are laid out

# oneDNN generates code for every number of rows, about 600 KB per layer, and keeps it. Numbers of rows that are
# multiples of `ROWS` up to `MOST_ROWS` keep that below 30 MB, whatever lengths a stream has.
ROWS = 16
MOST_ROWS = 8 * ROWS

# The largest relative error of an operator that works; a wrong result is off by far more.
_TOLERANCE: dict[Operator, float] = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.03, "int8 rows": 0.03}

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

    None chooses the fastest that does no harm: bf16 for the encoder where the CPU multiplies it, otherwise int8,
    otherwise fp32. The decoder reads all weights for every single token, so int8 is fastest for it. With VNNI, but
    without AMX, it also is for language-ID, whose windows are short; there the errors of 8 bits do no harm.
    """
    if asked is None:
        vnni, _, amx = cpu_instructions()
        in_8_bits = part == "decoder" or (part == "language-ID" and vnni and not amx and has_int8(device))
        if not in_8_bits and has_bf16(device):
            return "bf16"
        return "int8" if has_int8(device) else "fp32"
    check_type("precision", asked, Precision)
    if asked == "int8" and not has_int8(device):
        needed = "an x86 CPU and a torch with quantised operators"
        got = f"device {device} and torch {torch.__version__}"
        raise ConfigurationError(f"precision int8 needs {needed}, got {got}; fp32 runs everywhere")
    if asked == "bf16" and not has_bf16(device):
        needed = "a CPU with AVX-512 BF16 or AMX, or a GPU that multiplies it"
        raise ConfigurationError(f"precision bf16 needs {needed}, got device {device}; int8 and fp32 run on more")
    return cast(Precision, asked)


def activations(precision: Precision) -> torch.dtype:
    """The type of the input and output of a layer."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def packed_linear(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision, fast: bool = True) -> "Linear":
    """The layer of a weight of shape (outputs, inputs). It keeps a copy in that precision and no other.

    With ``fast`` False it is plain torch, which can be compiled.
    """
    if bias is None:
        bias = torch.zeros(len(weight), device=weight.device)
    weight, bias, kind = weight.detach().float().contiguous(), bias.detach().float(), activations(precision)
    packed = Int8Linear if precision == "int8" else OneDnnLinear
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
        """The linear layer plus a tensor of its output's shape, which is not changed."""
        return self(x).add_(to)


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
        add = torch.ops.mkldnn._linear_pointwise.binary
        pairs = zip(split_rows(x), split_rows(to), strict=True)
        return _joined([add(rows, base, self._weight, self._bias, "add") for rows, base in pairs], to.shape)

    def _pointwise(self, x: torch.Tensor, name: str, variant: str) -> torch.Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        parts = [linear(rows, self._weight, self._bias, name, [], variant) for rows in split_rows(x)]
        return _joined(parts, (*x.shape[:-1], len(self._bias)))


class Int8Linear(Linear):
    """Torch's dynamically quantised linear layer, with one scale per row of the input; ``weight`` of any float type."""

    __slots__ = ("_product", "_reduce_range")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        scales, zeros = torch.empty(len(weight), dtype=torch.double), torch.zeros(len(weight), dtype=torch.long)
        rows = torch.empty(weight.shape, dtype=torch.int8)
        for start in range(0, len(weight), 4096):  # all of a vocabulary in 64-bit floats would take 212 MB
            part = slice(start, start + 4096)
            scales[part] = weight[part].float().abs().amax(1).clamp_min(SMALLEST).double() / 127
            rows[part] = (weight[part] / scales[part, None]).round().to(torch.int8)
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
            kinds = Int8Linear if operator == "int8" else OneDnnLinear, Linear
            layer, exact = (make(weight, weight[0]) for make in kinds)
            pairs = [(layer(x), exact(x)), (layer.gelu(x), exact.gelu(x))]
            pairs += [(layer.added(x, to), exact.added(x, to)), (layer(x[:1]), exact(x[:1]))]
        return max(float((found - right).norm() / right.norm()) for found, right in pairs)

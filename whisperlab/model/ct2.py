"""Read Whisper weights from CTranslate2's ``model.bin`` and name them as openai-whisper does. NumPy only.

CTranslate2 stacks matrices that openai-whisper keeps apart: query, key and value of a self-attention, key and value of
a cross-attention. The stored values are cut and renamed, not computed, so they stay the same bit by bit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.errors import WeightsError

Array = NDArray[np.generic]
Variables = dict[str, Array]

_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}  # CTranslate2's DataType enumeration

# CTranslate2's module -> the openai-whisper modules stacked in it along the first axis.
_OUTSIDE = {
    "encoder/conv1": ("encoder.conv1",),
    "encoder/conv2": ("encoder.conv2",),
    "encoder/layer_norm": ("encoder.ln_post",),
    "decoder/layer_norm": ("decoder.ln",),
    "decoder/embeddings": ("decoder.token_embedding",),
}
_BLOCK = {
    "self_attention/layer_norm": ("attn_ln",),
    "self_attention/linear_0": ("attn.query", "attn.key", "attn.value"),
    "self_attention/linear_1": ("attn.out",),
    "ffn/layer_norm": ("mlp_ln",),
    "ffn/linear_0": ("mlp.0",),
    "ffn/linear_1": ("mlp.2",),
}
_CROSS = {
    "attention/layer_norm": ("cross_attn_ln",),
    "attention/linear_0": ("cross_attn.query",),
    "attention/linear_1": ("cross_attn.key", "cross_attn.value"),
    "attention/linear_2": ("cross_attn.out",),
}
# The tensors of a module, by CTranslate2's names, and openai-whisper's names for them.
_LEAVES = {"layer_norm": {"gamma": "weight", "beta": "bias"}, "embeddings": {"weight": "weight"}}
_LINEAR = {"weight": "weight", "bias": "bias"}


@dataclass(slots=True)
class _Cursor:
    """A position in the bytes of a ``model.bin``, advanced by every read."""

    data: bytes
    at: int = 0

    def take(self, n_bytes: int) -> memoryview:
        if self.at + n_bytes > len(self.data):
            raise WeightsError(
                f"model.bin is cut short: byte {self.at + n_bytes} is needed and it has {len(self.data)}"
            )
        self.at += n_bytes
        return memoryview(self.data)[self.at - n_bytes : self.at]

    def number(self, kind: str) -> int:
        """One little-endian unsigned integer: ``B`` 8, ``H`` 16 or ``I`` 32 bits."""
        return int(struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0])

    def string(self) -> str:
        """A 16-bit length and that many bytes, of which the last is NUL."""
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()

    def variable(self) -> tuple[str, Array]:
        name = self.string()
        shape = [self.number("I") for _ in range(self.number("B"))]
        code = self.number("B")
        if code not in _DTYPES:
            raise WeightsError(f"model.bin stores {name} as type {code}, expected one of {sorted(_DTYPES)}")
        return name, np.frombuffer(self.take(self.number("I")), _DTYPES[code]).reshape(shape)


def read_variables(data: bytes) -> Variables:
    """All variables of a CTranslate2 Whisper by name. The arrays are read-only views of ``data``.

    Raises WeightsError if the bytes are cut short, or of another format version or model kind.
    """
    cursor = _Cursor(data)
    version, kind = cursor.number("I"), cursor.string()
    if (version, kind) != (_VERSION, "WhisperSpec"):
        raise WeightsError(f"expected a CTranslate2 WhisperSpec of version {_VERSION}, got {kind!r} of {version}")
    cursor.number("I")  # the specification's revision, which does not affect weights
    return dict(cursor.variable() for _ in range(cursor.number("I")))


def to_openai(variables: Mapping[str, Array]) -> tuple[dict[str, int], Variables]:
    """``(dims, state_dict)`` as in openai-whisper's checkpoints, with the arrays in their stored precision.

    Raises WeightsError if a variable is missing or quantised, or if a key bias is not zero (openai-whisper's keys have
    no bias).
    """
    try:
        dims = {"n_mels": variables["encoder/conv1/weight"].shape[1]}
        dims["n_vocab"] = variables["decoder/embeddings/weight"].shape[0]
        state: Variables = {}
        modules: dict[str, tuple[str, ...]] = dict(_OUTSIDE)
        for half, theirs, parts in (("encoder", "audio", _BLOCK), ("decoder", "text", _BLOCK | _CROSS)):
            places = variables[f"{half}/position_encodings/encodings"]
            state[f"{half}.positional_embedding"] = places
            dims |= {f"n_{theirs}_ctx": places.shape[0], f"n_{theirs}_state": places.shape[1]}
            layers = {name.split("/")[1] for name in variables if re.match(rf"{half}/layer_\w+/ffn/", name)}
            dims |= {f"n_{theirs}_head": int(variables[f"{half}/num_heads"]), f"n_{theirs}_layer": len(layers)}
            for n, (part, names) in product(range(len(layers)), parts.items()):
                modules[f"{half}/layer_{n}/{part}"] = tuple(f"{half}.blocks.{n}.{name}" for name in names)
        for module, targets in modules.items():
            state.update(_unstack(variables, module, targets))
    except KeyError as error:
        raise WeightsError(f"model.bin has no variable {error.args[0]!r}") from error
    return dims, state


def _unstack(variables: Mapping[str, Array], module: str, targets: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """The weight and bias of one CTranslate2 module, cut into those of openai-whisper's modules."""
    for leaf, name in _LEAVES.get(module.rpartition("/")[2], _LINEAR).items():
        stacked = variables[f"{module}/{leaf}"]
        if stacked.dtype.kind != "f":
            raise WeightsError(f"model.bin stores {module}/{leaf} as {stacked.dtype}: quantised weights cannot be used")
        for target, part in zip(targets, np.split(stacked, len(targets)), strict=True):
            if not target.endswith(".key") or leaf != "bias":
                yield f"{target}.{name}", part
            elif part.any():
                raise WeightsError(f"model.bin has a bias for {target}, where openai-whisper has none")

"""Reading checkpoints of openai-whisper (``.pt``) and CTranslate2 (``model.bin``) safely, and checks for all formats.

Untrusted files are checked before memory is taken for them. ``torch.load(weights_only=True)`` runs no code of a file.
CTranslate2 stacks matrices that openai-whisper keeps apart: query, key and value of a self-attention, key and value of
a cross-attention. The stored values are cut and renamed, not computed, so they stay the same bit by bit.
"""

import ctypes
import hashlib
import json
import mmap
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.errors import WeightsError, translate
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.generic]
Variables = dict[str, Array]

SAFETENSORS = "a safetensors file"
_CT2_VERSION = 6
_HALVES = {"encoder": "audio", "decoder": "text"}  # the names of the halves in openai-whisper's dimensions
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # CTranslate2's DataType; 5 is bfloat16

# Tables of names: first bytes of files that are often taken for checkpoints; shapes of openai-whisper's tensors, of
# numbers, dimensions and four times a dimension; the modules of openai-whisper that are stacked in one of CTranslate2's
# along the first axis; and Hugging Face's names for dimensions and parts of names.
TABLES = json.loads((Path(__file__).parent / "data" / "formats.json").read_text(encoding="utf-8"))


class UnavailableError(WeightsError):
    """One source has no usable weights. The next source is tried."""


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """Weights by openai-whisper's names, and what the folder around them states."""

    path: Path
    dims: Mapping[str, int]
    state: "Mapping[str, Tensor]"
    mapped: bool = False  # whether the tensors lie in a memory-mapped file
    heads: tuple[tuple[int, int], ...] = ()  # alignment heads as (layer, head); empty: not stated
    added: tuple[tuple[int, str], ...] = ()  # tokens of text that are not Whisper's: id and text
    english_only: bool = False  # whether the folder states English alone; the vocabulary's size may also say so


def read_checkpoint(path: Path, *, verify: bool = False) -> Checkpoint:
    """A checkpoint, mapped into memory unless its format is the oldest; UnavailableError if the file is none.

    ``verify`` compares the checksums in the file: for a checkpoint without a known digest.
    """
    stored, mapped = unpickled(path, verify=verify)
    if not (isinstance(stored, dict) and {"dims", "model_state_dict"} <= stored.keys()):
        raise UnavailableError(f"{path} is not a checkpoint of openai-whisper: dims and model_state_dict are missing")
    check_contents(path, stored["dims"], stored["model_state_dict"])
    return Checkpoint(path, stored["dims"], stored["model_state_dict"], mapped)


def unpickled(path: Path, *, verify: bool) -> tuple[object, bool]:
    """What torch.save wrote, and whether its tensors are mapped; arguments and errors as for `read_checkpoint`."""
    import torch

    unreadable = f"{path} cannot be read as a checkpoint"
    if found := kind(path):
        raise UnavailableError(f"{unreadable}: it is {found}, not of openai-whisper, Hugging Face or CTranslate2")
    with translate(UnavailableError, unreadable, Exception):  # a damaged file makes it raise nearly anything
        mapped = zipfile.is_zipfile(path)
        if mapped and verify:
            check_archive(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), mapped
        except pickle.UnpicklingError as error:  # torch's own message advises loading the file unsafely
            wrong = f"{unreadable}: torch.save did not write it, or it holds more than tensors"
            raise UnavailableError(wrong) from error


def check_archive(path: Path) -> None:
    """Raise BadZipFile if a part of an archive does not have its checksum, which torch does not compare."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{path} is damaged (at {damaged}): get the file again")


def kind(path: Path) -> str:
    """The kind of a file that is not a checkpoint, by its first bytes; empty if they do not say."""
    with translate(UnavailableError, f"{path} cannot be read", OSError), path.open("rb") as file:
        head = file.read(32)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return SAFETENSORS
    fits = head.startswith((b"PK", b"\x80")) or not head
    others = TABLES["first bytes of other kinds of files"].items()
    kinds = (kind for start, kind in others if head.lstrip(b" \r\n").startswith(start.encode()))
    return next(kinds, "" if fits else "not written by torch.save")


def check_contents(path: Path, dims: object, state: object) -> None:
    """Raise UnavailableError unless dims are named integers and the state is named, complete tensors."""
    import torch

    unfit = f"{path} is not a checkpoint of Whisper:"
    if not (isinstance(dims, dict) and all(type(size) is int for size in dims.values())):
        raise UnavailableError(f"{unfit} its dims are {shown(dims)}")
    if not isinstance(state, dict):
        raise UnavailableError(f"{unfit} its weights are {shown(state)}")
    for name, tensor in state.items():
        dense = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_meta
        complete = dense and tensor.is_floating_point() and tensor.nbytes <= tensor.untyped_storage().nbytes()
        if not (isinstance(name, str) and complete):
            wanted = "should be a tensor of floats, dense and as large as it says"
            raise UnavailableError(f"{unfit} {shown(name)} {wanted}, and is {shown(tensor)}")


def check_fit(checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a tensor is missing, or its shape differs from the dimensions."""
    dims, unfit = checkpoint.dims, f"{checkpoint.path} does not fit openai-whisper's model:"
    of_halves = [f"n_{half}_{size}" for half in ("audio", "text") for size in ("ctx", "state", "head", "layer")]
    for name in ("n_mels", "n_vocab", *of_halves):
        if name not in dims:
            raise WeightsError(f"{unfit} dimension {name!r} is missing")
        if dims[name] < 1:
            raise WeightsError(f"{unfit} {name} should be 1 or more, it is {dims[name]}")
    for half in ("audio", "text"):
        state, heads = dims[f"n_{half}_state"], dims[f"n_{half}_head"]
        if state % heads:
            raise WeightsError(f"{unfit} its {heads} n_{half}_head do not divide {state} n_{half}_state")
    for name, shape in tensor_shapes(dims):  # lazily: of a million layers the first missing one is enough
        found = tuple(checkpoint.state[name].shape) if name in checkpoint.state else "none"
        if found != shape:
            raise WeightsError(f"{unfit} {name} should have shape {shape}, it has {found}")


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a weight is NaN or infinite."""
    import torch

    for name, tensor in checkpoint.state.items():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise WeightsError(f"{checkpoint.path}: {bad} of {tensor.numel()} weights in {name} are NaN or infinite")


def tensor_shapes(dims: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model."""
    sizes: dict[Any, int] = {**dims} | {f"4 {name}": 4 * dims[name] for name in ("n_audio_state", "n_text_state")}
    shapes = TABLES["shapes"]
    for name, shape in shapes["outside the blocks"].items():
        yield name, tuple(sizes.get(size, size) for size in shape)
    for half, n_layers in (("encoder", dims["n_audio_layer"]), ("decoder", dims["n_text_layer"])):
        for index in range(n_layers):
            for name, shape in shapes[f"{half} block"].items():
                yield f"{half}.blocks.{index}.{name}", tuple(sizes.get(size, size) for size in shape)


def tensor_digest(state: "Mapping[str, Tensor]", *, mapped: bool = False) -> str:
    """SHA-256 (hex) of names, shapes and values, independent of file format, order and storage precision.

    Values count as little-endian float16 if that is exact, otherwise as float32. The pages of tensors that lie in a
    memory-mapped file (``mapped``) are released after reading.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        stored = state[name].detach().cpu()
        if stored.dtype is not torch.float16:
            single = stored.float()
            half = single.half()
            stored = half if bool((half.float() == single).all()) else single
        digest.update(f"{name} {tuple(stored.shape)}\n".encode())
        digest.update(stored.contiguous().numpy().data)
        if mapped:
            release_pages(state[name])
    return digest.hexdigest()


def release_pages(mapped: "Tensor") -> None:
    """Let the system drop the memory pages of a tensor in a mapped file, which was never written to."""
    if sys.platform != "linux":
        return
    start, size = mapped.untyped_storage().data_ptr(), mapped.untyped_storage().nbytes()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def read_variables(data: bytes | mmap.mmap) -> Variables:
    """All variables of a CTranslate2 Whisper by name. The arrays are read-only views of ``data``, except of bfloat16.

    Raises WeightsError if the bytes are cut short, or of another format version or model kind.
    """
    at = 0

    def take(n_bytes: int) -> memoryview:
        nonlocal at
        at += n_bytes
        if at > len(data):
            raise WeightsError(f"model.bin is cut short: byte {at} is needed and it has {len(data)}")
        return memoryview(data)[at - n_bytes : at]

    def number(kind: str) -> int:  # little-endian and unsigned: B 8, H 16 or I 32 bits
        return int(struct.unpack("<" + kind, take(struct.calcsize(kind)))[0])

    def string() -> str:  # a 16-bit length and that many bytes, of which the last is NUL
        return bytes(take(number("H"))).rstrip(b"\0").decode()

    version, model = number("I"), string()
    if (version, model) != (_CT2_VERSION, "WhisperSpec"):
        raise WeightsError(f"expected a CTranslate2 WhisperSpec of version {_CT2_VERSION}, got {model!r} of {version}")
    number("I")  # the specification's revision, which does not affect weights
    variables: Variables = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        code = number("B")
        if code not in _DTYPES:
            raise WeightsError(f"model.bin stores {name} as type {code}, expected one of {sorted(_DTYPES)}")
        found = np.frombuffer(take(number("I")), _DTYPES[code]).reshape(shape)
        variables[name] = (found.astype("<u4") << 16).view("<f4") if code == 5 else found
    for _ in range(number("I")):  # other names for variables with the same values
        alias, name = string(), string()
        if name in variables:
            variables[alias] = variables[name]
    return variables


def to_openai(variables: Mapping[str, Array]) -> tuple[dict[str, int], Variables]:
    """``(dims, state_dict)`` as in openai-whisper's checkpoints, with the arrays in their stored precision.

    Quantised weights become the float32 that they stand for: integers, divided by the scale of their row. Raises
    WeightsError if a variable is missing, or if a key bias is not zero (openai-whisper's keys have no bias).
    """
    try:
        dims = {"n_mels": variables["encoder/conv1/weight"].shape[1]}
        dims["n_vocab"] = variables["decoder/embeddings/weight"].shape[0]
        state: Variables = {}
        for half, theirs in _HALVES.items():
            places = variables[f"{half}/position_encodings/encodings"]
            state[f"{half}.positional_embedding"] = places
            dims |= {f"n_{theirs}_ctx": places.shape[0], f"n_{theirs}_state": places.shape[1]}
            layers = {name.split("/")[1] for name in variables if re.match(rf"{half}/layer_\w+/ffn/", name)}
            dims |= {f"n_{theirs}_head": int(variables[f"{half}/num_heads"]), f"n_{theirs}_layer": len(layers)}
        for module, targets in _modules(dims).items():
            state.update(_unstack(variables, module, targets))
    except KeyError as error:
        raise WeightsError(f"model.bin has no variable {error.args[0]!r}") from error
    return dims, state


def to_ctranslate2(dims: Mapping[str, int], state: "Mapping[str, Tensor]") -> bytes:
    """The ``model.bin`` of a model, in float16 where that is stored, otherwise float32; `to_openai` is the inverse."""
    settings = TABLES["CTranslate2"]["settings"]
    variables: Variables = {name: np.array(value, kind) for name, (kind, value) in settings.items()}
    for half, theirs in _HALVES.items():
        variables[f"{half}/num_heads"] = np.array(dims[f"n_{theirs}_head"], np.int16)
        variables[f"{half}/position_encodings/encodings"] = _array(state[f"{half}.positional_embedding"])
    for module, sources in _modules(dims).items():
        for leaf, name in _leaves(module).items():
            width = len(state[f"{sources[0]}.weight"])
            found = [state.get(f"{source}.{name}") for source in sources]  # keys have no bias
            parts = [np.zeros(width, np.float16) if part is None else _array(part) for part in found]
            variables[f"{module}/{leaf}"] = np.concatenate(parts)
    codes = {np.dtype(kind): code for code, kind in _DTYPES.items()}
    written = [struct.pack("<I", _CT2_VERSION), _string("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        written += [_string(name), shape, struct.pack("<BI", codes[value.dtype], value.nbytes), value.tobytes()]
    alias = map(_string, ("decoder/projection/weight", "decoder/embeddings/weight"))
    return b"".join([*written, struct.pack("<I", 1), *alias])


def _array(tensor: "Tensor") -> Array:
    stored = tensor.detach().cpu()
    found: Array = (stored if str(stored.dtype) == "torch.float16" else stored.float()).numpy()
    return found


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def _modules(dims: Mapping[str, int]) -> dict[str, Sequence[str]]:
    """CTranslate2's modules, each with those of openai-whisper that it stacks."""
    tables = TABLES["CTranslate2"]
    modules: dict[str, Sequence[str]] = dict(tables["outside the blocks"])
    for half, theirs in _HALVES.items():
        parts = tables["block"] | (tables["cross-attention"] if half == "decoder" else {})
        for n, (part, names) in product(range(dims[f"n_{theirs}_layer"]), parts.items()):
            modules[f"{half}/layer_{n}/{part}"] = [f"{half}.blocks.{n}.{name}" for name in names]
    return modules


def _leaves(module: str) -> Mapping[str, str]:
    """CTranslate2's names of the tensors of a module, each with openai-whisper's."""
    layers = TABLES["CTranslate2"]["tensors of a layer"]
    found: Mapping[str, str] = layers.get(module.rpartition("/")[2], layers["linear"])
    return found


def _unstack(variables: Mapping[str, Array], module: str, targets: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """The weight and bias of one CTranslate2 module, cut into those of openai-whisper's modules."""
    for leaf, name in _leaves(module).items():
        stacked = variables[f"{module}/{leaf}"]
        if stacked.dtype.kind != "f":
            scale = variables[f"{module}/{leaf}_scale"]
            stacked = np.divide(stacked, scale.reshape(-1, *[1] * (stacked.ndim - 1)), dtype=np.float32)
        for target, part in zip(targets, np.split(stacked, len(targets)), strict=True):
            if not target.endswith(".key") or leaf != "bias":
                yield f"{target}.{name}", part
            elif part.any():
                raise WeightsError(f"model.bin has a bias for {target}, where openai-whisper has none")

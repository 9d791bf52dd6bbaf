"""Reading checkpoints of openai-whisper (``.pt``) safely: untrusted files are checked before memory is taken for them.

Checkpoints are read by ``torch.load(weights_only=True)`` only, so a file cannot run code.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.util.errors import WeightsError, brief, is_lack_of_memory
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    from torch import Tensor

_DIMS = (
    *("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer"),
)

# First bytes of files that are often taken for checkpoints.
_KINDS = {
    b"GGUF": "a GGUF model, of llama.cpp or CrispASR",
    b"lmgg": "a GGML model, of whisper.cpp",
    b"RIFF": "audio (WAV)",
    b"OggS": "audio (Ogg)",
    b"fLaC": "audio (FLAC)",
    b"ID3": "audio (MP3)",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"<": "a web page",
}


class UnavailableError(WeightsError):
    """One source has no usable weights. The next source is tried."""


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """Weights by openai-whisper's names, and their file; ``mapped`` if the tensors lie in the memory-mapped file."""

    path: Path
    dims: Mapping[str, int]
    state: Mapping[str, Tensor]
    mapped: bool = False


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, mapped into memory where its format allows that: all but the oldest.

    Raises UnavailableError if the file is not a checkpoint. Checksums are not compared: see `read_verified`.
    """
    import torch

    unreadable = f"{path} cannot be read as a checkpoint"
    if kind := _kind(path):
        raise UnavailableError(f"{unreadable}: it is {kind}; a checkpoint of openai-whisper (.pt) is needed")
    try:
        mapped = zipfile.is_zipfile(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # torch's own message advises loading the file unsafely
        raise UnavailableError(f"{unreadable}: torch.save did not write it, or it holds more than tensors") from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        if is_lack_of_memory(error):
            raise
        raise UnavailableError(f"{unreadable} ({brief(error)})") from error
    if not (isinstance(stored, dict) and {"dims", "model_state_dict"} <= stored.keys()):
        raise UnavailableError(f"{path} is not a checkpoint of openai-whisper: dims and model_state_dict are missing")
    _check_contents(path, stored["dims"], stored["model_state_dict"])
    return Checkpoint(path, stored["dims"], stored["model_state_dict"], mapped)


def read_verified(path: Path) -> Checkpoint:
    """A checkpoint without a known digest: its parts are compared with the checksums in the file, unlike in torch."""
    checkpoint, damaged = read_checkpoint(path), None
    try:
        if checkpoint.mapped:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        if is_lack_of_memory(error):
            raise
        damaged = brief(error)
    if damaged:
        raise WeightsError(f"{path} is damaged (at {damaged}): get the file again")
    return checkpoint


def _kind(path: Path) -> str:
    """The kind of a file that is not a checkpoint, by its first bytes; empty if they do not say."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {brief(error)}") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "a safetensors file"
    known = next((kind for start, kind in _KINDS.items() if head.lstrip(b" \r\n").startswith(start)), "")
    if known or head.startswith((b"PK", b"\x80")) or not head:
        return known
    return "not written by torch.save"


def _check_contents(path: Path, dims: object, state: object) -> None:
    """Raise UnavailableError unless dims are named integers and the state is named, complete tensors."""
    unfit = f"{path} is not a checkpoint of openai-whisper:"
    if not (isinstance(dims, dict) and all(type(size) is int for size in dims.values())):
        raise UnavailableError(f"{unfit} its dims are {shown(dims)}")
    if not isinstance(state, dict):
        raise UnavailableError(f"{unfit} its weights are {shown(state)}")
    for name, tensor in state.items():
        if not (isinstance(name, str) and _is_complete(tensor)):
            wanted = "should be a tensor of floats, dense and as large as it says"
            raise UnavailableError(f"{unfit} {shown(name)} {wanted}, and is {shown(tensor)}")


def _is_complete(tensor: object) -> bool:
    """Whether a value is a dense tensor of real floats whose values all lie in the file, each once."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return tensor.is_floating_point() and tensor.nbytes <= tensor.untyped_storage().nbytes()


def check_fit(checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a tensor is missing, or its shape differs from the dimensions."""
    dims, unfit = checkpoint.dims, f"{checkpoint.path} does not fit openai-whisper's model:"
    for name in _DIMS:
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
    audio, text = dims["n_audio_state"], dims["n_text_state"]
    yield from _layer("encoder.conv1", audio, dims["n_mels"], 3)
    yield from _layer("encoder.conv2", audio, audio, 3)
    yield "encoder.positional_embedding", (dims["n_audio_ctx"], audio)
    yield "decoder.token_embedding.weight", (dims["n_vocab"], text)
    yield "decoder.positional_embedding", (dims["n_text_ctx"], text)
    yield from _layer("encoder.ln_post", audio)
    yield from _layer("decoder.ln", text)
    for half, n_layers, state in (("encoder", dims["n_audio_layer"], audio), ("decoder", dims["n_text_layer"], text)):
        for index in range(n_layers):
            block = f"{half}.blocks.{index}"
            for attention in ("attn", "cross_attn")[: 1 if half == "encoder" else 2]:
                for layer in ("query", "value", "out"):
                    yield from _layer(f"{block}.{attention}.{layer}", state, state)
                yield f"{block}.{attention}.key.weight", (state, state)
                yield from _layer(f"{block}.{attention}_ln", state)
            yield from _layer(f"{block}.mlp.0", 4 * state, state)
            yield from _layer(f"{block}.mlp.2", state, 4 * state)
            yield from _layer(f"{block}.mlp_ln", state)


def _layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def tensor_digest(state: Mapping[str, Tensor], *, mapped: bool = False) -> str:
    """SHA-256 (hex) of names, shapes and values, independent of file format, order and storage precision.

    Values count as little-endian float16 if that is exact, otherwise as float32. A half-precision checkpoint and the
    single-precision model made from it have the same digest. ``mapped``: the tensors lie in a memory-mapped file, and
    their pages are released after reading.
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


def release_pages(mapped: Tensor) -> None:
    """Let the system drop the memory pages of a tensor in a mapped file; they are read from the file when needed.

    Only for tensors that were never written to. Memory without a file would become zeros.
    """
    if sys.platform != "linux":
        return
    start, size = mapped.untyped_storage().data_ptr(), mapped.untyped_storage().nbytes()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)

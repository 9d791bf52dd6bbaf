"""The encoder as machine code: exported by torch.export, compiled by AOTInductor, and cached on disk.

torch.compile would compile in every process, at the first window. The code here runs for any number of positions and
threads. Compiling needs a C++ compiler. If it fails, the network runs uncompiled and the reason is logged.

The network is split where positions may be pooled. Language ID (pooled) and text (not pooled) share the weights.
"""

import hashlib
import logging
import os
import stat
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch

from whisperlab.model.checkpoints import check_archive, tensor_digest
from whisperlab.model.downloads import Say
from whisperlab.model.encoder import FEW_ROWS, MANY_ROWS, WINDOW_ROWS, Network, ShortWindowEncoder
from whisperlab.model.linear import ROWS, Precision, activations, instruction_set, padded_rows
from whisperlab.model.weights import Weights, cache_dir
from whisperlab.util.errors import ConfigurationError, brief, is_lack_of_memory
from whisperlab.util.files import atomic_path, locked_folder, part_folder
from whisperlab.util.process import safe_path

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
PartName = Literal["head", "tail"]

VERSION = 4  # of the compiled functions and of how they are compiled; part of an artefact's name

_log = logging.getLogger(__name__)
_loading = threading.Lock()
_digests: WeakKeyDictionary[Weights, str] = WeakKeyDictionary()


def masked_attention(fused: torch.Tensor, n_head: int, seen: torch.Tensor) -> torch.Tensor:
    """From shape (1, rows, 3 states) to one state; ``seen`` is 0 for a position, -inf for a row of padding."""
    query, key, value = fused.view(*fused.shape[:2], 3, n_head, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return ((query @ key.transpose(-1, -2) + seen).softmax(-1) @ value).transpose(1, 2).flatten(2)


class Part(torch.nn.Module):
    """`Network.head` or `Network.tail`, by ``name``, in plain torch and for one window."""

    def __init__(self, name: PartName, weights: Weights, precision: Precision, split: int) -> None:
        super().__init__()
        self._run = partial(getattr(Network(weights, precision, masked_attention, fast=False), name), split=split)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._run(x, seen)
        return found


class CompiledNetwork(Network):
    """The network of two compiled parts. The windows of a batch run one by one."""

    compiled = True

    def __init__(self, head: Forward, tail: Forward, precision: Precision, split: int) -> None:
        self._head, self._tail, self._split, self.kind = head, tail, split, activations(precision)

    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        if pool_after not in (None, self._split):
            allowed = f"{self._split} blocks or None"
            raise ConfigurationError(f"pool_after: this encoder was compiled for {allowed}, got {pool_after}")
        run = super().__call__
        return torch.cat([run(window[None], pool_after) for window in mel])

    def rows(self, n: int) -> int:
        """There are few different numbers, because oneDNN keeps code for each."""
        return padded_rows(n) if n <= FEW_ROWS else -(-n // MANY_ROWS) * MANY_ROWS

    def seen(self, n: int) -> torch.Tensor:
        """The mask of `masked_attention`."""
        mask = torch.zeros(self.rows(n), dtype=self.kind)
        mask[n:] = -torch.inf
        return mask

    def head(self, x: torch.Tensor, seen: torch.Tensor, split: int) -> torch.Tensor:
        return self._head(x, seen)

    def tail(self, x: torch.Tensor, seen: torch.Tensor, split: int) -> torch.Tensor:
        return self._tail(x, seen)


def compiled_encoder(weights: Weights, precision: Precision, split: int, say: Say = _log.info) -> ShortWindowEncoder:
    """The compiled encoder in fp32 or bf16 on the CPU, which can pool after ``split`` blocks.

    Compiling takes a minute or two, once per model, precision, split, version of torch and kind of processor; the code
    is cached. If it fails, the uncompiled encoder is returned and a warning is logged.
    """
    if precision == "int8" or weights.device.type != "cpu":
        got = f"got precision {precision} on {weights.device}"
        raise ConfigurationError(f"the compiled encoder is for fp32 and bf16 on the CPU, {got}")
    if not 0 <= split < weights.dims["n_audio_layer"]:
        raise ConfigurationError(f"split must be 0 to {weights.dims['n_audio_layer'] - 1} blocks, got {split}")
    try:
        head, tail = (_loaded(name, weights, precision, split, say) for name in get_args(PartName))
    except Exception as error:  # a compiler can fail in any way, and the stream must go on
        _log.warning("the encoder runs uncompiled: %s", brief(error))
        return ShortWindowEncoder(weights, precision)
    return ShortWindowEncoder(weights, precision, CompiledNetwork(head, tail, precision, split))


def artefact(name: PartName, weights: Weights, precision: Precision, split: int) -> Path:
    """The path of a part's code. Its name is a digest of everything that the code depends on."""
    if weights not in _digests:  # of the encoder's tensors, once per model
        state = {key: value for key, value in weights.state.items() if key.startswith("encoder.")}
        _digests[weights] = tensor_digest(state, mapped=weights.mapped)
    facts = (
        *(VERSION, name, precision, split, _digests[weights], sorted(weights.dims.items())),
        *(torch.__version__, instruction_set(weights.device)),
    )
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    model = Path(weights.name).stem
    return cache_dir() / "compiled" / f"{model}-{precision}-{name}{split}-{digest}.pt2"


def _loaded(name: PartName, weights: Weights, precision: Precision, split: int, say: Say) -> Forward:
    """A part's code from the cache, compiled first if it is missing, and called twice to warm up."""
    path = artefact(name, weights, precision, split)
    torch_folder = path.with_name("torch")  # of code that torch makes to examine the processor, and runs at every load
    with _loading, safe_path(TORCHINDUCTOR_CACHE_DIR=str(torch_folder)):
        for folder in (path.parent, torch_folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(torch_folder)
        if not path.exists():
            with locked_folder(path.parent):  # removes what a killed process left
                say(f"compiling the encoder ({name}, {precision}): a minute, once")
                _compile(Part(name, weights, precision, split).eval(), _example(name, weights, precision), path)
        try:
            _check_ours(path)
            part = _load(path)
        except ConfigurationError:
            raise
        except Exception as error:
            if not is_lack_of_memory(error):
                path.unlink(missing_ok=True)  # damaged or foreign code is compiled again
            raise
    with torch.inference_mode():
        for _ in range(2):
            part(*_example(name, weights, precision))
    return part


def _check_ours(path: Path) -> None:
    """Raise ConfigurationError if another user could have written the code, because loading code runs it."""
    above = path.parent.resolve().parents  # may be sticky, or writable by the user's own group (umask 002)
    for place in filter(os.path.lexists, (path.parent, path, *above)):
        state = place.lstat()
        others = stat.S_IWOTH | (0 if place in above and state.st_gid == os.getegid() else stat.S_IWGRP)
        sticky = place in above and state.st_mode & stat.S_ISVTX
        theirs = state.st_uid not in (0, os.geteuid()) or (state.st_mode & others and not sticky)
        if stat.S_ISLNK(state.st_mode) or theirs:
            raise ConfigurationError(
                f"{place} is a link, belongs to another user or can be written by others "
                f"({stat.filemode(state.st_mode)}, user {state.st_uid}); code is compiled and loaded only in folders "
                "of your own: run chmod go-w, or name another folder with WHISPERLAB_CACHE"
            )


def _load(path: Path) -> Forward:
    from torch._inductor import aoti_load_package

    check_archive(path)
    package: Forward = aoti_load_package(str(path))
    return package


def _compile(module: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write the code of a module for any number of rows. The file appears under its name when it is complete."""
    from torch._inductor import aoti_compile_and_package, list_options
    from torch._inductor.utils import fresh_cache

    frames_a_row = example[0].shape[1] // example[1].shape[0]
    some = torch.export.Dim("some", min=1, max=WINDOW_ROWS // ROWS)
    shapes = {"x": {1: frames_a_row * ROWS * some}, "seen": {0: ROWS * some}}
    options = {"freezing": True, "cpp.dynamic_threads": True}
    # Torch keeps precompiled headers in a folder of the temporary directory that any user can make first.
    options |= {name: False for name in list_options() if name.endswith("precompile_headers")}
    with atomic_path(path) as part, part_folder("torch", path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.no_grad(), fresh_cache(dir=folder):
            exported = torch.export.export(module, example, dynamic_shapes=shapes)
            aoti_compile_and_package(exported, package_path=str(part), inductor_configs=options)
        part.chmod(0o600)


def _example(name: PartName, weights: Weights, precision: Precision) -> tuple[torch.Tensor, ...]:
    rows, kind = 9 * ROWS, activations(precision)
    shape = (1, 2 * rows, weights.dims["n_mels"]) if name == "head" else (1, rows, weights.dims["n_audio_state"])
    return torch.zeros(shape, dtype=kind), torch.zeros(rows, dtype=kind)

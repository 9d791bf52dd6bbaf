"""The encoder as machine code: exported by torch.export, compiled by AOTInductor, and cached on disk.

torch.compile would compile in every process, at the first window. The code here runs for any number of positions and
threads. Compiling needs a C++ compiler. If it fails, the network runs uncompiled and the reason is logged.

The network is split where positions may be pooled. Language ID (pooled) and text (not pooled) share the weights.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from whisperlab.model.checkpoints import check_archive, tensor_digest
from whisperlab.model.downloads import Say
from whisperlab.model.encoder import FEW_ROWS, MANY_ROWS, ShortWindowEncoder, convolution, fused_attention
from whisperlab.model.linear import ROWS, Precision, activations, cpu_instructions, padded_rows
from whisperlab.model.weights import Weights, cache_dir
from whisperlab.util.errors import ConfigurationError, brief, is_lack_of_memory
from whisperlab.util.files import atomic_path

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LONGEST = 1536  # positions in 30 s, padded
VERSION = 2  # of the compiled functions; part of an artefact's name

_log = logging.getLogger(__name__)
_loading = threading.Lock()
_digests: WeakKeyDictionary[Weights, str] = WeakKeyDictionary()


class _Blocks(torch.nn.Module):
    """Some blocks of the encoder, with their weights as buffers: shape (1, rows, state) to the same.

    The second argument has shape (rows,): 0 for a position, -inf for a row of padding.
    """

    def __init__(self, weights: Weights, precision: Precision, numbers: Sequence[int]) -> None:
        super().__init__()
        self._kind, self._n_head = activations(precision), weights.dims["n_audio_head"]
        self._numbers = tuple(numbers)
        for number in numbers:
            block = f"encoder.blocks.{number}"
            self._keep(f"{number}_attn", *fused_attention(weights, f"{block}.attn", self._n_head))
            for name in ("attn_ln", "attn.out", "mlp_ln", "mlp.0", "mlp.2"):
                self._keep(f"{number}_{name.replace('.', '_')}", *weights.layer(f"{block}.{name}"))

    def _keep(self, name: str, *tensors: torch.Tensor) -> None:
        for part, tensor in zip(("weight", "bias"), tensors, strict=False):
            self.register_buffer(f"{name}_{part}", tensor.detach().to(self._kind).contiguous())

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"))

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        for number in self._numbers:
            x = x + self._linear(f"{number}_attn_out", self._attention(number, x, seen))
            wide = F.gelu(self._linear(f"{number}_mlp_0", self._norm(f"{number}_mlp_ln", x)))
            x = x + self._linear(f"{number}_mlp_2", wide)
        return x

    def _attention(self, number: int, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        fused = self._linear(f"{number}_attn", self._norm(f"{number}_attn_ln", x))
        query, key, value = fused.view(*x.shape[:2], 3, self._n_head, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (query @ key.transpose(-1, -2) + seen).softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(2)


class Head(_Blocks):
    """Convolutions, positional embedding and the first blocks: log-mel (1, 2 rows, mels) to (1, rows, state)."""

    def __init__(self, weights: Weights, precision: Precision, split: int) -> None:
        super().__init__(weights, precision, range(split))
        for name in ("conv1", "conv2"):
            self._keep(name, *convolution(weights, f"encoder.{name}"))
        places = weights.tensor("encoder.positional_embedding")
        self._keep("places", F.pad(places, (0, 0, 0, LONGEST - len(places))))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        for name, stride in (("conv1", 1), ("conv2", 2)):
            n_frames, padded = x.shape[1], F.pad(x, (0, 0, 1, 1))
            frames = torch.cat([padded[:, k : k + n_frames : stride] for k in range(3)], -1)
            x = F.gelu(self._linear(name, frames))
        return super().forward(x + self.get_buffer("places_weight")[: x.shape[1]], seen)


class Tail(_Blocks):
    """The other blocks and the last layer norm."""

    def __init__(self, weights: Weights, precision: Precision, split: int) -> None:
        super().__init__(weights, precision, range(split, weights.dims["n_audio_layer"]))
        self._keep("norm", *weights.layer("encoder.ln_post"))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self._norm("norm", super().forward(x, seen))


@dataclass(slots=True, frozen=True)
class CompiledNetwork:
    """A `whisperlab.model.encoder.Network` of two compiled parts. The windows of a batch run one by one."""

    head: Forward
    tail: Forward
    precision: Precision
    split: int

    def __call__(self, mel: torch.Tensor, pool_after: int | None) -> torch.Tensor:
        if pool_after not in (None, self.split):
            allowed = f"{self.split} blocks or None"
            raise ConfigurationError(f"pool_after: this encoder was compiled for {allowed}, got {pool_after}")
        return torch.cat([self._one(window, pool_after is not None) for window in mel])

    def _one(self, mel: torch.Tensor, pooled: bool) -> torch.Tensor:
        n = mel.shape[-1] // 2
        frames = F.pad(mel.T, (0, 0, 0, 2 * (_filled(n) - n))).to(activations(self.precision))
        x = self.head(frames[None].contiguous(), self._seen(n))
        if pooled:
            x = F.avg_pool1d(x[:, :n].transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
            n = x.shape[1]
            x = F.pad(x, (0, 0, 0, _filled(n) - n)).contiguous()
        return self.tail(x, self._seen(n))[:, :n]

    def _seen(self, n: int) -> torch.Tensor:
        seen = torch.zeros(_filled(n), dtype=activations(self.precision))
        seen[n:] = -torch.inf
        return seen


def _filled(n: int) -> int:
    """Number of padded rows for n positions. There are few different ones, because oneDNN keeps code for each."""
    return padded_rows(n) if n <= FEW_ROWS else -(-n // MANY_ROWS) * MANY_ROWS


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
        head, tail = (_loaded(make, weights, precision, split, say) for make in (Head, Tail))
    except Exception as error:  # a compiler can fail in any way, and the stream must go on
        _log.warning("the encoder runs uncompiled: %s", brief(error))
        return ShortWindowEncoder(weights, precision)
    return ShortWindowEncoder(weights, precision, CompiledNetwork(head, tail, precision, split))


def artefact(make: type[Head] | type[Tail], weights: Weights, precision: Precision, split: int) -> Path:
    """The path of a part's code. Its name is a digest of everything that the code depends on."""
    if weights not in _digests:  # of the encoder's tensors, once per model
        state = {key: value for key, value in weights.state.items() if key.startswith("encoder.")}
        _digests[weights] = tensor_digest(state, mapped=weights.mapped)
    facts = (
        *(VERSION, make.__name__, precision, split, _digests[weights]),
        *(torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), *cpu_instructions()),
    )
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    model = Path(weights.name).stem
    return cache_dir() / "compiled" / f"{model}-{precision}-{make.__name__.lower()}{split}-{digest}.pt2"


def _loaded(make: type[Head] | type[Tail], weights: Weights, precision: Precision, split: int, say: Say) -> Forward:
    """A part's code from the cache, compiled first if it is missing, and called twice to warm up."""
    path = artefact(make, weights, precision, split)
    with _loading:
        if not path.exists():
            _check_ours(path)
            say(f"compiling the encoder ({make.__name__.lower()}, {precision}): a minute, once")
            _compile(make(weights, precision, split).eval(), _example(make, weights, precision), path)
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
            part(*_example(make, weights, precision))
    return part


def _check_ours(path: Path) -> None:
    """Raise ConfigurationError if another user could have written the code, because loading code runs it."""
    for place in filter(os.path.lexists, (path.parent, path)):
        state = place.lstat()
        if stat.S_ISLNK(state.st_mode) or state.st_uid not in (0, os.geteuid()) or state.st_mode & 0o022:
            raise ConfigurationError(
                f"{place} is a link, belongs to another user or can be written by others "
                f"({stat.filemode(state.st_mode)}, user {state.st_uid}); compiled code is loaded only from a folder "
                "of your own: run chmod go-w, or name another folder with WHISPERLAB_CACHE"
            )


def _load(path: Path) -> Forward:
    from torch._inductor import aoti_load_package

    check_archive(path)
    package: Forward = aoti_load_package(str(path))
    return package


def _compile(module: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write the code of a module for any number of rows. The file appears under its name when it is complete."""
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    frames_a_row = example[0].shape[1] // example[1].shape[0]
    some = torch.export.Dim("some", min=1, max=LONGEST // ROWS)
    shapes = {"x": {1: frames_a_row * ROWS * some}, "seen": {0: ROWS * some}}
    options = {"freezing": True, "cpp.dynamic_threads": True}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_path(path) as part, torch.no_grad(), fresh_cache(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, example, dynamic_shapes=shapes)
        aoti_compile_and_package(exported, package_path=str(part), inductor_configs=options)
        part.chmod(0o600)


def _example(make: type[Head] | type[Tail], weights: Weights, precision: Precision) -> tuple[torch.Tensor, ...]:
    rows, kind = 9 * ROWS, activations(precision)
    shape = (1, 2 * rows, weights.dims["n_mels"]) if make is Head else (1, rows, weights.dims["n_audio_state"])
    return torch.zeros(shape, dtype=kind), torch.zeros(rows, dtype=kind)

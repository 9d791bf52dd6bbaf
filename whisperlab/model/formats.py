"""Checkpoints in any format: openai-whisper's ``.pt``, and models of Hugging Face and CTranslate2 with their folders.

Hugging Face's tensors keep their values bit by bit under openai-whisper's names, and stay in the memory-mapped file.
A folder also has the alignment heads, and the tokens that a fine-tune added to Whisper's.
"""

import json
import mmap
from collections import UserDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.model import checkpoints
from whisperlab.model.checkpoints import Checkpoint, UnavailableError
from whisperlab.util.errors import WeightsError, translate
from whisperlab.util.validation import shown

if TYPE_CHECKING:
    from torch import Tensor

_DIMS, _NAMES = checkpoints.TABLES["Hugging Face"].values()  # openai-whisper's dimensions, and parts of names
_EMBEDDING, _OUTPUT = "decoder.token_embedding.weight", "proj_out.weight"
_ENGLISH_START = 50_257  # <|startoftranscript|> of the models for English alone; others have it one later


class _Copies(UserDict[str, Any]):
    """Arrays in a mapped file, copied to tensors when they are used: torch needs aligned ones."""

    def __getitem__(self, name: str) -> "Tensor":
        import torch

        return torch.from_numpy(self.data[name].copy())


def read_model(path: Path) -> Checkpoint:
    """A checkpoint of any format, from a file or a folder. A file of Hugging Face needs ``config.json`` beside it.

    Raises UnavailableError if the path is no checkpoint, WeightsError if it is one that Whisper's network cannot use.
    """
    if path.name == "model.bin" or (path / "model.bin").is_file():
        return _ctranslate2(path if path.is_dir() else path.parent)
    if path.is_dir() or path.name == "pytorch_model.bin" or checkpoints.kind(path) == checkpoints.SAFETENSORS:
        return _hugging_face(path)
    return checkpoints.read_checkpoint(path, verify=True)


def _ctranslate2(folder: Path) -> Checkpoint:
    path = folder / "model.bin"
    unreadable = f"{path} cannot be read as a model of CTranslate2"
    with translate(UnavailableError, unreadable, WeightsError, OSError, ValueError), path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dims, arrays = checkpoints.to_openai(checkpoints.read_variables(data))
    return Checkpoint(folder, dims, _Copies(arrays), **_facts(folder, "config.json", dims))


def _hugging_face(path: Path) -> Checkpoint:
    folder = path if path.is_dir() else path.parent
    files = _files(folder) if path.is_dir() else [path]
    config = _json(folder / "config.json")
    unfit = f"{folder / 'config.json'} is not of a Whisper that can be used:"
    for key, wanted in (("model_type", "whisper"), ("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(key, wanted) != wanted:
            raise WeightsError(f"{unfit} {key} should be {wanted!r}, it is {shown(config[key])}")
    stored: dict[str, Tensor] = {}
    for file in files:
        stored |= _tensors(file)
    state = {_openai_name(name): tensor for name, tensor in stored.items()}
    dims: dict[str, Any] = {name: config.get(key) for name, key in _DIMS.items()}
    checkpoints.check_contents(path, dims, state)
    output = state.pop(_OUTPUT, None)
    if output is not None and not output.float().equal(state.setdefault(_EMBEDDING, output).float()):
        raise WeightsError(f"{path} has an output layer of its own ({_OUTPUT}); Whisper's is the token embedding")
    checkpoint = Checkpoint(path, dims, state, mapped=True, **_facts(folder, "generation_config.json", dims))
    checkpoints.check_fit(checkpoint)
    if unknown := state.keys() - dict(checkpoints.tensor_shapes(dims)):
        raise WeightsError(f"{path} has tensors that Whisper does not have, such as {min(unknown)}")
    return checkpoint


def _openai_name(name: str) -> str:
    name = name.removeprefix("model.")
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _files(folder: Path) -> list[Path]:
    """The files of a Hugging Face model: one, or those that its index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            shards = _json(index).get("weight_map")
            if not (isinstance(shards, dict) and all(Path(str(shard)).name == shard for shard in shards.values())):
                raise UnavailableError(f"{index} should have a weight_map with the names of files in its folder")
            return [folder / shard for shard in sorted(set(shards.values()))]
    adapter = (folder / "adapter_config.json").is_file()
    found = "an adapter (LoRA): merge it into its model first, with peft's merge_and_unload" if adapter else "no model"
    expected = "model.safetensors and config.json (Hugging Face), or model.bin (CTranslate2)"
    raise UnavailableError(f"the folder {folder} has {found}; expected {expected}")


def _tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of one file of Hugging Face, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".bin":
        stored, mapped = checkpoints.unpickled(file, verify=True)
        if not (isinstance(stored, dict) and mapped and all(isinstance(name, str) for name in stored)):
            raise UnavailableError(f"{file} is not a dictionary of tensors in torch's zip format")
        return stored
    damaged = SafetensorError, OSError, RuntimeError, ValueError
    unreadable = f"{file} cannot be read as safetensors: get the file again"
    with translate(UnavailableError, unreadable, *damaged), safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary


def _facts(folder: Path, heads_in: str, dims: Mapping[str, int]) -> dict[str, Any]:
    """What a folder states besides tensors, as arguments for `Checkpoint`; its files may be missing."""
    heads = _json(folder / heads_in, needed=False).get("alignment_heads") or ()
    tokens = _json(folder / "tokenizer.json", needed=False).get("added_tokens")
    if tokens is None:
        older = _json(folder / "added_tokens.json", needed=False)
        tokens = [{"content": text, "id": number} for text, number in older.items()]
    try:
        pairs = tuple((layer, head) for layer, head in heads)
        # <|en|> and the like are never text, whether they are marked as special or not
        added = (token for token in tokens if not (token.get("special") or token["content"].startswith("<|")))
        texts = {token["id"]: token["content"] for token in added if token["id"] < dims["n_vocab"]}
        start = next((token["id"] for token in tokens if token["content"] == "<|startoftranscript|>"), None)
        well_formed = all(type(number) is int for number in (*sum(pairs, ()), *texts))
        well_formed &= "" not in texts.values() and len(set(texts.values())) == len(texts)
    except (TypeError, KeyError, ValueError, AttributeError):
        well_formed = False
    if not well_formed:
        raise UnavailableError(f"{folder}: the alignment heads in {heads_in}, or the added tokens, are malformed")
    return {"heads": pairs, "added": tuple(texts.items()), "english_only": start == _ENGLISH_START}


def _json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    """A JSON object; an empty one if the file is missing and not needed."""
    if not needed and not path.is_file():
        return {}
    with translate(UnavailableError, f"{path} is needed and cannot be read", OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UnavailableError(f"{path} should hold a JSON object, it holds {shown(found)}")
    return found

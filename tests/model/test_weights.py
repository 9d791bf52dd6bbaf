"""Weights: what is stored is what is loaded, whichever way it came, and every failure says what was tried."""

from __future__ import annotations

import errno
import hashlib
import http.server
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np
import pytest
import torch
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference_model import load_model
from whisperlab import data as corpora
from whisperlab.data.audio_files import read_audio
from whisperlab.model import downloads
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import read_variables, tensor_digest, to_openai
from whisperlab.model.downloads import Wheel
from whisperlab.model.weights import Packaged
from whisperlab.util.errors import ConfigurationError, WeightsError
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisper.model import Whisper

# As many layers and heads as base has, so that base's table of alignment heads fits; all else tiny.
SMALL = {
    "n_mels": 4,
    "n_audio_ctx": 6,
    "n_audio_state": 8,
    "n_audio_head": 8,
    "n_audio_layer": 6,
    "n_vocab": 10,
    "n_text_ctx": 5,
    "n_text_state": 8,
    "n_text_head": 8,
    "n_text_layer": 6,
}


def small_state(dims: Mapping[str, int] = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a random Whisper in half precision, as openai's checkpoints have them."""
    generator = torch.Generator().manual_seed(seed)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims))
    return {name: torch.randn(value.shape, generator=generator).half() for name, value in model.state_dict().items()}


# The other direction of `to_openai`, written independently from the description of the format.


def ct2_variables(state: Mapping[str, torch.Tensor], dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    arrays = {name: value.numpy() for name, value in state.items()}
    out: dict[str, np.ndarray] = {
        "encoder/num_heads": np.array(dims["n_audio_head"], np.int16),
        "decoder/num_heads": np.array(dims["n_text_head"], np.int16),
        "decoder/embeddings/weight": arrays["decoder.token_embedding.weight"],
    }
    for half, ln in (("encoder", "ln_post"), ("decoder", "ln")):
        out[f"{half}/position_encodings/encodings"] = arrays[f"{half}.positional_embedding"]
        out |= _norm(f"{half}/layer_norm", arrays, f"{half}.{ln}")
    for conv in ("conv1", "conv2"):
        out |= _stack(f"encoder/{conv}", arrays, f"encoder.{conv}")
    for half, n_layers in (("encoder", dims["n_audio_layer"]), ("decoder", dims["n_text_layer"])):
        for i in range(n_layers):
            new, old = f"{half}/layer_{i}", f"{half}.blocks.{i}"
            out |= _norm(f"{new}/self_attention/layer_norm", arrays, f"{old}.attn_ln")
            qkv = [f"{old}.attn.{part}" for part in ("query", "key", "value")]
            out |= _stack(f"{new}/self_attention/linear_0", arrays, *qkv)
            out |= _stack(f"{new}/self_attention/linear_1", arrays, f"{old}.attn.out")
            out |= _norm(f"{new}/ffn/layer_norm", arrays, f"{old}.mlp_ln")
            out |= _stack(f"{new}/ffn/linear_0", arrays, f"{old}.mlp.0")
            out |= _stack(f"{new}/ffn/linear_1", arrays, f"{old}.mlp.2")
            if half == "decoder":
                out |= _norm(f"{new}/attention/layer_norm", arrays, f"{old}.cross_attn_ln")
                out |= _stack(f"{new}/attention/linear_0", arrays, f"{old}.cross_attn.query")
                kv = [f"{old}.cross_attn.key", f"{old}.cross_attn.value"]
                out |= _stack(f"{new}/attention/linear_1", arrays, *kv)
                out |= _stack(f"{new}/attention/linear_2", arrays, f"{old}.cross_attn.out")
    return out


def _norm(new: str, arrays: Mapping[str, np.ndarray], old: str) -> dict[str, np.ndarray]:
    return {f"{new}/gamma": arrays[f"{old}.weight"], f"{new}/beta": arrays[f"{old}.bias"]}


def _stack(new: str, arrays: Mapping[str, np.ndarray], *olds: str) -> dict[str, np.ndarray]:
    weights = [arrays[f"{old}.weight"] for old in olds]
    biases = [arrays.get(f"{old}.bias", np.zeros(len(weights[0]), np.float16)) for old in olds]
    return {f"{new}/weight": np.concatenate(weights), f"{new}/bias": np.concatenate(biases)}


def ct2_bytes(variables: Mapping[str, np.ndarray], version: int = 6, kind: str = "WhisperSpec") -> bytes:
    codes = {np.dtype(kind): code for code, kind in enumerate(("f4", "i1", "i2", "i4", "f2"))}
    out = [struct.pack("<I", version), _string(kind), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += [_string(name), shape, struct.pack("<BI", codes[value.dtype], value.nbytes), value.tobytes()]
    return b"".join([*out, struct.pack("<I", 0)])


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


# A package index on disk: pip itself fetches from it, no network needed.


def write_wheel(folder: Path, package: str, files: Mapping[str, bytes], inner: str = "data") -> Wheel:
    stem = package.replace("-", "_")
    path = folder / f"{stem}-1.0.0-py3-none-any.whl"
    info = f"{stem}-1.0.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{stem}/{inner}/{name}", content)
        archive.writestr(f"{stem}/__init__.py", "raise SystemExit('a data package was imported')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0.0", 1, hashlib.sha256(path.read_bytes()).hexdigest())


def publish(folder: Path, publisher: str, state: Mapping[str, torch.Tensor]) -> tuple[Wheel, Wheel]:
    model = ct2_bytes(ct2_variables(state, SMALL))
    cut = len(model) // 3
    return (
        write_wheel(folder, f"{publisher}-1", {"model.bin.part1": model[:cut], "config.json": b"{}"}),
        write_wheel(folder, f"{publisher}-2", {"model.bin.part2": model[cut:], "vocabulary.txt": b"!"}),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, no route to openai-whisper's host, and an index on disk instead of any real one."""
    index = tmp_path / "index"
    index.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / "lab"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(models.URLS, "base", f"http://127.0.0.1:{free_port()}/{'0' * 64}/base.pt")
    return tmp_path


@pytest.fixture
def indexed(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A small model that two publishers carry under the name of base, for pip to fetch; its weights."""
    state = small_state()
    pairs = (publish(home / "index", "first", state), publish(home / "index", "second", state))
    monkeypatch.setitem(models.PACKAGED, "base", Packaged(tensor_digest(state), pairs, SMALL))
    return state


@pytest.fixture
def published(indexed: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The same, for tests of what comes before and after pip: its wheels arrive without a process of a second."""

    def copied(wheels: Sequence[Wheel], folder: Path, lock: object) -> None:
        for wheel in wheels:
            name = f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
            shutil.copy(home / "index" / name, folder)
            assert downloads.file_sha256(folder / name) == wheel.sha256

    monkeypatch.setattr(downloads, "pip_download", copied)
    return indexed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def web_server(body: bytes, announced: int | None = None) -> Iterator[str]:
    """Serves one body under every path; ``announced`` is the length it claims to have."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def checkpoint_bytes(folder: Path, state: Mapping[str, torch.Tensor]) -> bytes:
    path = folder / "made.pt"
    torch.save({"dims": SMALL, "model_state_dict": dict(state)}, path)
    return path.read_bytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


# CTranslate2's format


@settings(max_examples=25, deadline=None)
@given(
    n_layers=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    n_heads=st.integers(1, 4),
    n_vocab=st.integers(1, 7),
    n_mels=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_what_ctranslate2_stacks_is_cut_apart_into_the_very_weights_of_any_whisper(
    n_layers: tuple[int, int], n_heads: int, n_vocab: int, n_mels: int, seed: int
) -> None:
    dims = {
        "n_mels": n_mels,
        "n_audio_ctx": 3,
        "n_audio_state": 4 * n_heads,
        "n_audio_head": n_heads,
        "n_audio_layer": n_layers[0],
        "n_vocab": n_vocab,
        "n_text_ctx": 2,
        "n_text_state": 4 * n_heads,
        "n_text_head": n_heads,
        "n_text_layer": n_layers[1],
    }
    state = small_state(dims, seed)
    got_dims, got = to_openai(read_variables(ct2_bytes(ct2_variables(state, dims))))
    assert got_dims == dims
    assert got.keys() == state.keys()
    assert all(np.array_equal(got[name], state[name].numpy()) for name in state)


@pytest.mark.parametrize("kept", [0, 3, 10, 100, 5000])
def test_a_model_file_cut_short_is_refused_and_told_to_be_so(kept: int) -> None:
    whole = ct2_bytes(ct2_variables(small_state(), SMALL))
    with pytest.raises(WeightsError, match="cut short"):
        to_openai(read_variables(whole[:kept]))


def test_another_version_or_kind_of_ctranslate2_model_is_refused() -> None:
    variables = ct2_variables(small_state(), SMALL)
    with pytest.raises(WeightsError, match="WhisperSpec of version 6, got 'WhisperSpec' of 5"):
        read_variables(ct2_bytes(variables, version=5))
    with pytest.raises(WeightsError, match="got 'TransformerSpec'"):
        read_variables(ct2_bytes(variables, kind="TransformerSpec"))


def test_weights_that_openai_whisper_cannot_hold_are_refused_and_not_bent() -> None:
    good = ct2_variables(small_state(), SMALL)
    key_bias = good["encoder/layer_2/self_attention/linear_0/bias"].copy()
    key_bias[8] = 1
    for name, bad, reason in (
        ("encoder/layer_2/self_attention/linear_0/bias", key_bias, "bias for encoder.blocks.2.attn.key"),
        ("encoder/conv1/weight", good["encoder/conv1/weight"].astype(np.int8), "no variable 'encoder/conv1/weight_sc"),
    ):
        with pytest.raises(WeightsError, match=reason):
            to_openai(good | {name: bad})
    del good["decoder/layer_1/attention/linear_2/weight"]
    with pytest.raises(WeightsError, match="no variable 'decoder/layer_1/attention/linear_2/weight'"):
        to_openai(good)


def test_an_unknown_storage_type_is_named() -> None:
    data = bytearray(ct2_bytes({"encoder/num_heads": np.array(3, np.int16)}))
    data[data.index(b"num_heads\0") + len(b"num_heads\0") + 1] = 9
    with pytest.raises(WeightsError, match="encoder/num_heads as type 9"):
        read_variables(bytes(data))


# The digest


def test_the_digest_of_weights_does_not_depend_on_order_or_storage_precision() -> None:
    state = small_state()
    single = {name: state[name].float() for name in reversed(state)}
    assert tensor_digest(single) == tensor_digest(state)


def test_the_digest_sees_one_changed_value_a_renamed_tensor_and_another_shape() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    nudged = {"a": torch.zeros(2, 3), "b": torch.tensor([1, 1, 1, 1 + 1e-6])}
    digests = {
        tensor_digest(state),
        tensor_digest(nudged),
        tensor_digest({"a": state["a"], "c": state["b"]}),
        tensor_digest({"a": state["a"].T, "b": state["b"]}),
        tensor_digest({"a": state["a"], "b": state["b"] * 1e6}),  # more than half precision can hold
    }
    assert len(digests) == 5


# Names


def test_whisper_base_is_another_name_of_base(published: dict[str, torch.Tensor]) -> None:
    assert models.fetch("whisper-base") == models.model_path("base") == models.cache_dir() / "models" / "base.pt"


@pytest.mark.parametrize("call", [models.load_weights, models.fetch, models.verify, models.model_path])
def test_an_unknown_name_is_answered_with_the_known_ones(home: Path, call: Any) -> None:
    with pytest.raises(WeightsError, match=r"'basic' is neither a file, a folder nor a known model: tiny\.en, tiny"):
        call("basic")


def test_a_file_of_that_name_in_the_working_folder_does_not_pass_for_the_model(
    published: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "base").write_text("not weights")
    assert tensor_digest(models.load_weights("base").state) == tensor_digest(published)


def test_the_list_of_models_says_where_each_lies_and_which_a_package_carries(
    published: dict[str, torch.Tensor],
) -> None:
    assert list(models.URLS) == whisper.available_models()
    assert all(models.model_path(name) is None for name in models.URLS)
    assert list(models.PACKAGED) == ["tiny.en", "base"]
    assert "second-1 + second-2" in models.origin("base")["from"]
    assert "one publisher" in models.origin("tiny.en")["verified by"]
    assert models.origin("large-v3")["verified by"] == "SHA-256 of openai-whisper's file"
    path = models.fetch("base")
    assert models.model_path("base") == path


def test_the_cache_lies_where_the_environment_says_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERLAB_CACHE", "/somewhere/else")
    assert models.cache_dir() == Path("/somewhere/else")
    monkeypatch.setenv("WHISPERLAB_CACHE", "")
    assert models.cache_dir() == Path.home() / ".cache" / "whisperlab"


# Files


def test_a_checkpoint_given_by_path_is_loaded_whole(home: Path) -> None:
    state = small_state()
    weights = models.load_weights(put(home / "mine.pt", checkpoint_bytes(home, state)))
    assert tensor_digest(weights.state) == tensor_digest(state)
    assert dict(weights.dims) == SMALL


def test_a_known_checkpoint_given_by_path_gets_its_alignment_heads(published: dict[str, torch.Tensor]) -> None:
    by_name = models.load_weights("base")
    by_path = models.load_weights(models.cache_dir() / "models" / "base.pt")
    assert by_path.alignment_heads.sum() == 8
    assert torch.equal(by_path.alignment_heads, by_name.alignment_heads)


def test_weights_alone_are_those_of_the_model_with_its_alignment_heads(
    published: dict[str, torch.Tensor], home: Path
) -> None:
    model, weights = load_model("base"), models.load_weights("base")
    assert models.model_digest(weights) == models.model_digest(model)
    assert {tensor.dtype for tensor in weights.state.values()} == {torch.float16}
    shared = models.weights_of(model)
    assert models.weights_of(model) is shared
    assert models.weights_of(weights) is weights
    for one in (weights, shared):
        assert torch.equal(one.alignment_heads, model.alignment_heads.to_dense().bool())
        assert (one.name, dict(one.dims)) == ("base", SMALL)
    unknown = home / "mine.pt"
    put(unknown, checkpoint_bytes(home, small_state(seed=1)))
    one, model = models.load_weights(unknown), load_model(unknown)
    assert torch.equal(one.alignment_heads, model.alignment_heads.to_dense().bool())
    assert one.tensor("decoder.ln.weight").dtype is torch.float32


@pytest.mark.parametrize(
    "change,told",
    [
        (lambda state: state.pop("decoder.ln.weight"), r"decoder\.ln\.weight .*shape \(8,\), it has none"),
        (lambda state: state.update({"decoder.ln.bias": torch.zeros(9)}), r"\(8,\), it has \(9,\)"),
    ],
    ids=["missing", "of another shape"],
)
def test_weights_that_do_not_fit_their_dimensions_are_refused(home: Path, change: Any, told: str) -> None:
    state = small_state()
    change(state)
    with pytest.raises(WeightsError, match=told):
        models.load_weights(put(home / "holes.pt", checkpoint_bytes(home, state)))


def test_a_missing_checkpoint_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)  # a long path would be cut in the message
    with pytest.raises(WeightsError, match=r"nowhere\.pt' is neither a file"):
        models.load_weights("./nowhere.pt")


@pytest.mark.parametrize("content", [b"", b"plain text, not weights", b"PK\x03\x04 half a zip", b"\x80\x02."])
def test_a_damaged_checkpoint_gives_one_clear_line(home: Path, content: bytes) -> None:
    with pytest.raises(WeightsError, match=r"bad\.pt cannot be read as a checkpoint") as caught:
        models.load_weights(put(home / "bad.pt", content))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_never_runs(home: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(home / "exploded"),)

    torch.save({"dims": SMALL, "model_state_dict": Bomb()}, home / "zip.pt")
    (home / "pickle.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("zip.pt", "pickle.pt"):
        with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
            models.load_weights(home / name)
    assert not (home / "exploded").exists()


def test_a_checkpoint_of_another_kind_is_told_apart_from_a_damaged_one(home: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, home / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt is not a checkpoint of openai-whisper"):
        models.load_weights(home / "other.pt")


def test_a_checkpoint_that_lacks_a_weight_is_refused_with_the_name_of_it(home: Path) -> None:
    state = small_state()
    del state["decoder.ln.weight"]
    with pytest.raises(WeightsError, match=r"does not fit.*decoder\.ln\.weight"):
        models.load_weights(put(home / "holes.pt", checkpoint_bytes(home, state)))


@pytest.mark.parametrize("device", ["abacus", "cuda:77"])
def test_a_device_that_is_not_there_is_named(published: dict[str, torch.Tensor], device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device '{device}' cannot be used"):
        models.load_weights("base", device=device)


# The package index


def test_pip_fetches_the_wheels_and_every_weight_arrives(indexed: dict[str, torch.Tensor]) -> None:
    said: list[str] = []
    model = models.load_weights("base", say=said.append)
    assert tensor_digest(model.state) == tensor_digest(indexed)
    assert names_in(models.cache_dir() / "models") == {"base.pt"}
    assert any("fetching first-1 and first-2 from the package index (2 MiB)" in line for line in said)
    assert any(
        "base: licence MIT (OpenAI); from openai-whisper's host or first-1 + first-2 or" in line for line in said
    )
    stored = torch.load(models.cache_dir() / "models" / "base.pt", weights_only=True)
    assert {value.dtype for value in stored["model_state_dict"].values()} == {torch.float16}


def test_a_wheel_may_hold_the_model_in_one_file(
    published: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.bin": ct2_bytes(ct2_variables(published, SMALL)), "config.json": b"{}"}
    wheel = write_wheel(home / "index", "whole", files, "model")
    monkeypatch.setitem(models.PACKAGED, "base", Packaged(tensor_digest(published), ((wheel,),), SMALL))
    assert tensor_digest(models.load_weights("base").state) == tensor_digest(published)
    assert names_in(models.ct2_folder("base")) == set(files)


def test_openai_whisper_itself_reads_what_was_written(published: dict[str, torch.Tensor]) -> None:
    assert tensor_digest(whisper.load_model(str(models.fetch("base"))).state_dict()) == tensor_digest(published)


def test_the_second_time_nothing_is_fetched(
    published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.fetch("base")
    monkeypatch.setattr(downloads, "open_url", None)
    monkeypatch.setattr(downloads, "pip_download", None)
    said: list[str] = []
    models.load_weights("base", say=said.append)
    assert not said


def test_a_wheel_that_was_altered_is_refused_and_the_other_publisher_asked(
    indexed: dict[str, torch.Tensor], home: Path
) -> None:
    with (home / "index" / "first_2-1.0.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"!")
    said: list[str] = []
    models.fetch("base", say=said.append)
    assert models.verify("base").trusted
    assert any("fetching second-1 and second-2" in line for line in said)


def test_wheels_with_other_weights_than_the_pinned_ones_are_refused(
    published: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = publish(home / "index", "first", small_state(seed=1))
    monkeypatch.setitem(models.PACKAGED, "base", Packaged(tensor_digest(small_state(seed=0)), (pair,), SMALL))
    with pytest.raises(WeightsError, match=r"the tensors of base\.pt have digest"):
        models.fetch("base")
    assert names_in(models.cache_dir() / "models") == set()


def test_when_nothing_helps_the_error_lists_every_try_and_what_to_do(
    indexed: dict[str, torch.Tensor], home: Path
) -> None:
    for wheel in (home / "index").iterdir():
        wheel.unlink()
    with pytest.raises(WeightsError) as caught:
        models.load_weights("base")
    for words in (
        "whisperlab's cache: nothing at",
        "openai-whisper's cache: nothing at",
        "openai-whisper's download: no answer (URLError",
        "pip could not fetch first-1 and first-2 (ERROR: ",
        "pip could not fetch second-1 and second-2",
        "What helps: give the path of a checkpoint",
        f"put openai-whisper's base.pt at {home / 'xdg' / 'whisper' / 'base.pt'}",
        "let pip reach a package index",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_leave_to_download_only_this_machine_is_asked(
    published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "open_url", None)
    monkeypatch.setattr(downloads, "pip_download", None)
    with pytest.raises(WeightsError, match="no weights for base") as caught:
        models.load_weights("base", download=False)
    assert "download:" not in str(caught.value)


def test_a_file_in_the_cache_that_is_damaged_or_of_other_weights_is_replaced(
    published: dict[str, torch.Tensor], home: Path
) -> None:
    path = models.fetch("base")
    for damage in (path.read_bytes()[:1000], b"", checkpoint_bytes(home, small_state(seed=3))):
        path.write_bytes(damage)
        assert tensor_digest(models.load_weights("base").state) == tensor_digest(published)
        assert models.verify("base").trusted


def test_the_folder_for_faster_whisper_holds_the_same_weights(published: dict[str, torch.Tensor]) -> None:
    folder = models.ct2_folder("base")
    assert names_in(folder) == {"model.bin", "config.json", "vocabulary.txt"}
    _, state = to_openai(read_variables((folder / "model.bin").read_bytes()))
    assert tensor_digest({name: torch.from_numpy(value.copy()) for name, value in state.items()}) == tensor_digest(
        published
    )
    assert models.ct2_folder("whisper-base", say=pytest.fail) == folder
    with pytest.raises(WeightsError, match=r"no package carries tiny, only tiny\.en, base"):
        models.ct2_folder("tiny")


def test_a_poisoned_folder_for_faster_whisper_is_replaced(published: dict[str, torch.Tensor]) -> None:
    stored = models.ct2_folder("base") / "model.bin"
    right = stored.read_bytes()
    stored.write_bytes(right[:-100] + bytes(96) + right[-4:])
    assert (models.ct2_folder("base") / "model.bin").read_bytes() == right


# openai-whisper's cache and download


def serve_as(monkeypatch: pytest.MonkeyPatch, name: str, address: str, body: bytes) -> None:
    monkeypatch.setitem(models.URLS, name, f"{address}/{hashlib.sha256(body).hexdigest()}/{name}.pt")


def test_openai_whispers_cache_is_used_when_its_file_is_whole(
    published: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = checkpoint_bytes(home, small_state(seed=2))
    serve_as(monkeypatch, "base", "http://127.0.0.1:9", body)
    path = put(home / "xdg" / "whisper" / "base.pt", body)
    assert models.fetch("base") == path
    assert models.verify("base").evidence == "it is openai-whisper's file of base"
    path.write_bytes(checkpoint_bytes(home, small_state(seed=3)))  # whole, but not the file that is known
    assert models.fetch("base") == models.cache_dir() / "models" / "base.pt"


def test_openai_whispers_download_lands_in_its_own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = checkpoint_bytes(home, small_state())
    with web_server(body) as address:
        serve_as(monkeypatch, "tiny", address, body)
        path = models.fetch("tiny")
    assert path == home / "xdg" / "whisper" / "tiny.pt"
    assert names_in(path.parent) == {"tiny.pt"}
    assert models.verify("tiny").trusted


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_download_that_is_not_the_file_asked_for_leaves_nothing_behind(
    home: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    body = checkpoint_bytes(home, small_state())
    sent, announced = (body[:500], len(body)) if damage == "cut" else (b"<html>please log in</html>", None)
    with web_server(sent, announced) as address:
        serve_as(monkeypatch, "tiny", address, body)
        with pytest.raises(WeightsError, match="incomplete or altered"):
            models.fetch("tiny")
    assert names_in(home / "xdg" / "whisper") == set()


def test_a_host_that_takes_the_call_but_never_answers_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        serve_as(monkeypatch, "tiny", f"http://127.0.0.1:{mute.getsockname()[1]}", b"")
        with pytest.raises(WeightsError, match="openai-whisper's download: no answer"):
            models.fetch("tiny")


def test_a_look_up_that_hangs_is_given_up_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> None:
        release.wait()
        raise OSError("released")

    monkeypatch.setattr(downloads, "ANSWER_S", 0.1)
    monkeypatch.setattr(downloads.urllib.request, "urlopen", hang)
    with pytest.raises(WeightsError, match="no answer within 0 s"):
        models.fetch("tiny")
    release.set()


# Writing


@pytest.mark.parametrize("fetch", [models.fetch, models.ct2_folder])
def test_a_full_disk_is_named_and_nothing_half_written_stays(
    published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, fetch: Any
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"could not be written.*WHISPERLAB_CACHE.*No space left on device"):
        fetch("base")
    assert names_in(models.cache_dir() / "models") == set()


@pytest.mark.parametrize("fetch", [models.fetch, models.ct2_folder])
def test_a_disk_without_room_is_named_before_anything_is_fetched(
    published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, fetch: Any
) -> None:
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    monkeypatch.setattr(downloads, "pip_download", lambda *_: pytest.fail("fetched all the same"))
    with pytest.raises(WeightsError, match=r"fetching takes \d+ MiB .* has 1 MiB free.*WHISPERLAB_CACHE"):
        fetch("base")


def test_a_cache_that_cannot_be_made_is_named(
    indexed: dict[str, torch.Tensor], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("in the way")
    monkeypatch.setenv("WHISPERLAB_CACHE", str(home / "file"))
    with pytest.raises(WeightsError, match=r"file/models could not be written.*Not a directory"):
        models.fetch("base")


def test_what_a_killed_process_left_half_written_is_removed(published: dict[str, torch.Tensor]) -> None:
    folder = models.cache_dir() / "models"
    put(folder / ".base-ctranslate2.1234.part" / "model.bin", b"half")
    put(folder / ".wheels.x.part" / "first.whl", b"half")
    models.fetch("base")
    assert names_in(folder) == {"base.pt"}


def fetch_in_a_process(packaged: Packaged, start: Any, answers: Any) -> None:
    """What each of two racing processes does; the environment is inherited."""
    models.PACKAGED["base"] = packaged
    models.URLS["base"] = f"http://127.0.0.1:9/{'0' * 64}/base.pt"
    said: list[str] = []
    start.wait()
    path = models.fetch("base", say=said.append)
    answers.put((str(path), sum(line.startswith("fetching") for line in said)))


@pytest.mark.slow
def test_two_processes_that_fetch_at_once_both_get_the_model_and_download_it_once(
    indexed: dict[str, torch.Tensor],
) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(2), spawn.Queue()
    racers = [
        spawn.Process(target=fetch_in_a_process, args=(models.PACKAGED["base"], start, answers)) for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    got = [answers.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join()
    assert {path for path, _ in got} == {str(models.cache_dir() / "models" / "base.pt")}
    assert sum(n_fetched for _, n_fetched in got) == 1
    assert models.verify("base").trusted


# Verifying


def test_verifying_says_whether_and_why_a_file_can_be_trusted(published: dict[str, torch.Tensor], home: Path) -> None:
    path = models.fetch("base")
    assert (models.verify("base").trusted, models.verify(path).trusted) == (True, True)
    assert models.verify(path).tensors == tensor_digest(published)
    assert models.verify(path).n_values == sum(value.numel() for value in published.values())
    stranger = checkpoint_bytes(home, small_state(seed=7))
    unknown = models.verify(put(home / "mine.pt", stranger))
    assert (unknown.trusted, unknown.evidence) == (None, "no digest is known for it")
    path.write_bytes(stranger)
    assert (models.verify("base").trusted, models.verify("base").evidence) == (
        False,
        "neither its tensors nor the file are those of base",
    )


def test_right_tensors_under_other_dimensions_are_refused_by_name_and_by_path(
    published: dict[str, torch.Tensor], home: Path
) -> None:
    """Another number of heads fits all shapes, and would make other text of the same tensors."""
    path = models.fetch("base")
    told = f"n_text_head is 1 and should be {SMALL['n_text_head']}"
    torch.save({"dims": {**SMALL, "n_text_head": 1}, "model_state_dict": published}, path)
    found = models.verify("base")
    assert (found.trusted, found.evidence) == (False, f"its tensors are those of base, but {told}")
    with pytest.raises(WeightsError, match=told):
        models.load_weights(path)
    assert dict(models.load_weights("base").dims) == SMALL  # fetched anew
    assert models.verify("base").trusted


def test_the_pinned_dimensions_have_a_mask_of_heads_for_each_layer() -> None:
    for name, packaged in models.PACKAGED.items():
        shape = packaged.dims["n_text_layer"], packaged.dims["n_text_head"]
        assert models.alignment_heads(name, *shape).shape == shape
        assert {packaged.dims[f"n_{half}_state"] / packaged.dims[f"n_{half}_head"] for half in ("audio", "text")} == {
            64
        }


@pytest.mark.parametrize(
    "change",
    [
        {"dims": {**SMALL, "n_text_head": 1}},
        {"dims": {**SMALL, "n_vocab": SMALL["n_vocab"] + 1}},
        {"alignment_heads": torch.ones(SMALL["n_text_layer"], SMALL["n_text_head"], dtype=torch.bool)},
        {"added": ((9, "word"),)},
        {"english_only": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_of_a_model_is_of_more_than_its_tensors(change: Any, published: dict[str, torch.Tensor]) -> None:
    weights = models.load_weights("base")
    assert models.model_digest(replace(weights, **change)) != models.model_digest(weights)
    assert models.model_digest(replace(weights)) == models.model_digest(weights)


def test_verifying_a_model_that_is_not_here_says_how_to_get_it(home: Path) -> None:
    with pytest.raises(WeightsError, match=r"base is not on this machine; `whisperlab models fetch base`"):
        models.verify("base")


# The real weights


@pytest.mark.model
def test_the_real_base_is_the_pinned_one(base_model: Whisper) -> None:
    assert tensor_digest(base_model.state_dict()) == models.PACKAGED["base"].tensors
    assert base_model.is_multilingual
    assert int(base_model.alignment_heads.to_dense().sum()) == 8


@pytest.mark.model
def test_the_real_base_and_ctranslate2s_own_engine_hear_the_same(base_model: Whisper) -> None:
    engine = ctranslate2.models.Whisper(str(models.ct2_folder("base")), compute_type="float32")
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = base_model.encoder(mel).numpy()
    theirs = np.array(engine.encode(ctranslate2.StorageView.from_array(mel.numpy()), to_cpu=True))
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


@pytest.mark.model
def test_the_real_base_transcribes_a_human_voice(base_model: Whisper) -> None:
    recording = corpora.load("ivr-en-es", "dev")[0]
    segment = next(segment for segment in recording.segments if segment.lang == "en")
    audio = read_audio(recording.audio_path)[samples(segment.start) : samples(segment.end)]
    heard = base_model.transcribe(audio, language="en", fp16=False)["text"]
    spoken = set(re.findall(r"[a-z]+", segment.text.lower()))
    assert len(spoken & set(re.findall(r"[a-z]+", heard.lower()))) > 0.7 * len(spoken)


@pytest.mark.parametrize(
    "n_vocab, n_mels, languages",
    [(51_865, 80, 99), (51_866, 128, 100), (51_864, 80, 1), (51_900, 80, 99), (51_867, 128, 100)],
)
def test_the_languages_of_a_model_are_known_by_its_vocabulary(n_vocab: int, n_mels: int, languages: int) -> None:
    dims = {**SMALL, "n_vocab": n_vocab, "n_mels": n_mels}
    weights = models.Weights("mine", dims, {}, torch.zeros(0), torch.device("cpu"))
    assert weights.n_languages == languages


@pytest.mark.parametrize("n_vocab, n_mels", [(51_865, 128), (50_257, 80), (10, 4)])
def test_a_vocabulary_that_is_not_whispers_is_refused(n_vocab: int, n_mels: int) -> None:
    dims = {**SMALL, "n_vocab": n_vocab, "n_mels": n_mels}
    weights = models.Weights("mine.pt", dims, {}, torch.zeros(0), torch.device("cpu"))
    with pytest.raises(WeightsError, match=rf"mine\.pt has {n_vocab} tokens \(and {n_mels} mel bands\)"):
        assert weights.n_languages


@pytest.mark.parametrize("name", ["Base", "Whisper-Base", "BASE"])
def test_the_case_of_a_name_does_not_matter(name: str, published: dict[str, torch.Tensor]) -> None:
    assert models.load_weights(name).name == "base"
    assert models.known_name(name) == "base"


@pytest.mark.parametrize(
    "name, meant",
    [
        ("openai/whisper-base", "base"),
        ("Systran/faster-whisper-large-v3", "large-v3"),
        ("openai/whisper-large", "large-v1"),
        ("whisper-tiny.en", "tiny.en"),
        ("large-v3-turbo", "large-v3-turbo"),
    ],
)
def test_a_name_of_a_model_hub_is_understood(name: str, meant: str) -> None:
    assert models.resolve(name) == meant


def test_a_folder_that_is_there_comes_before_a_name_of_a_model_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "openai" / "whisper-base" / "config.json", b"{}")
    assert models.resolve("openai/whisper-base") == Path("openai/whisper-base")


@pytest.mark.parametrize("name, meant", [("base.pt", "base"), ("models/small.pt", "small"), ("x/whisper-tiny", "tiny")])
def test_a_path_that_is_missing_is_answered_with_the_model_of_that_name(name: str, meant: str) -> None:
    with pytest.raises(WeightsError, match=rf"nor a known model; did you mean the model {meant}\?"):
        models.load_weights(name)


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio (WAV)"),
        (b"GGUF\3\0\0\0", "a GGUF model"),
        (b"lmgg" + bytes(20), "a GGML model"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"\x93\x10what is this", "not written by torch.save"),
        (b"0123456789", "not written by torch.save"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    path = put(tmp_path / "model.safetensors", content)
    with pytest.raises(WeightsError, match=re.escape(f"as a checkpoint: it is {kind}")) as told:
        models.load_weights(path)
    assert "pip install" not in str(told.value)


# Checkpoints that hold something else


def damaged(kind: str) -> Any:
    """A checkpoint with one thing in it that is not as it should be."""
    state: dict[Any, Any] = dict(small_state())
    dims: dict[str, Any] = dict(SMALL)
    name, one = "decoder.ln.weight", state["decoder.ln.weight"]
    change: dict[str, tuple[Any, Any]] = {
        "a view of one number that says it is 8 TB": (dims, {**state, name: torch.zeros(1).expand(2**41)}),
        "sparse": (dims, {**state, name: one.float().to_sparse()}),
        "meta": (dims, {**state, name: one.to("meta")}),
        "whole numbers": (dims, {**state, name: one.to(torch.int8)}),
        "no tensor": (dims, {**state, name: None}),
        "no name": (dims, {**state, 7: one}),
        "no weights": (dims, [one]),
        "no dims": (7, state),
        "a dim of another type": ({**dims, "n_vocab": "10"}, state),
        "a million layers": ({**dims, "n_text_layer": 10**6}, state),
        "no layers": ({**dims, "n_text_layer": 0}, state),
        "heads that do not divide": ({**dims, "n_text_head": 3}, state),
        "NaN": (dims, {**state, name: torch.full_like(one, float("nan"))}),
    }
    dims, state = change[kind]
    return {"dims": dims, "model_state_dict": state}


@pytest.mark.parametrize(
    "kind,reason",
    [
        ("a view of one number that says it is 8 TB", "should be a tensor of floats"),
        ("sparse", "should be a tensor of floats"),
        ("meta", "should be a tensor of floats"),
        ("whole numbers", "should be a tensor of floats"),
        ("no tensor", "and is None"),
        ("no name", "7 should be a tensor"),
        ("no weights", "its weights are"),
        ("no dims", "its dims are 7"),
        ("a dim of another type", "its dims are"),
        ("a million layers", "decoder.blocks.6.attn.query.weight should have shape"),
        ("no layers", "n_text_layer should be 1 or more, it is 0"),
        ("heads that do not divide", "3 n_text_head do not divide 8 n_text_state"),
        ("NaN", "8 of 8 weights in decoder.ln.weight are NaN or infinite"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_before_memory_is_taken(
    tmp_path: Path, kind: str, reason: str
) -> None:
    path = tmp_path / "odd.pt"
    torch.save(damaged(kind), path)
    with pytest.raises(WeightsError, match=re.escape(reason)):
        models.load_weights(path)


def test_an_archive_that_says_it_is_in_parts_is_no_checkpoint(tmp_path: Path) -> None:
    """zipfile answers with an error of its own when it is asked whether this is an archive."""
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    (tmp_path / "parts.pt").write_bytes(bytes(100) + locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        models.load_weights(tmp_path / "parts.pt")

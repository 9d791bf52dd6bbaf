"""The compiled encoder beside the one it is made from, and what happens where it cannot be made."""

from __future__ import annotations

import getpass
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
import torch

from whisperlab.model import compiled_encoder as module
from whisperlab.model import weights as models
from whisperlab.model.compiled_encoder import Part, PartName, artefact, compiled_encoder
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.linear import Precision, has_bf16
from whisperlab.model.weights import Weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import POSITION, SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene

SPLIT = 3
PRECISION: Precision = "bf16" if has_bf16(torch.device("cpu")) else "fp32"


@pytest.fixture(scope="module")
def weights() -> Weights:
    return models.load_weights("base")


# Run by Python, or as machine code, which is compiled in minutes and stays in the cache of the machine.
WAYS = ["interpreted", pytest.param("compiled", marks=pytest.mark.slow)]


@contextmanager
def made(way: str) -> Iterator[None]:
    """Compiled encoders that are made in this context are made in one of `WAYS`."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "interpreted":
            patch.setattr(module, "_loaded", lambda *asked: Part(*asked[:4]).eval())
        yield


@pytest.fixture(scope="module", params=WAYS)
def quick(request: pytest.FixtureRequest, weights: Weights) -> ShortWindowEncoder:
    with made(request.param):
        return compiled_encoder(weights, PRECISION, SPLIT)


@pytest.mark.model
@pytest.mark.parametrize("pool_after", [None, SPLIT])
@pytest.mark.parametrize("n", [1, POSITION + 1, 2 * SAMPLE_RATE, 51_111, 9 * SAMPLE_RATE])
def test_compiled_it_says_what_it_says_uncompiled(
    quick: ShortWindowEncoder, weights: Weights, scene: Scene, n: int, pool_after: int | None
) -> None:
    assert quick.compiled
    exact = ShortWindowEncoder(weights).encode(scene.audio[:n], 8000, pool_after)
    found = quick.encode(scene.audio[:n], 8000, pool_after)
    assert found.features.shape == exact.features.shape
    assert found.n_audio == exact.n_audio
    error = (found.features.float() - exact.features).norm() / exact.features.norm()
    assert error < (0.05 if PRECISION == "bf16" else 1e-3)


@pytest.mark.model
def test_compiled_it_takes_thirty_seconds_and_batches(quick: ShortWindowEncoder, scene: Scene) -> None:
    assert quick.encode(scene.audio[:SAMPLE_RATE], 30 * SAMPLE_RATE).features.shape[0] == 1500
    windows = [scene.audio[start : start + 20_000] for start in (0, 16_000)]
    together = quick.encode_batch(windows, 8000, SPLIT)
    for found, window in zip(together, windows, strict=True):
        torch.testing.assert_close(found.features, quick.encode(window, 8000, SPLIT).features)


@pytest.mark.model
def test_the_code_is_made_once(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []
    told: list[str] = []

    def compile_quickly(part: torch.nn.Module, example: object, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(path.name)
        path.chmod(0o600)
        compiled.append(path)

    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_compile", compile_quickly)
    monkeypatch.setattr(module, "_load", lambda path: lambda *example: example[0])
    for _ in range(2):
        assert compiled_encoder(weights, PRECISION, SPLIT, told.append).compiled
    assert ["head3" in path.name for path in compiled] == [True, False]
    assert len(told) == 2


@pytest.mark.model
def test_pooling_where_it_was_not_cut_is_refused(quick: ShortWindowEncoder, scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match="compiled for 3 blocks"):
        quick.encode(scene.audio[:SAMPLE_RATE], 0, 2)


@pytest.mark.model
@pytest.mark.parametrize("way", WAYS)
def test_a_transcriber_that_is_compiled_says_so_and_hears_the_same_language(scene: Scene, way: str) -> None:
    weights = models.load_weights("base")  # nothing has been prepared from these in another way
    with made(way):
        plain, fast = (
            SessionRestartTranscriber(weights, ["en", "es"], precision=PRECISION, compiled=on, decode=False)
            for on in (False, True)
        )
    assert (plain.config()["compute"]["compiled"], fast.config()["compute"]["compiled"]) == (False, True)
    frames = [one.process(scene.audio[: 4 * SAMPLE_RATE]).frames for one in (plain, fast)]
    assert len(frames[0]) > 3
    for slow, quicker in zip(*frames, strict=False):
        assert abs(slow.posterior["en"] - quicker.posterior["en"]) < 0.1


def test_without_a_compiler_it_runs_uncompiled_and_says_why(
    few_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The compiler is missed once a network has been traced and lowered: one without a block, of few weights."""
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with caplog.at_level(logging.WARNING):
        found = compiled_encoder(models.load_weights(few_weights), "fp32", 0)
    assert not found.compiled
    assert "the encoder runs uncompiled" in caplog.text
    assert "compiler" in caplog.text.lower()
    assert {path.name for path in (tmp_path / "compiled").iterdir()} == {".lock", "torch"}  # nothing half-written


def test_torch_keeps_what_it_builds_and_loads_in_our_own_folder(
    few_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Path, str]] = []
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "anyone"))

    def look() -> None:
        folders = (Path(os.environ[name]) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"))
        seen.append((*folders, os.environ["PYTHONSAFEPATH"]))

    def package(exported: object, *, package_path: str, inductor_configs: dict[str, object]) -> None:
        look()
        for name in ("aot_inductor.precompile_headers", "cpp_cache_precompile_headers"):
            assert inductor_configs[name] is False
        with zipfile.ZipFile(package_path, "w") as archive:
            archive.writestr("code", b"")

    def load(path: str) -> Callable[..., torch.Tensor]:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))  # unused
        look()
        return lambda *example: example[0]

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    assert compiled_encoder(models.load_weights(few_weights), "fp32", 0).compiled
    assert len(seen) == 4
    ours = tmp_path / "cache"
    assert all(folder.is_relative_to(ours) for *folders, _ in seen for folder in folders)
    assert {safe for *_, safe in seen} == {"1"}
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "anyone")
    assert [path.stat().st_mode & 0o777 for path in (ours / "compiled", ours / "compiled" / "torch")] == [0o700] * 2


PLANTED = """
import sys
from whisperlab.model.compiled_encoder import _loaded
from whisperlab.model.weights import load_weights
_loaded("tail", load_weights(sys.argv[1]), "fp32", 0, print)
"""


@pytest.mark.slow
def test_the_folder_that_another_user_made_for_torch_is_left_alone(few_weights: Path, tmp_path: Path) -> None:
    """Torch names its own folder after the user and checks no owner: what lies there would be compiled in and run."""
    planted, cache = tmp_path / "tmp" / f"torchinductor_{getpass.getuser()}", tmp_path / "cache"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    if os.geteuid() == 0:
        os.chown(planted, 65_534, 65_534)
    environment = {**os.environ, "TMPDIR": str(planted.parent), "WHISPERLAB_CACHE": str(cache)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    for _ in ("compiled", "loaded"):
        subprocess.run([sys.executable, "-c", PLANTED, few_weights], check=True, env=environment)
        assert list(planted.parent.rglob("*")) == [planted]
    assert list((cache / "compiled" / "torch").rglob("*.so"))  # what it built to examine the processor


@pytest.mark.model
def test_damaged_code_is_thrown_away(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    path = artefact("head", weights, PRECISION, SPLIT)
    path.parent.mkdir()
    path.write_bytes(b"no code at all")
    assert not compiled_encoder(weights, PRECISION, SPLIT).compiled
    assert "the encoder runs uncompiled" in caplog.text
    assert not path.exists()


@pytest.mark.model
def test_an_artefact_is_named_by_all_it_depends_on(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        artefact(name, weights, precision, split).name
        for name in get_args(PartName)
        for precision in ("fp32", "bf16")
        for split in (0, 3)
    }
    assert len(names) == 8
    before = artefact("head", weights, "fp32", 3)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert artefact("head", weights, "fp32", 3) != before
    monkeypatch.setattr(module, "VERSION", 0)
    assert artefact("head", weights, "fp32", 3) != before


@pytest.mark.model
def test_what_is_not_compiled_is_refused(weights: Weights) -> None:
    with pytest.raises(ConfigurationError, match="int8"):
        compiled_encoder(weights, "int8", SPLIT)
    with pytest.raises(ConfigurationError, match="split must be 0 to 5"):
        compiled_encoder(weights, "fp32", 6)

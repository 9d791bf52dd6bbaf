"""Torch's unstable operators: used if they work, replaced by plain torch if they are missing or wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whisperlab.model import linear
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.encoder import Encoded
from whisperlab.model.linear import (
    ENCODERS,
    Int8Linear,
    Linear,
    OneDnnLinear,
    Operator,
    check_precision,
    has_bf16,
    has_int8,
    operator_works,
    packed_linear,
)
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import Weights
from whisperlab.util.errors import ConfigurationError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def checked_anew() -> Iterator[None]:
    """Each test checks the operators itself."""
    operator_works.cache_clear()
    yield
    operator_works.cache_clear()


def missing(*_: object, **__: object) -> Any:
    raise AttributeError("'_OpNamespace' object has no attribute 'linear'")


def wrong(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args, **options: original(*args, **options) + 1


def fails(monkeypatch: pytest.MonkeyPatch, operator: Operator, how: str) -> None:
    """Make an operator of torch disappear or return wrong values."""
    kind = {"fp32": OneDnnLinear, "int8": Int8Linear, "int8 rows": linear.Int8Rows}[operator]
    broken = missing if how == "missing" else wrong(kind.__call__)
    monkeypatch.setattr(kind, "__call__", broken)


def test_the_operators_of_this_torch_work_where_the_processor_has_them() -> None:
    assert operator_works("fp32") == torch.backends.mkldnn.is_available()
    assert operator_works("int8") == (torch.backends.quantized.engine in ("x86", "fbgemm"))
    assert operator_works("int8 rows") == operator_works("int8")


@pytest.mark.parametrize("how", ["missing", "wrong"])
def test_without_onednns_operator_fp32_is_plain_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    fails(monkeypatch, "fp32", how)
    weight, bias, x, to = (torch.randn(*shape) for shape in ((64, 128), (64,), (3, 128), (3, 64)))
    with caplog.at_level(logging.WARNING):
        layer = packed_linear(weight, bias, "fp32")
        packed_linear(weight, bias, "fp32")
    assert type(layer) is Linear
    assert len(caplog.records) == 1
    assert "its fp32 operator is not used" in caplog.text
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.gelu(x), F.gelu(expected))
    torch.testing.assert_close(layer.added(x, to), expected + to)


@pytest.mark.parametrize("how", ["missing", "wrong"])
def test_without_quantised_operators_fp32_is_chosen_and_int8_refused(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    fails(monkeypatch, "int8", how)
    assert not has_int8(CPU)
    assert check_precision(None, CPU, "decoder") == "fp32"
    with pytest.raises(ConfigurationError, match="int8 needs an x86 CPU and a torch with quantised operators"):
        check_precision("int8", CPU)
    assert type(packed_linear(torch.ones(4, 8), None, "int8")) is Linear


@pytest.mark.parametrize(
    "vnni, avx512_bf16, amx, expected",
    [
        (True, True, False, ("bf16", "int8")),
        (True, True, True, ("bf16", "bf16")),
        (True, False, False, ("int8", "int8")),
        (False, True, False, ("bf16", "bf16")),
        (False, False, False, ("int8", "int8")),
    ],
)
def test_language_id_is_in_eight_bits_where_they_are_faster_than_bfloat16(
    monkeypatch: pytest.MonkeyPatch, vnni: bool, avx512_bf16: bool, amx: bool, expected: tuple[str, str]
) -> None:
    """The precisions of the encoder for text and of that for language-ID, by the instructions of the processor."""
    monkeypatch.setattr(linear, "cpu_instructions", lambda: (vnni, avx512_bf16, amx))
    monkeypatch.setattr(linear, "operator_works", lambda operator: True)
    assert tuple(check_precision(None, CPU, part) for part in ENCODERS) == expected
    for asked in ("fp32", expected[0]):
        assert {check_precision(asked, CPU, part) for part in ENCODERS} == {asked}
    assert check_precision(None, CPU, "decoder") == "int8"


def test_without_facts_about_the_processor_bf16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert linear.cpu_instructions() == (False, False, False)
    assert not has_bf16(CPU)


def test_without_the_operator_of_rounded_rows_all_logits_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    dims = {"n_mels": 4, "n_audio_ctx": 6, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}
    dims |= {"n_vocab": 96, "n_text_ctx": 5, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1}
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(*shape, generator=draw) for name, shape in tensor_shapes(dims)}
    heads = torch.ones(1, 2, dtype=torch.bool)
    fails(monkeypatch, "int8 rows", "missing")
    decoder = TextDecoder(Weights("tiny", dims, state, heads, CPU))
    opened = decoder.open(Encoded(torch.randn(6, 16, generator=draw), 6))
    hidden = decoder.extend(opened, [1, 2])
    mask = torch.zeros(96).index_fill(0, torch.tensor([3]), -torch.inf)
    expected = (decoder.logits(hidden) + mask).log_softmax(1).topk(5)
    found = torch.tensor(decoder.likeliest(hidden, mask, 5))
    assert torch.equal(found[..., 0], expected.indices.float())
    torch.testing.assert_close(found[..., 1], expected.values)


def test_lack_of_memory_is_not_taken_for_a_missing_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> torch.Tensor:
        raise RuntimeError("not enough memory: you tried to allocate 4096 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(OneDnnLinear, "__call__", short)
        with pytest.raises(RuntimeError, match="not enough memory"):
            operator_works("fp32")
    assert operator_works("fp32")

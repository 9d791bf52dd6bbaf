"""What a core carries by model size, and the floor: counts by hand, and a replay on a network of 64 channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.floor import STREAMS, Machine, Work, floor_of, floor_rows, share, work
from benchmarks.live_calls import STAGES, Call, LiveRun, Player, random_weights, recording_calls, sampled, units
from benchmarks.sizes import SIZES, Size, memory_mb, row, table
from whisperlab.model.weights import PACKAGED
from whisperlab.util.threads import torch_threads

TOY = Size(64, 2, 3, 2, step=1)
BASE = SIZES["base"].dims
SECOND = 16_000

# A language-ID frame, and a decode of a prompt and one choice by two texts, of which one stays.
CALLS = [
    Call("encode", audio=SECOND, silence=SECOND // 2, pooled=True),
    Call("language", positions=38, n=5),
    Call("encode", audio=2 * SECOND, silence=SECOND),
    Call("open", positions=150, texts=(0, 1)),
    Call("extend", positions=150, n=8, texts=(0, 1), aligned=True),
    Call("likeliest", n=2, best=6, masked=True),
    Call("extend", positions=150, n=2, texts=(0, 1), start=4),
    Call("keep", texts=(1,)),
    Call("rewind", n=4),
    Call("extend", positions=150, n=3, texts=(0,), start=4),
]
RUN = LiveRun([replace(call, live_s=0.001) for call in CALLS], audio_s=3.0, processor_s=0.05)


@pytest.fixture(scope="module")
def toy() -> Player:
    weights = random_weights("toy", TOY.dims)
    with torch_threads(1):
        return Player(weights)


def test_the_sizes_have_the_dimensions_of_the_models() -> None:
    for name in ("base", "tiny.en"):
        assert SIZES[name].dims == PACKAGED[name].dims
    shapes = {name: size.dims["n_audio_layer"] * size.state for name, size in SIZES.items()}
    assert shapes["turbo"] == shapes["large-v3"] > shapes["medium"] > shapes["small"] > shapes["base"] > shapes["tiny"]


def test_the_operations_of_a_window_are_those_counted_by_hand() -> None:
    """2.5 s and 0.5 s of silence are 150 positions, 75 behind the third of six blocks."""
    convolutions = 300 * (3 * 80) * 512 + 150 * (3 * 512) * 512
    block = 512 * 3 * 512 + 512 * 512 + 512 * 2048 + 2048 * 512  # per position
    attention = 3 * (150 * 150 * 512 * 2) + 3 * (75 * 75 * 512 * 2)
    window = Call("encode", audio=5 * SECOND // 2, silence=SECOND // 2, pooled=True)
    found, eight_bits = (work(window, BASE, language=precision) for precision in ("bf16", "int8"))
    assert found.bf16 == eight_bits.int8 == 2 * (convolutions + 3 * 150 * block + 3 * 75 * block + attention)
    assert found.n_bytes == 2 * eight_bits.n_bytes == 2 * (3 * 80 * 512 + 3 * 512 * 512 + 6 * block)


def test_the_operations_of_a_decode_are_those_counted_by_hand() -> None:
    layer = 512 * 3 * 512 + 3 * 512 * 512 + 2 * 512 * 2048  # self-attention, three more of 512, the two of 2048
    assert work(Call("open", positions=250), BASE) == Work(int8=2 * 250 * 6 * 2 * 512 * 512, n_bytes=6 * 2 * 512 * 512)
    two = work(Call("extend", positions=250, n=2, start=10), BASE)  # the first sees 11 tokens, the second 12
    assert two.int8 == 2 * 2 * 6 * layer
    assert two.fp32 == 2 * 6 * 2 * 512 * (11 + 12 + 2 * 250)
    assert work(Call("likeliest", n=3, best=1), BASE).int8 == 2 * 3 * 51_865 * 512
    assert work(Call("rewind", n=3), BASE) == Work()


def test_a_replay_makes_the_recorded_calls(toy: Player) -> None:
    with torch_threads(1), recording_calls() as calls:
        for unit in units(CALLS):
            spent = toy.play(unit)
            assert set(spent) == set(STAGES)
    assert [replace(call, live_s=0.0) for call in calls] == CALLS
    assert all(call.live_s > 0 for call in calls if call.kind != "rewind")


def test_a_sample_keeps_every_nth_unit_of_each_stage() -> None:
    every = units(CALLS * 4)
    assert [unit[0].kind for unit in units(CALLS)] == ["encode", "encode", "open"]
    kept = sampled(every, 2)
    assert [unit[0].stage for unit in kept] == [unit[0].stage for unit in every[:3]] * 2


def test_random_weights_take_no_memory_before_they_are_read() -> None:
    weights = random_weights("large-v3", SIZES["large-v3"].dims)
    name = "decoder.token_embedding.weight"
    assert weights.n_languages == 100
    assert name in list(weights.state)
    assert weights.state[name].shape == (51_866, 1280)
    assert weights.state[name].dtype == torch.float16


def test_the_table_has_a_row_per_model(toy: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.sizes.memory_mb", lambda size: 1.0)  # it takes a process
    with torch_threads(1):
        english = replace(TOY, vocabulary=51_864)
        rows = [
            row(name, size, random_weights(name, size.dims), toy, RUN, "random")
            for name, size in (("toy", TOY), ("toy.en", english))
        ]
    assert [line.split(",")[0] for line in table(rows).splitlines()[1:]] == ["toy", "toy.en"]
    assert rows[0].language_id is not None
    assert rows[1].language_id is None
    assert rows[0].total > RUN.rest_s
    assert rows[0].streams_per_core == pytest.approx(1 / rows[0].total)
    assert (rows[0].n_units, rows[1].n_units) == (3, 2)


@pytest.mark.slow
def test_the_memory_of_a_model_is_that_of_its_packed_weights() -> None:
    """Of 64 channels: the vocabulary in 16 and in 8 bits is 10 MB, the blocks are below 2 MB."""
    assert 5 < memory_mb(TOY) < 40


def test_the_floor_is_the_longer_of_computing_and_reading() -> None:
    rates = {"bf16": 1e12, "int8": 1e12, "fp32": 1e12, "512 MB": 1e9, "8 MB": 1e15}
    rows = floor_rows(RUN, BASE, Machine(rates, rates, 1), dict.fromkeys(STAGES, 1.0))
    assert [one["stage"] for one in rows] == [*STAGES, "all"]
    for one in rows[:-1]:
        assert one["floor, s"] == max(float(str(one["operations, s"])), float(str(one["bytes, s"])))
    assert sum(float(str(one["floor, s"])) for one in rows[:-1]) == pytest.approx(rows[-1]["floor, s"])
    floors = {name: floor_of(RUN, size, Machine(rates, rates, 1)) for name, size in SIZES.items()}
    assert floors["base"] == pytest.approx(rows[-1]["floor, s"])
    order = ["tiny.en", "tiny", "base", "small", "medium", "large-v3"]
    assert [floors[name] for name in order] == sorted(floors[name] for name in order)


def test_a_batch_saves_at_most_what_is_shared() -> None:
    assert share({1: 2.0, 8: 2.0, 128: 2.0}, 1) == pytest.approx(1 / STREAMS)  # a call costs the same for any rows
    assert share({1: 2.0, 8: 16.0, 128: 256.0}, 1) == pytest.approx(1.0)  # every row costs the same
    assert share({1: 1.0, 128: 400.0}, 4) <= 1.0

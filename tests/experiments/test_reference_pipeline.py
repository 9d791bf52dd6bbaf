"""The reference pipeline gives the same output as the default one, at its own cost."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whisperlab.buffer import RingBuffer
from whisperlab.experiments.ablation.variants import BEFORE, GUIDE, VARIANTS, ConcatenatedBuffer, Models, plain_engine
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import weights_of
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import BufferRangeError, NotYetError, OverwrittenError
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, Span, samples

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper

CLOSE = {"rtol": 1e-3, "atol": 5e-3}


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 12))
def test_the_concatenated_buffer_holds_what_a_ring_holds(lengths: list[int], capacity: int) -> None:
    plain, ring, at = ConcatenatedBuffer(capacity), RingBuffer(capacity), 0
    for length in lengths:
        chunk = np.arange(at, at + length, dtype=np.float32) / 1000
        at += length
        plain.append(chunk)
        ring.append(chunk)
    assert (len(plain), plain.start, plain.end, plain.capacity) == (len(ring), ring.start, ring.end, capacity)
    np.testing.assert_array_equal(plain.peek(len(plain)), ring.peek(len(ring)))
    held = Span(ring.start, ring.end)
    np.testing.assert_array_equal(plain.read(held), ring.read(held))
    assert (plain.overruns, plain.dropped_samples) == (ring.overruns, ring.dropped_samples)
    for half in (len(ring) // 2, len(ring) - len(ring) // 2):
        np.testing.assert_array_equal(plain.read_all(), ring.read_all())
        np.testing.assert_array_equal(plain.consume(half), ring.consume(half))
    assert (len(plain), plain.start, plain.dropped_samples) == (0, ring.start, ring.dropped_samples)


def test_the_concatenated_buffer_keeps_no_more_than_it_was_given() -> None:
    """It once kept the memory of a ring beside its own, which "before" then had to pay for."""
    tracemalloc.start()
    try:
        buffer = ConcatenatedBuffer(SAMPLE_RATE * 60)
        buffer.append(np.zeros(1600, np.float32))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20_000
    assert buffer.nbytes == 6400


def test_the_concatenated_buffer_refuses_what_it_does_not_hold() -> None:
    buffer = ConcatenatedBuffer(4)
    buffer.append(np.zeros(6, np.float32))
    with pytest.raises(OverwrittenError, match="now holds 2-6"):
        buffer.read(Span(1, 3))
    with pytest.raises(NotYetError, match="now holds 2-6"):
        buffer.read(Span(5, 7))
    with pytest.raises(BufferRangeError, match="newest 5"):
        buffer.peek(5)


@pytest.fixture(scope="module")
def clip(scene: Scene) -> FloatArray:
    return scene.clip(scene.first_in("es"))[: 3 * SAMPLE_RATE]


@pytest.mark.model
def test_the_plain_engine_computes_what_the_default_one_does(base_model: Whisper, clip: FloatArray) -> None:
    weights = weights_of(base_model)
    (encoder, decoder), stack = plain_engine(weights), TextDecoder(weights)
    assert isinstance(decoder, TextDecoder)
    encoded, expected = (one.encode(clip, MAX_WINDOW) for one in (encoder, ShortWindowEncoder(weights)))
    torch.testing.assert_close(encoded.features, expected.features, **CLOSE)
    plain, ours = (one.extend(one.open(expected), [50258, 50262, 50359, 50363]) for one in (decoder, stack))
    torch.testing.assert_close(plain, ours, **CLOSE)
    exact = decoder.logits(plain).log_softmax(1).amax(1)
    found = [likeliest for ((_, likeliest),) in decoder.likeliest(plain, torch.zeros(decoder.n_vocabulary), 1)]
    torch.testing.assert_close(torch.tensor(found), exact, rtol=1e-5, atol=1e-5)  # all logits are exact
    assert not encoder.compiled


@pytest.mark.model
def test_both_decode_the_same_words(base_model: Whisper, clip: FloatArray) -> None:
    weights, options = (
        weights_of(base_model),
        DecodingOptions(trailing_silence_s=30.0, final_silence_s=(30.0,), final_beam=1),
    )
    engines = plain_engine(weights), (ShortWindowEncoder(weights), TextDecoder(weights))
    decoders = [SpeechDecoder(*engine, options, PerformanceMetrics()) for engine in engines]
    said, expected = (decoder.decode(clip, 0, "es").words for decoder in decoders)
    assert [word.text for word in said] == [word.text for word in expected]
    assert said
    assert [word.start for word in said] == [word.start for word in expected]


@pytest.mark.model
@pytest.mark.parametrize("guide", [False, True])
def test_the_reference_pipeline_encodes_thirty_seconds_at_every_hop(scene: Scene, guide: bool) -> None:
    transcriber = VARIANTS[GUIDE if guide else BEFORE].transcriber(Models("base", ("en", "es")))
    audio = scene.audio[samples(0.3) : samples(1.3)]  # speech from the first sample on
    for chunk in chunks(audio, 1600):
        transcriber.process(chunk)
    transcriber.finalize()
    told = transcriber.get_statistics()
    assert len(transcriber.config()["decoding"]["final_silence_s"]) == 1
    assert told["lid"]["frames"] > 1
    assert told["lid"]["encoded_s"] == 30 * told["lid"]["encoder_calls"] == 30 * told["lid"]["frames"]
    assert told["encoder_cache"]["max_size"] == (50 if guide else 0)
    assert told["encoder_cache"]["hits"] == 0
    assert isinstance(transcriber.vad_audio_buffer, ConcatenatedBuffer) is not guide
    assert told["performance"]["lid.total"]["count"] == told["lid"]["frames"]

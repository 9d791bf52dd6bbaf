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
from whisperlab.experiments.ablation.variants import (
    ConcatenatedBuffer,
    PaddedEncoder,
    ReferenceDecoder,
    reference_transcriber,
)
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import weights_of
from whisperlab.streaming.decoding import DecodingOptions, SpeechDecoder
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import AudioFormatError, BufferRangeError, NotYetError, OverwrittenError
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


@pytest.fixture(scope="module")
def encoded(base_model: Whisper, clip: FloatArray) -> Encoded:
    """What the padded encoder makes of it, and the work that it counts."""
    padded = PaddedEncoder(base_model)
    made = padded.encode(clip, margin=0, pool_after=3)
    assert (padded.calls, padded.encoded_samples) == (1, MAX_WINDOW)
    return made


@pytest.mark.model
def test_the_padded_encoder_equals_the_short_window_encoder_on_thirty_seconds(
    base_model: Whisper, clip: FloatArray, encoded: Encoded
) -> None:
    ours = ShortWindowEncoder(weights_of(base_model)).encode(clip, MAX_WINDOW)
    torch.testing.assert_close(encoded.features, ours.features, **CLOSE)
    assert encoded.n_audio == ours.n_audio
    for n in (0, MAX_WINDOW + 1):
        with pytest.raises(AudioFormatError, match=f"got {n}"):
            PaddedEncoder(base_model).encode(np.zeros(n, np.float32), 0)


@pytest.mark.model
def test_the_reference_decoder_equals_the_default_one(base_model: Whisper, encoded: Encoded) -> None:
    ours, plain = TextDecoder(weights_of(base_model)), ReferenceDecoder(base_model)
    start = [50258, 50262, 50359, 50363]
    mine, theirs = ours.open(encoded), plain.open(encoded)
    for tokens in (start, [383], [1000]):
        expected = ours.logits(ours.extend(mine, tokens, keep_alignment=True))
        torch.testing.assert_close(plain.extend(theirs, tokens, keep_alignment=True), expected, **CLOSE)
    torch.testing.assert_close(theirs.alignment, mine.alignment, **CLOSE)
    plain.rewind(theirs, 5)
    again = plain.extend(theirs, [1000])
    torch.testing.assert_close(again, expected, **CLOSE)
    assert theirs.n_tokens == mine.n_tokens == 6
    rows = torch.tensor([50259, 50262])
    glance = plain.logits(plain.first_token_pass(encoded.features, 50258), rows)
    torch.testing.assert_close(glance, ours.logits(ours.first_token_pass(encoded.features, 50258), rows), **CLOSE)
    assert not any(module._forward_hooks for module in base_model.modules())


@pytest.mark.model
def test_a_rewound_state_goes_on_as_a_fresh_one(base_model: Whisper, encoded: Encoded) -> None:
    plain = ReferenceDecoder(base_model)
    fresh, rewound = plain.open(encoded), plain.open(encoded)
    expected = plain.extend(fresh, [50258, 50262, 50359], keep_alignment=True)[-1:]
    plain.extend(rewound, [50258, 50262, 50363, 383], keep_alignment=True)
    plain.rewind(rewound, 2)
    torch.testing.assert_close(plain.extend(rewound, [50359], keep_alignment=True), expected, **CLOSE)
    torch.testing.assert_close(rewound.alignment, fresh.alignment, **CLOSE)


@pytest.mark.model
def test_the_reference_decoder_refuses_several_tokens_after_others(base_model: Whisper, encoded: Encoded) -> None:
    """Several at once after others: torch's causal mask then hides from them what they should see."""
    plain = ReferenceDecoder(base_model)
    state = plain.open(encoded)
    plain.extend(state, [50258])
    with pytest.raises(AssertionError, match="empty cache"):
        plain.extend(state, [50262, 50359])
    with pytest.raises(ValueError, match="at most 448 tokens at once, got 449"):
        plain.extend(plain.open(encoded), [383] * 449)


@pytest.mark.model
def test_both_decode_the_same_words(base_model: Whisper, clip: FloatArray) -> None:
    weights, options = weights_of(base_model), DecodingOptions(trailing_silence_s=(30.0,))
    ours = SpeechDecoder(ShortWindowEncoder(weights), TextDecoder(weights), options, PerformanceMetrics())
    plain = SpeechDecoder(PaddedEncoder(base_model), ReferenceDecoder(base_model), options, PerformanceMetrics())
    said, expected = (decoder.decode(clip, 0, "es").words for decoder in (plain, ours))
    assert [word.text for word in said] == [word.text for word in expected]
    assert said
    assert [word.start for word in said] == [word.start for word in expected]


@pytest.mark.model
@pytest.mark.parametrize("guide", [False, True])
def test_the_reference_pipeline_encodes_thirty_seconds_at_every_hop(
    base_model: Whisper, scene: Scene, guide: bool
) -> None:
    transcriber = reference_transcriber(base_model, ["en", "es"], guide=guide)
    audio = scene.audio[samples(0.3) : samples(1.3)]  # speech from the first sample on
    for chunk in chunks(audio, 1600):
        transcriber.process(chunk)
    transcriber.finalize()
    told = transcriber.get_statistics()
    assert len(transcriber.config()["decoding"]["trailing_silence_s"]) == 1
    assert told["lid"]["frames"] > 1
    assert told["lid"]["encoded_s"] == 30 * told["lid"]["encoder_calls"] == 30 * told["lid"]["frames"]
    assert told["encoder_cache"]["max_size"] == (50 if guide else 0)
    assert told["encoder_cache"]["hits"] == 0
    assert isinstance(transcriber.vad_audio_buffer, ConcatenatedBuffer) is not guide
    assert told["performance"]["lid.total"]["count"] == told["lid"]["frames"]

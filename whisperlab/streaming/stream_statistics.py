"""Counts and latencies of a stream as one JSON-able record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from whisperlab.buffer import RingBuffer
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.streaming.assembly import Assembly
from whisperlab.util.gain import dbfs
from whisperlab.util.json_values import Json
from whisperlab.util.timeline import seconds

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def statistics(parts: Assembly) -> Json:
    """Everything that was counted since the stream began.

    Another thread may work on the stream meanwhile: values that belong together are read without a call in between.
    """
    stream, text, probe, check = parts.stream, parts.stream.text, parts.probe, parts.check
    language, received, counts = text.language, stream.history.received, text.counts
    decodes = counts.decodes + parts.proof.decodes
    return {
        "performance": parts.metrics.get_statistics(),
        "self_cost_ns": parts.metrics.self_cost_ns,
        "encoder_cache": parts.cache.get_statistics(),
        "buffers": {"vad": _buffer(stream.history.vad), "lid": _buffer(stream.history.lid)},
        "lid": {
            "frames": probe.evaluated,
            "skipped": probe.skipped,
            "shed": probe.omitted,
            **_encoder(parts.lid_encoder),
        },
        "sessions": {
            "mode": stream.detector.mode,
            "language": language,
            "switches": stream.switches,
            "switches_refused": stream.refused,
            "segments": counts.segments,
            "decodes": decodes,
            "steps_shed": counts.steps_omitted,
            "redecodes": parts.decoder.redecodes,
            "shared_encodes": parts.decoder.shared,
            **_encoder(parts.text_encoder),
            "heard_s": seconds(received),
            "load_level": stream.schedule.load_level,
            "gaps": stream.gaps,
            "gap_s": seconds(stream.gap_samples),
            "untranscribed": counts.untranscribed,
            "untranscribed_s": seconds(counts.untranscribed_samples),
            "language_flags": check.flags,
            "language_outside": check.outside,
            "language_outside_s": seconds(check.outside_samples),
        },
        "level": {
            "recent_dbfs": dbfs(stream.gate.level.value),
            "quiet_speech_s": seconds(stream.gate.quiet),
            "quiet_speech_dbfs": dbfs(stream.gate.quiet_level),
        },
    }


def summary(parts: Assembly) -> str:
    """Lines of text: latency of each operation, cache hit rate, work skipped under overload, and audio lost."""
    cache, stream = parts.cache.get_statistics(), parts.stream
    hits = f"encoder cache ({cache['key']}): {cache['hits']} hits, {cache['misses']} misses"
    lost = (
        f"omitted because of load: {parts.probe.omitted} language-ID frames, {stream.text.counts.steps_omitted} "
        f"decode steps; audio lost: {seconds(stream.gap_samples):.1f} s in {stream.gaps} gaps"
    )
    return f"{parts.metrics.get_summary()}\n{hits}, hit rate {cache['hit_rate']:.1%}\n{lost}"


def prometheus(sessions: Mapping[str, float]) -> Iterator[Metric]:
    """Counters of the part ``sessions`` of the statistics."""
    from prometheus_client.core import CounterMetricFamily

    for name, about, value in (
        ("switches", "Language switches that were followed.", sessions["switches"]),
        ("segments", "Segments that became final.", sessions["segments"]),
        ("untranscribed_seconds", "Speech for which no text was found.", sessions["untranscribed_s"]),
    ):
        yield CounterMetricFamily(f"whisperlab_{name}", about, value)


def _encoder(encoder: ShortWindowEncoder) -> dict[str, float]:
    calls, encoded = encoder.calls, encoder.encoded_samples
    return {"encoder_calls": calls, "encoded_s": seconds(encoded)}


def _buffer(buffer: RingBuffer) -> dict[str, int]:
    return {
        "capacity": buffer.capacity,
        "held": len(buffer),
        "nbytes": buffer.nbytes,
        "overruns": buffer.overruns,
        "dropped_samples": buffer.dropped_samples,
    }

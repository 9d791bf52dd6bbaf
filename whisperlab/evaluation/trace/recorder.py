"""Recorder: feed audio through a transcriber and record everything it does as a trace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol, cast, get_args

from whisperlab.evaluation.trace.files import SCHEMA, write_trace
from whisperlab.evaluation.trace.records import Reference, Trace
from whisperlab.evaluation.trace.schema import Pace
from whisperlab.streaming.real_time import LiveTranscriber, OverloadOptions, RealTimeFeed
from whisperlab.streaming.results import LanguageFrame, ProcessResult
from whisperlab.util.audio_arrays import FloatArray, audio_digest, chunks, paced
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json, to_json
from whisperlab.util.process import peak_rss_bytes, provenance
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds

Call = tuple[int, Callable[[], ProcessResult]]  # the next call, and the samples by which it advances the stream
Clock = Callable[[], float]
Sleep = Callable[[float], None]


class StreamTranscriber(Protocol):
    """Anything that turns chunks of 16 kHz audio into results can be recorded."""

    def process(self, chunk: FloatArray, /) -> ProcessResult:
        """Process the next chunk of the stream, shape ``(n,)``."""

    def finalize(self) -> ProcessResult:
        """End the stream and return the remaining results."""

    def get_statistics(self) -> Json:
        """Counters and latency percentiles so far, JSON-able."""

    def config(self) -> Json:
        """The configuration, JSON-able."""


def capture(
    transcriber: StreamTranscriber,
    audio: FloatArray,
    *,
    recording: str,
    reference: Reference | Json | None = None,
    audio_path: str | Path | None = None,
    audio_options: Json | None = None,
    audio_offset: float | None = None,
    chunk_ms: float = 100,
    pace: Pace = "fast",
    overload: OverloadOptions | None = None,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
    progress: Callable[[float], object] | None = None,
    on_result: Callable[[ProcessResult], object] | None = None,
    stop: Callable[[], bool] = lambda: False,
    processor_clock: Clock = time.process_time,
) -> Trace:
    """Feed 16 kHz ``audio`` of shape ``(n,)`` through a fresh transcriber and return the trace.

    With pace ``real`` a chunk is fed when its last sample would have been spoken. A transcriber that is too slow falls
    behind without limit, unless ``overload`` sets how to shed load; the audio then goes through a `RealTimeFeed`, which
    needs a `LiveTranscriber`. ``progress`` is called after each chunk with the seconds of audio fed,
    ``on_result`` before it with the result. Before each chunk ``stop`` is called: True ends the stream early, and the
    trace is complete up to there. ``audio_options`` are the ``channel`` and ``track`` with which ``audio_path`` was
    read, if not the defaults. ``audio_offset`` is the start of the audio in its file in seconds, for a part of a file.
    Raises ConfigurationError for empty audio and for an invalid chunk length or pace.
    """
    known = reference if isinstance(reference, Reference | None) else Reference.from_dict(reference)
    header = {
        "kind": "header",
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "config": transcriber.config(),
        "audio": {**_audio_facts(audio, audio_path, audio_offset), **(audio_options or {})},
        "recording": recording,
        "reference": known.to_dict() if known else None,
        "pace": pace,
        "load_before": os.getloadavg()[0],
    }
    if overload is None:
        calls = _calls(transcriber, _feed(audio, chunk_ms, pace, clock, sleep, stop))
        statistics = transcriber.get_statistics
    else:
        if pace != "real":
            raise ConfigurationError(f"overload is for pace real, got pace {pace!r}")
        live = RealTimeFeed(cast("LiveTranscriber", transcriber), overload, clock=clock)
        calls = _live_calls(live, _feed(audio, chunk_ms, "fast", clock, sleep, stop), clock, sleep)
        statistics = live.get_statistics
    clocks = clock, processor_clock
    events = _run(calls, statistics, clocks, progress or (lambda _: None), on_result or (lambda _: None))
    return Trace(cast(Json, to_json(header)), tuple(events))


def record(transcriber: StreamTranscriber, audio: FloatArray, path: str | Path, **options: Any) -> Trace:
    """`capture`, with its options, and write the trace to ``path``. A run that fails leaves no file."""
    trace = capture(transcriber, audio, **options)
    write_trace(path, trace)
    return trace


def _run(
    calls: Iterable[Call],
    statistics: Callable[[], Json],
    both_clocks: tuple[Clock, Clock],
    progress: Callable[[float], object],
    on_result: Callable[[ProcessResult], object],
) -> Iterator[Json]:
    clock, processor_clock = both_clocks
    n_fed, compute_s, processor_s, chunk, service_s = 0, 0.0, 0.0, 0, list[float]()
    last_text: tuple[str, str | None] = ("", None)
    level = 0
    started = clock()
    for n_samples, call in calls:
        n_fed += n_samples
        before, busy = clock(), processor_clock()
        result = call()
        after = clock()
        processor_s += processor_clock() - busy
        compute_s += after - before
        if n_samples:
            chunk = chunk or n_samples
            service_s.append(round(after - before, 6))
        clocks = {"at": seconds(n_fed), "elapsed": round(after - started, 6)}
        for kind, fields in _events(result, last_text, level):
            yield {"kind": kind, **clocks, **fields}
        last_text, level = (result.tentative, result.language), result.load_level
        on_result(result)
        progress(seconds(n_fed))
    end = {
        "kind": "end",
        **clocks,
        "statistics": statistics(),
        "compute_s": round(compute_s, 6),
        "processor_s": round(processor_s, 6),
        "chunk_s": seconds(chunk),
        "service_s": service_s,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    yield cast(Json, to_json(end))


def _calls(transcriber: StreamTranscriber, feed: Iterable[FloatArray]) -> Iterator[Call]:
    for chunk in feed:
        yield len(chunk), partial(transcriber.process, chunk)
    yield 0, transcriber.finalize


def _live_calls(live: RealTimeFeed, feed: Iterable[FloatArray], clock: Clock, sleep: Sleep) -> Iterator[Call]:
    """The work of a feed to which each chunk is offered once its last sample has been spoken."""
    began, spoken = clock(), 0
    for chunk in feed:
        spoken += len(chunk)
        while (wait_s := began + seconds(spoken) - clock()) > 0:
            work = live.due()
            if work:
                yield work
            else:
                sleep(wait_s)
        live.offer(chunk)
    live.close()
    while work := live.due():
        yield work


def _events(
    result: ProcessResult, last_text: tuple[str, str | None], level: int
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Kind and fields of every event in a result, without the clocks."""
    for gap in result.gaps:
        yield "gap", _span(gap)
    for span in result.untranscribed:
        yield "untranscribed", _span(span)
    for flag in result.flags:
        yield "language_flag", {**flag.to_dict(), "outside": flag.outside}
    for span in result.speech:
        yield "speech", _span(span)
    for frame in result.frames:
        yield "frame", _frame(frame)
    for switch in result.switches:
        yield "switch", switch.to_dict()
    if result.committed or (result.tentative, result.language) != last_text:
        names = ("committed", "tentative", "language")
        yield "text", {name: getattr(result, name) for name in names}
    for segment in result.segments:
        yield "segment", asdict(segment)
    if result.load_level != level:
        yield "load", {"level": result.load_level}


def _span(span: Span) -> Mapping[str, float]:
    return {"start": seconds(span.start), "end": seconds(span.end)}


def _frame(frame: LanguageFrame) -> Mapping[str, object]:
    return {
        "end": seconds(frame.end),
        "window": seconds(frame.window),
        "speech": seconds(frame.speech),
        "posterior": _rounded(frame.posterior),
        "label": frame.label,
        "cached": frame.cached,
        "onset": frame.onset and {"window": seconds(frame.onset.window), "posterior": _rounded(frame.onset.posterior)},
    }


def _rounded(posterior: Mapping[str, float]) -> dict[str, float]:
    # Six significant digits: a posterior over 99 languages ten times a second is most of a trace.
    return {language: float(f"{p:.6g}") for language, p in posterior.items()}


def _feed(
    audio: FloatArray, chunk_ms: float, pace: Pace, clock: Clock, sleep: Sleep, stop: Callable[[], bool]
) -> Iterator[FloatArray]:
    if len(audio) == 0:
        raise ConfigurationError("cannot record a trace of empty audio: it has 0 samples")
    if samples(chunk_ms / 1000) < 1:
        raise ConfigurationError(f"chunk_ms must give at least one sample, got {chunk_ms}")
    if pace not in get_args(Pace):
        raise ConfigurationError(f"pace must be one of {', '.join(get_args(Pace))}, got {pace!r}")
    feed = chunks(audio, samples(chunk_ms / 1000))
    return takewhile(lambda _: not stop(), paced(feed, clock, sleep) if pace == "real" else feed)


def _audio_facts(audio: FloatArray, path: str | Path | None, offset: float | None) -> Mapping[str, str | float | None]:
    return {
        "path": None if path is None else str(path),
        **({} if offset is None else {"offset": offset}),
        "sha256": audio_digest(audio),
        "duration": seconds(len(audio)),
        "sampling_rate": SAMPLE_RATE,
    }

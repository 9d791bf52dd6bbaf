"""Recorder: feed audio through a transcriber and record everything it does as a trace."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import Protocol, cast, get_args

import numpy as np

from whisperlab.evaluation.trace.records import SCHEMA, Pace, Reference, Trace
from whisperlab.streaming.real_time import LiveTranscriber, OverloadOptions, RealTimeFeed, Work
from whisperlab.streaming.results import LanguageFrame, ProcessResult
from whisperlab.streaming.sources import ArraySource, Source
from whisperlab.util.audio_arrays import Clock, FloatArray, Sleep, audio_digest, paced
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.json_values import Json, to_json
from whisperlab.util.process import peak_rss_bytes, provenance
from whisperlab.util.timeline import SAMPLE_RATE, samples, seconds


class StreamTranscriber(Protocol):
    """Anything that turns chunks of 16 kHz audio, shape ``(n,)``, into results can be recorded."""

    def process(self, chunk: FloatArray, /) -> ProcessResult: ...
    def finalize(self) -> ProcessResult: ...
    def get_statistics(self) -> Json: ...
    def config(self) -> Json: ...


def capture(
    transcriber: StreamTranscriber,
    audio: FloatArray | Source,
    *,
    recording: str,
    reference: Reference | Json | None = None,
    audio_path: str | Path | None = None,
    audio_options: Json | None = None,
    chunk_ms: float = 100,
    pace: Pace = "fast",
    overload: OverloadOptions | None = None,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
    progress: Callable[[float], object] = lambda _: None,
    on_result: Callable[[ProcessResult], object] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trace:
    """Feed 16 kHz ``audio`` of shape ``(n,)``, or a source, through a fresh transcriber and return the trace.

    With pace ``real`` a chunk is fed when its last sample would have been spoken. A transcriber that is too slow falls
    behind without limit, unless ``overload`` sets how to shed load; the audio then goes through a `RealTimeFeed`, which
    needs a `LiveTranscriber`, and a source is read in a thread of its own. The caller closes the source.
    ``progress`` is called after each chunk with the seconds of audio fed, ``on_result`` before it with the result.
    Before each chunk ``stop`` is called: True ends the stream early, and the trace is complete up to there.
    ``audio_options`` say how ``audio_path`` was read: ``channel``, ``track``, and the ``offset`` of a part in seconds;
    None is the default. Raises ConfigurationError for empty audio and invalid options.
    """
    if samples(chunk_ms / 1000) < 1:
        raise ConfigurationError(f"chunk_ms must give at least one sample, got {chunk_ms}")
    source = ArraySource(audio, recording, chunk_ms) if isinstance(audio, np.ndarray) else audio
    whole = source.audio if isinstance(source, ArraySource) else None
    if whole is not None and len(whole) == 0:
        raise ConfigurationError("cannot record a trace of empty audio: it has 0 samples")
    if pace not in get_args(Pace):
        raise ConfigurationError(f"pace must be one of {', '.join(get_args(Pace))}, got {pace!r}")
    if overload is not None and pace != "real":
        raise ConfigurationError(f"overload is for pace real, got pace {pace!r}")
    read = {name: value for name, value in (audio_options or {}).items() if value is not None}
    header = _header(transcriber.config(), recording, reference, pace)
    waits = pace == "real" and not source.live and (whole is None or overload is None)  # `_live_calls` waits itself
    digest, spoken = hashlib.sha256(), paced(source, clock, sleep) if waits else source

    def feed() -> Iterator[FloatArray]:
        for chunk in takewhile(lambda _: not stop(), spoken):
            digest.update(np.ascontiguousarray(chunk, "<f4").data)
            yield chunk

    chunk_calls: Iterator[Work] = ((len(chunk), partial(transcriber.process, chunk)) for chunk in feed())
    calls: Iterable[Work] = chain(chunk_calls, [(0, transcriber.finalize)])
    statistics = transcriber.get_statistics
    if overload is not None:
        live = RealTimeFeed(cast("LiveTranscriber", transcriber), overload, clock=clock)
        calls = _threaded_calls(live, feed()) if whole is None else _live_calls(live, feed(), clock, sleep)
        statistics = live.get_statistics
    events = tuple(_run(calls, statistics, clock, on_result, progress))
    sha256, length_s = digest.hexdigest(), events[-1]["at"]
    if whole is not None:  # all of it, even if it was stopped early
        sha256, length_s = audio_digest(whole), seconds(len(whole))
    elif not length_s:
        raise AudioFormatError(f"{source.name}: ended without a single sample")
    facts = {"path": audio_path, "sha256": sha256, "duration": length_s, "sampling_rate": SAMPLE_RATE}
    header["audio"] = facts | read
    return Trace(cast(Json, to_json(header)), events)


def _header(config: Json, recording: str, reference: Reference | Json | None, pace: Pace) -> dict[str, object]:
    known = reference if isinstance(reference, Reference | None) else Reference.from_dict(reference)
    created, said = datetime.now(UTC).isoformat(timespec="seconds"), known.to_dict() if known else None
    made = {"kind": "header", "schema": SCHEMA, "created": created, **provenance(), "config": config}
    what = {"audio": {}, "recording": recording, "reference": said}  # audio is known at the end of a source
    return {**made, **what, "pace": pace, "load_before": os.getloadavg()[0]}


def _run(
    calls: Iterable[Work],
    statistics: Callable[[], Json],
    clock: Clock,
    on_result: Callable[[ProcessResult], object],
    progress: Callable[[float], object],
) -> Iterator[Json]:
    n_fed, compute_s, processor_s, chunk, service_s = 0, 0.0, 0.0, 0, list[float]()
    last = ProcessResult("", "", None)
    started = clock()
    for n_samples, call in calls:
        n_fed += n_samples
        before, busy = clock(), time.process_time()
        result = call()
        after = clock()
        processor_s += time.process_time() - busy
        compute_s += after - before
        chunk = chunk or n_samples
        if n_samples:
            service_s.append(round(after - before, 6))
        clocks = {"at": seconds(n_fed), "elapsed": round(after - started, 6)}
        for kind, fields in _events(result, last):
            yield {"kind": kind, **clocks, **fields}
        last = result
        on_result(result)
        progress(seconds(n_fed))
    times = {"compute_s": round(compute_s, 6), "processor_s": round(processor_s, 6), "chunk_s": seconds(chunk)}
    end = {"kind": "end", **clocks, "statistics": statistics(), **times, "service_s": service_s}
    yield cast(Json, to_json({**end, "peak_rss_bytes": peak_rss_bytes()}))


def _live_calls(live: RealTimeFeed, feed: Iterable[FloatArray], clock: Clock, sleep: Sleep) -> Iterator[Work]:
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


def _threaded_calls(live: RealTimeFeed, feed: Iterable[FloatArray]) -> Iterator[Work]:
    """The work of a feed that a second thread fills as chunks arrive. An error of the source is raised at the end."""
    failed = list[BaseException]()

    def fill() -> None:
        try:
            for chunk in feed:
                live.offer(chunk)
        except BaseException as error:
            failed.append(error)
        finally:
            live.close()

    threading.Thread(target=fill, daemon=True).start()
    yield from live.work()
    if failed:
        raise failed[0]


def _events(result: ProcessResult, last: ProcessResult) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Kind and fields of every event in a result, without the clocks."""
    for kind, spans in (("gap", result.gaps), ("untranscribed", result.untranscribed)):
        for span in spans:
            yield kind, span.to_dict()
    for flag in result.flags:
        yield "language_flag", {**flag.to_dict(), "outside": flag.outside}
    for span in result.speech:
        yield "speech", span.to_dict()
    for frame in result.frames:
        yield "frame", _frame(frame)
    for switch in result.switches:
        yield "switch", switch.to_dict()
    if result.committed or (result.tentative, result.language) != (last.tentative, last.language):
        yield "text", {name: getattr(result, name) for name in ("committed", "tentative", "language")}
    for segment in result.segments:
        yield "segment", {**asdict(segment), "words": [asdict(word) for word in segment.words]}
    if result.load_level != last.load_level:
        yield "load", {"level": result.load_level}


def _frame(frame: LanguageFrame) -> Mapping[str, object]:
    onset = frame.onset and {"window": seconds(frame.onset.window), "posterior": _rounded(frame.onset.posterior)}
    times = {name: seconds(getattr(frame, name)) for name in ("end", "window", "speech")}
    found = {"posterior": _rounded(frame.posterior), "label": frame.label, "cached": frame.cached, "onset": onset}
    return {**times, **found}


def _rounded(posterior: Mapping[str, float]) -> dict[str, float]:
    # Six significant digits: a posterior over 99 languages ten times a second is most of a trace.
    return {language: float(f"{p:.6g}") for language, p in posterior.items()}

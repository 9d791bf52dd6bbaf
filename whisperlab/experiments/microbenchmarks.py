"""Microbenchmarks of the ring buffer, the timers and the encoder cache, beside the code that they replace.

Compared subjects run in turns within one process and are timed in processor time of their thread, so that other load
slows both. Ratios are taken per round and reported as their median with a 95 % interval.
"""

import gc
import time
import timeit
import tomllib
import tracemalloc
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from whisperlab.buffer import RingBuffer
from whisperlab.cache import KEYS, EncoderCache
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.weights import Weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import process_memory
from whisperlab.util.statistics import Figure, ratio, summary
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE, samples
from whisperlab.util.timing import Subject, time_in_turns

APPENDS = 1000  # the guide's count
CHUNK = SAMPLE_RATE // 10  # 100 ms
HELD_S = 10  # seconds both buffers keep; 625 KB, as in the guide
ROUNDS = 31
CALLS = 2000  # per round, of calls that take about a microsecond

# Statements by name, and the figures made of one or two of them.
_STATEMENTS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SPEECH: FloatArray = np.random.default_rng(0).uniform(-1, 1, CHUNK).astype(np.float32)


def repeated(statement: str, names: dict[str, Any], setup: str = "first = 0", calls: int = CALLS) -> Subject:
    """A subject that runs a statement ``calls`` times, in a loop without function calls (`timeit`)."""
    return partial(timeit.Timer(statement, setup, globals=names).timeit, calls)


def _in_turns(statements: Mapping[str, str], names: dict[str, Any], asked: Mapping[str, Sequence[str]]) -> list[Figure]:
    """Time statements by name. A figure of one is nanoseconds, of two the ratio of their times."""
    times = time_in_turns({name: repeated(code, names) for name, code in statements.items()}, ROUNDS)
    return [
        ratio(name, *(times[one] for one in of))
        if len(of) == 2
        else summary(name, "ns", [ms / CALLS * 1e6 for ms in times[of[0]]])
        for name, of in asked.items()
    ]


def concatenated(keep: int) -> FloatArray:
    """A buffer made by np.concatenate after 1,000 chunks, cut to the newest ``keep`` samples each time."""
    held = np.array([], dtype=np.float32)
    for _ in range(APPENDS):
        held = np.concatenate([held, SPEECH])[-keep:]
    return held


def ring_filled(keep: int) -> RingBuffer:
    ring = RingBuffer(keep)
    for _ in range(APPENDS):
        ring.append(SPEECH)
    return ring


def traced_bytes(build: Subject) -> tuple[int, int]:
    """Bytes held by the result of ``build`` and the peak on the way, by tracemalloc."""
    gc.collect()
    tracemalloc.start()
    result = build()
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return current, peak


def bytes_per_append() -> float:
    """Bytes that an append in steady state leaves allocated, by tracemalloc."""
    append = repeated("ring.append(speech)", {"ring": RingBuffer(HELD_S * SAMPLE_RATE), "speech": SPEECH})
    append()
    return traced_bytes(lambda: append() and None)[0] / CALLS


def buffer_figures() -> list[Figure]:
    """Appends beside ``np.concatenate``, which copies all that is held, and a bare copy; a read of the newest 2 s."""
    figures = []
    for held_s in (1, HELD_S, 60, None):
        keep = APPENDS * CHUNK if held_s is None else held_s * SAMPLE_RATE
        subjects: dict[str, Subject] = {"concatenate": partial(concatenated, keep), "ring": partial(ring_filled, keep)}
        times = time_in_turns(subjects, ROUNDS if held_s in (1, HELD_S) else max(1, ROUNDS // 4))
        held = "everything, 100 s at last" if held_s is None else f"the newest {held_s} s"
        name = f"{APPENDS} np.concatenate / append, holding {held}"
        figures.append(ratio(name, times["concatenate"], times["ring"]))
    n_held = HELD_S * SAMPLE_RATE
    names: dict[str, Any] = {"place": np.empty(CHUNK, np.float32), "memory": np.empty(n_held, np.float32)}
    names |= {"ring": RingBuffer(n_held), "speech": SPEECH}
    figures += _in_turns(_STATEMENTS["appends"], names, _STATEMENTS["append_figures"])
    figures.append(Figure("kept after an append in steady state", bytes_per_append(), "bytes", n=CALLS))
    ring = RingBuffer(n_held)
    for _ in range(HELD_S * 10 + 50):  # the newest samples wrap around the end of the memory
        ring.append(SPEECH)
    return figures + _in_turns(_STATEMENTS["reads"], {"ring": ring}, _STATEMENTS["read_figures"])


def metrics_figures(records: int = 10_000_000) -> list[Figure]:
    """The cost of a measurement beside two readings of the clock, which are the minimum."""
    metrics = PerformanceMetrics()
    nothing = metrics.measure("lid.total")(lambda: None)
    names = {"metrics": metrics, "clock": time.perf_counter_ns, "nothing": nothing}
    figures = _in_turns(_STATEMENTS["metrics"], names, _STATEMENTS["metrics_figures"])
    before = _resident_bytes(metrics, 10_000)  # enough to fill every buffer
    return [*figures, Figure("resident memory grown", _resident_bytes(metrics, records) - before, "bytes", n=records)]


def _resident_bytes(metrics: PerformanceMetrics, records: int) -> int:
    """Resident memory after so many more records."""
    for _ in range(records):
        metrics.record("lid.total", 0.001)
    return process_memory()["VmRSS"]


def cache_figures(weights: Weights) -> list[Figure]:
    """Look-ups of a 2 s window by key, the share of hashing, and the size of 50 entries, short and padded."""
    from whisperlab.model.encoder import ShortWindowEncoder

    window = (0.1 * np.random.default_rng(0).standard_normal(samples(2))).astype(np.float32)
    encoder = ShortWindowEncoder(weights)
    with torch_threads(THREADS):
        short = encoder.encode(window, margin=0).features
        padded = encoder.encode(window, margin=samples(28)).features
    figures = []
    for key in KEYS:
        cache = EncoderCache(key=key)
        hashed = partial(cache.precompute_hash, window, ("stream", 0, len(window)))
        cache.put(short, audio_hash=hashed())
        names = {"cache": cache, "hashed": hashed}
        statements = {"hash": "hashed()", "look-up": "cache.get(audio_hash=hashed())"}
        subjects = {name: repeated(code, names, calls=1) for name, code in statements.items()}
        times = time_in_turns(subjects, CALLS, time.perf_counter_ns)
        for q in (50, 95):
            value = float(np.percentile(times["look-up"], q))
            figures.append(Figure(f"{key}: look-up of 2 s, hash included, p{q}", value, "ms", n=CALLS))
        figures.append(Figure(f"{key}: share of hashing", sum(times["hash"]) / sum(times["look-up"]), "", n=CALLS))
    for name, output in (("2 s", short), ("2 s padded to 30 s", padded)):
        cache = EncoderCache(max_size=50)
        for index in range(50):
            cache.put(output, audio=window + np.float32(index))
        figures.append(Figure(f"50 outputs of {name}", cache.get_statistics()["bytes"], "bytes", n=50))
    figures.append(Figure("padded / short", figures[-1].value / figures[-2].value, "x"))
    return figures

"""Traces and sweep rows made up for the tests of the report: small, seeded, shaped as the real ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.scoring.latency import response_p95
from whisperlab.evaluation.scoring.summary import score_trace
from whisperlab.evaluation.trace import Trace, write_trace
from whisperlab.evaluation.trace.records import SCHEMA
from whisperlab.experiments.results_store import in_memory
from whisperlab.report import SweepReport, from_store
from whisperlab.util.audio_arrays import audio_digest
from whisperlab.util.options import flat
from whisperlab.util.timeline import SAMPLE_RATE

SAID = {
    "en": "please enter your password followed by the pound key",
    "es": "por favor marque su contraseña seguida de la tecla gato",
    "ru": "пожалуйста введите ваш пароль",
}
LANGUAGES = ("en", "es", "ru")
MACHINE = {"cpu": "Example CPU", "cores": 2, "memory_bytes": 2**34, "os": "Linux", "python": "3.11"}


def reference(blocks: Sequence[str], block_s: float = 5.0, gap_s: float = 0.3) -> dict[str, Any]:
    """One segment of ``block_s`` seconds for each language in ``blocks``."""
    segments = [
        {"start": n * block_s, "end": (n + 1) * block_s - gap_s, "lang": lang, "text": SAID[lang]}
        for n, lang in enumerate(blocks)
    ]
    return {"text": " ".join(SAID[lang] for lang in blocks), "segments": segments}


def statistics(hits: int, misses: int, checked: int, false_hits: int) -> dict[str, Any]:
    """``get_statistics()`` of a run with these counts of the cache."""
    return {
        "self_cost_ns": 640.0,
        "performance": {
            "chunk.total": _timing(hits + misses, 31.0),
            "lid.encoder_forward": _timing(max(misses, 1), 15.0),
            "lid.total": _timing(hits + misses, 18.0),
            "vad.detect": _timing(hits + misses, 0.4),
            "vad.buffer_append": _timing(hits + misses, 0.01),
            "whisper.decode": _timing(20, 140.0),
        },
        "encoder_cache": {
            "size": 50,
            "max_size": 50,
            "bytes": 50_000,
            "hits": hits,
            "misses": misses,
            "hit_rate": hits / max(hits + misses, 1),
            "evictions": 3,
            "hits_by_cause": {"silence": hits // 4, "repeat": 0, "similar": hits - hits // 4},
            "lookup_ms": {"p50": 0.05, "p95": 0.09, "n": hits + misses},
            "shadow": {"checked": checked, "false_hits": false_hits},
        },
    }


def make_trace(
    recording: str,
    blocks: Sequence[str],
    *,
    config: dict[str, Any],
    wrong: float = 0.1,
    hit_rate: float = 0.0,
    false_hit_rate: float = 0.0,
    audio_path: Path | None = None,
    seed: int = 0,
    said: dict[str, str] = SAID,
) -> Trace:
    """A trace in which a share ``wrong`` of the blocks is mislabelled and switches are decided 1.2 s late."""
    rng = np.random.default_rng(seed)
    duration = len(blocks) * 5.0
    heard = [str(rng.choice(LANGUAGES)) if rng.random() < wrong else lang for lang in blocks]
    frames = list(_frames(heard, duration, hit_rate, rng))
    hits = sum(frame["cached"] for frame in frames)
    checked = math.ceil(hits / 5)
    events = [
        *(
            {"kind": "speech", "at": n * 5 + 4.8, "elapsed": 1.0, "start": n * 5.0, "end": n * 5 + 4.7}
            for n in range(len(blocks))
        ),
        *frames,
        *_switches(heard),
        *_segments(heard, said, rng),
    ]
    end = {
        "kind": "end",
        "at": duration,
        "elapsed": duration / 3,
        "statistics": statistics(hits, len(frames) - hits, checked, round(checked * false_hit_rate)),
        "compute_s": duration * (0.6 - 0.4 * hit_rate),
        "processor_s": duration * (0.5 - 0.4 * hit_rate),
        "chunk_s": 0.1,
        "service_s": [0.1 * (0.6 - 0.4 * hit_rate)] * round(duration * 10),
        "peak_rss_bytes": 700 * 2**20,
    }
    header = {
        "kind": "header",
        "schema": SCHEMA,
        "created": "2026-11-22T10:00:00+00:00",
        "whisperlab": "0.1.0",
        "commit": "0123456789ab",
        "machine": MACHINE,
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "config": config,
        "audio": {
            "path": str(audio_path) if audio_path else None,
            "sha256": audio_digest(read_audio(audio_path)) if audio_path else "",
            "duration": duration,
            "sampling_rate": SAMPLE_RATE,
        },
        "recording": recording,
        "reference": reference(blocks),
        "pace": "fast",
    }
    return Trace(header, (*sorted(events, key=lambda event: event["at"]), end))


def make_row(trace: Trace, *, corpus: str, folder: Path | None = None) -> dict[str, Any]:
    """The row a sweep stores for a trace; the trace itself is written below ``folder`` when one is given."""
    key = f"{trace.recording}-" + "-".join(str(value) for value in flat(trace.config).values())
    if folder:
        write_trace(folder / "traces" / f"{key}.jsonl", trace)
    score = score_trace(trace)
    return {
        "key": key,
        "config": trace.config,
        "recording": trace.recording,
        "corpus": corpus,
        "split": "test",
        "status": "ok",
        "error": None,
        "counts": score.to_dict(),
        "rates": score.rates(),
        "statistics": trace.statistics,
        "trace": f"traces/{key}.jsonl",
        "duration": trace.duration,
        "compute_s": trace.compute_s,
        "processor_s": trace.processor_s,
        "response_p95_s": response_p95(trace),
        "peak_rss_bytes": trace.events[-1]["peak_rss_bytes"],
        "created": trace.header["created"],
    }


def failed_row(config: dict[str, Any], recording: str, error: str) -> dict[str, Any]:
    """The row of a run that broke."""
    told = {
        "key": f"failed on {recording}",
        "config": config,
        "recording": recording,
        "corpus": "ivr-five",
        "split": "test",
    }
    return {**told, "status": "failed", "error": error, "created": "2026-11-22T10:00:00+00:00"}


def configuration(key: str = "rounded", precision: int | None = 6, size: int = 50) -> dict[str, Any]:
    """A configuration of a cache sweep."""
    return {
        "languages": ["en", "es", "ru"],
        "decode": True,
        "language_id": {"hop_ms": 100},
        "cache": {"size": size, "hash_precision": precision, "key": key},
    }


def sweep_rows(folder: Path, *, n_recordings: int = 3, blocks: int = 6) -> list[dict[str, Any]]:
    """A small sweep: the guide's key, blind at fine precisions and wrong at 0, and a perceptual key."""
    grid = [
        *((configuration("rounded", p, size), rate, wrong) for size in (10, 50) for p, rate, wrong in _ROUNDED),
        (configuration("logmel", None, 50), 0.55, 0.02),
    ]
    rows = []
    for number in range(n_recordings):
        recording, corpus = f"scene-{number}", ("ivr-five", "ivr-en-es")[number % 2]
        languages = LANGUAGES if corpus == "ivr-five" else ("en", "es")
        order = [languages[(number + n) % len(languages)] for n in range(blocks)]
        audio = tone(folder / f"{recording}.wav", 5.0 * blocks)
        for config, hit_rate, wrong in grid:
            trace = make_trace(
                recording,
                order,
                config=config,
                wrong=0.1 + 0.8 * hit_rate * wrong,
                hit_rate=hit_rate,
                false_hit_rate=wrong,
                audio_path=audio,
                seed=number,
            )
            rows.append(make_row(trace, corpus=corpus, folder=folder))
    return rows


def from_rows(rows: Iterable[dict[str, Any]], **options: Any) -> SweepReport:
    """The report of some rows, which need not be in a file."""
    return from_store(in_memory(rows), **options)  # type: ignore[arg-type]


def tone(path: Path, duration_s: float) -> Path:
    """A quiet tone that rises and falls, as a WAV file."""
    time = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.1 * np.sin(2 * np.pi * 220 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * time / 5))
    write_wav(path, wave.astype(np.float32))
    return path


_ROUNDED = ((6, 0.0, 0.0), (2, 0.0, 0.0), (0, 0.78, 0.6))


def _timing(count: int, typical_ms: float) -> dict[str, float]:
    shape = {"mean": 1.1, "min": 0.7, "max": 4.0, "p50": 1.0, "p90": 1.4, "p95": 1.8, "p99": 2.9, "last": 1.0}
    return {
        "count": count,
        "total": count * 1.1 * typical_ms,
        "std": 0.2 * typical_ms,
        "n": count,
        **{name: factor * typical_ms for name, factor in shape.items()},
    }


def _frames(
    heard: Sequence[str], duration: float, hit_rate: float, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for tenth in range(20, round(duration * 10)):
        end = tenth / 10
        likely = heard[min(int((end - 1) / 5), len(heard) - 1)]
        doubts = rng.dirichlet([0.5] * len(LANGUAGES))
        posterior = {
            lang: 0.7 * (lang == likely) + 0.3 * float(doubt) for lang, doubt in zip(LANGUAGES, doubts, strict=True)
        }
        cached = bool(rng.random() < hit_rate)
        frame = {
            "end": end,
            "window": 2.0,
            "speech": 2.0,
            "posterior": posterior,
            "label": likely,
            "cached": cached,
            "onset": None,
        }
        yield {"kind": "frame", "at": end, "elapsed": end / 3, **frame}


def _switches(heard: Sequence[str]) -> Iterator[dict[str, Any]]:
    for n, (old, new) in enumerate(pairwise(heard), 1):
        if old != new:
            at = n * 5 + 1.2
            yield {
                "kind": "switch",
                "at": at,
                "elapsed": at / 3,
                "time": n * 5.1,
                "from": old,
                "to": new,
                "decided_at": at,
            }


def _segments(heard: Sequence[str], said: dict[str, str], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for n, lang in enumerate(heard):
        words = said[lang].split()
        kept = " ".join(word for word in words if rng.random() > 0.1) + (" uh" if rng.random() < 0.3 else "")
        at = n * 5 + 5.5
        yield {
            "kind": "segment",
            "at": at,
            "elapsed": at / 3,
            "text": kept,
            "language": lang,
            "start_time": n * 5.0,
            "end_time": n * 5 + 4.7,
            "is_final": True,
            "confidence": round(float(rng.uniform(0.5, 0.98)), 3),
        }

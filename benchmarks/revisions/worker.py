"""One side of a contest in a process of its own: the transcriber of the whisperlab that is first on the path.

Run as a file by the module `workers`, never imported: the path leads to another revision. It uses what every
revision since the first transcriber has: its constructor, ``reset``, ``process``, ``finalize``, ``get_statistics``, and
the fields of segments and switches. What is asked comes as JSON lines on stdin, audio as bytes after its line; answers
are JSON lines on stdout, which nothing else may write to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 1600  # samples handed over at a time: a tenth of a second


def main() -> None:
    """Set up as the first line asks, then hear a recording for each further one until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that drives
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not end up between answers,
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nor may a process it starts read what is asked
    transcriber: Any = None
    for line in questions:
        asked = json.loads(line)
        audio = np.frombuffer(questions.read(4 * asked.get("samples", 0)), np.float32)
        try:
            if transcriber is None:
                transcriber, answer = set_up(asked)
            else:
                answer = hear(transcriber, audio)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def set_up(asked: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The transcriber with its model in memory, and where its code lies."""
    import whisperlab

    make = whisperlab.SessionRestartTranscriber
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(asked["threads"])
    options = dict(asked["options"])
    if "threads" in signature(make).parameters:  # revisions before it follow torch's setting
        options.setdefault("threads", asked["threads"])
    for name, (module, group) in asked["groups"].items():
        if name in options:
            options[name] = getattr(import_module(module), group)(**options[name])
    return make(asked["model"], languages=asked["languages"], **options), {"package": whisperlab.__file__}


def hear(transcriber: Any, audio: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What the transcriber makes of a recording, and the seconds it computed."""
    transcriber.reset()
    before = encoder_work(transcriber)
    segments, switches, compute_s = [], [], 0.0
    for call in calls(transcriber, audio):
        began = time.perf_counter()
        result = call()
        compute_s += time.perf_counter() - began
        segments += [segment_fields(segment) for segment in result.segments]
        switches += [switch.to_dict() for switch in result.switches]
    after = encoder_work(transcriber)
    return {
        "segments": segments,
        "switches": switches,
        "compute_s": compute_s,
        "work": [now - then for now, then in zip(after, before, strict=True)],
    }


def calls(transcriber: Any, audio: npt.NDArray[np.float32]) -> Iterator[Callable[[], Any]]:
    """The recording chunk by chunk, then the end of the stream."""
    for start in range(0, len(audio), CHUNK):
        yield partial(transcriber.process, audio[start : start + CHUNK])
    yield transcriber.finalize


def segment_fields(segment: Any) -> dict[str, Any]:
    """A segment as plain data."""
    names = "text", "language", "start_time", "end_time", "is_final", "confidence"
    return {name: getattr(segment, name) for name in names}


def encoder_work(transcriber: Any) -> tuple[float, float]:
    """Calls of the encoders and seconds they were given; zero where the revision does not count them."""
    statistics = transcriber.get_statistics()
    parts = [statistics.get(name, {}) for name in ("lid", "sessions")]
    return sum(p.get("encoder_calls", 0) for p in parts), sum(p.get("encoded_s", 0.0) for p in parts)


if __name__ == "__main__":
    main()

"""The worker's end: one side in a process of its own, with the whisperlab that is first on the path.

`processes` runs this file; it is never imported, because the path leads to another revision. It uses the interface that
every revision since the first transcriber has: the constructor, ``reset``, ``process``, ``finalize``,
``get_statistics``, and the fields of segments and switches. Requests are JSON lines on stdin, audio follows its line as
bytes; answers are JSON lines on stdout.
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
    """Set up as the first request says, then transcribe a recording for each further one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the output of libraries must not end up between answers,
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and child processes must not read requests
    transcriber: Any = None
    for line in requests:
        request = json.loads(line)
        audio = np.frombuffer(requests.read(4 * request.get("samples", 0)), np.float32)
        try:
            if transcriber is None:
                transcriber, answer = set_up(request)
            else:
                answer = transcribe(transcriber, audio)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def set_up(request: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The transcriber with its model in memory, and where its code is."""
    import whisperlab

    make = whisperlab.SessionRestartTranscriber
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(request["threads"])
    parameters = signature(make).parameters
    options = dict(request["options"])
    if "config" in parameters:  # revisions with one configuration record
        config = import_module("whisperlab.config").TranscriberConfig
        options = {"config": config.from_json({"compute.threads": request["threads"], **options})}
    elif "threads" in parameters:  # older revisions use torch's setting
        options.setdefault("threads", request["threads"])
    for name, value in options.items():
        if isinstance(value, dict) and name in parameters:  # a group of options
            options[name] = type(parameters[name].default)(**value)
    transcriber = make(request["model"], languages=request["languages"], **options)
    return transcriber, {"package": whisperlab.__file__}


def transcribe(transcriber: Any, audio: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The output for a recording, and the seconds of computing."""
    transcriber.reset()
    before = encoded_s(transcriber)
    segments, switches, compute_s = [], [], 0.0
    for call in calls(transcriber, audio):
        began = time.perf_counter()
        result = call()
        compute_s += time.perf_counter() - began
        segments += [segment_fields(segment) for segment in result.segments]
        switches += [switch.to_dict() for switch in result.switches]
    return {
        "segments": segments,
        "switches": switches,
        "compute_s": compute_s,
        "encoded_s": encoded_s(transcriber) - before,
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


def encoded_s(transcriber: Any) -> float:
    """Seconds of audio in the encoded windows; zero if the revision does not count them."""
    statistics = transcriber.get_statistics()
    return float(sum(statistics.get(name, {}).get("encoded_s", 0.0) for name in ("lid", "sessions")))


if __name__ == "__main__":
    main()

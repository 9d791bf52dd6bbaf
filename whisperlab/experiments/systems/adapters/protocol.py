"""Run one system on one recording: ``python -P protocol.py``, with a request as JSON on stdin; writes a stream log.

Runs in the environment of the system, so that nothing of whisperlab is imported. An adapter is a file beside this one.
Its ``load(request)`` returns a function of a `Stream`, which runs twice: for three untimed seconds, and for the whole
recording.
"""

import json
import re
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RATE, WARM_UP_S = 16_000, 3


class Stream:
    """A recording by the clock, and the log of what the system shows.

    Pace ``fast`` skips the waiting: `now` runs as if it had happened, and includes queueing.
    """

    def __init__(self, audio: npt.NDArray[np.float32], pace: str) -> None:
        self.audio, self.duration = audio, len(audio) / RATE
        self.lines: list[dict[str, Any]] = []
        self.compute_s: float | None = None  # of systems that compute while they wait; None: all but the waiting
        self.pace, self._fed, self.tentative = pace, 0, ""
        self.skipped_s, self.waited_s, self._began = 0.0, 0.0, time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._began + self.skipped_s

    def chunks(self, chunk_s: float, *, greedy: bool = False, live: bool = False) -> Iterator[npt.NDArray[np.float32]]:
        """Each chunk once it was spoken; ``greedy`` adds what was spoken meanwhile, ``live`` waits at any pace."""
        while self._fed < len(self.audio):
            due = min(self._fed + round(chunk_s * RATE), len(self.audio))
            if (wait_s := due / RATE - self.now()) > 0:
                if live or self.pace == "real":
                    time.sleep(wait_s)
                    self.waited_s += wait_s
                else:
                    self.skipped_s += wait_s
            spoken = min(int(self.now() * RATE), len(self.audio)) if greedy else due
            start, self._fed = self._fed, max(due, spoken)
            yield self.audio[start : self._fed]

    def clocks(self) -> dict[str, float]:
        at = self._fed / RATE
        return {"at": at, "elapsed": max(self.now(), at)}

    def show(self, committed: str, tentative: str = "", language: str | None = None, **clocks: float) -> None:
        """Log final text since the last call, and all text that may still change; now, or at other `clocks`."""
        if committed or tentative != self.tentative:
            texts = {"committed": committed, "tentative": tentative, "language": language}
            self.lines.append({"kind": "text", **(clocks or self.clocks()), **texts})
            self.tentative = tentative

    def segment(self, text: str, language: str, start: float, end: float) -> None:
        """Log a segment of a system that gets the whole recording at once."""
        times = {"start_time": start, "end_time": max(start, end), "at": self.duration}
        self.lines.append({"kind": "segment", "text": text.strip(), "language": language, **times})


def main() -> None:
    request = json.load(sys.stdin)
    adapter = runpy.run_path(str(Path(__file__).parent / f"{request['adapter']}.py"))
    audio, run = np.load(request["audio"]), adapter["load"](request)
    run(Stream(audio[: WARM_UP_S * RATE], "fast"))
    stream, busy = Stream(audio, request["pace"]), time.process_time()
    run(stream)
    wall_s = stream.now() - stream.skipped_s - stream.waited_s
    cost = {"compute_s": wall_s if stream.compute_s is None else stream.compute_s}
    cost |= {"processor_s": time.process_time() - busy, "peak_rss_bytes": peak_rss_bytes()}
    header = {"kind": "header", "recording": request["recording"], "system": request["system"]}
    lines = [header | {"audio": {"duration": stream.duration}} | cost, *stream.lines]
    Path(request["log"]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def peak_rss_bytes() -> int | None:
    """The most memory that this process had (VmHWM); None on systems without /proc."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    main()

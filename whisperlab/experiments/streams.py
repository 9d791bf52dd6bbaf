"""How many live streams one processor core carries: transcribers of one model in one process.

The streams take turns on one thread. Time is counted by a virtual clock that advances with the processor time of each
chunk, so that other programs on the machine do not count: the delays are those of a core that does nothing else. A
chunk waits until all audio before it, of any stream, has been processed. No stream omits anything under overload.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whisperlab.data.manifest import Recording
from whisperlab.model.downloads import Say
from whisperlab.model.weights import Weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.process import memory_fields, trim_heap
from whisperlab.util.threads import torch_threads
from whisperlab.util.timeline import SAMPLE_RATE

CHUNK = SAMPLE_RATE // 10
BOUND_S = 3.0  # the delay that 95 % of the chunks may have
MOST = 64  # streams


@dataclass(frozen=True, slots=True)
class StreamsFigure:
    """Figures of a number of streams; delays are from the end of a chunk to the end of its processing."""

    streams: int
    audio_s: float  # of each stream
    processor_s_per_s: float  # of all streams, per second of one stream: above 1 a core falls behind
    delay_p50_s: float
    delay_p95_s: float
    mb_per_stream: float | None  # resident memory of each stream after the first; None for one
    carried: bool  # whether the p95 is within `BOUND_S`


def streams_figures(
    weights: Weights, recordings: Sequence[Recording], *, seconds: float, say: Say = lambda line: None
) -> list[StreamsFigure]:
    """Measure 1, 2, 3 ... streams of ``seconds`` each until a core does not carry them.

    Stream n starts with recording n, and continues with those after it. All languages of the recordings are allowed.
    Raises ConfigurationError without recordings.
    """
    if not recordings:
        raise ConfigurationError("streams need one or more recordings, got none")
    languages = sorted({code for recording in recordings for code in recording.languages})
    audio, n_samples = [recording.audio() for recording in recordings], round(seconds * SAMPLE_RATE)
    figures, alone_bytes = list[StreamsFigure](), 0
    with torch_threads(1):
        for n in range(MOST + 1):
            starts = [number % len(audio) for number in range(max(n, 1))]
            speech = [np.resize(np.concatenate([*audio[at:], *audio[:at]]), n_samples).copy() for at in starts]
            transcribers = [SessionRestartTranscriber(weights, languages=languages) for _ in speech]
            delays, used_s = _delays(transcribers, speech)
            gc.collect()
            trim_heap()
            used_bytes = memory_fields("/proc/self/status").get("VmRSS", 0)
            if n == 0:  # what the first stream alone needs, such as generated code
                continue
            alone_bytes = alone_bytes or used_bytes
            p50, p95 = np.percentile(delays, [50, 95]).tolist()
            each = (used_bytes - alone_bytes) / (n - 1) / 1e6 if n > 1 and used_bytes else None
            figures.append(StreamsFigure(n, seconds, used_s / seconds, p50, p95, each, p95 <= BOUND_S))
            say(f"number of streams {n}: 95 % of the chunks within {p95:.2f} s")
            if p95 > BOUND_S:
                break
    return figures


def _delays(
    transcribers: Sequence[SessionRestartTranscriber], speech: Sequence[FloatArray]
) -> tuple[list[float], float]:
    """Seconds from the end of each chunk to the end of its processing, and the processor seconds of all."""
    delays, now_s, used_s, n = list[float](), 0.0, 0.0, len(transcribers)
    for start in range(0, len(speech[0]), CHUNK):
        for number, (transcriber, audio) in enumerate(zip(transcribers, speech, strict=True)):
            arrived_s = (start + CHUNK * (1 + number / n)) / SAMPLE_RATE  # the streams do not begin together
            began_s = time.process_time()
            transcriber.process(audio[start : start + CHUNK])
            took_s = time.process_time() - began_s
            now_s, used_s = max(now_s, arrived_s) + took_s, used_s + took_s
            delays.append(now_s - arrived_s)
    return delays, used_s

"""Voice activity detection: Silero's neural detector in 32 ms frames, with hysteresis.

Silero (`whisperlab.streaming.silero`) gives a speech probability per 512 samples. The gate turns these into speech
spans: speech begins at the first frame above `VadOptions.onset`. It ends when every frame of the last
``min_silence_ms`` is below `VadOptions.offset`, at the first of those frames.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.gain import MAX_GAIN_DB, NORMAL, gain_for, level_of, recent_level
from whisperlab.util.options import Options, option
from whisperlab.util.timeline import LONGEST_MS, SAMPLE_RATE, VAD_FRAME, Span


class VoiceActivityDetector(Protocol):
    """Returns the probability of speech in one frame of 512 samples at 16 kHz."""

    def __call__(self, frame: NDArray[np.float32]) -> float: ...

    def reset(self) -> None: ...


@dataclass(slots=True, frozen=True)
class VadOptions(Options, group="vad"):
    """When speech begins and ends."""

    onset: float = option(0.5, "probability from which a frame starts speech; Silero's default", 0, 1, exclusive=True)
    offset: float = option(0.35, "probability below which speech ends; Silero's default", 0, 1, exclusive=True)
    min_silence_ms: int = option(480, "silence that ends speech; longer than most pauses in a sentence", 32, LONGEST_MS)
    max_gain_db: float = option(MAX_GAIN_DB, "limit of the gain for quiet audio; 0: no gain", 0, MAX_GAIN_DB)

    def check(self) -> None:
        if self.offset > self.onset:
            raise ConfigurationError(f"vad.offset must be at most vad.onset, got {self.offset} and {self.onset}")


@dataclass(eq=False)
class SpeechGate:
    """Turns the frame probabilities of one stream into speech spans, and keeps the newest to find pauses.

    While the recent level of the stream is below normal, ``quiet_detector`` gets the amplified frames, and the greater
    of both probabilities counts. The first detector always gets the original audio, so a stream of normal level gives
    the same spans with and without gain.
    """

    options: VadOptions
    detector: VoiceActivityDetector
    quiet_detector: VoiceActivityDetector | None = None
    history_s: float = 30.0  # of probabilities kept
    level: float = 0.0  # the recent one of the stream
    quiet: int = 0  # samples of closed spans below normal level
    quiet_level: float = 0.0  # of the newest of them
    span_start: int | None = None  # first sample of the running speech; None in silence
    heard_until: int = 0  # end of the newest frame
    voiced_until: int = 0  # end of the newest frame with speech
    _span_level: float = 0.0
    _amplifies: bool = False
    _quiet_since: int | None = None
    _recent: deque[float] = field(init=False)  # probabilities of the newest frames

    def __post_init__(self) -> None:
        self.detector.reset()
        self._recent = deque(maxlen=round(self.history_s * SAMPLE_RATE / VAD_FRAME))

    def push(self, samples: NDArray[np.float32]) -> Span | None:
        """Process the next 512 samples. Returns the speech span that this frame closed, if any."""
        start = self.heard_until
        probability = self._probability(samples)
        self.heard_until = start + VAD_FRAME
        self._recent.append(probability)
        if self.span_start is None:
            if probability >= self.options.onset:
                self.span_start, self._quiet_since = start, None
                self.voiced_until = self.heard_until
            return None
        if probability >= self.options.offset:
            self._quiet_since = None
            self.voiced_until = self.heard_until
        elif self._quiet_since is None:
            self._quiet_since = start
        long_enough = self.options.min_silence_ms * SAMPLE_RATE // 1000
        ends = self._quiet_since is not None and self.heard_until - self._quiet_since >= long_enough
        return self.close() if ends else None

    def _probability(self, samples: NDArray[np.float32]) -> float:
        """Probability of speech in a frame: the original one, or the amplified one if the stream is quiet."""
        level = level_of(samples)
        probability = self.detector(samples)
        self._span_level = max(level, self._span_level) if self.span_start is not None else level
        self.level = recent_level(self.level, level)
        gain = gain_for(self.level, self.options.max_gain_db)
        if self.quiet_detector and gain > 1 and level > 0:
            if not self._amplifies:
                self.quiet_detector.reset()
            probability = max(probability, self.quiet_detector(samples * np.float32(gain)))
        self._amplifies = gain > 1
        return probability

    def close(self) -> Span | None:
        """End the running speech at its last frame with speech. Returns None in silence."""
        if self.span_start is None:
            return None
        end = self.heard_until if self._quiet_since is None else self._quiet_since
        span, self.span_start, self._quiet_since = Span(self.span_start, end), None, None
        if self._span_level < NORMAL:
            self.quiet, self.quiet_level = self.quiet + len(span), self._span_level
        return span

    def leap(self, end: int) -> None:
        """Continue at a later sample, a multiple of 512. The frames between count as silence; no detector runs.

        The gate must be in silence: `close` it first.
        """
        self.detector.reset()
        self._amplifies = False
        n_frames = max(end - self.heard_until, 0) // VAD_FRAME
        self._recent.extend([0.0] * min(n_frames, self._recent.maxlen or 0))
        self.heard_until = end

    def pauses(self, within: Span) -> list[Span]:
        """Runs of frames without speech that touch the given span, oldest first."""
        runs: list[Span] = []
        for start, probability in self._frames(within):
            if probability >= self.options.offset:
                continue
            begin = runs.pop().start if runs and runs[-1].end == start else start
            runs.append(Span(begin, start + VAD_FRAME))
        return runs

    def spoken_since(self, least: int) -> int | None:
        """The sample at which speech resumed after the last pause of ``least`` samples or more; None without one.

        A running pause does not count. The last frame of the pause is included: speech may begin in it.
        """
        voiced, quiet = None, 0
        for age, probability in enumerate(reversed(self._recent), 1):
            if probability >= self.options.offset:
                voiced, quiet = self.heard_until - age * VAD_FRAME, 0
            elif voiced is not None:
                quiet += VAD_FRAME
                if quiet >= least:
                    return voiced - VAD_FRAME
        return None

    def voiced(self, within: Span) -> int:
        """Samples of the span that lie in frames with speech."""
        starts = [start for start, speech in self._frames(within) if speech >= self.options.offset]
        return sum(min(start + VAD_FRAME, within.end) - max(start, within.start) for start in starts)

    def voiced_frames(self, within: Span) -> list[int]:
        """First samples of the frames with speech that begin in the span, oldest first."""
        frames = self._frames(within)
        return [start for start, speech in frames if start >= within.start and speech >= self.options.offset]

    def quietest(self, within: Span) -> int | None:
        """Middle of the frame with the lowest speech probability inside the span; None if no frame lies in it."""
        frames = self._frames(within)
        inside = [(p, start) for start, p in frames if within.start <= start and start + VAD_FRAME <= within.end]
        return min(inside)[1] + VAD_FRAME // 2 if inside else None

    def _frames(self, within: Span) -> Iterator[tuple[int, float]]:
        """Start and speech probability of the recent frames that touch a span, oldest first."""
        oldest = self.heard_until - len(self._recent) * VAD_FRAME
        first = max(within.start - oldest, 0) // VAD_FRAME
        end = max(-((oldest - within.end) // VAD_FRAME), first)
        starts = range(oldest + first * VAD_FRAME, oldest + end * VAD_FRAME, VAD_FRAME)
        return zip(starts, islice(self._recent, first, end), strict=False)

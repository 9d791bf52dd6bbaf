"""Time in samples of 1/16000 s, as integers, so that spans add up exactly: spans, Whisper's rates, conversions."""

from dataclasses import dataclass

SAMPLE_RATE = 16_000  # samples per second: the rate of Whisper's training audio
MEL_HOP = 160  # samples between mel frames (10 ms)
POSITION = 2 * MEL_HOP  # samples per encoder position (20 ms): the second convolution has stride 2
LONGEST_MS = 60_000  # upper limit of options that delay a stream: the length of its audio buffer
MAX_WINDOW = 30 * SAMPLE_RATE  # samples of one Whisper window
VAD_FRAME = 512  # samples per Silero decision (32 ms)


def samples(time_s: float) -> int:
    """The sample nearest to a time in seconds; halves round to the even sample, as in ``round``."""
    return round(time_s * SAMPLE_RATE)


def seconds(n_samples: int) -> float:
    """The time of a sample in seconds."""
    return n_samples / SAMPLE_RATE


@dataclass(slots=True, frozen=True, order=True)
class Span:
    """A half-open span of a stream, ``[start, end)`` in samples since the stream began."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"a span needs 0 <= start <= end, got [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def duration_s(self) -> float:
        return seconds(len(self))

    def to_dict(self) -> dict[str, float]:
        """The public JSON form: ``{"start", "end"}``, in seconds."""
        return {"start": seconds(self.start), "end": seconds(self.end)}

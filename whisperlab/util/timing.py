"""Interleaved measurement: subjects run in turns, so that a slow spell of the machine slows all of them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Protocol, TypeAlias, TypeVar

from whisperlab.util.audio_arrays import FloatArray, chunks

Item = TypeVar("Item")
Result_co = TypeVar("Result_co", covariant=True)

Subject: TypeAlias = Callable[[], object]
Times: TypeAlias = dict[str, list[float]]


class Streamer(Protocol[Result_co]):
    """An object that takes a recording chunk by chunk, and then its end."""

    def process(self, chunk: FloatArray, /) -> Result_co: ...
    def finalize(self) -> Result_co: ...


def rotations(items: Iterable[Item], rounds: int | None = None) -> Iterator[list[Item]]:
    """The items once per round; each round starts with the next one, so that none is always first."""
    order = deque(items)
    for _ in islice(count(), rounds):
        yield list(order)
        order.rotate(-1)


def time_in_turns(
    subjects: Mapping[str, Subject], rounds: int, clock: Callable[[], int] = time.thread_time_ns
) -> Times:
    """Milliseconds of each subject, one per round (`rotations`); ``clock`` returns nanoseconds."""
    times: Times = {name: [] for name in subjects}
    for order in rotations(subjects, rounds):
        for name in order:
            began = clock()
            subjects[name]()
            times[name].append((clock() - began) / 1e6)
    return times


def feed(transcriber: Streamer[Result_co], audio: FloatArray, chunk_samples: int) -> Iterator[Result_co]:
    """The result of each chunk and of the end of the stream; each is computed when the iterator advances."""
    for chunk in chunks(audio, chunk_samples):
        yield transcriber.process(chunk)
    yield transcriber.finalize()

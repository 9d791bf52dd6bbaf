"""What is profiled, and the fresh process it runs in."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from whisperlab.util.errors import WhisperlabError
from whisperlab.util.threads import no_interrupts
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import StreamTranscriber
    from whisperlab.util.audio_arrays import FloatArray

Record = TypeVar("Record")
Task = TypeVar("Task")


def session_restart_transcriber(**options: Any) -> StreamTranscriber:
    """The transcriber as its constructor's options describe it."""
    from whisperlab.transcriber import SessionRestartTranscriber

    return SessionRestartTranscriber(**options)


@dataclass(slots=True, frozen=True)
class Workload:
    """One recording through one transcriber, as data that a fresh process can be handed.

    ``seconds`` cuts the recording short. ``make`` must be importable by name and is given ``options``.
    ``functions`` are those to profile line by line instead of the usual ones, named ``package.module:Class.method``.
    """

    audio: str
    options: Mapping[str, Any] = field(default_factory=dict)
    chunk_ms: int = 100
    seconds: float | None = None
    make: Callable[..., StreamTranscriber] = session_restart_transcriber
    functions: tuple[str, ...] = ()

    def import_libraries(self) -> None:
        """Load all that our transcriber imports sooner or later: for passes that libraries are no part of."""
        if self.make is not session_restart_transcriber:
            return
        import whisperlab.transcriber  # noqa: F401
        from whisperlab.data.audio_files import read_audio
        from whisperlab.model.tokenizer import tokenizer_for

        read_audio(self.audio)
        tokenizer_for("en")

    def load(self) -> tuple[StreamTranscriber, FloatArray]:
        """The transcriber with its model in memory, and the audio."""
        from whisperlab.data.audio_files import read_audio

        audio = read_audio(self.audio)
        if self.seconds is not None:
            audio = audio[: samples(self.seconds)]
        return self.make(**self.options), audio

    def feed(
        self,
        transcriber: StreamTranscriber,
        audio: FloatArray,
        half_way: Callable[[], object] = lambda: None,
    ) -> None:
        """The whole recording, as fast as it is taken; ``half_way`` is called once, after half of it."""
        from whisperlab.util.audio_arrays import chunks

        parts = list(chunks(audio, samples(self.chunk_ms / 1000)))
        for number, chunk in enumerate(parts):
            if number == len(parts) // 2:
                half_way()
            transcriber.process(chunk)
        transcriber.finalize()


def in_fresh_process(measure: Callable[[Task], Record], task: Task) -> Record:
    """The record of one pass, measured in a process that has done nothing else before.

    ``measure`` must be importable by name and ``task`` picklable, as a `Workload` is.

    What the pass raises is raised here; WhisperlabError when the process was killed, as by a lack of memory. An
    interrupt here ends the process too, once it has removed its temporary files.
    """
    before = set(active_children())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            with no_interrupts():
                done = pool.submit(_stoppable, measure, task)
            return done.result()
        except KeyboardInterrupt:
            for child in set(active_children()) - before:
                child.terminate()
            raise
        except BrokenProcessPool as error:
            raise WhisperlabError(
                f"the {measure.__module__} pass was killed; was there enough memory?"
            ) from error


def _stoppable(measure: Callable[[Task], Record], task: Task) -> Record:
    """A pass that SIGTERM ends as Ctrl-C would."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return measure(task)


def short_place(file: str, line: int) -> str:
    """A line of code by the last two parts of its file: where the environment lies says nothing.

    >>> short_place("/env/lib/whisper/decoding.py", 12)
    'whisper/decoding.py:12'
    """
    return f"{'/'.join(Path(file).parts[-2:])}:{line}"

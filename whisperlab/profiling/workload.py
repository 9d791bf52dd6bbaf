"""The workload of a profile, and the fresh process in which a pass runs."""

import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Any, TypeVar

from whisperlab.util.errors import WhisperlabError
from whisperlab.util.json_values import unicode_text
from whisperlab.util.process import safe_path
from whisperlab.util.threads import no_interrupts
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import StreamTranscriber
    from whisperlab.util.audio_arrays import FloatArray

Record = TypeVar("Record")
Task = TypeVar("Task")


def session_restart_transcriber(**options: Any) -> "StreamTranscriber":
    from whisperlab.transcriber import SessionRestartTranscriber

    return SessionRestartTranscriber(**options)


@dataclass(slots=True, frozen=True)
class Workload:
    """One recording and one transcriber, as picklable data for a fresh process."""

    audio: str
    options: Mapping[str, object] = field(default_factory=dict)  # arguments of `make`
    chunk_ms: int = 100
    seconds: float | None = None  # use only the beginning of the recording
    make: "Callable[..., StreamTranscriber]" = session_restart_transcriber  # importable by name
    functions: tuple[str, ...] = ()  # to profile by line, as package.module:Class.method; default: the marked ones

    def import_libraries(self) -> None:
        """Import every library of our transcriber in advance, for passes that must exclude libraries."""
        if self.make is session_restart_transcriber:
            import whisperlab.transcriber  # noqa: F401
            from whisperlab.data.audio_files import read_audio
            from whisperlab.model.tokenizer import tokenizer_for

            read_audio(self.audio)
            tokenizer_for("en")

    def load(self) -> "tuple[StreamTranscriber, FloatArray]":
        """The transcriber with its model in memory, and the audio."""
        from whisperlab.data.audio_files import read_audio

        audio = read_audio(self.audio)[: None if self.seconds is None else samples(self.seconds)]
        return self.make(**self.options), audio

    def feed(
        self, transcriber: "StreamTranscriber", audio: "FloatArray", half_way: Callable[[], object] = lambda: None
    ) -> None:
        """Feed the recording as fast as possible; ``half_way`` is called once, after half of it."""
        from whisperlab.util.timing import feed

        n_samples = samples(self.chunk_ms / 1000)
        middle = max(-(-len(audio) // n_samples) // 2, 1)
        for number, _ in enumerate(feed(transcriber, audio, n_samples), 1):
            if number == middle:
                half_way()


def in_fresh_process(measure: Callable[[Task], Record], task: Task) -> Record:
    """Run one pass, importable by name, of a picklable task in a new process and return its record.

    Raises the errors of the pass, and WhisperlabError if it was killed. An interrupt ends the process too.
    """
    before = set(active_children())
    with safe_path(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            with no_interrupts():
                done = pool.submit(_stoppable, measure, task)
            return done.result()
        except KeyboardInterrupt:
            for child in set(active_children()) - before:
                child.terminate()
            raise
        except BrokenProcessPool as error:
            name = f"{measure.__module__}.{measure.__name__}"
            raise WhisperlabError(f"the {name} pass was killed; was there enough memory?") from error


def _stoppable(measure: Callable[[Task], Record], task: Task) -> Record:
    """Run a pass in which SIGTERM has the effect of Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.argv[:] = map(unicode_text, sys.argv)  # memray writes them as UTF-8
    return measure(task)

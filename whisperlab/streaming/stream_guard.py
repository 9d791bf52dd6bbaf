"""Protection of a stream: one working call at a time, streams whose last call did not finish, forked processes."""

from __future__ import annotations

import os
import threading

from whisperlab.util.errors import ForkedError, StreamBrokenError, StreamEndedError
from whisperlab.util.timeline import seconds

_made_in: list[int] = []  # the process that made the first transcriber; a forked process inherits it


def check_process() -> None:
    """Raise `ForkedError` in a process that was forked from one that had made a transcriber."""
    if not _made_in:
        _made_in.append(os.getpid())
    if _made_in[0] != os.getpid():
        raise ForkedError(
            f"process {_made_in[0]} had made a transcriber before this process, {os.getpid()}, was forked from it. "
            "The threads of torch and of the voice activity detector are missing here, and a call would wait for them "
            "forever. Start processes with the method 'spawn' and make a transcriber in each"
        )


class StreamGuard:
    """Locks of one transcriber, and the name of the call that is working on the stream.

    A call sets its name with `begin` and clears it with `done`. A name that is still set when the next call comes
    means that the last call was interrupted: the stream is in an undefined state until it is reset.
    """

    __slots__ = ("_unfinished", "reading", "working")

    def __init__(self) -> None:
        self.working = threading.RLock()  # held by the one thread that works on the stream
        self.reading = threading.Lock()  # prevents a reset while statistics are read
        self._unfinished = ""

    def begin(self, call: str) -> None:
        """Mark the stream as being changed by a call."""
        self._unfinished = call

    def done(self) -> None:
        """The call has finished."""
        self._unfinished = ""

    def check(self, received: int, ended: bool = False) -> None:
        """Raise `StreamBrokenError` for a stream whose last call did not finish, `StreamEndedError` for an ended one.

        ``received`` is the number of samples of the stream so far.
        """
        if self._unfinished:
            raise StreamBrokenError(
                f"{self._unfinished}() was interrupted {seconds(received):.3f} s into this stream, whose state is "
                "undefined now; latest holds what that call had made final, and reset() starts a new stream"
            )
        if ended:
            raise StreamEndedError("this stream was finalised; reset() starts a new one")

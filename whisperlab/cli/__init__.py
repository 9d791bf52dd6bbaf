"""The command line: one module per command. `main` imports everything else, so that Ctrl-C during imports is caught.

Exit codes: 0 done, 1 failed (with one line that says why), 2 wrong usage, 130 interrupted (Ctrl-C), 143 and 129
stopped by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes as long to import as all of this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (argparse itself exits with 2 for wrong usage).

    SIGTERM and SIGHUP end a command as Ctrl-C does: temporary files and worker processes are removed.
    """
    received: list[int] = []
    handlers = {}
    try:
        import signal
        import threading

        def stop(number: int, frame: FrameType | None) -> None:
            received.append(number)
            if len(received) > 1 and number != signal.SIGINT:
                return  # a terminal that closes sends SIGHUP twice: the first is being obeyed
            if argv is None and _is_importing(frame):
                _exit_now(number)
            raise KeyboardInterrupt

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    handlers[number] = signal.signal(number, stop)
        from whisperlab.cli.commands import run

        return run(argv)
    except BaseException as error:
        # Libraries turn an interrupt of their import into errors of other types.
        if received or isinstance(error, KeyboardInterrupt):
            return _stopped(received[0] if received else 2)
        return _failed(error)
    finally:
        _flush()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _exit_now(number: int) -> NoReturn:
    """Exit without an exception, which in the import of a C++ library can end in an abort or be lost."""
    import atexit

    code = _stopped(number)
    atexit._run_exitfuncs()  # removes temporary folders and ends child processes
    os._exit(code)


def _stopped(number: int) -> int:
    how = {1: "stopped by SIGHUP", 2: "interrupted", 15: "stopped by SIGTERM"}[number]
    _say(f"whisperlab: {how}")
    return 128 + number


def _failed(error: BaseException) -> int:
    """Say in one line why a command failed. Raises errors that are no user's mistake, such as a bug."""
    from whisperlab.cli.console import one_line
    from whisperlab.util.errors import WhisperlabError

    if not isinstance(error, WhisperlabError | OSError):
        raise error
    if not isinstance(error, BrokenPipeError):  # the reader of the output is gone (`| head`): no error
        _say(f"whisperlab: error: {one_line(error)}")
    return 1


def _say(line: str) -> None:
    from contextlib import suppress

    with suppress(OSError):  # the terminal is gone
        print(line, file=sys.stderr, flush=True)


def _flush() -> None:
    """Write what is buffered; what nobody can receive is dropped, before Python tries at its exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""The command line: one module per command. `main` imports the rest, so that it catches Ctrl-C during imports.

Exit codes: 0 success, 1 failure (with a one-line reason), 2 wrong usage, 130 interrupted (Ctrl-C), 143 and 129
stopped by SIGTERM and SIGHUP.
"""

import os
import sys

TYPE_CHECKING = False  # `typing` takes as long to import as all of this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command; returns the exit code (argparse exits with 2 for wrong usage).

    SIGTERM and SIGHUP have the same effect as Ctrl-C: temporary files and worker processes are removed.
    """
    received: list[int] = []
    handlers = {}
    try:
        import signal
        import threading

        def stop(number: int, frame: "FrameType | None") -> None:
            received.append(number)
            if len(received) > 1 and number != signal.SIGINT:
                return  # a closing terminal sends SIGHUP twice; the first one is being handled
            if argv is None and _is_importing(frame):
                # An exception in the import of a C++ library can be lost, or abort the process.
                import atexit

                code = _report_stop(number)
                atexit._run_exitfuncs()  # removes temporary folders and ends child processes
                os._exit(code)
            raise KeyboardInterrupt

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    handlers[number] = signal.signal(number, stop)
        from whisperlab.cli.commands import run

        return run(argv)
    except BaseException as error:
        # Libraries convert an interrupt during their import into other errors.
        if received or isinstance(error, KeyboardInterrupt):
            return _report_stop(received[0] if received else 2)
        from whisperlab.cli.console import one_line
        from whisperlab.util.errors import WhisperlabError

        if not isinstance(error, WhisperlabError | OSError):
            raise  # a bug
        if not isinstance(error, BrokenPipeError):  # not an error: the reader of the output has ended (`| head`)
            _print_error(f"whisperlab: error: {one_line(error)}")
        return 1
    finally:
        _flush()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_importing(frame: "FrameType | None") -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _report_stop(number: int) -> int:
    reason = {1: "stopped by SIGHUP", 2: "interrupted", 15: "stopped by SIGTERM"}[number]
    _print_error(f"whisperlab: {reason}")
    return 128 + number


def _print_error(line: str) -> None:
    from contextlib import suppress

    with suppress(OSError):  # the terminal is closed
        print(line, file=sys.stderr, flush=True)


def _flush() -> None:
    """Write buffered output. Discards it if the receiver has ended; otherwise Python would fail at its exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

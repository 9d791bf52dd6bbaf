"""Output of the commands: results on stdout, messages on stderr, and with ``--json`` only JSON on stdout."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from whisperlab.util.errors import WhisperlabError
from whisperlab.util.json_values import to_json
from whisperlab.util.threads import start_background

ERASE = "\r\x1b[K"  # the line of the cursor, on a terminal
PERIODS_S = {True: 1.0, False: 30.0}  # between two messages of `Console.busy`, on a terminal or not


@dataclass(slots=True, frozen=True)
class Console:
    """The output streams of a command; with ``json``, stdout contains only JSON, with ``quiet`` stderr only errors."""

    out: TextIO
    err: TextIO
    json: bool
    quiet: bool = False

    def show(self, text: str) -> None:
        """Print a result as text, unless stdout is for JSON."""
        if not self.json:
            self._write(text)

    def document(self, value: object) -> None:
        """Print a result as one line of JSON. Does nothing without ``--json``."""
        if self.json:
            value = to_json(value)
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            try:
                text.encode(self.out.encoding or "utf-8")
            except UnicodeEncodeError:  # \u escapes are JSON, other escapes are not
                text = json.dumps(value, allow_nan=False)
            self._write(text)

    def result(self, document: object, *texts: str) -> None:
        """Print a result: with ``--json`` its document, otherwise its texts."""
        self.document(document)
        for text in texts:
            self.show(text)

    def _write(self, text: str) -> None:
        try:
            write(text, self.out)
        except BrokenPipeError:
            raise
        except OSError as error:  # such as a full disk
            raise WhisperlabError(f"stdout: {error.strerror}") from error

    def check_reader(self) -> None:
        """Raise BrokenPipeError if stdout is a pipe whose reader has ended."""
        try:
            poll = select.poll()
            poll.register(self.out.fileno(), 0)  # errors are always reported
        except (OSError, ValueError):  # stdout is not a system file
            return
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError

    def note(self, text: str) -> None:
        """Print a message on stderr, unless only results are wanted."""
        if not self.quiet:
            write(ERASE * self.err.isatty() + text, self.err)

    def error(self, error: BaseException) -> None:
        """Print the reason of a failure on stderr, in one line."""
        write(f"whisperlab: error: {one_line(error)}", self.err)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Say at once what runs, and how long it has run: each second on a terminal, else every half minute."""
        terminal, began, done, writing = self.err.isatty(), time.monotonic(), threading.Event(), threading.Lock()

        def report() -> None:
            while not done.wait(PERIODS_S[terminal]):
                with writing:
                    if not done.is_set():
                        line = f"{text}: {time.monotonic() - began:.0f} s"
                        write(f"{ERASE}{line}" if terminal else f"{line}\n", self.err, end="")

        self.note(text)
        if self.quiet:
            yield
            return
        with suppress(RuntimeError):  # without memory for a thread the work goes on without messages
            start_background(report)
        try:
            yield
        finally:
            with writing:
                done.set()
                if terminal:
                    write(ERASE, self.err, end="")


def file_name(name: str) -> str:
    """A file name as text that any Unicode encoding accepts: bytes that are not text become ``\\xff``.

    >>> print(file_name("bad\\udcff.wav"))
    bad\\xff.wav
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print a text, with escapes for the characters that the stream cannot encode."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, or its type if it has no message."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def percent(value: float | None) -> str:
    """A share as a percentage for a column of a table; a dash for None.

    >>> percent(0.291), percent(None)
    (' 29.1 %', '-')
    """
    return "-" if value is None else f"{value:7.1%}".replace("%", " %")[1:]


def counted(normalizer: str = "plain", *, fold_diacritics: bool = True) -> str:
    """The line below a table with an error rate: how words are counted."""
    return f"words wrong: normalizer {normalizer}, accents {'folded' if fold_diacritics else 'kept'}"

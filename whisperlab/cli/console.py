"""Output of the commands: results on stdout, messages on stderr, and with ``--json`` only JSON on stdout."""

import json
import math
import os
import re
import select
import shutil
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from whisperlab.util.errors import WhisperlabError
from whisperlab.util.html import bar
from whisperlab.util.json_values import to_json, unicode_text
from whisperlab.util.threads import start_background

if TYPE_CHECKING:
    from whisperlab.streaming.results import ProcessResult
    from whisperlab.streaming.sources import Recorded

# Control characters other than newline and tab, and those that change the direction of a text.
_CONTROLS, _DIRECTIONS = r"\x00-\x08\x0b-\x1f\x7f-\x9f", r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
ERASE = "\r\x1b[K"  # the line of the cursor, on a terminal
DIM, PLAIN, UP, ERASE_BELOW = "\x1b[2m", "\x1b[0m", "\x1b[A\r", "\r\x1b[J"
REDRAW_S = 0.1
PERIOD_S = 10.0  # between two messages of `Console.busy`


@dataclass(slots=True, frozen=True)
class Console:
    """The output streams of a command; with ``json``, stdout contains only JSON, with ``quiet`` stderr only errors."""

    out: TextIO
    err: TextIO
    json: bool
    quiet: bool = False

    def show(self, text: str) -> None:
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
        self.document(document)
        for text in texts:
            self.show(text)

    def path(self, path: Path) -> None:
        """Print a path; in a pipe, with its bytes on disk, so that ``$(whisperlab ...)`` is that file's name."""
        binary = None if self.json or self.out.isatty() else getattr(self.out, "buffer", None)
        if binary is None:
            self.show(str(path))
        else:
            binary.write(os.fsencode(f"{_escaped(str(path), on_terminal=False)}\n"))
            binary.flush()

    def _write(self, text: str) -> None:
        try:
            write(visible(text, self.out.isatty()), self.out)
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
            write(ERASE * self.err.isatty() + visible(text), self.err)

    def error(self, error: BaseException) -> None:
        write(f"whisperlab: error: {one_line(error)}", self.err)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Say at once what runs, and every ten seconds how long it has run."""
        began, done = time.monotonic(), threading.Event()

        def report() -> None:
            while not done.wait(PERIOD_S):
                self.note(f"{text}: {time.monotonic() - began:.0f} s")

        self.note(text)
        with suppress(RuntimeError):  # without memory for a thread the work goes on without messages
            start_background(report)
        try:
            yield
        finally:
            done.set()


def write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print a `visible` text, with escapes for the characters that the stream cannot encode."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)


def visible(text: str, on_terminal: bool = True) -> str:
    """A text with escapes, as in JSON, for control characters, on a terminal also for those of direction."""
    return _escaped(unicode_text(text), on_terminal)


def _escaped(text: str, on_terminal: bool) -> str:
    hidden = f"[{_CONTROLS}{_DIRECTIONS if on_terminal else ''}]"  # subtitles in a file keep their direction
    return re.sub(hidden, lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, or its type if it has no message."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return visible(f"{error.filename}: {error.strerror}")
    return visible(" ".join(str(error).split())) or type(error).__name__


def percent(value: float | None) -> str:
    """A share as a percentage for a column of a table; a dash for None.

    >>> percent(0.291), percent(None)
    (' 29.1 %', '-')
    """
    return "-" if value is None else f"{value:7.1%}".replace("%", " %")[1:]


def counted(normalizer: str = "plain", *, fold_diacritics: bool = True) -> str:
    """The line below a table with an error rate: how words are counted."""
    korean = ", in syllables in Korean" if "hangul" in normalizer else ""
    units = f"in characters in Chinese, Japanese, Thai, Lao, Khmer and Burmese{korean}, else in words"
    return f"words wrong: {units}; normalizer {normalizer}, accents {'folded' if fold_diacritics else 'kept'}"


class LiveText:
    """Shows the text of the running segment on stdout, its tentative part dimmed, and the progress on stderr.

    Each is shown only if its stream is a terminal. The text line is the line of the cursor; the status is below it.
    """

    def __init__(
        self, console: Console, name: str, duration_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._name, self._clock = console, name, clock
        self._of = "" if duration_s is None else f" of {duration_s:.0f}"
        self.recorded: Recorded | None = None  # its level and the lag are shown instead of the speed
        self._text = console.out.isatty() and not console.json and not console.quiet
        self._status = console.err.isatty() and not console.quiet
        self._committed = self._tentative = ""
        self._began, self._drawn = clock(), float("-inf")

    def take(self, result: "ProcessResult") -> None:
        """Take the text of a result; the text of its final segments is no longer running text."""
        self._committed += result.committed
        for segment in result.segments:
            running, final = self._committed.strip(), segment.text.strip()
            self._committed = running.removeprefix(final) if running.startswith(final) else ""
        self._tentative = result.tentative

    def progress(self, fed_s: float) -> None:
        """Redraw after so many seconds of audio, at most ten times a second. Raises if the reader has ended."""
        self._console.check_reader()
        now = self._clock()
        if now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        columns = shutil.get_terminal_size().columns - 1
        if self._text:
            tentative = visible(f" {self._tentative.strip()}" if self._tentative.strip() else "")
            text = fitted(f"{visible(self._committed.strip())}{tentative}", columns)
            final = len(text) - min(len(tentative), len(text))
            write(f"{ERASE}{text[:final]}{DIM}{text[final:]}{PLAIN}", self._console.out, end="\n" * self._status)
        if self._status:
            rate = f"{(now - self._began) / fed_s if fed_s else 0.0:.1f} s per s"
            if source := self.recorded:
                level = max(-60.0, 20 * math.log10(max(source.peak, 1e-9)))
                rate = f"lag {source.received_s - fed_s:.1f} s {bar(1 + level / 60, 20)} {level:.0f} dB"
            status = visible(f"{self._name}: {fed_s:.0f}{self._of} s, {rate}")
            write(f"{ERASE}{fitted(status, columns)}{UP * self._text}", self._console.err, end="")

    def erase(self) -> None:
        """Remove text and status before other output. `progress` draws them again below it."""
        if self._text:
            write(ERASE_BELOW, self._console.out, end="")
        elif self._status:
            write(ERASE, self._console.err, end="")
        self._drawn = float("-inf")


def fitted(text: str, columns: int) -> str:
    """The end of a text that fits in one line of a terminal. Wide characters take two columns.

    >>> fitted("a long text", 6), fitted("東京", 3), fitted("short", 6)
    ('… text', '…京', 'short')
    """
    widths = [0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text]
    total, first = sum(widths), 0
    if total <= columns:
        return text
    while total > columns - 1:
        total, first = total - widths[first], first + 1
    return f"…{text[first:]}"

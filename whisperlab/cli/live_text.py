"""Text that grows on a terminal while it is decoded, above one status line with the progress."""

from __future__ import annotations

import shutil
import time
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from whisperlab.cli.console import ERASE, Console, write

if TYPE_CHECKING:
    from whisperlab.streaming.results import ProcessResult

DIM, PLAIN, UP, ERASE_BELOW = "\x1b[2m", "\x1b[0m", "\x1b[A\r", "\r\x1b[J"
REDRAW_S = 0.1


class LiveText:
    """Shows the text of the running segment on stdout, its tentative part dimmed, and the progress on stderr.

    Each is shown only if its stream is a terminal. The text line is the line of the cursor; the status is below it.
    """

    def __init__(
        self, console: Console, name: str, duration_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._name, self._duration_s, self._clock = console, name, duration_s, clock
        self._text = console.out.isatty() and not console.json and not console.quiet
        self._status = console.err.isatty() and not console.quiet
        self._committed = self._tentative = ""
        self._began, self._drawn = clock(), float("-inf")

    def take(self, result: ProcessResult) -> None:
        """Take the text of a result; the text of its final segments is no longer running text."""
        self._committed += result.committed
        for segment in result.segments:
            running, final = self._committed.strip(), segment.text.strip()
            self._committed = running.removeprefix(final) if running.startswith(final) else ""
        self._tentative = result.tentative

    def progress(self, fed_s: float) -> None:
        """Redraw after so many seconds of audio, at most ten times a second."""
        now = self._clock()
        if now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        columns = shutil.get_terminal_size().columns - 1
        if self._text:
            tentative = f" {self._tentative.strip()}" if self._tentative.strip() else ""
            text = fitted(f"{self._committed.strip()}{tentative}", columns)
            final = len(text) - min(len(tentative), len(text))
            write(f"{ERASE}{text[:final]}{DIM}{text[final:]}{PLAIN}", self._console.out, end="\n" * self._status)
        if self._status:
            rate = (now - self._began) / fed_s if fed_s else 0.0
            status = f"{self._name}: {fed_s:.0f} of {self._duration_s:.0f} s, {rate:.1f} s per s"
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

"""Everything whisperlab raises on purpose: one tree, one class per thing a caller can act on.

The classes also derive from the built-in a Python programmer would expect (``ValueError`` for a bad
argument, ``IndexError`` for a span that is not there), so code written against built-ins keeps working.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# What libraries say in a RuntimeError, or an OSError, when an allocation fails: torch, oneDNN, C++, the system.
_NO_MEMORY = re.compile(
    r"(not enough|out of|can't allocate|cannot allocate) memory|bad_alloc|could not create a primitive$",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\d+ bytes|[\d.]+ [KMGTPE]iB")


class WhisperlabError(Exception):
    """Base of all errors whisperlab raises on purpose; the command line prints these as one line."""


class ConfigurationError(WhisperlabError, ValueError):
    """An option has a value that cannot work; the message names the option, its value and what is allowed."""


class UnknownLanguageError(ConfigurationError):
    """A language code that Whisper does not know."""


class AudioFormatError(WhisperlabError, ValueError):
    """Audio that cannot be used: wrong rank, type, NaN or infinite samples, or an unreadable file."""


class BufferRangeError(WhisperlabError, IndexError):
    """Samples were asked of a buffer that does not hold them."""


class OverwrittenError(BufferRangeError):
    """The samples asked for were there once; newer ones have overwritten them."""


class NotYetError(BufferRangeError):
    """The samples asked for have not been appended yet."""


class TimerError(WhisperlabError, RuntimeError):
    """A timer was stopped that nobody had started."""


class StreamEndedError(WhisperlabError, RuntimeError):
    """Audio was given to a stream that had been finalised; ``reset`` starts a new one."""


class StreamBrokenError(WhisperlabError, RuntimeError):
    """An interrupt or an error broke off the work on a stream, which is half done; ``reset`` starts a new one."""


class ForkedError(WhisperlabError, RuntimeError):
    """A transcriber was used in a process forked from one that had made one: its native threads are not there."""


class WeightsError(WhisperlabError):
    """Model weights could not be found, fetched, verified or loaded; the message lists what was tried."""


class CorpusError(WhisperlabError):
    """Speech data could not be fetched, verified, decoded or built."""


class ManifestError(WhisperlabError, ValueError):
    """A manifest line is not what the manifest format asks for; the message names file and line."""


class TraceError(WhisperlabError, ValueError):
    """A trace file is damaged, of another schema version, or not a trace."""


class SweepError(WhisperlabError):
    """A sweep cannot run as asked or its results store is damaged."""


class NotebookError(WhisperlabError):
    """A notebook could not be executed to its end; the message names the cell and the error."""


class OutOfMemoryError(WhisperlabError, MemoryError):
    """Memory ran out; the message says for what, and how much was asked for where the library tells."""


class MissingDependencyError(WhisperlabError, ImportError):
    """An optional library or system package is not installed; the message names it and how to get it."""


def brief(error: Exception) -> str:
    """An error in one line of bearable length: torch's run to pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed: torch and others say so in a RuntimeError."""
    told = isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(told)


@contextmanager
def translate_oom(doing: str) -> Iterator[None]:
    """Turn whatever says that memory ran out into OutOfMemoryError; ``doing`` are the words after "not enough memory".

    >>> with translate_oom("to load base"):
    ...     raise RuntimeError("not enough memory: you tried to allocate 4096 bytes.")
    Traceback (most recent call last):
    whisperlab.util.errors.OutOfMemoryError: not enough memory to load base (4096 bytes asked for at once)
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_lack_of_memory(error):
            raise
        asked = _ASKED.search(str(error))
        amount = f" ({asked[0]} asked for at once)" if asked else ""
        raise OutOfMemoryError(f"not enough memory {doing}{amount}") from error

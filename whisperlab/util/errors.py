"""The errors that whisperlab raises: a class per situation that a caller can handle, derived from a built-in too."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Messages of a RuntimeError or OSError for a failed allocation: torch, oneDNN, C++, the system.
_NO_MEMORY = re.compile(r"(?i)(not enough|out of|can(no|')t allocate) memory|bad_alloc|could not create a primitive$")
_REQUESTED = re.compile(r"\d+ bytes|[\d.]+ [KMGTPE]iB")


class WhisperlabError(Exception):
    """Base of all whisperlab errors; the command line prints them as one line."""


class ConfigurationError(WhisperlabError, ValueError):
    """An option has an invalid value; the message names the option, the value and the allowed values."""


class UnknownLanguageError(ConfigurationError):
    """A language code that Whisper does not support."""


class AudioFormatError(WhisperlabError, ValueError):
    """Invalid audio: wrong rank or type, NaN or infinite samples, or an unreadable file."""


class KilledError(AudioFormatError):
    """Another process killed the decoder of a file, twice: the file may be right."""


class BufferRangeError(WhisperlabError, IndexError):
    """A buffer does not hold the requested samples."""


class OverwrittenError(BufferRangeError):
    """Newer samples have overwritten the requested ones."""


class NotYetError(BufferRangeError):
    """The requested samples have not been appended yet."""


class TimerError(WhisperlabError, RuntimeError):
    """A timer was stopped without having been started."""


class StreamEndedError(WhisperlabError, RuntimeError):
    """Audio was given to a finalised stream; ``reset`` starts a new one."""


class StreamBrokenError(WhisperlabError, RuntimeError):
    """An interrupt or error left a stream in an incomplete state; ``reset`` starts a new one."""


class ForkedError(WhisperlabError, RuntimeError):
    """A transcriber was used after a fork: the new process lacks its native threads."""


class WeightsError(WhisperlabError):
    """Model weights could not be found, fetched, verified or loaded; the message lists the attempts."""


class CorpusError(WhisperlabError):
    """Speech data could not be fetched, verified, decoded or built."""


class ManifestError(WhisperlabError, ValueError):
    """A manifest line violates the manifest format; the message names file and line."""


class TraceError(WhisperlabError, ValueError):
    """A file is damaged, has an unsupported trace schema, or is not a trace."""


class SweepError(WhisperlabError):
    """A sweep cannot run as configured, or its results store is damaged."""


class NotebookError(WhisperlabError):
    """A notebook failed; the message names the cell and the error."""


class OutOfMemoryError(WhisperlabError, MemoryError):
    """Memory ran out; the message names the purpose and, if the library reports it, the requested size."""


class MissingDependencyError(WhisperlabError, ImportError):
    """An optional library or system package is missing; the message says how to install it."""


@contextmanager
def needs(sentence: str, extra: str) -> Iterator[None]:
    """Turn a failed import of an optional library into MissingDependencyError: the sentence, and what to install."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(f"{sentence}: pip install 'whisperlab[{extra}]'") from error


def brief(error: Exception) -> str:
    """An error in one line of at most 200 characters: torch's messages run to pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed: torch and others raise a RuntimeError then."""
    told = isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(told)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, means that there is no room for a file."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or (error is not None and is_full_disk(error.__cause__))


@contextmanager
def translate(to: type[WhisperlabError], text: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds into ``to``: the text, and the error in brief. ``to`` and lack of memory pass."""
    try:
        yield
    except kinds as error:
        if isinstance(error, to) or is_lack_of_memory(error):
            raise
        raise to(f"{text} ({brief(error)})") from error


@contextmanager
def translate_oom(doing: str) -> Iterator[None]:
    """Turn every error for lack of memory into OutOfMemoryError; ``doing`` follows "not enough memory" in the text."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OutOfMemoryError) or not is_lack_of_memory(error):
            raise
        requested = _REQUESTED.search(str(error))
        amount = f" ({requested[0]} requested at once)" if requested else ""
        raise OutOfMemoryError(f"not enough memory {doing}{amount}") from error

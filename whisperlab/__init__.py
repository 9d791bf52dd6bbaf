"""whisperlab: the lab bench for streaming Whisper on code-switching speech.

The names below are imported on first use, so ``import whisperlab`` stays cheap and scoring or reporting
never loads the model libraries.
"""

from importlib import import_module

TYPE_CHECKING = False  # `typing` and `importlib.metadata` would take most of the time of `import whisperlab`
if TYPE_CHECKING:
    from typing import Any

    from whisperlab.buffer import RingBuffer as RingBuffer
    from whisperlab.cache import EncoderCache as EncoderCache
    from whisperlab.metrics import PerformanceMetrics as PerformanceMetrics
    from whisperlab.streaming.results import ProcessResult as ProcessResult
    from whisperlab.streaming.results import SessionSegment as SessionSegment
    from whisperlab.streaming.results import Switch as Switch
    from whisperlab.transcriber import SessionRestartTranscriber as SessionRestartTranscriber

    __version__: str

_HOME = {
    "RingBuffer": "whisperlab.buffer",
    "EncoderCache": "whisperlab.cache",
    "PerformanceMetrics": "whisperlab.metrics",
    "ProcessResult": "whisperlab.streaming.results",
    "SessionSegment": "whisperlab.streaming.results",
    "Switch": "whisperlab.streaming.results",
    "SessionRestartTranscriber": "whisperlab.transcriber",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("whisperlab")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'whisperlab' has no attribute {name!r}")
    globals()[name] = value
    return value


def load_ipython_extension(shell: "Any") -> None:
    """``%load_ext whisperlab``: the magics ``%%latency``, ``%%peak_memory`` and ``%%heap``."""
    from whisperlab.jupyter.magics import Magics

    shell.register_magics(Magics)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Where weights come from: openai-whisper's download, or a package index when that is all there is."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder for weights and speech that whisperlab fetches: ``WHISPERLAB_CACHE`` or ``~/.cache/whisperlab``.

    The folder is not created here.
    """
    return Path(os.environ.get("WHISPERLAB_CACHE") or Path.home() / ".cache" / "whisperlab")

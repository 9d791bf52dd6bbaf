"""Optional libraries of a command, checked before it does any work."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TypeAlias

from whisperlab.util.errors import MissingDependencyError

Needs: TypeAlias = Mapping[str, str]  # the purpose of each library, by import name

# The libraries of each extra of pyproject.toml, by import name.
EXTRAS = {
    "data": ("av",),
    "report": ("matplotlib", "jinja2", "vl_convert"),
    "notebook": ("papermill", "nbconvert", "ipykernel", "ipywidgets"),
    "profile": ("memray", "pyinstrument", "line_profiler"),
    "reference": ("whisper",),
    "other-systems": ("faster_whisper",),
    "chinese": ("opencc",),
    "sweep": ("duckdb", "scipy"),
    "ray": ("ray",),
    "search": ("optuna",),
}
_EXTRA_OF = {name: extra for extra, names in EXTRAS.items() for name in names}
_DISTRIBUTIONS = {
    "whisper": "openai-whisper",
    "vl_convert": "vl-convert-python",
    "opencc": "opencc-python-reimplemented",
}

PAGES: Needs = {"jinja2": "HTML pages", "matplotlib": "figures", "vl_convert": "interactive figures"}


def require(needs: Needs) -> None:
    """Raise MissingDependencyError with all libraries that are missing, their purposes, and how to install them."""
    missing = {name: purpose for name, purpose in needs.items() if not is_there(name)}
    if missing:
        named = ", ".join(f"{distribution(name)} ({purpose})" for name, purpose in missing.items())
        extras = ",".join(sorted({_EXTRA_OF[name] for name in missing}))
        raise MissingDependencyError(f"not installed: {named}; pip install 'whisperlab[{extras}]'")


def distribution(name: str) -> str:
    """The name to install a library by, from its import name."""
    return _DISTRIBUTIONS.get(name, name.replace("_", "-"))


def is_there(name: str) -> bool:
    """Whether a library is installed, by import name. It is not imported."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def speech(*corpora: str) -> Needs:
    """The libraries needed to build those of the corpora that are not built yet. Manifests need none."""
    from whisperlab.data import is_built, list_corpora

    missing = [name for name in dict.fromkeys(corpora) if name in list_corpora() and not is_built(name)]
    return {"av": f"to build {', '.join(missing)}"} if missing else {}

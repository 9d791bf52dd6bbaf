"""Optional libraries that a command needs: checked before it does any work."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TypeAlias

from whisperlab.util.errors import MissingDependencyError

Needs: TypeAlias = Mapping[str, str]  # what each library, by its import name, is needed for

# What each extra of pyproject.toml brings, by distribution name.
EXTRAS = {
    "data": ("av",),
    "report": ("matplotlib", "jinja2"),
    "notebook": ("papermill", "nbconvert", "ipykernel", "ipywidgets"),
    "profile": ("memray", "pyinstrument", "line-profiler"),
    "peers": ("faster-whisper",),
    "sweep": ("duckdb", "scipy"),
    "ray": ("ray",),
    "search": ("optuna",),
}
_EXTRA_OF = {name.replace("-", "_"): extra for extra, names in EXTRAS.items() for name in names}

PAGES: Needs = {"jinja2": "HTML pages", "matplotlib": "figures"}


def require(needs: Needs) -> None:
    """Raise MissingDependencyError with all libraries that are missing, their purposes, and how to install them."""
    missing = {name: purpose for name, purpose in needs.items() if not is_there(name)}
    if missing:
        told = ", ".join(f"{name} ({purpose})" for name, purpose in missing.items())
        extras = ",".join(sorted({_EXTRA_OF[name] for name in missing}))
        raise MissingDependencyError(f"not installed: {told}; pip install 'whisperlab[{extras}]'")


def is_there(name: str) -> bool:
    """Whether a library can be imported, by its import name; it is not imported."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def speech(*corpora: str) -> Needs:
    """What those of the corpora need that are not built yet; manifests need nothing."""
    from whisperlab.data import is_built, list_corpora

    missing = [name for name in dict.fromkeys(corpora) if name in list_corpora() and not is_built(name)]
    return {"av": f"to build {', '.join(missing)}"} if missing else {}

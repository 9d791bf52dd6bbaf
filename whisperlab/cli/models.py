"""Model weights: list, download, locate and verify them."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from whisperlab.cli.console import Console
from whisperlab.util.errors import WeightsError
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.model.weights import Verification


def run(args: argparse.Namespace, console: Console) -> None:
    from whisperlab.model import weights

    name, action = args.name, args.action
    if (name is None) != (action == "list"):
        args.parser.error("list takes no model name, the other actions take one")
    if action == "list":
        here = {name: weights.model_path(name) for name in weights.URLS}
        rows = [{"name": name, "path": path and str(path), **weights.origin(name)} for name, path in here.items()]
        console.result(rows, text_table(rows))
    elif action == "verify":
        found = weights.verify(name)
        if found.trusted is False:
            raise WeightsError(f"{found.path} is damaged or altered: {found.evidence}")
        console.result(asdict(found), described(found))
    else:
        path = weights.fetch(name, say=console.note) if action == "fetch" else weights.model_path(name)
        if path is None:
            raise WeightsError(f"{name} is not on this machine; fetch it with: whisperlab models fetch {name}")
        console.result({"name": name, "path": path}, str(path))


def described(found: "Verification") -> str:
    """The facts about a checkpoint in one line."""
    return f"{found.path}: {found.n_values:,} parameters, {found.evidence}"

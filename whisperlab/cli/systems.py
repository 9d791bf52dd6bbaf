"""Other recognisers for `bench systems`: list them, and install those that need a Python environment of their own.

An environment has pinned packages from the package index and lies in whisperlab's cache folder. Several systems may
share one. Systems whose packages are installed beside whisperlab in the same versions need none.
"""

import argparse

from whisperlab.cli.console import Console
from whisperlab.util.text_table import text_table


def run(args: argparse.Namespace, console: Console) -> None:
    from whisperlab.experiments.systems import SYSTEMS, install

    if (args.action == "install") != bool(args.names):
        args.parser.error("list takes no names, install takes one or more")
    if args.action == "install":
        found = {name: install(name, console.note) for name in args.names}
        console.result(found, *(f"{name}: {python}" for name, python in found.items()))
        return
    rows = [
        {"system": one.name, "environment": one.environment or "-", "state": one.reason() or "ready"}
        | {"requirements": " ".join(one.requirements) or "-"}
        for one in SYSTEMS.values()
    ]
    console.result(rows, text_table(rows))

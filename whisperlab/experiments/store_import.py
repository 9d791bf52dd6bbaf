"""Imports the results store of an earlier version, ``results.jsonl``: the only place that has its old schemas."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from whisperlab.config import FIRST_DEFAULTS, TranscriberConfig
from whisperlab.evaluation.trace.records import migrated_statistics
from whisperlab.experiments.results_store import OLD_STORE, SCHEMA, Row, check_row, new_store, task_key
from whisperlab.util.errors import ConfigurationError, SweepError
from whisperlab.util.options import flat, migrated, nested
from whisperlab.util.validation import from_json


def import_jsonl(folder: str | Path) -> int:
    """Convert ``results.jsonl`` to ``results.sqlite`` beside it. Returns the number of rows.

    Of several rows of one key the last one is kept. A last line without a line end, which a crash left behind, is
    skipped. Option names become today's (`migrated_row`). The old file stays. Raises SweepError when the folder already
    has a store, and for a damaged line, with its number.
    """
    old = Path(folder) / OLD_STORE
    try:
        return new_store(folder, _rows(old))
    except OSError as error:
        raise SweepError(f"{old} cannot be imported: {error}") from error


def _rows(old: Path) -> Iterator[Row]:
    with old.open("rb") as lines:
        for number, line in enumerate(takewhile(lambda line: line.endswith(b"\n"), lines), 1):
            try:
                yield migrated_row(check_row(from_json(line)))
            except ValueError as error:
                raise SweepError(f"{old}:{number}: {error}; delete the line to run its task again") from error


def migrated_row(row: Row) -> Row:
    """A row of any schema in today's: option names, the name of the cache key ``similar``, and the key that follows."""
    if row.get("schema", 1) == SCHEMA:
        return row
    config = migrated({name: value for name, value in row["config"].items() if name != "model"})
    config = nested({**FIRST_DEFAULTS, **flat(config)})
    statistics = migrated_statistics(row.get("statistics") or {})
    changed: Row = {**row, "schema": SCHEMA, "config": config, "statistics": statistics}
    try:
        complete = TranscriberConfig.from_json(config)
        key = task_key(complete.identity(), row["audio_sha256"], row["model_digest"], row["whisperlab"])
        return {**changed, "config": complete.to_json(), "key": key}
    except (ConfigurationError, KeyError):  # an option that is gone, or a row that cannot be resumed anyway
        return changed

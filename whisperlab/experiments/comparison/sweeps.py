"""Two sweeps against each other by the rows they hold: nothing is run.

Rows are paired by recording and by the options that both sweeps know, without those in which the sweeps as a whole
differ: an option, the weights or the version that has one value in one of them and another one in the other. These are
what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisperlab.experiments.comparison.measures import (
    ENCODED,
    LANGUAGE,
    MIXED,
    TIME,
    Found,
    Measure,
    Outcome,
    judged,
    note,
)
from whisperlab.experiments.other_systems import encoder_work
from whisperlab.experiments.results_store import STORE, Row, read_rows
from whisperlab.util.errors import SweepError

FRAMES = Measure("language error rate of frames", "difference", 0.01, "better", "worse")

_RATES = {
    MIXED: "mixed_error_rate",
    LANGUAGE: "language_error_rate",
    FRAMES: "language_error_rate_frames",
}
_NOT_IN_TURNS = "the sweeps were not run in turns: what else the machine did meanwhile may be in the times"


@dataclass(slots=True, frozen=True)
class _Paired:
    """The rows of one configuration that both sweeps have, by recording and side."""

    name: str
    rows: Mapping[Hashable, Mapping[str, Row]]


def compare_sweeps(a: Path, b: Path, *, rng: np.random.Generator | None = None) -> Outcome:
    """A verdict on each measure of each configuration, paired over recordings; corrected over all of them.

    Times are compared only when both sweeps were run on one machine, as their traces tell, and never without the remark
    that they were not run in turns. Raises SweepError when a folder holds no finished row, when nothing is in both, and
    when several rows of one side would be the partner of one of the other.
    """
    rng = rng or np.random.default_rng(0)
    sides = {"A": _finished(a), "B": _finished(b)}
    differing, pairs = _paired(sides)
    timed, about_times = _timed({"A": a, "B": b}, pairs)
    parts = {
        pair.name: judged(_found(pair, timed), rng, measures=_measures(pair, timed), configuration=pair.name)
        for pair in pairs
    }
    findings = tuple(finding for part in parts.values() for finding in part.findings)
    remarks = [f"{name}: {first} in A, {second} in B" for name, (first, second) in differing.items()]
    return Outcome(findings, (*remarks, *_left_out(parts), about_times)).corrected()


def _finished(folder: Path) -> list[Row]:
    rows = [row for row in read_rows(folder) if row["status"] == "ok"]
    if not rows:
        raise SweepError(f"{folder} holds no finished row of a sweep (in {STORE})")
    return rows


def _paired(sides: Mapping[str, Sequence[Row]]) -> tuple[dict[str, tuple[str, str]], list[_Paired]]:
    """What differs between the sweeps as a whole, and the rows of each configuration that both have."""
    values = {side: _values(rows) for side, rows in sides.items()}
    known = values["A"].keys() & values["B"].keys()
    differing = {
        name: (*values["A"][name], *values["B"][name])
        for name in sorted(known)
        if len(values["A"][name]) == len(values["B"][name]) == 1 and values["A"][name] != values["B"][name]
    }
    shared = sorted(known - differing.keys())
    varied = [name for name in shared if len(values["A"][name] | values["B"][name]) > 1]
    found: dict[tuple[str, ...], dict[Hashable, dict[str, Row]]] = {}
    for side, rows in sides.items():
        for row in rows:
            options = _options(row)
            place = found.setdefault(tuple(options[name] for name in shared), {}).setdefault(_audio(row), {})
            if side in place:
                raise SweepError(_ambiguous(side, place[side], row))
            place[side] = row
    pairs = []
    for key, places in found.items():
        both = {audio: rows for audio, rows in places.items() if len(rows) == 2}
        if both:
            told = dict(zip(shared, key, strict=True))
            pairs.append(_Paired(", ".join(f"{name}={told[name]}" for name in varied), both))
    if not pairs:
        raise SweepError(
            "the sweeps have no recording in common under the same options; they share "
            f"{', '.join(shared) or 'no option'}"
        )
    return {name: (first, second) for name, (first, second) in differing.items()}, pairs


def _values(rows: Iterable[Row]) -> dict[str, set[str]]:
    """The values of each option that all rows have."""
    values: dict[str, set[str]] = {}
    every = [_options(row) for row in rows]
    for name in set.intersection(*({*options} for options in every)):
        values[name] = {options[name] for options in every}
    return values


def _options(row: Row) -> dict[str, str]:
    """What a row was made with besides the audio, each value as JSON."""
    made = {
        **row["config"],
        "weights": str(row.get("model_digest"))[:12],
        "version": row.get("whisperlab"),
    }
    return {name: json.dumps(value, sort_keys=True) for name, value in made.items()}


def _audio(row: Row) -> Hashable:
    return row["recording"], row.get("audio_sha256")


def _ambiguous(side: str, first: Row, second: Row) -> str:
    one, other = _options(first), _options(second)
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return (
        f"{side} has two results for {first['recording']} that the other sweep cannot tell apart: "
        f"they differ in {', '.join(names)}"
    )


def _left_out(parts: Mapping[str, Outcome]) -> list[str]:
    """The remarks of all configurations: once what all have in common."""
    everywhere = set.intersection(*({*part.remarks} for part in parts.values()))
    single = [
        f"{name}: {remark}"
        for name, part in parts.items()
        for remark in part.remarks
        if remark not in everywhere
    ]
    return sorted(everywhere) + single


def _measures(pair: _Paired, timed: bool) -> tuple[Measure, ...]:
    """Language-ID alone has no text, and is judged by its frames."""
    decoded = [_has_text(row) for rows in pair.rows.values() for row in rows.values()]
    rates = (*([MIXED, LANGUAGE] if any(decoded) else []), *([] if all(decoded) else [FRAMES]))
    return (*([TIME] if timed else []), *rates, ENCODED)


def _has_text(row: Row) -> bool:
    return row["rates"].get(_RATES[MIXED]) is not None


def _found(pair: _Paired, timed: bool) -> Found:
    found: Found = {}
    for audio, rows in pair.rows.items():
        for side, row in rows.items():
            for measure, name in _RATES.items():
                note(found, measure, audio, side, row["rates"].get(name))
            note(found, ENCODED, audio, side, _encoded(row))
            if timed:
                note(found, TIME, audio, side, row["compute_s"] / row["duration"])
    return found


def _encoded(row: Row) -> float | None:
    try:
        return encoder_work(row["statistics"]).encoded_s / float(row["duration"])
    except KeyError:
        return None


def _timed(folders: Mapping[str, Path], pairs: Iterable[_Paired]) -> tuple[bool, str]:
    """Whether times may be compared, and what must be said of that."""
    machines: set[str] = set()
    for pair in pairs:
        for rows in pair.rows.values():
            for side, row in rows.items():
                machine = _machine(folders[side], row)
                if machine is None:
                    return (
                        False,
                        f"times are not compared: the trace of a row of {side} does not tell the machine",
                    )
                machines.add(json.dumps(machine, sort_keys=True))
    if len(machines) > 1:
        return False, f"times are not compared: the sweeps were run on {len(machines)} different machines"
    return True, _NOT_IN_TURNS


def _machine(folder: Path, row: Row) -> Any:
    """The machine of a row, by the first line of its trace; None when that does not tell."""
    try:
        with (folder / row["trace"]).open(encoding="utf-8") as file:
            return json.loads(file.readline())["machine"] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None

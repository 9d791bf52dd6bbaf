"""Compare two finished sweeps by their rows, without running anything.

Rows are paired by recording and by the options of both sweeps. Options that differ between the sweeps as a whole (each
has one value in A and another in B; likewise the weights and the version) are the subject of the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisperlab.experiments.comparison.measures import ENCODED, LANGUAGE, MIXED, TIME, Measure, Outcome, Pairs
from whisperlab.experiments.results_store import STORE, Row, read_rows
from whisperlab.experiments.systems import encoder_work
from whisperlab.util.errors import SweepError
from whisperlab.util.options import flat

FRAMES = Measure("language error rate of frames", "difference", 0.01, "better", "worse")

_RATES = {MIXED: "mixed_error_rate", LANGUAGE: "language_error_rate", FRAMES: "language_error_rate_frames"}
_NOT_IN_TURNS = "the sweeps were not run in turns: the times may include other load of the machine"


@dataclass(slots=True, frozen=True)
class _Paired:
    """The rows of one configuration in both sweeps, by recording and variant."""

    name: str
    rows: Mapping[Hashable, Mapping[str, Row]]


def compare_sweeps(a: Path, b: Path, *, rng: np.random.Generator | None = None) -> Outcome:
    """Test each measure of each configuration, paired over recordings, with Holm's correction over all tests.

    Times are compared only when the traces name one machine, and with a remark that the sweeps were not interleaved.
    Raises SweepError when a sweep has no finished row, when the sweeps share no recording, and when a row has several
    partners.
    """
    rng = rng or np.random.default_rng(0)
    rows = {"A": _finished(a), "B": _finished(b)}
    differing, paired = _paired(rows)
    timed, timing_remark = _timed({"A": a, "B": b}, paired)
    outcomes = {
        one.name: _pairs(one, timed).test(rng, measures=_measures(one, timed), configuration=one.name) for one in paired
    }
    findings = tuple(finding for outcome in outcomes.values() for finding in outcome.findings)
    remarks = [f"{name}: {first} in A, {second} in B" for name, (first, second) in differing.items()]
    return Outcome(findings, (*remarks, *_left_out(outcomes), timing_remark)).corrected()


def _finished(folder: Path) -> list[Row]:
    rows = [row for row in read_rows(folder) if row["status"] == "ok"]
    if not rows:
        raise SweepError(f"{folder} holds no finished row of a sweep (in {STORE})")
    return rows


def _paired(variants: Mapping[str, Sequence[Row]]) -> tuple[dict[str, tuple[str, str]], list[_Paired]]:
    """The options in which the sweeps differ as a whole, and the rows of each configuration of both."""
    a, b = (_values(rows) for rows in variants.values())
    differing = {
        name: (next(iter(a[name])), next(iter(b[name])))
        for name in sorted(a.keys() & b.keys())
        if len(a[name]) == len(b[name]) == 1 and a[name] != b[name]
    }
    shared = sorted((a.keys() & b.keys()) - differing.keys())
    varied = [name for name in shared if len(a[name] | b[name]) > 1]
    groups: dict[tuple[str, ...], dict[Hashable, dict[str, Row]]] = {}
    for variant, rows in variants.items():
        for row in rows:
            options = _options(row)
            group = groups.setdefault(tuple(options[name] for name in shared), {})
            unit = group.setdefault((row["recording"], row.get("audio_sha256")), {})
            if variant in unit:
                raise SweepError(_ambiguous(variant, unit[variant], row))
            unit[variant] = row
    paired = []
    for key, units in groups.items():
        if both := {unit: rows for unit, rows in units.items() if len(rows) == 2}:
            values = dict(zip(shared, key, strict=True))
            paired.append(_Paired(", ".join(f"{name}={values[name]}" for name in varied), both))
    if not paired:
        raise SweepError(
            "the sweeps have no recording in common under the same options; they share "
            f"{', '.join(shared) or 'no option'}"
        )
    return differing, paired


def _values(rows: Iterable[Row]) -> dict[str, set[str]]:
    """The values of each option that all rows have."""
    every = [_options(row) for row in rows]
    names = set.intersection(*({*options} for options in every))
    return {name: {options[name] for options in every} for name in names}


def _options(row: Row) -> dict[str, str]:
    """Configuration, weights and version of a row, each value as JSON."""
    made = {**flat(row["config"]), "weights": str(row.get("model_digest"))[:12], "version": row.get("whisperlab")}
    return {name: json.dumps(value, sort_keys=True) for name, value in made.items()}


def _ambiguous(variant: str, first: Row, second: Row) -> str:
    one, other = _options(first), _options(second)
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return (
        f"{variant} has two results for {first['recording']} under the options of the other sweep: "
        f"they differ in {', '.join(names)}"
    )


def _left_out(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The remarks of all configurations; one that all share appears once."""
    shared = set.intersection(*({*outcome.remarks} for outcome in outcomes.values()))
    single = [
        f"{name}: {remark}" for name, outcome in outcomes.items() for remark in outcome.remarks if remark not in shared
    ]
    return sorted(shared) + single


def _measures(paired: _Paired, timed: bool) -> tuple[Measure, ...]:
    """Rows of language-ID alone have no text; their frames are compared."""
    decoded = [row["rates"].get(_RATES[MIXED]) is not None for rows in paired.rows.values() for row in rows.values()]
    rates = (*([MIXED, LANGUAGE] if any(decoded) else []), *([] if all(decoded) else [FRAMES]))
    return (*([TIME] if timed else []), *rates, ENCODED)


def _pairs(paired: _Paired, timed: bool) -> Pairs:
    pairs = Pairs()
    for unit, rows in paired.rows.items():
        for variant, row in rows.items():
            for measure, name in _RATES.items():
                pairs.add(measure, unit, variant, row["rates"].get(name))
            pairs.add(ENCODED, unit, variant, _encoded(row))
            if timed and row["compute_s"] is not None:
                pairs.add(TIME, unit, variant, row["compute_s"] / row["duration"])
    return pairs


def _encoded(row: Row) -> float | None:
    try:
        return encoder_work(row["statistics"]).encoded_s / float(row["duration"])
    except KeyError:
        return None


def _timed(folders: Mapping[str, Path], paired: Iterable[_Paired]) -> tuple[bool, str]:
    """Whether times can be compared, and the remark about it."""
    machines: set[str] = set()
    for one in paired:
        for rows in one.rows.values():
            for variant, row in rows.items():
                machine = _machine(folders[variant], row)
                if machine is None:
                    return False, f"times are not compared: a trace of {variant} does not name the machine"
                machines.add(machine)
    if len(machines) > 1:
        return False, f"times are not compared: the sweeps were run on {len(machines)} different machines"
    return True, _NOT_IN_TURNS


def _machine(folder: Path, row: Row) -> str | None:
    """The machine in the first line of a row's trace, as JSON; None if it is missing."""
    try:
        with (folder / str(row["trace"])).open(encoding="utf-8") as file:
            machine = json.loads(file.readline())["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return json.dumps(machine, sort_keys=True) if machine else None

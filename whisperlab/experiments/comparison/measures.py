"""What two sides are compared by, and the verdicts on it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from whisperlab.experiments.significance import Kind, Verdict, judge, together

Found: TypeAlias = dict[str, dict[Hashable, dict[str, float]]]  # by measure, by what is paired, by side: A, B


@dataclass(slots=True, frozen=True)
class Measure:
    """Something to compare: how it is taken from a result, as ratio or difference, the least change worth knowing."""

    name: str
    kind: Kind
    worth: float
    less: str
    more: str


TIME = Measure("computing / audio", "ratio", 0.05, "faster", "slower")
MIXED = Measure("mixed error rate", "difference", 0.01, "better", "worse")
LANGUAGE = Measure("language error rate", "difference", 0.01, "better", "worse")
ENCODED = Measure("encoder seconds a second", "ratio", 0.05, "thriftier", "more lavish")

MEASURES = (TIME, MIXED, LANGUAGE, ENCODED)


@dataclass(slots=True, frozen=True)
class Finding:
    """The verdict on one measure; of one configuration, where several were compared."""

    measure: Measure
    verdict: Verdict
    configuration: str = ""

    def words(self) -> str:
        """The verdict as a sentence."""
        said = self.verdict.words(self.measure.less, self.measure.more)
        return f"{self.configuration}: {said}" if self.configuration else said

    def to_dict(self) -> dict[str, Any]:
        """All of it, plain, the sentence included."""
        where = {"configuration": self.configuration} if self.configuration else {}
        return {**where, **asdict(self.verdict), "words": self.words()}


@dataclass(slots=True, frozen=True)
class Outcome:
    """What came of a comparison; ``remarks`` say what was left out and how far the rest may be trusted."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()

    def corrected(self) -> Outcome:
        """The same with Holm's correction over all that was judged."""
        verdicts = together([finding.verdict for finding in self.findings])
        pairs = zip(self.findings, verdicts, strict=True)
        return replace(self, findings=tuple(replace(finding, verdict=verdict) for finding, verdict in pairs))


def note(found: Found, measure: Measure, place: Hashable, side: str, value: float | None) -> None:
    """Keep a value, unless it is none that can be compared: no number, or nothing to divide by."""
    usable = value is not None and math.isfinite(value) and (measure.kind == "difference" or value > 0)
    if value is not None and usable:
        found.setdefault(measure.name, {}).setdefault(place, {})[side] = value


def judged(
    found: Found,
    rng: np.random.Generator,
    *,
    measures: Sequence[Measure] = MEASURES,
    configuration: str = "",
) -> Outcome:
    """A verdict on each measure, not corrected yet; one that a side lacks is left out, with a remark that says so."""
    findings, remarks = [], []
    for measure in measures:
        places = found.get(measure.name, {}).values()
        pairs = [(sides["A"], sides["B"]) for sides in places if len(sides) == 2]
        if pairs:
            a, b = zip(*pairs, strict=True)
            verdict = judge(measure.name, a, b, rng, kind=measure.kind, worth=measure.worth)
            findings.append(Finding(measure, verdict, configuration))
        else:
            remarks.append(f"{measure.name} is left out: {_lack(places)}")
    return Outcome(tuple(findings), tuple(remarks))


def _lack(places: Iterable[Mapping[str, float]]) -> str:
    present = {side for sides in places for side in sides}
    lacking = [side for side in ("A", "B") if side not in present]
    return f"{' and '.join(lacking)} did not measure it" if lacking else "no recording has it on both sides"

"""The measures that variants A and B are compared by, and the paired tests of them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from whisperlab.experiments.significance import Kind, PairedResult, holm, paired_test


@dataclass(slots=True, frozen=True)
class Measure:
    """A quantity to compare, its threshold of interest, and the words for less and more of it."""

    name: str
    kind: Kind
    threshold: float
    less: str
    more: str


TIME = Measure("computing / audio", "ratio", 0.05, "faster", "slower")
MIXED = Measure("mixed error rate", "difference", 0.01, "better", "worse")
LANGUAGE = Measure("language error rate", "difference", 0.01, "better", "worse")
ENCODED = Measure("encoder seconds per second", "ratio", 0.05, "cheaper", "more expensive")

MEASURES = (TIME, MIXED, LANGUAGE, ENCODED)


@dataclass(slots=True, frozen=True)
class Finding:
    """The result on one measure; ``configuration`` names the configuration when several were compared."""

    measure: Measure
    result: PairedResult
    configuration: str = ""

    def summary(self) -> str:
        """The result as a sentence."""
        sentence = self.result.summary(self.measure.less, self.measure.more)
        return f"{self.configuration}: {sentence}" if self.configuration else sentence

    def to_dict(self) -> dict[str, object]:
        """All fields and the sentence."""
        where = {"configuration": self.configuration} if self.configuration else {}
        return {**where, **asdict(self.result), "summary": self.summary()}


@dataclass(slots=True, frozen=True)
class Outcome:
    """All findings of a comparison; ``remarks`` name the measures left out and limits of the rest."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()

    def corrected(self) -> Outcome:
        """The same with Holm's correction over all findings."""
        results = holm([finding.result for finding in self.findings])
        pairs = zip(self.findings, results, strict=True)
        return replace(self, findings=tuple(replace(finding, result=result) for finding, result in pairs))


class Pairs:
    """Values of both variants by measure and by unit, such as a recording."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Hashable, dict[str, float]]] = {}

    def add(self, measure: Measure, unit: Hashable, variant: str, value: float | None) -> None:
        """Add the value of variant A or B; ignores None, NaN, infinities, and ratios of values not above zero."""
        if value is None or not math.isfinite(value) or (measure.kind == "ratio" and value <= 0):
            return
        self._values.setdefault(measure.name, {}).setdefault(unit, {})[variant] = value

    def test(
        self, rng: np.random.Generator, *, measures: Sequence[Measure] = MEASURES, configuration: str = ""
    ) -> Outcome:
        """Test each measure, uncorrected; a measure without a pair is left out with a remark."""
        findings, remarks = [], []
        for measure in measures:
            units = self._values.get(measure.name, {}).values()
            pairs = [(values["A"], values["B"]) for values in units if len(values) == 2]
            if not pairs:
                remarks.append(f"{measure.name} is left out: {_missing(units)}")
                continue
            a, b = zip(*pairs, strict=True)
            result = paired_test(measure.name, a, b, rng, kind=measure.kind, threshold=measure.threshold)
            findings.append(Finding(measure, result, configuration))
        return Outcome(tuple(findings), tuple(remarks))


def _missing(units: Iterable[Mapping[str, float]]) -> str:
    present = {variant for values in units for variant in values}
    missing = [variant for variant in ("A", "B") if variant not in present]
    return f"{' and '.join(missing)} did not measure it" if missing else "no recording has it for both"

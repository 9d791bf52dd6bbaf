"""Compare two variants, A and B: configurations are run in turns, finished sweeps are compared by their rows.

Rows of sweeps are paired by recording and by the options of both sweeps. Options that differ between the sweeps as a
whole (each has one value in A and another in B; likewise weights, version and processor) are the subject.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.random import Generator

from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import score_trace
from whisperlab.evaluation.trace import capture
from whisperlab.experiments.results_store import STORE, Row, Say, read_rows, trace_path
from whisperlab.experiments.significance import Kind, PairedResult, holm, paired_test
from whisperlab.model.weights import load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.errors import ConfigurationError, SweepError
from whisperlab.util.json_values import Json
from whisperlab.util.options import flat
from whisperlab.util.threads import THREADS
from whisperlab.util.timing import rotations
from whisperlab.util.validation import from_json, is_number, shown

Pairing: TypeAlias = Mapping[Hashable, Mapping[str, Row]]  # the rows of one configuration, by recording and variant


@dataclass(slots=True, frozen=True)
class Measure:
    """A quantity to compare, its threshold of interest, and the words for less and more of it."""

    name: str
    kind: Kind
    threshold: float
    less: str
    more: str


TIME = Measure("real-time factor (wall)", "ratio", 0.05, "faster", "slower")
MIXED = Measure("words wrong", "difference", 0.01, "better", "worse")
LANGUAGE = Measure("wrong language, text", "difference", 0.01, "better", "worse")
ENCODED = Measure("encoder seconds per second", "ratio", 0.05, "cheaper", "more expensive")
FRAMES = Measure("wrong language, frames", "difference", 0.01, "better", "worse")

MEASURES = (TIME, MIXED, LANGUAGE, ENCODED)
_RATES = {MIXED: "mixed_error_rate", LANGUAGE: "language_error_rate", FRAMES: "language_error_rate_frames"}


WARM_UP_S = 3.0  # untimed audio for each variant before a comparison

Run: TypeAlias = Callable[[Recording], Row]  # one recording, to rates, statistics, duration and compute_s


def encoded_s(statistics: Json) -> float | None:
    """Seconds of audio in the windows that a transcriber encoded; None if the statistics lack them."""
    parts = [statistics.get(name, {}).get("encoded_s") for name in ("lid", "sessions")]
    return None if None in parts else math.fsum(parts)


@dataclass(slots=True, frozen=True)
class Finding:
    """The result on one measure; ``configuration`` names the configuration when several were compared."""

    measure: Measure
    result: PairedResult
    configuration: str = ""

    @property
    def _where(self) -> dict[str, str]:
        return {"configuration": self.configuration} if self.configuration else {}

    def to_dict(self) -> dict[str, object]:
        return {**self._where, **asdict(self.result)}

    def readable(self) -> dict[str, object]:
        """A row of a table: changes of ratios in percent, of rates in percentage points; no interval for n below 3."""
        result, measure = self.result, self.measure
        ratio, enough = result.kind == "ratio", result.low is not None
        value, low, high = (
            "-" if end is None else f"{end - 1:+.1%}".replace("%", " %") if ratio else f"{100 * end:+.1f} points"
            for end in (result.value, result.low, result.high)
        )
        less = result.value < (1.0 if ratio else 0.0)
        better = f"B is {measure.less if less else measure.more}"
        return {
            **self._where,
            "measure": measure.name,
            "result": better if result.conclusion == "difference" else result.conclusion,
            "B beside A": value,
            "95 % interval": f"{low} to {high}" if enough else "-",
            "p": f"{result.p:.2g}" if enough else "-",
            "effect": f"{result.effect:+.2f}" if enough else "-",
            "pairs (n)": result.n,
            "more pairs needed": result.pairs_missing,
        }


@dataclass(slots=True, frozen=True)
class Outcome:
    """All findings of a comparison; ``remarks`` name the measures left out and limits of the rest."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()

    def corrected(self) -> Self:
        """The same with Holm's correction over all findings."""
        results = holm([finding.result for finding in self.findings])
        pairs = zip(self.findings, results, strict=True)
        return replace(self, findings=tuple(replace(finding, result=result) for finding, result in pairs))


class Pairs:
    """Values of both variants by measure and by unit, such as a recording."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Hashable, dict[str, float]]] = {}

    def add(self, measure: Measure, unit: Hashable, variant: str, value: float | None) -> None:
        """Add the value of variant A or B; ignores None, NaN, infinities, and for ratios values not above zero."""
        if not is_number(value) or (measure.kind == "ratio" and value <= 0):
            return
        self._values.setdefault(measure.name, {}).setdefault(unit, {})[variant] = value

    def add_row(self, row: Row, unit: Hashable, variant: str, measures: Iterable[Measure]) -> None:
        """Add the values of these measures that a row of a sweep has."""
        for measure in measures:
            if rate := _RATES.get(measure):
                value = row.get("rates", {}).get(rate)
            else:
                spent = row.get("compute_s") if measure is TIME else encoded_s(row.get("statistics", {}))
                length = row.get("duration")
                value = None if spent is None or not length else spent / length
            self.add(measure, unit, variant, value)

    def test(self, rng: Generator, *, measures: Sequence[Measure] = MEASURES, configuration: str = "") -> Outcome:
        """Test each measure, uncorrected; a measure without a pair is left out with a remark."""
        findings, remarks = [], []
        for measure in measures:
            units = self._values.get(measure.name, {}).values()
            pairs = [(values["A"], values["B"]) for values in units if len(values) == 2]
            if not pairs:
                missing = [variant for variant in ("A", "B") if not any(variant in values for values in units)]
                reason = f"{' and '.join(missing)} did not measure it" if missing else "no recording has it for both"
                remarks.append(f"{measure.name} is left out: {reason}")
                continue
            a, b = zip(*pairs, strict=True)
            result = paired_test(measure.name, a, b, rng, kind=measure.kind, threshold=measure.threshold)
            findings.append(Finding(measure, result, configuration))
        return Outcome(tuple(findings), tuple(remarks))


def read_configuration(text: str, threads: int = THREADS) -> TranscriberConfig:
    """A configuration from JSON or a file of it; ``threads`` applies unless it sets its own. Errors: `read_options`."""
    return TranscriberConfig.from_json({"compute.threads": threads, **read_options(text)})


def read_options(text: str) -> dict[str, object]:
    """The JSON object in a text or file. Raises ConfigurationError for others, and if it sets model or languages."""
    try:
        found = from_json(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        example = '{"compute.precision": "fp32"}'
        raise ConfigurationError(f"{shown(text)} is neither a file nor JSON such as {example}") from error
    except ValueError as error:
        raise ConfigurationError(f"{shown(text)} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"a configuration is a JSON object, got {shown(found)}")
    if "model" in found or "languages" in found:
        raise ConfigurationError("model and languages are the same for all: give them as arguments")
    return found


def compare_configurations(
    a: TranscriberConfig,
    b: TranscriberConfig,
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    rounds: int = 1,
    say: Say = lambda line: None,
) -> Outcome:
    """Run both configurations on every recording, with one model; see `compare_runs`."""
    weights = load_weights(model)
    languages = sorted({language for recording in recordings for language in recording.languages}) or None
    made = (SessionRestartTranscriber(weights, languages=languages, config=config) for config in (a, b))
    runs = {name: partial(_run, transcriber) for name, transcriber in zip("AB", made, strict=True)}
    return compare_runs(runs, recordings, rounds=rounds, say=say)


def _run(transcriber: SessionRestartTranscriber, recording: Recording) -> Row:
    transcriber.reset()
    trace = capture(transcriber, recording.audio(), recording=recording.id, reference=recording.reference)
    rates, statistics = score_trace(trace).rates(), trace.statistics
    return {"rates": rates, "statistics": statistics, "duration": trace.duration, "compute_s": trace.compute_s}


def compare_runs(
    runs: Mapping[str, Run], recordings: Sequence[Recording], *, rounds: int = 1, say: Say = lambda line: None
) -> Outcome:
    """Run the variants ``A`` and ``B`` on every recording, ``rounds`` times in turns, and test `MEASURES`.

    Times are paired by recording and round, rates by recording: further rounds do not change them. Raises
    ConfigurationError without recordings or rounds.
    """
    if not (n := len(recordings)) or rounds < 1:
        raise ConfigurationError(f"a comparison needs recordings and at least one round, got {n}, {rounds}")
    for run in runs.values():  # the first call of a library initialises state that later calls reuse
        run(replace(recordings[0], duration=min(WARM_UP_S, recordings[0].duration), segments=()))
    pairs = Pairs()
    schedule = islice(cycle([*recordings, *reversed(recordings)]), n * rounds)  # A starts one round, B the next
    for number, (recording, order) in enumerate(zip(schedule, rotations(runs), strict=False)):
        for name in order:
            row = runs[name](recording)
            pairs.add_row(row, (recording.id, number), name, [TIME])
            if number < n:
                pairs.add_row(row, recording.id, name, [MIXED, LANGUAGE, ENCODED])
            say(f"run {number + 1} of {n * rounds}, {recording.id}, {name}: {row['compute_s']:.1f} s")
    return pairs.test(np.random.default_rng(0)).corrected()


def compare_sweeps(a: Path, b: Path) -> Outcome:
    """Test each measure of each configuration, paired over recordings, with Holm's correction over all tests.

    Times are compared only when the traces name one machine. Raises SweepError when a sweep has no finished row, when
    the sweeps share no recording, and when a row has several partners.
    """
    rng = np.random.default_rng(0)
    differing, paired = _paired({"A": _finished(a), "B": _finished(b)})
    timed, timing_remark = _timed({"A": a, "B": b}, paired.values())
    outcomes = {name: _tested(name, one, timed, rng) for name, one in paired.items()}
    findings = tuple(finding for outcome in outcomes.values() for finding in outcome.findings)
    remarks = [f"{name}: {first} in A, {second} in B" for name, (first, second) in differing.items()]
    shared = set.intersection(*({*one.remarks} for one in outcomes.values()))  # appear once
    single = [f"{name}: {remark}" for name, one in outcomes.items() for remark in one.remarks if remark not in shared]
    return Outcome(findings, (*remarks, *sorted(shared), *single, timing_remark)).corrected()


def _finished(folder: Path) -> list[Row]:
    rows = [row for row in read_rows(folder) if row["status"] == "ok"]
    if not rows:
        raise SweepError(f"{folder} holds no finished row of a sweep (in {STORE})")
    return rows


def _paired(variants: Mapping[str, Sequence[Row]]) -> tuple[dict[str, tuple[str, ...]], dict[str, Pairing]]:
    """The options in which the sweeps differ as a whole, and the rows of each configuration of both."""
    a, b = (_values(rows) for rows in variants.values())
    both = sorted(a.keys() & b.keys())
    single = [name for name in both if len(a[name]) == len(b[name]) == 1]
    differing = {name: (*a[name], *b[name]) for name in single if a[name] != b[name]}
    shared = [name for name in both if name not in differing]
    varied = [name for name in shared if len(a[name] | b[name]) > 1]
    groups: dict[str, dict[Hashable, dict[str, Row]]] = {}
    for variant, rows in variants.items():
        for row in rows:
            options = _options(row)
            group = groups.setdefault(", ".join(f"{name}={options[name]}" for name in varied), {})
            unit = group.setdefault((row["recording"], row.get("audio_sha256"), row.get("reference_sha256")), {})
            if variant in unit:
                other = _options(unit[variant])
                names = [name for name in sorted({*options, *other}) if options.get(name) != other.get(name)]
                twice = f"{variant} has two results for {row['recording']} under the options of the other sweep"
                raise SweepError(f"{twice}: they differ in {', '.join(names)}")
            unit[variant] = row
    paired = {name: {unit: rows for unit, rows in group.items() if len(rows) == 2} for name, group in groups.items()}
    if not any(paired.values()):
        options_shared = ", ".join(shared) or "no option"
        same = "with the same audio and reference, under the same options"
        raise SweepError(f"the sweeps have no recording in common {same}; they share {options_shared}")
    return differing, {name: pairing for name, pairing in paired.items() if pairing}


def _values(rows: Iterable[Row]) -> dict[str, set[str]]:
    every = [_options(row) for row in rows]
    names = set.intersection(*({*options} for options in every))
    return {name: {options[name] for options in every} for name in names}


def _options(row: Row) -> dict[str, str]:
    """Configuration, weights, version, precision and processor of a row, each value as JSON."""
    made = {**flat(row["config"]), "weights": str(row.get("model_digest"))[:12], "version": row.get("whisperlab")}
    made |= {"default precision": row.get("precision"), "processor": row.get("processor")}
    return {name: json.dumps(value, sort_keys=True) for name, value in made.items()}


def _tested(configuration: str, pairing: Pairing, timed: bool, rng: Generator) -> Outcome:
    """The tests of one configuration. Rows of language-ID alone have no text; their frames are compared."""
    every = [row for rows in pairing.values() for row in rows.values()]
    decoded = [row.get("rates", {}).get(_RATES[MIXED]) is not None for row in every]
    rates = (*([MIXED, LANGUAGE] if any(decoded) else []), *([] if all(decoded) else [FRAMES]))
    pairs, measures = Pairs(), (*([TIME] if timed else []), *rates, ENCODED)
    for unit, rows in pairing.items():
        for variant, row in rows.items():
            pairs.add_row(row, unit, variant, measures)
    return pairs.test(rng, measures=measures, configuration=configuration)


def _timed(folders: Mapping[str, Path], paired: Iterable[Pairing]) -> tuple[bool, str]:
    """Whether times can be compared, and the remark about it."""
    rows = ((variant, row) for one in paired for rows in one.values() for variant, row in rows.items())
    machines = {(variant, _machine(folders[variant], row)) for variant, row in rows}
    if unnamed := sorted(variant for variant, machine in machines if machine is None):
        return False, f"times are not compared: a trace of {unnamed[0]} does not name the machine"
    if (n := len({machine for _, machine in machines})) > 1:
        return False, f"times are not compared: the sweeps were run on {n} different machines"
    return True, "the sweeps were not run in turns: the times may include other load of the machine"


def _machine(folder: Path, row: Row) -> str | None:
    """The machine in the first line of a row's trace, as JSON; None if it is missing."""
    try:
        with trace_path(folder, row).open(encoding="utf-8") as file:
            machine = json.loads(file.readline())["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return json.dumps(machine, sort_keys=True) if machine else None

"""Systems at points of the dial: what was measured, one line of JSON per recording, and the rates of each point."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks import figures
from benchmarks.difficulty.scenes import Point, mixed_scenes
from whisperlab.evaluation.scoring import Score, bootstrap_intervals, pooled, score_trace
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments import systems as known
from whisperlab.experiments.systems.comparison import run, weights_file
from whisperlab.util.json_values import Json
from whisperlab.util.text_table import with_interval
from whisperlab.util.threads import THREADS

BLOCKS_S = (0.3, 0.5, 1.0, 2.0, 4.0)
MIXING = (0.5, 0.25, 0.1)
SECOND = {"es": "es-co", "fr": "fr-armelle", "it": "it-menardi"}  # the second voice of a language
OURS = "whisperlab, auto"

RATES = {  # of a point with two languages, and their titles
    "switch_f1_at_1": "switch F1, 1 s",
    "switch_error_rate": "wrong at switches",
    "embedded_error_rate": "wrong, embedded",
    "mixed_error_rate": "words wrong",
    "decision_delay_found_p50": "delay p50, s",
}
FALSE = "false_switches_per_hour"


def dial(blocks_s: Sequence[float] = BLOCKS_S, mixing: Sequence[float] = MIXING, n: int = 3) -> list[Point]:
    """English and Spanish by one speaker, at every block length and code-mixing index."""
    return [Point(block_s=block_s, mixing=share, n=n) for share in mixing for block_s in blocks_s]


def controls(block_s: float = 1.0, n: int = 3) -> dict[str, list[Point]]:
    """Points where every switch is false: only the voice changes, or nothing does. Both are cut as the dial is.

    The last kind has each voice of the first alone, in the same band: what a change of voice adds is the difference.
    It has one scene per voice, because two prompts of a voice are used at a time.
    """
    pairs = list(SECOND.items())
    return {
        "voice changes, language does not": [Point(*pair, block_s=block_s, n=n) for pair in pairs],
        "neither changes": [Point(lang, lang, block_s=block_s, n=n) for lang in ("en", "es")],
        "neither changes, the voices of the first row": [
            Point(voice, voice, block_s=block_s, n=1, telephone=True) for pair in pairs for voice in pair
        ],
    }


def allowed(point: Point) -> tuple[str, ...]:
    """The languages that a system may find: those of the point, and English or, beside English alone, Spanish."""
    spoken = {point.first.partition("-")[0], point.second.partition("-")[0]}
    return tuple(sorted(spoken | {"en"} if spoken != {"en"} else {"en", "es"}))


@dataclass(slots=True, frozen=True)
class Measured:
    """The score of a system for one recording of a point."""

    point: Point
    system: str
    recording: str
    score: Score

    def to_dict(self) -> Json:
        return {**asdict(self), "point": asdict(self.point), "score": self.score.to_dict()}

    @classmethod
    def from_dict(cls, value: Json) -> Measured:
        return cls(Point(**value["point"]), value["system"], value["recording"], Score.from_dict(value["score"]))


def measure(
    points: Iterable[Point],
    systems: Sequence[str] = (OURS,),
    *,
    model: str = "base",
    threads: int = THREADS,
    done: Iterable[Measured] = (),
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[Measured]:
    """Run systems on the scenes of points, each in a process, but not those ``done``. ``systems`` are names."""
    before = {(one.system, one.recording) for one in done}
    files = cache(partial(weights_file, model, say))
    for point in points:
        facts = {"model": model, "threads": threads, "languages": allowed(point), "pace": "fast"}
        for recording in mixed_scenes(point):
            for name in (name for name in systems if (name, recording.id) not in before):
                trace = run(known.SYSTEMS[name], recording, files, facts)
                yield Measured(point, name, recording.id, score_trace(trace, Reference.from_dict(recording.reference)))


def read(path: Path) -> list[Measured]:
    """The lines of a file; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Measured.from_dict(json.loads(line)) for line in lines]


@dataclass(slots=True, frozen=True)
class Row:
    """The rates of a system at one or more points with their intervals, over all recordings."""

    label: str
    system: str
    point: Point  # the first of them
    n: int
    rates: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]

    def cell(self, rate: str, spec: str = ".2f") -> str:
        """A rate with its interval."""
        return with_interval(self.rates[rate], self.intervals[rate], spec)


def rows(measured: Sequence[Measured], of_label: Mapping[str, Sequence[Point]], rates: Sequence[str]) -> list[Row]:
    """A row per label and system, from the recordings of the points with that label."""
    found = []
    for label, points in of_label.items():
        for system in dict.fromkeys(one.system for one in measured):
            scores = [one.score for one in measured if one.point in points and one.system == system]
            if scores:
                all_rates = pooled(scores).rates()
                intervals = bootstrap_intervals(scores, rates, np.random.default_rng(0))
                found.append(Row(label, system, points[0], len(scores), all_rates, intervals))
    return found


def dial_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row per system and point with two languages."""
    points = dict.fromkeys(one.point for one in measured if one.point.first != one.point.second and one.point.has_text)
    return rows(measured, {str(point): [point] for point in points}, [*RATES])


def curves(found: Sequence[Row], rates: Mapping[str, str]) -> list[figures.Point]:
    """Points of `benchmarks.figures.scaling_figure`: a curve per rate over block length, a line per system."""
    found_curves = []
    for rate, title in rates.items():
        for row in found:
            if (value := row.rates[rate]) is None:
                continue
            system = f"{row.system}, " * (len({each.system for each in found}) > 1)
            low, high = row.intervals[rate] or (value, value)
            ends = (min(low, value), max(high, value)) if row.intervals[rate] else (None, None)
            line = f"{system}CMI {row.point.mixing:g}"
            found_curves.append(figures.Point(f"block length, s: {title}", line, row.point.block_s, value, *ends))
    return found_curves


def markdown(headers: Sequence[str], cells: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(map(str, line))} |" for line in (headers, *cells)]
    return "\n".join([lines[0], f"|{'-|' * len(headers)}", *lines[1:]])


def dial_table(found: Sequence[Row]) -> str:
    """The rates of each point with two languages."""
    headers = ["system", "CMI, asked", "CMI", "block, s, asked", "mean block, s", "scenes", "switches", *RATES.values()]
    return markdown(
        [*headers, "false per hour"],
        (
            (
                row.system,
                f"{row.point.mixing:g}",
                f"{row.rates['code_mixing_index']:.2f}",
                f"{row.point.block_s:g}",
                f"{_mean_block_s(row):.2f}",
                row.n,
                row.rates["switches_true"],
                *(row.cell(rate) for rate in RATES),
                f"{row.rates[FALSE]:.0f}",
            )
            for row in found
        ),
    )


def _mean_block_s(row: Row) -> float:
    """Seconds of speech in a block of either language."""
    return float((row.rates["speech_s"] or 0) / ((row.rates["switches_true"] or 0) + row.n))


def controls_table(found: Sequence[Row]) -> str:
    """False switches per hour in each kind of control."""
    cells = (
        (row.label, row.system, row.n, f"{(row.rates['audio_s'] or 0) / 60:.1f}", row.cell(FALSE, ".0f"))
        for row in found
    )
    return markdown(["control", "system", "scenes", "minutes", "false switches per hour"], cells)

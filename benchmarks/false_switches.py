"""The promised rate of `SwitchOptions`: how much evidence it takes, in which voices it holds, and what it costs.

    python -m benchmarks.false_switches                     # measure, and print the tables
    python -m benchmarks.false_switches --write             # replaces the table of the option

Recordings of one language, all *dev*, are replayed without text (`benchmarks/language_replay.py`) with more and more
evidence before a change is acted on (`EVIDENCE`). A switch to a language that is not spoken is false; the switch back
does not count, nor one that puts a wrong first language right. Conformal risk control
(Angelopoulos et al. 2022, arXiv 2208.02814) gives the rate that each amount of evidence can promise: recordings are
the exchangeable units, the loss is the number of false switches in one, at most `MOST`. Prints what is promised, the
rate in each voice with the evidence that the other voices choose, and the cost in corpora with switches. The first run
stores logits, about 15 processor seconds per minute of audio; later ones take a second per minute.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import control_speech
from benchmarks.language_replay import SEVENTEEN, SHOWN, Replay, row
from benchmarks.voices import corpora
from whisperlab import data
from whisperlab.data import Recording
from whisperlab.streaming import false_switches
from whisperlab.util.files import write_atomic

EVIDENCE = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)
MOST = 2  # false switches of a recording that count
RATES = (20.0, 12.0, 6.0, 4.0, 3.0, 2.0, 1.0)  # of the tables
OTHERS = ("ru", "es", "en", "it", "fr")  # what a transcriber is told beside the language that is spoken
CORPORA = ("ivr-five", "ivr-en-es", "voices-fr-es", "voices-telephone")


@dataclass(slots=True, frozen=True)
class Control:
    """A recording of one language: its voice, its length, and its false switches by `EVIDENCE`."""

    recording: str
    voice: str
    n_languages: int  # how many the transcriber was told
    hours: float
    by_default: int  # false switches without the option
    false: Sequence[int]

    def loss(self, number: int) -> int:
        """False switches with that much evidence, or more where more evidence finds more: at most `MOST`."""
        return min(max(self.false[number:]), MOST)


def told(own: Iterable[str], n_languages: int) -> list[str]:
    """The languages that a transcriber is told: those spoken, and others."""
    spoken = sorted(set(own))
    if n_languages > len(OTHERS):
        return sorted({*SEVENTEEN, *spoken})
    return sorted([*spoken, *(code for code in OTHERS if code not in spoken)][: max(n_languages, len(spoken))])


def promised(controls: Sequence[Control]) -> list[tuple[float, float]]:
    """What each amount of evidence promises: false switches per hour in a further recording, in expectation.

    At least the measured rate: the bound is on the loss, which leaves out all but `MOST` switches of a recording.
    """
    n, hours = len(controls), sum(one.hours for one in controls) / len(controls)
    found = []
    for number, evidence in enumerate(EVIDENCE):
        bound = (sum(one.loss(number) for one in controls) + MOST) / (n + 1)
        found.append((evidence, max(bound, sum(max(one.false[number:]) for one in controls) / n) / hours))
    return found


def chosen(controls: Sequence[Control], rate: float) -> int | None:
    """The number of the least evidence that promises the rate; None if none does."""
    bounds = promised(controls) if controls else []
    return next((number for number, (_, bound) in enumerate(bounds) if bound <= rate), None)


def held_out(controls: Sequence[Control], rate: float) -> Iterator[tuple[str, float, int, int | None]]:
    """By voice: hours, false switches without the option, and with the evidence that the other voices choose."""
    for voice in dict.fromkeys(one.voice for one in controls):
        own = [one for one in controls if one.voice == voice]
        number = chosen([one for one in controls if one.voice != voice], rate)
        found = None if number is None else sum(one.false[number] for one in own)
        yield voice, sum(one.hours for one in own), sum(one.by_default for one in own), found


class Measured:
    """False switches with each amount of evidence, replayed."""

    def __init__(self, path: Path | None = None) -> None:
        self.replay = Replay(path)

    def control(self, recording: Recording, voice: str, n_languages: int) -> Control:
        """A recording with every amount of evidence. Once nothing is found, more evidence finds nothing either."""
        languages, false = told(recording.languages, n_languages), list[int]()
        by_default = self._found(recording, languages, {})
        for evidence in EVIDENCE:
            nothing = false and false[-1] == 0
            false.append(0 if nothing else self._found(recording, languages, required(evidence)))
        return Control(recording.id, voice, n_languages, recording.duration / 3600, by_default, false)

    def _found(self, recording: Recording, languages: Sequence[str], options: dict[str, float]) -> int:
        """The number of switches to a language that is not spoken."""
        switches = self.replay.scores([recording], languages, options)[0].switches
        return sum(one.to_language not in recording.languages for one in switches)

    def cost(self, recordings: Sequence[Recording], evidence: float | None, n_languages: int) -> list[float]:
        """`SHOWN` for recordings with switches."""
        own = [code for recording in recordings for code in recording.languages]
        options = {} if evidence is None else required(evidence)
        return row(self.replay.scores(recordings, told(own, n_languages), options))


def required(evidence: float) -> dict[str, float]:
    """Options for a transcriber that requires this much evidence: the table of the option is replaced."""
    false_switches.PROMISES["groups"] = [{"languages": 99, "hours": 0, "promised": [[evidence, 1.0]]}]
    return {"switch.false_switches_per_hour": 1.0}


def recordings_of(name: str) -> list[Recording]:
    """The *dev* recordings of a corpus with switches."""
    return corpora.recordings(name) if name in corpora.CORPORA else data.load(name, "dev")


def print_coverage(controls: Sequence[Control]) -> None:
    """Print what is promised, and the rate of each voice with the evidence that the others choose."""
    hours = sum(one.hours for one in controls)
    default = sum(one.by_default for one in controls)
    print(
        f"{len(controls)} recordings, {hours:.2f} h; without the option {default} false, {default / hours:.1f} per hour"
    )
    print("\n| evidence | false | per hour | promised |\n|-|-|-|-|")
    for number, (evidence, bound) in enumerate(promised(controls)):
        false = sum(one.false[number] for one in controls)
        print(f"| {evidence:g} | {false} | {false / hours:.1f} | {bound:.1f} |")
    print("\n| voice | minutes | without the option |", *(f" {rate:g} per hour |" for rate in RATES), sep="")
    print("|-|-|-|" + "-|" * len(RATES))
    by_rate = [list(held_out(controls, rate)) for rate in RATES]
    for voices in zip(*by_rate, strict=True):
        name, voice_hours, found, _ = voices[0]
        cells = ("-" if false is None else str(false) for *_, false in voices)
        print(f"| {name} | {60 * voice_hours:.1f} | {found} | {' | '.join(cells)} |")
    known = [[false for *_, false in voices if false is not None] for voices in by_rate]
    print("| all, per hour | | |", *(f" {sum(one) / hours:.1f} |" if one else " - |" for one in known), sep="")


def print_cost(measured: Measured, controls: Sequence[Control], names: Sequence[str], n_languages: int) -> None:
    """Print F1, delay and false switches of corpora with switches by promised rate."""
    print(f"\n| corpus | n | promised | evidence | {' | '.join(SHOWN.values())} |\n|{'-|' * (4 + len(SHOWN))}")
    for name in names:
        recordings, last = recordings_of(name), -1
        for rate in (math.inf, *RATES):
            number = None if rate == math.inf else chosen(controls, rate)
            if (number is None and rate != math.inf) or number == last:
                continue
            last, evidence = number, None if number is None else EVIDENCE[number]
            cells = measured.cost(recordings, evidence, n_languages)[: len(SHOWN)]
            shown = "none | -" if evidence is None else f"{rate:g} | {evidence:g}"
            print(f"| {name} | {len(recordings)} | {shown} | {' | '.join(f'{x:.2f}' for x in cells)} |", flush=True)
            measured.replay.store.save()


def measure(measured: Measured, voices: Sequence[str], scenes: int, n_languages: int, out: Path) -> list[Control]:
    """The recordings, scene after scene; those in the file are not measured again."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    known = {
        (one.recording, one.n_languages): one for one in (Control(**json.loads(line)) for line in text.splitlines())
    }
    listed = {voice: control_speech.controls(voice, print)[:scenes] for voice in voices}
    todo = [(voice, at[number]) for number in range(scenes) for voice, at in listed.items() if number < len(at)]
    out.parent.mkdir(parents=True, exist_ok=True)
    found = []
    with out.open("a", encoding="utf-8") as file:
        for voice, recording in todo:
            one = known.get((recording.id, n_languages))
            if one is None:
                one = measured.control(recording, control_speech.speaker(voice), n_languages)
                file.write(json.dumps(asdict(one)) + "\n")
                file.flush()
                measured.replay.store.save()
            found.append(one)
    return found


def main() -> None:
    """Measure, print, and write the table of the option if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voices", nargs="*", default=list(control_speech.VOICES), help="default: all")
    parser.add_argument("--scenes", type=int, default=6, help="recordings of each voice (default: %(default)s)")
    parser.add_argument("--languages", type=int, default=5, choices=(2, 5, 17), help="how many are told (default: 5)")
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA), help="with switches, for the cost")
    parser.add_argument("--store", type=Path, help="file of logits (default: that of language_replay)")
    parser.add_argument("--out", type=Path, default=Path("reports/false-switches.jsonl"), help="a line per recording")
    parser.add_argument("--write", action="store_true", help=f"write {false_switches.TABLE.name} of the option")
    arguments = parser.parse_args()
    measured = Measured(arguments.store)
    controls = measure(measured, arguments.voices, arguments.scenes, arguments.languages, arguments.out)
    print_coverage(controls)
    if arguments.write:
        hours = round(sum(one.hours for one in controls), 2)
        table = [[evidence, round(bound, 2)] for evidence, bound in promised(controls)]
        group = {"languages": arguments.languages, "hours": hours, "recordings": len(controls), "promised": table}
        made = {"model": "base", "source": "benchmarks/false_switches.py", "groups": [group]}
        write_atomic(false_switches.TABLE, (json.dumps(made, indent=1) + "\n").encode())
    print_cost(measured, controls, arguments.corpora, arguments.languages)


if __name__ == "__main__":
    main()

"""Regret by cause: the wrong words that each truth, which a live transcriber does not have, would save.

A recording is transcribed again with one more truth each time, in this order; each truth is also given *alone*. A wrong
word is lost to the first truth that makes it right, or else to the *model*.

* *language*: the true languages, without delay; switches that were found within 2 s stay where they were found.
* *boundary*: switches that were found outside the gap between two languages move to its nearer end.
* *policy*: no word is final before its speech ends.
* *window*: up to 28 s of speech at once, in a window of 30 s as in Whisper's training.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.evaluation.scoring.language import WIDEST_S, match_switches, true_switches
from whisperlab.evaluation.scoring.text import align, units
from whisperlab.evaluation.trace import Reference, Trace, capture
from whisperlab.experiments.results_store import Say
from whisperlab.experiments.systems.comparison import TableRow
from whisperlab.model.weights import load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.statistics import LEAST_UNITS, central, resamples
from whisperlab.util.text_table import with_interval

Changes: TypeAlias = dict[str, object]  # of options, by their dotted names

CAUSES = ("language", "boundary", "policy", "window", "model")
RATES = ("lost", "newly_wrong", "still_wrong", "saved_alone")  # fields of `Regret`

# No word is final before its speech ends.
_POLICY: Changes = {"session.commit_above": 1.0, "session.commit_wait_s": 30.0}
# Silence fills the window up to 30 s; the default silences follow if that gives a loop or no text.
_WINDOW: Changes = {"session.max_speech_s": 28.0, "decoding.final_silence_s": (30.0, 1.0, 10.0)}
# With both, decodes of running speech decide nothing, and fewer of them save time.
_SELDOM: Changes = {"session.max_speech_s": 24.0, "session.step_ms": 6000}


@dataclass(slots=True, frozen=True)
class Regret:
    """The errors of one recording: words wrong, missing or inserted. Tuples are in the order of `CAUSES`."""

    words: int  # of the reference
    lost: tuple[int, ...]  # errors of the live run by cause; their sum is all of them
    newly_wrong: tuple[int, ...]  # errors that a truth adds: beyond those of any run before at the same word
    still_wrong: tuple[int, ...]  # all errors with this truth and those before
    saved_alone: tuple[int, ...]  # how many errors fewer than live with this truth alone; negative if more


def attribute(recording: Recording, transcribe: Callable[[Recording, Changes], Trace]) -> Regret:
    """The regret of a recording, from eight transcriptions. Raises ConfigurationError if it has no timed text."""
    reference = Reference.from_dict(recording.reference)
    if not any(units(segment.text) for segment in reference.segments):
        raise ConfigurationError(f"{recording.id} has no segments with text and times; regret needs their truth")
    live = transcribe(recording, {})
    true, first = true_switches(reference), reference.segments[0].lang
    pairs = match_switches(true, live.switches, WIDEST_S)
    found, exact = {b: s.time for b, s in pairs}, {b: min(max(s.time, b.start), b.end) for b, s in pairs}
    moved = {s: exact[b] for b, s in pairs}
    language = _oracle(first, [(found.get(b, b.end), b.language) for b in true])
    began = live.segments[0].language if live.segments else first
    boundary = _oracle(began, [(moved.get(s, s.time), s.to_language) for s in live.switches])
    both = _oracle(first, [(exact.get(b, b.end), b.language) for b in true])
    more = (language, boundary, _POLICY, _WINDOW, both, both | _POLICY, both | _POLICY | _WINDOW | _SELDOM)
    traces = (live, *(transcribe(recording, changes) for changes in more))
    runs = np.array([errors_by_word(reference, trace) for trace in traces])  # shape (runs, words)
    chain, alone = runs[[0, 1, 5, 6, 7]], runs[1:5].sum(1)
    fewest, most = (extreme.accumulate(chain).sum(1) for extreme in (np.minimum, np.maximum))
    rows = [*-np.diff(fewest), fewest[-1]], np.diff(most), chain[1:].sum(1), chain[0].sum() - alone
    return Regret(runs.shape[1], *(tuple(map(int, row)) for row in rows))


def errors_by_word(reference: Reference, trace: Trace) -> list[int]:
    """The errors at each word of a reference: itself, and words inserted after it, or before it if it is the first."""
    steps = align(reference, [(segment.text, segment.language) for segment in trace.segments])
    words = np.cumsum([step.reference is not None for step in steps]) - 1  # index of the word at or before each step
    return [int(n) for n in np.bincount(words.clip(0), [step.kind != "hit" for step in steps])]


def _oracle(first: str, switches: Sequence[tuple[float, str]]) -> Changes:
    """The options for given languages. A language whose switch was found behind the next one has no speech."""
    times = np.maximum.accumulate([0.0, *(time_s for time_s, _ in switches)]).tolist()
    oracle = dict(zip(times, (first, *(code for _, code in switches)), strict=True))  # the last at each time
    return {"languages": None, "language_id.prior": None, "oracle": tuple(oracle.items())}


def measure(
    recordings: Sequence[Recording],
    config: TranscriberConfig = TranscriberConfig(),
    *,
    model: str = "base",
    say: Say = lambda line: None,
) -> list[TableRow]:
    """The table of `summarise`. Live, the languages of all recordings are allowed; ``config`` names none."""
    weights, regrets = load_weights(model), []
    live = config.replace({"languages": sorted({code for each in recordings for code in each.languages})})

    def transcribe(recording: Recording, changes: Changes) -> Trace:
        made = SessionRestartTranscriber(weights, config=live.replace(changes))
        return capture(made, recording.audio(), recording=recording.id)

    for each in recordings:
        regrets.append(attribute(each, transcribe))
        say(f"{each.id}: {sum(regrets[-1].lost)} errors in {regrets[-1].words} words")
    return summarise(regrets, np.random.default_rng(0))


def summarise(regrets: Sequence[Regret], rng: np.random.Generator) -> list[TableRow]:
    """A row per cause and one for ``all``: the fields of `Regret` per word of the references; the model has no truth.

    The 95 % intervals (``<field>_95``) are bootstrapped over recordings, and None below three.
    """
    words, drawn = np.array([each.words for each in regrets]), resamples(len(regrets), rng)
    rows: list[TableRow] = [{"cause": cause} for cause in (*CAUSES, "all")]
    for name in RATES:
        counts = np.array([getattr(each, name) for each in regrets])  # shape (recordings, causes)
        if name == "lost":
            counts = np.c_[counts, counts.sum(1)]
        for row, column in zip(rows, counts.T, strict=False):
            row[name] = float(column.sum() / words.sum())
            rates = column[drawn].sum(1) / words[drawn].sum(1)
            row[f"{name}_95"] = central(rates) if len(words) >= LEAST_UNITS else None
    return rows


def readable(rows: Iterable[TableRow]) -> list[dict[str, str]]:
    """The rows of `summarise` as text; further texts in a row stay."""
    return [
        {name: text for name, text in row.items() if isinstance(text, str)}
        | {name.replace("_", " "): with_interval(row.get(name), row.get(f"{name}_95"), ".1%") for name in RATES}
        for row in rows
    ]

"""Six smoothers from the same posteriors to language switches, on real speech.

    python benchmarks/smoothers.py --split dev           # every setting; choose here
    python benchmarks/smoothers.py --split test --best   # only whisperlab's tracker; report here

All decide online: a switch counts from the frame of its decision. Boundaries are raw, not moved to pauses. Smoothers
other than whisperlab's subtract the lag of the window (0.45 of it, as measured) from their boundaries.
"""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from language_frames import Recording, load

from whisperlab.evaluation.scoring import pooled, score
from whisperlab.streaming.results import Switch
from whisperlab.streaming.smoothing import (
    LanguageChange,
    LanguageTracker,
    SmoothingOptions,
    WindowPosterior,
    switch_cost,
)
from whisperlab.util.timeline import seconds

LAG = 0.45  # of a window, from a switch to the first frame that shows it
CORPORA = ("ivr-five", "ivr-en-es")
SHOWN = ("switch_f1_at_0.5", "switch_f1_at_1", "switch_f1_at_2", "false_switches_per_hour")
SHOWN_DELAYS = ("decision_delay_found_p50", "decision_delay_found_p95")

Label = Callable[[np.ndarray], int]
# From the windows of a frame, the longest first, to the current language if it is certain.
Smoother = Callable[[list[WindowPosterior]], LanguageChange | None]


class Held:
    """A label per frame, from any function of the posterior; a change once it has held for some frames."""

    def __init__(self, label: Label, hold: int) -> None:
        self._label_of, self._hold, self._run, self._label, self._began = label, hold, 0, -1, 0

    def __call__(self, windows: list[WindowPosterior]) -> LanguageChange | None:
        label, window = self._label_of(windows[0].posterior), windows[0].window
        if label != self._label:
            self._label, self._run = label, 0
            self._began = window.end - round(LAG * len(window))
        self._run += 1
        return LanguageChange(label, self._began) if self._run >= self._hold else None


def arg_max(posterior: np.ndarray) -> int:
    """The most likely language of the frame alone."""
    return int(posterior.argmax())


class MovingAverage:
    """The most likely language of the mean over some frames."""

    def __init__(self, n: int) -> None:
        self._recent: deque[np.ndarray] = deque(maxlen=n)

    def __call__(self, posterior: np.ndarray) -> int:
        self._recent.append(posterior)
        return int(np.mean(self._recent, axis=0).argmax())


class Hysteresis:
    """The last language until another one is very likely."""

    def __init__(self, threshold: float) -> None:
        self._threshold, self._last = threshold, -1

    def __call__(self, posterior: np.ndarray) -> int:
        best = int(posterior.argmax())
        if self._last < 0 or posterior[best] >= self._threshold:
            self._last = best
        return self._last


class Viterbi:
    """The usual chain with one state per language: the end of the best path, or its state ``lag`` frames earlier."""

    def __init__(self, evidence_per_second: float, lag: int) -> None:
        self._weight, self._lag = evidence_per_second * 0.1, lag
        self._scores: np.ndarray | None = None
        self._back: deque[np.ndarray] = deque(maxlen=max(lag, 1))

    def __call__(self, posterior: np.ndarray) -> int:
        emitted = self._weight * np.log(np.maximum(posterior, 1e-4))
        if self._scores is None:
            self._scores = np.zeros(len(posterior))
        best = int(self._scores.argmax())
        move = self._scores[best] - switch_cost(0.1, 4.0, len(posterior))
        self._back.append(np.where(self._scores >= move, np.arange(len(posterior)), best))
        self._scores = np.maximum(self._scores, move) + emitted
        self._scores -= self._scores.max()
        state = int(self._scores.argmax())
        for back in itertools.islice(reversed(self._back), self._lag):
            state = int(back[state])
        return state


class Tracker:
    """whisperlab's: transits as states, a margin over every rival; with or without onset windows."""

    def __init__(self, n: int, options: SmoothingOptions, *, onsets: bool = True) -> None:
        self._tracker = LanguageTracker(n, options)
        self._onsets = onsets
        self._current: int | None = None

    def __call__(self, windows: list[WindowPosterior]) -> LanguageChange | None:
        self._tracker.push(*windows if self._onsets else windows[:1])
        change = self._tracker.change(self._current)
        if change:
            self._current = change.state
        return change


def competitors() -> Iterator[tuple[str, Callable[[int], Smoother]]]:
    """A maker for every smoother and setting; it gets the number of languages."""
    for hold in (1, 3, 5, 10):
        yield f"arg-max, held {hold} frames", lambda n, h=hold: Held(arg_max, h)
        for width in (5, 10, 15):
            yield f"mean of {width}, held {hold}", lambda n, h=hold, w=width: Held(MovingAverage(w), h)
        for threshold in (0.8, 0.95, 0.99):
            yield (f"hysteresis {threshold}, held {hold}", lambda n, h=hold, t=threshold: Held(Hysteresis(t), h))
        for evidence in (1.5, 3.0, 6.0):
            for lag in (0, 5, 10):
                kind = f"fixed-lag Viterbi, {lag} frames" if lag else "online Viterbi"
                name = f"{kind}, evidence {evidence}, held {hold}"
                yield name, lambda n, h=hold, e=evidence, lag=lag: Held(Viterbi(e, lag), h)
    settings = itertools.product((False, True), (4.0, 8.0), (0.4, 0.55, 0.8), (1.0, 2.0, 3.0))
    for onsets, between, evidence, margin in settings:
        options = SmoothingOptions(between, evidence, margin=margin)
        kind = "transits, two windows" if onsets else "transits"
        name = f"{kind}, {between:g} s between switches, evidence {evidence:g}, margin {margin:g}"
        yield name, lambda n, o=options, two=onsets: Tracker(n, o, onsets=two)


def rates(recordings: list[Recording], make: Callable[[int], Smoother]) -> dict[str, float]:
    """Switch rates of one smoother over recordings, each a stream of its own."""
    scores = []
    for recording in recordings:
        smoother, current, switches = make(len(recording.languages)), None, []
        for i in range(len(recording.ends)):
            windows = recording.windows(i)
            change = smoother(windows)
            if change is None or change.state == current:
                continue
            if current is not None:
                codes = recording.languages[current], recording.languages[change.state]
                switches.append(Switch(seconds(change.boundary), *codes, seconds(windows[0].window.end)))
            current = change.state
        duration = seconds(len(recording.audio))
        scores.append(score(recording.reference, (), tuple(switches), duration=duration))
    return pooled(scores).rates()


def main() -> None:
    """Print a line per smoother and setting: F1 at three tolerances, false switches per hour, delays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--best", action="store_true", help="only whisperlab's tracker with its defaults")
    arguments = parser.parse_args()
    loaded = {corpus: load(corpus, arguments.split) for corpus in CORPORA}
    entrants = list(competitors())
    if arguments.best:
        entrants = [("transits, defaults", lambda n: Tracker(n, SmoothingOptions()))]
    print(f"{'':<72}" + "".join(f"{corpus + ': F1@.5, @1, @2, false/h, delay p50, p95':<54}" for corpus in CORPORA))
    for name, make in entrants:
        cells = []
        for corpus in CORPORA:
            found = rates(loaded[corpus], make)
            cells.append("  ".join(f"{found[key] or 0:6.2f}" for key in (*SHOWN, *SHOWN_DELAYS)))
        print(f"{name:<72}{'      '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()

"""Smoothing: from noisy posteriors to a stable language. Viterbi with transits, and sustained detection.

A window of several seconds cannot change language at once. After a switch the log-odds of the new language against the
old one rise in a straight line while the new speech fills the window: on *dev* from -5.5 when it makes up 4 % of the
window to +5.5 at 88 %. So the chain has two kinds of states: a *settled* language, and a *transit* from one language
to another that began at a certain sample. Each state predicts the log-probabilities of a frame. A frame adds the
squared distance from that prediction (Gaussian noise of `noise_of` in each log-probability). A transit is found while
the window still holds both languages, and its beginning is the boundary: no delay has to be subtracted afterwards.

A frame can have a second window, the speech since the last pause: after a switch it holds only the new language. Short
windows deviate more from the prediction (`NOISE` by their length), so they weigh less.

Staying costs nothing; leaving costs ``-log(p / (1 - p))``, shared among the other languages, where ``p`` is the
probability of a switch since the last frame. Windows overlap, so ten frames per second are not ten independent
observations: each counts for `SmoothingOptions.evidence_per_second` times the seconds since the last one. A switch is
*decided* when the best path has ended in the new language for a minimum time and leads every other by a margin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisperlab.util.options import Options, option
from whisperlab.util.timeline import SAMPLE_RATE, Span, seconds

Array = NDArray[np.float64]

# Measured on the development splits, with windows of 2.5 s.
DOUBT = 5.5  # log-odds of a settled language against any other
RAMP = (0.04, 0.88)  # share of the window that the new language fills when its log-odds begin and end to rise
NOISE_S = (0.5, 1.0, 1.5, 2.0, 2.5)  # lengths of windows, and the root mean square of their log-probabilities
NOISE = (2.0, 1.7, 1.5, 1.4, 1.4)  # around what a settled language predicts

# Chosen there.
FLOOR = -5.0  # log-probability; what is less likely counts as just as unlikely: one frame cannot veto a path
LEEWAY = 0.5  # how far, in log-odds, evidence must push a transit back before it counts as excluded
PATIENCE = 3 * SAMPLE_RATE  # samples a language must lead to be decided without a margin
LONGEST_GAP_S = 0.2  # a frame counts for the time since the last one, after a silence for no more than this
FIRST_S = 0.1  # what a frame counts for that has none before it


@dataclass(slots=True, frozen=True)
class SmoothingOptions(Options, group="smoothing"):
    """How much evidence a change of language takes.

    A change needs both ``min_duration_ms`` and ``margin``. A language that has led for `PATIENCE` needs no margin:
    no two languages ever lie farther apart than the cost of a switch.
    """

    seconds_between_switches: float = option(4.0, "expected seconds between two switches", 0, exclusive=True)
    evidence_per_second: float = option(0.8, "observations per second of speech, in each window", 0, exclusive=True)
    min_duration_ms: int = option(100, "how long a new language must lead before a change is decided, milliseconds", 0)
    margin: float = option(1.0, "log-odds against the next best language before a change is decided", 0)


def switch_cost(frame_s: float, seconds_between_switches: float, n_states: int) -> float:
    """Cost of leaving a state for one certain other, against staying: ``-log(p / (n - 1) / (1 - p))``.

    >>> round(switch_cost(0.1, 10.0, 5), 2)
    5.98
    """
    p = min(frame_s / seconds_between_switches, 0.5)
    return -math.log(p / max(n_states - 1, 1) / (1 - p))


def noise_of(window: Span) -> float:
    """How far, root mean square, log-probabilities of such a window lie from what a settled language predicts.

    >>> noise_of(Span(0, 12000)), noise_of(Span(0, 80000))
    (1.85, 1.4)
    """
    return float(np.interp(window.duration_s, NOISE_S, NOISE))


@dataclass(slots=True, frozen=True)
class WindowPosterior:
    """A window and the probability of each language in it, shape (languages,)."""

    window: Span
    posterior: Array


@dataclass(slots=True, frozen=True)
class LanguageChange:
    """A change of language: the new state and the estimated sample of its beginning."""

    state: int
    boundary: int


class TransitViterbi:
    """Best path through settled languages and transits, frame by frame; remembers one window of transits."""

    def __init__(self, n_states: int, seconds_between_switches: float, evidence_per_second: float) -> None:
        self._mean_s, self._evidence = seconds_between_switches, evidence_per_second
        self._settled: Array = np.zeros(n_states)
        self._since = np.zeros(n_states, np.int64)  # sample at which the settled language began
        self._transit: Array = np.zeros((0, n_states))  # one row per beginning, oldest first
        self._began = np.zeros(0, np.int64)
        self._from = np.zeros((0, n_states), np.intp)  # language a transit leaves
        self._heard_until: int | None = None
        self._cost = 0.0  # of the newest switch
        self.scores: Array = np.zeros(n_states)  # best log-score of a path that ends in each; 0 for the best of all
        self.state = self.boundary = 0  # language of the best path, and the sample at which it began

    def push(self, windows: Sequence[WindowPosterior]) -> None:
        """Advance by one frame: one or more windows that end together, the longest first."""
        window, known = windows[0].window, self._heard_until
        gap_s = 0.0 if known is None else min(seconds(window.end - known), LONGEST_GAP_S)
        if known is not None and gap_s > 0 and len(self._settled) > 1:
            self._begin_transits(max(known, window.start), gap_s)
        for observed in windows:
            self._weigh(observed, self._evidence * (gap_s or FIRST_S))
        self._settle(window)
        self._heard_until = window.end
        self._rank()

    def reliable_until(self, state: int) -> int:
        """The sample before which ``state`` was certainly not left: text before it can be relied on.

        Of a transit that has just begun nothing is known yet: it lies behind staying by what a switch costs. Once a
        transit is `LEEWAY` worse than that, there was evidence against it. The result is the earliest beginning of
        a transit to another language without such evidence, or the end of the last frame.
        """
        stay = self._settled[state]
        if len(self._transit):
            stay = max(stay, float(self._transit[:, state].max()))
        open_ = self._transit > stay - self._cost - LEEWAY
        open_[:, state] = False
        rows = np.flatnonzero(open_.any(axis=1))
        return int(self._began[rows[0]]) if len(rows) else self._heard_until or 0

    def _begin_transits(self, at: int, gap_s: float) -> None:
        """Every language may begin here, leaving the likeliest other one."""
        order = np.argsort(-self.scores, kind="stable")
        left = np.where(np.arange(len(order)) == order[0], order[1], order[0])
        self._cost = switch_cost(gap_s, self._mean_s, len(order))
        self._transit = np.vstack((self._transit, self.scores[left] - self._cost))
        self._began = np.append(self._began, at)
        self._from = np.vstack((self._from, left))

    def _weigh(self, observed: WindowPosterior, n_observations: float) -> None:
        """Subtract from every state the squared distance between what it predicts and what was seen."""
        window, weight = observed.window, n_observations / (2 * noise_of(observed.window) ** 2)
        seen = np.maximum(np.log(np.maximum(observed.posterior, 1e-9)), FLOOR)
        unlikely = (seen + DOUBT) ** 2  # distance of each language's log-probability from "not spoken"
        everywhere = unlikely.sum()
        self._settled -= weight * (everywhere - unlikely + seen**2)
        share = (window.end - self._began)[:, None] / max(len(window), 1)
        rise = np.clip((share - RAMP[0]) / (RAMP[1] - RAMP[0]), 0, 1)
        odds = DOUBT * (2 * rise - 1)
        entered, left = -np.log1p(np.exp(-odds)), -np.log1p(np.exp(odds))
        others = everywhere - unlikely - unlikely[self._from]
        self._transit -= weight * (others + (seen - entered) ** 2 + (seen[self._from] - left) ** 2)

    def _settle(self, window: Span) -> None:
        """Transits whose new language fills the window are over: the better of two histories is kept."""
        over = window.end - self._began >= RAMP[1] * len(window)
        for row in np.flatnonzero(over):
            better = self._transit[row] > self._settled
            self._settled = np.where(better, self._transit[row], self._settled)
            self._since = np.where(better, self._began[row], self._since)
        self._transit, self._began, self._from = self._transit[~over], self._began[~over], self._from[~over]

    def _rank(self) -> None:
        every = np.vstack((self._settled, self._transit))
        best = every.max()
        self._settled -= best
        self._transit -= best
        self.scores = every.max(axis=0) - best
        self.state = int(self.scores.argmax())
        row = int(every[:, self.state].argmax())
        self.boundary = int(self._since[self.state] if row == 0 else self._began[row - 1])


class LanguageTracker:
    """Follows the language over a stream of posteriors; says when a change is certain and where it was."""

    def __init__(self, n_states: int, options: SmoothingOptions) -> None:
        self._options = options
        self.chain = TransitViterbi(n_states, options.seconds_between_switches, options.evidence_per_second)
        self._heard: Span | None = None
        self._ends_since = 0  # end of the frame before the first of the run the best path ends with

    def push(self, observed: WindowPosterior, *more: WindowPosterior) -> int:
        """Take the next frame: windows that end together, longest first. Returns the state the best path ends in."""
        before = self.chain.state
        self.chain.push((observed, *more))
        if self._heard is None or self.chain.state != before:
            self._ends_since = observed.window.start if self._heard is None else self._heard.end
        self._heard = observed.window
        return self.chain.state

    def change(self, current: int | None) -> LanguageChange | None:
        """The change away from ``current`` (None: no language yet) if it is sustained."""
        change = self.outlook(current)
        if change is None or self._heard is None:
            return None
        held = self._heard.end - self._ends_since
        rivals = np.delete(self.chain.scores, change.state)
        clear = not len(rivals) or -rivals.max() >= self._options.margin or held >= PATIENCE
        return change if clear and held >= self._options.min_duration_ms * SAMPLE_RATE // 1000 else None

    def outlook(self, current: int | None) -> LanguageChange | None:
        """The change the best path shows now, sustained or not; None when it stays in ``current``."""
        chain = self.chain
        return LanguageChange(chain.state, chain.boundary) if self._heard and chain.state != current else None

"""Which language is spoken when: detected, fixed, or given. A detector decides; `whisperlab.streaming.stream` acts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from whisperlab.streaming.context import PER_MS, Context
from whisperlab.streaming.decoding import SpeechDecoder
from whisperlab.streaming.false_switches import Evidence, least_evidence
from whisperlab.streaming.language_id import Posterior
from whisperlab.streaming.language_probe import LanguageProbe
from whisperlab.streaming.results import LanguageFrame, Onset
from whisperlab.streaming.smoothing import LONGEST_GAP_S, PATIENCE, LanguageChange, LanguageTracker, WindowPosterior
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds

# What a frame counts for at most, and the time between frames while another language leads.
LONGEST_GAP = samples(LONGEST_GAP_S)
UNSURE_GAP = 3 * SAMPLE_RATE // 10  # between frames while the current language leads without being confident
RETRY = 3 * SAMPLE_RATE // 10  # samples to wait before a refused change is checked again
# A boundary moves to a pause up to NEAR samples away, and the length of the pause more. On *dev*, 92 % of boundaries at
# cuts within speech (blocks of 2 s, n = 38) lie within 1 s; moved to any pause, 79 %.
NEAR = SAMPLE_RATE // 2
MIN_SPEECH = 3 * SAMPLE_RATE // 10  # samples below which audio contains no word worth decoding
# The boundary of a confirmed change: weights in log-probability, chosen on *dev* (`DetectedLanguage.placed`).
SIDE = SAMPLE_RATE  # samples of the window on either side of a possible boundary
ODDS_WEIGHT, MOST_ODDS = 0.35, 3.0  # of the log-odds of such a window, and their limit
PAUSE_WEIGHT, LONG_PAUSE = 3.0, SAMPLE_RATE // 2  # of a pause of this length or more
UNCERTAINTY_S = 0.5  # root mean square error of the tracker's estimate
MOST_RIVALS = 3  # of the likeliest place; each costs two windows


@dataclass(slots=True, frozen=True)
class Change:
    """A language that seems to be spoken since sample ``boundary``. A ``certain`` one needs no confirmation."""

    language: str
    boundary: int
    certain: bool = False
    estimate: int = 0  # of the tracker, before it was moved to a pause


def near_pause(estimate: int, pauses: Sequence[Span]) -> int:
    """The end of the nearest pause that is near for its length; the estimate without one. In samples.

    A short pause far away is no evidence for a boundary: it can lie between any two words.

    >>> near_pause(20_000, [Span(30_000, 31_000)]), near_pause(20_000, [Span(26_000, 31_000)])
    (20000, 31000)
    """
    ends = [pause.end for pause in pauses if abs(pause.end - estimate) <= NEAR + min(len(pause), NEAR)]
    return min(ends, key=lambda end: abs(end - estimate), default=estimate)


@dataclass(eq=False)
class SwitchDetector:
    """Decides which language is spoken. This one is for audio in one language, ``first``; the others inherit from it.

    ``current`` is the language of the running session, None before the first.
    """

    context: Context
    first: str | None  # the language at the start; None if it is not known yet

    def at_hop(self, current: str | None) -> Change | None:
        """At a language-ID hop: the change that is due to be acted on, if any."""
        return None

    def at_pause(self, current: str | None) -> Change | None:
        """At the end of speech: the change to act on, which later audio of this speech cannot support any more."""
        return None

    def is_open(self, current: str | None) -> bool:
        """Whether a change is possible that is not decided yet."""
        return False

    def reliable_until(self, current: str | None) -> int:
        """The sample before which no later frame will find another language."""
        return self.context.history.received

    def confirms(self, change: Change, boundary: int, current: str) -> bool:
        """Whether the audio since the boundary supports the change. A refused change is checked again later."""
        return True

    def placed(self, change: Change, current: str) -> int:
        """The boundary of a confirmed change."""
        return change.boundary


@dataclass(eq=False)
class GivenLanguages(SwitchDetector):
    """Reports the known switches of ``oracle`` in place of detected ones: what a perfect detector would reach."""

    def __post_init__(self) -> None:
        times = [(samples(time_s), code) for time_s, code in self.context.config.oracle or ()]
        self._upcoming = [
            Change(code, time, certain=True) for (_, before), (time, code) in pairwise(times) if code != before
        ]

    def at_hop(self, current: str | None) -> Change | None:
        if self._upcoming and self._upcoming[0].boundary <= self.context.history.received:
            return self._upcoming.pop(0)
        return None


@dataclass(eq=False)
class DetectedLanguage(SwitchDetector):
    """The language is detected: probe, smoothing, sustained detection, confirmation."""

    probe: LanguageProbe
    decoder: SpeechDecoder

    def __post_init__(self) -> None:
        config, n_languages = self.context.config, len(self.context.languages)
        self._tracker = LanguageTracker(n_languages, config.smoothing)
        self._evidence = Evidence()
        self._least_evidence = least_evidence(config.switch.false_switches_per_hour, n_languages)
        self._evaluated_until = 0  # end of the last frame
        self._refused_at = -RETRY  # when a change was checked last and not confirmed
        self.contested = 0  # samples of speech since the best path left the current language

    def at_hop(self, current: str | None) -> Change | None:
        if not self.probe.collect():
            return None
        with self.context.metrics.measure("lid.total"):
            change = self._evaluate(current)
        self.context.monitor.check_speed(self.context.counts.frames)
        return self._snapped(change) if self.context.history.received - self._refused_at >= RETRY else None

    def at_pause(self, current: str | None) -> Change | None:
        if current is None and self.context.history.received and not self.probe.waiting:
            self.probe.add_frame()
        self._evaluate(current)
        return self._snapped(self._tracker.outlook(self._state(current)))

    def is_open(self, current: str | None) -> bool:
        return self._tracker.outlook(self._state(current)) is not None

    def reliable_until(self, current: str | None) -> int:
        state = self._state(current)
        return self.context.history.received if state is None else self._tracker.chain.reliable_until(state)

    def confirms(self, change: Change, boundary: int, current: str) -> bool:
        least, promised = self._least_evidence, self._least_evidence is not None
        if least is not None and self._evidence.value < least:  # the change waits for more, with the next frame
            return False
        if self.contested >= 2 * PATIENCE and not promised:  # it has led for so long that it needs no confirmation
            return True
        if self._is_proved(boundary, change.language, current, with_text=promised or self.contested < PATIENCE):
            return True
        self._refused_at = self.context.history.received
        return False

    def placed(self, change: Change, current: str) -> int:
        """The likeliest boundary: the tracker's estimate, or the end of a pause near it.

        A pause counts by its length, and against it counts the distance from the estimate. Where other places are more
        than `NEAR` away, language-ID of the second before and of the second after each decides.
        """
        history, estimate = self.context.history, change.estimate
        new, old = (self.context.languages.index(code) for code in (change.language, current))

        def prior(pause: Span) -> float:
            length = math.sqrt(min(len(pause) / LONG_PAUSE, 1))
            return PAUSE_WEIGHT * length - (seconds(pause.end - estimate) / UNCERTAINTY_S) ** 2 / 2

        def odds(start: int, end: int) -> float:
            window = Span(max(start, 0), min(end, history.received))
            if len(window) < MIN_SPEECH:
                return 0.0
            posterior = self.probe.encoder.posterior(history.vad.read(window)) + 1e-9
            return float(np.clip(np.log(posterior[new] / posterior[old]), -MOST_ODDS, MOST_ODDS))

        def score(at: int) -> float:
            return priors[at] + ODDS_WEIGHT * (odds(at, at + SIDE) - odds(at - SIDE, at))

        pauses = self._pauses(estimate, self.context.config.language_id.min_speech_ms * PER_MS)
        priors = {each.end: prior(each) for each in (Span(estimate, estimate), *pauses)}
        *others, likeliest = sorted(priors, key=priors.__getitem__)
        rivals = [at for at in others if abs(at - likeliest) > NEAR][-MOST_RIVALS:]
        return max((likeliest, *rivals), key=score) if rivals else likeliest

    def _is_proved(self, boundary: int, language: str, current: str, *, with_text: bool) -> bool:
        """Check the audio since the boundary of a change: by language-ID, then ``with_text`` by text in both languages.

        The two err differently: in windows of 1.5 s of five languages on *dev* language-ID was right in 83 %, the
        likeliest text in 79 %, the sum of both in 91 %. Where neither language has a text, language-ID decides.
        """
        config, history = self.context.config, self.context.history
        options, end = config.session, history.received
        start = max(boundary, end - max(self.probe.window, MIN_SPEECH))
        if end - start < MIN_SPEECH:
            return False
        audio = history.vad.read(Span(start, end))
        if options.confirm_posterior:
            if config.decode and options.share:
                posterior = self.probe.encoder.identified(self.decoder.encoded(audio, start).features)
            else:
                posterior = self.probe.encoder.posterior(audio)
            if posterior[self.context.languages.index(language)] < options.confirm_posterior:
                return False
        if not with_text or options.confirm_text == -math.inf or not config.decode:
            return True
        self.context.counts.decodes += 1
        with self.context.metrics.measure("whisper.infer"):
            new, old = self.decoder.likelihoods(audio, start, (language, current))
        if new is None or old is None:
            return old is None
        return new - old >= options.confirm_text

    def _evaluate(self, current: str | None) -> LanguageChange | None:
        """Add the frames that wait to the path, in order; the change that the last of them makes certain."""
        change = None
        for first, second, cached in self.probe.evaluate() if self.probe.waiting else ():
            change = self._add(first, second, cached, self._state(current))
        return change

    def _add(
        self, first: WindowPosterior, second: WindowPosterior | None, cached: bool, current: int | None
    ) -> LanguageChange | None:
        window, measure = first.window, self.context.metrics.measure
        with measure("lid.smoothing"):
            state = self._tracker.push(first, *([second] if second else []))
        voiced, posterior = self.context.gate.voiced(window), self._by_language(first.posterior)
        onset = Onset(len(second.window), self._by_language(second.posterior)) if second else None
        label = self.context.languages[state]
        frame = LanguageFrame(window.end, len(window), voiced, posterior, label, cached, onset)
        self.context.results.frames.append(frame)
        with measure("lid.sustained_detection"):
            change = self._tracker.change(current)
        gap = min(window.end - self._evaluated_until, LONGEST_GAP)
        self.contested = 0 if state == current else self.contested + gap
        self.probe.encoder.evidence += seconds(gap) * first.posterior
        self._evaluated_until = window.end
        clearest = second or first  # after a switch the first window holds the old language for seconds
        self._evidence.add(current, state, clearest.posterior, seconds(gap))
        options = self.context.config.language_id
        confident = state == current and clearest.posterior[state] >= options.confident_above
        leads = state == current == int(clearest.posterior.argmax())
        longest = math.inf if confident else UNSURE_GAP if leads else LONGEST_GAP if current is not None else 0
        self.probe.gap = min(options.confident_hop_factor * options.hop_ms * PER_MS, longest)
        return change

    def _snapped(self, change: LanguageChange | None) -> Change | None:
        """The change at the end of a pause, or where it was estimated."""
        if change is None:
            return None
        estimate = change.boundary
        boundary = near_pause(estimate, self._pauses(estimate))
        return Change(self.context.languages[change.state], boundary, estimate=estimate)

    def _pauses(self, estimate: int, behind: int = 0) -> list[Span]:
        """The pauses to which a boundary may move, with at least so many samples of audio behind each."""
        gate, snap = self.context.gate, self.context.config.session.snap_ms * PER_MS
        start = max(estimate - snap, 0)
        end = min(estimate + snap, self.context.history.received - behind, gate.heard_until - 1)
        return [pause for pause in gate.pauses(Span(start, max(start, end))) if start <= pause.end <= end]

    def _state(self, language: str | None) -> int | None:
        return None if language is None else self.context.languages.index(language)

    def _by_language(self, posterior: Posterior) -> dict[str, float]:
        return dict(zip(self.context.languages, posterior.tolist(), strict=True))

"""Which language is spoken when: detected, fixed, or given. A detector decides; `whisperlab.streaming.stream` acts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.audio_history import AudioHistory
from whisperlab.streaming.decoding import SpeechDecoder
from whisperlab.streaming.language_id import Posterior
from whisperlab.streaming.language_probe import Evaluated, LanguageEncoder, LanguageProbe
from whisperlab.streaming.monitoring import Monitor
from whisperlab.streaming.results import LanguageFrame, Onset, ResultBuilder
from whisperlab.streaming.session_options import MIN_SPEECH, SessionOptions
from whisperlab.streaming.smoothing import (
    LONGEST_GAP_S,
    PATIENCE,
    LanguageChange,
    LanguageTracker,
    SmoothingOptions,
    WindowPosterior,
)
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples, seconds

LONGEST_GAP = samples(LONGEST_GAP_S)
RETRY = 3 * SAMPLE_RATE // 10  # samples to wait before a refused change is checked again


@dataclass(slots=True, frozen=True)
class Change:
    """A language that seems to be spoken since sample ``boundary``. A ``certain`` one needs no confirmation."""

    language: str
    boundary: int
    certain: bool = False


class SwitchDetector(Protocol):
    """Decides which language is spoken. ``current`` is the language of the running session, None before the first."""

    mode: str

    def begin(self) -> str | None:
        """Start a new stream. Returns its first language, or None if it is not known yet."""
        ...

    def at_hop(self, current: str | None) -> Change | None:
        """At a language-ID hop: the change that is due to be acted on, if any."""
        ...

    def at_pause(self, current: str | None) -> Change | None:
        """At the end of speech: the change to act on, which later audio of this speech cannot support any more."""
        ...

    def is_open(self, current: str | None) -> bool:
        """Whether a change is possible that is not decided yet."""
        ...

    def reliable_until(self, current: str | None) -> int:
        """The sample before which no later frame will find another language."""
        ...

    def confirms(self, change: Change, boundary: int, current: str) -> bool:
        """Whether the audio since the boundary supports the change. A refused change is checked again later."""
        ...


class FixedLanguage:
    """The only language of the audio is known."""

    mode = "forced"

    def __init__(self, language: str, history: AudioHistory) -> None:
        self._language, self._history = language, history

    def begin(self) -> str | None:
        """The language."""
        return self._language

    def at_hop(self, current: str | None) -> Change | None:
        """Never a change."""
        return None

    def at_pause(self, current: str | None) -> Change | None:
        """Never a change."""
        return None

    def is_open(self, current: str | None) -> bool:
        """Never."""
        return False

    def reliable_until(self, current: str | None) -> int:
        """All audio so far."""
        return self._history.received

    def confirms(self, change: Change, boundary: int, current: str) -> bool:
        """Every change that is given."""
        return True


class GivenLanguages(FixedLanguage):
    """Reports known switches in place of detected ones, to show what a perfect detector would reach.

    ``switches`` are (seconds, language) pairs in order; the first, at 0 s, names the first language.
    """

    mode = "oracle"

    def __init__(self, switches: Sequence[tuple[float, str]], history: AudioHistory) -> None:
        super().__init__(switches[0][1], history)
        times = [(samples(time_s), code) for time_s, code in switches]
        self._changes = [
            Change(code, time, certain=True) for (_, before), (time, code) in pairwise(times) if code != before
        ]

    def begin(self) -> str | None:
        """The first language."""
        self._upcoming = list(self._changes)
        return super().begin()

    def at_hop(self, current: str | None) -> Change | None:
        """The next change whose time has come."""
        if self._upcoming and self._upcoming[0].boundary <= self._history.received:
            return self._upcoming.pop(0)
        return None


class DetectedLanguage:
    """The language is detected: probe, smoothing, sustained detection, confirmation.

    A change that has led for twice `PATIENCE` of speech needs no confirmation.
    """

    mode = "auto"

    def __init__(
        self,
        languages: tuple[str, ...],
        smoothing: SmoothingOptions,
        snap_ms: int,
        confident_above: float,
        probe: LanguageProbe,
        history: AudioHistory,
        gate: SpeechGate,
        proof: ChangeProof,
        results: ResultBuilder,
        metrics: PerformanceMetrics,
        monitor: Monitor,
    ) -> None:
        self._languages, self._smoothing = languages, smoothing
        self._snap, self._confident_above = snap_ms * SAMPLE_RATE // 1000, confident_above
        self._probe, self._history, self._gate, self._proof = probe, history, gate, proof
        self._results, self._metrics, self._monitor = results, metrics, monitor

    def begin(self) -> str | None:
        """No language is known at first."""
        self._probe.begin()
        self._tracker = LanguageTracker(len(self._languages), self._smoothing)
        self._evaluated_until = 0  # end of the last frame
        self._refused_at = -RETRY  # when a change was checked last and not confirmed
        self.contested = 0  # samples of speech since the best path left the current language
        return None

    def at_hop(self, current: str | None) -> Change | None:
        """Evaluate the frames that are due; a sustained change, unless one was refused just now."""
        if not self._probe.collect():
            return None
        with self._metrics.measure("lid.total"):
            change = self._evaluate(current)
        self._monitor.check_speed(self._probe.evaluated)
        return self._snapped(change) if self._history.received - self._refused_at >= RETRY else None

    def at_pause(self, current: str | None) -> Change | None:
        """The change that the best path shows now, sustained or not."""
        if current is None and self._history.received and not self._probe.waiting:
            self._probe.add_frame()
        if self._probe.waiting:
            self._evaluate(current)
        return self._snapped(self._tracker.outlook(self._state(current)))

    def is_open(self, current: str | None) -> bool:
        """Whether the best path ends in another language."""
        return self._tracker.outlook(self._state(current)) is not None

    def reliable_until(self, current: str | None) -> int:
        """The sample before which the current language was certainly not left."""
        state = self._state(current)
        return self._history.received if state is None else self._tracker.reliable_until(state)

    def confirms(self, change: Change, boundary: int, current: str) -> bool:
        """Whether the change has led for long, or the audio since the boundary proves it."""
        if self.contested >= 2 * PATIENCE:
            return True
        if self._proof.holds(boundary, change.language, current, with_text=self.contested < PATIENCE):
            return True
        self._refused_at = self._history.received
        return False

    def _evaluate(self, current: str | None) -> LanguageChange | None:
        """Add the frames that wait to the path, in order; the change that the last of them makes certain."""
        change = None
        for frame in self._probe.evaluate():
            change = self._add(frame, self._state(current))
        return change

    def _add(self, frame: Evaluated, current: int | None) -> LanguageChange | None:
        first, second = WindowPosterior(frame.windows.window, frame.posterior), None
        if frame.windows.onset is not None and frame.onset is not None:
            second = WindowPosterior(frame.windows.onset, frame.onset)
        with self._metrics.measure("lid.smoothing"):
            state = self._tracker.push(first, *([second] if second else []))
        window = first.window
        self._results.add(
            LanguageFrame(
                window.end,
                len(window),
                self._gate.voiced(window),
                self._by_language(frame.posterior),
                self._languages[state],
                frame.cached,
                Onset(len(second.window), self._by_language(second.posterior)) if second else None,
            )
        )
        with self._metrics.measure("lid.sustained_detection"):
            change = self._tracker.change(current)
        gap = min(window.end - self._evaluated_until, LONGEST_GAP)
        self.contested = 0 if state == current else self.contested + gap
        self._probe.encoder.add_evidence(frame.posterior, seconds(gap))
        self._evaluated_until = window.end
        clearest = second or first  # after a switch the first window holds the old language for seconds
        self._probe.confident = state == current and clearest.posterior[state] >= self._confident_above
        return change

    def _snapped(self, change: LanguageChange | None) -> Change | None:
        """The change at the end of the nearest pause, or where it was estimated if no pause is near."""
        if change is None:
            return None
        estimate = change.boundary
        near = Span(max(estimate - self._snap, 0), min(estimate + self._snap, self._history.received))
        over = [pause.end for pause in self._gate.pauses(near) if pause.end < self._gate.heard_until]
        ends = [end for end in over if near.start <= end <= near.end]
        boundary = min(ends, key=lambda end: abs(end - estimate)) if ends else estimate
        return Change(self._languages[change.state], boundary)

    def _state(self, language: str | None) -> int | None:
        return None if language is None else self._languages.index(language)

    def _by_language(self, posterior: Posterior) -> dict[str, float]:
        return dict(zip(self._languages, posterior.tolist(), strict=True))


class ChangeProof:
    """Checks a change on the audio since its boundary: first by language-ID, then by the text in both languages.

    The two err differently: in windows of 1.5 s of five languages on *dev* language-ID was right in 83 %, the
    likeliest text in 79 %, the sum of both in 91 %. Where neither language has a text, language-ID decides.
    """

    __slots__ = (
        "_decode",
        "_decoder",
        "_encoder",
        "_history",
        "_languages",
        "_metrics",
        "_options",
        "_window",
        "decodes",
    )

    def __init__(
        self,
        languages: Sequence[str],
        options: SessionOptions,
        encoder: LanguageEncoder,
        decoder: SpeechDecoder,
        history: AudioHistory,
        metrics: PerformanceMetrics,
        *,
        window: int,
        decode: bool,
    ) -> None:
        self._languages, self._options, self._encoder, self._decoder = languages, options, encoder, decoder
        self._history, self._metrics, self._window, self._decode = history, metrics, window, decode
        self.decodes = 0

    def holds(self, boundary: int, language: str, current: str, *, with_text: bool) -> bool:
        """Whether the audio since ``boundary`` is in ``language``; ``with_text`` False skips the second check."""
        end = self._history.received
        start = max(boundary, end - max(self._window, MIN_SPEECH))
        if end - start < MIN_SPEECH:
            return False
        audio = self._history.text_audio(Span(start, end))
        options = self._options
        if options.confirm_posterior:
            if self._decode and options.share:
                posterior = self._encoder.identified(self._decoder.encoded(audio, start).features)
            else:
                posterior = self._encoder.posterior(audio)
            if posterior[self._languages.index(language)] < options.confirm_posterior:
                return False
        if not with_text or options.confirm_text == -math.inf or not self._decode:
            return True
        self.decodes += 1
        with self._metrics.measure("whisper.infer"):
            new, old = self._decoder.likelihoods(audio, start, (language, current))
        if new is None or old is None:
            return old is None
        return new - old >= options.confirm_text

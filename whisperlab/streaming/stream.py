"""One stream: takes audio to the due points and lets voice activity, language and text work there.

What happens at a point depends only on the audio up to it, so the sizes of chunks never change the result.
"""

from __future__ import annotations

from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.audio_history import AudioHistory
from whisperlab.streaming.monitoring import Monitor
from whisperlab.streaming.results import ProcessResult, ResultBuilder, Switch
from whisperlab.streaming.schedule import Schedule
from whisperlab.streaming.switching import Change, SwitchDetector
from whisperlab.streaming.text_session import TextSession
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import trim_heap
from whisperlab.util.timeline import VAD_FRAME, Span, seconds


class Stream:
    """Drives the parts of a transcriber. It acts on what they decide; each part has one job.

    ``switches``, ``refused``, ``gaps`` and ``gap_samples`` count since the stream began.
    """

    __slots__ = (
        *("detector", "gate", "history", "metrics", "monitor", "results", "schedule", "text"),
        *("ended", "gap_samples", "gaps", "refused", "switches"),
    )

    def __init__(
        self,
        schedule: Schedule,
        history: AudioHistory,
        gate: SpeechGate,
        detector: SwitchDetector,
        text: TextSession,
        results: ResultBuilder,
        monitor: Monitor,
        metrics: PerformanceMetrics,
    ) -> None:
        self.schedule, self.history, self.gate = schedule, history, gate
        self.detector, self.text, self.results = detector, text, results
        self.monitor, self.metrics = monitor, metrics

    def begin(self) -> None:
        """Start a new stream: drop audio, text and counts."""
        self.schedule.begin()
        self.history.begin()
        self.gate.reset()
        self.text.begin(self.detector.begin())
        self.monitor.begin()
        self.results.begin()
        self.ended = False
        self.switches = self.refused = self.gaps = self.gap_samples = 0

    def take(self, chunk: FloatArray) -> None:
        """Work on a chunk at the rate of the source."""
        self._advance(self.history.resampled(chunk))

    def lose(self, n_samples: int) -> None:
        """Continue ``n_samples`` (at the rate of the source) later. Running speech ends at the gap."""
        self._advance(self.history.rest())
        end = self.history.lose(n_samples)
        gap = Span(self.history.received, end)
        if closed := self.gate.close():
            self._end_speech(closed)
        self.history.fill(end)
        self.gate.leap(end - end % VAD_FRAME)
        self.text.final_until = end
        self.results.add_gap(gap)
        self.gaps += 1
        self.gap_samples += len(gap)

    def finish(self) -> None:
        """End the stream: running speech becomes final."""
        self._advance(self.history.rest())
        if closed := self.gate.close():
            self._end_speech(closed)
        self.ended = True

    def latest(self) -> ProcessResult:
        """What the running call has produced so far, or what the last call produced."""
        return self.results.build(self.text.tentative, self.text.language, self.schedule.load_level)

    def _advance(self, audio: FloatArray) -> None:
        while len(audio):
            until_next = self.schedule.until_next(self.history.received)
            piece, audio = audio[:until_next], audio[until_next:]
            self.history.append(piece)
            self._work()
            if self.schedule.trim_due(self.history.received):  # now that no temporary memory is held
                trim_heap()

    def _work(self) -> None:
        """Do what is due at this sample: voice activity, language, then text."""
        at, schedule, text = self.history.received, self.schedule, self.text
        closed = self._judge() if schedule.voice_due(at) else None
        if schedule.language_due(at):
            change = self.detector.at_hop(text.language)
            if change:
                self._act_on(change)
        if closed:
            self._end_speech(closed)
        elif schedule.step_due(at) and not (schedule.omits_step(at) and text.omit_step()):
            text.step()
        else:
            text.settle_if_due()

    def _judge(self) -> Span | None:
        """Voice activity of the newest frame. Returns the speech that it closed, if any."""
        with self.metrics.measure("vad.detect"):
            closed = self.gate.push(self.history.vad.peek(VAD_FRAME))
        if self.gate.span_start is not None:
            self.text.start(self.gate.span_start)
        return closed

    def _end_speech(self, closed: Span) -> None:
        """A pause, a gap or the end of the stream closed speech: a possible change is decided now."""
        self.results.add_speech(closed)
        self.monitor.check_level()
        self.text.settle()
        change = self.detector.at_pause(self.text.language)
        if change:
            self._act_on(change)
        self.text.end(closed)

    def _act_on(self, change: Change) -> None:
        """Restart the session in another language, if the audio since the boundary confirms it."""
        text = self.text
        text.settle()
        boundary = text.still_open(change.boundary)
        if not change.certain and (text.language is None or text.is_unheard(boundary)):
            text.adopt(change.language)
            text.step()
        elif text.language is not None and (change.certain or self.detector.confirms(change, boundary, text.language)):
            self._restart(boundary, change.language, text.language)
        else:
            self.refused += 1

    def _restart(self, boundary: int, language: str, before: str) -> None:
        with self.metrics.measure("session.restart"):
            decided_at = seconds(self.history.received)
            self.results.add(Switch(seconds(boundary), before, language, decided_at))
            self.switches += 1
            self.text.restart(boundary, language)
        self.text.step()

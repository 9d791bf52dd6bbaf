"""One stream: takes audio to the due points and lets voice activity, language and text work there.

Due points are fixed points of the stream, and what happens there depends only on the audio up to them. So the sizes of
chunks never change a result.
"""

from dataclasses import dataclass, field

from whisperlab.streaming.context import PER_MS, Context
from whisperlab.streaming.results import Switch
from whisperlab.streaming.switching import Change, SwitchDetector
from whisperlab.streaming.text_session import TextSession
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import trim_heap
from whisperlab.util.timeline import POSITION, SAMPLE_RATE, VAD_FRAME, Span, seconds

LONG_STEPS = 3  # decode steps that become one at load level 2
TRIM = 10 * SAMPLE_RATE  # samples between two times at which free memory is returned to the system


@dataclass(slots=True, eq=False)
class Stream:
    """Drives the stages of a transcriber. It acts on what they decide; each stage has one job."""

    context: Context
    detector: SwitchDetector
    text: TextSession
    ended: bool = False
    _hop: int = field(init=False)  # samples between language-ID frames
    _step: int = field(init=False)  # samples between decodes
    _trimmed_at: int = 0
    _switched_at: int = -POSITION  # boundary of the last switch

    def __post_init__(self) -> None:
        config = self.context.config
        self._hop, self._step = config.language_id.hop_ms * PER_MS, config.session.step_ms * PER_MS

    def take(self, chunk: FloatArray) -> None:
        """Work on a chunk at the rate of the source."""
        with self.context.metrics.measure("chunk.total"):
            self._advance(self.context.history.resampled(chunk))

    def lose(self, n_samples: int) -> None:
        """Continue ``n_samples`` (at the rate of the source) later. Running speech ends at the gap."""
        if not n_samples:
            return
        history, gate = self.context.history, self.context.gate
        self._advance(history.resampled(last=True))
        end = history.lose(n_samples)
        gap = Span(history.received, end)
        self._end_speech(gate.close())
        history.fill(end)
        gate.leap(end - end % VAD_FRAME)
        self.text.final_until, self.text.final_words = end, ("", ())
        self.context.results.gaps.append(gap)
        self.context.counts.gaps += 1
        self.context.counts.gap_samples += len(gap)

    def finish(self) -> None:
        """End the stream: running speech becomes final. A second call does nothing."""
        if self.ended:
            return
        self._advance(self.context.history.resampled(last=True))
        self._end_speech(self.context.gate.close())
        self.ended = True

    def _advance(self, audio: FloatArray) -> None:
        history = self.context.history
        while len(audio):
            until_next = min(n - history.received % n for n in (VAD_FRAME, self._hop, self._step))
            piece, audio = audio[:until_next], audio[until_next:]
            history.append(piece)
            self._work(history.received)
            if history.received - self._trimmed_at >= TRIM:  # now that no temporary memory is held
                self._trimmed_at = history.received
                trim_heap()

    def _work(self, at: int) -> None:
        """Do what is due at this sample: voice activity, language, then text."""
        text, gate, closed = self.text, self.context.gate, None
        if at % VAD_FRAME == 0:
            with self.context.metrics.measure("vad.detect"):
                closed = gate.push(self.context.history.vad.peek(VAD_FRAME))
            if gate.span_start is not None:
                text.start(gate.span_start)
        if at % self._hop == 0:
            self._act_on(self.detector.at_hop(text.language))
        omits_step = self.context.load_level >= 2 and at // self._step % LONG_STEPS != 0
        if closed:
            self._end_speech(closed)
        elif at % self._step == 0 and not (omits_step and text.omit_step()):
            text.step()
        else:
            text.settle_if_due()

    def _end_speech(self, closed: Span | None) -> None:
        """A pause, a gap or the end of the stream closed speech: a possible change is decided now."""
        if not closed:
            return
        self.context.results.speech.append(closed)
        self.context.monitor.check_level()
        self.text.settle()
        self._act_on(self.detector.at_pause(self.text.language))
        self.text.end(closed)

    def _act_on(self, change: Change | None) -> None:
        """Restart the session in another language, if the audio since the boundary confirms it."""
        if not change:
            return
        text = self.text
        text.settle()
        boundary = self._allowed(change.boundary)
        if not change.certain and (text.language is None or text.is_unheard(boundary)):
            text.adopt(change.language)
            text.step()
        elif text.language is not None and (change.certain or self.detector.confirms(change, boundary, text.language)):
            with self.context.metrics.measure("session.restart"):
                boundary = self._allowed(self.detector.placed(change, text.language))
                decided_at, self._switched_at = seconds(self.context.history.received), boundary
                switch = Switch(seconds(boundary), text.language, change.language, decided_at)
                self.context.results.switches.append(switch)
                self.context.counts.switches += 1
                text.restart(boundary, change.language)
            text.step()
        else:
            self.context.counts.switches_refused += 1

    def _allowed(self, boundary: int) -> int:
        """The boundary, or the first sample behind it that follows all final text and the last switch.

        A change whose boundary is before the last switch corrects it. Two switches never have the same time.
        """
        return max(self.text.still_open(boundary), self._switched_at + POSITION)

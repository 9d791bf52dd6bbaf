"""The text session: decodes running speech, commits reliable words, cuts long speech, makes segments final.

Text is *tentative* until its policy relies on it (two decodes agree, or attention has left it behind) and it lies
before any change of language that is still possible. Then it is *committed* and never changes. Speech ends at a pause,
at a switch, or when it gets too long; its words become one *final* segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from whisperlab.metrics import PerformanceMetrics
from whisperlab.streaming.audio_history import AudioHistory
from whisperlab.streaming.commit_policies import AlignAtt, CommitPolicy, LocalAgreement
from whisperlab.streaming.coverage import Uncovered, completed, uncovered
from whisperlab.streaming.decoding import Hypothesis, SpeechDecoder, Word, confidence_of, is_meaningful, text_of
from whisperlab.streaming.language_check import FLAG_SPEECH, LanguageCheck
from whisperlab.streaming.results import ResultBuilder, SessionSegment
from whisperlab.streaming.session_options import MIN_SPEECH, SessionOptions
from whisperlab.streaming.switching import SwitchDetector
from whisperlab.streaming.vad import SpeechGate
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span, seconds

CUT_LAG = 2 * SAMPLE_RATE  # samples kept behind a cut: the newest words are not complete yet
STALL = SAMPLE_RATE  # samples of speech without text after the committed words that end the segment
INVENTED = -1.5  # mean log-probability of a token below which text for a little speech is dropped


@dataclass(slots=True)
class Speech:
    """Speech being decoded: where it starts, how far it was decoded, and which of its words are final."""

    start: int
    policy: CommitPolicy
    seen_until: int = 0

    @property
    def committed_until(self) -> int:
        """End of the last committed word, or the start."""
        words = self.policy.committed
        return max(self.start, words[-1].end) if words else self.start


@dataclass(slots=True, frozen=True)
class Job:
    """A decode of running speech up to sample ``end``; ``run`` may be called by any thread."""

    speech: Speech
    end: int
    run: Callable[[], Hypothesis]


class Runner(Protocol):
    """Runs the decodes of running speech. `start` and `finish` return a job and its hypothesis once there is one."""

    def start(self, job: Job) -> tuple[Job, Hypothesis] | None:
        """Run or start a job. At most one job is unfinished at any time."""
        ...

    def due_at(self) -> int | None:
        """The sample at which the unfinished job must be finished; None without one."""
        ...

    def finish(self) -> tuple[Job, Hypothesis] | None:
        """Wait for the unfinished job, if any."""
        ...

    def begin(self) -> None:
        """Start a new stream: wait for whatever runs, and drop its result."""
        ...


class InlineRunner:
    """Runs each job at once in the calling thread."""

    def start(self, job: Job) -> tuple[Job, Hypothesis] | None:
        """Run the job."""
        return job, job.run()

    def due_at(self) -> int | None:
        """Nothing is ever unfinished."""
        return None

    def finish(self) -> tuple[Job, Hypothesis] | None:
        """Nothing is ever unfinished."""
        return None

    def begin(self) -> None:
        """Nothing to do."""


@dataclass(slots=True, frozen=True)
class Pending:
    """A job that the second thread runs, and its hypothesis to come."""

    job: Job
    hypothesis: Future[Hypothesis]


class ThreadedRunner:
    """Runs jobs in a second thread. A result is used ``lag`` samples after the end of its audio, or when needed."""

    def __init__(self, worker: Executor, lag: int) -> None:
        self._worker, self._lag = worker, lag
        self.pending: Pending | None = None

    def start(self, job: Job) -> tuple[Job, Hypothesis] | None:
        """Start the job in the other thread."""
        self.pending = Pending(job, self._worker.submit(job.run))
        return None

    def due_at(self) -> int | None:
        """``lag`` samples after the end of the unfinished job."""
        return self.pending.job.end + self._lag if self.pending else None

    def finish(self) -> tuple[Job, Hypothesis] | None:
        """Wait for the unfinished job."""
        unfinished, self.pending = self.pending, None
        return (unfinished.job, unfinished.hypothesis.result()) if unfinished else None

    def begin(self) -> None:
        """Wait until the thread is free."""
        self._worker.submit(int).result()
        self.pending = None


class Prompts:
    """The last text in each language, as a prompt for its next session if that starts within ``longest_s``."""

    __slots__ = ("_last", "_longest_s")

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self.begin()

    def begin(self) -> None:
        """Start a new stream without text."""
        self._last: dict[str, tuple[tuple[int, ...], int]] = {}

    def keep(self, language: str, words: Sequence[Word], end: int) -> None:
        """Keep the words of a segment that ended at sample ``end``."""
        if self._longest_s:
            self._last[language] = tuple(token for word in words for token in word.tokens), end

    def at(self, language: str | None, start: int) -> Sequence[int]:
        """Prompt tokens for speech from sample ``start`` on."""
        tokens, end = self._last.get(language or "", ((), 0))
        return tokens if seconds(start - end) <= self._longest_s else ()


@dataclass(slots=True)
class TextCounts:
    """What the text session of one stream has counted."""

    segments: int = 0
    decodes: int = 0
    steps_omitted: int = 0
    untranscribed: int = 0
    untranscribed_samples: int = 0


class TextSession:
    """Decodes the running speech in ``language`` and makes its text final.

    ``final_until`` is the sample up to which text is final; ``speech`` is the running speech, None in silence. With
    ``decode`` False no text is decoded.
    """

    __slots__ = (
        *("_check", "_decode", "_decoder", "_detector", "_gate", "_history", "_metrics", "_options"),
        *("_prompts", "_results", "_runner", "counts", "final_until", "language", "speech"),
    )

    def __init__(
        self,
        options: SessionOptions,
        decoder: SpeechDecoder,
        history: AudioHistory,
        gate: SpeechGate,
        detector: SwitchDetector,
        check: LanguageCheck,
        runner: Runner,
        results: ResultBuilder,
        metrics: PerformanceMetrics,
        *,
        decode: bool,
    ) -> None:
        self._options, self._decoder, self._history, self._gate = options, decoder, history, gate
        self._detector, self._check, self._runner = detector, check, runner
        self._results, self._metrics, self._decode = results, metrics, decode
        self._prompts = Prompts(options.prompt_s)

    def begin(self, language: str | None) -> None:
        """Start a new stream, in a language if it is known."""
        self._decoder.reset()
        self._check.begin()
        self._prompts.begin()
        self.counts = TextCounts()
        self.language = language
        self.speech: Speech | None = None
        self.final_until = 0

    # --- the running speech -----------------------------------------------------------------------------

    @property
    def tentative(self) -> str:
        """The newest text that is not committed yet."""
        return text_of(self.speech.policy.tentative) if self.speech else ""

    def start(self, speech_start: int) -> None:
        """Start to decode speech that the voice activity detector found; nothing if it is being decoded already."""
        if self.speech is None:
            preroll = self._options.preroll_ms * SAMPLE_RATE // 1000
            self.speech = self._new_speech(max(speech_start - preroll, self.final_until))

    def end(self, closed: Span) -> None:
        """End the running speech at a pause."""
        if self.speech:
            preroll = self._options.preroll_ms * SAMPLE_RATE // 1000
            self._finish(min(closed.end + preroll, self._history.received))

    def step(self) -> None:
        """Decode the running speech up to now and commit reliable words.

        Nothing happens without new speech or while a change of language is open.
        """
        self.settle()
        speech, now = self.speech, self._history.received
        if speech is None or self.language is None or not self._decode:
            return
        if self._is_long(speech):
            speech = self.speech = self._cut(speech)
        if self._detector.is_open(self.language) or now - speech.start < MIN_SPEECH:
            return
        if self._gate.voiced_until <= speech.seen_until:
            return
        done = self._runner.start(Job(speech, now, self._decoding(speech, now, retry=False)))
        if done:
            self._use(*done)

    def omit_step(self) -> bool:
        """Count a step that load omits. Returns False for a step that must not be omitted: it cuts long speech."""
        omitted = self.speech is not None and not self._is_long(self.speech)
        self.counts.steps_omitted += omitted
        return omitted

    def settle_if_due(self) -> None:
        """Use the result of the second thread if its time has come."""
        due_at = self._runner.due_at()
        if due_at is not None and self._history.received >= due_at:
            self.settle()

    def settle(self) -> None:
        """Use the result of the second thread, if any; waits for it."""
        done = self._runner.finish()
        if done:
            self._use(*done)

    # --- language changes -------------------------------------------------------------------------------

    def still_open(self, boundary: int) -> int:
        """The boundary, or the end of the final text if that lies behind it."""
        return max(boundary, self.final_until, self.speech.committed_until if self.speech else 0)

    def is_unheard(self, boundary: int) -> bool:
        """Whether nothing before the boundary is final: a change there means that the first language was wrong."""
        speech = self.speech
        began = speech is not None and boundary - speech.start < MIN_SPEECH
        return began and not self.counts.segments and not (speech and speech.policy.committed)

    def adopt(self, language: str) -> None:
        """Use a language for the running speech from its start on."""
        self.language = language
        if self.speech:
            self.speech = self._new_speech(self.speech.start)

    def restart(self, boundary: int, language: str) -> None:
        """Finish the running speech at the boundary and start a session in another language there."""
        speech = self.speech
        if speech and (speech.policy.committed or boundary - speech.start >= MIN_SPEECH):
            self._finish(boundary)
            self.speech = self._new_speech(boundary)
        elif speech:
            self.speech = self._new_speech(speech.start)
        self.language = language

    # --- decoding ---------------------------------------------------------------------------------------

    def _is_long(self, speech: Speech) -> bool:
        return seconds(self._history.received - speech.start) > self._options.max_speech_s

    def _new_speech(self, start: int) -> Speech:
        lag = self._options.attention_lag_ms * SAMPLE_RATE // 1000
        return Speech(start, LocalAgreement() if self._options.policy == "agreement" else AlignAtt(lag))

    def _decoding(self, speech: Speech, end: int, *, retry: bool) -> Callable[[], Hypothesis]:
        """A decode of speech up to ``end`` that any thread can run."""
        assert self.language is not None
        self.counts.decodes += 1
        with self._metrics.measure("whisper.buffer_read"):
            audio = self._history.text_audio(Span(speech.start, end))
        decode = partial(
            self._decoder.decode,
            audio,
            speech.start,
            self.language,
            tuple(speech.policy.committed),
            speech.policy.tentative,
            prompt=self._prompts.at(self.language, speech.start),
            retry=retry,
        )
        return self._metrics.measure("whisper.infer")(decode)

    def _use(self, job: Job, hypothesis: Hypothesis) -> None:
        """Commit the reliable words of a hypothesis about running speech."""
        if hypothesis.looped:  # not decoded again now: the next step has more audio, and the end decodes it anyway
            return
        speech, end = job.speech, job.end
        speech.seen_until = end
        left_out = self._left_out(speech, hypothesis.words, end)
        if left_out and speech.policy.committed and _stalled(speech, left_out):
            self._finish(left_out.word_start)
            self.speech = self._new_speech(self.final_until)
            return
        horizon = left_out.word_start if left_out else end
        reliable = min(self._detector.reliable_until(self.language), horizon)
        self._results.commit(_joined(speech.policy.update(hypothesis, reliable, end)))

    def _left_out(self, speech: Speech, words: Sequence[Word], end: int) -> Uncovered | None:
        """The first speech after the committed words that a hypothesis has no text for."""
        span = Span(speech.committed_until, max(end, speech.committed_until))
        voiced = self._gate.voiced_frames(span)
        return next(iter(uncovered(words, voiced, span, len(speech.policy.committed))), None)

    def _cut(self, speech: Speech) -> Speech:
        """Finish the first part of long speech, at a pause if there is one. Returns the rest."""
        earliest = max(speech.committed_until, speech.start + MIN_SPEECH)
        reliable = self._detector.reliable_until(self.language)
        latest = max(min(reliable, self._history.received - CUT_LAG), earliest)
        pauses = [pause for pause in self._gate.pauses(Span(earliest, latest)) if pause.end <= latest]
        at = max(pauses, key=len).end if pauses else self._gate.quietest(Span(earliest, latest)) or latest
        self._finish(max(at, earliest))
        return self._new_speech(self.final_until)

    def _finish(self, end: int) -> None:
        """Make the running speech up to ``end`` a final segment."""
        speech = self.speech
        assert speech is not None
        self.final_until = max(end, speech.committed_until)
        self.speech = None
        if not self._decode or self.language is None:
            return
        words = self._last_words(speech, self.language)
        text = text_of(words)
        self._results.commit(_joined(words[len(speech.policy.committed) :]))
        if not is_meaningful(text):
            return
        self.counts.segments += 1
        self._prompts.keep(self.language, words, self.final_until)
        times = seconds(words[0].start), seconds(words[-1].end)
        self._results.add(SessionSegment(text, self.language, *times, is_final=True, confidence=confidence_of(words)))

    def _last_words(self, speech: Speech, language: str) -> Sequence[Word]:
        """The words of speech that has ended. Speech that they leave out is decoded again, or reported.

        The last hypothesis is used if it is of all the speech.
        """
        end, committed = self.final_until, speech.policy.committed
        if end - speech.start < MIN_SPEECH or end <= speech.committed_until:
            return committed  # a switch in the pause that ended the speech left nothing
        if self._gate.voiced_until <= min(speech.seen_until, end):
            words: Sequence[Word] = (*committed, *speech.policy.tentative)
            decoded = Span(speech.start, min(speech.seen_until, self._history.received))
        else:
            words = self._decoding(speech, end, retry=True)().words
            decoded = Span(speech.start, end)
        if self._options.flag_language:
            self._check.check(decoded, language)
        span = Span(speech.committed_until, end)
        voiced = self._gate.voiced_frames(span)
        found, left = completed(words, voiced, span, self._decoded_alone, len(committed))
        short = len(voiced) * VAD_FRAME < FLAG_SPEECH and not committed
        if short and Hypothesis(tuple(found)).log_probability < INVENTED:
            found = []
        if not is_meaningful(text_of(found)) and len(voiced) * VAD_FRAME >= MIN_SPEECH:
            left = [Span(voiced[0], min(voiced[-1] + VAD_FRAME, end))]
        self._results.add_untranscribed(left)
        self.counts.untranscribed += len(left)
        self.counts.untranscribed_samples += sum(map(len, left))
        return found

    def _decoded_alone(self, span: Span) -> Sequence[Word]:
        if len(span) < MIN_SPEECH:
            return ()
        return self._decoding(self._new_speech(span.start), span.end, retry=True)().words


def _stalled(speech: Speech, left_out: Uncovered) -> bool:
    """Whether further decoding would not find this speech, because it follows the committed words.

    Whisper can end the text after a forced prefix that ends a sentence, or continue from a later occurrence of the
    prefix's last words.
    """
    return left_out.index < len(speech.policy.committed) and left_out.voiced >= STALL


def _joined(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)

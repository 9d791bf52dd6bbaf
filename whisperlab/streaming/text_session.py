"""The text session: decodes running speech, commits reliable words, cuts long speech, makes segments final.

Text is *tentative* until its policy relies on it (two decodes agree, or attention has left it behind) and it lies
before any change of language that is still possible. Then it is *committed* and never changes. Speech ends at a pause,
at a switch, or when it gets too long; its words become one *final* segment.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from whisperlab.streaming import decoding
from whisperlab.streaming.commit_policies import CommitPolicy
from whisperlab.streaming.context import PER_MS, Context
from whisperlab.streaming.coverage import completed, uncovered
from whisperlab.streaming.decoding import Hypothesis, SpeechDecoder, Word
from whisperlab.streaming.language_id import LanguageIdentifier
from whisperlab.streaming.results import LanguageFlag, SessionSegment
from whisperlab.streaming.switching import MIN_SPEECH, SwitchDetector
from whisperlab.util.timeline import SAMPLE_RATE, VAD_FRAME, Span, samples, seconds

logger = logging.getLogger("whisperlab")

CUT_LAG = 2 * SAMPLE_RATE  # samples kept behind a cut: the newest words are not complete yet
STALL = SAMPLE_RATE  # samples of speech without text after the committed words that end the segment
INVENTED = -1.5  # mean log-probability of a token below which text for a little speech is dropped
# Samples of the longest window that begins with final words of the same language: on three *dev* recordings of short
# sentences each 53 % of the words were wrong alone, 32 % within 8 s, 36 % within 15 s (repetitions).
CONTEXT = 8 * SAMPLE_RATE
CONTEXT_WORDS = 50  # kept for it
CONTEXT_PAUSE = 2 * SAMPLE_RATE  # samples between the last final word and speech that is still its context
FLAG_SPEECH = 3 * SAMPLE_RATE // 2  # samples of speech from which a language is identified reliably
# Probability from which a disagreement is flagged: on *dev* none of 111 stretches was flagged wrongly.
FLAG_PROBABILITY = 0.8


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


class Pending(NamedTuple):
    """A decode of running speech up to sample ``end``; ``result`` returns its hypothesis, perhaps after a wait."""

    speech: Speech
    end: int
    result: Callable[[], Hypothesis]


@dataclass(slots=True)
class Runner:
    """Runs the decodes of running speech: at once, or with a worker in a second thread."""

    worker: Executor | None = None  # of one thread
    lag: int = 0  # samples after the end of its audio at which the worker's result is used, if not needed before
    pending: Pending | None = None  # the one decode that is unfinished

    def begin(self) -> None:
        """Start a new stream: wait for whatever runs, and drop its result."""
        if self.worker:
            self.worker.submit(int).result()
        self.pending = None


@dataclass(slots=True, eq=False)
class TextSession:
    """Decodes the running speech in ``language`` and makes its text final; no text with the option ``decode`` off."""

    context: Context
    language: str | None
    decoder: SpeechDecoder
    detector: SwitchDetector
    identifier: LanguageIdentifier  # over all languages of the model
    runner: Runner
    final_until: int = 0  # sample up to which text is final
    final_words: tuple[str, Sequence[Word]] = ("", ())  # of the last segments in one language, and this language
    speech: Speech | None = None  # the running speech; None in silence
    _warned: set[str] = field(default_factory=set)  # languages that are not allowed and that a warning has named

    @property
    def tentative(self) -> str:
        """The newest text that is not committed yet."""
        return decoding.text_of(self.speech.policy.tentative) if self.speech else ""

    # --- the running speech -----------------------------------------------------------------------------

    def start(self, speech_start: int) -> None:
        """Start to decode speech that the voice activity detector found; nothing if it is being decoded already."""
        if self.speech is None:
            preroll = self.context.config.session.preroll_ms * PER_MS
            self.speech = self._new_speech(max(speech_start - preroll, self.final_until))

    def end(self, closed: Span) -> None:
        """End the running speech at a pause."""
        if self.speech:
            preroll = self.context.config.session.preroll_ms * PER_MS
            self._finish(self.speech, min(closed.end + preroll, self.context.history.received))

    def step(self) -> None:
        """Decode the running speech up to now and commit reliable words.

        Nothing happens without new speech or while a change of language is open.
        """
        self.settle()
        speech, now = self.speech, self.context.history.received
        if speech is None or self.language is None or not self.context.config.decode:
            return
        if self._is_long(speech):
            speech = self.speech = self._cut(speech)
        if self.detector.is_open(self.language) or now - speech.start < MIN_SPEECH:
            return
        if self.context.gate.voiced_until > speech.seen_until:
            decode, worker = self._decoding(speech, now, self.language, final=False), self.runner.worker
            self.runner.pending = Pending(speech, now, worker.submit(decode).result if worker else decode)
            self.settle_if_due()

    def omit_step(self) -> bool:
        """Count a step that load omits. Returns False for a step that must not be omitted: it cuts long speech."""
        omitted = self.speech is not None and not self._is_long(self.speech)
        self.context.counts.steps_shed += omitted
        return omitted

    def settle_if_due(self) -> None:
        """Use the result of a decode if its time has come."""
        pending = self.runner.pending
        if pending and self.context.history.received >= pending.end + self.runner.lag:
            self.settle()

    def settle(self) -> None:
        """Commit the reliable words of an unfinished decode, if there is one; waits for it.

        A loop is not decoded again now: the next step has more audio, and the end decodes it anyway.
        """
        decoded, self.runner.pending = self.runner.pending, None
        if decoded is None or (hypothesis := decoded.result()).looped:
            return
        speech, end = decoded.speech, decoded.end
        speech.seen_until = end
        span = Span(speech.committed_until, max(end, speech.committed_until))
        voiced, n_committed = self.context.gate.voiced_frames(span), len(speech.policy.committed)
        left_out = next(iter(uncovered(hypothesis.words, voiced, span, n_committed)), None)
        if left_out and n_committed > 0 and left_out.index < n_committed and left_out.voiced >= STALL:
            # After a committed sentence Whisper can end the text, or go on at a later occurrence of its last words.
            self._finish(speech, left_out.word_start)
            self.speech = self._new_speech(self.final_until)
            return
        horizon = left_out.word_start if left_out else end
        reliable = min(self.detector.reliable_until(self.language), horizon)
        self.context.results.committed += decoding.joined(speech.policy.update(hypothesis, reliable, end))

    # --- language changes -------------------------------------------------------------------------------

    def still_open(self, boundary: int) -> int:
        """The boundary, or the end of the final text if that lies behind it."""
        return max(boundary, self.final_until, self.speech.committed_until if self.speech else 0)

    def is_unheard(self, boundary: int) -> bool:
        """Whether nothing before the boundary is final: a change there means that the first language was wrong."""
        speech = self.speech
        if speech is None or self.context.counts.segments:
            return False
        return boundary - speech.start < MIN_SPEECH and not speech.policy.committed

    def adopt(self, language: str) -> None:
        """Use a language for the running speech from its start on."""
        self.language = language
        if self.speech:
            self.speech = self._new_speech(self.speech.start)

    def restart(self, boundary: int, language: str) -> None:
        """Finish the running speech at the boundary and start a session in another language there."""
        speech = self.speech
        if speech and (speech.policy.committed or boundary - speech.start >= MIN_SPEECH):
            self._finish(speech, boundary)
            self.speech = self._new_speech(boundary)
        elif speech:
            self.speech = self._new_speech(speech.start)
        self.language = language

    # --- decoding ---------------------------------------------------------------------------------------

    def _is_long(self, speech: Speech) -> bool:
        return seconds(self.context.history.received - speech.start) > self.context.config.session.max_speech_s

    def _new_speech(self, start: int) -> Speech:
        options = self.context.config.session
        lag = options.attention_lag_ms * PER_MS if options.policy == "alignatt" else None
        patience = round(options.commit_wait_s * SAMPLE_RATE)
        return Speech(start, CommitPolicy(lag, options.commit_above, patience))

    def _decoding(
        self, speech: Speech, end: int, language: str, context: Sequence[Word] = (), *, final: bool
    ) -> Callable[[], Hypothesis]:
        """A decode of speech up to ``end`` that any thread can run. The window and the text begin with ``context``."""
        self.context.counts.decodes += 1
        start = context[0].start if context else speech.start
        with self.context.metrics.measure("whisper.buffer_read"):
            audio = self.context.history.vad.read(Span(start, end))
        words = (*context, *speech.policy.committed), speech.policy.tentative
        decode = partial(self.decoder.decode, audio, start, language, *words, final=final)
        return self.context.metrics.measure("whisper.infer")(decode)

    def _final_decode(self, speech: Speech, end: int, language: str) -> Hypothesis:
        """Decode speech that has ended, behind the final words before it if that gives a likely text."""
        known, words = self.final_words
        longest = min(CONTEXT, samples(self.context.config.session.max_speech_s))
        near = [word for word in words if word.start >= end - longest]
        short = end - speech.start <= longest // 2
        if short and known == language and near and speech.start - near[-1].end <= CONTEXT_PAUSE:
            found = self._decoding(speech, end, language, near, final=True)()
            at = speech.start
            later = (replace(w, start=max(w.start, at), end=max(w.end, at)) for w in found.words[len(near) :])
            own = Hypothesis(tuple(later))
            likely = own.log_probability >= self.context.config.decoding.min_log_probability
            if not found.looped and len(own.words) > len(speech.policy.committed) and likely:
                return own
        return self._decoding(speech, end, language, final=True)()

    def _cut(self, speech: Speech) -> Speech:
        """Finish the first part of long speech, at a pause if there is one. Returns the rest."""
        gate = self.context.gate
        earliest = max(speech.committed_until, speech.start + MIN_SPEECH)
        reliable = self.detector.reliable_until(self.language)
        latest = max(min(reliable, self.context.history.received - CUT_LAG), earliest)
        pauses = [pause for pause in gate.pauses(Span(earliest, latest)) if pause.end <= latest]
        at = max(pauses, key=len).end if pauses else gate.quietest(Span(earliest, latest)) or latest
        self._finish(speech, max(at, earliest))
        return self._new_speech(self.final_until)

    def _finish(self, speech: Speech, end: int) -> None:
        """Make the running speech up to ``end`` a final segment."""
        self.final_until = max(end, speech.committed_until)
        self.speech = None
        if not self.context.config.decode or self.language is None:
            return
        words = self._last_words(speech, self.language)
        text = decoding.text_of(words)
        self.context.results.committed += decoding.joined(words[len(speech.policy.committed) :])
        if not decoding.is_meaningful(text):
            return
        self.context.counts.segments += 1
        known, before = self.final_words
        self.final_words = self.language, [*(before if known == self.language else ()), *words][-CONTEXT_WORDS:]
        times = seconds(words[0].start), seconds(words[-1].end)
        timed = decoding.segment_words(words, self.language)
        segment = SessionSegment(text, self.language, *times, True, decoding.confidence_of(words), timed)
        self.context.results.segments.append(segment)

    def _last_words(self, speech: Speech, language: str) -> Sequence[Word]:
        """The words of speech that has ended. Speech that they leave out is decoded again, or reported.

        The last hypothesis is used if it is of all the speech and clear.
        """
        end, committed, gate = self.final_until, speech.policy.committed, self.context.gate
        options = self.context.config.decoding
        if end - speech.start < MIN_SPEECH or end <= speech.committed_until:
            return committed  # a switch in the pause that ended the speech left nothing
        if gate.voiced_until <= min(speech.seen_until, end) and speech.policy.is_clear:
            words: Sequence[Word] = (*committed, *speech.policy.tentative)
            decoded = Span(speech.start, min(speech.seen_until, self.context.history.received))
            silence_s = options.trailing_silence_s
        else:
            words = self._final_decode(speech, end, language).words
            decoded = Span(speech.start, end)
            silence_s = options.silences_s(len(decoded))[0]
        if self.context.config.session.flag_language:
            self._check_language(decoded, language, silence_s)

        def decoded_alone(part: Span) -> Sequence[Word]:
            if len(part) < MIN_SPEECH:
                return ()
            return self._decoding(self._new_speech(part.start), part.end, language, final=True)().words

        span = Span(speech.committed_until, end)
        voiced = gate.voiced_frames(span)
        found, left = completed(words, voiced, span, decoded_alone, len(committed))
        short = len(voiced) * VAD_FRAME < FLAG_SPEECH and not committed
        if short and Hypothesis(tuple(found)).log_probability < INVENTED:
            found = []
        if not decoding.is_meaningful(decoding.text_of(found)) and len(voiced) * VAD_FRAME >= MIN_SPEECH:
            left = [Span(voiced[0], min(voiced[-1] + VAD_FRAME, end))]
        self.context.results.untranscribed.extend(left)
        self.context.counts.untranscribed += len(left)
        self.context.counts.untranscribed_samples += sum(map(len, left))
        return found

    def _check_language(self, span: Span, language: str, silence_s: float) -> None:
        """Flag speech that becomes a segment in ``language`` if another language of the model is likely.

        Speech that was decoded without context is encoded already. A language that is not allowed is logged once per
        stream; results and traces have every flag.
        """
        context = self.context
        if context.gate.voiced(span) < FLAG_SPEECH:
            return
        encoded = self.decoder.encoded(context.history.vad.read(span), span.start, silence_s)
        posterior = self.identifier.posterior(encoded.features)
        likeliest = int(posterior.argmax())
        code, probability = self.identifier.languages[likeliest], float(posterior[likeliest])
        if code == language or probability < FLAG_PROBABILITY:
            return
        outside = code not in context.languages
        context.results.flags.append(LanguageFlag(span, language, code, probability, outside))
        context.counts.language_flags += 1
        context.counts.language_outside += outside
        context.counts.language_outside_samples += outside * len(span)
        if outside and code not in self._warned:
            self._warned.add(code)
            logger.info(
                "speech at %.1f-%.1f s sounds like %s (probability %.2f), which is not an allowed language (%s); "
                "its text is not reliable",
                *(seconds(span.start), seconds(span.end), code, probability, ", ".join(context.languages)),
            )

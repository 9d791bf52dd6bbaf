"""When running speech is decoded, cut and made final, and what a language switch needs as proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.options import Options, option
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, seconds
from whisperlab.util.validation import shown

MIN_SPEECH = 3 * SAMPLE_RATE // 10  # samples below which audio contains no word worth decoding
WHISPER_S = seconds(MAX_WINDOW)

Policy = Literal["agreement", "alignatt"]


@dataclass(slots=True, frozen=True)
class SessionOptions(Options):
    """How running speech becomes final text.

    Text in another language is never a prompt: a switch drops the prompt, and it returns with its language. A change
    of language that has led for `whisperlab.streaming.smoothing.PATIENCE` of speech needs no proof by text; after
    twice that time it needs no proof at all. With ``parallel_ms`` results are used at fixed positions of the stream,
    so they do not depend on the machine.
    """

    GROUP: ClassVar[str] = "session"

    step_ms: int = option(1000, "time between two decodes of running speech, milliseconds", 100, 30_000)
    max_speech_s: float = option(
        10.0, "longest window that is decoded at once, seconds; longer speech is cut at a pause", 2, 28
    )
    policy: Policy = option(
        "agreement",
        "when words are final: 'agreement' of two decodes, or 'alignatt': one decode whose attention lies "
        "``attention_lag_ms`` or more behind the end",
    )
    attention_lag_ms: int = option(500, "distance of the attention from the end of the audio, milliseconds", 0, 30_000)
    preroll_ms: int = option(200, "audio kept before the first frame of speech, milliseconds", 0, 30_000)
    snap_ms: int = option(1000, "how far a boundary may move to the nearest pause, milliseconds", 0, 30_000)
    prompt_s: float = option(
        0.0,
        "a session starts with the last text in its language as prompt if that ended less than this ago; 0: never",
        0,
    )
    confirm_posterior: float = option(
        0.7, "probability of the new language since the boundary that confirms a switch; 0: not checked", 0, 1
    )
    confirm_text: float = option(
        0.1,
        "how much likelier the text must be in the new language (mean log-probability of a token) to confirm a "
        "switch; -inf: not checked",
    )
    share: bool = option(True, "a window that is needed for the proof of a switch and for a decode is encoded once")
    flag_language: bool = option(
        True, "check the language of each final segment against all languages of the model, and flag disagreement"
    )
    parallel_ms: int = option(
        0,
        "above 0: decode running speech in a second thread; the result is used so much later, milliseconds, or at a "
        "pause or a switch",
        0,
        30_000,
    )

    def check(self) -> None:
        """Raise ConfigurationError if a window could get longer than Whisper's 30 s."""
        if self.max_speech_s + self.step_ms / 1000 > WHISPER_S:
            raise ConfigurationError(
                f"session.max_speech_s and step_ms together must be at most {WHISPER_S:g} s, Whisper's window, "
                f"got {self.max_speech_s} and {shown(self.step_ms)}"
            )

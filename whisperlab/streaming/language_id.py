"""Language identification: Whisper's posterior at the start-of-transcript token, over the allowed languages.

Languages outside the allowed set are masked before the softmax. The model's preference for English (two thirds of its
training data; Radford et al. 2022, arXiv 2212.04356, appendix E) is subtracted, a log-prior can be added, and a
temperature calibrated on *dev* turns logits into probabilities. Only the vocabulary rows of the allowed languages are
computed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.model.engine import Decoder
from whisperlab.model.languages import language_code
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.util.errors import ConfigurationError, UnknownLanguageError
from whisperlab.util.options import Options, option
from whisperlab.util.timeline import LONGEST_MS
from whisperlab.util.validation import is_number, shown

Posterior = NDArray[np.float64]  # shape (languages,), sums to 1


def check_languages(languages: Sequence[str] | None, n_languages: int = 99) -> tuple[str, ...]:
    """Whisper's codes of the allowed set, in the order given, without repeats; None: all languages of the model.

    Names, regions and other codes are converted by `language_code`. Raises `UnknownLanguageError` for a language
    that Whisper, or this model, does not support.
    """
    known = tokenizer_for("en", n_languages).all_language_codes
    if languages is None:
        return tuple(sorted(known))
    if isinstance(languages, str) or not isinstance(languages, Collection) or not len(languages):
        raise ConfigurationError(f"languages needs a list of codes such as ['en', 'es'], got {shown(languages)}")
    codes = tuple(dict.fromkeys(map(language_code, languages)))
    for code in codes:
        if code not in known:
            other = "base" if n_languages == 1 else "large-v3"
            raise UnknownLanguageError(f"this model does not support {code!r}: use one that does, {other}")
    return codes


@dataclass(slots=True, frozen=True)
class LanguageIdOptions(Options, group="language_id"):
    """When language-ID evaluates a frame, and on which audio.

    The first window of a frame is the last ``window_ms`` of audio, whatever it contains. A frame is evaluated only
    during speech and after ``min_speech_ms`` of it. If the last pause ended ``min_speech_ms`` to ``onset_ms`` ago, the
    frame gets a second window that starts at the end of the pause: it holds only the new language after a switch.
    """

    hop_ms: int = option(100, "time between two language-ID frames, milliseconds", 10, 10_000)
    window_ms: int = option(2500, "audio of the first window, milliseconds", 100, 30_000)
    trailing_silence_ms: int = option(500, "silence appended to the first window, milliseconds", 0, 30_000)
    pool_after: int | None = option(
        3, "number of encoder blocks after which neighbouring positions are averaged in pairs; None: never", 0
    )
    min_speech_ms: int = option(600, "speech needed before a frame is evaluated, milliseconds", 0, LONGEST_MS)
    pause_ms: int = option(96, "length of a pause after which a second window can start, milliseconds", 32, 30_000)
    onset_ms: int = option(2000, "longest second window, milliseconds; 0: no second window", 0, 30_000)
    onset_trailing_silence_ms: int = option(500, "silence appended to the second window, milliseconds", 0, 30_000)
    onset_only_ms: int = option(
        800,
        "length from which a second window replaces the first, milliseconds; saves a quarter of the work",
        0,
        30_000,
    )
    temperature: float = option(1.0, "divisor of the logits; 1.0: calibration error 0.03 on *dev*", 0, exclusive=True)
    english_bias: float = option(
        3.0, "log-odds by which base overrates English, subtracted unless all languages are allowed", exclusive=True
    )
    confident_above: float = option(0.7, "probability of the current language from which it counts as confident", 0, 1)
    confident_hop_factor: int = option(
        5,
        "only every n-th frame is evaluated while the current language is confident. Otherwise a frame waits 0.3 s at "
        "most while that language leads, 0.2 s while another leads; 1: all",
        1,
        1000,
    )
    batch: int = option(1, "frames encoded together once the last is due: less work, later results", 1, 64)
    prior: Mapping[str, float] | None = option(None, "positive weights by language; languages not named weigh 1")


class LanguageIdentifier:
    """Posterior over the allowed languages from an encoded window."""

    def __init__(
        self,
        stack: Decoder,
        languages: tuple[str, ...],
        prior: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        n_languages: int = 99,
        english_bias: float = 0.0,
    ) -> None:
        tokenizer = tokenizer_for("en", n_languages)
        tokens = dict(zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True))
        self.languages = languages
        self._stack = stack
        self._sot = tokenizer.sot
        self._rows = torch.tensor([tokens[code] for code in languages], device=stack.device)
        self._temperature = temperature
        overrated = english_bias if len(languages) < n_languages else 0.0
        self._log_prior = log_prior(languages, prior) - overrated * (np.array(languages) == "en")

    def posterior(self, features: torch.Tensor) -> Posterior:
        """Probability of each allowed language, in the order of ``languages``, from features (positions, state)."""
        return softmax(self.logits(features) / self._temperature + self._log_prior)

    def logits(self, features: torch.Tensor) -> NDArray[np.float64]:
        """The model's logit of each allowed language, without prior and temperature."""
        return self._stack.language_logits(features, self._sot, self._rows)


def log_prior(languages: Sequence[str], prior: Mapping[str, float] | None) -> NDArray[np.float64]:
    """Log of a prior given as positive weights; languages not named weigh 1."""
    prior = {language_code(name): weight for name, weight in (prior or {}).items()}
    for code, weight in prior.items():
        if code not in languages:
            raise ConfigurationError(f"the prior names {shown(code)}, which is not among the allowed languages")
        if not (is_number(weight) and weight > 0):
            raise ConfigurationError(f"the prior of {code!r} must be a positive number, got {shown(weight)}")
    return np.log([prior.get(code, 1.0) for code in languages])


def softmax(logits: NDArray[np.float64]) -> Posterior:
    """Probabilities from logits, safe for large values."""
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())

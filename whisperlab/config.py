"""TranscriberConfig: every option of a transcriber in one frozen record, by dotted names; JSON in and out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import itemgetter
from typing import Literal, Self, cast

from whisperlab.cache import KEYS, MAX_PRECISION
from whisperlab.model.languages import CODES, language_code
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.false_switches import SwitchOptions
from whisperlab.streaming.language_id import LanguageIdOptions, check_languages
from whisperlab.streaming.smoothing import SmoothingOptions
from whisperlab.streaming.vad import VadOptions
from whisperlab.util.errors import ConfigurationError, UnknownLanguageError
from whisperlab.util.json_values import JsonValue
from whisperlab.util.options import Option, Options, described, flat, nested, option, plain
from whisperlab.util.threads import MOST_THREADS, THREADS
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, seconds
from whisperlab.util.validation import check_type, shown

Policy = Literal["agreement", "alignatt"]
EngineName = Literal["whisperlab", "ctranslate2"]


@dataclass(slots=True, frozen=True)
class SessionOptions(Options, group="session"):
    """How running speech becomes final text.

    Earlier text is never a prompt. A change of language that has led for `whisperlab.streaming.smoothing.PATIENCE` of
    speech needs no proof by text; after twice that time it needs no proof at all.
    """

    step_ms: int = option(1000, "time between two decodes of running speech, milliseconds", 100, 30_000)
    max_speech_s: float = option(10.0, "longest window of a decode, seconds; longer speech is cut at a pause", 2, 28)
    policy: Policy = option(
        "agreement",
        "when words are final: 'agreement' of two decodes, or 'alignatt': one decode whose attention lies "
        "``attention_lag_ms`` or more behind the end",
    )
    attention_lag_ms: int = option(500, "distance of the attention from the end of the audio, milliseconds", 0, 30_000)
    commit_above: float = option(
        0.5,
        "mean token probability from which a word is committed while its speech runs; less likely words, and those "
        "after them, wait ``commit_wait_s``. 0: no word waits; 1: all wait",
        0,
        1,
    )
    commit_wait_s: float = option(
        3.0, "how far behind the newest audio such words are committed, or at the end of the speech, seconds", 0, 30
    )
    preroll_ms: int = option(200, "audio kept before the first frame of speech, milliseconds", 0, 30_000)
    snap_ms: int = option(1500, "how far a boundary may move to a pause at most, milliseconds", 0, 30_000)
    confirm_posterior: float = option(0.7, "probability of the new language that confirms a switch; 0: any", 0, 1)
    confirm_text: float = option(
        0.1,
        "how much likelier the text must be in the new language (mean log-probability of a token) to confirm a "
        "switch; -inf: not checked",
    )
    share: bool = option(True, "a window that is needed for the proof of a switch and for a decode is encoded once")
    flag_language: bool = option(True, "check final segments against all languages of the model, flag disagreement")
    parallel_ms: int = option(
        0, "above 0: decode running speech in a second thread and use the result so much later, ms", 0, 30_000
    )

    def check(self) -> None:
        if self.max_speech_s + self.step_ms / 1000 > seconds(MAX_WINDOW):
            limit = f"must be at most {seconds(MAX_WINDOW):g} s, Whisper's window"
            given = f"{self.max_speech_s} and {shown(self.step_ms)}"
            raise ConfigurationError(f"session.max_speech_s and step_ms together {limit}, got {given}")


@dataclass(slots=True, frozen=True)
class CacheOptions(Options, group="cache"):
    """The encoder cache in front of language-ID (`whisperlab.cache.EncoderCache`)."""

    size: int = option(50, "most entries; 50 are 5 s of language-ID at 10 Hz", 0)
    hash_precision: int = option(6, "decimals that the 'rounded' key keeps", 0, MAX_PRECISION)
    key: str = option(
        "similar", f"what makes two windows equal: {', '.join(KEYS)} (docs/results.md has hits and false hits of each)"
    )
    shadow_rate: float = option(0.0, "share of the hits that are recomputed to measure false hits", 0, 1)

    def check(self) -> None:
        if self.key not in KEYS:
            raise ConfigurationError(f"cache.key must be one of {', '.join(KEYS)}, got {shown(self.key)}")


@dataclass(slots=True, frozen=True)
class ComputeOptions(Options, group="compute"):
    """Where and how the network runs."""

    engine: EngineName = option("whisperlab", "our own network, or 'ctranslate2', that of faster-whisper")

    device: str | None = option(None, "'cpu' or 'cuda'; None: the CPU")
    precision: str | None = option(
        None, "'fp32', 'bf16' or 'int8'; None: for encoder and decoder the fastest here that does no harm to the text"
    )
    compiled: bool = option(
        False, "run the encoder of whisperlab as compiled code in fp32 or bf16, made first in one or two minutes"
    )
    threads: int = option(THREADS, "compute threads; torch's own setting is restored after each call", 1, MOST_THREADS)

    def check(self) -> None:
        if self.compiled and self.engine != "whisperlab":
            raise ConfigurationError(f"compute.compiled needs the engine whisperlab, got {shown(self.engine)}")


@dataclass(slots=True, frozen=True)
class MonitoringOptions(Options, group="monitoring"):
    """Warnings and log lines. The limits of the performance guide (docs/guide.md) are 10 ms and 0.4."""

    lid_p95_limit_ms: float | None = option(None, "warn if the p95 of `lid.total` exceeds this; None: never")
    hit_rate_limit: float | None = option(None, "warn if the cache hit rate is below this; None: never")
    enable_logging: bool = option(False, "log a summary of the latencies regularly")
    log_interval_s: float = option(300.0, "time between two summaries or two warnings, seconds")


@dataclass(slots=True, frozen=True)
class TranscriberConfig(Options):
    """Every option of `whisperlab.SessionRestartTranscriber`.

    ``language`` fixes the language: no language-ID runs. ``oracle`` gives the language switches as (seconds, language)
    pairs from 0 on, for upper bounds in experiments. They exclude each other, and ``languages``.

    >>> config = TranscriberConfig(languages=("en", "es")).replace({"language_id.window_ms": 2000})
    >>> config.changes()
    {'languages': ['en', 'es'], 'language_id': {'window_ms': 2000}}
    >>> TranscriberConfig.from_json(config.to_json()) == config
    True
    """

    languages: tuple[str, ...] | None = option(None, "allowed languages; None: all that the model knows")
    sampling_rate: int = option(SAMPLE_RATE, "samples per second of the chunks; resampled to 16000", 1000, 1_000_000)
    language: str | None = option(None, "the only language of the audio: language-ID does not run")
    oracle: tuple[tuple[float, str], ...] | None = option(None, "the language switches as (seconds, language) pairs")
    decode: bool = option(True, "False: only voice activity and language-ID run, and switches need no text")
    vad: VadOptions = VadOptions()
    language_id: LanguageIdOptions = LanguageIdOptions()
    smoothing: SmoothingOptions = SmoothingOptions()
    switch: SwitchOptions = SwitchOptions()
    decoding: DecodingOptions = DecodingOptions()
    session: SessionOptions = SessionOptions()
    cache: CacheOptions = CacheOptions()
    compute: ComputeOptions = ComputeOptions()
    monitoring: MonitoringOptions = MonitoringOptions()

    def __post_init__(self) -> None:
        if self.languages is not None:
            object.__setattr__(self, "languages", check_languages(self.languages, len(CODES)))
        if self.language is not None:
            check_type("language", self.language, str | None)
            object.__setattr__(self, "language", language_code(self.language))
        if self.oracle is not None:
            object.__setattr__(self, "oracle", _switches(self.oracle))
        Options.__post_init__(self)

    def check(self) -> None:
        for name, group in GROUPS.items():
            if not isinstance(getattr(self, name), group):
                raise ConfigurationError(f"{name} must be {group.__name__}, got {shown(getattr(self, name))}")
        given = [name for name in ("languages", "language", "oracle") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(f"{' and '.join(given[-2:])} exclude each other")

    @property
    def mode(self) -> str:
        """How the language is known: ``'forced'`` (given), ``'oracle'`` (given with switches) or ``'auto'``."""
        return "forced" if self.language is not None else "oracle" if self.oracle is not None else "auto"

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """Every option by its dotted name."""
        grouped = {f"{group}.{name}": known for group in GROUPS for name, known in described(GROUPS[group]).items()}
        return {**described(cls), **grouped}

    @classmethod
    def from_json(cls, value: Mapping[str, object] | str) -> Self:
        """From JSON, nested or dotted; missing options have defaults. Raises ConfigurationError."""
        if isinstance(value, str):
            value = json.loads(value)
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"a configuration is an object of options, got {shown(value)}")
        return cls().replace(flat(value))

    def replace(self, options: Mapping[str, object]) -> Self:
        """A copy with other values of some options, given by their dotted names or as groups."""
        own: dict[str, object] = {}
        grouped: dict[str, dict[str, object]] = {}
        for name, value in options.items():
            group, _, inner = name.partition(".")
            if group in GROUPS and (inner or isinstance(value, Mapping)):
                given = {inner: value} if inner else cast("Mapping[str, object]", value)
                grouped.setdefault(group, {}).update({key: _frozen(item) for key, item in given.items()})
            else:
                own[name] = _frozen(value)
        known = {*self.options(), *GROUPS}
        names = [*own, *(f"{group}.{name}" for group, given in grouped.items() for name in given)]
        if unknown := [name for name in names if name not in known]:
            raise ConfigurationError(f"unknown option {', '.join(unknown)}; {_nearest(unknown[0])}")
        for group, given in grouped.items():
            own[group] = replace(own.get(group, getattr(self, group)), **given)  # type: ignore[type-var]
        return replace(self, **own)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, JsonValue]:
        """All options, nested by group, as JSON values. `from_json` reads it."""
        return cast("dict[str, JsonValue]", plain(asdict(self)))

    def changes(self) -> dict[str, JsonValue]:
        """The options that differ from their defaults, nested by group."""
        base = flat(TranscriberConfig().to_json())
        return nested({name: value for name, value in flat(self.to_json()).items() if value != base[name]})


GROUPS = {each.name: type(each.default) for each in fields(TranscriberConfig) if isinstance(each.default, Options)}


def _switches(oracle: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    try:
        times = tuple((float(time_s), language_code(code)) for time_s, code in oracle)
    except UnknownLanguageError:
        raise
    except (TypeError, ValueError, OverflowError):
        times = ()
    if not (times and times[0][0] == 0 and times == tuple(sorted(times, key=itemgetter(0)))):
        raise ConfigurationError(f"oracle needs (seconds, language) pairs in order, from 0 on, got {shown(oracle)}")
    return times


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    known = list(TranscriberConfig.options())
    close = get_close_matches(name, known, 3, 0.5) or [each for each in known if each.endswith(name)]
    return f"similar options: {', '.join(close)}" if close else "TranscriberConfig.options() lists all"


def _frozen(value: object) -> object:
    """A JSON value as the record holds it: lists become tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

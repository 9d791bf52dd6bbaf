"""The variants of an ablation: the reference pipeline, the default, and the default with one option changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from whisperlab.config import TranscriberConfig
from whisperlab.experiments.reference_pipeline import reference_transcriber
from whisperlab.experiments.systems import select
from whisperlab.model.weights import Weights, load_model, load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.transcriber import SessionRestartTranscriber

if TYPE_CHECKING:
    from whisper.model import Whisper

BEFORE, GUIDE, DEFAULT = "before", "guide", "default"


class Models:
    """The model in both forms, each loaded on first use, and the allowed languages; the same for all variants."""

    def __init__(self, name: str, languages: Sequence[str] = ()) -> None:
        self.name, self.languages = name, tuple(languages)

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.name)

    @cached_property
    def whisper(self) -> Whisper:
        return load_model(self.name)


@dataclass(slots=True, frozen=True)
class Variant:
    """One way to run the pipeline.

    ``kind`` is ``before`` for the reference pipeline and ``guide`` for the guide's design. It is ``default`` for the
    default options, ``off`` if one optimisation is removed or replaced, and ``on`` if an optional one is added.
    """

    name: str
    kind: Literal["before", "guide", "default", "off", "on"]
    description: str
    options: Mapping[str, object] = field(default_factory=dict)  # by dotted name
    parts: Parts = Parts()

    @property
    def config(self) -> TranscriberConfig:
        return TranscriberConfig().replace(self.options)

    def transcriber(self, models: Models) -> SessionRestartTranscriber:
        if self.kind in ("before", "guide"):
            return reference_transcriber(models.whisper, models.languages, guide=self.kind == "guide")
        return SessionRestartTranscriber(models.weights, models.languages, config=self.config, parts=self.parts)


_PADDED = {
    "language_id.trailing_silence_ms": 27_500,
    "language_id.onset_trailing_silence_ms": 28_000,
    "decoding.trailing_silence_s": [30.0],
}
_EVERY_HOP = {"language_id.confident_hop_factor": 1}
_BOTH_WINDOWS = {"language_id.onset_only_ms": 30_000}
_IN_SILENCE_TOO = Parts(frame_due=lambda probe: probe.context.history.received >= probe.window)
_UNSHARED = "the check of the language and the decoding encode separately"
_UNGATED = "every 100 ms, in silence too, both windows"

_VARIANTS = (
    Variant(BEFORE, "before", "np.concatenate, every frame padded to 30 s, no cache, fp32, openai-whisper's modules"),
    Variant(GUIDE, "guide", "the same with the guide's ring buffers and its cache of rounded audio"),
    Variant(DEFAULT, "default", "whisperlab with its defaults"),
    Variant("without short windows", "off", "language-ID and decoding padded to 30 s", _PADDED),
    Variant("without bfloat16", "off", "products in 32-bit floats", {"compute.precision": "fp32"}),
    Variant("with int8", "off", "products in 8 bits, in the encoder too", {"compute.precision": "int8"}),
    Variant("without pooling", "off", "all positions through all blocks", {"language_id.pool_after": None}),
    Variant("without onset windows", "off", "the last 2.5 s only", {"language_id.onset_ms": 0}),
    Variant("always both windows", "off", "2.5 s and the speech since the last pause", _BOTH_WINDOWS),
    Variant("without adaptive hop", "off", "every 100 ms of speech", _EVERY_HOP),
    Variant("without the cache", "off", "no answer is reused", {"cache.size": 0}),
    Variant("without gating", "off", _UNGATED, {**_EVERY_HOP, **_BOTH_WINDOWS}, _IN_SILENCE_TOO),
    Variant("without sharing", "off", _UNSHARED, {"session.share": False}),
    Variant("with batches of 3", "on", "frames encoded three at a time", {"language_id.batch": 3}),
    Variant("in parallel", "on", "decoding in a second thread, one core each", {"session.parallel_ms": 400}),
    Variant("compiled", "on", "the encoder compiled ahead of time", {"compute.compiled": True}),
    Variant("on two threads", "on", "two compute threads for each operator", {"compute.threads": 2}),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}
SLOW = (BEFORE, GUIDE, "without short windows")  # slower than real time: not run on whole recordings


def select_variants(names: Iterable[str] | None) -> list[Variant]:
    """The variants whose name contains one of the given texts, with before, guide and default; all if None.

    >>> [variant.name for variant in select_variants(["int8"])]
    ['before', 'guide', 'default', 'with int8']
    """
    wanted = None if names is None else [*names, BEFORE, GUIDE, DEFAULT]
    return [VARIANTS[name] for name in select(wanted, VARIANTS, "variant")]

"""The variants of an ablation: the reference pipeline, the default, and the default with one option changed.

The reference pipeline is live transcription before any optimisation, the guide's "before": ``np.concatenate``, windows
padded to 30 s, plain torch in float32, the whole vocabulary for every token, every language-ID hop, no cache. Its
decisions are those of `SessionRestartTranscriber`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from whisperlab.buffer import RingBuffer
from whisperlab.config import TranscriberConfig
from whisperlab.model.encoder import Network, ShortWindowEncoder
from whisperlab.model.engine import Engine
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import Weights, load_weights
from whisperlab.streaming.assembly import Parts
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, as_chunk
from whisperlab.util.errors import ConfigurationError

BEFORE, GUIDE, DEFAULT = "before", "guide", "default"


@dataclass(frozen=True)
class Models:
    """The model, loaded on first use, and the allowed languages; the same for all variants."""

    name: str
    languages: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.name)


@dataclass(slots=True, frozen=True)
class Variant:
    """One way to run the pipeline."""

    name: str
    # the reference pipeline; the guide's design; default options; one optimisation removed or replaced; one added
    kind: Literal["before", "guide", "default", "off", "on"]
    description: str
    options: Mapping[str, object]  # by dotted name
    parts: Parts

    @property
    def config(self) -> TranscriberConfig:
        return TranscriberConfig().replace(self.options)

    def transcriber(self, models: Models, config: TranscriberConfig | None = None) -> SessionRestartTranscriber:
        config = config or self.config
        return SessionRestartTranscriber(models.weights, models.languages, config=config, parts=self.parts)


class ConcatenatedBuffer(RingBuffer):
    """The newest ``capacity`` samples in an array that every append copies; otherwise like `RingBuffer`."""

    __slots__ = ()

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._data = np.array([], dtype=np.float32)
        self._memory = None  # frees the ring

    def append(self, samples: npt.ArrayLike) -> None:
        chunk = as_chunk(samples)
        end = self.end + len(chunk)
        self.overruns += len(chunk) > 0 and end - self._consumed_until > self.capacity
        self._data = np.concatenate([self._data, chunk])[-self.capacity :]
        self._writing_until = self.end = end

    def _copy_out(self, start: int, n: int) -> FloatArray:
        first = start - (self.end - len(self._data))
        return self._data[first : first + n].copy()


def plain_engine(weights: Weights, *_: object) -> Engine:
    """The network in plain torch; the decoder projects the whole vocabulary for every token."""
    network = Network(weights, "fp32", fast=False)
    return ShortWindowEncoder(weights, network=network), TextDecoder(weights, fast=False)


# Names, descriptions and options are in ``variants.json``.
_PARTS = {
    BEFORE: Parts(engine=plain_engine, buffer=ConcatenatedBuffer),
    GUIDE: Parts(engine=plain_engine),
    "without gating": Parts(frame_due=lambda probe: probe.context.history.received >= probe.window),
}
_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
VARIANTS = {name: Variant(name, **known, parts=_PARTS.get(name, Parts())) for name, known in _TABLE.items()}
SLOW = (BEFORE, GUIDE, "without short windows")  # slower than real time: not run on whole recordings


def select_variants(parts: Iterable[str] | None) -> list[Variant]:
    """The variants whose name contains one of the given texts, with before, guide and default; all if None.

    Raises ConfigurationError for a text that is in no name.

    >>> [variant.name for variant in select_variants(["int8"])]
    ['before', 'guide', 'default', 'with int8']
    """
    wanted = [""] if parts is None else [*parts, BEFORE, GUIDE, DEFAULT]
    for part in wanted:
        if not any(part in name for name in VARIANTS):
            raise ConfigurationError(f"no variant is named {part!r}; there are: {'; '.join(VARIANTS)}")
    return [one for name, one in VARIANTS.items() if any(part in name for part in wanted)]

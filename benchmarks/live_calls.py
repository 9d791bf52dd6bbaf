"""The calls that a live stream makes to the network, recorded and replayed on models of any dimensions.

`recorded` wraps the methods of encoder and decoder while a transcriber runs. A `Player` makes the same calls on another
engine: the same samples, positions, tokens, texts and order, with noise as content. `units` are stretches of calls to
sample: an encoder window with the language-ID pass on it, or a decode from the opening of its state to its last choice.
The time of a call does not depend on the values of weights and inputs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch

from whisperlab import SessionRestartTranscriber, data
from whisperlab.data import Recording
from whisperlab.model.checkpoints import tensor_shapes
from whisperlab.model.encoder import Encoded, ShortWindowEncoder
from whisperlab.model.engine import prepared
from whisperlab.model.linear import check_precision
from whisperlab.model.text_decoder import TextDecoder
from whisperlab.model.weights import URLS, Weights, alignment_heads, load_weights
from whisperlab.util.threads import torch_threads
from whisperlab.util.timeline import MAX_WINDOW, SAMPLE_RATE, samples
from whisperlab.util.timing import feed

CORPORA = ("ivr-five", "ivr-en-es")
CHUNK = SAMPLE_RATE // 10
WARM_UP_S = 10.0  # of audio before a recording is measured: generated code, buffers
STAGES = ("encoder, language-ID", "encoder, text", "language-ID pass", "cross keys/values", "decoder", "vocabulary")

Kind = Literal["encode", "language", "open", "extend", "likeliest", "rewind", "keep"]


@dataclass(slots=True, frozen=True)
class Call:
    """One call; fields that its kind does not have are zero."""

    kind: Kind
    audio: int = 0  # samples of a window
    silence: int = 0  # samples appended to it
    pooled: bool = False
    positions: int = 0  # of the encoded window
    n: int = 0  # extend: tokens of all texts; likeliest: hidden states; rewind: tokens kept; language: languages
    texts: tuple[int, ...] = (0,)  # keep: those kept; open, extend: one entry per text
    start: int = 0  # tokens of each text in the state before
    best: int = 0  # likeliest: choices per hidden state
    masked: bool = False
    aligned: bool = False  # extend: attention is kept for word times
    live_s: float = 0.0  # processor time in the recorded run

    @property
    def stage(self) -> str:
        by_kind = {"language": STAGES[2], "open": STAGES[3], "likeliest": STAGES[5]}
        return STAGES[not self.pooled] if self.kind == "encode" else by_kind.get(self.kind, STAGES[4])


@dataclass(slots=True, frozen=True)
class LiveRun:
    """The calls of live streams, and the processor time of all that the transcriber did."""

    calls: list[Call]
    audio_s: float
    processor_s: float

    @property
    def rest_s(self) -> float:
        """Processor seconds per second of audio outside the calls: voice activity, search, word times, buffers."""
        return (self.processor_s - sum(call.live_s for call in self.calls)) / self.audio_s

    @property
    def cost(self) -> dict[str, float]:
        """Processor seconds per second of audio in the recorded run, by stage."""
        return {stage: sum(c.live_s for c in self.calls if c.stage == stage) / self.audio_s for stage in STAGES}


def _encode(encoder: ShortWindowEncoder, windows: Sequence[Any], margin: int, pool_after: int | None = None) -> Call:
    (window,) = windows  # by default language-ID does not batch frames
    return Call("encode", audio=len(window), silence=margin, pooled=pool_after is not None)


def _language(decoder: TextDecoder, features: torch.Tensor, sot: int, rows: torch.Tensor) -> Call:
    return Call("language", positions=len(features), n=len(rows))


def _open(decoder: TextDecoder, encoded: Encoded, n_texts: int = 1) -> Call:
    return Call("open", positions=len(encoded.features), texts=tuple(range(n_texts)))


def _extend(decoder: TextDecoder, state: Any, tokens: Sequence[int], *, keep_alignment: bool = False) -> Call:
    texts, positions = tuple(range(state.n_texts)), state.cross[0][1].shape[1]
    start = state.n_tokens
    return Call("extend", positions=positions, n=len(tokens), texts=texts, start=start, aligned=keep_alignment)


def _likeliest(
    decoder: TextDecoder, hidden: torch.Tensor, mask: Any, n: int, blank: Sequence[int] = (), n_first: int = 0
) -> Call:
    return Call("likeliest", n=len(hidden), best=n, masked=mask is not None)


def _rewind(decoder: TextDecoder, state: Any, n_tokens: int) -> Call:
    return Call("rewind", n=n_tokens)


def _keep(decoder: TextDecoder, state: Any, texts: Sequence[int]) -> Call:
    return Call("keep", texts=tuple(texts))


_WRAPPED: dict[tuple[type, str], Callable[..., Call]] = {
    (ShortWindowEncoder, "encode_batch"): _encode,
    (TextDecoder, "language_logits"): _language,
    (TextDecoder, "open"): _open,
    (TextDecoder, "extend"): _extend,
    (TextDecoder, "likeliest"): _likeliest,
    (TextDecoder, "rewind"): _rewind,
    (TextDecoder, "keep"): _keep,
}


@contextmanager
def recording_calls() -> Iterator[list[Call]]:
    """Append every call of any encoder and decoder to the list, with its processor time."""
    calls: list[Call] = []

    def wrapped(method: Callable[..., Any], describe: Callable[..., Call]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            described, began = describe(*args, **options), time.process_time()
            result = method(*args, **options)
            took = time.process_time() - began
            object.__setattr__(described, "live_s", took)
            calls.append(described)
            return result

        return call

    with ExitStack() as stack:
        for (owner, name), describe in _WRAPPED.items():
            stack.enter_context(patch.object(owner, name, wrapped(getattr(owner, name), describe)))
        yield calls


def first_recordings(split: str = "dev") -> list[Recording]:
    """The first recording of each corpus."""
    return [data.load(corpus, split)[0] for corpus in CORPORA]


def recorded(weights: Weights, recordings: Sequence[Recording], limit_s: float | None = None) -> LiveRun:
    """Run each recording live, one thread, defaults, its own languages allowed; after a warm-up on its beginning."""
    every, audio_s, processor_s = list[Call](), 0.0, 0.0
    with torch_threads(1):
        for recording in recordings:
            audio = recording.audio()[: samples(limit_s) if limit_s else None]
            transcriber = SessionRestartTranscriber(weights, languages=sorted(recording.languages))
            for _ in feed(transcriber, audio[: samples(WARM_UP_S)], CHUNK):
                pass
            transcriber.reset()
            with recording_calls() as calls:
                began = time.process_time()
                for _ in feed(transcriber, audio, CHUNK):
                    pass
                processor_s += time.process_time() - began
            every += calls
            audio_s += len(audio) / SAMPLE_RATE
    return LiveRun(every, audio_s, processor_s)


def saved_or_recorded(path: Path | None, say: Callable[[str], None] = print) -> LiveRun:
    """The live run that a file holds; otherwise the first recordings with base, kept in the file if one is named."""
    if path and path.exists():
        found = json.loads(path.read_text("utf-8"))
        calls = [Call(**{**call, "texts": tuple(call["texts"])}) for call in found.pop("calls")]
        return LiveRun(calls, **found)
    recordings = first_recordings()
    say(f"recording the calls of base on {', '.join(recording.id for recording in recordings)}")
    run = recorded(load_weights("base"), recordings)
    if path:
        path.write_text(json.dumps(asdict(run)), "utf-8")
    return run


def units(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls in stretches, each of which begins with a window to encode or with the state of a decode."""
    found: list[list[Call]] = []
    for call in calls:
        if call.kind in ("encode", "open") or not found:
            found.append([])
        found[-1].append(call)
    return found


def sampled(every: Sequence[list[Call]], step: int) -> list[list[Call]]:
    """Every ``step``-th unit of those that begin with the same stage, in their order."""
    seen: dict[str, int] = dict.fromkeys(STAGES, 0)
    kept = []
    for unit in every:
        stage = unit[0].stage
        if seen[stage] % step == 0:
            kept.append(unit)
        seen[stage] += 1
    return kept


class RandomState(Mapping[str, torch.Tensor]):
    """Tensors of a model in float16, made of repeated noise when they are read: the state itself takes 2 MB."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        self._shapes = dict(tensor_shapes(dims))
        self._noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).half()

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        n = int(np.prod(shape))
        return self._noise.repeat(-(-n // len(self._noise)))[:n].view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_weights(name: str, dims: Mapping[str, int]) -> Weights:
    """Weights of these dimensions without meaning. The name of a model decides the alignment heads."""
    heads = alignment_heads(name if name in URLS else None, dims["n_text_layer"], dims["n_text_head"])
    return Weights(name, dims, RandomState(dims), heads, torch.device("cpu"))


class Player:
    """Makes recorded calls on a model. Calls of a decode need those before them, from its `open` on."""

    def __init__(self, weights: Weights, pool_after: int = 3) -> None:
        self.encoder, decoder = prepared(weights)
        other, dims = check_precision(None, weights.device, "language-ID"), weights.dims
        self.for_language = self.encoder if other == self.encoder.precision else prepared(weights, other)[0]
        assert isinstance(decoder, TextDecoder)
        self.decoder, self.dims = decoder, dims
        self._pool_after = min(pool_after, dims["n_audio_layer"] - 1)
        rng = np.random.default_rng(0)
        self._audio = rng.normal(0, 0.1, MAX_WINDOW).astype(np.float32)
        self._tokens = rng.integers(0, 50_000, 4096).tolist()
        self._mask = torch.zeros(dims["n_vocab"])
        self._mask[::500] = -torch.inf

    def ready(self, call: Call) -> Callable[[], object]:
        """The call with its inputs, which are made before it."""
        if call.kind == "encode":
            window, encoder = self._audio[: call.audio], self.for_language if call.pooled else self.encoder
            return lambda: encoder.encode(window, call.silence, self._pool_after if call.pooled else None)
        if call.kind == "language":
            features, rows = self.features(call.positions, self.for_language), torch.arange(50_259, 50_259 + call.n)
            return lambda: self.decoder.language_logits(features, 50_258, rows)
        if call.kind == "open":
            encoded = Encoded(self.features(call.positions), call.positions)

            def opened() -> None:
                self._state = self.decoder.open(encoded, len(call.texts))

            return opened
        if call.kind == "extend":
            tokens = self._tokens[: call.n]
            return lambda: self.decoder.extend(self._state, tokens, keep_alignment=call.aligned)
        if call.kind == "likeliest":
            hidden, mask = torch.randn(call.n, self.dims["n_text_state"]), self._mask if call.masked else None
            return lambda: self.decoder.likeliest(hidden, mask, call.best)
        if call.kind == "rewind":
            return lambda: self.decoder.rewind(self._state, call.n)
        return lambda: self.decoder.keep(self._state, call.texts)

    def play(self, unit: Sequence[Call]) -> dict[str, float]:
        """Make the calls; processor seconds by stage."""
        spent = dict.fromkeys(STAGES, 0.0)
        with torch.inference_mode():
            for call in unit:
                run = self.ready(call)
                began = time.process_time()
                run()
                spent[call.stage] += time.process_time() - began
        return spent

    def features(self, positions: int, encoder: ShortWindowEncoder | None = None) -> torch.Tensor:
        """Features of a window, of noise."""
        kind = torch.bfloat16 if (encoder or self.encoder).precision == "bf16" else torch.float32
        return torch.randn(positions, self.dims["n_audio_state"]).to(kind)

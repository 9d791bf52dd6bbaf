"""The floor of a live stream: operations and bytes against what one core of this machine can do.

    python -m benchmarks.floor                                # records a live run of base first
    python -m benchmarks.floor --calls calls.json             # records once; later runs read the file
    python -m benchmarks.floor --calls calls.json --compiled  # also the compiled encoder: minutes
    python -m benchmarks.floor --json floor.json

*Operations* are multiplications and additions of all products and of attention, counted from the recorded calls and
the dimensions, without padding of rows. *Bytes* are the weights that each call reads once, and the decoder's keys and
values. The floor of a stage is the longer of operations / peak and bytes / bandwidth of memory. The peak is the best of
oneDNN's products at the encoder's shapes and at 1024 x 1024 x 1024. The measured time is that of a sample of the
recorded calls, in turns with the products that give the peak, by processor time. *In the cache* is the floor with the
bandwidth of the cache: a stage can be faster than the floor from memory if its weights stay in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.frame_cost import encoder_flop
from benchmarks.live_calls import STAGES, Call, LiveRun, Player, random_weights, sampled, saved_or_recorded, units
from benchmarks.sizes import ENGLISH, LANGUAGE_ID, SIZES, Size, resident
from whisperlab.model.compiled_encoder import compiled_encoder
from whisperlab.model.encoder import Encoded, ShortWindowEncoder, positions
from whisperlab.model.engine import Engine, prepared
from whisperlab.model.linear import Precision, check_precision, packed_linear
from whisperlab.model.text_decoder import SHORTLIST, TextDecoder
from whisperlab.model.weights import Weights, load_weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.process import provenance
from whisperlab.util.statistics import Figure, median_interval, ratio
from whisperlab.util.text_table import text_table, with_interval
from whisperlab.util.threads import torch_threads
from whisperlab.util.timeline import MAX_WINDOW, samples
from whisperlab.util.timing import Times, time_in_turns

POOL_AFTER = 3
SQUARE = 1024
SHAPES = ((160, 512, 2048), (160, 2048, 512), (160, 512, 1536), (SQUARE, SQUARE, SQUARE))  # rows, inputs, outputs
MEMORY_MB, CACHE_MB = 512, 8
READ_MB = (MEMORY_MB, 32, CACHE_MB)  # 32 MB is all of the cache, which others use too
WINDOWS = {"2.5 + 0.5 s, pooled": (2.5, 0.5, POOL_AFTER), "4 + 1 s": (4.0, 1.0, None)}
TOGETHER = 4  # windows in a batch
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
STREAMS = 8  # that decode together in the bound
NARROW = 64  # channels of a network that computes next to nothing
CONTEXT = 20  # tokens in the measured decoder states
LANGUAGE_PRECISION = check_precision(None, torch.device("cpu"), "language-ID")


@dataclass(slots=True, frozen=True)
class Work:
    """Operations by the type of number that the package uses for them, and bytes read."""

    bf16: float = 0.0
    int8: float = 0.0
    fp32: float = 0.0
    n_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        sums = (getattr(self, name) + getattr(other, name) for name in ("bf16", "int8", "fp32", "n_bytes"))
        return Work(*sums)


def work(
    call: Call, dims: Mapping[str, int], pool_after: int = POOL_AFTER, language: Precision = LANGUAGE_PRECISION
) -> Work:
    """What a call has to compute and to read: a bf16 encoder, an int8 decoder, attention of the decoder in fp32.

    ``language`` is the precision of the encoder for language-ID; in int8 its convolutions and attention count too.
    """
    state, layers, vocabulary = dims["n_text_state"], dims["n_text_layer"], dims["n_vocab"]
    if call.kind == "encode":
        n = positions(min(call.audio + call.silence, MAX_WINDOW))
        convolutions = 3 * dims["n_audio_state"] * (dims["n_mels"] + dims["n_audio_state"])
        weights = convolutions + dims["n_audio_layer"] * 12 * dims["n_audio_state"] ** 2
        flop = encoder_flop(dims, n, pool_after if call.pooled else None)
        if call.pooled and language == "int8":
            return Work(int8=flop, n_bytes=weights)
        return Work(bf16=flop, n_bytes=2 * weights)
    cross, block = 2 * layers * state**2, 14 * layers * state**2
    if call.kind == "open":
        return Work(int8=2.0 * call.positions * cross, n_bytes=cross)
    if call.kind == "language":  # products of the query of each head with the window, without keys and values
        heads = dims["n_text_head"]
        attention = 2 * heads * call.positions * state * layers
        computed = Work(int8=2.0 * (heads * cross + block), fp32=2.0 * (attention + call.n * state))
        return computed + Work(n_bytes=cross + block)
    if call.kind == "extend":
        each = call.n // len(call.texts)
        seen = len(call.texts) * (each * call.start + each * (each + 1) // 2) + call.n * call.positions
        held = (len(call.texts) * (call.start + each) + call.positions) * 2 * state * layers
        return Work(int8=2.0 * call.n * block, fp32=2.0 * seen * 2 * state * layers, n_bytes=block + 4 * held)
    if call.kind == "likeliest":
        listed = call.n * SHORTLIST * state
        return Work(int8=2.0 * call.n * vocabulary * state, fp32=2.0 * listed, n_bytes=vocabulary * state + 2 * listed)
    return Work()


def products(shape: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """A product of this shape by type of number, in the fastest operators of torch."""
    rows, inputs, outputs = shape
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bf16, fp32 = (packed_linear(weight, None, precision) for precision in ("bf16", "fp32"))
    narrow = x.bfloat16()
    steps, zeros = torch.full((outputs,), 0.01), torch.zeros(outputs, dtype=torch.long)
    unsigned = torch.randint(0, 255, (rows, inputs), dtype=torch.uint8)  # signed inputs take a very slow path
    packed = torch.ops.onednn.qlinear_prepack(torch.randint(-127, 127, (outputs, inputs), dtype=torch.int8), x.shape)
    scales: tuple[object, ...] = 0.02, 128, packed, steps, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    found: dict[str, Callable[[], object]] = {"fp32": lambda: fp32(x)}
    found["bf16"] = lambda: bf16(narrow)
    found["int8"] = lambda: torch.ops.onednn.qlinear_pointwise(unsigned, *scales)
    return found


def bandwidths(megabytes: int) -> dict[str, Callable[[], object]]:
    """Reading a float32 array of this size, and copying one half of it on the other."""
    array = torch.ones(megabytes * 1_000_000 // 4)
    source, target = array.chunk(2)
    return {"sum": array.sum, "copy": lambda: target.copy_(source)}


@dataclass(slots=True, frozen=True)
class Machine:
    """Best and median rates of one core: operations per second by type of number, bytes per second by size."""

    best: dict[str, float]
    median: dict[str, float]
    n: int


def repeated(run: Callable[[], object], least_s: float = 0.004) -> tuple[Callable[[], object], int]:
    """The call so often that a measurement takes some milliseconds, and how often that is."""
    run()
    began = time.process_time()
    run()
    times = max(1, round(least_s / max(time.process_time() - began, 1e-6)))
    return (lambda: [run() for _ in range(times)]), times


def measured(base: Player, run: LiveRun, step: int, rounds: int) -> tuple[Machine, dict[str, float], int]:
    """Rates of the machine, and the cost of base by stage: the sample of the calls runs in turns with the products."""
    amounts: dict[str, tuple[str, float]] = {}
    subjects: dict[str, Callable[[], object]] = {}
    for shape in SHAPES:
        for kind, product in products(shape).items():
            name = f"{kind} {shape}"
            subjects[name], times = repeated(product)
            amounts[name] = kind, 2.0 * times * shape[0] * shape[1] * shape[2]
    for megabytes in READ_MB:
        for way, read in bandwidths(megabytes).items():
            name = f"{megabytes} MB, {way}"
            subjects[name], times = repeated(read)
            amounts[name] = f"{megabytes} MB", 1e6 * megabytes * times
    picked = sampled(units(run.calls), step)
    spent, before = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
    times_ms: Times = {name: [] for name in subjects}
    for number, part in enumerate(np.array_split(np.arange(len(picked)), rounds)):
        print(f"round {number + 1} of {rounds}", flush=True)
        for unit in (picked[index] for index in part):
            for stage, seconds in base.play(unit).items():
                spent[stage] += seconds
            for call in unit:
                before[call.stage] += call.live_s
        for name, took in time_in_turns(subjects, 1, time.process_time_ns).items():
            times_ms[name] += took
    rates: dict[str, list[list[float]]] = {}
    for name, took in times_ms.items():
        kind, amount = amounts[name]
        rates.setdefault(kind, []).append([amount / (ms / 1000) for ms in took])
    best = {kind: max(map(max, lists)) for kind, lists in rates.items()}
    median = {kind: max(median_interval(each)[0] for each in lists) for kind, lists in rates.items()}
    cost = {stage: run.cost[stage] * spent[stage] / before[stage] for stage in STAGES}
    return Machine(best, median, rounds), cost, len(picked)


def floor_rows(
    run: LiveRun, dims: Mapping[str, int], machine: Machine, cost: Mapping[str, float]
) -> list[dict[str, object]]:
    """A row per stage, and their sum."""
    rows: list[dict[str, object]] = []
    sums = dict.fromkeys(("floor", "cache", "median"), 0.0)
    for stage in STAGES:
        total = sum((work(call, dims) for call in run.calls if call.stage == stage), Work())
        best, median = (_seconds(total, rates) for rates in (machine.best, machine.median))
        read, cached = (total.n_bytes / machine.best[f"{size} MB"] for size in (MEMORY_MB, CACHE_MB))
        usual = max(median, total.n_bytes / machine.median[f"{MEMORY_MB} MB"])
        times = {"floor": max(best, read), "cache": max(best, cached), "median": usual}
        sums = {name: sums[name] + spent / run.audio_s for name, spent in times.items()}
        rows.append(
            {
                "stage": stage,
                "GFLOP per s": (total.bf16 + total.int8 + total.fp32) / 1e9 / run.audio_s,
                "MB per s": total.n_bytes / 1e6 / run.audio_s,
                "operations, s": best / run.audio_s,
                "bytes, s": read / run.audio_s,
                "in the cache, s": cached / run.audio_s,
                **_against(cost[stage], {name: spent / run.audio_s for name, spent in times.items()}),
            }
        )
    keys = dict.fromkeys(("GFLOP per s", "MB per s", "operations, s", "bytes, s", "in the cache, s"), 0.0)
    summed = {key: sum(float(str(one[key])) for one in rows) for key in keys}
    return [*rows, {"stage": "all", **summed, **_against(sum(cost.values()), sums)}]


def floor_of(run: LiveRun, size: Size, machine: Machine) -> float:
    """Floor of the same calls on another size, in seconds per second of audio, without what is outside the network."""
    english, spent = size.vocabulary == ENGLISH, 0.0
    for stage in STAGES:
        if not (english and stage in LANGUAGE_ID):
            calls = [call for call in run.calls if call.stage == stage]
            total = sum((work(call, size.dims, min(POOL_AFTER, size.audio_layers - 1)) for call in calls), Work())
            spent += max(_seconds(total, machine.best), total.n_bytes / machine.best[f"{MEMORY_MB} MB"])
    return spent / run.audio_s


def _seconds(total: Work, rates: Mapping[str, float]) -> float:
    return total.bf16 / rates["bf16"] + total.int8 / rates["int8"] + total.fp32 / rates["fp32"]


def _against(spent: float, times: Mapping[str, float]) -> dict[str, float]:
    """Measured seconds beside the floors of `floor_rows`."""
    found = {"floor, s": times["floor"], "measured, s": spent, "times the floor": spent / times["floor"]}
    return {**found, "of the cache's": spent / times["cache"], "of the median's": spent / times["median"]}


def narrow_share(base: Player, run: LiveRun, step: int) -> dict[str, float]:
    """Time of the same calls on a network of `NARROW` channels per time on base, by stage.

    It has as many layers, heads and tokens, and hardly any products: what is left are single operations of torch,
    softmax, spectrograms and Python.
    """
    size = replace(SIZES["base"], state=NARROW)
    narrow = Player(random_weights("narrow", size.dims))
    spent: dict[bool, dict[str, float]] = {}
    for number, unit in enumerate(sampled(units(run.calls), step)):
        for is_base, player in ((True, base), (False, narrow))[:: 1 if number % 2 else -1]:
            for stage, seconds in player.play(unit).items():
                sums = spent.setdefault(is_base, dict.fromkeys(STAGES, 0.0))
                sums[stage] += seconds
    return {stage: spent[False][stage] / spent[True][stage] for stage in STAGES}


@dataclass(slots=True, frozen=True)
class Batching:
    """Time of batched work over that of the same work one by one, and the time of decoder calls by rows."""

    windows: dict[str, Figure]
    extend_ms: dict[int, float]
    likeliest_ms: dict[int, float]
    n: int


def batching(engine: Engine, rounds: int) -> Batching:
    """Encode windows of one length in one batch and one by one; decode one token of 1, 2, 4 ... texts."""
    encoder, decoder = engine
    assert isinstance(decoder, TextDecoder)
    rng, dims = np.random.default_rng(0), decoder.n_vocabulary
    subjects: dict[str, Callable[[], object]] = {}
    for name, (audio_s, silence_s, pool) in WINDOWS.items():
        windows = [rng.normal(0, 0.1, samples(audio_s)).astype(np.float32) for _ in range(TOGETHER)]
        margin = samples(silence_s)
        subjects[f"{name}, together"] = partial(encoder.encode_batch, windows, margin, pool)
        subjects[f"{name}, one by one"] = partial(one_by_one, encoder, windows, margin, pool)
    kept = encoder.encode(windows[0], samples(1.0)).features
    mask = torch.zeros(dims)
    for rows in ROWS:
        state = decoder.open(Encoded(kept, len(kept)), rows)
        decoder.extend(state, [7] * (rows * CONTEXT))
        hidden = torch.randn(rows, kept.shape[1])

        def one_token(state: object = state, rows: int = rows) -> None:
            decoder.rewind(state, CONTEXT)  # type: ignore[arg-type]
            decoder.extend(state, [7] * rows)  # type: ignore[arg-type]

        subjects[f"extend {rows}"] = one_token
        subjects[f"likeliest {rows}"] = partial(decoder.likeliest, hidden, mask, 1)
    for run in subjects.values():  # a warm-up
        run()
    times = time_in_turns(subjects, rounds, time.process_time_ns)
    ms = {name: median_interval(took)[0] for name, took in times.items()}
    ratios = {name: ratio(name, times[f"{name}, together"], times[f"{name}, one by one"]) for name in WINDOWS}
    extend, likeliest = ({rows: ms[f"{kind} {rows}"] for rows in ROWS} for kind in ("extend", "likeliest"))
    return Batching(ratios, extend, likeliest, rounds)


def one_by_one(encoder: ShortWindowEncoder, windows: Sequence[FloatArray], margin: int, pool_after: int | None) -> None:
    """Encode windows without a batch."""
    for window in windows:
        encoder.encode(window, margin, pool_after)


def batched_cost(run: LiveRun, cost: Mapping[str, float], found: Batching) -> dict[str, float]:
    """The cost by stage when windows of `TOGETHER` and decoder calls of `STREAMS` streams always run in batches.

    A lower bound: such calls rarely come at the same time and with the same length, and waiting for them adds delay.
    """
    pooled, plain = (min(1.0, found.windows[name].value) for name in WINDOWS)
    factors = {STAGES[0]: pooled, STAGES[1]: plain, STAGES[2]: share(found.extend_ms, 1), STAGES[3]: 1.0}
    for stage, kind, curve in ((STAGES[4], "extend", found.extend_ms), (STAGES[5], "likeliest", found.likeliest_ms)):
        calls = [call for call in run.calls if call.kind == kind]
        alone = sum(call.live_s for call in calls)
        factors[stage] = sum(call.live_s * share(curve, call.n) for call in calls) / alone
    return {stage: cost[stage] * factors[stage] for stage in STAGES}


def share(curve: Mapping[int, float], rows: int) -> float:
    """Time of a call of ``rows`` rows in a batch with those of the other streams, per time of it alone; at most 1."""
    known = np.log(list(curve)), np.array(list(curve.values()))
    alone, together = (float(np.interp(np.log(n), *known)) for n in (rows, min(STREAMS * rows, max(ROWS))))
    return min(1.0, together / alone / min(STREAMS, max(ROWS) / rows))


def compile_only(folder: str) -> None:
    """Compile the encoder of base into an empty cache; prints the seconds as JSON, compilers included."""
    weights = load_weights("base")
    precision = check_precision(None, weights.device)
    before, wall = _processor_s(), time.perf_counter()
    with cache_folder(folder):
        compiled_encoder(weights, precision, POOL_AFTER)
    print(json.dumps({"processor_s": _processor_s() - before, "wall_s": time.perf_counter() - wall}))


def _processor_s() -> float:
    """Of this process and its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def cache_folder(folder: str) -> Iterator[None]:
    """Another folder as whisperlab's cache."""
    before, os.environ["WHISPERLAB_CACHE"] = os.environ.get("WHISPERLAB_CACHE"), folder
    try:
        yield
    finally:
        del os.environ["WHISPERLAB_CACHE"]
        if before is not None:
            os.environ["WHISPERLAB_CACHE"] = before


def compiled_figures(weights: Weights, rounds: int) -> dict[str, object]:
    """The compiled encoder against the other in turns; another process compiles, so that memory is that of loading."""
    eager, _ = prepared(weights)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys; from benchmarks.floor import compile_only; compile_only(sys.argv[1])"
        done = subprocess.run([sys.executable, "-P", "-c", code, folder], stdout=subprocess.PIPE, text=True, check=True)
        held, began, wall = resident(), _processor_s(), time.perf_counter()
        with cache_folder(folder):
            compiled, _ = prepared(weights, split=POOL_AFTER)
        loading = {"processor_s": _processor_s() - began, "wall_s": time.perf_counter() - wall}
        memory_mb = (resident() - held) / 1e6
        found: dict[str, object] = {"compiling": json.loads(done.stdout.splitlines()[-1]), "loading": loading}
        for name, (audio_s, silence_s, pool) in WINDOWS.items():
            window = rng.normal(0, 0.1, samples(audio_s)).astype(np.float32)
            arguments = window, samples(silence_s), pool
            both = {"compiled": partial(compiled.encode, *arguments), "eager": partial(eager.encode, *arguments)}
            time_in_turns(both, 3)  # a warm-up
            times = time_in_turns(both, rounds, time.process_time_ns)
            found[name] = asdict(ratio(name, times["compiled"], times["eager"]))
    return {**found, "memory_mb": memory_mb, "compiled": compiled.compiled}


def show_batching(run: LiveRun, cost: Mapping[str, float], found: Batching) -> dict[str, float]:
    """Print the figures of batching; returns the bound."""
    for name, figure in found.windows.items():
        interval = None if figure.low is None else (figure.low, figure.high or 0.0)
        shown = with_interval(figure.value, interval)
        print(f"{TOGETHER} windows of {name} in a batch / one by one: {shown}, n = {found.n}")
    rows = [
        {"rows": n, "extend, ms": found.extend_ms[n], "a row": found.extend_ms[n] / n}
        | {"likeliest, ms": found.likeliest_ms[n], "a row, ms": found.likeliest_ms[n] / n}
        for n in ROWS
    ]
    print(text_table(rows))
    batched = batched_cost(run, cost, found)
    alone, together = (sum(each.values()) + run.rest_s for each in (cost, batched))
    print(text_table([{"stage": stage, "alone": cost[stage], "batched": batched[stage]} for stage in STAGES]))
    print(f"with the rest: {alone:.3f} and {together:.3f} s per s")
    print(f"streams per core at most: {1 / alone:.2f} and {1 / together:.2f}")
    return {**batched, "alone": alone, "together": together}


def main() -> None:
    """Measure, print tables, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=Path, help="file of the recorded calls; written if it does not exist")
    parser.add_argument("--step", type=int, default=4, help="every so many units are measured (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="of each measurement (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="also compile the encoder, in an empty cache")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    run, weights = saved_or_recorded(arguments.calls), load_weights("base")
    with torch_threads(1), torch.inference_mode():
        engine = prepared(weights)
        base = Player(weights)
        for unit in sampled(units(run.calls), 3 * arguments.step):  # a warm-up
            base.play(unit)
        machine, cost, n_units = measured(base, run, arguments.step, arguments.rounds)
        rates = [
            {"rate": kind, "best, G per s": machine.best[kind] / 1e9, "median": machine.median[kind] / 1e9}
            for kind in machine.best
        ]
        print(text_table(rates))
        rows = floor_rows(run, weights.dims, machine, cost)
        print(text_table(rows))
        print(
            f"per second of audio; {run.audio_s:.0f} s of audio, n = {n_units} units of {len(units(run.calls))}",
            flush=True,
        )
        sizes = {name: floor_of(run, size, machine) for name, size in SIZES.items()}
        print(text_table([{"model": name, "floor, s": spent, "streams": 1 / spent} for name, spent in sizes.items()]))
        narrow = narrow_share(base, run, 2 * arguments.step)
        rounded = {stage: round(part, 3) for stage, part in narrow.items()}
        print(f"share of the time that a network of {NARROW} channels takes: {rounded}", flush=True)
        together = batching(engine, arguments.rounds)
        bound = show_batching(run, cost, together)
        compiled = compiled_figures(weights, 3 * arguments.rounds) if arguments.compiled else None
        print(f"compiled encoder: {json.dumps(compiled)}" if compiled else "compiled encoder: not measured")
    if arguments.json:
        found = {
            "machine": asdict(machine),
            "stages": rows,
            "sizes": sizes,
            "batching": asdict(together),
            "bound": bound,
        }
        arguments.json.write_text(json.dumps({**found, "compiled": compiled, **provenance()}, indent=1), "utf-8")


if __name__ == "__main__":
    main()

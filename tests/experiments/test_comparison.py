"""Comparisons: pairs of finished sweeps, their measures, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperlab import cli
from whisperlab.data.audio_files import write_wav
from whisperlab.experiments import results_store
from whisperlab.experiments.comparison import TIME, Finding, Outcome, Pairs, compare_sweeps
from whisperlab.experiments.significance import PairedResult, paired_test
from whisperlab.util.errors import SweepError


def by_name(outcome: Outcome) -> dict[str, PairedResult]:
    return {finding.measure.name: finding.result for finding in outcome.findings}


# --- measures -----------------------------------------------------------------------------------------


def test_nan_and_infinities_are_in_no_pair() -> None:
    pairs = Pairs()
    for unit, value in enumerate([float("nan"), float("inf"), 0.0, None, 2.0]):
        pairs.add(TIME, unit, "A", 1.0)
        pairs.add(TIME, unit, "B", value)
    (finding,) = pairs.test(np.random.default_rng(0), measures=[TIME]).findings
    assert (finding.result.n, finding.result.value) == (1, 2.0)


def test_variants_without_a_common_unit_differ_from_variants_without_values() -> None:
    pairs, rng = Pairs(), np.random.default_rng(0)
    pairs.add(TIME, "one", "A", 1.0)
    pairs.add(TIME, "other", "B", 1.0)
    assert "no recording has it for both" in pairs.test(rng, measures=[TIME]).remarks[0]
    assert "A and B did not measure it" in Pairs().test(rng, measures=[TIME]).remarks[0]


# --- sweeps -------------------------------------------------------------------------------------------

MACHINE = {"cpu_model": "abacus", "cores": 2}


def sweep(folder: Path, rows: list[dict[str, Any]], machine: Mapping[str, Any] | None = MACHINE) -> Path:
    """A sweep's folder with these rows, each under a name of its own, with the first line of its trace."""
    (folder / "traces").mkdir(parents=True)
    with results_store.write_store(folder) as store:
        for number, row in enumerate(rows):
            trace = f"traces/{number}.jsonl"
            if machine is not None:
                (folder / trace).write_text(json.dumps({"kind": "header", "machine": machine}) + "\n")
            store.append({"key": str(number), "trace": trace, **row})
    return folder


def row(number: int, config: Mapping[str, Any], wrong: float | None, **more: Any) -> dict[str, Any]:
    """Recording ``number`` with one configuration; it took a second and a bit to compute."""
    rates = {"mixed_error_rate": wrong, "language_error_rate": wrong, "language_error_rate_frames": 0.1}
    work = {"encoder_calls": 1, "encoded_s": 5.0 + number}
    return {
        "status": "ok",
        "config": config,
        "recording": str(number),
        "audio_sha256": str(number),
        "model_digest": "weights",
        "whisperlab": "0.1.0",
        "rates": rates,
        "statistics": {"lid": work, "sessions": work},
        "duration": 10.0,
        "compute_s": 1.0 + number / 100,
        **more,
    }


def both(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], **options: Any) -> Outcome:
    return compare_sweeps(sweep(tmp_path / "a", a), sweep(tmp_path / "b", b, **options))


def test_two_sweeps_are_paired_by_recording_and_what_differs_is_what_is_compared(tmp_path: Path) -> None:
    a = [row(n, {"precision": "fp32"}, 0.1 + n / 1000) for n in range(12)]
    b = [row(n, {"precision": "int8"}, 0.2 + n / 1000) for n in reversed(range(14))]
    outcome = both(tmp_path, a, b)
    found = by_name(outcome)
    assert found["words wrong"].conclusion == "difference"
    assert found["words wrong"].value == pytest.approx(0.1)
    assert (
        found["real-time factor (wall)"].conclusion == found["encoder seconds per second"].conclusion == "no difference"
    )
    assert {result.n for result in found.values()} == {12}
    assert outcome.remarks[0] == 'precision: "fp32" in A, "int8" in B'
    assert "not run in turns" in outcome.remarks[1]
    assert [finding.configuration for finding in outcome.findings] == [""] * 4


def test_recordings_of_another_reference_are_no_pair_and_another_processor_is_told(tmp_path: Path) -> None:
    a = [row(n, {}, 0.1, reference_sha256=str(n), processor="AVX2") for n in range(6)]
    b = [row(n, {}, 0.1, reference_sha256=str(min(n, 4)), processor="AVX512") for n in range(6)]
    outcome = both(tmp_path, a, b)
    assert {result.n for result in by_name(outcome).values()} == {5}
    assert outcome.remarks[0] == 'processor: "AVX2" in A, "AVX512" in B'


def test_each_configuration_is_tested_and_corrected_for_all(tmp_path: Path) -> None:
    """Twelve pairs of four measures in five configurations: what one alone would show, twenty do not."""

    def rows(better: float) -> list[dict[str, Any]]:
        return [
            row(n, {"cache_size": size, "key": "span", "device": "cpu"}, 0.3 - (better if size == 1 else 0))
            for size in range(5)
            for n in range(8)
        ]

    outcome = both(tmp_path, rows(0.0), rows(0.1))
    assert len(outcome.findings) == 20
    assert outcome.findings[0].configuration == "cache_size=0"
    changed = [finding for finding in outcome.findings if finding.result.effect]
    assert {finding.configuration for finding in changed} == {"cache_size=1"}
    assert {finding.result.conclusion for finding in changed} == {"not enough data"}  # 2 / 2^8 * 20 > 0.05
    assert {finding.result.p for finding in changed} == {20 / 128, 19 / 128} or changed[0].result.p == 20 / 128
    assert changed[0].result.pairs_missing >= 2  # 2 / 2^9 * 20 > 0.05 still
    told = changed[0].readable()
    assert (told["configuration"], told["measure"], told["result"]) == (
        "cache_size=1",
        "words wrong",
        "not enough data",
    )


@pytest.mark.parametrize("lacking", ["compute_s", "statistics", "duration", "rates"])
def test_a_row_without_a_measurement_is_left_out_of_it(tmp_path: Path, lacking: str) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    for one in rows[:5]:
        del one[lacking]
    outcome = both(tmp_path, rows, rows)
    assert {finding.result.n for finding in outcome.findings} <= {1, 6}


def test_a_rate_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    rows[0]["rates"] |= {"mixed_error_rate": "many", "language_error_rate": []}
    assert both(tmp_path, rows, rows).findings


def test_times_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    outcome = both(tmp_path, rows, rows, machine={"cpu_model": "another"})
    assert "real-time factor (wall)" not in by_name(outcome)
    assert outcome.remarks == ("times are not compared: the sweeps were run on 2 different machines",)


@pytest.mark.parametrize("machine", [None, {}])
def test_times_without_a_machine_are_not_compared(tmp_path: Path, machine: Mapping[str, Any] | None) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    outcome = both(tmp_path, rows, rows, machine=machine)
    assert "real-time factor (wall)" not in by_name(outcome)
    assert "a trace of B does not name the machine" in outcome.remarks[0]


def test_language_id_alone_is_compared_by_its_frames(tmp_path: Path) -> None:
    rows = [row(n, {"decode": False}, None) for n in range(6)]
    outcome = both(tmp_path, rows, rows)
    assert list(by_name(outcome)) == ["real-time factor (wall)", "wrong language, frames", "encoder seconds per second"]
    assert len(outcome.remarks) == 1


def test_what_all_configurations_lack_is_said_once_and_what_one_lacks_by_its_name(tmp_path: Path) -> None:
    def rows(*, counted: bool) -> list[dict[str, Any]]:
        return [
            row(n, {"size": size}, 0.1, **({} if counted and size else {"statistics": {}}))
            for size in range(2)
            for n in range(6)
        ]

    one = both(tmp_path / "one", rows(counted=False), rows(counted=True))
    assert "encoder seconds per second is left out: A and B did not measure it" not in one.remarks
    assert "size=0: encoder seconds per second is left out: A and B did not measure it" in one.remarks
    assert "size=1: encoder seconds per second is left out: A did not measure it" in one.remarks
    all_ = both(tmp_path / "all", rows(counted=False), rows(counted=False))
    assert all_.remarks[0] == "encoder seconds per second is left out: A and B did not measure it"


def test_another_version_and_options_that_one_side_has_not_are_no_hindrance(tmp_path: Path) -> None:
    a = [row(n, {"size": 1}, 0.1, whisperlab="0.1.0") for n in range(6)]
    b = [row(n, {"size": 1, "new": True}, 0.1, whisperlab="0.2.0") for n in range(6)]
    outcome = both(tmp_path, a, b)
    assert outcome.findings[0].result.n == 6
    assert 'version: "0.1.0" in A, "0.2.0" in B' in outcome.remarks


def test_failed_rows_are_in_no_pair(tmp_path: Path) -> None:
    rows = [row(n, {}, 0.1) for n in range(6)]
    failed = {**row(6, {}, None), "status": "failed", "compute_s": None}
    assert {v.n for v in by_name(both(tmp_path, [*rows, failed], [*rows, failed])).values()} == {6}


@pytest.mark.parametrize(
    "a,b,said",
    [
        ([], [row(0, {}, 0.1)], "holds no finished row"),
        ([row(0, {}, 0.1)], [row(1, {}, 0.1)], "no recording in common"),
        (
            [row(0, {"size": 1}, 0.1), row(0, {"size": 2}, 0.1)],
            [row(0, {"size": 3}, 0.1), row(0, {"size": 4}, 0.1)],
            "with the same audio and reference, under the same options; they share default precision, ",
        ),
        (
            [row(0, {"size": 1}, 0.1), row(0, {"size": 2}, 0.1)],
            [row(0, {}, 0.1)],
            "A has two results for 0 under the options of the other sweep: they differ in size",
        ),
    ],
)
def test_sweeps_that_cannot_be_paired_are_refused(
    tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(SweepError, match=said):
        both(tmp_path, a, b)


# --- the command --------------------------------------------------------------------------------------


def test_the_command_prints_each_result_once_with_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side, wrong in (("a", 0.1), ("b", 0.2)):
        sweep(tmp_path / side, [row(n, {}, wrong) for n in range(12)])
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("words wrong  ")]
    cells = re.split("  +", line)
    assert cells[1:4] == ["B is worse", "+10.0 points", "+10.0 points to +10.0 points"]
    assert cells[-2] == "12"
    assert shown.count("real-time factor (wall)") == 1
    assert "B beside A" in shown
    assert cli.main(["compare", *folders, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {one["measure"]: one["effect"] for one in document["results"]}["words wrong"] == 1.0
    assert document["remarks"]


def test_no_interval_from_fewer_than_three_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side, wrong in (("a", 0.1), ("b", 0.2)):
        sweep(tmp_path / side, [row(n, {}, wrong) for n in range(2)])
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("words wrong  ")]
    assert re.split("  +", line)[1:-1] == ["not enough data", "+10.0 points", "-", "-", "-", "2"]
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    check_unproven(json.loads(capsys.readouterr().out))


def check_unproven(document: dict[str, Any]) -> None:
    """No result of a document has an interval, or a p, and none says who is better."""
    for result in document["results"]:
        assert [result[name] for name in ("low", "high", "p", "effect")] == [None] * 4
        assert result["conclusion"] == "not enough data"
        assert result["pairs_missing"] > 0


def test_rounds_of_two_recordings_give_no_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(16_000, np.float32))
    line = {"audio_filepath": "a.wav", "duration": 1.0, "text": "", "lang": "en", "split": "dev"}
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({**line, "id": f"r{n}"}) + "\n" for n in range(2)))
    times = paired_test(TIME.name, [2.0] * 8, [1.0] * 8, np.random.default_rng(0))
    assert times.conclusion == "difference"
    outcome = Outcome((Finding(TIME, times),))
    monkeypatch.setattr("whisperlab.experiments.comparison.compare_configurations", lambda *_, **__: outcome)
    words = ["compare", "{}", "{}", "--corpus", str(tmp_path / "two.jsonl"), "--rounds", "4"]
    assert cli.main([*words, "--json"]) == 0
    check_unproven(json.loads(capsys.readouterr().out))
    assert cli.main(words) == 0
    assert "faster" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["{}"], ["b", "--limit", "2"], ["b", "--model", "base"]])
def test_a_sweep_is_compared_with_a_sweep_and_nothing_is_run(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("a", "b"):
        sweep(tmp_path / side, [row(0, {}, 0.1)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", "a", *words])
    assert left.value.code == 2
    assert "usage: whisperlab compare" in capsys.readouterr().err

"""Replay of stored logits: the same result as the pipeline, without computing a window twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.language_replay import SEVENTEEN, Replay, Store, allowed, wrong_percent
from whisperlab import SessionRestartTranscriber, data
from whisperlab.evaluation.scoring.language import UNLABELLED
from whisperlab.util.timeline import SAMPLE_RATE
from whisperlab.util.timing import feed


def test_a_second_run_computes_nothing_and_finds_what_the_pipeline_finds(excerpt: Path, tmp_path: Path) -> None:
    recordings = data.load(excerpt)
    languages, path = ["en", "es", "fr", "it", "ru"], tmp_path / "store.npz"
    first = Replay(path)
    found = first.scores(recordings, languages, {})
    assert first.store.computed == len(first.store.logits) > 0
    first.store.save()

    again = Replay(path)
    assert again.scores(recordings, languages, {}) == found
    assert again.store.computed == 0

    real = SessionRestartTranscriber(again.weights, languages, decode=False)
    switches = [one for result in feed(real, recordings[0].audio(), SAMPLE_RATE) for one in result.switches]
    assert len(switches) == found[0].score.switches.found


def test_an_empty_store_writes_no_file(tmp_path: Path) -> None:
    Store(tmp_path / "store.npz").save()
    assert not list(tmp_path.iterdir())


def test_the_share_of_wrong_labels_leaves_out_speech_without_a_label() -> None:
    times = [{"en": {"en": 3.0, "es": 1.0, UNLABELLED: 5.0}}, {"es": {"es": 4.0}}]
    assert wrong_percent(times) == pytest.approx(12.5)
    assert wrong_percent([]) == 0


def test_a_transcriber_is_always_told_the_languages_that_are_spoken(excerpt: Path) -> None:
    recordings = data.load(excerpt)
    own = {code for recording in recordings for code in recording.languages}
    assert set(allowed("own", recordings) or ()) >= own
    assert set(allowed("17", recordings) or ()) == {*SEVENTEEN, *own}
    assert allowed("all", recordings) is None

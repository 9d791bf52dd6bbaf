"""The difficulty dial: scenes with blocks of a chosen length and a chosen code-mixing index, and their controls."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.difficulty import Point, mixed_scenes, study
from benchmarks.difficulty.cuts import best_places
from benchmarks.difficulty.scenes import CUTS, Reading, plan_scene
from whisperlab.data.corpora import VOICES, clean_texts
from whisperlab.data.scenes import fold, render, sentences, split_of
from whisperlab.evaluation.scoring.code_switching import mixing
from whisperlab.evaluation.trace import Reference
from whisperlab.model.downloads import file_sha256
from whisperlab.model.weights import cache_dir
from whisperlab.util.errors import ConfigurationError, CorpusError
from whisperlab.util.timeline import samples

if TYPE_CHECKING:
    from whisperlab.data import Recording
    from whisperlab.data.scenes import Scene

# ---- planning, with words of 0.4 and 0.25 s


def reading(lang: str, n_words: int = 20) -> Reading:
    """A prompt whose samples count up, so that a cut shows where it was; it can be cut after every word."""
    word_s = {"en": 0.4, "es": 0.25}[lang]
    cuts = [samples(0.1 + word_s * number) for number in range(n_words + 1)]
    audio = np.arange(cuts[-1] + 1600, dtype=np.float32)
    words = [f"{lang}{number}" for number in range(n_words)]
    shares = [number / n_words for number in range(n_words + 1)]
    return Reading(lang, "A", words, lambda: audio, range(n_words + 1), cuts, shares)


PAIRS = [(reading("en"), reading("es")) for _ in range(200)]


def planned(block_s: float, share: float, matrix: int = 0, length_s: float = 60.0) -> Scene:
    scene = plan_scene(PAIRS, matrix, block_s, share, length_s)
    assert scene is not None
    return scene


def blocks(scene: Scene) -> list[tuple[str, int, int]]:
    """Language, samples of speech and words of each block."""
    runs = itertools.groupby(scene.placed, key=lambda placed: placed.prompt.lang)
    return [
        (lang, sum(len(p.prompt.speech) for p in run), sum(len(p.prompt.text.split()) for p in run))
        for lang, run in ((lang, list(run)) for lang, run in runs)
    ]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("block_s", [0.3, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("matrix", [0, 1])
def test_embedded_blocks_have_the_length_asked_for_to_half_a_word_and_their_share_of_the_words(
    block_s: float, share: float, matrix: int
) -> None:
    scene = planned(block_s, share, matrix, 100.0)
    matrix_lang, embedded_lang = ("en", "es")[matrix], ("es", "en")[matrix]
    found = blocks(scene)
    assert [lang for lang, *_ in found[:2]] == [matrix_lang, embedded_lang]
    assert all(a[0] != b[0] for a, b in itertools.pairwise(found))
    word_s = {"en": 0.4, "es": 0.25}[embedded_lang]
    for lang, length, _ in found:
        if lang == embedded_lang:
            assert abs(length - samples(block_s)) <= samples(max(word_s / 2, word_s - block_s)) + 1
    words = {lang: sum(n for one, _, n in found if one == lang) for lang in (matrix_lang, embedded_lang)}
    assert words[embedded_lang] / sum(words.values()) == pytest.approx(share, abs=0.02)
    assert 100.0 <= sum(length for _, length, _ in found) / 16_000 < 100.0 + block_s / share + 8


def test_a_voice_reads_on_where_the_other_stopped() -> None:
    scene = planned(1.0, 0.5)
    for before, after in itertools.pairwise(scene.placed):
        same_prompt = before.prompt.sentence == after.prompt.sentence
        assert after.start - before.end == (0 if same_prompt else 4000)
        if same_prompt:
            said, next_word = (int(p.prompt.text.split()[i][2:]) for p, i in ((before, -1), (after, 0)))
            assert next_word == said + 1


def test_neighbouring_words_of_a_voice_are_not_cut_apart() -> None:
    scene = planned(2.0, 0.5)
    for placed in scene.placed:
        first, last = (int(placed.prompt.text.split()[i][2:]) for i in (0, -1))
        assert len(placed.prompt.text.split()) == last - first + 1
        assert np.all(np.diff(placed.prompt.audio) == 1)
    audio = render(scene, np.random.default_rng(0))
    for placed in scene.placed[1:-1]:
        middle = (placed.start + placed.end) // 2
        assert audio[middle] == placed.prompt.audio[middle - placed.start + placed.prompt.speech.start]


def test_prompts_that_end_before_the_scene_make_none() -> None:
    assert plan_scene(PAIRS[:3], 0, 1.0, 0.5, 60.0) is None


def test_a_point_out_of_range_is_refused() -> None:
    for wrong in ({"mixing": 0.6}, {"mixing": 0.0}, {"block_s": 0.0}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Point(**wrong)


# ---- cuts


def test_boundaries_are_placed_where_it_is_quiet_near_the_wanted_times() -> None:
    loudness = np.zeros(120)
    loudness[[38, 39, 80, 81]] = -30.0
    spoken = np.concatenate([[0.0], np.cumsum(loudness > -25)])
    first, *inner, last = best_places(loudness, spoken, np.array([40.0, 40.0, 40.0]), [44.0, 75.0])
    assert (first, last) == (0, 120)
    assert [bool(loudness[place]) for place in inner] == [True, True]


# ---- real prompts


def real(**changes: object) -> list[Recording]:
    return mixed_scenes(replace(Point(block_s=1.0, mixing=0.25, n=2, length_s=15.0), **changes))  # type: ignore[arg-type]


def test_real_scenes_are_what_their_manifest_says() -> None:
    found = real()
    assert len(found) == 2
    for recording in found:
        assert len(recording.audio()) == samples(recording.duration)
        assert recording.duration > 15
        assert recording.text == " ".join(segment.text for segment in recording.segments)
        assert recording.languages == ("en", "es")
        assert {segment.speaker for segment in recording.segments} == {"Allison Smith"}
        assert all(segment.text for segment in recording.segments)
        measured = mixing(Reference.from_dict(recording.reference)).code_mixing_index
        assert measured == pytest.approx(0.25, abs=0.06)
        assert recording.segments[-1].end == pytest.approx(recording.duration - 0.5)
    assert found[0].segments[0].lang == "en"
    assert found[1].segments[0].lang == "es"


def test_the_same_point_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = cache_dir() / "packages"
    once = [file_sha256(recording.audio_path) for recording in real()]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "packages").symlink_to(packages)
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / "cache"))
    again = real()
    assert [file_sha256(recording.audio_path) for recording in again] == once
    assert all(recording.audio_path.is_relative_to(tmp_path) for recording in again)
    assert file_sha256(real(seed=1)[0].audio_path) != once[0]


def test_points_of_the_dial_share_their_prompts() -> None:
    first = fold(real()[0].segments[0].text).split()[:2]
    assert fold(real(block_s=4.0)[0].segments[0].text).split()[:2] == first


@pytest.mark.parametrize("first,second", [("es", "es-co"), ("fr", "fr-armelle"), ("it", "it-menardi")])
def test_only_the_voice_changes_between_two_voices_of_a_language(first: str, second: str) -> None:
    (recording,) = real(first=first, second=second, mixing=0.5, n=1)
    assert recording.switches == 0
    assert recording.lang == first
    assert recording.text == ""
    voices = [segment.speaker for segment in recording.segments]
    assert set(voices) == {VOICES[first].speaker, second}
    spectrum = np.abs(np.fft.rfft(recording.audio())) ** 2
    assert spectrum[len(spectrum) * 9 // 16 :].sum() < 1e-4 * spectrum.sum(), "4 kHz for both voices"


def test_neither_voice_nor_language_changes_when_a_voice_is_given_twice() -> None:
    (recording,) = real(first="en", second="en", mixing=0.5, n=1)
    assert recording.switches == 0
    assert {segment.speaker for segment in recording.segments} == {"Allison Smith"}
    assert recording.text
    spectrum = np.abs(np.fft.rfft(recording.audio())) ** 2
    narrow = np.abs(np.fft.rfft(real(first="en", second="en", mixing=0.5, n=1, telephone=True)[0].audio())) ** 2
    upper = slice(len(spectrum) * 9 // 16, None)
    assert narrow[upper].sum() < 0.1 * spectrum[upper].sum()


def test_voices_without_a_common_prompt_and_too_many_scenes_are_refused() -> None:
    for changes in ({"second": "ru"}, {"second": "fr-armelle", "split": "dev"}, {"split": "train"}):
        with pytest.raises(ConfigurationError, match="no prompt is read by the voices"):
            real(**changes)
    with pytest.raises(CorpusError, match=r"the prompts suffice for \d+ scenes of 15 s, not 900"):
        real(n=900)


def test_cuts_fit_the_texts_and_keep_the_splits() -> None:
    packages = cache_dir() / "packages"
    texts = {
        name: clean_texts(voice, packages / f"{voice.texts.name}_{voice.texts.version}_all.deb")
        for name, voice in VOICES.items()
    }
    sentence_of = sentences(texts)
    cuts = json.loads(CUTS.read_text(encoding="utf-8"))
    assert CUTS.stat().st_size < 1e6
    for split, of_split in cuts.items():
        for key, voices in of_split.items():
            assert split_of(sentence_of[key]) == split
            for name, places in voices.items():
                n_words, times = zip(*places, strict=True)
                assert n_words[0] == 0
                assert name not in VOICES or n_words[-1] == len(texts[name][key].split())
                assert all(a < b for of in (n_words, times) for a, b in itertools.pairwise(of))
    assert len([key for key, voices in cuts["test"].items() if {"en", "es"} <= voices.keys()]) > 80


# ---- the study


def test_controls_allow_a_second_language_so_that_a_switch_can_be_false() -> None:
    for points in study.controls(n=1).values():
        assert all(len(study.allowed(point)) == 2 for point in points)


@pytest.mark.model
def test_a_stopped_run_continues_and_its_rows_have_all_rates(tmp_path: Path) -> None:
    point = Point(block_s=4.0, n=1, length_s=5.0)
    (one,) = study.measure([point])
    path = tmp_path / "measured.jsonl"
    path.write_text(json.dumps(one.to_dict()) + "\n")
    (known,) = study.read(path)
    assert known.point == point
    assert known.score.to_dict() == one.score.to_dict()
    assert list(study.measure([point], done=[known])) == []
    (row,) = study.dial_rows([known])
    assert row.rates["switches_true"] >= 1  # type: ignore[operator]
    table = study.dial_table([row])
    assert table.splitlines()[0].count("|") == table.splitlines()[-1].count("|")
    assert {one.curve.split(": ")[1] for one in study.curves([row], study.RATES)} <= set(study.RATES.values())

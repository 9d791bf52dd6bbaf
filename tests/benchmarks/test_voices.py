"""Further dev voices: which clips are kept, how scenes are planned, and to which voice and pair a switch belongs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.voices import clips, corpora, study
from benchmarks.voices.corpora import BLOCK_S, CORPORA, SCENE_S, plan_scene
from benchmarks.voices.study import Event, Measured
from whisperlab.data.scenes import Prompt, Scene
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.streaming.results import Switch
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import Span, samples

# ---- clips


def test_subtitles_are_read_per_role_without_stage_directions() -> None:
    lua = """
    dialogId("a", "font_small", "Say \\"hi\\" now.")
    dialogStr("Řekni \\"ahoj\\" hned.")
    dialogId("b", "font_big", "What?")
    dialogStr("Co?")
    dialogId("c", "font_small", "(cough)")
    dialogStr("(kašel)")
    """
    assert clips.dialogue(lua, "font_small") == {"a": 'Řekni "ahoj" hned'}
    assert clips.dialogue(lua, "font_big") == {"b": "Co?"}


def test_the_text_of_a_stamp_is_that_of_its_language() -> None:
    raw = b"A frog.\nes.utf8=Una rana.\nes_MX.utf8=Otra rana.\nfr.utf8=\n"
    assert clips.stamp_text(raw, "es") == "Una rana"
    assert clips.stamp_text(raw, "fr") is None
    assert clips.stamp_text(raw, "de") is None


@pytest.mark.parametrize(
    "speech_s, text, kept",
    [(2.0, "una rana verde", True), (0.5, "una", False), (9.0, "", False), (2.0, "", True), (2.0, "una", False)],
)
def test_clips_of_unusual_length_or_speaking_rate_are_left_out(speech_s: float, text: str, kept: bool) -> None:
    quiet = np.zeros(4800, dtype=np.float32)
    tone = np.sin(np.arange(samples(speech_s)) / 5).astype(np.float32)
    clip = clips.make_clip(clips.VOICES["es-stamps"], "x", text, np.concatenate([quiet, tone, quiet]))
    assert (clip is not None) == kept
    if clip:
        assert clip.speech.duration_s == pytest.approx(speech_s, abs=0.02)
        assert (clip.speaker, clip.lang) == ("es-stamps", "es")


def test_talks_are_cut_where_they_are_quiet() -> None:
    audio = np.ones(samples(20), dtype=np.float32)
    for pause_s in (4.0, 9.0, 13.0):
        audio[samples(pause_s) : samples(pause_s + 0.3)] = 0
    start, *inner, end = clips.quiet_places(audio)
    assert (start, end) == (0, len(audio))
    assert [round(place / 16_000 - 0.15) for place in inner] == [4, 9, 13]


def test_unknown_voices_and_corpora_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown voice 'xx'; the voices are be-stamps"):
        clips.clips("xx")
    with pytest.raises(ConfigurationError, match="unknown corpus 'xx'; the corpora are voices-es-ro"):
        corpora.build("xx")


def test_each_voice_of_pairs_is_in_at_least_one_corpus_and_has_a_control() -> None:
    used = [set(corpus.voices) for corpus in CORPORA.values()]
    controls = [corpus for corpus in CORPORA.values() if len(corpus.languages) == 1]
    for name in clips.VOICES:
        assert any(name in voices for voices in used)
        assert any(name in corpus.voices for corpus in controls)


# ---- scenes


def deck(lang: str, n: int = 80) -> list[Prompt]:
    """Clips of 1 to 5 s."""
    made = []
    for number in range(n):
        speech = Span(480, 480 + samples(1 + number % 5))
        audio: FloatArray = np.ones(speech.end + 480, dtype=np.float32)
        made.append(Prompt(f"{lang}{number}", lang, lang, audio, speech, lang.upper()))
    return made


def planned(*languages: str, seed: int = 0, n: int = 80) -> Scene | None:
    return plan_scene(np.random.default_rng(seed), {lang: deck(lang, n) for lang in languages}, None)


@pytest.mark.parametrize("languages", [("es",), ("es", "fr"), ("es", "fr", "ru")])
def test_languages_alternate_in_blocks_of_2_to_8_seconds(languages: tuple[str, ...]) -> None:
    scene = planned(*languages)
    assert scene is not None
    assert scene.placed[-1].end >= samples(SCENE_S)
    assert all(a.end <= b.start for a, b in itertools.pairwise(scene.placed))
    runs = [list(run) for _, run in itertools.groupby(scene.placed, key=lambda placed: placed.prompt.lang)]
    assert {run[0].prompt.lang for run in runs} == set(languages)
    if len(languages) > 1:
        assert len(runs) == scene.blocks
        for run in runs:
            assert BLOCK_S[0] - 0.01 <= (run[-1].end - run[0].start) / 16_000 <= BLOCK_S[1]


def test_a_clip_is_used_once_and_the_same_seed_plans_the_same_scene() -> None:
    scene, again, other = planned("es", "fr"), planned("es", "fr"), planned("es", "fr", seed=1)
    assert scene
    assert again
    assert other
    keys = [placed.prompt.sentence for placed in scene.placed]
    assert len(set(keys)) == len(keys)
    assert [(p.prompt.sentence, p.start) for p in again.placed] == [(p.prompt.sentence, p.start) for p in scene.placed]
    assert [p.start for p in other.placed] != [p.start for p in scene.placed]


def test_a_block_ends_early_if_no_clip_fits() -> None:
    decks = {lang: [clip for clip in deck(lang, 100) if clip.speech.duration_s == 5] for lang in ("es", "fr")}
    scene = plan_scene(np.random.default_rng(0), decks, None)
    assert scene is not None
    assert scene.blocks == len(scene.placed)


def test_too_few_clips_make_no_scene() -> None:
    assert planned("es", "fr", n=5) is None


def test_a_corpus_is_dev_with_language_speaker_and_card_and_the_same_bytes_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "clips", lambda name: tuple(deck(clips.VOICES[name].lang)))
    digests = []
    for folder in ("a", "b"):
        monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / folder))
        found = corpora.recordings("voices-cs-nl")
        digests.append(corpora.digest("voices-cs-nl"))
    assert digests[0] == digests[1]
    assert len(found) == 4
    for recording in found:
        assert (recording.split, recording.lang) == ("dev", "cs,nl")
        assert recording.speakers == {"CS", "NL"}
        assert recording.switches > 5
        assert recording.audio_path.is_file()
    assert [recording.snr for recording in found] == [None, 20.0, None, 20.0]
    card = (found[0].audio_path.parents[1] / "CARD.md").read_text("utf-8")
    assert clips.PACKAGES["fish-cs"].sha256 in card


# ---- the study


def reference() -> Reference:
    """Ana speaks Spanish, Bo French, Ana Spanish again."""
    spans = [(0.0, 5.0, "es", "Ana"), (5.5, 10.0, "fr", "Bo"), (10.0, 15.0, "es", "Ana")]
    return Reference("", tuple(ReferenceSegment(a, b, lang, "", who) for a, b, lang, who in spans))


def test_a_true_switch_belongs_to_the_new_voice_and_a_false_one_to_who_speaks() -> None:
    switches = [
        Switch(7.0, "es", "fr", 7.5),  # 1.5 s late: a match at 2 s only
        Switch(8.5, "fr", "it", 9.0),
        Switch(9.0, "it", "fr", 9.5),
        Switch(10.1, "fr", "es", 11.0),
        Switch(14.0, "es", "fr", 14.5),
    ]
    found = list(study.events(reference(), switches))
    assert found[:2] == [
        Event(True, "Bo", "es-fr", False, pytest.approx(2.0), pytest.approx(1.5)),
        Event(True, "Ana", "es-fr", True, pytest.approx(1.0), pytest.approx(0.1)),
    ]
    assert found[2:] == [Event(False, "Bo", study.OTHER), Event(False, "Bo", study.OTHER), Event(False, "Ana", "es-fr")]


def line(**changes: object) -> Measured:
    found = (Event(True, "Ana", "es-fr", True, 1.0, 0.1), Event(True, "Bo", "es-fr"), Event(False, "Bo", study.OTHER))
    values = {"configuration": "default", "digest": "x", "told": "own", "corpus": "c", "recording": "r"}
    sums = {"audio_s": 3600.0, "compute_s": 9.0, "events": found, "speech_s": {"Ana": 1800.0, "Bo": 900.0}}
    return Measured(**{**values, **sums, "wrong_s": {"Ana": 0.0, "Bo": 90.0}, **changes})  # type: ignore[arg-type]


def test_tables_divide_sums_by_corpus_voice_and_pair() -> None:
    lines = [line(), line(corpus="d", recording="s")]
    corpus, voice, pair = (study.counts(lines, by) for by in ("corpus", "voice", "pair"))
    assert corpus["c"].f1 == pytest.approx(2 * 1 / (2 + 2))
    assert voice["Ana"].f1 == 1
    assert voice["Bo"].f1 == 0
    assert (voice["Bo"].false, voice["Bo"].speech_s, voice["Bo"].wrong_s) == (2, 1800.0, 180.0)
    assert {name: group.true for name, group in pair.items()} == {"es-fr": 4, study.OTHER: 0}
    rows = study.table(lines, "corpus").splitlines()
    assert [row.split(" | ")[2] for row in rows[2:]] == ["c", "d", "all"]
    assert " 120.0 | 4 | 0.50 | 1.00 | 1.00 | 0.10 | 2 | 1 | 3% | - |" in rows[-1]
    assert " 10% " in study.table(lines, "voice").splitlines()[3]


def test_f1_is_that_of_the_score() -> None:
    from whisperlab.evaluation.scoring import score

    switches = [Switch(5.4, "es", "fr", 6.0), Switch(8.0, "fr", "it", 9.0), Switch(11.5, "it", "es", 12.0)]
    rates = score(reference(), [], switches, duration=15.0).rates()
    found = study.counts([line(events=tuple(study.events(reference(), switches)), audio_s=15.0)], "corpus")["c"]
    assert found.f1 == pytest.approx(rates["switch_f1_at_1"])
    assert found.false / 15 * 3600 == pytest.approx(rates["false_switches_per_hour"])


def test_configurations_name_their_languages_and_options(tmp_path: Path) -> None:
    file = tmp_path / "configs.json"
    file.write_text(json.dumps({"a": {}, "b": {"languages": "17", "language_id.english_bias": 0}}))
    found = study.read_configurations(str(file), ["own", "all"])
    assert [(one.name, one.told) for one in found] == [("a", "own"), ("a", "all"), ("b", "17")]
    assert len({one.digest for one in found}) == 3
    assert found[0].options["decode"] is False
    assert study.read_configurations('{"a": {}}', ["own"], decode=True)[0].digest != found[0].digest
    for wrong, reason in [
        ("[]", "an object of configurations"),
        ('{"a": {"languages": "two"}}', "must be own, 17 or all"),
        ('{"a": {"nothing": 1}}', "unknown option nothing"),
        ("missing.json", "neither a file"),
    ]:
        with pytest.raises(ConfigurationError, match=reason):
            study.read_configurations(wrong, ["own"])


def test_allowed_languages_include_those_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "clips", lambda name: tuple(deck(clips.VOICES[name].lang)))
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path))
    pair, control = corpora.recordings("voices-be-ru"), corpora.recordings("voices-be")
    assert study.allowed("own", pair) == ["be", "ru"]
    assert study.allowed("own", control) == ["be", "en"], "so that a switch can be false"
    assert study.allowed("17", control) == sorted({*study.NAMED, "be"})
    assert len(study.NAMED) == 17
    assert study.allowed("all", pair) is None


def test_lines_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert study.read(path) == []
    path.write_text(study.to_line(line()), encoding="utf-8")
    assert study.read(path) == [line()]


@pytest.mark.model
def test_a_run_measures_what_is_missing(tmp_path: Path, scene: object, base_model: object) -> None:
    from whisperlab.data import load

    whole = load("ivr-five", "dev")[0]
    kept = [segment for segment in whole.segments if segment.end < 12]
    manifest = tmp_path / "short.jsonl"
    manifest.write_text(
        json.dumps(
            {
                "audio_filepath": str(whole.audio_path),
                "id": "short",
                "offset": 0,
                "duration": 12,
                "text": "",
                "segments": [segment.to_dict() for segment in kept],
            }
        )
    )
    configurations = study.read_configurations('{"default": {}}', ["own"])
    (one,) = study.measure([str(manifest)], configurations, lambda: base_model)
    assert (one.recording, one.audio_s) == ("short", 12)
    assert sum(event.true for event in one.events) == sum(a.lang != b.lang for a, b in itertools.pairwise(kept))
    assert one.speech_s == pytest.approx({kept[0].speaker: 0} | _speech_s(kept))
    assert Measured.from_dict(json.loads(study.to_line(one))) == one
    assert list(study.measure([str(manifest)], configurations, pytest.fail, done=[one])) == []  # type: ignore[arg-type]


def _speech_s(segments: list[ReferenceSegment]) -> dict[str, float]:
    return {who: sum(s.end - s.start for s in segments if s.speaker == who) for who in {s.speaker for s in segments}}

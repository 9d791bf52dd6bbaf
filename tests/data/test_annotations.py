"""Annotations of other programs: each format in the form of its specification, or as a program writes it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pysubs2
import pytest
from praatio import textgrid
from test_transcripts import CALL, segment

from whisperlab.data import Recording, read_manifest, write_manifest
from whisperlab.data.annotations import FORMATS, import_annotations
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.transcripts import Transcript, to_text
from whisperlab.util.errors import AudioFormatError, ManifestError, MissingDependencyError
from whisperlab.util.timeline import SAMPLE_RATE


def wav(path: Path, length_s: float = 20.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.zeros(round(length_s * SAMPLE_RATE), dtype=np.float32))
    return path


def file(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def lines(*items: dict[str, Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def read(path: Path, **options: Any) -> tuple[str, list[Recording], list[str]]:
    """The import, after its manifest was written and read back."""
    folder = path if path.is_dir() else path.parent
    name, recordings, warnings = import_annotations(path, out := folder / "out" / "manifest.jsonl", **options)
    write_manifest(out, recordings)
    assert [one.segments for one in read_manifest(out)] == [one.segments for one in recordings]
    return name, recordings, warnings


def spoken(recording: Recording) -> list[tuple[float, float, str, str]]:
    return [(round(s.start, 3), round(s.end, 3), s.lang, s.text) for s in recording.segments]


# ---- formats -----------------------------------------------------------------------------------------------

STM = """;; CATEGORY "0" "" ""
940328 1 A 1.00 4.50 <o,en,male> UM (THE) WEATHER { IS / WAS } FINE @
940328 1 A 4.50 6.00 <o,f0,es> buenos días
940328 1 A 6.00 9.00 <O> IGNORE_TIME_SEGMENT_IN_SCORING
"""


def test_stm_has_languages_in_labels_and_regions_that_are_not_scored(tmp_path: Path) -> None:
    wav(tmp_path / "940328.wav")
    name, (one,), warnings = read(file(tmp_path / "ref.stm", STM))
    assert name == "stm"
    assert spoken(one) == [(1.0, 4.5, "en", "UM THE WEATHER IS FINE"), (4.5, 6.0, "es", "buenos días")]
    assert (one.lang, one.offset, one.duration) == ("en,es", None, 20.0)
    skipped = "'940328 1 A 6.00 9.00 <O> IGNORE_TIME_SEGMENT_IN_SCORING'"
    assert f"left out: without times, or not to be scored: 1 ({skipped})" in warnings
    assert "unknown language: 4 (o, male, f0)" in warnings
    assert [part.speaker for part in one.segments] == ["A", "A"]
    plain = file(tmp_path / "plain.stm", "940328 1 A 1 4 <o,f0,male> hello\n940328 1 A 5 6 there\n")
    assert [one.lang for one in read(plain, language="en")[1][0].segments] == ["en", "en"]


def test_each_word_of_a_ctm_is_a_segment_if_its_language_is_given(tmp_path: Path) -> None:
    path = file(tmp_path / "hyp.ctm", ";; a comment\n7654 A 12.00 0.34 YOU -12.384\n7654 A 11.34 0.2 YES -6.763\n")
    wav(tmp_path / "7654.wav")
    _, (one,), warnings = read(path)
    assert (one.text, one.segments, one.lang) == ("YES YOU", (), "")
    assert warnings == ["text without language: words are scored, switches are not: 1 (7654)"]
    _, (one,), warnings = read(path, language="en")
    assert spoken(one) == [(11.34, 11.54, "en", "YES"), (12.0, 12.34, "en", "YOU")]
    assert warnings == []


def test_rttm_names_languages_in_the_place_of_speakers(tmp_path: Path) -> None:
    wav(tmp_path / "rec1.wav")
    text = (
        "SPKR-INFO rec1 1 <NA> <NA> <NA> unknown eng <NA> <NA>\n"
        "SPEAKER rec1 1 1.5 2.350 <NA> <NA> eng <NA> <NA>\n"
        "SPEAKER\trec1\t1\t4.0\t3\t<NA>\t<NA>\tspa\t<NA>\n"
        "SPEAKER rec1 1 9.0 1.0 <NA> <NA> juliet <NA> <NA>\n"
    )
    name, recordings, warnings = read(file(tmp_path / "a.rttm", text))
    assert name == "rttm"
    assert [spoken(one) for one in recordings] == [[(1.5, 3.85, "en", ""), (4.0, 7.0, "es", "")]]
    assert warnings == ["unknown language: 1 (juliet)", "left out: neither text nor language: 1 (rec1 at 9 s)"]


@pytest.mark.parametrize("encoding,form", [("utf-8", "long_textgrid"), ("utf-16", "short_textgrid")])
def test_a_textgrid_of_praat_has_a_language_tier_or_tiers_named_after_languages(
    tmp_path: Path, encoding: str, form: Any
) -> None:
    wav(tmp_path / "talk.wav")
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("Language", [(0, 3, "spa"), (3, 20, "eng")], 0, 20))
    grid.addTier(textgrid.IntervalTier("MAR", [(1, 2.5, 'dijo "no"'), (3.5, 5, "and then")], 0, 20))
    grid.addTier(textgrid.IntervalTier("MAR - words", [(1, 2, "dijo"), (2, 2.5, "no")], 0, 20))
    grid.addTier(textgrid.PointTier("notes", [(1, "x")], 0, 20))
    grid.save(str(tmp_path / "talk.TextGrid"), form, includeBlankSpaces=True)
    file(tmp_path / "talk.TextGrid", (tmp_path / "talk.TextGrid").read_text("utf-8"), encoding)
    name, (one,), _ = read(tmp_path / "talk.TextGrid")
    assert name == "textgrid"
    assert spoken(one) == [(1.0, 2.5, "es", 'dijo "no"'), (3.5, 5.0, "en", "and then")]
    grid.removeTier("Language")
    for name, languages in (("MAR", []), ("English", ["en", "en"])):  # mar is Marathi, but MAR is a speaker
        grid.renameTier(grid.tierNames[0], name)
        grid.save(str(tmp_path / "talk.TextGrid"), "long_textgrid", includeBlankSpaces=True)
        assert [one.lang for one in read(tmp_path / "talk.TextGrid")[1][0].segments] == languages


def test_srt_takes_its_language_from_the_name_of_the_file(tmp_path: Path) -> None:
    subtitles = pysubs2.SSAFile()
    subtitles.append(pysubs2.SSAEvent(start=1000, end=2500, text=r"{\i1}Hola{\i0},\Nqué tal"))
    subtitles.append(pysubs2.SSAEvent(start=3000, end=4000, text="2 < 3"))
    subtitles.save(str(tmp_path / "film.es.srt"))
    wav(tmp_path / "film.wav")
    name, (one,), _ = read(tmp_path / "film.es.srt")
    assert (name, spoken(one)) == ("srt", [(1.0, 2.5, "es", "Hola, qué tal"), (3.0, 4.0, "es", "2 < 3")])


def test_webvtt_has_languages_in_cues_and_comments_between_them(tmp_path: Path) -> None:
    text = """WEBVTT - a title

NOTE the first comment

intro
00:01.000 --> 00:02.500 align:start
<v Ann><lang en-GB>Tom &amp; <i>Ann</i></lang>

NOTE
another comment

00:00:03.000 --> 00:00:04.000
<lang es>Hola,
amigos</lang>
"""
    wav(tmp_path / "film.wav")
    name, (one,), _ = read(file(tmp_path / "film.vtt", text))
    assert (name, spoken(one)) == ("vtt", [(1.0, 2.5, "en", "Tom & Ann"), (3.0, 4.0, "es", "Hola, amigos")])


def test_kaldi_folders_have_segments_or_utterances_and_their_commands_are_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "test"
    wav(tmp_path / "audio" / "call1.flac.wav")
    wav(tmp_path / "audio" / "call2.wav")
    command = f"sph2pipe -f wav -p -c 1 /corpora/call2.sph | touch {tmp_path}/run; cat call2.wav |"
    file(folder / "wav.scp", f"call1 {tmp_path}/audio/call1.flac.wav\ncall2 {command}\n")
    file(folder / "text", "a-1 hello there\na-2 hola\nb-1\tdo you\n")
    file(folder / "utt2lang", "a-1 en\na-2 spanish\nb-1 en\n")
    file(folder / "utt2spk", "a-1 ann\na-2 bo\n")
    file(folder / "segments", "a-1 call1 0.5 2.0\na-2 call1 2.0 -1\nb-1 call2 0 1.5\n")
    name, recordings, warnings = read(tmp_path / "data", audio=tmp_path / "audio")
    assert name == "kaldi"
    assert [spoken(one) for one in recordings] == [
        [(0.5, 2.0, "en", "hello there"), (2.0, 20.0, "es", "hola")],
        [(0.0, 1.5, "en", "do you")],
    ]
    assert [[part.speaker for part in one.segments] for one in recordings] == [["ann", "bo"], [""]]
    assert {one.split for one in recordings} == {"test"}
    assert warnings == ["only the audio file of a command in wav.scp is used: 1 (call2)"]
    assert not (tmp_path / "run").exists()
    (folder / "segments").unlink()
    file(folder / "text", "call1 hello there\ncall2 hola\n")
    _, recordings, _ = read(folder, audio=tmp_path / "audio", language="en")
    assert [(one.id, one.text, one.offset) for one in recordings] == [
        ("call1", "hello there", None),
        ("call2", "hola", None),
    ]


def cut(name: str, start: float, source: str, *supervisions: dict[str, Any]) -> dict[str, Any]:
    """A cut as lhotse writes it."""
    recording = {"id": "call", "sampling_rate": 16000, "num_samples": 320000, "duration": 20.0, "channel_ids": [0]}
    recording["sources"] = [{"type": "file", "channels": [0], "source": source}]
    held = [{"id": f"s{n}", "recording_id": "call", "channel": 0, **one} for n, one in enumerate(supervisions)]
    plain = {"id": name, "start": start, "duration": 3.09, "channel": 0, "supervisions": held}
    return {**plain, "recording": recording, "type": "MonoCut"}


def test_lhotse_cuts_count_from_their_start(tmp_path: Path) -> None:
    wav(tmp_path / "call.wav")
    one = cut(
        "ES2004b-0-0-6", 8.31, "/path/to/audio/call.wav",
        {"start": 1.2, "duration": 2.13, "text": "O K UM", "language": "English", "speaker": "FEE013"},
        {"start": -0.2, "duration": 1.2, "text": "oh no", "language": "English"},
    )  # fmt: skip
    mixed = {"id": "mix", "tracks": [{"cut": cut("a", 0, "x.wav"), "offset": 0.0}], "type": "MixedCut"}
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(lines(one, mixed).encode()))
    name, (recording,), warnings = read(path)
    assert (name, recording.id, recording.offset, recording.duration) == ("lhotse", "ES2004b-0-0-6", 8.31, 3.09)
    assert spoken(recording) == [(0.0, 1.0, "en", "oh no"), (1.2, 3.09, "en", "O K UM")]
    assert warnings == ["left out: neither text nor language: 1 (mix at 0 s)"]


def test_nemo_manifests_have_offsets_and_null(tmp_path: Path) -> None:
    wav(tmp_path / "call.wav")
    text = lines(
        {"audio_filepath": "call.wav", "duration": 4.0, "offset": 2.5, "text": "hello", "source_lang": "en"},
        {"audio_filepath": "call.wav", "duration": 20.0, "offset": None, "text": "a b", "lang": None, "pnc": "no"},
        {"audio_filepath": "missing.wav", "duration": 1.0, "text": "gone"},
    )
    name, recordings, warnings = read(file(tmp_path / "train_manifest.json", text))
    assert name == "json"
    assert [(one.id, one.offset, one.duration, one.lang) for one in recordings] == [
        ("call@2.5", 2.5, 4.0, "en"),
        ("call", None, 20.0, ""),
    ]
    assert "left out, because the audio was not found (--audio DIR): 1 (missing.wav)" in warnings


def test_a_manifest_of_whisperlab_stays_as_it_is(tmp_path: Path) -> None:
    wav(tmp_path / "call.wav")
    segments = [
        {"start": 0.5, "end": 2.0, "lang": "en", "text": "hi"},
        {"start": 2.0, "end": 3, "lang": "es", "text": "sí"},
    ]
    line = {
        "audio_filepath": "call.wav",
        "duration": 20.0,
        "text": "hi sí",
        "lang": "en,es",
        "id": "x",
        "segments": segments,
    }
    path = file(tmp_path / "m.jsonl", lines(line))
    _, (one,), warnings = read(path)
    (before,) = read_manifest(path)
    assert (one.id, one.text, one.lang, one.segments) == (before.id, before.text, before.lang, before.segments)
    assert warnings == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_audiofolder_metadata_names_files_of_its_folder_and_splits(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "test"):
        row = {"file_name": f"a/{split}.wav", "transcription": 'he said "no", twice', "language": "en"}
        if suffix == "jsonl":
            file(tmp_path / split / "metadata.jsonl", lines(row))
        else:
            file(tmp_path / split / "metadata.csv", f'{",".join(row)}\na/{split}.wav,"he said ""no"", twice",en\n')
        wav(tmp_path / split / "a" / f"{split}.wav", 3.0)
    _, recordings, _ = read(tmp_path)
    assert {one.split: one.text for one in recordings} == dict.fromkeys(("train", "test"), 'he said "no", twice')
    assert [spoken(one) for one in recordings] == [[(0.0, 3.0, "en", 'he said "no", twice')]] * 2


def test_tables_have_named_columns_and_openai_whisper_counts_milliseconds(tmp_path: Path) -> None:
    wav(tmp_path / "call.wav")
    table = "File;Start;End;Language;Text\ncall.wav;0,5;2;en;a\n"
    with pytest.raises(ManifestError, match="not valid as csv: ValueError: could not convert string to float: '0,5'"):
        read(file(tmp_path / "a.csv", table))
    _, (one,), _ = read(file(tmp_path / "a.csv", table.replace("0,5", "0.5")))
    assert spoken(one) == [(0.5, 2.0, "en", "a")]
    _, (one,), _ = read(
        file(tmp_path / "call.tsv", 'start\tend\ttext\n0\t2500\t"so it\n2500\t3000\tis\n'), language="en"
    )
    assert spoken(one) == [(0.0, 2.5, "en", '"so it'), (2.5, 3.0, "en", "is")]
    voices = "client_id\tpath\tsentence\tlocale\nf00\tcommon_voice_es_1.mp3\tHola.\tes\n"
    wav(tmp_path / "clips" / "common_voice_es_1.wav", 1.5)
    _, (one,), _ = read(file(tmp_path / "cv" / "dev.tsv", voices), audio=tmp_path / "clips")
    assert (one.split, spoken(one)) == ("dev", [(0.0, 1.5, "es", "Hola.")])


# ---- corpora -----------------------------------------------------------------------------------------------


def test_seame_utterances_in_two_languages_are_recordings_without_segments(tmp_path: Path) -> None:
    data = tmp_path / "LDC2015S04" / "data" / "interview"
    wav(data / "audio" / "NI01MAX_0101.flac.wav")
    wav(data / "audio" / "NI02FAX_0101.wav")
    both = "NI01MAX_0101\t1500\t3250\tCS\t[oh] 然后 the (ppl) class 很 <unk> fun\nNI01MAX_0101\t4000\t5000\tZH\t是 咯\n"
    file(data / "transcript" / "phaseII" / "NI01MAX_0101.txt", both.replace("NI01MAX_0101\t", "NI01MAX_0101.flac\t"))
    file(data / "transcript" / "phaseI" / "NI01MAX_0101.txt", "NI01MAX_0101\t1500\t3250\tignored\n")
    file(data / "transcript" / "phaseII" / "NI02FAX_0101.txt", "NI02FAX_0101\t100\t900\tEN\tyeah\n")
    with pytest.raises(ManifestError, match="not a line of seame"):
        read(tmp_path / "LDC2015S04", format_name="seame")
    file(data / "transcript" / "phaseII" / "NI01MAX_0101.txt", both)
    (data / "audio" / "NI01MAX_0101.flac.wav").rename(data / "audio" / "NI01MAX_0101.wav")
    name, recordings, warnings = read(tmp_path / "LDC2015S04")
    assert name == "seame"
    assert [(one.id, one.offset, one.lang, one.text) for one in recordings] == [
        ("NI01MAX_0101@1.5", 1.5, "zh,en", "oh 然后 the class 很 fun"),
        ("NI01MAX_0101@4", 4.0, "zh", "是 咯"),
        ("NI02FAX_0101", None, "en", "yeah"),
    ]
    assert [len(one.segments) for one in recordings] == [0, 1, 1]
    assert warnings == [
        "each row is a recording, for some are in several languages or in an unknown one: 1 (NI01MAX_0101.wav)"
    ]


MIAMI = """@UTF8
@Begin
@Languages:\tspa, eng
@Participants:\tLIL Lilia Adult, NAT Natalia Adult, OSE OSE Adult
@ID:\tspa, eng|Miami|LIL||female|||Adult|||
@Media:\tsastre5, audio
*LIL:\ty la mujer <no lle(gó)> [///] no [/] no se apareció . \x151457_4174\x15
%gls:\tand the woman not arrived
*LIL:\tentonces él con el otro abogado delante del juez (.) pidiendo que
\tnada (.) que vamos al [/] al trial@s:eng . \x154203_9429\x15
*LIL:\teh@s:eng&spa ah@s:eng&spa y la [/] la jueza +/ . \x159435_11780\x15
*NAT:\t+< [- eng] six to eight weeks yeah +... \x1511780_12900\x15
*LIL:\t&em you_know@s:eng xxx Pucho@s:eng&spa &=laugh [=! laughs] ? \x1513000_14000\x15
*OSE:\t+< www . \x1514000_15000\x15
*NAT:\tbueno .
*NAT:\tsí okay@s . \x1515000_16000\x15
@End
"""


def test_chat_files_of_bangor_miami_have_languages_of_utterances_and_words(tmp_path: Path) -> None:
    wav(tmp_path / "audio" / "sastre5.wav")
    name, recordings, warnings = read(file(tmp_path / "beta" / "sastre5.cha", MIAMI), audio=tmp_path / "audio")
    assert name == "chat"
    assert [(one.offset, one.lang, one.text) for one in recordings] == [
        (1.457, "es", "y la mujer no llegó no no se apareció"),
        (4.203, "es,en", "entonces él con el otro abogado delante del juez pidiendo que nada que vamos al al trial"),
        (9.435, "es", "eh ah y la la jueza"),
        (11.78, "en", "six to eight weeks yeah"),
        (13.0, "es,en", "you know Pucho"),
    ]
    assert [{part.speaker for part in one.segments} for one in recordings] == [{"LIL"}, set(), {"LIL"}, {"NAT"}, set()]
    (skipped,) = (one for one in warnings if one.startswith("left out: without times, or not to be scored: 2"))
    assert "bueno" in skipped
    assert "okay@s ." in skipped  # which language is meant is not said


def parquet(path: Path, select: str, *values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.connect().execute(f"COPY (SELECT {select}) TO '{path}' (FORMAT parquet)", list(values))
    return path


def test_ascend_is_read_from_the_parquet_files_of_hugging_face(tmp_path: Path) -> None:
    content = wav(tmp_path / "ses2_spk3_L13101_189.900_5.490.wav", 5.49).read_bytes()
    columns = (
        "'00644' AS id, '/tmp/waves/a.wav' AS path, {'bytes': ?::BLOB, 'path': 'ses2_spk3_L13101_189.900_5.490.wav'} AS"
        " audio, '因为你不可能邀你的 family 来玩你的车' AS transcription, 5.489999771118164::FLOAT AS duration,"
        " 'mixed' AS language, 3 AS original_speaker_id, 2 AS session_id, 'technology' AS topic"
    )
    parquet(tmp_path / "ASCEND" / "main" / "test-00000-of-00001.parquet", columns, content)
    name, (one,), warnings = read(tmp_path / "ASCEND")
    assert (name, one.id, one.lang, one.split, one.segments, warnings) == ("ascend", "00644", "zh,en", "test", (), [])
    assert one.audio_path == tmp_path / "ASCEND" / "out" / "audio" / "test" / "ses2_spk3_L13101_189.900_5.490.wav"
    assert one.audio_path.read_bytes() == content


@pytest.mark.parametrize("name", ["a*[b]?", "s3:a %41", "-a"])
def test_the_name_of_a_parquet_file_is_taken_literally(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / f"{name}.parquet", wav(tmp_path / "a.wav").read_bytes()
    columns = "{'bytes': ?::BLOB, 'path': 'a.wav'} AS audio, 'hello' AS transcription, 'en' AS language"
    parquet(tmp_path / "plain", columns, content).rename(path)
    parquet(tmp_path / "axbx.parquet", columns.replace("hello", "another"), content)  # which a*[b]? would match
    _, (one,), _ = read(path)
    assert one.text == "hello"


def test_the_spliced_fleurs_test_set_has_times_in_its_tagged_text(tmp_path: Path) -> None:
    content = wav(tmp_path / "a.wav", 12.0).read_bytes()
    tagged = "<en><start:0.00>hello there<end:5.32><ru><start:5.32>привет<end:12.00>"
    columns = (
        "{'bytes': ?::BLOB, 'path': NULL} AS audio, 'hello there привет' AS transcription, ? AS transcription_tagged,"
        " 12.0::DOUBLE AS duration_sec, ['en', 'ru', 'nl'] AS languages, 7 AS seed"
    )
    path = parquet(tmp_path / "fleurs" / "data" / "test-00000-of-00020.parquet", columns, content, tagged)
    name, (one,), _ = read(path)
    assert (name, one.lang, one.text, one.split) == ("parquet", "en,ru", "hello there привет", "test")
    assert spoken(one) == [(0.0, 5.32, "en", "hello there"), (5.32, 12.0, "ru", "привет")]
    assert one.id == "test-00000-of-00020-00001"


def test_cs_fleurs_has_pairs_of_languages(tmp_path: Path) -> None:
    row = {"id": "cmn_1928", "file_name": "audio/cmn/1928.wav", "text": "我们 need 水", "duration": 4.2, "fluency": 3.0}
    file(
        tmp_path / "cs-fleurs" / "read" / "test" / "metadata.jsonl",
        lines(row | {"language": "cmn-eng", "speaker": "5"}),
    )
    wav(tmp_path / "cs-fleurs" / "read" / "test" / "audio" / "cmn" / "1928.wav", 4.2)
    _, (one,), warnings = read(tmp_path / "cs-fleurs")
    assert (one.id, one.lang, one.split, one.segments, warnings) == ("cmn_1928", "zh,en", "test", (), [])


# ---- what all formats share --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stm", "vtt", "textgrid", "tsv", "rttm"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_whisperlab_writes_it_reads_again(tmp_path: Path, name: str, packed: bool) -> None:
    one = Transcript("my call", (segment("He said so.", "en", 1.0), segment("No, y punto.", "es", 4.0)), 20.0)
    suffix = "TextGrid" if name == "textgrid" else name
    path = file(tmp_path / f"my call.{suffix}", to_text([one], name))
    if packed:
        (tmp_path / f"my call.{suffix}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / f"my call.{suffix}.gz"
    wav(tmp_path / "my call.wav")
    _, (found,), _ = read(path)
    ends = (
        [part.end for part in found.segments] if name == "vtt" else [one.segments[0].end_time, one.segments[1].end_time]
    )
    texts = ["", ""] if name == "rttm" else ["He said so.", "No, y punto."]
    assert spoken(found) == [(1.0, ends[0], "en", texts[0]), (4.0, ends[1], "es", texts[1])]


def test_words_with_times_are_read_again_as_the_same_text(tmp_path: Path) -> None:
    wav(tmp_path / "my_call.wav")
    _, (one,), _ = read(file(tmp_path / "a.ctm", to_text([CALL], "ctm")))
    assert one.text.replace(" ", "") == "".join(part.text.replace(" ", "") for part in CALL.segments)


def test_a_format_is_recognised_by_its_content_and_two_formats_are_not_mixed(tmp_path: Path) -> None:
    wav(tmp_path / "940328.wav")
    name, (one,), _ = read(file(tmp_path / "reference.txt", STM.replace("\n", "\r\n")))
    assert (name, [part.text for part in one.segments]) == ("stm", ["UM THE WEATHER IS FINE", "buenos días"])
    file(tmp_path / "two" / "940328.stm", STM)
    file(tmp_path / "two" / "940328.srt", "1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    with pytest.raises(
        ManifestError, match=r"expected one format, found srt \(1\), stm \(1\); --format is one of kaldi,"
    ):
        read(tmp_path / "two")
    name, (one,), _ = read(tmp_path / "two", format_name="srt", audio=tmp_path)
    assert (name, one.text) == ("srt", "hello")
    for wrong in ({"format_name": "doc"}, {}):
        with pytest.raises(ManifestError, match="found none that is known"):
            read(file(tmp_path / "notes.txt", "some words\n"), **wrong)


def test_a_folder_can_be_imported_again_although_its_manifest_is_in_it(tmp_path: Path) -> None:
    wav(tmp_path / "940328.wav")
    file(tmp_path / "940328.stm", STM)
    for _ in range(2):
        name, recordings, _ = import_annotations(tmp_path, tmp_path / "manifest.jsonl")
        write_manifest(tmp_path / "manifest.jsonl", recordings)
        assert name == "stm"


def test_problems_are_counted_with_their_places(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 5.0)
    text = "a 1 x 0 2 <en> one\na 1 y 1 3 <es> two\na 1 y 4.5 5.5 <es> three\na 1 x 6 7 <en> four\n"
    _, (one,), warnings = read(file(tmp_path / "a.stm", f"{text}b 1 x 0 1 <en> five\n"))
    assert [end for _, end, *_ in spoken(one)] == [2.0, 3.0, 5.0]
    assert one.text == "one two three"
    assert warnings == [
        "left out, because the audio was not found (--audio DIR): 1 (b)",
        "left out, because the audio ends before or the length is 0: 1 (a)",
        "overlapping segments: 1 (a)",
    ]
    mixed = file(tmp_path / "mixed.stm", "a 1 x 0 2 <en,es> one dos\na 1 x 6 7 <en> four\n")
    assert [one.id for one in read(mixed)[1]] == ["a@0"]
    _, (other,), _ = read(file(tmp_path / "a.csv", text), format_name="stm")
    assert other.segments == one.segments
    with pytest.raises(ManifestError, match=r"no recording in it as stm; left out, because the audio was not found"):
        read(file(tmp_path / "b.stm", "b 1 x 0 1 <en> five\n"))


def test_rows_with_the_same_name_get_ids_of_their_own(tmp_path: Path) -> None:
    wav(tmp_path / "call.wav")
    row = {"audio_filepath": "call.wav", "duration": 4.0, "offset": 2.5, "text": "hello", "lang": "en"}
    _, recordings, _ = read(file(tmp_path / "manifest.json", json.dumps([row, row, row])))
    assert [one.id for one in recordings] == ["call@2.5", "call@2.5-2", "call@2.5-3"]


def test_audio_that_is_no_audio_is_told_by_name(tmp_path: Path) -> None:
    file(tmp_path / "940328.wav", "not audio")
    with pytest.raises(AudioFormatError, match=r"940328\.wav"):
        read(file(tmp_path / "ref.stm", STM))


@pytest.mark.parametrize(
    "name,text,told",
    [
        (
            "a.stm",
            "a 1 x 0 2 <en> one\na 1 x zero 2 <en> two\n",
            r"a\.stm:2: not a line of stm: 'a 1 x zero 2 <en> two'",
        ),
        (
            "a.jsonl",
            '{"audio_filepath": "a.wav"}\n{"audio_filepath": ]\n',
            r"a\.jsonl:2: expected one JSON object per line, found not JSON",
        ),
        ("a.json", '[{"audio": "a.wav", "start": {}}]', r"a\.json: not valid as json: TypeError"),
        ("a.TextGrid", "ooTextFile\nitem [\n", r"a\.TextGrid: not valid as textgrid: "),
        ("a.vtt", "WEBVTT\n\n\xff", "not valid as vtt: UnicodeDecodeError"),
        ("a.csv", "text\n", "no recording in it as csv; it is empty"),
    ],
)
def test_invalid_content_is_told_with_its_place(tmp_path: Path, name: str, text: str, told: str) -> None:
    wav(tmp_path / "a.wav", 3.0)
    with pytest.raises(ManifestError, match=told):
        read(file(tmp_path / name, text, "latin-1"))


def test_damaged_gzip_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(STM.encode())
    for content in (packed[:-20], packed[:60] + b"\0\0\0\0" + packed[64:]):
        (tmp_path / "a.stm.gz").write_bytes(content)
        with pytest.raises(OSError, match=r"damaged gzip: .*a\.stm\.gz"):
            read(tmp_path / "a.stm.gz")


def test_a_missing_library_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pysubs2", None)
    with pytest.raises(MissingDependencyError, match=r"pysubs2 \(to read srt\); pip install 'whisperlab\[formats\]'"):
        read(file(tmp_path / "a.srt", "1\n00:00:01,000 --> 00:00:02,000\nhello\n"))
    assert {row.get("extra") for row in FORMATS.values()} == {None, "formats", "sweep"}

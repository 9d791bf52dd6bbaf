"""Corpora: manifests, Debian packages as a source, cleaning, scenes, and building whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperlab import data as corpora
from whisperlab.data import Recording, debian, scenes
from whisperlab.data import corpora as corpora_module
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.data.corpora import RECIPES, VOICES
from whisperlab.data.debian import Package
from whisperlab.evaluation.trace import ReferenceSegment
from whisperlab.model.downloads import file_sha256
from whisperlab.util.errors import ConfigurationError, CorpusError, ManifestError
from whisperlab.util.timeline import SAMPLE_RATE, Span, samples

# ---- manifests


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    write_wav(path, np.zeros(4 * SAMPLE_RATE, dtype=np.float32))
    return path


def manifest(folder: Path, *lines: Mapping[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


LINE = {"audio_filepath": "call.wav", "duration": 4.0, "text": "hello hola", "lang": "en,es"}
SEGMENTS = [
    {"start": 0.5, "end": 1.5, "lang": "en", "text": "hello"},
    {"start": 2.0, "end": 3.5, "lang": "es", "text": "hola"},
]


def test_a_manifest_is_read_as_it_was_written(wav: Path) -> None:
    recordings = [
        Recording(
            id=f"call-{n}",
            audio_path=wav,
            duration=4.0,
            text="привет 你好",
            lang="ru,zh",
            segments=(ReferenceSegment(0.1, 1.0, "ru", "привет"), ReferenceSegment(1.5, 3.9, "zh", "你好")),
            split="dev",
            corpus="mine",
            snr=snr,
        )
        for n, snr in enumerate((None, 10.0))
    ]
    path = wav.parent / "manifest.jsonl"
    corpora.write_manifest(path, recordings)
    assert corpora.read_manifest(path) == recordings
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert [segment["gap_before_ms"] for segment in first["segments"]] == [100.0, 500.0]


def test_a_corpus_can_be_moved_because_audio_is_named_relative_to_the_manifest(wav: Path) -> None:
    path = manifest(wav.parent, LINE)
    corpora.write_manifest(path, corpora.read_manifest(path))
    assert json.loads(path.read_text())["audio_filepath"] == "call.wav"
    moved = wav.parent.rename(wav.parent.with_name("elsewhere"))
    assert corpora.read_manifest(moved / path.name)[0].audio_path == moved / "call.wav"


def test_audio_may_lie_anywhere_when_its_path_is_absolute_or_climbs(wav: Path) -> None:
    folder = wav.parent / "lists"
    folder.mkdir()
    climbing, absolute = {**LINE, "audio_filepath": "../call.wav"}, {**LINE, "audio_filepath": str(wav)}
    for line in (climbing, absolute):
        assert corpora.read_manifest(manifest(folder, line))[0].audio_path.samefile(wav)


def test_a_recording_in_one_language_is_its_own_segment(wav: Path) -> None:
    one, several, unknown = (
        corpora.read_manifest(manifest(wav.parent, {**LINE, "lang": lang}))[0] for lang in ("es", "en,es", "")
    )
    assert one.segments == (ReferenceSegment(0.0, 4.0, "es", "hello hola"),)
    assert several.segments == unknown.segments == ()
    assert (one.languages, several.languages, unknown.languages) == (("es",), ("en", "es"), ())


def test_a_recording_knows_its_switches_and_its_reference(wav: Path) -> None:
    (recording,) = corpora.read_manifest(manifest(wav.parent, {**LINE, "segments": SEGMENTS}))
    assert recording.switches == 1
    assert recording.reference == {"text": "hello hola", "segments": SEGMENTS}


def test_segments_may_name_their_speaker_and_the_times_of_their_words(wav: Path) -> None:
    first = {**SEGMENTS[0], "speaker": "Ann", "word_times": [[0.5, 1.25]]}
    path = manifest(wav.parent, {**LINE, "segments": [first, SEGMENTS[1]]})
    (recording,) = corpora.read_manifest(path)
    assert (recording.segments[0].speaker, recording.segments[0].word_times) == ("Ann", ((0.5, 1.25),))
    corpora.write_manifest(path, [recording])
    assert corpora.read_manifest(path)[0].segments == recording.segments
    assert recording.reference["segments"] == [first, SEGMENTS[1]]


@pytest.mark.parametrize(
    "wrong", [{"speaker": 7}, {"word_times": [[0, 1], [1, 2]]}, {"word_times": [[2, 1]]}, {"word_times": [1]}]
)
def test_speakers_and_word_times_of_another_form_are_refused(wav: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ManifestError, match=r"manifest.jsonl:1: segment 1.*(speaker|word_times|iterable)"):
        corpora.read_manifest(manifest(wav.parent, {**LINE, "segments": [{**SEGMENTS[0], **wrong}]}))


def test_the_words_of_a_corpus_have_times_within_their_segment() -> None:
    segments = [segment for one in corpora.load("ivr-en-es", "dev") for segment in one.segments]
    timed = [segment for segment in segments if segment.word_times]
    assert len(timed) > 0.9 * len(segments)  # a prompt of one word needs none
    for segment in timed:
        starts, ends = zip(*segment.word_times, strict=True)
        assert starts[1:] == ends[:-1], "a pause belongs to the word before it"
        assert starts[0] == pytest.approx(segment.start, abs=1e-3)
        assert ends[-1] == pytest.approx(segment.end, abs=0.02)
        assert min(end - start for start, end in segment.word_times) >= 0.04


def test_byte_order_marks_empty_lines_and_fields_of_others_do_no_harm(wav: Path) -> None:
    path = manifest(wav.parent, "", {**LINE, "speaker": "A."}, "  ")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [r.id for r in corpora.read_manifest(path)] == ["call"]


def test_a_line_separator_inside_a_text_does_not_end_the_line(wav: Path) -> None:
    line = json.dumps({**LINE, "text": "one\u2028two"}, ensure_ascii=False)
    assert corpora.read_manifest(manifest(wav.parent, line))[0].text == "one\u2028two"


BAD_LINES: dict[str, tuple[Mapping[str, Any] | str, str]] = {
    "not JSON": ("{'audio_filepath'", "not JSON"),
    "a list": ("[1, 2]", "expected one JSON object per line, found [1, 2]"),
    "no audio": ({"duration": 4.0, "text": ""}, "a line without audio_filepath"),
    "no duration": ({"audio_filepath": "call.wav", "text": ""}, "a line without duration"),
    "no text": ({"audio_filepath": "call.wav", "duration": 4.0}, "a line without text"),
    "text of another type": ({**LINE, "text": 7}, "text should be a string, got 7"),
    "duration as text": ({**LINE, "duration": "4"}, "duration should be a number of 0 or more, got '4'"),
    "duration below zero": ({**LINE, "duration": -1}, "got -1"),
    "duration not a number": ('{"audio_filepath": "call.wav", "duration": NaN, "text": ""}', "NaN is not JSON"),
    "no language": ({**LINE, "lang": "xx,en"}, "lang: unknown language 'xx'"),
    "a language misspelt": ({**LINE, "lang": "portugese"}, "closest are pt (portuguese)"),
    "audio not there": ({**LINE, "audio_filepath": "gone.wav"}, "gone.wav does not exist"),
    "segments as a mapping": ({**LINE, "segments": {}}, "segments should be a list"),
    "a segment as text": ({**LINE, "segments": ["hola"]}, "segment 1 should be an object"),
    "a segment without language": (
        {**LINE, "segments": [{"start": 0, "end": 1, "text": "a"}]},
        "segment 1 without lang",
    ),
    "a segment of two languages": (
        {**LINE, "segments": [{**SEGMENTS[0], "lang": "en,es"}]},
        "segment 1: lang: unknown language 'en,es'",
    ),
    "a segment that ends before it starts": ({**LINE, "segments": [{**SEGMENTS[0], "end": 0.1}]}, "got 0.5 to 0.1"),
    "a segment beyond the end": ({**LINE, "segments": [{**SEGMENTS[0], "end": 5.0}]}, "within the 4.0 s"),
    "segments out of order": ({**LINE, "segments": SEGMENTS[::-1]}, "segment 2 should start at 2.0 s or later"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_refused_with_its_file_and_number(wav: Path, name: str) -> None:
    line, reason = BAD_LINES[name]
    path = manifest(wav.parent, {**LINE, "id": "first"}, line)
    with pytest.raises(ManifestError) as refused:
        corpora.read_manifest(path)
    assert str(refused.value).startswith(f"{path}:2: ")
    assert reason in str(refused.value)


def test_an_id_given_twice_is_refused(wav: Path) -> None:
    with pytest.raises(ManifestError, match=r":2: the id 'call' was given before"):
        corpora.read_manifest(manifest(wav.parent, LINE, LINE))


def test_a_manifest_that_is_missing_empty_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        corpora.read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="no recording in it"):
        corpora.read_manifest(manifest(tmp_path, ""))
    (tmp_path / "manifest.jsonl").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a text in UTF-8"):
        corpora.read_manifest(tmp_path / "manifest.jsonl")


def test_a_name_that_is_not_utf_8_is_no_part_of_a_manifest(wav: Path, tmp_path: Path) -> None:
    (one,) = corpora.read_manifest(manifest(wav.parent, LINE))
    odd = replace(one, audio_path=wav.rename(wav.with_name(os.fsdecode(b"bad\xff.wav"))))
    with pytest.raises(ManifestError, match=r"a manifest needs names in UTF-8: rename 'bad.*ff\.wav'") as refused:
        corpora.write_manifest(wav.parent / "m.jsonl", [one, odd])
    assert str(wav.parent / "m.jsonl") in str(refused.value)
    assert not (wav.parent / "m.jsonl").exists()


def test_a_json_array_is_read_and_other_formats_are_refused(wav: Path) -> None:
    (expected,) = corpora.read_manifest(manifest(wav.parent, LINE))
    for indent in (None, 1):
        assert corpora.read_manifest(manifest(wav.parent, json.dumps([LINE], indent=indent))) == [expected]
    tables = ("audio,text\ncall.wav,hello\n", "1\n00:00:00,000 --> 00:00:01,000\nhello\n", "WEBVTT\n")
    for content in (*tables, json.dumps(LINE, indent=1), f"[{json.dumps(LINE)}, 3]", f"{json.dumps(LINE)}\n[]\n"):
        with pytest.raises(ManifestError, match=r"manifest\.jsonl:\d: expected one JSON object per line, found "):
            corpora.read_manifest(manifest(wav.parent, content))


def test_a_manifest_in_utf_16_is_read(wav: Path) -> None:
    path = wav.parent / "manifest.jsonl"
    path.write_text(json.dumps({**LINE, "text": "你好"}, ensure_ascii=False), encoding="utf-16")
    assert corpora.read_manifest(path)[0].text == "你好"


def test_regions_and_names_of_languages_become_codes(wav: Path) -> None:
    segments = [{**SEGMENTS[0], "lang": "en_GB"}, {**SEGMENTS[1], "lang": "Spanish"}]
    line = {**LINE, "lang": "es-MX, en-US", "segments": segments}
    (recording,) = corpora.read_manifest(manifest(wav.parent, line))
    assert recording.languages == ("es", "en")
    assert [segment.lang for segment in recording.segments] == ["en", "es"]
    (alone,) = corpora.read_manifest(manifest(wav.parent, {**LINE, "lang": "pt-BR"}))
    assert alone.segments[0].lang == "pt"


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """Four seconds of which each has a level of its own: 0.1, 0.2, 0.3, 0.4."""
    path = tmp_path / "call.wav"
    write_wav(path, np.repeat(np.array([0.1, 0.2, 0.3, 0.4], np.float32), SAMPLE_RATE))
    return path


def test_an_offset_selects_a_part_of_the_file(counting: Path) -> None:
    lines = (
        {**LINE, "offset": 1.0, "duration": 2.0, "lang": "en"},
        {**LINE, "offset": 2.5, "duration": 0.5, "segments": [{**SEGMENTS[0], "start": 0, "end": 0.5}]},
        {**LINE, "offset": 2.5, "duration": 1.0},
        {**LINE, "offset": 0.0},
        {**LINE, "offset": None, "id": "null"},
    )
    parts = corpora.read_manifest(manifest(counting.parent, *lines))
    assert [part.id for part in parts] == ["call@1", "call@2.5", "call@2.5+1", "call", "null"]
    assert [len(part.audio()) / SAMPLE_RATE for part in parts] == [2.0, 0.5, 1.0, 4.0, 4.0]
    levels = [sorted(set(part.audio().round(1).tolist())) for part in parts[:3]]
    assert levels == [pytest.approx([0.2, 0.3]), pytest.approx([0.3]), pytest.approx([0.3, 0.4])]
    assert parts[0].segments == (ReferenceSegment(0.0, 2.0, "en", LINE["text"]),)
    assert parts[1].segments[0].end == 0.5
    corpora.write_manifest(counting.parent / "again.jsonl", parts)
    again = corpora.read_manifest(counting.parent / "again.jsonl")
    assert [(part.id, part.offset, part.duration) for part in again] == [
        (part.id, part.offset, part.duration) for part in parts
    ]


def test_an_offset_that_cannot_be_is_refused(wav: Path) -> None:
    for offset, told in ((4.0, "call.wav ends at 4.00 s"), (-1, "got -1"), ("1", "got '1'")):
        with pytest.raises(ManifestError, match=rf":1: .*offset .*{told}"):
            corpora.read_manifest(manifest(wav.parent, {**LINE, "offset": offset, "duration": 1.0}))


def test_two_parts_alike_are_one_recording_too_many(wav: Path) -> None:
    part = {**LINE, "offset": 1.0, "duration": 1.0}
    with pytest.raises(ManifestError, match="was given before"):
        corpora.read_manifest(manifest(wav.parent, part, part, part))


def test_a_duration_that_the_file_does_not_have_is_told_and_not_believed(
    wav: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (
        {**LINE, "id": "long", "duration": 99.0},
        {**LINE, "id": "short", "duration": 2.0},
        {**LINE, "id": "rounded", "duration": 4.1},
        {**LINE, "id": "part", "offset": 3.0, "duration": 5.0},
    )
    path = manifest(wav.parent, *lines)
    recordings = corpora.read_manifest(path)
    assert [recording.duration for recording in recordings] == [4.0, 4.0, 4.1, 1.0]
    (told,) = caplog.messages
    assert f"{path}:1: duration is 99 s, but call.wav has 4.00 s" in told
    assert f"{path}:2: duration is 2 s" in told
    assert f"{path}:4: duration is 5 s" in told
    assert ":3:" not in told
    assert [r.duration for r in corpora.read_manifest(path, check_audio=False)] == [99.0, 2.0, 4.1, 5.0]


def test_a_segment_beyond_the_end_of_the_file_is_refused_whatever_the_line_says(wav: Path) -> None:
    line = {**LINE, "duration": 9.0, "segments": [{**SEGMENTS[0], "end": 6.0}]}
    with pytest.raises(ManifestError, match=r"within the 4\.0 s"):
        corpora.read_manifest(manifest(wav.parent, line))


def test_references_can_be_read_where_the_audio_is_not(tmp_path: Path) -> None:
    path = manifest(tmp_path, {**LINE, "segments": SEGMENTS})
    assert corpora.read_manifest(path, check_audio=False)[0].switches == 1


def test_a_manifest_of_your_own_is_loaded_like_a_corpus(wav: Path) -> None:
    path = manifest(
        wav.parent, {**LINE, "id": "a", "split": "dev"}, {**LINE, "id": "b", "split": "test"}, {**LINE, "id": "c"}
    )
    assert [r.id for r in corpora.load(path)] == ["a", "b", "c"]
    assert [r.id for r in corpora.load(str(path), "test")] == ["b", "c"]


def test_a_split_nobody_made_is_refused(wav: Path) -> None:
    path = manifest(wav.parent, {**LINE, "split": "dev"})
    with pytest.raises(ConfigurationError, match="no split 'train'; it has dev"):
        corpora.load(path, "train")


# ---- Debian packages


def deb(path: Path, files: Mapping[str, bytes], links: tuple[str, ...] = ()) -> Path:
    """Write a small .deb: as dpkg-deb does, with a control archive of odd length before the data."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz", preset=0) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    raw = b"!<arch>\n"
    for name, content in members.items():
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        raw += b"\n" * (len(content) % 2)
    path.write_bytes(raw)
    return path


def test_the_files_of_a_package_are_read_without_its_links(tmp_path: Path) -> None:
    files = {"./usr/share/a.txt": b"one", "./usr/share/b": b""}
    package = deb(tmp_path / "p.deb", files, links=("./usr/share/link",))
    assert debian.unpack(package) == {"usr/share/a.txt": b"one", "usr/share/b": b""}


@pytest.mark.parametrize("name", ["../outside", "./usr/../../outside", "/etc/outside"])
def test_a_member_that_points_outside_its_package_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="points outside"):
        debian.unpack(deb(tmp_path / "p.deb", {name: b"x"}))


def test_a_package_that_swells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="larger than any prompt"):
        debian.unpack(deb(tmp_path / "p.deb", {"bomb": bytes(9 << 20)}))


@pytest.mark.parametrize("damage", [b"", b"<html>not found</html>", b"!<arch>\n", b"!<arch>\n" + b"x" * 60])
def test_what_is_not_a_package_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "p.deb").write_bytes(damage)
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        debian.unpack(tmp_path / "p.deb")


@given(cut=st.floats(0, 0.98))
@settings(max_examples=30, deadline=None)
def test_a_package_cut_short_is_refused_whereever_it_was_cut(
    cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = deb(tmp_path_factory.mktemp("cut") / "p.deb", {"a": np.random.default_rng(0).bytes(5000)})
    whole = package.read_bytes()
    package.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        debian.unpack(package)


def test_the_pinned_package_is_taken_even_beside_a_newer_one(tmp_path: Path) -> None:
    pinned = deb(tmp_path / "prompts_1.0-1_all.deb", {"a": b"1"})
    deb(tmp_path / "prompts_2.0-1_all.deb", {"a": b"2"})
    package = Package("prompts", "1.0-1", file_sha256(pinned))
    assert debian.verified(package, tmp_path, accept_newer=True) == pinned


def test_a_newer_package_is_taken_only_when_asked_to(tmp_path: Path) -> None:
    newer = deb(tmp_path / "prompts_2.0-1_all.deb", {"a": b"2"})
    package = Package("prompts", "1.0-1", "0" * 64)
    with pytest.raises(CorpusError, match=r"version 2\.0-1 here.* made with 1\.0-1.*accept_newer=True"):
        debian.verified(package, tmp_path, accept_newer=False)
    assert debian.verified(package, tmp_path, accept_newer=True) == newer


def test_a_damaged_package_is_never_taken(tmp_path: Path) -> None:
    deb(tmp_path / "prompts_1.0-1_all.deb", {"a": b"?"})
    with pytest.raises(CorpusError, match="is not the package it is named after"):
        debian.verified(Package("prompts", "1.0-1", "0" * 64), tmp_path, accept_newer=True)


def test_a_folder_without_the_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"prompts_1\.0-1_all\.deb is missing"):
        debian.verified(Package("prompts", "1.0-1", "0" * 64), tmp_path, accept_newer=False)


class FakeApt:
    """An apt-get first on PATH that knows some packages, or learns them from its second ``update`` on."""

    def __init__(self, folder: Path, knows: tuple[str, ...], needs_update: bool) -> None:
        self.log = folder / "log"
        folder.mkdir()
        (folder / "apt-get").write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {self.log}\n'
            "while [ $1 = -q ] || [ $1 = -o ]; do [ $1 = -o ] && shift; shift; done\n"
            f"[ $1 = update ] && {{ touch {folder}/updated; exit 0; }}\n"
            "shift\n"
            "for name; do\n"
            f"  case ' {' '.join(knows)} ' in *\" $name \"*) ;; *)\n"
            '    echo "E: Unable to locate package $name" >&2; exit 100;; esac\n'
            f"  {f'[ -e {folder}/updated ]' if needs_update else 'true'} ||\n"
            '    { echo "E: Unable to locate package $name" >&2; exit 100; }\n'
            "  echo deb > ${name}_1.0-1_all.deb\n"
            "done\n"
        )
        (folder / "apt-get").chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """What it was asked for, without the options."""
        words = [line.split() for line in self.log.read_text().splitlines()]
        verbs = ("download", "update")
        return [" ".join(w[next(i for i, x in enumerate(w) if x in verbs) :]) for w in words]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeApt]:
    def install(*knows: str, needs_update: bool = False) -> FakeApt:
        fake = FakeApt(tmp_path / "bin", knows, needs_update)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        return fake

    return install


PACKAGES = [Package(name, "1.0-1", hashlib.sha256(b"deb\n").hexdigest()) for name in ("one", "two")]


def silent(line: str) -> None:
    pass


def test_only_what_is_missing_is_fetched(tmp_path: Path, apt: Callable[..., FakeApt]) -> None:
    fake = apt("one", "two")
    folder = tmp_path / "packages"
    debian.fetch(PACKAGES[:1], folder, silent)
    debian.fetch(PACKAGES, folder, silent)
    debian.fetch(PACKAGES, folder, silent)
    assert fake.calls == ["download one", "download two"]
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "one_1.0-1_all.deb", "two_1.0-1_all.deb"]


def test_empty_package_lists_are_made_up_for_without_touching_the_systems(
    tmp_path: Path, apt: Callable[..., FakeApt]
) -> None:
    """Containers come with empty lists, and a user may not refresh the system's."""
    fake = apt("one", "two", needs_update=True)
    said: list[str] = []
    debian.fetch(PACKAGES, tmp_path / "packages", said.append)
    assert fake.calls == ["download one two", "update", "download one two"]
    assert "Dir::State::Lists=" in fake.log.read_text().splitlines()[1]
    assert len(said) == 1
    assert "package lists" in said[0]
    assert len(list((tmp_path / "packages").glob("*.deb"))) == 2


def test_a_failed_download_says_what_apt_said_and_leaves_nothing(tmp_path: Path, apt: Callable[..., FakeApt]) -> None:
    apt("one")
    with pytest.raises(CorpusError, match="could not download one two: E: Unable to locate package two"):
        debian.fetch(PACKAGES, tmp_path / "packages", silent)
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [".lock"]


def test_without_apt_the_packages_to_bring_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"this system has no apt-get.*packages_dir: one two"):
        debian.fetch(PACKAGES, tmp_path / "packages", silent)


# ---- prompts


def burst(rng: np.random.Generator, lead_s: float, speech_s: float, tail_s: float) -> np.ndarray[Any, Any]:
    """Loud noise with faint noise before and after it."""
    faint = [1e-4 * rng.standard_normal(samples(t)) for t in (lead_s, tail_s)]
    loud = 0.1 * rng.standard_normal(samples(speech_s))
    return np.concatenate([faint[0], loud, faint[1]]).astype(np.float32)


@pytest.mark.parametrize(
    "key, text, words",
    [
        ("conf-muted", "You are now muted.", "You are now muted"),
        ("confbridge-mute-out", '...to mute or unmute yourself..."', "to mute or unmute yourself"),
        ("vm-ok", "¿Quiere continuar?", "¿Quiere continuar?"),
        ("digits/1", "one", None),
        ("tt-monkeys", "[sound of monkeys screaming]", None),
        ("confbridge-muted", "Voce disattivata. (You are now muted.)", None),
        ("conf-adminmenu", "Нажмите 1 чтобы отключить / включить", None),
        ("feature-not-avail-line", "Quella funzione non ? attiva", None),
        ("at-tone-time-exactly", "il tempo sar? esattamente", None),
        ("empty", "...", None),
        ("number", "42.", None),
    ],
)
def test_only_texts_that_are_spoken_as_written_are_kept(key: str, text: str, words: str | None) -> None:
    assert scenes.clean_text(key, text) == words


def test_texts_are_read_with_comments_marks_and_repeated_keys() -> None:
    raw = gzip.compress("\ufeff; Core sounds\n\na: one:  two\nb: first\nb: second\nno colon\n".encode())
    assert scenes.parse_texts(raw) == {"a": "one: two", "b": "first"}


@pytest.mark.parametrize(  # with names, because gzip writes the time and two processes must collect the same tests
    "raw", [b"plain", gzip.compress(b"a: b")[:-9], gzip.compress(b"\xff: b")], ids=["plain", "cut", "no UTF-8"]
)
def test_texts_that_cannot_be_read_are_told(raw: bytes) -> None:
    with pytest.raises(CorpusError, match="texts of the prompts"):
        scenes.parse_texts(raw)


def test_twins_are_one_sentence_even_when_only_one_language_shows_it() -> None:
    """``confbridge-mute-in`` and ``-out`` once fell into different splits."""
    texts = {
        "en": {"mute-in": "To mute", "mute-out": "to mute!", "loud": "Louder", "noise": "More volume"},
        "es": {"loud": "Más volumen", "noise": "mas volumen", "other": "Otro"},
    }
    of = scenes.sentences(texts)
    assert of["mute-in"] == of["mute-out"] != of["other"]
    assert of["loud"] == of["noise"]
    assert set(of) == {"mute-in", "mute-out", "loud", "noise", "other"}


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.sampled_from("uvwxyz"), max_size=12))
def test_equal_words_are_always_one_sentence(texts: dict[str, str]) -> None:
    of = scenes.sentences({"en": texts})
    for a in texts:
        for b in texts:
            assert (of[a] == of[b]) == (texts[a] == texts[b])


def test_the_split_of_a_sentence_never_changes() -> None:
    """Numbers published for ``test`` must not meet recordings that a later version tunes on."""
    keys = ["conf-muted", "vm-goodbye", "agent-pass", "invalid", "demo-thanks", "hours"]
    assert [scenes.split_of(key) for key in keys] == SPLIT_OF_KEYS


SPLIT_OF_KEYS = ["test", "dev", "test", "test", "test", "dev"]


@pytest.mark.parametrize("lead_s, tail_s", [(0.5, 0.25), (0.0, 0.0), (0.01, 1.0)])
def test_a_prompt_is_cut_to_its_speech(lead_s: float, tail_s: float) -> None:
    audio = burst(np.random.default_rng(1), lead_s, 2.0, tail_s)
    trimmed, speech = scenes.trim(audio)
    margins = min(lead_s, 0.03), min(tail_s, 0.03)
    assert len(trimmed) == samples(2.0 + sum(margins))
    assert speech == Span(samples(margins[0]), samples(margins[0] + 2.0))
    start = samples(lead_s - margins[0])
    assert np.array_equal(trimmed, audio[start : start + len(trimmed)])


@pytest.mark.parametrize("below_db, is_speech", [(25.0, True), (35.0, False)])
def test_what_is_thirty_decibels_below_the_loud_parts_is_not_speech(below_db: float, is_speech: bool) -> None:
    """Some prompts have hum or breath before the first word: a reference must not count it as speech."""
    rng = np.random.default_rng(3)
    loud, quiet = 0.1 * rng.standard_normal(32000), 0.1 * 10 ** (-below_db / 20) * rng.standard_normal(8000)
    _, speech = scenes.trim(np.concatenate([quiet, loud]).astype(np.float32))
    assert len(speech) == (40000 if is_speech else 32000)


@pytest.mark.parametrize("before_db, after_db", [(-23.0, -20.0), (-18.0, -20.0), (-40.0, -34.0), (-6.0, -12.0)])
def test_loudness_is_levelled_by_six_decibels_at_most(before_db: float, after_db: float) -> None:
    audio = np.full(16000, 10 ** (before_db / 20), dtype=np.float32)
    levelled = scenes.level(audio, Span(0, 16000))
    assert 20 * np.log10(levelled[0]) == pytest.approx(after_db, abs=1e-3)


@pytest.mark.parametrize(
    "speech_s, n_characters, usable",
    [(2.0, 30, True), (1.4, 20, False), (20.5, 300, False), (2.0, 9, False), (2.0, 57, False), (2.0, 56, True)],
)
def test_prompts_that_do_not_fit_their_text_are_left_out(speech_s: float, n_characters: int, usable: bool) -> None:
    audio = burst(np.random.default_rng(2), 0.1, speech_s, 0.1)
    assert (scenes.make_prompt("s", "en", "a" * n_characters, audio) is not None) == usable


def test_empty_and_silent_recordings_are_left_out() -> None:
    assert len(scenes.decode_prompt("g722", b"")) == 0
    for audio in (np.zeros(0, dtype=np.float32), np.zeros(48000, dtype=np.float32)):
        assert scenes.make_prompt("s", "en", "some words that are said", audio) is None


def g722(audio: np.ndarray[Any, Any]) -> bytes:
    """Encode as the packages are encoded."""
    out = io.BytesIO()
    with av.open(out, "w", format="g722") as container:
        stream = container.add_stream("g722", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.rint(audio * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def test_g722_comes_back_as_it_sounded() -> None:
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    decoded = scenes.decode_prompt("g722", g722(tone))
    assert len(decoded) == len(tone)
    spectrum = np.abs(np.fft.rfft(decoded))
    assert int(np.argmax(spectrum)) == 440
    assert np.std(decoded) == pytest.approx(np.std(tone), rel=0.05)


# ---- scenes


def tone_prompts(languages: tuple[str, ...], n: int = 60) -> list[scenes.Prompt]:
    """Prompts of 2 to 7 seconds, each a constant of its own, so that a sample tells where it comes from."""
    made = []
    for number in range(n):
        for lang in languages:
            n_speech = samples(2.0 + number % 26 * 0.2)
            level = 0.1 + 0.001 * number
            audio = np.full(n_speech + 960, level, dtype=np.float32)
            made.append(scenes.Prompt(f"{number:02d}", lang, f"{number} {lang}", audio, Span(480, 480 + n_speech)))
    return made


def plan(seed: int, languages: tuple[str, ...], length_s: float = 300.0) -> list[scenes.Scene]:
    return list(scenes.plan_scenes(np.random.default_rng(seed), tone_prompts(languages), languages, length_s))


@given(seed=st.integers(0, 2**32), languages=st.sampled_from([("en", "es"), ("en", "es", "fr", "it", "ru"), ("it",)]))
@settings(max_examples=25, deadline=None)
def test_every_scene_keeps_its_promises(seed: int, languages: tuple[str, ...]) -> None:
    planned = plan(seed, languages, 120.0)
    used = [id(placed.prompt) for scene in planned for placed in scene.placed]
    assert len(used) == len(set(used))
    assert 120.0 <= sum(map(len, planned)) / SAMPLE_RATE < 120.0 + 90.0
    for scene in planned:
        langs = [placed.prompt.lang for placed in scene.placed]
        runs = 1 + sum(a != b for a, b in itertools.pairwise(langs))
        assert 40.0 <= len(scene) / SAMPLE_RATE <= 90.0
        assert 8 <= scene.blocks <= 20
        assert runs == (scene.blocks if len(languages) > 1 else 1)
        assert len({placed.prompt.sentence for placed in scene.placed}) == len(scene.placed)
        end = 0
        for placed in scene.placed:
            assert 0 <= placed.start - end <= samples(0.6)
            end = placed.end


def test_a_block_has_one_or_two_prompts() -> None:
    runs: Counter[int] = Counter()
    for scene in plan(3, ("en", "es")):
        length = 0
        for placed, after in zip(scene.placed, [*scene.placed[1:], None], strict=True):
            length += 1
            if after is None or after.prompt.lang != placed.prompt.lang:
                runs[length] += 1
                length = 0
    assert set(runs) == {1, 2}


def test_half_of_the_scenes_have_noise() -> None:
    assert [scene.snr_db for scene in plan(4, ("en", "es"))][:5] == [None, 20.0, None, 10.0, None]


def test_all_languages_and_pauses_down_to_none_are_heard() -> None:
    placed = [p for scene in plan(5, ("en", "es", "fr", "it", "ru"), 900.0) for p in scene.placed]
    assert {p.prompt.lang for p in placed} == {"en", "es", "fr", "it", "ru"}
    gaps_ms = [1000 * (b.start - a.end) / SAMPLE_RATE for a, b in itertools.pairwise(placed) if b.start > a.end]
    assert min(gaps_ms) < 30
    assert max(gaps_ms) > 570
    assert np.mean(gaps_ms) == pytest.approx(300, abs=40)


def test_too_few_prompts_are_told() -> None:
    pool = tone_prompts(("en", "es"), 5)
    with pytest.raises(CorpusError, match=r"prompts left in en, es do not make another scene"):
        list(scenes.plan_scenes(np.random.default_rng(0), pool, ("en", "es"), 60.0))


def placed(*starts: int) -> scenes.Scene:
    """The first prompts of one language with their speech at the given samples."""
    pool = tone_prompts(("en",))
    return scenes.Scene(tuple(scenes.Placed(p, s) for p, s in zip(pool, starts, strict=False)), len(starts))


def test_speech_is_where_the_reference_says_and_silence_elsewhere() -> None:
    scene = placed(100, 40_000, 90_000)
    audio = scenes.render(scene, np.random.default_rng(0))
    assert len(audio) == scene.placed[-1].end + SAMPLE_RATE // 2
    heard = np.zeros(len(audio), dtype=bool)
    for p in scene.placed:
        assert np.all(audio[p.start : p.end] == p.prompt.audio[0])
        heard[max(0, p.start - 480) : p.end + 480] = True
    assert not np.any(audio[~heard])


def test_prompts_without_a_pause_between_them_fade_into_each_other() -> None:
    """The margins lie over the neighbour's speech: never louder than both, never a click."""
    first_end = placed(480).placed[0].end
    scene = placed(480, first_end)
    audio = scenes.render(scene, np.random.default_rng(0))
    a, b = (p.prompt.audio[0] for p in scene.placed)
    seam = audio[first_end - 481 : first_end + 481]
    assert np.all(seam <= a + b)
    assert np.all(np.diff(audio[: scene.placed[-1].end])[: first_end - 480] < 0.01)
    assert audio[first_end - 481] == a
    assert audio[first_end + 480] == b


@pytest.mark.parametrize("snr_db", [20.0, 10.0])
def test_noise_is_as_far_below_the_speech_as_stated(snr_db: float) -> None:
    clean = placed(480, 60_000, 120_000)
    noisy = scenes.Scene(clean.placed, clean.blocks, snr_db)
    speech = scenes.render(clean, np.random.default_rng(0))
    noise = scenes.render(noisy, np.random.default_rng(0)) - speech
    spoken = np.concatenate([speech[p.start : p.end] for p in clean.placed])
    ratio = 10 * np.log10(np.mean(spoken.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
    assert ratio == pytest.approx(snr_db, abs=0.01)


def test_pink_noise_has_equal_power_in_every_octave() -> None:
    noise = scenes.pink_noise(np.random.default_rng(0), 1 << 19)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    octaves = [power[(hertz >= low) & (hertz < 2 * low)].sum() for low in (100, 200, 400, 800, 1600, 3200)]
    assert np.mean(np.square(noise)) == pytest.approx(1.0, rel=1e-3)
    assert np.ptp(10 * np.log10(octaves)) < 0.6


# ---- building


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages like Debian's with noise for voices: a newer version, so their digests are free."""
    folder = tmp_path_factory.mktemp("debs")
    rng = np.random.default_rng(0)
    sounds = [(length, g722(burst(rng, 0.1, length, 0.1))) for length in np.arange(2.0, 7.0, 0.5)]
    for lang, voice in VOICES.items():
        lines, recordings = [f"; Core Asterisk Sounds in {voice.language}"], {}
        for number in range(N_PROMPTS):
            length, raw = sounds[number * len(sounds) // N_PROMPTS]  # equal ones side by side, so that xz packs them
            lines.append(f"prompt-{number:03d}: {lang} number {number} {'word ' * round(2 * length)}")
            recordings[f"./usr/share/asterisk/sounds/{lang}_voice/prompt-{number:03d}.g722"] = raw
        texts = gzip.compress("\n".join(lines).encode(), mtime=0)
        name = f"./usr/share/doc/{voice.texts.name}/core-sounds-{lang}.txt.gz"
        deb(folder / f"{voice.texts.name}_2.0-1_all.deb", {name: texts})
        deb(folder / f"{voice.audio.name}_2.0-1_all.deb", recordings)
    return folder


N_PROMPTS = 60  # of each language
ONE_SCENE = {"dev": 30.0, "test": 30.0}  # seconds of a split: any scene is longer
TWO_SCENES = {"dev": 30.0, "test": 100.0}  # no scene is as long; the second has noise


def ask_for(seconds: Mapping[str, float], patch: pytest.MonkeyPatch) -> None:
    """Recipes of so many seconds, which are quick to build."""
    for name, made in RECIPES.items():
        patch.setitem(RECIPES, name, replace(made, seconds=seconds))


@pytest.fixture
def shelf(debs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages, and recipes of one scene a split."""
    ask_for(ONE_SCENE, monkeypatch)
    return debs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(shelf: Path, name: str, seed: int = 0) -> Path:
    return corpora.build(name, seed, packages_dir=shelf, accept_newer=True)


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(TWO_SCENES, monkeypatch)
    digests = []
    for place, seed in (("a", 0), ("b", 0), ("a", 1)):
        monkeypatch.setenv("WHISPERLAB_CACHE", str(tmp_path / place))
        digests.append(digest(build(shelf, "ivr-en", seed)))
    assert digests[0] == digests[1] != digests[2]


def test_a_built_corpus_is_what_its_manifest_says(shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(TWO_SCENES, monkeypatch)
    folder = build(shelf, "ivr-en-es")
    assert folder == corpora.corpus_dir("ivr-en-es") == cache / "corpora" / "ivr-en-es" / "0"
    recordings = corpora.load("ivr-en-es")
    assert {p.stem for p in (folder / "audio").iterdir()} == {r.id for r in recordings}
    for recording in recordings:
        assert len(read_audio(recording.audio_path)) == samples(recording.duration)
        assert recording.lang == "en,es"
        assert recording.corpus == "ivr-en-es"
        assert recording.text == " ".join(s.text for s in recording.segments)
        assert recording.switches >= 7
        assert all(0 <= gap <= 0.6 + 1e-9 for gap in recording.gaps)
    for split, least in RECIPES["ivr-en-es"].seconds.items():
        assert sum(r.duration for r in corpora.load("ivr-en-es", split)) >= least


def test_no_sentence_is_in_both_splits_in_any_language_corpus_or_seed(shelf: Path, cache: Path) -> None:
    heard: dict[str, set[str]] = {"dev": set(), "test": set()}
    for name, seed in (("ivr-en", 0), ("ivr-en", 7), ("ivr-it", 3)):
        build(shelf, name, seed)
        for recording in corpora.load(name, seed=seed):
            heard[recording.split] |= {s.text.split()[2] for s in recording.segments}
    assert heard["dev"]
    assert heard["test"]
    assert not heard["dev"] & heard["test"]


def test_a_control_has_one_language_and_no_switch(shelf: Path, cache: Path) -> None:
    build(shelf, "ivr-ru")
    assert {(r.lang, r.switches) for r in corpora.load("ivr-ru")} == {("ru", 0)}


def test_a_corpus_is_built_once(shelf: Path, cache: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        corpora.build("ivr-fr", packages_dir=shelf, accept_newer=True, say=said.append)
    assert said == ["ivr-fr: reading French (Canada)", "ivr-fr: splicing dev", "ivr-fr: splicing test"]


def test_builders_at_the_same_time_build_once(shelf: Path, cache: Path) -> None:
    said: list[str] = []
    built: list[Path] = []

    def run() -> None:
        built.append(corpora.build("ivr-es", packages_dir=shelf, accept_newer=True, say=said.append))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [corpora.corpus_dir("ivr-es")] * 3
    assert said.count("ivr-es: splicing test") == 1


def test_a_build_that_fails_leaves_no_corpus(shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, audio: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpora_module, "write_wav", full)
        with pytest.raises(CorpusError, match=r"ivr-it could not be built in .*No space left"):
            build(shelf, "ivr-it")
    assert not corpora.is_built("ivr-it")
    assert [p.name for p in (cache / "corpora" / "ivr-it").iterdir()] == [".lock"]
    build(shelf, "ivr-it")
    assert corpora.is_built("ivr-it")


def test_what_a_killed_builder_left_is_cleared_away(shelf: Path, cache: Path) -> None:
    left = cache / "corpora" / "ivr-it" / ".0.x.part"
    left.mkdir(parents=True)
    (left / "recipe.json").write_text("{}")
    folder = build(shelf, "ivr-it")
    assert not left.exists()
    assert len(corpora.load("ivr-it")) == len(list((folder / "audio").iterdir()))


def test_a_corpus_made_by_an_older_recipe_is_made_anew(
    shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora_module, "RECIPE_VERSION", 1)
    folder = build(shelf, "ivr-it")
    (folder / "audio" / "left.wav").touch()
    monkeypatch.setattr(corpora_module, "RECIPE_VERSION", 2)
    assert not corpora.is_built("ivr-it")
    build(shelf, "ivr-it")
    assert corpora.is_built("ivr-it")
    assert not (folder / "audio" / "left.wav").exists()


def test_the_card_says_what_it_is_whom_to_thank_and_what_it_is_made_of(shelf: Path, cache: Path) -> None:
    text = (build(shelf, "ivr-en-es") / "CARD.md").read_text(encoding="utf-8")
    assert "spliced human speech, not a code-switching corpus" in text
    assert "Allison Smith" in text
    assert "CC BY-SA 3.0" in text
    assert "Carlo Flora" not in text
    used = file_sha256(shelf / "asterisk-core-sounds-es-g722_2.0-1_all.deb")
    assert f"| asterisk-core-sounds-es-g722 | 2.0-1 | {used} |" in text
    recordings = corpora.load("ivr-en-es", "test")
    minutes = sum(r.duration for r in recordings) / 60
    assert f"| test | {len(recordings)} | {minutes:.1f} |" in text


def test_info_tells_a_corpus_apart_from_its_recipe(shelf: Path, cache: Path) -> None:
    before = corpora.info("ivr-en")
    build(shelf, "ivr-en")
    after = corpora.info("ivr-en")
    assert (before["built"], before["splits"]) == (False, {})
    assert after["built"]
    assert after["splits"]["test"]["minutes"] >= ONE_SCENE["test"] / 60
    assert after["splits"]["test"]["switches"] == 0
    assert json.loads(json.dumps(after)) == after


def test_names_seeds_and_splits_that_do_not_exist_are_refused(shelf: Path, cache: Path) -> None:
    for call in (corpora.build, corpora.info, corpora.corpus_dir):
        with pytest.raises(ConfigurationError, match="unknown corpus 'ivr-six'; the corpora are ivr-five, ivr-en-es"):
            call("ivr-six")
    with pytest.raises(ConfigurationError, match="'ivr-six' is neither a manifest nor one of ivr-five"):
        corpora.load("ivr-six")
    with pytest.raises(ConfigurationError, match="seed should be 0 or more, got -1"):
        corpora.build("ivr-five", -1)
    with pytest.raises(CorpusError, match="ivr-five is not built yet for seed 5"):
        corpora.load("ivr-five", seed=5, build_missing=False)
    build(shelf, "ivr-en")
    with pytest.raises(ConfigurationError, match="ivr-en has no split 'train'; it has dev, test"):
        corpora.load("ivr-en", "train")


def test_packages_of_another_version_are_not_taken_by_default(shelf: Path, cache: Path) -> None:
    with pytest.raises(CorpusError, match="other audio, other results"):
        corpora.build("ivr-en", packages_dir=shelf)


def test_a_package_without_its_texts_is_told(shelf: Path, cache: Path, tmp_path: Path) -> None:
    for path in shelf.iterdir():
        (tmp_path / path.name).symlink_to(path)
    name = f"{VOICES['ru'].texts.name}_2.0-1_all.deb"
    (tmp_path / name).unlink()
    deb(tmp_path / name, {"./usr/share/doc/readme": b""})
    with pytest.raises(CorpusError, match="asterisk-core-sounds-ru has no usr/share/doc"):
        corpora.build("ivr-en", packages_dir=tmp_path, accept_newer=True)


# ---- the real ones


def test_the_real_corpora_have_twenty_minutes_to_test_on_and_share_no_sentence() -> None:
    minutes = 0.0
    heard: dict[tuple[str, str], set[str]] = {}
    for name in corpora.list_corpora():
        for recording in corpora.load(name):
            minutes += recording.duration / 60 * (recording.split == "test")
            assert len(read_audio(recording.audio_path)) == samples(recording.duration)
            for segment in recording.segments:
                split_of = heard.setdefault((segment.lang, scenes.fold(segment.text)), set())
                split_of.add(recording.split)
    assert minutes >= 20
    assert len(heard) > 300
    assert all(len(splits) == 1 for splits in heard.values())


@pytest.mark.parametrize("name", ["ivr-five", "ivr-en-es"])
def test_the_pauses_of_a_clean_real_scene_are_silent_and_its_speech_is_not(name: str) -> None:
    recording = next(r for r in corpora.load(name, "test") if r.snr is None)
    audio = read_audio(recording.audio_path)
    margin_s = 0.031
    for before, after in zip(recording.segments, recording.segments[1:], strict=False):
        pause = audio[samples(before.end + margin_s) : samples(max(before.end, after.start - margin_s))]
        assert not np.any(pause)
        for edge in (after.start, after.end - 0.01):
            assert np.std(audio[samples(edge) : samples(edge + 0.01)]) > 1e-3

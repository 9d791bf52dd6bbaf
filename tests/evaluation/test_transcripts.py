"""Transcripts in other programs' formats, read by those programs' own readers, and the words they are made of."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid
from test_trace import record_fake

from whisperlab.evaluation.trace import Trace, read_trace, write_trace
from whisperlab.evaluation.transcripts import FORMATS, SubtitleOptions, Transcript, to_text
from whisperlab.streaming.decoding import Word, segment_words
from whisperlab.streaming.results import SegmentWord, SessionSegment, timed_words
from whisperlab.util.errors import ConfigurationError, TraceError


def segment(text: str, language: str, start: float, step: float = 0.5) -> SessionSegment:
    """A segment whose words, separated by spaces, take ``step`` seconds each."""
    words = tuple(
        SegmentWord(f" {word}", start + n * step, start + (n + 1) * step, 0.5, language)
        for n, word in enumerate(text.split())
    )
    return SessionSegment(text, language, start, words[-1].end, True, 0.5, words)


ENGLISH = segment('He said "one <two> & three". Then he went on, and on, and on. Done.', "en", 1.0)
CHINESE = SessionSegment("你好世界", "zh", 9.0, 9.8, True, 0.9, tuple(
    SegmentWord(c, 9 + n / 5, 9.2 + n / 5, 0.9, "zh") for n, c in enumerate("你好世界")
))  # fmt: skip
CALL = Transcript("my call", (ENGLISH, CHINESE), 12.0)


def test_srt_is_read_back_with_times_and_text() -> None:
    read = pysubs2.SSAFile.from_string(to_text([CALL], "srt"), format_="srt", keep_unknown_html_tags=True)
    assert " ".join(event.text.replace("\\N", " ") for event in read) == f"{ENGLISH.text} {CHINESE.text}"
    assert (read[0].start, read[-1].start) == (1000, 9000)
    assert all(a.end <= b.start for a, b in pairwise(read))
    assert read[-1].end <= 12_000


def test_vtt_escapes_text_and_names_the_language_of_each_cue() -> None:
    text = to_text([CALL], "vtt")
    assert text.startswith("WEBVTT\n\n")
    assert "<lang en>" in text
    assert '"one &lt;two&gt; &amp; three".' in text
    read = pysubs2.SSAFile.from_string(text, format_="vtt")
    assert [event.start for event in read] == [
        event.start for event in pysubs2.SSAFile.from_string(to_text([CALL], "srt"), format_="srt")
    ]


def test_a_textgrid_has_tiers_for_language_text_and_words(tmp_path: Path) -> None:
    path = tmp_path / "call.TextGrid"
    path.write_text(to_text([CALL], "textgrid"), encoding="utf-8")
    read = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert read.tierNames == ("language", "text", "words")
    assert read.maxTimestamp == 12
    assert [(e.start, e.end, e.label) for e in read.getTier("language").entries] == [
        (1.0, ENGLISH.end_time, "en"),
        (9.0, 9.8, "zh"),
    ]
    assert [entry.label for entry in read.getTier("text").entries] == [ENGLISH.text, CHINESE.text]
    assert len(read.getTier("words").entries) == len(ENGLISH.words) + 4


def test_tables_have_the_columns_of_their_formats() -> None:
    tsv = list(csv.DictReader(io.StringIO(to_text([CALL], "tsv")), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(row["start"], row["text"], row["language"]) for row in tsv] == [
        ("1000", ENGLISH.text, "en"),
        ("9000", CHINESE.text, "zh"),
    ]
    ctm = [line.split(" ") for line in to_text([CALL], "ctm").splitlines()]
    assert ctm[0] == ["my_call", "1", "1.000", "0.500", "He", "0.500"]
    assert len(ctm) == len(ENGLISH.words) + 4
    rttm = to_text([CALL], "rttm").splitlines()
    assert rttm[1] == "SPEAKER my_call 1 9.000 0.800 <NA> <NA> zh <NA> <NA>"
    assert to_text([CALL], "stm").splitlines()[1] == "my_call 1 unknown 9.000 9.800 <zh> 你好世界"
    assert to_text([CALL], "txt") == f"{ENGLISH.text}\n{CHINESE.text}\n"


def test_channels_are_merged_in_subtitles_and_numbered_in_tables() -> None:
    left = Transcript("call", (segment("one two", "en", 0.0), segment("five", "en", 4.0)), 6.0, "left")
    right = Transcript("call", (segment("three four", "en", 2.0),), 6.0, "right")
    cues = pysubs2.SSAFile.from_string(to_text([left, right], "srt"), format_="srt")
    assert [cue.text for cue in cues] == ["[left] one two", "[right] three four", "[left] five"]
    assert [line.split()[1] for line in to_text([left, right], "stm").splitlines()] == ["left", "right", "left"]
    assert to_text([left, right], "textgrid").count("IntervalTier") == 6


texts = st.text(st.sampled_from(" abcdéñ你好.,?!\n<>&-"), max_size=300).filter(str.strip)


@given(texts, st.integers(10, 60), st.integers(1, 3), st.floats(1, 10))
def test_cues_keep_every_word_and_the_limits(text: str, line_chars: int, lines: int, longest_s: float) -> None:
    one = segment(text, "en", 0.0, 0.4)
    options = SubtitleOptions(line_chars=line_chars, lines=lines, longest_s=longest_s)
    srt = to_text([Transcript("a", (one,), 1000.0)], "srt", options)
    cues = [part.split("\n") for part in srt.strip().split("\n\n")]
    shown = [line for cue in cues for line in cue[2:]]
    assert "".join(shown).replace(" ", "") == "".join(one.text.split()).replace("-->", "->")
    for _number, times, *held in cues:
        assert 1 <= len(held) <= lines
        assert all(len(line) <= line_chars or " " not in line for line in held)
        assert " --> " in times


def test_a_short_cue_stays_until_it_can_be_read_or_the_next_begins() -> None:
    quick = segment("incomprehensibilities notwithstanding", "en", 0.0, 0.1)
    for following, end in ((5.0, "00:00:01,850"), (1.0, "00:00:01,000")):
        text = to_text([Transcript("a", (quick, segment("so", "en", following)), 9.0)], "srt")
        assert text.splitlines()[1] == f"00:00:00,000 --> {end}"


def test_a_format_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigurationError, match="unknown format 'doc'; there are: txt, srt"):
        to_text([CALL], "doc")
    with pytest.raises(ConfigurationError, match="line_chars must be 10 to 1000"):
        SubtitleOptions(line_chars=3)


def test_a_recording_without_text_is_an_empty_file_of_its_format() -> None:
    nothing = Transcript("a", (), 3.0)
    assert {name for name in FORMATS if to_text([nothing], name) == ""} == {"txt", "srt", "ctm", "rttm", "stm"}
    assert to_text([nothing], "vtt") == "WEBVTT\n\n"
    assert "xmax = 3.000000" in to_text([nothing], "textgrid")


# ---- words


def test_punctuation_joins_the_word_it_belongs_to() -> None:
    said = [(" ¿", 0, 1), ("Qué", 1, 2), ("?", 2, 3), (" -", 3, 3), (" No", 3, 4), (".", 4, 9), (" (", 9, 9)]
    words = [Word(text, (1,), 16_000 * start, 16_000 * end, -0.5) for text, start, end in said]
    found = segment_words(words, "es")
    assert [(word.word, word.start, word.end) for word in found] == [(" ¿Qué?", 1, 2), (" - No. (", 3, 4)]
    assert "".join(word.word for word in found) == "".join(text for text, *_ in said)
    assert segment_words(words[:1], "es") == ()


def test_without_word_times_words_share_the_segment_by_their_letters() -> None:
    found = timed_words(SessionSegment("a abc", "en", 2.0, 8.0, True, 0.5))
    assert [(word.word, word.start, word.end) for word in found] == [(" a", 2.0, 4.0), (" abc", 4.0, 8.0)]
    assert timed_words(SessionSegment("", "en", 2.0, 8.0, True, 0.5)) == []


def test_words_are_kept_in_a_trace_and_wrong_ones_refused(tmp_path: Path) -> None:
    word = {"word": " hi", "start": 0.1, "end": 0.2, "probability": 0.5, "language": "en"}
    plain = {"text": "hi", "language": "en", "start_time": 0.1, "end_time": 0.2, "is_final": True, "confidence": 0.5}
    clocks = {"kind": "segment", "at": 0.2, "elapsed": 1.0}
    made, path = record_fake(tmp_path / "fake.jsonl"), tmp_path / "trace.jsonl"
    write_trace(path, Trace(made.header, ({**clocks, **plain}, {**clocks, **plain, "words": [word]}, made.events[-1])))
    without, timed = read_trace(path).segments
    assert without.words == ()
    assert timed.words == (SegmentWord(" hi", 0.1, 0.2, 0.5, "en"),)
    assert read_trace(path).to_srt().splitlines()[2] == "hi"
    bad: object
    for bad in ("words", [1], [{**word, "start": "0"}], [{"word": " hi"}]):
        lines = path.read_text().splitlines()
        lines[2] = json.dumps({**json.loads(lines[2]), "words": bad})
        (tmp_path / "bad.jsonl").write_text("\n".join(lines))
        with pytest.raises(TraceError, match="words should be a list of words"):
            read_trace(tmp_path / "bad.jsonl")

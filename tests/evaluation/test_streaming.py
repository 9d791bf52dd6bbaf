"""Streaming latency: equal to OmniSTEval and mweralign on the same logs, and every measure by a case done by hand.

OmniSTEval and simulstream are the real packages (extra ``yardsticks``). mweralign.json has 60 random texts as mweralign
1.4.1 cuts them; that package has another licence and is not installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from whisperlab.evaluation.scoring import pooled, score_trace
from whisperlab.evaluation.scoring.streaming import (
    StreamCounts,
    edit_segments,
    final_words,
    live_times,
    soft_segments,
    stream_counts,
)
from whisperlab.evaluation.stream_log import write_exports
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace

Event = tuple[float, float, str, str]  # audio clock, wall clock, committed, tentative
WORDS = [
    "the",
    "a",
    "of",
    "one",
    "two",
    "three",
    "main",
    "mean",
    "sí",
    "hola",
    "número",
    "Über",
    "你",
    "好吗",
    ".",
    "call.",
]


def spoken(*segments: tuple[float, float, str]) -> Reference:
    return Reference("", tuple(ReferenceSegment(start, end, "en", text) for start, end, text in segments))


def stream(*events: Event, pace: str = "real", name: str = "call", **end: Any) -> Trace:
    header = {"kind": "header", "recording": name, "config": {}, "audio": {"duration": 20.0}, "pace": pace}
    texts = [
        {"kind": "text", "at": at, "elapsed": elapsed, "committed": final, "tentative": open_text, "language": "en"}
        for at, elapsed, final, open_text in events
    ]
    last = {"kind": "end", "at": 20.0, "elapsed": 21.0, "statistics": {}, "compute_s": 1.0, "peak_rss_bytes": None}
    return Trace({**header, "reference": None, "created": "", "schema": 4}, (*texts, {**last, **end}))


def made_up(rng: Random, name: str) -> tuple[Trace, Reference]:
    """A recogniser that leaves out, changes and adds words, and changes its tentative text."""
    segments, heard, start = [], list[tuple[float, str]](), 0.0
    for _ in range(6):
        words = rng.choices(WORDS, k=rng.randint(1, 7))
        length = 0.4 * len(words)
        segments.append((start, start + length, " ".join(words)))
        for place, word in enumerate(words):
            said = {0: [], 1: [rng.choice(WORDS)], 2: [word, rng.choice(WORDS)]}.get(rng.randrange(8), [word])
            heard += [(start + 0.4 * (place + 1), each) for each in said]
        start += length + rng.choice([0.0, 0.3, 1.0])
    events, at = [], 0.0
    while heard:
        at += 1
        ready = [word for time, word in heard if time <= at]
        done = rng.randint(0, len(ready)) if at < start + 1 else len(ready)
        guess = [rng.choice([word, rng.choice(WORDS)]) for word in ready[done:]]
        heard = heard[done:]
        events.append((at, at + rng.random(), "".join(f" {word}" for word in ready[:done]), " ".join(guess)))
    return stream(*events, name=name), spoken(*segments)


def omnisteval(folder: Path, log: str, *how: str) -> dict[str, float]:
    """The measures of OmniSTEval's own command, in seconds."""
    words = ["longform", "--speech_segmentation", "segments.yaml", "--ref_sentences_file", "references.txt"]
    words += ["--hypothesis_file", log, "--word_level", "--no_quality", "--output_folder", "out", *how]
    subprocess.run([sys.executable, "-m", "omnisteval.cli", *words], cwd=folder, check=True, capture_output=True)
    lines = [line.split("\t") for line in (folder / "out" / "scores.tsv").read_text("utf-8").splitlines()[1:]]
    return {name: float(value) / 1000 for name, value in lines}


# ---- the real packages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_longyaal_and_longlaal_are_those_of_omnisteval(seed: int, tmp_path: Path) -> None:
    streams = [made_up(Random(100 * seed + number), f"call-{number}") for number in range(5)]
    write_exports(tmp_path, streams)
    found = omnisteval(tmp_path, "omnisteval.jsonl")
    rates = pooled(score_trace(*one) for one in streams).rates()
    for ours, theirs in (("long_yaal", "LongYAAL"), ("long_laal", "LongLAAL")):
        assert rates[ours] == pytest.approx(found[f"{theirs} (CU)"], abs=1e-6)
        assert rates[f"{ours}_ca"] == pytest.approx(found[f"{theirs} (CA)"], abs=1e-6)


def test_words_are_cut_into_segments_as_by_omnisteval() -> None:
    from omnisteval.alignment import Word, align_sequences, process_alignment
    from omnisteval.tokenization import tokenize_words

    rng = Random(5)
    for _ in range(300):
        reference = [rng.choices(WORDS, k=rng.randint(1, 5)) for _ in range(4)]
        said = rng.choices(WORDS, k=rng.randint(0, 16))
        wanted = [Word(word.lower(), seq_id=n) for n, segment in enumerate(reference) for word in segment]
        heard = [Word(word, emission_cu=place) for place, word in enumerate(said)]
        both = [tokenize_words([words], None)[0] for words in (wanted, heard)]
        owners = {word.emission_cu: word.seq_id for word in process_alignment(*align_sequences(*both, False), False)}
        assert soft_segments(reference, said) == [owners.get(place) for place in range(len(said))]


def test_words_are_cut_into_segments_as_by_mweralign() -> None:
    for case in json.loads(Path(__file__).with_name("mweralign.json").read_text("utf-8")):
        owners = [number for number, text in enumerate(case["hypothesis"]) for _ in text.split()]
        said = " ".join(case["hypothesis"]).split()
        assert edit_segments([text.split() for text in case["reference"]], said) == owners


# ---- by hand -----------------------------------------------------------------------------------------------


def test_a_lag_is_behind_words_at_an_even_pace() -> None:
    # Ideal: 0 and 1 s into each segment of 2 s. The second segment begins at 2 s.
    found = stream_counts(
        stream((1, 1.5, " one two", ""), (4, 5, " three four", "")), spoken((0, 2, "one two"), (2, 4, "three four"))
    ).lags
    assert found["long_laal"] == (0.5, 2.0)  # (1 - 0 + 1 - 1) / 2; the word at the end of the segment is the last
    assert found["stream_laal"] == (0.5, 2.0)
    assert found["long_yaal"] == (0.5,)  # words at or after the end of the recording do not count
    assert found["long_laal_ca"] == (1.0, 3.0)


def test_yaal_counts_words_after_their_segment_but_laal_stops_at_the_first() -> None:
    found = stream_counts(stream((5, 5, " one", ""), (6, 6, " two", "")), spoken((0, 2, "one two"), (9, 10, "x"))).lags
    assert found["long_laal"] == (5.0,)
    assert found["long_yaal"] == ((5 + 6 - 1) / 2,)


def test_more_words_than_the_reference_has_do_not_make_a_lag_smaller() -> None:
    few, many = (
        stream_counts(stream((1, 1, text, "")), spoken((0, 2, "one two"))).lags["long_yaal"][0]
        for text in (" one two", " one two two two")
    )
    assert (few, many) == (0.5, 0.25)  # the pace is 1 s and 0.5 s: the longer of both texts spreads over the segment


def test_times_after_speech_count_to_the_next_text_and_to_the_last_final_word() -> None:
    reference = spoken((0, 2, "one"), (2.2, 4, "two"), (6, 8, "three"), (10, 11, "four"), (12, 13, "five"))
    counts = stream_counts(
        stream(
            (3, 3.1, " one", "two"),
            (4, 4.5, "", "two"),  # the next text after the end at 4 s
            (5, 5.5, " two", ""),
            (7, 7.5, " three", ""),  # final before the end at 8 s
            (14, 14.5, " five", ""),
        ),
        reference,
    )
    assert counts.utterances == 4  # a gap of 0.2 s is no pause
    assert counts.to_partial == (0.5, 0.0, 1.5)
    assert counts.to_final == (1.5, 0.0, 1.5)
    rates = counts.percentiles()
    assert (rates["time_to_final_p50"], rates["time_to_final_p95"]) == (1.5, float("inf"))  # "four" never came


def test_erasure_counts_the_words_that_disappear_from_the_display() -> None:
    counts = stream_counts(
        stream((1, 1, "", "one too three"), (2, 2, " one", "two three"), (3, 3, " two", ""), (4, 4, "", "")), spoken()
    )
    assert (counts.erased, counts.final) == (3, 2)  # "too three", then "three"


def test_punctuation_joins_the_word_before_it_and_leaves_its_time() -> None:
    words = final_words(stream((1, 1, " one", ""), (2, 2, ". Two", ""), (3, 3, "fold 你", ""), (4, 4, "好", "")))
    assert [(word.text, word.at) for word in words] == [("one.", 1), ("Twofold", 3), ("你", 3), ("好", 4)]
    assert stream_counts(stream((1, 1, "", "one"), (2, 2, " one", "."), (3, 3, ".", "")), spoken()).erased == 0


def test_a_fast_trace_has_the_times_of_a_live_stream() -> None:
    # Chunks of 1 s take 0.5, 2.0 and 0.1 s: the third waits for the second. The last call takes 0.4 s.
    trace = stream(
        (1, 0.5, " one", ""), (2, 2.5, " two", ""), (3, 2.6, " three", ""), (3, 3.0, " four", ""),
        pace="fast", at=3.0, elapsed=3.0, chunk_s=1.0, service_s=[0.5, 2.0, 0.1], compute_s=3.0,
    )  # fmt: skip
    assert live_times(trace) == pytest.approx([1.5, 4.0, 4.1, 4.5])
    assert live_times(stream((1, 0.5, " one", ""), pace="fast")) is None
    assert "long_yaal_ca" not in stream_counts(stream((1, 0.5, " a", ""), pace="fast"), spoken((0, 9, "a"))).lags


def test_counts_are_the_same_after_json_and_add_up() -> None:
    counts = stream_counts(*made_up(Random(3), "call"))
    assert (
        StreamCounts.from_dict(json.loads(json.dumps({name: getattr(counts, name) for name in counts.__slots__})))
        == counts
    )
    twice = counts + counts
    assert (twice.final, twice.to_final) == (2 * counts.final, 2 * counts.to_final)
    assert twice.lags["long_yaal"] == 2 * counts.lags["long_yaal"]


def test_a_share_of_final_words_is_false() -> None:
    rates = score_trace(stream((1, 1, " one too", "")), spoken((0, 2, "one two"))).rates()
    assert rates["false_commit_rate"] is None  # a trace without segments has no text
    segment = {"kind": "segment", "at": 1.0, "elapsed": 1.0, "text": "one too", "language": "en", "start_time": 0.0}
    segment |= {"end_time": 1.0, "is_final": True, "confidence": 1.0}
    trace = stream((1, 1, " one too", ""))
    scored = score_trace(Trace(trace.header, (segment, *trace.events)), spoken((0, 2, "one two")))
    assert scored.rates()["false_commit_rate"] == 0.5
